"""The head of an HTTP/1.x request: bytes in, a checked Head out, as strict as RFC 9112 and stricter."""

from __future__ import annotations

import re
import string
from typing import Dict, List, NamedTuple, Tuple

MAX_REQUEST_LINE = 8 * 1024
MAX_HEAD = 32 * 1024
MAX_FIELDS = 100

_TOKEN = (string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode()
# RFC 3986, section 3.3: pchar and "/".
_PATH = (string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@/%").encode()
# What browsers leave as it is in a query (WHATWG URL): more than RFC 3986 has, and none of it separates anything.
_QUERY = _PATH + b"?[]{}|^`\\"
# Everything a head may hold: visible ASCII, space, HTAB, obs-text, and CR LF (whose pairs are checked apart).
_HEAD_BYTES = b"\t\r\n" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
# RFC 3986, section 3.2: host and port, without user information.
_AUTHORITY = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]+)(.*)", re.DOTALL)
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_HEX = {(a + b).encode(): bytes([int(a + b, 16)]) for a in string.hexdigits for b in string.hexdigits}
# Fields that say one thing: a second line would let two readers see two different requests.
_SINGLE = frozenset(
    (
        b"host", b"content-length", b"content-type", b"content-encoding", b"authorization", b"exeio-api-key",
        b"last-event-id",
    )
)

# Heads seen lately, by their bytes: a client with keep-alive repeats itself (the 374 bytes of a browser, Python 3.9:
# 89,000 → 3,700,000 heads/s). Bounded in number and in size.
_SEEN_HEADS = 64
_SEEN_SIZE = 2 * 1024
_seen: Dict[bytes, Head] = {}


