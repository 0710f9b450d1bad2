"""The structure: which module may import which, from the standard library alone, and none grows too long.

`ROOMS` is the map of the package, from the door down. A module imports from lines below its own, and in a
room of several modules from those that stand after it; never from its siblings on the same line. A new module
gets its place here, or this test fails.
"""

import ast
import os
import sys
import sysconfig
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, List, Set, Tuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "exeio_core"
LONGEST = 420

# A line of the map is a level, top first; each text on it is a room, whose modules stand in their own order.
ROOMS: Tuple[Tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("install service_texts", "import_command import_supervisord import_procfile import_pm2 import_plan",),
    ("client_commands client_completion client_manual client_table client_define client_wait client_all_logs "
     "client_logs client_many client client_files client_output client_options", "serve", "daemon"),
    ("api routes handlers metrics eventstream openapi schemas examples calls listing usage health traffic streams "
     "payload access",
     "listeners tls", "options commands"),
    ("reload supervisor removing intent saving",
     "http_server http_connection http_wire http_threads http_listen http_limits http_message http_head"),
    ("hook",),
    ("machine", "recovery"),
    ("watchdog", "ending belonging", "process", "events"),
    ("child",),
    ("stdin",),
    ("reader", "spares", "exits"),
    ("birth", "pipes", "runstate", "lifecycle",
     "logfile logfollow logread logspan logquery logindex logfiles logstream logline", "store", "instance", "settings",
     "echo"),
    ("slack proctree", "spec values", "files", "wake", "notify", "turn", "threads", "effects"),
    ("errors",),
)


def places() -> Dict[str, Tuple[int, str, int]]:
    """For each module of the map its level, its room, and its place in the room."""
    found = {}
    for level, rooms in enumerate(ROOMS):
        for room in rooms:
            for place, module in enumerate(room.split()):
                assert module not in found, f"{module} stands twice in ROOMS"
                found[module] = (level, room, place)
    return found


def modules() -> List[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def imported(path: Path) -> Iterator[Tuple[int, str]]:
    """The line and full name of everything a file imports, also inside functions; our own as exeio_core.x."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = f"exeio_core.{base}".rstrip(".")
            if base == "exeio_core":  # from . import lifecycle
                for alias in node.names:
                    yield node.lineno, f"exeio_core.{alias.name}"
            else:
                yield node.lineno, base


def own(path: Path) -> Iterator[Tuple[int, str]]:
    """The line and name of each module of this package that a file imports."""
    for line, name in imported(path):
        first, _, rest = name.partition(".")
        if first == "exeio_core" and rest and not rest.startswith("__"):
            yield line, rest.split(".")[0]


def standard() -> FrozenSet[str]:
    """The names of the standard library's modules for this interpreter."""
    if sys.version_info >= (3, 10):
        return sys.stdlib_module_names
    names: Set[str] = set(sys.builtin_module_names)
    folders = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    for folder in [*folders, *(os.path.join(folder, "lib-dynload") for folder in folders)]:
        if os.path.isdir(folder):
            names.update(entry.split(".")[0] for entry in os.listdir(folder))
    return frozenset(names - {"site-packages", "dist-packages"})


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_imports_run_downward(path):
    map_of = places()
    assert path.stem in map_of, f"{path.name} has no place in ROOMS yet"
    level, room, place = map_of[path.stem]
    for line, name in own(path):
        where = f"{path.name}:{line} imports {name}"
        assert name in map_of, f"{where}, which has no place in ROOMS"
        its_level, its_room, its_place = map_of[name]
        below = its_level > level or (its_room == room and its_place > place)
        assert below, f"{where}, which is not below it"


@pytest.mark.parametrize(
    "path", [*modules(), PACKAGE / "__init__.py", ROOT / "exeio.py"], ids=lambda path: path.stem)
def test_only_the_standard_library_is_imported(path):
    allowed = standard() | {"exeio_core"}
    strangers = [(line, name) for line, name in imported(path) if name.split(".")[0] not in allowed]
    assert strangers == []


def test_the_map_shows_nothing_that_is_not_there():
    assert set(places()) == {path.stem for path in modules()}


def test_the_package_itself_imports_nothing():
    """The door loads it while its own folder is on the path, where a stray json.py may lie."""
    assert list(imported(PACKAGE / "__init__.py")) == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_a_module_says_what_it_owns_and_stays_short(path):
    text = path.read_text("utf-8")
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    assert first.endswith("."), f"{path.name} has to open with one sentence on what it owns"
    assert len(text.splitlines()) <= LONGEST, f"{path.name} is two modules by now"


def test_the_door_is_a_few_lines():
    assert len((ROOT / "exeio.py").read_text("utf-8").splitlines()) <= 40


def test_the_check_itself_sees_all_ways_to_import(tmp_path):
    file = tmp_path / "sample.py"
    file.write_text(
        "import os.path, exeio_core.spec\nfrom . import child, birth\nfrom .errors import Invalid\n"
        "from exeio_core import store\nfrom exeio_core.wake import Wake\nfrom . import __version__\n"
        "def late():\n    from .api import routes\n")
    assert sorted(own(file)) == [
        (1, "spec"), (2, "birth"), (2, "child"), (3, "errors"), (4, "store"), (5, "wake"), (8, "api")]
    assert {"json", "os", "_socket", "fcntl"} <= standard()
    assert not {"pytest", "exeio_core", "yaml"} & standard()
