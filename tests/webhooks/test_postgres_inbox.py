"""The inbox in PostgreSQL: its tables, its locks, its connection, and dead letters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from unittest.mock import PropertyMock, patch

import psycopg
import pytest
import pytest_asyncio

from jetpay_async._core.fork import ForkGuard
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks import _postgres_sql as sql
from jetpay_async.webhooks import postgres_inbox as module
from jetpay_async.webhooks.errors import InboxError, LeaseLostError
from jetpay_async.webhooks.inbox import DeadLetterInbox, DurableEventInbox, FailedAttempt, TransactionRecord
from jetpay_async.webhooks.postgres_inbox import PostgresInbox
from jetpay_async.webhooks.receiver import WebhookReceiver
from tests.reporters import chain, collected
from tests.webhooks.inboxes import SECONDS, TimedPostgresInbox, handle
from tests.webhooks.receivers import Shop, Trusting
from tests.webhooks.receiving import event, events, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.webhooks.receiving import FakeClock


@pytest.fixture
def inbox(postgres_inbox: TimedPostgresInbox) -> TimedPostgresInbox:
    return postgres_inbox


async def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


@pytest_asyncio.fixture
async def two(postgres_database: str) -> AsyncIterator[tuple[PostgresInbox, PostgresInbox]]:
    """The inboxes of two machines."""
    async with PostgresInbox(postgres_database) as one, PostgresInbox(postgres_database) as other:
        await one.create_tables()
        yield one, other


class TestTables:
    @pytest.mark.asyncio
    async def test_they_are_made_once(self, postgres_database: str) -> None:
        """Making the tables again, also by another process at the same moment, changes nothing."""
        async with PostgresInbox(postgres_database) as one, PostgresInbox(postgres_database) as other:
            await asyncio.gather(one.create_tables(), other.create_tables())
            await handle(one, 1)
            await other.create_tables()

            assert (await other.lease(events(1), owner="b", seconds=SECONDS)).handled == {1}

    @pytest.mark.asyncio
    async def test_a_migration_of_ones_own_makes_them(self, postgres_database: str) -> None:
        """The statements, executed as they are, make what the inbox needs."""
        for statement in PostgresInbox.create_statements():
            await execute(postgres_database, statement)

        async with PostgresInbox(postgres_database) as inbox:
            await handle(inbox, 1)

    @pytest.mark.asyncio
    async def test_without_them_the_next_step_is_said(self, postgres_database: str) -> None:
        """Tables are never made in passing; whoever forgot them is told how to make them."""
        async with PostgresInbox(postgres_database) as inbox:
            with pytest.raises(ConfigurationError, match="jetpay webhooks init"):
                await inbox.lease(events(1), owner="a", seconds=SECONDS)
            await inbox.create_tables()
            await handle(inbox, 1)

    @pytest.mark.asyncio
    async def test_tables_of_a_newer_release(self, postgres_database: str) -> None:
        """Tables that a newer release has changed are left alone."""
        async with PostgresInbox(postgres_database) as inbox:
            await inbox.create_tables()
        await execute(postgres_database, "UPDATE jetpay_inbox_schema SET version = 99")

        async with PostgresInbox(postgres_database) as inbox:
            for step in (inbox.create_tables(), inbox.release(owner="a")):
                with pytest.raises(InboxError, match="schema 99") as caught:
                    await step
                assert caught.value.reason == "newer_schema"

    @pytest.mark.asyncio
    async def test_two_accounts_share_them(self, postgres_database: str) -> None:
        """Events of one source say nothing of another source's."""
        async with PostgresInbox(postgres_database, source="a") as one, PostgresInbox(postgres_database) as other:
            await one.create_tables()
            await handle(one, 1)

            assert (await other.lease(events(1), owner="b", seconds=SECONDS)).mine == {1}


class TestTexts:
    """What no text or index of PostgreSQL can hold blocks no delivery."""

    @pytest.mark.parametrize("transaction_id", ["t\0x", "".join(map(chr, range(0x400, 0x1400)))], ids=["NUL", "long"])
    @pytest.mark.asyncio
    async def test_any_transaction_id(self, inbox: TimedPostgresInbox, transaction_id: str) -> None:
        """An event of a transaction with any id is stored, waits for its transaction, is remembered and set aside."""
        inbox.remember_states()
        first, second = (event(n, transaction=transaction_id, state="pa\0id") for n in (1, 2))
        await inbox.store([first, second])
        await inbox.claim(owner="a", seconds=SECONDS, limit=1, exclusive=False)
        await inbox.reschedule(first, owner="a", seconds=1)
        waiting = await inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False)
        inbox.time.tick(2)
        await inbox.claim(owner="c", seconds=SECONDS, limit=9, exclusive=False)
        async with inbox.handling(first, owner="c"):
            pass
        await inbox.record_failure(second, owner="c", error="x", max_attempts=1)

        assert waiting == ()
        last = await inbox.last_handled(transaction_id)
        assert last == TransactionRecord(event_id=1, state="pa\N{REPLACEMENT CHARACTER}id")
        assert await inbox.last_handled("another") is None
        assert [letter.event for letter in await inbox.dead_letters()] == [second]


