"""What a ledger reports, as frozen values. Times are aware, in UTC."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import attrs

from jetpay_async.ledger.payment_records import PaymentCounts
from jetpay_async.models import TransactionState

__all__ = [
    "BatchInfo",
    "ChunkReport",
    "DebitState",
    "LedgerCheck",
    "LedgerItem",
    "Progress",
    "Pruned",
    "Report",
    "ResolveReport",
    "Submitted",
    "Waiting",
]


class DebitState(StrEnum):
    """Where a debit stands in the ledger.

    ::

        pending ──▶ sending ──▶ captured | rejected | unknown
           ▲           │  │                ▲
           └───────────┘  └──▶ accepted ───┘ its status said more
        proven not captured

    Every change is listed in `jetpay_async.ledger._transitions`.
    """

    PENDING = "pending"
    """To be captured."""
    SENDING = "sending"
    """A run intends to send it, or has: committed before the request. Found by a later run, it is in doubt."""
    CAPTURED = "captured"
    """The money was taken."""
    ACCEPTED = "accepted"
    """The API is processing it. It is never sent again; its status is followed."""
    REJECTED = "rejected"
    """The API said no, or the transaction is over: no money was taken."""
    UNKNOWN = "unknown"
    """It may have been captured, and its status did not decide."""


@attrs.frozen(kw_only=True)
class Waiting:
    """Debits in doubt that a batch waits for, its own or the same debits in another batch.

    Their status proves nothing until no request for them can still be on its way.
    """

    debits: int
    seconds: float
    """Until the last of them can be resolved."""

    def __str__(self) -> str:
        return f"waiting {self.seconds:.0f} s to resolve {self.debits} debits in doubt"


@attrs.frozen(kw_only=True)
class Progress:
    """Where a batch stands: debits by their state."""

    total: int
    pending: int
    sending: int
    captured: int
    accepted: int = 0
    rejected: int
    unknown: int
    waiting: Waiting | None = attrs.field(default=None, eq=False)
    """What the batch waits for besides the API's answers; None if nothing. It does not count in a comparison."""

    @property
    def finished(self) -> int:
        """Debits that have an outcome."""
        return self.captured + self.accepted + self.rejected + self.unknown

    @property
    def complete(self) -> bool:
        """Whether every debit has an outcome; an accepted one has, though its status may still change."""
        return self.finished == self.total


@attrs.frozen(kw_only=True)
class Report:
    """What became of a whole batch."""

    key: str
    total: int
    captured: int
    accepted: int = 0
    """Debits that the API was still processing when it was asked last."""
    rejected: int
    unknown: int
    submitted_at: datetime
    finished_at: datetime
    """When the last debit got an outcome."""


@attrs.frozen(kw_only=True)
class ChunkReport:
    """What became of a chunk."""

    key: str
    """The batch."""
    chunk: int
    total: int
    captured: int
    accepted: int = 0
    """Debits that the API was still processing when it was asked last."""
    rejected: int
    unknown: int


@attrs.frozen(kw_only=True)
class ResolveReport:
    """What reading the status of a batch's accepted and unknown debits has shown."""

    key: str
    """The batch."""
    unread: int
    """Debits whose status could not be read; they are as before."""
    progress: Progress
    """Where the batch stands now."""


@attrs.frozen(kw_only=True)
class Submitted:
    """A batch as it was submitted."""

    key: str
    created: bool
    """False if it was there already, with the same debits."""
    total: int
    """Debits, each counted once."""
    duplicates: int
    """How often a debit was given again; it is captured once."""
    chunks: int
    """Chunks are numbered from 0; each is a unit of work for `run_chunk`."""


@attrs.frozen(kw_only=True)
class BatchInfo:
    """A batch and where it stands."""

    key: str
    submitted_at: datetime
    finished_at: datetime | None
    chunks: int
    progress: Progress


@attrs.frozen(kw_only=True)
class LedgerCheck:
    """What `Ledger.verify` has found."""

    problems: tuple[str, ...]
    """What is wrong, in words; empty if nothing is."""
    schema_version: int
    origin: str | None
    """The API that the ledger belongs to; None if no client has used it yet."""
    account: str | None
    """The label of the account that it belongs to, if one was given."""
    batches: int
    pruned_captured: int
    """Captured debits of batches that were pruned; they are counted in ``debits`` too."""
    runs: int
    """Runs that are registered: alive, or dead since nobody has looked."""
    debits: Progress
    """All debits of the ledger, by state."""
    payments: PaymentCounts = attrs.field(factory=PaymentCounts)
    """Its durable preauthorizations, charges and credits, by state."""
    orphans: int = 0
    """Transactions that events reported, and that nothing in the ledger knows; see `Ledger.orphans`."""

    @property
    def unresolved(self) -> int:
        """Debits that may have been captured and are not known to be: in flight or in doubt, accepted, or unknown."""
        return self.debits.sending + self.debits.accepted + self.debits.unknown


@attrs.frozen(kw_only=True)
class Pruned:
    """What `Ledger.prune` has removed."""

    batches: int
    """Batches that are gone."""
    captured_kept: int
    """Their captured debits, whose ids stay: they are never captured again."""
    rejected_removed: int
    """Their rejected debits, of which nothing is left."""
    unresolved_batches: int
    """Batches as old that were left alone, since some of their debits are not captured or rejected for good."""


@attrs.frozen(kw_only=True)
class LedgerItem:
    """All that the ledger holds of one debit."""

    batch: str
    debit_id: str
    state: DebitState
    attempts: int
    """Capture requests that were made, or may have been."""
    intent_at: datetime | None
    """When the latest run intended to send it."""
    finished_at: datetime | None
    transaction_state: TransactionState | None
    """What the API said."""
    confirmed_by_status: bool
    """Whether the transaction's status reported it."""
    error: str | None
    """The class of the error."""
    status: int | None
    """The HTTP status of the answer that decided."""
    request_id: str | None
    reason: str | None
    """The error's message."""
    later_state: TransactionState | None = None
    """What an event said later of a debit that was captured: that it is failed, or cancelled."""
