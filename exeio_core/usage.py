"""What the processes of each run use, their whole trees (Linux): read from /proc when somebody asks."""

from __future__ import annotations

import os
import threading
import time
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional

from . import proctree
from .child import Run
from .machine import Machine
from .process import Process, Usage
from .proctree import Member, Stat

#: Seconds for which a sample is good.
SAMPLE_SECONDS = 1.0


class _Sample(NamedTuple):
    """What the members of a tree had used, in clock ticks, at a time of the monotonic clock; and their share then."""

    when: float
    cpu: Mapping[Member, int]
    percent: float


class Sampler:
    """Keeps `Process.usage` up to date, as far as anybody looks at it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._supported = proctree.supported()
        self._main = os.getpid()
        # Held while /proc is read; guards what follows. The machine's lock is taken under it, never the reverse.
        self._lock = threading.Lock()
        self._samples: Dict[Run, _Sample] = {}
        self._marks: Dict[Member, List[str]] = {}
        self._next = 0.0

    def refresh(self) -> None:
        """Sample all processes, unless that was done within the last second or is being done."""
        if time.monotonic() < self._next:
            return
        # Only the very first one is waited for: afterwards there is something to show meanwhile.
        if self._lock.acquire(blocking=not self._next):
            try:
                if time.monotonic() >= self._next:
                    self._sample(None)
                    self._next = time.monotonic() + SAMPLE_SECONDS
            finally:
                self._lock.release()

    def sample_new(self, processes: Iterable[Process]) -> None:
        """Sample those of which nothing is known since they were started."""
        new = [process for process in processes if _is_new(process)]
        if new and self._supported:
            with self._lock:
                self._sample(new)

    def _sample(self, only: Optional[List[Process]]) -> None:
        """Sample all processes, or those of `only` that are new. Caller holds self._lock."""
        with self._machine.lock:
            processes = list(self._machine.processes.values()) if only is None else only
            pairs = [(process, process.run) for process in processes if process.run is not None and process.run.pid]
        usages = self._measure([run for _, run in pairs]) if self._supported else {}
        with self._machine.lock:
            for process, run in pairs:
                if process.run is run:
                    process.usage = usages.get(run)
            for process in processes:
                process.fragment = None  # all of them, also for what changes without a change of state
        if only is None:
            self._samples = {run: self._samples[run] for run in usages}

    def _measure(self, runs: List[Run]) -> Dict[Run, Usage]:
        """Return what each run uses. Caller holds self._lock."""
        found = {}
        for run, tree in self._trees(runs).items():
            cpu = {Member(one.pid, one.start): one.cpu for one in tree}
            sample = self._samples[run] = _next_sample(self._samples.get(run), run, cpu)
            found[run] = Usage(run, sample.percent, sum(one.resident for one in tree) * _PAGE,
                               sum(cpu.values()) / _TICKS, len(tree))
        return found

    def _trees(self, runs: List[Run]) -> Dict[Run, List[Stat]]:
        """Return the living processes of each run, told apart as in `ending`."""
        if not runs:
            return {}
        children, descendants = proctree.children, proctree.descendants
        if not proctree.HAVE_CHILDREN:
            family = _Family(proctree.scan())
            children, descendants = family.children, family.descendants
        orphans = [one for one in map(proctree.stat, children(self._main, self._main)) if one is not None]
        alive = {Member(one.pid, one.start) for one in orphans}
        self._marks = {member: marks for member, marks in self._marks.items() if member in alive}
        return {run: descendants([run.pid, *(one.pid for one in orphans if self._belongs(run, one))]) for run in runs}

    def _belongs(self, run: Run, orphan: Stat) -> bool:
        if run.pid in (orphan.group, orphan.session):
            return True
        member = Member(orphan.pid, orphan.start)
        if member not in self._marks:
            self._marks[member] = proctree.marks(orphan.pid)
        return run.mark in self._marks[member]


class _Family:
    """Who descends from whom in one scan of /proc, where the kernel lists no children."""

    def __init__(self, everybody: List[Stat]) -> None:
        self._all = {one.pid: one for one in everybody}
        self._children: Dict[int, List[int]] = {}
        for one in everybody:
            self._children.setdefault(one.parent, []).append(one.pid)

    def children(self, pid: int, thread: Optional[int] = None) -> List[int]:
        """Return the children of a process, of all its threads."""
        return self._children.get(pid, [])

    def descendants(self, pids: Iterable[int]) -> List[Stat]:
        """Return the living processes among `pids` and all below them, each once."""
        found: Dict[int, Stat] = {}
        todo = list(pids)
        while todo:
            pid = todo.pop()
            if pid in self._all and pid not in found:
                found[pid] = self._all[pid]
                todo.extend(self.children(pid))
        return [one for one in found.values() if not one.dead]


def _is_new(process: Process) -> bool:
    run = process.run
    return run is not None and bool(run.pid) and (process.usage is None or process.usage.run is not run)


def _next_sample(before: Optional[_Sample], run: Run, cpu: Mapping[Member, int]) -> _Sample:
    """Return the sample after `before`; the first one has the share since the run began."""
    now = time.monotonic()
    if before is None:
        return _Sample(now, cpu, _percent(sum(cpu.values()), max(now - run.started, SAMPLE_SECONDS)))
    if now - before.when < SAMPLE_SECONDS / 2:
        return before  # it was new a moment ago: too short a time for a share of it
    # Who is new has used all of its time since then; who is gone cannot be asked any more.
    ticks = sum(used - before.cpu.get(member, 0) for member, used in cpu.items())
    return _Sample(now, cpu, _percent(ticks, now - before.when))


def _percent(ticks: int, seconds: float) -> float:
    return round(100 * ticks / _TICKS / seconds, 1)


_TICKS: int = os.sysconf("SC_CLK_TCK")
_PAGE: int = os.sysconf("SC_PAGE_SIZE")
