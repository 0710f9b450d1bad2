"""The HTTP server over real sockets: hostile, slow and vanishing clients, and the limits that hold them."""

import contextlib
import errno
import functools
import http.server
import json
import os
import re
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from http_helpers import RawClient
from support import need, wait_for

from exeio_core import http_server, http_threads
from exeio_core.errors import Conflict, Failed, Invalid, NotFound, StartupError, Unavailable
from exeio_core.http_server import Crowd, HttpError, HttpServer, Limits, Reply
from exeio_core.tls import make_context

KEY = b"exeio-api-key: key\r\n"


class Endpoint:
    def __init__(self, function, takes_body=False, follows=False, has_key=True):
        self.function, self.takes_body, self.follows, self.has_key = function, takes_body, follows, has_key

    def __call__(self, request):
        return self.function(request)


class Fake:
    """GET /info for everybody; with the key POST /echo, GET /boom, and what a test adds. `calls`: what was done."""

    def __init__(self, **more):
        self.calls = []
        self.endpoints = {"info": Endpoint(self.info, has_key=False), "boom": Endpoint(lambda _: 1 / 0),
                          "echo": Endpoint(lambda request: Reply(200, request.body), takes_body=True), **more}

    def info(self, request):
        return Reply(200, json.dumps({"path": request.head.path, "client": request.client}).encode())

    def admit(self, head, client):
        if head.path != "/info" and head.fields.get(b"exeio-api-key") != b"key":
            raise HttpError(401, "the header exeio-api-key is missing or wrong")
        endpoint = self.endpoints.get(head.path[1:])
        if endpoint is None:
            raise HttpError(404, "no such path")
        if (head.method == "POST") is not endpoint.takes_body:
            raise HttpError(405, "not so", (("Allow", "POST" if endpoint.takes_body else "GET, HEAD"),))
        self.calls.append(head.path)
        return endpoint


class Client(RawClient):
    def __init__(self, server, path=None):
        super().__init__(path or server.server_address[:2])


FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


def get(path, *fields):
    return b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (path, b"".join(fields))


def post(body, *fields, path=b"/echo", length=None):
    size = len(body) if length is None else length
    return b"POST %b HTTP/1.1\r\nHost: a\r\n%b%bContent-Length: %d\r\n\r\n%b" % (path, KEY, b"".join(fields), size,
    body)


@pytest.fixture
def serve():
    """Starts a server for an application; at its end nothing was logged that the test did not take away."""
    made = []

    def start(application=None, limits=None, host="127.0.0.1", **options):
        log = []
        options.setdefault("crowd", Crowd(limits))
        server = HttpServer(host, 0, application or Fake(), log_error=log.append, **options)
        server.log = log
        server.start()
        made.append(server)
        return server

    yield start
    for server in made:
        assert server.stop(5)
        assert server.log == []
    # One that has let go of its connection may still be on its way out.
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("exeio-http")], 5,
             "no thread of a server to be left")


def connections():
    """How many threads serve a connection, or wait for one."""
    return len([thread for thread in threading.enumerate() if re.match(r"exeio-http-\d", thread.name)])


# The ordinary


def test_it_is_what_it_says(serve):
    server = serve()
    assert isinstance(server, http.server.ThreadingHTTPServer)
    assert server.address == f"127.0.0.1:{server.server_port}"
    with Client(server) as client:
        status, headers, body = client.ask(get(b"/info"))
        assert (status, headers["content-type"]) == (200, "application/json")
        assert headers["date"].endswith(" GMT")
        assert "connection" not in headers
        host, port = client.sock.getsockname()
        assert json.loads(body) == {"path": "/info", "client": f"{host}:{port}"}
        guest, = server.crowd._present
        assert guest.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert client.ask(get(b"/info"))[0] == 200
        assert client.ask(post(b"{}"))[2] == b"{}"


def test_head_is_get_without_a_body(serve):
    with Client(serve()) as client:
        _, _, body = client.ask(get(b"/info"))
        status, headers, _ = client.send(get(b"/info").replace(b"GET", b"HEAD")).answer(body=False)
        assert (status, headers["content-length"]) == (200, str(len(body)))
        assert client.ask(get(b"/info"))[0] == 200


def test_the_absolute_form_of_a_target(serve):
    with Client(serve()) as client:
        assert client.ask(b"GET http://elsewhere/info HTTP/1.1\r\nHost: a\r\n\r\n")[0] == 200


def test_pipelined_requests_are_answered_in_order(serve):
    with Client(serve()) as client:
        client.send(*[post(b"%d" % n) for n in range(100)], get(b"/info"), get(b"/none", KEY))
        assert [client.answer()[2] for n in range(100)] == [b"%d" % n for n in range(100)]
        assert [client.answer()[0] for n in range(2)] == [200, 404]


