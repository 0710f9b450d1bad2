"""`exeio serve`: the order in which things come up, what main waits for, and the order in which they go down.

Up: folders, lock, configuration, socket, then children; so whatever fails before that leaves no child behind.
Down: nothing new starts, everything is stopped, the last answers are sent, the lock is given back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Callable, Dict, Iterator, List, Optional, Set, Tuple

from . import __version__, birth, proctree, threads
from .access import Keys
from .api import Api
from .calls import Parts
from .echo import Echo
from .errors import ExeioError, StartupError, print_error
from .instance import InstanceLock, instance_id, read_run_json, remove_run_json, write_run_json
from .lifecycle import Exit
from .listeners import Listeners
from .logfile import LogFile
from .machine import Machine
from .notify import Notifier
from .proctree import Member
from .recovery import Ending, Leftovers
from .reload import begin, leftover_manner, leftovers_gone, leftovers_stuck, reload
from .runstate import RunState
from .settings import ApiKey, Folders, ServeOptions, find_folders, read_again, read_only_key, server_key
from .store import SavedProcess, Store
from .supervisor import LogDefaults, Supervisor

if TYPE_CHECKING:
    from .hook import Hook

#: Seconds that requests in flight have for their answers once everything is stopped.
_LAST_ANSWERS = 2.0
#: Seconds to wait for a thread that should have ended.
_JOIN = 2.0
#: Seconds that a shutdown may take beyond the longest grace: SIGKILL, strays, last answers.
_BEYOND_GRACE = 30.0
#: Seconds that init may take to reap what was ended to make room.
_ROOM_SECONDS = 5.0
#: Stands among the numbers of signals for a shutdown that was asked for without one.
_REQUESTED = 0


def run(options: ServeOptions, listening: Callable[[], None] = lambda: None) -> int:
    """Run the supervisor until it is told to stop; returns the exit status.

    `listening` is called once, when clients can connect and the banner was printed. Raises StartupError when it cannot
    start; no child was started then.
    """
    if sys.platform.startswith("linux") and not proctree.supported():
        raise StartupError("there is no /proc here, and without it exeio cannot see what belongs to a process; "
                           "mount it: mount -t proc proc /proc")
    birth.reset_inherited()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    folders = find_folders(options.config_dir, options.data_dir, os.environ)
    warnings = folders.create()
    with contextlib.ExitStack() as stack:
        lock = InstanceLock()
        lock.acquire(folders.data_dir)
        stack.callback(lock.release)
        key = server_key(options, folders, os.environ)
        read_only = read_only_key(options, key, os.environ)
        store = Store(folders.processes_file)
        try:
            saved = store.load()
        except ExeioError as error:
            raise StartupError(error.message) from None
        finally:
            for warning in warnings + key.warnings() + (read_only.warnings() if read_only else []) + _dangers(options):
                print_error(f"exeio: warning: {warning}")
        return _Service(options, folders, (key, read_only), store, instance_id(folders.data_dir)).run(saved, listening)


def _dangers(options: ServeOptions) -> List[str]:
    found = []
    if options.tls_cert is not None:
        from . import tls

        found += tls.warnings(options.tls_cert, options.tls_key)
    elif options.port is not None and options.host in ("0.0.0.0", "::", ""):
        found.append(f"listening on all addresses ({options.host}) without TLS: the key and all output can be read on "
                     "the way; give --tls-cert, put a proxy with TLS in front, or bind 127.0.0.1")
    if os.geteuid() == 0:
        found.append("running as root: processes without a user of their own run as root, too")
    return found


class _Service:
    """The parts of a running exeio."""

    def __init__(self, options: ServeOptions, folders: Folders, keys: Tuple[ApiKey, Optional[ApiKey]],
                 store: Store, instance: str) -> None:
        self.options = options
        self.exit_status = 0
        self.folders = folders
        self.key, self.read_only = keys
        self.signals = _Signals()
        self.notify = Notifier(os.environ)
        self.log = LogFile(folders.system_log, options.log_max_bytes, options.log_backups, "")
        self.runstate = RunState(folders.runs_file)
        try:
            self.leftovers = Leftovers(instance, self.runstate.load(), self.runstate.last_seen)
            # Whoever is killed leaves run.json; without one there is nobody to look for, in all of /proc.
            self.crashed = bool(self.leftovers.runs) or read_run_json(folders.data_dir) is not None
            self.machine = Machine(instance, options.stop_timeout, self.runstate, self.log.system)
        except OSError as error:
            raise StartupError(f"cannot start: {error.strerror}: {error.filename or 'no descriptor left'}") from None
        echo = options.echo if options.echo is not None else sys.stdout.isatty()
        self.echo = Echo(sys.stdout.fileno(), sys.stdout.isatty(), options.echo_raw) if echo else None
        logs = LogDefaults(folders.logs_dir, options.log_max_bytes, options.log_backups)
        self.supervisor = Supervisor(self.machine, store, logs, self.echo.lines if self.echo else None)
        self.hook: Optional[Hook] = None
        if options.on_event is not None:
            from .hook import Hook  # few want one

            self.hook = Hook(options.on_event, self.machine, self.log.system)
        if options.exit_with is not None:
            self.machine.over = self._over
        # Held while the files of keys and certificate are read anew, so that the last reading counts.
        self._rereading = threading.Lock()
        self.keys = Keys(self.key.value, self.log.system, self.read_only.value if self.read_only else None)
        parts = Parts(self.supervisor, self.log, self.signals.shut_down)
        api = Api(parts, self.keys)
        self.listeners = Listeners(options, api, self._fault, api.observe)
        parts.url = self.listeners.urls[0]
        self.log.address = self.supervisor.address = self.listeners.address

    def run(self, saved: List[SavedProcess], listening: Callable[[], None]) -> int:
        """Start, wait for the end, and shut down; returns the exit status."""
        proctree.become_subreaper()
        try:
            urls = self.listeners.urls
            # The last is the Unix socket, where there is one: for a client on this machine it needs no certificate.
            try:
                write_run_json(self.folders.data_dir, os.getpid(), urls[-1], urls=urls, version=__version__)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # A full disk shall not keep processes from being supervised.
                print_error(f"exeio: warning: run.json cannot be written ({error.strerror}): clients have to be told "
                            "--url")
            self.log.system("exeio process supervisor started")
            self._start_threads(saved)
        except (OSError, RuntimeError) as error:
            self.listeners.close()
            trouble = str(error)
            if isinstance(error, OSError):
                trouble = f"cannot write to {self.folders.data_dir}: {error.strerror}; make room there, or choose " \
                          "another folder with --data-dir"
            raise StartupError(f"cannot start: {trouble}") from None
        with self.signals.handled(self.machine.ender.wakeup_fd):
            # Clients can connect since the socket was made, and get their answer when the saved processes are known.
            self._begin(saved)
            try:
                self.listeners.start()
            except RuntimeError as error:  # no room for threads, after all
                self._shut_down(by_signal=False)
                raise StartupError(f"cannot start: {error}; raise the limit of processes and threads") from None
            self._print_banner()
            if self.echo is not None:
                self.echo.open()
            listening()
            self.notify.beat((self.machine.watchdog, self.machine.ender))
            self.notify.ready(self._status())
            while (number := self.signals.wait()) == signal.SIGHUP:
                # In a thread: a process that is slow to stop shall not keep main from a SIGTERM.
                with contextlib.suppress(RuntimeError):
                    threading.Thread(target=self._reload, name="exeio-reload", daemon=True).start()
            self._shut_down(by_signal=number != _REQUESTED)
        return self.exit_status

    def _begin(self, saved: List[SavedProcess]) -> None:
        """End what a killed predecessor left, and start the saved processes, each when its own leftovers are gone."""
        found = self.leftovers.find() if self.crashed else {}
        self._runs_are_over(lambda id: id not in found)
        begin(self.supervisor, saved, found)
        if found:
            self._ending(saved, found).start()

    def _start_threads(self, saved: List[SavedProcess]) -> None:
        """Start those that run to the end. Raises RuntimeError."""
        for thread in (self.machine.ender, self.machine.watchdog, self.echo, self.hook):
            if thread is None:
                continue
            try:
                thread.start()
            except RuntimeError:
                found = self.leftovers.find() if self.crashed else {}
                if not found:
                    raise
                self._ending(saved, found).here()  # it may be them who take the room
                threads.insist(thread.start, _ROOM_SECONDS)

    def _ending(self, saved: List[SavedProcess], found: Dict[str, Set[Member]]) -> Ending:
        """Say what is left of earlier runs; returns what ends it."""
        specs = {entry.spec.id: entry.spec for entry in saved}
        for id, members in sorted(found.items()):
            pids = ", ".join(str(member.pid) for member in sorted(members))
            self.log.system(f"{id}: ending what is left of an earlier run, of an exeio that was killed (pid {pids})")

        def gone(id: str) -> None:
            self.log.system(f"{id}: nothing is left of its earlier run")
            self._runs_are_over(lambda other: other == id)
            leftovers_gone(self.supervisor, id)

        def stuck(id: str, pids: List[int]) -> None:
            self.log.system(f"{id}: still there after SIGKILL: pid {', '.join(map(str, pids))}, of its earlier run")
            leftovers_stuck(self.supervisor, id, pids)

        return Ending(self.leftovers, found, lambda id: leftover_manner(self.supervisor, specs, id), gone, stuck)

    def _runs_are_over(self, of: Callable[[str], bool]) -> None:
        """Note the end of a predecessor's runs: their pids may be given to others from now on."""
        for run in self.leftovers.runs:
            if of(run.id):
                with contextlib.suppress(OSError):  # a line too many, and a look in vain at the next start
                    self.runstate.exited(run.id, run.run, run.pid)

    def _print_banner(self) -> None:
        shown = self.key.generated or sys.stdout.isatty()
        where = self.key.value if shown else f"kept in {self.key.source.replace('the file ', '')}" \
            if self.key.path else f"as given with {self.key.source}"
        note = "with the above key" if shown else f"with the key {'from ' if self.key.path else 'of '}{self.key.source}"
        lines = [f"Process Supervisor starting {self._place()}",
                 f"API Key: {where}",
                 f"NOTE: All endpoints except /info require the 'exeio-api-key' header {note}",
                 f"Logs directory: {self.folders.logs_dir}",
                 f"Config file: {self.folders.processes_file}"]
        if len(self.listeners.urls) > 1:
            lines.append(f"Unix socket: {self.listeners.unix_path}")
        with contextlib.suppress(OSError):  # nobody reads stdout, or its disk is full: no reason not to run
            # Past Python's buffer, which would try again at the exit, and fail then.
            os.write(sys.stdout.fileno(), os.fsencode("\n".join(lines) + "\n"))

    def _place(self) -> str:
        """Return where it listens, as the banner's first line says it."""
        if self.listeners.tcp is None:
            return f"on the Unix socket {self.listeners.unix_path}"
        host, _, port = self.listeners.address.rpartition(":")
        return f"on port {port} at {host.strip('[]')}"

    def _read_again(self) -> None:
        """SIGHUP: take keys and certificate as their files have them now; what cannot be read stays as it is."""
        try:
            key, read_only = read_again(self.key, self.read_only)
            if (key, read_only) != (self.key, self.read_only):
                self.key, self.read_only = key, read_only
                self.keys.replace(key.value, read_only.value if read_only else None)
                self.log.system("SIGHUP: the keys were read anew")
        except ExeioError as error:
            self.log.system(f"SIGHUP: the keys stay as they were: {error.message}")
        try:
            if self.listeners.read_certificate():
                self.log.system("SIGHUP: the certificate was read anew")
        except ExeioError as error:
            self.log.system(f"SIGHUP: the certificate stays as it was: {error.message}")

    def _over(self, id: str, exit: Optional[Exit]) -> None:
        """`--exit-with`: exeio ends with that process, and as it did; the numbers are a shell's."""
        if id != self.options.exit_with:
            return
        if exit is None:
            self.exit_status = 127
        else:
            self.exit_status = exit.code if exit.code is not None else 128 + (exit.signal or 0)
        self.log.system(f"{id} is over, and --exit-with names it: exeio ends with status {self.exit_status}")
        self.signals.shut_down()

    def _status(self) -> str:
        return f"Serving {self.listeners.urls[0]}"

    def _reload(self) -> None:
        """SIGHUP: apply what was edited: the files of keys and certificate, and processes.json."""
        with self.notify.reloading(self._status()):
            self._apply_edits()

    def _apply_edits(self) -> None:
        with self._rereading:
            self._read_again()
        try:
            results = reload(self.supervisor)
        except ExeioError as error:
            self.log.system(f"SIGHUP: nothing was changed: {error.message}")
            return
        self.log.system(f"SIGHUP: processes.json applied, {len(results)} changed")
        for result in results:
            self.log.system(f"SIGHUP: {result['id']}: {result['message']}")

    def _shut_down(self, by_signal: bool) -> None:
        with self.machine.lock:
            self.machine.closing = True  # before it is said: nothing new starts from here on
            grace = max([self.machine.stop_timeout, *(self.machine.manner(one.spec)[1] for one in
                                                      self.machine.processes.values())])
        self.log.system("shutting down")
        if self.hook is not None:
            self.hook.close(_JOIN + 1)
        self.notify.stopping(grace + self.machine.stop_timeout + _BEYOND_GRACE)
        hurry = threading.Thread(target=self._hurry_on_signal, args=(by_signal,), name="exeio-hurry", daemon=True)
        try:
            hurry.start()
        except RuntimeError:
            self.signals.hand_over()
        clean = self.supervisor.shutdown()
        for run in self.machine.live_runs():
            run.abandon()
        self.listeners.stop(_LAST_ANSWERS)
        deadline = time.monotonic() + _JOIN
        for run in self.machine.live_runs():
            run.join(max(0.0, deadline - time.monotonic()))
        self.notify.close(_JOIN)
        self.machine.watchdog.close(_JOIN)
        self.machine.ender.close(_JOIN)
        if self.echo is not None:
            self.echo.close(_JOIN)
        self.keys.sum_up()
        self.log.system("exeio process supervisor stopped" if clean else
                        "exeio process supervisor stopped, though something survived SIGKILL")
        self.log.close()
        self.runstate.close()
        if clean:
            remove_run_json(self.folders.data_dir)

    def _hurry_on_signal(self, had_one: bool) -> None:
        """A second SIGTERM or SIGINT skips the grace; a second request does not, since clients repeat theirs.

        Does not return: it passes on the signals of children, too.
        """
        while True:
            if self.signals.wait() in (signal.SIGHUP, _REQUESTED):
                continue
            if had_one:
                self.log.system("a second signal: the grace period is skipped")
                self.machine.ender.hurry()
                self.leftovers.hurry()
            had_one = True

    def _fault(self, text: str) -> None:
        """A fault of exeio itself: the line goes to exeio.log, a traceback to stderr as well."""
        self.log.system(text.split("\n", 1)[0] + (": " + text.rstrip().rsplit("\n", 1)[-1] if "\n" in text else ""))
        if "\n" in text:
            print_error(text)


