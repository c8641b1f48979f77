"""Marks in groups: one commit for several events, within a stated time, and never after the answer."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks import _dispatch, _mark_group
from jetpay_async.webhooks.inbox import GroupedMarksInbox
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from tests.webhooks.receivers import TOKEN, Shop, delivery_of, receiver_for
from tests.webhooks.receiving import body_of, document, events, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from jetpay_async.webhooks.events import Event
    from jetpay_async.webhooks.inbox import Leased

LONG_SECONDS = 7.0
"""Longer than any of these tests, and no more than a quarter of a lease."""


class CountingInbox(MemoryInbox):
    """Counts the commits that mark; fails, or waits, where a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[list[int]] = []
        self.error: BaseException | None = None
        self.gate: asyncio.Event | None = None
        self.marking = asyncio.Event()

    async def mark(self, events: Sequence[Event], *, owner: str) -> frozenset[int]:
        self.groups.append([event.id for event in events])
        self.marking.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await super().mark(events, owner=owner)


@pytest.fixture
def counting() -> CountingInbox:
    return CountingInbox()


async def handled(inbox: MemoryInbox | SqliteInbox, *event_ids: int) -> frozenset[int]:
    return (await inbox.lease(events(*event_ids), owner="somebody else", seconds=0.001)).handled


@pytest.mark.asyncio
async def test_one_commit_for_a_delivery(shop: Shop, counting: CountingInbox) -> None:
    """The events of quick handlers are marked together, before the answer."""
    receiver = receiver_for(shop, counting, mark_within=LONG_SECONDS)
    response = await receiver.receive(delivery_of(*range(1, 101)), TOKEN)

    assert (response.status, response.handled, response.left) == (200, 100, 0)
    assert counting.groups == [list(range(1, 101))]
    assert len(await handled(counting, *range(1, 101))) == 100


@pytest.mark.asyncio
async def test_a_commit_takes_what_has_ended_meanwhile(shop: Shop, counting: CountingInbox) -> None:
    """Without a time, the first mark is written at once, and what ends while it is written shares the next commit."""
    shop.gates = {2: asyncio.Event(), 5: asyncio.Event()}
    counting.gate = asyncio.Event()
    receiving = asyncio.create_task(receiver_for(shop, counting).receive(delivery_of(*range(1, 6)), TOKEN))
    await counting.marking.wait()
    shop.gates[2].set()
    await shop.started(5)
    counting.gate.set()
    await until(lambda: len(counting.groups) == 2)
    shop.gates[5].set()

    assert (await receiving).handled == 5
    assert counting.groups == [[1], [2, 3, 4], [5]]


@pytest.mark.asyncio
async def test_each_is_marked_before_the_next_if_that_is_asked_for(shop: Shop, counting: CountingInbox) -> None:
    """With None no handler starts before the last one's event is marked."""
    shop.gates = {2: asyncio.Event()}
    receiving = asyncio.create_task(receiver_for(shop, counting, mark_within=None).receive(delivery_of(1, 2), TOKEN))
    await shop.started(2)
    marked = await handled(counting, 1, 2)
    shop.gates[2].set()

    assert marked == {1}
    assert (await receiving).handled == 2
    assert counting.groups == []


@pytest.mark.asyncio
@pytest.mark.parametrize("within", [0.0, LONG_SECONDS])
async def test_events_of_a_transaction_are_marked_one_before_the_other(
    shop: Shop, counting: CountingInbox, within: float
) -> None:
    """A crash lets no event be handled again after a later one of its transaction."""
    body = body_of(document(event_id, transaction=name) for event_id, name in enumerate("abbca", start=1))
    response = await receiver_for(shop, counting, mark_within=within).receive(body, TOKEN)

    assert response.handled == 5
    assert counting.groups == [[1, 2], [3, 4, 5]]


