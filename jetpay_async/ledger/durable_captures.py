"""Durable captures: what a user holds."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from jetpay_async._batch.worker_pool import BatchLimits
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.ledger import _intents, _repository
from jetpay_async.ledger._account_label import check_account
from jetpay_async.ledger._batch_reader import BatchReader
from jetpay_async.ledger._context import ClientContext, Moment
from jetpay_async.ledger._lease import OwnerLease
from jetpay_async.ledger._pipeline import POLL_INTERVAL_SECONDS, CapturePipeline
from jetpay_async.ledger._repository import Scope
from jetpay_async.ledger.errors import CapturesStoppedError, ChunkBusyError, LedgerError
from jetpay_async.ledger.ledger import Ledger, check_key
from jetpay_async.ledger.records import ChunkReport, DebitState, Progress, Report, ResolveReport
from jetpay_async.outcomes import CaptureOutcome  # noqa: TC001 - `typing.get_type_hints` reads it

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async.ledger._backend import CommitExecutor, UnitOfWork

__all__ = ["Batch", "DurableCaptures", "run_chunk"]

_T = TypeVar("_T")

DEFAULT_LEASE_SECONDS = 15.0

DEFAULT_FOLLOW_UP_SECONDS = 60.0


class Client(Protocol):
    """What a chunk needs of `JetpayClient`."""

    def durable_captures(
        self,
        ledger: str | os.PathLike[str],
        *,
        concurrency: int,
        rate: float | None,
        lease_seconds: float,
        restored: bool,
        account: str | None,
        accept_rejections: bool,
    ) -> DurableCaptures:
        """Open captures."""
        ...


class DurableCaptures:
    """Captures from a ledger, made by `JetpayClient.durable_captures`; open it with ``async with``.

    While it is open, what was submitted through it is captured in the background. Leaving the block stops that: nothing
    more is sent, what is in flight is awaited (within the client's timeout), and the rest stays pending in the ledger.

    A debit is captured once through one ledger, whatever becomes of the processes that use it. What happens outside of
    the ledger is not known to it: a `JetpayClient.capture` in another process, or a second ledger with the same debits.
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
        account: str | None,
        accept_rejections: bool,
    ) -> None:
        self._ledger = Ledger(ledger, clock=context.clock, commit_executor=context.commit_executor)
        self._context = context
        self._limits = BatchLimits(concurrency=concurrency, rate=rate)
        self._lease_seconds = check_seconds("lease_seconds", lease_seconds)
        self._restored = _check_flag("restored", restored)
        self._account = check_account(account)
        self._accept_rejections = _check_flag("accept_rejections", accept_rejections)
        self._pipeline: CapturePipeline | None = None
        self._lease: OwnerLease | None = None

    async def __aenter__(self) -> Self:
        """Open the ledger, and register in it as an owner of debits.

        Raises:
            LedgerMismatchError: The ledger belongs to another API or account; nothing was sent.
            LedgerError: The ledger can't be used; nothing was sent, and the message says what to do.
        """
        if self._pipeline is not None:
            raise ConfigurationError("these captures are open already; make others for another block")
        await self._ledger.__aenter__()
        try:
            lease = OwnerLease(
                self._ledger.commits, self._lease_seconds, self._context.clock, lapses=self._ledger.leases
            )
            restored = await self._prepare(lease)
        except BaseException:
            await self._ledger.__aexit__(None, None, None)
            raise
        self._lease = lease
        self._pipeline = CapturePipeline(
            self._ledger.commits,
            lease,
            self._context,
            self._limits,
            restored=restored,
            accept_rejections=self._accept_rejections,
        )
        self._pipeline.open()
        return self

    async def _prepare(self, lease: OwnerLease) -> Moment | None:
        """Register; return from when on a status can prove anything, if the ledger was restored."""
        commits = self._ledger.commits
        await commits.run(partial(_repository.bind, origin=self._context.origin, account=self._account))
        await lease.take()
        if not self._restored:
            return None
        on_ledger = await commits.run(_repository.now, writes=False)
        bound = self._context.certain_after
        # Recorded, so that a run that is opened without the flag meanwhile, or after this one ends, waits too.
        await commits.run(partial(_intents.expect_lost_requests, restored_until=on_ledger + bound))
        return Moment(on_ledger + bound, self._context.clock.monotonic() + bound)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pipeline = self._pipeline
        self._pipeline = self._lease = None
        try:
            if pipeline is not None:  # pragma: no branch - set when it was entered
                await pipeline.close()
        finally:
            await self._ledger.__aexit__(None, None, None)

    async def submit(self, key: str, debit_ids: Iterable[str] | AsyncIterable[str]) -> Batch:
        """Add a batch, whole or not at all, and begin to capture it; it is durable when this returns.

        The same key with the same debits is the same batch, also in another process and after a crash: the same lines
        go on with it. Debits that an earlier run left unknown are then resolved again.

        Args:
            key: The batch's name, for example the day; at most 255 characters.
            debit_ids: From `JetpayClient.preauthorize`, in any order; memory stays flat however many there are. A debit
                given twice is captured once.

        Returns:
            The batch. A debit of it that another batch of this ledger has captured is not sent again: the ledger knows
            its outcome.

        Raises:
            InvalidArgumentError: The key or an id can't be one; nothing was added, nothing is sent.
            BatchMismatchError: There is such a batch, with other debits; nothing was changed.
            LedgerError: The ledger can't be written; nothing is sent.
            ConfigurationError: It is used outside of its block.
        """
        pipeline = self._open_pipeline()
        await self._ledger.submit(key, debit_ids)
        return await self._resume(pipeline, key)

    async def batch(self, key: str) -> Batch:
        """Go on with a batch that was submitted before, here or elsewhere.

        Args:
            key: Its name.

        Raises:
            InvalidArgumentError: The key can't be one.
            UnknownBatchError: There is none.
            LedgerError: The ledger can't be written.
            ConfigurationError: It is used outside of its block.
        """
        return await self._resume(self._open_pipeline(), key)

    async def resolve(self, key: str) -> ResolveReport:
        """Read the status of each accepted and each unknown debit of a batch once, and record what it says.

        Nothing is sent. An unknown debit whose status still says ``preauthorized`` stays unknown: whether that proves
        anything is for the next run to judge, which `submit` or `batch` begins.

        Args:
            key: The batch's name.

        Returns:
            What is left, and how many statuses could not be read.

        Raises:
            InvalidArgumentError: The key can't be one.
            UnknownBatchError: The ledger has no such batch.
            CapturesStoppedError: The API rejected the token, or the ledger can't be written; the cause says which.
            LedgerError: The ledger can't be read.
            ConfigurationError: It is used outside of its block.
        """
        pipeline = self._open_pipeline()
        number = await self._ledger.find(key)
        unread = 0
        for state in (DebitState.ACCEPTED, DebitState.UNKNOWN):
            unread += await pipeline.follow_up.read_all(Scope(number), state)
        if pipeline.stopping:
            raise await _stopped_error(self._ledger.commits, pipeline, key, number)
        return ResolveReport(key=key, unread=unread, progress=await _progress(self._ledger.commits, number))

    def stop(self) -> None:
        """Stop capturing: nothing more is sent, and what is in flight finishes.

        For signal handlers: ``loop.add_signal_handler(signal.SIGTERM, captures.stop)``. Whoever waits for a batch gets
        `CapturesStoppedError` as soon as nothing is in flight any more.
        """
        if self._pipeline is not None:
            self._pipeline.stop()

    async def run_chunk(self, batch: str, chunk: int) -> ChunkReport:
        """Capture one chunk of a batch; see the function `run_chunk`.

        Args:
            batch: The batch's key.
            chunk: Which one, from 0.

        Raises:
            InvalidArgumentError: The batch has no such chunk.
            UnknownBatchError: The ledger has no such batch.
            ChunkBusyError: Another run, which is alive, holds what is left of the chunk.
            CapturesStoppedError: It stopped before the end; the cause says why.
            LedgerError: The ledger can't be used.
            ConfigurationError: It is used outside of its block.
        """
        pipeline = self._open_pipeline()
        check_key(batch)
        number, submitted, _ = await self._ledger.commits.run(partial(_repository.find_batch, key=batch), writes=False)
        if type(chunk) is not int or not 0 <= chunk < submitted.chunks:
            raise InvalidArgumentError(
                f"chunk={chunk!r} must be an int from 0 on and below {submitted.chunks}, the chunks of batch {batch!r}",
                field="chunk",
            )
        scope = Scope(number, chunk)
        pipeline.watch(scope, batch)
        try:
            return await self._wait_for_chunk(pipeline, batch, scope)
        finally:
            pipeline.forget(scope)

    async def _wait_for_chunk(self, pipeline: CapturePipeline, key: str, scope: Scope) -> ChunkReport:
        commits = self._ledger.commits
        count = partial(_repository.count_chunk, scope=scope)
        now = self._context.clock.monotonic
        busy_from: float | None = None
        while True:
            stopped = pipeline.done
            counts = await commits.run(count, writes=False)
            if not counts[DebitState.PENDING] and not counts[DebitState.SENDING]:
                break
            if stopped:
                raise await _stopped_error(commits, pipeline, key, scope.batch)
            if await commits.run(partial(_intents.all_held_by_others, scope=scope, owner=self._owner), writes=False):
                busy_from = now() if busy_from is None else busy_from
                if now() - busy_from > self._lease_seconds + POLL_INTERVAL_SECONDS:
                    raise ChunkBusyError(
                        f"chunk {scope.chunk} of batch {key!r} is being captured by another run, which is alive; "
                        "run the chunk again later"
                    )
            else:
                busy_from = None
            await pipeline.wait_for_progress(pipeline.rounds)
        if counts[DebitState.ACCEPTED]:
            await pipeline.follow_up.read_all(scope)
            counts = await commits.run(count, writes=False)
        return ChunkReport(
            key=key,
            chunk=scope.chunk or 0,
            total=counts.total(),
            captured=counts[DebitState.CAPTURED],
            accepted=counts[DebitState.ACCEPTED],
            rejected=counts[DebitState.REJECTED],
            unknown=counts[DebitState.UNKNOWN],
        )

    @property
    def _owner(self) -> int:
        return 0 if self._lease is None else self._lease.owner

    async def _resume(self, pipeline: CapturePipeline, key: str) -> Batch:
        number = await self._ledger.find(key)
        await self._ledger.commits.run(partial(_repository.reopen_unknown, batch=number))
        pipeline.watch(Scope(number), key)
        return Batch(key, _PipelineSource(self._ledger.commits, pipeline, self._context.clock, key, number))

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

    def __init__(self, key: str, source: _PipelineSource) -> None:
        self.key = key
        self._source = source

    async def outcomes(self) -> AsyncIterator[CaptureOutcome]:
        """Yield the outcome of each debit once, in the order in which outcomes are recorded.

        Those of earlier runs come first: whoever was interrupted misses nothing. They are read from the ledger, so
        that ``raw`` is empty, and of an error its class, message, status and request id are kept. No outcome is
        `NotSent`: what was not sent is pending, and comes later. A slow consumer slows nothing down, and fills no
        memory.

        Debits that the API is processing come last, after their status was read once more: as `Accepted`, or as what
        became of them. An `Unknown` may be followed by what another run finds out about it.

        Raises:
            CapturesStoppedError: Capturing stopped before the end, or the ledger can't be read; the cause says why.
        """
        async for outcome in self._source.reader.outcomes():
            yield outcome

    async def progress(self) -> Progress:
        """Return where it stands, whoever works on it, and what it waits for.

        Raises:
            LedgerError: The ledger can't be read.
        """
        return await self._source.progress()

    async def wait(self, *, follow_up: float = DEFAULT_FOLLOW_UP_SECONDS) -> Report:
        """Wait until each debit has an outcome, whoever captures them.

        Args:
            follow_up: Seconds for which debits that the API is processing are followed then, at most: their status is
                read again and again until it is final. What is left is ``accepted`` in the report, and later runs go on
                with it.

        Raises:
            InvalidArgumentError: ``follow_up`` is no number of seconds.
            CapturesStoppedError: Capturing stopped before the end, or the ledger can't be read; the cause says why.
        """
        return await self._source.reader.wait(check_seconds("follow_up", follow_up, zero=True))


