"""Captures by the workers of an application: what gets lost, what is found again, and what ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import procrastinate
import psycopg
import pytest
import pytest_asyncio
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Job

import jetpay_async.procrastinate
from jetpay_async import Captured, ConfigurationError, InvalidArgumentError, JetpayClient
from jetpay_async import procrastinate as module
from jetpay_async.ledger import (
    BatchMismatchError,
    ChunkBusyError,
    DebitState,
    Ledger,
    LedgerError,
    Progress,
    UnknownBatchError,
    _intents,
)
from jetpay_async.ledger._intents import OutcomeRecord
from jetpay_async.ledger._postgres import PostgresBackend
from jetpay_async.ledger._repository import Scope
from jetpay_async.procrastinate import CHUNK_TASK, RESCUE_TASK, ProcrastinateCaptures, RetryLater
from tests.ledger.service import FAST, LOSE, PAID, WAIT, Service, debits

KEY = "night"
STALLED = 2.0


class Shop:
    """An application with a queue, a ledger and a service."""

    def __init__(self, url: str, service: Service) -> None:
        self.url = url
        self.service = service
        self.clients = 0
        self.timeout = 2.0
        self.app = App(connector=PsycopgConnector(conninfo=url))
        self.captures = jetpay_async.procrastinate.durable_captures(
            self.app, self.make_client, ledger=url, concurrency=8, lease_seconds=1.0, stalled_after=STALLED
        )

    def make_client(self) -> JetpayClient:
        self.clients += 1
        return JetpayClient("token-that-must-not-show", base_url=self.service.url, timeout=self.timeout, retry=FAST)

    @asynccontextmanager
    async def worker(self, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
        """Run a worker, until the block ends."""
        defaults: dict[str, Any] = {
            "queues": ["jetpay"],
            "concurrency": 4,
            "delete_jobs": "successful",
            "install_signal_handlers": False,
            "update_heartbeat_interval": 0.3,
            "fetch_job_polling_interval": 0.1,
            "shutdown_graceful_timeout": 5.0,
        }
        task = asyncio.create_task(self.app.run_worker_async(**{**defaults, **options}))
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self.captures.close()

    async def jobs(self, task: str = CHUNK_TASK) -> list[Job]:
        return list(await self.app.job_manager.list_jobs_async(task=task))

    async def leave_a_job(self) -> None:
        """Take the first job as a worker that dies at once."""
        manager = self.app.job_manager
        job = await manager.fetch_job(["jetpay"], await manager.register_worker())
        assert job is not None
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")


@pytest_asyncio.fixture
async def shop(postgres_ledger: str) -> AsyncIterator[Shop]:
    async with Service().listen() as service:
        shop = Shop(postgres_ledger, service)
        async with shop.app.open_async():
            await shop.app.schema_manager.apply_schema_async()
            yield shop


@pytest.mark.asyncio
async def test_workers_capture_a_batch(shop: Shop) -> None:
    """Each debit of a batch is captured once and reported once; the ledger says when it is done."""
    async with shop.worker(), shop.worker():
        submitted = await shop.captures.submit(KEY, debits(700))

        report = await shop.captures.wait(KEY)

        assert (submitted.created, submitted.total, submitted.chunks) == (True, 700, 3)
        assert (report.key, report.total, report.captured) == (KEY, 700, 700)
        assert shop.service.captures == Counter(debits(700))
        outcomes = [outcome async for outcome in shop.captures.outcomes(KEY)]
        assert Counter(outcome.debit_id for outcome in outcomes) == Counter(debits(700))
        assert all(isinstance(outcome, Captured) for outcome in outcomes)
        assert (await shop.captures.progress(KEY)).complete
        assert shop.clients == 1


@pytest.mark.asyncio
async def test_outcomes_come_while_the_batch_runs(shop: Shop) -> None:
    """Whoever follows a batch sees each outcome, from the first to the last."""
    await shop.captures.submit(KEY, debits(300))
    seen = []
    async with shop.worker():
        async for outcome in shop.captures.outcomes(KEY):
            seen.append(outcome.debit_id)  # noqa: PERF401 - followed, not collected

    assert Counter(seen) == Counter(debits(300))


@pytest.mark.asyncio
async def test_a_batch_submitted_twice_is_queued_once(shop: Shop) -> None:
    """The same debits under the same key are the same batch, and the same jobs; other debits are rejected."""
    await shop.captures.submit(KEY, debits(600))
    again = await shop.captures.submit(KEY, debits(600))
    with pytest.raises(BatchMismatchError):
        await shop.captures.submit(KEY, debits(1))

    assert not again.created
    jobs = await shop.jobs()
    assert [job.task_kwargs for job in jobs] == [{"batch": KEY, "chunk": chunk} for chunk in range(3)]
    assert len({job.lock for job in jobs}) == 3
    assert {job.queueing_lock for job in jobs} == {None}


@pytest.mark.asyncio
async def test_many_chunks_are_queued_page_by_page(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk gets its job, however many there are."""
    monkeypatch.setattr(module, "_PAGE", 2)

    await shop.captures.submit(KEY, debits(1250))

    assert len(await shop.jobs()) == 5


