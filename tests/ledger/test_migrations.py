"""Ledgers of older releases are brought up to date when they are opened, unless a run uses them.

``data/v1_*.sql`` are dumps of ledgers that the release of schema version 1 wrote, killed in the middle of a batch.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import CapturesStoppedError, Ledger, LedgerError, _sql
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._owner_lock import OwnerLock
from jetpay_async.ledger._sql import Statements
from tests.ledger.payment_batch import outcomes, requests, states
from tests.ledger.payment_service import REQUEST
from tests.ledger.payment_service import serving as payment_serving
from tests.ledger.service import WAIT, debits, serving

DATA = Path(__file__).parent / "data"

OLD_SECONDS = 3600.0
"""How long before each test the old release was killed."""

TIMES = {
    "jetpay_owner": ("started_at", "lease_until"),
    "jetpay_batch": ("submitted_at", "finished_at"),
    "jetpay_debit": ("intent_at", "certain_at", "finished_at"),
}


class OldLedger(Protocol):
    """A ledger of version 1, and what can be done to it without the package."""

    url: str

    def query(self, statement: str) -> list[Any]:
        """Execute a statement; return its rows, if it has some."""
        ...

    def owner_alive(self) -> AbstractContextManager[None]:
        """Have the owner that it names be alive."""
        ...

    def tables(self) -> list[Any]:
        """Its columns and indexes."""
        ...


class OldSqlite:
    def __init__(self, path: Path) -> None:
        self.url = str(path)
        self.path = path

    def query(self, statement: str) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement).fetchall()

    @contextmanager
    def owner_alive(self) -> Iterator[None]:
        ((token,),) = self.query("SELECT token FROM jetpay_owner")
        lock = OwnerLock(self.path.with_name(f"{self.path.name}-owner-{token}"))
        yield
        lock.release()

    def tables(self) -> list[Any]:
        return self.query(
            "SELECT t.name, c.cid, c.name, c.type, c.[notnull], c.dflt_value, c.pk FROM sqlite_master t,"
            " pragma_table_info(t.name) c WHERE t.type = 'table'"
            " UNION ALL SELECT name, sql, '', '', '', '', '' FROM sqlite_master WHERE type = 'index' ORDER BY 1, 2"
        )


class OldPostgres:
    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, statement: str) -> list[Any]:
        import psycopg

        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def owner_alive(self) -> Iterator[None]:
        self.query("UPDATE jetpay_owner SET lease_until = extract(epoch FROM now()) + 60")
        yield
        self.query("UPDATE jetpay_owner SET lease_until = 0")

    def tables(self) -> list[Any]:
        return self.query(
            "SELECT table_name, (row_number() OVER (PARTITION BY table_name ORDER BY ordinal_position))::text,"
            " column_name, data_type, is_nullable, column_default"
            " FROM information_schema.columns WHERE table_schema = 'public'"
            " UNION ALL SELECT tablename, indexname, indexdef, '', '', '' FROM pg_indexes WHERE schemaname = 'public'"
            " UNION ALL SELECT relname, array_to_string(reloptions, ' '), '', '', '', '' FROM pg_class"
            " WHERE relname LIKE 'jetpay%' AND relkind = 'r' ORDER BY 1, 2"
        )


@pytest.fixture(params=["sqlite", "postgres"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> OldLedger:
    """A ledger of version 1, left behind an hour ago by a run that was killed."""
    script = (DATA / f"v1_{request.param}.sql").read_text(encoding="utf-8")
    ledger: OldLedger
    if request.param == "sqlite":
        ledger = OldSqlite(tmp_path / "captures.db")
        with closing(sqlite3.connect(ledger.url)) as connection:
            connection.executescript(script)
    else:
        ledger = OldPostgres(request.getfixturevalue("postgres_ledger"))
        ledger.query(script)
    ((last,),) = ledger.query("SELECT max(intent_at) FROM jetpay_debit")
    for table, columns in TIMES.items():
        by = time.time() - OLD_SECONDS - last
        ledger.query(f"UPDATE {table} SET {', '.join(f'{column} = {column} + {by}' for column in columns)}")
    return ledger


async def open_ledger(ledger: OldLedger) -> None:
    async with Ledger(ledger.url, create=False):
        pass


@pytest.mark.asyncio
async def test_the_fixtures_are_of_version_1(old: OldLedger) -> None:
    """What is migrated here is what the old release wrote."""
    assert old.query("SELECT version FROM jetpay_ledger") == [(1,)]
    assert old.query("SELECT key, captured, refused, unknown FROM jetpay_batch ORDER BY id") == [
        ("night", 6, 4, 1),
        ("morning", 2, 0, 0),
        ("later", 0, 0, 0),
        ("evening", 0, 0, 0),
    ]


@pytest.mark.asyncio
async def test_an_old_ledger_is_brought_up_to_date(old: OldLedger) -> None:
    """Batches keep their debits; what the old release held for certain without reason is recorded as what is known."""
    await open_ledger(old)

    states = dict(old.query("SELECT debit_id, state FROM jetpay_debit WHERE id < 8589934592"))
    assert states == {
        "debit_0": "captured",
        "debit_1": "rejected",  # 404
        "debit_2": "unknown",  # 408, which is no rejection
        "debit_3": "unknown",  # 409, which is none either
        "debit_4": "unknown",
        "debit_5": "captured",
        "debit_6": "captured",
        "debit_7": "captured",
        "debit_8": "accepted",  # processing
        "debit_9": "unknown",  # declined
        "debit_10": "rejected",  # failed
    }
    columns = "key, total, captured, accepted, rejected, unknown, finished_at IS NULL"
    assert old.query(f"SELECT {columns} FROM jetpay_batch ORDER BY id") == [
        ("night", 11, 4, 1, 2, 4, False),
        ("morning", 2, 2, 0, 0, 0, False),
        ("later", 3, 0, 0, 0, 0, True),
        ("evening", 2, 0, 0, 0, 0, True),
    ]


@pytest.mark.asyncio
async def test_what_may_be_on_its_way_is_waited_for_longer(old: OldLedger) -> None:
    """An old intent is certain a minute later than the old release held; a state that was seen ends resending.

    In a file, everything without a capture is waited for anew, since the old release did not note which clock it had.
    """
    before = dict(old.query("SELECT debit_id, certain_at FROM jetpay_debit WHERE certain_at IS NOT NULL"))

    await open_ledger(old)

    after = old.query("SELECT debit_id, certain_at, seen_state FROM jetpay_debit WHERE certain_at IS NOT NULL")
    longer = {debit_id for debit_id, certain_at, _ in after if certain_at > before[debit_id] + 59}
    anew = {"debit_8", "debit_9"} if isinstance(old, OldSqlite) else set()
    assert longer == {"e_0", "e_1", "debit_1", "debit_2", "debit_3", "debit_4", "debit_10"} | anew
    assert {debit_id: seen for debit_id, _, seen in after if seen is not None} == {
        "debit_4": "processing",
        "debit_8": "processing",
        "debit_9": "declined",
        "debit_10": "failed",
    }


@pytest.mark.asyncio
async def test_a_migrated_ledger_has_the_tables_of_a_new_one(
    old: OldLedger, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Both ways lead to the same columns and indexes, in the same order."""
    await open_ledger(old)
    new: OldLedger = OldSqlite(tmp_path / "new.db")
    migrated = old.tables()
    if isinstance(old, OldPostgres):
        old.query(
            "DROP TABLE jetpay_ledger, jetpay_owner, jetpay_batch, jetpay_debit, jetpay_payment, jetpay_transaction,"
            " jetpay_payment_batch, jetpay_payment_item"
        )
        new = old

    async with Ledger(new.url):
        pass

    assert migrated == new.tables()


