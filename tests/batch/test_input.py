"""Where items come from: any iterable, taken as needed, and its errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, aclosing, nullcontext

import pytest

from jetpay_async import (
    Captured,
    CaptureOutcome,
    InvalidArgumentError,
    JetpayClient,
)
from tests.batch.consumers import capture
from tests.network import TOKEN
from tests.recording_server import RecordingServer, connect, debits


async def slowly(ids: Iterable[str]) -> AsyncIterator[str]:
    for debit_id in ids:
        await asyncio.sleep(0)
        yield debit_id


class Both:
    """An iterable that blocks, and an async iterable that doesn't, as an ORM's query is."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("it would block the loop")

    def __aiter__(self) -> AsyncIterator[str]:
        return slowly(debits(20))


INPUTS: dict[str, Callable[[], object]] = {
    "list": lambda: debits(20),
    "tuple": lambda: tuple(debits(20)),
    "generator": lambda: (debit_id for debit_id in debits(20)),
    "set": lambda: set(debits(20)),
    "dict": lambda: dict.fromkeys(debits(20)),
    "async generator": lambda: slowly(debits(20)),
    "both": Both,
}


@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
@pytest.mark.asyncio
async def test_any_iterable_will_do(make: Callable[[], Iterable[str]]) -> None:
    """Sync or async; of one that is both, the async one, since the other would block."""
    async with RecordingServer().listen() as server, connect(server) as client:
        outcomes = await capture(client, make())

    assert set(outcomes) == set(server.carried_out) == set(debits(20))


@pytest.mark.asyncio
async def test_no_input_is_no_outcome() -> None:
    """An empty batch is over at once."""
    async with RecordingServer().listen() as server, connect(server) as client:
        assert await capture(client, []) == {}

    assert server.requests == []


@pytest.mark.parametrize("make", [iter, slowly], ids=["sync", "async"])
@pytest.mark.asyncio
async def test_an_input_that_breaks_loses_nothing(make: Callable[[Iterable[str]], Iterable[str]]) -> None:
    """What was taken from it is captured and reported, nothing further is begun, and then its error is raised."""
    released = asyncio.Event()

    def broken() -> Iterator[str]:
        yield from debits(5)
        released.set()
        raise LookupError("the database is gone")

    server = RecordingServer(held=dict.fromkeys(debits(5), released))
    async with server.listen(), connect(server) as client:
        reported: list[CaptureOutcome] = []
        with pytest.raises(LookupError, match="the database is gone"):
            async for outcome in client.capture_many(make(broken()), concurrency=8):
                reported += [outcome]

    assert sorted(outcome.debit_id for outcome in reported) == debits(5)
    assert sorted(server.carried_out) == debits(5)


class Revived:
    """An iterator that could go on after its tenth call, which is an error or its end."""

    def __init__(self, error: type[Exception]) -> None:
        self.asked = 0
        self.error = error

    def __iter__(self) -> Revived:
        return self

    def __next__(self) -> str:
        self.asked += 1
        if self.asked == 10:
            raise self.error
        return f"debit_{self.asked}"


class AsyncRevived(Revived):
    """The same, and it takes its time."""

    def __aiter__(self) -> AsyncRevived:
        return self

    async def __anext__(self) -> str:
        await asyncio.sleep(0.001)
        return self.__next__()


@pytest.mark.parametrize(
    ("items", "end"),
    [
        (Revived(LookupError), pytest.raises(LookupError)),
        (AsyncRevived(LookupError), pytest.raises(LookupError)),
        (Revived(StopIteration), nullcontext()),
        (AsyncRevived(StopAsyncIteration), nullcontext()),
    ],
    ids=["sync, broken", "async, broken", "sync, ended", "async, ended"],
)
@pytest.mark.asyncio
async def test_after_its_end_the_input_is_not_asked_again(
    items: Revived, end: AbstractContextManager[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An iterator that could go on after its end, or after its error, is left alone."""
    monkeypatch.setattr(items, "asked", 0)
    async with RecordingServer().listen() as server, connect(server) as client:
        with end:
            await capture(client, items, concurrency=4)

    assert items.asked == 10
    assert len(server.carried_out) == 9


@pytest.mark.asyncio
async def test_an_async_input_is_asked_for_one_at_a_time() -> None:
    """An async generator does not bear to be asked by two at once."""
    asked = 0

    async def careful() -> AsyncIterator[str]:
        nonlocal asked
        for debit_id in debits(40):
            asked += 1
            assert asked == 1
            await asyncio.sleep(0.001)
            asked -= 1
            yield debit_id

    async with RecordingServer().listen() as server, connect(server) as client:
        outcomes = [outcome async for outcome in client.capture_many(careful(), concurrency=8, ordered=True)]

    assert [outcome.debit_id for outcome in outcomes] == debits(40)
    assert server.twice == []


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"debit_ids": "debit_1"}, "debit_ids"),
        ({"debit_ids": b"debit_1"}, "debit_ids"),
        ({"debit_ids": bytearray(b"debit_1")}, "debit_ids"),
        ({"debit_ids": None}, "debit_ids"),
        ({"debit_ids": 5}, "debit_ids"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": -1}, "concurrency"),
        ({"concurrency": 2.0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": "64"}, "concurrency"),
        ({"rate": 0}, "rate"),
        ({"rate": -1.0}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": 10**400}, "rate"),
        ({"rate": True}, "rate"),
        ({"rate": "10"}, "rate"),
        ({"on_outcome": "print"}, "on_outcome"),
    ],
    ids=str,
)
@pytest.mark.asyncio
async def test_bad_arguments_are_rejected_when_it_is_called(arguments: dict[str, object], field: str) -> None:
    """Before anything is taken, not when the first outcome is asked for; the error names the argument."""
    taken: list[str] = []

    def ids() -> Iterator[str]:
        taken.append("one")
        yield "debit_1"

    async with JetpayClient(TOKEN, base_url="http://127.0.0.1:1") as client:
        for call, items in ((client.capture_many, "debit_ids"), (client.preauthorize_many, "requests")):
            given = {items if name == "debit_ids" else name: value for name, value in arguments.items()}
            with pytest.raises(InvalidArgumentError) as caught:
                call(**{items: ids(), **given})  # type: ignore[arg-type] # as an untyped caller might

            assert caught.value.field == (items if field == "debit_ids" else field)
            assert str(caught.value).startswith(f"{caught.value.field}: ")
    assert taken == []


@pytest.mark.parametrize("rate", [1, 0.5, 5e-324, 1e300], ids=str)
@pytest.mark.asyncio
async def test_any_positive_rate_will_do(rate: float) -> None:
    """However slow or fast: the first item starts at once."""
    async with RecordingServer().listen() as server, connect(server) as client:
        async with aclosing(client.capture_many(debits(1), rate=rate)) as outcomes:
            assert isinstance(await anext(outcomes), Captured)
    assert len(server.carried_out) == 1
