"""The client's side of the API: finds the supervisor and its key, sends requests, follows event streams."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional
from urllib.parse import quote, urlencode, urlsplit

from exeio_core.client_options import Connection
from exeio_core.errors import ExeioError
from exeio_core.instance import read_run_json
from exeio_core.options import UsageError, program
from exeio_core.settings import ApiKey, Folders, find_folders, find_key

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 60.0  # a followed log is asked for anew after that, in case the other side is gone silently
RECONNECT_SECONDS = 30.0
READ_SECONDS = 60.0
_RETRY_SECONDS = 0.25

# Bad Gateway, Service Unavailable, Gateway Timeout (RFC 9110); exeio's own 503 is in JSON.
_OF_PROXIES = (502, 503, 504)

Members = Optional[Mapping[str, object]]

# What stands for "all addresses" when listening is no address to connect to.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Unreachable(ExeioError):
    """There is no supervisor at that address; exit status 3."""

    exit_status = 3


class Refused(ExeioError):
    """The supervisor said no; exit status 1. `answer` is the JSON it said it in."""

    def __init__(self, message: str, status: int, answer: Any) -> None:
        super().__init__(message)
        self.status = status
        self.answer = answer


@dataclass(frozen=True)
class Address:
    """Where the API is: a host and port, or the path of a Unix socket."""

    url: str
    host: str = "localhost"
    port: int = 0
    socket_path: Optional[str] = None
    tls: bool = False
    prefix: str = ""  # path in front of the API's own, behind a reverse proxy

    @property
    def local(self) -> bool:
        """Whether it is this very machine, so that folders mean the same on both sides."""
        host = self.host
        return self.socket_path is not None or host in ("localhost", "::1") or host.startswith("127.")


def parse_url(text: str, source: str) -> Address:
    """The address in `text`; `source` names where it was given. Raises UsageError."""
    if text.startswith("unix:"):
        path = text[len("unix:") :]
        path = path[2:] if path.startswith("///") else path
        if path.startswith("/"):
            return Address(text, socket_path=path)
    else:
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        host = parts.hostname
        extra = parts.query or parts.fragment or parts.username or port == 0
        if parts.scheme in ("http", "https") and host and not extra and text.isprintable() and " " not in text:
            tls = parts.scheme == "https"
            host = _WILDCARDS.get(host, host)
            prefix = quote(parts.path.rstrip("/"), safe="/%")
            return Address(text, host, port or (443 if tls else 80), None, tls, prefix)
    raise UsageError(f"{source} must look like http://127.0.0.1:8080 or unix:/path/of/socket, not {text!r}")


def find_address(connection: Connection, folders: Folders, environ: Mapping[str, str]) -> Address:
    """The address from --url, EXEIO_URL, or what the supervisor noted in its data folder. Raises Unreachable.

    Nothing is tried on a guess: the key would be shown to whoever listens there.
    """
    if connection.url:
        return parse_url(connection.url, "--url")
    if environ.get("EXEIO_URL"):
        return parse_url(environ["EXEIO_URL"], "the variable EXEIO_URL")
    advice = f"start it with `{program()} serve`, or name another one with --data-dir or --url"
    run = read_run_json(folders.data_dir)
    if run is None:
        raise Unreachable(f"no supervisor runs on the folder {folders.data_dir}; {advice}")
    with contextlib.suppress(PermissionError, OverflowError):
        try:
            os.kill(run.pid, 0)
        except ProcessLookupError:
            raise Unreachable(
                f"the supervisor of the folder {folders.data_dir} (pid {run.pid}) is gone; {advice}"
            ) from None
    return parse_url(run.url, f"the address in {folders.data_dir}/run.json")


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    kind: str
    data: str
    id: Optional[str]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Asks one supervisor; a connection a request. No proxy is used, whatever the environment says."""

    def __init__(self, address: Address, key: Optional[ApiKey]) -> None:
        self.address = address
        self._key = key

    def get(self, path: str, query: Members = None, seconds: float = READ_SECONDS) -> Any:
        """The JSON of a GET, waited for up to `seconds`. Raises Refused or Unreachable, as do all of these."""
        return self._call("GET", path, query, None, seconds)

    def post(self, path: str, body: Members = None, query: Members = None) -> Any:
        """The JSON of a POST; waits as long as it takes, which for a stop is for the process to say."""
        return self._call("POST", path, query, body, None)

    def follow(
        self, path: str, query: Mapping[str, object], notice: Callable[[str], None]
    ) -> Iterator[Event]:
        """The events of a stream, without an end; after a lost connection it goes on behind the last event.

        Each connection begins with an event "open" of its own. `notice` is told about a loss. Raises Unreachable if
        the connection stays lost for 30 seconds.
        """
        last_id: Optional[str] = None
        deadline: Optional[float] = None  # of the attempts to connect again
        connected = False
        while True:
            trouble = "the supervisor closed the connection"
            fields = {"Accept": "text/event-stream"}
            if last_id is not None:
                fields["Last-Event-ID"] = last_id
            try:
                with self._open("GET", path, query, None, IDLE_SECONDS, fields) as response:
                    self._check_stream(response)
                    connected, deadline = True, None
                    yield Event("open", "", None)
                    for event in _events(response):
                        last_id = last_id if event.id is None else event.id
                        yield event
            except socket.timeout:
                continue  # quiet for long: the connection may be dead, so a new one goes on from here
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused) and error.status == 431 and last_id is not None:
                    last_id = None  # of very many logs the places do not fit into a head: some lines come twice
                    continue
                over = deadline is not None and time.monotonic() > deadline
                if not connected or over or (isinstance(error, Refused) and error.status != 503):
                    raise
                trouble = error.message
            except (OSError, http.client.HTTPException) as error:
                trouble = _words(error)
            if deadline is None:
                deadline = time.monotonic() + RECONNECT_SECONDS
                notice(f"{trouble}; trying again for {RECONNECT_SECONDS:.0f} seconds")
            time.sleep(_RETRY_SECONDS)

    def _call(
        self, method: str, path: str, query: Members, body: Members, seconds: Optional[float]
    ) -> Any:
        with self._open(method, path, query, body, seconds, {"Accept": "application/json"}) as response:
            try:
                answer = self._answer(response)
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from None
        if not (_is_list(answer) if path == "/list" else isinstance(answer, dict)):
            raise self.stranger()
        return answer

    def stranger(self) -> Unreachable:
        """What to raise for an answer that exeio would not give."""
        return Unreachable(f"what answers at {self.address.url} is not exeio; see --url")

    @contextlib.contextmanager
    def _open(
        self, method: str, path: str, query: Members, body: Members, seconds: Optional[float],
        fields: Dict[str, str],
    ) -> Iterator[http.client.HTTPResponse]:
        """The response to a request, its body not read yet; each read of it waits up to `seconds`."""
        target = self.address.prefix + path + ("?" + urlencode(query, errors="surrogateescape") if query else "")
        data = None
        fields["Connection"] = "close"
        if self._key is not None:
            fields["exeio-api-key"] = self._key.value
        if body is not None:
            data = json.dumps(body).encode("ascii")
            fields["Content-Type"] = "application/json"
        connection = self._connection()
        with contextlib.closing(connection):
            try:
                connection.connect()
                connection.sock.settimeout(seconds)
                connection.request(method, target, data, fields)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from None
            with contextlib.closing(response):
                yield response

    def _connection(self) -> http.client.HTTPConnection:
        at = self.address
        if at.socket_path is not None:
            return _UnixConnection(at.socket_path, CONNECT_SECONDS)
        if at.tls:
            return http.client.HTTPSConnection(at.host, at.port, timeout=CONNECT_SECONDS)
        return http.client.HTTPConnection(at.host, at.port, timeout=CONNECT_SECONDS)

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, http.client.IncompleteRead):
            trouble = f"the supervisor at {self.address.url} broke off in the middle of its answer"
            return Unreachable(f"{trouble}; whether it has done what was asked, `{program()} list` shows")
        if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
            return Unreachable(f"what answers at {self.address.url} speaks no HTTP; see --url")
        advice = f"is it running? Start it with `{program()} serve`, or name another one with --url"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            advice = "name the file of its certificate in the variable SSL_CERT_FILE"
        trouble = f"the supervisor at {self.address.url} is not reachable: {_words(error)}"
        return Unreachable(f"{trouble}; {advice}")

    def _answer(self, response: http.client.HTTPResponse) -> Any:
        """The JSON of a response that is a success; raises Refused for one that is not."""
        content = response.read()
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            if response.status in _OF_PROXIES:
                raise Unreachable(f"the proxy at {self.address.url} does not reach the supervisor behind it (status "
                                  f"{response.status}); is it running?") from None
            what = f"what answers at {self.address.url} is not exeio"
            raise Unreachable(f"{what} (status {response.status}, no JSON); see --url") from None
        failed = isinstance(answer, dict) and answer.get("success") is False
        if not 200 <= response.status < 300 or failed:
            raise Refused(self._why_not(response.status, answer), response.status, answer)
        return answer

    def _why_not(self, status: int, answer: Any) -> str:
        if status == 401:
            at = self.address.url
            other = "give the right one with --api-key-file FILE, -k KEY or the variable EXEIO_API_KEY"
            if self._key is None:
                return f"the supervisor at {at} wants a key, and none was found; {other}"
            return f"the supervisor at {at} refused the key from {self._key.source}; {other}"
        message = answer.get("message") if isinstance(answer, dict) else None
        text = message if isinstance(message, str) else ""
        text = text or f"the supervisor answered with status {status}"
        if status == 404:
            text += f"; `{program()} list` shows what there is"
        return text

    def _check_stream(self, response: http.client.HTTPResponse) -> None:
        """See that it is a stream of events; raises what `_answer` does."""
        kind = response.getheader("Content-Type", "")
        if response.status == 200 and kind.startswith("text/event-stream"):
            return
        self._answer(response)
        raise Unreachable(f"the supervisor at {self.address.url} cannot follow a log")


