"""One stream of a child on its way from the pipe to the log: read what there is, and drain it after the exit."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios

from .logfile import LogStream

_PIPE = 65536
_LARGE_PIPE = 262144
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)  # missing in 3.9
#: A user has a limited amount of pipe memory: a pipe is enlarged only after so many full reads in a row (100 MB
#: through it: 96 against 70 ms).
_FULL_READS = 3


class Reader:
    """Reads one pipe, whose end it is given non-blocking; used by one thread."""

    __slots__ = ("_full", "_size", "_stream", "fd", "open")

    def __init__(self, fd: int, stream: LogStream) -> None:
        self.fd = fd
        self.open = True  # until the end of the pipe: nobody has its other end any more
        self._stream = stream
        self._size = _PIPE
        self._full = 0

    def serve(self, event: int) -> None:
        """Do what `event` of poll(2) asks for. Nothing but a hang-up is the end, and need not be read."""
        if event == select.POLLHUP:
            self.open = False
        else:
            self.read()

    def read(self) -> int:
        """Log what the pipe has now, at most one block; returns how many bytes that was."""
        try:
            data = os.read(self.fd, self._size)
        except BlockingIOError:
            return 0
        if not data:
            self.open = False
            return 0
        self._stream.feed(data)
        self._full = self._full + 1 if len(data) == self._size else 0
        if self._full == _FULL_READS and self._size == _PIPE and set_pipe_size(self.fd, _LARGE_PIPE):
            self._size = _LARGE_PIPE
        return len(data)

    def drain(self) -> None:
        """Log what is in the pipe at this moment, and no more: a leftover may go on writing without an end."""
        left = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, b"\0\0\0\0"))[0]
        while self.open:
            got = self.read()
            left -= got
            if left <= 0 or not got:
                return

    def flush(self) -> None:
        """Log a last line that has no newline."""
        self._stream.close()


def set_pipe_size(fd: int, size: int) -> bool:
    """Set the capacity of a pipe in bytes; returns whether that was possible."""
    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, size)
        return True
    except OSError:
        return False  # not Linux, or the user's share of pipe memory is used up
