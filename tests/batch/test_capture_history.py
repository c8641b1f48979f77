"""What a batch knows of the debits that it has captured: answers first, then times, then only that there was one."""

from __future__ import annotations

import gc
import sys
from typing import Literal

import attrs
import pytest

from jetpay_async import Capture, TransactionState
from jetpay_async._batch import capture_history
from jetpay_async._batch.bloom_filter import BloomFilter
from jetpay_async._batch.capture_history import CaptureHistory
from tests.recording_server import debits


def capture_of(debit_id: str) -> Capture:
    return Capture(debit_id=debit_id, state=TransactionState.PAID, raw={})


@attrs.define
class History:
    """A history of captures, for which a status may lag a hundred seconds, and the time."""

    now: float = 1000.0
    history: CaptureHistory = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.history = CaptureHistory(100.0, lambda: self.now)

    def add(self, *debit_ids: str) -> None:
        for debit_id in debit_ids:
            self.history.add(debit_id, capture_of(debit_id))

    def add_others(self, count: int) -> None:
        """Add captures of other debits, so that earlier ones leave the record of captures."""
        self.add(*(f"other_{self.now}_{number}" for number in range(count)))

    def certain_from(self, debit_id: str) -> float | None:
        """As a batch does: of others, nothing was sent, or the client knows when."""
        return self.history.certain_from(debit_id, self.now) if self.history.older.may_contain(debit_id) else None


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the captures of four debits at least, and sort eight fingerprints at a time."""
    monkeypatch.setattr(capture_history, "RECENT_CAPTURES", 4)
    monkeypatch.setattr(capture_history, "PERIOD_SIZE", 8)


def test_a_recent_capture_is_known() -> None:
    """The very answer that the first one had."""
    known = History()
    capture = capture_of("debit_1")

    known.history.add("debit_1", capture)

    assert known.history.find("debit_1") is capture
    assert known.history.find("debit_2") is None


def test_what_was_never_added_is_not_in_doubt() -> None:
    """Nor is anything, while the history is empty."""
    known = History()
    assert known.certain_from("debit_1") is None
    known.add("debit_1")

    assert known.certain_from("debit_2") is None
    assert not known.history.may_contain("debit_2")
    assert known.history.may_contain("debit_1")


@pytest.mark.parametrize("count", [127, 255])
def test_at_least_the_latest_captures_are_kept(count: int) -> None:
    """128 of them at least."""
    known = History()
    known.add_others(count)
    known.add("debit_1")

    known.add_others(127)

    assert known.history.find("debit_1") is not None


def test_no_more_than_twice_as_many_are_kept() -> None:
    """Memory does not grow with the number of debits."""
    known = History()

    known.add(*debits(10_000))

    assert sum(known.history.find(debit_id) is not None for debit_id in debits(10_000)) <= 256


def test_the_garbage_collector_has_nothing_to_do() -> None:
    """What is kept is so little, and let go so often, that no collection begins."""
    known = History()
    begun = 0

    def note(phase: Literal["start", "stop"], _: object) -> None:
        nonlocal begun
        begun += phase == "start"

    gc.collect()
    gc.callbacks.append(note)
    try:
        known.add(*debits(5_000))
    finally:
        gc.callbacks.remove(note)

    assert begun <= 1


@pytest.mark.usefixtures("small")
def test_a_forgotten_capture_is_in_doubt_until_its_time_has_passed() -> None:
    """The time is that of the capture, or some seconds later, plus the bound: never the past while it may lag."""
    known = History()
    known.add("debit_1")
    known.now = 1010.0
    known.add_others(4)
    known.now = 1020.0
    known.add_others(4)
    assert known.history.find("debit_1") is None
    assert known.history.may_contain("debit_1")

    assert known.certain_from("debit_1") == 1110.0
    known.now = 1109.0
    assert known.certain_from("debit_1") == 1110.0
    known.now = 1111.0
    assert known.certain_from("debit_1") == 1111.0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seconds", [0.0, 3.0, 30.0])
def test_the_time_is_never_too_early(seconds: float) -> None:
    """However fast debits are captured: each one is in doubt for the whole bound after its capture."""
    known = History()
    captured_at = {}
    for debit_id in debits(200):
        captured_at[debit_id] = known.now
        known.add(debit_id)
        known.now += seconds

        for earlier, at in captured_at.items():
            if known.history.find(earlier) is None:
                certain_from = known.certain_from(earlier)
                assert certain_from is not None
                assert certain_from >= max(at + 100.0, known.now)


@pytest.mark.usefixtures("small")
def test_an_old_capture_is_in_doubt_since_now() -> None:
    """One status read that begins now is proof; its time is forgotten."""
    known = History()
    known.add("debit_1")
    known.add_others(11)
    known.now = 1200.0
    known.add_others(20)

    assert known.certain_from("debit_1") == 1200.0
    assert len(known.history._recent._periods) <= 3


def test_a_slow_batch_is_not_in_doubt_for_longer() -> None:
    """The time of an id is not that of one that came much later, however few ids there are."""
    known = History()
    known.add("debit_1")

    for _ in range(2_000):
        known.add_others(1)
        known.now += 10.0

    assert known.history.find("debit_1") is None
    assert known.certain_from("debit_1") == known.now


def test_a_mistaken_filter_alone_means_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that only the Bloom filter takes for known is in doubt since now, however many others are recent."""
    known = History()
    known.add(*debits(1_000))
    monkeypatch.setattr(BloomFilter, "may_contain", lambda _, __: True)

    mistaken = [known.certain_from(f"another_{number}") for number in range(100)]

    assert mistaken == [1000.0] * 100


@pytest.mark.usefixtures("small")
def test_one_of_unknown_outcome_is_no_answer() -> None:
    """It is left to the client's single flight, which knows its time, until its turn in the record is over."""
    known = History()
    known.history.add("debit_1", None)
    assert known.history.find("debit_1") is None
    assert known.history.may_contain("debit_1")
    assert known.certain_from("debit_1") is None

    known.add_others(12)

    assert known.certain_from("debit_1") == 1100.0


def test_an_answer_outlives_a_duplicate_without_one() -> None:
    """A second item of the same debit, whose deadline came first, does not take the answer away."""
    known = History()
    known.add("debit_1")
    known.history.add("debit_1", None)
    assert known.history.find("debit_1") is not None

    known.history.add("debit_2", None)
    known.add("debit_2")

    assert known.history.find("debit_2") is not None


def test_memory_is_flat() -> None:
    """However many debits there were, only those within the bound take memory: four bytes for each."""
    known = History()
    sizes = []
    for _ in range(10):
        for debit_id in debits(1_000):
            known.add(f"{debit_id}_{known.now}")
            known.now += 0.001
        known.now += 99.0
        sizes.append(sum(sys.getsizeof(period.fingerprints) for period in known.history._recent._periods))

    assert max(sizes) < 2 * 4 * 5_000 + 1_000
    assert len(known.history.latest) + len(known.history.earlier) <= 256
