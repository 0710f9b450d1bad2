"""`processes.json` against what there is: the start with saved processes, and the reload of an edited file."""

from __future__ import annotations

import threading
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

from .errors import Conflict, ExeioError, NotFound, Overtaken, Unavailable
from .lifecycle import Event, State
from .process import Process, clock
from .spec import ProcessSpec, signal_number
from .store import Edit, SavedProcess
from .supervisor import Supervisor

#: Entries of a reload that are stopped, started or restarted at the same time.
_WORKERS = 16
#: How often an entry is looked at anew because requests add and remove its process meanwhile.
_TRIES = 20

# Held during a reload: two at once would both see a new entry as new. No other lock is held when it is taken.
_ONE_AT_A_TIME = threading.Lock()


def begin(supervisor: Supervisor, entries: Iterable[SavedProcess], leftovers: Iterable[str]) -> None:
    """Take in the saved processes at exeio's start, and start those that were not stopped by request.

    One of which a killed predecessor left something is `stopping` until `leftovers_gone` is called for it.
    """
    machine = supervisor.machine
    with machine.change() as effects:
        supervisor.intent.leftovers = set(leftovers)
        for entry in entries:
            process = supervisor.insert(entry.spec)
            process.saved = True
            process.want_up = not entry.stopped
            process.automatic = True
            machine.schedule_from(process, clock())
            if entry.spec.id in supervisor.intent.leftovers:
                process.state = State.ENDING
                process.reason = "what an exeio that was killed has left of it is being ended"
            elif process.want_up:
                machine.apply(process, Event.START, effects)
            machine.announce(process)


def leftovers_gone(supervisor: Supervisor, id: str) -> None:
    """Nothing is left of the earlier runs of `id`: what waited for that goes on."""
    machine = supervisor.machine
    with machine.change() as effects:
        supervisor.intent.leftovers.discard(id)
        supervisor.intent.leftovers_changed.notify_all()
        process = machine.processes.get(id)
        if process is None or process.state is not State.ENDING or process.run is not None:
            return
        process.stuck = process.again = False
        process.reason = None
        wanted = process.want_up and not process.removed and not machine.closing
        machine.apply(process, Event.AGAIN if wanted else Event.DONE, effects)


def leftovers_stuck(supervisor: Supervisor, id: str, pids: List[int]) -> None:
    """Processes of an earlier run of `id` have survived SIGKILL."""
    with supervisor.machine.change():
        process = supervisor.machine.processes.get(id)
        if process is not None and process.state is State.ENDING and process.run is None:
            process.stuck = True
            process.reason = f"still there after SIGKILL: pid {', '.join(map(str, pids))}, of an exeio that was killed"
            process.touch()


def leftover_manner(supervisor: Supervisor, saved: Mapping[str, ProcessSpec], id: str) -> Tuple[int, float]:
    """Return the stop signal and the grace in seconds for what is left of `id`; `saved` is how it was defined."""
    with supervisor.machine.lock:
        process = supervisor.machine.processes.get(id)
    spec = process.spec if process is not None else saved.get(id)
    if spec is not None:
        return supervisor.machine.manner(spec)
    return signal_number("TERM"), supervisor.machine.stop_timeout


def reload(supervisor: Supervisor) -> List[Dict[str, object]]:
    """Apply an edited `processes.json`; returns what was done, an entry a process that was not left alone.

    New processes start, saved ones that are missing are removed, changed ones restart, a changed `stopped` stops or
    starts. A failure is its entry's result. Raises Invalid or Failed for a file that cannot be taken, which changes
    nothing. One reload at a time; a second one waits.
    """
    with _ONE_AT_A_TIME:
        return _reload(supervisor)


def _reload(supervisor: Supervisor) -> List[Dict[str, object]]:
    # Only what was edited by hand is applied: what requests are changing just now may not be in the file yet, or not
    # in the table any more, and is no edit.
    with supervisor.machine.lock:
        present = dict(supervisor.machine.processes)
    edits = supervisor.saver.store.edits()
    work = [(edit, present.get(edit.id)) for edit in edits]
    if not work:
        return []
    from concurrent.futures import ThreadPoolExecutor  # not at the start: the import takes 8 ms

    try:
        with ThreadPoolExecutor(min(_WORKERS, len(work)), "exeio-reload") as pool:
            # Side by side, so that one slow stop delays nothing else.
            results = list(pool.map(lambda item: _result(supervisor, *item), work))
    except RuntimeError as error:
        for edit in edits:  # what has been done is not done again
            supervisor.saver.store.tell_again(edit)
        raise Unavailable(f"the system has no room for threads, send the reload again: {error}") from None
    return [result for result in results if result is not None]


