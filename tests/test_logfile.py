"""Appending to a log: nothing torn, nothing lost, nothing twice; rotation, outside changes, and disks that are full."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from typing import Callable, Iterator, List

import pytest
from log_helpers import (
    ADDRESS,
    Clock,
    chunks,
    content,
    files,
    lines_of,
    make,
    seeded,
    split_simply,
    texts,
    wait_for,
)

from exeio_core import logfile, logline
from exeio_core.logfile import LogQuery
from exeio_core.logline import LINE_LIMIT

AT = b"[2025-07-15 10:30:45] "


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logline, "time", clock)
    return clock


def test_lines_look_as_the_readme_shows_them(tmp_path, clock):
    log = make(tmp_path / "web.log")
    assert not os.listdir(tmp_path)
    log.system("exeio process supervisor started")
    out, err, run = log.stream(b"STDOUT"), log.stream(b"STDERR"), log.stream(b"STDOUT", 3)
    out.feed(b"one\ntwo\nthr")
    err.feed(b"oops\n")
    clock.now += 1
    out.feed(b"ee\n")
    run.feed(b"tick\n")
    log.close()
    assert content(tmp_path / "web.log") == (
        AT + b"SYSTEM 127.0.0.1:8080: exeio process supervisor started\n" + AT + b"STDOUT: one\n" + AT
        + b"STDOUT: two\n" + AT + b"STDERR: oops\n[2025-07-15 10:30:46] STDOUT: three\n"
        b"[2025-07-15 10:30:46] RUN#3 STDOUT: tick\n"
    )  # fmt: skip
    assert os.stat(tmp_path / "web.log").st_mode & 0o777 == 0o600


def test_any_chunks_give_the_same_file(tmp_path, clock):
    generator = seeded()
    for number in range(40):
        pieces = [
            generator.choice(
                [b"\n", b"\n\n", b"\r", b"\r\n", b"\0", b"\xff\xfe", "äöü€😀".encode(), b"plain text", b"x" * 1000]
            )
            for _ in range(generator.randint(0, 300))
        ]
        if number % 4 == 0:
            long = generator.choice([b"y", "€".encode(), "😀".encode(), b"\x80", b"\r"])
            size = LINE_LIMIT * generator.randint(1, 3) + generator.randint(-3, 3)
            pieces.insert(generator.randint(0, len(pieces)), (long * size)[:size])
        text = b"".join(pieces)
        path = tmp_path / f"{number}.log"
        log = make(path, generator.choice((0, 0, 4096, 50_000)), 100_000)
        echoed: List[bytes] = []
        log.echo = echoed.append
        stream = log.stream(b"STDOUT")
        for chunk in chunks(generator, text, 100_000):
            stream.feed(chunk)
            for part in log.partials():
                assert part.startswith(AT + b"STDOUT: ") and b"\n" not in part
        stream.close()
        assert not log.partials()
        log.close()
        expected = split_simply(text)
        assert content(path) == b"".join(AT + b"STDOUT: " + line + b"\n" for line in expected)
        assert b"".join(echoed) == b"".join(line + b"\n" for line in expected)


def test_a_line_is_split_between_two_characters(tmp_path):
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    stream.feed(b"x" + "€".encode() * LINE_LIMIT + b"\n")
    log.close()
    for line in texts(tmp_path / "a.log"):
        assert line.decode().lstrip("x") in "€" * LINE_LIMIT
        assert len(line) <= LINE_LIMIT


def test_a_line_of_exactly_the_limit_is_not_split(tmp_path):
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    stream.feed(b"x" * LINE_LIMIT)
    assert not os.path.exists(log.path)
    stream.feed(b"\n" + b"y" * LINE_LIMIT + b"\n")
    log.close()
    assert [len(text) for text in texts(log.path)] == [LINE_LIMIT, LINE_LIMIT]


def test_a_message_can_neither_end_its_line_nor_steer_a_terminal(tmp_path):
    log = make(tmp_path / "a.log")
    log.system("key refused: \n[2025-07-15 10:30:45] STDOUT: forged\r\x1b[2J\x85\u2028\udcff")
    log.close()
    (line,) = texts(log.path)
    assert line == b"key refused: \\n[2025-07-15 10:30:45] STDOUT: forged\\r\\x1b[2J\\x85\\u2028\\udcff"


def test_two_streams_share_a_file_without_torn_lines(tmp_path):
    generator = seeded()
    log = make(tmp_path / "a.log", 200_000, 1000)
    text = {
        name: b"".join(b"%b %d %b\n" % (name, i, b"x" * generator.randint(0, 300)) for i in range(10_000))
        for name in (b"out", b"err")
    }
    parts = {name: chunks(generator, text[name], 20_000) for name in text}

    def feed(name: bytes) -> None:
        stream = log.stream(b"STD" + name.upper())
        for part in parts[name]:
            stream.feed(part)
        stream.close()

    threads = [threading.Thread(target=feed, args=(name,)) for name in text]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    lines = lines_of(log.path)
    for name in text:
        mine = [line.split(b": ", 1)[1] for line in lines if line[22:].startswith(b"STD" + name.upper() + b": ")]
        assert mine == text[name].split(b"\n")[:-1]
    assert len(lines) == 20_000
    assert len(files(log.path)) > 5


def test_a_stream_goes_on_after_it_was_closed(tmp_path):
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    stream.feed(b"one")
    stream.close()
    stream.close()
    stream.feed(b"two")
    assert log.page(LogQuery())["partial"].endswith("STDOUT: two")
    stream.close()
    log.close()
    assert texts(log.path) == [b"one", b"two"]


# Rotation.


def test_rotation_while_pages_are_collected(tmp_path):
    """200,000 numbered lines, a new file each 100 KB: each is there once, in order, for who reads meanwhile, too."""
    generator = seeded()
    log = make(tmp_path / "a.log", 100_000, 1000)
    text = b"".join(b"%d\n" % i for i in range(200_000))
    collected: List[str] = []
    failures: List[BaseException] = []

    def collect() -> None:
        try:
            page = 1
            while len(collected) < 200_000:
                answer = log.page(LogQuery(page=page, page_size=5000, order="asc"))
                if len(answer["logs"]) == 5000:
                    collected.extend(answer["logs"])
                    page += 1
                newest = log.page(LogQuery(page_size=100))["logs"]
                numbers = [int(line.rsplit(" ", 1)[1]) for line in newest]
                assert numbers == list(range(numbers[0], numbers[0] - len(numbers), -1)) if numbers else True
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=collect)
    thread.start()
    stream = log.stream(b"STDOUT")
    while text:
        size = generator.randint(1, 8000)
        stream.feed(text[:size])
        text = text[size:]
    thread.join(60)
    assert not thread.is_alive() and not failures, failures
    log.close()
    assert [int(line.rsplit(" ", 1)[1]) for line in collected] == list(range(200_000))
    assert [int(text) for text in texts(log.path)] == list(range(200_000))
    sizes = [os.path.getsize(file) for file in files(log.path)]
    assert max(sizes) <= 100_000 and min(sizes[:-1]) > 99_000
    assert log.dropped_lines == 0


@pytest.mark.parametrize("backups", [0, 1, 3])
def test_no_more_is_kept_than_was_said(tmp_path, backups):
    log = make(tmp_path / "a.log", 5000, backups)
    stream = log.stream(b"STDOUT")
    for i in range(3000):
        stream.feed(b"%d\n" % i)
        if i % 500 == 0:
            assert log.page(LogQuery(page_size=1))["logs"][0].endswith(f" {i}")
    assert [os.path.basename(file) for file in files(log.path)] == [
        *(f"a.log.{n}" for n in range(backups, 0, -1)),
        "a.log",
    ]
    assert len(content(log.path)) <= 5000 * (backups + 1)
    kept = [int(text) for text in texts(log.path)]
    assert kept == list(range(kept[0], 3000))
    assert log.page(LogQuery())["total_lines"] == len(kept)
    log.close()


def test_fewer_backups_are_kept_from_the_next_rotation_on(tmp_path):
    log = make(tmp_path / "a.log", 5000, 5)
    stream = log.stream(b"STDOUT")
    for _ in range(40):
        stream.feed(b"x" * 1000 + b"\n")
    assert len(files(log.path)) == 6
    log.configure(4096, 2)
    for _ in range(5):
        stream.feed(b"x" * 1000 + b"\n")
    assert len(files(log.path)) == 3
    log.configure(0, 2)
    for _ in range(50):
        stream.feed(b"x" * 1000 + b"\n")
    assert len(files(log.path)) == 3 and os.path.getsize(log.path) > 50_000
    log.close()


def test_a_new_file_has_the_mode_of_the_old_one(tmp_path):
    log = make(tmp_path / "a.log", 4096, 1)
    log.system("x" * 3000)
    os.chmod(log.path, 0o640)
    log.system("x" * 3000)
    assert [os.stat(file).st_mode & 0o777 for file in files(log.path)] == [0o640, 0o640]
    log.close()


def test_a_line_that_is_larger_than_a_file_may_be_stands_alone(tmp_path):
    log = make(tmp_path / "a.log", 4096, 10)
    stream = log.stream(b"STDOUT")
    stream.feed(b"a\n" + b"x" * 10_000 + b"\nb\n")
    log.close()
    assert [len(open_lines(file)) for file in files(log.path)] == [1, 1, 1]
    assert [len(text) for text in texts(log.path)] == [1, 10_000, 1]


def open_lines(path: str) -> List[bytes]:
    with open(path, "rb") as file:
        return file.read().split(b"\n")[:-1]


def test_a_rotation_that_fails_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(logfile, "_RETRY_SECONDS", 0.05)
    log = make(tmp_path / "a.log", 4096, 1)
    in_the_way = tmp_path / "a.log.1"
    (in_the_way / "full").mkdir(parents=True)
    stream = log.stream(b"STDOUT")
    for i in range(1000):
        stream.feed(b"%d\n" % i)
    assert [int(text) for text in texts_of_file(log.path)] == list(range(1000))
    assert not os.path.exists(f"{log.path}.new")
    shutil.rmtree(in_the_way)

    def rotated() -> bool:
        stream.feed(b"more\n")
        return os.path.exists(in_the_way)

    wait_for(rotated)
    assert log.dropped_lines == 0
    log.close()


def texts_of_file(path: str) -> List[bytes]:
    return [line.split(b": ", 1)[1] for line in open_lines(path)]


def test_an_existing_log_is_appended_to_and_a_torn_line_is_ended(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"[2025-07-15 10:30:45] STDOUT: before\n[2025-07-15 10:30:46] STDO")
    log = make(path)
    assert log.page(LogQuery())["total_lines"] == 2
    log.system("started")
    log.close()
    assert content(path).startswith(b"[2025-07-15 10:30:45] STDOUT: before\n[2025-07-15 10:30:46] STDO\n[2")
    assert log.page(LogQuery())["total_lines"] == 3


# Changes from outside.


def feed_until(condition: Callable[[], bool], feed: Callable[[], None]) -> float:
    """The seconds it took: what is to be within one, by what exeio does, may take a few on a busy machine."""
    assert logfile._CHECK_SECONDS < 1
    start = time.monotonic()
    while not condition():
        feed()
        assert time.monotonic() - start < 10
        time.sleep(0.01)
    return time.monotonic() - start


def test_a_rename_from_outside_is_noticed_within_a_second_and_loses_nothing(tmp_path):
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    count = iter(range(10**9))

    def feed() -> None:
        stream.feed(b"%d\n" % next(count))

    for round_ in range(2):
        for _ in range(100):
            feed()
        if round_:
            os.rename(f"{log.path}.1", f"{log.path}.2")
        os.rename(log.path, f"{log.path}.1")
        assert feed_until(lambda: os.path.exists(log.path), feed) < 4
        feed()
    total = next(count)
    assert [int(text) for text in texts(log.path)] == list(range(total))
    answer = log.page(LogQuery(page_size=10_000, order="asc"))
    assert [int(line.rsplit(" ", 1)[1]) for line in answer["logs"]] == list(range(total))
    log.close()


def test_a_deleted_log_comes_back_within_a_second(tmp_path):
    log = make(tmp_path / "logs" / "a.log")
    (tmp_path / "logs").mkdir()
    stream = log.stream(b"STDOUT")
    stream.feed(b"before\n")
    shutil.rmtree(tmp_path / "logs")
    assert log.page(LogQuery())["logs"] == []
    assert feed_until(lambda: os.path.exists(log.path), lambda: stream.feed(b"after\n")) < 4
    assert set(texts(log.path)) == {b"after"}
    assert log.page(LogQuery())["total_lines"] == len(lines_of(log.path))
    log.close()


def test_a_log_that_was_idle_loses_nothing_to_a_deletion(tmp_path, monkeypatch):
    monkeypatch.setattr(logfile, "_CHECK_SECONDS", 0.02)
    log = make(tmp_path / "a.log")
    log.system("before")
    os.unlink(log.path)
    time.sleep(0.03)
    log.system("after")
    assert texts(log.path) == [b"after"]
    log.close()


def test_copytruncate_is_noticed_and_the_index_is_true_afterwards(tmp_path, monkeypatch):
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    count = iter(range(10**9))
    for _ in range(1000):
        stream.feed(b"%d\n" % next(count))
    shutil.copyfile(log.path, f"{log.path}.1")
    os.truncate(log.path, 0)

    def noticed() -> bool:
        stream.feed(b"%d\n" % next(count))
        return log.page(LogQuery())["total_lines"] == len(lines_of(log.path))

    assert feed_until(noticed, lambda: None) < 4
    for _ in range(100):
        stream.feed(b"%d\n" % next(count))
    total = next(count)
    answer = log.page(LogQuery(page_size=10_000, order="asc"))
    assert [int(line.rsplit(" ", 1)[1]) for line in answer["logs"]] == list(range(total))
    assert answer["total_lines"] == total
    log.close()


def test_lines_of_somebody_else_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(logfile, "_CHECK_SECONDS", 0.0)
    log = make(tmp_path / "a.log")
    log.system("one")
    with open(log.path, "ab") as file:
        file.write(b"a note by hand\nand its end")
    log.system("two")
    assert [line.split(" ")[-1] for line in log.page(LogQuery(order="asc"))["logs"]] == ["one", "hand", "end", "two"]
    log.close()


# Trouble.

FULL = re.compile(rb"(\d+) lines? lost: (.*)")


def lost_by_the_log(path: object) -> int:
    return sum(int(match[1]) for text in texts(path) for match in [FULL.fullmatch(text)] if match)


def numbers_in(path: object) -> List[int]:
    return [int(text.split()[0]) for text in texts(path) if text[:1].isdigit() and b" lost: " not in text]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[str]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    ) if shutil.which("mount") else None  # fmt: skip
    if mount is None or mount.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield str(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_survived_and_the_gap_is_told(small_disk):
    generator = seeded()
    filler = os.path.join(small_disk, "filler")
    with open(filler, "wb") as file:
        file.write(bytes(500_000))
    log = make(os.path.join(small_disk, "a.log"))
    stream = log.stream(b"STDOUT")
    text = b"".join(b"%d %b\n" % (i, b"x" * 90) for i in range(30_000))
    for part in chunks(generator, text, 65536):
        stream.feed(part)
    assert log.dropped_lines > 20_000
    there = lines_of(log.path)  # no torn line
    assert log.page(LogQuery())["total_lines"] == len(there)
    os.unlink(filler)
    assert log.page(LogQuery())["logs"][0].endswith("lines lost: No space left on device")
    stream.feed(b"30000 is the last\n")
    stream.close()
    log.close()
    numbers = numbers_in(log.path)
    assert numbers == sorted(set(numbers)) and numbers[-1] == 30_000
    assert len(numbers) + lost_by_the_log(log.path) == 30_001
    assert log.dropped_lines == lost_by_the_log(log.path)
    assert lines_of(log.path)[-1].endswith(b"30000 is the last")


def test_a_limit_on_file_sizes_is_trouble_like_a_full_disk(tmp_path):
    """What is written in part and cannot be finished is taken back to the last whole line."""
    program = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
from exeio_core.logfile import LogFile, LogQuery
log = LogFile({str(tmp_path / "a.log")!r}, 0, 1, {ADDRESS!r})
stream = log.stream(b"STDOUT")
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
for start in range(0, 10_000, 100):
    stream.feed(b"".join(b"%d %b\\n" % (i, b"x" * 70) for i in range(start, start + 100)))
assert log.page(LogQuery())["total_lines"] + log.dropped_lines == 10_000
stream.feed(b"10000 unfinished")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
stream.close()
print(log.dropped_lines)
log.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers = numbers_in(tmp_path / "a.log")
    assert numbers[:-1] == list(range(len(numbers) - 1)) and numbers[-1] == 10_000
    assert len(numbers) > 400
    assert len(numbers) + int(done.stdout) == 10_001
    gaps = [text for text in texts(tmp_path / "a.log") if FULL.fullmatch(text)]
    assert gaps == [b"%s lines lost: File too large" % done.stdout.strip().encode()]


class Disk:
    """Stands in for the `os` module where logs are written: a write may be short or fail."""

    def __init__(self, decide: Callable[[int], int]) -> None:
        self.decide = decide
        self.truncates = True

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def close(self, fd: int) -> None:
        os.close(fd)
        if not self.truncates:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, fd: int, data: bytes) -> int:
        size = self.decide(len(data))
        if size < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.write(fd, memoryview(data)[:size])

    def writev(self, fd: int, parts: List[bytes]) -> int:
        return self.write(fd, b"".join(parts))

    def ftruncate(self, fd: int, size: int) -> None:
        if not self.truncates:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.ftruncate(fd, size)


def test_short_writes_are_finished(tmp_path, monkeypatch, clock):
    generator = seeded()
    monkeypatch.setattr(logfile, "os", Disk(lambda size: generator.randint(1, size)))
    log = make(tmp_path / "a.log", 20_000, 1000)
    text = b"".join(b"line %d\n" % i for i in range(5000))
    stream = log.stream(b"STDOUT")
    for part in chunks(generator, text, 5000):
        stream.feed(part)
    log.close()
    assert texts(log.path) == text.split(b"\n")[:-1]
    assert log.page(LogQuery())["total_lines"] == 5000


def test_any_trouble_at_any_moment_leaves_whole_lines_and_true_counts(tmp_path, monkeypatch, clock):
    generator = seeded()
    for number in range(15):
        disk = Disk(lambda size: generator.choice((size, size, generator.randint(1, size), -1)))
        monkeypatch.setattr(logfile, "os", disk)
        log = make(tmp_path / f"{number}.log", generator.choice((0, 5000)), 10_000)
        stream = log.stream(b"STDOUT")
        text = b"".join(b"%d %b\n" % (i, b"x" * generator.randint(0, 200)) for i in range(1000))
        for part in chunks(generator, text, 2000):
            disk.truncates = generator.random() < 0.7
            stream.feed(part)
        disk.truncates = True
        disk.decide = lambda size: size
        stream.feed(b"1000\n")
        numbers = numbers_in(log.path)
        assert numbers == sorted(set(numbers)) and numbers[-1] == 1000
        assert len(numbers) + lost_by_the_log(log.path) == 1001
        assert log.dropped_lines == lost_by_the_log(log.path) > 0
        answer = log.page(LogQuery(page_size=10_000, order="asc"))
        assert [line.encode() for line in answer["logs"]] == lines_of(log.path)
        log.close()


@pytest.mark.parametrize("late", [False, True])
def test_a_torn_line_is_taken_away_from_where_a_truncation_has_put_it(tmp_path, monkeypatch, late):
    """The file became as long as it had been before, with zeros."""
    everything = 10**9
    sizes = iter([everything, 30, -1, everything])
    disk = Disk(lambda size: min(size, next(sizes)))
    monkeypatch.setattr(logfile, "os", disk)
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    stream.feed(b"1\n2\n3\n")
    if late:  # when the length has been looked at
        given = disk.ftruncate
        disk.ftruncate = lambda fd, size: (os.truncate(log.path, 0), given(fd, size))
    else:
        os.truncate(log.path, 0)
    stream.feed(b"4444\n5555\n")
    assert os.path.getsize(log.path) == 0
    stream.feed(b"6\n")
    assert texts(log.path) == [b"2 lines lost: Input/output error", b"6"]
    log.close()


def test_what_another_writer_has_appended_is_seen_by_who_reads(tmp_path, monkeypatch):
    """As what `kill_mode` "process" let alone does, while the new process of that id is silent."""
    monkeypatch.setattr(logfile, "_CHECK_SECONDS", 0.0)
    log, other = make(tmp_path / "a.log"), make(tmp_path / "a.log")
    log.system("1")
    for number in (2, 3):
        other.system(str(number))
        answer = log.page(LogQuery(order="asc"))
        assert [line[-1] for line in answer["logs"]] == ["1", "2", "3"][:number] and answer["total_lines"] == number
    assert b"".join(log.raw_tail()).count(b"\n") == 3
    log.close()
    other.close()


def test_the_line_of_a_gap_is_found_by_its_own_time(tmp_path, monkeypatch, clock):
    sizes = iter([-1, -1, 10**9])
    monkeypatch.setattr(logfile, "os", Disk(lambda size: min(size, next(sizes))))
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    stream.feed(b"1\n")
    stream.feed(b"2\n")
    monkeypatch.setattr(logfile, "system_line", later(clock, 100))
    stream.feed(b"3\n")
    assert [line[22:] for line in log.page(LogQuery(since="2025-07-15 10:31:00"))["logs"]] == [
        "SYSTEM 127.0.0.1:8080: 2 lines lost: Input/output error"
    ]
    assert log.page(LogQuery(until="2025-07-15 10:31:00"))["total_lines"] == 1
    log.close()


def test_a_line_of_exeio_is_found_by_its_own_time(tmp_path, monkeypatch, clock):
    """The second may change between the moment that is noted and the one that is written."""
    monkeypatch.setattr(logfile, "system_line", later(clock, 1))
    log = make(tmp_path / "a.log")
    log.system("started")
    assert log.page(LogQuery(since="2025-07-15 10:30:46"))["total_lines"] == 1
    assert log.page(LogQuery(until="2025-07-15 10:30:45"))["total_lines"] == 0
    log.close()


def later(clock: Clock, seconds: float) -> Callable[[str, str], bytes]:
    def system_line(address: str, message: str) -> bytes:
        clock.now += seconds
        return logline.system_line(address, message)

    return system_line


def test_a_log_in_a_folder_that_is_not_there_yet(tmp_path):
    log = make(tmp_path / "not" / "here" / "a.log")
    stream = log.stream(b"STDOUT")
    stream.feed(b"1\n2\n3\n")
    assert log.dropped_lines == 3
    assert log.page(LogQuery())["logs"] == []
    os.makedirs(tmp_path / "not" / "here")
    stream.feed(b"4\n")
    assert texts(log.path) == [b"3 lines lost: No such file or directory", b"4"]
    log.close()


def test_a_log_that_is_no_file_is_trouble(tmp_path):
    os.mkfifo(tmp_path / "a.log")
    log = make(tmp_path / "a.log")
    log.system("started")
    assert log.dropped_lines == 1
    assert log.page(LogQuery())["logs"] == []
    os.unlink(log.path)
    log.system("again")
    assert texts(log.path) == [b"1 line lost: it is not a regular file", b"again"]
    log.close()


def test_a_close_that_fails_stops_nothing(tmp_path, monkeypatch):
    """A network file system tells there what it could not write before."""
    disk = Disk(lambda size: size)
    disk.truncates = False
    monkeypatch.setattr(logfile, "os", disk)
    monkeypatch.setattr(logfile, "_CHECK_SECONDS", 0.0)
    log = make(tmp_path / "a.log", 4096, 100)
    stream = log.stream(b"STDOUT")
    for i in range(500):
        stream.feed(b"%d\n" % i)
    os.rename(log.path, f"{log.path}.0")
    stream.feed(b"500\n")
    log.clear()
    stream.feed(b"501\n")
    log.close()
    assert texts(log.path) == [b"501"] and log.dropped_lines == 0


@pytest.mark.parametrize("ask", [lambda log: log.follow(LogQuery()), lambda log: log.raw_tail()])
def test_the_gap_is_told_to_whoever_looks(tmp_path, monkeypatch, ask):
    log = make(tmp_path / "there" / "not" / "a.log")
    log.system("lost")
    os.makedirs(tmp_path / "there" / "not")
    ask(log)
    assert texts(log.path) == [b"1 line lost: No such file or directory"]
    log.close()


def test_a_link_to_nowhere_is_trouble_that_is_named_as_such(tmp_path):
    os.symlink(tmp_path / "not" / "here.log", tmp_path / "a.log")
    log = make(tmp_path / "a.log", 4096, 10)
    log.system("lost")
    (tmp_path / "not").mkdir()
    for _ in range(10):
        log.system("x" * 1000)
    log.close()
    answer = log.page(LogQuery(order="asc"))
    assert answer["total_lines"] == 11 and answer["logs"][0].endswith("1 line lost: No such file or directory")
    assert log.dropped_lines == 1 and not os.path.islink(log.path)


def test_no_log_is_taken_for_a_rotated_file_of_another(tmp_path):
    """Ids that look like names of rotated files."""
    ids = ["a", "a.log", "a.log.1", "a.log.new", "a.log.1.log", "exeio.log", "exeio.log.1"]
    paths = [tmp_path / f"{id}.log" for id in ids] + [tmp_path / "exeio.log"]
    logs = [make(path, 4096, 3) for path in paths]
    for i in range(200):
        for number, log in enumerate(logs):
            log.system(f"{number} {'x' * 100} {i}")
    for number, log in enumerate(logs):
        log.clear()
        log.system(f"{number} again")
        for other, path in enumerate(paths):
            lines = [text.split() for text in texts(path)]
            assert {line[0] for line in lines} == {b"%d" % other}
            assert len(lines) == (1 if other <= number else len(lines)) > 0
        log.close()


# Clearing.


def test_clear_empties_rotated_files_too(tmp_path):
    log = make(tmp_path / "a.log", 4096, 3)
    log.clear()
    assert not os.listdir(tmp_path)
    stream = log.stream(b"STDOUT")
    for i in range(1000):
        stream.feed(b"%d\n" % i)
    (tmp_path / "a.log.17").write_bytes(b"old\n")
    (tmp_path / "a.log.old").write_bytes(b"not ours\n")
    inode = os.stat(log.path).st_ino
    log.clear()
    assert sorted(os.listdir(tmp_path)) == ["a.log", "a.log.old"]
    assert os.stat(log.path).st_ino == inode and not content(log.path)
    assert log.page(LogQuery()) == {
        "success": True, "page": 1, "page_size": 50, "total_lines": 0, "total_pages": 0, "logs": [],
    }  # fmt: skip
    stream.feed(b"next\n")
    assert texts(log.path) == [b"next"]
    assert log.page(LogQuery())["total_lines"] == 1
    log.close()


def test_clear_while_streams_feed_and_pages_are_read(tmp_path):
    log = make(tmp_path / "a.log", 30_000, 3)
    stop = threading.Event()
    failures: List[BaseException] = []

    def until_stopped(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                failures.append(error)

        return run

    def read() -> None:
        for order in ("asc", "desc"):
            lines = log.page(LogQuery(page_size=300, order=order))["logs"]
            for line in lines:
                assert re.fullmatch(r"\[.{19}\] STD(OUT|ERR): \d+ x+", line), line

    counts = {b"STDOUT": iter(range(10**9)), b"STDERR": iter(range(10**9))}
    streams = {name: log.stream(name) for name in counts}

    def feed(name: bytes) -> None:
        streams[name].feed(b"".join(b"%d %b\n" % (next(counts[name]), b"x" * (i % 90 + 1)) for i in range(40)))

    works: List[Callable[[], None]] = [read, read, lambda: feed(b"STDOUT"), lambda: feed(b"STDERR")]
    threads = [threading.Thread(target=until_stopped(work)) for work in works]
    for thread in threads:
        thread.start()
    for _ in range(40):
        time.sleep(0.01)
        log.clear()
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failures, failures
    assert log.page(LogQuery())["total_lines"] == len(lines_of(log.path))
    assert log.dropped_lines == 0
    log.close()


def test_purge_leaves_nothing_and_nothing_comes_back(tmp_path):
    log = make(tmp_path / "a.log", 4096, 3)
    stream = log.stream(b"STDOUT")
    for i in range(1000):
        stream.feed(b"%d\n" % i)
    log.purge()
    assert not os.listdir(tmp_path)
    stream.feed(b"late\n")
    log.system("late")
    assert not os.listdir(tmp_path)
    assert log.page(LogQuery())["total_lines"] == 0
    log.close()
    again = make(tmp_path / "a.log")
    again.system("new")
    assert texts(again.path) == [b"new"]
    again.close()


def test_a_closed_log_is_opened_again_and_its_index_still_holds(tmp_path):
    log = make(tmp_path / "a.log")
    log.system("one")
    segment = log.view.segment
    log.close()
    if sys.platform == "linux":
        assert log.path not in [fd_path(fd) for fd in os.listdir("/proc/self/fd")]
    log.system("two")
    assert log.view.segment is segment
    assert log.page(LogQuery())["total_lines"] == 2
    log.close()


def fd_path(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_what_was_said_stands_before_what_comes_later(tmp_path):
    """An exit is said by a thread that must not wait for a file, and is written by the next that may."""
    path = tmp_path / "p.log"
    log = make(path)
    out = log.stream(b"STDOUT")
    out.feed(b"one\n")
    log.say("two")
    log.say("three")
    out.feed(b"four\n")
    log.say("five")
    log.system("six")
    log.write_said()
    assert texts(path) == [b"one", b"two", b"three", b"four", b"five", b"six"]
    assert log.written_lines == 6
    log.close()


def test_who_reads_sees_what_was_said(tmp_path):
    path = tmp_path / "p.log"
    log = make(path)
    log.say("paged")
    assert "SYSTEM" in str(log.page(LogQuery())["logs"]) and texts(path) == [b"paged"]
    log.say("raw")
    assert b"".join(log.raw_tail()).endswith(b": raw\n")
    follower = log.follow(LogQuery(page_size=10))
    log.say("followed")
    log.write_said()
    lines: List[str] = []
    while len(lines) < 3:
        found, _ = follower.read(10)
        assert found, lines
        lines += [text.rpartition(": ")[2] for _, text in found]
    assert lines == ["paged", "raw", "followed"]
    follower.close()
    log.close()


def test_who_reads_waits_for_what_is_just_being_written(tmp_path, monkeypatch):
    """It was taken from what is said before it could be read."""
    path = tmp_path / "p.log"
    log = make(path)
    log.system("first")
    entered, asked, go_on, given = threading.Event(), threading.Event(), threading.Event(), os.writev

    def slow(fd, parts):
        entered.set()
        assert go_on.wait(10)
        return given(fd, parts)

    class Noted:
        """The log's lock, which tells of who asks for it."""

        def __init__(self, lock):
            self.lock = lock

        def acquire(self, timeout=-1):
            asked.set()
            return self.lock.acquire(timeout=timeout)

        def release(self):
            self.lock.release()

        __enter__ = acquire

        def __exit__(self, *exc):
            self.release()

    monkeypatch.setattr(logfile.os, "writev", slow)
    log.say("second")
    writer = threading.Thread(target=log.write_said)
    writer.start()
    assert entered.wait(10)
    log._lock, pages = Noted(log._lock), []
    reader = threading.Thread(target=lambda: pages.append(log.page(LogQuery())["logs"]))
    reader.start()
    assert asked.wait(10), "it does not wait for the writer"
    go_on.set()
    writer.join(10)
    reader.join(10)
    assert pages[0][0].endswith(": second")
    log.close()


def test_saying_never_waits_for_the_file(tmp_path):
    path = tmp_path / "p.log"
    log = make(path)
    log.system("first")
    with log._lock:  # as while a write hangs
        log.say("second")
        assert texts(path) == [b"first"]
    log.write_said()
    assert texts(path) == [b"first", b"second"]
    log.close()


def test_what_was_said_goes_with_the_log_that_is_cleared_or_deleted_but_not_with_one_that_is_closed(tmp_path):
    path = tmp_path / "p.log"
    log = make(path)
    log.say("cleared")
    log.clear()
    log.system("kept")
    log.say("closed")
    log.close()
    assert texts(path) == [b"kept", b"closed"]
    log.say("late")
    log.write_said()
    assert texts(path) == [b"kept", b"closed", b"late"] and log._fd < 0
    log.say("deleted")
    log.purge()
    log.say("after it")
    log.write_said()
    assert not os.path.exists(path) and not log.said
