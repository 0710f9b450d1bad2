"""Listening sockets, and one sentence for each reason why there can be none."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import List, Tuple

from .errors import StartupError

# Connections that came at once are kept by the kernel (which may keep fewer) until a thread has started for each: those
# it has no room for try again after a second (300 at once: 2.0 → 0.03 s until all are in).
BACKLOG = 1024


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening socket at `host` (a name, IPv4, IPv6; also in brackets) and `port` (0: any free one).

    Raises StartupError saying what to do.
    """
    if not 0 <= port <= 65535:
        raise StartupError(f"the port must be a number from 0 to 65535, not {port}")
    if host[:1] == "[" and host[-1:] == "]":
        host = host[1:-1]
    if not host:
        raise StartupError("the host must not be empty; give 0.0.0.0 or :: for all addresses of this machine")
    # Python would import the rules for other names (encodings.idna, 1 ms), also for an address.
    name = host.encode("ascii") if host.isascii() else host
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a valid name"
        raise StartupError(
            f"cannot listen on {host} port {port}: the host name is not known ({reason}); "
            "give an address of this machine"
        ) from error
    # A name like localhost may mean both: the first clients of exeio know 127.0.0.1.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    failures: List[OSError] = []
    for family, kind, protocol, _, address in found:
        try:
            return _bound(family, kind, protocol, address)
        except OSError as error:
            failures.append(error)
    raise StartupError(
        f"cannot listen on {host} port {port}: {_advice(failures[0], host)}"
    ) from failures[0]


def _bound(family: int, kind: int, protocol: int, address: Tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Both are inherited by the connections.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _advice(error: OSError, host: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use by another program; stop that one or choose another port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "it is not permitted to this user; choose a port from 1024 on, or run with the right to bind it"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; choose one that is, or 0.0.0.0 for all"
    return f"{error.strerror or error}; choose another host or port"


def listen_unix(path: str) -> socket.socket:
    """A listening socket at `path`, for this user only. The socket file of a dead server is replaced.

    Raises StartupError saying what to do.
    """
    try:
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(path)
            os.chmod(path, 0o600)  # before listen: until then nobody can connect
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
    except (OSError, ValueError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise StartupError(
            f"cannot listen on the Unix socket {path}: {reason}; choose a path where this user may write"
        ) from error
    return sock


def _remove_stale(path: str) -> None:
    """Raises StartupError if `path` is something else than the socket of a dead server; OSError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartupError(
            f"cannot listen on the Unix socket {path}: there is a file which is not a socket; remove it"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # its queue is full: somebody listens
    raise StartupError(
        f"cannot listen on the Unix socket {path}: another server listens there; stop it or choose another path"
    )
