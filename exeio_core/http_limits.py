"""How many clients there may be, for how long, and who has to go when there are too many."""

from __future__ import annotations

import socket
import threading
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Protocol


class Limits(NamedTuple):
    """The figures of the contract; times are deadlines in seconds for the whole, not for each read or write."""

    connections: int = 256
    followers: int = 64
    body_bytes: int = 1024 * 1024
    head_seconds: float = 10.0  # from the first byte; for a new connection, with its TLS handshake, from accept
    body_seconds: float = 30.0
    idle_seconds: float = 60.0  # between two requests
    write_seconds: float = 30.0  # for an answer; longer ones have a second more for each `write_rate` bytes
    write_rate: int = 64 * 1024
    stall_seconds: float = 5.0  # after which one that does not read its answer may have to make room
    linger_seconds: float = 2.0  # for a refused client to stop sending and read why


class Host(Protocol):
    """The server that guests come to."""

    closing: bool


class Guest:
    """One connection. Its fields are guarded by the crowd's lock, but for `client` and `host`, which never change."""

    __slots__ = ("client", "host", "sock", "stream_close", "turned_out")

    def __init__(self, sock: socket.socket, client: str, host: Host) -> None:
        self.sock = sock
        self.client = client
        self.host = host
        self.turned_out = False
        self.stream_close: Optional[Callable[[], None]] = None


class Crowd:
    """All connections; one Crowd may serve several servers. Raises nothing."""

    def __init__(self, limits: Optional[Limits] = None) -> None:
        self.limits = limits or Limits()
        # Guards everything below and the guests' fields. Under it there is no I/O but shutdown(2), which does not
        # block; it must be under it, so that a socket is not closed, and its number taken anew, meanwhile.
        self._lock = threading.Lock()
        # Notified by `leave` when the last guest of a closing server went; `close` waits.
        self._emptied = threading.Condition(self._lock)
        self._present: Dict[Guest, None] = {}
        self._followers: Dict[Guest, None] = {}
        # Those whose next head is not complete or came without a key, the one that has been so for longest first.
        self._waiting: Dict[Guest, None] = {}
        # Those that do not read their answers, and since when; in that order, too.
        self._stalled: Dict[Guest, float] = {}

    def enter(self, guest: Guest) -> bool:
        """Count a new connection; the oldest one without a complete head and a key makes room. False: there is no room.

        Without such a one, it is the one that has not read its answer for longest.
        """
        with self._lock:
            if len(self._present) >= self.limits.connections and not self._turn_out():
                return False
            self._present[guest] = None
            self._waiting[guest] = None
            return True

    def make_room(self) -> bool:
        """Turn out whoever `enter` would turn out, since the system has no descriptor for a new one. False: nobody."""
        with self._lock:
            return self._turn_out()

    def _turn_out(self) -> bool:
        """Caller holds self._lock."""
        oldest = next(iter(self._waiting), None) or self._longest_stalled()
        if oldest is None:
            return False
        self._forget(oldest)
        _shut(oldest.sock, socket.SHUT_RDWR)
        return True

    def exchange(self, guest: Guest, sock: socket.socket) -> bool:
        """The guest's socket is `sock` now (TLS). False: the guest was turned out."""
        with self._lock:
            guest.sock = sock
            return not guest.turned_out

    def heard(self, guest: Guest) -> bool:
        """The guest's head is complete and has a key: it is not turned out any more. False: it has been."""
        with self._lock:
            self._waiting.pop(guest, None)
            return not guest.turned_out

    def waits(self, guest: Guest) -> bool:
        """The guest was answered, and may speak again, or be turned out. False: it must go, its server closes."""
        with self._lock:
            self._waiting.pop(guest, None)  # one that had no key is there still
            if guest in self._present:  # a follower that was refused something takes nobody's place
                self._waiting[guest] = None
            return not guest.host.closing

    def stalls(self, guest: Guest) -> None:
        """The guest does not read its answer."""
        with self._lock:
            if guest in self._present:
                self._stalled[guest] = time.monotonic()

    def reads(self, guest: Guest) -> None:
        """The guest has read its answer, or has run out of time."""
        with self._lock:
            self._stalled.pop(guest, None)

    def follow(self, guest: Guest) -> bool:
        """Count the guest as a follower instead of a connection. False: there is no room."""
        with self._lock:
            if len(self._followers) >= self.limits.followers:
                return False
            self._present.pop(guest, None)
            self._followers[guest] = None
            return True

    def streams(self, guest: Guest, close: Optional[Callable[[], None]]) -> None:
        """The guest is sent a stream, which `close` ends from outside; None: not any more."""
        with self._lock:
            guest.stream_close = close

    def leave(self, guest: Guest) -> None:
        """The guest is about to close its socket."""
        with self._lock:
            self._forget(guest)
            if guest.host.closing:
                self._emptied.notify_all()

    def close(self, host: Host, timeout: float) -> bool:
        """Send the guests of `host` home: the waiting ones now, the others once they have their answer.

        Those that do not have it after `timeout` seconds are cut off. True: there were none.
        """
        with self._lock:
            host.closing = True
            for guest in self._waiting:
                if guest.host is host:
                    # For reading only: what the client has sent completely is still answered.
                    _shut(guest.sock, socket.SHUT_RD)
            streams = [guest.stream_close for guest in self._guests(host) if guest.stream_close]
        for close in streams:
            close()
        with self._lock:
            done = self._emptied.wait_for(lambda: not self._guests(host), timeout)
            for guest in self._guests(host):
                guest.turned_out = True
                _shut(guest.sock, socket.SHUT_RDWR)
            return done

    def _longest_stalled(self) -> Optional[Guest]:
        """Caller holds self._lock."""
        for guest, since in self._stalled.items():
            return guest if since + self.limits.stall_seconds <= time.monotonic() else None
        return None

    def _forget(self, guest: Guest) -> None:
        """Caller holds self._lock."""
        guest.turned_out = True
        self._present.pop(guest, None)
        self._waiting.pop(guest, None)
        self._stalled.pop(guest, None)
        self._followers.pop(guest, None)

    def _guests(self, host: Host) -> List[Guest]:
        """Caller holds self._lock."""
        return [guest for group in (self._present, self._followers) for guest in group if guest.host is host]


def _shut(sock: socket.socket, how: int) -> None:
    try:
        socket.socket.shutdown(sock, how)  # SSLSocket.shutdown would drop the state its thread is using
    except OSError:
        pass  # the client was faster
