"""What every inbox has to keep, as a test that can be run on any: see `jetpay_async.testing.check_inbox`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jetpay_async._core import json
from jetpay_async.webhooks.errors import InboxError, LeaseLostError
from jetpay_async.webhooks.events import Event, decode
from jetpay_async.webhooks.inbox import LatestStateInbox, MissingEventsInbox, TransactionRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from jetpay_async.models import JSONValue
    from jetpay_async.webhooks.inbox import EventInbox, Leased

_WORKERS = 4
_LONG_SECONDS = 60.0
# How many lease times a lease that ran out may take to be seen as such.
_LEASES_WAITED = 40
_POLLS_PER_LEASE = 10


async def check(open_inbox: Callable[[], AbstractAsyncContextManager[EventInbox]], lease_seconds: float) -> None:
    """Run all checks; each uses event ids of its own, above those of the one before."""
    async with open_inbox() as one, open_inbox() as other:
        await _check_simultaneous_workers([one, other])
        await _check_failing_handler(one, other)
        await _check_dead_worker(one, other, lease_seconds)
        await _check_gaps(one, other)
        await _check_other_account(one, other)
        if isinstance(one, MissingEventsInbox) and isinstance(other, MissingEventsInbox):
            await _check_missing_events(one, other)
        if isinstance(one, LatestStateInbox) and isinstance(other, LatestStateInbox):
            await _check_latest_states(one, other)


async def _check_simultaneous_workers(inboxes: Sequence[EventInbox]) -> None:
    effects: list[int] = []

    async def lease(number: int) -> Leased:
        leased = await inboxes[number % len(inboxes)].lease(
            _events(1, 2, 3), owner=f"worker-{number}", seconds=_LONG_SECONDS
        )
        _require(
            sorted([*leased.mine, *leased.handled, *leased.busy]) == [1, 2, 3],
            "lease() returns each id in exactly one of mine, handled and busy",
        )
        return leased

    async def handle(number: int, mine: frozenset[int]) -> None:
        inbox, owner = inboxes[number % len(inboxes)], f"worker-{number}"
        for event in _events(*sorted(mine)):
            try:
                async with inbox.handling(event, owner=owner):
                    await asyncio.sleep(0)
            except LeaseLostError:
                continue
            effects.append(event.id)

    # All ask before any of them has handled an event, however long each takes.
    leases = await asyncio.gather(*(lease(number) for number in range(_WORKERS)))
    await asyncio.gather(*(handle(number, leased.mine) for number, leased in enumerate(leases)))
    _require(sorted(effects) == [1, 2, 3], "of simultaneous workers exactly one handles each event")
    for inbox in inboxes:
        leased = await inbox.lease(_events(1, 2, 3), owner="late", seconds=_LONG_SECONDS)
        _require(leased.handled == frozenset({1, 2, 3}), "an event that was handled is handled for every worker")


async def _check_failing_handler(one: EventInbox, other: EventInbox) -> None:
    await one.lease(_events(4), owner="failing", seconds=_LONG_SECONDS)
    try:
        async with one.handling(_events(4)[0], owner="failing"):
            raise _HandlerError  # noqa: TRY301 - it has to leave the block
    except _HandlerError:
        pass
    else:
        raise AssertionError("handling() lets the handler's exception propagate")
    await one.release(owner="failing")
    leased = await other.lease(_events(4), owner="next", seconds=_LONG_SECONDS)
    _require(leased.mine == frozenset({4}), "an event whose handler failed is free again after release()")
    await _handle(other, 4, owner="next")


async def _check_dead_worker(one: EventInbox, other: EventInbox, lease_seconds: float) -> None:
    await one.lease(_events(5), owner="dead", seconds=lease_seconds)
    for _ in range(_LEASES_WAITED * _POLLS_PER_LEASE):
        if 5 in (await other.lease(_events(5), owner="heir", seconds=_LONG_SECONDS)).mine:
            break
        await asyncio.sleep(lease_seconds / _POLLS_PER_LEASE)
    else:
        raise AssertionError("the events of a worker that died are free when its lease has run out")
    _require(
        5 in await other.renew([5], owner="heir", seconds=_LONG_SECONDS), "renew() returns the ids that are the owner's"
    )
    await _handle(other, 5, owner="heir")
    try:
        await _handle(one, 5, owner="dead")
    except LeaseLostError:
        return
    raise AssertionError("a worker whose event another one has handled gets a LeaseLostError from handling()")


async def _check_gaps(one: EventInbox, other: EventInbox) -> None:
    _require(await one.last_contiguous_event_id() == 5, "last_contiguous_event_id() is the last id if none is missing")
    leased = await one.lease(_events(7), owner="a", seconds=_LONG_SECONDS)
    _require(leased.last_seen == 5, "lease() returns the highest id that had arrived before, as last_seen")
    await _handle(one, 7, owner="a")
    _require(await other.last_contiguous_event_id() == 5, "last_contiguous_event_id() ends before a missing id")
    leased = await other.lease(_events(6), owner="b", seconds=_LONG_SECONDS)
    _require(leased.last_seen == 7, "last_seen is the highest id, also when a lower one arrives late")
    await _handle(other, 6, owner="b")
    _require(await one.last_contiguous_event_id() == 7, "last_contiguous_event_id() goes on once a gap is closed")


async def _check_other_account(one: EventInbox, other: EventInbox) -> None:
    foreign = _events(7, created_at="2020-01-01T00:00:00Z")
    try:
        await other.lease(foreign, owner="foreign", seconds=_LONG_SECONDS)
    except InboxError as error:
        _require(error.reason == "conflict", "the reason of the error about another createdAt is 'conflict'")
    else:
        raise AssertionError("lease() raises an InboxError for a known id with another createdAt")
    leased = await one.lease(_events(7), owner="own", seconds=_LONG_SECONDS)
    _require(leased.handled == frozenset({7}), "a conflict changes nothing")


async def _check_missing_events(one: MissingEventsInbox, other: MissingEventsInbox) -> None:
    _require(await one.first_missing_event_id() is None, "first_missing_event_id() is None if none is missing")
    await one.lease(_events(10), owner="a", seconds=_LONG_SECONDS)
    _require(
        await other.first_missing_event_id() == 8 and await one.first_missing_event_id(9) == 9,
        "first_missing_event_id() is the lowest missing id from the given one on",
    )
    await other.lease(_events(8, 9), owner="b", seconds=_LONG_SECONDS)
    _require(
        await one.first_missing_event_id() is None, "an event that has arrived is not missing, although it is open"
    )
    for owner, inbox in (("a", one), ("b", other)):
        await inbox.release(owner=owner)


async def _check_latest_states(one: LatestStateInbox, other: LatestStateInbox) -> None:
    for inbox in (one, other):
        inbox.remember_states()
    _require(await one.last_handled("debit-9") is None, "last_handled() is None before an event is marked")
    await one.lease(_events(8, 9, transaction_id="debit-9"), owner="a", seconds=_LONG_SECONDS)
    for event_id in (9, 8):
        await _handle(one, event_id, owner="a", transaction_id="debit-9")
        last = await other.last_handled("debit-9")
        _require(
            last == TransactionRecord(event_id=9, state="paid"),
            "last_handled() returns the marked event with the highest id, whichever is marked first",
        )


class _HandlerError(Exception):
    """What a handler of the check raises."""


async def _handle(inbox: EventInbox, event_id: int, *, owner: str, transaction_id: str | None = None) -> None:
    async with inbox.handling(_events(event_id, transaction_id=transaction_id)[0], owner=owner):
        pass


def _events(
    *event_ids: int, created_at: str = "2026-01-22T10:15:30Z", transaction_id: str | None = None
) -> Sequence[Event]:
    documents: list[JSONValue] = [
        {
            "id": event_id,
            "createdAt": created_at,
            "type": "transactions.debits.created",
            "data": {"state": "paid", "transactionId": transaction_id or f"debit-{event_id}"},
        }
        for event_id in event_ids
    ]
    return decode(json.dump({"webhookId": 1, "events": documents})).events


def _require(condition: bool, promise: str) -> None:  # noqa: FBT001 - the subject of the sentence
    if not condition:
        raise AssertionError(promise)
