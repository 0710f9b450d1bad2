"""The table of routes: what there is, what it takes and what it answers with; and which route a path means.

It serves the requests, the list in /info, and the description in /openapi.json.
"""

from __future__ import annotations

from typing import Dict, Mapping, Tuple

from . import handlers as do
from .calls import Parameter, Route
from .spec import ID_SCHEMA


def _flag(name: str, about: str, default: bool) -> Parameter:
    words = "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[Yy][Ee][Ss]|[Nn][Oo]|[01])?$"
    schema = {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": words}], "default": default}
    return Parameter(name, about, schema)


_TIME = "as in the log, 2025-07-15 10:30:45 (UTC), or ISO 8601; included"
_MOMENT = {
    "type": "string", "examples": ["2025-07-15 10:30:45", "2025-07-15T12:30:45+02:00"],
    "pattern": r"^(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])([Tt ]([01][0-9]|2[0-3]):[0-5][0-9]"
               r"(:[0-5][0-9]([.,][0-9]+)?)?\s*([Zz]|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?)?$",
}
_SELECTION = (
    Parameter("page", "which page, from 1 on; the newest lines are on page 1",
              {"type": "integer", "minimum": 1, "maximum": 10**12, "default": 1}),
    Parameter("page_size", "lines a page", {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 50}),
    Parameter("order", "desc: newest first; asc: oldest first",
              {"type": "string", "enum": ["desc", "asc"], "default": "desc"}),
    Parameter("stream", "only lines of this stream", {"type": "string", "enum": ["stdout", "stderr", "system"]}),
    Parameter("contains", "only lines that hold this text", {"type": "string", "examples": ["started with pid"]}),
    Parameter("since", f"only lines from this time on: {_TIME}", _MOMENT),
    Parameter("until", f"only lines up to this time: {_TIME}", _MOMENT),
)
_FOLLOW = "true: server-sent events, from the last page_size lines on and without an end"

ROUTES: Tuple[Route, ...] = (
    Route("POST", "/add", do.add, "add a process and start it", body="NewProcess", answer="Added", fails=(409, 503)),
    Route("POST", "/update/{id}", do.update, "change fields of a process", body="Changes", answer="Updated",
          fails=(409, 503)),
    Route("GET", "/config/{id}", do.config, "the definition of a process", answer="Definition", fails=(403,), query=(
        _flag("secrets", "show the values of env, not ***; not with the read-only key", False),)),
    Route("POST", "/start/{id}", do.start, "start a process that is not running", body="Wait", fails=(409, 503)),
    Route("POST", "/stop/{id}", do.stop, "stop a process", fails=(202, 409, 503), query=(
        _flag("wait", "false: answer 202 at once", True),)),
    Route("POST", "/restart/{id}", do.restart, "stop a process if it runs, then start it", body="Wait",
          fails=(409, 503)),
    Route("POST", "/run/{id}", do.run, "run a periodic process once now", fails=(409, 503)),
    Route("POST", "/remove/{id}", do.remove, "stop and forget a process", fails=(409, 503), query=(
        _flag("purge", "delete its log, too", False),)),
    Route("POST", "/signal/{id}", do.signal, "send a signal", body="Signal", fails=(409,)),
    Route("POST", "/restart-all", do.restart_all, "restart all processes", answer="Results"),
    Route("POST", "/stop-all", do.stop_all, "stop all processes", answer="Results"),
    Route("POST", "/input/{id}", do.input_, "write to stdin", body="Input", fails=(409,)),
    Route("GET", "/list", do.list_, "all processes", answer="Processes"),
    Route("GET", "/status/{id}", do.status, "one process", answer="Status"),
    Route("GET", "/logs/{id}", do.logs, "a page of a log, or its lines as they come", answer="LogPage",
          query=(*_SELECTION, _flag("follow", _FOLLOW, False)), follow=True),
    Route("GET", "/logs", do.all_logs, "the lines of all logs as they come", answer="Events", follow=True,
          query=(*_SELECTION, Parameter("follow", "must be true here", {"const": True}, required=True))),
    Route("GET", "/logs/{id}/raw", do.raw_log, "a log as it is", answer="Text", query=(
        Parameter("tail_bytes", "only its end, from the first whole line on",
                  {"type": "integer", "minimum": 1, "maximum": 1 << 50, "examples": [1000]}),)),
    Route("POST", "/clear-log/{id}", do.clear_log, "empty a log"),
    Route("POST", "/reload", do.reload, "apply an edited processes.json", answer="Results"),
    Route("GET", "/info", do.info, "what this is", answer="Info", open=True),
    Route("GET", "/events", do.events, "changes of status as they happen", answer="Events", stream=True, query=(
        Parameter("id", "only of this process", {**ID_SCHEMA, "examples": ["worker"]}),)),
    Route("GET", "/health", do.health, "whether exeio does its work", open=True, fails=(503,)),
    Route("GET", "/metrics", do.metrics, "figures for Prometheus", answer="Metrics"),
    Route("GET", "/openapi.json", do.openapi, "this description of the API (OpenAPI 3.1)", answer="OpenApi"),
    Route("POST", "/shutdown", do.shutdown, "stop everything and exit"),
)

Methods = Mapping[str, Route]
_ID_PART = 2
_ROUTES: Dict[str, Dict[str, Route]] = {}
_NOTHING: Methods = {}
for _route in ROUTES:
    _ROUTES.setdefault(_route.path, {})[_route.method] = _route


def find(path: str) -> Tuple[Methods, str]:
    """Return the routes of a path by method, none for a path that does not exist, and the id in it."""
    found = _ROUTES.get(path)
    if found is not None:
        return found, ""
    parts = path.split("/")  # "", "logs", "web", "raw"
    if len(parts) < _ID_PART + 1 or not parts[_ID_PART]:
        return _NOTHING, ""
    id, parts[_ID_PART] = parts[_ID_PART], "{id}"
    return _ROUTES.get("/".join(parts), _NOTHING), id
