"""The event loop ends while a batch is under way, by whatever means: what is in flight is reported."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from jetpay_async import Capture, Captured, CaptureOutcome, ConfigurationError, JetpayClient, TransactionState, Unknown
from jetpay_async._batch import worker_pool
from jetpay_async._batch.operation import CaptureOperation
from jetpay_async._core import fork
from jetpay_async._core.execution import Execution
from tests.batch.consumers import not_consumed
from tests.network import FAST, TOKEN
from tests.recording_server import RecordingServer, connect, debits, until

Hook = Callable[[CaptureOutcome], None]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer for the first debit alone, without a network; the others are sent and have no answer."""

    async def execute(execution: Execution[Capture]) -> Capture:
        debit_id = execution.call.debit_id or ""
        if debit_id != "debit_0":
            execution.mark_in_doubt(execution.began)
            await asyncio.Event().wait()
        return Capture(debit_id=debit_id, state=TransactionState.PAID, raw={})

    def make(_: CaptureOperation, execution: Execution[Capture]) -> Coroutine[Any, Any, Capture]:
        return execute(execution)

    monkeypatch.setattr(CaptureOperation, "execute", make)


@pytest.fixture(autouse=True)
def _only_its_own_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out batches that other tests left to the garbage collector, which reports them when it takes them."""
    gc.collect()
    monkeypatch.setattr(worker_pool, "_running", weakref.WeakSet())


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that a test ends as it likes."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def start(loop: asyncio.AbstractEventLoop, hook: Hook | None, count: int = 4) -> AsyncGenerator[CaptureOutcome, None]:
    """Take the first outcome of a batch and stop the loop, with all other items in flight."""
    client = JetpayClient(TOKEN, base_url="http://127.0.0.1:1", retry=FAST)
    outcomes = client.capture_many(debits(count), concurrency=count, on_outcome=hook)

    async def first() -> CaptureOutcome:
        return await anext(outcomes)

    assert isinstance(loop.run_until_complete(first()), Captured)
    return outcomes


def names(outcomes: list[CaptureOutcome]) -> list[tuple[str, str]]:
    return sorted((outcome.debit_id, type(outcome).__name__) for outcome in outcomes)


ALL = [("debit_0", "Captured"), ("debit_1", "Unknown"), ("debit_2", "Unknown"), ("debit_3", "Unknown")]


@pytest.mark.usefixtures("held")
def test_at_the_end_of_the_process_all_in_flight_are_reported(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that was stopped cancels nothing: the hook and the log get each outcome, once."""
    reported: list[CaptureOutcome] = []
    outcomes = start(loop, reported.append)

    worker_pool._abandon_running()
    worker_pool._abandon_running()

    assert names(reported) == ALL
    assert sorted(not_consumed(caplog)) == debits(4)[1:]
    assert all("the event loop ended" in record.message for record in caplog.records)
    loop.close()
    del outcomes


