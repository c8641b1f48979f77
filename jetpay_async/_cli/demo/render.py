"""The texts of the demo: the introduction, the table, the unknown outcomes and the conclusion. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from jetpay_async._cli.demo.records import BATCH_SIZE

if TYPE_CHECKING:
    from jetpay_async._cli.demo.audit import AuditReport
    from jetpay_async._cli.demo.opening import FirstPayment
    from jetpay_async._cli.demo.records import Plan, StepProgress
    from jetpay_async._core.retry import RetryPolicy

__all__ = ["TableRow", "conclusion", "introduction", "notes", "opening", "sections", "unknown_outcomes"]


def opening(first: FirstPayment) -> list[str]:
    """Write what each call of the opening made, in lines."""
    steps = {
        "ensure_webhook": f"id {first.webhook_id}",
        "create_contact": first.contact_id,
        "card_form": f"{first.credit_card_id}, typed by the payer",
        "create_bank_account": first.bank_account_id,
        "preauthorize": f"{first.debit_id}  {first.amount}",
        "capture": str(first.state),
        "event": "paid, and handled" if first.complete else "none came that says paid",
    }
    return ["From nothing to a payment:", *(f"  {name:<21}{made}" for name, made in steps.items()), ""]


def introduction(plan: Plan, policy: RetryPolicy) -> list[str]:
    """Write what is going to happen, in lines."""
    lines = [
        f"{plan.count} cards, {plan.concurrency} calls at a time, on a sandbox in this process: no real money.",
    ]
    if plan.faults:
        lines.append("It loses, cuts and delays replies, answers 5xx and 429, and repeats webhooks.")
    lines += [
        "A debit that is captured twice is paid twice there: only the client prevents it.",
        f"Then {BATCH_SIZE} more are captured as a batch whose run is stopped half-way.",
        f"resolve_after={policy.resolve_after} suits this sandbox only; keep the default for Jetpay.",
        "",
    ]
    return lines


def notes(progress: StepProgress) -> str:
    """Write the special cases, in a stable order."""
    return ", ".join(f"{count} {note}" for note, count in sorted(progress.notes.items()))


@attrs.frozen
class TableRow:
    """A line of the table."""

    label: str
    value: str
    note: str = ""
    good: bool | None = None
    """Whether it is good news or bad; None if it is neither."""


def sections(report: AuditReport) -> list[list[TableRow]]:
    """Write the table: the outcomes, the faults, the webhooks, the time, and the batch."""
    outcomes = [
        TableRow("Orders", str(report.orders), "cards, each to be charged once"),
        TableRow("Captured", str(report.captured), "paid", good=True),
        TableRow("Accepted", str(report.accepted), "by a slow bank: a webhook reports the end"),
        TableRow("Failed", str(report.failed), "the bank rejected the capture"),
        TableRow("Declined", str(report.declined), "the card was declined, nothing was reserved"),
        TableRow("Unknown", str(report.unknown), "the reply of the preauthorization was lost"),
    ]
    if report.not_done:
        outcomes.append(TableRow("Not done", str(report.not_done), "and safe to repeat"))
    injected = f"injected, of {len(report.faults)} kinds" if report.plan.faults else "switched off"
    faults = [
        TableRow("Faults", str(sum(report.faults.values())), injected),
        TableRow("Resolved", str(report.confirmed_by_status), "captures without a reply, by their status"),
        TableRow("Sent again", str(report.sent_again), "captures that had not been processed"),
        TableRow(
            "Captured twice",
            str(report.captured_twice),
            "according to the sandbox's records",
            good=not report.captured_twice,
        ),
    ]
    batch = report.batch
    ledger = [
        TableRow("Batch", str(batch.total), "more debits, through a ledger in a file"),
        TableRow("Stopped after", str(batch.stopped_after), "as by a deployment; the next run continued"),
        TableRow("Replies lost", str(sum(batch.faults.values())), f"{batch.confirmed_by_status} of them were captured"),
        TableRow("Captured", str(batch.captured), "each of them once", good=batch.captured == batch.total),
    ]
    complete = report.events_received == report.events_created
    by_state = f"of {report.events_created}: {report.events_paid} paid, {report.events_failed} failed"
    webhooks = [
        TableRow("Webhook events", str(report.events_received), by_state, good=complete),
        TableRow("Sent twice", str(report.events_repeated), "events, each handled once"),
    ]
    speed = [
        TableRow("Wall time", f"{report.seconds:.1f} s", "preauthorizing and capturing"),
        TableRow("Per second", f"{report.per_second:.0f}", "calls, each of which takes the sandbox 0.1 s"),
    ]
    return [outcomes, faults, webhooks, speed, ledger]


MAX_UNKNOWN_SHOWN = 8


def unknown_outcomes(report: AuditReport) -> list[str]:
    """Write what the client could not know, and what the sandbox recorded, a line for each."""
    if not report.unknown_outcomes:
        return []
    lines = ["Unknown to the client, and what the sandbox recorded:"]
    lines += (
        f"  {unknown.debit_id or unknown.arguments['amount']}  {unknown.sandbox_record}"
        for unknown in report.unknown_outcomes[:MAX_UNKNOWN_SHOWN]
    )
    if len(report.unknown_outcomes) > MAX_UNKNOWN_SHOWN:
        lines.append(f"  and {len(report.unknown_outcomes) - MAX_UNKNOWN_SHOWN} more; --json shows all")
    return [*lines, ""]


def conclusion(report: AuditReport) -> list[str]:
    """Write whether everything agrees, and what does not."""
    if not report.problems:
        return ["Nothing lost or duplicated: client, sandbox and webhooks agree on every card."]
    lost = f"{len(report.problems)} outcomes were lost or duplicated:"
    return [lost, *(f"  {problem.kind}: {problem.description}" for problem in report.problems)]
