"""What `/list` keeps encoded is never old, and what the trees of processes use is read as seldom as can be."""

import collections
import json
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from support import wait_for

from exeio_core import proctree, usage
from exeio_core.listing import Listing
from exeio_core.logfile import LogFile
from exeio_core.process import Process
from exeio_core.spec import ProcessSpec
from exeio_core.usage import Sampler, _Family

LONG = "exec sleep 600"
on_linux = pytest.mark.skipif(not proctree.supported(), reason="not here: /proc")


class Machine:
    """As much of the machine as a listing needs."""

    def __init__(self, *ids):
        self.lock = threading.Lock()
        self.processes = {}
        for id in ids:
            self.add(id)

    def add(self, id, **fields):
        spec = ProcessSpec.from_json({"id": id, "command": "sleep", **fields})
        made = self.processes[id] = Process(spec, LogFile(f"/nowhere/{id}.log", 0, 0, ""), self.lock)
        return made

    def run(self, id, ago=0.0):
        run = SimpleNamespace(pid=0, started=time.monotonic() - ago, started_wall=time.time())
        with self.lock:
            process = self.processes[id]
            process.run = run
            process.state = process.state.UP
            process.touch()


@pytest.fixture
def machine():
    return Machine("b", "a", "c")


@pytest.fixture
def listing(machine):
    return Listing(machine, Sampler(machine))


def shown(listing):
    return {one["id"]: one for one in json.loads(listing.body())}


def test_it_is_what_the_views_are(machine, listing):
    machine.run("b", ago=100)
    got = json.loads(listing.body())
    with machine.lock:
        views = [machine.processes[id].view() for id in "abc"]
    uptimes = [one.pop("uptime_seconds") for one in views]
    assert [list(one) for one in got] == [[*one, "uptime_seconds"] for one in views], "also in this order"
    assert uptimes[0] is None and 0 <= uptimes[1] - got[1].pop("uptime_seconds") < 30
    for one in (got[0], got[2]):
        assert one.pop("uptime_seconds") is None
    assert got == views
    assert listing.counts() == {"manually_stopped": 2, "running": 1}


def test_what_did_not_change_is_not_encoded_again(machine, listing, monkeypatch):
    encoded = collections.Counter()

    def view(self):
        encoded[self.id] += 1
        return original(self)

    original = Process.view
    monkeypatch.setattr(Process, "view", view)
    monkeypatch.setattr(usage, "SAMPLE_SECONDS", 1000)
    for _ in range(5):
        listing.body()
    assert encoded == {"a": 1, "b": 1, "c": 1}
    machine.run("b")
    for _ in range(5):
        assert shown(listing)["b"]["status"] == "running"
    assert encoded == {"a": 1, "b": 2, "c": 1}


def test_the_uptime_grows_in_what_did_not_change(machine, listing):
    machine.run("a", ago=5)
    first = shown(listing)["a"]["uptime_seconds"]
    later = wait_for(lambda: shown(listing)["a"]["uptime_seconds"] - first)
    assert 5 <= first < 30 and later > 0


def test_a_percent_sign_is_a_percent_sign(machine, listing):
    text = "100% %s %.3f %% %"
    machine.add("d", args=[text], env={"A": text})
    machine.run("d")
    assert shown(listing)["d"]["args"] == [text]
    assert shown(listing)["d"]["args"] == [text]


def test_processes_come_and_go(machine, listing):
    assert list(shown(listing)) == ["a", "b", "c"]
    with machine.lock:
        old = machine.processes.pop("c")
    assert list(shown(listing)) == ["a", "b"]
    machine.add("c", args=["new"])
    assert shown(listing)["c"]["args"] == ["new"], "of the same id, in the same place"
    assert old is not machine.processes["c"]
    added = machine.add("d")
    added.provisional = True
    assert list(shown(listing)) == ["a", "b", "c"]
    assert sum(listing.counts().values()) == 3
    with machine.lock:
        added.provisional = False
        added.touch()
    assert list(shown(listing)) == ["a", "b", "c", "d"]
    with machine.lock:
        machine.processes.clear()
    assert listing.body() == b"[]"


