"""The pipeline that captures what a ledger holds, and the supervisor of its parts.

::

    claimer ──▶ senders ──▶ recorder
       │           │           ▲
       └────────▶ resolver ────┘
                    ▲
    take-over ──────┘

The claimer commits the intent to send a debit, a sender sends it, the recorder commits what became of it. What is in
doubt goes to the resolver: what was not answered, what a dead run left, what another batch may have sent. A debit that
is proven not captured goes back to the ledger as pending, and is claimed again as any other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from jetpay_async._batch.admission import AdmissionControl
from jetpay_async._core.log import logger
from jetpay_async.ledger import _intents
from jetpay_async.ledger._account_check import AccountCheck
from jetpay_async.ledger._claimer import Claimer, ClaimLimits
from jetpay_async.ledger._follow_up import FollowUp
from jetpay_async.ledger._recorder import Recorder
from jetpay_async.ledger._resolver import RESOLVERS, Origin, Resolver
from jetpay_async.ledger._sender import Sender
from jetpay_async.ledger.errors import LedgerError
from jetpay_async.ledger.records import DebitState

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from jetpay_async._batch.worker_pool import BatchLimits
    from jetpay_async.ledger._backend import CommitExecutor
    from jetpay_async.ledger._context import ClientContext, Moment
    from jetpay_async.ledger._intents import OutcomeRecord
    from jetpay_async.ledger._lease import OwnerLease
    from jetpay_async.ledger._repository import Scope

# How often the lease, what dead owners have left, and what can be resolved by now are attended to.
POLL_INTERVAL_SECONDS = 0.5

# Between two lines of the log that say what is waited for.
LOG_INTERVAL_SECONDS = 10.0


class CapturePipeline:
    """Captures what is pending in its scopes, until it is stopped.

    Args:
        commits: The ledger's.
        lease: The owner.
        context: The client's.
        limits: Captures in flight, at most; and per second, of all owners together.
        restored: From when on a status can prove anything, if the ledger was restored from a copy, so that what it
            holds as not sent may have been sent.
        accept_rejections: Whether 404 and 403 are recorded though the API gives no other answer.
    """

    def __init__(
        self,
        commits: CommitExecutor,
        lease: OwnerLease,
        context: ClientContext,
        limits: BatchLimits,
        *,
        restored: Moment | None,
        accept_rejections: bool,
    ) -> None:
        self._commits = commits
        self._lease = lease
        self._clock = context.clock
        self._restored = restored
        self._concurrency = limits.concurrency
        admission = AdmissionControl(limits.concurrency, rate=None, clock=context.clock)
        self._names: dict[int, str] = {}
        """Of the batches that it captures, by number; for the log."""
        self._recorder = Recorder(
            commits,
            lease,
            context.clock,
            on_recorded=self._on_recorded,
            on_failure=self.stop,
            name_batch=self._names.get,
        )
        self._resolver = Resolver(context, self._recorder, stop=self.stop)
        self._claimer = Claimer(
            commits,
            lease,
            context,
            ClaimLimits(size=max(1, limits.concurrency // 2), rate=limits.rate, room=lambda: admission.limit),
            restored=restored,
            recorder=self._recorder,
            resolver=self._resolver,
            on_nothing_left=self._on_nothing_left,
        )
        self._sender = Sender(
            context,
            lease,
            admission,
            claimer=self._claimer,
            resolver=self._resolver,
            recorder=self._recorder,
            account_check=AccountCheck(enabled=not accept_rejections),
            stop=self.stop,
        )
        self.follow_up: FollowUp = FollowUp(commits, context, self._recorder, stop=self.stop)
        """Reads the status of accepted debits again."""
        self.rounds: int = 0
        """How often readers were woken: at each commit of outcomes, and in each poll interval."""
        self._readers: deque[asyncio.Future[None]] = deque()
        self._logged_at = -LOG_INTERVAL_SECONDS
        self._claiming: asyncio.Task[None] | None = None
        self._sending: list[asyncio.Task[None]] = []
        self._supporting: list[asyncio.Task[None]] = []
        self._recording: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.error: Exception | None = None
        """Why it stopped, if not on request."""

    @property
    def done(self) -> bool:
        """Whether it has stopped, and everything is recorded."""
        return self._ending is not None and self._ending.done()

    @property
    def stopping(self) -> bool:
        """Whether it has stopped, or is about to."""
        return self._ending is not None

    def open(self) -> None:
        """Start all parts."""
        create = asyncio.get_running_loop().create_task
        self._recording = create(self._recorder.run())
        self._claiming = create(self._guard(self._claimer.run()))
        self._supporting = [create(self._guard(self._supervise())), create(self._guard(self._claimer.release_slots()))]

    def watch(self, scope: Scope, name: str) -> None:
        """Capture what is in a scope from now on.

        Args:
            scope: A batch, or a chunk of it.
            name: Of the batch.
        """
        self._names[scope.batch] = name
        if not self._sending and not self.stopping:
            self._start_workers()
        self._claimer.watch(scope)

    def forget(self, scope: Scope) -> None:
        """Claim nothing more from a scope, unless it is watched for somebody else too."""
        self._claimer.forget(scope)

    def stop(self, error: Exception | None = None) -> None:
        """Claim nothing more, send nothing more, and let what is in flight finish.

        Args:
            error: Why, if it is not by request.
        """
        if self.stopping:
            return
        if error is not None:
            logger.warning("capturing stops: %s", error, extra=self._fields(error))
        self.error = error
        self._ending = asyncio.get_running_loop().create_task(self._end())
        self._sender.stop()
        self._claimer.stop()
        self._resolver.stop()
        for _ in self._sending:
            self._claimer.ready.put_nowait(None)

    async def close(self) -> None:
        """Stop, and wait for what is in flight.

        If the wait is cancelled, what is in flight is cut off: those debits stay in doubt, and the next run resolves
        them.
        """
        self.stop()
        if self._ending is None:  # pragma: no cover - stop() makes it
            raise AssertionError
        try:
            await asyncio.shield(self._ending)
        except asyncio.CancelledError:
            for worker in self._sending:
                worker.cancel()
            await self._ending
            raise

    async def wait_for_progress(self, since: int) -> None:
        """Wait until something is recorded, but no longer than a poll interval.

        Args:
            since: `rounds` as it was before what is waited for was looked up.
        """
        if self.done or self.rounds != since:
            return
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        await reader

    def _start_workers(self) -> None:
        create = asyncio.get_running_loop().create_task
        self._sending = [create(self._guard(self._sender.work())) for _ in range(self._concurrency)]
        resolvers = min(RESOLVERS, self._concurrency)
        self._supporting.extend(create(self._guard(self._resolver.work())) for _ in range(resolvers))

    async def _supervise(self) -> None:
        """Renew the lease, take over what dead owners left, and begin to resolve what can be resolved by now."""
        while True:
            await self._lease.keep()
            if await self._commits.run(partial(_intents.sees_others, owner=self._lease.owner), writes=False):
                await self._take_over()
            self._resolver.release_due()
            self._log_waiting()
            self._claimer.wake()
            self._wake_readers()
            await self._clock.sleep(min(POLL_INTERVAL_SECONDS, self._lease.renewed_every))

    async def _take_over(self) -> None:
        debits = await self._commits.run(
            partial(
                _intents.take_over,
                scopes=self._claimer.scopes,
                owner=self._lease.owner,
                restored_until=None if self._restored is None else self._restored.on_ledger,
            )
        )
        for debit in debits:
            due = self._clock.monotonic() + debit.wait
            due = due if self._restored is None else max(due, self._restored.monotonic)
            self._resolver.add(debit, due, Origin.TAKE_OVER)
        if debits:
            longest = max(debit.wait for debit in debits)
            logger.warning(
                "waiting %.0f s to resolve %d debits of a run that ended", longest, len(debits), extra=self._fields()
            )

    def _log_waiting(self) -> None:
        waiting = self._resolver.waiting
        now = self._clock.monotonic()
        if waiting is not None and waiting.seconds >= 1 and now - self._logged_at >= LOG_INTERVAL_SECONDS:
            logger.info("%s", waiting, extra=self._fields())
            self._logged_at = now

    def _fields(self, error: Exception | None = None) -> dict[str, object]:
        """Return what a log record of the whole run is about."""
        return {
            "operation": "capture",
            "batch": ", ".join(self._names.values()),
            "reason": None if error is None else str(error),
        }

    def _on_recorded(self, records: Sequence[OutcomeRecord]) -> None:
        if any(record.state is DebitState.PENDING for record in records):
            self._claimer.wake()
        self._wake_readers()

    def _on_nothing_left(self) -> None:
        if self._sender.idle and not self._claimer.ahead:
            self._sender.record_held()

    def _wake_readers(self) -> None:
        self.rounds += 1
        while self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)

    async def _guard(self, part: Coroutine[None, None, None]) -> None:
        try:
            await part
        except LedgerError as error:
            self.stop(error)
        except Exception as error:  # noqa: BLE001 - a fault in one part stops all of them, in order
            logger.exception("capturing stops for a fault", extra=self._fields(error))
            self.stop(error)

    async def _end(self) -> None:
        """End one part after the other, so that each can hand on what it holds; then let other runs go on."""
        try:
            await self.follow_up.stop()
            await asyncio.wait([task for task in (self._claiming, *self._sending) if task is not None])
            for task in self._supporting:
                task.cancel()
            await asyncio.gather(*self._supporting, return_exceptions=True)
            self._recorder.close()
            if self._recording is not None:  # pragma: no branch - started with the others
                await self._recording
        finally:
            await self._leave()
        self._wake_readers()

    async def _leave(self) -> None:
        """Leave what is in doubt to other runs: whoever opened this one may keep it open for long."""
        try:
            await self._lease.leave()
        except LedgerError as failure:
            # The next run finds out by itself, and why this one stopped was reported.
            logger.warning("the end of this run could not be recorded in the ledger: %s", failure)
