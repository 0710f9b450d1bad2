"""Hostile requests over raw sockets against the real server: the status, and whether the connection ends.

What each must not do: give a traceback, a 500 or a second answer, or have the request that hides in it served.
"""

import contextlib
import json
import re

import pytest
from http_helpers import RawClient
from support import Server

SECRET = b"the-key-of-the-hostile-test"
KEY = b"exeio-api-key: " + SECRET + b"\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
H2C = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


def get(path, *fields):
    return b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (path, b"".join(fields))


def head(path, *fields):
    return get(path, *fields).replace(b"GET", b"HEAD", 1)


def post(body, *fields, path=b"/add", length=None):
    size = len(body) if length is None else length
    fields = (KEY, *fields, b"Content-Length: %d\r\n" % size)
    return b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n%b" % (path, b"".join(fields), body)


# A whole request that hides in others: wherever a reader takes it for one, a process is there.
INNER = post(b'{"id": "smuggled", "command": "sleep", "args": ["60"]}')
TE = b"POST /add HTTP/1.1\r\nHost: a\r\n" + KEY


def chunked(*fields):
    """Chunks for one reader, an empty body and a second request for another."""
    return TE + b"".join(fields) + b"\r\n0\r\n\r\n" + INNER


def nobody(*fields):
    """A request of somebody without a key."""
    return b"POST /add HTTP/1.1\r\nHost: a\r\n%b\r\n" % b"".join(fields)


