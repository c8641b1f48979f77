"""What the gates let pass."""

from __future__ import annotations

import attrs
import pytest

from benchmarks import goals
from benchmarks.goals import GOALS, Goal, Shortfall
from benchmarks.measuring import Spread

MOST = Goal(question="capture", name="ours / theirs", at_most=1.0)
LEAST = Goal(question="capture", name="theirs / ours", at_least=2.0)
KNOWN = attrs.evolve(MOST, shortfall=Shortfall(1.5, "the guard stays"))


def judge(goal: Goal, *ratios: float) -> tuple[list[str], str]:
    figures = {goal.name: Spread.of(ratios)}
    table = goals.table_of_goals(figures, wanted={goal.name: goal})
    return goals.broken(figures, wanted={goal.name: goal}), table.rows[0][-1]


@pytest.mark.parametrize(
    ("goal", "ratio", "verdict"),
    [
        pytest.param(MOST, 0.99, "reached", id="at most"),
        pytest.param(MOST, 1.09, "short of the goal", id="at most, within a tenth"),
        pytest.param(LEAST, 2.01, "reached", id="at least"),
        pytest.param(LEAST, 1.83, "short of the goal", id="at least, within a tenth"),
        pytest.param(KNOWN, 1.49, "short of the goal: the guard stays", id="a known shortfall, with its reason"),
        pytest.param(KNOWN, 0.99, "reached", id="a known shortfall that is none any more"),
    ],
)
def test_a_gate_is_its_goal_and_a_tenth(goal: Goal, ratio: float, verdict: str) -> None:
    """A figure passes up to a tenth beyond the goal, or up to the gate written down for it; the table says which."""
    assert judge(goal, ratio) == ([], verdict)


@pytest.mark.parametrize(
    ("goal", "ratios", "fault"),
    [
        pytest.param(
            MOST, (1.0, 1.2, 1.4), "ours / theirs: 1.200 (1.000 to 1.400), gate 1.1 (goal <= 1)", id="at most"
        ),
        pytest.param(LEAST, (1.7,), "theirs / ours: 1.700 (1.700 to 1.700), gate 1.82 (goal >= 2)", id="at least"),
        pytest.param(
            KNOWN, (1.6,), "ours / theirs: 1.600 (1.600 to 1.600), gate 1.5 (goal <= 1)", id="a known shortfall"
        ),
    ],
)
def test_a_broken_gate_shows_its_figure(goal: Goal, ratios: tuple[float, ...], fault: str) -> None:
    """Who broke it reads what was measured, how it spread and what was allowed."""
    assert judge(goal, *ratios) == ([fault], "GATE BROKEN")


def test_a_figure_that_is_missing_passes_no_gate() -> None:
    """What was not measured is not reached."""
    assert goals.broken({}, wanted={MOST.name: MOST}) == ["ours / theirs: not measured"]


def test_what_can_not_be_measured_says_why() -> None:
    """A goal without anything to measure shows no figure, and its reason."""
    goal = attrs.evolve(MOST, impossible="there are no hooks")

    assert goals.broken({}, wanted={goal.name: goal}) == []
    assert goals.table_of_goals({}, wanted={goal.name: goal}).rows[0][-3:] == ("", "", "there are no hooks")


def test_what_the_machine_lacks_is_no_fault() -> None:
    """A goal that needs what is not there breaks no gate, and says what it needs; one that is measured is judged."""
    goal = attrs.evolve(MOST, needs="PostgreSQL")

    assert goals.broken({}, wanted={goal.name: goal}) == []
    assert goals.table_of_goals({}, wanted={goal.name: goal}).rows[0][-1] == "not measured: needs PostgreSQL"
    assert judge(goal, 1.2)[0]


def test_every_known_shortfall_belongs_to_a_goal() -> None:
    """A gate that is written down is used, is weaker than the one it stands for, and has its reason."""
    for name, shortfall in goals.SHORTFALLS.items():
        goal = attrs.evolve(GOALS[name], shortfall=None)

        assert GOALS[name].shortfall == shortfall
        assert not goal.passed(shortfall.gate)
        assert shortfall.reason
