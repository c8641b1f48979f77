"""How many items may be in flight: halved by overload, raised by answers."""

from __future__ import annotations

import pytest

from jetpay_async._batch.concurrency_limit import AIMDLimiter


def test_it_begins_with_the_concurrency() -> None:
    """There is room for as many as asked for, and for no more."""
    limiter = AIMDLimiter(2)
    rooms = []

    for _ in range(3):
        rooms.append(limiter.has_room)
        limiter.in_flight += 1

    assert rooms == [True, True, False]


def test_overload_halves_the_limit_once_for_those_in_flight_together() -> None:
    """A request that began before the limit was cut does not cut it again."""
    limiter = AIMDLimiter(16)

    cuts = [limiter.on_overload(generation) for generation in (0, 0, 0, 1, 0, 2)]

    assert cuts == [True, False, False, True, False, True]
    assert (limiter.limit, limiter.generation) == (2.0, 3)


def test_one_may_always_be_in_flight() -> None:
    """However many requests are overloaded, the limit stays at one."""
    limiter = AIMDLimiter(3)

    for generation in range(20):
        assert limiter.on_overload(generation)

    assert limiter.limit == 1
    assert limiter.has_room


def test_a_cut_limit_holds_for_those_in_flight() -> None:
    """There is no room until fewer are in flight than the limit."""
    limiter = AIMDLimiter(4)
    limiter.in_flight = 4
    limiter.on_overload(0)
    rooms = []

    while limiter.in_flight:
        rooms.append(limiter.has_room)
        limiter.in_flight -= 1

    assert rooms == [False, False, False, True]


def test_an_answer_raises_the_limit_by_its_own_fraction() -> None:
    """One more after each round of answers, and never more than the concurrency."""
    limiter = AIMDLimiter(5)
    limiter.on_overload(0)
    limiter.on_overload(1)
    assert limiter.limit == 1.25

    limiter.on_answer()
    assert limiter.limit == 1.25 + 1 / 1.25
    for _ in range(100):
        limiter.on_answer()

    assert limiter.limit == 5


@pytest.mark.parametrize("concurrency", [32, 640])
def test_a_large_limit_recovers_within_nine_rounds(concurrency: int) -> None:
    """However large it is, a service that recovers has the whole pool again soon."""
    limiter = AIMDLimiter(concurrency)
    limiter.on_overload(0)
    rounds = 0

    while limiter.limit < concurrency:
        rounds += 1
        for _ in range(int(limiter.limit)):
            limiter.on_answer()

    assert rounds in {8, 9}
