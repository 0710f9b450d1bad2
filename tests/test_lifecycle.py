"""The life of a process as data: every pair of the table, and every delay against a model that counts by hand."""

import random
import signal

import pytest

from exeio_core.lifecycle import (
    TABLE,
    Action,
    Event,
    Exit,
    State,
    Streak,
    Verdict,
    after_refusal,
    after_run,
    duration,
    is_success,
    next_tick,
    restart_delay,
    status_word,
    step,
)
from exeio_core.spec import ProcessSpec, check_signal

# The table once more, as a person would draw it: "-" cannot happen, "." changes nothing but what is wanted.
GRID = """
           START           RESTART         STOP          TIMEOUT       SPAWNED  REFUSED  DEFERRED    EXITED        AGAIN           LATER       DONE    DUE
DOWN       STARTING:SPAWN  STARTING:SPAWN  .             -             -        -        -           -             -               -           -       -
STARTING   .               -               .             -             UP:NONE  DOWN:NONE PENDING:ARM -            -               -           -       -
UP         -               STOPPING:END    STOPPING:END  STOPPING:END  -        -        -           ENDING:SWEEP  -               -           -       -
STOPPING   .               .               .             -             -        -        -           ENDING:SWEEP  -               -           -       -
ENDING     .               .               .             -             -        -        -           -             STARTING:SPAWN  PENDING:ARM DOWN:NONE -
PENDING    STARTING:SPAWN  STARTING:SPAWN  DOWN:DISARM   -             -        -        -           -             -               -           -       STARTING:SPAWN
"""  # noqa: E501 - a table is read in lines


def drawn():
    """The grid as {(State, Event): (State, Action) or None}."""
    titles, *lines = (line.split() for line in GRID.strip().splitlines())
    found = {}
    for name, *cells in lines:
        assert len(cells) == len(titles), name
        for title, cell in zip(titles, cells):
            state, _, action = (f"{name}:NONE" if cell == "." else cell).partition(":")
            found[State[name], Event[title]] = None if cell == "-" else (State[state], Action[action])
    return found


PAIRS = [(state, event) for state in State for event in Event]


def spec(**fields):
    return ProcessSpec.from_json({"id": "p", "command": "true", **fields})


# The table


@pytest.mark.parametrize("state, event", PAIRS, ids=lambda one: one.name)
def test_each_pair_of_state_and_event(state, event):
    wanted = drawn()[state, event]
    assert TABLE.get((state, event)) == wanted
    if wanted is not None:
        assert step(state, event) == wanted
        return
    with pytest.raises(LookupError) as refusal:
        step(state, event)
    assert event.value in str(refusal.value) and state.value in str(refusal.value), "a bug has to name the pair"


def test_the_grid_is_complete():
    assert set(drawn()) == set(PAIRS) and len(PAIRS) == len(State) * len(Event)
    assert set(TABLE) <= set(PAIRS)


def test_a_stop_is_possible_in_each_state_and_never_leads_to_a_start():
    for state in State:
        after, action = step(state, Event.STOP)
        assert after in (state, State.STOPPING, State.DOWN)
        assert action is not Action.SPAWN


def test_what_a_transition_asks_for_fits_where_it_leads():
    for (before, event), (after, action) in TABLE.items():
        pair = (before, event)
        if after is not before:
            assert (action is Action.SPAWN) == (after is State.STARTING), pair
            assert (action is Action.END) == (after is State.STOPPING), pair
            assert (action is Action.SWEEP) == (after is State.ENDING), pair
            assert (action is Action.ARM) == (after is State.PENDING), pair
            assert (action is Action.DISARM) == ((before, after) == (State.PENDING, State.DOWN)), pair
        else:
            assert action is Action.NONE, pair


def reachable(start):
    found, new = {start}, [start]
    while new:
        state = new.pop()
        for (before, _), (after, _) in TABLE.items():
            if before is state and after not in found:
                found.add(after)
                new.append(after)
    return found


@pytest.mark.parametrize("state", State, ids=lambda one: one.name)
def test_each_state_is_reached_from_each_other_one(state):
    assert reachable(state) == set(State)


