"""The life of regular and periodic processes on a real server: starts, ends, restarts, schedules, and what is left."""

import contextlib
import datetime
import itertools
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nasty
import pytest
from support import GLIBC_SIGNALS, NOT_HERE, Server, room_for_one, wait_for

from exeio_core import birth, ending, intent, proctree
from exeio_core.child import Run
from exeio_core.errors import Conflict, Failed, Invalid, Unavailable
from exeio_core.logfile import LogFile, LogQuery
from exeio_core.machine import Machine
from exeio_core.reader import Reader
from exeio_core.runstate import RunState, Spawned
from exeio_core.spares import Spares
from exeio_core.spec import ProcessSpec
from exeio_core.store import Store
from exeio_core.supervisor import LogDefaults, Supervisor

LINUX = sys.platform == "linux"
pytestmark = pytest.mark.skipif(not LINUX, reason=f"{NOT_HERE}looks into /proc")
LONG = "exec sleep 600"
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def shared():
    """One server for the tests that leave the others' processes alone."""
    one = Server().start()
    yield one
    one.close()


_numbers = itertools.count(1)


@pytest.fixture
def id(shared):
    """An id of its own for a test, and all that begin so are removed after it; nobody of them may be left then."""
    made = f"p{next(_numbers)}"
    yield made
    for shown in shared.get("/list"):
        if shown["id"].startswith(made):
            shared.call("POST", f"/update/{shown['id']}", {"stop_timeout_seconds": 0})
            shared.post(f"/remove/{shown['id']}?purge=true")
    left = [pid for pid, mark in marks(shared) if mark.split("/")[1].startswith(made) and not mark.endswith("p")]
    assert left == []


@pytest.fixture
def through():
    """Starts servers through a shell script that sets something up and then executes `"$@"`."""
    made = []

    class Through(Server):
        def command(self):
            return ["/bin/sh", "-c", self.script, "sh", *super().command()]

    def start(script, *options, env=None):
        one = Through(*options, env=env)
        one.script = script
        made.append(one)
        return one.start()

    yield start
    for one in made:
        one.close()


def marks(server):
    """The living processes of a server as (pid, mark)."""
    instance = (server.data_dir / "instance-id").read_text().strip()
    found = []
    for pid in pids():
        with contextlib.suppress(OSError):
            for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if variable.startswith(b"EXEIO_RUN="):
                    own = [mark for mark in variable[10:].decode().split(",") if mark.startswith(instance + "/")]
                    found += [(pid, mark) for mark in own]
    return found


def pids():
    """The numbers of all processes; Path.glob would fail for one that ends meanwhile."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def members(server, id):
    """The pids of what lives of one process, its children too."""
    return sorted(pid for pid, mark in marks(server) if mark.split("/")[1] == id)


def only(server, id, pid):
    """This one lives of a process (None: nobody) and never another; one in the middle of an exec is not seen yet."""
    def found():
        seen = members(server, id)
        assert set(seen) <= {pid}, (seen, pid)
        return pid is None or seen
    wait_for(found)


def stat(pid):
    """State, parent, group and session of a process, None when it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
        return (fields[0].decode(), *map(int, fields[1:4]))
    return None


def gone(pid):
    """Whether a process has ended; a zombie has."""
    found = stat(pid)
    return found is None or found[0] in "ZX"


def zombies(server):
    """The children of the server that have ended and are not reaped."""
    found = []
    for pid in pids():
        one = stat(pid)
        if one is not None and one[0] == "Z" and one[1] == server.pid:
            found.append(pid)
    return found


def status_of(pid):
    """/proc/PID/status by name."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def environment_of(pid):
    """The environment a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def pid_of(server, id):
    """The pid as listed; its exec is over, so that what /proc tells is about the program."""
    def settled():
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/environ").read_bytes() or gone(pid)  # the last that an exec puts in place
        return True

    pid = server.get(f"/status/{id}")["pid"]
    if pid is not None:
        wait_for(settled)
    return pid


def lines_of(server, id, stream=""):
    """The texts in a log without their stamps, those of one stream."""
    found = []
    for line in server.log(id).splitlines():
        kind, _, text = line.partition("] ")[2].partition(": ")
        if kind.startswith(stream):
            found.append(text)
    return found


def in_thread(function, *arguments):
    """Runs a call beside the test; `.result()` waits for it and gives its answer."""
    box = []
    thread = threading.Thread(target=lambda: box.append(function(*arguments)))
    thread.start()

    def result():
        thread.join(30)
        assert box, "the call did not end, or failed"
        return box[0]
    result.over = lambda: bool(box)
    return result


def at_once(*calls):
    """The answers of calls (function, arguments …) that start at the same moment."""
    gate = threading.Barrier(len(calls))

    def run(function, arguments):
        gate.wait(10)
        return function(*arguments)
    results = [in_thread(run, function, arguments) for function, *arguments in calls]
    return [result() for result in results]


# The end of a process


@pytest.mark.parametrize("more", [{}, {"auto_restart": True, "restart_delay_seconds": 60}], ids=["once", "again"])
def test_an_exit_is_seen_at_once_though_the_pipe_stays_open(shared, id, more):
    """What holds it ignores SIGTERM, so that the time between exit and end can be looked at."""
    shared.sh(id, "trap '' TERM; sleep 99 & exit 0", stop_timeout_seconds=30, **more)
    shown = wait_for(lambda: [one for one in [shared.get(f"/status/{id}")] if one["exit_code"] is not None])[0]
    assert (shown["status"], shown["is_running"], shown["pid"], shown["exit_code"]) == ("stopping", False, None, 0)
    # What is in the middle of an exec shows no environment.
    [sleeper] = wait_for(lambda: members(shared, id), what="the sleep")
    os.kill(sleeper, signal.SIGKILL)
    shared.wait_status(id, "stopped", "backoff")
    assert members(shared, id) == [], "what it left behind has ended before anything else goes on"
    assert zombies(shared) == []


def test_an_exit_is_seen_at_once_though_it_closed_its_output_itself(shared, id):
    shared.sh(id, f"exec >&- 2>&-; {LONG}")
    pid = pid_of(shared, id)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}/fd/1"))
    assert shared.get(f"/status/{id}")["status"] == "running", "the end of its output is not its end"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: shared.get(f"/status/{id}")["status"] == "failed")


@pytest.mark.parametrize("more", [
    {}, {"auto_restart": True, "min_uptime_seconds": 0}, {"auto_restart": True, "restart_delay_seconds": 60},
], ids=["once", "at once", "later"])
def test_what_has_ended_is_never_listed_as_running(shared, id, more):
    shared.sh(id, LONG, **more)
    pid = pid_of(shared, id)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: gone(pid))
    wait_for(lambda: pid_of(shared, id) != pid, what="the pid as listed")
    for _ in range(30):
        shown = shared.get(f"/status/{id}")
        assert shown["pid"] != pid
        assert shown["is_running"] is (shown["pid"] is not None)
        assert shown["pid"] is None or not gone(shown["pid"])


def test_no_zombies_and_nobody_of_a_crowd_is_left(shared, id):
    """Short lives, orphans, and orphans that left group and session; each end is noticed."""
    scripts = ("exit 0", "sleep 0 & exit 1", "setsid sleep 600 & exit 0",
               "(sh -c 'sleep 600 & setsid sleep 600') & exit 0",
               "setsid sh -c '(sleep 0.01; exit 3) & (sleep 0.02) & exit' & sleep 0.03")
    for number, script in enumerate(scripts * 4):
        shared.sh(f"{id}-{number}", script)
    for number in range(4 * len(scripts)):
        shared.wait_status(f"{id}-{number}", "stopped", "failed")
        assert members(shared, f"{id}-{number}") == []
    wait_for(lambda: zombies(shared) == [], 2)


