"""What slows a pool down, stops it and lets it go on, on a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math

import attrs
import pytest

from jetpay_async import (
    AuthenticationError,
    Capture,
    Captured,
    CaptureOutcome,
    Clock,
    ConfigurationError,
    InvalidArgumentError,
    JetpayError,
    NotFoundError,
    NotSentError,
    OutcomeUnknownError,
    TransactionState,
)
from jetpay_async._batch.admission import AdmissionControl, Slot
from jetpay_async.outcomes import undone

CAPTURED = Captured(
    debit_id="debit_123",
    capture=Capture(identifier="debit_123", state=TransactionState.PAID, raw={}, attempts=1, elapsed=0.1),
)


def ended(error: JetpayError) -> CaptureOutcome:
    return undone(error, debit_id="debit_123", request=None, trust_rate_limited=True)


REFUSED = ended(NotFoundError("no such debit"))
NOT_SENT = ended(NotSentError("refused to connect"))
UNKNOWN = ended(OutcomeUnknownError("silence"))


@attrs.define
class FakeClock:
    """Moves the clock."""

    now: float = 1000.0
    late: float = 0.0
    """Seconds that each sleep takes too long."""
    each_look: float = 0.0
    """Seconds that pass whenever somebody looks at the clock."""
    _sleepers: list[tuple[float, int, asyncio.Future[None]]] = attrs.Factory(list)

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=self._look, sleep=self._sleep)

    @property
    def sleepers(self) -> int:
        return sum(not sleeper.done() for _, _, sleeper in self._sleepers)

    def _look(self) -> float:
        self.now += self.each_look
        return self.now

    async def _sleep(self, seconds: float) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds + self.late, len(self._sleepers), sleeper))
        await sleeper

    async def forward(self, seconds: float) -> None:
        """Let time pass, and everybody do what they do meanwhile."""
        end = self.now + seconds
        await settled()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                sleeper.set_result(None)
            await settled()
        self.now = end


async def settled() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


@attrs.define
class LimiterHarness:
    """A admission, the tasks that want to get past it, and when they did."""

    hands: FakeClock
    admission: AdmissionControl
    passed: list[float] = attrs.Factory(list)
    refused: list[JetpayError] = attrs.Factory(list)

    def arrive(self, count: int = 1) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._enter()) for _ in range(count)]

    async def _enter(self) -> None:
        refusal = await self.admission.enter()
        if refusal is None:
            self.passed.append(self.hands.now - 1000.0)
        else:
            self.refused.append(refusal)


def make(concurrency: int = 64, rate: float | None = None) -> LimiterHarness:
    hands = FakeClock()
    return LimiterHarness(hands, AdmissionControl(concurrency, rate=rate, clock=hands.clock))


# --- the window -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_no_more_than_the_window_and_in_order_of_arrival() -> None:
    """Whoever finds it full waits for one that leaves, and who came first goes first."""
    gate = make(2)
    order: list[int] = []

    async def enter(number: int) -> None:
        await gate.admission.enter()
        order.append(number)

    tasks = [asyncio.create_task(enter(number)) for number in range(5)]
    await settled()
    assert order == [0, 1]
    gate.admission.leave()
    await settled()
    assert order == [0, 1, 2]
    gate.admission.leave()
    gate.admission.leave()
    await asyncio.gather(*tasks)

    assert order == [0, 1, 2, 3, 4]
    assert gate.admission.in_flight == 2


@pytest.mark.parametrize(
    ("status", "window"),
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
async def test_overload_halves_the_window(status: int | None, window: float) -> None:
    """429 and 5xx are signs of overload; a lost connection or a refusal are not."""
    admission = make(16).admission

    admission.slow_down(0, status, None)

    assert admission.window == window


@pytest.mark.asyncio
async def test_one_overload_halves_it_once() -> None:
    """What was on its way when the window was cut does not cut it again; what began later does."""
    admission = make(16).admission
    early, other, late = Slot(admission), Slot(admission), Slot(admission)
    for slot in (early, other):
        assert await slot.enter() is None

    early.on_trouble(503, None)
    other.on_trouble(503, None)
    assert admission.window == 8
    assert await late.enter() is None
    late.on_trouble(503, None)
    assert admission.window == 4
    # Its second attempt began after the first cut, but before the second.
    early.on_trouble(503, None)
    assert admission.window == 4
    early.on_trouble(503, None)

    assert admission.window == 2


@pytest.mark.asyncio
async def test_one_is_always_let_through() -> None:
    """However bad it gets, the window stays at one."""
    gate = make(3)
    for generation in range(20):
        gate.admission.slow_down(generation, 503, None)

    await asyncio.gather(*gate.arrive())

    assert gate.admission.window == 1
    assert len(gate.passed) == 1


@pytest.mark.parametrize("outcome", [CAPTURED, REFUSED], ids=["captured", "refused"])
@pytest.mark.asyncio
async def test_an_answer_widens_it_by_its_own_fraction(outcome: CaptureOutcome) -> None:
    """One more after each round of answers, a no included, and never more than it began with."""
    admission = make(5).admission
    admission.slow_down(0, 429, None)
    admission.slow_down(1, 429, None)
    assert admission.window == 1.25

    admission.record(outcome)
    assert admission.window == 1.25 + 1 / 1.25
    for _ in range(100):
        admission.record(outcome)

    assert admission.window == 5


@pytest.mark.asyncio
async def test_a_wide_window_is_open_again_after_eight_rounds() -> None:
    """However wide it is, a service that recovers has the whole pool again soon."""
    admission = make(640).admission
    admission.slow_down(0, 503, None)
    rounds = 0
    while admission.window < 640:
        rounds += 1
        for _ in range(int(admission.window)):
            admission.record(CAPTURED)

    assert rounds in {8, 9}


@pytest.mark.asyncio
async def test_what_has_no_answer_does_not_widen_it() -> None:
    """Silence is no sign of health."""
    admission = make(16).admission
    admission.slow_down(0, 429, None)

    admission.record(NOT_SENT)
    admission.record(UNKNOWN)

    assert admission.window == 8


@pytest.mark.asyncio
async def test_a_cut_window_holds_for_those_inside() -> None:
    """Nobody enters until those inside are fewer than the window."""
    gate = make(4)
    await asyncio.gather(*gate.arrive(4))
    gate.admission.slow_down(0, 503, None)
    (task,) = gate.arrive()
    for _ in range(2):
        gate.admission.leave()
        await settled()
        assert len(gate.passed) == 4

    gate.admission.leave()
    await task

    assert len(gate.passed) == 5


# --- pauses and the rate ----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_retry_after_holds_back_every_start() -> None:
    """Nobody starts until then, neither who waits already nor who comes; then all go at once."""
    gate = make()
    gate.admission.slow_down(0, 503, 30.0)
    gate.arrive(3)
    await gate.hands.forward(29.9)
    assert gate.passed == []
    gate.arrive(2)

    await gate.hands.forward(0.2)

    assert gate.passed == [30.0] * 5
    assert gate.hands.sleepers == 0


@pytest.mark.asyncio
async def test_a_longer_pause_replaces_a_shorter_one() -> None:
    """Of several pauses the last end counts."""
    gate = make()
    gate.admission.slow_down(0, 429, 10.0)
    gate.arrive()
    await settled()

    gate.admission.slow_down(1, 429, 25.0)
    gate.admission.slow_down(2, 429, 5.0)
    await gate.hands.forward(100.0)

    assert gate.passed == [25.0]


@pytest.mark.asyncio
async def test_a_pause_does_not_last_for_ever() -> None:
    """A pause of a day is most likely a mistake: the service is asked again after five minutes."""
    gate = make()
    gate.admission.slow_down(0, 429, 86_400.0)
    gate.arrive()

    await gate.hands.forward(301.0)

    assert gate.passed == [300.0]


@pytest.mark.asyncio
async def test_after_a_pause_the_way_is_clear() -> None:
    """No clock is asked once it is over."""
    gate = make()
    gate.admission.slow_down(0, None, 10.0)
    await gate.hands.forward(11.0)
    assert not gate.admission.enter_at_once()
    await asyncio.gather(*gate.arrive())

    assert gate.admission.enter_at_once()


@pytest.mark.asyncio
async def test_the_rate_spaces_starts_evenly() -> None:
    """At 10 a second, a start each tenth of a second, however many are waiting."""
    gate = make(rate=10)

    gate.arrive(5)
    await gate.hands.forward(10.0)

    assert gate.passed == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert gate.hands.sleepers == 0


@pytest.mark.asyncio
async def test_idling_earns_no_burst() -> None:
    """Starts that nobody wanted are not made up for."""
    gate = make(rate=100)
    gate.arrive()
    await gate.hands.forward(0.015)

    gate.arrive(3)
    await gate.hands.forward(10.0)

    assert gate.passed == pytest.approx([0.0, 0.015, 0.025, 0.035])


@pytest.mark.asyncio
async def test_late_timers_do_not_lower_the_rate() -> None:
    """A timer rings some milliseconds late each time, which the next start makes up for."""
    gate = make(2000, rate=1000)
    gate.hands.late = 0.0015

    gate.arrive(1001)
    await gate.hands.forward(1.01)

    assert len(gate.passed) == 1001


@pytest.mark.parametrize("each_look", [0.0003, 0.0007, 0.0011], ids=str)
@pytest.mark.asyncio
async def test_nobody_is_forgotten_between_two_looks_at_the_clock(each_look: float) -> None:
    """The time of a start may pass at any moment: whoever waits is let in all the same."""
    gate = make(rate=1000)
    gate.hands.each_look = each_look

    gate.arrive(50)
    await gate.hands.forward(1.0)

    assert len(gate.passed) == 50


@pytest.mark.asyncio
async def test_a_long_stall_earns_no_burst() -> None:
    """What was missed while the process stood still is not made up for."""
    gate = make(rate=100)
    gate.arrive(10)
    await settled()
    gate.hands.late = 5.0
    await gate.hands.forward(0.011)
    gate.hands.late = 0.0

    await gate.hands.forward(10.0)

    assert gate.passed[:4] == pytest.approx([0.0, 0.01, 5.02, 5.03])


@pytest.mark.asyncio
async def test_the_rate_and_the_window_both_hold() -> None:
    """A slot is no use to one who finds the window full, and is not kept for him."""
    gate = make(1, rate=10)
    gate.arrive(3)
    await gate.hands.forward(5.0)
    assert gate.passed == [0.0]
    gate.admission.leave()
    await gate.hands.forward(0.05)
    gate.admission.leave()
    await gate.hands.forward(1.0)

    assert gate.passed == pytest.approx([0.0, 5.0, 5.1])


@pytest.mark.asyncio
async def test_nobody_watches_the_clock_for_nobody() -> None:
    """When the last who waited is cancelled, no task is left behind; who comes then is served."""
    gate = make(rate=0.1)
    gate.arrive()
    await settled()
    before = asyncio.all_tasks()
    tasks = gate.arrive(2)
    await settled()
    assert len(asyncio.all_tasks() - before) == 3

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await settled()
    assert asyncio.all_tasks() <= before
    gate.arrive()
    await gate.hands.forward(10.0)

    assert gate.passed == [0.0, 10.0]
    assert asyncio.all_tasks() == before - {task for task in before if task.done()}


# --- the breaker ------------------------------------------------------------------------------------------------------


def trip(admission: AdmissionControl) -> JetpayError:
    for _ in range(8):
        admission.record(NOT_SENT)
    assert admission.tripped is not None
    return admission.tripped


@pytest.mark.parametrize("outcome", [NOT_SENT, UNKNOWN], ids=["not sent", "unknown"])
@pytest.mark.asyncio
async def test_eight_in_a_row_trip_it(outcome: CaptureOutcome) -> None:
    """Eight items without the API's word on them, and nothing is started any more."""
    gate = make()
    for _ in range(7):
        gate.admission.record(outcome)
    assert gate.admission.tripped is None

    gate.admission.record(outcome)
    await asyncio.gather(*gate.arrive(3))

    assert not isinstance(outcome, Captured)
    assert gate.refused == [outcome.error] * 3
    assert gate.admission.tripped is outcome.error


