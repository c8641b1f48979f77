"""What a run asks of the ledger, each as one operation on a connection. The rules of the states are here.

::

    pending ──claim──▶ sending ──record──▶ captured | rejected | unknown
       ▲                  │
       └──────record──────┘ proven not captured

``claim`` is committed before the first of its requests leaves; ``record`` changes only what its owner holds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from jetpay_async.ledger._sql import span
from jetpay_async.ledger.errors import BatchMismatchError, UnknownBatchError
from jetpay_async.ledger.records import BatchInfo, DebitState, LedgerItem, Progress, Report, Submitted
from jetpay_async.models import TransactionState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jetpay_async.ledger._backend import Connection

Row: TypeAlias = Sequence[Any]
"""Of a debit, as `Statements` selects it."""

PAGE = 500
"""Rows that are read at a time."""


@attrs.frozen
class Scope:
    """What is to be captured: a batch, or a chunk of it."""

    batch: int
    chunk: int | None = None

    @property
    def span(self) -> dict[str, int]:
        """Its ids."""
        return span(self.batch, self.chunk)


@attrs.frozen
class Claim:
    """A debit that this owner intends to send."""

    id: int
    debit_id: str
    attempts: int
    """This one included."""
    repeated: bool
    """Whether it may have been captured before: its status comes first."""
    delay: float
    """Seconds to wait for its slot in the rate."""


@attrs.frozen
class UnresolvedDebit:
    """A debit that somebody may have sent."""

    id: int
    debit_id: str
    attempts: int
    wait: float
    """Seconds until its request can no longer be on its way."""


@attrs.frozen
class OutcomeRecord:
    """What became of a debit, as it is written down."""

    id: int
    state: DebitState
    attempts: int
    look_first: bool = False
    """Of a pending one: whether its status comes before anything is sent."""
    transaction_state: str | None = None
    confirmed_by_status: bool = False
    error: str | None = None
    status: int | None = None
    request_id: str | None = None
    reason: str | None = None
    as_expected: bool = False
    """Whether the request that the claim counted was answered by ``paid``. Nearly all are: so it is written tersely."""


# --- batches ----------------------------------------------------------------------------------------------------------


def find_batch(connection: Connection, key: str) -> tuple[int, Submitted, str]:
    """Return a batch's number, what it is, and its fingerprint.

    Raises:
        UnknownBatchError: There is none.
    """
    rows = connection.query(connection.statements.find_batch, {"key": key})
    if not rows:
        raise UnknownBatchError(f"the ledger has no batch {key!r}; check the key, or submit it")
    number, fingerprint, total, duplicates, chunks = rows[0]
    return number, Submitted(key=key, created=False, total=total, duplicates=duplicates, chunks=chunks), fingerprint


def submit(
    connection: Connection, key: str, debit_ids: Iterable[tuple[int, str]], *, given: int, chunks: int, fingerprint: str
) -> Submitted:
    """Add a batch, whole; or find it, if it is there with the same debits.

    Raises:
        BatchMismatchError: It is there with other debits.
    """
    connection.guard_submission()
    try:
        number, submitted, known = find_batch(connection, key)
    except UnknownBatchError:
        statements = connection.statements
        parameters = {"key": key, "fingerprint": fingerprint, "chunks": chunks}
        batch = connection.query(statements.add_batch, parameters)[0][0]
        low = span(batch)["low"]
        total = connection.insert_debits((low + position, debit_id) for position, debit_id in debit_ids)
        duplicates = given - total
        connection.change(statements.count_batch, {"batch": batch, "total": total, "duplicates": duplicates})
        return Submitted(key=key, created=True, total=total, duplicates=duplicates, chunks=chunks)
    # The fingerprint is of what was given: with other repetitions it differs, though the debits are the same.
    if known != fingerprint and not _has_all(
        connection, number, (debit_id for _, debit_id in debit_ids), submitted.total
    ):
        raise BatchMismatchError(
            f"batch {key!r} exists with other debits ({submitted.total}, now {given} were given); nothing was changed: "
            "give the same debits to go on with it, or other debits under another key"
        )
    return submitted


def _has_all(connection: Connection, batch: int, debit_ids: Iterable[str], total: int) -> bool:
    """Say whether these are the debits of a batch, each at least once, and no other."""
    ids = span(batch)
    seen = bytearray()
    left = iter(debit_ids)
    while page := set(islice(left, PAGE)):
        parameters = {"debit_ids": connection.among_texts(list(page)), **ids}
        found = [number - ids["low"] for (number,) in connection.query(connection.statements.find_debits, parameters)]
        if len(found) < len(page):
            return False
        seen.extend(bytes(max(0, max(found) // 8 + 1 - len(seen))))
        for position in found:
            seen[position >> 3] |= 1 << (position & 7)
    return int.from_bytes(seen).bit_count() == total


def reopen_unknown(connection: Connection, batch: int) -> int:
    """Put what is unknown back, to be looked at before anything is sent."""
    return _reopen(connection, batch, connection.statements.reopen_unknown, DebitState.UNKNOWN)


def reopen_rejected(connection: Connection, batch: int) -> int:
    """Put what was rejected back, to be looked at before anything is sent."""
    return _reopen(connection, batch, connection.statements.reopen_rejected, DebitState.REJECTED)


def _reopen(connection: Connection, batch: int, statement: str, state: DebitState) -> int:
    count = connection.change(statement, span(batch))
    if count:
        counts = {"rejected": 0, "unknown": 0, state.value: count}
        connection.change(connection.statements.reopened, {"batch": batch, **counts})
    return count


def progress(connection: Connection, batch: int) -> BatchInfo:
    """Say where a batch stands."""
    return _info(connection.query(connection.statements.progress_of, {"batch": batch})[0])


def batches(connection: Connection) -> list[BatchInfo]:
    """Say where each batch stands."""
    return [_info(row) for row in connection.query(connection.statements.progress_of_all, {})]


def count_chunk(connection: Connection, scope: Scope) -> Counter[str]:
    """Count the debits of a chunk by state."""
    rows = connection.query(connection.statements.chunk_counts, scope.span)
    return Counter({row[0]: row[1] for row in rows})


def chunks_left(connection: Connection, batch: int) -> list[int]:
    """List the chunks of a batch that have debits without an outcome."""
    return [chunk for (chunk,) in connection.query(connection.statements.chunks_left, span(batch))]


def report(info: BatchInfo) -> Report | None:
    """Report on a batch; None while there are debits without an outcome."""
    progress = info.progress
    if not progress.complete or info.finished_at is None:
        return None
    return Report(
        key=info.key,
        total=progress.total,
        captured=progress.captured,
        rejected=progress.rejected,
        unknown=progress.unknown,
        submitted_at=info.submitted_at,
        finished_at=info.finished_at,
    )


def _info(row: Sequence[Any]) -> BatchInfo:
    total, captured, rejected, unknown, sending, key, submitted_at, finished_at, chunks = row
    return BatchInfo(
        key=key,
        submitted_at=_required_time(submitted_at),
        finished_at=_time(finished_at),
        chunks=chunks,
        progress=Progress(
            total=total,
            pending=total - captured - rejected - unknown - sending,
            sending=sending,
            captured=captured,
            rejected=rejected,
            unknown=unknown,
        ),
    )


# --- captures ---------------------------------------------------------------------------------------------------------


def claim(
    connection: Connection, scope: Scope, *, owner: int, limit: int, resolve: float, rate: float | None
) -> list[Claim]:
    """Intend to send some debits that are pending: durable when the transaction is.

    Args:
        connection: The connection.
        scope: Where to take them from.
        owner: Who sends them.
        limit: How many at most.
        resolve: Seconds from now until their requests can no longer be on their way.
        rate: Captures per second, of all owners together.
    """
    statements = connection.statements
    rows = connection.query(statements.pending, {**scope.span, "limit": limit})
    if not rows:
        return []
    first, step = 0.0, 0.0
    if rate is not None:
        step = 1 / rate
        first = max(0.0, connection.query(statements.reserve, {"span": len(rows) * step})[0][0])
    ids = connection.among([number for (number,) in rows])
    connection.change(
        statements.mark_sending, {"ids": ids, "owner": owner, "resolve": resolve + first + len(rows) * step}
    )
    claimed = connection.query(statements.claimed, {"ids": ids})
    return [
        Claim(number, debit_id, attempts, bool(repeated), first + place * step)
        for place, (number, debit_id, attempts, repeated) in enumerate(claimed)
    ]


def sees_others(connection: Connection, owner: int) -> bool:
    """Say whether another owner has debits under way."""
    return bool(connection.query(connection.statements.sees_others, {"owner": owner}))


def all_held_by_others(connection: Connection, scope: Scope, owner: int) -> bool:
    """Say whether all that is left of a scope is being sent by other owners."""
    return not connection.query(connection.statements.mine_or_free, {**scope.span, "owner": owner})


def take_over(connection: Connection, scopes: Iterable[Scope], *, owner: int) -> list[UnresolvedDebit]:
    """Take over what owners that are dead have been sending: it is in doubt."""
    connection.expire_owners(owner)
    return [
        UnresolvedDebit(number, debit_id, attempts, max(0.0, wait))
        for scope in scopes
        for number, debit_id, attempts, wait in connection.query(
            connection.statements.take_over, {**scope.span, "owner": owner}
        )
    ]


def record(connection: Connection, entries: Sequence[OutcomeRecord], *, owner: int) -> None:
    """Write down what became of debits that this owner holds; those that it lost are another's to tell."""
    by_batch: dict[int, list[OutcomeRecord]] = {}
    for entry in entries:
        by_batch.setdefault(entry.id >> 32, []).append(entry)
    # In one order, so that two owners can't wait for each other.
    for batch in sorted(by_batch):
        _record(connection, batch, by_batch[batch], owner)