@pytest.mark.asyncio
async def test_a_job_that_got_lost_is_queued_again(shop: Shop) -> None:
    """What is neither done nor in the queue is queued again by whoever waits, and by resuming; nothing else is."""
    await shop.captures.submit(KEY, debits(600))
    assert await shop.captures.resume(KEY) == 0
    async with await psycopg.AsyncConnection.connect(shop.url, autocommit=True) as connection:
        await connection.execute("DELETE FROM procrastinate_jobs WHERE args ->> 'chunk' = '1'")

    assert await shop.captures.resume(KEY) == 1

    async with await psycopg.AsyncConnection.connect(shop.url, autocommit=True) as connection:
        await connection.execute("DELETE FROM procrastinate_jobs WHERE args ->> 'chunk' = '2'")
    async with shop.worker():
        assert (await shop.captures.wait(KEY)).captured == 600
    assert await shop.captures.resume(KEY) == 0


@pytest.mark.asyncio
async def test_what_is_unknown_is_looked_at_again(shop: Shop) -> None:
    """Resuming a batch that ended with unknown debits queues their chunks again."""
    shop.timeout = 0.5
    await shop.captures.submit(KEY, debits(3))
    async with shop.worker():
        shop.service.script["debit_1"] = [LOSE] * 20
        shop.service.states["debit_1"] = (503, {})
        report = await shop.captures.wait(KEY)
        assert (report.captured, report.unknown) == (2, 1)
        shop.service.states.clear()
        shop.service.script.clear()

        assert await shop.captures.resume(KEY) == 1
        assert (await shop.captures.wait(KEY)).captured == 3


@pytest.mark.asyncio
async def test_the_job_of_a_dead_worker_is_done_by_another(shop: Shop) -> None:
    """A worker that dies leaves its job; another one, though it had nothing to do, finds it and does it."""
    await shop.captures.submit(KEY, debits(5))
    await shop.leave_a_job()

    async with shop.worker():
        async with asyncio.timeout(20):
            while not (await shop.captures.progress(KEY)).complete:
                await asyncio.sleep(0.1)

    assert shop.service.captures == Counter(debits(5))


@pytest.mark.asyncio
async def test_a_worker_that_is_alive_keeps_its_jobs(shop: Shop) -> None:
    """A job that takes longer than a worker may be silent stays with it as long as its heart beats."""
    shop.service.always = WAIT
    shop.timeout = STALLED + 5
    await shop.captures.submit(KEY, debits(1))
    async with shop.worker():
        await shop.service.arrived.wait()
        await asyncio.sleep(STALLED + 0.5)
        (job,) = await shop.jobs()
        shop.service.always = PAID
        shop.service.go.set()
        await shop.captures.wait(KEY)

    assert (job.status, job.attempts) == ("doing", 0)
    assert shop.service.requests == Counter(debits(1))


@pytest.mark.asyncio
async def test_a_rescue_that_was_left_by_a_dead_worker_is_dropped(shop: Shop) -> None:
    """The jobs that look for the jobs of the dead don't pile up themselves."""
    task = shop.app.tasks[RESCUE_TASK]
    await task.defer_async(timestamp=0)
    await shop.leave_a_job()

    await task.func(timestamp=0)

    assert await shop.jobs(RESCUE_TASK) == []