def _result(supervisor: Supervisor, edit: Edit, process: Optional[Process]) -> Optional[Dict[str, object]]:
    """Apply an edit; returns what was done, None if nothing had to be."""
    try:
        done = _remove(supervisor, process) if edit.after is None else _bring(supervisor, edit, edit.after)
    except Overtaken as error:
        return {"id": edit.id, "success": True, "message": error.message}
    except ExeioError as error:
        if edit.id not in supervisor.machine.processes or edit.before is not None:
            supervisor.saver.store.tell_again(edit)
        return {"id": edit.id, "success": False, "message": error.message}
    return None if done is None else {"id": edit.id, "success": True, "message": done}


def _remove(supervisor: Supervisor, process: Optional[Process]) -> Optional[str]:
    if process is None:
        return None
    try:
        supervisor.remove(process.id, only=process)
    except (NotFound, Conflict):
        if _settled(supervisor, process.id) is process:
            raise
        return None  # by another request
    return "removed"


def _bring(supervisor: Supervisor, edit: Edit, entry: SavedProcess) -> Optional[str]:
    """Add or adjust the process of an entry, unless a request was later than the edit."""
    for _ in range(_TRIES):
        process = _settled(supervisor, edit.id)
        if not supervisor.saver.store.is_known(edit):
            return None
        try:
            return _add(supervisor, entry) if process is None else _adjust(supervisor, process, edit, entry)
        except (NotFound, Conflict):
            with supervisor.machine.lock:
                if supervisor.machine.processes.get(edit.id) is process and not (process and process.removed):
                    raise
    raise Conflict(f"{edit.id!r} is added and removed again and again by other requests")


def _settled(supervisor: Supervisor, id: str) -> Optional[Process]:
    """Return the process of this id; one that is being added or removed is waited for."""
    processes = supervisor.machine.processes
    with supervisor.machine.lock:
        process = processes.get(id)
        if process is not None:
            process.changed.wait_for(lambda: processes.get(id) is not process or not (
                process.provisional or process.removed), supervisor.intent.stop_limit(process))
        return processes.get(id)


def _add(supervisor: Supervisor, entry: SavedProcess) -> str:
    """Take in a new entry; one that cannot start stays, since the file says so."""
    machine = supervisor.machine
    with machine.change() as effects:
        supervisor.intent.check_free(entry.spec.id)
        process = supervisor.insert(entry.spec)
        process.saved = True
        if entry.stopped:
            machine.announce(process)
            return "added, not started: the file says that it is stopped"
        attempt = supervisor.intent.want_start(process, effects)
    supervisor.intent.await_start(process, attempt)
    return "added and started"


def _adjust(supervisor: Supervisor, process: Process, edit: Edit, entry: SavedProcess) -> Optional[str]:
    """Bring a process to what its entry says; returns what was done, None if nothing had to be."""
    def edited(base: ProcessSpec) -> ProcessSpec:
        # A definition that a request has changed since is saved over the edit.
        return entry.spec if edit.before is None or base == edit.before.spec else base

    with supervisor.machine.lock:
        taken_over = not process.saved
    names, restarted = supervisor.update(edit.id, edited)
    done = ["taken over"] if taken_over else []
    changed = [name for name in names if name != "save_for_next_run" or not taken_over]
    if changed:
        done.append(f"changed ({', '.join(changed)}){' and restarted' if restarted else ''}")
    with supervisor.machine.lock:
        stopped = not process.want_up
    if edit.before is None or edit.before.stopped != entry.stopped:
        if entry.stopped and not stopped:
            supervisor.stop(edit.id)
            done.append("stopped")
        elif stopped and not entry.stopped:
            supervisor.start(edit.id)
            done.append("started")
    return ", ".join(done) or None
