"""The supervisor as a program: how it starts, what keeps it from starting, what it keeps, and how it ends."""

import contextlib
import fcntl
import http.client
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT, Server, clean_environment, run_exeio, wait_for

LONG = "exec sleep 600"
DEAF = "trap '' TERM INT; echo ready; while :; do sleep 0.05; done"
ROOT_WARNING = "exeio: warning: running as root: processes without a user of their own run as root, too\n"
USUAL = ROOT_WARNING if os.geteuid() == 0 else ""

# As the Rust program writes it.
RUST_FILE = """[
  {
    "id": "web-server",
    "command": "sleep",
    "args": [
      "600"
    ],
    "working_dir": "/",
    "log_file": "/home/user/.local/share/exeio/logs/web-server.log",
    "auto_restart": true,
    "save_for_next_run": true,
    "periodic": false,
    "period_seconds": null
  },
  {
    "id": "hourly-backup",
    "command": "echo",
    "args": ["--incremental"],
    "working_dir": null,
    "log_file": "/home/user/.local/share/exeio/logs/hourly-backup.log",
    "auto_restart": false,
    "save_for_next_run": true,
    "periodic": true,
    "period_seconds": 3600
  }
]"""


class Again:
    """A server that is started anew on the same folders."""

    def __init__(self, *options, env=None):
        self.server = Server(*options, env=env)

    def __enter__(self):
        return self.server

    def __exit__(self, *trouble):
        self.server.close()


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def fails(server, *options, env=None):
    """A start that must fail: exit status 1, nothing on stdout, and one line on stderr after any warnings."""
    command = [*server.command(), *map(str, options)]
    result = subprocess.run(command, env=clean_environment(server.folder, {**server.env, **(env or {})}),
                            capture_output=True, text=True, timeout=20, cwd=str(server.folder), check=False)
    *warnings, line = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (1, ""), result
    assert line.startswith("exeio: ") and "warning" not in line and "Traceback" not in result.stderr
    assert all(warning.startswith("exeio: warning: ") for warning in warnings), result.stderr
    return line


def write_processes(server, content):
    server.config_dir.mkdir(mode=0o700, exist_ok=True)
    path = server.config_dir / "processes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read_processes(server):
    return {one["id"]: one for one in json.loads((server.config_dir / "processes.json").read_text())}


def statuses(server):
    return {shown["id"]: shown["status"] for shown in server.get("/list")}


# The start


def test_the_banner_and_the_key_that_was_made():
    with Again() as server:
        server.start()
        key_file = server.config_dir / "api-key"
        key = key_file.read_text().strip()
        assert re.fullmatch(r"exeio_[A-Za-z0-9_-]{43}", key) and mode(key_file) == 0o600
        logs, config = server.data_dir / "logs", server.config_dir / "processes.json"
        assert server.banner == (
            f"Process Supervisor starting on port {server.port} at 127.0.0.1\n"
            f"API Key: {key}\n"
            "NOTE: All endpoints except /info require the 'exeio-api-key' header with the above key\n"
            f"Logs directory: {logs}\n"
            f"Config file: {config}\n")
        assert server.stderr == USUAL
        server.stop()
        server.start()
        assert server.key == key and server.call("GET", "/list")[0] == 200, "the key survives a restart"
        assert key not in server.banner and str(key_file) in server.banner, "it is no longer shown, but where it is"
        assert [line.split(":")[0] for line in server.banner.splitlines()[1:]] == [
            "API Key", "NOTE", "Logs directory", "Config file"]


def test_on_a_terminal_the_key_is_shown_and_lines_are_echoed():
    with Again() as server:
        server.config_dir.mkdir(mode=0o700)
        (server.config_dir / "api-key").write_text("the-key-of-an-earlier-start\n")
        (server.config_dir / "api-key").chmod(0o600)
        terminal, end = pty.openpty()
        try:
            with open(server.folder / "stderr", "ab") as err:
                server.process = subprocess.Popen(
                    server.command(), env=clean_environment(server.folder), cwd=str(server.folder),
                    stdin=subprocess.DEVNULL, stdout=end, stderr=err)
            os.set_blocking(terminal, False)
            seen = []

            def shows(text):
                with contextlib.suppress(BlockingIOError):
                    seen.append(os.read(terminal, 4096).decode())
                return text in "".join(seen)
            wait_for(lambda: shows("Config file: "))
            lines = "".join(seen).splitlines()
            assert lines[1] == "API Key: the-key-of-an-earlier-start" and lines[2].endswith("with the above key")
            server.host, server.port = "127.0.0.1", int(re.search(r"on port (\d+) ", lines[0])[1])
            server.key = "the-key-of-an-earlier-start"
            server.sh("web", f"echo hello; {LONG}")
            wait_for(lambda: shows("hello\r\n"))
            assert re.search(r"\[web\] (\x1b\[0m)?hello\r\n", "".join(seen))
            server.stop()
        finally:
            os.close(end)
            os.close(terminal)


