"""A batch from a file: what the commands that run one in a ledger have in common.

The file is read and checked to its end, then the batch is stored in the ledger, then the first request is sent. From
then on the same command continues the batch, whatever ended the one before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs

from jetpay_async._cli.io.connection import ConnectionOptions
from jetpay_async._cli.io.console import to_json, write_message, write_result
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._cli.io.exporter import COLUMNS, STDOUT, choose_destination
from jetpay_async.errors import ConfigurationError, JetpayError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from jetpay_async._cli.io.exporter import Destination
    from jetpay_async.ledger import PaymentCounts, Progress

__all__ = ["BatchRequest", "InterruptedEarlyError", "StoppableRun", "repeated", "report_stop", "write_summary"]

_T = TypeVar("_T")

# Items between two moments in which the event loop handles signals.
_ITEMS_AT_ONCE = 1000


@attrs.frozen(kw_only=True)
class BatchRequest:
    """The arguments."""

    source: str
    """A file's name, or ``-``."""
    ledger: str
    batch: str
    concurrency: int
    rate: float | None
    restored: bool
    account: str | None
    accept_rejections: bool
    out: str | None
    raw: bool
    connection: ConnectionOptions
    as_json: bool

    def destination(self, *, columns: Sequence[str] = COLUMNS) -> Destination | None:
        """Choose where the outcomes are written, if they are.

        Args:
            columns: Of a CSV.

        Raises:
            ConfigurationError: Nothing can be written there, or stdout would have two meanings.
        """
        if self.out is None:
            return None
        if self.as_json and self.out == STDOUT:
            raise ConfigurationError("argument --out: --json writes to stdout already; name a file")
        return choose_destination(self.out, ledger=self.ledger, source=self.source, raw=self.raw, columns=columns)


class InterruptedEarlyError(Exception):
    """The run was asked to stop while nothing had been stored."""


class _Stoppable(Protocol):
    def stop(self) -> None: ...


class StoppableRun:
    """One run of a batch, which can be stopped at any time."""

    def __init__(self) -> None:
        self._running: _Stoppable | None = None
        self.interrupted = False

    def stop(self) -> None:
        """Send nothing more. This comes before any message, which may not be writable."""
        self.interrupted = True
        if self._running is not None:
            self._running.stop()
        write_message("stopping: nothing more is sent, requests in flight are finished; Ctrl-C again ends at once")

    async def until_interrupted(self, items: Iterable[_T]) -> AsyncIterator[_T]:
        """Yield what is to be stored; now and then, let the event loop handle signals.

        Raises:
            InterruptedEarlyError: It is interrupted.
        """
        for number, item in enumerate(items):
            if number % _ITEMS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if self.interrupted:
                raise InterruptedEarlyError
            yield item

    def started(self, running: _Stoppable) -> None:
        """Note what sends from now on; stop it at once if the run was interrupted while the batch was stored."""
        self._running = running
        if self.interrupted:
            running.stop()


def repeated(duplicates: int) -> str:
    """Write how many items were repetitions."""
    return f" ({duplicates:,} given more than once)" if duplicates else ""


def write_summary(request: BatchRequest, lines: Sequence[str]) -> None:
    """Write what a person reads at the end: to stderr where stdout has the outcomes."""
    if request.out == STDOUT:
        for line in lines:
            write_message(line)
    else:
        write_result("\n".join(lines))


def report_stop(
    request: BatchRequest,
    error: Exception,
    progress: Progress | PaymentCounts | None,
    *,
    interrupted: bool,
    details: str = "",
    advice: str = "",
) -> ExitStatus:
    """Report a run that ended before its batch was complete, and return the exit status.

    Args:
        request: The arguments.
        error: What ended it.
        progress: How far the batch is; None if the ledger itself failed.
        interrupted: Whether it was asked to stop.
        details: What else the message says of the progress.
        advice: What else it says of what to do.
    """
    reason = "interrupted" if interrupted else _reason(error.__cause__ or error)
    if request.as_json:
        counts = {} if progress is None else attrs.asdict(progress)
        write_result(to_json({"event": "stopped", "batch": request.batch, "reason": reason, **counts}))
    stopped = "interrupted" if interrupted else f"stopped: {reason}"
    done = "" if progress is None else f"; {progress.finished:,} of {progress.total:,} are done{details}"
    write_message(f"{stopped}{done}\nRun the same command again to continue{advice}.")
    return ExitStatus.INTERRUPTED if interrupted else ExitStatus.RETRYABLE


def _reason(error: BaseException) -> str:
    """Say why a run ended, without the context of the item at which the error occurred."""
    if isinstance(error, OutcomeUnknownError) and error.reason:
        return error.reason
    return error.message if isinstance(error, JetpayError) else f"{type(error).__name__}: {error}"
