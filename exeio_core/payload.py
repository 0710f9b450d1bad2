"""JSON as clients send it: read strictly, and what is read checked with a sentence that names the field."""

from __future__ import annotations

import json
from typing import Dict, List, Mapping, NoReturn, Optional, Tuple

from .errors import Invalid
from .values import shown

#: Seconds a client may ask a start to be watched for.
LONGEST_WAIT = 600.0


def read_object(body: bytes) -> Dict[str, object]:
    """Return the JSON object in `body`, {} for an empty one (RFC 8259, stricter).

    Raises Invalid for anything else, duplicate names, NaN and Infinity, lone surrogates, invalid UTF-8, deep nesting.
    """
    if not body.strip():
        return {}
    try:
        value = _DECODER.decode(body.decode("utf-8"))
        # Lone surrogates come from escapes alone, and cannot be encoded.
        if b"\\u" in body or b"\\U" in body:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Invalid("the body is not valid JSON: it holds half of a surrogate pair") from None
    except UnicodeDecodeError as error:
        raise Invalid(f"the body is not valid JSON: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Invalid(f"the body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise Invalid("the body is nested too deeply") from None
    except ValueError:  # an integer of more digits than Python converts
        raise Invalid("the body holds a number that is too long") from None
    if not isinstance(value, dict):
        raise Invalid(f"the body must be a JSON object, not {shown(value)}")
    return value


def _unique(pairs: List[Tuple[str, object]]) -> Dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid(f"{shown(twice)} is given twice in the body", twice)
    return found


def _no_constant(text: str) -> NoReturn:
    raise Invalid(f"the body is not valid JSON: {text} is not a number there")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def take_flag(values: Dict[str, object], name: str, default: bool) -> bool:
    """Take the boolean `name` out of `values`; raises Invalid."""
    value = values.pop(name, None)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Invalid(f"{name} must be true or false, not {shown(value)}", name)
    return value


def take_seconds(values: Dict[str, object], name: str, highest: float) -> float:
    """Take the number of seconds `name` out of `values`, 0 if it is not there; raises Invalid."""
    value = values.pop(name, None)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= highest:
        raise Invalid(f"{name} must be a number of seconds from 0 to {highest:g}, not {shown(value)}", name)
    return float(value)


def refuse_rest(values: Mapping[str, object], known: Tuple[str, ...]) -> None:
    """Raise Invalid if anything is left of a body whose fields have been taken."""
    for name in values:
        those = f"the fields are {', '.join(known)}" if known else "it takes none"
        raise Invalid(f"there is no field {shown(name)} here; {those}", name)


def query_flag(query: Mapping[str, str], name: str, default: bool) -> bool:
    """Return the parameter `name` as a boolean; raises Invalid."""
    value = query.get(name)
    if value is None:
        return default
    if value.lower() in ("true", "1", "yes", ""):
        return True
    if value.lower() in ("false", "0", "no"):
        return False
    raise Invalid(f"{name} must be true or false, not {shown(value)}", name)


def query_number(query: Mapping[str, str], name: str, lowest: int, highest: int) -> Optional[int]:
    """Return the parameter `name` as a whole number, None where it is not given; raises Invalid."""
    value = query.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20 and lowest <= int(value) <= highest):
        raise Invalid(f"{name} must be a whole number from {lowest} to {highest}, not {shown(value)}", name)
    return int(value)
