"""Each endpoint of the API on a real server: what it does, each way it is refused, and the exact JSON of both."""

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import threading
from pathlib import Path

import pytest
from support import Server, wait_for

from exeio_core import __version__

# Every endpoint: method, path, whether it takes a body, and the parameters of its query.
PAGE = ("page", "page_size", "order", "stream", "contains", "since", "until")
ENDPOINTS = (
    ("POST", "/add", True, ()),
    ("POST", "/update/{id}", True, ()),
    ("GET", "/config/{id}", False, ("secrets",)),
    ("POST", "/start/{id}", True, ()),
    ("POST", "/stop/{id}", False, ("wait",)),
    ("POST", "/restart/{id}", True, ()),
    ("POST", "/run/{id}", False, ()),
    ("POST", "/remove/{id}", False, ("purge",)),
    ("POST", "/signal/{id}", True, ()),
    ("POST", "/restart-all", False, ()),
    ("POST", "/stop-all", False, ()),
    ("POST", "/input/{id}", True, ()),
    ("GET", "/list", False, ()),
    ("GET", "/status/{id}", False, ()),
    ("GET", "/logs/{id}", False, PAGE),
    ("POST", "/clear-log/{id}", False, ()),
    ("POST", "/reload", False, ()),
    ("GET", "/info", False, ()),
    ("GET", "/openapi.json", False, ()),
    ("POST", "/shutdown", False, ()),
)
NAMED = [one for one in ENDPOINTS if one[1].endswith("{id}")]
WITH_BODY = [one for one in ENDPOINTS if one[2]]
# The process object: the fields of the Rust program first.
RUST_FIELDS = {"id", "command", "args", "status", "is_running", "log_file", "auto_restart", "periodic",
               "period_seconds", "run_count", "last_run"}
FIELDS = RUST_FIELDS | {"working_dir", "pid", "started_at", "uptime_seconds", "exit_code", "exit_signal", "restarts",
                        "next_run", "saved", "status_reason", "env", "log_dropped_lines", "cpu_percent",
                        "memory_bytes"}
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
LONG = "exec sleep 600"


def name_of(one):
    return f"{one[0]} {one[1]}" if isinstance(one, tuple) else None


@pytest.fixture(scope="module")
def api():
    """One server for the tests that leave the others' processes alone."""
    one = Server().start()
    yield one
    one.close()


_numbers = itertools.count(1)


@pytest.fixture
def id(api):
    """An id of its own for a test, and all that begin so are removed after it."""
    made = f"p{next(_numbers)}"
    yield made
    for shown in api.get("/list"):
        if shown["id"].startswith(made):
            api.post(f"/remove/{shown['id']}?purge=true")


