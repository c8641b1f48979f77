"""The event loop ends while a call is under way, by whatever means: an unknown outcome is reported, once."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from jetpay_async import Capture, JetpayClient, OutcomeUnknownError
from jetpay_async._core import executor as executor_module
from jetpay_async._core.http import RawResponse
from jetpay_async._core.send_guard import SendGuard
from tests import loopback
from tests.core import scripted
from tests.core.scripted import ScriptedService
from tests.loopback import DEBIT_ID, Loopback
from tests.network import TOKEN

# A loop that ends this way leaves tasks, a session and sockets behind, which say so when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def server() -> Iterator[Loopback]:
    """A server with an event loop of its own, which goes on."""
    server = Loopback(scripts={"capture": [loopback.silence] * 9, "status": [loopback.silence] * 9})
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with server.listen():
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait()
    yield server
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "asyncio":
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


def interrupt(loop: asyncio.AbstractEventLoop) -> None:
    """Raise KeyboardInterrupt out of run_until_complete, as Ctrl-C does where nothing handles it."""

    def raise_interrupt() -> None:
        raise KeyboardInterrupt

    loop.call_soon(raise_interrupt)


def stop(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("name", ["asyncio", "uvloop"])
@pytest.mark.parametrize("phase", ["capture", "status"], ids=["while it is under way", "while its status is read"])
@pytest.mark.parametrize("end", [interrupt, stop], ids=["KeyboardInterrupt", "loop.stop"])
def test_a_loop_that_ends_reports_what_is_unknown(
    end: Callable[[asyncio.AbstractEventLoop], None], phase: str, name: str, server: Loopback
) -> None:
    """Nobody cancels the task of a loop that is stopped and closed; its outcome is reported when it is collected."""
    reported: list[OutcomeUnknownError] = []
    if phase == "status":
        server.scripts["capture"] = [loopback.hang_up]

    async def main() -> None:
        client = JetpayClient(TOKEN, base_url=server.url, timeout=60, on_unknown=reported.append)
        task = asyncio.ensure_future(client.capture(DEBIT_ID))
        await until(lambda: server.count(phase))
        end(asyncio.get_running_loop())
        await task

    loop = new_loop(name)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        loop.run_until_complete(main())
    assert reported == []

    loop.close()
    del loop
    gc.collect()

    (error,) = reported
    assert error.debit_id == DEBIT_ID
    # Where aiohttp itself fails for want of the loop, that is the reason.
    assert "event loop" in error.reason


def test_a_coroutine_that_is_closed_reports_what_is_unknown() -> None:
    """Whoever drives the call by hand, and drops it, leaves its outcome unknown as well."""
    unknown: list[OutcomeUnknownError] = []
    call = start(HeldService(), unknown)

    call.close()

    assert [error.reason for error in unknown] == ["the event loop ended before there was an answer"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, LookupError])
def test_whatever_breaks_a_call_off_reports_what_is_unknown(error: type[BaseException]) -> None:
    """An interrupt that hits the call itself, or a fault of our own, is raised with a note, and reported."""
    unknown: list[OutcomeUnknownError] = []
    call = start(HeldService(), unknown)

    with pytest.raises(error) as caught:
        call.throw(error())

    assert [reported.reason for reported in unknown] == [f"the call was broken off by {error.__name__}"]
    assert caught.value.__notes__ == [str(unknown[0])]


class HeldService(ScriptedService):
    """Lets a capture leave, and never answers."""

    async def exchange(
        self, method: str, path: str, body: bytes, guard: SendGuard | None, *, within: float
    ) -> RawResponse:
        assert guard is not None
        guard.begin(None)
        await Suspend()
        raise AssertionError("there was an answer")


class Suspend:
    """Awaits what nobody sets."""

    def __await__(self) -> Generator[None, None, None]:
        yield


def start(service: ScriptedService, unknown: list[OutcomeUnknownError]) -> Coroutine[Any, Any, Capture]:
    """Begin a capture without an event loop, up to where it waits for its answer."""
    executor = scripted.executor(service, unknown)
    call = executor.execute(scripted.begin(executor))
    call.send(None)
    return call


def test_at_the_end_of_the_process_what_is_under_way_is_reported() -> None:
    """Once, whatever happens to the call afterwards."""
    unknown: list[OutcomeUnknownError] = []
    call = start(HeldService(), unknown)

    executor_module._report_at_exit()
    executor_module._report_at_exit()
    call.close()

    assert [error.reason for error in unknown] == ["the process ended before there was an answer"]


def test_what_never_left_is_not_reported_at_the_end_of_the_process() -> None:
    """Nothing is unknown of it."""

    class Queue(HeldService):
        async def exchange(
            self, method: str, path: str, body: bytes, guard: SendGuard | None, *, within: float
        ) -> RawResponse:
            await Suspend()
            raise AssertionError("there was an answer")

    unknown: list[OutcomeUnknownError] = []
    call = start(Queue(), unknown)

    executor_module._report_at_exit()
    call.close()

    assert unknown == []


def test_a_forked_child_does_not_report_its_parent_s_calls() -> None:
    """They are under way in the parent, which waits for their answers."""
    unknown: list[OutcomeUnknownError] = []
    call = start(HeldService(), unknown)

    executor_module._forget_in_child()
    executor_module._report_at_exit()

    assert unknown == []
    call.close()
    assert unknown == []


def test_a_given_session_that_outlives_the_loop_reports_at_the_end(server: Loopback) -> None:
    """Connections of a given session may keep a call from being collected; the end of the process reports it."""
    script = """
