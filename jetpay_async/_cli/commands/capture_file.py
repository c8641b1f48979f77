"""``jetpay capture FILE --ledger ... --batch ...``: capture the debits of a file, durably.

The file is read and checked to its end, then the batch is stored in the ledger, then the first debit is sent. From
there on the ledger knows: the same command again goes on, whatever ended the one before.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from jetpay_async._cli.io.console import say, tell, to_json, warn
from jetpay_async._cli.io.debit_reader import STDIN, read_debits
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._cli.io.exporter import STDOUT, choose_destination
from jetpay_async._cli.io.ledger_names import FILE, command, in_our_words, shown
from jetpay_async._cli.io.signals import asking_to_stop
from jetpay_async._cli.progress.display import ProgressSampler, choose_display
from jetpay_async.client import JetpayClient
from jetpay_async.errors import ConfigurationError, JetpayError, OutcomeUnknownError
from jetpay_async.ledger import CapturesStoppedError, Ledger, LedgerNotFoundError, UnknownBatchError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jetpay_async._cli.io.debit_reader import Debits
    from jetpay_async._cli.io.exporter import Destination
    from jetpay_async._cli.progress.display import Show
    from jetpay_async.ledger import Batch, DurableCaptures, Progress, Report

__all__ = ["CaptureFileRequest", "capture_file"]


@attrs.frozen(kw_only=True)
class CaptureFileRequest:
    """What was asked for."""

    source: str
    """A file's name, or ``-``."""
    ledger: str
    batch: str
    concurrency: int
    rate: float | None
    out: str | None
    as_json: bool


def capture_file(request: CaptureFileRequest, *, dry_run: bool) -> int:
    """Capture the debits of a file, or say what would be done.

    Raises:
        ConfigurationError: The file is not right, the ledger can't be used or its batch has other debits, or the
            outcomes can't be written where they are wanted. Nothing was sent.
    """
    if request.as_json and request.out == STDOUT:
        raise ConfigurationError("argument --out: --json writes to stdout already; name a file")
    destination = None if request.out is None else choose_destination(request.out)
    with read_debits(request.source) as debits, in_our_words():
        if dry_run:
            return asyncio.run(_rehearse(request, debits))
        return asyncio.run(_capture(request, debits, destination))


# --- for real ---------------------------------------------------------------------------------------------------------

_LAST_WORDS = "ended at once; what was in flight is settled when you run the same command again"


async def _capture(request: CaptureFileRequest, debits: Debits, destination: Destination | None) -> ExitStatus:
    run = _Run(request)
    try:
        with asking_to_stop(run.stop, last_words=_LAST_WORDS):
            report = await run.capture(debits)
    except _StoppedEarlyError:
        warn("interrupted before the batch was stored: nothing was sent")
        return ExitStatus.INTERRUPTED
    except CapturesStoppedError as error:
        return _tell_stopped(request, error, interrupted=run.interrupted)
    _tell_report(request, report, duplicates=debits.duplicates)
    status = ExitStatus.UNKNOWN if report.unknown else ExitStatus.REFUSED if report.rejected else ExitStatus.DONE
    return status if destination is None else max(status, await _write_outcomes(request, destination))


class _StoppedEarlyError(Exception):
    """The run was asked to stop while nothing had been stored."""


class _Run:
    """One run of a batch, which can be stopped at any time."""

    def __init__(self, request: CaptureFileRequest) -> None:
        self._errand = request
        self._captures: DurableCaptures | None = None
        self.interrupted = False

    def stop(self) -> None:
        """Send nothing more."""
        self.interrupted = True
        warn("stopping: nothing more is sent, what is in flight comes to its end; Ctrl-C again ends it at once")
        if self._captures is not None:
            self._captures.stop()

    async def capture(self, debits: Debits) -> Report:
        """Submit the debits and wait for their outcomes.

        Raises:
            _StoppedEarlyError: It was interrupted before the batch was stored.
            CapturesStoppedError: It was interrupted, or something else ended it.
            LedgerError: The ledger can't be used, or its batch has other debits.
        """
        request = self._errand
        display = choose_display(as_json=request.as_json)
        async with (
            JetpayClient.from_env(max_connections=request.concurrency, user_agent_suffix="jetpay-cli") as client,
            client.durable_captures(request.ledger, concurrency=request.concurrency, rate=request.rate) as captures,
        ):
            stored = await _find_stored(request)
            if stored is not None and stored.sending:
                warn(
                    f"{stored.sending:,} debits are in doubt since an earlier run ended, or in flight in another one: "
                    "a doubt is settled once its request can no longer be on its way, within a minute or so"
                )
            with display.showing(request.batch) as show:
                batch = await captures.submit(request.batch, self._while_wanted(debits))
                self._captures = captures
                if self.interrupted:
                    captures.stop()
                return await _wait(batch, show, display.interval)

    async def _while_wanted(self, debits: Debits) -> AsyncIterator[str]:
        """Hand out the debits; now and then, let the signals through."""
        for number, debit_id in enumerate(debits):
            if number % 1000 == 0:
                await asyncio.sleep(0)
            if self.interrupted:
                raise _StoppedEarlyError
            yield debit_id


