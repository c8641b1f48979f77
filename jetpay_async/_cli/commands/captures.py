"""``jetpay captures``: look into a ledger, and correct it. None of this needs a token or the network."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import attrs

from jetpay_async._cli.io.console import say, to_json, warn
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._cli.io.exporter import STDOUT, as_document, choose_destination
from jetpay_async._cli.io.ledger_names import FILE, command, in_our_words
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger import DebitState, Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from jetpay_async.ledger import BatchInfo, LedgerItem

__all__ = ["export", "list_items", "retry_rejected", "status"]

_FOR_A_PERSON = (DebitState.REJECTED, DebitState.UNKNOWN)


def status(*, ledger: str, batch: str | None, as_json: bool) -> int:
    """Tell where each batch stands, or one of them."""
    with in_our_words():
        infos = asyncio.run(_batches(ledger, batch))
    if as_json:
        for info in infos:
            say(to_json(_document(info)))
    elif infos:
        say(_table([_HEADER, *map(_row, infos)]))
    else:
        say("no batch yet")
    return ExitStatus.DONE


async def _batches(ledger: str, batch: str | None) -> list[BatchInfo]:
    async with Ledger(ledger, create=False) as opened:
        if batch is not None:
            await opened.progress(batch)  # says so if there is none
        return [info for info in await opened.batches() if batch in {None, info.key}]


_COUNTS = ("total", "captured", "rejected", "unknown", "sending", "pending")
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
    """Tell of debits one by one: those that need a person, or those in the states that are asked for."""
    wanted = tuple(map(DebitState, states)) or _FOR_A_PERSON
    with in_our_words():
        asyncio.run(_list(ledger, batch, wanted, as_json=as_json))
    return ExitStatus.DONE


async def _list(ledger: str, batch: str | None, states: Sequence[DebitState], *, as_json: bool) -> None:
    found = 0
    async with Ledger(ledger, create=False) as opened:
        async for item in _items(opened, batch, states):
            found += 1
            say(to_json(as_document(item)) if as_json else _words(item, named=batch is not None))
    if not found and not as_json:
        warn(f"no debit is {' or '.join(states)}")


async def _items(ledger: Ledger, batch: str | None, states: Sequence[DebitState] | None) -> AsyncIterator[LedgerItem]:
    keys = [info.key for info in await ledger.batches()] if batch is None else [batch]
    for key in keys:
        for state in states or (None,):
            async for item in ledger.items(key, state):
                yield item


def _words(item: LedgerItem, *, named: bool) -> str:
    parts = [item.debit_id, item.state, item.transaction_state, item.reason]
    return "  ".join(part for part in (None if named else item.batch, *parts) if part)


def export(*, ledger: str, batch: str | None, states: Sequence[str], out: str, as_json: bool) -> int:
    """Write all that the ledger holds of a batch, or of all batches.

    Raises:
        ConfigurationError: The file can't be written.
    """
    destination = choose_destination(out, as_json=as_json)

    async def write() -> int:
        async with Ledger(ledger, create=False) as opened:
            return await destination.write(_items(opened, batch, [*map(DebitState, states)] or None))

    with in_our_words():
        count = asyncio.run(write())
    if out != STDOUT:
        warn(f"{count:,} debits written to {out}")
    return ExitStatus.DONE


def retry_rejected(*, ledger: str, batch: str, yes: bool, as_json: bool) -> int:
    """Put the rejected debits of a batch back among those to be captured.

    Raises:
        ConfigurationError: Nobody is there to be asked, and ``--yes`` was not given.
    """
    with in_our_words():
        return asyncio.run(_retry_refused(ledger, batch, yes=yes, as_json=as_json))


async def _retry_refused(ledger: str, batch: str, *, yes: bool, as_json: bool) -> int:
    async with Ledger(ledger, create=False) as opened:
        rejected = (await opened.progress(batch)).rejected
        if rejected and not yes and not _confirmed(f"Try {rejected:,} rejected debits of {batch} again? [y/N] "):
            warn("nothing was changed")
            return ExitStatus.INTERRUPTED
        returned = await opened.retry_rejected(batch)
    if as_json:
        say(to_json({"batch": batch, "pending_again": returned}))
    elif returned:
        say(
            f"{returned:,} debits are pending again. To capture them, run what made the batch:\n"
            f"  {command(f'capture {FILE}', ledger, batch)}"
        )
    else:
        say("no debit is rejected; nothing was changed")
    return ExitStatus.DONE


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigurationError("argument --yes: is needed where nobody can be asked; nothing was changed")
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().casefold() in {"y", "yes"}
