"""A ledger of captures: what was intended, and what became of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from jetpay_async._core import operations
from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.log import logger
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.ledger import _maintenance, _payments, _reports, _repository
from jetpay_async.ledger._backend import CommitExecutor, MakeCommitExecutor  # noqa: TC001 - `typing.get_type_hints` reads it
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._group_commit import GroupCommitExecutor
from jetpay_async.ledger._sqlite import DIALECT
from jetpay_async.ledger._staging import StagedDebits
from jetpay_async.ledger._stored_errors import storable
from jetpay_async.ledger.payment_records import (
    Candidate,
    EventEffect,
    LedgerPayment,
    PaymentState,
    TransactionUpdate,
)
from jetpay_async.ledger.records import BatchInfo, DebitState, LedgerCheck, LedgerItem, Progress, Pruned, Submitted
from jetpay_async.models import TransactionState

if TYPE_CHECKING:
    from jetpay_async.ledger._backend import Connection
    from jetpay_async.ledger._user_transaction import UserTransactions

__all__ = ["Ledger"]

_T = TypeVar("_T")
_State = TypeVar("_State", DebitState, PaymentState)

_KEY_LIMIT = 255


class Ledger:
    """A ledger opened to read it, to submit batches or to correct them. It captures nothing, and needs no client.

    ::

        async with Ledger("captures.db", create=False) as ledger:
            for batch in await ledger.batches():
                print(batch.key, batch.progress)

    It holds debit ids, states, times and reasons: never a token. A file is made readable by its owner alone.

    **What a ledger promises**, it promises for the captures that go through it: each of its debits is captured once,
    by however many processes, and in however many of its batches the debit is. It does not know of other ways. A debit
    that is in another ledger too, or that `JetpayClient.capture` captures elsewhere, may be captured twice, since the
    API does not tell the second request from the first. So choose one way, and one ledger, for the debits of an
    account. Of several ledgers in one PostgreSQL database (two roles with a schema each, for example) the URL has to
    say which one is meant: ``?options=-csearch_path%3DSCHEMA``.

    **A file has one name.** It is on a local disk of one machine, has no hard links, and is not mounted by itself into
    a container (mount its directory). While it is open it is not moved, removed or replaced by a copy.

    A ledger of an older release is brought up to date when it is opened and no run is alive. One of a newer release is
    refused.

    Args:
        ledger: The path of a file on a local disk, or a ``postgresql://`` URL, which needs
            ``pip install 'jetpay-async[postgres]'``.
        create: Whether to make the file, or the tables, if there are none.
        webhook_ids: The ids of your own webhooks: `apply` takes their events only.
        clock: The wall clock and the monotonic clock; replaced by tests.
        commit_executor: What makes the executor of its operations; replaced by simulations.

    Raises:
        ConfigurationError: ``ledger`` is neither a path nor such a URL, or its driver is not installed.
    """

    def __init__(
        self,
        ledger: str | os.PathLike[str],
        *,
        create: bool = True,
        webhook_ids: Collection[int] = (),
        clock: Clock = SYSTEM_CLOCK,
        commit_executor: MakeCommitExecutor = GroupCommitExecutor,
    ) -> None:
        self._backend = choose_backend(ledger, clock)
        self._create = create
        self._webhook_ids = frozenset(webhook_ids)
        self._make_executor = commit_executor
        self._commits: CommitExecutor | None = None
        self._in_user_transactions: UserTransactions | None = None

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            LedgerError: It can't be used; the message says what to do.
            LedgerNotFoundError: There is none, and ``create`` is False.
            ConfigurationError: SQLite is too old.
        """
        commits = self._make_executor(self._backend)
        await commits.open(create=self._create)
        self._commits = commits
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        commits, self._commits = self._commits, None
        if commits is not None:  # pragma: no branch - set when it was entered
            await commits.close()

    async def submit(self, key: str, debit_ids: Iterable[str] | AsyncIterable[str]) -> Submitted:
        """Add a batch, whole or not at all; it is durable when this returns.

        Args:
            key: The batch's name: of the night, of the invoice run. The same key with the same debits is the same
                batch.
            debit_ids: From `JetpayClient.preauthorize`, in any order; memory stays flat however many there are.

        Raises:
            InvalidArgumentError: The key or an id can't be one; nothing was added.
            BatchMismatchError: There is such a batch, with other debits.
            LedgerError: The ledger can't be written.
        """
        check_key(key)
        with StagedDebits() as staged:
            await staged.fill(debit_ids)
            return await run_apart(
                self.separate_commits(),
                lambda connection: _repository.submit(
                    connection,
                    key,
                    staged.numbered(),
                    given=staged.given,
                    chunks=staged.chunks,
                    fingerprint=staged.fingerprint,
                ),
            )

    async def batches(self) -> list[BatchInfo]:
        """Return each batch and where it stands, the oldest first.

        Raises:
            LedgerError: The ledger can't be read.
        """
        return await self._run(_repository.batches, writes=False)

    async def progress(self, key: str) -> Progress:
        """Return where a batch stands, and what it waits for.

        Raises:
            UnknownBatchError: The ledger has no batch of this key.
            LedgerError: The ledger can't be read.
        """
        batch = await self.find(key)
        return (await self._run(partial(_repository.full_progress, batch=batch), writes=False)).progress

    async def items(self, key: str, state: DebitState | str | None = None) -> AsyncIterator[LedgerItem]:
        """Read the debits of a batch, in the order they were given.

        Args:
            key: The batch.
            state: Only those in this state.

        Raises:
            InvalidArgumentError: There is no such state.
            UnknownBatchError: The ledger has no batch of this key.
            LedgerError: The ledger can't be read.
        """
        wanted = None if state is None else _check_state(DebitState, state)
        batch = await self.find(key)
        place = 0
        while True:
            page, place = await self._run(
                partial(_repository.items, key=key, batch=batch, after=place, state=wanted), writes=False
            )
            for item in page:
                yield item
            if len(page) < _repository.PAGE:
                return

    async def chunks_left(self, key: str) -> list[int]:
        """Return the chunks of a batch that have debits without an outcome: what is left to do with `run_chunk`.

        Raises:
            UnknownBatchError: The ledger has no batch of this key.
            LedgerError: The ledger can't be read.
        """
        batch = await self.find(key)
        return await self._run(partial(_repository.chunks_left, batch=batch), writes=False)

    async def retry_rejected(self, key: str) -> int:
        """Make the rejected debits of a batch pending again, for the next run to capture; return how many there were.

        The next run reads the status of each before it sends anything.

        Raises:
            UnknownBatchError: The ledger has no batch of this key.
            LedgerError: The ledger can't be written.
        """
        batch = await self.find(key)
        return await self._run(partial(_repository.reopen_rejected, batch=batch))

    async def verify(self) -> LedgerCheck:
        """Check the ledger: the file (SQLite), the tables, the counts of each batch, and the durable payments.

        It reads everything, changes nothing, and may be done while runs are alive.

        Raises:
            LedgerError: The ledger can't be read, which a damaged file is a reason for.
        """
        operation = partial(_maintenance.check, expected=_maintenance.expected_objects(DIALECT))
        return await self._run(operation, writes=False)

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy a ledger in a file, as it is at this moment, to a new file; runs may be alive.

        Whoever captures from the copy later opens it with ``restored=True``: what was captured since is pending in it.
        So does whoever reserves, charges or sends credits by references: the copy does not know those since.

        Args:
            path: The new file, on a local disk. Only its owner can read it.

        Raises:
            ConfigurationError: The file exists or can't be made; or the ledger is in PostgreSQL, whose own tools copy
                it, as the message says.
            LedgerError: The ledger can't be read, or the disk is full.
        """
        await self._run(lambda connection: connection.back_up(path), writes=False)

    async def prune(self, before: datetime) -> Pruned:
        """Remove batches that were finished before a time; the ids of their captured debits stay.

        A batch is removed only if each of its debits is captured or rejected for good: one with a debit that is
        pending, in flight, in doubt, accepted or unknown is left alone. A debit that was captured is never captured
        again, though its batch is gone; a rejected one would be tried again if it were submitted again.

        Durable payments all stay: a reference that was used once is never sent as if it were new.

        Args:
            before: An aware time.

        Raises:
            InvalidArgumentError: ``before`` is no aware time.
            LedgerError: The ledger can't be written.
        """
        if not isinstance(before, datetime) or before.tzinfo is None:
            raise InvalidArgumentError(f"before={before!r} must be a datetime with a time zone", field="before")
        return await self._run(partial(_maintenance.prune, before=before.timestamp()))

    async def payment(self, reference: str) -> LedgerPayment:
        """Return a durable payment: a preauthorization, a charge or a credit.

        Args:
            reference: What it was asked for with.

        Raises:
            InvalidArgumentError: The reference can't be one.
            UnknownReferenceError: The ledger has no payment of this reference.
            LedgerError: The ledger can't be read.
        """
        check_reference(reference)
        return await self._run(partial(_payments.find, reference=reference), writes=False)

    async def payments(self, state: PaymentState | str | None = None) -> AsyncIterator[LedgerPayment]:
        """Read the durable payments, in the order in which they were asked for first.

        Args:
            state: Only those in this state.

        Raises:
            InvalidArgumentError: There is no such state.
            LedgerError: The ledger can't be read.
        """
        wanted = None if state is None else _check_state(PaymentState, state)
        place = 0
        while True:
            page, place = await self._run(partial(_payments.page, after=place, state=wanted), writes=False)
            for payment in page:
                yield payment
            if len(page) < _payments.PAGE:
                return

    async def apply(self, event: TransactionUpdate, *, connection: object = None) -> EventEffect:
        """Record what an event says, if it is news: the handler for the events of transactions.

        ::

            router.on(TransactionEvent)(ledger.apply)

        Open the ledger with ``webhook_ids=``: events of others change nothing. A payment that is accepted, or unknown
        and whose debit is known, becomes what the event says; so does a captured debit that is unknown, accepted or in
        doubt. Nothing goes backwards, so that events may come late, doubled and out of order. What was done and is said
        to be failed or cancelled is recorded and logged; it is never sent again by itself.

        A transaction that nothing in the ledger knows becomes a candidate for the payments that are unresolved, if it
        was made in their time; see `candidates`.

        In a handler with a transaction of its own, pass its ``connection``: what the event changes then commits
        together with what the handler writes, and with the inbox's mark, by `PostgresInbox.mark_handled`. Commit soon:
        until then, what a payment's own process has to record about the same transaction waits.

        Args:
            event: A verified one.
            connection: Yours, to the ledger's PostgreSQL database, in an open transaction (READ COMMITTED): psycopg's
                AsyncConnection, asyncpg's Connection, SQLAlchemy's AsyncSession or AsyncConnection.

        Returns:
            What it has changed; durable when this returns, or, with ``connection``, when you commit.

        Raises:
            ConfigurationError: The ledger was opened without ``webhook_ids``. Or ``connection`` is none of these,
                commits each statement by itself (autocommit), is to another database or schema than the ledger's, or is
                not READ COMMITTED; or the ledger is in a file.
            LedgerError: The ledger can't be written: let the delivery be repeated. What your driver raises on
                ``connection`` is not translated; let it propagate, so that your transaction is rolled back.
        """
        said = self._said(event)
        if said is None:
            return EventEffect.FOREIGN
        if connection is None:
            effect = await self._run(partial(_reports.report, said=said))
        else:
            effect = await self._user_transactions("apply").run(
                connection, partial(_reports.report, said=said), method="apply"
            )
        _log_reversal(said, effect)
        return effect

    def apply_in_thread(self, event: TransactionUpdate, *, connection: object) -> EventEffect:
        """Do the same on a synchronous connection, in a thread that the handler started with `asyncio.to_thread`.

        Args:
            event: As for `apply`.
            connection: As for `apply`, but psycopg's Connection, or SQLAlchemy's Session or Connection.

        Returns:
            What it has changed; durable when you commit.

        Raises:
            ConfigurationError: As for `apply`.
            LedgerError: As for `apply`.
        """
        said = self._said(event)
        if said is None:
            return EventEffect.FOREIGN
        effect = self._user_transactions("apply_in_thread").run_in_thread(
            connection, partial(_reports.report, said=said), method="apply_in_thread"
        )
        _log_reversal(said, effect)
        return effect

    def _said(self, event: TransactionUpdate) -> _reports.TransactionReport | None:
        """Return what an event says; None if it is not of one of the user's own webhooks."""
        if not self._webhook_ids:
            raise ConfigurationError("webhook_ids: say which webhooks are yours, Ledger(..., webhook_ids={123})")
        if event.webhook_id not in self._webhook_ids:
            logger.info("an event of webhook %s changes nothing in the ledger", event.webhook_id)
            return None
        return _reports.TransactionReport(
            storable(event.transaction_id),
            event.kind or "debit",
            TransactionState(storable(event.state)),
            event.created_at.timestamp(),
        )

    def _user_transactions(self, method: str) -> UserTransactions:
        if not self._backend.in_user_transactions:
            raise ConfigurationError(
                f"{method}() takes a connection if the ledger is in PostgreSQL, in the database that you write in; "
                f"{self._backend.name} is a file: leave the connection out"
            )
        if self._in_user_transactions is None:
            from jetpay_async.ledger._user_transaction import UserTransactions  # noqa: PLC0415 - it needs the driver

            self._in_user_transactions = UserTransactions(self._backend)
        return self._in_user_transactions

    async def candidates(self, reference: str) -> list[Candidate]:
        """Return the transactions that may be the one of an unknown payment, the oldest first.

        They were made in its time, as events say, and nothing in the ledger knows them. Events have no amounts: look
        each up at Jetpay, or ask the application, before you `adopt` one.

        Args:
            reference: The payment's.

        Raises:
            InvalidArgumentError: The reference can't be one.
            UnknownReferenceError: The ledger has no payment of this reference.
            LedgerError: The ledger can't be read.
        """
        check_reference(reference)
        await self._run(partial(_payments.expire, owner=0))
        return await self._run(partial(_reports.candidates, reference=reference), writes=False)

    async def orphans(self) -> list[Candidate]:
        """Return the debits that events reported and nothing in the ledger knows, the oldest first.

        Those that a living process may be waiting for are left out. `JetpayClient.release_orphans` cancels them.

        Raises:
            LedgerError: The ledger can't be read.
        """
        await self._run(partial(_payments.expire, owner=0))
        return await self._run(partial(_reports.orphans, older_than=0.0), writes=False)

    async def adopt(
        self, reference: str, debit_id: str, *, state: TransactionState | str | None = None
    ) -> LedgerPayment:
        """Record which transaction an unknown payment has made: the same reference returns it from then on.

        Args:
            reference: The payment's.
            debit_id: The debit, or the credit.
            state: What its `JetpayClient.transaction_status` says; needed where no event has reported it.

        Raises:
            InvalidArgumentError: The reference or the id can't be one.
            PaymentStateError: The payment is not unknown; or it can't be this transaction: it is another payment's, is
                being released, or in a state in which nothing is reserved or paid.
            UnknownReferenceError: The ledger has no payment of this reference.
            LedgerError: The ledger can't be written.
        """
        check_reference(reference)
        known = None if state is None else TransactionState(state)
        await self._run(partial(_payments.expire, owner=0))
        return await self._run(
            partial(_reports.adopt, reference=reference, transaction_id=operations.read_debit_id(debit_id), state=known)
        )

    async def discard(self, reference: str) -> LedgerPayment:
        """Record that an unknown payment has made no transaction, since somebody has looked it up at Jetpay.

        It is never sent again by itself: the same call raises `PaymentDiscardedError`, unless ``retry_rejected=True``.

        Args:
            reference: The payment's.

        Raises:
            InvalidArgumentError: The reference can't be one.
            PaymentStateError: The payment is not unknown, or its request may still be on its way.
            UnknownReferenceError: The ledger has no payment of this reference.
            LedgerError: The ledger can't be written.
        """
        check_reference(reference)
        await self._run(partial(_payments.expire, owner=0))
        return await self._run(partial(_reports.discard, reference=reference))

    async def find(self, key: str) -> int:
        """Return the number of a batch.

        Raises:
            UnknownBatchError: The ledger has no batch of this key.
            LedgerError: The ledger can't be read.
        """
        check_key(key)
        return (await self._run(partial(_repository.find_batch, key=key), writes=False))[0]

    @property
    def leases(self) -> bool:
        """Whether an owner that is paused counts as dead after its lease."""
        return self._backend.leases

    @property
    def commits(self) -> CommitExecutor:
        """What carries its operations out."""
        if self._commits is None:
            raise ConfigurationError("the ledger is not open; use it within `async with`")
        return self._commits

    def separate_commits(self) -> CommitExecutor:
        """Make what carries operations out on a connection of its own; it is not open yet."""
        return self._make_executor(self._backend)

    async def _run(self, operation: Callable[[Connection], _T], *, writes: bool = True) -> _T:
        return await self.commits.run(operation, writes=writes)


