"""Concurrency limit, rate limit and circuit breaker combined: who is started, in which order, and who is rejected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import attrs
import pytest

from jetpay_async import AuthenticationError, CaptureOutcome, ConfigurationError, JetpayError, NotSentError
from jetpay_async._batch.admission import AdmissionControl, Slot
from tests.batch.fakes import (
    CAPTURED,
    INVALID,
    NOT_SENT,
    REJECTED,
    STILL_PREAUTHORIZED,
    UNKNOWN,
    FakeClock,
    outcome_of,
    run_ready_tasks,
)


@attrs.define
class LimiterHarness:
    """An admission control, the tasks that want to start an item, and when they did."""

    fake: FakeClock
    admission: AdmissionControl
    started: list[float] = attrs.Factory(list)
    inside: list[Slot] = attrs.Factory(list)
    rejected: list[JetpayError] = attrs.Factory(list)

    def arrive(self, count: int = 1) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._enter()) for _ in range(count)]

    async def _enter(self) -> None:
        slot = Slot(self.admission)
        error = await slot.enter()
        assert slot.busy is (error is None)
        if error is None:
            self.started.append(self.fake.now - 1000.0)
            self.inside.append(slot)
        else:
            self.rejected.append(error)

    def leave(self, outcome: CaptureOutcome | None = None) -> None:
        self.inside.pop(0).leave(outcome)

    async def end(self, *outcomes: CaptureOutcome) -> None:
        """Start an item for each outcome, all at the same time, then end them."""
        slots = [Slot(self.admission) for _ in outcomes]
        for slot in slots:
            assert await slot.enter() is None
        for slot, outcome in zip(slots, outcomes, strict=True):
            slot.leave(outcome)

    async def open_breaker(self) -> JetpayError:
        await self.end(*[NOT_SENT] * 8)
        assert self.admission.breaker.error is not None
        return self.admission.breaker.error

    @property
    def in_flight(self) -> int:
        return self.admission.limiter.in_flight


def make(concurrency: int = 64, rate: float | None = None) -> LimiterHarness:
    fake = FakeClock()
    return LimiterHarness(fake, AdmissionControl(concurrency, rate=rate, clock=fake.clock))


# --- concurrency ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_no_more_than_the_limit_and_in_order_of_arrival() -> None:
    """Whoever finds it full waits for one that leaves, and who came first goes first."""
    harness = make(2)
    order: list[int] = []
    slots = [Slot(harness.admission) for _ in range(5)]

    async def enter(number: int) -> None:
        await slots[number].enter()
        order.append(number)

    tasks = [asyncio.create_task(enter(number)) for number in range(5)]
    await run_ready_tasks()
    assert order == [0, 1]
    slots[0].leave(None)
    await run_ready_tasks()
    assert order == [0, 1, 2]
    slots[1].leave(None)
    slots[2].leave(None)
    await asyncio.gather(*tasks)

    assert order == [0, 1, 2, 3, 4]
    assert harness.in_flight == 2


@pytest.mark.parametrize(
    ("status", "limit"),
    [
        (429, 8),
        (500, 8),
        (502, 8),
        (503, 8),
        (504, 8),
        (599, 8),
        (None, 16),
        (302, 16),
        (400, 16),
        (404, 16),
        (409, 16),
    ],
)
@pytest.mark.asyncio
async def test_overload_halves_the_limit(status: int | None, limit: float) -> None:
    """429 and 5xx are signs of overload; a lost connection or a rejection are not."""
    admission = make(16).admission

    Slot(admission).on_failure(status, None)

    assert admission.limit == limit


@pytest.mark.asyncio
async def test_one_overload_halves_it_once() -> None:
    """What was in flight when the limit was cut does not cut it again; what began later does."""
    admission = make(16).admission
    early, other, late = Slot(admission), Slot(admission), Slot(admission)
    for slot in (early, other):
        assert await slot.enter() is None

    early.on_failure(503, None)
    other.on_failure(503, None)
    assert admission.limit == 8
    assert await late.enter() is None
    late.on_failure(503, None)
    assert admission.limit == 4
    # Its second attempt began after the first cut, but before the second.
    early.on_failure(503, None)
    assert admission.limit == 4
    early.on_failure(503, None)

    assert admission.limit == 2


@pytest.mark.parametrize("outcome", [CAPTURED, REJECTED], ids=["captured", "rejected"])
@pytest.mark.asyncio
async def test_an_answer_raises_the_limit(outcome: CaptureOutcome) -> None:
    """Each answer does, a no included."""
    harness = make(16)
    Slot(harness.admission).on_failure(429, None)

    await harness.end(outcome)

    assert harness.admission.limit == 8 + 1 / 8


@pytest.mark.asyncio
async def test_an_outcome_without_an_answer_does_not_raise_the_limit() -> None:
    """Silence is no sign of health."""
    harness = make(16)
    Slot(harness.admission).on_failure(429, None)

    await harness.end(NOT_SENT, UNKNOWN, STILL_PREAUTHORIZED, INVALID)

    assert harness.admission.limit == 8


@pytest.mark.asyncio
async def test_a_cut_limit_holds_for_those_inside() -> None:
    """Nobody enters until those inside are fewer than the limit."""
    harness = make(4)
    await asyncio.gather(*harness.arrive(4))
    harness.inside[0].on_failure(503, None)
    (task,) = harness.arrive()
    for _ in range(2):
        harness.leave()
        await run_ready_tasks()
        assert len(harness.started) == 4

    harness.leave()
    await task

    assert len(harness.started) == 5


# --- pauses and the rate ----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_retry_after_holds_back_every_start() -> None:
    """Nobody starts until then, neither who waits already nor who comes; then all go at once."""
    harness = make()
    Slot(harness.admission).on_failure(503, 30.0)
    harness.arrive(3)
    await harness.fake.forward(29.9)
    assert harness.started == []
    harness.arrive(2)

    await harness.fake.forward(0.2)

    assert harness.started == [30.0] * 5


@pytest.mark.asyncio
async def test_after_a_pause_an_item_starts_at_once_again() -> None:
    """The pause itself is waited for; once an item has started and ended after it, nobody waits."""
    harness = make()
    slot = Slot(harness.admission)
    slot.on_failure(None, 10.0)
    await harness.fake.forward(11.0)
    assert not slot.enter_at_once()
    await asyncio.gather(*harness.arrive())
    harness.leave()

    assert slot.enter_at_once()


@pytest.mark.asyncio
async def test_the_rate_and_the_limit_both_hold() -> None:
    """A time to start is no use to one who finds no room, and is not kept for later."""
    harness = make(1, rate=10)
    harness.arrive(3)
    await harness.fake.forward(5.0)
    assert harness.started == [0.0]
    harness.leave()
    await harness.fake.forward(0.05)
    harness.leave()
    await harness.fake.forward(1.0)

    assert harness.started == pytest.approx([0.0, 5.0, 5.1])


@pytest.mark.asyncio
async def test_nobody_watches_the_clock_for_nobody() -> None:
    """When the last who waited is cancelled, no task is left behind; who comes then is served."""
    harness = make(rate=0.1)
    harness.arrive()
    await run_ready_tasks()
    before = asyncio.all_tasks()
    tasks = harness.arrive(2)
    await run_ready_tasks()
    assert len(asyncio.all_tasks() - before) == 3

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await run_ready_tasks()
    assert asyncio.all_tasks() <= before
    harness.arrive()
    await harness.fake.forward(10.0)

    assert harness.started == [0.0, 10.0]
    assert asyncio.all_tasks() == before - {task for task in before if task.done()}


# --- the circuit breaker ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [NOT_SENT, UNKNOWN], ids=["not sent", "unknown"])
@pytest.mark.asyncio
async def test_eight_in_a_row_open_the_breaker(outcome: CaptureOutcome) -> None:
    """Eight items without an answer of the API, and nothing is started any more."""
    harness = make()
    await harness.end(*[outcome] * 7)
    assert harness.admission.breaker.error is None

    await harness.end(outcome)
    await asyncio.gather(*harness.arrive(3))

    error = getattr(outcome, "error", None)
    assert harness.rejected == [error] * 3
    assert harness.admission.breaker.error is error


@pytest.mark.parametrize("answer", [CAPTURED, REJECTED], ids=["captured", "rejected"])
@pytest.mark.asyncio
async def test_an_answer_of_the_api_starts_the_count_anew(answer: CaptureOutcome) -> None:
    """Failures among answers do not open it, whatever the answers say."""
    harness = make()
    for _ in range(10):
        await harness.end(*[NOT_SENT] * 7, answer)

    assert harness.admission.breaker.error is None


@pytest.mark.asyncio
async def test_invalid_items_say_nothing_about_the_api() -> None:
    """An item that can't be sent is no failure, and no sign of life."""
    harness = make()
    await harness.end(*[INVALID, NOT_SENT] * 7)
    assert harness.admission.breaker.error is None

    await harness.end(INVALID, NOT_SENT)

    assert harness.admission.breaker.error is not None


