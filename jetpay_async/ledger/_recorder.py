"""Records outcomes: those that come within a few milliseconds share a commit."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from jetpay_async._core.log import logger
from jetpay_async.ledger import _intents, _sql

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jetpay_async._core.clock import Clock
    from jetpay_async.ledger._backend import CommitExecutor
    from jetpay_async.ledger._intents import OutcomeRecord
    from jetpay_async.ledger._lease import OwnerLease

# Outcomes gather for one commit for so long. Of what a process is killed with meanwhile, the status is read.
COMMIT_WINDOW_SECONDS = 0.02


class Recorder:
    """The only one of a run that changes what the ledger says became of a debit.

    Args:
        commits: The ledger's.
        lease: The owner.
        clock: Time.
        on_recorded: Called after each commit with what it recorded.
        on_failure: Called with the error when outcomes could not be recorded; they are logged.
        name_batch: Returns the name of a batch by its number, or None if it is not known here.
    """

    def __init__(
        self,
        commits: CommitExecutor,
        lease: OwnerLease,
        clock: Clock,
        *,
        on_recorded: Callable[[Sequence[OutcomeRecord]], None],
        on_failure: Callable[[Exception], None],
        name_batch: Callable[[int], str | None],
    ) -> None:
        self._commits = commits
        self._lease = lease
        self._clock = clock
        self._on_recorded = on_recorded
        self._on_failure = on_failure
        self._name_batch = name_batch
        self._records: list[OutcomeRecord] = []
        self._in_doubt: list[tuple[OutcomeRecord, float]] = []
        """Those of them of which it is known when no request for the debit can still be on its way; monotonic."""
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    def add(self, record: OutcomeRecord, *, certain_from: float | None = None) -> None:
        """Record an outcome soon.

        Args:
            record: The outcome.
            certain_from: When no request for the debit can still be on its way, on the monotonic clock; None if the
                ledger holds that already.
        """
        if not self._records:
            self._idle.clear()
            self._wanted.set()
        self._records.append(record)
        if certain_from is not None:
            self._in_doubt.append((record, certain_from))

    async def flush(self) -> None:
        """Wait until everything that was added so far is recorded, or could not be."""
        await self._idle.wait()

    def close(self) -> None:
        """Let `run` return when everything is recorded."""
        self._closing = True
        self._wanted.set()

    async def run(self) -> None:
        """Record what is added, until it is closed."""
        while not self._closing or self._records:
            await self._wanted.wait()
            if not self._closing:
                await self._clock.sleep(COMMIT_WINDOW_SECONDS)
            self._wanted.clear()
            records, self._records = self._records, []
            if records:
                await self._record(records)
            if not self._records:
                self._idle.set()

    async def _record(self, records: list[OutcomeRecord]) -> None:
        now = self._clock.monotonic()
        for record, certain_from in self._in_doubt:
            record.certain_in = max(0.0, certain_from - now)
        self._in_doubt.clear()
        try:
            await self._commits.run(partial(_intents.record, entries=records, owner=self._lease.owner))
        except Exception as error:  # noqa: BLE001 - whatever it is, the outcomes are logged
            for record in records:
                logger.error(
                    "debit %s: %s",
                    *(record.debit_id, _describe(record, error)),
                    extra={
                        "operation": "capture",
                        "debit_id": record.debit_id,
                        "batch": self._name_batch(_sql.batch_of(record.id)),
                        "reason": record.reason,
                        "status": record.status,
                        "request_id": record.request_id,
                    },
                )
            self._on_failure(error)
        self._on_recorded(records)


def _describe(record: OutcomeRecord, error: Exception) -> str:
    details = [record.state.value]
    if record.transaction_state is not None:
        details.append(f"state {record.transaction_state}")
    if record.error is not None:
        details.append(f"{record.error}: {record.reason}")
    details.append(f"attempts {record.attempts}")
    return f"{', '.join(details)}; this outcome could not be recorded: {error}"
