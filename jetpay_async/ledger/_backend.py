"""What the ledger asks of a backend: one connection, used by one thread, and what carries operations out on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from jetpay_async.ledger._sql import Statements

_T = TypeVar("_T")

Value: TypeAlias = str | int | float | None

UnitOfWork: TypeAlias = "Callable[[Connection], _T]"
"""A part of a transaction. It raises a `LedgerError` before it has changed anything; any other error undoes all."""


class Connection(Protocol):
    """One connection, blocking."""

    statements: Statements

    def begin(self, *, writes: bool) -> None:
        """Open a transaction."""

    def commit(self) -> None:
        """Make it durable: on the disk when this returns."""

    def rollback(self) -> None:
        """Undo the transaction, if there is one."""

    def query(self, statement: str, parameters: Mapping[str, Any]) -> list[Sequence[Any]]:
        """Execute a statement and return its rows."""
        ...

    def change(self, statement: str, parameters: Mapping[str, Any]) -> int:
        """Execute a statement and return how many rows it changed."""
        ...

    def change_later(self, statement: str, parameters: Mapping[str, Any]) -> None:
        """Execute a statement of which nothing is to be known, with the next one or the commit at the latest."""

    def among(self, ids: Sequence[int]) -> object:
        """Return the value for ``:ids``."""
        ...

    def among_texts(self, texts: Sequence[str]) -> object:
        """Return the value for ``:debit_ids``."""
        ...

    def insert_debits(self, rows: Iterable[tuple[int, str]]) -> int:
        """Add debits, each once within its batch, and return how many are new."""
        ...

    def guard_submission(self) -> None:
        """Keep other submissions waiting until the end of the transaction."""

    def lock_transaction(self, transaction_id: str) -> None:
        """Keep others from recording anything about a transaction of the API until the end of this one."""

    def allow_long_statements(self) -> None:
        """Let statements take as long as a submission may, until the end of the transaction."""

    def objects(self) -> frozenset[str]:
        """Name the columns of the tables, and the indexes."""
        ...

    def integrity_problems(self) -> list[str]:
        """Say what is wrong with the database itself."""
        ...

    def back_up(self, path: str | os.PathLike[str]) -> None:
        """Copy the ledger, as it is at this moment, to a new file.

        Raises:
            ConfigurationError: It can't be done.
        """

    def register(self, lease: float) -> int:
        """Make this connection an owner of debits, alive from now on, and return its number."""
        ...

    def renew(self, owner: int, lease: float) -> bool:
        """Record that the owner is alive; return False if the ledger does not name it any more."""
        ...

    def expire_owners(self, owner: int) -> None:
        """Remove the dead owners from the ledger: any owner may then take over what they were sending."""

    def leave(self, owner: int) -> None:
        """Remove this owner from the ledger."""

    def close(self) -> None:
        """Close the connection."""


class Backend(Protocol):
    """A place where a ledger is kept."""

    name: str
    """Its name in errors, without a password."""
    leases: bool
    """Whether an owner that is paused counts as dead after its lease."""
    in_user_transactions: bool
    """Whether a unit of work can be carried out in a transaction of the user's."""

    def connect(self, *, create: bool) -> Connection:
        """Open a connection, in the thread that will use it.

        Raises:
            LedgerError: It can't be used.
        """
        ...

    def explain(self, error: Exception) -> str | None:
        """Say what an error of the backend means and what to do; None if it is not one of the backend's."""
        ...

    def repeatable(self, error: Exception) -> bool:
        """Return whether the transaction collided with another one, and may go through when it is tried again."""
        ...


class CommitExecutor(Protocol):
    """Carries units of work out on one connection, in transactions that several of them may share.

    `GroupCommitExecutor` does so in a thread of its own. A simulation may do so at once, in the event loop.
    """

    async def open(self, *, create: bool) -> None:
        """Connect.

        Args:
            create: Whether to make a ledger if there is none.

        Raises:
            LedgerError: The ledger can't be used.
        """

    async def close(self) -> None:
        """Carry out what was ordered, and disconnect."""

    async def run(self, operation: UnitOfWork[_T], *, writes: bool = True, last: bool = False) -> _T:
        """Carry out a unit of work; it is durable when this returns.

        Args:
            operation: What to do with the connection.
            writes: Whether it may change anything.
            last: Whether it comes after the others that share its transaction, so that all owners take their locks in
                one order.

        Raises:
            LedgerError: The ledger can't be read or written.
        """
        ...


MakeCommitExecutor: TypeAlias = Callable[[Backend], CommitExecutor]
"""Makes what is not open yet."""