@pytest.mark.usefixtures("held")
def test_what_nobody_took_is_logged_at_the_end_of_the_process(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Outcomes that were ready, besides those in flight; each with the fields of a structured log."""
    client = JetpayClient(TOKEN, base_url="http://127.0.0.1:1", retry=FAST)
    outcomes = client.capture_many(["debit_0", "debit_0", "debit_1"], concurrency=3)

    async def first() -> None:
        await anext(outcomes)

    loop.run_until_complete(first())

    worker_pool._abandon_running()

    assert sorted(not_consumed(caplog)) == ["debit_0", "debit_1"]
    fields = [(record.__dict__["operation"], record.__dict__["debit_id"]) for record in caplog.records]
    assert sorted(fields) == [("capture", "debit_0"), ("capture", "debit_1")]
    assert sorted(record.__dict__["reason"] is None for record in caplog.records) == [False, True]
    loop.close()


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError, SystemExit, KeyboardInterrupt])
def test_a_hook_that_fails_at_the_end_hides_no_other(
    loop: asyncio.AbstractEventLoop, error: type[BaseException]
) -> None:
    """Whatever it raises, the other outcomes are reported."""
    reported: list[CaptureOutcome] = []

    def hook(outcome: CaptureOutcome) -> None:
        reported.append(outcome)
        if isinstance(outcome, Unknown):
            raise error

    outcomes = start(loop, hook)

    worker_pool._abandon_running()

    assert names(reported) == ALL
    loop.close()
    del outcomes


@pytest.mark.usefixtures("held")
def test_when_the_loop_is_closed_and_the_batch_dropped_all_are_reported(loop: asyncio.AbstractEventLoop) -> None:
    """In a process that goes on, the outcomes do not wait for its end."""
    reported: list[CaptureOutcome] = []
    outcomes = start(loop, reported.append)
    loop.close()
    assert len(reported) == 1

    del outcomes

    assert names(reported) == ALL


@pytest.mark.usefixtures("held")
def test_a_forked_child_reports_nothing_of_its_parent(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The parent goes on with what is in flight: neither the child's end nor its garbage collector reports it."""
    reported: list[CaptureOutcome] = []
    outcomes = start(loop, reported.append)
    monkeypatch.setattr(fork, "_generation", fork._generation + 1)

    worker_pool._abandon_running()
    loop.close()
    del outcomes
    for task in asyncio.all_tasks(loop):
        task.get_coro().close()

    assert len(reported) == 1
    assert not_consumed(caplog) == []


@pytest.mark.usefixtures("held")
def test_a_worker_that_runs_in_another_thread_is_reported(loop: asyncio.AbstractEventLoop) -> None:
    """Its coroutine can't be closed; its item is in flight all the same."""
    reported: list[CaptureOutcome] = []
    outcomes = start(loop, reported.append, count=2)
    (pool,) = [pool for pool in worker_pool._running if pool._loop is loop]
    (task,) = pool._workers

    class Running:
        def get_coro(self) -> object:
            raise ValueError("generator already executing")

    pool._workers[Running()] = pool._workers.pop(task)  # type: ignore[index] # all that is asked of it
    pool.abandon()

    assert names(reported) == ALL[:2]
    pool._workers = {task: next(iter(pool._workers.values()))}
    task.cancel()
    loop.close()
    del outcomes


def test_the_loop_ends_while_a_batch_is_held() -> None:
    """A loop that is shut down breaks off what is in flight; the client can still be closed elsewhere."""
    reported: list[CaptureOutcome] = []
    clients: list[JetpayClient] = []

    async def main() -> None:
        server = RecordingServer(held={"debit_1": asyncio.Event()})
        async with server.listen():
            client = JetpayClient(TOKEN, base_url=server.url, retry=FAST)
            clients.append(client)
            held = client.capture_many(debits(2), concurrency=2, on_outcome=reported.append)
            keep.append(held)
            await anext(held)
            await until(lambda: server.in_flight == 1)
            await client._transport._session.close()  # type: ignore[union-attr] # nothing else would

    keep: list[object] = []
    asyncio.run(main())

    assert [type(outcome) for outcome in reported] == [Captured, Unknown]
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(clients[0].aclose())


@pytest.mark.asyncio
async def test_a_batch_of_another_loop_is_not_waited_for() -> None:
    """Closing in the wrong loop says so, rather than waiting for what can't end there."""
    async with (
        RecordingServer(held={"debit_1": asyncio.Event()}).listen() as server,
        connect(server, timeout=0.3) as client,
    ):
        async for _ in client.capture_many(debits(2), concurrency=2):
            break

        def close_elsewhere() -> None:
            with pytest.raises(ConfigurationError, match="another event loop"):
                asyncio.run(client.aclose())

        await asyncio.to_thread(close_elsewhere)

        assert server.in_flight == 1


PROGRAM = """
import asyncio, signal, sys
from jetpay_async import JetpayClient

def report(outcome):
    print(outcome.debit_id, type(outcome).__name__, flush=True)

async def main():
    async with JetpayClient("token", base_url=sys.argv[1]) as client:
        async for _ in client.capture_many([f"debit_{n}" for n in range(4)], on_outcome=report):
            print("in flight", flush=True)

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
# What a shell starts in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[2] == "stop":
    loop.add_signal_handler(signal.SIGINT, loop.stop)
loop.run_until_complete(main())
"""


@pytest.mark.parametrize("way", ["keyboard interrupt", "stop"])
@pytest.mark.asyncio
async def test_a_process_that_is_interrupted_reports_what_is_in_flight(way: str) -> None:
    """`KeyboardInterrupt` out of `run_until_complete`, and `loop.stop()`: the hook gets all that was sent."""
    server = RecordingServer(held={debit_id: asyncio.Event() for debit_id in debits(4)[1:]})
    async with server.listen():
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, server.url, way),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")},
        )
        assert process.stdout is not None
        try:
            lines = [(await process.stdout.readline()).decode().strip() for _ in range(2)]
            await until(lambda: server.in_flight == 3)
            process.send_signal(signal.SIGINT)
            rest, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    reported = sorted(line for line in [*lines, *rest.decode().splitlines()] if line != "in flight")
    assert reported == ["debit_0 Captured", *(f"{debit_id} Unknown" for debit_id in debits(4)[1:])]
    assert process.returncode != 0