def test_only_the_end_of_a_run_leads_from_it_to_another():
    """Never two at a time: while there is a run, no event but AGAIN, after its end, spawns."""
    for state in (State.STARTING, State.UP, State.STOPPING, State.ENDING):
        spawning = [event for event in Event if TABLE.get((state, event), (None, None))[1] is Action.SPAWN]
        assert spawning == ([Event.AGAIN] if state is State.ENDING else [])


# Exits


@pytest.mark.parametrize("exit, text, name", [
    (Exit(0), "exited with code 0", None),
    (Exit(255), "exited with code 255", None),
    (Exit(None, 9), "killed by SIGKILL", "SIGKILL"),
    (Exit(None, 11, True), "killed by SIGSEGV (core dumped)", "SIGSEGV"),
    (Exit(None, 15), "killed by SIGTERM", "SIGTERM"),
])
def test_an_exit_in_words(exit, text, name):
    assert (str(exit), exit.signal_name) == (text, name)


def test_a_real_time_signal_has_one_name_wherever_it_is_told():
    if hasattr(signal, "SIGRTMIN"):
        first, last = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
        names = [Exit(None, number).signal_name for number in (first, first + 3, last - 3, last)]
        assert names == ["SIGRTMIN", "SIGRTMIN+3", "SIGRTMAX-3", "SIGRTMAX"]
        assert all(Exit(None, number).signal_name == f"SIG{check_signal(number)}" for number in range(first, last + 1))
    assert Exit(None, 0).signal_name == "signal 0"


@pytest.mark.parametrize("codes, exit, good", [
    ([0], Exit(0), True), ([0], Exit(1), False), ([3], Exit(0), False), ([0, 3], Exit(3), True),
    ([0], Exit(None, 15), False), ([15, 143], Exit(None, 15), False),
])
def test_which_exit_is_a_success(codes, exit, good):
    assert is_success(spec(success_exit_codes=codes), exit) is good


# Delays


@pytest.mark.parametrize("rapid, seconds", [(1, 1), (2, 2), (3, 4), (4, 8), (6, 32), (7, 60), (8, 60), (10**6, 60)])
def test_the_delay_doubles_up_to_its_limit(rapid, seconds):
    assert restart_delay(spec(), rapid, 0.0) == seconds
    assert restart_delay(spec(), rapid, 1.0) == pytest.approx(seconds * 1.1)
    assert restart_delay(spec(), rapid, -1.0) == pytest.approx(seconds * 0.9)


@pytest.mark.parametrize("first, most, rapid, seconds", [
    (0, 0, 1, 0), (0, 60, 10**9, 0), (0.25, 0.25, 9, 0.25), (0.25, 1, 2, 0.5), (86400, 86400, 70, 86400),
    (86400, 86400, 1, 86400), (0.001, 86400, 10**9, 86400), (30, 45, 2, 45),
])
def test_the_delay_at_its_limits(first, most, rapid, seconds):
    one = spec(restart_delay_seconds=first, restart_delay_max_seconds=most)
    assert restart_delay(one, rapid, 0.0) == seconds


BAD, GOOD = Exit(1), Exit(0)
KILLED = Exit(None, 9)


