#!/usr/bin/env python3
"""Runs the tests: `python3 tests/run.py [pytest's arguments]`, with pytest's exit status.

Without arguments all tests run, in four processes side by side. Where the running interpreter has no pytest, a virtual
environment with one is made once, in .venv/ of the top folder or, where nothing can be written there, in the user's
cache. Nothing else is installed anywhere.
"""

import fcntl
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from typing import IO, Dict, List, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
NEEDED = "pytest>=7"
# They mostly wait: two cores have time for four (114 s instead of 130 with three, on a slow machine).
PARTS = 4
# Exit status 0 if an interpreter has the pytest that is needed; all else, also a broken environment, is a no.
PROBE = "import sys, pytest; sys.exit(int(pytest.__version__.split('.')[0]) < 7)"


def has_pytest(python: str) -> bool:
    """Whether the interpreter at this path can run the tests."""
    try:
        return subprocess.run([python, "-c", PROBE], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def writable_home() -> str:
    """A folder for virtual environments that can be written to; it exists."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for folder in (os.path.join(ROOT, ".venv"), os.path.join(cache, "exeio-tests")):
        try:
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, ".lock"), "a"):
                return folder
        except OSError:
            continue
    sys.exit(f"No virtual environment can be made: neither {ROOT} nor {cache} can be written to.")


def environment() -> str:
    """The interpreter of a virtual environment with pytest, made now if there is none."""
    # Two builds of one version must not share an environment, so its name tells where the interpreter lives.
    build = hashlib.sha256(f"{sys.base_prefix} {platform.machine()}".encode()).hexdigest()[:8]
    home = writable_home()
    folder = os.path.join(home, f"{platform.python_version()}-{build}")
    python = os.path.join(folder, "bin", "python")
    # Held while one is looked at or made, so that two runs that start together do not both make it.
    with open(os.path.join(home, ".lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not has_pytest(python):
            make(folder, python)
    return python


def make(folder: str, python: str) -> None:
    """Make the virtual environment; ends the program with what is missing if it cannot be made."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit(
            f"This Python {version} has no pytest, and without its modules venv and ensurepip it cannot get "
            f"one.\nOn Debian and Ubuntu: apt-get install python{version}-venv (or python3-pytest).")
    print(f"Making a virtual environment with pytest in {folder} …", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=False)
    if made.returncode:
        sys.exit(f"The virtual environment {folder} could not be made; python -m venv says why above.")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", NEEDED]
    if subprocess.run(install, check=False).returncode:
        sys.exit(
            "pytest could not be installed; pip says why above. Without a network, install pytest 7 or newer "
            f"for {sys.executable} in another way and run this again.")


def arguments(given: List[str]) -> List[str]:
    """pytest's arguments; paths in them are those of the caller's folder, as the tests run in the top one."""
    def settled(argument: str) -> str:
        path, colons, test = argument.partition("::")
        return os.path.abspath(path) + colons + test if os.path.exists(path) else argument
    return [settled(argument) for argument in given]


def parts(python: str) -> int:
    """Run all tests in PARTS processes, each every so many; returns the worst exit status.

    They mostly wait for processes and deadlines of their own servers. What the others say follows the first's.
    """
    began = time.monotonic()
    command = [python, "-u", "-m", "pytest", "-q"]
    running: List[Tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    for number in range(PARTS):
        kept = tempfile.TemporaryFile()  # noqa: SIM115 - it ends with this process
        env = {**os.environ, "EXEIO_TESTS_PART": f"{number}/{PARTS}"}
        stdout = kept if number else subprocess.PIPE
        running.append((subprocess.Popen(command, stdout=stdout, stderr=subprocess.STDOUT, env=env), kept))
    said = []
    for process, output in running:
        lines = []
        if process.stdout is not None:  # the first: shown as it comes
            for line in process.stdout:
                lines.append(line)
                show([line])
        process.wait()
        if process.stdout is None:
            output.seek(0)
            lines = output.readlines()
            show(lines)
        said.append(lines[-1].decode("utf-8", "replace") if lines else "")
    print(f"===== {summary(said)} in {time.monotonic() - began:.2f}s =====", flush=True)
    worst = 0
    for process, _ in running:
        worst = max(worst, abs(process.returncode))
    return worst


def show(lines: List[bytes]) -> None:
    """Write lines to stdout at once."""
    sys.stdout.buffer.writelines(lines)
    sys.stdout.buffer.flush()


def summary(last_lines: List[str]) -> str:
    """Add up pytest's own last lines: "3 failed, 120 passed, 2 skipped"."""
    counts: Dict[str, int] = {}
    for line in last_lines:
        for number, what in re.findall(r"(\d+) (passed|failed|error|skipped|xfailed|xpassed)", line):
            counts[what] = counts.get(what, 0) + int(number)
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items())) or "no summary"


def main() -> None:
    """Run pytest: all tests in parts, or with arguments in place of this process."""
    if sys.version_info < (3, 9):  # noqa: UP036 - this is what says so
        sys.exit("The tests need Python 3.9 or newer; this is Python {}.{}.".format(*sys.version_info))
    python = sys.executable if has_pytest(sys.executable) else environment()
    # The tests need pytest alone; plugins that happen to be installed could only disturb them.
    os.environ.setdefault("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    given = arguments(sys.argv[1:])
    os.chdir(ROOT)
    if not given:
        sys.exit(parts(python))
    os.execv(python, [python, "-m", "pytest", *given])


if __name__ == "__main__":
    main()
