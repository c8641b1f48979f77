"""The inboxes: each event handled once, by one worker at a time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from jetpay_async.webhooks.errors import InboxError, LeaseLostError
from jetpay_async.webhooks.events import decode
from jetpay_async.webhooks.inbox import DurableEventInbox, EventInbox, GroupedMarksInbox
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from tests.webhooks.inboxes import SECONDS, Inbox, handle, rows
from tests.webhooks.receiving import FakeClock, body_of, document, event, events

if TYPE_CHECKING:
    pass


@pytest.mark.asyncio
async def test_new_events_are_leased_to_who_asks_first(any_inbox: EventInbox) -> None:
    """Of two owners the first gets the events, and the second is told that they are busy."""
    first = await any_inbox.lease(events(1, 2), owner="a", seconds=SECONDS)
    second = await any_inbox.lease(events(1, 2), owner="b", seconds=SECONDS)

    assert (first.mine, first.handled, first.busy) == ({1, 2}, set(), set())
    assert (second.mine, second.handled, second.busy) == (set(), set(), {1, 2})


@pytest.mark.asyncio
async def test_an_owner_may_ask_twice(any_inbox: EventInbox) -> None:
    """Events that the owner holds already are its own, not busy."""
    await any_inbox.lease(events(1), owner="a", seconds=SECONDS)

    assert (await any_inbox.lease(events(1, 2), owner="a", seconds=SECONDS)).mine == {1, 2}


@pytest.mark.asyncio
async def test_nothing_behind_a_busy_event_is_taken(any_inbox: EventInbox) -> None:
    """Events at and after the first busy one stay untaken, handled or not, since they could not be handled in order."""
    await handle(any_inbox, 1, 5)
    await any_inbox.lease(events(3), owner="a", seconds=SECONDS)

    leased = await any_inbox.lease(events(1, 2, 3, 4, 5), owner="b", seconds=SECONDS)

    assert (leased.handled, leased.mine, leased.busy) == ({1, 5}, {2}, {3, 4})
    assert (await any_inbox.lease(events(4), owner="c", seconds=SECONDS)).mine == {4}


@pytest.mark.asyncio
async def test_marked_events_are_handled_for_everyone(any_inbox: EventInbox) -> None:
    """A marked event is skipped for every owner, also the one that marked it, however late."""
    await handle(any_inbox, 1, owner="a")

    for owner in ("a", "b"):
        assert (await any_inbox.lease(events(1), owner=owner, seconds=SECONDS)).handled == {1}


@pytest.mark.asyncio
async def test_a_lease_that_ran_out_is_taken_over(any_inbox: EventInbox, time: FakeClock) -> None:
    """After its time a lease goes to whoever asks, and the one who had it can neither renew nor mark."""
    await any_inbox.lease(events(1, 2), owner="a", seconds=SECONDS)
    time.tick(SECONDS)
    taken = await any_inbox.lease(events(1), owner="b", seconds=SECONDS)

    assert taken.mine == {1}
    assert await any_inbox.renew([1, 2], owner="a", seconds=SECONDS) == {2}
    with pytest.raises(LeaseLostError, match="event 1 was taken over"):
        async with any_inbox.handling(event(1), owner="a"):
            pass
    async with any_inbox.handling(event(1), owner="b"):
        pass
    with pytest.raises(LeaseLostError):
        async with any_inbox.handling(event(1), owner="a"):
            pass


@pytest.mark.asyncio
async def test_a_lease_lasts_until_the_very_end(any_inbox: EventInbox, time: FakeClock) -> None:
    """A moment before its time is up a lease still keeps the others out."""
    await any_inbox.lease(events(1), owner="a", seconds=SECONDS)
    time.tick(SECONDS - 0.001)

    assert (await any_inbox.lease(events(1), owner="b", seconds=SECONDS)).busy == {1}


@pytest.mark.asyncio
async def test_renewing_counts_from_now(any_inbox: EventInbox, time: FakeClock) -> None:
    """A renewed lease keeps the others out for its whole length again."""
    await any_inbox.lease(events(1), owner="a", seconds=SECONDS)
    time.tick(20)
    renewed = await any_inbox.renew([1], owner="a", seconds=SECONDS)
    time.tick(20)

    assert renewed == {1}
    assert (await any_inbox.lease(events(1), owner="b", seconds=SECONDS)).busy == {1}


@pytest.mark.asyncio
async def test_renewing_tells_marked_events_as_the_owners(any_inbox: EventInbox) -> None:
    """An event that was marked while the renewal was on its way does not look lost."""
    await handle(any_inbox, 1, owner="a")

    assert await any_inbox.renew([1, 99], owner="a", seconds=SECONDS) == {1}


@pytest.mark.asyncio
async def test_released_events_are_free_at_once(any_inbox: EventInbox) -> None:
    """Releasing frees what is not marked, and only the owner's."""
    await any_inbox.lease(events(1, 2), owner="a", seconds=SECONDS)
    await any_inbox.lease(events(3), owner="b", seconds=SECONDS)
    async with any_inbox.handling(event(1), owner="a"):
        pass

    await any_inbox.release(owner="a")

    leased = await any_inbox.lease(events(1, 2, 3), owner="c", seconds=SECONDS)
    assert (leased.handled, leased.mine, leased.busy) == ({1}, {2}, {3})


