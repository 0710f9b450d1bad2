"""Every example that the help shows, and every command in the README's prose, is taken as it stands."""

import io
import re
import shlex

import pytest
from client_helpers import process
from readme_text import README, section

from exeio_core import options
from exeio_core.client_options import client_call
from exeio_core.commands import COMMANDS


def calls(line):
    """The commands of exeio in a line for a shell, as lists of words; what stands around them is left out."""
    line = re.split(r"\s{3,}", line.strip())[0]  # a remark behind it
    source = re.fullmatch(r"source <\((.*)\)", line)
    for part in re.split(r" (?:\||&&) ", source[1] if source else line):
        words = shlex.split(part.partition(" > ")[0])
        while words and re.match(r"[A-Z]+=", words[0]):
            words.pop(0)
        if words and words[0] in ("EXEIO", "exeio"):
            yield words[1:]
        elif words[:2] == ["python3", "exeio.py"]:
            yield words[2:]


def of_the_help():
    found = [(f"{command.name}: {line.strip()}", words) for command in COMMANDS.values()
             for line in command.example.split("\n") for words in calls(line)]
    shown = options.SERVE_EXAMPLES.partition("examples:\n")[2].partition("\n\n")[0]
    return found + [(line.strip(), words) for line in shown.split("\n") for words in calls(line)]


def of_the_prose():
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    prose = prose.replace(section("Troubleshooting"), "")  # what exeio says, not what is said to it
    code = (found.replace("\\|", "|") for found in re.findall(r"`([^`\n]+)`", prose))
    return [(text, words) for text in code if "[" not in text for words in calls(text)]


def taken(words):
    """The command that the words are for, once its parser has taken them."""
    command, others = options.split(words)
    if command == "serve":
        options.serve_options(others, {})
    elif others != ["--help"]:
        client_call(command, others)
    return command


EXAMPLES = of_the_help()


@pytest.mark.parametrize(("shown", "words"), EXAMPLES, ids=[shown for shown, _ in EXAMPLES])
def test_an_example_of_the_help_is_taken(shown, words):
    name, colon, _ = shown.partition(": ")
    command = taken(words)
    if colon and "|" not in shown:
        assert command == name


def test_every_command_has_one():
    assert set(COMMANDS) | {"serve"} <= {taken(words) for _, words in EXAMPLES}
    assert len(EXAMPLES) >= len(COMMANDS)


def test_the_commands_in_the_prose_of_the_readme_are_taken():
    found = of_the_prose()
    assert len(found) > 5
    for text, words in found:
        assert taken(words), text


def runs(words):
    """Whether it may run here: the others go on without end or write into the machine, and have tests of their own."""
    follows = words[:1] == ["logs"] and "-f" in words
    return bool(words) and not follows and words[0] not in ("serve", "install", "uninstall") and "--apply" not in words


@pytest.mark.parametrize("words", [words for _, words in EXAMPLES if runs(words)], ids=" ".join)
def test_an_example_of_the_help_runs(exeio, fake, home, monkeypatch, words):
    """Against the stand-in, with the files that it names."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("VISUAL", "true")
    (home / "processes.json").write_text('[{"id": "a", "command": "true"}]')
    (home / "Procfile").write_text("web: true\n")
    (home / "ecosystem.json").write_text('{"apps": [{"name": "a", "script": "a.js"}]}')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"id": "a", "command": "true"}')))
    fake.answers["GET /list"] = [process("web-1"), process("web-2")]
    for id in ("web", "job", "web-1", "web-2", "backup"):
        status = "stopped" if id in ("job", "web-1", "web-2") else "running"
        fake.answers[f"GET /status/{id}"] = process(id, status=status)
        fake.answers[f"GET /config/{id}"] = {"id": id, "command": "sleep", "args": ["5"], "env": {}}
        fake.answers[f"GET /logs/{id}"] = {"success": True, "total_lines": 1, "logs": ["x"]}
    words = [str(home / "supervisord.conf") if word == "/etc/supervisor/supervisord.conf" else word for word in words]
    (home / "supervisord.conf").write_text("[program:a]\ncommand=/bin/cat\n")
    status, _, err = exeio(*words)
    assert (status, err) == (0, "")
