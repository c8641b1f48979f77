"""When to send again: the policy, and one pure function that applies it."""

from __future__ import annotations

from enum import Enum

import attrs

from jetpay_async._core.backoff import exponential_backoff
from jetpay_async._core.operations import ReplaySafety
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError
from jetpay_async.telemetry import AttemptResult

__all__ = ["RetryPolicy"]


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often, and after what pauses, a request is sent again where that can't move money twice.

    What may be sent again is not a matter of policy: a read always, a capture once its status proves that the earlier
    one did nothing, any write that never began to leave. The deadline of the call (``timeout``) bounds everything.

    Attributes:
        max_attempts: How many times one request may be sent at most; 1 means never again.
        base_delay: Seconds before the second attempt; doubled for each further one.
        max_delay: Seconds that the doubling stops at. A delay is drawn from the upper half of its range, at the cap as
            well, so that clients which failed together do not come back together.
        resolve_after: Seconds after a capture got no answer until it can no longer be on its way or be worked on, where
            the connection was direct (no proxy is known of) and the *other* side lost it, or the API answered 500 or
            503 in its own JSON. Only a status read that begins later is believed when it says ``preauthorized``. The
            API's own processing limit is not documented: 5 seconds are inferred; make it longer if in doubt.
        resolve_after_timeout: The same in every other case: silence, another 5xx, an answer that is not the API's,
            anything through a proxy, and whatever this side gave up or was cancelled. It rests on the limits that
            proxies and gateways have by default for one request, 30 or 60 seconds; never less than ``resolve_after``.
        resend_rate_limited: Whether a write answered by 429 may be sent again. That the API has not processed such a
            request is inferred; say False to have `RateLimitedError` raised at once. A batch then reports an
            `Unknown`; a ledger, and the same client's next capture of that debit, read its status first.
        resend_harmless: Whether `JetpayClient.create_contact` may be sent again after no answer: at worst the account
            has the contact twice, and no money moves.

    Raises:
        ConfigurationError: A number is out of range.
    """

    max_attempts: int = 5
    base_delay: float = 0.5
    max_delay: float = 8.0
    resolve_after: float = 5.0
    resolve_after_timeout: float = 60.0
    resend_rate_limited: bool = True
    resend_harmless: bool = False

    def __attrs_post_init__(self) -> None:
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            raise ConfigurationError(f"RetryPolicy: max_attempts={self.max_attempts!r} must be an int of at least 1")
        for name in ("base_delay", "max_delay", "resolve_after", "resolve_after_timeout"):
            check_seconds(f"RetryPolicy: {name}", getattr(self, name), zero=True, configuration=True)
        if self.resolve_after_timeout < self.resolve_after:
            raise ConfigurationError(
                f"RetryPolicy: resolve_after_timeout={self.resolve_after_timeout!r} must not be less than "
                f"resolve_after={self.resolve_after!r}"
            )
        for name in ("resend_rate_limited", "resend_harmless"):
            if type(value := getattr(self, name)) is not bool:
                raise ConfigurationError(f"RetryPolicy: {name}={value!r} must be a bool")

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait after this attempt (1, 2, ...); ``chance`` is a random number in [0, 1)."""
        longest = exponential_backoff(attempt, base=self.base_delay, longest=self.max_delay)
        return longest * (0.5 + chance / 2)


class NextAction(Enum):
    """What to do next."""

    AGAIN = "send again"
    RESOLVE = "read the transaction's status"
    STOP = "stop"


@attrs.frozen
class RetryDecision:
    """What to do next, and how long to wait before it."""

    action: NextAction
    delay: float = 0.0


_STOP = RetryDecision(NextAction.STOP)


def decide(
    result: AttemptResult,
    replay_safety: ReplaySafety,
    policy: RetryPolicy,
    *,
    attempt: int,
    remaining: float,
    chance: float,
    retry_after: float | None = None,
    harmless: bool = False,
) -> RetryDecision:
    """Decide what follows an attempt without a result.

    Args:
        result: What became of it.
        replay_safety: What sending the operation twice would mean.
        policy: The caller's policy.
        attempt: Which attempt it was: 1, 2, ...
        remaining: Seconds until the deadline.
        chance: A random number in [0, 1).
        retry_after: Seconds that the service asked to wait.
        harmless: Whether sending the operation twice makes a duplicate and moves no money.
    """
    if harmless and policy.resend_harmless:
        replay_safety = ReplaySafety.IDEMPOTENT
    if result is AttemptResult.UNANSWERED and replay_safety is ReplaySafety.RESOLVE:
        return RetryDecision(NextAction.RESOLVE)
    if attempt >= policy.max_attempts or not _may_leave_again(result, replay_safety, policy):
        return _STOP
    delay = max(policy.delay(attempt, chance), retry_after or 0.0)
    return RetryDecision(NextAction.AGAIN, delay) if delay < remaining else _STOP


def _may_leave_again(result: AttemptResult, replay_safety: ReplaySafety, policy: RetryPolicy) -> bool:
    if result is AttemptResult.NOT_SENT:
        return True
    if result is AttemptResult.RATE_LIMITED:
        return replay_safety is ReplaySafety.IDEMPOTENT or policy.resend_rate_limited
    return result is AttemptResult.UNANSWERED and replay_safety is ReplaySafety.IDEMPOTENT
