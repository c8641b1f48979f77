"""Single operations on the account of ``JETPAY_API_TOKEN``.

What a command can't know, it reports in full on stderr, and again in its exit status.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from jetpay_async._cli.io.connection import ConnectionOptions
from jetpay_async._cli.io.console import to_json, write_message, write_result
from jetpay_async._cli.io.exit_codes import ExitStatus, exit_status, gravest
from jetpay_async._text import printable
from jetpay_async.client import JetpayClient
from jetpay_async.errors import InvalidArgumentError, JetpayError, OutcomeUnknownError
from jetpay_async.models import Capture, Preauthorization, TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

__all__ = ["cancel", "capture_each", "preauthorize", "status"]


def preauthorize(
    *,
    contact_id: str,
    credit_card_id: str,
    amount: Decimal,
    to_bank_account_id: str,
    statement: str,
    timeout: float | None,
    proxy: str | None,
    as_json: bool,
) -> int:
    """Reserve an amount on a saved card."""

    def call(client: JetpayClient) -> Awaitable[Preauthorization]:
        return client.preauthorize(
            contact_id=contact_id,
            credit_card_id=credit_card_id,
            amount=amount,
            to_bank_account_id=to_bank_account_id,
            statement=statement,
        )

    connection = ConnectionOptions(timeout=timeout, proxy=proxy)
    return _run([_ClientCall("preauthorize", None, call)], connection, as_json=as_json)


def capture_each(*, debit_ids: Sequence[str], connection: ConnectionOptions, as_json: bool) -> int:
    """Capture the full amount of each debit, one after the other."""

    def request(debit_id: str) -> _ClientCall:
        return _ClientCall("capture", debit_id, lambda client: client.capture(debit_id))

    # A debit that is named twice is captured once.
    return _run([request(debit_id) for debit_id in dict.fromkeys(debit_ids)], connection, as_json=as_json)


def status(*, transaction_id: str, timeout: float | None, proxy: str | None, as_json: bool) -> int:
    """Show the state of a transaction."""
    request = _ClientCall(
        "transaction_status", transaction_id, lambda client: client.transaction_status(transaction_id)
    )
    return _run([request], ConnectionOptions(timeout=timeout, proxy=proxy), as_json=as_json)


def cancel(*, transaction_id: str, timeout: float | None, proxy: str | None, as_json: bool) -> int:
    """Cancel a transaction."""
    request = _ClientCall(
        "cancel_transaction", transaction_id, lambda client: client.cancel_transaction(transaction_id)
    )
    return _run([request], ConnectionOptions(timeout=timeout, proxy=proxy), as_json=as_json)


_Result: TypeAlias = Preauthorization | Capture | TransactionStatus | None


@attrs.frozen
class _ClientCall:
    operation: str
    """The client's method."""
    debit_id: str | None
    make: Callable[[JetpayClient], Awaitable[_Result]]


def _run(calls: Sequence[_ClientCall], connection: ConnectionOptions, *, as_json: bool) -> ExitStatus:
    """Make one call after the other, and report each outcome."""
    statuses: list[ExitStatus] = []

    def report_unknown(error: OutcomeUnknownError) -> None:
        """Report an unknown outcome at once: if the command is interrupted, no error is raised for it."""
        statuses.append(ExitStatus.UNKNOWN)
        _report_error(error, as_json=as_json)

    async def run() -> None:
        async with connection.open_client(on_unknown=report_unknown) as client:
            for call in calls:
                try:
                    result = await call.make(client)
                except OutcomeUnknownError:
                    continue
                except JetpayError as error:
                    statuses.append(exit_status(error))
                    _report_error(error, as_json=as_json)
                else:
                    statuses.append(ExitStatus.DONE if _is_final(result) else ExitStatus.ACCEPTED)
                    _report_result(call, result, as_json=as_json)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        left = ", ".join(f"{call.operation} {call.debit_id or ''}".strip() for call in calls[len(statuses) :])
        write_message(f"interrupted; not done: {left}" if left else "interrupted")
        return ExitStatus.UNKNOWN if ExitStatus.UNKNOWN in statuses else ExitStatus.INTERRUPTED
    return gravest(statuses)


def _is_final(result: _Result) -> bool:
    return not isinstance(result, Preauthorization | Capture) or result.final


def _report_result(call: _ClientCall, result: _Result, *, as_json: bool) -> None:
    if not as_json:
        write_result(_in_words(call, result))
        return
    fields = {} if result is None else attrs.asdict(result, recurse=False)
    if isinstance(result, Preauthorization | Capture):
        fields["final"] = result.final
    _write_json("done", {"operation": call.operation, "debit_id": call.debit_id, **fields})


def _write_json(outcome: str, fields: dict[str, Any]) -> None:
    fields.pop("raw", None)
    if "elapsed" in fields:
        fields["elapsed"] = round(fields["elapsed"], 3)
    write_result(to_json({"outcome": outcome, **fields}))


def _in_words(call: _ClientCall, result: _Result) -> str:
    match result:
        case Preauthorization(final=False) | Capture(final=False):
            return (
                f"{printable(result.debit_id)}  {printable(result.state)}\n"
                f"Accepted, but not final yet. To see how it ends: jetpay status {shlex.quote(result.debit_id)}"
            )
        case Preauthorization():
            return (
                f"{printable(result.debit_id)}  {printable(result.state)}  {result.amount}\n"
                f"To capture it: jetpay capture {shlex.quote(result.debit_id)}"
            )
        case Capture(confirmed_by_status=True):
            return f"{result.debit_id}  {result.state}  (confirmed by its status)"
        case Capture():
            return f"{result.debit_id}  {result.state}"
        case TransactionStatus():
            reasons = [printable(reason) for reason in (result.fail_reason, result.fail_direction) if reason]
            return f"{call.debit_id}  {printable(result.state)}" + (f"  ({', '.join(reasons)})" if reasons else "")
        case _:
            return f"{call.debit_id}  cancelled"


def _report_error(error: JetpayError, *, as_json: bool) -> None:
    if as_json:
        _write_json(error.outcome, {"error": type(error).__name__, **vars(error)})
    if isinstance(error, OutcomeUnknownError):
        write_message(_details(error), level="warning")
    elif isinstance(error, InvalidArgumentError) and error.field in _OPTIONS:
        message = error.message.removeprefix(f"{error.field}: ")
        write_message(f"argument {_OPTIONS[error.field]}: {message}", level="warning")
    else:
        write_message(str(error), level="warning")


_OPTIONS = {
    "contact_id": "--contact",
    "credit_card_id": "--card",
    "to_bank_account_id": "--to-account",
    "statement": "--statement",
    "debit_id": "DEBIT_ID",
    "identifier": "ID",
    "transaction_id": "ID",
}


def _details(error: OutcomeUnknownError) -> str:
    """Write what a person needs to find out whether the operation was processed."""
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
    lines = [f"  {name:<20}{printable(str(value))}" for name, value in known.items() if value]
    return "\n".join((f"{error.operation}: the outcome is UNKNOWN: {error.message}", *lines))


def _next_step(error: OutcomeUnknownError) -> str:
    if error.debit_id is None:
        return error.next_step
    command = f"run `jetpay status {shlex.quote(error.debit_id)}`"
    if error.operation == "preauthorize":
        return f"{command}: the response named this debit; do not repeat the request before you know its state"
    return f"{command} until it is final; repeat only if a minute from now it still shows that nothing was done"
