"""`GET /metrics` by the rules of Prometheus' text format, and `GET /health` when something does not work."""

import os
import re
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from support import need, wait_for

from exeio_core import __version__, proctree
from exeio_core.health import LATE, Health
from exeio_core.metrics import _Page
from exeio_core.traffic import BUCKETS, Traffic

LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\n"])*",?)+)\})? (-?[0-9.e+-]+|\+Inf|NaN)')
KINDS = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def parse(text):
    """The page as {(name, labels): value}; every rule of the format that is broken is an AssertionError."""
    found, kinds, helped, current = {}, {}, set(), ""
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split()[2]
            assert current not in helped, "all series of a metric stand together"
            helped.add(current)
        elif line.startswith("# TYPE "):
            assert line.split()[2] == current
            kinds[current] = line.split()[3]
        else:
            name, labels, value = LINE.fullmatch(line).groups()
            assert name in [current + end for end in KINDS[kinds[current]]], line
            pairs = dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', labels or ""))
            key = (name, frozenset(pairs.items()))
            assert key not in found, line
            found[key] = float(value)
    assert set(kinds) == helped
    return found


@pytest.fixture
def scraped(server):
    """Gives the value of a series, of a page that was just fetched."""
    def get(name, **labels):
        return scrape(server).get((name, frozenset(labels.items())))
    return get


def scrape(server):
    status, text = server.call("GET", "/metrics")
    assert status == 200
    return parse(text)


def test_the_page_of_a_life(server, scraped):
    server.sh("web", "echo one; echo two; exec sleep 600")
    server.sh("bad", "exit 7")
    server.sh("dead", "kill -KILL $$")
    server.sh("again", "exit 0", auto_restart=True, restart_delay_seconds=0.01, max_restarts=2)
    server.add("later", "true", start=False)
    server.wait_status("bad", "failed")
    server.wait_status("dead", "failed")
    server.wait_status("again", "failed")
    wait_for(lambda: "two" in server.log("web"))

    def settled():
        """A page once the last answer is counted, and "web" was not looked at in the middle of its exec."""
        page = scrape(server)
        added = [page.get((f"exeio_http_{name}", frozenset(labels.items()))) for name, labels in (
            ("requests_total", {"method": "POST", "path": "/add", "status": "200"}),
            ("request_duration_seconds_count", {"path": "/add"}))]
        memory = page.get(("exeio_process_resident_memory_bytes", frozenset({("id", "web")})), 0)
        return page if added == [5, 5] and (memory > 100_000 or not proctree.supported()) else None

    page = wait_for(settled, what="the page of five that were added")

    def value(name, **labels):
        return page[name, frozenset(labels.items())]

    def of(id, name):
        return page.get((f"exeio_process_{name}", frozenset({("id", id)})))

    assert value("exeio_processes", status="running") == 1
    assert value("exeio_processes", status="failed") == 3
    assert value("exeio_processes", status="manually_stopped") == 1
    assert value("exeio_processes", status="backoff") == 0
    assert {id: of(id, "up") for id in ("web", "bad", "dead", "again", "later")} == {
        "web": 1, "bad": 0, "dead": 0, "again": 0, "later": 0}
    assert of("web", "uptime_seconds") > 0 and of("bad", "uptime_seconds") == 0
    assert {id: of(id, "last_exit_code") for id in ("web", "bad", "dead", "later")} == {
        "web": None, "bad": 7, "dead": 137, "later": None}
    assert (of("again", "starts_total"), of("again", "restarts_total")) == (3, 2)
    log = (server.logs / "web.log").read_bytes()
    assert of("web", "log_bytes_total") == len(log) and of("web", "log_lines_total") == log.count(b"\n") == 3
    assert of("web", "log_dropped_lines_total") == 0
    if proctree.supported():
        assert of("web", "tree_processes") == 1 and of("web", "resident_memory_bytes") > 100_000
        assert of("web", "cpu_seconds") >= 0
        assert of("bad", "resident_memory_bytes") is None
        assert value("process_resident_memory_bytes") > 5_000_000 and value("process_open_fds") > 5
    assert 0 <= value("exeio_watchdog_lag_seconds") < LATE
    assert abs(value("process_start_time_seconds") - time.time()) < 60
    assert any(name == "exeio_build_info" and ("version", __version__) in labels for name, labels in page)
    assert value("exeio_http_requests_total", method="POST", path="/add", status="200") == 5
    assert value("exeio_http_request_duration_seconds_count", path="/add") == 5
    assert value("exeio_http_request_duration_seconds_bucket", path="/add", le="+Inf") == 5
    assert value("exeio_http_request_duration_seconds_sum", path="/add") > 0


