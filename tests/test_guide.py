"""The whole guide against the sandbox: from nothing to a captured payment, and money that is sent."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
import pytest_asyncio

from jetpay_async import (
    AcceptedCharge,
    Charged,
    ChargeRequest,
    ConfigurationError,
    CreditOutcome,
    CreditRequest,
    CreditSent,
    InvalidArgumentError,
    InvalidRequestError,
    JetpayClient,
    NotSent,
    Operation,
    OperationOutcome,
    Payer,
    Rejected,
    Unknown,
    Webhook,
)
from jetpay_async.sandbox import APPROVED, DeliveryPolicy, Fault, FaultKind, Sandbox
from tests import loopback
from tests.guide import ACCOUNT_NUMBER, API_KEY, CALLBACK_URL, CALLS, DETAILS, GuideCall
from tests.loopback import DEBIT_ID, FASTAPI, WEBHOOK, Loopback, replies
from tests.network import FAST, TOKEN

URL = "http://127.0.0.1:9/hook"


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(slow_bank_seconds=0.0, delivery=DeliveryPolicy(speedup=10_000, max_attempts=1)) as running:
        yield running


@pytest_asyncio.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[JetpayClient]:
    async with JetpayClient(sandbox.api_token, base_url=sandbox.url, retry=FAST) as opened:
        yield opened


async def type_card(url: str, number: str = APPROVED) -> None:
    """Do what the payer does in the hosted form."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            url,
            data=urlencode({"card_number": number}).encode(),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ) as page,
    ):
        assert page.status == 200


@pytest.mark.asyncio
async def test_from_nothing_to_a_captured_payment(sandbox: Sandbox, client: JetpayClient) -> None:
    """Contact, card form, card, bank account, preauthorize and capture: with this client alone."""
    contact = await client.create_contact(email="a@example.com", name="A", tags=["vip"])
    form = await client.card_form(contact.contact_id)
    await type_card(form.url)
    account = await client.create_bank_account(DETAILS, contact_id=contact.contact_id)
    reserved = await client.preauthorize(
        contact_id=contact.contact_id,
        credit_card_id=form.credit_card_id,
        amount="100.50",
        to_bank_account_id=sandbox.merchant_account_id,
        statement="Cabin 12, July",
    )
    captured = await client.capture(reserved.debit_id)

    assert captured.final
    assert (contact.tags, contact.raw["language"]) == (("vip",), "en")
    assert account.bank_account_id
    assert account.title == "Savings"
    assert sandbox.debit(reserved.debit_id).captures == 1


@pytest.mark.asyncio
async def test_a_charge_takes_the_money_at_once(sandbox: Sandbox, client: JetpayClient) -> None:
    """A charge is paid, once, and its debit's status can be read."""
    payer = sandbox.add_payer()

    charged = await client.charge(
        contact_id=payer.contact_id,
        credit_card_id=payer.credit_card_id,
        amount="12.34",
        to_bank_account_id=sandbox.merchant_account_id,
        statement="Cabin 12",
    )

    assert (charged.state, charged.final, str(charged.amount)) == ("paid", True, "12.34")
    assert sandbox.debit(charged.debit_id).captures == 1


@pytest.mark.asyncio
async def test_links_and_credits(sandbox: Sandbox, client: JetpayClient) -> None:
    """A debit asks for money by a link, a credit offers it by one, or sends it to a saved account."""
    contact_id = sandbox.add_contact()
    account = await client.create_bank_account(DETAILS, contact_id=contact_id)
    merchant = sandbox.merchant_account_id
    debit = await client.create_debit(
        amount="10.50", to_bank_account_id=merchant, statement="Rent", payer=Payer(email="b@example.com", name="B")
    )
    offer = await client.create_credit(
        amount=5, from_bank_account_id=merchant, contact_id=contact_id, statement="Refund", note="long"
    )
    credit = await client.send_credit(
        amount=7,
        from_bank_account_id=merchant,
        to_bank_account_id=account.bank_account_id,
        contact_id=contact_id,
        statement="Refund",
    )

    assert debit.link.endswith(debit.transaction_id)
    assert debit.link not in repr(debit)
    assert str(sandbox.debit(debit.transaction_id).amount) == "10.50"
    assert [each.identifier for each in sandbox.credits] == [offer.transaction_id, credit.transaction_id]
    assert sandbox.credits[1].to_bank_account_id == account.bank_account_id
    assert (await client.transaction_status(debit.transaction_id)).state == "requested"


