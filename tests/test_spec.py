"""The table of fields: what each takes, what it refuses and in which words, and what is read from it."""

import json
import math
import signal

import pytest

from exeio_core.errors import Invalid
from exeio_core.spec import (
    FIELDS,
    RUN_FIELDS,
    ProcessSpec,
    check_id,
    check_signal,
    json_schema,
    signal_name,
    signal_number,
)

LEAST = {"id": "web", "command": "true"}
SURROGATE = "a\ud800b"
HUGE = 10 ** 5000

# field: what it takes, each with what is kept of it
GOOD = {
    "id": [("a", "a"), ("0", "0"), ("A.b_c-d", "A.b_c-d"), ("x" * 64, "x" * 64), ("a.log.1", "a.log.1"),
           ("exeio2", "exeio2"), ("a..", "a..")],
    "command": [("true", "true"), ("./a b", "./a b"), ("ü", "ü"), (" ", " ")],
    "args": [([], ()), (["-m", ""], ("-m", "")), (["line\nline", "ü"], ("line\nline", "ü"))],
    "working_dir": [("/", "/"), ("relative", "relative")],
    "auto_restart": [(True, True), (False, False)],
    "save_for_next_run": [(True, True), (False, False)],
    "periodic": [(False, False)],
    "period_seconds": [(0.1, 0.1), (60, 60), (3600.0, 3600), (31_536_000, 31_536_000)],
    "env": [({}, {}), ({"A": "1", "B": "", "C": None, "ä b": "="}, {"A": "1", "B": "", "C": None,
            "ä b": "="})],
    "clear_env": [(True, True), (False, False)],
    "user": [("nobody", "nobody"), ("0", "0"), (1000, "1000"), (1000.0, "1000"), (2**32 - 2, "4294967294")],
    "group": [("nogroup", "nogroup"), ("65534", "65534"), (0, "0")],
    "umask": [("027", "027"), ("27", "27"), ("0", "0"), ("0777", "0777")],
    "nice": [(-20, -20), (0, 0), (19, 19), (5.0, 5)],
    "stop_signal": [("TERM", "TERM"), ("SIGINT", "INT"), ("sigquit", "QUIT"), ("hup", "HUP"), (1, "HUP"),
                    (15.0, "TERM"), ("9", "KILL")],
    "stop_timeout_seconds": [(0, 0), (0.5, 0.5), (86_400, 86_400), (10.0, 10)],
    "kill_mode": [("tree", "tree"), ("process", "process")],
    "restart_policy": [("always", "always"), ("on-failure", "on-failure")],
    "success_exit_codes": [([0], (0,)), ([255, 3, 3, 0.0], (0, 3, 255))],
    "max_restarts": [(0, 0), (3, 3), (1e3, 1000)],
    "restart_delay_seconds": [(0, 0), (0.25, 0.25), (60, 60), (86_400, 86_400)],
    "restart_delay_max_seconds": [(1, 1), (86_400, 86_400)],
    "min_uptime_seconds": [(0, 0), (1.5, 1.5), (86_400, 86_400)],
    "run_timeout_seconds": [(0.1, 0.1), (31_536_000, 31_536_000)],
    "log_max_bytes": [(0, 0), (4096, 4096), (50 * 2**20, 50 * 2**20)],
    "log_backups": [(0, 0), (10, 10), (1000, 1000)],
}

NO_TEXTS = [1, 1.5, True, [], {}, "", "a\0b", SURROGATE]
NO_FLAGS = ["true", "yes", "", 0, 1, 1.0, [], {}]
NO_NUMBERS = [True, False, "1", "", [], {}, math.inf, -math.inf, math.nan, HUGE, -HUGE, -1]

