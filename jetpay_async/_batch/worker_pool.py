"""A pool of workers that takes items from one iterator and streams the outcome of each.

The number of workers is fixed and each takes its next item itself, so that nothing is kept for an item but while it is
in flight or waits to be taken: memory is flat however many items come, and a slow consumer slows the pool.
"""

from __future__ import annotations

import asyncio
import atexit
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import attrs

from jetpay_async._batch.admission import AdmissionControl, Slot
from jetpay_async._batch.stream import OutcomeStream
from jetpay_async._core.execution import DEFAULT_CONCURRENCY, Execution
from jetpay_async._core.fork import ForkGuard
from jetpay_async._core.log import logger
from jetpay_async._core.operations import Call
from jetpay_async._core.validation import is_number
from jetpay_async.errors import (
    ConfigurationError,
    Context,
    InvalidArgumentError,
    JetpayError,
    NotSentError,
    OutcomeUnknownError,
)
from jetpay_async.outcomes import BatchOutcome, CreditSent, NotSent, Rejected, Unknown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from jetpay_async._batch.operation import BatchOperation
    from jetpay_async._core.clock import Clock
    from jetpay_async._core.execution import Options
    from jetpay_async._core.executor import CallExecutor

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Outcome = TypeVar("_Outcome", bound=BatchOutcome)

# How many items may begin before the outcomes of earlier ones are taken, as a multiple of the workers: one for what is
# in flight and one for what waits. In order, one slow item holds back all after it, and its reply may be many times
# slower.
AHEAD = 2
AHEAD_IN_ORDER = 16

NEXT_STEP = "Find out what became of it before asking again."


@attrs.frozen(kw_only=True)
class BatchLimits:
    """How many items of a batch are in flight, how fast they start, and in which order their outcomes come.

    Raises:
        InvalidArgumentError: A setting is out of range; ``field`` names it.
    """

    concurrency: int = DEFAULT_CONCURRENCY
    rate: float | None = None
    ordered: bool = False

    def __attrs_post_init__(self) -> None:
        if type(self.concurrency) is not int or self.concurrency < 1:
            raise InvalidArgumentError(
                f"concurrency: {self.concurrency!r} must be an int of at least 1", field="concurrency"
            )
        if self.rate is not None and not (is_number(self.rate) and self.rate > 0):
            raise InvalidArgumentError(
                f"rate: {self.rate!r} must be a number per second, more than 0 and not infinite", field="rate"
            )


@attrs.define(eq=False)
class _Worker(Generic[_Item, _Result]):
    """A worker, and the item that it is working on."""

    slot: Slot
    pending: bool = False
    """Whether there is an item whose outcome is not reported yet."""
    item: _Item | None = None
    number: int = 0
    call: Call[_Result] | None = None
    execution: Execution[_Result] | None = None


