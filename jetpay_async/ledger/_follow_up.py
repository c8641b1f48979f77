"""Follows accepted debits: reads their status again until it says what became of them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from jetpay_async._core import operations
from jetpay_async.errors import JetpayError
from jetpay_async.ledger import _repository, _rows
from jetpay_async.ledger._context import run_wide_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jetpay_async.ledger._backend import CommitExecutor
    from jetpay_async.ledger._context import ClientContext
    from jetpay_async.ledger._recorder import Recorder
    from jetpay_async.ledger._repository import AcceptedDebit, Scope

# Status reads at a time.
READERS = 16


class FollowUp:
    """Reads the status of each accepted debit of a scope, whenever it is asked to.

    Nobody owns an accepted debit, since it is never sent again: two runs that follow the same one do no harm.

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
        self._rounds: dict[Scope, asyncio.Task[None]] = {}
        self._stopping = False

    async def read_all(self, scope: Scope) -> None:
        """Read the status of each accepted debit of a scope once, and record what it says.

        Those who ask at the same time share one round. It ends early when the run stops.

        Raises:
            LedgerError: The ledger can't be read.
        """
        if self._stopping:
            return
        if (reading := self._rounds.get(scope)) is None:
            reading = self._rounds[scope] = asyncio.get_running_loop().create_task(self._read_all(scope))
            reading.add_done_callback(lambda _: self._rounds.pop(scope, None))
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()

    async def stop(self) -> None:
        """Read nothing more."""
        self._stopping = True
        rounds = list(self._rounds.values())
        for reading in rounds:
            reading.cancel()
        await asyncio.gather(*rounds, return_exceptions=True)

    async def _read_all(self, scope: Scope) -> None:
        after = 0
        while True:
            operation = partial(_repository.accepted, scope=scope, after=after)
            debits, after = await self._commits.run(operation, writes=False)
            if not debits:
                await self._recorder.flush()
                return
            left = iter(debits)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(READERS, len(debits))):
                    group.create_task(self._read_each(left))

    async def _read_each(self, debits: Iterator[AcceptedDebit]) -> None:
        for debit in debits:
            await self._read(debit)

    async def _read(self, debit: AcceptedDebit) -> None:
        context = self._context
        read = context.executor.begin(operations.transaction_status(debit.debit_id), context.options)
        try:
            status = await context.executor.execute(read)
        except JetpayError as error:
            # What can't be read now is read the next time.
            if (run_wide := run_wide_error(error)) is not None:
                self._stop_run(run_wide)
            return
        outcome = _rows.followed(debit.debit_id, status)
        # Another state than the last one; the one before a capture is a stale answer.
        if outcome is not None and status.state != debit.transaction_state:
            self._recorder.add(_rows.write(debit, outcome, earlier=debit.attempts))
