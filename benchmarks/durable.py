"""What does it cost that a batch survives a crash?"""

from __future__ import annotations

import itertools
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from benchmarks import subjects
from benchmarks.batch import BATCH, LOOP, batch
from benchmarks.contenders import TIMEOUT_SECONDS, TOKEN
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
LEASE_SECONDS = 3_600.0
"""An event loop stands still while other variants have their turns, and renews nothing then."""


POSTGRES_URL = os.environ.get("JETPAY_BENCHMARK_POSTGRES")
"""A database for the ledger, of a stock server whose JIT is on; without it, PostgreSQL is left out."""

POSTGRES = {jit: f"jetpay_async durable batch, PostgreSQL with JIT {jit}" for jit in ("on", "off")}


@asynccontextmanager
async def durable(site: Site) -> AsyncIterator[Work]:
    """A batch in a ledger, on SQLite with every commit synced; it is submitted before the clock starts."""
    with tempfile.TemporaryDirectory() as directory:
        async with working(site, str(Path(directory) / "captures.db")) as work:
            yield work


def with_jit(site: Site) -> AbstractAsyncContextManager[Work]:
    """The same on PostgreSQL, where the session compiles what costs more than the server's limit."""
    return working(site, url_with("jit", "on"))


def without_jit(site: Site) -> AbstractAsyncContextManager[Work]:
    """The same on PostgreSQL, where the session compiles nothing."""
    return working(site, url_with("jit", "off"))


def url_with(setting: str, value: str) -> str:
    url = POSTGRES_URL or ""
    return f"{url}{'&' if urlsplit(url).query else '?'}options={quote(f'-c {setting}={value}')}"


@asynccontextmanager
async def working(site: Site, ledger_name: str) -> AsyncIterator[Work]:
    numbers, keys = itertools.count(), itertools.count()
    run_id = secrets.token_hex(4)  # a database remembers the batches of earlier runs
    key = ""
    async with (
        JetpayClient(TOKEN, base_url=site.url, max_connections=site.in_flight, timeout=TIMEOUT_SECONDS) as client,
        Ledger(ledger_name) as ledger,
        client.durable_captures(ledger_name, concurrency=site.in_flight, lease_seconds=LEASE_SECONDS) as captures,
    ):

        async def prepare(count: int) -> None:
            nonlocal key
            key = f"batch {run_id} {next(keys)}"
            await ledger.submit(key, [f"debit_{run_id}_{number:07}" for number in itertools.islice(numbers, count)])

        async def run(count: int) -> None:
            captured = 0
            submitted = await captures.batch(key)
            async for outcome in submitted.outcomes():
                captured += isinstance(outcome, Captured)
            if captured != count:
                raise AssertionError(f"{captured} of {count} were captured")

        yield Work(run=run, prepare=prepare)


CONTENDERS: Mapping[str, Contender] = {BATCH: batch, DURABLE: durable} | (
    {} if POSTGRES_URL is None else {POSTGRES["on"]: with_jit, POSTGRES["off"]: without_jit}
)


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
    figures = {"durable batch / batch, per second": comparison.ratio(DURABLE, BATCH, by="per_second")}
    if POSTGRES_URL is not None:
        figures["PostgreSQL with JIT / without, per second"] = comparison.ratio(
            POSTGRES["on"], POSTGRES["off"], by="per_second"
        )
    return Report(
        question=QUESTION,
        figures=figures,
        comparisons=[comparison],
        notes=["Submitting the batch is not in it."],
    )
