"""Runs the Python examples of the README, and of pages of the documentation, against a sandbox."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from jetpay_async.sandbox import Sandbox


@pytest.fixture
def sandbox_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sandbox]:
    """Point ``JETPAY_API_TOKEN`` and ``JETPAY_BASE_URL`` at a sandbox in a thread of its own; write files elsewhere."""
    monkeypatch.chdir(tmp_path)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    sandbox = Sandbox()
    asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result()
    monkeypatch.setenv("JETPAY_API_TOKEN", sandbox.api_token)
    monkeypatch.setenv("JETPAY_BASE_URL", sandbox.url)
    yield sandbox
    asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=[
        "README.md",
        "docs/captures.md",
        "docs/from-the-guide.md",
        "docs/going-live.md",
        "docs/many-captures.md",
        "docs/observing.md",
        "docs/reservations.md",
        "docs/rotating-tokens.md",
        "docs/testing.md",
        "docs/two-accounts.md",
        "docs/unknown-outcomes.md",
        "docs/reference/*.md",
        "docs/tutorial/*.md",
    ],
    fixtures=["sandbox_in_the_environment"],
).pytest()
