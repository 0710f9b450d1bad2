"""Two keys: what each permits, how they are replaced without a restart, and where they never appear."""

import contextlib
import http.client
import json
import os
import signal
import threading
import time

import pytest
from support import run_exeio, wait_for

from exeio_core.access import Access, Keys
from exeio_core.errors import Invalid, StartupError
from exeio_core.routes import ROUTES
from exeio_core.settings import ApiKey, ServeOptions, read_again, read_only_key

FULL = "the-key-that-may-do-everything"
READ = "the-key-that-may-only-read"
KEY = ApiKey(FULL, "--api-key")


@pytest.fixture
def keyed(servers, tmp_path):
    """A server with both keys in files, and the files."""
    full, read = tmp_path / "full", tmp_path / "read"
    full.write_text(FULL + "\n")
    read.write_text(READ + "\n")
    for file in (full, read):
        file.chmod(0o600)
    server = servers("--api-key-file", full, "--read-only-key-file", read)
    return server, full, read


def status(server, method, path, key, body=None):
    return server.call(method, path, body, key=key)[0]


def everything_written(server):
    """All that the server has said or kept outside the files of the keys."""
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    return {path.name: path.read_bytes() for path in files}


def test_what_each_key_permits():
    keys = Keys(FULL, lambda text: None, READ)
    assert keys.right(FULL.encode(), "unix") is Access.FULL
    assert keys.right(READ.encode(), "unix") is Access.READ
    for given in (None, b"", b"x", READ.encode()[:-1], FULL.encode() + b"x", b"\xff"):
        assert keys.holds(given) is Access.NONE
    assert not Keys(FULL, lambda text: None).holds(READ.encode())


def test_the_read_only_key_reads_everything_and_changes_nothing(keyed):
    server, _, _ = keyed
    server.add("web", "sleep", "60", env={"TOKEN": "secret"})
    for route in ROUTES:
        path = route.path.replace("{id}", "web")
        if route.method == "GET":
            path += "?follow=true" if route.path == "/logs" else ""
            assert route.path in ("/logs", "/events") or status(server, "GET", path, READ) == 200, path
            assert status(server, "HEAD", path, READ) == 200, path
        else:
            assert status(server, route.method, path, READ, {"signal": "KILL"}) == 403, path
        assert status(server, "OPTIONS", path, READ) == 200, path
    for method in ("POST", "PUT", "DELETE", "PATCH", "BREW"):
        assert status(server, method, "/no/such/path", READ) == 403, "before the path is looked up"
    assert status(server, "GET", "/no/such/path", READ) == 404
    assert server.get("/status/web")["status"] == "running"
    answer = server.call("POST", "/stop/web", key=READ)[1]
    assert answer["success"] is False and "only read" in answer["message"]


def test_the_read_only_key_does_not_show_secrets(keyed):
    server, _, _ = keyed
    server.add("web", "sleep", "60", env={"TOKEN": "secret"})
    assert server.call("GET", "/config/web", key=READ)[1]["env"] == {"TOKEN": "***"}
    assert server.call("GET", "/config/web?secrets=false", key=READ)[0] == 200
    assert server.call("GET", "/config/web?secrets=true", key=FULL)[1]["env"] == {"TOKEN": "secret"}
    code, answer = server.call("GET", "/config/web?secrets=true", key=READ)
    assert (code, answer["success"]) == (403, False) and "secret\"" not in json.dumps(answer)
    assert server.call("GET", "/info", key=READ)[1]["processes"] == 1


def test_refused_changes_are_noted_once_and_no_read(keyed):
    server, _, _ = keyed
    for _ in range(20):
        assert status(server, "POST", "/stop/web", READ) == 403
        assert status(server, "GET", "/list", READ) == 200
    log = (server.logs / "exeio.log").read_text()
    assert log.count("127.0.0.1: a change with the read-only API key was refused") == 1


def test_a_key_that_was_made_at_the_start_is_no_news_at_sighup(server):
    server.signal(signal.SIGHUP)
    wait_for(lambda: "SIGHUP: processes.json applied" in server.log("exeio"))
    assert "read anew" not in server.log("exeio")


