"""When a reader of a batch reads again, and when it waits first."""

from __future__ import annotations

from contextlib import closing
from typing import Any, cast

import pytest

from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import UnknownBatchError, _repository
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._batch_reader import BatchReader
from jetpay_async.ledger._repository import PAGE


class StoppedError(Exception):
    """Nothing more is captured."""


class ScriptedSource:
    """A ledger that gives what is written down here, and notes when it is waited for."""

    clock = SYSTEM_CLOCK

    def __init__(self, *pages: tuple[bool, int], stopped: bool = False) -> None:
        self.pages = list(pages)
        self.stopped = stopped
        self.rounds = 0
        self.steps: list[str] = []

    async def read(self, operation: object) -> Any:
        del operation
        complete, count = self.pages.pop(0)
        self.steps.append(f"read {count}")
        self.rounds += 1
        row = (7, "debit", "captured", 1, "paid", 0, None, None, None, None, None)
        return complete, 0, [row] * count, 7

    async def pause(self, since: int) -> None:
        self.steps.append(f"pause since {since}")

    async def follow_up(self) -> None:
        """Never called: nothing is accepted."""

    async def stopped_error(self) -> Exception:
        return StoppedError()


async def exhaust(source: ScriptedSource) -> int:
    return len([outcome async for outcome in BatchReader(1, cast("Any", source)).outcomes()])


@pytest.mark.asyncio
async def test_a_page_is_waited_for_from_before_it_was_read() -> None:
    """After a page the reader waits for what came since it began to read, and reads nothing only to be sure."""
    source = ScriptedSource((False, 3), (False, 0), (True, 2))

    assert await exhaust(source) == 5

    assert source.steps == ["read 3", "pause since 0", "read 0", "pause since 1", "read 2"]


@pytest.mark.asyncio
async def test_a_full_page_is_followed_by_the_next_one_at_once() -> None:
    """There may be more than a page holds, also in a batch that is complete."""
    source = ScriptedSource((True, PAGE), (True, 0))

    assert await exhaust(source) == PAGE

    assert source.steps == [f"read {PAGE}", "read 0"]


@pytest.mark.asyncio
async def test_a_run_that_stopped_is_reported_when_nothing_is_left_to_read() -> None:
    """The last page of a run that has stopped may hold what completes the batch, and what is not counted in it yet."""
    source = ScriptedSource((False, 1), (True, 0), stopped=True)
    assert await exhaust(source) == 1

    with pytest.raises(StoppedError):
        await exhaust(ScriptedSource((False, 1), (False, 0), stopped=True))


def test_a_batch_that_was_pruned_meanwhile(ledger: str) -> None:
    """Its outcomes are gone, and whoever reads them on learns why."""
    with closing(choose_backend(ledger, SYSTEM_CLOCK).connect(create=True)) as connection:
        with pytest.raises(UnknownBatchError, match="was pruned from the ledger meanwhile"):
            _repository.completion_and_outcomes(connection, batch=1, after=0)
