"""Who belongs to a run: what /proc tells about process groups, ancestry and marks (Linux), and how to signal them.

A run is found by its process group and session, then by ancestry, then by the mark in its environment. exeio makes
itself a child subreaper (prctl(2)), so that whatever outlives its parent becomes a child of exeio's main thread
instead of vanishing to init. Elsewhere than on Linux only the process group is known, and every function here
says so by returning nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import stat as stat_module
import sys
import threading
import time
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple, TypeVar

_T = TypeVar("_T")

#: Nanoseconds of a clock tick.
_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

MARK = "EXEIO_RUN"
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
#: Seconds that an exec may take to put arguments and environment in place; mostly well under a millisecond.
_EXEC_SECONDS = 0.25


class Stat(NamedTuple):
    """What /proc/PID/stat says, as far as it matters here (proc_pid_stat(5))."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    threads: int
    start: int  # clock ticks since boot: with the pid it names one process for ever
    cpu: int    # user and system time in clock ticks
    resident: int  # pages

    @property
    def dead(self) -> bool:
        """Whether it is a zombie, or is just being taken away.

        One whose main thread has ended is told as a zombie, too, and lives on in its other threads (pthread_exit(3)).
        """
        return self.state in "ZXx" and self.threads < 2


class Member(NamedTuple):
    """One process for ever: a pid alone may be given to another."""

    pid: int
    start: int


def supported() -> bool:
    """Return whether this system has what the tree needs."""
    return sys.platform.startswith("linux") and os.path.exists("/proc/self/stat")


def prctl(option: int, value: int) -> int:
    """Return what prctl(2) does; -1 where it fails, or there is none, as elsewhere than on Linux.

    Python's lock is kept meanwhile: a call takes 1 us, and to get the lock back longer (3 ms on a busy machine).
    """
    try:
        return int(ctypes.pythonapi.prctl(option, ctypes.c_ulong(value), 0, 0, 0))
    except AttributeError:
        return -1


def become_subreaper() -> bool:
    """Make orphaned descendants children of this process; returns whether the kernel agreed."""
    return prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0


def stat(pid: int) -> Optional[Stat]:
    """Return the state of `pid`, or None when there is no such process."""
    data = _read(f"/proc/{pid}/stat")
    if not data:
        return None
    # The name stands in parentheses and may hold any byte, also parentheses: the last one ends it.
    fields = data[data.rfind(b")") + 2:].split()
    return Stat(pid, fields[0].decode("ascii"), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[17]),
                int(fields[19]), int(fields[11]) + int(fields[12]), int(fields[21]))


def start_time(pid: int, earliest: int) -> int:
    """Return when `pid` began, in clock ticks since boot; 0 where that cannot be told.

    `earliest` is what `boot_ticks` said before: where it says the same now, that was the tick, and /proc need not be
    read (50 us of 1,100 that an `/add` takes). The first time it is read all the same, to see whether it agrees.
    """
    global _ticks_agree
    latest = boot_ticks()
    if earliest == latest and _ticks_agree:
        return latest
    found = stat(pid)
    if found is None:
        return 0
    if _ticks_agree is None:
        _ticks_agree = earliest <= found.start <= latest
    return found.start


#: Whether start times are on the clock of `boot_ticks`; a kernel that is not Linux may see that in another way.
_ticks_agree: Optional[bool] = None


def exit_status(pid: int) -> Optional[int]:
    """Return the status, as of wait(2), of one that has ended and is not reaped; None while it lives."""
    found = stat(pid)
    if found is None or not found.dead:
        return None
    fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    return int(fields[49]) if len(fields) > 49 else None


def alive(member: Member) -> bool:
    """Return whether this very process still runs; a zombie does not."""
    found = stat(member.pid)
    return found is not None and found.start == member.start and not found.dead


def marks(pid: int) -> List[str]:
    """Return the marks in the environment `pid` was started with, outermost first; none where it cannot be read."""
    data = _environment(pid)
    wanted = MARK.encode() + b"="
    for entry in data.split(b"\0") if wanted in data else ():
        if entry.startswith(wanted):
            return entry[len(wanted):].decode("utf-8", "replace").split(",")
    return []


