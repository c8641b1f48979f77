"""Compare what the client reported with the sandbox's records and with the webhooks. Pure.

All three must agree on how each order ended:

============  ==========================================  ==========================
the client    the sandbox's records                       the webhooks
============  ==========================================  ==========================
captured      one debit, captured once                    ``paid``, once
accepted      one debit, captured once or failed          the one or the other
failed        one debit, failed                           ``failed``
declined      no debit                                    nothing
not done      no debit, or one that is still reserved     nothing of the kind
unknown       no debit, or one                            what the records show
============  ==========================================  ==========================

"Unknown" is the correct outcome of a preauthorization whose reply was lost: the client has no means to find out whether
it was processed. These are counted, and shown beside the sandbox's records.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from jetpay_async._cli.demo.records import Plan
from jetpay_async.errors import APIError, OutcomeUnknownError, TransactionFailedError
from jetpay_async.models import Capture, TransactionState
from jetpay_async.outcomes import Captured
from jetpay_async.webhooks import TransactionFailed, TransactionPaid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from jetpay_async._cli.demo.records import BatchRecord, OrderResult, RunRecord
    from jetpay_async.errors import JetpayError
    from jetpay_async.sandbox import Transaction

__all__ = [
    "AuditReport",
    "BatchFinding",
    "OrderOutcome",
    "Problem",
    "ProblemKind",
    "UnknownOutcome",
    "audit",
    "classify",
]


class OrderOutcome(StrEnum):
    """How an order ended, as the client reported it."""

    CAPTURED = "captured"
    ACCEPTED = "accepted"
    """The bank has not decided yet; a webhook reports the end."""
    FAILED = "failed"
    DECLINED = "declined"
    NOT_DONE = "not done"
    UNKNOWN = "unknown"


class ProblemKind(StrEnum):
    """What is wrong with an outcome."""

    LOST = "lost"
    """What the client reported and the sandbox's records differ."""
    DUPLICATED = "duplicated"
    """It happened twice."""


@attrs.frozen(kw_only=True)
class Problem:
    """An outcome that was lost or duplicated. There must be none, ever."""

    kind: ProblemKind
    description: str


@attrs.frozen(kw_only=True)
class UnknownOutcome:
    """An outcome that is unknown to the client, and what the sandbox recorded."""

    operation: str | None
    debit_id: str | None
    arguments: Mapping[str, str]
    started_at: datetime | None
    cause: str
    sandbox_record: str


@attrs.frozen(kw_only=True)
class BatchFinding:
    """The result of the batch that was captured through a ledger."""

    total: int
    stopped_after: int
    """Outcomes of the first run; the second reported them again, and the others."""
    captured: int
    confirmed_by_status: int
    captured_twice: int
    faults: Mapping[str, int]


@attrs.frozen(kw_only=True)
class AuditReport:
    """What the demo found. The counts from ``captured`` to ``unknown`` add up to ``orders``."""

    plan: Plan
    orders: int
    captured: int
    accepted: int
    failed: int
    declined: int
    not_done: int
    unknown: int
    confirmed_by_status: int
    """Captures whose reply was lost, and whose outcome was confirmed by the status."""
    sent_again: int
    """Captures that were sent again once it was proven that nothing had happened."""
    captured_twice: int
    events_created: int
    events_received: int
    events_paid: int
    events_failed: int
    deliveries: int
    deliveries_rejected: int
    events_repeated: int
    """Events that arrived again, and were skipped."""
    faults: Mapping[str, int]
    """How often each kind was injected."""
    seconds: float
    per_second: float
    """Preauthorizations and captures."""
    batch: BatchFinding
    unknown_outcomes: tuple[UnknownOutcome, ...]
    problems: tuple[Problem, ...]


_ENDED = frozenset({TransactionState.FAILED, TransactionState.CANCELLED})


