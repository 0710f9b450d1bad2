"""The HTTP server: one listening socket, and the threads that accept its connections and serve them."""

from __future__ import annotations

import contextlib
import errno
import http.server
import os
import select
import socket
import socketserver
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Optional, Tuple, cast

from .errors import StartupError
from .http_connection import Connection
from .http_head import Head, HttpError, parse_head
from .http_limits import Crowd, Guest, Limits
from .http_listen import BACKLOG, listen_tcp, listen_unix
from .http_message import Application, Endpoint, Observer, Reply, Request, failure, opening
from .http_threads import Workers
from .wake import Wake

if TYPE_CHECKING:
    import ssl

__all__ = [
    "Application",
    "Crowd",
    "Endpoint",
    "Head",
    "HttpError",
    "HttpServer",
    "Limits",
    "Observer",
    "Reply",
    "Request",
    "failure",
    "parse_head",
]

# Errors of accept(2) that are about this machine, not about the one connection.
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# How long to leave the clients in the queue when not even the spare descriptor helps.
_SHORTAGE_SECONDS = 0.2
# What a thread may take to accept who has just come, and one that is turned out to close.
_MOMENT_SECONDS = 0.005
# Linux wakes one of the threads that wait in accept(2), and shutdown(2) wakes them all. Elsewhere they take turns to
# poll for the listening socket and for the end.
_TURNS = not sys.platform.startswith("linux")
# A shortage is worth one line in that many seconds.
_COMPLAIN_SECONDS = 60.0

_Accepted = Tuple[socket.socket, Any]


def _ignore(_text: str) -> None:
    pass