@pytest.mark.asyncio
async def test_a_job_that_moved_on_is_not_rescued(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rescues at once are one too many, and no harm."""
    await shop.captures.submit(KEY, debits(5))
    await shop.leave_a_job()
    manager = shop.app.job_manager
    found = list(await manager.get_stalled_jobs(task_name=CHUNK_TASK, seconds_since_heartbeat=STALLED))
    rescue = shop.app.tasks[RESCUE_TASK].func
    await rescue(timestamp=0)

    async def found_before(task_name: str, **_: Any) -> list[Job]:
        return found if task_name == CHUNK_TASK else []

    monkeypatch.setattr(manager, "get_stalled_jobs", found_before)
    await rescue(timestamp=0)

    assert [(job.status, job.attempts) for job in await shop.jobs()] == [("todo", 1)]


# --- what breaks ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_captures_that_broke_are_opened_anew(shop: Shop) -> None:
    """After its ledger was gone a worker opens it again, and goes on: nothing twice, nothing lost."""
    await shop.captures.submit(KEY, debits(40))
    shop.service.always = WAIT
    async with shop.worker():
        await shop.service.arrived.wait()
        async with await psycopg.AsyncConnection.connect(shop.url, autocommit=True) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'jetpay_async'"
            )
        shop.service.always = PAID
        shop.service.go.set()

        report = await shop.captures.wait(KEY)

    assert report.captured == 40
    assert shop.service.captures == Counter(debits(40))
    assert shop.clients == 2


@pytest.mark.asyncio
async def test_a_client_that_can_not_be_made_is_tried_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps a worker from opening its captures keeps the job in the queue, for later."""
    await shop.captures.submit(KEY, debits(2))
    make_client = shop.captures._make_client
    failures = iter([ConfigurationError("no token yet")])

    def fail_first() -> JetpayClient:
        for failure in failures:
            raise failure
        return make_client()

    monkeypatch.setattr(shop.captures, "_make_client", fail_first)
    async with shop.worker():
        assert (await shop.captures.wait(KEY)).captured == 2


@pytest.mark.asyncio
async def test_a_chunk_of_no_batch_is_given_up(shop: Shop) -> None:
    """A job whose batch the ledger doesn't know fails for good, and does not break the captures of the others."""
    async with Ledger(shop.url):
        pass
    await shop.app.tasks[CHUNK_TASK].configure(lock="x").defer_async(batch="none", chunk=0)
    await shop.captures.submit(KEY, debits(2))

    async with shop.worker(concurrency=1):
        assert (await shop.captures.wait(KEY)).captured == 2

    (job,) = await shop.jobs()
    assert (job.status, job.task_kwargs["batch"]) == ("failed", "none")
    assert shop.clients == 1


@pytest.mark.asyncio
async def test_a_chunk_that_others_hold_comes_later(shop: Shop) -> None:
    """A chunk in the hands of a run outside of the queue is tried again, and found done."""
    async with Ledger(shop.url) as ledger:
        await ledger.submit(KEY, debits(2))
    connection = PostgresBackend(shop.url).connect(create=False)
    connection.begin(writes=True)
    owner = connection.register(60.0)
    held = _intents.claim(connection, Scope(1), owner=owner, limit=2, resolve=1.0, rate=None).send
    connection.commit()

    task = shop.app.tasks[CHUNK_TASK].func
    with pytest.raises(ChunkBusyError):
        await task(batch=KEY, chunk=0)

    connection.begin(writes=True)
    _intents.record(
        connection,
        [
            OutcomeRecord(each.id, each.debit_id, each.intent, DebitState.CAPTURED, 1, transaction_state="paid")
            for each in held
        ],
        owner=owner,
    )
    connection.commit()
    connection.close()
    await task(batch=KEY, chunk=0)
    await shop.captures.close()
    assert not shop.service.requests


@pytest.mark.parametrize(
    ("error", "attempts", "seconds"),
    [
        (LedgerError("gone"), 0, 1),
        (LedgerError("gone"), 3, 8),
        (ChunkBusyError("busy"), 500, 60),
        (asyncio.CancelledError(), 5, 0),
        (UnknownBatchError("none"), 0, None),
        (InvalidArgumentError("never", field="chunk"), 0, None),
    ],
    ids=["first", "later", "at most a minute", "stopped", "no such batch", "no such chunk"],
)
def test_when_a_job_is_tried_again(error: BaseException, attempts: int, seconds: int | None) -> None:
    """Ever later, at once when its worker was stopped, and never when it can't work."""
    job = Job(queue="q", lock=None, queueing_lock=None, task_name="t", attempts=attempts)

    decision = RetryLater().get_retry_decision(exception=error, job=job)

    if seconds is None:
        assert decision is None
    else:
        assert decision is not None
        assert decision.retry_at is not None
        wait = (decision.retry_at - procrastinate.utils.utcnow()).total_seconds()
        assert wait == pytest.approx(seconds, abs=0.5)


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_worker_that_is_stopped_leaves_nothing_in_doubt(shop: Shop) -> None:
    """Jobs that are cut off wait for what is in shared and give back the rest; nothing has to be looked up then."""
    await shop.captures.submit(KEY, debits(500))
    shop.service.always = WAIT
    async with shop.worker(shutdown_graceful_timeout=0.1) as worker:
        await shop.service.arrived.wait()
        worker.cancel()
        asyncio.get_running_loop().call_later(0.4, shop.service.go.set)
        with suppress(asyncio.CancelledError):
            await worker

        progress = await shop.captures.progress(KEY)
        assert progress == Progress(total=500, pending=492, sending=0, captured=8, rejected=0, unknown=0)
        assert {job.status for job in await shop.jobs()} == {"todo"}
    shop.service.always = PAID

    async with shop.worker():
        assert (await shop.captures.wait(KEY)).captured == 500
    assert shop.service.requests == Counter(debits(500))


def test_a_worker_closes_when_its_loop_ends(postgres_ledger: str) -> None:
    """A worker's process that just ends leaves the ledger as one should: no owner stays behind."""

    async def work() -> None:
        async with Service().listen() as service:
            shop = Shop(postgres_ledger, service)
            async with shop.app.open_async():
                await shop.app.schema_manager.apply_schema_async()
                await shop.captures.submit(KEY, debits(20))
                worker = asyncio.create_task(
                    shop.app.run_worker_async(queues=["jetpay"], wait=False, install_signal_handlers=False)
                )
                await worker

    asyncio.run(work())

    with psycopg.connect(postgres_ledger) as connection:
        assert connection.execute("SELECT COUNT(*) FROM jetpay_owner").fetchone() == (0,)
        assert connection.execute("SELECT captured FROM jetpay_batch").fetchone() == (20,)


def test_another_loop_gets_captures_of_its_own(postgres_ledger: str) -> None:
    """What one event loop has left open is not used by the next one."""

    async def capture(captures: ProcrastinateCaptures, service: Service, key: str) -> None:
        async with service.listen():
            async with Ledger(postgres_ledger) as ledger:
                await ledger.submit(key, [key])
            await captures._capture_chunk(key, 0)

    service = Service()
    shop = Shop(postgres_ledger, service)
    asyncio.run(capture(shop.captures, service, "one"))
    asyncio.run(capture(shop.captures, service, "two"))

    assert service.captures == Counter(["one", "two"])


@pytest.mark.asyncio
async def test_captures_that_can_not_be_closed_say_so(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """An error on closing is logged: everything that matters was reported before."""

    class Broken(JetpayClient):
        async def __aexit__(self, *arguments: object) -> None:
            await super().__aexit__(*arguments)
            raise ConfigurationError("odd")

    shop.captures._make_client = lambda: Broken(
        "token-that-must-not-show", base_url=shop.service.url, timeout=2.0, retry=FAST
    )
    async with Ledger(shop.url) as ledger:
        await ledger.submit(KEY, debits(1))
    await shop.captures._capture_chunk(KEY, 0)

    await shop.captures.close()
    await shop.captures.close()

    assert "captures could not be closed: odd" in caplog.text


# --- before anything --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"ledger": "captures.db"}, ConfigurationError, "several machines need PostgreSQL"),
        ({"ledger": "postgresql://h/d", "concurrency": 0}, InvalidArgumentError, "concurrency"),
        ({"ledger": "postgresql://h/d", "rate": 0}, InvalidArgumentError, "rate"),
    ],
    ids=["a file", "concurrency", "rate"],
)
def test_what_can_not_work_is_refused_at_once(options: dict[str, Any], error: type[Exception], said: str) -> None:
    """A mistake shows where the application is put together, not in its workers."""
    app = App(connector=PsycopgConnector())

    with pytest.raises(error, match=said):
        jetpay_async.procrastinate.durable_captures(app, lambda: JetpayClient("token"), **options)