def test_the_last_lines_come_before_the_exit_in_the_log(shared, id):
    loop = "i=0; while [ $i -lt 3000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    for number in range(4):
        shared.sh(f"{id}-{number}", f"{loop}; printf 'no newline'; exit 4")
    for number in range(4):
        shared.wait_status(f"{id}-{number}", "failed")
        lines = lines_of(shared, f"{id}-{number}")
        assert lines[0].startswith("started with pid ")
        assert re.fullmatch(r"exited with code 4 after \d+\.\d+ s", lines[-1])
        assert lines_of(shared, f"{id}-{number}", "STDOUT") == [*(f"out {i}" for i in range(3000)), "no newline"]
        assert lines_of(shared, f"{id}-{number}", "STDERR") == [f"err {i}" for i in range(3000)]


def test_the_last_bytes_of_a_stream_are_read_before_its_end():
    """poll(2) tells of both at once; a hang-up alone is the end."""
    class Stream:
        fed = b""

        def feed(self, data):
            self.fed += data

    ours, childs = os.pipe()
    os.set_blocking(ours, False)
    stream = Stream()
    reader = Reader(ours, None, stream)
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    os.write(childs, b"last words")
    os.close(childs)
    reader.serve(poll.poll()[0][1])
    assert (stream.fed, reader.open) == (b"last words", True)
    reader.serve(poll.poll()[0][1])
    assert (stream.fed, reader.open) == (b"last words", False)
    os.close(ours)


def test_output_never_comes_before_the_start_in_the_log(tmp_path):
    """The thread of stderr could be ahead of the one that spawns and logs the start."""
    drained = threading.Event()

    class Slow(LogFile):
        def system(self, message):
            if message.startswith("started"):
                run.wait_exit()
                drained.wait(0.2)  # nobody sets it yet: time for the other thread
            super().system(message)

    class Owner:
        def spawning(self, run):
            pass

        def spawned(self, run):
            run.note_exit(run.peek_exit(), 0.5)
            run.look(False)

        def drained(self, run):
            run.reap()
            run.finish(False)
            run.poke()

        def ended(self, run):
            drained.set()

    log = Slow(str(tmp_path / "p.log"), 0, 0, "here")
    spec = ProcessSpec.from_json({"id": "p", "command": "sh", "args": ["-c", "echo trouble >&2"]})
    run = Run(spec, 1, "0123456789abcdef/p/1", log, Owner())
    run.launch(Spares(0))
    assert drained.wait(10)
    log.close()
    lines = [line.split(": ", 1)[1] for line in (tmp_path / "p.log").read_text().splitlines()]
    assert lines == [f"started with pid {run.pid}", "trouble", "exited with code 0 after 0.500 s"]


def test_the_exit_comes_after_the_output_also_when_a_leftover_goes_on_writing(shared, id):
    shared.sh(id, "trap '' TERM; echo one; (while :; do echo noise; sleep 0.01; done) & echo two >&2; exit 0",
              stop_timeout_seconds=30)

    def before():
        lines = lines_of(shared, id)
        end = next((place for place, line in enumerate(lines) if line.startswith("exited")), len(lines))
        return lines[end + 1 :].count("noise") > 3 and lines[:end]
    found = wait_for(before, what="what the leftover writes after the exit")
    for pid in members(shared, id):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shared.wait_status(id, "stopped")
    assert {"one", "two"} <= set(found)


def test_exit_codes_and_signals_as_logged(shared, id):
    shared.sh(id, "exit 255")
    shared.sh(id + "s", "kill -SEGV $$")
    assert shared.wait_status(id, "failed")["exit_code"] == 255
    assert shared.wait_status(id + "s", "failed")["exit_signal"] == "SIGSEGV"
    assert lines_of(shared, id, "SYSTEM")[-1].startswith("exited with code 255 after ")
    assert lines_of(shared, id + "s", "SYSTEM")[-1].startswith("killed by SIGSEGV")


def test_the_file_tells_of_an_exit_at_once_though_others_live_on(shared, id):
    """Nobody reads the log through the API here."""
    shared.sh(id, "trap '' TERM; sleep 99 & exit 0", stop_timeout_seconds=30)
    wait_for(lambda: "exited with code 0" in (shared.logs / f"{id}.log").read_text())
    assert shared.get(f"/status/{id}")["status"] == "stopping", "all is over: that shows nothing"
    for pid in members(shared, id):
        os.kill(pid, signal.SIGKILL)


def test_the_file_tells_of_a_stop_soon(shared, id):
    """The answer does not wait for that; who asks for the log sees it in any case."""
    shared.sh(id, "echo up; exec sleep 300")
    wait_for(lambda: "STDOUT: up" in shared.log(id))
    shared.post(f"/stop/{id}")
    wait_for(lambda: (shared.logs / f"{id}.log").read_text().endswith(": Process stopped manually\n"))
    last = [line.split("] ")[1].split(": ", 1)[1] for line in (shared.logs / f"{id}.log").read_text().splitlines()[-3:]]
    assert last[0] == "up" and last[1].startswith("killed by SIGTERM after ")


def test_the_files_tell_of_a_stop_of_all_when_it_is_answered(server):
    """The threads of the runs sleep on while so many end."""
    for number in range(20):
        server.sh(f"p{number}", f"echo {number}; exec sleep 300")
    wait_for(lambda: all(server.log(f"p{number}").endswith(f"STDOUT: {number}\n") for number in range(20)))
    server.post("/stop-all")
    for number in range(20):
        last = [line.split("] ")[1].split(": ", 1)[1] for line in server.log(f"p{number}").splitlines()[-3:]]
        assert last[0] == str(number) and last[1].startswith("killed by SIGTERM after "), last
        assert last[2] == "Process stopped manually"


READS_ITSELF = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for fd in (1, 2):
    if os.fork() == 0:
        pipe = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        while True:
            os.read(pipe, 65536)
if sys.argv[1] == "leave":
    sys.stdout.write("half a line")
    sys.exit(3)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("leader", ["leave", "stay"])
def test_one_that_reads_its_own_output_can_be_stopped(shared, id, leader):
    """It takes what it has written out of the pipe again, and what wakes exeio's readers, which goes through it."""
    shared.add(id, sys.executable, "-c", READS_ITSELF, leader, stop_timeout_seconds=0.3)
    if leader == "leave":
        assert shared.wait_status(id, "failed")["exit_code"] == 3
    shared.post(f"/stop/{id}")
    assert members(shared, id) == []
    assert sum("exited with" in one or "killed by" in one for one in lines_of(shared, id, "SYSTEM")) == 1
    shared.post(f"/remove/{id}")


def test_somebody_who_reads_a_pipe_of_output_holds_up_nothing(shared, id):
    """`cat /proc/PID/fd/1` also takes what wakes exeio's reader: a run stayed "stopping" for ever."""
    thieves = []
    try:
        for number in range(12):
            one = f"{id}-{number}"
            shared.sh(one, "printf half; printf half >&2; exec sleep 300")
            pid = shared.get(f"/status/{one}")["pid"]
            wait_for(lambda one=one: shared.get(f"/logs/{one}").get("partial", "").count("half") == 2)
            for fd in (1, 2):
                thieves.append(subprocess.Popen(["cat", f"/proc/{pid}/fd/{fd}"], stdout=subprocess.DEVNULL))
        for number in range(12):
            shared.post(f"/stop/{id}-{number}")
            lines = lines_of(shared, f"{id}-{number}")
            assert lines.count("half") == 2 and lines[-1] == "Process stopped manually"
    finally:
        for thief in thieves:
            thief.kill()
            thief.wait()


