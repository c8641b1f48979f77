"""Write the outcomes of debits to a file or to stdout, as CSV or as JSON lines."""

from __future__ import annotations

import csv
import io
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

from jetpay_async._cli.io.console import to_json, write_lines
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger import LedgerItem

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

__all__ = ["STDOUT", "Destination", "OutputFileError", "as_document", "choose_destination"]

STDOUT = "-"
"""Instead of a file's name."""

COLUMNS = tuple(field.name for field in attrs.fields(LedgerItem))
_JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})


class OutputFileError(Exception):
    """The file can't be written; it is as it was before."""


class Destination(Protocol):
    """Where outcomes are written."""

    async def write(self, items: AsyncIterable[LedgerItem]) -> int:
        """Write them all, and return their number.

        Raises:
            OutputFileError: A file can't be written. A stdout that can't be written shows in the exit status.
        """
        ...


def choose_destination(out: str, *, as_json: bool = False) -> Destination:
    """Choose by name, before any work is done.

    Args:
        out: A file's name, or ``-`` for stdout.
        as_json: Whether to write JSON lines even if the name does not end in ``.jsonl`` or ``.ndjson``.

    Raises:
        ConfigurationError: Nothing can be written there.
    """
    if out == STDOUT:
        return _Stdout(as_json=as_json)
    path = Path(out).resolve()
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"argument --out: {out} is not a file; - writes to stdout")
    if not path.parent.is_dir():
        raise ConfigurationError(f"argument --out: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f"argument --out: the directory {path.parent} can't be written to")
    return _File(path, as_json=as_json or path.suffix.lower() in _JSON_SUFFIXES)


def as_document(item: LedgerItem) -> dict[str, object]:
    """Return an item as the columns of a file: times to the millisecond, in UTC."""
    return {name: _plain(getattr(item, name)) for name in COLUMNS}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


@attrs.frozen
class _Stdout:
    as_json: bool

    async def write(self, items: AsyncIterable[LedgerItem]) -> int:
        """Write them as they come, until stdout can't be written."""
        count = -1 if not self.as_json else 0  # the header is no item
        async for lines in _rows(items, as_json=self.as_json):
            if not write_lines(lines):
                break
            count += 1
        return count


@attrs.frozen
class _File:
    path: Path
    as_json: bool

    async def write(self, items: AsyncIterable[LedgerItem]) -> int:
        """Write a new file, and put it in the place of the old one once it is whole."""
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        count = -1 if not self.as_json else 0  # the header is no item
        try:
            with unfinished.open("w", encoding="utf-8", newline="") as stream:
                async for lines in _rows(items, as_json=self.as_json):
                    stream.write(lines)
                    count += 1
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(self.path)
        except OSError as error:
            raise OutputFileError(f"can't write {self.path}: {error.strerror}") from None
        finally:
            unfinished.unlink(missing_ok=True)
        return count


async def _rows(items: AsyncIterable[LedgerItem], *, as_json: bool) -> AsyncIterator[str]:
    """Write each item as a line, or as a CSV row of several lines; a CSV begins with a header."""
    buffer = io.StringIO(newline="")
    rows = csv.writer(buffer, lineterminator="\n")
    if not as_json:
        rows.writerow(COLUMNS)
        yield buffer.getvalue()
    async for item in items:
        document = as_document(item)
        if as_json:
            yield to_json(document) + "\n"
        else:
            buffer.seek(0)
            buffer.truncate()
            rows.writerow(_cell(value) for value in document.values())
            yield buffer.getvalue()


def _cell(value: object) -> object:
    """Write booleans as JSON does, and StrEnums as their value."""
    return str(value).lower() if isinstance(value, bool) else value