@pytest.mark.parametrize(("stalled_after", "cron"), [(2, "*/1"), (30, "*/15"), (600, "*/30")])
def test_how_often_the_dead_are_looked_for(stalled_after: float, cron: str) -> None:
    """Twice in the time after which a worker counts as dead, within reason."""
    app = App(connector=PsycopgConnector())

    jetpay_async.procrastinate.durable_captures(
        app, lambda: JetpayClient("token"), ledger="postgresql://h/d", stalled_after=stalled_after
    )

    ((task, _),) = [key for key in app.periodic_registry.periodic_tasks if key[0] == RESCUE_TASK]
    assert app.periodic_registry.periodic_tasks[task, ""].cron == f"* * * * * {cron}"


@pytest.mark.asyncio
async def test_accepted_debits_are_read_by_workers_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Following up queues the chunks that have some, and returns when none of them is queued any more."""
    app = App(connector=PsycopgConnector())
    captures = jetpay_async.procrastinate.durable_captures(
        app, lambda: JetpayClient("token"), ledger="postgresql://h/d"
    )
    queued: list[set[str | None]] = [{module._lock(KEY, 0)}, {module._lock("another", 0)}]

    async def queue_accepted(ledger: Any, key: str) -> list[int]:
        return [0]

    async def still_queued() -> set[str | None]:
        return queued.pop(0)

    monkeypatch.setattr(module, "POLL_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(captures, "_queue_accepted", queue_accepted)
    monkeypatch.setattr(captures, "_queued", still_queued)
    unused: Any = None
    source = module._QueueSource(unused, 1, timer=unused, follow_up=lambda: captures._follow_up(unused, KEY))

    await source.follow_up()

    assert queued == []
