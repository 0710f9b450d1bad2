"""Answers a second, by wrk, beside a plain ThreadingHTTPServer whose handler makes the same JSON (`bench.py http`).

The baseline is what one writes with the standard library: HTTP/1.1, json.dumps for each request, no log. It comes
twice: as the library sends, which is two small writes with Nagle's algorithm on, and with `disable_nagle_algorithm`.
"""

import contextlib
import http.server
import json
import re
import shutil
import statistics
import subprocess
import sys
import threading
from typing import Callable, Dict, Iterator, List, Tuple

from bench_server import KEY, Row, Server

PROCESSES = 100
SECONDS = 2
ROUNDS = 3
CLOSE = ("Connection: close",)
WITH_KEY = (f"exeio-api-key: {KEY}",)


def info() -> Iterator[Row]:
    """Requests for /info on connections that are kept, by somebody and by one with the key, who is told more."""
    with Server() as server:
        yield from _against(server, "/info", "", (), "at least 2.5")
        yield from _against(server, "/info", ", with the key", WITH_KEY, "at least 2.5")


def connections() -> Iterator[Row]:
    """A connection for each request for /info."""
    with Server() as server:
        yield from _against(server, "/info", ", one a request", CLOSE, "at least 2")


def list_() -> Iterator[Row]:
    """Requests for /list, with a hundred processes in it."""
    with Server() as server:
        _fill(server)
        yield from _against(server, "/list", f" of {PROCESSES}", WITH_KEY, "at least 3")


def crowd() -> Iterator[Row]:
    """64 clients at once, where wrk must count no error, neither of a socket nor of a status."""
    with Server() as server:
        _fill(server)
        for path in ("/info", "/list"):
            for options, how in (((), "kept"), (CLOSE, "one a request")):
                rate = _wrk(server.port, path, 64, WITH_KEY + options)
                yield Row(f"{path}: 64 connections, {how}", f"{rate:,.0f}/s", "", "", None, "no error")


SECTIONS: Dict[str, Callable[[], Iterator[Row]]] = {
    "info": info, "list": list_, "connections": connections, "crowd": crowd}


def _fill(server: Server) -> None:
    for number in range(PROCESSES):
        server.post("/add", {"id": f"sleeper-{number}", "command": "sleep", "args": ["100000"]})


def _against(server: Server, path: str, more: str, options: Tuple[str, ...], wanted: str) -> Iterator[Row]:
    """exeio and both baselines in turns with 8 connections, each with the median of its rounds."""
    document = server.get(path)
    with _plain(document, True) as slow, _plain(document, False) as fast:
        ports = {"exeio": server.port, "Nagle on": slow, "Nagle off": fast}
        rates: Dict[str, List[float]] = {name: [] for name in ports}
        for _ in range(ROUNDS):
            for name, port in ports.items():
                rates[name].append(_wrk(port, path, 8, options))
    ours, *bases = (statistics.median(rate) for rate in rates.values())
    what = f"{path}{more}: 8 connections (median of {ROUNDS})"
    for base, nagle in zip(bases, ("on", "off")):
        name = f"plain ThreadingHTTPServer, Nagle {nagle}"
        yield Row(what, f"{ours:,.0f}/s", name, f"{base:,.0f}/s", ours / base, wanted)


def _wrk(port: int, path: str, clients: int, options: Tuple[str, ...]) -> float:
    """Requests a second; RuntimeError if one of them failed."""
    command = ["wrk", "-t2", f"-c{clients}", f"-d{SECONDS}s"]
    for option in options:
        command += ["-H", option]
    said = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], check=True, capture_output=True, text=True)
    if "errors" in said.stdout or "Non-2xx" in said.stdout:
        raise RuntimeError(f"{path}, {clients} clients: {said.stdout}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", said.stdout)
    assert found is not None, said.stdout
    return float(found[1])


@contextlib.contextmanager
def _plain(document: object, nagle: bool) -> Iterator[int]:
    """The port of a plain server of this interpreter that answers everything with this document."""
    command = [sys.executable, __file__, "nagle" if nagle else "no-nagle"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(document) + "\n")
        server.stdin.flush()
        yield int(server.stdout.readline())


def serve_plainly(document: object, nagle: bool) -> None:
    """Serve until the end of stdin."""
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = not nagle

        def do_GET(self) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:  # or wrk takes the end for an error
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class PlainServer(http.server.ThreadingHTTPServer):
        request_queue_size = 128  # with its own, 5, clients wait for seconds until they are in

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a traceback for each client that ends

    with PlainServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        threading.Thread(target=server.serve_forever).start()
        sys.stdin.read()
        server.shutdown()


def needs() -> str:
    """What is missing to run this, "" where nothing is."""
    return "" if shutil.which("wrk") else "this section needs wrk (on Debian and Ubuntu: apt-get install wrk)"


if __name__ == "__main__":
    serve_plainly(json.loads(sys.stdin.readline()), sys.argv[1] == "nagle")
