"""Whose ledger it is: one API, one account; and a run that seems to ask the wrong one stops before it records."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jetpay_async import Captured, ConfigurationError, InvalidArgumentError, Rejected
from jetpay_async._core.endpoints import origin
from jetpay_async.ledger import CapturesStoppedError, LedgerError, LedgerMismatchError
from jetpay_async.ledger._account_check import FIRST_ANSWERS
from tests.ledger.scenario import PAID, Scenario, answers, debits, simulate

PRODUCTION = "https://api.example"
DEMO = "https://demo.example"


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(str(tmp_path / "captures.db"))


async def outcomes_of(batch: Any) -> list[Any]:
    return [outcome async for outcome in batch.outcomes()]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.example", "https://api.example"),
        ("https://api.example:443/v0", "https://api.example"),
        ("https://API.example:8443", "https://api.example:8443"),
        ("http://api.example:80", "http://api.example"),
        ("http://127.0.0.1:4711", "loopback"),
        ("http://127.9.9.9/v0", "loopback"),
        ("https://localhost:1", "loopback"),
        ("http://[::1]:4711", "loopback"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
def test_the_origin_of_an_api(url: str, expected: str) -> None:
    """An origin is scheme, host and port, whatever the path; loopback is one, whatever its port."""
    assert origin(url) == expected


def test_a_ledger_belongs_to_the_api_of_its_first_client(scenario: Scenario) -> None:
    """After a rehearsal, the same ledger with another API is refused before anything is sent: it would be all done."""

    async def main() -> None:
        async with scenario.captures(origin=DEMO) as captures:
            await (await captures.submit("a", debits(2))).wait()
        with pytest.raises(LedgerMismatchError, match=rf"{DEMO}.*{PRODUCTION}.*base_url.*another ledger") as caught:
            async with scenario.captures(origin=PRODUCTION):
                pytest.fail("it was opened")
        assert isinstance(caught.value, LedgerError)
        async with scenario.captures(origin=DEMO) as captures:
            assert (await (await captures.submit("a", debits(2))).wait()).captured == 2

    simulate(main())
    assert scenario.api.requests.total() == 2
    assert scenario.rows("SELECT COUNT(*) FROM jetpay_owner") == [(0,)]


def test_a_ledger_belongs_to_the_first_account_that_is_named(scenario: Scenario) -> None:
    """The label may be given later; then another one is refused, and none is accepted."""

    async def main() -> None:
        async with scenario.captures():
            pass
        async with scenario.captures(account="rentals"):
            pass
        async with scenario.captures():
            pass
        with pytest.raises(LedgerMismatchError, match=r"'rentals'.*account='sales'.*another ledger"):
            async with scenario.captures(account="sales"):
                pytest.fail("it was opened")

    simulate(main())
    assert scenario.rows("SELECT origin, account FROM jetpay_ledger") == [(PRODUCTION, "rentals")]


@pytest.mark.parametrize("account", ["", "x" * 256, "a\nb", 7])
def test_a_bad_label_is_refused(scenario: Scenario, account: Any) -> None:
    """A label can be printed on a line."""
    with pytest.raises(InvalidArgumentError, match="account: a label is") as caught:
        scenario.process(account=account).make_captures()

    assert caught.value.field == "account"


@pytest.mark.parametrize("name", ["restored", "accept_rejections"])
def test_a_bad_flag_is_refused(scenario: Scenario, name: str) -> None:
    """A flag is True or False, and nothing that merely looks like it."""
    with pytest.raises(InvalidArgumentError, match=f"{name}='no' must be a bool"):
        scenario.process(**{name: "no"}).make_captures()


@pytest.mark.parametrize("status", [404, 403])
def test_a_run_that_seems_to_ask_the_wrong_account_stops(scenario: Scenario, status: int) -> None:
    """When the first answers are all 404 or 403, none is recorded as final; the right account captures all."""
    scenario.api.always = answers(status)
    if status == 404:
        scenario.api.states = {debit_id: (404, {"detail": "none"}) for debit_id in debits(40)}

    async def main() -> None:
        async with scenario.captures(concurrency=4) as captures:
            batch = await captures.submit("a", debits(40))
            with pytest.raises(CapturesStoppedError, match=r"is this the right account\?.*accept_rejections") as caught:
                await batch.wait()
            assert isinstance(caught.value.__cause__, ConfigurationError)
            assert caught.value.progress is not None
            assert (caught.value.progress.pending, caught.value.progress.rejected) == (40, 0)
        assert FIRST_ANSWERS <= scenario.api.requests.total() < FIRST_ANSWERS + 4
        scenario.api.always, scenario.api.states = PAID, {}
        async with scenario.captures() as captures:
            assert (await (await captures.submit("a", debits(40))).wait()).captured == 40

    simulate(main())
    assert scenario.api.captures == Counter(debits(40))


def test_rejections_are_recorded_where_that_is_wanted(scenario: Scenario) -> None:
    """With accept_rejections, a batch of nothing but rejections comes to its end."""
    scenario.api.always = answers(403)

    async def main() -> None:
        async with scenario.captures(accept_rejections=True) as captures:
            assert (await (await captures.submit("a", debits(40))).wait()).rejected == 40

    simulate(main())


@pytest.mark.parametrize("count", [1, FIRST_ANSWERS - 1])
def test_a_small_batch_records_what_it_is_answered(scenario: Scenario, count: int) -> None:
    """Fewer answers than it takes to tell are recorded as they are, once nothing else is under way."""
    scenario.api.always = answers(403)

    async def main() -> None:
        async with scenario.captures() as captures:
            outcomes = await outcomes_of(await captures.submit("a", debits(count)))
        assert [type(outcome) for outcome in outcomes] == [Rejected] * count

    simulate(main())


def test_one_other_answer_shows_that_the_account_is_right(scenario: Scenario) -> None:
    """What was held back is recorded as soon as the API gives another answer, and nothing is held back afterwards."""
    scenario.api.always = answers(403)
    scenario.api.script["debit_5"] = [PAID]

    async def main() -> None:
        async with scenario.captures(concurrency=1) as captures:
            outcomes = await outcomes_of(await captures.submit("a", debits(30)))
        assert Counter(type(outcome) for outcome in outcomes) == {Rejected: 29, Captured: 1}

    simulate(main())


def test_what_is_held_back_goes_back_when_the_run_stops(scenario: Scenario) -> None:
    """A run that stops before it can tell records none of the rejections."""
    scenario.api.always = answers(403)

    async def main() -> None:
        async with scenario.captures(concurrency=3, rate=1.0) as captures:
            batch = await captures.submit("a", debits(30))
            while scenario.api.requests.total() < 3:
                assert (await batch.progress()).rejected == 0
                await captures._pipeline.wait_for_progress(captures._pipeline.rounds)  # type: ignore[union-attr]
            captures.stop()
            with pytest.raises(CapturesStoppedError, match="30 of 30 debits are left"):
                await batch.wait()

    simulate(main())
    assert Counter(state for (state,) in scenario.rows("SELECT state FROM jetpay_debit")) == {"pending": 30}
