"""The life of a process as data: states, events, the table of transitions, and when the next run is due.

Nothing in here has a thread, a lock or a clock of its own: times and random numbers are handed in, so that every
pair of the table and every delay can be tested by itself.

*Wanted* is kept apart from *is*. `want_up` says what was asked for last; the state says what there is. A restart is
"STOPPING, still wanted up", a stop during the back-off is "PENDING, no longer wanted", and what comes after the end
of a run is decided by `after_run` from both. A periodic process is the same machine with another delay.
"""

from __future__ import annotations

import enum
from typing import Dict, NamedTuple, Optional, Tuple

from .spec import ProcessSpec, signal_name


class State(enum.Enum):
    """What there is of a process."""

    DOWN = "down"          # nothing runs, nothing is due
    STARTING = "starting"  # the run's thread is about to spawn
    UP = "up"              # the main process is alive
    STOPPING = "stopping"  # alive, and asked to end
    ENDING = "ending"      # the main process ended; the rest of the run is being ended and its output drained
    PENDING = "pending"    # nothing runs, the next run is due at a known time (back-off or schedule)


class Event(enum.Enum):
    """What happens to a process."""

    START = "start"        # a run is wanted now
    STOP = "stop"          # no run is wanted
    RESTART = "restart"    # this run shall end and another begin
    TIMEOUT = "timeout"    # a periodic run has taken longer than it may
    SPAWNED = "spawned"    # the child exists
    REFUSED = "refused"    # it could not be spawned, and no further try is due
    DEFERRED = "deferred"  # it could not be spawned; a further try is due
    EXITED = "exited"      # the main process ended
    AGAIN = "again"        # nothing is left of the run; the next one begins at once
    LATER = "later"        # nothing is left of the run; the next one is due later
    DONE = "done"          # nothing is left of the run, and none is due
    DUE = "due"            # the time of the next run has come


class Action(enum.Enum):
    """What the supervisor has to do about a transition."""

    NONE = "none"
    SPAWN = "spawn"        # begin a run
    END = "end"            # end the run: stop signal, grace, SIGKILL
    SWEEP = "sweep"        # the leader is gone: end what it left behind, drain its output
    ARM = "arm"            # set the time of the next run
    DISARM = "disarm"      # there is no next run any more


_S, _E, _A = State, Event, Action

#: Every pair that can happen. One that is missing here is a bug in the caller, and `step` says so.
TABLE: Dict[Tuple[State, Event], Tuple[State, Action]] = {
    (_S.DOWN, _E.START): (_S.STARTING, _A.SPAWN),
    (_S.DOWN, _E.RESTART): (_S.STARTING, _A.SPAWN),
    (_S.DOWN, _E.STOP): (_S.DOWN, _A.NONE),

    (_S.PENDING, _E.START): (_S.STARTING, _A.SPAWN),
    (_S.PENDING, _E.RESTART): (_S.STARTING, _A.SPAWN),
    (_S.PENDING, _E.DUE): (_S.STARTING, _A.SPAWN),
    (_S.PENDING, _E.STOP): (_S.DOWN, _A.DISARM),

    # A request during STARTING only changes what is wanted; it is acted on when the spawn has come back.
    (_S.STARTING, _E.START): (_S.STARTING, _A.NONE),
    (_S.STARTING, _E.STOP): (_S.STARTING, _A.NONE),
    (_S.STARTING, _E.SPAWNED): (_S.UP, _A.NONE),
    (_S.STARTING, _E.REFUSED): (_S.DOWN, _A.NONE),
    (_S.STARTING, _E.DEFERRED): (_S.PENDING, _A.ARM),

    (_S.UP, _E.STOP): (_S.STOPPING, _A.END),
    (_S.UP, _E.RESTART): (_S.STOPPING, _A.END),
    (_S.UP, _E.TIMEOUT): (_S.STOPPING, _A.END),
    (_S.UP, _E.EXITED): (_S.ENDING, _A.SWEEP),

    (_S.STOPPING, _E.START): (_S.STOPPING, _A.NONE),
    (_S.STOPPING, _E.STOP): (_S.STOPPING, _A.NONE),
    (_S.STOPPING, _E.RESTART): (_S.STOPPING, _A.NONE),
    (_S.STOPPING, _E.EXITED): (_S.ENDING, _A.SWEEP),

    (_S.ENDING, _E.START): (_S.ENDING, _A.NONE),
    (_S.ENDING, _E.STOP): (_S.ENDING, _A.NONE),
    (_S.ENDING, _E.RESTART): (_S.ENDING, _A.NONE),
    (_S.ENDING, _E.AGAIN): (_S.STARTING, _A.SPAWN),
    (_S.ENDING, _E.LATER): (_S.PENDING, _A.ARM),
    (_S.ENDING, _E.DONE): (_S.DOWN, _A.NONE),
}


