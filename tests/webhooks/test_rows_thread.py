"""The thread in which an inbox uses its file: order, errors, cancellation, and its end."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jetpay_async.webhooks._inbox_rows import InboxRows
from jetpay_async.webhooks._rows_thread import RowsThread
from jetpay_async.webhooks.sqlite_inbox import SqliteInbox
from tests.webhooks.inboxes import SECONDS
from tests.webhooks.receiving import events, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def open_rows() -> InboxRows:
    return InboxRows.open(":memory:", source="", retention=1.0, busy_timeout=0.0, now=lambda: 1.0)


@pytest.fixture
def busy() -> Iterator[threading.Event]:
    """Set it to let a step that waits for it go on."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.asyncio
async def test_steps_run_in_their_order() -> None:
    """Steps that are asked for at the same moment run one by one, as they were asked for, outside of the loop."""
    thread = RowsThread(open_rows)
    ran: list[int] = []

    def step(number: int) -> Callable[[InboxRows], int]:
        def note(_: InboxRows) -> int:
            ran.append(number)
            return threading.get_ident()

        return note

    found = await asyncio.gather(*(thread.run(step(number)) for number in range(9)))
    await thread.aclose()

    assert ran == list(range(9))
    assert set(found) != {threading.get_ident()}


@pytest.mark.asyncio
async def test_what_a_step_raises_is_its_callers() -> None:
    """A step that fails ends neither the thread nor another caller's step."""
    thread = RowsThread(open_rows)

    def fail(_: InboxRows) -> None:
        raise ZeroDivisionError

    failing, working = await asyncio.gather(thread.run(fail), thread.run(lambda _: 1), return_exceptions=True)
    await thread.aclose()

    assert isinstance(failing, ZeroDivisionError)
    assert working == 1


@pytest.mark.asyncio
async def test_a_step_that_is_cancelled_before_its_turn_is_not_run(
    busy: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """What a caller has given up is not begun; what has begun is ended, and its result is lost."""
    thread = RowsThread(open_rows)
    ran: list[str] = []
    began = threading.Event()

    def hold(_: InboxRows) -> None:
        began.set()
        busy.wait(20)
        ran.append("held")

    holding = asyncio.create_task(thread.run(hold))
    waiting = asyncio.create_task(thread.run(lambda _: ran.append("waited")))
    await until(began.is_set)
    holding.cancel()
    waiting.cancel()
    await asyncio.wait([holding, waiting])
    busy.set()
    await thread.run(lambda _: ran.append("next"))
    await thread.aclose()

    assert ran == ["held", "next"]
    assert caplog.text == ""


def test_a_loop_that_was_closed_is_not_called(busy: threading.Event) -> None:
    """A program that ends its loop in the middle of a step gets no error in the thread; another loop may go on."""
    thread = RowsThread(open_rows)
    ended: list[int] = []
    began = threading.Event()

    def hold(_: InboxRows) -> None:
        began.set()
        busy.wait(20)
        ended.append(1)

    async def give_up() -> None:
        holding = asyncio.create_task(thread.run(hold))
        await until(began.is_set)
        holding.cancel()

    asyncio.run(give_up())
    busy.set()

    async def go_on() -> int:
        found = await thread.run(lambda _: len(ended))
        await thread.aclose()
        return found

    assert asyncio.run(go_on()) == 1


def test_an_inbox_that_is_forgotten_ends_its_thread(tmp_path: Path) -> None:
    """An inbox that nobody closes and nobody has any more closes its file, and leaves no thread behind."""

    async def use_and_forget() -> None:
        await SqliteInbox(tmp_path / "inbox.db").lease(events(1), owner="a", seconds=SECONDS)
        gc.collect()
        await until(lambda: not any(thread.name == "jetpay-inbox" for thread in threading.enumerate()))

    # Threads of other tests have ended.
    asyncio.run(use_and_forget())

    assert not (tmp_path / "inbox.db-wal").exists()
