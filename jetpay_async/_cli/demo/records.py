"""What the demo was asked to do and what came of it: plain facts, before anybody judges them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum

import attrs

from jetpay_async.errors import JetpayError
from jetpay_async.models import Capture
from jetpay_async.outcomes import CaptureOutcome
from jetpay_async.sandbox import Payer, Transaction
from jetpay_async.webhooks import Event

__all__ = ["BatchRecord", "DemoStep", "Order", "Plan", "Record", "Stage", "Story"]


@attrs.frozen(kw_only=True)
class Plan:
    """What ``jetpay demo`` was asked for."""

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
    payer: Payer
    amount: Decimal


@attrs.frozen(kw_only=True)
class Story:
    """What the client said of an order."""

    order: Order
    debit_id: str | None
    """From the preauthorization; None if there was none, as far as the client knows."""
    outcome: Capture | JetpayError
    """The capture's outcome, or why it never came to one."""


@attrs.frozen(kw_only=True)
class BatchRecord:
    """What both sides remember of the batch that went through a ledger."""

    debit_ids: tuple[str, ...]
    stopped_after: int
    """Outcomes that the first run had told when it was stopped."""
    outcomes: tuple[CaptureOutcome, ...]
    """What the second run told, to the end."""
    debits: tuple[Transaction, ...]
    """The sandbox's own books."""
    faults: Mapping[str, int]
    """How often each kind struck."""


@attrs.frozen(kw_only=True)
class Record:
    """Everything that both sides, the client's and the sandbox's, remember of a run."""

    plan: Plan
    stories: tuple[Story, ...]
    seconds: float
    """From the first preauthorization to the last capture."""
    debits: tuple[Transaction, ...]
    """The sandbox's own books."""
    events_made: int
    """How many events the sandbox had to deliver; their ids count from 1."""
    events: tuple[Event, ...]
    """What the webhook endpoint verified, decoded and handled, in that order."""
    deliveries: int
    """Requests to the endpoint."""
    events_repeated: int
    """Events that were delivered again, and skipped."""
    deliveries_refused: int
    """Deliveries that the endpoint did not accept."""
    faults: Mapping[str, int]
    """How often each kind of fault struck."""
    batch: BatchRecord


class DemoStep(StrEnum):
    """What the demo does, side by side with or after another."""

    PREAUTHORIZE = "preauthorize"
    CAPTURE = "capture"
    WEBHOOKS = "webhooks"
    BATCH = "batch"


@attrs.frozen(kw_only=True)
class Stage:
    """How far a step has got."""

    step: DemoStep
    done: int
    total: int
    notes: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """What was special so far, counted."""
