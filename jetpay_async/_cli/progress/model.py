"""How far a batch has come and how fast it goes, in numbers and in text."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import attrs

from jetpay_async.ledger import Progress, Report

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ProgressSample", "ProgressSampler", "Show", "counts", "duration", "outcome_counts"]


@attrs.frozen(kw_only=True)
class ProgressSample:
    """How far a batch has come, and how fast it goes."""

    progress: Progress
    per_second: float
    """Recent outcomes per second."""
    seconds_left: float | None
    """At this rate; None if the rate is zero."""


class ProgressSampler:
    """Measures the rate over the last half minute: the average of a whole night would not show the present.

    Args:
        clock: Seconds, for tests.
    """

    WINDOW_SECONDS = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def measure(self, progress: Progress) -> ProgressSample:
        """Add the present progress, and return it with the rate."""
        now = self._clock()
        self._samples.append((now, progress.finished))
        while now - self._samples[0][0] > self.WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        began, finished = self._samples[0]
        per_second = (progress.finished - finished) / (now - began) if now > began else 0.0
        left = progress.total - progress.finished
        return ProgressSample(
            progress=progress,
            per_second=per_second,
            seconds_left=left / per_second if per_second > 0 else None,
        )


Show: TypeAlias = "Callable[[ProgressSample], None]"


_MAY_WAIT_FOR = "they wait for another batch that has them in flight, for --rate, or for a pause after errors"


def counts(sample: ProgressSample) -> list[str]:
    """Write the counts of a batch and, unless it is complete, its rate and the time that is left."""
    progress = sample.progress
    finished = outcome_counts(progress)
    if progress.complete:
        return finished
    waits: list[str] = []
    if (waiting := progress.waiting) is not None:
        debits = f"{waiting.debits:,} {'debit' if waiting.debits == 1 else 'debits'}"
        waits.append(f"waiting {duration(waiting.seconds)} to resolve {debits} in doubt")
        # What is pending may be the same debits in this batch. A rate would only decay.
        if not progress.pending or not sample.per_second:
            return [*finished, *waits]
    if progress.pending and not progress.sending and not sample.per_second:
        return [*finished, f"{progress.pending:,} pending, none in flight: {_MAY_WAIT_FOR}"]
    left = "?" if sample.seconds_left is None else duration(sample.seconds_left)
    return [*finished, f"{progress.sending:,} in flight", f"{sample.per_second:,.0f}/s", f"{left} left", *waits]


def outcome_counts(batch: Progress | Report) -> list[str]:
    """Write how many debits of a batch have each outcome; accepted ones only if there are any."""
    accepted = [f"{batch.accepted:,} accepted"] if batch.accepted else []
    return [
        f"{batch.captured:,} captured",
        *accepted,
        f"{batch.rejected:,} rejected",
        f"{batch.unknown:,} unknown",
    ]


def duration(seconds: float) -> str:
    """Write a number of seconds for people to read."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