@pytest.mark.parametrize("option", [b"", b"Connection: keep-alive\r\n"])
def test_version_1_0(serve, option):
    with Client(serve()) as client:
        status, headers, _ = client.ask(b"GET /info HTTP/1.0\r\n", option, b"\r\n")
        assert (status, headers["connection"]) == (200, "keep-alive" if option else "close")
        assert client.ask(get(b"/info"))[0] == 200 if option else client.closed()


def test_a_client_that_wants_to_close(serve):
    with Client(serve()) as client:
        assert client.ask(get(b"/info", b"Connection: close\r\n"))[1]["connection"] == "close"
        assert client.closed()


def test_one_empty_line_before_a_request_is_ignored(serve):
    with Client(serve()) as client:
        assert client.ask(b"\r\n", get(b"/info"))[0] == 200
        client.send(b"\r")
        assert client.ask(b"\n", get(b"/info"))[0] == 200


@pytest.mark.parametrize(("error", "status"), [
    (Invalid("x", "id"), 400), (NotFound("x"), 404), (Conflict("x"), 409), (Unavailable("x"), 503),
    (HttpError(403, "x", (("X-A", "b"),)), 403),
])
def test_expected_failures_become_answers(serve, error, status):
    def fail(_):
        raise error

    with Client(serve(Fake(fail=Endpoint(fail)))) as client:
        found, headers, body = client.ask(get(b"/fail", KEY))
        assert (found, json.loads(body)) == (status, {"success": False, "message": "x"})
        assert headers.get("x-a") == ("b" if status == 403 else None)
        assert client.ask(get(b"/info"))[0] == 200


def test_a_bug_is_logged_and_not_shown(serve):
    server = serve()
    with Client(server) as client:
        status, _, body = client.ask(get(b"/boom?secret", KEY))
        assert (status, json.loads(body)["success"]) == (500, False)
        assert b"Zero" not in body
        assert client.ask(get(b"/info"))[0] == 200
    assert server.log[0].startswith("GET /boom failed:\nTraceback")
    assert "ZeroDivisionError" in server.log.pop()


def test_a_failure_of_exeio_is_logged_in_a_line(serve):
    def fail(_):
        raise Failed("no space left")

    server = serve(Fake(fail=Endpoint(fail)))
    with Client(server) as client:
        assert client.ask(get(b"/fail", KEY))[0] == 500
    assert server.log == ["GET /fail failed: no space left"]
    server.log.clear()


def test_headers_cannot_be_injected(serve):
    server = serve(Fake(bad=Endpoint(lambda _: Reply(200, headers=(("X", "a\r\nSet-Cookie: b"),)))))
    with Client(server) as client:
        status, headers, _ = client.ask(get(b"/bad", KEY))
        assert (status, "set-cookie" in headers) == (500, False)
    assert "control characters" in server.log.pop()


def test_after_runs_once_the_answer_was_sent(serve):
    done = threading.Event()
    with Client(serve(Fake(end=Endpoint(lambda _: Reply(200, after=done.set))))) as client:
        assert client.ask(get(b"/end", KEY))[0] == 200
        assert done.wait(5)


def test_answers_are_observed(serve):
    seen = []
    with Client(serve(observe=lambda head, endpoint, status, seconds: seen.append(
            (head and head.path, endpoint is not None, status, seconds >= 0)))) as client:
        client.ask(get(b"/info"))
        client.ask(get(b"/none", KEY))
        client.ask(b"BAD\r\n\r\n")
        assert client.closed()
    assert seen == [("/info", True, 200, True), ("/none", False, 404, True), (None, False, 400, True)]


# Bodies


def test_a_body_of_exactly_the_limit(serve):
    body = b"x" * (1024 * 1024)
    with Client(serve()) as client:
        assert client.ask(post(body))[2] == body
        assert client.ask(get(b"/info"))[0] == 200


@pytest.mark.parametrize("kind", [b"", b"application/json", b"Application/JSON; charset=utf-8",
b"application/json ;x"])
def test_content_types_that_are_json(serve, kind):
    with Client(serve()) as client:
        assert client.ask(post(b"{}", b"Content-Type: %b\r\n" % kind))[0] == 200


def test_a_refused_client_that_goes_on_sending_reads_why(serve):
    with Client(serve()) as client:
        client.send(get(b"/none", KEY, b"Content-Length: 1000000\r\n"))
        for _ in range(10):
            client.send(b"x" * 100_000)
        assert client.answer()[0] == 404
        assert client.closed()


