"""The thread that ends runs: stop signal, grace period, SIGKILL, until nothing of the run is left.

It also reaps the orphans that exeio adopts as a subreaper or as pid 1. Both need a walk over /proc, which can block
on a process in uninterruptible sleep; so they have a thread apart from the watchdog, and exits, restarts and
schedules never wait for them.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import os
import select
import signal
import sys
import threading
import time
from typing import Deque, Dict, Iterable, List, NamedTuple, Optional, Protocol, Set, Tuple

from . import proctree
from .belonging import Belonging
from .child import Run
from .proctree import Member, Stat
from .spares import Spares
from .wake import Wake

#: Seconds that SIGKILL may take before it is called an error; what is in uninterruptible sleep outlives it.
KILL_LIMIT = 5.0
#: Runs that are sent their stop signal in one pass (a stop of 500: 167 ms with 64, 183 with 16).
_AT_ONCE = 64
#: Seconds until one that has not ended is looked at once more: something may have left its group at the first look.
_SECOND_LOOK = 0.1
#: Runs being ended from which on their threads are left asleep, and for how many seconds after their end.
_CROWD = 8
_REST = 0.2
#: Seconds until readers that seem not to have heard of an end are told once more.
_UNHEARD = 0.25
#: Seconds between two looks at a process group where there is no /proc to tell of its end.
_GROUP_POLL = 0.05


class Owner(Protocol):
    """Who is told about ends; the machine. Called from the thread of this module, with no lock held."""

    def emptied(self, run: Run) -> None:
        """Take note that nothing is left of the run but its unreaped leader."""

    def stuck(self, run: Run, pids: List[int]) -> None:
        """Take note that these survived SIGKILL for KILL_LIMIT seconds."""


class _Order(NamedTuple):
    run: Run
    signal: int
    grace: float
    exited: bool


class _Task:
    """One run that is being ended, and how far that has got. Only the ender's thread touches it."""

    def __init__(self, run: Optional[Run], number: int, grace: float) -> None:
        self.run = run  # None: orphans that belong to no run, at shutdown
        self.signal = number
        self.grace = grace
        self.exited = run is None
        self.signalled: Set[Member] = set()
        self.deadline: Optional[float] = None  # of the grace, then of the kill; None before the first signal
        self.look_at: Optional[float] = None  # when those are asked that were not seen at the first look
        self.killing = False
        self.over = False
        self.done: Optional[threading.Event] = None  # set when it is over, where somebody waits for that


