"""What a status read proves about a request without an answer, and when; and the reads until one proves something.

A state that says that the operation is done, accepted or impossible is believed whenever it was read. "Not done" is
proof only if

- the read went out to the API (what a cache in this process answers was true at some time in the past), and it began,
  less the time that its response spent in other caches, once the request could no longer be on its way or be worked on;
- nothing that the API said before shows otherwise: a status that went forward and back comes from a replica that lags.

"The status can't be read" never means "not done".
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from jetpay_async._core.operations import transaction_status
from jetpay_async._core.responses import Unanswered
from jetpay_async.errors import (
    APIError,
    ConfigurationError,
    InvalidArgumentError,
    JetpayError,
    NotFoundError,
    RateLimitedError,
)
from jetpay_async.models import TransactionState, TransactionStatus

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async._core.execution import Execution
    from jetpay_async._core.http import RawResponse
    from jetpay_async._core.operations import Call, StatusMapping

_T = TypeVar("_T")

# Between two reads of a status, however short the delays of the policy are.
MIN_READ_INTERVAL_SECONDS = 0.05


class Proof(Enum):
    """What a status read proves about an operation."""

    DONE = "done"
    """It was carried out."""
    ACCEPTED = "accepted"
    """The API has accepted it, and has not finished it."""
    OVER = "over"
    """It was not carried out, and can't be any more."""
    NOT_DONE = "not done"
    """It was not carried out, and no earlier request for it can be carried out any more: it may be sent again."""
    NOTHING = "nothing"
    """Nothing."""


def prove(
    states: StatusMapping[_T],
    state: TransactionState,
    *,
    true_at: float | None,
    certain_from: float,
    seen_state: TransactionState | None = None,
    requested: bool = True,
) -> Proof:
    """Say what one status read proves.

    Args:
        states: What the states say about the operation.
        state: The state that was read.
        true_at: When the API can have said so at the earliest, on the monotonic clock; None if the read never left this
            process.
        certain_from: From when on no earlier request can be on its way or be worked on.
        seen_state: A state other than "not done" that the API reported before.
        requested: Whether some request may have been processed.
    """
    if true_at is None:
        return Proof.NOTHING
    if state in states.done:
        return Proof.DONE
    if state in states.over:
        return Proof.OVER
    if state in states.in_progress:
        # A preauthorization has these states, too, before it can be captured: where no request was made that could have
        # brought the transaction there, they don't show that the operation is in progress.
        return Proof.ACCEPTED if requested else Proof.NOTHING
    if state in states.undone and seen_state is None and true_at >= certain_from:
        return Proof.NOT_DONE
    return Proof.NOTHING


@attrs.frozen(eq=False)
class StatusReading:
    """One status that was read."""

    status: TransactionStatus
    true_at: float | None
    """When the API can have said so at the earliest, on the monotonic clock; None if the read never left this
    process."""


@attrs.frozen(eq=False)
class Finding:
    """How the reads of a status ended."""

    proof: Proof
    status: TransactionStatus | None = None
    """That proves it."""
    obstacle: JetpayError | None = None
    """Why reading on is useless, if that ended the reads."""


Ask = Callable[["Call[TransactionStatus]", "Execution[Any]"], Awaitable[tuple["RawResponse", TransactionStatus]]]
"""Sends one status read on behalf of an execution. Raises `Unanswered`, `APIError` or `ConfigurationError`."""


class StatusResolver:
    """Reads a transaction's status until it proves something, within the deadline of the call that it is for.

    Args:
        ask: Sends one read.
        clock: Time, chance and how to wait.
    """

    def __init__(self, ask: Ask, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock

    async def resolve(
        self,
        execution: Execution[_T],
        states: StatusMapping[_T],
        *,
        certain_from: float,
        enough_at: float = math.inf,
        max_reads: float = math.inf,
        wait_until_final: bool = False,
    ) -> Finding:
        """Read the status until it proves something.

        Args:
            execution: Whose; `Execution.note_state` is called with each state.
            states: What they say about its operation.
            certain_from: From when on no earlier request can be on its way or be worked on.
            enough_at: When to stop reading, monotonic; by default only at the deadline.
            max_reads: After how many reads to stop. If there is a limit, the outcome does not hang on the status: a
                rejection of the read ends them too.
            wait_until_final: Whether to read on where the API has accepted the operation.

        Returns:
            What was proven: nothing, where the reads ended without a proof.
        """
        policy = execution.options.retry
        requested = execution.unanswered or execution.seen_state is not None
        accepted: TransactionStatus | None = None
        reads = 0
        while True:
            reads += 1
            reading = await self._read(execution)
            if isinstance(reading, JetpayError):
                # A replica may not know the transaction yet, and what ends by itself may be tried until then.
                lasting = not isinstance(reading, NotFoundError) and enough_at == math.inf
                if lasting or max_reads < math.inf:
                    return Finding(Proof.NOTHING, obstacle=reading)
            elif reading is not None:
                execution.note_state(reading.status.state)
                proof = prove(
                    states,
                    reading.status.state,
                    true_at=reading.true_at,
                    certain_from=certain_from,
                    seen_state=execution.seen_state,
                    requested=requested,
                )
                # From then on, another state shows that somebody's request was processed.
                requested = requested or reading.status.state in states.undone
                if proof is Proof.ACCEPTED and wait_until_final:
                    accepted = reading.status
                elif proof is not Proof.NOTHING:
                    return Finding(proof, reading.status)
            now = self._clock.monotonic()
            wait = max(policy.delay(reads, self._clock.random()), MIN_READ_INTERVAL_SECONDS)
            if now < certain_from:
                wait = min(wait, certain_from - now)
            if now >= enough_at or reads >= max_reads or now + wait >= execution.deadline:
                return Finding(Proof.NOTHING) if accepted is None else Finding(Proof.ACCEPTED, accepted)
            await self._clock.sleep(wait)

    async def _read(self, execution: Execution[_T]) -> StatusReading | JetpayError | None:
        """Read the status once; return why it can't be read, or None if it can't be read at this moment."""
        try:
            response, status = await self._ask(transaction_status(execution.transaction_id), execution)
        except (Unanswered, RateLimitedError):
            return None
        except (APIError, ConfigurationError, InvalidArgumentError) as obstacle:
            return obstacle
        return StatusReading(status, None if response.left_at is None else response.left_at - response.age)
