"""When the status of a debit in doubt is believed, and when it is sent again: never before its time."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jetpay_async import Accepted, Captured, ConflictError, OutcomeUnknownError, Rejected, ServiceError, Unknown
from jetpay_async._core.http import ResolveBound
from jetpay_async.ledger import Batch, EventEffect, Ledger, Report
from tests.ledger.payment_events import OURS, event
from tests.ledger.scenario import (
    BOUND,
    CUT,
    CUT_AFTERWARDS,
    SILENT,
    SILENT_BUT_WORKS,
    Act,
    DirectCommitExecutor,
    Scenario,
    answers,
    debits,
    make_clock,
    now,
    simulate,
)


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(str(tmp_path / "captures.db"))


async def outcomes_of(batch: Batch) -> dict[str, Any]:
    return {outcome.debit_id: outcome async for outcome in batch.outcomes()}


def test_a_silent_request_is_sent_again_after_the_longer_time(scenario: Scenario) -> None:
    """What this side gave up may be worked on for a minute: only then the status proves that it was not."""
    scenario.api.script["debit_0"] = [SILENT]

    async def main() -> None:
        async with scenario.captures() as captures:
            report = await (await captures.submit("a", debits(2))).wait()
        assert report.captured == 2
        first, again = scenario.api.sent_at("debit_0")
        assert again - first >= 20 + 60

    simulate(main())
    assert scenario.api.captures == Counter(debits(2))


def test_a_request_that_arrives_late_is_not_sent_again(scenario: Scenario) -> None:
    """A capture that takes effect 70 s after it was sent, long after it was given up, is taken once."""
    scenario.api.script["debit_0"] = [Act(seconds=1e9, works_after=70.0)]

    async def main() -> None:
        async with scenario.captures() as captures:
            assert (await (await captures.submit("a", debits(1))).wait()).captured == 1

    simulate(main())
    assert scenario.api.requests == Counter(["debit_0"])
    assert scenario.api.captures == Counter(["debit_0"])


def test_a_connection_that_the_other_side_lost_is_resolved_sooner(scenario: Scenario) -> None:
    """What is known of the request shortens the time, for this run and in the ledger."""
    scenario.api.script["debit_0"] = [CUT]

    async def main() -> None:
        async with scenario.captures(timeout=6.0) as captures:
            batch = await captures.submit("a", debits(1))
            assert (await batch.wait()).captured == 1
            assert now() < 10

    simulate(main())
    assert scenario.api.captures == Counter(["debit_0"])


def test_the_ledger_holds_which_time_applies(scenario: Scenario) -> None:
    """A debit in doubt has its own time in its row, so that a later run waits for no more and no less."""
    scenario.api.script["debit_0"] = [CUT]
    scenario.api.script["debit_1"] = [SILENT]
    scenario.api.states = {"debit_0": (503, {}), "debit_1": (503, {})}

    async def main() -> None:
        async with scenario.captures(timeout=3.0) as captures:
            await captures.submit("a", debits(2))
            await asyncio.sleep(3.5)

    simulate(main())
    rows = scenario.rows(
        "SELECT debit_id, state, look_first, certain_at - intent_at FROM jetpay_debit ORDER BY debit_id"
    )
    assert [row[:3] for row in rows] == [("debit_0", "sending", 1), ("debit_1", "sending", 1)]
    assert rows[0][3] == pytest.approx(0.1 + 5.0, abs=0.1)
    assert rows[1][3] == pytest.approx(2.0 + 60.0, abs=0.1)


@pytest.mark.parametrize("works_after", [None, 80.0], ids=["lost", "late"])
def test_what_a_killed_run_was_sending_waits_for_the_longest_time(
    scenario: Scenario, works_after: float | None
) -> None:
    """A killed process proves nothing: its debits are resolved when no request for them can be on its way."""
    scenario.api.always = Act(seconds=1e9, works_after=works_after)

    async def main() -> None:
        await scenario.run_to_be_killed("a", debits(3), lambda each: each.api.in_flight == 3)
        killed_at = now()
        scenario.api.always = Act()
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(3))
            await asyncio.sleep(1.0)
            waiting = (await batch.progress()).waiting
            assert waiting is not None
            assert (waiting.debits, round(waiting.seconds)) == (3, round(BOUND - 1))
            assert (await batch.wait()).captured == 3
        assert now() - killed_at == pytest.approx(BOUND, abs=2)

    simulate(main())
    assert scenario.api.captures == Counter(debits(3))


def test_a_dead_run_does_not_block_another_batch(scenario: Scenario) -> None:
    """The debits of a dead run are resolved by whoever waits for them, in another batch too; its progress says so."""
    scenario.api.always = SILENT

    async def main() -> None:
        await scenario.run_to_be_killed("monday", debits(4), lambda each: each.api.in_flight == 4)
        scenario.api.always = Act()
        async with scenario.captures() as captures:
            batch = await captures.submit("tuesday", debits(6))
            await asyncio.sleep(1.0)
            progress = await batch.progress()
            assert (progress.captured, progress.pending) == (2, 4)
            assert str(progress.waiting) == f"waiting {BOUND - 1:.0f} s to resolve 4 debits in doubt"
            assert (await batch.wait()).captured == 6

    simulate(main())
    assert scenario.api.captures == Counter(debits(6))


def test_a_wait_is_logged(scenario: Scenario, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads the log sees what a run waits for, and is reminded now and then."""
    caplog.set_level("INFO", logger="jetpay_async")
    scenario.api.always = SILENT

    async def main() -> None:
        await scenario.run_to_be_killed("a", debits(4), lambda each: each.api.in_flight == 4)
        scenario.api.always = Act()
        async with scenario.captures() as captures:
            await (await captures.submit("a", debits(4))).wait()

    simulate(main())
    assert re.search(r"waiting 9[23] s to resolve 4 debits of a run that ended", caplog.text)
    assert 5 <= caplog.text.count("4 debits in doubt") <= 12


