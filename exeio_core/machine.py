"""The machine that moves processes through the table of `lifecycle`: the lock, the events, and what follows them.

Requests come from above (`supervisor`), events from below: a run's threads (spawned, refused, drained), the watchdog
(exited, tick) and the ender (emptied, stuck). Each is a few field changes under the one lock; what takes time
(threads to start, lines to log, state to write) is collected as effects and carried out after the lock is released.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import threading
import time
from typing import Callable, Dict, List, Optional, Set, Tuple

from . import lifecycle
from .belonging import LET_ALONE
from .child import Run
from .effects import Effects, Held
from .ending import Ender
from .errors import ExeioError, Unavailable
from .events import Events
from .lifecycle import Action, Event, Exit, State, Verdict
from .process import Process, clock, iso
from .proctree import boot_ticks
from .runstate import RunState, Spawned
from .spares import Spares
from .spec import ProcessSpec, signal_number
from .watchdog import SUSPEND_CHECK, Watchdog

_Timer = Tuple[float, int, Process]
#: Failed attempts to start of which the reason is kept, for requests that have not yet looked.
_REFUSALS = 8


class Machine:
    """All processes and their transitions."""

    def __init__(self, instance: str, stop_timeout: float, runstate: RunState, report: Callable[[str], None]) -> None:
        """`instance` is the random id of the data folder, `stop_timeout` seconds, `report` writes to exeio.log."""
        self.instance = instance
        self.stop_timeout = stop_timeout
        # Guards `processes`, every field of every process, and the timers. Under it: field changes, signals to a
        # leader that is not reaped, reaping it. Never: spawn, join, file or socket I/O, JSON, starting a thread.
        self.lock = threading.Lock()
        self.processes: Dict[str, Process] = {}
        #: What has become of processes, for those who follow.
        self.events = Events(self.lock)
        #: Nothing new starts any more.
        self.closing = False
        #: Told of a process that has ended with no restart due, or that could not be started again (then None).
        self.over: Optional[Callable[[str, Optional[Exit]], None]] = None
        self._runstate = runstate
        self._report = report
        self._of_run: Dict[Run, Process] = {}
        self._live_runs: Set[Run] = set()  # putting in, taking out and copying need no lock
        # (when, serial, process) of what is due; an entry counts only while the process still says the same.
        self._timers: List[_Timer] = []
        self._serial = itertools.count()
        self._spares = Spares(2)
        self.ender = Ender(self, instance, self._spares)
        self.watchdog = Watchdog(self)

    # For requests.

    def change(self) -> Held:
        """Hold the lock; afterwards carry out what the changes asked for, also when the request was refused."""
        return Held(self.lock)

    def apply(self, process: Process, event: Event, effects: Effects) -> None:
        """Move `process` by `event`. Caller holds self.lock."""
        process.state, action = lifecycle.step(process.state, event)
        if action is Action.SPAWN:
            self._begin_run(process, effects)
        elif action is Action.END:
            assert process.run is not None
            self.ender.end(process.run, *self.manner(process.spec))
        elif action is Action.SWEEP:
            assert process.run is not None
            self.ender.sweep(process.run, *self.manner(process.spec))
        elif action is Action.DISARM:
            process.due = None
        elif action is Action.ARM:
            assert process.due is not None
            process.wall_offset = time.time() - clock()
            self.arm(process, process.due)
        self.announce(process, event)
        process.touch()

    def cancel(self, process: Process, effects: Effects) -> None:
        """Give up the automatic restart that is due: its last run was the last. Caller holds self.lock."""
        process.failed = process.failed or process.exit is None or not lifecycle.is_success(process.spec, process.exit)
        process.log.say("no restart: auto_restart was switched off")
        effects.append(process.log.write_said)
        self.apply(process, Event.STOP, effects)

    def announce(self, process: Process, event: Optional[Event] = None, gone: bool = False) -> None:
        """Tell who follows of a change of status, by `event` or by being added or `gone`. Caller holds self.lock."""
        if process.provisional or (process.state is State.STARTING and not gone):
            return  # a start is told when it has succeeded or failed
        before, after = process.announced, None if gone else process.status
        if after == before:
            return
        exit = process.exit if before == "stopping" or process.state is State.ENDING else None
        wanted = process.want_up and not (process.again or self.closing)
        failed = (after == "failed" and not self.closing) or (
            wanted and exit is not None and not lifecycle.is_success(process.spec, exit))
        reason = lifecycle.why(event, exit, process.status_reason, self.closing)
        process.announced = after
        if process.run is not None:
            process.announced_pid = process.run.pid
        about_run = process.run is not None or before == "stopping"
        self.events.add(process.id, before, after, reason, process.announced_pid if about_run else None, exit, failed,
                        process.run_count if about_run else None)

    def arm(self, process: Process, when: float) -> None:
        """Have the watchdog look at `process` at `when`. Caller holds self.lock."""
        if len(self._timers) > 2 * len(self.processes) + 100:  # most of them were overtaken, perhaps by a removal
            self._timers = [timer for timer in self._timers if _counts(timer)]
            heapq.heapify(self._timers)
        heapq.heappush(self._timers, (when, next(self._serial), process))
        if self._timers[0][2] is process:
            self.watchdog.wake()

    def schedule_from(self, process: Process, first: float) -> None:
        """Begin the schedule of a periodic process anew. Caller holds self.lock."""
        process.first_tick = process.last_tick = first

    def live_runs(self) -> List[Run]:
        """Return the runs whose threads have not ended, also those that only log what was let alone."""
        return list(self._live_runs)

    def manner(self, spec: ProcessSpec) -> Tuple[int, float]:
        """Return the stop signal and the grace in seconds."""
        grace = spec.stop_timeout_seconds
        return signal_number(spec.stop_signal), self.stop_timeout if grace is None else grace

    def _begin_run(self, process: Process, effects: Effects) -> None:
        """Make the next run. Caller holds self.lock."""
        number = process.run_count + 1
        process.attempts += 1
        process.due = clock()  # a start that takes its time is listed as one that is due
        process.wall_offset = time.time() - process.due
        process.drained = process.emptied = process.stuck = process.timed_out = False
        mark = f"{self.instance}/{process.id}/{number}"
        if process.spec.kill_mode == "process":
            mark += LET_ALONE
        run = Run(process.spec, number, mark, process.log, self)
        process.run = run
        self._of_run[run] = process
        self._live_runs.add(run)
        effects.append(lambda: self._launch(run))

    def _launch(self, run: Run) -> None:
        try:
            run.launch(self._spares)
        except Unavailable as error:
            self.refused(run, error)
            self.ended(run)
            run.log.write_said()

    def _note(self, spawned: Spawned) -> None:
        try:
            self._runstate.spawned(spawned)
        except OSError as error:
            self._report(f"the run state cannot be written ({error.strerror}): if exeio is killed now, "
                         f"what is left of {spawned.id!r} is found by its mark alone")

    # From a run's threads.

    def spawning(self, run: Run) -> None:
        """The child is about to be made."""
        self._note(Spawned(run.spec.id, run.number, 0, boot_ticks(), run.spec.kill_mode == "tree", run.stderr_inode()))

    def spawned(self, run: Run) -> None:
        """The child exists."""
        self.ender.leads(run)
        self._note(Spawned(run.spec.id, run.number, run.pid, run.start_time, run.spec.kill_mode == "tree"))
        with self.change() as effects:
            process = self._of_run[run]
            process.restarts += process.automatic and process.run_count > 0 and not process.spec.periodic
            process.run_count = run.number
            process.last_run = run.started_wall
            process.exit = process.reason = process.due = None
            process.failed = process.provisional = process.kept_up = False
            self._settle(process)
            self.apply(process, Event.SPAWNED, effects)
            if self.closing or process.removed or not (process.want_up or process.one_off):
                self.apply(process, Event.STOP, effects)
            elif process.spec.periodic and process.spec.run_timeout_seconds is not None:
                process.run_deadline = clock() + process.spec.run_timeout_seconds
                self.arm(process, process.run_deadline)
        self.watchdog.watch(run)

    def refused(self, run: Run, error: ExeioError) -> None:
        """It could not be spawned; nothing is left of the run."""
        self._runstate_exited(run)  # before there may be the next attempt, which has the same number
        with self.change() as effects:
            process = self._of_run.pop(run)
            process.run = None
            process.failed = True
            process.reason, process.due = error.message, None
            process.refusals[process.attempts] = error
            process.refusals.pop(process.attempts - _REFUSALS, None)
            self._settle(process)
            wanted = process.want_up and not (self.closing or process.removed)
            event = Event.REFUSED
            # A restart shall not end what ran because the system had no room for a moment, as when all restart at once.
            kept = process.kept_up and isinstance(error, Unavailable) and (
                process.spec.auto_restart or process.spec.periodic)
            if wanted and (process.automatic or process.one_off or kept):
                if process.spec.periodic:  # also a run beside the schedule, which stays
                    self._next_period(process)
                    event = Event.DEFERRED
                elif process.spec.auto_restart:
                    verdict = lifecycle.after_refusal(process.spec, error.message, process.streak, _jitter())
                    event = self._take(process, verdict)
                if event is Event.REFUSED:
                    self._tell_over(process, None, effects)
                elif kept:
                    process.refusals[process.attempts] = Unavailable(f"{error.message}; it is tried again")
            process.kept_up = False  # from here on exeio does it
            if not process.provisional:
                process.log.say(f"could not start: {error.message}")
            process.one_off = False
            self.apply(process, event, effects)

    def drained(self, run: Run) -> None:
        """The output of the main process is in the log."""
        with self.change() as effects:
            process = self._of_run[run]
            process.drained = True
            self._finish_run(process, effects)

    def ended(self, run: Run) -> None:
        """The run's threads end."""
        self._live_runs.discard(run)

    # From the watchdog.

    def exited(self, run: Run, exit: Exit) -> None:
        """The main process has ended like this."""
        with self.change() as effects:
            process = self._of_run.get(run)
            if process is None or run.exit is not None:
                return  # it is known already
            uptime = time.monotonic() - run.started
            process.exit = exit
            process.run_deadline = None
            run.note_exit(exit, uptime)
            self.apply(process, Event.EXITED, effects)

    def tick(self) -> Optional[float]:
        """Start what is due and end what has run too long; returns seconds until the next deadline, or None."""
        with self.change() as effects:
            now = clock()
            while self._timers and (self._timers[0][0] <= now or not _counts(self._timers[0])):
                when, _, process = heapq.heappop(self._timers)
                if self.closing or when > now:
                    continue
                if process.state is State.PENDING and process.due == when:
                    self._start_due(process, when, now, effects)
                elif process.state is State.UP and process.run_deadline == when:
                    process.run_deadline = None
                    process.timed_out = True
                    process.log.say(f"run {process.run_count} is stopped: it took longer than run_timeout_seconds "
                                    f"({process.spec.run_timeout_seconds:g})")
                    assert process.run is not None
                    effects.append(process.run.poke)
                    self.apply(process, Event.TIMEOUT, effects)
            if not self._timers:
                return None
            left = max(0.0, self._timers[0][0] - clock())
        return min(left, SUSPEND_CHECK)

    def _start_due(self, process: Process, when: float, now: float, effects: Effects) -> None:
        """Caller holds self.lock."""
        process.automatic = True
        if process.spec.periodic:
            assert process.spec.period_seconds is not None
            late = int((now - when) // process.spec.period_seconds)  # after a suspend, say
            if late:
                process.log.say(f"skipped {late} run{'s' * (late > 1)}: their time had passed")
            process.last_tick = when + late * process.spec.period_seconds
        self.apply(process, Event.DUE, effects)

    # From the ender.

    def emptied(self, run: Run) -> None:
        """Nothing is left of the run but its unreaped leader."""
        with self.change() as effects:
            process = self._of_run[run]
            process.emptied = True
            self._finish_run(process, effects)
            if process.run is run:
                self.ender.let_go(run, True)  # its readers may not have heard of the exit

    def stuck(self, run: Run, pids: List[int]) -> None:
        """These have survived SIGKILL."""
        with self.change() as effects:
            process = self._of_run[run]
            listed = ", ".join(map(str, pids)) or str(run.pid)
            text = f"still there after SIGKILL: pid {listed} (in uninterruptible sleep, or another user's?)"
            if not process.stuck:
                process.log.say(text)
                effects.append(run.poke)
                effects.append(lambda: self._report(f"{process.id}: {text}"))
            process.stuck = True
            process.reason = text
            process.touch()

    # What follows the end of a run.

    def _finish_run(self, process: Process, effects: Effects) -> None:
        """Go on once the run is drained as well as emptied. Caller holds self.lock."""
        run = process.run
        if run is None or not (process.drained and process.emptied):
            return
        run.reap()
        self.ender.reaped(run.pid)
        del self._of_run[run]
        process.run = None
        process.stuck = False
        effects.append(lambda: self._runstate_exited(run))
        if process.spec.periodic:
            self._record(process, run)
        event = self._what_next(process, run, effects)
        run.finish(run.spec.kill_mode == "process")
        process.one_off = False
        self.apply(process, event, effects)
        self.ender.let_go(run, event is Event.AGAIN)

    def _what_next(self, process: Process, run: Run, effects: Effects) -> Event:
        """Decide between again, later and done. Caller holds self.lock."""
        exit = run.exit
        assert exit is not None
        process.automatic = False
        process.failed = not lifecycle.is_success(process.spec, exit)
        took = lifecycle.duration(run.uptime)
        process.reason = f"{exit} after {took}" if process.failed else None
        if process.timed_out:
            process.reason = f"run {run.number} was stopped after {took}: run_timeout_seconds"
        if self.closing or process.removed:
            return Event.DONE
        if not process.want_up:
            process.reason = None
            if not process.one_off:
                process.log.say("Process stopped manually")
            return Event.DONE
        if process.again:
            process.again = False
            self.schedule_from(process, clock())
            return Event.AGAIN
        if process.spec.periodic:
            return self._next_period(process)
        verdict = lifecycle.after_run(process.spec, exit, run.uptime, process.streak, _jitter())
        event = self._take(process, verdict)
        if event is Event.DONE:
            self._tell_over(process, exit, effects)
        return event

    def _take(self, process: Process, verdict: Verdict) -> Event:
        """Note what was decided about the next run. Caller holds self.lock."""
        process.streak = verdict.streak
        process.failed, process.reason = verdict.failed, verdict.reason
        process.automatic = True
        if verdict.event in (Event.LATER, Event.DEFERRED):
            process.due = clock() + verdict.delay
            process.log.say(f"restarting in {lifecycle.duration(verdict.delay)}")
        elif verdict.event is Event.AGAIN:
            process.log.say("restarting")
        elif verdict.failed and verdict.reason and process.spec.auto_restart:  # it gave up
            process.log.say(verdict.reason)
        return verdict.event

    def _next_period(self, process: Process) -> Event:
        """Set the time of the next periodic run. Caller holds self.lock."""
        assert process.spec.period_seconds is not None
        process.due, missed = lifecycle.next_tick(process.first_tick, process.spec.period_seconds, clock(),
                                                  process.last_tick)
        if missed:
            process.log.say(f"skipped {missed} run{'s' * (missed > 1)}: the one before took too long")
            process.last_tick += missed * process.spec.period_seconds
        return Event.LATER

    def _record(self, process: Process, run: Run) -> None:
        """Add a run to the history. Caller holds self.lock."""
        assert run.exit is not None
        process.history.append({
            "run": run.number, "started_at": iso(run.started_wall), "duration_seconds": round(run.uptime, 3),
            "exit_code": run.exit.code, "exit_signal": run.exit.signal_name, "timed_out": process.timed_out})

    def _tell_over(self, process: Process, exit: Optional[Exit], effects: Effects) -> None:
        over = self.over
        if over is not None:
            effects.append(lambda: over(process.id, exit))

    def _settle(self, process: Process) -> None:
        """An attempt to start has succeeded or failed. Caller holds self.lock."""
        process.settled = process.attempts

    def _runstate_exited(self, run: Run) -> None:
        with contextlib.suppress(OSError):  # a line too many only makes the next exeio look for what is not there
            self._runstate.exited(run.spec.id, run.number, run.pid)


def _counts(timer: _Timer) -> bool:
    """Return whether the process still waits for this time."""
    return timer[0] in (timer[2].due, timer[2].run_deadline)


def _jitter() -> float:
    # random.uniform would do the same, but importing it takes a hundredth of exeio's start.
    return int.from_bytes(os.urandom(2), "big") / 32767.5 - 1.0
