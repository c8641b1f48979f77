"""``jetpay preauthorize FILE --ledger ... --batch ...``: reserve the amounts of a file, durably."""

from __future__ import annotations

import asyncio
import shlex
from collections import Counter
from contextlib import suppress
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
from jetpay_async._cli.io.console import to_json, write_message, write_output, write_result
from jetpay_async._cli.io.exit_codes import ExitStatus, gravest
from jetpay_async._cli.io.exporter import PAYMENT_COLUMNS, OutputFileError
from jetpay_async._cli.io.ledger_names import name_options, without_password
from jetpay_async._cli.io.list_files import STDIN
from jetpay_async._cli.io.request_reader import read_requests
from jetpay_async._cli.io.signals import stop_on_signals
from jetpay_async.errors import JetpayError
from jetpay_async.ledger import Ledger, LedgerNotFoundError, PaymentsStoppedError, UnknownReferenceError

if TYPE_CHECKING:
    from jetpay_async._cli.io.exporter import Destination
    from jetpay_async._cli.io.request_reader import Requests
    from jetpay_async.ledger import PaymentBatch, PaymentReport
    from jetpay_async.outcomes import PreauthorizationOutcome

__all__ = ["preauthorize_file"]

# Between two messages that say how far a batch is.
PROGRESS_INTERVAL_SECONDS = 5.0


def preauthorize_file(request: BatchRequest, *, dry_run: bool) -> int:
    """Reserve the amounts of a file, or report what would be done.

    Raises:
        ConfigurationError: The file is not valid, the ledger can't be used or has other requests, or the outcomes can't
            be written to their destination. Nothing was sent.
    """
    destination = request.destination(columns=PAYMENT_COLUMNS)
    with read_requests(request.source) as requests, name_options():
        if dry_run:
            return asyncio.run(_report_dry_run(request, requests))
        return asyncio.run(_preauthorize(request, requests, destination))


_FINAL_MESSAGE = "ended at once; what was in flight is unknown: see jetpay unresolved list"


class _PreauthorizationRun(StoppableRun):
    def __init__(self, request: BatchRequest) -> None:
        super().__init__()
        self._request = request

    async def preauthorize(
        self, requests: Requests, destination: Destination | None
    ) -> tuple[PaymentReport, ExitStatus]:
        """Submit the requests, wait for their outcomes, and write them.

        Raises:
            InterruptedEarlyError: It was interrupted before the batch was stored.
            PaymentsStoppedError: It was interrupted, or an error ended it.
            LedgerError: The ledger can't be used, or has other requests.
        """
        request = self._request
        async with (
            request.connection.open_client(max_connections=request.concurrency) as client,
            client.durable_preauthorizations(
                request.ledger,
                concurrency=request.concurrency,
                rate=request.rate,
                restored=request.restored,
                account=request.account,
                accept_rejections=request.accept_rejections,
            ) as reservations,
        ):
            batch = await reservations.submit(request.batch, self.until_interrupted(requests))
            self.started(reservations)
            report = await _wait(batch)
            written = ExitStatus.DONE
            if destination is not None:
                written = await _write_payments(destination, batch, requests)
            return report, written


async def _preauthorize(request: BatchRequest, requests: Requests, destination: Destination | None) -> ExitStatus:
    run = _PreauthorizationRun(request)
    try:
        with stop_on_signals(run.stop, final_message=_FINAL_MESSAGE):
            report, written = await run.preauthorize(requests, destination)
    except InterruptedEarlyError:
        write_message("interrupted before the batch was stored: nothing was sent")
        return ExitStatus.INTERRUPTED
    except PaymentsStoppedError as error:
        return report_stop(request, error, error.progress, interrupted=run.interrupted)
    _write_report(request, report, duplicates=requests.given - requests.total)
    return gravest((_status_of(report), written))


