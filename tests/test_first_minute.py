"""The README's first minute, as a newcomer types it: on a terminal in under a minute, and on a bare machine."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from build_pyz import build
from readme_text import blocks, section
from support import NOT_HERE, PROGRAM, ROOT, clean_environment, marked, need, run_exeio, wait_for

TITLE = "The first process in one minute"
SIGNS_A_SECOND = 5  # of somebody who types with care
CLONE = "git clone https://github.com/somebody/exeio && cd exeio"  # a URL of the usual length


def lines():
    """What the README says to type: to start exeio, and what follows by the client."""
    shown = blocks(section(TITLE))
    started = [line[2:] for each in shown if each.kind == "console" for line in each.text.splitlines()
               if line.startswith("$ ")]
    asked = [line for each in shown if each.kind == "bash" for line in each.text.splitlines()
             if line.startswith("python3 exeio.py")]
    return started, asked


def test_its_lines_are_those_this_file_knows():
    started, asked = lines()
    assert started == ["python3 exeio.py"]
    assert [line.split()[2] for line in asked] == ["add", "list", "logs", "stop", "start"]
    assert "--auto-restart" in asked[0] and "--save-for-next-run" in asked[0]


class Terminal:
    """A shell on a terminal of its own, in the folder of a clone; `type` counts what it is given."""

    def __init__(self, folder, home):
        (folder / "tools").mkdir(exist_ok=True)
        python = folder / "tools" / "python3"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error "$@"\n')
        python.chmod(0o755)
        variables = {"EXEIO_PORT": "0", "PS1": "$ ", "TERM": "xterm", "ENV": "",
                     "PATH": f"{folder / 'tools'}{os.pathsep}{os.environ['PATH']}"}
        self.file = home / f"screen-{id(self)}"
        with open(self.file, "wb") as screen:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "import pty; pty.spawn(['sh', '-i'])"], cwd=str(folder),
                env=clean_environment(home, variables), stdin=subprocess.PIPE, stdout=screen, bufsize=0)
        self.typed = 0
        self.seen(r"\$ $")

    @property
    def screen(self):
        return self.file.read_text("utf-8", "replace").replace("\r", "")

    def type(self, text):
        self.typed += len(text)
        self.process.stdin.write(text.encode())

    def seen(self, pattern):
        """Wait until the pattern is on the screen."""
        try:
            wait_for(lambda: re.search(pattern, self.screen))
        except AssertionError:
            raise AssertionError(f"{pattern!r} is not on {self.screen!r}") from None

    def close(self):
        """Hang up, as somebody who closes the window."""
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


@pytest.mark.slow
def test_from_a_clone_to_a_followed_log_in_under_a_minute_of_typing(tmp_path):
    clone = tmp_path / "exeio"
    shutil.copytree(ROOT / "exeio_core", clone / "exeio_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(PROGRAM, clone)
    (start,), (add, show, logs, *_) = lines()
    first = Terminal(clone, tmp_path)
    second = Terminal(clone, tmp_path)
    try:
        first.type(start + "\n")
        first.seen("Config file: ")
        second.type(add + "\n")
        second.seen("\nProcess 'clock' added and started\n")
        second.type(show + "\n")
        second.seen(r"\n\S*clock\S* +\S*running")
        second.type(f"{logs} -f\n")
        second.seen(r"(?s)STDOUT.*\n.*STDOUT.*\n")
        second.type("\x03")
        second.seen(r"\^C\s*\$ $")
        seconds = (len(CLONE) + 1 + first.typed + second.typed) / SIGNS_A_SECOND
        assert seconds < 60, f"{seconds:.0f} s of typing"
        # It is supervised, saved, and comes back.
        saved, = json.loads((tmp_path / ".config/exeio/processes.json").read_text())
        assert (saved["id"], saved["auto_restart"]) == ("clock", True)
        pid = status(tmp_path)["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: status(tmp_path)["pid"] not in (None, pid), what="the restart")
        first.type("\x03")
        first.seen(r"\^C\s*\$ $")
        first.type("echo status $?\n")
        first.seen(r"\nstatus 0\n")
    finally:
        run_exeio("shutdown", home=tmp_path)
        for terminal in (first, second):
            terminal.close()
    instance = (tmp_path / ".local/share/exeio/instance-id").read_text().strip()
    wait_for(lambda: marked(instance) == [], what="what was left")


def status(home):
    return json.loads(run_exeio("status", "clock", "--json", home=home).stdout)


# A bare machine

NOBODY = 65534
#: What the lines themselves use, and every image has.
PROGRAMS = ("sh", "date", "sleep")


@pytest.fixture
def open_folder():
    """A folder that every account may enter: pytest's own is closed by each pytest that starts meanwhile."""
    with tempfile.TemporaryDirectory(prefix="exeio-bare-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.slow
def test_on_a_bare_machine_with_nothing_but_python(open_folder):
    """One file in an empty folder, no variables but PATH and HOME, an account of no rights, the README's lines."""
    as_user, python = bare_account()
    home, opt, programs = open_folder / "home", open_folder / "opt", open_folder / "bin"
    for folder in (home, opt, programs):
        folder.mkdir()
    if as_user:
        os.chown(home, NOBODY, NOBODY)
    build(opt / "exeio.pyz")
    for name in PROGRAMS:
        (programs / name).symlink_to(need(name))
    (programs / "python3").symlink_to(python)
    env = {"PATH": str(programs), "HOME": str(home)}

    def run(line):
        words = ["sh", "-c", line.replace("exeio.py", "exeio.pyz")]
        done = subprocess.run(words, cwd=str(opt), env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60, check=False, **as_user)
        assert (done.returncode, done.stderr) == (0, ""), line
        return done.stdout

    (start,), (add, show, logs, stop, again) = lines()
    banner = run(f"{start} --daemon --port 0")
    try:
        assert banner.startswith("Process Supervisor starting on port ") and banner.count("\n") == 5
        assert run(add) == "Process 'clock' added and started\n"
        assert re.search(r"\nclock +running ", run(show))
        wait_for(lambda: "STDOUT: " in run(logs))
        assert run(stop) == "Process 'clock' stopped\n"
        assert run(again) == "Process 'clock' started\n"
    finally:
        assert run("python3 exeio.py shutdown") == "exeio is shutting down\n"
    assert list(opt.iterdir()) == [opt / "exeio.pyz"], "it left something beside itself"
    instance = (home / ".local/share/exeio/instance-id").read_text().strip()
    wait_for(lambda: marked(instance) == [], what="what was left")


def bare_account():
    """What makes subprocess run as an account without rights, and the path of a Python for it."""
    as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            code = "import sys, dataclasses, json, ctypes; sys.exit(sys.version_info < (3, 9))"
            if subprocess.run([python, "-c", code], check=False, cwd="/", **as_user).returncode == 0:
                return as_user, os.path.realpath(python)
        except OSError:
            continue  # it lies in a folder of root's
    pytest.skip(f"{NOT_HERE}no Python that another account may run")
