"""The one timer by which the handlers of a delivery are cancelled, logged, and left behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from jetpay_async.webhooks._handler_watch import HandlerRun, HandlerWatch
from tests.webhooks.receiving import event

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeLoop:
    """A loop whose time a test moves, and which holds one timer at most."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.timers: dict[FakeTimer, Callable[[], None]] = {}

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self, when)
        self.timers[timer] = callback
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


class FakeLimit:
    """Notes when it would cancel the handler."""

    def __init__(self) -> None:
        self.expired_at: list[float] = []

    def reschedule(self, when: float) -> None:
        self.expired_at.append(when)


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def watching(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> Callable[..., HandlerWatch]:
    """Make a watch by the time of the loop."""

    def make(timeout: float | None = None, on_slow: Callable[[], None] | None = None) -> HandlerWatch:
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "get_running_loop", lambda: loop)
            return HandlerWatch(timeout, on_slow)

    return make


def start(watch: HandlerWatch, event_id: int) -> HandlerRun:
    run = HandlerRun(event(event_id))
    run.limit = cast("asyncio.Timeout", FakeLimit())
    watch.start(run)
    return run


def expired_at(run: HandlerRun) -> list[float]:
    limit: Any = run.limit
    return cast("FakeLimit", limit).expired_at


def test_each_is_cancelled_in_its_own_time(loop: FakeLoop, watching: Callable[..., HandlerWatch]) -> None:
    """However many handlers run, there is one timer, and each of them has its time from its own start."""
    watch = watching(10.0)
    one = start(watch, 1)
    loop.move_to(1_003.0)
    two, three = start(watch, 2), start(watch, 3)
    loop.move_to(1_004.0)
    watch.end(two)
    loop.move_to(1_020.0)

    assert (expired_at(one), expired_at(two), expired_at(three)) == ([1_010.0], [], [1_013.0])


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
    assert expired_at(run) == []


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
    watch.end(start(watch, 1))
    loop.move_to(1_006.0)
    assert loop.timers == {}
    last = start(watch, 2)
    loop.move_to(1_017.0)

    assert expired_at(last) == [1_016.0]


def test_closing_cancels_the_timer(loop: FakeLoop, watching: Callable[..., HandlerWatch]) -> None:
    """Nothing is left in the loop after a delivery, also if no handler ran."""
    watch = watching(10.0)
    watch.close()
    start(watch, 1)
    watch.close()

    assert loop.timers == {}
