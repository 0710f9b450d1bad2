"""How fast logs are taken and read: each figure beside a baseline of the same run (`python3 tests/bench.py logs`)."""

import contextlib
import functools
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Tuple

from bench_server import KEY, Row, Server

LINES = 1_000_000
LINE = b"x" * 99 + b"\n"
#: Writes LINES lines of 100 bytes to stdout in blocks, as a program behind a pipe does.
WRITER = f"""
import os
block = (b"x" * 99 + b"\\n") * 640
for _ in range({LINES} // 640 + 1):
    view = memoryview(block)
    while view:
        view = view[os.write(1, view):]
"""
#: Writes one line with each write, as a program with line buffering does.
ONE_BY_ONE = """
import os
for number in range(100_000):
    os.write(1, b"%099d\\n" % number)
"""
#: Follows all logs `count` times; says so on stdout once each connection was answered.
FOLLOWER = """
import select, socket, sys
port, count, key = sys.argv[1:]
poll = select.poll()
followers = {}
for _ in range(int(count)):
    one = socket.create_connection(("127.0.0.1", int(port)))
    one.sendall(f"GET /logs?follow=true HTTP/1.1\\r\\nHost: x\\r\\nexeio-api-key: {key}\\r\\n\\r\\n".encode())
    assert one.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    followers[one.fileno()] = one
    poll.register(one, select.POLLIN)
print("ready", flush=True)
while True:
    for fd, _ in poll.poll():
        followers[fd].recv(1 << 20)
"""


def taken(server: Server, script: str, count: int = 1) -> Tuple[float, float]:
    """Run a script in `count` processes at once; returns seconds until the last has ended, and exeio's CPU seconds."""
    ids = [f"bench{number}" for number in range(count)]
    used = server.cpu()
    began = time.perf_counter()
    for id in ids:
        server.post("/add", {"id": id, "command": sys.executable, "args": ["-c", script]})
    for id in ids:
        server.wait_status(id, "stopped")
    took = time.perf_counter() - began
    used = server.cpu() - used
    for id in ids:
        server.post(f"/remove/{id}?purge=true", {})
    return took, used


def direct(script: str, command: str, folder: str, count: int = 1) -> float:
    """Run a script in `count` processes with stdout going through a shell command; returns seconds."""
    began = time.perf_counter()
    running = [subprocess.Popen(["sh", "-c", f'"$0" -c "$1" {command}', sys.executable, script], cwd=folder)
               for _ in range(count)]
    for one in running:
        assert one.wait() == 0
    return time.perf_counter() - began


def best(measure: Callable[[], Any], times: int = 3) -> Any:
    return min(measure() for _ in range(times))


def ingest() -> Iterator[Row]:
    """Taking what processes write."""
    folder = tempfile.mkdtemp(prefix="exeio-bench-")
    with Server("--log-max-bytes", "0") as server:
        base = best(lambda: direct(WRITER, "> out", folder))
        took, cpu = best(lambda: taken(server, WRITER))
        yield Row("1,000,000 lines of 100 bytes into the log", f"{took:.2f} s", "the program writing to a file",
                  f"{base:.2f} s", took / base, "at most 3")
        yield Row("exeio's CPU for each GB", f"{cpu * 1e9 / (LINES * len(LINE)):.2f} s", "", "", None, "at most 1.5 s")
        # The best of three here as well: memory that a virtual machine has not used yet comes at half the speed.
        together, cpu = best(lambda: taken(server, WRITER, 10))
        share = (10 * took) / together
        yield Row("ten processes at once, bytes a second", f"{10 * LINES * len(LINE) / together / 1e6:.0f} MB/s", "one",
                  f"{LINES * len(LINE) / took / 1e6:.0f} MB/s", share, "at least 0.8")
        yield Row("exeio's CPU for each GB of theirs", f"{cpu * 1e8 / (LINES * len(LINE)):.2f} s", "", "", None,
                  "at most 1.5 s")
        base = best(lambda: direct(ONE_BY_ONE, "| cat > out", folder))
        took, _ = best(lambda: taken(server, ONE_BY_ONE))
        yield Row("100,000 lines, one write each", f"{took:.2f} s", "through `cat` into a file", f"{base:.2f} s",
                  took / base, "keeps up")
    shutil.rmtree(folder)


def pages() -> Iterator[Row]:
    """Reading a log of 1 GB."""
    with Server("--log-max-bytes", "0") as server:
        path = _fill(server, "big")
        server.post("/add", {"id": "big", "command": "sleep", "args": ["1000"], "start": False})
        before = server.rss()
        base = best(lambda: _timed(lambda: _scan(path)))
        took = best(lambda: _first_page(server, path))
        yield Row("a log of 1 GB: the first page", f"{took:.2f} s", "a `.count(b'\\n')` scan of it", f"{base:.2f} s",
                  took / base, "at most 1.5")
        total = server.get("/logs/big")["total_pages"]
        seed = random.randrange(1 << 30)
        chosen = random.Random(seed)
        base = statistics.median(_timed(lambda: server.get("/info")) for _ in range(200))
        took = statistics.median(
            _timed(lambda: server.get(f"/logs/big?page={chosen.randint(1, total)}")) for _ in range(200))
        yield Row(f"any page of it (median of 200, seed {seed})", f"{took * 1e3:.2f} ms", "`/info`",
                  f"{base * 1e3:.2f} ms", took / base, "at most 5")
        yield Row("memory that takes", f"{(server.rss() - before) / 1024:.1f} MB", "", "", None, "under 16 MB")


