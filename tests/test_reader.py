"""A pipe of output in exeio's hands: it stays open, its reader is woken through it, and a child's bytes stay whole."""

import errno
import os
import select
import sys
import threading

import pytest
from support import NOT_HERE, wait_for

from exeio_core import pipes, reader
from exeio_core.pipes import Pipes
from exeio_core.reader import Reader

CALL = reader._CALL


class Stream:
    """A log that keeps what it is fed."""

    def __init__(self):
        self.fed = b""
        self.held = b""

    def feed(self, data):
        self.fed += data

    def close(self):
        pass

    def partial(self):
        return self.held


@pytest.fixture(params=["both ways", "held"])
def made(request, monkeypatch):
    """Pipes of a child, also as they are where a pipe cannot be opened anew."""
    if request.param == "held":
        given = os.open

        def without_proc(path, *arguments, **more):
            if str(path).startswith("/proc/self/fd"):
                raise FileNotFoundError(path)
            return given(path, *arguments, **more)

        monkeypatch.setattr(pipes.os, "open", without_proc)
    ends = Pipes(with_stdin=True)
    assert (ends.held_stderr is not None) == (request.param == "held")
    child = Child(os.dup(ends.child_stderr))
    if ends.held_stderr is None:
        os.close(ends.child_stderr)
    yield Reader(ends.stderr, ends.held_stderr, Stream()), child
    child.end()
    if ends.held_stdout is not None:
        ends.held_stdout.wake.close()
    for fd in (ends.stdin, ends.child_stdin, ends.stdout, ends.child_stdout):
        os.close(fd)


@pytest.fixture
def both(tmp_path):
    """Pipes that are open both ways, which is all that calls go through."""
    if not sys.platform.startswith("linux"):
        pytest.skip(NOT_HERE + "/proc")
    ends = Pipes(with_stdin=False)
    assert ends.held_stderr is None
    child = Child(ends.child_stderr)
    yield Reader(ends.stderr, None, Stream()), child
    child.end()
    os.close(ends.stdout)
    os.close(ends.child_stdout)


class Child:
    """Who writes to the pipe."""

    def __init__(self, stderr):
        self.stderr = stderr

    def write(self, data):
        return os.write(self.stderr, data)

    def end(self):
        if self.stderr >= 0:
            os.close(self.stderr)
        self.stderr = -1


def waiting(one, looked):
    """A thread that serves `one` until it is closed; `looked` counts how often it has come round."""
    poll = select.poll()
    one.register(poll)

    def loop():
        while one.open and not looked.over:
            looked.count += 1
            for _, event in one.wait(poll):
                one.serve(event)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    wait_for(lambda: one._waits)
    return thread


class Looked:
    count = 0
    over = False


def test_a_pipe_stays_open_without_the_child(made):
    one, child = made
    child.end()
    assert ready(one) == [] and one.open
    one.close()


def ready(one):
    """What poll(2) says of its pipe now."""
    poll = select.poll()
    poll.register(one.fd, select.POLLIN)
    return [event for _, event in poll.poll(0)]


def test_it_ends_when_it_is_released_and_its_last_writer_has_gone(made):
    one, child = made
    child.write(b"last words")
    one.release()
    one.release()
    [event] = ready(one)
    one.serve(event)
    assert ready(one) == [] and one.open, "its writer is still there"
    child.end()
    [event] = ready(one)
    one.serve(event)
    assert (one._stream.fed, one.open) == (b"last words", False)
    one.close()


def test_a_call_wakes_who_waits_and_is_no_output(made):
    one, child = made
    looked = Looked()
    thread = waiting(one, looked)
    for number in range(1, 6):
        one.call()
        wait_for(lambda number=number: looked.count == number + 1 and one._waits)
    child.write(b"one\n")
    wait_for(lambda: one._stream.fed == b"one\n")
    looked.over = True
    one.call()
    thread.join(10)
    assert not thread.is_alive() and one._stream.fed == b"one\n"
    one.close()


def test_one_that_is_released_hears_a_call_too(made):
    """What was let alone goes on, and its log is purged, or exeio ends."""
    one, child = made
    one.release()
    looked = Looked()
    thread = waiting(one, looked)
    looked.over = True
    one.call()
    thread.join(10)
    assert not thread.is_alive() and one._stream.fed == b"" and child.stderr >= 0
    one.close()


