"""A client whose operations are reported, and what is compared of the reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from jetpay_async import (
    AttemptResult,
    JetpayClient,
    Operation,
    OutcomeUnknownError,
    RetryPolicy,
)
from jetpay_async._core.clock import Clock
from tests.loopback import DEBIT_ID, Act, Loopback, replies
from tests.network import FAST, TOKEN, preauthorize

ANSWERED = AttemptResult.ANSWERED
REJECTED = AttemptResult.REJECTED
RATE_LIMITED = AttemptResult.RATE_LIMITED
UNANSWERED = AttemptResult.UNANSWERED
NOT_SENT = AttemptResult.NOT_SENT
CANCELLED = AttemptResult.CANCELLED

OPERATIONS: dict[str, Callable[[JetpayClient], Awaitable[object]]] = {
    "preauthorize": preauthorize,
    "capture": lambda client: client.capture(DEBIT_ID),
    "cancel_transaction": lambda client: client.cancel_transaction(DEBIT_ID),
    "transaction_status": lambda client: client.transaction_status(DEBIT_ID),
}

Row = tuple[str, AttemptResult, int | None]

STATUS_READ = ("transaction_status", ANSWERED, 200)


def watched(
    server: Loopback,
    on_operation: Callable[[Operation], None],
    *,
    timeout: float = 2.0,
    retry: RetryPolicy = FAST,
    clock: Clock | None = None,
    on_unknown: Callable[[OutcomeUnknownError], None] | None = None,
) -> JetpayClient:
    return JetpayClient(
        TOKEN,
        base_url=server.url,
        timeout=timeout,
        retry=retry,
        on_unknown=on_unknown,
        on_operation=on_operation,
        clock=clock or Clock(),
    )


def status(state: str) -> Act:
    return replies(200, {"state": state})


def rows(operation: Operation) -> list[Row]:
    """Of each attempt, what was asked, and what came of it."""
    return [(attempt.request, attempt.result, attempt.status) for attempt in operation.attempts]


async def ended(call: Awaitable[object]) -> BaseException | None:
    """Whatever the call ended by, cancellation included."""
    try:
        await call
    except BaseException as error:  # noqa: BLE001 - all of them are reported
        return error
    return None
