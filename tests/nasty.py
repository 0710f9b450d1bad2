"""Children that do what a supervisor would rather not meet; each is started as `python3 nasty.py NAME GO`.

All print "ready" once they are what they are to be, "pid N" for each process that carries no mark, and end with
status 0 when the file GO appears. The tests import what is below `CHILDREN`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

LONG = "1000"
CLONE_PARENT = 0x8000
SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
PTRACE_SEIZE = 0x4206
SYS_EXIT = {"x86_64": 60, "aarch64": 93}.get(platform.machine())


def ignore_term() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def no_output() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def in_child(work: Callable[[], Any]) -> int:
    """Do `work` in a forked child that then sleeps; returns its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            while True:
                time.sleep(1000)
        finally:
            os._exit(1)
    return pid


def daemon(work: Callable[[], Any]) -> None:
    """Do the same in a daemon: a grandchild in a session of its own, whose parent is gone."""
    def middle() -> None:
        os.setsid()
        in_child(work)
        os._exit(0)
    os.waitpid(in_child(middle), 0)


def run(*command: str, env: Optional[Mapping[str, str]] = None) -> int:
    """Fork and execute a command without waiting for it."""
    return in_child(lambda: os.execvpe(command[0], command, dict(os.environ if env is None else env)))


# What each of them does before it waits for its end.

def plain() -> None:
    """Ends when it is asked to."""


def leader_ignores() -> None:
    ignore_term()


def grandchild_ignores() -> None:
    in_child(ignore_term)


def setsid_nohup() -> None:
    run("/bin/sh", "-c", f"setsid nohup sleep {LONG} </dev/null >/dev/null 2>&1 & sleep {LONG} & exec sleep {LONG}")


def double_fork() -> None:
    daemon(lambda: (no_output(), ignore_term()))


def wiped() -> None:
    """A child in a session and with an environment of its own; known by its parent alone."""
    say(f"pid {run('env', '-i', 'setsid', 'sleep', LONG)}")


def wiped_daemon() -> None:
    """Has neither mark nor parent, and what it was born with as output still leads to exeio."""
    def wipe() -> None:
        say(f"pid {os.getpid()}")
        os.execve("/bin/sleep", ["sleep", LONG], {})
    daemon(wipe)


def own_group() -> None:
    in_child(lambda: (os.setpgid(0, 0), ignore_term()))


def fork_loop() -> None:
    """Two hundred in a row, each of which outlives what it was made by."""
    ignore_term()
    for _ in range(199):
        in_child(lambda: None)


