"""Maintenance of a ledger: it is checked, copied, and cleared of what is no longer needed."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest

from jetpay_async import ConfigurationError, InvalidArgumentError, JetpayClient, RetryPolicy
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import DebitState, Ledger, LedgerCheck, LedgerError, Progress, Pruned, UnknownBatchError
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._sql import SCHEMA_VERSION
from tests.ledger.service import Service, debits, serving

QUICK = RetryPolicy(max_attempts=2, base_delay=0.01, resolve_after=0.1, resolve_after_timeout=0.1)
TOMORROW = datetime.now(UTC) + timedelta(days=1)


def change(ledger: str, statement: str) -> None:
    """Change what a ledger holds, behind its back."""
    with closing(choose_backend(ledger, SYSTEM_CLOCK).connect(create=False)) as connection:
        connection.begin(writes=True)
        connection.change(statement, {})
        connection.commit()


async def capture(client: JetpayClient, ledger: str, key: str, count: int) -> None:
    async with client.durable_captures(ledger) as captures:
        await (await captures.submit(key, debits(count))).wait(follow_up=0)


async def fill(service: Service, client: JetpayClient, ledger: str) -> None:
    """Store a batch of three debits: captured, rejected, and unknown."""
    service.script["debit_1"] = [(404, {"detail": "none"})]
    service.states["debit_1"] = (404, {"detail": "none"})
    service.script["debit_2"] = [(502, {})]
    service.states["debit_2"] = (503, {})
    await capture(client, ledger, "night", 3)


async def verify(ledger: str) -> LedgerCheck:
    async with Ledger(ledger, create=False) as opened:
        return await opened.verify()


async def prune(ledger: str, before: datetime = TOMORROW) -> Pruned:
    async with Ledger(ledger, create=False) as opened:
        return await opened.prune(before)


# --- verify


@pytest.mark.asyncio
async def test_a_good_ledger(ledger: str) -> None:
    """What it holds is counted, and no problem is found."""
    async with serving(timeout=0.5, retry=QUICK) as (service, client):
        await fill(service, client, ledger)

    check = await verify(ledger)

    assert check == LedgerCheck(
        problems=(),
        schema_version=SCHEMA_VERSION,
        origin="loopback",
        account=None,
        batches=1,
        pruned_captured=0,
        runs=0,
        debits=Progress(total=3, pending=0, sending=0, captured=1, rejected=1, unknown=1),
    )
    assert check.unresolved == 1


@pytest.mark.asyncio
async def test_an_empty_ledger(ledger: str) -> None:
    """A ledger that was only made has nothing to complain about."""
    async with Ledger(ledger) as opened:
        check = await opened.verify()

    assert (check.problems, check.batches, check.debits.total, check.unresolved) == ((), 0, 0, 0)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        pytest.param(
            "UPDATE jetpay_batch SET captured = 2",
            "batch 'night': its counts are not those of its debits",
            id="a wrong count",
        ),
        pytest.param(
            "DELETE FROM jetpay_debit WHERE state = 'captured'",
            "batch 'night': its counts are not those of its debits",
            id="a debit that is gone",
        ),
        pytest.param("DELETE FROM jetpay_batch", "3 debits belong to no batch", id="a batch that is gone"),
        pytest.param(
            "UPDATE jetpay_debit SET state = 'odd' WHERE state = 'rejected'",
            "1 debits are in a state that this release does not know",
            id="an odd state",
        ),
        pytest.param(
            "UPDATE jetpay_debit SET state = 'sending', certain_at = NULL WHERE state = 'unknown'",
            "1 debits are being sent by nobody, or since no known time",
            id="no time",
        ),
        pytest.param(
            "UPDATE jetpay_debit SET seq = NULL WHERE state = 'captured'",
            "1 debits have an outcome without a place, or a place without an outcome",
            id="no place",
        ),
        pytest.param("DROP INDEX jetpay_debit_sending", "jetpay_debit_sending is missing from the tables", id="index"),
        pytest.param(
            "ALTER TABLE jetpay_owner DROP COLUMN host", "jetpay_owner.host is missing from the tables", id="column"
        ),
    ],
)
@pytest.mark.asyncio
async def test_a_problem_is_found(postgres_ledger: str, tmp_path: Path, statement: str, problem: str) -> None:
    """What the rows say of each other, and the tables themselves; the same in a file and in PostgreSQL."""
    for ledger in (str(tmp_path / "captures.db"), postgres_ledger):
        async with Ledger(ledger) as opened:
            await opened.submit("night", debits(3))
        for number, state in enumerate(("captured", "rejected", "unknown")):
            change(
                ledger,
                f"UPDATE jetpay_debit SET state = '{state}', seq = id + 1, owner = 7, intent_at = 1, certain_at = 2 "
                f"WHERE debit_id = 'debit_{number}'",
            )
        change(ledger, "UPDATE jetpay_batch SET captured = 1, rejected = 1, unknown = 1, finished_at = 3")
        assert (await verify(ledger)).problems == ()
        if "sending" in statement and "INDEX" in statement and ledger == postgres_ledger:
            continue  # the statements of SQLite alone name the index, and are not needed here
        change(ledger, statement)

        assert problem in (await verify(ledger)).problems


@pytest.mark.asyncio
async def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    """The whole file is read: a page that is broken is reported, or the ledger can't be read at all."""
    ledger = tmp_path / "captures.db"
    async with Ledger(ledger) as opened:
        await opened.submit("night", debits(2000))
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jetpay_debit_once'").fetchone()
    with ledger.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)

    try:
        problems = (await verify(str(ledger))).problems
    except LedgerError as error:
        problems = (str(error),)

    assert any("damaged" in problem for problem in problems)


