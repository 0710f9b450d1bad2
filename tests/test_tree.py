"""The whole tree: nasty children crossed with every way to end them; afterwards nobody is left, and no zombie."""

import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import nasty
import pytest
from support import NOT_HERE, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason=NOT_HERE + "/proc")

# Grace for those that ignore the stop signal; the others end long before.
GRACE = 0.4


class Zoo:
    """All nasty children, each as a process of one server, and what a test wants to know about them."""

    def __init__(self, server):
        self.server = server
        self.instance = (server.data_dir / "instance-id").read_text().strip()
        self.go = server.folder / "go"
        self.names = sorted([*nasty.CHILDREN, "at-once"])
        if nasty.SYS_CLONE is None:  # a machine whose system calls nasty.py does not know by their numbers
            self.names = [name for name in self.names if name not in ("clone-parent", "main-thread-ends")]

    def fields(self, name):
        common = {"id": name, "stop_timeout_seconds": GRACE}
        if name == "at-once":
            return {**common, "command": "/bin/true"}
        return {**common, **nasty.command(name, self.go)}

    def each(self, do, names=None):
        """Do something for all children side by side; returns the results by name."""
        names = self.names if names is None else names
        with ThreadPoolExecutor(8) as pool:
            return dict(zip(names, pool.map(do, names)))

    def fill(self):
        def add(name):
            self.server.post("/add", self.fields(name))
            self.ready(name)
        self.each(add)
        assert len(self.marks("fork-loop")) >= 200
        status, answer = self.server.call("POST", "/input/plain", {"input": "never read " * 9000})
        assert status == 200, answer

    def ready(self, name, times=1):
        if name == "at-once":
            self.server.wait_status(name, "stopped")
            return
        wait_for(lambda: self.server.log(name).count("STDOUT: ready") >= times, 20, f"{name} to be ready")
        if name == "stopped":
            pid = self.server.get("/status/stopped")["pid"]
            wait_for(lambda: nasty.stat(pid)[0] == "T", what="it to stop itself")

    def marks(self, name, but_run=None):
        found = nasty.marks(self.instance)
        return sorted(pid for pid, (id, run) in found.items() if id == name and run != but_run)

    def unmarked(self, name, runs=1):
        """Those that wiped their mark, of the first so many runs."""
        pids = re.findall(r"STDOUT: pid (\d+)", self.server.log(name))
        return [int(pid) for pid in pids[:runs] if nasty.alive(int(pid))]

    def left(self, name, but_run=None):
        """Who is alive of a process, apart from one of its runs."""
        return self.marks(name, but_run) + self.unmarked(name)

    def nobody_is_left(self):
        """No process, and no zombie."""
        assert nasty.marks(self.instance) == {}
        assert [pid for name in self.names for pid in self.unmarked(name, 99)] == []
        wait_for(lambda: nasty.zombies(self.server.pid) == [], what="the zombies to be reaped")


@pytest.fixture
def zoo(server):
    zoo = Zoo(server)
    zoo.fill()
    return zoo


def ask(zoo, path, name, body=None):
    """A POST for one process and, at the moment of its answer, who is left of the first run."""
    status, answer = zoo.server.call("POST", f"/{path}/{name}", body)
    return status, answer["message"], zoo.left(name, but_run="2")


def test_stop(zoo):
    for name, (status, message, left) in zoo.each(lambda name: ask(zoo, "stop", name)).items():
        assert (name, status, message, left) == (name, 200, f"Process {name!r} stopped", [])
        assert zoo.server.get(f"/status/{name}")["status"] == "manually_stopped"
    zoo.nobody_is_left()


def test_remove(zoo):
    for name, (status, message, left) in zoo.each(lambda name: ask(zoo, "remove", name)).items():
        assert (name, status, message, left) == (name, 200, f"Process {name!r} removed", [])
        assert zoo.server.call("GET", f"/status/{name}")[0] == 404
    assert zoo.server.get("/list") == []
    zoo.nobody_is_left()


