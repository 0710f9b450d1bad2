"""What a process is to be: the table of its fields, and the checked definition from a request or saved one.

The table is `ProcessSpec` itself: a field's name, type, default, kind (what it may hold) and help.
Checks, the JSON schema, the client's options and what a change means are all read from it.
"""

import re
from types import MappingProxyType
from typing import Annotated, Any, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Tuple

from .errors import Invalid
from .values import (
    Account,
    Choice,
    Env,
    ExitCodes,
    Flag,
    Integer,
    Kind,
    Octal,
    Seconds,
    Signal,
    Text,
    Texts,
    check_signal,
    shown,
    signal_name,
    signal_number,
)

__all__ = [
    "FIELDS", "ID_SCHEMA", "RUN_FIELDS", "Field", "ProcessSpec", "check_id", "check_signal", "json_schema",
    "signal_name", "signal_number", "stored_schemas",
]

DAY = 86_400
YEAR = 31_536_000

_ID = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
ID_SCHEMA: Mapping[str, object] = {"type": "string", "pattern": f"^{_ID}$", "not": {"const": "exeio"}}


def check_id(text: object) -> str:
    """The id, if it is one; else Invalid.

    An id names its log, `<id>.log`. No two ids share a file on a file system that tells case apart: a log
    ends in ".log" and what rotation makes of it in ".log.<digits>", so "a.log.1" (`a.log.1.log`) never meets
    "a" (`a.log.1`). Only the supervisor's own log, `exeio.log`, is taken. Whoever deletes the files of "a"
    must match the digits to the end, since `a.log.*` would take those of "a.log.1" as well.
    """
    if not isinstance(text, str) or not re.fullmatch(_ID, text):
        raise Invalid(
            "id must be a text of 1 to 64 letters (a-z, A-Z), digits, dots, dashes and underscores that "
            f"starts with a letter or digit, not {shown(text)}", "id")
    if text == "exeio":
        raise Invalid('id must not be "exeio": that is the name of the supervisor\'s own log', "id")
    return text


class _Id(Kind):
    """The name of a process, in addresses and of its log file."""

    metavar = "ID"

    def check(self, name: str, value: object) -> str:
        return check_id(value)

    def schema(self) -> Dict[str, object]:
        return dict(ID_SCHEMA)


class _About(NamedTuple):
    """What the table knows of a field beyond its name, type and default.

    `run`: a running process has it from its start, so that a change needs a restart. `listed`: a field of the
    Rust program, written even where it is the default.
    """

    kind: Kind
    help: str
    run: bool = False
    listed: bool = False


