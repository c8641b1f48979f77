"""When the next item may start, on a clock that is moved by hand."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from jetpay_async._batch.rate_limit import Pacer
from tests.batch.fakes import FakeClock, run_ready_tasks


@attrs.define
class Starter:
    """Starts items as soon as the pacer allows, and notes when."""

    fake: FakeClock
    pacer: Pacer
    waiting: int = 0
    starts: list[float] = attrs.Factory(list)

    def request(self, count: int = 1) -> None:
        self.waiting += count
        self.admit()

    def admit(self) -> bool:
        while self.waiting:
            if not self.pacer.try_start():
                self.pacer.schedule(self.admit)
                return True
            self.waiting -= 1
            self.starts.append(self.fake.now - 1000.0)
        return False


def make(rate: float | None = None) -> Starter:
    fake = FakeClock()
    return Starter(fake, Pacer(rate, fake.clock))


@pytest.mark.asyncio
async def test_without_a_rate_any_number_may_start_at_once() -> None:
    """Nothing is timed, and the clock need not be read."""
    starter = make()

    starter.request(1000)

    assert starter.starts == [0.0] * 1000
    assert starter.pacer.unrestricted
    assert starter.fake.sleepers == 0


@pytest.mark.asyncio
async def test_the_rate_spaces_starts_evenly() -> None:
    """At 10 a second, a start each tenth of a second, however many are waiting."""
    starter = make(rate=10)

    starter.request(5)
    await starter.fake.forward(10.0)

    assert starter.starts == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert starter.fake.sleepers == 0
    assert not starter.pacer.unrestricted


@pytest.mark.asyncio
async def test_idling_earns_no_burst() -> None:
    """Starts that nobody wanted are not made up for."""
    starter = make(rate=100)
    starter.request()
    await starter.fake.forward(0.015)

    starter.request(3)
    await starter.fake.forward(10.0)

    assert starter.starts == pytest.approx([0.0, 0.015, 0.025, 0.035])


@pytest.mark.asyncio
async def test_late_timers_do_not_lower_the_rate() -> None:
    """A timer rings some milliseconds late each time, which the next start makes up for."""
    starter = make(rate=1000)
    starter.fake.late = 0.0015

    starter.request(1001)
    await starter.fake.forward(1.01)

    assert len(starter.starts) == 1001


@pytest.mark.asyncio
async def test_a_long_stall_earns_no_burst() -> None:
    """What was missed while the process stood still is not made up for."""
    starter = make(rate=100)
    starter.request(10)
    await run_ready_tasks()
    starter.fake.late = 5.0
    await starter.fake.forward(0.011)
    starter.fake.late = 0.0

    await starter.fake.forward(10.0)

    assert starter.starts[:4] == pytest.approx([0.0, 0.01, 5.02, 5.03])


@pytest.mark.parametrize("each_read", [0.0003, 0.0007, 0.0011], ids=str)
@pytest.mark.asyncio
async def test_nobody_is_forgotten_between_two_reads_of_the_clock(each_read: float) -> None:
    """The time of a start may pass at any moment: whoever waits is started all the same."""
    starter = make(rate=1000)
    starter.fake.each_read = each_read

    starter.request(50)
    await starter.fake.forward(1.0)

    assert len(starter.starts) == 50


@pytest.mark.asyncio
async def test_a_pause_holds_back_every_start() -> None:
    """Nothing starts until its end, neither what waits already nor what comes; then all start at once."""
    starter = make()
    assert starter.pacer.pause(30.0) == 30.0
    starter.request(3)
    await starter.fake.forward(29.9)
    assert starter.starts == []
    starter.request(2)

    await starter.fake.forward(0.2)

    assert starter.starts == [30.0] * 5
    assert starter.fake.sleepers == 0


@pytest.mark.asyncio
async def test_of_several_pauses_the_latest_end_counts() -> None:
    """A longer pause replaces a shorter one, also while somebody waits for the end of that."""
    starter = make()
    starter.pacer.pause(10.0)
    starter.request()
    await run_ready_tasks()

    starter.pacer.pause(25.0)
    starter.pacer.pause(5.0)
    await starter.fake.forward(100.0)

    assert starter.starts == [25.0]


@pytest.mark.asyncio
async def test_a_pause_does_not_last_for_ever() -> None:
    """A pause of a day is most likely a mistake: it ends after five minutes."""
    starter = make()
    assert starter.pacer.pause(86_400.0) == 300.0
    starter.request()

    await starter.fake.forward(301.0)

    assert starter.starts == [300.0]


@pytest.mark.asyncio
async def test_after_a_pause_the_clock_need_not_be_read() -> None:
    """The first start after it makes the pacer unrestricted again."""
    starter = make()
    starter.pacer.pause(10.0)
    assert not starter.pacer.unrestricted

    await starter.fake.forward(11.0)
    starter.request()

    assert starter.pacer.unrestricted


@pytest.mark.asyncio
async def test_cancelled_it_leaves_no_timer_behind() -> None:
    """Its task ends; scheduled again, it serves those who wait then."""
    starter = make(rate=0.1)
    starter.request(2)
    await run_ready_tasks()
    assert len(asyncio.all_tasks()) == 2

    starter.pacer.cancel()
    starter.pacer.cancel()
    await run_ready_tasks()
    assert len(asyncio.all_tasks()) == 1
    starter.admit()
    await starter.fake.forward(10.0)

    assert starter.starts == [0.0, 10.0]
