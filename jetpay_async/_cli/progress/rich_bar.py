"""The progress of a batch on a terminal: a bar, and the counts beneath it. Needs rich."""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from jetpay_async._cli.io.console import GuardedStream
from jetpay_async._cli.progress.model import counts

if TYPE_CHECKING:
    from collections.abc import Generator

    from jetpay_async._cli.progress.model import ProgressSample, Show

__all__ = ["Bar"]


class Bar:
    """A bar on stderr. It honors ``NO_COLOR``."""

    interval_seconds = 0.25

    def __init__(self) -> None:
        self._console = Console(file=cast("IO[str]", GuardedStream("stderr")), highlight=False)

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
        # A batch that never begins leaves no bar behind.
        with Live(Group(bar, waiting), console=self._console, refresh_per_second=8, transient=True) as live:

            def show(sample: ProgressSample) -> None:
                bar.update(task, completed=sample.progress.finished, total=sample.progress.total)
                live.transient = False
                live.update(Group(bar, _colored(sample)))

            yield show


_STYLES = {"accepted": "cyan", "rejected": "yellow", "unknown": "bold red"}


def _colored(sample: ProgressSample) -> Text:
    """Highlight the counts of debits that need attention."""
    attention = {
        "accepted": sample.progress.accepted,
        "rejected": sample.progress.rejected,
        "unknown": sample.progress.unknown,
    }
    parts: list[Text] = []
    for text in counts(sample):
        name = text.split()[-1]
        parts.append(Text(text, style=_STYLES[name] if attention.get(name) else "dim"))
    return Text("  ").join(parts)
