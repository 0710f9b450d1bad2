"""What an import would add, and what it cannot map: filled by the readers of foreign files, shown by the command."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Dict, List

from exeio_core.errors import Failed, Invalid
from exeio_core.files import whole_path
from exeio_core.spec import ProcessSpec, check_id

#: No such file is longer than this; a disk given by mistake is.
_LONGEST = 4 << 20


@dataclass(frozen=True)
class Planned:
    """A process as `/add` takes it; not `start`: it is only added."""

    definition: Dict[str, object]
    start: bool


@dataclass(frozen=True)
class Unmapped:
    """A setting that exeio has nothing for, or means otherwise, and why."""

    where: str
    key: str
    reason: str


@dataclass
class Plan:
    """The result of reading a file; `kind` is what it was taken for."""

    kind: str
    processes: List[Planned] = field(default_factory=list)
    unmapped: List[Unmapped] = field(default_factory=list)

    def add(self, where: str, name: str, fields: Dict[str, object], start: bool = True, second: str = "") -> None:
        """Plan a process named `name`, or `second` if that is taken; `where` is its place in the file.

        Raises Invalid that names the place.
        """
        id = self._free_id(where, name, second)
        definition = {"id": id, **fields, "save_for_next_run": True}
        try:
            checked = ProcessSpec.from_json(definition)
        except Invalid as error:
            raise Invalid(f"{where}: {error.message}", error.field) from None
        self.processes.append(Planned(checked.to_json(full=False), start))

    def _free_id(self, where: str, name: str, second: str) -> str:
        taken = {one.definition["id"] for one in self.processes}
        for wanted in filter(None, (name, second)):
            id = re.sub("[^A-Za-z0-9._-]+", "-", wanted).lstrip("._-")[:64] or "process"
            if id == "exeio":
                id = "exeio-1"
            if id not in taken:
                if id != name:
                    self.note(where, "name", f"its id is {id!r}: {name!r} is taken or no id")
                return check_id(id)
        raise Invalid(f"{where}: there are two processes named {name!r}")

    def note(self, where: str, key: str, reason: str) -> None:
        """Remember what cannot be mapped; the same thing of the same place once."""
        one = Unmapped(where, key, reason)
        if one not in self.unmapped:
            self.unmapped.append(one)


def read_text(path: str) -> str:
    """The text of a file, UTF-8. Raises Failed or Invalid."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LONGEST + 1)
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _LONGEST:
        raise Invalid(f"{path} is longer than {_LONGEST >> 20} MiB: no definition of processes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 (byte {error.start})") from None


def folder_of(path: str) -> str:
    """The absolute folder that a file lies in. Raises Failed."""
    return os.path.dirname(whole_path(path))
