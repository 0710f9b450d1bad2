"""A stand-in for the API, for tests of what the client sends and shows; and the client on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import socketserver
import struct
import subprocess
import sys
import termios
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest

from exeio_core.cli import main

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KEY = "k" * 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        parts = urlsplit(self.path)
        request = {
            "call": f"{self.command} {parts.path}", "query": dict(parse_qsl(parts.query)),
            "body": json.loads(body) if body else None, "headers": {k.lower(): v for k, v in self.headers.items()},
        }
        fake = self.server.fake
        fake.requests.append(request)
        status, answer = 200, {"success": True, "message": "done"}
        found = fake.answers.get(request["call"])
        if isinstance(found, deque):
            found = found.popleft() if len(found) > 1 else found[0]
        if callable(found):
            found = found(request)
        if found is not None:
            status, answer = found if isinstance(found, tuple) else (200, found)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        is_stream = data.startswith((b"id:", b"data:", b"event:", b":"))
        self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
        if is_stream:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *args):
        pass

    def address_string(self):
        return "client"


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class Fake:
    """The stand-in: keeps the requests and answers from `answers`, by default that it is done."""

    def __init__(self, path=None):
        self.requests = []
        self.answers = {}
        self.server = UnixServer(path, Handler) if path else ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.fake = self
        self.port = 0 if path else self.server.server_address[1]
        self.url = f"unix:{path}" if path else f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def last(self):
        return self.requests[-1]


@pytest.fixture
def fake():
    made = Fake()
    yield made
    made.close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder without anything; nothing of the caller's environment."""
    for name in list(os.environ):
        if name.startswith(("EXEIO_", "XDG_", "CREDENTIALS_", "NO_COLOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def exeio(fake, home, monkeypatch, capsys):
    """Runs a command against the stand-in: (status, stdout, stderr)."""
    monkeypatch.setenv("EXEIO_URL", fake.url)
    monkeypatch.setenv("EXEIO_API_KEY", KEY)

    def run(*arguments):
        status = main(list(arguments))
        out, err = capsys.readouterr()
        return status, out, err

    return run


def process(id, **more):
    return {
        "id": id, "command": "sleep", "args": ["5"], "status": "running", "is_running": True, "pid": 42,
        "uptime_seconds": 3725.5, "restarts": 0, "exit_code": None, "exit_signal": None, "next_run": None,
        **more,
    }


def on_a_terminal(fake, *arguments, status=0, columns=80, **environment):
    """What a command shows on a terminal, when it ends with `status`."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "PYTHONPATH")}
    code = "import sys; from exeio_core.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, "--url", fake.url, "-k", KEY, *arguments], cwd=ROOT,
        stdin=subprocess.DEVNULL, stdout=follower, stderr=follower,
        env={**kept, "TERM": "xterm", "PYTHONDONTWRITEBYTECODE": "1", **environment})
    os.close(follower)
    shown = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(leader)
    assert process.wait() == status, shown
    return shown.decode().replace("\r\n", "\n")
