"""How a child comes into the world: its command, environment, user and limits, and what a failed spawn means.

Everything is checked before the fork, because after it all errors of exec read "No such file or directory".
"""

from __future__ import annotations

import contextlib
import errno
import functools
import grp
import itertools
import json
import os
import pwd
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

from . import proctree
from .errors import ExeioError, Invalid, Unavailable
from .spec import ProcessSpec

#: What `clear_env` leaves of exeio's own environment.
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ")
#: What was meant for exeio alone and is never passed on; its own settings neither (see `_is_setting`).
WITHHELD = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID",
            "LISTEN_FDNAMES", "CREDENTIALS_DIRECTORY")
#: The system has no room now; the same spawn may work later.
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC)

if sys.version_info[:2] == (3, 10):
    # vfork holds the GIL until the child's exec is done on 3.10: an exec that took 1 s (strace delay) stopped all
    # threads for 1.0 s there, and for 0.009 s on 3.11 to 3.13; 3.9 has no vfork.
    subprocess._USE_VFORK = False  # type: ignore[attr-defined]

# All of Python's descriptors are close-on-exec; but a spawn that hangs in its exec holds copies of what others have
# just made, the pipes among them by which Popen learns of an exec, and then those spawns hang, too. Since 3.11 closing
# them beforehand is a matter of one close_range(2) (400 spawns: 0.6 s instead of 1.3); before it takes 1.5 times as
# long, for a moment that is rare.
_CLOSE_FDS = sys.version_info >= (3, 11)


class Person(NamedTuple):
    """Who a child runs as: ids for Popen, and the variables that belong to the account."""

    user: Optional[int]
    group: Optional[int]
    extra_groups: Optional[List[int]]
    env: Dict[str, str]

    def ids(self) -> Dict[str, object]:
        """Return what is to be changed, as Popen's arguments."""
        given = {"user": self.user, "group": self.group, "extra_groups": self.extra_groups}
        return {name: value for name, value in given.items() if value is not None}


def reset_inherited() -> None:
    """Give this process the signal dispositions, mask and descriptors a child shall find: the default ones.

    Ignored signals and a blocked mask pass through exec; descriptors that were inherited by exeio would as well,
    where children are spawned with `close_fds=False`. Called once at start by the main thread.
    """
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN and number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # exeio itself must not be killed by writing to a closed pipe or to a file past RLIMIT_FSIZE; Popen restores
    # both (and SIGXFSZ) in the child.
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for entry in os.listdir(folder):
        if entry.isdigit() and int(entry) > 2:
            try:
                os.set_inheritable(int(entry), False)
            except OSError:
                pass  # the descriptor of the listing itself, closed by now


def environment(spec: ProcessSpec, mark: str, person: Person) -> Dict[str, str]:
    """Return the environment of a run; `mark` says whose it is, behind the marks of an exeio around this one."""
    env = dict(_inherited(spec.clear_env))
    if person.user is not None:
        for name in [name for name in env if name.startswith("XDG_")]:
            del env[name]  # folders and a session of exeio's own account
        env.update(person.env)
    for name, value in spec.env.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    env[proctree.MARK] = _outer_marks(mark.partition("/")[0]) + mark
    return env


@functools.cache
def _outer_marks(instance: str) -> str:
    """Return the marks of an exeio around this one, which stay, each with a comma behind it.

    One of an earlier self (that started this one as its child) would be taken for a run of today's.
    """
    marks = os.environ.get(proctree.MARK, "").split(",")
    return "".join(f"{one}," for one in marks if one and not one.startswith(f"{instance}/"))


@functools.cache
def _inherited(clear: bool) -> Mapping[str, str]:
    """Return what every run gets of exeio's own environment, which does not change: read once, not for 20 us a run."""
    own = os.environ
    return {name: own[name] for name in (KEPT if clear else own)
            if name in own and name not in WITHHELD and not _is_setting(name)}