@pytest.mark.asyncio
async def test_a_lost_connection_does_not_open_the_breaker() -> None:
    """All in flight are unknown at their deadline, but their statuses were read: the next items are started."""
    harness = make(64)

    await harness.end(*[STILL_PREAUTHORIZED] * 64)
    assert harness.admission.breaker.error is None
    await harness.end(CAPTURED, *[STILL_PREAUTHORIZED] * 63)
    assert harness.admission.breaker.error is None


@pytest.mark.asyncio
async def test_captures_that_stay_unknown_open_the_breaker() -> None:
    """If those that were started after the first failures end the same, statuses that can be read are no excuse."""
    harness = make(64)
    await harness.end(*[STILL_PREAUTHORIZED] * 64)

    await harness.end(STILL_PREAUTHORIZED)

    assert harness.admission.breaker.error is not None


@pytest.mark.parametrize(
    "error", [AuthenticationError("revoked", status=401), ConfigurationError("closed")], ids=["401", "configuration"]
)
@pytest.mark.asyncio
async def test_a_run_wide_error_opens_the_breaker_at_once(error: JetpayError) -> None:
    """A rejected token is rejected for every item."""
    harness = make()

    await harness.end(outcome_of(error))

    assert harness.admission.breaker.error is error


@pytest.mark.parametrize("rate", [None, 0.001], ids=["for room", "for a time to start"])
@pytest.mark.asyncio
async def test_who_waits_when_the_breaker_opens_is_rejected(rate: float | None) -> None:
    """Nobody waits for a service that is dead, whatever they waited for, and no clock is watched any more."""
    harness = make(1, rate=rate)
    await asyncio.gather(*harness.arrive())
    if rate is not None:
        harness.leave()
    tasks = harness.arrive(5)
    await run_ready_tasks()
    assert harness.rejected == []
    error = AuthenticationError("revoked")

    harness.admission.record(outcome_of(error), failure_row=None)
    await asyncio.gather(*tasks)
    await run_ready_tasks()

    assert harness.rejected == [error] * 5
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_who_waits_out_a_pause_when_the_breaker_opens_is_rejected() -> None:
    """A long pause does not keep anyone from learning that the service is dead."""
    harness = make()
    slot = Slot(harness.admission)
    await slot.enter()
    slot.on_failure(503, 300.0)
    tasks = harness.arrive(2)
    await run_ready_tasks()

    slot.leave(outcome_of(ConfigurationError("closed")))
    await asyncio.gather(*tasks)

    assert len(harness.rejected) == 2


