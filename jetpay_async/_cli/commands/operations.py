"""Single operations on the account of ``JETPAY_API_TOKEN``.

What a command can't know, it reports in full on stderr, and again in its exit status.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import attrs

from jetpay_async._cli.io.connection import ConnectionOptions
from jetpay_async._cli.io.console import to_json, write_message, write_result
from jetpay_async._cli.io.exit_codes import ExitStatus, exit_status, gravest
from jetpay_async._text import printable
from jetpay_async.client import JetpayClient
from jetpay_async.errors import InvalidArgumentError, JetpayError, OutcomeUnknownError
from jetpay_async.models import Capture, Charge, Preauthorization, TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

__all__ = ["ClientCall", "cancel", "capture_each", "preauthorize", "run_calls", "status"]


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
    return run_calls([ClientCall("preauthorize", None, call)], connection, as_json=as_json)


def capture_each(*, debit_ids: Sequence[str], connection: ConnectionOptions, as_json: bool) -> int:
    """Capture the full amount of each debit, one after the other."""

    def request(debit_id: str) -> ClientCall:
        return ClientCall("capture", debit_id, lambda client: client.capture(debit_id))

    # A debit that is named twice is captured once.
    return run_calls([request(debit_id) for debit_id in dict.fromkeys(debit_ids)], connection, as_json=as_json)


def status(*, transaction_id: str, timeout: float | None, proxy: str | None, as_json: bool) -> int:
    """Show the state of a transaction."""
    request = ClientCall("transaction_status", transaction_id, lambda client: client.transaction_status(transaction_id))
    return run_calls([request], ConnectionOptions(timeout=timeout, proxy=proxy), as_json=as_json)


def cancel(*, transaction_id: str, timeout: float | None, proxy: str | None, as_json: bool) -> int:
    """Cancel a transaction."""
    request = ClientCall("cancel_transaction", transaction_id, lambda client: client.cancel_transaction(transaction_id))
    return run_calls([request], ConnectionOptions(timeout=timeout, proxy=proxy), as_json=as_json)


@attrs.frozen
class ClientCall:
    """One call of the client, and how its result is shown."""

    operation: str
    """The client's method."""
    debit_id: str | None
    make: Callable[[JetpayClient], Awaitable[Any]]
    in_words: Callable[[Any], str] | None = None
    """Writes the result; by default as for a debit."""


def run_calls(
    calls: Sequence[ClientCall], connection: ConnectionOptions, *, as_json: bool, **options: Any
) -> ExitStatus:
    """Make one call after the other, and report each outcome.

    Args:
        calls: What to call.
        connection: How.
        as_json: Whether results are written as JSON.
        **options: Of `JetpayClient.from_env`.
    """
    statuses: list[ExitStatus] = []

    def report_unknown(error: OutcomeUnknownError) -> None:
        """Report an unknown outcome at once: if the command is interrupted, no error is raised for it."""
        statuses.append(ExitStatus.UNKNOWN)
        _report_error(error, as_json=as_json)

    async def run() -> None:
        async with connection.open_client(on_unknown=report_unknown, **options) as client:
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


def _is_final(result: object) -> bool:
    return not isinstance(result, Preauthorization | Capture | Charge) or result.final


def _report_result(call: ClientCall, result: Any, *, as_json: bool) -> None:
    if not as_json:
        write_result(_in_words(call, result) if call.in_words is None else call.in_words(result))
        return
    fields: dict[str, Any] = {"operation": call.operation}
    if call.in_words is None:
        fields["debit_id"] = call.debit_id
    if isinstance(result, tuple):
        fields["items"] = [_fields_of(item) for item in cast("Sequence[object]", result)]
    else:
        fields |= _fields_of(result)
    _write_json("done", fields)


def _fields_of(result: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {} if result is None else attrs.asdict(result, recurse=False)
    if isinstance(result, Preauthorization | Capture | Charge):
        fields["final"] = result.final
    # A secret that was given is not repeated.
    if fields.get("callback_api_key") is not None:
        fields["callback_api_key"] = "***"
    fields.pop("raw", None)
    if "elapsed" in fields:
        fields["elapsed"] = round(fields["elapsed"], 3)
    return fields


def _write_json(outcome: str, fields: dict[str, Any]) -> None:
    fields.pop("raw", None)
    if "elapsed" in fields:
        fields["elapsed"] = round(fields["elapsed"], 3)
    write_result(to_json({"outcome": outcome, **fields}))


def _in_words(call: ClientCall, result: object) -> str:
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
    "from_bank_account_id": "--from-account",
    "callback_url": "URL",
    "callback_api_key": "--api-key-file",
    "max_batch_size": "--max-batch-size",
    "max_wait_seconds": "--max-wait-seconds",
    "replay_from": "--from",
    "payer": "--email, --name",
    "email": "--email",
    "name": "--name",
    "tags": "--tag",
    "language": "--language",
    "note": "--note",
    "method": "METHOD",
    "path": "PATH",
    "json": "--data",
    "replay_safety": "--idempotent",
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
    if error.operation in {"preauthorize", "charge", "create_debit", "create_credit", "send_credit"}:
        return f"{command}: the response named this debit; do not repeat the request before you know its state"
    return f"{command} until it is final; repeat only if a minute from now it still shows that nothing was done"
