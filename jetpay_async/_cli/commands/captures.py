"""``jetpay captures``: inspect and repair a capture ledger. None of this needs a token or the network."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import attrs

from jetpay_async._cli.io.console import to_json, write_message, write_output, write_question
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._cli.io.exporter import STDOUT, OutputFileError, as_document, choose_destination
from jetpay_async._cli.io.ledger_names import FILE, command_line, name_options
from jetpay_async._text import printable
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger import DebitState, Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from jetpay_async.ledger import BatchInfo, LedgerItem

__all__ = ["confirmed", "export", "list_items", "retry_rejected", "status"]

_NEED_ATTENTION = (DebitState.REJECTED, DebitState.UNKNOWN)


def status(*, ledger: str, batch: str | None, as_json: bool) -> int:
    """Show the progress of each batch, or of one of them."""
    with name_options():
        infos = asyncio.run(_batches(ledger, batch))
    if as_json:
        for info in infos:
            write_output(to_json(_document(info)))
    elif infos:
        write_output(_table([_HEADER, *map(_row, infos)]))
    else:
        write_output("no batch yet")
    return ExitStatus.DONE


async def _batches(ledger: str, batch: str | None) -> list[BatchInfo]:
    async with Ledger(ledger, create=False) as opened:
        if batch is not None:
            await opened.progress(batch)  # raises if there is none
        return [info for info in await opened.batches() if batch in {None, info.key}]


_COUNTS = ("total", "captured", "accepted", "rejected", "unknown", "sending", "pending")
_HEADER = ["BATCH", "SUBMITTED (UTC)", *(name.upper() for name in _COUNTS), ""]


def _row(info: BatchInfo) -> list[str]:
    numbers = (f"{getattr(info.progress, name):,}" for name in _COUNTS)
    state = "complete" if info.progress.complete else f"{info.progress.finished / info.progress.total:.0%} done"
    return [info.key, f"{info.submitted_at:%Y-%m-%d %H:%M:%S}", *numbers, state]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = range(2, 2 + len(_COUNTS))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _document(info: BatchInfo) -> dict[str, object]:
    return {
        "batch": info.key,
        "submitted_at": info.submitted_at,
        "finished_at": info.finished_at,
        **attrs.asdict(info.progress),
        "complete": info.progress.complete,
    }


def list_items(*, ledger: str, batch: str | None, states: Sequence[str], as_json: bool) -> int:
    """List debits: those that need attention, or those in the given states."""
    wanted = tuple(map(DebitState, states)) or _NEED_ATTENTION
    with name_options():
        asyncio.run(_list(ledger, batch, wanted, as_json=as_json))
    return ExitStatus.DONE


async def _list(ledger: str, batch: str | None, states: Sequence[DebitState], *, as_json: bool) -> None:
    found = 0
    async with Ledger(ledger, create=False) as opened:
        async for item in _items(opened, batch, states):
            found += 1
            if not write_output(to_json(as_document(item)) if as_json else _line(item, with_batch=batch is None)):
                return  # nobody reads the rest
    if not found and not as_json:
        write_message(f"no debit is {' or '.join(states)}")


async def _items(ledger: Ledger, batch: str | None, states: Sequence[DebitState] | None) -> AsyncIterator[LedgerItem]:
    keys = [info.key for info in await ledger.batches()] if batch is None else [batch]
    for key in keys:
        for state in states or (None,):
            async for item in ledger.items(key, state):
                yield item


def _line(item: LedgerItem, *, with_batch: bool) -> str:
    parts = [item.batch if with_batch else None, item.debit_id, item.state, item.transaction_state, item.reason]
    return "  ".join(printable(part) for part in parts if part)


def export(*, ledger: str, batch: str | None, states: Sequence[str], out: str, raw: bool, as_json: bool) -> int:
    """Write everything that the ledger holds of a batch, or of all batches."""
    destination = choose_destination(out, ledger=ledger, as_json=as_json, raw=raw)

    async def write() -> int:
        async with Ledger(ledger, create=False) as opened:
            return await destination.write(_items(opened, batch, [*map(DebitState, states)] or None))

    try:
        with name_options():
            count = asyncio.run(write())
    except OutputFileError as error:
        write_message(str(error))
        return ExitStatus.OUTPUT_FAILED
    if out != STDOUT:
        write_message(f"{count:,} debits written to {out}")
    return ExitStatus.DONE


def retry_rejected(*, ledger: str, batch: str, yes: bool, as_json: bool) -> int:
    """Return the rejected debits of a batch to pending.

    Raises:
        ConfigurationError: Nobody can be asked for confirmation, and ``--yes`` was not given.
    """
    with name_options():
        return asyncio.run(_retry_rejected(ledger, batch, yes=yes, as_json=as_json))


async def _retry_rejected(ledger: str, batch: str, *, yes: bool, as_json: bool) -> int:
    async with Ledger(ledger, create=False) as opened:
        rejected = (await opened.progress(batch)).rejected
        if rejected and not yes and not confirmed(f"Try {rejected:,} rejected debits of {batch} again? [y/N] "):
            write_message("nothing was changed")
            return ExitStatus.INTERRUPTED
        returned = await opened.retry_rejected(batch)
    if as_json:
        write_output(to_json({"batch": batch, "pending_again": returned}))
    elif returned:
        write_output(
            f"{returned:,} debits are pending again. To capture them, repeat the command that captured the batch:\n"
            f"  {command_line(f'capture {FILE}', ledger, batch)}"
        )
    else:
        write_output("no debit is rejected; nothing was changed")
    return ExitStatus.DONE


def confirmed(question: str) -> bool:
    """Ask a person.

    Raises:
        ConfigurationError: Nobody is there.
    """
    if not sys.stdin.isatty() or not write_question(question):
        raise ConfigurationError("argument --yes: required where nobody can be asked; nothing was changed")
    return sys.stdin.readline().strip().casefold() in {"y", "yes"}