@pytest.mark.asyncio
async def test_after_thirty_seconds_one_is_the_probe() -> None:
    """The first who comes then is started, the others are rejected until it has ended."""
    harness = make()
    await harness.open_breaker()
    await harness.fake.forward(29.9)
    await asyncio.gather(*harness.arrive(2))
    assert (len(harness.started), len(harness.rejected)) == (0, 2)

    await harness.fake.forward(0.1)
    await asyncio.gather(*harness.arrive(3))

    assert (len(harness.started), len(harness.rejected)) == (1, 4)
    assert harness.in_flight == 1


@pytest.mark.asyncio
async def test_the_success_of_the_probe_lets_all_go_on() -> None:
    """One answer closes the breaker."""
    harness = make()
    await harness.open_breaker()
    await harness.fake.forward(30.0)
    await asyncio.gather(*harness.arrive())

    harness.leave(CAPTURED)
    await asyncio.gather(*harness.arrive(10))

    assert harness.admission.breaker.error is None
    assert len(harness.started) == 11


@pytest.mark.asyncio
async def test_the_failure_of_the_probe_means_thirty_seconds_more() -> None:
    """One failure is enough while it is open."""
    harness = make()
    await harness.open_breaker()
    await harness.fake.forward(30.0)
    await asyncio.gather(*harness.arrive())

    harness.leave(STILL_PREAUTHORIZED)
    await harness.fake.forward(29.0)
    await asyncio.gather(*harness.arrive())
    assert (len(harness.started), len(harness.rejected)) == (1, 1)
    await harness.fake.forward(1.0)
    await asyncio.gather(*harness.arrive())

    assert len(harness.started) == 2


