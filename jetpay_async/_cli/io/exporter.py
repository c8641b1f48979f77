"""Write what became of debits to a file or to stdout, as CSV or as JSON lines."""

from __future__ import annotations

import csv
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import attrs

from jetpay_async._cli.io.console import close_stdout, to_json
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger import LedgerItem

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

__all__ = ["STDOUT", "Destination", "as_document", "choose_destination"]

STDOUT = "-"
"""Instead of a file's name."""

COLUMNS = tuple(field.name for field in attrs.fields(LedgerItem))
_JSON = frozenset({".jsonl", ".ndjson"})


class Destination(Protocol):
    """Where outcomes go."""

    async def write(self, items: AsyncIterable[LedgerItem]) -> int:
        """Write them all, and tell how many.

        Raises:
            ConfigurationError: They can't be written; a file is as it was before.
        """
        ...


def choose_destination(out: str, *, as_json: bool = False) -> Destination:
    """Choose by name, before any work is done.

    Args:
        out: A file's name, or ``-`` for stdout.
        as_json: Whether JSON lines are wanted even if the name does not end in ``.jsonl`` or ``.ndjson``.

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
    return _File(path, as_json=as_json or path.suffix.lower() in _JSON)


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
        """Write them as they come."""
        try:
            count = await _write(items, sys.stdout, as_json=self.as_json)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            close_stdout()
            raise ConfigurationError(f"can't write to stdout: {error.strerror}") from None
        return count


@attrs.frozen
class _File:
    path: Path
    as_json: bool

    async def write(self, items: AsyncIterable[LedgerItem]) -> int:
        """Write a new file, and put it in the place of the old one once it is whole."""
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            with unfinished.open("w", encoding="utf-8", newline="") as stream:
                count = await _write(items, stream, as_json=self.as_json)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(self.path)
        except OSError as error:
            raise ConfigurationError(f"can't write {self.path}: {error.strerror}") from None
        finally:
            unfinished.unlink(missing_ok=True)
        return count


async def _write(items: AsyncIterable[LedgerItem], stream: TextIO, *, as_json: bool) -> int:
    count = 0
    rows = csv.writer(stream, lineterminator="\n")
    if not as_json:
        rows.writerow(COLUMNS)
    async for item in items:
        document = as_document(item)
        if as_json:
            stream.write(to_json(document) + "\n")
        else:
            rows.writerow(_cell(value) for value in document.values())
        count += 1
    return count


def _cell(value: object) -> object:
    """Write booleans as JSON does, and StrEnums as their value."""
    return str(value).lower() if isinstance(value, bool) else value
