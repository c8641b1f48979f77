"""The card numbers that mean something."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import aiohttp
import pytest

from jetpay_async import TransactionState
from jetpay_async import sandbox as package
from jetpay_async.sandbox import APPROVED, CARDS, CardBehavior, Sandbox

from .calling import Caller, HeldClock, until

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALL = pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)


@pytest.mark.asyncio
@_ALL
async def test_each_card_does_what_its_row_says(caller: Caller, card: CardBehavior) -> None:
    """A card is declined with its detail, or captured into its state and then into its later state."""
    payer = caller.sandbox.add_payer(card_number=card.number)

    reserved = await caller.preauthorize(payer)

    if card.declined is not None:
        assert (reserved.status, reserved.document) == (402, {"detail": card.declined})
        assert caller.sandbox.debits == ()
        assert caller.sandbox.events == ()
        return
    debit_id = reserved.document["debit_id"]
    captured = await caller.capture(debit_id)
    assert (captured.status, captured.document) == (200, {"identifier": debit_id, "state": card.capture})
    last = card.later or card.capture
    await until(lambda: caller.sandbox.debit(debit_id).state == last)
    failure = {"fail_reason": card.fail_reason, "fail_direction": card.fail_direction}
    reasons = [{"failReason", "failDirection"} & event.data.keys() for event in caller.sandbox.events]
    assert [bool(each) for each in reasons] == [event.data["state"] == "failed" for event in caller.sandbox.events]
    expected = {"state": last, **(failure if last == "failed" else {})}
    assert (await caller.status(debit_id)).document == expected
    paid = TransactionState.PAID in {card.capture, card.later}
    assert caller.sandbox.debit(debit_id).captures == paid
    assert [event.data["state"] for event in caller.sandbox.events] == [
        state for state in ("preauthorized", card.capture, card.later) if state is not None
    ]


@pytest.mark.asyncio
@_ALL
async def test_charge_with_each_card(caller: Caller, card: CardBehavior) -> None:
    """A charge is declined where a preauthorization is, answers as a capture would, and then ends [docs]."""
    answer = await caller.charge(caller.sandbox.add_payer(card_number=card.number))

    if card.declined is not None:
        assert (answer.status, answer.document) == (402, {"detail": card.declined})
    else:
        assert (answer.status, answer.document["transaction_state"]) == (200, card.capture)
        ends = "failed" if "failed" in {card.capture, card.later} else "completed"
        (debit,) = caller.sandbox.debits
        await until(lambda: caller.sandbox.debit(debit.identifier).state == ends)
        assert caller.sandbox.captured_twice == ()


@pytest.mark.asyncio
async def test_other_numbers_are_approved(caller: Caller) -> None:
    """A number that is not in the table succeeds."""
    debit_id = await caller.reserve(card_number="5555555555554444")

    assert (await caller.capture(debit_id)).document["state"] == "paid"


@pytest.mark.parametrize("number", ["4000 0000 0000 0002", "4000-0000-0000-0002"])
@pytest.mark.asyncio
async def test_a_number_in_groups(caller: Caller, number: str) -> None:
    """Spaces and hyphens in a number make no difference."""
    reply = await caller.preauthorize(caller.sandbox.add_payer(card_number=number))

    assert (reply.status, reply.document) == (402, {"detail": "Card declined"})


@pytest.mark.asyncio
async def test_a_slow_bank_takes_its_time() -> None:
    """A slow bank's answer comes after `slow_bank_seconds`, and never once it was overruled or the sandbox stopped."""
    held = HeldClock()
    async with Sandbox(slow_bank_seconds=7, clock=held.clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        slow, overruled = [await caller.reserve(card_number="4000000000000051") for _ in range(2)]
        for debit_id in (slow, overruled):
            await caller.capture(debit_id)
        sandbox.set_state(overruled, "failed")
        assert sandbox.debit(slow).state == "processing"
        assert (await caller.capture(slow)).status == 409
        held.released.set()
        await until(lambda: sandbox.debit(slow).state == "paid")
        held.released.clear()
        dropped = await caller.reserve(card_number="4000000000000051")
        await caller.capture(dropped)
    held.released.set()
    await asyncio.sleep(0.01)

    assert sandbox.debit(dropped).state == "processing"
    assert sandbox.debit(overruled).state == "failed"
    assert held.slept == [7, 7, 7]


def _rows(marker: str) -> Iterable[list[str]]:
    lines = (package.__doc__ or "").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(marker))
    for line in lines[start + 2 :]:
        if line.startswith("==="):
            return
        yield re.split(r"\s{2,}", line, maxsplit=2)


def test_the_documented_cards_are_the_table() -> None:
    """The package's docstring shows `CARDS`, row by row."""
    shown = [tuple(re.split(r"\s{2,}", " ".join(row), maxsplit=1)) for row in _rows("Card number")]

    assert [" ".join(row) for row in shown] == [f"{card.number} {card.meaning}" for card in CARDS.values()]


def test_the_documented_calls_are_the_routes() -> None:
    """The package's docstring, `ROUTES` and the routes that are served name the same calls and scopes."""
    sandbox = Sandbox()
    routes = sandbox._api.routes()  # pyright: ignore[reportPrivateUsage]
    served = {route.name: route for route in routes}

    assert [(name, scope) for name, scope, _ in _rows("Name  ")] == [
        (route.name, route.scope or "none") for route in served.values()
    ]
    assert tuple(served) == package.ROUTES


@_ALL
def test_each_meaning_says_what_the_row_does(card: CardBehavior) -> None:
    """The meaning of a row names its states and reasons, and promises nothing that the row does not do."""
    if card.not_saved is not None:
        assert f"failed ({card.not_saved})" in card.meaning
    elif card.number != APPROVED:
        assert ("402" in card.meaning) == (card.declined is not None)
        assert card.declined is not None or card.capture in card.meaning
        assert ("follows" in card.meaning) == (card.later is not None)
        assert card.later is None or f"{card.later} follows" in card.meaning
        reason = f"{card.fail_reason}, {card.fail_direction}"
        assert ("_" in card.meaning) == (reason in card.meaning) == (card.fail_reason is not None)


def test_card_numbers_are_plausible() -> None:
    """Every number has 16 digits and a right check digit, so that forms let it through."""
    for number in CARDS:
        doubled = [int(digit) * (2 - index % 2) for index, digit in enumerate(number)]
        assert (len(number), sum(sum(divmod(each, 10)) for each in doubled) % 10) == (16, 0)
    assert APPROVED in CARDS
