"""`--echo`: prefixed lines on stdout, in colour on a terminal; a stalled stdout loses lines, and stops no process."""

import os
import re
import select

import pytest
from support import wait_for

from exeio_core.echo import QUEUE_LIMIT, Echo


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        os.close(fd)


def echoed(pipe, blocks, coloured=False):
    echo = Echo(pipe[1], coloured)
    for id, block in blocks:
        echo.lines(id, block)
    echo.start()
    echo.open()
    echo.close(10)
    return os.read(pipe[0], 1 << 20)


def test_each_line_has_its_process(pipe):
    assert echoed(pipe, [("web", b"a\n\nb\n"), ("db", b"c\n")]) == b"[web] a\n[web] \n[web] b\n[db] c\n"


def test_colours_tell_processes_apart_and_leave_the_text_alone(pipe):
    text = echoed(pipe, [("web", b"a\nb\n")], coloured=True)
    lines = re.findall(rb"\033\[(\d+)m\[web\] \033\[0m(.)\n", text)
    assert [line for _, line in lines] == [b"a", b"b"]
    assert len({colour for colour, _ in lines}) == 1


def test_raw_lines_are_as_they_were_written(pipe):
    echo = Echo(pipe[1], coloured=True, raw=True)
    echo.lines("web", b'{"a": 1}\n\n')
    echo.lines("db", b"c\n")
    echo.start()
    echo.open()
    echo.close(10)
    assert os.read(pipe[0], 1 << 20) == b'{"a": 1}\n\nc\n'


def test_what_is_lost_of_raw_lines_is_said_on_stderr(pipe, capfd):
    echo = Echo(pipe[1], False, raw=True)
    for _ in range(QUEUE_LIMIT // 1024 + 3):
        echo.lines("big", b"x" * 1023 + b"\n")
    echo.start()
    echo.open()
    text = b""
    while len(text) < QUEUE_LIMIT:
        text += os.read(pipe[0], 1 << 20)
    echo.close(10)
    assert set(text) == set(b"x\n")
    assert capfd.readouterr().err == "[exeio] stdout was too slow: 3 lines are not shown\n"


def test_no_line_comes_before_the_banner(pipe):
    """Saved processes are started before it, and what they wrote at once stood above it."""
    echo = Echo(pipe[1], False)
    echo.start()
    echo.lines("web", b"early\n")
    assert not select.select([pipe[0]], [], [], 0.1)[0]
    echo.open()
    assert os.read(pipe[0], 100) == b"[web] early\n"
    echo.close(10)


def test_a_stalled_stdout_drops_lines_and_says_how_many(pipe):
    echo = Echo(pipe[1], False)
    echo.start()
    echo.open()
    line = b"x" * 1023 + b"\n"
    sent = 4 * QUEUE_LIMIT // len(line)
    for _ in range(sent):
        echo.lines("big", line)  # returns though nobody reads
    text = b""
    # It may have taken a part of the queue when others were dropped already: then it says so more than once.
    while text.count(b"[big] ") + dropped(text) < sent:
        text += os.read(pipe[0], 1 << 20)
    echo.close(10)
    shown = text.count(b"[big] ")
    assert 0 < shown < sent and shown + dropped(text) == sent


def test_a_terminal_that_another_program_made_non_blocking_is_waited_for(pipe):
    os.set_blocking(pipe[1], False)
    echo = Echo(pipe[1], False)
    sent = b"x" * 1023 + b"\n"
    for _ in range(500):
        echo.lines("big", sent)
    echo.start()
    echo.open()
    text = b""
    while text.count(b"\n") < 500:
        text += os.read(pipe[0], 1 << 20)
    echo.close(10)
    assert text == (b"[big] " + sent) * 500


def dropped(text):
    return sum(map(int, re.findall(rb"\[exeio\] stdout was too slow: (\d+) lines are not shown\n", text)))


def test_a_reader_that_is_gone_ends_the_echo_alone():
    read, write = os.pipe()
    os.close(read)
    echo = Echo(write, False)
    echo.start()
    echo.open()
    echo.lines("web", b"a\n")
    echo.close(10)
    echo.lines("web", b"b\n")
    os.close(write)
    assert not echo._thread.is_alive()


def test_the_server_echoes_what_processes_write(servers):
    server = servers("--echo")
    server.sh("web", "echo out; echo err >&2; exec sleep 100")
    wait_for(lambda: {"[web] out", "[web] err"} <= set(server.stdout.splitlines()))
    raw = servers("--echo=raw")
    raw.sh("web", "echo out; echo err >&2; exec sleep 100")
    wait_for(lambda: {"out", "err"} <= set(raw.stdout.splitlines()))
    quiet = servers("--no-echo")
    quiet.sh("web", "echo out; exec sleep 100")
    wait_for(lambda: "STDOUT: out" in quiet.log("web"))
    assert "[web]" not in quiet.stdout
