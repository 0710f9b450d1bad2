"""The command `wait`: asks for the status of processes until it is the wanted one."""

from __future__ import annotations

import time
from typing import Any, Dict, FrozenSet, List, Optional

from exeio_core.client import READ_SECONDS, Client
from exeio_core.client_many import REFUSED, chosen, is_one, path_of
from exeio_core.client_options import Call, seconds_option
from exeio_core.client_output import complain, print_json
from exeio_core.options import UsageError, program

STATUSES = ("running", "stopping", "backoff", "waiting", "stopped", "failed", "manually_stopped")
ENDED = ("stopped", "failed", "manually_stopped")
WORDS = (*STATUSES, "ended")

# Seconds between two questions: short at first, for scripts that wait for what is nearly there.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_LONGEST_TIMEOUT = 365 * 86_400


def wait(client: Client, call: Call) -> int:
    """Carry out `wait`; returns 0 when each process has had the status, 1 if not in time. Raises ExeioError."""
    wanted = _wanted(call.options.wanted)
    given: Optional[str] = call.options.timeout
    seconds = None if given is None else seconds_option("--timeout", given, _LONGEST_TIMEOUT)
    deadline = None if seconds is None else time.monotonic() + seconds
    left = chosen(client, call.words)
    seen: Dict[str, Any] = {}
    pause = _FIRST_PAUSE
    while True:
        for id in left:
            patience = READ_SECONDS if deadline is None else max(1.0, deadline - time.monotonic())
            seen[id] = client.get(path_of("status", id), seconds=min(READ_SECONDS, patience))
        left = [id for id in left if seen[id].get("status") not in wanted]
        now = time.monotonic()
        if not left or (deadline is not None and now >= deadline):
            break
        time.sleep(pause if deadline is None else min(pause, deadline - now))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    for id in left:
        complain(_too_late(id, str(seen[id].get("status")), call.options.wanted, given or ""))
    if call.json:
        shown: List[Any] = list(seen.values())
        print_json(shown[0] if is_one(call.words) else shown)
    return REFUSED if left else 0


def _wanted(text: Optional[str]) -> FrozenSet[str]:
    if text is None:
        raise UsageError(f"wait needs --for STATUS, as in: {program()} wait web --for running --timeout 10")
    words = {word.strip().lower() for word in text.split(",")}
    for word in sorted(words.difference(WORDS)):
        raise UsageError(f"--for must be one of {', '.join(WORDS)}, not {word!r}")
    return frozenset(words - {"ended"} | (set(ENDED) if "ended" in words else set()))


def _too_late(id: str, status: str, wanted: str, seconds: str) -> str:
    text = f"{id!r} is {status} after {seconds} seconds, not {wanted}"
    if status in ENDED:
        return f"{text}; `--for ended` takes every end, and `{program()} start {id}` starts it"
    return f"{text}; `{program()} status {id}` says more"
