"""What a line of a log looks like: its stamp, its prefix, how long it may be, and how it is shown in JSON.

    [YYYY-MM-DD HH:MM:SS] STDOUT: text
    [YYYY-MM-DD HH:MM:SS] RUN#3 STDERR: text
    [YYYY-MM-DD HH:MM:SS] SYSTEM host:port: text

Times are UTC. Every line of a log begins like this, whatever a child writes, since each line of a child gets a
prefix of its own: what follows the stamp says whose line it is, and a child cannot forge it.
"""

from __future__ import annotations

import re
import time
from typing import Dict, NamedTuple, Optional, Pattern, Tuple

LINE_LIMIT = 65536  # bytes of a child's line, without prefix and newline; longer ones are split

STAMP = re.compile(rb"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\] ")


class StreamMark(NamedTuple):
    """What recognises the lines of a stream: `mark` at byte 20, or else `pattern` from the beginning."""

    mark: bytes
    pattern: Pattern[bytes]


_RUN = STAMP.pattern + rb"RUN#\d+ "
STREAMS: Dict[str, StreamMark] = {
    "stdout": StreamMark(b"] STDOUT: ", re.compile(_RUN + rb"STDOUT: ")),
    "stderr": StreamMark(b"] STDERR: ", re.compile(_RUN + rb"STDERR: ")),
    "system": StreamMark(b"] SYSTEM ", re.compile(STAMP.pattern + rb"SYSTEM ")),
}

# In messages of exeio itself, which may quote a client, nothing can end a line or move the cursor of a terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROLS.update({9: "\t", 10: "\\n", 13: "\\r", 0x2028: "\\u2028", 0x2029: "\\u2029"})


# The current second, its stamp, and its stamp as a number: one for all logs, replaced as a whole.
_now: Tuple[int, bytes, int] = (-1, b"", 0)


def stamp() -> Tuple[int, bytes, int]:
    """Return the current second (Unix time), its stamp `[…] ` and that stamp's number, see `stamp_number`.

    Made once a second, since formatting costs more than all else that is done for a short block.
    """
    global _now
    second = int(time.time())
    cached = _now
    if cached[0] != second:
        text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second)).encode()
        cached = _now = (second, b"[%b] " % text, stamp_number(text))
    return cached


def stamp_of(second: int) -> int:
    """Return the number of a Unix time, see `stamp_number`."""
    return int(time.strftime("%Y%m%d%H%M%S", time.gmtime(second)))


def stamp_number(text: bytes) -> int:
    """Return `YYYY-MM-DD HH:MM:SS` as the number YYYYMMDDHHMMSS, which sorts as time does."""
    return int(text.translate(None, b"-: "))


def number_of(line: bytes) -> int:
    """Return the number of the stamp that a line begins with, see `stamp_number`."""
    return stamp_number(line[1:20])


def prefix_of(name: bytes, run: Optional[int]) -> bytes:
    """Return what stands between the stamp and the text in lines of the stream `name` (STDOUT, STDERR)."""
    return b"%b: " % name if run is None else b"RUN#%d %b: " % (run, name)


def system_line(address: str, message: str) -> bytes:
    """Return one whole SYSTEM line with its newline, whatever the message holds."""
    if not message.isprintable():  # mostly it is, which is seen in a tenth of the time
        message = message.translate(_CONTROLS)
    text = message.encode("utf-8", "backslashreplace")
    return b"%bSYSTEM %b: %b\n" % (stamp()[1], address.encode("utf-8", "backslashreplace"), text[:LINE_LIMIT])


def shown(line: bytes) -> str:
    """Return a line as JSON can carry it: what is not UTF-8 becomes U+FFFD."""
    return line.decode("utf-8", "replace")


def has_long_line(held: int, text: bytes) -> bool:
    """Whether a line in `text`, of which `held` bytes came before, or its unfinished rest is longer than LINE_LIMIT.

    Looks for one newline in each stretch of that length, from its far end: no cost for ordinary text.
    """
    start, size = -held, len(text)
    while size - start > LINE_LIMIT:
        end = text.rfind(b"\n", max(start, 0), start + LINE_LIMIT + 1)
        if end < 0:
            return True
        start = end + 1
    return False


def split_long_lines(text: bytes) -> bytes:
    """Return `text` with a newline put into each line that is too long, never inside a character of UTF-8.

    Where a line is split depends on its own bytes alone, not on the blocks in which it came.
    """
    pieces = []
    start, size = 0, len(text)
    while size - start > LINE_LIMIT:
        end = text.rfind(b"\n", start, start + LINE_LIMIT + 1)
        if end >= 0:
            pieces.append(text[start : end + 1])
            start = end + 1
            continue
        cut = start + LINE_LIMIT
        while cut > start + LINE_LIMIT - 3 and text[cut] & 0xC0 == 0x80:
            cut -= 1
        pieces.append(text[start:cut] + b"\n")
        start = cut
    pieces.append(text[start:])
    return b"".join(pieces)
