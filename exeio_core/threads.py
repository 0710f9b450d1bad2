"""Starting a thread where there may be no room for it."""

from __future__ import annotations

import mmap
import resource
import sys
import threading
import time
from typing import Callable

#: Address space in bytes that the C library may take for the first objects of a thread, and what Python takes beside.
_HEAP = (64 << 20) + (2 << 20)
#: Bytes of a stack where there is no limit for it: what the C library takes then, or more.
_STACK = 8 << 20


def start(thread: threading.Thread) -> None:
    """Start a thread; raises RuntimeError where there can be no more."""
    look_for_room()
    thread.start()


def insist(start: Callable[[], None], seconds: float) -> None:
    """Begin a thread by `start` as soon as there is room for it; raises RuntimeError after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            start()
            return
        except RuntimeError:
            if time.monotonic() > end:
                raise
        time.sleep(0.02)


def look_for_room() -> None:
    """Raise RuntimeError where a thread has no room for its stack and for its first objects (RLIMIT_AS).

    One that finds room for its stack alone never says that it is up, which `Thread.start` waits for without an end, and
    never takes a job.
    """
    if not _limited():
        return
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    room = (threading.stack_size() or (stack if 0 < stack < 1 << 30 else _STACK)) + _HEAP
    try:
        mmap.mmap(-1, room, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0).close()  # neither read nor written
    except (OSError, MemoryError):
        raise RuntimeError("can't start new thread: no room for its stack and heap") from None


def _limited() -> bool:
    """Whether there is a limit that may be met: looking for room takes 10 us."""
    kind = getattr(resource, "RLIMIT_AS", None)  # OpenBSD has none of this kind
    return sys.maxsize < 1 << 32 or (kind is not None and resource.getrlimit(kind)[0] != resource.RLIM_INFINITY)