class _PipelineSource:
    """Lets a batch be read while the pipeline of this process captures it."""

    def __init__(self, commits: CommitExecutor, pipeline: CapturePipeline, clock: Clock, key: str, number: int) -> None:
        self.clock = clock
        self._commits = commits
        self._pipeline = pipeline
        self._key = key
        self._number = number

    @property
    def reader(self) -> BatchReader:
        """A new reader."""
        return BatchReader(self._number, self)

    @property
    def stopped(self) -> bool:
        """Whether nothing more is captured."""
        return self._pipeline.done

    async def read(self, operation: UnitOfWork[_T]) -> _T:
        """Read from the ledger.

        Raises:
            CapturesStoppedError: The ledger can't be read.
        """
        try:
            return await self._commits.run(operation, writes=False)
        except LedgerError as failure:
            raise await self.stopped_error() from failure

    @property
    def rounds(self) -> int:
        """How often the pipeline has woken readers."""
        return self._pipeline.rounds

    async def pause(self, since: int) -> None:
        """Wait for further outcomes, but no longer than a poll interval."""
        await self._pipeline.wait_for_progress(since)

    async def follow_up(self) -> None:
        """Have the status of the batch's accepted debits read once."""
        await self._pipeline.follow_up.read_all(Scope(self._number))

    async def stopped_error(self) -> CapturesStoppedError:
        """Return why nothing more is captured."""
        return await _stopped_error(self._commits, self._pipeline, self._key, self._number)

    async def progress(self) -> Progress:
        """Return where the batch stands."""
        return await _progress(self._commits, self._number)


