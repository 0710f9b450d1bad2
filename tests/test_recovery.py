"""What a supervisor that was killed leaves behind, and what the next start makes of it: each process once."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nasty
import pytest
import torture
from support import NOT_HERE, run_exeio, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason=NOT_HERE + "/proc")

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


def copies(server, id):
    """The living processes with the mark of this one."""
    instance = (server.data_dir / "instance-id").read_text().strip()
    return sorted(pid for pid, (name, _) in nasty.marks(instance).items() if name == id)


def said(server):
    """What exeio.log says of recovery, without stamps."""
    text = (server.logs / "exeio.log").read_text()
    return [line.split(": ", 1)[1] for line in text.splitlines() if "earlier run" in line]


def crash(server):
    server.kill()
    server.start()


def open_runs(server):
    """The runs whose end runs.jsonl does not tell."""
    found = {}
    for line in (server.data_dir / "runs.jsonl").read_text().split("\n"):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            found[entry["id"], entry["run"]] = entry
            if entry["event"] == "exit":
                del found[entry["id"], entry["run"]]
    return sorted(found)


def test_leftovers_are_ended_and_saved_processes_start_once(server):
    server.sh("saved", "sleep 1000 & exec sleep 1000", save_for_next_run=True)
    server.sh("unsaved", "exec sleep 1000")
    old = copies(server, "saved") + copies(server, "unsaved")
    crash(server)
    shown = server.wait_status("saved", "running")
    assert (shown["run_count"], shown["saved"], shown["restarts"]) == (1, True, 0)
    assert [one["id"] for one in server.get("/list")] == ["saved"]
    wait_for(lambda: copies(server, "unsaved") == [])
    assert not any(map(nasty.alive, old))
    wait_for(lambda: len(copies(server, "saved")) == 2)
    wait_for(lambda: len(said(server)) == 4)
    for id in ("saved", "unsaved"):
        assert any(line.startswith(f"{id}: ending what is left") for line in said(server))
        assert f"{id}: nothing is left of its earlier run" in said(server)


def test_what_has_been_started_again_is_no_leftover(server):
    """While one leftover is slow to end, others run already, with the same mark."""
    server.sh("slow", STUBBORN, save_for_next_run=True, stop_timeout_seconds=60)
    wait_for(lambda: "ready" in server.log("slow"))
    server.sh("quick", "exec sleep 1000", save_for_next_run=True, auto_restart=True)
    crash(server)
    assert server.get("/status/slow")["status"] == "stopping"
    server.wait_status("quick", "running")
    server.sh("new", "exec sleep 1000")
    for pid in copies(server, "slow"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.wait_status("slow", "running")
    for id in ("quick", "new"):
        shown = server.get(f"/status/{id}")
        assert (shown["status"], shown["run_count"]) == ("running", 1)
    server.post("/update/slow", {"stop_timeout_seconds": 0})


def test_leftovers_that_ignore_the_stop_signal(server):
    server.sh("stubborn", STUBBORN, save_for_next_run=True, stop_timeout_seconds=3)
    wait_for(lambda: "ready" in server.log("stubborn"))
    began = time.monotonic()
    crash(server)
    shown = server.get("/status/stubborn")
    assert (shown["status"], shown["is_running"]) == ("stopping", False)
    assert "killed" in shown["status_reason"]
    server.wait_status("stubborn", "running")
    assert time.monotonic() - began >= 3
    assert len(nasty.marks(server._instances[0])) <= 2  # sh and its sleep
    server.post("/update/stubborn", {"stop_timeout_seconds": 0})


def test_add_of_an_id_with_leftovers_waits(server):
    server.sh("job", STUBBORN, stop_timeout_seconds=0.3)
    wait_for(lambda: "ready" in server.log("job"))
    old = copies(server, "job")[0]
    server.options = ("--stop-timeout", "0.5")
    crash(server)
    server.sh("job", "exec sleep 1000")
    assert not nasty.alive(old)
    wait_for(lambda: len(copies(server, "job")) == 1)


@pytest.mark.parametrize(("operation", "status"), [
    ("stop", "manually_stopped"), ("restart", "running"), ("start", "running"), ("remove", None)])
def test_requests_for_a_process_with_leftovers(server, operation, status):
    server.sh("job", STUBBORN, save_for_next_run=True, stop_timeout_seconds=2.5)
    wait_for(lambda: "ready" in server.log("job"))
    old = copies(server, "job")[0]
    crash(server)
    assert server.get("/status/job")["status"] == "stopping"
    server.post(f"/{operation}/job")
    assert not nasty.alive(old)
    if status is None:
        assert server.get("/list") == []
    else:
        shown = server.get("/status/job")
        assert (shown["status"], shown["run_count"]) == (status, 1 if status == "running" else 0)
    wait_for(lambda: len(copies(server, "job")) == (1 if status == "running" else 0) or status == "running")
    server.call("POST", "/update/job", {"stop_timeout_seconds": 0})


@pytest.mark.parametrize("saved", [True, False])
def test_the_end_of_exeio_ends_leftovers_too(server, saved):
    server.sh("job", STUBBORN, save_for_next_run=saved, stop_timeout_seconds=2.5)
    wait_for(lambda: "ready" in server.log("job"))
    server.options = ("--stop-timeout", "2.5")
    crash(server)
    assert copies(server, "job")
    server.stop()  # which looks for who is left


def test_a_stop_is_remembered(server):
    for id in ("stopped", "ended", "runs"):
        server.sh(id, "exec sleep 1000", save_for_next_run=True)
    server.post("/stop/stopped")
    server.post("/signal/ended", {"signal": "TERM"})
    server.wait_status("ended", "failed")
    crash(server)
    server.wait_status("runs", "running")
    server.wait_status("ended", "running")
    assert server.get("/status/stopped")["status"] == "manually_stopped"
    server.post("/start/stopped")
    server.post("/stop-all")
    crash(server)
    assert {one["status"] for one in server.get("/list")} == {"manually_stopped"}
    server.post("/restart/runs")
    server.stop()
    server.start()
    server.wait_status("runs", "running")
    assert server.get("/status/ended")["status"] == "manually_stopped"


def test_what_kill_mode_process_leaves_is_let_alone(server):
    script = "(trap '' TERM PIPE; while :; do echo beat; sleep 0.05; done) & exec sleep 1000"
    server.sh("parent", script, save_for_next_run=True, kill_mode="process")
    wait_for(lambda: "beat" in server.log("parent"))
    main = server.get("/status/parent")["pid"]
    others = [pid for pid in copies(server, "parent") if pid != main]
    crash(server)
    server.wait_status("parent", "running")
    assert not nasty.alive(main)
    assert any(nasty.alive(pid) for pid in others)  # the loop itself; its sleeps come and go
    server.stop = lambda: None  # it leaves them, as it should; see below
    server.signal(signal.SIGTERM)
    assert server.process.wait(10) == 0
    left = copies(server, "parent")
    assert left
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: copies(server, "parent") == [])


@pytest.mark.parametrize("name", ["executes", "own-group", "double-fork", "setsid-nohup", "fork-loop", "stopped",
                                  "main-thread-ends"])
def test_nasty_leftovers(server, name):
    """Also those that are known by the run state alone, having wiped their mark."""
    server.post("/add", {"id": name, **nasty.command(name, server.folder / "go"), "stop_timeout_seconds": 0.3})
    wait_for(lambda: "STDOUT: ready" in server.log(name), 20)
    main = server.get(f"/status/{name}")["pid"]
    server.options = ("--stop-timeout", "0.3")
    crash(server)
    wait_for(lambda: f"{name}: nothing is left of its earlier run" in said(server))
    assert copies(server, name) == [] and not nasty.alive(main)


@pytest.mark.parametrize("attempt", range(3))  # one of four was found by luck
def test_leftovers_that_run_away_are_not_said_to_be_gone(server, attempt):
    """A look at all processes read what had moved on meanwhile, and that was taken for the end of it."""
    server.post("/add", {"id": "p", **nasty.command("chain", server.folder / "go")})
    wait_for(lambda: "STDOUT: ready" in server.log("p"))
    with open(server.folder / "go.held", "a") as held:
        wait_for(lambda: not is_free(held))
        server.options = ("--stop-timeout", "0.3")
        crash(server)
        wait_for(lambda: "p: nothing is left of its earlier run" in said(server))
        assert is_free(held)


def is_free(file):
    """Whether nobody holds a lock on it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


