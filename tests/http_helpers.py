"""Clients that speak HTTP byte by byte, as no library would."""

import re
import socket


class RawClient:
    """A connection that sends bytes as they are, and takes answers apart; each wait ends after 5 seconds.

    `address` is a path for a Unix socket.
    """

    def __init__(self, address):
        is_path = isinstance(address, str)
        family = socket.AF_UNIX if is_path else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.settimeout(5)
        self.data = b""
        try:
            self.sock.connect(address)
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))
        return self

    def more(self):
        data = self.sock.recv(65536)
        self.data += data
        return bool(data)

    def until(self, end):
        while end not in self.data:
            assert self.more(), self.data
        before, _, self.data = self.data.partition(end)
        return before

    def answer(self, body=True):
        """The next answer: its status, its headers by lower-case names, its body."""
        first, *lines = self.until(b"\r\n\r\n").decode("ascii").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", first)
        assert match, first
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", "0")) if body else 0
        while len(self.data) < length:
            assert self.more(), self.data
        content, self.data = self.data[:length], self.data[length:]
        return int(match[1]), headers, content

    def ask(self, *parts):
        return self.send(*parts).answer()

    def closed(self):
        """Whether the server closes now, without another byte; at most 5 seconds from now."""
        try:
            return not self.data and not self.more()
        except ConnectionResetError:
            return not self.data
        except socket.timeout:
            return False
