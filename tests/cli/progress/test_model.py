"""The rate of a batch and the time that is left."""

from __future__ import annotations

from typing import Any

import pytest

from jetpay_async._cli.progress import model
from jetpay_async.ledger import Progress, Waiting
from tests.cli.lists import progress_of


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    """What was done in the hours before does not count for the rate, and for what is left."""
    times = iter([0.0, 0.0, 10.0, 40.0, 50.0])
    sampler = model.ProgressSampler(lambda: next(times))

    samples = [sampler.measure(progress_of(finished)) for finished in (0, 0, 500, 530, 600)]

    assert [round(sample.per_second, 2) for sample in samples] == [0.0, 0.0, 50.0, 1.0, 7.0]
    assert [sample.seconds_left for sample in samples] == [None, None, 10.0, 470.0, pytest.approx(400 / 7)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(0.4, "0 s", id="seconds"),
        pytest.param(61, "1 min 01 s", id="minutes"),
        pytest.param(3 * 3600 + 62, "3 h 01 min", id="hours"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """A time is written as people read it."""
    assert model.duration(seconds) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        pytest.param({}, "1 captured, 0 rejected, 0 unknown, 3 in flight, 2/s, 9 s left", id="working"),
        pytest.param({"accepted": 2}, "1 captured, 2 accepted, 0 rejected, 0 unknown, 3 in flight, 2/s", id="accepted"),
        pytest.param(
            {"waiting": Waiting(debits=3, seconds=32.4)},
            "1 captured, 0 rejected, 0 unknown, waiting 32 s to resolve 3 debits in doubt",
            id="waiting",
        ),
        pytest.param(
            {"waiting": Waiting(debits=1, seconds=75.0)},
            "1 captured, 0 rejected, 0 unknown, waiting 1 min 15 s to resolve 1 debit in doubt",
            id="waiting for one",
        ),
        pytest.param(
            {"waiting": Waiting(debits=3, seconds=32.4), "pending": 5},
            "1 captured, 0 rejected, 0 unknown, 3 in flight, 2/s, 9 s left, waiting 32 s to resolve 3 debits in doubt",
            id="both",
        ),
        pytest.param(
            {"waiting": Waiting(debits=3, seconds=32.4), "pending": 5, "per_second": 0.0},
            "1 captured, 0 rejected, 0 unknown, waiting 32 s to resolve 3 debits in doubt",
            id="pending ones wait as well",
        ),
        pytest.param(
            {"sending": 0, "pending": 8, "per_second": 0.0},
            "1 captured, 0 rejected, 0 unknown, 8 pending, none in flight: they wait for another batch that has them",
            id="another run works on them",
        ),
        pytest.param(
            {"sending": 0, "pending": 8},
            "1 captured, 0 rejected, 0 unknown, 0 in flight, 2/s, 9 s left",
            id="a moment between two",
        ),
    ],
)
def test_waiting_is_shown_apart_from_working(changes: dict[str, Any], text: str) -> None:
    """A batch that only waits for debits in doubt shows how long, instead of a rate that decays."""
    per_second = changes.get("per_second", 2.0)
    counts = {name: value for name, value in changes.items() if name != "per_second"}
    progress = Progress(
        **{"total": 9, "pending": 0, "sending": 3, "captured": 1, "rejected": 0, "unknown": 0, **counts}
    )

    shown = model.counts(model.ProgressSample(progress=progress, per_second=per_second, seconds_left=9.0))

    assert ", ".join(shown).startswith(text)
