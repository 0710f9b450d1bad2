"""`GET /events`: each change of status once, in order, resumable; and `--on-event`, which hinders nobody."""

import http.client
import itertools
import json
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from support import run_exeio, wait_for

from exeio_core import eventstream, hook
from exeio_core.errors import StartupError
from exeio_core.events import RING, Events, to_json
from exeio_core.eventstream import EventStream
from exeio_core.hook import Hook
from exeio_core.lifecycle import Exit

LONG = "exec sleep 600"


class Follower:
    """A client of /events; `next` gives one event as (id, name, data)."""

    def __init__(self, server, query="", last_id=None, key=None):
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
        fields = {"exeio-api-key": key or server.key}
        if last_id is not None:
            fields["Last-Event-ID"] = last_id
        self.connection.request("GET", "/events" + query, headers=fields)
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        assert self.answer.getheader("Content-Type") == "text/event-stream"
        assert self.answer.readline() == b"retry: 1000\n", "it says at once that it is there"
        assert self.answer.readline() + self.answer.readline() == b": following\n\n"

    def next(self):
        fields = {}
        while True:
            line = self.answer.readline().decode()
            if not line:
                return None
            assert "still here" not in line, "nothing has come for 15 seconds"
            if line == "\n" and fields:
                return fields.get("id"), fields.get("event"), json.loads(fields["data"])
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = value

    def changes(self, count):
        """The next changes, short."""
        return [(data["id"], data["from"], data["to"]) for _, _, data in (self.next() for _ in range(count))]

    def close(self):
        self.answer.close()
        self.connection.close()


@pytest.fixture
def follow():
    """Opens followers; all are closed after the test."""
    made = []

    def start(*arguments, **more):
        made.append(Follower(*arguments, **more))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_the_life_of_a_process(server, follow):
    followed = follow(server)
    server.sh("web", LONG)
    pid = server.get("/status/web")["pid"]
    server.post("/stop/web")
    server.post("/start/web")
    second = server.get("/status/web")["pid"]
    server.post("/signal/web", {"signal": "KILL"})
    server.wait_status("web", "failed")
    server.post("/remove/web")
    got = [followed.next() for _ in range(8)]
    numbers = [int(id.partition("-")[2]) for id, _, _ in got]
    assert numbers == list(range(numbers[0], numbers[0] + 8))
    data = [one[2] for one in got]
    assert {one["id"] for one in data} == {"web"}
    killed, ended = {"code": None, "signal": "SIGKILL"}, {"code": None, "signal": "SIGTERM"}
    assert [(one["from"], one["to"], one["pid"], one["exit"], one["failed"]) for one in data] == [
        (None, "running", pid, None, False),
        ("running", "stopping", pid, None, False),
        ("stopping", "manually_stopped", pid, ended, False),
        ("manually_stopped", "running", second, None, False),
        ("running", "stopping", second, killed, True),
        ("stopping", "failed", second, killed, True),
        ("failed", "manually_stopped", None, None, False),
        ("manually_stopped", None, None, None, False),
    ]
    assert [one["run"] for one in data] == [1, 1, 1, 2, 2, 2, None, None]
    reasons = [one["reason"] for one in data]
    assert reasons[1] == "a stop was asked for" and reasons[4] == "killed by SIGKILL"
    assert reasons[5].startswith("killed by SIGKILL after ")
    assert all(one["at"].endswith("Z") and one["at"][:2] == "20" for one in data)


def test_restarts_and_schedules(server, follow):
    followed = follow(server)
    server.sh("again", "sleep 0.05; exit 3", auto_restart=True, restart_delay_seconds=0.05, max_restarts=1)
    assert followed.changes(6) == [
        ("again", None, "running"), ("again", "running", "stopping"), ("again", "stopping", "backoff"),
        ("again", "backoff", "running"), ("again", "running", "stopping"), ("again", "stopping", "failed")]
    server.sh("tick", "exit 0", periodic=True, period_seconds=600)
    assert followed.changes(3) == [
        ("tick", None, "running"), ("tick", "running", "stopping"), ("tick", "stopping", "waiting")]
    server.post("/stop/tick")
    assert followed.changes(1) == [("tick", "waiting", "manually_stopped")]
    server.sh("web", LONG)
    server.post("/restart/web")
    assert followed.changes(3) == [("web", None, "running"), ("web", "running", "stopping"),
                                   ("web", "stopping", "running")]


