"""How the state of processes gets into `processes.json`, never an older one over a newer one."""

from __future__ import annotations

import itertools
import threading
from typing import Iterable, List, Optional, Tuple

from .errors import ExeioError, Failed
from .process import Process
from .store import SavedProcess, Store


class Saver:
    """Writes entries through the store; waits for the disk, so no method is called with the machine's lock held."""

    def __init__(self, store: Store, lock: threading.Lock) -> None:
        self.store = store
        self._lock = lock
        # Drawn under the lock together with the state that is saved: the store ignores what is older than what it has.
        self._versions = itertools.count(1)

    def save(self, processes: Iterable[Process]) -> None:
        """Bring the entries of processes up to date, or take them out; returns when that is durable. Raises Failed."""
        with self._lock:
            version = next(self._versions)
            entries: List[Tuple[Process, Optional[SavedProcess]]] = [
                (one, SavedProcess(one.spec, not one.want_up) if one.spec.save_for_next_run else None)
                for one in processes if not one.removed]
            for one, entry in entries:
                one.offered = one.offered or entry is not None
        self._put(entries, version)

    def remember(self, processes: Iterable[Process]) -> Optional[ExeioError]:
        """Write down which of the saved ones among `processes` are stopped by request; returns what went wrong."""
        try:
            self.save([process for process in processes if process.spec.save_for_next_run])
        except ExeioError as error:
            return error
        return None

    def remember_one(self, process: Process, done: str) -> None:
        """Do the same for a process; raises Failed, which says that it is `done` ("started") all the same."""
        failure = not_remembered(process, done, self.remember([process]))
        if failure is not None:
            raise failure

    def forget(self, process: Process) -> None:
        """Take a process out of the file. Raises Failed."""
        with self._lock:
            version = next(self._versions)
        self._put([(process, None)], version)

    def _put(self, entries: List[Tuple[Process, Optional[SavedProcess]]], version: int) -> None:
        if not entries:
            return
        self.store.put_all([(process.id, entry) for process, entry in entries], version)
        with self._lock:
            for process, entry in entries:
                if version > process.saved_version:  # an older save may come back later, and the file is not of it
                    process.saved, process.saved_version = entry is not None, version
                    process.touch()


def not_remembered(process: Process, done: str, trouble: Optional[ExeioError]) -> Optional[Failed]:
    """Return the failure of a request that has `done` ("stopped") what it should, but could not save that.

    None where there was no `trouble`, or the process is not a saved one.
    """
    if trouble is None or not process.spec.save_for_next_run:
        return None
    return Failed(f"{process.id!r} is {done}, but that is not remembered for the next start: {trouble.message}")
