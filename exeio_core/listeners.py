"""Where exeio listens: a TCP port, with TLS or without, and a Unix socket; clients of both share the same limits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Callable, List, Optional

from .errors import ExeioError, StartupError
from .files import whole_path
from .http_server import Application, Crowd, HttpServer, Observer
from .settings import ServeOptions

if TYPE_CHECKING:
    import ssl


class Listeners:
    """The servers of one exeio; they listen from its making on and answer from `start` to `stop`."""

    def __init__(self, options: ServeOptions, application: Application, log_error: Callable[[str], None],
                 observe: Observer) -> None:
        """Raises StartupError, and nothing listens then."""
        self._options = options
        self.unix_path = None if options.unix_socket is None else whole_path(options.unix_socket)
        #: The TCP server; None where there is only the Unix socket.
        self.tcp: Optional[HttpServer] = None
        self._unix: Optional[HttpServer] = None
        crowd = Crowd()
        try:
            if options.port is not None:
                tls = self._context()
                self.tcp = HttpServer(options.host, options.port, application, crowd=crowd, tls=tls,
                                      log_error=log_error, observe=observe)
            if self.unix_path is not None:
                self._unix = HttpServer("", 0, application, crowd=crowd, unix_path=self.unix_path,
                                        log_error=log_error, observe=observe)
        except ExeioError as error:
            self.close()
            raise StartupError(error.message) from None

    @property
    def address(self) -> str:
        """"host:port", or "unix:/path" where there is no TCP; for the SYSTEM lines of logs."""
        return self._all()[0].address

    @property
    def urls(self) -> List[str]:
        """The URLs of the API, "https://127.0.0.1:8080" and "unix:/path", that of TCP first."""
        found = []
        if self.tcp is not None:
            found.append(f"{'http' if self.tcp.tls is None else 'https'}://{self.tcp.address}")
        if self._unix is not None:
            found.append(self._unix.address)
        return found

    def read_certificate(self) -> bool:
        """Read the certificate anew, for new connections; returns whether there is one. Raises Failed: all stays."""
        if self.tcp is None or self.tcp.tls is None:
            return False
        self.tcp.tls = self._context()
        return True

    def start(self) -> None:
        """Begin to answer; raises RuntimeError."""
        for server in self._all():
            server.start("exeio-http" if server is self.tcp else "exeio-unix")

    def stop(self, timeout: float) -> None:
        """Let requests finish for `timeout` seconds at most, in all, and end all connections."""
        deadline = time.monotonic() + timeout
        for server in self._all():
            server.shutdown()
            server.server_close()
        for server in self._all():
            server.stop(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Listen no more; for a start that fails before `start`."""
        for server in self._all():
            server.server_close()

    def _all(self) -> List[HttpServer]:
        return [server for server in (self.tcp, self._unix) if server is not None]

    def _context(self) -> Optional[ssl.SSLContext]:
        if self._options.tls_cert is None:
            return None
        from . import tls  # the import of ssl takes 10 ms

        return tls.make_context(self._options.tls_cert, self._options.tls_key)
