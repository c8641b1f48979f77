"""Draw the curves of ``docs/images`` from the results in ``benchmarks/README.md``: ``python docs/plots.py``.

Every number is read from a table there, so that a picture can't say anything else; a test compares both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

RESULTS = Path(__file__).parents[1] / "benchmarks" / "README.md"
IMAGES = Path(__file__).parent / "images"

Points = Mapping[int, float]

OURS, OTHERS = "#0b6e4f", ("#6e7781", "#b06000", "#5a4fcf")
LEFT, TOP, WIDTH, HEIGHT = 64.0, 56.0, 420.0, 230.0


class Curves(NamedTuple):
    """One picture: a number on x, microseconds of CPU on y."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Points]
    logarithmic: bool = False
    """Whether y grows by factors; x always does."""


def tables(text: str) -> Mapping[str, Mapping[str, float]]:
    """Return the first column of each titled table of results, by title and row."""
    found: dict[str, dict[str, float]] = {}
    for title, body in re.findall(r"^\*\*(.+)\*\*\n\n((?:\|.*\n)+)", text, re.MULTILINE):
        rows = (line.strip("|").split("|") for line in body.splitlines()[2:])
        found[title] = {row[0].strip(): _number(row[1]) for row in rows}
    return found


def _number(cell: str) -> float:
    try:
        return float(cell.replace(",", ""))
    except ValueError:  # the table of goals has words there
        return math.nan


def curves(text: str) -> Mapping[str, Curves]:
    """Return the pictures by the names of their files."""
    results = tables(text)

    def line(title: str, row: str) -> Points:
        """Follow one row through the tables whose title has a number in this place."""
        pattern = re.escape(title).replace("NUMBER", r"([\d,]+)")
        points = {
            int(match[1].replace(",", "")): table[row]
            for name, table in results.items()
            if (match := re.match(pattern, name)) and row in table
        }
        return dict(sorted(points.items()))

    batch, delivery = "Batch of NUMBER, 64 in flight, uvloop;", "A delivery of NUMBER events,"
    capture, inbox = "Capture, NUMBER in flight, asyncio, plain;", "Deliveries of NUMBER events,"
    return {
        "cost-by-batch-size": Curves(
            "A capture in a batch, by the size of the batch",
            "items in the batch, 64 in flight, on uvloop",
            "microseconds of CPU for each item",
            {
                "jetpay_async batch": line(batch, "jetpay_async batch"),
                "bare pool": line(batch, "bare pool"),
                "gather and semaphore": line(batch, "gather and semaphore"),
            },
        ),
        "cost-by-events-in-a-delivery": Curves(
            "A webhook delivery, by the events in it",
            "events in the delivery",
            "microseconds of CPU for each delivery",
            {
                "WebhookVerifier.verify": line(delivery, "WebhookVerifier.verify"),
                "RSA, SHA-256, orjson": line(delivery, "RSA, SHA-256, orjson"),
                "joserfc, json, cattrs": line(delivery, "joserfc, json, cattrs"),
                "PyJWT, PyJWKClient, json, cattrs": line(delivery, "PyJWT, PyJWKClient, json, cattrs"),
            },
            logarithmic=True,
        ),
        "cost-by-events-with-an-inbox": Curves(
            "A delivery whose events are handled once, by the events in it",
            "events in the delivery",
            "microseconds of CPU for each delivery",
            {
                "SqliteInbox": line(f"{inbox} SqliteInbox", "SqliteInbox"),
                "SQLite by hand": line(f"{inbox} SqliteInbox", "SQLite by hand"),
                "PostgresInbox": line(f"{inbox} PostgresInbox", "PostgresInbox"),
                "PostgreSQL by hand": line(f"{inbox} PostgresInbox", "PostgreSQL by hand"),
            },
            logarithmic=True,
        ),
        "cost-by-requests-in-flight": Curves(
            "A capture, by the requests in flight",
            "requests in flight, on asyncio",
            "microseconds of CPU for each capture",
            {
                "jetpay_async": line(capture, "jetpay_async"),
                "aiohttp by hand": line(capture, "aiohttp by hand"),
                "aiohttp tuned": line(capture, "aiohttp tuned"),
            },
        ),
    }