class TestMachines:
    @pytest.mark.asyncio
    async def test_simultaneous_deliveries_are_leased_once(self, two: tuple[PostgresInbox, PostgresInbox]) -> None:
        """Of the same events, delivered to several machines at once, each has one owner."""
        owners = [f"owner-{number}" for number in range(8)]
        leased = await asyncio.gather(
            *(
                two[number % 2].lease(events(*range(1, 21)), owner=owner, seconds=SECONDS)
                for number, owner in enumerate(owners)
            )
        )

        assert sorted(event_id for each in leased for event_id in each.mine) == list(range(1, 21))

    @pytest.mark.asyncio
    async def test_one_machine_claims_at_a_time(self, two: tuple[PostgresInbox, PostgresInbox]) -> None:
        """Stored events go to one machine, however many ask at the same moment."""
        await two[0].store(events(1, 2, 3))
        claimed = await asyncio.gather(
            *(
                each.claim(owner=f"{number}", seconds=SECONDS, limit=9, exclusive=False)
                for number, each in enumerate(two * 3)
            )
        )

        assert sorted(map(len, claimed)) == [0, 0, 0, 0, 0, 3]

    @pytest.mark.asyncio
    async def test_a_claim_does_not_wait_for_another_one(self, inbox: PostgresInbox, postgres_database: str) -> None:
        """While another machine is claiming, nothing is claimed; the next poll asks again."""
        await inbox.store(events(1))
        async with await psycopg.AsyncConnection.connect(postgres_database) as other:
            await other.execute(sql.CLAIM_LOCK.encode(), {"source": ""})
            meanwhile = await inbox.claim(owner="a", seconds=SECONDS, limit=9, exclusive=False)
            await other.rollback()

        assert meanwhile == ()
        assert await inbox.claim(owner="a", seconds=SECONDS, limit=9, exclusive=False) == events(1)

    @pytest.mark.asyncio
    async def test_an_open_transaction_of_somebody_elses_keeps_nobody_waiting(
        self, inbox: TimedPostgresInbox, postgres_database: str, time: FakeClock
    ) -> None:
        """An event that an open transaction is about to mark is busy at once, though its lease has run out."""
        await inbox.store(events(1, 2))
        await inbox.lease(events(1), owner="a", seconds=SECONDS)
        async with await psycopg.AsyncConnection.connect(postgres_database) as own:
            await own.execute("UPDATE jetpay_inbox SET handled_at = 1 WHERE event_id = 1")
            assert await inbox.renew([1], owner="a", seconds=SECONDS) == {1}
            await inbox.release(owner="a")
            time.tick(SECONDS)

            leased = await inbox.lease(events(1, 2), owner="b", seconds=SECONDS)
            claimed = await inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False)
            await own.rollback()

        assert (leased.mine, leased.busy) == (set(), {1, 2})
        assert claimed == ()
        assert await inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False) == events(1, 2)

    @pytest.mark.asyncio
    async def test_a_mark_waits_for_a_bounded_time(self, postgres_database: str) -> None:
        """A lock that is held for longer than lock_timeout is said to be the reason."""
        async with PostgresInbox(postgres_database, lock_timeout=0.05) as inbox:
            await inbox.create_tables()
            await inbox.lease(events(1), owner="a", seconds=SECONDS)
            async with await psycopg.AsyncConnection.connect(postgres_database) as own:
                await own.execute("SELECT 1 FROM jetpay_inbox FOR UPDATE")
                with pytest.raises(InboxError) as caught:
                    async with inbox.handling(event(1), owner="a"):
                        pass
                await own.rollback()
            async with inbox.handling(event(1), owner="a"):
                pass

        assert caught.value.reason == "locked"


