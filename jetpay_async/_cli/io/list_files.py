"""Open a list of debits as text: UTF-8 or UTF-16, gzipped or not, with any line ends.

A file of another kind is refused with what it is and how to convert it.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from jetpay_async._cli.io.console import write_message
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["STDIN", "name_of", "open_list", "suffix_of"]

STDIN = "-"
"""Instead of a file's name."""

_CSV = "save it as 'CSV UTF-8' and give that file"
_OTHER_KINDS = {
    b"PK\x03\x04": f"is a workbook or another zip archive, not a list; {_CSV}",
    b"\xd0\xcf\x11\xe0": f"is an Excel workbook, not a list; {_CSV}",
    b"PK\x05\x06": f"is an empty workbook or zip archive, not a list; {_CSV}",
    b"7z\xbc\xaf": "is a 7-Zip archive; unpack it",
    b"Rar!": "is a RAR archive; unpack it",
    b"{\\rtf": f"is a document in Rich Text, not a list; {_CSV}",
    b"SQLite f": "is an SQLite database, not a list; is it the ledger?",
    b"PAR1": f"is a Parquet file, not a list; {_CSV}",
    b"BZh": "is compressed with bzip2; unpack it with bunzip2",
    b"\xfd7zXZ": "is compressed with xz; unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it with unzstd",
    b"%PDF": f"is a PDF document, not a list; {_CSV}",
    b"\xff\xfe\x00\x00": "is UTF-32; save it as UTF-8",
    b"\x00\x00\xfe\xff": "is UTF-32; save it as UTF-8",
}
_MARKUP = (b"<!", b"<?xml", b"<html", b"<table")
_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_HEAD = 8


def name_of(source: str) -> str:
    """Return how messages call a source."""
    return "stdin" if source == STDIN else source


def suffix_of(source: str) -> str:
    """Return the ending of a file's name that decides its form, in lower case: ``.csv`` of ``debits.CSV.gz``."""
    path = PurePath(source)
    return PurePath(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


@contextmanager
def open_list(source: str) -> Generator[TextIO]:
    r"""Open a list as text, whose line ends are all ``\n``.

    Args:
        source: A file's name, or ``-`` for stdin.

    Yields:
        The text. Bytes that are not UTF-8 are lone surrogates in it, which no id contains.

    Raises:
        ConfigurationError: It can't be read, or is not a list.
    """
    name = name_of(source)
    try:
        with _open_bytes(source) as stream:
            yield _decode(stream, name)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigurationError(f"{name} is damaged: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name} is not valid UTF-16: {error.reason}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"can't read {name}: {error.strerror}") from None


@contextmanager
def _open_bytes(source: str) -> Generator[BinaryIO]:
    if source == STDIN:
        if sys.stdin.isatty():
            write_message("type or paste debit ids, one per line; end with Ctrl-D")
        yield sys.stdin.buffer
        return
    with Path(source).open("rb") as stream:
        yield stream


def _decode(stream: BinaryIO, name: str) -> TextIO:
    head, stream = _peek(stream)
    if head.startswith(_GZIP):
        head, stream = _peek(cast("BinaryIO", gzip.GzipFile(fileobj=stream)))
        if head.startswith(_GZIP):
            raise ConfigurationError(f"{name} is compressed twice; unpack it with gunzip")
    for magic, kind in _OTHER_KINDS.items():
        if head.startswith(magic):
            raise ConfigurationError(f"{name} {kind}")
    if head.lower().startswith(_MARKUP):
        raise ConfigurationError(f"{name} is HTML or XML, not a list, whatever its name; {_CSV}")
    if head.startswith(_UTF_16):
        return io.TextIOWrapper(stream, encoding="utf-16", newline=None)
    if b"\x00" in head:
        raise ConfigurationError(f"{name} is not text, or is UTF-16 without a byte order mark; save it as UTF-8")
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=None)


def _peek(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """Return the first bytes of a stream, and a stream that still has them."""
    head = stream.read(_HEAD)
    return head, cast("BinaryIO", io.BufferedReader(_Rejoined(head, stream)))


class _Rejoined(io.RawIOBase):
    """A stream of which some bytes were read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # BufferedReader passes a memoryview
        chunk = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(chunk) :]
        buffer[: len(chunk)] = chunk
        return len(chunk)