def chain() -> None:
    """Runs away: every few milliseconds a new process in a new session, and the one before ends.

    All of them hold a lock on the file GO.held, and only they. It ends after a minute, should no test be able to.
    """
    def link() -> None:
        fcntl.flock(os.open(f"{sys.argv[2]}.held", os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
        ignore_term()
        no_output()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
            os.setsid()
            time.sleep(0.005)
    in_child(link)


def closed_output() -> None:
    say("ready")
    no_output()


def stopped() -> None:
    say("ready")
    os.kill(os.getpid(), signal.SIGSTOP)


def executes() -> None:
    """Becomes another program, without the mark."""
    say(f"pid {os.getpid()}")
    script = f"echo ready; while [ ! -e '{sys.argv[2]}' ]; do sleep 0.05; done"
    os.execve("/bin/sh", ["sh", "-c", script], {"PATH": os.environ["PATH"]})


def writes_on() -> None:
    """A grandchild goes on writing when its parent has died."""
    def write() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        number = 0
        while True:
            with contextlib.suppress(OSError):
                say(f"line {number} with parent {os.getppid()}")
            number += 1
            time.sleep(0.02)
    in_child(write)


def clone_parent() -> None:
    """Its child is a child of exeio's (clone(2), CLONE_PARENT)."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert SYS_CLONE is not None
    if libc.syscall(SYS_CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os.setsid()
        os.execv("/bin/sleep", ["sleep", LONG])


def main_thread_ends() -> None:
    """A daemon of which only another thread lives on: /proc calls it a zombie (pthread_exit(3))."""
    def end() -> None:
        ignore_term()
        no_output()
        threading.Thread(target=time.sleep, args=(1000,)).start()
        assert SYS_EXIT is not None
        ctypes.CDLL(None).syscall(SYS_EXIT, 0)
    daemon(lambda: (say(f"pid {os.getpid()}"), end()))


def traced() -> None:
    """Traced by its own child, which would have to be told of its end before exeio is, and does not wait for it."""
    read, write = os.pipe()

    def trace() -> None:
        assert ctypes.CDLL(None).ptrace(PTRACE_SEIZE, os.getppid(), 0, 0) == 0
        os.write(write, b"1")
    in_child(trace)
    os.read(read, 1)


CHILDREN: Dict[str, Callable[[], None]] = {
    one.__name__.replace("_", "-"): one
    for one in (plain, leader_ignores, grandchild_ignores, setsid_nohup, double_fork, wiped, wiped_daemon, own_group,
                fork_loop, chain, closed_output, stopped, executes, writes_on, clone_parent, main_thread_ends,
                traced)}


def main() -> None:
    name, go = sys.argv[1:]
    CHILDREN[name]()
    if name != "closed-output":
        with contextlib.suppress(OSError):
            say("ready")
    while not os.path.exists(go):
        time.sleep(0.02)
    os._exit(0)


# For the tests.

def command(name: str, go: Path) -> Dict[str, Any]:
    """The fields `command` and `args` of a child."""
    return {"command": sys.executable, "args": ["-ISs", str(Path(__file__).resolve()), name, str(go)]}


def stat(pid: int) -> Optional[Tuple[str, int, int]]:
    """State, parent and start time of a process; None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[1]), int(fields[19])


def alive(pid: int) -> bool:
    """Whether there is such a process, and no zombie: one of its threads lives."""
    states = []
    with contextlib.suppress(OSError):  # it ends meanwhile
        for task in os.listdir(f"/proc/{pid}/task"):
            states.append(Path(f"/proc/{pid}/task/{task}/stat").read_bytes().rpartition(b") ")[2][:1])
    return not set(states) <= {b"Z", b"X"}


def children(pid: int) -> List[int]:
    """The children of a process, those in the middle of a spawn among them."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):  # the thread has ended
            found += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return found


def environment(pid: int) -> bytes:
    """What it was started with; also where its main thread has ended, which has none any more."""
    own = Path(f"/proc/{pid}/environ").read_bytes()
    others = [] if own else os.listdir(f"/proc/{pid}/task")
    return next(filter(None, (Path(f"/proc/{pid}/task/{task}/environ").read_bytes() for task in others)), own)


def marks(instance: str) -> Dict[int, Tuple[str, str]]:
    """The living processes with this instance's mark: pid → (process id, run as the mark has it)."""
    found = {}
    for pid in pids():
        with contextlib.suppress(OSError):
            for variable in environment(pid).split(b"\0"):
                name, _, value = variable.partition(b"=")
                for mark in value.decode("utf-8", "replace").split(",") if name == b"EXEIO_RUN" else ():
                    if mark.startswith(instance + "/"):
                        found[pid] = (mark.split("/")[1], mark.split("/")[2])
    return found


def pids() -> List[int]:
    """All processes there are."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def zombies(parent: int) -> List[int]:
    """The children of a process that are dead and not reaped."""
    return [pid for pid in pids() if (stat(pid) or ())[:2] == ("Z", parent)]


@contextlib.contextmanager
def held(path: Path) -> Iterator[Callable[[], None]]:
    """Make whoever opens or executes this file wait, until the function that this gives is called (fcntl(2), leases).

    So a spawn can be made to hang and go on at will. The kernel breaks a lease by itself after 45 s.
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # it tells the holder that somebody waits
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def let_go() -> None:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    try:
        yield let_go
    finally:
        os.close(fd)


@contextlib.contextmanager
def slow_program(folder: Path) -> Iterator[Tuple[str, Callable[[], None]]]:
    """A script whose interpreter cannot be executed before it is let go: its path, and the function that does it."""
    interpreter = folder / "interpreter"
    interpreter.write_bytes(Path("/bin/sh").read_bytes())
    interpreter.chmod(0o755)
    script = folder / "slow"
    script.write_text(f"#!{interpreter}\nexec sleep 1000\n")
    script.chmod(0o755)
    with held(interpreter) as let_go:
        yield str(script), let_go


if __name__ == "__main__":
    main()
