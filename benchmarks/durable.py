"""What does it cost that a batch survives a crash?"""

from __future__ import annotations

import itertools
import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import subjects
from benchmarks.batch import BATCH, LOOP, batch
from benchmarks.contenders import TIMEOUT_SECONDS, TOKEN
from benchmarks.measuring import Comparison
from benchmarks.reports import Plan, Report
from benchmarks.serving import ReplyDelay, Server, serving_late
from benchmarks.subjects import Contender, Site, Work
from jetpay_async import JetpayClient
from jetpay_async.ledger import Ledger
from jetpay_async.outcomes import Captured

QUESTION = "What does it cost that a batch survives a crash?"
IN_FLIGHT = 64
LATENCY = ReplyDelay(0.005)
SIZES: Mapping[str, int] = {"4,000": 4_000, "20,000": 20_000}
"""What the goals call the sizes, and what they are."""
QUICK_SHARE = 0.3
DURABLE = "jetpay_async durable batch, SQLite"
LEASE_SECONDS = 3_600.0
"""An event loop stands still while other variants have their turns, and renews nothing then."""


@asynccontextmanager
async def durable(site: Site) -> AsyncIterator[Work]:
    """A batch in a ledger, on SQLite with every commit synced; it is submitted before the clock starts."""
    with tempfile.TemporaryDirectory() as directory:
        async with working(site, str(Path(directory) / "captures.db")) as work:
            yield work


@asynccontextmanager
async def working(site: Site, ledger_name: str, rate: float | None = None) -> AsyncIterator[Work]:
    """A batch in a ledger, its outcomes streamed, checked and dropped.

    Args:
        site: Where it works.
        ledger_name: A path, or the URL of a database.
        rate: How many captures a second it is asked for; None for as many as it can.
    """
    numbers, keys = itertools.count(), itertools.count()
    run_id = secrets.token_hex(4)  # a database remembers the batches of earlier runs
    key = ""
    async with (
        JetpayClient(TOKEN, base_url=site.url, max_connections=site.in_flight, timeout=TIMEOUT_SECONDS) as client,
        Ledger(ledger_name) as ledger,
        client.durable_captures(
            ledger_name, concurrency=site.in_flight, rate=rate, lease_seconds=LEASE_SECONDS
        ) as captures,
    ):

        async def prepare(count: int) -> None:
            nonlocal key
            key = f"batch {run_id} {next(keys)}"
            await ledger.submit(key, (f"debit_{run_id}_{number:07}" for number in itertools.islice(numbers, count)))

        async def run(count: int) -> None:
            captured = 0
            submitted = await captures.batch(key)
            async for outcome in submitted.outcomes():
                captured += isinstance(outcome, Captured)
            if captured != count:
                raise AssertionError(f"{captured} of {count} were captured")

        yield Work(run=run, prepare=prepare)


CONTENDERS: Mapping[str, Contender] = {BATCH: batch, DURABLE: durable}


def rounds_of(size: int, plan: Plan) -> int:
    """Choose how many rounds: the large batches take seconds each."""
    return min(plan.rounds, 2 if plan.quick else 4 if size <= min(SIZES.values()) else 3)


def compare(contenders: Mapping[str, Contender], size: int, plan: Plan, late: Server) -> Comparison:
    """Compare variants of a batch with the one that is not durable, which is among them."""
    items = max(IN_FLIGHT, round(size * plan.scale * (QUICK_SHARE if plan.quick else 1)))
    with subjects.started(contenders) as running:
        return subjects.compare(
            f"Batch of {items:,}, {LATENCY.delay * 1e3:.0f} ms latency, {IN_FLIGHT} in flight, {LOOP}",
            running,
            Site(url=late.url(), in_flight=IN_FLIGHT, loop=LOOP),
            late,
            baseline=BATCH,
            rounds=rounds_of(size, plan),
            operations=items,
            by="duration",
            ends_at=plan.ends_at,
        )


def measure(plan: Plan, _: Server) -> Report:
    """Compare with the batch that is not durable, at an API that takes some milliseconds."""
    with serving_late(LATENCY) as late:
        by_size = {name: compare(CONTENDERS, size, plan, late) for name, size in SIZES.items()}
    return Report(
        question=QUESTION,
        figures={
            f"durable batch / batch, per second, {name}": each.ratio(DURABLE, BATCH, by="per_second")
            for name, each in by_size.items()
        },
        comparisons=list(by_size.values()),
        notes=["Submitting the batch is not in it."],
    )
