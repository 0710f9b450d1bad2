"""The parser of HTTP heads: what it reads and what it refuses; for all else see test_fuzz_http.py."""

import time

import pytest

from exeio_core import http_head
from exeio_core.http_head import Head, HttpError, check_beginning, parse_head

HOST = b"Host: localhost:8080\r\n"


def head(line, *fields, host=True):
    return line + b"\r\n" + (HOST if host else b"") + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def get(target, *fields):
    return parse_head(head(b"GET " + target + b" HTTP/1.1", *fields))


def refusal(raw):
    with pytest.raises(HttpError) as caught:
        parse_head(raw)
    assert caught.value.close
    assert str(caught.value) == caught.value.message
    return caught.value


# What is read


def test_a_head_is_taken_apart():
    read = parse_head(head(
        b"POST /logs/a%C3%A4?page=2&x=%26+y&flag HTTP/1.1", b"Content-Length:  12 ", b"X-Two:a", b"x-two: b"))
    assert read == Head(
        method="POST", path="/logs/aä", query={"page": "2", "x": "& y", "flag": ""},
        fields={b"host": b"localhost:8080", b"content-length": b"12", b"x-two": b"a, b"},
        keep_alive=True, content_length=12, expect_continue=False,
        raw_target=b"/logs/a%C3%A4?page=2&x=%26+y&flag", version=(1, 1))


@pytest.mark.parametrize(("target", "path", "query"), [
    (b"/", "/", {}),
    (b"/?", "/", {}),
    (b"/a?&&b=1&", "/a", {"b": "1"}),
    (b"/a?b=c=d", "/a", {"b": "c=d"}),
    (b"/shutdown/", "/shutdown/", {}),
    (b"//x", "//x", {}),
    (b"/a/../b", "/a/../b", {}),
    (b"/%41%7e", "/A~", {}),
    (b"/a?q=[x]|{y}^`\\", "/a", {"q": "[x]|{y}^`\\"}),
    (b"/a?q=%00%0a", "/a", {"q": "\0\n"}),
    (b"http://host", "/", {}),
    (b"http://host:80?a=b", "/", {"a": "b"}),
    (b"HTTPS://[::1]:8080/a?b", "/a", {"b": ""}),
])
def test_targets(target, path, query):
    read = get(target)
    assert (read.path, read.query, read.raw_target) == (path, query, target)


def test_the_asterisk_is_for_options_alone():
    assert parse_head(head(b"OPTIONS * HTTP/1.1")).path == "*"
    assert parse_head(head(b"OPTIONS http://h HTTP/1.1")).path == "*"
    assert refusal(head(b"GET * HTTP/1.1")).status == 400


@pytest.mark.parametrize(("version", "fields", "kept"), [
    (b"1.1", [], True), (b"1.1", [b"Connection: close"], False), (b"1.1", [b"Connection: Foo, CLOSE"], False),
    (b"1.1", [b"Connection: foo", b"Connection: close"], False), (b"1.1", [b"Connection: keep-alive, close"], False),
    (b"1.1", [b"Connection: closed"], True),
    (b"1.0", [], False), (b"1.0", [b"Connection: Keep-Alive"], True), (b"1.0", [b"Connection: keep-alive, close"],
    False),
])
def test_keep_alive(version, fields, kept):
    assert parse_head(head(b"GET / HTTP/" + version, *fields)).keep_alive is kept


def test_version_1_0_needs_no_host_and_knows_no_expectations():
    read = parse_head(head(b"GET / HTTP/1.0", b"Expect: 100-continue", host=False))
    assert (read.version, read.expect_continue) == ((1, 0), False)


def test_expectations():
    assert get(b"/", b"Expect: 100-Continue").expect_continue
    assert refusal(head(b"GET / HTTP/1.1", b"Expect: a cake")).status == 417


@pytest.mark.parametrize(("text", "length"), [(b"0", 0), (b"007", 7), (b"1048577", 1048577), (b"9" * 5000, 10**18)])
def test_content_length(text, length):
    assert get(b"/", b"Content-Length: " + text).content_length == length


