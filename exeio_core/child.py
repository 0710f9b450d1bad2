"""One run of a process: its child, the two threads that read its output, its stdin, and how it ended.

The first thread spawns the child, reads its stdout and writes its stdin; the second reads its stderr. Both are made
before the child, so that a child never lacks a reader. The first thread outlives the child: an orphan that the
kernel hands to exeio then always becomes a child of the main thread, where `ending` looks for it.

In most cases all that the child wrote is in the log by the time it ends. Where many end, its exit is then noted without
its threads (`look`), which log it later, when they end: a stop of 500 would wake 1,000 of them at one moment.
"""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
import threading
import time
from typing import FrozenSet, List, Optional, Protocol, Set

from . import birth, exits, proctree, slack
from .errors import Conflict, ExeioError, Unavailable
from .lifecycle import Exit, duration
from .logfile import LogFile, LogStream
from .pipes import Pipes
from .reader import Reader
from .spares import Spare, Spares
from .spec import ProcessSpec
from .stdin import Stdin

_STDOUT, _STDERR = b"STDOUT", b"STDERR"


class Owner(Protocol):
    """Who is told what happens to a run; the machine. Called from the run's threads, with no lock held."""

    def spawning(self, run: Run) -> None:
        """Take note that the child is about to be made."""

    def spawned(self, run: Run) -> None:
        """Take note that the child exists."""

    def refused(self, run: Run, error: ExeioError) -> None:
        """Take note that it could not be spawned; nothing is left of the run."""

    def drained(self, run: Run) -> None:
        """Take note that what the main process wrote is in the log, and its exit, too."""

    def ended(self, run: Run) -> None:
        """Take note that both threads of the run are about to end."""


