"""Logs as they grow over the API: server-sent events of one process and of all, and the raw log."""

import http.client
import json
import signal
import time

import pytest
from log_helpers import make
from support import wait_for

from exeio_core import streams
from exeio_core.logfile import LogQuery
from exeio_core.streams import event


class Events:
    """An event stream, read as a browser reads it: (id, name, data) for each event."""

    def __init__(self, server, path, last_id=""):
        headers = {"exeio-api-key": server.key, **({"Last-Event-ID": last_id} if last_id else {})}
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
        self.connection.request("GET", path, headers=headers)
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        assert self.answer.headers["Content-Type"] == "text/event-stream"

    def __iter__(self):
        found = {"id": "", "event": "", "data": []}
        while True:
            line = self.answer.readline()
            if not line:
                return
            text = line.decode().rstrip("\n")
            if not text:
                if found["data"]:
                    yield found["id"], found["event"], "\n".join(found["data"])
                found = {"id": "", "event": "", "data": []}
                continue
            name, _, value = text.partition(":")
            if name == "data":
                found["data"].append(value[1:])
            elif name:
                found[name] = value[1:]

    def close(self):
        self.answer.close()
        self.connection.close()


@pytest.fixture
def follow(server):
    """Follows: `follow(path, last_id)`; all is closed after the test."""
    opened = []

    def start(path, last_id=""):
        opened.append(Events(server, path, last_id))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def add(server, name, script, **more):
    status, answer = server.call("POST", "/add", {"id": name, "command": "sh", "args": ["-c", script], **more})
    assert status == 200, answer


def said(data):
    return data.split("STDOUT: ", 1)[-1]


def test_lines_come_as_they_are_written_and_resume_where_the_client_was(server, follow):
    add(server, "web", "read x; for i in 1 2 3 4 5 6; do echo $i; done; read y; echo 7; exec sleep 100")
    events = follow("/logs/web?follow=true&stream=stdout")
    server.call("POST", "/input/web", {"input": ""})
    seen = []
    for id, _, data in events:
        seen.append((id, said(data)))
        if len(seen) == 6:
            break
    assert [text for _, text in seen] == ["1", "2", "3", "4", "5", "6"]
    server.call("POST", "/input/web", {"input": ""})
    again = follow("/logs/web?follow=true&stream=stdout", last_id=seen[3][0])
    texts = []
    for _, _, data in again:
        texts.append(said(data))
        if texts[-1] == "7":
            break
    assert texts == ["5", "6", "7"]


def test_a_prompt_without_a_newline_is_shown(server, follow):
    add(server, "ask", "printf 'name? '; read x; echo hello $x; exec sleep 100")
    events = iter(follow("/logs/ask?follow=true&stream=stdout"))
    _, name, data = next(events)
    assert (name, said(data)) == ("partial", "name? ")
    server.call("POST", "/input/ask", {"input": "you"})
    assert next(said(data) for _, name, data in events if not name) == "name? hello you"


def test_a_child_cannot_forge_an_event(server, follow):
    add(server, "bad", r"printf 'x\revent: stop\rdata: y\n'; exec sleep 100")
    events = iter(follow("/logs/bad?follow=true&stream=stdout"))
    _, name, data = next(events)
    assert name == ""
    assert said(data) == "x\nevent: stop\ndata: y"
    assert event("a\r\nb", "1") == b"id: 1\ndata: a\ndata: b\n\n"


def test_all_logs_at_once_also_of_a_process_that_comes_later(server, follow):
    add(server, "one", "echo first; exec sleep 100")
    events = iter(follow("/logs?follow=true&stream=stdout"))
    _, _, data = next(events)
    assert data.startswith("[one] [") and said(data) == "first"
    add(server, "two", "echo second; exec sleep 100")
    id, _, data = next(events)
    assert data.startswith("[two] [") and said(data) == "second"
    assert sorted(json.loads(id)) == ["one", "two"]
    add(server, "three", "echo third; exec sleep 100")
    assert said(next(events)[2]) == "third"
    again = iter(follow("/logs?follow=true&stream=stdout", last_id=id))
    assert said(next(again)[2]) == "third"


def all_logs(logs, last_id=None, **query):
    return streams.AllLogsStream(lambda: logs, lambda event, watching: None, LogQuery(**query), last_id)


def lines_and_id(stream):
    """What the next block with lines says, without stamps, and its id."""
    while True:
        block = next(stream).decode()
        if "data: " in block:
            lines = [line.split("SYSTEM", 1)[1].split(": ", 1)[1] for line in block.split("\n") if line[:6] == "data: "]
            return lines, next(line[4:] for line in block.split("\n") if line[:4] == "id: ")


