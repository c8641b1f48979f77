"""What events, persons and applications say of the transactions in a ledger; each is one operation on a connection.

Only what is further than what is known changes anything, so that events may come late, doubled and out of order.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs

from jetpay_async._core.contract import state_rank
from jetpay_async.errors import OutcomeUnknownError
from jetpay_async.ledger import _intents, _payments, _rows
from jetpay_async.ledger._payment_outcomes import ENDED_STATES, OPERATIONS
from jetpay_async.ledger._repository import FollowedDebit
from jetpay_async.ledger.errors import PaymentStateError
from jetpay_async.ledger.payment_records import Candidate, EventEffect, LedgerPayment, PaymentState
from jetpay_async.ledger.records import DebitState
from jetpay_async.models import CAPTURED_STATES, TransactionState, TransactionStatus

if TYPE_CHECKING:
    from jetpay_async.ledger._backend import Connection
    from jetpay_async.ledger._repository import Row

_DECISIVE_RANK = 2
"""Of a state that only a debit that was captured, or is over, is in: earlier ones it has also while it is reserved."""


@attrs.frozen
class TransactionReport:
    """What is said of a transaction."""

    transaction_id: str
    kind: str
    """``debit`` or ``credit``."""
    state: TransactionState
    created_at: float
    """When it happened, seconds since the epoch."""


def report(connection: Connection, said: TransactionReport) -> EventEffect:
    """Record what is said of a transaction, if it is news."""
    connection.lock_transaction(said.transaction_id)
    payments = connection.query(connection.statements.payments.of_transaction, {"transaction_id": said.transaction_id})
    effects = [_report_payment(connection, row, said.state) for row in payments]
    debits: list[Row] = []
    if said.kind == "debit":
        debits = connection.query(connection.statements.payments.debits_of, {"transaction_id": said.transaction_id})
        effects.extend(_report_debit(connection, row, said) for row in debits)
    if not payments and not debits:
        return _report_unknown(connection, said)
    for effect in (EventEffect.REVERSED, EventEffect.RESOLVED, EventEffect.RECORDED):
        if effect in effects:
            return effect
    return EventEffect.NOTHING


def _is_news(state: TransactionState, known: str | None) -> bool:
    if known is None or state_rank(state) > state_rank(known):
        return True
    return state in ENDED_STATES and known in CAPTURED_STATES


def _report_payment(connection: Connection, row: Row, state: TransactionState) -> EventEffect:
    payment = _payments.read_payment(row)
    become = OPERATIONS[payment.operation].state_after(state)
    effect = EventEffect.RESOLVED
    if payment.state is PaymentState.SUCCEEDED:
        if not _is_news(state, payment.transaction_state):
            return EventEffect.NOTHING
        become = PaymentState.SUCCEEDED
        effect = EventEffect.REVERSED if state in ENDED_STATES else EventEffect.RECORDED
    elif (
        payment.state not in {PaymentState.ACCEPTED, PaymentState.UNKNOWN}
        or become is None
        or (become is payment.state and not _is_news(state, payment.transaction_state))
    ):
        return EventEffect.NOTHING
    rejected = become is PaymentState.REJECTED
    connection.change(
        connection.statements.payments.report,
        {
            "id": row[0],
            "state": become.value,
            "transaction_state": state.value,
            "resolved_by": payment.resolved_by if effect is not EventEffect.RESOLVED else "event",
            "error": "TransactionFailedError" if rejected else None,
            "reason": f"the transaction is {state}, and final" if rejected else None,
        },
    )
    return effect


def _report_debit(connection: Connection, row: Row, said: TransactionReport) -> EventEffect:
    """Record what is said of a debit that is captured from the ledger."""
    number, state, attempts, resolve_first, known = row
    if state_rank(said.state) < _DECISIVE_RANK:
        return EventEffect.NOTHING
    statements = connection.statements.payments
    debit_state = DebitState(state)
    if debit_state is DebitState.CAPTURED:
        parameters = {"transaction_id": said.transaction_id, "state": said.state.value}
        reversed_ = said.state in ENDED_STATES and connection.change(statements.note_later_state, parameters)
        return EventEffect.REVERSED if reversed_ else EventEffect.NOTHING
    status = TransactionStatus(transaction_id=said.transaction_id, state=said.state, raw={})
    outcome = _rows.followed(said.transaction_id, status)
    in_doubt = debit_state is DebitState.SENDING and resolve_first
    if outcome is not None and (in_doubt or debit_state in {DebitState.ACCEPTED, DebitState.UNKNOWN}):
        followed = FollowedDebit(number, said.transaction_id, attempts, known, debit_state)
        entry = attrs.evolve(_rows.write(followed, outcome, earlier=attempts), follows=debit_state)
        _intents.record(connection, [entry], owner=0)
        return EventEffect.RESOLVED
    unfinished = debit_state in {DebitState.PENDING, DebitState.SENDING}
    parameters = {"id": number, "state": said.state.value}
    recorded = unfinished and connection.change(statements.note_seen_state, parameters)
    return EventEffect.RECORDED if recorded else EventEffect.NOTHING


def _report_unknown(connection: Connection, said: TransactionReport) -> EventEffect:
    """Note a transaction that nothing in the ledger knows, if an unresolved payment may have made it."""
    statements = connection.statements.payments
    known = connection.query(statements.transaction, {"transaction_id": said.transaction_id})
    parameters = {"transaction_id": said.transaction_id, "state": said.state.value}
    if known:
        if not _is_news(said.state, known[0][1]):
            return EventEffect.NOTHING
        connection.change(statements.change_transaction, parameters)
        return EventEffect.OFFERED
    parameters |= {"kind": said.kind, "created_at": said.created_at}  # type: ignore[dict-item] # one of them is a number
    if not connection.query(statements.awaits, parameters):
        return EventEffect.NOTHING
    connection.change(statements.note_transaction, parameters)
    return EventEffect.OFFERED


def record(connection: Connection, entry: _payments.PaymentRecord, kind: str) -> str | None:
    """Record what became of a payment, and what events have said of its transaction before.

    Returns:
        The reference that has the transaction of this answer already, since somebody adopted it: then this payment is
        unknown. None as a rule.
    """
    statements = connection.statements.payments
    if entry.transaction_id is not None:
        connection.lock_transaction(entry.transaction_id)
        if (holder := _holder(connection, entry)) is not None:
            # One transaction never stands for two payments: a person has to say whose it is.
            _payments.record(connection, _contested(entry, holder))
            return holder
    recorded = _payments.record(connection, entry)
    if entry.transaction_id is None:
        return None
    parameters = {"transaction_id": entry.transaction_id}
    if not recorded:
        _offer(connection, entry, kind)
        return None
    for _, state, created_at, releasing, _ in connection.query(statements.transaction, parameters):
        report(connection, TransactionReport(entry.transaction_id, kind, TransactionState(state), created_at))
        if not releasing:
            connection.change(statements.forget_transaction, parameters)
    return None


def _holder(connection: Connection, entry: _payments.PaymentRecord) -> str | None:
    """Return the reference of another payment that has the transaction of an answer."""
    if entry.state is PaymentState.REJECTED:  # nothing is reserved or paid, whoever has it
        return None
    rows = connection.query(connection.statements.payments.of_transaction, {"transaction_id": entry.transaction_id})
    others = [_payments.read_payment(row) for row in rows if row[0] != entry.id]
    held = {PaymentState.SUCCEEDED, PaymentState.ACCEPTED, PaymentState.UNKNOWN}
    return next((other.reference for other in others if other.state in held), None)


def _contested(entry: _payments.PaymentRecord, holder: str) -> _payments.PaymentRecord:
    return _payments.PaymentRecord(
        entry.id,
        entry.intent,
        PaymentState.UNKNOWN,
        entry.attempts,
        error=OutcomeUnknownError.__name__,
        status=entry.status,
        request_id=entry.request_id,
        reason=f"its response named {entry.transaction_id}, which is the transaction of {holder!r} in the ledger",
    )


def _offer(connection: Connection, entry: _payments.PaymentRecord, kind: str) -> None:
    """Keep the transaction of a payment that somebody has decided otherwise about meanwhile."""
    statements = connection.statements.payments
    if not connection.query(statements.of_transaction, {"transaction_id": entry.transaction_id}):
        now = connection.query(connection.statements.now, {})[0][0]
        state = entry.transaction_state or TransactionState.PROCESSING.value
        connection.change(
            statements.note_transaction,
            {"transaction_id": entry.transaction_id, "kind": kind, "state": state, "created_at": now},
        )


# --- persons and applications -----------------------------------------------------------------------------------------


def candidates(connection: Connection, reference: str) -> list[Candidate]:
    """Return the transactions that may be the one of an unknown payment.

    Raises:
        UnknownReferenceError: There is no such payment.
    """
    if _payments.find(connection, reference).state is not PaymentState.UNKNOWN:
        return []
    return [
        _candidate(row) for row in connection.query(connection.statements.payments.candidates, {"reference": reference})
    ]


def adopt(connection: Connection, reference: str, transaction_id: str, state: TransactionState | None) -> LedgerPayment:
    """Record which transaction an unknown payment has made.

    Raises:
        UnknownReferenceError: There is no such payment.
        PaymentStateError: It can't be that transaction, or the payment is not unknown.
    """
    statements = connection.statements.payments
    connection.lock_transaction(transaction_id)
    payment = _unknown_payment(connection, reference)
    parameters = {"transaction_id": transaction_id}
    if payment.transaction_id not in {None, transaction_id}:
        raise PaymentStateError(f"{reference!r}: its response named {payment.transaction_id!r}, not {transaction_id!r}")
    for row in connection.query(statements.of_transaction, parameters):
        other = _payments.read_payment(row).reference
        if other != reference:
            raise PaymentStateError(f"{transaction_id!r} is the transaction of {other!r}")
    for row in connection.query(statements.transaction, parameters):
        if row[3]:
            raise PaymentStateError(f"{transaction_id!r} is being released")
        reported = TransactionState(row[1])
        state = reported if state is None or _is_news(reported, state) else state
    if state is None:
        raise PaymentStateError(
            f"{transaction_id!r}: no event has reported it; read its transaction_status(), and pass the state",
        )
    become = OPERATIONS[payment.operation].state_after(state)
    if become is None or become is PaymentState.REJECTED:
        raise PaymentStateError(f"{transaction_id!r} is {state}, so that it is no {payment.operation} that is done")
    adopted = connection.change(
        statements.adopt,
        {**parameters, "reference": reference, "state": become.value, "transaction_state": state.value},
    )
    if not adopted:
        raise PaymentStateError(f"{reference!r} was adopted or discarded meanwhile; look at it again")
    connection.change(statements.forget_transaction, parameters)
    return _payments.find(connection, reference)


def discard(connection: Connection, reference: str) -> LedgerPayment:
    """Record that an unknown payment has made no transaction.

    Raises:
        UnknownReferenceError: There is no such payment.
        PaymentStateError: It is not unknown, or its request may still be on its way.
    """
    payment = _unknown_payment(connection, reference)
    if not connection.change(connection.statements.payments.discard, {"reference": reference}):
        raise PaymentStateError(
            f"{reference!r}: its request may still be on its way until {payment.certain_at}; look again after that",
        )
    return _payments.find(connection, reference)


def _unknown_payment(connection: Connection, reference: str) -> LedgerPayment:
    payment = _payments.find(connection, reference)
    if payment.state is not PaymentState.UNKNOWN:
        raise PaymentStateError(f"{reference!r} is {payment.state}: only what is unknown can be adopted or discarded")
    return payment


def orphans(connection: Connection, older_than: float) -> list[Candidate]:
    """Return the debits that events reported and nothing in the ledger knows."""
    rows = connection.query(connection.statements.payments.orphans, {"older_than": older_than})
    return [_candidate(row) for row in rows]


def begin_release(connection: Connection, transaction_id: str) -> bool | None:
    """Mark an orphan as being released, so that nobody adopts it.

    Returns:
        Whether it was marked before, by a run that may have cancelled it; None if something in the ledger knows it.
    """
    connection.lock_transaction(transaction_id)
    statements = connection.statements.payments
    before = connection.query(statements.transaction, {"transaction_id": transaction_id})
    if not connection.change(statements.set_releasing, {"transaction_id": transaction_id, "releasing": 1}):
        return None
    return bool(before[0][3])


def give_release_up(connection: Connection, transaction_id: str) -> None:
    """Take the mark of an orphan away for which nothing was sent."""
    connection.lock_transaction(transaction_id)
    connection.change(connection.statements.payments.set_releasing, {"transaction_id": transaction_id, "releasing": 0})


def end_release(connection: Connection, transaction_id: str, state: TransactionState) -> None:
    """Record the last state of a transaction that was released."""
    now = connection.query(connection.statements.now, {})[0][0]
    report(connection, TransactionReport(transaction_id, "debit", state, now))
    parameters = {"transaction_id": transaction_id}
    if state in ENDED_STATES:
        connection.change(connection.statements.payments.forget_transaction, parameters)


def _candidate(row: Row) -> Candidate:
    transaction_id, state, created_at, releasing = row
    return Candidate(
        transaction_id=transaction_id,
        state=TransactionState(state),
        created_at=datetime.fromtimestamp(created_at, UTC),
        releasing=bool(releasing),
    )
