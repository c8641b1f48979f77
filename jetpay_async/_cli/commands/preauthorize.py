"""``jetpay preauthorize``: one amount that is named on the command line or, with ``--ledger``, those of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from jetpay_async._cli.io.connection import ConnectionOptions
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

__all__ = ["DEFAULT_CONCURRENCY", "preauthorize"]

DEFAULT_CONCURRENCY = 64
"""Requests at a time, unless another number is given."""


def preauthorize(
    *,
    source: str | None,
    contact_id: str | None,
    credit_card_id: str | None,
    amount: Decimal | None,
    to_bank_account_id: str | None,
    statement: str | None,
    ledger: str | None,
    batch: str | None,
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
    """Reserve amounts.

    Raises:
        ConfigurationError: The arguments mix both forms, or are incomplete.
    """
    one: Mapping[str, object] = {
        "--contact": contact_id,
        "--card": credit_card_id,
        "--amount": amount,
        "--to-account": to_bank_account_id,
        "--statement": statement,
    }
    many: Mapping[str, object] = {
        "--ledger": ledger,
        "--batch": batch,
        "--concurrency": concurrency,
        "--rate": rate,
        "--restored": restored,
        "--account": account,
        "--accept-rejections": accept_rejections,
        "--dry-run": dry_run,
        "--out": out,
        "--raw": raw,
    }
    connection = ConnectionOptions(timeout=timeout, proxy=proxy)
    if source is None:
        _refuse(many, "needs a FILE of requests, or - for stdin")
        _require(one)
        from jetpay_async._cli.commands.operations import preauthorize as reserve  # noqa: PLC0415 - one of two forms

        return reserve(
            contact_id=cast("str", contact_id),
            credit_card_id=cast("str", credit_card_id),
            amount=cast("Decimal", amount),
            to_bank_account_id=cast("str", to_bank_account_id),
            statement=cast("str", statement),
            timeout=timeout,
            proxy=proxy,
            as_json=as_json,
        )
    _refuse(one, "is a column of the FILE; leave one of the two out")
    _require({"--ledger": ledger, "--batch": batch})
    from jetpay_async._cli.commands.batch_run import BatchRequest  # noqa: PLC0415 - one of two forms
    from jetpay_async._cli.commands.preauthorize_file import preauthorize_file  # noqa: PLC0415 - one of two forms

    return preauthorize_file(
        BatchRequest(
            source=source,
            ledger=cast("str", ledger),
            batch=cast("str", batch),
            concurrency=concurrency or DEFAULT_CONCURRENCY,
            rate=rate,
            restored=restored,
            account=account,
            accept_rejections=accept_rejections,
            out=out,
            raw=raw,
            connection=connection,
            as_json=as_json,
        ),
        dry_run=dry_run,
    )


def _refuse(options: Mapping[str, object], reason: str) -> None:
    for option, value in options.items():
        if value:
            raise ConfigurationError(f"argument {option}: {reason}")


def _require(options: Mapping[str, object]) -> None:
    missing = [option for option, value in options.items() if value is None]
    if missing:
        raise ConfigurationError(f"the following arguments are required: {', '.join(missing)}")