def test_who_comes_back_has_also_missed_nothing_of_a_log_that_was_silent_until_then(tmp_path):
    """Only the last lines of it came: its place was not in the id."""
    logs = {name: make(tmp_path / f"{name}.log") for name in ("loud", "silent")}
    stream = all_logs(logs, page_size=2)
    logs["loud"].system("first")
    lines, id = lines_and_id(stream)
    assert lines == ["first"] and sorted(json.loads(id)) == ["loud", "silent"]
    stream.close()
    for number in range(9):
        logs["silent"].system(f"missed {number}")
    stream = all_logs(logs, id, page_size=2)
    assert lines_and_id(stream)[0] == [f"missed {number}" for number in range(9)]
    stream.close()


def test_who_comes_back_to_a_file_without_a_line_misses_nothing_and_is_told_nothing_twice(tmp_path):
    """It was told that lines are gone, and of a log that had just been rotated the whole file before."""
    logs = {name: make(tmp_path / f"{name}.log") for name in ("loud", "cleared", "rotated")}
    logs["cleared"].system("gone")
    logs["cleared"].clear()
    for number in range(3):
        logs["rotated"].system(f"old {number}")
    stream = all_logs(logs)
    assert lines_and_id(stream)[0] == [f"old {number}" for number in range(3)]
    with logs["rotated"]._lock:
        logs["rotated"]._rotate(0.0)
    for _ in range(3):  # one reads the end of the old file, one goes to the next
        logs["loud"].system("next")
        id = lines_and_id(stream)[1]
    stream.close()
    assert [json.loads(id)[name].split("-")[1] for name in ("cleared", "rotated")] == ["0", "0"]
    logs["cleared"].system("new")
    logs["rotated"].system("new")
    stream = all_logs(logs, id)
    assert lines_and_id(stream)[0] == ["new", "new"]
    stream.close()


def test_the_id_of_a_thousand_logs_has_room_in_a_head_and_resumes_all_of_them(tmp_path):
    logs = {f"web-{number}": make(tmp_path / f"web-{number}.log") for number in range(1000)}
    for name, log in logs.items():
        log.system(f"one of {name}")
        log._close()
    stream = all_logs(logs)
    lines, id = lines_and_id(stream)
    stream.close()
    assert len(lines) == 1000 and len(id) < 30_000
    for name, log in logs.items():
        log.system(f"two of {name}")
        log._close()
    stream = all_logs(logs, id)
    assert sorted(lines_and_id(stream)[0]) == sorted(f"two of {name}" for name in logs)
    stream.close()


@pytest.mark.parametrize("id", ["no", "e30=", "{", "[]", "{\"a\": 7}", "eJwDAAAAAAE=", "\u00e9"])
def test_an_id_that_is_none_begins_anew(tmp_path, id):
    log = make(tmp_path / "a.log")
    log.system("here")
    stream = all_logs({"a": log}, id)
    assert lines_and_id(stream)[0] == ["here"]
    stream.close()


def test_a_comment_shows_that_a_quiet_stream_lives(tmp_path, monkeypatch):
    assert streams.HEARTBEAT == 15
    monkeypatch.setattr(streams, "HEARTBEAT", 0.01)
    log = make(tmp_path / "a.log")
    for stream in (streams.LogStream(log, LogQuery(), None),
                   streams.AllLogsStream(lambda: {"a": log}, lambda event, watching: None, LogQuery(), None)):
        comments = [block for block in (next(stream) for _ in range(5)) if block]
        assert comments == [b": following\n\n"] + [b": still here\n\n"] * (len(comments) - 1)
        assert len(comments) > 2
        stream.close()


def test_all_logs_have_no_pages(server):
    status, answer = server.call("GET", "/logs")
    assert status == 400 and "follow" in answer["message"]


def test_followers_do_not_delay_the_shutdown(server, follow):
    add(server, "quiet", "exec sleep 100")
    streams = [follow("/logs/quiet?follow=true"), follow("/logs?follow=true")]
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    for stream in streams:
        for _ in stream:
            pass  # to its end, which the server makes
    server.stop()
    assert time.monotonic() - began < 8


def test_the_raw_log_is_the_file(server):
    add(server, "web", r"printf 'a\nb\377\n'")
    wait_for(lambda: server.call("GET", "/status/web")[1]["status"] == "stopped")
    with open(server.call("GET", "/status/web")[1]["log_file"], "rb") as file:
        whole = file.read()
    for path, wanted in (("/logs/web/raw", whole), ("/logs/web/raw?tail_bytes=120", None)):
        connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
        connection.request("GET", path, headers={"exeio-api-key": server.key})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        if wanted is not None:
            assert body == wanted
        else:
            assert 0 < len(body) <= 120 and whole.endswith(body) and body.startswith(b"[")
    assert server.call("GET", "/logs/web/raw?tail_bytes=0")[0] == 400
