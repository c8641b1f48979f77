"""The rest of the guide: contacts, cards, charges, bank accounts, payment links, credits, webhooks, any request.

What a command creates is printed so that the next command can take it. Secrets are printed only where they are the
result that was asked for: the address of a card form, or of a payment link.
"""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from jetpay_async._cli.commands.captures import confirmed
from jetpay_async._cli.commands.operations import ClientCall, run_calls
from jetpay_async._cli.io.connection import ConnectionOptions
from jetpay_async._cli.io.console import to_json, write_message
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._core import json
from jetpay_async._core.arguments import UNCHANGED
from jetpay_async._core.contract import LINK_AMOUNTS
from jetpay_async._text import printable
from jetpay_async.bank_accounts import BankAccountDetails
from jetpay_async.errors import ConfigurationError
from jetpay_async.models import Payer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from decimal import Decimal

    from jetpay_async.client import JetpayClient
    from jetpay_async.models import (
        BankAccount,
        CardForm,
        Charge,
        Contact,
        Credit,
        JSONValue,
        PaymentLink,
        RawAnswer,
        Webhook,
    )


def contacts_create(
    *,
    email: str,
    name: str,
    tags: Sequence[str],
    language: str,
    as_json: bool,
    timeout: float | None,
    proxy: str | None,
) -> int:
    """Create a contact."""

    def show(contact: Contact) -> str:
        identifier = printable(contact.contact_id)
        return f"{identifier}\nTo have a card typed: jetpay cards form {shlex.quote(identifier)}"

    return _run(
        "create_contact",
        lambda client: client.create_contact(email=email, name=name, tags=tags, language=language),
        show,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def cards_form(*, contact_id: str, as_json: bool, timeout: float | None, proxy: str | None) -> int:
    """Ask for a hosted card form."""

    def show(form: CardForm) -> str:
        return f"{printable(form.credit_card_id)}\n{printable(form.url)}"

    return _run(
        "card_form",
        lambda client: client.card_form(contact_id),
        show,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def charge(
    *,
    contact_id: str,
    credit_card_id: str,
    amount: Decimal,
    to_bank_account_id: str,
    statement: str,
    as_json: bool,
    timeout: float | None,
    proxy: str | None,
) -> int:
    """Take an amount from a saved card at once."""

    def show(charged: Charge) -> str:
        line = f"{printable(charged.debit_id)}  {printable(charged.state)}  {charged.amount}"
        if charged.final:
            return line
        command = f"jetpay status {shlex.quote(printable(charged.debit_id))}"
        return f"{line}\nAccepted, but not final yet. To see how it ends: {command}"

    return _run(
        "charge",
        lambda client: client.charge(
            contact_id=contact_id,
            credit_card_id=credit_card_id,
            amount=amount,
            to_bank_account_id=to_bank_account_id,
            statement=statement,
        ),
        show,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def bank_accounts_create(
    *, contact_id: str, details: str, as_json: bool, timeout: float | None, proxy: str | None
) -> int:
    """Save a contact's bank account, whose details are in a file: `ps` shows arguments.

    Raises:
        ConfigurationError: The file can't be read, or does not hold the details.
    """
    account = _read_details(details)

    def show(saved: BankAccount) -> str:
        return printable(saved.bank_account_id)

    return _run(
        "create_bank_account",
        lambda client: client.create_bank_account(account, contact_id=contact_id),
        show,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def _read_details(source: str) -> BankAccountDetails:
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        document = json.parse_object(content)
    except OSError as error:
        raise ConfigurationError(f"argument --details: can't be read: {error.strerror}") from None
    except ValueError:  # its text may hold a part of the content
        raise ConfigurationError("argument --details: is not a JSON object") from None
    known = {field.name for field in attrs.fields(BankAccountDetails)}
    needed = {field.name for field in attrs.fields(BankAccountDetails) if field.default is attrs.NOTHING}
    wrong = sorted(needed - document.keys()) or sorted(document.keys() - known)
    if wrong:
        what = "lacks" if needed - document.keys() else "has an unknown field"
        raise ConfigurationError(f"argument --details: {what} {', '.join(map(printable, wrong))}")
    fields: dict[str, Any] = dict(document)
    return BankAccountDetails(**fields)


def _show_link(link: PaymentLink) -> str:
    return f"{printable(link.transaction_id)}\n{printable(link.link)}"


def debits_create(
    *,
    amount: Decimal,
    to_bank_account_id: str,
    statement: str,
    note: str | None,
    contact_id: str | None,
    email: str | None,
    name: str | None,
    link_amounts: str | None,
    yes: bool,
    as_json: bool,
    timeout: float | None,
    proxy: str | None,
) -> int:
    """Make a link by which somebody pays.

    Raises:
        ConfigurationError: Nobody can be asked for confirmation, and ``--yes`` was not given; or who pays is not named
            by a contact, or by an e-mail address and a name.
    """
    if (email is None) != (name is None) or (contact_id is None) == (email is None):
        raise ConfigurationError("who pays is named by --contact, or by --email and --name")
    if not _confirmed(f"Ask for {_in_words(amount, link_amounts)}?", yes=yes):
        return ExitStatus.INTERRUPTED
    payer = None if email is None or name is None else Payer(email=email, name=name)
    return _run(
        "create_debit",
        lambda client: client.create_debit(
            amount=amount,
            to_bank_account_id=to_bank_account_id,
            statement=statement,
            note=note,
            contact_id=contact_id,
            payer=payer,
        ),
        _show_link,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
        link_amounts=link_amounts,
    )


def credits_create(
    *,
    amount: Decimal,
    from_bank_account_id: str,
    contact_id: str,
    statement: str,
    note: str | None,
    link_amounts: str | None,
    yes: bool,
    as_json: bool,
    timeout: float | None,
    proxy: str | None,
) -> int:
    """Make a link by which a contact says where money is to be sent.

    Raises:
        ConfigurationError: Nobody can be asked for confirmation, and ``--yes`` was not given.
    """
    if not _confirmed(f"Offer {_in_words(amount, link_amounts)}?", yes=yes):
        return ExitStatus.INTERRUPTED
    return _run(
        "create_credit",
        lambda client: client.create_credit(
            amount=amount,
            from_bank_account_id=from_bank_account_id,
            contact_id=contact_id,
            statement=statement,
            note=note,
        ),
        _show_link,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
        link_amounts=link_amounts,
    )


def credits_send(
    *,
    amount: Decimal,
    from_bank_account_id: str,
    to_bank_account_id: str,
    contact_id: str,
    statement: str,
    note: str | None,
    link_amounts: str | None,
    yes: bool,
    as_json: bool,
    timeout: float | None,
    proxy: str | None,
) -> int:
    """Send money to a saved bank account.

    Raises:
        ConfigurationError: Nobody can be asked for confirmation, and ``--yes`` was not given.
    """
    words = f"Send {_in_words(amount, link_amounts)}? It leaves without a further step."
    if not _confirmed(words, yes=yes):
        return ExitStatus.INTERRUPTED

    def show(credit: Credit) -> str:
        identifier = printable(credit.transaction_id)
        return f"{identifier}  {credit.amount}\nTo see how it ends: jetpay status {shlex.quote(identifier)}"

    return _run(
        "send_credit",
        lambda client: client.send_credit(
            amount=amount,
            from_bank_account_id=from_bank_account_id,
            to_bank_account_id=to_bank_account_id,
            contact_id=contact_id,
            statement=statement,
            note=note,
        ),
        show,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
        link_amounts=link_amounts,
    )


def _in_words(amount: Decimal, link_amounts: str | None) -> str:
    """Say an amount so that a factor of 100 is seen."""
    dollars, cents = divmod(int(amount * 100), 100)
    unit = link_amounts or LINK_AMOUNTS
    sent = amount if unit == "major" else int(amount * 100)
    return f"{dollars:,} dollars and {cents} cents (sent as the number {sent}; in which unit the API takes it is open)"


def _confirmed(question: str, *, yes: bool) -> bool:
    try:
        if yes or confirmed(f"{question} [y/N] "):
            return True
    except ConfigurationError:
        message = f"argument --yes: required where nobody can be asked: {question} Nothing was sent"
        raise ConfigurationError(message) from None
    write_message("nothing was sent")
    return False


# --- webhooks


def webhooks_register(
    *,
    callback_url: str,
    api_key_file: str | None,
    max_batch_size: int,
    max_wait_seconds: int,
    replay_from: float | None,
    as_json: bool,
    timeout: float | None,
    proxy: str | None,
) -> int:
    """Register a webhook.

    Raises:
        ConfigurationError: The file of the key can't be read.
    """
    key = _read_key(api_key_file)
    return _run(
        "register_webhook",
        lambda client: client.register_webhook(
            callback_url,
            callback_api_key=key,
            max_batch_size=max_batch_size,
            max_wait_seconds=max_wait_seconds,
            replay_from=_replay_from(replay_from),
        ),
        _show_webhook,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def webhooks_ensure(
    *,
    callback_url: str,
    api_key_file: str | None,
    max_batch_size: int,
    max_wait_seconds: int,
    as_json: bool,
    timeout: float | None,
    proxy: str | None,
) -> int:
    """See to it that a URL has a webhook with these settings.

    Raises:
        ConfigurationError: The file of the key can't be read.
    """
    key = _read_key(api_key_file)
    return _run(
        "ensure_webhook",
        lambda client: client.ensure_webhook(
            callback_url, callback_api_key=key, max_batch_size=max_batch_size, max_wait_seconds=max_wait_seconds
        ),
        _show_webhook,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def webhooks_list(*, as_json: bool, timeout: float | None, proxy: str | None) -> int:
    """List the webhooks."""

    def show(webhooks: Sequence[Webhook]) -> str:
        return "\n".join(map(_show_webhook, webhooks)) or "there are no webhooks"

    return _run(
        "list_webhooks",
        lambda client: client.list_webhooks(),
        show,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def webhooks_show(*, identifier: str, as_json: bool, timeout: float | None, proxy: str | None) -> int:
    """Show one webhook."""
    return _run(
        "webhook",
        lambda client: client.webhook(identifier),
        _show_webhook,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def webhooks_change(
    *,
    identifier: str,
    callback_url: str | None,
    api_key_file: str | None,
    no_api_key: bool,
    max_batch_size: int | None,
    max_wait_seconds: int | None,
    as_json: bool,
    timeout: float | None,
    proxy: str | None,
) -> int:
    """Change settings of a webhook.

    Raises:
        ConfigurationError: The file of the key can't be read.
    """
    key = UNCHANGED if api_key_file is None and not no_api_key else _read_key(api_key_file)
    return _run(
        "change_webhook",
        lambda client: client.change_webhook(
            identifier,
            callback_url=callback_url,
            callback_api_key=key,
            max_batch_size=max_batch_size,
            max_wait_seconds=max_wait_seconds,
        ),
        _show_webhook,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def webhooks_replay(
    *, identifier: str, replay_from: float, as_json: bool, timeout: float | None, proxy: str | None
) -> int:
    """Have a webhook deliver again."""
    moment = _replay_from(replay_from)
    return _run(
        "replay_webhook",
        lambda client: client.replay_webhook(identifier, replay_from=moment or 0),
        _show_webhook,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def webhooks_remove(*, identifier: str, as_json: bool, timeout: float | None, proxy: str | None) -> int:
    """Remove a webhook."""

    def show(_: None) -> str:
        return f"{printable(identifier)}  removed"

    return _run(
        "remove_webhook",
        lambda client: client.remove_webhook(identifier),
        show,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def _replay_from(value: float | None) -> int | datetime | None:
    """Tell an event's id, an `int`, from a moment, which was read as a number of seconds."""
    return datetime.fromtimestamp(value, UTC) if isinstance(value, float) else value


def _read_key(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return (sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError("argument --api-key-file: can't be read") from None


def _show_webhook(webhook: Webhook) -> str:
    found = "  (found in the list)" if webhook.confirmed_by_list else ""
    return (
        f"{printable(webhook.identifier)}  id {webhook.id}  {printable(webhook.state)}  "
        f"{printable(webhook.callback_url)}{found}"
    )


# --- any request


def request(
    *,
    method: str,
    path: str,
    document: str | None,
    idempotent: bool,
    as_json: bool,
    timeout: float | None,
    proxy: str | None,
) -> int:
    """Send a request that has no command.

    Raises:
        ConfigurationError: The file can't be read, or is not JSON.
    """
    body = None if document is None else _read_json(document)

    def show(answer: RawAnswer) -> str:
        return "" if answer.json is None else to_json(answer.json)

    return _run(
        "request",
        lambda client: client.request(method, path, json=body, replay_safety="idempotent" if idempotent else "never"),
        show,
        ConnectionOptions(timeout=timeout, proxy=proxy),
        as_json=as_json,
    )


def _read_json(source: str) -> JSONValue:
    try:
        return json.parse(sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"argument --data: can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"argument --data: {error}") from None


def _run(
    operation: str,
    make: Callable[[JetpayClient], Awaitable[Any]],
    show: Callable[[Any], str],
    connection: ConnectionOptions,
    *,
    as_json: bool,
    link_amounts: str | None = None,
) -> int:
    options = {} if link_amounts is None else {"link_amounts": link_amounts}
    return run_calls([ClientCall(operation, None, make, show)], connection, as_json=as_json, **options)