@pytest.mark.asyncio
async def test_a_probe_that_learns_nothing_makes_way_for_another() -> None:
    """If it is cancelled, the next item is the probe; one that was started before is not taken for it."""
    harness = make()
    await asyncio.gather(*harness.arrive(2))
    await harness.open_breaker()
    await harness.fake.forward(30.0)
    probe, next_one = Slot(harness.admission), Slot(harness.admission)
    assert await probe.enter() is None
    harness.leave()
    assert await next_one.enter() is not None

    probe.leave(None)

    assert await next_one.enter() is None
    assert harness.in_flight == 2


@pytest.mark.asyncio
async def test_there_is_no_probe_during_a_pause() -> None:
    """``Retry-After`` counts for the probe, too."""
    harness = make()
    Slot(harness.admission).on_failure(503, 60.0)
    for _ in range(8):
        harness.admission.record(NOT_SENT, failure_row=None)
    await harness.fake.forward(59.0)
    await asyncio.gather(*harness.arrive())
    assert harness.started == []

    await harness.fake.forward(1.0)
    await asyncio.gather(*harness.arrive())

    assert harness.started == [60.0]


@pytest.mark.asyncio
async def test_the_probe_counts_for_the_rate() -> None:
    """Who comes after a successful probe waits for the next time to start."""
    harness = make(rate=0.5)
    harness.admission.record(outcome_of(AuthenticationError("revoked")), failure_row=None)
    await harness.fake.forward(30.0)
    await asyncio.gather(*harness.arrive())
    harness.leave(CAPTURED)

    harness.arrive()
    await harness.fake.forward(10.0)

    assert harness.started == [30.0, 32.0]


@pytest.mark.asyncio
async def test_disabled_it_stays_closed_to_all() -> None:
    """Nobody gets in any more, neither who waits nor who comes, whatever is learnt of the service."""
    harness = make(1)
    await asyncio.gather(*harness.arrive())
    tasks = harness.arrive(2)
    await run_ready_tasks()
    reason = NotSentError("it is over")

    harness.admission.disable(reason)
    await asyncio.gather(*tasks)
    harness.leave(CAPTURED)
    await harness.fake.forward(1e6)
    await asyncio.gather(*harness.arrive())

    assert harness.rejected == [reason] * 3


