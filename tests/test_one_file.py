"""exeio.pyz: the same bytes whoever builds it, and all of exeio in it; the package as a command and a wheel."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from build_pyz import build, entries
from support import NOT_HERE, PROGRAM, ROOT, Server, clean_environment

import exeio_core
from exeio_core.routes import ROUTES

NOBODY = 65534
ASK = "import sys; print('%d.%d' % sys.version_info[:2])"

# What a newcomer does, with nothing but a Python and the one file.
FIRST_STEPS = """
set -eu
exeio() { "$PYTHON" -W error "$FILE" "$@"; }
exeio --port 0 --no-echo > "$HOME/banner" 2> "$HOME/warnings" &
trap 'kill $! 2> /dev/null || true; cat "$HOME/warnings" >&2' EXIT
tries=0
until exeio info > /dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 60 ]
done
exeio add clock --save-for-next-run --wait-seconds 0.1 -- sh -c 'echo tick; exec sleep 60'
exeio list
exeio logs clock --stream stdout
exeio stop clock
exeio shutdown
trap - EXIT
wait $!
cat "$HOME/warnings" >&2
"""


@functools.lru_cache(None)
def interpreters():
    """The Pythons from 3.9 to 3.13 on this machine, one for each version, this one among them."""
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = {"%d.%d" % sys.version_info[:2]: sys.executable}
    for minor in range(9, 14):
        candidates = [*sorted(versions.glob(f"3.{minor}.*/bin/python3")), shutil.which(f"python3.{minor}")]
        for candidate in filter(None, candidates):
            said = subprocess.run([str(candidate), "-c", ASK], capture_output=True, text=True, check=False)
            if said.stdout.strip() == f"3.{minor}":  # a shim of pyenv may lead nowhere
                found.setdefault(f"3.{minor}", str(candidate))
    return list(found.values())


@pytest.fixture
def open_place():
    """A short folder that every user of the machine may enter."""
    place = Path(tempfile.mkdtemp(prefix="exeio-", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def run(*command, cwd, user=None, **environment):
    env = {**clean_environment(cwd), **environment}
    as_user = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    return subprocess.run(
        [str(word) for word in command], cwd=str(cwd), env=env, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, check=False, **as_user)


@pytest.mark.slow
def test_the_same_bytes_whoever_builds_it(tmp_path):
    build(tmp_path / "exeio.pyz")
    expected = (tmp_path / "exeio.pyz").read_bytes()
    other = tmp_path / "a copy elsewhere"
    (other / "tests").mkdir(parents=True)
    shutil.copytree(ROOT / "exeio_core", other / "exeio_core")
    (other / "exeio_core" / "junk.txt").write_text("not a module")
    for file in (PROGRAM, ROOT / "LICENSE"):
        shutil.copy(file, other)
    shutil.copy(ROOT / "tests" / "build_pyz.py", other / "tests")
    for path in other.rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1, 10**9))
    for python in interpreters():
        shell = f'umask 077 && exec "{python}" -W error "{other}/tests/build_pyz.py" made.pyz'
        result = run("sh", "-c", shell, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, ""), python
        made = tmp_path / "made.pyz"
        assert made.read_bytes() == expected, f"{python} makes another file"
        assert made.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.glob("*")) == ["a copy elsewhere", "exeio.pyz", "made.pyz"]


def test_what_is_in_it(tmp_path):
    build(tmp_path / "exeio.pyz")
    assert (tmp_path / "exeio.pyz").read_bytes().startswith(b"#!/usr/bin/env python3\nPK")
    with zipfile.ZipFile(tmp_path / "exeio.pyz") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(name for name, _ in entries())
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        modules = {f"exeio_core/{path.name}" for path in (ROOT / "exeio_core").glob("*.py")}
        assert set(archive.namelist()) == {"__main__.py", "LICENSE"} | modules


@pytest.mark.slow
def test_every_interpreter_takes_it(tmp_path):
    build(tmp_path / "exeio.pyz")
    for python in interpreters():
        result = run(python, "-W", "error", "exeio.pyz", "--version", cwd=tmp_path)
        assert (result.stdout, result.stderr) == (f"exeio {exeio_core.__version__}\n", ""), python
    folder = Path(sys.executable).parent
    (tmp_path / "link").symlink_to("exeio.pyz")
    result = run(tmp_path / "link", "frobnicate", cwd="/", PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
    assert (result.returncode, result.stderr) == (2, "exeio: there is no command 'frobnicate'; see: link --help\n")


def usable_python(user):
    """A Python that `user` (None: this one) may run."""
    for python in (sys.executable, "/usr/bin/python3"):
        script = "import sys; sys.exit(sys.version_info < (3, 9))"
        try:
            if run(python, "-c", script, cwd="/", user=user).returncode == 0:
                return python
        except OSError:
            continue  # it lies in a folder of root's
    pytest.skip(f"{NOT_HERE}no Python that another user may run")


def test_one_file_does_everything_from_a_folder_nobody_can_write_to(open_place):
    """As another user, where this one is root: it has nothing but a home, the file and a Python."""
    user = NOBODY if os.geteuid() == 0 else None
    python = usable_python(user)
    home, place = open_place / "home", open_place / "place"
    home.mkdir()
    if user is not None:
        os.chown(home, user, user)
    place.mkdir()
    build(place / "exeio.pyz")
    place.chmod(0o555)
    try:
        result = run("sh", "-c", FIRST_STEPS, cwd=place, user=user, HOME=str(home), PYTHON=python, FILE="exeio.pyz")
    finally:
        place.chmod(0o755)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    added, titles, listed, logged, stopped, over = result.stdout.splitlines()
    assert added == "Process 'clock' added and started"
    assert titles.split()[:2] == ["ID", "STATUS"] and listed.split()[:2] == ["clock", "running"]
    assert logged.endswith(" STDOUT: tick") and stopped == "Process 'clock' stopped"
    assert over == "exeio is shutting down"
    assert (home / ".config/exeio/processes.json").stat().st_uid == (os.geteuid() if user is None else user)
    assert list(place.iterdir()) == [place / "exeio.pyz"], "it left something beside itself"


class OneFile(Server):
    """The server from exeio.pyz in its folder."""

    def command(self):
        return [str(self.folder / "exeio.pyz") if word == str(PROGRAM) else word for word in super().command()]


def test_a_running_server_needs_nothing_of_a_file_that_was_replaced():
    """Whoever copies the next version over it shall not break the old one until its restart."""
    server = OneFile()
    try:
        build(server.folder / "exeio.pyz")
        server.start()
        (server.folder / "exeio.pyz").write_bytes(b"of the next version, where other things are in other places" * 9999)
        server.sh("x", "echo begun; exec sleep 60", save_for_next_run=True)
        asked = [route for route in ROUTES if route.method == "GET" and not route.stream]
        assert len(asked) > 8
        for route in asked:
            path = route.path.replace("{id}", "x")
            status, answer = server.call("GET", path)
            assert status in (200, 400), (path, answer)
        for path in ("/update/x", "/restart/x", "/input/x", "/signal/x", "/reload", "/remove/x", "/add"):
            status, answer = server.call("POST", path, {"id": "x"} if path == "/add" else None)
            assert status in (200, 400, 409), (path, answer)
    finally:
        server.close()


def test_the_package_runs_as_a_module(tmp_path):
    result = run(sys.executable, "-W", "error", "-m", "exeio_core", "lst", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "exeio: there is no command 'lst'; did you mean list?\n"


@pytest.mark.slow
def test_pip_makes_a_wheel_and_installs_the_command(tmp_path):
    source = tmp_path / "source"  # setuptools leaves its own files in the folder it builds
    source.mkdir()
    for name in ("exeio.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    shutil.copytree(ROOT / "exeio_core", source / "exeio_core", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if run(*pip, "--version", cwd=tmp_path).returncode:
        pytest.skip(f"{NOT_HERE}no pip for this Python")
    cache = os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
    wheel = run(*pip, "wheel", "-q", "--no-deps", "--retries", "1", "-w", "wheels", "./source", cwd=tmp_path,
                PIP_CACHE_DIR=cache)
    if "No matching distribution found for setuptools" in wheel.stderr:
        pytest.skip(f"{NOT_HERE}no network, from which pip takes setuptools")
    assert wheel.returncode == 0, wheel.stderr
    made, = (tmp_path / "wheels").iterdir()
    assert made.name == f"exeio-{exeio_core.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(made) as archive:
        modules = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert modules == {name for name, _ in entries() if name.startswith("exeio_core/")}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    result = run(*pip, "--python", tmp_path / "venv/bin/python", "install", "-q", "--no-index", made, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    result = run(tmp_path / "venv/bin/exeio", "--version", cwd="/")
    assert (result.stdout, result.stderr) == (f"exeio {exeio_core.__version__}\n", "")
    result = run(tmp_path / "venv/bin/exeio", "lst", cwd="/")
    assert (result.returncode, result.stderr) == (2, "exeio: there is no command 'lst'; did you mean list?\n")
