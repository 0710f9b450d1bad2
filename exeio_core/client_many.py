"""The processes that a command is about: ids and patterns of them, and one request for each."""

from __future__ import annotations

import fnmatch
from typing import Any, List, Sequence
from urllib.parse import quote

from exeio_core.client import Client, Members, Refused
from exeio_core.client_options import Call
from exeio_core.client_output import complain, print_json
from exeio_core.errors import NotFound, printable
from exeio_core.options import program

REFUSED = 1
_SPECIAL = frozenset("*?[")  # none of them can be in an id


def path_of(path: str, id: str) -> str:
    """The path of an endpoint for the process `id`. Raises NotFound for one that would make another path."""
    if not id or "/" in id:
        raise NotFound(f"there is no process {id!r}; `{program()} list` shows what there is")
    return f"/{path}/{quote(id, safe='')}"


def is_pattern(word: str) -> bool:
    """Whether `word` is a pattern as of a shell, such as web-*."""
    return not _SPECIAL.isdisjoint(word)


def is_one(words: Sequence[str]) -> bool:
    """Whether `words` are a single id, whose answer is shown as it is; that of a pattern is always a list."""
    return len(words) == 1 and not is_pattern(words[0])


def chosen(client: Client, words: Sequence[str]) -> List[str]:
    """The ids that `words` name, each once; patterns are compared with all processes there are.

    Raises NotFound for a pattern that no process matches: nothing has been done then.
    """
    if not any(map(is_pattern, words)):
        return list(dict.fromkeys(words))
    present = ids(client)
    found: List[str] = []
    for word in words:
        matching = [id for id in present if fnmatch.fnmatchcase(id, word)] if is_pattern(word) else [word]
        if not matching:
            raise NotFound(f"no process matches {printable(word)!r}; `{program()} list` shows what there is")
        found += matching
    return list(dict.fromkeys(found))


def ids(client: Client, seconds: float = 0) -> List[str]:
    """The ids of all processes; an answer is waited for as long as usual, or so many seconds."""
    listed = client.get("/list", seconds=seconds) if seconds else client.get("/list")
    return [str(process["id"]) for process in listed]


def say(call: Call, answer: Any) -> int:
    """Show the answer to something that was done; returns the exit status."""
    if call.json:
        print_json(answer)
    elif isinstance(answer, dict) and answer.get("message"):
        print(printable(str(answer["message"])))
    return 0


def each(client: Client, call: Call, words: Sequence[str], body: Members = None, query: Members = None) -> int:
    """Post to the command's endpoint for each process; one that is refused does not keep the others from it.

    Returns the exit status. Raises ExeioError where there is only one, and for a pattern without a match.
    """
    name = call.command.name
    if is_one(words):
        return say(call, client.post(path_of(name, words[0]), body or None, query or None))
    listed = chosen(client, words)
    if name == "remove" or (name == "stop" and not query):
        _begin_to_stop(client, listed)
    answers: List[Any] = []
    status = 0
    for id in listed:
        try:
            answer = client.post(path_of(name, id), body or None, query or None)
            if not call.json:
                say(call, answer)
        except Refused as error:
            complain(error.message)
            answer, status = error.answer, REFUSED
        answers.append({"id": id, **answer} if isinstance(answer, dict) else answer)
    if call.json:
        print_json(answers)
    return status


def _begin_to_stop(client: Client, listed: Sequence[str]) -> None:
    """Ask for all stops before the first is waited for, so that all together take as long as the slowest."""
    for id in listed:
        try:
            client.post(path_of("stop", id), None, {"wait": "false"})
        except Refused:
            pass  # the request that follows is refused as well, and says so
