"""One stream of a child on its way from the pipe to the log: read what there is, and drain it after the exit."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import termios
from typing import List, Optional, Tuple

from .logfile import LogStream
from .pipes import Held

_PIPE = 65536
_LARGE_PIPE = 262144
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)  # missing in 3.9
#: A user has a limited amount of pipe memory: a pipe is enlarged only after so many full reads in a row (100 MB
#: through it: 96 against 70 ms).
_FULL_READS = 3


#: What wakes a reader through its own pipe: bytes that no child knows, which the reader takes out again. A descriptor
#: for that would be copied, and closed, at each spawn (with two more for each of 500: 60 us of an `/add`).
#: No text holds the first of them, so that none is kept back for it.
_CALL = b"\xff" + os.urandom(15)


class Reader:
    """Reads one pipe, whose end it is given non-blocking; for one thread, but for `quiet` and `call`."""

    __slots__ = ("_called", "_full", "_held", "_rest", "_size", "_stream", "_waits", "fd", "open", "released")

    def __init__(self, fd: int, held: Optional[Held], stream: LogStream) -> None:
        """`held` keeps the pipe open until `release`; None: `fd` does that itself."""
        self.fd = fd
        self.open = True  # until the end of the pipe: nobody has its other end any more
        self._held = held
        self.released = False
        self._waits = False
        self._called = False  # a call is in the pipe, or is just being put there
        self._rest = b""  # what may be the begin of a call
        self._stream = stream
        self._size = _PIPE
        self._full = 0

    def register(self, poll: select.poll) -> None:
        """Have `poll`, which is for `wait`, tell of what is to be read and of calls."""
        poll.register(self.fd, select.POLLIN)
        if self._held is not None:
            poll.register(self._held.wake.fd, select.POLLIN)

    def wait(self, poll: select.poll) -> List[Tuple[int, int]]:
        """Return what `poll` returns, but for calls."""
        self._waits = True
        try:
            ready = poll.poll()
        finally:
            self._waits = False
        if self._held is not None:
            self._held.wake.clear()
            ready = [one for one in ready if one[0] != self._held.wake.fd]
        return ready

    def call(self) -> None:
        """Wake the thread that reads, or have it look around before it waits; never blocks.

        For one caller at a time, and not while `release` is under way. To be repeated until it was heard: somebody else
        may read it out of the pipe, as `cat /proc/PID/fd/1` does.
        """
        if self._held is not None:
            self._held.wake.set()
            return
        if self._called and (_filled(self.fd) or not self._waits):
            return  # it is on its way
        self._called = True
        try:
            if self.released:
                fd = os.open(f"/proc/self/fd/{self.fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    os.write(fd, _CALL)
                finally:
                    os.close(fd)
            else:
                os.write(self.fd, _CALL)
        except OSError:
            self._called = False  # the pipe is full: then there is something to read, and it looks around

    def quiet(self) -> bool:
        """Return whether all that is, or was, in the pipe at this moment is in the log; any thread may ask.

        The pipe is looked at first: its reader waits again only when it has logged what it took out.
        """
        return not _filled(self.fd) and self._waits and not (self._rest or self._stream.partial())

    def release(self) -> None:
        """Let the pipe end when nobody else has its other end."""
        if self._held is not None:
            self._held.release()
            self.released = True
        elif not self.released:
            with contextlib.suppress(OSError):  # without a descriptor it is tried again at the next look
                fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.dup2(fd, self.fd, inheritable=False)
                os.close(fd)
                self.released = True

    def close(self) -> None:
        """Close the pipe."""
        if self._held is not None:
            self._held.close()
        os.close(self.fd)

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
        output = self._without_call(data) if self._called or self._rest else data
        if output:
            self._stream.feed(output)
        self._full = self._full + 1 if len(data) == self._size else 0
        if self._full == _FULL_READS and self._size == _PIPE and set_pipe_size(self.fd, _LARGE_PIPE):
            self._size = _LARGE_PIPE
        return len(data)

    def _without_call(self, data: bytes) -> bytes:
        """Return the output of the child that is in what was read; what may be half a call is kept back."""
        data = self._rest + data
        self._rest = b""
        before, call, behind = data.partition(_CALL)
        if call:
            self._called = False  # from here on one who calls is heard again
            return before + behind
        for size in range(min(len(_CALL) - 1, len(data)), 0, -1):
            if self._called and data.endswith(_CALL[:size]):
                self._rest = data[-size:]
                return data[:-size]
        return data

    def drain(self) -> None:
        """Log what is in the pipe at this moment, and no more: a leftover may go on writing without an end."""
        left = _filled(self.fd)
        while self.open and left > 0:
            got = self.read()
            if not got:
                return
            left -= got

    def flush(self) -> None:
        """Log a last line that has no newline."""
        if self._rest and not _filled(self.fd):
            self._stream.feed(self._rest)  # no call has come behind it
            self._rest = b""
        self._stream.close()


def _filled(fd: int) -> int:
    """Return how many bytes are in a pipe."""
    found: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0]
    return found


def set_pipe_size(fd: int, size: int) -> bool:
    """Set the capacity of a pipe in bytes; returns whether that was possible."""
    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, size)
        return True
    except OSError:
        return False  # not Linux, or the user's share of pipe memory is used up
