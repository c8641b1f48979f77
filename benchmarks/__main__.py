"""Ask the questions: ``python -m benchmarks``, or some of them by name; ``--gate`` for what a change must pass."""

from __future__ import annotations

import argparse
import importlib
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks import goals, reports, serving
from benchmarks.measuring import Spread
from benchmarks.reports import FULL, QUICK, Plan, Report

# Imported only when asked: every measured process starts by importing this module.
QUESTIONS = (
    "capture",
    "layers",
    "preauthorize",
    "durable",
    "ledger_postgres",
    "webhooks",
    "inbox",
    "footprint",
    "batch",
)
FURTHER = ("instructions", "growth")
"""Only where asked for by name."""
GATED = tuple(name for name in QUESTIONS if name != "layers")

# Seconds that a run of everything may take; the pictures come after.
BUDGET_SECONDS = 570.0

# How often a question whose gate broke is asked again.
RETRIES = 2

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PUBLISHED = HERE / "published"
README = HERE / "README.md"
BEGIN, END = "<!-- {} -->", "<!-- end of {} -->"
BLOCKS = {"results": QUESTIONS, "growth": ("growth",)}
"""What is published together, between its own marks in the page: part of the questions would replace them all."""


def ask(names: Sequence[str], plan: Plan, server: serving.Server) -> list[Report]:
    """Ask one question after the other, printing each answer as it comes."""
    answers = []
    for name in names:
        began = time.monotonic()
        answers.append(importlib.import_module(f"benchmarks.{name}").measure(plan, server))
        print(f"\n{answers[-1].as_text()}\n\n({name}: {time.monotonic() - began:.0f} s)", flush=True)
    return answers


def figures_of(answers: Sequence[Report]) -> dict[str, Spread]:
    """Collect what the goals are about."""
    return {name: figure for answer in answers for name, figure in answer.figures.items()}


def publish(
    block: str, answers: Sequence[Report], facts: dict[str, str], table: reports.Table, pictures: Sequence[str]
) -> None:
    """Write the results into their block of ``README.md``, and some of the pictures beside it."""
    PUBLISHED.mkdir(exist_ok=True)
    shown = [f"{name}.svg" for name in pictures if name.startswith(SHOWN)]
    for name in shown:
        shutil.copyfile(RESULTS / name, PUBLISHED / name)
    circumstances = ", ".join(f"{name} {value}" for name, value in facts.items())
    images = "\n".join(f"![{name.removesuffix('.svg')}](published/{name})" for name in shown)
    begin, end = BEGIN.format(block), END.format(block)
    compared = [table.as_markdown()] if table.rows else []
    parts = [begin, circumstances, *compared, images, *(each.as_markdown() for each in answers), end]
    before, _, rest = README.read_text().partition(begin)
    README.write_text(before + "\n\n".join(parts) + rest.partition(end)[2])


SHOWN = (
    "goals",
    "what-each-layer-adds",
    "memory-of-a-batch",
    "capture-64-in-flight-uvloop-plain",
    "durable-batch",
)


def main() -> None:
    """Print tables, write JSON and pictures; exit with status 1 if a gate is broken."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    arguments.add_argument(
        "questions", nargs="*", choices=[*QUESTIONS, *FURTHER, []], help=f"by default all but {', '.join(FURTHER)}"
    )
    arguments.add_argument("--gate", action="store_true", help="the quick form: only what the gates need")
    arguments.add_argument("--most", type=int, default=FULL.most, help="debits in the largest batch of growth")
    arguments.add_argument("--publish", action="store_true", help="write the results into benchmarks/README.md")
    options = arguments.parse_args()
    names = options.questions or (GATED if options.gate else QUESTIONS)
    block = next((block for block, questions in BLOCKS.items() if set(questions) == set(names)), "")
    if options.publish and not block:
        arguments.error("--publish takes all the questions, or growth alone: what is published is replaced as a whole")
    began = time.monotonic()
    plan = QUICK if options.gate else attrs.evolve(FULL, ends_at=began + BUDGET_SECONDS, most=options.most)
    RESULTS.mkdir(exist_ok=True)
    with serving.serving() as server:
        facts = reports.circumstances(server.name)
        print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")
        answers = ask(names, plan, server)
        wanted = {name: goal for name, goal in goals.GOALS.items() if goal.question in names}
        figures = figures_of(answers)
        for _ in range(RETRIES if options.gate else 0):
            if not (failing := goals.failing(figures, wanted=wanted)):
                break
            print("\nOnce more, as the machine may have been busy:", *failing, sep="\n")
            again = figures_of(ask(list(dict.fromkeys(wanted[name].question for name in failing)), plan, server))
            figures |= {name: again[name] for name in failing if name in again}
    table = goals.table_of_goals(figures, wanted=wanted)
    print(f"\n{table.as_text()}\n\n{time.monotonic() - began:.0f} s in all")
    kind = "gate" if options.gate else "bench"
    (RESULTS / f"{kind}.json").write_text(reports.to_json(answers, facts))
    if not options.gate:
        from benchmarks import plots  # noqa: PLC0415 - the gate needs no pictures

        pictures = plots.draw(answers, RESULTS)
        if options.publish:
            publish(block, answers, facts, table, pictures)
    if faults := goals.broken(figures, wanted=wanted):
        sys.exit("gates broken:\n" + "\n".join(faults))


if __name__ == "__main__":
    # A run that is ended ends its server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before the last question"))
    main()
