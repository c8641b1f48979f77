"""What the API answers, as frozen values.

Two values are equal when what the API said is equal; ``raw``, ``attempts`` and ``elapsed`` do not take part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from typing import Self

    from jetpay_async.models._further import (
        BankAccount,
        CardForm,
        Contact,
        Credit,
        Payer,
        PaymentLink,
        RawAnswer,
        Webhook,
    )

__all__ = [
    "BankAccount",
    "Capture",
    "CardForm",
    "Charge",
    "Contact",
    "Credit",
    "JSONValue",
    "Payer",
    "PaymentLink",
    "Preauthorization",
    "RawAnswer",
    "TransactionState",
    "TransactionStatus",
    "Webhook",
]

JSONValue: TypeAlias = Mapping[str, "JSONValue"] | Sequence["JSONValue"] | str | int | Decimal | bool | None
"""Anything JSON can hold. Numbers with a point or an exponent are `decimal.Decimal`, never float."""


class TransactionState(StrEnum):
    """The state of a transaction: an open enumeration.

    The members are the states that the vendor's guide names (``processing`` and ``cancelled`` are inferred). The
    service has more, and may add some: ``TransactionState("clearing")`` is a value too. It compares and hashes
    like its string, prints it, and survives pickling and copying; only `known` separates the two kinds.
    """

    REQUESTED = "requested"
    INITIATED = "initiated"
    PREAUTHORIZED = "preauthorized"
    PROCESSING = "processing"
    PAID = "paid"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        state = str.__new__(cls, value)
        state._name_ = value
        state._value_ = value
        return state

    @property
    def known(self) -> bool:
        """Whether this is one of the states that this release names."""
        return self._value_ in _KNOWN_STATES

    def __repr__(self) -> str:
        return f"<TransactionState.{self.name}>" if self.known else f"TransactionState({self.value!r})"


_KNOWN_STATES = frozenset(state.value for state in TransactionState)

CAPTURED_STATES = frozenset({TransactionState.PAID, TransactionState.COMPLETED})
"""The states that mean that a capture is done."""

RESERVED_STATES = CAPTURED_STATES | {TransactionState.PREAUTHORIZED}
"""The states that mean that a preauthorization is done."""

IN_PROGRESS_STATES = frozenset({TransactionState.REQUESTED, TransactionState.INITIATED, TransactionState.PROCESSING})
"""The states of what the API has accepted and not finished."""


# One of these is made for each call, and attrs fills a frozen dictionary quicker than frozen slots.
@attrs.frozen(kw_only=True, slots=False)
class Preauthorization:
    """Funds reserved on a saved card [guide]. Store ``debit_id``: it is the only way to capture them."""

    debit_id: str
    """What `JetpayClient.capture` takes."""
    amount: Decimal
    """Major units, exact, in the account's currency (CAD)."""
    statement: str
    """What the payer's bank statement shows."""
    to_bank_account_id: str
    """The merchant's account that the money goes to."""
    contact_id: str
    """The payer."""
    from_credit_card_id: str
    """The saved card."""
    state: TransactionState
    """``preauthorized``, as a rule; the reply's ``transaction_state``."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took; more than one only where the earlier ones never began to leave."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""

    @property
    def final(self) -> bool:
        """Whether the amount is reserved, rather than accepted and still in progress."""
        return self.state in RESERVED_STATES


@attrs.frozen(kw_only=True, slots=False)
class Capture:
    """A capture of a debit in full [guide]: done if it is ``final``, otherwise accepted and still in progress."""

    debit_id: str
    """The debit's id."""
    state: TransactionState
    """``paid``, as a rule."""
    confirmed_by_status: bool = False
    """True if learnt by reading the transaction's status rather than from the capture's own reply."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply that reported it: the capture's, or the status's where ``confirmed_by_status``."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many capture requests were made; 0 if it was found captured before any."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""

    @property
    def final(self) -> bool:
        """Whether the money was taken: only ``paid`` and ``completed`` mean that."""
        return self.state in CAPTURED_STATES


@attrs.frozen(kw_only=True, slots=False)
class Charge:
    """An amount taken from a saved card at once [docs]: done if it is ``final``, otherwise accepted and in progress.

    An event ``completed`` or ``failed`` follows [docs].
    """

    debit_id: str
    """The debit's id, which is its transaction's too."""
    amount: Decimal
    """Major units, exact, in the account's currency (CAD)."""
    statement: str
    """What the payer's bank statement shows."""
    to_bank_account_id: str
    """The merchant's account that the money goes to."""
    contact_id: str
    """The payer."""
    from_credit_card_id: str
    """The saved card."""
    state: TransactionState
    """``paid``, as a rule; the reply's ``transaction_state``."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took; more than one only where the earlier ones never began to leave."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""

    @property
    def final(self) -> bool:
        """Whether the money was taken: only ``paid`` and ``completed`` mean that."""
        return self.state in CAPTURED_STATES


@attrs.frozen(kw_only=True, slots=False)
class TransactionStatus:
    """Where a transaction stands [docs]."""

    transaction_id: str
    """What was asked about; of a debit, its ``debit_id``."""
    state: TransactionState
    """Known or not: unknown states are carried through."""
    fail_reason: str | None = None
    """The API's code, for example ``account_frozen``; accompanies ``failed``."""
    fail_direction: str | None = None
    """``pull`` or ``push``; accompanies ``failed``."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""


# A process that captures needs no further class, and making one takes 0.4 ms: they are made when one is used.
if not TYPE_CHECKING:  # a type checker that saw a __getattr__ would take any misspelt name for one of ours

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from jetpay_async.models import _further  # noqa: PLC0415 - see above

        value: object = getattr(_further, name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
