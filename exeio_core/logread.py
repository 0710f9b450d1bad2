"""Reading a log through all its files: pages, and its last bytes, without ever waiting for who appends.

What the files hold is taken from the disk at each request; what is known of them (their indexes) only saves the
reading. A file that nobody has an index of is scanned once.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Set, Tuple, TypeVar

from . import logfiles
from .errors import Failed, Unavailable
from .logfiles import Changed, Found, Key
from .logindex import PIECE, Index, Segment, View, scan
from .logline import shown
from .logquery import LineFilter, LogQuery
from .logspan import GROUP, Group, Handle, Known, Source, Span
from .turn import turn

_TRIES = 1000
_PAUSE = 0.002  # seconds between them: a rotation is a few renames
_SEARCHED = GROUP // 4  # bytes that are searched at once, see `turn`: in a tenth of a millisecond or two
_HELD = 32  # files that are opened before a search begins, or the sending of all
_Answer = TypeVar("_Answer")


class LogReader:
    """Reads one log, for any number of threads."""

    __slots__ = ("_lock", "_scanned", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source
        # Guards the making of indexes, so that no file is scanned twice at a time. Readers alone take it.
        self._lock = threading.Lock()
        self._scanned: Dict[Key, Tuple[Found, Index]] = {}

    def page(self, query: LogQuery) -> Dict[str, object]:
        """Return a page; see LogFile.page."""
        return self._steady(lambda: self._page(query))

    def _steady(self, attempt: Callable[[], _Answer]) -> _Answer:
        """Repeat `attempt` until no file changed its place or lost its content meanwhile."""
        for _ in range(_TRIES):
            cleared = self._source.cleared
            try:
                answer = attempt()
            except Changed:
                time.sleep(_PAUSE)
                continue
            except OSError as error:
                raise Failed(f"the log cannot be read: {error.strerror or error}") from error
            if cleared == self._source.cleared:
                return answer
        raise Unavailable("the log's files change faster than they can be read; ask again")

    def _page(self, query: LogQuery) -> Dict[str, object]:
        first = (query.page - 1) * query.page_size
        selection = LineFilter(query)
        with self.spans() as spans:
            if query.filters:
                _hold(span.handle for span in spans)
                lines, total = self._filtered(spans, selection, first, first + query.page_size, query.order == "asc")
            else:
                total = sum(span.lines for span in spans)
                last = min(first + query.page_size, total)
                lines = _plain(spans, *((first, last) if query.order == "asc" else (total - last, total - first)))
                if query.order == "desc":
                    lines.reverse()
        # Looked at after the lines, or a line that is completed now would be shown twice.
        unfinished = self._source.partials() if query.page == 1 else ()
        if unfinished:
            unfinished = tuple(selection.select(b"\n".join(unfinished), True))
        answer: Dict[str, object] = {
            "success": True,
            "page": query.page,
            "page_size": query.page_size,
            "total_lines": total,
            "total_pages": -(-total // query.page_size),
            "logs": [shown(line) for line in lines],
        }
        if unfinished:
            answer["partial"] = shown(b"\n".join(unfinished))
        return answer

    @contextlib.contextmanager
    def spans(self) -> Iterator[List[Span]]:
        """Give the whole log, oldest first; the files are closed at the end. Raises Changed, OSError."""
        handles: List[Handle] = []
        try:
            yield self._look(handles)
        finally:
            for handle in handles:
                handle.close()

    def files(self) -> List[Known]:
        """Return the files, newest first. Raises Changed while a rotation goes on."""
        source = self._source
        view = source.view
        if source.moving:
            raise Changed
        found = logfiles.find(source.path, source.backups)
        after = source.view
        if source.moving or (view and view.segment) is not (after and after.segment):
            raise Changed
        files: List[Known] = []
        for file in found:
            segment = _segment(view, file) if view is not None else None
            if segment is None:
                files.append(Known(file, None, file.size, 0, file.path == source.path))
            elif view is not None and segment is view.segment:
                files.append(Known(file, segment, view.end, view.lines, True))
            else:
                files.append(Known(file, segment, file.size, segment.new.lines, False))
        return files

    def _look(self, handles: List[Handle]) -> List[Span]:
        spans: List[Span] = []
        files = self.files()
        for known in files:
            handle = Handle(self._source, known)
            handles.append(handle)
            if known.segment is None:
                index = self._scan(handle)
            else:
                spans.append(Span(handle, known.segment.new, known.end, known.lines))
                if not known.segment.base:
                    continue
                index = self._old(known.segment, handle)
            spans.append(Span(handle, index, index.end, index.lines))
        if self._scanned:
            self._forget({known.file.key for known in files})
        spans.reverse()
        return spans

    def _forget(self, but: Set[Key]) -> None:
        """Without the lock: a page must not wait while another request looks at the stamps of a large file."""
        for key in list(self._scanned):
            if key not in but:
                self._scanned.pop(key, None)

    def _scan(self, handle: Handle) -> Index:
        """Return the index of a file that nobody appends to, made now or known from before."""
        file = handle.known.file
        known = self._scanned.get(file.key)
        if known is None or known[0].size != file.size or known[0].changed != file.changed:
            with self._lock:
                known = self._scanned.get(file.key)
                if known is None or known[0].size != file.size or known[0].changed != file.changed:
                    known = self._scanned[file.key] = (file, scan(handle.fd(), file.size))
        return known[1]

    def _old(self, segment: Segment, handle: Handle) -> Index:
        """Return the index of what was in the file before it was opened for appending."""
        if segment.old is None:
            with self._lock:
                if segment.old is None:
                    known = self._scanned.pop(segment.key, None)
                    if known is not None and known[1].end == segment.base:
                        segment.old = known[1]
                    else:
                        segment.old = scan(handle.fd(), segment.base)
        return segment.old

    def _filtered(
        self, spans: List[Span], selection: LineFilter, first: int, last: int, ascending: bool
    ) -> Tuple[List[bytes], int]:
        """Return the lines from `first` to before `last` of those that pass, and how many pass in all."""
        lines: List[bytes] = []
        total = 0
        for group in self._matches(spans, selection, ascending):
            low, high = max(first - total, 0), min(last - total, group.passing)
            if low < high and ascending:
                lines += group.take(low, high)
            elif low < high:
                lines += reversed(group.take(group.passing - high, group.passing - low))
            total += group.passing
        return lines, total

    def _matches(self, spans: List[Span], selection: LineFilter, ascending: bool) -> Iterator[Group]:
        """Give for each group of entries how many lines pass; groups of which none can pass are not read."""
        for span in spans if ascending else reversed(spans):
            index = span.table
            if selection.timed and index.least is None:
                with self._lock:
                    index.add_stamps(span.handle.read)
            groups = span.groups()
            for first, last in groups if ascending else reversed(groups):
                timed = selection.timed
                if timed:
                    assert index.least is not None and index.greatest is not None
                    least, greatest = min(index.least[first:last]), max(index.greatest[first:last])
                    if selection.misses(least, greatest):
                        continue
                    timed = not selection.covers(least, greatest)
                start, stop = span.first_line(first), span.first_line(last)
                offset, size = span.bounds(first, last)
                if timed or not selection.whole_groups:
                    lines = _select(selection, span.handle.read(offset, size), timed)
                    if lines:
                        yield Group(span, offset, start, len(lines), lines)
                else:
                    yield Group(span, offset, start, stop - start, None)

    def tail(self, count: int, query: LogQuery) -> Optional[Tuple[Known, int, int]]:
        """Return where the last `count` lines that pass begin: a file, an offset, and how many to skip from there."""
        return self._steady(lambda: self._tail(count, LineFilter(query)))

    def _tail(self, count: int, selection: LineFilter) -> Optional[Tuple[Known, int, int]]:
        with self.spans() as spans:
            position: Optional[Tuple[Known, int, int]] = None
            if selection.timed or not selection.whole_groups:
                _hold(span.handle for span in spans)
            for group in self._matches(spans, selection, False) if count else ():
                count -= group.passing
                position = (group.span.handle.known, group.offset, max(-count, 0))
                if count <= 0:
                    return position
            if position is None and spans:
                return (spans[-1].handle.known, spans[-1].end, 0)
            return position

    def raw_tail(self, most: Optional[int]) -> Iterator[bytes]:
        """Return an iterator over the log's last bytes as they are; see LogFile.raw_tail. To be closed."""
        def begin() -> Iterator[bytes]:
            stream = self._raw(*self._parts(most))
            next(stream)  # only one that has begun closes its files when it is closed, or thrown away by `_steady`
            return stream

        return self._steady(begin)

    def _parts(self, most: Optional[int]) -> Tuple[List[Tuple[Handle, int]], bool]:
        """Return the files with the offset to begin at, oldest first, and whether that is in the middle of a line."""
        parts: List[Tuple[Handle, int]] = []
        left = most
        for known in self.files():
            parts.append((Handle(self._source, known), 0 if left is None else max(known.end - left, 0)))
            if left is not None:
                left -= known.end
                if left <= 0:
                    break
        return parts[::-1], left is not None and left < 0

    def _raw(self, parts: List[Tuple[Handle, int]], cut: bool) -> Iterator[bytes]:
        """Give nothing first, then each file from its offset on; with `cut`, the first is in the middle of a line."""
        try:
            _hold(handle for handle, _ in parts)
            yield b""
            for handle, first in parts:
                end, start = handle.known.end, first
                try:
                    if cut:
                        start = _line_start(handle, start, end)
                        cut = False
                    for offset in range(start, end, PIECE // 4):
                        yield handle.read(offset, min(PIECE // 4, end - offset))
                except Changed:
                    continue  # it was emptied meanwhile, or is one of very many and rotated away
                finally:
                    handle.close()
        finally:
            for handle, _ in parts:
                handle.close()


def _line_start(handle: Handle, offset: int, end: int) -> int:
    """Return where the first line begins that begins at `offset` or after it."""
    if offset == 0:
        return 0
    offset -= 1
    while offset < end:
        data = handle.read(offset, min(PIECE // 4, end - offset))
        newline = data.find(b"\n")
        if newline >= 0:
            return offset + newline + 1
        offset += len(data)
    return end


def _hold(handles: Iterable[Handle]) -> None:
    """Open the oldest files, so that rotations meanwhile do not delete them. Raises Changed, OSError."""
    for handle in itertools.islice(handles, _HELD):
        handle.fd()


def _select(selection: LineFilter, data: bytes, timed: bool) -> List[bytes]:
    """Return the lines that pass."""
    lines: List[bytes] = []
    start = 0
    while start < len(data):
        end = data.find(b"\n", start + _SEARCHED - 1) + 1 or len(data)
        with turn:
            lines += selection.select(data[start:end], timed)
        start = end
    return lines


def _segment(view: View, file: Found) -> Optional[Segment]:
    """Return what is known of a file, or None if its size says that it was changed from outside."""
    segment = view.latest(file.key)
    if segment is view.segment:
        return segment if file.size >= view.end else None
    return segment if segment is not None and file.size == segment.new.end else None


def _plain(spans: List[Span], first: int, last: int) -> List[bytes]:
    """Return the lines from `first` to before `last`, counted through all spans."""
    lines: List[bytes] = []
    for span in spans:
        if first < span.lines and last > 0:
            lines += span.read_lines(max(first, 0), min(last, span.lines))
        first -= span.lines
        last -= span.lines
    return lines
