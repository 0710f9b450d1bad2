"""A wake-up call for a thread that waits in poll or epoll: a descriptor that becomes readable."""

from __future__ import annotations

import os
import sys


class Wake:
    """One descriptor (an eventfd where there is one, else a pipe) that `set` makes readable until `clear`.

    `set` may be called by any thread at any time, also from a signal handler, and never blocks. Who waits calls `clear`
    first and looks at what it may have been called for afterwards.
    """

    __slots__ = ("_called", "_write", "fd")

    def __init__(self) -> None:
        """Raises OSError (EMFILE)."""
        self._called = False
        if sys.platform == "linux" and sys.version_info >= (3, 10):
            self.fd = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.fd, self._write = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write, False)

    def set(self) -> None:
        """Make the descriptor readable."""
        if self._called:
            return  # it is, or whoever has just read it has yet to look
        self._called = True
        try:
            os.write(self._write, b"\1\0\0\0\0\0\0\0" if self._write == self.fd else b"\1")
        except BlockingIOError:
            pass  # it is readable many times over already

    def clear(self) -> None:
        """Take the call: the descriptor is not readable any more until the next `set`."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            pass
        self._called = False

    def close(self) -> None:
        """Close the descriptor; nobody may call `set` any more."""
        os.close(self.fd)
        if self._write != self.fd:
            os.close(self._write)
