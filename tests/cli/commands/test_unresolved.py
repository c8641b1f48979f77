"""``jetpay unresolved``: what is unknown is listed, shown, adopted, released and discarded."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from jetpay_async import DEMO_URL, JetpayClient, OutcomeUnknownError
from jetpay_async.ledger import Ledger
from jetpay_async.models import TransactionState
from jetpay_async.sandbox import Fault, FaultKind
from jetpay_async.webhooks import TransactionEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async.sandbox import Sandbox
    from tests.cli.conftest import CommandResult

    Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("empty_directory", "short_waits")

LEDGER = ("--ledger", "c.db")


def lose(sandbox: Sandbox, *, reported: bool) -> str:
    """Leave the reservation ``booking 1`` unknown, and return the debit that it made."""
    payer = sandbox.add_payer()
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="preauthorize"))

    async def reserve() -> str:
        async with (
            JetpayClient(sandbox.api_token, base_url=sandbox.url) as client,
            client.durable_preauthorizations("c.db") as reservations,
        ):
            with pytest.raises(OutcomeUnknownError):
                await reservations.preauthorize(
                    reference="booking 1",
                    contact_id=payer.contact_id,
                    credit_card_id=payer.credit_card_id,
                    amount="5.00",
                    to_bank_account_id=sandbox.merchant_account_id,
                    statement="Stay",
                )
        (debit,) = sandbox.debits
        if reported:
            async with Ledger("c.db", webhook_ids={1}) as ledger:
                await ledger.apply(
                    TransactionEvent(
                        id=1,
                        created_at=datetime.now(UTC) - timedelta(seconds=90),
                        type="transactions.debits.updated",
                        data={},
                        webhook_id=1,
                        transaction_id=debit.identifier,
                        state=TransactionState.PREAUTHORIZED,
                    )
                )
        return debit.identifier

    return asyncio.run(reserve())


def test_nothing_is_unresolved(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A ledger without anything unresolved says so, and one that is not there is an error."""
    assert jetpay("unresolved", "list", *LEDGER).status == 2
    assert jetpay("captures", "backup", *LEDGER, "x").status == 2
    with closing(sqlite3.connect("c.db")):
        pass
    asyncio.run(make_ledger())

    run = jetpay("unresolved", "list", *LEDGER)
    assert (run.status, run.out) == (0, "")
    assert "nothing is unresolved" in run.err
    assert jetpay("unresolved", "list", *LEDGER, "--json").err == ""


async def make_ledger() -> None:
    async with Ledger("c.db"):
        pass


def test_what_is_unknown_is_listed_and_shown(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """The list has the payment and the debit that nobody knows; showing it says what to do."""
    debit_id = lose(sandbox, reported=True)

    listed = jetpay("unresolved", "list", *LEDGER)
    lines = [json.loads(line) for line in jetpay("unresolved", "list", *LEDGER, "--json").out.splitlines()]
    shown = jetpay("unresolved", "show", *LEDGER, "booking 1")
    document = jetpay("unresolved", "show", *LEDGER, "booking 1", "--json")

    assert listed.status == 0
    assert "booking 1  preauthorize 5.00: unknown, asked " in listed.out
    assert f"debit  {debit_id}  preauthorized, made " in listed.out
    assert [(line["unresolved"], line.get("transaction_id")) for line in lines] == [
        ("payment", None),
        ("debit", debit_id),
    ]
    assert shown.status == document.status == 4
    assert "amount:             5.00" in shown.out
    assert f"may be:             {debit_id}  preauthorized" in shown.out
    assert f"jetpay unresolved adopt --ledger c.db 'booking 1' {debit_id}" in shown.err
    assert json.loads(document.out)["candidates"][0]["transaction_id"] == debit_id
    assert document.err == ""


def test_a_debit_is_adopted_by_its_status(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """Its status is read, also if no event has reported it; then it is the reference's."""
    debit_id = lose(sandbox, reported=False)
    assert "DEBIT" in jetpay("unresolved", "show", *LEDGER, "booking 1").err

    wrong = jetpay("unresolved", "adopt", *LEDGER, "booking 2", debit_id)
    run = jetpay("unresolved", "adopt", *LEDGER, "booking 1", debit_id)

    assert (wrong.status, run.status) == (2, 0)
    assert f"booking 1  preauthorize 5.00: succeeded, {debit_id} preauthorized" in run.out
    shown = jetpay("unresolved", "show", *LEDGER, "booking 1")
    assert (shown.status, shown.err) == (0, "")
    again = jetpay("unresolved", "adopt", *LEDGER, "booking 1", debit_id)
    assert again.status == 2
    assert "only what is unknown" in again.err


def test_a_debit_of_another_api_is_not_adopted(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status that another API reports says nothing of this ledger's debits; it is not even asked."""
    debit_id = lose(sandbox, reported=False)
    monkeypatch.setenv("JETPAY_BASE_URL", DEMO_URL)
    monkeypatch.setenv("JETPAY_API_TOKEN", "a-token-of-another-api")

    run = jetpay("unresolved", "adopt", *LEDGER, "booking 1", debit_id)

    assert run.status == 2
    assert "belongs to" in run.err


def test_a_debit_is_released(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A debit that nobody knows is cancelled; what is unknown to the ledger, or too new, is not."""
    debit_id = lose(sandbox, reported=True)

    early = jetpay("unresolved", "release", *LEDGER, debit_id, "--older-than", "3600")
    run = jetpay("unresolved", "release", *LEDGER, debit_id, "--json")
    again = jetpay("unresolved", "release", *LEDGER, debit_id)

    assert early.status == again.status == 3
    assert "made less than 3600 s ago" in early.err
    assert (run.status, json.loads(run.out)["result"]) == (0, "released")
    assert sandbox.debit(debit_id).state == "cancelled"


def test_what_is_not_released_says_why(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A debit that was captured meanwhile is not cancelled."""
    debit_id = lose(sandbox, reported=True)
    sandbox.set_state(debit_id, "paid")

    run = jetpay("unresolved", "release", *LEDGER, debit_id)

    assert run.status == 3
    assert f"{debit_id}  not_released, paid: its status says paid" in run.out


def test_what_came_to_nothing_is_discarded(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's word that there is nothing closes it, once no request can be on its way."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    lose(sandbox, reported=False)

    early = jetpay("unresolved", "discard", *LEDGER, "booking 1")
    with closing(sqlite3.connect("c.db", isolation_level=None)) as connection:
        connection.execute("UPDATE jetpay_payment SET certain_at = 1")
    run = jetpay("unresolved", "discard", *LEDGER, "booking 1", "--json")

    assert (early.status, run.status) == (2, 0)
    assert "may still be on its way" in early.err
    assert json.loads(run.out)["state"] == "discarded"
