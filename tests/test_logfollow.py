"""Following a log: each line once, in order, across rotations, reconnects and whatever is done to the files."""

from __future__ import annotations

import os
import shutil
import threading
import time
from typing import Callable, List, Tuple

import pytest
from log_helpers import chunks, lines_of, make, seeded, wait_for

from exeio_core import logfile, logfollow
from exeio_core.errors import Failed
from exeio_core.logfile import Follower, LogFile, LogQuery

ALL = LogQuery(page_size=10_000)


def numbers(lines: List[Tuple[str, str]]) -> List[int]:
    return [int(text.rsplit(" ", 1)[1]) for _, text in lines]


def read_until(follower: Follower, enough: Callable[[List[Tuple[str, str]]], object]) -> List[Tuple[str, str]]:
    lines: List[Tuple[str, str]] = []
    deadline = time.monotonic() + 20
    while not enough(lines):
        lines += follower.read(0.5)[0]
        assert time.monotonic() < deadline, f"only {len(lines)} lines came"
    return lines


def feed_numbers(log: LogFile, first: int, last: int, step: int = 1) -> None:
    stream = log.stream(b"STDOUT")
    for i in range(first, last, step):
        stream.feed(b"".join(b"%d\n" % j for j in range(i, min(i + step, last))))


def test_it_begins_with_the_last_lines_and_goes_on(tmp_path):
    log = make(tmp_path / "a.log")
    feed_numbers(log, 0, 100)
    follower = log.follow(LogQuery(page_size=10))
    assert numbers(follower.read(1)[0]) == list(range(90, 100))
    assert follower.read(0) == ([], None)
    feed_numbers(log, 100, 103)
    assert numbers(read_until(follower, lambda lines: len(lines) == 3)) == [100, 101, 102]
    follower.close()
    log.close()


@pytest.mark.parametrize("existing", [0, 5, 20_000])
def test_the_last_lines_of_a_log_that_nobody_writes_yet(tmp_path, existing):
    path = tmp_path / "a.log"
    if existing:
        path.write_bytes(b"".join(b"[2025-07-15 10:30:45] STDOUT: %d\n" % i for i in range(existing)))
    log = make(path)
    follower = log.follow(LogQuery(page_size=50))
    feed_numbers(log, existing, existing + 10)
    first = max(existing - 50, 0)
    lines = read_until(follower, lambda lines: len(lines) >= existing + 10 - first)
    assert numbers(lines) == list(range(first, existing + 10))
    follower.close()
    log.close()


def test_waiting_ends_when_a_line_comes(tmp_path):
    log = make(tmp_path / "a.log")
    log.system("one")
    follower = log.follow(LogQuery())
    follower.read(1)
    start = time.monotonic()
    threading.Timer(0.2, log.system, ["two"]).start()
    lines, _ = follower.read(30)
    assert lines[0][1].endswith("two")
    assert 0.1 < time.monotonic() - start < 5
    follower.close()
    log.close()


def test_waiting_costs_nothing(tmp_path):
    log = make(tmp_path / "a.log")
    log.system("one")
    follower = log.follow(LogQuery())
    follower.read(1)
    start = time.thread_time()
    assert follower.read(2) == ([], None)
    assert time.thread_time() - start < 1
    follower.close()
    log.close()


def test_an_unfinished_line_is_shown_once_and_taken_back_when_it_is_complete(tmp_path):
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    follower = log.follow(LogQuery())
    stream.feed(b"one\nName? ")
    lines, partial = follower.read(1)
    assert len(lines) == 1
    if partial is None:
        _, partial = follower.read(1)
    assert partial[22:] == "STDOUT: Name? "
    assert follower.read(0) == ([], None)
    stream.feed(b"A")
    assert follower.read(1)[1][22:] == "STDOUT: Name? A"
    stream.feed(b"nn\n")
    lines, partial = follower.read(1)
    if partial is None:
        _, partial = follower.read(1)
    assert lines[0][1].endswith("Name? Ann")
    assert partial == ""
    follower.close()
    log.close()


