"""The queue between workers and consumer, by itself."""

from __future__ import annotations

import asyncio

import pytest

from jetpay_async._batch.stream import OutcomeStream
from tests.batch.fakes import run_ready_tasks


def filled(stream: OutcomeStream[str], numbers: list[int]) -> list[str]:
    stream.begun += len(numbers)
    taken = []
    for number in numbers:
        stream.put(number, f"outcome {number}")
        while stream.ready:
            taken.append(stream.take())
    return taken


def test_as_they_come() -> None:
    """Without order, an outcome is ready when it is put."""
    stream: OutcomeStream[str] = OutcomeStream(ordered=False, ahead=8)

    assert filled(stream, [2, 0, 1]) == ["outcome 2", "outcome 0", "outcome 1"]


def test_in_order() -> None:
    """With order, an outcome is ready when those of all earlier items are."""
    stream: OutcomeStream[str] = OutcomeStream(ordered=True, ahead=8)

    assert filled(stream, [2, 0, 3, 1]) == ["outcome 0", "outcome 1", "outcome 2", "outcome 3"]


def test_there_is_room_for_so_many_ahead() -> None:
    """Items that have begun and whose outcomes were not taken count, whether the outcome is there or not."""
    stream: OutcomeStream[str] = OutcomeStream(ordered=False, ahead=2)
    assert stream.may_begin == 2
    stream.begun = 2

    stream.put(1, "outcome 1")
    assert stream.may_begin == 2
    stream.take()

    assert stream.may_begin == 3


@pytest.mark.asyncio
async def test_each_outcome_taken_lets_one_worker_go_on() -> None:
    """In the order in which they began to wait; one that was cancelled meanwhile is passed over."""
    stream: OutcomeStream[str] = OutcomeStream(ordered=False, ahead=1)
    for number in range(3):
        stream.put(number, f"outcome {number}")
    workers = [asyncio.create_task(stream.wait_for_room()) for _ in range(2)]
    await run_ready_tasks()
    stream.take()
    await run_ready_tasks()
    assert [worker.done() for worker in workers] == [True, False]

    workers[1].cancel()
    stream.take()
    await run_ready_tasks()
    stream.take()

    assert workers[1].cancelled()


@pytest.mark.asyncio
async def test_the_consumer_waits_for_an_outcome_that_is_ready() -> None:
    """And sees after each one that is put whether it is ready."""
    stream: OutcomeStream[str] = OutcomeStream(ordered=True, ahead=8)
    consumer = stream.wait()
    await run_ready_tasks()
    assert not consumer.done()

    stream.put(0, "outcome 0")
    stream.wake_consumer()
    await consumer

    assert stream.take() == "outcome 0"


@pytest.mark.parametrize("ordered", [True, False])
def test_the_rest_is_taken_at_once(ordered: bool) -> None:
    """Outcomes that are ready, and those that wait for others; once."""
    stream: OutcomeStream[str] = OutcomeStream(ordered=ordered, ahead=8)
    for number in (0, 2, 3):
        stream.put(number, f"outcome {number}")

    assert stream.take_rest() == ["outcome 0", "outcome 2", "outcome 3"]
    assert stream.take_rest() == []
    assert not stream.ready
