"""Requests that meet: each is answered as if they had been sent one by one, also while a spawn hangs."""

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nasty
import pytest
import torture
from support import NOT_HERE, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason=NOT_HERE + "leases of files")


class Asked:
    """A request that is sent from a thread, and its answer."""

    def __init__(self, server, path, body=None):
        self.answer = None
        self._thread = threading.Thread(target=self._ask, args=(server, path, body))
        self._thread.start()

    def _ask(self, server, path, body):
        self.answer = server.call("POST", path, body)

    def result(self):
        self._thread.join(20)
        assert self.answer is not None, "no answer"
        return self.answer[0]

    @property
    def waits(self):
        return self.answer is None


@pytest.fixture
def slow(tmp_path):
    """A script that cannot be executed before it is let go: its path, and the function that does it."""
    with nasty.slow_program(tmp_path) as made:
        yield made


def states(server):
    return {one["id"]: one["status"] for one in server.get("/list")}


@pytest.fixture
def starting(server, slow):
    """A process in the middle of a start, the request that waits for it, and what lets it go on."""
    script, let_go = slow
    server.post("/add", {"id": "job", "command": script, "start": False})
    start = Asked(server, "/start/job")
    wait_for(lambda: states(server) == {"job": "backoff"}, what="it to be starting")
    return server, start, let_go


def test_what_is_being_added_is_not_there_yet(server, slow):
    """remove ended in a KeyError when the add it met failed, or took a later process of that id out of the table."""
    script, let_go = slow
    add = Asked(server, "/add", {"id": "job", "command": script})
    wait_for(lambda: nasty.children(server.pid), what="it to be started")
    for path in ("remove", "stop", "start", "restart", "update", "signal"):
        assert server.call("POST", f"/{path}/job", {"signal": "HUP"} if path == "signal" else None)[0] == 404
    assert add.waits
    let_go()
    assert add.result() == 200
    assert states(server)["job"] == "running"


@pytest.mark.skipif(sys.version_info < (3, 11), reason=NOT_HERE + "close_range(2) in subprocess")
def test_a_spawn_that_hangs_delays_none_that_was_begun_with_it(server, slow):
    """It held the pipes of the others, and they waited for each other's exec."""
    script, let_go = slow
    slow_ones = [Asked(server, "/add", {"id": f"slow{number}", "command": script}) for number in range(3)]
    others = [Asked(server, "/add", {"id": f"other{number}", "command": "true"}) for number in range(20)]
    assert {other.result() for other in others} == {200}
    assert all(one.waits for one in slow_ones)
    let_go()
    assert {one.result() for one in slow_ones} == {200}


def test_an_add_waits_for_what_becomes_of_another(server, tmp_path):
    """It was refused because of one that failed itself."""
    script = tmp_path / "broken"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with nasty.held(script) as let_go:
        first = Asked(server, "/add", {"id": "job", "command": str(script)})
        wait_for(lambda: hangs(server), what="the first to hang")
        second = Asked(server, "/add", {"id": "job", "command": "sleep", "args": ["1000"]})
        let_go()
        assert (first.result(), second.result()) == (400, 200)
    assert states(server) == {"job": "running"}


def hangs(server):
    """Whether a thread of the server waits for somebody to give up a lease."""
    tasks = Path(f"/proc/{server.pid}/task").iterdir()
    return any("break_lease" in (task / "wchan").read_text() for task in tasks)


def test_what_is_starting_says_so_and_is_due_since(starting):
    """Its next_run was null, which in backoff is none at all."""
    server, start, let_go = starting
    shown = server.get("/status/job")
    assert (shown["status"], shown["status_reason"], shown["is_running"]) == ("backoff", "starting", False)
    assert shown["next_run"] and server.get("/status/job")["next_run"] == shown["next_run"]
    let_go()
    assert start.result() == 200
    began = server.wait_status("job", "running")
    assert began["next_run"] is None and began["started_at"] >= shown["next_run"]


def test_stop_while_it_starts(starting):
    server, start, let_go = starting
    stop = Asked(server, "/stop/job")
    wait_for(lambda: states(server) == {"job": "stopping"}, what="the stop to be known")
    let_go()
    assert (start.result(), stop.result()) == (200, 200)
    assert states(server) == {"job": "manually_stopped"}
    assert server.left() == []


def test_start_after_a_stop_that_came_while_it_started(starting):
    """It was refused as running already, though the stop had been promised."""
    server, first, let_go = starting
    assert Asked(server, "/stop/job?wait=false").result() == 202
    second = Asked(server, "/start/job")
    assert second.waits
    let_go()
    assert (first.result(), second.result()) == (200, 200)
    shown = server.get("/status/job")
    assert (shown["status"], shown["run_count"]) == ("running", 2)


