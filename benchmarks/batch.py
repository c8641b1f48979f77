"""What does a batch cost over its captures, how does that grow, and what do slow replies do to it?"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

from benchmarks import subjects
from benchmarks.contenders import TIMEOUT_SECONDS, TOKEN
from benchmarks.measuring import Comparison, Spread, Turn
from benchmarks.reports import Curve, Plan, Report, Table
from benchmarks.serving import ReplyDelay, Server, serving_late
from benchmarks.subjects import Contender, MiscountError, Site, Subject, Work
from jetpay_async import JetpayClient
from jetpay_async.outcomes import Captured

QUESTION = "What does a batch cost over its captures?"
IN_FLIGHT = 64
LOOP = "uvloop"
POOL_SIZE = 10_000
# What is over soon is repeated inside a round.
OFTEN = 1_000
SIZES = (1_000, 10_000, 100_000)
MOST = 1_000_000
QUICK_SIZES = (1_000, 4_000)
SLOW = ReplyDelay(0.05, slow_every=100, slow_factor=25)
SLOW_ITEMS = 640


_numbers = itertools.count()


def debits(count: int) -> Iterator[str]:
    """Make the ids while they are asked for, as a cursor would.

    None is made twice in a process: of a debit that it captured lately, a client reads the status and captures nothing.
    """
    return (f"debit_{number:07}" for number in itertools.islice(_numbers, count))


@asynccontextmanager
async def _client(site: Site) -> AsyncIterator[JetpayClient]:
    async with JetpayClient(
        TOKEN, base_url=site.url, max_connections=site.in_flight, timeout=TIMEOUT_SECONDS
    ) as client:
        yield client


@asynccontextmanager
async def batch(site: Site) -> AsyncIterator[Work]:
    """The client's batch, its outcomes checked and dropped."""
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
    """The same call by a bare pool of workers: no outcome for a failure, no admission, no stopping."""
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


BATCH, POOL, GATHER = "jetpay_async batch", "bare pool", "gather and semaphore"
CONTENDERS: Mapping[str, Contender] = {POOL: pool, BATCH: batch, GATHER: gather}


def measure(plan: Plan, server: Server) -> Report:
    """Compare batches of growing size, then those whose replies are now and then slow."""
    site = Site(url=server.url(), in_flight=IN_FLIGHT, loop=LOOP)
    full_sizes = QUICK_SIZES if plan.quick else SIZES
    sizes = [max(IN_FLIGHT * number, round(size * plan.scale)) for number, size in enumerate(full_sizes, 1)]
    by_size = {size: _compare_size(size, _compared(size, sizes, plan), plan, site, server) for size in sizes[:-1]}
    grown = _grow([sizes[0], sizes[-1] if plan.quick else round(MOST * plan.scale)], site, server)
    slow, ideal = _compare_slow(plan)
    smallest, largest = sizes[0], sizes[-1]
    # The last of all: it takes longest, and has fewer rounds where the time is up.
    by_size[largest] = _compare_size(largest, _compared(largest, sizes, plan), plan, site, server)
    growth = grown[max(grown)].growth - grown[smallest].growth
    return Report(
        question=QUESTION,
        figures={
            # The smallest is repeated most often, so its ratio is the surest; starting workers costs it most.
            "batch, CPU / bare pool": by_size[sizes[0]].ratio(BATCH, POOL),
            "gather and semaphore / batch, CPU, a large batch": by_size[largest].ratio(GATHER, BATCH),
            "batch, MB of growth from 1,000 items to the most": Spread.of([growth / 1e6]),
            "batch, time / ideal pool, 1 % slow": Spread.of([turn.wall / ideal for turn in slow.turns[BATCH]]),
        },
        comparisons=[*by_size.values(), slow],
        tables=[
            Table(
                title="One batch after the other in one process, once, outcomes streamed",
                columns=("items", "CPU us", "per second", "RSS growth MB"),
                rows=[
                    (f"{size:,}", f"{turn.cost:.1f}", f"{turn.per_second:,.0f}", f"{turn.growth / 1e6:.2f}")
                    for size, turn in grown.items()
                ],
            )
        ],
        curves=[
            Curve(
                title="Memory of a batch",
                x="items",
                y="peak RSS over the warmed process, MB",
                lines={
                    BATCH: [(size, turn.growth / 1e6) for size, turn in grown.items()],
                    GATHER: [
                        (size, each.spread(GATHER, "growth").median / 1e6)
                        for size, each in by_size.items()
                        if GATHER in each.turns
                    ],
                },
            ),
            Curve(
                title="CPU of a batch",
                x="items",
                y="microseconds of CPU for each item",
                lines={
                    name: [
                        (size, each.spread(name, "cost").median) for size, each in by_size.items() if name in each.turns
                    ]
                    for name in CONTENDERS
                },
            ),
        ],
        notes=[
            f"Slow replies: {SLOW.delay * 1e3:.0f} ms, and one in {SLOW.slow_every} {SLOW.slow_factor} times as long.",
            "An ideal pool starts each item the moment that a slot is free, and takes no time of its own.",
            *(
                f"{name} / ideal pool, time: {Spread.of([turn.wall / ideal for turn in turns]):.3f}"
                for name, turns in slow.turns.items()
            ),
        ],
    )