def test_no_answer_is_older_than_its_request(machine, listing):
    """A fragment that is being encoded while its process changes must not be kept."""
    ended = threading.Event()
    failures = []

    def look():
        while not ended.is_set():
            for one in "abc":
                before = machine.processes[one].run_count
                count = shown(listing)[one]["run_count"]
                if count < before:
                    failures.append((one, count, before))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        for process in machine.processes.values():
            with machine.lock:
                process.run_count += 1
                process.touch()
    ended.set()
    for thread in threads:
        thread.join(10)
    assert failures == []


def test_100_processes_are_listed_many_times_faster_than_they_are_encoded():
    machine = Machine(*(f"p{number:03}" for number in range(100)))
    for id in machine.processes:
        machine.run(id)
    listing = Listing(machine, Sampler(machine))
    views = json.loads(listing.body())

    def best(call):
        times = []
        for _ in range(30):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return min(times)

    assert best(lambda: json.dumps(views).encode()) > 5 * best(listing.body)


# On a real server


def test_a_change_shows_in_the_very_next_list(server):
    server.sh("web", LONG)
    for _ in range(10):
        server.get("/list")
        server.post("/restart/web")
        one, = server.get("/list")
        assert one["status"] == "running" and one["pid"] == server.get("/status/web")["pid"]
        server.post("/stop/web")
        assert server.get("/list")[0]["status"] == "manually_stopped"
        server.post("/start/web")
        assert server.get("/list")[0]["status"] == "running"
        server.post("/update/web", {"args": ["-c", LONG, "x"]})
        assert server.get("/list")[0]["args"] == ["-c", LONG, "x"]
    server.post("/remove/web")
    assert server.get("/list") == []


HOG = """
import os, sys, time
memory = bytearray(64 << 20)
for place in range(0, len(memory), 4096):
    memory[place] = 1
if os.fork() == 0:
    os.setsid()  # it leaves the group; its parent leaves it to exeio
    print("ready", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass
time.sleep(60)
"""


@on_linux
def test_cpu_and_memory_are_those_of_the_whole_tree(server):
    server.add("hog", sys.executable, "-c", HOG)
    server.sh("idle", LONG)
    server.add("none", "true")
    wait_for(lambda: "ready" in server.log("hog"))

    def used():
        found = {one["id"]: one for one in server.get("/list")}
        return found if (found["hog"]["cpu_percent"] or 0) > 1 else None

    found = wait_for(used, what="the CPU of a grandchild that left the group")
    assert found["hog"]["memory_bytes"] > 128 << 20, "twice 64 MiB: each has its own, or is counted for it"
    assert 0 < found["idle"]["memory_bytes"] < 64 << 20
    assert found["idle"]["cpu_percent"] < 50
    server.wait_status("none", "stopped")
    one = server.get("/status/none")
    assert (one["cpu_percent"], one["memory_bytes"]) == (None, None)
    server.post("/stop/hog")
    one = server.get("/status/hog")
    assert (one["cpu_percent"], one["memory_bytes"]) == (None, None)
    server.post("/start/hog")
    assert server.get("/status/hog")["memory_bytes"] is not None, "at once; 0 in the middle of its exec"
    wait_for(lambda: server.get("/list")[0]["memory_bytes"], what="its exec to be done")


@on_linux
def test_proc_is_read_once_a_second_at_most(monkeypatch):
    machine = Machine("a", "b")
    sampler = Sampler(machine)
    listing = Listing(machine, sampler)
    reads = []

    def trees(runs):
        reads.append(len(runs))
        return {run: [] for run in runs}

    monkeypatch.setattr(sampler, "_trees", trees)
    assert usage.SAMPLE_SECONDS == 1
    monkeypatch.setattr(usage, "SAMPLE_SECONDS", 100)  # a busy machine may take a second for these rounds
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        listing.body()
    assert len(reads) == 1
    sampler._next = time.monotonic()
    listing.body()
    assert len(reads) == 2


@on_linux
def test_without_the_kernels_list_of_children_a_scan_tells_the_same(server):
    server.sh("tree", "sleep 600 & sh -c 'sleep 600; :' & wait")
    pid = server.get("/status/tree")["pid"]
    by_list = wait_for(lambda: found if len(found := proctree.descendants([pid])) == 4 else None)
    by_scan = _Family(proctree.scan()).descendants([pid])
    assert {one.pid for one in by_scan} == {one.pid for one in by_list}
    assert _Family(proctree.scan()).children(pid) and _Family([]).descendants([pid]) == []
