"""The command `logs` for one process: the last lines of its log, oldest first, and what comes after them."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any, Dict, Iterator, List, Optional, Tuple

from exeio_core.client import Client
from exeio_core.client_options import Call, count_option
from exeio_core.client_output import (
    colours_wanted,
    complain,
    is_terminal,
    log_line,
    print_json,
    terminal_width,
)

Query = Dict[str, object]

PAGE = 10_000  # the most that one answer of the API holds
MOST = 10**9
USUAL = 50
_WIPE = "\r\x1b[K"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def what_is_asked(call: Call) -> Tuple[int, Query]:
    """The number of lines and the filters that the options of `logs` give. Raises UsageError."""
    options = call.options
    most = PAGE if options.follow else MOST
    # Who names a beginning wants all from there on.
    count = most if options.since is not None else USUAL
    if options.lines is not None:
        count = count_option("--lines", options.lines, 1, most)
    query: Query = {}
    for name in ("stream", "contains", "since", "until"):
        given: Optional[str] = getattr(options, name)
        if given is not None:
            query[name] = _moment(given) if name in ("since", "until") else given
    return count, query


def _moment(text: str) -> str:
    """A time as the API takes it: "10m" is ten minutes ago; what is no such word stays as it is."""
    match = re.fullmatch("([0-9]{1,8}) ?([smhd])(?: ago)?", text.strip())
    if match is None:
        return text
    ago = datetime.timedelta(seconds=min(int(match[1]) * _SECONDS[match[2]], 10**9))
    return (datetime.datetime.now(datetime.timezone.utc) - ago).strftime("%Y-%m-%d %H:%M:%S")


def show_logs(client: Client, path: str, call: Call) -> int:
    """Carry out `logs` on the path of a process's log; returns the exit status. Raises ExeioError."""
    count, query = what_is_asked(call)
    if call.options.follow:
        _follow(client, path, {**query, "follow": "true", "page_size": count}, call.json)
        return 0
    if count > PAGE and not call.json:
        colour = colours_wanted()
        for line in many_lines(client, path, query, count):
            print(log_line(line, colour))
        return 0
    _print_page(page(client, path, query, count), call.json)
    return 0


def page(client: Client, path: str, query: Query, count: int) -> Dict[str, Any]:
    """The last `count` lines as the API's object, with the lines oldest first."""
    if count > PAGE:
        lines = list(many_lines(client, path, query, count))
        return {"success": True, "total_lines": len(lines), "logs": lines}
    answer: Dict[str, Any] = client.get(path, {**query, "page": 1, "page_size": count})
    if not isinstance(answer.get("logs"), list):
        raise client.stranger()
    return {**answer, "logs": answer["logs"][::-1]}


def many_lines(client: Client, path: str, query: Query, count: int) -> Iterator[str]:
    """The last `count` lines, in pages from the oldest: those do not shift while the log grows."""
    total: int = client.get(path, {**query, "page": 1, "page_size": 1})["total_lines"]
    first = max(0, total - count)
    number, skip = divmod(first, PAGE)
    left = total - first
    while left > 0:
        number += 1
        answer = client.get(path, {**query, "order": "asc", "page": number, "page_size": PAGE})
        lines: List[str] = answer["logs"][skip : skip + left]
        yield from lines
        if not lines:
            return  # the log was cleared meanwhile
        left -= len(lines)
        skip = 0


def _print_page(shown: Dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(shown)
        return
    colour = colours_wanted()
    for line in shown["logs"]:
        print(log_line(line, colour))
    for line in str(shown.get("partial") or "").splitlines():  # one for each stream
        print(log_line(line, colour))


def _follow(client: Client, path: str, query: Query, as_json: bool) -> None:
    """Print lines as they come, until interrupted or the supervisor is gone. Raises ExeioError."""
    colour = colours_wanted()
    shows_partial = is_terminal() and not as_json
    pending: Optional[str] = None
    for event in client.follow(path, query, complain):
        wipe = _WIPE if pending else ""
        if event.kind == "message":
            pending = None
            line = log_line(event.data, colour)
            if as_json:
                line = json.dumps({"line": event.data}, ensure_ascii=False)
            print(wipe + line, flush=True)
        elif event.kind == "partial" and shows_partial:
            # Without its end, so that the finished line can take its place on the screen.
            pending = event.data[: terminal_width() - 1]
            print(wipe + pending, end="", flush=True)
