"""Carries a unit of work out in a transaction of the user's, on the user's connection to the ledger's database.

A unit of work is blocking. On an asynchronous connection it therefore runs in a thread of its own, which hands each
statement to the task that asked for it: the statements are executed there, one after the other, as the user's own are.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import cache, partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import attrs

from jetpay_async._core.foreign_transaction import fetch_rows, fetch_rows_in_thread
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger import _version_check
from jetpay_async.ledger._postgres import PostgresConnection
from jetpay_async.ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jetpay_async.ledger._backend import Backend, UnitOfWork

_T = TypeVar("_T")

_Fetch: TypeAlias = "Callable[[str, Mapping[str, Any]], list[Sequence[Any]]]"

# Which server, database and tables these are: two servers start in the same microsecond at no time.
_IDENTITY = """
    SELECT concat_ws(' ', CAST(extract(epoch FROM pg_postmaster_start_time()) * 1000000 AS bigint), (
        SELECT d.oid FROM pg_database d WHERE d.datname = current_database()), (
        SELECT c.oid FROM pg_class c WHERE c.relname = 'jetpay_ledger' AND pg_table_is_visible(c.oid)))"""

# Of the user's transaction. Where it would be lost in a crash of the server with all that it wrote, it is made durable:
# the event will not come again.
_TRANSACTION = """
    SELECT txid_current(), current_setting('transaction_isolation'), CASE current_setting('synchronous_commit')
        WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END"""
_SAME_TRANSACTION = "SELECT txid_current() = CAST(:txid AS bigint)"


class UserTransaction(PostgresConnection):
    """The user's transaction, as a unit of work uses it.

    Args:
        fetch: Executes a statement on the user's connection, and returns its rows.
    """

    def __init__(self, fetch: _Fetch) -> None:
        self._fetch = fetch

    def query(self, statement: str, parameters: Mapping[str, Any]) -> list[Sequence[Any]]:
        """Execute a statement and return its rows."""
        return self._fetch(statement, parameters)

    def change(self, statement: str, parameters: Mapping[str, Any]) -> int:
        """Execute a statement and return how many rows it changed: a session of SQLAlchemy need not know."""
        counted: int = self._fetch(_counting(statement), parameters)[0][0]
        return counted

    def change_later(self, statement: str, parameters: Mapping[str, Any]) -> None:
        """Execute a statement at once, as all others here."""
        self.change(statement, parameters)


@cache
def _counting(statement: str) -> str:
    return f"WITH changed AS ({statement} RETURNING 1) SELECT count(*) FROM changed"  # noqa: S608 - ours alone


class UserTransactions:
    """Carries units of work out in transactions of the user's, if they are in the ledger's database.

    Args:
        backend: The ledger's.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._identity: str | None = None

    async def run(self, connection: object, operation: UnitOfWork[_T], *, method: str) -> _T:
        """Carry a unit of work out on an asynchronous connection.

        Args:
            connection: The user's.
            operation: What to do.
            method: Which method of ours was given the connection, for errors.

        Raises:
            ConfigurationError: The change would not commit together with what the user writes on that connection.
            LedgerError: The ledger's own connection fails, or another release has migrated it.
        """
        worker = _StatementThread[_T](asyncio.get_running_loop())
        worker.start(lambda fetch: self._carry_out(fetch, operation, method))
        try:
            while True:
                message = await worker.next_message()
                if isinstance(message, _Ended):
                    return message.result()
                worker.answer(await fetch_rows(connection, message.text, message.parameters, method=method))
        finally:
            worker.abandon()

    def run_in_thread(self, connection: object, operation: UnitOfWork[_T], *, method: str) -> _T:
        """Carry a unit of work out on a synchronous connection, as `run` does."""
        return self._carry_out(partial(fetch_rows_in_thread, connection, method=method), operation, method)

    def _carry_out(self, fetch: _Fetch, operation: UnitOfWork[_T], method: str) -> _T:
        transaction = UserTransaction(fetch)
        self._check(transaction, method)
        return operation(transaction)

    def _check(self, transaction: UserTransaction, method: str) -> None:
        txid, isolation, _ = transaction.query(_TRANSACTION, {})[0]
        if not transaction.query(_SAME_TRANSACTION, {"txid": txid})[0][0]:
            raise ConfigurationError(
                f"{method}() was given a connection that commits each statement by itself (autocommit): open a "
                "transaction, so that all commits together"
            )
        if not self._is_the_ledgers(transaction.query(_IDENTITY, {})[0][0]):
            raise ConfigurationError(
                f"{method}() was given a connection to another database, or another schema, than the ledger's"
            )
        if isolation != "read committed":
            raise ConfigurationError(
                f"{method}() was given a transaction that is {isolation}, and would decide by what the ledger held "
                "when it began: use READ COMMITTED"
            )
        version = transaction.query(transaction.statements.version, {})[0][0]
        _version_check.check_version(version, self._backend.name)

    def _is_the_ledgers(self, found: str) -> bool:
        if found != self._identity:
            # Not known yet, or the server was started again since.
            self._identity = self._read_identity()
        return found == self._identity

    def _read_identity(self) -> str:
        try:
            with closing(self._backend.connect(create=False)) as connection:
                connection.begin(writes=False)
                identity: str = connection.query(_IDENTITY, {})[0][0]
                return identity
        except Exception as error:
            explanation = self._backend.explain(error)
            if explanation is None:
                raise
            raise LedgerError(explanation) from error


@attrs.frozen
class _Statement:
    """What the unit of work wants to have executed."""

    text: str
    parameters: Mapping[str, Any]


@attrs.frozen
class _Ended(Generic[_T]):
    """How the unit of work ended."""

    value: _T | None = None
    error: BaseException | None = None

    def result(self) -> _T:
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value] # it is one without an error


class _AbandonedError(Exception):
    """The task that the unit of work belongs to waits for it no longer."""


class _StatementThread(Generic[_T]):
    """A thread in which a blocking unit of work runs, whose statements the event loop executes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answers: SimpleQueue[list[Sequence[Any]] | None] = SimpleQueue()
        """None ends the thread."""
        self._messages: asyncio.Queue[_Statement | _Ended[_T]] = asyncio.Queue()

    def start(self, operation: Callable[[_Fetch], _T]) -> None:
        # One for each: waiting in a shared pool, transactions that hold locks could keep each other from ending.
        threading.Thread(target=self._work, args=(operation,), name="jetpay-transaction", daemon=True).start()

    async def next_message(self) -> _Statement | _Ended[_T]:
        return await self._messages.get()

    def answer(self, rows: list[Sequence[Any]]) -> None:
        self._answers.put(rows)

    def abandon(self) -> None:
        """Let the thread end, whatever it waits for."""
        self._answers.put(None)

    # --- in the thread

    def _work(self, operation: Callable[[_Fetch], _T]) -> None:
        try:
            ended = _Ended(operation(self._fetch))
        except _AbandonedError:
            return
        except BaseException as error:  # noqa: BLE001 - it belongs to the task
            ended = _Ended[_T](error=error)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._deliver(ended)

    def _fetch(self, statement: str, parameters: Mapping[str, Any]) -> list[Sequence[Any]]:
        self._deliver(_Statement(statement, parameters))
        rows = self._answers.get()
        if rows is None:
            raise _AbandonedError
        return rows

    def _deliver(self, message: _Statement | _Ended[_T]) -> None:
        self._loop.call_soon_threadsafe(self._messages.put_nowait, message)
