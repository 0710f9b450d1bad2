"""What passes between the HTTP server and the application, and how a reply is written in bytes."""

from __future__ import annotations

import email.utils
import functools
import http
import json
import time
from typing import Callable, Iterator, NamedTuple, Optional, Protocol, Tuple

from .errors import Conflict, ExeioError, Invalid, NotFound, Unavailable
from .http_head import Head, HttpError

_PHRASES = {int(status): status.phrase.encode("ascii") for status in http.HTTPStatus}
_STATUS_OF = ((Invalid, 400), (NotFound, 404), (Conflict, 409), (Unavailable, 503))
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# The Date field of this second, and the second.
_date: Tuple[int, bytes] = (0, b"")


class Request(NamedTuple):
    """One request, complete."""

    head: Head
    body: bytes  # empty where the endpoint takes none
    client: str  # "127.0.0.1:5000", "[::1]:5000", "unix"


class Reply(NamedTuple):
    """One answer. The blocks of `stream`, if there is one, are the body; an empty block is not sent, it only asks
    whether the client is still there.

    A stream that has a `close()` gets that called when no more blocks are wanted: at its end, when the client has
    gone, and when the server stops. In that last case another thread calls it first, to wake the one that waits in
    `__next__`; a generator, which cannot be closed from outside while it runs, is closed after its next block.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Tuple[Tuple[str, str], ...] = ()
    stream: Optional[Iterator[bytes]] = None
    close: bool = False  # end the connection
    after: Optional[Callable[[], None]] = None  # run once the answer was sent, or could not be


class Endpoint(Protocol):
    """What a request is meant for. Calling it may raise HttpError or any ExeioError."""

    @property
    def has_key(self) -> bool:
        """Whether the client has shown a key: others may have to make room for new clients at any time."""

    @property
    def takes_body(self) -> bool:
        """Whether the body is read for it; otherwise a body is read and dropped."""

    @property
    def follows(self) -> bool:
        """Whether it counts as one of the followers, which have no time limit, instead of a connection."""

    def __call__(self, request: Request) -> Reply: ...


class Application(Protocol):
    """Who answers the requests."""

    def admit(self, head: Head, client: str) -> Endpoint:
        """The endpoint for a request whose body was not read yet; raises HttpError (key, route, method)."""


#: Told of each answer: the head (None: it was not readable), the endpoint (None: it was not admitted), the status, and
#: the seconds since the head was complete.
Observer = Callable[[Optional[Head], Optional[Endpoint], int, float], None]


def failure(status: int, message: str, headers: Tuple[Tuple[str, str], ...] = (), close: bool = False) -> Reply:
    """A Reply with the body of all failures: `success` false and the message."""
    body = json.dumps({"success": False, "message": message}).encode("ascii")
    return Reply(status, body, headers=headers, close=close)


def reply_to(error: Exception) -> Reply:
    """The Reply that tells the client of an HttpError or ExeioError."""
    if isinstance(error, HttpError):
        return failure(error.status, error.message, error.headers, error.close)
    if not isinstance(error, ExeioError):
        return failure(500, "internal error")
    status = next((status for kind, status in _STATUS_OF if isinstance(error, kind)), 500)
    return failure(status, error.message)


def opening(reply: Reply, length: Optional[int], connection: bytes) -> bytes:
    """The head of the answer, with its empty line. Raises ValueError for headers with control characters.

    `length` of the body in bytes, None: it comes in chunks or ends with the connection; `connection`: the lines of
    Connection and Transfer-Encoding, whole, or nothing.
    """
    global _date
    now = int(time.time())
    date = _date
    if date[0] != now:
        date = _date = (now, email.utils.formatdate(now, usegmt=True).encode("ascii"))
    start = _start(reply.status, reply.content_type, reply.headers)
    if length is None or reply.status in (204, 304):
        return b"%b%b\r\n%b\r\n" % (start, date[1], connection)
    return b"%b%b\r\nContent-Length: %d\r\n%b\r\n" % (start, date[1], length, connection)


@functools.lru_cache(maxsize=64)
def _start(status: int, content_type: str, headers: Tuple[Tuple[str, str], ...]) -> bytes:
    """All that is the same for all answers of a kind: nothing is for caches, and no log is to be taken for HTML."""
    lines = [
        ("Content-Type", content_type),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *headers,
    ]
    for name, value in lines:
        if not (name + value).isprintable():
            raise ValueError(f"the header {name!r} holds control characters")
    text = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return b"HTTP/1.1 %d %b\r\n%bDate: " % (status, _PHRASES.get(status, b"Status"), text.encode("latin-1"))
