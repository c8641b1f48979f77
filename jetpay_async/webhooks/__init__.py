"""Receive webhook deliveries: verify the raw body, decode typed events."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetpay_async.webhooks._signing import sign
    from jetpay_async.webhooks._token import Claims
    from jetpay_async.webhooks.errors import (
        InvalidTokenError,
        KeysUnavailableError,
        MalformedDeliveryError,
        PayloadMismatchError,
        Reason,
        StaleDeliveryError,
        WebhookError,
    )
    from jetpay_async.webhooks.events import (
        Delivery,
        Event,
        TransactionEvent,
        TransactionFailed,
        TransactionPaid,
        UnknownEvent,
        decode,
    )

__all__ = [
    "Claims",
    "Delivery",
    "Event",
    "InvalidTokenError",
    "KeysUnavailableError",
    "MalformedDeliveryError",
    "PayloadMismatchError",
    "Reason",
    "StaleDeliveryError",
    "TransactionEvent",
    "TransactionFailed",
    "TransactionPaid",
    "UnknownEvent",
    "WebhookError",
    "decode",
    "sign",
]

# Keys need cryptography, events need cattrs, the remote key set needs asyncio, and an adapter its framework: a name is
# imported when it is first used (PEP 562).
_HOMES = {
    "Claims": "_token",
    "Delivery": "events",
    "Event": "events",
    "TransactionEvent": "events",
    "TransactionFailed": "events",
    "TransactionPaid": "events",
    "UnknownEvent": "events",
    "decode": "events",
    "sign": "_signing",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
