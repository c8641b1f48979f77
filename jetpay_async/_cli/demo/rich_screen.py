"""The demo on a terminal: bars while it runs, a table at its end. Needs rich."""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from jetpay_async._cli.demo.records import DemoStep
from jetpay_async._cli.demo.render import conclusion, introduction, notes, opening, sections, unknown_outcomes
from jetpay_async._cli.io.console import GuardedStream

if TYPE_CHECKING:
    from collections.abc import Generator

    from jetpay_async._cli.demo.audit import AuditReport
    from jetpay_async._cli.demo.opening import FirstPayment
    from jetpay_async._cli.demo.records import OnProgress, Plan, StepProgress
    from jetpay_async._core.retry import RetryPolicy

__all__ = ["RichScreen"]


class RichScreen:
    """A terminal. It honors ``NO_COLOR``."""

    def __init__(self) -> None:
        self._console = Console(file=cast("IO[str]", GuardedStream("stdout")), highlight=False)

    def open(self, first: FirstPayment) -> None:
        """Show the opening."""
        title, *lines = opening(first)
        self._console.print(Text(title, style="bold"), *map(Text, lines), sep="\n")

    def introduce(self, plan: Plan, policy: RetryPolicy) -> None:
        """Show what is going to happen."""
        title, *lines = introduction(plan, policy)
        self._console.print(Text(title, style="bold"), *(Text(line, style="dim") for line in lines), sep="\n")

    @contextmanager
    def showing(self) -> Generator[OnProgress]:
        """Show a bar for each step."""
        bars = Progress(
            TextColumn("{task.description:<13}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[notes]:<26}", style="yellow"),
            console=self._console,
            expand=True,
        )
        with bars:
            tasks = {step: bars.add_task(step.capitalize(), total=None, notes="") for step in DemoStep}

            def show(progress: StepProgress) -> None:
                bars.update(tasks[progress.step], completed=progress.done, total=progress.total, notes=notes(progress))

            yield show

    def show(self, report: AuditReport) -> None:
        """Show the result."""
        table = Table(box=box.ROUNDED, show_header=False, border_style="dim")
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")
        for section in sections(report):
            for row in section:
                table.add_row(row.label, Text(row.value, style=_STYLES[row.good]), row.note)
            table.add_section()
        first, *details = conclusion(report)
        style = "bold red" if report.problems else "bold green"
        self._console.print(
            Group(
                Padding(table, (1, 0)),
                *map(Text, unknown_outcomes(report)),
                Text(first, style=style),
                *map(Text, details),
            )
        )


_STYLES = {True: "bold green", False: "bold red", None: ""}
