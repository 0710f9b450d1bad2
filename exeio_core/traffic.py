"""How many requests were answered, with what, and how long that took: counted as they end, told in /metrics."""

from __future__ import annotations

import bisect
import threading
from typing import Dict, List, NamedTuple, Optional, Tuple

#: Upper ends of the histogram's buckets in seconds, both sides of a request for data and of a stop that takes its time.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: What a client may invent stands under this one name, or it could make series without end.
OTHER = "other"
_METHODS = frozenset(("GET", "HEAD", "POST", "OPTIONS"))


class Durations(NamedTuple):
    """How many requests took up to each of BUCKETS and not less, how many longer; and their seconds in all."""

    counts: List[int]
    seconds: float


class _Count:
    """The answers of one status to one method on one route."""

    __slots__ = ("answers", "buckets", "seconds")

    def __init__(self) -> None:
        self.answers = 0
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0


class Traffic:
    """The counts since exeio's start."""

    def __init__(self) -> None:
        # Guards the counts. A leaf.
        self._lock = threading.Lock()
        self._counts: Dict[Tuple[str, str, int], _Count] = {}

    def count(self, method: str, path: str, status: int, seconds: Optional[float]) -> None:
        """Count an answer to a request for the path of a route; `seconds` None: how long it took says nothing."""
        with self._lock:
            count = self._counts.get((method, path, status)) or self._named(method, path, status)
            count.answers += 1
            if seconds is not None:
                count.buckets[bisect.bisect_left(BUCKETS, seconds)] += 1
                count.seconds += seconds

    def _named(self, method: str, path: str, status: int) -> _Count:
        """Caller holds self._lock."""
        return self._counts.setdefault((method if method in _METHODS else OTHER, path, status), _Count())

    def requests(self) -> Dict[Tuple[str, str, int], int]:
        """Return how many there were of each method, path of a route and status."""
        with self._lock:
            return {key: count.answers for key, count in self._counts.items()}

    def durations(self) -> Dict[str, Durations]:
        """Return how long those took that say something by it, by the path of their route."""
        found: Dict[str, Durations] = {}
        with self._lock:
            for (_, path, _), count in self._counts.items():
                if any(count.buckets):
                    before = found.get(path, _NONE)
                    found[path] = Durations([a + b for a, b in zip(before.counts, count.buckets)],
                                            before.seconds + count.seconds)
        return found


_NONE = Durations([0] * (len(BUCKETS) + 1), 0.0)