@pytest.mark.asyncio
async def test_no_handler_starts_while_a_mark_is_late(
    shop: Shop, counting: CountingInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow a commit is: what a crash lets be handled again has ended within a stated time."""
    monkeypatch.setattr(_mark_group, "LONGEST_LAG_SECONDS", -1.0)
    counting.gate = asyncio.Event()
    receiving = asyncio.create_task(receiver_for(shop, counting).receive(delivery_of(1, 2, 3), TOKEN))
    await counting.marking.wait()
    await asyncio.sleep(0.01)
    seen = list(shop.seen)
    counting.gate.set()

    assert seen == [1]
    assert (await receiving).handled == 3
    assert counting.groups == [[1], [2], [3]]


@pytest.mark.asyncio
async def test_a_mark_does_not_wait_for_slow_handlers(shop: Shop, counting: CountingInbox) -> None:
    """While another handler runs, the event of one that has ended is marked within the time that was asked for."""
    gate = shop.gates[2] = asyncio.Event()
    receiver = receiver_for(shop, counting, mark_within=0.001)
    receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
    await counting.marking.wait()
    assert shop.done == [1]
    gate.set()

    assert (await receiving).handled == 2
    assert counting.groups == [[1], [2]]


@pytest.mark.asyncio
async def test_a_mark_does_not_wait_for_a_hook(path: Path) -> None:
    """While another event is set aside, which may take long, the event of a handler that has ended is marked."""
    shop = Shop(concurrency=2)
    shop.failing = {1}
    shop.gates = {2: asyncio.Event()}
    hooked, marked, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hook(_: object) -> None:
        hooked.set()
        await go_on.wait()

    class Noting(SqliteInbox):
        async def mark(self, events: Sequence[Event], *, owner: str) -> frozenset[int]:
            lost = await super().mark(events, owner=owner)
            marked.set()
            return lost

    async with Noting(path) as inbox:
        receiver = receiver_for(shop, inbox, max_attempts=1, on_dead_letter=hook)
        receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
        async with asyncio.timeout(20):
            await hooked.wait()
            shop.gates[2].set()
            await marked.wait()
        go_on.set()

        assert (await receiving).handled == 1


@pytest.mark.asyncio
async def test_a_cancelled_delivery_marks_what_is_done(shop: Shop, counting: CountingInbox) -> None:
    """When the server gives a request up, the events whose handlers have ended are not handled again."""
    shop.gates[2] = asyncio.Event()
    receiver = receiver_for(shop, counting, mark_within=LONG_SECONDS)
    receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
    await shop.started(2)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving

    assert await handled(counting, 1, 2) == {1}


@pytest.mark.asyncio
@pytest.mark.parametrize("transaction", ["one for all", None], ids=["before a handler", "before the answer"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancellation_does_not_undo_a_commit(
    shop: Shop, counting: CountingInbox, transaction: str | None, times: int
) -> None:
    """What is cancelled while its events are being marked marks them, and releases the others after that."""
    fields = {} if transaction is None else {"transaction": transaction}
    counting.gate = asyncio.Event()
    receiver = receiver_for(shop, counting, mark_within=LONG_SECONDS)
    receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2, **fields), TOKEN))
    await counting.marking.wait()
    (delivery,) = receiver._deliveries
    for _ in range(times):
        delivery.cancel()
        await asyncio.sleep(0.001)
    counting.gate.set()

    assert (await receiving).reason == "cancelled"
    assert await handled(counting, *shop.done) == set(shop.done)
    assert (await receiver.receive(delivery_of(1, 2, **fields), TOKEN)).status == 200
    assert shop.done == [1, 2]


@pytest.mark.asyncio
async def test_the_end_of_the_loop_does_not_undo_a_commit(shop: Shop, counting: CountingInbox) -> None:
    """Where all tasks are cancelled at once, as asyncio.run() does, the events are marked all the same."""
    counting.gate = asyncio.Event()
    receiver = receiver_for(shop, counting)
    receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
    await counting.marking.wait()
    gate, counting.gate = counting.gate, None
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert receiving.cancelled()
    assert not gate.is_set()
    assert await handled(counting, 1, 2) == set(shop.done) == {1, 2}


@pytest.mark.asyncio
async def test_a_cancelled_delivery_does_not_wait_for_an_inbox_that_hangs(
    shop: Shop, counting: CountingInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last marks have their time, and no more, also where the delivery is cancelled meanwhile."""
    monkeypatch.setattr(_dispatch, "MARK_TIMEOUT_SECONDS", 0.01)
    counting.gate = asyncio.Event()
    receiver = receiver_for(shop, counting, mark_within=LONG_SECONDS)
    receiving = asyncio.create_task(receiver.receive(delivery_of(1), TOKEN))
    await counting.marking.wait()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving

    assert not receiver._deliveries


@pytest.mark.asyncio
async def test_a_failing_handler_keeps_no_other_mark_back(shop: Shop, counting: CountingInbox) -> None:
    """The event of a handler that raised is not marked; the others are."""
    shop.failing = {2}
    receiver = receiver_for(shop, counting, mark_within=LONG_SECONDS)
    response = await receiver.receive(delivery_of(1, 2, 3), TOKEN)

    assert (response.status, response.handled, response.left) == (500, 2, 1)
    assert counting.groups == [[1, 3]]
    assert (await receiver.receive(delivery_of(2), TOKEN)).status == 500
    assert counting.groups == [[1, 3]]


@pytest.mark.asyncio
async def test_events_without_a_handler_are_marked_too(counting: CountingInbox) -> None:
    """An event of no interest is counted as such."""
    receiver = receiver_for(Shop(), counting, mark_within=LONG_SECONDS)
    response = await receiver.receive(delivery_of(1, state="requested"), TOKEN)

    assert (response.status, response.handled, response.unhandled) == (200, 0, 1)


@pytest.mark.asyncio
async def test_an_event_that_was_taken_over_is_not_marked(shop: Shop, counting: CountingInbox) -> None:
    """Of a group, what another worker has taken over is left to it, and the rest is marked."""
    gate = shop.gates[2] = asyncio.Event()
    receiver = receiver_for(shop, counting, mark_within=LONG_SECONDS)
    receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
    await shop.started(2)
    counting._rows._connection.execute("UPDATE jetpay_inbox SET owner = 'thief' WHERE event_id = 1")
    gate.set()
    response = await receiving

    assert (response.status, response.reason, response.handled, response.left) == (503, "lease_lost", 1, 1)


@pytest.mark.asyncio
async def test_an_inbox_that_fails_marks_none(
    shop: Shop, counting: CountingInbox, caplog: pytest.LogCaptureFixture
) -> None:
    """If the commit fails none of the group counts as handled, and the delivery is asked to come again."""
    counting.error = ConnectionError("the database is away")
    receiver = receiver_for(shop, counting, mark_within=LONG_SECONDS)
    response = await receiver.receive(delivery_of(1, 2), TOKEN)

    assert (response.status, response.reason, response.handled, response.left) == (503, "unavailable", 0, 2)
    assert "the database is away" in caplog.text


@pytest.mark.asyncio
async def test_an_inbox_that_hangs_is_not_waited_for(
    shop: Shop, counting: CountingInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last marks of a delivery have their time, and then the delivery is asked to come again."""
    monkeypatch.setattr(_dispatch, "MARK_TIMEOUT_SECONDS", 0.01)
    counting.gate = asyncio.Event()
    receiver = receiver_for(shop, counting, mark_within=LONG_SECONDS)
    response = await receiver.receive(delivery_of(1), TOKEN)

    assert (response.status, response.reason, response.left) == (503, "unavailable", 1)


@pytest.mark.asyncio
@pytest.mark.parametrize("ended", ["cancelled", "late"])
async def test_a_mark_that_was_cut_off_is_written_before_the_lease_is_released(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    """No other worker gets an event whose handler has ended, however slow the inbox is."""
    monkeypatch.setattr(_dispatch, "MARK_TIMEOUT_SECONDS", 0.01 if ended == "late" else 20.0)
    steps: list[str] = []

    class Noting(CountingInbox):
        async def mark(self, events: Sequence[Event], *, owner: str) -> frozenset[int]:
            steps.append("mark")
            return await super().mark(events, owner=owner)

        async def release(self, *, owner: str) -> None:
            steps.append("release")
            await super().release(owner=owner)

    inbox = Noting()
    inbox.gate = asyncio.Event()
    receiver = receiver_for(shop, inbox)
    receiving = asyncio.create_task(receiver.receive(delivery_of(1), TOKEN))
    await inbox.marking.wait()
    if ended == "cancelled":
        (delivery,) = receiver._deliveries
        delivery.cancel()
        await until(lambda: len(steps) == 2)
        inbox.gate.set()
    await receiving
    inbox.gate.set()
    await until(lambda: len(asyncio.all_tasks()) == 1)

    assert steps[:2] == ["mark", "mark"]
    assert steps[2:] == (["release"] if ended == "late" else [])


@pytest.mark.asyncio
async def test_a_handlers_own_transaction_goes_on_to_mark(shop: Shop, disk: SqliteInbox, tmp_path: Path) -> None:
    """A handler that marks its event itself does so at once, whatever is grouped."""

    @shop.router.on("cards.*")
    async def commit(event: Event) -> None:
        with closing(sqlite3.connect(tmp_path / "inbox.db")) as connection, connection:
            disk.mark_handled(connection, event)
        shop.seen.append(len(await handled(disk, event.id)))

    receiver = receiver_for(shop, disk, mark_within=LONG_SECONDS)
    response = await receiver.receive(delivery_of(1, type="cards.tokenized"), TOKEN)

    assert (response.status, response.handled) == (200, 1)
    assert shop.seen == [1]


@pytest.mark.asyncio
async def test_stored_events_are_marked_in_groups(shop: Shop, disk: SqliteInbox) -> None:
    """What is handled after the answer is grouped in the same way."""
    async with receiver_for(shop, disk, acknowledge="after_storing", mark_within=LONG_SECONDS) as receiver:
        await receiver.receive(delivery_of(1, 2, 3), TOKEN)
        await shop.finished(1, 2, 3)

    assert await handled(disk, 1, 2, 3) == {1, 2, 3}


class PlainInbox:
    """An inbox that marks each event by itself, and can do nothing else."""

    def __init__(self) -> None:
        self._inner = MemoryInbox()

    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        return await self._inner.lease(events, owner=owner, seconds=seconds)

    async def renew(self, event_ids: Iterable[int], *, owner: str, seconds: float) -> frozenset[int]:
        return await self._inner.renew(event_ids, owner=owner, seconds=seconds)

    def handling(self, event: Event, *, owner: str) -> AbstractAsyncContextManager[object]:
        return self._inner.handling(event, owner=owner)

    async def release(self, *, owner: str) -> None:
        await self._inner.release(owner=owner)

    async def last_contiguous_event_id(self) -> int | None:
        return await self._inner.last_contiguous_event_id()


@pytest.mark.asyncio
async def test_an_inbox_without_groups_marks_each(shop: Shop) -> None:
    """An inbox of one's own that knows no groups is used as ever."""
    inbox = PlainInbox()
    response = await receiver_for(shop, inbox, mark_within=LONG_SECONDS).receive(delivery_of(1, 2), TOKEN)

    assert not isinstance(inbox, GroupedMarksInbox)
    assert (response.status, response.handled) == (200, 2)


@pytest.mark.parametrize("seconds", [-1, 7.6, float("nan")])
def test_the_time_is_bounded_by_the_lease(shop: Shop, inbox: MemoryInbox, seconds: float) -> None:
    """Marks that would wait for most of a lease, or for no time that there is, are rejected."""
    with pytest.raises(InvalidArgumentError, match="mark_within"):
        receiver_for(shop, inbox, mark_within=seconds)
