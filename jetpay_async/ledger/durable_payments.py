"""Durable preauthorizations, charges and credits: what a user holds."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from jetpay_async._batch.operation import ChargeOperation, PreauthorizeOperation, SendCreditOperation
from jetpay_async._batch.worker_pool import BatchLimits
from jetpay_async._core import link_operations, operations
from jetpay_async._core.execution import DEFAULT_CONCURRENCY
from jetpay_async._core.log import logger
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger import _payment_batches, _repository
from jetpay_async.ledger._account_label import check_account
from jetpay_async.ledger._context import ClientContext  # noqa: TC001 - `typing.get_type_hints` reads it
from jetpay_async.ledger._lease import OwnerLease
from jetpay_async.ledger._payment_outcomes import CHARGE, PREAUTHORIZE, SEND_CREDIT
from jetpay_async.ledger._payment_pipeline import PaymentKind, PaymentPipeline
from jetpay_async.ledger._payment_run import PaymentRun
from jetpay_async.ledger._payment_staging import StagedRequests
from jetpay_async.ledger.errors import LedgerError, PaymentsStoppedError
from jetpay_async.ledger.ledger import Ledger, check_key, check_reference, run_apart
from jetpay_async.ledger.payment_records import LedgerPayment, PaymentCounts, PaymentReport  # noqa: TC001 - the same
from jetpay_async.models import Charge, Credit, Preauthorization
from jetpay_async.money import Amount  # noqa: TC001 - the same
from jetpay_async.outcomes import (
    BatchOutcome,
    ChargeOutcome,
    ChargeRequest,
    CreditOutcome,
    CreditRequest,
    PreauthorizationOutcome,
    PreauthorizationRequest,
)

if TYPE_CHECKING:
    from jetpay_async.ledger._backend import UnitOfWork

__all__ = ["DurableCharges", "DurableCredits", "DurablePreauthorizations", "PaymentBatch"]

_T = TypeVar("_T")
_Item = TypeVar("_Item", bound=PreauthorizationRequest | ChargeRequest | CreditRequest)
_R = TypeVar("_R", Preauthorization, Charge, Credit)
_Outcome = TypeVar("_Outcome", bound=BatchOutcome)


class _DurablePayments(ABC, Generic[_Item, _R, _Outcome]):
    """What the three have in common; open it with ``async with``.

    Before a request leaves, its reference and arguments are committed to the ledger; after it, what became of it. The
    reference is the key: asked for again, also by another process and after a crash, the ledger answers, and nothing is
    sent. What may have been sent and got no answer is unknown, and is **never sent again by itself**: nothing at the
    API could show whether it was done.

    Leaving the block waits for what is in flight, within the client's timeout. A caller that is cancelled leaves its
    request under way; its outcome is recorded.
    """

    def __init__(
        self,
        ledger: str | os.PathLike[str],
        context: ClientContext,
        *,
        lease_seconds: float,
        account: str | None,
        restored: bool = False,
        concurrency: int = DEFAULT_CONCURRENCY,
        rate: float | None = None,
        accept_rejections: bool = False,
    ) -> None:
        self._ledger = Ledger(ledger, clock=context.clock, commit_executor=context.commit_executor)
        self._context = context
        self._limits = BatchLimits(concurrency=concurrency, rate=rate)
        self._accept_rejections = accept_rejections
        self._lease_seconds = check_seconds("lease_seconds", lease_seconds)
        self._account = check_account(account)
        self._restored = restored
        self._run: PaymentRun | None = None
        self._lease: OwnerLease | None = None
        self._kind: PaymentKind[_Item, _R, _Outcome] = self._make_kind()
        self._pipeline: PaymentPipeline[_Item, _R, _Outcome] | None = None

    @abstractmethod
    def _make_kind(self) -> PaymentKind[_Item, _R, _Outcome]:
        """Say what its batches consist of."""

    async def __aenter__(self) -> Self:
        """Open the ledger, and register in it.

        Raises:
            LedgerMismatchError: The ledger belongs to another API or account; nothing was sent.
            LedgerError: The ledger can't be used; nothing was sent, and the message says what to do.
        """
        if self._run is not None:
            raise ConfigurationError("it is open already; make another one for another block")
        await self._ledger.__aenter__()
        commits = self._ledger.commits
        try:
            await commits.run(partial(_repository.bind, origin=self._context.origin, account=self._account))
            lease = OwnerLease(commits, self._lease_seconds, self._context.clock, lapses=self._ledger.leases)
            await lease.take()
            run = PaymentRun(commits, lease, self._context, restored=self._restored)
            await run.open()
        except BaseException:
            await self._ledger.__aexit__(None, None, None)
            raise
        self._run, self._lease = run, lease
        self._pipeline = PaymentPipeline(
            run,
            self._context,
            self._kind,
            self._limits,
            accept_rejections=self._accept_rejections,
            restored=self._restored,
        )
        run.on_end = self._pipeline.stop
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run, lease = self._run, self._lease
        self._run = self._lease = None
        try:
            if run is not None:  # pragma: no branch - set together with the lease when it was entered
                await run.close()
        finally:
            try:
                if lease is not None:  # pragma: no branch - the same
                    await lease.leave()
            except LedgerError as failure:
                # The next run finds out by itself.
                logger.warning("the end of this run could not be recorded in the ledger: %s", failure)
            finally:
                await self._ledger.__aexit__(None, None, None)

    async def submit(self, key: str, requests: Iterable[_Item] | AsyncIterable[_Item]) -> PaymentBatch[_Outcome]:
        """Add a batch of requests, whole or not at all, and begin to send them; it is durable when this returns.

        Each has a ``reference``, which is one payment in this ledger, whoever sends it: what the ledger knows already
        is not sent again, and its outcome is one of this batch. The same key with the same requests is the same batch,
        also in another process and after a crash: the same lines go on with what was not sent.

        Args:
            key: The batch's name, for example the day; at most 255 characters.
            requests: In any order; memory stays flat however many there are. The same reference given twice is sent
                once.

        Raises:
            InvalidArgumentError: The key, a reference or another argument can't be right; nothing was added or sent.
            ReferenceMismatchError: A reference stands for another payment, in the ledger or in these requests; nothing
                was added or sent.
            BatchMismatchError: There is such a batch, with other requests; nothing was changed.
            LedgerError: The ledger can't be written; nothing is sent.
            ConfigurationError: It is used outside of its block.
        """
        pipeline = self._open_pipeline()
        check_key(key)
        operation = self._kind.operation
        with StagedRequests(self._kind.prepare) as staged:
            await staged.fill(requests)
            add = partial(
                _payment_batches.submit,
                key=key,
                operation=operation.name,
                kind=operation.kind,
                staged=staged,
                certain_after=self._context.certain_after,
                restored=self._restored,
            )
            try:
                batch = await run_apart(self._ledger.separate_commits(), add)
            except _payment_batches.SubmissionMismatchError as mismatch:
                raise mismatch.error from None
        return self._watch(pipeline, key, batch)

    async def batch(self, key: str) -> PaymentBatch[_Outcome]:
        """Go on with a batch that was submitted before, here or elsewhere.

        Args:
            key: Its name.

        Raises:
            InvalidArgumentError: The key can't be one.
            UnknownBatchError: There is none.
            BatchMismatchError: It is one of another operation.
            LedgerError: The ledger can't be read.
            ConfigurationError: It is used outside of its block.
        """
        pipeline = self._open_pipeline()
        check_key(key)
        find = partial(_payment_batches.find, key=key, operation=self._kind.operation.name)
        return self._watch(pipeline, key, await self._ledger.commits.run(find, writes=False))

    def stop(self) -> None:
        """Stop sending batches: nothing more of them is sent, and what is in flight finishes.

        For signal handlers: ``loop.add_signal_handler(signal.SIGTERM, reservations.stop)``. Whoever waits for a batch
        gets `PaymentsStoppedError` as soon as nothing is in flight any more. Payments that are asked for one by one
        go on until the block is left.
        """
        if self._pipeline is not None:
            self._pipeline.stop()

    def _watch(
        self, pipeline: PaymentPipeline[_Item, _R, _Outcome], key: str, batch: _payment_batches.SubmittedBatch
    ) -> PaymentBatch[_Outcome]:
        pipeline.watch(batch.id)
        return PaymentBatch(key, batch, pipeline, self._kind.outcome, self._ledger)

    def _open_pipeline(self) -> PaymentPipeline[_Item, _R, _Outcome]:
        self._open()
        if self._pipeline is None:  # pragma: no cover - it is made when the run is
            raise AssertionError
        return self._pipeline

    def _open(self) -> PaymentRun:
        if self._run is None:
            raise ConfigurationError("it is not open; use it within `async with`")
        return self._run


class PaymentBatch(Generic[_Outcome]):
    """A batch of payments being sent, made by ``submit`` and ``batch`` of `DurablePreauthorizations` and the others.

    Attributes:
        key: Its name.
        total: Its payments, each reference counted once.
        duplicates: How often a reference was given again; it is sent once.
    """

    def __init__(
        self,
        key: str,
        batch: _payment_batches.SubmittedBatch,
        pipeline: PaymentPipeline[Any, Any, Any],
        outcome: Callable[[LedgerPayment], _Outcome],
        ledger: Ledger,
    ) -> None:
        self.key = key
        self.total: int = batch.total
        self.duplicates: int = batch.duplicates
        self._batch = batch
        self._pipeline = pipeline
        self._outcome = outcome
        self._ledger = ledger

    async def outcomes(self) -> AsyncIterator[_Outcome]:
        """Yield the outcome of each payment once, in the order in which outcomes are recorded.

        Those of earlier runs come first: whoever was interrupted misses nothing. They are read from the ledger, so that
        ``raw`` is empty, and of an error its class, message, status and request id are kept. No outcome is `NotSent`:
        what was not sent is pending, and comes later. What is accepted comes as it is; events tell how it ends. A slow
        consumer slows nothing down, and fills no memory.

        A payment that was discarded is `Rejected`, with a `PaymentDiscardedError`.

        Raises:
            PaymentsStoppedError: Sending stopped before the end, or the ledger can't be read; the cause says why.
        """
        place = 0
        while True:
            stopped = self._pipeline.done
            # From before the read: so none is needed that finds nothing, just to be sure before the pause.
            since = self._pipeline.rounds
            complete, page, place = await self._read(
                partial(_payment_batches.outcomes, batch=self._batch.id, after=place)
            )
            for payment in page:
                yield self._outcome(payment)
            if len(page) == _payment_batches.PAGE:
                continue
            if complete:
                return
            # What others record meanwhile may be in the page and not yet counted.
            if stopped and not page:
                raise await self._stopped_error()
            await self._pipeline.wait_for_progress(since)

    async def payments(self) -> AsyncIterator[LedgerPayment]:
        """Read the payments of the batch as the ledger has them, in the order in which they were given.

        Raises:
            LedgerError: The ledger can't be read.
        """
        place = 0
        while True:
            read = partial(_payment_batches.payments, batch=self._batch.id, after=place)
            page, place = await self._ledger.commits.run(read, writes=False)
            for payment in page:
                yield payment
            if len(page) < _payment_batches.PAGE:
                return

    async def progress(self) -> PaymentCounts:
        """Return where it stands, whoever works on it.

        Raises:
            LedgerError: The ledger can't be read.
        """
        count = partial(_payment_batches.progress, batch=self._batch.id)
        return await self._ledger.commits.run(count, writes=False)

    async def wait(self) -> PaymentReport:
        """Wait until each payment has an outcome, whoever sends it.

        Raises:
            PaymentsStoppedError: Sending stopped before the end, or the ledger can't be read; the cause says why.
        """
        while True:
            stopped = self._pipeline.done
            since = self._pipeline.rounds
            report = await self._read(partial(_payment_batches.report, batch=self._batch, key=self.key))
            if report is not None:
                return report
            if stopped:
                raise await self._stopped_error()
            await self._pipeline.wait_for_progress(since)

    async def _read(self, operation: UnitOfWork[_T]) -> _T:
        try:
            return await self._ledger.commits.run(operation, writes=False)
        except (LedgerError, ConfigurationError) as failure:
            raise await self._stopped_error() from failure

    async def _stopped_error(self) -> PaymentsStoppedError:
        cause = self._pipeline.error
        progress: PaymentCounts | None = None
        try:
            progress = await self.progress()
        except (LedgerError, ConfigurationError) as failure:
            cause = cause or failure
        left = "" if progress is None else f", {progress.total - progress.finished} of {progress.total} are left"
        why = "on request" if cause is None else f"({cause})"
        error = PaymentsStoppedError(
            f"sending batch {self.key!r} stopped {why}{left}; submit the same batch again to go on",
            key=self.key,
            progress=progress,
        )
        error.__cause__ = cause
        return error


class DurablePreauthorizations(_DurablePayments[PreauthorizationRequest, Preauthorization, PreauthorizationOutcome]):
    """Preauthorizations that survive a crash, made by `JetpayClient.durable_preauthorizations`.

    Open it with ``async with``, once for the life of the process, and share it between tasks. Before a request leaves,
    its reference and arguments are committed to the ledger; after it, the debit's id. What may have been sent and got
    no answer is unknown, and is **never sent again by itself**.
    """

    def _make_kind(self) -> PaymentKind[PreauthorizationRequest, Preauthorization, PreauthorizationOutcome]:
        operation = PreauthorizeOperation(self._context.executor, self._context.options)
        return PaymentKind(PREAUTHORIZE, operation, PreauthorizationRequest)

    async def preauthorize(
        self,
        *,
        reference: str,
        contact_id: str,
        credit_card_id: str,
        amount: Amount,
        to_bank_account_id: str,
        statement: str,
        retry_rejected: bool = False,
    ) -> Preauthorization:
        """Reserve an amount on a saved card, once for each reference [guide, "Preauthorize and capture"].

        Args:
            reference: Your name for it, for example the booking's id; at most 255 characters, unique in the ledger.
            contact_id: The payer.
            credit_card_id: A card saved on that contact.
            amount: Major units of the account's currency (CAD), as for `JetpayClient.preauthorize`.
            to_bank_account_id: The merchant's bank account.
            statement: What the payer's bank statement shows; at most 30 characters [docs].
            retry_rejected: Whether to send it again if the API has rejected it, or if it was discarded. By default
                that is raised again. What succeeded or is unknown is not sent again either way.

        Returns:
            The reservation; of a reference that the ledger knows, the stored one, whose ``raw`` is empty.

        Raises:
            InvalidArgumentError: An argument was refused before anything was recorded; ``field`` names it.
            ReferenceMismatchError: The ledger has this reference with other arguments; nothing was sent.
            PaymentDiscardedError: It was unknown and has been discarded; nothing was sent.
            TransactionFailedError: The reservation is failed or cancelled.
            APIError: The API said no, now or when it was asked first.
            NotSentError: Nothing began to leave; the same call sends it.
            OutcomeUnknownError: It may have been reserved, now or when it was asked first; or another process is
                sending it, and has no answer within the client's timeout. Nothing more was sent.
            LedgerError: The ledger can't be written. If the API has answered, ``debit_id`` is its debit.
            ConfigurationError: It is used outside of its block, or the client is closed.
        """
        call = operations.preauthorize(
            contact_id=contact_id,
            credit_card_id=credit_card_id,
            amount=amount,
            to_bank_account_id=to_bank_account_id,
            statement=statement,
        )
        check_reference(reference)
        return await self._open().pay(PREAUTHORIZE, reference, call, retry_rejected=retry_rejected)


class DurableCharges(_DurablePayments[ChargeRequest, Charge, ChargeOutcome]):
    """Charges that survive a crash, made by `JetpayClient.durable_charges`.

    As `DurablePreauthorizations`; see there.
    """

    def _make_kind(self) -> PaymentKind[ChargeRequest, Charge, ChargeOutcome]:
        operation = ChargeOperation(self._context.executor, self._context.options)
        return PaymentKind(CHARGE, operation, ChargeRequest)

    async def charge(
        self,
        *,
        reference: str,
        contact_id: str,
        credit_card_id: str,
        amount: Amount,
        to_bank_account_id: str,
        statement: str,
        retry_rejected: bool = False,
    ) -> Charge:
        """Take an amount from a saved card at once, once for each reference [docs].

        Args:
            reference: Your name for it; at most 255 characters, unique in the ledger.
            contact_id: The payer.
            credit_card_id: A card saved on that contact.
            amount: Major units of the account's currency (CAD), as for `JetpayClient.charge`.
            to_bank_account_id: The merchant's bank account.
            statement: What the payer's bank statement shows; at most 30 characters [docs].
            retry_rejected: As for `DurablePreauthorizations.preauthorize`.

        Returns:
            The charge; of a reference that the ledger knows, the stored one, whose ``raw`` is empty.

        Raises:
            InvalidArgumentError: An argument was refused before anything was recorded; ``field`` names it.
            ReferenceMismatchError: The ledger has this reference with other arguments; nothing was sent.
            PaymentDiscardedError: It was unknown and has been discarded; nothing was sent.
            TransactionFailedError: The charge is failed or cancelled.
            APIError: The API said no, now or when it was asked first.
            NotSentError: Nothing began to leave; the same call sends it.
            OutcomeUnknownError: The money may have been taken; see `DurablePreauthorizations.preauthorize`.
            LedgerError: The ledger can't be written. If the API has answered, ``debit_id`` is its debit.
            ConfigurationError: It is used outside of its block, or the client is closed.
        """
        call = operations.charge(
            contact_id=contact_id,
            credit_card_id=credit_card_id,
            amount=amount,
            to_bank_account_id=to_bank_account_id,
            statement=statement,
        )
        check_reference(reference)
        return await self._open().pay(CHARGE, reference, call, retry_rejected=retry_rejected)


class DurableCredits(_DurablePayments[CreditRequest, Credit, CreditOutcome]):
    """Credits that survive a crash, made by `JetpayClient.durable_credits`.

    As `DurablePreauthorizations`; see there.
    """

    def __init__(
        self,
        ledger: str | os.PathLike[str],
        context: ClientContext,
        *,
        link_amounts: Literal["major", "minor"],
        lease_seconds: float,
        account: str | None,
        restored: bool = False,
        concurrency: int = DEFAULT_CONCURRENCY,
        rate: float | None = None,
        accept_rejections: bool = False,
    ) -> None:
        self._link_amounts: Literal["major", "minor"] = link_amounts
        super().__init__(
            ledger,
            context,
            lease_seconds=lease_seconds,
            account=account,
            restored=restored,
            concurrency=concurrency,
            rate=rate,
            accept_rejections=accept_rejections,
        )

    def _make_kind(self) -> PaymentKind[CreditRequest, Credit, CreditOutcome]:
        operation = SendCreditOperation(self._context.executor, self._context.options, self._link_amounts)
        return PaymentKind(SEND_CREDIT, operation, CreditRequest)

    async def send_credit(
        self,
        *,
        reference: str,
        amount: Amount,
        from_bank_account_id: str,
        to_bank_account_id: str,
        contact_id: str,
        statement: str,
        note: str | None = None,
        retry_rejected: bool = False,
    ) -> Credit:
        """Send money to a saved bank account, once for each reference [docs, "Credits"].

        Args:
            reference: Your name for it; at most 255 characters, unique in the ledger.
            amount: Major units, as for `JetpayClient.send_credit`. **In which unit the API takes it here is open.**
            from_bank_account_id: The merchant's bank account.
            to_bank_account_id: The payee's.
            contact_id: The payee.
            statement: What the bank statement shows; at most 30 characters [docs].
            note: Shown in Jetpay's app [docs].
            retry_rejected: As for `DurablePreauthorizations.preauthorize`.

        Returns:
            The credit; of a reference that the ledger knows, the stored one, whose ``raw`` is empty.

        Raises:
            InvalidArgumentError: An argument was refused before anything was recorded; ``field`` names it.
            ReferenceMismatchError: The ledger has this reference with other arguments; nothing was sent.
            PaymentDiscardedError: It was unknown and has been discarded; nothing was sent.
            TransactionFailedError: The credit is failed or cancelled.
            APIError: The API said no, now or when it was asked first.
            NotSentError: Nothing began to leave; the same call sends it.
            OutcomeUnknownError: The money may be on its way; see `DurablePreauthorizations.preauthorize`.
            LedgerError: The ledger can't be written. If the API has answered, ``debit_id`` is its credit.
            ConfigurationError: It is used outside of its block, or the client is closed.
        """
        call = link_operations.send_credit(
            amount=amount,
            from_bank_account_id=from_bank_account_id,
            to_bank_account_id=to_bank_account_id,
            contact_id=contact_id,
            statement=statement,
            note=note,
            unit=self._link_amounts,
        )
        check_reference(reference)
        return await self._open().pay(SEND_CREDIT, reference, call, retry_rejected=retry_rejected)
