"""Where the demo is shown: as bars and a table on a terminal, as plain lines elsewhere, or as JSON."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import attrs

from jetpay_async._cli.demo.records import DemoStep, OnProgress, Plan, StepProgress
from jetpay_async._cli.demo.render import conclusion, introduction, notes, opening, sections, unknown_outcomes
from jetpay_async._cli.io.console import to_json, write_output

if TYPE_CHECKING:
    from collections.abc import Generator

    from jetpay_async._cli.demo.audit import AuditReport
    from jetpay_async._cli.demo.opening import FirstPayment
    from jetpay_async._core.retry import RetryPolicy

__all__ = ["Screen", "choose_screen"]


class Screen(Protocol):
    """Where a run is shown."""

    def open(self, first: FirstPayment) -> None:
        """Show the opening."""
        ...

    def introduce(self, plan: Plan, policy: RetryPolicy) -> None:
        """Show what is going to happen."""
        ...

    def showing(self) -> AbstractContextManager[OnProgress]:
        """Show the progress, for as long as the context lasts."""
        ...

    def show(self, report: AuditReport) -> None:
        """Show the result."""
        ...


def choose_screen(*, as_json: bool) -> Screen:
    """Choose by what stdout is connected to, and by what is installed."""
    if as_json:
        return _JsonScreen()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and find_spec("rich") is not None:
        from jetpay_async._cli.demo.rich_screen import RichScreen  # noqa: PLC0415 - needs rich, which is optional

        return RichScreen()
    return _PlainScreen()


class _JsonScreen:
    def __init__(self) -> None:
        self._first: FirstPayment | None = None

    def open(self, first: FirstPayment) -> None:
        """Keep it: the output is one document."""
        self._first = first

    def introduce(self, plan: Plan, policy: RetryPolicy) -> None:
        """Write nothing: the output is one document."""

    def showing(self) -> AbstractContextManager[OnProgress]:
        return nullcontext(lambda _: None)

    def show(self, report: AuditReport) -> None:
        document = {"first_payment": None if self._first is None else attrs.asdict(self._first), **attrs.asdict(report)}
        complete = self._first is not None and self._first.complete
        write_output(to_json({"ok": complete and not report.problems, **document}))


class _PlainScreen:
    def open(self, first: FirstPayment) -> None:
        write_output("\n".join(opening(first)))

    def introduce(self, plan: Plan, policy: RetryPolicy) -> None:
        write_output("\n".join(introduction(plan, policy)))

    @contextmanager
    def showing(self) -> Generator[OnProgress]:
        """Write a line at the end of each step; the webhooks have none of their own, they end with the run."""

        def show(progress: StepProgress) -> None:
            if progress.done == progress.total and progress.step is not DemoStep.WEBHOOKS:
                special = f" ({notes(progress)})" if progress.notes else ""
                write_output(f"{progress.step}: {progress.done} of {progress.total}{special}")

        yield show

    def show(self, report: AuditReport) -> None:
        lines = [
            line
            for section in sections(report)
            for line in ("", *(f"{row.label:<16}{row.value:>6}  {row.note}".rstrip() for row in section))
        ]
        write_output("\n".join((*lines, "", *unknown_outcomes(report), *conclusion(report))))
