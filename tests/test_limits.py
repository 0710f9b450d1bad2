"""Resources that end: what cannot start says why and is tried again, all else goes on, and afterwards all is well."""

import contextlib
import errno
import http.client
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import nasty
import pytest
from support import NOT_HERE, Server, wait_for

from exeio_core.watchdog import Watchdog

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason=NOT_HERE + "prlimit(2)")


def leave(server, kind, number):
    """Leave exeio room for so many more descriptors, or bytes; all it wants with None."""
    hard = resource.prlimit(server.pid, kind)[1]
    if number is None:
        soft = hard
    elif kind == resource.RLIMIT_NOFILE:
        soft = len(os.listdir(f"/proc/{server.pid}/fd")) + number
    else:
        size = re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
        soft = int(size[1]) * 1024 + number
    resource.prlimit(server.pid, kind, (soft, hard))


def test_a_restart_without_descriptors_is_tried_again(server):
    """It is in backoff with the reason, the other goes on, nobody is left over, and it comes back by itself."""
    server.sh("other", "while read line; do echo got $line; done")
    server.sh("web", "exec sleep 1000", auto_restart=True, min_uptime_seconds=3600,
              restart_delay_seconds=2.5, restart_delay_max_seconds=2.5)
    first = server.get("/status/web")["pid"]
    os.kill(first, signal.SIGKILL)
    shown = server.wait_status("web", "backoff")  # what its run had is free by now
    # Room for the connection of a request, and for nothing else.
    leave(server, resource.RLIMIT_NOFILE, 2)
    wait_for(lambda: "no room" in (server.get("/status/web")["status_reason"] or ""), what="the reason")
    assert shown["pid"] is None and not nasty.alive(first)
    status, answer = server.call("POST", "/add", {"id": "more", "command": "sleep", "args": ["1"]})
    assert status == 503 and "no room to start 'more' now" in answer["message"]
    server.post("/input/other", {"input": "it"})
    wait_for(lambda: "STDOUT: got it" in server.log("other"))
    assert sorted(one["id"] for one in server.get("/list")) == ["other", "web"]
    leave(server, resource.RLIMIT_NOFILE, None)
    shown = server.wait_status("web", "running")
    assert shown["pid"] != first
    server.add("more", "sleep", "1000")
    assert "could not start: the system has no room" in server.log("web")


def test_a_restart_by_request_without_descriptors_is_tried_again(server):
    """What ran before stayed down, though nobody had stopped it."""
    server.sh("web", "exec sleep 1000", auto_restart=True, restart_delay_seconds=0.5)
    first = server.get("/status/web")["pid"]
    leave(server, resource.RLIMIT_NOFILE, 2)
    status, answer = server.call("POST", "/restart/web")
    assert status == 503 and re.search("no room to start 'web' now: .*; it is tried again$", answer["message"])
    server.wait_status("web", "backoff")
    leave(server, resource.RLIMIT_NOFILE, None)
    assert server.wait_status("web", "running")["pid"] != first


def test_a_start_by_request_without_descriptors_is_not_tried_again(server):
    server.sh("web", "exec sleep 1000", auto_restart=True)
    server.post("/stop/web")
    leave(server, resource.RLIMIT_NOFILE, 2)
    status, answer = server.call("POST", "/start/web")
    assert status == 503 and "no room to start 'web' now" in answer["message"] and "again" not in answer["message"]
    assert server.get("/status/web")["status"] == "failed"


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:  # it has ended
        return ""


def test_a_stop_without_descriptors_ends_the_whole_tree(server):
    """What cannot be looked at is not taken for gone: there is a spare descriptor for that."""
    server.post("/add", {"id": "tree", "command": "/bin/sh", "stop_timeout_seconds": 0.3, "args": [
        "-c", "trap '' TERM; setsid sleep 1000 & setsid env -i sleep 1000 & sleep 1000 & while :; do sleep 0.1; done"]})
    leader = server.get("/status/tree")["pid"]
    wait_for(lambda: sum(command_of(child) == "sleep 1000" for child in nasty.children(leader)) == 3)
    leave(server, resource.RLIMIT_NOFILE, 1)
    status, answer = server.call("POST", "/stop/tree")
    assert status == 200, answer
    assert server.left() == []
    leave(server, resource.RLIMIT_NOFILE, None)
    wait_for(lambda: nasty.zombies(server.pid) == [])


