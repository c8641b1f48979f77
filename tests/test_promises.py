"""What the documentation promises is held by the tests that it names."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])


@functools.cache
def all_names() -> frozenset[str]:
    """Find the names of all tests."""
    texts = (path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    return frozenset(
        name for text in texts for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", text, re.MULTILINE)
    )


def table(page: str, heading: str) -> list[tuple[str, str]]:
    """Return the rows of the table below a heading."""
    section = (ROOT / page).read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [(first.strip(), last.strip()) for first, last in rows[1:]]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_each_test_that_a_page_names_exists(page: Path) -> None:
    """A test that was renamed or removed takes its promise with it."""
    named = re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))

    assert [name for name in named if name not in all_names()] == []


@pytest.mark.parametrize(("promise", "held_by"), table("docs/captures.md", "What is promised"))
def test_each_promise_of_the_ledger_names_a_test(promise: str, held_by: str) -> None:
    """No promise without a test."""
    assert promise.endswith(".")
    assert re.fullmatch(r"`test_\w+`(, `test_\w+`)*", held_by)
