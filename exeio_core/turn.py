"""Work that holds the interpreter's lock for long takes turns: one thread at a time, in pieces, with pauses between.

CPython hands its lock over slowly: who wants it waits 5 ms before the holder is asked for it, and one that the holder
releases for a short system call is often taken back before the other thread has woken up. A restart takes the lock a
hundred times. Beside a search through 1 GB that did not pause it took 170 ms instead of 3; beside one that does, 10.
"""

from __future__ import annotations

import threading
import time

_WORK = 0.0002  # seconds after which a pause is due
_PAUSE = 0.00005  # seconds, in which any thread that waits for the interpreter wakes up and gets it


class Turn:
    """A context manager around each piece of such work, which should last for less than a millisecond.

    Under it: no file operation, and no other lock. What a process waits for (appending to its log) never takes it.
    """

    __slots__ = ("_left", "_lock", "_paused")

    def __init__(self) -> None:
        # Held by the one thread that works or makes its pause; guards when the last piece and the last pause ended.
        self._lock = threading.Lock()
        self._left = 0.0
        self._paused = 0.0

    def __enter__(self) -> None:
        self._lock.acquire()
        now = time.perf_counter()
        if now - self._left > _WORK:
            self._paused = now  # nobody worked for so long: that was a pause

    def __exit__(self, *exc: object) -> None:
        now = time.perf_counter()
        if now - self._paused > _WORK:
            time.sleep(_PAUSE)
            self._paused = now = time.perf_counter()
        self._left = now
        self._lock.release()


#: The one that all such work takes.
turn = Turn()
