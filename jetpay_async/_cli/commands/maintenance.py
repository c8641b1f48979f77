"""``jetpay captures verify``, ``backup``, ``prune`` and ``resolve``: what is done with a ledger between runs."""

from __future__ import annotations

import asyncio
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from jetpay_async._cli.commands.captures import confirmed
from jetpay_async._cli.io.connection import ConnectionOptions
from jetpay_async._cli.io.console import to_json, write_message, write_output
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._cli.io.ledger_names import FILE, command_line, name_options, without_password
from jetpay_async._cli.progress.model import outcome_counts
from jetpay_async._text import printable
from jetpay_async.ledger import CapturesStoppedError, Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetpay_async.ledger import LedgerCheck, Progress, Pruned, ResolveReport

__all__ = ["backup", "prune", "resolve", "verify"]


# --- verify -----------------------------------------------------------------------------------------------------------


def verify(*, ledger: str, as_json: bool) -> int:
    """Check a ledger, and show what it holds."""
    with name_options():
        check = asyncio.run(_verify(ledger))
    if as_json:
        write_output(
            to_json(
                {
                    **attrs.asdict(check),
                    "unresolved": check.unresolved,
                    "unresolved_payments": check.payments.unresolved,
                    "ok": not check.problems,
                }
            )
        )
    else:
        write_output("\n".join(_check_in_words(check)))
    return ExitStatus.REJECTED if check.problems else ExitStatus.DONE


async def _verify(ledger: str) -> LedgerCheck:
    async with Ledger(ledger, create=False) as opened:
        return await opened.verify()


def _check_in_words(check: LedgerCheck) -> list[str]:
    debits = check.debits
    account = "" if check.account is None else f", account {check.account}"
    pruned = f" ({check.pruned_captured:,} of them of pruned batches)" if check.pruned_captured else ""
    counts = ", ".join(
        (*outcome_counts(debits), f"{debits.pending:,} pending", f"{debits.sending:,} in flight or in doubt")
    )
    lines = [
        f"schema:      version {check.schema_version}",
        f"belongs to:  {check.origin or 'nobody yet'}{account}",
        f"batches:     {check.batches:,}",
        f"debits:      {debits.total:,}: {counts}{pruned}",
        f"unresolved:  {check.unresolved:,}",
        *_payments_in_words(check),
        f"runs:        {check.runs:,} registered",
    ]
    lines.extend(f"PROBLEM:     {printable(problem)}" for problem in check.problems)
    return lines if check.problems else [*lines, "no problem was found"]


def _payments_in_words(check: LedgerCheck) -> list[str]:
    payments = check.payments
    if not payments.total:
        return []
    counts = ", ".join(f"{count:,} {state}" for state, count in attrs.asdict(payments).items() if count)
    return [
        f"references:  {payments.total:,}: {counts}",
        f"             {payments.unresolved:,} unresolved, {check.orphans:,} debits that nothing knows",
    ]


# --- backup -----------------------------------------------------------------------------------------------------------


def backup(*, ledger: str, file: str, as_json: bool) -> int:
    """Copy a ledger to a new file, also while runs are alive."""
    with name_options():
        asyncio.run(_backup(ledger, file))
    size = Path(file).stat().st_size
    if as_json:
        write_output(to_json({"file": file, "bytes": size}))
    else:
        write_output(f"{size:,} bytes written to {file}")
        write_message(
            "what is captured from now on is pending in the copy: whoever captures from it must add --restored, and "
            "whoever reserves or charges by references from it must open it with restored=True first"
        )
    return ExitStatus.DONE


async def _backup(ledger: str, file: str) -> None:
    async with Ledger(ledger, create=False) as opened:
        await opened.backup(file)


# --- prune ------------------------------------------------------------------------------------------------------------


def prune(*, ledger: str, before: float, yes: bool, as_json: bool) -> int:
    """Remove the batches that were finished before a time.

    Raises:
        ConfigurationError: Nobody can be asked for confirmation, and ``--yes`` was not given.
    """
    time = datetime.fromtimestamp(before, UTC)
    question = (
        f"Remove the batches of {without_password(ledger)} that were finished before {time:%Y-%m-%d %H:%M} UTC, "
        "but for the ids of their captured debits? [y/N] "
    )
    with name_options():
        if not yes and not confirmed(question):
            write_message("nothing was changed")
            return ExitStatus.INTERRUPTED
        pruned = asyncio.run(_prune(ledger, time))
    if as_json:
        write_output(to_json(pruned))
        return ExitStatus.DONE
    write_output(
        f"{pruned.batches:,} batches removed, with {pruned.rejected_removed:,} rejected debits; the ids of "
        f"{pruned.captured_kept:,} captured debits stay"
    )
    if pruned.unresolved_batches:
        write_message(
            f"{pruned.unresolved_batches:,} batches as old were left alone: some of their debits are not resolved"
        )
    return ExitStatus.DONE


async def _prune(ledger: str, before: datetime) -> Pruned:
    async with Ledger(ledger, create=False) as opened:
        return await opened.prune(before)


# --- resolve ----------------------------------------------------------------------------------------------------------


def resolve(
    *,
    ledger: str,
    batch: str | None,
    account: str | None,
    timeout: float | None,
    proxy: str | None,
    as_json: bool,
) -> int:
    """Read the status of accepted and unknown debits, and record what it says. Nothing is sent."""
    connection = ConnectionOptions(timeout=timeout, proxy=proxy)
    with name_options():
        keys = asyncio.run(_unresolved_batches(ledger, batch))
        try:
            reports = asyncio.run(_resolve(ledger, keys, account, connection)) if keys else []
        except CapturesStoppedError as error:
            write_message(f"stopped: {error.__cause__ or error}", level="error")
            return ExitStatus.RETRYABLE
    for report in reports:
        _write_report(report, ledger, as_json=as_json)
    if not reports and not as_json:
        write_message("no debit is accepted or unknown")
    return _status_of([report.progress for report in reports])


async def _unresolved_batches(ledger: str, batch: str | None) -> list[str]:
    async with Ledger(ledger, create=False) as opened:
        if batch is not None:
            await opened.progress(batch)  # raises if there is none
        infos = await opened.batches()
    wanted = [info for info in infos if batch in {None, info.key}]
    return [info.key for info in wanted if info.progress.accepted or info.progress.unknown]


async def _resolve(
    ledger: str, keys: Sequence[str], account: str | None, connection: ConnectionOptions
) -> list[ResolveReport]:
    async with (
        connection.open_client() as client,
        client.durable_captures(ledger, account=account) as captures,
    ):
        return [await captures.resolve(key) for key in keys]


def _write_report(report: ResolveReport, ledger: str, *, as_json: bool) -> None:
    progress = report.progress
    if as_json:
        write_output(to_json({"batch": report.key, "unread": report.unread, **attrs.asdict(progress)}))
        return
    write_output(f"{report.key}: {', '.join(outcome_counts(progress))}")
    if report.unread:
        write_message(f"{report.key}: the status of {report.unread:,} debits could not be read; -v shows why")
    if progress.unknown:
        again = command_line(f"capture {FILE}", ledger, report.key)
        write_message(
            f"{shlex.quote(report.key)}: what is unknown may have been captured, or not; to read the status again and "
            f"capture what it proves to be left: {again}"
        )


def _status_of(batches: Sequence[Progress]) -> ExitStatus:
    for name, status in (("unknown", ExitStatus.UNKNOWN), ("accepted", ExitStatus.ACCEPTED)):
        if any(getattr(progress, name) for progress in batches):
            return status
    return ExitStatus.DONE
