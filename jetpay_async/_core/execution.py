"""One call while it is carried out: what is known of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import attrs

from jetpay_async._core.operations import ReplaySafety
from jetpay_async._core.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetpay_async._core.operations import Call
    from jetpay_async._core.responses import Unanswered
    from jetpay_async._core.send_guard import PreSendCheck, SendGuard
    from jetpay_async.models import TransactionState
    from jetpay_async.telemetry import Attempt, AttemptResult

_T = TypeVar("_T")

DEFAULT_CONCURRENCY = 64
"""Calls of a batch that are in flight at the same time, at most."""

OnFailure = Callable[[int | None, float | None], None]
"""Called with the HTTP status of each attempt without a result, if it had one, and the seconds that the API asked to
wait."""


@attrs.frozen(eq=False)
class Options:
    """What a call may be given differently from another of the same client."""

    timeout: float
    retry: RetryPolicy


class Execution(Generic[_T]):
    """One call on its way, and all that is known of it.

    What most calls never change is a default of the class, so that making one is quick.

    Args:
        call: What to send.
        options: Its timeout and retry policy.
        began: When it began, on the monotonic clock.
        deadline: When it ends at the latest, on the monotonic clock.
        on_failure: Called with each attempt without a result.
        pre_send_check: Asked before each attempt, besides the deadline.
        wait_until_final: Whether to read the status of what the API has accepted until it is done, or until the
            deadline.
    """

    on_accepted: Callable[[_T], None] | None = None
    """Called with the result that is followed, if one is."""
    accepted: _T | None = None
    """That result, for those who share the call."""
    followers: Sequence[Any] = ()
    """A future for each of those who wait for its answer, as `SingleFlight` makes them; nothing here needs asyncio."""
    attempts: int = 0
    attempt_began: float = 0.0
    """When the latest attempt began. Monotonic."""
    guard: SendGuard | None = None
    """Of the latest attempt."""
    in_doubt: bool = False
    """An earlier request may have been carried out, or may still be."""
    certain_from: float = -math.inf
    """A status read that begins earlier, on the monotonic clock, and says "not done" proves nothing."""
    state: TransactionState | None = None
    """What the API said last of the transaction."""
    seen_state: TransactionState | None = None
    """A state other than "not done" that the API reported once, for this call or an earlier one: from then on, nothing
    proves "not done", and nothing is sent again."""
    failure: Unanswered | None = None
    """Why there is no answer."""
    unanswered: bool = False
    """Some request for it, of this call or an earlier one, began to leave and was not answered."""
    token_renewed: bool = False
    """Whether the function that gives the token was asked again after a 401."""
    trail: tuple[Attempt, ...] = ()
    """The requests so far, where somebody observes them; the last one may be missing."""

    def __init__(  # noqa: PLR0917 - made in one place, for each call
        self,
        call: Call[_T],
        options: Options,
        began: float,
        deadline: float,
        on_failure: OnFailure | None = None,
        pre_send_check: PreSendCheck | None = None,
        wait_until_final: bool = False,  # noqa: FBT001, FBT002 - the same
    ) -> None:
        self.call = call
        self.options = options
        self.began = began
        self.deadline = deadline
        self.on_failure = on_failure
        self.pre_send_check = pre_send_check
        self.wait_until_final = wait_until_final

    def mark_in_doubt(self, certain_from: float) -> None:
        """Note that an earlier request for this call may have been carried out: read the status before sending.

        Args:
            certain_from: A status read that begins before this time, on the client's monotonic clock, and says "not
                done" proves nothing: until then the earlier request may still be on its way, or be worked on.
        """
        self.in_doubt = True
        self.unanswered = True
        self.certain_from = max(self.certain_from, certain_from)

    def note_state(self, state: TransactionState) -> None:
        """Note a state that the API reported: any but "not done" ends sending."""
        self.state = state
        states = self.call.operation.states
        if states is not None and state not in states.undone:
            self.seen_state = state

    @property
    def transaction_id(self) -> str:
        """Whose status says what became of the call; empty if no transaction is known."""
        return self.call.debit_id or (self.failure and self.failure.debit_id) or ""

    @property
    def unknown(self) -> bool:
        """Whether it would be a guess, and one that matters, to say what became of it."""
        if self.call.operation.replay_safety is ReplaySafety.IDEMPOTENT:
            return False
        return self.in_doubt or (self.guard is not None and self.guard.started)


class CallObserver(Protocol):
    """Is called for each request and for each call; it must not raise."""

    def attempt_ended(
        self, execution: Execution[_T], request: str, began: float, result: AttemptResult, status: int | None
    ) -> None:
        """Note a request of this name that ended, with the HTTP status if there was one."""
        ...

    def call_succeeded(self, execution: Execution[_T], result: object) -> None:
        """Note a call that has its result."""
        ...

    def call_undone(self, execution: Execution[_T]) -> None:
        """Note that an earlier request is proven not carried out."""
        ...

    def call_failed(self, execution: Execution[_T], error: BaseException) -> None:
        """Note a call that ended without a result."""
        ...
