"""What there is on the command line, read from the parsers: for completion and the manual page."""

from __future__ import annotations

import argparse
import signal
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from exeio_core.client_options import command_parser
from exeio_core.client_wait import WORDS
from exeio_core.options import Parser, serve_parser
from exeio_core.spec import FIELDS, signal_name
from exeio_core.values import Choice, Signal

SHELLS = ("bash", "zsh", "fish")
COMMON = "connection and output"  # the group of options that all commands of the client have
OF_PROCESS = "fields of the process"


@dataclass(frozen=True)
class Option:
    """An option; `value` is the name of what it takes, None for a flag, `words` what that may be, if it is a few.

    `optional`: a flag that takes a value only behind =, as in --echo=raw.
    """

    names: Tuple[str, ...]
    value: Optional[str]
    help: str
    group: str  # title of the group it stands in, in the help
    words: Tuple[str, ...]
    optional: bool

    @property
    def takes_next(self) -> bool:
        """Whether the next word on the command line is its value."""
        return self.value is not None and not self.optional

    @property
    def files(self) -> bool:
        """Whether it takes the name of a file."""
        return self.value in ("FILE", "PATH")

    @property
    def folders(self) -> bool:
        """Whether it takes the name of a folder."""
        return self.value == "FOLDER"


def options_of(name: str) -> List[Option]:
    """The options of a command of the client, or of "serve", in the order of its help."""
    parser: Parser = serve_parser() if name == "serve" else command_parser(name)
    found = []
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.option_strings and action.help != argparse.SUPPRESS:
                flag = action.nargs == 0
                value = None if flag else str(action.metavar)
                help = str(action.help).replace("%%", "%")
                words = () if flag else _words(action)
                names = tuple(action.option_strings)
                found.append(Option(names, value, help, group.title or "", words, action.nargs == "?"))
    return found


def signals() -> Tuple[str, ...]:
    """The names of this system's signals, without SIG."""
    names = (signal_name(int(number)) for number in sorted(signal.valid_signals()))
    return tuple(name[3:] for name in names if name.startswith("SIG"))


def _words(action: argparse.Action) -> Tuple[str, ...]:
    if action.option_strings[-1] in _FEW:
        return _FEW[action.option_strings[-1]]
    for field in FIELDS:
        if field.option in action.option_strings:
            if isinstance(field.kind, Choice):
                return field.kind.words
            if isinstance(field.kind, Signal):
                return signals()
    return ()


_FEW: Dict[str, Tuple[str, ...]] = {
    "--for": WORDS,
    "--stream": ("stdout", "stderr", "system"),
    "--reset": tuple(field.name for field in FIELDS if not field.required),
}


def words_of(name: str) -> Tuple[str, ...]:
    """What the words of a command may be, beside ids."""
    if name == "completion":
        return SHELLS
    return signals() if name == "signal" else ()
