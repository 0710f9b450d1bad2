"""Where the lines of a log file are: an entry for each 64 KiB or so, so that a page costs the page and not the file.

Who appends grows an index and then publishes, in one assignment, how far it may be believed (a `View`); readers only
look at what lies before that, so that neither waits for the other.
"""

from __future__ import annotations

import io
from array import array
from bisect import bisect_left, bisect_right
from typing import Callable, List, NamedTuple, Optional, Tuple

from .logfiles import Key
from .logline import STAMP, stamp_number
from .turn import turn

ENTRY = 65536
PIECE = 1 << 20  # an entry is not larger, as far as lines allow it
_SCANNED = 1 << 21  # bytes that are scanned at once, in half a millisecond, see `turn`


class Index:
    """The lines of a file from the byte `start` up to `end`, `lines` of them.

    Entry i begins at byte `offsets[i]` with line `firsts[i]` (from 0); the stamps in it are numbers between `least[i]`
    and `greatest[i]`, since clocks step back. Where there are no stamps yet, see `add_stamps`.
    """

    __slots__ = ("end", "firsts", "greatest", "least", "lines", "offsets", "start")

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.end = start
        self.lines = 0
        self.offsets = array("q")
        self.firsts = array("q")
        self.least: Optional[array[int]] = array("q")
        self.greatest: Optional[array[int]] = array("q")

    def grow(self, size: int, lines: int, least: int, greatest: int) -> None:
        """Take note of whole lines appended at the end, with these stamps."""
        assert self.least is not None and self.greatest is not None
        if not self.offsets or self.end - self.offsets[-1] >= ENTRY:
            self.least.append(least)
            self.greatest.append(greatest)
            self.firsts.append(self.lines)
            self.offsets.append(self.end)  # the last one: readers count the entries in this array
        else:
            self.least[-1] = min(self.least[-1], least)
            self.greatest[-1] = max(self.greatest[-1], greatest)
        self.end += size
        self.lines += lines

    def entries(self, end: int) -> int:
        """Return how many entries begin before the byte `end`."""
        return bisect_left(self.offsets, end)

    def entry_of(self, line: int, entries: int) -> int:
        """Return which of the first `entries` entries holds this line."""
        return bisect_right(self.firsts, line, 0, entries) - 1

    def add_stamps(self, read: Callable[[int, int], bytes]) -> None:
        """Fill in the stamps of an index that was made by `scan`; `read(offset, size)` returns the file's bytes."""
        if self.least is not None:
            return
        least, greatest = array("q"), array("q")
        entries = len(self.offsets)
        for i in range(entries):
            last = i + 1 == entries
            end, following = (self.end, self.lines) if last else (self.offsets[i + 1], self.firsts[i + 1])
            data = read(self.offsets[i], end - self.offsets[i])
            with turn:
                low, high = _stamps(data, following - self.firsts[i])
            least.append(low)
            greatest.append(high)
        self.greatest = greatest
        self.least = least


def _stamps(data: bytes, lines: int) -> Tuple[int, int]:
    """Return the least and greatest stamp; the least is -1 if a line has none: so it is not taken as passing."""
    # Most often all lines are of one or two seconds. That is counted at a third of the cost of looking at each line.
    first = STAMP.match(data)
    last = STAMP.match(data, data.rfind(b"\n", 0, -1) + 1)
    if first and last:
        same = 1 + data.count(b"\n" + first[0])
        if first[0] != last[0]:
            same += data.count(b"\n" + last[0])
        if same == lines:
            numbers = stamp_number(first[1]), stamp_number(last[1])
            return min(numbers), max(numbers)
    matches = [STAMP.match(line) for line in split(data)]
    stamps = [match[1] for match in matches if match]
    if not stamps:
        return -1, -1
    return stamp_number(min(stamps)) if len(stamps) == len(matches) else -1, stamp_number(max(stamps))


def split(data: bytes) -> List[bytes]:
    """Return the lines of `data`, without their newlines; the last may lack it."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def some_of(data: bytes, first: int, last: int, count: int) -> List[bytes]:
    """Return the lines from number `first` to before `last` of the `count` in `data`, as `split` does.

    From the nearer end: of the 500 lines of an entry a page wants 50 (all: 23 us, the last 50: 3).
    """
    if last <= count - first:
        return data.split(b"\n", last)[first:last]
    lines = data.rsplit(b"\n", count - first + 1)[:-1] if data.endswith(b"\n") else data.rsplit(b"\n", count - first)
    return lines[first - count :][: last - first]


def scan(fd: int, end: int) -> Index:
    """Return the index of a file's first `end` bytes, without stamps; a last line without its newline counts.

    Only newlines are counted, in a buffer that is used again, at the speed of `bytes.count`. Raises OSError.
    """
    index = Index()
    index.least = index.greatest = None
    buffer = bytearray(min(_SCANNED, end))
    view = memoryview(buffer)
    last = 10
    with io.FileIO(fd, closefd=False) as file:
        file.seek(0)
        while index.end < end:
            size = file.readinto(view[: min(len(buffer), end - index.end)])
            if not size:
                break
            with turn:
                _scan_piece(index, buffer, size)
            last = buffer[size - 1]
    if last != 10:
        index.lines += 1
    return index


def _scan_piece(index: Index, buffer: bytearray, size: int) -> None:
    """Count the lines of a piece; an entry begins with the first line that begins in a stretch of ENTRY bytes."""
    done = 0
    if index.end == 0 and size:
        index.offsets.append(0)
        index.firsts.append(0)
    for start in range(ENTRY if index.end == 0 else 0, size, ENTRY):
        newline = buffer.find(b"\n", start, size)
        if newline < 0:
            break
        index.lines += buffer.count(b"\n", done, newline + 1)
        done = newline + 1
        index.firsts.append(index.lines)
        index.offsets.append(index.end + done)
    index.lines += buffer.count(b"\n", done, size)
    index.end += size


class Segment:
    """What is known of one file that is or was appended to: `new` indexes what came since it was opened.

    `old` indexes the `base` bytes that were there before; the first reader who needs it makes it. `serial` counts the
    files of a log.
    """

    __slots__ = ("base", "key", "new", "old", "serial")

    def __init__(self, key: Key, base: int, serial: int) -> None:
        self.key = key
        self.base = base
        self.serial = serial
        self.new = Index(base)
        self.old: Optional[Index] = None


class View(NamedTuple):
    """What readers may believe: `segment` up to the byte `end`, of which `lines` are in its `new` index.

    `older` are the files before it, oldest first, which do not grow any more.
    """

    segment: Segment
    end: int
    lines: int
    older: Tuple[Segment, ...]

    def latest(self, key: Key) -> Optional[Segment]:
        """Return the newest segment with this key: the key of a deleted file may have been given to another."""
        if self.segment.key == key:
            return self.segment
        for segment in reversed(self.older):
            if segment.key == key:
                return segment
        return None
