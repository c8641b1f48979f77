"""Compare what the client said with the sandbox's books and with what the webhooks told. Pure.

All three must agree on how each order ended:

============  ==========================================  ==========================
the client    the sandbox's books                         the webhooks
============  ==========================================  ==========================
captured      one debit, its money taken once             ``paid``, once
accepted      one debit, taken once or failed             the one or the other
failed        one debit, failed                           ``failed``
declined      no debit                                    nothing
not done      no debit, or one that is still reserved     nothing of the kind
unknown       no debit, or one: the books tell            what the books say
============  ==========================================  ==========================

"Unknown" is the honest word for a preauthorization whose reply was lost: nothing can tell the client what became of
it. It is counted, and shown beside what the books say; any other word about such a card would be a guess.
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

    from jetpay_async._cli.demo.records import BatchRecord, Record, Story
    from jetpay_async.errors import JetpayError
    from jetpay_async.sandbox import Transaction

__all__ = ["AuditReport", "BatchFinding", "Kind", "Problem", "UnknownOutcome", "Verdict", "audit", "verdict_on"]


class Verdict(StrEnum):
    """How an order ended, in the client's words."""

    CAPTURED = "captured"
    ACCEPTED = "accepted"
    """The bank takes its time; a webhook tells the end."""
    FAILED = "failed"
    DECLINED = "declined"
    NOT_DONE = "not done"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What is wrong with an outcome."""

    LOST = "lost"
    """The client's word and the facts differ."""
    DOUBLED = "doubled"
    """It happened twice."""


@attrs.frozen(kw_only=True)
class Problem:
    """An outcome that was lost or doubled. There must be none, ever."""

    kind: Kind
    what: str


@attrs.frozen(kw_only=True)
class UnknownOutcome:
    """An outcome that the client called unknown, and what the sandbox knows of it."""

    operation: str | None
    debit_id: str | None
    arguments: Mapping[str, str]
    started_at: datetime | None
    cause: str
    books: str


@attrs.frozen(kw_only=True)
class BatchFinding:
    """What became of the batch that went through a ledger."""

    total: int
    stopped_after: int
    """Outcomes of the first run; the second told them again, and the others."""
    captured: int
    confirmed_by_status: int
    captured_twice: int
    faults: Mapping[str, int]


@attrs.frozen(kw_only=True)
class AuditReport:
    """What the demo found. The counts from ``captured`` to ``unknown`` add up to ``asked``."""

    plan: Plan
    asked: int
    captured: int
    accepted: int
    failed: int
    declined: int
    not_done: int
    unknown: int
    confirmed_by_status: int
    """DurableCaptures whose reply was lost, and whose end was learnt from the status."""
    sent_again: int
    """Captures that were sent again once it was proven that nothing had happened."""
    captured_twice: int
    events_made: int
    events_received: int
    events_paid: int
    events_failed: int
    deliveries: int
    deliveries_refused: int
    events_repeated: int
    """Events that arrived again, and were skipped."""
    faults: Mapping[str, int]
    """How often each kind struck."""
    seconds: float
    per_second: float
    """Preauthorizations and captures."""
    batch: BatchFinding
    doubts: tuple[UnknownOutcome, ...]
    problems: tuple[Problem, ...]


_TAKEN = frozenset({TransactionState.PAID, TransactionState.COMPLETED})
_OVER = frozenset({TransactionState.FAILED, TransactionState.CANCELLED})


def verdict_on(outcome: Capture | JetpayError) -> Verdict:
    """Sort the last word on an order."""
    match outcome:
        case Capture():
            return Verdict.CAPTURED if outcome.state in _TAKEN else Verdict.ACCEPTED
        case TransactionFailedError():
            return Verdict.FAILED
        case OutcomeUnknownError():
            return Verdict.UNKNOWN
        case APIError(status=402):  # the sandbox's answer for a card that is declined
            return Verdict.DECLINED
        case _:
            return Verdict.NOT_DONE


def audit(record: Record) -> AuditReport:
    """Judge a run."""
    books: dict[str, list[Transaction]] = defaultdict(list)
    for debit in record.debits:
        books[debit.from_credit_card_id or ""].append(debit)
    paid = Counter(event.transaction_id for event in record.events if isinstance(event, TransactionPaid))
    failed = Counter(event.transaction_id for event in record.events if isinstance(event, TransactionFailed))
    problems = [*_event_problems(record), *_strays(record), *_batch_problems(record.batch)]
    for story in record.stories:
        debits = books[story.order.payer.credit_card_id]
        problems += (
            Problem(kind=kind, what=f"card {story.order.number}, {verdict_on(story.outcome)}: {what}")
            for kind, what in _disagreements(story, debits, paid, failed)
        )
    verdicts = Counter(verdict_on(story.outcome) for story in record.stories)
    captures = [story.outcome for story in record.stories if isinstance(story.outcome, Capture)]
    calls = len(record.stories) + sum(story.debit_id is not None for story in record.stories)
    return AuditReport(
        plan=record.plan,
        asked=len(record.stories),
        captured=verdicts[Verdict.CAPTURED],
        accepted=verdicts[Verdict.ACCEPTED],
        failed=verdicts[Verdict.FAILED],
        declined=verdicts[Verdict.DECLINED],
        not_done=verdicts[Verdict.NOT_DONE],
        unknown=verdicts[Verdict.UNKNOWN],
        confirmed_by_status=sum(capture.confirmed_by_status for capture in captures),
        sent_again=sum(capture.attempts > 1 for capture in captures),
        captured_twice=sum(debit.captures > 1 for debit in record.debits),
        events_made=record.events_made,
        events_received=len(record.events),
        events_paid=paid.total(),
        events_failed=failed.total(),
        deliveries=record.deliveries,
        deliveries_refused=record.deliveries_refused,
        events_repeated=record.events_repeated,
        faults=record.faults,
        seconds=round(record.seconds, 3),
        per_second=round(calls / record.seconds, 1),
        batch=_find(record.batch),
        doubts=tuple(_doubts(record.stories, books)),
        problems=tuple(problems),
    )


