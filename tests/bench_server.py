"""A server to measure, started without pytest, and the rows of the table."""

import atexit
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
KEY = "a key for the benchmark"
_TICK = os.sysconf("SC_CLK_TCK")


class Row(NamedTuple):
    """A line of the table: what, its figure, the baseline of the same run, the ratio and what it should be."""

    what: str
    figure: str
    baseline: str
    base: str
    ratio: Optional[float]
    wanted: str

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return f"| {self.what} | {self.figure} | {self.baseline} | {self.base} | {ratio} | {self.wanted} |"


HEAD = "| what | exeio | baseline | figure | ratio | wanted |\n|---|---|---|---|---|---|"


class Server:
    """exeio in folders of its own, with one keep-alive connection to it."""

    def __init__(self, *options: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="exeio-bench-")
        self.logs = os.path.join(self.folder, "data", "logs")
        command = [sys.executable, str(ROOT / "exeio.py"), "--port", "0", "--no-echo", "--config-dir",
                   os.path.join(self.folder, "config"), "--data-dir", os.path.join(self.folder, "data"), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env={**os.environ, "EXEIO_API_KEY": KEY})
        assert self.process.stdout is not None
        banner = [self.process.stdout.readline() for _ in range(5)]
        self.port = int(banner[0].split(" on port ")[1].split()[0])
        self.pid = self.process.pid
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()
        self.process.terminate()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        # Not before the last figure: for some minutes ext4 looks at each inode that was deleted before it gives out a
        # new one (recently_deleted in fs/ext4/ialloc.c), which made the adds of a third run take twice the time.
        atexit.register(shutil.rmtree, self.folder)

    def fresh(self) -> "Connection":
        """A connection of its own, for another thread."""
        return Connection(self.port)

    def get(self, path: str) -> Any:
        return _call(self._connection, "GET", path, None)

    def post(self, path: str, body: Dict[str, Any]) -> Any:
        return _call(self._connection, "POST", path, body)

    def wait_status(self, id: str, status: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while self.get(f"/status/{id}")["status"] != status:
            if time.monotonic() > end:
                raise TimeoutError(f"{id} is not {status} after {seconds} s")
            time.sleep(0.005)

    def cpu(self) -> float:
        """Seconds of CPU that exeio itself has used."""
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def rss(self) -> int:
        """Resident memory in KiB."""
        return self._status("VmRSS")

    def threads(self) -> int:
        return self._status("Threads")

    def switches(self) -> int:
        """Context switches of all threads so far."""
        total = 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{self.pid}/task/{task}/status") as file:
                total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
        return total

    def _status(self, name: str) -> int:
        with open(f"/proc/{self.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))


class Connection:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def get(self, path: str) -> Any:
        return _call(self._connection, "GET", path, None)


def _call(connection: http.client.HTTPConnection, method: str, path: str, body: Optional[Dict[str, Any]]) -> Any:
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"exeio-api-key": KEY})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
    return json.loads(text)


def table(rows: List[Row]) -> str:
    return "\n".join([HEAD, *map(str, rows)])
