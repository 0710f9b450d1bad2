"""Completion in real shells, and the manual page: both are made from the tables, and name all there is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest
from client_helpers import process
from support import PROGRAM, clean_environment, need

from exeio_core.cli import main
from exeio_core.client_table import SHELLS, options_of
from exeio_core.commands import COMMANDS

KEY = "k" * 20


@pytest.fixture
def shell(capsys, tmp_path, fake):
    """Runs a script behind the completion of a shell; the stand-in knows two processes."""
    fake.answers["GET /list"] = [process("db"), process("web-1")]
    (tmp_path / "exeio").write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error "{PROGRAM}" "$@"\n')
    (tmp_path / "exeio").chmod(0o755)
    (tmp_path / "a file").write_text("")
    (tmp_path / "a folder").mkdir()

    def run(name, script, *options, before=""):
        need(name)
        assert main(["completion", name]) == 0
        (tmp_path / "script").write_text(before + capsys.readouterr().out + script)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        more = {"EXEIO_URL": fake.url, "EXEIO_API_KEY": KEY, "PATH": path, "LC_ALL": "C.UTF-8"}
        result = subprocess.run(
            [name, *options, str(tmp_path / "script")], env=clean_environment(tmp_path, more), cwd=str(tmp_path),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    return run


# What is typed, the last word unfinished, and what is offered: all of it, or a part where there is much.
TYPED = [
    ("exeio lis", {"list"}),
    ("exeio ", set(COMMANDS) | {"serve"}),
    ("exeio --json --url http://x st", {"start", "status", "stop", "stop-all"}),
    ("exeio stop ", {"db", "web-1"}),
    ("exeio stop db w", {"web-1"}),
    ("exeio -k key stop w", {"web-1"}),
    ("exeio logs -f d", {"db"}),
    ("exeio logs -n 5 d", {"db"}),
    ("exeio logs --contains stop w", {"web-1"}),
    ("exeio logs --foll", {"--follow"}),
    ("exeio logs --stream std", {"stdout", "stderr"}),
    ("exeio add web --kill-mode ", {"tree", "process"}),
    ("exeio add web --no-auto", {"--no-auto-restart"}),
    ("exeio add web --wait-seconds ", set()),
    ("exeio add w", set()),
    ("exeio wait db --for man", {"manually_stopped"}),
    ("exeio update db --reset max", {"max_restarts"}),
    ("exeio completion ", set(SHELLS)),
    ("exeio signal db HU", {"HUP"}),
    ("exeio serve --tls-", {"--tls-cert", "--tls-key"}),
    ("exeio list ", set()),
]


@pytest.mark.slow
def test_completion_in_bash(shell):
    need("bash")
    ask = """
try() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    local IFS=$' \\t\\n'
    _exeio exeio "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    IFS='|'; printf '%s\\n' "${COMPREPLY[*]}"
}
"""
    lines = [f"try {' '.join(map(shlex.quote, typed.split(' ')))}" for typed, _ in TYPED]
    lines += ["try exeio add -f a", "try exeio list --data-dir a", "try exeio add x -- tru",
              "try exeio add x -- true a", "try exeio logs --stream = std", "try exeio logs --stream ="]
    shown = [set(line.split("|")) - {""} for line in shell("bash", ask + "\n".join(lines) + "\n", "-u").splitlines()]
    offered = dict(zip([typed for typed, _ in TYPED], shown))
    assert offered == {typed: {*expected} for typed, expected in TYPED}
    file, folder, program, argument, behind, bare = shown[len(TYPED):]
    assert file == argument == {"a file", "a folder"} and folder == {"a folder"}
    assert "true" in program and behind == {"stdout", "stderr"} and bare == {"stdout", "stderr", "system"}


@pytest.mark.slow
def test_completion_in_zsh(shell):
    ask = """