def test_continue_is_said_only_to_the_admitted(serve):
    expect = b"Expect: 100-continue\r\n"
    with Client(serve()) as client:
        client.send(post(b"", expect, length=2))
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        assert client.ask(b"{}")[2] == b"{}"
        assert client.ask(post(b"{}", expect))[:1] == (200,)  # it did not wait: nothing is to be said first
        client.send(post(b"", expect, FORM, length=2))
        assert client.answer()[0] == 415
        assert client.closed()
    for raw, status in ((post(b"", expect, length=2).replace(b": key", b": no"), 401),
                        (post(b"", expect, path=b"/none", length=2), 404),
                        (post(b"", expect, length=2**21), 413)):
        with Client(serve()) as client:
            assert client.ask(raw)[0] == status
            assert client.closed()


# The slow and the vanishing


def test_a_head_has_a_deadline_as_a_whole(serve):
    server = serve(limits=Limits(head_seconds=2))
    with Client(server) as quiet, Client(server) as slow:
        begin = time.monotonic()
        for byte in get(b"/info", b"X: y\r\n" * 50):
            if select.select([slow.sock], [], [], 0.05)[0]:
                break
            slow.send(bytes([byte]))
        assert slow.answer()[0] == 408
        assert 0.5 < time.monotonic() - begin < 8
        assert quiet.closed()  # it has said nothing, and is told nothing
        slow.sock.shutdown(socket.SHUT_WR)
        assert slow.closed()
    with Client(server) as client:  # the deadline counts from the first byte of each head
        for _ in range(4):  # together they are longer than one deadline
            assert client.ask(get(b"/info"))[0] == 200
            answered_at = time.monotonic()
            wait_for(lambda since=answered_at: time.monotonic() > since + 0.7, 5)


def test_a_body_has_a_deadline_as_a_whole(serve):
    with Client(serve(limits=Limits(body_seconds=0.3))) as client:
        client.send(post(b"", length=100))
        for _ in range(100):
            if select.select([client.sock], [], [], 0.03)[0]:
                break
            client.send(b"x")
        assert client.answer()[0] == 408


def test_an_idle_connection_ends_quietly(serve):
    with Client(serve(limits=Limits(idle_seconds=0.2))) as client:
        begin = time.monotonic()  # before the answer, with which the idle time begins
        assert client.ask(get(b"/info"))[0] == 200
        assert client.closed()
        assert 0.1 <= time.monotonic() - begin < 10


def test_a_client_that_does_not_read_is_left(serve):
    large = Reply(200, b"x" * 20_000_000)
    server = serve(Fake(large=Endpoint(lambda _: large)), limits=Limits(write_seconds=0.2, write_rate=10**9))
    with Client(server) as client:
        client.send(get(b"/large", KEY))
        wait_for(lambda: not server.crowd._present, 5)


def test_two_hundred_clients_that_vanish(serve):
    server = serve(Fake(large=Endpoint(lambda _: Reply(200, b"x" * 3_000_000))))
    for number in range(200):
        with Client(server) as client:
            client.send(get(b"/large", KEY))
            if number % 2:
                client.sock.recv(1000)
            # Closing with something unread resets the connection.
    wait_for(lambda: not server.crowd._present, 5)
    assert server.log == []
    # One that ends since enough others wait is still counted for a moment.
    wait_for(lambda: connections() <= http_threads.WAITING, 5)


def test_300_connections_that_trickle(serve):
    server = serve(limits=Limits(head_seconds=4, linger_seconds=0.3))
    before = connections()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Client(server)).send(b"G") for _ in range(300)]
        began = time.monotonic()
        with Client(server) as client:
            assert client.ask(get(b"/info"))[0] == 200
            assert time.monotonic() - began < 3  # it does not wait for a deadline of others
        # Those that were turned out need a moment to end.
        wait_for(lambda: connections() <= 256 + http_threads.WAITING, 5)
        waiting = {client.sock.fileno(): client for client in slow}
        while waiting:
            assert time.monotonic() < began + 15
            poll = select.poll()
            for descriptor in waiting:
                poll.register(descriptor, select.POLLIN)
            for descriptor, _ in poll.poll(100):
                try:
                    data = waiting[descriptor].sock.recv(1000)
                except ConnectionResetError:
                    data = b""
                assert data == b"" or data.startswith(b"HTTP/1.1 408 ")
                if not data:
                    del waiting[descriptor]
            for client in waiting.values():
                with contextlib.suppress(ConnectionError):
                    client.send(b"E")
        wait_for(lambda: connections() <= before + http_threads.WAITING, 5)


def test_where_threads_take_turns_to_accept(serve, monkeypatch):
    """On systems whose shutdown(2) does not end an accept(2)."""
    monkeypatch.setattr(http_server, "_TURNS", True)
    server = serve()
    assert server.socket.getblocking() is False
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(40)]
        for client in clients:
            client.send(get(b"/info"))
        assert [client.answer()[0] for client in clients] == [200] * 40
        assert server.stop(5)
        assert all(client.closed() for client in clients)


# Too many


