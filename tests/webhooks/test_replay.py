"""Gaps are closed: a replay is asked for when missing events don't come, and no more often than it helps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks.replay import MissingEventReplay
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox
from tests.webhooks.inboxes import Plain, handle
from tests.webhooks.receivers import TOKEN, Shop, delivery_of, receiver_for
from tests.webhooks.receiving import FakeClock, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async.webhooks.inbox import EventInbox


class Jetpay:
    """Delivers again what it is asked for, as far as a test says."""

    def __init__(self, inbox: MemoryInbox) -> None:
        self.inbox = inbox
        self.asked: list[int] = []
        self.brings: list[list[int]] = []
        self.error: BaseException | None = None

    async def replay(self, event_id: int) -> None:
        self.asked.append(event_id)
        if self.error is not None:
            raise self.error
        for one in self.brings.pop(0) if self.brings else []:
            await handle(self.inbox, one)


@pytest.fixture
def jetpay(inbox: MemoryInbox) -> Jetpay:
    return Jetpay(inbox)


@pytest.fixture
def gap(inbox: MemoryInbox, jetpay: Jetpay, time: FakeClock) -> MissingEventReplay:
    return MissingEventReplay(inbox, jetpay.replay, wait=10.0, clock=time.clock)


def ended(gap: MissingEventReplay) -> Callable[[], bool]:
    return lambda: gap._task is not None and gap._task.done()


@pytest.mark.asyncio
async def test_a_receiver_closes_a_gap(shop: Shop, inbox: MemoryInbox, jetpay: Jetpay, time: FakeClock) -> None:
    """What is missing is asked for from the first missing id, and once it is there nothing more is asked."""
    jetpay.brings = [[2, 3]]
    async with MissingEventReplay(inbox, jetpay.replay, clock=time.clock) as gap:
        receiver = receiver_for(shop, inbox, on_missing_events=gap)
        for event_id in (1, 4):
            await receiver.receive(delivery_of(event_id), TOKEN)
        await until(ended(gap))

    assert jetpay.asked == [2]
    assert await inbox.last_contiguous_event_id() == 4


@pytest.mark.asyncio
async def test_late_events_need_no_replay(inbox: MemoryInbox, jetpay: Jetpay, gap: MissingEventReplay) -> None:
    """Events that arrive by themselves in time are not asked for."""
    await handle(inbox, 1, 4)
    await gap(2, 3)
    await handle(inbox, 2, 3)
    await until(ended(gap))

    assert jetpay.asked == []


@pytest.mark.asyncio
async def test_a_part_is_progress(
    inbox: MemoryInbox, jetpay: Jetpay, gap: MissingEventReplay, time: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as replays bring something the next goes on from there; after three that bring nothing it is reported."""
    began = time.now
    await handle(inbox, 1, 9)
    jetpay.brings = [[], [], [2], []]
    await gap(2, 4)
    await gap(6, 8)
    await until(ended(gap))

    assert jetpay.asked == [2, 2, 2, 3, 3, 3]
    assert time.now - began == 70
    assert "events 3 to 8 have not arrived after 3 replays" in caplog.text


@pytest.mark.asyncio
async def test_another_gap_is_closed_anew(inbox: MemoryInbox, jetpay: Jetpay, gap: MissingEventReplay) -> None:
    """After it has given up, or is done, the next missing event starts it again."""
    await handle(inbox, 1, 3)
    await gap(2, 2)
    await until(ended(gap))
    await handle(inbox, 2, 5)
    jetpay.asked.clear()
    jetpay.brings = [[4]]
    await gap(4, 4)
    await until(ended(gap))

    assert jetpay.asked == [4]