class WorkerPool(Generic[_Item, _Result, _Outcome]):
    """The workers of one batch.

    Args:
        operation: What to do with each item.
        items: The items, at most one of them taken at a time.
        field: What the caller knows the items as.
        executor: Begins the call of each item.
        options: For each call.
        clock: For the admission.
        limits: How many items at a time, how fast, and in which order.
        on_outcome: Called with each outcome as it happens.
        pools: Where the pool is listed while it runs.

    Raises:
        InvalidArgumentError: ``items`` can't be iterated over, or a setting is out of range.
    """

    def __init__(
        self,
        operation: BatchOperation[_Item, _Result, _Outcome],
        items: Iterable[_Item] | AsyncIterable[_Item],
        *,
        field: str,
        executor: CallExecutor,
        options: Options,
        clock: Clock,
        limits: BatchLimits,
        on_outcome: Callable[[_Outcome], None] | None,
        pools: set[AnyWorkerPool],
    ) -> None:
        if on_outcome is not None and not callable(on_outcome):
            raise InvalidArgumentError(f"on_outcome: {on_outcome!r} must be a function", field="on_outcome")
        self._operation = operation
        self._source = _iterate(items, field)
        self._begin = executor.begin
        self._options = options
        self._admission = AdmissionControl(limits.concurrency, rate=limits.rate, clock=clock)
        self._concurrency = limits.concurrency
        ahead = limits.concurrency * (AHEAD_IN_ORDER if limits.ordered else AHEAD)
        self._stream: OutcomeStream[_Outcome] = OutcomeStream(ordered=limits.ordered, ahead=ahead)
        self._on_outcome = on_outcome
        self._pools = pools
        self._workers: dict[asyncio.Task[None], _Worker[_Item, _Result]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fork_guard: ForkGuard | None = None
        self._source_lock = asyncio.Lock()
        # No further item is taken.
        self._ended = False
        # No item is sent that was not sent yet.
        self._halted = False
        # Nobody takes outcomes any more.
        self._left = False
        self._failure: BaseException | None = None

    def outcomes(self) -> AsyncGenerator[_Outcome, None]:
        """Start the workers when the first outcome is asked for, and yield outcomes as they come."""
        outcomes = self._generate()
        weakref.finalize(outcomes, self._on_generator_dropped).atexit = False
        return outcomes

    def halt(self) -> None:
        """Take no further item, and send none that was not sent yet."""
        self._ended = self._halted = True

    async def close(self) -> None:
        """End the batch because the client is being closed, and wait for what is in flight.

        Raises:
            asyncio.CancelledError: What was in flight has been cancelled, too.
        """
        if self._loop is asyncio.get_running_loop():
            self._fail(ConfigurationError("the client was closed before all items of the batch were started"))
            await self._finish()

    def abandon(self) -> None:
        """Report what is in flight and what was not taken: the event loop will not run again."""
        if self._belongs_to_parent:
            return
        self.halt()
        self._left = True
        for task, worker in tuple(self._workers.items()):
            # One that runs in another thread can't be closed. What it awaits may want an event loop, and there is none.
            with suppress(Exception):
                task.get_coro().close()
            self._report_abandoned(worker)
        self._log_rest()

    def _on_generator_dropped(self) -> None:
        """End the batch at once: the event loop closes the generator some steps later, in which no item may start."""
        self.halt()
        if self._loop is not None and self._loop.is_closed():
            self.abandon()

    @property
    def _belongs_to_parent(self) -> bool:
        """Whether this is a copy, in a forked child, of a pool whose items the parent goes on with."""
        return self._fork_guard is not None and self._fork_guard.forked

    async def _generate(self) -> AsyncGenerator[_Outcome, None]:
        stream = self._stream
        ready = stream.ready
        self._pools.add(self)
        _running.add(self)
        loop = self._loop = asyncio.get_running_loop()
        self._fork_guard = ForkGuard()
        for _ in range(self._concurrency):
            worker: _Worker[_Item, _Result] = _Worker(Slot(self._admission))
            task = loop.create_task(self._work(worker))
            self._workers[task] = worker
            task.add_done_callback(self._on_worker_done)
        try:
            while ready or self._workers:
                while ready:
                    yield stream.take()
                if self._workers and not ready:
                    await stream.wait()
            if self._failure is not None:
                raise self._failure
        finally:
            self._failure = None
            await self._leave()

    async def _leave(self) -> None:
        """Log what nobody takes any more, and wait for what is in flight."""
        self.halt()
        self._left = True
        try:
            self._log_rest()
            await self._finish()
        finally:
            self._pools.discard(self)
            _running.discard(self)

    async def _finish(self) -> None:
        """Wait for what is in flight; if the wait is cancelled, cancel it too."""
        for task, worker in self._workers.items():
            if not worker.slot.busy:
                task.cancel()
        interrupted: asyncio.CancelledError | None = None
        while self._workers:
            try:
                await asyncio.wait(self._workers)
            except asyncio.CancelledError as cancel:
                interrupted = cancel
                for task in self._workers:
                    task.cancel()
        if interrupted is not None:
            raise interrupted

    def _on_worker_done(self, task: asyncio.Task[None]) -> None:
        del self._workers[task]
        if task.cancelled():
            self._fail(asyncio.CancelledError("a worker of the batch was cancelled"))
        elif (error := task.exception()) is not None:
            self._fail(error)
        self._stream.wake_consumer()

    def _fail(self, error: BaseException) -> None:
        """End the batch, if it has not ended yet; the consumer gets the error after the last outcome."""
        if not self._ended:
            self._failure = error
        self._ended = True

    async def _work(self, worker: _Worker[_Item, _Result]) -> None:
        """Carry out the operation for one item after the other, and report the outcome of each, whatever happens.

        All in one coroutine: each one between this and the request would be passed for every step of the request.
        """
        operation, stream, slot = self._operation, self._stream, worker.slot
        # Asking for the type of an iterator takes longer than asking it for an item.
        source = None if isinstance(self._source, AsyncIterator) else self._source
        while not self._ended:
            if source is not None and stream.begun >= stream.may_begin:
                await stream.wait_for_room()
                continue
            try:
                item = await self._next() if source is None else next(source)
            except (StopIteration, StopAsyncIteration):
                self._ended = True
                return
            except BaseException as error:
                self._fail(error)
                raise
            worker.item, worker.number, worker.pending = item, stream.begun, True
            stream.begun += 1
            worker.call = worker.execution = None
            outcome: _Outcome | None
            try:
                call = worker.call = operation.prepare(item)
                outcome = operation.known_outcome(item, call)
                if outcome is None and not slot.enter_at_once():
                    outcome = await self._wait(item, call, slot)
                if outcome is None:
                    if self._halted:
                        raise self._not_sent(call, "the batch ended early")  # noqa: TRY301 - one place makes outcomes
                    execution = worker.execution = self._begin(call, self._options, slot.on_failure)
                    outcome = operation.conclude(item, call, await operation.execute(execution))
                    slot.leave(outcome)
            except BaseException as error:
                outcome = self._outcome_of(error, worker)
                if outcome is None:
                    raise
            self._report(worker, outcome)

    async def _next(self) -> _Item:
        source = cast("AsyncIterator[_Item]", self._source)
        async with self._source_lock:
            # Not before the lock is had: others that wait for it would take the same room.
            stream = self._stream
            while stream.begun >= stream.may_begin and not self._ended:
                await stream.wait_for_room()
            if self._ended:
                raise StopAsyncIteration
            return await anext(source)

    async def _wait(self, item: _Item, call: Call[_Result], slot: Slot) -> _Outcome | None:
        """Wait until an item may start; return its outcome if meanwhile another worker had the same call.

        Raises:
            NotSentError: The circuit breaker is open.
            OutcomeUnknownError: The same, and an earlier item was the same.
        """
        rejection = await slot.enter()
        outcome = self._operation.known_outcome(item, call)
        if outcome is not None and slot.busy:
            slot.leave(None)
        if outcome is None and rejection is not None:
            raise self._not_sent(call, f"the circuit breaker is open (last error: {rejection})") from rejection
        return outcome

    def _outcome_of(self, error: BaseException, worker: _Worker[_Item, _Result]) -> _Outcome | None:
        """Make the outcome of an item that was not carried out to its end; None if the worker ends, too.

        Then it is reported already.
        """
        slot = worker.slot
        outcome: _Outcome | None = None
        try:
            if isinstance(error, JetpayError):
                # The traceback holds the worker's frame, and that frame the outcome: a circle for each.
                outcome = self._operation.failed(cast("_Item", worker.item), error.with_traceback(None))
                if slot.busy:
                    slot.leave(outcome)
            elif isinstance(error, Exception):  # a fault that one item shows must not cost the others' outcomes
                outcome = self._interrupted(worker, f"an unexpected {type(error).__name__}", error)
                self._report(worker, outcome)
                name = self._operation.name
                logger.exception(
                    "%s %s: unexpected error; the outcome is %s",
                    *(name, _subject_of(outcome), type(outcome).__name__),
                    extra=_log_fields(name, outcome),
                )
            elif isinstance(error, GeneratorExit):
                # The event loop will not run again: nobody can be woken.
                slot.busy = False
                self._report_abandoned(worker)
            else:
                self._report(worker, self._interrupted(worker, "the batch ended early"))
        finally:
            if slot.busy:
                slot.leave(None)
        return outcome

    def _interrupted(self, worker: _Worker[_Item, _Result], reason: str, cause: Exception | None = None) -> _Outcome:
        """Make the outcome of an item that was not carried out to its end."""
        execution = worker.execution
        error: NotSentError | OutcomeUnknownError
        if execution is not None and execution.unknown:
            error = OutcomeUnknownError(
                "the request was sent but no usable response was received; it may have been processed",
                arguments=execution.call.arguments,
                state=execution.state,
                reason=reason,
                next_step=NEXT_STEP,
                operation=self._operation.name,
                debit_id=execution.call.debit_id,
                attempts=execution.attempts,
            )
        else:
            error = self._not_sent(worker.call, reason)
        error.__cause__ = cause
        return self._operation.failed(worker.item, error)  # type: ignore[arg-type] # there is one

    def _not_sent(self, call: Call[_Result] | None, reason: str) -> NotSentError | OutcomeUnknownError:
        """Make the error for an item for which nothing was sent."""
        context = Context(operation=self._operation.name, debit_id=None if call is None else call.debit_id)
        if call is None or not self._operation.may_be_done(call):
            return NotSentError(f"not sent: {reason}; safe to retry", **context)
        return OutcomeUnknownError(
            f"not sent: {reason}; but an earlier item of the batch was the same, and may have been processed",
            arguments=call.arguments,
            reason=reason,
            next_step=NEXT_STEP,
            **context,
        )

    def _report(self, worker: _Worker[_Item, _Result], outcome: _Outcome) -> None:
        """Give the outcome of an item to the consumer, or to the log if there is none any more; and to the hook."""
        if not worker.pending:
            return
        worker.pending = False
        if self._left:
            self._log_untaken(outcome)
        else:
            # Before the hook, which may raise anything.
            self._stream.put(worker.number, outcome)
        if self._on_outcome is not None:
            try:
                self._on_outcome(outcome)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the batch goes on whatever the hook does
                name = self._operation.name
                logger.exception(
                    "on_outcome failed for %s %s", name, _subject_of(outcome), extra=_log_fields(name, outcome)
                )

    def _report_abandoned(self, worker: _Worker[_Item, _Result]) -> None:
        """Report the outcome of an item whose event loop will not run again."""
        if worker.pending and not self._belongs_to_parent:
            self._left = True
            with suppress(BaseException):  # whatever the hook does, the others are reported
                self._report(worker, self._interrupted(worker, "the event loop ended"))

    def _log_rest(self) -> None:
        for outcome in self._stream.take_rest():
            self._log_untaken(outcome)

    def _log_untaken(self, outcome: _Outcome) -> None:
        name = self._operation.name
        error = f": {outcome.error}" if isinstance(outcome, Rejected | NotSent | Unknown) else ""
        logger.warning(
            "%s %s: the outcome %s was not consumed%s",
            *(name, _subject_of(outcome), type(outcome).__name__, error),
            extra=_log_fields(name, outcome),
        )


AnyWorkerPool: TypeAlias = WorkerPool[Any, Any, Any]


async def close(pools: set[AnyWorkerPool]) -> None:
    """End all pools, and wait for what they have in flight.

    Raises:
        asyncio.CancelledError: What was in flight has been cancelled, too.
    """
    while pools:
        await pools.pop().close()


_running: weakref.WeakSet[AnyWorkerPool] = weakref.WeakSet()


@atexit.register
def _abandon_running() -> None:
    """Report what is in flight when the process ends: an event loop that was stopped cancels no task."""
    for pool in tuple(_running):
        pool.abandon()


def _iterate(items: Iterable[_Item] | AsyncIterable[_Item], field: str) -> Iterator[_Item] | AsyncIterator[_Item]:
    if isinstance(items, str | bytes | bytearray | memoryview):
        raise InvalidArgumentError(f"{field}: is one {type(items).__name__}; pass a list of ids", field=field)
    # What is both, a query of Django for example, would block the loop if it were not awaited.
    if isinstance(items, AsyncIterable):
        return aiter(items)
    if isinstance(items, Iterable):
        return iter(items)
    raise InvalidArgumentError(f"{field}: is an iterable or an async iterable, not {type(items).__name__}", field=field)


def _subject_of(outcome: BatchOutcome) -> object:
    """Return the debit's id, which for a capture is what was given; for a preauthorization without one, the request."""
    request = getattr(outcome, "request", None)
    transaction_id = _transaction_of(outcome)
    return transaction_id if request is None or transaction_id else request


def _transaction_of(outcome: BatchOutcome) -> str:
    return outcome.transaction_id if isinstance(outcome, CreditSent) else outcome.debit_id


def _log_fields(operation: str, outcome: BatchOutcome) -> dict[str, str | None]:
    """Return the fields of a structured log."""
    reason = str(outcome.error) if isinstance(outcome, Rejected | NotSent | Unknown) else None
    return {"operation": operation, "debit_id": _transaction_of(outcome), "reason": reason}