def test_a_core_dump_is_noted(shared, id, tmp_path):
    script = f"ulimit -c unlimited; cd {tmp_path}; kill -SEGV $$"
    with subprocess.Popen(["sh", "-c", script]) as probe:
        if not os.WCOREDUMP(os.waitpid(probe.pid, 0)[1]):
            pytest.skip(NOT_HERE + "core dumps")
        probe.returncode = 0
    shared.sh(id, script)
    assert shared.wait_status(id, "failed")["status_reason"].startswith("killed by SIGSEGV (core dumped) after ")
    assert lines_of(shared, id, "SYSTEM")[-1].startswith("killed by SIGSEGV (core dumped) after ")


def test_a_program_that_comes_earlier_in_path_is_found_there(shared, id, tmp_path):
    """The last search of PATH counts for a moment only."""
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()

    def put(folder):
        tool = tmp_path / folder / "tool"
        tool.write_text(f"#!/bin/sh\necho from {folder}\nexec sleep 300\n")
        tool.chmod(0o755)

    put("second")
    shared.add(id, "tool", env={"PATH": f"{tmp_path}/first:{tmp_path}/second:/bin:/usr/bin"})
    wait_for(lambda: "from second" in shared.log(id))
    put("first")

    def runs_the_first():
        shared.post(f"/restart/{id}")
        return wait_for(lambda: lines_of(shared, id, "STDOUT")[-1:]) == ["from first"]

    wait_for(runs_the_first)
    (tmp_path / "first" / "tool").unlink()
    shared.post(f"/restart/{id}")
    wait_for(lambda: lines_of(shared, id, "STDOUT")[-1] == "from second")


def test_what_is_in_the_middle_of_an_exec_is_not_taken_for_nobodys(monkeypatch):
    """`setsid x & exit` left x behind under load: for a moment of its exec it has no environment to be read."""
    looks = []

    def in_exec(path):
        looks.append(path)
        return b"" if len(looks) < 20 else read(path)

    read = proctree._read
    child = subprocess.Popen(["sleep", "600"], env={"EXEIO_RUN": "outer/a/1,inner/b/2", "PATH": os.environ["PATH"]})
    bare = subprocess.Popen(["sleep", "600"], env={})
    try:
        wait_for(lambda: all(read(f"/proc/{one.pid}/cmdline").startswith(b"sleep") for one in (child, bare)))
        monkeypatch.setattr(proctree, "_read", in_exec)
        monkeypatch.setattr(proctree, "_EXEC_SECONDS", 30)
        assert proctree.marks(child.pid) == ["outer/a/1", "inner/b/2"]
        assert len(looks) >= 20
        monkeypatch.setattr(proctree, "_read", read)
        begun = time.monotonic()
        assert proctree.marks(bare.pid) == []
        assert time.monotonic() - begun < 15, "none is not waited for as long"
    finally:
        for one in (child, bare):
            one.kill()
            one.wait()
    begun = time.monotonic()
    for pid in pids():  # threads of the kernel, and whatever else there is
        proctree.marks(pid)
    assert proctree.marks(child.pid) == [] and time.monotonic() - begun < 15


# Stop


def test_a_stop_ends_the_whole_tree(shared, id):
    """Children, grandchildren, and those that left the group or the session."""
    shared.sh(id, "sleep 601 & (sleep 602 & sleep 603) & setsid sleep 604 & "
                  "nohup setsid sh -c 'sleep 605 & sleep 606' & sleep 607")

    def sleepers():
        lines = []
        for pid in members(shared, id):
            with contextlib.suppress(OSError):
                lines.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        return {line for line in lines if line.startswith(b"sleep\0")}
    wait_for(lambda: sleepers() == {b"sleep\x00%d\x00" % number for number in range(601, 608)}, what="all of the tree")
    shared.post(f"/stop/{id}")
    assert members(shared, id) == []
    wait_for(lambda: lines_of(shared, id, "SYSTEM")[-1] == "Process stopped manually")


