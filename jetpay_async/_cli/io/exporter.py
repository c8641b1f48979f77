"""Write the outcomes of debits to a file or to stdout, as CSV or as JSON lines."""

from __future__ import annotations

import csv
import io
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import attrs

from jetpay_async._cli.io.console import to_json, write_lines
from jetpay_async._text import printable
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger import LedgerItem, LedgerPayment

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping

__all__ = ["STDOUT", "Destination", "ListedCells", "OutputFileError", "as_document", "choose_destination"]

STDOUT = "-"
"""Instead of a file's name."""

COLUMNS = tuple(field.name for field in attrs.fields(LedgerItem))
PAYMENT_COLUMNS = tuple(field.name for field in attrs.fields(LedgerPayment))
_JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})


class OutputFileError(Exception):
    """The file can't be written; it is as it was before."""


class ListedCells(Protocol):
    """What a list has on its debits, besides their ids."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns."""
        ...

    def cells(self, key: str, /) -> Mapping[str, object]:
        """Return what it has on a debit, or on a payment, by column."""
        ...


class Destination(Protocol):
    """Where outcomes are written."""

    async def write(self, items: AsyncIterable[LedgerItem | LedgerPayment], listed: ListedCells | None = None) -> int:
        """Write them all, and return their number.

        Args:
            items: The debits, as the ledger has them.
            listed: What their list has on them: further columns, or the object ``listed`` in JSON.

        Raises:
            OutputFileError: A file can't be written. A stdout that can't be written shows in the exit status.
        """
        ...


