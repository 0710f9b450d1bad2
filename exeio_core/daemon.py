"""`serve --daemon`: the supervisor goes on in a detached process, and its caller returns when that one listens.

Until then the detached process writes into pipes of the caller, who passes all of it on, and at the end the exit
status, too; from then on it writes to a file. All of this happens before any thread is started.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from typing import Callable, Dict

from exeio_core.errors import StartupError

#: The file in the data folder that gets what a detached exeio says on stdout and stderr.
OUTPUT = "exeio.out"


def run(folder: str, body: Callable[[Callable[[], None]], int]) -> int:
    """Run `body` in a detached process; its argument is to be called once, when exeio listens.

    Returns twice: in the calling process 0 when it listens, else the exit status of the body; in the detached process,
    at its end, what the body returned. `folder` gets the output. Raises StartupError.
    """
    path = os.path.join(folder, OUTPUT)
    try:
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(output, 0o600)
        out, err, status = os.pipe(), os.pipe(), os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
    except OSError as error:
        raise StartupError(f"cannot detach: {error.strerror}: {error.filename or path}") from None
    if child:
        for fd in (output, out[1], err[1], status[1]):
            os.close(fd)
        os.waitpid(child, 0)
        return _relay({out[0]: 1, err[0]: 2}, status[0], path)
    # In a session of its own, and leading none: no terminal can ever become its controlling one.
    os.setsid()
    try:
        if os.fork():
            os._exit(0)
    except OSError as error:
        os.write(err[1], b"exeio: cannot detach: %s\n" % (error.strerror or "").encode())
        os._exit(1)
    for fd in (out[0], err[0], status[0]):
        os.close(fd)
    _replace(os.open(os.devnull, os.O_RDWR), 0)
    _replace(out[1], 1)
    _replace(err[1], 2)
    os.write(status[1], b"%d\n" % os.getpid())

    def listening() -> None:
        os.dup2(output, 1)
        os.dup2(output, 2)
        _tell(status[1], 0)

    result = body(listening)
    with contextlib.suppress(OSError):  # it was told already
        sys.stdout.flush()
        _tell(status[1], result)
    return result


def _replace(fd: int, number: int) -> None:
    """Let `number` be what `fd` is."""
    if fd != number:  # where the caller had closed it, a descriptor may have got the number already
        os.dup2(fd, number)
        os.close(fd)


def _tell(fd: int, status: int) -> None:
    os.write(fd, b"%d\n" % status)
    os.close(fd)


def _relay(streams: Dict[int, int], status: int, path: str) -> int:
    """Pass on what the detached process says until it is settled; returns its exit status."""
    said = b""
    poll = select.poll()
    open_now = {*streams, status}
    for fd in open_now:
        poll.register(fd, select.POLLIN)
    try:
        while open_now:
            for fd, _ in poll.poll():
                data = os.read(fd, 65536)
                if not data:
                    poll.unregister(fd)
                    os.close(fd)
                    open_now.discard(fd)
                elif fd == status:
                    said += data
                else:
                    with contextlib.suppress(OSError):  # nobody reads it: no reason not to go on
                        os.write(streams[fd], data)
    except KeyboardInterrupt:
        pid = said.split(b"\n")[0]
        if pid:
            os.kill(int(pid), signal.SIGTERM)
        raise
    words = said.split()
    if len(words) < 2:
        raise StartupError(f"the detached exeio ended before it listened; {path} may say more")
    return int(words[1])
