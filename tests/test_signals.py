"""Signals to the supervisor itself, also those that the kernel gives to another thread than main."""

import ctypes
import os
import signal
import sys

import pytest
from support import wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="not here: threads in /proc")
_TGKILL = {"x86_64": 234, "aarch64": 131}


def send_to_another_thread(server, number):
    """tgkill(2), which the kernel's choice among a process's threads comes down to."""
    call = _TGKILL.get(os.uname().machine)
    if call is None:
        pytest.skip("not here: the number of tgkill")
    threads = sorted(int(name) for name in os.listdir(f"/proc/{server.pid}/task"))
    other = next(thread for thread in threads if thread != server.pid)
    assert ctypes.CDLL(None, use_errno=True).syscall(call, server.pid, other, number) == 0


def test_a_sigterm_that_another_thread_gets_ends_the_supervisor(server):
    """Main slept on: the handlers in Python run in main alone, and nothing woke it."""
    server.sh("child", "exec sleep 600")
    send_to_another_thread(server, signal.SIGTERM)
    wait_for(lambda: server.process.poll() is not None, what="the end")
    server.stop()


def test_a_second_sigterm_that_another_thread_gets_skips_the_grace(server):
    server.sh("stubborn", "trap '' TERM; echo ready; while :; do sleep 600; done", stop_timeout_seconds=600)
    wait_for(lambda: "ready" in server.log("stubborn"))
    log = server.logs / "exeio.log"
    send_to_another_thread(server, signal.SIGTERM)
    wait_for(lambda: "shutting down" in log.read_text())
    send_to_another_thread(server, signal.SIGTERM)
    wait_for(lambda: server.process.poll() is not None, what="the end")
    server.stop()


def test_a_sighup_that_another_thread_gets_reloads(server):
    (server.config_dir / "processes.json").write_text('[{"id": "new", "command": "sleep", "args": ["600"]}]')
    send_to_another_thread(server, signal.SIGHUP)
    wait_for(lambda: [one for one in server.get("/list") if one["id"] == "new"], what="the new process")
    server.wait_status("new", "running")


def test_children_are_reaped_while_main_waits_and_during_the_shutdown(server):
    """Orphans that exeio adopts are noticed by their SIGCHLD, wherever the kernel delivers it."""
    server.sh("maker", "for n in 1 2 3 4 5; do (sh -c 'sleep 0.05 & exit' & exit); done; exec sleep 600")

    def zombies():
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:
                        fields = file.read().rpartition(b")")[2].split()
                except OSError:
                    continue
                if fields[0] == b"Z" and int(fields[1]) == server.pid:
                    found.append(int(name))
        return found

    wait_for(lambda: not zombies() and "started" in server.log("maker"), what="zombies")


def test_signals_that_come_while_the_interpreter_ends_do_not_change_the_exit_status(server):
    """A SIGTERM after the shutdown met Python's default handler again, and the status was -15."""
    def ended():
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGHUP)
        return server.process.poll() is not None
    wait_for(ended, what="the end")
    server.stop()
