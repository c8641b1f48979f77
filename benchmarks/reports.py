"""What was found out: figures by goal, tables, and the raw turns, as text, Markdown and JSON."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import attrs

from benchmarks.measuring import Comparison, Spread

PACKAGES = (
    "aiohttp",
    "attrs",
    "authlib",
    "cattrs",
    "cryptography",
    "httpx",
    "jetpay-async",
    "joserfc",
    "mollie-api-py",
    "msgspec",
    "openai",
    "opentelemetry-sdk",
    "orjson",
    "pyjwt",
    "squareup",
    "standardwebhooks",
    "stripe",
    "uvloop",
)


@attrs.frozen(kw_only=True)
class Plan:
    """How much to measure."""

    rounds: int
    seconds: float
    """CPU of each variant in each round."""
    slices: int = 1
    """How often the variants take turns inside a round."""
    quick: bool = False
    """Only what the gates need, with smaller batches."""
    scale: float = 1.0
    """Of the batches; less than 1 tries only whether everything works."""
    most: int = 1_000_000
    """Debits in the largest batch of `benchmarks.growth`."""
    ends_at: float = math.inf
    """When it is to be over, by `time.monotonic`; what takes longest has fewer rounds then."""


FULL = Plan(rounds=5, seconds=0.2, slices=8)
QUICK = Plan(rounds=5, seconds=0.12, slices=4, quick=True)


@attrs.frozen(kw_only=True)
class Table:
    """Rows of text under a title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """Align the columns."""
        cells = [self.columns, *self.rows]
        widths = [max(len(row[index]) for row in cells) for index in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join([self.title, lines[0], "-" * len(lines[0]), *lines[1:]])

    def as_markdown(self) -> str:
        """Write it for ``README.md``."""
        head = " | ".join(self.columns)
        rule = "|".join(["---", *["--:"] * (len(self.columns) - 1)])
        return "\n".join(
            [f"**{self.title}**", "", f"| {head} |", f"|{rule}|", *(f"| {' | '.join(r)} |" for r in self.rows)]
        )


@attrs.frozen(kw_only=True)
class Steps:
    """What a whole is made of: the lowest variant, and what each further one adds."""

    title: str
    parts: Mapping[str, Spread]
    """Microseconds of CPU."""
    ours_from: int = 0
    """The place of the first part that is ours."""


@attrs.frozen(kw_only=True)
class Curve:
    """One quantity against another."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    base: int = 10
    """Of the logarithm that x is drawn on."""


@attrs.frozen(kw_only=True)
class Report:
    """The answer to one question."""

    question: str
    figures: Mapping[str, Spread] = {}
    """By the name of the goal in `benchmarks.goals`."""
    comparisons: Sequence[Comparison] = ()
    tables: Sequence[Table] = ()
    """Besides those of the comparisons."""
    steps: Sequence[Steps] = ()
    curves: Sequence[Curve] = ()
    notes: Sequence[str] = ()

    def all_tables(self) -> Iterable[Table]:
        """Every table, those of the comparisons first."""
        yield from map(table_of, self.comparisons)
        yield from map(table_of_steps, self.steps)
        yield from self.tables

    def as_text(self) -> str:
        """Write it for a terminal."""
        return "\n\n".join([f"== {self.question}", *(table.as_text() for table in self.all_tables()), *self.notes])

    def as_markdown(self) -> str:
        """Write it for ``README.md``."""
        return "\n\n".join([f"### {self.question}", *(table.as_markdown() for table in self.all_tables()), *self.notes])


def table_of(comparison: Comparison) -> Table:
    """Show the variants of a comparison against its baseline."""
    what = {"cost": "CPU", "duration": "time", "growth": "RSS growth"}[comparison.by]
    every = [turn for turns in comparison.turns.values() for turn in turns]
    columns = ["", "CPU us", f"{what} / {comparison.baseline}", "lowest to highest", "per second"]
    grew = any(turn.growth for turn in every)
    rows = []
    for name in comparison.turns:
        ratio = comparison.ratio(name, comparison.baseline)
        row = [
            name,
            f"{comparison.spread(name, 'cost').median:,.1f}",
            f"{ratio.median:.2f}",
            f"{ratio.lowest:.2f} to {ratio.highest:.2f}",
            f"{comparison.spread(name, 'per_second').median:,.0f}",
        ]
        rows.append([*row, f"{comparison.spread(name, 'growth').median / 1e6:.1f}"] if grew else row)
    return Table(
        title=f"{comparison.title}; medians of {len(comparison.turns[comparison.baseline])} rounds",
        columns=[*columns, "RSS growth MB"] if grew else columns,
        rows=rows,
    )


def table_of_steps(steps: Steps) -> Table:
    """Show what each step adds."""
    return Table(
        title=steps.title,
        columns=("", "CPU us", "lowest to highest"),
        rows=[
            (name, f"{part.median:.1f}", f"{part.lowest:.1f} to {part.highest:.1f}")
            for name, part in steps.parts.items()
        ],
    )


def circumstances(server: str) -> dict[str, str]:
    """Describe the machine and the versions."""
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}",
        "load before": load,
        "server": server,
        "Python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def to_json(reports: Sequence[Report], facts: Mapping[str, str]) -> str:
    """Write everything, every turn of every round included."""
    return json.dumps({"circumstances": facts, "reports": [attrs.asdict(each) for each in reports]}, indent=1) + "\n"
