"""The orphans that exeio has adopted, and whose they are: by group and session, by ancestry, by mark, pipes and slack.

The last three look at the process itself: the mark in its environment stays through fork, session and a lost parent,
and its pipes and timer slack still do when it was started with an empty environment. What has wiped its environment,
closed its pipes and left session and parents, where nobody may look at its slack, belongs to the one run that was there
when it was born, if it was only one.

Why an empty list of children proves that nothing is left: when the leader is seen as a zombie, the kernel has already
handed its children to exeio's main thread (exit_notify does both under one lock), and every leftover is such a child
or below one. The list loses entries only by reaping, which the ender's thread alone does, so a read misses nothing.
"""

from __future__ import annotations

import os
import time
from typing import Dict, Iterable, List, Optional, Sequence, Set

from . import proctree
from .child import Run
from .proctree import Member, Stat

#: Ends the mark of a run with `kill_mode` "process", whose leftovers are let alone by every later exeio, too.
LET_ALONE = "p"
#: Seconds for which one that is on its way out, and was not seen before, may be anybody's; big ones take so long.
_LEAVING_SECONDS = 1.0
#: The marks of such a one: they went with its memory, and it is no zombie yet.
_UNKNOWN: Sequence[str] = ("?",)


class Belonging:
    """What is known about orphans and leaders. All but `leads` and `reaped` are for the ender's thread alone."""

    def __init__(self, instance: str) -> None:
        """`instance` begins this exeio's own marks."""
        self._prefix = instance + "/"
        self._tree = proctree.supported()
        self._main = os.getpid()
        self._marks: Dict[Member, Sequence[str]] = {}
        self._leaving: Dict[Member, float] = {}  # since when, on the monotonic clock
        self._known: Dict[Member, Run] = {}
        # Whose the orphans seem that nothing else tells of: found out once between two calls of `reap`, not once a run.
        self._guessed: Dict[Member, Optional[Run]] = {}
        # Runs by the pid of their leader, until that is reaped; setting and taking out need no lock.
        self._leaders: Dict[int, Run] = {}
        self._let_alone = False  # whether there has been a run whose leftovers are to be let alone
        self._spared: Set[int] = set()  # the timer slack of such runs, which another one may have after 20,000 runs

    def leads(self, run: Run) -> None:
        """Take note of a run and its leader, which is reaped with it and not as an orphan."""
        if run.spec.kill_mode == "process":
            self._let_alone = True
            self._spared.add(run.slack)
        self._leaders[run.pid] = run

    def reaped(self, pid: int) -> None:
        """Take note that the leader `pid` has been reaped."""
        self._leaders.pop(pid, None)

    def reap(self) -> List[Stat]:
        """Take away the orphans that have ended; returns those that live. Until the next call no pid of them is reused.

        What is known of them stays known until `forget`, also when they die meanwhile.
        """
        if not self._tree:
            return []
        alive: Dict[int, Stat] = {}
        self._guessed.clear()
        died = True
        while died:
            # Its children became ours when it died, perhaps behind the end of the list that was just read. Those that
            # have been seen alive count, whatever became of them, so that a round costs no more than what is new.
            died = False
            for pid in proctree.children(self._main, self._main):
                one = None if pid in alive or pid in self._leaders else proctree.stat(pid)
                if one is None:
                    continue
                member = Member(pid, one.start)
                if not one.dead:
                    alive[pid] = one
                    self._marks_of(member)
                elif member in self._marks or one.session != pid or proctree.HAVE_CHILDREN:
                    # Without the kernel's list, children of other threads are seen here, too: one that leads a
                    # session and was never seen as an orphan may be a child whose spawn is not back yet.
                    died = _reap(pid) or died
        return list(alive.values())

    def siblings(self, run: Run) -> List[Stat]:
        """Return the children of the thread that spawned a leader: what was made with CLONE_PARENT.

        One that has ended is among them once, and taken away.
        """
        thread = run.spawner
        if not (thread and proctree.HAVE_CHILDREN):
            return []
        found = [proctree.stat(pid) for pid in proctree.children(self._main, thread) if pid != run.pid]
        return [one for one in found if one is not None and (not one.dead or _reap(one.pid))]

    def learn(self, members: Iterable[Member], run: Run) -> None:
        """Remember who is of a run by ancestry, should one wipe its environment and lose its parent."""
        for member in members:
            if member.pid != run.pid:
                self._known[member] = run

    def forget(self, orphans: List[Stat], running: Iterable[Run]) -> None:
        """Keep what is known no longer than orphans live, and than runs are being ended."""
        if self._marks or self._known or self._leaving:
            now = {Member(one.pid, one.start) for one in orphans}
            runs = set(running)
            self._marks = {member: mark for member, mark in self._marks.items() if member in now}
            self._leaving = {member: since for member, since in self._leaving.items() if member in now}
            self._known = {member: run for member, run in self._known.items()
                           if run in runs and (member in now or proctree.alive(member))}

    def belongs(self, run: Optional[Run], orphan: Stat) -> bool:
        """Return whether an orphan is of this run; of None, whether it may be ended when no run is left."""
        member = Member(orphan.pid, orphan.start)
        marks = self._marks_of(member)
        if marks is _UNKNOWN:
            return True  # a signal does nothing to it any more, and who waits for its end sees what it has made
        own = [mark for mark in marks if mark.startswith(self._prefix)]
        spared = self._let_alone and any(mark.endswith(LET_ALONE) for mark in own)
        if run is None:
            return not spared and bool(own or not self._let_alone)
        if run.pid in (orphan.group, orphan.session) or self._known.get(member) is run:
            return True
        if spared or any(one.mark in own for one in list(self._leaders.values())):
            return run.mark in own
        # It has no mark, or one that it made up.
        if orphan.group in self._leaders or orphan.session in self._leaders:
            return False
        if member not in self._guessed:
            self._guessed[member] = self._owner_of_unmarked(orphan)
        return self._guessed[member] is run

    def _owner_of_unmarked(self, orphan: Stat) -> Optional[Run]:
        """Return the run of one that has neither mark nor session nor parent; None where that cannot be told."""
        runs = list(self._leaders.values())
        pipes: Set[int] = proctree.pipes(orphan.pid)
        for run in runs:
            if pipes & run.pipes:
                return run
        slack = proctree.timer_slack(orphan.pid)
        alike = [run for run in runs if slack and run.slack == slack and run.start_time <= orphan.start]
        if len(alike) == 1 and slack not in self._spared:
            return alike[0]
        if self._let_alone or self._main == 1:  # pid 1 also gets what was brought into its container from outside
            return None
        older = [run for run in runs if run.start_time <= orphan.start]
        return older[0] if len(older) == 1 else None

    def _marks_of(self, member: Member) -> Sequence[str]:
        known = self._marks.get(member)
        if known is not None:
            return known
        found = proctree.marks(member.pid)
        if not found and proctree.leaving(member.pid):
            now = time.monotonic()
            if now - self._leaving.setdefault(member, now) < _LEAVING_SECONDS:
                return _UNKNOWN
        self._marks[member] = found
        return found


def _reap(pid: int) -> bool:
    """Take away this zombie; returns whether it was one."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False