@pytest.mark.parametrize("host", [b"", b"a.example", b"A_b:1", b"[::1]", b"[::1]:8080", b"127.0.0.1:",
b"%2Ftmp%2Fsock"])
def test_hosts(host):
    assert parse_head(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").fields[b"host"] == host


def test_field_values_keep_their_bytes():
    assert get(b"/", b"exeio-api-key:\t k\xc3\xa4y\xff \t").fields[b"exeio-api-key"] == b"k\xc3\xa4y\xff"


# What is refused


@pytest.mark.parametrize("target", [
    b"", b"a", b"*", b"/a#b", b"/a b", b"/\xc3\xa4", b"/a\x7f",
    b'/"', b"/<", b"/a|b", b"/a\\b", b"/%", b"/%4", b"/%zz", b"/%-1",
    b"/%u0041", b"/%ff", b"/%c0%af", b"/%ed%a0%80", b"/%00", b"/%0d%0a", b"/%7f", b"/a%2fb", b"/a%2Fb",
    b"/?a=%", b"/?a=%f", b"/?a=%ff", b"/?a=1&a=2", b"/?a=1&%61=2", b"/?=1", b"/?a#b", b'/?"', b"/?\xff",
    b"http://", b"http:///a", b"http://:80/", b"http://u@h/", b"http://h:x/", b"ftp://h/", b"//[/?a=%",
    b"localhost:80", b"http:/a",
])
def test_bad_targets(target):
    assert refusal(head(b"GET " + target + b" HTTP/1.1")).status == 400


def test_a_repeated_parameter_is_named():
    assert "'page'" in refusal(head(b"GET /?page=1&%70age=1 HTTP/1.1")).message


@pytest.mark.parametrize(("raw", "status"), [
    (b"GET / HTTP/2.0\r\n\r\n", 505), (b"PRI * HTTP/2.0\r\n\r\n", 505), (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    (b"GET / HTTP/0.9\r\n\r\n", 505), (b"GET /\r\n\r\n", 400), (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400), (b"GET / HTTP/1\r\nHost: a\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400), (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400), (b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400), (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (b"\r\n\r\n", 400), (b"", 400), (b"GET / HTTP/1.1\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nHost: a\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest", 400), (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400), (b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
])
def test_bad_request_lines_and_ends(raw, status):
    assert refusal(raw).status == status


@pytest.mark.parametrize(("field", "status"), [
    (b"Transfer-Encoding: chunked", 501), (b"transfer-encoding: identity", 501), (b"Transfer-Encoding:", 501),
    (b"Content-Length: +5", 400), (b"Content-Length: -1", 400), (b"Content-Length: 5, 5", 400),
    (b"Content-Length: 0x5", 400),
    (b"Content-Length: 5 5", 400), (b"Content-Length:", 400), (b"Content-Length: \xb2", 400),
    (b"Content-Length: 1_0", 400),
    (b"Host: b", 400), (b"no colon", 400), (b": empty", 400), (b"a b: c", 400), (b"a : b", 400), (b" folded: b", 400),
    (b"\tfolded", 400), (b"a\x00: b", 400), (b"a: b\x00", 400), (b"a: \x0b", 400), (b"a: \x7f", 400), (b"a(: b", 400),
    (b"\xe4: b", 400), (b"exeio-api-key: a\r\nExeio-Api-Key: b", 400), (b"Content-Length: 1\r\ncontent-length: 1",
    400),
    (b"Content-Type: a\r\nContent-Type: b", 400),
])
def test_bad_fields(field, status):
    assert refusal(head(b"POST / HTTP/1.1", field)).status == status


@pytest.mark.parametrize("host", [b"a b", b"a/b", b"u@a", b"http://a", b"a:b", b"[::1", b"::1", b"a:123456", b"\xe4",
b"a?", b"%zz"])
def test_bad_hosts(host):
    assert refusal(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").status == 400


def test_limits_are_exact():
    line = b"GET /" + b"a" * (8192 - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"
    assert len(parse_head(head(line)).path) == 8192 - len(b"GET  HTTP/1.1")
    assert refusal(head(line.replace(b"/a", b"/aa"))).status == 414
    assert len(get(b"/", *[b"a%d: b" % n for n in range(99)]).fields) == 100
    assert refusal(head(b"GET / HTTP/1.1", *[b"a: b"] * 100)).status == 431
    filler = b"a: " + b"b" * (32768 - len(head(b"GET / HTTP/1.1", b"a: ")))
    assert len(get(b"/", filler).fields[b"a"]) == len(filler) - 3
    assert refusal(head(b"GET / HTTP/1.1", filler + b"b")).status == 431


# Beginnings


@pytest.mark.parametrize("data", [b"", b"G", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r",
b"GET / HTTP/1.1\r\nHost: a\r\n\r"])
def test_a_beginning_that_may_become_a_head_is_waited_for(data):
    check_beginning(data)


@pytest.mark.parametrize(("data", "status"), [
    (b"GET /\r\n", 400), (b"PRI * HTTP/2.0\r\n", 505), (b"GET / HTTP/1.1\n", 400), (b"GET / HTTP/1.1\r\nA: b\n", 400),
    (b"GET / HTTP/1.1\rA", 400), (b"\x16\x03\x01\x02", 400), (b"GET /" + b"a" * 8192, 414),
    (b"GET / HTTP/1.1\r\n" + b"a" * 32768, 431),
])
def test_a_beginning_that_is_wrong_is_refused_at_once(data, status):
    with pytest.raises(HttpError) as caught:
        check_beginning(data)
    assert (caught.value.status, caught.value.close) == (status, True)


# In general


def test_the_same_bytes_are_parsed_once_and_memory_is_bounded():
    raw = head(b"GET /same HTTP/1.1")
    assert parse_head(raw) is parse_head(bytes(bytearray(raw)))
    for number in range(1000):
        parse_head(head(b"GET /%d HTTP/1.1" % number))
    assert len(http_head._seen) <= 64


def test_a_head_is_parsed_in_under_50_microseconds():
    raw = head(b"GET /logs/web?page=1 HTTP/1.1", b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)", b"Accept: */*",
               b"Accept-Encoding: gzip, deflate", b"Accept-Language: en", b"exeio-api-key: " + b"k" * 43)
    best = 1.0
    for _ in range(20):  # the best of some: the machine may be busy
        begin = time.perf_counter()
        for _ in range(50):
            http_head._parse(raw)
        best = min(best, (time.perf_counter() - begin) / 50)
    assert best < 50e-6
