"""Handlers that are called for the latest event of a transaction only: ``EventRouter.on(..., latest=True)``."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks import CardTokenized, DebitPaid, Event, EventRouter, SqliteInbox, TransactionEvent
from jetpay_async.webhooks.errors import LeaseLostError, OutdatedEventError
from jetpay_async.webhooks.inbox import TransactionRecord
from jetpay_async.webhooks.postgres_inbox import PostgresInbox
from jetpay_async.webhooks.receiver import WebhookReceiver
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox
from tests.webhooks.inboxes import SECONDS, TimedPostgresInbox, handle
from tests.webhooks.receivers import TOKEN, Trusting
from tests.webhooks.receiving import body_of, document, event, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from jetpay_async.webhooks.inbox import EventInbox, LatestStateInbox
    from jetpay_async.webhooks.receiver import DeliveryResponse
    from tests.webhooks.receiving import FakeClock


class States:
    """A shop that writes down the state of each transaction; a handler waits, fails or marks where a test says so."""

    def __init__(self, *, latest: bool = True) -> None:
        self.router = EventRouter()
        self.seen: list[tuple[int, str]] = []
        self.gates: dict[int, asyncio.Event] = {}
        self.failing: set[int] = set()
        self.effect: Callable[[TransactionEvent], Awaitable[object]] | None = None
        self.router.on(TransactionEvent, latest=latest)(self.write)

    async def write(self, event: TransactionEvent) -> None:
        self.seen.append((event.id, event.state))
        if event.id in self.gates:
            await self.gates[event.id].wait()
        if event.id in self.failing:
            raise ZeroDivisionError("the shop's own trouble")
        if self.effect is not None:
            await self.effect(event)


@pytest.fixture
def states() -> States:
    return States()


def receiver_of(states: States, inbox: EventInbox, **settings: object) -> WebhookReceiver:
    return WebhookReceiver(Trusting(), states.router, inbox=inbox, **settings)  # type: ignore[arg-type]


async def deliver(receiver: WebhookReceiver, *events: tuple[int, str], transaction: str = "t") -> DeliveryResponse:
    body = body_of([document(number, state=state, transaction=transaction) for number, state in events])
    return await receiver.receive(body, TOKEN)


def result(response: DeliveryResponse) -> tuple[int, int, int, int]:
    return response.status, response.handled, response.outdated, response.left


class TestGuard:
    @pytest.mark.asyncio
    async def test_a_late_event_changes_nothing(self, states: States, any_inbox: EventInbox) -> None:
        """An event that is older than the last one of its transaction is marked, and its handler is not called."""
        receiver = receiver_of(states, any_inbox)

        assert result(await deliver(receiver, (5, "paid"))) == (200, 1, 0, 0)
        assert result(await deliver(receiver, (3, "requested"), (6, "completed"))) == (200, 1, 1, 0)
        assert (await deliver(receiver, (3, "requested"))).skipped == 1
        assert (await deliver(receiver, (4, "requested"), transaction="another")).handled == 1

        assert states.seen == [(5, "paid"), (6, "completed"), (4, "requested")]

    @pytest.mark.asyncio
    async def test_it_is_off_by_default(self, any_inbox: EventInbox) -> None:
        """Without ``latest=True`` each event is handled, in whatever order it comes, and nothing is remembered."""
        states = States(latest=False)
        receiver = receiver_of(states, any_inbox)

        await deliver(receiver, (5, "paid"))
        await deliver(receiver, (3, "requested"))

        assert states.seen == [(5, "paid"), (3, "requested")]
        assert await any_inbox.last_handled("t") is None  # type: ignore[attr-defined] # ours all have it

    @pytest.mark.asyncio
    async def test_other_handlers_count_too(self, states: States, inbox: MemoryInbox) -> None:
        """What another handler, or none, has handled makes older events outdated as well."""
        paid: list[int] = []

        @states.router.on(DebitPaid)
        async def ship(event: DebitPaid) -> None:
            paid.append(event.id)

        receiver = receiver_of(states, inbox)
        await deliver(receiver, (5, "paid"))

        assert (await deliver(receiver, (4, "processing"))).outdated == 1
        assert (await deliver(receiver, (3, "paid"))).handled == 1
        assert (states.seen, paid) == ([], [5, 3])

    @pytest.mark.asyncio
    async def test_events_without_a_transaction(self, inbox: MemoryInbox) -> None:
        """A guarded handler is called for every event that belongs to no transaction."""
        router, seen = EventRouter(), []

        @router.on(Event, latest=True)
        async def note(event: Event) -> None:
            seen.append(event.id)

        receiver = WebhookReceiver(Trusting(), router, inbox=inbox)
        for number in (2, 1):
            await receiver.receive(body_of([document(number, type="kyc.approved")]), TOKEN)

        assert seen == [2, 1]

    @pytest.mark.asyncio
    async def test_a_failed_event_makes_nothing_outdated(self, states: States, inbox: MemoryInbox) -> None:
        """Only what was handled counts."""
        states.failing = {5}
        receiver = receiver_of(states, inbox)
        await deliver(receiver, (5, "paid"))

        assert result(await deliver(receiver, (4, "requested"))) == (200, 1, 0, 0)

    @pytest.mark.asyncio
    async def test_one_event_of_a_transaction_at_a_time(self, states: States, inbox: MemoryInbox) -> None:
        """While one is handled, another delivery's waits, and is then outdated; other transactions go on."""
        states.gates[5] = asyncio.Event()
        receiver = receiver_of(states, inbox)
        first = asyncio.create_task(deliver(receiver, (5, "paid")))
        await until(lambda: bool(states.seen))
        second = asyncio.create_task(deliver(receiver, (4, "requested")))
        assert (await deliver(receiver, (6, "paid"), transaction="another")).handled == 1
        states.gates[5].set()

        assert ((await first).handled, (await second).outdated) == (1, 1)

    @pytest.mark.asyncio
    async def test_marks_are_not_grouped(self, states: States, inbox: MemoryInbox) -> None:
        """An event is remembered as its handler ends, whatever ``mark_within`` says."""
        states.gates[7] = asyncio.Event()
        receiver = receiver_of(states, inbox, mark_within=5.0)
        delivering = asyncio.create_task(deliver(receiver, (5, "paid"), (7, "completed")))
        await until(lambda: len(states.seen) == 2)

        assert await inbox.last_handled("t") == TransactionRecord(event_id=5, state="paid")
        states.gates[7].set()
        assert (await delivering).handled == 2

    @pytest.mark.asyncio
    async def test_a_replayed_dead_letter_is_outdated(self, states: States, durable_inbox: LatestStateInbox) -> None:
        """A dead letter that is replayed after later events of its transaction does not overwrite them."""
        states.failing = {1}
        receiver = receiver_of(states, durable_inbox, max_attempts=1, poll_interval=0.01)
        assert (await deliver(receiver, (1, "requested"))).dead == 1
        await deliver(receiver, (2, "paid"))

        await durable_inbox.replay_dead_letter(1)  # type: ignore[attr-defined] # ours have dead letters
        async with receiver:
            async with asyncio.timeout(10):
                while await durable_inbox.last_contiguous_event_id() != 2:
                    await asyncio.sleep(0.01)

        assert states.seen == [(1, "requested"), (2, "paid")]