HOSTILE = {
    # Two lengths, or a wrong one
    "CL.CL, different": (TE + b"Content-Length: 0\r\nContent-Length: 80\r\n\r\n" + INNER, 400, True),
    "CL.CL, equal": (TE + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + INNER, 400, True),
    "CL list": (TE + b"Content-Length: 2, 2\r\n\r\n{}" + INNER, 400, True),
    "CL plus": (TE + b"Content-Length: +2\r\n\r\n{}", 400, True),
    "CL minus": (TE + b"Content-Length: -1\r\n\r\n" + INNER, 400, True),
    "CL hex": (TE + b"Content-Length: 0x2\r\n\r\n{}", 400, True),
    "CL fraction": (TE + b"Content-Length: 2.0\r\n\r\n{}", 400, True),
    "CL exponent": (TE + b"Content-Length: 1e1\r\n\r\n{}", 400, True),
    "CL underscore": (TE + b"Content-Length: 1_0\r\n\r\n{}", 400, True),
    "CL two numbers": (TE + b"Content-Length: 2 2\r\n\r\n{}", 400, True),
    "CL empty": (TE + b"Content-Length:\r\n\r\n" + INNER, 400, True),
    "CL word": (TE + b"Content-Length: two\r\n\r\n{}", 400, True),
    "CL superscript": (TE + b"Content-Length: \xb2\r\n\r\n{}", 400, True),
    "CL Arabic digit": (TE + b"Content-Length: \xd9\xa2\r\n\r\n{}", 400, True),
    "CL NUL": (TE + b"Content-Length: 2\0\r\n\r\n{}", 400, True),
    "CL vertical tab": (TE + b"Content-Length: \x0b2\r\n\r\n{}", 400, True),
    "CL in quotes": (TE + b'Content-Length: "2"\r\n\r\n{}', 400, True),
    "CL space before colon": (TE + b"Content-Length : 80\r\n\r\n" + INNER, 400, True),
    "CL tab before colon": (TE + b"Content-Length\t: 80\r\n\r\n" + INNER, 400, True),
    "CL folded": (TE + b"Content-Length:\r\n 80\r\n\r\n" + INNER, 400, True),
    "CL behind a folded line": (TE + b"X: y\r\n Content-Length: 80\r\n\r\n" + INNER, 400, True),
    "CL over 64 bits": (TE + b"Content-Length: 18446744073709551618\r\n\r\n" + INNER, 413, True),
    "CL of 5,000 digits": (TE + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + INNER, 413, True),
    "CL longer than allowed": (TE + b"Content-Length: 1048577\r\n\r\n" + INNER, 413, True),
    "CL of a GET hides a request": (get(b"/info", b"Content-Length: %d\r\n" % len(INNER)) + INNER, 200, False),
    "CL of a HEAD-like 404": (get(b"/none", KEY, b"Content-Length: %d\r\n" % len(INNER)) + INNER, 404, False),
    "CL of a refused key": (get(b"/list", b"Content-Length: %d\r\n" % len(INNER)) + INNER, 401, False),
    "CL of a refused key, body to come": (get(b"/list", b"Content-Length: 999\r\n") + INNER, 401, True),
    "CL.CL in one field, different": (TE + b"Content-Length: 0, 80\r\n\r\n" + INNER, 400, True),
    "CL with a comment": (TE + b"Content-Length: 2;a=b\r\n\r\n{}", 400, True),
    "CL full width digit": (TE + b"Content-Length: \xef\xbc\x92\r\n\r\n{}", 400, True),
    "CL in a name with a NUL": (TE + b"Content-\0Length: 80\r\n\r\n" + INNER, 400, True),
    "CL in a name with a CR": (TE + b"Content-Length\r: 80\r\n\r\n" + INNER, 400, True),
    "CL with an underscore is no CL": (TE + b"Content_Length: 80\r\n\r\n", 400, False),
    "CL and then a pipelined request": (post(b"{}") + b"GET /info\r\n", 400, False),
    # Transfer encodings
    "TE": (chunked(b"Transfer-Encoding: chunked\r\n"), 501, True),
    "CL.TE": (chunked(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"), 501, True),
    "TE.CL": (chunked(b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"), 501, True),
    "TE.TE": (chunked(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"), 501, True),
    "TE identity": (chunked(b"Transfer-Encoding: identity\r\n"), 501, True),
    "TE unknown": (chunked(b"Transfer-Encoding: xchunked\r\n"), 501, True),
    "TE empty": (chunked(b"Transfer-Encoding:\r\n"), 501, True),
    "TE list": (chunked(b"Transfer-Encoding: gzip, chunked\r\n"), 501, True),
    "TE upper case": (chunked(b"TRANSFER-ENCODING: CHUNKED\r\n"), 501, True),
    "TE behind a tab": (chunked(b"Transfer-Encoding:\tchunked\r\n"), 501, True),
    "TE in quotes": (chunked(b'Transfer-Encoding: "chunked"\r\n'), 501, True),
    "TE space before colon": (chunked(b"Transfer-Encoding : chunked\r\n"), 400, True),
    "TE tab before colon": (chunked(b"Transfer-Encoding\t: chunked\r\n"), 400, True),
    "TE vertical tab": (chunked(b"Transfer-Encoding: \x0bchunked\r\n"), 400, True),
    "TE form feed in the name": (chunked(b"Transfer-Encoding\x0c: chunked\r\n"), 400, True),
    "TE leading space": (chunked(b" Transfer-Encoding: chunked\r\n"), 400, True),
    "TE leading tab": (chunked(b"\tTransfer-Encoding: chunked\r\n"), 400, True),
    "TE folded": (chunked(b"Transfer-Encoding:\r\n chunked\r\n"), 400, True),
    "TE behind a bare LF": (chunked(b"X: y\nTransfer-Encoding: chunked\r\n"), 400, True),
    "TE behind a bare CR": (chunked(b"X: y\rTransfer-Encoding: chunked\r\n"), 400, True),
    "TE behind a NUL": (chunked(b"X: y\0Transfer-Encoding: chunked\r\n"), 400, True),
    "TE without colon": (chunked(b"Transfer-Encoding chunked\r\n"), 400, True),
    "TE in 1.0": (b"POST /add HTTP/1.0\r\n" + KEY + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
                  501, True),
    "TE with a chunk extension": (TE + b"Transfer-Encoding: chunked\r\n\r\n2;a=\n\r\n{}\r\n0\r\n\r\n" + INNER, 501,
                                  True),
    "TE with a chunk in bare LF": (TE + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n" + INNER, 501, True),
    "TE with a chunk of 0x": (TE + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n" + INNER, 501, True),
    "TE with a trailer": (TE + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 80\r\n\r\n" + INNER, 501, True),
    "TE of a GET": (get(b"/info", b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n" + INNER, 501, True),
    "TE of a HEAD": (head(b"/info", b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n" + INNER, 501, True),
    "bare LF of a HEAD": (b"HEAD /info HTTP/1.1\nHost: a\n\n" + INNER, 400, True),
    "TE with a semicolon": (chunked(b"Transfer-Encoding: chunked;q=1\r\n"), 501, True),
    "TE cut off": (chunked(b"Transfer-Encoding: chunke\r\n"), 501, True),
    "TE not ASCII": (chunked(b"Transfer-Encoding: chunk\xeb\x64\r\n"), 501, True),
    "TE twice in one": (chunked(b"Transfer-Encoding: chunked, chunked\r\n"), 501, True),
    "TE hidden by Connection": (chunked(b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n"), 501, True),
    "TE with an underscore is no TE": (TE + b"Transfer_Encoding: chunked\r\n\r\n", 400, False),
    # Lines and names
    "bare LF": (b"GET /info HTTP/1.1\nHost: a\n\n", 400, True),
    "bare LF after the request line": (b"GET /info HTTP/1.1\nHost: a\r\n\r\n", 400, True),
    "bare LF as the last line's end": (b"GET /info HTTP/1.1\r\nHost: a\n\r\n", 400, True),
    "bare LF as the empty line": (b"GET /info HTTP/1.1\r\nHost: a\r\n\n" + INNER, 400, True),
    "bare CR": (b"GET /info HTTP/1.1\rHost: a\r\r", 400, True),
    "CR CR LF": (b"GET /info HTTP/1.1\r\r\nHost: a\r\n\r\n", 400, True),
    "folded": (get(b"/info", b"X: y\r\n z\r\n"), 400, True),
    "folded first line": (b"GET /info HTTP/1.1\r\n Host: a\r\n\r\n", 400, True),
    "space in a name": (get(b"/info", b"X Y: z\r\n"), 400, True),
    "no colon": (get(b"/info", b"X\r\n"), 400, True),
    "no name": (get(b"/info", b": z\r\n"), 400, True),
    "NUL in a name": (get(b"/info", b"X\0: z\r\n"), 400, True),
    "NUL in a value": (get(b"/info", b"X: \0\r\n"), 400, True),
    "DEL in a value": (get(b"/info", b"X: \x7f\r\n"), 400, True),
    "escape in a value": (get(b"/info", b"X: \x1b[2J\r\n"), 400, True),
    "a name that is not ASCII": (get(b"/info", b"X\xc3\xa4: z\r\n"), 400, True),
    "parentheses in a name": (get(b"/info", b"X(): z\r\n"), 400, True),
    "two keys": (get(b"/list", b"exeio-api-key: x\r\n", KEY), 400, True),
    "two content types": (post(b"{}", b"Content-Type: application/json\r\n" * 2), 400, True),
    "a folded line of blanks alone": (get(b"/info", b"X: y\r\n \r\n"), 400, True),
    "a blank before the empty line": (b"GET /info HTTP/1.1\r\nHost: a\r\n \r\n" + INNER, 400, True),
    "a name of blanks": (get(b"/info", b" : z\r\n"), 400, True),
    "a key with a NUL": (get(b"/list", b"exeio-api-key: \0\r\n"), 400, True),
    "a key with a line end": (get(b"/list", b"exeio-api-key: a\rb\r\n"), 400, True),
    "a key that is not ASCII": (get(b"/list", b"exeio-api-key: \xff\xfe\r\n"), 401, False),
    "a key of 30,000 bytes": (get(b"/list", b"exeio-api-key: " + b"k" * 30000 + b"\r\n"), 401, False),
    "a key in the query": (get(b"/list?exeio-api-key=" + SECRET), 401, False),
    "a key in a cookie": (get(b"/list", b"Cookie: exeio-api-key=" + SECRET + b"\r\n"), 401, False),
    "an empty key": (get(b"/list", b"exeio-api-key:\r\n"), 401, False),
    # Request lines
    "HTTP/0.9": (b"GET /info\r\n", 400, True),
    "HTTP/0.9 and fields": (b"GET /info\r\nHost: a\r\n\r\n", 400, True),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, True),
    "HTTP/3.0": (b"GET /info HTTP/3.0\r\nHost: a\r\n\r\n", 505, True),
    "HTTP/1.2": (b"GET /info HTTP/1.2\r\nHost: a\r\n\r\n", 505, True),
    "HTTP/1.10": (b"GET /info HTTP/1.10\r\nHost: a\r\n\r\n", 400, True),
    "http/1.1": (b"GET /info http/1.1\r\nHost: a\r\n\r\n", 400, True),
    "HTTP-1.1": (b"GET /info HTTP-1.1\r\nHost: a\r\n\r\n", 400, True),
    "two spaces": (b"GET  /info HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "tabs": (b"GET\t/info\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "leading space": (b" GET /info HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "trailing space": (b"GET /info HTTP/1.1 \r\nHost: a\r\n\r\n", 400, True),
    "a request in the request line": (b"GET /info HTTP/1.1 POST /stop-all HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "two empty lines first": (b"\r\n\r\n" + get(b"/info"), 400, True),
    "LF first": (b"\n" + get(b"/info"), 400, True),
    "no method": (b"/info HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "a method with a slash": (b"G/T /info HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "an unknown method": (b"BREW /info HTTP/1.1\r\nHost: a\r\n\r\n", 401, False),
    "a method in lower case, with no body": (b"post /add HTTP/1.1\r\nHost: a\r\n" + KEY + b"\r\n", 405, False),
    "CONNECT": (b"CONNECT a:22 HTTP/1.1\r\nHost: a:22\r\n\r\nSSH", 501, True),
    "TLS on a plain port": (b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03" + b"\0" * 240, 400, True),
    "SSH on the port": (b"SSH-2.0-OpenSSH_9.6\r\n", 400, True),
    "binary": (bytes(range(256)), 400, True),
    "HTTP/2 preface with the key": (b"PRI * HTTP/2.0\r\n" + KEY + b"\r\nSM\r\n\r\n", 505, True),
    "HTTP/00001.1": (b"GET /info HTTP/00001.1\r\nHost: a\r\n\r\n", 400, True),
    "HTTP/1.1 and more": (b"GET /info HTTP/1.1x\r\nHost: a\r\n\r\n", 400, True),
    "HTTP/ alone": (b"GET /info HTTP/\r\nHost: a\r\n\r\n", 400, True),
    "a NUL in the request line": (b"GET /info\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "a vertical tab in the request line": (b"GET /info\x0bHTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "a byte over 127 in the method": (b"G\xc9T /info HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "an upgrade to HTTP/2": (get(b"/info", H2C), 200, False),
    "TRACE": (b"TRACE /info HTTP/1.1\r\nHost: a\r\n" + KEY + b"Cookie: a\r\n\r\n", 405, False),
    "another method in a field": (get(b"/shutdown", KEY, b"X-HTTP-Method-Override: POST\r\n"), 405, False),
    "memcached": (b"stats\r\nquit\r\n", 400, True),
    "SMTP": (b"EHLO a\r\n", 400, True),
    "PROXY protocol": (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + get(b"/info"), 400, True),
    # Targets
    "no slash": (b"GET info HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "asterisk": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "another scheme": (b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "user information": (b"GET http://u:p@a/info HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "no host in the target": (b"GET http:///info HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "fragment": (get(b"/info#x"), 400, True),
    "backslash": (get(b"/\\info"), 400, True),
    "not ASCII": (get("/ä".encode()), 400, True),
    "cut percent": (get(b"/info%4"), 400, True),
    "wrong percent": (get(b"/%zz"), 400, True),
    "NUL by percent": (get(b"/info%00"), 400, True),
    "CR LF by percent": (get(b"/info%0d%0aX:%20y"), 400, True),
    "slash by percent": (get(b"/..%2f..%2fetc"), 400, True),
    "overlong UTF-8": (get(b"/%c0%afinfo"), 400, True),
    "surrogate": (get(b"/%ed%a0%80"), 400, True),
    "dots": (get(b"/x/../list", KEY), 404, False),
    "two slashes": (get(b"//list", KEY), 404, False),
    "slash at the end": (get(b"/list/", KEY), 404, False),
    "a parameter twice": (get(b"/info?a=1&a=2"), 400, True),
    "a parameter without a name": (get(b"/info?=1"), 400, True),
    "authority for a GET": (b"GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400, True),
    "asterisk for OPTIONS without a key": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 401, False),
    "asterisk for OPTIONS": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n" + KEY + b"\r\n", 200, False),
    "an absolute target without a key": (b"GET http://a/list HTTP/1.1\r\nHost: a\r\n\r\n", 401, False),
    "an absolute target for TE": (b"POST http://b/add HTTP/1.1\r\nHost: a\r\n" + KEY + CHUNKS + INNER, 501, True),
    "a port that is none in the target": (b"GET http://a:b/info HTTP/1.1\r\nHost: a\r\n\r\n", 400, True),
    "/shutdown/ is not /shutdown": (post(b"", path=b"/shutdown/"), 404, False),
    "/SHUTDOWN is not /shutdown": (post(b"", path=b"/SHUTDOWN"), 404, False),
    "/shutdown;x is not /shutdown": (post(b"", path=b"/shutdown;x"), 404, False),
    "CR LF by percent in an id": (get(b"/status/a%0d%0ab", KEY), 400, True),
    "an id that climbs": (get(b"/logs/..", KEY), 404, False),
    "an id that climbs to a file": (get(b"/logs/..%5c..%5cx/raw", KEY), 404, False),
    # Hosts
    "no Host": (b"GET /info HTTP/1.1\r\n\r\n", 400, True),
    "two Hosts": (get(b"/info", b"Host: b\r\n"), 400, True),
    "Host with a path": (b"GET /info HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, True),
    "Host with a space": (b"GET /info HTTP/1.1\r\nHost: a b\r\n\r\n", 400, True),
    "Host with user information": (b"GET /info HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, True),
    "Host list": (b"GET /info HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, True),
    "empty Host twice": (b"GET /info HTTP/1.1\r\nHost:\r\nHost:\r\n\r\n", 400, True),
    "Host behind a blank": (b"GET /info HTTP/1.1\r\n Host: a\r\nX: y\r\n\r\n", 400, True),
    "Host and space before colon": (b"GET /info HTTP/1.1\r\nHost : a\r\n\r\n", 400, True),
    "Host not ASCII": (b"GET /info HTTP/1.1\r\nHost: \xe4\r\n\r\n", 400, True),
    "Host with a port of letters": (b"GET /info HTTP/1.1\r\nHost: a:b\r\n\r\n", 400, True),
    "no Host in an absolute target": (b"GET http://a/info HTTP/1.1\r\n\r\n", 400, True),
    # Sizes
    "long request line": (get(b"/" + b"a" * 8192), 414, True),
    "endless request line": (b"GET /" + b"a" * 20000, 414, True),
    "endless method": (b"A" * 9000, 414, True),
    "large head": (get(b"/info", b"X: " + b"y" * 32768 + b"\r\n"), 431, True),
    "endless head": (b"GET /info HTTP/1.1\r\n" + b"X: y\r\n" * 8000, 431, True),
    "101 fields": (get(b"/info", b"X: y\r\n" * 100), 431, True),
    "long name": (get(b"/info", b"X" * 33000 + b": y\r\n"), 431, True),
    "long Host": (b"GET /info HTTP/1.1\r\nHost: " + b"a" * 33000 + b"\r\n\r\n", 431, True),
    "long version": (b"GET /info HTTP/1." + b"1" * 8192 + b"\r\nHost: a\r\n\r\n", 414, True),
    "long query": (get(b"/info?a=" + b"a" * 8192), 414, True),
    "a thousand parameters": (get(b"/info?" + b"&".join(b"a%d=" % number for number in range(1000))), 400, False),
    # Bodies
    "another content type": (post(b"{}", b"Content-Type: text/plain\r\n"), 415, False),
    "a form": (post(b"a=b", FORM), 415, False),
    "compressed": (post(b"{}", b"Content-Encoding: gzip\r\n"), 415, False),
    "content type before size": (post(b"{}", FORM, length=2**30), 415, True),
    "another expectation": (post(b"{}", b"Expect: 200-ok\r\n"), 417, True),
    "a GET with a body": (get(b"/info", b"Content-Length: 2\r\n") + b"{}", 200, False),
    "a GET with a form": (get(b"/info", FORM, b"Content-Length: 3\r\n") + b"a=b", 200, False),
    "a HEAD with a body": (head(b"/info", b"Content-Length: %d\r\n" % len(INNER)) + INNER, 200, False),
    "an expectation and no key": (nobody(b"Expect: 100-continue\r\nContent-Length: 2\r\n"), 401, True),
    "an expectation and too much": (TE + b"Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n", 413, True),
    "an expectation and a wrong type": (TE + FORM + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", 415, True),
    "an expectation and no body": (get(b"/info", b"Expect: 100-continue\r\n"), 200, False),
    "an expectation twice": (post(b"{}", b"Expect: 100-continue\r\n" * 2), 417, True),
    "an expectation and more": (post(b"{}", b"Expect: 100-continue, x\r\n"), 417, True),
    "an empty expectation": (post(b"{}", b"Expect:\r\n"), 417, True),
    "an expectation of 100": (post(b"{}", b"Expect: 100\r\n"), 417, True),
    # JSON
    "a body cut off": (post(b'{"id": "a'), 400, False),
    "a body with more behind it": (post(b"{} {}"), 400, False),
    "an array": (post(b"[]"), 400, False),
    "a name twice": (post(b'{"id": "a", "id": "b"}'), 400, False),
    "a name twice, once escaped": (post(b'{"id": "a", "\\u0069d": "b"}'), 400, False),
    "NaN": (post(b'{"id": NaN}'), 400, False),
    "infinity": (post(b'{"period_seconds": 1e999}'), 400, False),
    "a number of 5,000 digits": (post(b'{"id": ' + b"9" * 5000 + b"}"), 400, False),
    "a lone surrogate": (post(b'{"id": "\\ud800"}'), 400, False),
    "deep arrays": (post(b'{"id": ' + b"[" * 100_000), 400, False),
    "deep objects": (post(b'{"a":' * 100_000), 400, False),
    "a NUL in a text": (post(b'{"id": "a\\u0000", "command": "true"}'), 400, False),
    "a raw line end in a text": (post(b'{"id": "a\n"}'), 400, False),
    "UTF-16": (post('{"id": "a"}'.encode("utf-16")), 400, False),
    "a byte order mark": (post(b'\xef\xbb\xbf{"id": "a"}'), 400, False),
    "overlong UTF-8 in a text": (post(b'{"id": "\xc0\xaf"}'), 400, False),
    "single quotes": (post(b"{'id': 'a'}"), 400, False),
    "a comment": (post(b'{"id": "a" /* b */}'), 400, False),
    "a mebibyte of blanks": (post(b" " * (1 << 20)), 400, False),
    "more body than said": (post(b"{}" + INNER[:-2], b"Connection: close\r\n", length=2), 400, True),
}


@pytest.fixture(scope="module")
def server():
    one = Server("-k", SECRET.decode(), "--no-echo").start()
    yield one
    one.close()


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(server, case):
    raw, status, closes = HOSTILE[case]
    with RawClient((server.host, server.port)) as client:
        found, headers, body = client.send(raw).answer(body=not raw.startswith(b"HEAD"))
        assert found == status, body
        assert headers["content-type"] == "application/json"
        if status >= 400 and body:
            answer = json.loads(body)
            assert (answer["success"], list(answer)) == (False, ["success", "message"])
            assert re.fullmatch("[^\n]{3,300}", answer["message"])
            assert SECRET.decode() not in answer["message"]
        assert (headers.get("connection") == "close") is closes
        if closes:
            assert client.closed()
        elif b"/info\r\n" not in raw:  # in step: the next answer is that of the next request
            assert json.loads(client.ask(get(b"/info"))[2])["name"] == "exeio"
            assert client.data == b""
    assert server.get("/list") == [], "what was smuggled in was served"


def test_the_table_is_long_enough_and_left_no_trace_but_of_wrong_keys(server):
    assert len(HOSTILE) >= 80
    lines = (server.logs / "exeio.log").read_text().splitlines()
    assert [line for line in lines[1:] if "a wrong API key was refused" not in line and " POST /" not in line] == []
    assert [line for line in server.stderr.splitlines() if not line.startswith("exeio: warning: ")] == []


@pytest.mark.parametrize("case", [
    "CL.TE", "bare LF", "CL of a GET hides a request", "large head", "more body than said", "deep arrays"])
def test_hostile_byte_by_byte(server, case):
    """What comes in pieces is judged as what comes at once."""
    raw, status, _ = HOSTILE[case]
    with RawClient((server.host, server.port)) as client:
        with contextlib.suppress(ConnectionError):  # the refusal may come before the end
            for start in range(0, len(raw), max(len(raw) // 150, 1)):
                client.send(raw[start : start + max(len(raw) // 150, 1)])
        assert client.answer()[0] == status


def test_a_poisoned_pipeline_is_answered_up_to_the_poison(server):
    with RawClient((server.host, server.port)) as client:
        client.send(*[get(b"/info")] * 50, get(b"/info", b"Content-Length : 5\r\n"), INNER, get(b"/info"))
        assert [client.answer()[0] for _ in range(51)] == [200] * 50 + [400]
        assert client.closed()
    assert server.get("/list") == []


def test_the_order_of_checks(server):
    """Each request is wrong in all that comes after, too; the first that is wrong is told."""
    wrong = b"exeio-api-key: wrong\r\n"
    large = b"Content-Length: 9999999\r\n\r\n"
    expect = b"Expect: 100-continue\r\n"
    for status, request in [
        (400, b"BREW /none HTTP/1.1\r\n" + wrong + FORM + expect + large),  # no Host: framing
        (401, b"BREW /none HTTP/1.1\r\nHost: a\r\n" + wrong + FORM + expect + large),
        (404, b"BREW /none HTTP/1.1\r\nHost: a\r\n" + KEY + FORM + expect + large),
        (405, b"BREW /add HTTP/1.1\r\nHost: a\r\n" + KEY + FORM + expect + large),
        (415, TE + FORM + expect + large),
        (413, TE + expect + large),
        (100, TE + expect + b"Content-Length: 2\r\n\r\n"),
        (400, post(b"[]")),
    ]:
        with RawClient((server.host, server.port)) as client:
            assert client.send(request).answer()[0] == status, request
            if status == 100:
                assert client.ask(b"[]")[0] == 400, "the body, and then its JSON"
