"""The recipes of the README, each run with the tool it is for; only paths, ports and accounts are those of the test."""

import contextlib
import grp
import gzip
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from client_helpers import KEY
from readme_text import block
from support import NOT_HERE, PROGRAM, ROOT, Server, clean_environment, need, run_exeio, wait_for

root = pytest.mark.skipif(os.geteuid() != 0, reason=f"{NOT_HERE}needs root")


# Events


def test_alert_sh_mails_what_failed_and_nothing_else(tmp_path):
    """With a stand-in for mail."""
    (tmp_path / "alert.sh").write_text(block("Events", "sh"))
    (tmp_path / "mail").write_text(f'#!/bin/sh\n{{ printf "%s|" "$@"; cat; }} >> "{tmp_path}/mailed"\n')
    for name in ("alert.sh", "mail"):
        (tmp_path / name).chmod(0o755)
    mailed = tmp_path / "mailed"
    server = Server("--on-event", tmp_path / "alert.sh", env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    try:
        server.start()
        server.sh("good", "exit 0")
        server.wait_status("good", "stopped")
        server.sh("bad", "echo the reason; exit 3")
        wait_for(lambda: mailed.exists() and '"to": "failed"' in mailed.read_text(), what="a mail")
        mails = [line.split("|", 3) for line in mailed.read_text().splitlines()]
        assert {tuple(mail[:3]) for mail in mails} == {("-s", f"exeio on {socket.gethostname()}", "root")}
        told = [json.loads(mail[3]) for mail in mails]
        assert [(one["id"], one["to"], one["exit"]["code"]) for one in told] == [("bad", "failed", 3)]  # one a failure
        assert "STDOUT: the reason" in "".join(told[-1]["log"])
    finally:
        server.close()


# logrotate

# Counts as long as the file `go` is there, and says the last number when it is not.
COUNTING = "i=0; while [ -e go ]; do i=$((i + 1)); echo $i; sleep 0.001; done; echo last $i; exec sleep 100"


def logrotate(server, config):
    """Rotate now, as the machine's daily run would; every log has a file to be written to afterwards."""
    path = server.folder / "logrotate.conf"
    path.write_text(config)
    done = subprocess.run(
        [need("logrotate"), "--force", "--state", str(server.folder / "state"), str(path)], capture_output=True,
        text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def recipe_of_logrotate(server):
    text = block("logrotate", "text")
    me = f"{pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name}"
    for theirs, ours in (("/var/lib/exeio/data/logs/*.log", f"{server.logs}/*.log"), ("su exeio exeio", f"su {me}")):
        assert text.count(theirs) == 1
        text = text.replace(theirs, ours)
    return text


def numbers(server):
    """What the counting process has written to all files of its log, oldest first, and whether it was all."""
    found = []
    files = sorted(server.logs.glob("web.log*"), key=lambda path: -int((path.name.split(".") + ["0"])[2]))
    for path in files:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found += re.findall(r"STDOUT: (last )?(\d+)\n", data.decode())
    return [int(number) for last, number in found if not last], [int(number) for last, number in found if last]


def counting(server):
    (server.folder / "go").touch()
    server.sh("web", COUNTING, working_dir=str(server.folder))
    wait_for(lambda: "STDOUT: 20\n" in server.log("web"))


@pytest.mark.slow
def test_logrotate_loses_nothing(servers):
    server = servers("--log-max-bytes", "0")
    need("logrotate")
    counting(server)
    for _ in range(3):
        logrotate(server, recipe_of_logrotate(server))
        assert not (server.logs / "web.log.1.gz").exists(), "that one was still being written to"
        wait_for(lambda: "STDOUT: " in server.log("web"), what="lines in a new file")
    names = {path.name for path in server.logs.iterdir()}
    assert {"web.log", "web.log.1", "web.log.2.gz", "web.log.3.gz", "exeio.log.1"} <= names
    (server.folder / "go").unlink()
    wait_for(lambda: "STDOUT: last" in server.log("web"))
    all_of_it, last = numbers(server)
    assert all_of_it == list(range(1, last[0] + 1))
    assert server.get("/logs/web?page_size=1")["logs"][0].endswith(f"last {last[0]}")


@pytest.mark.slow
def test_copytruncate_works_as_well(servers):
    """What comes between its copy and its truncation is lost, as the manual says: here nothing comes then."""
    server = servers("--log-max-bytes", "0")
    config = recipe_of_logrotate(server).replace("nocreate", "copytruncate")
    assert "copytruncate" in config
    server.add("web", "cat")
    server.post("/clear-log/web")
    for number in range(1, 4):
        server.post("/input/web", {"input": str(number)})
        wait_for(lambda: server.log("web").endswith("\n"))
        logrotate(server, config)
        assert server.log("web") == ""
    server.post("/input/web", {"input": "last 3"})
    wait_for(lambda: "STDOUT: last 3\n" in server.log("web"))
    assert numbers(server) == ([1, 2, 3], [3])
    assert b"\0" not in (server.logs / "web.log").read_bytes()


# nginx

NGINX = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
}}
"""


@pytest.fixture
def nginx(server):
    """nginx in front of the server; its URL of the API."""
    program = need("nginx")
    location = block("nginx in front, for TLS", "nginx")
    assert location.count("http://127.0.0.1:8080/") == 1
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    (server.folder / "nginx.conf").write_text(NGINX.format(
        folder=server.folder, port=port, location=location.replace("http://127.0.0.1:8080/", f"{server.url}/"),
        user="user root;" if os.geteuid() == 0 else ""))
    process = subprocess.Popen([program, "-p", str(server.folder), "-c", str(server.folder / "nginx.conf")],
                               stderr=subprocess.DEVNULL)

    def listens():
        assert process.poll() is None, (server.folder / "nginx.error").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True

    wait_for(listens, what="nginx")
    yield f"http://127.0.0.1:{port}/exeio"
    process.terminate()
    process.wait(10)


@pytest.mark.slow
def test_nginx_in_front(server, nginx, tmp_path):
    def client(*words):
        return run_exeio("--url", nginx, "-k", server.key, *words, home=tmp_path)

    added = client("add", "web", "--", "sh", "-c", "while read line; do echo got $line; done")
    assert (added.returncode, added.stdout, added.stderr) == (0, "Process 'web' added and started\n", "")
    assert client("list").stdout.splitlines()[1].startswith("web ")
    refused = client("start", "web")
    assert refused.returncode == 1 and refused.stderr.startswith("exeio: ")
    # A stream comes through line by line, not when a buffer is full.
    follow = subprocess.Popen(
        [sys.executable, str(PROGRAM), "--url", nginx, "-k", server.key, "logs", "web", "-f"], bufsize=0,
        stdout=subprocess.PIPE, env=clean_environment(tmp_path))
    with follow:
        assert b"started with pid" in follow.stdout.readline()
        for text in ("one", "two"):
            assert client("input", "web", text).returncode == 0
            assert follow.stdout.readline().endswith(f"STDOUT: got {text}\n".encode())
        follow.terminate()
    # A stop is waited for, however slow, and what is behind the proxy may be gone.
    assert client("stop", "web").stdout == "Process 'web' stopped\n"
    assert client("--api-key-file", "/dev/null", "info").stdout.startswith("name ")
    server.stop()
    gone = client("list")
    assert (gone.returncode, gone.stdout, gone.stderr.count("\n")) == (3, "", 1)
    assert f"the proxy at {nginx} does not reach the supervisor behind it (status 502)" in gone.stderr


# Container

IN_A_CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--net", "--kill-child"]
#: Says what asks it to end, and so does a daemon it has made.
GRACEFUL = """
setsid sh -c 'trap "echo daemon ends; exit" TERM; while :; do sleep 0.02; done' &
trap 'echo web ends; exit 0' TERM
echo {}up
while :; do sleep 0.02; done
"""


class Container(Server):
    """What the Dockerfile of the README makes, without docker: its files, its variables, its command as pid 1.

    It has no network; a Unix socket leads out of it.
    """

    def __init__(self, processes, env=None):
        probe = subprocess.run([*IN_A_CONTAINER, "true"], capture_output=True, check=False)
        if probe.returncode:
            pytest.skip(f"{NOT_HERE}no namespaces can be made: {probe.stderr.decode().strip()}")
        super().__init__(env=env)
        self.env.update(EXEIO_API_KEY=KEY, EXEIO_UNIX_SOCKET=str(self.folder / "socket"))
        text = block("Container", "dockerfile")
        (self.folder / "processes.json").write_text(json.dumps(processes))
        for source, target in re.findall(r"^COPY (\S+) (\S+)$", text, re.MULTILINE):
            given = self.folder / source if source == "processes.json" else ROOT / source
            place = self._inside(target)
            if target.endswith("/"):
                place.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if given.is_dir() else shutil.copy2
            copy(str(given), str(place))
        variables = re.search(r"^ENV (.*)$", text, re.MULTILINE)[1].split()
        self.env = {**dict(variable.split("=") for variable in variables), **self.env}
        self.words = json.loads(re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)[1])
        self.data_dir = self.folder / ".local" / "share" / "exeio"
        self.logs = self.data_dir / "logs"

    def _inside(self, path):
        """A path of the image; /root is the home folder."""
        return self.folder / path.replace("/root/", "").lstrip("/")

    def command(self):
        python, program, *others = self.words
        assert python == "python3"
        return [*IN_A_CONTAINER, sys.executable, str(self._inside(program)), *others]

    def _banner(self):
        text = super()._banner()  # what processes say may come before it
        return text[text.find("Process Supervisor "):] if text else ""

    def stop(self, deadline_seconds=30, status=0):
        """As docker does it: SIGTERM to pid 1."""
        if self.process is not None and self.process.poll() is None:
            with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:
                os.kill(int(file.read()), signal.SIGTERM)
        super().stop(deadline_seconds, status)

    def ended(self):
        """The exit status of the container, which ends by itself."""
        status = self.process.wait(15)
        self.process = None
        return status


@pytest.mark.slow
@root
def test_the_container_stops_everything_when_it_is_stopped():
    container = Container([{"id": "web", "command": "sh", "args": ["-c", GRACEFUL.format("")], "auto_restart": True}])
    try:
        container.start()
        wait_for(lambda: "[web] up" in container.stdout.splitlines(), what="the echo")
        client = run_exeio("--url", f"unix:{container.folder}/socket", "-k", KEY, "info", home=container.folder)
        assert re.search(r"^pid +1$", client.stdout, re.MULTILINE), client.stderr
        container.stop(status=0)
        assert "STDOUT: web ends\n" in container.log("web") and "STDOUT: daemon ends\n" in container.log("web")
        assert "exited with code 0" in container.log("web")
        assert container.stderr.count("\n") == 2 and "without TLS" in container.stderr, "or running as root"
    finally:
        container.close()


@pytest.mark.slow
@root
@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -KILL $$", 137), ("exit 0", 0)])
def test_the_container_ends_with_the_process_it_is_for(script, status):
    script = "read line; echo \"$line\"; " + script
    saved = [{"id": "web", "command": "sh", "args": ["-c", script]},
             {"id": "side", "command": "sh", "args": ["-c", GRACEFUL.format("side ")]}]
    container = Container(saved, env={"EXEIO_EXIT_WITH": "web", "EXEIO_ECHO": "raw"})
    try:
        container.start()
        wait_for(lambda: "side up" in container.stdout.splitlines(), what="a line as it is")
        words = ["--url", f"unix:{container.folder}/socket", "-k", KEY, "input", "web", '{"a": 1}']
        assert run_exeio(*words, home=container.folder).returncode == 0
        assert container.ended() == status
        assert '{"a": 1}' in container.stdout.splitlines()
        assert "STDOUT: web ends\n" in container.log("side")
    finally:
        container.close()


# A service


def test_the_lines_about_the_service(tmp_path):
    """Into a folder that stands for the machine, without sudo, and with a stand-in for crontab."""
    table = tmp_path / "table"
    (tmp_path / "crontab").write_text(
        f'#!/bin/sh\nif [ "$1" = -l ]; then [ -f {table} ] || exit 0; cat {table}; else cat > {table}; fi\n')
    (tmp_path / "crontab").chmod(0o755)
    image = tmp_path / "image"
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    lines = block("A service: systemd, cron, OpenRC", "bash").splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        words = words[words[0] == "sudo":]
        assert words[:2] == ["python3", "exeio.py"], line
        if "--cron" not in words:
            words[3:3] = ["--destdir", str(image)]
        done = run_exeio(*words[2:], home=tmp_path, env=env)
        assert (done.returncode, done.stderr) == (0, ""), line
    assert len(lines) == 6 and table.read_text().startswith("@reboot ")
    assert (image / "etc/init.d/exeio").exists()
    assert (image / str(tmp_path)[1:] / ".config/systemd/user/exeio.service").exists() or os.geteuid() != 0
    assert not (image / "etc/systemd/system/exeio.service").exists() or os.geteuid() != 0
