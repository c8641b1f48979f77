"""What does a durable batch cost in PostgreSQL, and does it keep up with a rate that it is asked for?"""

from __future__ import annotations

from functools import partial

from benchmarks import postgres, subjects
from benchmarks.batch import BATCH, LOOP, batch
from benchmarks.durable import IN_FLIGHT, LATENCY, QUICK_SHARE, compare, rounds_of, working
from benchmarks.measuring import Comparison
from benchmarks.reports import Plan, Report
from benchmarks.serving import Server, serving_late
from benchmarks.subjects import Site
from tests.postgres_server import NoServerError

QUESTION = "What does a durable batch cost in PostgreSQL?"
ITEMS = 20_000
DURABLE = "jetpay_async durable batch, PostgreSQL"
RATE = 2_000
ASKED_ITEMS = 6_000
ASKED = f"jetpay_async durable batch, PostgreSQL, asked for {RATE:,} a second"


def measure(plan: Plan, _: Server) -> Report:
    """Compare with the batch that is not durable; then ask for a rate, which is compared with nothing."""
    try:
        with postgres.stock_database() as url, serving_late(LATENCY) as late:
            server = postgres.describe(url)
            streamed = compare({BATCH: batch, DURABLE: partial(working, ledger_name=url)}, ITEMS, plan, late)
            asked = ask(url, plan, late)
    except NoServerError as error:
        return Report(question=QUESTION, notes=[f"Not measured: {error}."])
    return Report(
        question=QUESTION,
        figures={
            "durable batch in PostgreSQL / batch, per second, 20,000": streamed.ratio(DURABLE, BATCH, by="per_second"),
            f"durable batch in PostgreSQL asked for {RATE:,} a second, per second": asked.spread(ASKED, "per_second"),
        },
        comparisons=[streamed, asked],
        notes=[server, "Submitting the batch is not in it."],
    )


def ask(url: str, plan: Plan, late: Server) -> Comparison:
    """Ask for so many captures a second."""
    items = max(IN_FLIGHT, round(ASKED_ITEMS * plan.scale * (QUICK_SHARE if plan.quick else 1)))
    with subjects.started({ASKED: partial(working, ledger_name=url, rate=RATE)}) as running:
        return subjects.compare(
            f"Batch of {items:,} asked for {RATE:,} a second, {LATENCY.delay * 1e3:.0f} ms latency, {LOOP}",
            running,
            Site(url=late.url(), in_flight=IN_FLIGHT, loop=LOOP),
            late,
            baseline=ASKED,
            rounds=rounds_of(ITEMS, plan),
            operations=items,
            by="duration",
            drawn=False,
            ends_at=plan.ends_at,
        )