# Pids of others.

@pytest.fixture
def innocent():
    """A process of somebody else, with a group of its own; and one whose group's leader is gone."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as alone, subprocess.Popen(
            ["/bin/sh", "-c", "sleep 1000 & echo $!"], start_new_session=True, stdout=subprocess.PIPE) as leader:
        orphan = int(leader.stdout.readline())
        leader.wait()
        yield alone.pid, leader.pid, orphan
        os.kill(orphan, signal.SIGKILL)
        alone.kill()


def test_a_reused_pid_is_never_touched(server, innocent):
    alone, group, orphan = innocent
    server.stop()
    here = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    alone_began, orphan_began = nasty.stat(alone)[2], nasty.stat(orphan)[2]
    last_seen = min(alone_began, orphan_began) - 1
    runs = [
        (here, alone, alone_began - 1), (here, alone, alone_began + 1), ("another boot", alone, alone_began),
        # A main process had the number of that group; the group began before it, or after the last sign of exeio.
        (here, group, orphan_began + 1), (here, group, orphan_began - 500),
        (here, 0, 0), (here, 1, 0), (here, -1, 0)]
    lines = [json.dumps({"event": "spawn", "id": "forged", "run": number, "pid": pid, "start": start, "tree": True,
                         "boot": boot, "at": last_seen}) for number, (boot, pid, start) in enumerate(runs)]
    garbage = ["torn {", "[]", "null", "7", '{"event": "spawn", "id": "x", "run": 1e999}', "[" * 100000]
    server.data_dir.joinpath("runs.jsonl").write_text("\n".join([*garbage, *lines, "torn"]))
    server.start()
    assert said(server) == []
    server.add("own", "sleep", "1000")
    assert open_runs(server) == [("own", 1)]
    assert nasty.alive(alone) and nasty.alive(orphan)


def test_runs_that_were_ended_are_not_looked_for_again(server):
    """Or a process that gets one of their pids much later is taken for theirs."""
    server.sh("saved", "exec sleep 1000", save_for_next_run=True)
    server.sh("unsaved", "exec sleep 1000")
    server.sh("ended", "exit 0")
    server.wait_status("ended", "stopped")
    crash(server)
    server.wait_status("saved", "running")
    wait_for(lambda: open_runs(server) == [("saved", 1)])


def test_a_start_that_failed_is_not_looked_for(server):
    assert server.call("POST", "/add", {"id": "x", "command": str(server.folder)})[0] == 400
    server.sh("run", "exit 0")
    server.wait_status("run", "stopped")
    wait_for(lambda: open_runs(server) == [])
    assert (server.data_dir / "runs.jsonl").read_text().count('"x"') in (0, 2)


# Crashes at bad moments.

def test_a_crash_in_mid_spawn(server, tmp_path):
    """The child is not even the program yet, and holds what exeio held."""
    with nasty.slow_program(tmp_path) as (script, let_go):
        crash_in_mid_spawn(server, script, let_go)


@pytest.mark.skipif(sys.version_info < (3, 11), reason=NOT_HERE + "close_range(2) in subprocess")
@pytest.mark.parametrize("kill_mode", ["tree", "process"])
def test_a_crash_in_mid_spawn_that_hangs(server, tmp_path, kill_mode):
    """It has neither mark nor lock: a new exeio that was up before its exec was done left it behind."""
    with nasty.slow_program(tmp_path) as (script, _):
        body = {"id": "slow", "command": script, "kill_mode": kill_mode}
        with torture.in_thread(lambda: server.call("POST", "/add", body, timeout=3)):
            child, = wait_for(lambda: nasty.children(server.pid), what="the child")
            # It has closed what it has from exeio, the lock among it.
            wait_for(lambda: len(os.listdir(f"/proc/{child}/fd")) < 5, what="the child to close descriptors")
            server.kill()
        server.start()
        wait_for(lambda: not nasty.alive(child), what="the child to be ended")
    wait_for(lambda: open_runs(server) == [])


def crash_in_mid_spawn(server, script, let_go):
    with torture.in_thread(lambda: server.call("POST", "/add", {"id": "slow", "command": script}, timeout=3)):
        wait_for(lambda: nasty.children(server.pid), what="the child")
        child = nasty.children(server.pid)[0]
        server.kill()
    assert nasty.alive(child)
    with torture.in_thread(server.start):
        time.sleep(0.1)  # the new exeio waits for the lock
        let_go()
    wait_for(lambda: not nasty.alive(child), what="the child to be ended")
    assert copies(server, "slow") == []


def test_a_crash_in_mid_spawn_with_one_that_was_let_alone_long_before(server):
    """Each exeio counts its runs from 1: that one was taken for the main process, and this lived on."""
    server.sh("job", "sleep 1000 & exit 0", kill_mode="process")
    server.wait_status("job", "stopped")
    old, = wait_for(lambda: copies(server, "job"))
    plain, server.left = server.left, lambda: []  # it leaves it, as it should
    server.stop()
    server.start()
    server.left = plain
    server.sh("job", "exec sleep 1000", kill_mode="process")
    main = server.get("/status/job")["pid"]
    server.kill()
    runs = server.data_dir / "runs.jsonl"
    lines = [line for line in runs.read_text().split("\n") if line]
    assert [json.loads(line)["pid"] for line in lines] == [0, main]
    runs.write_text(lines[0] + "\n")  # it was killed before it could write the second one
    server.start()
    wait_for(lambda: not nasty.alive(main), what="the main process to be ended")
    assert nasty.alive(old)
    os.kill(old, signal.SIGKILL)


def test_the_second_exeio_says_who_holds_the_lock(server):
    result = run_exeio("--config-dir", server.config_dir, "--data-dir", server.data_dir, "-P", "0", home=server.folder)
    assert result.returncode == 1
    assert f"pid {server.pid}" in result.stderr and server.url in result.stderr


@pytest.mark.slow
def test_killed_again_and_again():
    torture.kill(rounds=5, seed=None)
