"""exeio.py runs the package beside it, from anywhere, whatever lies around; old Pythons get a clear line."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Stands for the real command line, so that only the door is looked at.
CLI = """
import json, os, socket, subprocess, sys
def main() -> int:
    print(json.dumps({"argv": sys.argv[1:], "core": __file__, "json": json.__file__, "cwd": os.getcwd()}))
    return 7
"""
TRAPS = ("json.py", "socket.py", "subprocess.py", "exeio_core.py")


@pytest.fixture
def place(tmp_path):
    """A folder with exeio.py and a package of its own."""
    place = tmp_path / "place"
    (place / "exeio_core").mkdir(parents=True)
    shutil.copy2(ROOT / "exeio.py", place)
    (place / "exeio_core" / "__init__.py").write_text("")
    (place / "exeio_core" / "cli.py").write_text(CLI)
    return place


def run(*command, cwd, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command], cwd=str(cwd), env={**kept, **environment}, check=False,
        capture_output=True, text=True, timeout=30)


def went_in(result, place):
    assert result.stderr == "" and result.returncode == 7
    assert f'"core": "{place}/exeio_core/cli.py"' in result.stdout
    assert f'"json": "{os.path.dirname(os.__file__)}/' in result.stdout.replace(sys.prefix, sys.base_prefix)
    return result.stdout


def set_traps(folder):
    for trap in TRAPS:
        (folder / trap).write_text("raise SystemExit('a trap')")


def test_it_hands_over_arguments_and_exit_status(place):
    result = run(sys.executable, "exeio.py", "list", "--json", cwd=place)
    assert '"argv": ["list", "--json"]' in went_in(result, place)


def test_it_is_executable_and_works_through_links(place, tmp_path):
    (tmp_path / "one").symlink_to(place / "exeio.py")
    (tmp_path / "two").symlink_to("one")
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    went_in(run(tmp_path / "two", cwd="/", PATH=path), place)
    (tmp_path / "folder").symlink_to(place)
    went_in(run(sys.executable, tmp_path / "folder" / "exeio.py", cwd="/"), place)


def test_from_a_folder_that_is_gone(place, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'rmdir "$PWD" && exec "$0" "$1"'
    result = run("sh", "-c", script, sys.executable, place / "exeio.py", cwd=gone)
    assert "FileNotFoundError" in result.stderr  # of the stand-in's own os.getcwd(): the door was passed
    assert f"{place}/exeio_core/cli.py" in result.stderr and "exeio.py\", line 1" not in result.stderr


@pytest.mark.parametrize("python_path", [None, "", ".", ":", "..:."])
def test_files_in_the_current_folder_are_not_imported(place, tmp_path, python_path):
    set_traps(tmp_path)
    (tmp_path / "exeio_core").mkdir()
    (tmp_path / "exeio_core" / "__init__.py").write_text("raise SystemExit('a trap')")
    environment = {} if python_path is None else {"PYTHONPATH": python_path}
    went_in(run(sys.executable, place / "exeio.py", cwd=tmp_path, **environment), place)


def test_files_beside_it_are_not_imported(place):
    set_traps(place)
    went_in(run(sys.executable, "exeio.py", cwd=place), place)
    went_in(run(sys.executable, place / "exeio.py", cwd="/"), place)


def test_from_a_folder_nobody_can_write_to(place):
    for folder in (place / "exeio_core", place):
        folder.chmod(0o555)
    try:
        went_in(run(sys.executable, place / "exeio.py", cwd="/"), place)
    finally:
        for folder in (place, place / "exeio_core"):
            folder.chmod(0o755)


@pytest.mark.parametrize("flags", [["-I"], ["-S"], ["-E", "-s"]])
def test_with_flags_of_python(place, flags):
    went_in(run(sys.executable, *flags, "exeio.py", cwd=place), place)


def test_as_one_zip_file(place, tmp_path):
    archive = tmp_path / "exeio.pyz"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(place / "exeio.py", "__main__.py")
        for name in ("__init__.py", "cli.py"):
            zipped.write(place / "exeio_core" / name, f"exeio_core/{name}")
    set_traps(tmp_path)
    went_in(run(sys.executable, "exeio.pyz", cwd=tmp_path), archive)
    (tmp_path / "link").symlink_to(archive)
    went_in(run(sys.executable, tmp_path / "link", cwd="/"), archive)


def test_without_its_package_it_says_what_is_missing(place):
    shutil.rmtree(place / "exeio_core")
    result = run(sys.executable, "exeio.py", cwd=place)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == f"exeio: {place} has no folder exeio_core; copy it there, beside exeio.py\n"


def old_pythons():
    """The interpreters on this machine that are too old."""
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [*versions.glob("2.7.*/bin/python"), *versions.glob("3.[0-8].*/bin/python")]
    return sorted({path.resolve(): path for path in found if os.access(path, os.X_OK)}.values())


@pytest.mark.slow
def test_an_old_python_gets_one_clear_line():
    for python in old_pythons():
        result = run(python, ROOT / "exeio.py", cwd="/")
        assert result.stderr.startswith("exeio needs Python 3.9 or newer; this is Python "), python
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1), python


def test_the_file_holds_nothing_that_an_old_python_cannot_parse():
    """Also where no old Python is installed: no annotations, no f-strings, ASCII alone."""
    text = (ROOT / "exeio.py").read_bytes().decode("ascii")
    code = "".join(line.partition("#")[0] for line in text.splitlines(True))
    assert not any(sign in code for sign in ("->", 'f"', "f'", ":=", "nonlocal", "async ", "print"))
    assert (ROOT / "exeio.py").stat().st_mode & 0o111 == 0o111
