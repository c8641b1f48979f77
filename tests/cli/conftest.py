from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import pytest

from jetpay_async import JetpayClient, RetryPolicy
from jetpay_async._cli import main
from jetpay_async.outcomes import PreauthorizationRequest
from jetpay_async.sandbox import Sandbox
from tests.ledger.conftest import postgres_ledger  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@attrs.frozen
class Run:
    """What a command did."""

    status: int | str | None
    out: str
    err: str


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt: a shell starts what runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def jetpay(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run a command in this process."""

    def run(*arguments: str) -> Run:
        status: int | str | None
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return Run(status, captured.out, captured.err)

    return run


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox in a thread of its own, which the environment leads to; there are no pauses between attempts.

    It takes the money of a debit that is captured twice, twice: only the client prevents that.
    """
    monkeypatch.setattr(RetryPolicy, "delay", lambda *_: 0.0)
    made = Sandbox(slow_bank_seconds=0.01, rejects_second_capture=False)
    with running(made):
        monkeypatch.setenv("JETPAY_API_TOKEN", made.api_token)
        monkeypatch.setenv("JETPAY_BASE_URL", made.url)
        yield made


def reserve_many(sandbox: Sandbox, count: int) -> list[str]:
    """Reserve amounts on a good card, and return the debits."""
    payer = sandbox.add_payer()
    request = PreauthorizationRequest(
        contact_id=payer.contact_id,
        credit_card_id=payer.credit_card_id,
        amount="5.00",
        to_bank_account_id=sandbox.merchant_account_id,
        statement="Stay",
    )

    async def reserve() -> list[str]:
        async with JetpayClient(sandbox.api_token, base_url=sandbox.url) as client:
            requests = itertools.repeat(request, count)
            return [outcome.debit_id async for outcome in client.preauthorize_many(requests, concurrency=32)]

    return asyncio.run(reserve())


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a doubt be settled after a second rather than after half a minute, in this process."""
    hurry(monkeypatch)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what `hurried` does."""
    monkeypatch.setattr(JetpayClient, "from_env", functools.partial(JetpayClient.from_env, timeout=1.0, retry=_QUICK))


_QUICK = RetryPolicy(base_delay=0.01, max_delay=0.05, resolve_after=0.1)

HURRIED = (
    sys.executable,
    "-c",
    """
import functools, sys
from jetpay_async import JetpayClient, RetryPolicy
from jetpay_async._cli import main
policy = RetryPolicy(base_delay=0.01, max_delay=0.05, resolve_after=0.1)
JetpayClient.from_env = functools.partial(JetpayClient.from_env, timeout=1.0, retry=policy)
sys.exit(main())
""",
)
"""The program as a process of its own, as `hurried`."""


@contextmanager
def running(sandbox: Sandbox) -> Iterator[None]:
    """Run a sandbox in a thread of its own."""
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with sandbox:
            ready.set()
            await over.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(20)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@pytest.fixture
def interrupt_when() -> Iterator[Callable[[Callable[[], bool]], None]]:
    """Send this process a Ctrl-C as soon as a condition holds."""
    threads: list[threading.Thread] = []

    def interrupt_when(holds: Callable[[], bool]) -> None:
        def wait() -> None:
            patience = time.monotonic() + 20
            while time.monotonic() < patience:
                if holds():
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                time.sleep(0.005)

        thread = threading.Thread(target=wait)
        threads.append(thread)
        thread.start()

    yield interrupt_when
    for thread in threads:
        thread.join()
