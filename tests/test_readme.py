"""The README keeps its word: its shell examples run as they stand, their answers are real, and it names all there is.

All ```bash blocks run in one shell, in their order, against a fresh server on the default folders of a new home. One
that cannot run in a test has a comment before it, `<!-- not run: reason -->`.
"""

import ast
import fnmatch
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
from readme_text import README, Block, blocks, section
from support import PROGRAM, ROOT, Server, clean_environment, need, run_exeio

from exeio_core.lifecycle import State, status_word
from exeio_core.options import COMMANDS
from exeio_core.routes import ROUTES
from exeio_core.spec import FIELDS, RUN_FIELDS

SEPARATOR = "\n==== the end of a block ====\n"


@pytest.fixture
def at_home(tmp_path):
    """A server on the folders that a new account has by default; PATH begins with the folder of `tools`."""
    server = Server(env={"PATH": f"{tools(tmp_path)}{os.pathsep}{os.environ['PATH']}"})
    server.config_dir = server.folder / ".config" / "exeio"
    server.data_dir = server.folder / ".local" / "share" / "exeio"
    server.logs = server.data_dir / "logs"
    try:
        yield server.start()
    finally:
        server.close()


def tools(folder: Path) -> Path:
    """A folder with the python3 of this test, and a curl that fails where the answer is a refusal."""
    for name, command in (("python3", f"{sys.executable} -W error"), ("curl", f"{need('curl')} --fail")):
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def test_every_shell_example_runs_and_answers_as_shown(at_home):
    place = at_home.folder / "copied"  # all that an installation takes
    place.mkdir()
    shutil.copy2(PROGRAM, place)
    shutil.copytree(ROOT / "exeio_core", place / "exeio_core", ignore=shutil.ignore_patterns("__pycache__"))
    every = blocks()
    to_run = [block for block in every if block.kind == "bash" and not block.reason]
    assert len(to_run) > 5
    script = at_home.folder / "script"
    script.write_text("".join(f"{block.text}printf '%s' '{SEPARATOR}'\n" for block in to_run), "utf-8")
    env = clean_environment(at_home.folder, {**at_home.env, "EXEIO_URL": at_home.url})
    result = subprocess.run(
        ["bash", "-euo", "pipefail", str(script)], env=env, cwd=str(place), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=30, check=False)
    outputs = result.stdout.split(SEPARATOR)
    if result.returncode or result.stderr or len(outputs) != len(to_run) + 1:
        stopped = to_run[min(len(outputs), len(to_run)) - 1]
        pytest.fail(f"the example in line {stopped.line} failed ({result.returncode}):\n{stopped.text}\n"
                    f"{outputs[-1]}{result.stderr}\n{at_home.log('exeio')[-2000:]}")
    for block, after in zip(every, every[1:]):
        if block in to_run and after.kind == "json":
            check_answer(after, outputs[to_run.index(block)])
        elif block in to_run and after.kind == "text":
            check_events(after, outputs[to_run.index(block)])
    assert at_home.process.wait(10) == 0, "the last example is to shut exeio down"


def check_answer(shown: Block, output: str) -> None:
    """See that every message and every member of a shown answer is in the real one; a pid may be another."""
    def messages(text: str) -> Iterator[str]:
        return (re.sub(r"pid \d+", "pid N", found) for found in re.findall(r'"message": ("[^"]*")', text))
    assert set(messages(shown.text)) <= set(messages(output)), (shown.line, output)
    members = set(re.findall(r'"(\w+)": ', shown.text))
    assert members <= set(re.findall(r'"(\w+)": ', output)), (shown.line, output)
    assert shown.text.count("\n") == output.count("\n"), (shown.line, output)


def check_events(shown: Block, output: str) -> None:
    """See that every server-sent event that is shown came, but for its numbers."""
    def data(text: str) -> Iterator[str]:
        return (re.sub(r"\d+", "0", line) for line in text.splitlines() if line.startswith("data: "))
    assert set(data(shown.text)) <= set(data(output)), (shown.line, output)


