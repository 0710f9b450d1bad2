"""The command line of the supervisor, and what becomes of failures: a line, an exit status, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

import exeio_core
from exeio_core import options
from exeio_core.cli import main
from exeio_core.client_options import command_parser
from exeio_core.errors import Failed, StartupError
from exeio_core.options import UsageError, parse_size, serve_options, split
from exeio_core.settings import ServeOptions

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def served(monkeypatch):
    """Stands in for the supervisor; what it was given, and what it is to do."""
    stand_in = types.SimpleNamespace(given=[], act=lambda: 0)

    def run(given):
        stand_in.given.append(given)
        return stand_in.act()

    module = types.ModuleType("exeio_core.serve")
    module.run = run
    monkeypatch.setitem(sys.modules, "exeio_core.serve", module)
    monkeypatch.setattr(exeio_core, "serve", module, raising=False)
    return stand_in


def start(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "import sys; from exeio_core.cli import main; sys.exit(main())",
         *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


# The options of serve


def test_without_arguments_it_serves_with_the_defaults(served):
    assert main([]) == main(["serve"]) == 0
    assert served.given == [ServeOptions(), ServeOptions()]
    one = served.given[0]
    assert (one.host, one.port, one.echo) == ("127.0.0.1", 8080, None)
    assert (one.log_max_bytes, one.log_backups, one.stop_timeout) == (52_428_800, 10, 10.0)


def test_every_option_arrives(served):
    long = [
        "serve", "--host", "::1", "--port", "0", "--api-key", "k", "--api-key-file", "f", "--config-dir", "c",
        "--data-dir=d", "--echo", "--log-max-bytes", "10M", "--log-backups", "3", "--stop-timeout", "2.5",
    ]
    short = [
        "-H", "::1", "-P0", "-k", "k", "--api-key-file", "f", "--config-dir", "c", "--data-dir", "d",
        "--no-echo", "--echo", "--log-max-bytes=10MiB", "--log-backups=3", "--stop-timeout=2.5",
    ]
    assert main(long) == main(short) == 0
    expected = ServeOptions("::1", 0, "k", "f", "c", "d", True, 10 * 1024 * 1024, 3, 2.5)
    assert served.given == [expected, expected]
    assert serve_options(["--no-echo"]).echo is False


@pytest.mark.parametrize(("text", "size"), [
    ("0", 0), ("4096", 4096), ("10K", 10240), ("10k", 10240), ("1KB", 1000), ("50MiB", 52_428_800),
    ("2 G", 2**31), ("1T", 2**40), ("4096B", 4096), ("10MB", 10_000_000),
    ("", ""), ("-1", "-1"), ("1.5M", "1.5M"), ("M", "M"), ("10X", "10X"), ("10iB", "10iB"), ("1e6", "1e6"),
    ("9" * 16, "9" * 16), ("\u0661\u0662K", "\u0661\u0662K"),
])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(("arguments", "words"), [
    (["--port", "abc"], "--port must be a whole number from 0 to 65535, not 'abc'"),
    (["--port", "65536"], "--port must be a whole number from 0 to 65535, not 65536"),
    (["--port", "-1"], "--port"),
    (["--port", ""], "--port"),
    (["--port"], "--port"),
    (["--host", ""], "--host must not be empty"),
    (["--config-dir", ""], "--config-dir must not be empty"),
    (["--log-max-bytes", "100"], "--log-max-bytes must be 0 or a whole number from 4096"),
    (["--log-max-bytes", "viel"], "--log-max-bytes must be 0 or a whole number from 4096"),
    (["--log-backups", "1001"], "--log-backups must be a whole number from 0 to 1000"),
    (["--stop-timeout", "nan"], "--stop-timeout must be a number of seconds from 0 to 86400"),
    (["--stop-timeout", "1e99"], "--stop-timeout must be a number of seconds"),
    (["--stop-timeout", "10s"], "--stop-timeout must be a number of seconds"),
    (["--nope"], "unrecognized arguments: --nope; see: "),
    (["--bogus", "x"], "unrecognized arguments: --bogus; see: "),
    (["-k", ""], "the key given with --api-key is empty"),
    (["-k", "ä" * 20], "the key given with --api-key holds a character"),
    (["--po", "1"], "unrecognized arguments: --po (did you mean --port?); see: "),
    (["--prot=1"], "unrecognized arguments: --prot (did you mean --port?); see: "),
    (["--url", "http://x"], "unrecognized arguments: --url"),
    (["lst"], "there is no command 'lst'; did you mean list?"),
    (["--port", "3000", "sevre"], "did you mean serve?"),
    (["frobnicate"], "there is no command 'frobnicate'; see: "),
    (["serve", "--", "x"], "x"),
    (["--json", "--", "list"], "unrecognized arguments"),
])
def test_wrong_usage_is_one_line_and_status_2(served, capsys, arguments, words):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert (out, err.count("\n"), err[:7]) == ("", 1, "exeio: ")
    assert served.given == []


def test_the_command_is_found_behind_options_with_values():
    assert split([]) == ("serve", [])
    assert split(["--data-dir", "list", "--port=1", "-k", "stop"])[0] == "serve"
    assert split(["--data-dir", "d", "list", "--json"]) == ("list", ["--data-dir", "d", "--json"])
    assert split(["-k", "serve", "status", "serve"]) == ("status", ["-k", "serve", "serve"])
    with pytest.raises(UsageError):
        split(["-"])


@pytest.mark.parametrize("name", list(options.COMMANDS))
def test_every_option_may_stand_before_the_command(name):
    for action in command_parser(name)._actions:
        for option in action.option_strings:
            given = [option] if action.nargs == 0 else [option, "some-value"]
            assert split([*given, name, "x"]) == (name, [*given, "x"])


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"exeio {exeio_core.__version__}\n"


def test_help_shows_options_commands_and_examples(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for expected in ("--log-max-bytes", "--host HOST", "examples:", "EXEIO_API_KEY", *options.COMMANDS):
        assert expected in text
    assert "EXEIO " not in text


@pytest.mark.parametrize("command", list(options.COMMANDS))
def test_each_command_has_help_with_an_example(capsys, command):
    assert main([command, "--help"]) == 0
    before = capsys.readouterr().out
    assert main(["--help", command]) == 0
    text = capsys.readouterr().out
    assert text == before
    assert f" {command} " in text.splitlines()[0] + " "
    assert "examples:" in text and "--url" in text and "EXEIO " not in text
    usage = text.partition("\n\n")[0].splitlines()
    assert [line.count("[options]") for line in usage] == [1] * len(usage)


# Failures


@pytest.mark.parametrize("error", [StartupError("the port is taken"), Failed("no")])
def test_what_fails_is_one_line_and_status_1(served, capsys, error):
    def fail():
        raise error

    served.act = fail
    assert main([]) == 1
    assert capsys.readouterr() == ("", f"exeio: {error.message}\n")


def test_the_supervisors_exit_status_is_handed_on(served):
    served.act = lambda: 7
    assert main(["serve"]) == 7


def test_an_interrupt_makes_no_noise(served, capsys):
    def interrupt():
        raise KeyboardInterrupt

    served.act = interrupt
    assert main([]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_had_enough_makes_no_noise():
    code = "import sys; from exeio_core.cli import main; sys.exit(main(['--help']))"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)
    process.stdout.close()
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, b"")


@pytest.mark.parametrize(("redirect", "status", "said"), [
    ("> /dev/full", 1, "exeio: cannot write to stdout: No space left on device\n"), ("2> /dev/full", 0, ""),
    (">&-", 0, ""), ("2>&- list", 2, ""), ("2> /dev/full list", 2, ""),
])
def test_output_onto_a_full_disk_is_one_line_and_no_traceback(redirect, status, said):
    """`man` writes much; `list` is one command too many, and what is wrong cannot be told."""
    code = "import sys; from exeio_core.cli import main; sys.exit(main())"
    result = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-W", "error", "-c", code, "man"],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (status, said)


def test_a_usage_error_needs_neither_client_nor_supervisor():
    """The start of the supervisor is measured: what it does not need is not imported."""
    code = (
        "import sys; from exeio_core.cli import main; main(['--port', 'x']);"
        "print([name for name in sys.modules if 'client' in name or name in ('exeio_core.serve', 'secrets')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert result.stdout == "[]\n", result.stderr


def test_the_module_runs_as_a_program():
    result = start("--port", "x")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