def test_what_another_batch_has_captured_needs_no_status(scenario: Scenario) -> None:
    """The ledger's own row is an answer, however late the status is."""
    scenario.api.lag = 1e9

    async def main() -> None:
        async with scenario.captures() as captures:
            await (await captures.submit("a", debits(2))).wait()
            reported = await outcomes_of(await captures.submit("b", debits(3)))
        assert {debit_id: outcome.attempts for debit_id, outcome in reported.items()} == {
            "debit_0": 0,
            "debit_1": 0,
            "debit_2": 1,
        }
        assert all(isinstance(outcome, Captured) for outcome in reported.values())

    simulate(main())
    assert scenario.api.captures == Counter(debits(3))
    assert not scenario.api.status_reads


def test_what_another_batch_left_unknown_is_resolved_first(scenario: Scenario) -> None:
    """A debit that another batch may have sent is not sent before its status was read."""
    scenario.api.script["debit_0"] = [Act(seconds=1e9, works_after=50.0)]
    scenario.api.states["debit_0"] = (503, {})

    async def main() -> None:
        async with scenario.captures(timeout=5.0) as captures:
            assert (await (await captures.submit("a", debits(1))).wait()).unknown == 1
        del scenario.api.states["debit_0"]
        async with scenario.captures(timeout=5.0) as captures:
            reported = await outcomes_of(await captures.submit("b", debits(1)))
        assert reported["debit_0"].confirmed_by_status

    simulate(main())
    assert scenario.api.captures == Counter(["debit_0"])
    assert scenario.api.requests == Counter(["debit_0"])


def test_a_restored_ledger_sends_nothing_before_the_longest_time(scenario: Scenario) -> None:
    """A ledger that has forgotten what it sent waits until no such request can take effect, and then reads first."""
    ids = debits(5)

    async def main() -> None:
        async with scenario.captures(restored=True) as captures:
            for number in range(3):  # what a run sent whose commits were lost
                asyncio.get_running_loop().call_later(20.0 * number, scenario.api._take_money, f"debit_{number}")
            reported = await outcomes_of(await captures.submit("a", ids))
        assert {debit_id: outcome.confirmed_by_status for debit_id, outcome in reported.items()} == {
            "debit_0": True,
            "debit_1": True,
            "debit_2": True,
            "debit_3": False,
            "debit_4": False,
        }
        assert min(at for at, _ in scenario.api.sent) >= BOUND

    simulate(main())
    assert scenario.api.captures == Counter(ids)


