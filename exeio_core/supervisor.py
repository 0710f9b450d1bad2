"""What a request does: each public method of `Supervisor` is one operation of the API.

An operation changes what is wanted under the machine's lock, lets the machine move, and waits on the process's
Condition until what was asked for is true, is refused, or was overtaken by another request. Operations on one process
that arrive together therefore end in one of the orders in which they could have been sent one by one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from typing import Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from . import birth, threads
from .child import Run
from .errors import Conflict, ExeioError, Failed, Invalid, NotFound, Overtaken, Unavailable
from .intent import Intent
from .lifecycle import Event, State
from .logfile import LogFile
from .machine import Machine
from .process import Process, clock
from .removing import Remover
from .saving import Saver, not_remembered
from .spec import RUN_FIELDS, ProcessSpec, signal_number
from .store import Store

#: Seconds for which the answer to a stop of all waits for the logs.
_SAID_SECONDS = 1.0
#: The same for the end of exeio.
_LAST_LINES = 10.0


class LogDefaults(NamedTuple):
    """Where logs are and how they rotate unless a process says otherwise (bytes, files)."""

    folder: str
    max_bytes: int
    backups: int


class Supervisor:
    """All operations on all processes; every method may be called from any thread."""

    def __init__(self, machine: Machine, store: Store, logs: LogDefaults,
                 echo: Optional[Callable[[str, bytes], None]] = None) -> None:
        """`echo` takes the id and the lines of a process, for `--echo`; it must not block."""
        self.machine = machine
        self.intent = Intent(machine)
        self.saver = Saver(store, machine.lock)
        self._remover = Remover(machine, self.intent, self.saver)
        self.logs = logs
        self._echo = echo
        #: "host:port" in the SYSTEM lines of logs; set once the socket is bound.
        self.address = ""
        self._lock = machine.lock
        self._processes = machine.processes
        self._log_watchers: Set[threading.Event] = set()

    # Adding and removing.

    def add(self, spec: ProcessSpec, start: bool = True, wait_seconds: float = 0.0) -> Process:
        """Add a process, start it and save it as its spec says; else leave nothing behind.

        Raises Conflict for an id that is taken, Invalid or Unavailable where it cannot be started, Conflict where it
        does not run any more after `wait_seconds`, Failed where it cannot be saved.
        """
        had_log = False

        def look() -> None:
            nonlocal had_log
            had_log = os.path.exists(self._log_path(spec.id))

        with self.machine.change() as effects:
            self.intent.check_free(spec.id)
            effects.append(look)  # not before: an add that was waited for takes its log along when it fails
            process = self.insert(spec)
            process.provisional = start
            attempt = self.intent.want_start(process, effects) if start else 0
            self.machine.announce(process)
        try:
            if start:
                run = self.intent.await_start(process, attempt)
                self.intent.watch_for(process, run, wait_seconds)
            if spec.save_for_next_run:
                self.saver.save([process])
        except ExeioError:
            self._remover.discard(process, had_log)
            raise
        return process

    def remove(self, id: str, purge: bool = False, only: Optional[Process] = None) -> None:
        """Stop, forget and un-save a process; `purge` deletes its log, too. Raises NotFound, Conflict, Failed.

        With `only`, a later process of the same id is left alone.
        """
        with self.machine.change() as effects:
            process = self.intent.get(id)
            if only is not None and process is not only:
                raise NotFound(f"{id!r} was removed by another request")
            process.removed = True
            run = self.intent.want_stop(process, effects)
        try:
            self.intent.await_end(process, run)
            if process.saved or process.spec.save_for_next_run:  # by an add whose save is still under way, too
                self.saver.forget(process)
        except ExeioError:
            with self._lock:
                process.removed = False
                process.touch()
            raise
        process.log.system("removed")
        try:
            if purge:
                self._remover.purge(process)
        finally:
            self._remover.take_out(process)
            process.log.close()

    # Starting and stopping.

    def start(self, id: str, wait_seconds: float = 0.0) -> None:
        """Start a process that is not running. Raises NotFound, Conflict, Invalid, Unavailable."""
        with self.machine.change() as effects:
            process = self.intent.get(id)
            self.intent.refuse_when_closing()
            if not process.want_up:
                self.intent.settle(process)  # a stop without wait may have come while it was starting
            if process.stuck:
                raise Conflict(f"{id!r} cannot be started: {process.reason}")
            if process.again or process.state in (State.UP, State.STARTING) or (
                    process.state is State.STOPPING and process.want_up):
                raise Conflict(f"{id!r} is running already")
            if process.spec.periodic and process.want_up and process.state is State.PENDING:
                raise Conflict(f"{id!r} is scheduled already; POST /run/{id} runs it now")
            attempt = self.intent.want_start(process, effects)
        run = self.intent.await_start(process, attempt)
        self.saver.remember_one(process, "started")
        self.intent.watch_for(process, run, wait_seconds)

    def stop(self, id: str, wait: bool = True) -> None:
        """Stop a process and return when nothing of it is left, or at once without `wait`; idempotent.

        Raises NotFound, Failed where something survives SIGKILL or the stop cannot be remembered.
        """
        with self.machine.change() as effects:
            process = self.intent.get(id)
            run = self.intent.want_stop(process, effects)
        trouble = self.saver.remember([process])
        if wait:
            self.intent.await_end(process, run)
            process.log.settle()  # who is answered finds it in the file, too
        if (failure := not_remembered(process, "stopped", trouble)) is not None:
            raise failure

    def restart(self, id: str, wait_seconds: float = 0.0) -> None:
        """Stop a process if it runs, then start it; a periodic one runs now and is scheduled from now."""
        process, attempt = self._begin_restart(id)
        run = self.intent.await_start(process, attempt)
        self.saver.remember_one(process, "restarted")
        self.intent.watch_for(process, run, wait_seconds)

    def _begin_restart(self, id: str, of_all: bool = False) -> Tuple[Process, int]:
        """Raises Conflict for one that is being removed, or NotFound where it is one of all: it is on its way out."""
        with self.machine.change() as effects:
            process = self.intent.get(id, changing=not of_all)
            if process.removed:
                raise NotFound(f"{id!r} is being removed")
            self.intent.settle(process)
            if process.stuck:
                raise Conflict(f"{id!r} cannot be restarted: {process.reason}")
            return process, self.intent.want_start(process, effects, Event.RESTART)

    def _restart_changed(self, process: Process) -> bool:
        """Restart a process for its new definition, unless another request has stopped it meanwhile."""
        with self.machine.change() as effects:
            self.intent.settle(process)
            if not process.want_up or process.state is State.DOWN:
                return False
            attempt = self.intent.want_start(process, effects, Event.RESTART)
        self.intent.await_start(process, attempt)
        return True

    def run_now(self, id: str) -> None:
        """Run a periodic process once now; its schedule stays. Raises NotFound, Invalid, Conflict, Unavailable."""
        with self.machine.change() as effects:
            process = self.intent.get(id)
            self.intent.refuse_when_closing()
            if not process.spec.periodic:
                raise Invalid(f"{id!r} is not periodic: use POST /start/{id}")
            if process.state not in (State.PENDING, State.DOWN):
                raise Conflict(f"a run of {id!r} is under way")
            process.one_off = True
            process.automatic = False
            if not process.want_up:
                self.machine.schedule_from(process, clock())
            self.machine.apply(process, Event.START, effects)
            attempt = process.attempts
        self.intent.await_start(process, attempt)

    def stop_all(self) -> List[Tuple[str, Optional[ExeioError]]]:
        """Stop all processes at once; returns each id with what went wrong, if anything did."""
        with self.machine.change() as effects:
            begun = [(process, self.intent.want_stop(process, effects)) for process in self._sorted()]
        trouble = self.saver.remember([process for process, _ in begun])
        results: List[Tuple[str, Optional[ExeioError]]] = []
        for process, run in reversed(begun):  # the last to be asked is the last to end: to wait for it wakes once
            try:
                self.intent.await_end(process, run)
                results.append((process.id, not_remembered(process, "stopped", trouble)))
            except ExeioError as stuck:
                results.append((process.id, stuck))
        _write_said([process.log for process, _ in begun], _SAID_SECONDS)
        return results[::-1]

    def restart_all(self) -> List[Tuple[str, Optional[ExeioError]]]:
        """Restart all processes at once, also those that ended or were stopped; returns as `stop_all`."""
        with self._lock:  # what is just starting is waited for, so it comes last
            ids = [one.id for one in sorted(self._sorted(), key=lambda one: one.state is State.STARTING)]
        begun: List[Tuple[Process, int]] = []
        results: Dict[str, Optional[ExeioError]] = {}
        for id in ids:
            with contextlib.suppress(NotFound):  # removed meanwhile
                try:
                    begun.append(self._begin_restart(id, of_all=True))
                except (Conflict, Unavailable) as error:
                    results[id] = error
        for process, attempt in begun:
            with contextlib.suppress(NotFound, Overtaken):  # removed or stopped by a request that came later
                try:
                    self.intent.await_start(process, attempt)
                    results[process.id] = None
                except (Failed, Invalid, Unavailable) as error:
                    results[process.id] = error
        trouble = self.saver.remember([process for process, _ in begun])
        unsaved = {process.id: not_remembered(process, "restarted", trouble) for process, _ in begun}
        return sorted((id, failure or unsaved.get(id)) for id, failure in results.items())

    # Changing.

    def update(self, id: str, make: Callable[[ProcessSpec], ProcessSpec]) -> Tuple[Tuple[str, ...], bool]:
        """Change the definition of a process; restarts it if it runs and a field of its run has changed.

        `make` gives the new definition for the present one. Returns the names of the fields that changed, and whether
        it was restarted. Raises NotFound, Invalid, Conflict, Unavailable, Failed.
        """
        while True:
            with self._lock:
                process = self.intent.get(id)
                base = process.spec
            new = make(base)
            names = base.changed(new)
            if RUN_FIELDS.intersection(names):
                birth.check(new)  # before the old run is ended for it
            restart = self._replace(process, base, new)
            if restart is not None:
                break
        if "save_for_next_run" in names or (new.save_for_next_run and names):
            try:
                self.saver.save([process])
            except Failed:
                self._replace(process, new, base)
                raise
        return names, restart and self._restart_changed(process)

    def _replace(self, process: Process, base: ProcessSpec, new: ProcessSpec) -> Optional[bool]:
        """Put `new` in place of `base`; returns whether a restart is due, or None if another was faster."""
        with self.machine.change() as effects:
            if process.spec is not base:
                return None
            process.spec = new
            names = set(base.changed(new))
            if process.state is State.PENDING and not (base.periodic or new.periodic or new.auto_restart):
                self.machine.cancel(process, effects)
            waiting = process.state is State.PENDING
            if new.periodic and base.periodic and "period_seconds" in names:
                assert new.period_seconds is not None
                process.first_tick = process.last_tick
                if waiting:
                    process.due = process.last_tick + new.period_seconds
                    self.machine.arm(process, process.due)
            process.touch()
            runs = process.want_up and process.state is not State.DOWN and not waiting
        process.log.configure(*self._rotation(new))
        return bool(names & RUN_FIELDS) if runs else waiting and "periodic" in names

    # Looking and talking.

    def ids(self) -> List[str]:
        """Return the ids of all processes, sorted."""
        with self._lock:
            return [process.id for process in self._sorted()]

    def status(self, id: str) -> Dict[str, object]:
        """Return one process as the API shows it, with its last runs if it is periodic. Raises NotFound."""
        with self._lock:
            process = self.intent.get(id, changing=False)
            view = process.view()
            if process.spec.periodic:
                view["history"] = process.runs()
            return view

    def spec(self, id: str) -> ProcessSpec:
        """Return the definition of a process. Raises NotFound."""
        with self._lock:
            return self.intent.get(id, changing=False).spec

    def process(self, id: str) -> Process:
        """Return the record of a process; its fields are guarded by the machine's lock. Raises NotFound."""
        with self._lock:
            return self.intent.get(id, changing=False)

    def log(self, id: str) -> LogFile:
        """Return the log of a process. Raises NotFound."""
        with self._lock:
            return self.intent.get(id, changing=False).log

    def all_logs(self) -> Dict[str, LogFile]:
        """Return the logs of all processes by id, also of those that are being added: they may have lines already."""
        with self._lock:
            return {process.id: process.log for process in self._processes.values()}

    def watch_logs(self, event: threading.Event, watching: bool) -> None:
        """Set `event` whenever a process comes, or do so no more."""
        with self._lock:
            (self._log_watchers.add if watching else self._log_watchers.discard)(event)

    def clear_log(self, id: str) -> None:
        """Empty the log of a process, its rotated files too. Raises NotFound, Failed."""
        log = self.log(id)
        try:
            log.clear()
        except OSError as error:
            raise Failed(f"the log of {id!r} cannot be cleared: {error.strerror}") from None

    def send_signal(self, id: str, name: str, group: bool) -> int:
        """Signal the main process, or its group; returns the pid. Raises NotFound, Conflict."""
        with self._lock:
            run = self._live_run(id)
            run.signal(signal_number(name), group)
            return run.pid

    def send_input(self, id: str, data: bytes, eof: bool) -> None:
        """Queue bytes for stdin, then its end. Raises NotFound, Conflict."""
        with self._lock:
            run = self._live_run(id)
        if run.spec.periodic:
            raise Conflict(f"{id!r} is periodic: its stdin is /dev/null")
        run.send_input(data, eof)

    def _live_run(self, id: str) -> Run:
        """Return the run whose main process lives; raises NotFound, Conflict. Caller holds self._lock."""
        process = self.intent.get(id)
        if process.run is None or not process.alive:
            raise Conflict(f"{id!r} is not running")
        return process.run

    # The end.

    def shutdown(self) -> bool:
        """Stop everything, start nothing any more, remember nothing; returns whether nothing is left."""
        with self.machine.change() as effects:
            self.machine.closing = True
            self.intent.leftovers_changed.notify_all()
            everything = list(self._processes.values())
            for process in everything:
                if process.state is not State.DOWN:
                    self.machine.apply(process, Event.STOP, effects)
        clean = True
        with self._lock:
            for process in everything:
                clean = self.intent.is_down(process) and clean
            clean = self.intent.leftovers_are_gone() and clean
        clean = self.machine.ender.end_strays(self.machine.stop_timeout) and clean
        _write_said([process.log for process in everything], _LAST_LINES)
        return clean

    # What several of them need.

    def _sorted(self) -> List[Process]:
        """Caller holds self._lock."""
        return [one for _, one in sorted(self._processes.items()) if not one.provisional]

    def insert(self, spec: ProcessSpec) -> Process:
        """Take in a process that is down and not wanted. Caller holds the machine's lock."""
        process = Process(spec, self._new_log(spec), self._lock)
        self._processes[spec.id] = process
        for event in self._log_watchers:
            event.set()
        return process

    def _log_path(self, id: str) -> str:
        return os.path.join(self.logs.folder, f"{id}.log")

    def _rotation(self, spec: ProcessSpec) -> Tuple[int, int]:
        return (self.logs.max_bytes if spec.log_max_bytes is None else spec.log_max_bytes,
                self.logs.backups if spec.log_backups is None else spec.log_backups)

    def _new_log(self, spec: ProcessSpec) -> LogFile:
        log = LogFile(self._log_path(spec.id), *self._rotation(spec), self.address)
        if self._echo is not None:
            log.echo = functools.partial(self._echo, spec.id)
        return log


def _write_said(logs: List[LogFile], seconds: float) -> None:
    """Have what was said to `logs` written, so that who is answered finds it in the files; one that hangs is let be."""
    def write() -> None:
        for log in logs:
            log.write_said()

    writer = threading.Thread(target=write, name="exeio-said", daemon=True)
    with contextlib.suppress(RuntimeError):  # without room for it, the threads of the runs do so a little later
        threads.start(writer)
        writer.join(seconds)