def test_what_was_never_there_is_not_told(server, follow):
    followed = follow(server)
    assert server.call("POST", "/add", {"id": "bad", "command": "/no/such/program"})[0] == 400
    server.add("later", "sleep", "600", start=False)
    assert followed.changes(1) == [("later", None, "manually_stopped")]
    assert server.call("POST", "/add", {"id": "short", "command": "false", "wait_seconds": 5})[0] == 409
    short = followed.changes(1)
    while short[-1][2] is not None:
        short += followed.changes(1)
    assert short[:2] == [("short", None, "running"), ("short", "running", "stopping")], "it was there, and is gone"


def test_a_follower_resumes_behind_the_last_event_it_saw(server, follow):
    first = follow(server)
    server.sh("a", LONG)
    id, _, data = first.next()
    assert data["to"] == "running"
    first.close()
    server.post("/stop/a")
    server.post("/start/a")
    again = follow(server, last_id=id)
    assert again.changes(3) == [("a", "running", "stopping"), ("a", "stopping", "manually_stopped"),
                                ("a", "manually_stopped", "running")]
    for foreign in ("18c-5", "x", "-", id + "0" * 30, "\u00e4".encode().decode("latin-1")):
        other = follow(server, last_id=foreign)
        assert other.changes(2) == [("a", None, "running"), ("a", "running", "stopping")], "from this start on"
        other.close()
    newest = follow(server)
    server.post("/stop/a")
    assert newest.changes(1) == [("a", "running", "stopping")], "without an id, from now on"


def test_one_process_alone(server, follow):
    followed = follow(server, "?id=b")
    server.sh("a", LONG)
    server.sh("b", LONG)
    server.post("/stop/a")
    server.post("/stop/b")
    assert followed.changes(3) == [
        ("b", None, "running"), ("b", "running", "stopping"), ("b", "stopping", "manually_stopped")]
    assert server.call("GET", "/events?id=-")[0] == 400
    assert server.call("GET", "/events?ids=b")[0] == 400
    assert server.call("GET", "/events", key="")[0] == 401
    assert server.call("HEAD", "/events")[0] == 200


def test_it_ends_at_the_shutdown_and_tells_of_it(server, follow):
    followed = follow(server)
    server.sh("web", LONG)
    assert followed.changes(1) == [("web", None, "running")]
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    id, name, data = followed.next()
    assert (data["to"], data["reason"]) == ("stopping", "exeio is shutting down")
    rest = list(itertools.takewhile(lambda one: one is not None, (followed.next() for _ in range(10))))
    assert len(rest) <= 1 and not any(data["failed"] for _, _, data in rest)
    server.stop()
    assert time.monotonic() - began < 5, "followers do not delay it"


def test_a_stream_ends_when_its_key_is_replaced(servers, tmp_path, follow):
    file = tmp_path / "read"
    file.write_text("a-key-that-only-reads")
    server = servers("--read-only-key-file", file)
    followed = follow(server, key="a-key-that-only-reads")
    server.sh("a", LONG)
    assert followed.changes(1) == [("a", None, "running")]
    file.write_text("another-key-that-only-reads")
    server.signal(signal.SIGHUP)
    wait_for(lambda: server.call("GET", "/list", key="a-key-that-only-reads")[0] == 401)
    server.post("/stop/a")
    assert followed.next() is None


def test_saved_processes_are_told_from_the_start_on(server, follow):
    server.sh("kept", LONG, save_for_next_run=True)
    server.sh("stopped", LONG, save_for_next_run=True)
    server.post("/stop/stopped")
    server.stop()
    server.start()
    followed = follow(server, last_id="none-of-this-start")
    got = sorted(followed.changes(2))
    assert got == [("kept", None, "running"), ("stopped", None, "manually_stopped")]


# The ring


@pytest.fixture
def ring():
    return Events(threading.Lock())


def add(ring, count, id="a"):
    for _ in range(count):
        with ring._lock:
            ring.add(id, "running", "stopping", None, 1, Exit(0), False, 1)


