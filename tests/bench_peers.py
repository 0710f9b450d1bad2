"""exeio beside its peers, in one table: `bench.py peers [--keep FILE] [ROW …]` with those of them that are on PATH.

Each row is the same for all of them: the same jobs, the same clock, each by its own API over a Unix socket, one request
after the other. `--keep` adds rows to those that were measured before, and shows all of them.
"""

import argparse
import contextlib
import functools
import json
import os
import random
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Type

from bench_compare import BARE, Line, behind, table
from bench_programs import PATIENCE, PROGRAMS, Job, Program
from bench_wire import Words, connect

STARTS = 21
KILLS = 9
READS = 21
COUNT = 500
IDLE_SECONDS = 10.0
CALL_SECONDS = 3.0
LINES = 1_000_000
SLEEP = ["/bin/sleep", "100000"]
BARE_IMPORTS = "import http.server, subprocess, threading, json, argparse"
#: Lines of 100 bytes in blocks, as a program behind a pipe writes them, and ten others at the end. With an argument it
#: then lives on: pm2 drops what it has not written yet when a process ends.
WRITER = f"""
import os, signal, sys
block = (b"x" * 99 + b"\\n") * 640
rest = {LINES}
while rest:
    view = memoryview(block)[:rest * 100]
    rest -= len(view) // 100
    while view:
        view = view[os.write(1, view):]
os.write(1, (b"END" * 33 + b"\\n") * 10)
if sys.argv[1:]:
    signal.pause()
"""
#: A line of a log of 125 bytes, as exeio would have written it.
LOGGED = b"[2026-01-01 00:00:00] STDOUT: %094d\n"
HOLDER = f"""
import sys
{BARE_IMPORTS}
held = [subprocess.Popen({SLEEP}, stdin=-1, stdout=-1, stderr=-1) for _ in range(int(sys.argv[1]))]
print(flush=True)
sys.stdin.read()
for child in held:
    child.kill()
"""

Programs = List[Type[Program]]


def start(programs: Programs) -> Iterator[Line]:
    """From the start of the program without any process, in folders that it knows, to its first answer."""
    times: Dict[str, List[float]] = {BARE: [], **{program.name: [] for program in programs}}
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(program()) for program in programs]  # byte code, keys and folders are made now
        for one in made:
            one.halt()
        for _ in range(STARTS):  # in turn, so that whatever else the machine does meets all
            times[BARE].append(_timed(lambda: subprocess.run([sys.executable, "-c", BARE_IMPORTS], check=True)))
            for one in made:
                times[one.name].append(_timed(one.start))
                one.halt()
    yield Line(f"cold start to the first answer (median of {STARTS})", "s",
               {name: statistics.median(values) for name, values in times.items()})


def idle(count: int, programs: Programs) -> Iterator[Line]:
    """What they cost while nothing happens, all of them at the same time."""
    memory: Dict[str, Optional[float]] = {}
    switches: Dict[str, Optional[float]] = {}
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(_holder(count))
        pids = {BARE: [holder.pid]}
        running = [(program, _sleepers(stack, program, count)) for program in programs]
        for program, made in running:
            pids[program.name] = made.own()
        time.sleep(3 if count < 500 else 8)  # what a start leaves to do is done
        before = {name: sum(map(_switches, found)) for name, found in pids.items()}
        time.sleep(IDLE_SECONDS)
        for name, found in pids.items():
            switches[name] = sum(map(_switches, found)) - before[name]
            memory[name] = sum(map(_resident, found)) / 1024
    yield Line(f"memory with {count} processes", "MB", memory)
    yield Line(f"wake-ups in {IDLE_SECONDS:g} s with {count} idle processes", "", switches)


@contextlib.contextmanager
def _holder(count: int) -> "Iterator[subprocess.Popen[str]]":
    """A bare interpreter that holds sleeping processes with three pipes each."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdout.readline()
        yield holder
        holder.stdin.close()


def _sleepers(stack: contextlib.ExitStack, program: Type[Program], count: int) -> Program:
    """A program with so many processes that sleep."""
    words = _words(stack)
    made = program([Job(f"p{number}", words.sleeper()) for number in range(count)])
    stack.enter_context(made)
    words.take(count, PATIENCE)
    return made


def _words(stack: contextlib.ExitStack) -> Words:
    """A FIFO in a folder of its own."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="exeio-bench-"))
    return stack.enter_context(contextlib.closing(Words(os.path.join(folder, "words"))))