def test_the_keys_are_read_anew_at_sighup(keyed):
    server, full, read = keyed
    kept = http.client.HTTPConnection(server.host, server.port, timeout=10)
    kept.request("GET", "/list", headers={"exeio-api-key": FULL})
    assert kept.getresponse().read() == b"[]"
    full.write_text("another-key-for-everything")
    read.write_text("another-key-that-only-reads")
    assert status(server, "GET", "/list", FULL) == 200, "not before it is told"
    server.signal(signal.SIGHUP)
    wait_for(lambda: status(server, "GET", "/list", FULL) == 401, what="the old key")
    assert status(server, "GET", "/list", READ) == 401
    server.key = "another-key-for-everything"
    assert server.get("/list") == []
    assert status(server, "POST", "/stop-all", "another-key-that-only-reads") == 403
    kept.request("GET", "/list", headers={"exeio-api-key": FULL})
    assert kept.getresponse().status == 401, "also on a connection that was there before"
    kept.close()


@pytest.mark.parametrize(("content", "words"), [
    (None, "cannot read the key file"), ("", "is empty"), (READ, "the same as"), ("schl\u00fcssel", "cannot be sent")])
def test_what_cannot_be_taken_at_sighup_changes_nothing(keyed, content, words):
    server, full, _ = keyed
    if content is None:
        full.unlink()
    else:
        full.write_text(content)
    server.signal(signal.SIGHUP)
    log = server.logs / "exeio.log"
    wait_for(lambda: "SIGHUP: processes.json applied" in log.read_text())
    line = next(line for line in log.read_text().splitlines() if "the keys stay as they were" in line)
    assert words in line
    assert status(server, "GET", "/list", FULL) == 200
    assert status(server, "GET", "/list", READ) == 200


def test_keys_from_elsewhere_stay_at_sighup(servers):
    server = servers("--read-only-key", READ, env={"EXEIO_API_KEY": FULL})
    server.signal(signal.SIGHUP)
    log = server.logs / "exeio.log"
    wait_for(lambda: "SIGHUP: processes.json applied" in log.read_text())
    assert "the keys" not in log.read_text()
    assert server.get("/list") == []
    assert status(server, "GET", "/list", READ) == 200
    assert "--read-only-key is visible to every user of this machine" in server.stderr


@pytest.mark.parametrize("where", ["file", "variable", "option"])
def test_no_key_is_in_a_log_an_error_or_proc_of_a_child(servers, tmp_path, where):
    if where == "file":
        (tmp_path / "full").write_text(FULL)
        (tmp_path / "read").write_text(READ)
        server = servers("--api-key-file", tmp_path / "full", "--read-only-key-file", tmp_path / "read")
    elif where == "variable":
        server = servers("--read-only-key", READ, env={"EXEIO_API_KEY": FULL})
    else:
        server = servers("-k", FULL, "--read-only-key", READ)
    server.key = FULL
    server.sh("child", "cat /proc/self/environ /proc/$$/environ /proc/self/cmdline; env; sleep 60")
    server.add("plain", "cat", "/proc/self/environ", clear_env=True)
    server.add("periodic", "env", periodic=True, period_seconds=3600)
    server.wait_status("plain", "stopped")
    pid = server.get("/status/child")["pid"]
    wait_for(lambda: "EXEIO_RUN" in server.log("child"))
    said = []
    for key in (FULL, READ):
        for method, path in (("GET", "/nothing"), ("BREW", "/list"), ("GET", "/list?a=%zz"), ("POST", "/add"),
                             ("GET", "/info"), ("GET", "/status/none"), ("GET", "/config/child?secrets=x")):
            said.append(server.call(method, path, key=key)[1])
        said.append(server.call("GET", "/list", key=key + "x")[1])
    written = everything_written(server)
    for key in (FULL, READ):
        secret = key.encode()
        assert secret not in json.dumps(said).encode()
        assert [name for name, data in written.items() if secret in data] == []
        for name in ("environ", "cmdline"):
            with open(f"/proc/{pid}/{name}", "rb") as file:
                assert secret not in file.read()


