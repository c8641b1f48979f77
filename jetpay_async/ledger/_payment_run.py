"""Sends payments by their references: intent first, then the request, then what became of it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import attrs

from jetpay_async._core.log import logger
from jetpay_async.errors import JetpayError, NotSentError
from jetpay_async.ledger import _payment_batches, _payments, _reports
from jetpay_async.ledger._payment_outcomes import read_result, unknown_error, write_error, write_result
from jetpay_async.ledger._payments import ClaimedPayment, PaymentIntent, PaymentRecord
from jetpay_async.ledger.errors import LedgerError
from jetpay_async.ledger.payment_records import PaymentState
from jetpay_async.models import Charge, Credit, Preauthorization

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from jetpay_async._core.execution import Execution
    from jetpay_async._core.operations import Call
    from jetpay_async.ledger._backend import CommitExecutor, UnitOfWork
    from jetpay_async.ledger._context import ClientContext
    from jetpay_async.ledger._lease import OwnerLease
    from jetpay_async.ledger._payment_batches import PendingClaims, PendingPayment
    from jetpay_async.ledger._payment_outcomes import PaymentOperation

_T = TypeVar("_T")
_R = TypeVar("_R", Preauthorization, Charge, Credit)

# How often the lease, and what dead owners have left, are attended to.
POLL_INTERVAL_SECONDS = 0.5

# How often to ask for what another process is sending.
WAIT_INTERVAL_SECONDS = 0.1

OnFailure: TypeAlias = "Callable[[int | None, float | None], None]"

Decide: TypeAlias = "Callable[[PaymentRecord, PaymentAnswer[Any]], PaymentRecord | None]"
"""Says what is recorded of an answer; None if it is recorded later."""


@attrs.frozen
class PaymentAnswer(Generic[_R]):
    """How a request ended, as the caller learns it."""

    result: _R | None = None
    error: JetpayError | None = None


class PaymentRun:
    """One owner of payments in the ledger.

    Args:
        commits: The ledger's.
        lease: The owner.
        context: The client's.
        restored: Whether the ledger may have forgotten what was sent: then nothing is sent.
    """

    def __init__(
        self, commits: CommitExecutor, lease: OwnerLease, context: ClientContext, *, restored: bool = False
    ) -> None:
        self._commits = commits
        self._lease = lease
        self._context = context
        self._restored = restored
        self._under_way: dict[str, asyncio.Task[PaymentAnswer[Any]]] = {}
        """By reference."""
        self._tasks: set[asyncio.Task[Any]] = set()
        """What the end of the run waits for."""
        self.on_end: Callable[[JetpayError | None], None] = lambda _: None
        """Called when nothing more can be sent, with the error if there is one, and when the run is closed."""
        self._closing = False
        self._keeping: asyncio.Task[None] | None = None
        self._error: JetpayError | None = None
        """Why nothing is sent any more."""

    async def open(self) -> None:
        """Record as unknown what dead owners have left, and begin to renew the lease.

        In a restored ledger what is pending is unknown, too.

        Raises:
            LedgerError: The ledger can't be written.
        """
        await self._commits.run(partial(_payments.expire, owner=self._lease.owner))
        if self._restored:
            leave = partial(_payment_batches.leave_pending_unknown, certain_after=self._context.certain_after)
            if left := await self._commits.run(leave):
                logger.warning("%d payments that the restored ledger had pending are unknown", left)
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Wait for what is in flight, and for its outcome to be recorded.

        If the wait is cancelled, what is in flight is cut off. It stays in doubt, and the next run records it as
        unknown.
        """
        self._closing = True
        self.on_end(None)
        try:
            while self._tasks:
                await asyncio.wait(self._tasks)
        except asyncio.CancelledError:
            for task in self._tasks:
                task.cancel()
            while self._tasks:
                await asyncio.wait(self._tasks)
            raise
        finally:
            if self._keeping is not None:  # pragma: no branch - set when it was opened
                self._keeping.cancel()
                await asyncio.wait([self._keeping])

    async def pay(self, operation: PaymentOperation[_R], reference: str, call: Call[_R], *, retry_rejected: bool) -> _R:
        """Send a payment, unless the ledger knows it.

        It is done in a task of its own, which goes on to the end though the caller is cancelled: an intent that is
        committed is sent, and its answer recorded.

        Raises:
            JetpayError: As documented for the methods of `jetpay_async.ledger.durable_payments`.
        """
        while (earlier := self._under_way.get(reference)) is not None:
            await asyncio.wait([earlier])
        task = self._begin(reference, self._claim(operation, reference, call, retry_rejected=retry_rejected))
        answer = await asyncio.shield(task)
        if answer.result is None:
            raise answer.error or AssertionError
        return answer.result

    async def send(
        self,
        operation: PaymentOperation[_R],
        pending: PendingPayment,
        call: Call[_R],
        start: float,
        *,
        on_failure: OnFailure,
        decide: Decide,
    ) -> PaymentAnswer[_R]:
        """Send a payment that was claimed, as `pay` does.

        Args:
            operation: Which.
            pending: The payment.
            call: Its request.
            start: When its slot in the rate begins; monotonic.
            on_failure: As for `CallExecutor.begin`.
            decide: Says what is recorded of its outcome.
        """
        reference = pending.payment.reference
        sending = self._send(operation, reference, pending.claimed, call, start, on_failure=on_failure, decide=decide)
        return await asyncio.shield(self._begin(reference, sending))

    def start(self, part: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start what the end of the run waits for."""
        task = asyncio.get_running_loop().create_task(part)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _begin(
        self, reference: str, payment: Coroutine[Any, Any, PaymentAnswer[_R]]
    ) -> asyncio.Task[PaymentAnswer[_R]]:
        """Start a payment; whoever asks for its reference meanwhile waits for it."""
        task = self.start(_answer(payment))
        self._under_way[reference] = task

        def forget(_: object) -> None:
            if self._under_way.get(reference) is task:
                del self._under_way[reference]

        task.add_done_callback(forget)
        return task

    async def claim_pending(self, batch: int, *, limit: int, rate: float | None) -> PendingClaims:
        """Commit the intents to send some payments of a batch.

        Raises:
            LedgerError: The ledger can't be written, or nothing more is sent.
        """
        self._check_sending()
        claim = partial(
            _payment_batches.claim,
            batch=batch,
            owner=self._lease.owner,
            limit=limit,
            certain_after=self._context.certain_after,
            rate=rate,
        )
        claiming = asyncio.ensure_future(self._commits.run(claim, last=True))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            for pending in (await claiming).send:
                await self.release(pending.claimed)
            raise

    async def read(self, operation: UnitOfWork[_T]) -> _T:
        """Read from the ledger.

        Raises:
            LedgerError: It can't be read.
        """
        return await self._commits.run(operation, writes=False)

    async def _claim(
        self, operation: PaymentOperation[_R], reference: str, call: Call[_R], *, retry_rejected: bool
    ) -> PaymentAnswer[_R]:
        """Commit the intent and send it, or return what the ledger knows."""
        clock = self._context.clock
        until = clock.monotonic() + self._context.options.timeout
        intent = PaymentIntent(reference, operation.name, operation.kind, call.arguments)
        while True:
            self._check_sending()
            start = clock.monotonic()
            claimed = await self._commit_intent(intent, retry_rejected=retry_rejected)
            payment = claimed.payment
            if payment is None and self._closing:
                await self.release(claimed)
                raise NotSentError(
                    "nothing was sent, since the block of the payments is being left; calling again is safe",
                    operation=operation.name,
                )
            if payment is None:
                return await self._send(operation, reference, claimed, call, start)
            if payment.state is not PaymentState.SENDING:
                return PaymentAnswer(result=read_result(operation, payment))
            if clock.monotonic() >= until:
                raise unknown_error(payment)
            # Sent anew here, it would be a second one: whoever sends it says what became of it, or dies.
            await self._expire()
            await clock.sleep(WAIT_INTERVAL_SECONDS)

    def _check_sending(self) -> None:
        if self._error is not None:
            raise LedgerError(
                f"nothing more is sent: {self._error.message}; open a new block to go on"
            ) from self._error

    async def _commit_intent(self, intent: PaymentIntent, *, retry_rejected: bool) -> ClaimedPayment:
        claim = partial(
            _payments.claim,
            intent=intent,
            owner=self._lease.owner,
            certain_after=self._context.certain_after,
            retry_rejected=retry_rejected,
            restored=self._restored,
        )
        claiming = asyncio.ensure_future(self._commits.run(claim))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # The intent is committed all the same, and nothing has left.
            claimed = await claiming
            if claimed.payment is None:
                await self.release(claimed)
            raise

    async def release(self, claimed: ClaimedPayment) -> None:
        """Record that nothing was sent for a payment."""
        entry = PaymentRecord(claimed.id, claimed.intent, PaymentState.PENDING, 0)
        await self._commits.run(partial(_payments.record, entry=entry))

    async def record(self, entry: PaymentRecord, kind: str) -> str | None:
        """Record what became of a payment; see `_reports.record`.

        Raises:
            LedgerError: The ledger can't be written.
        """
        return await self._commits.run(partial(_reports.record, entry=entry, kind=kind))

    async def _send(
        self,
        operation: PaymentOperation[_R],
        reference: str,
        claimed: ClaimedPayment,
        call: Call[_R],
        start: float,
        *,
        on_failure: OnFailure | None = None,
        decide: Decide = lambda entry, _: entry,
    ) -> PaymentAnswer[_R]:
        context = self._context
        execution: Execution[_R] = context.executor.begin(
            call, context.options, on_failure=on_failure, pre_send_check=self._lease.pre_send_check
        )
        # Paused since the intent, it must not begin later than the ledger holds possible.
        execution.deadline = min(execution.deadline, start + context.send_within + context.options.timeout)
        answer: PaymentAnswer[_R]
        try:
            result = await context.executor.execute(execution)
        except JetpayError as error:
            answer = PaymentAnswer(error=error)
            trusted = context.options.retry.resend_rate_limited
            entry = decide(write_error(claimed, error, trust_rate_limited=trusted), answer)
        else:
            answer = PaymentAnswer(result=result)
            entry = decide(write_result(claimed, result), answer)
        if entry is None:
            return answer
        try:
            holder = await self.record(entry, operation.kind)
            if holder is not None:
                answer = PaymentAnswer(error=await self._contested(reference, entry, holder))
        except LedgerError as failure:
            return PaymentAnswer(error=self._unrecorded(call, entry, failure))
        return answer

    async def _contested(self, reference: str, entry: PaymentRecord, holder: str) -> JetpayError:
        """Report a transaction that two references claim: the answer says the one, and a person has said the other."""
        logger.error(
            "%s: its response named %s, which %s has in the ledger; find out whose it is",
            *(reference, entry.transaction_id, holder),
            extra={"debit_id": entry.transaction_id, "reason": "one transaction for two references"},
        )
        return unknown_error(await self.read(partial(_payments.find, reference=reference)))

    def _unrecorded(self, call: Call[_R], entry: PaymentRecord, failure: LedgerError) -> LedgerError:
        """Report what the ledger can't hold: the caller and the log are the only ones who know it."""
        what = (
            f"the API's answer could not be recorded ({call.operation.name}: {entry.state}"
            f"{f', {entry.transaction_id}' if entry.transaction_id else ''}): {failure.message}"
        )
        logger.error(
            "%s",
            what,
            extra={"operation": call.operation.name, "debit_id": entry.transaction_id, "reason": entry.reason},
        )
        error = LedgerError(what, operation=call.operation.name, debit_id=entry.transaction_id)
        error.__cause__ = failure
        self._error = failure
        self.on_end(failure)
        return error

    async def _keep(self) -> None:
        """Renew the lease, and record what dead owners leave."""
        try:
            while True:
                await self._lease.keep()
                await self._expire()
                await self._context.clock.sleep(min(POLL_INTERVAL_SECONDS, self._lease.renewed_every))
        except JetpayError as error:
            self._error = error
            self.on_end(error)
            logger.warning("nothing more is sent: %s", error, extra={"reason": str(error)})

    async def _expire(self) -> None:
        owner = self._lease.owner
        if await self._commits.run(partial(_payments.sees_others, owner=owner), writes=False):
            expired = await self._commits.run(partial(_payments.expire, owner=owner))
            if expired:
                logger.warning("%d payments of a process that ended are unknown", expired)


async def _answer(payment: Coroutine[Any, Any, PaymentAnswer[_R]]) -> PaymentAnswer[_R]:
    try:
        return await payment
    except JetpayError as error:
        # The traceback holds this frame: a circle for each.
        return PaymentAnswer(error=error.with_traceback(None))
