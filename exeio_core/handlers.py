"""What the routes do: each handler takes the data of a call, asks the Supervisor and returns data."""

from __future__ import annotations

import json
import os
import time
from typing import Dict, List, Optional, Tuple, cast

from . import __version__
from .access import Access
from .calls import Answer, Call, Parts, done
from .errors import ExeioError, Invalid, Unavailable
from .eventstream import EventStream
from .http_server import HttpError, Reply
from .logfile import LogQuery
from .metrics import CONTENT_TYPE as METRICS
from .metrics import render
from .openapi import document
from .payload import LONGEST_WAIT, query_flag, query_number, refuse_rest, take_flag, take_seconds
from .reload import reload as apply_saved
from .spec import ProcessSpec, check_id, check_signal
from .streams import AllLogsStream, LogStream
from .turn import turn

EVENTS = "text/event-stream"
_ENCODED = 20  # lines of a log, each up to 64 KiB


def add(parts: Parts, call: Call) -> Answer:
    body = dict(call.body)
    start = take_flag(body, "start", True)
    wait = take_seconds(body, "wait_seconds", LONGEST_WAIT)
    spec = ProcessSpec.from_json(body, beside=("start", "wait_seconds"))
    parts.supervisor.add(spec, start, wait)
    return done(f"Process {spec.id!r} added" + (" and started" if start else ""), id=spec.id)


def update(parts: Parts, call: Call) -> Answer:
    names, restarted = parts.supervisor.update(call.id, lambda base: base.merged(call.body))
    if not names:
        return done(f"Process {call.id!r}: nothing to change", changed=[], restarted=False)
    message = f"Process {call.id!r} updated: {', '.join(names)}" + (" (restarted)" if restarted else "")
    return done(message, changed=list(names), restarted=restarted)


def config(parts: Parts, call: Call) -> Answer:
    secrets = query_flag(call.query, "secrets", False)
    if secrets and call.access < Access.FULL:
        raise HttpError(403, "the read-only key does not show secrets; leave out secrets, or use the other key")
    return Answer(parts.supervisor.spec(call.id).to_json(secrets=secrets))


def start(parts: Parts, call: Call) -> Answer:
    parts.supervisor.start(call.id, _wait_seconds(call))
    return done(f"Process {call.id!r} started")


def stop(parts: Parts, call: Call) -> Answer:
    wait = query_flag(call.query, "wait", True)
    parts.supervisor.stop(call.id, wait)
    if not wait:
        return Answer({"success": True, "message": f"Process {call.id!r} is being stopped"}, 202)
    return done(f"Process {call.id!r} stopped")


def restart(parts: Parts, call: Call) -> Answer:
    parts.supervisor.restart(call.id, _wait_seconds(call))
    return done(f"Process {call.id!r} restarted")


def _wait_seconds(call: Call) -> float:
    body = dict(call.body)
    wait = take_seconds(body, "wait_seconds", LONGEST_WAIT)
    refuse_rest(body, ("wait_seconds",))
    return wait


def run(parts: Parts, call: Call) -> Answer:
    parts.supervisor.run_now(call.id)
    return done(f"A run of {call.id!r} has begun")


def remove(parts: Parts, call: Call) -> Answer:
    purge = query_flag(call.query, "purge", False)
    parts.supervisor.remove(call.id, purge)
    return done(f"Process {call.id!r} removed" + (", its log deleted" if purge else ""))


def signal(parts: Parts, call: Call) -> Answer:
    body = dict(call.body)
    if body.get("signal") is None:
        raise Invalid('signal is required, as in {"signal": "HUP"}', "signal")
    name = check_signal(body.pop("signal"))
    group = take_flag(body, "group", False)
    refuse_rest(body, ("signal", "group"))
    pid = parts.supervisor.send_signal(call.id, name, group)
    return done(f"SIG{name} sent to {call.id!r} ({'group' if group else 'pid'} {pid})")


def restart_all(parts: Parts, call: Call) -> Answer:
    return _all("restarted", parts.supervisor.restart_all())


def stop_all(parts: Parts, call: Call) -> Answer:
    return _all("stopped", parts.supervisor.stop_all())


def _all(what: str, results: List[Tuple[str, Optional[ExeioError]]]) -> Answer:
    listed = [{"id": id, "success": error is None, "message": error.message if error else what}
              for id, error in results]
    failed = sum(error is not None for _, error in results)
    count = len(results) - failed
    message = f"{count} process{'' if count == 1 else 'es'} {what}" + (f", {failed} failed" if failed else "")
    return Answer({"success": not failed, "message": message, "results": listed}, 500 if failed else 200)


