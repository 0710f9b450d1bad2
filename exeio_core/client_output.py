"""How the client shows things: tables and colours on a terminal, plain text elsewhere, JSON for programs."""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex
import sys
from typing import Any, Dict, List, Optional, Sequence

from exeio_core.errors import print_error, printable

_COLOURS = {
    "running": "32", "waiting": "36", "backoff": "33", "stopping": "33", "failed": "31", "stopped": "2",
    "manually_stopped": "2", "STDERR": "31", "SYSTEM": "36",
}
_TAG = re.compile(r"(\[[^\]]*\] )((?:RUN#\d+ )?(STDOUT|STDERR|SYSTEM [^ ]*):)")


def is_terminal() -> bool:
    """Whether stdout is one."""
    return sys.stdout.isatty()


def colours_wanted() -> bool:
    """Whether to colour: on a terminal that can, unless NO_COLOR says no (https://no-color.org)."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_json(value: Any) -> None:
    """Print for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def complain(message: str) -> None:
    """One line on stderr, where somebody can be told."""
    print_error(f"exeio: {printable(message)}")


def coloured(text: str, colour: Optional[str]) -> str:
    """`text` in the colour of a status or tag, if there is one and colours are wanted."""
    return f"\x1b[{colour}m{text}\x1b[0m" if colour else text


def duration(seconds: float) -> str:
    """A duration for people, by its two greatest units."""
    left = int(seconds)
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m {left % 60:02}s"
    if left < 86_400:
        return f"{left // 3600}h {left % 3600 // 60:02}m"
    return f"{left // 86_400}d {left % 86_400 // 3600:02}h"


def _until(moment: object) -> str:
    """How far an ISO 8601 time is ahead."""
    try:
        due = datetime.datetime.fromisoformat(str(moment).replace("Z", "+00:00"))
        left = due - datetime.datetime.now(datetime.timezone.utc)
        return "in " + duration(max(0.0, left.total_seconds()))
    except (ValueError, TypeError):
        return str(moment)


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items()) or "-"
    return str(value)


def command_line(process: Dict[str, Any]) -> str:
    """Command and arguments as a shell would take them."""
    words = [process.get("command", ""), *process.get("args", ())]
    return " ".join(shlex.quote(str(word)) for word in words)


def print_process(process: Dict[str, Any]) -> None:
    """One process in full, a member a line; the arguments stand behind the command."""
    shown = {name: value for name, value in process.items() if name != "args"}
    print_members({**shown, "command": command_line(process)})


def _ended(process: Dict[str, Any]) -> str:
    return _text(process.get("exit_signal") or process.get("exit_code"))


def print_processes(processes: Sequence[Dict[str, Any]]) -> None:
    """The table of `list`."""
    rows: List[List[str]] = []
    for process in processes:
        uptime, due = process.get("uptime_seconds"), process.get("next_run")
        rows.append([
            _text(process.get("id")),
            _text(process.get("status")),
            _text(process.get("pid")),
            "-" if uptime is None else duration(uptime),
            _text(process.get("restarts")),
            _ended(process),
            "-" if due is None else _until(due),
            command_line(process),
        ])
    titles = ["ID", "STATUS", "PID", "UPTIME", "RESTARTS", "EXIT", "NEXT", "COMMAND"]
    print_table(titles, rows, status_column=1)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], status_column: int = -1) -> None:
    """Aligned columns; on a terminal the last one ends where the line does."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [titles, *shown]) for column in range(len(titles))]
    room = terminal_width() - sum(widths[:-1]) - 2 * (len(widths) - 1)
    colour = colours_wanted()
    for number, row in enumerate([list(titles), *shown]):
        last = row[-1]
        if room < len(last) and is_terminal():
            last = last[: max(room - 1, 8)] + "…"
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths)] + [last]
        if colour and number == 0:
            cells = [coloured(cell, "1") for cell in cells]
        elif colour and status_column >= 0:
            cells[status_column] = coloured(cells[status_column], _COLOURS.get(row[status_column]))
        print("  ".join(cells).rstrip())


def terminal_width() -> int:
    """Columns of the terminal at stdout; 80 where there is none."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def print_members(members: Dict[str, Any]) -> None:
    """An object, a member a line."""
    width = max((len(name) for name in members), default=0)
    colour = colours_wanted()
    for name, value in members.items():
        title = printable(name).ljust(width)
        # A longer list is easier to read a line each; so are the runs of a periodic process.
        items = value if isinstance(value, list) and len(value) > 3 else [value]
        for item in items:
            text = printable(_text(item))
            if colour and name == "status":
                text = coloured(text, _COLOURS.get(text))
            print(f"{title}  {text}")
            title = " " * width


def log_line(line: str, colour: bool) -> str:
    """A line of a log, its tag in colour if so wanted; the process's own text is never touched."""
    match = _TAG.match(line) if colour else None
    if match is None:
        return line
    tag = coloured(match[2], _COLOURS.get(match[3].split(" ")[0]))
    return coloured(match[1], "2") + tag + line[match.end() :]
