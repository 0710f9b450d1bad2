"""What a reader holds of a log: its files, each of which may be moved or deleted meanwhile, as stretches of lines."""

from __future__ import annotations

import os
from typing import List, NamedTuple, Optional, Protocol, Tuple

from . import logfiles
from .logfiles import Changed, Found
from .logindex import PIECE, Index, Segment, View, some_of

# Entries are read together up to this many bytes.
GROUP = PIECE // 8


class Source(Protocol):
    """What a reader needs to know of a log; each is read as a whole, without a lock."""

    path: str
    backups: int
    view: Optional[View]  # None until it is opened for appending
    moving: bool  # while a rotation goes on
    cleared: int  # counts up before and after the content of a file is thrown away

    def partials(self) -> Tuple[bytes, ...]: ...


class Known(NamedTuple):
    """A file, what is known of it, where its readable part ends, and the lines of the segment's `new` index."""

    file: Found
    segment: Optional[Segment]
    end: int
    lines: int
    grows: bool  # it is, or may be, the one that is appended to


def open_known(source: Source, known: Known) -> int:
    """Open a file for reading, wherever it stands by now. Raises Changed if it is gone or not the same, OSError."""
    file = known.file
    fd = logfiles.open_key(source.path, file.key, source.backups)
    status = os.fstat(fd)
    # A rotation may have deleted the file, and a newer one have got its inode: then that one is known by the key now.
    if known.segment is not None:
        view = source.view
        same = view is not None and view.latest(file.key) is known.segment and status.st_size >= known.end
    else:
        same = (status.st_size, status.st_mtime_ns) == (file.size, file.changed)
        same = same or (known.grows and status.st_size >= known.end)
    if not same:
        os.close(fd)
        raise Changed
    return fd


class Handle:
    """A file of the log as a reader holds it, opened when it is needed; its reader's alone."""

    __slots__ = ("_fd", "_source", "known")

    def __init__(self, source: Source, known: Known) -> None:
        self.known = known
        self._source = source
        self._fd = -1

    def fd(self) -> int:
        """Return the descriptor; raises Changed if the file is gone, OSError."""
        if self._fd < 0:
            self._fd = open_known(self._source, self.known)
        return self._fd

    def read(self, offset: int, size: int) -> bytes:
        """Return these bytes, all of them; raises Changed where there are fewer, OSError."""
        data = os.pread(self.fd(), size, offset)
        while len(data) < size:
            more = os.pread(self.fd(), size - len(data), offset + len(data))
            if not more:
                raise Changed
            data += more
        return data

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Span(NamedTuple):
    """A stretch of whole lines: of one file, up to the byte `end`, with the index that finds them."""

    handle: Handle
    table: Index
    end: int
    lines: int

    def bounds(self, first: int, last: int) -> Tuple[int, int]:
        """Return the offset and size of the entries from `first` to before `last`."""
        offsets = self.table.offsets
        end = offsets[last] if last < self.table.entries(self.end) else self.end
        return offsets[first], end - offsets[first]

    def first_line(self, entry: int) -> int:
        """Return the number of an entry's first line, or the number of lines after the last entry."""
        return self.table.firsts[entry] if entry < self.table.entries(self.end) else self.lines

    def groups(self) -> List[Tuple[int, int]]:
        """Return ranges of entries that are searched together."""
        entries, offsets = self.table.entries(self.end), self.table.offsets
        groups, first = [], 0
        for entry in range(1, entries + 1):
            if entry == entries or offsets[entry] - offsets[first] >= GROUP:
                groups.append((first, entry))
                first = entry
        return groups

    def read_lines(self, first: int, last: int) -> List[bytes]:
        """Return the lines from number `first` to before `last`, from the entries that hold them."""
        entries = self.table.entries(self.end)
        lines: List[bytes] = []
        while first < last:
            entry = self.table.entry_of(first, entries)
            stop = entry + 1
            while stop < entries and self.table.firsts[stop] < last and self.bounds(entry, stop)[1] < GROUP:
                stop += 1
            start, following = self.table.firsts[entry], self.first_line(stop)
            data = self.handle.read(*self.bounds(entry, stop))
            lines += some_of(data, first - start, min(last, following) - start, following - start)
            first = min(last, following)
        return lines


class Group(NamedTuple):
    """Some entries of a span, from the byte `offset` and the line `start` on, of which `passing` lines pass.

    `lines` are these, or None where all pass and none had to be read.
    """

    span: Span
    offset: int
    start: int
    passing: int
    lines: Optional[List[bytes]]

    def take(self, first: int, last: int) -> List[bytes]:
        """Return the lines from `first` to before `last` of those that pass."""
        if self.lines is not None:
            return self.lines[first:last]
        return self.span.read_lines(self.start + first, self.start + last)
