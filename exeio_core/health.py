"""Whether exeio does its work: the watchdog answers, the ender lives, and processes.json could be written."""

from __future__ import annotations

import os
import threading
import time
from typing import Optional

from .machine import Machine

#: Seconds after which a watchdog that has not answered is called late.
LATE = 3.0
#: Seconds for which an answer of the watchdog is good: /health needs no key, so it must not cost much.
_GOOD = 1.0


class Health:
    """Looks when it is asked; any thread may ask."""

    def __init__(self, machine: Machine, saved_path: str) -> None:
        """`saved_path` is that of processes.json."""
        self._machine = machine
        self._path = saved_path
        # Held while the watchdog is asked; nobody waits for it, the others take what was found last.
        self._lock = threading.Lock()
        self._asked = 0.0  # when the watchdog was asked last, on the monotonic clock
        self._lag = 0.0

    def lag(self) -> float:
        """Return seconds that the watchdog takes to answer a call; waits at most LATE for that.

        The watchdog sleeps until something is due, so that only a call tells whether it would wake up.
        """
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._asked >= _GOOD and self._answered():
                    self._asked = time.monotonic()
                    self._machine.watchdog.wake()
                self._await_answer()
            finally:
                self._lock.release()
        return self._lag

    def _answered(self) -> bool:
        return self._machine.watchdog.last_round >= self._asked

    def _await_answer(self) -> None:
        """Wait for the answer to the call of `_asked`, which may have been a while ago."""
        pause = 0.0005
        end = time.monotonic() + LATE + 0.1
        while not self._answered():
            self._lag = time.monotonic() - self._asked
            if time.monotonic() > end or not self._machine.watchdog.alive():
                return
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        self._lag = max(0.0, self._machine.watchdog.last_round - self._asked)

    def trouble(self) -> Optional[str]:
        """Return what does not work, in one sentence for anybody, or None."""
        if self._machine.closing:
            return "exeio is shutting down"
        if not self._machine.watchdog.alive():
            return "the watchdog does not run any more: no exit is noticed"
        if not self._machine.ender.alive():
            return "the thread that ends processes does not run any more"
        lag = self.lag()
        if lag >= LATE:
            return f"the watchdog has not answered for {lag:.1f} seconds"
        return self._store_trouble()

    def _store_trouble(self) -> Optional[str]:
        """Not whether the file is right: who edits it by hand must not have exeio restarted for that."""
        folder = os.path.dirname(os.path.realpath(self._path))
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            return "processes cannot be saved: the folder of processes.json is missing or cannot be written"
        if os.path.lexists(self._path) and not os.access(self._path, os.R_OK):
            return "processes cannot be saved: processes.json cannot be read"
        try:
            room = os.statvfs(folder)
        except OSError as error:
            return f"processes cannot be saved: {error.strerror}"
        if room.f_blocks and not room.f_bavail:
            return "processes cannot be saved: there is no room left on the disk of processes.json"
        return None
