"""Starting, stopping, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest

from jetpay_async import Clock
from jetpay_async.sandbox import DeliveryPolicy, Fault, FaultKind, Sandbox, serve

from .calling import Caller, until

if TYPE_CHECKING:
    from .calling import Receiver


async def _left(before: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    """Return the new tasks that have not ended, after a moment in which all should."""
    for _ in range(20):
        await asyncio.sleep(0)
    return asyncio.all_tasks() - before


def _port(sandbox: Sandbox) -> int:
    return int(sandbox.url.rpartition(":")[2])


@pytest.mark.asyncio
async def test_nothing_is_left(receiver: Receiver) -> None:
    """Stalled and slow requests, slow banks, retries and idle connections all end with the sandbox."""
    before = asyncio.all_tasks()
    session = aiohttp.ClientSession()
    async with Sandbox(slow_bank_seconds=60, delivery=DeliveryPolicy(base_delay=60)) as sandbox:
        caller = Caller(sandbox, session)
        receiver.answers = [500]
        sandbox.add_webhook(receiver.url, max_batch_size=1)
        sandbox.add_webhook(receiver.url + "?idle", max_batch_size=100)
        await caller.capture(await caller.reserve(card_number="4000000000000051"))
        stalled, slow, gone = [await caller.reserve() for _ in range(3)]
        sandbox.faults.add(
            Fault(kind=FaultKind.STALL_BEFORE, identifier=stalled),
            Fault(kind=FaultKind.SLOW_BEFORE, identifier=slow, seconds=60),
            Fault(kind=FaultKind.SLOW_BEFORE, identifier=gone, seconds=60),
        )
        waiting = [asyncio.create_task(caller.capture(each)) for each in (stalled, slow)]
        leaving = asyncio.create_task(caller.capture(gone))
        await until(lambda: sum(sandbox.faults.injected.values()) == 3)
        leaving.cancel()
        await asyncio.wait([leaving])
        started = asyncio.get_running_loop().time()
    took = asyncio.get_running_loop().time() - started

    replies = await asyncio.gather(*waiting, return_exceptions=True)
    await session.close()

    assert [type(reply) for reply in replies] == [aiohttp.ServerDisconnectedError] * 2
    assert [sandbox.debit(each).captures for each in (stalled, slow, gone)] == [0, 0, 0]
    assert await _left(before) == set()
    assert took < 2
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", _port(sandbox))


@pytest.mark.asyncio
async def test_the_count_of_tasks_can_fail() -> None:
    """A running sandbox with an open connection has tasks, which `_left` sees until it has stopped."""
    before = asyncio.all_tasks()
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        await Caller(sandbox, session).reserve()
        during = await _left(before)

    assert during
    assert await _left(before) == set()


async def _slow_to_end(seconds: float) -> None:
    """Sleep, and take a moment to notice the end."""
    try:
        await asyncio.sleep(seconds)
    finally:
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.mark.asyncio
@pytest.mark.parametrize("client_stays", [True, False])
async def test_stop_waits_for_requests(*, client_stays: bool) -> None:
    """When `stop` returns, a slow request has ended already, whether or not its client is still there."""
    before = asyncio.all_tasks()
    async with Sandbox(clock=Clock(sleep=_slow_to_end)) as sandbox:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(sandbox))
        sandbox.faults.add(Fault(kind=FaultKind.SLOW_BEFORE, seconds=60))
        writer.write(b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: bool(sandbox.faults.injected))
        if not client_stays:
            writer.close()
            await asyncio.sleep(0.01)

    assert asyncio.all_tasks() == before
    if client_stays:
        assert await reader.read() == b""
        writer.close()


@pytest.mark.asyncio
async def test_stop_waits_for_banks() -> None:
    """When `stop` returns, the wait for a slow bank has ended already."""
    before = asyncio.all_tasks()
    async with Sandbox(slow_bank_seconds=60, clock=Clock(sleep=_slow_to_end)) as sandbox:
        async with aiohttp.ClientSession() as session:
            caller = Caller(sandbox, session)
            await caller.capture(await caller.reserve(card_number="4000000000000051"))

    assert asyncio.all_tasks() == before


@pytest.mark.asyncio
async def test_a_body_that_never_arrives(caplog: pytest.LogCaptureFixture) -> None:
    """A request that stops halfway is not counted, does no work, is no error, and does not hold up the end."""
    async with Sandbox() as sandbox:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(sandbox))
        writer.write(b"PUT /contact HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        _, other = await asyncio.open_connection("127.0.0.1", _port(sandbox))
        other.write(b"PUT /contact HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        await other.drain()
        other.close()
        await asyncio.sleep(0.05)
        assert sandbox.requests() == 0

    assert await reader.read() == b""
    assert caplog.records == []
    writer.close()


@pytest.mark.asyncio
async def test_restart_keeps_everything() -> None:
    """A restarted sandbox has the same port, tokens and debits, and accepts no connections in between."""
    sandbox = Sandbox()
    await sandbox.start()
    async with aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id, url = await caller.reserve(), sandbox.url
        await sandbox.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await caller.status(debit_id)
        await sandbox.start()

        assert sandbox.url == url
        assert (await caller.capture(debit_id)).document["state"] == "paid"
    await sandbox.stop()
    await sandbox.stop()


@pytest.mark.asyncio
async def test_started_twice() -> None:
    """Starting a running sandbox is an error that leaves it running."""
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        with pytest.raises(RuntimeError, match="runs already"):
            await sandbox.start()

        assert (await Caller(sandbox, session).call("GET", "/.well-known/jwks.json")).status == 200


@pytest.mark.asyncio
async def test_port_taken() -> None:
    """A port that is taken is an OSError, and nothing is left of the attempt."""
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        sandbox = Sandbox(port=taken.getsockname()[1])

        with pytest.raises(OSError, match="address already in use"):
            await sandbox.start()

    assert await _left(before) == set()
    await sandbox.start()
    await sandbox.stop()


@pytest.mark.asyncio
async def test_two_at_once() -> None:
    """Two sandboxes share a loop and nothing else."""
    async with Sandbox() as first, Sandbox(seed=1) as second, aiohttp.ClientSession() as session:
        await Caller(first, session).reserve()

        assert first.url != second.url
        assert (len(first.debits), len(second.debits)) == (1, 0)
        assert (await Caller(second, session).call("GET", "/webhooks/", token=first.api_token)).status == 401


@pytest.mark.asyncio
async def test_latency() -> None:
    """Every request waits for the latency before it is worked on, by the sandbox's clock."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with Sandbox(latency=0.25, clock=Clock(sleep=sleep)) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        await caller.capture(await caller.reserve())

    assert slept == [0.25, 0.25]


@pytest.mark.asyncio
async def test_ipv6() -> None:
    """A sandbox on IPv6 has a URL with brackets."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with Sandbox(host="::1") as sandbox, aiohttp.ClientSession() as session:
        assert sandbox.url.startswith("http://[::1]:")
        assert (await Caller(sandbox, session).call("GET", "/webhooks/")).status == 200


@pytest.mark.asyncio
async def test_serve() -> None:
    """`serve` announces what to export and a first call that works, and runs until it is cancelled."""
    sandbox = Sandbox()
    announced: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.create_task(serve(sandbox, announce=announced.put_nowait))
    text = await announced.get()

    assert f"export JETPAY_BASE_URL={sandbox.url}\n" in text
    assert f"export JETPAY_API_TOKEN={sandbox.api_token}\n" in text
    environment = {"JETPAY_BASE_URL": sandbox.url, "JETPAY_API_TOKEN": sandbox.api_token}
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", text[text.index("curl") :], env=environment | {"PATH": "/usr/bin:/bin"}, stdout=-1, stderr=-1
    )
    output, _ = await shell.communicate()
    if shell.returncode != 127:
        assert b'"transaction_state":"preauthorized"' in output

    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", _port(sandbox))
