"""`on_outcome`: called with every outcome as it happens; what it raises hides none."""

from __future__ import annotations

import asyncio

import pytest

from jetpay_async import Captured, CaptureOutcome
from tests.batch.consumers import not_consumed, take_all
from tests.recording_server import RecordingServer, connect, debits, until


@pytest.mark.asyncio
async def test_the_hook_is_called_with_each_before_it_is_yielded() -> None:
    """`on_outcome` gets each outcome, the very one that is yielded, as it happens."""
    reported: list[CaptureOutcome] = []
    async with RecordingServer().listen() as server, connect(server) as client:
        yielded = []
        async for outcome in client.capture_many([*debits(50), "no/id"], on_outcome=reported.append):
            assert outcome in reported
            yielded.append(outcome)

    assert [id(outcome) for outcome in reported] == [id(outcome) for outcome in yielded]
    assert len(server.carried_out) == 50


@pytest.mark.asyncio
async def test_in_order_the_hook_is_called_at_once() -> None:
    """It does not wait for earlier items: what happened is written down when it happens."""
    release = asyncio.Event()
    reported: list[CaptureOutcome] = []
    async with RecordingServer(held={"debit_0": release}).listen() as server, connect(server) as client:
        taking = asyncio.create_task(take_all(client.capture_many(debits(5), ordered=True, on_outcome=reported.append)))
        await until(lambda: len(reported) == 4)
        release.set()
        await taking

    assert reported[-1].debit_id == "debit_0"
    assert server.twice == []


@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError])
@pytest.mark.asyncio
async def test_a_hook_that_fails_hides_nothing(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """What `on_outcome` raises is logged, and every outcome is yielded all the same."""

    def broken(outcome: CaptureOutcome) -> None:
        raise error("no database")

    async with RecordingServer().listen() as server, connect(server) as client:
        outcomes = await take_all(client.capture_many(debits(3), on_outcome=broken))

    assert len(outcomes) == 3
    assert sorted(record.message for record in caplog.records) == [
        f"on_outcome failed for capture {debit_id}" for debit_id in debits(3)
    ]
    assert "no database" in caplog.text
    assert server.twice == []


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_hook_that_ends_the_process_loses_no_outcome(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The exception ends the loop as ever; the outcome that it met is kept, and those in flight are reported."""
    reported: list[CaptureOutcome] = []
    server = RecordingServer(held={debit_id: asyncio.Event() for debit_id in debits(4)[1:]})

    def hook(outcome: CaptureOutcome) -> None:
        reported.append(outcome)
        if len(reported) == 1:
            raise error

    consumed: list[CaptureOutcome] = []

    async def main() -> None:
        async with server.listen(), connect(server) as client:
            async for outcome in client.capture_many(debits(4), concurrency=4, on_outcome=hook):
                consumed.append(outcome)  # noqa: PERF401 - kept when it ends

    with pytest.raises(error):
        asyncio.run(main())

    assert sorted(outcome.debit_id for outcome in reported) == debits(4)
    first, *others = reported
    assert isinstance(first, Captured)
    assert not any(isinstance(other, Captured) for other in others)
    assert sorted([*(outcome.debit_id for outcome in consumed), *not_consumed(caplog)]) == debits(4)
