"""Debits that the API accepts and processes later: never sent again, followed for a while, reported once a run."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jetpay_async import (
    Accepted,
    AuthenticationError,
    Captured,
    InvalidArgumentError,
    Rejected,
    TransactionFailedError,
    TransactionState,
)
from jetpay_async.ledger import CapturesStoppedError, Progress
from tests.ledger.scenario import Scenario, accepts, debits, now, simulate


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    """An API that accepts debit_0 and captures the others."""
    scenario = Scenario(str(tmp_path / "captures.db"))
    scenario.api.script["debit_0"] = [accepts("debit_0")]
    scenario.api.states["debit_0"] = "processing"
    return scenario


async def outcomes_of(batch: Any) -> list[Any]:
    return [outcome async for outcome in batch.outcomes()]


def say(scenario: Scenario, seconds: float, state: str, debit_id: str = "debit_0") -> None:
    """Have the status say so from then on."""
    asyncio.get_running_loop().call_later(seconds, scenario.api.states.__setitem__, debit_id, state)


def test_an_accepted_debit_is_followed_until_it_is_captured(scenario: Scenario) -> None:
    """Whoever waits for a batch learns what becomes of an accepted debit, within the time for it."""

    async def main() -> None:
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(2))
            say(scenario, 30.0, "paid")
            report = await batch.wait()
            assert (report.captured, report.accepted) == (2, 0)
            assert 30 <= now() < 45
            assert await batch.progress() == Progress(
                total=2, pending=0, sending=0, captured=2, accepted=0, rejected=0, unknown=0
            )
            assert [type(outcome) for outcome in await outcomes_of(batch)] == [Captured, Captured]

    simulate(main())
    assert scenario.api.requests == Counter(debits(2))
    assert 4 <= len(scenario.api.status_reads) <= 8


@pytest.mark.parametrize(("follow_up", "seconds"), [(60.0, 60.0), (5, 5.0), (0, 0.0)])
def test_an_accepted_debit_is_followed_no_longer_than_asked_for(
    scenario: Scenario, follow_up: float, seconds: float
) -> None:
    """A batch is complete with an accepted debit; what is left of it is in the report."""

    async def main() -> None:
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(2))
            report = await batch.wait(follow_up=follow_up)
        assert (report.captured, report.accepted) == (1, 1)
        assert seconds <= now() < seconds + 3

    simulate(main())


@pytest.mark.parametrize("follow_up", [-1, "60", True, float("nan")])
def test_a_bad_time_to_follow_is_refused(scenario: Scenario, follow_up: Any) -> None:
    """The time to follow is a number of seconds."""

    async def main() -> None:
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(1))
            with pytest.raises(InvalidArgumentError, match="follow_up") as caught:
                await batch.wait(follow_up=follow_up)
            assert caught.value.field == "follow_up"

    simulate(main())


def test_accepted_debits_come_last_and_once(scenario: Scenario) -> None:
    """An accepted debit is reported once, after the others, as what its status says by then."""
    scenario.api.script["debit_1"] = [accepts("debit_1", "initiated")]
    scenario.api.states["debit_1"] = "paid"

    async def main() -> None:
        async with scenario.captures() as captures:
            outcomes = await outcomes_of(await captures.submit("a", debits(4)))
        # Answered at the same moment, so in any order.
        assert {outcome.debit_id for outcome in outcomes[:2]} == {"debit_2", "debit_3"}
        assert [(outcome.debit_id, type(outcome)) for outcome in outcomes[2:]] == [
            ("debit_1", Captured),
            ("debit_0", Accepted),
        ]
        assert outcomes[3].capture.state is TransactionState.PROCESSING
        assert not outcomes[3].capture.final

    simulate(main())


def test_a_later_run_reads_its_status_again(scenario: Scenario) -> None:
    """The next run reports what has become of an accepted debit, and sends nothing."""

    async def main() -> None:
        async with scenario.captures() as captures:
            assert (await (await captures.submit("a", debits(1))).wait(follow_up=0)).accepted == 1
        scenario.api.states["debit_0"] = "completed"
        async with scenario.captures() as captures:
            (outcome,) = await outcomes_of(await captures.submit("a", debits(1)))
        assert isinstance(outcome, Captured)
        assert outcome.confirmed_by_status
        assert outcome.attempts == 1

    simulate(main())
    assert scenario.api.requests == Counter(debits(1))


def test_an_accepted_debit_that_fails_is_rejected(scenario: Scenario) -> None:
    """What the API accepts may still fail: that is the debit's outcome then."""

    async def main() -> None:
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(1))
            say(scenario, 5.0, "failed")
            report = await batch.wait()
            (outcome,) = await outcomes_of(batch)
        assert (report.accepted, report.rejected) == (0, 1)
        assert isinstance(outcome, Rejected)
        assert isinstance(outcome.error, TransactionFailedError)
        assert outcome.error.state is TransactionState.FAILED

    simulate(main())


