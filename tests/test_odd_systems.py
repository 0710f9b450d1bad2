"""Systems that lack something: no pidfd, no list of children, no room for more; pid 1; a clock that is set back."""

import calendar
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import nasty
import pytest
from support import NOT_HERE, PROGRAM, ROOT, Server, clean_environment, need, wait_for

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason=f"{NOT_HERE}needs Linux")
root = pytest.mark.skipif(os.geteuid() != 0, reason=f"{NOT_HERE}needs root")

#: A module that Python imports at its start, before exeio: it takes away what another system does not have.
WITHOUT_PIDFD = "import os\ndel os.pidfd_open\n"
WITHOUT_CHILDREN = """
import os.path
_exists = os.path.exists
os.path.exists = lambda path: _exists(path) and not str(path).endswith("/children")
"""
WITHOUT_PIPES_OPENED_ANEW = """
import os
_open = os.open
def open(path, *arguments, **more):
    if str(path).startswith("/proc/self/fd/"):
        raise FileNotFoundError(2, "No such file or directory", path)
    return _open(path, *arguments, **more)
os.open = open
"""


class Customised(Server):
    """A server whose interpreter runs some code first."""

    def __init__(self, code, *options, env=None):
        super().__init__(*options, env=env)
        (self.folder / "site").mkdir()
        (self.folder / "site" / "sitecustomize.py").write_text(code)

    def command(self):
        return ["env", f"PYTHONPATH={self.folder / 'site'}", *super().command()]


@pytest.fixture
def customised():
    made = []

    def start(code, *options):
        made.append(Customised(code, *options))
        return made[-1].start()

    yield start
    for server in made:
        server.close()


@linux
@pytest.mark.parametrize("code", [WITHOUT_PIDFD, WITHOUT_CHILDREN, WITHOUT_PIPES_OPENED_ANEW],
                         ids=["no pidfd", "no list of children", "no pipe opened anew"])
def test_a_whole_life_without_it(customised, code):
    server = customised(code)
    server.sh("web", "exec sleep 300", auto_restart=True, min_uptime_seconds=0)
    first = server.get("/status/web")["pid"]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: server.get("/status/web")["pid"] not in (None, first))
    server.sh("quick", "exit 7")
    server.wait_status("quick", "failed")
    assert server.get("/status/quick")["exit_code"] == 7
    server.sh("tree", "(setsid sh -c 'trap \"\" TERM; echo up; sleep 300' &); sleep 300", stop_timeout_seconds=0.3)
    wait_for(lambda: "STDOUT: up" in server.log("tree"))
    server.post("/stop/tree")
    server.sh("left", "setsid sleep 300 & exit 0")
    server.wait_status("left", "stopped")
    server.post("/stop-all")
    assert server.left() == []
    wait_for(lambda: zombies(server.pid) == [])


def zombies(parent):
    found = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(parent)], capture_output=True, text=True,
                           check=False).stdout
    return [line for line in found.splitlines() if "Z" in line]


@linux
def test_the_callers_limit_of_descriptors_reaches_children_also_when_exeio_raised_its_own():
    server = Server()
    limits = f"ulimit -Sn 200 && ulimit -Hn {hard_limit()} && exec \"$@\""
    plain = server.command
    server.command = lambda: ["sh", "-c", limits, "sh", *plain()]
    try:
        server.start()
        for number in range(45):  # five descriptors each: more than 200
            server.sh(f"p{number}", "exec sleep 300")
        with open(f"/proc/{server.pid}/limits") as file:
            assert "Max open files            200 " not in file.read(), "exeio has not raised its own"
        server.sh("shown", "ulimit -Sn; ulimit -Hn; exec sleep 300")
        wait_for(lambda: server.log("shown").count("STDOUT: ") == 2)
        assert re.findall(r"STDOUT: (\d+|unlimited)", server.log("shown")) == ["200", str(hard_limit())]
    finally:
        server.close()