@pytest.mark.parametrize("error", [ConnectionError("refused"), asyncio.CancelledError()], ids=["error", "cancelled"])
@pytest.mark.asyncio
async def test_a_replay_that_fails_is_tried_again(
    inbox: MemoryInbox, jetpay: Jetpay, gap: MissingEventReplay, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """What the callable raises is logged, and counts as a replay that brought nothing."""
    await handle(inbox, 1, 3)
    jetpay.error = error
    await gap(2, 2)
    await until(ended(gap))

    assert jetpay.asked == [2, 2, 2]
    assert "the replay from event 2 failed" in caplog.text


@pytest.mark.asyncio
async def test_what_can_t_be_handled_is_not_missing(shop: Shop, any_inbox: EventInbox, time: FakeClock) -> None:
    """An event that keeps failing is tried again by other means; below and above it no replay is asked for."""
    asked: list[int] = []

    async def replay(event_id: int) -> None:
        asked.append(event_id)
        await receiver.receive(delivery_of(4), TOKEN)

    shop.failing = {2}
    async with MissingEventReplay(any_inbox, replay, clock=time.clock) as gap:
        receiver = receiver_for(shop, any_inbox, on_missing_events=gap)
        for delivery in (delivery_of(1), delivery_of(2, 3), delivery_of(5, 6)):
            await receiver.receive(delivery, TOKEN)
        await until(ended(gap))

    assert asked == [4]
    assert await any_inbox.last_contiguous_event_id() == 1


@pytest.mark.asyncio
async def test_an_older_gap_is_not_asked_for_again(inbox: MemoryInbox, jetpay: Jetpay, gap: MissingEventReplay) -> None:
    """What is missing for good below the events that were reported is neither asked for nor in the way."""
    await handle(inbox, 1, 5, 7)
    jetpay.brings = [[], [6]]
    await gap(6, 6)
    await until(ended(gap))

    assert jetpay.asked == [6, 6]


@pytest.mark.asyncio
async def test_an_inbox_that_does_not_know_what_arrived(inbox: MemoryInbox, jetpay: Jetpay, time: FakeClock) -> None:
    """With an inbox of somebody's own, what is not handled counts as missing, whether nothing is or something."""
    gap = MissingEventReplay(Plain(inbox), jetpay.replay, wait=10.0, clock=time.clock)
    jetpay.brings = [[1], [2, 3]]
    await gap(1, 3)
    await until(ended(gap))

    assert jetpay.asked == [1, 2]


@pytest.mark.parametrize("error", [ConnectionError("away"), asyncio.CancelledError()], ids=["error", "cancelled"])
@pytest.mark.asyncio
async def test_an_inbox_that_fails_is_read_again(
    jetpay: Jetpay,
    gap: MissingEventReplay,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    """While the inbox can't say what is missing, what was reported counts as missing."""

    async def fail(_: int) -> int | None:
        raise error

    monkeypatch.setattr(jetpay.inbox, "first_missing_event_id", fail)
    await gap(2, 2)
    await until(ended(gap))

    assert jetpay.asked == [2, 2, 2]
    assert "the inbox failed" in caplog.text


@pytest.mark.parametrize("where", ["waiting", "inbox", "replay"])
@pytest.mark.asyncio
async def test_closing_ends_it(
    inbox: MemoryInbox, where: str, monkeypatch: pytest.MonkeyPatch, time: FakeClock
) -> None:
    """A closed one asks for nothing more, wherever it was; closing it again does nothing."""
    reached = asyncio.Event()

    async def hang(*_: object) -> int:
        reached.set()
        await asyncio.Event().wait()
        return 0

    if where == "inbox":
        monkeypatch.setattr(inbox, "first_missing_event_id", hang)
    await handle(inbox, 1, 3)
    gap = MissingEventReplay(inbox, hang, **({} if where == "waiting" else {"clock": time.clock}))
    await gap(2, 2)
    task = gap._task
    assert task is not None
    if where != "waiting":
        await reached.wait()
    await gap.aclose()
    await gap.aclose()

    assert task.cancelled()


@pytest.mark.parametrize("options", [{"wait": 0}, {"max_replays": 0}], ids=str)
def test_numbers_that_are_rejected(inbox: MemoryInbox, jetpay: Jetpay, options: dict[str, float]) -> None:
    """What would ask without end, or never, is rejected."""
    with pytest.raises(InvalidArgumentError):
        MissingEventReplay(inbox, jetpay.replay, **options)  # type: ignore[arg-type] # by name