@pytest.mark.parametrize("word", [CAPTURED, REFUSED], ids=["captured", "refused"])
@pytest.mark.asyncio
async def test_a_word_of_the_api_starts_the_count_anew(word: CaptureOutcome) -> None:
    """Failures among answers do not trip it, whatever the answers say."""
    admission = make().admission
    for _ in range(10):
        for _ in range(7):
            admission.record(NOT_SENT)
        admission.record(word)

    assert admission.tripped is None


@pytest.mark.asyncio
async def test_bad_items_say_nothing_about_the_api() -> None:
    """An item that can't be sent is no failure, and no sign of life."""
    admission = make().admission
    bad = ended(InvalidArgumentError("empty", field="debit_id"))
    for _ in range(7):
        admission.record(bad)
        admission.record(NOT_SENT)
    assert admission.tripped is None
    admission.record(bad)

    admission.record(NOT_SENT)

    assert admission.tripped is not None


@pytest.mark.parametrize(
    "error", [AuthenticationError("revoked", status=401), ConfigurationError("closed")], ids=["401", "configuration"]
)
@pytest.mark.asyncio
async def test_what_would_meet_every_item_trips_it_at_once(error: JetpayError) -> None:
    """A refused token is refused for all."""
    admission = make().admission

    admission.record(ended(error))

    assert admission.tripped is error


