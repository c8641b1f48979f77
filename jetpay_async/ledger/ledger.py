"""The ledger of captures: what was intended, and what became of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.ledger import _repository
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._group_commit import GroupCommitExecutor
from jetpay_async.ledger._staging import StagedDebits
from jetpay_async.ledger.records import BatchInfo, DebitState, LedgerItem, Progress, Submitted

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
    from types import TracebackType
    from typing import Self

    from jetpay_async._core.clock import Clock
    from jetpay_async.ledger._backend import Connection

__all__ = ["Ledger"]

_T = TypeVar("_T")

_KEY_LIMIT = 255


class Ledger:
    """A ledger opened to read it, to submit batches or to correct them; it captures nothing and needs no client.

    ::

        async with Ledger("captures.db", create=False) as ledger:
            for batch in await ledger.batches():
                print(batch.key, batch.progress)

    It holds debit ids, states, times and reasons: never a token.

    Args:
        ledger: The path of a file on a local disk, or a ``postgresql://`` URL, which needs
            ``pip install 'jetpay-async[postgres]'``.
        create: Whether to make the file, or the tables, if there are none.
        clock: Time, for tests.

    Raises:
        ConfigurationError: ``ledger`` can't be one, or what it needs is not installed.
    """

    def __init__(self, ledger: str | os.PathLike[str], *, create: bool = True, clock: Clock = SYSTEM_CLOCK) -> None:
        self._backend = choose_backend(ledger, clock)
        self._create = create
        self._commits: GroupCommitExecutor | None = None

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            LedgerError: It can't be used; the message says what to do.
        """
        commits = GroupCommitExecutor(self._backend)
        await commits.open(create=self._create)
        self._commits = commits
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        commits, self._commits = self._commits, None
        if commits is not None:  # pragma: no branch - set when it was entered
            await commits.close()

    async def submit(self, key: str, debit_ids: Iterable[str] | AsyncIterable[str]) -> Submitted:
        """Add a batch, whole or not at all; it is durable when this returns.

        Args:
            key: The batch's name: of the night, of the invoice run. The same key with the same debits is the same
                batch.
            debit_ids: From `JetpayClient.preauthorize`, in any order; memory stays flat however many there are.

        Raises:
            InvalidArgumentError: The key or an id can't be one; nothing was added.
            BatchMismatchError: There is such a batch, with other debits.
            LedgerError: The ledger can't be written.
        """
        check_key(key)
        with StagedDebits() as spool:
            await spool.fill(debit_ids)
            # On a connection of its own: a million take longer than a lease, which must be renewed meanwhile.
            commits = self.commits.another()
            await commits.open(create=False)
            try:
                return await commits.run(
                    lambda connection: _repository.submit(
                        connection,
                        key,
                        spool.numbered(),
                        given=spool.given,
                        chunks=spool.chunks,
                        fingerprint=spool.fingerprint,
                    )
                )
            finally:
                await commits.close()

    async def batches(self) -> list[BatchInfo]:
        """Tell of each batch where it stands, the oldest first.

        Raises:
            LedgerError: The ledger can't be read.
        """
        return await self._run(_repository.batches, writes=False)

    async def progress(self, key: str) -> Progress:
        """Return where a batch stands, and what it waits for.

        Raises:
            UnknownBatchError: There is none of this key.
            LedgerError: The ledger can't be read.
        """
        batch = await self.find(key)
        return (await self._run(partial(_repository.full_progress, batch=batch), writes=False)).progress

    async def items(self, key: str, state: DebitState | str | None = None) -> AsyncIterator[LedgerItem]:
        """Read the debits of a batch, in the order they were given.

        Args:
            key: The batch.
            state: Only those in this state.

        Raises:
            InvalidArgumentError: There is no such state.
            UnknownBatchError: There is none of this key.
            LedgerError: The ledger can't be read.
        """
        wanted = None if state is None else _check_state(state)
        batch = await self.find(key)
        place = 0
        while True:
            page, place = await self._run(
                partial(_repository.items, key=key, batch=batch, after=place, state=wanted), writes=False
            )
            for item in page:
                yield item
            if len(page) < _repository.PAGE:
                return

    async def chunks_left(self, key: str) -> list[int]:
        """List the chunks of a batch that have debits without an outcome: what is left to do with `run_chunk`.

        Raises:
            UnknownBatchError: There is none of this key.
            LedgerError: The ledger can't be read.
        """
        batch = await self.find(key)
        return await self._run(partial(_repository.chunks_left, batch=batch), writes=False)

    async def retry_rejected(self, key: str) -> int:
        """Put the rejected debits of a batch back, to be captured by the next run; say how many there were.

        The next run reads the status of each before it sends anything.

        Raises:
            UnknownBatchError: There is none of this key.
            LedgerError: The ledger can't be written.
        """
        batch = await self.find(key)
        return await self._run(partial(_repository.reopen_rejected, batch=batch))

    async def find(self, key: str) -> int:
        """Return the number of a batch.

        Raises:
            UnknownBatchError: There is none of this key.
            LedgerError: The ledger can't be read.
        """
        check_key(key)
        return (await self._run(partial(_repository.find_batch, key=key), writes=False))[0]

    @property
    def leases(self) -> bool:
        """Whether an owner that is paused counts as dead after its lease."""
        return self._backend.leases

    @property
    def commits(self) -> GroupCommitExecutor:
        """Where its operations are carried out."""
        if self._commits is None:
            raise ConfigurationError("the ledger is not open; use it within `async with`")
        return self._commits

    async def _run(self, operation: Callable[[Connection], _T], *, writes: bool = True) -> _T:
        return await self.commits.run(operation, writes=writes)


def check_key(key: str) -> None:
    """Refuse a name that no batch can have.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not isinstance(key, str) or not key or len(key) > _KEY_LIMIT or not key.isprintable():
        raise InvalidArgumentError(
            f"key: a batch's name is a printable str of 1 to {_KEY_LIMIT} characters, for example '2026-11-22'",
            field="key",
        )


def _check_state(state: DebitState | str) -> DebitState:
    try:
        return DebitState(state)
    except ValueError:
        raise InvalidArgumentError(f"state: {state!r} is none of {', '.join(DebitState)}", field="state") from None
