"""A mark that an empty environment does not wipe: the timer slack of a run's processes (PR_SET_TIMERSLACK, prctl(2)).

What a thread forks inherits its slack, and exec keeps it. So each run's first thread has one of its own when it spawns:
up to 20 us above the usual 50, which is less than what a timer is late anyway. It is a second mark, for daemons that
have wiped the first: to see that of another process (`proctree.timer_slack`) takes CAP_SYS_NICE.
"""

from __future__ import annotations

import itertools
import os

from . import proctree

_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30  # linux/prctl.h
_SPREAD = 20_000  # nanoseconds, and as many runs until one has the slack of an earlier one

#: The slack of exeio itself; 0 where there is none, as under a real-time policy, or that is not to be known.
_USUAL = max(0, proctree.prctl(_PR_GET_TIMERSLACK, 0))
# From anywhere on: an exeio below another one shall not give what that one gives.
_numbers = itertools.count(int.from_bytes(os.urandom(2), "big"))


def give() -> int:
    """Give the calling thread, and what it starts from now on, a slack of its own; returns it in nanoseconds, or 0."""
    if not _USUAL:
        return 0
    slack = _USUAL + 1 + next(_numbers) % _SPREAD
    return 0 if proctree.prctl(_PR_SET_TIMERSLACK, slack) else slack
