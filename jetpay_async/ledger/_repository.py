"""What is read from a ledger, and its batches; each function is one operation on a connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from jetpay_async.ledger import _sql
from jetpay_async.ledger._sql import span
from jetpay_async.ledger.errors import BatchMismatchError, LedgerMismatchError, UnknownBatchError
from jetpay_async.ledger.records import BatchInfo, DebitState, LedgerItem, Progress, Report, Submitted, Waiting
from jetpay_async.models import TransactionState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jetpay_async.ledger._backend import Connection

Row: TypeAlias = Sequence[Any]
"""Of a debit, as `Statements` selects it."""

PAGE = 500
"""Rows that are read at a time."""

_PRUNED = "the batch was pruned from the ledger meanwhile"


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
class FollowedDebit:
    """A debit that the API was processing when it was asked last, or of which nothing is known."""

    id: int
    debit_id: str
    attempts: int
    transaction_state: str | None
    state: DebitState
    """Accepted or unknown."""
    intent: None = None
    """Nobody owns it."""


# --- whose it is ------------------------------------------------------------------------------------------------------


def now(connection: Connection) -> float:
    """Return what the ledger's clock says."""
    seconds: float = connection.query(connection.statements.now, {})[0][0]
    return seconds


def bind(connection: Connection, *, origin: str, account: str | None) -> None:
    """Make the ledger that of this API and account; refuse one that is another's.

    Raises:
        LedgerMismatchError: It is another's.
    """
    statements = connection.statements
    held = connection.query(statements.origin, {})[0]
    if held[0] is None or (account is not None and held[1] is None):
        # Another process may have been first, so that what is there counts.
        held = connection.query(statements.set_origin, {"origin": origin, "account": account})[0]
    if held[0] != origin:
        raise LedgerMismatchError(
            f"this ledger holds the debits of {held[0]}, and the client sends to {origin}; nothing was sent: give the "
            "client the base_url that the ledger belongs to, or another ledger"
        )
    if account is not None and held[1] != account:
        raise LedgerMismatchError(
            f"this ledger belongs to the account {held[1]!r}, and account={account!r} was given; nothing was sent: use "
            "that account's token and account=, or another ledger"
        )


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
    """Return where a batch stands, without what it waits for.

    Raises:
        UnknownBatchError: It is not there any more.
    """
    rows = connection.query(connection.statements.progress_of, {"batch": batch})
    if not rows or rows[0][6].startswith(_sql.ARCHIVED):
        raise UnknownBatchError(_PRUNED)
    return _info(rows[0])


def full_progress(connection: Connection, batch: int) -> BatchInfo:
    """Return where a batch stands, and what it waits for."""
    return _with_waiting(connection, batch, progress(connection, batch))


def batches(connection: Connection) -> list[BatchInfo]:
    """Return where each batch stands, and what it waits for."""
    rows = connection.query(connection.statements.progress_of_all, {})
    return [_with_waiting(connection, batch, _info(row)) for batch, *row in rows]


def _with_waiting(connection: Connection, batch: int, info: BatchInfo) -> BatchInfo:
    if info.progress.complete:
        return info
    parameters = {"batch": batch, **span(batch)}
    debits, seconds = connection.query(connection.statements.waiting, parameters)[0]
    if not debits:
        return info
    waiting = Waiting(debits=debits, seconds=max(0.0, seconds))
    return attrs.evolve(info, progress=attrs.evolve(info.progress, waiting=waiting))


def count_chunk(connection: Connection, scope: Scope) -> Counter[str]:
    """Count the debits of a chunk by state."""
    rows = connection.query(connection.statements.chunk_counts, scope.span)
    return Counter({row[0]: row[1] for row in rows})


def chunks_accepted(connection: Connection, batch: int) -> list[int]:
    """List the chunks of a batch that have accepted debits."""
    return [chunk for (chunk,) in connection.query(connection.statements.chunks_accepted, span(batch))]


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
        accepted=progress.accepted,
        rejected=progress.rejected,
        unknown=progress.unknown,
        submitted_at=info.submitted_at,
        finished_at=info.finished_at,
    )


