"""Who may call: the key as bytes, and refusals that are noted at once, then summed up."""

import threading

import pytest
from support import wait_for

from exeio_core import access
from exeio_core.access import Keys, Refusals

KEY = "a-key-of-this-test"


@pytest.fixture
def told():
    return []


@pytest.fixture
def refusals(told):
    one = Refusals(told.append)
    yield one
    one.sum_up()  # its timer


@pytest.fixture
def keys(told):
    one = Keys(KEY, told.append)
    yield one
    one.sum_up()


@pytest.mark.parametrize("given", [
    b"", b"x", KEY.encode()[:-1], KEY.encode() + b"x", KEY.upper().encode(), b" " + KEY.encode(),
    KEY.encode() + b"\0", b"\xff\xfe", "schl\u00fcssel".encode(),
])
def test_only_the_key_is_the_key(keys, given):
    assert keys.right(KEY.encode(), "127.0.0.1:5000")
    assert not keys.right(given, "127.0.0.1:5000")


def test_a_missing_key_is_refused_and_not_noted(keys, told):
    assert not keys.right(None, "127.0.0.1:5000")
    assert told == []


def test_a_wrong_key_is_noted_with_the_address_and_never_with_the_key(keys, told):
    keys.right(b"a-wrong-key", "127.0.0.1:5000")
    keys.right(b"a-wrong-key", "[::1]:5000")
    keys.right(b"a-wrong-key", "unix")
    assert told == [f"{address}: a wrong API key was refused" for address in ("127.0.0.1", "[::1]", "unix")]


def test_repeats_are_summed_up(refusals, told):
    for _ in range(1000):
        refusals.note("10.0.0.1")
    refusals.note("10.0.0.2")
    refusals.note("10.0.0.3")
    refusals.note("10.0.0.3")
    assert told == [f"10.0.0.{n}: a wrong API key was refused" for n in (1, 2, 3)]
    del told[:]
    refusals.sum_up()
    assert told == [
        "10.0.0.1: a wrong API key was refused 999 more times",
        "10.0.0.3: a wrong API key was refused 1 more time"]
    del told[:]
    refusals.sum_up()
    assert told == [], "nothing is told twice"
    refusals.note("10.0.0.1")
    assert told == ["10.0.0.1: a wrong API key was refused"], "a new minute begins with a line of its own"


def test_a_minute_later_the_sum_comes_by_itself(refusals, told, monkeypatch):
    noted = threading.Event()

    class Patient(threading.Timer):
        """Its minute begins when all three are noted, however long that takes."""

        def run(self):
            noted.wait(10)
            super().run()

    monkeypatch.setattr(threading, "Timer", Patient)
    monkeypatch.setattr(access, "SUMMARY_SECONDS", 0.05)
    for _ in range(3):
        refusals.note("10.0.0.1")
    noted.set()
    wait_for(lambda: len(told) == 2, what="the summary")
    assert told[1] == "10.0.0.1: a wrong API key was refused 2 more times"


def test_many_addresses_take_bounded_room(refusals, told):
    for number in range(5000):
        refusals.note(f"10.{number >> 8}.{number & 255}.1")
    assert len(told) == 257, "256 addresses and all others together"
    assert told[-1] == "other addresses: a wrong API key was refused"
    del told[:]
    refusals.sum_up()
    assert told == [f"other addresses: a wrong API key was refused {5000 - 257} more times"]


def test_refusals_of_many_threads_at_once_are_all_counted(refusals, told):
    start = threading.Barrier(8)

    def refuse():
        start.wait(10)
        for _ in range(200):
            refusals.note("10.0.0.1")

    threads = [threading.Thread(target=refuse) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    refusals.sum_up()
    assert told == [
        "10.0.0.1: a wrong API key was refused", f"10.0.0.1: a wrong API key was refused {8 * 200 - 1} more times"]


def test_there_is_one_timer_and_it_ends_with_the_sum(refusals):
    def timers():
        return [thread for thread in threading.enumerate()
                if isinstance(thread, threading.Timer) and thread.function == refusals.sum_up]

    for number in range(50):
        refusals.note(f"10.0.0.{number}")
    assert len(timers()) == 1
    refusals.sum_up()
    wait_for(lambda: timers() == [], what="the timer's end")


def test_without_room_for_a_thread_a_refusal_is_still_noted(refusals, told, monkeypatch):
    class NoRoom(threading.Timer):
        def start(self):
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Timer", NoRoom)
        refusals.note("10.0.0.1")
        refusals.note("10.0.0.1")
    assert told == ["10.0.0.1: a wrong API key was refused"]
    refusals.note("10.0.0.1")  # tries again
    refusals.sum_up()
    assert told[-1] == "10.0.0.1: a wrong API key was refused 2 more times"
