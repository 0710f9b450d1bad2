#!/usr/bin/env python3
"""Heads and JSON bodies that nobody would write, from a seed: `fuzz_http.py --seconds 60 [--seed N]`.

A third of the time goes to the parser alone, a third to raw bytes for a real server, a third to bodies for its
endpoints. Whatever is sent, what comes back is right, or a refusal in JSON with one sentence, and never a 500. The
seed is printed first; with it, and as much time, the same is sent again.
"""

import argparse
import contextlib
import http.client
import json
import random
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support import Server  # noqa: E402

from exeio_core.http_head import HttpError, check_beginning, parse_head  # noqa: E402

REFUSALS = (400, 414, 417, 431, 501, 505)
KEY = "the-key-of-the-fuzzer"

HEADS = [
    b"GET /info HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n",
    b"POST /a?b=%41 HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
    b"GET /logs/web?page=1&contains=a+b HTTP/1.0\r\nConnection: keep-alive\r\nexeio-api-key: x\r\n\r\n",
    b"POST http://h/add HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Type: application/json\r\n"
    b"Content-Length: 2\r\n\r\n{}",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
]
PIECES = [
    b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b" ", b" ", b"/", b"*", b"/list", b"?a=b", b"&a=b", b"%", b"%41",
    b"%ff", b"%00", b"%2f", b"http://h", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b"\r\n", b"\r\n", b"\r\n", b"\n",
    b"\r", b"\t", b"\0", b":", b": ", b"Host: a", b"Host: ", b"Content-Length: 5", b"Content-Length",
    b"Transfer-Encoding: chunked", b"Connection: close", b"Connection: keep-alive", b"Expect: 100-continue", b",", b";",
    b"[", b"]", b"@", b"#", b"\x7f", b"\xff", b"\xc3\xa4", b"a" * 300, b"99999999999999999999", b"-1", b"+1", b"0x1",
]

DEFINITION = {
    "id": "made", "command": "/nowhere/x", "args": ["-c", "exit 0"], "working_dir": "/", "auto_restart": False,
    "save_for_next_run": True, "periodic": False, "period_seconds": 5, "env": {"A": "b", "C": None}, "clear_env": False,
    "umask": "027", "nice": 0, "stop_signal": "TERM", "stop_timeout_seconds": 0.5, "kill_mode": "tree",
    "restart_policy": "always", "success_exit_codes": [0], "max_restarts": 3, "restart_delay_seconds": 1,
    "restart_delay_max_seconds": 60, "min_uptime_seconds": 10, "run_timeout_seconds": 60, "log_max_bytes": 0,
    "log_backups": 1, "user": None, "group": None,
}
BODIES: List[Tuple[str, Dict[str, Any]]] = [
    ("/add", DEFINITION), ("/add", {"id": "made", "command": "true"}), ("/add", {**DEFINITION, "start": False}),
    ("/update/there", {"env": {"A": "b"}, "auto_restart": True}), ("/update/there", {"max_restarts": 5, "nice": 1}),
    ("/start/there", {}), ("/restart/none", {}), ("/signal/there", {"signal": "HUP", "group": True}),
    ("/signal/there", {"signal": 0}), ("/input/there", {"input": "text", "newline": False, "eof": False}),
]
JUNK: List[Any] = [
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 2**31, 2**63, 2**64, 10**30, "", " ", "a", "\0", "\n", "\x1b[2J",
    "é", "\U0001f600", "../..", "/", "true", "0", "1e999", "x" * 5000, "%s%n", [], {}, [[]], [None], ["a", 1],
    {"a": {}}, {"": ""}, {"=": "x"}, ["x"] * 2000, {"EXEIO_RUN": "x"}, [-1, 256, True],
]
FRAGMENTS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"\\udc00\\ud800", b"NaN", b"-Infinity",
    b"1e999", b"9" * 5000, b"\0", b"\n", b"\xff", b"\xc0\xaf", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"null", b"true",
    b"[" * 3000, b'{"a":' * 3000, b" " * 1000, b'"id": "b",', b"//", b"/* */", b"'", b"0x1", b"01", b"+1", b".5",
]


def spoilt(rng: random.Random, raw: bytes, pieces: List[bytes]) -> bytes:
    """`raw` with a few places replaced, cut or doubled."""
    data = bytearray(raw)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = at + rng.randrange(rng.choice((1, 3, 20)))
        kind = rng.randrange(4)
        data[at:end] = (rng.choice(pieces) if kind < 2 else bytes((rng.randrange(256),)) if kind == 2
                        else bytes(data[at:end]) * 2)
    return bytes(data)


def hostile_head(rng: random.Random) -> bytes:
    """A head put together of pieces, or a right one spoilt."""
    if rng.random() < 0.3:
        raw = b"".join(rng.choice(PIECES) for _ in range(rng.randrange(30)))
        return raw + (b"\r\n\r\n" if rng.random() < 0.7 else b"")
    return spoilt(rng, rng.choice(HEADS), PIECES)


def hostile_body(rng: random.Random) -> Tuple[str, bytes]:
    """A path, and a body with a wrong value or name in it, or spoilt as text."""
    path, document = rng.choice(BODIES)
    document = dict(document)
    for _ in range(rng.randrange(3)):
        name = rng.choice([*document, "unknown", "start", "id"]) if rng.random() < 0.9 else rng.choice(("", "\0", "ID"))
        document[name] = rng.choice(JUNK)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode()
    return path, spoilt(rng, text, FRAGMENTS) if rng.random() < 0.5 else text