def ask(server, method, path, body=None, **fields):
    """One request as it is: status, header fields, bytes."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    with contextlib.closing(connection):
        headers = {"exeio-api-key": server.key, **{name.replace("_", "-"): value for name, value in fields.items()}}
        connection.request(method, path, body, {name: value for name, value in headers.items() if value is not None})
        with connection.getresponse() as answer:
            return answer.status, answer.headers, answer.read()


def refused(answer, status, *words):
    """The body of a refusal is exactly `success` and one sentence, which holds these words."""
    got, document = answer
    assert got == status, answer
    assert set(document) == {"success", "message"} and document["success"] is False, document
    assert "\n" not in document["message"] and "Traceback" not in document["message"]
    for word in words:
        assert word in document["message"], document
    return document["message"]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def saved(server):
    """The content of processes.json by id, or {} where there is none."""
    path = server.config_dir / "processes.json"
    return {one["id"]: one for one in json.loads(path.read_text())} if path.exists() else {}


def listed(server, id):
    return [one for one in server.get("/list") if one["id"] == id]


@contextlib.contextmanager
def spoilt(server):
    """While processes.json is not valid nothing can be saved; it is put back as it was."""
    path = server.config_dir / "processes.json"
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(b'[{"id": ')
    try:
        yield path
        assert path.read_bytes() == b'[{"id": ', "a file that does not parse is never overwritten"
    finally:
        path.unlink() if before is None else path.write_bytes(before)


# All endpoints alike


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
@pytest.mark.parametrize("key", ["", "wrong", "\u00e9"])
def test_without_the_key_nothing_is_answered(api, endpoint, key):
    method, path, _, _ = endpoint
    headers = {"exeio-api-key": key.encode("latin-1")} if key else {}
    if path == "/info":
        assert api.call(method, path, key="", headers=headers)[0] == 200
        return
    message = refused(api.call(method, path.format(id="x"), key="", headers=headers), 401, "exeio-api-key")
    assert api.key not in message


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
def test_another_method_is_405_with_allow(api, endpoint):
    method, path, _, _ = endpoint
    allowed = "GET, HEAD, OPTIONS" if method == "GET" else "OPTIONS, POST"
    for other in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"} - set(allowed.split(", ")):
        status, fields, body = ask(api, other, path.format(id="x"))
        assert (status, fields["Allow"]) == (405, allowed), other
        if other != "HEAD":
            refused((status, json.loads(body)), 405, allowed, other)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
def test_options_says_what_a_path_takes(api, endpoint):
    method, path, _, _ = endpoint
    status, fields, body = ask(api, "OPTIONS", path.format(id="x"))
    allowed = "GET, HEAD, OPTIONS" if method == "GET" else "OPTIONS, POST"
    assert (status, fields["Allow"]) == (200, allowed)
    assert json.loads(body) == {"success": True, "message": f"allowed: {allowed}"}
    assert not [name for name in fields if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("endpoint", NAMED, ids=name_of)
@pytest.mark.parametrize("name", ["nobody", "exeio", "..", "%2e%2e", "no%20body", "%C3%A4", "x" * 100])
def test_a_process_that_is_not_there_is_404(api, endpoint, name):
    method, path, takes_body, _ = endpoint
    body = {"signal": "HUP"} if "/signal" in path else {"input": "x"} if "/input" in path else {}
    refused(api.call(method, path.format(id=name), body if takes_body else None), 404)


@pytest.mark.parametrize("path", [
    "/", "/list/", "/LIST", "/info/", "/shutdown/", "/stop", "/stop/", "/status/x/y", "//list", "/add/x",
    "/favicon.ico", "/list.json", "/%6Cist/x",
])
def test_a_path_that_is_not_there_is_404(api, path):
    for method in ("GET", "POST", "OPTIONS"):
        refused(api.call(method, path), 404, "no path")


def test_the_key_comes_before_everything_else(api):
    """Nobody without it learns which paths, methods or processes there are, and no body is looked at."""
    for method, path, body in (("GET", "/nothing", None), ("PUT", "/list", None), ("OPTIONS", "/add", None),
                               ("GET", "/status/nobody", None), ("POST", "/add", b"{nonsense"),
                               ("POST", "/info", None), ("GET", "/list?nothing=1", None)):
        refused(api.call(method, path, body, key="wrong"), 401)
    assert ask(api, "GET", "/list", exeio_api_key=None)[1]["WWW-Authenticate"] == "exeio-api-key"


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
def test_an_unknown_parameter_is_refused_by_name(api, endpoint):
    method, path, takes_body, known = endpoint
    where = path.format(id="nobody")
    refused(api.call(method, f"{where}?nonsense=1", {} if takes_body else None), 400, "'nonsense'")
    for name in known:
        refused(api.call(method, f"{where}?{name}x=1"), 400, f"'{name}x'", f"did you mean {name}?")
        refused(api.call(method, f"{where}?{name}=1&{name}=1"), 400, f"'{name}'", "twice")


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=name_of)
def test_an_unknown_field_is_refused_by_name(api, endpoint, id):
    """Nothing is done then, whatever else is right."""
    method, path, _, _ = endpoint
    pid = start_one(api, id)
    whole = {"/add": {"id": id + "x", "command": "true"}, "/update/{id}": {"args": []}, "/signal/{id}": {"signal": 9},
             "/input/{id}": {"input": "x"}}.get(path, {})
    refused(api.call(method, path.format(id=id), {**whole, "nonsense": 1}), 400, "'nonsense'")
    assert api.get(f"/status/{id}")["pid"] == pid and not listed(api, id + "x")


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=name_of)
def test_a_body_that_is_not_right_is_refused(api, endpoint):
    method, path, _, _ = endpoint
    where = path.format(id="nobody")
    refused(api.call(method, where, b'{"a": 1'), 400, "not valid JSON")
    refused(api.call(method, where, b"[]"), 400, "JSON object")
    refused(api.call(method, where, b'{"a": 1, "a": 2}'), 400, "'a' is given twice")
    refused(api.call(method, where, b'{"a": ' + b"[" * 500_000), 400, "nested too deeply")
    refused(api.call(method, where, {}, headers={"Content-Type": "text/plain"}), 415, "application/json")
    refused(api.call(method, where, b'{"a": "' + b"x" * (1 << 20) + b'"}'), 413)


def test_no_content_type_is_taken_as_json_and_a_charset_is_no_other(api, id):
    body = json.dumps({"id": id, "command": "sleep", "args": ["600"]}).encode()
    for kind in (None, "application/json; charset=utf-8"):
        status, _, answer = ask(api, "POST", "/add", body, Content_Type=kind)
        assert status == 200, answer
        api.post(f"/remove/{id}")


@pytest.mark.parametrize("path", ["/list", "/info", "/status/{id}", "/config/{id}", "/logs/{id}", "/status/nobody"])
def test_head_is_get_without_a_body(api, id, path):
    start_one(api, id)
    where = path.format(id=id)
    status, fields, body = ask(api, "HEAD", where)
    got, full, content = ask(api, "GET", where)
    assert (status, body) == (got, b"")
    assert fields["Content-Type"] == full["Content-Type"] == "application/json"
    assert abs(int(fields["Content-Length"]) - len(content)) < 10, "the uptime may have got a digit more"


# /info


def test_info_needs_no_key_and_tells_then_only_what_all_may_know(api):
    for key in ("", "wrong"):
        status, document = api.call("GET", "/info", key=key)
        assert status == 200
        assert set(document) == {"name", "version", "url", "endpoints"}
        assert (document["name"], document["version"], document["url"]) == ("exeio", __version__, api.url)
    endpoints = document["endpoints"]
    wanted = {f"{method} {path}" for method, path, _, _ in ENDPOINTS}
    assert wanted <= set(endpoints) and len(set(endpoints)) == len(endpoints)


def test_info_with_the_key(api, id):
    start_one(api, id)
    api.sh(id + "x", "exit 3")
    api.wait_status(id + "x", "failed")
    document = api.get("/info")
    assert set(document) == {"name", "version", "url", "endpoints", "uptime_seconds", "pid", "processes", "counts"}
    assert document["pid"] == api.pid and document["uptime_seconds"] > 0
    assert document["processes"] == 2 and document["counts"] == {"running": 1, "failed": 1}


# /add, /list and /status


def start_one(server, id, script=LONG, **fields):
    server.sh(id, script, **fields)
    return server.get(f"/status/{id}")["pid"]


def test_add_answers_starts_and_shows(api, id):
    answer = api.post("/add", {"id": id, "command": "sleep", "args": ["600"]})
    assert answer == {"success": True, "message": f"Process '{id}' added and started", "id": id}
    shown = api.get(f"/status/{id}")
    assert set(shown) == FIELDS
    assert listed(api, id)[0].keys() == shown.keys()
    assert alive(shown["pid"])
    assert MOMENT.fullmatch(shown["started_at"]) and shown["last_run"] == shown["started_at"]
    assert 0 <= shown["uptime_seconds"] < 30
    changing = ("pid", "started_at", "last_run", "uptime_seconds", "cpu_percent", "memory_bytes")
    assert {name: value for name, value in shown.items() if name not in changing} == {
        "id": id, "command": "sleep", "args": ["600"], "status": "running", "is_running": True,
        "log_file": str(api.logs / f"{id}.log"), "auto_restart": False, "periodic": False, "period_seconds": None,
        "run_count": 1, "working_dir": None, "exit_code": None, "exit_signal": None, "restarts": 0, "next_run": None,
        "saved": False, "status_reason": None, "env": [], "log_dropped_lines": 0}


def test_the_list_is_sorted_by_id_and_an_array(api, id):
    for tail in ("b", "a-1", "B", "a.1", "10", "9"):
        api.post("/add", {"id": id + tail, "command": "true", "start": False})
    ids = [shown["id"] for shown in api.get("/list")]
    assert ids == sorted(ids) and len(ids) == 6


def test_of_env_only_the_names_are_shown(api, id):
    start_one(api, id, env={"SECRET": "hidden-value", "A": "1", "GONE": None})
    assert api.get(f"/status/{id}")["env"] == ["A", "GONE", "SECRET"]
    for path in (f"/status/{id}", "/list", f"/config/{id}", f"/logs/{id}"):
        assert "hidden-value" not in json.dumps(api.get(path))
    refused(api.call("POST", "/add", {"id": id + "x", "command": "true", "env": {"SECRET": "hidden-value\0"}}), 400)
    assert "hidden-value" not in api.log("exeio")


def test_the_ends_of_processes_as_shown(api, id):
    api.sh(id, "exit 0")
    shown = api.wait_status(id, "stopped")
    assert (shown["exit_code"], shown["exit_signal"]) == (0, None)
    assert (shown["is_running"], shown["status_reason"]) == (False, None)
    assert (shown["pid"], shown["started_at"], shown["uptime_seconds"]) == (None, None, None)
    assert MOMENT.fullmatch(shown["last_run"])
    api.sh(id + "f", "exit 7")
    shown = api.wait_status(id + "f", "failed")
    assert (shown["exit_code"], shown["exit_signal"]) == (7, None)
    assert "exited with code 7 after" in shown["status_reason"]
    api.sh(id + "k", "kill -KILL $$")
    shown = api.wait_status(id + "k", "failed")
    assert (shown["exit_code"], shown["exit_signal"]) == (None, "SIGKILL")
    assert "killed by SIGKILL" in shown["status_reason"]
    api.sh(id + "s", "exit 3", success_exit_codes=[3])
    assert api.wait_status(id + "s", "stopped")["exit_code"] == 3


def test_add_without_a_start(api, id):
    answer = api.post("/add", {"id": id, "command": "sleep", "args": ["600"], "start": False})
    assert answer == {"success": True, "message": f"Process '{id}' added", "id": id}
    shown = api.get(f"/status/{id}")
    assert (shown["status"], shown["is_running"], shown["pid"]) == ("manually_stopped", False, None)
    assert (shown["run_count"], shown["last_run"]) == (0, None)
    assert "added without a start" in shown["status_reason"]
    api.post(f"/start/{id}")
    assert api.get(f"/status/{id}")["status"] == "running"


def test_add_without_a_start_takes_also_what_cannot_start_now(api, id):
    api.post("/add", {"id": id, "command": "/not/there/yet", "start": False})
    refused(api.call("POST", f"/start/{id}"), 400, "No such file")
    assert api.get(f"/status/{id}")["status"] == "failed"


WRONG = [
    ({"id": None}, "id"), ({"id": ""}, "id"), ({"id": "exeio"}, "id"), ({"id": "../x"}, "id"), ({"id": "a b"}, "id"),
    ({"id": "x" * 65}, "id"), ({"id": 5}, "id"), ({"command": None}, "command"), ({"command": ""}, "command"),
    ({"command": ["sh"]}, "command"), ({"args": "600"}, "args"), ({"args": [1]}, "args[0]"),
    ({"args": ["a\0b"]}, "args"),
    ({"periodic": True}, "period_seconds"), ({"period_seconds": 0}, "period_seconds"),
    ({"auto_restart": "yes"}, "auto_restart"), ({"nice": 40}, "nice"), ({"umask": 27}, "umask"),
    ({"stop_signal": "NOPE"}, "stop_signal"), ({"kill_mode": "group"}, "kill_mode"), ({"env": {"A=": "1"}}, "env"),
    ({"env": {"EXEIO_RUN": "x"}}, "EXEIO_RUN"), ({"user": "no-such-account-here"}, "user"),
    ({"group": "no-such-group-here"}, "group"), ({"start": "no"}, "start"), ({"start": 0}, "start"),
    ({"wait_seconds": -1}, "wait_seconds"), ({"wait_seconds": 601}, "wait_seconds"),
    ({"wait_seconds": "2"}, "wait_seconds"),
    ({"stopped": True}, "stopped"), ({"log_file": "/tmp/x"}, "log_file"),
    ({"restart": True}, "did you mean restart_policy?"),
    ({"workingdir": "/"}, "did you mean working_dir?"), ({"cmd": "x"}, "did you mean command?"),
    ({"stop_timeout": 1}, "did you mean stop_timeout_seconds?"), ({"waitSeconds": 1}, "did you mean wait_seconds?"),
    ({"starts": True}, "did you mean start?"),
]


@pytest.mark.parametrize("fields, named", WRONG, ids=repr)
def test_what_add_refuses_is_named(api, id, fields, named):
    before = api.get("/list")
    body = {"id": id, "command": "sleep", "args": ["600"], **fields}
    refused(api.call("POST", "/add", {name: value for name, value in body.items() if value is not None}), 400, named)
    assert api.get("/list") == before and api.log(id) == ""


@pytest.fixture
def things(tmp_path):
    """Commands and folders with which nothing can be started."""
    (tmp_path / "data.txt").write_text("no program\n")
    (tmp_path / "orphan").write_text("#!/no/such/interpreter\n")
    (tmp_path / "orphan").chmod(0o755)
    (tmp_path / "rubbish").write_bytes(b"\x7fELF nothing that can be run")
    (tmp_path / "rubbish").chmod(0o755)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize("fields, words", [
    ({"command": "no-such-command-here"}, ("command 'no-such-command-here': No such file or directory",)),
    ({"command": "/no/such/command"}, ("command '/no/such/command': No such file or directory",)),
    ({"command": "./data.txt", "working_dir": "{}"}, ("command './data.txt': Permission denied",)),
    ({"command": "{}/folder"}, ("Is a directory",)),
    ({"command": "{}/orphan"}, ("No such file or directory", "'/no/such/interpreter'")),
    ({"command": "{}/rubbish"}, ("Exec format error",)),
    ({"command": "sleep 600"},
     ("command 'sleep 600': No such file or directory", '"command": "sleep", "args": ["600"]')),
    ({"command": "sleep 600", "args": ["1"]}, ('"args": ["600", "1"]',)),
    ({"command": "sh -c 'echo \u00e4 \"'"}, ('"command": "sh", "args": ["-c", "echo \u00e4 \\""]',)),
    ({"command": "it's no command"}, ('"command": "it\'s", "args": ["no", "command"]',)),
    ({"command": " "}, ("command ' ': No such file or directory",)),
    ({"command": "true", "working_dir": "/no/such/folder"}, ("working_dir '/no/such/folder': No such file",)),
    ({"command": "true", "working_dir": "{}/data.txt"}, ("working_dir", "Not a directory")),
    ({"command": "true", "args": ["x" * 200_000]}, ("args", "Argument list too long")),
    ({"command": "sh", "env": {"PATH": "/no/such/folder"}}, ("command 'sh': No such file or directory",)),
    ({"command": "sh", "env": {"PATH": None}, "clear_env": True, "working_dir": "/no/such"}, ("working_dir",)),
], ids=lambda one: "" if isinstance(one, tuple) else repr(one)[:60])
def test_what_cannot_be_started_is_400_in_the_systems_words_and_leaves_nothing(api, id, things, fields, words):
    fields = {name: value.format(things) if isinstance(value, str) else value for name, value in fields.items()}
    for more in ({}, {"save_for_next_run": True}, {"auto_restart": True}, {"periodic": True, "period_seconds": 60}):
        refused(api.call("POST", "/add", {"id": id, **fields, **more}), 400, *words)
        assert not listed(api, id) and id not in saved(api)
        assert not (api.logs / f"{id}.log").exists()
    start_one(api, id)  # the id is free


def test_a_failed_add_leaves_an_old_log_as_it_was(api, id):
    api.sh(id, "echo hello")
    api.wait_status(id, "stopped")
    api.post(f"/remove/{id}")
    before = api.log(id)
    refused(api.call("POST", "/add", {"id": id, "command": "no-such-command-here"}), 400)
    assert api.log(id) == before and "hello" in before
    api.sh(id, "echo again")
    api.wait_status(id, "stopped")
    assert api.log(id).startswith(before) and api.log(id).count("STDOUT: ") == 2, "a log that exists is appended to"


def test_an_id_that_is_taken_is_409_and_nothing_happens_to_it(api, id):
    pid = start_one(api, id)
    for body in ({"command": "true"}, {"command": "no-such-command-here"}, {"command": "true", "start": False}):
        refused(api.call("POST", "/add", {"id": id, **body}), 409, f"'{id}'")
    assert api.get(f"/status/{id}")["pid"] == pid and alive(pid)
    api.post(f"/stop/{id}")
    refused(api.call("POST", "/add", {"id": id, "command": "true"}), 409)


def test_add_may_be_watched_for_a_while(api, id):
    api.sh(id, LONG, wait_seconds=0.1)
    assert api.get(f"/status/{id}")["uptime_seconds"] >= 0.1
    script = {"id": id + "x", "command": "sh", "args": ["-c", "echo trouble; exit 3"], "wait_seconds": 20,
              "save_for_next_run": True, "auto_restart": True}
    refused(api.call("POST", "/add", script), 409, "did not stay up", "exited with code 3")
    assert not listed(api, id + "x") and id + "x" not in saved(api)
    assert not (api.logs / f"{id}x.log").exists()


def test_what_is_saved_is_in_the_file_when_add_answers(api, id):
    env = {"SECRET": "value", "GONE": None}
    api.sh(id, LONG, save_for_next_run=True, env=env, nice=5)
    assert saved(api)[id] == {
        "id": id, "command": "/bin/sh", "args": ["-c", LONG], "working_dir": None, "auto_restart": False,
        "save_for_next_run": True, "periodic": False, "period_seconds": None, "env": env, "nice": 5}
    assert (api.config_dir / "processes.json").stat().st_mode & 0o777 == 0o600
    assert api.get(f"/status/{id}")["saved"] is True
    api.post("/add", {"id": id + "x", "command": "true", "start": False, "save_for_next_run": True})
    assert saved(api)[id + "x"]["stopped"] is True


def test_what_cannot_be_saved_is_not_added(api, id):
    with spoilt(api):
        message = refused(api.call("POST", "/add", {
            "id": id, "command": "sh", "args": ["-c", LONG], "save_for_next_run": True}), 500, "not saved")
        assert str(api.config_dir / "processes.json") in message and "line 1" in message
        assert not listed(api, id) and not (api.logs / f"{id}.log").exists()
    assert api.left() == []
    start_one(api, id, save_for_next_run=True)


# /config and /update


def test_the_definition_goes_out_as_it_came_in(api, id):
    given = {"id": id, "command": "sleep", "args": ["600"], "working_dir": "/", "auto_restart": True,
             "env": {"A": "secret", "B": None}, "stop_signal": "INT", "stop_timeout_seconds": 2.5, "umask": "027",
             "restart_delay_seconds": 3, "max_restarts": 4, "log_max_bytes": 8192, "success_exit_codes": [0, 3]}
    api.post("/add", given)
    hidden, full = api.get(f"/config/{id}"), api.get(f"/config/{id}?secrets=true")
    assert {name: full[name] for name in given} == given
    assert hidden == {**full, "env": {"A": "***", "B": None}}
    assert "success" not in full and "message" not in full and "status" not in full
    api.post("/add", {**full, "id": id + "x"})
    assert api.get(f"/config/{id}x?secrets=true") == {**full, "id": id + "x"}
    refused(api.call("GET", f"/config/{id}?secrets=maybe"), 400, "secrets")


def test_an_update_that_needs_no_restart(api, id):
    pid = start_one(api, id)
    answer = api.post(f"/update/{id}", {"auto_restart": True, "max_restarts": 3, "stop_timeout_seconds": 1})
    assert answer == {"success": True, "restarted": False,
                      "changed": ["auto_restart", "stop_timeout_seconds", "max_restarts"],
                      "message": f"Process '{id}' updated: auto_restart, stop_timeout_seconds, max_restarts"}
    assert api.get(f"/status/{id}")["pid"] == pid
    assert api.get(f"/status/{id}")["auto_restart"] is True
    answer = api.post(f"/update/{id}", {"max_restarts": 3})
    assert answer == {"success": True, "restarted": False, "changed": [],
                      "message": f"Process '{id}': nothing to change"}
    answer = api.post(f"/update/{id}", {"max_restarts": None, "id": id})
    assert answer["changed"] == ["max_restarts"], "null is the default, and the same id no change"
    assert api.get(f"/config/{id}")["max_restarts"] is None
    assert api.post(f"/update/{id}", {})["changed"] == []


def test_an_update_that_needs_a_restart(api, id):
    pid = start_one(api, id)
    answer = api.post(f"/update/{id}", {"env": {"A": "1"}, "nice": 3})
    assert answer == {"success": True, "restarted": True, "changed": ["env", "nice"],
                      "message": f"Process '{id}' updated: env, nice (restarted)"}
    shown = api.get(f"/status/{id}")
    assert shown["status"] == "running" and shown["pid"] != pid and not alive(pid)
    assert (shown["run_count"], shown["restarts"]) == (2, 0)
    wait_for(lambda: b"A=1" in Path(f"/proc/{shown['pid']}/environ").read_bytes().split(b"\0"), what="its environment")


def test_an_update_starts_nothing_that_does_not_run(api, id):
    api.sh(id, "exit 0")
    api.wait_status(id, "stopped")
    assert api.post(f"/update/{id}", {"args": ["-c", LONG]})["restarted"] is False
    assert api.get(f"/status/{id}")["status"] == "stopped"
    api.post(f"/start/{id}")
    api.post(f"/stop/{id}")
    assert api.post(f"/update/{id}", {"env": {"A": "1"}})["restarted"] is False
    assert api.get(f"/status/{id}")["status"] == "manually_stopped"


@pytest.mark.parametrize("changes, words", [
    ({"command": "no-such-command-here"}, "No such file or directory"), ({"working_dir": "/no/such"}, "working_dir"),
    ({"id": "other"}, "id cannot be changed"), ({"args": "x"}, "args"), ({"periodic": True}, "period_seconds"),
    ({"command": None}, "command is required"), ({"start": True}, "start"), ({"enf": {}}, "did you mean env?"),
    ({"max_restarts": 1, "restart_delay_seconds": -1}, "restart_delay_seconds"),
    ({"restart_delay_seconds": 50, "restart_delay_max_seconds": 40}, "restart_delay_max_seconds"),
])
def test_an_update_that_is_refused_changes_nothing(api, id, changes, words):
    pid = start_one(api, id)
    before = api.get(f"/config/{id}?secrets=true")
    refused(api.call("POST", f"/update/{id}", changes), 400, words)
    assert api.get(f"/config/{id}?secrets=true") == before
    assert api.get(f"/status/{id}")["pid"] == pid and alive(pid)


def test_an_update_that_needs_no_run_does_not_ask_for_the_program(api, id, tmp_path):
    """It may be away for a while: on a disk that is not mounted, or replaced just now."""
    script = tmp_path / "program"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    api.add(id, str(script))
    script.unlink()
    assert api.post(f"/update/{id}", {"auto_restart": True})["restarted"] is False
    refused(api.call("POST", f"/update/{id}", {"nice": 1}), 400, "No such file or directory")
    api.post(f"/stop/{id}")
    assert api.post(f"/update/{id}", {"stop_timeout_seconds": 1})["changed"] == ["stop_timeout_seconds"]


def test_an_update_that_cannot_be_saved_is_taken_back(api, id):
    pid = start_one(api, id, save_for_next_run=True)
    before = api.get(f"/config/{id}?secrets=true")
    with spoilt(api):
        for changes in ({"max_restarts": 3}, {"env": {"A": "1"}}, {"save_for_next_run": False}):
            refused(api.call("POST", f"/update/{id}", changes), 500, "not saved")
            assert api.get(f"/config/{id}?secrets=true") == before
            assert api.get(f"/status/{id}")["pid"] == pid and alive(pid)
    assert api.post(f"/update/{id}", {"max_restarts": 3})["changed"] == ["max_restarts"]
    assert saved(api)[id]["max_restarts"] == 3


def test_an_update_saves_and_unsaves(api, id):
    pid = start_one(api, id)
    assert id not in saved(api)
    assert api.post(f"/update/{id}", {"save_for_next_run": True})["restarted"] is False
    assert id in saved(api) and api.get(f"/status/{id}")["saved"] is True
    api.post(f"/update/{id}", {"nice": 1})
    assert saved(api)[id]["nice"] == 1
    api.post(f"/update/{id}", {"save_for_next_run": False})
    assert id not in saved(api) and api.get(f"/status/{id}")["saved"] is False
    assert api.get(f"/status/{id}")["pid"] != pid, "nice needed a restart"


def test_an_update_of_a_period_keeps_the_schedule_going(api, id):
    api.add(id, "true", periodic=True, period_seconds=3600)
    api.wait_status(id, "waiting")
    assert api.post(f"/update/{id}", {"period_seconds": 0.2})["restarted"] is False
    wait_for(lambda: api.get(f"/status/{id}")["run_count"] >= 3)
    api.post(f"/update/{id}", {"period_seconds": 3600})

    def waiting():
        """The process between two runs; one that is being started is listed as waiting, too."""
        shown = api.get(f"/status/{id}")
        return shown if (shown["status"], shown["status_reason"]) == ("waiting", None) else None

    count = wait_for(waiting)["run_count"]
    api.post(f"/run/{id}")
    wait_for(lambda: api.get(f"/status/{id}")["run_count"] == count + 1)


# /start, /stop, /restart


def test_start_stop_and_restart(api, id):
    first = start_one(api, id)
    refused(api.call("POST", f"/start/{id}"), 409, "running already")
    assert api.post(f"/stop/{id}") == {"success": True, "message": f"Process '{id}' stopped"}
    shown = api.get(f"/status/{id}")
    assert (shown["status"], shown["is_running"], shown["exit_signal"]) == ("manually_stopped", False, "SIGTERM")
    assert shown["status_reason"] is None and not alive(first)
    assert api.post(f"/stop/{id}")["success"] is True, "once more is no error"
    assert api.post(f"/start/{id}") == {"success": True, "message": f"Process '{id}' started"}
    second = api.get(f"/status/{id}")["pid"]
    assert api.post(f"/restart/{id}") == {"success": True, "message": f"Process '{id}' restarted"}
    shown = api.get(f"/status/{id}")
    assert shown["pid"] not in (first, second) and not alive(second)
    assert (shown["run_count"], shown["restarts"], shown["status"]) == (3, 0, "running")
    api.post(f"/stop/{id}")
    api.post(f"/restart/{id}")
    assert api.get(f"/status/{id}")["status"] == "running", "restart also starts what was stopped"


def test_a_stop_of_what_has_ended_makes_it_stopped_by_request(api, id):
    api.sh(id, "exit 3")
    api.wait_status(id, "failed")
    api.post(f"/stop/{id}")
    shown = api.get(f"/status/{id}")
    assert (shown["status"], shown["exit_code"]) == ("manually_stopped", 3)


def test_a_stop_that_nobody_waits_for(api, id):
    pid = start_one(api, id, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done")
    wait_for(lambda: "ready" in api.log(id))
    status, answer = api.call("POST", f"/stop/{id}?wait=false")
    assert (status, answer) == (202, {"success": True, "message": f"Process '{id}' is being stopped"})
    api.wait_status(id, "manually_stopped")
    assert not alive(pid)
    refused(api.call("POST", f"/stop/{id}?wait=perhaps"), 400, "wait")


def test_a_stop_is_remembered_and_so_is_the_start_after_it(api, id):
    start_one(api, id, save_for_next_run=True)
    api.post(f"/stop/{id}")
    assert saved(api)[id]["stopped"] is True
    api.post(f"/start/{id}")
    assert "stopped" not in saved(api)[id]
    api.post(f"/stop/{id}")
    api.post(f"/restart/{id}")
    assert "stopped" not in saved(api)[id]


def test_a_stop_that_cannot_be_written_still_stops(api, id):
    pid = start_one(api, id, save_for_next_run=True)
    with spoilt(api):
        refused(api.call("POST", f"/stop/{id}"), 500, "is stopped", "not remembered")
        assert api.get(f"/status/{id}")["status"] == "manually_stopped" and not alive(pid)


def test_a_start_that_cannot_be_written_says_that_it_has_started(api, id):
    for one, save in ((id, True), (id + "x", False)):
        start_one(api, one, save_for_next_run=save)
    api.post("/stop-all")
    with spoilt(api):
        refused(api.call("POST", f"/start/{id}"), 500, "is started", "not remembered")
        assert api.get(f"/status/{id}")["status"] == "running"
        refused(api.call("POST", f"/restart/{id}"), 500, "is restarted", "not remembered")
        status, answer = api.call("POST", "/restart-all")
        results = {result["id"]: (result["success"], result["message"]) for result in answer["results"]}
        assert status == 500 and results[id + "x"] == (True, "restarted"), "one that is not to be saved has no trouble"
        assert not results[id][0] and "is restarted, but that is not remembered" in results[id][1]


def test_what_cannot_be_started_any_more(api, id, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    api.add(id, str(script))
    script.unlink()
    refused(api.call("POST", f"/restart/{id}"), 400, "No such file or directory")
    shown = api.get(f"/status/{id}")
    assert shown["status"] == "failed" and "No such file or directory" in shown["status_reason"]
    refused(api.call("POST", f"/start/{id}"), 400, "No such file or directory")
    wait_for(lambda: "could not start: command" in api.log(id))
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    api.post(f"/start/{id}")
    assert api.get(f"/status/{id}")["status"] == "running"


def test_start_and_restart_may_be_watched_for_a_while(api, id):
    api.post("/add", {"id": id, "command": "sh", "args": ["-c", "exit 3"], "start": False})
    for what in ("start", "restart"):
        refused(api.call("POST", f"/{what}/{id}", {"wait_seconds": 20}), 409, "did not stay up", "code 3")
    api.wait_status(id, "failed")  # it was started, and stays
    for what in ("start", "restart"):
        refused(api.call("POST", f"/{what}/{id}", {"wait_seconds": -1}), 400, "wait_seconds")
    api.post(f"/update/{id}", {"args": ["-c", LONG]})
    api.post(f"/start/{id}", {"wait_seconds": 0.05})
    api.post(f"/restart/{id}", {"wait_seconds": 0.05})


@pytest.mark.parametrize("what", ["stop", "restart"])
def test_an_add_that_is_overtaken_while_it_is_watched_leaves_nothing_in_the_file(api, id, what):
    """The stop had saved the process, and the next start of exeio brought it back."""
    body = {"id": id, "command": "sleep", "args": ["600"], "save_for_next_run": True, "wait_seconds": 20}
    answers = []
    adding = threading.Thread(target=lambda: answers.append(api.call("POST", "/add", body)))
    adding.start()
    wait_for(lambda: api.call("GET", f"/status/{id}")[0] == 200)
    api.call("POST", f"/{what}/{id}")
    adding.join()
    refused(answers[0], 409, "did not stay up")
    assert api.call("GET", f"/status/{id}")[0] == 404 and id not in saved(api) and api.log(id) == ""


# Periodic


def test_a_periodic_process_runs_at_once_and_waits(api, id):
    api.add(id, "sh", "-c", "echo tick; echo tock >&2", periodic=True, period_seconds=3600)
    shown = api.wait_status(id, "waiting")
    assert set(shown) == FIELDS | {"history"}, "only /status tells of the runs"
    assert set(listed(api, id)[0]) == FIELDS
    assert (shown["is_running"], shown["run_count"], shown["restarts"], shown["exit_code"]) == (True, 1, 0, 0)
    assert shown["pid"] is None and MOMENT.fullmatch(shown["next_run"])
    run, = shown["history"]
    assert run == {"run": 1, "started_at": shown["last_run"], "duration_seconds": run["duration_seconds"],
                   "exit_code": 0, "exit_signal": None, "timed_out": False}
    refused(api.call("POST", f"/start/{id}"), 409, "scheduled already", f"/run/{id}")
    refused(api.call("POST", f"/input/{id}", {"input": "x"}), 409)
    lines = [line.split("] ", 1)[1] for line in api.log(id).splitlines()]
    assert sorted(line for line in lines if "SYSTEM" not in line) == ["RUN#1 STDERR: tock", "RUN#1 STDOUT: tick"]


def test_a_periodic_process_may_be_watched_although_its_runs_end(api, id):
    """What is up of it is its schedule; only a first run that fails within the time is a failure."""
    hourly = {"periodic": True, "period_seconds": 3600, "wait_seconds": 20}
    api.add(id, "true", **hourly)
    api.wait_status(id, "waiting")
    api.post(f"/restart/{id}", {"wait_seconds": 20})
    refused(api.call("POST", "/add", {"id": f"{id}x", "command": "false", **hourly}), 409, "did not stay up", "code 1")
    assert api.call("GET", f"/status/{id}x")[0] == 404 and api.log(f"{id}x") == ""


def test_run_is_one_run_beside_the_schedule(api, id):
    api.sh(id, "exit 3", periodic=True, period_seconds=3600)
    before = api.wait_status(id, "waiting")
    assert before["status_reason"].startswith("exited with code 3"), "a failed run is told of, the schedule goes on"
    assert api.post(f"/run/{id}") == {"success": True, "message": f"A run of '{id}' has begun"}
    wait_for(lambda: api.get(f"/status/{id}")["run_count"] == 2)
    after = api.wait_status(id, "waiting")
    assert after["next_run"] == before["next_run"]
    assert [run["run"] for run in after["history"]] == [2, 1], "newest first"


def test_restart_begins_the_schedule_anew(api, id):
    api.add(id, "true", periodic=True, period_seconds=3600)
    before = api.wait_status(id, "waiting")
    api.post(f"/restart/{id}")
    wait_for(lambda: api.get(f"/status/{id}")["run_count"] == 2)
    assert api.wait_status(id, "waiting")["next_run"] > before["next_run"]


def test_run_while_one_runs_and_of_what_is_not_periodic(api, id):
    api.sh(id, LONG, periodic=True, period_seconds=3600)
    refused(api.call("POST", f"/run/{id}"), 409, "under way")
    refused(api.call("POST", f"/start/{id}"), 409, "running already")
    start_one(api, id + "x")
    refused(api.call("POST", f"/run/{id}x"), 400, "not periodic", f"/start/{id}x")


def test_a_stopped_schedule_is_run_once_and_stays_stopped(api, id):
    api.add(id, "true", periodic=True, period_seconds=0.2)
    api.wait_status(id, "waiting")
    api.post(f"/stop/{id}")
    shown = api.get(f"/status/{id}")
    assert (shown["status"], shown["is_running"], shown["next_run"]) == ("manually_stopped", False, None)
    api.post(f"/run/{id}")
    wait_for(lambda: api.get(f"/status/{id}")["run_count"] == shown["run_count"] + 1)
    after = api.wait_status(id, "manually_stopped")
    assert (after["is_running"], after["next_run"]) == (False, None)
    api.post(f"/start/{id}")
    wait_for(lambda: api.get(f"/status/{id}")["run_count"] >= after["run_count"] + 2)


def test_a_run_that_could_not_start_leaves_the_schedule(api, id, tmp_path):
    """`/run` of a script that is away for a moment answered 400 and ended the schedule with it."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    api.add(id, str(script), periodic=True, period_seconds=3600)
    before = api.wait_status(id, "waiting")
    script.unlink()
    refused(api.call("POST", f"/run/{id}"), 400, "No such file or directory")
    shown = api.get(f"/status/{id}")
    assert (shown["status"], shown["next_run"]) == ("waiting", before["next_run"])
    assert "No such file or directory" in shown["status_reason"]
    api.post(f"/stop/{id}")
    refused(api.call("POST", f"/run/{id}"), 400, "No such file or directory")
    assert api.get(f"/status/{id}")["status"] == "manually_stopped"