def test_filters(tmp_path):
    log = make(tmp_path / "a.log")
    for i in range(0, 1000, 2):
        log.stream(b"STDOUT").feed(b"%d\n" % i)
        log.stream(b"STDERR").feed(b"%d\n" % (i + 1))
    follower = log.follow(LogQuery(stream="stderr", page_size=3))
    assert numbers(follower.read(1)[0]) == [995, 997, 999]
    log.stream(b"STDOUT").feed(b"1000\n")
    log.stream(b"STDERR").feed(b"1001\n")
    assert numbers(read_until(follower, len)) == [1001]
    log.stream(b"STDOUT").feed(b"unfinished")
    assert follower.read(0)[1] is None
    follower.close()
    log.close()


@pytest.mark.parametrize("backups", [0, 1, 1000])
def test_every_line_once_through_rotations(tmp_path, backups):
    """With few backups a follower keeps up only because it holds the file it reads."""
    log = make(tmp_path / "a.log", 20_000, backups)
    follower = log.follow(ALL)
    log.stream(b"STDOUT")
    got: List[int] = []
    for start in range(0, 20_000, 100):
        feed_numbers(log, start, start + 100)
        got += numbers(read_until(follower, lambda lines: bool(lines) and numbers(lines)[-1:] == [start + 99]))  # noqa: B023
    assert got == list(range(20_000))
    follower.close()
    log.close()


def test_every_line_once_while_it_is_written_and_the_client_reconnects(tmp_path):
    generator = seeded()
    log = make(tmp_path / "a.log", 50_000, 1000)
    total = 30_000
    parts = chunks(generator, b"".join(b"%d\n" % i for i in range(1, total)), 8000)
    feed_numbers(log, 0, 1)
    first = log.follow(ALL)
    got = first.read(1)[0]
    first.close()

    def feed() -> None:
        stream = log.stream(b"STDOUT")
        for part in parts:
            stream.feed(part)

    writer = threading.Thread(target=feed)
    writer.start()
    while len(got) < total:
        follower = log.follow(ALL, got[-1][0])
        for _ in range(generator.randint(1, 10)):
            lines = follower.read(1)[0]
            assert lines or len(got) == total or writer.is_alive()
            # A connection that breaks: the client has seen only some of what was sent.
            got += lines[: generator.randint(0, len(lines))] if generator.random() < 0.2 else lines
            if len(got) == total or (lines and got[-1] != lines[-1]):
                break
        follower.close()
    writer.join()
    assert numbers(got) == list(range(total))
    assert len({id_ for id_, _ in got}) == total
    assert [line.encode() for _, line in got] == lines_of(log.path)
    log.close()


def test_a_resumed_follower_goes_on_after_any_line(tmp_path):
    generator = seeded()
    log = make(tmp_path / "a.log", 5000, 100)
    feed_numbers(log, 0, 2000, 7)
    everything = read_until(log.follow(ALL), lambda lines: len(lines) == 2000)
    again = make(log.path, 5000, 100)  # after a restart of exeio
    for place in [0, 1999, *(generator.randrange(2000) for _ in range(40))]:
        for source in (log, again):
            follower = source.follow(ALL, everything[place][0])
            rest = read_until(follower, lambda lines: len(lines) >= 1999 - place)  # noqa: B023
            assert rest == everything[place + 1 :]
            follower.close()
    log.close()


def test_a_place_that_was_rotated_away_is_followed_by_the_oldest_line(tmp_path):
    log = make(tmp_path / "a.log", 5000, 2)
    feed_numbers(log, 0, 10)
    follower = log.follow(ALL)
    last = read_until(follower, len)[-1][0]
    follower.close()
    feed_numbers(log, 10, 2000)
    kept = [int(line.rsplit(b" ", 1)[1]) for line in lines_of(log.path)]
    follower = log.follow(ALL, last)
    lines = read_until(follower, lambda lines: len(lines) > len(kept))
    assert lines[0][0] == "" and "gone" in lines[0][1]
    assert numbers(lines[1:]) == kept
    follower.close()
    log.close()


