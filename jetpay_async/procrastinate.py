"""Captures by many machines: `procrastinate` hands out chunks of a batch, the ledger says what is done.

::

    app = App(connector=PsycopgConnector(conninfo="postgresql://..."))
    captures = jetpay_async.procrastinate.durable_captures(app, make_client, ledger="postgresql://...", rate=300)

    await captures.submit("2026-11-22", debit_ids)      # anywhere: rows of the ledger, and a job for each chunk
    report = await captures.wait("2026-11-22")

On each machine that captures: ``procrastinate --app=shop.app worker --queues=jetpay --concurrency=4
--delete-jobs=successful --shutdown-graceful-timeout=20``. Importing this module needs
``pip install 'jetpay-async[distributed]'``.

The queue only says which worker runs which chunk, each at least once; whether a debit is sent is up to the ledger. So
nothing that happens to a job can do harm: twice in the queue, it finds its chunk done; lost, it is queued again by
`ProcrastinateCaptures.wait` or `ProcrastinateCaptures.resume`, which ask the ledger what is left.

Jobs have a lock, so that a chunk has one worker, and no queueing lock: with one, a job that is to be retried while
another of its chunk is queued stays "doing" for ever, and keeps the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypedDict, TypeVar

try:
    from procrastinate import App  # noqa: TC002 - `typing.get_type_hints` reads it
    from procrastinate.exceptions import ConnectorException
    from procrastinate.jobs import Job, Status
    from procrastinate.retry import BaseRetryStrategy, RetryDecision
except ImportError as _missing:
    raise ImportError(
        "jetpay_async.procrastinate needs procrastinate: pip install 'jetpay-async[distributed]'"
    ) from _missing

from jetpay_async._batch.worker_pool import BatchLimits
from jetpay_async._core.backoff import exponential_backoff
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async._core.log import logger
from jetpay_async._core.validation import check_seconds
from jetpay_async.client import JetpayClient  # noqa: TC001 - `typing.get_type_hints` reads it
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.ledger import (
    ChunkBusyError,
    DurableCaptures,
    Ledger,
    Progress,
    Report,
    Submitted,
    UnknownBatchError,
    _repository,
)
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._batch_reader import BatchReader
from jetpay_async.ledger.durable_captures import DEFAULT_FOLLOW_UP_SECONDS
from jetpay_async.outcomes import CaptureOutcome  # noqa: TC001 - `typing.get_type_hints` reads it

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from jetpay_async.ledger._backend import UnitOfWork

__all__ = ["ProcrastinateCaptures", "durable_captures"]

CHUNK_TASK = "jetpay_async.capture_chunk"
RESCUE_TASK = "jetpay_async.rescue_chunks"

# Jobs in one statement.
_PAGE = 1000

# From one reading of a batch to the next.
POLL_INTERVAL_SECONDS = 0.5

# Before a job is tried again, at most.
LONGEST_RETRY_SECONDS = 60.0

# What waits for workers that read a status again waits no longer.
FOLLOW_UP_WAIT_SECONDS = 10.0

_T = TypeVar("_T")


def durable_captures(
    app: App,
    make_client: Callable[[], JetpayClient],
    *,
    ledger: str,
    concurrency: int = 64,
    rate: float | None = None,
    lease_seconds: float = 15.0,
    restored: bool = False,
    account: str | None = None,
    accept_rejections: bool = False,
    queue: str = "jetpay",
    stalled_after: float = 30.0,
) -> ProcrastinateCaptures:
    """Capture on all machines that run a worker of this application.

    Call it where the tasks of ``app`` are defined, so that each worker knows them.

    Args:
        app: The application; its queue may be in the ledger's database or in another.
        make_client: Makes the client of a worker's process; called in its event loop.
        ledger: The ``postgresql://`` URL of the ledger.
        concurrency: Captures in flight in each process, at most.
        rate: Captures per second, of all machines together.
        lease_seconds: Seconds after which a process that says nothing counts as dead, for the ledger.
        restored: Whether the ledger was restored from a backup, or comes from an older replica; see
            `JetpayClient.durable_captures`. Each worker process waits from its own beginning.
        account: A label of your account; a ledger that has another one is refused.
        accept_rejections: Whether 404 and 403 are recorded even if the first 8 answers say nothing else.
        queue: The queue of the jobs.
        stalled_after: Seconds without a heartbeat after which a worker counts as dead, for the queue: three heartbeats
            of the workers (``update_heartbeat_interval``, 10 s), or more.

    Raises:
        ConfigurationError: ``ledger`` is no such URL, or what is needed is not installed.
        InvalidArgumentError: A number is out of range.
    """
    return ProcrastinateCaptures(
        app,
        make_client,
        ledger=ledger,
        concurrency=concurrency,
        rate=rate,
        lease_seconds=lease_seconds,
        restored=restored,
        account=account,
        accept_rejections=accept_rejections,
        queue=queue,
        stalled_after=stalled_after,
    )


class _CaptureOptions(TypedDict):
    """What each worker opens its captures with."""

    concurrency: int
    rate: float | None
    lease_seconds: float
    restored: bool
    account: str | None
    accept_rejections: bool


class ProcrastinateCaptures:
    """Captures that the workers of an application carry out, made by `durable_captures`."""

    def __init__(
        self,
        app: App,
        make_client: Callable[[], JetpayClient],
        *,
        ledger: str,
        concurrency: int,
        rate: float | None,
        lease_seconds: float,
        restored: bool,
        account: str | None,
        accept_rejections: bool,
        queue: str,
        stalled_after: float,
    ) -> None:
        if not choose_backend(ledger, SYSTEM_CLOCK).leases:
            raise ConfigurationError("ledger: several machines need PostgreSQL; give a postgresql:// URL")
        BatchLimits(concurrency=concurrency, rate=rate)
        self._app = app
        self._make_client = make_client
        self._ledger = ledger
        self._options: _CaptureOptions = {
            "concurrency": concurrency,
            "rate": rate,
            "lease_seconds": check_seconds("lease_seconds", lease_seconds),
            "restored": restored,
            "account": account,
            "accept_rejections": accept_rejections,
        }
        self._queue = queue
        self._stalled_after = stalled_after
        self._opened_captures: _WorkerCaptures | None = None
        self._chunk_task = app.task(name=CHUNK_TASK, queue=queue, retry=RetryLater())(self._capture_chunk)
        # A job of its own, and not a part of another: machines that have nothing to do look after the others.
        rescue = app.task(name=RESCUE_TASK, queue=queue, priority=1)(self._rescue)
        seconds = max(1, min(30, round(stalled_after / 2)))
        app.periodic(cron=f"* * * * * */{seconds}")(rescue)

    # --- for those who submit

    async def submit(self, key: str, debit_ids: Iterable[str] | AsyncIterable[str]) -> Submitted:
        """Add a batch, whole or not at all, and queue a job for each of its chunks.

        Submitted again with the same debits it is the same batch: what is not done and not queued is queued again. So
        if this fails half-way, call it again. ``app`` is open.

        Args:
            key: The batch's name.
            debit_ids: From `JetpayClient.preauthorize`, in any order.

        Raises:
            InvalidArgumentError: The key or an id can't be one; nothing was added.
            BatchMismatchError: There is such a batch, with other debits.
            LedgerError: The ledger can't be written.
        """
        async with Ledger(self._ledger) as ledger:
            submitted = await ledger.submit(key, debit_ids)
            await self._resume(ledger, key)
        return submitted

    async def resume(self, key: str) -> int:
        """Queue what is left of a batch and not queued; what is unknown is looked at again. ``app`` is open.

        Returns:
            How many jobs were queued.

        Raises:
            UnknownBatchError: There is no such batch.
            LedgerError: The ledger can't be written.
        """
        async with Ledger(self._ledger, create=False) as ledger:
            return await self._resume(ledger, key)

    async def progress(self, key: str) -> Progress:
        """Return how far a batch is.

        Raises:
            UnknownBatchError: There is no such batch.
            LedgerError: The ledger can't be read.
        """
        async with Ledger(self._ledger, create=False) as ledger:
            return await ledger.progress(key)

    async def outcomes(self, key: str) -> AsyncIterator[CaptureOutcome]:
        """Yield the outcome of each debit, in the order in which outcomes are recorded, until the batch is complete.

        It takes nothing to start again: those that are there come first. Debits that the API is processing come last,
        after a worker has read their status once more. ``app`` is open: what got lost in the queue is queued again.

        Args:
            key: The batch's name.

        Raises:
            UnknownBatchError: There is no such batch.
            LedgerError: The ledger can't be read.
        """
        async with Ledger(self._ledger, create=False) as ledger:
            async for outcome in (await self._reader(ledger, key)).outcomes():
                yield outcome

    async def wait(self, key: str, *, follow_up: float = DEFAULT_FOLLOW_UP_SECONDS) -> Report:
        """Wait until the ledger has an outcome of each debit of a batch.

        ``app`` is open: what got lost in the queue is queued again.

        Args:
            key: The batch's name.
            follow_up: Seconds for which workers follow debits that the API is processing then, at most. What is left is
                ``accepted`` in the report, and `resume` has it followed again.

        Raises:
            InvalidArgumentError: ``follow_up`` is no number of seconds.
            UnknownBatchError: There is no such batch.
            LedgerError: The ledger can't be read.
        """
        seconds = check_seconds("follow_up", follow_up, zero=True)
        async with Ledger(self._ledger, create=False) as ledger:
            return await (await self._reader(ledger, key)).wait(seconds)

    async def _reader(self, ledger: Ledger, key: str) -> BatchReader:
        number = await ledger.find(key)
        source = _QueueSource(
            ledger,
            number,
            timer=_RequeueTimer(partial(self._queue_what_is_left, ledger, key), self._stalled_after),
            follow_up=partial(self._follow_up, ledger, key),
        )
        return BatchReader(number, source)

    async def _resume(self, ledger: Ledger, key: str) -> int:
        number = await ledger.find(key)
        await ledger.commits.run(partial(_repository.reopen_unknown, batch=number))
        count = await self._queue_what_is_left(ledger, key)
        return count + len(await self._queue_accepted(ledger, key))

    async def _follow_up(self, ledger: Ledger, key: str) -> None:
        """Have workers read the status of the accepted debits, and wait for them, but not for ever."""
        locks = {_lock(key, chunk) for chunk in await self._queue_accepted(ledger, key)}
        until = SYSTEM_CLOCK.monotonic() + FOLLOW_UP_WAIT_SECONDS
        while not locks.isdisjoint(await self._queued()) and SYSTEM_CLOCK.monotonic() < until:
            await SYSTEM_CLOCK.sleep(POLL_INTERVAL_SECONDS)

    async def _queue_accepted(self, ledger: Ledger, key: str) -> list[int]:
        number = await ledger.find(key)
        chunks = await ledger.commits.run(partial(_repository.chunks_accepted, batch=number), writes=False)
        await self._queue_jobs(key, chunks)
        return chunks

    async def _queue_what_is_left(self, ledger: Ledger, key: str) -> int:
        return await self._queue_jobs(key, await ledger.chunks_left(key))

    async def _queue_jobs(self, key: str, chunks: list[int]) -> int:
        """Queue a job for each of these chunks that has none; return how many were queued."""
        queued = await self._queued()
        jobs = (self._job(key, chunk) for chunk in chunks if _lock(key, chunk) not in queued)
        count = 0
        while page := list(islice(jobs, _PAGE)):
            await self._app.job_manager.batch_defer_jobs_async(page)
            count += len(page)
        return count

    async def _queued(self) -> set[str | None]:
        """Return the locks of the jobs that wait or run."""
        list_jobs = self._app.job_manager.list_jobs_async
        # In this order: a job that begins meanwhile is in both.
        waiting = await list_jobs(queue=self._queue, task=CHUNK_TASK, status=Status.TODO.value)
        running = await list_jobs(queue=self._queue, task=CHUNK_TASK, status=Status.DOING.value)
        return {job.lock for job in (*waiting, *running)}

    def _job(self, key: str, chunk: int) -> Job:
        return self._chunk_task.configure(lock=_lock(key, chunk), task_kwargs={"batch": key, "chunk": chunk}).job

    # --- for the workers

    async def close(self) -> None:
        """Stop capturing in this process, and wait for those in flight.

        For programs that go on when their worker has ended; a worker's own process closes everything as it ends.
        """
        if self._opened_captures is not None:
            await self._end(self._opened_captures)

    async def _capture_chunk(self, batch: str, chunk: int) -> None:
        opened = self._begin()
        try:
            captures = await opened.captures()
            await captures.run_chunk(batch, chunk)
        except (ChunkBusyError, UnknownBatchError, InvalidArgumentError):
            raise
        except BaseException:
            # They broke; or the worker stops, and what is in flight is to be known before it ends.
            await self._end(opened)
            raise

    def _begin(self) -> _WorkerCaptures:
        if self._opened_captures is None or self._opened_captures.loop is not asyncio.get_running_loop():
            self._opened_captures = _WorkerCaptures(self._open)
        return self._opened_captures

    async def _end(self, opened: _WorkerCaptures) -> None:
        if self._opened_captures is opened:
            self._opened_captures = None
        await opened.end()

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[DurableCaptures, None]:
        async with (
            self._make_client() as client,
            client.durable_captures(self._ledger, **self._options) as captures,
        ):
            yield captures

    async def _rescue(self, timestamp: int) -> None:
        """Queue the jobs of dead workers again."""
        del timestamp
        manager = self._app.job_manager
        for task in (CHUNK_TASK, RESCUE_TASK):
            stalled = await manager.get_stalled_jobs(
                queue=self._queue, task_name=task, seconds_since_heartbeat=self._stalled_after
            )
            for job in stalled:
                logger.info("job %s was left by a worker that is dead", job.call_string)
                with suppress(ConnectorException):  # it has moved on meanwhile
                    if task == CHUNK_TASK:
                        await manager.retry_job(job)
                    else:
                        await manager.finish_job(job, Status.FAILED, delete_job=True)


def _lock(key: str, chunk: int) -> str:
    return f"{CHUNK_TASK}:{key}:{chunk}"


class RetryLater(BaseRetryStrategy):
    """Tries a job again, ever later; at once when the worker was stopped; never if it can't work."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, UnknownBatchError | InvalidArgumentError):
            return None
        if isinstance(exception, asyncio.CancelledError):
            return RetryDecision(retry_in={"seconds": 0})
        seconds = exponential_backoff(job.attempts + 1, base=1.0, longest=LONGEST_RETRY_SECONDS)
        return RetryDecision(retry_in={"seconds": int(seconds)})


