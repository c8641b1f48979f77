"""The questions are answered, and the answers shown."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import attrs
import pytest

from tests.benchmarks.peers import require_peers

require_peers()

from benchmarks import __main__ as main  # noqa: E402
from benchmarks import goals, plots, reports, serving  # noqa: E402
from benchmarks.goals import GOALS  # noqa: E402
from benchmarks.measuring import Comparison, Spread, Turn  # noqa: E402
from benchmarks.reports import Curve, Plan, Report, Steps, Table  # noqa: E402
from benchmarks.serving import Server  # noqa: E402
from tests.postgres_server import NoServerError  # noqa: E402

COMPARISON = Comparison(
    title="Capture, 64 in flight",
    baseline="by hand",
    turns={
        "by hand": [Turn(operations=100, cpu=0.01, wall=0.02, growth=0)] * 3,
        "jetpay_async": [Turn(operations=100, cpu=0.011, wall=0.02, growth=2_000_000)] * 3,
    },
)
GOAL = next(iter(GOALS))
REPORT = Report(
    question="What does it cost?",
    figures={GOAL: Spread.of([0.5, 0.6, 0.7])},
    comparisons=[COMPARISON],
    steps=[Steps(title="Steps", parts={"one": Spread.of([10.0]), "two": Spread.of([-1.0])})],
    curves=[Curve(title="Memory", x="items", y="MB", lines={"jetpay_async": [(10, 1.0), (100, 1.1)]})],
    notes=["A note."],
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving.serving() as server:
        yield server


def test_an_inbox_is_measured_without_postgresql(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no PostgreSQL, the one in a file is compared by itself, which is said."""
    monkeypatch.setattr("benchmarks.inbox.postgres_server", Mock(side_effect=NoServerError("there is none")))
    plan = Plan(rounds=1, seconds=0.0, scale=1e-4)

    report = importlib.import_module("benchmarks.inbox").measure(plan, server)

    assert {name.split(" / ")[0] for name in report.figures} == {"receiver with SqliteInbox"}
    assert "PostgreSQL was not measured: there is none" in report.as_text()
    assert not goals.broken(report.figures, wanted={name: GOALS[name] for name in GOALS if "PostgresInbox" in name})
    (curve,) = report.curves
    assert {events for line in curve.lines.values() for events, _ in line} == {1, 3, 10, 30, 100}


