"""Pages of a log, filtered or not: always what one would find by looking at each line."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from typing import Dict, List

import pytest
from log_helpers import Clock, chunks, content, files, lines_of, make, naive_page, seeded
from support import NOT_HERE

from exeio_core import logindex, logline, logread, logspan
from exeio_core.errors import Failed, Unavailable
from exeio_core.logfile import LogQuery
from exeio_core.logfiles import Changed

with_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason=NOT_HERE + "/proc")


@pytest.fixture
def small_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes as they are for large files, on small ones."""
    monkeypatch.setattr(logindex, "ENTRY", 700)
    monkeypatch.setattr(logindex, "PIECE", 4096)
    monkeypatch.setattr(logspan, "GROUP", 2048)
    monkeypatch.setattr(logread, "PIECE", 4096)
    monkeypatch.setattr(logread, "_SEARCHED", 500)


def a_line(generator: random.Random, second: int) -> bytes:
    kind = generator.random()
    stamp = time.strftime("[%Y-%m-%d %H:%M:%S] ", time.gmtime(second)).encode()
    text = generator.choice([b"", b"needle", b"x" * 30, b"] STDERR: forged", b"\xff\0\r", "€".encode(), b"a needle b"])
    if kind < 0.03:
        return generator.choice([b"", b"no stamp at all", b"[2025-07-15 10:30] STDOUT: short", text])
    if kind < 0.1:
        return stamp + b"SYSTEM 127.0.0.1:8080: " + text
    run = b"RUN#%d " % generator.randint(1, 99) if kind < 0.2 else b""
    return stamp + run + generator.choice([b"STDOUT: ", b"STDERR: "]) + text


def some_lines(generator: random.Random, count: int) -> List[bytes]:
    lines = []
    second = 1_752_575_445
    step = generator.choice([0.02, 0.5, 20])
    for _ in range(count):
        if generator.random() < step:
            second += generator.choice([1, 1, 1, 60, 3600 if step < 1 else 1])
        if generator.random() < 0.005:
            second -= generator.randint(1, 5000)  # clocks step back
        lines.append(a_line(generator, second))
    return lines


