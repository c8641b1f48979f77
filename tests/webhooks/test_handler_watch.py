"""The one timer by which the handlers of a receiver are cancelled, logged, and left behind."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from jetpay_async.webhooks._handler_watch import HandlerRun, HandlerWatch
from jetpay_async.webhooks._time_limits import Alarm, SharedTimer, TimeLimit
from tests.webhooks.receiving import event

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context


class FakeLoop:
    """A loop whose time a test moves, and which holds one timer at most."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.timers: dict[FakeTimer, Callable[[], None]] = {}

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None], *, context: Context) -> FakeTimer:
        timer = FakeTimer(self, when)
        self.timers[timer] = partial(context.run, callback)
        assert len(self.timers) == 1
        return timer

    def move_to(self, now: float) -> None:
        """Go on to a time, and call what is due on the way."""
        while self.timers and min(timer.when() for timer in self.timers) <= now:
            ((timer, callback),) = self.timers.items()
            self.now = timer.when()
            del self.timers[timer]
            callback()
        self.now = now


class FakeTimer:
    def __init__(self, loop: FakeLoop, when: float) -> None:
        self._loop = loop
        self._when = when

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self._loop.timers.pop(self, None)


class FakeTask:
    """Notes when it is cancelled."""

    def __init__(self, loop: FakeLoop) -> None:
        self._loop = loop
        self.cancelled_at: list[float] = []

    def cancel(self) -> None:
        self.cancelled_at.append(self._loop.now)

    def cancelling(self) -> int:
        return len(self.cancelled_at)

    def uncancel(self) -> int:
        return 0


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def timer(loop: FakeLoop) -> SharedTimer:
    return SharedTimer(cast("asyncio.AbstractEventLoop", loop))


@pytest.fixture
def watching(timer: SharedTimer) -> Callable[..., HandlerWatch]:
    """Make a watch by the time of the loop."""

    def make(timeout: float | None = None, on_slow: Callable[[], None] | None = None) -> HandlerWatch:
        return HandlerWatch(timeout, on_slow, timer)

    return make


def start(watch: HandlerWatch, event_id: int) -> HandlerRun:
    loop = cast("FakeLoop", watch.timer.loop)
    run = HandlerRun(watch, event(event_id), cast("asyncio.Task[Any]", FakeTask(loop)))
    run.__enter__()
    return run


def end(run: HandlerRun) -> None:
    run.__exit__(None, None, None)


def cancelled_at(run: HandlerRun) -> list[float]:
    return cast("FakeTask", run._task).cancelled_at


class Noting(Alarm):
    """Notes when it rings."""

    def __init__(self, loop: FakeLoop, when: float) -> None:
        self._loop = loop
        self.when = when
        self.rang: list[float] = []

    def ring(self) -> None:
        self.rang.append(self._loop.now)


def test_each_is_cancelled_in_its_own_time(loop: FakeLoop, watching: Callable[..., HandlerWatch]) -> None:
    """However many handlers run, there is one timer, and each of them has its time from its own start."""
    watch = watching(10.0)
    one = start(watch, 1)
    loop.move_to(1_003.0)
    two, three = start(watch, 2), start(watch, 3)
    loop.move_to(1_004.0)
    end(two)
    loop.move_to(1_020.0)

    assert (cancelled_at(one), cancelled_at(two), cancelled_at(three)) == ([1_010.0], [], [1_013.0])


