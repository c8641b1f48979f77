"""The card numbers that decide what happens, as one table."""

from __future__ import annotations

import re
from types import MappingProxyType

import attrs

from jetpay_async.models import TransactionState

__all__ = ["APPROVED", "CARDS", "CARD_NUMBER", "CardBehavior", "read_card_number"]

CARD_NUMBER = r"^[0-9](?:[ -]?[0-9]){11,18}$"
"""How a card number is written: 12 to 19 digits, with spaces or hyphens between them."""


def read_card_number(text: str) -> str:
    """Return the digits of a card number.

    Raises:
        ValueError: It is none; the message does not show it.
    """
    if not re.fullmatch(CARD_NUMBER, text):
        raise ValueError("card_number: must be 12 to 19 digits; spaces and hyphens may be between them")
    return re.sub("[ -]", "", text)


@attrs.frozen(kw_only=True)
class CardBehavior:
    """What a card number makes the sandbox do. The numbers are the sandbox's own; the vendor publishes none.

    Attributes:
        number: 16 digits.
        meaning: What happens, in words.
        declined: The ``detail`` of the 402 that rejects a preauthorization or a charge; no debit is made. None if it
            is accepted.
        capture: The state in the reply to a capture (or a charge).
        later: The state that follows ``slow_bank_seconds`` after that one; None if nothing follows.
        fail_reason: What the status reports once the debit is ``failed``.
        fail_direction: ``pull`` (from the payer) or ``push`` (to the merchant), for the same case.
        not_saved: Why the hosted form does not save it; None if it does.
    """

    number: str
    meaning: str
    declined: str | None = None
    capture: TransactionState = TransactionState.PAID
    later: TransactionState | None = None
    fail_reason: str | None = None
    fail_direction: str | None = None
    not_saved: str | None = None


APPROVED = "4111111111111111"

_TABLE = (
    CardBehavior(number=APPROVED, meaning="everything succeeds, as with any number that is not in this table"),
    CardBehavior(
        number="4000000000000002",
        meaning="declined: preauthorize and charge answer 402, no debit is made",
        declined="Card declined",
    ),
    CardBehavior(
        number="4000000000000010",
        meaning="insufficient funds: preauthorize and charge answer 402, no debit is made",
        declined="Insufficient funds",
    ),
    CardBehavior(
        number="4000000000000028",
        meaning="expired: preauthorize and charge answer 402, no debit is made",
        declined="Card expired",
    ),
    CardBehavior(
        number="4000000000000036",
        meaning="the capture fails: the reply is a 200 with failed; the status reports account_frozen, pull",
        capture=TransactionState.FAILED,
        fail_reason="account_frozen",
        fail_direction="pull",
    ),
    CardBehavior(
        number="4000000000000044",
        meaning="the capture fails: the reply is a 200 with failed; the status reports insufficient_funds, pull",
        capture=TransactionState.FAILED,
        fail_reason="insufficient_funds",
        fail_direction="pull",
    ),
    CardBehavior(
        number="4000000000000051",
        meaning="a slow bank: the capture answers processing; paid follows",
        capture=TransactionState.PROCESSING,
        later=TransactionState.PAID,
    ),
    CardBehavior(
        number="4000000000000069",
        meaning="a slow bank that rejects it: the capture answers processing; failed follows (account_frozen, pull)",
        capture=TransactionState.PROCESSING,
        later=TransactionState.FAILED,
        fail_reason="account_frozen",
        fail_direction="pull",
    ),
    CardBehavior(
        number="4000000000000077",
        meaning="the capture is paid, and completed follows",
        later=TransactionState.COMPLETED,
    ),
    CardBehavior(
        number="4000000000000085",
        meaning="the capture is paid, but the payout fails: failed follows (account_frozen, push)",
        later=TransactionState.FAILED,
        fail_reason="account_frozen",
        fail_direction="push",
    ),
    CardBehavior(
        number="4000000000000093",
        meaning="a state that no published page names: the capture answers clearing; paid follows",
        capture=TransactionState("clearing"),
        later=TransactionState.PAID,
    ),
    CardBehavior(
        number="4000000000000101",
        meaning="the hosted form does not save it: the event of the tokenization has failed (card_not_supported)",
        not_saved="card_not_supported",
    ),
)

CARDS = MappingProxyType({card.number: card for card in _TABLE})
"""Every card number with a meaning, by number."""
