"""Threads for connections: each accepts one, serves it, and accepts the next; a few always wait to accept."""

from __future__ import annotations

import threading
import time
from typing import Callable, Generic, Optional, Set, TypeVar

from .errors import trace
from .threads import start

T = TypeVar("T")

# 8 clients that open a connection for each request find a thread waiting.
WAITING = 8


class Workers(Generic[T]):
    """Runs `accept` and `serve` in threads, so many that one is in `accept` at any time, from `start` to `end`.

    That the one who accepts a connection serves it, too, saves the way to another thread (one connection a request:
    4,800 → 6,000 requests/s). The threads are not daemons: `join` sees to their end.
    """

    def __init__(
        self,
        accept: Callable[[], Optional[T]],
        serve: Callable[[T], None],
        refuse: Callable[[T, str], None],
        log_error: Callable[[str], None],
    ) -> None:
        """`accept` blocks, and returns None when `end` was called; `refuse` gets the reason why there is no thread."""
        self._accept = accept
        self._serve = serve
        self._refuse = refuse
        self._log_error = log_error
        self._name = ""
        # Guards all below; nothing under it blocks.
        self._lock = threading.Lock()
        # Notified when the last thread has left `accept` after `end`, which waits for that.
        self._left = threading.Condition(self._lock)
        self._threads: Set[threading.Thread] = set()
        self._waiting = 0  # in `accept`, or on the way there
        self._ended = False
        self._count = 0

    def start(self, name: str) -> None:
        """Let the first thread accept; all are called `name` and a number. Raises RuntimeError (no thread)."""
        self._name = name
        self._add()

    def end(self, wake: Callable[[], None]) -> None:
        """Accept no more: `wake` lets `accept` return in all threads that are in it. Returns when they are out."""
        with self._lock:
            self._ended = True
        wake()
        with self._lock:
            self._left.wait_for(lambda: not self._waiting)

    def join(self, timeout: float) -> bool:
        """After `end`, wait at most `timeout` seconds for all threads. True: all have ended."""
        deadline = time.monotonic() + timeout
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(deadline - time.monotonic(), 0))
        with self._lock:
            return not any(thread.is_alive() for thread in self._threads)

    def _add(self) -> None:
        """Start one more thread, unless it has ended. Raises RuntimeError."""
        with self._lock:
            if self._ended:
                return
            self._count += 1
            thread = threading.Thread(target=self._work, name=f"{self._name}-{self._count}")
            self._threads.add(thread)
            self._waiting += 1
        try:
            start(thread)
        except RuntimeError:
            with self._lock:
                self._threads.discard(thread)
            self._leave()
            raise

    def _leave(self) -> bool:
        """One thread fewer waits. True: it was the last."""
        with self._lock:
            self._waiting -= 1
            if self._ended and not self._waiting:
                self._left.notify_all()
            return not self._waiting

    def _back(self) -> bool:
        """Whether the thread that has served may wait again."""
        with self._lock:
            if self._ended or self._waiting >= WAITING:
                self._threads.discard(threading.current_thread())
                return False
            self._waiting += 1
            return True

    def _work(self) -> None:
        going_on = True
        while going_on:
            accepted = self._accept()
            last = self._leave()
            if accepted is not None:
                self._attend(accepted, last)
            going_on = self._back()

    def _attend(self, accepted: T, last: bool) -> None:
        """Serve what was accepted, with another thread in `accept` meanwhile."""
        try:
            if last:
                self._add()
        except RuntimeError as error:
            self._refuse(accepted, str(error))
            return
        try:
            self._serve(accepted)
        except Exception:
            self._log_error(f"a connection's thread failed:\n{trace()}")
