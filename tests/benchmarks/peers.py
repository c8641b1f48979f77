"""The packages that are measured against, in the tests of what measures them."""

from __future__ import annotations

import os

import pytest


def require_peers() -> None:
    """Skip a module whose packages come with the dependency group ``bench``; ``nox -s bench-gate`` skips none."""
    if "JETPAY_TEST_PEERS" not in os.environ:
        for name in ("authlib", "matplotlib", "mollie", "openai", "orjson", "square", "standardwebhooks", "stripe"):
            pytest.importorskip(name, reason="`nox -s bench-gate` runs this with the packages that it measures against")
