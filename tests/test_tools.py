"""The tests' own tools: what run.py says when something is missing, skips in CI, who carries a mark."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, clean_environment, marked, need, wait_for

RUN = ROOT / "tests" / "run.py"


def start(*command, cwd, **environment):
    return subprocess.run(
        [str(part) for part in command], cwd=str(cwd), env={**clean_environment(cwd), **environment},
        capture_output=True, text=True, timeout=60, check=False)


def without_modules(folder, *names):
    """A folder for PYTHONPATH in which these modules cannot be imported."""
    for name in names:
        (folder / f"{name}.py").write_text(f"raise ImportError({name!r})")
    return str(folder)


def test_run_hands_over_arguments_and_exit_status(tmp_path):
    """With a path of the caller's folder, and also where a test fails."""
    (tmp_path / "test_sample.py").write_text("def test_good(): pass\ndef test_bad(): assert 0\n")
    path = os.path.dirname(os.path.dirname(pytest.__file__))  # whoever runs this has a pytest there
    good = start(sys.executable, RUN, "-q", "test_sample.py::test_good", cwd=tmp_path, PYTHONPATH=path)
    assert (good.returncode, "1 passed" in good.stdout) == (0, True), good.stdout + good.stderr
    bad = start(sys.executable, RUN, "-q", "test_sample.py", cwd=tmp_path, PYTHONPATH=path)
    assert (bad.returncode, "1 failed, 1 passed" in bad.stdout) == (1, True), bad.stdout + bad.stderr


def test_run_says_which_package_is_missing(tmp_path):
    copy = tmp_path / "top" / "tests"
    copy.mkdir(parents=True)
    shutil.copy2(RUN, copy)
    path = without_modules(tmp_path, "pytest", "ensurepip")
    result = start(sys.executable, copy / "run.py", cwd=tmp_path, PYTHONPATH=path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    version = "{}.{}".format(*sys.version_info)
    assert f"apt-get install python{version}-venv" in result.stderr


@pytest.mark.slow
def test_run_says_that_pytest_could_not_be_installed(tmp_path):
    """pip is there but finds no index; nothing half-made is taken for an environment afterwards."""
    copy = tmp_path / "top" / "tests"
    copy.mkdir(parents=True)
    shutil.copy2(RUN, copy)
    path = without_modules(tmp_path, "pytest")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/nowhere"}
    result = start(sys.executable, copy / "run.py", cwd=tmp_path, PYTHONPATH=path, **offline)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "pytest could not be installed" in result.stderr


SKIPS = """
import pytest
from support import NOT_HERE, need
def test_tool(): need("no-such-tool")
@pytest.mark.skipif(True, reason="because")
def test_mark(): pass
@pytest.mark.skipif(True, reason=NOT_HERE + "on this system")
def test_system(): pass
@pytest.mark.xfail(reason="known", strict=True)
def test_known(): assert 0
"""


@pytest.mark.parametrize(("setting", "summary"), [
    ("", "3 skipped, 1 xfailed"), ("1", "1 failed, 1 skipped, 1 xfailed, 1 error")])
def test_a_skip_for_want_of_a_tool_fails_in_ci(tmp_path, setting, summary):
    for name in ("conftest.py", "support.py", "client_helpers.py"):
        shutil.copy2(ROOT / "tests" / name, tmp_path)
    (tmp_path / "test_sample.py").write_text(SKIPS)
    result = start(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path,
        cwd=tmp_path, PYTHONPATH=str(ROOT), EXEIO_REQUIRE_TOOLS=setting, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert summary in result.stdout, result.stdout + result.stderr
    assert ("needs no-such-tool; with EXEIO_REQUIRE_TOOLS" in result.stdout) == bool(setting)


def test_need_returns_the_path_of_a_tool():
    assert os.access(need("sh"), os.X_OK)


def test_wait_for_gives_up_with_words():
    assert wait_for(lambda: "yes") == "yes"
    with pytest.raises(AssertionError, match="the moon was still 0 after 0.02 s"):
        wait_for(lambda: 0, 0.02, "the moon")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="not here: /proc")
@pytest.mark.parametrize(("mark", "found"), [
    ("i-1/web/3", True), ("outer/x/1,i-1/web/3", True), ("i-1/web/3,inner/y/2", True), ("i-12/web/3", False),
    ("outer/i-1/3", False)])
def test_marked_finds_the_processes_of_one_instance_alone(mark, found):
    environment = {"A": "EXEIO_RUN=i-1/", "EXEIO_RUN": mark}
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, env=environment) as cat:
        wait_for(lambda: b"cat" in Path(f"/proc/{cat.pid}/cmdline").read_bytes())
        assert (cat.pid in marked("i-1")) is found
        cat.stdin.close()


@pytest.mark.slow
def test_all_tests_run_in_parts_whose_counts_are_added(tmp_path):
    """Each test once, and the exit status of the worst part."""
    copy = tmp_path / "tests"
    copy.mkdir()
    for name in ("run.py", "conftest.py", "support.py", "client_helpers.py"):
        shutil.copy2(ROOT / "tests" / name, copy)
    shutil.copy2(ROOT / "setup.cfg", tmp_path)
    shutil.copytree(ROOT / "exeio_core", tmp_path / "exeio_core", ignore=shutil.ignore_patterns("__pycache__"))
    path = os.path.dirname(os.path.dirname(pytest.__file__))
    sample = "import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_it(n): assert n != {bad}\n"
    (copy / "test_sample.py").write_text(sample.format(bad=9))
    good = start(sys.executable, copy / "run.py", cwd=tmp_path, PYTHONPATH=path)
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.splitlines()[-1].startswith("===== 5 passed in ")
    (copy / "test_sample.py").write_text(sample.format(bad=3))
    bad = start(sys.executable, copy / "run.py", cwd=tmp_path, PYTHONPATH=path)
    assert bad.returncode == 1
    assert bad.stdout.splitlines()[-1].startswith("===== 1 failed, 4 passed in ")
