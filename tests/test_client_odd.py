"""The client where things are odd: stdout that fails, locales, a deleted folder, answers that break off or are junk."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from client_helpers import KEY, process
from support import NOT_HERE, PROGRAM, clean_environment, wait_for

from exeio_core.cli import main

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason=f"{NOT_HERE}no /dev/full")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # as in a locale of one byte a sign
PLAIN = [sys.executable, "-W", "error", str(PROGRAM)]


@pytest.fixture
def told(fake, home):
    """Runs a command as a program of its own against the stand-in: what subprocess.run returns."""
    def run(*words, env=None, **more):
        variables = {"EXEIO_URL": fake.url, "EXEIO_API_KEY": KEY, **(env or {})}
        return subprocess.run(
            [*PLAIN, *words], env=clean_environment(home, variables), timeout=30, check=False,
            **{"cwd": str(home), "stdin": subprocess.DEVNULL, "capture_output": True, **more})

    return run


# What it writes to


@needs_full
@pytest.mark.parametrize("words", ["list", "list --json", "man", "completion bash", "logs web", "--version"])
def test_a_full_disk_at_stdout_is_one_line_and_status_1(told, fake, words):
    fake.answers["GET /list"] = [process("web")]
    fake.answers["GET /logs/web"] = {"success": True, "logs": ["a line"]}
    with open("/dev/full", "wb") as full:
        done = told(*words.split(), capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"exeio: cannot write to stdout: No space left on device\n")


@needs_full
@pytest.mark.parametrize(("words", "status"), [("lst", 2), ("status nope", 1), ("stop a b", 1), ("list", 0)])
def test_the_exit_status_holds_where_stderr_cannot_be_written(told, fake, words, status):
    fake.answers["GET /list"] = []
    no = (404, {"success": False, "message": "no"})
    fake.answers.update({"GET /status/nope": no, "POST /stop/a": no})
    with open("/dev/full", "wb") as full:
        assert told(*words.split(), capture_output=False, stdout=subprocess.PIPE, stderr=full).returncode == status


@pytest.mark.parametrize(("words", "status"), [("list", 0), ("lst", 2), ("status nope", 1)])
def test_closed_streams(told, fake, words, status):
    fake.answers["GET /list"] = []
    fake.answers["GET /status/nope"] = (404, {"success": False, "message": "no"})
    assert told(*words.split(), preexec_fn=lambda: [os.close(number) for number in (0, 1, 2)]).returncode == status


@pytest.mark.parametrize("words", ["logs web -f", "logs -f", "logs web -n 1000", "list"])
def test_a_reader_that_has_had_enough_is_no_failure(server, words):
    server.sh("web", "i=0; while [ $i -lt 600 ]; do i=$((i + 1)); echo $i; done; while :; do echo x; sleep 0.02; done")
    wait_for(lambda: "STDOUT: 600\n" in server.log("web"))
    command = [*PLAIN, *words.split(), "--url", server.url, "-k", server.key]
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -n 1; echo "${PIPESTATUS[0]}"', "bash", *command], capture_output=True, text=True,
        env=clean_environment(server.folder), timeout=30, check=False)
    first, status = done.stdout.splitlines()
    assert (first != "", status, done.stderr) == (True, "0", "")


@pytest.mark.parametrize("words", ["logs web -f", "wait web --for failed"])
def test_an_interrupt_is_130_and_silent(server, words):
    server.sh("web", "echo here; exec sleep 100")
    client = subprocess.Popen(
        [*PLAIN, *words.split(), "--url", server.url, "-k", server.key], env=clean_environment(server.folder),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    with client:
        if words.startswith("logs"):
            assert b"started with pid" in client.stdout.readline()
        else:
            wait_for(lambda: server.get("/metrics").count('path="/status/{id}"'), what="its first question")
        client.send_signal(signal.SIGINT)
        rest, errors = client.communicate(timeout=10)
    assert (client.returncode, errors) == (130, b""), rest


# Locales


def test_what_the_locale_lacks_is_shown_as_a_question_mark(told, fake):
    fake.answers["GET /list"] = [process("web", args=["Grüße", "日本"])]
    fake.answers["GET /logs/web"] = {"success": True, "logs": ["é"]}
    listed = told("list", env=ASCII)
    assert (listed.returncode, listed.stderr) == (0, b"") and b"'Gr??e' '??'" in listed.stdout
    assert told("logs", "web", env=ASCII).stdout == b"?\n"
    for words in (["add", "--help"], ["--help"], ["man"]):
        done = told(*words, env=ASCII)
        assert (done.returncode, done.stderr) == (0, b""), words
        assert done.stdout.decode("ascii")


def test_what_was_typed_arrives_whatever_the_locale(told, fake):
    """In a locale that does not know them, the bytes of a terminal in UTF-8 are UTF-8 all the same."""
    for env in (ASCII, {"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C"}):
        done = told("add", "web", "--env", "NAME=Zoë", "--", "echo", "Grüße 日本", env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        assert (fake.last["body"]["args"], fake.last["body"]["env"]) == (["Grüße 日本"], {"NAME": "Zoë"})
        told("logs", "web", "--contains", "é", env=env)
        assert fake.last["query"]["contains"] == "é"


def test_bytes_that_are_no_text_are_wrong_usage(exeio, told, fake):
    for words in (["add", "web", "--", "a\udcff"], ["add", "web", "--env", "a\udcff=1", "--", "x"],
                  ["update", "web", "--working-dir", "a\udcff"], ["input", "web", "a\udcff"], ["status", "a\udcff"]):
        status, out, err = exeio(*words)
        assert (status, out) == (2, "")
        assert "a\\udcff" in err and err.endswith(" is no text: it holds bytes that are not UTF-8\n")
    assert told("status", b"a\xff", env=ASCII).stderr.decode() == err.replace("exeio list", "exeio.py list")
    assert fake.requests == []


# Answers


@pytest.fixture
def answered(home, capsys):
    """Runs a command against something that answers one request with these bytes and hangs up."""
    def run(words, data):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(10)

            def answer():
                with listening.accept()[0] as taken:
                    while b"\r\n\r\n" not in taken.recv(65536):
                        pass
                    taken.sendall(data)

            thread = threading.Thread(target=answer)
            thread.start()
            status = main(["--url", f"http://127.0.0.1:{listening.getsockname()[1]}", "-k", KEY, *words.split()])
            thread.join()
        return (status, *capsys.readouterr())

    return run


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(("words", "data", "said"), [
    ("list", HEAD + b'Content-Length: 99\r\n\r\n[{"id"', "broke off in the middle of its answer"),
    ("stop x", HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{", "broke off in the middle of its answer"),
    ("stop x", HEAD + b"Content-Length: 0\r\n\r\n", "is not exeio"), ("list", b"HTTP/1.1 200 O", "is not exeio"),
    ("list", HEAD + b'\r\n{"success": true}', "is not exeio"), ("list", HEAD + b"\r\n[1, 2]", "is not exeio"),
    ("stop x*", HEAD + b'\r\n[{"id": 1}]', "is not exeio"), ("status x", HEAD + b"\r\n[]", "is not exeio"),
    ("logs x", HEAD + b'\r\n{"success": true}', "is not exeio"),
    ("list", b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "is not exeio (status 301"),
    ("list", b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", "does not reach the supervisor behind it (status 502)"),
    ("list", HEAD + b"X: y\r\n" * 500 + b"\r\n[]", "speaks no HTTP"),
])
def test_answers_that_break_off_or_are_junk(answered, words, data, said):
    status, out, err = answered(words, data)
    assert (status, out, err.count("\n")) == (3, "", 1), err
    assert said in err


def test_a_message_cannot_steer_the_terminal(exeio, fake):
    fake.answers["POST /stop/x"] = (400, {"success": False, "message": "\x1b[2J\nforged"})
    assert exeio("stop", "x") == (1, "", "exeio: \\x1b[2J\\nforged\n")


@pytest.mark.parametrize("id", ["", "/", "a/b"])
def test_what_can_be_no_id_is_no_process(exeio, fake, id):
    assert exeio("status", id) == (1, "", f"exeio: there is no process {id!r}; `exeio list` shows what there is\n")
    assert fake.requests == []


def test_a_very_long_list(exeio, fake):
    many = [process(f"worker-{number}") for number in range(20_000)]
    fake.answers["GET /list"] = many
    status, out, _ = exeio("list")
    assert (status, out.count("\n"), len(set(map(len, out.splitlines()[1:])))) == (0, 20_001, 1)
    assert exeio("stop", "worker-1999[89]", "--no-wait")[1] == "done\ndone\n"
    assert [each["call"] for each in fake.requests[2:]] == ["POST /stop/worker-19998", "POST /stop/worker-19999"]


# The folder it runs in


def test_from_a_folder_that_is_gone(server, tmp_path):
    """What needs no folder works; what does says so in a line."""
    gone = tmp_path / "gone"

    def run(*words):
        gone.mkdir()
        script = 'rmdir "$PWD"; exec "$@"'
        env = clean_environment(tmp_path, {"EXEIO_URL": server.url, "EXEIO_API_KEY": server.key})
        return subprocess.run(["sh", "-c", script, "sh", *PLAIN, *words], cwd=str(gone), capture_output=True, text=True,
                              env=env, timeout=30, check=False)

    assert run("add", "web", "--", "sleep", "100").returncode == 0
    assert run("list").stdout.splitlines()[1].startswith("web ")
    for words, named in ((["add", "x", "--working-dir", "sub", "--", "true"], "sub"),
                         (["update", "web", "--working-dir", "."], "."), (["import", "Procfile"], "Procfile"),
                         (["list", "--data-dir", "data"], "data"),
                         (["install", "--user", "--print", "--data-dir", "data"], "data")):
        done = run(*words)
        assert (done.returncode, done.stderr) == (
            1, f"exeio: the current folder is gone, so that {named} means nothing; give its whole path\n"), words