async def run_apart(commits: CommitExecutor, operation: Callable[[Connection], _T]) -> _T:
    """Carry out a submission, on a connection of its own: it may take longer than a lease, which has to be renewed.

    Raises:
        LedgerError: The ledger can't be written.
    """
    await commits.open(create=False)
    try:
        return await commits.run(operation)
    finally:
        await commits.close()


def _log_reversal(said: _reports.TransactionReport, effect: EventEffect) -> None:
    if effect is EventEffect.REVERSED:
        logger.warning(
            "%s is %s, after it had succeeded",
            said.transaction_id,
            said.state,
            extra={"debit_id": said.transaction_id, "reason": str(said.state)},
        )


def check_key(key: str) -> None:
    """Refuse a key that no batch can have.

    Raises:
        InvalidArgumentError: It is no such key.
    """
    if not isinstance(key, str) or not key or len(key) > _KEY_LIMIT or not key.isprintable():
        raise InvalidArgumentError(
            f"key: a batch's name is a printable str of 1 to {_KEY_LIMIT} characters, for example '2026-11-22'",
            field="key",
        )


def check_reference(reference: str) -> None:
    """Refuse a reference that no payment can have.

    Raises:
        InvalidArgumentError: It is no such reference.
    """
    if (
        not isinstance(reference, str)
        or not 0 < len(reference) <= _KEY_LIMIT
        or not reference.isprintable()
        or reference != reference.strip()
    ):
        raise InvalidArgumentError(
            f"reference: is a printable str of 1 to {_KEY_LIMIT} characters without surrounding spaces, for example "
            "the booking's id",
            field="reference",
        )


def _check_state(states: type[_State], state: str) -> _State:
    try:
        return states(state)
    except ValueError:
        raise InvalidArgumentError(f"state: {state!r} is none of {', '.join(states)}", field="state") from None