BAD = {
    "id": [None, "", "exeio", "-a", ".a", "_a", "a b", "a/b", "a\n", "ä", "x" * 65, 5, True, [], "a\0",
           SURROGATE],
    "command": [None, *NO_TEXTS],
    "args": ["-m http.server", {}, 1, True, [1], ["a", None], [["a"]], ["a\0"], [SURROGATE], [True]],
    "working_dir": NO_TEXTS,
    "auto_restart": NO_FLAGS,
    "save_for_next_run": NO_FLAGS,
    "periodic": NO_FLAGS,
    "period_seconds": [*NO_NUMBERS, 0, 0.09, 31_536_000.5, 31_536_001],
    "env": [[], ["A=1"], "A=1", 1, True, {"": "1"}, {"A=B": "1"}, {"A\0": "1"}, {"A": "1\0"}, {"A": 1},
            {"A": True},
            {"A": ["1"]}, {"A": SURROGATE}, {SURROGATE: "1"}, {"EXEIO_RUN": "x"}, {"EXEIO_RUN": None},
            {"EXEIO_API_KEY": "x"}, {1: "x"}],
    "clear_env": NO_FLAGS,
    "user": [True, "", -1, "-1", 1.5, [], {}, "a\0", SURROGATE, 2**32 - 1, "4294967295", "9" * 5000, HUGE],
    "group": [False, "", -1, "-1", 0.5, [], {}, "a\0", SURROGATE, 2**32],
    "umask": [27, 0o27, 0, 27.0, True, "", "8", "0o27", "1777", "00027", " 027", "027\n", "-1", []],
    "nice": [*NO_NUMBERS[:-1], -21, 20, 1.5],
    "stop_signal": ["", "SIG", "NOPE", "SIGSIG", 0, -1, 65, 1.5, "0", "99999", True, [], {}, math.nan, HUGE],
    "stop_timeout_seconds": [*NO_NUMBERS, 86_400.1],
    "kill_mode": ["", "group", "TREE", "mixed", 1, True, [], {}],
    "restart_policy": ["", "never", "on_failure", True, 1, []],
    "success_exit_codes": [[], 0, "0", {}, True, [256], [-1], [0, "1"], [True], [0.5], [None], [math.nan],
                           [HUGE]],
    "max_restarts": [*NO_NUMBERS, 1.5, 1_000_001],
    "restart_delay_seconds": [*NO_NUMBERS, 86_401],
    "restart_delay_max_seconds": [*NO_NUMBERS, 86_401],
    "min_uptime_seconds": [*NO_NUMBERS, 86_401],
    "run_timeout_seconds": [*NO_NUMBERS, 0, 31_536_001],
    "log_max_bytes": [*NO_NUMBERS, 1, 4095, 4096.5, 2**60],
    "log_backups": [*NO_NUMBERS, 1001, 0.5],
}


def names():
    return [field.name for field in FIELDS]


def test_the_cases_cover_the_table():
    assert set(GOOD) == set(BAD) == set(names())


@pytest.mark.parametrize(
    ("name", "given", "kept"), [(name, *case) for name, cases in GOOD.items() for case in cases],
    ids=[f"{name}-{number}" for name, cases in GOOD.items() for number, _ in enumerate(cases)])
def test_taken(name, given, kept):
    spec = ProcessSpec.from_json({**LEAST, name: given})
    assert getattr(spec, name) == kept
    assert ProcessSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert ProcessSpec.from_json(json.loads(json.dumps(spec.to_json(full=False)))) == spec
    assert type(spec.to_json()[name]) in (str, bool, int, float, list, dict)


@pytest.mark.parametrize(
    ("name", "given"), [(name, value) for name, cases in BAD.items() for value in cases],
    ids=[f"{name}-{number}" for name, cases in BAD.items() for number, _ in enumerate(cases)])
def test_refused_naming_the_field(name, given):
    with pytest.raises(Invalid) as caught:
        ProcessSpec.from_json({**LEAST, name: given})
    message = caught.value.message
    assert caught.value.field == name
    assert message.startswith(name) and "\n" not in message and len(message) < 250
    message.encode("utf-8")  # what is quoted of a text that is not valid Unicode is valid all the same


@pytest.mark.parametrize("name", [field.name for field in FIELDS if not field.required])
def test_null_is_the_default(name):
    assert ProcessSpec.from_json({**LEAST, name: None}) == ProcessSpec.from_json(LEAST)


def test_defaults_are_those_of_the_contract():
    assert ProcessSpec.from_json(LEAST).to_json() == {
        "id": "web", "command": "true", "args": [], "working_dir": None, "auto_restart": False,
        "save_for_next_run": False, "periodic": False, "period_seconds": None, "env": {}, "clear_env": False,
        "user": None, "group": None, "umask": None, "nice": None, "stop_signal": "TERM",
        "stop_timeout_seconds": None, "kill_mode": "tree", "restart_policy": "always",
        "success_exit_codes": [0],
        "max_restarts": None, "restart_delay_seconds": 1, "restart_delay_max_seconds": 60,
        "min_uptime_seconds": 10, "run_timeout_seconds": None, "log_max_bytes": None, "log_backups": None,
    }


@pytest.mark.parametrize(("given", "words"), [
    ({"command": "true"}, "id is required"),
    ({"id": "web"}, "command is required"),
    ({**LEAST, "periodic": True}, "period_seconds is required where periodic is true"),
    ({**LEAST, "restart_delay_seconds": 5, "restart_delay_max_seconds": 2},
     "restart_delay_max_seconds (2) must be at least restart_delay_seconds (5)"),
    ({**LEAST, "auto_restart": "yes"}, "auto_restart must be true or false, not 'yes'"),
    ({**LEAST, "args": ["-p", 80]}, 'args[1] must be a text, not 80; write "80"'),
    ({**LEAST, "nice": 20}, "nice must be a whole number from -20 to 19, not 20"),
    ({**LEAST, "log_max_bytes": 10}, "log_max_bytes must be 0 or a whole number from 4096"),
    ({**LEAST, "umask": 27}, 'umask must be octal text, such as "027", up to "777", not 27'),
    ({**LEAST, "id": "exeio"}, "supervisor's own log"),
    ({**LEAST, "env": {"EXEIO_RUN": "1"}}, "env must not set EXEIO_RUN"),
    ([], "a process must be a JSON object, not a list"),
    (None, "a process must be a JSON object, not null"),
])
def test_words_of_a_refusal(given, words):
    with pytest.raises(Invalid) as caught:
        ProcessSpec.from_json(given)
    assert words in caught.value.message


