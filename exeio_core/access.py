"""Who may call, and for what: the keys, compared in constant time, and a record of refusals that nobody can flood."""

from __future__ import annotations

import enum
import threading
from _operator import _compare_digest as compare_digest  # hmac's; hmac itself loads OpenSSL, a part of each start
from typing import Callable, Dict, Optional, Tuple

#: Seconds in which further refusals of an address are only counted.
SUMMARY_SECONDS = 60.0
#: Addresses that are told apart at a time; more are counted together.
_ADDRESSES = 256
#: What a read-only key is good for.
READING = frozenset(("GET", "HEAD", "OPTIONS"))
_WRONG = "a wrong API key was refused"
_READ_ONLY = "a change with the read-only API key was refused"


class Access(enum.IntEnum):
    """What a key permits; NONE is false."""

    NONE = 0
    READ = 1
    FULL = 2


class Keys:
    """The keys of this exeio: the one that may do everything and, where there is one, the one that may only read."""

    def __init__(self, key: str, report: Callable[[str], None], read_only: Optional[str] = None) -> None:
        """`report` writes a line to exeio.log."""
        self._refusals = Refusals(report)
        self.replace(key, read_only)

    def replace(self, key: str, read_only: Optional[str]) -> None:
        """Take these keys from now on; the ones before are wrong at once."""
        # One assignment, so that no thread ever sees one old and one new key.
        self._keys = (key.encode("utf-8"), None if read_only is None else read_only.encode("utf-8"))

    def right(self, given: Optional[bytes], client: str) -> Access:
        """Return what this key permits; a wrong one (not a missing one) is noted with the client's address."""
        access = self.holds(given)
        if not access and given is not None:
            self._refusals.note(_host(client))
        return access

    def holds(self, given: Optional[bytes]) -> Access:
        """Return what this key permits."""
        if given is None:
            return Access.NONE
        full, read_only = self._keys
        # As bytes: compare_digest refuses text that is not ASCII. Both are compared in any case.
        is_read_only = read_only is not None and compare_digest(given, read_only)
        if compare_digest(given, full):
            return Access.FULL
        return Access.READ if is_read_only else Access.NONE

    def refused_change(self, client: str) -> None:
        """Note that somebody with the read-only key wanted to change something."""
        self._refusals.note(_host(client), _READ_ONLY)

    def sum_up(self) -> None:
        """Write what has been counted and not told yet; before exeio's end."""
        self._refusals.sum_up()


def _host(client: str) -> str:
    return client.rpartition(":")[0] or client


class Refusals:
    """Notes refused keys: the first of an address at once, the rest of each minute in one line."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        # Guards the counts and the timer. A leaf; never held while writing.
        self._lock = threading.Lock()
        self._counts: Dict[Tuple[str, str], int] = {}
        self._timer: Optional[threading.Timer] = None

    def note(self, address: str, what: str = _WRONG) -> None:
        """Count a refusal of this address."""
        key = (address, what)
        with self._lock:
            if key not in self._counts and len(self._counts) >= _ADDRESSES:
                key = ("other addresses", what)
            first = key not in self._counts
            self._counts[key] = self._counts.get(key, -1) + 1
            if self._timer is None:
                self._timer = threading.Timer(SUMMARY_SECONDS, self.sum_up)
                self._timer.daemon = True
                try:
                    self._timer.start()
                except RuntimeError:  # no room for a thread: the next refusal tries again
                    self._timer = None
        if first:
            self._report(f"{key[0]}: {what}")

    def sum_up(self) -> None:
        """Write what has been counted since, and begin anew."""
        with self._lock:
            counts, self._counts = self._counts, {}
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for (address, what), count in counts.items():
            if count:
                self._report(f"{address}: {what} {count} more time{'s' * (count > 1)}")
