"""Timing in turns: what is counted, in which order, for how long."""

from __future__ import annotations

import pytest

from edgevit.export.timing import time_in_turns


class Machine:
    """A clock that runs move on; and who ran, in order."""

    def __init__(self) -> None:
        self.now, self.ran = 0, []

    def clock(self) -> int:
        return self.now

    def taking(self, name: str, *milliseconds: float):
        """A run that takes so long, the last time again and again."""
        left = list(milliseconds)

        def run() -> None:
            self.ran.append(name)
            self.now += int(1e6 * (left.pop(0) if len(left) > 1 else left[0]))

        return run


@pytest.fixture
def machine():
    return Machine()


def test_every_round_runs_everything_once(machine):
    runs = [machine.taking(name, 1) for name in "abc"]
    timings = time_in_turns(runs, clock=machine.clock, warm_up=1, rounds=5)
    rounds = [machine.ran[start : start + 3] for start in range(0, len(machine.ran), 3)]
    assert len(rounds) == 6
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    # The order is drawn anew: no one always follows the same other.
    assert len({tuple(turn) for turn in rounds}) > 1
    assert [timing.samples for timing in timings] == [(1.0,) * 5] * 3


def test_warm_up_is_not_counted(machine):
    (timing,) = time_in_turns([machine.taking("a", 90, 80, 1)], clock=machine.clock, warm_up=2, rounds=3)
    assert timing.samples == (1.0, 1.0, 1.0)


def test_a_turn_that_settles_begins_with_a_run_that_is_not_counted(machine):
    slow_first = machine.taking("a", 9, 1, 9, 1, 9, 1)
    (timing,) = time_in_turns([slow_first], clock=machine.clock, warm_up=1, rounds=2, settle=True)
    assert timing.samples == (1.0, 1.0)
    assert machine.ran == ["a"] * 6


def test_rounds_go_on_until_each_was_timed_long_enough(machine):
    runs = [machine.taking("fast", 1), machine.taking("slow", 100)]
    fast, slow = time_in_turns(runs, clock=machine.clock, warm_up=0, rounds=2, seconds=0.05)
    assert len(fast.samples) == len(slow.samples) == 50
    assert (fast.median, slow.median) == (1.0, 100.0)
