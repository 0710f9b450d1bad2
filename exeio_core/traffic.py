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


class Traffic:
    """The counts since exeio's start."""

    def __init__(self) -> None:
        # Guards the two dicts. A leaf.
        self._lock = threading.Lock()
        self._counts: Dict[Tuple[str, str, int], int] = {}
        self._buckets: Dict[str, List[int]] = {}
        self._seconds: Dict[str, float] = {}

    def count(self, method: str, path: str, status: int, seconds: Optional[float]) -> None:
        """Count an answer to a request for the path of a route; `seconds` None: how long it took says nothing."""
        key = (method if method in _METHODS else OTHER, path, status)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1
            if seconds is not None:
                buckets = self._buckets.get(path)
                if buckets is None:
                    buckets = self._buckets[path] = [0] * (len(BUCKETS) + 1)
                buckets[bisect.bisect_left(BUCKETS, seconds)] += 1
                self._seconds[path] = self._seconds.get(path, 0.0) + seconds

    def requests(self) -> Dict[Tuple[str, str, int], int]:
        """Return how many there were of each method, path of a route and status."""
        with self._lock:
            return dict(self._counts)

    def durations(self) -> Dict[str, Durations]:
        """Return how long they took, by the path of their route."""
        with self._lock:
            return {path: Durations(list(counts), self._seconds[path]) for path, counts in self._buckets.items()}