def choose_destination(
    out: str,
    *,
    ledger: str,
    source: str | None = None,
    as_json: bool = False,
    raw: bool = False,
    columns: Sequence[str] = COLUMNS,
) -> Destination:
    """Choose by name, before any work is done.

    Args:
        out: A file's name, or ``-`` for stdout.
        ledger: The ledger, which must not be overwritten.
        source: The list of debits, which must not be overwritten either; ``-`` is what stdin is connected to.
        as_json: Whether to write JSON lines even if the name does not end in ``.jsonl`` or ``.ndjson``.
        raw: Whether to leave CSV cells as they are that a spreadsheet would run as formulas.
        columns: Of a CSV: those of debits, or of payments.

    Raises:
        ConfigurationError: Nothing can be written there, or it is the ledger or the list.
    """
    if out == STDOUT:
        return _Stdout(as_json=as_json, raw=raw, columns=columns)
    path = _resolved(out)
    _protect(path, ledger, source)
    with suppress(FileNotFoundError):
        try:
            status = path.stat()
        except FileNotFoundError:
            raise
        except OSError as error:  # such as a name that is too long: known before any work is done
            raise ConfigurationError(f"argument --out: {out} can't be written: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"argument --out: {out} is not a file; - writes to stdout")
    if not path.parent.is_dir():
        raise ConfigurationError(f"argument --out: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f"argument --out: the directory {path.parent} can't be written to")
    return _File(path, as_json=as_json or path.suffix.lower() in _JSON_SUFFIXES, raw=raw, columns=columns)


def _protect(path: Path, ledger: str, source: str | None) -> None:
    """Refuse to overwrite what is read: by name, and by inode as a link has another name.

    Raises:
        ConfigurationError: It is the ledger, one of the files beside it, or the list.
    """
    if source is not None and _is_same(path, 0 if source == STDOUT else Path(source)):
        raise ConfigurationError("argument --out: is the list of debits; choose another file")
    if "://" in ledger:
        return
    database = _resolved(ledger)
    beside = [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
    is_lock = path.parent == database.parent and path.name.startswith(f"{database.name}-owner-")
    if is_lock or any(_is_same(path, file) for file in beside):
        raise ConfigurationError("argument --out: belongs to the ledger; choose another file")


def _resolved(path: str | Path) -> Path:
    """Follow links. Unlike `Path.resolve`, it raises nothing where they lead in a circle."""
    return Path(os.path.realpath(path))


def _is_same(path: Path, other: Path | int) -> bool:
    if isinstance(other, Path) and path == _resolved(other):
        return True
    try:
        return os.path.samestat(path.stat(), os.stat(other))  # noqa: PTH116 - of a descriptor, too
    except OSError:
        return False


def as_document(item: LedgerItem | LedgerPayment) -> dict[str, object]:
    """Return an item as the columns of a file: times to the millisecond, in UTC."""
    names = COLUMNS if isinstance(item, LedgerItem) else PAYMENT_COLUMNS
    return {name: _plain(getattr(item, name)) for name in names}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


@attrs.frozen(kw_only=True)
class _Stdout:
    as_json: bool
    raw: bool
    columns: Sequence[str]

    async def write(self, items: AsyncIterable[LedgerItem | LedgerPayment], listed: ListedCells | None = None) -> int:
        """Write them as they come, until stdout can't be written."""
        count = -1 if not self.as_json else 0  # the header is no item
        async for lines in _rows(items, listed, self.columns, as_json=self.as_json, raw=self.raw):
            if not write_lines(lines):
                break
            count += 1
        return max(count, 0)


@attrs.frozen
class _File:
    path: Path
    as_json: bool = attrs.field(kw_only=True)
    raw: bool = attrs.field(kw_only=True)
    columns: Sequence[str] = attrs.field(kw_only=True)

    async def write(self, items: AsyncIterable[LedgerItem | LedgerPayment], listed: ListedCells | None = None) -> int:
        """Write a new file, and put it in the place of the old one once it is whole."""
        # Not of the file's own name, which may be as long as a name can be.
        unfinished = self.path.with_name(f".jetpay-{secrets.token_hex(8)}.tmp")
        count = -1 if not self.as_json else 0  # the header is no item
        try:
            with self._create(unfinished) as stream:
                async for lines in _rows(items, listed, self.columns, as_json=self.as_json, raw=self.raw):
                    stream.write(lines)
                    count += 1
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(self.path)
        except OSError as error:
            raise OutputFileError(f"can't write {self.path}: {error.strerror}") from None
        finally:
            unfinished.unlink(missing_ok=True)
        return max(count, 0)

    def _create(self, unfinished: Path) -> TextIO:
        """Make a file that nobody has prepared, readable for its owner only, or with the mode of the old file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(unfinished, flags, 0o600)
        with suppress(FileNotFoundError):
            os.chmod(descriptor, stat.S_IMODE(self.path.stat().st_mode))  # noqa: PTH101 - of the descriptor
        return open(descriptor, "w", encoding="utf-8", newline="")  # noqa: PTH123 - the caller closes it


async def _rows(
    items: AsyncIterable[LedgerItem | LedgerPayment],
    listed: ListedCells | None,
    columns: Sequence[str],
    *,
    as_json: bool,
    raw: bool,
) -> AsyncIterator[str]:
    """Write each item as a line, or as a CSV row of several lines; a CSV begins with a header."""
    others = () if listed is None else listed.columns
    if not as_json:
        # A column of the list that is called as one of ours gets another name.
        names = (f"list_{name}" if name in columns else name for name in others)
        yield _csv_row((*columns, *(_cell(name, raw=raw) for name in names)))
    async for item in items:
        document = as_document(item)
        cells: Mapping[str, object] = {} if listed is None else listed.cells(_key_of(item))
        if as_json:
            yield to_json({**document, "listed": cells} if others else document) + "\n"
        else:
            values = (*map(_text, document.values()), *(_text(cells.get(name)) for name in others))
            yield _csv_row(_cell(value, raw=raw) for value in values)


def _key_of(item: LedgerItem | LedgerPayment) -> str:
    return item.debit_id if isinstance(item, LedgerItem) else item.reference


def _text(value: object) -> object:
    """Write what only JSON can hold as JSON."""
    return value if value is None or isinstance(value, str | int | float | Decimal) else to_json(value)


def _csv_row(cells: Iterable[object]) -> str:
    # This line end lets the writer quote cells with either of its characters; Python 3.11 looks at nothing else.
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


_WHITE_SPACE = "\t\r\n"  # CSV can hold it
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def _cell(value: object, *, raw: bool) -> object:
    """Write booleans as JSON does, and StrEnums as their value.

    What a terminal would obey is escaped. A text that a spreadsheet would run as a formula gets an apostrophe in front,
    as OWASP recommends.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str) or raw:
        return value
    text = printable(value, None, keep=_WHITE_SPACE)
    return f"'{text}" if text.startswith(_FORMULA) else text