@pytest.fixture
def gate():
    """An endpoint that answers when the test opens the gate, which it is at the end."""
    event = threading.Event()
    event.entered = threading.Semaphore(0)

    def wait(_):
        event.entered.release()
        assert event.wait(10)
        return Reply(200, b"{}")

    event.application = Fake(wait=Endpoint(wait))
    yield event
    event.set()


def test_the_oldest_without_a_head_makes_room(serve, gate):
    server = serve(gate.application, Limits(connections=3))
    with Client(server) as busy, Client(server) as idle, Client(server) as fresh:
        busy.send(get(b"/wait", KEY))
        assert gate.entered.acquire(timeout=5)
        fresh.send(b"GET")
        wait_for(lambda: len(server.crowd._present) == 3, 5)
        assert idle.ask(get(b"/info"))[0] == 200  # it has had its turn, and waits for a shorter time than `fresh`
        latest = f"127.0.0.1:{idle.sock.getsockname()[1]}"
        wait_for(lambda: next(reversed(server.crowd._waiting)).client == latest, 5)
        with Client(server) as another:
            assert fresh.closed()
            assert another.ask(get(b"/info"))[0] == 200
            assert idle.ask(get(b"/info"))[0] == 200
            gate.set()
            assert busy.answer()[0] == 200


def test_if_all_are_busy_a_new_one_is_refused(serve, gate):
    server = serve(gate.application, Limits(connections=2))
    with Client(server) as one, Client(server) as two:
        for client in (one, two):
            client.send(get(b"/wait", KEY))
            assert gate.entered.acquire(timeout=5)
        with Client(server) as third:
            status, headers, body = third.answer()
            assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
            assert json.loads(body)["success"] is False
            assert third.closed()
        gate.set()
        assert one.answer()[0] == two.answer()[0] == 200
        one.sock.close()

        def asked():
            with Client(server) as third:
                return third.ask(get(b"/info"))[0]
        wait_for(lambda: asked() == 200)  # a thread may be just about to see that its client is idle


def test_one_that_does_not_read_makes_room_in_the_end(serve):
    large = Reply(200, b"x" * 20_000_000)
    server = serve(Fake(large=Endpoint(lambda _: large)), Limits(connections=2, stall_seconds=60))
    with Client(server) as one, Client(server) as two:
        for client in (one, two):
            client.send(get(b"/large", KEY))
            client.answer(body=False)
        wait_for(lambda: len(server.crowd._stalled) == 2, 5)
        with Client(server) as third:
            assert third.answer()[0] == 503
        server.crowd.limits = Limits(connections=2, stall_seconds=0.3)
        wait_for(functools.partial(answered, server.server_address), 5)
        assert len(server.crowd._stalled) == 1


def test_one_without_a_key_makes_room_at_once(serve):
    """256 clients that asked for /info again and again, and never read, kept everybody out."""
    large = Reply(200, b"x" * 20_000_000)
    server = serve(Fake(large=Endpoint(lambda _: large, has_key=False)), Limits(connections=2))
    with Client(server) as one, Client(server) as two:
        for client in (one, two):
            client.send(get(b"/large", KEY))
            client.answer(body=False)
        wait_for(lambda: len(server.crowd._stalled) == 2, 5)
        with Client(server) as third:
            assert third.ask(get(b"/info"))[0] == 200
        wait_for(lambda: len(server.crowd._present) < 3, 5)


def test_a_body_for_nothing_holds_no_place(serve):
    server = serve(limits=Limits(connections=1))
    with Client(server) as slow:
        slow.send(get(b"/info", b"Content-Length: 9\r\n"), b"1")
        wait_for(lambda: "/info" in server.application.calls and server.crowd._waiting, 5)
        with Client(server) as client:
            assert client.ask(get(b"/info"))[0] == 200
            assert slow.closed()


def test_no_more_threads(serve, monkeypatch):
    server = serve()
    with Client(server) as kept:
        assert kept.ask(get(b"/info"))[0] == 200
        with monkeypatch.context() as patch:
            def fail(_):
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", fail)
            for _ in range(2):
                with Client(server) as client:
                    assert client.answer()[0] == 503
                    assert client.closed()
        assert kept.ask(get(b"/info"))[0] == 200
        with Client(server) as client:
            assert client.ask(get(b"/info"))[0] == 200
    assert server.log == ["connections are refused: can't start new thread"]
    server.log.clear()


SHORT = """
import resource, sys, threading
from test_http_server import Endpoint, Fake, HttpServer, Reply
gate = threading.Event()
busy = Endpoint(lambda _: Reply(200, b"{}") if gate.wait(30) else None)
server = HttpServer("127.0.0.1", 0, Fake(wait=busy), log_error=lambda text: print(text, flush=True))
server.start()
resource.setrlimit(resource.RLIMIT_NOFILE, (25, 25))
print(server.server_port, flush=True)
sys.stdin.readline()
gate.set()
sys.stdin.read()
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, server.stop(5))
"""