@pytest.mark.asyncio
async def test_a_block_that_raises_marks_nothing(any_inbox: EventInbox) -> None:
    """The event of a handler that failed is still to be handled."""
    await any_inbox.lease(events(1), owner="a", seconds=SECONDS)

    with pytest.raises(ZeroDivisionError):
        async with any_inbox.handling(event(1), owner="a"):
            raise ZeroDivisionError
    await any_inbox.release(owner="a")

    assert (await any_inbox.lease(events(1), owner="b", seconds=SECONDS)).mine == {1}


@pytest.mark.asyncio
async def test_another_accounts_event_is_rejected(any_inbox: EventInbox) -> None:
    """A known id with another creation time is not taken for handled, in the same way however it is known."""
    await handle(any_inbox, 1)
    other = event(1, created_at="2026-01-22T10:15:30.123457Z")

    with pytest.raises(
        InboxError, match=r"event 1 was delivered before with another createdAt \(then by webhook 123, now by"
    ) as rejected:
        await any_inbox.lease([other], owner="b", seconds=SECONDS)
    assert rejected.value.reason == "conflict"


@pytest.mark.asyncio
async def test_the_same_moment_in_another_zone_is_the_same_event(any_inbox: EventInbox) -> None:
    """What counts is the moment of creation, not how it is written."""
    await handle(any_inbox, 1)
    again = event(1, created_at="2026-01-22T05:15:30.123456-05:00")

    assert (await any_inbox.lease([again], owner="b", seconds=SECONDS)).handled == {1}


@pytest.mark.asyncio
async def test_a_rejected_lease_takes_nothing(any_inbox: EventInbox) -> None:
    """Leasing is all or nothing: the events before a conflicting one are not taken either."""
    await handle(any_inbox, 2)

    with pytest.raises(InboxError):
        await any_inbox.lease([event(1), event(2, created_at="2020-01-01T00:00:00Z")], owner="a", seconds=SECONDS)

    assert (await any_inbox.lease(events(1), owner="b", seconds=SECONDS)).mine == {1}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("handled", "open_", "expected"),
    [
        pytest.param([], [], None, id="nothing"),
        pytest.param([], [7], None, id="only-open"),
        pytest.param([7, 8, 9], [], 9, id="all-handled"),
        pytest.param([7, 8, 10], [], 8, id="missing"),
        pytest.param([7, 9], [8, 10], 7, id="open-in-between"),
    ],
)
async def test_last_event_id_ends_before_what_is_missing(
    any_inbox: EventInbox, handled: list[int], open_: list[int], expected: int | None
) -> None:
    """Everything from the lowest id to the last event id is handled, so a replay from there brings all that is not."""
    await any_inbox.lease(events(*open_), owner="a", seconds=SECONDS)
    await handle(any_inbox, *handled)

    assert await any_inbox.last_contiguous_event_id() == expected


