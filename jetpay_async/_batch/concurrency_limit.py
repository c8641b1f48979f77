"""Adaptive concurrency limit for batch workers: additive increase, multiplicative decrease (AIMD), as in TCP."""

from __future__ import annotations

# Rounds of answers in which a limit that was cut is back at its maximum; a small one grows by one place a round. If a
# large one grew no faster, a service that answers one request in a hundred with 500, which is no overload, would hold
# 64 down to 14.
RECOVERY_ROUNDS = 16


class AIMDLimiter:
    """How many items may be in flight at the same time.

    Args:
        concurrency: The maximum, and the limit at the start.
    """

    __slots__ = ("_step", "generation", "in_flight", "limit", "maximum")

    def __init__(self, concurrency: int) -> None:
        self.in_flight = 0
        """Items in flight."""
        self.limit = float(concurrency)
        """The current limit; its fraction is progress towards one more."""
        self.generation: int = 0
        """How many times the limit was cut."""
        self.maximum = concurrency
        """The highest limit."""
        self._step = max(1.0, concurrency / RECOVERY_ROUNDS)

    @property
    def has_room(self) -> bool:
        """Whether one more item may be in flight."""
        return self.in_flight + 1 <= self.limit

    def on_answer(self) -> None:
        """Raise the limit a little: the service answered."""
        if self.limit < self.maximum:
            self.limit = min(self.maximum, self.limit + self._step / self.limit)

    def on_overload(self, generation: int) -> bool:
        """Halve the limit, once for all the requests that were in flight together.

        Args:
            generation: That of the limiter when the overloaded request began: what was in flight when the limit was
                cut says nothing about the limit that it was cut to.

        Returns:
            Whether the limit was cut.
        """
        if generation != self.generation:
            return False
        self.generation += 1
        self.limit = max(1.0, self.limit / 2)
        return True
