"""Logs as they grow, for clients: server-sent events of one process or of all of them (WHATWG HTML, section 9.2).

A stream is read by its connection's thread and closed by that one or, at shutdown, by another; nothing in here makes
a process wait.
"""

from __future__ import annotations

import base64
import json
import threading
import zlib
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from .errors import ExeioError
from .logfile import LogFile
from .logfollow import Follower
from .logquery import LogQuery
from .turn import turn

#: Seconds without anything new after which a comment shows that the connection lives.
HEARTBEAT = 15.0
_HEARTBEAT = b": still here\n\n"
#: Bytes from which on an id is packed, and that one may have when it is unpacked again.
_PACKED_FROM = 4096
_UNPACKED = 1 << 20


class LogStream:
    """Server-sent events of the lines of one log; an iterator of blocks of bytes for `Reply.stream`."""

    def __init__(self, log: LogFile, query: LogQuery, last_id: Optional[str]) -> None:
        self._follower = log.follow(query, last_id)
        self._guard = _Guard(self._follower.end, self._follower.close)
        self._begun = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._guard:
            lines, partial = self._follower.read(HEARTBEAT if self._begun else 0)
            if not lines and partial is None:
                if self._follower.ended:
                    raise StopIteration
                if self._begun:
                    return _HEARTBEAT
            # At once, also where the log is empty: the client shall see that it is connected.
            block = b"" if self._begun or lines else b": following\n\n"
            self._begun = True
            with turn:
                block += b"".join([event(text, id) for id, text in lines])
            return block if partial is None else block + event(partial, name="partial")

    def close(self) -> None:
        """End the stream; also by another thread than the one that reads it."""
        self._guard.close()


class AllLogsStream:
    """Server-sent events of the lines of all logs, each line behind its process's id in brackets.

    The id of an event holds the places in all logs, also of those that have said nothing yet, so that a client resumes
    each of them where it was. It stands at the last line of each block: a block that was cut off is repeated.
    """

    def __init__(self, logs: Callable[[], Mapping[str, LogFile]], watch: Callable[[threading.Event, bool], None],
                 query: LogQuery, last_id: Optional[str]) -> None:
        """`logs` gives all logs by process id; `watch` registers (or strikes) an Event that is set when they change."""
        self._logs = logs
        self._watch = watch
        self._query = query
        self._places = _places(last_id)  # where the client was in those that are not followed yet
        self._event = threading.Event()
        self._followers: Dict[str, Tuple[LogFile, Follower]] = {}
        self._ended = False
        self._guard = _Guard(self._end, self._close_all)
        self._begun = False
        watch(self._event, True)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._guard:
            if self._begun and not self._event.wait(HEARTBEAT):
                return _HEARTBEAT
            self._event.clear()
            if self._ended:
                raise StopIteration
            self._follow_new()
            block = [] if self._begun else [b": following\n\n"]
            self._begun = True
            found = [(name, text) for name, (_, one) in self._followers.items() for _, text in one.read(0)[0]]
            places = {name: one.id for name, (_, one) in self._followers.items()} if found else {}
            for number, (name, text) in enumerate(found, 1):
                block.append(event(f"[{name}] {text}", _joined(places) if number == len(found) else ""))
            return b"".join(block)

    def _follow_new(self) -> None:
        """Follow the logs that have come, and leave those that are gone."""
        logs = self._logs()
        for name, (log, follower) in list(self._followers.items()):
            if logs.get(name) is not log:
                follower.close()
                del self._followers[name]
        for name, log in logs.items():
            if name not in self._followers:
                try:
                    self._followers[name] = (log, log.follow(self._query, self._places.pop(name, None), self._event))
                except ExeioError:
                    continue  # its file cannot be read now: it is tried again with the next line of any
                self._event.set()

    def _end(self) -> None:
        self._ended = True
        self._event.set()

    def _close_all(self) -> None:
        self._watch(self._event, False)
        for _, follower in self._followers.values():
            follower.close()

    def close(self) -> None:
        """End the stream; also by another thread than the one that reads it."""
        self._guard.close()


class _Guard:
    """Lets a reader finish before what it reads is closed: by itself on its way out, if `close` comes from outside."""

    def __init__(self, wake: Callable[[], None], dispose: Callable[[], None]) -> None:
        self._wake = wake
        self._dispose = dispose
        # Guards the two flags. A leaf.
        self._lock = threading.Lock()
        self._busy = False
        self._closed = False

    def __enter__(self) -> None:
        with self._lock:
            if self._closed:
                raise StopIteration
            self._busy = True

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._busy = False
            closed = self._closed
        if closed:
            self._dispose()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            busy = self._busy
        self._wake()
        if not busy:
            self._dispose()


def event(text: str, id: str = "", name: str = "") -> bytes:
    """Return one server-sent event.

    A CR or LF in the text would end the line there, and what follows could pass for a field of its own: each piece
    gets its own `data:`.
    """
    pieces: List[str] = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    head = (f"id: {id}\n" if id else "") + (f"event: {name}\n" if name else "")
    return (head + "".join(f"data: {piece}\n" for piece in pieces) + "\n").encode("utf-8")


def _joined(places: Mapping[str, str]) -> str:
    """Return an id of `AllLogsStream`: JSON, packed where it is long (22 bytes for each log instead of 45).

    A client sends it back in a head, which may have 32 KiB.
    """
    text = json.dumps(places, separators=(",", ":"))
    if len(text) < _PACKED_FROM:
        return text
    return base64.b64encode(zlib.compress(text.encode(), 1)).decode("ascii")


def _places(last_id: Optional[str]) -> Dict[str, str]:
    """Return the places that an id of `AllLogsStream` holds; nothing where it is none."""
    try:
        if last_id and last_id[0] != "{":
            last_id = zlib.decompressobj().decompress(base64.b64decode(last_id, validate=True), _UNPACKED).decode()
        found = json.loads(last_id or "{}")
    except (ValueError, RecursionError, zlib.error):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): place for name, place in found.items() if isinstance(place, str)}