def a_query(generator: random.Random, lines: List[bytes]) -> LogQuery:
    def moment() -> str:
        line = generator.choice(lines)[1:20] if lines else b""
        if generator.random() < 0.8 and len(line) == 19 and line[:2] == b"20":
            return line.decode("latin-1")
        return generator.choice(["2025-07-15 11:00:00", "2020-01-01 00:00:00", "2030-01-01 00:00:00"])

    size = generator.choice([1, 7, 50, 10_000])
    parameters: Dict[str, str] = {
        "page": str(generator.randint(1, max(1, len(lines) // size // 2))),
        "page_size": str(size),
        "order": generator.choice(["asc", "desc"]),
    }
    if generator.random() < 0.4:
        parameters["stream"] = generator.choice(["stdout", "stderr", "system"])
    if generator.random() < 0.4:
        parameters["contains"] = generator.choice(["needle", "STDERR", "€", "not there", "\n"])
    for name in ("since", "until"):
        if generator.random() < 0.4:
            try:
                parameters[name] = moment()
                LogQuery.from_query(parameters)
            except Exception:
                del parameters[name]
    return LogQuery.from_query(parameters)


def test_pages_of_any_files_are_what_a_simple_reader_finds(tmp_path, small_entries):
    generator = seeded()
    for number in range(25):
        path = tmp_path / f"{number}.log"
        lines = some_lines(generator, generator.choice([0, 1, 30, 800]))
        rest = lines
        for rotated in range(generator.choice([0, 0, 3]), 0, -1):
            size = generator.randint(0, len(rest))
            (tmp_path / f"{number}.log.{rotated}").write_bytes(b"".join(line + b"\n" for line in rest[:size]))
            rest = rest[size:]
        path.write_bytes(b"".join(line + b"\n" for line in rest))
        log = make(path, 0, generator.choice([3, 10]))
        if generator.random() < 0.5:
            log.system("started")
            lines.append(lines_of(path)[-1])
        elif rest and rest[-1] and generator.random() < 0.3:
            os.truncate(path, os.path.getsize(path) - 1)  # torn by a crash
        for _ in range(25):
            query = a_query(generator, lines)
            assert log.page(query) == naive_page(lines, query), query
        log.close()


def test_pages_of_a_growing_log_are_what_a_simple_reader_finds(tmp_path, small_entries, monkeypatch):
    generator = seeded()
    for number in range(8):
        clock = Clock()
        monkeypatch.setattr(logline, "time", clock)
        path = tmp_path / f"{number}.log"
        path.write_bytes(b"".join(line + b"\n" for line in some_lines(generator, generator.choice([0, 200]))))
        log = make(path, generator.choice([0, 4096, 20_000]), generator.choice([0, 2, 100]))
        streams = [log.stream(b"STDOUT"), log.stream(b"STDERR"), log.stream(b"STDOUT", 7)]
        for _ in range(150):
            clock.now += generator.choice([0, 0, 0.3, 1, 100, -3])
            text = b"".join(
                generator.choice([b"needle", b"", b"\xff", b"y" * 50]) + b"\n" for _ in range(generator.randint(0, 40))
            )
            generator.choice(streams).feed(text)
            if generator.random() < 0.2:
                log.system("note")
            if generator.random() < 0.02:
                log.close()
            if generator.random() < 0.01:
                log.clear()
            if generator.random() < 0.3:
                lines = lines_of(path)
                query = a_query(generator, lines)
                assert log.page(query) == naive_page(lines, query), query
        lines = lines_of(path)
        for _ in range(20):
            query = a_query(generator, lines)
            assert log.page(query) == naive_page(lines, query), query
        log.close()


def test_the_index_costs_little_and_holds_an_entry_for_each_64_kib(tmp_path):
    line = b"[2025-07-15 10:30:45] STDOUT: " + b"x" * 69 + b"\n"
    (tmp_path / "a.log").write_bytes(line * 100_000)
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    for _ in range(100):
        stream.feed((b"y" * 69 + b"\n") * 1000)
    assert log.page(LogQuery())["total_lines"] == 200_000
    with log.reader.spans() as spans:
        for span in spans:
            sizes = [span.bounds(*group)[1] for group in span.groups()]
            assert sum(sizes) == 10_000_000 and max(sizes) < logindex.PIECE
    segment = log.view.segment
    for index in (segment.old, segment.new):
        assert 100 <= len(index.offsets) < 10_000_000 / logindex.ENTRY + 2
    log.close()


def test_a_page_reads_the_page_and_not_the_file(tmp_path, monkeypatch):
    line = b"[2025-07-15 10:30:45] STDOUT: " + b"x" * 69 + b"\n"
    (tmp_path / "a.log").write_bytes(line * 100_000)
    (tmp_path / "a.log.1").write_bytes(line * 100_000)
    log = make(tmp_path / "a.log")
    log.page(LogQuery())
    read: List[int] = []
    original = logspan.Handle.read

    def counting(self: logspan.Handle, offset: int, size: int) -> bytes:
        read.append(size)
        return original(self, offset, size)

    monkeypatch.setattr(logspan.Handle, "read", counting)
    monkeypatch.setattr(logread, "scan", None)
    for page in (1, 1700, 4000):
        assert len(log.page(LogQuery(page=page))["logs"]) == 50
    assert sum(read) < 6 * logindex.ENTRY
    read.clear()
    log.page(LogQuery(since="2025-07-15 10:30:46"))
    read.clear()
    assert log.page(LogQuery(since="2025-07-15 10:30:46"))["total_lines"] == 0
    assert log.page(LogQuery(until="2025-07-15 10:30:45", page_size=1))["total_lines"] == 200_000
    assert sum(read) < 2 * logindex.ENTRY
    log.close()


def test_what_is_not_utf_8_is_shown_and_kept(tmp_path):
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    stream.feed(b"\xff\xfe\0a\rb\r\n\x80\n")
    answer = log.page(LogQuery(order="asc"))
    assert [line[30:] for line in answer["logs"]] == ["\ufffd\ufffd\0a\rb\r", "\ufffd"]
    assert b"STDOUT: \xff\xfe\0a\rb\r\n[" in content(log.path)
    log.close()


def test_an_unfinished_line_is_shown_on_page_1(tmp_path):
    log = make(tmp_path / "a.log")
    out, err = log.stream(b"STDOUT"), log.stream(b"STDERR")
    assert "partial" not in log.page(LogQuery())
    out.feed(b"done\nYour name? ")
    answer = log.page(LogQuery())
    assert answer["partial"][22:] == "STDOUT: Your name? "
    assert len(answer["logs"]) == answer["total_lines"] == 1
    assert "partial" not in log.page(LogQuery(page=2))
    assert "partial" not in log.page(LogQuery(stream="stderr"))
    assert "partial" not in log.page(LogQuery(contains="else"))
    assert log.page(LogQuery(stream="stdout", contains="name"))["partial"]
    err.feed(b"and \xff")
    assert [part[22:] for part in log.page(LogQuery())["partial"].split("\n")] == [
        "STDOUT: Your name? ",
        "STDERR: and \ufffd",
    ]
    out.feed(b"Ann\n")
    err.close()
    answer = log.page(LogQuery())
    assert "partial" not in answer
    assert answer["logs"][1].endswith("Your name? Ann")
    log.close()


def test_a_stream_cannot_be_forged(tmp_path):
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    stream.feed(b"[2025-07-15 10:30:45] STDERR: forged\n\r[2025-07-15 10:30:45] SYSTEM 1.2.3.4:1: forged\n")
    stream.feed(b"x" * 65536 + b"[2025-07-15 10:30:45] STDERR: forged\n")
    assert log.page(LogQuery(stream="stderr"))["total_lines"] == 0
    assert log.page(LogQuery(stream="system"))["total_lines"] == 0
    assert log.page(LogQuery(stream="stdout"))["total_lines"] == 4
    log.close()


def test_readers_wait_for_no_lock_of_the_append_path(tmp_path):
    log = make(tmp_path / "a.log", 4096, 5)
    stream = log.stream(b"STDOUT")
    for i in range(500):
        stream.feed(b"%d\n" % i)
    done = threading.Event()

    def read() -> None:
        log.page(LogQuery())
        log.page(LogQuery(contains="1", since="2020-01-01 00:00:00", page_size=5))
        assert b"".join(log.raw_tail(100))
        follower = log.follow(LogQuery())
        lines = follower.read(1)[0]
        while len(lines) < 50:
            lines += follower.read(1)[0]
        follower.close()
        done.set()

    with log._lock:
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        assert done.wait(10)
    thread.join()
    log.close()


def test_a_page_does_not_wait_for_a_request_that_looks_at_all_stamps(tmp_path):
    (tmp_path / "a.log").write_bytes(b"[2025-07-15 10:30:45] STDOUT: x\n" * 1000)
    log = make(tmp_path / "a.log")
    assert log.page(LogQuery())["total_lines"] == 1000
    done = threading.Event()

    def read() -> None:
        log.page(LogQuery())
        log.page(LogQuery(contains="x"))
        done.set()

    with log.reader._lock:
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        assert done.wait(10)
    thread.join()


def test_a_file_that_changed_in_place_is_read_as_it_is(tmp_path):
    log = make(tmp_path / "a.log", 4096, 5)
    stream = log.stream(b"STDOUT")
    for i in range(500):
        stream.feed(b"%d\n" % i)
    log.page(LogQuery())
    with open(f"{log.path}.1", "wb") as file:
        file.write(b"something else\n")
    os.unlink(f"{log.path}.2")
    for order in ("asc", "desc"):
        query = LogQuery(order=order, page_size=10_000)
        assert log.page(query) == naive_page(lines_of(log.path), query)
    os.truncate(log.path, 0)
    assert log.page(LogQuery(page_size=1))["logs"] == ["something else"]
    log.close()


def test_a_log_that_nobody_writes_is_read_and_scanned_once(tmp_path, monkeypatch):
    lines = [b"[2025-07-15 10:30:45] STDOUT: %d" % i for i in range(1000)]
    (tmp_path / "a.log").write_bytes(b"\n".join(lines) + b"\n")
    log = make(tmp_path / "a.log")
    assert log.page(LogQuery())["total_lines"] == 1000
    monkeypatch.setattr(logread, "scan", None)
    assert log.page(LogQuery())["total_lines"] == 1000
    log.system("started")  # what is known of it stays known
    assert log.page(LogQuery())["total_lines"] == 1001
    monkeypatch.undo()
    log.close()


def test_trouble_with_reading_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.log").write_bytes(b"line\n")
    log = make(tmp_path / "a.log")

    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("exeio_core.logfiles.open_key", refuse)
    with pytest.raises(Failed, match="Permission denied"):
        log.page(LogQuery())

    def vanish(*args: object) -> int:
        raise Changed

    monkeypatch.setattr("exeio_core.logfiles.open_key", vanish)
    monkeypatch.setattr(logread, "_PAUSE", 0.0)
    with pytest.raises(Unavailable):
        log.page(LogQuery())


# The raw end of a log.


def test_raw_tail_gives_the_last_bytes_from_the_begin_of_a_line_on(tmp_path):
    generator = seeded()
    log = make(tmp_path / "a.log", 4096, 5)
    assert b"".join(log.raw_tail(100)) == b""
    stream = log.stream(b"STDOUT")
    for chunk in chunks(generator, b"".join(b"%d\n" % i for i in range(500)), 100):
        stream.feed(chunk)
    whole = content(log.path)
    assert len(files(log.path)) > 3
    assert b"".join(log.raw_tail()) == whole
    sizes = [0, 1, 10, 40, 4096, len(whole) - 1, len(whole), 10**9]
    for most in sizes + [generator.randint(0, 20_000) for _ in range(60)]:
        tail = b"".join(log.raw_tail(most))
        cut = max(len(whole) - most, 0)
        start = whole.find(b"\n", cut - 1) + 1 if cut else 0
        assert tail == whole[start:], most
    log.close()


def test_raw_tail_goes_on_while_files_are_rotated_away(tmp_path):
    """The rest of those that were deleted meanwhile was left out."""
    log = make(tmp_path / "a.log", 4096, 5)
    stream = log.stream(b"STDOUT")
    for i in range(1000):
        stream.feed(b"%d\n" % i)
    whole = content(log.path)
    pieces = log.raw_tail()
    got = [next(pieces)]
    for i in range(1000):
        stream.feed(b"later %d\n" % i)
    assert not set(whole.split(b"\n")[:-1]) & set(content(log.path).split(b"\n"))
    got += pieces
    assert b"".join(got) == whole
    log.close()


@with_proc
def test_a_raw_tail_that_meets_a_log_being_emptied_leaves_no_file_open(tmp_path, monkeypatch):
    log = make(tmp_path / "a.log")
    log.system("old")
    before = open_files(tmp_path)
    opened = logspan.Handle.fd

    def fd(handle):
        monkeypatch.undo()
        found = opened(handle)
        log.clear()
        log.system("new")
        return found

    monkeypatch.setattr(logspan.Handle, "fd", fd)
    assert b"new" in b"".join(log.raw_tail())
    assert open_files(tmp_path) == before
    log.close()


@with_proc
@pytest.mark.parametrize("read", [0, 1])
def test_a_raw_tail_that_is_not_read_to_its_end_leaves_no_file_open(tmp_path, read):
    log = make(tmp_path / "a.log", 4096, 5)
    stream = log.stream(b"STDOUT")
    for i in range(1000):
        stream.feed(b"%d\n" % i)
    before = open_files(tmp_path)
    pieces = log.raw_tail()
    for _ in range(read):
        next(pieces)
    assert open_files(tmp_path) > before
    pieces.close()
    assert open_files(tmp_path) == before
    log.close()


def open_files(folder):
    """How many descriptors of files in the folder this process has."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith(str(folder))
    return found


def test_a_search_that_takes_longer_than_rotations_finds_what_was_there_when_it_began(tmp_path, monkeypatch):
    log = make(tmp_path / "a.log", 4096, 3)
    stream = log.stream(b"STDOUT")
    for i in range(1000):
        stream.feed(b"%d\n" % i)
    expected = naive_page(lines_of(log.path), LogQuery(contains="9"))
    original = logspan.Handle.read

    def slow(self: logspan.Handle, offset: int, size: int) -> bytes:
        for _ in range(500):
            stream.feed(b"later\n")
        return original(self, offset, size)

    monkeypatch.setattr(logspan.Handle, "read", slow)
    assert log.page(LogQuery(contains="9")) == expected
    log.close()


def test_a_clear_in_the_middle_of_reading_gives_no_fragments(tmp_path, monkeypatch):
    log = make(tmp_path / "a.log")
    stream = log.stream(b"STDOUT")
    stream.feed(b"".join(b"before %d\n" % i for i in range(1000)))
    original = logspan.Handle.read

    def interrupted(self: logspan.Handle, offset: int, size: int) -> bytes:
        monkeypatch.setattr(logspan.Handle, "read", original)
        self.fd()
        log.clear()
        stream.feed(b"".join(b"after, and longer %d\n" % i for i in range(1000)))
        return original(self, offset, size)

    monkeypatch.setattr(logspan.Handle, "read", interrupted)
    assert log.page(LogQuery(page_size=10)) == naive_page(lines_of(log.path), LogQuery(page_size=10))
    log.close()


def test_a_file_is_not_taken_for_an_older_one_with_its_inode(tmp_path):
    log = make(tmp_path / "a.log")
    log.system("before")
    (known,) = log.reader.files()
    os.close(logspan.open_known(log, known))
    log.system("grown")
    os.close(logspan.open_known(log, known))
    log.clear()
    for _ in range(5):
        log.system("after")
    with pytest.raises(Changed):
        logspan.open_known(log, known)
    log.close()


def test_readers_wait_a_moment_while_a_rotation_goes_on(tmp_path, monkeypatch):
    log = make(tmp_path / "a.log")
    log.system("one")
    log.moving = True
    monkeypatch.setattr(logread, "_PAUSE", 0.0)
    with pytest.raises(Unavailable):
        log.page(LogQuery())
    monkeypatch.undo()
    timer = threading.Timer(0.02, setattr, [log, "moving", False])
    timer.start()
    assert log.page(LogQuery())["total_lines"] == 1
    timer.join()
    log.close()


@pytest.mark.parametrize("backups", [0, 2])
def test_files_that_are_rotated_away_and_inodes_that_are_given_again_confuse_no_reader(tmp_path, backups):
    log = make(tmp_path / "a.log", 6000, backups)
    stop = threading.Event()
    failures: List[BaseException] = []

    def check(lines: List[str]) -> None:
        numbers = [int(line.rsplit(" ", 1)[1]) for line in lines]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True

    def read() -> None:
        try:
            while not stop.is_set():
                check(log.page(LogQuery(page_size=300))["logs"][::-1])
                check(log.page(LogQuery(page_size=300, order="asc"))["logs"])
                check(log.page(LogQuery(contains="STD", page_size=300))["logs"][::-1])
                follower = log.follow(LogQuery(page_size=300))
                check([text for _, text in follower.read(0)[0]])
                follower.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    stream = log.stream(b"STDOUT")
    deadline = time.monotonic() + 0.7
    number = 0
    while time.monotonic() < deadline and not failures:
        stream.feed(b"".join(b"%d\n" % i for i in range(number, number + 120)))
        number += 120
        time.sleep(0.0005)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failures, failures
    log.close()


def test_some_lines_of_an_entry_are_those_of_all_of_them():
    generator = seeded()
    for _ in range(20_000):
        lines = [bytes(generator.choices(b"ab", k=generator.randint(0, 3))) for _ in range(generator.randint(1, 9))]
        if generator.random() < 0.5:
            data = b"\n".join(lines) + b"\n"
        else:
            lines[-1] = lines[-1] or b"x"  # what ends with an empty line ends with a newline
            data = b"\n".join(lines)
        first = generator.randrange(len(lines))
        last = generator.randint(first + 1, len(lines))
        assert logindex.some_of(data, first, last, len(lines)) == lines[first:last], (data, first, last)
