"""The command `man`: the manual page in troff's man macros, made from the tables that the help is made from."""

from __future__ import annotations

from typing import Iterable, Iterator, List, Tuple

from exeio_core import __version__
from exeio_core.client_table import COMMON, OF_PROCESS, Option, options_of
from exeio_core.commands import COMMANDS, Command
from exeio_core.options import SERVE_EXAMPLES

_ABOUT = """\
exeio runs programs, restarts them, runs them on a schedule, keeps what they print in logs, and is controlled by a REST
API or by this command. Without a command, or with serve, it is the supervisor, in the foreground. With one of the
commands below it is a client that asks a running supervisor."""

_FILES = (
    ("~/.config/exeio/processes.json", "the saved processes; edit it, then use reload"),
    ("~/.config/exeio/api-key", "the key, where exeio made it or you put it there"),
    ("~/.local/share/exeio/logs/ID.log", "the log of a process, and ID.log.1 and so on when it has rotated"),
    ("~/.local/share/exeio/logs/exeio.log", "start and stop of exeio, and every call that changes something"),
    ("~/.local/share/exeio/run.json", "pid and address of the running supervisor"),
)

_ENVIRONMENT = (
    ("EXEIO_API_KEY", "the key"),
    ("EXEIO_URL", "address that the client asks: http://host:port, https://host:port or unix:/path"),
    ("EXEIO_CONFIG_DIR, EXEIO_DATA_DIR", "the two folders, instead of those below XDG_CONFIG_HOME and XDG_DATA_HOME"),
    ("VISUAL, EDITOR", "the editor of the command edit"),
    ("NO_COLOR", "where it is set, nothing is coloured"),
)

_STATUS = (
    ("0", "done, or shut down as asked"),
    ("1", "refused, or the supervisor could not start; a line on stderr says why"),
    ("2", "wrong usage"),
    ("3", "supervisor not reachable"),
    ("130", "a command was ended by Ctrl-C"),
)

_SIGNALS = (
    ("SIGTERM, SIGINT", "stop all processes and end the supervisor; a second one skips the grace period"),
    ("SIGHUP", "apply an edited processes.json, and read the files of keys and certificate anew"),
)


def manual() -> str:
    """The page, for man -l or a file in man1."""
    parts: List[str] = [
        f'.TH EXEIO 1 "" "exeio {_escaped(__version__)}" "User Commands"',
        ".SH NAME", r"exeio \- process supervisor with a REST API",
        ".SH SYNOPSIS", r"\fBexeio\fR [\fBserve\fR] [\fIoptions\fR]", ".br",
        r"\fBexeio\fR \fICOMMAND\fR [\fIoptions\fR]",
        ".SH DESCRIPTION", _escaped(_ABOUT),
        ".SH OPTIONS", "Of the supervisor:", *_options(options_of("serve")),
        ".SH COMMANDS", "All of them take these options:",
        *_options(option for option in options_of("list") if option.group == COMMON),
    ]
    for command in COMMANDS.values():
        parts += _command(command)
    parts += [".SH EXIT STATUS", *_pairs(_STATUS), ".SH SIGNALS", *_pairs(_SIGNALS)]
    parts += [".SH ENVIRONMENT", _escaped(_variables()), *_pairs(_ENVIRONMENT)]
    parts += [".SH FILES", *_pairs(_FILES), ".SH EXAMPLES", *_example(_examples())]
    return "\n".join(parts) + "\n"


def _variables() -> str:
    """What the help of the whole program says about them."""
    return SERVE_EXAMPLES.rpartition("\n\n")[2].partition("\nExit status")[0]


def _examples() -> str:
    """Those of the help of the whole program, without what stands around them."""
    return SERVE_EXAMPLES.partition("examples:\n")[2].partition("\n\n")[0]


def _command(command: Command) -> Iterator[str]:
    yield f".SS {_escaped(command.name)}"
    for number, words in enumerate(filter(None, (command.words or "[options]", command.also))):
        if number:
            yield ".br"
        yield rf"\fBexeio {_escaped(command.name)}\fR {_escaped(words)}"
    yield ".PP"
    yield _escaped(f"{_sentence(command.help)} {' '.join(command.more.split())}".strip())
    own = [option for option in options_of(command.name) if option.group != COMMON and "--help" not in option.names]
    if command.name == "update":
        own = [option for option in own if option.group != OF_PROCESS or option.names == ("--reset",)]
        yield "Each field is an option, as for"
        yield ".BR add ."
    yield from _options(own)
    yield from _example(f"  {command.example}")


def _options(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        value = rf" \fI{_escaped(option.value)}\fR" if option.value else ""
        value = rf"[={_escaped(option.value)}]" if option.value and option.optional else value
        yield ".TP"
        yield ", ".join(rf"\fB{_escaped(name)}\fR" for name in option.names) + value
        yield _escaped(_sentence(option.help))


def _pairs(pairs: Iterable[Tuple[str, str]]) -> Iterator[str]:
    for name, text in pairs:
        yield ".TP"
        yield rf"\fB{_escaped(name)}\fR"
        yield _escaped(_sentence(text))


def _sentence(text: str) -> str:
    return (text if "://" in text.split(maxsplit=1)[0] else text[0].upper() + text[1:]) + "."


def _example(text: str) -> Iterator[str]:
    yield from (".PP", ".RS 4", ".nf")
    for line in text.split("\n"):
        yield _escaped(line.replace("EXEIO ", "exeio ").strip())
    yield from (".fi", ".RE")


def _escaped(text: str) -> str:
    """`text` as troff shows it as it is: what is not ASCII by its number, and no line that is a request."""
    special = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
    signs = (special.get(sign) or (sign if sign.isascii() else rf"\[u{ord(sign):04X}]") for sign in text)
    return "\n".join(rf"\&{line}" if line.startswith(".") else line for line in "".join(signs).split("\n"))