# --- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_cancelled_wait_takes_no_turn() -> None:
    """Who is cancelled while waiting leaves the turn to the next."""
    harness = make(1)
    await asyncio.gather(*harness.arrive())
    first, second = harness.arrive(2)
    await run_ready_tasks()

    first.cancel()
    harness.leave()
    assert harness.in_flight == 1
    await second

    assert first.cancelled()
    assert len(harness.started) == 2
    assert harness.in_flight == 1


@pytest.mark.asyncio
async def test_a_turn_that_comes_with_the_cancellation_is_passed_on() -> None:
    """Who is cancelled in the very step in which the turn comes does not keep it."""
    harness = make(1)
    await asyncio.gather(*harness.arrive())
    first, second = harness.arrive(2)
    await run_ready_tasks()

    harness.leave()
    first.cancel()
    await second

    assert first.cancelled()
    assert len(harness.started) == 2
    assert harness.in_flight == 1


@pytest.mark.parametrize("cancel_first", [True, False], ids=["cancelled, then opened", "opened, then cancelled"])
@pytest.mark.asyncio
async def test_cancelled_when_the_breaker_opens(cancel_first: bool) -> None:
    """A cancellation is never swallowed, and no turn is counted."""
    harness = make(1)
    await asyncio.gather(*harness.arrive())
    (task,) = harness.arrive()
    await run_ready_tasks()

    if cancel_first:
        task.cancel()
    harness.admission.record(outcome_of(ConfigurationError("closed")), failure_row=None)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert harness.in_flight == 1


@pytest.mark.parametrize(
    ("disturb", "lasts"),
    [
        (lambda admission: admission.on_failure(0, 503, None), True),
        (lambda admission: admission.on_failure(0, None, 10.0), True),
        (lambda admission: admission.record(NOT_SENT, failure_row=None), False),
        (lambda admission: admission.disable(NotSentError("stopped")), True),
    ],
    ids=["overload", "pause", "failure", "disabled"],
)
@pytest.mark.asyncio
async def test_nothing_starts_unasked_after_a_disturbance(
    disturb: Callable[[AdmissionControl], None], lasts: bool
) -> None:
    """Anything but the concurrency may limit the starts then. A row of failures ends with the next answer."""
    harness = make()
    slot = Slot(harness.admission)
    assert slot.enter_at_once()

    disturb(harness.admission)
    assert not Slot(harness.admission).enter_at_once()
    slot.leave(CAPTURED)

    assert Slot(harness.admission).enter_at_once() is not lasts


@pytest.mark.asyncio
async def test_nothing_starts_unasked_beyond_the_concurrency_or_a_rate() -> None:
    """One that finds all places taken waits, and whoever leaves lets it start."""
    harness = make(1)
    first, second = Slot(harness.admission), Slot(harness.admission)
    assert first.enter_at_once()
    assert not second.enter_at_once()

    (waiting,) = harness.arrive()
    await run_ready_tasks()
    first.leave(CAPTURED)
    await waiting

    assert harness.in_flight == 1
    assert not Slot(make(1, rate=10.0).admission).enter_at_once()


@pytest.mark.asyncio
async def test_a_probe_ends_also_where_another_answer_came_first() -> None:
    """What closes the circuit breaker may be an item that began before it opened."""
    harness = make()
    early, probe = Slot(harness.admission), Slot(harness.admission)
    assert early.enter_at_once()
    await harness.open_breaker()
    await harness.fake.forward(31.0)
    assert await probe.enter() is None
    early.leave(CAPTURED)
    assert harness.admission.undisturbed

    probe.leave(CAPTURED)
    assert probe.enter_at_once()
    await harness.open_breaker()
    await harness.fake.forward(31.0)
    assert await early.enter() is None
    # It was the first probe's slot, and its item is none.
    probe.leave(None)

    assert await probe.enter() is harness.admission.breaker.error