def draw(figure: Curves) -> str:
    """Return a picture as SVG, with its own background: it is shown on light pages and on dark ones."""
    numbers = sorted({x for points in figure.lines.values() for x in points})
    highest = max(y for points in figure.lines.values() for y in points.values())
    lowest = min(y for points in figure.lines.values() for y in points.values())
    marks = _decades(lowest, highest) if figure.logarithmic else _steps(highest)

    def place_x(x: float) -> float:
        share = math.log(x / numbers[0], numbers[-1] / numbers[0])
        return LEFT + 16 + share * (WIDTH - 32)

    def place_y(y: float) -> float:
        share = math.log(y / marks[0], marks[-1] / marks[0]) if figure.logarithmic else y / marks[-1]
        return TOP + HEIGHT * (1 - share)

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 350" role="img" font-size="12" fill="#1f2328">',
        "<style>text { font-family: system-ui, 'DejaVu Sans', sans-serif }</style>",
        f"<title>{escape(figure.title)}</title>",
        f"<desc>{escape(_described(figure))}</desc>",
        '<rect width="760" height="350" rx="8" fill="#f6f8fa"/>',
        f'<text x="16" y="26" font-size="15">{escape(figure.title)}</text>',
        f'<text x="16" y="44" fill="#57606a">{escape(figure.y)}</text>',
    ]
    for mark in marks:
        y = place_y(mark)
        parts.append(f'<path d="M{LEFT:.0f} {y:.1f}h{WIDTH:.0f}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{LEFT - 8:.0f}" y="{y + 4:.1f}" text-anchor="end">{mark:,.0f}</text>')
    parts += [
        f'<text x="{place_x(x):.1f}" y="{TOP + HEIGHT + 18:.0f}" text-anchor="middle">{x:,}</text>' for x in numbers
    ]
    parts.append(
        f'<text x="{LEFT + WIDTH / 2:.0f}" y="{TOP + HEIGHT + 40:.0f}" text-anchor="middle" fill="#57606a">'
        f"{escape(figure.x)}</text>"
    )
    ends = _apart({name: place_y(points[max(points)]) for name, points in figure.lines.items()})
    for (name, points), color in zip(figure.lines.items(), (OURS, *OTHERS), strict=False):
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in points.items())
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3.5" fill="{color}">'
            f"<title>{escape(name)}, {x:,}: {y:,.1f}</title></circle>"
            for x, y in points.items()
        ]
        last = f"{points[max(points)]:,.1f}" + ("" if max(points) == numbers[-1] else f" at {max(points):,}")
        parts.append(
            f'<text x="{LEFT + WIDTH + 10:.0f}" y="{ends[name] + 4:.1f}" fill="{color}">{escape(name)}: {last}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _described(figure: Curves) -> str:
    """Return all its numbers, for who can't see it."""
    lines = (
        f"{name}: {', '.join(f'{y:,.1f} at {x:,}' for x, y in points.items())}" for name, points in figure.lines.items()
    )
    return f"{figure.y}, by {figure.x}. {'; '.join(lines)}."


def _steps(highest: float) -> Sequence[float]:
    step = 10 ** math.floor(math.log10(highest))
    step = next(each for each in (step / 5, step / 2, step, step * 2) if highest / each <= 6)
    return [each * step for each in range(math.ceil(highest / step) + 1)]


def _decades(lowest: float, highest: float) -> Sequence[float]:
    return [10.0**each for each in range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)]


def _apart(wanted: Mapping[str, float], distance: float = 16.0) -> Mapping[str, float]:
    """Return places for labels that do not cover each other, near to those that are wanted."""
    order = sorted(wanted, key=lambda name: wanted[name])
    placed = [wanted[name] for name in order]
    for above, below in pairwise(range(len(placed))):
        placed[below] = max(placed[below], placed[above] + distance)
    return dict(zip(order, placed, strict=True))


def pictures() -> Iterator[tuple[Path, str]]:
    """Return the file of each picture, and what it should hold."""
    for name, figure in curves(RESULTS.read_text(encoding="utf-8")).items():
        yield IMAGES / f"{name}.svg", draw(figure)


if __name__ == "__main__":
    for path, picture in pictures():
        path.write_text(picture, encoding="utf-8")
