"""What a sandbox starts with, from a TOML file: payers, faults and webhooks."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from jetpay_async.sandbox import _documents
from jetpay_async.sandbox._cards import APPROVED
from jetpay_async.sandbox._sandbox import Sandbox  # noqa: TC001 - `typing.get_type_hints` reads it

if TYPE_CHECKING:
    from jetpay_async.sandbox._faults import DeliveryFault, Fault

__all__ = ["apply_scenario"]

_TABLES = ("payers", "faults", "delivery_faults", "webhooks")


def apply_scenario(sandbox: Sandbox, text: str) -> None:
    """Add what a scenario lists.

    Args:
        sandbox: Not started yet, or running.
        text: TOML, with the tables ``[[payers]]`` (``card_number``, ``contact_id``, ``credit_card_id``, ``email``,
            ``name``, all optional), ``[[faults]]`` (the attributes of a `Fault`), ``[[delivery_faults]]`` (those of a
            `DeliveryFault`) and ``[[webhooks]]`` (``callback_url``, ``callback_api_key``, ``max_batch_size``,
            ``max_wait_seconds``).

    Raises:
        ValueError: It is no TOML, or an entry is not valid; the message names it. Nothing was added then, except that
            a webhook may be refused when everything before it has been added.
    """
    document = tomllib.loads(text)
    for table in document:
        if table not in _TABLES:
            raise ValueError(f"{table}: is not one of {', '.join(_TABLES)}")
    payers = _read(document, "payers", lambda each: _documents.read_fields(each, _documents.PAYER_FIELDS))
    faults: list[Fault] = _read(document, "faults", _documents.fault)
    delivery_faults: list[DeliveryFault] = _read(document, "delivery_faults", _documents.delivery_fault)
    webhooks = _read(
        document,
        "webhooks",
        lambda each: _documents.read_fields(each, _documents.WEBHOOK_FIELDS, required=["callback_url"]),
    )
    for payer in payers:
        sandbox.add_payer(**{"card_number": APPROVED, **payer})
    sandbox.faults.add(*faults)
    sandbox.delivery_faults.add(*delivery_faults)
    for webhook in webhooks:
        sandbox.add_webhook(**webhook)


def _read(document: Mapping[str, Any], table: str, read: Callable[[object], Any]) -> list[Any]:
    try:
        entries = msgspec.convert(document.get(table, []), list[Any])
    except msgspec.ValidationError:
        raise ValueError(f"{table}: must be a list, written [[{table}]]") from None
    values: list[Any] = []
    for number, entry in enumerate(entries, 1):
        try:
            values.append(read(entry))
        except ValueError as error:
            raise ValueError(f"{table}, entry {number}: {error}") from None
    return values