@pytest.mark.parametrize("fields, exit, uptime, streak, wanted", [
    # Not to be restarted: a success is "stopped", all else "failed", with the reason.
    ({}, GOOD, 5.0, Streak(), Verdict(Event.DONE, 0.0, Streak(), False, None)),
    ({}, BAD, 5.0, Streak(3, 3), Verdict(Event.DONE, 0.0, Streak(), True, "exited with code 1 after 5.000 s")),
    ({}, KILLED, 61.0, Streak(), Verdict(Event.DONE, 0.0, Streak(), True, "killed by SIGKILL after 1 min 01 s")),
    ({"success_exit_codes": [1]}, BAD, 0.0, Streak(), Verdict(Event.DONE, 0.0, Streak(), False, None)),
    # on-failure: a success is the end.
    ({"auto_restart": True, "restart_policy": "on-failure"}, GOOD, 99.0, Streak(4, 4),
     Verdict(Event.DONE, 0.0, Streak(), False, None)),
    ({"auto_restart": True, "restart_policy": "on-failure"}, BAD, 99.0, Streak(4, 4),
     Verdict(Event.AGAIN, 0.0, Streak(0, 1), False, "exited with code 1 after 1 min 39 s")),
    # A policy alone restarts nothing.
    ({"restart_policy": "on-failure"}, BAD, 0.5, Streak(),
     Verdict(Event.DONE, 0.0, Streak(), True, "exited with code 1 after 0.500 s")),
    # Up for at least min_uptime_seconds: again at once, and the row begins anew.
    ({"auto_restart": True}, GOOD, 10.0, Streak(5, 7), Verdict(Event.AGAIN, 0.0, Streak(0, 1), False, None)),
    ({"auto_restart": True, "min_uptime_seconds": 0}, GOOD, 0.0, Streak(5, 7),
     Verdict(Event.AGAIN, 0.0, Streak(0, 1), False, None)),
    # Shorter: later, and later each time.
    ({"auto_restart": True}, GOOD, 9.999, Streak(), Verdict(Event.LATER, 1.0, Streak(1, 1), False, None)),
    ({"auto_restart": True}, BAD, 0.0, Streak(2, 2),
     Verdict(Event.LATER, 4.0, Streak(3, 3), False, "exited with code 1 after 0.000 s")),
    ({"auto_restart": True, "restart_delay_seconds": 0}, GOOD, 0.0, Streak(2, 2),
     Verdict(Event.LATER, 0.0, Streak(3, 3), False, None)),
    # max_restarts: the one more than that is not made.
    ({"auto_restart": True, "max_restarts": 3}, GOOD, 0.0, Streak(2, 2),
     Verdict(Event.LATER, 4.0, Streak(3, 3), False, None)),
    ({"auto_restart": True, "max_restarts": 3}, BAD, 0.0, Streak(3, 3),
     Verdict(Event.DONE, 0.0, Streak(), True, "gave up after 3 automatic restarts in a row without a good run: "
                                              "exited with code 1 after 0.000 s")),
    ({"auto_restart": True, "max_restarts": 0}, GOOD, 0.0, Streak(),
     Verdict(Event.DONE, 0.0, Streak(), True,
             "gave up after 0 automatic restarts in a row without a good run")),
    # A good run ends the row, also the one that is counted against max_restarts.
    ({"auto_restart": True, "max_restarts": 3}, BAD, 10.0, Streak(0, 3),
     Verdict(Event.AGAIN, 0.0, Streak(0, 1), False, "exited with code 1 after 10.0 s")),
])
def test_what_follows_a_run(fields, exit, uptime, streak, wanted):
    assert after_run(spec(**fields), exit, uptime, streak, 0.0) == wanted


def test_a_crash_loop_is_counted_to_its_end():
    """Run after run as the machine feeds it: delays double, and exactly max_restarts are made."""
    one = spec(auto_restart=True, max_restarts=5, restart_delay_seconds=2, restart_delay_max_seconds=10)
    streak, delays = Streak(), []
    while True:
        verdict = after_run(one, BAD, 0.1, streak, 0.0)
        streak = verdict.streak
        if verdict.event is Event.DONE:
            break
        delays.append(verdict.delay)
    assert delays == [2, 4, 8, 10, 10] and verdict.failed


@pytest.mark.parametrize("fields, streak, wanted", [
    ({"auto_restart": True}, Streak(), Verdict(Event.DEFERRED, 1.0, Streak(1, 1), True, "no such file")),
    ({"auto_restart": True}, Streak(3, 5), Verdict(Event.DEFERRED, 8.0, Streak(4, 6), True, "no such file")),
    ({"auto_restart": True, "max_restarts": 2}, Streak(2, 2),
     Verdict(Event.REFUSED, 0.0, Streak(), True,
             "gave up after 2 automatic restarts in a row without a good run: no such file")),
])
def test_what_follows_an_automatic_start_that_was_refused(fields, streak, wanted):
    verdict = after_refusal(spec(**fields), "no such file", streak, 0.0)
    assert verdict == wanted
    assert (State.STARTING, verdict.event) in TABLE


