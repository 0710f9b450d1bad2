"""`exeio import FILE`: shows what other supervisors' files would become, and adds it when told to."""

from __future__ import annotations

import os
from typing import Any, Dict, List

from exeio_core.client import Refused, find_client
from exeio_core.client_options import Call
from exeio_core.client_output import command_line, complain, print_json, print_table
from exeio_core.errors import printable
from exeio_core.import_plan import Plan, Planned, read_text
from exeio_core.options import UsageError, program

_KINDS = ("supervisord", "procfile", "pm2")


def run(call: Call) -> int:
    """Carry out `import`; returns the exit status. Raises ExeioError."""
    plan = _read(call.words[0], call.options.format)
    if not call.options.apply:
        _show(call, plan)
        return 0
    return _apply(call, plan)


def _read(path: str, kind: str) -> Plan:
    if kind not in (None, *_KINDS):
        raise UsageError(f"--format must be {', '.join(_KINDS)}, not {kind!r}")
    kind = kind or _kind(path)
    # What is not needed is not imported: a file is of one kind.
    if kind == "supervisord":
        from exeio_core import import_supervisord

        return import_supervisord.read(path, os.environ)
    if kind == "procfile":
        from exeio_core import import_procfile

        return import_procfile.read(path)
    from exeio_core import import_pm2

    return import_pm2.read(path)


def _kind(path: str) -> str:
    """What a file seems to be, by its name and its text. Raises UsageError."""
    name = os.path.basename(path).lower()
    if name.startswith("procfile"):
        return "procfile"
    if name.endswith((".json", ".js", ".cjs")):
        return "pm2"
    text = read_text(path)
    if name.endswith((".conf", ".ini")) or any(
            line.startswith(("[program:", "[supervisord]", "[include]")) for line in text.splitlines()):
        return "supervisord"
    raise UsageError(f"it cannot be told what {path} is; say it with --format {'|'.join(_KINDS)}")


def _definitions(plan: Plan) -> List[Dict[str, object]]:
    """As processes.json has them."""
    return [one.definition if one.start else {**one.definition, "stopped": True} for one in plan.processes]


def _unmapped(plan: Plan) -> List[Dict[str, object]]:
    return [{"where": one.where, "key": one.key, "reason": one.reason} for one in plan.unmapped]


def _show(call: Call, plan: Plan) -> None:
    if call.json:
        print_json({"success": True, "message": _counted(plan), "applied": False, "processes": _definitions(plan),
                    "unmapped": _unmapped(plan)})
        return
    _print_processes(plan.processes)
    _print_unmapped(plan)
    print("\nThe definitions, as processes.json has them:")
    print_json(_definitions(plan))
    print(f"\n{_counted(plan)}. Nothing was changed; `{program()} import {call.words[0]} --apply` adds them.")


def _counted(plan: Plan) -> str:
    count, others = len(plan.processes), len(plan.unmapped)
    return (f"{count} process{'es' * (count != 1)} in this {plan.kind} file, "
            f"{others} setting{'s' * (others != 1)} that cannot be mapped")


def _print_processes(processes: List[Planned]) -> None:
    rows = [[str(one.definition["id"]), "yes" if one.start else "no",
             "yes" if one.definition.get("auto_restart") else "no", command_line(one.definition)] for one in processes]
    print_table(["ID", "START", "RESTART", "COMMAND"], rows)


def _print_unmapped(plan: Plan) -> None:
    if plan.unmapped:
        print("\nNot mapped:")
        print_table(["WHERE", "KEY", "WHY"], [[one.where, one.key, one.reason] for one in plan.unmapped])


def _apply(call: Call, plan: Plan) -> int:
    """Add all; one that is refused does not keep the others from it."""
    client = find_client(call.connection, os.environ, key_needed=True)
    results: List[Dict[str, Any]] = []
    for one in plan.processes:
        body = dict(one.definition) if one.start else {**one.definition, "start": False}
        try:
            answer = client.post("/add", body)
            results.append({"id": body["id"], "success": True, "message": str(answer.get("message", "added"))})
        except Refused as error:
            results.append({"id": body["id"], "success": False, "message": error.message})
    failed = [result for result in results if not result["success"]]
    if call.json:
        print_json({"success": not failed, "message": _counted(plan), "applied": True, "results": results,
                    "unmapped": _unmapped(plan)})
    else:
        for result in results:
            if result["success"]:
                print(printable(result["message"]))
            else:
                complain(f"{result['id']}: {result['message']}")
        _print_unmapped(plan)
    return 1 if failed else 0