def test_the_ring_is_bounded_and_says_what_it_has_lost(ring):
    add(ring, RING + 10)
    changes, missed = ring.after(0, 0, lambda: False)
    assert (len(changes), missed) == (RING, 10)
    assert (changes[0].number, changes[-1].number) == (11, RING + 10)
    assert ring.after(ring.last - 1, 0, lambda: False)[0][0].number == ring.last
    assert ring.after(ring.last, 0, lambda: False) == ([], 0)
    stream = EventStream(ring, None, f"{ring.epoch}-5")
    next(stream)
    block = next(stream)
    assert block.startswith(b'event: gap\ndata: {"missed": 5}\n\nid: ' + ring.epoch.encode() + b"-11\n")
    assert block.count(b"data: ") == RING + 1


def test_a_quiet_stream_shows_that_it_lives(ring, monkeypatch):
    monkeypatch.setattr(eventstream, "HEARTBEAT", 0.01)
    stream = EventStream(ring, None, None)
    assert [next(stream) for _ in range(3)][1:] == [b": still here\n\n"] * 2
    add(ring, 1, "other")
    filtered = EventStream(ring, "a", f"{ring.epoch}-0")
    assert [next(filtered), next(filtered), next(filtered)][1:] == [b"", b": still here\n\n"]


def test_closing_a_stream_wakes_who_waits(ring):
    stream = EventStream(ring, None, None)
    next(stream)
    ended = threading.Event()

    def read():
        assert list(stream) == []
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    stream.close()
    assert ended.wait(10)
    thread.join(10)


def test_an_event_is_one_line_whatever_is_in_it(ring):
    with ring._lock:
        ring.add("a", None, "failed", "two\nlines\r\ndata: forged", None, None, True, None)
    stream = EventStream(ring, None, f"{ring.epoch}-0")
    next(stream)
    block = next(stream)
    assert block.count(b"\n") == 3 and b"\r" not in block
    assert to_json(ring.after(0, 0, lambda: False)[0][0])["at"].endswith("Z")


# --on-event


@pytest.fixture
def told(tmp_path):
    """A command that appends what it is told to a file, and the file's lines as JSON."""
    path = tmp_path / "told"

    def read():
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return f"sh -c 'cat >> {path}'", read


def test_a_program_is_told_each_change(servers, told):
    command, read = told
    server = servers("--on-event", command)
    server.sh("web", LONG)
    server.post("/stop/web")
    server.sh("bad", "for n in $(seq 30); do echo line $n; done; exit 7")
    wait_for(lambda: len(read()) == 6, what="six changes")
    assert [(one["id"], one["from"], one["to"], one["skipped"]) for one in read()] == [
        ("web", None, "running", 0), ("web", "running", "stopping", 0), ("web", "stopping", "manually_stopped", 0),
        ("bad", None, "running", 0), ("bad", "running", "stopping", 0), ("bad", "stopping", "failed", 0)]
    assert [("log" in one, one["failed"]) for one in read()] == [(False, False)] * 4 + [(True, True)] * 2
    for one in read()[4:]:
        lines = one["log"]
        assert len(lines) == 20 and one["exit"] == {"code": 7, "signal": None}
        assert any("line 30" in line for line in lines), "the last lines, though it has just ended"
    assert read()[5]["log"][-1].endswith("exited with code 7 after " + read()[5]["reason"].split(" after ")[1])


def test_a_program_that_hangs_delays_neither_requests_nor_the_shutdown(servers, tmp_path):
    command = f"sh -c 'trap \"\" TERM; echo begun >> {tmp_path}/begun; sleep 600 & sleep 600'"
    server = servers("--on-event", command)
    server.sh("web", LONG)
    wait_for((tmp_path / "begun").exists)
    began = time.monotonic()
    for _ in range(5):
        server.post("/restart/web")
    assert time.monotonic() - began < 5
    server.post("/stop/web")
    began = time.monotonic()
    server.stop()  # which sees that nothing is left
    assert time.monotonic() - began < 8


def test_what_a_killed_exeio_left_of_it_is_ended_by_the_next(servers, tmp_path):
    server = servers("--on-event", f"sh -c 'echo begun >> {tmp_path}/begun; exec sleep 600'")
    server.sh("web", LONG)
    wait_for((tmp_path / "begun").exists)
    server.kill()
    wait_for(lambda: len(server.left()) >= 2)
    server.options = ()
    server.start()
    wait_for(lambda: not server.left(), what="the rest of the one that was killed")


