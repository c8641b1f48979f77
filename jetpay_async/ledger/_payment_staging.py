"""The requests of a submission, checked and staged until all are known: in memory while few, in a file when many."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from jetpay_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_Item = TypeVar("_Item")

_MAX_BYTES_IN_MEMORY = 1 << 20

_ITEMS_AT_A_TIME = 200
"""Items that are checked before other tasks get their turn: a lease is renewed and other requests go on meanwhile."""

PAGE = 1_000
"""Requests that are added by one statement."""


class StagedRequests(Generic[_Item]):
    """References and arguments in the order they were given.

    Args:
        prepare: Returns the reference and the arguments of a request, or refuses it.
    """

    def __init__(self, prepare: Callable[[_Item], tuple[str, Mapping[str, str]]]) -> None:
        self._prepare = prepare
        # One in each line: JSON escapes control characters.
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
    def fingerprint(self) -> str:
        """A hash that is the same for the same requests in any order."""
        return f"{self._sum % (1 << 128):032x}"

    async def fill(self, requests: Iterable[_Item] | AsyncIterable[_Item]) -> None:
        """Add all of them, or refuse the first that can't be sent.

        Raises:
            InvalidArgumentError: ``requests`` is no collection, or one of them can't be sent.
        """
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                self._add(request)
        elif isinstance(requests, Iterable):
            for request in requests:
                self._add(request)
                if not self.given % _ITEMS_AT_A_TIME:
                    await asyncio.sleep(0)
        else:
            raise InvalidArgumentError(
                f"requests: is an iterable or an async iterable, not {type(requests).__name__}", field="requests"
            )

    def _add(self, request: _Item) -> None:
        try:
            reference, arguments = self._prepare(request)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"item {self.given + 1}: {error.message}", field=error.field) from None
        line = json.dumps([reference, json.dumps(arguments, ensure_ascii=False)], ensure_ascii=False).encode()
        self._file.write(line + b"\n")
        self._sum += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest())
        self.given += 1

    def pages(self) -> Iterator[list[tuple[str, str]]]:
        """Read the references with their arguments as JSON, some at a time."""
        self._file.seek(0)
        lines = iter(self._file)
        while page := list(islice(lines, PAGE)):
            yield [(reference, arguments) for reference, arguments in map(json.loads, page)]
