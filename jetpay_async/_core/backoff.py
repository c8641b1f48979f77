"""Exponential back-off, as a function of numbers."""

from __future__ import annotations

_MAX_DOUBLINGS = 64
"""A float holds 2.0 to this power, whatever the base; no pause is that long."""


def exponential_backoff(attempt: int, *, base: float, longest: float) -> float:
    """Return how long to wait after an attempt: twice as long after each, up to a limit.

    Args:
        attempt: The attempt that failed, from 1 on.
        base: Seconds after the first.
        longest: Seconds at most.
    """
    return min(longest, base * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