class _RequeueTimer:
    """Sees to it from time to time that the jobs of a batch are queued."""

    def __init__(self, queue_what_is_left: Callable[[], Awaitable[int]], every: float) -> None:
        self._queue_what_is_left = queue_what_is_left
        self._every = every
        self._checked_at = SYSTEM_CLOCK.monotonic()

    async def pause(self) -> None:
        await SYSTEM_CLOCK.sleep(POLL_INTERVAL_SECONDS)
        if SYSTEM_CLOCK.monotonic() - self._checked_at >= self._every:
            if count := await self._queue_what_is_left():
                logger.warning("%d chunks were not done and not in the queue any more: queued again", count)
            self._checked_at = SYSTEM_CLOCK.monotonic()


class _QueueSource:
    """Lets a batch be read while workers capture it."""

    clock = SYSTEM_CLOCK
    stopped = False

    def __init__(
        self, ledger: Ledger, number: int, *, timer: _RequeueTimer, follow_up: Callable[[], Awaitable[None]]
    ) -> None:
        self._ledger = ledger
        self._number = number
        self._timer = timer
        self._follow_up = follow_up

    async def read(self, operation: UnitOfWork[_T]) -> _T:
        """Read from the ledger.

        Raises:
            LedgerError: It can't be read.
        """
        return await self._ledger.commits.run(operation, writes=False)

    @property
    def rounds(self) -> int:
        """Nobody wakes readers here: they poll."""
        return 0

    async def pause(self, since: int) -> None:
        """Wait for a poll interval."""
        del since  # nothing is known of it here
        await self._timer.pause()

    async def follow_up(self) -> None:
        """Have workers read the status of the batch's accepted debits once."""
        await self._follow_up()

    async def stopped_error(self) -> Exception:  # pragma: no cover - workers may stop, but others come
        """Never called."""
        raise AssertionError


class _WorkerCaptures:
    """From the first job to the end of the event loop, or until the captures broke.

    A task holds them open, so that they are also closed when the loop ends: what runs a worker cancels what is left.
    """

    def __init__(self, open_captures: Callable[[], AbstractAsyncContextManager[DurableCaptures]]) -> None:
        self.loop = asyncio.get_running_loop()
        self._open_captures = open_captures
        self._opened: asyncio.Future[DurableCaptures] = self.loop.create_future()
        self._ending = asyncio.Event()
        self._task = self.loop.create_task(self._keep_open())

    async def captures(self) -> DurableCaptures:
        """Return them once they are open.

        Raises:
            Exception: What kept them from being opened.
        """
        return await asyncio.shield(self._opened)

    async def end(self) -> None:
        """Stop them, wait for those in flight, and close."""
        self._ending.set()
        await asyncio.shield(self._task)

    async def _keep_open(self) -> None:
        try:
            async with self._open_captures() as captures:
                self._opened.set_result(captures)
                await self._ending.wait()
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait for the captures
            if self._opened.done():
                logger.warning("captures could not be closed: %s", error)
            else:
                self._opened.set_exception(error)
