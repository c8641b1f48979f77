"""What a run gives back when it stops, however far ahead it was: every wait is interrupted, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jetpay_async import RetryPolicy
from jetpay_async._core.clock import Clock
from jetpay_async.ledger import CapturesStoppedError, DebitState, LedgerError, Progress, _intents
from jetpay_async.ledger._claimer import Claimer, ClaimLimits
from jetpay_async.ledger._intents import UnresolvedDebit
from jetpay_async.ledger._lease import OwnerLease
from jetpay_async.ledger._pipeline import CapturePipeline
from jetpay_async.ledger._repository import Scope
from jetpay_async.ledger._resolver import Origin, Resolver
from tests.ledger.scenario import BOUND, PAID, SILENT, Act, Scenario, answers, debits, now, simulate


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(str(tmp_path / "captures.db"))


async def outcomes_of(batch: Any) -> list[Any]:
    return [outcome async for outcome in batch.outcomes()]


async def until(true: Any) -> None:
    while not true():
        await asyncio.sleep(0.01)


def states(scenario: Scenario) -> Counter[str]:
    return Counter(state for (state,) in scenario.rows("SELECT state FROM jetpay_debit"))


@pytest.mark.parametrize("rate", [0.5, 5.0, 40.0])
def test_no_more_is_claimed_than_the_rate_needs(scenario: Scenario, rate: float) -> None:
    """Debits are claimed for about a second of the rate; stopping gives them back at once, with nothing in flight."""

    async def main() -> None:
        async with scenario.captures(rate=rate, concurrency=64) as captures:
            batch = await captures.submit("a", debits(300))
            await asyncio.sleep(5.0)
            ahead = (await batch.progress()).sending
            stopped_at = now()
            captures.stop()
            with pytest.raises(CapturesStoppedError):
                await batch.wait()
        assert ahead <= max(1, 2 * rate)
        assert now() - stopped_at < 1

    simulate(main())
    captured = len(scenario.api.captures)
    assert captured == pytest.approx(5 * rate, abs=max(2, rate / 2))
    assert states(scenario) == {"captured": captured, "pending": 300 - captured}
    assert scenario.rows("SELECT SUM(attempts) FROM jetpay_debit") == [(captured,)]


def test_the_rate_is_kept_by_all_runs_together(scenario: Scenario) -> None:
    """Two runs on one ledger start no more than the rate, evenly, and make use of all of it."""

    async def main() -> None:
        async with scenario.captures(rate=20.0) as one, scenario.captures(rate=20.0) as two:
            await asyncio.gather(
                (await one.submit("a", debits(50))).wait(),
                (await two.submit("b", [f"other_{debit_id}" for debit_id in debits(50)])).wait(),
            )

    simulate(main())
    times = sorted(at for at, _ in scenario.api.sent)
    assert len(times) == 100
    assert all(number <= (at - times[0]) * 20 + 2 for number, at in enumerate(times))
    assert times[-1] - times[0] < 100 / 20 + 2


def test_what_waits_to_be_resolved_goes_back(scenario: Scenario) -> None:
    """Debits that were claimed only to be resolved are pending again, and still resolved first by the next run."""

    async def main() -> None:
        async with scenario.captures(restored=True) as captures:
            batch = await captures.submit("a", debits(20))
            await until(lambda: states(scenario)["sending"] == 20)
            stopped_at = now()
            captures.stop()
            with pytest.raises(CapturesStoppedError, match="20 of 20 debits are left"):
                await batch.wait()
        assert now() - stopped_at < 1

    simulate(main())
    assert states(scenario) == {"pending": 20}
    assert {row[0] for row in scenario.rows("SELECT look_first FROM jetpay_debit")} == {1}
    assert not scenario.api.requests


def test_a_status_that_is_being_read_is_not_waited_for(scenario: Scenario) -> None:
    """A stop interrupts the reads of the status too; what they were for goes back."""
    scenario.api.states = {debit_id: (503, {}) for debit_id in debits(3)}

    async def main() -> None:
        async with scenario.captures(restored=True) as captures:
            batch = await captures.submit("a", debits(3))
            await until(lambda: len(scenario.api.status_reads) > 3)
            captures.stop()
            stopped_at = now()
            with pytest.raises(CapturesStoppedError):
                await batch.wait()
        assert now() - stopped_at < 1

    simulate(main())
    assert states(scenario) == {"pending": 3}


def test_what_was_sent_and_not_answered_stays_in_doubt(scenario: Scenario) -> None:
    """A stop does not turn a debit in doubt into one that may be sent: the next run resolves it."""
    scenario.api.script["debit_0"] = [Act(seconds=1e9, works_after=50.0)]

    async def main() -> None:
        async with scenario.captures(timeout=6.0) as captures:
            batch = await captures.submit("a", debits(1))
            await asyncio.sleep(10.0)
            captures.stop()
            with pytest.raises(CapturesStoppedError):
                await batch.wait()
        assert states(scenario) == {"sending": 1}
        async with scenario.captures(timeout=6.0) as captures:
            assert (await (await captures.submit("a", debits(1))).wait()).captured == 1

    simulate(main())
    assert scenario.api.requests == Counter(["debit_0"])


def test_a_claim_that_comes_too_late_goes_back(scenario: Scenario) -> None:
    """What a claim brings that was on its way to the ledger when the run stopped goes back, whatever it is."""

    async def main() -> None:
        async with scenario.captures() as captures:
            await captures._ledger.submit("a", debits(40))
            await captures._ledger.commits.run(
                lambda connection: connection.change("UPDATE jetpay_debit SET look_first = 1 WHERE id % 2 = 0", {})
            )
            await captures.batch("a")
            while not states(scenario)["sending"]:  # claimed, and the pipeline has not heard of it yet
                await asyncio.sleep(0.0002)
            captures.stop()

    simulate(main())
    assert states(scenario) == {"pending": 40}
    assert {row[0] for row in scenario.rows("SELECT look_first FROM jetpay_debit WHERE id % 2 = 0")} == {1}
    assert not scenario.api.requests


def test_those_who_wait_in_other_tasks_hear_of_the_end(scenario: Scenario) -> None:
    """Whoever reads a batch in another task gets an error when the block is left, and waits no longer."""
    scenario.api.always = Act(seconds=0.5, works_after=0.5)

    async def main() -> None:
        async with scenario.captures(concurrency=2) as captures:
            batch = await captures.submit("a", debits(60))
            tasks = [
                asyncio.create_task(outcomes_of(batch)),
                asyncio.create_task(batch.wait()),
                asyncio.create_task(captures.run_chunk("a", 0)),
            ]
            await asyncio.sleep(1.2)
        done, pending = await asyncio.wait(tasks, timeout=5)
        assert not pending
        errors = [task.exception() for task in done]
        assert all(isinstance(error, CapturesStoppedError | LedgerError) for error in errors), errors

    simulate(main())


def test_an_outcome_that_cant_be_recorded_is_logged_with_its_debit(
    scenario: Scenario, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the ledger could not take is in the log: the debit's id, its outcome, and how it was found out."""
    scenario.api.script["debit_1"] = [answers(422, {"detail": "declined"})]

    def fail(*_: object, **__: object) -> None:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(_intents, "record", fail)

    async def main() -> None:
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(2))
            with pytest.raises(CapturesStoppedError, match="the disk is full"):
                await batch.wait()

    simulate(main())
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "debit debit_0: captured, state paid, attempts 1; this outcome could not be recorded: the disk is full" in (
        logged
    )
    assert any(
        line.startswith("debit debit_1: rejected, InvalidRequestError: the API answered 422: declined")
        for line in logged
    )
    rejected = next(vars(each) for each in caplog.records if each.getMessage().startswith("debit debit_1"))
    assert (rejected["debit_id"], rejected["batch"], rejected["status"]) == ("debit_1", "a", 422)