class TestMemory:
    @pytest.mark.asyncio
    async def test_a_file_remembers(self, states: States, path: Path) -> None:
        """What was handled before a restart, or by another process, makes older events outdated."""
        async with SqliteInbox(path) as inbox:
            await deliver(receiver_of(states, inbox), (5, "paid"))
        async with SqliteInbox(path) as inbox:
            assert (await deliver(receiver_of(states, inbox), (4, "requested"))).outdated == 1

    @pytest.mark.asyncio
    async def test_a_file_forgets_after_its_retention(self, states: States, path: Path, time: FakeClock) -> None:
        """The last event of a transaction is remembered as long as events by themselves are."""
        async with SqliteInbox(path, clock=time.clock, retention=100.0) as inbox:
            await deliver(receiver_of(states, inbox), (5, "paid"))
            time.tick(99)
            await handle(inbox, 90)
            assert await inbox.last_handled("t") is not None
            time.tick(2)
            await handle(inbox, 91)
            assert await inbox.last_handled("t") is None

    @pytest.mark.asyncio
    async def test_several_marks_in_one_commit(self, any_inbox: LatestStateInbox) -> None:
        """Of the events that are marked together the highest of each transaction is remembered; lost ones are not."""
        any_inbox.remember_states()
        three = [event(number, state=state, transaction="t") for number, state in ((1, "a"), (2, "b"), (3, "c"))]
        await any_inbox.lease(three[:2], owner="a", seconds=SECONDS)

        assert await any_inbox.mark(three, owner="a") == {3}  # type: ignore[attr-defined] # ours can
        assert await any_inbox.last_handled("t") == TransactionRecord(event_id=2, state="b")

    @pytest.mark.asyncio
    async def test_tables_of_an_older_release(self, states: States, postgres_database: str) -> None:
        """Tables without the transactions are brought up to date by create_tables(), and not in passing."""
        async with await psycopg.AsyncConnection.connect(postgres_database, autocommit=True) as connection:
            for statement in PostgresInbox.create_statements():
                await connection.execute(statement.encode())
            await connection.execute("DROP TABLE jetpay_inbox_transaction, jetpay_inbox_missing")
            await connection.execute("CREATE TABLE jetpay_inbox_contiguous (source text PRIMARY KEY)")
            await connection.execute("UPDATE jetpay_inbox_schema SET version = 1")
        async with PostgresInbox(postgres_database) as inbox:
            with pytest.raises(ConfigurationError, match=r"schema 1, this one needs 3.*jetpay webhooks init"):
                await inbox.last_handled("t")
            await inbox.create_tables()
            await deliver(receiver_of(states, inbox), (5, "paid"))

            assert await inbox.last_handled("t") == TransactionRecord(event_id=5, state="paid")