@pytest.mark.parametrize(("unit", "amount"), [("major", "100.50"), ("minor", "10050.00")])
@pytest.mark.asyncio
async def test_the_unit_of_links_is_one_setting(sandbox: Sandbox, unit: Any, amount: str) -> None:
    """`link_amounts` changes what is sent for links and nothing else, on every copy of the client."""
    payer = sandbox.add_payer()
    merchant = sandbox.merchant_account_id
    async with JetpayClient(sandbox.api_token, base_url=sandbox.url, link_amounts=unit) as client:
        link = await client.with_options(timeout=5).create_debit(
            amount="100.50", to_bank_account_id=merchant, statement="Rent", contact_id=payer.contact_id
        )
        charged = await client.charge(
            contact_id=payer.contact_id,
            credit_card_id=payer.credit_card_id,
            amount="100.50",
            to_bank_account_id=merchant,
            statement="Cabin 12",
        )

    assert str(sandbox.debit(link.transaction_id).amount) == amount
    assert str(link.amount) == "100.50"
    assert str(sandbox.debit(charged.debit_id).amount) == "100.50"


@pytest.mark.parametrize("unit", ["cents", "Major", None, ["major"]])
def test_another_unit_is_refused(monkeypatch: pytest.MonkeyPatch, unit: Any) -> None:
    """A factor of 100 is at stake: only the two words are taken."""
    monkeypatch.setenv("JETPAY_API_TOKEN", TOKEN)

    with pytest.raises(ConfigurationError, match="link_amounts: is 'major'"):
        JetpayClient.from_env(link_amounts=unit)


# --- webhooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_webhook_from_registration_to_removal(sandbox: Sandbox, client: JetpayClient) -> None:
    """Registered, read, listed, changed, replayed and removed."""
    registered = await client.register_webhook(URL, callback_api_key=API_KEY, max_batch_size=5)
    with pytest.raises(InvalidRequestError, match="exists already"):
        await client.register_webhook(URL)
    changed = await client.change_webhook(registered.identifier, callback_url=f"{URL}/2", max_wait_seconds=120)
    without_key = await client.change_webhook(registered.identifier, callback_api_key=None)
    await client.replay_webhook(registered.identifier, replay_from=1)

    assert (registered.id, registered.callback_api_key, registered.max_batch_size) == (1, API_KEY, 5)
    assert API_KEY not in repr(registered)
    assert (changed.callback_url, changed.callback_api_key, changed.max_wait_seconds) == (f"{URL}/2", API_KEY, 120)
    assert without_key.callback_api_key is None
    assert await client.list_webhooks() == (await client.webhook(registered.identifier),)
    await client.remove_webhook(registered.identifier)
    assert await client.list_webhooks() == ()


@pytest.mark.asyncio
async def test_ensuring_a_webhook_twice_leaves_one(sandbox: Sandbox, client: JetpayClient) -> None:
    """The first call registers, the second finds it as it is, the third changes what differs."""
    first = await client.ensure_webhook(URL, callback_api_key=API_KEY)
    requests = sandbox.requests("webhooks")
    second = await client.ensure_webhook(URL, callback_api_key=API_KEY)
    assert sandbox.requests("webhooks") == requests + 1
    third = await client.ensure_webhook(URL, max_batch_size=50)

    assert first == second
    assert third.identifier == first.identifier
    assert (third.max_batch_size, third.callback_api_key) == (50, None)


@pytest.mark.asyncio
async def test_two_deploys_ensure_one_webhook(client: JetpayClient) -> None:
    """Whoever comes second finds the webhook of the first, however they meet."""
    ensured = await asyncio.gather(*(client.ensure_webhook(URL) for _ in range(10)))

    assert {webhook.identifier for webhook in ensured} == {ensured[0].identifier}


@pytest.mark.asyncio
async def test_a_registration_that_meets_another_lists_again() -> None:
    """A duplicate is found by the second reading of the list; another rejection is raised."""
    scripts = {"register_webhook": [replies(409, FASTAPI[409]), replies(422, FASTAPI[422])]}
    async with Loopback(scripts=scripts).listen() as server:
        server.scripts["list_webhooks"] = [
            replies(200, []),
            replies(200, [WEBHOOK]),
            replies(200, []),
            replies(200, []),
        ]
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client:
            found = await client.ensure_webhook(CALLBACK_URL)
            with pytest.raises(InvalidRequestError):
                await client.ensure_webhook(CALLBACK_URL)

    assert isinstance(found, Webhook)
    assert found.identifier == "webhook_123"