@pytest.mark.parametrize("rate", [None, 0.001], ids=["for room", "for a slot"])
@pytest.mark.asyncio
async def test_who_waits_when_it_trips_is_told(rate: float | None) -> None:
    """Nobody waits for a service that is dead, whatever they waited for, and no clock is watched any more."""
    gate = make(1, rate=rate)
    await asyncio.gather(*gate.arrive())
    if rate is not None:
        gate.admission.leave()
    tasks = gate.arrive(5)
    await settled()
    assert gate.refused == []

    error = trip(gate.admission)
    await asyncio.gather(*tasks)
    await settled()

    assert gate.refused == [error] * 5
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_who_waits_out_a_pause_when_it_trips_is_told() -> None:
    """A long pause does not keep anyone from learning that the service is dead."""
    gate = make()
    gate.admission.slow_down(0, 503, 300.0)
    tasks = gate.arrive(2)
    await settled()

    trip(gate.admission)
    await asyncio.gather(*tasks)

    assert len(gate.refused) == 2


@pytest.mark.asyncio
async def test_after_thirty_seconds_one_may_try() -> None:
    """The first who comes then is let in, the others are refused until it is known how it went."""
    gate = make()
    trip(gate.admission)
    await gate.hands.forward(29.9)
    await asyncio.gather(*gate.arrive(2))
    assert (len(gate.passed), len(gate.refused)) == (0, 2)

    await gate.hands.forward(0.1)
    await asyncio.gather(*gate.arrive(3))

    assert (len(gate.passed), len(gate.refused)) == (1, 4)
    assert gate.admission.in_flight == 1


