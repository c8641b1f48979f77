"""How everything here is measured.

The figure is the CPU, user and system, that one process used for a number of operations. Variants take turns; the order
is reversed every second round. Two of them are compared inside a round, so that whatever slowed the machine down
slowed both, and of those ratios the median counts. A figure of one run says nothing against a figure of another.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

import attrs

CLIENT_CORE, SERVER_CORE = 0, -1
_STATUS = Path("/proc/self/status")
_FORGET_PEAK = Path("/proc/self/clear_refs")


@attrs.frozen(kw_only=True)
class Turn:
    """What one turn of one variant cost."""

    operations: int
    cpu: float
    """Seconds, user and system, of the measured process."""
    wall: float
    """Seconds."""
    growth: int = 0
    """Bytes that the resident set rose at its peak over that of the warmed process."""

    @classmethod
    def of(cls, slices: Sequence[Turn]) -> Turn:
        """Take several for one."""
        return cls(
            operations=sum(each.operations for each in slices),
            cpu=sum(each.cpu for each in slices),
            wall=sum(each.wall for each in slices),
            growth=max(each.growth for each in slices),
        )

    @property
    def cost(self) -> float:
        """Microseconds of CPU for one operation."""
        return self.cpu / self.operations * 1e6

    @property
    def duration(self) -> float:
        """Microseconds of time for one operation; with several in flight that is less than each of them takes."""
        return self.wall / self.operations * 1e6

    @property
    def per_second(self) -> float:
        """Operations in a second."""
        return self.operations / self.wall


@attrs.frozen(kw_only=True)
class Spread:
    """The median of some rounds, between the lowest and the highest."""

    median: float
    lowest: float
    highest: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up the values of the rounds."""
        return cls(median=statistics.median(values), lowest=min(values), highest=max(values), rounds=len(values))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.lowest:{spec}} to {self.highest:{spec}})"


@attrs.frozen(kw_only=True)
class Comparison:
    """Variants that did the same work, side by side."""

    title: str
    turns: Mapping[str, Sequence[Turn]]
    """By variant, one turn for each round."""
    baseline: str
    by: str = "cost"
    """What is compared: ``cost``, ``duration`` or ``growth`` of a turn."""
    drawn: bool = True
    """Whether it is worth a picture besides its table."""

    def ratio(self, over: str, under: str, *, by: str | None = None) -> Spread:
        """Compare two variants: divide inside each round, then take the median."""
        read = attrgetter(by or self.by)
        pairs = zip(self.turns[over], self.turns[under], strict=True)
        return Spread.of([read(one) / read(other) for one, other in pairs])

    def difference(self, over: str, under: str) -> Spread:
        """Subtract one variant's cost from another's inside each round, then take the median."""
        pairs = zip(self.turns[over], self.turns[under], strict=True)
        return Spread.of([one.cost - other.cost for one, other in pairs])

    def spread(self, name: str, by: str) -> Spread:
        """Sum up one quantity of a variant's turns."""
        return Spread.of([getattr(turn, by) for turn in self.turns[name]])


def alternate(names: Sequence[str], rounds: int, *, first: int = 0) -> Iterator[str]:
    """Name who is next: everybody once in each round, in reverse order in every odd one."""
    for number in range(first, first + rounds):
        yield from names if number % 2 == 0 else reversed(names)


def compare_calls(
    title: str,
    variants: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    rounds: int,
    seconds: float,
    slices: int = 8,
) -> Comparison:
    """Compare plain functions in this process.

    They are so quick that a round takes turns several times: an interruption meets all of them alike.

    Args:
        title: What is asked.
        variants: By name.
        baseline: The variant that the others are shown against.
        rounds: How many ratios there will be.
        seconds: CPU of each variant in each round.
        slices: How often the variants take turns inside a round.
    """
    calls = {name: _calls_within(variant, seconds / slices) for name, variant in variants.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in variants}
    for _ in range(rounds):
        gc.collect()
        spent = {name: [0.0, 0.0] for name in variants}
        for name in alternate(list(variants), slices):
            variant, repeat = variants[name], range(calls[name])
            began, at = cpu(), time.perf_counter()
            for _ in repeat:
                variant()
            spent[name][0] += cpu() - began
            spent[name][1] += time.perf_counter() - at
        for name, (used, wall) in spent.items():
            turns[name].append(Turn(operations=calls[name] * slices, cpu=used, wall=wall))
    return Comparison(title=title, turns=turns, baseline=baseline)


def _calls_within(call: Callable[[], object], seconds: float) -> int:
    began, calls = cpu(), 0
    while True:
        call()
        calls += 1
        if cpu() - began >= seconds:
            return calls


def cpu() -> float:
    """Seconds of CPU, user and system, that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory() -> int:
    """Bytes that this process has resident now."""
    return _read_status("VmRSS") if _STATUS.exists() else peak_memory()


def peak_memory() -> int:
    """Bytes that it had resident at most, since `forget_peak` where the system can forget."""
    if _STATUS.exists():
        return _read_status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Start `peak_memory` from what is resident now; only Linux can."""
    if _FORGET_PEAK.exists():
        _FORGET_PEAK.write_text("5")


def _read_status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"{_STATUS} has no {field}")


@contextmanager
def on_core(index: int) -> Iterator[None]:
    """Stay on one core, with every process that is started meanwhile; where there are not two, do nothing."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    cores = sorted(before)
    if len(cores) < 2:
        yield
        return
    os.sched_setaffinity(0, {cores[index]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