@pytest.mark.asyncio
async def test_ensuring_a_webhook_has_one_deadline() -> None:
    """Its calls share the client's timeout: what is left for the last one may be nothing."""
    async with Loopback(scripts={"list_webhooks": [loopback.behave, *[loopback.silence] * 9]}).listen() as server:
        server.scripts["register_webhook"] = [replies(409, FASTAPI[409])]
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST, timeout=0.3) as client:
            began = asyncio.get_running_loop().time()
            with pytest.raises(Exception, match="calling again is safe"):
                await client.ensure_webhook(CALLBACK_URL)

    assert asyncio.get_running_loop().time() - began < 5


# --- many charges -----------------------------------------------------------------------------------------------------


def charge_request(number: int, **changes: Any) -> ChargeRequest:
    return ChargeRequest(
        **{
            "contact_id": f"contact_{number}",
            "credit_card_id": "cc_456",
            "amount": "100.50",
            "to_bank_account_id": "bank_789",
            "statement": "Test statement",
            "reference": f"order {number}",
            **changes,
        }
    )


@pytest.mark.asyncio
async def test_many_charges_have_one_outcome_each() -> None:
    """Done, accepted, rejected, impossible and unknown charges are reported apart, and none is made twice."""

    async def accept(exchange: loopback.Exchange) -> None:
        await exchange.reply(200, {**exchange.server.answer(exchange.request), "transaction_state": "processing"})

    acts = {"contact_1": accept, "contact_2": replies(402, {"detail": "declined"}), "contact_3": loopback.hang_up}

    async def act(exchange: loopback.Exchange) -> None:
        await acts.get(exchange.request.target.split("/")[2], loopback.behave)(exchange)

    items: list[Any] = [charge_request(0), charge_request(1), charge_request(2), charge_request(3)]
    items += [charge_request(4, amount=0), "contact_5"]
    reported: list[object] = []
    async with Loopback(scripts={"charge": [act] * 4}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client:
            outcomes = {
                repr(each.request): each
                async for each in client.charge_many(items, concurrency=4, rate=1000, on_outcome=reported.append)
            }

    kinds = [type(outcomes[repr(item)]) for item in items]
    assert kinds == [Charged, AcceptedCharge, Rejected, Unknown, NotSent, NotSent]
    done, accepted = outcomes[repr(items[0])], outcomes[repr(items[1])]
    assert isinstance(done, Charged)
    assert isinstance(accepted, AcceptedCharge)
    assert (done.debit_id, done.attempts, done.charge.final) == (DEBIT_ID, 1, True)
    assert (accepted.debit_id, accepted.attempts, accepted.charge.final) == (DEBIT_ID, 1, False)
    assert len(reported) == 6
    assert server.count("charge") == 4
    odd = outcomes[repr("contact_5")]
    assert isinstance(odd, NotSent)
    assert isinstance(odd.error, InvalidArgumentError)


# --- many credits -----------------------------------------------------------------------------------------------------


def credit_request(number: int, **changes: Any) -> CreditRequest:
    return CreditRequest(
        **{
            "amount": "100.50",
            "from_bank_account_id": "bank_789",
            "to_bank_account_id": "bank_456",
            "contact_id": f"contact_{number}",
            "statement": "Test statement",
            "reference": f"payout {number}",
            **changes,
        }
    )


@pytest.mark.asyncio
async def test_many_credits_have_one_outcome_each(caplog: pytest.LogCaptureFixture) -> None:
    """Sent, rejected, impossible and unknown credits are reported apart, and none is sent twice."""

    async def act(exchange: loopback.Exchange) -> None:
        contact = json.loads(exchange.request.body)["contact_id"]
        acts = {"contact_1": replies(402, {"detail": "declined"}), "contact_2": loopback.hang_up}
        await acts.get(contact, loopback.behave)(exchange)

    items: list[Any] = [credit_request(0, note="Trip 7"), credit_request(1), credit_request(2)]
    items += [credit_request(3, amount=0), "contact_4"]
    reported: list[object] = []

    def report(outcome: CreditOutcome) -> None:
        reported.append(outcome)
        raise ValueError("the hook fails")

    async with Loopback(scripts={"credit": [act] * 3}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST, link_amounts="minor") as client:
            outcomes = {
                repr(each.request): each
                async for each in client.send_credit_many(items, concurrency=3, rate=1000, on_outcome=report)
            }
        bodies = {each.body for each in server.requests if each.route == "credit"}

    kinds = [type(outcomes[repr(item)]) for item in items]
    assert kinds == [CreditSent, Rejected, Unknown, NotSent, NotSent]
    sent = outcomes[repr(items[0])]
    assert isinstance(sent, CreditSent)
    assert (sent.transaction_id, sent.attempts, sent.credit.contact_id) == (DEBIT_ID, 1, "contact_0")
    assert len(reported) == 5
    assert len(bodies) == server.count("credit") == 3
    assert {json.loads(body)["amount"] for body in bodies} == {10050}
    assert f"on_outcome failed for send_credit {DEBIT_ID}" in caplog.text
    odd = outcomes[repr("contact_4")]
    assert isinstance(odd, NotSent)
    assert "an item is a CreditRequest, not str" in str(odd.error)


# --- what is reported, and what is not shown --------------------------------------------------------------------------


@pytest.mark.parametrize("asked", CALLS, ids=lambda asked: asked.name)
@pytest.mark.asyncio
async def test_each_call_is_one_operation(asked: GuideCall, caplog: pytest.LogCaptureFixture) -> None:
    """`on_operation` gets its name, its outcome and the transaction; neither it nor the log shows a secret."""
    caplog.set_level(logging.DEBUG, logger="jetpay_async")
    seen: list[Operation] = []
    async with Loopback().listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST, on_operation=seen.append) as client:
            result = await asked.call(client)
    (operation,) = seen

    assert (operation.name, operation.outcome) == (asked.name, OperationOutcome.DONE)
    assert operation.debit_id == (DEBIT_ID if asked.moves_money else None)
    assert [attempt.request for attempt in operation.attempts] == [asked.name]
    shown = f"{operation} {result!r} {caplog.text}"
    assert asked.name in caplog.text
    for secret in (ACCOUNT_NUMBER, API_KEY, "https://pay.example.com", TOKEN):
        assert secret not in shown