def short():
    """A server with few descriptors: its process and address. A line lets /wait be answered."""
    return script(SHORT)


@contextlib.contextmanager
def script(text):
    """A server in a process of its own: that, and the server's address."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    with subprocess.Popen([sys.executable, "-W", "error", "-c", text], env=environment, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        yield child, ("127.0.0.1", int(child.stdout.readline()))


def test_no_more_descriptors():
    with short() as (child, address):
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(40):
                client = stack.enter_context(socket.create_connection(address, 5))
                client.sendall(get(b"/wait", KEY))
                clients.append(client)
            for client in reversed(clients):
                client.settimeout(1)
                with contextlib.suppress(OSError):  # one of those that were accepted
                    if client.recv(1000).startswith(b"HTTP/1.1 503 "):
                        break
            else:
                raise AssertionError("nobody was told")
            child.stdin.write("\n")
            child.stdin.flush()
        with socket.create_connection(address, 5) as client:
            wait_for(functools.partial(answered, address), 5)
            # What waited for the shortage to end does not turn away those who come later.
            assert all(answered(address) for _ in range(20))
            del client
        output, _ = child.communicate("")
    assert re.fullmatch(r"connections are refused: Too many open files\n\d\.\d+ True\n", output), output
    assert float(output.split()[-2]) < 2


def test_where_descriptors_are_short_the_idle_make_room():
    """So many that say nothing kept out whoever has the key."""
    with short() as (child, address):
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(socket.create_connection(address, 5))
            assert all(answered(address) for _ in range(20))
        output, _ = child.communicate("")
    assert re.fullmatch(r"\d\.\d+ True\n", output), output


FEW = """
import contextlib, os, resource, sys
from support import wait_for
from exeio_core import http_server
from test_http_server import Endpoint, Fake, HttpServer
http_server._MOMENT_SECONDS = 1.0  # what a thread may take to accept, also where the machine has other things to do
server = HttpServer("127.0.0.1", 0, Fake(), log_error=lambda text: print(text, flush=True))
server.start()
print(server.server_port, flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 60))
print("no more", flush=True)
wait_for(server._turn.locked)
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
with contextlib.suppress(OSError):
    while True:
        os.dup(0)
print("a thread has no descriptor for the next one", flush=True)
sys.stdin.read()
print(server.stop(5))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="not here: accept(2) that keeps a descriptor")
def test_nobody_makes_room_for_a_client_that_a_thread_has_a_descriptor_for():
    """Each thread that had none turned one out, perhaps the very client that another had just taken."""
    with script(FEW) as (child, address), contextlib.ExitStack() as stack:
        idle, first, second = [stack.enter_context(RawClient(address)) for _ in range(3)]
        for client in (idle, first, second):
            assert client.ask(get(b"/info"))[0] == 200
        first.sock.close()  # its thread is back in accept(2), beside the one that was there
        wait_for(functools.partial(answered, address), 5)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "no more\n"
        second.sock.close()
        assert child.stdout.readline() == "a thread has no descriptor for the next one\n"
        for _ in range(300):
            assert answered(address)
            assert idle.ask(get(b"/info"))[0] == 200
        output, _ = child.communicate("")
        assert output == "True\n"


def answered(address):
    with socket.create_connection(address, 5) as client:
        client.sendall(get(b"/info"))
        try:
            return client.recv(1000).startswith(b"HTTP/1.1 200 ")
        except ConnectionResetError:
            return False


# Streams


class Stream:
    """Blocks that a test puts in; waits for the next one until closed."""

    def __init__(self):
        self.condition = threading.Condition()
        self.blocks = []
        self.closed = 0

    def put(self, *blocks):
        with self.condition:
            self.blocks += blocks
            self.condition.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.condition:
            assert self.condition.wait_for(lambda: self.blocks or self.closed, 10)
            if not self.blocks:
                raise StopIteration
            return self.blocks.pop(0)

    def close(self):
        with self.condition:
            self.closed += 1
            self.condition.notify()


def streaming(stream, follows=True):
    return Fake(stream=Endpoint(lambda _: Reply(200, stream=stream, content_type="text/event-stream"),
    follows=follows))


def test_a_stream_comes_in_chunks(serve):
    stream = Stream()
    with Client(serve(streaming(stream))) as client:
        headers = client.send(get(b"/stream", KEY)).answer()[1]
        assert headers["content-type"] == "text/event-stream"
        assert (headers["transfer-encoding"], headers["connection"]) == ("chunked", "close")
        stream.put(b"data: 1\n\n")
        assert client.until(b"\n\n\r\n") == b"9\r\ndata: 1"
        stream.put(b"", b"x" * 100_000)
        assert len(client.until(b"x\r\n")) == len(b"186a0\r\n") + 99_999
        stream.close()
        assert client.until(b"\r\n\r\n") == b"0"
        assert client.closed()
    assert stream.closed