def _is_list(answer: object) -> bool:
    """Whether it is what /list answers, as far as all who ask for it take for granted."""
    return isinstance(answer, list) and all(isinstance(one, dict) and isinstance(one.get("id"), str) for one in answer)


def _events(response: http.client.HTTPResponse) -> Iterator[Event]:
    """Server-sent events (WHATWG HTML, "Server-sent events"), until the connection ends."""
    kind = ""
    data: List[str] = []
    id: Optional[str] = None
    for raw in response:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line:
            name, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if name == "data":
                data.append(value)
            elif name == "event":
                kind = value
            elif name == "id":
                id = value
        else:
            if data:
                yield Event(kind or "message", "\n".join(data), id)
            kind, data, id = "", [], None


def _words(error: Exception) -> str:
    """What the system says about `error`."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def find_client(connection: Connection, environ: Mapping[str, str], key_needed: bool) -> Client:
    """A client for the supervisor that options and environment name. Raises ExeioError.

    Where no key is needed (`info`), one that cannot be read is no reason to fail.
    """
    folders = find_folders(connection.config_dir, connection.data_dir, environ)
    address = find_address(connection, folders, environ)
    key: Optional[ApiKey] = None
    try:
        key = find_key(connection.api_key, connection.api_key_file, folders, environ)
    except ExeioError:
        if key_needed:
            raise
    return Client(address, key)
