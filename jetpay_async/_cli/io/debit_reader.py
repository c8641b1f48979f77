"""Read the debit ids of a file or a pipe: all of them are checked before the first one is used.

======================================  ==============================================================================
``.csv``, ``.tsv``                      CSV: a header with a ``debit_id`` column, or one column and no header; comma,
                                        semicolon or tab
``.jsonl``, ``.ndjson``, ``.json``      JSON lines, or one JSON array: strings, or objects with a ``debit_id``
anything else, a pipe                   what the first line looks like: one of those, or one id per line, where blank
                                        lines and those that begin with ``#`` are skipped
======================================  ==============================================================================

A list whose columns may have shifted is refused: a row must have as many cells as the header. A million ids take no
more memory than ten: they wait in a temporary file.
"""

from __future__ import annotations

import csv
import itertools
import json
import sqlite3
import unicodedata
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, TextIO, TypeAlias, cast

import attrs

from jetpay_async._cli.io.console import encodable, to_json
from jetpay_async._cli.io.id_checks import (
    COLUMN,
    cell_objection,
    id_objection,
    is_comment,
    is_rounded,
    is_usual_uuid,
    normalized_header,
    quoted,
)
from jetpay_async._cli.io.list_files import STDIN, name_of, open_list, suffix_of
from jetpay_async._text import canonical_id
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["STDIN", "Bad", "Cells", "Debits", "Found", "ListReader", "read_debits"]


@attrs.frozen
class Bad:
    """A place that holds no debit id, and why."""

    reason: str


Cells: TypeAlias = "dict[str, object] | None"
"""What else a list has on a debit, by column or key; None if there is nothing, or nobody wants it."""

Found: TypeAlias = tuple[int, "str | Bad", Cells]
"""The number of a line or of an item, from 1, and what was found there."""