def _event_problems(record: Record) -> Iterator[Problem]:
    times = Counter(event.id for event in record.events)
    missing = set(range(1, record.events_made + 1)) - times.keys()
    if missing:
        yield Problem(kind=Kind.LOST, what=f"{len(missing)} webhook events never arrived, the first is {min(missing)}")
    for event_id, count in times.items():
        if count > 1:
            yield Problem(kind=Kind.DOUBLED, what=f"webhook event {event_id} was handled {count} times")


def _find(batch: BatchRecord) -> BatchFinding:
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
    """Every card of the batch is good: each debit is to be captured, told once, and taken once."""
    told = Counter(outcome.debit_id for outcome in batch.outcomes)
    captured = {outcome.debit_id for outcome in batch.outcomes if isinstance(outcome, Captured)}
    for debit in batch.debits:
        name = f"debit {debit.identifier} of the batch"
        if told[debit.identifier] != 1:
            kind = Kind.DOUBLED if told[debit.identifier] else Kind.LOST
            yield Problem(kind=kind, what=f"{name}: the ledger told {told[debit.identifier]} outcomes")
        if debit.captures > 1:
            yield Problem(kind=Kind.DOUBLED, what=f"{name}: its money was taken {debit.captures} times")
        if not debit.captures or debit.identifier not in captured:
            yield Problem(kind=Kind.LOST, what=f"{name}: it was not captured; the books say: {_in_words([debit])}")


def _strays(record: Record) -> Iterator[Problem]:
    cards = {story.order.payer.credit_card_id for story in record.stories}
    for debit in record.debits:
        if debit.from_credit_card_id not in cards:
            yield Problem(kind=Kind.LOST, what=f"the books hold debit {debit.identifier}, which nobody asked for")


def _disagreements(
    story: Story, debits: Sequence[Transaction], paid: Mapping[str, int], failed: Mapping[str, int]
) -> Iterator[tuple[Kind, str]]:
    if len(debits) > 1:
        yield Kind.DOUBLED, f"the books hold {len(debits)} debits"
    for debit in debits:
        if debit.captures > 1:
            yield Kind.DOUBLED, f"the money of {debit.identifier} was taken {debit.captures} times"
        told = paid.get(debit.identifier, 0)
        if told != debit.captures:
            kind = Kind.DOUBLED if told > debit.captures else Kind.LOST
            yield kind, f"the webhooks told {told} times that {debit.identifier} is paid, not {debit.captures} times"
        if debit.state in _OVER and not failed.get(debit.identifier):
            yield Kind.LOST, f"no webhook told that {debit.identifier} is {debit.state}"
        if debit.amount != story.order.amount:
            yield Kind.LOST, f"the books say {debit.amount}, not {story.order.amount}"
    if not _books_agree(story, debits):
        yield Kind.LOST, f"the books say: {_in_words(debits)}"


def _books_agree(story: Story, debits: Sequence[Transaction]) -> bool:
    verdict = verdict_on(story.outcome)
    if story.debit_id is None:
        reserved_at_most = all(debit.state is TransactionState.PREAUTHORIZED for debit in debits)
        return reserved_at_most if verdict is Verdict.UNKNOWN else not debits
    return story.debit_id in {debit.identifier for debit in debits} and all(
        _debit_agrees(verdict, debit) for debit in debits
    )


def _debit_agrees(verdict: Verdict, debit: Transaction) -> bool:
    taken = debit.captures > 0
    match verdict:
        case Verdict.CAPTURED:
            return taken
        case Verdict.ACCEPTED:
            return taken or debit.state in _OVER
        case Verdict.FAILED:
            # Money that was taken, and could not be paid out to the merchant, has failed too.
            return debit.state in _OVER and taken == (debit.fail_direction == "push")
        case Verdict.UNKNOWN:
            return True
        case _:
            return debit.state is TransactionState.PREAUTHORIZED


def _doubts(stories: Iterable[Story], books: Mapping[str, Sequence[Transaction]]) -> Iterator[UnknownOutcome]:
    for story in stories:
        error = story.outcome
        if isinstance(error, OutcomeUnknownError):
            yield UnknownOutcome(
                operation=error.operation,
                debit_id=error.debit_id,
                arguments=error.arguments,
                started_at=error.started_at,
                cause=error.reason,
                books=_in_words(books[story.order.payer.credit_card_id]),
            )


def _in_words(debits: Sequence[Transaction]) -> str:
    """Say what the sandbox's books hold for a card."""
    if not debits:
        return "nothing was reserved"
    return "; ".join(
        f"{debit.state}, {f'captured {debit.captures} times' if debit.captures else 'not captured'}: {debit.identifier}"
        for debit in debits
    )