def step(state: State, event: Event) -> Tuple[State, Action]:
    """Return the state after `event` and what is to be done; raises LookupError for a pair that cannot be."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise LookupError(f"no transition for {event.value} in state {state.value}") from None


class Exit(NamedTuple):
    """How a main process ended: `code`, or the number of the signal that killed it (then `code` is None)."""

    code: Optional[int]
    signal: Optional[int] = None
    core: bool = False

    @property
    def signal_name(self) -> Optional[str]:
        """The signal as "SIGKILL"; a real-time one as kill(1) writes it: "SIGRTMIN+3", "SIGRTMAX-3"."""
        return None if self.signal is None else signal_name(self.signal)

    def __str__(self) -> str:
        if self.signal is None:
            return f"exited with code {self.code}"
        return f"killed by {self.signal_name}" + (" (core dumped)" if self.core else "")


class Streak(NamedTuple):
    """What a run inherits from the ones before it: rapid exits and automatic restarts in a row without a good run."""

    rapid: int = 0
    restarts: int = 0


class Verdict(NamedTuple):
    """What follows the end of a run: the event for the table, seconds to wait, the streak, and the outcome."""

    event: Event
    delay: float
    streak: Streak
    failed: bool = False
    reason: Optional[str] = None


def restart_delay(spec: ProcessSpec, rapid: int, jitter: float) -> float:
    """Return seconds to wait after the `rapid`-th rapid exit in a row (1 is the first).

    It doubles each time up to `restart_delay_max_seconds`; `jitter` from -1 to 1 moves it by up to 10 %, so that
    processes that failed together do not come back together.
    """
    doubled = spec.restart_delay_seconds * 2.0 ** min(rapid - 1, 64)
    return min(doubled, spec.restart_delay_max_seconds) * (1 + 0.1 * jitter)


def next_tick(first: float, period: float, now: float, last: float) -> Tuple[float, int]:
    """Return the next time of a fixed rate after `now`, and how many ticks since `last` were missed.

    `first` is the time of the first run and `last` the tick of the run that just ended; all on one clock. The
    schedule keeps its phase: ticks are first + n * period whatever a run took.
    """
    number = int((now - first) // period) + 1
    due = first + number * period
    if due <= now:  # rounding of huge n * period may land on now itself
        number, due = number + 1, due + period
    missed = number - 1 - round((last - first) / period)
    return due, max(0, missed)


def is_success(spec: ProcessSpec, exit: Exit) -> bool:
    """Return whether this exit counts as a success."""
    return exit.code is not None and exit.code in spec.success_exit_codes


def after_run(spec: ProcessSpec, exit: Exit, uptime: float, streak: Streak, jitter: float) -> Verdict:
    """Decide what follows a run that ended by itself; `uptime` in seconds.

    Not for a run whose end was requested, and not for periodic ones: their schedule just goes on.
    """
    good = uptime >= spec.min_uptime_seconds
    success = is_success(spec, exit)
    reason = None if success else f"{exit} after {duration(uptime)}"
    if not spec.auto_restart or (spec.restart_policy == "on-failure" and success):
        return Verdict(Event.DONE, 0.0, Streak(), not success, reason)
    before = Streak() if good else streak
    return _again(spec, Streak(0 if good else before.rapid + 1, before.restarts + 1), reason, jitter)


def after_refusal(spec: ProcessSpec, why: str, streak: Streak, jitter: float) -> Verdict:
    """Decide what follows an automatic start that could not be carried out: a rapid exit, as it were."""
    verdict = _again(spec, Streak(streak.rapid + 1, streak.restarts + 1), why, jitter)
    event = Event.REFUSED if verdict.event is Event.DONE else Event.DEFERRED
    return Verdict(event, verdict.delay, verdict.streak, True, verdict.reason)


def _again(spec: ProcessSpec, streak: Streak, reason: Optional[str], jitter: float) -> Verdict:
    if spec.max_restarts is not None and streak.restarts > spec.max_restarts:
        text = f"gave up after {spec.max_restarts} automatic restarts in a row without a good run"
        return Verdict(Event.DONE, 0.0, Streak(), True, f"{text}: {reason}" if reason else text)
    if streak.rapid == 0:
        return Verdict(Event.AGAIN, 0.0, streak, False, reason)
    delay = restart_delay(spec, streak.rapid, jitter)
    return Verdict(Event.LATER, delay, streak, False, reason)


def duration(seconds: float) -> str:
    """Return seconds as people write them in a log: "0.012 s", "59.0 s", "1 h 02 min 05 s"."""
    if seconds < 60:
        return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{rest:02d} s"
    text = f"{minutes:02d} min {text}" if hours or days else f"{minutes} min {text}"
    if hours or days:
        text = f"{hours} h {text}"
    return f"{days} d {text}" if days else text


#: What is said of a change that was asked for, where the status alone does not say it.
_ASKED = {
    Event.STOP: "a stop was asked for", Event.RESTART: "a restart was asked for",
    Event.TIMEOUT: "it took longer than run_timeout_seconds",
}


def why(event: Optional[Event], exit: Optional[Exit], status_reason: Optional[str], closing: bool) -> Optional[str]:
    """Return why the status of a process has changed; `exit` is how its run has just ended, if it has."""
    if event is Event.EXITED and exit is not None:
        return str(exit)
    if event is Event.STOP and closing:
        return "exeio is shutting down"
    return status_reason or (_ASKED.get(event) if event is not None else None)


#: All words that `status_word` may return.
STATUS_WORDS = ("running", "stopping", "backoff", "waiting", "stopped", "failed", "manually_stopped")


def status_word(state: State, periodic: bool, want_up: bool, failed: bool) -> str:
    """Return the status as the API says it; the only place where it is derived.

    `failed` tells the outcome of the last run (or that there was none because it could not be started).
    """
    if state is State.UP:
        return "running"
    if state in (State.STOPPING, State.ENDING) or (state is State.STARTING and not want_up):
        return "stopping"
    if state in (State.PENDING, State.STARTING):
        return "waiting" if periodic else "backoff"
    if not want_up:
        return "manually_stopped"
    return "failed" if failed else "stopped"