import asyncio, sys
import aiohttp
from jetpay_async import JetpayClient

async def main():
    session = aiohttp.ClientSession()
    client = JetpayClient("token", base_url=sys.argv[1], session=session, on_unknown=report)
    call = asyncio.ensure_future(client.capture("debit_123"))
    while not any(execution.unknown for execution in client._executor._under_way):
        await asyncio.sleep(0.001)
    asyncio.get_running_loop().call_soon(interrupt)
    await call

def report(error):
    print(error.debit_id, error.reason)

def interrupt():
    raise KeyboardInterrupt

loop = asyncio.new_event_loop()
try:
    loop.run_until_complete(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, server.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )

    assert ran.stdout.splitlines() == ["interrupted", "debit_123 the process ended before there was an answer"]


# --- hooks that fail ------------------------------------------------------------------------------------------------

FAILURES = [LookupError, asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.asyncio
async def test_a_hook_that_fails_does_not_hide_the_outcome(
    failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever `on_unknown` raises is logged; the caller gets the outcome."""

    def broken(_: OutcomeUnknownError) -> None:
        raise failure("no database")

    async with Loopback(scripts={"capture": [loopback.hang_up], "status": [loopback.silence]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, timeout=0.2, on_unknown=broken) as client:
            with pytest.raises(OutcomeUnknownError):
                await client.capture(DEBIT_ID)

    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message == f"on_unknown failed for capture {DEBIT_ID}"
    assert record.exc_info is not None
    assert record.exc_info[0] is failure


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.asyncio
async def test_a_hook_that_fails_does_not_keep_the_other_from_being_called(failure: type[BaseException]) -> None:
    """What `on_operation` or a callback raises does not keep the unknown outcome from `on_unknown`, or the caller."""
    unknown: list[OutcomeUnknownError] = []

    def broken(_: object) -> None:
        raise failure("no metrics")

    async with Loopback(scripts={"capture": [loopback.hang_up], "status": [loopback.silence]}).listen() as server:
        async with JetpayClient(
            TOKEN, base_url=server.url, timeout=0.2, on_unknown=unknown.append, on_operation=broken
        ) as client:
            with pytest.raises(OutcomeUnknownError) as caught:
                await client.capture(DEBIT_ID)

    assert unknown == [caught.value]


@pytest.mark.asyncio
async def test_a_cancelled_call_reports_although_its_hook_fails() -> None:
    """A hook that raises CancelledError does not replace the cancellation, nor its note."""

    def broken(_: OutcomeUnknownError) -> None:
        raise asyncio.CancelledError("mine")

    async with Loopback(scripts={"capture": [loopback.silence]}).listen() as server:
        async with aiohttp.ClientSession() as session:
            client = JetpayClient(TOKEN, base_url=server.url, session=session, on_unknown=broken)
            task = asyncio.create_task(client.capture(DEBIT_ID))
            await until(lambda: server.count("capture"))
            task.cancel("theirs")
            with pytest.raises(asyncio.CancelledError, match="theirs") as caught:
                await task

    assert "may have been carried out" in "\n".join(caught.value.__notes__)
