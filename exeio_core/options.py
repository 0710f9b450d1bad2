"""The command line: which commands there are, and the checked options of `serve`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Callable, Dict, Iterable, List, Mapping, NoReturn, Optional, Sequence, Tuple

from exeio_core import __version__
from exeio_core.commands import COMMANDS
from exeio_core.errors import ExeioError, Invalid
from exeio_core.settings import (
    DEFAULT_HOST,
    DEFAULT_LOG_BACKUPS,
    DEFAULT_PORT,
    DEFAULT_STOP_TIMEOUT,
    ServeOptions,
    check_key,
)
from exeio_core.spec import FIELDS, check_id
from exeio_core.values import Integer, Seconds


class UsageError(ExeioError):
    """The command line itself is wrong; exit status 2."""

    exit_status = 2


def program() -> str:
    """The name this program was called by, for help and advice."""
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return "exeio" if name in ("", "-", "-c", "-m", "__main__.py") else name


def _near(word: str, known: Iterable[str]) -> Optional[str]:
    """What of `known` was probably meant by `word`; dashes in front make nothing alike."""
    import difflib  # only after a mistake

    bare = {name.lstrip("-"): name for name in known}
    return next((bare[name] for name in difflib.get_close_matches(word.lstrip("-"), bare, 1)), None)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors: what is wrong and where the help is."""

    def error(self, message: str) -> NoReturn:
        _, unknown, words = message.partition("unrecognized arguments: ")
        if unknown:
            # Only the first one's name: what stands behind an option that was mistyped may be a key.
            name = words.split(" ", 1)[0].partition("=")[0]
            near = _near(name, self._option_string_actions)
            message = unknown + name + (f" (did you mean {near}?)" if near else "")
        raise UsageError(f"{message}; see: {self.prog} --help")


