"""Steps of owners on a connection to a ledger, for tests of one backend."""

from __future__ import annotations

from collections.abc import Sequence

from jetpay_async.ledger import DebitState, Progress, _intents, _repository
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._intents import Claim, OutcomeRecord, UnresolvedDebit
from jetpay_async.ledger._repository import Scope


def submit(connection: Connection, key: str, debit_ids: list[str]) -> int:
    connection.begin(writes=True)
    _repository.submit(connection, key, enumerate(debit_ids), given=len(debit_ids), chunks=1, fingerprint=key)
    connection.commit()
    return _repository.find_batch(connection, key)[0]


def register(connection: Connection, lease: float = 60.0) -> int:
    connection.begin(writes=True)
    owner = connection.register(lease)
    connection.commit()
    return owner


def claim(connection: Connection, owner: int, limit: int, scope: Scope = Scope(1)) -> list[Claim]:  # noqa: B008
    return _intents.claim(connection, scope, owner=owner, limit=limit, resolve=30.0, rate=None).send


def record(connection: Connection, claimed: Sequence[Claim | UnresolvedDebit], owner: int) -> None:
    """Say that they are captured, every other one as nearly all are."""
    entries = [
        OutcomeRecord(
            each.id,
            each.debit_id,
            each.intent,
            DebitState.CAPTURED,
            each.attempts,
            transaction_state="paid",
            as_expected=bool(place % 2),
        )
        for place, each in enumerate(claimed)
    ]
    connection.begin(writes=True)
    _intents.record(connection, entries, owner=owner)
    connection.commit()


def progress(connection: Connection, batch: int = 1) -> Progress:
    return _repository.progress(connection, batch).progress
