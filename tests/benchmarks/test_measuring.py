"""How the benchmarks measure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from benchmarks import measuring
from benchmarks.measuring import Comparison, Spread, Turn


def turns(*costs: float) -> list[Turn]:
    return [Turn(operations=10, cpu=cost * 10 / 1e6, wall=1.0, growth=0) for cost in costs]


def test_ratios_are_taken_inside_a_round() -> None:
    """A round that was slow for both says the same as a quick one."""
    comparison = Comparison(title="", baseline="one", turns={"one": turns(10, 100, 20), "other": turns(20, 150, 60)})

    ratio = comparison.ratio("other", "one")

    assert (ratio.median, ratio.lowest, ratio.highest) == pytest.approx((2.0, 1.5, 3.0))
    assert ratio.rounds == 3


def test_differences_are_taken_inside_a_round() -> None:
    """What a layer adds is the median of what it added in each round."""
    comparison = Comparison(title="", baseline="one", turns={"one": turns(10, 100, 20), "other": turns(15, 101, 22)})

    assert comparison.difference("other", "one").median == pytest.approx(2.0)


def test_a_turn_is_reported_for_one_operation() -> None:
    """Costs are microseconds for one operation, rates are operations in a second."""
    turn = Turn(operations=500, cpu=0.05, wall=0.1)

    assert (turn.cost, turn.duration, turn.per_second) == pytest.approx((100.0, 200.0, 5000.0))


def test_the_order_is_reversed_every_second_round() -> None:
    """No variant always goes first."""
    assert list(measuring.alternate("abc", 3)) == [*"abc", *"cba", *"abc"]


def test_a_spread_prints_its_median_between_its_bounds() -> None:
    """A figure is never shown without its spread."""
    assert f"{Spread.of([3, 1, 2]):.1f}" == "2.0 (1.0 to 3.0)"


@pytest.fixture
def spend(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock of CPU that the test moves."""
    spent = [0.0]
    monkeypatch.setattr(measuring, "cpu", lambda: spent[0])

    def spend(seconds: float) -> None:
        spent[0] += seconds

    return spend


def test_plain_functions_are_compared_by_what_a_call_costs(spend: Callable[[float], None]) -> None:
    """However many calls each gets, the ratio is that of single calls."""
    comparison = measuring.compare_calls(
        "", {"one": lambda: spend(1e-4), "three": lambda: spend(3e-4)}, baseline="one", rounds=5, seconds=0.01
    )

    assert comparison.ratio("three", "one").median == pytest.approx(3.0)
    assert comparison.turns["one"][0].cost == pytest.approx(100.0)
    assert comparison.turns["one"][0].operations > comparison.turns["three"][0].operations
    assert len(comparison.turns["one"]) == 5


def test_cpu_is_counted_and_sleep_is_not() -> None:
    """The figure is what the process used, not how long it took."""
    began = measuring.cpu()
    time.sleep(0.1)
    slept = measuring.cpu() - began
    while measuring.cpu() - began < slept + 0.05:
        pass

    assert slept < 0.05


@pytest.mark.skipif(not measuring._FORGET_PEAK.exists(), reason="only Linux forgets a peak")
def test_a_peak_is_seen_after_it_has_passed_and_can_be_forgotten() -> None:
    """Memory that was taken and given back counts, until the next turn."""
    measuring.forget_peak()
    before = measuring.memory()
    bytearray(64_000_000)
    peak = measuring.peak_memory()
    measuring.forget_peak()

    assert peak - before > 50_000_000
    assert measuring.peak_memory() - before < 50_000_000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no process can choose its core here")
def test_a_core_is_left_again() -> None:
    """Who measured on one core may use all of them afterwards."""
    before = os.sched_getaffinity(0)

    with measuring.on_core(measuring.CLIENT_CORE):
        client = os.sched_getaffinity(0)
    with measuring.on_core(measuring.SERVER_CORE):
        server = os.sched_getaffinity(0)

    assert (client, server) == (({min(before)}, {max(before)}) if len(before) > 1 else (before, before))
    assert os.sched_getaffinity(0) == before