# No dataclasses in what a start imports: their decorator and the modules it needs take a fifth of its time.
class ProcessSpec(NamedTuple):
    """One process as it was asked for. Made by `from_json`, which checks it; never changes.

    None stands for what is decided elsewhere (exeio's own folder, account, mask or niceness, its options) or
    for no limit.
    """

    id: Annotated[str, _About(
        _Id(), "name of the process, in addresses and of its log file", listed=True)]
    command: Annotated[str, _About(
        Text("COMMAND"), "program to run, looked up in its PATH or, with a slash, from working_dir",
        run=True, listed=True)]
    args: Annotated[Tuple[str, ...], _About(
        Texts(), "its arguments", run=True, listed=True)] = ()
    working_dir: Annotated[Optional[str], _About(
        Text("FOLDER"), "folder it runs in; exeio's own where there is none", run=True, listed=True)] = None
    auto_restart: Annotated[bool, _About(
        Flag(), "start it again when it ends by itself", listed=True)] = False
    save_for_next_run: Annotated[bool, _About(
        Flag(), "keep it across starts of exeio", listed=True)] = False
    periodic: Annotated[bool, _About(
        Flag(), "run it every period_seconds instead of once", run=True, listed=True)] = False
    period_seconds: Annotated[Optional[float], _About(
        Seconds(0.1, YEAR), "time from one start of a periodic process to the next", listed=True)] = None
    env: Annotated[Mapping[str, Optional[str]], _About(
        Env(), "names and values added to the environment; null removes one", run=True)] = MappingProxyType({})
    clear_env: Annotated[bool, _About(
        Flag(), "pass on only PATH HOME USER LOGNAME SHELL LANG TZ of exeio's environment", run=True)] = False
    user: Annotated[Optional[str], _About(
        Account(), "user it runs as, by name or id (needs root)", run=True)] = None
    group: Annotated[Optional[str], _About(
        Account(), "group it runs as, by name or id (needs root)", run=True)] = None
    umask: Annotated[Optional[str], _About(
        Octal(), 'file mode mask as octal text, such as "027"', run=True)] = None
    nice: Annotated[Optional[int], _About(
        Integer(-20, 19), "scheduling priority, from -20 (most) to 19 (least CPU)", run=True)] = None
    stop_signal: Annotated[str, _About(
        Signal(), "signal that asks it to stop, by name or number")] = "TERM"
    stop_timeout_seconds: Annotated[Optional[float], _About(
        Seconds(0, DAY), "time it has to stop before SIGKILL; else --stop-timeout")] = None
    kill_mode: Annotated[str, _About(
        Choice("tree", "process"), "stop what it started as well (tree), or it alone (process)", run=True)] = "tree"
    restart_policy: Annotated[str, _About(
        Choice("always", "on-failure"), "which ends auto_restart restarts it after")] = "always"
    success_exit_codes: Annotated[Tuple[int, ...], _About(
        ExitCodes(), "exit codes that are no failure")] = (0,)
    max_restarts: Annotated[Optional[int], _About(
        Integer(0, 1_000_000), "automatic restarts in a row without a good run, then it has failed")] = None
    restart_delay_seconds: Annotated[float, _About(
        Seconds(0, DAY), "delay of a restart after a short run; doubles with each one in a row")] = 1
    restart_delay_max_seconds: Annotated[float, _About(
        Seconds(0, DAY), "limit of that doubling; 60 or, if that is more, restart_delay_seconds")] = 60
    min_uptime_seconds: Annotated[float, _About(
        Seconds(0, DAY), "a run at least this long is a good one, and restarted at once")] = 10
    run_timeout_seconds: Annotated[Optional[float], _About(
        Seconds(0.1, YEAR), "a periodic run longer than this is stopped")] = None
    log_max_bytes: Annotated[Optional[int], _About(
        Integer(4096, 2**50, also=(0,)), "size its log rotates at, 0 for never; else --log-max-bytes")] = None
    log_backups: Annotated[Optional[int], _About(
        Integer(0, 1000), "rotated files of its log that are kept; else --log-backups")] = None

    def __repr__(self) -> str:
        """All fields but `env`: its values are secrets."""
        shown = (f"{name}={value!r}" for name, value in zip(self._fields, self) if name != "env")
        return f"ProcessSpec({', '.join(shown)})"

    def __hash__(self) -> int:
        """Of what can be hashed, which a mapping cannot."""
        return hash(tuple(value for name, value in zip(self._fields, self) if name != "env"))

    @classmethod
    def from_json(cls, obj: object, beside: Tuple[str, ...] = ()) -> "ProcessSpec":
        """The process that a request or a saved object defines; raises Invalid that names the field.

        `beside` are the names that the caller has taken out before: a mistyped one may mean one of them.
        null stands for the default, except as a value of env and for what is required. Numbers may be written
        5 or 5.0; booleans and texts are no numbers.
        """
        if not isinstance(obj, dict):
            raise Invalid(f"a process must be a JSON object, not {shown(obj)}")
        for name in obj:
            if name not in _BY_NAME:
                raise _unknown(name, beside)
        values: Dict[str, Any] = {}
        for name, field in _BY_NAME.items():
            value = obj.get(name)
            if value is not None:
                values[name] = field.kind.check(name, value)
            elif field.required:
                raise Invalid(f"{name} is required", name)
        spec = cls(**values)
        if "restart_delay_seconds" in values and "restart_delay_max_seconds" not in values:
            highest = spec._default(_BY_NAME["restart_delay_max_seconds"])
            spec = spec._replace(restart_delay_max_seconds=highest)
        spec._check_as_a_whole()
        return spec

    def _check_as_a_whole(self) -> None:
        """The rules between fields. A period without periodic is kept, for the day it is switched on."""
        if self.periodic and self.period_seconds is None:
            raise Invalid("period_seconds is required where periodic is true", "period_seconds")
        if self.restart_delay_max_seconds < self.restart_delay_seconds:
            raise Invalid(
                f"restart_delay_max_seconds ({self.restart_delay_max_seconds}) must be at least "
                f"restart_delay_seconds ({self.restart_delay_seconds})", "restart_delay_max_seconds")

    def _default(self, field: "Field") -> Any:
        """The value `field` would have had here if nobody had given one."""
        if field.name == "restart_delay_max_seconds":
            return max(field.default, self.restart_delay_seconds)
        return field.default

    def to_json(self, full: bool = True, secrets: bool = True) -> Dict[str, object]:
        """The definition as `/add` and processes.json take it, in the order of the table.

        `full`: every field; else those of the Rust program and what differs from its default. Without
        `secrets` the values of env are "***".
        """
        result: Dict[str, object] = {}
        for field in FIELDS:
            value = getattr(self, field.name)
            if full or field.listed or value != self._default(field):
                result[field.name] = _plain(value)
        if not secrets and "env" in result:
            result["env"] = {name: None if text is None else "***" for name, text in self.env.items()}
        return result

    def merged(self, changes: Mapping[str, object]) -> "ProcessSpec":
        """This definition with `changes` (JSON; null for the default), checked as a whole; raises Invalid."""
        if changes.get("id", self.id) != self.id:
            raise Invalid("id cannot be changed: add the process anew under the other id", "id")
        return self.from_json({**self.to_json(full=False), **changes})

    def changed(self, other: "ProcessSpec") -> Tuple[str, ...]:
        """The names of the fields that differ, in the order of the table."""
        names = (field.name for field in FIELDS)
        return tuple(name for name in names if getattr(self, name) != getattr(other, name))


