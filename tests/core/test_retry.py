"""When to send again: the whole table of decisions, and delays that keep their jitter."""

from __future__ import annotations

import math
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetpay_async import ConfigurationError, RetryPolicy
from jetpay_async._core.operations import ReplaySafety
from jetpay_async._core.retry import NextAction, RetryDecision, decide
from jetpay_async.telemetry import AttemptResult

POLICY = RetryPolicy(max_attempts=3, base_delay=1.0, max_delay=8.0)
CAREFUL = attrs.evolve(POLICY, resend_rate_limited=False)

UNSENT, UNANSWERED, RATE_LIMITED, REJECTED = (
    AttemptResult.NOT_SENT,
    AttemptResult.UNANSWERED,
    AttemptResult.RATE_LIMITED,
    AttemptResult.REJECTED,
)
READ, RESOLVE, NEVER = ReplaySafety
again, resolve, stop = NextAction

# What happened, the operation, the policy -> what follows the first attempt, and what follows the last.
DECISIONS = [
    (UNSENT, READ, POLICY, again, stop),
    (UNSENT, RESOLVE, POLICY, again, stop),
    (UNSENT, NEVER, POLICY, again, stop),
    (UNANSWERED, READ, POLICY, again, stop),
    (UNANSWERED, RESOLVE, POLICY, resolve, resolve),
    (UNANSWERED, NEVER, POLICY, stop, stop),
    (RATE_LIMITED, READ, POLICY, again, stop),
    (RATE_LIMITED, RESOLVE, POLICY, again, stop),
    (RATE_LIMITED, NEVER, POLICY, again, stop),
    (REJECTED, READ, POLICY, stop, stop),
    (REJECTED, RESOLVE, POLICY, stop, stop),
    (REJECTED, NEVER, POLICY, stop, stop),
    (UNSENT, READ, CAREFUL, again, stop),
    (UNSENT, RESOLVE, CAREFUL, again, stop),
    (UNSENT, NEVER, CAREFUL, again, stop),
    (UNANSWERED, READ, CAREFUL, again, stop),
    (UNANSWERED, RESOLVE, CAREFUL, resolve, resolve),
    (UNANSWERED, NEVER, CAREFUL, stop, stop),
    (RATE_LIMITED, READ, CAREFUL, again, stop),
    (RATE_LIMITED, RESOLVE, CAREFUL, stop, stop),
    (RATE_LIMITED, NEVER, CAREFUL, stop, stop),
    (REJECTED, READ, CAREFUL, stop, stop),
    (REJECTED, RESOLVE, CAREFUL, stop, stop),
    (REJECTED, NEVER, CAREFUL, stop, stop),
]


def named(row: tuple[AttemptResult, ReplaySafety, RetryPolicy, NextAction, NextAction]) -> str:
    return f"{row[0].value}, {row[1].value}{', careful' if row[2] is CAREFUL else ''}"


@pytest.mark.parametrize(
    ("result", "replay_safety", "policy", "first", "last"), DECISIONS, ids=[named(row) for row in DECISIONS]
)
def test_what_follows_an_attempt(
    result: AttemptResult, replay_safety: ReplaySafety, policy: RetryPolicy, first: NextAction, last: NextAction
) -> None:
    """What may be sent again depends on what happened and on the operation, and ends with the attempts."""
    steps = [
        decide(result, replay_safety, policy, attempt=attempt, remaining=60, chance=0.5).action
        for attempt in (1, 2, 3, 4)
    ]

    assert steps == [first, first, last, last]


def test_the_table_is_complete() -> None:
    """Each way an attempt can end without a result, each kind of operation and each policy has its row, once."""
    rows = {(result, replay_safety, policy) for result, replay_safety, policy, _, _ in DECISIONS}
    without_result = set(AttemptResult) - {AttemptResult.ANSWERED, AttemptResult.CANCELLED}

    assert len(rows) == len(DECISIONS) == len(without_result) * len(ReplaySafety) * 2
    assert {result for result, _, _ in rows} == without_result


@given(
    result=st.sampled_from(AttemptResult),
    replay_safety=st.sampled_from([RESOLVE, NEVER]),
    attempt=st.integers(1, 100),
    remaining=st.floats(-10, 1000),
    chance=st.floats(0, 1, exclude_max=True),
    retry_after=st.none() | st.floats(0, 1000),
    rate_limited=st.booleans(),
)
def test_a_write_that_may_have_happened_is_never_sent_again(
    *,
    result: AttemptResult,
    replay_safety: ReplaySafety,
    attempt: int,
    remaining: float,
    chance: float,
    retry_after: float | None,
    rate_limited: bool,
) -> None:
    """A write is sent again only if it never began to leave, or was rate-limited and the policy allows that."""
    policy = RetryPolicy(max_attempts=100, resend_rate_limited=rate_limited)

    decision = decide(
        result, replay_safety, policy, attempt=attempt, remaining=remaining, chance=chance, retry_after=retry_after
    )

    if decision.action is again:
        assert result is UNSENT or (result is RATE_LIMITED and rate_limited)
        assert decision.delay < remaining


