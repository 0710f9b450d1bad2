"""JSON as clients send it: what is read, and the one sentence for each thing that is not."""

import json

import pytest

from exeio_core.errors import Invalid
from exeio_core.payload import query_flag, read_object, refuse_rest, take_flag, take_seconds


@pytest.mark.parametrize("body", [b"", b" ", b"\r\n\t ", b"{}", b" {} \n"])
def test_no_body_is_an_empty_object(body):
    assert read_object(body) == {}


@pytest.mark.parametrize("body, wanted", [
    (b'{"a": 1, "b": [1.5, true, null, "x"], "c": {"a": {}}}',
     {"a": 1, "b": [1.5, True, None, "x"], "c": {"a": {}}}),
    ('{"a": "\u00e4\u20ac\U0001f600"}'.encode(), {"a": "\u00e4\u20ac\U0001f600"}),
    (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),      # both halves of a pair
    (b'{"a": "\\u0000", "": 1}', {"a": "\0", "": 1}),
    (b'{"a": "\\\\ud800"}', {"a": "\\ud800"}),              # an escaped backslash, no surrogate
    (b'{"a": {"x": 1}, "b": {"x": 2}}', {"a": {"x": 1}, "b": {"x": 2}}),  # one name in two objects
    (b'{"a": 1e300, "b": -0.0}', {"a": 1e300, "b": -0.0}),
])
def test_what_is_read(body, wanted):
    assert read_object(body) == wanted


@pytest.mark.parametrize("body, words", [
    (b'{"a": 1', "line 1, column 8"),
    (b'{\n"a": 1,\n"b" 2}', "line 3, column 5"),
    (b'{"a": 1} x', "not valid JSON"),
    (b"{'a': 1}", "not valid JSON"),
    (b'{"a": 1,}', "not valid JSON"),
    (b'{"a": "\n"}', "control character"),
    (b"[]", "must be a JSON object"),
    (b'"text"', "must be a JSON object"),
    (b"null", "must be a JSON object"),
    (b"5", "must be a JSON object"),
    (b'{"a": 1, "a": 1}', "'a' is given twice"),
    (b'{"a": {"b": 1, "c": 2, "b": 3}}', "'b' is given twice"),
    (b'{"a": 1, "\\u0061": 2}', "'a' is given twice"),
    (b'{"a": NaN}', "NaN is not a number"),
    (b'{"a": Infinity}', "Infinity is not a number"),
    (b'{"a": -Infinity}', "-Infinity is not a number"),
    (b'{"a": "\\ud83d"}', "surrogate"),
    (b'{"a": "\\ude00\\ud83d"}', "surrogate"),
    (b'{"\\uDFFF": 1}', "surrogate"),
    (b'{"a": ["\\uD83D x"]}', "surrogate"),
    (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
    (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),                # a surrogate in UTF-8 itself
    (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),            # RFC 8259: no byte order mark
    (b"\xff\xfe{\0", "not UTF-8"),
], ids=repr)
def test_what_is_refused(body, words):
    with pytest.raises(Invalid) as refusal:
        read_object(body)
    assert words in refusal.value.message
    assert "\n" not in refusal.value.message
    assert len(refusal.value.message) < 300


@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_refused(opening, closing):
    with pytest.raises(Invalid, match="nested too deeply"):
        read_object(b'{"a":' + opening * 100_000 + b"1" + closing * 100_000 + b"}")


def test_a_number_of_too_many_digits_never_fails_otherwise():
    """Python 3.11 refuses to convert it, and of the others it takes no time that would matter at 1 MiB."""
    try:
        value = read_object(b'{"a": ' + b"9" * 5000 + b"}")
    except Invalid as refusal:
        assert "too long" in refusal.message
    else:
        assert value["a"] == 10**5000 - 1


def test_a_long_wrong_value_is_not_repeated_in_full():
    with pytest.raises(Invalid) as refusal:
        read_object(json.dumps("x" * 100_000).encode())
    assert len(refusal.value.message) < 300


# Fields


def test_a_flag_is_taken_out():
    body = {"eof": True, "other": 1}
    assert take_flag(body, "eof", False) is True and body == {"other": 1}
    assert take_flag(body, "eof", False) is False
    assert take_flag({"eof": None}, "eof", True) is True, "null means the default"
    assert take_flag({"eof": False}, "eof", True) is False


@pytest.mark.parametrize("value", [0, 1, "true", "", [], {}, 0.0])
def test_what_only_looks_like_a_flag_is_refused(value):
    with pytest.raises(Invalid, match="eof must be true or false") as refusal:
        take_flag({"eof": value}, "eof", False)
    assert refusal.value.field == "eof"


@pytest.mark.parametrize("value, seconds", [(0, 0.0), (2, 2.0), (0.5, 0.5), (600, 600.0), (None, 0.0)])
def test_seconds_are_taken_out(value, seconds):
    body = {"wait_seconds": value}
    assert take_seconds(body, "wait_seconds", 600.0) == seconds and body == {}
    assert take_seconds(body, "wait_seconds", 600.0) == 0.0


@pytest.mark.parametrize("value", [-1, -0.001, 600.1, 10**400, True, "2", [], float("nan"), float("inf")])
def test_what_are_no_seconds_is_refused(value):
    with pytest.raises(Invalid, match="wait_seconds must be a number of seconds from 0 to 600, not ") as refusal:
        take_seconds({"wait_seconds": value}, "wait_seconds", 600.0)
    assert refusal.value.field == "wait_seconds"
    assert len(refusal.value.message) < 300


def test_what_is_left_of_a_body_is_refused_by_name():
    refuse_rest({}, ("signal",))
    with pytest.raises(Invalid) as refusal:
        refuse_rest({"sginal": "HUP"}, ("signal", "group"))
    assert refusal.value.field == "sginal"
    assert "'sginal'" in refusal.value.message and "signal, group" in refusal.value.message
    with pytest.raises(Invalid, match="it takes none"):
        refuse_rest({"x": 1}, ())


@pytest.mark.parametrize("text, value", [
    ("true", True), ("TRUE", True), ("1", True), ("yes", True), ("", True),
    ("false", False), ("False", False), ("0", False), ("no", False),
])
def test_a_flag_of_the_query(text, value):
    assert query_flag({"purge": text}, "purge", not value) is value


def test_a_flag_that_the_query_lacks():
    assert query_flag({}, "purge", False) is False
    assert query_flag({}, "wait", True) is True


@pytest.mark.parametrize("text", ["2", "maybe", " true", "null"])
def test_a_flag_of_the_query_that_is_none(text):
    with pytest.raises(Invalid, match="purge must be true or false") as refusal:
        query_flag({"purge": text}, "purge", False)
    assert refusal.value.field == "purge"
