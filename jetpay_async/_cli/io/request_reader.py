"""Read the preauthorizations of a file or a pipe: all of them are checked before the first one is used.

The forms are those of a list of debits with several columns: CSV with a header, JSON lines, or one JSON array of
objects. A list whose columns may have shifted is refused, by line. The requests wait in a temporary file.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from jetpay_async._cli.io.complaints import Complaints
from jetpay_async._cli.io.console import to_json
from jetpay_async._cli.io.id_checks import is_rounded, normalized_header, quoted, text_objection
from jetpay_async._cli.io.list_files import name_of, open_list, suffix_of
from jetpay_async._cli.io.list_reader import Bad, ListReader
from jetpay_async._cli.io.list_store import ListStore, read_cells
from jetpay_async._core import operations
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.ledger.ledger import check_reference
from jetpay_async.outcomes import PreauthorizationRequest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from jetpay_async._cli.io.list_reader import Cells

__all__ = ["COLUMNS", "Requests", "read_requests"]

REFERENCE = "reference"

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "contact_id": ("contact", "contact_id"),
    "credit_card_id": ("card", "credit_card_id"),
    "amount": ("amount",),
    "to_bank_account_id": ("to_account", "to_bank_account_id"),
    "statement": ("statement",),
}
"""The other columns, by what the API calls them."""


class Requests(ListStore):
    """Preauthorizations in the order in which they were given."""

    def __init__(self) -> None:
        super().__init__("CREATE TABLE request (reference TEXT, place INTEGER, arguments TEXT, cells TEXT)")

    def __iter__(self) -> Iterator[PreauthorizationRequest]:
        for reference, arguments in self._store.execute("SELECT reference, arguments FROM request ORDER BY rowid"):
            yield PreauthorizationRequest(reference=reference, **json.loads(arguments))

    def distinct(self) -> Iterator[PreauthorizationRequest]:
        """Yield each reference once."""
        query = "SELECT reference, arguments FROM request GROUP BY reference"
        for reference, arguments in self._store.execute(query):
            yield PreauthorizationRequest(reference=reference, **json.loads(arguments))

    def cells(self, reference: str) -> dict[str, object]:
        """Return what else the list has on a reference, by column; the first time counts."""
        query = "SELECT cells FROM request WHERE reference = ? ORDER BY rowid LIMIT 1"
        return read_cells(self._store.execute(query, (reference,)).fetchone())

    def add(self, rows: Iterator[tuple[str, int, Mapping[str, str], Mapping[str, object]]]) -> None:
        """Add requests.

        Raises:
            ConfigurationError: The temporary directory is full.
        """
        index = "CREATE INDEX request_reference ON request (reference)"
        self._insert("INSERT INTO request VALUES (?, ?, ?, ?)", self._written(rows), index)

    def _written(
        self, rows: Iterator[tuple[str, int, Mapping[str, str], Mapping[str, object]]]
    ) -> Iterator[tuple[str, int, str, str]]:
        for reference, place, arguments, cells in rows:
            self.given += 1
            self._columns.update(dict.fromkeys(cells))
            yield reference, place, to_json(arguments), to_json(cells)

    def repeated(self) -> Iterator[tuple[int, str, bool]]:
        """Find references that are given again: the place, the reference, and whether the arguments differ."""
        query = """
            SELECT place, reference, arguments <> (
                SELECT arguments FROM request f WHERE f.reference = request.reference ORDER BY f.rowid LIMIT 1)
            FROM request
            WHERE EXISTS (SELECT 1 FROM request f WHERE f.reference = request.reference AND f.rowid < request.rowid)
            ORDER BY place
        """
        for place, reference, differs in self._store.execute(query):
            yield place, reference, bool(differs)

    @property
    def total(self) -> int:
        """How many references there are."""
        total: int = self._store.execute("SELECT COUNT(DISTINCT reference) FROM request").fetchone()[0]
        return total

    @property
    def amount(self) -> Decimal:
        """What they reserve together, each reference counted once."""
        rows = self._store.execute("SELECT arguments FROM request GROUP BY reference")
        return sum((Decimal(json.loads(arguments)["amount"]) for (arguments,) in rows), Decimal())

    @property
    def ends(self) -> tuple[str, str]:
        """The first and the last reference."""
        (first,) = self._store.execute("SELECT reference FROM request ORDER BY rowid LIMIT 1").fetchone()
        (last,) = self._store.execute("SELECT reference FROM request ORDER BY rowid DESC LIMIT 1").fetchone()
        return first, last


@contextmanager
def read_requests(source: str) -> Generator[Requests]:
    """Read and check the preauthorizations of a file.

    Args:
        source: Its name, or ``-`` for stdin.

    Yields:
        The requests; they are there until the context ends.

    Raises:
        ConfigurationError: The file can't be read, holds no request, or a line of it is not valid.
    """
    name = name_of(source)
    with Requests() as requests:
        with open_list(source) as stream:
            reader = ListReader(
                stream,
                suffix_of(source),
                REFERENCE,
                keep_cells=True,
                objection=_reference_objection,
                wanted=list(COLUMNS.values()),
            )
            checked = _CheckedRequests(reader)
            requests.add(checked.rows())
        checked.check(requests)
        if checked.count:
            raise ConfigurationError(f"{name}: {checked}")
        if not requests.given:
            raise ConfigurationError(f"{name} holds no preauthorizations; nothing was sent")
        requests.form = reader.form
        yield requests


class _CheckedRequests(Complaints):
    """The valid rows of a list, and what is wrong with the others."""

    def rows(self) -> Iterator[tuple[str, int, Mapping[str, str], Mapping[str, object]]]:
        """Yield the valid ones: the reference, its place, the arguments, and further cells."""
        for place, reference, cells in self._reader.read():
            if isinstance(reference, Bad):
                self.add(place, reference.reason)
                continue
            try:
                arguments, others = _read(reference, cells)
            except InvalidArgumentError as error:
                self.add(place, error.message)
            else:
                yield reference, place, arguments, others

    def check(self, requests: Requests) -> None:
        """Find what only the whole list shows."""
        for place, reference, differs in requests.repeated():
            if differs:
                self.add(place, f"{quoted(reference)} is given before with other values; a reference is one payment")
            elif is_rounded(reference):
                self.add(
                    place,
                    f"{quoted(reference)} is given twice and ends in zeros after its fifteenth digit, as numbers that "
                    "a spreadsheet rounded; export the column as text",
                )


def _reference_objection(text: str) -> str | None:
    if normalized_header(text) == REFERENCE:
        return f"{quoted(text)} repeats the header; remove the line"
    return text_objection(text)


def _read(reference: str, cells: Cells) -> tuple[Mapping[str, str], Mapping[str, object]]:
    """Return the arguments of a row, and its further cells.

    Raises:
        InvalidArgumentError: It can't be sent.
    """
    others: dict[str, object] = dict(cells or {})
    arguments: dict[str, Any] = {}
    for name, spellings in COLUMNS.items():
        wanted = {normalized_header(spelling) for spelling in spellings}
        # There is one: the reader has seen to it.
        key = next(key for key in others if normalized_header(key) in wanted)
        arguments[name] = _value(spellings[0], others.pop(key))
    check_reference(reference)
    return operations.preauthorize(**arguments).arguments, others


def _value(column: str, value: object) -> object:
    if column == "amount" and isinstance(value, int | Decimal) and not isinstance(value, bool):
        return value  # of JSON, and exact
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{column}: is not a text", field=column)
    if not value:
        raise InvalidArgumentError(f"has no {column}", field=column)
    objection = None if column == "amount" else text_objection(value)
    if objection is not None:
        raise InvalidArgumentError(f"{column}: {objection}", field=column)
    return value