def _is_setting(name: str) -> bool:
    """Return whether a variable is an option of this exeio: one that it supervises must not use its folders and key."""
    return name.startswith("EXEIO_") and name not in (proctree.MARK, "EXEIO_URL")


def find_person(spec: ProcessSpec) -> Person:
    """Return who `spec` runs as; raises Invalid for names that do not exist or a change that takes root."""
    if spec.user is None and spec.group is None:
        return Person(None, None, None, {})
    root = os.geteuid() == 0
    group = None if spec.group is None else _group_id(spec.group)
    if not root and group not in (None, os.getgid(), os.getegid()):  # also to one that it is in beside its own
        raise Invalid(f"group {spec.group!r}: only root can change to it, and exeio does not run as root", "group")
    if spec.user is None:
        return Person(None, group, None, {})
    try:
        account = pwd.getpwuid(int(spec.user)) if spec.user.isdigit() else pwd.getpwnam(spec.user)
    except (KeyError, OverflowError):
        raise Invalid(f"user {spec.user!r}: there is no such account on this machine", "user") from None
    variables = {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name,
                 "SHELL": account.pw_shell or "/bin/sh"}
    if not root:
        if account.pw_uid != os.geteuid():
            raise Invalid(f"user {spec.user!r}: only root can change to it, and exeio does not run as root", "user")
        return Person(None, group, None, variables)
    main = account.pw_gid if group is None else group
    return Person(account.pw_uid, main, os.getgrouplist(account.pw_name, main), variables)


def _group_id(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise Invalid(f"group {name!r}: there is no such group on this machine", "group") from None


#: Seconds for which PATH is not searched again (17 folders of it: a twentieth of an `/add`), and when and where the
#: last program was found, by command, PATH and folder.
_FOUND_SECONDS = 0.02
_last_found: Dict[Tuple[str, str, Optional[str]], Tuple[float, str]] = {}


def find_command(spec: ProcessSpec, env: Mapping[str, str]) -> str:
    """Return the path of the program; raises Invalid in the system's words when there is none to run."""
    folder = spec.working_dir
    if folder is not None:
        number = 0
        try:
            if not stat.S_ISDIR(os.stat(folder).st_mode):
                number = errno.ENOTDIR
            elif not os.access(folder, os.X_OK):
                number = errno.EACCES
        except OSError as error:
            number = error.errno or errno.EIO
        if number:
            raise Invalid(f"working_dir {folder!r}: {os.strerror(number)}", "working_dir")
    worst = errno.ENOENT
    key = (spec.command, env.get("PATH", os.defpath), folder)
    found_at, last = _last_found.get(key, (0.0, ""))
    known = [last] if time.monotonic() - found_at < _FOUND_SECONDS else []
    for place in itertools.chain(known, _places(spec, env)):
        if not os.access(place, os.F_OK):  # half of what a stat costs, and most folders of a PATH do not have it
            continue
        try:
            found = os.stat(place)
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode):
            if os.access(place, os.X_OK):
                _check_interpreter(spec, place, found)
                if not known:
                    _last_found.clear()  # one after the other is all that this is for
                    _last_found[key] = (time.monotonic(), place)
                return place
            worst = errno.EACCES
        elif "/" in spec.command and stat.S_ISDIR(found.st_mode):
            worst = errno.EISDIR
    raise Invalid(_command_trouble(spec, os.strerror(worst)), "command")


def _places(spec: ProcessSpec, env: Mapping[str, str]) -> Iterator[str]:
    """Yield where the program may be, in the order of PATH, in which an empty entry is the folder of the run."""
    folders = [""] if "/" in spec.command else env.get("PATH", os.defpath).split(os.pathsep)
    for folder in folders:
        # Put together by hand: os.path.join, and all of a PATH at once, took 60 of 1,700 us of an `/add`.
        place = f"{folder}{'' if folder.endswith('/') else '/'}{spec.command}" if folder else spec.command
        if not place.startswith("/"):
            try:
                place = os.path.join(os.path.abspath(spec.working_dir or "."), place)
            except FileNotFoundError:  # exeio's own folder is deleted by now: nothing is found in it, but in PATH
                pass
        yield place


