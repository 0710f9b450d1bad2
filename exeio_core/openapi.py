"""`GET /openapi.json`: the API described in OpenAPI 3.1, made of the tables that serve it and so never behind them."""

from __future__ import annotations

from typing import Dict, Mapping, Sequence, Set

from . import __version__
from .calls import Parameter, Route
from .examples import ANSWERS, BODIES, FOLLOWED, ID, REFUSALS, STOPPING
from .schemas import Schema, schemas
from .spec import ID_SCHEMA

_ABOUT = """\
A process supervisor: starts programs, keeps them running, records what they print.

Every endpoint but `GET /info` and `GET /health` needs a key in the header `exeio-api-key`; the read-only key may GET
and nothing else. Bodies are JSON objects of at most 1 MiB, sent with a `Content-Length`. HEAD is GET without a body,
OPTIONS says in `Allow` what a path takes. Parameters and fields that are not known are refused. An answer that refuses
has `success` false and one sentence in `message`.
"""
# Whatever is asked, since the server itself says so before or while it reads a request. 405 is for the other methods of
# a path, which has no place of its own for it.
_ALWAYS = frozenset((400, 405, 408, 413, 414, 417, 431, 500, 501, 503, 505))
_CONTENT_TYPES = {"Text": "text/plain", "Metrics": "text/plain", "Events": "text/event-stream"}
_HEADERS: Mapping[int, Schema] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"const": "exeio-api-key"}}},
    405: {"Allow": {"required": True, "schema": {"type": "string"}, "example": "GET, HEAD, OPTIONS"}},
    503: {"Retry-After": {"description": "seconds, where that is known", "schema": {"type": "integer", "minimum": 1}}},
}


def document(routes: Sequence[Route]) -> Schema:
    """Return the description of these routes, as JSON has it."""
    named = schemas()
    # Who has added a process may go on to all that is about one.
    links: Schema = {
        operation_id(route): {"operationId": operation_id(route), "parameters": {"id": "$response.body#/id"}}
        for route in routes if _names_one(route)}
    paths: Dict[str, Dict[str, object]] = {}
    for route in routes:
        item = paths.setdefault(route.path, {"parameters": [_ref("parameters", "id")]} if _names_one(route) else {})
        item[route.method.lower()] = _operation(route, named, links)
    return {
        "openapi": "3.1.0",
        "info": {"title": "exeio", "version": __version__, "summary": "A process supervisor with a REST API",
                 "description": _ABOUT, "license": {"name": "MIT", "identifier": "MIT"}},
        "servers": [{"url": "/", "description": "where this description came from"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {
                "type": "apiKey", "in": "header", "name": "exeio-api-key",
                "description": "the key, or the read-only key, which may GET and nothing else"}},
            "schemas": _with_examples(named, routes),
            "parameters": {"id": {"name": "id", "in": "path", "required": True, "description": "which process",
                                  "schema": ID_SCHEMA, "example": ID}},
            "responses": {refusal.name: _refusal(status) for status, refusal in REFUSALS.items()},
        },
    }


def operation_id(route: Route) -> str:
    """Return the name of an operation: that of its handler."""
    return route.handler.__name__.rstrip("_")


def statuses(route: Route) -> Set[int]:
    """Return all statuses that a route may answer with."""
    found = {200, *_ALWAYS, *route.fails}
    if not route.open:
        found.add(401)
        if route.method != "GET":
            found.add(403)
    if _names_one(route):
        found.add(404)
    if route.body is not None:
        found.add(415)
    return found


def _names_one(route: Route) -> bool:
    return "{id}" in route.path


def _operation(route: Route, named: Mapping[str, Schema], links: Schema) -> Schema:
    name = operation_id(route)
    described: Schema = {"operationId": name, "summary": route.about}
    if route.open:
        # /info tells more to who has the key.
        described["security"] = [{}, {"key": []}] if route.answer == "Info" else []
    parameters = [_parameter(each) for each in route.query]
    if route.follow or route.stream:
        parameters.append({"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"},
                           "description": "of a stream: go on behind the event with this id"})
    if parameters:
        described["parameters"] = parameters
    if route.body is not None:
        schema = named[route.body]
        described["requestBody"] = {
            "required": "required" in schema or "anyOf" in schema,
            "content": _content(route.body, BODIES[name]),
        }
    described["responses"] = {str(status): _response(route, status, links) for status in sorted(statuses(route))}
    return described


def _parameter(parameter: Parameter) -> Schema:
    return {"name": parameter.name, "in": "query", "required": parameter.required, "description": parameter.about,
            "schema": parameter.schema}


def _response(route: Route, status: int, links: Schema) -> Schema:
    if status == 200:
        content = _content(route.answer, ANSWERS[operation_id(route)])
        if route.follow and route.answer != "Events":
            content.update(_content("Events", FOLLOWED))
        more = {"links": links} if route.answer == "Added" else {}
        return {"description": "done" if route.method == "POST" else route.about, "content": content, **more}
    if status == 202:
        return {"description": "begun", "content": _content("Done", STOPPING)}
    if status == 500 and route.answer == "Results":
        either = {"anyOf": [_ref("schemas", "Results"), _ref("schemas", "Error")]}
        results = [{"id": ID, "success": False, "message": f"{ID!r} cannot be started: it has no command any more"}]
        failed = {"success": False, "message": "0 processes restarted, 1 failed", "results": results}
        return {"description": "one of them failed, or all of it",
                "content": {"application/json": {"schema": either, "example": failed}}}
    return _ref("responses", REFUSALS[status].name)


def _refusal(status: int) -> Schema:
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return {"description": REFUSALS[status].about, **headers, "content": _content("Error", _error(status))}


def _error(status: int) -> Schema:
    return {"success": False, "message": REFUSALS[status].message}


def _content(name: str, example: object) -> Schema:
    """The content of a body or an answer with the schema of this name."""
    return {_CONTENT_TYPES.get(name, "application/json"): {"schema": _ref("schemas", name), "example": example}}


def _with_examples(named: Mapping[str, Schema], routes: Sequence[Route]) -> Dict[str, Schema]:
    """All schemas, each with an example of an operation that uses it."""
    examples: Dict[str, object] = {"Error": _error(404), "Process": ANSWERS["status"]}
    for route in routes:
        name = operation_id(route)
        examples.setdefault(route.answer, ANSWERS[name])
        if route.body is not None:
            examples.setdefault(route.body, BODIES[name])
    return {name: {**schema, "examples": [examples[name]]} for name, schema in named.items()}


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}
