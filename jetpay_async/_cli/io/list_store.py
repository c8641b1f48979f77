"""The rows of a list, in a temporary file that deletes itself: a million take no more memory than ten."""

from __future__ import annotations

import json
import sqlite3
from decimal import Decimal
from typing import TYPE_CHECKING

from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

__all__ = ["ListStore", "read_cells"]


class ListStore:
    """A table of rows; the owner closes it.

    Args:
        table: The statement that creates it.
    """

    def __init__(self, table: str) -> None:
        # A database without a name is on the disk, and gone when it is closed. A batch may be submitted in a thread.
        self._store = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._store.execute("PRAGMA temp_store=FILE")
        self._store.execute("PRAGMA journal_mode=OFF")
        self._store.execute(table)
        self._columns: dict[str, None] = {}
        self.given: int = 0
        """How many rows there were, repeated ones included."""
        self.form: str = ""
        """Where they were found."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    @property
    def columns(self) -> tuple[str, ...]:
        """The list's other columns, or keys, in the order in which they were found."""
        return tuple(self._columns)

    def _insert(self, statement: str, rows: Iterable[tuple[object, ...]], *further: str) -> int:
        """Insert rows, then execute further statements; return how many rows there are now.

        Raises:
            ConfigurationError: The temporary directory is full.
        """
        try:
            self._store.execute("BEGIN")
            inserted = self._store.executemany(statement, rows).rowcount
            for each in further:
                self._store.execute(each)
            self._store.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise ConfigurationError(
                f"the list does not fit into the temporary directory ({error}); set TMPDIR to another one"
            ) from None
        return inserted


def read_cells(row: tuple[str | None] | None) -> dict[str, object]:
    """Return what was kept of a row's other columns; amounts are what was written."""
    if row is None or row[0] is None:
        return {}
    cells: dict[str, object] = json.loads(row[0], parse_float=Decimal)
    return cells
