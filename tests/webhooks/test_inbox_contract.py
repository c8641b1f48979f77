"""The contract test for inboxes: ours pass it, and each promise that is broken fails it."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import attrs
import pytest

from jetpay_async.testing import check_inbox
from jetpay_async.webhooks.errors import InboxError
from jetpay_async.webhooks.inbox import Leased, TransactionRecord
from jetpay_async.webhooks.postgres_inbox import PostgresInbox
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from tests.webhooks.inboxes import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from pathlib import Path

    from jetpay_async.webhooks.events import Event


@pytest.mark.asyncio
async def test_the_inbox_in_memory() -> None:
    """One `MemoryInbox` keeps the contract within its process."""
    inbox = MemoryInbox()

    await check_inbox(lambda: nullcontext(inbox), lease_seconds=0.02)


@pytest.mark.asyncio
async def test_the_inbox_in_a_file(path: Path) -> None:
    """Two `SqliteInbox` over one file keep the contract."""
    await check_inbox(lambda: SqliteInbox(path), lease_seconds=0.05)


@pytest.mark.asyncio
async def test_the_inbox_in_postgresql(postgres_database: str) -> None:
    """Two `PostgresInbox` over one database keep the contract."""
    async with PostgresInbox(postgres_database) as inbox:
        await inbox.create_tables()

    await check_inbox(lambda: PostgresInbox(postgres_database), lease_seconds=0.05)


@pytest.mark.asyncio
async def test_an_inbox_without_more_than_it_needs(inbox: MemoryInbox) -> None:
    """An inbox that remembers no states keeps the contract, too."""
    await check_inbox(lambda: nullcontext(Plain(inbox)), lease_seconds=0.02)


class Broken(MemoryInbox):
    """Keeps the contract but for what a subclass breaks."""


class LeasesTwice(Broken):
    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        leased = await super().lease(events, owner=owner, seconds=seconds)
        return attrs.evolve(leased, mine=leased.mine | leased.busy)


class MarksForAll(LeasesTwice):
    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        leased = await super().lease(events, owner=owner, seconds=seconds)
        return attrs.evolve(leased, busy=frozenset())

    @asynccontextmanager
    async def handling(self, event: Event, *, owner: str) -> AsyncIterator[None]:
        yield


class LeasesToEverybody(LeasesTwice):
    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        return attrs.evolve(await super().lease(events, owner=owner, seconds=seconds), busy=frozenset())


class ForgetsMarks(Broken):
    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        leased = await super().lease(events, owner=owner, seconds=seconds)
        return leased if owner != "late" else attrs.evolve(leased, mine=leased.handled, handled=frozenset())


class SwallowsErrors(Broken):
    @asynccontextmanager
    async def handling(self, event: Event, *, owner: str) -> AsyncIterator[None]:
        async with super().handling(event, owner=owner):
            try:
                yield
            except Exception:  # noqa: BLE001 - what is broken
                return


class NeverReleases(Broken):
    async def release(self, *, owner: str) -> None: ...


class LeasesForGood(Broken):
    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        return await super().lease(events, owner=owner, seconds=3_000.0)


class RenewsNothing(Broken):
    async def renew(self, event_ids: Iterable[int], *, owner: str, seconds: float) -> frozenset[int]:
        return frozenset()


class MarksAnybodys(Broken):
    @asynccontextmanager
    async def handling(self, event: Event, *, owner: str) -> AsyncIterator[None]:
        if owner == "dead":
            yield
            return
        async with super().handling(event, owner=owner):
            yield


class HasNoContiguous(Broken):
    async def last_contiguous_event_id(self) -> int | None:
        return None


class JumpsGaps(Broken):
    async def last_contiguous_event_id(self) -> int | None:
        leased = await super().lease([], owner="x", seconds=1)
        return leased.last_seen


class StaysAtGaps(Broken):
    async def last_contiguous_event_id(self) -> int | None:
        return 5


class SeesNothing(Broken):
    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        leased = await super().lease(events, owner=owner, seconds=seconds)
        return attrs.evolve(leased, last_seen=None)


class SeesTheLatest(Broken):
    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        leased = await super().lease(events, owner=owner, seconds=seconds)
        return attrs.evolve(leased, last_seen=min(leased.last_seen or 0, 5))


class KnowsIdsOnly(Broken):
    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        try:
            return await super().lease(events, owner=owner, seconds=seconds)
        except InboxError:
            ids = frozenset(event.id for event in events)
            return Leased(mine=frozenset(), handled=ids, busy=frozenset(), last_seen=7)


class HasNoCode(Broken):
    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        try:
            return await super().lease(events, owner=owner, seconds=seconds)
        except InboxError:
            raise InboxError("a conflict") from None


class ConflictsAgain(Broken):
    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        leased = await super().lease(events, owner=owner, seconds=seconds)
        return leased if owner != "own" else attrs.evolve(leased, handled=frozenset())


class MissesTheFirst(Broken):
    async def first_missing_event_id(self, start: int = 0) -> int | None:
        return await super().first_missing_event_id(start) or 1


class MissesNothing(Broken):
    async def first_missing_event_id(self, start: int = 0) -> int | None:
        return None


class MissesWhatIsOpen(Broken):
    async def first_missing_event_id(self, start: int = 0) -> int | None:
        leased = await super().lease([], owner="x", seconds=1)
        return None if leased.last_seen == 7 else max(8, start)


class RemembersOthers(Broken):
    async def last_handled(self, transaction_id: str) -> TransactionRecord | None:
        return await super().last_handled(transaction_id) or TransactionRecord(event_id=1, state="paid")


class RemembersNothing(Broken):
    def remember_states(self) -> None:
        """Change nothing."""


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (LeasesTwice, "in exactly one of"),
        (MarksForAll, "exactly one handles each event"),
        (LeasesToEverybody, "renew\\(\\) returns"),
        (ForgetsMarks, "handled for every worker"),
        (SwallowsErrors, "exception propagate"),
        (NeverReleases, "free again after release"),
        (LeasesForGood, "when its lease has run out"),
        (RenewsNothing, "renew\\(\\) returns"),
        (MarksAnybodys, "gets a LeaseLostError"),
        (HasNoContiguous, "the last id if none is missing"),
        (JumpsGaps, "ends before a missing id"),
        (StaysAtGaps, "once a gap is closed"),
        (SeesNothing, "the highest id that had arrived before"),
        (SeesTheLatest, "also when a lower one arrives late"),
        (KnowsIdsOnly, "a known id with another createdAt"),
        (HasNoCode, "is 'conflict'"),
        (ConflictsAgain, "a conflict changes nothing"),
        (MissesTheFirst, "is None if none is missing"),
        (MissesNothing, "from the given one on"),
        (MissesWhatIsOpen, "is not missing, although it is open"),
        (RemembersOthers, "None before an event is marked"),
        (RemembersNothing, "the marked event with the highest id"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_broken_promise_is_named(broken: type[Broken], promise: str) -> None:
    """An inbox that breaks one promise fails, and the message names the promise."""
    inbox = broken()

    with pytest.raises(AssertionError, match=promise):
        await check_inbox(lambda: nullcontext(inbox), lease_seconds=0.005)
