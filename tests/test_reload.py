"""`POST /reload` and SIGHUP: what an edited processes.json changes is applied and reported, and nothing else."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import wait_for

SLEEP = ["-c", "exec sleep 300"]


def entry(id, **more):
    return {"id": id, "command": "sh", "args": SLEEP, **more}


def write(server, *entries):
    (server.config_dir / "processes.json").write_text(json.dumps(entries))


def file_ids(server):
    return [one["id"] for one in json.loads((server.config_dir / "processes.json").read_text())]


def reloaded(server, status=200):
    code, answer = server.call("POST", "/reload")
    assert code == status, answer
    return {one["id"]: (one["success"], one["message"]) for one in answer["results"]}


def pid(server, id):
    return server.get(f"/status/{id}")["pid"]


def status(server, id):
    return server.get(f"/status/{id}")["status"]


def test_new_ones_start_and_missing_ones_are_removed(server):
    server.add("gone", "sh", *SLEEP, save_for_next_run=True)
    write(server, entry("new"), entry("idle", stopped=True))
    results = reloaded(server)
    assert {id: done for id, (done, _) in results.items()} == {"gone": True, "new": True, "idle": True}
    assert status(server, "new") == "running" and status(server, "idle") == "manually_stopped"
    assert server.call("GET", "/status/gone")[0] == 404
    assert all(one["saved"] for one in server.get("/list"))


def test_unchanged_and_unsaved_ones_are_not_touched(server):
    server.add("same", "sh", *SLEEP, save_for_next_run=True)
    server.add("own", "sh", *SLEEP)
    before = pid(server, "same"), pid(server, "own")
    assert reloaded(server) == {}
    assert (pid(server, "same"), pid(server, "own")) == before


def test_changed_ones_restart_where_the_run_has_it_and_only_there(server):
    server.add("a", "sh", *SLEEP, save_for_next_run=True)
    server.add("b", "sh", *SLEEP, save_for_next_run=True)
    before = pid(server, "a"), pid(server, "b")
    write(server, entry("a", env={"X": "1"}), entry("b", stop_timeout_seconds=3))
    results = reloaded(server)
    assert results["a"] == (True, "changed (env) and restarted")
    assert results["b"] == (True, "changed (stop_timeout_seconds)")
    assert pid(server, "a") not in (None, before[0]) and pid(server, "b") == before[1]


def test_an_unsaved_one_whose_id_appears_is_taken_over(server):
    server.add("own", "sh", *SLEEP)
    before = pid(server, "own")
    write(server, entry("own"))
    assert reloaded(server) == {"own": (True, "taken over")}
    shown = server.get("/status/own")
    assert (shown["pid"], shown["saved"]) == (before, True)


def test_a_changed_stopped_stops_and_starts(server):
    server.add("web", "sh", *SLEEP, save_for_next_run=True)
    write(server, entry("web", stopped=True))
    assert reloaded(server) == {"web": (True, "stopped")}
    assert status(server, "web") == "manually_stopped"
    write(server, entry("web"))
    assert reloaded(server) == {"web": (True, "started")}
    assert status(server, "web") == "running"


def test_one_that_cannot_start_is_its_own_result(server):
    write(server, {"id": "bad", "command": "no-such-program"}, entry("good"))
    results = reloaded(server, 500)
    assert results["good"] == (True, "added and started")
    done, words = results["bad"]
    assert not done and "No such file or directory" in words
    assert status(server, "bad") == "failed" and file_ids(server) == ["bad", "good"]


def test_a_changed_one_that_could_not_start_runs_on_as_it_was(server):
    server.add("web", "sh", *SLEEP, save_for_next_run=True)
    before = pid(server, "web")
    write(server, {"id": "web", "command": "no-such-program"})
    done, words = reloaded(server, 500)["web"]
    assert not done and "no-such-program" in words
    assert pid(server, "web") == before


@pytest.mark.parametrize("text", ["[{", '[{"id": "web"}]', '[{"id": "web", "command": "sh", "comand": 1}]', "{}"])
def test_an_invalid_file_changes_nothing(server, text):
    server.add("web", "sh", *SLEEP, save_for_next_run=True)
    before = pid(server, "web")
    path = server.config_dir / "processes.json"
    path.write_text(text)
    code, answer = server.call("POST", "/reload")
    assert code == 400 and "line 1, column" in answer["message"]
    assert pid(server, "web") == before and path.read_text() == text


def test_edits_that_are_not_reloaded_survive_what_the_api_saves(server):
    server.add("web", "sh", *SLEEP, save_for_next_run=True)
    write(server, entry("web", env={"EDITED": "1"}), entry("later"))
    server.add("api", "sh", *SLEEP, save_for_next_run=True)
    server.post("/stop/web")
    saved = {one["id"]: one for one in json.loads((server.config_dir / "processes.json").read_text())}
    assert sorted(saved) == ["api", "later", "web"]
    assert saved["web"]["env"] == {"EDITED": "1"} and saved["web"]["stopped"] is True
    assert sorted(reloaded(server)) == ["later", "web"]


def test_sighup_does_the_same_and_the_log_says_so(server):
    write(server, entry("new"))
    server.signal(signal.SIGHUP)
    wait_for(lambda: server.call("GET", "/status/new")[0] == 200 and status(server, "new") == "running")
    wait_for(lambda: "SIGHUP: new: added and started" in server.log("exeio"))
    (server.config_dir / "processes.json").write_text("[")
    server.signal(signal.SIGHUP)
    wait_for(lambda: "SIGHUP: nothing was changed: " in server.log("exeio"))
    assert status(server, "new") == "running"


def test_slow_stops_go_side_by_side(server):
    ids = [f"slow{number}" for number in range(6)]
    for id in ids:
        server.sh(id, "trap '' TERM; echo ready; while :; do sleep 0.1; done", save_for_next_run=True,
                  stop_timeout_seconds=1)
        wait_for(lambda id=id: "STDOUT: ready" in server.log(id))
    write(server)
    began = time.monotonic()
    assert sorted(reloaded(server)) == ids
    assert time.monotonic() - began < 5.5  # one after the other they would take six


def test_a_missing_one_that_is_being_removed_is_no_failure(server):
    """Its removal by a request, which took a while, was told as a failure of the reload."""
    server.sh("p", "trap '' TERM; echo ready; while :; do sleep 0.1; done", save_for_next_run=True,
              stop_timeout_seconds=1)
    wait_for(lambda: "STDOUT: ready" in server.log("p"))
    write(server)
    with ThreadPoolExecutor(1) as other:
        removal = other.submit(server.call, "POST", "/remove/p")
        wait_for(lambda: status(server, "p") == "stopping")
        assert reloaded(server) == {}
        assert removal.result()[0] == 200
    assert server.call("GET", "/status/p")[0] == 404
