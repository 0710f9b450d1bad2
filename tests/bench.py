#!/usr/bin/env python3
"""Figures, each beside a baseline of the same run, in a Markdown table: `bench.py start ingest idle logs life http`.

Without a name all of these but the last three, which take minutes. Nothing but the standard library is needed, but for
http, which needs wrk. `bench.py peers` measures exeio beside supervisord, circus and pm2, those of them that are on
PATH.
"""

import contextlib
import http.client
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Callable, Dict, Iterator, List, Tuple

import bench_http
import bench_life
import bench_logs
import bench_peers
from bench_server import ROOT, Row, Server, table

STARTS = 21
BARE = "import http.server, subprocess, threading, json, argparse"
SLEEPERS = 100
IDLE_SECONDS = 10.0


def start() -> Iterator[Row]:
    """From the start to the first answer, against an interpreter that imports what anything of this kind needs."""
    with tempfile.TemporaryDirectory(prefix="exeio-bench-") as folder:
        command = [sys.executable, str(ROOT / "exeio.py"), "--port", "0", "--no-echo", "--config-dir",
                   os.path.join(folder, "config"), "--data-dir", os.path.join(folder, "data")]
        _first_answer(command)  # the byte code and the key are made now
        ours, bare = [], []
        for _ in range(STARTS):  # in turn, so that whatever else the machine does meets both
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", BARE], check=True)
            bare.append(time.perf_counter() - began)
            ours.append(_first_answer(command))
    for name, pick in (("best", min), ("median", statistics.median)):
        took, base = pick(ours), pick(bare)
        yield Row(f"start to first answer ({name} of {STARTS})", f"{took * 1e3:.0f} ms", f"`python3 -c '{BARE}'`",
                  f"{base * 1e3:.0f} ms", took / base, "at most 2")


def _first_answer(command: List[str]) -> float:
    """Start exeio and ask for /info as soon as it says where it is; returns seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    with process, process.stdout as banner:
        port = int(banner.readline().split(" on port ")[1].split()[0])
        connection = http.client.HTTPConnection("127.0.0.1", port)
        with contextlib.closing(connection):
            connection.request("GET", "/info")
            with connection.getresponse() as answer:
                assert answer.status == 200
                answer.read()
            took = time.perf_counter() - began
        process.terminate()
    assert process.returncode == 0
    return took


def ingest() -> Iterator[Row]:
    """A million lines from a process into its log, with the default rotation, and each of them is there."""
    folder = tempfile.mkdtemp(prefix="exeio-bench-")
    with Server() as server:
        pairs: List[Tuple[float, float]] = []
        for _ in range(3):
            base = bench_logs.direct(bench_logs.WRITER, "> out", folder)
            pairs.append((bench_logs.taken(server, bench_logs.WRITER)[0], base))
        server.post("/add", {"id": "count", "command": sys.executable, "args": ["-c", bench_logs.WRITER]})
        server.wait_status("count", "stopped")
        lines = server.get("/logs/count?stream=stdout&page_size=1")["total_lines"]
        written = os.path.getsize(os.path.join(folder, "out")) // 100
        assert lines == written, f"{lines} lines in the log instead of {written}"
    shutil.rmtree(folder)
    took, base = (min(times) for times in zip(*pairs))
    yield Row("1,000,000 lines of 100 bytes into the log (best of 3)", f"{took:.2f} s", "the program writing to a file",
              f"{base:.2f} s", took / base, "at most 4")


def idle() -> Iterator[Row]:
    """What exeio does while nothing happens."""
    with Server() as server:
        for number in range(SLEEPERS):
            server.post("/add", {"id": f"sleeper-{number}", "command": "sleep", "args": ["100000"]})
        _wait_until_quiet(server)
        switches, cpu = server.switches(), server.cpu()
        time.sleep(IDLE_SECONDS)
        switches, cpu = server.switches() - switches, server.cpu() - cpu
        what = f"{SLEEPERS} sleeping processes for {IDLE_SECONDS:g} s"
        threads = f"context switches of all {server.threads()} threads"
        yield Row(f"{what}: {threads}", str(switches), "", "", None, "at most 10")
        yield Row(f"{what}: CPU", f"{cpu:.2f} s", "", "", None, "")


def _wait_until_quiet(server: Server) -> None:
    """Wait for a second without a context switch, for a minute at most: the last request has left nothing to do."""
    before = server.switches()
    for _ in range(60):
        time.sleep(1)
        now = server.switches()
        if now == before:
            return
        before = now


def logs() -> Iterator[Row]:
    """All figures of logs."""
    return itertools.chain.from_iterable(section() for section in bench_logs.SECTIONS.values())


def life() -> Iterator[Row]:
    """All figures of the life of processes."""
    return itertools.chain.from_iterable(section() for section in bench_life.SECTIONS.values())


def http_() -> Iterator[Row]:
    """All figures of the API."""
    if bench_http.needs():
        sys.exit(bench_http.needs())
    return itertools.chain.from_iterable(section() for section in bench_http.SECTIONS.values())


SECTIONS: Dict[str, Callable[[], Iterator[Row]]] = {
    "start": start, "ingest": ingest, "idle": idle, "logs": logs, "life": life, "http": http_}
SLOW = ("logs", "life", "http")


def main() -> None:
    """Run the sections that are named, and print their table."""
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        del os.environ[name]  # such as PYTHONDONTWRITEBYTECODE, with which each start would compile anew
    if sys.argv[1:2] == ["peers"]:
        bench_peers.main(sys.argv[2:])
        return
    names = sys.argv[1:] or [name for name in SECTIONS if name not in SLOW]
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        sys.exit(f"There is no section {unknown[0]!r}; they are: {', '.join(SECTIONS)}.")
    print(table([row for name in names for row in SECTIONS[name]()]))


if __name__ == "__main__":
    main()
