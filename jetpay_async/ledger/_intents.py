"""What an owner does with the debits of a ledger: claim them, take them over, record what became of them.

Each function is one operation on a connection. `jetpay_async.ledger._transitions` lists the changes that they make.

``claim`` is committed before the first of its requests leaves; ``record`` changes only what its owner still holds by
the intent that the outcome belongs to.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from jetpay_async.ledger._sql import batch_of
from jetpay_async.ledger.records import DebitState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jetpay_async.ledger._backend import Connection
    from jetpay_async.ledger._repository import Row, Scope

SLOTS_AHEAD_SECONDS = 0.5
"""Seconds of the rate whose slots are reserved by one claim."""

SLOT_LEAD_SECONDS = 1.0
"""Nothing is claimed while the next free slot of the rate is further away than this."""

CLOCK_TOLERANCE_SECONDS = 1.0
"""How far clocks of owners on one machine, and the time between two statements, may put a slot off."""

_UNFINISHED = (DebitState.PENDING, DebitState.SENDING)


# What follows are values, though not frozen: attrs makes those at several times the cost, and each debit has some.


@attrs.define
class Claim:
    """A debit that this owner intends to send."""

    id: int
    debit_id: str
    intent: int
    """Which intent of the debit this is; an outcome of another one is not recorded."""
    attempts: int
    """Capture requests that were made, or may have been; this one included."""
    delay: float
    """Seconds to wait for its slot in the rate."""


@attrs.define
class UnresolvedDebit:
    """A debit that may have been captured: its status is read before anything is sent."""

    id: int
    debit_id: str
    intent: int
    attempts: int
    wait: float
    """Seconds until no request for it can still be on its way."""
    seen_state: str | None = None
    """A state beyond ``preauthorized`` that was seen once: it is not sent again."""


@attrs.define
class ClaimResult:
    """What a claim brought."""

    send: list[Claim] = attrs.Factory(list["Claim"])
    """What is to be sent."""
    resolve: list[UnresolvedDebit] = attrs.Factory(list["UnresolvedDebit"])
    """What may have been sent before: its status comes first."""
    known: list[OutcomeRecord] = attrs.Factory(list["OutcomeRecord"])
    """What another batch of the ledger has captured, to be recorded as it is."""
    too_early: bool = False
    """Whether nothing was claimed because the next slot of the rate is still too far ahead."""


@attrs.define
class OutcomeRecord:
    """What became of a debit, as it is recorded."""

    id: int
    debit_id: str
    intent: int | None
    """Which intent it belongs to; None for a debit that has an outcome already, and which nobody owns."""
    state: DebitState
    attempts: int
    resolve_first: bool = False
    """Whether a pending one is resolved before it is sent; whether one being sent is in doubt."""
    certain_in: float | None = None
    """Seconds from now until no request for it can still be on its way; None if the ledger holds that already."""
    transaction_state: str | None = None
    seen_state: str | None = None
    """A state beyond ``preauthorized`` that was seen."""
    confirmed_by_status: bool = False
    error: str | None = None
    status: int | None = None
    request_id: str | None = None
    reason: str | None = None
    follows: DebitState = DebitState.ACCEPTED
    """The outcome that it replaces, if there is one."""
    as_expected: bool = False
    """Whether the request that the claim counted was answered by ``paid``; nearly all are, and recorded tersely."""


def claim(
    connection: Connection,
    scope: Scope,
    *,
    owner: int,
    limit: int,
    resolve: float,
    rate: float | None,
    restored_until: float | None = None,
) -> ClaimResult:
    """Intend to send some debits that are pending: durable when the transaction is.

    Args:
        connection: The connection.
        scope: Where to take them from.
        owner: Who sends them.
        limit: How many at most.
        resolve: Seconds from now until their requests can no longer be on their way.
        rate: Captures per second, of all owners together.
        restored_until: When requests that a restored ledger has forgotten can no longer be on their way, on the
            ledger's clock.
    """
    statements = connection.statements
    lead, step = 0.0, 0.0
    if rate is not None:
        step = 1 / rate
        farthest = SLOT_LEAD_SECONDS + max(SLOTS_AHEAD_SECONDS, step) + CLOCK_TOLERANCE_SECONDS
        lead = max(0.0, connection.query(statements.next_slot, {"farthest": farthest})[0][0])
        if lead > SLOT_LEAD_SECONDS:
            return ClaimResult(too_early=True)
        limit = max(1, min(limit, int(rate * SLOTS_AHEAD_SECONDS)))
    pending = {**scope.span, "limit": limit}
    marked = {"owner": owner, "resolve": resolve + lead + limit * step}
    if restored_until is None:
        numbers = [number for (number,) in connection.query(statements.claim_pending, pending | marked)]
    else:
        numbers = [number for (number,) in connection.query(statements.pending, pending)]
        ids = connection.among(numbers)
        connection.change(statements.expect_lost_requests, {"ids": ids, "certain_at": restored_until})
        connection.change(statements.mark_sending, {"ids": ids, **marked})
    if not numbers:
        return ClaimResult()
    ids = connection.among(numbers)
    claims, unsure = ClaimResult(), dict[int, OutcomeRecord]()
    for number, debit_id, intent, attempts, resolve_first, others in connection.query(statements.claimed, {"ids": ids}):
        if resolve_first or others:
            earlier = attempts if resolve_first else attempts - 1
            unsure[number] = OutcomeRecord(number, debit_id, intent, DebitState.SENDING, earlier)
        else:
            claims.send.append(Claim(number, debit_id, intent, attempts, lead + len(claims.send) * step))
    if rate is not None and claims.send:
        connection.change_later(statements.reserve_slots, {"span": len(claims.send) * step})
    if unsure:
        claims.known.extend(_take_known(connection, unsure))
    if unsure:
        claims.resolve.extend(_resolve_first(connection, unsure))
    return claims


def _take_known(connection: Connection, unsure: dict[int, OutcomeRecord]) -> Iterable[OutcomeRecord]:
    """Take those out that the ledger knows to be captured or accepted, in whatever batch."""
    debit_ids = connection.among_texts([entry.debit_id for entry in unsure.values()])
    rows = connection.query(connection.statements.known, {"debit_ids": debit_ids})
    # Captured ones come last, and are what counts.
    answers = {debit_id: answer for debit_id, *answer in rows}
    for number in [number for number, entry in unsure.items() if entry.debit_id in answers]:
        entry = unsure.pop(number)
        state, transaction_state, confirmed = answers[entry.debit_id]
        yield attrs.evolve(
            entry,
            state=DebitState(state),
            transaction_state=transaction_state,
            seen_state=transaction_state,
            confirmed_by_status=bool(confirmed),
        )


def _resolve_first(connection: Connection, unsure: dict[int, OutcomeRecord]) -> list[UnresolvedDebit]:
    """Have the status of these read first, once no request for them, of whatever batch, can still be on its way."""
    statements = connection.statements
    rows = connection.query(statements.resolve_first, {"ids": connection.among(list(unsure))})
    debit_ids = connection.among_texts([entry.debit_id for entry in unsure.values()])
    connection.change(statements.hand_over_resolution, {"debit_ids": debit_ids})
    return [_unresolved(row) for row in rows]


def _unresolved(row: Row) -> UnresolvedDebit:
    number, debit_id, intent, attempts, wait, seen_state = row
    return UnresolvedDebit(number, debit_id, intent, attempts, max(0.0, wait), seen_state)


def expect_lost_requests(connection: Connection, restored_until: float) -> None:
    """Have every debit without an outcome resolved before it is sent, by this run and by any other.

    Args:
        connection: The connection.
        restored_until: When requests that the restored ledger has forgotten can no longer be on their way, on the
            ledger's clock.
    """
    statements = connection.statements
    for statement in (statements.expect_lost_requests_of_pending, statements.expect_lost_requests_of_sending):
        connection.change(statement, {"certain_at": restored_until})


def sees_others(connection: Connection, owner: int) -> bool:
    """Say whether another owner has debits under way."""
    return bool(connection.query(connection.statements.sees_others, {"owner": owner}))


def all_held_by_others(connection: Connection, scope: Scope, owner: int) -> bool:
    """Say whether all that is left of a scope is being sent by other owners."""
    return not connection.query(connection.statements.mine_or_free, {**scope.span, "owner": owner})


def take_over(
    connection: Connection, scopes: Iterable[Scope], *, owner: int, restored_until: float | None = None
) -> list[UnresolvedDebit]:
    """Take over what owners that are dead have been sending, and these scopes wait for: it is in doubt."""
    statements = connection.statements
    connection.expire_owners(owner)
    unresolved = [
        _unresolved(row)
        for scope in scopes
        for row in connection.query(statements.take_over, {**scope.span, "owner": owner})
    ]
    if restored_until is not None and unresolved:
        ids = connection.among([each.id for each in unresolved])
        connection.change(statements.expect_lost_requests, {"ids": ids, "certain_at": restored_until})
    return unresolved


def record(connection: Connection, entries: Sequence[OutcomeRecord], *, owner: int) -> None:
    """Record what became of debits; of those that this owner has lost since, another one does."""
    by_batch: dict[int, list[OutcomeRecord]] = {}
    for entry in entries:
        by_batch.setdefault(batch_of(entry.id), []).append(entry)
    # In one order, so that two owners can't wait for each other.
    for batch in sorted(by_batch):
        own = [entry for entry in by_batch[batch] if entry.intent is not None]
        if own:
            _record(connection, batch, own, owner)
        for earlier in (DebitState.ACCEPTED, DebitState.UNKNOWN, DebitState.SENDING):
            followed = [entry for entry in by_batch[batch] if entry.intent is None and entry.follows is earlier]
            if followed:
                _record_followed(connection, batch, followed, earlier)


def _record(connection: Connection, batch: int, entries: list[OutcomeRecord], owner: int) -> None:
    statements = connection.statements
    # By intent: nearly all have the same one, and the statement is given ids alone.
    paid: dict[int | None, list[int]] = {}
    others: list[OutcomeRecord] = []
    for entry in entries:
        if entry.as_expected:
            paid.setdefault(entry.intent, []).append(entry.id)
        else:
            others.append(entry)
    final = [entry for entry in others if entry.state not in _UNFINISHED]
    counts = Counter(entry.state.value for entry in final)
    counts[DebitState.CAPTURED.value] += len(entries) - len(others)
    finished = counts.total()
    if finished:
        _count(connection, batch, counts, finished=finished, ahead=True)
    # As far as `last_seq` was before.
    base = (batch << 32) - finished
    common = {"batch": batch, "owner": owner}
    changed, numbered = 0, base
    for intent, ids in paid.items():
        parameters = {"ids": connection.among(ids), "intent": intent, "base": numbered, **common}
        changed += connection.change(statements.record_paid, parameters)
        numbered += len(ids)
    if others:
        rows = _rows(others, final, start=1 + len(entries) - len(others))
        changed += connection.change(statements.record, {"outcomes": rows, "base": base, **common})
    if changed < len(entries) and finished:
        base += connection.query(statements.last_seq, {"batch": batch})[0][0]
        counts.subtract(_recorded(connection, entries, base, finished))
        lost = Counter({state: -count for state, count in counts.items()})
        _count(connection, batch, lost, finished=lost.total())


def _record_followed(connection: Connection, batch: int, entries: list[OutcomeRecord], earlier: DebitState) -> None:
    """Record what became of debits that were accepted, or unknown."""
    final = [entry for entry in entries if entry.state is not earlier]
    base = _reserve_sequence(connection, batch, len(final))
    rows = _rows(entries, final, start=1)
    parameters = {"outcomes": rows, "base": base, "earlier": earlier.value}
    connection.change(connection.statements.record_followed, parameters)
    counts = _recorded(connection, final, base, len(final)) if final else Counter[str]()
    if counts.total():
        finished = counts.total() if earlier is DebitState.SENDING else 0
        counts[earlier.value] = -counts.total()
        # What was in doubt had no outcome yet.
        _count(connection, batch, counts, finished=finished)


def _reserve_sequence(connection: Connection, batch: int, finished: int) -> int:
    """Return the number after which the next outcomes of a batch are numbered."""
    base = batch << 32
    if finished:
        parameters = {"batch": batch, "finished": finished}
        base += connection.query(connection.statements.reserve_sequence, parameters)[0][0]
    return base


def _rows(entries: list[OutcomeRecord], final: list[OutcomeRecord], *, start: int) -> str:
    places = {entry.id: place for place, entry in enumerate(final, start)}
    return json.dumps([_row(entry, places.get(entry.id)) for entry in entries])


def _recorded(connection: Connection, entries: list[OutcomeRecord], base: int, finished: int) -> Counter[str]:
    """Count the states of those outcomes that were recorded."""
    ids = connection.among([entry.id for entry in entries])
    rows = connection.query(connection.statements.recorded, {"ids": ids, "base": base, "finished": finished})
    return Counter(state for (state,) in rows)


def _count(connection: Connection, batch: int, counts: Counter[str], *, finished: int, ahead: bool = False) -> None:
    numbers = {state: counts[state] for state in ("captured", "accepted", "rejected", "unknown")}
    statements = connection.statements
    statement = statements.count_ahead if ahead else statements.count
    connection.change_later(statement, {"batch": batch, "finished": finished, **numbers})


def _row(entry: OutcomeRecord, place: int | None) -> dict[str, object]:
    row = attrs.asdict(entry, filter=_is_recorded)
    row["confirmed_by_status"] = int(entry.confirmed_by_status)
    row["resolve_first"] = int(entry.resolve_first)
    row["seq"] = place
    return row


def _is_recorded(field: attrs.Attribute[object], _: object) -> bool:
    return field.name not in {"as_expected", "debit_id", "follows"}
