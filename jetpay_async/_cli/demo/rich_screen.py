"""The demo on a terminal: bars while it runs, a table at its end. The only module that needs rich."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from jetpay_async._cli.demo.records import DemoStep
from jetpay_async._cli.demo.screens import conclusion, doubts, introduction, notes, sections

if TYPE_CHECKING:
    from collections.abc import Generator

    from jetpay_async._cli.demo.audit import AuditReport
    from jetpay_async._cli.demo.records import Plan, Stage
    from jetpay_async._cli.demo.screens import StageCallback
    from jetpay_async._core.retry import RetryPolicy

__all__ = ["ColourScreen"]


class ColourScreen:
    """A terminal. It honours ``NO_COLOR``."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def introduce(self, plan: Plan, policy: RetryPolicy) -> None:
        """Say what is going to happen."""
        title, *lines = introduction(plan, policy)
        self._console.print(Text(title, style="bold"), *(Text(line, style="dim") for line in lines), sep="\n")

    @contextmanager
    def watching(self) -> Generator[StageCallback]:
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

            def watch(stage: Stage) -> None:
                bars.update(tasks[stage.step], completed=stage.done, total=stage.total, notes=notes(stage))

            yield watch

    def show(self, report: AuditReport) -> None:
        """Show what was found."""
        table = Table(box=box.ROUNDED, show_header=False, border_style="dim")
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")
        for section in sections(report):
            for row in section:
                table.add_row(row.label, Text(row.value, style=_STYLES[row.good]), row.note)
            table.add_section()
        verdict, *details = conclusion(report)
        style = "bold red" if report.problems else "bold green"
        self._console.print(
            Group(Padding(table, (1, 0)), *map(Text, doubts(report)), Text(verdict, style=style), *map(Text, details))
        )


_STYLES = {True: "bold green", False: "bold red", None: ""}