def quiet_and_busy() -> Iterator[Row]:
    """What others notice of a process that writes flat out, and that of those who follow it."""
    with Server("--log-max-bytes", "100000000", "--log-backups", "1") as server:
        base = _percentile(_times(server, "/list", 300))
        server.post("/add", {"id": "flood", "command": "yes", "args": ["x" * 99]})
        took = _percentile(_times(server, "/list", 300))
        yield Row("`/list` while a process writes flat out (99th percentile)", f"{took * 1e3:.1f} ms", "quiet",
                  f"{base * 1e3:.1f} ms", took / base, "under 30 ms or 3")
    with Server("--log-max-bytes", "100000000", "--log-backups", "1") as server:
        base, _ = taken(server, WRITER)
        with _followers(server, 64):
            took, _ = taken(server, WRITER)
        yield Row("1,000,000 lines of a log with 64 followers", f"{took:.2f} s", "without", f"{base:.2f} s",
                  took / base, "")


def search() -> Iterator[Row]:
    """What requests and restarts notice of a search through 1 GB: the slowest of them, and that of a quiet time."""
    with Server("--log-max-bytes", "0") as server:
        _fill(server, "big")
        server.post("/add", {"id": "big", "command": "sleep", "args": ["1000"], "start": False})
        server.post("/add", {"id": "one", "command": "sleep", "args": ["1000"]})
        measured: List[Tuple[str, Callable[[], List[float]]]] = [
            *((f"`{path}`, slowest of 300", functools.partial(_times, server, path, 300))
              for path in ("/info", "/list", "/logs/big?page=1000")),
            ("a restart, slowest of 20", lambda: [_timed(lambda: server.post("/restart/one", {})) for _ in range(20)])]
        server.get("/logs/big")
        quiet = {what: max(measure()) for what, measure in measured}
        for query in ("contains=not+there", "stream=stdout&contains=7"):
            with _searching(server, f"/logs/big?page_size=1&{query}"):
                for what, measure in measured:
                    took = max(measure())
                    yield Row(f"beside a search for `{query}` in 1 GB: {what}", f"{took * 1e3:.1f} ms", "quiet",
                              f"{quiet[what] * 1e3:.1f} ms", took / quiet[what], "at most 20 ms more")


@contextlib.contextmanager
def _searching(server: Server, path: str) -> Iterator[None]:
    """Ask for this again and again, on another connection."""
    stop = threading.Event()

    def ask() -> None:
        connection = server.fresh()
        while not stop.is_set():
            connection.get(path)

    searcher = threading.Thread(target=ask)
    searcher.start()
    try:
        yield
    finally:
        stop.set()
        searcher.join()


@contextlib.contextmanager
def _followers(server: Server, count: int) -> Iterator[None]:
    """Connections that follow all logs, read by a program of its own as fast as it can."""
    command = [sys.executable, "-c", FOLLOWER, str(server.port), str(count), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        try:
            yield
        finally:
            reader.kill()


def flood() -> Iterator[Row]:
    """`yes` for ten seconds."""
    with Server("--log-max-bytes", "10000000", "--log-backups", "2") as server:
        server.post("/add", {"id": "yes", "command": "yes", "args": ["y" * 99]})
        time.sleep(2)
        before = server.rss()
        most = 0
        end = time.monotonic() + 8
        while time.monotonic() < end:
            sizes = [_size(os.path.join(server.logs, name)) for name in os.listdir(server.logs) if name[:3] == "yes"]
            most = max(most, sum(sizes))
            time.sleep(0.05)
        grown = f"{(server.rss() - before) / 1024:+.1f} MB"
        yield Row("`yes` for 10 s, rotated at 10 MB with 2 backups: memory", grown, "", "", None, "constant")
        yield Row("the same: disk at most", f"{most / 1e6:.1f} MB", "3 files of 10 MB", "30.0 MB", most / 30e6,
                  "bounded")


def _fill(server: Server, id: str) -> str:
    """Write a log of 1 GB; returns its path."""
    path = os.path.join(server.logs, f"{id}.log")
    block = b"".join(b"[2026-01-01 00:00:00] STDOUT: %095d\n" % number for number in range(8000))
    with open(path, "wb") as file:
        for _ in range(1000):
            file.write(block)
    return path


def _first_page(server: Server, path: str) -> float:
    """Return how long the first page takes; a log that was changed meanwhile is as new to exeio as after a start."""
    os.utime(path)
    return _timed(lambda: server.get("/logs/big?page=1&page_size=50"))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _scan(path: str) -> int:
    found = 0
    with open(path, "rb", buffering=0) as file:
        while True:
            block = file.read(1 << 20)
            if not block:
                return found
            found += block.count(b"\n")


def _timed(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _times(server: Server, path: str, count: int) -> List[float]:
    return [_timed(lambda: server.get(path)) for _ in range(count)]


def _percentile(times: List[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


SECTIONS: Dict[str, Callable[[], Iterator[Row]]] = {
    "ingest": ingest, "pages": pages, "others": quiet_and_busy, "search": search, "flood": flood}