# --- backup


@pytest.mark.asyncio
async def test_a_copy_holds_everything(tmp_path: Path) -> None:
    """It is made while the ledger is in use, is whole, and can be read by its owner alone."""
    ledger, copy = str(tmp_path / "captures.db"), tmp_path / "copy.db"
    async with serving(timeout=0.5, retry=QUICK) as (_, client):
        async with client.durable_captures(ledger) as captures:
            await (await captures.submit("night", debits(5))).wait()
            async with Ledger(ledger, create=False) as opened:
                await opened.backup(copy)

    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("copy")] == ["copy.db"]
    copied = await verify(str(copy))
    assert copied.problems == ()
    assert copied.debits == (await verify(ledger)).debits
    async with Ledger(copy, create=False) as opened:
        assert [item.debit_id async for item in opened.items("night", DebitState.CAPTURED)] == debits(5)


@pytest.mark.asyncio
async def test_a_copy_can_go_on(tmp_path: Path) -> None:
    """With ``restored=True`` what was captured since the copy was made is found out, and not captured again."""
    ledger, copy = str(tmp_path / "captures.db"), tmp_path / "copy.db"
    async with serving(timeout=0.5, retry=QUICK) as (service, client):
        async with Ledger(ledger) as opened:
            await opened.submit("night", debits(3))
            await opened.backup(copy)
        await capture(client, ledger, "night", 3)
        async with client.durable_captures(copy, restored=True) as captures:
            report = await (await captures.submit("night", debits(3))).wait()

    assert report.captured == 3
    assert [service.requests[debit_id] for debit_id in debits(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("captures.db", "File exists", id="the ledger"),
        pytest.param("other", "File exists", id="a file"),
        pytest.param("link", "File exists", id="a link to nowhere"),
        pytest.param("none/copy.db", "No such file", id="no directory"),
        pytest.param("captures.db-journal", "belongs to the ledger", id="SQLite's, which removes it"),
        pytest.param("sub/../captures.db-owner-1", "belongs to the ledger", id="a run's, which removes it"),
    ],
)
@pytest.mark.asyncio
async def test_a_copy_overwrites_nothing(tmp_path: Path, name: str, message: str) -> None:
    """Only a new file will do, and what is there stays as it is."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "other").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    async with Ledger(tmp_path / "captures.db") as opened:
        with pytest.raises(ConfigurationError, match=message):
            await opened.backup(tmp_path / name)

    assert (tmp_path / "other").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.asyncio
async def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half of a ledger must not be taken for one."""
    async with Ledger(tmp_path / "captures.db") as opened:
        connect = sqlite3.connect

        def full(path: object) -> sqlite3.Connection:
            copy = connect(str(path))
            copy.execute("PRAGMA max_page_count = 1")
            return copy

        monkeypatch.setattr(sqlite3, "connect", full)
        with pytest.raises(LedgerError, match="disk is full"):
            await opened.backup(tmp_path / "copy.db")

    assert not (tmp_path / "copy.db").exists()


@pytest.mark.asyncio
async def test_postgresql_is_copied_by_its_own_tools(postgres_ledger: str, tmp_path: Path) -> None:
    """The error names the command, and nothing is made."""
    async with Ledger(postgres_ledger) as opened:
        with pytest.raises(ConfigurationError, match=r"pg_dump .*--file="):
            await opened.backup(tmp_path / "copy.db")

    assert list(tmp_path.iterdir()) == []


# --- prune


@pytest.mark.asyncio
async def test_the_ids_of_captured_debits_stay(ledger: str) -> None:
    """A batch that is gone can be submitted again: what was captured is known, and is not captured again."""
    async with serving(timeout=0.5, retry=QUICK) as (service, client):
        service.script["debit_1"] = [(404, {"detail": "none"})]
        service.states["debit_1"] = (404, {"detail": "none"})
        await capture(client, ledger, "night", 3)
        change(ledger, "UPDATE jetpay_debit SET certain_at = 0")

        pruned = await prune(ledger)
        check = await verify(ledger)

        assert pruned == Pruned(batches=1, captured_kept=2, rejected_removed=1, unresolved_batches=0)
        assert (check.problems, check.batches, check.pruned_captured, check.debits.total) == ((), 0, 2, 2)
        async with Ledger(ledger, create=False) as opened:
            assert await opened.batches() == []
            with pytest.raises(UnknownBatchError):
                await opened.progress("night")

        del service.states["debit_1"]
        await capture(client, ledger, "night", 3)
        async with Ledger(ledger, create=False) as opened:
            assert (await opened.progress("night")).captured == 3

    # The rejected one was tried again, the others were not.
    assert [service.requests[debit_id] for debit_id in debits(3)] == [1, 2, 1]
    assert (await verify(ledger)).problems == ()


