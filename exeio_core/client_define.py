"""The commands that say what a process is: add, update, config and edit."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, cast

from exeio_core.client import Client, Refused
from exeio_core.client_files import Definition, edited, forget, kept_in, parse, read_definitions, read_text
from exeio_core.client_many import REFUSED, path_of, say
from exeio_core.client_options import Call, seconds_option
from exeio_core.client_output import complain, print_json
from exeio_core.errors import ExeioError, Failed, Invalid
from exeio_core.files import whole_path
from exeio_core.options import UsageError, program

# Of an entry of processes.json, what is no field of a process (`stopped` becomes `start`).
_FILE_ONLY = ("stopped", "log_file")


def add(client: Client, call: Call) -> int:
    """Add the process that the options define, or those of a file; returns the exit status."""
    if call.options.file is not None:
        return _add_from_file(client, call)
    if not call.words:
        raise UsageError("add needs ID [options] -- COMMAND [ARG …], or -f FILE")
    if "command" not in call.fields:
        raise UsageError(f"add needs a command, as in: {program()} add web -- python3 -m http.server 8000")
    definition = {"id": call.words[0], **_with_own_folder(client, call.fields)}
    return say(call, client.post("/add", {**definition, **_extras(call)}))


def _add_from_file(client: Client, call: Call) -> int:
    definitions, single = read_definitions(call.options.file)
    if call.words and not single:
        raise UsageError("an ID goes with a file of one process; that one holds a list")
    bodies = [_body(client, call, definition) for definition in definitions]
    if single:
        return say(call, client.post("/add", bodies[0]))
    answers: List[Any] = []
    status = 0
    for body in bodies:
        try:
            answer = client.post("/add", body)
            if not call.json:
                say(call, answer)
        except Refused as error:
            complain(f"{body.get('id', 'a process without id')}: {error.message}")
            answer, status = error.answer, REFUSED
        answers.append({"id": body.get("id"), **answer} if isinstance(answer, dict) else answer)
    if call.json:
        print_json(answers)
    return status


def _body(client: Client, call: Call, definition: Definition) -> Definition:
    """What to send for a definition of a file: an entry of processes.json as well, and what the options say."""
    body = {name: value for name, value in definition.items() if name not in _FILE_ONLY}
    if definition.get("stopped") is True:
        body["start"] = False
    fields = _with_own_folder(client, call.fields)
    env, more = body.get("env"), fields.get("env")
    if isinstance(env, dict) and isinstance(more, dict):
        fields = {**fields, "env": {**env, **more}}
    if call.words:
        body["id"] = call.words[0]
    return {**body, **fields, **_extras(call)}


def _extras(call: Call) -> Dict[str, object]:
    """What /add takes beside the definition."""
    return {**({"start": False} if call.options.no_start else {}), **wait_seconds(call)}


def wait_seconds(call: Call) -> Dict[str, object]:
    """The member of a body that --wait-seconds stands for."""
    given: Optional[str] = call.options.wait_seconds
    return {} if given is None else {"wait_seconds": seconds_option("--wait-seconds", given)}


def _with_own_folder(client: Client, fields: Definition) -> Definition:
    """A relative working_dir is meant from here, not from where the supervisor happened to be started."""
    folder = fields.get("working_dir")
    if isinstance(folder, str) and client.address.local:
        return {**fields, "working_dir": whole_path(folder)}
    return fields


def update(client: Client, call: Call) -> int:
    """Change the fields that the options give."""
    id = call.words[0]
    fields = dict(_with_own_folder(client, call.fields))
    if not fields:
        raise UsageError(f"update needs at least one field to change; see: {program()} update --help")
    if isinstance(fields.get("env"), dict) and "env" not in call.options.reset:
        # The API takes env as a whole; here a name is added to what there is.
        present = _definition(client, id, secrets=True).get("env") or {}
        fields["env"] = {**cast(Definition, present), **cast(Definition, fields["env"])}
    return say(call, client.post(path_of("update", id), fields))


def config(client: Client, call: Call) -> int:
    """Print the definition."""
    print_json(_definition(client, call.words[0], call.options.secrets))
    return 0


def _definition(client: Client, id: str, secrets: bool) -> Definition:
    answer: Definition = client.get(path_of("config", id), {"secrets": "true"} if secrets else None)
    return answer


def edit(client: Client, call: Call) -> int:
    """Let the user change the definition in an editor, and apply what changed; no text of theirs is lost."""
    id = call.words[0]
    before = _definition(client, id, secrets=True)
    text = json.dumps(before, indent=2, ensure_ascii=False) + "\n"
    begin = read_text(call.options.file)[0] if call.options.file is not None else text
    made, path = edited(begin, id)
    try:
        changes = _changes(before, made)
        answer = client.post(path_of("update", id), changes) if changes else _nothing(id)
    except ExeioError as error:
        # The kind of failure stays, and with it the exit status.
        again = f"correct it with: {program()} edit {id} -f {path}"
        error.message = f"{error.message}; {kept_in(path)}; {again}"
        raise
    except KeyboardInterrupt:
        complain(kept_in(path))
        raise
    os.unlink(path)
    if call.options.file is not None:
        forget(call.options.file, id)
    return say(call, answer)


def _nothing(id: str) -> Dict[str, object]:
    return {"success": True, "message": f"Process {id!r}: nothing to change", "changed": [], "restarted": False}


def _changes(before: Definition, made: str) -> Definition:
    """The fields that differ in the user's text; null for those that were taken out. Raises Invalid, Failed."""
    if not made.strip():
        raise Failed("the text is empty, and nothing was changed")
    after = parse(made, "the text")
    if not isinstance(after, dict):
        raise Invalid("the text is not a JSON object, and nothing was changed")
    gone: Definition = {name: None for name, value in before.items() if name not in after and value is not None}
    # As texts, since to Python 0 is false, and 1 is 1.0.
    same = {name for name in before if name in after and json.dumps(before[name]) == json.dumps(after[name])}
    return {**{name: value for name, value in after.items() if name not in same}, **gone}
