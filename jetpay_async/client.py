"""The client: one method for each operation."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Collection, Iterable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import jetpay_async.ledger
from jetpay_async import models
from jetpay_async._core import operations
from jetpay_async._core.arguments import UNCHANGED, Unchanged
from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.contract import LINK_AMOUNTS
from jetpay_async._core.endpoints import DEMO_URL, PRODUCTION_URL, check_base_url, origin
from jetpay_async._core.execution import DEFAULT_CONCURRENCY, Options
from jetpay_async._core.executor import CallExecutor
from jetpay_async._core.lazy import LazyModule
from jetpay_async._core.retry import RetryPolicy
from jetpay_async._core.secret import Secret
from jetpay_async._core.single_flight import SingleFlight
from jetpay_async._core.transport import ClientSession, Transport
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError, ConflictError, InvalidRequestError, OutcomeUnknownError
from jetpay_async.models import Capture, Charge, JSONValue, Preauthorization, TransactionStatus
from jetpay_async.money import Amount

if TYPE_CHECKING:
    from jetpay_async import bank_accounts, outcomes, telemetry
    from jetpay_async._batch import operation as batch_operation
    from jetpay_async._batch import worker_pool
    from jetpay_async._core import account_operations, link_operations, raw_operation, webhook_operations
    from jetpay_async._core.executor import OnUnknown
    from jetpay_async._core.instrumented import OnOperation
    from jetpay_async.ledger._context import ClientContext
else:
    # A process that captures needs none of these. Each is imported by the first call of a method that does, before
    # anything is sent; and by whoever evaluates the annotations.
    bank_accounts = LazyModule("jetpay_async.bank_accounts")
    outcomes = LazyModule("jetpay_async.outcomes")
    telemetry = LazyModule("jetpay_async.telemetry")
    batch_operation = LazyModule("jetpay_async._batch.operation")
    worker_pool = LazyModule("jetpay_async._batch.worker_pool")
    account_operations = LazyModule("jetpay_async._core.account_operations")
    link_operations = LazyModule("jetpay_async._core.link_operations")
    raw_operation = LazyModule("jetpay_async._core.raw_operation")
    webhook_operations = LazyModule("jetpay_async._core.webhook_operations")

__all__ = ["DEMO_URL", "PRODUCTION_URL", "JetpayClient"]

_T = TypeVar("_T")
_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome", bound="outcomes.BatchOutcome")

DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_CONNECTIONS = 100

# What is left of a deadline that has passed: a call needs some time to say that it was not sent.
_SHORTEST_SECONDS = 1e-6


class JetpayClient:
    """An asyncio client for one Jetpay account.

    Make one for the life of the process, in the event loop that uses it, and share it between tasks::

        async with JetpayClient(token) as client:
            reserved = await client.preauthorize(...)
            captured = await client.capture(reserved.debit_id)

    The API documents no idempotency key. So a write that began to leave is never sent a second time unless the
    transaction's status proves that the first one did nothing; where nothing can, `OutcomeUnknownError` says so. Only a
    state that means done is success, whatever the HTTP status.

    Args:
        api_token: The API token of the dashboard, or an async function that returns it, asked before each request:
            for tokens that rotate. After a 401 it is asked once more before the 401 is believed.
        base_url: `PRODUCTION_URL`, `DEMO_URL` or a sandbox's ``url``; a path prefix is kept.
        session: Your own `aiohttp.ClientSession`, to share its connections. It is never closed and never changed, and
            the token never gets into its defaults. Its cookies, proxy and trace hooks are yours; a middleware that
            sends a write again is stopped before a byte leaves. By default the client opens its own session,
            with no cookies, on first use.
        timeout: Seconds for one call as a whole: queueing for a connection, all attempts, the pauses between them, and
            reading the status of what is in doubt.
        max_connections: Connections of the client's own session; further calls wait for one, within their timeout.
        retry: When to send again what may be sent again.
        user_agent_suffix: Appended to ``User-Agent``, so that Jetpay can see which application calls.
        trust_env: Whether the client's own session uses ``HTTPS_PROXY`` and the like.
        trusted_origins: Origins such as ``"https://gateway.example.com"`` that the token may be sent to besides
            Jetpay's hosts and loopback; the only way to plain ``http://`` on a network.
        on_unknown: Called with the `OutcomeUnknownError` of each unknown outcome, also where the call is cancelled or
            its event loop ends, and the error is not raised. Synchronous, quick, and best used to store it; what it
            raises is logged.
        on_operation: Called with an `Operation` for each call when it ends, whatever its end, in the context of the
            task that made it: for metrics and tracing. Synchronous and quick; what it raises is logged.
            `jetpay_async.opentelemetry.OpenTelemetry` is one.
        link_amounts: In which unit amounts leave in `create_debit`, `create_credit` and `send_credit`: ``"major"``
            (``100.50``, as for cards) or ``"minor"`` (``10050``). The vendor's pages name none: **ask Jetpay, and try a
            small amount first, since a factor of 100 is at stake**. The methods take dollars either way.
        clock: Time and chance, for tests.

    Raises:
        ConfigurationError: An argument can't work, for example a token that would go to a host that it is not for.
    """

    __slots__ = ("_clock", "_executor", "_link_amounts", "_options", "_owner", "_pools", "_single_flight", "_transport")

    def __init__(
        self,
        api_token: str | Callable[[], Awaitable[str]],
        *,
        base_url: str = PRODUCTION_URL,
        session: ClientSession | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        max_connections: int = DEFAULT_CONNECTIONS,
        retry: RetryPolicy | None = None,
        user_agent_suffix: str | None = None,
        trust_env: bool = False,
        trusted_origins: Collection[str] = (),
        on_unknown: Callable[[OutcomeUnknownError], None] | None = None,
        on_operation: Callable[[telemetry.Operation], None] | None = None,
        link_amounts: Literal["major", "minor"] = LINK_AMOUNTS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        secret = Secret(api_token)
        del api_token  # error reporters collect local variables, those of a constructor that fails too
        if link_amounts not in ("major", "minor"):
            raise ConfigurationError("link_amounts: is 'major' (dollars) or 'minor' (cents)")
        self._options = _options(timeout, RetryPolicy() if retry is None else retry)
        self._transport = Transport(
            secret,
            base_url=check_base_url(base_url, trusted_origins),
            session=session,
            max_connections=max_connections,
            user_agent_suffix=user_agent_suffix,
            trust_env=trust_env,
            unacknowledged_timeout=self._options.retry.resolve_after_timeout,
            clock=clock,
        )
        self._executor = _make_executor(self._transport, clock, on_unknown, on_operation)
        self._single_flight = SingleFlight(self._executor)
        self._clock = clock
        self._link_amounts: Literal["major", "minor"] = link_amounts
        self._pools: set[worker_pool.AnyWorkerPool] = set()
        self._owner = True

    @classmethod
    def from_env(
        cls,
        *,
        session: ClientSession | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        max_connections: int = DEFAULT_CONNECTIONS,
        retry: RetryPolicy | None = None,
        user_agent_suffix: str | None = None,
        trust_env: bool = False,
        trusted_origins: Collection[str] = (),
        on_unknown: Callable[[OutcomeUnknownError], None] | None = None,
        on_operation: Callable[[telemetry.Operation], None] | None = None,
        link_amounts: Literal["major", "minor"] = LINK_AMOUNTS,
    ) -> Self:
        """Make a client from ``JETPAY_API_TOKEN`` and, if set, ``JETPAY_BASE_URL`` (production by default).

        Args:
            session: As for the class.
            timeout: As for the class.
            max_connections: As for the class.
            retry: As for the class.
            user_agent_suffix: As for the class.
            trust_env: As for the class.
            trusted_origins: As for the class.
            on_unknown: As for the class.
            on_operation: As for the class.
            link_amounts: As for the class.

        Raises:
            ConfigurationError: ``JETPAY_API_TOKEN`` is not set, or as for the class.
        """
        if not os.environ.get("JETPAY_API_TOKEN"):
            raise ConfigurationError(
                "JETPAY_API_TOKEN is not set; make a token in Jetpay's dashboard, or take that of `jetpay sandbox`"
            )
        return cls(
            os.environ["JETPAY_API_TOKEN"],
            base_url=os.environ.get("JETPAY_BASE_URL") or PRODUCTION_URL,
            session=session,
            timeout=timeout,
            max_connections=max_connections,
            retry=retry,
            user_agent_suffix=user_agent_suffix,
            trust_env=trust_env,
            trusted_origins=trusted_origins,
            on_unknown=on_unknown,
            on_operation=on_operation,
            link_amounts=link_amounts,
        )

    async def preauthorize(
        self, *, contact_id: str, credit_card_id: str, amount: Amount, to_bank_account_id: str, statement: str
    ) -> Preauthorization:
        """Reserve an amount on a saved card, to be taken later with `capture` [guide, "Preauthorize and capture"].

        Sent at most once, unless it provably never began to leave: nothing at the API could show afterwards whether the
        first one reserved the money.

        Args:
            contact_id: The payer.
            credit_card_id: A card saved on that contact.
            amount: Major units of the account's currency (CAD), at most two decimals: ``Decimal("100.50")``,
                ``"100.50"``, an `int` of whole dollars, or a `float` that prints with at most two decimals.
            to_bank_account_id: The merchant's bank account.
            statement: What the payer's bank statement shows; at most 30 characters [docs].

        Returns:
            The reservation. Store its ``debit_id``. If it is not ``final``, the API has accepted it and not finished
            it (``processing``, for example): its `transaction_status` reports how it ends.

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            TransactionFailedError: The reply says that the transaction is failed or cancelled.
            APIError: The API said no, for example for a declined card, or in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            OutcomeUnknownError: It began to leave and no usable answer came. If the response named a debit, in a state
                that decides nothing, its status was read, and did not decide before the deadline.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        call = operations.preauthorize(
            contact_id=contact_id,
            credit_card_id=credit_card_id,
            amount=amount,
            to_bank_account_id=to_bank_account_id,
            statement=statement,
        )
        return await self._execute(call)

    async def capture(self, debit_id: str, *, wait_until_final: bool = False) -> Capture:
        """Take the full amount of a preauthorized debit [guide, "Preauthorize and capture"].

        If no usable answer comes, the transaction's status is read, within the same deadline. It may say that the money
        was taken (the result has ``confirmed_by_status=True``), that the capture is in progress, that it never will be
        done (`TransactionFailedError`), or that nothing happened. That is believed, and the capture is sent again, only
        if the status was read once the request could no longer be on its way (`RetryPolicy.resolve_after` and
        ``resolve_after_timeout``), and if no earlier answer said otherwise. A rejection is checked against the status
        too, since the debit may be captured already.

        Tasks that capture the same debit at the same time share one request and its answer. A debit that this client
        has captured (of the latest 10,000), or whose capture ended as unknown or accepted (of the latest 100,000), is
        not sent again before its status was read.

        Args:
            debit_id: From `preauthorize`.
            wait_until_final: Whether to read the status of a capture that the API has accepted and not finished, until
                it is done or the deadline comes. By default such a capture is returned at once.

        Returns:
            The capture. If it is ``final``, the money was taken: ``state`` is ``paid`` as a rule. Otherwise it is
            accepted (``processing``, for example) and may still fail: read `transaction_status` later, or learn it from
            a webhook; it is never sent again.

        Raises:
            InvalidArgumentError: ``debit_id`` can't be one; nothing was sent.
            TransactionFailedError: The debit is failed or cancelled; nothing was taken.
            APIError: The API said no, in one of its subclasses; nothing was taken.
            NotSentError: Nothing began to leave; calling again is safe.
            ServiceError: Each attempt was lost, and the status proves that none was carried out; calling again is safe.
            OutcomeUnknownError: It may have happened, and the status did not decide before the deadline. Calling again
                on the same client reads the status first.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        call = operations.capture(debit_id)
        execution = self._executor.begin(call, self._options, wait_until_final=wait_until_final)
        return await self._single_flight.capture(execution)

    def durable_captures(
        self,
        ledger: str | os.PathLike[str],
        *,
        concurrency: int = 64,
        rate: float | None = None,
        lease_seconds: float = 15.0,
        restored: bool = False,
        account: str | None = None,
        accept_rejections: bool = False,
    ) -> jetpay_async.ledger.DurableCaptures:
        """Capture from a ledger that survives a crash; see `jetpay_async.ledger`.

        Use it with ``async with``, inside the client's own block::

            async with client.durable_captures("captures.db") as captures:
                batch = await captures.submit("2026-11-22", debit_ids)
                report = await batch.wait()

        The ledger sees to it that a debit is captured once, in whatever process and batch. It knows nothing of captures
        that are made without it: `capture` and `capture_many` on this client share the answer of a request under way,
        in another process they don't.

        Args:
            ledger: The path of a file on a local disk, for the processes of one machine; or a ``postgresql://`` URL,
                for many machines, which needs ``pip install 'jetpay-async[postgres]'``.
            concurrency: Captures in flight, at most.
            rate: Captures per second, of all processes and machines that work on the ledger together.
            lease_seconds: Seconds after which an owner that has not renewed its lease counts as dead, for PostgreSQL.
                It sends nothing more from four fifths of that on. In a file, the kernel knows who is alive.
            restored: Whether the ledger was restored from a backup, or comes from an older replica, so that it may have
                lost the newest commits. Then nothing is sent for the time that a lost request may still take (the
                client's ``timeout``, a tenth of it, and `RetryPolicy.resolve_after_timeout`), and each debit's status
                is read first. Say True until the batches that the ledger holds, and those submitted since the copy was
                made, are complete.
            account: A label of your account, at most 255 characters: not the token. The ledger keeps the first one that
                it is given, and refuses another.
            accept_rejections: Whether 404 and 403 are recorded as final even if the first 8 answers of a run say
                nothing else. By default such a run stops, since it most likely asks the wrong account.

        Raises:
            InvalidArgumentError: A number or a label is out of range.
            ConfigurationError: ``ledger`` can't be one, or what it needs is not installed.
        """
        # Most clients capture without a ledger.
        from jetpay_async.ledger.durable_captures import DurableCaptures  # noqa: PLC0415

        return DurableCaptures(
            ledger,
            self._ledger_context(),
            concurrency=concurrency,
            rate=rate,
            lease_seconds=lease_seconds,
            restored=restored,
            account=account,
            accept_rejections=accept_rejections,
        )

    def durable_preauthorizations(
        self,
        ledger: str | os.PathLike[str],
        *,
        concurrency: int = 64,
        rate: float | None = None,
        lease_seconds: float = 15.0,
        restored: bool = False,
        account: str | None = None,
        accept_rejections: bool = False,
    ) -> jetpay_async.ledger.DurablePreauthorizations:
        """Reserve amounts by references of yours, so that a crash loses none and doubles none.

        Use it with ``async with``, inside the client's own block::

            async with client.durable_preauthorizations("payments.db") as reservations:
                reserved = await reservations.preauthorize(
                    reference=booking_id, contact_id=..., credit_card_id=..., amount="250.00", ...
                )

        The reference and the arguments are committed before the request leaves, the debit's id after it. The same call
        again, by any process and after a crash, returns the stored debit, or raises what is known, and sends nothing.

        Many at a time, each with its reference, are a batch::

            batch = await reservations.submit("2026-11-22", requests)  # PreauthorizationRequest(reference=..., ...)
            async for outcome in batch.outcomes(): ...

        Args:
            ledger: As for `durable_captures`; it may be the same.
            concurrency: Requests of batches in flight, at most.
            rate: Requests of batches per second, of all processes and machines that work on the ledger together; its
                captures count too.
            lease_seconds: As for `durable_captures`.
            restored: Whether the ledger was restored from a backup, or comes from an older replica, so that it may have
                forgotten what was sent. **Then nothing is sent**: a reference that the ledger does not know, or would
                send (again), is recorded as unknown; when it is opened, so is all that the ledger holds as pending, of
                whatever batch. Ask once for every reference since the backup with it, and submit each batch since;
                decide what became of the unknown ones, and go on without it.
            account: As for `durable_captures`.
            accept_rejections: Whether 404 and 403 are recorded as final even if the first 8 answers to a batch say
                nothing else. By default it stops, since it most likely asks the wrong account.

        Raises:
            InvalidArgumentError: A number or a label is out of range.
            ConfigurationError: ``ledger`` can't be one, or what it needs is not installed.
        """
        from jetpay_async.ledger.durable_payments import DurablePreauthorizations  # noqa: PLC0415 - as above

        return DurablePreauthorizations(
            ledger,
            self._ledger_context(),
            lease_seconds=lease_seconds,
            account=account,
            restored=restored,
            concurrency=concurrency,
            rate=rate,
            accept_rejections=accept_rejections,
        )

    def durable_charges(
        self,
        ledger: str | os.PathLike[str],
        *,
        concurrency: int = 64,
        rate: float | None = None,
        lease_seconds: float = 15.0,
        restored: bool = False,
        account: str | None = None,
        accept_rejections: bool = False,
    ) -> jetpay_async.ledger.DurableCharges:
        """Charge cards by references of yours, so that a crash loses no charge and doubles none.

        As `durable_preauthorizations`; see there.

        Args:
            ledger: As for `durable_captures`; it may be the same.
            concurrency: As for `durable_preauthorizations`.
            rate: As for `durable_preauthorizations`.
            lease_seconds: As for `durable_captures`.
            restored: As for `durable_preauthorizations`.
            account: As for `durable_captures`.
            accept_rejections: As for `durable_preauthorizations`.

        Raises:
            InvalidArgumentError: A number or a label is out of range.
            ConfigurationError: ``ledger`` can't be one, or what it needs is not installed.
        """
        from jetpay_async.ledger.durable_payments import DurableCharges  # noqa: PLC0415 - as above

        return DurableCharges(
            ledger,
            self._ledger_context(),
            lease_seconds=lease_seconds,
            account=account,
            restored=restored,
            concurrency=concurrency,
            rate=rate,
            accept_rejections=accept_rejections,
        )

    def durable_credits(
        self,
        ledger: str | os.PathLike[str],
        *,
        concurrency: int = 64,
        rate: float | None = None,
        lease_seconds: float = 15.0,
        restored: bool = False,
        account: str | None = None,
        accept_rejections: bool = False,
    ) -> jetpay_async.ledger.DurableCredits:
        """Send credits by references of yours, so that a crash loses none and doubles none.

        As `durable_preauthorizations`; see there.

        Args:
            ledger: As for `durable_captures`; it may be the same.
            concurrency: As for `durable_preauthorizations`.
            rate: As for `durable_preauthorizations`.
            lease_seconds: As for `durable_captures`.
            restored: As for `durable_preauthorizations`.
            account: As for `durable_captures`.
            accept_rejections: As for `durable_preauthorizations`.

        Raises:
            InvalidArgumentError: A number or a label is out of range.
            ConfigurationError: ``ledger`` can't be one, or what it needs is not installed.
        """
        from jetpay_async.ledger.durable_payments import DurableCredits  # noqa: PLC0415 - as above

        return DurableCredits(
            ledger,
            self._ledger_context(),
            link_amounts=self._link_amounts,
            lease_seconds=lease_seconds,
            account=account,
            restored=restored,
            concurrency=concurrency,
            rate=rate,
            accept_rejections=accept_rejections,
        )

    async def release_orphans(
        self,
        ledger: str | os.PathLike[str],
        *,
        older_than: float,
        keep: Callable[[jetpay_async.ledger.Candidate], bool | Awaitable[bool]],
    ) -> list[jetpay_async.ledger.OrphanReport]:
        """Cancel the reservations that events reported and nothing in the ledger knows.

        Each may be what a preauthorization made that is unknown since its process was killed. Its status is read before
        it is cancelled, and only what is ``preauthorized`` is; and again afterwards. What is being cancelled can't be
        adopted any more. Debits that the ledger knows are left alone, and so is what a living process may wait for.

        Args:
            ledger: As for `durable_preauthorizations`; its `Ledger.apply` gets the events.
            older_than: Seconds since the reservation was made, at least.
            keep: Asked about each, a function or an async function: whether a booking of yours holds it.

        Returns:
            What became of each.

        Raises:
            InvalidArgumentError: ``older_than`` is no number of seconds.
            LedgerMismatchError: The ledger belongs to another API.
            LedgerError: The ledger can't be written.
            ConfigurationError: ``ledger`` can't be one, or what it needs is not installed.
        """
        from jetpay_async.ledger._orphans import release_orphans  # noqa: PLC0415 - most clients have no ledger
        from jetpay_async.ledger.ledger import Ledger  # noqa: PLC0415

        check_seconds("older_than", older_than)
        async with Ledger(ledger, create=False, clock=self._clock) as opened:
            return await release_orphans(
                opened.commits,
                origin=origin(self._transport.base_url),
                older_than=older_than,
                keep=keep,
                read_status=self.transaction_status,
                cancel=self.cancel_transaction,
            )

    async def transaction_status(self, identifier: str) -> TransactionStatus:
        """Read where a transaction stands [docs, "Transaction status"].

        Args:
            identifier: A transaction's id; a debit's id is its transaction's [docs].

        Returns:
            The state, and why it failed if it did. States that this release does not know are carried through.

        Raises:
            InvalidArgumentError: ``identifier`` can't be one; nothing was sent.
            APIError: The API said no, in one of its subclasses.
            NotSentError: The connection failed each time.
            ServiceError: No usable answer came; it says nothing about the transaction.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        return await self._execute(operations.transaction_status(identifier))

    async def cancel_transaction(self, identifier: str) -> None:
        """Cancel a transaction while no funds have been pulled [docs]; of a preauthorization, release it [inferred].

        If no usable answer comes, the transaction's status is read, as for a capture.

        Args:
            identifier: A transaction's id; a debit's id is its transaction's [docs].

        Raises:
            InvalidArgumentError: ``identifier`` can't be one; nothing was sent.
            TransactionFailedError: The transaction ended in another way: ``state`` is ``paid``, for example.
            APIError: The API said no, in one of its subclasses; nothing was cancelled.
            NotSentError: Nothing began to leave; calling again is safe.
            ServiceError: Each attempt was lost, and the status proves that none was carried out.
            OutcomeUnknownError: It may have happened, and the status did not decide before the deadline.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        await self._execute(operations.cancel_transaction(identifier))

    async def charge(
        self, *, contact_id: str, credit_card_id: str, amount: Amount, to_bank_account_id: str, statement: str
    ) -> Charge:
        """Take an amount from a saved card at once [docs, "Charge"]: `preauthorize` and `capture` in one.

        Sent at most once, unless it provably never began to leave, as `preauthorize`.

        Args:
            contact_id: The payer.
            credit_card_id: A card saved on that contact.
            amount: Major units of the account's currency (CAD), at most two decimals; see `preauthorize`.
            to_bank_account_id: The merchant's bank account.
            statement: What the payer's bank statement shows; at most 30 characters [docs].

        Returns:
            The charge. If it is ``final``, the money was taken: ``state`` is ``paid`` as a rule, and an event
            ``completed`` or ``failed`` follows [docs]. Otherwise the API has accepted it and not finished it.

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            TransactionFailedError: The reply says that the transaction is failed or cancelled.
            APIError: The API said no, for example for a declined card, or in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            OutcomeUnknownError: It began to leave and no usable answer came: the money may have been taken.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        call = operations.charge(
            contact_id=contact_id,
            credit_card_id=credit_card_id,
            amount=amount,
            to_bank_account_id=to_bank_account_id,
            statement=statement,
        )
        return await self._execute(call)

    async def create_contact(
        self, *, email: str, name: str, tags: Iterable[str] = (), language: str = "en"
    ) -> models.Contact:
        """Create a payer or payee [docs, "Contacts"].

        Sent twice, it makes a duplicate and moves no money. It is not sent again by itself;
        ``RetryPolicy(resend_harmless=True)`` allows it.

        Args:
            email: Of the contact.
            name: Of the contact.
            tags: Yours, to sort contacts by.
            language: Of the hosted pages, for example ``en`` or ``fr``.

        Returns:
            The contact. Store its ``contact_id``.

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            APIError: The API said no, in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            OutcomeUnknownError: The contact may exist; ``moves_money`` is False.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        return await self._execute(
            account_operations.create_contact(email=email, name=name, tags=tags, language=language)
        )

    async def card_form(self, contact_id: str) -> models.CardForm:
        """Ask for a hosted form in which the payer types a card [docs, "Card tokenization"].

        The card's data never touches your servers. Show the ``url`` in an iframe, once. The result, success or failure,
        arrives as an event: register a webhook first. A call that got no answer is repeated: an unused form does
        no harm.

        Args:
            contact_id: Whose card it will be.

        Returns:
            The form, with the ``credit_card_id`` that the card will have. That its fields have these names is
            inferred.

        Raises:
            InvalidArgumentError: ``contact_id`` can't be one; nothing was sent.
            APIError: The API said no, in one of its subclasses.
            NotSentError: The connection failed each time.
            ServiceError: No usable answer came; calling again is safe.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        return await self._execute(account_operations.card_form(contact_id))

    async def create_bank_account(
        self, details: bank_accounts.BankAccountDetails, *, contact_id: str
    ) -> models.BankAccount:
        """Save the bank account of a contact, for debits and credits [docs, "Bank accounts"; its path is inferred].

        The merchant's own bank account is made in Jetpay's dashboard, not by a call. Sent twice, this makes a duplicate
        and moves no money; it is never sent again by itself.

        Args:
            details: The account. Its number is in no error, log or ``repr``, but for the last three digits.
            contact_id: Whose it is.

        Returns:
            The bank account. Store its ``bank_account_id``.

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            APIError: The API said no, in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            OutcomeUnknownError: The bank account may exist; ``moves_money`` is False.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        return await self._execute(account_operations.create_bank_account(details, contact_id=contact_id))

    async def create_debit(
        self,
        *,
        amount: Amount,
        to_bank_account_id: str,
        statement: str,
        note: str | None = None,
        contact_id: str | None = None,
        payer: models.Payer | None = None,
    ) -> models.PaymentLink:
        """Ask for a payment by a link [docs, "Debits"].

        Sent at most once, unless it provably never began to leave: twice, it would be payable twice, and a completed
        card form pays the contact's debit without a further step.

        Args:
            amount: Major units, as for `preauthorize`. **In which unit the API takes it here is open**: the client's
                ``link_amounts`` says how it is sent.
            to_bank_account_id: The merchant's bank account.
            statement: What the payer's bank statement shows; at most 30 characters [docs].
            note: Shown in Jetpay's app; it may be longer than the statement [docs].
            contact_id: Who pays: a contact,
            payer: or somebody new. Exactly one of the two.

        Returns:
            The link. Hand it to the payer yourself: nobody is e-mailed [docs].

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            APIError: The API said no, in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            OutcomeUnknownError: It began to leave and no usable answer came: a payable debit may exist.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        call = link_operations.create_debit(
            amount=amount,
            to_bank_account_id=to_bank_account_id,
            statement=statement,
            note=note,
            contact_id=contact_id,
            payer=payer,
            unit=self._link_amounts,
        )
        return await self._execute(call)

    async def create_credit(
        self,
        *,
        amount: Amount,
        from_bank_account_id: str,
        contact_id: str,
        statement: str,
        note: str | None = None,
    ) -> models.PaymentLink:
        """Offer a payout by a link, through which the payee enters a bank account [docs, "Credits"].

        Sent at most once, unless it provably never began to leave: twice, it could be paid out twice.

        Args:
            amount: Major units, as for `preauthorize`. **In which unit the API takes it here is open**: the client's
                ``link_amounts`` says how it is sent.
            from_bank_account_id: The merchant's bank account.
            contact_id: The payee.
            statement: What the bank statement shows; at most 30 characters [docs].
            note: Shown in Jetpay's app; it may be longer than the statement [docs].

        Returns:
            The link. Hand it to the payee, and to nobody else: who has it says where the money goes.

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            APIError: The API said no, in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            OutcomeUnknownError: It began to leave and no usable answer came: a credit may exist.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        call = link_operations.create_credit(
            amount=amount,
            from_bank_account_id=from_bank_account_id,
            contact_id=contact_id,
            statement=statement,
            note=note,
            unit=self._link_amounts,
        )
        return await self._execute(call)

    async def send_credit(
        self,
        *,
        amount: Amount,
        from_bank_account_id: str,
        to_bank_account_id: str,
        contact_id: str,
        statement: str,
        note: str | None = None,
    ) -> models.Credit:
        """Send money to a saved bank account [docs, "Credits"]: **it leaves without a further step of anybody**.

        Sent at most once, unless it provably never began to leave.

        Args:
            amount: Major units, as for `preauthorize`. **In which unit the API takes it here is open**: the client's
                ``link_amounts`` says how it is sent.
            from_bank_account_id: The merchant's bank account.
            to_bank_account_id: The payee's, from `create_bank_account`.
            contact_id: The payee.
            statement: What the bank statement shows; at most 30 characters [docs].
            note: Shown in Jetpay's app; it may be longer than the statement [docs].

        Returns:
            The credit, on its way: ``processing``, then ``initiated``, then ``completed`` [docs].

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            APIError: The API said no, in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            OutcomeUnknownError: It began to leave and no usable answer came: the money may be on its way.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
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
        return await self._execute(call)

    async def register_webhook(
        self,
        callback_url: str,
        *,
        callback_api_key: str | None = None,
        max_batch_size: int = 10,
        max_wait_seconds: int = 60,
        replay_from: int | datetime | None = None,
    ) -> models.Webhook:
        """Have events delivered to a URL [docs, "Webhooks"]. For deploy scripts, see `ensure_webhook`.

        There is one webhook for a URL. So a registration without an answer is resolved by the list of webhooks, within
        the same deadline: if it is there with these settings, it is returned (``confirmed_by_list``); if it is absent
        once the request can no longer be on its way, it is sent again.

        Args:
            callback_url: A public HTTPS address [docs].
            callback_api_key: A secret for Jetpay to send along.
            max_batch_size: Events of a delivery, at most: 1 to 100 [docs].
            max_wait_seconds: Seconds that the oldest undelivered event waits for others: 60 to 3600 [docs].
            replay_from: Also deliver earlier events: from this event's id on (inclusive), or from this aware moment on.
                The list does not show whether it was applied: where ``confirmed_by_list``, call `replay_webhook`.

        Returns:
            The webhook. `jetpay_async.webhooks.WebhookVerifier` takes its ``id``.

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            InvalidRequestError: There is a webhook for this URL already, or the API said no for another reason.
            ConflictError: After no answer, the list shows a webhook of this URL with other settings.
            APIError: The API said no, in another of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            ServiceError: Each attempt was lost, and the list proves that none was carried out; calling again is safe.
            OutcomeUnknownError: The webhook may exist; ``moves_money`` is False.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        call = webhook_operations.register_webhook(
            callback_url,
            callback_api_key=callback_api_key,
            max_batch_size=max_batch_size,
            max_wait_seconds=max_wait_seconds,
            replay_from=replay_from,
        )
        return await self._execute(call)

    async def list_webhooks(self) -> tuple[models.Webhook, ...]:
        """List the account's webhooks [docs, "Webhooks"; that the reply has one array is inferred].

        Raises:
            APIError: The API said no, in one of its subclasses.
            NotSentError: The connection failed each time.
            ServiceError: No usable answer came; calling again is safe.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        return await self._execute(webhook_operations.list_webhooks())

    async def webhook(self, identifier: str) -> models.Webhook:
        """Read one webhook [docs, "Webhooks"].

        Args:
            identifier: `Webhook.identifier`.

        Raises:
            InvalidArgumentError: ``identifier`` can't be one; nothing was sent.
            APIError: The API said no, in one of its subclasses.
            NotSentError: The connection failed each time.
            ServiceError: No usable answer came; calling again is safe.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        return await self._execute(webhook_operations.read_webhook(identifier))

    async def change_webhook(
        self,
        identifier: str,
        *,
        callback_url: str | None = None,
        callback_api_key: str | Unchanged | None = UNCHANGED,
        max_batch_size: int | None = None,
        max_wait_seconds: int | None = None,
    ) -> models.Webhook:
        """Change settings of a webhook; what is not given stays [docs, "Webhooks"].

        A call that got no answer is repeated: the effect is the same.

        Args:
            identifier: `Webhook.identifier`.
            callback_url: Another address.
            callback_api_key: Another secret; None for none any more [inferred: that the API takes null].
            max_batch_size: Events of a delivery, at most: 1 to 100 [docs].
            max_wait_seconds: Seconds that the oldest undelivered event waits for others: 60 to 3600 [docs].

        Returns:
            The webhook as it is now.

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent, or nothing is changed.
            APIError: The API said no, in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            ServiceError: No usable answer came; calling again is safe.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        call = webhook_operations.change_webhook(
            identifier,
            callback_url=callback_url,
            callback_api_key=callback_api_key,
            max_batch_size=max_batch_size,
            max_wait_seconds=max_wait_seconds,
        )
        return await self._execute(call)

    async def replay_webhook(self, identifier: str, *, replay_from: int | datetime) -> models.Webhook:
        """Have a webhook deliver again from an event or a moment on [docs; that a change takes it is inferred].

        A call that got no answer is repeated. Your receiver gets events that it has handled: an inbox of
        `jetpay_async.webhooks` handles each once.

        Args:
            identifier: `Webhook.identifier`.
            replay_from: An event's id (inclusive), or an aware moment.

        Returns:
            The webhook as it is now.

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            APIError: The API said no, in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            ServiceError: No usable answer came; calling again is safe.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        return await self._execute(webhook_operations.replay_webhook(identifier, replay_from=replay_from))

    async def remove_webhook(self, identifier: str) -> None:
        """Remove a webhook: nothing is delivered to its URL any more [docs, "Webhooks"].

        A call that got no answer is repeated; a 404 after that means that the first one removed it.

        Args:
            identifier: `Webhook.identifier`.

        Raises:
            InvalidArgumentError: ``identifier`` can't be one; nothing was sent.
            NotFoundError: There was no such webhook.
            APIError: The API said no, in another of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            ServiceError: No usable answer came; calling again is safe.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        await self._execute(webhook_operations.remove_webhook(identifier))

    async def ensure_webhook(
        self,
        callback_url: str,
        *,
        callback_api_key: str | None = None,
        max_batch_size: int = 10,
        max_wait_seconds: int = 60,
    ) -> models.Webhook:
        """See to it that a URL has a webhook with these settings: list, then change or register. For deploy scripts.

        Several calls in one deadline, the client's ``timeout``. If another process registers the same URL meanwhile,
        the list is read once more.

        Args:
            callback_url: As for `register_webhook`.
            callback_api_key: As for `register_webhook`; None removes one that the webhook has.
            max_batch_size: As for `register_webhook`.
            max_wait_seconds: As for `register_webhook`.

        Returns:
            The webhook, as it is now.

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            APIError: The API said no, in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            ServiceError: No usable answer came; calling again is safe.
            OutcomeUnknownError: The webhook may exist; calling again is safe, and finds it.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        register = webhook_operations.register_webhook(
            callback_url,
            callback_api_key=callback_api_key,
            max_batch_size=max_batch_size,
            max_wait_seconds=max_wait_seconds,
            replay_from=None,
        )
        deadline = self._executor.now() + self._options.timeout
        listed = await self._execute_by(deadline, webhook_operations.list_webhooks())
        found = webhook_operations.find_webhook(listed, callback_url)
        if found is None:
            try:
                return await self._execute_by(deadline, register)
            except (InvalidRequestError, ConflictError) as duplicate:
                listed = await self._execute_by(deadline, webhook_operations.list_webhooks())
                found = webhook_operations.find_webhook(listed, callback_url)
                if found is None:
                    raise duplicate from None
        change = webhook_operations.change_to(found, register)
        return found if change is None else await self._execute_by(deadline, change)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: JSONValue = None,
        replay_safety: Literal["never", "idempotent"] = "never",
    ) -> models.RawAnswer:
        """Send a request that this release has no method for.

        With everything that the other calls have: the token and the hosts that it may go to, one deadline, exact
        numbers, errors that say what is known. The client can't know what the request does: you say what sending it
        twice would mean.

        Args:
            method: ``GET``, ``POST``, ``PUT``, ``PATCH`` or ``DELETE``. A ``GET`` is always repeated. PUT creates at
                this API: it is not repeated because of its method.
            path: Below ``base_url``, percent-encoded, with a query if need be: ``"/transaction/debit_123/status"``.
            json: The body: what JSON has, with numbers as `int` or `decimal.Decimal`. A set, bytes, a date or NaN are
                refused.
            replay_safety: ``"never"``: sent once it began to leave, never again. ``"idempotent"``: repeated while there
                is no answer. Refused for requests that the client knows to act twice.

        Returns:
            The answer, if its status is 2xx.

        Raises:
            InvalidArgumentError: An argument was refused before anything was sent; ``field`` names it.
            APIError: The API said no, in one of its subclasses.
            NotSentError: Nothing began to leave; calling again is safe.
            ServiceError: What may be repeated got no usable answer.
            OutcomeUnknownError: It began to leave and no usable answer came.
            ConfigurationError: The client is closed, or used from another event loop or after a fork.
        """
        return await self._execute(raw_operation.request(method, path, document=json, replay_safety=replay_safety))

    def capture_many(
        self,
        debit_ids: Iterable[str] | AsyncIterable[str],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        rate: float | None = None,
        ordered: bool = False,
        on_outcome: Callable[[outcomes.CaptureOutcome], None] | None = None,
    ) -> AsyncGenerator[outcomes.CaptureOutcome, None]:
        """Capture many debits, and yield the outcome of each as soon as it is known.

        ::

            async for outcome in client.capture_many(debit_ids):
                match outcome:
                    case Captured(debit_id=debit_id): ...
                    case Accepted(debit_id=debit_id): ...  # in progress: read its status later
                    case Rejected(debit_id=debit_id, error=error): ...
                    case NotSent(debit_id=debit_id, error=error): ...  # safe to retry
                    case Unknown(debit_id=debit_id, error=error): ...  # read its status before anything else

        There is exactly one outcome for each id, whatever happens to it or to others. Ids are taken one by one as they
        are needed and nothing grows with their number, so they may come from a file, a database or a queue, and without
        end; a slow consumer slows the captures.

        An id that is given twice is captured once and reported twice: with the same answer if its capture is one of the
        latest hundred, otherwise after its status was read. A status that says ``preauthorized`` is not believed
        until ``RetryPolicy.resolve_after_timeout`` has passed since the first capture: if the client's ``timeout`` ends
        before, the second outcome is `Unknown`. In a batch of a million ids, up to one new id in 30 is taken for one
        that was given before, which costs one status read.

        The pool has fewer captures in flight when the API answers 429 or 5xx, and starts none while ``Retry-After``
        lasts. When the API is dead (8 items in a row end without its answer) or rejects the token, the circuit breaker
        opens: the rest comes out as `NotSent`, but for one item every 30 seconds, whose success lets the others go on.

        Leave the loop whenever you like, by ``break``, by an exception, or by cancelling the task: no further item is
        started, and those in flight are finished. ``on_outcome`` is called with their outcomes, and the log has them as
        warnings. A second cancellation breaks them off. Cancelling waits for them, and so does closing the client;
        after a ``break``, `contextlib.aclosing` makes it happen at once. If the event loop is stopped and does not run
        again, the items in flight are reported as `Unknown` when the process ends.

        Args:
            debit_ids: From `preauthorize`: an iterable, or an async iterable.
            concurrency: The most captures in flight. More than the client's ``max_connections`` wait for a connection,
                within their timeout.
            rate: Captures started per second at most, evenly spaced; None for as many as ``concurrency`` allows.
            ordered: Whether outcomes come in the order of the ids; then up to 16 times ``concurrency`` of them wait
                for an earlier one.
            on_outcome: Called with each outcome as it happens, before it is yielded, and also with those that can't be
                yielded any more. Synchronous, quick, and best used to write it down; what it raises is logged, but
                for `SystemExit` and `KeyboardInterrupt`, which end the event loop as ever.

        Yields:
            `Captured`, `Accepted`, `Rejected`, `NotSent` or `Unknown`. The client's ``timeout`` counts for each item by
            itself, from its start; what is not resolved by then is `Unknown`.

        Raises:
            InvalidArgumentError: An argument is out of range, or one id was given instead of many; at once. An id that
                can't be one is a `NotSent`.
            ConfigurationError: The client is closed: at once, or after the items in flight.
            Exception: What ``debit_ids`` raised, after the items that were taken from it.
        """
        return self._start_batch(
            batch_operation.CaptureOperation(self._single_flight, self._executor, self._options),
            debit_ids,
            "debit_ids",
            worker_pool.BatchLimits(concurrency=concurrency, rate=rate, ordered=ordered),
            on_outcome,
        )

    def preauthorize_many(
        self,
        requests: Iterable[outcomes.PreauthorizationRequest] | AsyncIterable[outcomes.PreauthorizationRequest],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        rate: float | None = None,
        on_outcome: Callable[[outcomes.PreauthorizationOutcome], None] | None = None,
    ) -> AsyncGenerator[outcomes.PreauthorizationOutcome, None]:
        """Reserve many amounts, and yield the outcome of each as soon as it is known.

        As `capture_many`; see there. Two equal requests are two reservations.

        Args:
            requests: What to reserve: an iterable, or an async iterable.
            concurrency: The most preauthorizations in flight.
            rate: Preauthorizations started per second at most, evenly spaced; None for as many as ``concurrency``
                allows.
            on_outcome: Called with each outcome as it happens, also with those that can't be yielded any more: best
                used to store the ``debit_id``. Synchronous and quick; what it raises is logged.

        Yields:
            `Preauthorized`, `AcceptedPreauthorization`, `Rejected`, `NotSent` or `Unknown`, each with its ``request``.
            Of those that are `Unknown`, some have reserved the amount: nothing at the API could show it.

        Raises:
            InvalidArgumentError: An argument is out of range; at once. A request with a field that can't be right is a
                `NotSent`.
            ConfigurationError: The client is closed: at once, or after the items in flight.
            Exception: What ``requests`` raised, after the items that were taken from it.
        """
        return self._start_batch(
            batch_operation.PreauthorizeOperation(self._executor, self._options),
            requests,
            "requests",
            worker_pool.BatchLimits(concurrency=concurrency, rate=rate),
            on_outcome,
        )

    def charge_many(
        self,
        requests: Iterable[outcomes.ChargeRequest] | AsyncIterable[outcomes.ChargeRequest],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        rate: float | None = None,
        on_outcome: Callable[[outcomes.ChargeOutcome], None] | None = None,
    ) -> AsyncGenerator[outcomes.ChargeOutcome, None]:
        """Take many amounts at once, and yield the outcome of each as soon as it is known.

        As `capture_many`; see there. Two equal requests are two charges.

        Args:
            requests: What to charge: an iterable, or an async iterable.
            concurrency: The most charges in flight.
            rate: Charges started per second at most, evenly spaced; None for as many as ``concurrency`` allows.
            on_outcome: Called with each outcome as it happens, also with those that can't be yielded any more: best
                used to store the ``debit_id``. Synchronous and quick; what it raises is logged.

        Yields:
            `Charged`, `AcceptedCharge`, `Rejected`, `NotSent` or `Unknown`, each with its ``request``. Of those that
            are `Unknown`, some have taken the amount: nothing at the API could show it.

        Raises:
            InvalidArgumentError: An argument is out of range; at once. A request with a field that can't be right is a
                `NotSent`.
            ConfigurationError: The client is closed: at once, or after the items in flight.
            Exception: What ``requests`` raised, after the items that were taken from it.
        """
        return self._start_batch(
            batch_operation.ChargeOperation(self._executor, self._options),
            requests,
            "requests",
            worker_pool.BatchLimits(concurrency=concurrency, rate=rate),
            on_outcome,
        )

    def send_credit_many(
        self,
        requests: Iterable[outcomes.CreditRequest] | AsyncIterable[outcomes.CreditRequest],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        rate: float | None = None,
        on_outcome: Callable[[outcomes.CreditOutcome], None] | None = None,
    ) -> AsyncGenerator[outcomes.CreditOutcome, None]:
        """Send many amounts to saved bank accounts, and yield the outcome of each as soon as it is known.

        As `capture_many`; see there, and `send_credit`. Two equal requests are two payments.

        Args:
            requests: What to send: an iterable, or an async iterable.
            concurrency: The most credits in flight.
            rate: Credits started per second at most, evenly spaced; None for as many as ``concurrency`` allows.
            on_outcome: Called with each outcome as it happens, also with those that can't be yielded any more: best
                used to store the ``transaction_id``. Synchronous and quick; what it raises is logged.

        Yields:
            `CreditSent`, `Rejected`, `NotSent` or `Unknown`, each with its ``request``. Of those that are `Unknown`,
            some are on their way: nothing at the API could show it.

        Raises:
            InvalidArgumentError: An argument is out of range; at once. A request with a field that can't be right is a
                `NotSent`.
            ConfigurationError: The client is closed: at once, or after the items in flight.
            Exception: What ``requests`` raised, after the items that were taken from it.
        """
        return self._start_batch(
            batch_operation.SendCreditOperation(self._executor, self._options, self._link_amounts),
            requests,
            "requests",
            worker_pool.BatchLimits(concurrency=concurrency, rate=rate),
            on_outcome,
        )

    def with_options(self, *, timeout: float | None = None, retry: RetryPolicy | None = None) -> JetpayClient:
        """Return a client with other options on the same session.

        It is cheap: make one for a single call if you like. Closing it closes nothing; it is closed with the original.

        Args:
            timeout: Seconds for one call as a whole; unchanged if None.
            retry: The policy; unchanged if None.

        Raises:
            ConfigurationError: An option is out of range.
        """
        other = object.__new__(type(self))
        other._transport = self._transport
        other._executor = self._executor
        other._single_flight = self._single_flight
        other._clock = self._clock
        other._link_amounts = self._link_amounts
        other._pools = self._pools
        other._options = _options(
            self._options.timeout if timeout is None else timeout, self._options.retry if retry is None else retry
        )
        other._owner = False
        return other

    @property
    def closed(self) -> bool:
        """Whether it can't be used any more."""
        return self._transport.closed

    async def aclose(self) -> None:
        """Close the connections, once; a session of yours is left as it is.

        What `capture_many`, `preauthorize_many` and `charge_many` have in flight is waited for, at most as long as the
        timeout of a call. Other calls under way end with the error that is true of them: a capture whose answer is cut
        off is an `OutcomeUnknownError`.

        Raises:
            ConfigurationError: The client belongs to another event loop.
        """
        if self._owner:
            try:
                if self._pools:
                    await worker_pool.close(self._pools)
            finally:
                await self._transport.aclose()

    async def __aenter__(self) -> Self:
        if self.closed:
            raise ConfigurationError("the client is closed; make a new one")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        transport: Transport | None = getattr(self, "_transport", None)
        if transport is None:  # its constructor failed
            return "<JetpayClient incomplete>"
        return f"<JetpayClient {transport.base_url}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> str:
        raise TypeError("a JetpayClient holds a secret and connections; make one in each process")

    def _start_batch(
        self,
        operation: batch_operation.BatchOperation[_Item, _T, _Outcome],
        items: Iterable[_Item] | AsyncIterable[_Item],
        field: str,
        limits: worker_pool.BatchLimits,
        on_outcome: Callable[[_Outcome], None] | None,
    ) -> AsyncGenerator[_Outcome, None]:
        if self.closed:
            raise ConfigurationError("the client is closed; make a new one")
        pool = worker_pool.WorkerPool(
            operation,
            items,
            field=field,
            executor=self._executor,
            options=self._options,
            clock=self._clock,
            limits=limits,
            on_outcome=on_outcome,
            pools=self._pools,
        )
        return pool.outcomes()

    def _ledger_context(self) -> ClientContext:
        from jetpay_async.ledger._context import ClientContext  # noqa: PLC0415 - most clients have no ledger

        return ClientContext(
            self._single_flight, self._executor, self._options, self._clock, origin(self._transport.base_url)
        )

    async def _execute(self, call: operations.Call[_T]) -> _T:
        return await self._executor.execute(self._executor.begin(call, self._options))

    async def _execute_by(self, deadline: float, call: operations.Call[_T]) -> _T:
        """Execute one call of several that have a deadline together."""
        left = max(deadline - self._executor.now(), _SHORTEST_SECONDS)
        return await self._executor.execute(self._executor.begin(call, _options(left, self._options.retry)))


def _make_executor(
    transport: Transport, clock: Clock, on_unknown: OnUnknown | None, on_operation: OnOperation | None
) -> CallExecutor:
    if on_operation is None:
        return CallExecutor(transport, clock, on_unknown)
    # Most clients are not observed.
    from jetpay_async._core.instrumented import OperationObserver  # noqa: PLC0415

    return CallExecutor(transport, clock, on_unknown, OperationObserver(clock, on_operation))


def _options(timeout: float, retry: RetryPolicy) -> Options:
    if not isinstance(retry, RetryPolicy):
        raise ConfigurationError(f"retry: is a RetryPolicy, not {type(retry).__name__}")
    return Options(check_seconds("timeout", timeout, configuration=True), retry)