# /remove


def test_remove_stops_forgets_and_keeps_the_log(api, id):
    pid = start_one(api, id, f"echo hello; {LONG}", save_for_next_run=True)
    wait_for(lambda: "hello" in api.log(id))
    assert api.post(f"/remove/{id}") == {"success": True, "message": f"Process '{id}' removed"}
    assert not alive(pid) and not listed(api, id) and id not in saved(api)
    assert "STDOUT: hello" in api.log(id) and api.log(id).rstrip().endswith("removed")
    refused(api.call("POST", f"/remove/{id}"), 404)
    start_one(api, id)
    assert api.post(f"/remove/{id}?purge=true") == {"success": True,
                                                    "message": f"Process '{id}' removed, its log deleted"}
    assert not (api.logs / f"{id}.log").exists()
    api.post("/add", {"id": id, "command": "true", "start": False})
    refused(api.call("POST", f"/remove/{id}?purge=both"), 400, "purge")
    assert listed(api, id)


def test_purge_deletes_the_rotated_files_of_this_log_alone(api, id):
    start_one(api, id)
    start_one(api, f"{id}.log.1")  # a process whose log has a name much like a rotated one
    for tail in ("1", "2", "10", "txt"):
        (api.logs / f"{id}.log.{tail}").write_text("[2025-07-15 10:30:45] STDOUT: old\n")
    api.post(f"/remove/{id}?purge=true")
    assert sorted(path.name for path in api.logs.glob(f"{id}.log*")) == [f"{id}.log.1.log", f"{id}.log.txt"]