def _environment(pid: int) -> bytes:
    """Return the environment `pid` was started with; one that is in the middle of an exec is waited for.

    Its memory is new then, and both files are empty until its arguments are in place: what had left its session just
    before would be taken for nobody's (`setsid x & exit` under load: one run in 200).
    """
    end = time.monotonic() + _EXEC_SECONDS
    empty = 0  # looks at an environment that is empty beside arguments: indeed so, or another exec in between
    while True:
        data = _read(f"/proc/{pid}/environ")
        if data or empty > 1 or time.monotonic() > end:
            return data
        if _read(f"/proc/{pid}/cmdline"):
            empty += 1
        else:
            try:
                os.readlink(f"/proc/{pid}/exe")
            except OSError:
                # Gone, a zombie, a thread of the kernel, not for this user to look at; or its main thread alone ended.
                return next(filter(None, (_read(f"{thread}/environ") for thread in _other_threads(pid))), b"")
        time.sleep(0.001)


def _other_threads(pid: int) -> List[str]:
    """Return the folders of the threads of `pid` beside its main one: they tell what one that has ended does not."""
    try:
        return [f"/proc/{pid}/task/{thread}" for thread in _names(f"/proc/{pid}/task") if thread != str(pid)]
    except OSError:
        return []


def leaving(pid: int) -> bool:
    """Return whether `pid` has given up its memory, as it does some time before it is a zombie."""
    for folder in (f"/proc/{pid}", *_other_threads(pid)):
        try:
            os.readlink(f"{folder}/exe")
        except FileNotFoundError:
            continue
        except OSError:
            pass  # not for this user to look at
        return False
    return True


def stderr_pipe(pid: int) -> int:
    """Return the inode of the pipe that `pid` has for its stderr; 0 where it has another one or that cannot be seen."""
    try:
        found = os.stat(f"/proc/{pid}/fd/2")
    except OSError:
        return 0
    return found.st_ino if stat_module.S_ISFIFO(found.st_mode) else 0


def pipes(pid: int) -> Set[int]:
    """Return the inodes of the pipes that `pid` has open; none where that cannot be seen."""
    found: Set[int] = set()
    for folder in (f"/proc/{pid}/fd", *(f"{thread}/fd" for thread in _other_threads(pid))):
        try:
            names = _names(folder)
        except OSError:
            continue
        for name in names:
            try:
                target = os.readlink(f"{folder}/{name}")
            except OSError:
                continue  # closed by now
            if target.startswith("pipe:["):
                found.add(int(target[len("pipe:["):-1]))
        if names:
            break  # threads share their descriptors, unless the main one has ended
    return found


def timer_slack(pid: int) -> int:
    """Return the timer slack of `pid` in nanoseconds; 0 where that cannot be seen (it takes CAP_SYS_NICE)."""
    return int(_read(f"/proc/{pid}/timerslack_ns") or 0)


def children(pid: int, thread: Optional[int] = None) -> List[int]:
    """Return the children of `pid`, or only those of its thread `thread`, zombies among them.

    /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN) is a walk over the kernel's list. It can miss a child when an
    earlier one leaves the list meanwhile; for exeio's own children that happens only when exeio reaps them, and one
    thread does both. Without the file, the parents in /proc/*/stat are searched.
    """
    if not HAVE_CHILDREN:
        return [one.pid for one in scan() if one.parent == pid]
    try:
        # The folder has a link for itself, one for the folder above and one for each thread: mostly the main one alone.
        if thread is None and os.stat(f"/proc/{pid}/task").st_nlink == 3:
            thread = pid
        tasks = _names(f"/proc/{pid}/task") if thread is None else [str(thread)]
    except OSError:
        return []
    found: List[int] = []
    for task in tasks:
        found.extend(map(int, _read(f"/proc/{pid}/task/{task}/children").split()))
    return found


def scan() -> List[Stat]:
    """Return every process there is."""
    return [one for one in (stat(int(name)) for name in _names("/proc") if name.isdigit()) if one is not None]


