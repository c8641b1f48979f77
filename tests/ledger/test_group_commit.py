"""The thread that commits what has queued up as one transaction."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jetpay_async import ConfigurationError
from jetpay_async._core import fork
from jetpay_async.ledger import Ledger, LedgerError, UnknownBatchError, _repository
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._group_commit import GroupCommitExecutor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captures.db"


async def occupy(commits: GroupCommitExecutor) -> tuple[asyncio.Future[bool], threading.Event]:
    """Have the thread be in the middle of a transaction until the event is set."""
    busy, gate = threading.Event(), threading.Event()

    def wait(_: Connection) -> bool:
        busy.set()
        return gate.wait(30)

    occupied = asyncio.ensure_future(commits.run(wait))
    assert await asyncio.to_thread(busy.wait, 30)
    return occupied, gate


@pytest.mark.asyncio
async def test_operations_that_meet_share_a_commit(path: Path) -> None:
    """Work that comes while another commit is under way is committed together, in order."""
    async with Ledger(path) as ledger:
        commits = ledger.commits
        first, gate = await occupy(commits)
        before = commits.commits
        numbers = [asyncio.ensure_future(commits.run(partial(_return, number=n))) for n in range(20)]
        await asyncio.sleep(0)
        gate.set()

        assert await first
        assert await asyncio.gather(*numbers) == list(range(20))
        assert commits.commits == before + 2


@pytest.mark.asyncio
async def test_a_transaction_that_fails_fails_for_all_its_parts(path: Path) -> None:
    """Nothing of a transaction that failed counts; the next one is not concerned."""
    async with Ledger(path) as ledger:
        commits = ledger.commits
        first, gate = await occupy(commits)
        insert = partial(_insert, key="a")
        shared = [
            asyncio.ensure_future(commits.run(insert)),
            asyncio.ensure_future(commits.run(lambda connection: connection.query("SELECT nonsense", {}))),
        ]
        await asyncio.sleep(0)
        gate.set()

        await first
        for part in shared:
            with pytest.raises(LedgerError, match="no such column"):
                await part
        await commits.run(partial(_insert, key="b"))
        assert [batch.key for batch in await ledger.batches()] == ["b"]


def _return(connection: Any, number: int) -> int:
    return number


def _insert(connection: Any, key: str) -> None:
    connection.query(connection.statements.add_batch, {"key": key, "fingerprint": "", "chunks": 0})


@pytest.mark.asyncio
async def test_what_the_ledger_refuses_spoils_no_other_part(path: Path) -> None:
    """An operation that the ledger refuses has changed nothing: those that shared its transaction stand."""
    async with Ledger(path) as ledger:
        first, gate = await occupy(ledger.commits)
        rejected = asyncio.ensure_future(ledger.progress("none"))
        kept = asyncio.ensure_future(ledger.commits.run(partial(_insert, key="a")))
        await asyncio.sleep(0)
        gate.set()

        await first
        with pytest.raises(UnknownBatchError):
            await rejected
        await kept
        assert [batch.key for batch in await ledger.batches()] == ["a"]


@pytest.mark.asyncio
async def test_work_that_nobody_waits_for_any_more_is_carried_out(path: Path) -> None:
    """Who stops waiting gets no answer, and nobody else is disturbed."""
    async with Ledger(path) as ledger:
        unwanted = asyncio.ensure_future(ledger.commits.run(partial(_insert, key="a")))
        await asyncio.sleep(0)
        unwanted.cancel()

        assert [batch.key for batch in await ledger.batches()] == ["a"]


@pytest.mark.asyncio
async def test_a_closed_ledger_says_so(path: Path) -> None:
    """Outside of its block a ledger can't be used."""
    ledger = Ledger(path)
    with pytest.raises(ConfigurationError, match="ledger is not open"):
        await ledger.batches()
    async with ledger:
        commits = ledger.commits
    with pytest.raises(LedgerError, match="is closed; open it again"):
        await commits.run(_repository.batches)


@pytest.mark.asyncio
async def test_opening_can_be_cancelled(path: Path) -> None:
    """A cancelled opening leaves no thread behind."""
    before = threading.active_count()
    task = asyncio.ensure_future(Ledger(path).__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    for _ in range(200):
        if threading.active_count() == before:
            break
        await asyncio.sleep(0.01)
    assert threading.active_count() == before


def test_a_program_that_does_not_close_its_ledger_still_ends(path: Path) -> None:
    """A ledger left open keeps no process alive, and what was submitted is there."""
    script = """
import asyncio, sys
from jetpay_async.ledger import Ledger
async def main():
    ledger = await Ledger(sys.argv[1]).__aenter__()
    await ledger.submit("night", ["debit_1"])
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=30)

    async def read() -> int:
        async with Ledger(path, create=False) as ledger:
            return (await ledger.progress("night")).total

    assert asyncio.run(read()) == 1


@pytest.mark.asyncio
async def test_work_that_comes_while_the_ledger_closes_is_refused(path: Path) -> None:
    """Nothing waits for a thread that has ended: what comes too late is an error at once."""
    async with Ledger(path) as ledger:
        commits = ledger.commits
        first, gate = await occupy(commits)
        closing = asyncio.ensure_future(commits.close())
        await asyncio.sleep(0)

        with pytest.raises(LedgerError, match="is closed; open it again"):
            async with asyncio.timeout(5):
                await ledger.batches()

        gate.set()
        assert await first
        await closing


@pytest.mark.asyncio
async def test_a_forked_child_opens_a_ledger_of_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread stays with the parent: in a child the ledger is an error, and neither work nor closing hangs."""
    async with Ledger(path) as ledger:
        with monkeypatch.context() as child:
            child.setattr(fork, "_generation", fork._generation + 1)

            with pytest.raises(ConfigurationError, match="opened before a fork; open it again in the child"):
                await ledger.batches()
            async with asyncio.timeout(5):
                await ledger.commits.close()
