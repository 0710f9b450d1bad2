"""One supervisor a data folder: the lock, run.json and the instance id, with real processes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from exeio_core import instance
from exeio_core.errors import StartupError
from exeio_core.instance import InstanceLock, instance_id, read_run_json, remove_run_json, write_run_json

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

HOLDER = """
import sys
from exeio_core.instance import InstanceLock
lock = InstanceLock()
lock.acquire(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(folder):
    """Another process that holds the lock of `folder` until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_second_instance_is_told_who_is_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(instance, "_RETRY_SECONDS", 60)
    with holder(tmp_path) as first:
        write_run_json(str(tmp_path), first.pid, "http://127.0.0.1:8080")
        before = time.monotonic()
        with pytest.raises(StartupError) as refused:
            InstanceLock().acquire(str(tmp_path))
        assert time.monotonic() - before < 30, "no waiting for a live one"
        assert f"pid {first.pid}, http://127.0.0.1:8080" in refused.value.message
        assert str(tmp_path) in refused.value.message


def test_the_lock_is_free_after_kill_9_and_the_file_stays(tmp_path):
    with holder(tmp_path) as first:
        inode = os.stat(tmp_path / "exeio.lock").st_ino
        first.kill()
        first.wait()
    lock = InstanceLock()
    lock.acquire(str(tmp_path))
    assert os.stat(tmp_path / "exeio.lock").st_ino == inode
    lock.release()
    lock.release()
    assert os.stat(tmp_path / "exeio.lock").st_ino == inode, "never unlinked"
    assert stat.S_IMODE(os.stat(tmp_path / "exeio.lock").st_mode) == 0o600


def test_it_waits_for_a_lock_that_a_dead_supervisors_child_still_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(instance, "_RETRY_SECONDS", 30)
    write_run_json(str(tmp_path), dead_pid(), "http://127.0.0.1:8080")
    with holder(tmp_path) as first:
        releaser = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {first.pid}"])
        lock = InstanceLock()
        lock.acquire(str(tmp_path))
        lock.release()
        releaser.wait()


def test_it_gives_up_on_a_lock_nobody_explains(tmp_path, monkeypatch):
    monkeypatch.setattr(instance, "_RETRY_SECONDS", 0.2)
    with holder(tmp_path), pytest.raises(StartupError, match="another process holds the lock"):
        InstanceLock().acquire(str(tmp_path))


def test_the_lock_does_not_reach_a_child_and_outlives_other_descriptors(tmp_path):
    lock = InstanceLock()
    lock.acquire(str(tmp_path))
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with open(tmp_path / "exeio.lock"):
            pass
        other = InstanceLock()
        write_run_json(str(tmp_path), os.getpid(), "http://127.0.0.1:1")
        with pytest.raises(StartupError):
            other.acquire(str(tmp_path))
        lock.release()
        other.acquire(str(tmp_path))
        other.release()
    finally:
        child.kill()
        child.wait()


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(StartupError, match="No such file"):
        InstanceLock().acquire(str(tmp_path / "missing"))
    (tmp_path / "exeio.lock").mkdir()
    with pytest.raises(StartupError, match="Is a directory"):
        InstanceLock().acquire(str(tmp_path))


def test_run_json_says_pid_and_url_privately(tmp_path):
    write_run_json(str(tmp_path), 42, "http://[::1]:80", started_at="2025-01-01T00:00:00Z")
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "pid": 42, "url": "http://[::1]:80", "started_at": "2025-01-01T00:00:00Z",
    }
    assert stat.S_IMODE(os.stat(tmp_path / "run.json").st_mode) == 0o600
    run = read_run_json(str(tmp_path))
    assert (run.pid, run.url, run.more["started_at"]) == (42, "http://[::1]:80", "2025-01-01T00:00:00Z")
    remove_run_json(str(tmp_path))
    remove_run_json(str(tmp_path))
    assert read_run_json(str(tmp_path)) is None


@pytest.mark.parametrize("content", [
    "", "{", "[]", "1", '{"pid": true, "url": "x"}', '{"pid": -1, "url": "x"}', '{"pid": 1}', "[" * 50_000,
    '{"pid": 1, "url": 5}', "\xff",
])
def test_a_run_json_without_sense_is_as_good_as_none(tmp_path, content):
    (tmp_path / "run.json").write_text(content, encoding="latin-1")
    assert read_run_json(str(tmp_path)) is None


def test_the_instance_id_is_random_private_and_lasting(tmp_path):
    first = instance_id(str(tmp_path))
    assert len(first) == 16 and int(first, 16) >= 0
    assert instance_id(str(tmp_path)) == first
    assert stat.S_IMODE(os.stat(tmp_path / "instance-id").st_mode) == 0o600
    other = tmp_path / "other"
    other.mkdir()
    assert instance_id(str(other)) != first


@pytest.mark.parametrize("content", ["", "x/y", "0123456789abcdeF", "0123456789abcdef0"])
def test_a_damaged_instance_id_is_made_anew(tmp_path, content):
    (tmp_path / "instance-id").write_text(content)
    made = instance_id(str(tmp_path))
    assert made != content and len(made) == 16
    assert instance_id(str(tmp_path)) == made