def test_a_program_that_fails_is_in_the_log(servers):
    server = servers("--on-event", "sh -c 'cat > /dev/null; echo some words; echo why it failed >&2; exit 3'")
    server.sh("web", LONG)
    log = server.logs / "exeio.log"
    wait_for(lambda: "why it failed" in log.read_text())
    line = next(line for line in log.read_text().splitlines() if "why it failed" in line)
    assert "--on-event for 'web': exited with code 3 after " in line


@pytest.mark.parametrize(("command", "words"), [
    ("/no/such/program now", "--on-event: "), ("'", "--on-event \"'\": No closing quotation"),
    (" ", "it must name a program")])
def test_a_program_that_cannot_be_run_is_said_at_the_start(tmp_path, command, words):
    ended = run_exeio("--port", "0", "--on-event", command, home=tmp_path)
    assert ended.returncode == 1 and words in ended.stderr.splitlines()[-1]


class Machine:
    """As much of the machine as a hook needs."""

    def __init__(self):
        self.lock = threading.Lock()
        self.events = Events(self.lock)
        self.instance = "test-of-hooks"
        self.processes = {}


@pytest.fixture
def hooked(tmp_path):
    """Makes a hook that is started; it is closed after the test."""
    made = []

    def start(command):
        machine, reports = Machine(), []
        made.append(Hook(command, machine, reports.append))
        made[-1].start()
        return machine.events, reports

    yield start
    for one in made:
        one.close(10)
        assert not one._thread.is_alive()
        one._wake.close()


def test_a_program_has_a_time_limit(hooked, monkeypatch):
    monkeypatch.setattr(hook, "LIMIT", 0.1)
    monkeypatch.setattr(hook, "_TERM_SECONDS", 0.1)
    ring, reports = hooked("sh -c 'trap \"\" TERM; sleep 600 & sleep 600'")
    add(ring, 1)
    wait_for(lambda: reports)
    assert reports == ["--on-event for 'a': was ended after 0.1 seconds"]


def test_a_program_that_reads_nothing_is_no_failure(hooked, tmp_path):
    ring, reports = hooked(f"sh -c 'exec 0<&-; echo x >> {tmp_path}/runs'")
    add(ring, 3)
    wait_for(lambda: (tmp_path / "runs").exists() and (tmp_path / "runs").read_text() == "x\n" * 3)
    assert reports == []


def test_many_changes_are_told_at_the_rate_and_then_the_latest_of_each(hooked, told, monkeypatch):
    monkeypatch.setattr(hook, "BURST", 2)
    monkeypatch.setattr(hook, "PERIOD", 0.05)
    command, read = told
    ring, reports = hooked(command)
    for _ in range(300):
        add(ring, 1, "a")
        add(ring, 1, "b")
    wait_for(lambda: {"a", "b"} <= {one["id"] for one in read()[-2:]} and
             sum(one["skipped"] + 1 for one in read()) == 600, 30, "all 600, told or skipped")
    assert len(read()) < 600 and reports == []
    before = len(read())
    began = time.monotonic()
    add(ring, 6)
    wait_for(lambda: len(read()) == before + 6)
    assert time.monotonic() - began > 3 * 0.05, "the rate is kept"


def test_a_flood_beyond_the_ring_is_counted(hooked, monkeypatch):
    monkeypatch.setattr(hook, "WAITING", 10)
    ring, reports = hooked("sh -c 'cat > /dev/null; sleep 0.2'")
    add(ring, 1)
    wait_for(lambda: ring.last == 1)
    add(ring, 3 * RING)
    wait_for(lambda: reports)
    assert "changes came too quickly and are not told" in reports[0]


def test_a_command_is_split_as_a_shell_would(tmp_path):
    with pytest.raises(StartupError, match="No closing quotation"):
        Hook("sh -c 'x", Machine(), print)
    made = Hook("sh -c 'echo \"a b\"' two", SimpleNamespace(), print)
    assert (made._spec.command, made._spec.args) == ("sh", ("-c", 'echo "a b"', "two"))
    made._wake.close()