def test_a_restored_ledger_stays_in_doubt_without_the_flag(scenario: Scenario) -> None:
    """The rows remember that the ledger was restored: the next run, without the flag, believes nothing sooner."""
    ids = debits(3)

    async def main() -> None:
        async with scenario.captures() as captures:
            await captures.submit("a", ids)
        opened_at = now()
        killed = scenario.process(restored=True)
        await killed.make_captures().__aenter__()
        await asyncio.sleep(10.0)
        killed.kill()

        async with scenario.captures() as captures:
            await (await captures.submit("a", ids)).wait()

        assert min(at for at, _ in scenario.api.sent) - opened_at >= BOUND

    simulate(main())
    assert scenario.api.captures == Counter(ids)


def test_what_a_restored_ledger_holds_of_a_dead_run_counts_from_the_opening(scenario: Scenario) -> None:
    """An intent of the copy may be old, and the debit sent again after the copy was made."""
    scenario.api.always = SILENT

    async def main() -> None:
        await scenario.run_to_be_killed("a", debits(1), lambda each: each.api.in_flight == 1)
        scenario.api.always = Act()
        await asyncio.sleep(2 * BOUND)
        opened_at = now()
        async with scenario.captures(restored=True) as captures:
            await (await captures.submit("a", debits(1))).wait()
        assert scenario.api.sent_at("debit_0")[-1] - opened_at >= BOUND

    simulate(main())


def test_a_rejected_debit_that_is_retried_keeps_its_time(scenario: Scenario) -> None:
    """A 409 may have come from an earlier request: tried again at once, the debit still waits for its time."""
    scenario.api.script["debit_0"] = [answers(409)]

    async def main() -> None:
        async with scenario.captures() as captures:
            reported = await outcomes_of(await captures.submit("a", debits(1)))
        assert isinstance(reported["debit_0"], Rejected)
        assert isinstance(reported["debit_0"].error, ConflictError)
        process = scenario.process()
        captures = process.make_captures()
        async with captures:
            await captures._ledger.retry_rejected("a")
            assert (await (await captures.batch("a")).wait()).captured == 1
        first, again = scenario.api.sent_at("debit_0")
        assert again - first >= BOUND

    simulate(main())
    assert scenario.api.captures == Counter(["debit_0"])


def test_an_unknown_outcome_keeps_its_state_in_the_row(scenario: Scenario) -> None:
    """A state beyond preauthorized that was seen once ends resending, in every later run and batch."""
    scenario.api.script["debit_0"] = [SILENT]
    scenario.api.states["debit_0"] = ["pondering"]

    async def main() -> None:
        async with scenario.captures() as captures:
            reported = await outcomes_of(await captures.submit("a", debits(1)))
        assert isinstance(reported["debit_0"], Unknown)
        scenario.api.states["debit_0"] = "preauthorized"
        for key in ("a", "b"):
            async with scenario.captures() as captures:
                reported = await outcomes_of(await captures.submit(key, debits(1)))
            assert isinstance(reported["debit_0"], Unknown), key

    simulate(main())
    assert scenario.api.requests == Counter(["debit_0"])
    assert {row[0] for row in scenario.rows("SELECT seen_state FROM jetpay_debit")} == {"pondering"}


def test_a_status_that_went_forward_and_back_is_no_proof(scenario: Scenario) -> None:
    """A stale answer after one that said more does not have the capture sent again."""
    scenario.api.script["debit_0"] = [SILENT]
    scenario.api.states["debit_0"] = ["pondering"] * 3 + ["preauthorized"]

    async def main() -> None:
        async with scenario.captures() as captures:
            reported = await outcomes_of(await captures.submit("a", debits(1)))
        assert isinstance(reported["debit_0"], Unknown)

    simulate(main())
    assert scenario.api.requests == Counter(["debit_0"])


def test_what_an_event_reported_meanwhile_ends_resending(scenario: Scenario) -> None:
    """Once a webhook has said that a debit in flight is paid, no status that lags behind has it sent again."""
    scenario.api.always = SILENT_BUT_WORKS
    scenario.api.lag = math.inf

    async def main() -> Report:
        webhooks = Ledger(scenario.path, webhook_ids={OURS}, clock=make_clock(), commit_executor=DirectCommitExecutor)
        async with scenario.captures() as captures, webhooks as ledger:
            batch = await captures.submit("a", debits(1))
            await asyncio.sleep(1.0)
            assert await ledger.apply(event("paid")) is EventEffect.RECORDED
            return await batch.wait()

    assert simulate(main()).unknown == 1
    assert scenario.api.captures == Counter(debits(1))