async def _progress(commits: CommitExecutor, number: int) -> Progress:
    return (await commits.run(partial(_repository.full_progress, batch=number), writes=False)).progress


async def _stopped_error(
    commits: CommitExecutor, pipeline: CapturePipeline, key: str, number: int
) -> CapturesStoppedError:
    cause = pipeline.error
    progress: Progress | None = None
    try:
        progress = await _progress(commits, number)
    except LedgerError as failure:
        cause = cause or failure
    left = "" if progress is None else f", {progress.total - progress.finished} of {progress.total} debits are left"
    why = "on request" if cause is None else f"({cause})"
    error = CapturesStoppedError(
        f"capturing batch {key!r} stopped {why}{left}; submit the same batch again to go on", key=key, progress=progress
    )
    error.__cause__ = cause
    return error


def _check_flag(name: str, value: bool) -> bool:  # noqa: FBT001 - a check of an argument
    if type(value) is not bool:
        raise InvalidArgumentError(f"{name}={value!r} must be a bool", field=name)
    return value


async def run_chunk(
    ledger: str | os.PathLike[str] | DurableCaptures,
    batch: str,
    chunk: int,
    *,
    client: Client,
    concurrency: int = 64,
    rate: float | None = None,
    lease_seconds: float = DEFAULT_LEASE_SECONDS,
    restored: bool = False,
    account: str | None = None,
    accept_rejections: bool = False,
) -> ChunkReport:
    """Capture one chunk of a batch: the unit of work for any backend that runs each job at least once.

    Running it again, or twice at a time, is safe and cheap: what is done is done, what a dead worker left in doubt is
    resolved, and what is pending is sent. It returns when every debit of the chunk has an outcome; the status of those
    that the API is processing is read once more before.

    Args:
        ledger: Where the batch was submitted: a path, a ``postgresql://`` URL, or `DurableCaptures` that are open,
            whose own settings then count instead of those below.
        batch: The batch's key.
        chunk: Which one, from 0; `Submitted.chunks` says how many there are.
        client: The `JetpayClient` that captures them.
        concurrency: Captures in flight, at most.
        rate: Captures per second, of all machines together.
        lease_seconds: Seconds after which a worker that says nothing counts as dead (PostgreSQL).
        restored: Whether the ledger was restored from a backup, or comes from an older replica; see
            `JetpayClient.durable_captures`. Each call then waits from its own beginning.
        account: A label of your account; a ledger that has another one is refused.
        accept_rejections: Whether 404 and 403 are recorded even if the first 8 answers say nothing else.

    Raises:
        InvalidArgumentError: An argument can't work, or the batch has no such chunk.
        UnknownBatchError: The ledger has no such batch.
        LedgerMismatchError: The ledger belongs to another API or account.
        ChunkBusyError: Another run, which is alive, holds what is left of the chunk; run it again later.
        CapturesStoppedError: It stopped before the end; the cause says why. Run it again.
        LedgerError: The ledger can't be used.
    """
    if isinstance(ledger, DurableCaptures):
        return await ledger.run_chunk(batch, chunk)
    async with client.durable_captures(
        ledger,
        concurrency=concurrency,
        rate=rate,
        lease_seconds=lease_seconds,
        restored=restored,
        account=account,
        accept_rejections=accept_rejections,
    ) as captures:
        return await captures.run_chunk(batch, chunk)