# `bench.py http`, 2 cores, Python 3.11, against a plain ThreadingHTTPServer that sends without delay: /info on 8
# connections that are kept 3.2 times as many answers, a connection for each request 3.7 times.
class HttpServer(http.server.ThreadingHTTPServer):
    """Listens from its making on; accepts from `start` to `stop`.

    `crowd` counts the connections and has the limits: give the same to two servers that share them. `log_error`
    gets a text (of several lines, for a traceback) for each fault of exeio itself, nothing for what clients do.
    `observe` is called after each answer. `tls` may be replaced at any time; it holds for new connections.
    """

    # The class that socketserver expects has settings; these say the same as what listen_tcp does.
    request_queue_size = BACKLOG
    daemon_threads = False

    def __init__(
        self,
        host: str,
        port: int,
        application: Application,
        *,
        crowd: Optional[Crowd] = None,
        unix_path: Optional[str] = None,
        tls: Optional[ssl.SSLContext] = None,
        log_error: Callable[[str], None] = _ignore,
        observe: Optional[Observer] = None,
    ) -> None:
        """Listen on `host` and `port`, or only on the Unix socket `unix_path`. Raises StartupError."""
        self.application = application
        self.crowd = crowd or Crowd()
        self.tls = tls
        self.log_error = log_error
        self.observe = observe
        self.closing = False
        self._unix_path = unix_path
        listener = listen_unix(unix_path) if unix_path is not None else listen_tcp(host, port)
        try:
            listener.setblocking(not _TURNS)
            self._wake = Wake()
            self._spare: Optional[int] = os.open(os.devnull, os.O_RDONLY)
        except OSError as error:
            listener.close()
            raise StartupError(f"cannot listen: {error.strerror}; raise the limit of open files") from error
        # Not TCPServer's: it would make a socket of its own, and HTTPServer's would ask the DNS for its name.
        socketserver.BaseServer.__init__(self, listener.getsockname(), Connection)
        self.socket = listener
        self.address_family = listener.family
        self.server_name = host
        self.server_port = 0 if unix_path is not None else listener.getsockname()[1]
        self._inode = _inode(unix_path) if unix_path is not None else None
        self._complained = -_COMPLAIN_SECONDS
        self._stopping = False
        self._closed = False
        self._count = 0  # changes when a client has been accepted
        self._ended = threading.Event()  # for `serve_forever`
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._poll.register(self._wake.fd, select.POLLIN)
        # Held by the one that waits, where only one can; and by the one that uses the spare descriptor.
        self._turn = threading.Lock()
        self._workers = Workers(
            self._accept, lambda accepted: self.process_request(*accepted), self._no_thread, log_error)

    @property
    def address(self) -> str:
        """Where it listens: "127.0.0.1:8080", "[::1]:8080", "unix:/run/exeio.sock"."""
        if self._unix_path is not None:
            return f"unix:{self._unix_path}"
        return _text_of(self.server_address)

    def start(self, name: str = "exeio-http") -> None:
        """Accept connections in threads called `name` and a number. Raises RuntimeError (no thread)."""
        self._workers.start(name)

    def stop(self, timeout: float) -> bool:
        """Stop accepting, let requests finish for `timeout` seconds at most, and end all connections.

        True: all threads have ended. False: an endpoint is still at work; its thread ends when that does.
        May be called twice.
        """
        deadline = time.monotonic() + timeout
        self.shutdown()
        self.server_close()
        self.crowd.close(self, timeout)
        # Whoever is left was cut off now, and needs a moment to notice.
        return self._workers.join(max(deadline - time.monotonic(), 0) + 1)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Start, and return after `shutdown`; wakes up for nothing else, so there is no `poll_interval`."""
        self.start()
        self._ended.wait()

    def shutdown(self) -> None:
        """Stop accepting for good."""
        self._stopping = True
        self._workers.end(self._wake_up)
        self._ended.set()

    def server_close(self) -> None:
        """Close the listening socket and remove the Unix socket's file, if it is still this one's."""
        if self._closed:
            return
        self._closed = True
        self.socket.close()
        if self._inode is not None and self._unix_path is not None and _inode(self._unix_path) == self._inode:
            os.unlink(self._unix_path)
        self._wake.close()
        if self._spare is not None:
            os.close(self._spare)

    def _wake_up(self) -> None:
        """Let accept(2) return in all threads."""
        if self._closed:
            return
        self._wake.set()
        if not _TURNS:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> Optional[_Accepted]:
        """Wait for the next connection. None: there will be none any more."""
        while not self._stopping:
            try:
                if not _TURNS:
                    accepted = self.socket.accept()
                    self._count += 1
                    return accepted
                with self._turn:
                    self._poll.poll()
                    accepted = self.socket.accept()
                accepted[0].setblocking(True)  # some systems hand down what the listening socket is
                return accepted
            except OSError as error:  # or it was about that one connection (ECONNABORTED), or nobody is there
                if error.errno in _SHORTAGE and not self._stopping:
                    rescued = self._turn_away(error)
                    if rescued is not None:
                        return rescued
        return None

    def _turn_away(self, error: OSError) -> Optional[_Accepted]:
        """There is no descriptor for a client: another one makes room, or it is told so by means of the spare one.

        Returns it where it has one after all. Left in the queue it would be met again at once, for ever.
        """
        with self._turn:
            self._poll.poll()  # accept(2) does not wait for a client to say that it has no descriptor for one
            # Nobody needs to make room while other threads take clients: accept(2) has kept descriptors for them.
            count = self._count
            time.sleep(_MOMENT_SECONDS)
            if self._stopping or self._count != count or not self._poll.poll(0):
                return None
            if self.crowd.make_room():
                time.sleep(_MOMENT_SECONDS)
                return None  # its thread may be the one that accepts next
            self._complain(error.strerror or str(error))
            if self._spare is not None:
                os.close(self._spare)
                self._spare = None
            accepted: Optional[_Accepted] = None
            try:
                accepted = self.socket.accept()
            except OSError:
                time.sleep(_SHORTAGE_SECONDS)
            if self._take_spare():
                return accepted
            if accepted is not None:
                self._refuse(accepted[0])
                self._take_spare()
            return None

    def _take_spare(self) -> bool:
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY)
        except OSError:  # somebody else took it: the next one finds no room, and waits
            return False
        return True

    def _complain(self, reason: str) -> None:
        now = time.monotonic()
        if now >= self._complained + _COMPLAIN_SECONDS:
            self._complained = now
            self.log_error(f"connections are refused: {reason}")

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end, or refuse it: too many connections."""
        client = "unix" if self._unix_path is not None else _text_of(client_address)
        guest = Guest(request, client, self)
        if self.crowd.enter(guest):
            self.finish_request(cast(Any, guest), client)
        else:
            self._refuse(request)

    def _no_thread(self, accepted: _Accepted, reason: str) -> None:
        self._complain(reason)
        self._refuse(accepted[0])

    def _refuse(self, sock: socket.socket) -> None:
        """Say 503 if it can be said at once, and close. For TLS there is no time to say anything."""
        reply = failure(503, "too many connections", (("Retry-After", "1"),))
        try:
            if self.tls is None:
                sock.setblocking(False)
                sock.send(opening(reply, len(reply.body), b"Connection: close\r\n") + reply.body)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(65536)  # what was sent already must be read, or closing resets the connection
        except OSError:
            pass
        finally:
            sock.close()


def _text_of(address: Tuple[Any, ...]) -> str:
    host, port = str(address[0]), address[1]
    if ":" not in host:
        return f"{host}:{port}"
    if host.startswith("::ffff:") and "." in host:  # IPv4 on a socket for both
        return f"{host[7:]}:{port}"
    return f"[{host}]:{port}"


def _inode(path: str) -> Optional[Tuple[int, int]]:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
