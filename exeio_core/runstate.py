"""What a later exeio must know to find the children of one that was killed: a line for each spawn and exit.

`runs.jsonl` is appended without fsync: what survives a crash of the machine needs no run state, and the page cache
survives a `kill -9`. Pids and start times mean something only within one boot and one pid namespace, so each spawn
is keyed by both. A torn line is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from json.encoder import encode_basestring_ascii as _quoted
from typing import Dict, List, NamedTuple, Tuple

from .files import open_private, remove_leftovers, write_atomic
from .proctree import boot_id, boot_ticks


class Spawned(NamedTuple):
    """A run that was begun: its process id, run number, main process and how it is to be ended.

    It is noted twice. Before the spawn `pid` is 0, `start` is a time that is not later than that of the main process,
    and `stderr` the inode of its pipe: until its exec is done, nothing else tells whose child it is.
    """

    id: str
    run: int
    pid: int
    start: int
    tree: bool
    stderr: int = 0


class RunState:
    """The file of spawns and exits in the data folder."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._boot = boot_id()
        self._quoted_boot = _quoted(self._boot)
        # Guards the descriptor and keeps lines whole. A leaf.
        self._lock = threading.Lock()
        self._fd = -1
        self._lines = 0
        self._open: Dict[Tuple[str, int], Spawned] = {}
        self.last_seen = 0

    def load(self) -> List[Spawned]:
        """Return the runs of this boot whose exit was not noted, oldest first; the file is then begun anew.

        `last_seen` is then when the last line was written, in clock ticks since boot: what had begun by then was
        begun while the exeio that wrote it lived.
        """
        found: Dict[Tuple[str, int], Spawned] = {}
        remove_leftovers(self._path)
        try:
            with open(self._path, "rb") as file:
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            lines = []
        for line in lines:
            try:
                entry = json.loads(line)
                key = (str(entry["id"]), int(entry["run"]))
                if entry["boot"] == self._boot:
                    self.last_seen = max(self.last_seen, int(entry["at"]))
                if entry["event"] == "exit":
                    found.pop(key, None)
                elif entry["boot"] == self._boot:
                    found[key] = Spawned(*key, int(entry["pid"]), int(entry["start"]), bool(entry["tree"]),
                                         int(entry.get("stderr", 0)))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue
        # They stay in the file until they are known to be gone: exeio may be killed again meanwhile.
        self._open = dict(found)
        with self._lock, contextlib.suppress(OSError):  # on a full disk the old file has to do
            self._compact()
        return list(found.values())

    def spawned(self, run: Spawned) -> None:
        """Note that a run has begun; raises OSError."""
        with self._lock:
            self._open[run.id, run.run] = run
            self._append(self._spawn_line(run))

    def exited(self, id: str, run: int, pid: int) -> None:
        """Note that nothing is left of a run, whose main process `pid` was; raises OSError.

        That may come late: a process that was removed and added again counts its runs from 1, too.
        """
        with self._lock:
            found = self._open.get((id, run))
            if found is None or found.pid != pid:
                return
            del self._open[id, run]
            self._append(self._line("exit", id, run))
            # A process that restarts for a year shall not fill the disk with its past.
            if self._lines > 4 * len(self._open) + 10_000:
                self._compact()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _spawn_line(self, run: Spawned) -> str:
        return self._line("spawn", run.id, run.run, f'"pid": {run.pid}, "start": {run.start}, '
                          f'"tree": {"true" if run.tree else "false"}, "stderr": {run.stderr}, ')

    def _line(self, event: str, id: str, run: int, more: str = "") -> str:
        # JSON by hand: each start writes two of them (with json.dumps of a dict: 40 of 1,700 us of an `/add`).
        return (f'{{"event": "{event}", "id": {_quoted(id)}, "run": {run}, {more}"boot": {self._quoted_boot}, '
                f'"at": {boot_ticks()}}}')

    def _append(self, line: str) -> None:
        """Caller holds self._lock."""
        if self._fd < 0:
            self._fd = open_private(self._path, os.O_WRONLY | os.O_APPEND)
        # The newline goes first as well, so that a line torn by a full disk does not spoil the next one.
        os.write(self._fd, f"\n{line}\n".encode())
        self._lines += 1

    def _compact(self) -> None:
        """Begin the file anew with the runs that are open. Caller holds self._lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        text = "".join(self._spawn_line(run) + "\n" for run in self._open.values())
        write_atomic(self._path, text.encode(), durable=False)
        self._lines = len(self._open)
