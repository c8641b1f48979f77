"""What stops a run over real sockets, and what becomes of its debits."""

from __future__ import annotations

import asyncio
import pickle
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from jetpay_async import (
    AuthenticationError,
    ConfigurationError,
    JetpayClient,
    NotSentError,
    Rejected,
    TransactionFailedError,
)
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import (
    CapturesStoppedError,
    Ledger,
    LedgerError,
    Progress,
)
from tests.ledger.service import FAST, LOSE_AFTERWARDS, WAIT, Service, debits, serving

KEY = "2026-11-22"


async def outcomes_of(batch: Any) -> list[Any]:
    return [outcome async for outcome in batch.outcomes()]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "captures.db")


@pytest.mark.asyncio
async def test_a_rejected_token_stops_the_run_and_rejects_no_debit(path: str) -> None:
    """A 401 says nothing about a debit: all stay pending, and with a good token the same lines capture them."""
    async with serving() as (service, client):
        service.always = (401, {"detail": "expired"})
        async with client.durable_captures(path, concurrency=4) as captures:
            batch = await captures.submit(KEY, debits(50))
            with pytest.raises(CapturesStoppedError, match=r"expired.*50 of 50 debits are left") as caught:
                await batch.wait()
            assert isinstance(caught.value.__cause__, AuthenticationError)
            assert caught.value.progress == Progress(total=50, pending=50, sending=0, captured=0, rejected=0, unknown=0)
            assert service.requests.total() <= 8
            with pytest.raises(CapturesStoppedError):
                await outcomes_of(batch)
        service.always = None
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(50))).wait()).captured == 50


@pytest.mark.asyncio
async def test_a_token_that_is_rejected_while_a_status_is_read_stops_the_run(path: str) -> None:
    """A 401 to a status read says nothing about the debit either: the next run resolves it first, too."""
    async with serving(timeout=2.0) as (service, client):
        service.captures["debit_0"] = 1
        service.states["debit_0"] = (401, {"detail": "expired"})
        async with client.durable_captures(path, restored=True, concurrency=1) as captures:
            batch = await captures.submit(KEY, debits(1))
            with pytest.raises(CapturesStoppedError, match="expired") as caught:
                await batch.wait()
            assert isinstance(caught.value.__cause__, AuthenticationError)
            assert caught.value.progress is not None
            assert caught.value.progress.pending == 1
        del service.states["debit_0"]
        async with client.durable_captures(path) as captures:
            outcomes = await outcomes_of(await captures.submit(KEY, debits(1)))

        assert [outcome.confirmed_by_status for outcome in outcomes] == [True]
        assert service.requests["debit_0"] == 0


@pytest.mark.asyncio
async def test_a_token_that_is_rejected_while_debits_are_resolved_stops_the_run(path: str) -> None:
    """A debit in doubt stays in doubt until its status can be read."""
    async with serving(timeout=0.3) as (service, client):
        service.script["debit_0"] = [LOSE_AFTERWARDS]
        service.states["debit_0"] = (503, {})
        async with client.durable_captures(path, concurrency=1) as captures:
            batch = await captures.submit(KEY, debits(1))
            while service.requests["status"] < 2:
                await asyncio.sleep(0.01)
            service.states["debit_0"] = (401, {"detail": "expired"})
            with pytest.raises(CapturesStoppedError, match="expired") as caught:
                await batch.wait()
            assert caught.value.progress is not None
            assert caught.value.progress.sending == 1
        del service.states["debit_0"]
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(1))).wait()).captured == 1

        assert service.captures == Counter(debits(1))


async def leave_in_doubt(service: Service, client: JetpayClient, path: str) -> None:
    """Capture one debit, and be cut off before the answer comes."""
    service.always = WAIT

    async def run() -> None:
        async with client.durable_captures(path, concurrency=1) as captures:
            await captures.submit(KEY, debits(1))
            await service.arrived.wait()

    task = asyncio.create_task(run())
    await service.arrived.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    service.always = None