@pytest.mark.parametrize(
    ("retry_after", "remaining", "expected"),
    [
        (None, 60.0, RetryDecision(again, 0.75)),
        (0.0, 60.0, RetryDecision(again, 0.75)),
        (0.1, 60.0, RetryDecision(again, 0.75)),
        (7.0, 60.0, RetryDecision(again, 7.0)),
        (7.0, 7.1, RetryDecision(again, 7.0)),
        (7.0, 7.0, RetryDecision(stop)),
        (999999999.0, 60.0, RetryDecision(stop)),
        (None, 0.76, RetryDecision(again, 0.75)),
        (None, 0.75, RetryDecision(stop)),
        (None, 0.0, RetryDecision(stop)),
        (None, -1.0, RetryDecision(stop)),
    ],
    ids=[
        "not asked to wait",
        "asked for no wait",
        "asked for less than ours",
        "asked for more than ours",
        "just in time",
        "just too late",
        "far too late",
        "our wait just in time",
        "our wait just too late",
        "no time left",
        "past the deadline",
    ],
)
def test_a_wait_ends_before_the_deadline(retry_after: float | None, remaining: float, expected: RetryDecision) -> None:
    """The longer of the two waits is kept, and a wait that would pass the deadline is not begun."""
    decision = decide(RATE_LIMITED, READ, POLICY, attempt=1, remaining=remaining, chance=0.5, retry_after=retry_after)

    assert decision == expected


def test_resolving_does_not_wait() -> None:
    """A in_doubt capture is looked at right away; how long to wait is known when the status is."""
    assert decide(UNANSWERED, RESOLVE, POLICY, attempt=1, remaining=0.0, chance=0.9, retry_after=9.0) == RetryDecision(
        resolve
    )


# --- delays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "shortest", "longest"),
    [(1, 0.5, 1.0), (2, 1.0, 2.0), (3, 2.0, 4.0), (4, 4.0, 8.0), (5, 4.0, 8.0), (64, 4.0, 8.0), (10**9, 4.0, 8.0)],
)
def test_delays_double_up_to_the_cap_and_keep_their_jitter(attempt: int, shortest: float, longest: float) -> None:
    """A delay is drawn from the upper half of its range, at the cap as well."""
    assert POLICY.delay(attempt, 0.0) == shortest
    assert POLICY.delay(attempt, 0.5) == (shortest + longest) / 2
    assert POLICY.delay(attempt, math.nextafter(1.0, 0.0)) == pytest.approx(longest)


seconds = st.one_of(st.floats(0, 1e308), st.integers(0, 10**308), st.floats(0, 100), st.just(0))


@given(base=seconds, cap=seconds, attempt=st.integers(1, 10**6), chance=st.floats(0, 1, exclude_max=True))
def test_every_delay_stays_within_bounds(base: float, cap: float, attempt: int, chance: float) -> None:
    """Whatever the policy and the attempt, a delay is a finite number between half of its range and the cap."""
    policy = RetryPolicy(base_delay=base, max_delay=cap)

    delay = policy.delay(attempt, chance)

    assert isinstance(delay, float)
    assert min(base, cap) / 2 <= delay <= cap
    assert delay <= policy.delay(attempt + 1, chance)
    if min(base, cap) > 1e-300:
        assert policy.delay(attempt, 0.0) < policy.delay(attempt, 0.9)


# --- the policy -----------------------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    """The defaults are those of the documentation."""
    assert RetryPolicy() == RetryPolicy(
        max_attempts=5,
        base_delay=0.5,
        max_delay=8.0,
        resolve_after=5.0,
        resolve_after_timeout=60.0,
        resend_rate_limited=True,
        resend_harmless=False,
    )


REFUSED_POLICIES: list[tuple[str, Any]] = [
    *(("max_attempts", value) for value in (0, -1, 1.0, True, "3", None, math.inf)),
    *(
        (name, value)
        for name in ("base_delay", "max_delay", "resolve_after", "resolve_after_timeout")
        for value in (-0.001, -1, math.inf, -math.inf, math.nan, True, "1", None, 1j, 10**400)
    ),
    *(("resend_rate_limited", value) for value in (0, 1, None, "no")),
    *(("resend_harmless", value) for value in (0, 1, None, "no")),
]


@pytest.mark.parametrize(
    ("name", "value"), REFUSED_POLICIES, ids=[f"{name}={value!r:.20}" for name, value in REFUSED_POLICIES]
)
def test_a_policy_that_can_not_work_is_refused(name: str, value: Any) -> None:
    """A number out of range is refused where it is written, by an error that names it."""
    arguments: dict[str, Any] = {name: value}

    with pytest.raises(ConfigurationError, match=f"^RetryPolicy: {name}=.* must be ") as caught:
        RetryPolicy(**arguments)

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_attempts": 1},
        {"base_delay": 0},
        {"base_delay": 0.0, "max_delay": 0.0, "resolve_after": 0.0, "resolve_after_timeout": 0},
        {"max_delay": 10**6},
        {"base_delay": 10.0, "max_delay": 1.0},
        {"resend_rate_limited": False},
        {"resend_harmless": True},
    ],
    ids=str,
)
def test_a_policy_takes_whole_seconds_and_none(arguments: dict[str, Any]) -> None:
    """Zero means at once, and an int is a number of seconds too."""
    policy = RetryPolicy(**arguments)

    assert {name: getattr(policy, name) for name in arguments} == arguments


@pytest.mark.parametrize(
    "arguments",
    [{"resolve_after": 90}, {"resolve_after_timeout": 4.9}, {"resolve_after": 3, "resolve_after_timeout": 2}],
    ids=str,
)
def test_the_longer_time_is_never_the_shorter_one(arguments: dict[str, Any]) -> None:
    """What is not known to be over takes at least as long as what is known to be over."""
    with pytest.raises(ConfigurationError, match=r"^RetryPolicy: resolve_after_timeout=.* must not be less than "):
        RetryPolicy(**arguments)


def test_a_policy_is_a_value() -> None:
    """Policies are frozen, compare by what they say, and survive pickling."""
    changeable: Any = POLICY

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        changeable.max_attempts = 9

    assert pickle.loads(pickle.dumps(POLICY)) == POLICY
    assert len({POLICY, RetryPolicy(max_attempts=3, base_delay=1.0, max_delay=8.0), CAREFUL}) == 2
