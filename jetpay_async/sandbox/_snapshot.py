"""The whole state of a sandbox as one JSON document, and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import msgspec

from jetpay_async.sandbox import _documents
from jetpay_async.sandbox._api import TokenScope
from jetpay_async.sandbox._deliveries import DeliveryAttempt
from jetpay_async.sandbox._faults import ActiveFault
from jetpay_async.sandbox._keys import KeyRing
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
    except (KeyError, TypeError, AttributeError, ValueError) as error:
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
    random: tuple[Any, ...] = _convert(document["random"], tuple[int, tuple[int, ...], float | None])
    Random().setstate(random)  # noqa: S311 - only to see whether it is one
    attributes = {name: _convert(document["account"][name], kind) for name, kind in ACCOUNT.items()}
    events = [_event(each) for each in document["events"]]
    webhooks = _convert(document["webhooks"]["registered"], list[WebhookRegistration])
    count = _convert(document["webhooks"]["count"], int)
    faults = _read_faults(document["faults"], _documents.fault)
    delivery_faults = _read_faults(document["delivery_faults"], _documents.delivery_fault)
    attempts = _convert(document["deliveries"], list[DeliveryAttempt])
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
                draws=_convert(each["draws"], int),
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
        created_at=_convert(document["created_at"], datetime),
        type=_convert(document["type"], str),
        data=_convert(document["data"], dict[str, Any]),
    )


def _convert(value: Any, kind: Any) -> Any:
    return msgspec.convert(value, kind)