@pytest.mark.parametrize(("name", "meant"), [
    ("autorestart", "auto_restart"), ("auto-restart", "auto_restart"), ("Command", "command"), ("arg",
    "args"),
    ("cwd", "working_dir"), ("workdir", "working_dir"), ("period", "period_seconds"), ("stopsignal",
    "stop_signal"),
    ("environment", "env"), ("max_restart", "max_restarts"), ("restart_delay", "restart_delay_seconds"),
])
def test_unknown_field_names_the_one_meant(name, meant):
    with pytest.raises(Invalid) as caught:
        ProcessSpec.from_json({**LEAST, name: 1})
    assert caught.value.message == f"there is no field '{name}'; did you mean {meant}?"
    assert caught.value.field == name


@pytest.mark.parametrize("name", ["qqq", "", "x" * 100_000, SURROGATE, "start", "stopped"])
def test_unknown_field_like_no_other(name):
    with pytest.raises(Invalid) as caught:
        ProcessSpec.from_json({**LEAST, name: 1})
    assert caught.value.message.startswith("there is no field ")
    caught.value.message.encode("utf-8")
    assert len(caught.value.message) < 700


def test_values_of_env_are_in_no_message_and_not_in_repr():
    for bad in ({"A": "geheim\0"}, {"A": ["geheim"]}, {"A": "geheim", "EXEIO_RUN": "geheim"},
    {"A": "geheim\ud800"}):
        with pytest.raises(Invalid) as caught:
            ProcessSpec.from_json({**LEAST, "env": bad})
        assert "geheim" not in caught.value.message
    assert "geheim" not in repr(ProcessSpec.from_json({**LEAST, "env": {"A": "geheim"}}))


def test_a_period_without_periodic_is_kept_as_in_the_readme():
    spec = ProcessSpec.from_json({
        "id": "unique-process-id", "command": "executable-name", "args": ["arg1", "arg2"],
        "working_dir": "/optional/working/directory", "auto_restart": True, "save_for_next_run": True,
        "periodic": False, "period_seconds": 60})
    assert not spec.periodic and spec.period_seconds == 60


def test_the_short_form_has_the_rust_fields_and_what_differs():
    spec = ProcessSpec.from_json({**LEAST, "nice": 0, "env": {"A": "1"}, "restart_delay_seconds": 1.0})
    assert spec.to_json(full=False) == {
        "id": "web", "command": "true", "args": [], "working_dir": None, "auto_restart": False,
        "save_for_next_run": False, "periodic": False, "period_seconds": None, "env": {"A": "1"}, "nice": 0}


def test_secrets_are_masked_and_removals_are_not():
    spec = ProcessSpec.from_json({**LEAST, "env": {"A": "1", "B": None}})
    assert spec.to_json(secrets=False)["env"] == {"A": "***", "B": None}
    assert spec.to_json()["env"] == {"A": "1", "B": None}
    assert "env" not in ProcessSpec.from_json(LEAST).to_json(full=False, secrets=False)


def test_a_definition_never_changes():
    given = {"A": "1"}
    spec = ProcessSpec.from_json({**LEAST, "env": given})
    given["A"] = "2"
    spec.to_json()["env"]["A"] = "2"
    assert spec.env == {"A": "1"}
    with pytest.raises(TypeError):
        spec.env["A"] = "2"
    assert isinstance(hash(spec), int)


def test_merged_changes_what_is_named_and_null_is_the_default():
    spec = ProcessSpec.from_json({**LEAST, "nice": 5, "args": ["a"], "env": {"A": "1"}})
    new = spec.merged({"args": ["b"], "nice": None, "id": "web"})
    assert spec.changed(new) == ("args", "nice")
    assert (new.args, new.nice, new.env) == (("b",), None, {"A": "1"})
    assert spec.changed(spec) == () and spec.changed(spec.merged({})) == ()


