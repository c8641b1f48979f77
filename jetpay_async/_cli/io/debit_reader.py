"""Read the debit ids of a file or a pipe: all of them are checked before the first one is used.

======================================  ==============================================================================
``.csv``, ``.tsv``                      CSV: a header with a ``debit_id`` column, or one column and no header; comma,
                                        semicolon or tab
``.jsonl``, ``.ndjson``, ``.json``      JSON lines: strings, or objects with a ``debit_id``
anything else, a pipe                   what the first line looks like: one of those, or one id a line, where blank
                                        lines and those that begin with ``#`` are skipped
======================================  ==============================================================================

UTF-8, with or without a byte order mark. A million ids take no more memory than ten: they wait in a temporary file.
"""

from __future__ import annotations

import csv
import itertools
import re
import sqlite3
import sys
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import attrs

from jetpay_async._core import json, operations
from jetpay_async.errors import ConfigurationError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from types import TracebackType
    from typing import Self

__all__ = ["STDIN", "Debits", "read_debits"]

STDIN = "-"
"""Instead of a file's name."""

COLUMN = "debit_id"
"""Of a CSV, and of a JSON object."""


@attrs.frozen
class _Bad:
    """A line that holds no debit id, and why."""

    reason: str


_Found: TypeAlias = tuple[int, "str | _Bad"]
"""A line's number, from 1, and what was found on it."""


class Debits:
    """Debit ids, each once, in the order in which they were given; in a temporary file that deletes itself."""

    def __init__(self) -> None:
        # A database without a name is on the disk, and gone when it is closed. Whoever submits may do it in a thread.
        self._store = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._store.execute("PRAGMA temp_store=FILE")
        self._store.execute("PRAGMA journal_mode=OFF")
        self._store.execute("CREATE TABLE debit (id TEXT NOT NULL UNIQUE)")
        self.given = 0
        """How many ids there were, repeated ones included."""
        self.total = 0
        """How many debits they name."""

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

    def add(self, debit_ids: Iterable[str]) -> None:
        """Add ids.

        Raises:
            ConfigurationError: The temporary directory is full.
        """
        self._store.execute("BEGIN")
        try:
            added = self._store.executemany("INSERT OR IGNORE INTO debit VALUES (?)", self._counted(debit_ids)).rowcount
            self._store.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise ConfigurationError(
                f"the list of debits does not fit into the temporary directory ({error}); set TMPDIR to another one"
            ) from None
        self.total += added

    def _counted(self, debit_ids: Iterable[str]) -> Iterator[tuple[str]]:
        for debit_id in debit_ids:
            self.given += 1
            yield (debit_id,)


@contextmanager
def read_debits(source: str) -> Generator[Debits]:
    """Read and check the ids of a file.

    Args:
        source: Its name, or ``-`` for stdin.

    Yields:
        The ids; they are there until the context ends.

    Raises:
        ConfigurationError: The file can't be read, holds no debit, or a line of it is not right.
    """
    name = "stdin" if source == STDIN else source
    with Debits() as debits:
        complaints = _Complaints()
        try:
            with _open(source) as stream:
                debits.add(complaints.sift(_read(stream, PurePath(source).suffix.lower())))
        except OSError as error:
            raise ConfigurationError(f"can't read {name}: {error.strerror}") from None
        if complaints.count:
            raise ConfigurationError(f"{name}: {complaints}")
        if not debits.total:
            raise ConfigurationError(f"{name} holds no debit ids; nothing was sent")
        yield debits


_SHOWN = 10