def input_(parts: Parts, call: Call) -> Answer:
    body = dict(call.body)
    value = body.pop("input", None)
    eof = take_flag(body, "eof", False)
    newline = take_flag(body, "newline", value is not None)
    refuse_rest(body, ("input", "newline", "eof"))
    if value is None and not eof:
        raise Invalid('input is required, as in {"input": "text"}, or "eof": true', "input")
    if value is not None and not isinstance(value, str):
        raise Invalid("input must be a text", "input")
    data = ((value or "") + ("\n" if newline else "")).encode("utf-8")
    parts.supervisor.send_input(call.id, data, eof)
    return done(f"Input sent to {call.id!r}" if value is not None else f"The stdin of {call.id!r} is closed")


def list_(parts: Parts, call: Call) -> Reply:
    return Reply(200, parts.listing.body())


def status(parts: Parts, call: Call) -> Answer:
    parts.sampler.refresh()
    parts.sampler.sample_new([parts.supervisor.process(call.id)])
    return Answer(parts.supervisor.status(call.id))


def logs(parts: Parts, call: Call) -> Reply:
    log = parts.supervisor.log(call.id)
    query = LogQuery.from_query(call.query)
    if query_flag(call.query, "follow", False):
        return Reply(200, stream=LogStream(log, query, call.last_event_id), content_type=EVENTS)
    return Reply(200, _encoded(log.page(query)))


def _encoded(page: Dict[str, object]) -> bytes:
    """Return a page of a log as JSON, a few lines encoded at a time: of ten thousand, all others would notice."""
    lines = cast(List[str], page["logs"])
    # No text can look like this key: a quote in it is escaped.
    before, key, after = json.dumps({**page, "logs": []}).partition('"logs": [')
    pieces = []
    for start in range(0, len(lines), _ENCODED):
        with turn:
            pieces.append(json.dumps(lines[start:start + _ENCODED])[1:-1])
    return "".join((before, key, ", ".join(pieces), after)).encode("ascii")


def all_logs(parts: Parts, call: Call) -> Reply:
    if not query_flag(call.query, "follow", False):
        raise Invalid("follow=true is required here: GET /logs/{id} gives the pages of one process", "follow")
    query = LogQuery.from_query(call.query)
    stream = AllLogsStream(parts.supervisor.all_logs, parts.supervisor.watch_logs, query, call.last_event_id)
    return Reply(200, stream=stream, content_type=EVENTS)


def raw_log(parts: Parts, call: Call) -> Reply:
    most = query_number(call.query, "tail_bytes", 1, 1 << 50)
    # Text, whatever a process wrote; what is no UTF-8 is the reader's to show.
    return Reply(200, stream=parts.supervisor.log(call.id).raw_tail(most), content_type="text/plain; charset=utf-8")


def clear_log(parts: Parts, call: Call) -> Answer:
    parts.supervisor.clear_log(call.id)
    return done(f"Log of {call.id!r} cleared")


def reload(parts: Parts, call: Call) -> Answer:
    results = apply_saved(parts.supervisor)
    failed = sum(not result["success"] for result in results)
    count = len(results) - failed
    message = f"processes.json applied: {count} process{'' if count == 1 else 'es'} changed"
    if failed:
        message += f", {failed} failed"
    return Answer({"success": not failed, "message": message, "results": results}, 500 if failed else 200)


def info(parts: Parts, call: Call) -> Reply:
    if not parts.about:
        endpoints = [f"{route.method} {route.path}" for route in parts.routes]
        about = {"name": "exeio", "version": __version__, "url": parts.url, "endpoints": endpoints}
        parts.about = json.dumps(about).encode("ascii")
    if not call.access:
        return Reply(200, parts.about)
    counts = parts.listing.counts()
    if parts.counted[0] is not counts:
        more = {"pid": os.getpid(), "processes": sum(counts.values()), "counts": counts}
        parts.counted = (counts, b"%b, %b" % (parts.about[:-1], json.dumps(more).encode("ascii")[1:-1]))
    return Reply(200, b'%b, "uptime_seconds": %.3f}' % (parts.counted[1], time.monotonic() - parts.started))


def events(parts: Parts, call: Call) -> Reply:
    id = call.query.get("id")
    stream = EventStream(parts.supervisor.machine.events, None if id is None else check_id(id), call.last_event_id)
    return Reply(200, stream=stream, content_type=EVENTS)


def health(parts: Parts, call: Call) -> Answer:
    trouble = parts.health.trouble()
    if trouble is not None:
        raise Unavailable(trouble)
    return done("watchdog and store work")


def metrics(parts: Parts, call: Call) -> Reply:
    return Reply(200, render(parts), content_type=METRICS)


def openapi(parts: Parts, call: Call) -> Reply:
    if not parts.description:
        parts.description = json.dumps(document(parts.routes)).encode("ascii")
    return Reply(200, parts.description)


def shutdown(parts: Parts, call: Call) -> Answer:
    return Answer({"success": True, "message": "exeio is shutting down"}, after=parts.shut_down)