class _Signals:
    """Signals as a queue: Python's own handler in C writes their numbers to a pipe, and `wait` reads it.

    Not handlers in Python: those run in main alone, and only once main is awake. A signal that the kernel gives to
    another thread, or that comes just before main blocks, would wait there with it.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._children = -1
        self._come = b""  # what was read and not returned yet; one thread at a time waits

    def shut_down(self) -> None:
        """Ask for the shutdown, for the API and `--exit-with`; `wait` then returns _REQUESTED."""
        _put(self._write, _REQUESTED)

    def wait(self) -> int:
        """Block until a signal comes that is not of children, and return it; those of children are passed on."""
        while not self._come:
            come = os.read(self._read, 4096)  # a stop of many is as many signals of children
            if signal.SIGCHLD in come:
                _put(self._children, signal.SIGCHLD)
            self._come = come.replace(bytes([signal.SIGCHLD]), b"")
        number, self._come = self._come[0], self._come[1:]
        return number

    def hand_over(self) -> None:
        """Pass on all signals as those of children from now on: nobody is there to wait."""
        signal.set_wakeup_fd(self._children, warn_on_full_buffer=False)

    @contextlib.contextmanager
    def handled(self, children_fd: int) -> Iterator[None]:
        """Take the signals; for those of children a byte is written to `children_fd`."""
        self._children = children_fd
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        # The handler in C needs one in Python; that has nothing to do.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _nothing)
        try:
            yield
        finally:
            # Python gives signals with a handler back to the system at its exit, and one that comes then would kill
            # an exeio that has ended well; those that are ignored stay ignored.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)


def _put(fd: int, number: int) -> None:
    with contextlib.suppress(BlockingIOError):  # 65,536 signals wait: enough of them
        os.write(fd, bytes([number]))


def _nothing(number: int, frame: Optional[FrameType]) -> None:
    """The pipe has told already."""
