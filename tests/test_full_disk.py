"""A full disk: processes run on at full speed, exeio stays alive and truthful, and the log says what it lacks."""

import contextlib
import os
import re
import subprocess
import sys
import time

import pytest
from support import NOT_HERE, Server, wait_for

LINES = 40_000
WRITER = f"""
import os, sys
for number in range(0, {LINES}, 400):
    os.write(1, b"".join(b"line %06d %s\\n" % (n, b"x" * 85) for n in range(number, number + 400)))
open(sys.argv[1], "w").close()
sys.stdin.readline()
print("the end")
"""


@pytest.fixture
def full_disk():
    """A server whose data folder is a tmpfs of 1 MiB."""
    server = Server("--log-max-bytes", "0")
    server.data_dir.mkdir(mode=0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", str(server.data_dir)],
                             capture_output=True, check=False)
    if mounted.returncode:
        server.close()
        pytest.skip(f"{NOT_HERE}a tmpfs cannot be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield server.start()
    finally:
        if server.process is not None:
            server.stop()
        subprocess.run(["umount", "-l", str(server.data_dir)], check=True)
        server.close()


def test_a_full_disk_stops_nobody_and_the_gap_is_counted(full_disk):
    server = full_disk
    filler = server.data_dir / "filler"
    filler.write_bytes(b"x" * 300_000)
    began = time.monotonic()
    written = server.folder / "written"
    server.add("big", sys.executable, "-c", WRITER, str(written))
    # All of it is taken, most of it into nothing: nearly 4 MB do not fit into what is left of 1 MiB.
    wait_for(written.exists, 20)
    assert time.monotonic() - began < 20
    dropped = wait_for(lambda: settled(server), 20)
    assert 0 < dropped < LINES
    assert server.get("/list")[0]["log_dropped_lines"] == dropped
    # The rest of the API works; what cannot be saved or started says so.
    assert server.call("GET", "/info")[0] == 200
    filler.unlink()
    server.post("/input/big", {"input": ""})
    server.wait_status("big", "stopped")
    text = server.log("big")
    numbers = [int(number) for number in re.findall(r"STDOUT: line (\d{6}) x{85}\n", text)]
    assert len(numbers) + dropped == LINES
    assert numbers == sorted(set(numbers)) and numbers[0] == 0
    gaps = re.findall(r"SYSTEM \S+: (\d+) lines? lost: (.*)\n", text)
    assert sum(int(count) for count, _ in gaps) == dropped
    assert {reason for _, reason in gaps} == {os.strerror(28)}
    assert all(re.match(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] (STDOUT|SYSTEM)", line) for line in text.splitlines())
    assert "STDOUT: the end\n" in text



def settled(server):
    """The number of dropped lines once each line is either in the log or dropped: the pipe is empty."""
    dropped = server.get("/status/big")["log_dropped_lines"]
    return dropped if dropped + server.log("big").count("STDOUT: line ") == LINES else 0


def test_exeio_starts_again_on_a_full_disk_and_ends_what_was_left(full_disk):
    """It refused to, and what its killed predecessor ran went on unsupervised."""
    server = full_disk
    server.add("left", "sleep", "1000")
    server.add("saved", "sleep", "1000", save_for_next_run=True)
    fill = server.data_dir / "fill"
    with contextlib.suppress(OSError), open(fill, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    old = server.left()
    server.kill()
    server.start()
    assert "run.json cannot be written (No space left on device)" in server.stderr
    server.wait_status("saved", "running")
    wait_for(lambda: len(server.left()) == 1 and server.left() != old, what="the others to be ended")
    fill.unlink()
