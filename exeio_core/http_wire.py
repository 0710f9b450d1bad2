"""A connected socket with deadlines: bytes in and out, plain or through TLS, and its orderly end."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Dict, Optional, Type, Union, cast

if TYPE_CHECKING:
    from ssl import SSLContext, SSLSocket

# What TLS waits for where a plain socket would just wait: it may have to read in order to write, and the reverse.
_TLS_WAITS: Dict[Type[OSError], int] = {}
try:
    import ssl
except ImportError:  # a Python built without it serves plain HTTP
    pass
else:
    _TLS_WAITS = {ssl.SSLWantReadError: select.POLLIN, ssl.SSLWantWriteError: select.POLLOUT}

_BLOCK = 64 * 1024
_TLS_HANDSHAKE = b"\x16"
# What a refused client may still send while it is to read why, in bytes, before the connection is cut.
_LINGER_BYTES = 4 * 1024 * 1024


class Gone(Exception):
    """The client has left, was turned out, or reads too slowly: there is nothing more to be said to it."""


class Late(Exception):
    """The deadline passed before the client said anything more."""


class NotTls(Exception):
    """The client speaks something else where TLS was to begin."""


class Wire:
    """Used by one thread; others may call shutdown(2) on `sock`. Deadlines are times of time.monotonic().

    A plain socket blocks in one place alone, where the next request of an idle client is waited for; else it is asked
    not to, and poll has the deadline. Python's own timeouts take a poll and two ioctl(2) more for each read and write
    (8 connections: 21,000 → 30,000 requests/s).
    """

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is one that blocks."""
        self.sock: Union[socket.socket, SSLSocket] = sock
        self._tls = False
        self._idle_seconds: Optional[float] = None  # as told to the kernel
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._polled = select.POLLIN

    def receive(self, deadline: float) -> bytes:
        """Some bytes, at least one. Raises Late; Gone at the end of what the client sends."""
        if not self._tls:  # which may have bytes that the socket has no more
            self._wait(select.POLLIN, deadline)
        while True:
            try:
                data = self._received()
            except OSError as error:
                self._wait(_lacked(error, select.POLLIN), deadline)
                if self._tls and self._has_ended():
                    raise Gone from None
            else:
                if not data:
                    raise Gone
                return data

    def receive_idle(self, seconds: float) -> bytes:
        """As `receive`, within `seconds`; best where these are always the same: the kernel is told but once."""
        if self._tls or (seconds != self._idle_seconds and not self._told(seconds)):
            return self.receive(time.monotonic() + seconds)
        try:
            data = self.sock.recv(_BLOCK)
        except BlockingIOError:
            raise Late from None
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        return data

    def look(self) -> bytes:
        """What is there already, maybe nothing. Raises Gone."""
        try:
            data = self._received()
        except OSError as error:
            _lacked(error, select.POLLIN)
            return b""
        if not data:
            raise Gone
        return data

    def offer(self, data: bytes) -> Optional[memoryview]:
        """Send what can be sent without waiting: None, that was all of `data`, or what is left. Raises Gone."""
        if self._tls:
            return memoryview(data)
        try:
            sent = self.sock.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise Gone from None
        return memoryview(data)[sent:] if sent < len(data) else None

    def send(self, data: memoryview, deadline: float) -> None:
        """Send all of `data`. Raises Gone, also when the client does not read it in time."""
        while data:
            try:
                if self._tls:
                    data = data[self.sock.send(data[:_BLOCK]) :]
                else:
                    data = data[self.sock.send(data, socket.MSG_DONTWAIT) :]
            except OSError as error:
                try:
                    self._wait(_lacked(error, select.POLLOUT), deadline)
                except Late:
                    raise Gone from None

    def start_tls(self, context: SSLContext, deadline: float) -> None:
        """Take `sock` for TLS: `shake_hands` comes next. Raises Late, Gone, NotTls (nothing was read or sent)."""
        self._wait(select.POLLIN, deadline)
        try:
            first = self.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            raise Gone from None
        if not first:
            raise Gone
        if first != _TLS_HANDSHAKE:
            raise NotTls
        try:
            self.sock.setblocking(False)
            self.sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):
            raise Gone from None
        self._tls = True

    def shake_hands(self, deadline: float) -> None:
        """The TLS handshake. Raises Late, Gone."""
        while True:
            try:
                return cast("SSLSocket", self.sock).do_handshake()
            except OSError as error:
                self._wait(_lacked(error, select.POLLIN), deadline)

    def linger(self, deadline: float) -> None:
        """Send nothing more, and drop what the client sends until it has read the answer and closes.

        Closing at once would reset the connection of a client that is still sending, and its answer would be lost.
        """
        self._end_tls()
        left = _LINGER_BYTES
        with contextlib.suppress(OSError, Gone, Late):
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
            while left > 0:
                left -= len(self.receive(deadline))

    def close(self) -> None:
        """Close the socket at once."""
        self._end_tls()
        self.sock.close()

    def _end_tls(self) -> None:
        """Send close_notify, which tells that nothing was cut off, without waiting for the client's."""
        if self._tls:
            self._tls = False
            with contextlib.suppress(OSError, ValueError):
                cast("SSLSocket", self.sock).unwrap()

    def _received(self) -> bytes:
        """Without waiting. Raises OSError."""
        return self.sock.recv(_BLOCK) if self._tls else self.sock.recv(_BLOCK, socket.MSG_DONTWAIT)

    def _told(self, seconds: float) -> bool:
        """Let reads that block end after `seconds`. False: this system does not know how."""
        try:
            # A struct timeval: two numbers of 32 or 64 bits.
            size = len(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
            value = struct.pack("qq" if size == 16 else "ii", int(seconds), int(seconds % 1 * 1e6))
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        except OSError:
            return False
        self._idle_seconds = seconds
        return True

    def _has_ended(self) -> bool:
        """Whether the client said all it will ever say: TLS would answer such an end with an alert."""
        try:
            return not socket.socket.recv(self.sock, 1, socket.MSG_PEEK)
        except OSError as error:
            return not isinstance(error, BlockingIOError)

    def _wait(self, event: int, deadline: float) -> None:
        """Wait for POLLIN or POLLOUT. Raises Late."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise Late
        if event != self._polled:
            self._poll.modify(self.sock, event)
            self._polled = event
        if not self._poll.poll(left * 1000):
            raise Late


def _lacked(error: OSError, event: int) -> int:
    """What to poll for after `error`: `event`, or what TLS says. Raises Gone where no waiting helps."""
    if isinstance(error, BlockingIOError):
        return event
    lacked = _TLS_WAITS.get(type(error))
    if lacked is None:
        raise Gone from None
    return lacked