def runs_anew(zoo, name):
    """The second run is there, whole, and the first is gone."""
    zoo.ready(name, 2)
    shown = zoo.server.get(f"/status/{name}")
    assert (shown["status"], shown["run_count"]) == ("stopped" if name == "at-once" else "running", 2)
    assert zoo.left(name, but_run="2") == []


@pytest.mark.slow
def test_restart(zoo):
    for name, (status, message, left) in zoo.each(lambda name: ask(zoo, "restart", name)).items():
        assert (name, status, message, left) == (name, 200, f"Process {name!r} restarted", [])
    zoo.each(lambda name: runs_anew(zoo, name))


@pytest.mark.slow
def test_update(zoo):
    change = {"env": {"CHANGED": "1"}}
    for name, (status, message, left) in zoo.each(lambda name: ask(zoo, "update", name, change)).items():
        assert (name, status, left) == (name, 200, [])
        assert ("restarted" in message) is (name != "at-once"), message
    zoo.each(lambda name: runs_anew(zoo, name), [name for name in zoo.names if name != "at-once"])


@pytest.mark.slow
def test_reload_of_a_file_that_has_none_of_them(zoo):
    zoo.each(lambda name: zoo.server.post(f"/update/{name}", {"save_for_next_run": True}))
    (zoo.server.config_dir / "processes.json").write_text("[]")
    answer = zoo.server.post("/reload")
    assert answer["results"] == [{"id": name, "success": True, "message": "removed"} for name in zoo.names]
    assert zoo.server.get("/list") == []
    zoo.nobody_is_left()


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["stop-all", "restart-all"])
def test_all(zoo, operation):
    answer = zoo.server.post(f"/{operation}")
    left = {name: zoo.left(name, but_run="2") for name in zoo.names}
    assert left == {name: [] for name in zoo.names}
    word = {"stop-all": "stopped", "restart-all": "restarted"}[operation]
    assert answer["results"] == [{"id": name, "success": True, "message": word} for name in zoo.names]
    if operation == "restart-all":
        zoo.each(lambda name: runs_anew(zoo, name))
    else:
        assert {one["status"] for one in zoo.server.get("/list")} == {"manually_stopped"}
        zoo.nobody_is_left()


@pytest.mark.slow
def test_signal(zoo):
    """The main process is killed by it; the rest follows without being asked for."""
    results = zoo.each(lambda name: zoo.server.call("POST", f"/signal/{name}", {"signal": "KILL"}))
    assert results.pop("at-once") == (409, {"success": False, "message": "'at-once' is not running"})
    for name, (status, answer) in results.items():
        assert (name, status) == (name, 200), answer
        shown = zoo.server.wait_status(name, "failed")
        assert (shown["exit_signal"], shown["exit_code"], shown["pid"]) == ("SIGKILL", None, None)
        assert zoo.marks(name) == []
    zoo.nobody_is_left()


def test_end_by_itself(zoo):
    zoo.go.touch()
    os.kill(zoo.server.get("/status/stopped")["pid"], signal.SIGCONT)
    for name in zoo.names:
        shown = zoo.server.wait_status(name, "stopped")
        assert (name, shown["exit_code"]) == (name, 0)
        assert zoo.marks(name) == []
    zoo.nobody_is_left()


@pytest.mark.parametrize("way", ["request", "signal"])
def test_the_end_of_exeio(zoo, way):
    if way == "request":
        zoo.server.post("/shutdown")
    else:
        zoo.server.signal(signal.SIGTERM)
    assert zoo.server.process.wait(15) == 0
    assert nasty.marks(zoo.instance) == {}
    assert [pid for name in zoo.names for pid in zoo.unmarked(name, 99)] == []


def test_the_end_of_one_that_is_traced(server):
    """Its tracer would have to be told first: it was listed as running, and exeio was busy waiting."""
    go = server.folder / "go"
    server.post("/add", {"id": "traced", **nasty.command("traced", go)})
    wait_for(lambda: "STDOUT: ready" in server.log("traced"), 20)
    go.touch()
    assert server.wait_status("traced", "stopped")["exit_code"] == 0
    wait_for(lambda: nasty.zombies(server.pid) == [], what="it to be reaped")
