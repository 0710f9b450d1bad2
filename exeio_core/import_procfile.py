"""Reads a Procfile, with the .env beside it, as foreman and honcho do, for `exeio import`."""

from __future__ import annotations

import os
import re
import shlex
from typing import Dict, List

from exeio_core.errors import Invalid
from exeio_core.import_plan import Plan, folder_of, read_text

_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(.+)")
_SETTING = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
# What only a shell understands; without any of it the program can be started by itself.
_FOR_A_SHELL = frozenset("$`&|;<>()*?[]{}~#!=\\")
_FIRST_PORT = 5000


def read(path: str) -> Plan:
    """Plan what the Procfile defines. Raises Invalid, Failed."""
    plan = Plan("Procfile")
    folder = folder_of(path)
    beside = os.path.join(folder, ".env")
    env = read_env(beside) if os.path.exists(beside) else {}
    lines = [line.strip() for line in read_text(path).splitlines()]
    number = 0
    for place, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise Invalid(f"{path}: line {place} is not `name: command`")
        name, command = found.groups()
        port = str(_port(env, beside) + 100 * number)
        number += 1
        fields: Dict[str, object] = {**_command(command), "working_dir": folder, "auto_restart": True,
                                     "env": {**env, "PORT": port}}
        plan.add(name, name, fields)
    if number:
        plan.note("Procfile", "PORT", "set for each as foreman does, a hundred apart; change it where it is not wanted")
    return plan


def _port(env: Dict[str, str], path: str) -> int:
    text = env.get("PORT", str(_FIRST_PORT))
    if not text.isdigit():
        raise Invalid(f"{path}: PORT must be a number, not {text!r}")
    return int(text)


def _command(command: str) -> Dict[str, object]:
    words: List[str] = []
    if not set(command) & _FOR_A_SHELL:
        try:
            words = shlex.split(command)
        except ValueError:
            pass  # a shell will say what it thinks of it
    words = words or ["/bin/sh", "-c", command]
    return {"command": words[0], "args": words[1:]}


def read_env(path: str) -> Dict[str, str]:
    """The variables of a .env file: NAME=value, quotes around a value, comments. Raises Invalid, Failed."""
    found: Dict[str, str] = {}
    for place, line in enumerate(read_text(path).splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _SETTING.fullmatch(text)
        if match is None:
            raise Invalid(f"{path}: line {place} is not NAME=value")
        found[match[1]] = _value(match[2].strip())
    return found


def _value(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text[1:-1])
    return text
