"""When a process is started again and when not, when a schedule runs, and that what is announced comes true."""

import datetime
import re
import signal
import time

import pytest
from support import Server, wait_for

QUICK = {"restart_delay_seconds": 0.1, "restart_delay_max_seconds": 0.1}


@pytest.fixture(scope="module")
def shared():
    """One server for the tests that need none of their own."""
    server = Server().start()
    yield server
    server.close()


def moment(text):
    """Seconds since 1970 of a time as the API shows it."""
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc).timestamp()


def ended(server, id):
    return server.wait_status(id, "stopped", "failed", "backoff")


@pytest.mark.parametrize(("fields", "script", "comes_back", "status"), [
    ({}, "exit 0", False, "stopped"),
    ({}, "exit 3", False, "failed"),
    ({"success_exit_codes": [0, 3]}, "exit 3", False, "stopped"),
    ({"success_exit_codes": [3]}, "exit 0", False, "failed"),
    ({}, "kill -TERM $$", False, "failed"),
    ({"auto_restart": True}, "exit 0", True, "backoff"),
    ({"auto_restart": True}, "exit 3", True, "backoff"),
    ({"auto_restart": True, "restart_policy": "on-failure"}, "exit 0", False, "stopped"),
    ({"auto_restart": True, "restart_policy": "on-failure"}, "exit 3", True, "backoff"),
    ({"auto_restart": True, "restart_policy": "on-failure", "success_exit_codes": [0, 3]}, "exit 3", False, "stopped"),
    ({"auto_restart": True, "restart_policy": "on-failure"}, "kill -KILL $$", True, "backoff"),
    ({"auto_restart": True, "max_restarts": 0}, "exit 3", False, "failed"),
])
def test_policy(shared, fields, script, comes_back, status):
    id = f"job{len(shared.get('/list'))}"
    shared.sh(id, script, restart_delay_seconds=3600, restart_delay_max_seconds=3600, **fields)
    shown = ended(shared, id)
    assert (shown["status"], shown["run_count"]) == (status, 1)
    assert (shown["next_run"] is not None) is comes_back
    if comes_back:
        assert 3200 < moment(shown["next_run"]) - time.time() < 4000, "an hour, and a tenth more or less"


def test_what_is_announced_comes_true(server):
    server.sh("job", "exit 1", auto_restart=True, restart_delay_seconds=0.5, restart_delay_max_seconds=0.5)
    for _ in range(2):
        shown = server.wait_status("job", "backoff")
        announced, run = moment(shown["next_run"]), shown["run_count"] + 1
        began = moment(wait_for(lambda run=run: (one := server.get("/status/job"))["run_count"] >= run
                                and one["last_run"]))
        assert -0.01 < began - announced < 5, "at its time, and not at that of another run"


def test_what_is_due_is_not_started_when_auto_restart_is_switched_off(server):
    """It was: an update in the back-off counted for the run after that one."""
    server.sh("job", "exit 3", auto_restart=True, restart_delay_seconds=3600, restart_delay_max_seconds=3600)
    server.wait_status("job", "backoff")
    server.post("/update/job", {"auto_restart": False})
    shown = server.get("/status/job")
    assert (shown["status"], shown["next_run"], shown["is_running"]) == ("failed", None, False)
    assert shown["status_reason"].startswith("exited with code 3 after ")
    server.post("/start/job")
    assert ended(server, "job")["run_count"] == 2


def test_delays_double_up_to_the_longest(server):
    server.sh("job", "exit 1", auto_restart=True, restart_delay_seconds=0.1, restart_delay_max_seconds=0.35)
    wait_for(lambda: server.log("job").count("restarting in") >= 4)
    delays = [float(text) for text in re.findall(r"restarting in ([\d.]+) s", server.log("job"))]
    for delay, planned in zip(delays, (0.1, 0.2, 0.35, 0.35)):
        assert planned * 0.89 < delay < planned * 1.11
    assert len({round(delay / planned, 2) for delay, planned in zip(delays, (0.1, 0.2, 0.35, 0.35))}) > 1, \
        "those that failed together shall not come back together"