@pytest.mark.parametrize("state", ["preauthorized", (503, {}), (404, {"detail": "none"})])
def test_an_answer_that_says_less_changes_nothing(scenario: Scenario, state: Any) -> None:
    """A stale status, or one that can't be read, leaves an accepted debit as it is: it is never sent again."""

    async def main() -> None:
        async with scenario.captures(timeout=5.0) as captures:
            batch = await captures.submit("a", debits(1))
            await batch.wait(follow_up=0)
            scenario.api.states["debit_0"] = state
            assert (await batch.wait()).accepted == 1
        async with scenario.captures(timeout=5.0) as captures:
            (outcome,) = await outcomes_of(await captures.submit("a", debits(1)))
        assert isinstance(outcome, Accepted)
        assert outcome.capture.state is TransactionState.PROCESSING

    simulate(main())
    assert scenario.api.requests == Counter(debits(1))


def test_the_latest_state_is_kept(scenario: Scenario) -> None:
    """An accepted debit that goes on to another state that is not final is reported with that one."""
    scenario.api.states["debit_0"] = "initiated"

    async def main() -> None:
        async with scenario.captures() as captures:
            (outcome,) = await outcomes_of(await captures.submit("a", debits(1)))
        assert isinstance(outcome, Accepted)
        assert outcome.capture.state is TransactionState.INITIATED

    simulate(main())
    assert scenario.rows("SELECT state, transaction_state, seen_state FROM jetpay_debit") == [
        ("accepted", "initiated", "initiated")
    ]


def test_a_rejected_token_stops_the_run_and_changes_nothing(scenario: Scenario) -> None:
    """A 401 while accepted debits are followed stops the run; the outcomes are reported all the same."""

    async def main() -> None:
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(2))
            await batch.wait(follow_up=0)
            scenario.api.states["debit_0"] = (401, {"detail": "expired"})
            report = await batch.wait()
            assert report.accepted == 1
            assert len(await outcomes_of(batch)) == 2
            other = await captures.submit("b", debits(3))
            with pytest.raises(CapturesStoppedError) as caught:
                await other.wait()
            assert isinstance(caught.value.__cause__, AuthenticationError)

    simulate(main())


def test_those_who_wait_share_the_reads(scenario: Scenario) -> None:
    """However many wait for a batch, the status of its accepted debits is read once at a time."""

    async def main() -> None:
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(1))
            await batch.wait(follow_up=0)
            await asyncio.gather(*(batch.wait(follow_up=0.5) for _ in range(5)))

    simulate(main())
    assert len(scenario.api.status_reads) == 1


def test_many_accepted_debits_are_read_page_by_page(scenario: Scenario) -> None:
    """Every accepted debit is read, however many there are, and some at a time."""
    for debit_id in debits(600):
        scenario.api.script[debit_id] = [accepts(debit_id)]
        scenario.api.states[debit_id] = "paid"

    async def main() -> None:
        async with scenario.captures(concurrency=64) as captures:
            assert (await (await captures.submit("a", debits(600))).wait()).captured == 600

    simulate(main())
    assert Counter(debit_id for _, debit_id in scenario.api.status_reads) == Counter(debits(600))


def test_leaving_interrupts_the_reads(scenario: Scenario) -> None:
    """Nobody who waits for an accepted debit is left behind when the block is left."""
    scenario.api.states["debit_0"] = (503, {})

    async def main() -> None:
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(1))
            waiting = asyncio.create_task(batch.wait())
            reading = asyncio.create_task(outcomes_of(batch))
            await asyncio.sleep(1.0)
            left_at = now()
        assert now() - left_at < 1
        done, pending = await asyncio.wait([waiting, reading], timeout=5)
        assert not pending
        assert {type(task.exception()) for task in done} <= {type(None), CapturesStoppedError}

    simulate(main())


def test_a_batch_that_knows_of_an_accepted_debit_sends_nothing(scenario: Scenario) -> None:
    """A debit that another batch has accepted is accepted in this one too, and followed."""

    async def main() -> None:
        async with scenario.captures() as captures:
            await (await captures.submit("a", debits(1))).wait(follow_up=0)
            batch = await captures.submit("b", debits(1))
            assert (await batch.wait(follow_up=0)).accepted == 1
            scenario.api.states["debit_0"] = "paid"
            assert (await batch.wait()).captured == 1

    simulate(main())
    assert scenario.api.requests == Counter(debits(1))


def test_a_chunk_with_an_accepted_debit_is_done(scenario: Scenario) -> None:
    """A chunk says how many debits are accepted, after their status was read once more."""

    async def main() -> None:
        async with scenario.captures() as captures:
            await captures._ledger.submit("a", debits(2))
            report = await captures.run_chunk("a", 0)
            assert (report.captured, report.accepted) == (1, 1)
            scenario.api.states["debit_0"] = "paid"
            report = await captures.run_chunk("a", 0)
            assert (report.captured, report.accepted) == (2, 0)

    simulate(main())
    assert scenario.api.requests == Counter(debits(2))