def test_a_long_run_is_logged_again_and_again(
    loop: FakeLoop, watching: Callable[..., HandlerWatch], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged before its limit, and, if it ignores its cancellation, every 30 s after it."""
    watch = watching(10.0)
    start(watch, 1)
    loop.move_to(1_080.0)

    assert caplog.messages == [
        "the handler of event 1 (transactions.debits.created) is still running after 5 s",
        "the handler of event 1 (transactions.debits.created) ignores its cancellation, after 35 s",
        "the handler of event 1 (transactions.debits.created) ignores its cancellation, after 65 s",
    ]


def test_without_a_limit_it_is_only_logged(
    loop: FakeLoop, watching: Callable[..., HandlerWatch], caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that may run for ever is logged every 30 s, and never cancelled."""
    watch = watching()
    run = start(watch, 1)
    loop.move_to(1_061.0)

    assert [message.split(") ")[1] for message in caplog.messages] == [
        "is still running after 30 s",
        "is still running after 60 s",
    ]
    assert cancelled_at(run) == []


def test_a_slow_one_is_reported_once(loop: FakeLoop, watching: Callable[..., HandlerWatch]) -> None:
    """Each handler that has run for five seconds is reported then, and not again."""
    slow: list[float] = []
    watch = watching(60.0, lambda: slow.append(loop.now))
    start(watch, 1)
    loop.move_to(1_002.0)
    start(watch, 2)
    loop.move_to(1_059.0)

    assert slow == [1_005.0, 1_007.0]


def test_when_nothing_runs_there_is_no_timer(loop: FakeLoop, watching: Callable[..., HandlerWatch]) -> None:
    """The timer of handlers that have ended runs out once, and another handler sets another one."""
    watch = watching(10.0)
    end(start(watch, 1))
    loop.move_to(1_006.0)
    assert loop.timers == {}
    last = start(watch, 2)
    loop.move_to(1_017.0)

    assert cancelled_at(last) == [1_016.0]


def test_what_is_logged_is_logged_in_the_context_of_its_delivery(
    loop: FakeLoop, watching: Callable[..., HandlerWatch], caplog: pytest.LogCaptureFixture
) -> None:
    """A filter of the log that reads a context variable finds what the delivery has set, not another one."""
    request: ContextVar[str] = ContextVar("request")
    found: list[str] = []

    class Filter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            found.append(request.get("none"))
            return True

    caplog.handler.addFilter(noting := Filter())
    for name in ("first", "second"):
        token = request.set(name)
        start(watching(), len(name))
        request.reset(token)
    loop.move_to(1_031.0)
    caplog.handler.removeFilter(noting)

    assert found == ["first", "second"]


def test_an_alarm_that_is_earlier_rings_earlier(loop: FakeLoop, timer: SharedTimer) -> None:
    """The one timer is moved forward for what is due before all others, and each alarm rings once."""
    alarms = [Noting(loop, when) for when in (1_009.0, 1_003.0, 1_006.0)]
    for alarm in alarms:
        timer.start(alarm)
    timer.stop(alarms[2])
    timer.stop(alarms[2])
    loop.move_to(1_020.0)

    assert [alarm.rang for alarm in alarms] == [[1_009.0], [1_003.0], []]
    assert loop.timers == {}


def test_an_alarm_may_stop_another(loop: FakeLoop, timer: SharedTimer) -> None:
    """What is due at the same moment, and is stopped by what rings first, does not ring."""
    second = Noting(loop, 1_001.0)

    class Stopping(Noting):
        def ring(self) -> None:
            super().ring()
            timer.stop(second)

    first = Stopping(loop, 1_001.0)
    timer.start(first)
    timer.start(second)
    loop.move_to(1_002.0)

    assert (first.rang, second.rang) == ([1_001.0], [])


def test_an_alarm_may_start_another(loop: FakeLoop, timer: SharedTimer) -> None:
    """What is started while the timer rings is not forgotten, whether it or another one is due first."""
    later, soon, long_before = Noting(loop, 1_009.0), Noting(loop, 1_005.0), Noting(loop, 1_002.0)

    class Starting(Noting):
        def ring(self) -> None:
            timer.start(soon)
            timer.start(long_before)

    timer.start(Starting(loop, 1_001.0))
    timer.start(later)
    loop.move_to(1_020.0)

    assert (long_before.rang, soon.rang, later.rang) == ([1_002.0], [1_005.0], [1_009.0])


def test_an_alarm_that_fails_does_not_silence_the_others(loop: FakeLoop, timer: SharedTimer) -> None:
    """All limits of a receiver share the timer, so it goes on whatever one of them raises."""
    due, later = Noting(loop, 1_001.0), Noting(loop, 1_009.0)

    class Failing(Noting):
        def ring(self) -> None:
            raise ZeroDivisionError

    for alarm in (Failing(loop, 1_001.0), due, later):
        timer.start(alarm)
    with pytest.raises(ZeroDivisionError):
        loop.move_to(1_020.0)
    loop.move_to(1_020.0)

    assert (due.rang, later.rang) == ([1_001.0], [1_009.0])


@pytest.mark.asyncio
async def test_a_limit_is_left_as_asyncio_leaves_its_own() -> None:
    """Only the block that was cancelled by the limit ends in a TimeoutError; an error of its own goes on."""
    timer = SharedTimer(asyncio.get_running_loop())
    task = asyncio.current_task()
    assert task is not None

    def limit(seconds: float) -> TimeLimit:
        made = TimeLimit(task, timer)
        made.when = timer.loop.time() + seconds
        return made

    with pytest.raises(TimeoutError), limit(0.0):
        await asyncio.Event().wait()
    with pytest.raises(ZeroDivisionError), limit(0.0):
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError
    with limit(60.0) as quick:
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        with limit(0.0) as expired:
            task.cancel()
            expired.expire()
            await asyncio.sleep(0)

    assert not quick.expired
    assert task.uncancel() == 0
