"""The stdin of a child: what waits to be written to it, for a pipe that takes 4 KiB at a time."""

from __future__ import annotations

import collections
import os
import select
import threading
from typing import Deque

from .errors import Conflict
from .reader import set_pipe_size

#: Bytes that may wait for a child that does not read its stdin.
INPUT_LIMIT = 1 << 20
#: A user has a limited amount of pipe memory, and few programs are fed by the page.
_PIPE = 4096


class Stdin:
    """The queue and our end of the pipe. `send` is for everybody, all else for the run's first thread."""

    __slots__ = ("_armed", "_closing", "_fd", "_lock", "_name", "_queue", "_size")

    def __init__(self, name: str) -> None:
        """`name` is the id of the process."""
        self._name = name
        # Guards all below. A leaf: nothing that blocks happens under it, and no other lock is taken.
        self._lock = threading.Lock()
        self._fd = -1
        self._queue: Deque[memoryview] = collections.deque()
        self._size = 0
        self._closing = False
        self._armed = False  # the first thread waits for room in the pipe

    def open(self, fd: int) -> None:
        """Take our end of the pipe, which does not block; what is sent from now on is for the child to be."""
        set_pipe_size(fd, _PIPE)
        with self._lock:
            self._fd = fd

    def send(self, data: bytes, eof: bool) -> bool:
        """Write or queue bytes, and the end behind them; never blocks. Returns whether the first thread must be woken.

        Raises Conflict where it is closed at either end, or 1 MiB is waiting unread.
        """
        with self._lock:
            if self._fd < 0 or self._closing:
                raise Conflict(f"{self._name!r} has no stdin any more: it was closed")
            poll = select.poll()
            poll.register(self._fd, 0)
            if poll.poll(0):  # POLLERR is reported unasked: the reading end is gone
                raise Conflict(f"{self._name!r} has closed its stdin")
            if data and self._size + len(data) > INPUT_LIMIT:
                raise Conflict(f"{self._name!r} does not read its stdin: {self._size} bytes are waiting, and "
                               f"{INPUT_LIMIT} is the limit")
            if data:
                self._queue.append(memoryview(data))
                self._size += len(data)
            self._closing = eof
            if self._armed:
                return False
            self._write()
            if eof and not self._queue:
                self._shut()
            return bool(self._queue)

    def arm(self, poll: select.poll) -> None:
        """Wait for room in the pipe exactly while there is something to write."""
        if self._fd < 0:
            return
        with self._lock:
            if self._queue and not self._armed:
                poll.register(self._fd, select.POLLOUT)
            elif not self._queue:
                if self._armed:
                    poll.unregister(self._fd)
                if self._closing:
                    self._shut()
            self._armed = bool(self._queue)

    def write(self) -> None:
        """Write what the pipe takes; what a child that closed its end has not read is dropped."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        """Caller holds self._lock."""
        while self._queue:
            try:
                sent = os.write(self._fd, self._queue[0])
            except BlockingIOError:
                return
            except OSError:  # EPIPE: the child closed its end
                self._queue.clear()
                self._size = 0
                return
            self._size -= sent
            rest = self._queue.popleft()[sent:]
            if rest:
                self._queue.appendleft(rest)

    def close(self) -> None:
        """Close our end, whatever waits."""
        with self._lock:
            self._shut()

    def _shut(self) -> None:
        """Caller holds self._lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
