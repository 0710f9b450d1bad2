"""Turns: one works at a time, and pauses when it has worked for long enough."""

import threading
import time

from exeio_core import turn as module
from exeio_core.turn import Turn


class Time:
    """Stands in for the `time` module."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses = 0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1


def test_a_pause_is_made_after_so_much_work(monkeypatch):
    clock = Time()
    monkeypatch.setattr(module, "time", clock)
    turn = Turn()
    for pauses, idle, work in ((0, 0.0, 0.4), (0, 0.0, 0.4), (1, 0.0, 0.4), (1, 0.0, 0.9), (2, 0.0, 0.9), (2, 0.0, 0.9),
                               (2, 1.1, 0.9), (3, 0.9, 0.1)):
        clock.now += idle * module._WORK
        with turn:
            clock.now += work * module._WORK
        assert clock.pauses == pauses


def test_one_works_at_a_time():
    turn = Turn()
    working = []
    most = []

    def work() -> None:
        for _ in range(20):
            with turn:
                working.append(1)
                most.append(len(working))
                time.sleep(0.0001)
                working.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == 80 and max(most) == 1
