"""One process under supervision: what it is to be, what it is now, and how the API shows it.

Every field is guarded by the machine's lock; nothing in here blocks or takes a lock.
"""

from __future__ import annotations

import collections
import datetime
import threading
import time
from typing import Deque, Dict, List, NamedTuple, Optional

from .child import Run
from .errors import ExeioError
from .lifecycle import Exit, State, Streak, status_word
from .logfile import LogFile
from .spec import ProcessSpec

#: Runs of a periodic process that `/status/{id}` tells of.
HISTORY = 20


def clock() -> float:
    """Return seconds on the clock of all deadlines: it never jumps and, on Linux, counts the time in suspend."""
    return time.clock_gettime(_CLOCK)


_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Usage(NamedTuple):
    """What the living processes of a run use together."""

    run: Run
    cpu_percent: float  # of one CPU, since the sample before
    memory_bytes: int  # resident; what several of them share is counted for each
    cpu_seconds: float
    processes: int


class Fragment:
    """A process encoded for `/list`; `text` is None until that is done."""

    __slots__ = ("started", "status", "text")

    def __init__(self) -> None:
        self.text: Optional[bytes] = None
        self.status = ""
        self.started: Optional[float] = None  # on the monotonic clock, where it has an uptime


class Process:
    """The record of one process; see each field."""

    __slots__ = (
        "again", "announced", "announced_pid", "attempts", "automatic", "changed", "drained", "due", "emptied", "exit",
        "failed", "first_tick", "fragment", "history", "kept_up", "last_run", "last_tick", "log", "offered", "one_off",
        "provisional", "reason", "refusals", "removed", "restarts", "run", "run_count", "run_deadline", "saved",
        "saved_version", "settled", "spec", "state", "streak", "stuck", "timed_out", "usage", "wall_offset", "want_up",
    )

    def __init__(self, spec: ProcessSpec, log: LogFile, lock: threading.Lock) -> None:
        self.spec = spec
        self.log = log
        #: Notified by the machine at every change of this process; requests wait on it for their predicate.
        self.changed = threading.Condition(lock)
        self.state = State.DOWN
        self.want_up = False
        self.again = False         # the next run begins as soon as nothing is left of this one
        self.one_off = False       # this run was asked for beside the schedule, and also while that is stopped
        self.automatic = False     # the run that is starting was started by exeio, not by a request
        self.kept_up = False       # it was up or about to be when the start was asked for: a restart, mostly
        self.provisional = False   # `/add` has not succeeded yet: not shown, and gone if it fails
        self.removed = False       # being removed: nobody may start it any more
        self.saved = False         # is in processes.json
        self.saved_version = 0     # which save that tells of
        self.offered = False       # is there, was there, or is on its way
        self.run: Optional[Run] = None
        self.drained = False       # what the main process wrote is in the log
        self.emptied = False       # nothing but the unreaped leader is left of the run
        self.stuck = False         # something of it has survived SIGKILL
        self.timed_out = False     # the run was ended because of run_timeout_seconds
        self.attempts = 0          # starts tried, and how many of them are known to have succeeded or failed
        self.settled = 0
        self.refusals: Dict[int, ExeioError] = {}  # why attempts failed, of the last few
        self.run_count = 0
        self.restarts = 0
        self.streak = Streak()
        self.exit: Optional[Exit] = None
        self.failed = False
        self.reason: Optional[str] = None
        self.last_run: Optional[float] = None      # wall clock
        self.due: Optional[float] = None           # the clock above, as the three below
        self.first_tick = 0.0
        self.last_tick = 0.0
        self.run_deadline: Optional[float] = None
        self.wall_offset = 0.0                     # wall clock minus the clock above, for next_run
        self.history: Deque[Dict[str, object]] = collections.deque(maxlen=HISTORY)
        self.usage: Optional[Usage] = None         # of this run or an earlier one; somebody who asked has sampled it
        self.announced: Optional[str] = None       # the status that those who follow were told last
        self.announced_pid: Optional[int] = None   # and the main process of the run that it was about
        self.fragment: Optional[Fragment] = None   # what `/list` shows, encoded; thrown away at every change

    def touch(self) -> None:
        """Let everybody who waits look again. Caller holds the machine's lock."""
        self.fragment = None
        self.changed.notify_all()

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def alive(self) -> bool:
        """Whether the main process lives."""
        return self.state in (State.UP, State.STOPPING)

    @property
    def status(self) -> str:
        """The status in the API's words."""
        return status_word(self.state, self.spec.periodic, self.want_up or self.one_off, self.failed)

    def view(self) -> Dict[str, object]:
        """Return the process as `/list` and `/status` show it. Caller holds the machine's lock."""
        spec, run = self.spec, self.run
        shown_exit = None if self.state in (State.UP, State.STOPPING) else self.exit
        scheduled = spec.periodic and self.want_up and self.state is not State.DOWN
        live = run if self.alive else None
        usage = self.usage if self.usage is not None and self.usage.run is run else None
        return {
            "id": spec.id,
            "command": spec.command,
            "args": list(spec.args),
            "status": self.status,
            "is_running": self.alive or scheduled,
            "log_file": self.log.path,
            "auto_restart": spec.auto_restart,
            "periodic": spec.periodic,
            "period_seconds": spec.period_seconds,
            "run_count": self.run_count,
            "last_run": iso(self.last_run),
            "working_dir": spec.working_dir,
            "pid": live.pid if live else None,
            "started_at": iso(live.started_wall) if live else None,
            "exit_code": shown_exit.code if shown_exit else None,
            "exit_signal": shown_exit.signal_name if shown_exit else None,
            "restarts": self.restarts,
            "next_run": self._next_run(),
            "saved": self.saved,
            "status_reason": self.status_reason,
            "env": sorted(spec.env),
            "log_dropped_lines": self.log.dropped_lines,
            "cpu_percent": usage.cpu_percent if usage else None,
            "memory_bytes": usage.memory_bytes if usage else None,
            "uptime_seconds": round(time.monotonic() - live.started, 3) if live else None,
        }

    @property
    def status_reason(self) -> Optional[str]:
        """Why the status is what it is, where there is more to say."""
        if self.stuck:
            return self.reason
        if self.state is State.STARTING:
            return "starting"
        if self.state in (State.UP, State.STOPPING):
            return None
        if self.state is State.DOWN and not self.want_up:
            return None if self.run_count or self.exit else "added without a start, or stopped before exeio's start"
        return self.reason

    def _next_run(self) -> Optional[str]:
        if self.due is None:
            return None
        # The wall clock may have been set since the run was scheduled; otherwise the text shall not flicker.
        offset = time.time() - clock()
        if abs(offset - self.wall_offset) > 0.5:
            self.wall_offset = offset
        return iso(self.due + self.wall_offset)

    def runs(self) -> List[Dict[str, object]]:
        """Return the last runs of a periodic process, newest first."""
        return list(reversed(self.history))


def iso(moment: Optional[float]) -> Optional[str]:
    """Return seconds since 1970 as ISO 8601 in UTC with milliseconds and Z."""
    if moment is None:
        return None
    text = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
