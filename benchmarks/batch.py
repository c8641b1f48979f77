"""What does a batch cost over its captures, how does that grow, and what do slow replies do to it?"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice

from benchmarks import subjects
from benchmarks.contenders import TIMEOUT, TOKEN
from benchmarks.measuring import Comparison, Spread
from benchmarks.reports import Curve, Plan, Report, Table
from benchmarks.serving import Lateness, Server, answering_late
from benchmarks.subjects import Contender, Site, Subject, Work
from jetpay_async import JetpayClient
from jetpay_async.outcomes import Captured

QUESTION = "What does a batch cost over its captures?"
IN_FLIGHT = 64
LOOP = "uvloop"
SIZES = (1_000, 10_000, 100_000)
MOST = 1_000_000
QUICK_SIZES = (1_000, 20_000)
SLOW = Lateness(0.05, slow_every=100, slow_factor=25)
SLOW_ITEMS = 3_200


def debits(count: int) -> Iterator[str]:
    """Make the ids while they are asked for, as a cursor would."""
    return (f"debit_{number:07}" for number in range(count))


@asynccontextmanager
async def _client(site: Site) -> AsyncIterator[JetpayClient]:
    async with JetpayClient(TOKEN, base_url=site.url, max_connections=site.in_flight, timeout=TIMEOUT) as client:
        yield client


@asynccontextmanager
async def batch(site: Site) -> AsyncIterator[Work]:
    """The client's batch, its outcomes looked at and let go."""
    async with _client(site) as client:

        async def run(count: int) -> None:
            captured = 0
            async for outcome in client.capture_many(debits(count), concurrency=site.in_flight):
                captured += isinstance(outcome, Captured)
            if captured != count:
                raise AssertionError(f"{captured} of {count} were captured")

        yield Work(run=run)


@asynccontextmanager
async def pool(site: Site) -> AsyncIterator[Work]:
    """The same call by a bare pool of workers: no outcome for a failure, no brake, no stopping."""
    async with _client(site) as client:

        async def run(count: int) -> None:
            ids = debits(count)

            async def work() -> None:
                for debit_id in ids:
                    await client.capture(debit_id)

            await asyncio.gather(*(work() for _ in range(site.in_flight)))

        yield Work(run=run)


@asynccontextmanager
async def gather(site: Site) -> AsyncIterator[Work]:
    """The same call by ``asyncio.gather`` under a semaphore: a task for each item."""
    async with _client(site) as client:

        async def run(count: int) -> None:
            semaphore = asyncio.Semaphore(site.in_flight)

            async def capture(debit_id: str) -> object:
                async with semaphore:
                    return await client.capture(debit_id)

            await asyncio.gather(*map(capture, debits(count)))

        yield Work(run=run)


@asynccontextmanager
async def windows(site: Site) -> AsyncIterator[Work]:
    """The same call by ``asyncio.gather`` of so many at a time: each window waits for its slowest."""
    async with _client(site) as client:

        async def run(count: int) -> None:
            ids = debits(count)
            while window := list(islice(ids, site.in_flight)):
                await asyncio.gather(*map(client.capture, window))

        yield Work(run=run)


BATCH, POOL, GATHER, WINDOWS = "jetpay_async batch", "bare pool", "gather and semaphore", "gather in windows"
CONTENDERS: Mapping[str, Contender] = {POOL: pool, BATCH: batch, GATHER: gather}


