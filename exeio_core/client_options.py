"""The command line of a client's command: what it was told, and the fields of a process as options."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple, cast

from exeio_core.commands import COMMANDS, Command
from exeio_core.errors import Invalid
from exeio_core.options import Parser, UsageError, make_parser, number, parse_size, program
from exeio_core.spec import FIELDS
from exeio_core.values import Integer, Seconds


@dataclass(frozen=True)
class Connection:
    """How to reach the supervisor: the options that every command of the client takes."""

    url: Optional[str] = None
    api_key: Optional[str] = None
    api_key_file: Optional[str] = None
    config_dir: Optional[str] = None
    data_dir: Optional[str] = None


@dataclass(frozen=True)
class Call:
    """A command of the client with all it was given."""

    command: Command
    words: List[str]
    tail: Optional[List[str]]  # what stands behind `--`, for add and update
    connection: Connection
    json: bool
    fields: Dict[str, object]  # of a process, as JSON
    options: argparse.Namespace  # the command's own options


def command_parser(name: str) -> Parser:
    """The parser of a command: what it knows of its options, help, completion and manual page say."""
    command = COMMANDS[name]
    options = "" if "[options]" in command.words else "[options]"
    forms = [f"{command.words} {options}".strip(), command.also]
    more = f"{command.more}\n\n" if command.more else ""
    parser = make_parser(
        name,
        "\n       ".join(f"{program()} {name} {form}" for form in forms if form),
        command.help[0].upper() + command.help[1:] + ".",
        f"{more}examples:\n  {command.example}",
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    _add_own_options(parser, name)
    group = parser.add_argument_group("connection and output")
    group.add_argument("--json", action="store_true", help="print JSON, for programs")
    group.add_argument("--url", metavar="URL", help="http://host:port or unix:/path (or EXEIO_URL)")
    group.add_argument("-k", "--api-key", metavar="KEY", help="the key (or EXEIO_API_KEY)")
    group.add_argument("--api-key-file", metavar="FILE", help="file that holds the key")
    group.add_argument("--config-dir", metavar="FOLDER", help="config folder of the supervisor")
    group.add_argument("--data-dir", metavar="FOLDER", help="data folder of the supervisor")
    return parser


def client_call(name: str, arguments: Sequence[str]) -> Call:
    """The call that `arguments` (without the command's name) ask for. Raises UsageError."""
    command = COMMANDS[name]
    parser = command_parser(name)
    front, tail = list(arguments), None
    if "--" in front:
        place = front.index("--")
        front, tail = front[:place], front[place + 1 :]
    options = parser.parse_intermixed_args(front)
    words = list(options.words)
    if name != "import":  # its word is a file, which is opened by the bytes it was named with
        words = list(map(_as_text, words))
    tail = tail and list(map(_as_text, tail))
    if tail is not None and not command.dashes:
        words, tail = words + tail, None
    if len(words) < command.least:
        parser.error(f"{name} needs {command.words}")
    if command.most is not None and len(words) > command.most:
        hint = "; put -- before the command" if command.dashes else ""
        parser.error(f"{words[command.most]!r} is too much: {name} takes {command.words or 'no words'}{hint}")
    connection = Connection(
        options.url, options.api_key, options.api_key_file, options.config_dir, options.data_dir
    )
    fields = _fields(options, tail) if command.dashes else {}
    return Call(command, words, tail, connection, options.json, fields, options)


def _as_text(word: str) -> str:
    """A word of the command line as text for the API: what the locale could not read is UTF-8. Raises UsageError."""
    try:
        word.encode("utf-8")
        return word
    except UnicodeEncodeError:  # bytes that Python keeps as half surrogate pairs (PEP 383)
        try:
            return os.fsencode(word).decode("utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{word!r} is no text: it holds bytes that are not UTF-8") from None


def _add_own_options(parser: argparse.ArgumentParser, name: str) -> None:
    add = parser.add_argument
    if name in ("add", "update"):
        _add_fields(parser, adding=name == "add")
    if name == "add":
        add("-f", "--file", metavar="FILE", help="add what this JSON file defines; - is stdin")
        add("--no-start", action="store_true", help="only add it")
    if name in ("add", "start", "restart"):
        add("--wait-seconds", metavar="SECONDS", help="succeed only if it is still running then")
    if name == "config":
        add("--secrets", action="store_true", help="show the values of env, too")
    if name == "stop":
        add("--no-wait", action="store_true", help="do not wait until it is gone")
    if name == "remove":
        add("--purge", action="store_true", help="delete its log as well")
    if name == "signal":
        add("--group", action="store_true", help="to all that it started, too")
    if name == "input":
        add("--no-newline", action="store_true", help="send the text without a newline")
        add("--eof", action="store_true", help="close its stdin afterwards")
    if name == "edit":
        add("-f", "--file", metavar="FILE", help="begin with this text, which an earlier edit has kept")
    if name == "import":
        add("--apply", action="store_true", help="add it all, saved; without this nothing is changed")
        add("--format", metavar="FORMAT", help="supervisord, procfile or pm2 (default: as the file looks)")
    if name in ("install", "uninstall"):
        add("--system", action="store_true", help="a systemd unit of the whole machine (default for root)")
        add("--user", action="store_true", help="a systemd unit of your account (default for others)")
        add("--cron", action="store_true", help="an @reboot line in your crontab")
        add("--openrc", action="store_true", help="an OpenRC script")
        add("--destdir", metavar="FOLDER", help="folder that stands for /, to make a package or an image")
    if name == "install":
        add("--print", action="store_true", help="print it and write nothing")
        add("--run-as", metavar="USER", help="account of a service of the whole machine (default: root)")
    if name == "wait":
        add("--for", dest="wanted", metavar="STATUS", help="status to wait for, or several with commas between them")
        add("--timeout", metavar="SECONDS", help="give up after that time (default: never)")
    if name == "logs":
        add("-f", "--follow", action="store_true", help="go on with new lines as they come")
        add("-n", "--lines", metavar="N", help="number of lines (default: 50; with --since all of them)")
        add("--stream", metavar="NAME", help="only stdout, stderr or system")
        add("--contains", metavar="TEXT", help="only lines that contain this")
        add("--since", metavar="TIME", help="only from this time on: UTC, as in the log or ISO 8601; or 10m (s, h, d)")
        add("--until", metavar="TIME", help="only up to this time")


def _add_fields(parser: argparse.ArgumentParser, adding: bool) -> None:
    """An option for every field of a process, from the table of fields."""
    group = parser.add_argument_group("fields of the process")
    for field in FIELDS:
        if field.name == "id":
            continue
        help = field.help.replace("%", "%%")
        if field.kind.option == "flag":
            negative = field.option.replace("--", "--no-", 1)
            group.add_argument(field.option, dest=field.name, action="store_const", const=True, help=help)
            group.add_argument(negative, dest=field.name, action="store_const", const=False, help="or not")
        elif field.kind.option == "one":
            metavar = "SIZE" if field.name == "log_max_bytes" else field.kind.metavar
            group.add_argument(field.option, dest=field.name, metavar=metavar, help=help)
        else:
            if field.kind.option == "pairs":
                help = help.replace("null", "NAME alone")
            group.add_argument(
                field.option, dest=field.name, metavar=field.kind.metavar, action="append",
                help=f"{help} (may be repeated)",
            )
    if not adding:
        group.add_argument(
            "--reset", metavar="FIELD", action="append", default=[],
            help="set a field back to its default (may be repeated)",
        )


def _fields(options: argparse.Namespace, tail: Optional[List[str]]) -> Dict[str, object]:
    """The fields that were given, as JSON. Raises UsageError naming the option."""
    values: Dict[str, object] = {}
    if tail is not None:
        if not tail:
            raise UsageError("a command must follow --")
        if options.command is not None or options.args is not None:
            raise UsageError("give the command either behind -- or with --command and --args")
        values.update(command=tail[0], args=tail[1:])
    for field in FIELDS:
        given: Any = getattr(options, field.name, None)
        if given is None:
            continue
        if field.kind.option == "one":
            given = _as_text(given)
        elif field.kind.option != "flag":
            given = list(map(_as_text, given))
        value: object = given
        if field.kind.option == "pairs":
            value = dict(cast(Tuple[str, Optional[str]], field.kind.from_text(text)) for text in given)
        elif field.name == "log_max_bytes":
            value = parse_size(given)
        elif field.kind.option == "one":
            value = field.kind.from_text(given)
        try:
            field.kind.check(field.option, value)
        except Invalid as error:
            raise UsageError(error.message) from None
        values[field.name] = value
    for name in getattr(options, "reset", ()):
        known = name.strip("-").replace("-", "_")
        if not any(field.name == known and not field.required for field in FIELDS):
            raise UsageError(f"--reset: no field {name!r} has a default; see: {program()} update --help")
        values.setdefault(known, None)
    return values


def seconds_option(option: str, text: str, highest: int = 86_400) -> float:
    """A number of seconds from 0 to `highest`. Raises UsageError naming the option."""
    kind = Seconds(0, highest)
    try:
        return float(kind.check(option, kind.from_text(text)))
    except Invalid as error:
        raise UsageError(error.message) from None


def count_option(option: str, text: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`. Raises UsageError naming the option."""
    try:
        return Integer(low, high).check(option, number(text))
    except Invalid as error:
        raise UsageError(error.message) from None
