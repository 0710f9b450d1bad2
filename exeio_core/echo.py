"""`--echo`: every process's lines on stdout, prefixed with their id, in colour on a terminal; or (raw) as they are.

A blocked stdout (Ctrl-S, a full pipe) must not block a reader of a process: lines are queued up to a bound for a
thread of their own; beyond it they are dropped, and their number is shown once there is room.
"""

from __future__ import annotations

import collections
import os
import select
import threading
import zlib
from typing import Deque, Tuple

#: Bytes that may wait for stdout.
QUEUE_LIMIT = 1 << 20
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Echo:
    """The queue and the thread that writes it to `fd`."""

    def __init__(self, fd: int, coloured: bool, raw: bool = False) -> None:
        self._fd = fd
        self._raw = raw
        self._coloured = coloured
        # Guards the queue, its size and the count. A leaf; never held while writing.
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)  # notified by `lines` and `close`; the thread waits
        self._queue: Deque[Tuple[str, bytes]] = collections.deque()
        self._size = 0
        self._dropped = 0
        self._closed = False
        # Set by `open` and `close`: the thread waits for it before its first line.
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="exeio-echo", daemon=True)

    def start(self) -> None:
        """Start the thread; raises RuntimeError."""
        self._thread.start()

    def open(self) -> None:
        """Let the lines out, now that the banner stands before them."""
        self._opened.set()

    def lines(self, id: str, block: bytes) -> None:
        """Queue complete lines of a process; never blocks."""
        with self._lock:
            if self._closed:
                return
            if self._size + len(block) > QUEUE_LIMIT:
                self._dropped += block.count(b"\n")
                return
            self._queue.append((id, block))
            self._size += len(block)
            self._filled.notify()

    def close(self, timeout: float) -> None:
        """Write what is queued, for at most `timeout` seconds."""
        with self._lock:
            self._closed = True
            self._filled.notify()
        self._opened.set()
        self._thread.join(timeout)

    def _loop(self) -> None:
        self._opened.wait()
        while True:
            with self._lock:
                self._filled.wait_for(lambda: self._queue or self._dropped or self._closed)
                if not self._queue and not self._dropped:
                    return
                batch, self._queue = self._queue, collections.deque()
                self._size = 0
                dropped, self._dropped = self._dropped, 0
            text = b"".join(block if self._raw else self._prefixed(id, block) for id, block in batch)
            note = b"[exeio] stdout was too slow: %d lines are not shown\n" % dropped if dropped else b""
            try:
                if self._raw and note:
                    _write_all(2, note)  # stdout is for a program that knows nothing of exeio
                else:
                    text += note
                _write_all(self._fd, text)
            except OSError:
                with self._lock:
                    self._closed = True  # nobody reads stdout any more
                    self._queue.clear()
                    self._dropped = 0
                return

    def _prefixed(self, id: str, block: bytes) -> bytes:
        prefix = b"[%s] " % id.encode("ascii")
        if self._coloured:
            colour = _COLOURS[zlib.crc32(prefix) % len(_COLOURS)]
            prefix = b"\033[%dm%s\033[0m" % (colour, prefix)
        # One replace a block, as for the log; the last newline ends a line and begins none.
        return prefix + block[:-1].replace(b"\n", b"\n" + prefix) + b"\n"


def _write_all(fd: int, data: bytes) -> None:
    """Write all, also where another program has made the terminal that it shares non-blocking. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view):]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
