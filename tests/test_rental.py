"""The documentation's rental shop: its own tests, run as its users run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"

VARIANTS = {
    "strict": ["-o", "asyncio_mode=strict"],
    "auto, session, xdist": [
        *("-o", "asyncio_mode=auto"),
        *("-o", "asyncio_default_fixture_loop_scope=session", "-o", "asyncio_default_test_loop_scope=session"),
        *("-n", "2", "-k", "not orphans"),
    ],
}


@pytest.mark.endurance
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_shop_s_own_tests_pass(options: list[str], postgres: str) -> None:
    """In each mode and loop scope of pytest-asyncio, and under xdist, by TestClient and in the test's own loop."""
    for needed in ("fastapi", "httpx", "sqlalchemy"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install --group frameworks")

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "rental/tests", "-q", "-p", "no:cacheprovider", *options],
        cwd=DOCS,
        env={**os.environ, "TEST_DATABASE_URL": postgres},
        capture_output=True,
        text=True,
        check=False,
    )

    expected = 2 if "-k" in options else 3
    assert f"{expected} passed" in run.stdout, run.stdout + run.stderr
    assert run.returncode == 0