def test_a_good_run_begins_anew(server):
    """The next rapid exit is the first again, and it counts no restarts before it."""
    flag = server.folder / "good"
    server.sh("job", f"[ -e {flag} ] && {{ rm {flag}; sleep 0.6; }}; exit 1", auto_restart=True, min_uptime_seconds=0.5,
              restart_delay_seconds=0.05, restart_delay_max_seconds=60, max_restarts=6)
    wait_for(lambda: server.log("job").count("restarting in") >= 3)
    flag.touch()
    after_it = re.compile(r"SYSTEM \S+ restarting\n.*?restarting in ([\d.]+) s", re.DOTALL)
    again = wait_for(lambda: after_it.search(server.log("job")))
    assert float(again[1]) < 0.06
    server.wait_status("job", "failed")
    assert server.get("/status/job")["run_count"] > 7


def test_after_a_good_run_it_is_back_at_once(server):
    server.sh("job", "exec sleep 1000", auto_restart=True, min_uptime_seconds=0.1, restart_delay_seconds=3600)
    first = server.get("/status/job")["pid"]
    wait_for(lambda: server.get("/status/job")["uptime_seconds"] > 0.1)
    server.post("/signal/job", {"signal": "KILL"})
    shown = wait_for(lambda: (one := server.get("/status/job"))["pid"] not in (None, first) and one)
    assert (shown["restarts"], shown["run_count"]) == (1, 2)


def test_a_schedule_that_slept_catches_up_with_one_run(server):
    """SIGSTOP is to exeio what suspend is to the machine; no run follows another before its time."""
    server.add("tick", "true", periodic=True, period_seconds=0.4)
    wait_for(lambda: server.get("/status/tick")["run_count"] >= 2)
    server.signal(signal.SIGSTOP)
    asleep = time.monotonic() + 1.4
    wait_for(lambda: time.monotonic() > asleep)
    server.signal(signal.SIGCONT)
    before = server.get("/status/tick")["run_count"]
    wait_for(lambda: server.get("/status/tick")["run_count"] >= before + 5)
    starts = sorted(moment(run["started_at"]) for run in server.get("/status/tick")["history"])
    gaps = [after - one for one, after in zip(starts, starts[1:])]
    # A tick each 0.4 s would be one run more; of three or four that were missed, one is caught up with.
    assert max(gaps) > 1 and len(starts) < (starts[-1] - starts[0]) / 0.4 + 0.5, gaps
    back = gaps.index(max(gaps)) + 1
    apart = [(after - one + 0.1) % 0.4 for one in starts[:back] for after in starts[back + 1:]]
    assert min(apart) < 0.2, f"only the run that caught up is out of step: {starts}"


def test_two_runs_never_overlap_though_one_ignores_its_time_limit(server):
    script = "trap '' TERM; echo begin; (trap '' TERM; sleep 1000) & sleep 1000; wait"
    server.sh("tick", script, periodic=True, period_seconds=0.3, run_timeout_seconds=0.5, stop_timeout_seconds=0.3)
    most = 0
    deadline = time.monotonic() + 20
    while server.get("/status/tick")["run_count"] < 4 and time.monotonic() < deadline:
        most = max(most, len(server.left()))
    assert most <= 4, "the shell, its subshell and their sleeps"
    history, log = server.get("/status/tick")["history"], server.log("tick")
    for run in history:
        deaf = f"RUN#{run['run']} STDOUT: begin" in log  # else a busy machine has not let it come that far
        assert run["timed_out"] and (run["exit_signal"] == "SIGKILL" or not deaf), run
    assert "STDOUT: begin" in log
    spans = sorted((moment(run["started_at"]), run["duration_seconds"]) for run in history)
    assert all(began + took <= after for (began, took), (after, _) in zip(spans, spans[1:]))
    assert "skipped" in server.log("tick")