class Field(NamedTuple):
    """A line of the table, for those who read it: the schema, the client's options, the documentation."""

    name: str
    kind: Kind
    default: Any  # None also where `required`
    required: bool
    help: str
    run: bool
    listed: bool

    @property
    def option(self) -> str:
        """The client's option, "--stop-signal"."""
        return "--" + self.name.replace("_", "-")


def _plain(value: object) -> object:
    """A stored value as JSON has it, and a copy where it could be changed."""
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, MappingProxyType) else value


def _read_table() -> Tuple[Field, ...]:
    fields: List[Field] = []
    for name, annotation in ProcessSpec.__annotations__.items():
        (about,) = annotation.__metadata__
        default = ProcessSpec._field_defaults.get(name)
        fields.append(Field(name, about.kind, default, name not in ProcessSpec._field_defaults, *about[1:]))
    return tuple(fields)


FIELDS: Tuple[Field, ...] = _read_table()
_BY_NAME: Dict[str, Field] = {field.name: field for field in FIELDS}

# A change in one of these needs a restart of a running process; the others count from the next stop, exit or
# tick on.
RUN_FIELDS: FrozenSet[str] = frozenset(field.name for field in FIELDS if field.run)

# What neighbours call these fields, where the letters are too different to guess from.
_ELSEWHERE = {
    "name": "id", "cmd": "command", "script": "command", "arguments": "args", "argv": "args",
    "cwd": "working_dir", "directory": "working_dir", "dir": "working_dir",
    "environment": "env", "environ": "env", "interval": "period_seconds", "timeout": "run_timeout_seconds",
    "exitcodes": "success_exit_codes", "startretries": "max_restarts", "startsecs": "min_uptime_seconds",
    "stopwaitsecs": "stop_timeout_seconds",
}


def _unknown(name: object, beside: Tuple[str, ...]) -> Invalid:
    """The refusal of a field that does not exist, naming the one that was probably meant."""
    text = str(name)[:64]
    word = text.lower().replace("-", "_")
    known = [*_BY_NAME, *beside]
    begun = [field for field in known if field.startswith(f"{word}_")]  # "period", "restart_delay"
    import difflib  # only after a mistake

    near = _ELSEWHERE.get(word) or next(iter(begun or difflib.get_close_matches(word, known, n=1)), None)
    hint = f"did you mean {near}?" if near else "the fields are " + ", ".join(known)
    return Invalid(f"there is no field {shown(text)}; {hint}", text)


def json_schema() -> Dict[str, object]:
    """The JSON Schema (2020-12, as OpenAPI 3.1 uses it) of a process as `from_json` takes it."""
    properties: Dict[str, object] = {}
    for field in FIELDS:
        schema = field.kind.schema()
        if not field.required:
            schema = _or_null(schema)
            schema["default"] = _plain(field.default)
        properties[field.name] = {**schema, "description": field.help}
    return {
        "type": "object",
        "properties": properties,
        "required": [field.name for field in FIELDS if field.required],
        "additionalProperties": False,
        "if": {"properties": {"periodic": {"const": True}}, "required": ["periodic"]},
        "then": {"properties": {"period_seconds": {"type": "number"}}, "required": ["period_seconds"]},
    }


def stored_schemas() -> Dict[str, Dict[str, object]]:
    """The JSON Schema of each field as `to_json` gives it: null is there only where it is the default."""
    found: Dict[str, Dict[str, object]] = {}
    for field in FIELDS:
        schema = field.kind.schema()
        nullable = field.default is None and not field.required
        found[field.name] = {**(_or_null(schema) if nullable else schema), "description": field.help}
    return found


def _or_null(schema: Dict[str, object]) -> Dict[str, object]:
    """`schema`, taking null as well."""
    if "enum" in schema or "type" not in schema:  # adding to "type" alone would not let null in
        return {"anyOf": [schema, {"type": "null"}]}
    kinds = schema["type"]
    return {**schema, "type": [*kinds, "null"] if isinstance(kinds, list) else [kinds, "null"]}