def hard_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)


@linux
@root
def test_where_no_more_processes_can_be_made_the_rest_goes_on():
    user = 64999  # an account with no processes of its own, whoever else runs here
    python = next((one for one in (sys.executable, "/usr/bin/python3") if runs_as(user, one)), None)
    if python is None:
        pytest.skip(f"{NOT_HERE}no Python that another account may run")
    server = Server()
    os.chown(server.folder, user, user)
    shutil.copy2(PROGRAM, server.folder)
    shutil.copytree(ROOT / "exeio_core", server.folder / "exeio_core", ignore=shutil.ignore_patterns("__pycache__"))
    options = server.command()[server.command().index(str(PROGRAM)) + 1:]
    limited = ("import os, resource, sys; resource.setrlimit(resource.RLIMIT_NPROC, (40, 40)); os.setgroups([]); "
               f"os.setgid({user}); os.setuid({user}); os.execv(sys.argv[1], sys.argv[1:])")
    server.command = lambda: [sys.executable, "-c", limited, python, "-W", "error", str(server.folder / "exeio.py"),
                              *options]
    try:
        server.start()
        started = []
        while len(started) < 30:  # three each: the process and the two threads of its run
            id = f"p{len(started)}"
            status, answer = server.call("POST", "/add", {"id": id, "command": "sleep", "args": ["300"]})
            if status != 200:
                break
            started.append(id)
        # The thread of the connection may be the one that could not be made.
        assert status == 503 and re.search("no room to start|too many connections", answer["message"]), answer
        assert started

        def answered():
            status, answer = server.call("GET", "/list")
            return status == 200 and answer

        listed = wait_for(answered)  # a moment after another client the one thread that is left may be with that
        assert sorted(one["id"] for one in listed) == sorted(started)
        assert all(one["status"] == "running" for one in listed)
        for id in started[:6]:
            wait_for(lambda id=id: server.call("POST", f"/remove/{id}")[0] in (200, 404))
        wait_for(lambda: server.call("POST", "/add", {"id": "again", "command": "sleep", "args": ["300"]})[0] == 200)
    finally:
        server.close()


def runs_as(user, python):
    """Whether another account may run this interpreter, and it is new enough."""
    script = (f"import os, sys; os.setgroups([]); os.setgid({user}); os.setuid({user}); "
              "os.execv(sys.argv[1], [sys.argv[1], '-c', 'import sys; sys.exit(sys.version_info < (3, 9))'])")
    return subprocess.run([sys.executable, "-c", script, python], capture_output=True, check=False).returncode == 0


#: Threads for children are to be had, and then none any more for the clients.
WITHOUT_HTTP_THREAD = """
import threading
_start = threading.Thread.start
def start(self):
    if self.name.startswith("exeio-http"):
        raise RuntimeError("can't start new thread")
    _start(self)
threading.Thread.start = start
"""


def test_a_start_without_a_thread_for_clients_is_one_line_and_leaves_no_process():
    server = Customised(WITHOUT_HTTP_THREAD)
    try:
        server.config_dir.mkdir(mode=0o700)
        (server.config_dir / "processes.json").write_text('[{"id": "web", "command": "sleep", "args": ["600"]}]')
        result = subprocess.run(server.command(), env=clean_environment(server.folder), capture_output=True, text=True,
                                timeout=30, check=False)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert result.stderr.splitlines()[-1].startswith("exeio: cannot start: can't start new thread; raise the limit")
        assert server.left() == []
    finally:
        server.close()


#: No thread is to be had while the process lives that FULL names.
FULL = """
import os, threading
_start = threading.Thread.start
def start(self):
    try:
        with open(f"/proc/{os.environ['FULL']}/stat") as file:
            full = file.read().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        full = False
    if full and self.name.startswith("exeio-"):
        raise RuntimeError("can't start new thread")
    _start(self)
threading.Thread.start = start
"""
#: None is to be had for what ends leftovers.
WITHOUT_RECOVERY_THREAD = WITHOUT_HTTP_THREAD.replace("exeio-http", "exeio-recovery")