def test_a_follower_that_was_too_slow_is_told_so(tmp_path):
    log = make(tmp_path / "a.log", 5000, 2)
    feed_numbers(log, 0, 10)
    follower = log.follow(ALL)
    assert numbers(follower.read(1)[0]) == list(range(10))
    feed_numbers(log, 10, 2000)
    kept = [int(line.rsplit(b" ", 1)[1]) for line in lines_of(log.path)]
    lines = read_until(follower, lambda lines: lines and lines[-1][1].endswith(" 1999"))
    # The file that it held is read to its end; then come those that are kept, and between them one line says so.
    (note,) = [place for place, (id_, _) in enumerate(lines) if not id_]
    before, after = numbers(lines[:note]), numbers(lines[note + 1 :])
    assert before == list(range(10, 10 + len(before))) and len(before) > 50
    assert after == kept
    follower.close()
    log.close()


def test_a_torn_line_at_the_end_of_a_rotated_file_is_shown_once(tmp_path, monkeypatch):
    (tmp_path / "a.log.1").write_bytes(b"[2025-07-15 10:30:45] STDOUT: 0\n[2025-07-15 10:30:45] STDOUT: 1")
    log = make(tmp_path / "a.log")
    follower = log.follow(ALL)
    assert numbers(follower.read(1)[0]) == [0]
    feed_numbers(log, 2, 3)
    lines = read_until(follower, lambda lines: len(lines) == 2)
    assert numbers(lines) == [1, 2]
    feed_numbers(log, 3, 4)
    assert numbers(read_until(follower, len)) == [3]
    follower.close()
    resumed = log.follow(ALL, lines[0][0])
    assert numbers(read_until(resumed, lambda lines: len(lines) == 2)) == [2, 3]
    resumed.close()
    log.close()


@pytest.mark.parametrize("id_", ["", "x", "1-2-3", "-1-2-3-4", "zz-1-20250715103045-1", "1" * 5000, "١-1-1-1"])
def test_an_id_of_somebody_else_is_no_id(tmp_path, id_):
    log = make(tmp_path / "a.log")
    feed_numbers(log, 0, 100)
    follower = log.follow(LogQuery(page_size=2), id_)
    assert numbers(follower.read(1)[0]) == [98, 99]
    follower.close()
    log.close()


def test_clear_is_followed_by_what_comes_next(tmp_path):
    log = make(tmp_path / "a.log", 5000, 3)
    feed_numbers(log, 0, 1000)
    follower = log.follow(LogQuery(page_size=1))
    last = follower.read(1)[0][-1][0]
    log.clear()
    feed_numbers(log, 1000, 1005)
    resumed = log.follow(ALL, last)
    for each in (follower, resumed):
        lines = read_until(each, lambda lines: len(lines) == 6)
        assert lines[0][0] == "" and "cleared" in lines[0][1]
        assert numbers(lines[1:]) == list(range(1000, 1005))
        each.close()
    log.close()


def test_rename_and_copytruncate_from_outside_lose_and_repeat_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(logfile, "_CHECK_SECONDS", 0.0)
    log = make(tmp_path / "a.log")
    follower = log.follow(ALL)
    feed_numbers(log, 0, 100)
    got = numbers(read_until(follower, lambda lines: len(lines) == 100))
    os.rename(log.path, f"{log.path}.1")
    feed_numbers(log, 100, 200)
    got += numbers(read_until(follower, lambda lines: len(lines) == 100))
    os.rename(f"{log.path}.1", f"{log.path}.2")
    feed_numbers(log, 200, 300)  # not read before the copy
    shutil.copyfile(log.path, f"{log.path}.1")
    os.truncate(log.path, 0)
    feed_numbers(log, 300, 400)
    got += numbers(read_until(follower, lambda lines: len(lines) == 200))
    assert got == list(range(400))
    follower.close()
    log.close()