def _record(connection: Connection, batch: int, entries: list[OutcomeRecord], owner: int) -> None:
    statements = connection.statements
    paid = [entry.id for entry in entries if entry.as_expected]
    others = [entry for entry in entries if not entry.as_expected]
    final = [entry for entry in others if entry.state is not DebitState.PENDING]
    counts = Counter(entry.state.value for entry in final)
    counts[DebitState.CAPTURED.value] += len(paid)
    finished = counts.total()
    base = batch << 32
    if finished:
        base += connection.query(statements.reserve_sequence, {"batch": batch, "finished": finished})[0][0]
    changed = 0
    if paid:
        changed += connection.change(
            statements.record_paid, {"ids": connection.among(paid), "base": base, "owner": owner}
        )
    if others:
        places = {entry.id: place for place, entry in enumerate(final, start=1 + len(paid))}
        rows = json.dumps([_row(entry, places.get(entry.id)) for entry in others])
        changed += connection.change(statements.record, {"outcomes": rows, "base": base, "owner": owner})
    if changed < len(entries):
        ids = connection.among([entry.id for entry in entries])
        parameters = {"ids": ids, "owner": owner, "base": base, "finished": finished}
        counts = Counter(state for (state,) in connection.query(statements.recorded, parameters))
    if counts.total():
        numbers = {state: counts[state] for state in ("captured", "rejected", "unknown")}
        connection.change(statements.count, {"batch": batch, "finished": counts.total(), **numbers})


