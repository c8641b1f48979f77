"""Read the debit ids of a file or a pipe: all of them are checked before the first one is used."""

from __future__ import annotations

import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jetpay_async._cli.io.complaints import Complaints
from jetpay_async._cli.io.console import to_json
from jetpay_async._cli.io.id_checks import id_objection, is_rounded, is_usual_uuid, quoted
from jetpay_async._cli.io.list_files import name_of, open_list, suffix_of
from jetpay_async._cli.io.list_reader import Bad, ListReader
from jetpay_async._cli.io.list_store import ListStore, read_cells
from jetpay_async._text import canonical_id
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from jetpay_async._cli.io.list_reader import Cells

__all__ = ["Debits", "read_debits"]


class Debits(ListStore):
    """Debit ids, each once, in the order in which they were given."""

    def __init__(self) -> None:
        super().__init__("CREATE TABLE debit (id TEXT NOT NULL UNIQUE, place INTEGER NOT NULL, cells TEXT)")
        self.total = 0
        """How many debits they name."""

    def __iter__(self) -> Iterator[str]:
        for (debit_id,) in self._store.execute("SELECT id FROM debit ORDER BY rowid"):
            yield debit_id

    def __contains__(self, debit_id: str) -> bool:
        return self._store.execute("SELECT 1 FROM debit WHERE id = ?", (debit_id,)).fetchone() is not None

    @property
    def duplicates(self) -> int:
        """How often a debit was given again."""
        return self.given - self.total

    @property
    def ends(self) -> tuple[str, str]:
        """The first and the last id."""
        (first,) = self._store.execute("SELECT id FROM debit ORDER BY rowid LIMIT 1").fetchone()
        (last,) = self._store.execute("SELECT id FROM debit ORDER BY rowid DESC LIMIT 1").fetchone()
        return first, last

    def cells(self, debit_id: str) -> dict[str, object]:
        """Return what the list has on a debit, by column; of one that is given twice, the first time counts."""
        return read_cells(self._store.execute("SELECT cells FROM debit WHERE id = ?", (debit_id,)).fetchone())

    def add(self, found: Iterable[tuple[int, str, Cells]]) -> None:
        """Add ids, each with the number of its place and what else is known of it.

        Raises:
            ConfigurationError: The temporary directory is full.
        """
        self.total += self._insert("INSERT OR IGNORE INTO debit VALUES (?, ?, ?)", self._counted(found))

    def _counted(self, found: Iterable[tuple[int, str, Cells]]) -> Iterator[tuple[str, int, str | None]]:
        for place, debit_id, cells in found:
            self.given += 1
            if cells is None:
                yield debit_id, place, None
                continue
            self._columns.update(dict.fromkeys(cells))
            if len(self._columns) > _MAX_COLUMNS:
                raise ConfigurationError(
                    f"the list has more than {_MAX_COLUMNS:,} columns or keys, too many for --out to keep; "
                    "nothing was sent"
                )
            yield debit_id, place, to_json(cells)

    def spelled_twice(self) -> Iterator[tuple[int, str]]:
        """Find ids that differ only in their spelling: the API may take them for one debit."""
        self._store.create_function("canonical", 1, _canonical, deterministic=True)
        query = """
            SELECT place, id FROM debit JOIN (
                SELECT canonical(id) AS folded, min(rowid) AS first FROM debit GROUP BY 1 HAVING count(*) > 1
            ) ON canonical(id) = folded AND debit.rowid > first ORDER BY place
        """
        yield from self._store.execute(query)


@contextmanager
def read_debits(source: str, *, column: str | None = None, keep_cells: bool = False) -> Generator[Debits]:
    """Read and check the ids of a file.

    Args:
        source: Its name, or ``-`` for stdin.
        column: The CSV column, or the key of JSON objects, that holds the ids; ``debit_id`` if None.
        keep_cells: Whether to keep the other columns, too.

    Yields:
        The ids; they are there until the context ends.

    Raises:
        ConfigurationError: The file can't be read, holds no debit, or a line of it is not valid.
    """
    name = name_of(source)
    with Debits() as debits:
        with open_list(source) as stream:
            reader = ListReader(stream, suffix_of(source), column, keep_cells=keep_cells)
            checked = _CheckedDebits(reader)
            debits.add(checked.rows())
        checked.check(debits)
        if checked.count:
            raise ConfigurationError(f"{name}: {checked}")
        if not debits.total:
            raise ConfigurationError(f"{name} holds no debit ids; nothing was sent")
        debits.form = reader.form
        yield debits


_MAX_COLUMNS = 1000


class _CheckedDebits(Complaints):
    """The valid ids of a list, and what is wrong with the others."""

    def __init__(self, reader: ListReader) -> None:
        super().__init__(reader)
        self._spellings = False
        self._rounded: set[str] = set()

    def rows(self) -> Iterator[tuple[int, str, Cells]]:
        """Yield the ids that are valid, each with the number of its place and what else is known of it."""
        for place, value, cells in self._reader.read():
            if isinstance(value, Bad):
                self.add(place, value.reason)
            elif (reason := id_objection(value) or self._collapsed(value)) is not None:
                self.add(place, reason)
            else:
                self._spellings = self._spellings or _may_be_spelled_otherwise(value)
                yield place, value, cells

    def _collapsed(self, debit_id: str) -> str | None:
        """Say so if an id was rounded and is given again: two debits may have become one."""
        if not is_rounded(debit_id):
            return None
        if debit_id in self._rounded:
            return (
                f"{quoted(debit_id)} is given twice and ends in zeros after its fifteenth digit, as numbers that a "
                "spreadsheet rounded; export the column as text"
            )
        self._rounded.add(debit_id)
        return None

    def check(self, debits: Debits) -> None:
        """Find what only the whole list shows."""
        if self._spellings:
            for place, debit_id in debits.spelled_twice():
                self.add(
                    place,
                    f"{quoted(debit_id)} is given in another spelling too (upper and lower case, hyphens or accents); "
                    "keep one",
                )


_UUID_DIGITS = 32


def _may_be_spelled_otherwise(debit_id: str) -> bool:
    """Say whether one of two spellings looks like this; lists of UUIDs as the API writes them need no second look."""
    return not is_usual_uuid(debit_id) and (_canonical(debit_id) != debit_id or len(debit_id) == _UUID_DIGITS)


def _canonical(debit_id: str) -> str:
    return canonical_id(debit_id if debit_id.isascii() else unicodedata.normalize("NFKC", debit_id))
