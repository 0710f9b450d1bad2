"""Threads that wait for a run: made ahead, so that a start finds its two at once, and kept when runs end together.

Making them took a quarter of an `/add` (0.5 of 1.8 ms); now that is done while the child's exec is under way. Ending
them took a sixth of a stop of 500; now that is done when all have ended, unless what starts again has taken them.
"""

from __future__ import annotations

import contextlib
import threading
from _thread import start_new_thread
from typing import Callable, List, Optional

from . import threads

_native_id: Callable[[], int] = getattr(threading, "get_native_id", lambda: 0)  # not every system counts them


class Spare:
    """A thread that waits for a job, and for another one after it.

    Not a threading.Thread: starting one waits until it runs, and making two of those took 270 of 1,700 us of an `/add`;
    without the wait it is 150. So it has no name, and what its job raises is told by sys.unraisablehook.
    """

    __slots__ = ("_job", "_turn", "native_id")

    def __init__(self) -> None:
        """Raises RuntimeError where there can be no more threads."""
        self._job: Optional[Callable[[], None]] = None
        self._turn = threading.Lock()
        self._turn.acquire()
        #: As the kernel counts threads; set before the first job, 0 again when it is about to end.
        self.native_id = 0
        threads.look_for_room()
        start_new_thread(self._loop, ())

    def give(self, job: Callable[[], None]) -> None:
        """Let the thread run `job`, which raises nothing; then it waits again, until `end`."""
        self._job = job
        self._turn.release()

    def end(self) -> None:
        """Let a thread that waits end."""
        self._job = None
        self._turn.release()

    def _loop(self) -> None:
        try:
            self.native_id = _native_id()
            self._turn.acquire()
            while self._job is not None:
                self._job()
                self._turn.acquire()
        finally:
            self.native_id = 0


class Spares:
    """The threads that wait."""

    def __init__(self, count: int) -> None:
        """`count` are made ahead by `fill`, and stay."""
        self._count = count
        # Guards the two below. A leaf; no thread is made under it.
        self._lock = threading.Lock()
        self._parked: List[Spare] = []
        self._keeping = False

    def take(self, count: int) -> List[Spare]:
        """Return so many threads, made now where there are none; raises RuntimeError, MemoryError."""
        with self._lock:
            found, self._parked = self._parked[:count], self._parked[count:]
        try:
            while len(found) < count:
                found.append(Spare())
        except BaseException:
            self.put_back(found)
            raise
        return found

    def put_back(self, spares: List[Spare]) -> None:
        """Take back what has no job, or is about to have none; those that are too many end, unless all are kept."""
        with self._lock:
            self._parked += spares
            surplus = self._surplus()
        _end(surplus)

    def keep(self, all: bool) -> None:
        """Keep `all` that come back from now on, or no more than the usual count."""
        with self._lock:
            self._keeping = all
            surplus = self._surplus()
        _end(surplus)

    def _surplus(self) -> List[Spare]:
        """Take out those that are too many. Caller holds self._lock."""
        if self._keeping:
            return []
        surplus = self._parked[self._count:]
        del self._parked[self._count:]
        return surplus

    def fill(self) -> None:
        """Make ahead what the next start will take; where there is no room for it, that start says so."""
        with contextlib.suppress(RuntimeError, MemoryError):
            while len(self._parked) < self._count:
                self.put_back([Spare()])


def _end(spares: List[Spare]) -> None:
    for spare in spares:
        spare.end()