@pytest.mark.parametrize("state", [DebitState.PENDING, DebitState.SENDING, DebitState.ACCEPTED, DebitState.UNKNOWN])
@pytest.mark.asyncio
async def test_what_is_unresolved_is_left_alone(ledger: str, state: DebitState) -> None:
    """A batch with a debit that may still be captured, or may have been, is not touched."""
    async with serving(timeout=0.5, retry=QUICK) as (_, client):
        await capture(client, ledger, "night", 3)
    change(ledger, f"UPDATE jetpay_debit SET state = '{state.value}' WHERE debit_id = 'debit_0'")
    change(ledger, "UPDATE jetpay_batch SET captured = 2")
    if state in {DebitState.ACCEPTED, DebitState.UNKNOWN}:
        change(ledger, f"UPDATE jetpay_batch SET {state.value} = 1")

    pruned = await prune(ledger)

    assert pruned == Pruned(batches=0, captured_kept=0, rejected_removed=0, unresolved_batches=1)
    async with Ledger(ledger, create=False) as opened:
        assert len([item async for item in opened.items("night")]) == 3


@pytest.mark.asyncio
async def test_what_is_younger_is_left_alone(ledger: str) -> None:
    """Only what was finished before the time goes."""
    async with serving(timeout=0.5, retry=QUICK) as (_, client):
        await capture(client, ledger, "old", 2)
        change(ledger, "UPDATE jetpay_batch SET finished_at = 1000")
        await capture(client, ledger, "new", 3)

    pruned = await prune(ledger, datetime.now(UTC) - timedelta(hours=1))

    assert (pruned.batches, pruned.captured_kept) == (1, 2)
    async with Ledger(ledger, create=False) as opened:
        assert [info.key for info in await opened.batches()] == ["new"]


@pytest.mark.asyncio
async def test_a_batch_of_rejected_debits_goes_whole(ledger: str) -> None:
    """Once no request for them can be on its way any more; nothing of it is worth keeping."""
    async with serving(timeout=0.5, retry=QUICK) as (service, client):
        service.script["debit_0"] = [(404, {"detail": "none"})]
        service.states["debit_0"] = (404, {"detail": "none"})
        await capture(client, ledger, "night", 1)
    change(ledger, "UPDATE jetpay_debit SET certain_at = 9e9")
    assert (await prune(ledger)).batches == 0
    change(ledger, "UPDATE jetpay_debit SET certain_at = 0")

    pruned = await prune(ledger)

    assert pruned == Pruned(batches=1, captured_kept=0, rejected_removed=1, unresolved_batches=0)
    check = await verify(ledger)
    assert (check.problems, check.debits.total, check.pruned_captured) == ((), 0, 0)


@pytest.mark.asyncio
async def test_pruning_again_changes_nothing(ledger: str) -> None:
    """What is left of a pruned batch stays."""
    async with serving(timeout=0.5, retry=QUICK) as (_, client):
        await capture(client, ledger, "night", 2)
    await prune(ledger)

    assert await prune(ledger) == Pruned(batches=0, captured_kept=0, rejected_removed=0, unresolved_batches=0)
    assert (await verify(ledger)).pruned_captured == 2


@pytest.mark.asyncio
async def test_who_still_reads_a_pruned_batch_gets_an_error(ledger: str) -> None:
    """A batch that is pruned under its reader is not taken for one without debits."""
    async with serving(timeout=0.5, retry=QUICK) as (_, client):
        async with client.durable_captures(ledger) as captures:
            batch = await captures.submit("night", debits(2))
            await batch.wait()
            await prune(ledger)

            with pytest.raises(UnknownBatchError, match="pruned"):
                await batch.progress()


@pytest.mark.parametrize("before", [datetime(2026, 1, 1), "2026-01-01", 0])  # noqa: DTZ001 - that is the point
@pytest.mark.asyncio
async def test_a_time_without_a_zone_is_refused(tmp_path: Path, before: datetime) -> None:
    """A local time of some other machine would remove hours too much."""
    async with Ledger(tmp_path / "captures.db") as opened:
        with pytest.raises(InvalidArgumentError, match="time zone") as caught:
            await opened.prune(before)

    assert caught.value.field == "before"


def test_a_check_can_be_written() -> None:
    """It is a value, as everything that a ledger reports."""
    check = LedgerCheck(
        problems=(),
        schema_version=SCHEMA_VERSION,
        origin=None,
        account=None,
        batches=0,
        pruned_captured=0,
        runs=0,
        debits=Progress(total=6, pending=1, sending=1, captured=1, accepted=1, rejected=1, unknown=1),
    )

    assert attrs.asdict(check)["debits"]["total"] == 6
    assert check.unresolved == 3