@pytest.mark.parametrize(("changes", "field"), [
    ({"id": "other"}, "id"), ({"id": None}, "id"), ({"command": None}, "command"), ({"periodic": True},
    "period_seconds"),
    ({"restart_delay_max_seconds": 2}, "restart_delay_max_seconds"), ({"nope": 1}, "nope"), ({"nice": 99},
    "nice"),
])
def test_merged_is_checked_as_a_whole(changes, field):
    with pytest.raises(Invalid) as caught:
        ProcessSpec.from_json({**LEAST, "restart_delay_seconds": 3}).merged(changes)
    assert caught.value.field == field


def test_a_long_delay_raises_the_limit_that_nobody_set():
    spec = ProcessSpec.from_json({**LEAST, "restart_delay_seconds": 300})
    assert spec.restart_delay_max_seconds == 300
    assert "restart_delay_max_seconds" not in spec.to_json(full=False)
    assert spec.merged({"restart_delay_seconds": 1}).restart_delay_max_seconds == 60
    assert spec.merged({"restart_delay_max_seconds": 400}).merged(
        {"restart_delay_seconds": 1}).restart_delay_max_seconds == 400


def test_fields_of_a_run():
    assert {"command", "args", "working_dir", "env", "clear_env", "user", "group", "umask", "nice",
            "periodic", "kill_mode"} == RUN_FIELDS


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_every_signal_of_this_system_has_a_name_that_leads_back(number):
    name = check_signal(int(number))
    assert signal_number(name) == number
    assert check_signal(name.lower()) == check_signal("SIG" + name) == check_signal(str(int(number))) == name
    assert signal_name(number) == (f"signal {name}" if name.isdigit() else f"SIG{name}")


@pytest.mark.parametrize(("given", "name"), [("CLD", "CHLD"), ("IOT", "ABRT"), ("POLL", "IO"), (6, "ABRT")])
def test_signals_with_two_names(given, name):
    assert check_signal(given) == name


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="not here: real-time signals")
def test_real_time_signals():
    low, high = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
    assert check_signal("sigrtmin+3") == check_signal(low + 3) == "RTMIN+3"
    assert [check_signal(number) for number in (low, high - 1, high)] == ["RTMIN", "RTMAX-1", "RTMAX"]
    assert check_signal(f"RTMAX-{high - low - 1}") == "RTMIN+1"


def test_a_refused_signal_names_the_field_it_is_for():
    with pytest.raises(Invalid) as caught:
        check_signal("NOPE")
    assert caught.value.field == "signal" and "'NOPE'" in caught.value.message
    assert signal_name(99) == "signal 99"


def test_check_id_returns_the_id():
    assert check_id("a.b") == "a.b"


def test_the_schema_is_json_and_knows_every_field():
    schema = json.loads(json.dumps(json_schema()))
    assert list(schema["properties"]) == names()
    assert schema["required"] == ["id", "command"] and schema["additionalProperties"] is False
    for field in FIELDS:
        described = schema["properties"][field.name]
        assert described["description"] == field.help
        if not field.required:
            assert described["default"] == ProcessSpec.from_json(LEAST).to_json()[field.name]
            assert "null" in json.dumps(described)


@pytest.mark.parametrize(("option", "text", "kept"), [
    ("--nice", "-5", -5), ("--restart-delay-seconds", "0.5", 0.5), ("--period-seconds", "60", 60),
    ("--success-exit-codes", "0, 3", (0, 3)), ("--umask", "027", "027"), ("--stop-signal", "int", "INT"),
    ("--stop-signal", "9", "KILL"), ("--user", "1000", "1000"), ("--log-max-bytes", "0", 0),
    ("--working-dir", "/", "/"), ("--kill-mode", "process", "process"),
])
def test_options_of_the_client(option, text, kept):
    field = next(field for field in FIELDS if field.option == option)
    assert field.kind.option == "one" and field.kind.metavar.isupper()
    assert getattr(ProcessSpec.from_json({**LEAST, field.name: field.kind.from_text(text)}),
    field.name) == kept


@pytest.mark.parametrize(("option", "text"), [
    ("--nice", "five"), ("--nice", "1.5"), ("--period-seconds", "1m"), ("--period-seconds", "inf"),
    ("--period-seconds", "nan"), ("--success-exit-codes", "0,x"), ("--success-exit-codes", ""), ("--nice",
    "9" * 30),
])
def test_a_wrong_text_of_an_option_is_refused_naming_the_field(option, text):
    field = next(field for field in FIELDS if field.option == option)
    with pytest.raises(Invalid) as caught:
        ProcessSpec.from_json({**LEAST, field.name: field.kind.from_text(text)})
    assert caught.value.field == field.name


def test_pairs_and_flags_of_the_client():
    kinds = {field.name: field.kind for field in FIELDS}
    assert (kinds["env"].option, kinds["auto_restart"].option, kinds["args"].option) == ("pairs", "flag",
    "many")
    assert [kinds["env"].from_text(text) for text in ("A=1=2", "A=", "A")] == [("A", "1=2"), ("A", ""),
    ("A", None)]