class TestDeadLetters:
    @pytest.mark.asyncio
    async def test_the_last_attempt_makes_one(self, inbox: TimedPostgresInbox, time: FakeClock) -> None:
        """An event that failed too often is set aside with what is known of it, and counts as handled."""
        await inbox.store(events(1))
        await inbox.claim(owner="a", seconds=SECONDS, limit=9, exclusive=False)
        attempts = [
            await inbox.record_failure(event(1), owner="a", error="ValueError: \0", max_attempts=2) for _ in range(2)
        ]
        (letter,) = await inbox.dead_letters()

        assert attempts == [FailedAttempt(attempts=1, is_dead=False), FailedAttempt(attempts=2, is_dead=True)]
        assert (letter.event, letter.attempts, letter.event.webhook_id) == (event(1), 2, 123)
        assert letter.error == "ValueError: \N{REPLACEMENT CHARACTER}"
        assert letter.failed_at.timestamp() == time.now
        assert (await inbox.lease(events(1), owner="b", seconds=SECONDS)).handled == {1}

    @pytest.mark.asyncio
    async def test_replay_and_discard(self, inbox: TimedPostgresInbox) -> None:
        """A replayed one is stored like a new event; a discarded one stays handled; another id is rejected."""
        await inbox.lease(events(1, 2), owner="a", seconds=SECONDS)
        for one in events(1, 2):
            await inbox.record_failure(one, owner="a", error="x", max_attempts=1)
        await inbox.replay_dead_letter(1)
        await inbox.discard_dead_letter(2)

        assert await inbox.dead_letters() == ()
        assert await inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False) == events(1)
        for step in (inbox.replay_dead_letter, inbox.discard_dead_letter):
            with pytest.raises(InvalidArgumentError, match="event 2 is not a dead letter"):
                await step(2)

    @pytest.mark.asyncio
    async def test_only_the_owner_counts_a_failure(self, inbox: TimedPostgresInbox) -> None:
        """A worker that has lost an event can't set it aside; one that has marked it itself sets nothing aside."""
        await inbox.lease(events(1), owner="a", seconds=SECONDS)
        with pytest.raises(LeaseLostError, match="event 1 was taken over"):
            await inbox.record_failure(event(1), owner="b", error="x", max_attempts=1)
        await handle(inbox, 2, owner="a")
        done = await inbox.record_failure(event(2), owner="a", error="x", max_attempts=1)

        assert done == FailedAttempt(attempts=0, is_dead=False)
        assert await inbox.dead_letters() == ()

    def test_it_is_an_inbox_for_everything(self) -> None:
        """The receiver finds that it stores events and keeps dead letters."""
        inbox = PostgresInbox("postgresql://localhost/shop")

        assert isinstance(inbox, DurableEventInbox)
        assert isinstance(inbox, DeadLetterInbox)


