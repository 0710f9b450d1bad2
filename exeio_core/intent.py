"""What is asked of a process, and waiting until it is so: the steps that the operations of `supervisor` are made of.

The first half is field changes and transitions under the machine's lock; the second half waits, on the process's
Condition, until a start or an end has come true, was refused, or was overtaken by another request.
"""

from __future__ import annotations

import functools
import threading
from typing import Optional, Set

from .child import Run
from .effects import Effects
from .ending import KILL_LIMIT
from .errors import Conflict, Failed, NotFound, Overtaken, Unavailable
from .lifecycle import Event, State, Streak, is_success
from .machine import Machine
from .process import Process, clock

#: Seconds a request waits for a spawn; one that hangs longer (a dead NFS mount) is given up.
SPAWN_LIMIT = 15.0
#: Seconds added to what a stop may take by its own deadlines before a request gives up on it.
_MARGIN = 5.0


class Intent:
    """Asks and waits, for all processes of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._lock = machine.lock
        self._processes = machine.processes
        #: Ids of which a killed predecessor left something that is still being ended. Guarded by the lock; whoever
        #: takes one out notifies, `check_free` waits.
        self.leftovers: Set[str] = set()
        self.leftovers_changed = threading.Condition(machine.lock)

    # Asking. The caller holds the machine's lock.

    def get(self, id: str, changing: bool = True) -> Process:
        """Return a process; one that is being added is not there yet. Raises NotFound, Conflict (being removed)."""
        process = self._processes.get(id)
        if process is None or process.provisional:
            raise NotFound(f"there is no process {id!r}")
        if process.removed and changing:
            raise Conflict(f"{id!r} is being removed")
        return process

    def refuse_when_closing(self) -> None:
        """Raise Unavailable once the shutdown has begun."""
        if self.machine.closing:
            raise Unavailable("exeio is shutting down")

    def check_free(self, id: str) -> None:
        """Raise Conflict if the id is taken; waits for what a predecessor left of it, and for another add of it."""
        self.refuse_when_closing()
        self._await_leftovers(id)
        process = self._processes.get(id)
        while process is not None:
            if not process.provisional:
                raise Conflict(f"{id!r} is being removed" if process.removed else f"there is already a process {id!r}")
            if not process.changed.wait_for(functools.partial(self._is_added, process), self.stop_limit(process)):
                raise Conflict(f"{id!r} is being added by another request")
            self.refuse_when_closing()
            process = self._processes.get(id)

    def _is_added(self, process: Process) -> bool:
        """Whether an add has succeeded or failed. Caller holds the lock."""
        return not process.provisional or self._processes.get(process.id) is not process

    def _await_leftovers(self, id: str) -> None:
        """Wait until what a predecessor left of `id` is gone."""
        limit = self.machine.stop_timeout + KILL_LIMIT + _MARGIN
        if not self.leftovers_changed.wait_for(lambda: id not in self.leftovers or self.machine.closing, limit):
            raise Conflict(f"what is left of an earlier {id!r} (from an exeio that was killed) has not ended yet")
        self.refuse_when_closing()

    def settle(self, process: Process) -> None:
        """Let a start under way finish. Raises Unavailable where it hangs, NotFound where it was removed meanwhile."""
        if not process.changed.wait_for(lambda: process.state is not State.STARTING, SPAWN_LIMIT):
            raise Unavailable(f"the start of {process.id!r} hangs; try again later")
        self.refuse_when_closing()
        if self._processes.get(process.id) is not process or process.removed:
            raise NotFound(f"{process.id!r} was removed by another request")

    def want_start(self, process: Process, effects: Effects, event: Event = Event.START) -> int:
        """Ask for a run; returns the number of the attempt to wait for."""
        process.kept_up = process.want_up and process.state is not State.DOWN
        process.want_up = True
        process.one_off = False
        process.automatic = False
        process.streak = Streak()
        self.machine.schedule_from(process, clock())
        if process.state in (State.UP, State.STOPPING, State.ENDING):
            process.again = True
            self.machine.apply(process, event, effects)
            return process.attempts + 1
        self.machine.apply(process, event, effects)
        return process.attempts

    def want_stop(self, process: Process, effects: Effects) -> Optional[Run]:
        """Ask for the end; returns the run to wait for."""
        busy = process.state is not State.DOWN or process.want_up
        process.want_up = process.again = process.one_off = False
        if busy and process.run is None and not process.removed:
            effects.append(lambda: process.log.system("Process stopped manually"))
        self.machine.apply(process, Event.STOP, effects)
        return process.run

    # Waiting. The caller does not hold the lock, but for `is_down`.

    def await_start(self, process: Process, attempt: int) -> Optional[Run]:
        """Wait until the attempt has succeeded; raises what refused or overtook it.

        Returns its run, or None if that is over already.
        """
        limit = SPAWN_LIMIT + (self.stop_limit(process) if process.again else 0.0)

        def over() -> bool:
            if process.settled >= attempt or process.removed or process.stuck:
                return True
            return process.attempts < attempt and not (process.want_up and process.state is not State.DOWN)

        with self.machine.change() as effects:
            done = process.changed.wait_for(over, limit)
            if process.settled >= attempt:
                if attempt in process.refusals:
                    raise process.refusals[attempt]
                return process.run if process.attempts == attempt else None  # another request may have restarted it
            if process.removed:
                raise NotFound(f"{process.id!r} was removed by another request")
            if process.stuck:
                raise Failed(f"{process.id!r} cannot be started: {process.reason}")
            if not done:
                self.want_stop(process, effects)  # what comes back unwanted is ended by its own thread
                raise Unavailable(f"the start of {process.id!r} hangs: its folder or program does not answer")
            self.refuse_when_closing()
            raise Overtaken(f"{process.id!r} was stopped by another request before it could start")

    def watch_for(self, process: Process, run: Optional[Run], seconds: float) -> None:
        """Raise Conflict if the run does not last for `seconds`; one of a periodic process may end well before."""
        if seconds <= 0:
            return
        with self._lock:
            if process.changed.wait_for(lambda: run is None or process.run is not run or run.exit is not None, seconds):
                exit = run.exit if run is not None else process.exit  # without a run, it is over already
                if process.spec.periodic and exit is not None and is_success(process.spec, exit):
                    return  # its schedule is what is up
                how = "it has ended"
                if exit is not None:
                    how = f"it {exit}" if exit.signal is None else f"it was {exit}"
                raise Conflict(f"{process.id!r} did not stay up for {seconds:g} seconds: {how}")

    def await_end(self, process: Process, run: Optional[Run]) -> None:
        """Wait until nothing of `run` is left; raises Failed when something survives."""
        def over() -> bool:
            # Without a run, it is what a killed predecessor left that may have to end.
            return process.run is not run if run is not None else process.state is not State.ENDING

        if run is not None and over():
            return  # seen without the lock: a stop of many mostly finds so
        with self._lock:
            done = process.changed.wait_for(lambda: over() or process.stuck, self.stop_limit(process))
            if over():
                return
            if process.stuck:
                raise Failed(f"{process.id!r} cannot be stopped: {process.reason}")
            if not done:
                raise Unavailable(f"the end of {process.id!r} takes longer than it should; it is still being stopped")

    def is_down(self, process: Process) -> bool:
        """Wait for the end of a process; returns whether nothing is left of it."""
        process.changed.wait_for(lambda: process.state is State.DOWN or process.stuck, self.stop_limit(process))
        return process.state is State.DOWN

    def leftovers_are_gone(self) -> bool:
        """Wait for the end of what a predecessor left, also of processes that are not known any more."""
        limit = self.machine.stop_timeout + KILL_LIMIT + _MARGIN
        return self.leftovers_changed.wait_for(lambda: not self.leftovers, limit)

    def stop_limit(self, process: Process) -> float:
        own = process.spec.stop_timeout_seconds
        return (self.machine.stop_timeout if own is None else own) + KILL_LIMIT + SPAWN_LIMIT + _MARGIN
