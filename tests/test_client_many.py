"""The client on several processes at once: patterns, files of definitions, waiting, the editor, logs side by side."""

from __future__ import annotations

import io
import json
import re
import stat
import subprocess
import sys
import types
from collections import deque

import pytest
from client_helpers import on_a_terminal, process
from support import PROGRAM, clean_environment, wait_for

from exeio_core import client as client_module
from exeio_core import client_wait
from exeio_core.cli import main


def calls(fake):
    return [each["call"] for each in fake.requests]


# Patterns


@pytest.fixture
def three(fake):
    fake.answers["GET /list"] = [process("db"), process("web-1"), process("web-2")]
    return fake


@pytest.mark.parametrize("command", ["start", "restart", "run", "clear-log", "stop --no-wait"])
def test_a_pattern_stands_for_all_that_match(exeio, three, command):
    name = command.split(" ")[0]
    assert exeio(*command.split(" "), "web-*") == (0, "done\ndone\n", "")
    assert calls(three) == ["GET /list", f"POST /{name}/web-1", f"POST /{name}/web-2"]


def test_stops_and_removals_are_begun_together(exeio, three):
    assert exeio("remove", "web-?", "db", "web-1", "--purge")[0] == 0
    begun = ["POST /stop/web-1", "POST /stop/web-2", "POST /stop/db"]
    assert calls(three) == ["GET /list", *begun, *[call.replace("stop", "remove") for call in begun]]
    assert [each["query"] for each in three.requests[1:]] == [{"wait": "false"}] * 3 + [{"purge": "true"}] * 3


def test_a_signal_to_several(exeio, three):
    assert exeio("signal", "web-[12]", "db", "HUP")[0] == 0
    assert calls(three)[1:] == ["POST /signal/web-1", "POST /signal/web-2", "POST /signal/db"]
    assert three.last["body"] == {"signal": "HUP"}


@pytest.mark.parametrize("command", ["start", "stop", "restart", "remove", "run", "status", "clear-log", "logs"])
def test_a_pattern_without_a_match_does_nothing(exeio, three, command):
    status, out, err = exeio(command, "db", "x*")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("exeio: no process matches 'x*'; `") and "list` shows what there is" in err
    assert calls(three) == ["GET /list"]


def test_the_answer_for_a_pattern_is_a_list_whatever_matches(exeio, three):
    shown = json.loads(exeio("stop", "d*", "--json")[1])
    assert shown == [{"id": "db", "success": True, "message": "done"}]
    three.answers["GET /status/db"] = process("db")
    assert json.loads(exeio("status", "d*", "--json")[1]) == [process("db")]


def test_the_status_of_several(exeio, three):
    three.answers["GET /status/web-1"] = process("web-1")
    three.answers["GET /status/web-2"] = (404, {"success": False, "message": "gone"})
    three.answers["GET /status/db"] = process("db")
    status, out, err = exeio("status", "web-*", "db")
    assert status == 1 and err.startswith("exeio: gone")
    first, second = out.split("\n\n")
    assert re.search("^id +web-1$", first, re.MULTILINE) and re.search("^id +db$", second, re.MULTILINE)


# add -f