def make_parser(command: Optional[str], usage: str, description: str, epilog: str) -> Parser:
    """A parser for `command`; `EXEIO ` in its `epilog` stands for the program's name."""
    prog = f"{program()} {command}" if command else program()
    return Parser(
        prog=prog,
        usage=usage,
        description=description,
        epilog=epilog.replace("EXEIO ", program() + " "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


# These take one with some commands only: the next word is it, unless that is a command.
_MAYBE_WITH_VALUE = frozenset(("-f", "--group", "--user"))
# All options, of any command, may stand before the command: which of them take their value from the next word.
_WITH_VALUE = frozenset((
    "-H", "--host", "-P", "--port", "-k", "--api-key", "--api-key-file", "--read-only-key", "--read-only-key-file",
    "--tls-cert", "--tls-key", "--unix-socket", "--on-event", "--config-dir", "--data-dir",
    "--log-max-bytes", "--log-backups", "--stop-timeout", "--exit-with", "--url",
    "--file", "--wait-seconds", "--reset", "--for", "--timeout", "-n", "--lines", "--stream", "--contains", "--since",
    "--until", "--format", "--destdir", "--run-as",
    *(field.option for field in FIELDS if field.kind.option != "flag"),
)) - _MAYBE_WITH_VALUE
_FLAGS = frozenset(("-h", "--help", "--version", "--echo", "--no-echo", "--daemon", "--json"))


def split(arguments: Sequence[str]) -> Tuple[str, List[str]]:
    """The command among `arguments` ("serve" if there is none) and all the others. Raises UsageError."""
    before = ""
    for place, word in enumerate(arguments):
        if word == "--":
            break
        if before in _WITH_VALUE:
            before = ""
        elif word.startswith("-") and word != "-":
            before = word
        elif word == "serve" or word in COMMANDS:
            return word, [*arguments[:place], *arguments[place + 1 :]]
        elif before in _MAYBE_WITH_VALUE:
            before = ""
        elif before.startswith("--") and "=" not in before and before not in _FLAGS:
            break  # the value of an option that does not exist, which the parser will say
        else:
            near = _near(word, ("serve", *COMMANDS))
            hint = f"did you mean {near}?" if near else f"see: {program()} --help"
            raise UsageError(f"there is no command {word!r}; {hint}")
    return "serve", list(arguments)


# serve

SERVE_EXAMPLES = """\
examples:
  EXEIO                                   supervise in the foreground, on 127.0.0.1:8080
  EXEIO serve --port 3000 --api-key-file /etc/exeio.key
  EXEIO add web --auto-restart -- python3 -m http.server 8000
  EXEIO list
  EXEIO logs web -f

Each option has a variable: EXEIO_PORT=3000 is --port 3000, EXEIO_ECHO is yes, no or raw; the option wins.
The client finds the address and the key of the supervisor of this account by itself; EXEIO_URL names another.
Exit status: 0 done, 1 failed or refused, 2 wrong usage, 3 supervisor not reachable."""


def serve_parser() -> Parser:
    """The parser of `serve`, whose help is that of the whole program."""
    width = max(len(name) for name in COMMANDS)
    commands = "\n".join(f"  {each.name:{width}}  {each.help}" for each in COMMANDS.values())
    parser = make_parser(
        None,
        f"{program()} [serve] [options]\n       {program()} COMMAND [options]",
        "Supervise processes and serve the API for it; or, with a command, ask a running supervisor.",
        f"commands ({program()} COMMAND --help says more):\n{commands}\n\n{SERVE_EXAMPLES}",
    )
    parser.add_argument("--version", action="version", version=f"exeio {__version__}")
    add = parser.add_argument
    add("-H", "--host", metavar="HOST", help=f"address or name to bind (default: {DEFAULT_HOST})")
    add(
        "-P", "--port", metavar="PORT",
        help=f"port; 0 picks a free one; none: only the Unix socket (default: {DEFAULT_PORT})",
    )
    add("-k", "--api-key", metavar="KEY", help="the key; shown by `ps`, so better use a file or a variable")
    add("--api-key-file", metavar="FILE", help="file that holds the key (or the variable EXEIO_API_KEY)")
    add("--read-only-key", metavar="KEY", help="a second key, which may only read; shown by `ps`, too")
    add("--read-only-key-file", metavar="FILE", help="file that holds it")
    add("--tls-cert", metavar="FILE", help="certificate chain (PEM): the port speaks HTTPS")
    add("--tls-key", metavar="FILE", help="its key (PEM), where it is not in the same file")
    add("--unix-socket", metavar="PATH", help="listen on this Unix socket, too, for this user only")
    add("--on-event", metavar="COMMAND", help="run this for each change of a process's status, told as JSON on stdin")
    add("--config-dir", metavar="FOLDER", help="of processes.json and the key (default: ~/.config/exeio)")
    add("--data-dir", metavar="FOLDER", help="of logs and run state (default: ~/.local/share/exeio)")
    add(
        "--echo", nargs="?", const="yes", metavar="raw",
        help="copy processes' lines to stdout, as `[id] line`; with --echo=raw as they are",
    )
    add("--no-echo", dest="echo", action="store_const", const="no", help="do not (default: on a terminal)")
    add("--log-max-bytes", metavar="SIZE", help="size a log rotates at, such as 10M; 0: never (default: 50M)")
    add("--log-backups", metavar="N", help=f"rotated files kept of each log (default: {DEFAULT_LOG_BACKUPS})")
    add(
        "--stop-timeout", metavar="SECONDS",
        help=f"time to stop in before SIGKILL, where a process sets none (default: {DEFAULT_STOP_TIMEOUT:g})",
    )
    add("--daemon", action="store_const", const="yes", help="detach; returns when it listens, or says why not")
    add("--exit-with", metavar="ID", help="end when this process ends for good, with its exit code")
    return parser


def serve_options(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> ServeOptions:
    """The options of `serve`, from variables where they are not given.

    Raises UsageError; SystemExit after --help and --version.
    """
    parsed = serve_parser().parse_args(arguments)
    given = {name: value for name, value in vars(parsed).items() if value is not None}
    called = {}
    for name in _WITH_VARIABLE:
        variable = f"EXEIO_{name.upper()}"
        if name not in given and environ.get(variable):
            given[name], called[name] = environ[variable], variable
    try:
        return _checked(given, called)
    except Invalid as error:
        raise UsageError(error.message) from None


def _checked(given: Dict[str, str], called: Mapping[str, str]) -> ServeOptions:
    """The options from their texts; `called` names the variables of some. Raises Invalid naming the option."""
    def label(name: str) -> str:
        return called.get(name) or f"--{name.replace('_', '-')}"

    options: Dict[str, object] = dict(given)
    for name in _NOT_EMPTY:
        if options.get(name) == "":
            raise Invalid(f"{label(name)} must not be empty")
    for name in ("tls_cert", "tls_key", "unix_socket"):
        if name in given:
            options[name] = os.path.expanduser(given[name])
    if "api_key" in given:
        check_key(given["api_key"], f"the key given with {label('api_key')}")
    if "port" in given:
        options["port"] = _port(given, label)
    if "tls_key" in given and "tls_cert" not in given:
        raise Invalid(f"{label('tls_key')} needs --tls-cert, the certificate that it belongs to")
    if "log_max_bytes" in given:
        size = parse_size(given["log_max_bytes"])
        options["log_max_bytes"] = Integer(4096, 2**50, also=(0,)).check(label("log_max_bytes"), size)
    if "log_backups" in given:
        options["log_backups"] = Integer(0, 1000).check(label("log_backups"), number(given["log_backups"]))
    if "stop_timeout" in given:
        seconds = Seconds(0, 86_400)
        given_seconds = seconds.from_text(given["stop_timeout"])
        options["stop_timeout"] = float(seconds.check(label("stop_timeout"), given_seconds))
    if "echo" in given:
        options["echo_raw"] = given["echo"] == "raw"
        options["echo"] = options["echo_raw"] or _yes(label("echo"), given["echo"], "yes, no or raw")
    if "daemon" in given:
        options["daemon"] = _yes(label("daemon"), given["daemon"], "yes or no")
    if "exit_with" in given:
        try:
            check_id(given["exit_with"])
        except Invalid as error:
            raise Invalid(f"{label('exit_with')}: {error.message}") from None
    return ServeOptions(**options)  # type: ignore[arg-type]  # the names are those of the parser above


_NOT_EMPTY = (
    "config_dir", "data_dir", "api_key_file", "read_only_key_file", "tls_cert", "tls_key", "unix_socket", "on_event",
    "host",
)


# Those that have a variable and are nothing else: the folders and keys are found together with their other sources.
_WITH_VARIABLE = (
    "host", "port", "read_only_key_file", "tls_cert", "tls_key", "unix_socket", "on_event", "echo", "log_max_bytes",
    "log_backups", "stop_timeout", "daemon", "exit_with",
)


def _yes(label: str, text: str, wanted: str) -> bool:
    if text.lower() not in _WORDS:
        raise Invalid(f"{label} must be {wanted}, not {text!r}")
    return _WORDS[text.lower()]


_WORDS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


def _port(given: Dict[str, str], label: Callable[[str], str]) -> Optional[int]:
    """The port, None for no TCP at all. Raises Invalid."""
    if given["port"] != "none":
        return Integer(0, 65535).check(label("port"), number(given["port"]))
    if "unix_socket" not in given:
        raise Invalid(f"{label('port')} none needs --unix-socket PATH: exeio has to listen somewhere")
    for name in ("host", "tls_cert"):
        if name in given:
            raise Invalid(f"{label(name)} is about the port, and {label('port')} none says that there is none")
    return None


def number(text: str) -> object:
    """The whole number that `text` is; what is none stays text, for a check to name."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else text


_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> object:
    """Bytes of "4096", "10M", "10MiB" (both of 1024s) or "10MB" (of 1000s); what is no size stays text."""
    match = re.fullmatch("([0-9]{1,15}) ?([KMGT]?)(B|IB)?", text.strip().upper())
    if match is None or (match.group(3) == "IB" and not match.group(2)):
        return text
    base = 1000 if match.group(3) == "B" else 1024
    return int(match.group(1)) * int(base ** _UNITS[match.group(2)])
