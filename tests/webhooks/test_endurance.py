"""Each event exactly once, whatever happens to the receivers.

The sandbox delivers every event to two receivers, which are processes that share one database: signed, in batches, some
twice, some in the wrong order. The receivers fail now and then, are killed (-9), stopped for longer than their leases
last, and started again, at random.

``JETPAY_TEST_EVENTS`` sets how many events there are: 1,000 unless told otherwise, and a quarter of them where the
receivers answer early. ``--log-cli-level=INFO`` shows what was done to them and what they answered.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import TYPE_CHECKING

import pytest

from jetpay_async import JetpayClient
from jetpay_async.sandbox import DeliveryFault, DeliveryFaultKind, DeliveryPolicy, Sandbox
from jetpay_async.webhooks import SqliteInbox
from tests.webhooks import kill_receiver
from tests.webhooks.processes import TROUBLES, ReceiverProcess, make_trouble

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

logger = logging.getLogger(__name__)

EVENTS = int(os.environ.get("JETPAY_TEST_EVENTS", "1000"))
STALL_SECONDS = 3 * kill_receiver.LEASE_SECONDS

pytestmark = [
    pytest.mark.endurance,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows can't stop and continue a process"),
    pytest.mark.timeout(120 + EVENTS / 10),
]


@asynccontextmanager
async def receivers(sandbox: Sandbox, database: Path, *, mode: str) -> AsyncGenerator[list[ReceiverProcess]]:
    """Two of them, each registered for every event to come."""
    arguments = (str(database), sandbox.url, mode)
    pair = [ReceiverProcess(kill_receiver.__file__, arguments, database.with_suffix(".log")) for _ in range(2)]
    async with AsyncExitStack() as stack:
        for receiver in pair:
            await receiver.start()
            stack.push_async_callback(receiver.end, signal.SIGKILL)
            sandbox.add_webhook(receiver.url, max_batch_size=40)
        yield pair


async def make_events(sandbox: Sandbox, count: int) -> None:
    """Let some debits change their states until there are so many events."""
    payer = sandbox.add_payer()
    async with JetpayClient(sandbox.api_token, base_url=sandbox.url) as client:
        for _ in range(20):
            await client.preauthorize(
                contact_id=payer.contact_id,
                credit_card_id=payer.credit_card_id,
                amount="100.50",
                to_bank_account_id=sandbox.merchant_account_id,
                statement="Endurance",
            )
    debits = [debit.identifier for debit in sandbox.debits]
    for n in range(count - len(sandbox.events)):
        sandbox.set_state(debits[n % len(debits)], "failed" if n % 3 else "paid")


def effects(database: Path) -> Counter[int]:
    """How often each event had its effect."""
    with closing(sqlite3.connect(database)) as connection:
        return Counter(event_id for (event_id,) in connection.execute("SELECT event_id FROM effects"))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    database = tmp_path / "shop.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE effects (event_id INTEGER, pid INTEGER)")
    return database


@pytest.fixture
def sandbox() -> Sandbox:
    # Attempts follow each other quickly, and an answer that takes longer than a stall is given up.
    policy = DeliveryPolicy(speedup=1000, timeout=1.0, max_attempts=100_000, base_delay=10, max_delay=100)
    sandbox = Sandbox(seed=7, delivery=policy)
    sandbox.delivery_faults.add(
        DeliveryFault(kind=DeliveryFaultKind.DUPLICATE, probability=0.1),
        DeliveryFault(kind=DeliveryFaultKind.REORDER, probability=0.1),
    )
    return sandbox


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("mode", "count"), [pytest.param("handled", EVENTS, id="handled"), pytest.param("stored", EVENTS // 4, id="stored")]
)
async def test_each_event_has_its_effect_exactly_once(sandbox: Sandbox, database: Path, mode: str, count: int) -> None:
    """Killed, stalled, failing, restarted, doubled and out of order: no event is lost and none has two effects."""
    done: Counter[str] = Counter()
    started = time.monotonic()
    async with sandbox, SqliteInbox(database) as inbox, receivers(sandbox, database, mode=mode) as pair:
        await make_events(sandbox, count)
        enough = asyncio.Event()
        making_trouble = asyncio.create_task(
            make_trouble(pair, random.Random(7), done, enough, stall_seconds=STALL_SECONDS)
        )
        async with asyncio.timeout(max(60.0, count / 10)):
            while await inbox.last_contiguous_event_id() != count or len(done) < len(TROUBLES):
                assert not making_trouble.done(), making_trouble.exception()
                await asyncio.sleep(0.05)
        enough.set()
        await making_trouble
        await sandbox.drain_deliveries(timeout=30)
    elapsed = time.monotonic() - started

    counted = effects(database)
    assert len(counted) == count
    assert set(counted.values()) == {1}
    statuses = Counter(str(attempt.status or attempt.error) for attempt in sandbox.deliveries)
    logger.info("%s: %d events in %.1f s: %s; answers: %s", mode, count, elapsed, dict(done), dict(statuses))
    assert sum(len(attempt.event_ids) for attempt in sandbox.deliveries if attempt.accepted) >= 2 * count


@pytest.mark.asyncio
async def test_the_harness_sees_doubles(sandbox: Sandbox, database: Path) -> None:
    """With an inbox per process, the same harness finds events that had two effects."""
    async with sandbox, receivers(sandbox, database, mode="forgetful"):
        await make_events(sandbox, 60)
        await sandbox.drain_deliveries(timeout=30)

    counted = effects(database)
    assert len(counted) == 60
    assert max(counted.values()) > 1