def _switches(pid: int) -> int:
    """Context switches of all threads of a process so far."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/status") as file:
            total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
    return total


def _resident(pid: int) -> int:
    """Resident memory in KiB."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def ingest(programs: Programs) -> Iterator[Line]:
    """A million lines of a process into its log, from its start until the last of them is in the file."""
    times: Dict[str, Optional[float]] = {}
    whole: Dict[str, Optional[float]] = {}
    command = [sys.executable, "-c", WRITER]
    with tempfile.TemporaryDirectory(prefix="exeio-bench-") as folder:
        path = os.path.join(folder, "out")
        times[BARE] = min(_timed(lambda: _write_to(path, command)) for _ in range(3))
        whole[BARE] = _whole_lines(path)
        script = os.path.join(folder, "writer.py")
        with open(script, "w") as file:
            file.write(WRITER)
        for program in programs:
            taken = []
            for _ in range(3):
                with program([Job("w", [sys.executable, script, "stay"], autostart=False)]) as made:
                    log = made.log("w")
                    began = time.perf_counter()
                    made.launch("w")
                    _wait_for_end(log)
                    taken.append(time.perf_counter() - began)
                    whole[program.name] = _whole_lines(log)
                if taken[0] > 5:
                    break
            times[program.name] = min(taken)
    without = ", ".join(program.name for program in programs if not program.stamps)
    yield Line(f"1,000,000 lines of 100 bytes into the log{f', with stamps (not {without})' if without else ''}", "s",
               times)
    yield Line("of these, whole in the log", "", whole, "more")


def _write_to(path: str, command: List[str]) -> None:
    with open(path, "wb") as file:
        subprocess.run(command, stdout=file, check=True)


def _timed(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _tail(path: str, count: int) -> bytes:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - count))
        return file.read()
    return b""


def _wait_for_end(path: str) -> None:
    """Wait until the last line of WRITER is in a log, whatever became of those before it."""
    end = time.monotonic() + PATIENCE
    while b"END\n" not in _tail(path, 200):
        if time.monotonic() > end:
            raise TimeoutError(f"{path}: the lines are not in the log in time")
        time.sleep(0.002)


def _whole_lines(path: str) -> int:
    found = 0
    with open(path, "rb") as file:
        for line in file:
            found += line.endswith(b" " + b"x" * 99 + b"\n") or line == b"x" * 99 + b"\n"
    return found


def restart(programs: Programs) -> Iterator[Line]:
    """From `kill -9` of a process to the first word of its successor."""
    seed = random.randrange(1 << 30)
    chosen = random.Random(seed)
    times: Dict[str, Optional[float]] = {}
    with contextlib.ExitStack() as stack:
        words = _words(stack)
        times[BARE] = statistics.median(_bare_word(words) for _ in range(KILLS))
    for program in programs:
        with contextlib.ExitStack() as stack:
            words = _words(stack)
            stack.enter_context(program([Job("web", words.sleeper(), restart=True)]))
            pid, taken = int(words.take(1, PATIENCE)[0]), []
            for _ in range(KILLS):
                # Those that look from time to time are met at any time between two looks.
                time.sleep(chosen.uniform(0.05, 0.05 + program.tick))
                began = time.perf_counter()
                os.kill(pid, 9)
                pid = int(words.take(1, PATIENCE)[0])
                taken.append(time.perf_counter() - began)
            times[program.name] = statistics.median(taken)
    yield Line(f"`kill -9` to the successor's first word (median of {KILLS})", "s", times)