async def overtaken(states: States, slow: LatestStateInbox, quick: LatestStateInbox) -> DeliveryResponse:
    """Let a later event be handled by another process while the handler of an earlier one runs."""
    states.gates[4] = asyncio.Event()
    delivering = asyncio.create_task(deliver(receiver_of(states, slow), (4, "requested")))
    await until(lambda: bool(states.seen))
    # A router of its own, as another process has.
    other = States()
    other.effect = states.effect
    assert (await deliver(receiver_of(other, quick), (5, "paid"))).handled == 1
    states.gates[4].set()
    return await delivering


class TestOwnTransaction:
    @pytest.mark.asyncio
    async def test_sqlite(self, states: States, path: Path) -> None:
        """A handler that was overtaken rolls back what it wrote, and its event is marked."""
        async with SqliteInbox(path) as slow, SqliteInbox(path) as quick:
            await slow.last_contiguous_event_id()
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("CREATE TABLE states (id INTEGER, state TEXT)")

            def write(event: TransactionEvent) -> None:
                with closing(sqlite3.connect(path)) as connection, connection:
                    connection.execute("INSERT INTO states VALUES (?, ?)", (event.id, event.state))
                    quick.mark_handled(connection, event) if event.id == 5 else slow.mark_handled(connection, event)

            states.effect = lambda event: asyncio.to_thread(write, event)

            assert result(await overtaken(states, slow, quick)) == (200, 0, 1, 0)
            with closing(sqlite3.connect(path)) as connection:
                assert connection.execute("SELECT * FROM states").fetchall() == [(5, "paid")]
            assert (await quick.lease([event(4)], owner="b", seconds=SECONDS)).handled == {4}

    @pytest.mark.parametrize("in_thread", [False, True], ids=["async", "thread"])
    @pytest.mark.asyncio
    async def test_postgresql(self, states: States, postgres_database: str, in_thread: bool) -> None:
        """The same, on a connection of psycopg."""

        def write(inbox: PostgresInbox, event: TransactionEvent) -> None:
            with psycopg.connect(postgres_database) as connection:
                connection.execute("INSERT INTO states VALUES (%s, %s)", (event.id, event.state))
                inbox.mark_handled_in_thread(connection, event)

        async def effect(event: TransactionEvent) -> None:
            inbox = quick if event.id == 5 else slow
            if in_thread:
                await asyncio.to_thread(write, inbox, event)
                return
            async with await psycopg.AsyncConnection.connect(postgres_database) as connection:
                await connection.execute("INSERT INTO states VALUES (%s, %s)", (event.id, event.state))
                await inbox.mark_handled(connection, event)

        states.effect = effect
        async with PostgresInbox(postgres_database) as slow, PostgresInbox(postgres_database) as quick:
            await slow.create_tables()
            async with await psycopg.AsyncConnection.connect(postgres_database, autocommit=True) as connection:
                await connection.execute("CREATE TABLE states (id int, state text)")

                assert result(await overtaken(states, slow, quick)) == (200, 0, 1, 0)
                cursor = await connection.execute("SELECT id, state FROM states")
                assert await cursor.fetchall() == [(5, "paid")]

    @pytest.mark.asyncio
    async def test_a_handler_that_is_not_guarded_is_not_rolled_back(
        self, states: States, postgres_inbox: TimedPostgresInbox, postgres_database: str
    ) -> None:
        """mark_handled() in a handler without ``latest=True`` marks an older event, and remembers the newer one."""

        @states.router.on(DebitPaid)
        async def ship(event: DebitPaid) -> None:
            async with await psycopg.AsyncConnection.connect(postgres_database) as connection:
                await postgres_inbox.mark_handled(connection, event)

        receiver = receiver_of(states, postgres_inbox)
        for number in (5, 4):
            assert (await deliver(receiver, (number, "paid"))).handled == 1

        assert await postgres_inbox.last_handled("t") == TransactionRecord(event_id=5, state="paid")


