"""When a run claims debits, and how many: in few transactions, and nothing is left lying."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from jetpay_async.ledger import DebitState, _claimer, _intents, _repository
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._claimer import Claimer, ClaimLimits
from jetpay_async.ledger._intents import Claim, ClaimResult, OutcomeRecord
from jetpay_async.ledger._pipeline import POLL_INTERVAL_SECONDS
from jetpay_async.ledger._repository import Scope
from tests.ledger.scenario import BOUND, POLICY, SILENT, Act, Scenario, answers, debits, make_clock, now, simulate
from tests.ledger.steps import claim, register, submit

INTERVAL = POLL_INTERVAL_SECONDS + 0.1
"""A poll interval, and the transactions in it."""
QUICK = Act(seconds=0.01, works_after=0.01)


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(str(tmp_path / "captures.db"))


@contextmanager
def another_process(scenario: Scenario) -> Generator[Connection]:
    """What another process does in one transaction."""
    with closing(choose_backend(scenario.path, make_clock()).connect(create=False)) as connection:
        connection.begin(writes=True)
        yield connection
        connection.commit()


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int, ClaimResult]]:
    """Each claim: when, from which batch, and what it brought."""
    made: list[tuple[float, int, ClaimResult]] = []
    claim = _intents.claim

    def counting(connection: Connection, scope: Scope, **options: Any) -> ClaimResult:
        result = claim(connection, scope, **options)
        made.append((now(), scope.batch, result))
        return result

    monkeypatch.setattr(_intents, "claim", counting)
    return made


async def until(condition: Callable[[], bool], within: float) -> None:
    """Wait for something, in virtual time."""
    end = now() + within
    while not condition():
        assert now() < end
        await asyncio.sleep(0.01)


# --- where nothing is left --------------------------------------------------------------------------------------------


def test_a_finished_batch_is_not_asked_with_every_claim(
    scenario: Scenario, claims: list[tuple[float, int, ClaimResult]]
) -> None:
    """While one batch is captured, those that are watched and have nothing left are asked in each poll interval."""
    scenario.api.always = QUICK

    async def main() -> tuple[float, float]:
        async with scenario.captures() as captures:
            for key in ("a", "b"):
                await (await captures.submit(key, [f"{key}_{number}" for number in range(4)])).wait()
            began = now()
            await (await captures.submit("c", debits(600))).wait()
            return began, now()

    began, ended = simulate(main())
    asked = Counter(batch for at, batch, _ in claims if at >= began)
    assert asked[3] > 2 * asked[1]
    assert asked[1] == asked[2] <= (ended - began) / POLL_INTERVAL_SECONDS + 2


def test_all_scopes_are_asked_in_one_transaction(scenario: Scenario) -> None:
    """However many batches are watched, to see that nothing is left in them is one transaction."""

    async def main() -> int:
        process = scenario.process()
        async with process.make_captures() as captures:
            for number in range(5):
                await (await captures.submit(f"batch {number}", [f"debit_{number}"])).wait()
            executor = process.executor
            assert executor is not None
            operations = 0
            run = executor.run

            async def counting(operation: Any, *, writes: bool = True, last: bool = False) -> Any:
                nonlocal operations
                operations += last
                return await run(operation, writes=writes, last=last)

            executor.run = counting  # type: ignore[method-assign] # counts the claims
            await asyncio.sleep(10 * POLL_INTERVAL_SECONDS)
            return operations

    assert 9 <= simulate(main()) <= 11


def test_what_another_process_reopens_is_captured(scenario: Scenario) -> None:
    """A batch that had nothing left is captured on within a poll interval when another process puts a debit back."""
    scenario.api.script["debit_1"] = [answers(422)]

    async def main() -> None:
        async with scenario.captures() as captures:
            batch = await captures.submit("a", debits(2))
            assert (await batch.wait()).rejected == 1
            await asyncio.sleep(3.0)
            with another_process(scenario) as connection:
                assert _repository.reopen_rejected(connection, 1) == 1
            await until(lambda: scenario.api.captures["debit_1"] == 1, BOUND)
            assert (await batch.wait()).captured == 2

    simulate(main())
    assert scenario.api.requests == Counter({"debit_0": 1, "debit_1": 2})


def test_what_another_process_gives_back_is_captured(scenario: Scenario) -> None:
    """Debits that another run held, and put back unsent, are sent within a poll interval."""

    async def main() -> None:
        async with scenario.captures() as captures:
            await (await captures.submit("a", debits(4))).wait()
            with closing(choose_backend(scenario.path, make_clock()).connect(create=False)) as other:
                submit(other, "b", ["debit_9"])
                owner = register(other)
                other.begin(writes=True)
                (held,) = claim(other, owner, 1, Scope(2))
                other.commit()
                batch = await captures.batch("b")
                await asyncio.sleep(2.0)
                assert not scenario.api.requests["debit_9"]
                other.begin(writes=True)
                given_back = OutcomeRecord(held.id, held.debit_id, held.intent, DebitState.PENDING, 0, certain_in=0.0)
                _intents.record(other, [given_back], owner=owner)
                other.commit()
                await until(lambda: scenario.api.captures["debit_9"] == 1, 2 * INTERVAL)
                assert (await batch.wait()).captured == 1

    simulate(main())
    assert scenario.api.requests["debit_9"] == 1


def test_what_a_dead_run_held_is_captured(scenario: Scenario) -> None:
    """A batch of which everything was held by another run is captured when that one is killed."""
    scenario.api.always = SILENT

    async def main() -> None:
        process = scenario.process(concurrency=4)
        captures = process.make_captures()
        await captures.__aenter__()
        await captures.submit("a", debits(4))
        await until(lambda: scenario.api.in_flight == 4, 5.0)
        async with scenario.captures() as others:
            batch = await others.batch("a")
            await asyncio.sleep(2.0)
            process.kill()
            scenario.api.always = Act()
            assert (await asyncio.wait_for(batch.wait(), 2 * BOUND)).captured == 4

    simulate(main())
    assert scenario.api.captures == Counter(debits(4))
    assert set(scenario.api.requests.values()) == {2}


def test_a_debit_that_another_batch_has_under_way_is_recorded_after_it(scenario: Scenario) -> None:
    """A debit of two batches is pending in one until the other one has its outcome, and gets the same."""
    scenario.api.script["debit_0"] = [Act(seconds=3.0, works_after=3.0)]

    async def main() -> float:
        async with scenario.captures() as captures:
            first, second = await captures.submit("a", debits(1)), await captures.submit("b", debits(1))
            assert (await first.wait()).captured == 1
            began = now()
            assert (await second.wait()).captured == 1
            return now() - began

    assert simulate(main()) <= INTERVAL + POLL_INTERVAL_SECONDS
    assert scenario.api.requests == Counter(["debit_0"])


def test_a_debit_that_is_put_back_here_is_claimed_at_once(scenario: Scenario) -> None:
    """A debit that this run gives back does not wait for the next poll interval, though nothing else was left."""
    scenario.api.script["debit_0"] = [answers(503)]
    scenario.api.states["debit_0"] = "preauthorized"

    async def main() -> None:
        async with scenario.captures(policy=attrs.evolve(POLICY, max_attempts=1)) as captures:
            assert (await (await captures.submit("a", debits(1))).wait()).captured == 1

    simulate(main())
    read_at, _ = scenario.api.status_reads[-1]
    _, again = scenario.api.sent_at("debit_0")
    assert again - read_at < 0.1


# --- with a script instead of a ledger --------------------------------------------------------------------------------


class Harness:
    """A claimer whose claims bring what a test says."""

    def __init__(self, *, size: int = 4, room: float = 64.0, rate: float | None = None) -> None:
        self.answers: list[tuple[int, ClaimResult] | Callable[[], tuple[int, ClaimResult]]] = []
        self.asked: list[dict[str, Any]] = []
        self.nothing_left = 0
        unused: Any = None
        commits: Any = self
        lease: Any = SimpleNamespace(owner=1)
        context: Any = SimpleNamespace(clock=make_clock(), send_within=3.0, certain_after=BOUND)
        resolver: Any = SimpleNamespace(backlog=0)
        self.claimer = Claimer(
            commits,
            lease,
            context,
            ClaimLimits(size=size, rate=rate, room=lambda: room),
            restored=None,
            recorder=unused,
            resolver=resolver,
            on_nothing_left=self._on_nothing_left,
        )

    def _on_nothing_left(self) -> None:
        self.nothing_left += 1

    async def run(self, operation: Any, *, last: bool) -> tuple[int, ClaimResult]:
        assert last
        assert operation.func is _claimer._claim_first
        self.asked.append(operation.keywords)
        await asyncio.sleep(0.01)
        if not self.answers:
            return len(operation.keywords["scopes"]), ClaimResult()
        answer = self.answers.pop(0)
        return answer() if callable(answer) else answer

    @property
    def scopes(self) -> list[list[int]]:
        """Of which batches each claim was."""
        return [[scope.batch for scope in asked["scopes"]] for asked in self.asked]


def some(count: int, start: int = 0) -> ClaimResult:
    """So many debits to send."""
    return ClaimResult(send=[Claim(number, f"debit_{number}", 1, 1, 0.0) for number in range(start, start + count)])


def harness_run(harness: Harness, steps: Callable[[], Any]) -> None:
    async def main() -> None:
        running = asyncio.create_task(harness.claimer.run())
        try:
            await steps()
        finally:
            running.cancel()

    simulate(main())


def test_a_scope_without_anything_is_not_asked_again_until_the_claimer_is_woken() -> None:
    """What workers take asks only those that may have something; waking it asks all."""
    harness = Harness()
    harness.answers = [(1, some(1)), (1, ClaimResult())]

    async def steps() -> None:
        harness.claimer.watch(Scope(1))
        harness.claimer.watch(Scope(2))
        await asyncio.sleep(0.1)
        assert harness.scopes == [[1, 2], [2]]
        harness.claimer.on_taken()
        await asyncio.sleep(0.1)
        assert harness.scopes == [[1, 2], [2]]
        assert harness.nothing_left == 2
        harness.claimer.wake()
        await asyncio.sleep(0.1)
        assert harness.scopes == [[1, 2], [2], [1, 2]]

    harness_run(harness, steps)


def test_a_claim_that_was_under_way_when_the_claimer_was_woken_proves_nothing() -> None:
    """What is added while a claim reads may be missed by it: the scope is asked once more."""
    harness = Harness()

    def woken() -> tuple[int, ClaimResult]:
        harness.claimer.wake()
        return 1, ClaimResult()

    harness.answers = [woken, (0, some(2))]

    async def steps() -> None:
        harness.claimer.watch(Scope(1))
        await asyncio.sleep(0.1)
        assert harness.scopes[:2] == [[1], [1]]
        assert harness.claimer.ahead == 2

    harness_run(harness, steps)


def test_a_scope_that_is_too_early_for_the_rate_is_not_taken_for_empty() -> None:
    """That no slot of the rate is free says nothing about what is pending."""
    harness = Harness(rate=10.0)
    harness.answers = [(0, ClaimResult(too_early=True)), (0, ClaimResult(too_early=True))]

    async def steps() -> None:
        harness.claimer.watch(Scope(1))
        await asyncio.sleep(0.1)
        harness.claimer.on_taken()
        await asyncio.sleep(0.1)
        assert harness.scopes == [[1], [1]]
        assert not harness.nothing_left

    harness_run(harness, steps)


def test_a_scope_that_is_watched_again_is_asked_again() -> None:
    """Who comes back to a chunk finds what was put into it meanwhile."""
    harness = Harness()

    async def steps() -> None:
        for _ in range(2):
            harness.claimer.watch(Scope(1))
            await asyncio.sleep(0.1)
            harness.claimer.forget(Scope(1))
        assert harness.scopes == [[1], [1]]

    harness_run(harness, steps)


# --- how many ---------------------------------------------------------------------------------------------------------


def take(harness: Harness, count: int) -> None:
    """Do as workers that take so many debits."""
    for _ in range(count):
        harness.claimer.ready.get_nowait()
        harness.claimer.on_taken()


@pytest.mark.parametrize(
    ("taken", "claimed"),
    [pytest.param(2, 4, id="slow"), pytest.param(30, 30, id="quick"), pytest.param(450, 400, id="too quick")],
)
def test_what_the_workers_take_in_a_while_is_claimed(taken: int, claimed: int) -> None:
    """The next claim is as large as what was taken in a tenth of a second, within bounds."""
    harness = Harness()
    harness.answers = [(0, some(4)), (0, some(600, 10)), (0, some(1, 900))]

    async def steps() -> None:
        harness.claimer.watch(Scope(1))
        await asyncio.sleep(0.02)
        take(harness, 2)
        await asyncio.sleep(0.02)
        take(harness, taken - 2)
        await asyncio.sleep(0.0601)
        harness.claimer.wake()
        harness.claimer._refill_at = 1_000  # whatever is ahead
        await asyncio.sleep(0.02)
        assert harness.asked[2]["limit"] == pytest.approx(claimed, abs=1)

    harness_run(harness, steps)


def test_no_more_is_claimed_than_may_be_in_flight_at_first() -> None:
    """While the API is overloaded, so that few may be in flight, few are claimed."""
    harness = Harness(size=32, room=3.7)

    async def steps() -> None:
        harness.claimer.watch(Scope(1))
        await asyncio.sleep(0.02)
        assert harness.asked[0]["limit"] == 3

    harness_run(harness, steps)


def test_a_quick_api_takes_few_claims(scenario: Scenario, claims: list[tuple[float, int, ClaimResult]]) -> None:
    """Claims grow with the pace; a debit is sent soon after its intent all the same."""
    scenario.api.always = QUICK

    async def main() -> None:
        async with scenario.captures() as captures:
            assert (await (await captures.submit("a", debits(600))).wait()).captured == 600

    simulate(main())
    assert len(claims) <= 600 / 15
    assert max(len(made.send) for _, _, made in claims) > 32
    intended = {claim.debit_id: at for at, _, made in claims for claim in made.send}
    assert max(at - intended[debit_id] for at, debit_id in scenario.api.sent) < 0.3
    assert scenario.api.requests == Counter(debits(600))


def test_a_slow_api_has_little_claimed_ahead(scenario: Scenario, claims: list[tuple[float, int, ClaimResult]]) -> None:
    """What is claimed ahead of slow workers is no more than their number."""
    scenario.api.always = Act(seconds=1.0, works_after=1.0)
    most = 0

    async def main() -> None:
        nonlocal most
        async with scenario.captures(concurrency=8) as captures:
            batch = await captures.submit("a", debits(60))
            while not (await batch.progress()).complete:
                most = max(most, (await batch.progress()).sending)
                await asyncio.sleep(0.05)

    simulate(main())
    assert most <= 8 + 8
    assert max(len(made.send) for _, _, made in claims) <= 8
