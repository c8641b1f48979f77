"""``jetpay capture FILE --ledger ... --batch ...``: capture the debits of a file, durably."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

from jetpay_async._cli.commands.batch_run import (
    BatchRequest,
    InterruptedEarlyError,
    StoppableRun,
    repeated,
    report_stop,
    write_summary,
)
from jetpay_async._cli.commands.dry_run import find_stored, report_dry_run
from jetpay_async._cli.io.console import to_json, write_message, write_result
from jetpay_async._cli.io.debit_reader import read_debits
from jetpay_async._cli.io.exit_codes import ExitStatus, gravest
from jetpay_async._cli.io.exporter import OutputFileError
from jetpay_async._cli.io.ledger_names import FILE, command_line, name_options
from jetpay_async._cli.io.signals import stop_on_signals
from jetpay_async._cli.progress.display import choose_display
from jetpay_async._cli.progress.model import ProgressSampler, outcome_counts
from jetpay_async.errors import JetpayError
from jetpay_async.ledger import CapturesStoppedError, Ledger

if TYPE_CHECKING:
    from jetpay_async._cli.io.debit_reader import Debits
    from jetpay_async._cli.io.exporter import Destination
    from jetpay_async._cli.progress.model import Show
    from jetpay_async.ledger import Batch, Report

__all__ = ["CaptureFileRequest", "capture_file"]


@attrs.frozen(kw_only=True)
class CaptureFileRequest(BatchRequest):
    """The arguments."""

    column: str | None


def capture_file(request: CaptureFileRequest, *, dry_run: bool) -> int:
    """Capture the debits of a file, or report what would be done.

    Raises:
        ConfigurationError: The file is not valid, the ledger can't be used or its batch has other debits, or the
            outcomes can't be written to their destination. Nothing was sent.
    """
    destination = request.destination()
    keep_cells = destination is not None and not dry_run
    with read_debits(request.source, column=request.column, keep_cells=keep_cells) as debits, name_options():
        if dry_run:
            return asyncio.run(
                report_dry_run(
                    debits, source=request.source, ledger=request.ledger, batch=request.batch, as_json=request.as_json
                )
            )
        return asyncio.run(_capture(request, debits, destination))


_FINAL_MESSAGE = "ended at once; requests in flight are resolved when you run the same command again"


async def _capture(request: CaptureFileRequest, debits: Debits, destination: Destination | None) -> ExitStatus:
    run = _CaptureRun(request)
    try:
        with stop_on_signals(run.stop, final_message=_FINAL_MESSAGE):
            report = await run.capture(debits)
    except InterruptedEarlyError:
        write_message("interrupted before the batch was stored: nothing was sent")
        return ExitStatus.INTERRUPTED
    except CapturesStoppedError as error:
        progress = error.progress
        sending = 0 if progress is None else progress.sending
        return report_stop(
            request,
            error,
            progress,
            interrupted=run.interrupted,
            details=f", {sending:,} in flight or in doubt" if sending else "",
            advice=f"; `{command_line('captures status', request.ledger, request.batch)}` shows the progress",
        )
    _write_report(request, report, duplicates=debits.duplicates)
    status = _status_of(report)
    return status if destination is None else gravest((status, await _write_outcomes(request, destination, debits)))


def _status_of(report: Report) -> ExitStatus:
    if report.unknown:
        return ExitStatus.UNKNOWN
    if report.rejected:
        return ExitStatus.REJECTED
    return ExitStatus.ACCEPTED if report.accepted else ExitStatus.DONE


class _CaptureRun(StoppableRun):
    def __init__(self, request: CaptureFileRequest) -> None:
        super().__init__()
        self._request = request

    async def capture(self, debits: Debits) -> Report:
        """Submit the debits and wait for their outcomes.

        Raises:
            InterruptedEarlyError: It was interrupted before the batch was stored.
            CapturesStoppedError: It was interrupted, or an error ended it.
            LedgerError: The ledger can't be used, or its batch has other debits.
        """
        request = self._request
        display = choose_display(as_json=request.as_json)
        async with (
            request.connection.open_client(max_connections=request.concurrency) as client,
            client.durable_captures(
                request.ledger,
                concurrency=request.concurrency,
                rate=request.rate,
                restored=request.restored,
                account=request.account,
                accept_rejections=request.accept_rejections,
            ) as captures,
        ):
            stored = await find_stored(request.ledger, request.batch)
            if stored is not None and stored.sending:
                write_message(
                    f"{stored.sending:,} debits are in doubt since an earlier run ended, or in flight in another run; "
                    "they are resolved once their requests can no longer arrive, which takes a minute or two"
                )
            with display.showing(request.batch) as show:
                batch = await captures.submit(request.batch, self.until_interrupted(debits))
                self.started(captures)
                return await _wait(batch, show, display.interval_seconds)


async def _wait(batch: Batch, show: Show, interval: float) -> Report:
    """Wait for the end of a batch, and show its progress."""
    sampler = ProgressSampler()
    sampler.measure(await batch.progress())

    async def watch() -> None:
        while True:
            await asyncio.sleep(interval)
            progress = await batch.progress()
            if not progress.complete or progress.accepted:  # the end is shown below
                show(sampler.measure(progress))

    watcher = asyncio.create_task(watch())
    try:
        report = await batch.wait()
        show(sampler.measure(await batch.progress()))
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])
    return report


def _write_report(request: CaptureFileRequest, report: Report, *, duplicates: int) -> None:
    if request.as_json:
        write_result(to_json({"event": "report", **attrs.asdict(report), "duplicates": duplicates}))
        return
    captured, *others = outcome_counts(report)
    counts = ", ".join((captured.replace(" ", f" of {report.total:,} ", 1), *others))
    lines = [f"{report.key}: {counts}{repeated(duplicates)}"]
    if report.rejected or report.unknown:
        lines.append(f"Which, and why: {command_line('captures list', request.ledger, request.batch)}")
    if report.accepted:
        lines.append("Accepted ones are not final yet and are not sent again; the same command checks their status.")
    if report.unknown:
        lines.append("Unknown ones may have been captured; the same command checks their status again.")
    write_summary(request, lines)


async def _write_outcomes(request: CaptureFileRequest, destination: Destination, debits: Debits) -> ExitStatus:
    try:
        async with Ledger(request.ledger, create=False) as ledger:
            await destination.write(ledger.items(request.batch), debits)
    except (JetpayError, OutputFileError) as error:
        message = error.message if isinstance(error, JetpayError) else str(error)
        export = command_line("captures export", request.ledger, request.batch, "--out", FILE)
        write_message(f"{message}; to write it again: {export}")
        return ExitStatus.OUTPUT_FAILED
    return ExitStatus.DONE