class Ender:
    """Ends runs, all at once and each with its own deadlines, and reaps adopted orphans."""

    def __init__(self, owner: Owner, instance: str, spares: Spares) -> None:
        """`instance` begins this exeio's own marks; `spares` has their threads. Raises OSError (EMFILE)."""
        self._owner = owner
        self._spares = spares
        # Runs whose readers have to hear of their end, and when they are told: as any thread says, and in order.
        self._finished: Deque[Tuple[float, Run]] = collections.deque()
        self._unheard: List[Tuple[float, int, Run]] = []
        self._tree = proctree.supported()
        self._wake = Wake()
        # What signal.set_wakeup_fd takes is a byte a signal: a pipe, since an eventfd refuses less than eight.
        self._signals, self.wakeup_fd = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(self.wakeup_fd, False)
        # Appended to by any thread, emptied by the ender's: a deque needs no lock for that.
        self._orders: Deque[_Order] = collections.deque()
        self._strays: Deque[_Task] = collections.deque()
        self._hurry = False
        self._closed = False
        self._tasks: Dict[Run, _Task] = {}
        # Those whose leader has exited: looked at in every pass until nothing is left of them.
        self._exited: List[_Task] = []
        # Those that are still to be sent the stop signal.
        self._begun: Deque[_Task] = collections.deque()
        # (when, serial, task) of deadlines; an entry counts only while the task still says the same.
        self._clock: List[Tuple[float, int, _Task]] = []
        self._serial = itertools.count()
        self._belonging = Belonging(instance)
        #: When the ender last came round, on the monotonic clock.
        self.last_round = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name="exeio-ender", daemon=True)

    def start(self) -> None:
        """Start the thread; raises RuntimeError."""
        self._thread.start()

    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    @property
    def crowded(self) -> bool:
        """Whether so many end that their threads had better sleep on."""
        return len(self._tasks) > _CROWD

    def wake(self) -> None:
        """Make the thread come round, for who wants to know whether it still does."""
        self._wake.set()

    def close(self, timeout: float) -> None:
        """End the thread; waits for it at most `timeout` seconds."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout)

    def end(self, run: Run, number: int, grace: float) -> None:
        """End a run whose leader lives: signal `number` now, SIGKILL after `grace` seconds. Never blocks."""
        self._orders.append(_Order(run, number, grace, False))
        self._wake.set()

    def sweep(self, run: Run, number: int, grace: float) -> None:
        """End what is left of a run whose leader has exited; the deadlines of an earlier `end` stay. Never blocks."""
        self._orders.append(_Order(run, number, grace, True))
        self._wake.set()

    def let_go(self, run: Run, now: bool) -> None:
        """Wake the readers of a run whose end has come: `now`, or in a crowd later. Never blocks."""
        self._finished.append((time.monotonic() + (_REST if self.crowded and not now else 0.0), run))
        self._wake.set()

    def hurry(self) -> None:
        """Skip the grace of everything that is being ended, and of all that follows. Never blocks."""
        self._hurry = True
        self._wake.set()

    def end_strays(self, grace: float) -> bool:
        """End adopted orphans that belong to no run, at shutdown; returns whether none is left."""
        if not self._tree:
            return True
        task = _Task(None, signal.SIGTERM, grace)
        done = task.done = threading.Event()
        self._strays.append(task)
        self._wake.set()
        return done.wait(grace + KILL_LIMIT + 1)

    # The thread.

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._wake.fd, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        while not self._closed:
            try:
                timeout = self._pass()
                self.last_round = time.monotonic()
            except Exception:
                sys.excepthook(*sys.exc_info())  # a bug; without this thread nothing could be stopped any more
                timeout = 1.0
            poll.poll(None if timeout is None else int(timeout * 1000) + 1 if timeout > 0 else 0)
            self._wake.clear()
            try:
                os.read(self._signals, 65536)
            except BlockingIOError:
                pass

    def _pass(self) -> Optional[float]:
        """Carry out orders, reap, and push on what is due; returns seconds until the next deadline, or None.

        A pass costs what has changed since the last one, not the number of runs that are being ended: a stop of 500
        is 500 exits, which may take as many passes.
        """
        proctree.keep_spare()
        while self._orders:
            order = self._orders.popleft()
            task = self._tasks.get(order.run)
            if task is None:
                task = self._tasks[order.run] = _Task(order.run, order.signal, order.grace)
                if not order.exited:
                    self._begun.append(task)
            if order.exited:
                task.exited = True
                self._exited.append(task)
                order.run.look(self.crowded)
        while self._strays:
            self._exited.append(self._strays.popleft())
        # Only now: what leaders left has become ours by the time their exit was told.
        orphans = self._belonging.reap()
        self._belonging.forget(orphans, self._tasks)
        self._ask_some(orphans)
        if self._exited:
            self._exited = [task for task in self._exited if not self._is_over(task, orphans)]
        if self._hurry:
            for task in [*self._tasks.values(), *self._exited]:
                if not task.killing:
                    self._due(task, time.monotonic())
        return min((left for left in (self._run_clock(), self._wake_readers()) if left is not None), default=None)

    def _wake_readers(self) -> Optional[float]:
        """Wake the readers of runs whose end has come, until they have heard; those that ended in a crowd rest first.

        All that are awake hinder each other, the ender, and who is to answer, at Python's one lock. Returns seconds
        until the next are due, or None. While others end, threads are kept, for those that start again.
        """
        self._spares.keep(bool(self._tasks))
        while self._finished:
            when, run = self._finished.popleft()
            heapq.heappush(self._unheard, (when, next(self._serial), run))
        now = time.monotonic()
        while self._unheard and self._unheard[0][0] <= now:
            run = heapq.heappop(self._unheard)[2]
            heard = False
            try:
                heard = run.urge()
            finally:
                if not heard:
                    heapq.heappush(self._unheard, (now + _UNHEARD, next(self._serial), run))
        return self._unheard[0][0] - now if self._unheard else None

    def _ask_some(self, orphans: List[Stat]) -> None:
        """Send the stop signal to some of those whose end has begun; the others have their turn in the next pass.

        Each child that ends wakes two threads, and all that are awake hinder each other at Python's one lock. Within a
        turn all are looked at before the first is asked, for the same reason.
        """
        turn = [self._begun.popleft() for _ in range(min(len(self._begun), _AT_ONCE))]
        asked = [(task, self._reached(task, orphans)) for task in turn if not task.exited and not task.killing]
        for task, members in asked:
            self._ask(task, members)

    def _run_clock(self) -> Optional[float]:
        """Do what is due by now; returns seconds until something is due again, or None."""
        now = time.monotonic()
        while self._clock and self._clock[0][0] <= now:
            when, _, task = heapq.heappop(self._clock)
            if not task.over and when == task.deadline:
                self._due(task, now)
            elif when == task.look_at and not task.exited:
                self._signal_new(task, self._reached(task, self._belonging.reap()))
        while self._clock and self._clock[0][2].over:
            heapq.heappop(self._clock)
        if self._begun:
            return 0.0
        left = self._clock[0][0] - now if self._clock else None
        if not self._tree and self._exited:
            return _GROUP_POLL if left is None else min(left, _GROUP_POLL)
        return left

    def _set_deadline(self, task: _Task, when: float) -> None:
        task.deadline = when
        heapq.heappush(self._clock, (when, next(self._serial), task))

    def _is_over(self, task: _Task, orphans: List[Stat]) -> bool:
        """Look whether anything is left of a run whose leader has exited; what has come to light is asked to end."""
        if task.over:
            return True
        if task.killing and not _leader_only(task.run):
            self._kill_orphans(task, orphans)
        members = self._reached(task, orphans)
        if members:
            if task.run is not None and task.run.log.said:
                task.run.poke()  # its exit is to be logged now
            if task.deadline is None:
                self._ask(task, members)
            else:
                self._signal_new(task, members)
            return False
        task.over = True
        if task.run is not None:
            del self._tasks[task.run]
            self._owner.emptied(task.run)
        if task.done is not None:
            task.done.set()
        return True

    def _due(self, task: _Task, now: float) -> None:
        """The grace of a run is over, or its kill has not helped for KILL_LIMIT."""
        again = task.killing
        task.killing = True
        # The kill is tried again each time, and told again, so that a later look shows who is still there.
        self._set_deadline(task, now + KILL_LIMIT)
        self._kill(task)
        if again and task.run is not None:
            members = self._members(task, self._belonging.reap())
            leader = () if task.exited else (task.run.pid,)
            self._owner.stuck(task.run, sorted({*leader, *(member.pid for member in members)}))

    def _reached(self, task: _Task, orphans: List[Stat]) -> Set[Member]:
        """Return whom the signals to a run reach, beside its leader: nobody, with `kill_mode` "process"."""
        return set() if _leader_only(task.run) else self._members(task, orphans)

    def _members(self, task: _Task, orphans: List[Stat]) -> Set[Member]:
        """Return the living processes of a run: of its leader's tree, and of the orphans that belong to it."""
        run = task.run
        if not self._tree:
            assert run is not None
            return set() if proctree.group_is_empty(run.pid) else {Member(run.pid, 0)}
        roots = [one for one in orphans if self._belonging.belongs(run, one)]
        if run is not None:
            # Not at the first look at a leader, most of which end at once (a look costs a 20th of their stop).
            siblings = self._belonging.siblings(run) if task.exited or task.deadline is not None else []
            if any(one.dead for one in siblings):
                self._wake.set()  # its children are orphans by now
            roots += siblings
        pids = [one.pid for one in roots]
        if run is not None and not task.exited:
            pids += proctree.children(run.pid)
        # One that has died meanwhile counts as well: what it may have made is ours by now, and seen the next time.
        found = {Member(one.pid, one.start) for one in [*roots, *proctree.descendants(pids)]}
        if run is not None:
            self._belonging.learn(found, run)
        return found

    def _ask(self, task: _Task, members: Set[Member]) -> None:
        """Send the stop signal to all of a run, and SIGCONT, without which a stopped process would not see it.

        `members` were looked for beforehand: afterwards parents may be gone.
        """
        run = task.run
        now = time.monotonic()
        self._set_deadline(task, now + task.grace)
        if not task.exited:
            task.look_at = now + _SECOND_LOOK
            heapq.heappush(self._clock, (task.look_at, next(self._serial), task))
        if run is not None and _leader_only(run):
            proctree.send_unreaped(run.pid, task.signal)
            proctree.send_unreaped(run.pid, signal.SIGCONT)
            return
        if run is not None:
            proctree.send_group(run.pid, task.signal)
            proctree.send_group(run.pid, signal.SIGCONT)
        task.signalled = members
        self._send(run, members, (task.signal, signal.SIGCONT))

    def _signal_new(self, task: _Task, members: Set[Member]) -> None:
        """Give those that came to light since the last signal the same."""
        new = members - task.signalled
        if new:
            task.signalled |= new
            self._send(task.run, new, (signal.SIGKILL,) if task.killing else (task.signal, signal.SIGCONT))

    def _kill_orphans(self, task: _Task, orphans: List[Stat]) -> None:
        """Kill what has come to light since the kill, by the shortest way: some move on every few milliseconds."""
        for one in orphans:
            if self._belonging.belongs(task.run, one):
                proctree.send_unreaped(one.pid, signal.SIGKILL)

    def _kill(self, task: _Task) -> None:
        """Kill all of a run; those outside the group are stopped first and looked for again, to beat forkers."""
        run = task.run
        if run is not None and _leader_only(run):
            proctree.send_unreaped(run.pid, signal.SIGKILL)
            return
        stopped: Set[Member] = set()
        members: Set[Member] = set()
        for _ in range(20):
            members = self._members(task, self._belonging.reap())
            new = members - stopped
            if not new or not self._outside(run, new):
                break
            if run is not None:
                proctree.send_group(run.pid, signal.SIGSTOP)
            self._send(run, new, (signal.SIGSTOP,))
            stopped |= new
        if run is not None:
            proctree.send_group(run.pid, signal.SIGKILL)
        task.signalled |= members
        self._send(run, members, (signal.SIGKILL,))

    def _send(self, run: Optional[Run], members: Set[Member], numbers: Tuple[int, ...]) -> None:
        """Signal the members outside the process group one by one; the group has got it as a whole."""
        for member in self._outside(run, members):
            for number in numbers:
                proctree.send(member, number)

    def _outside(self, run: Optional[Run], members: Iterable[Member]) -> List[Member]:
        if not self._tree:
            return []
        if run is None:
            return list(members)
        found = []
        for member in members:
            if member.pid == run.pid:
                continue  # who leads a session cannot leave its group (setpgid(2))
            one = proctree.stat(member.pid)
            if one is not None and one.start == member.start and one.group != run.pid:
                found.append(member)
        return found

    # What the machine tells about leaders.

    def leads(self, run: Run) -> None:
        """Take note of a run and its leader: it is reaped with its run, not as an orphan."""
        self._belonging.leads(run)

    def reaped(self, pid: int) -> None:
        """Take note that the leader `pid` has been reaped."""
        self._belonging.reaped(pid)


def _leader_only(run: Optional[Run]) -> bool:
    return run is not None and run.spec.kill_mode == "process"
