"""The pipeline that captures what a ledger says: claims intents, sends, settles what is in doubt, writes down.

::

    claimer ──▶ queue ──▶ workers ──▶ entries ──▶ recorder
                             │                       ▲
                             ▼                       │
             keeper ──▶ doubts ──▶ resolvers ─────────┘

One of each but the workers and the resolvers. Data goes through once, from left to right; what is proven not captured
goes back to the ledger as pending, and comes again as any other.

Nothing is sent but within a fixed time after its intent was committed (a share of the client's timeout until it starts,
the whole of it from then on), so that a later run knows from the intent when the request can no longer be on its way.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs

from jetpay_async._batch.admission import AdmissionControl, Slot
from jetpay_async._core import operations
from jetpay_async._core.clock import Clock
from jetpay_async._core.executor import CallExecutor, Options
from jetpay_async._core.log import logger
from jetpay_async._core.single_flight import SingleFlight
from jetpay_async.errors import (
    AuthenticationError,
    ConfigurationError,
    JetpayError,
    NotSentError,
    OutcomeUnknownError,
    ServiceError,
)
from jetpay_async.ledger import _repository, _rows
from jetpay_async.ledger._repository import Claim, OutcomeRecord, Scope, UnresolvedDebit
from jetpay_async.ledger.errors import LedgerError
from jetpay_async.ledger.records import DebitState
from jetpay_async.outcomes import Accepted, Captured, NotSent, Rejected, Unknown, undone

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from jetpay_async._batch.worker_pool import BatchLimits
    from jetpay_async.ledger._group_commit import GroupCommitExecutor
    from jetpay_async.ledger._lease import OwnerLease
    from jetpay_async.outcomes import CaptureOutcome

# Seconds between two looks at what others have left, and at which doubts can be settled by now.
POLL_INTERVAL_SECONDS = 0.5

# Seconds in which outcomes gather for one commit.
COMMIT_WINDOW_SECONDS = 0.01

# The share of the timeout that may pass between an intent and its request.
SEND_SHARE = 0.1

# Seconds of slots of the rate that are reserved at a time.
SLOTS_AHEAD_SECONDS = 0.5

RESOLVERS = 16

# A debit whose requests are all lost, and proven so, is given up after this many of them.
MAX_ATTEMPTS = 15

# Times that a status is looked for in vain before the outcome is written down as unknown.
MAX_RESOLVE_ROUNDS = 3


@attrs.frozen
class ClientContext:
    """What of the client captures are made with."""

    single_flight: SingleFlight
    runner: CallExecutor
    options: Options
    clock: Clock


@attrs.frozen
class ClaimedDebit:
    """A debit to be sent."""

    claimed: Claim
    intended_at: float
    """Monotonic, from before its intent was committed."""


@attrs.frozen(order=True)
class PendingResolution:
    """A debit in doubt."""

    due: float
    """When its request can no longer be on its way; monotonic."""
    doubt: UnresolvedDebit = attrs.field(order=False)
    rounds: int = attrs.field(default=0, order=False)


class CapturePipeline:
    """DurableCaptures what is pending in its scopes, until it is stopped.

    Args:
        commits: The ledger's.
        lease: The owner.
        context: The client's.
        pace: Captures in shared, at most; and a second, of all owners together.
        restored: Whether the ledger was restored from a copy, so that what it says was not sent may have been sent.
    """

    def __init__(
        self,
        commits: GroupCommitExecutor,
        lease: OwnerLease,
        context: ClientContext,
        pace: BatchLimits,
        *,
        restored: bool,
    ) -> None:
        self._commits = commits
        self._lease = lease
        self._context = context
        self._clock = context.clock
        self._rate = pace.rate
        self._restored = restored
        self._admission = AdmissionControl(pace.concurrency, rate=None, clock=context.clock)
        self._concurrency = pace.concurrency
        self._claim_size = max(1, pace.concurrency // 2)
        timeout = context.options.timeout
        self._send_within = timeout * SEND_SHARE
        self._certain_after = self._send_within + timeout + context.options.retry.resolve_after
        self._scopes: list[Scope] = []
        self._queue: asyncio.Queue[ClaimedDebit | None] = asyncio.Queue()
        self._due: asyncio.Queue[PendingResolution] = asyncio.Queue()
        self._resolutions: list[PendingResolution] = []
        self._entries: list[OutcomeRecord] = []
        self._claim_wanted = asyncio.Event()
        self._written = asyncio.Event()
        self._readers: deque[asyncio.Future[None]] = deque()
        self._stopping = False
        self._closing = False
        self._drained: asyncio.Task[None] | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._others: list[asyncio.Task[None]] = []
        self._recorder: asyncio.Task[None] | None = None
        self._claimer: asyncio.Task[None] | None = None
        self.error: Exception | None = None
        """Why it stopped, if it was not told to."""

    # --- from outside

    @property
    def done(self) -> bool:
        """Whether it has stopped, and everything is written down."""
        return self._drained is not None and self._drained.done()

    def open(self) -> None:
        """Look after the lease from now on."""
        self._others.append(asyncio.get_running_loop().create_task(self._guard(self._keep())))

    def watch(self, scope: Scope) -> None:
        """Capture what is in a scope from now on."""
        if scope not in self._scopes:
            self._scopes.append(scope)
        self._claim_wanted.set()
        if self._claimer is None and not self._stopping:
            self._start()

    def forget(self, scope: Scope) -> None:
        """Claim nothing more from a scope."""
        with suppress(ValueError):  # another who waited for the same scope was first
            self._scopes.remove(scope)

    def stop(self, error: Exception | None = None) -> None:
        """Claim nothing more, send nothing more, and let those in shared finish.

        Args:
            error: Why, if it is not by request.
        """
        if self._stopping:
            return
        if error is not None:
            logger.warning("capturing stops: %s", error)
        self._stopping = True
        self.error = error
        self._admission.disable(NotSentError("capturing was stopped before this debit was sent"))
        self._give_back_queue()
        for _ in self._workers:
            self._queue.put_nowait(None)
        self._claim_wanted.set()
        self._drained = asyncio.get_running_loop().create_task(self._drain())

    async def close(self) -> None:
        """Stop, and wait for those in shared.

        If the wait is cancelled, those in shared are cut off: their debits stay in doubt, and the next run settles
        them.
        """
        self.stop()
        if self._drained is None:  # pragma: no cover - stop() makes it
            raise AssertionError
        try:
            await asyncio.shield(self._drained)
        except asyncio.CancelledError:
            for worker in self._workers:
                worker.cancel()
            await self._drained
            raise

    async def wait_for_progress(self, within: float) -> None:
        """Wait until something was written down, or this many seconds."""
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        try:
            async with asyncio.timeout(within):
                await reader
        except TimeoutError:
            pass
        finally:
            if reader in self._readers:
                self._readers.remove(reader)

    def _start(self) -> None:
        create = asyncio.get_running_loop().create_task
        self._claimer = create(self._guard(self._claim()))
        self._recorder = create(self._record())
        self._workers = [create(self._guard(self._work())) for _ in range(self._concurrency)]
        resolvers = min(RESOLVERS, self._concurrency)
        self._others.extend(create(self._guard(self._resolve())) for _ in range(resolvers))

    # --- claiming

    async def _claim(self) -> None:
        while not self._stopping:
            self._claim_wanted.clear()
            if self._queue.qsize() > self._claim_size // 2 or not await self._claim_some():
                await self._claim_wanted.wait()

    async def _claim_some(self) -> bool:
        limit = max(1, min(self._claim_size, int(self._admission.limit)))
        if self._rate is not None:
            limit = max(1, min(limit, int(self._rate * SLOTS_AHEAD_SECONDS)))
        for scope in tuple(self._scopes):
            began = self._clock.monotonic()
            claimed = await self._commits.run(
                partial(
                    _repository.claim,
                    scope=scope,
                    owner=self._lease.owner,
                    limit=limit,
                    resolve=self._certain_after,
                    rate=self._rate,
                ),
                last=True,
            )
            for each in claimed:
                self._queue.put_nowait(ClaimedDebit(each, began))
            if self._stopping:
                self._give_back_queue()
            if claimed:
                return True
        return False

    # --- sending

    async def _work(self) -> None:
        slot = Slot(self._admission)
        while (refusal := await slot.enter()) is None:
            outcome: CaptureOutcome | None = None
            try:
                if (task := await self._queue.get()) is None:
                    return
                if self._queue.qsize() <= self._claim_size // 2:
                    self._claim_wanted.set()
                outcome = await self._send(slot, task)
            finally:
                slot.leave(outcome)
        self.stop(refusal)

    async def _send(self, slot: Slot, task: ClaimedDebit) -> CaptureOutcome | None:
        claimed = task.claimed
        start = task.intended_at + claimed.delay
        if (wait := start - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait)
        if self._stopping or self._clock.monotonic() - start > self._send_within:
            self._give_back(claimed)
            return None
        context = self._context
        debit_id = claimed.debit_id
        execution = context.runner.begin(
            operations.capture(debit_id),
            context.options,
            on_failure=slot.on_failure,
            pre_send_check=self._lease.pre_send_check,
        )
        # Paused between the check above and here, it would begin late: its write goes by the intent, too.
        execution.deadline = min(execution.deadline, start + self._send_within + context.options.timeout)
        if claimed.repeated or self._restored:
            execution.mark_in_doubt(-math.inf)
        outcome: CaptureOutcome
        try:
            outcome = Captured(debit_id=debit_id, capture=await context.single_flight.capture(debit_id, execution))
        except JetpayError as error:
            trusted = context.options.retry.resend_rate_limited
            outcome = undone(error, debit_id=debit_id, request=None, trust_rate_limited=trusted)
        self._record_outcome(task, outcome)
        return outcome

    def _record_outcome(self, task: ClaimedDebit, outcome: CaptureOutcome) -> None:
        """Decide what the ledger is told of an outcome."""
        claimed = task.claimed
        earlier = claimed.attempts - 1
        if isinstance(outcome, Captured | Accepted):
            self._write(_rows.write(claimed.id, outcome, earlier=earlier))
            return
        run_wide = _run_wide_error(outcome.error)
        if run_wide is not None:
            self.stop(run_wide)
        if self._may_have_been_captured(outcome, run_wide):
            due = task.intended_at + claimed.delay + self._certain_after
            doubt = UnresolvedDebit(claimed.id, claimed.debit_id, earlier + outcome.attempts, 0.0)
            heapq.heappush(self._resolutions, PendingResolution(due, doubt))
        elif run_wide is not None:
            self._give_back(claimed, outcome.attempts)
        elif isinstance(outcome, Rejected):
            self._write(_rows.write(claimed.id, outcome, earlier=earlier))
        elif isinstance(outcome.error, ServiceError) and earlier + outcome.attempts >= MAX_ATTEMPTS:
            rejected = Rejected(debit_id=outcome.debit_id, request=None, error=outcome.error)
            self._write(_rows.write(claimed.id, rejected, earlier=earlier))
        else:
            # What never began to leave is no request that may have been made.
            self._give_back(claimed, 0 if isinstance(outcome.error, NotSentError) else outcome.attempts)

    def _may_have_been_captured(
        self, outcome: Rejected[None] | NotSent[None] | Unknown[None], run_wide: JetpayError | None
    ) -> bool:
        """Say whether the debit may have been captured, as far as we know."""
        # Where its status came first, and could not be read, nothing was sent.
        return isinstance(outcome, Unknown) and (run_wide is None or outcome.attempts > 0)

    # --- settling

    async def _keep(self) -> None:
        """Look after the lease, after what others have left, and after the doubts that can be settled by now."""
        while True:
            await self._lease.keep()
            if await self._commits.run(partial(_repository.sees_others, owner=self._lease.owner), writes=False):
                await self._take_over()
            now = self._clock.monotonic()
            while self._resolutions and self._resolutions[0].due <= now:
                self._due.put_nowait(heapq.heappop(self._resolutions))
            self._claim_wanted.set()
            await self._clock.sleep(min(POLL_INTERVAL_SECONDS, self._lease.renewed_every))

    async def _take_over(self) -> None:
        doubts = await self._commits.run(
            partial(_repository.take_over, scopes=tuple(self._scopes), owner=self._lease.owner)
        )
        now = self._clock.monotonic()
        for doubt in doubts:
            heapq.heappush(self._resolutions, PendingResolution(now + doubt.wait, doubt))
        if doubts:
            logger.info("%d debits are in doubt, left by a run that ended: settling them", len(doubts))

    async def _resolve(self) -> None:
        while True:
            await self._resolve_one(await self._due.get())

    async def _resolve_one(self, case: PendingResolution) -> None:
        context = self._context
        doubt = case.doubt
        execution = context.runner.begin(operations.capture(doubt.debit_id), context.options)
        # What is due can no longer be on its way.
        execution.mark_in_doubt(-math.inf)
        try:
            capture = await context.single_flight.resolve(doubt.debit_id, execution)
        except JetpayError as error:
            self._record_resolution(case, error)
            return
        if capture is None:
            self._write(OutcomeRecord(doubt.id, DebitState.PENDING, doubt.attempts))
        else:
            captured = Captured(debit_id=doubt.debit_id, capture=capture)
            self._write(_rows.write(doubt.id, captured, earlier=doubt.attempts))

    def _record_resolution(self, case: PendingResolution, error: JetpayError) -> None:
        doubt = case.doubt
        outcome = undone(error, debit_id=doubt.debit_id, request=None, trust_rate_limited=False)
        if (run_wide := _run_wide_error(error)) is not None:
            self.stop(run_wide)
        elif isinstance(outcome, Rejected):
            self._write(_rows.write(doubt.id, outcome, earlier=doubt.attempts))
        elif isinstance(error, OutcomeUnknownError) and (
            error.state is not None or case.rounds + 1 >= MAX_RESOLVE_ROUNDS
        ):
            unknown = Unknown(debit_id=doubt.debit_id, request=None, error=error)
            self._write(_rows.write(doubt.id, unknown, earlier=doubt.attempts))
        else:
            due = self._clock.monotonic() + self._context.options.retry.resolve_after
            heapq.heappush(self._resolutions, PendingResolution(due, doubt, case.rounds + 1))

    # --- writing down

    def _write(self, entry: OutcomeRecord) -> None:
        self._entries.append(entry)
        self._written.set()

    def _give_back(self, claimed: Claim, attempts: int = 0) -> None:
        """Put a debit back that is proven not captured; what came first for it still does."""
        self._write(
            OutcomeRecord(
                claimed.id,
                DebitState.PENDING,
                claimed.attempts - 1 + attempts,
                look_first=claimed.repeated,
            )
        )

    def _give_back_queue(self) -> None:
        tasks: list[ClaimedDebit | None] = []
        while not self._queue.empty():
            tasks.append(self._queue.get_nowait())
        for task in tasks:
            if task is None:
                self._queue.put_nowait(None)
            else:
                self._give_back(task.claimed)

    async def _record(self) -> None:
        while True:
            await self._written.wait()
            if not self._closing:
                await asyncio.sleep(COMMIT_WINDOW_SECONDS)
            self._written.clear()
            entries, self._entries = self._entries, []
            try:
                if entries:
                    await self._commits.run(partial(_repository.record, entries=entries, owner=self._lease.owner))
            except Exception as error:  # noqa: BLE001 - whatever it is, the outcomes are told
                for entry in entries:
                    logger.error("%s could not be written down: %s, attempts %d", entry.id, entry.state, entry.attempts)
                self.stop(error)
            if any(entry.state is DebitState.PENDING for entry in entries):
                self._claim_wanted.set()
            self._notify_readers()
            if self._closing and not self._entries:
                return

    def _notify_readers(self) -> None:
        while self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)

    # --- ending

    async def _guard(self, part: Coroutine[None, None, None]) -> None:
        try:
            await part
        except LedgerError as error:
            self.stop(error)
        except Exception as error:  # noqa: BLE001 - a fault in one part stops all of them, in order
            logger.exception("capturing stops for a fault")
            self.stop(error)

    async def _drain(self) -> None:
        if self._claimer is not None:
            await self._claimer
        await asyncio.gather(*self._workers, return_exceptions=True)
        for other in self._others:
            other.cancel()
        await asyncio.gather(*self._others, return_exceptions=True)
        if self._recorder is not None:
            self._closing = True
            self._written.set()
            await self._recorder
        self._notify_readers()


def _run_wide_error(error: JetpayError) -> JetpayError | None:
    """Return what is no word on a debit, since the same would be said of all: the token is rejected, for example."""
    for said in (error, error.__cause__):
        if isinstance(said, AuthenticationError | ConfigurationError):
            return said
    return None
