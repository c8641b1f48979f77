"""How benchmarks measure: CPU of this process, variants interleaved, ratios inside a round, then the median."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Mapping

import attrs

ROUNDS = 7


@attrs.frozen
class Figure:
    """One variant: microseconds of CPU per operation, and its ratio to the baseline of the same round."""

    name: str
    microseconds: float
    ratio: float
    lowest: float
    highest: float


def cpu() -> float:
    """Seconds of CPU, user and system, that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def compare(variants: Mapping[str, Callable[[], int]], *, rounds: int = ROUNDS) -> list[Figure]:
    """Run the variants side by side; the first one is the baseline.

    Args:
        variants: What to run, by name; each returns how many operations it did.
        rounds: How often, not counting one round to warm up. The order is reversed every second round.
    """
    names = list(variants)
    costs: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            began = cpu()
            operations = variants[name]()
            cost = (cpu() - began) / operations * 1e6
            if number:
                costs[name].append(cost)
    figures = []
    for name in names:
        ratios = [cost / base for cost, base in zip(costs[name], costs[names[0]], strict=True)]
        figures.append(
            Figure(name, statistics.median(costs[name]), statistics.median(ratios), min(ratios), max(ratios))
        )
    return figures


def show(title: str, figures: list[Figure]) -> None:
    """Print a table."""
    print(f"\n{title}")
    print(f"{'variant':<34}{'CPU us':>9}{'ratio':>8}{'spread':>16}")
    for figure in figures:
        spread = f"{figure.lowest:.2f} to {figure.highest:.2f}"
        print(f"{figure.name:<34}{figure.microseconds:>9.1f}{figure.ratio:>8.2f}{spread:>16}")
