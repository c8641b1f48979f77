"""The card numbers that mean something, as one table."""

from __future__ import annotations

from types import MappingProxyType

import attrs

from jetpay_async.models import TransactionState

__all__ = ["APPROVED", "CARDS", "CardBehaviour"]


@attrs.frozen(kw_only=True)
class CardBehaviour:
    """What a card number makes the sandbox do. The numbers are the sandbox's own; the vendor publishes none.

    Attributes:
        number: 16 digits.
        meaning: What happens, in words.
        declined: The ``detail`` of the 402 that refuses a preauthorization or a charge; no debit is made. None if it
            is accepted.
        capture: The state that a capture (or a charge) answers with.
        later: The state that follows ``slow_bank_seconds`` after that one; None if nothing follows.
        fail_reason: What the status tells once the debit is ``failed``.
        fail_direction: ``pull`` (from the payer) or ``push`` (to the merchant), for the same case.
    """

    number: str
    meaning: str
    declined: str | None = None
    capture: TransactionState = TransactionState.PAID
    later: TransactionState | None = None
    fail_reason: str | None = None
    fail_direction: str | None = None


APPROVED = "4111111111111111"

_TABLE = (
    CardBehaviour(number=APPROVED, meaning="everything succeeds, as with any number that is not in this table"),
    CardBehaviour(
        number="4000000000000002",
        meaning="declined: preauthorize and charge answer 402, no debit is made",
        declined="Card declined",
    ),
    CardBehaviour(
        number="4000000000000010",
        meaning="insufficient funds: preauthorize and charge answer 402, no debit is made",
        declined="Insufficient funds",
    ),
    CardBehaviour(
        number="4000000000000028",
        meaning="expired: preauthorize and charge answer 402, no debit is made",
        declined="Card expired",
    ),
    CardBehaviour(
        number="4000000000000036",
        meaning="the capture fails: it answers 200 with failed; the status tells account_frozen, pull",
        capture=TransactionState.FAILED,
        fail_reason="account_frozen",
        fail_direction="pull",
    ),
    CardBehaviour(
        number="4000000000000044",
        meaning="the capture fails: it answers 200 with failed; the status tells insufficient_funds, pull",
        capture=TransactionState.FAILED,
        fail_reason="insufficient_funds",
        fail_direction="pull",
    ),
    CardBehaviour(
        number="4000000000000051",
        meaning="a slow bank: the capture answers processing; paid follows",
        capture=TransactionState.PROCESSING,
        later=TransactionState.PAID,
    ),
    CardBehaviour(
        number="4000000000000069",
        meaning="a slow bank that refuses: the capture answers processing; failed follows (account_frozen, pull)",
        capture=TransactionState.PROCESSING,
        later=TransactionState.FAILED,
        fail_reason="account_frozen",
        fail_direction="pull",
    ),
    CardBehaviour(
        number="4000000000000077",
        meaning="the capture is paid, and completed follows",
        later=TransactionState.COMPLETED,
    ),
    CardBehaviour(
        number="4000000000000085",
        meaning="the capture is paid, but the payout fails: failed follows (account_frozen, push)",
        later=TransactionState.FAILED,
        fail_reason="account_frozen",
        fail_direction="push",
    ),
    CardBehaviour(
        number="4000000000000093",
        meaning="a state that no published page names: the capture answers settling; paid follows",
        capture=TransactionState("settling"),
        later=TransactionState.PAID,
    ),
)

CARDS = MappingProxyType({card.number: card for card in _TABLE})
"""Every card number with a meaning, by number."""
