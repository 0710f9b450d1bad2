"""exeio, supervisord, circus and pm2 behind one face: started on a list of jobs, asked by their own APIs, then ended.

Each as it comes, but for what a job needs: no rotation of logs, restarts at once and without limit, stamps if it can.
"""

import abc
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
import xmlrpc.client
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type, TypeVar

from bench_server import KEY, ROOT
from bench_wire import Axon, Client, Http, Zmq, amp_message, http_request, zmtp_frame

MARK = "EXEIO_BENCH"
#: How long anything of a program may take, before it counts as hanging.
PATIENCE = 240.0
Self = TypeVar("Self", bound="Program")


class Job(NamedTuple):
    """What a program is to run: with the program itself or by `launch`, and whether it comes back."""

    name: str
    command: List[str]
    autostart: bool = True
    restart: bool = False


class Program(abc.ABC):
    """One program with its jobs, in a folder of its own; `with` starts it and ends all that it started."""

    name: str
    #: Seconds between two looks at its processes, where it looks again and again.
    tick = 0.0
    #: Whether it can put a time before each line.
    stamps = True

    def __init__(self, jobs: Sequence[Job] = ()) -> None:
        self.jobs = jobs
        self.folder = tempfile.mkdtemp(prefix="exeio-bench-")
        os.mkdir(os.path.join(self.folder, "logs"))
        self.mark = uuid.uuid4().hex
        # A short one, as a service has: pm2 keeps it twice for each process, and sends it with each answer.
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.environment = {**kept, MARK: self.mark, "PM2_HOME": self.folder}
        self.socket = os.path.join(self.folder, "socket")
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._client: Optional[Client] = None
        self._said = os.path.join(self.folder, "said")
        self.configure()

    @classmethod
    @abc.abstractmethod
    def version(cls) -> Optional[str]:
        """Its version and interpreter, or None where it is not on PATH."""

    @abc.abstractmethod
    def configure(self) -> None:
        """Write what it reads at its start."""

    @abc.abstractmethod
    def command(self) -> List[str]:
        """What starts it in the foreground."""

    @abc.abstractmethod
    def connect(self) -> None:
        """Connect as soon as it listens and get an answer."""

    @abc.abstractmethod
    def launch(self, name: str) -> None:
        """Start a job that does not start by itself."""

    @abc.abstractmethod
    def state(self, name: str) -> bytes:
        """Ask for the state of one process."""

    @abc.abstractmethod
    def states(self) -> bytes:
        """Ask for the states of all processes."""

    @abc.abstractmethod
    def stop_all(self) -> None:
        """Stop all processes; returns when the program says that they are stopped."""

    def newest(self, name: str) -> Optional[bytes]:
        """The newest 50 lines of a log (of 125 bytes), or None where it has no way to read a log."""
        return None

    def middle(self, name: str) -> Optional[bytes]:
        """50 lines from the middle of a log, or None where it cannot read there."""
        return None

    def log(self, name: str) -> str:
        """The path of a job's log of stdout."""
        return os.path.join(self.folder, "logs", name + ".log")

    def start(self) -> None:
        """Start it; returns when it has answered for the first time."""
        with open(self._said, "ab") as output:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder,
                env=self.environment, start_new_session=True)
        self.connect()

    def __enter__(self: Self) -> Self:
        try:
            self.start()
        except BaseException:
            with open(self._said, errors="replace") as file:
                print(f"{self.name} did not start:\n{file.read()[-2000:]}", file=sys.stderr)
            self.end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def halt(self) -> None:
        """Ask it to end, and kill what is left of it and its processes."""
        if self._client is not None:
            self._client.close()
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            for pid in marked(self.mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def end(self) -> None:
        """Halt it and remove its folder."""
        self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)

    def own(self) -> List[int]:
        """The pids of the program itself and of its helpers, without its jobs."""
        return [pid for pid in marked(self.mark) if _comm(pid) not in ("sh", "sleep")]


