"""A batch on a terminal: a bar, and what there is to know beneath it. Needs rich."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from jetpay_async._cli.progress.display import numbers

if TYPE_CHECKING:
    from collections.abc import Generator

    from jetpay_async._cli.progress.display import ProgressSample, Show

__all__ = ["Bar"]


class Bar:
    """A bar on stderr. It honours ``NO_COLOR``."""

    interval = 0.25

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def showing(self, batch: str) -> Generator[Show]:
        """Show a bar for the batch, and leave its last state on the screen."""
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            console=self._console,
            expand=True,
        )
        task = bar.add_task(batch, total=None)
        waiting = Text("storing the batch", style="dim")
        # What never begins leaves no bar behind.
        with Live(Group(bar, waiting), console=self._console, refresh_per_second=8, transient=True) as live:

            def show(sample: ProgressSample) -> None:
                bar.update(task, completed=sample.progress.finished, total=sample.progress.total)
                live.transient = False
                live.update(Group(bar, _coloured(sample)))

            yield show


_STYLES = {"rejected": "yellow", "unknown": "bold red"}


def _coloured(sample: ProgressSample) -> Text:
    """Let stand out what a person has to look at, if there is any."""
    bad = {"rejected": sample.progress.rejected, "unknown": sample.progress.unknown}
    parts: list[Text] = []
    for words in numbers(sample):
        name = words.split()[-1]
        parts.append(Text(words, style=_STYLES[name] if bad.get(name) else "dim"))
    return Text("  ").join(parts)
