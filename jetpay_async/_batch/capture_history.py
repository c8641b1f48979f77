"""What a batch knows of the debits that it has captured, in memory that does not grow with their number.

Three stores, from the newest ids to the oldest:

- the latest few hundred ids with their captures: a repeated id has the same answer again, and nothing is sent;
- for as long as a status may lag behind a capture, the time and a 32-bit fingerprint of each id: four bytes for each;
- all ids, in a Bloom filter.

A repeated id that only the last two know is in doubt: the debit's status is read before anything is sent. A status that
says ``preauthorized`` proves nothing before the time that the second store tells. An id that the second store does not
know was captured so long ago that one status read is proof.

Being mistaken costs this: where the Bloom filter alone takes a new id for a known one (1 in 30 with a million ids), one
status read. Where the fingerprint of another id agrees, too (at 1,000 captures a second and 60 seconds, 1 in 70,000 of
those), the item waits for the time of that id, and its outcome is unknown if its deadline comes first.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

from jetpay_async._batch.bloom_filter import BloomFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jetpay_async.models import Capture

# The captures of so many debits at least are kept, and of twice as many at most.
RECENT_CAPTURES = 256

# So many fingerprints are sorted at a time, and then found in microseconds.
PERIOD_SIZE = 4096

_GOLDEN_RATIO = 0x9E3779B97F4A7C15


class _RecentIds:
    """Ids that were added within the last seconds, by their fingerprints, and when at the latest.

    Args:
        seconds: How long an id is kept at least.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # In order of time. The fingerprints of a period are sorted, but for those of the present one.
        self._periods: deque[tuple[float, array[int]]] = deque()
        self._present: array[int] = array("I")
        self._present_end = 0.0

    def update(self, debit_ids: Iterable[str], added_until: float, now: float) -> None:
        """Add ids."""
        self._present.extend([hash(debit_id) * _GOLDEN_RATIO >> 32 & 0xFFFFFFFF for debit_id in debit_ids])
        self._present_end = added_until
        if len(self._present) >= PERIOD_SIZE:
            self._periods.append((added_until, array("I", sorted(self._present))))
            self._present = array("I")
        while self._periods and self._periods[0][0] + self._seconds <= now:
            self._periods.popleft()

    def added_until(self, debit_id: str) -> float | None:
        """Return when an id was added at the latest; None if it was not, or so long ago that it is forgotten."""
        fingerprint = hash(debit_id) * _GOLDEN_RATIO >> 32 & 0xFFFFFFFF
        if fingerprint in self._present:
            return self._present_end
        for end, fingerprints in reversed(self._periods):
            position = bisect_left(fingerprints, fingerprint)
            if position < len(fingerprints) and fingerprints[position] == fingerprint:
                return end
        return None


class CaptureHistory:
    """The debits of one batch that were captured, or may have been.

    Args:
        certain_after: Seconds after a capture until a status that says ``preauthorized`` can be believed.
        now: The monotonic clock.
    """

    def __init__(self, certain_after: float, now: Callable[[], float]) -> None:
        self._certain_after = certain_after
        self._now = now
        # None for one whose outcome is unknown.
        self._latest: dict[str, Capture | None] = {}
        self._earlier: dict[str, Capture | None] = {}
        self._earlier_end = 0.0
        self._recent = _RecentIds(certain_after)
        self._all = BloomFilter()

    def add(self, debit_id: str, capture: Capture | None) -> None:
        """Remember a debit that was captured; None for one that may have been."""
        latest = self._latest
        if capture is not None:
            latest[debit_id] = capture
        else:
            latest.setdefault(debit_id, None)
        if len(latest) >= RECENT_CAPTURES:
            now = self._now()
            self._all.update(self._earlier)
            self._recent.update(self._earlier, self._earlier_end, now)
            self._earlier, self._earlier_end, self._latest = latest, now, {}

    def find(self, debit_id: str) -> Capture | None:
        """Return the capture of a debit; None if it is not known, or not any more."""
        return self._latest.get(debit_id) or self._earlier.get(debit_id)

    def may_contain(self, debit_id: str) -> bool:
        """Return False if this debit was never added."""
        return debit_id in self._latest or debit_id in self._earlier or self._all.may_contain(debit_id)

    def certain_from(self, debit_id: str, now: float) -> float | None:
        """Tell from when on a status that says ``preauthorized`` proves that a debit was not captured.

        Args:
            debit_id: One that `find` does not know.
            now: The present time. Monotonic.

        Returns:
            The time, monotonic and never before the present; None if nothing was sent for this debit, or if only the
            client's `SingleFlight` knows: it remembers the time of each outcome that is unknown.
        """
        if not self._all.may_contain(debit_id):
            return None
        added_until = self._recent.added_until(debit_id)
        return now if added_until is None else max(now, added_until + self._certain_after)