def _compared(size: int, sizes: Sequence[int], plan: Plan) -> Sequence[str]:
    """Choose the variants: a pool that would take a minute and more shows no more than one with less to do."""
    if plan.quick:
        return (POOL, BATCH) if size == sizes[0] else (BATCH, GATHER)
    return (POOL, BATCH, GATHER) if size <= POOL_SIZE else (BATCH, GATHER)


def _compare_size(size: int, names: Sequence[str], plan: Plan, site: Site, server: Server) -> Comparison:
    with subjects.started({name: CONTENDERS[name] for name in names}) as running:
        return subjects.compare(
            f"Batch of {size:,}, {IN_FLIGHT} in flight, {LOOP}",
            running,
            site,
            server,
            baseline=BATCH,
            rounds=plan.rounds,
            slices=min(plan.slices, 3) if size <= OFTEN else 1,
            operations=size,
            ends_at=plan.ends_at,
        )


def _grow(sizes: Sequence[int], site: Site, server: Server) -> dict[int, Turn]:
    """Run batches of growing size in one fresh process."""
    with Subject(batch) as subject, subjects.opened({BATCH: subject}, site):
        before = server.requests()
        subject.warm(subjects.ENOUGH)
        turns = {size: subject.turn(size) for size in sizes}
        if (counted := server.requests() - before) != subjects.ENOUGH + sum(sizes):
            raise MiscountError(f"{counted} requests arrived for {sum(sizes)} items")
    return turns


def _compare_slow(plan: Plan) -> tuple[Comparison, float]:
    items = max(IN_FLIGHT, round(SLOW_ITEMS * plan.scale))
    with serving_late(SLOW) as late, subjects.started({POOL: pool, BATCH: batch}) as running:
        comparison = subjects.compare(
            f"Batch of {items:,} with slow replies",
            running,
            Site(url=late.url(), in_flight=IN_FLIGHT, loop=LOOP),
            late,
            baseline=POOL,
            rounds=min(plan.rounds, 3) if plan.quick else plan.rounds,
            operations=items,
            by="duration",
        )
    return comparison, ideal_time(items, IN_FLIGHT, SLOW)


def ideal_time(items: int, slots: int, delays: ReplyDelay) -> float:
    """Seconds until all is done if each item starts the moment that a slot is free, and costs nothing but its reply."""
    free_at = [0.0] * slots
    for number in range(items):
        heapq.heapreplace(free_at, free_at[0] + delays.of(number))
    return max(free_at)
