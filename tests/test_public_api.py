"""A change of what the package offers shows in review."""

from __future__ import annotations

from pathlib import Path

from tests import public_api


def test_the_public_api_is_as_recorded() -> None:
    """Who changes it writes it down: ``python -m tests.public_api > tests/public_api.txt``."""
    recorded = (Path(__file__).parent / "public_api.txt").read_text(encoding="utf-8").splitlines()

    assert list(public_api.lines()) == recorded
