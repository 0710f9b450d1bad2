"""How a child of exeio's has ended, without reaping it: until then its pid and its group cannot be another's."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import Optional

from . import proctree
from .lifecycle import Exit


def peek(child: subprocess.Popen[bytes]) -> Optional[Exit]:
    """Return how it ended, or None while it runs; it is not reaped by this where the system can tell so."""
    if not hasattr(os, "waitid"):
        code = child.poll()
        return None if code is None else _of_code(code)
    try:
        found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return _of_code(child.returncode or 0)
    if found is None:
        # One that is traced is told to its tracer first (ptrace(2)), which may never listen.
        status = proctree.exit_status(child.pid)
        return None if status is None else _of_status(status)
    if found.si_code == os.CLD_EXITED:
        return Exit(found.si_status)
    return Exit(None, found.si_status, found.si_code == os.CLD_DUMPED)


def wait(child: subprocess.Popen[bytes]) -> None:
    """Block until it has ended; for systems without a pidfd."""
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):  # reaped already: another thread had seen it
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    else:
        child.wait()


def _of_status(status: int) -> Exit:
    """Return the exit that a status of wait(2) stands for."""
    if os.WIFSIGNALED(status):
        return Exit(None, os.WTERMSIG(status), os.WCOREDUMP(status))
    return Exit(os.WEXITSTATUS(status))


def _of_code(code: int) -> Exit:
    """Return the exit that Popen's returncode stands for."""
    return Exit(code) if code >= 0 else Exit(None, -code)