def classify(result: Capture | JetpayError) -> OrderOutcome:
    """Classify the result of an order."""
    match result:
        case Capture():
            return OrderOutcome.CAPTURED if result.final else OrderOutcome.ACCEPTED
        case TransactionFailedError():
            return OrderOutcome.FAILED
        case OutcomeUnknownError():
            return OrderOutcome.UNKNOWN
        case APIError(status=402):  # the sandbox's response for a declined card
            return OrderOutcome.DECLINED
        case _:
            return OrderOutcome.NOT_DONE


def audit(record: RunRecord) -> AuditReport:
    """Compare what the parties of a run recorded."""
    debits_of_card: dict[str, list[Transaction]] = defaultdict(list)
    for debit in record.debits:
        debits_of_card[debit.from_credit_card_id or ""].append(debit)
    paid = Counter(event.transaction_id for event in record.events if isinstance(event, TransactionPaid))
    failed = Counter(event.transaction_id for event in record.events if isinstance(event, TransactionFailed))
    problems = [*_event_problems(record), *_unexpected_debits(record), *_batch_problems(record.batch)]
    for result in record.results:
        debits = debits_of_card[result.order.payer.credit_card_id]
        problems += (
            Problem(kind=kind, description=f"card {result.order.number}, {classify(result.result)}: {description}")
            for kind, description in _disagreements(result, debits, paid, failed)
        )
    outcomes = Counter(classify(result.result) for result in record.results)
    captures = [result.result for result in record.results if isinstance(result.result, Capture)]
    calls = len(record.results) + sum(result.debit_id is not None for result in record.results)
    return AuditReport(
        plan=record.plan,
        orders=len(record.results),
        captured=outcomes[OrderOutcome.CAPTURED],
        accepted=outcomes[OrderOutcome.ACCEPTED],
        failed=outcomes[OrderOutcome.FAILED],
        declined=outcomes[OrderOutcome.DECLINED],
        not_done=outcomes[OrderOutcome.NOT_DONE],
        unknown=outcomes[OrderOutcome.UNKNOWN],
        confirmed_by_status=sum(capture.confirmed_by_status for capture in captures),
        sent_again=sum(capture.attempts > 1 for capture in captures),
        captured_twice=sum(debit.captures > 1 for debit in record.debits),
        events_created=record.events_created,
        events_received=len(record.events),
        events_paid=paid.total(),
        events_failed=failed.total(),
        deliveries=record.deliveries,
        deliveries_rejected=record.deliveries_rejected,
        events_repeated=record.events_repeated,
        faults=record.faults,
        seconds=round(record.seconds, 3),
        per_second=round(calls / record.seconds, 1),
        batch=_batch_finding(record.batch),
        unknown_outcomes=tuple(_unknown_outcomes(record.results, debits_of_card)),
        problems=tuple(problems),
    )


def _event_problems(record: RunRecord) -> Iterator[Problem]:
    times = Counter(event.id for event in record.events)
    missing = set(range(1, record.events_created + 1)) - times.keys()
    if missing:
        yield Problem(
            kind=ProblemKind.LOST,
            description=f"{len(missing)} webhook events never arrived, the first is {min(missing)}",
        )
    for event_id, count in times.items():
        if count > 1:
            yield Problem(
                kind=ProblemKind.DUPLICATED, description=f"webhook event {event_id} was handled {count} times"
            )


def _batch_finding(batch: BatchRecord) -> BatchFinding:
    captured = [outcome for outcome in batch.outcomes if isinstance(outcome, Captured)]
    return BatchFinding(
        total=len(batch.debit_ids),
        stopped_after=batch.stopped_after,
        captured=len(captured),
        confirmed_by_status=sum(outcome.confirmed_by_status for outcome in captured),
        captured_twice=sum(debit.captures > 1 for debit in batch.debits),
        faults=batch.faults,
    )