@pytest.mark.asyncio
async def test_its_success_lets_all_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """One answer closes the breaker, and the count begins anew; the log tells both."""
    gate = make()
    with caplog.at_level(logging.WARNING, "jetpay_async"):
        trip(gate.admission)
        await gate.hands.forward(30.0)
        await asyncio.gather(*gate.arrive())
        gate.admission.record(CAPTURED)
        gate.admission.leave()
    await asyncio.gather(*gate.arrive(10))
    for _ in range(7):
        gate.admission.record(NOT_SENT)

    assert gate.admission.tripped is None
    assert len(gate.passed) == 11
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "starting nothing for 30 s, then one item to see",
        "the service answers again",
    ]


@pytest.mark.parametrize("causes", [[NOT_SENT] * 8, [ended(AuthenticationError("revoked"))]], ids=["silence", "401"])
@pytest.mark.asyncio
async def test_its_failure_means_thirty_seconds_more(causes: list[CaptureOutcome]) -> None:
    """One failure is enough while it is open."""
    gate = make()
    for outcome in causes:
        gate.admission.record(outcome)
    await gate.hands.forward(30.0)
    await asyncio.gather(*gate.arrive())
    gate.admission.record(UNKNOWN)
    gate.admission.leave()
    await gate.hands.forward(29.0)
    await asyncio.gather(*gate.arrive())
    assert (len(gate.passed), len(gate.refused)) == (1, 1)

    await gate.hands.forward(1.0)
    await asyncio.gather(*gate.arrive())

    assert len(gate.passed) == 2


