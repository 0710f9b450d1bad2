"""`serve --daemon`: it listens when the caller returns, is detached then, and what kept it from starting is told."""

import json
import os
import stat
import subprocess
import sys

import pytest
from support import NOT_HERE, PROGRAM, Server, clean_environment, run_exeio, wait_for


@pytest.fixture
def detached(tmp_path):
    """Runs `serve --daemon` in a folder of its own; what listens at the end is shut down."""
    folders = ["--config-dir", tmp_path / "config", "--data-dir", tmp_path / "data"]

    def run(*options, env=None):
        return run_exeio("serve", "--daemon", *folders, *options, home=tmp_path, env=env)

    run.data = tmp_path / "data"
    run.client = lambda *words: run_exeio(*folders, *words, home=tmp_path)
    yield run
    if (run.data / "run.json").exists():
        pid = json.loads((run.data / "run.json").read_text())["pid"]
        assert run.client("shutdown").returncode == 0
        wait_for(lambda: gone(pid), what="the daemon")
    output = run.data / "exeio.out"
    assert not output.exists() or "Traceback" not in output.read_text()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:  # nobody may be there to reap it, where the tests run in a container
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_listens_when_the_caller_returns(detached):
    started = detached("--port", "0")
    assert (started.returncode, started.stdout.count("\n")) == (0, 5), started.stderr
    assert started.stdout.startswith("Process Supervisor starting on port ")
    info = json.loads(detached.client("info", "--json").stdout)
    assert f"on port {info['url'].rpartition(':')[2]} at" in started.stdout, "also with --port 0"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason=NOT_HERE + "/proc")
def test_it_is_detached(detached, tmp_path):
    assert detached("--port", "0").returncode == 0
    pid = json.loads((detached.data / "run.json").read_text())["pid"]
    assert os.getsid(pid) != os.getsid(0)
    assert os.getsid(pid) != pid, "the leader of a session could get a terminal"
    output = detached.data / "exeio.out"
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null", str(output), str(output)]
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert os.readlink(f"/proc/{pid}/cwd") == str(tmp_path), "children start where they would without --daemon"
    pipes = [link for link in map(link_of, [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")])
             if link.startswith("pipe:")]
    mine = {link_of(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert not set(pipes) & mine


def link_of(path):
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


def test_the_echo_goes_to_the_file(detached):
    assert detached("--port", "0", "--echo").returncode == 0
    detached.client("add", "web", "--", "echo", "hello")
    wait_for(lambda: "[web] hello\n" in (detached.data / "exeio.out").read_text())


def test_what_keeps_it_from_starting_is_told_with_its_status(detached, server):
    taken = detached("--port", server.port)
    assert taken.returncode == 1
    assert f"port {server.port}: the port is in use" in taken.stderr.splitlines()[-1]
    assert taken.stderr.splitlines()[-1].startswith("exeio: ")
    assert detached("--port", "x").returncode == 2
    assert detached("--port", "0").returncode == 0
    second = detached("--port", "0")
    assert (second.returncode, second.stdout) == (1, "")
    assert "is already running on the data folder" in second.stderr
    assert (detached.data / "exeio.out").read_text() == "", "the failures were told, they are not written there"


def test_no_folder_to_write_to(tmp_path):
    (tmp_path / "data").write_text("")
    failed = run_exeio("--daemon", "--data-dir", tmp_path / "data", home=tmp_path)
    assert failed.returncode == 1 and "cannot make the folder" in failed.stderr
    (tmp_path / "other" / "exeio.out").mkdir(parents=True)
    failed = run_exeio("--daemon", "--data-dir", tmp_path / "other", home=tmp_path)
    assert failed.returncode == 1 and "exeio: cannot detach: Is a directory: " in failed.stderr


def test_it_runs_with_closed_descriptors(detached, tmp_path):
    """As cron or an init script may start it."""
    command = [sys.executable, str(PROGRAM), "--daemon", "--port", "0", "--config-dir", str(tmp_path / "config"),
               "--data-dir", str(tmp_path / "data")]
    script = 'exec "$@" <&- >/dev/null'
    done = subprocess.run(["/bin/sh", "-c", script, "sh", *command], env=clean_environment(tmp_path), timeout=30,
                          capture_output=True, check=False, cwd=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert detached.client("add", "web", "--", "cat").returncode == 0
    assert detached.client("input", "web", "hello").returncode == 0
    wait_for(lambda: "STDOUT: hello" in detached.client("logs", "web").stdout)


# --exit-with


def test_exeio_ends_with_a_process_and_its_exit_code():
    server = Server("--exit-with", "main")
    try:
        server.start()
        server.sh("other", "exit 4")
        server.wait_status("other", "failed")
        server.sh("side", "trap 'echo bye; exit' TERM; echo ready; while :; do sleep 0.02; done")
        wait_for(lambda: "ready" in server.log("side"))
        server.sh("main", "exit 3")
        assert server.process.wait(10) == 3
        assert "STDOUT: bye" in server.log("side"), "the others are stopped as at any shutdown"
        assert "main is over" in server.log("exeio") and "process supervisor stopped" in server.log("exeio")
    finally:
        server.process = None
        server.close()


@pytest.mark.parametrize(("fields", "status"), [
    ({"command": "/bin/sh", "args": ["-c", "kill -KILL $$"]}, 137),
    ({"command": "/bin/sh", "args": ["-c", "exit 0"]}, 0),
    ({"command": "/bin/sh", "args": ["-c", "exit 5"], "auto_restart": True, "max_restarts": 2,
      "restart_delay_seconds": 0.01}, 5),
    ({"command": "/bin/sh", "args": ["-c", "exit 0"], "auto_restart": True, "restart_policy": "on-failure"}, 0),
    ({"command": "no-such-program"}, 127),
])
def test_a_saved_process_ends_it_too(fields, status):
    server = Server("--exit-with", "main")
    server.config_dir.mkdir(mode=0o700)
    (server.config_dir / "processes.json").write_text(json.dumps([{"id": "main", **fields}]))
    try:
        done = run_exeio(*server.command()[4:], home=server.folder)
        assert done.returncode == status, done.stderr
    finally:
        server.close()


def test_what_is_no_end_for_good_does_not_end_it(servers):
    server = servers("--exit-with", "main")
    server.sh("main", "exec sleep 100", auto_restart=True, restart_delay_seconds=0.01)
    pid = server.get("/status/main")["pid"]
    os.kill(pid, 9)
    wait_for(lambda: server.get("/status/main")["pid"] not in (None, pid), what="the restart")
    server.post("/restart/main")
    server.post("/stop/main")
    server.post("/start/main")
    assert server.call("POST", "/update/main", {"command": "no-such"})[0] == 400
    server.post("/remove/main")
    assert server.call("POST", "/add", {"id": "main", "command": "no-such"})[0] == 400
    assert server.get("/list") == []


def test_sigterm_is_no_end_of_the_process(servers):
    server = servers("--exit-with", "main")
    server.sh("main", "trap 'exit 9' TERM; while :; do sleep 0.02; done")
    server.stop(status=0)