# The functions that only zsh's own line editor has.
compadd() { [[ $1 == -- ]] && shift; print -rn -- " $*"; }
_describe() { [[ $1 == -o ]] && shift; local each; for each in ${(P)2}; do print -rn -- " ${each%%:*}"; done; }
_files() { print -rn -- " files:$*"; }
_command_names() { print -rn -- " commands"; }
compset() { :; }
try() { words=("${(@s: :)1}"); CURRENT=$#words; _exeio; print; }
"""
    lines = [f"try '{typed}'" for typed, _ in TYPED]
    lines += ["try 'exeio add -f a'", "try 'exeio list --data-dir a'", "try 'exeio add x -- tru'",
              "try 'exeio add x -- true a'", "try 'exeio logs --stream=std'"]
    before = "autoload -U compinit\ncompinit -D -u\n"  # as in everybody's .zshrc
    out = shell("zsh", ask + "\n".join(lines) + "\n", "-f", before=before)
    shown = [set(line.split()) for line in out.splitlines()]
    offered = dict(zip([typed for typed, _ in TYPED], shown))
    for typed, expected in TYPED:  # zsh itself takes out what does not begin with the unfinished word
        begun = {each for each in offered[typed] if each.startswith(typed.rpartition(" ")[2])}
        assert begun == expected, typed
    assert shown[len(TYPED):] == [
        {"files:"}, {"files:-/"}, {"commands"}, {"files:"}, {"stdout", "stderr", "system"}]


@pytest.mark.slow
def test_completion_in_fish(shell):
    lines = "\n".join(f"echo (complete -C '{typed}' | string replace -r '\\t.*' '')" for typed, _ in TYPED)
    shown = [set(line.split()) for line in shell("fish", lines + "\n", "--no-config").splitlines()]
    offered = dict(zip([typed for typed, _ in TYPED], shown))
    assert offered == {typed: {*expected} for typed, expected in TYPED}


def test_all_three_name_every_command_and_option(capsys):
    for name in SHELLS:
        assert main(["completion", name]) == 0
        script = capsys.readouterr().out
        assert not re.search("%[A-Z_]+%", script), "a place that was not filled"
        for command in ("serve", *COMMANDS):
            assert re.search(rf"\b{command}\b", script), (name, command)
            for option in options_of(command):
                long = option.names[-1]
                assert re.search(rf"-l {long[2:]}\b" if name == "fish" else rf"{long}\b", script), (name, command, long)


def test_another_shell_is_wrong_usage(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err == "exeio: completion takes bash or zsh or fish, not 'tcsh'\n"
    assert main(["completion"]) == 2


def test_ids_without_a_supervisor_are_none_and_silent(home, capsys):
    assert main(["completion", "ids"]) == 1
    assert capsys.readouterr() == ("", "")


# The manual page


def page(capsys):
    assert main(["man"]) == 0
    return capsys.readouterr().out


def test_the_manual_names_every_command_and_option(capsys):
    text = page(capsys)
    assert text.isascii()
    for command in COMMANDS.values():
        assert f".SS {command.name}\n".replace("-", r"\-") in text
        for line in command.example.split("\n"):
            shown = line.strip().replace("EXEIO ", "exeio ").replace("-", r"\-").replace("'", r"\(aq")
            shown = shown.replace("~", r"\(ti")
            assert f"\n{shown}\n" in text, line
    for command in ("serve", *COMMANDS):
        for option in options_of(command):
            for name in option.names:
                assert rf"\fB{name}\fR".replace("-", r"\-") in text, (command, name)


def test_the_manual_is_a_page_that_groff_shows_without_a_warning(capsys):
    need("groff")
    result = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-rLL=78n"], input=page(capsys), capture_output=True, text=True, timeout=30,
        env={**os.environ, "LC_ALL": "C.UTF-8", "GROFF_NO_SGR": "1"}, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    shown = re.sub(".\b", "", result.stdout)  # bold and underlined letters
    assert "exeio - process supervisor with a REST API" in shown
    assert "exeio add ID [options] -- COMMAND [ARG …]" in shown
    assert "exeio stop 'web-*'" in shown and "-H, --host HOST" in shown
    assert [line for line in shown.splitlines() if re.match(r" {0,2}[.\\'][A-Za-z]", line)] == []
