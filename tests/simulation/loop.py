"""An event loop whose time is virtual: a sleep takes no time, and waiting for nothing is an error."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

_T = TypeVar("_T")

_MAX_ROUNDS = 50


class Deadlock(Exception):  # noqa: N818 - what it is called
    """Everything waits, and nothing is scheduled that could end that."""


class _NoWaiting(selectors.SelectSelector):
    """Lets virtual time pass instead of waiting for files."""

    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock
        self.loop.advance(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its time goes on only while all its tasks wait, and then at once to the next timer."""

    def __init__(self) -> None:
        self._virtual_now = 0.0
        self._never: list[asyncio.Future[None]] = []
        selector = _NoWaiting()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual_now

    async def never(self) -> None:
        """Wait for what never comes. The loop remembers who waits, so that nobody is collected as garbage."""
        future = self.create_future()
        self._never.append(future)
        await future

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._virtual_now += max(0.0, seconds)


def run(main: Coroutine[Any, Any, _T], loop: VirtualTimeLoop) -> _T:
    """Run a coroutine to its end, leave none of its tasks behind, and close the loop."""
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        _end_tasks(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        asyncio.set_event_loop(None)


def _end_tasks(loop: VirtualTimeLoop) -> None:
    """Cancel what is left, again and again: a task of a killed process waits for ever in its clean-up, too."""
    for _ in range(_MAX_ROUNDS):
        if not (left := asyncio.all_tasks(loop)):
            return
        for task in left:
            task.cancel()
        with contextlib.suppress(Deadlock):
            loop.run_until_complete(asyncio.wait(left))
    raise AssertionError("tasks can't be cancelled")
