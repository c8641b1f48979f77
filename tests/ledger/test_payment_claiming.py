"""When a run of payments claims them: batches that had nothing left are not asked again with every claim."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jetpay_async import Preauthorized
from jetpay_async.ledger import _payment_batches, _payment_pipeline
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._empty_scopes import EmptyScopes
from jetpay_async.ledger._payment_batches import PendingClaims
from tests.ledger.payment_batch import outcomes, request, requests
from tests.ledger.payment_service import serving

CLAIM = _payment_batches.claim
NEVER_SECONDS = 3_600.0
LATER = (429, {"detail": "later"})


@pytest.fixture
def ledger_path(tmp_path: Path) -> str:
    return str(tmp_path / "payments.db")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often a claim was made of each batch."""
    counts: Counter[int] = Counter()

    def counting(connection: Connection, batch: int, **options: Any) -> PendingClaims:
        counts[batch] += 1
        return CLAIM(connection, batch, **options)

    monkeypatch.setattr(_payment_batches, "claim", counting)
    return counts


@pytest.mark.asyncio
async def test_a_finished_batch_is_not_asked_with_every_claim(
    ledger_path: str, asked: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one batch is sent, one that has nothing left is asked when that may have changed."""
    monkeypatch.setattr(_payment_pipeline, "POLL_INTERVAL_SECONDS", NEVER_SECONDS)
    async with (
        serving() as (_, client),
        client.durable_preauthorizations(ledger_path, concurrency=2) as reservations,
        asyncio.timeout(60),
    ):
        await outcomes(await reservations.submit("a", [request(99)]))
        before = asked[1]
        found = await outcomes(await reservations.submit("b", requests(30)))

    assert all(isinstance(outcome, Preauthorized) for outcome in found.values())
    assert asked[1] - before <= 2
    assert asked[2] >= 15


@pytest.mark.asyncio
async def test_a_payment_that_is_put_back_here_is_claimed_at_once(
    ledger_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this run gives back does not wait for the next poll interval, though nothing else was left."""
    monkeypatch.setattr(_payment_pipeline, "POLL_INTERVAL_SECONDS", NEVER_SECONDS)
    async with (
        serving() as (service, client),
        client.durable_preauthorizations(ledger_path, concurrency=4, accept_rejections=True) as reservations,
        asyncio.timeout(60),
    ):
        service.script["b0"] = [LATER] * 4
        found = await outcomes(await reservations.submit("a", requests(2)))

    assert all(isinstance(outcome, Preauthorized) for outcome in found.values())
    assert service.requests["b0"] == 5


@pytest.mark.asyncio
@pytest.mark.parametrize("too_early", [False, True], ids=["nothing is free", "no slot is free"])
async def test_what_a_claim_has_missed_is_found_within_a_poll_interval(
    ledger_path: str, monkeypatch: pytest.MonkeyPatch, too_early: bool
) -> None:
    """What another process adds, or holds for a moment, is claimed though nothing happens here."""
    missed = 0

    def miss_once(connection: Connection, batch: int, **options: Any) -> PendingClaims:
        nonlocal missed
        missed += 1
        return PendingClaims(too_early=too_early) if missed <= 3 else CLAIM(connection, batch, **options)

    monkeypatch.setattr(_payment_batches, "claim", miss_once)
    async with (
        serving() as (_, client),
        client.durable_preauthorizations(ledger_path) as reservations,
        asyncio.timeout(60),
    ):
        found = await outcomes(await reservations.submit("a", requests(3)))

    assert all(isinstance(outcome, Preauthorized) for outcome in found.values())


def test_what_was_added_since_a_claim_began_is_not_taken_for_missing() -> None:
    """A claim that began before something may have been added proves nothing of its scope."""
    empty = EmptyScopes[int]()
    since = empty.moment
    empty.reset()
    empty.add([1], since=since)
    assert empty.others([1, 2]) == [1, 2]

    empty.add([1], since=empty.moment)
    assert empty.others([1, 2]) == [2]
    empty.discard(1)
    assert empty.others([1, 2]) == [1, 2]