@pytest.mark.asyncio
async def test_one_that_learns_nothing_makes_way_for_another() -> None:
    """If the one that was to try is cancelled, the next one tries."""
    gate = make()
    trip(gate.admission)
    await gate.hands.forward(30.0)
    slots = [Slot(gate.admission), Slot(gate.admission)]
    assert await slots[0].enter() is None
    assert await slots[1].enter() is not None
    slots[0].leave(None)

    assert await slots[1].enter() is None


@pytest.mark.asyncio
async def test_nobody_tries_during_a_pause() -> None:
    """``Retry-After`` counts for the one that is to try, too."""
    gate = make()
    gate.admission.slow_down(0, 503, 60.0)
    trip(gate.admission)
    await gate.hands.forward(59.0)
    await asyncio.gather(*gate.arrive())
    assert gate.passed == []

    await gate.hands.forward(1.0)
    await asyncio.gather(*gate.arrive())

    assert gate.passed == [60.0]


@pytest.mark.asyncio
async def test_shut_it_stays_shut() -> None:
    """Nobody gets in any more, whatever is heard of the service and however long it takes."""
    gate = make(1)
    await asyncio.gather(*gate.arrive())
    tasks = gate.arrive(2)
    await settled()
    why = NotSentError("it is over")

    gate.admission.shut(why)
    await asyncio.gather(*tasks)
    gate.admission.record(CAPTURED)
    for _ in range(9):
        gate.admission.record(NOT_SENT)
    gate.admission.leave()
    await gate.hands.forward(1e6)
    await asyncio.gather(*gate.arrive())

    assert gate.refused == [why] * 3
    assert gate.admission.tripped is why


# --- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_cancelled_wait_takes_no_turn() -> None:
    """Who is cancelled while waiting leaves his turn to the next."""
    gate = make(1)
    await asyncio.gather(*gate.arrive())
    first, second = gate.arrive(2)
    await settled()

    first.cancel()
    gate.admission.leave()
    await second

    assert first.cancelled()
    assert len(gate.passed) == 2
    assert gate.admission.in_flight == 1


@pytest.mark.asyncio
async def test_a_turn_that_comes_with_the_cancellation_is_passed_on() -> None:
    """Who is cancelled in the very step in which his turn comes does not keep it."""
    gate = make(1)
    await asyncio.gather(*gate.arrive())
    first, second = gate.arrive(2)
    await settled()

    gate.admission.leave()
    first.cancel()
    await second

    assert first.cancelled()
    assert len(gate.passed) == 2
    assert gate.admission.in_flight == 1


@pytest.mark.parametrize("cancel_first", [True, False], ids=["cancelled, then tripped", "tripped, then cancelled"])
@pytest.mark.asyncio
async def test_cancelled_and_tripped_at_once(cancel_first: bool) -> None:
    """A cancellation is never swallowed, and no turn is counted."""
    gate = make(1)
    await asyncio.gather(*gate.arrive())
    (task,) = gate.arrive()
    await settled()

    if cancel_first:
        task.cancel()
    trip(gate.admission)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert gate.admission.in_flight == 1


@pytest.mark.asyncio
async def test_a_turn_is_not_given_to_one_who_was_just_cancelled() -> None:
    """A turn that comes free between a cancellation and its arrival goes to the next."""
    gate = make(1)
    await asyncio.gather(*gate.arrive())
    first, second = gate.arrive(2)
    await settled()

    first.cancel()
    gate.admission.leave()
    assert gate.admission.in_flight == 1
    await second

    assert math.isclose(gate.admission.window, 1)
