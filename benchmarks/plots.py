"""The figures as pictures, PNG and SVG: ratios with their spread, growth, and where the microseconds go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from benchmarks.goals import GOALS, Goal
from benchmarks.measuring import Comparison, Spread
from benchmarks.reports import Curve, Report, Steps

OURS, OTHERS, BAD = "#0b6e4f", "#8a8d91", "#b3261e"

# The same text gives the same file, and text stays text.
mpl.rcParams.update(
    {
        "svg.hashsalt": "benchmarks",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


def draw(reports: Sequence[Report], directory: Path) -> list[str]:
    """Draw everything; return the names of the pictures, without their endings."""
    directory.mkdir(parents=True, exist_ok=True)
    names = []
    for name, figure in _figures(reports):
        figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
        figure.savefig(directory / f"{name}.png", dpi=120)
        names.append(name)
    return names


def _figures(reports: Sequence[Report]) -> Iterator[tuple[str, Figure]]:
    figures = {name: spread for report in reports for name, spread in report.figures.items()}
    if figures:
        yield "goals", _draw_goals(figures)
    for report in reports:
        for comparison in filter(attrgetter("drawn"), report.comparisons):
            yield _file_name(comparison.title), _draw_ratios(comparison)
        for steps in report.steps:
            yield _file_name(steps.title), _draw_steps(steps)
        for curve in report.curves:
            yield _file_name(curve.title), _draw_curve(curve)


def _file_name(title: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in title.lower().partition("bytes")[0]).split()
    return "-".join(words)


def _sheet(rows: int) -> Figure:
    return Figure(figsize=(9, 1.3 + 0.32 * rows), layout="constrained")


def _draw_ratios(comparison: Comparison) -> Figure:
    ratios = {name: comparison.ratio(name, comparison.baseline) for name in comparison.turns}
    ordered = dict(sorted(ratios.items(), key=lambda item: -item[1].median))
    figure = _sheet(len(ordered))
    axes = figure.subplots()
    for row, (name, ratio) in enumerate(ordered.items()):
        axes.errorbar(
            ratio.median,
            row,
            xerr=[[ratio.median - ratio.lowest], [ratio.highest - ratio.median]],
            fmt="o",
            capsize=3,
            color=OURS if "jetpay" in name or "verify" in name else OTHERS,
        )
        axes.annotate(f"{ratio.median:.2f}", (ratio.median, row), (0, 5), textcoords="offset points", ha="center")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(ordered)), list(ordered))
    axes.set_ylim(-0.6, len(ordered) - 0.2)
    if max(ratio.highest for ratio in ordered.values()) > 4 * min(ratio.lowest for ratio in ordered.values()):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
    what = {"cost": "CPU of one operation", "duration": "time", "growth": "RSS growth"}[comparison.by]
    axes.set_xlabel(f"{what} / {comparison.baseline}: median of the rounds, lowest to highest")
    axes.set_title(comparison.title, loc="left")
    return figure


def _draw_goals(figures: Mapping[str, Spread]) -> Figure:
    """Draw every figure as a share of what its goal allows: left of the line it is reached."""
    measured: dict[str, tuple[Goal, Spread]] = {
        name: (GOALS[name], figure) for name, figure in reversed(figures.items()) if name in GOALS
    }
    sheet = _sheet(len(measured))
    axes = sheet.subplots()
    for row, (goal, figure) in enumerate(measured.values()):
        shares = sorted(_share(goal, value) for value in (figure.lowest, figure.median, figure.highest))
        color = OURS if goal.reached(figure.median) else OTHERS if goal.passed(figure.median) else BAD
        axes.plot([shares[0], shares[2]], [row, row], color=color, linewidth=1.5)
        axes.plot(shares[1], row, "o", color=color)
        axes.plot(_share(goal, goal.gate), row, "|", color="black", markersize=11)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(measured)), list(measured))
    axes.set_xlim(0, 1.1 * max(_share(goal, goal.gate) for goal, _ in measured.values()))
    axes.set_xlabel("share of what the goal allows; the line is the goal, each tick a gate")
    axes.set_title("Goals", loc="left")
    return sheet


def _share(goal: Goal, value: float) -> float:
    if goal.at_most is not None:
        return value / goal.at_most
    return (goal.at_least or 0.0) / value if value else float("inf")


def _draw_steps(steps: Steps) -> Figure:
    """Draw a waterfall."""
    figure = _sheet(len(steps.parts) + 1)
    axes = figure.subplots()
    reached = 0.0
    for row, part in enumerate(steps.parts.values()):
        axes.barh(row, part.median, left=reached, color=OURS if row >= steps.ours_from else OTHERS)
        end = reached + part.median
        axes.plot([reached + part.lowest, reached + part.highest], [row, row], color="black", linewidth=0.8)
        axes.annotate(f"{part.median:+.1f}", (reached + max(part.highest, 0), row), (6, -3), textcoords="offset points")
        axes.plot([end, end], [row, row + 1], color="black", linewidth=0.5)
        reached = end
    rows = [*steps.parts, "all"]
    axes.barh(len(rows) - 1, reached, color="black", alpha=0.5)
    axes.annotate(f"{reached:.1f}", (reached, len(rows) - 1), (6, -3), textcoords="offset points")
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("microseconds of CPU for one capture; thin lines: lowest to highest of the rounds")
    axes.set_title(steps.title, loc="left")
    return figure


def _draw_curve(curve: Curve) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    ours = [name for name in curve.lines if "jetpay" in name]
    for name, points in curve.lines.items():
        # Where several are ours, one color for all of them would tell none from the other.
        axes.plot(*zip(*points, strict=True), "o-", label=name, color=OURS if ours == [name] else None)
    axes.set_xscale("log", base=curve.base)
    if curve.base == 2:
        axes.set_xticks(sorted({x for points in curve.lines.values() for x, _ in points}))
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(bottom=0)
    axes.set_xlabel(curve.x)
    axes.set_ylabel(curve.y)
    axes.set_title(curve.title, loc="left")
    axes.legend()
    return figure
