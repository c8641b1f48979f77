"""The whole state of a sandbox as one JSON document, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import attrs
import msgspec

from jetpay_async._core import contract
from jetpay_async.sandbox import _documents
from jetpay_async.sandbox._api import TokenScope
from jetpay_async.sandbox._deliveries import DeliveryAttempt
from jetpay_async.sandbox._faults import ActiveFault
from jetpay_async.sandbox._field_types import FieldRejectedError, read_amount, read_url
from jetpay_async.sandbox._keys import KeyRing
from jetpay_async.sandbox._limits import MOST_SECONDS_AHEAD, check_number
from jetpay_async.sandbox._state import (
    CreditCard,
    SandboxBankAccount,
    SandboxCardForm,
    SandboxContact,
    SandboxEvent,
    Transaction,
)
from jetpay_async.sandbox._webhooks import WebhookRegistration

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async.models import JSONValue
    from jetpay_async.sandbox._faults import DeliveryFault, Fault, Faults
    from jetpay_async.sandbox._parts import Parts

__all__ = ["ACCOUNT", "restore", "take"]

_FORMAT = "jetpay_sandbox/1"

_LAST_SECOND = 253_402_300_799  # of the year 9999
# They are drawn again, one by one.
_DRAWS = Annotated[int, msgspec.Meta(ge=0, le=10**9)]

_MOMENT = Annotated[datetime, msgspec.Meta(tz=True)]

_F = TypeVar("_F", "Fault", "DeliveryFault")

ACCOUNT: Mapping[str, Any] = {
    "contacts": dict[str, SandboxContact],
    "credit_cards": dict[str, CreditCard],
    "bank_accounts": dict[str, SandboxBankAccount],
    "transactions": dict[str, Transaction],
    "_overridden": set[str],
    "_card_forms": dict[str, SandboxCardForm],
    "captured_twice": dict[str, None],
}
"""The attributes of an `Account` that are kept as they are, and their types."""


def take(parts: Parts) -> dict[str, JSONValue]:
    """Write the state. It holds the tokens and the private keys of the sandbox."""
    account, journal = parts.account, parts.journal
    document: dict[str, Any] = {
        "format": _FORMAT,
        "tokens": {token: sorted(scopes) for token, scopes in parts.api.tokens.items()},
        "keys": parts.keys.dump(),
        "clock_ahead_seconds": parts.clock.ahead,
        "random": account.random.getstate(),
        "account": {name: getattr(account, name) for name in ACCOUNT},
        "events": [attrs.asdict(event, recurse=False) for event in account.events.since(1)],
        "webhooks": {"count": parts.webhooks.count, "registered": list(parts.webhooks)},
        "faults": _faults(parts.faults),
        "delivery_faults": _faults(parts.delivery_faults),
        "deliveries": parts.deliveries.attempts,
        "requests": {
            "total": journal.total,
            "by_route": [[route, identifier, count] for (route, identifier), count in journal.by_route.items()],
        },
    }
    written: dict[str, JSONValue] = msgspec.to_builtins(document)
    return written


def restore(parts: Parts, document: object) -> None:
    """Put a state that `take` wrote in the place of the present one.

    Raises:
        ValueError: It is none. Nothing was changed then.
    """
    try:
        apply = _read(parts, document)
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, FieldRejectedError) as error:
        raise ValueError(f"this is not a snapshot of a sandbox: {type(error).__name__}: {error}") from None
    parts.timers.forget()
    apply()
    parts.journal.touch()


def _read(parts: Parts, given: object) -> Callable[[], None]:
    """Read the whole document, and return what puts it into place."""
    document: dict[str, Any] = _convert(given, dict[str, Any])
    if document.get("format") != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT}")
    account = parts.account
    texts: dict[str, list[str]] = _convert(document["tokens"], dict[str, list[str]])
    tokens = {token: frozenset(map(TokenScope, scopes)) for token, scopes in texts.items()}
    keys = _convert(document["keys"], list[str])
    KeyRing().load(keys)
    ahead = _convert(document["clock_ahead_seconds"], float)
    check_number("clock_ahead_seconds", ahead, most=MOST_SECONDS_AHEAD)
    random: tuple[Any, ...] = _convert(document["random"], tuple[int, tuple[int, ...], float | None])
    Random().setstate(random)  # noqa: S311 - only to see whether it is one
    attributes = {name: _convert(document["account"][name], kind) for name, kind in ACCOUNT.items()}
    events = [_event(each) for each in document["events"]]
    webhooks = _convert(document["webhooks"]["registered"], list[WebhookRegistration])
    count = _convert(document["webhooks"]["count"], int)
    faults = _read_faults(document["faults"], _documents.fault)
    delivery_faults = _read_faults(document["delivery_faults"], _documents.delivery_fault)
    attempts = _convert(document["deliveries"], list[DeliveryAttempt])
    _check_account(attributes)
    _check_events(events)
    _check_deliveries(webhooks, attempts)
    total = _convert(document["requests"]["total"], int)
    by_route = {
        (route, identifier): each
        for route, identifier, each in _convert(document["requests"]["by_route"], list[tuple[str, str | None, int]])
    }

    def apply() -> None:
        account.random.setstate(random)
        for name, value in attributes.items():
            setattr(account, name, value)
        account.events.restore(events)
        parts.keys.load(keys)
        parts.api.tokens.clear()
        parts.api.tokens.update(tokens)
        parts.faults.restore(**faults)
        parts.delivery_faults.restore(**delivery_faults)
        parts.deliveries.attempts[:] = attempts
        parts.journal.restore(total, by_route)
        parts.clock.ahead = ahead
        parts.webhooks.replace_all(webhooks, count=count)

    return apply


def _check_account(attributes: Mapping[str, Any]) -> None:
    """Refuse records under another id than theirs, and payments by cards that there are not."""
    for name in ("contacts", "credit_cards", "bank_accounts", "transactions", "_card_forms"):
        if any(each.identifier != identifier for identifier, each in attributes[name].items()):
            raise ValueError(f"{name}: one is not under its own id")
    for each in attributes["transactions"].values():
        read_amount(each.amount)
        if each.from_credit_card_id is not None:
            attributes["credit_cards"][each.from_credit_card_id]


def _check_events(events: Sequence[SandboxEvent]) -> None:
    if [event.id for event in events] != [*range(1, len(events) + 1)]:
        raise ValueError("events: their ids don't count from 1")
    if not all(isinstance(event.data.get("state", ""), str) for event in events):
        raise ValueError("events: a state is no text")
    if any("transactionId" in event.data and "state" not in event.data for event in events):
        raise ValueError("events: one of a transaction has no state")


def _check_deliveries(webhooks: Sequence[WebhookRegistration], attempts: Sequence[DeliveryAttempt]) -> None:
    for webhook in webhooks:
        read_url(webhook.callback_url)
        check_number("max_batch_size", webhook.max_batch_size, least=1, most=contract.MAX_BATCH_SIZE)
        check_number("max_wait_seconds", webhook.max_wait_seconds, most=contract.MAX_WAIT_SECONDS)
        check_number("next_event_id", webhook.next_event_id, least=1, most=math.inf)
    for attempt in attempts:
        read_url(attempt.url)
        check_number("time", attempt.time, most=_LAST_SECOND)
        if not attempt.event_ids:
            raise ValueError("deliveries: one has no events")


def _faults(faults: Faults[_F]) -> dict[str, Any]:
    return {
        "seed": faults.seed,
        "added": faults.added,
        "injected": faults.injected,
        "active": [
            {
                "number": each.number,
                "fault": _documents.document_of(each.fault),
                "left": each.left,
                "draws": each.draws,
            }
            for each in faults.active
        ],
    }


def _read_faults(document: Any, read: Callable[[object], _F]) -> dict[str, Any]:
    return {
        "active": [
            ActiveFault(
                number=_convert(each["number"], int),
                fault=read(each["fault"]),
                left=_convert(each["left"], int | None),
                draws=_convert(each["draws"], _DRAWS),
            )
            for each in document["active"]
        ],
        "seed": _convert(document["seed"], str),
        "added": _convert(document["added"], int),
        "injected": _convert(document["injected"], dict[str, int]),
    }


def _event(document: Any) -> SandboxEvent:
    return SandboxEvent(
        id=_convert(document["id"], int),
        created_at=_convert(document["created_at"], _MOMENT),
        type=_convert(document["type"], str),
        data=_convert(document["data"], dict[str, Any]),
    )


def _convert(value: Any, kind: Any) -> Any:
    return msgspec.convert(value, kind)
