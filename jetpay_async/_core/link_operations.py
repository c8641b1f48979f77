"""Debits and credits that are made by ``PUT``: payment links, and money sent to a saved account. Pure.

The unit of their amounts is not published: see `contract.LINK_AMOUNTS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async._core import contract, json
from jetpay_async._core.account_operations import read_identifier
from jetpay_async._core.arguments import read_id, read_statement, read_text
from jetpay_async._core.operations import ApiOperation, Call, ReplaySafety, ResponseContext
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.models import Credit, Payer, PaymentLink
from jetpay_async.money import Amount, to_amount

if TYPE_CHECKING:
    from decimal import Decimal

    from jetpay_async._core.contract import LinkAmounts
    from jetpay_async.models import JSONValue


def create_debit(
    *,
    amount: Amount,
    to_bank_account_id: str,
    statement: str,
    note: str | None,
    contact_id: str | None,
    payer: Payer | None,
    unit: LinkAmounts,
) -> Call[PaymentLink]:
    """Make a link by which a contact, or somebody new, pays [docs]."""
    fields = _Fields(amount, statement, note, unit)
    fields.add_id("to_bank_account", to_bank_account_id, "to_bank_account_id")
    if (contact_id is None) == (payer is None):
        raise InvalidArgumentError("contact_id: give it, or payer, and not both", field="contact_id")
    if contact_id is not None:
        fields.add_id("contact_id", contact_id, "contact_id")
    elif not isinstance(payer, Payer):
        raise InvalidArgumentError(f"payer: is a Payer, not {type(payer).__name__}", field="payer")
    else:
        fields.add("contact_email", read_text(payer.email, "payer"))
        fields.add("contact_name", read_text(payer.name, "payer"))
    return Call(CREATE_DEBIT, contract.CREATE_DEBIT.path, fields.arguments, body=json.dump(fields.body))


def create_credit(
    *,
    amount: Amount,
    from_bank_account_id: str,
    contact_id: str,
    statement: str,
    note: str | None,
    unit: LinkAmounts,
) -> Call[PaymentLink]:
    """Make a link by which a contact says where money is to be sent [docs]."""
    fields = _Fields(amount, statement, note, unit)
    fields.add_id("from_bank_account", from_bank_account_id, "from_bank_account_id")
    fields.add_id("contact_id", contact_id, "contact_id")
    return Call(CREATE_CREDIT, contract.CREATE_CREDIT.path, fields.arguments, body=json.dump(fields.body))


def send_credit(
    *,
    amount: Amount,
    from_bank_account_id: str,
    to_bank_account_id: str,
    contact_id: str,
    statement: str,
    note: str | None,
    unit: LinkAmounts,
) -> Call[Credit]:
    """Send money to a saved bank account [docs]."""
    fields = _Fields(amount, statement, note, unit)
    fields.add_id("from_bank_account", from_bank_account_id, "from_bank_account_id")
    fields.add_id("to_bank_account", to_bank_account_id, "to_bank_account_id")
    fields.add_id("contact_id", contact_id, "contact_id")
    return Call(SEND_CREDIT, contract.CREATE_CREDIT.path, fields.arguments, body=json.dump(fields.body))


class _Fields:
    """The body of a request, and the arguments that an error shows."""

    def __init__(self, amount: Amount, statement: str, note: str | None, unit: LinkAmounts) -> None:
        exact = to_amount(amount)
        self.arguments = {"amount": str(exact), "statement": read_statement(statement)}
        self.body: dict[str, JSONValue] = {**self.arguments, "amount": _in_unit(exact, unit)}
        if note is not None:
            self.add("note", read_text(note, "note", lines=True))

    def add(self, name: str, value: str) -> None:
        self.arguments[name] = value
        self.body[name] = value

    def add_id(self, name: str, value: str, argument: str) -> None:
        self.arguments[argument] = identifier = read_id(value, argument)[0]
        self.body[name] = identifier


def _in_unit(amount: Decimal, unit: LinkAmounts) -> JSONValue:
    return amount if unit == "major" else int(amount * 100)


def _read_link(call: Call[PaymentLink], document: dict[str, JSONValue], context: ResponseContext) -> PaymentLink:
    return PaymentLink(
        transaction_id=read_identifier(document),
        link=read_identifier(document, "link"),
        amount=to_amount(call.arguments["amount"]),
        statement=call.arguments["statement"],
        raw=document,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


def _read_credit(call: Call[Credit], document: dict[str, JSONValue], context: ResponseContext) -> Credit:
    asked = call.arguments
    return Credit(
        transaction_id=read_identifier(document),
        amount=to_amount(asked["amount"]),
        statement=asked["statement"],
        from_bank_account_id=asked["from_bank_account_id"],
        to_bank_account_id=asked["to_bank_account_id"],
        contact_id=asked["contact_id"],
        raw=document,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


# Sent twice, there are two links to pay; and the card form pays a contact's debit without any further step.
CREATE_DEBIT = ApiOperation(
    "create_debit", contract.CREATE_DEBIT.method, ReplaySafety.NEVER, _read_link, transaction_field="identifier"
)
CREATE_CREDIT = ApiOperation(
    "create_credit", contract.CREATE_CREDIT.method, ReplaySafety.NEVER, _read_link, transaction_field="identifier"
)
SEND_CREDIT = ApiOperation(
    "send_credit", contract.CREATE_CREDIT.method, ReplaySafety.NEVER, _read_credit, transaction_field="identifier"
)
