"""What tests of the whole program share: a real server in its own folders, its API, and who is left of it."""

import _thread
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, TypeVar

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for scripts, which pytest does not run

from exeio_core.openapi import statuses
from exeio_core.routes import find

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "exeio.py"

# Reasons to skip that begin so are no fault of the machine that runs the tests; all others fail where
# EXEIO_REQUIRE_TOOLS is set (conftest.py).
NOT_HERE = "not here: "

# What a server must never say.
ALARMS = ("Traceback", "Exception ignored", "Warning:", "Fatal Python error")

# glibc keeps signals 32 and 33 for itself: no program can set them, and what its posix_spawn starts (Python 3.13's
# subprocess uses it) ignores 32 from then on.
GLIBC_SIGNALS = 3 << 31

T = TypeVar("T")


def wait_for(predicate: Callable[[], T], deadline_seconds: float = 10, what: str = "") -> T:
    """The first true result of `predicate`, asked again and again; AssertionError after the deadline."""
    end = time.monotonic() + deadline_seconds
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"{what or predicate} was still {result!r} after {deadline_seconds} s")
        time.sleep(0.005)


def need(tool: str) -> str:
    """The path of an outside tool; skips the test where there is none (which fails in CI)."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"needs {tool}")
    return path


def clean_environment(home: Path, extra: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The environment for a program under test: nothing of the caller's Python, exeio or XDG folders."""
    dropped = ("PYTHON", "PYTEST_", "XDG_", "EXEIO_", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(dropped) or name == "EXEIO_RUN"}
    return {**kept, "HOME": str(home), **(extra or {})}