def test_calls_that_nobody_has_heard_are_one(both):
    one, _ = both
    for _ in range(3):
        one.call()
    assert os.read(one.fd, 100) == CALL
    one.close()


def test_a_call_that_somebody_else_has_read_is_repeated(both):
    """`cat /proc/PID/fd/1` takes what it finds there."""
    one, _ = both
    looked = Looked()
    one._called = True  # as one that was taken out before the thread has woken up
    thread = waiting(one, looked)
    looked.over = True
    one.call()
    thread.join(10)
    assert not thread.is_alive()
    one.close()


def test_a_full_pipe_needs_no_call_and_nothing_is_lost(both):
    one, child = both
    os.set_blocking(child.stderr, False)
    written = b""
    while True:
        try:
            written += b"x" * child.write(b"x" * 4096)
        except BlockingIOError:
            break
    one.call()
    assert not one._called
    one.drain()
    assert one._stream.fed == written
    one.call()
    child.write(b"behind")
    one.drain()
    assert one._stream.fed == written + b"behind"
    one.close()


def test_what_was_kept_back_for_a_call_that_does_not_come_is_output(both):
    """A last byte like the first of a call, just when somebody calls."""
    one, child = both
    one._called = True
    child.write(b"last" + CALL[:1])
    one.drain()
    assert one._stream.fed == b"last" and not one.quiet()
    one.flush()
    assert one._stream.fed == b"last" + CALL[:1]
    one.close()


@pytest.mark.parametrize("cut", range(1, len(CALL)))
def test_a_call_that_is_read_in_two_pieces_is_taken_out(cut):
    """Where a block ends is chance."""
    ours, childs = os.pipe()
    one = Reader(ours, None, Stream())
    one._called = True
    for piece in (b"before" + CALL[:cut], CALL[cut:] + b"behind"):
        os.write(childs, piece)
        one.read()
    assert (one._stream.fed, one._called) == (b"beforebehind", False)
    os.close(childs)
    one.close()


def test_what_only_begins_like_a_call_is_output():
    ours, childs = os.pipe()
    one = Reader(ours, None, Stream())
    one._called = True
    for piece in (b"a" + CALL[:3], b"b" + CALL[:5], CALL, CALL[:2], b"c" + CALL[:1]):
        os.write(childs, piece)
        one.read()
    assert not one._called
    assert one._stream.fed == b"a" + CALL[:3] + b"b" + CALL[:5] + CALL[:2] + b"c" + CALL[:1]
    os.close(childs)
    one.close()


def test_a_stream_is_quiet_when_all_that_was_in_its_pipe_is_in_the_log(made):
    one, child = made
    stream, looked = one._stream, Looked()
    assert not one.quiet(), "nobody has looked yet"
    thread = waiting(one, looked)
    assert one.quiet()
    stream.held = b"half a line"
    assert not one.quiet()
    stream.held = b""
    held_up, go_on = threading.Event(), threading.Event()

    def feed(data):
        held_up.set()
        assert go_on.wait(10)
        stream.fed += data

    stream.feed = feed
    child.write(b"a line\n")
    assert held_up.wait(10)
    assert not one.quiet(), "it is taken out, and not in the log yet"
    go_on.set()
    wait_for(one.quiet)
    assert stream.fed == b"a line\n"
    looked.over = True
    one.call()
    thread.join(10)
    one.close()


def test_nothing_is_left_open_where_there_is_no_descriptor(monkeypatch):
    before = len(os.listdir("/dev/fd"))
    given, left = os.pipe, [1, 2]

    def pipe():
        if not left:
            raise OSError(errno.EMFILE, "Too many open files")
        left.pop()
        return given()

    with monkeypatch.context() as patch:
        patch.setattr(pipes.os, "pipe", pipe)
        with pytest.raises(OSError):
            Pipes(with_stdin=True)
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("lacking", [1, 2])
def test_nothing_is_left_open_where_there_is_no_descriptor_to_open_one_anew(monkeypatch, lacking):
    before = len(os.listdir("/dev/fd"))
    given, opened = os.open, []

    def open_anew(path, *arguments, **more):
        opened.append(path)
        if len(opened) == lacking:
            raise OSError(errno.EMFILE, "Too many open files")
        return given(path, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(pipes.os, "open", open_anew)
        with pytest.raises(OSError):
            Pipes(with_stdin=True)
    assert len(os.listdir("/dev/fd")) == before
