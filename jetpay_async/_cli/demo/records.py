"""What the demo was asked to do and what happened: facts, before the audit compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

import attrs

from jetpay_async.errors import JetpayError
from jetpay_async.models import Capture
from jetpay_async.outcomes import CaptureOutcome
from jetpay_async.sandbox import SandboxPayer, Transaction
from jetpay_async.webhooks import Event

__all__ = [
    "BATCH_SIZE",
    "BatchRecord",
    "DemoStep",
    "OnProgress",
    "Order",
    "OrderResult",
    "Plan",
    "RunRecord",
    "StepProgress",
]

BATCH_SIZE = 50
"""Debits of the batch that is captured through a ledger."""


@attrs.frozen(kw_only=True)
class Plan:
    """The arguments of ``jetpay demo``."""

    count: int = 300
    """Cards to charge."""
    concurrency: int = 64
    """Calls at a time."""
    seed: int = 1
    """Of the cards, the amounts and the faults."""
    faults: bool = True
    """Whether the sandbox loses and delays replies."""


@attrs.frozen(kw_only=True)
class Order:
    """One card to charge, once."""

    number: int
    card_number: str
    payer: SandboxPayer
    amount: Decimal


@attrs.frozen(kw_only=True)
class OrderResult:
    """What the client reported of an order."""

    order: Order
    debit_id: str | None
    """From the preauthorization; None if there was none, as far as the client knows."""
    result: Capture | JetpayError
    """The result of the capture, or of the preauthorization if that failed."""


@attrs.frozen(kw_only=True)
class BatchRecord:
    """What the client and the sandbox recorded of the batch that was captured through a ledger."""

    debit_ids: tuple[str, ...]
    stopped_after: int
    """Outcomes that the first run had reported when it was stopped."""
    outcomes: tuple[CaptureOutcome, ...]
    """What the second run reported, to the end."""
    debits: tuple[Transaction, ...]
    """The sandbox's records."""
    faults: Mapping[str, int]
    """How often each kind was injected."""


@attrs.frozen(kw_only=True)
class RunRecord:
    """What the client, the webhook endpoint and the sandbox recorded of a run."""

    plan: Plan
    results: tuple[OrderResult, ...]
    seconds: float
    """From the first preauthorization to the last capture."""
    debits: tuple[Transaction, ...]
    """The sandbox's records."""
    events_created: int
    """How many events the sandbox had to deliver; their ids count from 1."""
    events: tuple[Event, ...]
    """What the webhook endpoint verified, decoded and handled, in that order."""
    deliveries: int
    """Requests to the endpoint."""
    events_repeated: int
    """Events that were delivered again, and skipped."""
    deliveries_rejected: int
    """Deliveries that the endpoint did not accept."""
    faults: Mapping[str, int]
    """How often each kind of fault was injected."""
    batch: BatchRecord


class DemoStep(StrEnum):
    """What the demo does, concurrently or in sequence."""

    PREAUTHORIZE = "preauthorize"
    CAPTURE = "capture"
    WEBHOOKS = "webhooks"
    BATCH = "batch"


@attrs.frozen(kw_only=True)
class StepProgress:
    """How far a step has come."""

    step: DemoStep
    done: int
    total: int
    notes: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Special cases so far, counted."""


OnProgress: TypeAlias = Callable[[StepProgress], None]
"""Called after each item of a step."""