def measure(plan: Plan, server: Server) -> Report:
    """Compare batches of growing size, then those whose replies are now and then slow."""
    site = Site(url=server.url(), in_flight=IN_FLIGHT, loop=LOOP)
    sizes = [max(IN_FLIGHT, round(size * plan.scale)) for size in (QUICK_SIZES if plan.quick else SIZES)]
    with subjects.started(CONTENDERS) as running:
        comparisons = [
            subjects.compare(
                f"Batch of {size:,}, {IN_FLIGHT} in flight, {LOOP}",
                running,
                site,
                server,
                baseline=POOL,
                rounds=min(plan.rounds, 5),
                operations=size,
            )
            for size in sizes
        ]
    growth = _grow([*sizes] if plan.quick else [*sizes, round(MOST * plan.scale)], site, server)
    by_size = dict(zip(sizes, comparisons, strict=True))
    most = max(growth)
    slow, ideal = _compare_slow(plan)
    return Report(
        question=QUESTION,
        figures={
            # The smallest is over so soon that starting the crew shows.
            "batch, CPU / bare pool": by_size[sizes[1]].ratio(BATCH, POOL),
            "gather and semaphore / batch, CPU, a large batch": by_size[sizes[-1]].ratio(GATHER, BATCH),
            "batch, MB of growth from 1,000 items to the most": Spread.of([(growth[most] - growth[sizes[0]]) / 1e6]),
            "batch, time / ideal pool, 1 % slow": Spread.of([turn.wall / ideal for turn in slow.turns[BATCH]]),
        },
        comparisons=[*comparisons, slow],
        tables=[
            Table(
                title="RSS growth of one process over its warmed self, outcomes streamed",
                columns=("items", "MB"),
                rows=[(f"{size:,}", f"{grown / 1e6:.2f}") for size, grown in growth.items()],
            )
        ],
        curves=[
            Curve(
                title="Memory of a batch",
                x="items",
                y="peak RSS over the warmed process, MB",
                lines={
                    BATCH: [(size, grown / 1e6) for size, grown in growth.items()],
                    GATHER: [(size, each.spread(GATHER, "growth").median / 1e6) for size, each in by_size.items()],
                },
            ),
            Curve(
                title="CPU of a batch",
                x="items",
                y="microseconds of CPU for each item",
                lines={
                    name: [(size, each.spread(name, "cost").median) for size, each in by_size.items()]
                    for name in CONTENDERS
                },
            ),
        ],
        notes=[
            f"Slow replies: {SLOW.delay * 1e3:.0f} ms, and one in {SLOW.slow_every} {SLOW.slow_factor} times as long.",
            "An ideal pool starts each item the moment that a lane is free, and takes no time of its own.",
            *(
                f"{name} / ideal pool, time: {Spread.of([turn.wall / ideal for turn in turns]):.3f}"
                for name, turns in slow.turns.items()
            ),
        ],
    )


def _grow(sizes: Sequence[int], site: Site, server: Server) -> dict[int, int]:
    """Run batches of growing size in one fresh process; return the growth at each."""
    growth: dict[int, int] = {}
    with Subject(batch) as subject, subjects.opened({BATCH: subject}, site):
        before = server.requests()
        subject.warm(IN_FLIGHT * 4)
        for size in sizes:
            growth[size] = subject.turn(size).growth
        if (counted := server.requests() - before) != sum(sizes) + IN_FLIGHT * 4:
            raise subjects.MiscountError(f"{counted} requests arrived for {sum(sizes)} items")
    return growth


def _compare_slow(plan: Plan) -> tuple[Comparison, float]:
    items = max(IN_FLIGHT, round(SLOW_ITEMS * plan.scale / (2 if plan.quick else 1)))
    chosen: dict[str, Contender] = {POOL: pool, BATCH: batch}
    if not plan.quick:
        chosen[WINDOWS] = windows
    with answering_late(SLOW) as late, subjects.started(chosen) as running:
        comparison = subjects.compare(
            f"Batch of {items:,} with slow replies",
            running,
            Site(url=late.url(), in_flight=IN_FLIGHT, loop=LOOP),
            late,
            baseline=POOL,
            rounds=min(plan.rounds, 5),
            operations=items,
            by="duration",
        )
    return comparison, ideal_time(items, IN_FLIGHT, SLOW)


def ideal_time(items: int, lanes: int, lateness: Lateness) -> float:
    """Seconds until all is done if each item starts the moment that a lane is free, and costs nothing but its reply."""
    free_at = [0.0] * lanes
    for number in range(items):
        heapq.heapreplace(free_at, free_at[0] + lateness.of(number))
    return max(free_at)
