"""The rest of the guide: contacts, cards, bank accounts, payment links."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from jetpay_async import TransactionState

from .calling import until

if TYPE_CHECKING:
    from .calling import Caller, Reply

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_BANK_ACCOUNT = {
    "institution": "A RecordingServer",
    "title": "Savings",
    "holder_name": "A Payer",
    "account_type": "checking",
    "transit_number": "00001",
    "institution_number": "001",
    "account_number": "1234567",
    "holder_address": "1 Road",
    "holder_address_postal_code": "A1A 1A1",
    "holder_address_city": "Town",
    "holder_address_country": "CA",
    "holder_email": "payer@example.com",
}


def _places(answer: Reply) -> list[list[str | int]]:
    assert answer.status == 422, answer
    return [each["loc"] for each in answer.document["detail"]]


@pytest.mark.asyncio
async def test_contact(caller: Caller) -> None:
    """PUT /contact creates a contact with a UUID, and another one when it is sent again."""
    contact = {"email": "a@example.com", "name": "A", "tags": ["vip"], "language": "fr"}

    first, second = await caller.call("PUT", "/contact", contact), await caller.call("PUT", "/contact", contact)

    assert first.status == second.status == 200
    assert first.document == contact | {"identifier": str(uuid.UUID(first.document["identifier"]))}
    assert first.document["identifier"] != second.document["identifier"]


@pytest.mark.asyncio
async def test_contact_defaults(caller: Caller) -> None:
    """A contact has no tags and has the language English unless one is given."""
    answer = await caller.call("PUT", "/contact", {"email": "a@example.com", "name": "A"})

    assert (answer.document["tags"], answer.document["language"]) == ([], "en")


@pytest.mark.asyncio
async def test_contact_errors(caller: Caller) -> None:
    """A contact's bad fields are named, down to the place in a list."""
    answers = [
        await caller.call("PUT", "/contact", {"tags": "vip", "language": 1}),
        await caller.call("PUT", "/contact", {"email": "a", "name": "A", "tags": ["ok", 1]}),
    ]

    assert _places(answers[0]) == [["body", "email"], ["body", "name"], ["body", "tags"], ["body", "language"]]
    assert _places(answers[1]) == [["body", "tags", 1]]


@pytest.mark.asyncio
async def test_bank_account(caller: Caller) -> None:
    """PUT /contact/bank_account creates a contact's account, which money can go to."""
    contact_id = caller.sandbox.add_contact()

    answer = await caller.call("PUT", "/contact/bank_account", _BANK_ACCOUNT | {"contact_id": contact_id})
    identifier = answer.document["identifier"]

    assert answer.status == 201
    assert answer.document == _BANK_ACCOUNT | {"contact_id": contact_id, "identifier": identifier}
    assert (await caller.preauthorize(to_bank_account_id=identifier)).status == 200


@pytest.mark.asyncio
async def test_bank_account_of_an_unknown_contact(caller: Caller) -> None:
    """A bank account needs a contact that exists, and all of its fields."""
    unknown = await caller.call("PUT", "/contact/bank_account", _BANK_ACCOUNT | {"contact_id": "unknown"})
    missing = await caller.call("PUT", "/contact/bank_account", {"institution": "A RecordingServer"})

    assert (unknown.status, unknown.document) == (404, {"detail": "Contact not found"})
    assert len(_places(missing)) == len(_BANK_ACCOUNT)


