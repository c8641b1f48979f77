"""Events of transactions, as a webhook of ours delivers them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from jetpay_async.models import TransactionState
from jetpay_async.webhooks import TransactionEvent

OURS = 123
_ids = itertools.count(1)


def event(
    state: str,
    transaction_id: str = "debit_0",
    *,
    webhook_id: int | None = OURS,
    kind: str = "debits",
    ago: float = 0.0,
) -> TransactionEvent:
    return TransactionEvent(
        id=next(_ids),
        created_at=datetime.now(UTC) - timedelta(seconds=ago),
        type=f"transactions.{kind}.updated",
        data={},
        webhook_id=webhook_id,
        transaction_id=transaction_id,
        state=TransactionState(state),
    )