def run_exeio(
    *arguments: object, home: Path, env: Optional[Mapping[str, str]] = None, timeout: float = 30,
    text: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run `exeio.py` with arguments to its end, e.g. a client's command or a start that is to fail."""
    command = [sys.executable, "-W", "error", str(PROGRAM), *map(str, arguments)]
    return subprocess.run(
        command, env=clean_environment(home, env), input=text, capture_output=True, text=True,
        timeout=timeout, cwd=str(home), check=False)


def check_described(method: str, path: str, status: int) -> None:
    """Fail where an endpoint answers with a status that /openapi.json does not have for it."""
    route = find(path.partition("?")[0])[0].get(method)
    assert route is None or status in statuses(route), f"{method} {route.path} does not say that it may answer {status}"


def marked(instance: str) -> List[int]:
    """The pids that carry the mark of this instance, `EXEIO_RUN=<instance>/<process>/<run>` (Linux)."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):  # Path.glob would fail for one that ends meanwhile
        with contextlib.suppress(OSError):  # it is gone, or somebody else's
            for variable in Path("/proc", pid, "environ").read_bytes().split(b"\0"):
                name, _, value = variable.partition(b"=")
                marks = value.split(b",") if name == b"EXEIO_RUN" else []
                if any(mark.startswith(instance.encode() + b"/") for mark in marks):
                    found.append(int(pid))
    return found


def count_threads() -> int:
    """Return how many threads run in this process that Python has started, by whichever module."""
    return _thread._count()


def room_for_one() -> Callable[..., int]:
    """Return a `start_new_thread` that works once and then no more, as where the system has no room."""
    made: List[int] = []

    def start(*arguments: Any) -> int:
        if made:
            raise RuntimeError("can't start new thread")
        made.append(_thread.start_new_thread(*arguments))
        return made[0]
    return start


class Server:
    """`exeio.py serve` as a real process, in a short folder of its own that `close` removes.

    `stop` ends it as an administrator would and checks how it went; after `stop` or `kill` it can be started
    again on the same folders. `options` are those of the command line, beyond folders and port.
    """

    def __init__(self, *options: object, env: Optional[Mapping[str, str]] = None) -> None:
        # Short, because the name of a Unix socket must fit into 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="exeio-", dir="/tmp"))
        self.config_dir, self.data_dir = self.folder / "config", self.folder / "data"
        self.logs = self.data_dir / "logs"
        self.options, self.env = options, dict(env or {})
        self.host, self.port, self.key, self.banner = "", 0, "", ""
        self.process: Optional[subprocess.Popen[bytes]] = None
        self._instances: List[str] = []

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def stdout(self) -> str:
        return self._said("stdout")

    @property
    def stderr(self) -> str:
        return self._said("stderr")

    def _said(self, stream: str) -> str:
        path = self.folder / stream
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def command(self) -> List[str]:
        """The command line; `-W error` turns what Python would only mutter about into a failure."""
        given = [str(option) for option in self.options]
        folders = ["--config-dir", str(self.config_dir), "--data-dir", str(self.data_dir)]
        port = [] if {"-P", "--port"} & set(given) else ["--port", "0"]
        return [sys.executable, "-W", "error", str(PROGRAM), "serve", *folders, *port, *given]

    def start(self, deadline_seconds: float = 15) -> "Server":
        """Start it and wait for the banner, which tells port and host; the key is the one it uses."""
        with open(self.folder / "stdout", "wb") as out, open(self.folder / "stderr", "ab") as err:
            self.process = subprocess.Popen(
                self.command(), env=clean_environment(self.folder, self.env), cwd=str(self.folder),
                stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            self.banner = wait_for(self._banner, deadline_seconds, "the banner")
        except AssertionError:
            self.kill()  # the test has failed already, with the reason; there is nothing to stop
            raise
        place = re.match(r"Process Supervisor starting on (?:port (\d+) at (\S+)|the Unix socket .+)\n", self.banner)
        assert place is not None, self.banner
        self.port, self.host = int(place[1] or 0), place[2] or ""
        self.key = self._find_key()
        self._remember_instance()
        return self

    def _banner(self) -> str:
        assert self.process is not None
        text = self.stdout
        if self.process.poll() is not None:
            raise AssertionError(f"exeio ended with {self.process.returncode}: {self.stderr or text}")
        return text if re.search("^Config file: .*\n", text, re.MULTILINE) else ""

    def _find_key(self) -> str:
        given = [str(option) for option in self.options]
        for option in ("-k", "--api-key"):
            if option in given:
                return given[given.index(option) + 1]
        if "--api-key-file" in given:
            return Path(given[given.index("--api-key-file") + 1]).read_text("utf-8").strip()
        if self.env.get("EXEIO_API_KEY"):
            return self.env["EXEIO_API_KEY"]
        return (self.config_dir / "api-key").read_text("utf-8").strip()

    def _remember_instance(self) -> None:
        path = self.data_dir / "instance-id"
        if path.exists():
            instance = path.read_text("ascii").strip()
            assert instance, "an empty instance-id would make every process one of this server's"
            if instance not in self._instances:
                self._instances.append(instance)

    def call(
        self, method: str, path: str, body: object = None, *, key: Optional[str] = None,
        headers: Optional[Mapping[str, str]] = None, timeout: float = 30,
    ) -> Tuple[int, Any]:
        """One request: the status, and the JSON of the answer (text, where it is none).

        `body` is sent as JSON, bytes as they are; `key` "" sends none.
        """
        fields = {"exeio-api-key": self.key if key is None else key, **(headers or {})}
        if not fields["exeio-api-key"]:
            del fields["exeio-api-key"]
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            fields.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, data, fields)
            with connection.getresponse() as answer:
                content = answer.read()
                kind = answer.getheader("Content-Type", "")
        check_described(method, path, answer.status)
        if "json" in kind and content:
            return answer.status, json.loads(content)
        return answer.status, content.decode("utf-8")

    def get(self, path: str) -> Any:
        """The answer of a GET that must succeed."""
        status, answer = self.call("GET", path)
        assert status == 200, (path, status, answer)
        return answer

    def post(self, path: str, body: object = None) -> Any:
        """The answer of a POST that must succeed."""
        status, answer = self.call("POST", path, body)
        assert status == 200, (path, status, answer)
        return answer

    def add(self, id: str, command: str, *args: str, **fields: object) -> Any:
        """Add a process that must start."""
        return self.post("/add", {"id": id, "command": command, "args": list(args), **fields})

    def sh(self, id: str, script: str, **fields: object) -> Any:
        """Add a shell script that must start."""
        return self.add(id, "/bin/sh", "-c", script, **fields)

    def wait_status(self, id: str, *wanted: str, deadline_seconds: float = 10) -> Any:
        """The process as listed, once its status is one of `wanted`."""
        def reached() -> Any:
            shown = self.get(f"/status/{id}")
            seen.append(shown["status"])
            return shown if shown["status"] in wanted else None
        seen: List[str] = []
        try:
            return wait_for(reached, deadline_seconds)
        except AssertionError:
            shown = self.get(f"/status/{id}")
            raise AssertionError(f"{id} was {seen[-1]}, not {wanted}: {shown}") from None

    def log(self, id: str) -> str:
        """The text of a process's log, "" where there is none."""
        path = self.logs / f"{id}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def left(self) -> List[int]:
        """The pids of this server's processes, and what they started, that are alive."""
        self._remember_instance()
        return [pid for instance in self._instances for pid in marked(instance)]

    def signal(self, number: int) -> None:
        """Send a signal to the server itself."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, deadline_seconds: float = 30, status: int = 0) -> None:
        """SIGTERM, and see that it ends with this exit status and leaves nothing behind. Idempotent."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(deadline_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"exeio did not end within {deadline_seconds} s: {self.stderr}") from None
        assert process.returncode == status, (process.returncode, self.stderr)
        assert self.left() == [], "processes outlived the server"

    def kill(self) -> None:
        """SIGKILL, as a crash: what it ran stays behind until the next `start` on the same folders."""
        process, self.process = self.process, None
        assert process is not None
        process.kill()
        process.wait()

    def close(self) -> None:
        """Stop it if it runs; see that nobody is left and nothing alarming was said; remove the folder."""
        try:
            self.stop()
            left = self.left()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert left == [], "processes of this server were still alive"
            alarms = [word for word in ALARMS if word in self.stderr]
            assert alarms == [], self.stderr
        finally:
            for pid in self.left():  # also where `stop` failed: the next test must not meet them
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.folder, ignore_errors=True)
