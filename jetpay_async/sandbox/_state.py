"""What the service remembers: contacts, cards, bank accounts, transactions, events. Pure: no network, no loop.

The state machine of a debit that is paid by card::

    preauthorize ──▶ preauthorized ──capture──▶ paid ──▶ completed
                          │                      ▲  └──▶ failed (push)
                          │ DELETE               │
                          ▼                  processing ──▶ failed (pull)
                      cancelled                  ▲
                                                 └── capture, where the bank is slow

A charge is preauthorized and captured in one, and ``completed`` after that. Of what is made by ``PUT``::

    debit:            requested ──link──▶ initiated ──▶ completed
    credit by a link: requested ──link──▶ initiated ──▶ completed
    credit to a saved account:  processing ──▶ initiated ──▶ completed

Money is taken in the one step that makes a debit ``paid`` (by a link: ``completed``); `Transaction.captures` counts
these steps.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Literal, TypeVar

import attrs

from jetpay_async._core import contract
from jetpay_async.models import JSONValue, TransactionState
from jetpay_async.sandbox._cards import APPROVED, CARDS, CardBehavior

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "Account",
    "CreditCard",
    "EventLog",
    "RejectedError",
    "SandboxBankAccount",
    "SandboxCardForm",
    "SandboxContact",
    "SandboxEvent",
    "Transaction",
]

_T = TypeVar("_T")

_BEFORE_ANY_FUNDS = frozenset({TransactionState.REQUESTED, TransactionState.INITIATED, TransactionState.PREAUTHORIZED})
# What follows by itself for a link that was used, and for a credit to a saved account [docs].
_AFTER_LINKS = {
    TransactionState.PROCESSING: TransactionState.INITIATED,
    TransactionState.INITIATED: TransactionState.COMPLETED,
}
_OVER = frozenset({TransactionState.FAILED, TransactionState.CANCELLED})

# `data.state` is what separates paid from failed.
_EVENT_TYPES = {"debit": contract.DEBIT_EVENT, "credit": contract.CREDIT_EVENT}


class RejectedError(Exception):
    """The service rejects a request.

    Attributes:
        status: The HTTP status.
        detail: What ``{"detail": ...}`` holds: a text, or a list of validation errors.
    """

    def __init__(self, status: int, detail: JSONValue) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


@attrs.frozen(kw_only=True)
class SandboxContact:
    """A payer or payee."""

    identifier: str
    email: str
    name: str
    tags: tuple[str, ...] = ()
    language: str = "en"


@attrs.frozen(kw_only=True)
class CreditCard:
    """A tokenized card of a contact."""

    identifier: str
    contact_id: str
    behavior: CardBehavior


@attrs.frozen(kw_only=True)
class SandboxCardForm:
    """A hosted card form that the payer has not submitted yet. It can be submitted once."""

    identifier: str
    contact_id: str
    credit_card_id: str


@attrs.frozen(kw_only=True)
class SandboxBankAccount:
    """A bank account: the merchant's own (``contact_id`` is None) or a contact's."""

    identifier: str
    contact_id: str | None = None
    details: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)


@attrs.frozen(kw_only=True)
class Transaction:
    """A debit or a credit as it stands: a snapshot, which later changes leave alone.

    Attributes:
        identifier: The debit id, which is the transaction's id too.
        kind: ``debit`` or ``credit``.
        amount: Major units, exact.
        statement: What the bank statement shows.
        state: Where it stands.
        contact_id: The other party.
        from_credit_card_id: The saved card, if it is paid by one.
        from_bank_account_id: Where a credit's money comes from.
        to_bank_account_id: Where the money goes; None for a credit whose payee has not chosen yet.
        note: The merchant's note.
        charged: Whether the money was to be taken at once.
        captures: How many times the money was taken. More than one is what this project exists to prevent.
        fail_reason: The bank's code, once ``failed``.
        fail_direction: ``pull`` or ``push``, once ``failed``.
    """

    identifier: str
    kind: Literal["debit", "credit"]
    amount: Decimal
    statement: str
    state: TransactionState
    contact_id: str
    from_credit_card_id: str | None = None
    from_bank_account_id: str | None = None
    to_bank_account_id: str | None = None
    note: str | None = None
    charged: bool = False
    captures: int = 0
    fail_reason: str | None = None
    fail_direction: str | None = None


@attrs.frozen(kw_only=True)
class SandboxEvent:
    """One event, as a delivery carries it [docs]."""

    id: int
    created_at: datetime
    type: str
    data: Mapping[str, JSONValue]

    def document(self) -> JSONValue:
        """Write it as a delivery does: in camelCase."""
        created = self.created_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {"id": self.id, "createdAt": created, "type": self.type, "data": self.data}


class EventLog:
    """Every event, with ids that count from 1 and are neither skipped nor reused."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._events: list[SandboxEvent] = []
        self.on_append: Callable[[], None] = _no_listener
        """Called at every event."""

    @property
    def last_id(self) -> int:
        """The id of the newest event; 0 before the first."""
        return len(self._events)

    def append(self, kind: str, data: Mapping[str, JSONValue]) -> None:
        """Record an event."""
        created = datetime.fromtimestamp(self._now(), UTC)
        self._events.append(SandboxEvent(id=self.last_id + 1, created_at=created, type=kind, data=data))
        self.on_append()

    def restore(self, events: Iterable[SandboxEvent]) -> None:
        """Put other events in the place of the present ones."""
        self._events = list(events)

    def since(self, event_id: int, limit: int | None = None) -> Sequence[SandboxEvent]:
        """Return the events from an id on (inclusive), at most so many."""
        first = event_id - 1
        return self._events[first : None if limit is None else first + limit]

    def first_since(self, moment: datetime) -> int:
        """Return the id of the first event at or after a moment; the next id to come if there is none."""
        return next((event.id for event in self._events if event.created_at >= moment), self.last_id + 1)

    def last_of(self, transaction_id: str, seconds_ago: float) -> SandboxEvent | None:
        """Return the event that was a transaction's newest so long ago."""
        moment = datetime.fromtimestamp(self._now() - seconds_ago, UTC)
        return next(
            (
                event
                for event in reversed(self._events)
                if event.data.get("transactionId") == transaction_id and event.created_at <= moment
            ),
            None,
        )


