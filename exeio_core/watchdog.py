"""The watchdog thread: notices exits at once, and the time at which something is due; it decides nothing itself.

It waits in one epoll for "a child exited" (a pidfd each), "somebody woke me" and the nearest deadline, so an idle
exeio makes no system call at all. Where there is no pidfd (before Linux 5.3, macOS, no descriptor left), a waiter
thread a run blocks in waitid(2) and tells it.
"""

from __future__ import annotations

import collections
import os
import select
import sys
import threading
import time
from typing import Deque, Dict, Optional, Protocol

from .child import Run
from .lifecycle import Exit
from .threads import start
from .wake import Wake

#: Seconds to wait at most while a schedule is active: epoll's timeout does not count the time in suspend.
SUSPEND_CHECK = 60.0
#: Seconds between two looks at a run of whose end nothing but the clock can tell.
_LOOK_AGAIN = 0.02


class Owner(Protocol):
    """Who is told; the machine. Called from the watchdog's thread, with no lock held."""

    def exited(self, run: Run, exit: Exit) -> None:
        """Take note how the main process of a run has ended; it is not reaped."""

    def tick(self) -> Optional[float]:
        """Do what is due now; returns seconds until something is due again, or None."""


class Watchdog:
    """Watches the main processes of runs, and the clock."""

    def __init__(self, owner: Owner) -> None:
        """Raises OSError (EMFILE)."""
        self._owner = owner
        self._wake = Wake()
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            self._epoll.register(self._wake.fd, select.EPOLLIN)
        # pidfd → run. Set by the thread that watches, taken out by the watchdog's alone, which also closes the pidfd.
        self._watched: Dict[int, Run] = {}
        # Runs to look at in each round: their end was seen, or nothing tells of it. Appending to a deque and taking
        # from it need no lock.
        self._told: Deque[Run] = collections.deque()
        self._closed = False
        #: When the watchdog last came round, on the monotonic clock: its lag is how late that is.
        self.last_round = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name="exeio-watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread; raises RuntimeError."""
        self._thread.start()

    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def close(self, timeout: float) -> None:
        """End the thread; waits for it at most `timeout` seconds."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout)

    def wake(self) -> None:
        """Make the watchdog look at the clock again: something is due earlier than it knew."""
        self._wake.set()

    def watch(self, run: Run) -> None:
        """Watch a run that has been spawned; its exit is told even if it has happened already."""
        if self._epoll is not None and hasattr(os, "pidfd_open"):
            try:
                fd = os.pidfd_open(run.pid)
            except OSError:
                fd = -1
            if fd >= 0:
                self._watched[fd] = run
                try:
                    # Once: closing it takes it out, but for a copy in a child that hangs before its exec.
                    self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
                    return
                except OSError:  # ENOSPC, ENOMEM: a user may have only so many of them (epoll(7))
                    del self._watched[fd]
                    os.close(fd)
        try:
            start(threading.Thread(target=self._wait_for, args=(run,), name=f"exeio-wait-{run.spec.id}", daemon=True))
        except RuntimeError:
            # Neither a descriptor nor a thread: the clock has to do. The tick finds it among those unwatched.
            self._told.append(run)
            self._wake.set()

    def _wait_for(self, run: Run) -> None:
        run.wait_exit()
        self._told.append(run)
        self._wake.set()

    def _loop(self) -> None:
        while not self._closed:
            try:
                timeout = self._owner.tick()
                self.last_round = time.monotonic()
                self._wait(timeout)
            except Exception:
                sys.excepthook(*sys.exc_info())  # a bug; without this thread no exit would be seen any more
                time.sleep(0.1)

    def _wait(self, timeout: Optional[float]) -> None:
        """Wait for exits, a wake-up or the deadline, and tell the exits."""
        if self._told:
            timeout = _LOOK_AGAIN if timeout is None else min(timeout, _LOOK_AGAIN)
        if self._epoll is None:
            poll = select.poll()
            poll.register(self._wake.fd, select.POLLIN)
            ready = poll.poll(None if timeout is None else timeout * 1000 + 1)
        else:
            ready = self._epoll.poll(timeout)
        for fd, _ in ready:
            if fd == self._wake.fd:
                self._wake.clear()
                continue
            run = self._watched.pop(fd)
            os.close(fd)
            self._told.append(run)
        for _ in range(len(self._told)):
            run = self._told.popleft()
            exit = run.peek_exit()
            if exit is None:
                self._told.append(run)
                continue
            self._owner.exited(run, exit)