@pytest.mark.asyncio
async def test_hosted_card_form(caller: Caller) -> None:
    """The card's id is known at once, works once the payer has filled in the form, and the form works once."""
    contact_id = caller.sandbox.add_contact()
    asked = await caller.call("POST", f"/contact/{contact_id}/creditcards/url")
    url, credit_card_id = asked.document["url"], asked.document["credit_card_id"]
    preauthorize = f"/contact/{contact_id}/creditcards/{credit_card_id}/preauthorize"
    assert asked.status == 200
    assert (await caller.call("POST", preauthorize, caller.request())).status == 404

    shown = await caller.call("GET", url)
    mistyped = await caller.call("POST", url, data=b"card_number=4111+x", headers=_FORM)
    submitted = await caller.call(
        "POST", url, data=urlencode({"card_number": "4000 0000-0000 0002"}).encode(), headers=_FORM
    )
    again = await caller.call("POST", url, data=b"card_number=4111111111111111", headers=_FORM)

    assert (shown.status, shown.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b'name="card_number"' in shown.body
    assert (mistyped.status, submitted.status, again.status) == (422, 200, 404)
    assert b"not a card number" in mistyped.body
    assert (await caller.call("GET", url)).status == 404
    assert (await caller.call("POST", preauthorize, caller.request())).document == {"detail": "Card declined"}
    (event,) = caller.sandbox.events
    assert event.type == "credit_cards.tokenization.created"
    assert event.data == {"creditCardId": credit_card_id, "contactId": contact_id}


@pytest.mark.asyncio
async def test_card_form_of_an_unknown_contact(caller: Caller) -> None:
    """A card form needs a contact, and an empty submission changes nothing."""
    unknown = await caller.call("POST", "/contact/unknown/creditcards/url")

    assert (unknown.status, unknown.document) == (404, {"detail": "Contact not found"})


@pytest.mark.asyncio
async def test_debit_link(caller: Caller) -> None:
    """PUT /debit makes a link; the debit is requested, can't be captured, and is paid once through the link."""
    request = {
        "amount": 12.34,
        "statement": "Rent <May>",
        "note": "n",
        "to_bank_account": caller.sandbox.merchant_account_id,
        "contact_email": "a@example.com",
        "contact_name": "A",
    }

    answer = await caller.call("PUT", "/debit", request)
    debit_id, link = answer.document["identifier"], answer.document["link"]

    assert (answer.status, link) == (201, f"{caller.sandbox.url}/payment/pay/{debit_id}")
    debit = caller.sandbox.debit(debit_id)
    assert (debit.state, debit.amount, debit.note) == (TransactionState.REQUESTED, Decimal("12.34"), "n")
    captured = await caller.capture(debit_id)
    assert (captured.status, "nothing to capture" in captured.document["detail"]) == (409, True)
    page = await caller.call("GET", link)
    assert b"Rent &lt;May&gt;: 12.34 (requested)" in page.body
    assert b"<button>Pay</button>" in page.body
    assert [(await caller.call("POST", link)).status for _ in range(2)] == [200, 409]
    await until(lambda: caller.sandbox.debit(debit_id).state == "completed")
    assert caller.sandbox.debit(debit_id).captures == 1
    assert states(caller, debit_id) == ["requested", "initiated", "completed"]


@pytest.mark.asyncio
async def test_debit_of_a_known_contact(caller: Caller) -> None:
    """A debit may name a contact instead of describing one; sent twice, it is made twice."""
    contact_id = caller.sandbox.add_contact()
    request = {
        "amount": 1,
        "statement": "Rent",
        "to_bank_account": caller.sandbox.merchant_account_id,
        "contact_id": contact_id,
    }

    answers = [await caller.call("PUT", "/debit", request) for _ in range(2)]

    assert [answer.status for answer in answers] == [201, 201]
    assert [debit.contact_id for debit in caller.sandbox.debits] == [contact_id, contact_id]


@pytest.mark.asyncio
async def test_debit_errors(caller: Caller) -> None:
    """A debit needs to know who pays and where to."""
    merchant = caller.sandbox.merchant_account_id
    whole = {"amount": 1, "statement": "Rent", "to_bank_account": merchant, "contact_id": "unknown"}

    without_contact = await caller.call(
        "PUT", "/debit", {"amount": 1, "statement": "Rent", "to_bank_account": merchant}
    )
    unknown_contact = await caller.call("PUT", "/debit", whole)
    unknown_account = await caller.call("PUT", "/debit", whole | {"to_bank_account": "nowhere"})

    assert _places(without_contact) == [["body"]]
    assert (unknown_contact.status, unknown_contact.document["detail"]) == (404, "Contact not found")
    assert (unknown_account.status, unknown_account.document["detail"]) == (404, "Bank account not found")


def states(caller: Caller, transaction_id: str) -> list[object]:
    """The states that the events of a transaction report."""
    return [event.data["state"] for event in caller.sandbox.events if event.data.get("transactionId") == transaction_id]


@pytest.mark.asyncio
async def test_credit_by_a_link(caller: Caller) -> None:
    """PUT /credit offers money to a contact, who accepts it through its link; nobody's card is charged."""
    request = {
        "amount": 5,
        "statement": "Refund",
        "from_bank_account": caller.sandbox.merchant_account_id,
        "contact_id": caller.sandbox.add_contact(),
    }

    answer = await caller.call("PUT", "/credit", request)
    identifier = answer.document["identifier"]
    status = await caller.status(identifier)
    page = await caller.call("GET", answer.document["link"])
    accepted = await caller.call("POST", answer.document["link"])

    assert caller.sandbox.debits == ()
    assert (answer.status, status.document, accepted.status) == (201, {"state": "requested"}, 200)
    assert b"<button>Accept</button>" in page.body
    await until(lambda: caller.sandbox.credits[0].state == "completed")
    assert states(caller, identifier) == ["requested", "initiated", "completed"]
    assert caller.sandbox.credits[0].captures == 0
    assert {event.type for event in caller.sandbox.events} == {"transactions.credits.created"}
    assert (await caller.capture(identifier)).status == 404
    with pytest.raises(KeyError, match=identifier):
        caller.sandbox.debit(identifier)


@pytest.mark.asyncio
async def test_credit_to_a_saved_account(caller: Caller) -> None:
    """With an account of the payee, the money leaves without anybody's step, and no link can stop or repeat it."""
    contact_id = caller.sandbox.add_contact()
    account_id = caller.sandbox.add_bank_account(contact_id)
    request = {
        "amount": 5,
        "statement": "Refund",
        "from_bank_account": caller.sandbox.merchant_account_id,
        "to_bank_account": account_id,
        "contact_id": contact_id,
    }

    answer = await caller.call("PUT", "/credit", request)
    followed = await caller.call("POST", answer.document["link"])

    assert (answer.status, followed.status) == (201, 409)
    await until(lambda: caller.sandbox.credits[0].state == "completed")
    assert states(caller, answer.document["identifier"]) == ["processing", "initiated", "completed"]
    assert caller.sandbox.credits[0].to_bank_account_id == account_id


@pytest.mark.asyncio
async def test_what_a_bank_would_report_is_dropped_once_a_state_is_set(caller: Caller) -> None:
    """A state that is set by hand is the last one."""
    request = {
        "amount": 5,
        "statement": "Rent",
        "to_bank_account": caller.sandbox.merchant_account_id,
        "contact_id": caller.sandbox.add_contact(),
    }
    answer = await caller.call("PUT", "/debit", request)
    debit_id = answer.document["identifier"]

    caller.sandbox.set_state(debit_id, "failed")
    assert (await caller.call("POST", answer.document["link"])).status == 409

    assert states(caller, debit_id) == ["requested", "failed"]


@pytest.mark.asyncio
async def test_a_card_that_is_not_saved(caller: Caller) -> None:
    """The payer learns it from the page, the merchant from the event; the card can't be charged, the form is used."""
    contact_id = caller.sandbox.add_contact()
    asked = await caller.call("POST", f"/contact/{contact_id}/creditcards/url")
    url, credit_card_id = asked.document["url"], asked.document["credit_card_id"]

    page = await caller.call("POST", url, data=b"card_number=4000000000000101", headers=_FORM)
    again = await caller.call("GET", url)
    reserved = await caller.call(
        "POST", f"/contact/{contact_id}/creditcards/{credit_card_id}/preauthorize", caller.request()
    )

    assert (page.status, again.status, reserved.status) == (200, 404, 404)
    assert b"could not be saved" in page.body
    (event,) = caller.sandbox.events
    assert event.data == {
        "creditCardId": credit_card_id,
        "contactId": contact_id,
        "state": "failed",
        "failReason": "card_not_supported",
    }


@pytest.mark.asyncio
async def test_credit_errors(caller: Caller) -> None:
    """A credit needs a contact and an account to pay from; all of them have to exist."""
    contact_id, merchant = caller.sandbox.add_contact(), caller.sandbox.merchant_account_id
    whole = {"amount": 1, "statement": "Refund", "from_bank_account": merchant, "contact_id": contact_id}

    answers = [
        await caller.call("PUT", "/credit", {"amount": 1, "statement": "Refund"}),
        await caller.call("PUT", "/credit", whole | {"contact_id": "unknown"}),
        await caller.call("PUT", "/credit", whole | {"from_bank_account": "nowhere"}),
        await caller.call("PUT", "/credit", whole | {"to_bank_account": "nowhere"}),
    ]

    assert _places(answers[0]) == [["body", "from_bank_account"], ["body", "contact_id"]]
    assert [answer.status for answer in answers[1:]] == [404, 404, 404]
    assert caller.sandbox.credits == ()


@pytest.mark.asyncio
async def test_hand_written_state_moves_money_once(caller: Caller) -> None:
    """Setting a debit to paid by hand counts as one taking of the money, however often it is done."""
    debit_id = await caller.reserve()

    for _ in range(2):
        caller.sandbox.set_state(debit_id, "paid")

    assert caller.sandbox.debit(debit_id).captures == 1
    assert caller.sandbox.captured_twice == ()


@pytest.mark.asyncio
async def test_ids_that_do_not_exist(caller: Caller) -> None:
    """Reading or changing in the process what does not exist is a KeyError."""
    sandbox = caller.sandbox

    with pytest.raises(KeyError, match="nothing"):
        sandbox.debit("nothing")
    with pytest.raises(KeyError, match="nothing"):
        sandbox.set_state("nothing", "paid")
    with pytest.raises(KeyError, match="unknown"):
        sandbox.add_credit_card("unknown")
    with pytest.raises(KeyError, match="unknown"):
        sandbox.add_bank_account("unknown")
