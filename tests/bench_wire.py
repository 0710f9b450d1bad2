"""Clients that cost next to nothing, for the APIs of exeio and its peers: each over one Unix socket, bytes in and out.

What is measured with them is the program that answers, not the library that asks.
"""

import json
import os
import select
import socket
import time
from typing import Any, Dict, List, Tuple

#: The longest a program may take for one answer: a stop of 500 processes is one.
ANSWER_SECONDS = 300.0


def connect(path: str, seconds: float) -> socket.socket:
    """Connect as soon as somebody listens; TimeoutError where nobody does in time."""
    end = time.monotonic() + seconds
    while True:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            found.connect(path)
        except OSError:
            found.close()
            if time.monotonic() > end:
                raise TimeoutError(f"nobody listens at {path} after {seconds} s") from None
            time.sleep(0.001)
        else:
            found.settimeout(ANSWER_SECONDS)
            return found


class Client:
    """A socket that is read in exact pieces."""

    def __init__(self, path: str, seconds: float = 60) -> None:
        self._socket = connect(path, seconds)
        self._data = b""

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> None:
        block = self._socket.recv(1 << 20)
        if not block:
            raise ConnectionError("the program has closed the connection")
        self._data += block

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            self._more()
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def _take_through(self, end: bytes) -> bytes:
        while end not in self._data:
            self._more()
        return self._take(self._data.index(end) + len(end))


def http_request(method: str, target: str, fields: Dict[str, str], body: bytes = b"") -> bytes:
    """A request with its length, to be sent again and again on one connection."""
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in fields.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Http(Client):
    """HTTP/1.1 with keep-alive, for exeio and for the XML-RPC of supervisord."""

    def ask(self, request: bytes) -> bytes:
        """Send a request; returns the body of its answer, RuntimeError if that is not 200."""
        self._socket.sendall(request)
        head = self._take_through(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = self._take(length)
        if head.split(b" ", 2)[1] != b"200":
            raise RuntimeError(f"{request[:80]!r}: {head[:40]!r} {body[:300]!r}")
        return body


#: The greeting of ZMTP 3.0 (rfc.zeromq.org/spec/23): signature, version, mechanism NULL, not a server.
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x05READY" + b"\x0bSocket-Type\0\0\0\x06DEALER" + b"\x08Identity\0\0\0\0"


def zmtp_frame(body: bytes, is_command: bool = False) -> bytes:
    """One frame, the last of its message."""
    kind = 4 if is_command else 0
    if len(body) < 256:
        return bytes([kind, len(body)]) + body
    return bytes([kind | 2]) + len(body).to_bytes(8, "big") + body


class Zmq(Client):
    """A DEALER of ZeroMQ in JSON, as circusctl is."""

    def __init__(self, path: str, seconds: float = 60) -> None:
        super().__init__(path, seconds)
        self._socket.sendall(_GREETING + zmtp_frame(_READY, True))
        self._take(64)
        self._frame()

    def _frame(self) -> Tuple[int, bytes]:
        kind = self._take(1)[0]
        return kind, self._take(int.from_bytes(self._take(8 if kind & 2 else 1), "big"))

    def ask(self, frame: bytes) -> bytes:
        """Send a frame; returns the message that answers it, RuntimeError if it says that something failed."""
        self._socket.sendall(frame)
        kind, body = self._frame()
        while kind & 4:  # a command of ZMTP itself
            kind, body = self._frame()
        if b'"status":"error"' in body.replace(b" ", b""):
            raise RuntimeError(body[:300].decode())
        return body


def amp_message(method: str, arguments: List[Any], number: int) -> bytes:
    """A call as pm2 sends it: one AMP message (github.com/tj/node-amp) of two parts, the call and its number."""
    call = b"j:" + json.dumps({"type": "call", "method": method, "args": arguments}).encode()
    id = b"s:x:%d" % number
    return b"\x12" + len(call).to_bytes(4, "big") + call + len(id).to_bytes(4, "big") + id


class Axon(Client):
    """The RPC of the daemon of pm2, as its own command line speaks it."""

    def ask(self, message: bytes) -> bytes:
        """Send a call; returns the JSON of its answer, RuntimeError if it says that something failed."""
        self._socket.sendall(message)
        return self._answer()

    def ask_all(self, messages: List[bytes]) -> List[bytes]:
        """Send many calls at once; returns the answers in the order in which they come."""
        self._socket.sendall(b"".join(messages))
        return [self._answer() for _ in messages]

    def _answer(self) -> bytes:
        parts = [self._take(int.from_bytes(self._take(4), "big")) for _ in range(self._take(1)[0] & 15)]
        if parts[0].startswith(b'j:{"error"'):
            raise RuntimeError(parts[0][:300].decode())
        return parts[0][2:]


class Words:
    """A FIFO in which processes say that they are there, a line each, and which ends with the last of them."""

    def __init__(self, path: str) -> None:
        os.mkfifo(path)
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self._file, True)
        self._own = os.open(path, os.O_WRONLY)
        self._data = b""
        self._script = path + ".sh"
        with open(self._script, "w") as file:
            file.write(f"exec 9> '{path}'\necho $$ >&9\nexec sleep 100000\n")

    def sleeper(self) -> List[str]:
        """The command of a process that says its pid as soon as it is there, and then sleeps."""
        return ["/bin/sh", self._script]

    def take(self, count: int, seconds: float) -> List[bytes]:
        """The next lines; TimeoutError where they do not come in time."""
        end = time.monotonic() + seconds
        while self._data.count(b"\n") < count:
            self._read(end)
        *lines, rest = self._data.split(b"\n", count)
        self._data = rest
        return lines

    def wait_until_closed(self, seconds: float) -> None:
        """Wait until no process has it open any more."""
        os.close(self._own)
        self._own = -1
        end = time.monotonic() + seconds
        while self._read(end):
            pass

    def _read(self, end: float) -> bytes:
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            raise TimeoutError(f"{self.path}: no word in time")
        block = os.read(self._file, 65536)
        self._data += block
        return block

    def close(self) -> None:
        os.close(self._file)
        if self._own >= 0:
            os.close(self._own)
