"""The JSON Schemas (2020-12, as OpenAPI 3.1 uses it) of all that the API takes and answers with, by name.

What a process may be is read from the table of its fields. Answers leave room for fields of later versions; what
is sent may hold nothing but what is named.
"""

from __future__ import annotations

from typing import Dict, Mapping, Optional

from .lifecycle import STATUS_WORDS
from .logquery import MAX_PAGE_SIZE
from .payload import LONGEST_WAIT
from .spec import FIELDS, json_schema, stored_schemas
from .values import Signal

Schema = Dict[str, object]

_TEXT: Schema = {"type": "string"}
_OBJECT: Schema = {"type": "object"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_PID: Schema = {"type": "integer", "minimum": 1}
_NUMBER: Schema = {"type": "number", "minimum": 0}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_CODE: Schema = {"type": "integer", "minimum": 0, "maximum": 255}
_STATUS: Schema = {"type": "string", "enum": list(STATUS_WORDS)}
_WAIT: Schema = {
    "type": ["number", "null"], "minimum": 0, "maximum": LONGEST_WAIT, "default": 0,
    "description": "succeed only if it is still running after so many seconds",
}


def schemas() -> Dict[str, Schema]:
    """Return all schemas that the table of routes names, and those that these refer to."""
    return {**_taken(), **_answers(), **_documents()}


def _taken() -> Dict[str, Schema]:
    """What bodies hold."""
    process = json_schema()
    properties = _mapping(process["properties"])
    changes = {name: {key: value for key, value in _mapping(schema).items() if key != "default"}
               for name, schema in properties.items()}
    start = {**_or_null(_FLAG), "default": True, "description": "false: only add it"}
    return {
        "NewProcess": {**process, "properties": {**properties, "start": start, "wait_seconds": _WAIT}},
        "Changes": _closed(
            changes, about="the fields to change, null for their defaults; an id must be that of the path"),
        "Wait": _closed({"wait_seconds": _WAIT}),
        "Signal": _closed({
            "signal": {**Signal().schema(), "description": "name or number of the signal"},
            "group": {**_or_null(_FLAG), "default": False, "description": "to the whole process group"},
        }, "signal"),
        "Input": {
            **_closed({
                "input": {**_or_null(_TEXT), "description": "text for stdin"},
                "newline": {**_or_null(_FLAG), "description": "end it with a newline; true where there is input"},
                "eof": {**_or_null(_FLAG), "default": False, "description": "then close stdin"},
            }),
            "anyOf": [
                {"properties": {"input": _TEXT}, "required": ["input"]},
                {"properties": {"eof": {"const": True}}, "required": ["eof"]},
            ],
        },
    }


def _answers() -> Dict[str, Schema]:
    """What calls that do something answer with."""
    done: Schema = {"success": {"const": True}, "message": _TEXT}
    names = [field.name for field in FIELDS]
    result = _open({"id": _TEXT, "success": _FLAG, "message": _TEXT})
    return {
        "Error": _open({"success": {"const": False}, "message": {**_TEXT, "description": "one sentence for people"}}),
        "Done": _open(done),
        "Added": _open({**done, "id": _TEXT}),
        "Updated": _open({**done, "changed": _list({"type": "string", "enum": names}), "restarted": _FLAG}),
        "Results": _open({"success": _FLAG, "message": _TEXT, "results": _list(result)}),
    }


def _documents() -> Dict[str, Schema]:
    """What calls that look answer with."""
    fields = stored_schemas()
    seen = _listed(fields)
    run = _open({
        "run": _PID, "started_at": _MOMENT, "duration_seconds": _NUMBER, "exit_code": _or_null(_CODE),
        "exit_signal": _or_null(_TEXT), "timed_out": _FLAG})
    history = {**_list(run), "description": "the last runs of a periodic process, newest first"}
    about: Schema = {"name": {"const": "exeio"}, "version": _TEXT, "url": _TEXT, "endpoints": _list(_TEXT)}
    with_key: Schema = {
        "uptime_seconds": _NUMBER, "pid": _PID, "processes": _COUNT,
        "counts": {"type": "object", "propertyNames": _STATUS, "additionalProperties": _COUNT},
    }
    page: Schema = {
        "success": {"const": True}, "page": {**_COUNT, "minimum": 1},
        "page_size": {**_COUNT, "minimum": 1, "maximum": MAX_PAGE_SIZE}, "total_lines": _COUNT, "total_pages": _COUNT,
        "logs": _list(_TEXT)}
    partial = {**_TEXT, "description": "on page 1: a last line that has no newline yet"}
    return {
        "Definition": _open(fields),
        "Process": _open(seen),
        "Processes": _list({"$ref": "#/components/schemas/Process"}),
        "Status": _open(seen, {"history": history}),
        "LogPage": _open(page, {"partial": partial}),
        "Info": _open(about, with_key, "without a key only what everybody may know"),
        "OpenApi": _open({
            "openapi": {"const": "3.1.0"}, "info": _OBJECT, "servers": _list(_OBJECT), "security": _list(_OBJECT),
            "paths": _OBJECT, "components": _OBJECT}),
        "Text": _TEXT,
        "Events": {**_TEXT, "description": "server-sent events (WHATWG HTML, section 9.2), without an end"},
        "Metrics": {**_TEXT, "description": "the Prometheus text format 0.0.4"},
    }


def _listed(fields: Mapping[str, object]) -> Schema:
    """The members of a process as `/list` and `/status/{id}` show it, in their order."""
    as_added = ("id", "command", "args", "working_dir", "auto_restart", "periodic", "period_seconds")
    own: Schema = {
        "status": _STATUS,
        "status_reason": {**_or_null(_TEXT), "description": "why, where there is more to say"},
        "is_running": {**_FLAG, "description": "the main process is alive, or a schedule is active"},
        "pid": {**_or_null(_PID), "description": "of the main process while it is alive"},
        "started_at": _or_null(_MOMENT),
        "uptime_seconds": _or_null(_NUMBER),
        "exit_code": {**_or_null(_CODE), "description": "of the last run; null while it runs, or after a signal"},
        "exit_signal": {**_or_null(_TEXT), "description": "name of the signal that ended the last run"},
        "run_count": {**_COUNT, "description": "all starts"},
        "restarts": {**_COUNT, "description": "the automatic ones among them"},
        "last_run": {**_or_null(_MOMENT), "description": "start of the last run"},
        "next_run": {**_or_null(_MOMENT), "description": "when a restart or a periodic run is due"},
        "saved": {**_FLAG, "description": "it is in processes.json"},
        "env": {**_list(_TEXT), "description": "names of its variables; the values are in /config/{id}"},
        "cpu_percent": {**_or_null(_NUMBER), "description": "of its whole tree, of one CPU (Linux)"},
        "memory_bytes": {**_or_null(_COUNT), "description": "resident, of its whole tree (Linux)"},
        "log_file": _TEXT,
        "log_dropped_lines": {**_COUNT, "description": "lines that its log had no room for"},
    }
    return {**{name: fields[name] for name in as_added}, **own}


def _open(properties: Mapping[str, object], optional: Optional[Mapping[str, object]] = None, about: str = "") -> Schema:
    """An object of an answer, which has all of `properties`."""
    text = {"description": about} if about else {}
    return {"type": "object", **text, "properties": {**properties, **(optional or {})}, "required": list(properties)}


def _closed(properties: Mapping[str, object], *required: str, about: str = "") -> Schema:
    """An object of a body, which may hold nothing else."""
    text = {"description": about} if about else {}
    needs = {"required": list(required)} if required else {}
    return {"type": "object", **text, "properties": dict(properties), **needs, "additionalProperties": False}


def _list(items: Mapping[str, object]) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Mapping[str, object]) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, dict)
    return value
