"""A guard by itself: what it lets leave, what it cuts off, and who watches the time of many requests at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest

from jetpay_async._core.clock import Clock
from jetpay_async._core.connection_reset import SharedConnections
from jetpay_async._core.send_guard import PreSendCheck, ReadGuard, ResponseTimer, SendGuard


@attrs.define(eq=False)
class Handle:
    """A timer of the loop."""

    when: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@attrs.define
class FakeLoop:
    """An event loop's time, which passes when a test says so."""

    now: float = 0.0
    handles: list[Handle] = attrs.Factory(list)

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        self.handles.append(Handle(self.now + delay, callback))
        return self.handles[-1]

    def run_until(self, now: float) -> None:
        """Let time pass, calling what becomes due on the way."""
        while due := [handle for handle in self.handles if not handle.cancelled and handle.when <= now]:
            first = min(due, key=lambda handle: handle.when)
            self.handles.remove(first)
            self.now = first.when
            first.callback()
        self.now = now


@attrs.define(eq=False)
class FakeTransport:
    """As much of a connection as a guard touches; it has no socket."""

    closing: bool = False
    aborted: int = 0
    loop_closed: bool = False

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        if self.loop_closed:
            raise RuntimeError("Event loop is closed")
        self.aborted += 1

    def get_extra_info(self, name: str) -> object:
        assert name == "socket"


def make_guard(
    loop: FakeLoop | None = None,
    *,
    timer: ResponseTimer | None = None,
    deadline: float = math.inf,
    response_timeout: float = math.inf,
    pre_send_check: PreSendCheck | None = None,
) -> SendGuard:
    loop = loop or FakeLoop()
    guard = SendGuard(deadline, Clock(monotonic=loop.time), response_timeout, pre_send_check)
    guard.attach(timer, SharedConnections(7.0))
    return guard


def make_timer(loop: FakeLoop) -> ResponseTimer:
    return ResponseTimer(cast("Any", loop))


def begin(guard: SendGuard, transport: FakeTransport | None = None) -> SendGuard:
    guard.begin(cast("Any", transport))
    return guard


NOT_LEAVING: dict[str, tuple[dict[str, Any], bool, str]] = {
    "at the deadline": ({"deadline": 0.0}, False, "the deadline had passed before anything left"),
    "on a connection that closes": ({}, True, "the connection was lost before anything left"),
    "by its check": ({"pre_send_check": lambda: "the lease has lapsed"}, False, "the lease has lapsed"),
}


@pytest.mark.parametrize(("options", "closing", "reason"), NOT_LEAVING.values(), ids=NOT_LEAVING)
def test_what_may_not_leave_does_not_begin(options: dict[str, Any], closing: bool, reason: str) -> None:
    """A refusal is raised in place of sending, says why, and leaves the request as never sent."""
    guard = make_guard(**options)

    with pytest.raises(Exception, match=reason):
        begin(guard, FakeTransport(closing=closing))

    assert guard.refusal == reason
    assert not guard.started
    assert guard.seal() is False


def test_a_check_that_finds_nothing_lets_it_leave() -> None:
    """The check is asked at the moment of sending; None means that the request may leave."""
    assert begin(make_guard(pre_send_check=lambda: None)).started


def test_it_leaves_once() -> None:
    """A second attempt to send is refused, and the first one's time stays."""
    loop = FakeLoop(now=5.0)
    guard = begin(make_guard(loop))
    loop.now = 6.0

    with pytest.raises(Exception, match="a second time"):
        begin(guard)

    assert guard.started_at == 5.0
    assert guard.refusal == "it was to be sent a second time"


def test_what_was_sealed_does_not_leave() -> None:
    """Once it was said that nothing left, nothing leaves."""
    guard = make_guard()
    assert guard.seal() is False

    with pytest.raises(Exception, match="after it had been given up"):
        begin(guard)

    assert not guard.started


def test_the_response_is_given_up_at_the_deadline_at_the_latest() -> None:
    """The response may take its share of the time, but not longer than the call."""
    loop = FakeLoop(now=8.0)
    guard = begin(make_guard(loop, timer=make_timer(loop), deadline=10.0, response_timeout=5.0))

    assert guard.response_timeout == 2.0
    loop.run_until(10.0)
    assert guard.refusal == "no whole response within 2 s"