def _row(entry: OutcomeRecord, place: int | None) -> dict[str, object]:
    row = attrs.asdict(entry, filter=_is_written)
    row["confirmed_by_status"] = int(entry.confirmed_by_status)
    row["look_first"] = int(entry.look_first)
    row["seq"] = place
    return row


def _is_written(field: attrs.Attribute[object], _: object) -> bool:
    return field.name != "as_expected"


# --- reading ----------------------------------------------------------------------------------------------------------


def outcomes(connection: Connection, batch: int, after: int) -> tuple[list[Row], int]:
    """Read the rows of a batch's next outcomes in their order, and where to go on."""
    ids = span(batch)
    parameters = {"after": max(after, ids["low"]), "high": ids["high"], "limit": PAGE}
    rows = connection.query(connection.statements.outcomes, parameters)
    return rows, rows[-1][-1] if rows else after


def items(
    connection: Connection, key: str, batch: int, after: int, state: DebitState | None
) -> tuple[list[LedgerItem], int]:
    """Read the next debits of a batch in the order they were given, and where to go on."""
    ids = span(batch)
    statement = connection.statements.items if state is None else connection.statements.items_in[state.value]
    rows = connection.query(statement, {"after": max(after, ids["low"] - 1), "high": ids["high"], "limit": PAGE})
    return [read_item(key, row) for row in rows], rows[-1][0] if rows else after


def read_item(key: str, row: Row) -> LedgerItem:
    """Read what a row holds of a debit."""
    _, debit_id, state, attempts, intent_at, finished_at, transaction_state, confirmed_by_status, *rest = row
    error, status, request_id, reason = rest[:4]
    return LedgerItem(
        batch=key,
        debit_id=debit_id,
        state=DebitState(state),
        attempts=attempts,
        intent_at=_time(intent_at),
        finished_at=_time(finished_at),
        transaction_state=None if transaction_state is None else TransactionState(transaction_state),
        confirmed_by_status=bool(confirmed_by_status),
        error=error,
        status=status,
        request_id=request_id,
        reason=reason,
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else _required_time(seconds)


def _required_time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