class _Complaints:
    """What is wrong with a file: the first few lines of it, and how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def sift(self, found: Iterable[_Found]) -> Iterator[str]:
        """Let the good ids through."""
        for line, value in found:
            reason = value.reason if isinstance(value, _Bad) else _objection(value)
            if reason is None and isinstance(value, str):
                yield value
                continue
            self.count += 1
            if self.count <= _SHOWN:
                self._first.append(f"  line {line}: {reason}")

    def __str__(self) -> str:
        more = [f"  and {self.count - _SHOWN:,} more"] if self.count > _SHOWN else []
        lines = "a line is not right" if self.count == 1 else f"{self.count:,} lines are not right"
        return "\n".join((f"{lines}; nothing was sent", *self._first, *more))


def _objection(debit_id: str) -> str | None:
    try:
        operations.read_debit_id(debit_id)
    except InvalidArgumentError as error:
        return error.message.removeprefix(f"{error.field}: ")
    return None


@contextmanager
def _open(source: str) -> Generator[BinaryIO]:
    if source == STDIN:
        if sys.stdin.isatty():
            sys.stderr.write("jetpay: type or paste debit ids, one a line; Ctrl-D ends them\n")
        yield sys.stdin.buffer
        return
    with Path(source).open("rb") as stream:
        yield stream


_LONGEST = 1 << 20
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = ",;\t"
_CSV = frozenset({".csv", ".tsv"})
_JSON = frozenset({".jsonl", ".ndjson", ".json"})
_OTHER_HEADERS = frozenset({"id", "debit", "debits", "debitid", "debit id", "identifier", "transaction_id"})


def _read(stream: BinaryIO, suffix: str) -> Iterator[_Found]:
    """Find the ids in a file, by its form."""
    lines = _lines(stream)
    skipped, first = 0, b""
    for line in lines:
        if line.strip() and not line.lstrip().startswith(b"#"):
            first = line
            break
        skipped += 1
    # Every form passes over blank lines, and the numbers of the others stay right.
    everything = itertools.chain(itertools.repeat(b"\n", skipped), [first], lines)
    if first.startswith(_UTF_16):
        yield skipped + 1, _Bad("is UTF-16; save the file as UTF-8")
    elif suffix in _JSON or (suffix not in _CSV and _looks_like_json(first)):
        yield from _read_json(everything)
    elif (header := _name(_text(first))) in _OTHER_HEADERS:
        yield skipped + 1, _Bad(f"{header!r} looks like a header; call the column {COLUMN}, or leave the header out")
    elif suffix in _CSV or _looks_like_csv(_text(first)):
        yield from _read_csv(everything, _text(first))
    else:
        yield from _read_plain(everything)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Read line by line; of a file that has no lines, one piece, which is no id."""
    line = stream.readline(_LONGEST).removeprefix(_BOM)
    while line:
        yield line
        while line and not line.endswith(b"\n"):
            line = stream.readline(_LONGEST)
        line = stream.readline(_LONGEST)


def _text(line: bytes) -> str:
    # What is not UTF-8 does no harm in another column; in an id it is rejected with whatever else no id has.
    return line.decode("utf-8", "surrogateescape")


def _name(header: str) -> str:
    return header.strip(' \t\r\n"').casefold()


def _looks_like_json(first: bytes) -> bool:
    if first.lstrip().startswith((b"{", b"[")):
        return True
    try:
        return isinstance(json.parse(first), str)
    except ValueError:
        return False


def _looks_like_csv(first: str) -> bool:
    return any(delimiter in first for delimiter in _DELIMITERS) or _name(first) == COLUMN


def _read_json(lines: Iterable[bytes]) -> Iterator[_Found]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            document = json.parse(line)
        except ValueError as error:
            yield number, _Bad(str(error))
            continue
        value = document.get(COLUMN) if isinstance(document, dict) else document
        if isinstance(value, str):
            yield number, value
        elif isinstance(document, dict):
            yield number, _Bad(f"has no {COLUMN} that is a string")
        else:
            yield number, _Bad(f"is neither a JSON string nor an object with a {COLUMN}")


def _read_plain(lines: Iterable[bytes]) -> Iterator[_Found]:
    for number, line in enumerate(lines, 1):
        text = _text(line).strip()
        if text and not text.startswith("#"):
            yield number, _word(text)


def _read_csv(lines: Iterable[bytes], first: str) -> Iterator[_Found]:
    delimiter, named = _layout(first)
    column = named or 0
    # Strict: a quote that is never closed would silently take in the rest of the file.
    rows = csv.reader(map(_text, lines), delimiter=delimiter, strict=True)
    headed = named is not None
    while True:
        number = rows.line_num + 1
        try:
            cells = [cell.strip() for cell in next(rows)]
        except StopIteration:
            return
        except csv.Error as error:
            yield number, _Bad(str(error))
            continue
        if not any(cells):
            continue
        if headed:
            headed = False
        elif named is None and len(cells) > 1:
            yield number, _Bad(f"has several columns, and no header names {COLUMN}")
        elif column < len(cells) and cells[column]:
            yield number, _word(cells[column])
        else:
            yield number, _Bad(f"has no {COLUMN}")


def _layout(first: str) -> tuple[str, int | None]:
    """Find the delimiter, and the column that the header calls by its name."""
    for delimiter in _DELIMITERS:
        try:
            names = [_name(cell) for cell in next(csv.reader([first], delimiter=delimiter))]
        except csv.Error:
            break
        if COLUMN in names:
            return delimiter, names.index(COLUMN)
    return next((delimiter for delimiter in _DELIMITERS if delimiter in first), ","), None


def _word(text: str) -> str | _Bad:
    """Take a cell or a line for an id, unless there is more on it than that."""
    return _Bad(f"{text[:60]!r} is not one debit id") if _NOT_A_WORD.search(text) else text


_NOT_A_WORD = re.compile(r"[\s,;\"#]")