def test_promtool_finds_nothing_to_complain_about(server):
    tool = need("promtool")
    server.sh("web", "echo one; exec sleep 600")
    server.sh("bad", "exit 7")
    server.wait_status("bad", "failed")
    server.call("GET", "/nothing")
    text = server.call("GET", "/metrics")[1]
    checked = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_clients_make_no_series_of_their_own(server, scraped):
    for number in range(20):
        server.call("GET", f"/secret-{number}")
        server.call(f"BREW{number}", "/list")
        server.call("GET", f"/status/nobody-{number}")
        server.call("GET", "/list", key=f"wrong-key-{number}")
    server.call("GET", "/logs/none?follow=true")

    def requests():
        """All but those for this page, by their labels."""
        return {labels: value for (name, labels), value in scrape(server).items()
                if name == "exeio_http_requests_total" and ("path", "/metrics") not in labels}

    # The last one is counted after its answer was sent.
    wait_for(lambda: sum(requests().values()) >= 4 * 20 + 1, what="all requests to be counted")
    assert requests() == {
        frozenset({("method", method), ("path", path), ("status", status)}): count for method, path, status, count in (
            ("GET", "other", "404", 20), ("other", "/list", "405", 20), ("GET", "/status/{id}", "404", 20),
            ("GET", "/list", "401", 20), ("GET", "/logs/{id}", "404", 1))}


def test_counters_never_fall(server):
    server.sh("web", "while :; do echo x; sleep 0.01; done")
    pages = []
    for _ in range(10):
        server.get("/list")
        pages.append(scrape(server))
    for before, after in zip(pages, pages[1:]):
        for (name, labels), value in before.items():
            if name.endswith(("_total", "_bucket", "_sum", "_count")):
                assert after[name, labels] >= value, name


def test_the_page_needs_a_key_and_health_needs_none(server):
    assert server.call("GET", "/metrics", key="")[0] == 401
    assert server.call("GET", "/health", key="") == (200, {"success": True, "message": "watchdog and store work"})
    assert server.call("HEAD", "/health", key="")[0] == 200
    assert server.call("GET", "/health", key="a-wrong-key-of-a-probe")[0] == 200
    assert server.call("POST", "/health", key="")[0] == 401


def test_values_and_labels_as_the_format_has_them():
    page = _Page()
    page.add("a", "gauge", "About.", [((("l", 'quo"te \\ new\nline'),), 1), ((), 0.25), ((("m", "x"),), 1e-7)])
    page.add("b", "counter", "Nothing.", [])
    assert page.text() == (
        b'# HELP a About.\n# TYPE a gauge\na{l="quo\\"te \\\\ new\\nline"} 1\na 0.25\na{m="x"} 1e-07\n')


def test_durations_are_sorted_into_buckets():
    traffic = Traffic()
    for seconds in (0.0, BUCKETS[0], 0.0007, 100.0):
        traffic.count("GET", "/list", 200, seconds)
    traffic.count("GET", "/list", 200, None)
    durations = traffic.durations()["/list"]
    assert durations.counts == [2, 1, *[0] * (len(BUCKETS) - 2), 1]
    assert durations.seconds == pytest.approx(100.0 + BUCKETS[0] + 0.0007)
    assert traffic.requests() == {("GET", "/list", 200): 5}


