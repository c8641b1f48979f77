"""How a batch looks while it is captured: a bar on a terminal, a line now and then elsewhere, or JSON."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

from jetpay_async._cli.io.console import say, to_json, warn
from jetpay_async.ledger import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["Display", "ProgressSample", "ProgressSampler", "Show", "choose_display", "duration", "numbers"]


@attrs.frozen(kw_only=True)
class ProgressSample:
    """How far a batch has got, and how fast it goes."""

    progress: Progress
    per_second: float
    """Outcomes, of late."""
    seconds_left: float | None
    """At this rate; None if there is none."""


class ProgressSampler:
    """Measures the rate over the last half minute: a night's average would not show what goes on now."""

    _WINDOW = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def measure(self, progress: Progress) -> ProgressSample:
        """Add where the batch stands now."""
        now = self._clock()
        self._seen.append((now, progress.finished))
        while now - self._seen[0][0] > self._WINDOW and len(self._seen) > 2:
            self._seen.popleft()
        began, finished = self._seen[0]
        per_second = (progress.finished - finished) / (now - began) if now > began else 0.0
        left = progress.total - progress.finished
        return ProgressSample(
            progress=progress,
            per_second=per_second,
            seconds_left=left / per_second if per_second > 0 else None,
        )


Show: TypeAlias = "Callable[[ProgressSample], None]"


class Display(Protocol):
    """Where the progress is shown."""

    interval: float
    """Seconds between two looks."""

    def showing(self, batch: str) -> AbstractContextManager[Show]:
        """Show the progress of a batch, for as long as the context lasts."""
        ...


def choose_display(*, as_json: bool) -> Display:
    """Choose by where stderr leads to, and by what is installed."""
    if as_json:
        return _JsonLines()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and find_spec("rich") is not None:
        from jetpay_async._cli.progress.rich_bar import Bar  # noqa: PLC0415 - needs rich, which only beautifies

        return Bar()
    return _Lines()


class _JsonLines:
    interval = 2.0

    @contextmanager
    def showing(self, batch: str) -> Generator[Show]:
        """Write an object a look to stdout."""

        def show(sample: ProgressSample) -> None:
            left = sample.seconds_left
            say(
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


class _Lines:
    interval = 5.0

    @contextmanager
    def showing(self, batch: str) -> Generator[Show]:
        """Write a line a look to stderr."""

        def show(sample: ProgressSample) -> None:
            progress = sample.progress
            warn(f"{batch}: {progress.finished:,} of {progress.total:,}: {', '.join(numbers(sample))}")

        yield show


def numbers(sample: ProgressSample) -> list[str]:
    """Write what there is to know besides how much is done."""
    progress = sample.progress
    counts = [
        f"{progress.captured:,} captured",
        f"{progress.rejected:,} rejected",
        f"{progress.unknown:,} unknown",
    ]
    if progress.complete:
        return counts
    left = "?" if sample.seconds_left is None else duration(sample.seconds_left)
    return [*counts, f"{progress.sending:,} in flight", f"{sample.per_second:,.0f}/s", f"{left} left"]


def duration(seconds: float) -> str:
    """Write a number of seconds as people read it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