@pytest.mark.asyncio
async def test_payments_of_version_4_can_be_in_a_batch(ledger: str) -> None:
    """A ledger that had no batches of payments keeps its payments, and takes batches of them."""
    async with payment_serving() as (service, client):
        async with client.durable_preauthorizations(ledger) as reservations:
            await reservations.preauthorize(reference="b0", **{**REQUEST, "statement": "b0"})
        with closing(choose_backend(ledger, SYSTEM_CLOCK).connect(create=False)) as connection:
            connection.begin(writes=True)
            for table in ("jetpay_payment_batch", "jetpay_payment_item"):
                connection.change(f"DROP TABLE {table}", {})
            connection.change("UPDATE jetpay_ledger SET version = 4", {})
            connection.commit()

        async with client.durable_preauthorizations(ledger) as reservations:
            found = await outcomes(await reservations.submit("night", requests(2)))

    assert sorted(found) == ["b0", "b1"]
    assert service.requests == {"b0": 1, "b1": 1}
    assert (await states(ledger)) == {"succeeded": 2}


@pytest.mark.asyncio
async def test_a_migrated_ledger_has_no_problem(old: OldLedger) -> None:
    """What `Ledger.verify` checks holds of what an older release wrote, too."""
    async with Ledger(old.url, create=False) as ledger:
        check = await ledger.verify()

    assert check.problems == ()
    assert check.debits.total > 0


@pytest.mark.asyncio
async def test_a_run_goes_on_with_an_old_ledger(old: OldLedger) -> None:
    """What was in doubt is resolved, what was pending is captured, and nothing that was captured is sent again."""
    await open_ledger(old)
    old.query("UPDATE jetpay_debit SET certain_at = certain_at - 61")  # the time that it gives old requests to arrive
    async with serving() as (service, client):
        service.captures.update(["e_0", "debit_7"])
        async with client.durable_captures(old.url) as captures:
            evening = await (await captures.batch("evening")).wait()
            later = await (await captures.batch("later")).wait()

    assert (evening.captured, later.captured) == (2, 3)
    assert service.requests["e_0"] == service.requests["debit_7"] == 0
    assert set(service.captures.values()) == {1}


