"""The life of processes in figures: how soon a killed one is back, and what 500 of them cost (`bench.py life`)."""

import os
import select
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from typing import Callable, Dict, Iterator, List, NamedTuple

from bench_server import KEY, Row, Server

COUNT = 500
#: Over so many an operator in a hurry adds them (`xargs -P`).
CONNECTIONS = 4
SLEEP = ["sleep", "100000"]
#: Something with a heap of its own to give back at its end, as services have.
PYTHON = ["python3", "-S", "-c", "import time; time.sleep(100000)"]


class Raw:
    """A client that costs next to nothing, so that what is measured is exeio: one connection, requests as bytes."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def post(self, path: str, body: str = "") -> bytes:
        self.send(path, body)
        return self.answer()

    def send(self, path: str, body: str) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nexeio-api-key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall((head + body).encode())

    def answer(self) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            more = self._socket.recv(65536)
            assert more, "exeio has closed the connection"
            data += more
        length = int(data.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        while len(data) < data.index(b"\r\n\r\n") + 4 + length:
            data += self._socket.recv(65536)
        assert data.startswith(b"HTTP/1.1 200 "), data[:300]
        return data

    def close(self) -> None:
        self._socket.close()


def bare(command: List[str], count: int) -> List["subprocess.Popen[bytes]"]:
    """Spawn with three pipes."""
    return [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(count)]


def end(children: List["subprocess.Popen[bytes]"]) -> float:
    """End bare children one after the other; returns seconds."""
    began = time.perf_counter()
    for child in children:
        child.terminate()
        child.wait()
    took = time.perf_counter() - began
    for child in children:
        for pipe in (child.stdin, child.stdout, child.stderr):
            assert pipe is not None
            pipe.close()
    return took


def restart() -> Iterator[Row]:
    """From `kill -9` of a good process to the first word of its successor, against that of a bare spawn.

    The word comes through a FIFO: asking exeio again and again would keep it from what is measured.
    """
    with tempfile.TemporaryDirectory(prefix="exeio-bench-") as folder, Server() as server:
        fifo = os.path.join(folder, "fifo")
        os.mkfifo(fifo)
        words = os.open(fifo, os.O_RDWR)
        command = ["/bin/sh", "-c", f"echo $$ > {fifo}; exec sleep 100000"]
        server.post("/add", {"id": "web", "command": command[0], "args": command[1:], "auto_restart": True,
                             "min_uptime_seconds": 0})
        pid = int(os.read(words, 100))
        ours, spawns = [], []
        for _ in range(20):
            began = time.perf_counter()
            children = bare(command, 1)
            os.read(words, 100)
            spawns.append(time.perf_counter() - began)
            end(children)
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            pid = int(os.read(words, 100))
            ours.append(time.perf_counter() - began)
        patience = time.monotonic() + 10  # the word may come before exeio has taken note of who says it
        while server.get("/status/web")["pid"] != pid:
            assert time.monotonic() < patience, "the last word is not of the process as listed"
        os.close(words)
    took, base = statistics.median(ours), statistics.median(spawns)
    yield Row("from `kill -9` to the successor's first word (median of 20)", f"{took * 1e3:.1f} ms",
              "a bare spawn", f"{base * 1e3:.1f} ms", None, "at most 4 ms more")


def many() -> Iterator[Row]:
    """500 processes: what they cost to add, to have and to stop; of five rounds the middle ones."""
    end(bare(SLEEP, COUNT))
    several = [_round(False, CONNECTIONS) for _ in range(5)]
    rounds = [_round(idle) for idle in (False, False, False, False, True)]
    base = f"{COUNT} bare Popen with three pipes"
    for how, added in ((f"over {CONNECTIONS} connections", several), ("one after the other", rounds)):
        one = sorted(added, key=lambda one: one.added / one.spawned)[len(added) // 2]
        yield Row(f"{COUNT} processes added through the API, {how} (of 5)", f"{one.added:.2f} s", base,
                  f"{one.spawned:.2f} s", one.added / one.spawned, "at most 2.5")
    yield from rounds[-1].rows
    rounds += several
    one = sorted(rounds, key=lambda one: one.stopped / one.ended)[len(rounds) // 2]
    yield Row("stop-all (of 10)", f"{one.stopped:.2f} s", f"{COUNT} bare ones ended one after the other",
              f"{one.ended:.2f} s", one.stopped / one.ended, "at most 3")
    yield from _stop_of_heavier_ones()


class _Round(NamedTuple):
    """Seconds for adding and for bare spawns, for stop-all and for ending bare ones; what they cost in between."""

    added: float
    spawned: float
    stopped: float
    ended: float
    rows: List[Row]


def _add(port: int, connections: int) -> None:
    """Add COUNT processes; over each connection one after the other."""
    free = [Raw(port) for _ in range(connections)]
    at_work: List[Raw] = []
    for number in range(COUNT):
        while not free:
            free, _, _ = select.select(at_work, [], [])
            for one in free:
                one.answer()
                at_work.remove(one)
        at_work.append(free.pop())
        at_work[-1].send("/add", f'{{"id": "p{number}", "command": "{SLEEP[0]}", "args": ["{SLEEP[1]}"]}}')
    for one in at_work:
        one.answer()
    for one in free + at_work:
        one.close()


def _round(idle: bool, connections: int = 1) -> _Round:
    """Add and stop COUNT processes; `idle`: also look at what they do in ten seconds."""
    rows: List[Row] = []
    with Server() as server:
        memory = server.rss()
        began = time.perf_counter()
        children = bare(SLEEP, COUNT)
        base = time.perf_counter() - began
        ended = end(children)
        began = time.perf_counter()
        _add(server.port, connections)
        added = time.perf_counter() - began
        each = (server.rss() - memory) / COUNT
        rows.append(Row("memory of exeio for each", f"{each:.0f} KB", "", "", None, "at most 64 KB"))
        threads = server.threads() - 2 * COUNT
        rows.append(Row("threads beside two for each", str(threads), "", "", None, "at most 16"))
        time.sleep(2)
        if idle:
            switches = server.switches()
            time.sleep(10)
            switches = server.switches() - switches
            rows.append(Row("idle for 10 s: context switches of all threads", str(switches), "", "", None,
                            "at most 10"))
        client = Raw(server.port)
        began = time.perf_counter()
        client.post("/stop-all")
        stopped = time.perf_counter() - began
        end_of_wait = time.monotonic() + 2
        while server.threads() > 24 and time.monotonic() < end_of_wait:
            time.sleep(0.01)
        gone = time.perf_counter() - began - stopped
        rows.append(Row(f"threads {gone:.2f} s after stop-all", str(server.threads()), "", "", None, "at most 24"))
        client.close()
    return _Round(added, base, stopped, ended, rows)


def _stop_of_heavier_ones() -> Iterator[Row]:
    """The same for processes with a heap."""
    children = bare(PYTHON, COUNT)
    time.sleep(10)
    ended = end(children)
    with Server() as server:
        client = Raw(server.port)
        for number in range(COUNT):
            arguments = ", ".join(f'"{one}"' for one in PYTHON[1:])
            client.post("/add", f'{{"id": "p{number}", "command": "{PYTHON[0]}", "args": [{arguments}]}}')
        time.sleep(10)
        began = time.perf_counter()
        client.post("/stop-all")
        took = time.perf_counter() - began
        client.close()
    yield Row(f"stop-all of {COUNT} Python processes", f"{took:.2f} s", "ended one after the other",
              f"{ended:.2f} s", took / ended, "at most 3")


SECTIONS: Dict[str, Callable[[], Iterator[Row]]] = {"restart": restart, "many": many}