@linux
@pytest.mark.parametrize("code", [FULL, WITHOUT_RECOVERY_THREAD], ids=["no-thread", "none-for-recovery"])
def test_leftovers_that_take_all_the_room_do_not_keep_exeio_from_starting(servers, code):
    """It did not start for want of threads, or died of it, and nobody ended what takes them."""
    first = servers()
    got = first.folder / "got"
    traps = " ".join(f"trap 'echo {name} > {got}; exit' {name};" for name in ("TERM", "USR1"))
    # A shell tells on stderr how its child ended; nobody reads that any more.
    script = f"{traps} exec 2> /dev/null; echo ready; while :; do sleep 0.05; done"
    first.sh("p", script, save_for_next_run=True, stop_signal="USR1")
    wait_for(lambda: "STDOUT: ready" in first.log("p"))
    left = first.get("/status/p")["pid"]
    first.kill()
    second = Customised(code, env={"FULL": str(left)})
    try:
        for one in ("config", "data"):
            shutil.copytree(first.folder / one, second.folder / one)
        second.start()
        second.wait_status("p", "running")
        assert second.get("/status/p")["pid"] != left and not nasty.alive(left)
        assert got.read_text() == "USR1\n"
        assert "p: nothing is left of its earlier run" in second.log("exeio")
    finally:
        second.close()


@linux
@root
def test_as_pid_1_it_reaps_orphans_and_stops_on_sigterm():
    probe = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"{NOT_HERE}a pid namespace cannot be made: {probe.stderr.decode().strip()}")
    server = Server()
    plain = server.command
    server.command = lambda: ["unshare", "--pid", "--fork", "--mount-proc", *plain()]
    try:
        server.start()
        assert server.get("/info")["pid"] == 1
        inner = int(subprocess.run(["pgrep", "-P", str(server.pid)], capture_output=True, text=True,
                                   check=True).stdout)
        server.sh("web", "(setsid sleep 0.1 &) ; (setsid env -i sleep 300 &) ; exec sleep 300")
        wait_for(lambda: zombies(inner) == [] and len(children(inner)) == 2)
        server.post("/stop/web")
        assert children(inner) == []
        server.sh("late", "exec sleep 300")
        os.kill(inner, signal.SIGTERM)
        assert server.process.wait(15) == 0
        server.process = None
    finally:
        server.close()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        own = file.read().split()
    threads = [task for task in os.listdir(f"/proc/{pid}/task") if task != str(pid)]
    for task in threads:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                own += file.read().split()
        except FileNotFoundError:
            continue  # the thread has ended
    return own


#: The wall clock goes back by an hour when a file appears; nothing that is due may notice.
SET_CLOCK = """
import os, sys, time
_time, _trigger = time.time, os.path.join(os.path.dirname(__file__), "set")
time.time = lambda: _time() - (3600 if os.path.exists(_trigger) else 0)
"""


def test_a_clock_that_is_set_back_delays_and_doubles_nothing(customised):
    server = customised(SET_CLOCK)
    server.add("tick", "true", periodic=True, period_seconds=0.5)
    server.sh("crash", "exit 1", auto_restart=True, restart_delay_seconds=0.5, restart_delay_max_seconds=0.5)
    wait_for(lambda: server.get("/status/tick")["run_count"] >= 2)
    (server.folder / "site" / "set").touch()
    began, ticks, crashes = time.monotonic(), *(server.get(f"/status/{id}")["run_count"] for id in ("tick", "crash"))
    wait_for(lambda: server.get("/status/tick")["run_count"] >= ticks + 6, 20)
    more = server.get("/status/crash")["run_count"] - crashes
    took = time.monotonic() - began
    assert 2.0 < took < 20
    assert 1 < more <= took / 0.45 + 1
    # What people read is on the wall clock as it is now.
    shown = server.get("/status/tick")
    due = wait_for(lambda: server.get("/status/tick")["next_run"])
    assert time.time() - 3610 < seconds(due) < time.time() - 3590, shown


