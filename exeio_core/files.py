"""Files that only exeio's own account may read: how they are written whole, and their folders made."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import Callable, List

from .errors import Failed

_STALE_SECONDS = 60.0


def whole_path(path: str) -> str:
    """Return the absolute form of `path`; raises Failed for a relative one where the current folder was deleted."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise Failed(f"the current folder is gone, so that {path} means nothing; give its whole path") from None


def write_atomic(path: str, data: bytes, mode: int = 0o600, durable: bool = True,
                 still: Callable[[], bool] = lambda: True) -> bool:
    """Replace the content of `path` so that every reader, and a crash, sees the old or the new content whole.

    A symbolic link stays; what it points to is replaced, unless that is no regular file: a link to /dev/null would
    cost the system its /dev/null. `durable=False` leaves out the fsyncs, for what need not survive a crash of the
    machine. `still` is asked at the last moment; returns False, and the old content is untouched, if it says no.
    Raises OSError; the old content is untouched then, too.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    if os.path.lexists(target):
        check_regular(os.lstat(target), path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(6).hex()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            os.fchmod(fd, mode)  # the umask may have taken bits away
            _write_all(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        wanted = still()
        if wanted:
            os.rename(temporary, target)
        else:
            os.unlink(temporary)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if wanted and durable:
        sync_folder(folder)
    return wanted


def check_regular(status: os.stat_result, path: str) -> None:
    """Raise OSError if the `status` of `path` is not that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def open_private(path: str, flags: int) -> int:
    """Open a file and return its descriptor; one that is not there is made with mode 0600. Raises OSError.

    The mode of a file that exists is left as it is.
    """
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(fd)
        if status.st_size == 0 and status.st_mode & 0o600 != 0o600:  # just made, and the umask took bits away
            os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def sync_folder(folder: str) -> None:
    """Make a rename in `folder` survive a crash of the machine. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_leftovers(path: str) -> None:
    """Delete the temporary files that interrupted writes of `path` left behind; failing to is harmless.

    Only those older than a minute go: a younger one may be a write that is going on.
    """
    folder, name = os.path.split(os.path.realpath(path))
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for other in names:
        if other.startswith("." + name + ".") and other.endswith(".tmp"):
            leftover = os.path.join(folder, other)
            try:
                if time.time() - os.lstat(leftover).st_mtime > _STALE_SECONDS:
                    os.unlink(leftover)
            except OSError:
                continue


def make_private_folder(path: str) -> List[str]:
    """Make the folder `path`, its missing parents too, with mode 0700; return what is odd about it.

    An existing folder's mode is left as it is: it may be one that others use. Raises OSError.
    """
    missing = []
    head = os.path.abspath(path)
    while not os.path.lexists(head):
        missing.append(head)
        head = os.path.dirname(head)
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
        else:
            os.chmod(folder, 0o700)  # the umask may have taken bits away
    if missing:
        return []
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    status = os.stat(path)
    if status.st_uid not in (os.geteuid(), 0):
        return [
            f"the folder {path} belongs to another user (uid {status.st_uid}), who can replace what exeio "
            "keeps there"
        ]
    if status.st_mode & 0o022:
        return [f"other users can write to the folder {path}; close it with: chmod go-w {path}"]
    return []
