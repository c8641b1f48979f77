"""Receive webhook deliveries: verify the raw body, decode typed events.

The recipe, for any framework::

    verifier = WebhookVerifier(RemoteKeySet(PRODUCTION_URL), webhook_ids={123})  # once per process; close the keys

    async def receive(request):
        body = await request.body()  # the raw bytes, before anything parses or decompresses them
        try:
            delivery = await verifier.verify(body, headers=request.headers)
        except WebhookError as error:
            logger.warning("rejected a delivery: %s: %s", error.reason, error.explain())
            return Response(status_code=error.status_hint)
        for event in delivery.events:
            match event:
                case DebitPaid(transaction_id=debit_id): ...
                case DebitFailed(transaction_id=debit_id, fail_reason=reason): ...
        return Response(status_code=204)  # within 15 seconds [docs]

Jetpay delivers at least once: an event comes again until it was answered with 2xx, and sometimes after that. Handle
each ``event.id`` once: `WebhookReceiver` does.

Importing this package imports neither aiohttp nor asyncio, and with pinned keys (`KeySet.from_jwks`) it needs no
network.
"""

from typing import TYPE_CHECKING

from jetpay_async._core.lazy import lazily

if TYPE_CHECKING:
    from jetpay_async.webhooks._explain import explain
    from jetpay_async.webhooks._jwt import verify
    from jetpay_async.webhooks._request import authorization_of
    from jetpay_async.webhooks._signing import sign
    from jetpay_async.webhooks.claims import Claims
    from jetpay_async.webhooks.errors import (
        ForeignDeliveryError,
        InboxError,
        InvalidTokenError,
        KeysUnavailableError,
        LeaseLostError,
        MalformedDeliveryError,
        OutdatedEventError,
        PayloadMismatchError,
        Reason,
        StaleDeliveryError,
        WebhookError,
    )
    from jetpay_async.webhooks.events import (
        CardTokenizationEvent,
        CardTokenizationFailed,
        CardTokenized,
        CreditCompleted,
        CreditFailed,
        CreditPaid,
        DebitCompleted,
        DebitFailed,
        DebitPaid,
        Delivery,
        Event,
        TransactionCompleted,
        TransactionEvent,
        TransactionFailed,
        TransactionPaid,
        UnknownEvent,
        decode,
    )
    from jetpay_async.webhooks.inbox import DeadLetter, DurableEventInbox, EventInbox
    from jetpay_async.webhooks.keyset import KeySet
    from jetpay_async.webhooks.postgres_inbox import PostgresInbox
    from jetpay_async.webhooks.receiver import (
        DeliveryReport,
        DeliveryResponse,
        StoredEventReport,
        WebhookReceiver,
        ensure_leased,
    )
    from jetpay_async.webhooks.remote_keyset import RemoteKeySet
    from jetpay_async.webhooks.replay import MissingEventReplay
    from jetpay_async.webhooks.router import EventRouter
    from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
    from jetpay_async.webhooks.verifier import WebhookVerifier

__all__ = [
    "CardTokenizationEvent",
    "CardTokenizationFailed",
    "CardTokenized",
    "Claims",
    "CreditCompleted",
    "CreditFailed",
    "CreditPaid",
    "DeadLetter",
    "DebitCompleted",
    "DebitFailed",
    "DebitPaid",
    "Delivery",
    "DeliveryReport",
    "DeliveryResponse",
    "DurableEventInbox",
    "Event",
    "EventInbox",
    "EventRouter",
    "ForeignDeliveryError",
    "InboxError",
    "InvalidTokenError",
    "KeySet",
    "KeysUnavailableError",
    "LeaseLostError",
    "MalformedDeliveryError",
    "MemoryInbox",
    "MissingEventReplay",
    "OutdatedEventError",
    "PayloadMismatchError",
    "PostgresInbox",
    "Reason",
    "RemoteKeySet",
    "SqliteInbox",
    "StaleDeliveryError",
    "StoredEventReport",
    "TransactionCompleted",
    "TransactionEvent",
    "TransactionFailed",
    "TransactionPaid",
    "UnknownEvent",
    "WebhookError",
    "WebhookReceiver",
    "WebhookVerifier",
    "authorization_of",
    "decode",
    "ensure_leased",
    "explain",
    "sign",
    "verify",
]

# Keys need cryptography, events need cattrs, the remote key set needs asyncio, and an adapter its framework: a name is
# imported when it is first used (PEP 562).
_HOMES = {
    "CardTokenizationEvent": "events",
    "CardTokenizationFailed": "events",
    "CardTokenized": "events",
    "Claims": "claims",
    "CreditCompleted": "events",
    "CreditFailed": "events",
    "CreditPaid": "events",
    "DeadLetter": "inbox",
    "DebitCompleted": "events",
    "DebitFailed": "events",
    "DebitPaid": "events",
    "Delivery": "events",
    "DeliveryReport": "receiver",
    "DeliveryResponse": "receiver",
    "DurableEventInbox": "inbox",
    "Event": "events",
    "EventInbox": "inbox",
    "EventRouter": "router",
    "KeySet": "keyset",
    "MemoryInbox": "sqlite_inbox",
    "MissingEventReplay": "replay",
    "PostgresInbox": "postgres_inbox",
    "RemoteKeySet": "remote_keyset",
    "SqliteInbox": "sqlite_inbox",
    "StoredEventReport": "receiver",
    "TransactionCompleted": "events",
    "TransactionEvent": "events",
    "TransactionFailed": "events",
    "TransactionPaid": "events",
    "UnknownEvent": "events",
    "WebhookReceiver": "receiver",
    "WebhookVerifier": "verifier",
    "authorization_of": "_request",
    "decode": "events",
    "ensure_leased": "receiver",
    "explain": "_explain",
    "sign": "_signing",
    "verify": "_jwt",
}

if not TYPE_CHECKING:  # a type checker that saw a __getattr__ would take any misspelt name for one of ours
    __getattr__, __dir__ = lazily(__name__, __all__, _HOMES, otherwise="errors")
