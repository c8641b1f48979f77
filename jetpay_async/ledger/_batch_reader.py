"""Reads the outcomes of a batch from the ledger as they come, whoever captures them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from jetpay_async._core.backoff import exponential_backoff
from jetpay_async.ledger import _repository, _rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jetpay_async._core.clock import Clock
    from jetpay_async.ledger._backend import UnitOfWork
    from jetpay_async.ledger.records import Report
    from jetpay_async.outcomes import CaptureOutcome

_T = TypeVar("_T")

# From one round of status reads of accepted debits to the next; each time twice as long.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0


class BatchSource(Protocol):
    """Where a batch is read from, and how its next outcomes are waited for."""

    clock: Clock

    async def read(self, operation: UnitOfWork[_T]) -> _T:
        """Read from the ledger."""
        ...

    @property
    def rounds(self) -> int:
        """How often readers were woken so far, as far as the source knows of it."""
        ...

    async def pause(self, since: int) -> None:
        """Wait for further outcomes, but no longer than a poll interval.

        Args:
            since: `rounds`, before the ledger was read: if readers were woken after that, there is no pause.
        """

    async def follow_up(self) -> None:
        """Have the status of the batch's accepted debits read once."""

    @property
    def stopped(self) -> bool:
        """Whether nothing more is captured."""
        ...

    async def stopped_error(self) -> Exception:
        """Return why nothing more is captured."""
        ...


class BatchReader:
    """One reader of a batch.

    Args:
        number: The batch's number in the ledger.
        source: Where it is read from.
    """

    def __init__(self, number: int, source: BatchSource) -> None:
        self._number = number
        self._source = source

    async def outcomes(self) -> AsyncIterator[CaptureOutcome]:
        """Yield the outcome of each debit once, in the order in which they were recorded; accepted ones come last."""
        source = self._source
        place = 0
        while True:
            stopped = source.stopped
            # From before the read: so none is needed that finds nothing, just to be sure before the pause.
            since = source.rounds
            # By one unit of work: where the batch stands comes first, so that what follows it is not missed.
            complete, accepted, page, place = await source.read(
                partial(_repository.completion_and_outcomes, batch=self._number, after=place)
            )
            for row in page:
                yield _rows.read(row)
            if len(page) == _repository.PAGE:
                continue
            if complete:
                break
            # What others record meanwhile may be in the page and not yet counted.
            if stopped and not page:
                raise await source.stopped_error()
            await source.pause(since)
        if accepted:
            async for outcome in self._last_outcomes(place):
                yield outcome

    async def _last_outcomes(self, place: int) -> AsyncIterator[CaptureOutcome]:
        """Yield what became of the accepted debits after their status was read once more."""
        source = self._source
        await source.follow_up()
        page, place = await source.read(partial(_repository.outcomes, batch=self._number, after=place))
        while page:
            for row in page:
                yield _rows.read(row)
            page, place = await source.read(partial(_repository.outcomes, batch=self._number, after=place))
        after = 0
        while True:
            # Others may follow them too: what was accepted when the outcomes up to this place had been read is
            # reported once, whatever it is by now.
            operation = partial(_repository.last_outcomes, batch=self._number, after=after, since=place)
            page, after = await source.read(operation)
            for row in page:
                yield _rows.read(row)
            if not page:
                return

    async def wait(self, follow_up: float) -> Report:
        """Wait until each debit has an outcome, and then for so many seconds at most until none is accepted."""
        source = self._source
        while True:
            stopped = source.stopped
            since = source.rounds
            if (report := await self._report()) is not None:
                return await self._follow(report, follow_up)
            if stopped:
                raise await source.stopped_error()
            await source.pause(since)

    async def _follow(self, report: Report, follow_up: float) -> Report:
        """Have the accepted debits followed, with ever longer pauses."""
        source = self._source
        now = source.clock.monotonic
        until = now() + follow_up
        rounds = 0
        while report.accepted and now() < until and not source.stopped:
            rounds += 1
            pause = exponential_backoff(rounds, base=FIRST_PAUSE_SECONDS, longest=LONGEST_PAUSE_SECONDS)
            next_round = min(now() + pause, until)
            await source.follow_up()
            # None if another run has submitted the batch again meanwhile.
            report = await self._report() or report
            while report.accepted and now() < next_round and not source.stopped:
                await source.pause(source.rounds)
        return report

    async def _report(self) -> Report | None:
        return _repository.report(await self._source.read(partial(_repository.progress, batch=self._number)))