def seconds(text):
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))


@linux
def test_a_schedule_that_slept_runs_once_and_says_what_it_skipped(server):
    server.add("tick", "true", periodic=True, period_seconds=0.2)
    wait_for(lambda: server.get("/status/tick")["run_count"] >= 2)
    before = time.monotonic()
    server.signal(signal.SIGSTOP)
    wait_for(lambda: time.monotonic() > before + 1.5)
    server.signal(signal.SIGCONT)
    # One that was under way when exeio fell asleep is what took too long; else the time had passed.
    skipped = wait_for(lambda: [int(number) for number in re.findall(r"skipped (\d+) runs: ", server.log("tick"))
                                if int(number) >= 4])
    assert len(skipped) == 1 and skipped[0] <= (time.monotonic() - before) / 0.2 + 1


def test_a_periodic_process_remembers_its_last_20_runs(server):
    server.sh("tick", "exit $(( $(date +%s%N) % 2 ))", periodic=True, period_seconds=0.1)
    wait_for(lambda: server.get("/status/tick")["run_count"] >= 23, 30)
    history = server.get("/status/tick")["history"]
    assert len(history) == 20
    numbers = [run["run"] for run in history]
    assert numbers == list(range(numbers[0], numbers[0] - 20, -1))
    assert {run["exit_code"] for run in history} <= {0, 1}
    assert all(run["duration_seconds"] >= 0 and run["started_at"].endswith("Z") for run in history)


def test_it_gives_up_after_max_restarts_and_a_start_begins_anew(server):
    server.sh("crash", "exit 3", auto_restart=True, max_restarts=2, restart_delay_seconds=0.05)
    shown = server.wait_status("crash", "failed")
    assert (shown["run_count"], shown["restarts"], shown["exit_code"]) == (3, 2, 3)
    assert shown["status_reason"].startswith("gave up after 2 automatic restarts in a row without a good run")
    server.post("/start/crash")
    wait_for(lambda: server.get("/status/crash")["run_count"] == 6)
    server.wait_status("crash", "failed")


@linux
@root
def test_without_proc_it_says_what_to_do(tmp_path):
    """In a bare chroot. What belongs to a process could not be seen, and so no stop would ever be done."""
    need("unshare")
    hidden = 'mount -t tmpfs none /proc && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden, "sh", sys.executable, str(PROGRAM), "--port", "0"],
        env=clean_environment(tmp_path), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "there is no /proc here" in done.stderr and "mount -t proc proc /proc" in done.stderr


@pytest.mark.parametrize("words", [["--port", "0"], ["list"], ["list", "--help"]])
def test_a_python_that_was_taken_apart_is_one_line(tmp_path, words):
    """Debian's python3-minimal has no json."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['json'] = None\n")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *words], env=clean_environment(tmp_path, {"PYTHONPATH": str(tmp_path)}),
        capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "exeio: this Python {}.{} has no module 'json', though it belongs to the standard library; install all "
        "of it (on Debian and Ubuntu the package python3; python3-minimal is not enough)\n".format(*sys.version_info))


def test_what_needs_no_folder_runs_where_the_own_one_was_deleted():
    server = Server()
    gone = server.folder / "gone"
    gone.mkdir()
    plain = server.command()
    server.command = lambda: ["sh", "-c", f'cd {gone} && rmdir {gone} && exec "$@"', "sh", *plain]
    try:
        server.start()
        server.sh("by-path", "echo here; exec sleep 100")
        server.add("by-name", "sleep", "100", working_dir="/")
        status, answer = server.call("POST", "/add", {"id": "no", "command": "./no"})
        assert (status, answer["message"]) == (400, "command './no': No such file or directory")
    finally:
        server.close()
