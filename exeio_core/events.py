"""Every change of a process's status, in the order in which they happened: the last thousand, for whoever follows."""

from __future__ import annotations

import collections
import itertools
import threading
import time
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

from .lifecycle import Exit

#: Changes that are kept for those who come back.
RING = 1000


class Change(NamedTuple):
    """One change, in the API's status words."""

    number: int
    at: float  # wall clock, seconds since 1970
    id: str
    before: Optional[str]  # None: the process has just come
    after: Optional[str]  # None: it was removed
    reason: Optional[str]
    pid: Optional[int]  # of the run that this is about
    exit: Optional[Exit]  # how that run ended
    failed: bool  # it did not end as it should, or could not start
    run: Optional[int]


class Events:
    """The ring and who waits for it; all of it is guarded by the machine's lock."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        #: Notified by `add` and `wake`; followers wait.
        self._added = threading.Condition(lock)
        self._ring: Deque[Change] = collections.deque(maxlen=RING)
        #: The number of the last change; the first one is 1.
        self.last = 0
        #: Tells the changes of this exeio from those of the one before it, whose numbers are the same.
        self.epoch = f"{time.time_ns() // 1_000_000:x}"

    def add(self, id: str, before: Optional[str], after: Optional[str], reason: Optional[str], pid: Optional[int],
            exit: Optional[Exit], failed: bool, run: Optional[int]) -> None:
        """Append a change and wake who waits. Caller holds the machine's lock."""
        self.last += 1
        self._ring.append(Change(self.last, time.time(), id, before, after, reason, pid, exit, failed, run))
        self._added.notify_all()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        with self._lock:
            self._added.notify_all()

    def after(self, number: int, timeout: Optional[float], over: Callable[[], bool]) -> Tuple[List[Change], int]:
        """Wait until there are changes behind `number`, or it is `over`, or for `timeout` seconds.

        Returns them, and how many more there were that are not kept any more.
        """
        with self._lock:
            self._added.wait_for(lambda: self.last > number or over(), timeout)
            behind = self.last - number
            if behind <= 0:
                return [], 0
            kept = min(behind, len(self._ring))
            return list(itertools.islice(self._ring, len(self._ring) - kept, None)), behind - kept


def to_json(change: Change) -> Dict[str, object]:
    """Return a change as clients and programs are told it."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(change.at))
    ended = change.exit
    return {
        "id": change.id,
        "from": change.before,
        "to": change.after,
        "reason": change.reason,
        "pid": change.pid,
        "exit": None if ended is None else {"code": ended.code, "signal": ended.signal_name},
        "failed": change.failed,
        "run": change.run,
        "at": f"{at}.{int(change.at % 1 * 1000):03d}Z",
    }
