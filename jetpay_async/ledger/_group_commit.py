"""One thread that owns the connection, and commits all units of work that have queued up as one transaction.

That is what makes a durable outcome cheap: while the disk is busy with one commit, the next one gathers.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from operator import attrgetter
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import attrs

from jetpay_async._core.fork import ForkGuard
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger._backend import UnitOfWork
from jetpay_async.ledger.errors import LedgerError

if TYPE_CHECKING:
    from jetpay_async.ledger._backend import Backend, Connection

_T = TypeVar("_T")

_MAX_TRIES = 20
"""Tries of a transaction that collides with those of other owners; at each try one of them gets through."""


@attrs.define(eq=False)
class _QueuedWork(Generic[_T]):
    operation: UnitOfWork[_T]
    future: asyncio.Future[_T]
    writes: bool
    last: bool


_Result: TypeAlias = tuple["asyncio.Future[Any]", object, Exception | None]
"""Of a unit of work: whose it is, what it returned, and the error if it failed."""


class GroupCommitExecutor:
    """Takes units of work from the event loop and carries them out, in order, in its thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._fork_guard = ForkGuard()
        self._queue: SimpleQueue[_QueuedWork[Any] | None] = SimpleQueue()
        """None ends the thread."""
        self._closing = False
        self._ending = False
        """The same, as far as the thread knows."""
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.commits = 0
        """Transactions that wrote something."""

    async def open(self, *, create: bool) -> None:
        """Connect.

        Raises:
            LedgerError: The ledger can't be used.
        """
        # A daemon: a program that forgets to close must still be able to end; a commit is whole or not at all.
        threading.Thread(target=self._serve, args=(create,), name="jetpay-ledger", daemon=True).start()
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            self._end()
            raise

    async def run(self, operation: UnitOfWork[_T], *, writes: bool = True, last: bool = False) -> _T:
        """Carry out a unit of work; it is durable when this returns.

        Args:
            operation: What to do with the connection, in the thread.
            writes: Whether it may change anything.
            last: Whether it comes after the others that share its transaction, so that all owners take their locks in
                one order.

        Raises:
            LedgerError: The ledger can't be read or written, or is closed.
            ConfigurationError: The process was forked since.
        """
        if self._fork_guard.forked:
            # The thread stayed with the parent.
            raise ConfigurationError(
                f"the ledger {self._backend.name} was opened before a fork; open it again in the child"
            )
        if self._closing or self._closed.done():
            raise LedgerError(f"the ledger {self._backend.name} is closed; open it again")
        future: asyncio.Future[_T] = self._loop.create_future()
        self._queue.put(_QueuedWork(operation, future, writes, last))
        return await future

    async def close(self) -> None:
        """Carry out what has queued up, and disconnect."""
        self._end()
        if not self._fork_guard.forked:
            await asyncio.shield(self._closed)

    def _end(self) -> None:
        self._closing = True
        self._queue.put(None)

    # --- in the thread

    def _serve(self, create: bool) -> None:  # noqa: FBT001 - a thread's target
        try:
            connection = self._backend.connect(create=create)
        except Exception as error:  # noqa: BLE001 - it belongs to the caller of open()
            self._deliver([(self._opened, None, self._translate(error)), (self._closed, None, None)])
            return
        self._deliver([(self._opened, None, None)])
        while queued := self._gather():
            self._deliver(self._transact(connection, queued))
        with contextlib.suppress(Exception):  # what was committed is safe
            connection.close()
        self._deliver([(self._closed, None, None)])

    def _gather(self) -> list[_QueuedWork[Any]]:
        """Wait for work, and take with it all that can share its transaction; nothing at the end."""
        queued: list[_QueuedWork[Any]] = []
        while not self._ending and not (queued and self._queue.empty()):
            work = self._queue.get()
            if work is None:
                self._ending = True
            else:
                queued.append(work)
        return sorted(queued, key=attrgetter("last"))

    def _transact(self, connection: Connection, queued: list[_QueuedWork[Any]]) -> list[_Result]:
        tries = 0
        while True:
            tries += 1
            try:
                return self._try(connection, queued)
            except Exception as error:  # noqa: BLE001 - it belongs to the callers of run()
                with contextlib.suppress(Exception):  # a lost connection can't roll back, and need not
                    connection.rollback()
                if tries < _MAX_TRIES and self._backend.repeatable(error):
                    continue
                failure = self._translate(error)
                return [(work.future, None, failure) for work in queued]

    def _try(self, connection: Connection, queued: list[_QueuedWork[Any]]) -> list[_Result]:
        writes = any(work.writes for work in queued)
        connection.begin(writes=writes)
        results = [_carry_out(connection, work) for work in queued]
        connection.commit()
        self.commits += writes
        return results

    def _translate(self, error: Exception) -> Exception:
        explanation = self._backend.explain(error)
        if explanation is None:
            return error
        failure = LedgerError(explanation)
        failure.__cause__ = error
        return failure

    def _deliver(self, results: list[_Result]) -> None:
        # The loop may have been closed by a program that forgot to close the ledger.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_set_results, results)


def _carry_out(connection: Connection, work: _QueuedWork[Any]) -> _Result:
    try:
        return work.future, work.operation(connection), None
    except LedgerError as error:
        # It has changed nothing, so that the work that shares its transaction is valid.
        return work.future, None, error


def _set_results(results: list[_Result]) -> None:
    for future, value, error in results:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            # Each caller gets an error of its own: raising one adds the caller's frames to it.
            future.set_exception(copy.copy(error) if len(results) > 1 else error)