def test_a_part_that_fails_stops_the_others(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of our own ends a run in order: whoever waits hears of it, and nothing is left claimed."""

    async def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(CapturePipeline, "_take_over", fail)
    scenario.api.always = Act(seconds=15.0, works_after=15.0)

    async def main() -> None:
        async with scenario.captures() as other, scenario.captures() as captures:
            await other.submit("other", ["x"])
            batch = await captures.submit("a", debits(20))
            with pytest.raises(CapturesStoppedError) as caught:
                await batch.wait()
            assert isinstance(caught.value.__cause__, ZeroDivisionError)

    simulate(main())
    assert states(scenario)["sending"] == 0


def test_a_stop_that_is_cancelled_cuts_off_what_is_in_flight(scenario: Scenario) -> None:
    """Cancelled while it waits for what is in flight, a run leaves it in doubt; the next one sends nothing twice."""
    scenario.api.always = Act(seconds=15.0, works_after=15.0)

    async def run() -> None:
        async with scenario.captures() as captures:
            await captures.submit("a", debits(4))
            await until(lambda: scenario.api.in_flight == 4)

    async def main() -> None:
        running = asyncio.create_task(run())
        await until(lambda: scenario.api.in_flight == 4)
        await asyncio.sleep(1.0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert now() < 10
        assert states(scenario) == {"sending": 4}
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(4))
            assert (await batch.wait()).captured == 4
            assert await batch.progress() == Progress(
                total=4, pending=0, sending=0, captured=4, accepted=0, rejected=0, unknown=0
            )

    simulate(main())
    assert scenario.api.requests == Counter(debits(4))


def test_a_resolver_that_is_full_holds_back_the_claims(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many debits of a restored ledger wait, only so many are held at a time; all are captured in the end."""
    monkeypatch.setattr("jetpay_async.ledger._claimer.RESOLVE_BACKLOG", 10)

    async def main() -> None:
        async with scenario.captures(restored=True, concurrency=4) as captures:
            batch = await captures.submit("a", debits(60))
            await asyncio.sleep(20.0)
            assert (await batch.progress()).sending <= 12
            assert (await batch.wait()).captured == 60

    simulate(main())
    assert scenario.api.captures == Counter(debits(60))


def test_a_debit_that_waited_too_long_is_claimed_anew(scenario: Scenario) -> None:
    """What could not be sent soon after its intent goes back; its intent would say too little of its request."""
    scenario.api.script["debit_0"] = [Act(seconds=4.0, works_after=4.0)]

    async def main() -> None:
        async with scenario.captures(concurrency=4, timeout=6.0) as captures:
            for debit_id in debits(4):
                scenario.api.script[debit_id] = [Act(seconds=3.0, works_after=3.0)]
            assert (await (await captures.submit("a", debits(12))).wait()).captured == 12

    simulate(main())
    assert scenario.api.captures == Counter(debits(12))
    assert max(row[0] for row in scenario.rows("SELECT intent FROM jetpay_debit")) >= 2
    assert {row[0] for row in scenario.rows("SELECT attempts FROM jetpay_debit")} == {1}


def test_a_silent_api_stops_the_run(scenario: Scenario) -> None:
    """Nothing is asked of an API that does not answer again and again; the rest stays pending."""
    scenario.api.always = SILENT

    async def main() -> None:
        async with scenario.captures(policy=RetryPolicy(max_attempts=1)) as captures:
            batch = await captures.submit("a", debits(100))
            with pytest.raises(CapturesStoppedError, match=r"100 of 100 debits are left"):
                await batch.wait()

    simulate(main())
    assert states(scenario)["pending"] >= 100 - 2 * 8


def test_a_run_that_has_stopped_leaves_its_debits_to_others(scenario: Scenario) -> None:
    """A run that stopped by itself blocks no other one, in whatever batch, though its block stays open."""
    scenario.api.always = SILENT

    async def main() -> None:
        async with scenario.captures(policy=RetryPolicy(max_attempts=1)) as stopped, scenario.captures() as other:
            with pytest.raises(CapturesStoppedError):
                await (await stopped.submit("monday", debits(10))).wait()
            left = states(scenario)["sending"]
            scenario.api.always = PAID
            report = await asyncio.wait_for((await other.submit("tuesday", debits(12))).wait(), 2 * BOUND)
        assert left > 0
        assert report.captured == 12

    simulate(main())
    assert scenario.api.captures == Counter(debits(12))


def test_the_end_of_a_run_that_cant_be_recorded_is_logged(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A ledger that can't be written at the end of a run hides no outcome: the next run finds out by itself."""

    async def fail(_: OwnerLease) -> None:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(OwnerLease, "leave", fail)

    async def main() -> int:
        async with scenario.captures() as captures:
            return (await (await captures.submit("a", debits(3))).wait()).captured

    assert simulate(main()) == 3
    assert "the end of this run could not be recorded in the ledger: the disk is full" in caplog.text


def test_a_scope_is_claimed_from_while_anybody_watches_it() -> None:
    """Two who wait for the same chunk: the first one to go does not end it for the other."""
    limits = ClaimLimits(size=1, rate=None, room=lambda: 1.0)
    unused: Any = None
    claimer = Claimer(
        unused,
        unused,
        unused,
        limits,
        restored=None,
        recorder=unused,
        resolver=unused,
        on_nothing_left=lambda: None,
    )
    claimer.watch(Scope(1))
    claimer.watch(Scope(1))

    claimer.forget(Scope(1))
    assert claimer.scopes == (Scope(1),)

    claimer.forget(Scope(1))
    assert claimer.scopes == ()


def test_what_is_due_and_not_being_read_goes_back_too() -> None:
    """A debit that was claimed to be resolved is given back when the run stops before its status is read."""
    given_back: list[Any] = []
    recorder: Any = SimpleNamespace(add=given_back.append)
    context: Any = SimpleNamespace(clock=Clock(monotonic=lambda: 10.0))
    resolver = Resolver(context, recorder, stop=given_back.append)
    resolver.add(UnresolvedDebit(1, "debit_0", 1, 1, 0.0), 5.0, Origin.CLAIM)
    resolver.release_due()

    resolver.stop()

    (record,) = given_back
    assert (record.debit_id, record.state, record.resolve_first) == ("debit_0", DebitState.PENDING, True)
