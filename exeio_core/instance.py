"""One supervisor per data folder: the lock it holds for life, its address for clients, its lasting name."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from types import MappingProxyType
from typing import Dict, Mapping, NamedTuple, Optional

from exeio_core.errors import StartupError
from exeio_core.files import open_private, write_atomic

_LOCK_FILE = "exeio.lock"
_RUN_FILE = "run.json"
_ID_FILE = "instance-id"
_RETRY_SECONDS = 2.0
_RETRY_STEP_SECONDS = 0.05


class RunInfo(NamedTuple):
    """What run.json says: the process id of the supervisor and the URL of its API; `more` is all of it."""

    pid: int
    url: str
    more: Mapping[str, object] = MappingProxyType({})


class InstanceLock:
    """The flock on `exeio.lock`: held until `release` or the end of the process, the file is never unlinked.

    flock and not lockf: closing any other descriptor of the file must not lose the lock.
    """

    def __init__(self) -> None:
        self._fd: Optional[int] = None

    def acquire(self, data_dir: str) -> None:
        """Take the lock of `data_dir`, an existing folder. Raises StartupError.

        If the supervisor that run.json names is dead, the lock may be held by a child it left in mid-spawn,
        or by an instance that is just starting: then this waits up to 2 seconds.
        """
        path = os.path.join(data_dir, _LOCK_FILE)
        try:
            fd = open_private(path, os.O_RDWR)
        except OSError as error:
            raise StartupError(f"cannot open the lock {path}: {error.strerror}") from None
        try:
            self._wait_for(fd, path, data_dir)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _wait_for(self, fd: int, path: str, data_dir: str) -> None:
        deadline = time.monotonic() + _RETRY_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            except OSError as error:
                raise StartupError(
                    f"cannot lock {path}: {error.strerror}; choose a folder on a local disk with --data-dir"
                ) from None
            run = read_run_json(data_dir)
            if run is not None and _alive(run.pid):
                raise StartupError(
                    f"exeio is already running on the data folder {data_dir}: pid {run.pid}, {run.url}; "
                    "stop it first or choose another folder with --data-dir"
                )
            if time.monotonic() >= deadline:
                raise StartupError(
                    f"another process holds the lock {path}, but {_RUN_FILE} does not say which; find it "
                    f"with `fuser {path}`, or choose another folder with --data-dir"
                )
            time.sleep(_RETRY_STEP_SECONDS)  # flock has no wait with a deadline; this is before anything runs

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:
        return False
    return True


def write_run_json(data_dir: str, pid: int, url: str, **more: object) -> None:
    """Note where the supervisor can be reached; `more` are further members. Raises OSError.

    Not fsynced: after a crash of the machine nothing of it is true any more.
    """
    content: Dict[str, object] = {"pid": pid, "url": url}
    content.update(more)
    data = json.dumps(content, indent=2).encode("utf-8") + b"\n"
    write_atomic(os.path.join(data_dir, _RUN_FILE), data, durable=False)


def read_run_json(data_dir: str) -> Optional[RunInfo]:
    """What the last supervisor noted; None if there is nothing readable."""
    try:
        with open(os.path.join(data_dir, _RUN_FILE), "rb") as file:
            content = json.loads(file.read(65536))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    pid, url = content.get("pid"), content.get("url")
    if type(pid) is not int or pid <= 0 or not isinstance(url, str):
        return None
    return RunInfo(pid, url, content)


def remove_run_json(data_dir: str) -> None:
    """Forget the address, at the end of a graceful shutdown; failing to is harmless."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(data_dir, _RUN_FILE))


def instance_id(data_dir: str) -> str:
    """The random name of this data folder's supervisor, 16 hex digits, the same for its whole life.

    Call it with the lock held. Raises StartupError.
    """
    path = os.path.join(data_dir, _ID_FILE)
    try:
        with open(path, "rb") as file:
            text = file.read(64).decode("latin-1").strip()
        if len(text) == 16 and not set(text) - set("0123456789abcdef"):
            return text
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}") from None
    made = os.urandom(8).hex()
    try:
        write_atomic(path, made.encode("ascii") + b"\n")
    except OSError as error:
        raise StartupError(f"cannot write {path}: {error.strerror}") from None
    return made