def test_a_remove_that_cannot_be_written_leaves_the_process(api, id):
    start_one(api, id, save_for_next_run=True)
    with spoilt(api):
        refused(api.call("POST", f"/remove/{id}"), 500, "not saved")
        assert listed(api, id)
    assert id in saved(api)
    api.post(f"/remove/{id}")
    assert id not in saved(api)


# /signal


def test_signals_by_name_and_number(api, id):
    pid = start_one(api, id, "trap 'echo got hup' HUP; trap 'echo got usr1' USR1; echo ready; "
                             "while :; do sleep 0.02; done")
    wait_for(lambda: "ready" in api.log(id))
    for given in ("HUP", "SIGHUP", "hup", 1, "1"):
        count = api.log(id).count("got hup")
        assert api.post(f"/signal/{id}", {"signal": given}) == {
            "success": True, "message": f"SIGHUP sent to '{id}' (pid {pid})"}
        wait_for(lambda count=count: api.log(id).count("got hup") > count)
    answer = api.post(f"/signal/{id}", {"signal": "USR1", "group": True})
    assert answer["message"] == f"SIGUSR1 sent to '{id}' (group {pid})"
    wait_for(lambda: "got usr1" in api.log(id))


def test_a_signal_to_the_group_reaches_the_children(api, id):
    script = ("sh -c 'trap \"echo child\" USR1; echo ready; while :; do sleep 0.02; done' & "
              "trap 'echo parent' USR1; echo ready; while :; do sleep 0.02; done")
    start_one(api, id, script)
    wait_for(lambda: api.log(id).count("ready") == 2)
    api.post(f"/signal/{id}", {"signal": "USR1"})
    wait_for(lambda: "STDOUT: parent" in api.log(id))
    api.post(f"/signal/{id}", {"signal": "USR1", "group": True})
    wait_for(lambda: "STDOUT: child" in api.log(id) and api.log(id).count("parent") == 2)
    assert api.log(id).count("child") == 1, "the first one was for the main process alone"