def _bare_word(words: Words) -> float:
    began = time.perf_counter()
    child = subprocess.Popen(words.sleeper(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    words.take(1, PATIENCE)
    took = time.perf_counter() - began
    with child:
        child.kill()
    return took


def api(programs: Programs) -> Iterator[Line]:
    """Requests a second of one client, one after the other."""
    one: Dict[str, Optional[float]] = {BARE: _echo_rate(800)}
    all_of_them: Dict[str, Optional[float]] = {BARE: _echo_rate(80_000)}
    for program in programs:
        for count, rates in ((1, one), (100, all_of_them)):
            with contextlib.ExitStack() as stack:
                made = _sleepers(stack, program, count)
                ask = made.states if count > 1 else lambda made=made: made.state("p0")
                rates[program.name] = _rate(ask)
    yield Line("API calls a second: the state of one process", "/s", one, "more")
    yield Line("API calls a second: the states of 100", "/s", all_of_them, "more")


def _rate(ask: Callable[[], Any]) -> float:
    ask()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < CALL_SECONDS:
        ask()
        count += 1
    return count / (time.perf_counter() - began)


def _echo_rate(size: int) -> float:
    """What a thread of another interpreter does that answers each request with so many bytes, and nothing else."""
    script = ("import socket, sys\nserver = socket.socket(socket.AF_UNIX)\nserver.bind(sys.argv[1])\nserver.listen()\n"
              f"one = server.accept()[0]\nwhile one.recv(65536):\n    one.sendall(bytes({size}))\n")
    with tempfile.TemporaryDirectory(prefix="exeio-bench-") as folder:
        path = os.path.join(folder, "socket")
        with subprocess.Popen([sys.executable, "-c", script, path]) as server:
            try:
                with connect(path, 30) as client:
                    return _rate(lambda: _echo(client, size))
            finally:
                server.kill()


def _echo(client: socket.socket, size: int) -> None:
    client.sendall(bytes(100))
    while size > 0:
        size -= len(client.recv(1 << 20))


def page(programs: Programs) -> Iterator[Line]:
    """Reading a log of 200 MB that was there before the program."""
    first: Dict[str, Optional[float]] = {}
    newest: Dict[str, Optional[float]] = {}
    middle: Dict[str, Optional[float]] = {}
    with tempfile.TemporaryDirectory(prefix="exeio-bench-") as folder:
        path = os.path.join(folder, "big")
        with open(path, "wb") as file:
            for begin in range(0, 1_600_000, 8000):
                file.write(b"".join(LOGGED % number for number in range(begin, begin + 8000)))
        first[BARE] = newest[BARE] = middle[BARE] = _median(lambda: _tail(path, 50 * 125))
        for program in programs:
            made = program([Job("big", SLEEP)])
            shutil.copyfile(path, made.log("big"))
            with made:
                first[program.name] = newest[program.name] = middle[program.name] = None
                began = time.perf_counter()
                answer = made.newest("big")
                if answer is None:
                    continue
                first[program.name] = time.perf_counter() - began
                if any(b"%094d" % number not in answer for number in range(1_599_955, 1_600_000)):
                    raise AssertionError(f"{program.name}: these are not the newest lines: {answer[-300:]!r}")
                newest[program.name] = _median(lambda made=made: made.newest("big"))
                if made.middle("big") is not None:
                    middle[program.name] = _median(lambda made=made: made.middle("big"))
    yield Line("a log of 200 MB: the newest 50 lines, for the first time", "s", first)
    yield Line(f"the newest 50 lines again (median of {READS})", "s", newest)
    yield Line(f"50 lines in its middle (median of {READS})", "s", middle)


def _median(do: Callable[[], Any]) -> float:
    return statistics.median(_timed(do) for _ in range(READS))


def many(programs: Programs) -> Iterator[Line]:
    """500 processes in the configuration: from the program's start to the last one's first word; and their end."""
    starts: Dict[str, Optional[float]] = {}
    stops: Dict[str, Optional[float]] = {}
    with contextlib.ExitStack() as stack:
        words = _words(stack)
        began = time.perf_counter()
        children = [subprocess.Popen(words.sleeper(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE) for _ in range(COUNT)]
        words.take(COUNT, PATIENCE)
        starts[BARE] = time.perf_counter() - began
        began = time.perf_counter()
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        stops[BARE] = time.perf_counter() - began
        for child in children:
            with child:
                pass
    for program in programs:
        with contextlib.ExitStack() as stack:
            words = _words(stack)
            made = program([Job(f"p{number}", words.sleeper()) for number in range(COUNT)])
            began = time.perf_counter()
            stack.enter_context(made)
            words.take(COUNT, PATIENCE)
            starts[program.name] = time.perf_counter() - began
            time.sleep(1)  # what a start leaves to do is done
            began = time.perf_counter()
            made.stop_all()
            words.wait_until_closed(PATIENCE)
            stops[program.name] = time.perf_counter() - began
    yield Line(f"start with {COUNT} processes, to the last one's first word", "s", starts)
    yield Line(f"stop of {COUNT}, until none is left", "s", stops)


ROWS: Dict[str, Callable[[Programs], Iterator[Line]]] = {
    "start": start, **{f"idle-{count}": functools.partial(idle, count) for count in (0, 100, 500)},
    "ingest": ingest, "restart": restart, "api": api, "page": page, "many": many}


def main(arguments: List[str]) -> None:
    """Measure the rows that are named, or all, and print the table."""
    parser = argparse.ArgumentParser(prog="bench.py peers", description=__doc__)
    parser.add_argument("rows", metavar="ROW", nargs="*", help=f"of {', '.join(ROWS)}; without one all of them")
    parser.add_argument("--keep", metavar="FILE", help="add the rows to this file, and show all that it has")
    options = parser.parse_args(arguments)
    for row in options.rows:
        if row not in ROWS:
            parser.error(f"there is no row {row!r}; they are: {', '.join(ROWS)}")
    # As a service has it: 500 processes take more than the 1,024 descriptors of a shell.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # what was started is ended all the same
    versions = {program.name: program.version() for program in PROGRAMS}
    programs = [program for program in PROGRAMS if versions[program.name]]
    rows: Dict[str, List[Line]] = {}
    if options.keep and os.path.exists(options.keep):
        with open(options.keep) as file:
            rows = {row: [Line(*line) for line in found] for row, found in json.load(file).items()}
    for row in options.rows or ROWS:
        rows[row] = list(ROWS[row](programs))
        if options.keep:
            with open(options.keep, "w") as file:
                json.dump(rows, file, indent=1)
    lines = [line for row in ROWS for line in rows.get(row, [])]
    print(table(lines, ["exeio", BARE, *(program.name for program in programs if program.name != "exeio")]))
    print("\n" + ", ".join(f"{name} {version}" for name, version in versions.items() if version)
          + f"; {os.cpu_count()} cores, {os.uname().sysname} {os.uname().release}")
    missing = [name for name, version in versions.items() if not version]
    if missing:
        print(f"Not on PATH, and left out: {', '.join(missing)}.")
    late = behind(lines)
    print("exeio is ahead of each in every row." if not late else "exeio is behind in: " + "; ".join(late) + ".")
