"""What does a capture cost: against aiohttp by hand, the best a specialist writes, the floor, and other SDKs?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from benchmarks import subjects
from benchmarks.contenders import BY_HAND, CONTENDERS, GIVEN, HOOKED, OBSERVED, OURS, SDK, TRACED, TUNED
from benchmarks.measuring import Comparison, Spread
from benchmarks.peers import MOLLIE, OPENAI, PEERS, SQUARE, STRIPE_AIOHTTP, STRIPE_HTTPX
from benchmarks.reports import Plan, Report
from benchmarks.serving import Server
from benchmarks.subjects import LOOPS, Site

QUESTION = "What does a capture cost?"
IN_FLIGHT = 64
FURTHER = (1, 8, 256)
RIVALS = (STRIPE_AIOHTTP, STRIPE_HTTPX, SQUARE, MOLLIE, OPENAI)
# What httpx keeps open by default. With more in flight, those on it search their pool most of the time, and
# take seconds for a turn.
POOLED = 100
UNPOOLED = (OURS, STRIPE_AIOHTTP)


def measure(plan: Plan, server: Server) -> Report:
    """Compare at 64 in flight on both loops, plain and over TLS; and, but for the gates, plain at 1, 8 and 256.

    Other SDKs are compared apart: they are so much slower that a round with them would be a long one.
    """
    by_aiohttp = [BY_HAND, TUNED, OURS] if plan.quick else list(CONTENDERS)
    sdks = [OURS, *(RIVALS if plan.quick else PEERS)]
    hooked = [OURS, *HOOKED]
    every = {**CONTENDERS, **PEERS, **HOOKED}
    comparisons: dict[str, Comparison] = {}
    with subjects.started({name: every[name] for name in dict.fromkeys([*by_aiohttp, *sdks, *hooked])}) as running:
        for tls, loop, in_flight in _places(plan):
            site = Site(url=server.url(tls=tls), in_flight=in_flight, loop=loop)
            chosen = {name: running[name] for name in by_aiohttp if not (plan.quick and tls and name == TUNED)}
            title = _title(loop, in_flight, tls=tls)
            usual = in_flight == IN_FLIGHT
            effort = 1.0 if usual else 0.34
            comparisons[title] = subjects.compare(
                title,
                chosen,
                site,
                server,
                baseline=BY_HAND,
                rounds=plan.rounds,
                seconds=plan.seconds * effort,
                slices=round(plan.slices * effort),
                drawn=usual,
            )
            # The goals about other SDKs are about the usual place; elsewhere, one loop shows how they do.
            if (usual and not tls) or (loop == "uvloop" and not plan.quick):
                comparisons[f"{title}, SDKs"] = subjects.compare(
                    f"{title}, SDKs",
                    {name: running[name] for name in (sdks if in_flight <= POOLED else UNPOOLED)},
                    site,
                    server,
                    baseline=OURS,
                    rounds=plan.rounds,
                    seconds=plan.seconds / 2 if usual else plan.seconds / 4,
                    slices=2 if usual and not tls else 1,
                    idle=subjects.IDLE_SECONDS if usual else math.inf,
                    drawn=usual,
                )
            if usual and not tls:
                comparisons[f"{title}, hooks"] = subjects.compare(
                    f"{title}, hooks",
                    {name: running[name] for name in hooked},
                    site,
                    server,
                    baseline=OURS,
                    rounds=plan.rounds,
                    seconds=plan.seconds,
                    slices=plan.slices,
                )
    return Report(
        question=QUESTION,
        figures=_figures(comparisons),
        comparisons=list(comparisons.values()),
        notes=list(_notes(plan, comparisons)),
    )


def _places(plan: Plan) -> Iterator[tuple[bool, str, int]]:
    for tls in (False, True):
        for loop in LOOPS:
            yield tls, loop, IN_FLIGHT
    for loop in () if plan.quick else LOOPS:
        for in_flight in FURTHER:
            yield False, loop, in_flight


def _figures(comparisons: Mapping[str, Comparison]) -> dict[str, Spread]:
    figures: dict[str, Spread] = {}
    for loop in LOOPS:
        plain, tls = (comparisons[_title(loop, IN_FLIGHT, tls=tls)] for tls in (False, True))
        figures[f"capture / aiohttp by hand, {loop}"] = plain.ratio(OURS, BY_HAND)
        figures[f"capture / aiohttp tuned, {loop}"] = plain.ratio(OURS, TUNED)
        figures[f"capture / aiohttp by hand, TLS, {loop}"] = tls.ratio(OURS, BY_HAND)
        hooks = comparisons[f"{plain.title}, hooks"]
        figures[f"our hooks, metrics and tracing, on, {loop}"] = hooks.ratio(OBSERVED, OURS)
        figures[f"OpenTelemetry's SDK, on, {loop}"] = hooks.ratio(TRACED, OURS)
        sdks = comparisons[f"{plain.title}, SDKs"]
        for peer in RIVALS:
            figures[f"{peer} / capture, {loop}"] = sdks.ratio(peer, OURS)
    return figures


def _notes(plan: Plan, comparisons: Mapping[str, Comparison]) -> Iterator[str]:
    if not plan.quick:
        yield (
            "Other SDKs at 1, 8 and 256 in flight: connections that were closed meanwhile are opened at their cost. At"
            " 256, those on httpx are left out: they keep 100 connections, and search their pool most of the time."
        )
    for loop in LOOPS:
        least = comparisons[f"{_title(loop, IN_FLIGHT, tls=False)}, hooks"].ratio(SDK, OURS)
        yield f"OpenTelemetry's SDK by itself, one span and one measurement made by hand, {loop}: {least:.2f}"
    yield "Other SDKs make the request of theirs that is most like a capture, with retries and telemetry off."
    for loop in () if plan.quick else LOOPS:
        price = comparisons[_title(loop, IN_FLIGHT, tls=False)].difference(GIVEN, OURS)
        yield (
            f"A given session costs {price:.1f} us more than the client's own ({loop}): it may not have our headers in"
            " its defaults, and needs a timer for the whole besides the guard's."
        )


def _title(loop: str, in_flight: int, *, tls: bool) -> str:
    return f"Capture, {in_flight} in flight, {loop}, {'TLS' if tls else 'plain'}"
