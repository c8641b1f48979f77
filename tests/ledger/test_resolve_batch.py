"""`DurableCaptures.resolve`: the status of accepted and unknown debits is read once, and nothing is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jetpay_async import AuthenticationError, Captured, RetryPolicy
from jetpay_async.ledger import CapturesStoppedError, Progress, ResolveReport, UnknownBatchError
from tests.ledger.scenario import Scenario, accepts, answers, debits, simulate
from tests.ledger.service import serving

# The request is answered by a proxy, and so is each status read: the outcome is unknown.
LOST = answers(502, {})


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(str(tmp_path / "captures.db"))


def resolve_after(scenario: Scenario, count: int, change: Callable[[], object] | None = None) -> ResolveReport:
    """Capture some debits, change what the API says of them, and resolve them in a later run."""

    async def main() -> ResolveReport:
        async with scenario.captures(timeout=5.0) as captures:
            await (await captures.submit("a", debits(count))).wait(follow_up=0)
        sent = Counter(scenario.api.requests)
        if change is not None:
            change()
        async with scenario.captures(timeout=5.0) as captures:
            report = await captures.resolve("a")
        assert scenario.api.requests == sent
        return report

    return simulate(main())


def progress(**counts: int) -> Progress:
    states = dict.fromkeys(("pending", "sending", "captured", "accepted", "rejected", "unknown"), 0)
    return Progress(total=sum(counts.values()), **{**states, **counts})


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param("paid", progress(captured=1), id="captured"),
        pytest.param("failed", progress(rejected=1), id="failed"),
        pytest.param("processing", progress(accepted=1), id="in progress"),
        pytest.param("preauthorized", progress(unknown=1), id="preauthorized"),
        pytest.param("odd", progress(unknown=1), id="an unknown state"),
    ],
)
def test_an_unknown_debit_becomes_what_its_status_says(scenario: Scenario, state: str, expected: Progress) -> None:
    """A state that decides is recorded; one that doesn't leaves the debit unknown, and nothing is sent."""
    scenario.api.script["debit_0"] = [LOST]
    scenario.api.states["debit_0"] = (503, {})

    report = resolve_after(scenario, 1, lambda: scenario.api.states.__setitem__("debit_0", state))

    assert report == ResolveReport(key="a", unread=0, progress=expected)


def test_an_odd_state_ends_resending(scenario: Scenario) -> None:
    """Once a state beyond ``preauthorized`` was seen, a later status that says so proves nothing."""
    scenario.api.script["debit_0"] = [LOST]
    scenario.api.states["debit_0"] = (503, {})
    resolve_after(scenario, 1, lambda: scenario.api.states.__setitem__("debit_0", "odd"))
    scenario.api.states["debit_0"] = "preauthorized"

    async def main() -> int:
        async with scenario.captures(timeout=5.0) as captures:
            return (await (await captures.submit("a", debits(1))).wait()).unknown

    assert simulate(main()) == 1
    assert scenario.api.requests == Counter(debits(1))
    ((seen, reason),) = scenario.rows("SELECT seen_state, reason FROM jetpay_debit")
    assert seen == "odd"
    assert reason


def test_an_accepted_debit_becomes_what_its_status_says(scenario: Scenario) -> None:
    """The same as when a batch is waited for, without a run of it."""
    scenario.api.script["debit_0"] = [accepts("debit_0")]
    scenario.api.states["debit_0"] = "processing"

    report = resolve_after(scenario, 2, lambda: scenario.api.states.__setitem__("debit_0", "completed"))

    assert report == ResolveReport(key="a", unread=0, progress=progress(captured=2))


def test_what_can_not_be_read_is_counted(scenario: Scenario) -> None:
    """A status endpoint that is down changes nothing, and says nothing."""
    scenario.api.script["debit_0"] = [LOST]
    scenario.api.states["debit_0"] = (503, {})
    scenario.api.script["debit_1"] = [accepts("debit_1")]
    scenario.api.states["debit_1"] = (503, {})

    report = resolve_after(scenario, 3)

    assert report == ResolveReport(key="a", unread=2, progress=progress(captured=1, accepted=1, unknown=1))


def test_what_is_found_out_is_an_outcome(scenario: Scenario) -> None:
    """Who reads the outcomes of the batch later gets the latest one of each debit."""
    scenario.api.script["debit_0"] = [LOST]
    scenario.api.states["debit_0"] = (503, {})
    resolve_after(scenario, 1, lambda: scenario.api.states.__setitem__("debit_0", "paid"))

    async def main() -> list[Any]:
        async with scenario.captures(timeout=5.0) as captures:
            return [outcome async for outcome in (await captures.batch("a")).outcomes()]

    (outcome,) = simulate(main())
    assert isinstance(outcome, Captured)
    assert outcome.confirmed_by_status


def test_nothing_pending_is_sent(scenario: Scenario) -> None:
    """A batch that was submitted and never captured stays as it is."""

    async def main() -> ResolveReport:
        async with scenario.captures() as captures:
            await captures._ledger.submit("a", debits(2))
            return await captures.resolve("a")

    assert simulate(main()).progress == progress(pending=2)
    assert not scenario.api.requests


def test_a_rejected_token_is_an_error(scenario: Scenario) -> None:
    """A 401 concerns them all: it is raised, and nothing is changed."""
    scenario.api.script["debit_0"] = [accepts("debit_0")]
    scenario.api.states["debit_0"] = "processing"

    with pytest.raises(CapturesStoppedError) as caught:
        resolve_after(scenario, 1, lambda: scenario.api.states.__setitem__("debit_0", (401, {"detail": "expired"})))

    assert isinstance(caught.value.__cause__, AuthenticationError)
    assert scenario.rows("SELECT state FROM jetpay_debit") == [("accepted",)]


def test_a_batch_that_is_not_there(scenario: Scenario) -> None:
    """Its name is in the error."""

    async def main() -> None:
        async with scenario.captures() as captures:
            with pytest.raises(UnknownBatchError, match="'b'"):
                await captures.resolve("b")

    simulate(main())


@pytest.mark.asyncio
async def test_on_both_backends(ledger: str) -> None:
    """The same in a file and in PostgreSQL, over a real connection."""
    quick = RetryPolicy(max_attempts=2, base_delay=0.01, resolve_after=0.1, resolve_after_timeout=0.1)
    async with serving(timeout=0.5, retry=quick) as (service, client):
        service.script["debit_0"] = [(502, {})]
        service.states["debit_0"] = (503, {})
        async with client.durable_captures(ledger) as captures:
            report = await (await captures.submit("a", debits(2))).wait()
            assert (report.captured, report.unknown) == (1, 1)
            service.states["debit_0"] = "paid"
            resolved = await captures.resolve("a")

    assert resolved == ResolveReport(key="a", unread=0, progress=progress(captured=2))
