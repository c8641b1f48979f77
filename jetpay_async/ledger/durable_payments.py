"""Durable preauthorizations, charges and credits: what a user holds."""

from __future__ import annotations

import os
from functools import partial
from types import TracebackType
from typing import Literal, Self

from jetpay_async._core import link_operations, operations
from jetpay_async._core.log import logger
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger import _repository
from jetpay_async.ledger._account_label import check_account
from jetpay_async.ledger._context import ClientContext  # noqa: TC001 - `typing.get_type_hints` reads it
from jetpay_async.ledger._lease import OwnerLease
from jetpay_async.ledger._payment_outcomes import CHARGE, PREAUTHORIZE, SEND_CREDIT
from jetpay_async.ledger._payment_run import PaymentRun
from jetpay_async.ledger.errors import LedgerError
from jetpay_async.ledger.ledger import Ledger, check_reference
from jetpay_async.models import Charge, Credit, Preauthorization  # noqa: TC001 - `typing.get_type_hints` reads it
from jetpay_async.money import Amount  # noqa: TC001 - the same

__all__ = ["DurableCharges", "DurableCredits", "DurablePreauthorizations"]


class _DurablePayments:
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
    ) -> None:
        self._ledger = Ledger(ledger, clock=context.clock, commit_executor=context.commit_executor)
        self._context = context
        self._lease_seconds = check_seconds("lease_seconds", lease_seconds)
        self._account = check_account(account)
        self._restored = restored
        self._run: PaymentRun | None = None
        self._lease: OwnerLease | None = None

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

    def _open(self) -> PaymentRun:
        if self._run is None:
            raise ConfigurationError("it is not open; use it within `async with`")
        return self._run


class DurablePreauthorizations(_DurablePayments):
    """Preauthorizations that survive a crash, made by `JetpayClient.durable_preauthorizations`.

    Open it with ``async with``, once for the life of the process, and share it between tasks. Before a request leaves,
    its reference and arguments are committed to the ledger; after it, the debit's id. What may have been sent and got
    no answer is unknown, and is **never sent again by itself**.
    """

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


class DurableCharges(_DurablePayments):
    """Charges that survive a crash, made by `JetpayClient.durable_charges`.

    As `DurablePreauthorizations`; see there.
    """

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


class DurableCredits(_DurablePayments):
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
    ) -> None:
        super().__init__(ledger, context, lease_seconds=lease_seconds, account=account, restored=restored)
        self._link_amounts: Literal["major", "minor"] = link_amounts

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
