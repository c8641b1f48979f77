"""What does a capture cost: against aiohttp by hand, the best a specialist writes, the floor, and other SDKs?"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import contenders, subjects
from benchmarks.contenders import BY_HAND, CONTENDERS, GIVEN, OURS, TUNED
from benchmarks.measuring import Comparison, Spread
from benchmarks.peers import HTTPX, MOLLIE, OPENAI, PEERS, SQUARE, STRIPE_AIOHTTP, STRIPE_HTTPX
from benchmarks.reports import Plan, Report
from benchmarks.serving import Server
from benchmarks.subjects import LOOPS, Site

QUESTION = "What does a capture cost?"
IN_FLIGHT = 64


def measure(plan: Plan, server: Server) -> Report:
    """Compare at 64 in flight on both loops, plain and over TLS; and, but for the gates, at 1, 8 and 256."""
    chosen = {**CONTENDERS, **PEERS}
    if plan.quick:
        for name in (GIVEN, contenders.FLOOR, HTTPX):
            del chosen[name]
    with subjects.started(chosen) as running:
        comparisons = list(_compare(plan, server, running))
    figures: dict[str, Spread] = {}
    for loop in LOOPS:
        plain, tls = (_find(comparisons, loop, IN_FLIGHT, tls=tls) for tls in (False, True))
        figures[f"capture / aiohttp by hand, {loop}"] = plain.ratio(OURS, BY_HAND)
        figures[f"capture / aiohttp tuned, {loop}"] = plain.ratio(OURS, TUNED)
        figures[f"capture / aiohttp by hand, TLS, {loop}"] = tls.ratio(OURS, BY_HAND)
        for peer in (STRIPE_AIOHTTP, STRIPE_HTTPX, SQUARE, MOLLIE, OPENAI):
            figures[f"{peer} / capture, {loop}"] = plain.ratio(peer, OURS)
    notes = ["Other SDKs make the request of theirs that is most like a capture, with retries and telemetry off."]
    if not plan.quick:
        price = _find(comparisons, "uvloop", IN_FLIGHT, tls=False).difference(GIVEN, OURS)
        notes.append(
            f"A given session costs {price:.1f} us more than the client's own (uvloop): it may not have our headers in"
            " its defaults, and needs a timer for the whole besides the guard's."
        )
    return Report(question=QUESTION, figures=figures, comparisons=comparisons, notes=notes)


def _compare(plan: Plan, server: Server, running: dict[str, subjects.Subject]) -> Iterator[Comparison]:
    for tls in (False, True):
        for loop in LOOPS:
            for in_flight in (IN_FLIGHT,) if plan.quick else (IN_FLIGHT, 1, 8, 256):
                main = in_flight == IN_FLIGHT
                some = running
                if plan.quick and tls:
                    some = {name: running[name] for name in (BY_HAND, OURS)}
                yield subjects.compare(
                    _title(loop, in_flight, tls=tls),
                    some,
                    Site(url=server.url(tls=tls), in_flight=in_flight, loop=loop),
                    server,
                    baseline=BY_HAND,
                    rounds=plan.rounds if main else min(plan.rounds, 5),
                    seconds=plan.seconds if main else plan.seconds / 4,
                )


def _title(loop: str, in_flight: int, *, tls: bool) -> str:
    return f"Capture, {in_flight} in flight, {loop}, {'TLS' if tls else 'plain'}"


def _find(comparisons: list[Comparison], loop: str, in_flight: int, *, tls: bool) -> Comparison:
    title = _title(loop, in_flight, tls=tls)
    return next(each for each in comparisons if each.title == title)