@pytest.mark.parametrize("umask", ["0", "0777"])
def test_what_it_makes_is_private_whatever_the_umask(umask):
    """With all bits in the mask a file of mode 0 would keep the next start from opening its own lock."""
    class Odd(Server):
        def command(self):
            return ["/bin/sh", "-c", f'umask {umask}; exec "$@"', "sh", *super().command()]

    server = Odd()
    try:
        server.start()
        server.sh("web", f"echo hello; {LONG}", save_for_next_run=True)
        wait_for(lambda: "hello" in server.log("web"))
        for folder in (server.config_dir, server.data_dir, server.logs):
            assert mode(folder) == 0o700, folder
        files = [path for top in (server.config_dir, server.data_dir) for path in top.rglob("*") if path.is_file()]
        assert {"api-key", "processes.json", "exeio.log", "web.log", "exeio.lock", "run.json", "runs.jsonl"} <= {
            path.name for path in files}
        assert {path.name: oct(mode(path)) for path in files if mode(path) != 0o600} == {}
        assert json.loads((server.data_dir / "run.json").read_text())["pid"] == server.pid
    finally:
        server.close()


def test_the_folders_are_found_without_options(tmp_path):
    """XDG's variables, else the home folder."""
    for env, config, data in (
            ({}, ".config/exeio", ".local/share/exeio"),
            ({"XDG_CONFIG_HOME": str(tmp_path / "c"), "XDG_DATA_HOME": str(tmp_path / "d")}, tmp_path / "c/exeio",
             tmp_path / "d/exeio")):
        with Again(env=env) as server:
            server.config_dir, server.data_dir = server.folder / config, server.folder / data
            server.logs = server.data_dir / "logs"
            server.command = lambda: [sys.executable, "-W", "error", str(ROOT / "exeio.py"), "-P", "0"]
            server.start()
            assert f"Config file: {server.config_dir}/processes.json\n" in server.banner
            server.sh("web", LONG)
            assert (server.logs / "web.log").exists()


@pytest.fixture
def sources(tmp_path):
    """All places of a key, with options and environment for each: first found wins, in this order."""
    places = {}
    for name in ("file", "credential", "kept"):
        places[name] = f"the-key-of-the-{name}-source"
    (tmp_path / "key").write_text(places["file"] + "\n")
    (tmp_path / "exeio-api-key").write_text(places["credential"] + "\n")
    return places


