"""How the demo looks: as bars and a table on a terminal, as plain lines elsewhere, or as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

from jetpay_async._cli.demo.batch import DEBITS
from jetpay_async._cli.demo.records import DemoStep, Plan, Stage
from jetpay_async._cli.io.console import say, to_json

if TYPE_CHECKING:
    from jetpay_async._cli.demo.audit import AuditReport
    from jetpay_async._core.retry import RetryPolicy

__all__ = [
    "Row",
    "Screen",
    "StageCallback",
    "choose_screen",
    "conclusion",
    "doubts",
    "introduction",
    "notes",
    "sections",
]

StageCallback: TypeAlias = Callable[[Stage], None]
"""Is told of every step forward."""


class Screen(Protocol):
    """Where a run is shown."""

    def introduce(self, plan: Plan, policy: RetryPolicy) -> None:
        """Say what is going to happen."""
        ...

    def watching(self) -> AbstractContextManager[StageCallback]:
        """Show the progress, for as long as the context lasts."""
        ...

    def show(self, report: AuditReport) -> None:
        """Show what was found."""
        ...


def choose_screen(*, as_json: bool) -> Screen:
    """Choose by where stdout leads to, and by what is installed."""
    if as_json:
        return _JsonScreen()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and find_spec("rich") is not None:
        from jetpay_async._cli.demo.rich_screen import ColourScreen  # noqa: PLC0415 - needs rich, which only beautifies

        return ColourScreen()
    return _PlainScreen()


class _JsonScreen:
    def introduce(self, plan: Plan, policy: RetryPolicy) -> None:
        """Say nothing: there is to be one document."""

    def watching(self) -> AbstractContextManager[StageCallback]:
        return nullcontext(lambda _: None)

    def show(self, report: AuditReport) -> None:
        say(to_json({"ok": not report.problems, **attrs.asdict(report)}))


class _PlainScreen:
    def introduce(self, plan: Plan, policy: RetryPolicy) -> None:
        say("\n".join(introduction(plan, policy)))

    @contextmanager
    def watching(self) -> Generator[StageCallback]:
        """Write a line at the end of each step; the webhooks have none of their own, they end with the run."""

        def watch(stage: Stage) -> None:
            if stage.done == stage.total and stage.step is not DemoStep.WEBHOOKS:
                say(f"{stage.step}: {stage.done} of {stage.total}" + (f" ({notes(stage)})" if stage.notes else ""))

        yield watch

    def show(self, report: AuditReport) -> None:
        lines = [
            line
            for section in sections(report)
            for line in ("", *(f"{row.label:<16}{row.value:>6}  {row.note}".rstrip() for row in section))
        ]
        say("\n".join((*lines, "", *doubts(report), *conclusion(report))))


def introduction(plan: Plan, policy: RetryPolicy) -> list[str]:
    """Say what is going to happen, in lines."""
    lines = [
        f"{plan.count} cards, {plan.concurrency} calls at a time, on a sandbox in this process: no real money.",
    ]
    if plan.faults:
        lines.append("It loses, cuts and delays replies, answers 5xx and 429, and repeats webhooks.")
    lines += [
        "A debit that is captured twice is paid twice there: only the client prevents it.",
        f"Then {DEBITS} more are captured as a batch whose run is stopped half-way.",
        f"RetryPolicy(resolve_after={policy.resolve_after}) is for this sandbox; keep the default for Jetpay.",
        "",
    ]
    return lines


def notes(stage: Stage) -> str:
    """Write the special cases, in a stable order."""
    return ", ".join(f"{count} {note}" for note, count in sorted(stage.notes.items()))


@attrs.frozen
class Row:
    """A line of the table."""

    label: str
    value: str
    note: str = ""
    good: bool | None = None
    """Whether it is good news or bad; None if it is neither."""


def sections(report: AuditReport) -> list[list[Row]]:
    """Write the table: what became of the cards, how, what the webhooks said, how long it took, and the batch."""
    outcomes = [
        Row("Asked", str(report.asked), "cards, each to be charged once"),
        Row("Captured", str(report.captured), "the money is taken", good=True),
        Row("Accepted", str(report.accepted), "by a slow bank: a webhook tells the end"),
        Row("Failed", str(report.failed), "the bank rejected the capture"),
        Row("Declined", str(report.declined), "the card was rejected, nothing reserved"),
        Row("Unknown", str(report.unknown), "the reply was lost, and nothing else can tell"),
    ]
    if report.not_done:
        outcomes.append(Row("Not done", str(report.not_done), "and safe to ask for again"))
    faults = f"struck, of {len(report.faults)} kinds" if report.plan.faults else "switched off"
    trouble = [
        Row("Faults", str(sum(report.faults.values())), faults),
        Row("Settled", str(report.confirmed_by_status), "captures whose reply was lost: the status told"),
        Row("Sent again", str(report.sent_again), "captures of which nothing had been done"),
        Row("Captured twice", str(report.captured_twice), "by the sandbox's books", good=not report.captured_twice),
    ]
    batch = report.batch
    ledger = [
        Row("Batch", str(batch.total), "debits more, from a ledger: a file that remembers"),
        Row("Stopped after", str(batch.stopped_after), "as by a deploy; the same lines went on"),
        Row(
            "Replies lost",
            str(sum(batch.faults.values())),
            f"the status told: {batch.confirmed_by_status} of them were captured",
        ),
        Row("Captured", str(batch.captured), "each of them once", good=batch.captured == batch.total),
    ]
    complete = report.events_received == report.events_made
    told = f"of {report.events_made}: {report.events_paid} paid, {report.events_failed} failed"
    webhooks = [
        Row("Webhook events", str(report.events_received), told, good=complete),
        Row("Sent twice", str(report.events_repeated), "events, each handled once"),
    ]
    sample = [
        Row("Wall time", f"{report.seconds:.1f} s", "preauthorizing and capturing"),
        Row("Per second", f"{report.per_second:.0f}", "calls, of which each takes 0.1 s at the sandbox"),
    ]
    return [outcomes, trouble, webhooks, sample, ledger]


_DOUBTS_SHOWN = 8


def doubts(report: AuditReport) -> list[str]:
    """Write what the client could not know, and what the books say, a line for each."""
    if not report.doubts:
        return []
    lines = ["Unknown to the client, and what the sandbox's books say of it:"]
    lines += (
        f"  {doubt.debit_id or doubt.arguments['amount']}  {doubt.books}" for doubt in report.doubts[:_DOUBTS_SHOWN]
    )
    if len(report.doubts) > _DOUBTS_SHOWN:
        lines.append(f"  and {len(report.doubts) - _DOUBTS_SHOWN} more; --json tells all")
    return [*lines, ""]


def conclusion(report: AuditReport) -> list[str]:
    """Write the verdict, and what is wrong if anything is."""
    if not report.problems:
        return ["Nothing lost, nothing doubled: client, books and webhooks agree on every card."]
    lost = f"{len(report.problems)} outcomes were lost or doubled:"
    return [lost, *(f"  {problem.kind}: {problem.what}" for problem in report.problems)]
