"""How many instructions does a capture take? The one figure here that a busy machine does not move.

Two counts of the same code differ by less than half a hundredth, so it shows what a change did where CPU time can't.
It is no substitute: what the kernel does is not in it, nor how long memory lets instructions wait. Valgrind counts
(Debian has a package); a run of everything does without, and its gates are asked for by name.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from benchmarks import batch, preauthorize
from benchmarks.contenders import BY_HAND, CONTENDERS, HOOKED, OBSERVED, OURS, SDK, TRACED, TUNED
from benchmarks.goals import INSTRUCTIONS
from benchmarks.measuring import Spread
from benchmarks.reports import Plan, Report, Table
from benchmarks.serving import Server
from benchmarks.subjects import LOOPS, Contender, MiscountError, Site

QUESTION = "How many instructions does a capture take?"
IN_FLIGHT = 8
WARM = 200
# The difference of two runs leaves out the start, the imports and the end.
COUNTS = (200, 1_200)
RESERVED_BY_HAND, RESERVED, BATCH, POOL = "preauthorize by hand", "preauthorize", "capture_many()", "bare pool"
COUNTED: Mapping[str, Contender] = {
    **{name: {**CONTENDERS, **HOOKED}[name] for name in (BY_HAND, TUNED, OURS, OBSERVED, SDK, TRACED)},
    RESERVED_BY_HAND: preauthorize.by_hand,
    RESERVED: preauthorize.ours,
    POOL: batch.pool,
    BATCH: batch.batch,
}
RATIOS: Mapping[str, tuple[str, str]] = dict(
    zip(
        INSTRUCTIONS,
        (
            (OURS, BY_HAND),
            (OURS, TUNED),
            (OBSERVED, OURS),
            (TRACED, OURS),
            (RESERVED, RESERVED_BY_HAND),
            (BATCH, POOL),
        ),
        strict=True,
    )
)
VALGRIND = ("--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")


def measure(_: Plan, server: Server) -> Report:
    """Count on both loops."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return Report(question=QUESTION, notes=["Not counted: valgrind is not installed."])
    runs = list(itertools.product(LOOPS, COUNTED, COUNTS))
    before = server.requests()
    with ThreadPoolExecutor(max_workers=2) as pool:
        counts = dict(zip(runs, pool.map(lambda run: _count(valgrind, *run, server.url()), runs), strict=True))
    if (counted := server.requests() - before) != sum(WARM + count for _, _, count in runs):
        raise MiscountError(f"{counted} requests arrived")
    fewer, more = COUNTS
    each = {
        (loop, name): (counts[loop, name, more] - counts[loop, name, fewer]) / (more - fewer)
        for loop, name in itertools.product(LOOPS, COUNTED)
    }
    return Report(
        question=QUESTION,
        figures={
            f"instructions: {ratio}, {loop}": Spread.of([each[loop, ours] / each[loop, theirs]])
            for loop, (ratio, (ours, theirs)) in itertools.product(LOOPS, RATIOS.items())
        },
        tables=[
            Table(
                title=f"Instructions for each operation, {loop}",
                columns=("", "instructions", f"/ {BY_HAND}"),
                rows=[
                    (name, f"{each[loop, name]:,.0f}", f"{each[loop, name] / each[loop, BY_HAND]:.3f}")
                    for name in COUNTED
                ],
            )
            for loop in LOOPS
        ],
    )


def _count(valgrind: str, loop: str, name: str, count: int, url: str) -> int:
    """Count the instructions of a process that captures so many debits."""
    run = subprocess.run(
        [valgrind, *VALGRIND, sys.executable, "-m", "benchmarks.instructions", loop, name, str(count), url],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        check=True,
        text=True,
    )
    return read_count(run.stderr)


def read_count(said: str) -> int:
    """Find the number of instructions in what valgrind says at the end."""
    found = re.search(r"\bI +refs: +([\d,]+)", said)
    if found is None:
        raise ValueError(f"valgrind printed no count: {said[-500:]}")
    return int(found[1].replace(",", ""))


def capture(loop: str, name: str, count: int, url: str) -> None:
    """Capture so many debits, after some that warm everything up."""

    async def work() -> None:
        async with COUNTED[name](Site(url=url, in_flight=IN_FLIGHT, loop=loop)) as work:
            await work.run(WARM)
            await work.run(count)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work())


if __name__ == "__main__":
    _, loop, name, count, url = sys.argv
    capture(loop, name, int(count), url)
