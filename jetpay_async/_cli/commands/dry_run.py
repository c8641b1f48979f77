"""``jetpay capture FILE --ledger ... --dry-run``: report what would be done. Nothing is sent, and no ledger is made."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from jetpay_async._cli.commands.batch_run import repeated
from jetpay_async._cli.io.console import to_json, write_output
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._cli.io.ledger_names import without_password
from jetpay_async._cli.io.list_files import STDIN
from jetpay_async.ledger import Ledger, LedgerNotFoundError, UnknownBatchError

if TYPE_CHECKING:
    from jetpay_async._cli.io.debit_reader import Debits
    from jetpay_async.ledger import Progress

__all__ = ["find_stored", "report_dry_run"]


async def find_stored(ledger: str, batch: str) -> Progress | None:
    """Return the progress of a batch, or None if there is no such batch; no ledger is made to find out."""
    with suppress(LedgerNotFoundError, UnknownBatchError):
        async with Ledger(ledger, create=False) as opened:
            return await opened.progress(batch)
    return None


async def report_dry_run(debits: Debits, *, source: str, ledger: str, batch: str, as_json: bool) -> ExitStatus:
    """Report what a capture of these debits would do."""
    stored, same = await find_stored(ledger, batch), 0
    if stored is not None:
        async with Ledger(ledger, create=False) as opened:
            async for item in opened.items(batch):
                same += item.debit_id in debits
    mismatch = stored is not None and not same == stored.total == debits.total
    if as_json:
        counts = None if stored is None else {**attrs.asdict(stored), "of_these": same}
        first, last = debits.ends
        facts = {
            "batch": batch,
            "total": debits.total,
            "duplicates": debits.duplicates,
            "read_from": debits.form,
            "first": first,
            "last": last,
            "stored": counts,
        }
        write_output(to_json({"event": "dry_run", "ok": not mismatch, **facts}))
    else:
        name = "stdin" if source == STDIN else source
        read = f"{name}: {debits.total:,} debits{repeated(debits.duplicates)}, read from {debits.form}"
        first, last = debits.ends
        place = f"batch {batch} in {without_password(ledger)}"
        write_output(f"{read}\nfirst: {first}\nlast:  {last}\n{place}: {_plan(debits, stored, same)}")
    return ExitStatus.USAGE if mismatch else ExitStatus.DONE


def _plan(debits: Debits, stored: Progress | None, same: int) -> str:
    if stored is None:
        return f"new; {debits.total:,} debits would be captured"
    if not same == stored.total == debits.total:
        others = stored.total - same
        return (
            f"exists with other debits: {same:,} of these {debits.total:,}, and {others:,} others; "
            "it would be refused: choose another name for another list"
        )
    left = stored.total - stored.finished
    accepted = f" and {stored.accepted:,} accepted" if stored.accepted else ""
    return (
        f"exists with these debits, {stored.captured:,} captured and {stored.rejected:,} rejected; "
        f"{left:,} would be captured, and the status of {stored.unknown:,} unknown{accepted} ones checked again"
    )
