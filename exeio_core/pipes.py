"""The pipes of a child to be: made before its birth, so that at that moment there is little left to do."""

from __future__ import annotations

import errno
import os
from typing import List, Optional

from .wake import Wake


class Held:
    """What a pipe takes that cannot be opened both ways: an end that keeps it open, and a call for its reader."""

    __slots__ = ("_end", "wake")

    def __init__(self, end: int) -> None:
        """Raises OSError (EMFILE)."""
        self._end = end
        self.wake = Wake()

    def release(self) -> None:
        """Let the pipe end when nobody else has its other end."""
        end, self._end = self._end, -1
        if end >= 0:
            os.close(end)

    def close(self) -> None:
        """Close both."""
        self.release()
        self.wake.close()


class Pipes:
    """Our ends and the child's ends of its streams, all close-on-exec; ours do not block. -1: there is none.

    A pipe of output does not end with the child, so that the end of 500 does not wake 1,000 readers at one moment: our
    end can also be written to, or else `held_stdout` and `held_stderr` keep it open. `inodes` are those of the pipes,
    stderr's last.
    """

    __slots__ = ("child_stderr", "child_stdin", "child_stdout", "held_stderr", "held_stdout", "inodes", "stderr",
                 "stdin", "stdout")

    def __init__(self, with_stdin: bool) -> None:
        """Raises OSError, and leaves nothing open then."""
        made: List[List[int]] = []
        held: List[Optional[Held]] = []
        try:
            for _ in range(2 + with_stdin):
                made.append([*os.pipe()])
            for ends in made[:2]:
                held.append(_keep_open(ends))
        except OSError:
            for one in filter(None, held):
                one.wake.close()
            for ends in made:
                for fd in ends:
                    os.close(fd)
            raise
        (self.stdout, self.child_stdout), (self.stderr, self.child_stderr) = made[:2]
        self.held_stdout, self.held_stderr = held
        self.child_stdin, self.stdin = made[2] if with_stdin else (-1, -1)
        if self.stdin >= 0:
            os.set_blocking(self.stdin, False)
        self.inodes: List[int] = [os.fstat(fd).st_ino for fd in (self.stdin, self.stdout, self.stderr) if fd >= 0]

    def close_childs(self) -> None:
        """Close the child's ends: it has its own by now, or there will be none."""
        for fd, held in ((self.child_stdin, None), (self.child_stdout, self.held_stdout),
                         (self.child_stderr, self.held_stderr)):
            if fd >= 0 and held is None:
                os.close(fd)


def _keep_open(ends: List[int]) -> Optional[Held]:
    """Make the first of a pipe's ends one that does not block and can be written to as well, and return None.

    On Linux a pipe can be opened anew for both (fifo(7)). Elsewhere return what keeps it open beside. Raises OSError.
    """
    try:
        both = os.open(f"/proc/self/fd/{ends[0]}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        os.set_blocking(ends[0], False)
        return Held(ends[1])
    os.close(ends[0])
    ends[0] = both
    return None