@pytest.mark.asyncio
async def test_an_accepted_charge_is_reported_as_such() -> None:
    """A charge in progress is not reported as done."""
    seen: list[Operation] = []
    state = {"debit_id": DEBIT_ID, "transaction_state": "processing"}
    async with Loopback(scripts={"charge": [replies(200, state)]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST, on_operation=seen.append) as client:
            await CALLS[0].call(client)

    assert seen[0].outcome is OperationOutcome.ACCEPTED


@pytest.mark.asyncio
async def test_a_charge_with_an_open_state_is_resolved_by_its_status() -> None:
    """A 200 that decides nothing is not guessed at: the status says what became of the charge."""
    state = {"debit_id": DEBIT_ID, "transaction_state": "pondering"}
    async with Loopback(state="completed", scripts={"charge": [replies(200, state)]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client:
            charged: Any = await CALLS[0].call(client)

    assert (charged.state, charged.final, charged.debit_id) == ("completed", True, DEBIT_ID)
    assert server.count("charge") == 1


@pytest.mark.asyncio
async def test_a_request_of_ones_own(sandbox: Sandbox, client: JetpayClient) -> None:
    """What has no method yet goes through `request`, with a query and exact numbers."""
    made = await client.request("PUT", "/contact", json={"email": "a@example.com", "name": "A"})
    listed = await client.request("GET", "/webhooks/?limit=1")

    assert made.status == 200
    assert isinstance(made.json, dict)
    assert made.json["name"] == "A"
    assert "x-request-id" in made.headers
    assert listed.json == []


@pytest.mark.asyncio
async def test_a_cancelled_repeatable_write_is_not_unknown(sandbox: Sandbox, client: JetpayClient) -> None:
    """Cancelling what may be repeated leaves no doubt that anybody would have to clear up."""
    sandbox.faults.add(Fault(kind=FaultKind.STALL_BEFORE, route="card_url"))
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.1):
            await client.card_form(sandbox.add_contact())

    assert not hasattr(caught.value.__cause__ or caught.value, "__notes__")