def test_what_is_given_up_or_sealed_is_aborted_once() -> None:
    """However often it is ended, the connection is aborted once: by then another request may have it."""
    loop = FakeLoop()
    timer = make_timer(loop)
    given_up, sealed = FakeTransport(), FakeTransport()
    first = begin(make_guard(loop, timer=timer, response_timeout=1.0), given_up)
    second = begin(make_guard(loop, timer=timer, response_timeout=1.0), sealed)

    assert second.seal() is True
    loop.run_until(2.0)
    first.abort()
    assert (first.seal(), second.seal()) == (True, True)

    assert (given_up.aborted, sealed.aborted) == (1, 1)
    assert (first.refusal, second.refusal) == ("no whole response within 1 s", None)


def test_a_whole_response_leaves_the_connection_open() -> None:
    """What is complete is neither aborted nor given up, whatever comes later."""
    loop = FakeLoop()
    transport = FakeTransport()
    guard = begin(make_guard(loop, timer=make_timer(loop), response_timeout=1.0), transport)

    guard.complete()
    loop.run_until(9.0)
    guard.abort()
    assert guard.seal() is True

    assert (transport.aborted, guard.refusal) == (0, None)


def test_a_connection_that_was_given_back_is_not_aborted() -> None:
    """A middleware may dawdle over a whole response while another request uses the connection."""
    transport = FakeTransport()
    guard = make_guard()
    guard.share_connection(lambda: False)

    begin(guard, transport).give_up()
    assert guard.seal() is True

    assert transport.aborted == 0


def test_a_connection_that_is_still_held_is_aborted() -> None:
    """Until then it is the request's own."""
    transport = FakeTransport()
    guard = make_guard()
    guard.share_connection(lambda: True)

    begin(guard, transport).give_up()

    assert transport.aborted == 1


def test_a_closed_loop_is_no_fault() -> None:
    """What is collected after its event loop was closed can't abort, and raises nothing."""
    guard = begin(make_guard(), FakeTransport(loop_closed=True))

    assert guard.seal() is True


def test_a_transport_without_sockets_times_the_response_itself() -> None:
    """A simulated transport attaches nothing; a guard then only decides."""
    guard = SendGuard(10.0, Clock(monotonic=lambda: 8.0), 5.0)

    begin(guard, None)
    assert (guard.started_at, guard.response_timeout, guard.direct) == (8.0, 2.0, False)
    guard.complete()

    sealed = begin(SendGuard(10.0, Clock(monotonic=lambda: 8.0), 5.0), transport := FakeTransport())
    assert sealed.seal() is True
    assert transport.aborted == 1


def test_a_connection_that_can_not_be_reset_is_not_direct() -> None:
    """Where no socket can be reached, only the long time holds."""
    guard = make_guard()
    guard.direct = True

    begin(guard, FakeTransport())

    assert guard.direct is False


def test_each_is_given_up_in_its_own_time() -> None:
    """One timer serves all, also those that begin later, and those that may take less time than what is under way."""
    loop = FakeLoop()
    timer = make_timer(loop)
    first, long, short = (
        begin(make_guard(loop, timer=timer, response_timeout=seconds)) for seconds in (2.0, 20.0, 2.0)
    )
    assert len(loop.handles) == 2

    loop.run_until(10.0)
    assert [guard.refusal for guard in (first, short, long)] == [
        "no whole response within 2 s",
        "no whole response within 2 s",
        None,
    ]
    loop.run_until(20.0)
    assert long.refusal == "no whole response within 20 s"
    assert loop.handles == []


def test_what_has_ended_is_not_given_up() -> None:
    """The timer of a request that ended is stopped, and what began after it keeps its own time."""
    loop = FakeLoop()
    timer = make_timer(loop)
    first, long, short = (begin(make_guard(loop, timer=timer, response_timeout=seconds)) for seconds in (2.0, 4.0, 2.0))
    first.complete()
    long.seal()
    short.seal()
    late = begin(make_guard(loop, timer=timer, response_timeout=5.0))

    loop.run_until(10.0)

    assert (first.refusal, long.refusal, short.refusal) == (None, None, None)
    assert late.refusal == "no whole response within 5 s"


def test_a_read_keeps_the_first_time_at_which_it_left() -> None:
    """aiohttp may send a read twice; what it says is then no newer than the first time."""
    loop = FakeLoop(now=3.0)
    guard = ReadGuard(Clock(monotonic=loop.time))
    assert not guard.started

    guard.begin(None)
    loop.now = 4.0
    guard.begin(None)

    assert guard.started
    assert guard.started_at == 3.0


def test_a_guard_without_a_reset_gives_its_connection_back() -> None:
    """A transport that has no sockets to reset attaches none; a whole response leaves the connection alone."""
    connection = FakeTransport()
    guard = SendGuard(math.inf, Clock(monotonic=lambda: 1.0))

    guard.begin(cast("Any", connection))
    guard.complete()
    guard.abort()

    assert guard.started_at == 1.0
    assert connection.aborted == 0
