"""Cancelling a call: never swallowed, and never a secret what it may have done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from jetpay_async import ConfigurationError, JetpayClient, OutcomeUnknownError
from jetpay_async.sandbox import Fault, FaultKind
from tests import loopback
from tests.loopback import DEBIT_ID, HTML, Loopback, replies
from tests.network import FAST, SLOW, TOKEN, Network, every_network, preauthorize
from tests.sandboxed import reserve, sandboxed

WRITES: dict[str, Callable[[JetpayClient], Awaitable[object]]] = {
    "preauthorize": preauthorize,
    "capture": lambda client: client.capture(DEBIT_ID),
    "cancel": lambda client: client.cancel_transaction(DEBIT_ID),
}
every_write = pytest.mark.parametrize("name", WRITES)


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


async def cancelled(task: asyncio.Task[object]) -> asyncio.CancelledError:
    """Cancel the task; return what it was ended by."""
    task.cancel()
    try:
        await task
    except asyncio.CancelledError as error:
        return error
    raise AssertionError("the cancellation was swallowed")


@every_write
@pytest.mark.asyncio
async def test_cancelled_before_it_began_it_says_nothing(name: str) -> None:
    """A call that is cancelled before it runs has sent nothing and has nothing to say."""
    unknown: list[OutcomeUnknownError] = []
    async with Loopback().listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, on_unknown=unknown.append) as client:
            task = asyncio.ensure_future(WRITES[name](client))

            error = await cancelled(task)

    assert server.requests == []
    assert notes(error) == ""
    assert unknown == []


@every_write
@pytest.mark.asyncio
async def test_cancelled_while_connecting_it_sends_nothing(name: str) -> None:
    """A call that is cancelled in the queue for a connection sends nothing, then or later."""
    unknown: list[OutcomeUnknownError] = []
    async with Loopback(scripts={"status": [loopback.silence]}).listen() as server:
        async with JetpayClient(
            TOKEN, base_url=server.url, max_connections=1, timeout=1.0, on_unknown=unknown.append
        ) as client:
            hog = asyncio.create_task(client.transaction_status("other"))
            await server.arrived.wait()
            task = asyncio.ensure_future(WRITES[name](client))
            await asyncio.sleep(0.01)

            error = await cancelled(task)
            await cancelled(hog)
            await client.transaction_status(DEBIT_ID)

        assert server.count(name) == 0
    assert notes(error) == ""
    assert unknown == []


@pytest.mark.parametrize("given", [False, True], ids=["own session", "given session"])
@pytest.mark.asyncio
async def test_a_session_that_is_closed_cancels_no_caller(given: bool) -> None:
    """What waits for a connection when the session is closed has not left, and says so instead of ending its task."""
    server = Loopback(scripts={"preauthorize": [loopback.silence]})
    async with server.listen(), aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        client = JetpayClient(TOKEN, base_url=server.url, session=session if given else None, max_connections=1)
        hog = asyncio.ensure_future(preauthorize(client))
        await server.arrived.wait()
        waiting = [
            asyncio.ensure_future(call)
            for call in (client.capture(DEBIT_ID), client.cancel_transaction(DEBIT_ID), client.transaction_status("d"))
        ]
        await asyncio.sleep(0.01)
        await (session.close() if given else client.aclose())
        ends = await asyncio.gather(hog, *waiting, return_exceptions=True)
        await client.aclose()

    assert [type(end) for end in ends] == [OutcomeUnknownError, *[ConfigurationError] * 3]
    assert len(server.requests) == 1


@every_network
@every_write
def test_cancelled_after_it_began_to_leave_it_says_so(name: str, network: Network) -> None:
    """A note on the CancelledError, and the hook, say that the outcome is unknown."""

    async def main() -> None:
        async with network.serve(Loopback(scripts={name: [loopback.silence]})) as server:
            async with network.connect(server) as client:
                unknown: list[OutcomeUnknownError] = []
                client._executor._on_unknown = unknown.append
                task = asyncio.ensure_future(WRITES[name](client))
                await server.arrived.wait()

                error = await cancelled(task)

                assert server.count(name) == 1
                assert "may have been carried out" in notes(error)
                (reported,) = unknown
                assert reported.reason == "the call was cancelled"
                assert reported.started_at is not None
                assert TOKEN not in notes(error)

    network.run(main)


@pytest.mark.asyncio
async def test_cancelled_while_it_is_resolved_it_says_so() -> None:
    """Between the lost reply and the status the outcome is unknown, and a cancellation there says so."""
    scripts = {"capture": [loopback.hang_up], "status": [loopback.silence]}
    async with Loopback(scripts=scripts).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url) as client:
            task = asyncio.create_task(client.capture(DEBIT_ID))
            while not server.count("status"):
                await asyncio.sleep(0.001)

            error = await cancelled(task)

    assert "may have been carried out" in notes(error)


@pytest.mark.asyncio
async def test_cancelled_while_waiting_to_read_again_it_says_nothing() -> None:
    """A read has nothing to be unknown."""
    unknown: list[OutcomeUnknownError] = []
    async with Loopback(scripts={"status": [replies(503, HTML)]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, on_unknown=unknown.append) as client:
            task = asyncio.create_task(client.transaction_status(DEBIT_ID))
            await server.arrived.wait()
            await asyncio.sleep(0.01)

            error = await cancelled(task)

    assert notes(error) == ""
    assert unknown == []


@pytest.mark.asyncio
async def test_the_caller_s_timeout_works() -> None:
    """`asyncio.timeout` around a call raises TimeoutError, caused by a CancelledError that tells."""
    async with Loopback(scripts={"preauthorize": [loopback.silence]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url) as client:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.05):
                    await preauthorize(client)

    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert "may have been carried out" in notes(caught.value.__cause__)


@pytest.mark.asyncio
async def test_a_task_group_cancels_the_others_and_they_tell() -> None:
    """In a task group one failure cancels the rest, whose unknown outcomes reach the hook."""
    unknown: list[OutcomeUnknownError] = []
    server = Loopback(scripts={"preauthorize": [loopback.silence], "capture": [replies(400, {"detail": "no"})]})

    async def fail_when_it_arrived(client: JetpayClient) -> None:
        await server.arrived.wait()
        raise LookupError

    async with server.listen(), JetpayClient(TOKEN, base_url=server.url, on_unknown=unknown.append) as client:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(preauthorize(client))
                group.create_task(fail_when_it_arrived(client))

    assert caught.group_contains(LookupError)
    assert [error.operation for error in unknown] == ["preauthorize"]


@pytest.mark.asyncio
async def test_a_cancelled_connection_is_given_back() -> None:
    """Cancelling calls does not use up the connections."""
    async with Loopback(scripts={"capture": [loopback.silence] * 20}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, max_connections=2, retry=FAST) as client:
            for number in range(20):
                task = asyncio.create_task(client.capture(f"debit_{number}"))
                while server.count("capture") <= number:
                    await asyncio.sleep(0.001)
                await cancelled(task)

            assert (await client.capture(DEBIT_ID)).state == "paid"


@pytest.mark.asyncio
async def test_a_failing_hook_does_not_hide_the_outcome(caplog: pytest.LogCaptureFixture) -> None:
    """What `on_unknown` raises is logged; the caller still gets the outcome."""

    def broken(_: OutcomeUnknownError) -> None:
        raise LookupError("no database")

    async with Loopback(scripts={"preauthorize": [loopback.hang_up]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, on_unknown=broken) as client:
            with pytest.raises(OutcomeUnknownError):
                await preauthorize(client)

    assert "on_unknown failed for preauthorize" in caplog.text
    assert "no database" in caplog.text


@pytest.mark.asyncio
async def test_cancelled_and_tried_again_the_money_is_taken_once() -> None:
    """A capture that was cancelled on its way is resolved first when it is asked for again."""
    slow = Fault(kind=FaultKind.SLOW_BEFORE, route="capture", seconds=0.2)
    async with sandboxed(slow, timeout=20.0, retry=SLOW) as (sandbox, client):
        debit_id = await reserve(sandbox, client)
        capturing = asyncio.create_task(client.capture(debit_id))
        while not sandbox.requests("capture"):
            await asyncio.sleep(0.001)
        capturing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await capturing
        capture = await client.capture(debit_id)

        assert capture.confirmed_by_status
        assert sandbox.debit(debit_id).captures == sandbox.requests("capture") == 1


@pytest.mark.asyncio
async def test_a_capture_in_progress_that_is_no_longer_awaited() -> None:
    """What is reported says what the API said of it, rather than that there was no answer."""
    reported: list[OutcomeUnknownError] = []
    scripts = {
        "capture": [replies(200, {"identifier": DEBIT_ID, "state": "processing"})],
        "status": [replies(200, {"state": "processing"})] * 99,
    }
    async with (
        Loopback(scripts=scripts).listen() as server,
        JetpayClient(TOKEN, base_url=server.url, retry=FAST, on_unknown=reported.append) as client,
    ):
        waiting = asyncio.create_task(client.capture(DEBIT_ID, wait_until_final=True))
        while server.count("status") < 2:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    (error,) = reported
    assert error.message == "the request was sent, and the transaction is processing; how it ends is not known yet"
    assert error.state == "processing"