def test_no_key_is_in_proc_of_the_program_of_on_event(servers, tmp_path):
    told = tmp_path / "told"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n(cat /proc/self/environ /proc/$$/environ /proc/$$/cmdline -; echo end) >> {told}\n")
    program.chmod(0o755)
    server = servers("--read-only-key", READ, "--on-event", program, env={"EXEIO_API_KEY": FULL})
    server.sh("one", "exit 0")
    written = wait_for(lambda: told.exists() and b"end\n" in told.read_bytes() and told.read_bytes())
    assert b"PATH=" in written
    assert FULL.encode() not in written and READ.encode() not in written


def test_no_number_of_refused_keys_keeps_the_right_one_out(servers):
    """Nor does it fill the log: there is a line for the first, and one for all others."""
    server = servers("-k", FULL)
    refused = []
    over = threading.Event()

    def guess():
        with contextlib.closing(http.client.HTTPConnection(server.host, server.port, timeout=10)) as connection:
            while not over.is_set():
                connection.request("GET", "/list", headers={"exeio-api-key": f"{FULL[:-1]}{len(refused)}"})
                with connection.getresponse() as answer:
                    answer.read()
                    refused.append(answer.status)

    threads = [threading.Thread(target=guess) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for count in range(100, 501, 100):
            wait_for(lambda so_far=count: len(refused) >= so_far)
            began = time.monotonic()
            assert server.get("/list") == []
            assert time.monotonic() - began < 10
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
    assert set(refused) == {401} and len(refused) >= 500
    server.stop()
    lines = [line for line in server.log("exeio").splitlines() if "refused" in line]
    assert [line.partition("127.0.0.1: ")[2] for line in lines] == [
        "a wrong API key was refused", f"a wrong API key was refused {len(refused) - 1} more times"]


@pytest.mark.parametrize("arguments", [
    ["--api-kye", FULL], [f"--api-kye={FULL}"], ["--read-only-kee", FULL], ["serve", "--password", FULL],
    ["--api-key-file", "/nowhere", "-k", FULL, "--port", "x"], ["list", "--keys", FULL]])
def test_no_key_is_in_the_message_about_a_wrong_option(tmp_path, arguments):
    ended = run_exeio(*arguments, home=tmp_path)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert FULL not in ended.stderr + ended.stdout


@pytest.mark.parametrize(("options", "words"), [
    (["--read-only-key", FULL], "the same as the key that may do everything"),
    (["--read-only-key", "  "], "the key given with --read-only-key is empty"),
    (["--read-only-key-file", "/nowhere/key"], "cannot read the key file /nowhere/key"),
])
def test_a_start_with_a_wrong_read_only_key_fails_with_one_line(tmp_path, options, words):
    ended = run_exeio("--port", "0", *options, home=tmp_path, env={"EXEIO_API_KEY": FULL})
    assert ended.returncode == 1 and words in ended.stderr.splitlines()[-1]
    assert FULL not in ended.stderr and not os.path.exists(tmp_path / ".local/share/exeio/run.json")


def test_the_read_only_key_of_the_options(tmp_path):
    file = tmp_path / "key"
    file.write_text(READ + "\n")
    file.chmod(0o644)
    assert read_only_key(ServeOptions(), KEY, {}) is None
    found = read_only_key(ServeOptions(read_only_key_file=str(file)), KEY, {})
    assert (found.value, found.path, found.read_only) == (READ, str(file), True)
    assert "other users can read" in found.warnings()[0]
    short = read_only_key(ServeOptions(read_only_key="short"), KEY, {})
    assert any("the read-only key has only 5 characters" in warning for warning in short.warnings())
    with pytest.raises(StartupError, match="is the same as"):
        read_only_key(ServeOptions(read_only_key=FULL), KEY, {})
    file.write_text("the-other-one")
    again = read_again(KEY, found)
    assert again[0] is KEY and (again[1].value, again[1].read_only) == ("the-other-one", True)
    file.write_text(FULL)
    with pytest.raises(Invalid, match="is the same as"):
        read_again(KEY, found)
