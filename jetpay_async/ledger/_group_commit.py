"""One thread that owns the connection, and commits whatever has queued up as one transaction.

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

from jetpay_async.ledger._backend import UnitOfWork
from jetpay_async.ledger.errors import LedgerError

if TYPE_CHECKING:
    from jetpay_async.ledger._backend import Backend, Connection

_T = TypeVar("_T")


@attrs.frozen(eq=False)
class _QueuedWork(Generic[_T]):
    operation: UnitOfWork[_T]
    future: asyncio.Future[_T]
    writes: bool
    last: bool


# Times that a transaction is tried which others are in the way of; each try, one of them gets through.
_TRIES = 20


class GroupCommitExecutor:
    """Takes operations from the event loop and carries them out, in order, in its thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._queued: SimpleQueue[_QueuedWork[Any] | None] = SimpleQueue()
        """None is the end."""
        self._closing = False
        self._ending = False
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._thread: threading.Thread | None = None
        self.commits = 0
        """Transactions that wrote something."""

    def another(self) -> GroupCommitExecutor:
        """Make another commits at the same ledger."""
        return GroupCommitExecutor(self._backend)

    async def open(self, *, create: bool) -> None:
        """Connect.

        Raises:
            LedgerError: The ledger can't be used.
        """
        # A daemon: a program that forgets to close must still be able to end; a commit is whole or not at all.
        self._thread = threading.Thread(target=self._serve, args=(create,), name="jetpay-ledger", daemon=True)
        self._thread.start()
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            self._queued.put(None)
            raise

    async def run(self, operation: UnitOfWork[_T], *, writes: bool = True, last: bool = False) -> _T:
        """Carry out an operation; it is durable when this returns.

        Args:
            operation: What to do with the connection, in the thread.
            writes: Whether it may change anything.
            last: Whether it comes after the others that share its transaction, so that all owners take their locks in
                one order.

        Raises:
            LedgerError: The ledger can't be read or written.
        """
        if self._closing or self._closed.done():
            raise LedgerError(f"the ledger {self._backend.name} is closed; open it again")
        future: asyncio.Future[_T] = self._loop.create_future()
        self._queued.put(_QueuedWork(operation, future, writes, last))
        return await future

    async def close(self) -> None:
        """Carry out what was ordered, and disconnect. Whatever is ordered from now on is refused."""
        self._closing = True
        self._queued.put(None)
        await asyncio.shield(self._closed)

    def _serve(self, create: bool) -> None:  # noqa: FBT001 - a thread's target
        try:
            connection = self._backend.connect(create=create)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever opens
            self._deliver([(self._opened, None, self._translate(error)), (self._closed, None, None)])
            return
        self._deliver([(self._opened, None, None)])
        while queued := self._gather():
            self._deliver(self._transact(connection, queued))
        with contextlib.suppress(Exception):  # what was committed is safe
            connection.close()
        self._deliver([(self._closed, None, None)])

    def _gather(self) -> list[_QueuedWork[Any]]:
        """Wait for an order, and take with it all that can share its transaction; nothing at the end."""
        queued: list[_QueuedWork[Any]] = []
        while not self._ending and not (queued and self._queued.empty()):
            order = self._queued.get()
            if order is None:
                self._ending = True
            else:
                queued.append(order)
        return sorted(queued, key=attrgetter("last"))

    def _transact(self, connection: Connection, queued: list[_QueuedWork[Any]]) -> list[_Result]:
        tries = 0
        while True:
            tries += 1
            try:
                return self._try(connection, queued)
            except Exception as error:  # noqa: BLE001 - it belongs to those who ordered
                with contextlib.suppress(Exception):  # a lost connection can't roll back, and need not
                    connection.rollback()
                if tries < _TRIES and self._backend.repeatable(error):
                    continue
                failure = self._translate(error)
                return [(order.future, None, failure) for order in queued]

    def _try(self, connection: Connection, queued: list[_QueuedWork[Any]]) -> list[_Result]:
        writes = any(order.writes for order in queued)
        connection.begin(writes=writes)
        results = [self._carry_out(connection, order) for order in queued]
        connection.commit()
        self.commits += writes
        return results

    def _carry_out(self, connection: Connection, order: _QueuedWork[Any]) -> _Result:
        try:
            return order.future, order.operation(connection), None
        except LedgerError as error:
            # It has changed nothing, so that what the others did stands.
            return order.future, None, error

    def _translate(self, error: Exception) -> Exception:
        said = self._backend.explain(error)
        if said is None:
            return error
        failure = LedgerError(said)
        failure.__cause__ = error
        return failure

    def _deliver(self, results: list[_Result]) -> None:
        # The loop may have been closed under a program that forgot to close the ledger.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_certain_after, results)


_Result: TypeAlias = tuple["asyncio.Future[Any]", object, Exception | None]


def _certain_after(results: list[_Result]) -> None:
    for future, value, error in results:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(copy.copy(error) if len(results) > 1 else error)
