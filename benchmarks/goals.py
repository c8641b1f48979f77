"""What the ratios are to be, and from where on a change may not land.

A gate is its goal and a tenth, since a machine of two busy cores is no laboratory. Where a goal can't be had today, the
gate is written down here with its reason, and is shown wherever the goal is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from benchmarks.measuring import Spread
from benchmarks.reports import Table

SLACK = 1.10


@attrs.frozen
class Shortfall:
    """A goal that is not reached, and is known not to be."""

    gate: float
    """What the figure may be until then."""
    reason: str


@attrs.frozen(kw_only=True)
class Goal:
    """One ratio, a median of rounds, and its bound."""

    name: str
    question: str
    """The module that measures it."""
    at_most: float | None = None
    at_least: float | None = None
    shortfall: Shortfall | None = None
    slack: float = SLACK
    """By how much the gate is weaker than the goal."""
    impossible: str = ""
    """Why there is nothing to measure."""
    needs: str = ""
    """What has to be on the machine; without it, it is not measured."""

    @property
    def gate(self) -> float:
        """From where on it fails."""
        if self.shortfall is not None:
            return self.shortfall.gate
        return self.at_most * self.slack if self.at_most is not None else (self.at_least or 0.0) / self.slack

    @property
    def bound(self) -> str:
        """The goal as text."""
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"

    def reached(self, figure: float) -> bool:
        """Whether the goal is reached."""
        return figure <= self.at_most if self.at_most is not None else figure >= (self.at_least or 0.0)

    def passed(self, figure: float) -> bool:
        """Whether the gate is passed."""
        return figure <= self.gate if self.at_most is not None else figure >= self.gate


INSTRUCTIONS: Mapping[str, float] = {
    "capture / aiohttp by hand": 0.82,
    "capture / aiohttp tuned": 0.95,
    "a hook that counts / none": 1.05,
    "OpenTelemetry's SDK / no hook": 1.75,
    "preauthorize / aiohttp by hand": 0.95,
    "batch / bare pool": 1.09,
}
"""The ratios that `benchmarks.instructions` counts. Without the kernel's share, which all have in common, what differs
between them is a larger part."""


def _goals() -> Iterator[Goal]:
    for loop, hand, stripe in (("asyncio", 0.95, 2.1), ("uvloop", 0.95, 2.6)):
        yield Goal(question="capture", name=f"capture / aiohttp by hand, {loop}", at_most=hand)
        yield Goal(question="capture", name=f"capture / aiohttp tuned, {loop}", at_most=1.10)
        yield Goal(question="capture", name=f"capture / aiohttp by hand, TLS, {loop}", at_most=0.97)
        for peer, least in (
            ("stripe, AIOHTTPClient", stripe),
            ("stripe, HTTPXClient", 12),
            ("square", 15),
            ("mollie", 25),
            ("openai", 8),
        ):
            yield Goal(question="capture", name=f"{peer} / capture, {loop}", at_least=least)
        yield Goal(question="capture", name=f"our hooks, metrics and tracing, on, {loop}", at_most=1.05)
        yield Goal(question="capture", name=f"OpenTelemetry's SDK, on, {loop}", at_most=1.3)
        yield Goal(question="preauthorize", name=f"preauthorize / aiohttp by hand, {loop}", at_most=1.08)
        for ratio, most in INSTRUCTIONS.items():
            yield Goal(
                question="instructions",
                name=f"instructions: {ratio}, {loop}",
                at_most=most,
                needs="valgrind",
                slack=1.03,
            )
    yield Goal(question="batch", name="batch, CPU / bare pool", at_most=1.05)
    yield Goal(question="batch", name="gather and semaphore / batch, CPU, a large batch", at_least=1.3)
    yield Goal(question="batch", name="batch, MB of growth from 1,000 items to the most", at_most=2.0)
    yield Goal(question="batch", name="batch, time / ideal pool, 1 % slow", at_most=1.05)
    yield Goal(question="durable", name="durable batch / batch, per second, 4,000", at_least=0.7)
    yield Goal(question="durable", name="durable batch / batch, per second, 20,000", at_least=0.85)
    for what, least in (("/ batch, per second, 20,000", 0.7), ("asked for 2,000 a second, per second", 1_950)):
        name = f"durable batch in PostgreSQL {what}"
        yield Goal(question="ledger_postgres", name=name, at_least=least, needs="PostgreSQL")
    by_construction = "a client without a hook runs none of the hooks' code"
    yield Goal(question="capture", name="our hooks, metrics and tracing, off", at_most=1.0, impossible=by_construction)
    yield Goal(question="webhooks", name="verify / bare RSA", at_most=1.40)
    for count, most, least in ((1, 1.45, 3.8), (10, 1.80, 4.5), (100, 2.0, 5.0)):
        decoded = f"verify and decode / RSA, SHA-256, orjson; events: {count}"
        yield Goal(question="webhooks", name=decoded, at_most=most)
        stack = f"PyJWT, json, cattrs / verify and decode; events: {count}"
        yield Goal(question="webhooks", name=stack, at_least=least)
    for what, most in (("a forged kid", 0.12), ("another alg", 0.15), ("an oversize token", 0.15)):
        yield Goal(question="webhooks", name=f"rejecting {what} / bare RSA", at_most=most)
    for database, needs in (("Sqlite", ""), ("Postgres", "PostgreSQL")):
        for count, most in ((1, 1.5), (10, 0.9), (100, 0.5)):
            name = f"receiver with {database}Inbox / by hand, a commit an event; events: {count}"
            yield Goal(question="inbox", name=name, at_most=most, needs=needs)
    used = "import and use of jetpay_async.webhooks / import jwt, cattrs"
    yield Goal(question="footprint", name=used, at_most=1.1)
    yield Goal(question="footprint", name="import of the client / import of aiohttp", at_most=1.2)


_SPAN = (
    "OpenTelemetry's SDK by itself, one span and one measurement made by hand, takes 1.68 of a capture's instructions"
)
_UVLOOP = "uvloop saves little of either side, as aiohttp's own work is most of both"
_HTTPX = "what httpx costs varies by a third from run to run"
_REJECTION = (
    "reading the header, and raising an error that says why; forged headers are not cached, as any sender makes them"
)
_MARKS = "a delivery is leased before its handlers and marked after them: two transactions where one is written by hand"
_CLAIMS = "the claims, the time window and the hash of the body are read and checked beside the signature"
_EVENTS = (
    "of a fifth of the peers' time, RSA, SHA-256 and a bare parser take seven tenths; the rest is 0.2 us for an event,"
    " and finding and filling its class takes 0.4"
)
_HOOK = "two readings of the clock, and the two objects that a hook is given: 1.02 to 1.05 by instructions"
_FILES = "1.14 by instructions; the kernel's share of opening our 37 files is measured with it, at 1.15 to 1.28 in all"
_TRANSACTIONS = "its transactions run beside the requests, on the core that these keep busy"

SHORTFALLS: Mapping[str, Shortfall] = {
    **{f"our hooks, metrics and tracing, on, {loop}": Shortfall(1.16, _HOOK) for loop in ("asyncio", "uvloop")},
    **{f"OpenTelemetry's SDK, on, {loop}": Shortfall(2.0, _SPAN) for loop in ("asyncio", "uvloop")},
    "stripe, AIOHTTPClient / capture, uvloop": Shortfall(1.8, _UVLOOP),
    **{f"stripe, HTTPXClient / capture, {loop}": Shortfall(8.5, _HTTPX) for loop in ("asyncio", "uvloop")},
    **{f"square / capture, {loop}": Shortfall(10.0, _HTTPX) for loop in ("asyncio", "uvloop")},
    **{f"mollie / capture, {loop}": Shortfall(20.0, _HTTPX) for loop in ("asyncio", "uvloop")},
    "gather and semaphore / batch, CPU, a large batch": Shortfall(
        0.7, "a task costs no more CPU than a place in a batch does; runs measure 0.95 to 1.31. What it costs is memory"
    ),
    "batch, CPU / bare pool": Shortfall(
        1.4,
        "each item has an outcome, a place in the stream, a share of the limits and an entry by which it is known if"
        " repeated: 1.08 of the instructions of a pool that keeps no account",
    ),
    "batch, MB of growth from 1,000 items to the most": Shortfall(
        5.0,
        "for a minute, 4 bytes are kept for each id, of which there are 600,000 at 10,000 a second; and the client"
        " remembers its last 10,000 captures, 1.3 MB, which a batch of 1,000 does not fill",
    ),
    "durable batch / batch, per second, 4,000": Shortfall(0.45, _TRANSACTIONS),
    "durable batch / batch, per second, 20,000": Shortfall(0.55, _TRANSACTIONS),
    "durable batch in PostgreSQL / batch, per second, 20,000": Shortfall(0.35, _TRANSACTIONS),
    "durable batch in PostgreSQL asked for 2,000 a second, per second": Shortfall(
        400, "a rate is kept only where the machine has the time: the gate is for one that is busy otherwise"
    ),
    "verify / bare RSA": Shortfall(1.65, _CLAIMS),
    "verify and decode / RSA, SHA-256, orjson; events: 1": Shortfall(1.7, _CLAIMS),
    "PyJWT, json, cattrs / verify and decode; events: 10": Shortfall(3.7, _CLAIMS),
    "PyJWT, json, cattrs / verify and decode; events: 100": Shortfall(3.5, _EVENTS),
    **{
        f"receiver with {database}Inbox / by hand, a commit an event; events: {count}": Shortfall(gate, _MARKS)
        for database, gates in (("Sqlite", {1: 3.3, 10: 1.1, 100: 0.75}), ("Postgres", {1: 2.6}))
        for count, gate in gates.items()
    },
    "rejecting a forged kid / bare RSA": Shortfall(0.18, _REJECTION),
    "import of the client / import of aiohttp": Shortfall(1.45, _FILES),
}

GOALS: Mapping[str, Goal] = {goal.name: attrs.evolve(goal, shortfall=SHORTFALLS.get(goal.name)) for goal in _goals()}


def table_of_goals(figures: Mapping[str, Spread], *, wanted: Mapping[str, Goal] = GOALS) -> Table:
    """Show every goal with what was reached."""
    return Table(
        title="Goals",
        columns=("ratio of CPU, unless it says otherwise", "goal", "gate", "figure", "lowest to highest", ""),
        rows=[_row(goal, figures.get(name)) for name, goal in wanted.items()],
    )


def _row(goal: Goal, figure: Spread | None) -> tuple[str, ...]:
    if figure is None:
        return (
            goal.name,
            goal.bound,
            "none" if goal.impossible else f"{goal.gate:.3g}",
            "",
            "",
            goal.impossible or (f"not measured: needs {goal.needs}" if goal.needs else "MISSING"),
        )
    if goal.reached(figure.median):
        verdict = "reached"
    elif goal.passed(figure.median):
        verdict = "short of the goal" + (f": {goal.shortfall.reason}" if goal.shortfall else "")
    else:
        verdict = "GATE BROKEN"
    spread = f"{figure.lowest:.2f} to {figure.highest:.2f}"
    return goal.name, goal.bound, f"{goal.gate:.3g}", f"{figure.median:.2f}", spread, verdict


def failing(figures: Mapping[str, Spread], *, wanted: Mapping[str, Goal] = GOALS) -> list[str]:
    """Name the goals whose gates are not passed; a figure that is missing passes none, unless the machine lacks it."""
    return [
        name
        for name, goal in wanted.items()
        if (not goal.passed(figures[name].median) if name in figures else not (goal.impossible or goal.needs))
    ]


def broken(figures: Mapping[str, Spread], *, wanted: Mapping[str, Goal] = GOALS) -> list[str]:
    """Say which gates are not passed, with the figure."""
    return [
        f"{name}: {figures[name]:.3f}, gate {wanted[name].gate:.3g} (goal {wanted[name].bound})"
        if name in figures
        else f"{name}: not measured"
        for name in failing(figures, wanted=wanted)
    ]
