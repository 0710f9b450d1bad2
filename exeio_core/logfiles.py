"""The files of one log on disk: `<path>`, then `<path>.1`, `<path>.2` and so on, older with each number.

They can be renamed at any moment, by a rotation or from outside. A file's key (device and inode) stays the same, and
a rotation only ever moves a file to a higher number: who looks from the newest to the oldest misses none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import Dict, List, NamedTuple, Tuple

from .files import check_regular, open_private

Key = Tuple[int, int]

_GAP = 10  # missing numbers in a row that are skipped: a rotation that was cut short leaves one, a person more


class Found(NamedTuple):
    """A file as it was found: `size` in bytes, `changed` its mtime in nanoseconds."""

    path: str
    key: Key
    size: int
    changed: int


class Changed(Exception):
    """The files are not what they were a moment ago: look again."""


def numbered(path: str, number: int) -> str:
    """Return the name of a rotated file; number 0 is the log itself."""
    return f"{path}.{number}" if number else path


def find(path: str, backups: int) -> List[Found]:
    """Return the files that exist, newest first. A gap in the first `backups` numbers is no end."""
    found: Dict[Key, Found] = {}
    number = missing = 0
    while True:
        name = numbered(path, number)
        try:
            status = os.stat(name)
        except OSError:
            # Not there, or not to be read: for a reader that is the same.
            missing += 1
            if number >= backups or missing > _GAP:
                return list(found.values())
        else:
            missing = 0
            if stat.S_ISREG(status.st_mode):
                key = (status.st_dev, status.st_ino)
                found.pop(key, None)  # it was renamed in between
                found[key] = Found(name, key, status.st_size, status.st_mtime_ns)
        number += 1


def open_key(path: str, key: Key, backups: int) -> int:
    """Open the file with this key for reading, wherever it stands by now; raises Changed if it is gone."""
    number = missing = 0
    while True:
        name = numbered(path, number)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            missing += 1
            if number >= backups or missing > _GAP:
                raise Changed from None
        else:
            missing = 0
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) == key:
                return fd
            os.close(fd)
        number += 1


def is_hole(fd: int) -> bool:
    """Return whether a file has a length and no data at all, as far as its file system tells; raises OSError."""
    if os.pread(fd, 1, 0) != b"\0" or not hasattr(os, "SEEK_DATA"):
        return False
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def open_for_appending(path: str) -> Tuple[int, Key, int]:
    """Open or create a log; return its descriptor, key and size. A line torn by a crash gets its newline.

    A missing folder is made, its parents are not. Raises OSError.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK
    try:
        fd = open_private(path, flags)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # then it is a link to nowhere that is in the way
            os.mkdir(os.path.dirname(path), 0o700)
        fd = open_private(path, flags)
    try:
        status = os.fstat(fd)
        check_regular(status, path)
        return fd, (status.st_dev, status.st_ino), status.st_size + end_line(fd, status.st_size)
    except BaseException:
        os.close(fd)
        raise


def end_line(fd: int, size: int) -> int:
    """Write a newline if the last of `size` bytes is none; return how many bytes that took. Raises OSError."""
    if size and os.pread(fd, 1, size - 1) != b"\n":
        return os.write(fd, b"\n")
    return 0


def rotate(path: str, backups: int, mode: int) -> Tuple[int, Key]:
    """Move each file to the next number, the one with the highest is replaced; return a new, empty log.

    All steps are renames, and the new file is there before the first of them: if one fails, the log stays where it
    was. Raises OSError.
    """
    new = f"{path}.new"
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, mode)
        status = os.fstat(fd)
        if backups:
            _shift(path, backups)
        try:
            os.rename(new, path)
        except OSError:
            if backups:
                os.rename(numbered(path, 1), path)
            raise
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    with contextlib.suppress(OSError):
        drop_beyond(path, backups)
    return fd, (status.st_dev, status.st_ino)


def _shift(path: str, backups: int) -> None:
    free = 1
    while free < backups and os.path.lexists(numbered(path, free)):
        free += 1
    for number in range(free, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            os.rename(numbered(path, number - 1), numbered(path, number))


def drop_beyond(path: str, backups: int) -> None:
    """Delete rotated files with higher numbers than `backups`, up to the first that is missing. Raises OSError."""
    number = backups + 1
    while True:
        try:
            os.unlink(numbered(path, number))
        except FileNotFoundError:
            return
        number += 1


def delete_rotated(path: str) -> None:
    """Delete all rotated files, also beyond a gap in the numbers. Raises OSError."""
    folder, name = os.path.split(path)
    ours = re.compile(re.escape(name) + r"\.(?:[0-9]+|new)")
    try:
        names = os.listdir(folder or ".")
    except FileNotFoundError:
        return
    for other in names:
        if ours.fullmatch(other):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, other))
