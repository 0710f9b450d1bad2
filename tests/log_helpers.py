"""What the tests of logs share: a clock that stands still, a reader and a splitter too simple to be wrong."""

from __future__ import annotations

import os
import random
import re
import time
from typing import Callable, Dict, List, Optional

from exeio_core.logfile import LogFile, LogQuery
from exeio_core.logline import LINE_LIMIT

STAMPED = re.compile(rb"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] ")
ADDRESS = "127.0.0.1:8080"


class Clock:
    """Stands in for the `time` module where stamps are made."""

    gmtime = staticmethod(time.gmtime)
    strftime = staticmethod(time.strftime)

    def __init__(self, now: float = 1_752_575_445.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


def make(path: object, max_bytes: int = 0, backups: int = 10) -> LogFile:
    return LogFile(str(path), max_bytes, backups, ADDRESS)


def seeded() -> random.Random:
    """A generator whose seed is printed, so that a failure can be repeated with EXEIO_TEST_SEED."""
    seed = int(os.environ.get("EXEIO_TEST_SEED") or random.SystemRandom().randrange(10**9))
    print(f"EXEIO_TEST_SEED={seed}")
    return random.Random(seed)


def files(path: object) -> List[str]:
    """The log's files, oldest first."""
    folder, name = os.path.split(str(path))
    rotated = [other for other in os.listdir(folder) if re.fullmatch(re.escape(name) + r"\.\d+", other)]
    rotated.sort(key=lambda other: -int(other.rsplit(".", 1)[1]))
    there = [name] if os.path.exists(str(path)) else []
    return [os.path.join(folder, other) for other in rotated + there]


def content(path: object) -> bytes:
    """All that the log holds, from the oldest file on."""
    parts = []
    for file in files(path):
        with open(file, "rb") as opened:
            parts.append(opened.read())
    return b"".join(parts)


def lines_of(path: object) -> List[bytes]:
    lines = content(path).split(b"\n")
    assert lines.pop() == b"", "the log ends with a torn line"
    return lines


def texts(path: object) -> List[bytes]:
    """What follows the prefix, of all lines; each must be well formed."""
    result = []
    for line in lines_of(path):
        match = re.match(STAMPED.pattern + rb"(?:(?:RUN#\d+ )?STD(?:OUT|ERR): |SYSTEM \S+: )", line)
        assert match, line[:200]
        result.append(line[match.end() :])
    return result


def split_simply(text: bytes) -> List[bytes]:
    """The lines of a text, one by one; long ones in parts that end between two characters."""
    lines = text.split(b"\n")
    if not lines[-1]:
        lines.pop()
    result = []
    for line in lines:
        rest = line
        while len(rest) > LINE_LIMIT:
            cut = LINE_LIMIT
            while cut > LINE_LIMIT - 3 and 0x80 <= rest[cut] < 0xC0:
                cut -= 1
            result.append(rest[:cut])
            rest = rest[cut:]
        result.append(rest)
    return result


def chunks(generator: random.Random, text: bytes, most: int) -> List[bytes]:
    result = []
    while text:
        size = generator.choice((1, 2, generator.randint(1, 200), generator.randint(1, most)))
        result.append(text[:size])
        text = text[size:]
    return result


def naive_page(lines: List[bytes], query: LogQuery) -> Dict[str, object]:
    """The page of these lines, each of them looked at."""
    passing = []
    for line in lines:
        stamp = STAMPED.match(line)
        if query.stream is not None:
            rest = re.sub(rb"^RUN#\d+ (?=STD)", b"", line[22:]) if stamp else b""
            if not rest.startswith(query.stream.upper().encode() + (b" " if query.stream == "system" else b": ")):
                continue
        if query.contains is not None and query.contains.encode() not in line:
            continue
        if query.since is not None and (not stamp or line[1:20] < query.since.encode()):
            continue
        if query.until is not None and (not stamp or line[1:20] > query.until.encode()):
            continue
        passing.append(line)
    ordered = passing if query.order == "asc" else passing[::-1]
    first = (query.page - 1) * query.page_size
    return {
        "success": True,
        "page": query.page,
        "page_size": query.page_size,
        "total_lines": len(passing),
        "total_pages": (len(passing) + query.page_size - 1) // query.page_size,
        "logs": [line.decode("utf-8", "replace") for line in ordered[first : first + query.page_size]],
    }


def wait_for(condition: Callable[[], Optional[object]], seconds: float = 10.0) -> object:
    """Wait until `condition` is true and return what it returned; fails after a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
