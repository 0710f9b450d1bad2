"""The saved processes, `processes.json`: read strictly, changed one entry at a time, durably."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import deque
from typing import Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

from exeio_core.errors import ExeioError, Failed, Invalid
from exeio_core.files import check_regular, remove_leftovers, write_atomic
from exeio_core.spec import ProcessSpec

#: How often a write is begun anew because the file was edited meanwhile.
_TRIES = 20

_SPACE = re.compile(r"[ \t\r\n]*")


class SavedProcess(NamedTuple):
    """An entry of the file: what to run, and whether it was stopped by request."""

    spec: ProcessSpec
    stopped: bool = False


class Edit(NamedTuple):
    """What somebody else has made of an entry since it was last loaded or saved here; None where there is none."""

    id: str
    before: Optional[SavedProcess]
    after: Optional[SavedProcess]


class _Entry(NamedTuple):
    """An entry with its text as it stands in the file, so that what others wrote stays as they wrote it."""

    text: str
    saved: SavedProcess


class _Change:
    """One `put` on its way into the file; `error` is None once it is durable."""

    def __init__(self, id: str, saved: Optional[SavedProcess], version: int) -> None:
        self.id = id
        self.saved = saved
        self.version = version
        self.done = False
        self.error: Optional[str] = "the save was interrupted"


class Store:
    """The file `processes.json` of one supervisor; edits by hand between two accesses are respected.

    Saves that arrive while another one is being written share the next write: 16 threads that save at once
    need a few fsyncs, not 16.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._pending: Deque[_Change] = deque()  # atomic; only the lock holder takes out
        # Guards the attributes below and the order of reads and writes of the file. A leaf: no other lock is
        # taken under it, and only threads that load or save wait for it.
        self._lock = threading.Lock()
        self._versions: Dict[str, int] = {}
        self._known: Dict[str, SavedProcess] = {}  # as last loaded or saved: tells edits by hand from our own
        self._cache: Optional[Tuple[bytes, List[_Entry]]] = None  # the last content seen, to parse it once

    def load(self) -> List[SavedProcess]:
        """Every saved process, in the file's order; none if the file is missing or empty.

        Raises Invalid with line and column for a file that is not right as a whole, Failed for one that
        cannot be read.
        """
        with self._lock:
            remove_leftovers(self.path)
            entries = self._read()
            self._known = {entry.saved.spec.id: entry.saved for entry in entries}
        return [entry.saved for entry in entries]

    def edits(self) -> List[Edit]:
        """Return what was edited by hand, deleted entries first; each is told once. Raises as `load`."""
        with self._lock:
            known, self._known = self._known, {entry.saved.spec.id: entry.saved for entry in self._read()}
            deleted = [Edit(id, saved, None) for id, saved in sorted(known.items()) if id not in self._known]
            others = [Edit(id, known.get(id), saved) for id, saved in self._known.items() if known.get(id) != saved]
        return deleted + others

    def is_known(self, edit: Edit) -> bool:
        """Return whether nothing has been saved for this id since the edit was told."""
        with self._lock:
            return self._known.get(edit.id) == edit.after

    def tell_again(self, edit: Edit) -> None:
        """Have `edits` tell of this one again: it could not be applied."""
        with self._lock:
            if self._known.get(edit.id) != edit.after:
                return
            self._known.pop(edit.id, None)
            if edit.before is not None:
                self._known[edit.id] = edit.before

    def put(self, id: str, saved: Optional[SavedProcess], version: int) -> None:
        """Save the process `id`, or forget it (None); returns when that is durable.

        A `version` below the last one put for this id is outdated and ignored. Of an entry that was edited by
        hand and not reloaded since, only "stopped" is changed unless the definition changed here, too. Raises
        Failed with the reason; a file that is invalid is left as it is.
        """
        self.put_all([(id, saved)], version)

    def put_all(self, entries: Sequence[Tuple[str, Optional[SavedProcess]]], version: int) -> None:
        """Do what `put` does for several processes at once, in one write."""
        changes = [_Change(id, saved, version) for id, saved in entries]
        self._pending.extend(changes)
        with self._lock:
            if not all(change.done for change in changes):
                self._commit()
        for change in changes:
            if change.error is not None:
                raise Failed(change.error)

    def _commit(self) -> None:
        """Write all pending changes at once. Caller holds self._lock."""
        batch: List[_Change] = []
        while self._pending:
            batch.append(self._pending.popleft())
        error: Optional[str] = "the save was interrupted"
        try:
            self._apply(batch)
            error = None
        except ExeioError as failure:
            error = f"not saved: {failure.message}"
        except OSError as failure:
            error = f"not saved: cannot write {self.path}: {failure.strerror}"
        finally:
            for change in batch:
                change.error = error
                change.done = True

    def _apply(self, batch: Sequence[_Change]) -> None:
        """Caller holds self._lock."""
        for _ in range(_TRIES):
            if self._merge(batch):
                return
        raise Failed(f"another program changes {self.path} all the time")

    def _merge(self, batch: Sequence[_Change]) -> bool:
        """Write the changes into the file as it is now; returns False if it is another by then. Holds self._lock."""
        seen = self._identity()
        before = self._read()
        entries = {entry.saved.spec.id: entry for entry in before}
        known = dict(self._known)
        for change in batch:
            if change.version < self._versions.get(change.id, change.version):
                continue
            self._versions[change.id] = change.version
            current, base = entries.get(change.id), known.get(change.id)
            if change.saved is None:
                entries.pop(change.id, None)
                known.pop(change.id, None)
                continue
            known[change.id] = change.saved
            edited = base is not None and base.spec == change.saved.spec and (
                current is None or current.saved.spec != base.spec)
            if not edited:
                entries[change.id] = _made(current, change.saved)
            elif current is not None:
                entries[change.id] = _with_stopped(current, change.saved.stopped)
        after = list(entries.values())
        if after != before:
            data = _document(after)
            self._cache = None
            # The time for the disk is the time in which an edit would be lost.
            if not write_atomic(self.path, data, still=lambda: self._identity() == seen):
                return False
            self._cache = (data, after)
        self._known = known
        return True

    def _identity(self) -> Optional[Tuple[int, ...]]:
        """What is another for another content; None where there is no file."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self) -> List[_Entry]:
        """The entries of the file as it is now. Caller holds self._lock."""
        try:
            # Without waiting: a named pipe would keep exeio until somebody writes into it.
            with open(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                check_regular(os.fstat(file.fileno()), self.path)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Failed(f"cannot read {self.path}: {error.strerror}") from None
        if self._cache is None or self._cache[0] != data:
            self._cache = (data, _parse(self.path, data))
        return self._cache[1]


def _made(current: Optional[_Entry], saved: SavedProcess) -> _Entry:
    """The entry for `saved`; the current one where it says the same already."""
    if current is not None and current.saved == saved:
        return current
    content: Dict[str, object] = saved.spec.to_json(full=False)
    content["save_for_next_run"] = True
    if saved.stopped:
        content["stopped"] = True
    return _Entry(_text(content), saved)


def _with_stopped(entry: _Entry, stopped: bool) -> _Entry:
    """`entry` as somebody else wrote it, except for "stopped"."""
    if entry.saved.stopped == stopped:
        return entry
    content = json.loads(entry.text)
    content.pop("stopped", None)
    if stopped:
        content["stopped"] = True
    return _Entry(_text(content), SavedProcess(entry.saved.spec, stopped))


def _text(content: Dict[str, object]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False).replace("\n", "\n  ")


def _document(entries: Sequence[_Entry]) -> bytes:
    if not entries:
        return b"[]\n"
    return ("[\n  " + ",\n  ".join(entry.text for entry in entries) + "\n]\n").encode("utf-8")


def _unique(pairs: List[Tuple[str, object]]) -> Dict[str, object]:
    found: Dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise Invalid(f'"{name}" is given twice', name)
        found[name] = value
    return found


def _no_constant(text: str) -> object:
    raise Invalid(f"{text} is not a number in JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _parse(path: str, data: bytes) -> List[_Entry]:
    """The entries of a whole file; raises Invalid that says where and what.

    The array is walked here and only its elements are given to `json`: so the place and the text of each are
    known.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        raise _wrong(path, before, len(before), "this is not UTF-8 text") from None
    at = _skip(text, 0)
    if at == len(text):
        return []
    if text[at] != "[":
        raise _wrong(path, text, at, "the file must be a list of processes and begin with [")
    entries: List[_Entry] = []
    places: Dict[str, int] = {}
    at = _skip(text, at + 1)
    closed = text.startswith("]", at)
    while not closed:
        entry, end = _entry(path, text, at, len(entries) + 1)
        id = entry.saved.spec.id
        if id in places:
            first = text.count("\n", 0, places[id]) + 1
            raise _wrong(path, text, at, f'a second process has the id "{id}" (the first is in line {first})')
        places[id] = at
        entries.append(entry)
        at = _skip(text, end)
        closed = text.startswith("]", at)
        if not closed:
            if not text.startswith(",", at):
                raise _wrong(path, text, at, "a comma or ] is expected" + _at_end(text, at))
            at = _skip(text, at + 1)
    at = _skip(text, at + 1)
    if at != len(text):
        raise _wrong(path, text, at, "there is something behind the end of the list")
    return entries


