"""Leaving a batch early: nothing more is begun, what is in shared is carried through, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress

import attrs
import pytest

from jetpay_async import (
    Captured,
    CaptureOutcome,
    ConfigurationError,
    JetpayClient,
    NotSent,
    NotSentError,
    OutcomeUnknownError,
    Unknown,
)
from tests import loopback
from tests.network import FAST, TOKEN
from tests.recording_server import RecordingServer, connect, debits, until


@attrs.define
class Ids:
    """Ids without end, and how many were taken."""

    taken: int = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.taken += 1
        return f"debit_{self.taken}"


def untaken(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The debits that the log says nobody took the outcome of."""
    return [
        record.message.split(":")[0].removeprefix("capture ")
        for record in caplog.records
        if "nobody left" in record.message and record.levelno == logging.WARNING
    ]


async def ended(task: asyncio.Task[object]) -> BaseException | None:
    """What a task ended with."""
    await asyncio.wait([task])
    return asyncio.CancelledError() if task.cancelled() else task.exception()


# --- without being cancelled ------------------------------------------------------------------------------------------


class EnoughError(Exception):
    """Raised by a consumer."""


@pytest.mark.parametrize("way", ["break", "return", "an exception"])
@pytest.mark.asyncio
async def test_leaving_the_loop(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """No further item is taken from the moment the loop is left, and each that was has its outcome told."""
    ids = Ids()
    told: list[CaptureOutcome] = []
    taken_when_left = 0

    async def consume(client: JetpayClient) -> None:
        nonlocal taken_when_left
        async for outcome in client.capture_many(ids, concurrency=8, on_outcome=told.append):
            assert isinstance(outcome, Captured)
            if len(told) > 30:
                taken_when_left = ids.taken
                if way == "return":
                    return
                if way == "an exception":
                    raise EnoughError
                break

    with caplog.at_level(logging.WARNING, "jetpay_async"):
        async with RecordingServer().listen() as bank, connect(bank) as client:
            with suppress(EnoughError):
                await consume(client)

    assert ids.taken == taken_when_left
    assert sorted(outcome.debit_id for outcome in told) == sorted(bank.carried_out)
    assert len(told) == ids.taken
    assert bank.twice == []
    assert set(untaken(caplog)) <= {outcome.debit_id for outcome in told}


@pytest.mark.asyncio
async def test_it_ends_with_the_very_step_in_which_it_is_left() -> None:
    """Nothing begins between leaving the loop and the end of its iterator, which the event loop sees to later."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        outcomes = client.capture_many(Ids(), concurrency=2)
        await anext(outcomes)
        (pool,) = client._pools
        assert not pool._ended

        del outcomes

        assert pool._ended
        assert pool._halted
    assert bank.twice == []


@pytest.mark.asyncio
async def test_closing_the_client_waits_for_what_is_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    """After a break the connections stay open until every capture under way has its answer; the log tells each."""
    bank = RecordingServer(held={debit_id: asyncio.Event() for debit_id in debits(5)[1:]})
    with caplog.at_level(logging.WARNING, "jetpay_async"):
        async with bank.listen():
            client = connect(bank)
            async for _ in client.capture_many(debits(5), concurrency=5):
                break
            await until(lambda: bank.in_flight == 4)
            closing = asyncio.create_task(client.aclose())
            await asyncio.sleep(0.02)
            assert not client.closed
            for held in bank.held.values():
                held.set()
            await closing

    assert client.closed
    assert list(bank.carried_out.values()) == [1] * 5
    assert sorted(untaken(caplog)) == debits(5)[1:]
    assert all("Captured" in record.message for record in caplog.records)


@pytest.mark.asyncio
async def test_a_copy_of_the_client_is_waited_for_too() -> None:
    """What `with_options` made shares the connections, and so the wait."""
    release = asyncio.Event()
    bank = RecordingServer(held={"debit_1": release})
    async with bank.listen():
        client = connect(bank)
        other = client.with_options(timeout=1.5)
        async for _ in other.capture_many(debits(2), concurrency=2):
            break
        await other.aclose()
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0.01)
        release.set()
        await closing

    assert list(bank.carried_out.values()) == [1] * 2


@pytest.mark.asyncio
async def test_closing_waits_no_longer_than_the_timeout(caplog: pytest.LogCaptureFixture) -> None:
    """A service that never answers does not keep the client open: each capture has its deadline."""
    bank = RecordingServer(held={"debit_1": asyncio.Event()}, scripts={"status": loopback_silence()})
    async with bank.listen():
        async with asyncio.timeout(5), connect(bank, timeout=0.2) as client:
            async for _ in client.capture_many(debits(2), concurrency=2):
                break

    assert untaken(caplog) == ["debit_1"]
    assert "Unknown" in caplog.text


def loopback_silence() -> list[loopback.Act]:
    return [loopback.silence] * 100


@pytest.mark.asyncio
async def test_aclosing_ends_it_on_the_spot() -> None:
    """With `contextlib.aclosing` everything is over when its block is."""
    ids = Ids()
    async with RecordingServer().listen() as bank, connect(bank) as client:
        before = asyncio.all_tasks() - bank._tasks
        async with aclosing(client.capture_many(ids, concurrency=8)) as outcomes:
            async for _ in outcomes:
                break
        assert len(bank.carried_out) == ids.taken
        assert bank.in_flight == 0
        assert asyncio.all_tasks() - bank._tasks == before
        await asyncio.sleep(0.01)

    assert len(bank.carried_out) == ids.taken


@pytest.mark.asyncio
async def test_a_loop_may_be_taken_up_again() -> None:
    """As long as somebody holds the iterator the batch is not over."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        outcomes = client.capture_many(debits(20), concurrency=2)
        told = [(await anext(outcomes)).debit_id]
        await asyncio.sleep(0.01)
        told += [outcome.debit_id async for outcome in outcomes]

    assert sorted(told) == sorted(debits(20))
    assert bank.twice == []


@pytest.mark.asyncio
async def test_the_client_is_closed_under_a_loop() -> None:
    """What was in shared is still told, then an error says that there was more; nothing more was begun."""
    ids = Ids()
    told = []
    async with RecordingServer().listen() as bank:
        client = connect(bank)
        with pytest.raises(ConfigurationError, match="closed before all items"):
            async for outcome in client.capture_many(ids, concurrency=4):
                told.append(outcome)
                if len(told) == 10:
                    await client.aclose()
                    taken = ids.taken

    assert ids.taken == taken == len(told) == len(bank.carried_out)
    assert all(isinstance(outcome, Captured) for outcome in told)


@pytest.mark.asyncio
async def test_the_client_is_closed_when_all_is_taken() -> None:
    """If there was nothing more to take, there is nothing to complain of."""
    async with RecordingServer().listen() as bank:
        client = connect(bank)
        outcomes = client.capture_many(debits(5), concurrency=8)
        told = [await anext(outcomes)]
        await client.aclose()
        told += [outcome async for outcome in outcomes]

    assert sorted(outcome.debit_id for outcome in told) == debits(5)
    assert bank.twice == []


@pytest.mark.asyncio
async def test_one_that_waits_for_its_turn_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    """An item that was taken and not begun is told as `NotSent`, and nothing is sent for it."""
    told: list[CaptureOutcome] = []
    async with RecordingServer().listen() as bank, connect(bank) as client:
        async for _ in client.capture_many(debits(10), rate=0.01, concurrency=4, on_outcome=told.append):
            await asyncio.sleep(0.01)
            break

    assert len(bank.carried_out) == 1
    assert [type(outcome) for outcome in told] == [Captured, NotSent, NotSent, NotSent, NotSent]
    assert all("nothing was sent" in str(outcome.error) for outcome in told if isinstance(outcome, NotSent))
    assert sorted(untaken(caplog)) == sorted(outcome.debit_id for outcome in told[1:])


@pytest.mark.timeout(10)
@pytest.mark.asyncio
async def test_a_turn_that_comes_when_the_loop_was_left_is_not_used() -> None:
    """Between leaving the loop and the end of its iterator nothing is begun either."""
    told: list[CaptureOutcome] = []
    release = asyncio.Event()
    async with RecordingServer(held={"debit_1": release}).listen() as bank, connect(bank) as client:
        outcomes = client.capture_many(debits(6), concurrency=2, on_outcome=told.append)
        await anext(outcomes)
        (pool,) = client._pools
        pool._admission.limiter.limit = pool._admission.limiter._maximum = 1
        await until(lambda: bank.in_flight == 1 and len(pool._admission._waiting) == 1)
        began = bank.count("capture")
        pool.halt()
        release.set()
        await until(lambda: any(isinstance(outcome, NotSent) for outcome in told))
        await outcomes.aclose()

    assert bank.count("capture") == began
    assert bank.twice == []


@pytest.mark.parametrize("held", [True, False], ids=["while the input is waited for", "right away"])
@pytest.mark.asyncio
async def test_an_input_that_keeps_one_waiting_keeps_nobody_from_leaving(held: bool) -> None:
    """An async input that has nothing for hours is not waited for."""
    cleaned_up = asyncio.Event()

    async def slow() -> AsyncIterator[str]:
        try:
            yield "debit_1"
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    async with RecordingServer().listen() as bank, connect(bank) as client:
        async with asyncio.timeout(5):
            async for _ in client.capture_many(slow(), concurrency=4):
                if held:
                    await asyncio.sleep(0.01)
                break
            await cleaned_up.wait()

    assert list(bank.carried_out) == ["debit_1"]


@pytest.mark.asyncio
async def test_those_that_waited_for_an_earlier_one_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """In order, an outcome may wait for another's: left then, the log has all of them."""
    told: list[CaptureOutcome] = []
    release = asyncio.Event()
    async with RecordingServer(held={"debit_1": release}).listen() as bank, connect(bank) as client:
        async for _ in client.capture_many(debits(5), concurrency=5, ordered=True, on_outcome=told.append):
            await until(lambda: len(told) == 4)
            break
        release.set()

    assert sorted(untaken(caplog)) == debits(5)[1:]
    assert bank.twice == []


@pytest.mark.asyncio
async def test_never_begun_it_takes_nothing() -> None:
    """A batch that nobody iterates has no workers and takes no item."""
    ids = Ids()
    async with RecordingServer().listen() as bank, connect(bank) as client:
        client.capture_many(ids)
        await client.capture_many(ids).aclose()
        await asyncio.sleep(0)

    assert ids.taken == 0
    assert bank.requests == []


@pytest.mark.asyncio
async def test_nothing_of_it_stays_in_memory() -> None:
    """A batch that was left is let go of."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        async for _ in client.capture_many(debits(50), concurrency=4):
            (pool,) = client._pools
            gone = weakref.ref(pool)
            del pool
            break
        await until(lambda: not client._pools)
        gc.collect()

        assert gone() is None
    assert bank.twice == []


# --- cancelled --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["waiting for an outcome", "in the loop's body"])
@pytest.mark.asyncio
async def test_cancelled_it_carries_through_what_is_in_flight(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """The cancellation comes out of the loop, nothing more is begun, and each debit in shared is captured."""
    ids = Ids()
    told: list[CaptureOutcome] = []
    bank = RecordingServer()

    async def consume(client: JetpayClient) -> None:
        async for _ in client.capture_many(ids, concurrency=4, on_outcome=told.append):
            if where == "in the loop's body":
                await asyncio.Event().wait()
            elif len(told) >= 8:
                bank.open.clear()

    async with bank.listen(), connect(bank) as client:
        task = asyncio.create_task(consume(client))
        await until(lambda: told if where == "in the loop's body" else bank.in_flight == 4)
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        taken = ids.taken
        bank.open.set()
        assert isinstance(await ended(task), asyncio.CancelledError)

    assert ids.taken == taken == len(told) == len(bank.carried_out)
    assert all(isinstance(outcome, Captured) for outcome in told)
    assert set(untaken(caplog)) <= set(bank.carried_out)


@pytest.mark.asyncio
async def test_cancelled_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    """A cancelled loop ends when the last in shared has its answer, not before; the log tells each."""
    bank = RecordingServer()
    bank.open.clear()
    async with bank.listen(), connect(bank) as client:
        task = asyncio.create_task(take(client, debits(9), concurrency=3))
        await until(lambda: bank.in_flight == 3)
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        bank.open.set()
        assert isinstance(await ended(task), asyncio.CancelledError)
        assert len(bank.carried_out) == 3

    assert sorted(untaken(caplog)) == sorted(bank.carried_out)


async def take(
    client: JetpayClient, ids: list[str], *, concurrency: int, told: list[CaptureOutcome] | None = None
) -> None:
    hook = None if told is None else told.append
    async for _ in client.capture_many(ids, concurrency=concurrency, on_outcome=hook):
        pass


@pytest.mark.asyncio
async def test_cancelled_twice_it_breaks_them_off() -> None:
    """A second cancellation does not wait: what was on its way is unknown, and every hook is told so."""
    unknown: list[OutcomeUnknownError] = []
    told: list[CaptureOutcome] = []
    bank = RecordingServer()
    bank.open.clear()
    async with bank.listen():
        async with JetpayClient(TOKEN, base_url=bank.url, retry=FAST, on_unknown=unknown.append) as client:
            task = asyncio.create_task(take(client, debits(9), concurrency=3, told=told))
            await until(lambda: bank.in_flight == 3)
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
            task.cancel()
            assert isinstance(await ended(task), asyncio.CancelledError)

    assert sorted(error.debit_id or "" for error in unknown) == debits(3)
    assert sorted(outcome.debit_id for outcome in told) == debits(3)
    assert {type(outcome) for outcome in told} == {Unknown}
    assert all(isinstance(outcome.error, OutcomeUnknownError) for outcome in told if isinstance(outcome, Unknown))
    assert all(outcome.attempts == 1 for outcome in told)


@pytest.mark.asyncio
async def test_broken_off_before_anything_left_it_is_not_sent() -> None:
    """What was still in the queue for a connection has sent nothing, and is told so."""
    told: list[CaptureOutcome] = []
    bank = RecordingServer()
    bank.open.clear()
    async with bank.listen():
        async with JetpayClient(TOKEN, base_url=bank.url, retry=FAST, max_connections=1) as client:
            task = asyncio.create_task(take(client, debits(3), concurrency=3, told=told))
            await until(lambda: bank.in_flight == 1)
            task.cancel()
            await asyncio.sleep(0.01)
            task.cancel()
            await ended(task)

    kinds = {outcome.debit_id: type(outcome) for outcome in told}
    assert sorted(kinds.values(), key=str) == sorted([Unknown, NotSent, NotSent], key=str)
    assert bank.count("capture") == 1


@pytest.mark.asyncio
async def test_broken_off_with_its_twin_it_is_unknown() -> None:
    """An item that shared the request of another is as unknown as that one."""
    told: list[CaptureOutcome] = []
    bank = RecordingServer()
    bank.open.clear()
    async with bank.listen(), connect(bank) as client:
        single = asyncio.create_task(client.capture("debit_0"))
        await until(lambda: bank.in_flight == 1)
        task = asyncio.create_task(take(client, debits(1), concurrency=1, told=told))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        await ended(task)
        bank.open.set()
        await single

    assert [type(outcome) for outcome in told] == [Unknown]
    assert bank.carried_out == {"debit_0": 1}


@pytest.mark.asyncio
async def test_broken_off_with_a_twin_that_sent_nothing_it_is_not_sent() -> None:
    """If the shared request waits for a connection, nothing was sent for either."""
    told: list[CaptureOutcome] = []
    bank = RecordingServer()
    bank.open.clear()
    async with bank.listen():
        async with JetpayClient(TOKEN, base_url=bank.url, retry=FAST, max_connections=1) as client:
            hog = asyncio.create_task(client.capture("debit_5"))
            await until(lambda: bank.in_flight == 1)
            single = asyncio.create_task(client.capture("debit_0"))
            await asyncio.sleep(0)
            task = asyncio.create_task(take(client, debits(1), concurrency=1, told=told))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.01)
            task.cancel()
            await ended(task)
            bank.open.set()
            await asyncio.gather(hog, single)

    assert [type(outcome) for outcome in told] == [NotSent]
    assert isinstance(told[0], NotSent)
    assert isinstance(told[0].error, NotSentError)


@pytest.mark.asyncio
async def test_a_broken_off_capture_is_settled_when_asked_for_again() -> None:
    """What was broken off is remembered by the client: asked for again, the status is read first."""
    bank = RecordingServer()
    bank.open.clear()
    async with bank.listen(), connect(bank) as client:
        task = asyncio.create_task(take(client, debits(1), concurrency=1))
        await until(lambda: bank.in_flight == 1)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        await ended(task)
        bank.open.set()
        await until(lambda: bank.carried_out)
        capture = await client.capture("debit_0")

    assert capture.confirmed_by_status
    assert bank.carried_out == {"debit_0": 1}


@pytest.mark.asyncio
async def test_closing_may_be_cancelled() -> None:
    """A cancelled `aclose` breaks off what it waited for, and closes all the same."""
    told: list[CaptureOutcome] = []
    bank = RecordingServer(held={"debit_1": asyncio.Event()})
    async with bank.listen():
        client = connect(bank, timeout=60.0)
        async for _ in client.capture_many(debits(2), concurrency=2, on_outcome=told.append):
            break
        closing = asyncio.create_task(client.aclose())
        await until(lambda: bank.in_flight == 1)
        await asyncio.sleep(0)
        closing.cancel()
        assert isinstance(await ended(closing), asyncio.CancelledError)

        assert client.closed
        assert [type(outcome) for outcome in told] == [Captured, Unknown]


@pytest.mark.asyncio
async def test_the_caller_s_timeout_works() -> None:
    """`asyncio.timeout` around a loop ends it with TimeoutError, and what was in shared is carried through."""
    told: list[CaptureOutcome] = []
    async with RecordingServer().listen() as bank, connect(bank) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                async for _ in client.capture_many(Ids(), concurrency=4, on_outcome=told.append):
                    await asyncio.sleep(0.001)

    assert sorted(outcome.debit_id for outcome in told) == sorted(bank.carried_out)
    assert bank.twice == []


@pytest.mark.asyncio
async def test_a_task_group_works() -> None:
    """A sibling that fails ends the batch like any cancellation."""
    told: list[CaptureOutcome] = []
    async with RecordingServer().listen() as bank, connect(bank) as client:

        async def fail() -> None:
            await until(lambda: len(told) > 5)
            raise EnoughError

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(take(client, Ids(), concurrency=4, told=told))  # type: ignore[arg-type] # endless
                group.create_task(fail())

    assert caught.group_contains(EnoughError)
    assert sorted(outcome.debit_id for outcome in told) == sorted(bank.carried_out)


@pytest.mark.asyncio
async def test_a_cancelled_worker_ends_the_batch() -> None:
    """Cancelled from outside, by one who cancels every task, a batch does not look complete; nothing is lost."""
    bank = RecordingServer()
    bank.open.clear()
    told: list[CaptureOutcome] = []

    async def consume(client: JetpayClient) -> None:
        async for outcome in client.capture_many(debits(20), concurrency=4):
            told.append(outcome)  # noqa: PERF401 - kept when it ends

    async with bank.listen(), connect(bank) as client:
        task = asyncio.create_task(consume(client))
        await until(lambda: bank.in_flight == 4)
        (pool,) = client._pools
        worker = next(iter(pool._workers))
        worker.cancel()
        await asyncio.sleep(0.01)
        bank.open.set()
        assert isinstance(await ended(task), asyncio.CancelledError)

    assert sorted(type(outcome).__name__ for outcome in told) == ["Captured"] * 3 + ["Unknown"]


@pytest.mark.asyncio
async def test_an_input_that_is_cancelled_by_itself_says_so() -> None:
    """If the input ends in a CancelledError of its own, so does the loop."""

    async def cancelled() -> AsyncIterator[str]:
        yield "debit_1"
        raise asyncio.CancelledError("the queue was shut down")

    told: list[CaptureOutcome] = []
    async with RecordingServer().listen() as bank, connect(bank) as client:

        async def consume() -> None:
            async for outcome in client.capture_many(cancelled()):
                told.append(outcome)  # noqa: PERF401 - kept when it ends

        with pytest.raises(asyncio.CancelledError, match="the queue was shut down"):
            await consume()

    assert [outcome.debit_id for outcome in told] == list(bank.carried_out) == ["debit_1"]


# --- loops ------------------------------------------------------------------------------------------------------------


def test_the_loop_ends_while_a_batch_is_held() -> None:
    """A loop that is shut down breaks off what is in shared; the client can still be closed elsewhere."""
    told: list[CaptureOutcome] = []
    clients: list[JetpayClient] = []

    async def main() -> None:
        bank = RecordingServer(held={"debit_1": asyncio.Event()})
        async with bank.listen():
            client = JetpayClient(TOKEN, base_url=bank.url, retry=FAST)
            clients.append(client)
            held = client.capture_many(debits(2), concurrency=2, on_outcome=told.append)
            keep.append(held)
            await anext(held)
            await until(lambda: bank.in_flight == 1)
            await client._transport._session.close()  # type: ignore[union-attr] # nothing else would

    keep: list[object] = []
    asyncio.run(main())

    assert [type(outcome) for outcome in told] == [Captured, Unknown]
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(clients[0].aclose())


@pytest.mark.asyncio
async def test_a_batch_of_another_loop_is_not_waited_for() -> None:
    """Closing in the wrong loop says so, rather than waiting for what can't end there."""
    async with (
        RecordingServer(held={"debit_1": asyncio.Event()}).listen() as bank,
        connect(bank, timeout=0.3) as client,
    ):
        async for _ in client.capture_many(debits(2), concurrency=2):
            break

        def close_elsewhere() -> None:
            with pytest.raises(ConfigurationError, match="another event loop"):
                asyncio.run(client.aclose())

        await asyncio.to_thread(close_elsewhere)

        assert bank.in_flight == 1
