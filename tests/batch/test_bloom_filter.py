"""A set of fixed size that never forgets a member, and seldom takes another string for one."""

from __future__ import annotations

import pytest

from jetpay_async._batch.bloom_filter import BloomFilter, hashes_of
from tests.recording_server import debits


def test_it_forgets_no_member() -> None:
    """Each member is one ever after."""
    members = BloomFilter()

    members.update(hashes_of([*debits(20_000)]))

    assert all(members.may_contain(debit_id) for debit_id in debits(20_000))


@pytest.mark.parametrize(("count", "most"), [(20_000, 3), (100_000, 12)])
def test_it_is_seldom_mistaken(count: int, most: int) -> None:
    """Of 20,000 strings that were never added, hardly any is taken for a member."""
    members = BloomFilter()
    members.update(hashes_of([*debits(count)]))

    mistaken = sum(members.may_contain(f"another_{number}") for number in range(20_000))

    assert mistaken < most


def test_both_bytes_count() -> None:
    """A string is a member only if all four of its bits are set, in either byte."""
    members = BloomFilter()
    members.update(hashes_of(["debit_1"]))
    marked = [index for index, byte in enumerate(members._bytes) if byte]
    assert len(marked) == 2

    for index in marked:
        kept, members._bytes[index] = members._bytes[index], 0
        assert not members.may_contain("debit_1")
        members._bytes[index] = kept

    assert members.may_contain("debit_1")


def test_a_full_filter_still_answers() -> None:
    """Full, it takes every string for a member."""
    members = BloomFilter()
    members._bytes[:] = b"\xff" * len(members._bytes)

    assert all(members.may_contain(debit_id) for debit_id in debits(100))
