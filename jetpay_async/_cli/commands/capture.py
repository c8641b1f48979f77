"""``jetpay capture``: debits that are named on the command line, or, with ``--ledger``, those of a file."""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING

from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CONCURRENCY", "capture"]

CONCURRENCY = 64
"""DurableCaptures at a time, unless it is said how many."""


def capture(
    *,
    debits: Sequence[str],
    ledger: str | None,
    batch: str | None,
    concurrency: int | None,
    rate: float | None,
    dry_run: bool,
    out: str | None,
    as_json: bool,
) -> int:
    """Capture debits.

    Raises:
        ConfigurationError: The arguments are those of both forms, or of neither.
    """
    if ledger is None:
        given = {"--batch": batch, "--concurrency": concurrency, "--rate": rate, "--dry-run": dry_run, "--out": out}
        _check_ids(debits, [option for option, value in given.items() if value])
        from jetpay_async._cli.commands.operations import capture_each  # noqa: PLC0415 - either form, not both

        return capture_each(debit_ids=debits, as_json=as_json)

    if len(debits) > 1:
        raise ConfigurationError(
            f"argument FILE: with --ledger it is one file, or - for stdin, and not {len(debits)} arguments; "
            "debit ids go into the file, one a line"
        )
    if batch is None:
        raise ConfigurationError(
            "argument --batch: is needed with --ledger; it names the batch, for example 2026-11-22, and the same name "
            "again goes on with it"
        )
    from jetpay_async._cli.commands.capture_file import CaptureFileRequest, capture_file  # noqa: PLC0415 - either form, not both

    return capture_file(
        CaptureFileRequest(
            source=debits[0],
            ledger=ledger,
            batch=batch,
            concurrency=concurrency or CONCURRENCY,
            rate=rate,
            out=out,
            as_json=as_json,
        ),
        dry_run=dry_run,
    )


def _check_ids(debits: Sequence[str], options: Sequence[str]) -> None:
    """Refuse what makes sense with a ledger only: one that is forgotten is no reason to capture something else."""
    if options:
        raise ConfigurationError(f"argument {options[0]}: needs --ledger, the file that remembers every outcome")
    for debit in debits:
        if debit == "-":
            raise ConfigurationError("argument -: debit ids from stdin need --ledger and --batch")
        if os.path.isfile(debit):  # noqa: PTH113 - what can't be a path is an answer too
            raise ConfigurationError(
                f"argument {debit}: is a file; to capture the debits in it, add --ledger captures.db --batch NAME"
            )
