"""What does it cost that a batch survives a crash?"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import subjects
from benchmarks.batch import BATCH, LOOP, batch
from benchmarks.contenders import TIMEOUT, TOKEN
from benchmarks.reports import Plan, Report
from benchmarks.serving import ReplyDelay, Server, serving_late
from benchmarks.subjects import Contender, Site, Work
from jetpay_async import JetpayClient
from jetpay_async.ledger import Ledger
from jetpay_async.outcomes import Captured

QUESTION = "What does it cost that a batch survives a crash?"
IN_FLIGHT = 64
LATENCY = ReplyDelay(0.005)
ITEMS = 4_000
DURABLE = "jetpay_async durable batch, SQLite"


@asynccontextmanager
async def durable(site: Site) -> AsyncIterator[Work]:
    """A batch in a ledger, on SQLite with every commit synced; it is submitted before the clock starts."""
    numbers, keys = itertools.count(), itertools.count()
    key = ""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "captures.db"
        async with (
            JetpayClient(TOKEN, base_url=site.url, max_connections=site.in_flight, timeout=TIMEOUT) as client,
            Ledger(path) as ledger,
            client.durable_captures(path, concurrency=site.in_flight) as captures,
        ):

            async def prepare(count: int) -> None:
                nonlocal key
                key = f"batch {next(keys)}"
                await ledger.submit(key, [f"debit_{number:07}" for number in itertools.islice(numbers, count)])

            async def run(count: int) -> None:
                captured = 0
                submitted = await captures.batch(key)
                async for outcome in submitted.outcomes():
                    captured += isinstance(outcome, Captured)
                if captured != count:
                    raise AssertionError(f"{captured} of {count} were captured")

            yield Work(run=run, prepare=prepare)


CONTENDERS: Mapping[str, Contender] = {BATCH: batch, DURABLE: durable}


def measure(plan: Plan, _: Server) -> Report:
    """Compare with the batch that is not durable, at an API that takes some milliseconds."""
    items = max(IN_FLIGHT, round(ITEMS * plan.scale / (2 if plan.quick else 1)))
    with serving_late(LATENCY) as late, subjects.started(CONTENDERS) as running:
        comparison = subjects.compare(
            f"Batch of {items:,}, {LATENCY.delay * 1e3:.0f} ms latency, {IN_FLIGHT} in flight, {LOOP}",
            running,
            Site(url=late.url(), in_flight=IN_FLIGHT, loop=LOOP),
            late,
            baseline=BATCH,
            rounds=min(plan.rounds, 5),
            operations=items,
            by="duration",
        )
    return Report(
        question=QUESTION,
        figures={"durable batch / batch, per second": comparison.ratio(DURABLE, BATCH, by="per_second")},
        comparisons=[comparison],
        notes=["Submitting the batch is not in it."],
    )
