"""The debits of a submission, checked and staged until all are known: in memory while few, in a file when many."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterable, Iterable, Iterator
from typing import TYPE_CHECKING

from jetpay_async._core import operations
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.ledger._sql import CHUNK_SIZE

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_MAX_BYTES_IN_MEMORY = 1 << 20

_IDS_AT_A_TIME = 1_000
"""Ids that are checked before other tasks get their turn: a lease is renewed and other requests go on meanwhile."""


class StagedDebits:
    """Debit ids in the order they were given."""

    def __init__(self) -> None:
        # One id in each line: it has no control characters.
        self._file = tempfile.SpooledTemporaryFile(max_size=_MAX_BYTES_IN_MEMORY)  # noqa: SIM115 - closed by __exit__
        self._sum = 0
        self.given = 0
        """How many there are, repetitions included."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def chunks(self) -> int:
        """How many chunks they make."""
        return -(-self.given // CHUNK_SIZE)

    @property
    def fingerprint(self) -> str:
        """A hash that is the same for the same debits in any order."""
        return f"{self._sum % (1 << 128):032x}"

    async def fill(self, debit_ids: Iterable[str] | AsyncIterable[str]) -> None:
        """Add all of them, or refuse the first that can't be a debit's id.

        Raises:
            InvalidArgumentError: ``debit_ids`` is no collection of ids.
        """
        if isinstance(debit_ids, str | bytes):
            raise InvalidArgumentError("debit_ids: is many ids, not one; pass a list", field="debit_ids")
        if isinstance(debit_ids, AsyncIterable):
            async for debit_id in debit_ids:
                self._add(debit_id)
        elif isinstance(debit_ids, Iterable):
            for debit_id in debit_ids:
                self._add(debit_id)
                if not self.given % _IDS_AT_A_TIME:
                    await asyncio.sleep(0)
        else:
            raise InvalidArgumentError(
                f"debit_ids: is an iterable or an async iterable, not {type(debit_ids).__name__}", field="debit_ids"
            )

    def _add(self, debit_id: str) -> None:
        try:
            plain = operations.read_debit_id(debit_id)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"item {self.given + 1}: {error.message}", field="debit_ids") from None
        line = plain.encode()
        self._file.write(line + b"\n")
        self._sum += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest())
        self.given += 1

    def numbered(self) -> Iterator[tuple[int, str]]:
        """Read them with their positions."""
        self._file.seek(0)
        for position, line in enumerate(self._file):
            yield position, line[:-1].decode()