def test_no_example_of_the_api_is_left_out():
    marked = [block for block in blocks() if block.reason]
    assert marked and all(block.kind == "bash" for block in marked)
    assert [block.line for block in marked if re.search(r"\bapi |\bcurl ", block.text)] == []


def named(name: str) -> bool:
    """Whether the README has this as code, by itself or with what it takes."""
    return re.search(rf"`(?:[^`\n]*[ ,])?{re.escape(name)}(?![\w/-])[^`\n]*`", README) is not None


def test_every_option_is_named(tmp_path):
    shown = run_exeio("serve", "--help", home=tmp_path).stdout
    options = re.findall(r"(?<![\w`-])--?[A-Za-z][\w-]*", shown[:shown.index("\ncommands ")])
    assert {"--host", "-k", "--stop-timeout"} <= set(options)
    assert [option for option in options if not named(option)] == []


def test_every_command_of_the_client_is_named():
    assert [name for name in COMMANDS if not named(name)] == []


def test_every_endpoint_is_named_and_has_an_example():
    assert [route.path for route in ROUTES if f"`{route.method} {route.path}`" not in README] == []
    shell_text = "".join(block.text for block in blocks() if block.kind == "bash" and not block.reason)
    asked = {re.sub(r"^(/[\w-]+)/[\w-]+", r"\1/{id}", path) for path in re.findall(r'"\$URL(/[^"?]*)', shell_text)}
    assert {route.path for route in ROUTES} - asked == set()
    parameters = {name for route in ROUTES for name in route.parameters}
    assert [name for name in sorted(parameters) if not re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", README)] == []


def test_every_field_and_status_is_named(server):
    server.add("tick", "true", periodic=True, period_seconds=3600)
    shown = server.wait_status("tick", "waiting")
    fields = {field.name for field in FIELDS} | set(shown) | set(shown["history"][0]) - {"run"}
    statuses = {status_word(*each) for each in itertools.product(State, *[(False, True)] * 3)}
    assert [name for name in sorted(fields | statuses) if f"`{name}`" not in README] == []


def test_the_fields_with_a_star_are_those_that_need_a_new_run():
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+)( \*)? \|", section("A process, as added"), re.MULTILINE)
    marked = {name: bool(star) for names, star in rows for name in re.findall(r"\w+", names)}
    assert marked == {field.name: field.name in RUN_FIELDS for field in FIELDS}


def sentences() -> str:
    """All texts in the sources, with {} for what is filled in."""
    found = []
    for path in [PROGRAM, *sorted((ROOT / "exeio_core").glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                found.append("".join(map(str, parts)))
    return "\n".join(found)


def test_the_sentences_of_the_troubleshooting_are_what_exeio_says():
    said = [quoted for table in re.findall(r"^\| it says \|.*\n(?:\|.*\n)+", section("Troubleshooting"), re.MULTILINE)
            for row in table.splitlines()[2:] for quoted in re.findall("`([^`]+)`", row.split("|")[1])]
    assert len(said) > 15
    texts = sentences()
    assert [each for each in said if each not in texts] == []


def test_every_module_has_its_place_in_the_table():
    rows = re.search(r"^\| modules \|.*\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert rows is not None
    patterns = [name for row in rows[1].splitlines() for name in re.findall("`([^`]+)`", row.split("|")[1])]
    modules = {path.stem for path in (ROOT / "exeio_core").glob("*.py")} - {"__init__", "__main__"}
    assert {name for name in modules if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)} == set()
    for pattern in patterns:
        assert pattern == "exeio.py" or fnmatch.filter(modules, pattern), f"there is no module {pattern}"


def test_links_within_the_page_lead_somewhere():
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert [link for link in re.findall(r"\]\(#([^)]*)\)", README) if link not in anchors] == []
