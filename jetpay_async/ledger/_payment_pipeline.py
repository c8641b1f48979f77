"""Sends the payments of batches: workers that take what is claimed for them, within the batch's limits.

::

    claimer ──▶ workers ──▶ `PaymentRun.send` ──▶ the ledger

A payment is claimed when a worker is free for it, so that what a process leaves behind that is killed is little: it is
unknown, and never sent again. What was not sent is pending again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from jetpay_async._batch.admission import AdmissionControl, Slot
from jetpay_async._batch.operation import WriteOperation
from jetpay_async._core.log import logger
from jetpay_async.errors import InvalidArgumentError, JetpayError, NotSentError
from jetpay_async.ledger._account_check import AccountCheck
from jetpay_async.ledger._context import run_wide_error
from jetpay_async.ledger._empty_scopes import EmptyScopes
from jetpay_async.ledger._payment_batches import PendingPayment
from jetpay_async.ledger._payment_outcomes import PaymentOperation, read_result, write_rejection
from jetpay_async.ledger._payments import ClaimedPayment
from jetpay_async.ledger._resolver import MAX_ATTEMPTS
from jetpay_async.ledger.errors import LedgerError
from jetpay_async.ledger.ledger import check_reference
from jetpay_async.ledger.payment_records import LedgerPayment, PaymentState
from jetpay_async.models import Charge, Credit, Preauthorization
from jetpay_async.outcomes import (
    BatchOutcome,
    ChargeRequest,
    CreditRequest,
    NotSent,
    PreauthorizationRequest,
    Rejected,
    Unknown,
    undone,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from jetpay_async._batch.worker_pool import BatchLimits
    from jetpay_async._core.operations import Call
    from jetpay_async.ledger._context import ClientContext
    from jetpay_async.ledger._payment_run import PaymentAnswer, PaymentRun
    from jetpay_async.ledger._payments import PaymentRecord

_Item = TypeVar("_Item", bound="PreauthorizationRequest | ChargeRequest | CreditRequest")
_R = TypeVar("_R", Preauthorization, Charge, Credit)
_Outcome = TypeVar("_Outcome", bound=BatchOutcome)

# How often the ledger is asked for what others have submitted, sent or given back.
POLL_INTERVAL_SECONDS = 0.5


@attrs.frozen
class PaymentKind(Generic[_Item, _R, _Outcome]):
    """What a batch of payments consists of: preauthorizations, charges or credits."""

    operation: PaymentOperation[_R]
    """As single payments have it."""
    batch: WriteOperation[_Item, _R, _Outcome]
    """As batches in memory have it."""
    request_type: type[_Item]

    def prepare(self, request: _Item) -> tuple[str, Mapping[str, str]]:
        """Return the reference and the arguments of a request.

        Raises:
            InvalidArgumentError: It can't be sent.
        """
        arguments = self.batch.prepare(request).arguments
        check_reference(request.reference)
        return request.reference, arguments

    def call(self, payment: LedgerPayment) -> Call[_R]:
        """Make the call of a payment that the ledger holds.

        Raises:
            InvalidArgumentError: This release would not have taken it.
        """
        return self.batch.prepare(self.request(payment))

    def outcome(self, payment: LedgerPayment) -> _Outcome:
        """Make the outcome of a payment that has one."""
        request = self.request(payment)
        try:
            result = read_result(self.operation, payment)
        except JetpayError as error:
            kind = Unknown if payment.state is PaymentState.UNKNOWN else Rejected
            debit_id = payment.transaction_id or ""
            # An outcome of this kind of request is one of this operation.
            return kind(debit_id=debit_id, request=request, error=error.with_traceback(None))  # type: ignore[return-value]
        return self.batch.succeeded(request, result)

    def request(self, payment: LedgerPayment) -> _Item:
        """Make the request again that a payment was asked for with."""
        arguments: dict[str, Any] = dict(payment.arguments)
        arguments["amount"] = Decimal(arguments["amount"])
        return self.request_type(reference=payment.reference, **arguments)


@attrs.frozen
class _Claimed:
    """A payment for a worker to send."""

    pending: PendingPayment
    start: float
    """When its slot in the rate begins; monotonic, and from before its intent was committed."""


class PaymentPipeline(Generic[_Item, _R, _Outcome]):
    """Sends what is pending in its batches, until it is stopped.

    Args:
        run: The owner of the payments.
        context: The client's.
        kind: What the batches consist of.
        limits: Requests in flight, at most; and per second, of all owners together.
        accept_rejections: Whether 404 and 403 are recorded though the API gives no other answer.
        restored: Whether nothing is sent.
    """

    def __init__(
        self,
        run: PaymentRun,
        context: ClientContext,
        kind: PaymentKind[_Item, _R, _Outcome],
        limits: BatchLimits,
        *,
        accept_rejections: bool,
        restored: bool,
    ) -> None:
        self._run = run
        self._context = context
        self._kind: PaymentKind[_Item, _R, _Outcome] = kind
        self._concurrency = limits.concurrency
        self._rate = limits.rate
        self._restored = restored
        self._admission = AdmissionControl(limits.concurrency, rate=None, clock=context.clock)
        self._account_check: AccountCheck[PaymentRecord] = AccountCheck(enabled=not accept_rejections)
        self._attempts: Counter[int] = Counter()
        """Requests that the API has answered by "later", of the payments that this run has given back."""
        self._batches: list[int] = []
        self._empty: EmptyScopes[int] = EmptyScopes()
        self._free: deque[asyncio.Future[_Claimed | None]] = deque()
        """Workers that may start one payment, and have none."""
        self._busy = 0
        self._wanted = asyncio.Event()
        self._readers: list[asyncio.Future[None]] = []
        self._working: list[asyncio.Task[None]] = []
        self._returning: list[asyncio.Task[None]] = []
        """What records the rejections that were held back."""
        self._polling: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.rounds: int = 0
        """How often readers were woken: at each outcome, and in each poll interval."""
        self.error: Exception | None = None
        """Why it stopped, if not on request."""

    @property
    def stopping(self) -> bool:
        """Whether it has stopped, or is about to."""
        return self._ending is not None

    @property
    def done(self) -> bool:
        """Whether it has stopped, and everything is recorded."""
        return self._ending is not None and self._ending.done()

    def watch(self, batch: int) -> None:
        """Send what is pending in a batch from now on."""
        if batch not in self._batches and not self._restored:
            self._batches.append(batch)
        if not self._working and not self.stopping:
            start = self._run.start
            self._working = [start(self._guard(self._claim_all()))]
            self._working += [start(self._guard(self._work())) for _ in range(self._concurrency)]
            self._polling = start(self._poll())
        self._wake_claims()

    def stop(self, error: Exception | None = None) -> None:
        """Claim nothing more, send nothing more, and let what is in flight finish.

        Args:
            error: Why, if it is not by request.
        """
        if self.stopping:
            return
        if error is not None:
            logger.warning(
                "sending payments stops: %s",
                error,
                extra={"operation": self._kind.operation.name, "reason": str(error)},
            )
        self.error = error
        self._admission.disable(NotSentError("sending was stopped before this payment was sent"))
        self._give_back_held()
        self._ending = self._run.start(self._end())
        self._wanted.set()
        while self._free:
            _assign(self._free.popleft(), None)

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

    # --- claiming

    def _wake_claims(self) -> None:
        """Have it see whether something is to be claimed, also where nothing was."""
        self._empty.reset()
        self._wanted.set()

    async def _claim_all(self) -> None:
        while not self.stopping:
            self._wanted.clear()
            if not (self._free and await self._claim()):
                await self._wanted.wait()

    async def _claim(self) -> bool:
        """Claim from the first batch that has something; return whether there was any."""
        too_early = False
        for batch in self._empty.others(self._batches):
            began = self._context.clock.monotonic()
            since = self._empty.moment
            claims = await self._run.claim_pending(batch, limit=len(self._free), rate=self._rate)
            too_early |= claims.too_early
            for pending in claims.send:
                await self._hand_out(_Claimed(pending, began + pending.delay))
            if claims.send:
                return True
            if not claims.too_early:
                self._empty.add([batch], since=since)
        if not too_early and not self._busy:
            # There will be no other answer to compare them with.
            await self._record_held()
        return False

    async def _hand_out(self, claimed: _Claimed) -> None:
        while self._free:
            if _assign(self._free.popleft(), claimed):
                self._busy += 1
                return
        # Its worker has ended meanwhile.
        await self._run.release(claimed.pending.claimed)
        self._wake_claims()

    # --- sending

    async def _work(self) -> None:
        slot = Slot(self._admission)
        while (refusal := await slot.enter()) is None:
            outcome: BatchOutcome | None = None
            try:
                if (claimed := await self._take()) is None:
                    return
                try:
                    outcome = await self._send(slot, claimed)
                finally:
                    self._busy -= 1
            finally:
                slot.leave(outcome)
            if outcome is None or isinstance(outcome, NotSent):
                self._wake_claims()  # it is pending again
            self._wake_readers()
        self.stop(refusal)

    async def _take(self) -> _Claimed | None:
        """Wait for a payment, and until its slot in the rate begins; return None when there will be none."""
        if self.stopping:
            return None
        turn: asyncio.Future[_Claimed | None] = asyncio.get_running_loop().create_future()
        self._free.append(turn)
        self._wanted.set()
        clock = self._context.clock
        try:
            claimed = await turn
            if claimed is not None and (delay := claimed.start - clock.monotonic()) > 0:
                await clock.sleep(delay)
        except asyncio.CancelledError:
            if not turn.cancelled() and (claimed := turn.result()) is not None:
                self._run.start(self._guard(self._run.release(claimed.pending.claimed)))
            raise
        return claimed

    async def _send(self, slot: Slot, claimed: _Claimed) -> BatchOutcome | None:
        context = self._context
        pending = claimed.pending
        if self.stopping or context.clock.monotonic() - claimed.start > context.send_within:
            await self._run.release(pending.claimed)
            return None
        operation = self._kind.operation
        try:
            call = self._kind.call(pending.payment)
        except InvalidArgumentError as error:
            await self._run.record(write_rejection(pending.claimed, error), operation.kind)
            return None
        answer = await self._run.send(
            operation, pending, call, claimed.start, on_failure=slot.on_failure, decide=partial(self._decide, pending)
        )
        return self._outcome(pending, answer)

    def _outcome(self, pending: PendingPayment, answer: PaymentAnswer[_R]) -> BatchOutcome:
        if answer.result is not None:
            return self._kind.batch.succeeded(self._kind.request(pending.payment), answer.result)
        if answer.error is None:  # pragma: no cover - there is one of the two
            raise AssertionError
        trusted = self._context.options.retry.resend_rate_limited
        return undone(answer.error, debit_id="", request=None, trust_rate_limited=trusted)

    def _decide(self, pending: PendingPayment, entry: PaymentRecord, answer: PaymentAnswer[_R]) -> PaymentRecord | None:
        """Say what is recorded of an answer now."""
        check = self._account_check
        if check.holds_back(entry, self._outcome(pending, answer)):
            if check.error is not None:
                self.stop(check.error)
            if self.stopping:
                self._give_back_held()
            return None
        if check.releases:
            self._returning.append(self._run.start(self._guard(self._record_held())))
        error = answer.error
        if error is None:
            return entry
        if (wide := run_wide_error(error)) is not None:
            self.stop(wide)
        elif entry.state is PaymentState.PENDING and not isinstance(error, NotSentError):
            self._attempts[entry.id] += max(1, error.attempts)
            if self._attempts[entry.id] >= MAX_ATTEMPTS:
                del self._attempts[entry.id]
                return write_rejection(pending.claimed, error)
        return entry

    # --- rejections that are held back

    async def _record_held(self) -> None:
        for entry, _ in self._account_check.release():
            await self._run.record(entry, self._kind.operation.kind)
        self._wake_readers()

    def _give_back_held(self) -> None:
        """Leave them pending: nothing was done, and the next run asks again."""
        for entry, _ in self._account_check.release():
            claimed = ClaimedPayment(entry.id, entry.intent, None)
            self._returning.append(self._run.start(self._guard(self._run.release(claimed))))

    # --- readers, and the end

    async def _poll(self) -> None:
        while True:
            await self._context.clock.sleep(POLL_INTERVAL_SECONDS)
            self._wake_claims()
            self._wake_readers()

    def _wake_readers(self) -> None:
        self.rounds += 1
        while self._readers:
            reader = self._readers.pop()
            if not reader.done():
                reader.set_result(None)

    async def _guard(self, part: Coroutine[Any, Any, None]) -> None:
        try:
            await part
        except LedgerError as error:
            self.stop(error)
        except Exception as error:  # noqa: BLE001 - a fault in one part stops all of them, in order
            logger.exception("sending payments stops for a fault", extra={"operation": self._kind.operation.name})
            self.stop(error)

    async def _end(self) -> None:
        try:
            for tasks in (self._working, self._returning):
                if tasks:
                    await asyncio.wait(tasks)
        finally:
            if self._polling is not None:
                self._polling.cancel()
            self._wake_readers()


def _assign(turn: asyncio.Future[_Claimed | None], claimed: _Claimed | None) -> bool:
    """Give a worker a payment; return False if the worker has ended."""
    if turn.done():
        return False
    turn.set_result(claimed)
    return True
