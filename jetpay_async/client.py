"""The client: one method for each operation."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Collection, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import jetpay_async.ledger
from jetpay_async._batch import worker_pool
from jetpay_async._batch.operation import CaptureOperation, PreauthorizeOperation
from jetpay_async._batch.worker_pool import DEFAULT_CONCURRENCY, BatchLimits, WorkerPool
from jetpay_async._core import operations
from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.endpoints import DEMO_URL, PRODUCTION_URL, check_base_url, origin
from jetpay_async._core.execution import Options
from jetpay_async._core.executor import CallExecutor
from jetpay_async._core.retry import RetryPolicy
from jetpay_async._core.secret import Secret
from jetpay_async._core.single_flight import SingleFlight
from jetpay_async._core.transport import ClientSession, Transport
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError, OutcomeUnknownError
from jetpay_async.models import Capture, Preauthorization, TransactionStatus
from jetpay_async.money import Amount
from jetpay_async.outcomes import CaptureOutcome, PreauthorizationOutcome, PreauthorizationRequest
from jetpay_async.telemetry import Operation

if TYPE_CHECKING:
    from jetpay_async._batch.operation import BatchOperation
    from jetpay_async._batch.worker_pool import AnyWorkerPool
    from jetpay_async._core.executor import OnUnknown
    from jetpay_async._core.instrumented import OnOperation

__all__ = ["DEMO_URL", "PRODUCTION_URL", "JetpayClient"]

_T = TypeVar("_T")
_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome", bound=CaptureOutcome | PreauthorizationOutcome)

DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_CONNECTIONS = 100


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
        clock: Time and chance, for tests.

    Raises:
        ConfigurationError: An argument can't work, for example a token that would go to a host that it is not for.
    """

    __slots__ = ("_clock", "_executor", "_options", "_owner", "_pools", "_single_flight", "_transport")

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
        on_operation: Callable[[Operation], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        secret = Secret(api_token)
        del api_token  # error reporters collect local variables, those of a constructor that fails too
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
        self._pools: set[AnyWorkerPool] = set()
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
        on_operation: Callable[[Operation], None] | None = None,
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

        Raises:
            ConfigurationError: ``JETPAY_API_TOKEN`` is not set, or as for the class.
        """
        if not os.environ.get("JETPAY_API_TOKEN"):
            raise ConfigurationError("JETPAY_API_TOKEN is not set; make an API token in Jetpay's dashboard")
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
        has captured, or whose capture ended as unknown, is not sent again before its status was read.

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
        return await self._single_flight.capture(debit_id, execution)

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
        from jetpay_async.ledger._context import ClientContext  # noqa: PLC0415
        from jetpay_async.ledger.durable_captures import DurableCaptures  # noqa: PLC0415

        context = ClientContext(
            self._single_flight, self._executor, self._options, self._clock, origin(self._transport.base_url)
        )
        return DurableCaptures(
            ledger,
            context,
            concurrency=concurrency,
            rate=rate,
            lease_seconds=lease_seconds,
            restored=restored,
            account=account,
            accept_rejections=accept_rejections,
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

    def capture_many(
        self,
        debit_ids: Iterable[str] | AsyncIterable[str],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        rate: float | None = None,
        ordered: bool = False,
        on_outcome: Callable[[CaptureOutcome], None] | None = None,
    ) -> AsyncGenerator[CaptureOutcome, None]:
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
        latest few hundred, otherwise after its status was read. A status that says ``preauthorized`` is not believed
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
            CaptureOperation(self._single_flight, self._executor, self._options),
            debit_ids,
            "debit_ids",
            BatchLimits(concurrency=concurrency, rate=rate, ordered=ordered),
            on_outcome,
        )

    def preauthorize_many(
        self,
        requests: Iterable[PreauthorizationRequest] | AsyncIterable[PreauthorizationRequest],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        rate: float | None = None,
        on_outcome: Callable[[PreauthorizationOutcome], None] | None = None,
    ) -> AsyncGenerator[PreauthorizationOutcome, None]:
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
            PreauthorizeOperation(self._executor, self._options),
            requests,
            "requests",
            BatchLimits(concurrency=concurrency, rate=rate),
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

        What `capture_many` and `preauthorize_many` have in flight is waited for, at most as long as the timeout of a
        call. Other calls under way end with the error that is true of them: a capture whose answer is cut off is an
        `OutcomeUnknownError`.

        Raises:
            ConfigurationError: The client belongs to another event loop.
        """
        if self._owner:
            try:
                await worker_pool.close(self._pools)
            finally:
                await self._transport.aclose()

    close = aclose

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
        operation: BatchOperation[_Item, _T, _Outcome],
        items: Iterable[_Item] | AsyncIterable[_Item],
        field: str,
        limits: BatchLimits,
        on_outcome: Callable[[_Outcome], None] | None,
    ) -> AsyncGenerator[_Outcome, None]:
        if self.closed:
            raise ConfigurationError("the client is closed; make a new one")
        pool = WorkerPool(
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

    async def _execute(self, call: operations.Call[_T]) -> _T:
        return await self._executor.execute(self._executor.begin(call, self._options))


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
