"""A mark that an empty environment does not wipe: the timer slack of a run's processes (PR_SET_TIMERSLACK, prctl(2)).

What a thread forks inherits its slack, and exec keeps it. So each run's first thread has one of its own when it spawns:
up to 20 us above the usual 50, which is less than what a timer is late anyway. It is a second mark, for daemons that
have wiped the first: to see that of another process (`proctree.timer_slack`) takes CAP_SYS_NICE.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys

_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30  # linux/prctl.h
_SPREAD = 20_000  # nanoseconds, and as many runs until one has the slack of an earlier one

# PyDLL keeps Python's lock: this takes 1 us, and to get the lock back longer (3 ms of a restart on a busy machine).
_libc = ctypes.PyDLL(None) if sys.platform.startswith("linux") else None
#: The slack of exeio itself; 0 where there is none, as under a real-time policy.
_USUAL = int(_libc.prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)) if _libc is not None else 0
# From anywhere on: an exeio below another one shall not give what that one gives.
_numbers = itertools.count(int.from_bytes(os.urandom(2), "big"))


def give() -> int:
    """Give the calling thread, and what it starts from now on, a slack of its own; returns it in nanoseconds, or 0."""
    if _libc is None or _USUAL <= 0:
        return 0
    slack = _USUAL + 1 + next(_numbers) % _SPREAD
    return 0 if _libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(slack), 0, 0, 0) else slack
