"""Examples for the description of the API: for each operation what is sent and what comes back, for each refusal one.

The tests send them, in this order, and compare what comes back.
"""

from __future__ import annotations

from typing import Dict, Mapping, NamedTuple

from . import __version__
from .spec import ProcessSpec

#: The id in all paths.
ID = "worker"

#: What is sent, by operation.
BODIES: Mapping[str, Mapping[str, object]] = {
    "add": {"id": ID, "command": "sleep", "args": ["3600"], "save_for_next_run": True, "env": {"TOKEN": "s3cret"},
            "wait_seconds": 0.1},
    "update": {"stop_timeout_seconds": 5, "nice": 5},
    "start": {"wait_seconds": 0.1},
    "restart": {"wait_seconds": 0.1},
    "signal": {"signal": "WINCH", "group": True},
    "input": {"input": "hello"},
}

_MOMENT = "2026-01-15T10:31:02.684Z"
_STAMP = "[2026-01-15 10:31:02]"
_LINE = f"{_STAMP} SYSTEM 127.0.0.1:8080: started with pid 16871"
_PROCESS: Mapping[str, object] = {
    "id": ID, "command": "sleep", "args": ["3600"], "status": "running", "is_running": True,
    "log_file": "/home/you/.local/share/exeio/logs/worker.log", "auto_restart": False, "periodic": False,
    "period_seconds": None, "run_count": 1, "last_run": _MOMENT, "working_dir": None, "pid": 16871,
    "started_at": _MOMENT, "exit_code": None, "exit_signal": None, "restarts": 0, "next_run": None, "saved": True,
    "status_reason": None, "env": ["TOKEN"], "log_dropped_lines": 0, "cpu_percent": 0.1, "memory_bytes": 1748992,
    "uptime_seconds": 17.337,
}
_CHANGE = ('{"id": "worker", "from": null, "to": "running", "reason": null, "pid": 16871, "exit": null, '
           f'"failed": false, "run": 1, "at": "{_MOMENT}"}}')


def _definition() -> Dict[str, object]:
    """The definition that `BODIES` adds, as `/config/{id}` tells it."""
    added = {name: value for name, value in BODIES["add"].items() if name != "wait_seconds"}
    return ProcessSpec.from_json(added).to_json(secrets=False)


def _done(message: str, **more: object) -> Dict[str, object]:
    return {"success": True, "message": message, **more}


def _all(what: str) -> Dict[str, object]:
    return _done(f"1 process {what}", results=[{"id": ID, "success": True, "message": what}])


#: What comes back, by operation; texts are those of the answer's own format.
ANSWERS: Mapping[str, object] = {
    "health": _done("watchdog and store work"),
    "info": {"name": "exeio", "version": __version__, "url": "http://127.0.0.1:8080", "endpoints": ["POST /add"],
             "uptime_seconds": 17.337, "pid": 16832, "processes": 1, "counts": {"running": 1}},
    "openapi": {"openapi": "3.1.0", "info": {"title": "exeio", "version": __version__}, "servers": [{"url": "/"}],
                "security": [{"key": []}], "paths": {}, "components": {}},
    "add": _done("Process 'worker' added and started", id=ID),
    "config": _definition(),
    "status": _PROCESS,
    "list": [_PROCESS],
    "logs": {"success": True, "page": 1, "page_size": 50, "total_lines": 1, "total_pages": 1, "logs": [_LINE]},
    "raw_log": f"{_LINE}\n",
    "all_logs": f'id: {{"worker":"9a84c4-44-20260115103102-108c3318"}}\ndata: [worker] {_LINE}\n\n',
    "events": f"id: 19bbb5e1a2c-7\ndata: {_CHANGE}\n\n",
    "metrics": "# HELP exeio_process_up 1 while the main process is alive, else 0.\n"
               '# TYPE exeio_process_up gauge\nexeio_process_up{id="worker"} 1\n',
    "signal": _done("SIGWINCH sent to 'worker' (group 16871)"),
    "input": _done("Input sent to 'worker'"),
    "update": _done("Process 'worker' updated: nice, stop_timeout_seconds (restarted)",
                    changed=["nice", "stop_timeout_seconds"], restarted=True),
    "stop": _done("Process 'worker' stopped"),
    "start": _done("Process 'worker' started"),
    "restart": _done("Process 'worker' restarted"),
    "clear_log": _done("Log of 'worker' cleared"),
    "restart_all": _all("restarted"),
    "stop_all": _all("stopped"),
    "run": _done("A run of 'worker' has begun"),
    "reload": _done("processes.json applied: 1 process changed",
                    results=[{"id": "web", "success": True, "message": "added and started"}]),
    "remove": _done("Process 'worker' removed"),
    "shutdown": _done("exeio is shutting down"),
}

#: What `GET /logs/{id}?follow=true` sends.
FOLLOWED = f"id: 9a84c4-44-20260115103102-108c3318\ndata: {_LINE}\n\n"
#: What `POST /stop/{id}?wait=false` answers.
STOPPING = _done("Process 'worker' is being stopped")


class Refusal(NamedTuple):
    """What a status means, under a name for programs, and the message of an example."""

    name: str
    about: str
    message: str


#: All statuses of refusals and failures.
REFUSALS: Mapping[int, Refusal] = {
    400: Refusal("Invalid", "the request is malformed, or a value cannot be taken: the message names the field",
                 "command is required"),
    401: Refusal("NoKey", "the key is missing or wrong", "the header exeio-api-key is missing or wrong"),
    403: Refusal("ReadOnly", "the key may only read",
                 "this key may only read: it takes the other one for anything but GET"),
    404: Refusal("NotFound", "there is no such process", "there is no process 'worker'"),
    405: Refusal("WrongMethod", "the path takes other methods", "/list takes GET, HEAD, OPTIONS, not PUT"),
    408: Refusal("TooSlow", "the request did not arrive in time", "the request was not complete in time"),
    409: Refusal("Conflict", "it conflicts with the present state", "'worker' is running already"),
    413: Refusal("BodyTooLarge", "the body is over 1 MiB", "the body is larger than 1048576 bytes"),
    414: Refusal("TargetTooLong", "the request line is over 8 KiB", "the request line is longer than 8192 bytes"),
    415: Refusal("NotJson", "the body is not application/json, or compressed",
                 "the Content-Type must be application/json"),
    417: Refusal("Expectation", "Expect has something else than 100-continue",
                 "the only expectation that can be met is 100-continue"),
    431: Refusal("HeadTooLarge", "the head is over 32 KiB or has over 100 fields",
                 "the request has more than 100 header fields"),
    500: Refusal("Failed", "it was tried and did not work, for the reason in the message",
                 "'worker' is removed, but its log cannot be deleted: Read-only file system"),
    501: Refusal("NotSupported", "transfer encodings, CONNECT",
                 "transfer encodings are not supported: send the body with Content-Length"),
    503: Refusal("Busy", "no room now for connections, followers, descriptors, memory; or exeio is unwell or ending",
                 "too many connections"),
    505: Refusal("Version", "another version of HTTP than 1.1 and 1.0", "only HTTP/1.1 and HTTP/1.0 are spoken here"),
}