@pytest.mark.parametrize("body, words", [
    ({}, "signal is required"), ({"signal": None}, "signal is required"), ({"signal": "NOPE"}, "signal"),
    ({"signal": 0}, "signal"), ({"signal": 99999}, "signal"), ({"signal": True}, "signal"),
    ({"signal": ["HUP"]}, "signal"), ({"signal": "HUP", "group": 1}, "group"),
    ({"signal": "HUP", "all": True}, "'all'"),
])
def test_signals_that_are_none(api, id, body, words):
    pid = start_one(api, id)
    refused(api.call("POST", f"/signal/{id}", body), 400, words)
    assert alive(pid)


def test_a_signal_to_what_does_not_run(api, id):
    api.sh(id, "exit 0")
    api.wait_status(id, "stopped")
    refused(api.call("POST", f"/signal/{id}", {"signal": "HUP"}), 409, "not running")


def test_an_end_by_signal_is_no_stop_by_request(api, id):
    start_one(api, id)
    api.post(f"/signal/{id}", {"signal": "KILL"})
    assert api.wait_status(id, "failed")["exit_signal"] == "SIGKILL"


# /input


def test_input_ends_with_a_newline_unless_told_otherwise(api, id):
    start_one(api, id, "while read -r line; do printf '<%s>\\n' \"$line\"; done; echo end")
    assert api.post(f"/input/{id}", {"input": "one"}) == {"success": True, "message": f"Input sent to '{id}'"}
    api.post(f"/input/{id}", {"input": "tw", "newline": False})
    api.post(f"/input/{id}", {"input": "o \u00e4\\n", "newline": True})
    api.post(f"/input/{id}", {"input": "", "newline": True})
    api.post(f"/input/{id}", {"input": "last", "eof": True})
    api.wait_status(id, "stopped")
    said = [line.split("STDOUT: ")[1] for line in api.log(id).splitlines() if "STDOUT" in line]
    assert said == ["<one>", "<two \u00e4\\n>", "<>", "<last>", "end"]
    refused(api.call("POST", f"/input/{id}", {"input": "x"}), 409, "not running")