def _check_interpreter(spec: ProcessSpec, path: str, found: os.stat_result) -> None:
    try:
        first = _first_line(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    except OSError:
        return  # not readable is not wrong: a program may be executable only
    words = first[2:].split()
    if first.startswith(b"#!") and words:
        interpreter = os.fsdecode(words[0])
        if not os.path.exists(os.path.join(spec.working_dir or ".", interpreter)):
            raise Invalid(f"command {spec.command!r}: {os.strerror(errno.ENOENT)}: the interpreter {interpreter!r} "
                          f"that its first line names", "command")


@functools.lru_cache(maxsize=256)
def _first_line(path: str, _version: Tuple[int, ...]) -> bytes:
    """Return how a file begins, read once for each version of it. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return file.read(256).split(b"\n", 1)[0]


def _command_trouble(spec: ProcessSpec, words: str) -> str:
    text = f"command {spec.command!r}: {words}"
    parts = _split(spec.command)
    if " " in spec.command and parts:
        first, *rest = parts
        text += (f"; a command is one program, its arguments go into args: "
                 f'"command": {_json(first)}, "args": {_json([*rest, *spec.args])}')
    return text


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _split(command: str) -> List[str]:
    """Return the words of a command line as a shell would have them."""
    import shlex  # only after a mistake

    try:
        return shlex.split(command)
    except ValueError:  # a quotation mark is missing
        return command.split()


def check_entry(spec: ProcessSpec, person: Person) -> None:
    """Raise Invalid where the user of a run may not enter its folder, Unavailable where that cannot be found out.

    Popen enters it before the user is changed. The system is asked in a process of that user, so that access lists and
    file systems with rules of their own count, too.
    """
    if spec.working_dir is None or person.user in (None, os.geteuid()):
        return
    try:
        answer = subprocess.run(
            ["/bin/sh", "-c", 'cd "$0"', os.path.join(".", spec.working_dir)], env={}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, close_fds=_CLOSE_FDS,
            check=False, **person.ids())  # type: ignore[call-overload]
    except OSError as error:
        raise failure(spec, error) from None
    if answer.returncode > 0:
        words = f"{os.strerror(errno.EACCES)} for user {spec.user!r}"
        raise Invalid(f"working_dir {spec.working_dir!r}: {words}", "working_dir")


def check_nice(nice: Optional[int]) -> None:
    """Raise Invalid when exeio may not set this nice value; it is set on the child after its birth."""
    if nice is None or os.geteuid() == 0 or nice >= os.getpriority(os.PRIO_PROCESS, 0):
        return
    limit = getattr(resource, "RLIMIT_NICE", None)
    lowest = 20 - resource.getrlimit(limit)[0] if limit is not None else 20
    if nice < lowest:
        raise Invalid(f"nice {nice}: lower than exeio's own takes root (setpriority(2))", "nice")


class DescriptorLimit:
    """Raises exeio's own soft limit of descriptors when it gets near, and keeps children at the caller's.

    Setting it back in the child with prlimit(2) after the spawn loses the race (198 of 200 under load), so from
    then on children are spawned through a shell's `ulimit -Sn` (0.5 ms more).
    """

    def __init__(self) -> None:
        # Guards the three fields; never held while spawning.
        self._lock = threading.Lock()
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._bare = 0        # spawns under way that would hand on whatever the limit is
        self._wanted = False  # near the limit: wrap from now on, raise once no bare spawn is under way

    def wrap(self, arguments: List[str], path: str) -> Tuple[List[str], str, bool]:
        """Return the argument list and program to execute, and whether it is bare; pair it with `spawned`."""
        with self._lock:
            if not self._wanted:
                self._bare += 1
                return arguments, path, True
        script = f'ulimit -Sn {self._soft} && exec "$@"'
        return ["/bin/sh", "-c", script, "sh", path, *arguments[1:]], "/bin/sh", False

    def spawned(self, bare: bool, descriptor: int) -> None:
        """Take note that a spawn is over and how high descriptors have got; raises the limit when it is time."""
        with self._lock:
            self._bare -= bare
            if not self._wanted and self._soft != resource.RLIM_INFINITY and descriptor > self._soft * 3 // 4:
                self._wanted = True
            if self._wanted and self._bare == 0 and resource.getrlimit(resource.RLIMIT_NOFILE)[0] == self._soft:
                try:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (self._hard, self._hard))
                except (OSError, ValueError):
                    pass  # macOS refuses "unlimited"; then EMFILE is met where it comes


_LIMIT = DescriptorLimit()


def no_descriptor_left() -> None:
    """Take note that there is none for a spawn: connections may have taken them, so that no spawn has seen it come."""
    _LIMIT.spawned(False, sys.maxsize)


@contextlib.contextmanager
def _encodable() -> Iterator[None]:
    """Raise Invalid for a text that the locale exeio was started in cannot hand to the system."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise Invalid(f"{error.object[error.start:error.end]!r} cannot be written in the locale that exeio was started "
                      f"in ({error.encoding}); start it in one of UTF-8, such as LC_ALL=C.UTF-8") from None


