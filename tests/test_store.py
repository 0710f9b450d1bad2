"""processes.json: what loads, what is refused and where; a save is whole, durable and of one entry alone."""

from __future__ import annotations

import json
import os
import stat
import threading
import time

import pytest

from exeio_core import files, store
from exeio_core.errors import Failed, Invalid
from exeio_core.spec import ProcessSpec
from exeio_core.store import SavedProcess, Store

RUST_FILE = """[
  {
    "id": "web-server",
    "command": "python3",
    "args": ["-m", "http.server", "8000"],
    "working_dir": "/var/www/html",
    "log_file": "/home/user/.local/share/exeio/logs/web-server.log",
    "auto_restart": true,
    "periodic": false,
    "period_seconds": null
  },
  {
    "id": "hourly-backup",
    "command": "/scripts/backup.sh",
    "args": [],
    "working_dir": null,
    "log_file": "/home/user/.local/share/exeio/logs/hourly-backup.log",
    "auto_restart": false,
    "save_for_next_run": true,
    "periodic": true,
    "period_seconds": 3600
  }
]"""


def saved(id, stopped=False, **fields):
    return SavedProcess(
        ProcessSpec.from_json({"id": id, "command": "sleep", "save_for_next_run": True, **fields}), stopped
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "processes.json"


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


# What loads


def test_the_rust_programs_file_loads_as_it_is(path):
    write(path, RUST_FILE)
    web, backup = Store(str(path)).load()
    assert web.spec.id == "web-server"
    assert web.spec.args == ("-m", "http.server", "8000")
    assert web.spec.auto_restart and not web.stopped
    assert web.spec.save_for_next_run, "being in the file saves it"
    assert backup.spec.periodic and backup.spec.period_seconds == 3600
    assert path.read_text() == RUST_FILE


@pytest.mark.parametrize("content", ["", " \n\t\r\n", "[]", "\ufeff[ ]\n"])
def test_an_empty_file_is_an_empty_list(path, content):
    write(path, content)
    assert Store(str(path)).load() == []


def test_a_missing_file_is_an_empty_list(path):
    assert Store(str(path)).load() == []
    assert not path.exists()


def test_stopped_and_save_for_next_run_are_read(path):
    write(path, [
        {"id": "a", "command": "x", "stopped": True, "save_for_next_run": False},
        {"id": "b", "command": "x", "stopped": False},
        {"id": "c", "command": "x", "stopped": None},
    ])
    loaded = Store(str(path)).load()
    assert [each.stopped for each in loaded] == [True, False, False]
    assert all(each.spec.save_for_next_run for each in loaded)


# What is refused: (content, line, column, words)
REFUSED = [
    ('[{"id": "a", "command": "x"}', 1, 29, "cut off"),
    ("[", 1, 2, "cut off"),
    ('[\n  {"id": "a",\n   "command": "x" "args": []}\n]', 3, 19, "Expecting ',' delimiter"),
    ('[\n  {"id": "a", "command": "x"},\n]', 3, 1, "Expecting value"),
    ('[\n  {"id": "a", "command": "x"}\n] []', 3, 3, "behind the end"),
    ('{"id": "a", "command": "x"}', 1, 1, "must be a list"),
    ("\0\0\0\0", 1, 1, "must be a list"),
    ('[\n  "a"\n]', 2, 3, "process 1 of the list: a process must be a JSON object"),
    ('[{"id": "a", "command": "x"},\n {"id": "b",\n  "command": 5}]', 3, 3, 'process 2 of the list ("b")'),
    ('[{"id": "a"}]', 1, 2, "command is required"),
    ('[{"id": "a", "command": "x", "comand": "y"}]', 1, 30, "comand"),
    ('[{"id": "a b", "command": "x"}]', 1, 3, "id must be"),
    ('[{"id": "a", "command": "x", "stopped": "yes"}]', 1, 30, "stopped must be true or false"),
    ('[{"id": "a", "command": "x"},\n{"id": "a", "command": "y"}]', 2, 1, 'second process has the id "a"'),
    ('[{"id": "a", "command": "x", "command": "y"}]', 1, 2, '"command" is given twice'),
    ('[{"id": "a", "command": "x", "env": {"A": "1", "A": "2"}}]', 1, 2, '"A" is given twice'),
    ('[{"id": "a", "command": "x", "nice": NaN}]', 1, 2, "NaN"),
    ('[{"id": "a", "command": "x", "nice": -Infinity}]', 1, 2, "-Infinity"),
    ('[{"id": "a", "command": "x", "period_seconds": 1e999}]', 1, 30, "period_seconds"),
    ('[{"id": "a", "command": "\\ud800"}]', 1, 14, "surrogate"),
    ("[" + '{"a":' * 100_000, 1, 2, "nested too deeply"),
]


@pytest.mark.parametrize(("content", "line", "column", "words"), REFUSED, ids=range(len(REFUSED)))
def test_a_wrong_file_is_refused_with_its_place_and_never_overwritten(path, content, line, column, words):
    write(path, content)
    place = f"{path}, line {line}, column {column}: "
    with pytest.raises(Invalid) as refused:
        Store(str(path)).load()
    assert refused.value.message.startswith(place)
    assert words in refused.value.message
    assert "\n" not in refused.value.message

    with pytest.raises(Failed) as not_saved:
        Store(str(path)).put("new", saved("new"), 1)
    assert place in not_saved.value.message
    assert path.read_text(encoding="utf-8") == content
    assert os.listdir(path.parent) == ["processes.json"]


def test_a_number_of_too_many_digits_is_refused(path):
    write(path, '[{"id": "a", "command": "x", "nice": ' + "9" * 5000 + "}]")
    with pytest.raises(Invalid, match="line 1, column"):
        Store(str(path)).load()


def test_bytes_that_are_not_utf8_are_refused_with_their_place(path):
    path.write_bytes('[\n {"id": "ä'.encode() + b"\xff")
    with pytest.raises(Invalid, match="line 2, column 11: this is not UTF-8"):
        Store(str(path)).load()


def test_an_unreadable_path_says_why(path):
    path.mkdir()
    with pytest.raises(Failed, match="Is a directory"):
        Store(str(path)).load()
    with pytest.raises(Failed, match="not saved"):
        Store(str(path)).put("a", saved("a"), 1)


# What a save does


def test_put_adds_changes_and_removes_only_its_own_entry(path):
    other = '{"id":"web-server",   "command":"x", "log_file": "/kept"}'
    write(path, f"[ {other}, {{\"id\": \"b\", \"command\": \"y\"}}, {{\"id\": \"c\", \"command\": \"z\"}} ]")
    one = Store(str(path))
    one.load()
    one.put("b", saved("b", command="new", stop_signal="INT", stopped=True), 1)
    one.put("d", saved("d"), 2)
    assert [each["id"] for each in read(path)] == ["web-server", "b", "c", "d"], "the order is kept"
    assert other in path.read_text(), "what others wrote stays as they wrote it"
    assert read(path)[1] == {
        "id": "b", "command": "new", "args": [], "working_dir": None, "auto_restart": False,
        "save_for_next_run": True, "periodic": False, "period_seconds": None, "stop_signal": "INT",
        "stopped": True,
    }
    one.put("b", None, 3)
    one.put("nobody", None, 3)
    assert [each["id"] for each in read(path)] == ["web-server", "c", "d"]
    assert path.read_text().endswith("\n")


def test_a_save_survives_a_round_trip(path):
    everything = saved(
        "a", stopped=True, args=["ä", "", "\U0001f600", '"\\\n'], env={"A": "1", "B": None}, clear_env=True,
        user="nobody", umask="027", nice=5, success_exit_codes=[0, 3], restart_delay_seconds=0.25,
        restart_delay_max_seconds=5, stop_signal="USR1",
    )
    Store(str(path)).put("a", everything, 1)
    assert Store(str(path)).load() == [everything]


def test_the_last_remove_leaves_an_empty_list(path):
    one = Store(str(path))
    one.put("a", saved("a"), 1)
    one.put("a", None, 2)
    assert read(path) == []


def test_an_older_version_is_ignored(path):
    one = Store(str(path))
    one.put("a", saved("a", stopped=True), 5)
    one.put("a", saved("a"), 4)
    assert read(path)[0]["stopped"] is True
    one.put("a", None, 6)
    one.put("a", saved("a"), 5)
    assert read(path) == []
    one.put("a", saved("a"), 6)
    assert [each["id"] for each in read(path)] == ["a"], "an equal version counts"
    one.put("b", saved("b"), 1)
    assert [each["id"] for each in read(path)] == ["a", "b"]


def test_several_are_saved_in_one_write(path, monkeypatch):
    one = Store(str(path))
    one.put("b", saved("b"), 1)
    writes = []
    monkeypatch.setattr(store, "write_atomic",
                        lambda *args, **more: writes.append(args) or files.write_atomic(*args, **more))
    one.put_all([("a", saved("a")), ("b", None), ("c", saved("c", stopped=True))], 2)
    assert [(each["id"], each.get("stopped")) for each in read(path)] == [("a", None), ("c", True)]
    assert len(writes) == 1


def test_edits_by_hand_that_were_not_reloaded_survive(path):
    one = Store(str(path))
    for number, id in enumerate("abc"):
        one.put(id, saved(id), number)
    content = read(path)
    content[0]["command"] = "edited"  # another entry than the one saved next
    content[1]["command"] = "edited"  # the same one
    del content[2]
    write(path, content)
    one.put("b", saved("b", stopped=True), 10)
    one.put("c", saved("c", stopped=True), 11)
    assert [(each["id"], each["command"], each.get("stopped")) for each in read(path)] == [
        ("a", "edited", None), ("b", "edited", True),
    ], "a stop changes nothing but `stopped`, and brings no deleted entry back"
    one.put("b", saved("b", command="changed here"), 12)
    assert read(path)[1]["command"] == "changed here"
    assert "stopped" not in read(path)[1]


def test_after_a_reload_the_edited_entry_is_the_known_one(path):
    one = Store(str(path))
    one.put("a", saved("a"), 1)
    write(path, [{"id": "a", "command": "edited"}])
    (loaded,) = one.load()
    one.put("a", SavedProcess(loaded.spec, stopped=True), 2)
    assert (read(path)[0]["command"], read(path)[0]["stopped"]) == ("edited", True)


def test_an_edit_is_what_others_made_of_the_file_and_is_told_once(path):
    """What was saved here is none, though a reload that compared the file with the processes took it for one."""
    one = Store(str(path))
    for number, id in enumerate("abc"):
        one.put(id, saved(id), number)
    assert one.edits() == []
    write(path, [{"id": "a", "command": "edited"}, {"id": "b", "command": "sleep", "stopped": True},
                 {"id": "d", "command": "x"}])
    told = {edit.id: edit for edit in one.edits()}
    assert list(told) == ["c", "a", "b", "d"]
    assert (told["c"].before, told["c"].after) == (saved("c"), None)
    assert told["a"].after.spec.command == "edited" and told["d"].before is None
    assert one.edits() == []
    for edit in told.values():
        assert one.is_known(edit)
        one.tell_again(edit)
        assert not one.is_known(edit)
    assert {edit.id: edit for edit in one.edits()} == told
    one.put("d", None, 5)
    one.tell_again(told["d"])
    assert one.edits() == [], "what was saved since is not told again"


def test_a_save_that_changes_nothing_does_not_write(path):
    one = Store(str(path))
    one.put("a", saved("a"), 1)
    before = os.stat(path).st_ino
    one.put("a", saved("a"), 2)
    assert os.stat(path).st_ino == before


def test_the_file_is_private_whatever_the_umask(path):
    write(path, "[]")
    os.chmod(path, 0o644)
    old = os.umask(0o277)
    try:
        Store(str(path)).put("a", saved("a"), 1)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    target = tmp_path / "real" / "list.json"
    target.parent.mkdir()
    write(target, [{"id": "a", "command": "x"}])
    link = tmp_path / "processes.json"
    link.symlink_to(target)
    Store(str(link)).put("b", saved("b"), 1)
    assert link.is_symlink()
    assert [each["id"] for each in read(target)] == ["a", "b"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    write(path, RUST_FILE)
    one = Store(str(path))
    one.load()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(Failed, match=r"not saved: cannot write .*No space left"):
        one.put("a", saved("a"), 1)
    assert path.read_text() == RUST_FILE
    assert os.listdir(path.parent) == ["processes.json"]
    monkeypatch.undo()
    one.put("a", saved("a"), 2)
    assert len(read(path)) == 3


@pytest.mark.parametrize("before", ["[]", None])
def test_an_edit_that_comes_while_a_save_is_written_survives(path, monkeypatch, before):
    """It was overwritten: one of ten, where an editor and the API saved together."""
    if before is not None:
        path.write_text(before)
    one = Store(str(path))
    one.load()
    sync, edits = os.fsync, ["edited"]

    def edit(fd):
        if edits:
            write(path, [{"id": edits.pop(), "command": "true"}])
        sync(fd)

    monkeypatch.setattr(files.os, "fsync", edit)
    one.put("a", saved("a"), 1)
    assert [each["id"] for each in read(path)] == ["edited", "a"]
    assert os.listdir(path.parent) == ["processes.json"]


def test_a_file_that_is_edited_all_the_time_is_left_alone(path, monkeypatch):
    one = Store(str(path))
    one.load()
    number = iter(range(1000))
    monkeypatch.setattr(files.os, "fsync", lambda fd: write(path, [{"id": f"e{next(number)}", "command": "true"}]))
    with pytest.raises(Failed, match="not saved: another program changes .* all the time"):
        one.put("a", saved("a"), 1)
    assert os.listdir(path.parent) == ["processes.json"]


def test_it_is_on_disk_before_it_takes_the_place_of_the_old_one(path, monkeypatch):
    """The order that makes it durable: content, fsync, rename, fsync of the folder."""
    done = []

    def noted(name, real):
        def call(*args):
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            done.append("folder" if is_folder else name)
            return real(*args)

        return call

    for name in ("write", "fsync", "rename"):
        monkeypatch.setattr(files.os, name, noted(name, getattr(os, name)))
    Store(str(path)).put("a", saved("a"), 1)
    assert done == ["write", "fsync", "rename", "folder"]


def test_what_an_interrupted_write_left_behind_is_removed(path):
    write(path, "[]")
    old, young = path.parent / ".processes.json.0123.tmp", path.parent / ".processes.json.4567.tmp"
    unrelated = path.parent / "processes.json.tmp"
    for each in (old, young, unrelated):
        write(each, "[{")
        os.utime(each, (time.time() - 3600,) * 2)
    os.utime(young)
    Store(str(path)).load()
    assert sorted(os.listdir(path.parent)) == sorted(["processes.json", young.name, unrelated.name])


def test_saves_of_many_threads_at_once_share_writes_and_are_durable_when_acknowledged(path, monkeypatch):
    one = Store(str(path))
    writes = []
    waiting = threading.Event()

    def slow(target, data, still):
        writes.append(len(json.loads(data)))
        if len(writes) == 1:
            assert waiting.wait(10)
        return files.write_atomic(target, data, still=still)

    monkeypatch.setattr(store, "write_atomic", slow)
    missing = []

    def save(number):
        id = f"p{number}"
        one.put(id, saved(id), number)
        if not any(each["id"] == id for each in read(path)):
            missing.append(id)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(one._pending) < 15 and time.monotonic() < deadline:
        time.sleep(0.001)
    waiting.set()
    for thread in threads:
        thread.join()
    assert missing == []
    assert len(read(path)) == 16
    assert writes == [1, 16]


def test_a_failure_reaches_everybody_who_shared_the_write(path, monkeypatch):
    one = Store(str(path))
    writes = []

    def failing(target, data, still):
        writes.append(target)
        deadline = time.monotonic() + 10
        while len(writes) == 1 and len(one._pending) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store, "write_atomic", failing)
    failures = []

    def save(id):
        try:
            one.put(id, saved(id), 1)
        except Failed as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(id,)) for id in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 3
    assert len(writes) == 2


def test_a_symbolic_link_stays_and_what_is_no_file_behind_it_is_never_replaced(tmp_path):
    """An administrator may keep the file elsewhere; of a link to a device, root would have replaced the device."""
    link, target = tmp_path / "processes.json", tmp_path / "elsewhere.json"
    link.symlink_to(target)
    made = Store(str(link))
    made.put("web", SavedProcess(ProcessSpec.from_json({"id": "web", "command": "sleep"})), 1)
    assert link.is_symlink() and [one["id"] for one in json.loads(target.read_text())] == ["web"]
    target.unlink()
    os.mkfifo(target)
    with pytest.raises(Failed, match="it is not a regular file"):
        made.put("web", None, 2)
    with pytest.raises(OSError, match="it is not a regular file"):
        files.write_atomic(str(link), b"")
    assert stat.S_ISFIFO(target.stat().st_mode) and sorted(os.listdir(tmp_path)) == ["elsewhere.json", link.name]
