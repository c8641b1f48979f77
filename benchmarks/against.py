"""What did a change cost? The same loops in two trees, in one run: ``python -m benchmarks.against TREE``.

Valgrind counts the instructions of this tree and of another one, a clone of an earlier commit for example, in turns and
under the same Python with the same packages. Only the public API is used, under the names of both. How the event loop
and the ledger's thread take turns, and so how many commits there are, differs from run to run: the ledger's loop is
counted several times, and the median stands.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import counted, serving
from benchmarks.instructions import VALGRIND, read_count
from benchmarks.reports import Table

LOOPS: Mapping[str, int] = {"capture": 1, "batch": 1, "ledger": 3}
"""What is counted, and how many times."""
# The difference of two runs leaves out the start, the imports and the end.
COUNTS = (300, 1_800)
HERE = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table with the ratio of each loop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("tree", type=Path, help="a clone of the repository, at the commit to compare with")
    parser.add_argument("loops", nargs="*", choices=[*LOOPS, []], help="by default all")
    options = parser.parse_args(arguments)
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        sys.exit("valgrind is not installed")
    if not (options.tree / "jetpay_async").is_dir():
        sys.exit(f"{options.tree} has no jetpay_async in it")
    with serving.serving() as server:
        print(compare(valgrind, options.tree.resolve(), options.loops or list(LOOPS), server.url()).as_text())


def compare(valgrind: str, tree: Path, loops: Sequence[str], url: str) -> Table:
    """Count each loop in the other tree and in this one, in turns."""
    rows = []
    for loop in loops:
        each: dict[Path, list[float]] = {tree: [], HERE: []}
        for _ in range(LOOPS[loop]):
            for place, found in each.items():
                fewer, more = (count(valgrind, place, loop, items, url) for items in COUNTS)
                found.append((more - fewer) / (COUNTS[1] - COUNTS[0]))
        before, now = (statistics.median(found) for found in each.values())
        rows.append((loop, f"{before:,.0f}", f"{now:,.0f}", f"{now / before:.3f}"))
    return Table(
        title=f"Instructions for each item, asyncio, {counted.IN_FLIGHT} in flight",
        columns=("", "there", "here", "here / there"),
        rows=rows,
    )


def count(valgrind: str, tree: Path, loop: str, items: int, url: str) -> int:
    """Count the instructions of a process that imports the package of this tree."""
    run = subprocess.run(
        # By its path: the other tree may have no such module.
        [valgrind, *VALGRIND, sys.executable, counted.__file__, loop, str(items), url],
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    return read_count(run.stderr)


if __name__ == "__main__":
    main()