def _entry(path: str, text: str, at: int, number: int) -> Tuple[_Entry, int]:
    """The entry that begins at `at`, and where it ends."""
    who = f"process {number} of the list"
    try:
        content, end = _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _wrong(path, text, error.pos, error.msg + _at_end(text, error.pos)) from None
    except Invalid as error:
        raise _wrong(path, text, at, f"{who}: {error.message}") from None
    except RecursionError:
        raise _wrong(path, text, at, f"{who} is nested too deeply") from None
    except ValueError:  # an integer of more digits than Python converts
        raise _wrong(path, text, at, f"{who} holds a number that is too long") from None
    try:
        return _Entry(text[at:end], _saved(content)), end
    except Invalid as error:
        name = content.get("id") if isinstance(content, dict) else None
        if isinstance(name, str):
            who += f' ("{name}")'
        place = re.compile(f'"{re.escape(error.field or "")}"[ \t\r\n]*:').search(text, at, end)
        raise _wrong(path, text, place.start() if place else at, f"{who}: {error.message}") from None


def _saved(content: object) -> SavedProcess:
    """An element of the list as a saved process; being there saves it. Raises Invalid."""
    if not isinstance(content, dict):
        return SavedProcess(ProcessSpec.from_json(content))  # which says what is wrong with it
    fields = {name: value for name, value in content.items() if name not in ("stopped", "log_file")}
    fields["save_for_next_run"] = True
    stopped = content.get("stopped")
    if stopped is not None and not isinstance(stopped, bool):
        raise Invalid("stopped must be true or false", "stopped")
    return SavedProcess(ProcessSpec.from_json(fields, beside=("stopped",)), bool(stopped))


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _at_end(text: str, at: int) -> str:
    return " (the file ends here; is it cut off?)" if at >= len(text.rstrip()) else ""


def _wrong(path: str, text: str, at: int, what: str) -> Invalid:
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    where = f"{path}, line {line}, column {column}"
    return Invalid(f"{where}: {what}; correct the file, exeio leaves it as it is")
