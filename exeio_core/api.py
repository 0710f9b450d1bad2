"""The REST API: what the HTTP server asks who may call what, and the way from a request to its answer.

`Api` checks the key, finds the route, runs its handler, turns what that returns into bytes, and notes in exeio.log
every call that changes something.
"""

from __future__ import annotations

import json
from typing import Callable, Iterator, Optional, Union

from .access import READING, Access, Keys
from .calls import Answer, Call, Parts, Route
from .errors import ExeioError, Invalid
from .http_server import Endpoint, Head, HttpError, Reply, Request
from .payload import read_object
from .routes import ROUTES, find
from .traffic import OTHER


class Api:
    """The application: see the module's docstring."""

    def __init__(self, parts: Parts, keys: Keys) -> None:
        self.parts = parts
        self.keys = keys
        parts.routes = ROUTES

    def admit(self, head: Head, client: str) -> Endpoint:
        """Return what answers this request; raises HttpError for the key, the path, the method."""
        access = self.keys.right(head.fields.get(b"exeio-api-key"), client)
        method = "GET" if head.method == "HEAD" else head.method
        found, id = find(head.path)
        route = found.get(method)
        if not access and not (route is not None and route.open):
            raise HttpError(401, "the header exeio-api-key is missing or wrong",
                            (("WWW-Authenticate", "exeio-api-key"),))
        if access is Access.READ and method not in READING:
            self.keys.refused_change(client)
            raise HttpError(403, "this key may only read: it takes the other one for anything but GET")
        if head.path == "*" and method == "OPTIONS":  # about the server as a whole (RFC 9110, section 9.3.7)
            return _Options("GET, HEAD, OPTIONS, POST")
        if not found:
            raise HttpError(404, f"there is no path {head.path!r}; GET /info lists them")
        if route is None:
            allowed = ", ".join(sorted({*found, *(["HEAD"] if "GET" in found else []), "OPTIONS"}))
            if method == "OPTIONS":
                return _Options(allowed)
            raise HttpError(405, f"{head.path} takes {allowed}, not {head.method}", (("Allow", allowed),))
        return _Bound(self, route, id, access, route.follows(head.query))

    def observe(self, head: Optional[Head], endpoint: Optional[Endpoint], status: int, seconds: float) -> None:
        """Count an answer; `HttpServer` calls it."""
        timed: Optional[float] = seconds
        path = OTHER
        if isinstance(endpoint, _Bound):
            path = endpoint.route.path
            if endpoint.follows and status == 200:
                timed = None  # it ended when the follower went
        elif head is not None:  # it was not admitted, or asked for the methods
            path = next((route.path for route in find(head.path)[0].values()), OTHER)
        self.parts.traffic.count(OTHER if head is None else head.method, path, status, timed)


class _Options:
    """Answers OPTIONS: which methods a path takes."""

    has_key = True
    takes_body = False
    follows = False

    def __init__(self, allowed: str) -> None:
        self._allowed = allowed

    def __call__(self, request: Request) -> Reply:
        document = {"success": True, "message": f"allowed: {self._allowed}"}
        return Reply(200, json.dumps(document).encode(), headers=(("Allow", self._allowed),))


class _Bound:
    """A route with the id of one request."""

    __slots__ = ("_access", "_api", "_id", "follows", "has_key", "route", "takes_body")

    def __init__(self, api: Api, route: Route, id: str, access: Access, follows: bool) -> None:
        self._api = api
        self.route = route
        self._id = id
        self._access = access
        self.has_key = bool(access)
        self.takes_body = route.body is not None
        self.follows = follows

    def __call__(self, request: Request) -> Reply:
        if self.route.method == "GET":
            reply = _encoded(self._run(request))
            return reply if reply.stream is None else reply._replace(stream=self._guarded(reply.stream, request))
        try:
            answer = self._run(request)
        except ExeioError as error:
            self._note(request, f"refused: {error.message}")
            raise
        message = answer.document.get("message", "") if isinstance(answer, Answer) else ""
        self._note(request, f"{answer.status} {message}")
        return _encoded(answer)

    def _run(self, request: Request) -> Union[Answer, Reply]:
        head, route = request.head, self.route
        if head.query:
            known = route.parameters
            for name in head.query:
                if name not in known:
                    raise Invalid(_unknown_parameter(name, route), name)
        body = read_object(request.body) if self.takes_body else {}
        last_id = head.fields.get(b"last-event-id")
        call = Call(self._id, head.query, body, self._access, last_id.decode("latin-1") if last_id else None)
        return route.handler(self._api.parts, call)

    def _note(self, request: Request, result: str) -> None:
        self._api.parts.log.system(f"{request.client} {self.route.method} {request.head.path}: {result}")

    def _guarded(self, stream: Iterator[bytes], request: Request) -> Iterator[bytes]:
        key = request.head.fields.get(b"exeio-api-key")
        return _WhileKeyHolds(stream, lambda: self.route.open or bool(self._api.keys.holds(key)))


class _WhileKeyHolds:
    """A stream that ends when the key it was asked for with is replaced."""

    def __init__(self, stream: Iterator[bytes], holds: Callable[[], bool]) -> None:
        self._stream = stream
        self._holds = holds
        close: Optional[Callable[[], None]] = getattr(stream, "close", None)
        self.close: Callable[[], None] = close or (lambda: None)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = next(self._stream)
        if not self._holds():
            raise StopIteration
        return block


def _encoded(answer: Union[Answer, Reply]) -> Reply:
    return answer if isinstance(answer, Reply) else answer.reply()


def _unknown_parameter(name: str, route: Route) -> str:
    import difflib  # only after a mistake

    known = route.parameters
    near = difflib.get_close_matches(name, known, 1)
    those = f"did you mean {near[0]}?" if near else "it takes " + (", ".join(known) or "none")
    return f"there is no parameter {name!r} for {route.path}; {those}"
