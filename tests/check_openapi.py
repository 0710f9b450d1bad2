"""Runs schemathesis against a real exeio and its /openapi.json: `python3 tests/check_openapi.py [SEED]`.

It takes an interpreter that has schemathesis and pytest. Three runs, with all checks: with the key, with the read-only
key, without one. The last line sums up; the exit status is 0 if nothing was found. What is left out is in LEFT_OUT and
`is_failure`, what is sent otherwise than it was made up in `harmless` and `tame`, each with the reason.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Sequence

from support import Server

#: Operations that are not called at all.
LEFT_OUT = {
    "shutdown": "it would end the server under test",
    "events": "its answer has no end; tests/test_events.py",
    "all_logs": "its answer has no end; tests/test_logfollow.py",
}
#: Seconds after which a run is taken for one that hangs, and for the answer to one request.
LIMIT, PATIENCE = 90, 10
READ_ONLY_KEY = "a-key-that-may-only-read"
# Processes that are there all the time, one that is periodic, and those that come and go.
IDS = ("a", "b.c", "d-e_f")
PERIODIC = "tick"
NEW = ("n", "n.1", "n-2_x")
COMMANDS = ("cat", "sleep", "true")
# What is sent to processes, and what ends them: a stop by another one would take its whole grace.
SIGNALS = {"signal": ("HUP", "sigterm", "WINCH", "CONT", "15"), "stop_signal": ("INT", "sigterm", "9")}


def main(seed: str = "1") -> int:
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through the `finally` below
    folder = Path(tempfile.mkdtemp(prefix="exeio-openapi-", dir="/tmp"))
    failed: List[str] = []
    server = Server("--read-only-key", READ_ONLY_KEY, "--stop-timeout", "0.5")
    try:
        server.start()
        described = server.get("/openapi.json")
        (folder / "openapi.json").write_text(json.dumps(described))
        for id in IDS:
            server.add(id, "cat")
        server.add(PERIODIC, "true", periodic=True, period_seconds=3600)
        runs = (("the key", server.key, 20), ("the read-only key", READ_ONLY_KEY, 5), ("no key", "", 5))
        for name, key, examples in runs:
            print(f"-- with {name}", flush=True)
            if run(server, folder, key, seed, examples):
                failed.append(f"with {name}")
            if key == server.key:
                failed += [f"{each} was never done" for each in never_done(server, described)]
    finally:
        try:
            server.close()
        except AssertionError as error:
            failed.append(f"the server: {error}")
        shutil.rmtree(folder, ignore_errors=True)
    print(f"schemathesis: 3 runs in {time.monotonic() - began:.0f} s, "
          + (f"FAILED: {'; '.join(failed)}" if failed else "no failure"))
    return 1 if failed else 0


def run(server: Server, folder: Path, key: str, seed: str, examples: int) -> int:
    """Run schemathesis with this key; returns its exit status."""
    config = [f'hooks = "{Path(__file__).resolve()}"']
    if key:
        config += ["[auth.openapi.key]", f'api_key = "{key}"']
    (folder / "schemathesis.toml").write_text("\n".join(config) + "\n")
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run", "openapi.json",
        "--url", server.url, "--checks", "all", "--seed", seed, "--max-examples", str(examples), "--workers", "2",
        "--request-timeout", str(PATIENCE), "--generation-database", "none", "--continue-on-failure", "--no-color",
        "--warnings", "off"]
    for name in LEFT_OUT:
        command += ["--exclude-operation-id", name]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(command, cwd=str(folder), env=env, timeout=LIMIT, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"schemathesis did not end within {LIMIT} s")
        return 1


def never_done(server: Server, described: Dict[str, Any]) -> List[str]:
    """The operations that were described and never succeeded: nothing was tested there."""
    counted = re.findall(r'requests_total\{method="(\w+)",path="([^"]+)",status="200"\}', server.get("/metrics"))
    wanted = [(method.upper(), path) for path, item in described["paths"].items() for method, operation in item.items()
              if method != "parameters" and operation["operationId"] not in LEFT_OUT]
    return [" ".join(each) for each in wanted if each not in counted]


# What follows runs inside schemathesis.


def harmless(name: str, case: Any) -> None:
    """Make the request for this operation one that may be sent; it stays as valid or invalid as it was.

    So only what is valid by itself is replaced, by something that is valid, too.
    """
    query, body, path = case.query, case.body, case.path_parameters
    if isinstance(query, dict) and str(query.get("follow", "no")).lower() in ("true", "1", "yes", ""):
        query["follow"] = "false"  # the answer would have no end
    for moment in ("since", "until"):
        if isinstance(query, dict) and isinstance(query.get(moment), str):
            query[moment] = re.sub("^([0-9]{4}-[0-9]{2}-)(29|30|31)", r"\g<1>28", query[moment])  # February has fewer
    if isinstance(path, dict) and is_id(path.get("id")):
        # Only a periodic process can be run, and an id cannot be changed: no schema can say that.
        path["id"] = PERIODIC if name == "run" else known(path["id"], NEW if name == "remove" else IDS)
    if isinstance(body, dict):
        if is_id(body.get("id")):
            body["id"] = path["id"] if name == "update" else known(body["id"], NEW)
        tame(body)


def tame(body: Dict[str, Any]) -> None:
    """Only programs that do no harm, as this account, without delays; and what no schema can say."""
    command = body.get("command")
    if is_text(command):
        command = body["command"] = COMMANDS[len(command) % len(COMMANDS)]
    if isinstance(body.get("args"), list) and all(is_text(each or "x") for each in body["args"]):
        # cat would read the files that they name.
        body["args"] = ["600"] if command == "sleep" else body["args"][:50] if command == "true" else []
    for field, replacement in (("working_dir", "/tmp"), ("user", str(os.getuid())), ("group", str(os.getgid()))):
        if is_text(body.get(field)) or is_number(body.get(field), 0, 2**32 - 2):
            body[field] = replacement
    for field, names in SIGNALS.items():
        if is_text(body.get(field)):
            body[field] = names[len(body[field]) % len(names)]
        elif is_number(body.get(field), 1, 64):
            body[field] = 15
    for field, least, most in LIMITS:
        if is_number(body.get(field), 0 if least >= 0 else -20, 86_400):
            body[field] = min(max(body[field], least), most)
    delays = [body.get(field) for field in ("restart_delay_seconds", "restart_delay_max_seconds")]
    if all(is_number(delay, 0, 86_400) for delay in delays):
        body["restart_delay_max_seconds"] = max(delays)
    elif is_number(delays[1], 0, 86_400) and delays[0] is None:
        body["restart_delay_max_seconds"] = max(delays[1], 1)


#: Fields that would cost time or other programs' CPU, and between what they are kept.
LIMITS = (
    ("wait_seconds", 0, 0.1), ("stop_timeout_seconds", 0, 0.5), ("nice", 0, 19), ("restart_delay_seconds", 0.2, 86_400),
    ("min_uptime_seconds", 5, 86_400), ("period_seconds", 1, 86_400),
)


def is_failure(failure: Any, response: Any) -> bool:
    """Whether it counts. PUT /health does not: it is 401 without a key, as on each path, and right.

    Who has no key does not learn what a path takes.
    """
    keyless = response.status_code == 401 and "exeio-api-key" not in response.request.headers
    return not (keyless and type(failure).__name__ == "UnsupportedMethodResponse")


def is_id(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) and value != "exeio"


def is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def known(id: str, ids: Sequence[str]) -> str:
    return id if id in (*ids, *NEW) else ids[len(id) % len(ids)]


def install() -> None:
    import schemathesis

    @schemathesis.hook
    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        harmless(case.operation.definition.raw.get("operationId"), case)

    @schemathesis.hook
    def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
        return is_failure(failure, response)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
install()
