"""What a batch knows of the debits that it has captured, in memory that does not grow with their number.

Three stores, from the newest ids to the oldest:

- the latest hundred ids and more with their captures: a repeated id has the same answer again, and nothing is sent;
- for as long as a status may lag behind a capture, the time and a 32-bit fingerprint of each id: four bytes for each;
- all ids, in a Bloom filter.

A repeated id that only the last two know is in doubt: the debit's status is read before anything is sent. A status that
says ``preauthorized`` proves nothing before the time that the second store has. An id that the second store does not
know was captured so long ago that one status read is proof.

Being mistaken costs this. Where the Bloom filter alone takes a new id for a known one (1 in 30 with a million ids), one
status read, or an unknown outcome if no status can be read before the deadline. Where a recent id has the same
fingerprint, too, the item waits for the time of that id, and its outcome is unknown if its deadline comes first: at
1,000 captures a second and a bound of 60 seconds, that meets 1 in 10 million items of a batch of 100,000, and 1 in
400,000 where the batch has a million ids already.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

import attrs

from jetpay_async._batch.bloom_filter import BloomFilter, hashes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async.models import Capture

# The captures of so many debits at least are kept, and of twice as many at most. With more of them, the garbage
# collector would have something to do every few hundred items, and all that the process has now and then.
RECENT_CAPTURES = 128

# So many fingerprints share one time, and are sorted together.
PERIOD_SIZE = 4096


class _RecentIds:
    """Ids that were added within the last seconds, by their fingerprints, and when at the latest.

    Args:
        seconds: How long an id is kept at least.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # In order of time.
        self._periods: deque[_Period] = deque()

    def update(self, hashes: bytes, added_until: float, now: float) -> None:
        """Add ids by what `hashes_of` makes of them."""
        periods = self._periods
        latest = periods[-1] if periods else None
        # The time of a period is that of its latest id: it must not be much later than that of its first one.
        if latest is None or len(latest.fingerprints) >= PERIOD_SIZE or added_until > latest.begin + self._seconds / 8:
            latest = _Period(added_until, added_until)
            periods.append(latest)
        latest.update(hashes, added_until)
        while periods and periods[0].end + self._seconds <= now:
            periods.popleft()

    def added_until(self, debit_id: str) -> float | None:
        """Return when an id was added at the latest; None if it was not, or so long ago that it is forgotten."""
        (fingerprint,) = _fingerprints(hashes_of([debit_id]))
        for period in reversed(self._periods):
            if period.may_contain(fingerprint):
                return period.end
        return None


@attrs.define
class _Period:
    """Ids that were added one after the other."""

    begin: float
    """When the first of them was added, or some seconds later. Monotonic."""
    end: float
    """When the last of them was added, or some seconds later. Monotonic."""
    fingerprints: array[int] = attrs.Factory(lambda: array("I"))
    _is_sorted: bool = True

    def update(self, hashes: bytes, end: float) -> None:
        self.fingerprints += _fingerprints(hashes)
        self.end = end
        self._is_sorted = False

    def may_contain(self, fingerprint: int) -> bool:
        if not self._is_sorted:
            # Seldom asked for, so that sorting each period would be work for nothing as a rule.
            self.fingerprints = array("I", sorted(self.fingerprints))
            self._is_sorted = True
        position = bisect_left(self.fingerprints, fingerprint)
        return position < len(self.fingerprints) and self.fingerprints[position] == fingerprint


def _fingerprints(hashes: bytes) -> array[int]:
    """Return one half of each hash."""
    return array("I", memoryview(hashes).cast("I")[1::2].tobytes())


class CaptureHistory:
    """The debits of one batch that were captured, or may have been.

    Args:
        certain_after: Seconds after a capture until a status that says ``preauthorized`` can be believed.
        now: The monotonic clock.
    """

    def __init__(self, certain_after: float, now: Callable[[], float]) -> None:
        self._certain_after = certain_after
        self._now = now
        self.latest: dict[str, Capture | None] = {}
        """The ids that were added last, with their captures; None for one whose outcome is unknown."""
        self.earlier: dict[str, Capture | None] = {}
        """The same of those before them."""
        self._earlier_end = 0.0
        self._recent = _RecentIds(certain_after)
        self.older = BloomFilter()
        """All ids before those."""

    def add(self, debit_id: str, capture: Capture | None) -> None:
        """Remember a debit that was captured; None for one that may have been."""
        latest = self.latest
        if capture is not None:
            latest[debit_id] = capture
        else:
            latest.setdefault(debit_id, None)
        if len(latest) >= RECENT_CAPTURES:
            now = self._now()
            hashes = hashes_of(self.earlier)
            self.older.update(hashes)
            self._recent.update(hashes, self._earlier_end, now)
            self.earlier, self._earlier_end, self.latest = latest, now, {}

    def find(self, debit_id: str) -> Capture | None:
        """Return the capture of a debit; None if it is not known, or not any more."""
        return self.latest.get(debit_id) or self.earlier.get(debit_id)

    def may_contain(self, debit_id: str) -> bool:
        """Return False if this debit was never added."""
        return debit_id in self.latest or debit_id in self.earlier or self.older.may_contain(debit_id)

    def certain_from(self, debit_id: str, now: float) -> float:
        """Return from when on a status that says ``preauthorized`` proves that a debit was not captured.

        Args:
            debit_id: One that `older` may contain, and `find` does not know.
            now: The present time. Monotonic.

        Returns:
            The time, monotonic and never before the present.
        """
        added_until = self._recent.added_until(debit_id)
        return now if added_until is None else max(now, added_until + self._certain_after)