def _info(row: Sequence[Any]) -> BatchInfo:
    total, captured, accepted, rejected, unknown, sending, key, submitted_at, finished_at, chunks = row
    return BatchInfo(
        key=key,
        submitted_at=_required_time(submitted_at),
        finished_at=read_time(finished_at),
        chunks=chunks,
        progress=Progress(
            total=total,
            pending=total - captured - accepted - rejected - unknown - sending,
            sending=sending,
            captured=captured,
            accepted=accepted,
            rejected=rejected,
            unknown=unknown,
        ),
    )


# --- debits -----------------------------------------------------------------------------------------------------------


def outcomes(connection: Connection, batch: int, after: int) -> tuple[list[Row], int]:
    """Read the rows of a batch's next outcomes in their order, and where to go on."""
    rows = connection.query(connection.statements.outcomes, _page_after(batch, after))
    return rows, rows[-1][0] if rows else after


def completion_and_outcomes(connection: Connection, batch: int, after: int) -> tuple[bool, int, list[Row], int]:
    """Read a batch's next outcomes, and where to go on; say first whether it has all, and how many are accepted.

    Raises:
        UnknownBatchError: It is not there any more.
    """
    parameters = {"batch": batch, **_page_after(batch, after)}
    rows = connection.query(connection.statements.completion_and_outcomes, parameters)
    # A debit of a batch that is gone may be there: what is captured is kept.
    if not rows or rows[0][2] is not None or rows[0][1].startswith(_sql.ARCHIVED):
        raise UnknownBatchError(_PRUNED)
    _, _, _, left, _, accepted, *_ = rows[0]
    return not left, accepted, rows[1:], rows[-1][0]


def _page_after(batch: int, after: int) -> dict[str, int]:
    ids = span(batch)
    return {"after": max(after, ids["low"]), "high": ids["high"], "limit": PAGE}


def last_outcomes(connection: Connection, batch: int, *, after: int, since: int) -> tuple[list[Row], int]:
    """Read the next debits that are accepted, or were when the outcomes up to one place had been read.

    Args:
        connection: The connection.
        batch: The batch.
        after: The id of the debit that was read last.
        since: The place of the outcome that was read last.
    """
    ids = span(batch)
    parameters = {
        "after": max(after, ids["low"] - 1),
        "high": ids["high"],
        "seq": max(since, ids["low"]),
        "limit": PAGE,
    }
    rows = connection.query(connection.statements.last_outcomes, parameters)
    return rows, rows[-1][0] if rows else after


def followed(connection: Connection, scope: Scope, state: DebitState, after: int) -> tuple[list[FollowedDebit], int]:
    """Read the next debits of a scope that are accepted, or unknown, and where to go on."""
    ids = scope.span
    parameters = {"after": max(after, ids["low"] - 1), "high": ids["high"], "limit": PAGE}
    rows = connection.query(connection.statements.items_in[state.value], parameters)
    debits = [FollowedDebit(row[0], row[1], row[3], row[6], state) for row in rows]
    return debits, rows[-1][0] if rows else after


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
    error, status, request_id, reason, later_state = rest[:5]
    return LedgerItem(
        batch=key,
        debit_id=debit_id,
        state=DebitState(state),
        attempts=attempts,
        intent_at=read_time(intent_at),
        finished_at=read_time(finished_at),
        transaction_state=None if transaction_state is None else TransactionState(transaction_state),
        confirmed_by_status=bool(confirmed_by_status),
        error=error,
        status=status,
        request_id=request_id,
        reason=reason,
        later_state=None if later_state is None else TransactionState(later_state),
    )


def read_time(seconds: float | None) -> datetime | None:
    """Read a time; None stays None."""
    return None if seconds is None else _required_time(seconds)


def _required_time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
