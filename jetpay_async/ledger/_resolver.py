"""Resolves debits in doubt: reads their status once no request for them can still be on its way."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING

import attrs

from jetpay_async._core import operations
from jetpay_async.errors import JetpayError, OutcomeUnknownError, ServiceError
from jetpay_async.ledger import _rows
from jetpay_async.ledger._context import run_wide_error
from jetpay_async.ledger._intents import OutcomeRecord, UnresolvedDebit
from jetpay_async.ledger.records import DebitState, Waiting
from jetpay_async.models import TransactionState
from jetpay_async.outcomes import Rejected, Unknown, captured, undone

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async._core.execution import Execution
    from jetpay_async.ledger._context import ClientContext
    from jetpay_async.ledger._recorder import Recorder
    from jetpay_async.models import Capture

# Status reads at a time.
RESOLVERS = 16

# Rounds of status reads that may fail before the outcome is recorded as unknown.
MAX_RESOLVE_ROUNDS = 3

# A debit whose requests are all lost, and proven so, is given up after this many of them, of whatever runs.
MAX_ATTEMPTS = 15

# And sooner where a run has waited for so many of them itself: each takes more than a minute.
MAX_LOST_REQUESTS = 5


class Origin(Enum):
    """Why a debit is in doubt."""

    CLAIM = "claim"
    """An earlier run, or another batch, may have sent it; it was claimed only to be resolved, and can be given back."""
    OWN_REQUEST = "own request"
    """A request of this run was not answered."""
    TAKE_OVER = "take-over"
    """It was taken over from a run that ended."""


@attrs.frozen(order=True)
class PendingResolution:
    """A debit in doubt."""

    due: float
    """When no request for it can still be on its way; monotonic."""
    debit: UnresolvedDebit = attrs.field(order=False)
    origin: Origin = attrs.field(order=False)
    rounds: int = attrs.field(default=0, order=False)


class Resolver:
    """Finds out what became of debits in doubt.

    Args:
        context: The client's.
        recorder: Takes what is found out.
        stop: Called with an error that concerns the whole run.
    """

    def __init__(self, context: ClientContext, recorder: Recorder, *, stop: Callable[[Exception], None]) -> None:
        self._context = context
        self._recorder = recorder
        self._stop_run = stop
        self._stopping = False
        self._waiting: list[PendingResolution] = []
        self._due: asyncio.Queue[PendingResolution] = asyncio.Queue()
        self._reading = 0
        self._lost: Counter[int] = Counter()

    @property
    def backlog(self) -> int:
        """Debits that are not resolved yet."""
        return len(self._waiting) + self._due.qsize() + self._reading

    @property
    def waiting(self) -> Waiting | None:
        """What can't be resolved yet; None if there is nothing."""
        if not self._waiting:
            return None
        now = self._context.clock.monotonic()
        return Waiting(debits=len(self._waiting), seconds=max(0.0, max(each.due for each in self._waiting) - now))

    def add(self, debit: UnresolvedDebit, due: float, origin: Origin) -> None:
        """Resolve a debit.

        Args:
            debit: Which.
            due: When no request for it can still be on its way, on the monotonic clock.
            origin: Why it is in doubt.
        """
        self._keep(PendingResolution(due, debit, origin))

    def release_due(self) -> None:
        """Begin to resolve what can be resolved by now."""
        now = self._context.clock.monotonic()
        while self._waiting and self._waiting[0].due <= now:
            self._due.put_nowait(heapq.heappop(self._waiting))

    def stop(self) -> None:
        """Give back what was claimed for nothing but to be resolved; the rest stays in doubt."""
        self._stopping = True
        left, self._waiting = self._waiting, []
        while not self._due.empty():
            left.append(self._due.get_nowait())
        for resolution in left:
            self._keep(resolution)

    def _keep(self, resolution: PendingResolution) -> None:
        if not self._stopping:
            heapq.heappush(self._waiting, resolution)
        elif resolution.origin is Origin.CLAIM:
            debit = resolution.debit
            self._recorder.add(
                OutcomeRecord(
                    debit.id, debit.debit_id, debit.intent, DebitState.PENDING, debit.attempts, resolve_first=True
                )
            )

    async def work(self) -> None:
        """Resolve one debit after the other."""
        while True:
            resolution = await self._due.get()
            self._reading += 1
            try:
                await self._resolve(resolution)
            except asyncio.CancelledError:
                self._keep(resolution)
                raise
            finally:
                self._reading -= 1

    async def _resolve(self, resolution: PendingResolution) -> None:
        context = self._context
        debit = resolution.debit
        execution = context.executor.begin(operations.capture(debit.debit_id), context.options)
        execution.mark_in_doubt(resolution.due)
        if debit.seen_state is not None:
            execution.seen_state = TransactionState(debit.seen_state)
        try:
            capture = await context.single_flight.resolve(execution)
        except JetpayError as error:
            self._record_failure(resolution, execution, error)
            return
        if capture is not None:
            outcome = captured(debit.debit_id, capture)
            self._recorder.add(_rows.write(debit, outcome, earlier=debit.attempts))
        elif self._is_given_up(resolution):
            message = f"not captured: each of {debit.attempts} requests was lost; trying again later is safe"
            failure = ServiceError(message, operation="capture", debit_id=debit.debit_id)
            rejected = Rejected(debit_id=debit.debit_id, request=None, error=failure)
            self._recorder.add(_rows.write(debit, rejected, earlier=debit.attempts))
        else:
            self._recorder.add(
                OutcomeRecord(debit.id, debit.debit_id, debit.intent, DebitState.PENDING, debit.attempts)
            )

    def _is_given_up(self, resolution: PendingResolution) -> bool:
        """Whether enough requests for the debit were lost."""
        if resolution.origin is Origin.OWN_REQUEST:
            self._lost[resolution.debit.id] += 1
        lost = self._lost[resolution.debit.id] >= MAX_LOST_REQUESTS or resolution.debit.attempts >= MAX_ATTEMPTS
        return lost and resolution.origin is not Origin.CLAIM

    def _record_failure(self, resolution: PendingResolution, execution: Execution[Capture], error: JetpayError) -> None:
        debit = resolution.debit
        outcome = undone(error, debit_id=debit.debit_id, request=None, trust_rate_limited=False)
        now = self._context.clock.monotonic()
        if (run_wide := run_wide_error(error)) is not None:
            self._stop_run(run_wide)
            self._keep(resolution)
        elif isinstance(outcome, Rejected):
            self._recorder.add(_rows.write(debit, outcome, earlier=debit.attempts))
        elif execution.certain_from > now:
            # This client has sent another request meanwhile, which counts too.
            self._keep(attrs.evolve(resolution, due=execution.certain_from))
        elif isinstance(error, OutcomeUnknownError) and (
            execution.seen_state is not None or resolution.rounds + 1 >= MAX_RESOLVE_ROUNDS
        ):
            unknown = Unknown(debit_id=debit.debit_id, request=None, error=error)
            record = _rows.write(debit, unknown, earlier=debit.attempts)
            self._recorder.add(attrs.evolve(record, seen_state=_rows.text(execution.seen_state)))
        else:
            due = now + self._context.options.retry.resolve_after
            self._keep(attrs.evolve(resolution, due=due, rounds=resolution.rounds + 1))
