"""``jetpay unresolved``: decide what became of preauthorizations, charges and credits whose outcome is unknown."""

from __future__ import annotations

import asyncio
import shlex
from functools import partial
from typing import TYPE_CHECKING

import attrs

from jetpay_async._cli.io.connection import ConnectionOptions
from jetpay_async._cli.io.console import to_json, write_message, write_output
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._cli.io.ledger_names import name_options, without_password
from jetpay_async._text import printable
from jetpay_async.ledger import Ledger, PaymentState, _repository

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jetpay_async.ledger import Candidate, LedgerPayment, OrphanReport

__all__ = ["adopt", "discard", "list_unresolved", "release", "show"]


def list_unresolved(*, ledger: str, as_json: bool) -> int:
    """List the payments that are unknown, and the debits that nothing in the ledger knows."""
    with name_options():
        payments, orphans = asyncio.run(_list(ledger))
    for payment in payments:
        write_output(to_json({"unresolved": "payment", **attrs.asdict(payment)}) if as_json else _line(payment))
    for orphan in orphans:
        write_output(
            to_json({"unresolved": "debit", **attrs.asdict(orphan)}) if as_json else f"debit  {_in_words(orphan)}"
        )
    if not payments and not orphans and not as_json:
        write_message("nothing is unresolved")
    return ExitStatus.DONE


async def _list(ledger: str) -> tuple[list[LedgerPayment], list[Candidate]]:
    async with Ledger(ledger, create=False) as opened:
        orphans = await opened.orphans()
        return [payment async for payment in opened.payments(PaymentState.UNKNOWN)], orphans


def show(*, ledger: str, reference: str, as_json: bool) -> int:
    """Show all that is known of a payment, and what may be its debit."""
    with name_options():
        payment, candidates = asyncio.run(_show(ledger, reference))
    if as_json:
        found = [attrs.asdict(candidate) for candidate in candidates]
        write_output(to_json({**attrs.asdict(payment), "candidates": found}))
    else:
        write_output("\n".join(_all_lines(payment, candidates)))
    if payment.state is not PaymentState.UNKNOWN:
        return ExitStatus.DONE
    if not as_json:
        _advise(ledger, payment, candidates)
    return ExitStatus.UNKNOWN


async def _show(ledger: str, reference: str) -> tuple[LedgerPayment, list[Candidate]]:
    async with Ledger(ledger, create=False) as opened:
        candidates = await opened.candidates(reference)
        return await opened.payment(reference), candidates


def adopt(
    *, ledger: str, reference: str, debit_id: str, timeout: float | None, proxy: str | None, as_json: bool
) -> int:
    """Read the status of a debit, and record it as the one of an unknown payment."""
    with name_options():
        payment = asyncio.run(_adopt(ledger, reference, debit_id, ConnectionOptions(timeout=timeout, proxy=proxy)))
    _write_payment(payment, as_json=as_json)
    return ExitStatus.DONE


async def _adopt(ledger: str, reference: str, debit_id: str, connection: ConnectionOptions) -> LedgerPayment:
    async with Ledger(ledger, create=False) as opened, connection.open_client() as client:
        await opened.payment(reference)  # raises if there is none
        # Another API, or another account's, has other debits of this id.
        await opened.commits.run(partial(_repository.bind, origin=connection.origin, account=None))
        status = await client.transaction_status(debit_id)
        return await opened.adopt(reference, debit_id, state=status.state)


def discard(*, ledger: str, reference: str, as_json: bool) -> int:
    """Record that nothing came of an unknown payment."""
    with name_options():
        payment = asyncio.run(_discard(ledger, reference))
    _write_payment(payment, as_json=as_json)
    return ExitStatus.DONE


async def _discard(ledger: str, reference: str) -> LedgerPayment:
    async with Ledger(ledger, create=False) as opened:
        return await opened.discard(reference)


def release(
    *,
    ledger: str,
    debit_ids: Sequence[str],
    older_than: float,
    timeout: float | None,
    proxy: str | None,
    as_json: bool,
) -> int:
    """Cancel reservations that nothing in the ledger knows."""
    wanted = set(debit_ids)
    connection = ConnectionOptions(timeout=timeout, proxy=proxy)
    with name_options():
        reports = [
            each
            for each in asyncio.run(_release(ledger, wanted, older_than, connection))
            if each.transaction_id in wanted
        ]
    for report in reports:
        why = "" if report.error is None else f": {printable(report.error)}"
        words = f"{printable(report.transaction_id)}  {report.result}, {printable(report.state)}{why}"
        write_output(to_json(report) if as_json else words)
    missing = wanted.difference(report.transaction_id for report in reports)
    for debit_id in sorted(missing):
        write_message(f"{debit_id}: is no debit that nobody knows, or was made less than {older_than:g} s ago")
    released = not missing and all(report.result == "released" for report in reports)
    return ExitStatus.DONE if released else ExitStatus.RETRYABLE


async def _release(
    ledger: str, wanted: set[str], older_than: float, connection: ConnectionOptions
) -> list[OrphanReport]:
    async with connection.open_client() as client:
        return await client.release_orphans(
            ledger, older_than=older_than, keep=lambda orphan: orphan.transaction_id not in wanted
        )


# --- in words ---------------------------------------------------------------------------------------------------------


def _write_payment(payment: LedgerPayment, *, as_json: bool) -> None:
    write_output(to_json(payment) if as_json else _line(payment))


def _line(payment: LedgerPayment) -> str:
    debit = f", {payment.transaction_id} {payment.transaction_state}" if payment.transaction_id else ""
    amount = payment.arguments.get("amount", "?")
    line = f"{payment.reference}  {payment.operation} {amount}: {payment.state}{debit}, asked {payment.intent_at}"
    return printable(line, None)


def _in_words(candidate: Candidate) -> str:
    releasing = ", being released" if candidate.releasing else ""
    return printable(f"{candidate.transaction_id}  {candidate.state}, made {candidate.created_at}{releasing}", None)


def _all_lines(payment: LedgerPayment, candidates: Sequence[Candidate]) -> Iterator[str]:
    for name, value in attrs.asdict(payment).items():
        if name == "arguments":
            yield from (f"{argument + ':':20}{printable(text)}" for argument, text in payment.arguments.items())
        elif value is not None:
            yield f"{name + ':':20}{printable(str(value))}"
    yield from (f"{'may be:':20}{_in_words(candidate)}" for candidate in candidates)


def _advise(ledger: str, payment: LedgerPayment, candidates: Sequence[Candidate]) -> None:
    options = f"--ledger {shlex.quote(without_password(ledger))} {shlex.quote(payment.reference)}"
    command = partial("jetpay unresolved {} {}".format)
    found = payment.transaction_id or (candidates[0].transaction_id if candidates else "DEBIT")
    write_message(
        "look it up at Jetpay by contact, amount and time; events have no amounts. If it is there: "
        f"{command('adopt', options)} {shlex.quote(found)}; if nothing is: {command('discard', options)}"
    )
