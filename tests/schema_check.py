"""A small checker of JSON Schema 2020-12, for the keywords that the description of the API uses; no others."""

import re
from typing import Any, Dict, List, Tuple

_ABOUT = {"description", "examples", "default", "format"}
_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "number": (int, float),
          "integer": (int, float)}


def resolve(document: Dict[str, Any], reference: str) -> Any:
    """What "#/components/…" points to."""
    found: Any = document
    for part in reference[2:].split("/"):
        found = found[part]
    return found


def faults(value: Any, schema: Dict[str, Any], document: Dict[str, Any], where: str = "$") -> List[str]:
    """What is wrong with a value, nothing if it is valid; AssertionError for a keyword that is not known here."""
    if "$ref" in schema:
        return faults(value, resolve(document, schema["$ref"]), document, where)
    found: List[str] = []
    for keyword, rule in schema.items():
        if keyword in _ABOUT or keyword in ("then", "additionalProperties"):
            continue
        check = _KEYWORDS.get(keyword)
        assert check is not None, f"{where}: the keyword {keyword} is not known"
        found += check(value, rule, schema, (document, where))
    return found


def undescribed(value: Any, schema: Dict[str, Any], document: Dict[str, Any], where: str = "$") -> List[str]:
    """The members of an answer, also deep in it, that its schema does not name."""
    while "$ref" in schema:
        schema = resolve(document, schema["$ref"])
    if isinstance(value, list) and "items" in schema:
        return [one for each in value for one in undescribed(each, schema["items"], document, f"{where}[]")]
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    found = []
    for name, member in value.items():
        known = schema["properties"].get(name)
        inside = f"{where}.{name}"
        found += [inside] if known is None else undescribed(member, known, document, inside)
    return found


Place = Tuple[Dict[str, Any], str]


def _say(right: bool, place: Place, text: str) -> List[str]:
    return [] if right else [f"{place[1]}: {text}"]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind]) and (kind != "integer" or float(value).is_integer())


def _type(value, rule, schema, place):
    return _say(any(_is(value, kind) for kind in ([rule] if isinstance(rule, str) else rule)), place, f"is no {rule}")


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _enum(value, rule, schema, place):
    return _say(any(_same(value, one) for one in rule), place, f"is none of {rule}")


def _pattern(value, rule, schema, place):
    # JSON Schema's patterns are those of ECMA 262, where $ is the very end.
    return _say(not isinstance(value, str) or bool(re.search(rule.replace("$", r"\Z"), value)), place, f"is not {rule}")


def _properties(value, rule, schema, place):
    document, where = place
    if not isinstance(value, dict):
        return []
    known = [name for name in value if name in rule]
    return [one for name in known for one in faults(value[name], rule[name], document, f"{where}.{name}")]


def _all_properties(value, schema, place):
    rule = schema.get("additionalProperties", True)
    if not isinstance(value, dict) or rule is True:
        return []
    document, where = place
    others = [name for name in value if name not in schema.get("properties", {})]
    if rule is False:
        return [f"{where}: {name} is not allowed" for name in others]
    return [one for name in others for one in faults(value[name], rule, document, f"{where}.{name}")]


def _object(value, rule, schema, place):
    return _type(value, rule, schema, place) + _all_properties(value, schema, place)


def _required(value, rule, schema, place):
    return _say(not isinstance(value, dict) or set(rule) <= set(value), place, f"lacks one of {rule}")


def _property_names(value, rule, schema, place):
    return [one for name in value for one in faults(name, rule, place[0], f"{place[1]}: the name {name!r}")] \
        if isinstance(value, dict) else []


def _items(value, rule, schema, place):
    return [one for number, each in enumerate(value) for one in faults(each, rule, place[0], f"{place[1]}[{number}]")] \
        if isinstance(value, list) else []


def _any_of(value, rule, schema, place):
    return _say(any(not faults(value, each, place[0]) for each in rule), place, "is nothing of anyOf")


def _if(value, rule, schema, place):
    return faults(value, schema["then"], *place) if not faults(value, rule, *place) else []


_KEYWORDS = {
    "type": _object,
    "enum": _enum,
    "const": lambda value, rule, schema, place: _enum(value, [rule], schema, place),
    "pattern": _pattern,
    "minLength": lambda value, rule, schema, place: _say(
        not isinstance(value, str) or len(value) >= rule, place, "is too short"),
    "minimum": lambda value, rule, schema, place: _say(not _number(value) or value >= rule, place, f"is below {rule}"),
    "maximum": lambda value, rule, schema, place: _say(not _number(value) or value <= rule, place, f"is above {rule}"),
    "minItems": lambda value, rule, schema, place: _say(
        not isinstance(value, list) or len(value) >= rule, place, "has too few items"),
    "properties": _properties,
    "required": _required,
    "propertyNames": _property_names,
    "items": _items,
    "anyOf": _any_of,
    "not": lambda value, rule, schema, place: _say(bool(faults(value, rule, place[0])), place, f"is {rule}"),
    "if": _if,
}