def census(end: float) -> Iterator[Tuple[Stat, List[str]]]:
    """Give every living process and its marks, and miss none that hands over to a copy of itself every millisecond.

    A listing passes over no such chain, since each has a higher pid than the one before; but one may be gone when it is
    looked at. So /proc is listed anew until that has nothing new, or the monotonic clock is at `end`.
    """
    known: Set[str] = set()
    while True:
        new = [name for name in _names("/proc") if name.isdigit() and name not in known]
        for name in new:
            one = stat(int(name))
            if one is not None and not one.dead:
                yield one, marks(one.pid)
        known.update(new)
        if not new or time.monotonic() > end:
            return


def descendants(pids: Iterable[int]) -> List[Stat]:
    """Return the living processes among `pids` and all below them, each once."""
    found: Dict[int, Stat] = {}
    todo = list(pids)
    while todo:
        pid = todo.pop()
        if pid in found:
            continue
        one = stat(pid)
        if one is None:
            continue
        found[pid] = one
        # The children of a dead one have been handed on already.
        if not one.dead:
            todo.extend(children(pid, pid if one.threads == 1 else None))
    return [one for one in found.values() if not one.dead]


def send(member: Member, number: int) -> bool:
    """Send a signal to this very process: through a pidfd that is opened first, then looked at again.

    Returns whether it was sent; a process that is gone or that may not be signalled is False.
    """
    try:
        fd = os.pidfd_open(member.pid)
    except (AttributeError, OSError):
        fd = -1  # a kernel before 5.3, or a C library's headers from then: the check and the kill stand apart
    try:
        if not alive(member):
            return False
        if fd >= 0:
            signal.pidfd_send_signal(fd, number)
        else:
            os.kill(member.pid, number)
        return True
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if fd >= 0:
            os.close(fd)


def send_group(group: int, number: int) -> bool:
    """Send a signal to a process group whose leader is known not to be reaped; returns whether it was sent."""
    try:
        os.killpg(group, number)
        return True
    except (ProcessLookupError, PermissionError):
        return False


def send_unreaped(pid: int, number: int) -> None:
    """Send a signal to a child of exeio's that is known not to be reaped, if it may be signalled.

    A leader is not, before the ender has said that its run is empty; an orphan is reaped by the ender alone.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def group_is_empty(group: int) -> bool:
    """Return whether a process group holds nobody but zombies, where /proc cannot tell (macOS says EPERM then)."""
    return not send_group(group, 0)


def boot_id() -> str:
    """Return what names this boot and this pid namespace: pids and start times mean something only within it."""
    boot = _read("/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip()
    try:
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return boot


def boot_ticks() -> int:
    """Return the time since boot in clock ticks, as start times have it; 0 elsewhere than on Linux."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _TICK


def _read(path: str) -> bytes:
    """Return a file of /proc, b"" where it cannot be read; open() would cost three times as much."""
    try:
        return _SPARE.look(_content, path)
    except OSError:
        return b""


def _content(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(fd, 65536)]
        # /proc gives a page or less a read for some files: only an empty read is the end.
        while len(parts[-1]) >= 1024:
            parts.append(os.read(fd, 65536))
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(fd)


def _names(path: str) -> List[str]:
    """Return the entries of a folder of /proc; raises OSError."""
    return _SPARE.look(os.listdir, path)


class _Spare:
    """A descriptor kept for the day there is none left: without it, "cannot look" would read as "nothing there",
    and what is left of a run would be forgotten."""

    def __init__(self) -> None:
        # Guards the descriptor; held while waiting for one, when all who look have to wait anyway.
        self._lock = threading.Lock()
        self._fd = -1

    def look(self, how: Callable[[str], _T], path: str) -> _T:
        """Return `how(path)`, which takes one descriptor for its time; raises OSError, but never for a lack of them."""
        try:
            return how(path)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        with self._lock:
            while True:
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1
                try:
                    # The number is free for a moment only: somebody else may have been faster.
                    return how(path)
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE):
                        raise
                finally:
                    self._take()  # at once: who opens a pidfd before his next look would wait for himself
                time.sleep(0.01)

    def keep(self) -> None:
        """Take a descriptor to keep, if there is none and one can be had."""
        with self._lock:
            self._take()

    def _take(self) -> None:
        """Caller holds self._lock."""
        if self._fd < 0:
            try:
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return  # next time


_SPARE = _Spare()
keep_spare = _SPARE.keep


#: Whether the kernel lists children (CONFIG_PROC_CHILDREN), which spares a scan of all of /proc.
HAVE_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
