"""Runs the Python examples of the README against a sandbox."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from jetpay_async.sandbox import Sandbox


@pytest.fixture
def sandbox_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Point ``JETPAY_API_TOKEN`` and ``JETPAY_BASE_URL`` at a sandbox that runs in a thread of its own."""
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
    pattern="README.md",
    fixtures=["sandbox_in_the_environment"],
).pytest()
