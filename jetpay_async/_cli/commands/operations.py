"""Single operations on the account of ``JETPAY_API_TOKEN``.

Nothing is guessed: what a command can't know, it says in full on stderr, and again in its exit status.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from jetpay_async._cli.io.console import tell, to_json, warn
from jetpay_async._cli.io.exit_codes import ExitStatus, exit_status
from jetpay_async.client import JetpayClient
from jetpay_async.errors import InvalidArgumentError, JetpayError, OutcomeUnknownError
from jetpay_async.models import Capture, Preauthorization, TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

__all__ = ["cancel", "capture_each", "preauthorize", "status"]


def preauthorize(
    *, contact_id: str, credit_card_id: str, amount: Decimal, to_bank_account_id: str, statement: str, as_json: bool
) -> int:
    """Reserve an amount on a saved card."""

    def ask(client: JetpayClient) -> Awaitable[Preauthorization]:
        return client.preauthorize(
            contact_id=contact_id,
            credit_card_id=credit_card_id,
            amount=amount,
            to_bank_account_id=to_bank_account_id,
            statement=statement,
        )

    return _run([_ClientCall("preauthorize", None, ask)], as_json=as_json)


def capture_each(*, debit_ids: Sequence[str], as_json: bool) -> int:
    """Take the full amount of each debit, one after the other."""

    def request(debit_id: str) -> _ClientCall:
        return _ClientCall("capture", debit_id, lambda client: client.capture(debit_id))

    # A debit that is named twice is meant once.
    return _run([request(debit_id) for debit_id in dict.fromkeys(debit_ids)], as_json=as_json)


def status(*, identifier: str, as_json: bool) -> int:
    """Tell where a transaction stands."""
    request = _ClientCall("transaction_status", identifier, lambda client: client.transaction_status(identifier))
    return _run([request], as_json=as_json)


def cancel(*, identifier: str, as_json: bool) -> int:
    """Cancel a transaction."""
    request = _ClientCall("cancel_transaction", identifier, lambda client: client.cancel_transaction(identifier))
    return _run([request], as_json=as_json)


_Result: TypeAlias = Preauthorization | Capture | TransactionStatus | None


@attrs.frozen
class _ClientCall:
    operation: str
    """The client's method."""
    debit_id: str | None
    ask: Callable[[JetpayClient], Awaitable[_Result]]


def _run(calls: Sequence[_ClientCall], *, as_json: bool) -> ExitStatus:
    """Do one request after the other, and tell what became of each."""
    statuses: list[ExitStatus] = []

    def tell_unknown(error: OutcomeUnknownError) -> None:
        """Tell of an unknown outcome at once: if the command is interrupted, nobody raises it."""
        statuses.append(ExitStatus.UNKNOWN)
        _tell_error(error, as_json=as_json)

    async def run() -> None:
        async with JetpayClient.from_env(on_unknown=tell_unknown, user_agent_suffix="jetpay-cli") as client:
            for request in calls:
                try:
                    result = await request.ask(client)
                except OutcomeUnknownError:
                    continue
                except JetpayError as error:
                    statuses.append(exit_status(error))
                    _tell_error(error, as_json=as_json)
                else:
                    statuses.append(ExitStatus.DONE)
                    _tell_result(request, result, as_json=as_json)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        left = ", ".join(f"{request.operation} {request.debit_id or ''}".strip() for request in calls[len(statuses) :])
        warn(f"interrupted; not done: {left}" if left else "interrupted")
        return ExitStatus.UNKNOWN if ExitStatus.UNKNOWN in statuses else ExitStatus.INTERRUPTED
    return max(statuses)


def _tell_result(request: _ClientCall, result: _Result, *, as_json: bool) -> None:
    if not as_json:
        tell(_words(request, result))
        return
    told = {} if result is None else attrs.asdict(result, recurse=False)
    _tell_json("done", {"operation": request.operation, "debit_id": request.debit_id, **told})


def _tell_json(outcome: str, told: dict[str, Any]) -> None:
    told.pop("raw", None)
    if "elapsed" in told:
        told["elapsed"] = round(told["elapsed"], 3)
    tell(to_json({"outcome": outcome, **told}))


def _words(request: _ClientCall, result: _Result) -> str:
    match result:
        case Preauthorization():
            return (
                f"{result.debit_id}  {result.transaction_state}  {result.amount}\n"
                f"To take it: jetpay capture {shlex.quote(result.debit_id)}"
            )
        case Capture(confirmed_by_status=True):
            return f"{result.identifier}  {result.state}  (learnt from its status)"
        case Capture():
            return f"{result.identifier}  {result.state}"
        case TransactionStatus():
            reasons = [reason for reason in (result.fail_reason, result.fail_direction) if reason]
            return f"{request.debit_id}  {result.state}" + (f"  ({', '.join(reasons)})" if reasons else "")
        case _:
            return f"{request.debit_id}  cancelled"


def _tell_error(error: JetpayError, *, as_json: bool) -> None:
    if as_json:
        _tell_json(error.outcome, {"error": type(error).__name__, **vars(error)})
    if isinstance(error, OutcomeUnknownError):
        warn(_all_that_is_known(error))
    elif isinstance(error, InvalidArgumentError) and error.field in _OPTIONS:
        warn(f"argument {_OPTIONS[error.field]}: {error.message.removeprefix(f'{error.field}: ')}")
    else:
        warn(str(error))


_OPTIONS = {
    "contact_id": "--contact",
    "credit_card_id": "--card",
    "to_bank_account_id": "--to-account",
    "statement": "--statement",
    "debit_id": "DEBIT_ID",
    "identifier": "ID",
}


def _all_that_is_known(error: OutcomeUnknownError) -> str:
    """Say what a person needs to find out what became of the money."""
    started_at = error.started_at
    known = {
        **error.arguments,
        "debit": error.debit_id,
        "sent at": None if started_at is None else started_at.isoformat(timespec="milliseconds"),
        "attempts": f"{error.attempts}, in {error.elapsed:.1f} s",
        "cause": error.reason,
        "HTTP status": error.status,
        "request id": error.request_id,
        "last state": error.state,
        "next step": _next_step(error),
    }
    lines = [f"  {name:<20}{value}" for name, value in known.items() if value]
    return "\n".join((f"{error.operation}: the outcome is UNKNOWN: {error.message}", *lines))


def _next_step(error: OutcomeUnknownError) -> str:
    if error.debit_id is None:
        return error.next_step
    look = f"run `jetpay status {shlex.quote(error.debit_id)}`"
    if error.operation == "preauthorize":
        return f"{look}: the reply named this debit; do not ask again before you know what it is"
    return f"{look} until it is final; repeat only if a minute from now it still shows that nothing was done"
