"""Instructions are counted, and separated from everything else that a process does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.benchmarks.peers import require_peers

require_peers()

from benchmarks import instructions, serving  # noqa: E402
from benchmarks.goals import GOALS  # noqa: E402
from benchmarks.reports import QUICK  # noqa: E402
from benchmarks.serving import Server  # noqa: E402
from benchmarks.subjects import LOOPS, MiscountError  # noqa: E402


@pytest.fixture
def server() -> Iterator[Server]:
    with serving.serving() as server:
        yield server


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", instructions.COUNTED)
def test_what_is_counted_captures(server: Server, loop: str, name: str) -> None:
    """Each variant makes as many requests as its instructions are divided by."""
    before = server.requests()

    instructions.capture(loop, name, 9, server.url())

    assert server.requests() - before == instructions.WARM + 9


def test_the_difference_of_two_runs_is_divided(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What every run does once is in no figure."""
    cost = {name: 1_000 * (place + 1) for place, name in enumerate(instructions.COUNTED)}

    def count(_: str, loop: str, name: str, count: int, url: str) -> int:
        instructions.capture(loop, name, count, url)
        return 5_000_000 + cost[name] * count

    monkeypatch.setattr(instructions, "_count", count)
    monkeypatch.setattr(instructions, "COUNTS", (2, 5))
    monkeypatch.setattr(shutil, "which", lambda _: "valgrind")

    report = instructions.measure(QUICK, server)

    assert [row[1:] for table in report.tables for row in table.rows] == 2 * [
        (f"{place},000", f"{place}.000") for place in range(1, len(instructions.COUNTED) + 1)
    ]
    assert set(report.figures) == {name for name, goal in GOALS.items() if goal.question == "instructions"}
    places = list(instructions.COUNTED)
    for ratio, (ours, theirs) in instructions.RATIOS.items():
        figure = report.figures[f"instructions: {ratio}, uvloop"].median
        assert figure == pytest.approx((places.index(ours) + 1) / (places.index(theirs) + 1))


def test_a_capture_that_was_not_made_is_noticed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instructions of something else than so many captures are no figure."""
    monkeypatch.setattr(instructions, "_count", lambda *_: 1)
    monkeypatch.setattr(shutil, "which", lambda _: "valgrind")

    with pytest.raises(MiscountError):
        instructions.measure(QUICK, server)


def test_without_valgrind_nothing_is_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report says so."""
    monkeypatch.setattr(shutil, "which", lambda _: None)

    assert "valgrind is not installed" in instructions.measure(QUICK, server).as_text()


def test_valgrinds_count_is_read() -> None:
    """Its one line among what else is said; a run that says nothing is no figure."""
    assert instructions.read_count("==9== Cachegrind\n==9== \n==9== I   refs:      1,234,567,890\n") == 1_234_567_890
    with pytest.raises(ValueError, match="no count: Killed"):
        instructions.read_count("Killed")