def test_the_end_of_input_alone(api, id):
    start_one(api, id, "cat; echo end; exec sleep 600")
    assert api.post(f"/input/{id}", {"eof": True}) == {"success": True, "message": f"The stdin of '{id}' is closed"}
    wait_for(lambda: "STDOUT: end" in api.log(id))
    lines = [line for line in api.log(id).splitlines() if "STDOUT" in line]
    assert len(lines) == 1, "no newline of its own came with the end"
    for body in ({"input": "x"}, {"eof": True}):
        refused(api.call("POST", f"/input/{id}", body), 409, "closed")


@pytest.mark.parametrize("body, words", [
    ({}, "input is required"), ({"input": None}, "input is required"), ({"newline": True}, "input is required"),
    ({"eof": False}, "input is required"), ({"input": 5}, "input must be a text"), ({"input": ["x"]}, "input must be"),
    ({"input": "x", "eof": "yes"}, "eof"), ({"input": "x", "newline": 1}, "newline"), ({"text": "x"}, "'text'"),
])
def test_input_that_is_none(api, id, body, words):
    start_one(api, id, "cat")
    refused(api.call("POST", f"/input/{id}", body), 400, words)
    assert "STDOUT" not in api.log(id)


def test_a_process_that_closed_its_stdin(api, id):
    start_one(api, id, f"exec 0<&-; echo closed; {LONG}")
    wait_for(lambda: "STDOUT: closed" in api.log(id))
    wait_for(lambda: api.call("POST", f"/input/{id}", {"input": "x"})[0] == 409)


