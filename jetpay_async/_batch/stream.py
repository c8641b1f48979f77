"""The outcomes of a batch on their way from the workers to the consumer: order, and how far workers may go ahead."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

_Outcome = TypeVar("_Outcome")


class OutcomeStream(Generic[_Outcome]):
    """A queue of outcomes with one consumer, for items that are numbered in the order in which they begin.

    Args:
        ordered: Whether outcomes are taken in the order of their items, rather than as they come.
        ahead: How many items may have begun whose outcomes were not taken yet.
    """

    def __init__(self, *, ordered: bool, ahead: int) -> None:
        self.ready: deque[_Outcome] = deque()
        """Outcomes that can be taken."""
        # Outcomes that came before those of earlier items, by the items' numbers.
        self._early: dict[int, _Outcome] | None = {} if ordered else None
        self.begun = 0
        """How many items have begun, and the number of the next one."""
        self.may_begin = ahead
        """How many items may begin until the next outcome is taken, those that have begun included."""
        self._next_in_order = 0
        self._consumer: asyncio.Future[None] | None = None
        self._workers: deque[asyncio.Future[None]] = deque()

    async def wait_for_room(self) -> None:
        """Wait until an outcome was taken."""
        worker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._workers.append(worker)
        await worker

    def put(self, number: int, outcome: _Outcome) -> None:
        """Add the outcome of the item of this number."""
        if self._early is None:
            self.ready.append(outcome)
        elif number == self._next_in_order and not self._early:
            self.ready.append(outcome)
            self._next_in_order += 1
        else:
            self._early[number] = outcome
            while self._next_in_order in self._early:
                self.ready.append(self._early.pop(self._next_in_order))
                self._next_in_order += 1
        if self._consumer is not None:
            self.wake_consumer()

    def take(self) -> _Outcome:
        """Take the next outcome that is ready, and let one worker that waits for room go on."""
        self.may_begin += 1
        if self._workers:
            _wake(self._workers.popleft())
        return self.ready.popleft()

    def wait(self) -> asyncio.Future[None]:
        """Wait until `put` or `wake_consumer` is called."""
        self._consumer = asyncio.get_running_loop().create_future()
        return self._consumer

    def wake_consumer(self) -> None:
        """End the consumer's wait, so that it sees whether there will be more."""
        if self._consumer is not None:
            _wake(self._consumer)
            self._consumer = None

    def take_rest(self) -> list[_Outcome]:
        """Take all outcomes there are, whatever their order."""
        rest = [*self.ready, *(self._early or {}).values()]
        self.ready.clear()
        if self._early is not None:
            self._early.clear()
        return rest


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
