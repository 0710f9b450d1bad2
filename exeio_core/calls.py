"""What a route of the API is made of: its line in the table, what its handler is given, and what that returns."""

from __future__ import annotations

import json
import time
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

from .access import Access
from .errors import Invalid
from .health import Health
from .http_server import Reply
from .listing import Listing
from .logfile import LogFile
from .payload import query_flag
from .supervisor import Supervisor
from .traffic import Traffic
from .usage import Sampler


class Parts:
    """What handlers work with."""

    def __init__(self, supervisor: Supervisor, log: LogFile, shut_down: Callable[[], None]) -> None:
        """`log` is exeio.log; `shut_down` begins the shutdown and returns at once."""
        self.supervisor = supervisor
        self.log = log
        self.shut_down = shut_down
        #: Where the API is, "https://127.0.0.1:8080" or "unix:/run/exeio.sock"; set once the socket is bound.
        self.url = ""
        self.started = time.monotonic()
        self.started_wall = time.time()
        self.sampler = Sampler(supervisor.machine)
        self.listing = Listing(supervisor.machine, self.sampler)
        self.health = Health(supervisor.machine, supervisor.saver.store.path)
        self.traffic = Traffic()
        #: What /info tells everybody, encoded; made when it is first asked for.
        self.about = b""
        #: The answer of /openapi.json, likewise.
        self.description = b""
        #: What it tells beyond that to those with a key, encoded but for its end, and the counts that are in it.
        self.counted: Tuple[Optional[Mapping[str, int]], bytes] = (None, b"")
        #: The table, for those handlers that tell of it.
        self.routes: Tuple[Route, ...] = ()


class Call(NamedTuple):
    """One call of an endpoint: the id of its path, its query and its body."""

    id: str
    query: Mapping[str, str]
    body: Dict[str, object]
    access: Access  # NONE only where no key is needed
    last_event_id: Optional[str] = None


class Answer(NamedTuple):
    """A JSON document to answer with; 200 unless `status` says else."""

    document: Mapping[str, object]
    status: int = 200
    after: Optional[Callable[[], None]] = None  # run once the answer was sent

    def reply(self) -> Reply:
        """Return it as the HTTP server takes it."""
        return Reply(self.status, json.dumps(self.document).encode("ascii"), after=self.after)


class Parameter(NamedTuple):
    """A parameter of a query; `schema` is the JSON Schema of its value, before that became a text."""

    name: str
    about: str
    schema: Mapping[str, object]
    required: bool = False


#: A document, or what is encoded already, or a stream.
Handler = Callable[[Parts, Call], Union[Answer, Reply]]


class Route(NamedTuple):
    """A line of the table. `path` has "{id}" where one is named.

    `body` and `answer` name schemas in `schemas`; `fails` are the statuses it may answer with beside those that
    `openapi` finds by itself. `follow`: with follow=true it answers with a stream without an end; `stream`: always.
    """

    method: str
    path: str
    handler: Handler
    about: str
    query: Tuple[Parameter, ...] = ()
    body: Optional[str] = None
    answer: str = "Done"
    fails: Tuple[int, ...] = ()
    open: bool = False  # needs no key
    follow: bool = False
    stream: bool = False

    @property
    def parameters(self) -> List[str]:
        """The names of the parameters it takes."""
        return [parameter.name for parameter in self.query]

    def follows(self, query: Mapping[str, str]) -> bool:
        """Return whether the answer to this query is a stream without an end."""
        if not self.follow:
            return self.stream
        try:
            return query_flag(query, "follow", False)
        except Invalid:
            return False  # the handler says so


def done(message: str, **more: object) -> Answer:
    """Return the usual answer of success."""
    return Answer({"success": True, "message": message, **more})
