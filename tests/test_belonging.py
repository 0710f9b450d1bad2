"""Escapees that wiped their environment and left session and parents are still found while exeio lives."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import NOT_HERE, Server, need, wait_for

from exeio_core import proctree
from exeio_core.belonging import Belonging
from exeio_core.spec import ProcessSpec

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason=f"{NOT_HERE}needs /proc")

#: A subshell that ends at once leaves an orphan in a session of its own, without a single variable.
ESCAPE = "(setsid env -i sh -c 'echo escaped $$ > \"$0\"; exec sleep 300' {where} {pipes} &) ; exec sleep 300"


def escaped(server, name, pipes=""):
    where = server.folder / f"{name}.pid"
    server.sh(name, ESCAPE.format(where=where, pipes=pipes))
    return int(wait_for(lambda: where.exists() and where.read_text().endswith("\n") and where.read_text()).split()[1])


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(") ", 1)[1][0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("pipes", ["", "> /dev/null 2>&1 < /dev/null"], ids=["pipes", "no pipes"])
def test_it_is_ended_with_its_run(server, pipes):
    pid = escaped(server, "one", pipes)
    assert alive(pid)
    server.post("/stop/one")
    assert not alive(pid)


def test_its_pipes_tell_of_which_of_two_runs_it_is(server):
    first, second = escaped(server, "first"), escaped(server, "second")
    server.post("/stop/second")
    assert alive(first) and not alive(second)
    server.post("/stop/first")
    assert not alive(first)


NO_PIPES = "> /dev/null 2>&1 < /dev/null"


def sees_timer_slack():
    """Whether this user may see that of others (CAP_SYS_NICE)."""
    with subprocess.Popen(["sleep", "300"]) as other:
        try:
            return proctree.timer_slack(other.pid) > 0
        finally:
            other.kill()


def test_its_timer_slack_tells_of_which_of_two_runs_it_is(server):
    """With a second process there, it survived each stop, and was there once more after each restart."""
    if not sees_timer_slack():
        pytest.skip(f"{NOT_HERE}CAP_SYS_NICE")
    server.sh("older", "exec sleep 300")
    first, second = escaped(server, "first", NO_PIPES), escaped(server, "second", NO_PIPES)
    server.post("/restart/first")
    assert alive(second) and not alive(first)
    server.post("/stop/second")
    assert not alive(second)


def test_each_run_has_a_timer_slack_of_its_own(server):
    own = int(Path("/proc/self/timerslack_ns").read_text())  # as exeio has it, which this has started
    for id, times in (("a", 1), ("b", 1), ("b", 2)):
        if times == 1:
            server.sh(id, "env -i cat /proc/self/timerslack_ns; exec sleep 300")
        else:
            server.post(f"/restart/{id}")
        wait_for(lambda id=id, times=times: server.log(id).count("STDOUT: ") == times)
    found = [int(text) for id in ("a", "b") for text in re.findall(r"STDOUT: (\d+)", server.log(id))]
    assert len(set(found)) == 3 and all(own < slack <= own + 20_000 for slack in found)


def test_one_that_could_be_of_two_runs_ends_with_the_last_of_them():
    """Where timer slack cannot be seen."""
    server = Server()
    plain, without = server.command, []
    if sees_timer_slack():
        without = [need("setpriv"), "--bounding-set", "-sys_nice"]
    server.command = lambda: [*without, *plain()]
    try:
        server.start()
        server.sh("older", "exec sleep 300")
        pid = escaped(server, "one", NO_PIPES)
        server.post("/stop/one")
        assert alive(pid)
        server.post("/stop/older")
        assert not alive(pid)
    finally:
        server.close()


def test_none_is_left_after_a_shutdown(servers):
    server = servers()
    server.sh("older", "exec sleep 300")
    pid = escaped(server, "one", NO_PIPES)
    server.stop()
    assert not alive(pid)


@pytest.mark.parametrize("mark", ["{}/one/7", "{}/nobody/1", "{}/one/1p", "0123456789abcdef/one/1"])
def test_a_mark_that_it_made_up_helps_nobody(server, mark):
    """A stop left it alone; and one like those of kill_mode "process" a shutdown, too."""
    server.sh("older", "exec sleep 300")
    instance = (server.data_dir / "instance-id").read_text().strip()
    where = server.folder / "pid"
    script = ESCAPE.format(where=where, pipes="").replace("env -i", f"env EXEIO_RUN={mark.format(instance)}")
    server.sh("one", script)
    pid = int(wait_for(lambda: where.exists() and where.read_text().endswith("\n") and where.read_text()).split()[1])
    server.post("/stop/one")
    assert not alive(pid)


def test_kill_mode_process_lets_it_alone(server):
    where = server.folder / "pid"
    server.sh("one", ESCAPE.format(where=where, pipes=""), kill_mode="process")
    pid = int(wait_for(lambda: where.exists() and where.read_text().endswith("\n") and where.read_text()).split()[1])
    server.sh("two", "exec sleep 300")
    server.post("/stop/one")
    server.post("/stop/two")
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_slack_that_comes_again_after_many_runs_is_no_proof(monkeypatch):
    """A daemon that was let alone had the slack of a run that began 20,000 runs later, and was ended with it."""

    class Leader:
        def __init__(self, pid, kill_mode, start_time):
            self.pid, self.mark, self.pipes, self.slack = pid, f"instance/p/{pid}", set(), 7
            self.start_time = start_time
            self.spec = ProcessSpec.from_json({"id": "p", "command": "true", "kill_mode": kill_mode})

    monkeypatch.setattr(proctree, "timer_slack", lambda pid: 7)
    with subprocess.Popen(["env", "-i", "sleep", "300"], start_new_session=True) as orphan:
        try:
            one = wait_for(lambda: proctree.stat(orphan.pid))
            for first, second, owned in [("tree", one.start, True), ("tree", one.start + 1, False),
                                         ("process", one.start, False)]:
                belonging = Belonging("instance")
                belonging.leads(Leader(10_000_001, first, 0))
                belonging.reaped(10_000_001)
                later = Leader(10_000_002, "tree", second)
                belonging.leads(later)
                assert belonging.belongs(later, one) is owned
        finally:
            orphan.kill()


def test_what_nothing_tells_of_is_looked_at_once_and_not_once_a_run(monkeypatch):
    """A stop of 500 beside an orphan of unknown origin with 1,000 descriptors took 30 s."""

    class Leader:
        def __init__(self, number):
            self.pid, self.mark, self.pipes, self.start_time = 10_000_000 + number, f"instance/p/{number}", {number}, 0
            self.spec = ProcessSpec.from_json({"id": f"p{number}", "command": "true"})

    looks = []
    belonging = Belonging("instance")
    runs = [Leader(number) for number in range(500)]
    for run in runs:
        belonging.leads(run)
    monkeypatch.setattr(proctree, "pipes", lambda pid: looks.append(pid) or {7})
    with subprocess.Popen(["env", "-i", "sleep", "300"], start_new_session=True) as orphan:
        try:
            one = wait_for(lambda: proctree.stat(orphan.pid))
            for times in (1, 2):
                assert [run.mark for run in runs if belonging.belongs(run, one)] == ["instance/p/7"]
                assert looks == [orphan.pid] * times
                belonging.reap()  # the next pass looks anew
        finally:
            orphan.kill()


def test_the_start_time_told_by_the_clock_is_that_of_proc():
    told = tried = 0
    patience = time.monotonic() + 30
    while tried < 100 or (told <= 10 and time.monotonic() < patience):
        tried += 1
        earliest = proctree.boot_ticks()
        pid = os.posix_spawnp("sleep", ["sleep", "300"], os.environ)  # Popen takes longer than a tick on a busy machine
        try:
            told += earliest == proctree.boot_ticks()
            found = proctree.start_time(pid, earliest)
            assert found == proctree.stat(pid).start
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert told > 10  # a tick is 10 ms: most are born within one


def test_start_times_of_a_kernel_that_has_another_clock_for_them_are_read(monkeypatch):
    monkeypatch.setattr(proctree, "_ticks_agree", None)
    now = [proctree.boot_ticks() - 1000]
    monkeypatch.setattr(proctree, "boot_ticks", lambda: now[0])
    with subprocess.Popen(["sleep", "300"]) as child:
        try:
            for _ in range(2):
                assert proctree.start_time(child.pid, now[0]) == proctree.stat(child.pid).start
        finally:
            child.kill()