def test_a_deleted_log_is_followed_in_its_new_file(tmp_path, monkeypatch):
    monkeypatch.setattr(logfile, "_CHECK_SECONDS", 0.0)
    log = make(tmp_path / "a.log")
    follower = log.follow(ALL)
    feed_numbers(log, 0, 10)
    os.unlink(log.path)
    feed_numbers(log, 10, 20)
    assert numbers(read_until(follower, lambda lines: len(lines) == 10))[-1] in (9, 19)
    follower.close()
    log.close()


def test_the_end_of_a_log_ends_its_followers(tmp_path):
    log = make(tmp_path / "a.log")
    follower = log.follow(ALL)
    log.system("last words")
    threading.Timer(0.1, log.close).start()
    start = time.monotonic()
    lines = []
    while not follower.ended or lines:
        lines = follower.read(30)[0]
    assert time.monotonic() - start < 5
    follower.close()


def test_who_follows_a_log_that_was_closed_meanwhile_is_at_its_end(tmp_path):
    log = make(tmp_path / "a.log")
    log.system("last words")
    log.close()
    follower = log.follow(ALL)
    assert follower.ended
    assert len(follower.read(30)[0]) == 1
    assert follower.read(30) == ([], None)
    follower.close()


def test_many_logs_are_followed_with_one_event_and_no_descriptor_each(tmp_path):
    event = threading.Event()
    logs = [make(tmp_path / f"{i}.log") for i in range(50)]
    followers = [log.follow(LogQuery(page_size=5), event=event) for log in logs]
    got: List[str] = []

    def collect() -> bool:
        event.wait(0.05)
        event.clear()
        for follower in followers:
            got.extend(text for _, text in follower.read(0)[0])
        return len(got) >= 1000

    for round_ in range(20):
        for i, log in enumerate(logs):
            log.stream(b"STDOUT").feed(b"%d\n" % (i * 20 + round_))
        if round_ % 7 == 0:
            collect()
    wait_for(collect)
    collect()
    assert sorted(int(text.rsplit(" ", 1)[1]) for text in got) == list(range(1000))
    assert all(follower._fd < 0 for follower in followers)
    for follower in followers:
        follower.close()
    for log in logs:
        log.close()


def test_what_one_read_leaves_sets_the_shared_event(tmp_path):
    event = threading.Event()
    log = make(tmp_path / "a.log")
    log.system("started")
    follower = log.follow(LogQuery(page_size=1), event=event)
    feed_numbers(log, 0, 30_000, 1000)
    got = 0
    while got < 30_001:
        assert event.wait(10)
        event.clear()
        got += len(follower.read(0)[0])
    follower.close()
    log.close()


def test_a_follower_that_does_not_read_delays_nothing(tmp_path):
    log = make(tmp_path / "a.log", 1_000_000, 3)
    idle = [log.follow(ALL) for _ in range(20)]
    block = b"x" * 99 + b"\n"
    start = time.thread_time()
    stream = log.stream(b"STDOUT")
    for _ in range(200):
        stream.feed(block * 1000)
    assert time.thread_time() - start < 2
    assert len(os.listdir(tmp_path)) == 4
    for follower in idle:
        follower.close()
    log.close()


def test_a_descriptor_that_is_not_to_be_had_is_asked_for_again(tmp_path, monkeypatch):
    log = make(tmp_path / "a.log")
    feed_numbers(log, 0, 3)
    event = threading.Event()
    follower = log.follow(ALL, event=event)
    assert numbers(follower.read(0)[0]) == [0, 1, 2]
    assert follower.read(0) == ([], None)
    feed_numbers(log, 3, 5)
    original = logfollow.logfiles.open_key

    def refuse(*args: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(logfollow.logfiles, "open_key", refuse)
    assert follower.read(0) == ([], None)
    with pytest.raises(Failed, match="Too many open files"):
        log.follow(ALL)
    monkeypatch.setattr(logfollow.logfiles, "open_key", original)
    assert numbers(follower.read(0)[0]) == [3, 4]
    follower.close()
    log.close()
