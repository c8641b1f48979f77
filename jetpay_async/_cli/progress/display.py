"""Where the progress of a batch is shown: a bar on a terminal, lines elsewhere, or JSON."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import attrs

from jetpay_async._cli.io.console import messages_are_json, to_json, write_message, write_output
from jetpay_async._cli.progress.model import ProgressSample, Show, counts

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Display", "choose_display"]


class Display(Protocol):
    """Where the progress is shown."""

    interval_seconds: float
    """Seconds between two samples."""

    def showing(self, batch: str) -> AbstractContextManager[Show]:
        """Show the progress of a batch, for as long as the context lasts."""
        ...


def choose_display(*, as_json: bool) -> Display:
    """Choose by what stderr is connected to, and by what is installed."""
    if as_json:
        return JsonLines()
    if (
        sys.stderr.isatty()
        and not messages_are_json()
        and os.environ.get("TERM") != "dumb"
        and find_spec("rich") is not None
    ):
        from jetpay_async._cli.progress.rich_bar import Bar  # noqa: PLC0415 - needs rich, which is optional

        return Bar()
    return TextLines()


class JsonLines:
    """An object per sample on stdout."""

    interval_seconds = 2.0

    @contextmanager
    def showing(self, batch: str) -> Generator[Show]:
        """Write the samples of a batch."""

        def show(sample: ProgressSample) -> None:
            left = sample.seconds_left
            write_output(
                to_json(
                    {
                        "event": "progress",
                        "batch": batch,
                        **attrs.asdict(sample.progress),
                        "per_second": round(sample.per_second, 1),
                        "seconds_left": None if left is None else round(left),
                    }
                )
            )

        yield show


class TextLines:
    """A line per sample on stderr."""

    interval_seconds = 5.0

    @contextmanager
    def showing(self, batch: str) -> Generator[Show]:
        """Write the samples of a batch."""

        def show(sample: ProgressSample) -> None:
            progress = sample.progress
            write_message(f"{batch}: {progress.finished:,} of {progress.total:,}: {', '.join(counts(sample))}")

        yield show
