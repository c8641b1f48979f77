"""Durable captures: what a user holds."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from jetpay_async._batch.worker_pool import BatchLimits
from jetpay_async._core.log import logger
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.ledger import _repository, _rows
from jetpay_async.ledger._lease import OwnerLease
from jetpay_async.ledger._pipeline import CapturePipeline
from jetpay_async.ledger._repository import Scope
from jetpay_async.ledger.errors import CapturesStoppedError, ChunkBusyError, LedgerError
from jetpay_async.ledger.ledger import Ledger
from jetpay_async.ledger.records import BatchInfo, ChunkReport, DebitState, Progress, Report

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, AsyncIterator, Iterable
    from types import TracebackType
    from typing import Self

    from jetpay_async.ledger._group_commit import GroupCommitExecutor, UnitOfWork
    from jetpay_async.ledger._pipeline import ClientContext
    from jetpay_async.outcomes import CaptureOutcome

__all__ = ["Batch", "DurableCaptures", "run_chunk"]

_T = TypeVar("_T")

# Seconds between two looks at a batch that others may work on too.
POLL_INTERVAL_SECONDS = 0.5

DEFAULT_LEASE_SECONDS = 15.0


class Client(Protocol):
    """What a chunk needs of `JetpayClient`."""

    def durable_captures(
        self, ledger: str | os.PathLike[str], *, concurrency: int, rate: float | None, lease_seconds: float
    ) -> DurableCaptures:
        """Open captures."""
        ...


class DurableCaptures:
    """Captures from a ledger, made by `JetpayClient.captures`; open it with ``async with``.

    While it is open, what was submitted through it is captured in the background. Leaving the block stops that: nothing
    more is sent, those in shared are awaited (within the client's timeout), and the rest stays pending in the ledger.
    """

    def __init__(
        self,
        ledger: str | os.PathLike[str],
        context: ClientContext,
        *,
        concurrency: int,
        rate: float | None,
        lease_seconds: float,
        restored: bool,
    ) -> None:
        self._ledger = Ledger(ledger, clock=context.clock)
        self._context = context
        self._pace = BatchLimits(concurrency=concurrency, rate=rate)
        self._lease_seconds = _check_lease(lease_seconds)
        self._restored = restored
        self._pipeline: CapturePipeline | None = None
        self._lease: OwnerLease | None = None

    async def __aenter__(self) -> Self:
        """Open the ledger, and register in it as an owner of debits.

        Raises:
            LedgerError: The ledger can't be used; nothing was sent, and the message says what to do.
        """
        if self._pipeline is not None:
            raise ConfigurationError("these captures are open already; make others for another block")
        await self._ledger.__aenter__()
        try:
            lease = OwnerLease(
                self._ledger.commits, self._lease_seconds, self._context.clock, lapses=self._ledger.leases
            )
            await lease.take()
        except BaseException:
            await self._ledger.__aexit__(None, None, None)
            raise
        self._lease = lease
        self._pipeline = CapturePipeline(
            self._ledger.commits,
            lease,
            self._context,
            self._pace,
            restored=self._restored,
        )
        self._pipeline.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pipeline, lease = self._pipeline, self._lease
        self._pipeline = self._lease = None
        try:
            if pipeline is not None:  # pragma: no branch - set together with the lease when it was entered
                await pipeline.close()
        finally:
            try:
                if lease is not None:  # pragma: no branch - the same
                    await lease.leave()
            except LedgerError as failure:
                # The next run finds out by itself; and what stopped this one has been told.
                logger.warning("the ledger could not be told that this run ends: %s", failure)
            finally:
                await self._ledger.__aexit__(None, None, None)

    async def submit(self, key: str, debit_ids: Iterable[str] | AsyncIterable[str]) -> Batch:
        """Add a batch, whole or not at all, and begin to capture it; it is durable when this returns.

        The same key with the same debits is the same batch, also in another process and after a crash: the same lines
        go on with it. Debits that an earlier run left unknown are then looked at again.

        Args:
            key: The batch's name, for example the day; at most 255 characters.
            debit_ids: From `JetpayClient.preauthorize`, in any order; memory stays flat however many there are. A debit
                given twice is captured once.

        Raises:
            InvalidArgumentError: The key or an id can't be one; nothing was added, nothing is sent.
            BatchMismatchError: There is such a batch, with other debits; nothing was changed.
            LedgerError: The ledger can't be written; nothing is sent.
        """
        pipeline = self._open_pipeline()
        await self._ledger.submit(key, debit_ids)
        return await self._resume(pipeline, key)

    async def batch(self, key: str) -> Batch:
        """Go on with a batch that was submitted before, here or elsewhere.

        Args:
            key: Its name.

        Raises:
            UnknownBatchError: There is none.
            LedgerError: The ledger can't be written.
        """
        return await self._resume(self._open_pipeline(), key)

    def stop(self) -> None:
        """Stop capturing: nothing more is sent, and those in shared finish.

        For signal handlers: ``loop.add_signal_handler(signal.SIGTERM, captures.stop)``. Who waits for a batch gets
        `CapturesStoppedError` as soon as nothing is in shared any more.
        """
        if self._pipeline is not None:
            self._pipeline.stop()

    async def run_chunk(self, batch: str, chunk: int) -> ChunkReport:
        """Capture one chunk of a batch; see the function `run_chunk`."""
        pipeline = self._open_pipeline()
        number = await self._ledger.find(batch)
        if type(chunk) is not int or chunk < 0:
            raise InvalidArgumentError(f"chunk={chunk!r} must be an int of at least 0", field="chunk")
        scope = Scope(number, chunk)
        pipeline.watch(scope)
        try:
            return await self._wait_for_chunk(pipeline, batch, scope)
        finally:
            pipeline.forget(scope)

    async def _wait_for_chunk(self, pipeline: CapturePipeline, key: str, scope: Scope) -> ChunkReport:
        waited_from: float | None = None
        commits = self._ledger.commits
        while True:
            stopped = pipeline.done
            counts = await commits.run(partial(_repository.count_chunk, scope=scope), writes=False)
            if not counts[DebitState.PENDING] and not counts[DebitState.SENDING]:
                return ChunkReport(
                    key=key,
                    chunk=scope.chunk or 0,
                    total=counts.total(),
                    captured=counts[DebitState.CAPTURED],
                    rejected=counts[DebitState.REJECTED],
                    unknown=counts[DebitState.UNKNOWN],
                )
            if stopped:
                raise await _stopped(commits, pipeline, key, scope.batch)
            if await commits.run(partial(_repository.all_held_by_others, scope=scope, owner=self._owner), writes=False):
                now = self._context.clock.monotonic()
                waited_from = now if waited_from is None else waited_from
                if now - waited_from > self._lease_seconds + POLL_INTERVAL_SECONDS:
                    raise ChunkBusyError(
                        f"chunk {scope.chunk} of batch {key!r} is being captured by another run, which is alive; "
                        "run the chunk again later"
                    )
            else:
                waited_from = None
            await pipeline.wait_for_progress(POLL_INTERVAL_SECONDS)

    @property
    def _owner(self) -> int:
        return 0 if self._lease is None else self._lease.owner

    async def _resume(self, pipeline: CapturePipeline, key: str) -> Batch:
        number = await self._ledger.find(key)
        await self._ledger.commits.run(partial(_repository.reopen_unknown, batch=number))
        pipeline.watch(Scope(number))
        return Batch(self._ledger.commits, pipeline, key, number)

    def _open_pipeline(self) -> CapturePipeline:
        if self._pipeline is None:
            raise ConfigurationError(
                "these captures are not open; use them within `async with client.durable_captures(...)`"
            )
        return self._pipeline


class Batch:
    """A batch being captured, made by `DurableCaptures.submit` and `DurableCaptures.batch`.

    Attributes:
        key: Its name.
    """

    def __init__(self, commits: GroupCommitExecutor, pipeline: CapturePipeline, key: str, number: int) -> None:
        self.key = key
        self._commits = commits
        self._pipeline = pipeline
        self._number = number

    async def outcomes(self) -> AsyncIterator[CaptureOutcome]:
        """Yield what became of each debit, in the order in which it was written down; once for each.

        Those of earlier runs come first: whoever was interrupted misses nothing. They are read from the ledger, so
        that ``raw`` is empty, and of an error its class, message, status and request id are kept. No outcome is
        `NotSent`: what was not sent is pending, and comes later. A slow consumer slows nothing down, and fills no
        memory.

        An `Unknown` may be followed by what another run finds out about it.

        Raises:
            CapturesStoppedError: Capturing stopped before the end, or the ledger can't be read; the cause says why.
        """
        place = 0
        while True:
            stopped = self._pipeline.done
            complete = (await self._read(partial(_repository.progress, batch=self._number))).progress.complete
            page, place = await self._read(partial(_repository.outcomes, batch=self._number, after=place))
            for row in page:
                yield _rows.read(self.key, row)
            if page:
                continue
            if complete:
                return
            if stopped:
                raise await _stopped(self._commits, self._pipeline, self.key, self._number)
            await self._pipeline.wait_for_progress(POLL_INTERVAL_SECONDS)

    async def progress(self) -> Progress:
        """Tell where it stands, whoever works on it.

        Raises:
            LedgerError: The ledger can't be read.
        """
        return (await _info(self._commits, self._number)).progress

    async def wait(self) -> Report:
        """Wait until each debit has an outcome, whoever captures them.

        Raises:
            CapturesStoppedError: Capturing stopped before the end, or the ledger can't be read; the cause says why.
        """
        while True:
            stopped = self._pipeline.done
            if (
                report := _repository.report(await self._read(partial(_repository.progress, batch=self._number)))
            ) is not None:
                return report
            if stopped:
                raise await _stopped(self._commits, self._pipeline, self.key, self._number)
            await asyncio.sleep(WAIT_PAUSE_SECONDS)
            await self._pipeline.wait_for_progress(POLL_INTERVAL_SECONDS)

    async def _read(self, operation: UnitOfWork[_T]) -> _T:
        try:
            return await self._commits.run(operation, writes=False)
        except LedgerError as failure:
            raise await _stopped(self._commits, self._pipeline, self.key, self._number) from failure


def _check_lease(lease_seconds: float) -> float:
    if type(lease_seconds) not in {int, float} or not 0 < lease_seconds <= sys.float_info.max:
        raise InvalidArgumentError(
            f"lease_seconds={lease_seconds!r} must be a number of seconds, more than 0", field="lease_seconds"
        )
    return float(lease_seconds)


async def _info(commits: GroupCommitExecutor, number: int) -> BatchInfo:
    return await commits.run(partial(_repository.progress, batch=number), writes=False)


async def _stopped(
    commits: GroupCommitExecutor, pipeline: CapturePipeline, key: str, number: int
) -> CapturesStoppedError:
    cause = pipeline.error
    progress: Progress | None = None
    try:
        progress = (await _info(commits, number)).progress
    except LedgerError as failure:
        cause = cause or failure
    left = "" if progress is None else f", {progress.total - progress.finished} of {progress.total} debits are left"
    why = "on request" if cause is None else f"({cause})"
    error = CapturesStoppedError(
        f"capturing batch {key!r} stopped {why}{left}; submit the same batch again to go on", key=key, progress=progress
    )
    error.__cause__ = cause
    return error


# Outcomes are written down a hundred times a second; whoever waits for the last need not look at each.
WAIT_PAUSE_SECONDS = 0.05


async def run_chunk(
    ledger: str | os.PathLike[str] | DurableCaptures,
    batch: str,
    chunk: int,
    *,
    client: Client,
    concurrency: int = 64,
    rate: float | None = None,
    lease_seconds: float = DEFAULT_LEASE_SECONDS,
) -> ChunkReport:
    """Capture one chunk of a batch: the unit of work for any backend that runs each job at least once.

    Running it again, or twice at a time, is safe and cheap: what is done is done, what a dead worker left in doubt is
    confirmed_by_status, and what is pending is sent. It returns when every debit of the chunk has an outcome.

    Args:
        ledger: Where the batch was submitted: a path, a ``postgresql://`` URL, or `DurableCaptures` that are open, whose
            concurrency, rate and lease then count.
        batch: The batch's key.
        chunk: Which one, from 0; `Submitted.chunks` says how many there are.
        client: The `JetpayClient` that captures them.
        concurrency: Captures in shared, at most.
        rate: Captures per second, of all machines together.
        lease_seconds: Seconds after which a worker that says nothing counts as dead (PostgreSQL).

    Raises:
        InvalidArgumentError: An argument can't work.
        UnknownBatchError: The ledger has no such batch.
        ChunkBusyError: Another run, which is alive, holds what is left of the chunk; run it again later.
        CapturesStoppedError: It stopped before the end; the cause says why. Run it again.
        LedgerError: The ledger can't be used.
    """
    if isinstance(ledger, DurableCaptures):
        return await ledger.run_chunk(batch, chunk)
    async with client.durable_captures(
        ledger, concurrency=concurrency, rate=rate, lease_seconds=lease_seconds
    ) as captures:
        return await captures.run_chunk(batch, chunk)