async def _wait(batch: PaymentBatch[PreauthorizationOutcome]) -> PaymentReport:
    """Wait for the end of a batch, and say now and then how far it is."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_SECONDS)
            progress = await batch.progress()
            write_message(f"{batch.key}: {progress.finished:,} of {progress.total:,} are done")

    watcher = asyncio.create_task(watch())
    try:
        return await batch.wait()
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])


def _status_of(report: PaymentReport) -> ExitStatus:
    counts = report.counts
    if counts.unresolved:
        return ExitStatus.UNKNOWN
    if counts.rejected or counts.discarded:
        return ExitStatus.REJECTED
    return ExitStatus.ACCEPTED if counts.accepted else ExitStatus.DONE


def _write_report(request: BatchRequest, report: PaymentReport, *, duplicates: int) -> None:
    counts = report.counts
    if request.as_json:
        document = {**attrs.asdict(report), "total": counts.total, "duplicates": duplicates}
        write_result(to_json({"event": "report", **document}))
        return
    others = "".join(
        f", {getattr(counts, name):,} {name}" for name in ("accepted", "discarded") if getattr(counts, name)
    )
    reserved = f"{counts.succeeded:,} of {counts.total:,} reserved, {counts.rejected:,} rejected"
    lines = [f"{report.key}: {reserved}, {counts.unknown:,} unknown{others}{repeated(duplicates)}"]
    if counts.unknown:
        unresolved = f"jetpay unresolved list --ledger {shlex.quote(without_password(request.ledger))}"
        lines.append(f"Unknown ones may have been reserved, and are never sent again: {unresolved}")
    if counts.accepted:
        lines.append("Accepted ones are not final yet and are not sent again; events report how they end.")
    write_summary(request, lines)


async def _write_payments(
    destination: Destination, batch: PaymentBatch[PreauthorizationOutcome], requests: Requests
) -> ExitStatus:
    try:
        await destination.write(batch.payments(), requests)
    except (JetpayError, OutputFileError) as error:
        message = error.message if isinstance(error, JetpayError) else str(error)
        write_message(f"{message}; run the same command again to write it: nothing is sent twice")
        return ExitStatus.OUTPUT_FAILED
    return ExitStatus.DONE


async def _report_dry_run(request: BatchRequest, requests: Requests) -> ExitStatus:
    """Report what the batch would do. Nothing is sent, and no ledger is made."""
    known = Counter[str]()
    other: str | None = None
    with suppress(LedgerNotFoundError):
        async with Ledger(request.ledger, create=False) as ledger:
            for each in requests.distinct():
                with suppress(UnknownReferenceError):
                    payment = await ledger.payment(each.reference)
                    asked = attrs.asdict(each, filter=lambda field, _: field.name != "reference")
                    if payment.operation != "preauthorize" or dict(payment.arguments) != asked:
                        other = other or each.reference
                    known[payment.state.value] += 1
    new = requests.total - known.total()
    first, last = requests.ends
    facts = {"total": requests.total, "duplicates": requests.given - requests.total, "amount": requests.amount}
    if request.as_json:
        document = {**facts, "read_from": requests.form, "first": first, "last": last, "new": new, "stored": known}
        write_output(to_json({"event": "dry_run", "ok": other is None, "batch": request.batch, **document}))
    else:
        name = "stdin" if request.source == STDIN else request.source
        stored = ", ".join(f"{count:,} {state}" for state, count in sorted(known.items()))
        plan = f"{new:,} would be added" + (f"; the ledger has {stored}" if stored else "")
        if other is not None:
            plan = f"the ledger has {other!r} for another payment; it would be refused: give that one another reference"
        write_output(
            f"{name}: {requests.total:,} preauthorizations of {requests.amount:,} in all"
            f"{repeated(requests.given - requests.total)}, read from {requests.form}\n"
            f"first: {first}\nlast:  {last}\n"
            f"batch {request.batch} in {without_password(request.ledger)}: {plan}"
        )
    return ExitStatus.DONE if other is None else ExitStatus.USAGE