def write(tmp_path, value):
    (tmp_path / "file.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return str(tmp_path / "file.json")


def test_add_reads_a_process_from_a_file(exeio, fake, tmp_path):
    path = write(tmp_path, {"id": "web", "command": "sleep", "args": ["5"], "env": {"A": "1"}, "working_dir": "x"})
    assert exeio("add", "-f", path) == (0, "done\n", "")
    assert fake.last["body"] == {
        "id": "web", "command": "sleep", "args": ["5"], "env": {"A": "1"}, "working_dir": "x"}
    exeio("add", "web-2", "-f", path, "--env", "B=2", "--auto-restart", "--no-start", "--", "echo")
    assert fake.last["body"] == {
        "id": "web-2", "command": "echo", "args": [], "env": {"A": "1", "B": "2"}, "working_dir": "x",
        "auto_restart": True, "start": False}


def test_add_reads_stdin(exeio, fake, monkeypatch):
    data = '\ufeff{"id": "web", "command": "x"}'.encode()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    assert exeio("add", "-f", "-")[0] == 0
    assert fake.last["body"] == {"id": "web", "command": "x"}


def test_add_takes_what_processes_json_holds(exeio, fake, tmp_path):
    path = write(tmp_path, [
        {"id": "a", "command": "x", "save_for_next_run": True, "stopped": True, "log_file": "/old/a.log"},
        {"id": "b", "command": "y", "stopped": False}, {"command": "z"},
    ])
    fake.answers["POST /add"] = deque([
        {"success": True, "message": "done a"}, (400, {"success": False, "message": "no b"}),
        {"success": True, "message": "done c"}])
    status, out, err = exeio("add", "-f", path)
    assert (status, out, err) == (1, "done a\ndone c\n", "exeio: b: no b\n")
    assert [each["body"] for each in fake.requests] == [
        {"id": "a", "command": "x", "save_for_next_run": True, "start": False}, {"id": "b", "command": "y"},
        {"command": "z"}]
    fake.answers.clear()
    shown = json.loads(exeio("add", "-f", path, "--json")[1])
    assert [(each["id"], each["success"]) for each in shown] == [("a", True), ("b", True), (None, True)]


@pytest.mark.parametrize(("text", "words"), [
    ("", "is empty; a process is a JSON object"),
    ('{"id": "web",\n "command": }', "is not valid JSON: Expecting value (line 2, column 13)"),
    ('[{"id": "a", "command": "x"}, 5]', "process 2: a process must be a JSON object, not 5"),
    ('{"id": "a", "id": "b"}', "'id' is given twice in one object"),
    ('{"id": "a", "nice": NaN}', "NaN is no number in JSON"),
    ("[" * 100_000, "is nested too deeply"),
    ('{"id": "a", "env": {"TOKEN": "***"}}', "the value of 'TOKEN' in env is hidden"),
])
def test_a_file_that_is_no_definition_adds_nothing(exeio, fake, tmp_path, text, words):
    status, out, err = exeio("add", "-f", write(tmp_path, text))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert words in err and str(tmp_path / "file.json") in err
    assert fake.requests == []


def test_add_without_what_it_needs(exeio, fake, tmp_path):
    assert exeio("add", "-f", "/no/file")[::2] == (1, "exeio: cannot read /no/file: No such file or directory\n")
    assert exeio("add")[0] == 2
    status, _, err = exeio("add", "web", "-f", write(tmp_path, []))
    assert status == 2 and "an ID goes with a file of one process" in err
    assert fake.requests == []


# wait


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(client_wait, "_FIRST_PAUSE", 0.001)


def test_wait_asks_until_it_is_so(exeio, fake, quick):
    fake.answers["GET /status/web"] = deque([process("web", status=word) for word in ("backoff", "backoff", "running")])
    assert exeio("wait", "web", "--for", "running", "--timeout", "30") == (0, "", "")
    assert calls(fake) == ["GET /status/web"] * 3
    assert json.loads(exeio("wait", "web", "--for", "Running,failed", "--json")[1])["status"] == "running"


@pytest.mark.parametrize("status", ["stopped", "failed", "manually_stopped"])
def test_every_end_is_an_end(exeio, fake, status):
    fake.answers["GET /status/web"] = process("web", status=status)
    assert exeio("wait", "web", "--for", "ended") == (0, "", "")


def test_wait_for_several(exeio, three, quick):
    three.answers["GET /status/web-1"] = process("web-1", status="waiting")
    three.answers["GET /status/web-2"] = deque([process("web-2"), process("web-2", status="waiting")])
    status, out, err = exeio("wait", "web-*", "--for", "waiting", "--json")
    assert [each["id"] for each in json.loads(out)] == ["web-1", "web-2"] and (status, err) == (0, "")
    assert calls(three) == ["GET /list", "GET /status/web-1", "GET /status/web-2", "GET /status/web-2"]


def test_wait_gives_up(exeio, fake, quick):
    fake.answers["GET /status/web"] = process("web", status="manually_stopped")
    status, out, err = exeio("wait", "web", "--for", "stopped", "--timeout", "0.02")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "'web' is manually_stopped after 0.02 seconds, not stopped; `--for ended` takes every end" in err
    before = len(fake.requests)
    status, out, _ = exeio("wait", "web", "--for", "running", "--timeout", "0", "--json")
    assert (status, json.loads(out)["status"]) == (1, "manually_stopped")
    assert len(fake.requests) == before + 1, "no time: one look"


def test_wait_for_what_is_not_there_fails_at_once(exeio, fake):
    fake.answers["GET /status/web"] = (404, {"success": False, "message": "there is no process 'web'"})
    assert exeio("wait", "web", "--for", "running")[0] == 1


@pytest.mark.parametrize(("arguments", "words"), [
    ("wait web", "wait needs --for STATUS, as in"),
    ("wait web --for up", "--for must be one of running, stopping,"),
    ("wait web --for running --timeout soon", "--timeout must be a number of seconds"),
    ("wait --for running", "wait needs ID …"),
])
def test_wait_wrongly_used(exeio, fake, arguments, words):
    status, out, err = exeio(*arguments.split(" "))
    assert (status, out, err.count("\n"), fake.requests) == (2, "", 1, [])
    assert words in err


# edit


@pytest.fixture
def editor(exeio, fake, tmp_path, monkeypatch):
    """Runs `edit web` with a Python script as editor; `text` in it is the definition's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    fake.answers["GET /config/web"] = {
        "id": "web", "command": "sleep", "args": [], "nice": 5, "user": None, "auto_restart": False,
        "env": {"TOKEN": "s3cret"}}

    def run(script, *arguments, variable="VISUAL"):
        (tmp_path / "an editor").write_text(
            "import json, os, sys\npath = sys.argv[2]\ntext = open(path).read()\n" + script)
        monkeypatch.setenv("EDITOR", "false")
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv(variable, f"'{sys.executable}' '{tmp_path}/an editor' --wait")
        return exeio("edit", "web", *arguments)

    return run


def kept(tmp_path):
    return list(tmp_path.glob("exeio-web-*"))


SAVE = "\nopen(path, 'w').write(json.dumps(value) if isinstance(value, dict) else value)"


def test_edit_applies_what_changed(editor, fake, tmp_path):
    script = f"""
with open({str(tmp_path / 'seen')!r}, 'w') as file:
    file.write(oct(os.stat(path).st_mode) + text)
value = json.loads(text)
value["args"] = ["5"]; value["auto_restart"] = 0; del value["nice"], value["user"]
""" + SAVE
    assert editor(script) == (0, "done\n", "")
    assert fake.requests[0]["query"] == {"secrets": "true"}
    assert (fake.last["call"], fake.last["body"]) == (
        "POST /update/web", {"args": ["5"], "auto_restart": 0, "nice": None})
    assert kept(tmp_path) == []
    seen = (tmp_path / "seen").read_text()
    assert seen.startswith(oct(stat.S_IFREG | 0o600)) and '"TOKEN": "s3cret"' in seen
    assert editor(script, variable="EDITOR")[0] == 0


def test_edit_without_a_change_asks_for_nothing(editor, fake, tmp_path):
    status, out, err = editor("")
    assert (status, err) == (0, "") and "nothing to change" in out
    assert calls(fake) == ["GET /config/web"] and kept(tmp_path) == []


@pytest.mark.parametrize(("script", "words"), [
    ("value = text.replace('5,', ',')" + SAVE, "the text is not valid JSON: Expecting value (line 5, column 11)"),
    ("value = '[]'" + SAVE, "the text is not a JSON object"),
    ("value = ' '" + SAVE, "the text is empty, and nothing was changed"),
    ("value = 'x'" + SAVE + "\nsys.exit(3)", "ended with status 3, and nothing was changed"),
])
def test_a_text_that_cannot_be_applied_is_kept(editor, fake, tmp_path, script, words):
    status, out, err = editor(script)
    assert (status, out, err.count("\n")) == (1, "", 1)
    file, = kept(tmp_path)
    assert words in err and f"your text is kept in {file}" in err
    assert file.stat().st_mode & 0o777 == 0o600
    assert calls(fake) == ["GET /config/web"]


def test_what_is_refused_is_kept_and_can_be_taken_up_again(editor, fake, tmp_path):
    fake.answers["POST /update/web"] = (400, {"success": False, "message": "nice must be a whole number"})
    status, _, err = editor("value = text.replace('5,', '\"x\",')" + SAVE)
    file, = kept(tmp_path)
    assert status == 1 and err.startswith(f"exeio: nice must be a whole number; your text is kept in {file}; correct")
    assert f"edit web -f {file}" in err
    del fake.answers["POST /update/web"]
    assert editor("value = text.replace('\"x\"', '7')" + SAVE, "-f", str(file))[0] == 0
    assert fake.last["body"] == {"nice": 7}
    assert kept(tmp_path) == []


def test_an_editor_that_fails_or_is_not_there(editor, fake, tmp_path, exeio, monkeypatch):
    status, _, err = editor("sys.exit(1)")
    assert status == 1 and "ended with status 1, and nothing was changed\n" in err and kept(tmp_path) == []
    monkeypatch.setenv("VISUAL", "no-such-editor")
    assert exeio("edit", "web")[0] == 1
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("shutil.which", lambda name: None)
    status, _, err = exeio("edit", "web")
    assert status == 1 and "no editor was found; name one in the variable EDITOR" in err
    assert kept(tmp_path) == []


# logs of several


def stamped(second, text):
    return f"[2025-01-01 00:00:{second:02}] {text}"


def pages(fake, id, lines):
    def page(request):
        assert request["query"]["page"] == "1"
        size = int(request["query"]["page_size"])
        return {"success": True, "total_lines": len(lines), "logs": lines[::-1][:size]}
    fake.answers[f"GET /logs/{id}"] = page


def test_logs_side_by_side_in_the_order_of_time(exeio, three):
    pages(three, "db", [stamped(1, "a"), stamped(4, "b"), "no stamp"])
    pages(three, "web-1", [stamped(0, "c"), stamped(5, "clock set back"), stamped(2, "d")])
    pages(three, "web-2", [])
    expected = [("web-1", stamped(0, "c")), ("db", stamped(1, "a")), ("db", stamped(4, "b")), ("db", "no stamp"),
                ("web-1", stamped(5, "clock set back")), ("web-1", stamped(2, "d"))]
    status, out, err = exeio("logs")
    assert (status, err) == (0, "")
    assert out.splitlines() == [f"[{id}] {line}" for id, line in expected]
    assert exeio("logs", "db", "web-*", "-n", "2")[1].splitlines() == out.splitlines()[-2:]
    shown = json.loads(exeio("logs", "w*", "d?", "--json")[1])["logs"]
    assert [(each["id"], each["line"]) for each in shown] == expected


def events(*blocks):
    """What GET /logs sends: an id at the last line of each block."""
    made = b""
    for number, block in enumerate(blocks):
        *lines, last = [f"data: {line}\n\n".encode() for line in block]
        made += b"".join(lines) + f"id: {{{number}}}\n".encode() + last
    return made


def test_several_are_followed_by_one_connection(exeio, three, monkeypatch):
    monkeypatch.setattr(client_module, "_RETRY_SECONDS", 0.01)
    over = (404, {"success": False, "message": "over"})
    cut_off = b"data: [web-1] " + stamped(7, "of a block that was cut off").encode() + b"\n\n"
    three.answers["GET /logs"] = deque([
        b": following\n\n" + events(
            [f"[db] {stamped(2, 'b')}", f"[web-1] {stamped(1, 'a')}", f"[web-1] {stamped(3, 'c')}",
             f"[web-2] {stamped(1, 'not wanted')}"]) + cut_off,
        events([f"[db] {stamped(8, 'later [x]')}", f"[web-1] {stamped(7, 'once')}"]), over])
    status, out, err = exeio("logs", "web-1", "d*", "-f", "-n", "2", "--contains", "x", "--since", "1h")
    assert status == 1 and "over" in err
    assert out.splitlines() == [f"[db] {stamped(2, 'b')}", f"[web-1] {stamped(3, 'c')}",
                                f"[web-1] {stamped(7, 'once')}", f"[db] {stamped(8, 'later [x]')}"]
    query = three.last["query"]
    assert {**query, "since": ""} == {"follow": "true", "page_size": "2", "contains": "x", "since": ""}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", query["since"])
    assert [each["headers"].get("last-event-id") for each in three.requests[-3:]] == [None, "{0}", "{0}"]


def test_all_are_followed_where_none_is_named(exeio, fake):
    fake.answers["GET /logs"] = deque([events([f"[db] {stamped(2, 'b')}"]), (404, {"message": "over"})])
    out = exeio("logs", "-f", "--json", "--since", "2025-01-01")[1]
    assert json.loads(out) == {"id": "db", "line": stamped(2, "b")}
    assert fake.requests[0]["query"] == {"follow": "true", "page_size": "10000", "since": "2025-01-01"}


def test_places_that_fit_into_no_head_are_given_up(exeio, fake, monkeypatch):
    monkeypatch.setattr(client_module, "_RETRY_SECONDS", 0.01)
    block = events([f"[db] {stamped(2, 'b')}"])
    too_long, over = ((status, {"success": False, "message": "no"}) for status in (431, 404))
    fake.answers["GET /logs"] = deque([block, too_long, block, over])
    assert exeio("logs", "-f")[:2] == (1, f"[db] {stamped(2, 'b')}\n" * 2)
    assert [each["headers"].get("last-event-id") for each in fake.requests] == [None, "{0}", None, "{0}"]


def test_who_is_not_there_cannot_be_followed(exeio, three):
    status, _, err = exeio("logs", "db", "web", "-f")
    assert status == 1 and "there is no process 'web'" in err
    assert calls(three) == ["GET /list"]


def test_ids_have_colours_on_a_terminal(three, home):
    pages(three, "db", [stamped(1, "STDERR: x")])
    pages(three, "web-1", [stamped(2, "STDOUT: y")])
    first, second = on_a_terminal(three, "logs", "db", "web-1").splitlines()
    assert first.startswith("\x1b[32m[db]   \x1b[0m ") and "\x1b[31mSTDERR:" in first
    assert second.startswith("\x1b[33m[web-1]\x1b[0m ")


# Against the real supervisor


def test_on_a_real_supervisor(server, capsys, monkeypatch, tmp_path):
    for name, value in (("CONFIG_DIR", server.config_dir), ("DATA_DIR", server.data_dir)):
        monkeypatch.setenv(f"EXEIO_{name}", str(value))

    def done(*arguments):
        status = main([*arguments])
        out, err = capsys.readouterr()
        assert (status, err) == (0, ""), (arguments, out, err)
        return out

    script = "echo on; while read -r line; do echo got $line; done"
    path = write(tmp_path, [
        {"id": f"web-{number}", "command": "sh", "args": ["-c", script], "env": {"NUMBER": str(number)},
         "save_for_next_run": True, "stopped": number == 3} for number in (1, 2, 3)])
    assert done("add", "-f", path).count("added and started\n") == 2
    done("wait", "web-1", "web-2", "--for", "running", "--timeout", "10")
    # Not 0, which is no patience with a slow answer, either.
    done("wait", "web-3", "--for", "manually_stopped", "--timeout", "10")
    done("input", "web-1", "one")
    wait_for(lambda: "got one" in done("logs", "web-1"))
    wait_for(lambda: "STDOUT: on\n" in done("logs", "web-2"))
    lines = done("logs", "web-*", "--stream", "stdout").splitlines()
    assert sorted(line.split("STDOUT: ")[1] for line in lines) == ["got one", "on", "on"]
    assert {line.split(" ")[0] for line in lines} == {"[web-1]", "[web-2]"}

    monkeypatch.setenv("EDITOR", "sed -i s/NUMBER/OTHER/")
    assert "updated: env (restarted)" in done("edit", "web-2")
    assert json.loads(done("config", "web-2", "--secrets"))["env"] == {"OTHER": "2"}
    (tmp_path / "web").write_text(done("config", "web-1", "--secrets"))
    assert "web-4" in done("add", "web-4", "-f", str(tmp_path / "web"), "--env", "MORE=1")
    assert json.loads(done("config", "web-4", "--secrets"))["env"] == {"NUMBER": "1", "MORE": "1"}

    assert done("stop", "web-*").count(" stopped\n") == 4
    done("wait", "web-*", "--for", "ended", "--timeout", "10")
    assert done("remove", "web-[1-4]").count(" removed\n") == 4
    assert done("list") == ""


def test_real_logs_are_followed_together(server):
    server.sh("a", "echo begun; while read -r line; do echo $line; done")
    server.sh("b", "echo begun; while read -r line; do echo $line; done")
    environment = clean_environment(server.folder, {"PYTHONUNBUFFERED": "1"})
    command = [sys.executable, str(PROGRAM), "logs", "a", "b", "-f", "--stream", "stdout", "--url", server.url,
               "-k", server.key]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        seen = {client.stdout.readline().split(b" ", 1)[0] for _ in range(2)}
        assert seen == {b"[a]", b"[b]"}
        for id in ("b", "a"):
            server.post(f"/input/{id}", {"input": f"to {id}"})
            line = client.stdout.readline()
            assert line.startswith(f"[{id}] ".encode()) and line.endswith(f"STDOUT: to {id}\n".encode())
        client.terminate()