async def _find_stored(request: CaptureFileRequest) -> Progress | None:
    """Tell where the batch stands, if there is one; and make no ledger to find that out."""
    with suppress(LedgerNotFoundError, UnknownBatchError):
        async with Ledger(request.ledger, create=False) as ledger:
            return await ledger.progress(request.batch)
    return None


async def _wait(batch: Batch, show: Show, interval: float) -> Report:
    pacer = ProgressSampler()
    pacer.measure(await batch.progress())

    async def watch() -> None:
        while True:
            await asyncio.sleep(interval)
            progress = await batch.progress()
            if not progress.complete:  # the end is shown below
                show(pacer.measure(progress))

    watcher = asyncio.create_task(watch())
    try:
        report = await batch.wait()
        show(pacer.measure(await batch.progress()))
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])
    return report


def _tell_report(request: CaptureFileRequest, report: Report, *, duplicates: int) -> None:
    if request.as_json:
        tell(to_json({"event": "report", **attrs.asdict(report), "duplicates": duplicates}))
        return
    counts = (
        f"{report.captured:,} of {report.total:,} captured, {report.rejected:,} rejected, {report.unknown:,} unknown"
    )
    lines = [f"{report.key}: {counts}{_given_again(duplicates)}"]
    if report.rejected or report.unknown:
        lines.append(f"Which, and why: {command('captures list', request.ledger, request.batch)}")
    if report.unknown:
        lines.append("Unknown ones may have been captured; the same command again looks at them once more.")
    if request.out == STDOUT:
        sys.stderr.write("\n".join((*lines, "")))
    else:
        tell("\n".join(lines))


def _given_again(duplicates: int) -> str:
    return f" ({duplicates:,} given more than once)" if duplicates else ""


def _tell_stopped(request: CaptureFileRequest, error: CapturesStoppedError, *, interrupted: bool) -> ExitStatus:
    progress = error.progress
    reason = "interrupted" if interrupted else _explain(error.__cause__ or error)
    if request.as_json:
        told = {} if progress is None else attrs.asdict(progress)
        tell(to_json({"event": "stopped", "batch": request.batch, "reason": reason, **told}))
    warn(
        f"{'interrupted' if interrupted else f'stopped: {reason}'}{_stands(progress)}\n"
        f"Run the same command again to go on; `{_look(request)}` tells where it stands."
    )
    return ExitStatus.INTERRUPTED if interrupted else ExitStatus.REPEATABLE


def _explain(error: BaseException) -> str:
    """Say why a run ended, without the circumstances of the debit that happened to meet it."""
    if isinstance(error, OutcomeUnknownError) and error.reason:
        return error.reason
    return error.message if isinstance(error, JetpayError) else f"{type(error).__name__}: {error}"


def _stands(progress: Progress | None) -> str:
    if progress is None:  # the ledger itself is what failed
        return ""
    doubts = f", {progress.sending:,} in flight or in doubt" if progress.sending else ""
    return f"; {progress.finished:,} of {progress.total:,} are done{doubts}"


def _look(request: CaptureFileRequest) -> str:
    return command("captures status", request.ledger, request.batch)


async def _write_outcomes(request: CaptureFileRequest, destination: Destination) -> ExitStatus:
    try:
        async with Ledger(request.ledger, create=False) as ledger:
            await destination.write(ledger.items(request.batch))
    except JetpayError as error:
        export = command("captures export", request.ledger, request.batch, "--out", FILE)
        warn(f"{error.message}; to write it again: {export}")
        return ExitStatus.REPEATABLE
    return ExitStatus.DONE


# --- dry --------------------------------------------------------------------------------------------------------------


async def _rehearse(request: CaptureFileRequest, debits: Debits) -> ExitStatus:
    """Say what would be done."""
    stored, same = await _find_stored(request), 0
    if stored is not None:
        async with Ledger(request.ledger, create=False) as ledger:
            async for item in ledger.items(request.batch):
                same += item.debit_id in debits
    mismatch = stored is not None and not same == stored.total == debits.total
    if request.as_json:
        told = None if stored is None else {**attrs.asdict(stored), "of_these": same}
        facts = {"batch": request.batch, "total": debits.total, "duplicates": debits.duplicates, "stored": told}
        say(to_json({"event": "dry_run", "ok": not mismatch, **facts}))
    else:
        say("\n".join((_what_was_read(request, debits), _what_is_stored(request, debits, stored, same))))
    return ExitStatus.USAGE if mismatch else ExitStatus.DONE


def _what_was_read(request: CaptureFileRequest, debits: Debits) -> str:
    name = "stdin" if request.source == STDIN else request.source
    return f"{name}: {debits.total:,} debits{_given_again(debits.duplicates)}"


def _what_is_stored(request: CaptureFileRequest, debits: Debits, stored: Progress | None, same: int) -> str:
    where = f"batch {request.batch} in {shown(request.ledger)}"
    if stored is None:
        return f"{where}: new; {debits.total:,} debits would be captured"
    if not same == stored.total == debits.total:
        others = stored.total - same
        return (
            f"{where}: is there with other debits: {same:,} of these {debits.total:,}, and {others:,} others; "
            "it would be rejected: take another name for another list"
        )
    left = stored.total - stored.finished
    return (
        f"{where}: is there with these debits, {stored.captured:,} captured and {stored.rejected:,} rejected; "
        f"{left:,} would be captured, and {stored.unknown:,} unknown looked at again"
    )
