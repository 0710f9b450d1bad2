"""What each command of the client asks for and shows; those with more to them have modules of their own."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List

from exeio_core.client import Client, Refused, find_client
from exeio_core.client_all_logs import show_all_logs
from exeio_core.client_define import add, config, edit, update, wait_seconds
from exeio_core.client_logs import show_logs
from exeio_core.client_many import REFUSED, chosen, each, is_one, path_of, say
from exeio_core.client_options import Call
from exeio_core.client_output import (
    complain,
    is_terminal,
    print_json,
    print_members,
    print_process,
    print_processes,
    print_table,
)
from exeio_core.client_wait import wait
from exeio_core.options import UsageError, program


def run(call: Call) -> int:
    """Carry out a command of the client; returns the exit status. Raises ExeioError."""
    name = call.command.name
    if name in _WITHOUT_SUPERVISOR:
        return _WITHOUT_SUPERVISOR[name](call)
    client = find_client(call.connection, os.environ, key_needed=name != "info")
    try:
        return _HANDLERS[name](client, call)
    except Refused as error:
        if call.json and not getattr(call.options, "follow", False):  # there, each line is an object of its own
            print_json(error.answer)
        raise


# Looking


def _list(client: Client, call: Call) -> int:
    processes = client.get("/list")
    if call.json:
        print_json(processes)
    elif processes:
        print_processes(processes)
    elif is_terminal():
        print(f"There are no processes; add one with: {program()} add ID -- COMMAND [ARG …]")
    return 0


def _status(client: Client, call: Call) -> int:
    if is_one(call.words):
        return _show(call, client.get(path_of("status", call.words[0])), print_process)
    answers: List[Any] = []
    status = 0
    for id in chosen(client, call.words):
        try:
            answers.append(client.get(path_of("status", id)))
        except Refused as error:
            complain(error.message)
            status = REFUSED
    if call.json:
        print_json(answers)
        return status
    for number, answer in enumerate(answers):
        print(end="\n" if number else "")
        print_process(answer)
    return status


def _info(client: Client, call: Call) -> int:
    return _show(call, client.get("/info"), print_members)


def _show(call: Call, answer: Dict[str, Any], for_people: Callable[[Dict[str, Any]], None]) -> int:
    if call.json:
        print_json(answer)
    else:
        for_people(answer)
    return 0


def _logs(client: Client, call: Call) -> int:
    if is_one(call.words):
        return show_logs(client, path_of("logs", call.words[0]), call)
    return show_all_logs(client, call)


# Doing


def _signal(client: Client, call: Call) -> int:
    *words, name = call.words
    body: Dict[str, object] = {"signal": name}
    if call.options.group:
        body["group"] = True
    return each(client, call, words, body)


def _input(client: Client, call: Call) -> int:
    body: Dict[str, object] = {}
    if len(call.words) > 1:
        body["input"] = call.words[1]
        if call.options.no_newline:
            body["newline"] = False
    elif not call.options.eof:
        raise UsageError("input needs a text, or --eof")
    if call.options.eof:
        body["eof"] = True
    return say(call, client.post(path_of("input", call.words[0]), body))


def _start(client: Client, call: Call) -> int:
    return each(client, call, call.words, body=wait_seconds(call))


def _stop(client: Client, call: Call) -> int:
    return each(client, call, call.words, query={"wait": "false"} if call.options.no_wait else {})


def _remove(client: Client, call: Call) -> int:
    return each(client, call, call.words, query={"purge": "true"} if call.options.purge else {})


def _plain(client: Client, call: Call) -> int:
    return each(client, call, call.words)


def _all(client: Client, call: Call) -> int:
    """What answers with a result for each process: restart-all, stop-all, reload."""
    try:
        answer = client.post(f"/{call.command.name}")
    except Refused as error:
        if not call.json:
            _print_results(error.answer)
        raise
    if not call.json:
        _print_results(answer)
    return say(call, answer)


def _print_results(answer: Any) -> None:
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list) or not results:
        return
    rows = []
    for result in results:
        if isinstance(result, dict):
            done = "done" if result.get("success", True) else "failed"
            rows.append([str(result.get("id", "-")), done, str(result.get("message") or "")])
    print_table(["ID", "RESULT", "MESSAGE"], rows, status_column=1)


def _shutdown(client: Client, call: Call) -> int:
    return say(call, client.post("/shutdown"))


def _completion(call: Call) -> int:
    from exeio_core.client_completion import complete  # only here, as they read the tables of all commands

    return complete(call)


def _man(call: Call) -> int:
    from exeio_core.client_manual import manual

    print(end=manual())
    return 0


_WITHOUT_SUPERVISOR: Dict[str, Callable[[Call], int]] = {"completion": _completion, "man": _man}

_HANDLERS: Dict[str, Callable[[Client, Call], int]] = {
    "list": _list, "status": _status, "add": add, "update": update, "edit": edit, "config": config, "start": _start,
    "stop": _stop, "restart": _start, "run": _plain, "remove": _remove, "signal": _signal, "input": _input,
    "wait": wait, "logs": _logs, "clear-log": _plain, "restart-all": _all, "stop-all": _all, "reload": _all,
    "info": _info, "shutdown": _shutdown,
}