class TestConnection:
    @pytest.mark.asyncio
    async def test_a_connection_that_was_lost_is_made_anew(
        self, two: tuple[PostgresInbox, PostgresInbox], postgres_database: str
    ) -> None:
        """A server that restarts between two steps costs no event its mark."""
        await two[0].lease(events(1), owner="a", seconds=SECONDS)
        await execute(
            postgres_database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        async with two[0].handling(event(1), owner="a"):
            pass

        assert (await two[1].lease(events(1), owner="b", seconds=SECONDS)).handled == {1}

    @pytest.mark.asyncio
    async def test_a_server_that_stays_away(
        self, two: tuple[PostgresInbox, PostgresInbox], postgres_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the second connection fails too, the delivery is asked to come again."""
        await two[0].release(owner="a")

        async def refuse(*_: object, **__: object) -> object:
            raise psycopg.OperationalError("connection refused")

        await execute(
            postgres_database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        monkeypatch.setattr(psycopg.AsyncConnection, "connect", refuse)
        for _ in range(2):
            with pytest.raises(InboxError, match="connection refused") as caught:
                await two[0].release(owner="a")
            assert caught.value.reason == "unavailable"

    @pytest.mark.asyncio
    async def test_tables_that_are_gone(self, inbox: TimedPostgresInbox, postgres_database: str) -> None:
        """Tables that somebody removes while they are in use are an error of the inbox's, like any other."""
        await inbox.release(owner="a")
        await execute(postgres_database, "DROP TABLE jetpay_inbox")

        with pytest.raises(InboxError, match='relation "jetpay_inbox" does not exist') as caught:
            await inbox.release(owner="a")
        assert caught.value.reason == "unavailable"

    @pytest.mark.asyncio
    async def test_the_password_is_shown_nowhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither in an error and its frames nor in a representation."""

        async def refuse(conninfo: str, **_: object) -> object:
            raise psycopg.OperationalError("no such user: hush-hush")

        monkeypatch.setattr(psycopg.AsyncConnection, "connect", refuse)
        inbox = PostgresInbox("postgresql://me:hush-hush@db.example/shop", source="a")
        with pytest.raises(InboxError, match=r"no such user: \*\*\*") as caught:
            await inbox.release(owner="a")

        assert repr(inbox) == "PostgresInbox('db.example/shop', source='a')"
        assert "hush-hush" not in collected(chain(caught.value))

    @pytest.mark.parametrize(
        ("url", "options"),
        [
            ("postgresql://me:hush-hush@db.example:port:1/shop", {}),
            ("hush-hush", {}),
            ("postgresql://me:hush-hush@db.example/shop", {"lock_timeout": 0}),
        ],
    )
    def test_a_constructor_that_fails(self, url: str, options: dict[str, float]) -> None:
        """What can't be used is rejected without showing it, and what is half made has a repr."""
        with pytest.raises((ConfigurationError, InvalidArgumentError)) as caught:
            PostgresInbox(url, **options)

        assert "hush-hush" not in str(caught.value)
        assert "hush-hush" not in collected(chain(caught.value))

    @pytest.mark.asyncio
    async def test_closing(self, postgres_database: str) -> None:
        """A closed inbox says so, closing again does nothing, and entering it again opens it."""
        inbox = PostgresInbox(postgres_database)
        await inbox.create_tables()
        await inbox.aclose()
        await inbox.aclose()
        with pytest.raises(ConfigurationError, match="is closed"):
            await inbox.release(owner="a")
        async with inbox:
            await inbox.release(owner="a")

    def test_another_event_loop(self, postgres_database: str) -> None:
        """A connection belongs to the loop that opened it; each loop opens its own once the first is closed."""
        inbox = PostgresInbox(postgres_database)
        with asyncio.Runner() as first:
            first.run(inbox.create_tables())
            with pytest.raises(ConfigurationError, match="another event loop"):
                asyncio.run(inbox.create_tables())
            first.run(inbox.aclose())

        async def use() -> None:
            async with inbox:
                await inbox.release(owner="a")

        asyncio.run(use())

    @pytest.mark.asyncio
    async def test_a_forked_child_leaves_the_connection_to_its_parent(self, postgres_database: str) -> None:
        """A child neither uses nor closes what its parent has opened."""
        async with PostgresInbox(postgres_database) as inbox:
            await inbox.create_tables()
            with patch.object(ForkGuard, "forked", new_callable=PropertyMock, return_value=True):
                with pytest.raises(ConfigurationError, match="before a fork"):
                    await inbox.release(owner="a")
                await inbox.aclose()
            async with inbox:
                await inbox.release(owner="a")

    @pytest.mark.asyncio
    async def test_a_step_that_is_cancelled(self, inbox: TimedPostgresInbox, postgres_database: str) -> None:
        """A delivery that is given up while a statement waits leaves the connection fit for the next."""
        await inbox.lease(events(1), owner="a", seconds=SECONDS)
        async with await psycopg.AsyncConnection.connect(postgres_database) as own:
            await own.execute("SELECT 1 FROM jetpay_inbox FOR UPDATE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), inbox.handling(event(1), owner="a"):
                    pass
            await own.rollback()

        async with inbox.handling(event(1), owner="a"):
            pass


class TestNotifications:
    @pytest.mark.asyncio
    async def test_stored_events_are_announced(
        self, two: tuple[PostgresInbox, PostgresInbox], postgres_database: str, time: FakeClock
    ) -> None:
        """Another machine's receiver hears of the stored events of its source without polling."""
        woken: list[int] = []
        two[1].notify_of_stored(lambda: woken.append(1))
        two[1].notify_of_stored(lambda: woken.append(2))
        await until(lambda: woken == [1])
        async with TimedPostgresInbox(postgres_database, time) as other_source:
            other_source._source = "other"
            await other_source.store(events(1))
        await two[0].store(events(1))

        await until(lambda: woken == [1, 1])
        await asyncio.sleep(0)
        assert woken == [1, 1]

    @pytest.mark.asyncio
    async def test_the_receiver_listens(self, two: tuple[PostgresInbox, PostgresInbox]) -> None:
        """A receiver that is entered handles at once what another machine stores."""
        shop = Shop()
        async with WebhookReceiver(Trusting(), shop.router, inbox=two[1], poll_interval=600.0):
            await two[0].store(events(1))
            await shop.finished(1)

    @pytest.mark.asyncio
    async def test_a_lost_connection_is_made_anew(
        self, two: tuple[PostgresInbox, PostgresInbox], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While notifications can't be heard the receiver polls, and listening is tried again."""
        monkeypatch.setattr(module, "_LISTEN_PAUSE_SECONDS", 0.0)
        connect = two[0]._connect_to_listen
        tries: list[int] = []

        async def fail_once() -> object:
            tries.append(1)
            if len(tries) == 1:
                raise psycopg.OperationalError("refused")
            return await connect()

        monkeypatch.setattr(two[0], "_connect_to_listen", fail_once)
        woken: list[int] = []
        two[0].notify_of_stored(lambda: woken.append(1))

        await until(lambda: woken == [1])
        assert len(tries) == 2
