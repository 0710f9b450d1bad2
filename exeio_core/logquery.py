"""What is asked of a log: which page, in which order, and which lines."""

from __future__ import annotations

import re
import time
from typing import List, Mapping, NamedTuple, Optional

from .errors import Invalid
from .logindex import split
from .logline import STAMP, STREAMS, stamp_number

MAX_PAGE_SIZE = 10_000
_MAX_PAGE = 10**12

# The time as in the log or ISO 8601; a missing part means its first moment in `since`, its last one in `until`.
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?"
    r"\s*(Z|[+-]\d\d:?\d\d|[+-]\d\d)?)?",
    re.IGNORECASE | re.ASCII,
)


class LogQuery(NamedTuple):
    """One page of a log's lines, after filtering; `since` and `until` are UTC as in the log, both inclusive."""

    page: int = 1
    page_size: int = 50
    order: str = "desc"
    stream: Optional[str] = None
    contains: Optional[str] = None
    since: Optional[str] = None
    until: Optional[str] = None

    @classmethod
    def from_query(cls, parameters: Mapping[str, str]) -> LogQuery:
        """Read a request's parameters; others than these are not looked at.

        Raises Invalid, naming the parameter and what would be right.
        """
        order = parameters.get("order", "desc").lower()
        if order not in ("asc", "desc"):
            raise Invalid('order must be "desc" (newest first) or "asc" (oldest first)', "order")
        stream = parameters.get("stream")
        if stream is not None and stream.lower() not in STREAMS:
            raise Invalid('stream must be "stdout", "stderr" or "system"', "stream")
        return cls(
            page=_number(parameters, "page", 1, _MAX_PAGE),
            page_size=_number(parameters, "page_size", 50, MAX_PAGE_SIZE),
            order=order,
            stream=stream.lower() if stream is not None else None,
            contains=parameters.get("contains") or None,
            since=_time(parameters, "since", False),
            until=_time(parameters, "until", True),
        )

    @property
    def filters(self) -> bool:
        """Whether lines are left out at all."""
        return any(value is not None for value in (self.stream, self.contains, self.since, self.until))


class LineFilter:
    """Which lines a query lets pass."""

    def __init__(self, query: LogQuery) -> None:
        self._stream = STREAMS[query.stream] if query.stream is not None else None
        # The whole line is searched as it is in the file, its stamp and prefix, too: what `grep -F` would find.
        self._needle = query.contains.encode("utf-8", "surrogatepass") if query.contains is not None else None
        self._since = query.since.encode() if query.since is not None else None
        self._until = query.until.encode() if query.until is not None else None
        self._from = stamp_number(self._since) if self._since is not None else 0
        self._to = stamp_number(self._until) if self._until is not None else 10**14
        self.timed = self._since is not None or self._until is not None
        # Whether all lines of a group pass once its stamps do, or there is nothing else to look at.
        self.whole_groups = self._stream is None and self._needle is None

    def misses(self, least: int, greatest: int) -> bool:
        """Whether lines with stamps between these cannot pass."""
        return greatest < self._from or least > self._to

    def covers(self, least: int, greatest: int) -> bool:
        """Whether lines with stamps between these all pass, as far as time goes."""
        return self._from <= least and greatest <= self._to

    def select(self, data: bytes, timed: bool) -> List[bytes]:
        """Return the lines of `data` that pass; the time is looked at if `timed`."""
        needle = self._needle
        if needle is not None and needle not in data:
            return []
        runs = b"] RUN#" in data
        if self._stream is not None and not runs and self._stream.mark not in data:
            return []
        lines = split(data)
        if needle is not None:
            lines = [line for line in lines if needle in line]
        if self._stream is not None:
            # Matching costs five times as much as looking at the place where most lines have their mark.
            mark, pattern = self._stream
            end = 20 + len(mark)
            lines = [line for line in lines if line[20:end] == mark or (runs and pattern.match(line))]
        if timed:
            lines = [line for line in lines if self._in_time(line)]
        return lines

    def _in_time(self, line: bytes) -> bool:
        match = STAMP.match(line)
        if match is None:
            return False
        time = match[1]
        return (self._since is None or self._since <= time) and (self._until is None or time <= self._until)


def _number(parameters: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = parameters.get(name)
    if text is None:
        return default
    # The length is looked at first: int() of a text with very many digits is slow, or an error of another kind.
    if len(text) <= 20 and text.isascii() and text.isdigit() and 1 <= int(text) <= most:
        return int(text)
    limits = f"from 1 to {most:,}" if name == "page_size" else "from 1 on"
    raise Invalid(f"{name} must be a whole number {limits}", name)


def _time(parameters: Mapping[str, str], name: str, last: bool) -> Optional[str]:
    text = parameters.get(name)
    if text is None:
        return None
    wrong = Invalid(
        f'{name} must be a time in UTC like "2025-07-15 10:30:45", or in ISO 8601 like "2025-07-15T12:30:45+02:00"',
        name,
    )
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise wrong
    year, month, day, hour, minute, second, zone = match.groups()
    rest = (23, 59, 59) if last else (0, 0, 0)
    parts = [int(part) if part is not None else rest[i] for i, part in enumerate((hour, minute, second))]
    if not (int(year) and 1 <= int(month) <= 12 and parts[0] <= 23 and parts[1] <= 59 and parts[2] <= 59):
        raise wrong
    import calendar  # only for these two parameters: the start of exeio is measured

    if not 1 <= int(day) <= calendar.monthrange(int(year), int(month))[1]:
        raise wrong
    moment = calendar.timegm((int(year), int(month), int(day), parts[0], parts[1], parts[2]))
    if zone is not None and zone not in "Zz":
        hours, minutes = int(zone[1:3]), int(zone[-2:]) if len(zone) > 3 else 0
        if hours > 23 or minutes > 59:
            raise wrong
        moment -= (-1 if zone[0] == "-" else 1) * (hours * 3600 + minutes * 60)
    moment_utc = time.gmtime(moment)
    if not 1 <= moment_utc.tm_year <= 9999:
        raise wrong
    return f"{moment_utc.tm_year:04d}-" + time.strftime("%m-%d %H:%M:%S", moment_utc)
