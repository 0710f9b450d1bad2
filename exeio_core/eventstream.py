"""`GET /events`: changes of processes as server-sent events, resumable by the id of the last one that was seen."""

from __future__ import annotations

import json
from typing import Iterator, Optional

from .events import Events, to_json
from .streams import HEARTBEAT, event

_BEGINNING = b"retry: 1000\n: following\n\n"
_HEARTBEAT = b": still here\n\n"


class EventStream:
    """An iterator of blocks of bytes for `Reply.stream`; `close` may be called by another thread."""

    def __init__(self, events: Events, id: Optional[str], last_id: Optional[str]) -> None:
        """`id`: only changes of this process. `last_id`: go on behind this event, else with what happens from now on.

        One of an earlier exeio means from this one's start on.
        """
        self._events = events
        self._id = id
        self._seen = _number(last_id, events) if last_id else events.last
        self._begun = False
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._begun:
            self._begun = True
            return _BEGINNING  # at once, so that the client sees that it is connected
        changes, missed = self._events.after(self._seen, HEARTBEAT, lambda: self._closed)
        if self._closed and not changes:
            raise StopIteration
        if not changes:
            return _HEARTBEAT
        self._seen = changes[-1].number
        block = event(json.dumps({"missed": missed}), name="gap") if missed else b""
        for change in changes:
            if self._id is None or change.id == self._id:
                block += event(json.dumps(to_json(change)), f"{self._events.epoch}-{change.number}")
        return block

    def close(self) -> None:
        """End the stream."""
        self._closed = True
        self._events.wake()


def _number(last_id: str, events: Events) -> int:
    """Return the number that an id stands for, 0 for one that is not of this exeio."""
    epoch, _, number = last_id.partition("-")
    if epoch == events.epoch and number.isascii() and number.isdigit() and len(number) < 19:
        return min(int(number), events.last)
    return 0