class WithoutStates:
    """An inbox that remembers no states, as one of the user's may be."""

    def __init__(self, inbox: EventInbox) -> None:
        self._inbox = inbox
        self.lease = inbox.lease


class Failing(MemoryInbox):
    """An inbox in which a step raises, or never ends."""

    def __init__(self, where: str, error: Exception | None = None) -> None:
        super().__init__()
        self.where = where
        self.error = error
        self.reached = asyncio.Event()

    async def last_handled(self, transaction_id: str) -> TransactionRecord | None:
        if self.where == "last_handled":
            await self._fail()
        return TransactionRecord(event_id=99, state="paid")

    @asynccontextmanager
    async def handling(self, event: Event, *, owner: str) -> AsyncIterator[None]:
        yield
        await self._fail()

    async def _fail(self) -> None:
        if self.error is not None:
            raise self.error
        self.reached.set()
        await asyncio.Event().wait()


class TestMisuse:
    @pytest.mark.asyncio
    async def test_an_inbox_that_remembers_no_states(self, states: States, inbox: MemoryInbox) -> None:
        """It is said at the start, and at the first delivery of a receiver that was not entered."""
        receiver = receiver_of(states, WithoutStates(inbox))  # type: ignore[arg-type] # it is not asked for more

        with pytest.raises(ConfigurationError, match=r"latest=True.*WithoutStates"):
            await receiver.__aenter__()
        with pytest.raises(ConfigurationError, match="LatestStateInbox"):
            await deliver(receiver, (1, "paid"))

    def test_a_class_without_transactions(self) -> None:
        """The events of some classes belong to no transaction, so there is no latest one."""
        with pytest.raises(InvalidArgumentError, match="CardTokenized have no transaction"):
            EventRouter().on(CardTokenized, latest=True)

    @pytest.mark.parametrize("where", ["last_handled", "handling"])
    @pytest.mark.asyncio
    async def test_an_inbox_that_fails(self, states: States, where: str) -> None:
        """If the state can't be read, or the outdated event not be marked, the delivery comes again."""
        receiver = receiver_of(states, Failing(where, LeaseLostError("gone")))

        response = await deliver(receiver, (1, "paid"), (2, "paid"))

        assert (response.status, response.reason, response.left, states.seen) == (503, "lease_lost", 2, [])

    @pytest.mark.parametrize("where", ["last_handled", "handling"])
    @pytest.mark.asyncio
    async def test_a_delivery_that_is_cancelled(self, states: States, where: str) -> None:
        """A cancellation is no failure of the inbox."""
        inbox = Failing(where)
        delivering = asyncio.create_task(deliver(receiver_of(states, inbox), (1, "paid")))
        await inbox.reached.wait()

        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering


def test_the_error_says_what_to_do() -> None:
    """It can be told from a lost lease."""
    error = OutdatedEventError("event 4 is outdated")

    assert (error.reason, isinstance(error, LeaseLostError)) == ("outdated", False)
