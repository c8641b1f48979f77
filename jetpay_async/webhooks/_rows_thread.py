"""The thread in which an inbox uses its SQLite file, so that the event loop never waits for the disk.

An executor of the standard library does the same, and takes twice the time for it: each step has a future in the thread
and another one in the loop.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async.webhooks._inbox_rows import InboxRows

T = TypeVar("T")


class _Queued(NamedTuple):
    step: Callable[[InboxRows], Any] | None
    """None closes the file and ends the thread."""
    future: asyncio.Future[Any] | None


class RowsThread:
    """Runs steps one after the other, in their order, in a thread that opens the file before the first one.

    Args:
        open_rows: Opens the file; called again at the next step if it fails. Must not refer to whoever has the thread,
            or it would not end with them.
    """

    def __init__(self, open_rows: Callable[[], InboxRows]) -> None:
        self._queue: SimpleQueue[_Queued] = SimpleQueue()
        # A daemon: a program that forgets to close must still be able to end; a commit is whole or not at all.
        threading.Thread(target=_serve, args=(self._queue, open_rows), name="jetpay-inbox", daemon=True).start()
        weakref.finalize(self, self._queue.put, _Queued(None, None))

    async def run(self, step: Callable[[InboxRows], T]) -> T:
        """Run a step, unless this is cancelled before its turn.

        Raises:
            Exception: What the step, or the opening, raised.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Queued(step, future))
        return await future

    async def aclose(self) -> None:
        """Close the file after the steps before this one, and end the thread."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put(_Queued(None, future))
        await future


def _serve(queue: SimpleQueue[_Queued], open_rows: Callable[[], InboxRows]) -> None:
    rows: InboxRows | None = None
    while True:
        step, future = queue.get()
        if step is None:
            break
        if future is not None and not future.cancelled():
            result: object = None
            failure: BaseException | None = None
            try:
                if rows is None:
                    rows = open_rows()
                result = step(rows)
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller of run()
                failure = error
            _deliver(future, result, failure)
            # Not to be kept until the next step, which may never come.
            del result, failure
        del step, future
    if rows is not None:
        rows.close()
    if future is not None:
        _deliver(future, None, None)


def _deliver(future: asyncio.Future[Any], result: object, failure: BaseException | None) -> None:
    # The loop may have been closed by a program that forgot to close the inbox.
    with suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(_set, future, result, failure)


def _set(future: asyncio.Future[Any], result: object, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