@pytest.mark.asyncio
async def test_no_migration_while_a_run_is_alive(old: OldLedger) -> None:
    """While an owner lives the ledger stays as it is, and the error says whom to wait for; then it is migrated."""
    with old.owner_alive():
        with pytest.raises(
            LedgerError,
            match=rf"has schema version 1 .* brought to {_sql.SCHEMA_VERSION} .*process \d+ on h",
        ):
            await open_ledger(old)

        assert old.query("SELECT version FROM jetpay_ledger") == [(1,)]
        assert old.query("SELECT COUNT(*) FROM jetpay_debit WHERE state = 'refused'") == [(4,)]
    await open_ledger(old)
    assert old.query("SELECT version FROM jetpay_ledger") == [(_sql.SCHEMA_VERSION,)]


@pytest.mark.asyncio
async def test_an_old_process_can_not_become_an_owner(old: OldLedger) -> None:
    """A process of the old release that had the ledger open can't begin a run in it after the migration."""
    await open_ledger(old)

    with pytest.raises(Exception, match=r"(?i)not.null"):
        old.query("INSERT INTO jetpay_owner (token, host, pid, started_at) VALUES ('t', 'h', 1, 0)")


def test_processes_that_open_an_old_ledger_together_migrate_it_once(old: OldLedger) -> None:
    """All wait for the one that migrates, and go on."""

    def start(_: int) -> list[Any]:
        with closing(choose_backend(old.url, SYSTEM_CLOCK).connect(create=False)) as connection:
            return [tuple(row) for row in connection.query(connection.statements.version, {})]

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(start, range(6)))

    assert said == [[(_sql.SCHEMA_VERSION,)]] * 6


# --- newer releases ---------------------------------------------------------------------------------------------------


NEWER = rf"schema version {_sql.SCHEMA_VERSION + 1}, and this release of jetpay_async knows {_sql.SCHEMA_VERSION}"
MIGRATED = (
    rf"brought to schema version {_sql.SCHEMA_VERSION + 1} while it was open.*knows {_sql.SCHEMA_VERSION}; start this"
)


async def migrate_on(ledger: str) -> None:
    """Bring a ledger to the next version, as a newer release would."""
    with closing(choose_backend(ledger, SYSTEM_CLOCK).connect(create=False)) as connection:
        connection.begin(writes=True)
        connection.change("UPDATE jetpay_ledger SET version = version + 1", {})
        connection.commit()


@pytest.mark.asyncio
async def test_a_newer_ledger_is_refused(ledger: str) -> None:
    """A ledger of a newer release is left alone, and both versions are named."""
    async with Ledger(ledger):
        await migrate_on(ledger)

    with pytest.raises(LedgerError, match=NEWER + "; upgrade"):
        async with Ledger(ledger):
            pass


@pytest.mark.asyncio
@pytest.mark.parametrize("writes", [True, False], ids=["writing", "reading"])
async def test_a_process_stops_when_the_ledger_was_migrated(ledger: str, writes: bool) -> None:
    """Each transaction looks at the version: a process of this release neither reads nor writes newer tables."""
    async with Ledger(ledger) as opened:
        await migrate_on(ledger)

        with pytest.raises(LedgerError, match=MIGRATED):
            await opened.commits.run(lambda _: None, writes=writes)


@pytest.mark.asyncio
async def test_a_run_stops_when_the_ledger_was_migrated(ledger: str) -> None:
    """A run claims nothing more once a newer release has migrated the ledger."""
    async with serving() as (service, client):
        service.script["debit_0"] = [WAIT]
        with pytest.raises(CapturesStoppedError, match="start this process again"):
            async with client.durable_captures(ledger, concurrency=1) as captures:
                batch = await captures.submit("night", debits(20))
                await service.arrived.wait()
                await migrate_on(ledger)
                service.go.set()
                await batch.wait()

    assert service.captures.total() < 20


def test_each_step_has_its_dialects() -> None:
    """The steps are the same for both backends, but for the names of types."""
    from jetpay_async.ledger import _postgres, _sqlite
    from jetpay_async.ledger.migrations import migrations

    ways = [migrations(module.DIALECT) for module in (_postgres, _sqlite)]

    assert {way.version for way in ways} == {_sql.SCHEMA_VERSION}
    assert [sorted(way.steps) for way in ways] == [list(range(2, _sql.SCHEMA_VERSION + 1))] * 2
    assert Statements(_sqlite.DIALECT).version == Statements(_postgres.DIALECT).version