def check_head(raw: bytes) -> bool:
    """Parse a head; True: it was taken. AssertionError where something else than a clean refusal comes out."""
    beginning, end, _ = raw.partition(b"\r\n\r\n")
    try:
        check_beginning(beginning)
    except HttpError as error:
        assert error.close and error.status in REFUSALS, raw
        doomed = True
    else:
        doomed = False
    try:
        head = parse_head(beginning + end)
    except HttpError as error:
        assert error.close and error.status in REFUSALS and "\n" not in error.message, raw
        return False
    assert not doomed, raw
    # Whatever is taken has one reading: no second length, no hidden line.
    taken = (beginning + end).lower()
    assert end and taken.count(b"\n") == taken.count(b"\r\n") == taken.count(b"\r"), raw
    assert taken.count(b"\ncontent-length:") <= 1, raw
    assert b"\ntransfer-encoding:" not in taken, raw
    assert head.path[:1] in ("/", "*") and head.content_length >= 0, raw
    assert taken.count(b"\nhost:") == 1 or (head.version == (1, 0) and b"\nhost:" not in taken), raw
    return True


def answers(data: bytes) -> List[int]:
    """The statuses of the answers that `data` consists of, whole and nothing else; AssertionError otherwise."""
    found = []
    while data:
        match = re.match(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n((?:[A-Za-z-]+: [ -~]*\r\n)*)\r\n", data)
        assert match, data[:300]
        fields = dict(line.split(b": ", 1) for line in match[2].split(b"\r\n")[:-1])
        status, data = int(match[1]), data[match.end():]
        if status == 100:
            continue
        found.append(status)
        length = int(fields[b"Content-Length"])
        body, data = data[:length], data[length:]
        if body[:1] == b"H" or not body:  # that of a HEAD is not there
            data = body + data
            continue
        assert len(body) == length, body
        document = json.loads(body)
        if status != 200:
            assert set(document) == {"success", "message"} and document["success"] is False, document
            assert document["message"] and "\n" not in document["message"], document
    return found


def raw_round(server: Server, rng: random.Random) -> int:
    """Send some hostile bytes, and nothing after them; returns the number of answers."""
    raw = b"".join(hostile_head(rng) for _ in range(rng.choice((1, 1, 2, 5))))
    with socket.create_connection((server.host, server.port), 20) as client:
        data = b""
        with contextlib.suppress(ConnectionError):  # the rest of it was not wanted any more
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            block = client.recv(65536)
            while block:
                data += block
                block = client.recv(65536)
    statuses = answers(data)
    assert all(status < 500 or status in (501, 505) for status in statuses), (raw, data)
    assert len(statuses) <= raw.count(b"\r\n") + 1, (raw, data)
    return len(statuses)


class Bodies:
    """A connection to a server with a process to ask for, "there"."""

    def __init__(self, server: Server, rng: random.Random) -> None:
        self.server, self.rng, self.count = server, rng, 0
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=20)

    def round(self) -> int:
        """Send a body; AssertionError where the answer is neither success nor a clean refusal."""
        if self.count % 500 == 0:
            for shown in self.server.get("/list"):
                self.server.post(f"/remove/{shown['id']}?purge=true")
            self.server.add("there", "cat")
        self.count += 1
        path, body = hostile_body(self.rng)
        self.connection.request("POST", path, body, {"exeio-api-key": KEY})
        with self.connection.getresponse() as answer:
            text = answer.read()
        document = json.loads(text)
        about = (path, body, answer.status, text)
        assert isinstance(document["message"], str) and document["message"], about
        assert "\n" not in document["message"] and "Traceback" not in document["message"], about
        if answer.status == 200:
            assert document["success"] is True, about
            return 1
        assert answer.status in (400, 404, 409), about
        assert set(document) == {"success", "message"} and document["success"] is False, about
        return 0


def repeat(seconds: float, round: Callable[[], int]) -> Tuple[int, int]:
    """Call `round` until the time is over; returns how often, and the sum of what it returned."""
    end = time.monotonic() + seconds
    count = total = 0
    while time.monotonic() < end:
        total += round()
        count += 1
    return count, total


def fuzz(seconds: float, seed: int, server: Optional[Server] = None) -> str:
    """Fuzz for so long; returns what was done. AssertionError with what was sent where something is wrong."""
    dice = [random.Random(f"{seed} {part}") for part in ("heads", "raw", "bodies")]
    heads, taken = repeat(seconds / 3, lambda: check_head(hostile_head(dice[0])))
    with contextlib.ExitStack() as stack:
        if server is None:
            server = Server("-k", KEY, "--no-echo").start()
            stack.callback(server.close)
        there = server
        raws, answered = repeat(seconds / 3, lambda: raw_round(there, dice[1]))
        bodies = Bodies(server, dice[2])
        stack.callback(bodies.connection.close)
        sent, done = repeat(seconds / 3, bodies.round)
        assert server.get("/health")["success"]
        log = (server.logs / "exeio.log").read_text("utf-8", "replace")
        assert "Traceback" not in log and " failed" not in log, log
    return (f"{heads} heads, {taken} of them taken; {raws} times raw bytes, {answered} answers; "
            f"{sent} bodies, {done} of them right")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**9) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    print(fuzz(arguments.seconds, seed))


if __name__ == "__main__":
    main()
