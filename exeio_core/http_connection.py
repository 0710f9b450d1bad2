"""One connection, from its first byte to its last: requests read within their deadlines, and answered."""

from __future__ import annotations

import socketserver
import time
from typing import TYPE_CHECKING, Callable, Iterator, Optional, Protocol, cast

from .errors import ExeioError, Failed, trace
from .http_head import MAX_HEAD, Head, HttpError, check_beginning, parse_head
from .http_limits import Crowd, Guest
from .http_message import (
    CONTINUE,
    LAST_CHUNK,
    Application,
    Endpoint,
    Observer,
    Reply,
    Request,
    failure,
    opening,
    reply_to,
)
from .http_wire import Gone, Late, NotTls, Wire

if TYPE_CHECKING:
    from ssl import SSLContext

_KEEP_ALIVE = b"Connection: keep-alive\r\n"
_CLOSE = b"Connection: close\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Host(Protocol):
    """What a connection needs of its server."""

    application: Application
    crowd: Crowd
    closing: bool
    tls: Optional[SSLContext]
    log_error: Callable[[str], None]
    observe: Optional[Observer]


class Connection(socketserver.BaseRequestHandler):
    """Serves the requests of one Guest, which is its `request`; its making is its whole life."""

    def setup(self) -> None:
        """Take what each request needs out of the server."""
        self._guest = cast(Guest, self.request)
        self._host = cast(Host, self.server)
        self._crowd = self._host.crowd
        self._limits = self._crowd.limits
        self._wire = Wire(self._guest.sock)
        self._rest = b""  # received, not used yet
        self._unread = 0  # bytes of the present request's body that were not used yet

    def handle(self) -> None:
        """Serve until the client, a deadline, an error or the server ends it."""
        deadline = time.monotonic() + self._limits.head_seconds
        try:
            context = self._host.tls
            if context is not None:
                self._start_tls(context, deadline)
            going_on = self._serve_one(deadline)
            while going_on:
                going_on = self._serve_one(None)
        except (Gone, Late):
            pass

    def finish(self) -> None:
        """Leave before the socket is closed, so that nobody shuts down a number that was taken anew."""
        self._crowd.leave(self._guest)
        self._wire.close()

    def _start_tls(self, context: SSLContext, deadline: float) -> None:
        """Raises Gone, Late."""
        try:
            self._wire.start_tls(context, deadline)
        except NotTls:
            self._send_reply(failure(400, "this port speaks HTTPS, not HTTP"), None, False, False)
            self._linger()
            raise Gone from None
        if not self._crowd.exchange(self._guest, self._wire.sock):
            raise Gone
        self._wire.shake_hands(deadline)

    # One request

    def _serve_one(self, deadline: Optional[float]) -> bool:
        """Read a request and answer it. True: the connection goes on.

        `deadline` is that of the head; None: it counts from the head's first byte.
        """
        head: Optional[Head] = None
        endpoint: Optional[Endpoint] = None
        raw = b""
        try:
            raw = self._read_head(deadline)
            began = time.monotonic()
            head = parse_head(raw)
            self._unread = head.content_length
            endpoint = self._host.application.admit(head, self._guest.client)
            # Who shows no key may be turned out at any time: a few hundred of them would keep all others out.
            if endpoint.has_key and not self._crowd.heard(self._guest):
                raise Gone
            body = self._read_body(head, endpoint)
            if endpoint.follows and not self._crowd.follow(self._guest):
                raise HttpError(503, "too many clients are following already", (("Retry-After", "5"),))
            reply = endpoint(Request(head, body, self._guest.client))
        except (Gone, Late):
            raise
        except Exception as error:
            if head is None:
                began = time.monotonic()
            reply = self._reply_to(error, head)
        keep = head is not None and head.keep_alive and not (reply.close or self._host.closing)
        if endpoint is not None and endpoint.follows:
            keep = False  # its place among the connections may be taken by now
        if reply.stream is not None and not _chunks(head):
            keep = False  # only the end of the connection tells the end of the stream
        if self._unread:
            keep = self._skip_body() and keep
        # Also of one that was refused before it was taken apart: what a HEAD is answered with has no body.
        bodiless = head.method == "HEAD" if head is not None else (raw or self._rest).startswith(b"HEAD ")
        try:
            self._send_reply(reply, head, keep, bodiless)
        finally:
            if self._host.observe is not None or reply.after is not None:
                self._after(reply, head, endpoint, time.monotonic() - began)
        if keep:
            return self._crowd.waits(self._guest)
        if head is None or self._unread or self._rest:
            self._linger()
        return False

    def _reply_to(self, error: Exception, head: Optional[Head]) -> Reply:
        """The reply that tells of an error; what is exeio's own fault is logged, too."""
        # The raw target: it is ASCII without blanks, so that nobody writes lines of his own into a log.
        where = f"{head.method} {head.raw_target.partition(b'?')[0].decode('ascii')}" if head else "a request"
        if not isinstance(error, (HttpError, ExeioError)):
            self._host.log_error(f"{where} failed:\n{trace()}")
            return failure(500, "internal error; the log of the supervisor has the details")
        if isinstance(error, Failed):
            self._host.log_error(f"{where} failed: {error.message}")
        return reply_to(error)

    def _after(self, reply: Reply, head: Optional[Head], endpoint: Optional[Endpoint], seconds: float) -> None:
        try:
            if self._host.observe is not None:
                self._host.observe(head, endpoint, reply.status, seconds)
            if reply.after is not None:
                reply.after()
        except Exception:
            self._host.log_error(f"after an answer:\n{trace()}")

    # Reading

    def _read_head(self, deadline: Optional[float]) -> bytes:
        """The bytes of the next head, with its empty line. Raises HttpError, Gone, Late (nothing came)."""
        data = self._rest
        if not data:
            idle = self._limits.idle_seconds
            data = self._wire.receive_idle(idle) if deadline is None else self._wire.receive(deadline)
        if data[:1] == b"\r":
            deadline = deadline or time.monotonic() + self._limits.head_seconds
            data = self._skip_empty_line(data, deadline)
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end >= 4:
                self._rest = data[end:]
                return data[:end]
            deadline = deadline or time.monotonic() + self._limits.head_seconds
            self._rest = data
            check_beginning(data)
            try:
                data += self._wire.receive(deadline)
            except Late:
                raise HttpError(408, "the request was not complete in time", close=True) from None

    def _skip_empty_line(self, data: bytes, deadline: float) -> bytes:
        """RFC 9112, section 2.2: one empty line before a request is ignored."""
        while len(data) < 3 and b"\r\n".startswith(data[:2]):
            data += self._wire.receive(deadline)
        return data[2:] if data[:2] == b"\r\n" else data

    def _read_body(self, head: Head, endpoint: Endpoint) -> bytes:
        """The body of a request that was admitted; b"" where the endpoint takes none, and it is dropped."""
        length = head.content_length
        if not length:
            return b""
        if endpoint.takes_body:
            _check_content_type(head)
        if length > self._limits.body_bytes:
            raise HttpError(413, f"the body is larger than {self._limits.body_bytes} bytes")
        if head.expect_continue and not self._rest:
            self._send(CONTINUE)
        deadline = time.monotonic() + self._limits.body_seconds
        body = bytearray()
        data, self._rest = self._rest, b""
        while True:
            if endpoint.takes_body:
                body += data[: self._unread]
            if len(data) >= self._unread:
                break
            self._unread -= len(data)
            try:
                data = self._wire.receive(deadline)
            except Late:
                raise HttpError(408, "the body was not complete in time", close=True) from None
        self._rest = data[self._unread :]
        self._unread = 0
        return bytes(body)

    def _skip_body(self) -> bool:
        """Drop the body of a refused request if all of it is here; otherwise the connection cannot go on."""
        if len(self._rest) < self._unread:
            return False
        self._rest = self._rest[self._unread :]
        self._unread = 0
        return True

    # Sending

    def _send_reply(self, reply: Reply, head: Optional[Head], keep: bool, bodiless: bool) -> None:
        """Send an answer, or only its head. Raises Gone."""
        version = head.version if head else (1, 1)
        connection = _CLOSE if not keep else b"" if version == (1, 1) else _KEEP_ALIVE
        if reply.stream is not None:
            self._send_stream(reply, reply.stream, connection, _chunks(head), bodiless)
            return
        try:
            start = opening(reply, len(reply.body), connection)
        except ValueError:
            self._host.log_error(f"an answer could not be sent:\n{trace()}")
            reply = failure(500, "internal error; the log of the supervisor has the details")
            start = opening(reply, len(reply.body), connection)
        self._send(start if bodiless else start + reply.body)

    def _send_stream(
        self, reply: Reply, stream: Iterator[bytes], connection: bytes, chunked: bool, bodiless: bool
    ) -> None:
        """Send an answer whose body is a stream, and close that in any case. Raises Gone."""
        try:
            self._crowd.streams(self._guest, lambda: self._end_stream(stream))
            self._send(opening(reply, None, connection + _CHUNKED if chunked else _CLOSE))
            if bodiless:
                return
            while not self._host.closing:
                block = next(stream, None)
                if block is None:
                    break
                if block:
                    self._send(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
                elif len(self._rest) < MAX_HEAD:
                    self._rest += self._wire.look()  # to learn whether the client has left
            if chunked:
                self._send(LAST_CHUNK)
        except Gone:
            raise
        except Exception:
            # The head is sent: all that can be said is that the body does not end as it should.
            self._host.log_error(f"a stream broke off:\n{trace()}")
            raise Gone from None
        finally:
            self._crowd.streams(self._guest, None)
            self._end_stream(stream)

    def _end_stream(self, stream: Iterator[bytes]) -> None:
        """Close a stream that can be closed; called by its own thread, and by the one that stops the server."""
        try:
            getattr(stream, "close", _nothing)()
        except ValueError:
            pass  # a generator at work in the other thread, which closes it next
        except Exception:
            self._host.log_error(f"a stream did not close:\n{trace()}")

    def _send(self, data: bytes) -> None:
        """Send all of `data` in the time that its size allows. Raises Gone."""
        rest = self._wire.offer(data)
        if rest:
            self._crowd.stalls(self._guest)
            seconds = self._limits.write_seconds + len(rest) / self._limits.write_rate
            self._wire.send(rest, time.monotonic() + seconds)
            self._crowd.reads(self._guest)

    def _linger(self) -> None:
        """While the client reads why it was refused, it may be turned out for a new one."""
        if self._crowd.waits(self._guest):
            self._wire.linger(time.monotonic() + self._limits.linger_seconds)


def _chunks(head: Optional[Head]) -> bool:
    return head is not None and head.version == (1, 1)


def _check_content_type(head: Head) -> None:
    kind = head.fields.get(b"content-type", b"").partition(b";")[0].strip(b" \t").lower()
    if kind and kind != b"application/json":
        raise HttpError(415, "the Content-Type must be application/json")
    if head.fields.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
        raise HttpError(415, "the body must not be compressed")


def _nothing() -> None:
    pass
