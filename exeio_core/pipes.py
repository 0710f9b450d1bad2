"""The pipes of a child to be: made before its birth, so that at that moment there is little left to do."""

from __future__ import annotations

import os
from typing import List


class Pipes:
    """Our ends and the child's ends of its streams, all close-on-exec; ours do not block. -1: there is none.

    `inodes` are those of the pipes, stderr's last.
    """

    __slots__ = ("child_stderr", "child_stdin", "child_stdout", "inodes", "stderr", "stdin", "stdout")

    def __init__(self, with_stdin: bool) -> None:
        """Raises OSError, and leaves nothing open then."""
        made: List[int] = []
        try:
            for _ in range(2 + with_stdin):
                made += os.pipe()
        except OSError:
            for fd in made:
                os.close(fd)
            raise
        self.stdout, self.child_stdout, self.stderr, self.child_stderr = made[:4]
        self.child_stdin, self.stdin = made[4:] or (-1, -1)
        self.inodes: List[int] = []
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.set_blocking(fd, False)
                self.inodes.append(os.fstat(fd).st_ino)

    def close_childs(self) -> None:
        """Close the child's ends: it has its own by now, or there will be none."""
        for fd in (self.child_stdin, self.child_stdout, self.child_stderr):
            if fd >= 0:
                os.close(fd)