def test_remove_while_it_starts(starting):
    server, start, let_go = starting
    remove = Asked(server, "/remove/job")
    wait_for(lambda: "being removed" in server.call("POST", "/start/job")[1]["message"], what="the removal to begin")
    let_go()
    assert remove.result() == 200
    assert start.result() in (200, 404)
    assert states(server) == {} and server.left() == []


def test_restart_while_it_starts(starting):
    server, start, let_go = starting
    restart = Asked(server, "/restart/job")
    let_go()
    assert (start.result(), restart.result()) == (200, 200)
    wait_for(lambda: server.get("/status/job")["status"] == "running")
    wait_for(lambda: len(server.left()) == 1)


def test_a_stop_that_overtakes_the_restart_of_an_update(starting):
    """The update started again what had been stopped."""
    server, start, let_go = starting
    update = Asked(server, "/update/job", {"env": {"A": "1"}})
    wait_for(lambda: server.get("/config/job?secrets=true")["env"] == {"A": "1"}, what="the update to be known")
    assert Asked(server, "/stop/job?wait=false").result() == 202
    let_go()
    assert (start.result(), update.result()) == (200, 200)
    server.wait_status("job", "manually_stopped")
    assert server.get("/status/job")["run_count"] == 1 and server.left() == []


def test_restart_all_does_not_wait_for_one_that_hangs(starting):
    server, start, let_go = starting
    server.sh("zebra", "exec sleep 1000")
    everything = Asked(server, "/restart-all")
    wait_for(lambda: server.get("/status/zebra")["run_count"] == 2, what="the other to be restarted")
    assert everything.waits
    let_go()
    assert (start.result(), everything.result()) == (200, 200)


def test_restart_all_leaves_out_what_is_being_removed(server):
    """It failed for it, with a 500 for all."""
    server.sh("leaving", "trap '' TERM; echo ready; while :; do sleep 0.05; done", stop_timeout_seconds=3)
    server.sh("other", "exec sleep 1000")
    wait_for(lambda: "ready" in server.log("leaving"))
    removal = Asked(server, "/remove/leaving")
    server.wait_status("leaving", "stopping")
    assert server.post("/restart-all") == {"success": True, "message": "1 process restarted", "results": [
        {"id": "other", "success": True, "message": "restarted"}]}
    assert removal.result() == 200 and [shown["id"] for shown in server.get("/list")] == ["other"]


def test_restart_all_leaves_out_what_is_stopped_meanwhile(server):
    """It failed for it, with a 500 for all, though it would not have, had it been sent before or after the stop."""
    server.sh("slow", "trap '' TERM; echo ready; while :; do sleep 0.05; done", stop_timeout_seconds=2)
    server.sh("other", "exec sleep 1000")
    wait_for(lambda: "ready" in server.log("slow"))
    with ThreadPoolExecutor(1) as pool:
        everything = pool.submit(server.post, "/restart-all")
        server.wait_status("slow", "stopping")
        assert Asked(server, "/stop/slow").result() == 200
        assert everything.result() == {"success": True, "message": "1 process restarted", "results": [
            {"id": "other", "success": True, "message": "restarted"}]}
    assert server.get("/status/slow")["status"] == "manually_stopped"


def test_shutdown_while_it_starts(starting):
    server, start, let_go = starting
    server.signal(signal.SIGTERM)
    wait_for(lambda: "shutting down" in (server.logs / "exeio.log").read_text())
    assert Asked(server, "/add", {"id": "late", "command": "true"}).result() == 503
    let_go()
    assert start.result() in (200, 503)
    server.stop()


def test_a_restart_under_way_at_the_shutdown_is_answered(server):
    """It was not answered before all time limits had passed, and then not at all."""
    server.sh("job", "trap '' TERM; echo ready; while :; do sleep 0.05; done", stop_timeout_seconds=60)
    wait_for(lambda: "ready" in server.log("job"))
    restart = Asked(server, "/restart/job")
    server.wait_status("job", "stopping")
    server.signal(signal.SIGTERM)
    wait_for(lambda: "shutting down" in server.log("exeio"))
    server.signal(signal.SIGTERM)  # the grace is skipped
    assert restart.result() == 503
    server.stop()


@pytest.mark.slow
def test_a_storm_of_requests():
    """Eight clients at once: every answer is one of an order in which they could have been sent (see torture.py)."""
    assert torture.random_storm(2, None) > 100