def test_a_stream_for_1_0_ends_with_the_connection(serve):
    with Client(serve(streaming(iter([b"one", b"two"]), follows=False))) as client:
        headers = client.send(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n", KEY, b"\r\n").answer()[1]
        assert "transfer-encoding" not in headers
        while client.more():
            pass
        assert client.data == b"onetwo"


def test_a_stream_that_is_no_follower_keeps_the_connection(serve):
    with Client(serve(streaming(iter([b"one"]), follows=False))) as client:
        client.send(get(b"/stream", KEY), get(b"/info"))
        client.answer()
        assert client.until(b"0\r\n\r\n") == b"3\r\none\r\n"
        assert client.answer()[0] == 200


def test_head_of_a_stream(serve):
    stream = Stream()
    with Client(serve(streaming(stream, follows=False))) as client:
        client.send(get(b"/stream", KEY).replace(b"GET", b"HEAD")).answer()
        assert client.ask(get(b"/info"))[0] == 200
    assert stream.closed


def test_the_stream_of_a_client_that_left_is_closed(serve):
    for reset in (False, True):
        stream = Stream()
        with Client(serve(streaming(stream))) as client:
            client.send(get(b"/stream", KEY)).answer()
            if reset:
                stream.put(b"x" * 1000)
                client.sock.recv(10)
        # An empty block asks whether it is still there; a full one finds out when it is sent.
        wait_for(lambda s=stream, r=reset: s.put(b"x" * 65536 if r else b"") or s.closed, 5)


def test_a_stream_that_breaks_off_is_not_completed(serve):
    def broken():
        yield b"one"
        raise OSError(errno.EIO, "no such luck")

    server = serve(streaming(broken()))
    with Client(server) as client:
        client.send(get(b"/stream", KEY)).answer()
        while client.more():
            pass
        assert client.data == b"3\r\none\r\n"
    assert "no such luck" in server.log.pop()


def test_followers_are_counted_apart_and_may_idle(serve):
    stream = Stream()
    # Not head_seconds: a busy machine may take longer than that for a head.
    limits = Limits(connections=1, followers=1, idle_seconds=0.1, body_seconds=0.1, write_seconds=0.1)
    server = serve(streaming(stream), limits)
    with Client(server) as follower:
        follower.send(get(b"/stream", KEY)).answer()
        with Client(server) as client:
            status, headers, _ = client.ask(get(b"/stream", KEY))
            assert (status, headers["retry-after"]) == (503, "5")
            assert client.closed()
        time.sleep(0.3)
        stream.put(b"still here")
        assert follower.until(b"here\r\n") == b"a\r\nstill "
        stream.close()
        assert follower.until(b"\r\n\r\n") == b"0"
        assert follower.closed()
    stream = Stream()
    server.application.endpoints["stream"] = streaming(stream).endpoints["stream"]
    with Client(server) as follower:  # its place is free again
        assert follower.send(get(b"/stream", KEY)).answer()[0] == 200
        stream.close()


# The end


def test_stop_lets_answers_finish_and_wakes_the_idle(serve, gate):
    stream = Stream()
    gate.application.endpoints["stream"] = streaming(stream).endpoints["stream"]
    server = serve(gate.application)
    with Client(server) as busy, Client(server) as idle, Client(server) as fresh, Client(server) as follower:
        assert idle.ask(get(b"/info"))[0] == 200
        fresh.send(b"GET /in")
        follower.send(get(b"/stream", KEY)).answer()
        busy.send(get(b"/wait", KEY), get(b"/info"))
        assert gate.entered.acquire(timeout=5)
        stopped = []
        stopper = threading.Thread(target=lambda: stopped.append(server.stop(5)))
        stopper.start()
        assert idle.closed()
        assert fresh.closed()
        assert follower.until(b"\r\n\r\n") == b"0"
        with pytest.raises(ConnectionRefusedError):
            Client(server)
        gate.set()
        status, headers, _ = busy.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert busy.closed()
        stopper.join(5)
        assert stopped == [True]
    assert stream.closed
    assert server.stop(0)


def test_stop_is_bounded(serve, gate):
    server = serve(gate.application)
    with Client(server) as client:
        client.send(get(b"/wait", KEY))
        assert gate.entered.acquire(timeout=5)
        began = time.monotonic()
        assert server.stop(0.1) is False
        assert time.monotonic() - began < 8
        assert client.closed()
        gate.set()


def test_stop_of_a_generator_at_work(serve, gate):
    def stream():
        yield b"one"
        gate.entered.release()
        assert gate.wait(10)
        yield b"two"

    server = serve(streaming(stream()))
    with Client(server) as client:
        client.send(get(b"/stream", KEY)).answer()
        client.until(b"one\r\n")
        assert gate.entered.acquire(timeout=5)  # at work: one that has not been asked for more is just closed
        stopper = threading.Thread(target=server.stop, args=(5,))
        stopper.start()
        wait_for(lambda: server.closing, 5)
        gate.set()
        assert client.until(b"\r\n\r\n") == b"3\r\ntwo\r\n0"
        stopper.join(5)


def test_a_server_that_was_never_started_can_be_stopped():
    server = HttpServer("127.0.0.1", 0, Fake())
    assert server.stop(0)
    assert server.stop(0)


def test_idle_threads_do_not_wake_up(serve):
    status = Path("/proc/self/task")
    if not status.is_dir():
        pytest.skip("not here: /proc")
    server = serve()
    for _ in range(3):
        with Client(server) as client:
            assert client.ask(get(b"/info"))[0] == 200

    def switches():
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("exeio-http")]
        assert threads
        return [re.findall(r"ctxt_switches:\s*(\d+)", (status / str(thread.native_id) / "status").read_text())
                for thread in threads]

    def settled():
        before = switches()
        time.sleep(0.3)
        return before == switches()

    wait_for(settled, 3)


