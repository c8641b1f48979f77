"""Whether items are sent at all, on a clock that is moved by hand."""

from __future__ import annotations

import logging

import attrs
import pytest

from jetpay_async import NotSentError
from jetpay_async._batch.circuit_breaker import CircuitBreaker
from tests.batch.fakes import FakeClock

ERROR = NotSentError("refused to connect")
LATER = NotSentError("refused again")


@attrs.define
class Breaker:
    """A circuit breaker and its clock."""

    fake: FakeClock = attrs.Factory(FakeClock)
    breaker: CircuitBreaker = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.breaker = CircuitBreaker(self.fake.clock)

    def fail(self, times: int = 8) -> CircuitBreaker:
        for _ in range(times):
            self.breaker.on_failure(ERROR)
        return self.breaker

    def wait(self, seconds: float) -> None:
        self.fake.now += seconds


def test_eight_failures_in_a_row_open_it() -> None:
    """The eighth item without an answer opens it, not the seventh."""
    harness = Breaker()
    breaker = harness.fail(7)
    assert breaker.error is None

    breaker.on_failure(LATER)

    assert breaker.error is LATER


def test_an_answer_starts_the_count_anew() -> None:
    """Failures among answers do not open it."""
    harness = Breaker()
    for _ in range(10):
        harness.fail(7)
        harness.breaker.on_answer()

    assert harness.breaker.error is None


def test_each_row_of_failures_has_its_own_identity() -> None:
    """It lasts from the first failure to the next answer."""
    harness = Breaker()
    rows = [harness.breaker.failure_row]
    for _ in range(2):
        harness.fail(1)
        rows.append(harness.breaker.failure_row)
        harness.fail(1)
        rows.append(harness.breaker.failure_row)
        harness.breaker.on_answer()
        harness.breaker.on_answer()
        rows.append(harness.breaker.failure_row)

    assert rows == [None, 1, 1, None, 2, 2, None]


def test_a_run_wide_error_opens_it_at_once() -> None:
    """One is enough where every other item would end the same."""
    breaker = Breaker().breaker

    breaker.on_failure(ERROR, run_wide=True)

    assert breaker.error is ERROR


def test_inconclusive_failures_alone_do_not_open_it() -> None:
    """However many items were in flight together, what cut all of them off counts as seven; one more opens it."""
    breaker = Breaker().breaker
    for _ in range(64):
        breaker.on_failure(ERROR, conclusive=False)
    assert breaker.error is None

    breaker.on_failure(LATER)

    assert breaker.error is LATER


def test_an_answer_after_inconclusive_failures_starts_the_count_anew() -> None:
    """The next items show whether the service works."""
    harness = Breaker()
    for _ in range(64):
        harness.breaker.on_failure(ERROR, conclusive=False)

    harness.breaker.on_answer()
    harness.fail(7)

    assert harness.breaker.error is None


def test_a_probe_after_thirty_seconds() -> None:
    """One item may be sent then, and no other until it is over."""
    harness = Breaker()
    breaker = harness.fail()
    harness.wait(29.9)
    assert not breaker.may_probe()
    harness.wait(0.1)
    assert breaker.may_probe()

    breaker.begin_probe()
    assert not breaker.may_probe()
    breaker.end_probe()

    assert breaker.may_probe()


def test_an_answer_closes_it(caplog: pytest.LogCaptureFixture) -> None:
    """The count begins anew; the log has both."""
    harness = Breaker()
    with caplog.at_level(logging.WARNING, "jetpay_async"):
        breaker = harness.fail()
        harness.wait(30.0)
        breaker.begin_probe()
        breaker.on_answer()
        breaker.end_probe()
        assert breaker.error is None
        harness.fail(7)

    assert breaker.error is None
    assert [record.message for record in caplog.records] == [
        "circuit breaker opened: nothing is sent for 30 s, then one item as a probe; last error: refused to connect",
        "circuit breaker closed: the service answers again",
    ]


@pytest.mark.parametrize("conclusive", [True, False])
@pytest.mark.parametrize("run_wide", [True, False])
def test_a_failed_probe_means_thirty_seconds_more(run_wide: bool, conclusive: bool) -> None:
    """One failure of any kind is enough while it is open; the latest error is the one that it names."""
    harness = Breaker()
    if run_wide:
        harness.breaker.on_failure(ERROR, run_wide=True)
    else:
        harness.fail()
    breaker = harness.breaker
    harness.wait(30.0)
    breaker.begin_probe()

    breaker.on_failure(LATER, conclusive=conclusive)
    breaker.end_probe()

    assert breaker.error is LATER
    harness.wait(29.0)
    assert not breaker.may_probe()
    harness.wait(1.0)
    assert breaker.may_probe()


def test_disabled_it_stays_open() -> None:
    """Nothing is sent any more, whatever is learnt of the service and however long it takes."""
    harness = Breaker()
    harness.breaker.disable(ERROR)

    harness.breaker.on_answer()
    for _ in range(9):
        harness.breaker.on_failure(LATER, run_wide=True)
    harness.wait(1e6)

    assert harness.breaker.error is ERROR
    assert not harness.breaker.may_probe()
