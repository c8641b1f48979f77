"""Find the ids of a list in its text, whatever its form.

======================================  ==============================================================================
``.csv``, ``.tsv``                      CSV: a header with a ``debit_id`` column, or one column and no header; comma,
                                        semicolon or tab
``.jsonl``, ``.ndjson``, ``.json``      JSON lines, or one JSON array: strings, or objects with a ``debit_id``
anything else, a pipe                   what the first line looks like: one of those, or one id per line, where blank
                                        lines and those that begin with ``#`` are skipped
======================================  ==============================================================================

A list whose columns may have shifted is refused: a row must have as many cells as the header.
"""

from __future__ import annotations

import csv
import itertools
import json
from decimal import Decimal
from typing import TYPE_CHECKING, TextIO, TypeAlias, cast

import attrs

from jetpay_async._cli.io.console import encodable
from jetpay_async._cli.io.id_checks import COLUMN, cell_objection, is_comment, normalized_header, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Bad", "Cells", "Found", "ListReader"]


@attrs.frozen
class Bad:
    """A place that holds no debit id, and why."""

    reason: str


Cells: TypeAlias = "dict[str, object] | None"
"""What else a list has on a debit, by column or key; None if there is nothing, or nobody wants it."""

Found: TypeAlias = tuple[int, "str | Bad", Cells]
"""The number of a line or of an item, from 1, and what was found there."""


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
