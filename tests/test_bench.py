"""The pure parts of the bench: figures, ratios and the table, and what its clients send."""

import threading

import bench_wire
import pytest
from bench_compare import Line, behind, cell, shown, table


@pytest.mark.parametrize("figure, unit, text", [
    (None, "s", "–"), (2.5, "s", "2.5 s"), (0.0123, "s", "12.3 ms"), (0.000456, "s", "456 µs"), (0, "", "0"),
    (12345.6, "/s", "12,346 /s"), (31.42, "MB", "31.4 MB"),
])
def test_a_figure_has_three_digits_and_its_unit(figure, unit, text):
    assert shown(figure, unit) == text


def test_a_ratio_says_how_many_times_better_exeio_is():
    time = Line("start", "s", {"exeio": 0.1, "pm2": 0.25, "circus": 0.05, "none": None})
    rate = Line("calls", "/s", {"exeio": 6000.0, "pm2": 120.0}, "more")
    assert [cell(time, name) for name in ("exeio", "pm2", "circus", "none", "absent")] == [
        "100 ms", "250 ms (2.5 ×)", "50 ms (0.5 ×)", "–", "–"]
    assert cell(rate, "pm2") == "120 /s (50 ×)"
    assert cell(Line("page", "s", {"exeio": 1.0, "pm2": 0.001}), "pm2") == "1 ms (< 0.01 ×)"
    assert cell(Line("wake-ups", "", {"exeio": 0.0, "pm2": 7.0}), "pm2") == "7"  # no ratio to nothing


def test_rows_in_which_exeio_is_behind_are_named():
    lines = [Line("a", "s", {"exeio": 1.0, "bare limit": 0.5, "x": 2.0, "y": None}),
             Line("b", "/s", {"exeio": 1.0, "x": 2.0, "y": 0.5}, "more")]
    assert behind(lines) == ["b: x"]
    assert table(lines, ["exeio", "x"]).splitlines() == [
        "|  | exeio | x |", "| --- | ---: | ---: |", "| a | 1 s | 2 s (2 ×) |", "| b | 1 /s | 2 /s (0.5 ×) |"]


def test_frames_of_zmtp_and_messages_of_amp():
    assert bench_wire.zmtp_frame(b"x") == b"\x00\x01x"
    assert bench_wire.zmtp_frame(b"x" * 300)[:9] == b"\x02" + (300).to_bytes(8, "big")
    message = bench_wire.amp_message("ping", [{}], 7)
    assert message[:1] == b"\x12" and message.endswith(b"\x00\x00\x00\x05s:x:7")
    assert b'j:{"type": "call", "method": "ping", "args": [{}]}' in message


def test_words_come_through_the_fifo_until_the_last_holder_has_closed_it(tmp_path):
    words = bench_wire.Words(str(tmp_path / "words"))
    with open(words.path, "wb") as holder:
        holder.write(b"1\n2\n3\n")
        holder.flush()
        assert words.take(2, 10) == [b"1", b"2"]
        waiting = threading.Thread(target=words.wait_until_closed, args=(10,))
        waiting.start()
    waiting.join()
    assert words.take(1, 10) == [b"3"]
    words.close()
