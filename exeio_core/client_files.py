"""JSON of processes as people write it: definitions in files, and the text that goes through an editor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Dict, List, NoReturn, Tuple

from exeio_core.errors import Failed, Invalid
from exeio_core.values import shown

Definition = Dict[str, object]

_EDITORS = ("sensible-editor", "editor", "vi", "nano", "emacs")


def read_text(path: str) -> Tuple[str, str]:
    """The text of a file, - for stdin, and what to call it in messages. Raises Failed, Invalid."""
    what = "stdin" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig"), what
    except UnicodeDecodeError as error:
        raise Invalid(f"{what} is not valid JSON: byte {error.start} is not UTF-8") from None


def parse(text: str, what: str) -> object:
    """The JSON in `text`; raises Invalid with line and column, or naming what is given twice."""
    try:
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        return value
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Invalid(f"{what} is not valid JSON: {error.msg} ({place})") from None
    except Invalid as error:
        raise Invalid(f"{what}: {error.message}") from None
    except RecursionError:
        raise Invalid(f"{what} is nested too deeply") from None
    except ValueError:  # more digits than Python converts
        raise Invalid(f"{what} holds a number that is too long") from None


def _unique(pairs: List[Tuple[str, object]]) -> Definition:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise Invalid(f"{shown(next(name for name in names if names.count(name) > 1))} is given twice in one object")
    return found


def _no_constant(text: str) -> NoReturn:
    raise Invalid(f"{text} is no number in JSON")


def read_definitions(path: str) -> Tuple[List[Definition], bool]:
    """The processes that a file defines, and whether it is one by itself and no list. Raises Failed, Invalid."""
    text, what = read_text(path)
    if not text.strip():
        raise Invalid(f'{what} is empty; a process is a JSON object, such as {{"id": "web", "command": "date"}}')
    value = parse(text, what)
    listed = value if isinstance(value, list) else [value]
    for number, one in enumerate(listed, 1):
        where = f"{what}, process {number}" if isinstance(value, list) else what
        if not isinstance(one, dict):
            raise Invalid(f"{where}: a process must be a JSON object, not {shown(one)}")
        refuse_hidden(one, where)
    return listed, not isinstance(value, list)


def refuse_hidden(definition: Definition, where: str) -> None:
    """Raise Invalid for values of env as `config` shows them without --secrets: they would be taken for real ones."""
    env = definition.get("env")
    hidden = [name for name, value in env.items() if value == "***"] if isinstance(env, dict) else []
    if hidden:
        raise Invalid(
            f"{where}: the value of {shown(hidden[0])} in env is hidden (\"***\"); take the definition from "
            "`config ID --secrets`")


# The editor


def edited(text: str, id: str) -> Tuple[str, str]:
    """What the user makes of `text` in an editor, and the file that holds it. Raises Failed.

    The file is the caller's to delete, once nothing in it can be lost. Only its user can read it.
    """
    editor = _editor()
    number, path = tempfile.mkstemp(prefix=f"exeio-{id}-", suffix=".json")  # mode 0600
    with open(number, "w", encoding="utf-8") as file:
        file.write(text)
    # Ctrl-C is the editor's; a handler, unlike SIG_IGN, is not inherited by it.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        # By a shell, since the variable may hold options; as git does it.
        status = subprocess.run(["sh", "-c", f'{editor} "$@"', editor, path], check=False).returncode
    except OSError as error:
        os.unlink(path)
        raise Failed(f"cannot run a shell for the editor: {error.strerror}") from None
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        os.chmod(path, 0o600)  # some editors write a new file
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            made = file.read()
    except OSError as error:
        raise Failed(f"cannot read what the editor has written to {path}: {error.strerror}") from None
    if status:
        if made == text:
            os.unlink(path)
        kept = "" if made == text else f"; {kept_in(path)}"
        raise Failed(f"the editor `{editor}` ended with status {status}, and nothing was changed{kept}")
    return made, path


def kept_in(path: str) -> str:
    """Where the user's text is, for a message."""
    return f"your text is kept in {path}"


def forget(path: str, id: str) -> None:
    """Delete a text that an edit of `id` has kept, as it is applied now; a file of the user's own is left alone."""
    folder, name = os.path.split(os.path.realpath(path))
    if folder == os.path.realpath(tempfile.gettempdir()) and name.startswith(f"exeio-{id}-"):
        os.unlink(path)


def _editor() -> str:
    for name in ("VISUAL", "EDITOR"):
        if os.environ.get(name, "").strip():
            return os.environ[name]
    for name in _EDITORS:
        if shutil.which(name):
            return name
    raise Failed("no editor was found; name one in the variable EDITOR")
