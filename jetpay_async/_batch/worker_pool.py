"""A pool of workers that takes items from one iterator and streams what became of each.

The number of workers is fixed and each pulls its next item itself, so that nothing is kept for an item but while it is
in shared or waits to be taken: memory is flat however many items come, and a slow consumer slows the pool.

An id that is given twice is captured once. While its first capture is under way, the second shares it (`_in_flight`);
later, a Bloom filter of fixed size tells that the id may have been there, and then the debit's status is read before
anything is sent. The filter forgets nothing; where it is mistaken, that costs one read.
"""

from __future__ import annotations

import asyncio
import math
import sys
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import attrs

from jetpay_async._batch.admission import AdmissionControl, Slot
from jetpay_async._core import operations
from jetpay_async._core.executor import Execution
from jetpay_async._core.log import logger
from jetpay_async._core.operations import Call
from jetpay_async.errors import (
    ConfigurationError,
    Context,
    InvalidArgumentError,
    JetpayError,
    NotSentError,
    OutcomeUnknownError,
)
from jetpay_async.outcomes import (
    Accepted,
    Captured,
    CaptureOutcome,
    NotSent,
    PreauthorizationOutcome,
    PreauthorizationRequest,
    Rejected,
    Unknown,
    captured,
    preauthorized,
    undone,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from jetpay_async._core.clock import Clock
    from jetpay_async._core.executor import CallExecutor, Options
    from jetpay_async._core.single_flight import SingleFlight
    from jetpay_async.models import Capture, Preauthorization

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Outcome = TypeVar("_Outcome", bound=CaptureOutcome | PreauthorizationOutcome)

DEFAULT_CONCURRENCY = 64

# How many items a pool may be ahead of what was taken from it, as a multiple of its workers: one for what is in shared
# and one for what waits. In order, one slow item holds back all after it, and its reply may be many times slower.
_AHEAD = 2
_AHEAD_IN_ORDER = 16


@attrs.frozen(kw_only=True)
class BatchLimits:
    """How a pool goes about its items.

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
        if self.rate is not None and (type(self.rate) not in {int, float} or not 0 < self.rate <= sys.float_info.max):
            raise InvalidArgumentError(
                f"rate: {self.rate!r} must be a number per second, more than 0 and not infinite", field="rate"
            )


@attrs.frozen(kw_only=True)
class BatchOperation(Generic[_Item, _Result, _Outcome]):
    """What a pool does with each of its items."""

    name: str
    prepare: Callable[[_Item], Call[_Result]]
    """Raises `InvalidArgumentError`."""
    carry: Callable[[Execution[_Result]], Coroutine[Any, Any, _Result]]
    done: Callable[[_Item, _Result], _Outcome]
    undone: Callable[[_Item, JetpayError, bool], _Outcome]
    """The last says whether a 429 means that nothing was done."""


def captures(single_flight: SingleFlight) -> BatchOperation[str, Capture, CaptureOutcome]:
    """Capture debits, each once, however often it is given."""
    seen = BloomFilter()

    def carry(execution: Execution[Capture]) -> Coroutine[Any, Any, Capture]:
        debit_id = execution.call.debit_id or ""
        if seen.add(debit_id):
            # Whatever was sent for it was given up, and waited for, before its outcome was told.
            execution.mark_in_doubt(-math.inf)
        return single_flight.capture(debit_id, execution)

    return BatchOperation(
        name="capture",
        prepare=operations.capture,
        carry=carry,
        done=captured,
        undone=lambda debit_id, error, trust: undone(error, debit_id=debit_id, request=None, trust_rate_limited=trust),
    )


def preauthorizations(
    runner: CallExecutor,
) -> BatchOperation[PreauthorizationRequest, Preauthorization, PreauthorizationOutcome]:
    """Reserve amounts, each as often as it is given."""
    return BatchOperation(
        name="preauthorize",
        prepare=_prepare_preauthorization,
        carry=runner.execute,
        done=preauthorized,
        undone=lambda request, error, trust: undone(
            error, debit_id=error.debit_id or "", request=request, trust_rate_limited=trust
        ),
    )


def _prepare_preauthorization(request: PreauthorizationRequest) -> Call[Preauthorization]:
    if not isinstance(request, PreauthorizationRequest):
        raise InvalidArgumentError(
            f"requests: an item is a PreauthorizationRequest, not {type(request).__name__}", field="requests"
        )
    return operations.preauthorize(
        contact_id=request.contact_id,
        credit_card_id=request.credit_card_id,
        amount=request.amount,
        to_bank_account_id=request.to_bank_account_id,
        statement=request.statement,
    )


_TWO_BITS = tuple(1 << one | 1 << other for one in range(8) for other in range(8))


class BloomFilter:
    """Which ids may have been seen: never forgets one, and is seldom mistaken.

    Each id sets two bits in each of two bytes. With a mebibyte of them it is mistaken about one id in 100,000 while it
    knows fewer than 100,000, about one in 30 when it knows a million, and about nearly all when it knows ten million.
    """

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray(1 << 20)

    def add(self, key: str) -> bool:
        """Note it; return whether it may have been noted before."""
        marked = self._bytes
        number = hash(key)
        one, two = number & 0xFFFFF, number >> 32 & 0xFFFFF
        bits_of_one, bits_of_two = _TWO_BITS[number >> 20 & 63], _TWO_BITS[number >> 52 & 63]
        seen = marked[one] & bits_of_one == bits_of_one and marked[two] & bits_of_two == bits_of_two
        marked[one] |= bits_of_one
        marked[two] |= bits_of_two
        return seen


class WorkerPool(Generic[_Item, _Result, _Outcome]):
    """The workers of one batch, and what they have brought so far.

    Args:
        operation: What to do with each item.
        items: The items, at most one of them taken at a time.
        field: What the caller knows them as.
        runner: Starts the clock for each.
        options: For each.
        clock: For the admission.
        pace: How fast, how many at a time and in which order.
        on_outcome: Told of each outcome as it happens.
        pools: Where the pool is listed while it is under way.

    Raises:
        InvalidArgumentError: There is no taking items from that, or a setting is out of range.
    """

    def __init__(
        self,
        operation: BatchOperation[_Item, _Result, _Outcome],
        items: Iterable[_Item] | AsyncIterable[_Item],
        *,
        field: str,
        runner: CallExecutor,
        options: Options,
        clock: Clock,
        pace: BatchLimits,
        on_outcome: Callable[[_Outcome], None] | None,
        pools: set[AnyWorkerPool],
    ) -> None:
        if on_outcome is not None and not callable(on_outcome):
            raise InvalidArgumentError(f"on_outcome: {on_outcome!r} must be a function", field="on_outcome")
        self._operation = operation
        self._source = _open(items, field)
        self._pursue = runner.begin
        self._options = options
        self._admission = AdmissionControl(pace.concurrency, rate=pace.rate, clock=clock)
        self._concurrency = pace.concurrency
        self._ahead = pace.concurrency * (_AHEAD_IN_ORDER if pace.ordered else _AHEAD)
        self._on_outcome = on_outcome
        self._pools = pools
        self._workers: dict[asyncio.Task[None], Slot] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pulling = asyncio.Lock()
        self._pulled = 0
        self._taken = 0
        self._ready: deque[_Outcome] = deque()
        # Outcomes that came before those of earlier items, by the items' numbers; None if the order is of no concern.
        self._early: dict[int, _Outcome] | None = {} if pace.ordered else None
        self._next_in_order = 0
        self._news: asyncio.Future[None] | None = None
        self._idle: deque[asyncio.Future[None]] = deque()
        self._ended = False
        self._halted = False
        self._left = False
        self._failure: BaseException | None = None

    def stream(self) -> AsyncGenerator[_Outcome, None]:
        """Set the pool to work when the first outcome is asked for, and yield outcomes as they come."""
        outcomes = self._outcomes()
        # The loop closes a generator that nobody iterates any more, but some steps later: no item is to start in them.
        weakref.finalize(outcomes, self.halt).atexit = False
        return outcomes

    def halt(self) -> None:
        """Take no further item, and start none that was taken."""
        self._ended = self._halted = True

    async def close(self) -> None:
        """End it because the client is being closed, and wait for what is in shared.

        Raises:
            asyncio.CancelledError: What was in shared has been cancelled, too.
        """
        if self._loop is asyncio.get_running_loop():
            self._fail(ConfigurationError("the client was closed before all items had their turn"))
            await self._finish()

    async def _outcomes(self) -> AsyncGenerator[_Outcome, None]:
        ready = self._ready
        self._pools.add(self)
        loop = self._loop = asyncio.get_running_loop()
        for _ in range(self._concurrency):
            slot = Slot(self._admission)
            worker = loop.create_task(self._work(slot))
            self._workers[worker] = slot
            worker.add_done_callback(self._retire)
        try:
            while ready or self._workers:
                while ready:
                    outcome = ready.popleft()
                    self._taken += 1
                    if self._idle:
                        _wake(self._idle.popleft())
                    yield outcome
                if self._workers and not ready:
                    self._news = loop.create_future()
                    await self._news
            if self._failure is not None:
                raise self._failure
        finally:
            self._failure = None
            await self._leave()

    async def _leave(self) -> None:
        """Account for what nobody takes any more."""
        self.halt()
        self._left = True
        try:
            for outcome in (*self._ready, *(self._early or {}).values()):
                self._log_untaken(outcome)
            await self._finish()
        finally:
            self._pools.discard(self)

    async def _finish(self) -> None:
        """Wait for what is in shared; cancelled meanwhile, cancel it too."""
        for worker, slot in self._workers.items():
            if not slot.busy:
                worker.cancel()
        interrupted: asyncio.CancelledError | None = None
        while self._workers:
            try:
                await asyncio.wait(self._workers)
            except asyncio.CancelledError as cancel:
                interrupted = cancel
                for worker in self._workers:
                    worker.cancel()
        if interrupted is not None:
            raise interrupted

    def _retire(self, worker: asyncio.Task[None]) -> None:
        del self._workers[worker]
        if worker.cancelled():
            self._fail(asyncio.CancelledError("a worker of the batch was cancelled"))
        elif (error := worker.exception()) is not None:
            self._fail(error)
        self._tell()

    def _fail(self, error: BaseException) -> None:
        """End it, if it has not ended yet, and have the consumer hear of it after the last outcome."""
        if not self._ended:
            self._failure = error
        self._ended = True

    async def _work(self, slot: Slot) -> None:
        source = self._source
        while not self._ended:
            if self._pulled - self._taken >= self._ahead:
                room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._idle.append(room)
                await room
                continue
            try:
                item = await self._pull(source) if isinstance(source, AsyncIterator) else next(source)
            except (StopIteration, StopAsyncIteration):
                self._ended = True
                return
            except BaseException as error:
                self._fail(error)
                raise
            number = self._pulled
            self._pulled += 1
            await self._carry(item, number, slot)

    async def _pull(self, source: AsyncIterator[_Item]) -> _Item:
        async with self._pulling:
            if self._ended:
                raise StopAsyncIteration
            return await anext(source)

    async def _carry(self, item: _Item, number: int, slot: Slot) -> None:
        """Carry out the operation for one item, and deliver its outcome, whatever happens."""
        operation = self._operation
        trust = self._options.retry.resend_rate_limited
        call: Call[_Result] | None = None
        execution: Execution[_Result] | None = None
        try:
            call = operation.prepare(item)
            # The way is clear as a rule: no need for another coroutine.
            refusal = None if slot.enter_at_once() else await slot.enter()
            if refusal is not None or self._halted:
                raise _not_tried(call, refusal) from refusal  # noqa: TRY301 - one place makes outcomes of errors
            execution = self._pursue(call, self._options, slot.on_failure)
            outcome = operation.done(item, await operation.carry(execution))
            slot.leave(outcome)
        except JetpayError as error:
            # The traceback holds this frame, and this frame the outcome: a circle for each.
            outcome = operation.undone(item, error.with_traceback(None), trust)
            if slot.busy:
                slot.leave(outcome)
        except Exception as error:  # noqa: BLE001 - a fault that one item shows must not cost the others' outcomes
            logger.exception("%s: an unexpected error", operation.name)
            broken = _broken_off(operation.name, call, execution, f"an unexpected {type(error).__name__}")
            broken.__cause__ = error
            outcome = operation.undone(item, broken, trust)
        except BaseException:
            broken = _broken_off(operation.name, call, execution, "the batch was cancelled")
            self._deliver(operation.undone(item, broken, trust), number)
            raise
        finally:
            if slot.busy:
                slot.leave(None)
        self._deliver(outcome, number)

    def _deliver(self, outcome: _Outcome, number: int) -> None:
        if self._on_outcome is not None:
            try:
                self._on_outcome(outcome)
            except Exception:  # noqa: BLE001 - the outcome must reach its consumer whatever the hook does
                logger.exception("on_outcome failed for %s", _whose(outcome))
        if self._left:
            self._log_untaken(outcome)
        elif self._early is None:
            self._ready.append(outcome)
            self._tell()
        else:
            self._early[number] = outcome
            while self._next_in_order in self._early:
                self._ready.append(self._early.pop(self._next_in_order))
                self._next_in_order += 1
            self._tell()

    def _tell(self) -> None:
        if self._news is not None:
            _wake(self._news)
            self._news = None

    def _log_untaken(self, outcome: _Outcome) -> None:
        logger.warning(
            "%s %s: %s, with nobody left to take the outcome%s",
            self._operation.name,
            _whose(outcome),
            type(outcome).__name__,
            f": {outcome.error}" if isinstance(outcome, Rejected | NotSent | Unknown) else "",
        )


AnyWorkerPool: TypeAlias = WorkerPool[Any, Any, Any]


async def close(pools: set[AnyWorkerPool]) -> None:
    """End all pools, and wait for what they have in shared.

    Raises:
        asyncio.CancelledError: What was in shared has been cancelled, too.
    """
    while pools:
        await pools.pop().close()


def _open(items: Iterable[_Item] | AsyncIterable[_Item], field: str) -> Iterator[_Item] | AsyncIterator[_Item]:
    if isinstance(items, str | bytes | bytearray | memoryview):
        raise InvalidArgumentError(f"{field}: is one {type(items).__name__}; pass a list of ids", field=field)
    # What is both, a query of Django for example, would block the loop if it were not waited for.
    if isinstance(items, AsyncIterable):
        return aiter(items)
    if isinstance(items, Iterable):
        return iter(items)
    raise InvalidArgumentError(f"{field}: is an iterable or an async iterable, not {type(items).__name__}", field=field)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _whose(outcome: CaptureOutcome | PreauthorizationOutcome) -> str:
    if outcome.debit_id or isinstance(outcome, Captured | Accepted):
        return str(outcome.debit_id)
    return repr(outcome.request)


def _not_tried(call: Call[_Result], refusal: JetpayError | None) -> NotSentError:
    why = "the batch was left" if refusal is None else f"it would be in vain, as an earlier item showed: {refusal}"
    return NotSentError(
        f"nothing was sent ({why}); calling again is safe",
        operation=call.operation.name,
        debit_id=call.debit_id,
    )


def _broken_off(
    name: str, call: Call[_Result] | None, execution: Execution[_Result] | None, reason: str
) -> NotSentError | OutcomeUnknownError:
    """Make the error for an item that ended in the middle. Of a request on its way, the log and the hook know more."""
    context = Context(
        operation=name,
        debit_id=None if call is None else call.debit_id,
        attempts=0 if execution is None else execution.attempts,
    )
    if execution is None or not execution.unknown:
        return NotSentError(f"nothing was sent ({reason}); calling again is safe", **context)
    return OutcomeUnknownError(
        "the request began to leave and its answer was not waited for: it may have been carried out",
        arguments=execution.call.arguments,
        state=execution.state,
        reason=reason,
        next_step="Find out what became of it before asking again.",
        **context,
    )