class Exeio(Program):
    """exeio, under the interpreter that runs this."""

    name = "exeio"

    @classmethod
    def version(cls) -> str:
        text = (ROOT / "exeio_core" / "__init__.py").read_text("utf-8")
        return f"{_number(text)} (Python {_number(sys.version)})"

    def configure(self) -> None:
        jobs = [{"id": job.name, "command": job.command[0], "args": job.command[1:], "auto_restart": job.restart,
                 "min_uptime_seconds": 0, "stopped": not job.autostart} for job in self.jobs]
        with open(os.path.join(self.folder, "processes.json"), "w") as file:
            json.dump(jobs, file)
        os.chmod(file.name, 0o600)
        self.environment["EXEIO_API_KEY"] = KEY

    def command(self) -> List[str]:
        return [sys.executable, str(ROOT / "exeio.py"), "--port", "none", "--unix-socket", self.socket, "--no-echo",
                "--log-max-bytes", "0", "--config-dir", self.folder, "--data-dir", self.folder]

    def connect(self) -> None:
        self._client = self._http = Http(self.socket)
        self._pages: Dict[str, int] = {}
        self._get("/info")

    def _get(self, target: str) -> bytes:
        return self._http.ask(http_request("GET", target, {"exeio-api-key": KEY}))

    def _post(self, target: str) -> bytes:
        return self._http.ask(http_request("POST", target, {"exeio-api-key": KEY, "Content-Length": "0"}))

    def launch(self, name: str) -> None:
        self._post(f"/start/{name}")

    def state(self, name: str) -> bytes:
        return self._get(f"/status/{name}")

    def states(self) -> bytes:
        return self._get("/list")

    def stop_all(self) -> None:
        self._post("/stop-all")

    def newest(self, name: str) -> bytes:
        return self._get(f"/logs/{name}?page=1&page_size=50")

    def middle(self, name: str) -> bytes:
        if name not in self._pages:
            self._pages[name] = json.loads(self._get(f"/logs/{name}?page_size=50"))["total_pages"]
        return self._get(f"/logs/{name}?page={self._pages[name] // 2}&page_size=50")


