"""Starting a thread where there may be no room for it."""

from __future__ import annotations

import mmap
import resource
import threading

#: Address space in bytes that the C library may take for the first objects of a thread, and what Python takes beside.
_HEAP = (64 << 20) + (2 << 20)
#: Bytes of a stack where there is no limit for it: what the C library takes then, or more.
_STACK = 8 << 20


def start(thread: threading.Thread) -> None:
    """Start a thread; raises RuntimeError where there can be no more.

    `Thread.start` waits for the thread to say that it is up. One that finds room for its stack and none for its first
    object (RLIMIT_AS) never does, and the caller would wait for ever; so room for both is looked for beforehand.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        _look_for_room()
    thread.start()


def _look_for_room() -> None:
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    room = (threading.stack_size() or (stack if 0 < stack < 1 << 30 else _STACK)) + _HEAP
    try:
        mmap.mmap(-1, room, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0).close()  # neither read nor written
    except (OSError, MemoryError):
        raise RuntimeError("can't start new thread: no room for its stack and heap") from None
