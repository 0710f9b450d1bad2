"""The kinds of values that fields and options take: each checks one, and describes itself to others.

A kind's `check` returns the value in its one stored form or raises `Invalid` with a sentence that names the
field and says what would be right. Nothing here knows which fields exist; `spec` has that table.
"""

from __future__ import annotations

import math
import re
import signal
from abc import ABC, abstractmethod
from types import MappingProxyType
from typing import Dict, List, Mapping, Optional, Tuple, Union

from .errors import Invalid

Number = Union[int, float]

# What exeio itself puts into, or keeps out of, the environment of every child.
RESERVED_ENV = ("EXEIO_RUN", "EXEIO_API_KEY")

# What `check_text` lets through, as the pattern of a JSON Schema.
_NO_NUL = "^[^\\u0000]*$"


def shown(value: object) -> str:
    """`value` as it may stand in a message: short, printable, without the content of lists and objects."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:39] + "…")
    if isinstance(value, int) and value.bit_length() > 64:  # str() of a huge int is slow, or refused
        return "a number that large"
    if isinstance(value, (int, float)):
        return str(value)
    return "a list" if isinstance(value, (list, tuple)) else "an object"


def whole(value: object) -> Optional[int]:
    """The integer that `value` is, or None; 5.0 is 5, as in JSON Schema, and a boolean is no number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def check_text(name: str, value: object, empty: bool = True) -> str:
    """A text that can be handed to the system: no NUL, no half of a surrogate pair; `empty` allows ""."""
    if not isinstance(value, str):
        hint = f'; write "{value}"' if isinstance(value, float) or whole(value) is not None else ""
        raise Invalid(f"{name} must be a text, not {shown(value)}{hint}", name)
    if not value and not empty:
        raise Invalid(f"{name} must not be empty", name)
    if "\0" in value:
        raise Invalid(f"{name} must not hold a NUL character", name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Invalid(f"{name} is not valid Unicode: it holds half of a surrogate pair", name) from error
    return value


def _signal_names() -> Dict[str, int]:
    """Every signal of this system by its name without SIG; of several names for one the usual is first."""
    names = {"CHLD": signal.SIGCHLD.value, "ABRT": signal.SIGABRT.value}
    if hasattr(signal, "SIGIO"):
        names["IO"] = signal.SIGIO.value
    names.update((member[3:], number.value) for member, number in sorted(signal.Signals.__members__.items()))
    low, high = names.get("RTMIN"), names.get("RTMAX")
    if low is not None and high is not None:
        for offset in range(1, high - low):  # written as kill(1) does: from the nearer end
            near_low = offset <= (high - low) // 2
            names[f"RTMIN+{offset}" if near_low else f"RTMAX-{high - low - offset}"] = low + offset
            names[f"RTMAX-{high - low - offset}" if near_low else f"RTMIN+{offset}"] = low + offset
    numbers = {int(valid) for valid in signal.valid_signals()}
    for each in numbers.difference(names.values()):  # those that Python has no name for
        names[str(each)] = each
    return names


_SIGNALS = _signal_names()
_SIGNAL_NAMES: Dict[int, str] = {}
for _name, _number in _SIGNALS.items():
    _SIGNAL_NAMES.setdefault(_number, _name)


def check_signal(value: object, field: str = "signal") -> str:
    """The usual name, without SIG, of a signal given by name ("HUP", "sighup") or number; else Invalid."""
    number = whole(value)
    if isinstance(value, str):
        text = value.strip().upper()
        name = text[3:] if text.startswith("SIG") else text
        number = _SIGNALS.get(name)
        if number is None and re.fullmatch("[0-9]{1,3}", name):
            number = int(name)
    if number is None or number not in _SIGNAL_NAMES:
        raise Invalid(
            f'{field} must be a signal of this system by name or number, such as "HUP" or 1, '
            f"not {shown(value)}",
            field,
        )
    return _SIGNAL_NAMES[number]


def signal_number(name: str) -> int:
    """The number of a signal named as `check_signal` returns it ("TERM", "RTMIN+3")."""
    return _SIGNALS[name]


def signal_name(number: int) -> str:
    """The name of a signal for people, with SIG ("SIGKILL"); "signal 99" for one without a name."""
    name = _SIGNAL_NAMES.get(number, "")
    return f"SIG{name}" if name and not name.isdigit() else f"signal {number}"


class Kind(ABC):
    """What one sort of field may hold. `option` is how the client takes it: flag, one, many or pairs."""

    option = "one"
    metavar = "TEXT"

    @abstractmethod
    def check(self, name: str, value: object) -> object:
        """The value in its stored form; raises Invalid naming `name`."""

    def schema(self) -> Dict[str, object]:
        """The JSON Schema (2020-12, as OpenAPI 3.1 uses it) of what `check` accepts."""
        return {"type": "string"}

    def from_text(self, text: str) -> object:
        """What the client sends for an option's `text`; a wrong one stays as it is, for `check` to name."""
        return text


class Text(Kind):
    """A text that is not empty."""

    def __init__(self, metavar: str = "TEXT") -> None:
        self.metavar = metavar

    def check(self, name: str, value: object) -> str:
        return check_text(name, value, empty=False)

    def schema(self) -> Dict[str, object]:
        return {"type": "string", "minLength": 1, "pattern": _NO_NUL}


class Flag(Kind):
    """true or false, and nothing that merely looks like it."""

    option = "flag"

    def check(self, name: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise Invalid(f"{name} must be true or false, not {shown(value)}", name)
        return value

    def schema(self) -> Dict[str, object]:
        return {"type": "boolean"}


class Integer(Kind):
    """A whole number from `low` to `high`, both included, or one of `also`; 5.0 counts as 5."""

    metavar = "N"

    def __init__(self, low: int, high: int, also: Tuple[int, ...] = ()) -> None:
        self.low, self.high, self.also = low, high, also

    def check(self, name: str, value: object) -> int:
        number = whole(value)
        if number is None or not (self.low <= number <= self.high or number in self.also):
            also = "".join(f"{extra} or " for extra in self.also)
            what = f"{also}a whole number from {self.low} to {self.high}"
            raise Invalid(f"{name} must be {what}, not {shown(value)}", name)
        return number

    def schema(self) -> Dict[str, object]:
        limits: Dict[str, object] = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return {"anyOf": [{"type": "integer", "enum": list(self.also)}, limits]} if self.also else limits

    def from_text(self, text: str) -> object:
        return int(text) if re.fullmatch("[+-]?[0-9]{1,18}", text) else text


class Seconds(Kind):
    """A number of seconds from `low` to `high`, fractions included.

    Whole ones are kept as int, so that 3600 is written as 3600 for those who read it as an integer.
    """

    metavar = "SECONDS"

    def __init__(self, low: Number, high: Number) -> None:
        self.low, self.high = low, high

    def check(self, name: str, value: object) -> Number:
        # The range also refuses infinity and NaN, and an int too large for a float before anyone converts it.
        if isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high:
            number = whole(value)
            return value if number is None else number
        limits = f"from {self.low} to {self.high}"
        raise Invalid(f"{name} must be a number of seconds {limits}, not {shown(value)}", name)

    def schema(self) -> Dict[str, object]:
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def from_text(self, text: str) -> object:
        try:
            number = float(text)
        except ValueError:
            return text
        return number if math.isfinite(number) else text


class Choice(Kind):
    """One of a few words."""

    metavar = "WORD"

    def __init__(self, *words: str) -> None:
        self.words = words

    def check(self, name: str, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            allowed = " or ".join(f'"{word}"' for word in self.words)
            raise Invalid(f"{name} must be {allowed}, not {shown(value)}", name)
        return value

    def schema(self) -> Dict[str, object]:
        return {"type": "string", "enum": list(self.words)}


class Texts(Kind):
    """A list of texts, empty ones included."""

    option = "many"

    def check(self, name: str, value: object) -> Tuple[str, ...]:
        if not isinstance(value, (list, tuple)):
            example = '["-m", "http.server"]'
            raise Invalid(f"{name} must be a list of texts, such as {example}, not {shown(value)}", name)
        try:
            return tuple(check_text(f"{name}[{place}]", item) for place, item in enumerate(value))
        except Invalid as error:
            raise Invalid(error.message, name) from error

    def schema(self) -> Dict[str, object]:
        return {"type": "array", "items": {"type": "string", "pattern": _NO_NUL}}


class ExitCodes(Kind):
    """A list of exit codes, at least one, in ascending order and each once."""

    metavar = "CODE[,CODE]"

    def check(self, name: str, value: object) -> Tuple[int, ...]:
        codes: List[Optional[int]] = []
        if isinstance(value, (list, tuple)):
            codes = [whole(code) for code in value]
        good = {code for code in codes if code is not None and 0 <= code <= 255}
        if not codes or not good.issuperset(codes):
            raise Invalid(f"{name} must be a list of exit codes from 0 to 255, such as [0, 3]", name)
        return tuple(sorted(good))

    def schema(self) -> Dict[str, object]:
        return {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 255}}

    def from_text(self, text: str) -> object:
        return [int(part) if re.fullmatch(" *[0-9]{1,3} *", part) else part for part in text.split(",")]


class Env(Kind):
    """Names and values for the environment; a value null removes the name. Messages never show a value."""

    option = "pairs"
    metavar = "NAME=VALUE"

    def check(self, name: str, value: object) -> Mapping[str, Optional[str]]:
        if not isinstance(value, (dict, MappingProxyType)):
            raise Invalid(f'{name} must be an object of names and texts, such as {{"PORT": "80"}}', name)
        for key, text in value.items():
            if not isinstance(key, str) or not key or "=" in key:
                raise Invalid(f'{name}: {shown(key)} is no name; it must not be empty or hold "="', name)
            owner = f"{name}: the value of {shown(key)}"
            if text is not None and not isinstance(text, str):
                raise Invalid(f"{owner} must be a text, or null to remove it", name)
            try:
                check_text(f"{name}: the name {shown(key)}", key)
                check_text(owner, text or "")
            except Invalid as error:
                raise Invalid(error.message, name) from error
            if key in RESERVED_ENV:
                raise Invalid(f"{name} must not set {key}: exeio decides about it itself", name)
        return MappingProxyType(dict(value))

    def schema(self) -> Dict[str, object]:
        names = {"pattern": "^[^=\\u0000]+$", "not": {"enum": list(RESERVED_ENV)}}
        values = {"type": ["string", "null"], "pattern": _NO_NUL}
        return {"type": "object", "propertyNames": names, "additionalProperties": values}

    def from_text(self, text: str) -> object:
        key, equals, value = text.partition("=")
        return (key, value if equals else None)


class Signal(Kind):
    """A signal of this system, by name or number."""

    metavar = "SIGNAL"

    def check(self, name: str, value: object) -> str:
        return check_signal(value, name)

    def schema(self) -> Dict[str, object]:
        # The shape alone: which of them there are is the system's affair.
        shape = "^([A-Za-z]+([+-]?[0-9]+)?|([Ss][Ii][Gg])?[0-9]{1,3})$"
        highest = max(_SIGNAL_NAMES)
        return {"type": ["string", "integer"], "pattern": shape, "minimum": 1, "maximum": highest,
                "examples": ["TERM", "SIGINT", 15]}


class Octal(Kind):
    """A file mode mask as octal text. A number is refused, since 27 and octal 27 look alike in JSON."""

    metavar = "OCTAL"
    _pattern = "0?[0-7]{1,3}"

    def check(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(self._pattern, value):
            raise Invalid(f'{name} must be octal text, such as "027", up to "777", not {shown(value)}', name)
        return value

    def schema(self) -> Dict[str, object]:
        return {"type": "string", "pattern": f"^{self._pattern}$"}


class Account(Kind):
    """A user or group: its name, or its number as text or number (kept as text)."""

    metavar = "NAME"
    _highest = 2**32 - 2  # the last one, (uid_t)-1, means "no change" to the system

    def check(self, name: str, value: object) -> str:
        number = whole(value)
        text = str(number) if number is not None and 0 <= number <= self._highest else value
        good = isinstance(text, str) and not re.fullmatch("-[0-9]+", text)
        if isinstance(text, str) and re.fullmatch("[0-9]+", text):
            good = len(text) <= 10 and int(text) <= self._highest
        if not good:
            limits = f"from 0 to {self._highest}"
            raise Invalid(f"{name} must be a name or an id {limits}, not {shown(value)}", name)
        return check_text(name, text, empty=False)

    def schema(self) -> Dict[str, object]:
        return {"type": ["string", "integer"], "minLength": 1, "pattern": "^(?!-[0-9]+$)[^\\u0000]*$",
                "minimum": 0, "maximum": self._highest}
