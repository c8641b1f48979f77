"""What a payment needs first: contacts, their cards, their bank accounts. Pure; see `operations`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from jetpay_async._core import contract, json
from jetpay_async._core.arguments import read_id, read_text
from jetpay_async._core.operations import ApiOperation, Call, ReplaySafety, ResponseContext, agrees
from jetpay_async.bank_accounts import BankAccountDetails, last_digits
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.models import BankAccount, CardForm, Contact

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue


def create_contact(*, email: str, name: str, tags: Iterable[str], language: str) -> Call[Contact]:
    """Create a contact [docs]."""
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidArgumentError("tags: are several; pass a tuple or a list of str", field="tags")
    labels = tuple(read_text(tag, "tags") for tag in tags)
    arguments = {"email": read_text(email, "email"), "name": read_text(name, "name")}
    arguments["language"] = read_text(language, "language")
    return Call(
        operation=CREATE_CONTACT,
        path=contract.CREATE_CONTACT.path,
        arguments={**arguments, "tags": ", ".join(labels)} if labels else arguments,
        body=json.dump({**arguments, "tags": labels}),
    )


def card_form(contact_id: str) -> Call[CardForm]:
    """Ask for the hosted form in which a payer types a card [docs]."""
    contact, segment = read_id(contact_id, "contact_id")
    return Call(CARD_FORM, contract.CARD_FORM.fill(contact_id=segment), {"contact_id": contact})


def create_bank_account(details: BankAccountDetails, *, contact_id: str) -> Call[BankAccount]:
    """Save a contact's bank account [docs]."""
    if not isinstance(details, BankAccountDetails):
        raise InvalidArgumentError(f"details: is a BankAccountDetails, not {type(details).__name__}", field="details")
    contact, _ = read_id(contact_id, "contact_id")
    number = details.account_number
    return Call(
        operation=CREATE_BANK_ACCOUNT,
        path=contract.CREATE_BANK_ACCOUNT.path,
        arguments={
            "contact_id": contact,
            "title": details.title,
            "holder_name": details.holder_name,
            "account_number": last_digits(number),
        },
        body=json.dump({**attrs.asdict(details), "contact_id": contact}),
        # With and without its leading zeros: a service may repeat it as a number.
        secrets=(number, number.lstrip("0") or number),
    )


def read_identifier(document: dict[str, JSONValue], field: str = "identifier") -> str:
    """Return the id that a reply must have."""
    identifier = document.get(field)
    if not isinstance(identifier, str) or not identifier:
        raise ValueError(f"the response has no {field}")
    return identifier


def _read_contact(call: Call[Contact], document: dict[str, JSONValue], context: ResponseContext) -> Contact:
    asked = json.parse_object(call.body)
    tags = asked["tags"]
    return Contact(
        contact_id=read_identifier(document),
        email=call.arguments["email"],
        name=call.arguments["name"],
        tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
        language=call.arguments["language"],
        raw=document,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


def _read_card_form(call: Call[CardForm], document: dict[str, JSONValue], context: ResponseContext) -> CardForm:
    return CardForm(
        contact_id=call.arguments["contact_id"],
        credit_card_id=read_identifier(document, contract.CARD_FORM_CARD),
        url=read_identifier(document, contract.CARD_FORM_URL),
        raw=document,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


def _read_bank_account(
    call: Call[BankAccount], document: dict[str, JSONValue], context: ResponseContext
) -> BankAccount:
    contact_id = call.arguments["contact_id"]
    if not agrees(document.get("contact_id"), contact_id):
        raise ValueError("the response is about another contact")
    return BankAccount(
        bank_account_id=read_identifier(document),
        contact_id=contact_id,
        title=call.arguments["title"],
        raw=document,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


CREATE_CONTACT = ApiOperation(
    "create_contact",
    contract.CREATE_CONTACT.method,
    ReplaySafety.NEVER,
    _read_contact,
    moves_money=False,
    harmless=True,
)
# A link that nobody uses does no harm.
CARD_FORM = ApiOperation(
    "card_form", contract.CARD_FORM.method, ReplaySafety.IDEMPOTENT, _read_card_form, moves_money=False
)
CREATE_BANK_ACCOUNT = ApiOperation(
    "create_bank_account",
    contract.CREATE_BANK_ACCOUNT.method,
    ReplaySafety.NEVER,
    _read_bank_account,
    moves_money=False,
)
