"""Which ids are missing: below one that has arrived, and not arrived themselves. Pure; the inboxes keep the ranges.

An inbox keeps each range of missing ids, which arrivals in order never change, instead of searching all events for it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class IdRange(NamedTuple):
    """Consecutive ids, both ends included."""

    first: int
    last: int


class SeenIds(NamedTuple):
    """The lowest and the highest id that have arrived."""

    lowest: int
    highest: int


def new_gaps(arrived: Sequence[int], seen: SeenIds | None) -> Sequence[IdRange]:
    """Return what is missing because of new arrivals, in order: above, and below, all that was seen.

    Args:
        arrived: The ids that have arrived now for the first time, in ascending order.
        seen: What had arrived before; None if nothing had.
    """
    if seen is None:
        return tuple(_between(arrived))
    below = [*(event_id for event_id in arrived if event_id < seen.lowest), seen.lowest]
    above = [seen.highest, *(event_id for event_id in arrived if event_id > seen.highest)]
    return (*_between(below), *_between(above))


def late(arrived: Sequence[int], seen: SeenIds | None) -> Sequence[IdRange]:
    """Return the runs of new arrivals among what was seen: each is in a range of missing ids."""
    if seen is None:
        return ()
    ids = [event_id for event_id in arrived if seen.lowest < event_id < seen.highest]
    starts = [place for place, event_id in enumerate(ids) if not place or event_id != ids[place - 1] + 1]
    return tuple(IdRange(ids[start], ids[end - 1]) for start, end in pairwise([*starts, len(ids)]))


def without(gap: IdRange, run: IdRange) -> Iterator[IdRange]:
    """Yield what is left of a range of missing ids after others have arrived."""
    if run.last < gap.first or gap.last < run.first:
        yield gap
        return
    if gap.first < run.first:
        yield IdRange(gap.first, run.first - 1)
    if run.last < gap.last:
        yield IdRange(run.last + 1, gap.last)


def last_contiguous(seen: SeenIds | None, *, first_open: int | None, first_missing: int | None) -> int | None:
    """Return the last id before the first one that is missing or open; None if that is the lowest one."""
    if seen is None:
        return None
    ends = [event_id for event_id in (first_open, first_missing) if event_id is not None]
    last = min(ends) - 1 if ends else seen.highest
    return last if last >= seen.lowest else None


def _between(ids: Sequence[int]) -> Iterator[IdRange]:
    for one, following in pairwise(ids):
        if following > one + 1:
            yield IdRange(one + 1, following - 1)
