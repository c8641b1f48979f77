"""What the ledger says of a payment later, and what the state of its transaction means."""

from __future__ import annotations

import pytest

from jetpay_async import TransactionFailedError, TransactionState
from jetpay_async.ledger import LedgerPayment, PaymentDiscardedError, PaymentState
from jetpay_async.ledger._payment_outcomes import CHARGE, PREAUTHORIZE, SEND_CREDIT, PaymentOperation, read_result

S = PaymentState


def payment(state: PaymentState, transaction_state: str | None = None) -> LedgerPayment:
    return LedgerPayment(
        reference="b1",
        operation="preauthorize",
        arguments={},
        state=state,
        attempts=1,
        intent_at=None,
        certain_at=None,
        finished_at=None,
        transaction_id="debit_0",
        transaction_state=None if transaction_state is None else TransactionState(transaction_state),
    )


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_reservation_that_is_over_is_an_error(state: str) -> None:
    """A reservation that succeeded and was cancelled or failed since is not returned as one."""
    with pytest.raises(TransactionFailedError) as caught:
        read_result(PREAUTHORIZE, payment(S.SUCCEEDED, state))

    assert (caught.value.state, caught.value.debit_id) == (state, "debit_0")


def test_what_was_discarded_is_an_error() -> None:
    """A discarded payment says how to send it after all."""
    with pytest.raises(PaymentDiscardedError, match="retry_rejected=True"):
        read_result(PREAUTHORIZE, payment(S.DISCARDED))


@pytest.mark.parametrize(
    ("operation", "state", "expected"),
    [
        (PREAUTHORIZE, "preauthorized", S.SUCCEEDED),
        (PREAUTHORIZE, "paid", S.SUCCEEDED),
        (PREAUTHORIZE, "processing", S.ACCEPTED),
        (PREAUTHORIZE, "failed", S.REJECTED),
        (PREAUTHORIZE, "cancelled", S.REJECTED),
        (PREAUTHORIZE, "odd", None),
        (CHARGE, "preauthorized", None),
        (CHARGE, "completed", S.SUCCEEDED),
        (SEND_CREDIT, "processing", S.SUCCEEDED),
        (SEND_CREDIT, "failed", S.REJECTED),
    ],
)
def test_what_a_state_means(operation: PaymentOperation[object], state: str, expected: PaymentState | None) -> None:
    """Only a state that means done is success; a state that says nothing decides nothing."""
    assert operation.state_after(TransactionState(state)) is expected
