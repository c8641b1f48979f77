"""Several receivers on one PostgreSQL behind a load balancer: each event exactly once, whatever happens to them.

The sandbox delivers every event by two webhooks to one address, signed, in batches, some twice, some in the wrong
order. A balancer gives each delivery to the next of three processes, which are killed (-9), stopped for longer than
their leases last, ended and started again, at random. One event's handler always fails, one's hangs, and another
customer of Jetpay delivers its own events to the same address, whose ids are the same.

``JETPAY_TEST_EVENTS`` sets how many events there are: 200 unless told otherwise. ``--log-cli-level=INFO`` shows what
was done to the receivers and what they answered.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, cycle
from typing import TYPE_CHECKING

import aiohttp
import psycopg
import pytest
from aiohttp import web

from jetpay_async.sandbox import DeliveryFault, DeliveryFaultKind, DeliveryPolicy, Sandbox
from jetpay_async.webhooks import sign
from jetpay_async.webhooks.postgres_inbox import PostgresInbox
from tests.webhooks import fleet_receiver
from tests.webhooks.processes import TROUBLES, ReceiverProcess, make_trouble
from tests.webhooks.receiving import body_of, document
from tests.webhooks.serving import PATH, aiohttp_web
from tests.webhooks.test_endurance import make_events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

EVENTS = int(os.environ.get("JETPAY_TEST_EVENTS", "200"))
MODES = ("after_handling", "after_handling", "after_storing")
STALL_SECONDS = 3 * fleet_receiver.LEASE_SECONDS
# A receiver takes a second or two to start.
PAUSE_SECONDS = (1.0, 2.5)
FOREIGN_WEBHOOK = 999

pytestmark = [
    pytest.mark.endurance,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows can't stop and continue a process"),
    pytest.mark.timeout(180 + EVENTS / 10),
]


@asynccontextmanager
async def balancer(receivers: Sequence[ReceiverProcess]) -> AsyncGenerator[str]:
    """Give each delivery to the next receiver; what one doesn't answer is answered 502, as load balancers do."""
    following = cycle(receivers)

    async def forward(request: web.Request) -> web.Response:
        headers = {"Authorization": request.headers["Authorization"], "Content-Type": "application/json"}
        try:
            async with session.post(next(following).url, data=await request.read(), headers=headers) as response:
                return web.Response(status=response.status)
        except (aiohttp.ClientError, TimeoutError):
            return web.Response(status=502)

    app = web.Application()
    app.router.add_post(PATH, forward)
    async with aiohttp.ClientSession() as session, aiohttp_web(app) as url:
        yield url + PATH


@asynccontextmanager
async def fleet(database: str, jetpay: str, log: Path) -> AsyncGenerator[list[ReceiverProcess]]:
    async with AsyncExitStack() as stack:
        receivers = [
            ReceiverProcess(fleet_receiver.__file__, (database, jetpay, "1,2", mode), log.with_suffix(f".{number}"))
            for number, mode in enumerate(MODES)
        ]
        for receiver in receivers:
            await receiver.start()
            stack.push_async_callback(receiver.end, signal.SIGKILL)
        yield receivers


async def deliver_foreign(sandbox: Sandbox, url: str, answers: Counter[int], enough: asyncio.Event) -> None:
    """Deliver another customer's events, authentic and with ids that ours have too, until it is enough."""
    async with aiohttp.ClientSession() as session:
        for first in count(1, 3):
            if enough.is_set():
                return
            documents = [document(n, created_at="2026-01-01T00:00:00Z") for n in range(first, first + 3)]
            body = body_of(documents, webhook_id=FOREIGN_WEBHOOK)
            key = sandbox._keys.current
            headers = {"Authorization": sign(body, key.private_key, kid=key.kid), "Content-Type": "application/json"}
            async with session.post(url, data=body, headers=headers) as response:
                answers[response.status] += 1
            await asyncio.sleep(0.1)


@pytest.mark.asyncio
async def test_each_event_has_its_effect_exactly_once(postgres_database: str, tmp_path: Path) -> None:
    """None is lost and none has two effects; the poison is a dead letter; the other customer's are rejected."""
    policy = DeliveryPolicy(speedup=1000, timeout=5.0, max_attempts=100_000, base_delay=10, max_delay=100)
    sandbox = Sandbox(seed=7, delivery=policy)
    sandbox.delivery_faults.add(
        DeliveryFault(kind=DeliveryFaultKind.DUPLICATE, probability=0.1),
        DeliveryFault(kind=DeliveryFaultKind.REORDER, probability=0.1),
    )
    done: Counter[str] = Counter()
    foreign: Counter[int] = Counter()
    enough = asyncio.Event()
    started = time.monotonic()
    async with (
        PostgresInbox(postgres_database) as inbox,
        await psycopg.AsyncConnection.connect(postgres_database, autocommit=True) as connection,
        sandbox,
    ):
        await inbox.create_tables()
        await connection.execute("CREATE TABLE effects (event_id bigint, pid int)")
        await connection.execute("CREATE TABLE attempts (event_id bigint)")
        async with (
            fleet(postgres_database, sandbox.url, tmp_path / "receiver") as receivers,
            balancer(receivers) as url,
        ):
            for number in (1, 2):
                sandbox.add_webhook(f"{url}?{number}", max_batch_size=40)
            await make_events(sandbox, EVENTS // 2)
            debits = [debit.identifier for debit in sandbox.debits]
            poison, hanging = len(sandbox.events) + 1, len(sandbox.events) + 2
            sandbox.set_state(debits[0], "poison")
            sandbox.set_state(debits[1], "hang")
            await make_events(sandbox, EVENTS)
            making_trouble = asyncio.create_task(
                make_trouble(
                    receivers,
                    random.Random(7),
                    done,
                    enough,
                    stall_seconds=STALL_SECONDS,
                    pause_seconds=PAUSE_SECONDS,
                )
            )
            delivering_foreign = asyncio.create_task(deliver_foreign(sandbox, url, foreign, enough))
            async with asyncio.timeout(120 + EVENTS / 10):
                while await inbox.last_contiguous_event_id() != EVENTS or len(done) < len(TROUBLES) or not foreign[403]:
                    for task in (making_trouble, delivering_foreign):
                        assert not task.done(), task.exception()
                    await asyncio.sleep(0.1)
            enough.set()
            await asyncio.gather(making_trouble, delivering_foreign)
            await sandbox.drain_deliveries(timeout=60)
        elapsed = time.monotonic() - started

        effects = await (await connection.execute("SELECT event_id, count(*) FROM effects GROUP BY 1")).fetchall()
        (letter,) = await inbox.dead_letters()

    statuses = Counter(str(attempt.status or attempt.error) for attempt in sandbox.deliveries)
    logger.info(
        "%d events in %.1f s: %s; answers: %s; foreign: %s", EVENTS, elapsed, dict(done), dict(statuses), dict(foreign)
    )
    assert dict(effects) == {number: 1 for number in range(1, EVENTS + 1) if number != poison}
    assert hanging in dict(effects)
    assert (letter.event.id, letter.attempts) == (poison, fleet_receiver.MAX_ATTEMPTS)
    assert not {status for status in foreign if status < 300}
