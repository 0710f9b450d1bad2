"""The command `logs` for several processes: their lines in the order of time, each behind its process's id."""

from __future__ import annotations

import fnmatch
import heapq
import json
import re
from typing import Dict, Iterator, List, Sequence, Tuple

from exeio_core.client import Client, Event
from exeio_core.client_logs import Query, page, what_is_asked
from exeio_core.client_many import chosen, ids, is_pattern, path_of
from exeio_core.client_options import Call
from exeio_core.client_output import coloured, colours_wanted, complain, log_line, print_json
from exeio_core.errors import NotFound
from exeio_core.options import program

Line = Tuple[str, str]  # the process's id, and the line as it stands in its log

_STAMP = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\]")
_TAGGED = re.compile(r"\[([^\]\s]+)\] (.*)", re.DOTALL)
# For ids, one after the other; red and cyan are those of STDERR and SYSTEM.
_COLOURS = ("32", "33", "34", "35", "92", "93", "94", "95")


def show_all_logs(client: Client, call: Call) -> int:
    """Carry out `logs` on several processes, all where none is named. Returns the exit status."""
    count, query = what_is_asked(call)
    if call.options.follow:
        _check(client, call.words)
        _follow(client, call, query, count)
        return 0
    listed = chosen(client, call.words) if call.words else ids(client)
    logs = [_lines(client, id, query, count) for id in listed]
    merged = [line for _, line in heapq.merge(*map(_keyed, logs), key=lambda each: each[0])][-count:]
    if call.json:
        print_json({"success": True, "logs": [{"id": id, "line": line} for id, line in merged]})
    else:
        printer = _Printer(listed)
        for id, line in merged:
            print(printer.shown(id, line))
    return 0


def _lines(client: Client, id: str, query: Query, count: int) -> List[Line]:
    return [(id, line) for line in page(client, path_of("logs", id), query, count)["logs"]]


def _keyed(lines: Sequence[Line]) -> Iterator[Tuple[str, Line]]:
    """The lines with the time that each is from; one without a stamp belongs to the one before it."""
    stamp = ""
    for id, line in lines:
        match = _STAMP.match(line)
        # Not before the line above it, also where the clock was set back: the order within a log stays.
        stamp = max(stamp, match[0]) if match else stamp
        yield stamp, (id, line)


class _Printer:
    """Gives each id its colour and all of them one width, so that the lines stand in a column."""

    def __init__(self, listed: Sequence[str]) -> None:
        self._colour = colours_wanted()
        self._width = max(map(len, listed), default=0)
        self._colours: Dict[str, str] = {}

    def shown(self, id: str, line: str) -> str:
        """`[id] line`, as the supervisor's own --echo writes it."""
        tag = f"[{id}]"
        if not self._colour:
            return f"{tag} {line}"
        colour = self._colours.setdefault(id, _COLOURS[len(self._colours) % len(_COLOURS)])
        return coloured(tag.ljust(self._width + 2), colour) + " " + log_line(line, True)


def _check(client: Client, words: Sequence[str]) -> None:
    """See that what is to be followed exists; raises NotFound. What a pattern matches may also come later."""
    present = ids(client) if words else []
    for word in words:
        if not is_pattern(word) and word not in present:
            raise NotFound(f"there is no process {word!r}; `{program()} list` shows what there is")


def _follow(client: Client, call: Call, query: Query, count: int) -> None:
    """Print the lines of all logs as they come, those that are wanted. Raises ExeioError."""
    wanted = re.compile("|".join(map(fnmatch.translate, call.words)) or ".*")
    printer = _Printer([word for word in call.words if not is_pattern(word)])
    first = True
    for block in _blocks(client, {**query, "follow": "true", "page_size": count}):
        lines = [line for line in map(_parted, block) if wanted.match(line[0])]
        # A block has one log after the other.
        lines = [line for _, line in sorted(_in_order(lines), key=lambda each: each[0])]
        for id, line in lines[-count:] if first else lines:
            print(json.dumps({"id": id, "line": line}, ensure_ascii=False) if call.json else printer.shown(id, line))
        first = False
        print(end="", flush=True)


def _in_order(lines: Sequence[Line]) -> Iterator[Tuple[str, Line]]:
    """What `_keyed` gives, for each log by itself."""
    logs: Dict[str, List[Line]] = {}
    for line in lines:
        logs.setdefault(line[0], []).append(line)
    for log in logs.values():
        yield from _keyed(log)


def _blocks(client: Client, query: Query) -> Iterator[List[Event]]:
    """The events of GET /logs in the blocks they were sent in: the last of each has the id.

    Of a block that was cut off nothing is taken, since the next connection repeats it.
    """
    block: List[Event] = []
    for event in client.follow("/logs", query, complain):
        if event.kind == "open":
            block = []
        elif event.kind == "message":
            block.append(event)
            if event.id is not None:
                yield block
                block = []


def _parted(event: Event) -> Line:
    match = _TAGGED.match(event.data)
    return (match[1], match[2]) if match else ("", event.data)
