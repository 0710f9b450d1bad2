"""Two seconds of fuzz_http.py; CI runs it for longer, with a seed of each day's own."""

import re

import fuzz_http
import pytest


def test_whatever_is_sent_the_answer_is_a_clean_one(servers):
    told = fuzz_http.fuzz(2, 20240911, servers("-k", fuzz_http.KEY, "--no-echo"))
    counts = [int(number) for number in re.findall(r"\d+", told)]
    assert len(counts) == 6 and min(counts) > 0, told  # of each kind, and on both sides of what is right


@pytest.mark.parametrize("data", [
    b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", b"<html>", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}x"])
def test_the_fuzzer_itself_sees_what_is_wrong(data):
    assert fuzz_http.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" * 2) == [200, 200]
    with pytest.raises((AssertionError, KeyError)):
        fuzz_http.answers(data)