class Run:
    """One run, from before its spawn until nothing is left of it.

    `pid` and `started` are set before `Owner.spawned` is called and never change; `exit` is set by `note_exit`.
    """

    __slots__ = (
        "_begun", "_child", "_drained", "_ends", "_err", "_first", "_first_is_done", "_gone", "_lock", "_logged",
        "_out", "_over", "_owner", "_second", "_second_has_begun", "_spares", "_threads", "abandoned",
        "exit", "lingering", "log", "mark", "number", "pid", "pipes", "reaped", "slack", "spec", "start_time",
        "started", "started_wall", "stdin", "uptime",
    )

    def __init__(self, spec: ProcessSpec, number: int, mark: str, log: LogFile, owner: Owner) -> None:
        self.spec = spec
        self.number = number
        self.mark = mark
        self.pid = 0
        self.pipes: FrozenSet[int] = frozenset()  # their inodes, which tell a descendant that has wiped all else
        self.slack = 0  # the timer slack of its processes in nanoseconds, which tells them as well
        self.start_time = 0
        self.started = 0.0
        self.started_wall = 0.0
        self.exit: Optional[Exit] = None
        self.uptime = 0.0
        self.reaped = False
        self.lingering = False
        self.abandoned = False
        self._spares: Optional[Spares] = None
        self._first: Optional[Spare] = None
        self._second: Optional[Spare] = None
        self._first_is_done = self._second_has_begun = False
        self.log = log
        self._owner = owner
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._ends: Optional[Pipes] = None
        # Held until the start is in the log, before which no line of the run may stand; the second thread waits for it,
        # and holds it while it reads, since nobody else wants it any more.
        self._begun = threading.Lock()
        self._begun.acquire()
        # Guards the wakes against a call after their end, and who has drained its stream. A leaf: nothing that
        # blocks happens under it, and no other lock is taken.
        self._lock = threading.Lock()
        self.stdin = Stdin(spec.id)
        self._out: Optional[Reader] = None
        self._err: Optional[Reader] = None
        self._drained: Set[bytes] = set()  # of whose pipes all that was in them at the exit is in the log
        self._logged = False  # the exit is said to the log
        self._over = False
        self._threads = 2  # that are not done
        self._gone: Optional[threading.Event] = None  # set when both are, for who waits

    # What the machine and requests call.

    def launch(self, spares: Spares) -> None:
        """Begin the run in its own threads; raises Unavailable when there is no room for them (then it never began)."""
        threads: List[Spare] = []
        try:
            threads = spares.take(2)
            self._ends = Pipes(with_stdin=not self.spec.periodic)
        except (RuntimeError, MemoryError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EMFILE:
                birth.no_descriptor_left()
            spares.put_back(threads)
            raise self._no_room(error) from None
        first, second = threads
        self.pipes = frozenset(self._ends.inodes)
        if self._ends.stdin >= 0:
            self.stdin.open(self._ends.stdin)
        self._spares, self._first, self._second = spares, first, second
        first.give(self._first_thread)

    def stderr_inode(self) -> int:
        """Return the inode of the pipe that the child has for its stderr."""
        assert self._ends is not None
        return self._ends.inodes[-1]

    def _no_room(self, error: BaseException) -> Unavailable:
        return Unavailable(f"the system has no room to start {self.spec.id!r} now: {error}")

    def peek_exit(self) -> Optional[Exit]:
        """Return how the main process ended, or None while it runs; it is not reaped by this."""
        assert self._child is not None
        return exits.peek(self._child)

    def wait_exit(self) -> None:
        """Block until the main process ended; for systems without a pidfd."""
        assert self._child is not None
        exits.wait(self._child)

    def reap(self) -> None:
        """Take the zombie away; its pid and group may now be given to others."""
        assert self._child is not None
        self._child.poll()
        self.reaped = True

    def signal(self, number: int, group: bool) -> None:
        """Send a signal to the main process or its group; the caller knows that it is not reaped.

        Raises Conflict where it has made itself another user's.
        """
        try:
            (os.killpg if group else os.kill)(self.pid, number)
        except PermissionError:
            raise Conflict(f"exeio may not signal {self.spec.id!r}: it has become another user's process") from None

    def note_exit(self, exit: Exit, uptime: float) -> None:
        """Take note that the main process has ended after `uptime` seconds; what follows is for `look`."""
        self.uptime = uptime
        self.exit = exit

    def look(self, quietly: bool) -> None:
        """Have the readers look at the exit; `quietly`: but for those that have nothing left to log."""
        quiet = []
        with self._lock:
            for name, reader in ((_STDOUT, self._out), (_STDERR, self._err)):
                if reader is not None and quietly and reader.quiet():
                    quiet.append(name)
                elif reader is not None:
                    reader.call()
        for name in quiet:
            self._note_drained(name, now=False)

    @property
    def spawner(self) -> int:
        """The thread (as the kernel counts them) that spawned the main process, and is its parent until nothing is left
        of the run; 0 when it has ended."""
        return self._first.native_id if self._first is not None else 0

    def finish(self, linger: bool) -> None:
        """Let the readers end when they wake (`poke`): nothing is left of the run, or (`linger`) what is left is let
        alone and still logged."""
        self.lingering = linger
        with self._lock:
            self._over = True
            waits = self._first_is_done
        if waits:
            self._let_first_go()

    def abandon(self) -> None:
        """Let the readers end though somebody still holds the pipes."""
        self.abandoned = True
        self.poke()

    def join(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the end of the readers."""
        with self._lock:
            if self._threads == 0:
                return
            gone = self._gone = self._gone or threading.Event()
        gone.wait(timeout)

    def send_input(self, data: bytes, eof: bool) -> None:
        """Queue bytes for stdin, and its end behind them; never blocks. Raises Conflict as `Stdin.send`."""
        if self.stdin.send(data, eof):
            with self._lock:
                if self._out is not None:
                    self._out.call()

    def urge(self) -> bool:
        """Have the readers do what the end of the run asks of them; returns whether they have done it already."""
        with self._lock:
            rest = [one for one in (self._out, self._err) if one is not None and not (self.lingering and one.released)]
            if self._threads == 0 or (self._over and not rest):
                return True
        if self._logged:
            self.poke()
        else:
            self.look(True)
        return False

    def poke(self) -> None:
        """Let the readers look at what has become of the run."""
        with self._lock:
            for reader in (self._out, self._err):
                if reader is not None:
                    reader.call()

    # The first thread.

    def _first_thread(self) -> None:
        """Spawn, then log stdout and the exit."""
        ends = self._ends
        assert ends is not None
        stdin = subprocess.DEVNULL if ends.child_stdin < 0 else ends.child_stdin
        earliest = proctree.boot_ticks()
        self.slack = slack.give()
        try:
            child = self._child = birth.spawn(
                self.spec, self.mark, (stdin, ends.child_stdout, ends.child_stderr), self._ready)
        except ExeioError as error:
            self._refuse(error)
            return
        except Exception as error:
            sys.excepthook(*sys.exc_info())  # a bug: it is seen on stderr, and the process is not left "starting"
            self._refuse(Unavailable(f"{self.spec.id!r} could not be started: {error!r}"))
            return
        ends.close_childs()
        self._begin(child, earliest)
        reader = self._out = Reader(ends.stdout, ends.held_stdout, self._stream(_STDOUT))
        try:
            self._pump_out(reader)
        except Exception:
            sys.excepthook(*sys.exc_info())  # a bug: the run goes on without its output, and can still be ended
            with self._lock:
                known, self._logged = self._logged, True
            if not known:
                self._owner.drained(self)
        self._end_first(reader)

    def _ready(self) -> None:
        """All has been checked, and the child is about to be made."""
        self._owner.spawning(self)
        self._begin_second()

    def _begin(self, child: subprocess.Popen[bytes], earliest: int) -> None:
        """Take note of the child, which was not there at the clock tick `earliest`, and tell."""
        self.pid = child.pid
        self.started = time.monotonic()
        self.started_wall = time.time()
        self.start_time = proctree.start_time(child.pid, earliest)
        self.log.system(f"{self._prefix()}started with pid {self.pid}")
        self._begun.release()
        self._owner.spawned(self)

    def _refuse(self, error: ExeioError) -> None:
        """Nothing was spawned; the second thread finds the end of its pipe."""
        with self._lock:
            self._over = True
        if not self._second_has_begun:
            self._begin_second()
        self._begun.release()
        self.poke()
        ends = self._ends
        assert ends is not None
        ends.close_childs()
        self._owner.refused(self, error)
        self.log.write_said()
        self._end_first(Reader(ends.stdout, ends.held_stdout, self._stream(_STDOUT)))

    def _end_first(self, reader: Reader) -> None:
        with self._lock:
            self._out = None
        self.stdin.close()
        reader.close()
        self._end_thread()
        with self._lock:
            self._first_is_done = True
            over = self._over
        if over:
            self._let_first_go()

    def _let_first_go(self) -> None:
        """Give the first thread back: it is done, and the run over.

        Not before: the main process may have given it children (CLONE_PARENT), and those of another run would be
        taken for them. What is let alone goes to the main thread when the first one ends.
        """
        assert self._spares is not None and self._first is not None
        if self.lingering:
            self._first.end()
        else:
            self._spares.put_back([self._first])

    def _pump_out(self, reader: Reader) -> None:
        """Log stdout and what is said, and feed stdin, until the run is over or nothing can come any more."""
        poll = select.poll()
        reader.register(poll)
        while self._goes_on(reader, _STDOUT):
            self.stdin.arm(poll)
            for fd, event in reader.wait(poll):
                if fd == reader.fd:
                    reader.serve(event)
                else:
                    self.stdin.write()
        self.log.write_said()

    # The second thread.

    def _begin_second(self) -> None:
        """Let the second thread begin: not before all is checked, or both would want Python's lock (an `/add`: 1.0 ms
        instead of 0.9)."""
        assert self._second is not None
        self._second_has_begun = True
        self._second.give(self._second_thread)

    def _second_thread(self) -> None:
        """Log stderr; before that, while the child's exec is under way, do what this start and the next one need."""
        assert self._ends is not None and self._spares is not None and self._second is not None
        if not self._over:
            self.log.prepare()  # some file systems take long to make a file
            self._spares.fill()
        reader = self._err = Reader(self._ends.stderr, self._ends.held_stderr, self._stream(_STDERR))
        try:
            self._pump_err(reader)
        except Exception:
            sys.excepthook(*sys.exc_info())  # a bug; the first thread shall not wait for this one
        with self._lock:
            self._err = None
        reader.close()
        self._note_drained(_STDERR)
        self._end_thread()
        self._spares.put_back([self._second])

    def _pump_err(self, reader: Reader) -> None:
        """Log stderr until its end or that of the run."""
        poll = select.poll()
        reader.register(poll)
        while self._goes_on(reader, _STDERR):
            for _, event in reader.wait(poll):
                with self._begun:
                    reader.serve(event)

    # Both.

    def _goes_on(self, reader: Reader, stream: bytes) -> bool:
        """Do what a reader has to before it waits; returns whether anything may still come."""
        # The exit is looked at before the reads that follow it, or the last lines would be lost.
        if self.exit is not None and stream not in self._drained:
            reader.drain()
            reader.flush()
            self._note_drained(stream)
        over = self._over  # looked at first: what was said before it is then written by now
        self.log.write_said()
        if over and self.lingering:
            with self._lock:
                reader.release()
        elif over:
            reader.drain()  # what its last ones have written
        if reader.open and not self.abandoned and (self.lingering or not over):
            return True
        reader.flush()  # also what came after the exit
        return False

    def _stream(self, name: bytes) -> LogStream:
        return self.log.stream(name, self.number if self.spec.periodic else None)

    def _prefix(self) -> str:
        return f"run {self.number} " if self.spec.periodic else ""

    def _note_drained(self, stream: bytes, now: bool = True) -> None:
        """Take note that a stream is drained; once both are and the exit is known, log it, `now` or later, and tell."""
        with self._lock:
            self._drained.add(stream)
            last = len(self._drained) == 2 and self.exit is not None and not self._logged
            self._logged = self._logged or last
        if last:
            self.log.say(f"{self._prefix()}{self.exit} after {duration(self.uptime)}")
            if now:
                self.log.write_said()
            self._owner.drained(self)

    def _end_thread(self) -> None:
        with self._lock:
            self._threads -= 1
            last = self._threads == 0
            gone = self._gone
        if last:
            self._owner.ended(self)
            if gone is not None:
                gone.set()