def test_a_status_that_cant_be_read_is_tried_again(scenario: Scenario) -> None:
    """A status that fails is read in further rounds; if it never can be read, that is unknown, not "not captured"."""
    scenario.api.script["debit_0"] = [SILENT]
    scenario.api.states["debit_0"] = (503, {})

    async def main() -> None:
        async with scenario.captures() as captures:
            reported = await outcomes_of(await captures.submit("a", debits(1)))
        unknown = reported["debit_0"]
        assert isinstance(unknown, Unknown)
        assert isinstance(unknown.error, OutcomeUnknownError)
        assert "Submit the batch again" in unknown.error.next_step

    simulate(main())
    assert scenario.api.requests == Counter(["debit_0"])
    late = [at for at, _ in scenario.api.status_reads if at >= 20 + 60]
    assert max(late) - min(late) >= 2 * 30


def test_a_debit_whose_requests_are_all_lost_is_given_up(scenario: Scenario) -> None:
    """After so many requests that were lost, and proven so, the batch comes to an end without that debit."""
    scenario.api.script["debit_0"] = [SILENT] * 100

    async def main() -> None:
        async with scenario.captures() as captures:
            reported = await outcomes_of(await captures.submit("a", debits(2)))
        assert isinstance(reported["debit_0"], Rejected)
        assert isinstance(reported["debit_0"].error, ServiceError)
        assert reported["debit_0"].attempts == 5

    simulate(main())
    assert scenario.api.captures == Counter(["debit_1"])


def test_a_request_of_the_same_client_counts_too(scenario: Scenario) -> None:
    """What another task of the client sends meanwhile is waited for before the status is believed."""
    scenario.api.script["debit_0"] = [SILENT, Act(seconds=1e9, works_after=110.0)]

    async def main() -> None:
        process = scenario.process(timeout=6.0)
        captures = process.make_captures()
        async with captures:
            batch = await captures.submit("a", debits(1))
            await asyncio.sleep(60.0)
            context = captures._context
            from jetpay_async._core import operations

            execution = context.executor.begin(operations.capture("debit_0"), context.options)
            capturing = asyncio.create_task(context.single_flight.capture(execution))
            assert (await batch.wait()).captured == 1
            await asyncio.wait([capturing])

    simulate(main())
    assert scenario.api.captures == Counter(["debit_0"])


def test_a_clock_that_is_set_back_delays_nothing_for_hours(scenario: Scenario) -> None:
    """Debits left by a run whose clock was two hours ahead are waited for no longer than the longest time."""
    scenario.api.always = SILENT

    async def main() -> None:
        await scenario.run_to_be_killed(
            "a", debits(2), lambda each: each.api.in_flight == 2, clock=make_clock(ahead=7200.0)
        )
        scenario.api.always = Act()
        async with scenario.captures() as captures:
            assert (await (await captures.submit("a", debits(2))).wait()).captured == 2
        assert now() < 2 * BOUND

    simulate(main())
    assert scenario.api.captures == Counter(debits(2))


def test_a_lost_response_is_resolved_by_the_status(scenario: Scenario) -> None:
    """Whether the response was lost after the capture or before it, the money is taken once."""
    scenario.api.script["debit_1"] = [CUT_AFTERWARDS]
    scenario.api.script["debit_2"] = [CUT]
    scenario.api.script["debit_3"] = [Act(lost=ResolveBound.TIMEOUT)]

    async def main() -> None:
        async with scenario.captures() as captures:
            reported = await outcomes_of(await captures.submit("a", debits(4)))
        assert [reported[debit_id].confirmed_by_status for debit_id in debits(4)] == [False, True, False, True]
        assert [reported[debit_id].attempts for debit_id in debits(4)] == [1, 1, 2, 1]

    simulate(main())
    assert scenario.api.captures == Counter(debits(4))


def test_a_status_in_progress_is_accepted(scenario: Scenario) -> None:
    """A lost capture whose status says that it is being processed is not sent again."""
    scenario.api.script["debit_0"] = [SILENT]
    scenario.api.states["debit_0"] = "processing"

    async def main() -> None:
        async with scenario.captures() as captures:
            reported = await outcomes_of(await captures.submit("a", debits(1)))
        assert isinstance(reported["debit_0"], Accepted)

    simulate(main())
    assert scenario.api.requests == Counter(["debit_0"])