def test_no_count_is_lost_between_threads():
    traffic = Traffic()

    def count():
        for _ in range(2000):
            traffic.count("GET", "/list", 200, 0.001)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert traffic.requests() == {("GET", "/list", 200): 16_000}
    assert sum(traffic.durations()["/list"].counts) == 16_000


# Health


class Watchdog:
    """One that answers a call after `delay` seconds, or (None) never."""

    def __init__(self, delay):
        self.delay, self.calls, self.last_round, self.lives = delay, 0, 0.0, True

    def alive(self):
        return self.lives

    def wake(self):
        self.calls += 1
        if self.delay is not None:
            timer = threading.Timer(self.delay, self.come_round)
            timer.start()
            timer.join(self.delay + 10 if self.delay == 0 else 0)

    def come_round(self):
        self.last_round = time.monotonic()


def make(tmp_path, delay=0.0):
    machine = SimpleNamespace(
        closing=False, watchdog=Watchdog(delay), ender=SimpleNamespace(alive=lambda: True, last_round=0.0))
    return machine, Health(machine, str(tmp_path / "processes.json"))


def test_health_asks_the_watchdog_once_a_second_at_most(tmp_path):
    machine, health = make(tmp_path)
    assert [health.trouble() for _ in range(50)] == [None] * 50
    assert machine.watchdog.calls == 1


def test_a_slow_watchdog_shows_in_its_lag(tmp_path):
    _, health = make(tmp_path, 0.1)
    assert health.lag() >= 0.1
    assert health.trouble() is None


def test_a_watchdog_that_does_not_answer_is_told_and_hinders_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("exeio_core.health.LATE", 2.5)
    machine, health = make(tmp_path, None)
    told = []
    first = threading.Thread(target=lambda: told.append(health.trouble()))
    first.start()
    wait_for(lambda: machine.watchdog.calls)
    began = time.monotonic()
    health.lag()
    assert time.monotonic() - began < 2, "who comes meanwhile does not wait"
    first.join(10)
    seconds = re.fullmatch(r"the watchdog has not answered for (\d+\.\d) seconds", told[0])
    assert float(seconds[1]) >= 2.5
    assert "has not answered" in health.trouble()
    machine.watchdog.come_round()
    health._asked -= 10
    machine.watchdog.delay = 0
    assert health.trouble() is None, "it has come back"


def test_each_other_trouble_is_told(tmp_path, monkeypatch):
    machine, health = make(tmp_path)
    machine.ender.alive = lambda: False
    assert "ends processes" in health.trouble()
    machine.watchdog.lives = False
    assert "the watchdog does not run" in health.trouble()
    machine.closing = True
    assert health.trouble() == "exeio is shutting down"
    _, health = make(tmp_path / "missing")
    assert "the folder of processes.json" in health.trouble()
    assert str(tmp_path) not in health.trouble(), "nothing for strangers"
    _, health = make(tmp_path)
    full = SimpleNamespace(f_blocks=10, f_bavail=0)
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    assert "no room left" in health.trouble()


def test_health_is_503_while_nothing_can_be_saved(server):
    assert server.call("GET", "/health", key="")[0] == 200
    aside = server.folder / "aside"
    server.config_dir.rename(aside)
    try:
        status, answer = server.call("GET", "/health", key="")
        assert status == 503 and answer["success"] is False and "cannot be saved" in answer["message"]
    finally:
        aside.rename(server.config_dir)
    assert server.call("GET", "/health", key="")[0] == 200
    (server.config_dir / "processes.json").write_text("{ half an edi")
    assert server.call("GET", "/health", key="")[0] == 200, "an edit is no reason to restart exeio"


def test_the_real_watchdog_answers_quickly(server):
    lags = [scrape(server)["exeio_watchdog_lag_seconds", frozenset()] for _ in range(3)]
    assert min(lags) < 1
