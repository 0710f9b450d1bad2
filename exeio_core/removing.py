"""How a process leaves the table: its id is free again when nothing of it is left, and not before."""

from __future__ import annotations

import contextlib
import threading

from .errors import ExeioError, Failed
from .intent import Intent
from .machine import Machine
from .process import Process
from .saving import Saver
from .threads import start

#: Seconds to wait for a reader that has been told to end.
_JOIN = 1.0


class Remover:
    """Takes processes out; waits, so no method is called with the machine's lock held."""

    def __init__(self, machine: Machine, intent: Intent, saver: Saver) -> None:
        self._machine = machine
        self._intent = intent
        self._saver = saver

    def discard(self, process: Process, had_log: bool) -> None:
        """Undo an `add`: end what runs, forget the process and, if it made its log, that too.

        While its spawn hangs, the id stays taken: what comes back one day must not be a second of that name. It is
        listed then, as one that is stopping, and a thread waits for it.
        """
        with self._machine.change() as effects:
            process.removed = True
            self._intent.want_stop(process, effects)
            gone = process.changed.wait_for(lambda: process.run is None, self._intent.stop_limit(process))
            if not gone:
                process.provisional = False
                self._machine.announce(process)
                process.touch()
        if not gone:
            waiting = threading.Thread(target=self._discard_late, args=(process, had_log), daemon=True,
                                       name=f"exeio-discard-{process.id}")
            with contextlib.suppress(RuntimeError):  # without a thread it stays until the end of exeio
                start(waiting)
            return
        self._forget(process, had_log)

    def _discard_late(self, process: Process, had_log: bool) -> None:
        with self._machine.lock:
            process.changed.wait_for(lambda: process.run is None)
        self._forget(process, had_log)

    def _forget(self, process: Process, had_log: bool) -> None:
        if process.offered:  # by a stop, say, while it was watched
            with contextlib.suppress(ExeioError):  # the reason that is told is why the add failed
                self._saver.forget(process)
        if not had_log:
            with contextlib.suppress(Failed):
                self.purge(process)
        self.take_out(process)
        process.log.close()

    def take_out(self, process: Process) -> None:
        """Make its id free, and tell so."""
        with self._machine.lock:
            # An add that failed may have been faster than a removal.
            if self._machine.processes.get(process.id) is process:
                del self._machine.processes[process.id]
                self._machine.announce(process, gone=True)
            process.touch()

    def purge(self, process: Process) -> None:
        """Delete the log. What `kill_mode` "process" left alone loses its reader, or it would make the file anew.

        While the id is taken, or it would be the log that the next one of that name has just begun. Raises Failed.
        """
        for run in self._machine.live_runs():
            if run.lingering and run.log.path == process.log.path:  # also of one of that id that was removed before
                run.abandon()
                run.join(_JOIN)
        try:
            process.log.purge()
        except OSError as error:
            raise Failed(f"{process.id!r} is removed, but its log cannot be deleted: {error.strerror}") from None