def test_input_that_nobody_reads_is_bounded_and_never_blocks(api, id):
    start_one(api, id)
    block = "x" * 400_000
    answers = [api.call("POST", f"/input/{id}", {"input": block}) for _ in range(4)]
    assert [status for status, _ in answers] == [200, 200, 409, 409]
    refused(answers[2], 409, "does not read its stdin", "1048576 is the limit")
    assert api.get(f"/status/{id}")["status"] == "running"
    api.post(f"/stop/{id}")


# /logs and /clear-log


def test_pages_of_a_log(api, id):
    api.sh(id, "for i in 1 2 3 4 5 6 7; do echo line $i; done")
    api.wait_status(id, "stopped")
    page = api.get(f"/logs/{id}?page=1&page_size=4")
    assert set(page) == {"success", "page", "page_size", "total_lines", "total_pages", "logs"}
    assert (page["success"], page["page"], page["page_size"]) == (True, 1, 4)
    assert (page["total_lines"], page["total_pages"]) == (9, 3), "with one line for the start and one for the exit"
    assert [line.split("] ")[1] for line in page["logs"][1:]] == [f"STDOUT: line {i}" for i in (7, 6, 5)]
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] SYSTEM 127\.0\.0\.1:\d+: exited with code 0 after "
                        r"\d+\.\d{3} s", page["logs"][0])
    assert [line.split("] ")[1] for line in api.get(f"/logs/{id}?page=2&page_size=4")["logs"]] == [
        f"STDOUT: line {i}" for i in (4, 3, 2, 1)]
    last = api.get(f"/logs/{id}?page=3&page_size=4")["logs"]
    assert len(last) == 1 and re.search(r"SYSTEM 127\.0\.0\.1:\d+: started with pid \d+$", last[0])
    beyond = api.get(f"/logs/{id}?page=4&page_size=4")
    assert (beyond["logs"], beyond["total_lines"], beyond["total_pages"]) == ([], 9, 3)
    default = api.get(f"/logs/{id}")
    assert (default["page"], default["page_size"], len(default["logs"])) == (1, 50, 9)
    assert api.get(f"/logs/{id}?order=asc")["logs"] == default["logs"][::-1]


@pytest.mark.parametrize("query, words", [
    ("page=0", "page"), ("page=-1", "page"), ("page=x", "page"), ("page=1.0", "page"), ("page=", "page"),
    ("page_size=0", "page_size"), ("page_size=10001", "page_size"), ("page_size=" + "9" * 5000, "page_size"),
    ("order=up", "order"), ("stream=stdin", "stream"), ("since=yesterday", "since"), ("until=2025-13-01", "until"),
])
def test_pages_that_are_none(api, id, query, words):
    api.post("/add", {"id": id, "command": "true", "start": False})
    refused(api.call("GET", f"/logs/{id}?{query}"), 400, words)


def test_a_process_without_a_log_yet_has_an_empty_page(api, id):
    api.post("/add", {"id": id, "command": "true", "start": False})
    page = api.get(f"/logs/{id}")
    assert (page["success"], page["logs"], page["total_lines"]) == (True, [], 0)


def test_a_log_is_cleared_and_only_the_supervisors_own_says_so(api, id):
    start_one(api, id, f"echo hello; {LONG}")
    wait_for(lambda: "hello" in api.log(id))
    assert api.post(f"/clear-log/{id}") == {"success": True, "message": f"Log of '{id}' cleared"}
    assert api.log(id) == "" and api.get(f"/logs/{id}")["total_lines"] == 0
    assert re.search(rf"127\.0\.0\.1:\d+ POST /clear-log/{id}: 200 Log of '{id}' cleared\n", api.log("exeio"))
    assert api.get(f"/status/{id}")["status"] == "running"


# exeio.log


def test_each_change_is_noted_with_the_clients_address_and_its_result(api, id):
    start_one(api, id)
    api.call("POST", "/add", {"id": id, "command": "true"})
    api.call("POST", f"/stop/{id}x")
    api.call("POST", f"/signal/{id}", {"signal": "NOPE"})
    api.get(f"/status/{id}")
    text = api.log("exeio")
    stamp = r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] SYSTEM 127\.0\.0\.1:%d: 127\.0\.0\.1:\d+ " % api.port
    assert re.search(stamp + rf"POST /add: 200 Process '{id}' added and started$", text, re.M)
    assert re.search(stamp + rf"POST /add: refused: there is already a process '{id}'$", text, re.M)
    assert re.search(stamp + rf"POST /stop/{id}x: refused: there is no process '{id}x'$", text, re.M)
    assert re.search(stamp + rf"POST /signal/{id}: refused: signal must be", text, re.M)
    assert f"/status/{id}" not in text, "what changes nothing is not noted"


