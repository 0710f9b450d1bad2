"""sd_notify: a test plays the service manager's socket, with a real exeio or a thread that is late."""

import contextlib
import os
import select
import signal
import socket
import threading
import time

import pytest
from support import NOT_HERE, run_exeio, wait_for

from exeio_core.notify import Notifier


class Manager:
    """The service manager's end of the notify socket."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.settimeout(10)

    def receive(self):
        """The next message as a dict, and the pid that the kernel says it is from."""
        data, credentials, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
        pid = int.from_bytes(credentials[0][2][:4], "little")
        return dict(line.split("=", 1) for line in data.decode().split("\n")), pid

    def wait(self, *names):
        """The next message that says all of these; no other may come but WATCHDOG=1."""
        while True:
            message, _ = self.receive()
            if set(names) <= set(message):
                return message
            assert message == {"WATCHDOG": "1"}, message

    def silent(self, seconds):
        return not select.select([self.socket], [], [], seconds)[0]

    def close(self):
        self.socket.close()


@pytest.fixture
def manager(tmp_path):
    if not hasattr(socket, "SO_PASSCRED"):
        pytest.skip(NOT_HERE + "SO_PASSCRED")
    with contextlib.closing(Manager(f"@exeio-test-{os.getpid()}-{time.monotonic_ns()}")) as made:
        made.name = "@" + made.socket.getsockname()[1:].decode()
        yield made


def test_the_manager_hears_of_start_reload_life_and_stop(servers, manager):
    server = servers("--stop-timeout", "3", env={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "600000"})
    first, pid = manager.receive()
    while first == {"WATCHDOG": "1"}:  # the beat begins just before
        first, pid = manager.receive()
    assert pid == server.pid, "NotifyAccess=main"
    assert first == {"READY": "1", "STATUS": f"Serving {server.url}"}
    for _ in range(3):
        assert manager.receive()[0] == {"WATCHDOG": "1"}
    server.sh("slow", "exec sleep 100", stop_timeout_seconds=200)
    server.signal(signal.SIGHUP)
    reload = manager.wait("RELOADING")
    assert 0 <= time.monotonic() - int(reload["MONOTONIC_USEC"]) / 1e6 < 10
    assert manager.wait("READY")["STATUS"] == f"Serving {server.url}"
    server.stop()
    stop = manager.wait("STOPPING")
    assert int(stop["EXTEND_TIMEOUT_USEC"]) > 203e6, "longer than the longest grace"


def test_children_see_nothing_of_it(servers, manager):
    server = servers(env={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"})
    server.sh("look", "env")
    server.wait_status("look", "stopped")
    assert "PATH=" in server.log("look")
    assert "NOTIFY_SOCKET" not in server.log("look") and "WATCHDOG" not in server.log("look")
    manager.wait("READY")
    assert manager.silent(0.05), "that watchdog is another's"


def test_a_start_that_fails_is_not_ready(tmp_path, manager):
    (tmp_path / "processes.json").write_text("nonsense")
    failed = run_exeio("serve", "--config-dir", tmp_path, "--data-dir", tmp_path / "data", home=tmp_path,
                       env={"NOTIFY_SOCKET": manager.name})
    assert failed.returncode == 1
    assert manager.silent(0)


def test_a_path_and_a_manager_that_is_gone(tmp_path, servers):
    """The socket is a file, and at the end nobody listens to it any more."""
    with contextlib.closing(Manager(str(tmp_path / "s"))) as manager:
        server = servers(env={"NOTIFY_SOCKET": str(tmp_path / "s")})
        manager.wait("READY")
    server.stop()


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "relative", "/nowhere/at/all", "@" + "x" * 200])
def test_what_is_no_address_of_ours_is_let_alone(name):
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"}
    notifier = Notifier(environ)
    notifier.ready("here")
    with notifier.reloading("here"):
        pass
    notifier.stopping(1)
    notifier.close(1)
    assert environ == {}


@pytest.mark.parametrize(("environ", "seconds"), [
    ({}, None), ({"WATCHDOG_USEC": "x"}, None), ({"WATCHDOG_USEC": "0"}, None), ({"WATCHDOG_USEC": "-5"}, None),
    ({"WATCHDOG_USEC": "2000000"}, 2.0), ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
    ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 2.0),
])
def test_when_the_watchdog_is_asked_for(environ, seconds):
    assert Notifier(environ).watchdog_seconds == seconds
    assert environ == {}


class Thread:
    """Stands in for a watched thread: comes round as long as it may."""

    def __init__(self):
        self.last_round = time.monotonic()
        self.runs, self.lives = True, True

    def alive(self):
        return self.lives

    def wake(self):
        if self.runs:
            self.last_round = time.monotonic()


@pytest.fixture
def beating(manager):
    threads = (Thread(), Thread())
    notifier = Notifier({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "90000"})
    notifier.beat(threads)
    assert manager.receive()[0] == manager.receive()[0] == {"WATCHDOG": "1"}
    yield threads
    notifier.close(10)
    assert "exeio-notify" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("which", [0, 1])
def test_a_thread_that_does_not_come_round_silences_the_beat(beating, manager, which):
    beating[which].runs = False
    wait_for(lambda: manager.silent(0.2) or manager.receive() is None, what="the beat")
    beating[which].last_round = time.monotonic()  # it was late, and has come after all
    assert manager.receive()[0] == {"WATCHDOG": "1"}


def test_a_thread_that_has_ended_silences_the_beat(beating, manager):
    beating[1].lives = False
    wait_for(lambda: manager.silent(0.2) or manager.receive() is None, what="the beat")


def test_without_a_request_there_is_no_thread(manager):
    for environ in ({"NOTIFY_SOCKET": manager.name}, {"WATCHDOG_USEC": "90000"}):
        notifier = Notifier(environ)
        notifier.beat([Thread()])
        assert "exeio-notify" not in [thread.name for thread in threading.enumerate()]
        notifier.close(1)


def test_several_reloads_end_with_the_last(manager):
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    with notifier.reloading("a"):
        with notifier.reloading("b"):
            pass
        assert "RELOADING" in manager.receive()[0] and "RELOADING" in manager.receive()[0]
        assert manager.silent(0.02)
    assert manager.receive()[0] == {"READY": "1", "STATUS": "a"}
    with notifier.reloading("c\nSTOPPING=1"):
        manager.wait("RELOADING")
        notifier.stopping(1)
    assert "STOPPING" in manager.receive()[0]
    assert manager.silent(0.02), "a manager that stops it is not told that it is ready"
    notifier.close(1)
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    notifier.ready("one\ntwo")
    assert manager.receive()[0]["STATUS"] == "one two"
    notifier.close(1)
