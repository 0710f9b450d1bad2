"""Threads that are made ahead, and the call that wakes a thread."""

import collections
import errno
import os
import resource
import select
import threading

import pytest
from support import count_threads, room_for_one, wait_for

from exeio_core import threads
from exeio_core.spares import Spares
from exeio_core.wake import Wake


@pytest.fixture
def wake():
    call = Wake()
    yield call
    call.close()


def readable(wake):
    return bool(select.select([wake.fd], [], [], 0)[0])


def test_spares_are_made_ahead_and_taken_before_new_ones_are_made():
    before = count_threads()
    spares = Spares(2)
    spares.fill()
    spares.fill()
    wait_for(lambda: count_threads() == before + 2)
    first, second, third = spares.take(3)
    wait_for(lambda: count_threads() == before + 3)
    done = threading.Event()
    ran = []
    for spare in (first, second):
        spare.give(lambda: ran.append(threading.get_native_id()))
    third.give(done.set)
    assert done.wait(10)
    wait_for(lambda: len(ran) == 2)
    assert sorted(ran) == sorted([first.native_id, second.native_id])
    for spare in (first, second, third):
        spare.end()
    wait_for(lambda: count_threads() == before)
    assert [first.native_id, second.native_id, third.native_id] == [0, 0, 0]


def test_threads_whose_run_is_over_are_kept_while_others_end_and_taken_by_the_next():
    before = count_threads()
    spares = Spares(2)
    spares.keep(True)
    done = threading.Semaphore(0)

    busy = spares.take(6)
    for spare in busy:
        spare.give(done.release)
        assert done.acquire(timeout=10)
    spares.put_back(busy)
    assert count_threads() == before + 6
    again = spares.take(4)
    assert again == busy[:4]
    for spare in again:
        spare.give(done.release)
        assert done.acquire(timeout=10)
    spares.put_back(again)
    assert count_threads() == before + 6
    spares.keep(False)
    wait_for(lambda: count_threads() == before + 2)
    spares.put_back(spares.take(2))
    assert count_threads() == before + 2
    for spare in spares.take(2):
        spare.end()
    wait_for(lambda: count_threads() == before)


def test_where_the_system_does_not_count_threads_they_run_all_the_same(monkeypatch):
    monkeypatch.setattr("exeio_core.spares._native_id", lambda: 0)
    before, done = count_threads(), threading.Event()
    [spare] = Spares(0).take(1)
    spare.give(done.set)
    assert done.wait(10)
    spare.end()
    wait_for(lambda: count_threads() == before)


def test_threads_that_wait_take_no_descriptor():
    """Each descriptor is copied, and closed, at each spawn."""
    def descriptors():
        return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))

    before, running = descriptors(), count_threads()
    spares = Spares(0).take(3)
    wait_for(lambda: all(spare.native_id for spare in spares))
    assert descriptors() == before
    for spare in spares:
        spare.end()
    wait_for(lambda: count_threads() == running)


def test_no_room_for_all_of_them_keeps_those_that_there_was_room_for(monkeypatch):
    spares = Spares(2)
    before = count_threads()
    with monkeypatch.context() as patch:
        patch.setattr("exeio_core.spares.start_new_thread", room_for_one())
        spares.fill()
        with pytest.raises(RuntimeError):
            spares.take(2)
        wait_for(lambda: count_threads() == before + 1)
        [only] = spares.take(1)
    only.end()
    wait_for(lambda: only.native_id == 0 and count_threads() == before)


def test_calls_that_nobody_has_taken_are_one(wake):
    assert not readable(wake)
    for _ in range(3):
        wake.set()
    assert readable(wake)
    wake.clear()
    assert not readable(wake)
    wake.clear()  # none has come
    wake.set()
    assert readable(wake)


def test_no_call_is_lost_between_two_threads(wake):
    """Who waits clears first and looks afterwards, so a call in between is seen by that look or the next."""
    queue, count = collections.deque(), 20_000

    def call(first):
        for number in range(first, count, 2):
            queue.append(number)
            wake.set()

    callers = [threading.Thread(target=call, args=(first,)) for first in range(2)]
    for caller in callers:
        caller.start()
    seen = []
    while len(seen) < count:
        assert select.select([wake.fd], [], [], 10)[0], f"a call is lost: {len(seen)} seen, {len(queue)} wait"
        wake.clear()
        while queue:
            seen.append(queue.popleft())
    for caller in callers:
        caller.join()
    assert sorted(seen) == list(range(count))


def test_a_thread_that_there_is_no_memory_for_is_not_waited_for(monkeypatch):
    """Room for its stack and for no object more: Thread.start waits for ever."""
    asked = []

    def no_memory(fd, size, flags, access):
        asked.append(size)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def limits(kind):
        return (1 << 30, 1 << 40) if kind == resource.RLIMIT_AS else getrlimit(kind)

    getrlimit = resource.getrlimit
    monkeypatch.setattr("mmap.mmap", no_memory)
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", limits)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threads.start(threading.Thread(target=list))
        with pytest.raises(RuntimeError):
            Spares(0).take(1)
    stack = threading.stack_size() or resource.getrlimit(resource.RLIMIT_STACK)[0]
    assert len(asked) == 2 and min(asked) > (stack if 0 < stack < 1 << 30 else 1 << 20)
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
        threads.look_for_room()
        patch.delattr(resource, "RLIMIT_AS")  # as on OpenBSD
        threads.look_for_room()
    assert len(asked) == 2, "where there is no limit there is nothing to look for"
