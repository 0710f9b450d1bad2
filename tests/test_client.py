"""The client's commands against a stand-in for the API: what is sent, what is shown, the exit status."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections import deque

import pytest
from client_helpers import KEY, Fake, Handler, on_a_terminal, process

from exeio_core import client as client_module
from exeio_core.cli import main
from exeio_core.client import parse_url
from exeio_core.instance import write_run_json
from exeio_core.options import UsageError, program

# What is sent


@pytest.mark.parametrize(("arguments", "call", "query", "body"), [
    ("start web", "POST /start/web", {}, None),
    ("start web --wait-seconds 2", "POST /start/web", {}, {"wait_seconds": 2.0}),
    ("stop web", "POST /stop/web", {}, None),
    ("stop --no-wait web", "POST /stop/web", {"wait": "false"}, None),
    ("restart web", "POST /restart/web", {}, None),
    ("run web", "POST /run/web", {}, None),
    ("remove web", "POST /remove/web", {}, None),
    ("remove web --purge", "POST /remove/web", {"purge": "true"}, None),
    ("signal web HUP", "POST /signal/web", {}, {"signal": "HUP"}),
    ("signal web 15 --group", "POST /signal/web", {}, {"signal": "15", "group": True}),
    ("input web hello", "POST /input/web", {}, {"input": "hello"}),
    ("input web -- -x", "POST /input/web", {}, {"input": "-x"}),
    ("input web x --no-newline --eof", "POST /input/web", {}, {"input": "x", "newline": False, "eof": True}),
    ("input web --eof", "POST /input/web", {}, {"eof": True}),
    ("clear-log web", "POST /clear-log/web", {}, None),
    ("restart-all", "POST /restart-all", {}, None),
    ("stop-all", "POST /stop-all", {}, None),
    ("reload", "POST /reload", {}, None),
    ("shutdown", "POST /shutdown", {}, None),
    ("stop a..%b;c", "POST /stop/a..%25b%3Bc", {}, None),
    ("update web --no-auto-restart", "POST /update/web", {}, {"auto_restart": False}),
    ("update web --reset nice --reset max-restarts -- ls -l", "POST /update/web", {},
     {"nice": None, "max_restarts": None, "command": "ls", "args": ["-l"]}),
    ("add web --no-start --wait-seconds 0.5 -- sleep -- 5", "POST /add", {},
     {"id": "web", "command": "sleep", "args": ["--", "5"], "start": False, "wait_seconds": 0.5}),
    ("add web --command sleep --args=-5 --args x", "POST /add", {},
     {"id": "web", "command": "sleep", "args": ["-5", "x"]}),
])
def test_what_a_command_sends(exeio, fake, arguments, call, query, body):
    status, out, err = exeio(*arguments.split(" "))
    assert (status, out, err) == (0, "done\n", "")
    assert (fake.last["call"], fake.last["query"], fake.last["body"]) == (call, query, body)
    assert fake.last["headers"]["exeio-api-key"] == KEY


def test_add_takes_every_field_as_an_option(exeio, fake):
    given = {
        "working_dir": "/srv", "auto_restart": True, "save_for_next_run": True, "periodic": True,
        "period_seconds": 0.5, "env": {"A": "1=2", "B": None, "C": ""}, "clear_env": False, "user": "nobody",
        "group": "0", "umask": "027", "nice": -5, "stop_signal": "INT", "stop_timeout_seconds": 3,
        "kill_mode": "process", "restart_policy": "on-failure", "success_exit_codes": [0, 3], "max_restarts": 4,
        "restart_delay_seconds": 1, "restart_delay_max_seconds": 5, "min_uptime_seconds": 0,
        "run_timeout_seconds": 60, "log_max_bytes": 10_485_760, "log_backups": 2,
    }
    from exeio_core.spec import FIELDS

    assert set(given) | {"id", "command", "args"} == {field.name for field in FIELDS}
    words = [
        "--working-dir", "/srv", "--auto-restart", "--save-for-next-run", "--periodic", "--period-seconds", "0.5",
        "--env", "A=1=2", "--env", "B", "--env", "C=", "--no-clear-env", "--user", "nobody", "--group", "0",
        "--umask", "027", "--nice", "-5", "--stop-signal", "INT", "--stop-timeout-seconds", "3",
        "--kill-mode", "process", "--restart-policy", "on-failure", "--success-exit-codes", "0,3",
        "--max-restarts", "4", "--restart-delay-seconds", "1", "--restart-delay-max-seconds", "5",
        "--min-uptime-seconds", "0", "--run-timeout-seconds", "60", "--log-max-bytes", "10M", "--log-backups", "2",
    ]
    assert exeio("add", "web", *words, "--", "cmd")[0] == 0
    assert fake.last["body"] == {"id": "web", "command": "cmd", "args": [], **given}


def test_a_relative_folder_is_meant_from_here(exeio, fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exeio("add", "web", "--working-dir", "sub/..", "--", "ls")
    assert fake.last["body"]["working_dir"] == str(tmp_path)


def test_update_adds_to_the_environment(exeio, fake):
    fake.answers["GET /config/web"] = {"id": "web", "env": {"A": "1", "B": "2"}}
    assert exeio("update", "web", "--env", "B=3", "--env", "C=4")[0] == 0
    assert fake.requests[0]["query"] == {"secrets": "true"}
    assert fake.last["body"] == {"env": {"A": "1", "B": "3", "C": "4"}}
    exeio("update", "web", "--env", "C=4", "--reset", "env")
    assert fake.last["body"] == {"env": {"C": "4"}}


def test_options_stand_before_or_after_the_command(exeio, fake, home, monkeypatch):
    monkeypatch.setenv("EXEIO_URL", "http://127.0.0.1:1")
    for arguments in (
        ["--url", fake.url, "--json", "-k", "other-key", "list"],
        ["list", "--json", "-k", "other-key", "--url", fake.url],
    ):
        fake.answers["GET /list"] = []
        assert exeio(*arguments) == (0, "[]\n", "")
        assert fake.last["headers"]["exeio-api-key"] == "other-key"
    assert exeio("stop", "a", "--url", fake.url, "b")[0] == 0
    assert [each["call"] for each in fake.requests[-2:]] == ["POST /stop/a", "POST /stop/b"]


@pytest.mark.parametrize(("arguments", "words"), [
    ("list x", "'x' is too much: list takes no words"),
    ("status", "status needs ID"),
    ("config a b", "'b' is too much: config takes ID"),
    ("signal web", "signal needs ID … NAME"),
    ("input web", "input needs a text, or --eof"),
    ("add web", "add needs a command"),
    ("add web sleep 5", "'sleep' is too much: add takes ID [options] -- COMMAND [ARG …]; put -- before the command"),
    ("add web --", "a command must follow --"),
    ("add web --command x -- y", "either behind --"),
    ("add web --nice x -- y", "--nice must be a whole number from -20 to 19, not 'x'"),
    ("add web --log-max-bytes 5 -- y", "--log-max-bytes must be"),
    ("add web --stop-signal FOO -- y", "--stop-signal must be a signal"),
    ("add web --success-exit-codes a -- y", "--success-exit-codes must be"),
    ("add web --umask 9 -- y", "--umask must be octal"),
    ("add web --env =x -- y", "--env: "),
    ("add web --wait-seconds x -- y", "--wait-seconds must be a number of seconds"),
    ("update web", "update needs at least one field"),
    ("update web --reset command", "--reset: no field 'command' has a default"),
    ("logs web -n 0", "--lines must be a whole number from 1"),
    ("logs web -n x", "--lines must be a whole number from 1"),
    ("list --url ftp://x", "--url must look like http://127.0.0.1:8080"),
    ("stop web --wait 5", "unrecognized arguments"),
])
def test_wrong_usage_sends_nothing(exeio, fake, arguments, words):
    status, out, err = exeio(*arguments.split(" "))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert fake.requests == []


# What is shown


def test_the_table_is_aligned_and_plain_when_piped(exeio, fake):
    fake.answers["GET /list"] = [
        process("a", args=["a b", "\x1b[31m"]),
        process("long-name", status="failed", pid=None, uptime_seconds=None, exit_signal="SIGKILL", restarts=12),
        process("c", status="stopped", exit_code=0, next_run="2001-01-01T00:00:00.000Z", args=["x" * 300]),
    ]
    status, out, err = exeio("list")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["ID", "STATUS", "PID", "UPTIME", "RESTARTS", "EXIT", "NEXT", "COMMAND"]
    assert re.split("  +", lines[1]) == ["a", "running", "42", "1h 02m", "0", "-", "-", r"sleep 'a b' '\x1b[31m'"]
    assert re.split("  +", lines[2]) == ["long-name", "failed", "-", "-", "12", "SIGKILL", "-", "sleep 5"]
    assert re.split("  +", lines[3]) == ["c", "stopped", "42", "1h 02m", "0", "0", "in 0s", "sleep " + "x" * 300]
    column = lines[0].index("COMMAND")
    assert all(line[column:].startswith("sleep") for line in lines[1:])
    assert "\x1b" not in out


def test_no_processes_is_nothing_when_piped(exeio, fake):
    fake.answers["GET /list"] = []
    assert exeio("list") == (0, "", "")


def test_json_is_what_the_api_said(exeio, fake):
    fake.answers["GET /list"] = [process("ä")]
    fake.answers["GET /status/ä"] = process("ä")
    assert json.loads(exeio("list", "--json")[1]) == [process("ä")]
    assert json.loads(exeio("--json", "stop", "web")[1]) == {"success": True, "message": "done"}


def test_status_info_and_config(exeio, fake):
    fake.answers["GET /status/web"] = process("web", args=["a b"], env=["A", "B"])
    fake.answers["GET /info"] = {"name": "exeio", "endpoints": ["a", "b", "c", "d"], "counts": {"running": 2}}
    fake.answers["GET /config/web"] = {"id": "web", "command": "x"}
    status, out, _ = exeio("status", "web")
    assert status == 0
    shown = dict(re.split("  +", line) for line in out.splitlines())
    assert (shown["command"], shown["env"], shown["exit_code"]) == ("sleep 'a b'", "A, B", "-")
    assert "args" not in shown
    out = exeio("info")[1]
    assert out.splitlines() == [
        "name       exeio", "endpoints  a", "           b", "           c", "           d",
        "counts     running 2",
    ]
    assert json.loads(exeio("config", "web")[1]) == {"id": "web", "command": "x"}
    assert fake.last["query"] == {}
    exeio("config", "web", "--secrets")
    assert fake.last["query"] == {"secrets": "true"}


def test_results_of_all_are_listed(exeio, fake):
    fake.answers["POST /stop-all"] = (500, {
        "success": False, "message": "1 process stopped, 1 failed",
        "results": [{"id": "a", "success": True, "message": "stopped"},
                    {"id": "web", "success": False, "message": "it survived"}],
    })
    status, out, err = exeio("stop-all")
    assert (status, err) == (1, "exeio: 1 process stopped, 1 failed\n")
    assert [re.split("  +", line) for line in out.splitlines()] == [
        ["ID", "RESULT", "MESSAGE"], ["a", "done", "stopped"], ["web", "failed", "it survived"],
    ]
    status, out, err = exeio("stop-all", "--json")
    assert status == 1
    assert json.loads(out)["results"][1]["message"] == "it survived"


def test_colours_on_a_terminal_unless_not_wanted(fake, home):
    fake.answers["GET /list"] = [process("web"), process("b", status="failed", args=["x" * 300])]
    shown = on_a_terminal(fake, "list")
    assert "\x1b[32mrunning" in shown and "\x1b[31mfailed" in shown
    assert "…" in shown.splitlines()[2], "a line that is too long is cut"
    assert "\x1b" not in on_a_terminal(fake, "list", NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(fake, "list", TERM="dumb")
    fake.answers["GET /list"] = []
    assert "add one with" in on_a_terminal(fake, "list")


@pytest.mark.parametrize("columns", [72, 100, 200])
def test_a_table_is_as_wide_as_the_terminal(fake, home, columns):
    fake.answers["GET /list"] = [process("web"), process("b", args=["x" * 300])]
    lines = on_a_terminal(fake, "list", columns=columns, NO_COLOR="1").splitlines()
    assert [len(line) for line in lines][2] == columns and max(map(len, lines)) == columns
    assert lines[1].split()[:3] == ["web", "running", "42"]


@pytest.mark.parametrize("columns", [1, 20, 40])
def test_on_a_narrow_terminal_each_process_still_has_one_line(fake, home, columns):
    fake.answers["GET /list"] = [process("web"), process("b", args=["x" * 300])]
    lines = on_a_terminal(fake, "list", columns=columns, NO_COLOR="1").splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "web", "b"]
    assert all(line.endswith("…") for line in lines[2:]) and max(map(len, lines)) < 80
    fake.answers["GET /status/web"] = process("web")
    assert "status" in on_a_terminal(fake, "status", "web", columns=columns)


# What goes wrong


def test_a_refusal_is_its_message_and_status_1(exeio, fake):
    refusal = {"success": False, "message": "Process 'web' runs already"}
    fake.answers["POST /start/web"] = (409, refusal)
    assert exeio("start", "web") == (1, "", "exeio: Process 'web' runs already\n")
    status, out, err = exeio("start", "web", "--json")
    assert (status, json.loads(out)) == (1, refusal)
    fake.answers["GET /status/web"] = (404, {"success": False, "message": "there is no process 'web'"})
    assert exeio("status", "web") == (
        1, "", f"exeio: there is no process 'web'; `{program()} list` shows what there is\n")


def test_one_refusal_among_several_does_not_stop_the_others(exeio, fake):
    fake.answers["POST /stop/b"] = (404, {"success": False, "message": "no b"})
    status, out, err = exeio("stop", "a", "b", "c")
    assert (status, out) == (1, "done\ndone\n")
    assert "no b" in err
    sent = [(each["call"], each["query"]) for each in fake.requests]
    calls = ["POST /stop/a", "POST /stop/b", "POST /stop/c"]
    # All are asked for before the first is waited for: together they take as long as the slowest.
    assert sent == [(call, {"wait": "false"}) for call in calls] + [(call, {}) for call in calls]
    status, out, err = exeio("stop", "a", "b", "c", "--json")
    assert [(each["id"], each["success"]) for each in json.loads(out)] == [("a", True), ("b", False), ("c", True)]


def test_a_wrong_or_missing_key_says_what_to_do(exeio, fake, monkeypatch):
    fake.answers["GET /list"] = (401, {"success": False, "message": "the header is missing or wrong"})
    status, _, err = exeio("list")
    assert status == 1
    assert "refused the key from the variable EXEIO_API_KEY; give the right one with --api-key-file" in err
    assert KEY not in err
    monkeypatch.delenv("EXEIO_API_KEY")
    assert "wants a key, and none was found" in exeio("list")[2]
    assert "exeio-api-key" not in fake.last["headers"]


def test_a_key_that_cannot_be_read_matters_to_all_but_info(exeio, fake, monkeypatch):
    monkeypatch.delenv("EXEIO_API_KEY")
    assert exeio("list", "--api-key-file", "/nowhere/key")[::2] == (
        1, "exeio: cannot read the key file /nowhere/key: No such file or directory\n")
    fake.answers["GET /info"] = {"name": "exeio"}
    assert exeio("info", "--api-key-file", "/nowhere/key")[0] == 0


@pytest.mark.parametrize(("answer", "words"), [
    ((200, b"<html>"), "is not exeio (status 200, no JSON)"), ((500, b""), "is not exeio (status 500, no JSON)"),
])
def test_something_else_at_the_address(exeio, fake, answer, words):
    fake.answers["GET /list"] = answer
    status, out, err = exeio("list")
    assert (status, out, err.count("\n")) == (3, "", 1)
    assert words in err


def test_something_that_speaks_no_http(exeio):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def greet():
            other, _ = listener.accept()
            other.sendall(b"220 smtp ready\r\n")
            other.close()

        thread = threading.Thread(target=greet)
        thread.start()
        status, _, err = exeio("list", "--url", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert status == 3 and err.count("\n") == 1


def test_a_connection_closed_without_an_answer(exeio):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def hang_up():
            other, _ = listener.accept()
            other.recv(65536)
            other.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        status, _, err = exeio("list", "--url", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert status == 3 and "closed connection without response" in err


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_nobody_at_the_address_is_status_3_and_advice(exeio, tmp_path):
    status, out, err = exeio("list", "--url", f"http://127.0.0.1:{closed_port()}")
    assert (status, out, err.count("\n")) == (3, "", 1)
    assert "is not reachable: Connection refused; is it running?" in err and "--url" in err
    status, _, err = exeio("list", "--url", f"unix:{tmp_path}/none")
    assert status == 3 and "No such file" in err


# Where the supervisor is


def test_address_and_key_are_found_in_the_folders(fake, home, capsys):
    data, config = home / ".local/share/exeio", home / ".config/exeio"
    data.mkdir(parents=True)
    config.mkdir(parents=True)
    (config / "api-key").write_text("the-kept-key\n")
    write_run_json(str(data), os.getpid(), fake.url.replace("127.0.0.1", "0.0.0.0"))
    assert main(["stop", "web"]) == 0
    assert fake.last["headers"]["exeio-api-key"] == "the-kept-key"
    assert main(["stop", "web", "--data-dir", str(home / "other")]) == 3
    assert f"no supervisor runs on the folder {home}/other; start it with" in capsys.readouterr().err


def test_the_address_of_a_dead_supervisor_is_not_used(fake, home, capsys):
    """Somebody else may listen there by now, and the key would be shown to them."""
    data = home / ".local/share/exeio"
    data.mkdir(parents=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_run_json(str(data), gone.pid, fake.url)
    assert main(["list"]) == 3
    assert f"(pid {gone.pid}) is gone" in capsys.readouterr().err
    assert fake.requests == []


def test_proxy_variables_are_ignored(exeio, fake, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    assert exeio("stop", "web")[0] == 0


def test_a_unix_socket(home, tmp_path, capsys):
    fake = Fake(str(tmp_path / "socket"))
    try:
        assert main(["--url", fake.url, "-k", KEY, "stop", "web"]) == 0
        assert fake.last["headers"]["host"] == "localhost"
    finally:
        fake.close()


@pytest.mark.parametrize(("text", "host", "port", "path", "prefix"), [
    ("http://127.0.0.1:8080", "127.0.0.1", 8080, None, ""),
    ("http://localhost", "localhost", 80, None, ""),
    ("https://example.org/exeio/", "example.org", 443, None, "/exeio"),
    ("http://[::1]:80/", "::1", 80, None, ""),
    ("http://0.0.0.0:3000", "127.0.0.1", 3000, None, ""),
    ("http://[::]:3000", "::1", 3000, None, ""),
    ("server:3000", "server", 3000, None, ""),
    ("unix:/run/x", "localhost", 0, "/run/x", ""),
    ("unix:///run/x", "localhost", 0, "/run/x", ""),
])
def test_addresses(text, host, port, path, prefix):
    address = parse_url(text, "--url")
    assert (address.host, address.port, address.socket_path, address.prefix) == (host, port, path, prefix)


@pytest.mark.parametrize("text", [
    "ftp://x", "http://", "http://x:99999", "http://x:0", "http://x:y", "unix:relative", "unix:", "http://x/?a=1",
    "http://user:word@x", "http://x/a\nb", "http://[::1", " ",
])
def test_what_is_no_address(text):
    with pytest.raises(UsageError, match="--url must look like"):
        parse_url(text, "--url")


# logs


def log_lines(count):
    return [f"[2025-01-01 00:00:00] STDOUT: line {number}" for number in range(1, count + 1)]


def serve_log(fake, lines, partial=None):
    """The pages of a log, as the API gives them."""
    def page(request):
        query = request["query"]
        number, size = int(query["page"]), int(query["page_size"])
        ordered = lines if query.get("order") == "asc" else lines[::-1]
        answer = {
            "success": True, "page": number, "page_size": size, "total_lines": len(lines),
            "total_pages": -(-len(lines) // size), "logs": ordered[(number - 1) * size : number * size],
        }
        return {**answer, "partial": partial} if partial and number == 1 else answer

    fake.answers["GET /logs/web"] = page


def test_logs_are_shown_oldest_first(exeio, fake):
    lines = log_lines(100)
    serve_log(fake, lines, partial="[2025-01-01 00:00:00] STDOUT: prompt> ")
    status, out, err = exeio("logs", "web", "-n", "3")
    assert (status, err) == (0, "")
    assert out.splitlines() == [*lines[-3:], "[2025-01-01 00:00:00] STDOUT: prompt> "]
    assert len(exeio("logs", "web")[1].splitlines()) == 51
    shown = json.loads(exeio("logs", "web", "-n", "3", "--json")[1])
    assert (shown["logs"], shown["total_lines"]) == (lines[-3:], 100)


def test_filters_are_handed_on(exeio, fake):
    serve_log(fake, [])
    exeio("logs", "web", "-n", "50", "--stream", "stderr", "--contains", "a b&c", "--since", "2025-01-01 00:00:00",
          "--until", "2026-01-01T00:00:00Z")
    assert fake.last["query"] == {
        "page": "1", "page_size": "50", "stream": "stderr", "contains": "a b&c", "since": "2025-01-01 00:00:00",
        "until": "2026-01-01T00:00:00Z",
    }


@pytest.mark.parametrize("count", [10_001, 20_000, 25_000, 25_007, 25_008, 1_000_000])
def test_more_lines_than_one_answer_holds(exeio, fake, count):
    lines = log_lines(25_007)
    serve_log(fake, lines)
    status, out, _ = exeio("logs", "web", "-n", str(count))
    assert status == 0
    assert out.splitlines() == lines[-count:]
    assert json.loads(exeio("logs", "web", "-n", str(count), "--json")[1])["logs"] == lines[-count:]


def test_following_goes_on_where_it_was_after_a_lost_connection(exeio, fake, monkeypatch):
    monkeypatch.setattr(client_module, "_RETRY_SECONDS", 0.01)
    fake.answers["GET /logs/web"] = deque([
        b": hello\n\nid: 7\ndata: one\n\nid: 8\ndata: two\ndata: more\n\n",
        (503, {"success": False, "message": "too many followers"}),
        b"event: partial\ndata: thr\n\nid: 9\ndata:three\n\n",
        (404, {"success": False, "message": "there is no process 'web'"}),
    ])
    status, out, err = exeio("logs", "web", "-f", "-n", "5", "--stream", "stdout")
    assert (status, out) == (1, "one\ntwo\nmore\nthree\n")
    assert [each["headers"].get("last-event-id") for each in fake.requests] == [None, "8", "8", "9"]
    assert fake.requests[0]["query"] == {"follow": "true", "page_size": "5", "stream": "stdout"}
    assert fake.requests[0]["headers"]["accept"] == "text/event-stream"
    first, second, last = err.splitlines()
    assert "trying again" in first and "trying again" in second and "no process 'web'" in last


def test_following_ends_when_the_supervisor_stays_away(exeio, fake, monkeypatch):
    monkeypatch.setattr(client_module, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(client_module, "RECONNECT_SECONDS", 0.05)
    fake.answers["GET /logs/web"] = deque([b"id: 1\ndata: one\n\n", (502, b"")])
    status, out, err = exeio("logs", "web", "-f", "--json")
    assert (status, json.loads(out)) == (3, {"line": "one"})
    assert "does not reach the supervisor behind it (status 502)" in err.splitlines()[-1]


def test_following_what_cannot_be_followed_fails_at_once(exeio, fake):
    fake.answers["GET /logs/web"] = (404, {"success": False, "message": "there is no process 'web'"})
    assert exeio("logs", "web", "-f")[0] == 1
    fake.answers["GET /logs/web"] = {"success": True, "logs": []}
    status, _, err = exeio("logs", "web", "-f")
    assert status == 3 and "cannot follow" in err
    assert len(fake.requests) == 2


def test_a_silent_stream_is_asked_for_anew(exeio, fake, monkeypatch):
    monkeypatch.setattr(client_module, "IDLE_SECONDS", 2.0)  # the answer must come in that time, too
    asked = []
    done = threading.Event()

    def silent(request):
        asked.append(request["headers"].get("last-event-id"))
        if len(asked) > 1:
            done.set()
            return 404, {"success": False, "message": "gone"}
        return b"id: 1\ndata: one\n\n"

    def keep_open(handler):
        done.wait(10)

    fake.answers["GET /logs/web"] = silent
    monkeypatch.setattr(Handler, "finish", keep_open)
    status, out, err = exeio("logs", "web", "-f")
    assert (status, out, asked) == (1, "one\n", [None, "1"])
    assert err.startswith("exeio: gone;") and err.count("\n") == 1, "no word about it"


def test_tags_are_coloured_and_an_unfinished_line_is_shown_on_a_terminal(fake, home):
    stamp = "[2025-01-01 00:00:00] "
    serve_log(fake, [stamp + "STDERR: bad", stamp + "RUN#3 STDOUT: plain", "no stamp STDERR: x"])
    shown = on_a_terminal(fake, "logs", "web")
    assert "\x1b[31mSTDERR:\x1b[0m bad" in shown
    assert "RUN#3 STDOUT:" in shown and "no stamp STDERR: x" in shown
    fake.answers["GET /logs/web"] = deque([
        b"event: partial\ndata: pro\n\nevent: partial\ndata: prompt\n\nid: 1\ndata: prompt> x\n\n",
        (404, {"success": False, "message": "over"}),
    ])
    shown = on_a_terminal(fake, "logs", "web", "-f", status=1)
    assert shown.startswith("pro\r\x1b[Kprompt\r\x1b[Kprompt> x\n")
