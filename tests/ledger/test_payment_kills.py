"""Reservations over three processes that are killed, with lost answers, and events late, doubled and out of order.

``JETPAY_TEST_PAYMENTS=2000 JETPAY_TEST_KILLS=20`` is the full size.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from jetpay_async import JetpayClient
from jetpay_async.ledger import Ledger, PaymentState
from jetpay_async.models import TransactionState
from jetpay_async.webhooks import TransactionEvent
from tests.ledger.payment_service import FAST, LOSE, LOSE_AFTERWARDS, MAKE, PaymentService, Reply
from tests.ledger.scale import KILLS

if sys.platform == "win32":  # a ledger in a file needs flock
    pytest.skip("no flock", allow_module_level=True)

pytestmark = [pytest.mark.asyncio, pytest.mark.endurance]

logger = logging.getLogger(__name__)

PAYMENTS = int(os.environ.get("JETPAY_TEST_PAYMENTS", "90"))
PROCESSES = 3
TIME_LIMIT_SECONDS = 60 + PAYMENTS / 5 + KILLS * 5
OURS = 123


@attrs.define
class UnreliableService(PaymentService):
    """Loses some requests before, and some answers after the work, and reports each debit by events."""

    chance: random.Random = attrs.Factory(lambda: random.Random(7))
    debit_of: dict[str, str] = attrs.Factory(dict)
    """By statement."""
    events: list[TransactionEvent] = attrs.Factory(list)
    """Not delivered yet."""

    async def pay(self, method: str, parts: list[str], asked: dict[str, Any]) -> Reply | None:
        statement = asked["statement"]
        acts = [LOSE, LOSE_AFTERWARDS, *[MAKE] * 30]
        self.script[statement] = [self.chance.choice(acts)]
        await asyncio.sleep(self.chance.uniform(0, 0.02))
        before = len(self.states)
        reply = await super().pay(method, parts, asked)
        if len(self.states) > before:
            debit_id = f"debit_{before}"
            self.debit_of[statement] = debit_id
            self.report(debit_id, "requested", "preauthorized")
        return reply

    def report(self, debit_id: str, *states: str) -> None:
        for state in states:
            self.events.append(
                TransactionEvent(
                    id=len(self.events) + 1,
                    created_at=datetime.now(UTC),
                    type="transactions.debits.updated",
                    data={},
                    webhook_id=OURS,
                    transaction_id=debit_id,
                    state=TransactionState(state),
                )
            )

    async def deliver(self, ledger: Ledger) -> None:
        """Deliver one event of those that wait, and some of them twice."""
        event = self.events.pop(self.chance.randrange(len(self.events)))
        for _ in range(self.chance.choice([1, 1, 2])):
            await ledger.apply(event)


class Runner:
    """A process that is started again when it was killed."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.ledger.payment_runner",
            json.dumps(self.arguments),
            cwd=Path(__file__).parents[2],
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def runners(ledger: str, url: str, *, bulk: bool) -> AsyncIterator[list[Runner]]:
    made = [
        Runner({"ledger": ledger, "url": url, "count": PAYMENTS, "seed": seed, "concurrency": 6, "bulk": bulk})
        for seed in range(PROCESSES)
    ]
    try:
        for runner in made:
            await runner.start()
        yield made
    finally:
        for runner in made:
            await runner.kill()


async def until_made(service: UnreliableService, count: int, made: list[Runner]) -> None:
    """Wait until so many reservations were asked for, or all processes have ended."""
    while service.requests.total() < count:
        if all(runner.process is not None and runner.process.returncode is not None for runner in made):
            return
        await asyncio.sleep(0.005)


async def deliver_all(service: UnreliableService, ledger: Ledger, ended: asyncio.Event) -> None:
    while not ended.is_set() or service.events:
        # Late: the newest ones wait for some others.
        if len(service.events) > (0 if ended.is_set() else 10):
            await service.deliver(ledger)
        else:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("bulk", [pytest.param(False, id="one by one"), pytest.param(True, id="as a batch")])
async def test_processes_killed_with_lost_answers_and_late_events(ledger: str, *, bulk: bool) -> None:
    """No reference is reserved twice; every reservation is known, offered or released, unless it is held."""
    kills = min(KILLS, 3) if PAYMENTS < 200 else KILLS
    async with asyncio.timeout(TIME_LIMIT_SECONDS), UnreliableService().listen() as service:
        async with Ledger(ledger, webhook_ids={OURS}) as opened:
            ended = asyncio.Event()
            delivering = asyncio.create_task(deliver_all(service, opened, ended))
            async with runners(ledger, service.url, bulk=bulk) as made:
                for number in range(kills):
                    await until_made(service, PAYMENTS * (number + 1) // (kills + 2), made)
                    victim = service.chance.choice(made)
                    await victim.kill()
                    await victim.start()
                for runner in made:
                    assert runner.process is not None
                    assert await runner.process.wait() == 0
            ended.set()
            await delivering

            counts = await decide(service, opened, ledger)
    logger.info("%d reservations, %d kills: %s", PAYMENTS, kills, counts)


async def decide(service: UnreliableService, opened: Ledger, ledger: str) -> dict[str, int]:
    """Decide what is unknown, and check every reservation that the service made."""
    assert set(service.made.values()) <= {1}
    payments = {payment.reference: payment async for payment in opened.payments()}
    assert len(payments) == PAYMENTS
    booked = set[str]()
    offered = 0
    for reference, payment in payments.items():
        debit_id = service.debit_of.get(reference)
        if payment.state is PaymentState.SUCCEEDED:
            assert payment.transaction_id == debit_id
            booked.add(payment.transaction_id or "")
            continue
        assert payment.state is PaymentState.UNKNOWN, payment
        if debit_id is None:
            continue
        offered += 1
        assert debit_id in [each.transaction_id for each in await opened.candidates(reference)]
        if offered % 2:
            await opened.adopt(reference, debit_id)
            booked.add(debit_id)
    held = {candidate.transaction_id for candidate in (await opened.orphans())[:1]}
    async with JetpayClient("token", base_url=service.url, timeout=20.0, retry=FAST) as client:
        reports = await client.release_orphans(
            ledger, older_than=0.001, keep=lambda orphan: orphan.transaction_id in held
        )
    released = {report.transaction_id for report in reports if report.result == "released"}
    assert released.isdisjoint(booked | held)
    assert booked | released | held == set(service.states)
    assert {debit_id for debit_id, state in service.states.items() if state == "cancelled"} == released
    return {
        "reserved": len(booked),
        "offered": offered,
        "released": len(released),
        "unknown without a debit": sum(reference not in service.debit_of for reference in payments),
    }