def test_a_client_cannot_write_lines_of_its_own_into_the_log(api):
    api.call("POST", "/stop/x%0A[2025-01-01%2000:00:00]%20SYSTEM%20forged")
    api.call("POST", "/add", {"id": "x\n[2025-01-01 00:00:00] SYSTEM forged"})
    assert not re.search(r"^\[2025-01-01", api.log("exeio"), re.M)


# All at once


def test_stop_all_and_restart_all(server):
    server.sh("alive", LONG, save_for_next_run=True)
    server.sh("ended", "exit 0", save_for_next_run=True)
    server.sh("stopped", LONG)
    server.add("tick", "true", periodic=True, period_seconds=3600)
    server.post("/stop/stopped")
    server.wait_status("ended", "stopped")
    server.wait_status("tick", "waiting")
    ids = ["alive", "ended", "stopped", "tick"]
    assert server.post("/stop-all") == {
        "success": True, "message": "4 processes stopped",
        "results": [{"id": id, "success": True, "message": "stopped"} for id in ids]}
    assert {shown["status"] for shown in server.get("/list")} == {"manually_stopped"}
    assert [entry["stopped"] for entry in saved(server).values()] == [True, True], "it is remembered"
    server.post("/update/ended", {"args": ["-c", LONG]})
    assert server.post("/restart-all") == {
        "success": True, "message": "4 processes restarted",
        "results": [{"id": id, "success": True, "message": "restarted"} for id in ids]}
    server.wait_status("tick", "waiting")
    assert [shown["status"] for shown in server.get("/list")] == ["running", "running", "running", "waiting"]
    assert not any("stopped" in entry for entry in saved(server).values())


def test_stop_all_and_restart_all_of_nothing(server):
    assert server.post("/stop-all") == {"success": True, "message": "0 processes stopped", "results": []}
    assert server.post("/restart-all") == {"success": True, "message": "0 processes restarted", "results": []}


def test_all_at_once_where_one_fails(server, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    server.add("broken", str(script))
    server.sh("good", LONG, save_for_next_run=True)
    script.unlink()
    status, answer = server.call("POST", "/restart-all")
    assert status == 500
    assert (answer["success"], answer["message"]) == (False, "1 process restarted, 1 failed")
    broken, good = answer["results"]
    assert good == {"id": "good", "success": True, "message": "restarted"}
    assert (broken["id"], broken["success"]) == ("broken", False) and "No such file" in broken["message"]
    assert server.get("/status/good")["status"] == "running"
    with spoilt(server):
        status, answer = server.call("POST", "/stop-all")
        assert status == 500 and [result["success"] for result in answer["results"]] == [True, False]
        assert "processes.json" in answer["results"][1]["message"]
        assert server.get("/status/good")["status"] == "manually_stopped"


def test_all_at_once_is_in_parallel(server):
    """Six that each take their whole grace take it together."""
    for number in range(6):
        server.sh(f"slow{number}", "trap '' TERM; echo ready; while :; do sleep 0.05; done", stop_timeout_seconds=1.5)
    wait_for(lambda: all("ready" in server.log(f"slow{number}") for number in range(6)))
    begun = os.times().elapsed
    server.post("/restart-all")
    assert os.times().elapsed - begun < 6, "one by one it is 9"
    server.post("/stop-all")
    assert os.times().elapsed - begun < 12, "one by one it is 18"


# /reload


def test_reload_applies_the_edited_file(server):
    for id in ("same", "changed", "gone", "stops", "starts"):
        server.sh(id, LONG, save_for_next_run=True)
    server.sh("unsaved", LONG)
    server.post("/stop/starts")
    pids = {shown["id"]: shown["pid"] for shown in server.get("/list")}
    path = server.config_dir / "processes.json"
    entries = saved(server)
    del entries["gone"], entries["starts"]["stopped"]
    entries["changed"]["env"] = {"A": "1"}
    entries["stops"]["stopped"] = True
    entries["new"] = {"id": "new", "command": "sleep", "args": ["600"]}
    entries["broken"] = {"id": "broken", "command": "no-such-command-here"}
    path.write_text(json.dumps(list(entries.values())))
    status, answer = server.call("POST", "/reload")
    results = {result["id"]: (result["success"], result["message"]) for result in answer["results"]}
    assert status == 500 and answer["message"] == "processes.json applied: 5 processes changed, 1 failed"
    broken = results.pop("broken")
    assert broken[0] is False and "No such file or directory" in broken[1]
    assert results == {
        "gone": (True, "removed"), "changed": (True, "changed (env) and restarted"), "stops": (True, "stopped"),
        "starts": (True, "started"), "new": (True, "added and started")}
    now = {shown["id"]: shown for shown in server.get("/list")}
    assert sorted(now) == ["broken", "changed", "new", "same", "starts", "stops", "unsaved"]
    assert [now[id]["pid"] for id in ("same", "unsaved")] == [pids["same"], pids["unsaved"]], "not touched"
    assert now["changed"]["pid"] not in (None, pids["changed"])
    words = [now[id]["status"] for id in ("broken", "changed", "new", "starts", "stops")]
    assert words == ["failed", "running", "running", "running", "manually_stopped"]

    answer = server.call("POST", "/reload")[1]
    assert answer["results"] == [], "nothing is left to do"


def test_reload_takes_over_what_was_not_saved(server):
    pid = start_one(server, "web")
    entry = server.get("/config/web?secrets=true")
    (server.config_dir / "processes.json").write_text(json.dumps([entry]))
    answer = server.post("/reload")
    assert answer["results"] == [{"id": "web", "success": True, "message": "taken over"}]
    shown = server.get("/status/web")
    assert (shown["pid"], shown["saved"]) == (pid, True)


def test_a_file_that_is_invalid_changes_nothing(server):
    pid = start_one(server, "web", save_for_next_run=True)
    path = server.config_dir / "processes.json"
    for text, words in (('[{"id": "x"}]', "command is required"), ('[{"id": ', "line 1, column 9"), ("{}", "list"),
                        (path.read_text().replace("]", "") + "]x", "line")):
        path.write_text(text)
        refused(server.call("POST", "/reload"), 400, *([words]))
        assert path.read_text() == text
        assert [shown["pid"] for shown in server.get("/list")] == [pid]
    path.unlink()
    assert server.post("/reload")["results"] == [{"id": "web", "success": True, "message": "removed"}]
    assert not alive(pid)


def test_edits_that_are_not_reloaded_survive_saves_from_the_api(server):
    start_one(server, "web", save_for_next_run=True)
    path = server.config_dir / "processes.json"
    path.write_text(json.dumps([{**saved(server)["web"], "nice": 7}, {"id": "new", "command": "true"}]))
    start_one(server, "other", save_for_next_run=True)
    server.post("/stop/web")
    entries = saved(server)
    assert sorted(entries) == ["new", "other", "web"]
    assert (entries["web"]["nice"], entries["web"]["stopped"]) == (7, True)


def test_signals_are_not_lost_on_the_way(server):
    """The server itself takes no harm from the signals that it lets through to itself."""
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH, signal.SIGCONT):
        server.signal(number)
    assert server.get("/list") == []
