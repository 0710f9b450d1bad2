#!/usr/bin/env python3
"""Long tests by hand: `torture.py kill --rounds 200`, `torture.py random --seconds 600 --seed 1`; the suite runs
short ones. Each prints its seed, and raises AssertionError for the first thing that is wrong.

kill: exeio is killed at random moments while processes are added, removed and stopped; after each start the file
parses, every acknowledged change is in it, and no process is there twice.

random: many clients ask for everything at once; what they are answered must be what some order of their requests
would have been answered, one by one, and in the end nothing may be left over.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Set, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import nasty
from support import Server, wait_for


@contextlib.contextmanager
def in_thread(work: Callable[[], Any]) -> Iterator[None]:
    """Do `work` meanwhile, and wait for its end; a failed connection is no failure of it."""
    def do() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            work()
    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def begin(seed: Optional[int]) -> random.Random:
    seed = random.randrange(1 << 32) if seed is None else seed
    print(f"seed {seed}", flush=True)
    return random.Random(seed)


# kill

class Book:
    """What a client knows of one process: None where the last change was not acknowledged."""

    def __init__(self) -> None:
        self.state: Dict[str, Optional[str]] = {}

    def note(self, id: str, state: Optional[str]) -> None:
        self.state[id] = state


def kill(rounds: int, seed: Optional[int], clients: int = 3) -> None:
    """Kill exeio so often while it saves."""
    dice = begin(seed)
    server = Server("--stop-timeout", "2", "--no-echo")
    book = Book()
    try:
        for number in range(rounds):
            server.start()
            check_book(server, book)
            threads = [threading.Thread(target=change, args=(server, book, number * clients + one, dice.random()))
                       for one in range(clients)]
            for thread in threads:
                thread.start()
            time.sleep(dice.uniform(0.0, 0.25))
            server.kill()
            for thread in threads:
                thread.join()
            check_file(server, book)
            if number % 10 == 9:
                print(f"{number + 1} rounds, {len(book.state)} processes", flush=True)
        server.start()
        check_book(server, book)
    finally:
        server.close()


def change(server: Server, book: Book, serial: int, chance: float) -> None:
    """Add, stop, start and remove processes until exeio is gone."""
    dice = random.Random(chance)
    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    mine: List[str] = []
    number = 0
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        while True:
            if mine and dice.random() < 0.4:
                id = dice.choice(mine)
                name = dice.choice(["stop", "start", "remove"])
                book.note(id, None)
                status = post(connection, server, f"/{name}/{id}", {} if name == "start" else None)
                if status == 200:
                    book.note(id, {"stop": "down", "start": "up", "remove": "absent"}[name])
                    if name == "remove":
                        mine.remove(id)
                else:
                    assert (name, status) == ("start", 409), (name, status)
                    book.note(id, "up")
                continue
            number += 1
            id = f"p{serial}-{number}"
            book.note(id, None)
            status = post(connection, server, "/add", {"id": id, "command": "sleep", "args": ["1000"],
                                                       "save_for_next_run": True, "auto_restart": True})
            assert status == 200, status
            book.note(id, "up")
            mine.append(id)


def post(connection: http.client.HTTPConnection, server: Server, path: str, body: object = None) -> int:
    data = None if body is None else json.dumps(body)
    connection.request("POST", path, data, {"exeio-api-key": server.key})
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


def saved(server: Server) -> Dict[str, str]:
    """What processes.json holds: up or down for each id."""
    path = server.config_dir / "processes.json"
    entries = json.loads(path.read_text()) if path.exists() else []
    found = {entry["id"]: "down" if entry.get("stopped") else "up" for entry in entries}
    assert len(found) == len(entries), "an id is there twice"
    return found


def check_file(server: Server, book: Book) -> None:
    """Every acknowledged change is in the file."""
    found = saved(server)
    for id, state in book.state.items():
        if state is not None:
            assert found.get(id, "absent") == state, (id, state, found.get(id))
    assert set(found) <= set(book.state)


def check_book(server: Server, book: Book) -> None:
    """After a start: what is saved is there once, and never twice meanwhile; then all of it is removed."""
    expected = saved(server)
    instance = (server.data_dir / "instance-id").read_text().strip()

    def settled() -> bool:
        running = [id for id, _ in nasty.marks(instance).values()]
        assert len(running) == len(set(running)), f"there twice: {sorted(running)}"
        listed = {one["id"]: one["status"] for one in server.get("/list")}
        wanted = {id: "running" if state == "up" else "manually_stopped" for id, state in expected.items()}
        return listed == wanted and set(running) == {id for id, state in expected.items() if state == "up"}

    wait_for(settled, 20, "what is saved to be there once")
    for id in list(expected)[: max(0, len(expected) - 10)]:
        server.post(f"/remove/{id}")
        del expected[id]
    book.state = {id: "absent" for id in book.state}
    book.state.update(expected)


# random

IDS = ("a", "b", "c", "d")
UNMOVED = ("running", "backoff", "waiting", "stopped", "failed")


OVERTAKEN = re.compile("being removed|by another request").search


class Call(NamedTuple):
    """A request that concerns one process, and its answer: when both were, and what that says."""

    id: str
    what: str
    began: float
    ended: float
    status: int
    words: str


Move = Callable[[str], Optional[str]]
OPTIONAL: Set[Move] = set()  # what a call that was overtaken by another may have done before that


def moves(call: Call) -> List[Move]:
    """The steps a call consists of: each gives the state after it, None where it could not have been then.

    States are absent, down (added, or stopped by request) and up (all else).
    """
    def present(state: str) -> Optional[str]:
        return None if state == "absent" else state

    def to(after: str, *before: str) -> Move:
        return lambda state: after if state in before else None

    def maybe(move: Move) -> Move:
        OPTIONAL.add(move)
        return move

    what, status, words = call.what, call.status, call.words
    if OVERTAKEN(words):
        return [maybe(to("up", "up", "down"))] if what in ("start", "restart") else []
    if status == 404:
        return [to("absent", "absent")]
    if status == 400:
        return []
    if what == "add":
        return [present] if status == 409 else [to("up", "absent")]
    if what == "add down":
        return [present] if status == 409 else [to("down", "absent")]
    if what in ("start", "restart"):
        return [to("up", "up")] if status == 409 else [to("up", "up", "down")]
    if what == "stop":
        return [to("down", "up", "down")]
    if what == "remove":
        return [to("down", "up", "down"), to("absent", "down")]
    if what == "status":
        return [to("down", "down")] if words == "manually_stopped" else [to("up", "up")] if words in UNMOVED \
            else [present]
    return [present]


def check_history(calls: List[Call]) -> str:
    """Look for an order of the calls that explains all answers, each between its begin and its end; returns one state
    that may be in the end. AssertionError where there is none.

    A configuration is a state and the steps of unfinished calls that have been made to get there.
    """
    steps: Dict[Tuple[int, int], Move] = {}
    events = sorted([(call.began, 0, number) for number, call in enumerate(calls)]
                    + [(call.ended, 1, number) for number, call in enumerate(calls)])
    configurations: Set[Tuple[str, FrozenSet[Tuple[int, int]]]] = {("absent", frozenset())}
    for _, ends, number in events:
        if not ends:
            steps.update({(number, place): move for place, move in enumerate(moves(calls[number]))})
            continue
        own = {step for step in steps if step[0] == number}
        found = set(configurations)
        todo = list(configurations)
        while todo:
            state, made = todo.pop()
            for step, move in steps.items():
                if step in made or (step[1] and (step[0], step[1] - 1) not in made):
                    continue
                after = move(state)
                new = (after, made | {step})
                if after is not None and new not in found:
                    found.add(new)  # type: ignore[arg-type]
                    todo.append(new)  # type: ignore[arg-type]
        needed = {step for step in own if steps[step] not in OPTIONAL}
        configurations = {(state, made - own) for state, made in found if needed <= made}
        for step in own:
            del steps[step]
        if not configurations:
            wrong = calls[number]
            near = [call for call in calls if call.ended > wrong.began - 0.02 and call.began < wrong.ended]
            base = near[0].began
            lines = [f"  {call.began - base:.4f} to {call.ended - base:.4f}: {call.what} {call.status} {call.words}"
                     for call in sorted(near, key=lambda call: call.began)]
            raise AssertionError(f"no order explains the answer to {wrong}:\n" + "\n".join(lines))
    return "/".join(sorted({state for state, _ in configurations}))


class Storm:
    """Clients that ask one server for everything at once, and what they were answered."""

    def __init__(self, server: Server, dice: random.Random) -> None:
        self.server = server
        self.calls: List[Call] = []  # appending is atomic
        self.faults: List[str] = []
        self.seeds = [dice.random() for _ in range(8)]
        self.over = False
        self.ending = False

    def run(self, seconds: float) -> None:
        threads = [threading.Thread(target=self.client, args=(seed,)) for seed in self.seeds]
        threads.append(threading.Thread(target=self.look_for_doubles))
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.faults:
            time.sleep(0.1)
        self.over = True
        for thread in threads:
            thread.join()
        assert not self.faults, self.faults[0]

    def client(self, seed: float) -> None:
        dice = random.Random(seed)
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        with contextlib.closing(connection):
            try:
                while not self.over:
                    self.ask(connection, dice)
            except (OSError, http.client.HTTPException) as error:
                if not self.ending:
                    self.faults.append(f"the connection failed: {error!r}")
            except Exception as error:
                self.faults.append(repr(error))

    def ask(self, connection: http.client.HTTPConnection, dice: random.Random) -> None:
        id = dice.choice(IDS)
        what = dice.choices(*zip(*WEIGHTS))[0]
        method, path, body = "POST", f"/{what}/{id}", None
        if what == "add":
            path, body = "/add", definition(dice, id)
            what = "add" if body.get("start", True) else "add down"
        elif what == "update":
            body = dice.choice([{"env": {"A": str(dice.random())}}, {"auto_restart": True}, {"auto_restart": False},
                                {"save_for_next_run": dice.random() < 0.5}, {"stop_timeout_seconds": 0.3}])
        elif what == "signal":
            body = {"signal": dice.choice(["KILL", "TERM", "HUP", "CONT"]), "group": dice.random() < 0.3}
        elif what == "input":
            body = {"input": "x" * dice.choice([1, 70000])}
        elif what in ("stop-all", "restart-all", "reload"):
            path = f"/{what}"
        elif what in ("status", "logs"):
            method = "GET"
        elif what == "list":
            method, path = "GET", "/list"
        elif what == "stop" and dice.random() < 0.2:
            path += "?wait=false"
        elif what == "remove" and dice.random() < 0.3:
            path += "?purge=true"
        data = None if body is None else json.dumps(body)
        began = time.monotonic()
        connection.request(method, path, data, {"exeio-api-key": self.server.key})
        with connection.getresponse() as response:
            answer = json.loads(response.read())
        ended = time.monotonic()
        self.note(id, what, began, ended, response.status, answer)

    def note(self, id: str, what: str, began: float, ended: float, status: int, answer: Any) -> None:
        failed = [result["message"] for result in answer.get("results", []) if not result["success"]] \
            if isinstance(answer, dict) else []
        if status >= 500 and not self.ending:
            self.faults.append(f"{what} {id}: {status} {answer}")
        if what in ("reload", "list") or (status not in (200, 202, 400, 404, 409) and not failed):
            return
        if what in ("stop-all", "restart-all"):
            results = {result["id"]: result for result in answer["results"]}
            for one in IDS:
                if one in results:
                    done = 200 if results[one]["success"] else 409
                    self.calls.append(Call(one, what[:-4], began, ended, done, results[one]["message"]))
                elif what == "stop-all":
                    self.calls.append(Call(one, "status", began, ended, 404, what))
                else:  # not there, or removed by another request before it could start
                    self.calls.append(Call(one, "restart", began, ended, 409, "by another request"))
            return
        words = answer["status"] if what == "status" and status == 200 else answer.get("message", "")
        self.calls.append(Call(id, what, began, ended, status, words))

    def look_for_doubles(self) -> None:
        instance = (self.server.data_dir / "instance-id").read_text().strip()
        while not self.over:
            runs: Dict[str, List[int]] = {}
            for pid, (id, _) in nasty.marks(instance).items():
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0001000\0"):
                        runs.setdefault(id, []).append(pid)
            for id, pids in runs.items():
                # Both were there at once only if the first one still is after the last one was seen.
                if len(pids) > 1 and all(map(nasty.alive, [*pids, *pids])):
                    self.faults.append(f"{id} is there more than once: {pids}")
            time.sleep(0.03)


WEIGHTS = (("add", 8), ("start", 5), ("stop", 5), ("restart", 5), ("remove", 5), ("update", 4), ("signal", 4),
           ("input", 2), ("clear-log", 1), ("reload", 3), ("status", 8), ("logs", 2), ("list", 2),
           ("stop-all", 1), ("restart-all", 1))


def definition(dice: random.Random, id: str) -> Dict[str, Any]:
    """A process of one kind or another; its main process is a `sleep 1000` once it has found itself."""
    fields: Dict[str, Any] = {"id": id, "command": "/bin/sh", "stop_timeout_seconds": 0.15,
                              "auto_restart": dice.random() < 0.5, "save_for_next_run": dice.random() < 0.5,
                              "restart_delay_seconds": 0.05, "restart_delay_max_seconds": 0.1}
    script = dice.choice([
        "exec sleep 1000", "exec sleep 1000", "trap '' TERM; exec sleep 1000", "exit 3", "cat; exec sleep 1000",
        "setsid sleep 2000 & exec sleep 1000", "(trap '' TERM; sleep 2000) & exec sleep 1000",
        "sleep 0.1; exec sleep 1000", "sleep 2000 & sleep 0.1"])
    if dice.random() < 0.15:
        fields.update(periodic=True, period_seconds=dice.choice([0.1, 0.5]))
        script = dice.choice(["exit 0", "sleep 0.05", "exec sleep 1000"])
    fields["args"] = ["-c", script]
    if dice.random() < 0.1:
        fields["start"] = False
    elif dice.random() < 0.05:
        fields["command"] = "/nowhere"
    return fields


def counts(server: Server) -> Tuple[int, int]:
    """The threads and descriptors of the server."""
    return tuple(len(list(Path(f"/proc/{server.pid}/{what}").iterdir())) for what in ("task", "fd"))  # type: ignore


def random_storm(seconds: float, seed: Optional[int]) -> int:
    """Let clients storm so long; returns the number of requests."""
    dice = begin(seed)
    server = Server("--stop-timeout", "1", "--no-echo").start()
    try:
        Storm(server, dice).run(0.3)  # the threads and descriptors that stay are there by now
        clean(server)
        before = counts(server)
        storm = Storm(server, dice)
        storm.run(seconds)
        for id in IDS:
            expected = check_history([call for call in storm.calls if call.id == id])
            status, answer = at_rest(server, id)
            state = "absent" if status == 404 else "down" if answer["status"] == "manually_stopped" else "up"
            assert state in expected.split("/"), (id, state, expected)
            if status == 200:
                assert answer["saved"] == (id in saved(server)), answer
                assert not answer["saved"] or saved(server)[id] == state, (id, state, saved(server))
        clean(server)
        wait_for(lambda: counts(server) <= before and counts(server)[1] <= before[1], 10,
                 f"threads and descriptors to be as before, {before}")
        wait_for(lambda: nasty.zombies(server.pid) == [], what="zombies")
        number = len(storm.calls)
        last = Storm(server, dice)
        last.ending = True
        with in_thread(lambda: last.run(0.5)):
            time.sleep(dice.uniform(0.1, 0.4))
            server.stop()  # and nobody is left
        return number
    finally:
        server.close()


def at_rest(server: Server, id: str) -> Tuple[int, Any]:
    """The answer to a request for its status, once it stops no more: a last stop may not have been waited for."""
    def rested() -> Tuple[Tuple[int, Any], ...]:
        status, answer = server.call("GET", f"/status/{id}")
        return ((status, answer),) if status == 404 or answer["status"] != "stopping" else ()
    return wait_for(rested, what=f"{id} to have stopped")[0]


def clean(server: Server) -> None:
    for one in server.get("/list"):
        server.post(f"/remove/{one['id']}")
    assert server.get("/list") == [] and saved(server) == {}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    killer = commands.add_parser("kill")
    killer.add_argument("--rounds", type=int, default=200)
    killer.add_argument("--seed", type=int)
    stormer = commands.add_parser("random")
    stormer.add_argument("--seconds", type=float, default=30)
    stormer.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    began = time.monotonic()
    if arguments.command == "kill":
        kill(arguments.rounds, arguments.seed)
    else:
        print(f"{random_storm(arguments.seconds, arguments.seed)} requests")
    print(f"clean after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