def _batch_problems(batch: BatchRecord) -> Iterator[Problem]:
    """Every card of the batch is good: each debit must be captured and reported exactly once."""
    reported = Counter(outcome.debit_id for outcome in batch.outcomes)
    captured = {outcome.debit_id for outcome in batch.outcomes if isinstance(outcome, Captured)}
    for debit in batch.debits:
        name = f"debit {debit.identifier} of the batch"
        if reported[debit.identifier] != 1:
            kind = ProblemKind.DUPLICATED if reported[debit.identifier] else ProblemKind.LOST
            yield Problem(kind=kind, description=f"{name}: the ledger reported {reported[debit.identifier]} outcomes")
        if debit.captures > 1:
            yield Problem(kind=ProblemKind.DUPLICATED, description=f"{name}: it was captured {debit.captures} times")
        if not debit.captures or debit.identifier not in captured:
            yield Problem(
                kind=ProblemKind.LOST,
                description=f"{name}: it was not captured; the sandbox recorded: {_in_words([debit])}",
            )


def _unexpected_debits(record: RunRecord) -> Iterator[Problem]:
    cards = {result.order.payer.credit_card_id for result in record.results}
    for debit in record.debits:
        if debit.from_credit_card_id not in cards:
            yield Problem(
                kind=ProblemKind.LOST, description=f"the sandbox has debit {debit.identifier}, which no order asked for"
            )


def _disagreements(
    result: OrderResult, debits: Sequence[Transaction], paid: Mapping[str, int], failed: Mapping[str, int]
) -> Iterator[tuple[ProblemKind, str]]:
    if len(debits) > 1:
        yield ProblemKind.DUPLICATED, f"the sandbox has {len(debits)} debits"
    for debit in debits:
        if debit.captures > 1:
            yield ProblemKind.DUPLICATED, f"{debit.identifier} was captured {debit.captures} times"
        reported = paid.get(debit.identifier, 0)
        if reported != debit.captures:
            kind = ProblemKind.DUPLICATED if reported > debit.captures else ProblemKind.LOST
            yield (
                kind,
                f"the webhooks reported {debit.identifier} as paid {reported} times, not {debit.captures} times",
            )
        if debit.state in _ENDED and not failed.get(debit.identifier):
            yield ProblemKind.LOST, f"no webhook reported that {debit.identifier} is {debit.state}"
        if debit.amount != result.order.amount:
            yield ProblemKind.LOST, f"the sandbox recorded {debit.amount}, not {result.order.amount}"
    if not _records_agree(result, debits):
        yield ProblemKind.LOST, f"the sandbox recorded: {_in_words(debits)}"


def _records_agree(result: OrderResult, debits: Sequence[Transaction]) -> bool:
    outcome = classify(result.result)
    if result.debit_id is None:
        reserved_at_most = all(debit.state is TransactionState.PREAUTHORIZED for debit in debits)
        return reserved_at_most if outcome is OrderOutcome.UNKNOWN else not debits
    return result.debit_id in {debit.identifier for debit in debits} and all(
        _debit_agrees(outcome, debit) for debit in debits
    )


def _debit_agrees(outcome: OrderOutcome, debit: Transaction) -> bool:
    captured = debit.captures > 0
    match outcome:
        case OrderOutcome.CAPTURED:
            return captured
        case OrderOutcome.ACCEPTED:
            return captured or debit.state in _ENDED
        case OrderOutcome.FAILED:
            # A debit that was captured, but could not be paid out to the merchant, has failed too.
            return debit.state in _ENDED and captured == (debit.fail_direction == "push")
        case OrderOutcome.UNKNOWN:
            return True
        case _:
            return debit.state is TransactionState.PREAUTHORIZED


def _unknown_outcomes(
    results: Iterable[OrderResult], debits_of_card: Mapping[str, Sequence[Transaction]]
) -> Iterator[UnknownOutcome]:
    for result in results:
        error = result.result
        if isinstance(error, OutcomeUnknownError):
            yield UnknownOutcome(
                operation=error.operation,
                debit_id=error.debit_id,
                arguments=error.arguments,
                started_at=error.started_at,
                cause=error.reason,
                sandbox_record=_in_words(debits_of_card[result.order.payer.credit_card_id]),
            )


def _in_words(debits: Sequence[Transaction]) -> str:
    """Write what the sandbox recorded for a card."""
    if not debits:
        return "nothing was reserved"
    return "; ".join(
        f"{debit.state}, {f'captured {debit.captures} times' if debit.captures else 'not captured'}: {debit.identifier}"
        for debit in debits
    )