@pytest.mark.asyncio
async def test_the_last_contiguous_id_goes_on_from_where_it_was(any_inbox: EventInbox) -> None:
    """What was found is kept: it grows as gaps are closed, and begins anew at an id below the lowest so far."""
    found: list[int | None] = []
    for event_id in (5, 6, 8, 7, 2, 3, 4):
        await handle(any_inbox, event_id)
        found.append(await any_inbox.last_contiguous_event_id())

    assert found == [5, 6, 6, 8, 2, 3, 8]


@pytest.mark.asyncio
async def test_several_events_are_marked_in_one_step(any_inbox: GroupedMarksInbox) -> None:
    """Of a group, what is the owner's is marked, and what is not is named."""
    await any_inbox.lease(events(1, 3), owner="a", seconds=SECONDS)
    await any_inbox.lease(events(2), owner="b", seconds=SECONDS)
    marked = await any_inbox.mark(events(1), owner="a")
    lost = await any_inbox.mark(events(1, 2, 3, 9), owner="a")

    assert (marked, lost) == (set(), {2, 9})
    leased = await any_inbox.lease(events(1, 2, 3), owner="c", seconds=SECONDS)
    assert (leased.handled, leased.busy) == ({1, 3}, {2})


@pytest.mark.asyncio
async def test_the_highest_id_seen_before_is_told(any_inbox: EventInbox) -> None:
    """A lease tells the highest id that had arrived before it, handled or not, for the gap watch."""
    first = await any_inbox.lease(events(5), owner="a", seconds=SECONDS)
    second = await any_inbox.lease(events(3, 6), owner="a", seconds=SECONDS)
    third = await any_inbox.lease(events(4), owner="a", seconds=SECONDS)

    assert [first.last_seen, second.last_seen, third.last_seen] == [None, 5, 6]


@pytest.mark.asyncio
async def test_old_events_are_folded_and_never_forgotten(sqlite_or_memory: Inbox, time: FakeClock) -> None:
    """Handled events past the time to keep take no rows any more, and are still known; gaps and open ones stay."""
    await handle(sqlite_or_memory, 1, 2, 3, 5, 6, 9)
    await sqlite_or_memory.lease(events(7), owner="dead", seconds=1)
    time.tick(40 * 86_400)
    await handle(sqlite_or_memory, 10)

    assert await rows(sqlite_or_memory, "SELECT event_id FROM jetpay_inbox ORDER BY 1") == [(7,), (10,)]
    assert await rows(sqlite_or_memory, "SELECT first, last FROM jetpay_inbox_range ORDER BY 1") == [
        (1, 3),
        (5, 6),
        (9, 9),
    ]
    leased = await sqlite_or_memory.lease(events(0, 1, 3, 4, 6, 7, 8, 9), owner="b", seconds=SECONDS)
    assert (leased.handled, leased.mine, leased.last_seen) == ({1, 3, 6, 9}, {0, 4, 7, 8}, 10)


@pytest.mark.asyncio
async def test_another_accounts_event_is_noticed_after_folding(sqlite_or_memory: Inbox, time: FakeClock) -> None:
    """An event that was folded is still separated from one of another account with the same id."""
    await handle(sqlite_or_memory, *range(250, 260))
    time.tick(31 * 86_400)
    await handle(sqlite_or_memory, 260)
    time.tick(31 * 86_400)
    await handle(sqlite_or_memory, 261)
    assert await rows(sqlite_or_memory, "SELECT first, last FROM jetpay_inbox_range") == [(250, 260)]

    for event_id in (250, 255, 256, 259, 260):
        assert (await sqlite_or_memory.lease(events(event_id), owner="b", seconds=SECONDS)).handled == {event_id}
        other = event(event_id, created_at="2026-01-22T10:15:30.123457Z")
        with pytest.raises(InboxError, match=f"event {event_id} was delivered before with another createdAt") as caught:
            await sqlite_or_memory.lease([other], owner="b", seconds=SECONDS)
        assert caught.value.reason == "conflict"


