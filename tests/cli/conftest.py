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
from jetpay_async._cli import main, program
from jetpay_async._cli.io import console
from jetpay_async.outcomes import PreauthorizationRequest
from jetpay_async.sandbox import Sandbox
from tests.ledger.conftest import postgres_ledger  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


_parser = functools.cache(program.build_parser)


@attrs.frozen
class CommandResult:
    """The exit status and the output of a command."""

    status: int | str | None
    out: str
    err: str


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt: a shell starts what runs in the background with SIGINT ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _new_streams() -> None:
    """Forget the streams that could not be written in another test."""
    console.open_streams()


@pytest.fixture(autouse=True)
def _one_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the parser once for all tests: it keeps nothing of what it parses, and making it takes 15 milliseconds."""
    monkeypatch.setattr(program, "build_parser", _parser)


@pytest.fixture
def jetpay(capsys: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Run a command in this process."""

    def run(*arguments: str) -> CommandResult:
        status: int | str | None
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return CommandResult(status, captured.out, captured.err)

    return run


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox in a thread of its own, which the environment names; there are no pauses between attempts.

    It processes a second capture of a debit as well: only the client prevents that.
    """
    monkeypatch.setattr(RetryPolicy, "delay", lambda *_: 0.0)
    made = Sandbox(slow_bank_seconds=0.01, refuses_second_capture=False)
    with running(made):
        monkeypatch.setenv("JETPAY_API_TOKEN", made.api_token)
        monkeypatch.setenv("JETPAY_BASE_URL", made.url)
        yield made


def reserve_many(sandbox: Sandbox, count: int, **payer_options: str) -> list[str]:
    """Reserve amounts on a good card, or on another one, and return the debits."""
    payer = sandbox.add_payer(**payer_options)
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
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a debit in doubt be resolved after seconds rather than after a minute, in this process."""
    shorten_timeouts(monkeypatch)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a debit in doubt be resolved soon, in this process; a slow machine has the usual time for each answer."""
    shorten_timeouts(monkeypatch, timeout=20.0)


def shorten_timeouts(monkeypatch: pytest.MonkeyPatch, timeout: float = 2.0) -> None:
    """Do what `short_timeouts` does, with another time for each call."""
    from_env = functools.partial(JetpayClient.from_env, timeout=timeout, retry=_QUICK)
    monkeypatch.setattr(JetpayClient, "from_env", from_env)


_QUICK = RetryPolicy(base_delay=0.01, max_delay=0.05, resolve_after=0.1, resolve_after_timeout=0.1)

_PROGRAM = """
import functools, sys
from jetpay_async import JetpayClient, RetryPolicy
from jetpay_async._cli import main
from jetpay_async._cli.io import console
policy = RetryPolicy(base_delay=0.01, max_delay=0.05, resolve_after=0.1, resolve_after_timeout=0.1)
JetpayClient.from_env = functools.partial(JetpayClient.from_env, timeout={timeout}, retry=policy)
sys.exit(main())
"""

QUICK_PROGRAM = (sys.executable, "-c", _PROGRAM.format(timeout=20.0))
"""The program as a process of its own, with `short_waits`."""

KILLED_PROGRAM = (sys.executable, "-c", _PROGRAM.format(timeout=5.0))
"""The same to be killed: the next run waits as long as a request of the killed one may take."""


@contextmanager
def running(sandbox: Sandbox) -> Iterator[None]:
    """Run a sandbox in a thread of its own."""
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    closing = asyncio.Event()

    async def serve() -> None:
        async with sandbox:
            ready.set()
            await closing.wait()

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
        loop.call_soon_threadsafe(closing.set)
        thread.join()


@pytest.fixture
def interrupt_when() -> Iterator[Callable[..., None]]:
    """Send this process a Ctrl-C, or another signal, as soon as a condition holds."""
    threads: list[threading.Thread] = []

    def interrupt_when(holds: Callable[[], bool], number: signal.Signals = signal.SIGINT) -> None:
        def wait() -> None:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                if holds():
                    os.kill(os.getpid(), number)
                    return
                time.sleep(0.005)

        thread = threading.Thread(target=wait)
        threads.append(thread)
        thread.start()

    yield interrupt_when
    for thread in threads:
        thread.join()
