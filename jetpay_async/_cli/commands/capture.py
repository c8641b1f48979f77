"""``jetpay capture``: debits that are named on the command line or, with ``--ledger``, those of a file."""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING

from jetpay_async._cli.io.connection import ConnectionOptions
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DEFAULT_CONCURRENCY", "capture"]

DEFAULT_CONCURRENCY = 64
"""Captures at a time, unless another number is given."""


def capture(
    *,
    debits: Sequence[str],
    ledger: str | None,
    batch: str | None,
    column: str | None,
    concurrency: int | None,
    rate: float | None,
    restored: bool,
    account: str | None,
    accept_rejections: bool,
    dry_run: bool,
    out: str | None,
    raw: bool,
    timeout: float | None,
    proxy: str | None,
    as_json: bool,
) -> int:
    """Capture debits.

    Raises:
        ConfigurationError: The arguments mix both forms, or are incomplete.
    """
    if ledger is None:
        given = {
            "--batch": batch,
            "--column": column,
            "--concurrency": concurrency,
            "--rate": rate,
            "--restored": restored,
            "--account": account,
            "--accept-rejections": accept_rejections,
            "--dry-run": dry_run,
            "--out": out,
            "--raw": raw,
        }
        _check_ids(debits, [option for option, value in given.items() if value])
        from jetpay_async._cli.commands.operations import capture_each  # noqa: PLC0415 - one of two forms

        return capture_each(
            debit_ids=debits, connection=ConnectionOptions(timeout=timeout, proxy=proxy), as_json=as_json
        )

    if len(debits) > 1:
        raise ConfigurationError(
            f"argument FILE: with --ledger, give one file, or - for stdin, and not {len(debits)} arguments; "
            "the debit ids belong in the file, one per line"
        )
    if batch is None:
        raise ConfigurationError(
            "argument --batch: required with --ledger; it names the batch, for example 2026-11-22, and the same name "
            "continues it"
        )
    from jetpay_async._cli.commands.capture_file import (  # noqa: PLC0415 - one of two forms
        CaptureFileRequest,
        capture_file,
    )

    return capture_file(
        CaptureFileRequest(
            source=debits[0],
            ledger=ledger,
            batch=batch,
            column=column,
            concurrency=concurrency or DEFAULT_CONCURRENCY,
            rate=rate,
            restored=restored,
            account=account,
            accept_rejections=accept_rejections,
            out=out,
            raw=raw,
            connection=ConnectionOptions(timeout=timeout, proxy=proxy),
            as_json=as_json,
        ),
        dry_run=dry_run,
    )


def _check_ids(debits: Sequence[str], options: Sequence[str]) -> None:
    """Reject options that need a ledger: a forgotten one must not lead to other captures."""
    if options:
        raise ConfigurationError(f"argument {options[0]}: needs --ledger, which records every outcome")
    for debit in debits:
        if debit == "-":
            raise ConfigurationError("argument -: debit ids from stdin need --ledger and --batch")
        if os.path.isfile(debit):  # noqa: PTH113 - what can't be a path is an answer too
            raise ConfigurationError(
                f"argument {debit}: is a file; to capture the debits in it, add --ledger captures.db --batch NAME"
            )