class Debits:
    """Debit ids, each once, in the order in which they were given; in a temporary file that deletes itself."""

    def __init__(self) -> None:
        # A database without a name is on the disk, and gone when it is closed. A batch may be submitted in a thread.
        self._store = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._store.execute("PRAGMA temp_store=FILE")
        self._store.execute("PRAGMA journal_mode=OFF")
        self._store.execute("CREATE TABLE debit (id TEXT NOT NULL UNIQUE, place INTEGER NOT NULL, cells TEXT)")
        self.given = 0
        """How many ids there were, repeated ones included."""
        self.total = 0
        """How many debits they name."""
        self.form = ""
        """Where the ids were found."""
        self._columns: dict[str, None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

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

    @property
    def columns(self) -> tuple[str, ...]:
        """The list's other columns, or keys, in the order in which they were found."""
        return tuple(self._columns)

    def cells(self, debit_id: str) -> dict[str, object]:
        """Return what the list has on a debit, by column; of one that is given twice, the first time counts."""
        row = self._store.execute("SELECT cells FROM debit WHERE id = ?", (debit_id,)).fetchone()
        if row is None or row[0] is None:
            return {}
        cells: dict[str, object] = json.loads(row[0], parse_float=Decimal)
        return cells

    def add(self, found: Iterable[tuple[int, str, Cells]]) -> None:
        """Add ids, each with the number of its place and what else is known of it.

        Raises:
            ConfigurationError: The temporary directory is full.
        """
        self._store.execute("BEGIN")
        try:
            added = self._store.executemany(
                "INSERT OR IGNORE INTO debit VALUES (?, ?, ?)", self._counted(found)
            ).rowcount
            self._store.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise ConfigurationError(
                f"the list of debits does not fit into the temporary directory ({error}); set TMPDIR to another one"
            ) from None
        self.total += added

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
            complaints = _Complaints(reader)
            debits.add(complaints.accepted())
        complaints.check(debits)
        if complaints.count:
            raise ConfigurationError(f"{name}: {complaints}")
        if not debits.total:
            raise ConfigurationError(f"{name} holds no debit ids; nothing was sent")
        debits.form = reader.form
        yield debits


_MAX_COMPLAINTS = 10
_MAX_COLUMNS = 1000


class _Complaints:
    """What is wrong with a list: the first few places, and how many there are."""

    def __init__(self, reader: ListReader) -> None:
        self._reader = reader
        self.count = 0
        self._first: list[str] = []
        self._spellings = False
        self._rounded: set[str] = set()

    def accepted(self) -> Iterator[tuple[int, str, Cells]]:
        """Yield the ids that are valid, each with the number of its place and what else is known of it."""
        for place, value, cells in self._reader.read():
            if isinstance(value, Bad):
                self._add(place, value.reason)
            elif (reason := id_objection(value) or self._collapsed(value)) is not None:
                self._add(place, reason)
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
                self._add(
                    place,
                    f"{quoted(debit_id)} is given in another spelling too (upper and lower case, hyphens or accents); "
                    "keep one",
                )

    def _add(self, place: int, reason: str) -> None:
        self.count += 1
        if self.count <= _MAX_COMPLAINTS:
            self._first.append(f"  {self._reader.unit} {place}: {reason}")

    def __str__(self) -> str:
        more = [f"  and {self.count - _MAX_COMPLAINTS:,} more"] if self.count > _MAX_COMPLAINTS else []
        unit = self._reader.unit
        places = (
            f"{'an' if unit == 'item' else 'a'} {unit} is not valid"
            if self.count == 1
            else f"{self.count:,} {unit}s are not valid"
        )
        return "\n".join((f"{places}; nothing was sent", *self._first, *more))


_UUID_DIGITS = 32
_MAX_LINE = 1 << 20
_MAX_ARRAY = 64 << 20
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_CSV_SUFFIXES = frozenset({".csv", ".tsv"})
_JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
_OTHER_HEADERS = frozenset({"id", "debit", "debits", "identifier", "transactionid", "transaction", "uuid"})


class ListReader:
    """Finds the ids in a text, by its form.

    Args:
        stream: The text.
        suffix: Of the file's name.
        column: The CSV column, or the key of JSON objects, that holds the ids; ``debit_id`` if None.
        keep_cells: Whether to keep the other columns, too.
        objection: Says why a cell can't be an id.
        wanted: The spellings of each other column that there must be once.
    """

    def __init__(
        self,
        stream: TextIO,
        suffix: str,
        column: str | None,
        *,
        keep_cells: bool,
        objection: Callable[[str], str | None] = cell_objection,
        wanted: Sequence[Sequence[str]] = (),
    ) -> None:
        self._stream = stream
        self._suffix = suffix
        self._column = column
        self._keep_cells = keep_cells
        self._objection = objection
        self._wanted = wanted
        self.unit = "line"
        self.form = ""

    def read(self) -> Iterator[Found]:
        """Yield each place that should hold an id."""
        lines = self._lines()
        skipped, first = 0, ""
        for line in lines:
            if (text := line.strip(" \t\n")) and not is_comment(text):
                first = line
                break
            skipped += 1
        # Every form passes over blank lines, and the numbers of the others stay right.
        everything = itertools.chain(itertools.repeat("\n", skipped), [first], lines)
        header = normalized_header(first.strip(' \t\n"'))
        if first.lstrip().startswith("["):
            yield from self._read_array(first)
        elif self._suffix in _JSON_SUFFIXES or (self._suffix not in _CSV_SUFFIXES and _looks_like_json(first)):
            yield from self._read_json(everything)
        elif self._column is None and header in _OTHER_HEADERS:
            cell = first.strip(' \t\n"')
            yield (
                skipped + 1,
                Bad(f"{quoted(cell)} looks like a header; add --column {cell}, or leave the header out"),
                None,
            )
        elif self._suffix in _CSV_SUFFIXES or self._column is not None or _looks_like_csv(first):
            yield from self._read_csv(everything, first, skipped)
        else:
            yield from self._read_plain(everything)

    def _lines(self) -> Iterator[str]:
        """Read line by line; a line that is too long is cut, and then is no id."""
        line = self._stream.readline(_MAX_LINE)
        while line:
            yield line
            while line and not line.endswith("\n"):
                line = self._stream.readline(_MAX_LINE)
            line = self._stream.readline(_MAX_LINE)

    def _read_plain(self, lines: Iterable[str]) -> Iterator[Found]:
        self.form = "one id per line"
        for number, line in enumerate(lines, 1):
            text = line.strip(" \t\n")
            if text and not is_comment(text):
                yield number, self._checked(text), None

    # --- JSON ---------------------------------------------------------------------------------------------------------

    def _read_json(self, lines: Iterable[str]) -> Iterator[Found]:
        self.form = f"JSON lines, {self._column or COLUMN}"
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    document = _parse(line)
                except (ValueError, RecursionError) as error:
                    yield number, Bad(f"not JSON: {error}"), None
                else:
                    yield number, self._of_document(document), self._cells_of(document)

    def _read_array(self, first: str) -> Iterator[Found]:
        self.form = f"a JSON array, {self._column or COLUMN}"
        text = first + self._stream.read(_MAX_ARRAY)
        if len(text) >= _MAX_ARRAY:
            yield 1, Bad("begins a JSON array that is too large; write one item per line: jq -c '.[]'"), None
            return
        try:
            items = cast("list[object]", _parse(text))
        except (ValueError, RecursionError) as error:
            yield 1, Bad(f"begins a JSON array that can't be read: {error}"), None
            return
        self.unit = "item"
        for number, item in enumerate(items, 1):
            yield number, self._of_document(item), self._cells_of(item)

    def _cells_of(self, document: object) -> Cells:
        if not self._keep_cells or not isinstance(document, _JsonObject):
            return None
        wanted = normalized_header(self._column or COLUMN)
        others = {encodable(key): _plain(value) for key, value in document.pairs if normalized_header(key) != wanted}
        return others or None

    def _of_document(self, document: object) -> str | Bad:
        if isinstance(document, str) and not self._wanted:
            return document
        if not isinstance(document, _JsonObject):
            kinds = "no JSON object" if self._wanted else "neither a JSON string nor an object"
            return Bad(f"is {kinds} with a {self._column or COLUMN}")
        wanted = normalized_header(self._column or COLUMN)
        values = [value for key, value in document.pairs if normalized_header(key) == wanted]
        if len(values) > 1:
            return Bad(f"has {len(values)} keys that mean {self._column or COLUMN}; keep one")
        if (reason := self._missing([key for key, _ in document.pairs], "key")) is not None:
            return Bad(reason)
        if values and isinstance(values[0], str):
            return values[0]
        return Bad(f"has no {self._column or COLUMN} that is a string")

    # --- CSV ----------------------------------------------------------------------------------------------------------

    def _read_csv(self, lines: Iterable[str], first: str, skipped: int) -> Iterator[Found]:
        numbered = iter(lines)
        delimiter = _declared_delimiter(first)
        if delimiter is not None:  # Excel's `sep=;`
            numbered = itertools.chain(
                itertools.repeat("\n", skipped + 1), itertools.islice(numbered, skipped + 1, None)
            )
        else:
            delimiter = self._delimiter(first)
        # Strict: a quote that is never closed would silently take in the rest of the file.
        rows = csv.reader(numbered, delimiter=delimiter, strict=True)
        width, column = 0, -1
        header: list[str] = []
        while True:
            number = rows.line_num + 1
            try:
                cells = [cell.strip(" \t\n") for cell in next(rows)]
            except StopIteration:
                return
            except csv.Error as error:
                yield number, Bad(str(error)), None
                continue
            if not any(cells):
                continue
            if not width:
                width = len(cells)
                column, reason = self._find_column(cells)
                if reason is not None:
                    yield number, Bad(reason), None
                    return  # the others would all be wrong
                shown = f", {_DELIMITERS.get(delimiter, delimiter)}-separated" if width > 1 else ""
                self.form = f"CSV, column {column + 1} of {width}{shown}"
                if self._is_header(cells[column]):
                    self.form += f", headed {cells[column]!r}"
                    header = _column_names(cells) if self._keep_cells else []
                    continue
            others: dict[str, object] = {
                name: encodable(cell)
                for place, (name, cell) in enumerate(zip(header, cells, strict=False))
                if place != column
            }
            yield number, self._of_row(cells, column, width), others or None

    def _delimiter(self, first: str) -> str:
        """Choose the delimiter by which the first line has the column, or else the first one that is in it."""
        for delimiter in _DELIMITERS:
            # Not strict: this never fails, and the same line is read strictly afterwards.
            if any(map(self._is_header, next(csv.reader([first], delimiter=delimiter)))):
                return delimiter
        return next((delimiter for delimiter in _DELIMITERS if delimiter in first), ",")

    def _find_column(self, cells: list[str]) -> tuple[int, str | None]:
        """Find the column of the ids, by the first row; or return why there is none."""
        found = [number for number, cell in enumerate(cells) if self._is_header(cell)]
        wanted = self._column or COLUMN
        if len(found) == 1:
            return found[0], self._missing(cells, "column")
        if found:
            return 0, f"has {len(found)} columns that are called {wanted}; remove or rename all but one"
        if self._column is not None:
            return 0, f"has no column {wanted!r}; it has {', '.join(map(quoted, cells[:20]))}"
        if len(cells) > 1:
            return 0, f"has several columns, and no header names {wanted}; add --column NAME"
        return 0, None

    def _missing(self, names: Sequence[str], what: str) -> str | None:
        """Say which other column is not there, or is there twice."""
        found = [normalized_header(name) for name in names]
        for spellings in self._wanted:
            count = sum(found.count(normalized_header(spelling)) for spelling in spellings)
            if count != 1:
                how_many = "no" if not count else str(count)
                return f"has {how_many} {what}{'' if count < 2 else 's'} for {spellings[0]}; there must be one"
        return None

    def _of_row(self, cells: list[str], column: int, width: int) -> str | Bad:
        if len(cells) != width:
            return Bad(
                f"has {len(cells)} cells where the first line has {width}; "
                "a cell with a comma needs quotes, or columns are shifted"
            )
        if not cells[column]:
            return Bad(f"has no {self._column or COLUMN}")
        return self._checked(cells[column])

    def _checked(self, text: str) -> str | Bad:
        reason = self._objection(text)
        return text if reason is None else Bad(reason)

    def _is_header(self, cell: str) -> bool:
        return normalized_header(cell) == normalized_header(self._column or COLUMN)


@attrs.frozen
class _JsonObject:
    """An object as it was written: a repeated key shows."""

    pairs: list[tuple[str, object]]


def _parse(text: str) -> object:
    # Exact: what is kept of an amount is what was written.
    return json.loads(text, object_pairs_hook=_JsonObject, parse_float=Decimal)


def _plain(value: object) -> object:
    """Return a value as builtins: of a repeated key the last value counts, as usual."""
    if isinstance(value, _JsonObject):
        return {encodable(key): _plain(each) for key, each in value.pairs}
    if isinstance(value, list):
        return [_plain(each) for each in cast("list[object]", value)]
    return encodable(value) if isinstance(value, str) else value


def _may_be_spelled_otherwise(debit_id: str) -> bool:
    """Say whether one of two spellings looks like this; lists of UUIDs as the API writes them need no second look."""
    return not is_usual_uuid(debit_id) and (_canonical(debit_id) != debit_id or len(debit_id) == _UUID_DIGITS)


def _canonical(debit_id: str) -> str:
    return canonical_id(debit_id if debit_id.isascii() else unicodedata.normalize("NFKC", debit_id))


def _column_names(header: list[str]) -> list[str]:
    """Name each column: a name that is empty, or is there twice, gets a number."""
    names: list[str] = []
    for number, cell in enumerate(header, 1):
        name = encodable(cell) or f"column_{number}"
        names.append(f"{name}_{number}" if name in names else name)
    return names


def _looks_like_json(first: str) -> bool:
    if first.lstrip().startswith("{"):
        return True
    try:
        return isinstance(_parse(first), str)
    except (ValueError, RecursionError):
        return False


def _looks_like_csv(first: str) -> bool:
    return (
        any(delimiter in first.strip() for delimiter in _DELIMITERS)
        or normalized_header(first.strip(' \t\n"')) == normalized_header(COLUMN)
        or _declared_delimiter(first) is not None
    )


def _declared_delimiter(first: str) -> str | None:
    text = first.strip(' \n"')
    return text[4:] if text.lower().startswith("sep=") and text[4:] in _DELIMITERS else None