@pytest.mark.asyncio
async def test_ranges_tell_the_webhook(sqlite_or_memory: Inbox, time: FakeClock) -> None:
    """Events of one webhook fold into one range, those of another beside them into another, without a gap."""
    for webhook_id, event_ids in ((1, (1, 2)), (2, (3, 4)), (1, (5,))):
        batch = decode(body_of([document(event_id) for event_id in event_ids], webhook_id=webhook_id)).events
        await sqlite_or_memory.lease(batch, owner="a", seconds=SECONDS)
        for one in batch:
            async with sqlite_or_memory.handling(one, owner="a"):
                pass
    time.tick(31 * 86_400)
    await handle(sqlite_or_memory, 6)

    assert await rows(sqlite_or_memory, "SELECT * FROM jetpay_inbox_range ORDER BY first") == [
        ("", 1, 2, 1),
        ("", 3, 4, 2),
        ("", 5, 5, 1),
    ]
    assert await sqlite_or_memory.last_contiguous_event_id() == 6


@pytest.mark.asyncio
async def test_ranges_grow_together(sqlite_or_memory: Inbox, time: FakeClock) -> None:
    """Folding joins a run with the range below it and the one above it, so a history without gaps is one range."""
    for part in ([1, 2], [5, 6], [3, 4], [7]):
        await handle(sqlite_or_memory, *part)
        time.tick(31 * 86_400)
    await handle(sqlite_or_memory, 8)

    assert await rows(sqlite_or_memory, "SELECT first, last FROM jetpay_inbox_range") == [(1, 7)]
    assert await sqlite_or_memory.last_contiguous_event_id() == 8


@pytest.mark.asyncio
async def test_folding_keeps_up(sqlite_or_memory: Inbox, time: FakeClock) -> None:
    """However many events grow old at once, each delivery folds more of them than it brings."""
    await sqlite_or_memory.lease(events(*range(1, 601)), owner="a", seconds=SECONDS)
    await rows(sqlite_or_memory, f"UPDATE jetpay_inbox SET handled_at = {time.now}")
    time.tick(31 * 86_400)
    for event_id in (601, 602, 603):
        await handle(sqlite_or_memory, event_id)

    assert await rows(sqlite_or_memory, "SELECT count(*) FROM jetpay_inbox") == [(3,)]
    assert await rows(sqlite_or_memory, "SELECT first, last FROM jetpay_inbox_range") == [(1, 600)]


def test_only_the_inbox_on_disk_is_a_store() -> None:
    """An inbox that forgets does not pass for one that keeps events for later."""
    assert isinstance(SqliteInbox("unused.db"), DurableEventInbox)
    assert not isinstance(MemoryInbox(), DurableEventInbox)
    assert not os.path.exists("unused.db")  # noqa: PTH110


def test_inboxes_tell_what_they_are() -> None:
    """The representation names the file and the source."""
    assert repr(SqliteInbox("a.db", source="shop")) == "SqliteInbox('a.db', source='shop')"
    assert repr(MemoryInbox()) == "MemoryInbox()"


def test_memory_inbox_says_what_it_does_not_do() -> None:
    """Whoever reads the first lines of its documentation knows that it forgets and is one process's."""
    words = " ".join((MemoryInbox.__doc__ or "").split())

    assert "tests and demonstrations only" in words
    assert "forgets everything at a restart, and it belongs to one process" in words


@pytest.mark.asyncio
async def test_memory_inboxes_do_not_share() -> None:
    """Two memory inboxes know nothing of each other, as their documentation says."""
    await handle(MemoryInbox(), 1)

    assert (await MemoryInbox().lease(events(1), owner="b", seconds=SECONDS)).mine == {1}