def test_what_ignores_the_stop_signal_takes_its_grace_and_delays_nobody(shared, id):
    shared.sh(id, DEAF, stop_timeout_seconds=5)
    wait_for(lambda: "ready" in shared.log(id))
    begun = time.monotonic()
    stopping = in_thread(shared.post, f"/stop/{id}")
    shared.wait_status(id, "stopping")
    times = []
    while not stopping.over():
        asked = time.monotonic()
        shown = [one for one in shared.get("/list") if one["id"] == id][0]
        times.append(time.monotonic() - asked)
        assert shown["is_running"] is (shown["pid"] is not None)
    took = time.monotonic() - begun
    assert stopping()["success"] and 5 <= took < 20
    assert len(times) > 10 and sorted(times)[len(times) // 2] < 1, "nobody waits for the stop"
    shown = shared.get(f"/status/{id}")
    assert (shown["status"], shown["exit_signal"]) == ("manually_stopped", "SIGKILL")
    assert members(shared, id) == []


def test_the_stop_signal_is_the_one_asked_for_and_a_quick_end_takes_no_grace(shared, id):
    shared.sh(id, "trap 'echo int; exit 5' INT; trap '' TERM; echo ready; while :; do sleep 0.02; done",
              stop_signal="INT", stop_timeout_seconds=60)
    wait_for(lambda: "ready" in shared.log(id))
    begun = time.monotonic()
    shared.post(f"/stop/{id}")
    assert time.monotonic() - begun < 5
    shown = shared.get(f"/status/{id}")
    assert (shown["status"], shown["exit_code"]) == ("manually_stopped", 5)
    assert "int" in lines_of(shared, id, "STDOUT")


def test_what_is_suspended_can_be_stopped(shared, id):
    shared.sh(id, "trap 'echo term; exit 0' TERM; echo ready; while :; do sleep 0.02; done", stop_timeout_seconds=60)
    wait_for(lambda: "ready" in shared.log(id))
    shared.post(f"/signal/{id}", {"signal": "STOP", "group": True})
    wait_for(lambda: stat(pid_of(shared, id))[0] in "TD")  # D: between vfork and the exec of a child that is stopped
    assert shared.get(f"/status/{id}")["status"] == "running"
    shared.post(f"/stop/{id}")
    assert "term" in lines_of(shared, id, "STDOUT"), "it had its chance: SIGCONT came with the stop signal"


def test_kill_mode_process_leaves_the_others_alone(shared, id):
    script = f"(trap '' HUP; sleep 0.2; echo later; exec sleep 600) & {LONG}"
    shared.sh(id, script, kill_mode="process")
    wait_for(lambda: len(members(shared, id)) >= 2)
    main = pid_of(shared, id)
    shared.post(f"/stop/{id}")
    left = wait_for(lambda: members(shared, id))
    assert main not in left
    wait_for(lambda: "later" in lines_of(shared, id, "STDOUT"), what="its output, which is still logged")
    shared.post(f"/start/{id}")
    assert shared.get(f"/status/{id}")["status"] == "running"
    wait_for(lambda: lines_of(shared, id, "STDOUT").count("later") == 2)
    main = pid_of(shared, id)
    for pid in wait_for(lambda: [one for one in [set(members(shared, id)) - {main}] if len(one) == 2])[0]:
        os.kill(pid, signal.SIGKILL)


def test_kill_mode_process_leaves_the_others_alone_also_when_it_has_to_kill(shared, id):
    """What had been adopted was killed with a leader that ignores the stop signal."""
    shared.sh(id, "(exec sleep 600) & trap '' TERM; echo ready; while :; do sleep 0.05; done", kill_mode="process",
              stop_timeout_seconds=0.3)
    wait_for(lambda: "ready" in lines_of(shared, id, "STDOUT"))
    left = wait_for(lambda: next((pid for pid in members(shared, id)
                                  if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00"), None))
    shared.post(f"/stop/{id}")
    assert shared.get(f"/status/{id}")["exit_signal"] == "SIGKILL" and nasty.alive(left)
    os.kill(left, signal.SIGKILL)


def groups(server, id):
    """The process groups of all that belong to a process now."""
    found = set()
    for pid in members(server, id):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            found.add(os.getpgid(pid))
    return found


def test_a_start_while_it_stops_waits_for_the_end(shared, id):
    shared.sh(id, DEAF, stop_timeout_seconds=0.4)
    first = pid_of(shared, id)
    wait_for(lambda: "ready" in shared.log(id))
    assert shared.call("POST", f"/stop/{id}?wait=false")[0] == 202
    shared.post(f"/start/{id}")
    assert gone(first)
    shown = shared.get(f"/status/{id}")
    assert (shown["status"], shown["run_count"]) == ("running", 2) and shown["pid"] != first
    wait_for(lambda: groups(shared, id) == {shown["pid"]})


def test_a_second_stop_while_it_stops_waits_as_well(shared, id):
    shared.sh(id, DEAF, stop_timeout_seconds=0.4)
    wait_for(lambda: "ready" in shared.log(id))
    answers = at_once(*[(shared.post, f"/stop/{id}")] * 4)
    assert all(answer["success"] for answer in answers)
    assert members(shared, id) == []
    # The answer does not wait for the line, which another thread writes.
    wait_for(lambda: lines_of(shared, id, "SYSTEM").count("Process stopped manually") == 1)


# Automatic restarts


def test_rapid_exits_are_restarted_later_and_later(shared, id):
    shared.sh(id, "date +%s.%N; exit 3", auto_restart=True, restart_delay_seconds=0.1, restart_delay_max_seconds=0.3,
              max_restarts=4)
    shown = shared.wait_status(id, "failed")
    assert (shown["restarts"], shown["run_count"], shown["is_running"]) == (4, 5, False)
    assert shown["status_reason"].startswith("gave up after 4 automatic restarts in a row without a good run: exited")
    wait_for(lambda: lines_of(shared, id, "SYSTEM")[-1] == shown["status_reason"])
    begun = [float(line) for line in lines_of(shared, id, "STDOUT")]
    pauses = [later - earlier for earlier, later in zip(begun, begun[1:])]
    said = [float(re.fullmatch(r"restarting in (\d\.\d+) s", line)[1]) for line in lines_of(shared, id, "SYSTEM")
            if line.startswith("restarting")]
    for pause, delay, wanted in zip(pauses, said, (0.1, 0.2, 0.3, 0.3)):
        assert wanted * 0.9 - 0.001 <= delay <= wanted * 1.1 + 0.001
        assert delay - 0.002 <= pause < delay + 5
    assert len(said) == len(pauses) == 4


def test_a_start_by_request_begins_the_count_of_restarts_anew(shared, id):
    fields = {"auto_restart": True, "restart_delay_seconds": 0.01, "restart_delay_max_seconds": 0.01, "max_restarts": 2}
    shared.sh(id, "exit 3", **fields)
    assert shared.wait_status(id, "failed")["run_count"] == 3
    for what, count in (("start", 6), ("restart", 9)):
        shared.post(f"/{what}/{id}")
        shown = wait_for(lambda count=count: [one for one in [shared.get(f"/status/{id}")] if one["run_count"] == count
                                              and one["status"] == "failed"])[0]
        assert shown["restarts"] == count * 2 // 3


def test_a_process_in_backoff_says_when_it_is_due_and_can_be_started_at_once(shared, id):
    shared.sh(id, "exit 3", auto_restart=True, restart_delay_seconds=60)
    shown = shared.wait_status(id, "backoff")
    assert (shown["is_running"], shown["pid"], shown["exit_code"]) == (False, None, 3)
    due = datetime.datetime.fromisoformat(shown["next_run"].replace("Z", "+00:00"))
    assert 50 < (due - datetime.datetime.now(datetime.timezone.utc)).total_seconds() < 67
    shared.post(f"/update/{id}", {"args": ["-c", LONG]})
    assert shared.get(f"/status/{id}")["status"] == "backoff", "an update is no start"
    shared.post(f"/start/{id}")
    shown = shared.get(f"/status/{id}")
    assert (shown["status"], shown["next_run"], shown["restarts"]) == ("running", None, 0)


def test_after_a_good_run_it_is_restarted_at_once_and_for_ever(shared, id):
    shared.sh(id, "exit 0", auto_restart=True, min_uptime_seconds=0, restart_delay_seconds=60, max_restarts=1)
    wait_for(lambda: shared.get(f"/status/{id}")["restarts"] >= 5)
    assert "restarting" in lines_of(shared, id, "SYSTEM")


def test_on_failure_means_not_after_a_success(shared, id):
    flag = shared.folder / id
    shared.sh(id, f"test -e {flag} && exit 7; touch {flag}; exit 1", auto_restart=True, restart_policy="on-failure",
              success_exit_codes=[7], restart_delay_seconds=0)
    shown = shared.wait_status(id, "stopped")
    assert (shown["exit_code"], shown["restarts"], shown["status_reason"]) == (7, 1, None)


def test_an_automatic_start_that_fails_is_tried_again(shared, id, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    shared.add(id, str(script), auto_restart=True, restart_delay_seconds=0.05)
    pid = pid_of(shared, id)
    wait_for(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0"), what="the script, read by now")
    script.rename(tmp_path / "away")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "could not start: command" in shared.log(id))
    # While an attempt is under way, the reason is that.
    wait_for(lambda: "No such file or directory" in (shared.wait_status(id, "backoff")["status_reason"] or ""))
    (tmp_path / "away").rename(script)
    shared.wait_status(id, "running")


def another_one_restarts(server, id, **more):
    """A clock for "later": a process with the same delay, begun now, has been restarted."""
    server.sh(id, "exit 3", auto_restart=True, **more)
    wait_for(lambda: server.get(f"/status/{id}")["restarts"] >= 1)


def test_what_was_stopped_during_its_backoff_stays_stopped(shared, id):
    delay = {"restart_delay_seconds": 3, "restart_delay_max_seconds": 3}
    shared.sh(id, "exit 3", auto_restart=True, **delay)
    shared.wait_status(id, "backoff")
    shared.post(f"/stop/{id}")
    shown = shared.get(f"/status/{id}")
    assert (shown["status"], shown["next_run"], shown["exit_code"]) == ("manually_stopped", None, 3)
    another_one_restarts(shared, id + "x", **delay)
    after = shared.get(f"/status/{id}")
    assert (after["status"], after["run_count"]) == ("manually_stopped", shown["run_count"])
    wait_for(lambda: lines_of(shared, id, "SYSTEM")[-1] == "Process stopped manually")


def test_what_was_removed_during_its_backoff_never_comes_back(shared, id):
    flag = shared.folder / id
    shared.sh(id, f"echo run >> {flag}; exit 3", auto_restart=True, restart_delay_seconds=2)
    shared.wait_status(id, "backoff")
    shared.post(f"/remove/{id}")
    another_one_restarts(shared, id + "x", restart_delay_seconds=2)
    assert flag.read_text() == "run\n"


def test_what_was_stopped_while_it_ran_is_not_restarted(shared, id):
    shared.sh(id, LONG, auto_restart=True, min_uptime_seconds=0)
    shared.post(f"/stop/{id}")
    another_one_restarts(shared, id + "x", min_uptime_seconds=0)
    shown = shared.get(f"/status/{id}")
    assert (shown["status"], shown["run_count"], shown["restarts"]) == ("manually_stopped", 1, 0)
    assert members(shared, id) == []


def test_what_is_restarted_runs_once(shared, id):
    """Also if it is asked for by many at the same moment, and while it would be restarted by itself."""
    shared.sh(id, LONG, auto_restart=True, min_uptime_seconds=0)
    for _ in range(3):
        os.kill(pid_of(shared, id), signal.SIGKILL)
        answers = at_once(*[(shared.call, "POST", f"/restart/{id}")] * 6)
        assert [status for status, _ in answers] == [200] * 6
        shown = shared.wait_status(id, "running")
        only(shared, id, shown["pid"])


# Together


def test_the_same_id_twice_at_the_same_moment(shared, id):
    for number in range(5):
        body = {"id": f"{id}-{number}", "command": "sleep", "args": ["600"], "save_for_next_run": True}
        answers = at_once(*[(shared.call, "POST", "/add", body)] * 4)
        assert sorted(status for status, _ in answers) == [200, 409, 409, 409]
        only(shared, body["id"], pid_of(shared, body["id"]))
    entries = json.loads((shared.config_dir / "processes.json").read_text())
    assert sorted(entry["id"] for entry in entries) == [f"{id}-{number}" for number in range(5)]


def test_the_same_id_twice_of_which_none_can_start(shared, id):
    body = {"id": id, "command": "no-such-command-here"}
    for _ in range(5):
        statuses = {status for status, _ in at_once(*[(shared.call, "POST", "/add", body)] * 4)}
        assert statuses <= {400, 409} and 400 in statuses
    assert shared.call("GET", f"/status/{id}")[0] == 404 and not (shared.logs / f"{id}.log").exists()


def test_requests_together_end_as_if_they_had_come_one_by_one(shared, id):
    """Whatever their order: the answers are of those that can be, and what is listed is what there is."""
    dice = random.Random(4)
    for number in range(6):
        name = f"{id}-{number}"
        shared.sh(name, LONG, auto_restart=True, min_uptime_seconds=0)
        calls = [f"/{dice.choice(['start', 'stop', 'restart', 'stop', 'restart'])}/{name}" for _ in range(8)]
        answers = at_once(*[(shared.call, "POST", path) for path in calls])
        for path, (status, answer) in zip(calls, answers):
            assert status in (200, 409), (path, answer)
            assert status == 200 or "/stop/" not in path
        shown = shared.wait_status(name, "running", "manually_stopped")
        only(shared, name, shown["pid"])
        if all("/stop/" in path for path in calls):
            assert shown["status"] == "manually_stopped"


def test_a_remove_among_other_requests_is_the_end(shared, id):
    for number in range(5):
        name = f"{id}-{number}"
        shared.sh(name, LONG, auto_restart=True, min_uptime_seconds=0, save_for_next_run=True)
        paths = [f"/{what}/{name}" for what in ("restart", "stop", "remove", "start", "restart", "remove")]
        answers = dict(zip(range(6), at_once(*[(shared.call, "POST", path) for path in paths])))
        assert {status for status, _ in answers.values()} <= {200, 404, 409}
        assert sorted([answers[2][0], answers[5][0]])[0] == 200, answers
        assert shared.call("GET", f"/status/{name}")[0] == 404
        assert members(shared, name) == []
    assert json.loads((shared.config_dir / "processes.json").read_text()) == []


# What a child is given


def test_a_child_leads_its_own_session_and_has_nothing_of_exeios(through):
    """Ignored and blocked signals, and descriptors, that exeio itself was started with do not reach it."""
    server = through("trap '' INT QUIT HUP USR1 CHLD PIPE; exec 7</dev/null 8<&0 9>/dev/null; exec \"$@\"")
    server.add("web", "sleep", "600")
    pid = pid_of(server, "web")
    assert stat(pid)[1:] == (server.pid, pid, pid), "parent, group, session"
    # The loader of libraries has one open for a moment.
    wait_for(lambda: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"], what="no other descriptor")
    status = status_of(pid)
    assert [int(status[name], 16) & ~GLIBC_SIGNALS for name in ("SigIgn", "SigBlk", "SigCgt")] == [0, 0, 0]
    flags = re.search(r"flags:\s+0?(\d+)", Path(f"/proc/{pid}/fdinfo/0").read_text())[1]
    assert not int(flags, 8) & os.O_NONBLOCK, "its end of stdin blocks"
    server.sh("seven", "exit 7")
    assert server.wait_status("seven", "failed")["exit_code"] == 7, "SIGCHLD was ignored at exeio's start"


def test_what_is_meant_for_exeio_alone_never_reaches_a_child(servers):
    private = {"EXEIO_API_KEY": "a-key-for-this-very-test", "NOTIFY_SOCKET": "/tmp/none", "WATCHDOG_USEC": "30000000",
               "WATCHDOG_PID": "1", "LISTEN_FDS": "0", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x",
               "CREDENTIALS_DIRECTORY": "/tmp"}
    server = servers(env={**private, "OTHER": "kept", "DROPPED": "x"})
    server.add("web", "sleep", "600", env={"ADDED": "1", "DROPPED": None, "PATH": os.environ["PATH"]})
    env = environment_of(pid_of(server, "web"))
    assert not set(private) & set(env) and "a-key-for-this-very-test" not in "".join(env.values())
    assert (env["OTHER"], env["ADDED"], "DROPPED" in env) == ("kept", "1", False)
    instance = (server.data_dir / "instance-id").read_text().strip()
    assert env["EXEIO_RUN"].split(",")[-1] == f"{instance}/web/1"


def test_a_cleared_environment(servers):
    server = servers(env={"OTHER": "dropped", "LANG": "C.UTF-8", "TZ": "UTC"})
    server.add("web", "sleep", "600", clear_env=True, env={"ADDED": "1", "TZ": None})
    env = environment_of(pid_of(server, "web"))
    kept = {name for name in ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG") if name in env}
    assert set(env) == kept | {"ADDED", "EXEIO_RUN"} and {"PATH", "HOME", "LANG"} <= kept
    assert env["HOME"] == str(server.folder)


def test_the_marks_of_an_exeio_around_this_one_stay(servers):
    server = servers(env={"EXEIO_RUN": "0123456789abcdef/outer/7"})
    server.add("web", "sleep", "600")
    outer, own = environment_of(pid_of(server, "web"))["EXEIO_RUN"].split(",")
    assert outer == "0123456789abcdef/outer/7" and own.endswith("/web/1")


def test_umask_niceness_and_folder(shared, id, tmp_path):
    shared.add(id, "sleep", "600", umask="027", nice=7, working_dir=str(tmp_path))
    pid = pid_of(shared, id)
    assert status_of(pid)["Umask"] == "0027"
    assert os.readlink(f"/proc/{pid}/cwd") == str(tmp_path)
    wait_for(lambda: os.getpriority(os.PRIO_PROCESS, pid) == 7)
    shared.add(id + "x", "sleep", "600")
    other = pid_of(shared, id + "x")
    assert status_of(other)["Umask"] == status_of(shared.pid)["Umask"]
    assert os.getpriority(os.PRIO_PROCESS, other) == os.getpriority(os.PRIO_PROCESS, shared.pid)
    assert os.readlink(f"/proc/{other}/cwd") == os.readlink(f"/proc/{shared.pid}/cwd")


def test_where_a_command_is_looked_up(shared, id, tmp_path):
    """In the child's own PATH, or with a slash from working_dir; argv[0] is what was asked for."""
    for folder, says in (("bin", "from PATH"), ("work", "from the folder")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tool").write_text(f"#!/bin/sh\necho {says}\n")
        (tmp_path / folder / "tool").chmod(0o755)
    shared.add(id + "a", "tool", env={"PATH": f"{tmp_path}/bin:/bin:/usr/bin"}, working_dir=str(tmp_path / "work"))
    shared.add(id + "b", "./tool", env={"PATH": f"{tmp_path}/bin:/bin:/usr/bin"}, working_dir=str(tmp_path / "work"))
    for tail, says in (("a", "from PATH"), ("b", "from the folder")):
        shared.wait_status(id + tail, "stopped")
        assert lines_of(shared, id + tail, "STDOUT") == [says]
    shared.add(id + "c", "sleep", "600")
    assert Path(f"/proc/{pid_of(shared, id + 'c')}/cmdline").read_bytes() == b"sleep\x00600\x00"


@pytest.mark.skipif(os.geteuid() != 0, reason=f"{NOT_HERE}takes root")
def test_a_user_of_its_own(servers):
    server = servers(env={"XDG_RUNTIME_DIR": "/run/user/0", "OTHER": "kept"})
    server.add("web", "sleep", "600", user="nobody", working_dir="/", nice=-3)
    pid = pid_of(server, "web")
    status, env = status_of(pid), environment_of(pid)
    assert set(status["Uid"].split()) == {"65534"} and set(status["Gid"].split()) <= {"65534", "65533"}
    assert "0" not in status["Groups"].split(), "none of root's groups"
    assert (env["USER"], env["LOGNAME"], env["OTHER"]) == ("nobody", "nobody", "kept")
    assert env["HOME"] != str(server.folder) and "XDG_RUNTIME_DIR" not in env
    assert int(status["CapEff"], 16) == 0
    wait_for(lambda: os.getpriority(os.PRIO_PROCESS, pid) == -3)
    server.add("gid", "sleep", "600", user="65534", group="0", working_dir="/")
    assert set(status_of(pid_of(server, "gid"))["Gid"].split()) == {"0"}
    server.add("group", "sleep", "600", group="nogroup" if Path("/etc/debian_version").exists() else "nobody")
    assert set(status_of(pid_of(server, "group"))["Uid"].split()) == {"0"}
    # What root may execute and that user may not: the system's word of it comes from the child.
    tool = server.config_dir / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    status, answer = server.call("POST", "/add", {"id": "no", "command": str(tool), "user": "nobody"})
    assert status == 400 and "command" in answer["message"] and "Permission denied" in answer["message"]
    server.post("/stop-all")


def test_another_user_takes_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for fields, words in (({"user": "root"}, "user 'root': only root"), ({"group": "0"}, "group '0': only root"),
                          ({"nice": -20}, "nice -20")):
        spec = ProcessSpec.from_json({"id": "p", "command": "true", **fields})
        if os.getegid() == 0:
            monkeypatch.setattr(os, "getegid", lambda: 12345)
            monkeypatch.setattr(os, "getgid", lambda: 12345)
        with pytest.raises(Invalid, match=words):
            birth.find_person(spec)
            birth.check_nice(spec.nice)


@pytest.mark.parametrize("number, kind, words", [
    (24, Unavailable, "no room"), (11, Unavailable, "no room"), (12, Unavailable, "no room"), (7, Invalid, "args"),
    (8, Invalid, "Exec format error"), (13, Invalid, "Permission denied"),
])
def test_what_an_error_of_a_spawn_means(number, kind, words):
    spec = ProcessSpec.from_json({"id": "p", "command": "true"})
    error = birth.failure(spec, OSError(number, os.strerror(number), "true"))
    assert type(error) is kind and words in error.message


def test_where_descriptors_end_an_add_is_503_and_the_others_live_on(through):
    server = through('ulimit -n 64; exec "$@"')
    statuses = []
    while 200 in statuses[-1:] or not statuses:
        assert len(statuses) < 40
        status, answer = server.call("POST", "/add", {"id": f"p{len(statuses)}", "command": "sleep", "args": ["600"]})
        statuses.append(status)
    assert status == 503 and "no room" in answer["message"], answer
    assert len(statuses) > 3
    last = f"p{len(statuses) - 1}"
    assert server.call("GET", f"/status/{last}")[0] == 404 and not (server.logs / f"{last}.log").exists()
    assert {shown["status"] for shown in server.get("/list")} == {"running"}
    for id in ("p0", "p1"):  # a start takes more for a moment than one that runs has
        server.post(f"/remove/{id}")
    wait_for(lambda: server.call("POST", "/add", {"id": "again", "command": "sleep", "args": ["600"]})[0] == 200)
    server.post("/stop-all")
    assert server.left() == []


# Periodic processes


def moments(shown):
    """When the runs of a periodic process began, oldest first, in seconds."""
    texts = [run["started_at"].replace("Z", "+00:00") for run in reversed(shown["history"])]
    return [datetime.datetime.fromisoformat(text).timestamp() for text in texts]


def test_a_schedule_keeps_its_rate_whatever_a_run_takes(shared, id):
    shared.sh(id, "sleep 0.3", periodic=True, period_seconds=0.6)
    wait_for(lambda: len(shared.get(f"/status/{id}")["history"]) >= 7, 30)
    begun = moments(shared.get(f"/status/{id}"))
    gaps = [later - first for first, later in zip(begun, begun[1:])]
    # One that is late does not put off the next: on a machine that is very busy some gap has its length, or is short.
    assert min(gaps) < 0.8 and max(gaps) > 0.5, f"not 0.9, the period and the run: {gaps}"
    shown = shared.get(f"/status/{id}")
    assert (shown["is_running"], shown["restarts"]) == (True, 0)


def test_two_runs_are_never_under_way_and_missed_ticks_are_told(shared, id):
    shared.sh(id, "sleep 0.27", periodic=True, period_seconds=0.1)
    wait_for(lambda: len(shared.get(f"/status/{id}")["history"]) >= 3)
    shown = shared.get(f"/status/{id}")
    ends = [start + run["duration_seconds"] for start, run in zip(moments(shown), reversed(shown["history"]))]
    assert all(later >= end - 0.002 for end, later in zip(ends, moments(shown)[1:]))
    assert re.search(r"SYSTEM \S+ skipped [2-9] runs: the one before took too long", shared.log(id))
    assert re.search(r"RUN#|SYSTEM \S+ run 2 started with pid \d+", shared.log(id))


def test_a_failed_run_is_recorded_and_the_schedule_goes_on(shared, id):
    shared.sh(id, "echo tick; exit 3", periodic=True, period_seconds=0.1)
    shown = wait_for(lambda: [one for one in [shared.get(f"/status/{id}")] if one["run_count"] >= 3])[0]
    assert shown["history"][0]["exit_code"] == 3
    assert "RUN#1 STDOUT: tick" in shared.log(id) and "RUN#2 STDOUT: tick" in shared.log(id)
    assert re.search(r"SYSTEM \S+ run 1 exited with code 3 after \d+\.\d+ s", shared.log(id))


def test_a_run_that_takes_too_long_is_stopped_and_the_schedule_goes_on(shared, id):
    shared.sh(id, "sleep 601 & exec sleep 600", periodic=True, period_seconds=0.5, run_timeout_seconds=0.2)
    shown = wait_for(lambda: [one for one in [shared.get(f"/status/{id}")] if len(one["history"]) >= 2])[0]
    assert [run["timed_out"] for run in shown["history"]] == [True] * len(shown["history"])
    assert all(0.2 <= run["duration_seconds"] < 10 for run in shown["history"])
    assert "run_timeout_seconds" in shared.log(id)
    shared.post(f"/stop/{id}")
    assert members(shared, id) == []


def test_a_stopped_schedule_stays_stopped_and_its_stdin_is_empty(shared, id):
    shared.sh(id, "cat; echo end; exec sleep 600", periodic=True, period_seconds=0.1)
    wait_for(lambda: "end" in lines_of(shared, id, "RUN#1 STDOUT"))
    assert os.readlink(f"/proc/{pid_of(shared, id)}/fd/0") == "/dev/null"
    shared.post(f"/stop/{id}")
    shared.add(id + "x", "true", periodic=True, period_seconds=0.1)
    wait_for(lambda: shared.get(f"/status/{id}x")["run_count"] >= 3)
    shown = shared.get(f"/status/{id}")
    assert (shown["status"], shown["run_count"], shown["is_running"]) == ("manually_stopped", 1, False)


def test_a_periodic_run_that_cannot_start_is_tried_at_the_next_tick(shared, id, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    shared.add(id, str(script), periodic=True, period_seconds=0.1)
    script.rename(tmp_path / "away")
    wait_for(lambda: shared.log(id).count("could not start") >= 2)
    shown = shared.get(f"/status/{id}")
    assert shown["is_running"] is True
    (tmp_path / "away").rename(script)
    wait_for(lambda: shared.get(f"/status/{id}")["run_count"] > shown["run_count"])


def test_what_a_run_leaves_behind_is_ended_before_the_next(shared, id):
    shared.sh(id, "setsid sleep 600 & sleep 600 & exit 0", periodic=True, period_seconds=0.1)
    wait_for(lambda: shared.get(f"/status/{id}")["run_count"] >= 4)
    runs = {mark for _, mark in marks(shared) if mark.split("/")[1] == id}
    assert len(runs) <= 1
    shared.post(f"/stop/{id}")
    assert members(shared, id) == []


# What a real server cannot be made to meet: a supervisor in this process, with a step that is held or has no effect


def test_purge_is_for_good_also_where_an_earlier_process_of_the_id_left_a_writer(shared, id):
    shared.sh(id, "(while :; do echo tick; sleep 0.01; done) & exit 0", kill_mode="process")
    shared.wait_status(id, "stopped")
    writer = min(wait_for(lambda: members(shared, id)))  # beside its sleep
    shared.post(f"/remove/{id}")
    shared.sh(id, LONG)
    shared.post(f"/remove/{id}?purge=true")
    wait_for(lambda: stat(writer) is None, what="the end of who has nobody that reads what it writes")
    assert not (shared.logs / f"{id}.log").exists()


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A supervisor with its threads and no server."""
    (tmp_path / "logs").mkdir()
    runstate = RunState(str(tmp_path / "runs.jsonl"))
    runstate.load()
    reports = []
    machine = Machine("0123456789abcdef", 0.1, runstate, reports.append)
    logs = LogDefaults(str(tmp_path / "logs"), 0, 0)
    one = Supervisor(machine, Store(str(tmp_path / "processes.json")), logs)
    one.reports = reports
    machine.ender.start()
    machine.watchdog.start()
    yield one
    one.shutdown()
    for run in machine.live_runs():
        run.abandon()
        run.join(10)
    machine.watchdog.close(10)
    machine.ender.close(10)
    runstate.close()


def sleeper(**fields):
    return ProcessSpec.from_json({"id": "p", "command": "sleep", "args": ["600"], **fields})


def test_a_log_that_hangs_holds_up_no_stop(inside):
    """The threads that end runs and see exits wrote some lines themselves: one dead disk held up every stop."""
    for id in ("a", "b"):
        inside.add(ProcessSpec.from_json({"id": id, "command": "sleep", "args": ["600"]}))
    with inside.log("a")._lock:  # as while a write to it hangs
        inside.stop("a", wait=False)
        inside.stop("b")
        lines = "".join(inside.log("b").page(LogQuery())["logs"])
        assert "killed by SIGTERM" in lines and "Process stopped manually" in lines
    wait_for(lambda: "Process stopped manually" in Path(inside.log("a").path).read_text())


def test_the_end_of_exeio_waits_for_the_lines_of_a_crowd(inside, monkeypatch):
    """They were in no file yet when it went, where that was slow."""
    monkeypatch.setattr(ending, "_REST", 60)  # nor do their own threads write them earlier
    for number in range(20):
        inside.add(ProcessSpec.from_json({"id": f"p{number}", "command": "sleep", "args": ["600"]}))
    runs = inside.machine.live_runs()
    wait_for(lambda: all(one is not None and one.quiet() for run in runs for one in (run._out, run._err)))
    waits, go_on, given = threading.Event(), threading.Event(), os.writev

    def slow(fd, parts):
        if threading.current_thread().name == "exeio-said":  # what is left of the crowd is written by itself
            waits.set()
            assert go_on.wait(10)
        return given(fd, parts)

    monkeypatch.setattr("exeio_core.logfile.os.writev", slow)
    ending_it = in_thread(inside.shutdown)
    assert waits.wait(10)
    go_on.set()
    assert ending_it()
    for number in range(20):
        assert "killed by SIGTERM" in Path(inside.log(f"p{number}").path).read_text()


def test_a_save_that_comes_back_late_does_not_tell_of_an_older_file(inside, monkeypatch):
    """A stop was being saved while an update took the process out of the file: it was told as saved, and was not."""
    inside.add(sleeper(save_for_next_run=True))
    begun, go_on, given = threading.Event(), threading.Event(), inside.saver.store.put_all

    def put_all(entries, version):
        if entries[0][1] is not None:
            begun.set()
            assert go_on.wait(10)
        given(entries, version)

    monkeypatch.setattr(inside.saver.store, "put_all", put_all)
    stopping = in_thread(inside.stop, "p")
    assert begun.wait(10)
    inside.update("p", lambda base: ProcessSpec.from_json({**base.to_json(), "save_for_next_run": False}))
    go_on.set()
    stopping()
    assert inside.status("p")["saved"] is False and inside.saver.store.load() == []


def test_what_survives_sigkill_is_an_error_stays_stopping_and_is_never_doubled(inside, monkeypatch, tmp_path):
    """As a process in uninterruptible sleep does: the signals are sent and have no effect."""
    monkeypatch.setattr(ending, "KILL_LIMIT", 0.2)
    process = inside.add(sleeper())
    pid = process.run.pid
    with monkeypatch.context() as deaf:
        deaf.setattr(proctree, "send_group", lambda group, number: None)
        deaf.setattr(proctree, "send", lambda member, number: None)
        with pytest.raises(Failed, match=f"'p' cannot be stopped: still there after SIGKILL: pid {pid}"):
            inside.stop("p")
        shown = inside.status("p")
        assert (shown["status"], shown["pid"]) == ("stopping", pid)
        assert f"still there after SIGKILL: pid {pid}" in shown["status_reason"]
        for refused in (inside.start, inside.restart):
            with pytest.raises(Conflict, match="still there after SIGKILL"):
                refused("p")
        with pytest.raises(Conflict):
            inside.add(sleeper())
        with pytest.raises(Failed):
            inside.stop("p")
        told = f"still there after SIGKILL: pid {pid} (in uninterruptible sleep, or another user's?)"
        wait_for(lambda: f"p: {told}" in inside.reports)
    wait_for(lambda: inside.status("p")["status"] == "manually_stopped", what="the kill, which is tried again")
    assert gone(pid)
    log = (tmp_path / "logs" / "p.log").read_text()
    assert (log.count(told), inside.reports.count(f"p: {told}")) == (1, 1), "said once, however long it lasts"
    inside.start("p")
    assert inside.status("p")["status"] == "running"


@pytest.mark.parametrize("group", [False, True])
def test_what_may_not_be_signalled_is_said(inside, monkeypatch, group):
    """A setuid program that has become root, under an exeio without root: 500, or done for its group."""
    inside.add(sleeper())

    def refuse(pid, number):
        raise PermissionError(1, "Operation not permitted")
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", refuse)
        patch.setattr(os, "killpg", refuse)
        with pytest.raises(Conflict, match="may not signal 'p': it has become another user's"):
            inside.send_signal("p", "HUP", group)


def test_a_spawn_that_hangs_is_given_up_and_what_comes_back_is_ended(inside, monkeypatch, tmp_path):
    """As on a dead network drive; nothing else waits for it."""
    come, born = threading.Event(), []
    spawn = birth.spawn

    def slow(spec, *others):
        if spec.id == "p":
            come.wait(10)
        child = spawn(spec, *others)
        born.append(child.pid)
        return child
    monkeypatch.setattr(birth, "spawn", slow)
    monkeypatch.setattr(intent, "SPAWN_LIMIT", 0.3)
    adding = in_thread(lambda: pytest.raises(Unavailable, inside.add, sleeper(stop_timeout_seconds=0.1)).value.message)
    wait_for(lambda: (one := inside.machine.processes.get("p")) and one.changed._waiters, what="it to wait")
    monkeypatch.setattr(intent, "SPAWN_LIMIT", 30)
    inside.add(sleeper(id="other"))
    assert inside.ids() == ["other"], "one that is being added is not shown yet"
    wait_for(lambda: inside.machine.processes["p"].removed, what="that it is given up")
    come.set()
    assert "hangs" in adding()
    wait_for(lambda: len(born) == 2 and gone(born[1]), what="the end of what came back")
    assert inside.ids() == ["other"]
    wait_for(lambda: not (tmp_path / "logs" / "p.log").exists(), what="no log of it")
    wait_for(lambda: "p" not in inside.machine.processes)
    inside.add(sleeper())
    assert inside.status("p")["status"] == "running"


def test_while_a_spawn_that_was_given_up_hangs_its_id_stays_taken(inside, monkeypatch, tmp_path):
    """What came back later was a second one of the id, beside that of the next add."""
    monkeypatch.setattr(intent, "SPAWN_LIMIT", 0.3)
    monkeypatch.setattr(intent, "KILL_LIMIT", 0.1)
    monkeypatch.setattr(intent, "_MARGIN", 0.1)
    come, born = threading.Event(), []
    spawn = birth.spawn

    def slow(*arguments):
        come.wait(30)
        born.append(spawn(*arguments))
        return born[-1]

    monkeypatch.setattr(birth, "spawn", slow)
    with pytest.raises(Unavailable, match="the start of 'p' hangs"):
        inside.add(sleeper(stop_timeout_seconds=0.1))
    assert inside.status("p")["status"] == "stopping"
    with pytest.raises(Conflict, match="'p' is being removed"):
        inside.add(sleeper())
    with pytest.raises(Conflict, match="'p' is being removed"):
        inside.start("p")
    come.set()
    wait_for(lambda: "p" not in inside.machine.processes)
    assert [gone(one.pid) for one in born] == [True]
    wait_for(lambda: not (tmp_path / "logs" / "p.log").exists(), what="no log of it")
    monkeypatch.setattr(intent, "SPAWN_LIMIT", 30)
    inside.add(sleeper())
    assert inside.status("p")["status"] == "running"


def test_a_log_is_deleted_while_the_id_is_taken(inside, monkeypatch):
    """Else it was the log that the next one of the id had begun."""
    taken, purge = [], LogFile.purge

    def look(log):
        taken.append("p" in inside.machine.processes)
        purge(log)

    monkeypatch.setattr(LogFile, "purge", look)
    inside.add(sleeper())
    inside.remove("p", purge=True)
    with pytest.raises(Conflict, match="did not stay up"):
        inside.add(sleeper(command="false", args=[]), wait_seconds=10)
    assert taken == [True, True]
    assert "p" not in inside.machine.processes


def test_of_two_adds_at_once_that_fail_no_log_is_left(inside, monkeypatch, tmp_path):
    """The second one found the log of the first, and left its own for it."""
    path, go_on, failures = tmp_path / "logs" / "p.log", threading.Event(), []

    def refuse(spec, mark, streams, ready):
        ready()
        wait_for(path.exists)
        go_on.wait(10)
        raise Invalid("not today")

    def add():
        with pytest.raises(Invalid, match="not today") as failure:
            inside.add(sleeper())
        failures.append(failure)

    monkeypatch.setattr(intent, "SPAWN_LIMIT", 10)
    monkeypatch.setattr(birth, "spawn", refuse)
    adding = [threading.Thread(target=add) for _ in range(2)]
    adding[0].start()
    wait_for(path.exists)
    adding[1].start()
    first = inside.machine.processes["p"]
    wait_for(lambda: len(first.changed._waiters) == 2, what="both wait")
    go_on.set()
    for one in adding:
        one.join(10)
    assert len(failures) == 2 and not path.exists()


def test_that_an_attempt_failed_is_noted_before_the_next_begins(inside, monkeypatch):
    """Both have the same number: it was what is noted of the next one that was taken away."""
    process = inside.add(sleeper())
    inside.stop("p")
    wait_for(lambda: not inside.machine._runstate._open, what="the end of the first run to be noted")
    under_way, exited = [], RunState.exited

    def look(*arguments):
        under_way.append(process.run is not None)
        exited(*arguments)

    def refuse(*arguments):
        raise Invalid("not today")

    monkeypatch.setattr(RunState, "exited", look)
    monkeypatch.setattr(birth, "spawn", refuse)
    with pytest.raises(Invalid, match="not today"):
        inside.start("p")
    assert under_way == [True]


def test_a_run_that_is_over_leaves_alone_what_is_noted_of_the_first_run_after_a_removal(tmp_path):
    state = RunState(str(tmp_path / "runs.jsonl"))
    state.load()
    state.spawned(Spawned("p", 1, 7000, 100, True))
    state.spawned(Spawned("p", 1, 0, 200, True, 5))
    state.exited("p", 1, 7000)
    state.close()
    assert RunState(str(tmp_path / "runs.jsonl")).load() == [Spawned("p", 1, 0, 200, True, 5)]


def test_a_refused_run_does_not_wait_for_a_copy_of_its_pipe(inside, monkeypatch):
    """As another child has it until its exec is done, which may hang: a thread and descriptors stayed with it."""
    copies = []

    def refuse(spec, mark, streams, ready):
        ready()
        copies.append(os.dup(streams[2]))
        wait_for(lambda: len(inside.machine._spares._parked) == 2)  # the second thread has made the next two
        raise Invalid("not today")

    monkeypatch.setattr(birth, "spawn", refuse)
    with pytest.raises(Invalid, match="not today"):
        inside.add(sleeper())
    try:
        wait_for(lambda: not inside.machine.live_runs())
    finally:
        os.close(copies[0])


def test_no_room_for_threads_is_503_and_leaves_nothing(inside, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr("exeio_core.spares.start_new_thread", room_for_one())
        with pytest.raises(Unavailable, match="no room to start 'p' now"):
            inside.add(sleeper())
    assert inside.ids() == [] and not (tmp_path / "logs" / "p.log").exists()
    wait_for(lambda: len(inside.machine._spares._parked) == 1, what="the one that there was room for to be kept")
    inside.add(sleeper())
