"""Following a log: each follower reads the files at its own pace, through rotations, and can be resumed by an id.

An id says after which line to go on: the file's inode, the offset after the line, the line's stamp, and a checksum of
the line's end. The checksum is compared before each read, so a file that was emptied, copied or replaced is noticed,
and the place is looked for in all files. If it is nowhere, following goes on with the oldest lines that came later.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import zlib
from typing import List, NamedTuple, Optional, Protocol, Tuple

from . import logfiles
from .errors import Failed
from .logfiles import Changed, Key
from .logindex import PIECE
from .logline import STAMP, shown, stamp, stamp_number, stamp_of
from .logquery import LineFilter, LogQuery
from .logread import LogReader
from .logspan import Known, Source, open_known
from .turn import turn

_ANCHOR = 128  # bytes before a position that tell whether it is still the same
_READ = PIECE // 32  # what is read at once, and made into events within a turn
_PAUSE = 0.001
_GONE = "[…] earlier lines are gone: the log was cleared, or rotated faster than it is read here"
_ID = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,15})-(\d{1,14})-([0-9a-f]{1,8})", re.ASCII)


class Followed(Source, Protocol):
    """The log that is followed."""

    @property
    def reader(self) -> LogReader: ...

    def leave(self, follower: Follower) -> None: ...


class Place(NamedTuple):
    """After which line to go on: its file's inode, the offset after it, its stamp's number, the checksum of its end."""

    inode: int
    offset: int
    stamp: int
    check: int


class Follower:
    """Reads a log as it grows; for one thread, which must close it. `ended`: the log was closed, no more will come."""

    __slots__ = (
        "_event", "_fd", "_filter", "_gap", "_key", "_log", "_partial", "_place", "_serial", "_shared", "_skip",
        "ended",
    )  # fmt: skip

    def __init__(
        self, log: Followed, query: LogQuery, last_id: Optional[str], event: Optional[threading.Event]
    ) -> None:
        self.ended = False
        self._log = log
        self._filter = LineFilter(query) if query.filters else None
        # Set by who appends and by `end`. The reading thread clears it before it looks, so that nothing is missed.
        self._event = event if event is not None else threading.Event()
        self._shared = event is not None
        self._fd = -1
        self._key: Optional[Key] = None
        self._place = Place(0, 0, stamp()[2], 0)
        self._serial = -1  # of the file, where it is known
        self._skip = 0  # lines still to be left out
        self._gap = False  # whether to say that lines are gone
        self._partial = ""
        match = _ID.fullmatch(last_id) if last_id else None
        if match is not None:  # the first read looks for it
            inode, offset, number, check = match.groups()
            self._place = Place(int(inode, 16), int(offset, 16), int(number), int(check, 16))
            return
        try:
            self._start(query)
        except OSError as error:
            raise Failed(f"the log cannot be read: {error.strerror or error}") from error

    @property
    def id(self) -> str:
        """The id after which nothing has been read yet; for the reading thread."""
        return _id(*self._place)

    def poke(self) -> None:
        """Wake the reading thread. Called by who appends; never waits for anything."""
        if not self._event.is_set():
            self._event.set()

    def end(self) -> None:
        """Tell the reading thread that no more will come."""
        self.ended = True
        self._event.set()

    def close(self) -> None:
        """Stop following."""
        self._log.leave(self)
        self._close()

    def read(self, timeout: float) -> Tuple[List[Tuple[str, str]], Optional[str]]:
        """Wait up to `timeout` seconds for something new; return lines as (id, text), and the unfinished lines.

        The unfinished lines are as in a page's `partial`; "" where there are none any more, None if nothing changed
        since the last time. Where `ended` is true and no line is returned, it was the last. A line whose id is "" is
        not from the log: it says that lines before the next one are gone.
        """
        deadline = time.monotonic() + timeout
        while True:
            if not self._shared:
                self._event.clear()
            lines, more = self._collect()
            partial = None if more else self._new_partial()
            if self._shared and more:
                self._event.set()  # or the rest would wait for the next line
            if self._shared and not more:
                self._close()  # who follows many logs shall not hold a descriptor of each
            left = deadline - time.monotonic()
            if lines or partial is not None or left <= 0 or (self.ended and not more):
                return lines, partial
            if not more:
                self._event.wait(left)

    def _new_partial(self) -> Optional[str]:
        parts = self._log.partials()
        if self._filter is not None:
            parts = tuple(part for part in parts if self._filter.select(part, True))
        text = shown(b"\n".join(parts))
        if text == self._partial:
            return None
        self._partial = text
        return text

    def _collect(self) -> Tuple[List[Tuple[str, str]], bool]:
        """Return new lines, and whether to look again at once."""
        try:
            if self._fd < 0 and not self._open():
                return [], False
            if self._gap:
                self._gap = False
                return [("", _GONE)], True
            end, final = self._end()
            offset = self._place.offset
            back = min(offset, _ANCHOR)
            size = _READ
            while True:
                wanted = max(min(size, end - offset), 0)
                data = os.pread(self._fd, back + wanted, offset - back)
                if back and _checksum(data[:back]) != self._place.check:
                    self._seek()
                    return [], self._fd >= 0
                cut = data.rfind(b"\n", back) + 1
                if cut or len(data) < back + wanted or wanted < size:
                    break
                size *= 2  # a line this long is none of ours
            if cut > back:
                with turn:
                    return self._events(data[back:cut]), True
            if not final:
                return [], False
            if len(data) > back:  # the file's last line has no newline, and never will
                return self._events(data[back:] + b"\n", unended=True), True
            return self._advance()
        except Changed:  # a rotation goes on
            time.sleep(_PAUSE)
            return [], True
        except OSError:  # no descriptor to be had, no permission: the next wake-up tries again
            self._close()
            return [], False

    def _events(self, data: bytes, unended: bool = False) -> List[Tuple[str, str]]:
        """Move on over whole lines; return those that pass. `unended`: the last newline is not in the file."""
        inode, offset, number, check = self._place
        end = offset + len(data)
        events = []
        stamped = b""
        for line in data[:-1].split(b"\n"):
            offset += len(line) + 1
            check = zlib.crc32(line[1 - _ANCHOR :] + b"\n")
            if unended and offset == end:
                offset, check = offset - 1, zlib.crc32(line[-_ANCHOR:])
            if line[:22] != stamped:
                match = STAMP.match(line)
                if match is not None:
                    stamped, number = match[0], stamp_number(match[1])
            if self._filter is not None and not self._filter.select(line, True):
                continue
            if self._skip:
                self._skip -= 1
                continue
            events.append((_id(inode, offset, number, check), shown(line)))
        self._place = Place(inode, offset, number, check)
        return events

    # Which file, and where in it.

    def _end(self) -> Tuple[int, bool]:
        """Return up to where the file can be read now, and whether it will not grow any more."""
        view = self._log.view
        if view is None:
            final = False
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(self._log.path)
                final = (status.st_dev, status.st_ino) != self._key
            return os.fstat(self._fd).st_size, final
        if view.segment.key == self._key:
            self._serial = view.segment.serial
            return view.end, False
        for segment in reversed(view.older):
            if segment.key == self._key:
                self._serial = segment.serial
                break
        return os.fstat(self._fd).st_size, True

    def _advance(self) -> Tuple[List[Tuple[str, str]], bool]:
        """Go on with the next newer file, if there is one; the place in this one is its end."""
        files = self._log.reader.files()
        for newer, known in zip([None, *files], files):
            if known.file.key == self._key:
                if newer is None:
                    return [], False
                self._enter(newer, 0)
                return [], True
        # This file is gone. What came after it is known by its serial number, or else by its time.
        later = [known.segment.serial for known in files if known.segment and known.segment.serial > self._serial]
        if self._serial >= 0 and later:
            serial = min(later)
            lost = serial > self._serial + 1
            self._enter(next(known for known in files if known.segment and known.segment.serial == serial), 0)
            self._gap = lost
            return [], True
        self._go_on(files)
        return [], self._fd >= 0

    def _start(self, query: LogQuery) -> None:
        """Go to where the last lines begin. Raises OSError, Failed, Unavailable."""
        while True:
            start = self._log.reader.tail(query.page_size, query)
            if start is None:
                return
            known, offset, self._skip = start
            with contextlib.suppress(Changed):
                self._enter(known, offset)
                return

    def _open(self) -> bool:
        """Open the file again, or find the first one. Raises OSError, Changed."""
        if self._key is not None:
            with contextlib.suppress(Changed):
                fd = logfiles.open_key(self._log.path, self._key, self._log.backups)
                view = self._log.view
                segment = view.latest(self._key) if view is not None else None
                if segment is None or self._serial < 0 or segment.serial == self._serial:
                    self._fd = fd
                    return True
                os.close(fd)
        if self._place.inode:
            self._seek()
            return self._fd >= 0
        files = self._log.reader.files()
        if not files:
            return False
        self._enter(files[-1], 0)
        return True

    def _enter(self, known: Known, offset: int) -> None:
        """Go to a place in another file. Raises OSError, Changed; all is as before then."""
        fd = open_known(self._log, known)
        back = min(offset, _ANCHOR)
        check = _checksum(os.pread(fd, back, offset - back)) if back else 0
        self._close()
        self._fd, self._key = fd, known.file.key
        self._serial = known.segment.serial if known.segment is not None else -1
        self._place = Place(self._key[1], offset, self._place.stamp, check)

    def _seek(self) -> None:
        """Find the place again, in whatever file it stands now. Raises OSError, Changed; the place is kept then."""
        place = self._place
        files = self._log.reader.files()
        if self._key is None and not place.offset and (begun := _empty_then(files, place)) is not None:
            self._enter(begun, 0)
            return
        try:
            # At the begin of a file there is nothing else to know it by.
            for known in sorted(files, key=lambda known: known.file.key[1] != place.inode) if place.offset else ():
                if known.end >= place.offset:
                    self._enter(known, place.offset)
                    if self._place.check == place.check:
                        return
        finally:
            if self._place.check != place.check:
                self._place = place
        self._close()
        self._key = None
        self._go_on(files)

    def _go_on(self, files: List[Known]) -> None:
        """The place is nowhere: go on with the oldest file that was written to after the line before it."""
        later = [known for known in files if stamp_of(known.file.changed // 10**9) >= self._place.stamp]
        if later:
            self._enter(later[-1], 0)
        elif files:
            self._enter(files[0], 0 if files[0].grows else files[0].end)
        self._gap = True

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _empty_then(files: List[Known], place: Place) -> Optional[Known]:
    """Return the file that had no line yet at `place`; None where an older one has been written to since.

    Then it is gone, and another one has got its inode.
    """
    for number, known in enumerate(files):
        if known.file.key[1] == place.inode:
            later = any(stamp_of(older.file.changed // 10**9) > place.stamp for older in files[number + 1 :])
            return None if later else known
    return None


def _id(inode: int, offset: int, number: int, check: int) -> str:
    return f"{inode:x}-{offset:x}-{number}-{check:x}"


def _checksum(before: bytes) -> int:
    """Return the checksum of the last line's end, of the bytes that stand before a place."""
    return zlib.crc32(before[before.rfind(b"\n", 0, -1) + 1 :])
