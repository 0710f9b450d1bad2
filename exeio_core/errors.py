"""What went wrong, in words for the person who asked; no HTTP and no exit codes in here.

Each class is one kind of failure. The API turns the kind into a status code, the command line into an exit
status; the message is always one sentence that can be shown as it is.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Optional


class ExeioError(Exception):
    """Base of all expected failures; `message` is one sentence for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(ExeioError):
    """A value that cannot be taken; `field` is the name of the field or option, where there is one."""

    def __init__(self, message: str, field: Optional[str] = None) -> None:
        super().__init__(message)
        self.field = field


class NotFound(ExeioError):
    """There is no process with that id."""


class Conflict(ExeioError):
    """The request is right in itself, but not in the present state of the process."""


class Overtaken(Conflict):
    """A request that came later has undone what was asked for, before it was so."""


class Unavailable(ExeioError):
    """The system has no room for it now (descriptors, threads, memory, time); later it may work."""


class Failed(ExeioError):
    """It was tried and did not work, for a reason outside the request (disk, a process that survives SIGKILL)."""


class StartupError(ExeioError):
    """exeio itself cannot start."""


def printable(text: str) -> str:
    """Return `text` on one line, without what could steer a terminal: a message may quote what somebody sent."""
    if text.isprintable():
        return text
    escaped = (sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)
    return "".join(escaped)


def print_error(text: str) -> None:
    """Write a line to stderr. If that cannot be written (closed, or its disk is full), there is nobody to tell."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def trace() -> str:
    """Return the traceback of the exception that is being handled; what that takes is imported only then."""
    import traceback

    return traceback.format_exc()