def test_an_exit_without_descriptors_is_seen(server):
    """There is no pidfd to be had for it: a thread waits for the end."""
    server.sh("first", "exec sleep 1000")
    # The pipes, a wake-up and the log find room; what comes then does not.
    for spare in range(2, 14):
        leave(server, resource.RLIMIT_NOFILE, spare)
        status, _ = server.call("POST", "/add", {"id": f"p{spare}", "command": "sleep", "args": ["1000"]})
        if status != 200:
            assert status == 503
            continue
        server.post(f"/signal/p{spare}", {"signal": "KILL"})
        assert server.wait_status(f"p{spare}", "failed")["exit_signal"] == "SIGKILL"
        leave(server, resource.RLIMIT_NOFILE, None)
        server.post(f"/remove/p{spare}")
    leave(server, resource.RLIMIT_NOFILE, None)
    assert [one["id"] for one in server.get("/list")] == ["first"]
    assert len(server.left()) == 1


def test_connections_that_take_all_descriptors_raise_the_limit():
    """Every start was refused, though more could be had: only a spawn that succeeded looked how near the limit was."""
    server = Server()
    plain = server.command
    server.command = lambda: ["sh", "-c", "ulimit -Sn 100; exec \"$@\"", "sh", *plain()]
    try:
        server.start()
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(contextlib.closing(http.client.HTTPConnection(server.host, server.port)))
            connection.connect()
            # Too few are left for a start, but nobody has to make room: it could be the one that is to ask.
            while len(os.listdir(f"/proc/{server.pid}/fd")) < 96:
                other = stack.enter_context(contextlib.closing(http.client.HTTPConnection(server.host, server.port)))
                other.request("GET", "/info")
                other.getresponse().read()
            statuses = []
            for number in range(3):
                body = json.dumps({"id": f"p{number}", "command": "sleep", "args": ["1000"]})
                connection.request("POST", "/add", body, {"exeio-api-key": server.key})
                with connection.getresponse() as answer:
                    answer.read()
                    statuses.append(answer.status)
        assert statuses == [503, 200, 200]
    finally:
        server.close()


# The stacks of so many threads do not fit, and starting one more fails as it does where the system has no room.
LIMIT_OF_MEMORY = 512 << 20


def test_without_memory_for_threads_a_start_is_refused(server):
    # While nothing happens: a thread that is just coming up when the limit is set would be waited for in vain.
    leave(server, resource.RLIMIT_AS, LIMIT_OF_MEMORY)
    server.add("first", "sleep", "1000")
    statuses = []
    deadline = time.monotonic() + 20
    while 503 not in statuses and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError):  # a connection needs a thread, too
            statuses.append(server.call("POST", "/add", {"id": f"p{len(statuses)}", "command": "sleep",
                                                         "args": ["1000"]})[0])
    leave(server, resource.RLIMIT_AS, None)
    assert set(statuses) == {200, 503}, statuses
    running = [one for one in server.get("/list") if one["status"] == "running"]
    assert len(running) == len(server.left()) == statuses.count(200) + 1
    server.add("again", "sleep", "1000")


def test_where_no_more_can_be_watched_a_thread_waits():
    """The thread that reads a run's output ended with the OSError, and the exit was never seen."""
    class Full:
        """An epoll that takes no more than the first."""

        def __init__(self, real):
            self.poll, self.unregister = real.poll, real.unregister

        def register(self, fd, events):
            raise OSError(errno.ENOSPC, "No space left on device")

    class Owner:
        seen = []

        def exited(self, run, exit):
            self.seen.append(exit.si_status)
            run.wait()

        def tick(self):
            return None

    class OneRun(subprocess.Popen):
        spec = types.SimpleNamespace(id="job")

        def wait_exit(self):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

        def peek_exit(self):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    watchdog = Watchdog(Owner())
    epoll, watchdog._epoll = watchdog._epoll, Full(watchdog._epoll)
    watchdog.start()
    before = len(os.listdir("/proc/self/fd"))
    watchdog.watch(OneRun(["sh", "-c", "exit 7"]))
    assert wait_for(lambda: Owner.seen) == [7]
    assert len(os.listdir("/proc/self/fd")) <= before
    watchdog.close(5)
    assert not watchdog.alive()
    epoll.close()
