"""Where do a capture's microseconds go? Each variant has one thing more than the one before it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from benchmarks import contenders, subjects
from benchmarks.contenders import BY_HAND
from benchmarks.reports import Plan, Report, Steps
from benchmarks.serving import Server
from benchmarks.subjects import LOOPS, Contender, Site

QUESTION = "Where do a capture's microseconds go?"
IN_FLIGHT = 64

GUARD = "by the connector, with the guard and its timer"

LAYERS: Mapping[str, Contender] = {
    "sockets and event loop: a raw protocol": contenders.floor,
    "aiohttp": contenders.one_url,
    "a URL for each debit, orjson: aiohttp tuned": contenders.tuned,
    GUARD: contenders.guarded,
    "our transport: deadline, errors, token": contenders.transport,
    "arguments checked, typed result": contenders.typed,
    "the executor: attempts and resolution": contenders.executed,
    "one request for each debit: jetpay_async": contenders.ours,
}


def measure(plan: Plan, server: Server) -> Report:
    """Measure every layer, by hand beside them; the differences are taken inside the rounds."""
    with subjects.started({**LAYERS, BY_HAND: contenders.by_hand}) as running:
        comparisons = {
            loop: subjects.compare(
                f"The layers of a capture, {IN_FLIGHT} in flight, {loop}, plain",
                running,
                Site(url=server.url(), in_flight=IN_FLIGHT, loop=loop),
                server,
                baseline=BY_HAND,
                rounds=plan.rounds,
                seconds=plan.seconds,
                slices=min(plan.slices, 5),
            )
            for loop in LOOPS
        }
    names = list(LAYERS)
    steps = [
        Steps(
            title=f"What each layer adds, {loop}",
            ours_from=names.index(GUARD),
            parts={
                names[0]: each.spread(names[0], "cost"),
                **{name: each.difference(name, below) for below, name in pairwise(names)},
            },
        )
        for loop, each in comparisons.items()
    ]
    return Report(
        question=QUESTION,
        comparisons=list(comparisons.values()),
        steps=steps,
        notes=["A median of differences is no difference of medians: the parts need not add up to the whole exactly."],
    )
