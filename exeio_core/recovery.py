"""What a killed predecessor left behind: found by mark and run state, and ended before its process starts anew.

A process belongs to an old run if it carries the data folder's mark; if it is the main process that the run state
names (pid and start time, so a reused pid is never touched); if it is in that one's process group or session and a
member proves the group to be the old one; or if it descends from one of these. What wiped its environment and left
session and parents cannot be found any more.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from typing import Callable, Collection, Dict, Iterable, List, Mapping, Set, Tuple

from . import proctree
from .belonging import LET_ALONE
from .ending import KILL_LIMIT
from .proctree import Member, Stat
from .runstate import Spawned

#: Seconds between two scans while something is being ended, unless one of the known has ended before.
_LOOK_AGAIN = 0.25
#: Seconds for which one look follows what moves on, or a machine on which new processes come all the time.
_CHASE_SECONDS = 0.5


class Leftovers:
    """The processes of earlier runs."""

    def __init__(self, instance: str, runs: List[Spawned], last_seen: int) -> None:
        """`runs` are the runs whose exit was not noted; `last_seen` as `RunState.load` leaves it."""
        self._prefix = instance + "/"
        self.runs = runs
        self._last_seen = last_seen
        self.hurried = False

    def find(self, known: Collection[str] = (), kill: Collection[str] = ()) -> Dict[str, Set[Member]]:
        """Return the processes of earlier runs by process id (of exeio); a scan of all of /proc.

        What has moved on before it could be looked at again is looked for anew, for _CHASE_SECONDS, and then counts as
        living; not while all of the ids in `known` are seen to live. Of the ids in `kill` each process is killed at
        sight, since it may have moved on a millisecond later.
        """
        if not proctree.supported():
            return {}
        if known and not kill:
            living = self._scan((), 0.0)[1]
            if living.keys() >= set(known):
                return living
        end = time.monotonic() + _CHASE_SECONDS
        while True:
            seen, living = self._scan(kill, end)
            if len(seen) == len(living) or time.monotonic() > end:
                return {**seen, **living}

    def _scan(self, kill: Collection[str], end: float) -> Tuple[Dict[str, Set[Member]], Dict[str, Set[Member]]]:
        """Return who was seen, and who still lives afterwards, with all below them."""
        own = os.getpid()
        everything: Dict[int, Stat] = {}
        found: Dict[str, Set[int]] = {}
        spared: Set[int] = set()
        for one, marks in proctree.census(end):
            if one.pid == own:
                continue
            everything[one.pid] = one
            for mark in marks:
                if mark.startswith(self._prefix):
                    id = mark.split("/")[1]
                    if mark.endswith(LET_ALONE):
                        spared.add(one.pid)
                    else:
                        found.setdefault(id, set()).add(one.pid)
                        if id in kill:
                            proctree.send(Member(one.pid, one.start), signal.SIGKILL)
        alone: Set[int] = set()  # main processes whose descendants are let alone
        for run in self.runs:
            for pid in self._of_run(run, everything, found.get(run.id, set()), spared):
                found.setdefault(run.id, set()).add(pid)
                if not run.tree:
                    alone.add(pid)
        living: Dict[str, Set[Member]] = {}
        for id, pids in found.items():
            # Not by pid alone: one that has ended since it was seen may have handed it to anybody.
            roots = [pid for pid in pids - alone if proctree.alive(Member(pid, everything[pid].start))]
            below = proctree.descendants(roots)
            members = {Member(one.pid, one.start) for one in below if one.pid != own and one.pid not in spared}
            members |= {Member(pid, everything[pid].start) for pid in pids & alone}
            if members:
                living[id] = members
        return {id: {Member(pid, everything[pid].start) for pid in pids} for id, pids in found.items()}, living

    def _of_run(self, run: Spawned, everything: Mapping[int, Stat], marked: Set[int], spared: Set[int]) -> Set[int]:
        leader = everything.get(run.pid)
        if not run.tree:
            if run.pid:
                return {run.pid} if leader is not None and leader.start == run.start else set()
            # Killed in mid-spawn: of those with the mark the main process is the oldest, but for what an earlier exeio
            # has let alone: it counted its runs from 1, too.
            mark = f"{self._prefix}{run.id}/{run.run}{LET_ALONE}"
            born = [one for one in map(everything.__getitem__, spared)
                    if one.start >= run.start and mark in proctree.marks(one.pid)]
            born = born or [everything[pid] for pid in _unmarked(run, everything)]
            return {min(born, key=lambda one: (one.start, one.pid)).pid} if born else set()
        if run.pid <= 1:
            # Of no run: 0 is the group of the kernel's threads, and of what comes from other namespaces.
            return _unmarked(run, everything)
        group = {one.pid for one in everything.values() if run.pid in (one.group, one.session)}
        if leader is not None:
            return group if leader.start == run.start else set()
        # Without its leader the number may stand for another group by now, unless one is known to be of the old run.
        proved = group & marked or {pid for pid in group if run.start <= everything[pid].start <= self._last_seen}
        return group if proved else set()

    def hurry(self) -> None:
        """Skip the grace."""
        self.hurried = True


class Ending:
    """The end of what was found, and how far it has got; for one thread at a time."""

    def __init__(self, leftovers: Leftovers, found: Dict[str, Set[Member]], manner: Callable[[str], Tuple[int, float]],
                 gone: Callable[[str], None], stuck: Callable[[str, List[int]], None]) -> None:
        """`manner` gives the stop signal and the grace in seconds of an id; `gone` and `stuck` are told of each."""
        self.found = found
        self.told: Set[str] = set()  # ids that are stuck
        self._leftovers = leftovers
        self._manner, self._gone, self._stuck = manner, gone, stuck
        self._began = time.monotonic()
        self._asked: Set[Member] = set()
        self._left = set(found)

    def start(self) -> None:
        """Go on in a thread until all are gone; here while there is no room for one, which they may be taking."""
        while self.found:
            try:
                threading.Thread(target=self._to_the_end, name="exeio-recovery", daemon=True).start()
                return
            except RuntimeError:
                self._safe_round()

    def here(self) -> None:
        """Go on in the calling thread until all are gone or stuck."""
        while not self.told.issuperset(self.found):
            self._safe_round()

    def _to_the_end(self) -> None:
        while self.found:
            self._safe_round()

    def _safe_round(self) -> None:
        try:
            self._round()
        except Exception:
            sys.excepthook(*sys.exc_info())  # a bug; the processes it held stay listed as stopping
            self.found = {}

    def _round(self) -> None:
        """Signal what is due, wait for some to end, and look who is left."""
        kill: Set[str] = set()
        for id, members in self.found.items():
            number, grace = self._manner(id)
            late = time.monotonic() - self._began
            if late >= grace or self._leftovers.hurried:
                kill.add(id)
                _kill(members)
                if late >= grace + KILL_LIMIT and id not in self.told:
                    self.told.add(id)
                    self._stuck(id, sorted(member.pid for member in members))
            for member in members - self._asked:
                proctree.send(member, number)
                proctree.send(member, signal.SIGCONT)
            self._asked |= members
        _wait_for_end(self.found.values())
        # What is gone may have been started again by now, with the same mark: it is not looked for any more.
        found = self._leftovers.find(self._left, kill)
        self.found = {id: members for id, members in found.items() if id in self._left}
        for id in self._left - set(self.found):
            self._left.discard(id)
            self._gone(id)


def _kill(members: Set[Member]) -> None:
    """Stop all before killing them, so that a forker does not get ahead; the next scan finds what it made."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for member in members:
            proctree.send(member, number)


def _unmarked(run: Spawned, everything: Mapping[int, Stat]) -> Set[int]:
    """Return what a run consists of whose spawn was under way: in the middle of its exec it has no mark yet."""
    if run.pid or not run.stderr:
        return set()
    return {one.pid for one in everything.values()
            if one.start >= run.start and proctree.stderr_pipe(one.pid) == run.stderr}


def _wait_for_end(groups: Iterable[Set[Member]]) -> None:
    """Wait until one of the members has ended, or for a moment."""
    poll = select.poll()
    fds = []
    for members in groups:
        for member in members:
            try:
                fds.append(os.pidfd_open(member.pid))
            except (AttributeError, OSError):
                continue
            poll.register(fds[-1], select.POLLIN)
    ended = poll.poll(_LOOK_AGAIN * 1000)
    if ended:
        time.sleep(0.01)  # most of the others end together with the first
    for fd in fds:
        os.close(fd)
