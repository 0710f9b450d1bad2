"""A process's log as it is written: lines are appended whole, the file is rotated, and what is lost is counted.

How lines become stamped blocks is in logstream, reading in logread and logfollow. They meet in `view`: what has been
appended is published there in one assignment, so readers never wait for a lock that appending needs.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import stat
import threading
import time
from typing import Callable, Deque, Dict, Iterator, List, Optional, Tuple, Union

from . import logfiles
from .logfollow import Follower
from .logindex import PIECE, Segment, View
from .logline import number_of, prefix_of, stamp, system_line
from .logquery import LogQuery
from .logread import LogReader
from .logstream import LogStream

__all__ = ["Follower", "LogFile", "LogQuery", "LogStream"]

_CHECK_SECONDS = 0.5  # how long a rename, truncation or deletion from outside can go unnoticed while lines come
_SETTLE_SECONDS = 1.0  # how long who reads waits for lines that were said, and cannot be written
_RETRY_SECONDS = 1.0  # until a rotation that failed is tried again
_BLOCK = PIECE // 2  # bytes written at once: an entry of the index is not to get larger than a piece that is searched
_KEPT = 10  # files renamed from outside whose indexes are kept

Part = Union[bytes, memoryview]


class LogFile:
    """The log at `path`; any thread may append, any thread may read. Appending never raises for trouble with the file.

    Nothing is opened before the first line. `address` is the host:port of SYSTEM lines. `echo`, where it is set, gets
    each block of whole lines as they came, without stamps, and must not block. `dropped_lines` counts what could not be
    written since exeio's start, `written_bytes` and `written_lines` what was. With `max_bytes` 0 it is never rotated.
    """

    __slots__ = (
        "_blocked_until", "_checked", "_closed", "_crowd", "_end", "_ended", "_fd", "_followers", "_lock", "_lost",
        "_purged", "_reader", "_reason", "_segment", "_serial", "_streams", "_untrimmed", "address", "backups",
        "cleared", "dropped_lines", "echo", "max_bytes", "moving", "path", "said", "view", "written_bytes",
        "written_lines")

    def __init__(self, path: str, max_bytes: int, backups: int, address: str) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.backups = backups
        self.address = address
        self.dropped_lines = self.written_bytes = self.written_lines = 0
        self.echo: Optional[Callable[[bytes], None]] = None
        self.view: Optional[View] = None
        self.cleared = 0
        self.moving = False
        self._reader: Optional[LogReader] = None
        self._streams: Tuple[LogStream, ...] = ()
        self._followers: Tuple[Follower, ...] = ()
        # Guards the file: its descriptor, its end, what is lost, its rotation. Under it only file operations of this
        # log; never another lock, a callback, or a wait for a reader.
        self._lock = threading.Lock()
        # Guards changes of the two tuples above, so that requests need not take the one before. A leaf.
        self._crowd = threading.Lock()
        self._fd = -1
        self._end = 0  # where the file ends if nobody else changes it
        self._segment: Optional[Segment] = None
        self._serial = 0
        self._checked = 0.0
        self._blocked_until = 0.0
        self._untrimmed = 0  # bytes of a torn line that stand at the end of the file
        self._lost = 0  # lines lost since the last gap line
        self._reason = ""
        self.said: Deque[bytes] = collections.deque()  # SYSTEM lines to be written first; taking no lock to put one in
        self._purged = False
        self._closed = False
        self._ended = False  # no follower is woken any more

    # Appending.

    def stream(self, name: bytes, run: Optional[int] = None) -> LogStream:
        """Return a new stream of lines marked `name` (STDOUT or STDERR), and RUN#n where `run` is given."""
        return LogStream(self, prefix_of(name, run))

    def system(self, message: str) -> None:
        """Append one SYSTEM line; what could end a line or steer a terminal is shown escaped."""
        self.say(message)
        self.write_said()

    def say(self, message: str) -> None:
        """Have a SYSTEM line appended by who writes or reads next, by `write_said` at the latest; never blocks."""
        self.said.append(system_line(self.address, message))

    def write_said(self) -> None:
        """Append what was said, if that has not happened yet."""
        if self.said:
            self.append([], 0, 0, 0)

    def append(self, parts: List[Part], size: int, lines: int, number: int) -> None:
        """Append whole lines, `size` bytes in all, with the stamp `number`; what cannot be written is counted."""
        with self._lock:
            if size and not self._purged:
                self._append_said()
                self._append(parts, size, lines, number)
            self._append_said()
        if self._followers:
            self.poke()

    def prepare(self) -> None:
        """Open the file, if it is not; an error shows when there is something to write."""
        with self._lock, contextlib.suppress(OSError):
            if self._fd < 0 and not (self._purged or self._closed):
                self._open()

    def settle(self) -> None:
        """Append what was said, look at the file anew, state lines that were lost; unless somebody appends for long."""
        late = self._fd >= 0 and time.monotonic() - self._checked >= _CHECK_SECONDS
        if (self.said or self._lost or late) and self._lock.acquire(timeout=_SETTLE_SECONDS if self.said else 0):
            try:
                self._append_said()
                if (self._lost or late) and not (self._purged or self._closed):
                    self._append([], 0, 0, stamp()[2])
            finally:
                self._lock.release()
            self.poke()

    def _append_said(self) -> None:
        """Caller holds the lock. A line is taken out when it can be read, so that nobody passes by."""
        for second, group in itertools.groupby(tuple(self.said), lambda line: line[:20]):
            lines: List[Part] = [*group]
            if not self._purged:
                self._append(lines, sum(map(len, lines)), len(lines), number_of(second))
            for _ in lines:
                self.said.popleft()
        if self._closed:
            self._close()

    def _append(self, parts: List[Part], size: int, lines: int, number: int) -> None:
        """Caller holds the lock."""
        now = time.monotonic()
        try:
            if self._fd < 0:
                self._open()
            elif now - self._checked >= _CHECK_SECONDS:
                self._check(now)
            self._trim()
        except OSError as error:
            self._lose(lines, error)
            return
        if self._lost:
            gap = self._gap_line()
            parts, size = [gap, *parts], size + len(gap)
        limit = self.max_bytes if now >= self._blocked_until else 0
        if size > _BLOCK or (limit and self._end + size > limit):
            self._append_pieces(b"".join(parts), number, now)
        else:
            self._write(parts, size, lines, number)

    def _gap_line(self) -> bytes:
        return system_line(self.address, f"{self._lost} line{'s' * (self._lost > 1)} lost: {self._reason}")

    def _lose(self, lines: int, error: OSError) -> None:
        self._reason = error.strerror or str(error)
        self._lost += lines
        self.dropped_lines += lines

    def _append_pieces(self, data: bytes, number: int, now: float) -> None:
        """Write lines as far as they fit, rotate, and go on; no piece is larger than _BLOCK. Caller holds the lock."""
        view = memoryview(data)
        start = 0
        while start < len(data):
            limit = self.max_bytes if now >= self._blocked_until else 0
            room = min(_BLOCK, limit - self._end) if limit else _BLOCK
            cut = len(data) if len(data) - start <= room else data.rfind(b"\n", start, start + max(room, 0)) + 1
            if cut <= start:
                if limit and self._end:
                    self._rotate(now)
                    continue
                cut = data.find(b"\n", start) + 1  # a line that is larger than a whole file may be
            lines = data.count(b"\n", start, cut)
            gap = 1 if self._lost else 0
            if not self._write([view[start:cut]], cut - start, lines - gap, number):
                rest = data.count(b"\n", cut)
                self._lost += rest
                self.dropped_lines += rest
                return
            start = cut

    def _write(self, parts: List[Part], size: int, lines: int, number: int) -> bool:
        """Write all, else what whole lines have room, else, where a gap has to be stated first, nothing.

        `lines` does not count the line of the gap. Caller holds the lock.
        """
        assert self._segment is not None
        done = 0
        try:
            done = os.writev(self._fd, parts)
            if done < size:
                rest = memoryview(b"".join(parts))
                while done < size:
                    done += os.write(self._fd, rest[done:])
        except OSError as error:
            written = b"" if self._lost else b"".join(parts)[:done]
            kept = written.count(b"\n")
            whole = written.rfind(b"\n") + 1
            self._lose(lines - kept, error)
            self._extend(whole, kept, number)
            self._untrimmed = done - whole
            with contextlib.suppress(OSError):  # tried again before the next write
                self._trim()
            return False
        self._extend(size, lines + 1 if self._lost else lines, number)
        self._lost = 0
        return True

    def _trim(self) -> None:
        """Take away a torn line, from wherever the end is by now. Raises OSError. Caller holds the lock."""
        if self._untrimmed:
            os.ftruncate(self._fd, max(0, os.fstat(self._fd).st_size - self._untrimmed))
            self._untrimmed = 0
            if logfiles.is_hole(self._fd):  # who makes room has emptied it between the two calls
                os.ftruncate(self._fd, 0)

    def _extend(self, size: int, lines: int, number: int) -> None:
        """Publish what has been written. Caller holds the lock."""
        if size:
            assert self._segment is not None
            other = stamp()[2] if self._lost else number  # the line of a gap has its own stamp
            self._segment.new.grow(size, lines, min(number, other), max(number, other))
            self._end += size
            self.written_bytes += size
            self.written_lines += lines
            self._publish()

    def _publish(self) -> None:
        segment = self._segment
        assert segment is not None
        self.view = View(segment, self._end, segment.new.lines, self.view.older if self.view is not None else ())

    # The file, and who else may change it. Callers hold the lock.

    def _open(self) -> None:
        """Open the file; what is known of it stays valid if nobody changed it meanwhile. Raises OSError."""
        fd, key, size = logfiles.open_for_appending(self.path)
        self._fd = fd
        self._checked = time.monotonic()
        self._untrimmed = 0
        if self._segment is None or self._segment.key != key or self._end != size:
            self._begin(key, size)

    def _begin(self, key: logfiles.Key, size: int) -> None:
        """Go on in a file that holds `size` bytes of which nothing is known."""
        previous = self._segment
        older = self.view.older if self.view is not None else ()
        if previous is not None and previous.key != key:
            older = (*older, previous)[-max(self.backups, _KEPT) :]
        self._serial += 1
        self._segment = Segment(key, size, self._serial)
        self._end = size
        self.view = View(self._segment, size, 0, older)

    def _check(self, now: float) -> None:
        """Notice that the file was renamed, deleted or truncated. Raises OSError."""
        assert self._segment is not None
        self._checked = now
        found: Optional[os.stat_result] = None
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self.path)
        if found is None or (found.st_dev, found.st_ino) != self._segment.key:
            self._close()
            self._open()
        elif found.st_size != self._end and not self._untrimmed:
            self.cleared += 1
            size = found.st_size + logfiles.end_line(self._fd, found.st_size)
            self._begin(self._segment.key, size)
            self.cleared += 1

    def _rotate(self, now: float) -> None:
        """Begin a new file; if that fails, go on in the old one and try again later."""
        self.moving = True
        try:
            mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
            fd, key = logfiles.rotate(self.path, self.backups, mode)
        except OSError:
            self._blocked_until = now + _RETRY_SECONDS
        else:
            self._close()
            self._fd = fd
            self._begin(key, 0)
        finally:
            self.moving = False

    def _close(self) -> None:
        """Close the file. An error (a network file system tells here that the disk is full) can be told to nobody."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def configure(self, max_bytes: int, backups: int) -> None:
        """Set the limit in bytes (0: never rotate) and the number of rotated files, from the next rotation on."""
        with self._lock:
            self.max_bytes, self.backups = max_bytes, backups

    def clear(self) -> None:
        """Empty the log, its rotated files too. Raises OSError; lines that come meanwhile are kept."""
        with self._lock:
            self.said.clear()
            self._do_away(lambda path: os.truncate(path, 0))
        self.poke()

    def purge(self) -> None:
        """Delete the log and its rotated files, for good: lines that come later are not written. Raises OSError."""
        with self._lock:
            self._purged = True
            self._do_away(os.unlink)
        self._end_followers()

    def _do_away(self, with_file: Callable[[str], None]) -> None:
        """Delete the rotated files and do `with_file`; what there is then is looked at before the next line."""
        self.cleared += 1
        try:
            logfiles.delete_rotated(self.path)
            with contextlib.suppress(FileNotFoundError):
                with_file(self.path)
        finally:
            self._close()
            self._segment = None
            self.view = None
            self.cleared += 1

    def close(self) -> None:
        """Close the file and end all followers; a later line opens the file again, for a moment."""
        with self._lock:
            self._append_said()
            self._closed = True
            self._close()
        self._end_followers()

    # Who has an unfinished line, and who follows.

    def enlist(self, stream: LogStream) -> None:
        """Take note that this stream may hold an unfinished line."""
        with self._crowd:
            self._streams += (stream,)

    def strike(self, stream: LogStream) -> None:
        """Forget a stream that holds none any more."""
        with self._crowd:
            self._streams = tuple(other for other in self._streams if other is not stream)

    def partials(self) -> Tuple[bytes, ...]:
        """Return the unfinished lines, each with the prefix that it would get now."""
        return tuple(part for part in [stream.partial() for stream in self._streams] if part)

    def poke(self) -> None:
        """Tell followers that there is something new."""
        for follower in self._followers:
            follower.poke()

    def _end_followers(self) -> None:
        with self._crowd:
            self._ended = True
            followers, self._followers = self._followers, ()
        for follower in followers:
            follower.end()

    def leave(self, follower: Follower) -> None:
        """Do not poke this follower any more."""
        with self._crowd:
            self._followers = tuple(other for other in self._followers if other is not follower)

    # Reading.

    @property
    def reader(self) -> LogReader:
        """What reads this log; made by the first who asks."""
        if self._reader is None:
            self._reader = LogReader(self)
        return self._reader

    def page(self, query: LogQuery) -> Dict[str, object]:
        """Return the page as the API shows it: `success page page_size total_lines total_pages logs`.

        Page 1 has `partial` where streams hold unfinished lines: these, each as it would be written now, joined by
        newlines. Raises Failed or Unavailable where the files cannot be read.
        """
        self.settle()
        return self.reader.page(query)

    def raw_tail(self, max_bytes: Optional[int] = None) -> Iterator[bytes]:
        """Give the last `max_bytes` (None: all) through all files as they are, from the begin of a line on.

        Raises Failed or Unavailable where the files cannot be read.
        """
        self.settle()
        return self.reader.raw_tail(max_bytes)

    def follow(
        self, query: LogQuery, last_id: Optional[str] = None, event: Optional[threading.Event] = None
    ) -> Follower:
        """Return a follower of the lines that pass `query`'s filters, from the last `page_size` of them on.

        With the `last_id` of an earlier follower it goes on after that line. Followers that share an `event` are
        waited for together: wait for it, clear it, then read each with timeout 0.
        """
        self.settle()
        follower = Follower(self, query, last_id, event)
        with self._crowd:
            if self._ended:
                follower.end()  # the log was closed by a request that was quicker
            else:
                self._followers += (follower,)
        return follower