class HttpError(Exception):
    """A request answered with `status` (4xx, 5xx) and one sentence; `close`: the connection ends with it."""

    def __init__(
        self, status: int, message: str, headers: Tuple[Tuple[str, str], ...] = (), close: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
        self.close = close


class Head(NamedTuple):
    """A checked head. Shared between requests with the same bytes: nobody changes its dicts."""

    method: str
    path: str  # percent-decoded; "*" only for OPTIONS
    query: Dict[str, str]  # decoded as forms are: "+" is a space
    fields: Dict[bytes, bytes]  # names in lower case, values stripped, lists of several lines joined by ", "
    keep_alive: bool
    content_length: int
    expect_continue: bool
    raw_target: bytes
    version: Tuple[int, int]


def parse_head(raw: bytes) -> Head:
    """The Head in `raw`, which ends with the first empty line (CRLF CRLF).

    Raises HttpError with `close` set: 400 malformed, 414 request line over 8 KiB, 417 unknown expectation, 431 over
    32 KiB or 100 fields, 501 transfer encodings and CONNECT, 505 another version.
    """
    head = _seen.get(raw)
    if head is None:
        head = _parse(raw)
        if len(raw) <= _SEEN_SIZE:
            if len(_seen) >= _SEEN_HEADS:
                _seen.clear()
            _seen[raw] = head
    return head


def check_beginning(data: bytes) -> None:
    """Refuse `data`, the beginning of a head without its end yet, if no end can make it right.

    So that a client which will never send CRLF CRLF (HTTP/0.9, bare LF, TLS on a plain port) has its answer at once.
    Raises HttpError as parse_head does.
    """
    line, end, _ = data.partition(b"\r\n")
    if len(line) > MAX_REQUEST_LINE:
        raise _too_long()
    if len(data) >= MAX_HEAD:
        raise _too_large()
    pairs = data.count(b"\r\n")
    if data.count(b"\n") != pairs or data.count(b"\r") - data.endswith(b"\r") != pairs:
        raise _bad("lines must end with CR LF, with no CR or LF elsewhere")
    if data.translate(None, _HEAD_BYTES):
        raise _bad("the request holds control characters")
    if end:
        _request_line(line)


def _bad(message: str) -> HttpError:
    return HttpError(400, message, close=True)


def _too_long() -> HttpError:
    return HttpError(414, f"the request line is longer than {MAX_REQUEST_LINE} bytes", close=True)


def _too_large() -> HttpError:
    return HttpError(431, f"the request's head is larger than {MAX_HEAD} bytes", close=True)


def _parse(raw: bytes) -> Head:
    lines = raw.split(b"\r\n")
    if len(lines[0]) > MAX_REQUEST_LINE:
        raise _too_long()
    if len(raw) > MAX_HEAD:
        raise _too_large()
    ends = len(lines) - 1
    if raw.count(b"\n") != ends or raw.count(b"\r") != ends:
        raise _bad("lines must end with CR LF, with no CR or LF elsewhere")
    if raw.translate(None, _HEAD_BYTES):
        raise _bad("the request holds control characters")
    if raw.find(b"\r\n\r\n") != len(raw) - 4:
        raise _bad("the head must end with its first empty line")
    method, target, version = _request_line(lines[0])
    fields = _fields(lines[1:-2])
    if b"transfer-encoding" in fields:
        raise HttpError(501, "transfer encodings are not supported: send the body with Content-Length", close=True)
    path, query = _target(method, target)
    host = fields.get(b"host")
    if host is None:
        if version == (1, 1):
            raise _bad("a request of HTTP/1.1 must have a Host field")
    elif not _AUTHORITY.fullmatch(host):
        raise _bad("the Host field must be a host, with or without a port")
    connection = fields.get(b"connection", b"").lower()
    options = [option.strip(b" \t") for option in connection.split(b",")] if connection else []
    keep_alive = b"close" not in options if version == (1, 1) else b"keep-alive" in options and b"close" not in options
    return Head(
        method.decode("ascii"), path, query, fields, keep_alive, _content_length(fields),
        _expects_continue(fields, version), target, version,
    )


def _request_line(line: bytes) -> Tuple[bytes, bytes, Tuple[int, int]]:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise _bad("the request line must be a method, a target and HTTP/1.1, with one space between them")
    method, target, protocol = parts
    if protocol == b"HTTP/1.1":
        version = (1, 1)
    elif protocol == b"HTTP/1.0":
        version = (1, 0)
    elif _VERSION.fullmatch(protocol):
        raise HttpError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here", close=True)
    else:
        raise _bad("the request line must end with HTTP/1.1 or HTTP/1.0")
    if not method or method.translate(None, _TOKEN):
        raise _bad("the method must be a word like GET")
    return method, target, version


def _fields(lines: List[bytes]) -> Dict[bytes, bytes]:
    if len(lines) > MAX_FIELDS:
        raise HttpError(431, f"the request has more than {MAX_FIELDS} header fields", close=True)
    fields: Dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.translate(None, _TOKEN):
            if line[:1] in (b" ", b"\t"):
                raise _bad("a header field must not be folded over several lines")
            raise _bad("a header field must be a name without blanks, a colon, and a value")
        name = name.lower()
        value = value.strip(b" \t")
        if name in fields:
            if name in _SINGLE:
                raise _bad(f"the header field {name.decode('ascii')} must not be given twice")
            value = fields[name] + b", " + value
        fields[name] = value
    return fields


def _content_length(fields: Dict[bytes, bytes]) -> int:
    """The length in bytes; one that is far too long for any body is cut to 10**18, which is as wrong."""
    value = fields.get(b"content-length")
    if value is None:
        return 0
    if not value.isdigit():
        raise _bad("Content-Length must be one decimal number")
    digits = value.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= 18 else 10**18


def _expects_continue(fields: Dict[bytes, bytes], version: Tuple[int, int]) -> bool:
    value = fields.get(b"expect")
    if value is None or version == (1, 0):  # RFC 9110, section 10.1.1: not for HTTP/1.0
        return False
    if value.lower() != b"100-continue":
        raise HttpError(417, "the only expectation that can be met is 100-continue", close=True)
    return True


def _target(method: bytes, target: bytes) -> Tuple[str, Dict[str, str]]:
    """The decoded path and query of a target in origin, absolute or asterisk form (RFC 9112, section 3.2)."""
    if method == b"CONNECT":
        raise HttpError(501, "this is not a proxy: CONNECT is not supported", close=True)
    if target == b"*" and method == b"OPTIONS":
        return "*", {}
    if target[:1] != b"/":
        match = _ABSOLUTE.fullmatch(target)
        if match is None or not _AUTHORITY.fullmatch(match.group(1)) or match.group(1)[:1] == b":":
            raise _bad("the target must be a path that begins with a slash, or an http URL")
        target = match.group(2)
        if target[:1] != b"/":
            if method == b"OPTIONS" and not target:
                return "*", {}
            target = b"/" + target
    path, mark, query = target.partition(b"?")
    if path.translate(None, _PATH):
        raise _bad("the path holds a character that must be percent-encoded")
    if b"%" in path:
        if b"%2f" in path.lower():
            raise _bad("the path must not hold an encoded slash")
        text = _decoded(path, "path")
        if any(char < " " or char == "\x7f" for char in text):
            raise _bad("the path must not hold control characters")
    else:
        text = path.decode("ascii")
    return text, _query(query) if mark else {}


def _query(raw: bytes) -> Dict[str, str]:
    if raw.translate(None, _QUERY):
        raise _bad("the query holds a character that must be percent-encoded")
    query: Dict[str, str] = {}
    for pair in raw.split(b"&"):
        if not pair:
            continue
        name, _, value = pair.replace(b"+", b" ").partition(b"=")
        key = _decoded(name, "query")
        if not key:
            raise _bad("a query parameter must have a name")
        if key in query:
            raise _bad(f"the query parameter {key!r} must not be given twice")
        query[key] = _decoded(value, "query")
    return query


def _decoded(raw: bytes, where: str) -> str:
    if b"%" in raw:
        first, *rest = raw.split(b"%")
        pieces = [first]
        for piece in rest:
            byte = _HEX.get(piece[:2])
            if byte is None:
                raise _bad(f"the {where} holds a % that is not followed by two hexadecimal digits")
            pieces += (byte, piece[2:])
        raw = b"".join(pieces)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad(f"the {where} is not UTF-8") from None
