"""Follows accepted and unknown debits: reads their status again until it says what became of them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from jetpay_async._core import operations
from jetpay_async.errors import JetpayError
from jetpay_async.ledger import _repository, _rows
from jetpay_async.ledger._context import run_wide_error
from jetpay_async.ledger.records import DebitState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jetpay_async.ledger._backend import CommitExecutor
    from jetpay_async.ledger._context import ClientContext
    from jetpay_async.ledger._recorder import Recorder
    from jetpay_async.ledger._repository import FollowedDebit, Scope

# Status reads at a time.
READERS = 16


class FollowUp:
    """Reads the status of each accepted, or each unknown, debit of a scope, whenever it is asked to.

    Nobody owns such a debit, since nothing is sent for it here: two runs that follow the same one do no harm.

    Args:
        commits: The ledger's.
        context: The client's.
        recorder: Takes what is found out.
        stop: Called with an error that concerns the whole run.
    """

    def __init__(
        self,
        commits: CommitExecutor,
        context: ClientContext,
        recorder: Recorder,
        *,
        stop: Callable[[Exception], None],
    ) -> None:
        self._commits = commits
        self._context = context
        self._recorder = recorder
        self._stop_run = stop
        self._rounds: dict[tuple[Scope, DebitState], asyncio.Task[int]] = {}
        self._stopping = False

    async def read_all(self, scope: Scope, state: DebitState = DebitState.ACCEPTED) -> int:
        """Read the status of each accepted, or each unknown, debit of a scope once, and record what it says.

        Those who ask at the same time share one round. It ends early when the run stops.

        Returns:
            How many could not be read.

        Raises:
            LedgerError: The ledger can't be read.
        """
        if self._stopping:
            return 0
        key = (scope, state)
        if (reading := self._rounds.get(key)) is None:
            reading = self._rounds[key] = asyncio.get_running_loop().create_task(self._read_all(scope, state))
            reading.add_done_callback(lambda _: self._rounds.pop(key, None))
        await asyncio.wait([reading])
        return 0 if reading.cancelled() else reading.result()

    async def stop(self) -> None:
        """Read nothing more."""
        self._stopping = True
        rounds = list(self._rounds.values())
        for reading in rounds:
            reading.cancel()
        await asyncio.gather(*rounds, return_exceptions=True)

    async def _read_all(self, scope: Scope, state: DebitState) -> int:
        after, unread = 0, 0
        while True:
            operation = partial(_repository.followed, scope=scope, state=state, after=after)
            debits, after = await self._commits.run(operation, writes=False)
            if not debits:
                await self._recorder.flush()
                return unread
            left = iter(debits)
            async with asyncio.TaskGroup() as group:
                readers = [group.create_task(self._read_each(left)) for _ in range(min(READERS, len(debits)))]
            unread += sum(reader.result() for reader in readers)

    async def _read_each(self, debits: Iterator[FollowedDebit]) -> int:
        return sum([not await self._read(debit) for debit in debits])

    async def _read(self, debit: FollowedDebit) -> bool:
        """Read the status of a debit, and record what it says; return whether it could be read."""
        context = self._context
        read = context.executor.begin(operations.transaction_status(debit.debit_id), context.options)
        try:
            status = await context.executor.execute(read)
        except JetpayError as error:
            # What can't be read now is read the next time.
            if (run_wide := run_wide_error(error)) is not None:
                self._stop_run(run_wide)
            return False
        if (record := _rows.follow(debit, status)) is not None:
            self._recorder.add(record)
        return True