# Where it listens


def test_names_and_families(serve):
    server = serve(host="localhost")
    with Client(server) as client:
        assert client.ask(get(b"/info"))[0] == 200
    if not socket.has_ipv6 or not ipv6():
        pytest.skip("not here: no IPv6 on this machine")
    for host in ("::1", "[::1]"):
        server = serve(host=host)
        assert server.address == f"[::1]:{server.server_port}"
        with Client(server) as client:
            body = client.ask(get(b"/info"))[2]
            assert json.loads(body)["client"] == f"[::1]:{client.sock.getsockname()[1]}"
    server = serve(host="::")
    with socket.create_connection(("127.0.0.1", server.server_port), 5) as sock:
        sock.sendall(get(b"/info"))
        assert b'"127.0.0.1:' in sock.recv(1000)


def ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize(("host", "port", "words"), [
    ("127.0.0.1", 70000, "from 0 to 65535"), ("127.0.0.1", -1, "from 0 to 65535"), ("", 0, "must not be empty"),
    ("192.0.2.1", 0, "is not an address of this machine"), ("no.such.name.invalid", 0, "name is not known"),
    ("a" * 300, 0, "name is not known"),
])
def test_where_it_cannot_listen(host, port, words):
    with pytest.raises(StartupError) as caught:
        HttpServer(host, port, Fake())
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_a_port_in_use(serve):
    server = serve()
    with pytest.raises(StartupError) as caught:
        HttpServer("127.0.0.1", server.server_port, Fake())
    assert caught.value.message == (
        f"cannot listen on 127.0.0.1 port {server.server_port}: the port is in use by another program; "
        "stop that one or choose another port")
    assert isinstance(caught.value.__cause__, OSError)


