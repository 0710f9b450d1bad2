"""The command `exeio`: starts the supervisor or the client, and tells what went wrong."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence, TextIO

from exeio_core.errors import ExeioError, print_error, printable

if TYPE_CHECKING:
    from exeio_core.settings import ServeOptions

# What a write to stdout may fail with, but for a pipe that nobody reads any more.
_OF_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
INTERRUPTED = 130  # as a shell reports an end by SIGINT


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line `argv` (default: sys.argv[1:]); returns the exit status.

    0 done, 1 failed or refused, 2 wrong usage, 3 supervisor not reachable; what went wrong is one line on
    stderr.
    """
    _open_missing_streams()
    _take_every_text()
    arguments = sys.argv[1:] if argv is None else list(argv)
    status = _told(lambda: _run(arguments))
    _can_be_written(sys.stderr)
    return status


def _told(run: Callable[[], int]) -> int:
    """The exit status of `run`; where it fails, the line on stderr has been written."""
    try:
        try:
            status = run()
        except SystemExit as done:  # argparse, after --help or --version
            status = done.code if isinstance(done.code, int) else 0
        sys.stdout.flush()
        return status
    except ExeioError as error:
        status = getattr(error, "exit_status", 1)
        return _complain(error.message, status)
    except KeyboardInterrupt:
        # What was just being made is taken apart when this is left, and would complain that it is not whole.
        sys.unraisablehook = lambda _: None
        return INTERRUPTED
    except BrokenPipeError:
        _give_up(sys.stdout)  # whoever read has had enough (`| head`)
        return 0
    except OSError as error:
        if error.filename is not None or error.errno not in _OF_WRITES:
            raise  # it was about something else
        _can_be_written(sys.stdout)
        return _complain(f"cannot write to stdout: {error.strerror}", 1)
    except ModuleNotFoundError as error:
        return _complain(_what_is_missing(str(error.name)), 1)


def _complain(message: str, status: int) -> int:
    """Say what went wrong, where somebody can be told; returns the exit status, which tells it all the same."""
    print_error(f"exeio: {printable(message)}")
    return status


def _can_be_written(stream: TextIO) -> bool:
    """Whether what was written to a standard stream gets where it leads; if not, it leads to /dev/null from now on."""
    try:
        stream.flush()
        return True
    except OSError:
        _give_up(stream)
        return False


def _give_up(stream: TextIO) -> None:
    """Let a standard stream lead to /dev/null, so that Python's own flush at the exit does not fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _what_is_missing(module: str) -> str:
    if module.partition(".")[0] == "exeio_core":
        return f"exeio is not whole: {module} is missing; copy all of the folder exeio_core"
    version = "{}.{}".format(*sys.version_info)
    return (f"this Python {version} has no module {module!r}, though it belongs to the standard library; install all "
            "of it (on Debian and Ubuntu the package python3; python3-minimal is not enough)")


def _take_every_text() -> None:
    """Make stdout and stderr take every text, whatever the locale: what it lacks is shown as `?`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _open_missing_streams() -> None:
    """Give /dev/null to standard streams that the caller has closed; the lock or a socket would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.open(os.devnull, os.O_RDWR), mode, closefd=False)  # noqa: SIM115 - for good
            setattr(sys, name, stream)


def _run(arguments: List[str]) -> int:
    # Nothing of what is imported is garbage, and looking for it takes a tenth of the start.
    gc.disable()
    try:
        run = _chosen(arguments)
    finally:
        gc.freeze()  # or it is walked over at the first chance, and again and again (a 20th of an `/add`)
        gc.enable()
    return run()


def _chosen(arguments: List[str]) -> Callable[[], int]:
    """What the command line asks for, imported and ready to run."""
    # What is not needed is not imported: the start of a supervisor is measured.
    if not arguments and not any(_is_option(name) for name in os.environ):
        from exeio_core.settings import ServeOptions

        return _serve(ServeOptions())
    from exeio_core import options

    command, others = options.split(arguments)
    if command == "serve":
        return _serve(options.serve_options(others))
    from exeio_core.client_options import client_call

    if command in ("install", "uninstall"):
        from exeio_core import install

        return lambda: install.run(client_call(command, others))
    if command == "import":
        from exeio_core import import_command

        return lambda: import_command.run(client_call(command, others))
    from exeio_core.client_commands import run

    return lambda: run(client_call(command, others))


def _is_option(variable: str) -> bool:
    """Whether a variable stands for an option of `serve`; the folders and the key are looked up by themselves."""
    return variable.startswith("EXEIO_") and variable not in (
        "EXEIO_RUN", "EXEIO_API_KEY", "EXEIO_CONFIG_DIR", "EXEIO_DATA_DIR")


def _serve(options: ServeOptions) -> Callable[[], int]:
    from exeio_core import serve

    if not options.daemon:
        return lambda: serve.run(options)
    return lambda: _serve_daemon(options)


def _serve_daemon(options: ServeOptions) -> int:
    from exeio_core import daemon, serve
    from exeio_core.settings import find_folders

    folders = find_folders(options.config_dir, options.data_dir, os.environ)
    folders.create()
    return daemon.run(folders.data_dir, lambda listening: _told(lambda: serve.run(options, listening)))