class Supervisord(Program):
    """supervisord, by XML-RPC over its Unix socket. It cannot stamp lines."""

    name = "supervisord"
    tick = 1.0
    stamps = False

    @classmethod
    def version(cls) -> Optional[str]:
        return _python_version("supervisord", "--version")

    def configure(self) -> None:
        lines = ["[supervisord]", "nodaemon=true", "minfds=4096", f"logfile={self.folder}/supervisord.log",
                 f"pidfile={self.folder}/pid", f"childlogdir={self.folder}/logs", "[unix_http_server]",
                 f"file={self.socket}", "[rpcinterface:supervisor]",
                 "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface"]
        for job in self.jobs:
            lines += [f"[program:{job.name}]", f"command={' '.join(job.command)}",
                      f"autostart={str(job.autostart).lower()}", f"autorestart={str(job.restart).lower()}",
                      "startsecs=0", f"stdout_logfile={self.log(job.name)}", "stdout_logfile_maxbytes=0",
                      f"stderr_logfile={self.log(job.name + '-err')}", "stderr_logfile_maxbytes=0"]
        with open(os.path.join(self.folder, "supervisord.conf"), "w") as file:
            file.write("\n".join(lines) + "\n")

    def command(self) -> List[str]:
        return ["supervisord", "--configuration", os.path.join(self.folder, "supervisord.conf")]

    def connect(self) -> None:
        self._client = self._http = Http(self.socket)
        self._call("getState")

    def _call(self, method: str, *arguments: Any) -> bytes:
        body = xmlrpc.client.dumps(arguments, "supervisor." + method).encode()
        answer = self._http.ask(http_request("POST", "/RPC2", {"Content-Type": "text/xml"}, body))
        if b"<fault>" in answer:
            raise RuntimeError(answer.decode())
        return answer

    def launch(self, name: str) -> None:
        self._call("startProcess", name, False)

    def state(self, name: str) -> bytes:
        return self._call("getProcessInfo", name)

    def states(self) -> bytes:
        return self._call("getAllProcessInfo")

    def stop_all(self) -> None:
        self._call("stopAllProcesses", True)

    def newest(self, name: str) -> bytes:
        return self._call("tailProcessStdoutLog", name, 0, 50 * 125)

    def middle(self, name: str) -> bytes:
        return self._call("readProcessStdoutLog", name, os.path.getsize(self.log(name)) // 250 * 125, 50 * 125)


class Circus(Program):
    """circusd, over its own ZeroMQ on a Unix socket. It has no way to read a log."""

    name = "circus"
    tick = 5.0

    @classmethod
    def version(cls) -> Optional[str]:
        return _python_version("circusd", "--version")

    def configure(self) -> None:
        lines = ["[circus]", f"endpoint = ipc://{self.socket}", f"pubsub_endpoint = ipc://{self.socket}-events"]
        for job in self.jobs:
            lines += [f"[watcher:{job.name}]", f"cmd = {' '.join(job.command)}", "copy_env = True",
                      f"autostart = {job.autostart}", f"respawn = {job.restart}"]
            for stream, path in (("stdout", self.log(job.name)), ("stderr", self.log(job.name + "-err"))):
                lines += [f"{stream}_stream.class = FileStream", f"{stream}_stream.filename = {path}",
                          f"{stream}_stream.time_format = %Y-%m-%d %H:%M:%S"]
        with open(os.path.join(self.folder, "circus.ini"), "w") as file:
            file.write("\n".join(lines) + "\n")

    def command(self) -> List[str]:
        return ["circusd", os.path.join(self.folder, "circus.ini")]

    def connect(self) -> None:
        self._client = self._zmq = Zmq(self.socket)
        self._call("numwatchers")

    def _call(self, command: str, **properties: Any) -> bytes:
        message = {"id": "x", "command": command, "properties": properties}
        return self._zmq.ask(zmtp_frame(json.dumps(message).encode()))

    def launch(self, name: str) -> None:
        self._call("start", name=name)

    def state(self, name: str) -> bytes:
        return self._call("status", name=name)

    def states(self) -> bytes:
        return self._call("status")

    def stop_all(self) -> None:
        self._call("stop", waiting=True)


class Pm2(Program):
    """The daemon of pm2, by the RPC of its command line; only pages of logs are read by the command line itself."""

    name = "pm2"

    @classmethod
    def version(cls) -> Optional[str]:
        found = shutil.which("pm2")
        if found is None or shutil.which("node") is None:
            return None
        text = Path(found).resolve().parent.with_name("package.json").read_text("utf-8")
        node = subprocess.run(["node", "--version"], stdout=subprocess.PIPE, check=True, text=True).stdout
        return f"{json.loads(text)['version']} (Node {_number(node)})"

    def configure(self) -> None:
        os.mkdir(os.path.join(self.folder, "pids"))
        self.socket = os.path.join(self.folder, "rpc.sock")
        self._number = 0

    def command(self) -> List[str]:
        found = shutil.which("pm2")
        assert found is not None
        return ["node", str(Path(found).resolve().parent.with_name("lib") / "Daemon.js")]

    def connect(self) -> None:
        self._client = self._axon = Axon(self.socket)
        self._call("getVersion", {})
        self._axon.ask_all([self._prepare(job) for job in self.jobs if job.autostart])

    def _message(self, method: str, *arguments: Any) -> bytes:
        self._number += 1
        return amp_message(method, list(arguments), self._number)

    def _call(self, method: str, *arguments: Any) -> bytes:
        return self._axon.ask(self._message(method, *arguments))

    def _prepare(self, job: Job) -> bytes:
        return self._message("prepare", {
            "name": job.name, "pm_exec_path": shutil.which(job.command[0]), "args": job.command[1:],
            "exec_interpreter": "none", "exec_mode": "fork_mode", "pm_cwd": self.folder, "autostart": True,
            "autorestart": job.restart, "max_restarts": 1_000_000, "vizion": False, "treekill": True,
            "merge_logs": True, "log_date_format": "YYYY-MM-DD HH:mm:ss", "pm_out_log_path": self.log(job.name),
            "pm_err_log_path": self.log(job.name + "-err"),
            "pm_pid_path": os.path.join(self.folder, "pids", job.name + ".pid"), "env": self.environment})

    def launch(self, name: str) -> None:
        self._axon.ask(self._prepare(next(job for job in self.jobs if job.name == name)))

    def state(self, name: str) -> bytes:
        return self.states()

    def states(self) -> bytes:
        return self._call("getMonitorData", {})

    def stop_all(self) -> None:
        self._axon.ask_all([self._message("stopProcessId", number) for number in range(len(self.jobs))])

    def newest(self, name: str) -> bytes:
        return subprocess.run(["pm2", "logs", name, "--nostream", "--out", "--lines", "50"], env=self.environment,
                              stdout=subprocess.PIPE, check=True, timeout=PATIENCE).stdout


PROGRAMS: Tuple[Type[Program], ...] = (Exeio, Supervisord, Circus, Pm2)


def marked(mark: str) -> Iterator[int]:
    """The pids of all processes that carry a mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    yield int(entry)


def _comm(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()


def _number(text: str) -> str:
    """The first version number of a text."""
    return re.findall(r"\d+(?:\.\d+)+", text)[0]


def _python_version(command: str, option: str) -> Optional[str]:
    """The version of a program in Python, with that of the interpreter that its first line names."""
    found = shutil.which(command)
    if found is None:
        return None
    asked = subprocess.run([found, option], stdout=subprocess.PIPE, check=True, text=True).stdout
    with open(found, errors="replace") as file:
        interpreter = file.readline()[2:].split()
    python = subprocess.run([*interpreter, "-V"], stdout=subprocess.PIPE, check=True, text=True).stdout
    return f"{_number(asked)} (Python {_number(python)})"
