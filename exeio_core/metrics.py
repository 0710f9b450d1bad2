"""`GET /metrics`: exeio and its processes in the Prometheus text format 0.0.4, by its naming conventions."""

from __future__ import annotations

import os
import sys
import time
from typing import Iterable, List, Mapping, NamedTuple, Optional, Tuple

from . import __version__
from .calls import Parts
from .lifecycle import STATUS_WORDS, Exit
from .process import Process, Usage
from .traffic import BUCKETS, Traffic

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Tuple[Tuple[str, str], ...]


class _Facts(NamedTuple):
    """What is shown of one process, read under the lock."""

    id: str
    status: str
    alive: bool
    uptime: float
    starts: int
    restarts: int
    exit: Optional[Exit]
    usage: Optional[Usage]
    log: Tuple[int, int, int]


def render(parts: Parts) -> bytes:
    """Return the page of metrics, as things are now; CPU and memory as of the last second."""
    parts.sampler.refresh()
    machine = parts.supervisor.machine
    now = time.monotonic()
    with machine.lock:
        facts = [_facts(process, now) for process in machine.processes.values() if not process.provisional]
    facts.sort(key=lambda one: one.id)
    page = _Page()
    page.add("exeio_build_info", "gauge", "The version of exeio and of the Python that runs it.", [
        ((("version", __version__), ("python", "%d.%d.%d" % sys.version_info[:3])), 1)])
    _add_processes(page, facts)
    page.add("exeio_watchdog_lag_seconds", "gauge", "How long the watchdog took to answer a call.", [
        ((), parts.health.lag())])
    _add_traffic(page, parts.traffic)
    _add_self(page, parts)
    return page.text()


def _facts(process: Process, now: float) -> _Facts:
    """Caller holds the machine's lock."""
    run, log = process.run, process.log
    usage = process.usage if run is not None and process.usage is not None and process.usage.run is run else None
    return _Facts(process.id, process.status, process.alive, now - run.started if run and process.alive else 0.0,
                  process.run_count, process.restarts, process.exit, usage,
                  (log.written_bytes, log.written_lines, log.dropped_lines))


def _add_processes(page: _Page, facts: List[_Facts]) -> None:
    count = {word: sum(one.status == word for one in facts) for word in STATUS_WORDS}
    page.add("exeio_processes", "gauge", "Processes by status.", [
        ((("status", word),), number) for word, number in count.items()])

    def each(name: str, kind: str, about: str, values: Iterable[Tuple[_Facts, Optional[float]]]) -> None:
        page.add(f"exeio_process_{name}", kind, about, [
            ((("id", one.id),), value) for one, value in values if value is not None])

    each("up", "gauge", "1 while the main process is alive, else 0.", ((one, one.alive) for one in facts))
    each("uptime_seconds", "gauge", "How long the main process has been alive, 0 where it is not.", (
        (one, one.uptime) for one in facts))
    each("starts_total", "counter", "Starts since it was added or exeio started.", ((one, one.starts) for one in facts))
    each("restarts_total", "counter", "Automatic restarts among them.", ((one, one.restarts) for one in facts))
    each("last_exit_code", "gauge", "How the last run ended; 128 and the signal's number where it was killed.", (
        (one, _code(one.exit)) for one in facts))
    each("tree_processes", "gauge", "Living processes of its tree.", (
        (one, one.usage.processes if one.usage else None) for one in facts))
    each("cpu_seconds", "gauge", "CPU time used by the living processes of its tree.", (
        (one, one.usage.cpu_seconds if one.usage else None) for one in facts))
    each("resident_memory_bytes", "gauge", "Resident memory of its tree; what is shared counts for each.", (
        (one, one.usage.memory_bytes if one.usage else None) for one in facts))
    each("log_bytes_total", "counter", "Bytes written to its log.", ((one, one.log[0]) for one in facts))
    each("log_lines_total", "counter", "Lines written to its log.", ((one, one.log[1]) for one in facts))
    each("log_dropped_lines_total", "counter", "Lines that its log had no room for.", (
        (one, one.log[2]) for one in facts))


def _code(exit: Optional[Exit]) -> Optional[float]:
    if exit is None:
        return None
    return exit.code if exit.code is not None else 128 + (exit.signal or 0)


def _add_traffic(page: _Page, traffic: Traffic) -> None:
    page.add("exeio_http_requests_total", "counter", "Requests that were answered.", [
        ((("method", method), ("path", path), ("status", str(status))), number)
        for (method, path, status), number in sorted(traffic.requests().items())])
    name = "exeio_http_request_duration_seconds"
    lines: List[Tuple[str, Labels, float]] = []
    for path, durations in sorted(traffic.durations().items()):
        total = 0
        for end, number in zip((*map(_number, BUCKETS), "+Inf"), durations.counts):
            total += number
            lines.append((f"{name}_bucket", (("path", path), ("le", end)), total))
        lines.append((f"{name}_sum", (("path", path),), durations.seconds))
        lines.append((f"{name}_count", (("path", path),), total))
    page.add_lines(name, "histogram", "From the end of a request's head to the end of its answer; no followers.", lines)


def _add_self(page: _Page, parts: Parts) -> None:
    """Add what Prometheus' own clients tell of themselves, where there is /proc."""
    page.add("process_start_time_seconds", "gauge", "When exeio was started, in seconds since 1970.", [
        ((), parts.started_wall)])
    used = sum(os.times()[:2])
    page.add("process_cpu_seconds_total", "counter", "CPU time used by exeio itself.", [((), used)])
    try:
        with open("/proc/self/statm", "rb") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        descriptors = len(os.listdir("/proc/self/fd"))
    except OSError:
        return
    page.add("process_resident_memory_bytes", "gauge", "Resident memory of exeio itself.", [((), resident)])
    page.add("process_open_fds", "gauge", "Descriptors that exeio has open.", [((), descriptors)])


class _Page:
    """The lines of the page, metric by metric."""

    def __init__(self) -> None:
        self._lines: List[str] = []

    def add(self, name: str, kind: str, about: str, samples: Iterable[Tuple[Labels, float]]) -> None:
        """Add a metric with one series for each set of labels; nothing where there is none."""
        self.add_lines(name, kind, about, [(name, labels, value) for labels, value in samples])

    def add_lines(self, name: str, kind: str, about: str, lines: List[Tuple[str, Labels, float]]) -> None:
        if lines:
            self._lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            self._lines += [f"{series}{_braced(labels)} {_number(value)}" for series, labels, value in lines]

    def text(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode("utf-8")


def _braced(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels) + "}"


_ESCAPES: Mapping[int, str] = {ord("\\"): r"\\", ord('"'): r"\"", ord("\n"): r"\n"}


def _number(value: float) -> str:
    return repr(value) if isinstance(value, float) and not value.is_integer() else str(int(value))