@pytest.mark.asyncio
async def test_a_rejected_token_leaves_in_doubt_what_was(path: str) -> None:
    """What an earlier run left in doubt is not decided by a 401 to the read of its status."""
    async with serving(timeout=0.4) as (service, client):
        await leave_in_doubt(service, client, path)
        service.states["debit_0"] = (401, {"detail": "expired"})

        async with client.durable_captures(path) as captures:
            batch = await captures.submit(KEY, debits(1))
            with pytest.raises(CapturesStoppedError, match="expired") as caught:
                await batch.wait()

        assert caught.value.progress is not None
        assert caught.value.progress.sending == 1


@pytest.mark.asyncio
async def test_a_debit_in_doubt_that_is_over_is_rejected(path: str) -> None:
    """What an earlier run left in doubt, and has failed since, is reported as rejected."""
    async with serving(timeout=0.4) as (service, client):
        await leave_in_doubt(service, client, path)
        service.states["debit_0"] = "failed"

        async with client.durable_captures(path) as captures:
            (outcome,) = await outcomes_of(await captures.submit(KEY, debits(1)))

        assert isinstance(outcome, Rejected)
        assert isinstance(outcome.error, TransactionFailedError)


@pytest.mark.asyncio
async def test_a_fault_of_our_own_stops_the_run(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in one part of a run ends all of them in order, and whoever waits hears of it."""

    def write(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with serving(timeout=0.4) as (service, client):
        async with client.durable_captures(path, concurrency=1) as captures:
            with monkeypatch.context() as broken:
                broken.setattr("jetpay_async.ledger._rows.write", write)
                with pytest.raises(CapturesStoppedError) as caught:
                    await (await captures.submit(KEY, debits(3))).wait()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(3))).wait()).captured == 3

        assert service.captures == Counter(debits(3))


@pytest.mark.asyncio
async def test_a_dead_api_stops_the_run(path: str, unused_tcp_port: int) -> None:
    """Nothing is asked of an API that does not answer again and again; every debit stays pending."""
    async with (
        JetpayClient("sandbox_t", base_url=f"http://127.0.0.1:{unused_tcp_port}", timeout=1.0, retry=FAST) as client,
        client.durable_captures(path, concurrency=4) as captures,
    ):
        batch = await captures.submit(KEY, debits(100))

        with pytest.raises(CapturesStoppedError, match="100 of 100 debits are left") as caught:
            await batch.wait()

        assert isinstance(caught.value.__cause__, NotSentError)
        assert pickle.loads(pickle.dumps(caught.value)).progress == caught.value.progress
        assert caught.value.retryable


@pytest.mark.parametrize("ask", [lambda batch: batch.wait(), outcomes_of], ids=["wait", "outcomes"])
@pytest.mark.asyncio
async def test_a_ledger_that_breaks_stops_the_run(path: str, ask: Any) -> None:
    """Whoever waits for a batch gets one kind of error, whichever part of the run met the broken ledger first."""
    async with serving() as (service, client), client.durable_captures(path, concurrency=4) as captures:
        service.always = WAIT
        batch = await captures.submit(KEY, debits(20))
        await service.arrived.wait()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE jetpay_batch")

        with pytest.raises(CapturesStoppedError, match="no such table") as caught:
            await ask(batch)

        assert isinstance(caught.value.__cause__, LedgerError)
        assert caught.value.progress is None
        service.go.set()


@pytest.mark.asyncio
async def test_a_closed_client_stops_the_run(path: str) -> None:
    """A client that is closed under the run leaves its debits pending."""
    async with serving() as (service, client), client.durable_captures(path) as captures:
        await client.aclose()

        with pytest.raises(CapturesStoppedError) as caught:
            await (await captures.submit(KEY, debits(3))).wait()

        assert isinstance(caught.value.__cause__, ConfigurationError)
        assert caught.value.progress is not None
        assert caught.value.progress.pending == 3
        assert not service.requests


@pytest.mark.asyncio
async def test_stopping_leaves_nothing_in_doubt(path: str) -> None:
    """What is in flight finishes, nothing more is sent, and what was claimed goes back."""
    async with serving() as (service, client), client.durable_captures(path, concurrency=4) as captures:
        service.always = WAIT
        batch = await captures.submit(KEY, debits(100))
        while service.in_flight < 4:
            await asyncio.sleep(0.001)
        waiter = asyncio.create_task(batch.wait())

        captures.stop()
        captures.stop()
        service.go.set()
        with pytest.raises(CapturesStoppedError, match=r"stopped on request, 96 of 100 debits are left"):
            await waiter

        assert service.requests.total() == 4
        assert await batch.progress() == Progress(total=100, pending=96, sending=0, captured=4, rejected=0, unknown=0)
        assert len(await outcomes_before_the_stop(batch)) == 4


async def outcomes_before_the_stop(batch: Any) -> list[Any]:
    outcomes = []
    with pytest.raises(CapturesStoppedError):
        async for outcome in batch.outcomes():
            outcomes.append(outcome)  # noqa: PERF401 - the end is an error
    return outcomes


@pytest.mark.asyncio
async def test_leaving_the_block_leaves_nothing_in_doubt(path: str) -> None:
    """An exception inside the block lets what is in flight finish; the rest is captured by the next run."""
    async with serving() as (service, client):
        with pytest.raises(ZeroDivisionError):
            async with client.durable_captures(path, concurrency=4) as captures:
                await captures.submit(KEY, debits(100))
                await service.arrived.wait()
                raise ZeroDivisionError
        async with Ledger(path, create=False) as ledger:
            progress = await ledger.progress(KEY)
        assert progress.sending == 0
        assert progress.captured == service.captures.total() < 100
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(100))).wait()).captured == 100

        assert service.captures == Counter(debits(100))


@pytest.mark.asyncio
async def test_a_cancelled_stop_leaves_what_was_in_flight_to_the_next_run(path: str) -> None:
    """Cancelled while captures in flight finish, the run cuts them off; the next one resolves them, none twice."""
    async with serving(timeout=0.4) as (service, client):
        service.always = WAIT

        async def run() -> None:
            async with client.durable_captures(path, concurrency=4) as captures:
                await captures.submit(KEY, debits(20))
                while service.in_flight < 4:
                    await asyncio.sleep(0.001)

        task = asyncio.create_task(run())
        while service.in_flight < 4:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with Ledger(path, create=False) as ledger:
            assert (await ledger.progress(KEY)).sending == 4
        service.go.set()
        service.always = None
        async with client.durable_captures(path) as captures:
            batch = await captures.submit(KEY, debits(20))
            outcomes = await outcomes_of(batch)

        assert Counter(outcome.debit_id for outcome in outcomes) == Counter(debits(20))
        assert sum(outcome.confirmed_by_status for outcome in outcomes) == 4
        assert service.captures == Counter(debits(20))


@pytest.mark.asyncio
async def test_a_pause_just_before_a_request_begins_counts_from_its_intent(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused between its last check and its request, a process sends nothing late: the debit is claimed anew."""
    paused_for = [0.0]
    clock = attrs.evolve(SYSTEM_CLOCK, monotonic=lambda: SYSTEM_CLOCK.monotonic() + paused_for[0])
    async with (
        Service().listen() as service,
        JetpayClient("sandbox_t", base_url=service.url, timeout=2.0, retry=FAST, clock=clock) as client,
    ):
        begin = client._executor.begin
        begun: list[int] = []

        def pause_and_begin(*arguments: Any, **options: Any) -> Any:
            if not begun:
                paused_for[0] = 100.0
            begun.append(service.requests["debit_0"])
            return begin(*arguments, **options)

        monkeypatch.setattr(client._executor, "begin", pause_and_begin)
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(1))).wait()).captured == 1

    assert begun == [0, 0], "the first one sent nothing"
    assert service.captures == Counter(debits(1))