@pytest.mark.parametrize("first", ["option", "file", "variable", "credential", "kept"])
def test_the_sources_of_the_key_in_their_order(tmp_path, sources, first):
    order = ["option", "file", "variable", "credential", "kept"]
    given = order[order.index(first):]
    options, env = [], {}
    if "option" in given:
        options += ["-k", "the-key-of-the-option"]
    if "file" in given:
        options += ["--api-key-file", str(tmp_path / "key")]
    if "variable" in given:
        env["EXEIO_API_KEY"] = "the-key-of-the-variable"
    if "credential" in given:
        env["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    wanted = {"option": "the-key-of-the-option", "variable": "the-key-of-the-variable", **sources}[first]
    with Again(*options, env=env) as server:
        server.config_dir.mkdir(mode=0o700)
        (server.config_dir / "api-key").write_text(sources["kept"])
        (server.config_dir / "api-key").chmod(0o600)
        server.start()
        assert server.call("GET", "/list", key=wanted)[0] == 200
        for other in {"the-key-of-the-option", "the-key-of-the-variable", *sources.values()} - {wanted}:
            assert server.call("GET", "/list", key=other)[0] == 401
            assert other not in server.banner
        assert wanted not in server.banner and wanted not in server.log("exeio"), "stdout is no terminal"
        assert ("-k/--api-key is visible" in server.stderr) is (first == "option")
        assert (server.config_dir / "api-key").read_text() == sources["kept"]


def test_each_danger_is_one_line_of_warning(servers):
    server = servers("--host", "0.0.0.0", "-k", "short")
    lines = server.stderr.splitlines()
    assert all(line.startswith("exeio: warning: ") for line in lines)
    assert sum("0.0.0.0" in line and "TLS" in line for line in lines) == 1
    assert sum("5 characters" in line for line in lines) == 1
    assert sum("visible" in line and "--api-key-file" in line and "EXEIO_API_KEY" in line for line in lines) == 1
    assert sum("root" in line for line in lines) == (os.geteuid() == 0)
    assert len(lines) == 3 + (os.geteuid() == 0)
    assert "short" not in server.stderr.replace("too short", "")


@pytest.mark.parametrize("host, shown", [("localhost", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("::1", "::1")])
def test_it_binds_what_it_is_told(host, shown):
    with Again("--host", host) as server:
        try:
            server.start()
        except AssertionError as failure:
            if host == "::1" and "Cannot" in str(failure):
                pytest.skip("not here: no IPv6")
            raise
        assert server.host == shown
        assert server.call("GET", "/info")[1]["url"] == server.url
        assert f"SYSTEM {server.url[7:]}: exeio process supervisor started" in server.log("exeio")
        server.sh("web", LONG)
        assert f"SYSTEM {server.url[7:]}: started with pid" in server.log("web")


def test_the_log_of_the_supervisor_itself():
    with Again() as server:
        server.start()
        server.stop()
        stamp = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] SYSTEM 127\.0\.0\.1:%d: " % server.port
        lines = server.log("exeio").splitlines()
        assert [re.sub("^" + stamp, "", line) for line in lines] == [
            "exeio process supervisor started", "shutting down", "exeio process supervisor stopped"]


def test_a_refused_key_is_noted_once_and_then_summed_up_at_the_end_too(server):
    """What was counted in the last minute before the end was never told."""
    for _ in range(20):
        assert server.call("GET", "/list", key="a-key-that-is-wrong")[0] == 401
    assert server.log("exeio").count("127.0.0.1: a wrong API key was refused\n") == 1
    assert server.log("exeio").count("refused") == 1
    server.stop()
    assert "127.0.0.1: a wrong API key was refused 19 more times\n" in server.log("exeio")
    assert "a-key-that-is-wrong" not in server.log("exeio")


# What keeps it from starting


@pytest.fixture
def saved():
    """A server that is not started, with a process in its file that must not be started either."""
    with Again() as server:
        flag = server.folder / "started"
        write_processes(server, [{"id": "web", "command": "touch", "args": [str(flag)]}])
        before = (server.config_dir / "processes.json").read_bytes()
        yield server
        assert not flag.exists(), "a child was started"
        assert (server.config_dir / "processes.json").read_bytes() == before, "the file was changed"


def test_a_busy_port(saved):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        line = fails(saved, "--port", port)
        assert f"127.0.0.1 port {port}" in line and "in use" in line
    assert saved.left() == []


def test_a_second_instance_names_the_first(servers):
    first = servers()
    first.sh("web", LONG)
    with Again() as second:
        second.data_dir = first.data_dir
        flag = second.folder / "started"
        write_processes(second, [{"id": "other", "command": "touch", "args": [str(flag)]}])
        line = fails(second)
        second.data_dir = second.folder / "data"
        assert f"pid {first.pid}" in line and first.url in line and str(first.data_dir) in line
        assert not flag.exists()
    assert statuses(first) == {"web": "running"}
    assert json.loads((first.data_dir / "run.json").read_text())["pid"] == first.pid


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")], ids=["pipe", "null"])
def test_what_is_no_file_in_place_of_processes_json_is_neither_waited_for_nor_replaced(make):
    """As root a save through a link to /dev/null would have put a file in the place of /dev/null."""
    with Again() as server:
        path = write_processes(server, "[]")
        path.unlink()
        make(path)
        assert fails(server) == f"exeio: cannot read {path}: it is not a regular file"


def test_a_start_that_cannot_write_its_address_is_one_line():
    with Again() as server:
        (server.data_dir / "run.json").mkdir(parents=True, mode=0o700)
        assert f"cannot start: cannot write to {server.data_dir}: " in fails(server)


@pytest.mark.parametrize("content, words", [
    ('[{"id": "web", "command": "sleep", "args": ["600"]}, {"id": "x", "comm', "line 1, column"),
    ('[\n  {"id": "web", "command": "sleep", "args": ["600"]},\n  {"id": "x", "command": 5}\n]', "line 3, column"),
    ("[", "cut off"),
])
def test_a_processes_json_that_is_not_right(content, words):
    with Again() as server:
        path = write_processes(server, content)
        line = fails(server)
        assert str(path) in line and words in line
        assert path.read_text() == content
        assert server.left() == []
        path.write_text("")  # empty is an empty list, and the lock is free
        server.start()
        assert server.get("/list") == []


def test_a_processes_json_that_cannot_be_read():
    with Again() as server:
        (server.config_dir / "processes.json").mkdir(parents=True)
        assert "Is a directory" in fails(server)


def test_folders_and_key_files_that_cannot_be_used(saved):
    (saved.folder / "file").write_text("")
    assert "--data-dir" in fails(saved, "--data-dir", saved.folder / "file" / "data")
    assert "--config-dir" in fails(saved, "--config-dir", saved.folder / "file")
    assert "cannot read the key file" in fails(saved, "--api-key-file", saved.folder / "nothing")
    assert "is empty" in fails(saved, "--api-key-file", saved.folder / "file")
    assert "host" in fails(saved, "--host", "no.such.host.invalid")
    assert not (saved.config_dir / "api-key").exists() or mode(saved.config_dir / "api-key") == 0o600


@pytest.mark.parametrize("options", [
    ["--prot", "80"], ["--port", "x"], ["--port", "65536"], ["--stop-timeout", "-1"], ["--log-max-bytes", "100"],
    ["--log-backups", "x"], ["sreve"], ["--host", ""],
])
def test_wrong_usage_is_status_2_and_one_line(saved, options):
    result = run_exeio("serve", "--config-dir", saved.config_dir, "--data-dir", saved.data_dir, *options,
                       home=saved.folder) if options != ["sreve"] else run_exeio("sreve", home=saved.folder)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result
    assert options[0].lstrip("-") in result.stderr
    assert not saved.data_dir.exists()


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_with_status_0_and_nobody_is_left(number):
    with Again() as server:
        server.start()
        server.sh("tree", "sleep 601 & setsid sleep 602 & (setsid sh -c 'sleep 603 & sleep 604' &) ; sleep 605")
        server.sh("loop", "exit 1", auto_restart=True, restart_delay_seconds=0.01, restart_delay_max_seconds=0.01)
        server.add("tick", "sleep", "600", periodic=True, period_seconds=0.2)
        wait_for(lambda: len(server.left()) >= 7)
        server.signal(number)
        assert server.process.wait(10) == 0
        assert server.left() == [] and server.stderr == USUAL
        with open(server.data_dir / "exeio.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not (server.data_dir / "run.json").exists()
        server.start()
        assert server.get("/list") == [], "what was not saved is forgotten"


def test_a_second_signal_skips_the_grace():
    with Again("--stop-timeout", "600") as server:
        server.start()
        server.sh("deaf", DEAF)
        wait_for(lambda: "ready" in server.log("deaf"))
        server.signal(signal.SIGTERM)
        wait_for(lambda: server.get("/status/deaf")["status"] == "stopping")
        server.signal(signal.SIGINT)
        begun = time.monotonic()
        assert server.process.wait(10) == 0
        assert time.monotonic() - begun < 5 and server.left() == []
        assert "killed by SIGKILL" in server.log("deaf") and "second signal" in server.log("exeio")


def test_the_grace_of_the_options_is_that_of_processes_without_one():
    with Again("--stop-timeout", "4") as server:
        server.start()
        server.sh("deaf", DEAF)
        server.sh("own", DEAF, stop_timeout_seconds=0)
        wait_for(lambda: "ready" in server.log("deaf"))
        begun = time.monotonic()
        server.post("/stop/own")
        assert time.monotonic() - begun < 3.9
        server.stop()
        assert 4 <= time.monotonic() - begun < 15


def test_nothing_new_begins_during_the_shutdown():
    with Again("--stop-timeout", "600") as server:
        server.start()
        server.sh("deaf", DEAF, auto_restart=True, min_uptime_seconds=0)
        server.sh("once", LONG)
        wait_for(lambda: "ready" in server.log("deaf"))
        server.signal(signal.SIGTERM)
        wait_for(lambda: server.get("/status/deaf")["status"] == "stopping")
        for method, path, body in (("POST", "/add", {"id": "new", "command": "true"}), ("POST", "/start/once", None),
                                   ("POST", "/restart/once", None)):
            status, answer = server.call(method, path, body)
            assert (status, answer["success"]) == (503, False) and "shutting down" in answer["message"], answer
        server.signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


def test_shutdown_by_a_request_answers_and_ends():
    with Again() as server:
        server.start()
        server.sh("web", LONG, save_for_next_run=True)
        assert server.post("/shutdown") == {"success": True, "message": "exeio is shutting down"}
        assert server.process.wait(10) == 0
        assert server.left() == [] and "POST /shutdown: 200" in server.log("exeio")
        server.start()
        server.wait_status("web", "running")  # a shutdown is not remembered as a stop


def test_a_shutdown_that_is_asked_for_twice_keeps_the_grace():
    """A client that repeats its request, or a service manager that sends SIGTERM on top, means no hurry."""
    with Again("--stop-timeout", "600") as server:
        server.start()
        server.sh("deaf", DEAF)
        wait_for(lambda: "ready" in server.log("deaf"))
        for _ in range(2):
            server.post("/shutdown")
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGHUP)
        wait_for(lambda: server.get("/status/deaf")["status"] == "stopping")
        wait_for(lambda: takes_signals(server))
        assert "second signal" not in server.log("exeio") and server.process.poll() is None
        server.signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert "second signal" in server.log("exeio")


def takes_signals(server):
    """Whether no signal waits for the server any more; to the kernel, two of a kind that wait are one."""
    if not sys.platform.startswith("linux"):
        return True
    return re.findall(r"ShdPnd:\s+(\w+)", Path(f"/proc/{server.pid}/status").read_text()) == ["0" * 16]


def test_clients_that_hang_on_do_not_delay_the_end():
    """An idle connection, half a head, half a body, and a request that waits."""
    with Again() as server:
        server.start()
        server.sh("web", LONG)
        with contextlib.ExitStack() as stack:
            for text in ("", "GET /list HTTP/1.1\r\nHost: x\r\n",
                         f"POST /add HTTP/1.1\r\nHost: x\r\nexeio-api-key: {server.key}\r\n"
                         "Content-Length: 99\r\n\r\n{"):
                client = stack.enter_context(socket.create_connection((server.host, server.port), timeout=10))
                client.sendall(text.encode())
            idle = stack.enter_context(contextlib.closing(http.client.HTTPConnection(server.host, server.port)))
            idle.request("GET", "/info")
            idle.getresponse().read()
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 5


def test_a_request_that_waits_gets_its_answer_at_the_end():
    with Again("--stop-timeout", "0.5") as server:
        server.start()
        server.sh("deaf", DEAF)
        wait_for(lambda: "ready" in server.log("deaf"))
        connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", "/stop/deaf", headers={"exeio-api-key": server.key})
            wait_for(lambda: server.get("/status/deaf")["status"] != "running")
            server.signal(signal.SIGTERM)
            with connection.getresponse() as answer:
                assert (answer.status, json.loads(answer.read())["success"]) == (200, True)
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("redirect", [">&-", "<&- >&- 2>&-", "> /dev/full", "2> /dev/full", ""])
def test_output_that_nobody_reads_is_no_reason_to_end(redirect):
    """A stdout that is closed, or all three streams, a full disk also for warnings, and a reader that has left."""

    class Unheard(Server):
        def command(self):
            return ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", *super().command()]

        def start(self, deadline_seconds=15):
            read, write = os.pipe()
            os.close(read)
            try:
                with open(self.folder / "stderr", "ab") as err:
                    self.process = subprocess.Popen(
                        self.command(), env=clean_environment(self.folder, self.env), cwd=str(self.folder),
                        stdin=subprocess.DEVNULL, stdout=write, stderr=err)
            finally:
                os.close(write)
            path = self.data_dir / "run.json"
            url = json.loads(wait_for(lambda: path.exists() and path.read_text()))["url"]
            self.port = int(url.split(":")[2])
            self.host, self.key = "127.0.0.1", "short"
            return self

    server = Unheard("--echo", "--api-key-file", "key")
    (server.folder / "key").write_text("short")  # is warned of
    try:
        server.start()
        server.sh("web", f"echo hello; {LONG}")
        wait_for(lambda: "hello" in server.log("web"))
        assert statuses(server) == {"web": "running"}
        descriptors = Path(f"/proc/{server.get('/status/web')['pid']}/fd")
        # The loader of the program has one more open for a moment.
        wait_for(lambda: sorted(os.listdir(descriptors)) == ["0", "1", "2"], what="no other descriptor")
        server.stop()
        assert ("has only 5 characters" in server.stderr) == ("2>" not in redirect)
    finally:
        server.close()


def test_a_folder_that_is_deleted_under_it_is_no_reason_to_fail():
    """It was started in one that is gone by now: what is in PATH, or has a folder of its own, starts all the same."""
    class Homeless(Server):
        def command(self):
            return ["/bin/sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh", *super().command()]

    server = Homeless()
    try:
        server.start()
        server.add("web", "sleep", "600")
        server.add("own", "sleep", "600", working_dir="/")
        for fields in ({"command": "./web"}, {"command": "sleep", "working_dir": "below"}):
            status, answer = server.call("POST", "/add", {"id": "x", **fields})
            assert (status, "No such file or directory" in answer["message"]) == (400, True), answer
    finally:
        server.close()


# What it keeps


def test_saved_processes_come_back_and_stopped_ones_stay_stopped():
    with Again() as server:
        server.start()
        server.sh("runs", LONG, save_for_next_run=True)
        server.sh("ended", f"test -e {server.folder}/again && {LONG}; exit 0", save_for_next_run=True)
        server.sh("stopped", LONG, save_for_next_run=True, auto_restart=True)
        server.add("tick", "true", save_for_next_run=True, periodic=True, period_seconds=3600)
        server.add("tock", "true", save_for_next_run=True, periodic=True, period_seconds=3600)
        server.sh("unsaved", LONG)
        server.sh("removed", LONG, save_for_next_run=True)
        server.post("/add", {"id": "never", "command": "true", "start": False, "save_for_next_run": True})
        server.post("/stop/stopped")
        server.post("/stop/tock")
        server.post("/remove/removed")
        server.wait_status("ended", "stopped")
        server.stop()
        (server.folder / "again").write_text("")
        server.start()
        server.wait_status("tick", "waiting")
        wanted = {"ended": "running", "never": "manually_stopped", "runs": "running", "stopped": "manually_stopped",
                  "tick": "waiting", "tock": "manually_stopped"}
        wait_for(lambda: statuses(server) == wanted)
        for shown in server.get("/list"):
            assert (shown["saved"], shown["restarts"], shown["run_count"] <= 1) == (True, 0, True)
        assert server.log("runs").count("started with pid") == 2, "a log that exists is appended to"
        server.post("/start/stopped")
        server.post("/stop-all")
        server.stop()
        server.start()
        assert set(statuses(server).values()) == {"manually_stopped"}, "stop-all is remembered"
        server.post("/restart/tock")
        server.post("/start/runs")
        server.stop()
        server.start()
        server.wait_status("tock", "waiting")
        assert [id for id, status in statuses(server).items() if status != "manually_stopped"] == ["runs", "tock"]


def test_what_cannot_start_any_more_keeps_nobody_from_starting(tmp_path):
    with Again() as server:
        entries = [{"id": "broken", "command": "no-such-command-here"},
                   {"id": "later", "command": str(tmp_path / "tool"), "auto_restart": True,
                    "restart_delay_seconds": 0.05, "restart_delay_max_seconds": 0.05},
                   {"id": "web", "command": "sleep", "args": ["600"]}]
        path = write_processes(server, entries)
        before = path.read_text()
        server.start()
        broken = server.wait_status("broken", "failed")
        assert "No such file or directory" in broken["status_reason"] and broken["saved"] is True
        wait_for(lambda: "could not start: command 'no-such-command-here'" in server.log("broken"))
        assert server.get("/status/later")["status"] == "backoff"
        server.wait_status("web", "running")
        (tmp_path / "tool").write_text("#!/bin/sh\nexec sleep 600\n")
        (tmp_path / "tool").chmod(0o755)
        server.wait_status("later", "running")
        server.stop()
        assert path.read_text() == before


def test_the_rust_programs_own_file():
    with Again() as server:
        path = write_processes(server, RUST_FILE)
        server.start()
        server.wait_status("hourly-backup", "waiting")
        web = server.wait_status("web-server", "running")
        assert (web["status"], web["working_dir"], web["saved"]) == ("running", "/", True)
        assert web["log_file"] == str(server.logs / "web-server.log"), "its own is ignored"
        wait_for(lambda: "RUN#1 STDOUT: --incremental" in server.log("hourly-backup"))
        assert path.read_text() == RUST_FILE, "what changes nothing writes nothing"
        server.post("/stop/web-server")
        entries = read_processes(server)
        assert entries["web-server"]["stopped"] is True and entries["web-server"]["auto_restart"] is True
        assert entries["hourly-backup"]["log_file"], "an entry that is not changed stays as it was written"


def test_after_a_kill_and_after_an_end_nothing_runs_twice():
    """Who is to be looked for is told by run.json, which only a graceful end removes."""
    with Again() as server:
        server.start()
        server.sh("web", "setsid sleep 601 & exec sleep 600", save_for_next_run=True)
        server.sh("unsaved", LONG)
        old = set(wait_for(lambda: [left for left in [server.left()] if len(left) == 3], what="all three")[0])
        server.kill()
        wait_for(lambda: set(server.left()) == old)
        assert (server.data_dir / "run.json").exists()
        server.start()
        server.wait_status("web", "running")
        wait_for(lambda: len(server.left()) == 2 and not old & set(server.left()), what="the old ones' end")
        assert "web: ending what is left of an earlier run" in server.log("exeio")
        server.stop()
        assert not (server.data_dir / "run.json").exists()
        server.start()
        server.wait_status("web", "running")
        wait_for(lambda: len(server.left()) == 2)
        assert server.log("exeio").count("web: ending what is left") == 1


def test_an_empty_file_is_an_empty_list():
    for content in ("", "[\n]\n"):
        with Again() as server:
            path = write_processes(server, content)
            server.start()
            assert server.get("/list") == [] and path.read_text() == content


# SIGHUP


def test_sighup_applies_the_file(server):
    server.sh("gone", LONG, save_for_next_run=True)
    server.sh("unsaved", LONG)
    pid = server.get("/status/unsaved")["pid"]
    path = server.config_dir / "processes.json"
    path.write_text(json.dumps([{"id": "new", "command": "sleep", "args": ["600"]}]))
    server.signal(signal.SIGHUP)
    wait_for(lambda: "SIGHUP: processes.json applied, 2 changed" in server.log("exeio"))
    assert statuses(server) == {"new": "running", "unsaved": "running"}
    assert server.get("/status/unsaved")["pid"] == pid
    for words in ("SIGHUP: new: added and started", "SIGHUP: gone: removed"):
        wait_for(lambda words=words: words in server.log("exeio"))
    path.write_text("[nonsense")
    server.signal(signal.SIGHUP)
    wait_for(lambda: "SIGHUP: nothing was changed: " in server.log("exeio"))
    assert statuses(server) == {"new": "running", "unsaved": "running"} and path.read_text() == "[nonsense"


def test_a_sighup_with_a_slow_stop_does_not_delay_the_end():
    with Again("--stop-timeout", "600") as server:
        server.start()
        server.sh("deaf", DEAF, save_for_next_run=True)
        wait_for(lambda: "ready" in server.log("deaf"))
        write_processes(server, [])
        server.signal(signal.SIGHUP)
        wait_for(lambda: server.get("/status/deaf")["status"] == "stopping")
        server.signal(signal.SIGTERM)
        wait_for(lambda: "shutting down" in server.log("exeio"))
        server.signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


def test_signals_in_a_row_are_one_shutdown():
    """A SIGTERM before anything runs, and a crowd of them."""
    with Again() as server:
        server.start()
        for _ in range(20):
            server.signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert server.log("exeio").count("shutting down") == 1
        assert server.stderr == USUAL


def test_it_waits_for_signals_without_waking_up(server):
    """Of main and its threads nobody does anything while nothing happens."""
    folder = Path(f"/proc/{server.pid}/task")
    if not folder.exists():
        pytest.skip("not here: no /proc")
    server.sh("web", LONG)

    def switches():
        text = "".join((folder / thread / "status").read_text() for thread in os.listdir(folder))
        return sum(map(int, re.findall(r"voluntary_ctxt_switches:\s+(\d+)", text)))

    def quiet():
        before = switches()
        end = time.monotonic() + 0.5
        wait_for(lambda: time.monotonic() > end)
        return switches() == before
    wait_for(quiet, 5, "a quiet half second")