class Account:
    """The merchant's account: its contacts, cards, bank accounts and transactions.

    Args:
        seed: Where the identifiers come from; the same seed gives the same ones.
        now: Seconds since the epoch.
        defer: Run something after the bank's delay.
        refuses_second_capture: Whether another capture of a captured debit is a 409.
    """

    def __init__(
        self,
        *,
        seed: int,
        now: Callable[[], float],
        defer: Callable[[Callable[[], object]], None],
        refuses_second_capture: bool,
    ) -> None:
        self.random = Random(seed)  # noqa: S311 - reproducible on purpose
        self._defer = defer
        self._refuses_second_capture = refuses_second_capture
        self.events = EventLog(now)
        self.contacts: dict[str, SandboxContact] = {}
        self.credit_cards: dict[str, CreditCard] = {}
        self.bank_accounts: dict[str, SandboxBankAccount] = {}
        self.transactions: dict[str, Transaction] = {}
        self._overridden: set[str] = set()
        self._card_forms: dict[str, SandboxCardForm] = {}
        self.captured_twice: dict[str, None] = {}

    def new_id(self) -> str:
        """Draw an identifier: a UUID."""
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def add_contact(
        self, *, email: str, name: str, tags: Iterable[str], language: str, identifier: str | None = None
    ) -> SandboxContact:
        """Create a contact."""
        contact = SandboxContact(
            identifier=identifier or self.new_id(), email=email, name=name, tags=tuple(tags), language=language
        )
        self.contacts[contact.identifier] = contact
        return contact

    def add_credit_card(self, contact_id: str, card_number: str, *, identifier: str | None = None) -> CreditCard:
        """Tokenize a card."""
        contact = self.contact(contact_id)
        card = CreditCard(
            identifier=identifier or self.new_id(),
            contact_id=contact.identifier,
            behavior=CARDS.get(card_number, CARDS[APPROVED]),
        )
        self.credit_cards[card.identifier] = card
        return card

    def add_bank_account(
        self, contact_id: str | None, details: Mapping[str, str], *, identifier: str | None = None
    ) -> SandboxBankAccount:
        """Create a bank account: a contact's, or the merchant's own."""
        if contact_id is not None:
            self.contact(contact_id)
        bank_account = SandboxBankAccount(
            identifier=identifier or self.new_id(), contact_id=contact_id, details=details
        )
        self.bank_accounts[bank_account.identifier] = bank_account
        return bank_account

    def contact(self, identifier: str) -> SandboxContact:
        """Return a contact."""
        return _found(self.contacts.get(identifier), "Contact")

    def bank_account(self, identifier: str) -> SandboxBankAccount:
        """Return a bank account."""
        return _found(self.bank_accounts.get(identifier), "Bank account")

    def transaction(self, identifier: str) -> Transaction:
        """Return a debit or a credit."""
        return _found(self.transactions.get(identifier), "Transaction")

    def preauthorize(
        self, contact_id: str, credit_card_id: str, *, amount: Decimal, to_bank_account_id: str, statement: str
    ) -> Transaction:
        """Reserve funds on a card."""
        contact = self.contact(contact_id)
        card = self._card(contact, credit_card_id)
        bank_account = self.bank_account(to_bank_account_id)
        if card.behavior.declined is not None:
            raise RejectedError(402, card.behavior.declined)
        return self._store(
            Transaction(
                identifier=self.new_id(),
                kind="debit",
                amount=amount,
                statement=statement,
                state=TransactionState.PREAUTHORIZED,
                contact_id=contact.identifier,
                from_credit_card_id=card.identifier,
                to_bank_account_id=bank_account.identifier,
            )
        )

    def capture(self, debit_id: str) -> Transaction:
        """Take the reserved funds."""
        debit = self.transactions.get(debit_id)
        if debit is None or debit.kind != "debit":
            raise RejectedError(404, "Debit not found")
        if debit.from_credit_card_id is None:
            raise RejectedError(409, "Debit was not preauthorized: there is nothing to capture")
        if debit.state is not TransactionState.PREAUTHORIZED and (self._refuses_second_capture or debit.state in _OVER):
            raise RejectedError(409, f"Debit is {debit.state}: only a preauthorized debit can be captured")
        behavior = self.credit_cards[debit.from_credit_card_id].behavior
        captured = self._advance(debit, behavior.capture)
        self._follow_bank(captured)
        return captured

    def follow_banks(self) -> None:
        """Let every state that a bank still has to report follow after its delay."""
        for identifier, transaction in self.transactions.items():
            if identifier not in self._overridden:
                self._follow_bank(transaction)

    def charge(
        self, contact_id: str, credit_card_id: str, *, amount: Decimal, to_bank_account_id: str, statement: str
    ) -> Transaction:
        """Reserve funds on a card and take them at once."""
        debit = self.preauthorize(
            contact_id, credit_card_id, amount=amount, to_bank_account_id=to_bank_account_id, statement=statement
        )
        self.transactions[debit.identifier] = attrs.evolve(debit, charged=True)
        return self.capture(debit.identifier)

    def _follow_bank(self, transaction: Transaction) -> None:
        following = self._following_state(transaction)
        if following is not None:
            self._defer(partial(self._follow, transaction.identifier, following))

    def _following_state(self, transaction: Transaction) -> TransactionState | None:
        """Return the state that the bank reports next by itself, if there is one [docs]."""
        card = self.credit_cards.get(transaction.from_credit_card_id or "")
        if card is None:
            return _AFTER_LINKS.get(transaction.state)
        if card.behavior.later is not None and transaction.state == card.behavior.capture:
            return card.behavior.later
        done = transaction.charged and transaction.state is TransactionState.PAID
        return TransactionState.COMPLETED if done else None

    def cancel(self, identifier: str) -> None:
        """Release a transaction of which no funds have been pulled."""
        transaction = self.transaction(identifier)
        if transaction.state not in _BEFORE_ANY_FUNDS:
            raise RejectedError(409, f"Transaction is {transaction.state}: it can't be cancelled any more")
        self._store(attrs.evolve(transaction, state=TransactionState.CANCELLED))

    def request_debit(
        self, contact_id: str, *, amount: Decimal, to_bank_account_id: str, statement: str, note: str | None
    ) -> Transaction:
        """Request a payment from a contact, through a link."""
        return self._store(
            Transaction(
                identifier=self.new_id(),
                kind="debit",
                amount=amount,
                statement=statement,
                state=TransactionState.REQUESTED,
                contact_id=self.contact(contact_id).identifier,
                to_bank_account_id=self.bank_account(to_bank_account_id).identifier,
                note=note,
            )
        )

    def request_credit(
        self,
        contact_id: str,
        *,
        amount: Decimal,
        from_bank_account_id: str,
        to_bank_account_id: str | None,
        statement: str,
        note: str | None,
    ) -> Transaction:
        """Pay a contact, who chooses a bank account through a link; if one is given, the money is on its way."""
        waits = to_bank_account_id is None
        credit = self._store(
            Transaction(
                identifier=self.new_id(),
                kind="credit",
                amount=amount,
                statement=statement,
                state=TransactionState.REQUESTED if waits else TransactionState.PROCESSING,
                contact_id=self.contact(contact_id).identifier,
                from_bank_account_id=self.bank_account(from_bank_account_id).identifier,
                to_bank_account_id=to_bank_account_id and self.bank_account(to_bank_account_id).identifier,
                note=note,
            )
        )
        self._follow_bank(credit)
        return credit

    def pay(self, identifier: str) -> None:
        """Let the other party follow the link: pay a requested debit, accept a requested credit."""
        transaction = self.transaction(identifier)
        if transaction.state is not TransactionState.REQUESTED:
            raise RejectedError(409, f"Transaction is {transaction.state}: the link has been used")
        self._follow_bank(self._advance(transaction, TransactionState.INITIATED))

    def override(
        self, identifier: str, state: TransactionState, *, fail_reason: str | None, fail_direction: str | None
    ) -> Transaction:
        """Put a transaction into a state by hand; a state that the bank would have reported later is dropped."""
        transaction = self.transaction(identifier)
        self._overridden.add(identifier)
        taken = state is TransactionState.PAID and transaction.kind == "debit"
        return self._store(
            attrs.evolve(
                transaction,
                state=state,
                captures=max(transaction.captures, int(taken)),
                fail_reason=fail_reason,
                fail_direction=fail_direction,
            )
        )

    def open_card_form(self, contact_id: str) -> SandboxCardForm:
        """Prepare the hosted form in which a contact will type a card's number."""
        contact = self.contact(contact_id)
        card_form = SandboxCardForm(
            identifier=self.new_id(), contact_id=contact.identifier, credit_card_id=self.new_id()
        )
        self._card_forms[card_form.identifier] = card_form
        return card_form

    def card_form(self, identifier: str) -> SandboxCardForm:
        """Return a hosted form that was not submitted yet."""
        return _found(self._card_forms.get(identifier), "Form")

    def submit_card_form(self, identifier: str, card_number: str) -> bool:
        """Tokenize the card that was typed into a hosted form, and record the event; return whether it was saved."""
        card_form = self.card_form(identifier)
        del self._card_forms[identifier]
        data: dict[str, JSONValue] = {"creditCardId": card_form.credit_card_id, "contactId": card_form.contact_id}
        reason = CARDS.get(card_number, CARDS[APPROVED]).not_saved
        if reason is None:
            self.add_credit_card(card_form.contact_id, card_number, identifier=card_form.credit_card_id)
        else:
            data |= {"state": TransactionState.FAILED.value, "failReason": reason}
        self.events.append(contract.CARD_EVENT, data)
        return reason is None

    def _card(self, contact: SandboxContact, identifier: str) -> CreditCard:
        card = self.credit_cards.get(identifier)
        return _found(card if card and card.contact_id == contact.identifier else None, "Credit card")

    def _store(self, transaction: Transaction) -> Transaction:
        self.transactions[transaction.identifier] = transaction
        data: dict[str, JSONValue] = {"state": transaction.state.value, "transactionId": transaction.identifier}
        if transaction.fail_reason is not None:
            data["failReason"] = transaction.fail_reason
        if transaction.fail_direction is not None:
            data["failDirection"] = transaction.fail_direction
        self.events.append(_EVENT_TYPES[transaction.kind], data)
        return transaction

    def _follow(self, identifier: str, state: TransactionState) -> None:
        if identifier not in self._overridden:
            self._follow_bank(self._advance(self.transactions[identifier], state))

    def _advance(self, transaction: Transaction, state: TransactionState) -> Transaction:
        """Put a transaction into the state that the bank reports.

        Becoming ``paid`` is what takes a debit's money; for a link, which is never ``paid``, becoming ``completed``.
        """
        by_link = transaction.from_credit_card_id is None and state is TransactionState.COMPLETED
        taken = transaction.kind == "debit" and (state is TransactionState.PAID or by_link)
        captures = transaction.captures + taken
        if captures > 1:
            self.captured_twice[transaction.identifier] = None
        card = self.credit_cards.get(transaction.from_credit_card_id or "")
        reasons = card.behavior if card is not None and state is TransactionState.FAILED else None
        return self._store(
            attrs.evolve(
                transaction,
                state=state,
                captures=captures,
                fail_reason=reasons.fail_reason if reasons else None,
                fail_direction=reasons.fail_direction if reasons else None,
            )
        )


def _no_listener() -> None:
    """Do nothing: no one listens for events yet."""


def _found(value: _T | None, what: str) -> _T:
    if value is None:
        raise RejectedError(404, f"{what} not found")
    return value