def test_growth_is_measured_where_asked_for(
    server: Server, postgres: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each size and each number of processes is a point of both backends' curves, also where one part fails."""
    growth = importlib.import_module("benchmarks.growth")
    monkeypatch.setenv("JETPAY_TEST_POSTGRES", postgres)
    monkeypatch.setattr(growth, "PROCESSES", (2,))
    grow = growth.grow

    def fail_in_sqlite(backend: Any, sizes: object) -> None:
        if backend.name == growth.SQLITE:
            raise RuntimeError("on purpose")
        grow(backend, sizes)

    monkeypatch.setattr(growth, "grow", fail_in_sqlite)

    report: Report = growth.measure(Plan(rounds=1, seconds=0.0, most=100, scale=0.9), server)

    assert [{name: len(points) for name, points in curve.lines.items()} for curve in report.curves] == [
        *[{growth.POSTGRES: 1}] * 3,
        *[{growth.SQLITE: 1, growth.POSTGRES: 1}] * 2,
    ]
    assert "SQLite, sizes: failed with RuntimeError." in report.as_text()
    assert "durable-batch-speed-by-processes" in plots.draw([report], tmp_path)


def test_a_ledger_in_postgresql_is_left_out_without_a_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its goals break no gate then, and the report says what is missing."""
    monkeypatch.setattr("benchmarks.postgres.postgres_server", Mock(side_effect=NoServerError("there is none")))

    report: Report = importlib.import_module("benchmarks.ledger_postgres").measure(reports.QUICK, server)

    own = {name: goal for name, goal in GOALS.items() if goal.question == "ledger_postgres"}
    assert report.as_text().endswith("Not measured: there is none.")
    assert len(own) == 2
    assert goals.broken(report.figures, wanted=own) == []


@pytest.mark.parametrize("question", main.QUESTIONS)
def test_every_goal_is_measured(server: Server, question: str) -> None:
    """Each goal has a figure, unless there is nothing to measure; and there is no figure without a goal."""
    plan = Plan(rounds=1, seconds=0.0, quick=True, scale=1e-4)

    report = importlib.import_module(f"benchmarks.{question}").measure(plan, server)

    expected = {name for name, goal in GOALS.items() if goal.question == question and not goal.impossible}
    assert set(report.figures) == expected
    assert report.as_markdown().startswith(f"### {report.question}")


def test_every_goal_is_gated() -> None:
    """The quick run asks every question that has a goal, but for those that are asked for by name."""
    asked = {goal.question for goal in GOALS.values()} - set(main.FURTHER)
    assert asked <= set(main.GATED) <= set(main.QUESTIONS)


def test_a_table_shows_the_ratio_and_its_spread() -> None:
    """A variant's row shows its cost, its ratio to the baseline, the spread, the rate and the memory."""
    table = reports.table_of(COMPARISON)

    assert table.rows[1] == ["jetpay_async", "110.0", "1.10", "1.10 to 1.10", "5,000", "2.0"]
    assert table.as_text().splitlines()[-1].split() == [
        "jetpay_async",
        "110.0",
        "1.10",
        *["1.10", "to", "1.10"],
        "5,000",
        "2.0",
    ]
    assert table.as_markdown().splitlines()[-1] == "| jetpay_async | 110.0 | 1.10 | 1.10 to 1.10 | 5,000 | 2.0 |"


def test_every_picture_is_drawn_twice(tmp_path: Path) -> None:
    """Each comparison that is worth it, waterfall and curve, and the goals, as PNG and as SVG."""
    minor = attrs.evolve(COMPARISON, title="Capture, 8 in flight", drawn=False)

    names = plots.draw([attrs.evolve(REPORT, comparisons=[COMPARISON, minor])], tmp_path)

    assert names == ["goals", "capture-64-in-flight", "steps", "memory"]
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert "median of the rounds" in (tmp_path / "capture-64-in-flight.svg").read_text()


PAGE = (
    "# Before\n\n<!-- results -->\nold results\n<!-- end of results -->\n\n"
    "<!-- growth -->\nold growth\n<!-- end of growth -->\n\nAfter\n"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run whose one answer is given."""
    monkeypatch.setattr(main, "ask", lambda *_: [REPORT])
    monkeypatch.setattr(goals, "GOALS", {GOAL: GOALS[GOAL]})
    monkeypatch.setattr(main, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(main, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(main, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(PAGE)
    return tmp_path


def test_the_results_are_written_whole(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The JSON has every turn, and what it was measured on."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", "capture"])

    main.main()

    written = json.loads((asked / "results" / "bench.json").read_text())
    assert written["circumstances"]["aiohttp"]
    turn = written["reports"][0]["comparisons"][0]["turns"]["jetpay_async"][2]
    assert turn == {"operations": 100, "cpu": 0.011, "wall": 0.02, "growth": 2_000_000}
    assert (asked / "results" / "goals.svg").exists()


def test_a_broken_gate_fails_with_its_figure(
    asked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1, and the message has the figure and the gate."""
    monkeypatch.setattr(goals, "GOALS", {GOAL: attrs.evolve(GOALS[GOAL], at_most=0.5, shortfall=None)})
    monkeypatch.setattr(sys, "argv", ["benchmarks", "capture", "--gate"])

    with pytest.raises(SystemExit) as ended:
        main.main()

    assert ended.value.code == f"gates broken:\n{GOAL}: 0.600 (0.500 to 0.700), gate 0.55 (goal <= 0.5)"
    assert "GATE BROKEN" in capsys.readouterr().out


def test_a_gate_is_broken_when_it_breaks_each_time(
    asked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a busy machine broke is measured again, twice at most, and only the questions that it belongs to."""
    busy = attrs.evolve(REPORT, figures={GOAL: Spread.of([5.0])})
    answers = iter([[busy], [busy], [REPORT]])
    questions: list[list[str]] = []

    def ask(names: list[str], *_: object) -> list[Report]:
        questions.append(list(names))
        return next(answers)

    monkeypatch.setattr(main, "ask", ask)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "capture", "durable", "--gate"])

    main.main()

    assert questions == [["capture", "durable"], ["capture"], ["capture"]]
    assert "Once more" in capsys.readouterr().out


def test_a_gate_that_was_not_measured_fails(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of all questions passes only if each goal has its figure."""
    monkeypatch.setattr(goals, "GOALS", GOALS)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--gate"])

    with pytest.raises(SystemExit, match="not measured"):
        main.main()


def test_results_are_published_between_their_marks(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure of the page is typed by hand: a run replaces its own, and nothing else."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--publish"])
    monkeypatch.setattr(goals, "broken", lambda *_, **__: [])

    main.main()

    text = (asked / "README.md").read_text()
    assert text.startswith("# Before\n\n<!-- results -->\n")
    assert text.endswith(PAGE.partition("<!-- end of results -->")[2])
    assert "| jetpay_async | 110.0 | 1.10 |" in text
    assert "old results" not in text
    assert "](published/goals.svg)" in text
    assert (asked / "published" / "goals.svg").exists()


def test_growth_is_published_by_itself(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes too long to be part of a run of everything, so it has marks of its own, and no table of goals."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", "growth", "--publish"])

    main.main()

    text = (asked / "README.md").read_text()
    assert text.startswith(PAGE.partition("old growth")[0])
    assert text.endswith("<!-- end of growth -->\n\nAfter\n")
    assert "| jetpay_async | 110.0 | 1.10 |" in text
    assert "old growth" not in text
    assert "**Goals**" not in text


@pytest.mark.parametrize("asked_for", [["capture"], ["capture", "growth"], ["--gate"]])
def test_a_part_of_the_results_is_not_published(
    asked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked_for: list[str]
) -> None:
    """It would remove the other questions' results from the page: nothing is measured, and the page stays."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", *asked_for, "--publish"])

    with pytest.raises(SystemExit):
        main.main()

    assert "--publish takes all the questions, or growth alone" in capsys.readouterr().err
    assert (asked / "README.md").read_text() == PAGE


def test_a_table_without_rows_is_still_a_table() -> None:
    """Nothing measured is nothing shown, not an error."""
    assert Table(title="T", columns=("a", "b"), rows=[]).as_text() == "T\na  b\n----"