def test_a_port_is_free_again_at_once(serve):
    server = serve()
    with Client(server) as client:
        client.ask(get(b"/info", b"Connection: close\r\n"))  # leaves the server's end in TIME_WAIT
        assert client.closed()
    server.stop(5)
    HttpServer("127.0.0.1", server.server_port, Fake()).stop(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a short path: that of a Unix socket has 107 bytes."""
    monkeypatch.chdir(tmp_path)
    return Path()


def test_unix_socket(serve, folder):
    path = str(folder / "exeio.sock")
    server = serve(unix_path=path)
    assert server.address == "unix:exeio.sock"
    assert os.stat(path).st_mode & 0o777 == 0o600
    with Client(server, path) as client:
        assert json.loads(client.ask(get(b"/info"))[2])["client"] == "unix"
        with pytest.raises(StartupError, match="another server listens there"):
            HttpServer("", 0, Fake(), unix_path=path)
        assert client.ask(get(b"/info"))[0] == 200
        assert server.stop(5)
        assert client.closed()
    assert not os.path.exists(path)


def test_a_stale_unix_socket_is_replaced(serve, folder):
    path = str(folder / "exeio.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    server = serve(unix_path=path)
    with Client(server, path) as client:
        assert client.ask(get(b"/info"))[0] == 200
    os.unlink(path)
    (folder / "exeio.sock").write_text("of somebody else")
    assert server.stop(5)
    assert os.path.exists(path)
    with pytest.raises(StartupError, match="not a socket"):
        HttpServer("", 0, Fake(), unix_path=path)


@pytest.mark.parametrize("path", ["no/such/folder/sock", "x" * 200, "a\0b"])
def test_where_a_unix_socket_cannot_be(path):
    with pytest.raises(StartupError, match="cannot listen on the Unix socket"):
        HttpServer("", 0, Fake(), unix_path=path)


def test_two_servers_share_their_limits(serve, folder, gate):
    crowd = Crowd(Limits(connections=1))
    tcp = serve(gate.application, crowd=crowd)
    unix = serve(gate.application, crowd=crowd, unix_path=str(folder / "s"))
    with Client(unix, "s") as client:
        client.send(get(b"/wait", KEY))
        assert gate.entered.acquire(timeout=5)
        with Client(tcp) as other:
            assert other.answer()[0] == 503
        assert tcp.stop(5)  # that of the other server is not its own
        gate.set()
        assert client.answer()[0] == 200
        assert client.ask(get(b"/info"))[0] == 200


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two certificates with their keys, made by openssl."""
    need("openssl")
    folder = tmp_path_factory.mktemp("tls")
    made = []
    for name in ("one", "two"):
        cert, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes",
                        "-keyout", key, "-out", cert, "-days", "2", "-subj", f"/CN={name}",
                        "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        made.append((cert, key))
    return made


class TlsClient(Client):
    def __init__(self, server, cert):
        super().__init__(server)
        context = ssl.create_default_context(cafile=cert)
        try:
            self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")
        except BaseException:
            self.sock.close()
            raise


def test_tls(serve, certificates):
    (one, key), (two, other_key) = certificates
    large = Reply(200, b"x" * 3_000_000)
    server = serve(Fake(large=Endpoint(lambda _: large)), tls=make_context(one, key))
    with TlsClient(server, one) as client:
        assert client.sock.version() in ("TLSv1.2", "TLSv1.3")
        assert client.ask(get(b"/info"))[0] == 200
        assert client.ask(post(b"y" * 1_000_000))[2] == b"y" * 1_000_000
        assert client.ask(get(b"/large", KEY))[2] == large.body
        client.send(get(b"/info"), get(b"/none", KEY))
        assert [client.answer()[0], client.answer()[0]] == [200, 404]
        server.tls = make_context(two, other_key)  # holds for new connections
        with TlsClient(server, two) as another:
            assert another.ask(get(b"/info"))[0] == 200
        assert client.ask(get(b"/info"))[0] == 200
        with pytest.raises(ssl.SSLError):
            TlsClient(server, one)
        # A connection's end is said, so that nothing looks cut off.
        client.sock.suppress_ragged_eofs = False
        assert client.ask(get(b"/info", b"Connection: close\r\n"))[0] == 200
        assert client.closed()
    with TlsClient(server, two) as idle:
        assert idle.ask(get(b"/info"))[0] == 200
        assert server.stop(5)
        assert idle.closed()


def test_tls_hurts_nobody(serve, certificates):
    (cert, key), _ = certificates
    server = serve(tls=make_context(cert, key), limits=Limits(head_seconds=3, linger_seconds=0.5))
    with Client(server) as quiet, Client(server) as stalled, Client(server) as odd, Client(server) as plain:
        stalled.send(b"\x16\x03\x01\x00\xf8\x01\x00")
        odd.send(b"\x16" + b"G" * 100)
        with TlsClient(server, cert) as client:
            assert client.ask(get(b"/info"))[0] == 200
        status, _, body = plain.ask(get(b"/info"))
        assert (status, "HTTPS" in json.loads(body)["message"]) == (400, True)
        assert quiet.closed()
        assert stalled.closed()
        with contextlib.suppress(ConnectionResetError):
            while odd.more():  # an alert, or nothing
                pass


def test_a_follower_through_tls_leaves(serve, certificates):
    (cert, key), _ = certificates
    stream = Stream()
    with TlsClient(serve(streaming(stream), tls=make_context(cert, key)), cert) as client:
        client.send(get(b"/stream", KEY)).answer()
        stream.put(b"one")
        client.until(b"one\r\n")
    wait_for(lambda: stream.put(b"") or stream.closed, 5)


def test_curl(serve, folder, certificates):
    """A client that others wrote: over all three, with a body it announces by Expect."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    (cert, key), _ = certificates
    servers = [serve(), serve(tls=make_context(cert, key)), serve(unix_path="s")]
    body = folder / "body"
    body.write_bytes(b"x" * 1_000_000)
    for server, options in zip(servers, ([f"http://{servers[0].address}/echo"],
                                         [f"https://{servers[1].address}/echo", "--cacert", cert],
                                         ["http://x/echo", "--unix-socket", "s"])):
        done = subprocess.run(["curl", "-sS", "--noproxy", "*", "-m", "10", *options, "--data-binary", "@body",
                               "-H", "exeio-api-key: key", "-H", "content-type: application/json",
                               "-H", "expect: 100-continue"], capture_output=True, check=False)
        assert (done.stdout == body.read_bytes(), done.stderr) == (True, b""), server.address