@_encodable()
def check(spec: ProcessSpec) -> None:
    """Raise Invalid when `spec` cannot be started as things are: command, folder, user, nice."""
    person = find_person(spec)
    find_command(spec, environment(spec, "", person))
    check_entry(spec, person)
    check_nice(spec.nice)


@_encodable()
def spawn(spec: ProcessSpec, mark: str, streams: Tuple[int, int, int],
          ready: Callable[[], None]) -> subprocess.Popen[bytes]:
    """Spawn a run of `spec` in a session of its own, and return it.

    `streams` are stdin, stdout and stderr, as Popen takes them. `ready` is called when everything has been checked, and
    the child is about to be made.

    Raises Invalid (command, folder, permission, user, too long) or Unavailable (descriptors, processes, memory).
    """
    person = find_person(spec)
    env = environment(spec, mark, person)
    path = find_command(spec, env)
    check_entry(spec, person)
    check_nice(spec.nice)
    more = person.ids()
    if spec.umask is not None:
        more["umask"] = int(spec.umask, 8)
    arguments, program, bare = _LIMIT.wrap([spec.command, *spec.args], path)
    highest = 0
    ready()
    try:
        child: subprocess.Popen[bytes] = subprocess.Popen(
            arguments, executable=program, cwd=spec.working_dir, env=env, bufsize=0, close_fds=_CLOSE_FDS,
            stdin=streams[0], stdout=streams[1], stderr=streams[2], start_new_session=True,
            **more)  # type: ignore[call-overload]
        highest = max(streams)
    except OSError as error:
        if error.errno == errno.EMFILE:
            highest = sys.maxsize
        raise failure(spec, error) from None
    except UnicodeEncodeError:
        raise  # a ValueError, too
    except ValueError as error:  # a NUL that slipped into the environment of exeio itself
        raise Invalid(f"command {spec.command!r}: {error}", "command") from None
    finally:
        _LIMIT.spawned(bare, highest)
    if spec.nice is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, child.pid, spec.nice)
        except OSError:
            pass  # it has ended already, or gave itself away to another user: it was permitted just before
    return child


def failure(spec: ProcessSpec, error: OSError) -> ExeioError:
    """Return what an OSError of a spawn means."""
    words = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return Unavailable(f"the system has no room to start {spec.id!r} now: {words}")
    if error.errno == errno.E2BIG:
        return Invalid(f"args: {words}: arguments and environment together are longer than this system takes", "args")
    named: Union[str, bytes, None] = error.filename
    if spec.working_dir is not None and named == spec.working_dir:
        return Invalid(f"working_dir {spec.working_dir!r}: {words}", "working_dir")
    return Invalid(_command_trouble(spec, words), "command")
