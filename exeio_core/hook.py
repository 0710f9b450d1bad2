"""`--on-event COMMAND`: a program that is run for each change of a process's status, and told of it on its stdin.

It has a thread of its own, so that nothing waits for it: one program at a time, each with a time limit, and not more
often than the rate. What cannot be told in time is told in short: of each process the latest.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

from . import birth, proctree
from .errors import ExeioError, Invalid, StartupError
from .events import Change, to_json
from .exits import peek
from .lifecycle import Exit, duration
from .logfile import LogQuery
from .machine import Machine
from .spec import ProcessSpec
from .wake import Wake

#: Seconds that one run may take; then SIGTERM, and SIGKILL after _TERM_SECONDS more.
LIMIT = 10.0
_TERM_SECONDS = 2.0
#: So many runs at once after each other, and then one for each period of seconds.
BURST = 20
PERIOD = 1.0
#: So many changes may wait; beyond that only the latest of each process does.
WAITING = 100
#: Lines of its log that go with a failure, and seconds to wait for the last of them.
LINES = 20
_LAST_LINES = 1.0
#: Its stdin, stdout and stderr.
_STREAMS = (subprocess.PIPE, subprocess.PIPE, subprocess.STDOUT)
#: Bytes of its output that are kept to tell why it failed.
_OUTPUT = 4096


class _Waiting(NamedTuple):
    """A change that is still to be told, and how many of the same process before it are not told themselves."""

    change: Change
    skipped: int


class Hook:
    """The program and the thread that runs it."""

    def __init__(self, command: str, machine: Machine, report: Callable[[str], None]) -> None:
        """`command` is split as a shell would, without one; `report` writes to exeio.log. Raises StartupError."""
        try:
            words = shlex.split(command)
            if not words:
                raise Invalid("it must name a program")
            # An id that no process can have, so that its runs are nobody's.
            self._spec = ProcessSpec("exeio", words[0], tuple(words[1:]))
            birth.check(self._spec)
        except ValueError as error:
            raise StartupError(f"--on-event {command!r}: {error}") from None
        except ExeioError as error:
            raise StartupError(f"--on-event: {error.message}") from None
        self._machine = machine
        self._report = report
        self._seen = 0
        self._queue: Deque[_Waiting] = collections.deque()
        self._left = float(BURST)
        self._filled = time.monotonic()
        self._runs = 0
        self._closed = False
        self._wake = Wake()
        self._thread = threading.Thread(target=self._loop, name="exeio-on-event", daemon=True)

    def start(self) -> None:
        """Start the thread; raises RuntimeError."""
        self._thread.start()

    def close(self, timeout: float) -> None:
        """End the program that runs, and the thread; what is still to be told is not."""
        self._closed = True
        self._wake.set()
        self._machine.events.wake()
        self._thread.join(timeout)

    # The thread.

    def _loop(self) -> None:
        while not self._closed:
            try:
                waiting = self._next()
                if waiting is not None:
                    self._run(waiting)
            except Exception:
                sys.excepthook(*sys.exc_info())  # a bug; the next change is told all the same

    def _next(self) -> Optional[_Waiting]:
        """Wait for the next change that may be told now; None: look again, or it is over."""
        pause = self._pause() if self._queue else None
        changes, missed = self._machine.events.after(self._seen, pause, lambda: self._closed)
        if changes:
            self._seen = changes[-1].number
            self._queue.extend(_Waiting(change, 0) for change in changes)
            if missed:
                self._report(f"--on-event: {missed} changes came too quickly and are not told")
            if len(self._queue) > WAITING:
                self._queue = _latest(self._queue)
        if self._closed or not self._queue or self._pause() > 0:
            return None
        self._left -= 1
        return self._queue.popleft()

    def _pause(self) -> float:
        """Return seconds until another run is allowed."""
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._filled) / PERIOD)
        self._filled = now
        return max(0.0, (1 - self._left) * PERIOD)

    def _run(self, waiting: _Waiting) -> None:
        change = waiting.change
        told = {**to_json(change), "skipped": waiting.skipped}
        if change.failed:
            told["log"] = self._last_lines(change)
        self._runs += 1
        # With a mark as runs have it: should exeio be killed, the next one ends what is left of this.
        mark = f"{self._machine.instance}/{self._spec.id}/{self._runs}"
        try:
            child = birth.spawn(self._spec, mark, _STREAMS, lambda: None)
        except ExeioError as error:
            self._report(f"--on-event: {error.message}")
            return
        began = time.monotonic()
        with child:
            exit, output, late = self._attend(child, json.dumps(told).encode("ascii") + b"\n")
        if exit.code != 0 and not self._closed:
            how = f"was ended after {LIMIT:g} seconds" if late else f"{exit} after {duration(time.monotonic() - began)}"
            last = output.decode("utf-8", "replace").strip().rpartition("\n")[2]
            self._report(f"--on-event for {change.id!r}: {how}" + (f": {last}" if last else ""))

    def _last_lines(self, change: Change) -> List[str]:
        """Return the end of the log, oldest line first."""
        with self._machine.lock:
            process = self._machine.processes.get(change.id)
            if process is None:
                return []
            # At the very end of the main process its last lines are still on their way.
            process.changed.wait_for(
                lambda: process.drained or process.run is None or process.run_count != change.run, _LAST_LINES)
            log = process.log
        with contextlib.suppress(ExeioError):
            lines = log.page(LogQuery(page_size=LINES))["logs"]
            if isinstance(lines, list):
                return lines[::-1]
        return []

    def _attend(self, child: subprocess.Popen[bytes], data: bytes) -> Tuple[Exit, bytes, bool]:
        """Write its stdin, read its output and see to its end; returns how it ended, the output, if it was too late.

        Its whole process group ends with it.
        """
        assert child.stdin is not None and child.stdout is not None
        stdin, stdout, pidfd = child.stdin.fileno(), child.stdout.fileno(), _pidfd(child.pid)
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        poll = select.poll()
        poll.register(stdin, select.POLLOUT)
        for fd in (stdout, self._wake.fd, pidfd):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        rest, output, late = memoryview(data), b"", False
        deadline, signals = time.monotonic() + LIMIT, [signal.SIGTERM, signal.SIGKILL]
        try:
            exit = peek(child)
            while exit is None:
                # Without a pidfd nothing tells of the end but a look now and then.
                wait = min(max(0.0, deadline - time.monotonic()), 3600.0 if pidfd >= 0 else 0.05)
                for fd, _ in poll.poll(wait * 1000 + 1):
                    if fd == stdin:
                        rest = _write(fd, rest)
                        if not rest:
                            poll.unregister(fd)
                            child.stdin.close()
                    elif fd == stdout:
                        block = _read(fd)
                        output = (output + block)[-_OUTPUT:]
                        if not block:
                            poll.unregister(fd)
                    elif fd == self._wake.fd:
                        poll.unregister(fd)
                        deadline = 0.0
                if signals and time.monotonic() >= deadline:
                    late = True
                    proctree.send_group(child.pid, signals.pop(0))
                    deadline = time.monotonic() + _TERM_SECONDS if signals else float("inf")
                exit = peek(child)
            return exit, (output + _read(stdout))[-_OUTPUT:], late
        finally:
            proctree.send_group(child.pid, signal.SIGKILL)
            if pidfd >= 0:
                os.close(pidfd)


def _latest(queue: Deque[_Waiting]) -> Deque[_Waiting]:
    """Return the last of each process, with the number of those that are left out for it."""
    latest: Dict[str, _Waiting] = {}
    for waiting in queue:
        before = latest.pop(waiting.change.id, None)
        latest[waiting.change.id] = _Waiting(
            waiting.change, waiting.skipped + (0 if before is None else before.skipped + 1))
    return collections.deque(latest.values())


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def _write(fd: int, data: memoryview) -> memoryview:
    """Return what could not be written yet; nothing where nobody reads it any more."""
    try:
        return data[os.write(fd, data):]
    except BlockingIOError:
        return data
    except OSError:
        return data[:0]


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
