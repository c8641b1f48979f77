"""The rate of a batch and the time that is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jetpay_async._cli.progress import model
from jetpay_async.ledger import Progress
from tests.cli.conftest import CommandResult

Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("short_timeouts", "empty_directory")


def stands(finished: int) -> Progress:
    return Progress(total=1000, pending=1000 - finished, sending=0, captured=finished, rejected=0, unknown=0)


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    """What was done in the hours before does not count for the rate, and for what is left."""
    times = iter([0.0, 0.0, 10.0, 40.0, 50.0])
    pacer = model.ProgressSampler(lambda: next(times))

    paces = [pacer.measure(stands(finished)) for finished in (0, 0, 500, 530, 600)]

    assert [round(sample.per_second, 2) for sample in paces] == [0.0, 0.0, 50.0, 1.0, 7.0]
    assert [sample.seconds_left for sample in paces] == [None, None, 10.0, 470.0, pytest.approx(400 / 7)]


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
