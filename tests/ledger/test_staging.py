"""Debits that are given to a submission: checked while everything else in the process goes on."""

from __future__ import annotations

import asyncio

import pytest

from jetpay_async.ledger._staging import StagedDebits
from tests.ledger.service import debits


@pytest.mark.asyncio
async def test_many_debits_leave_others_their_turn() -> None:
    """A long list keeps neither requests nor the renewal of a lease waiting for more than a thousand ids."""
    seen: list[int] = []
    with StagedDebits() as staged:
        filling = asyncio.create_task(staged.fill(debits(5_500)))
        while not filling.done():
            await asyncio.sleep(0)
            seen.append(staged.given)
        await filling
        numbered = list(staged.numbered())

    assert [given for given in seen if given < 5_500] == [1_000, 2_000, 3_000, 4_000, 5_000]
    assert numbered == list(enumerate(debits(5_500)))
