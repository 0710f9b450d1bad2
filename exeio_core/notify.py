"""sd_notify(3): tells the service manager that started exeio how it is and, where asked, that its threads live."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Iterator, MutableMapping, Optional, Protocol, Sequence

#: Seconds that a message may wait for a manager that does not read; then it is lost.
_SEND_LIMIT = 1.0


class Watched(Protocol):
    """A thread that comes round when it is woken."""

    last_round: float  # on the monotonic clock

    def alive(self) -> bool:
        """Return whether the thread runs."""

    def wake(self) -> None:
        """Make it come round."""


class Notifier:
    """The notify socket of `$NOTIFY_SOCKET`; without one, all of this does nothing."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Takes the variables of the protocol out of `environ`, since they are meant for this process alone."""
        self._address = _address(environ.pop("NOTIFY_SOCKET", ""))
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(os.getpid()))
        #: Seconds within which the manager wants to hear WATCHDOG=1 again and again; None if it does not ask.
        self.watchdog_seconds = int(usec) / 1e6 if usec.isdigit() and int(usec) and pid == str(os.getpid()) else None
        self._socket: Optional[socket.socket] = None
        if self._address is not None:
            # Made now: later there may be no descriptor left, and a heartbeat must not fail for that.
            with contextlib.suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.settimeout(_SEND_LIMIT)
        # Guards the two fields below and the order of what is sent about them. A leaf; under it a message is sent.
        self._lock = threading.Lock()
        self._reloads = 0
        self._stopping = False
        self._closed = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def ready(self, status: str) -> None:
        """Say that exeio listens; `status` is what `systemctl status` shows."""
        self._send("READY=1", _status(status))

    @contextlib.contextmanager
    def reloading(self, status: str) -> Iterator[None]:
        """Say that a reload goes on, and at its end that exeio is ready again (not before the last of several ends)."""
        with self._lock:
            self._reloads += 1
            if not self._stopping:
                now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                self._send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=Reloading")
        try:
            yield
        finally:
            with self._lock:
                self._reloads -= 1
                if not self._reloads and not self._stopping:
                    self.ready(status)

    def stopping(self, seconds: float) -> None:
        """Say that exeio stops, and that this may take so many seconds, whatever the manager's own limit is."""
        with self._lock:
            self._stopping = True
            self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", "STATUS=Stopping all processes")

    def beat(self, watched: Sequence[Watched]) -> None:
        """Begin to send WATCHDOG=1, if it was asked for, while all of `watched` live and come round in time."""
        if self._socket is None or self.watchdog_seconds is None:
            return
        # A third: one beat may be missed without harm, two in a row may not.
        period = self.watchdog_seconds / 3
        self._thread = threading.Thread(target=self._beat, args=(watched, period), name="exeio-notify", daemon=True)
        with contextlib.suppress(RuntimeError):  # no room for a thread: then the manager starts exeio anew
            self._thread.start()

    def close(self, timeout: float) -> None:
        """End the beat, waiting for its thread at most `timeout` seconds, and close the socket."""
        self._closed.set()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join(timeout)
        if self._socket is not None:
            self._socket.close()

    def _beat(self, watched: Sequence[Watched], period: float) -> None:
        woken = _wake(watched)
        self._send("WATCHDOG=1")
        while not self._closed.wait(period):
            if all(one.alive() and one.last_round >= woken for one in watched):
                self._send("WATCHDOG=1")
                woken = _wake(watched)

    def _send(self, *lines: str) -> None:
        if self._socket is not None and self._address is not None:
            with contextlib.suppress(OSError):  # the manager is gone, or does not listen: no reason not to run
                self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def _wake(watched: Sequence[Watched]) -> float:
    now = time.monotonic()
    for one in watched:
        one.wake()
    return now


def _status(text: str) -> str:
    return "STATUS=" + text.replace("\n", " ")


def _address(text: str) -> Optional[bytes]:
    """Return the address in $NOTIFY_SOCKET: a path, or "@name" of an abstract socket; other families are not ours."""
    if text.startswith("@"):
        return b"\0" + os.fsencode(text[1:])
    return os.fsencode(text) if text.startswith("/") else None