# The schedule


def counted(first, period, now, last):
    """`next_tick` by counting: the first tick after `now`, and those after `last` that are not after `now`."""
    tick, missed = first, 0
    while tick <= now:
        if tick > last:
            missed += 1
        tick += period
    return tick, missed


def test_the_next_tick_against_counting():
    """Times in eighths of a second, which a float holds exactly."""
    dice = random.Random(2)
    for _ in range(5000):
        first = dice.randrange(0, 800) / 8
        period = dice.randrange(1, 80) / 8
        last = first + dice.randrange(0, 30) * period
        now = last + dice.choice([0, dice.randrange(0, 8), dice.randrange(0, 2000)]) / 8
        assert next_tick(first, period, now, last) == counted(first, period, now, last), (first, period, now, last)


@pytest.mark.parametrize("now, wanted", [
    (100.0, (110.0, 0)),    # the first run took no time at all
    (109.999, (110.0, 0)),
    (110.0, (120.0, 1)),    # the very moment of a tick is over
    (119.0, (120.0, 1)),
    (129.0, (130.0, 2)),
])
def test_the_next_tick_at_its_edges(now, wanted):
    assert next_tick(100.0, 10.0, now, 100.0) == wanted


def test_the_next_tick_after_a_run_that_began_late():
    """`last` is the tick it belonged to, not the moment it began."""
    assert next_tick(0.0, 10.0, 34.0, 20.0) == (40.0, 1)
    assert next_tick(0.0, 10.0, 34.0, 30.0) == (40.0, 0)


def test_the_next_tick_with_periods_that_floats_cannot_hold():
    """After months of 0.1 seconds it is still in the future, within one period, and nothing is missed."""
    dice = random.Random(3)
    for period in (0.1, 0.3, 1 / 3, 86400.1, 31_536_000.0):
        first = dice.uniform(0, 1e7)
        for number in [0, 1, 2, *(dice.randrange(10**8) for _ in range(300))]:
            last = first + number * period
            due, missed = next_tick(first, period, last + 0.4 * period, last)
            assert missed == 0
            assert due == pytest.approx(last + period, abs=1e-4 * period + 1e-6)
            for now in (last, due):  # here rounding may fall to either side, but never behind
                later, skipped = next_tick(first, period, now, last)
                assert now < later <= now + period * 1.01 + 1e-6
                assert skipped in (0, 1)


# Words


@pytest.mark.parametrize("seconds, text", [
    (0, "0.000 s"), (0.0004, "0.000 s"), (0.012, "0.012 s"), (9.9994, "9.999 s"), (10, "10.0 s"), (59, "59.0 s"),
    (59.94, "59.9 s"), (60, "1 min 00 s"), (61.9, "1 min 01 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min 00 s"),
    (3725, "1 h 02 min 05 s"), (86399, "23 h 59 min 59 s"), (86400, "1 d 0 h 00 min 00 s"),
    (90061, "1 d 1 h 01 min 01 s"), (31_536_000, "365 d 0 h 00 min 00 s"),
])
def test_a_duration_in_words(seconds, text):
    assert duration(seconds) == text


def words():
    """The status for each combination, from the contract's table of words."""
    for periodic in (False, True):
        for want_up in (False, True):
            for failed in (False, True):
                given = (periodic, want_up, failed)
                yield State.UP, given, "running"
                yield State.STOPPING, given, "stopping"
                yield State.ENDING, given, "stopping"
                yield State.PENDING, given, "waiting" if periodic else "backoff"
                starting = "stopping" if not want_up else "waiting" if periodic else "backoff"
                yield State.STARTING, given, starting
                down = "manually_stopped" if not want_up else "failed" if failed else "stopped"
                yield State.DOWN, given, down


@pytest.mark.parametrize("state, given, word", list(words()))
def test_the_status_in_the_apis_words(state, given, word):
    assert status_word(state, *given) == word


def test_all_combinations_have_a_word():
    assert len(list(words())) == len(State) * 8
