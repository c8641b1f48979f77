"""The arguments of the commands for the rest of the guide. Only the standard library is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jetpay_async._cli import dispatch
from jetpay_async._cli.io.exit_codes import EXIT_STATUSES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import TypeAlias

    AddParser: TypeAlias = Callable[..., argparse.ArgumentParser]

__all__ = ["GuideCommands"]


class GuideCommands:
    """Adds the commands.

    Args:
        add: Adds one command to a group.
        add_common: Adds the options of every command that calls the API.
        amount: Reads an amount.
        timestamp: Reads a time.
    """

    def __init__(
        self,
        *,
        add: AddParser,
        add_common: Callable[[argparse.ArgumentParser], None],
        amount: Callable[[str], Any],
        timestamp: Callable[[str], float],
    ) -> None:
        self._add_command = add
        self._add_common = add_common
        self._amount = amount
        self._timestamp = timestamp

    def add_to(self, add_parser: AddParser) -> None:
        """Add the commands that stand in no group of other commands."""
        contacts = _group(add_parser, "contacts", "create contacts: payers and payees")
        parser = self._add(
            contacts,
            "create",
            "create a contact",
            dispatch.contacts_create,
            "jetpay contacts create --email ann@example.com --name 'Ann Payer'",
        )
        parser.add_argument("--email", required=True, help="of the contact")
        parser.add_argument("--name", required=True, help="of the contact")
        parser.add_argument("--tag", dest="tags", action="append", default=[], help="yours; may be repeated")
        parser.add_argument("--language", default="en", help="of the hosted pages (%(default)s)")

        cards = _group(add_parser, "cards", "have cards saved")
        parser = self._add(
            cards, "form", "get the address of a hosted card form", dispatch.cards_form, "jetpay cards form contact_123"
        )
        parser.add_argument("contact_id", metavar="CONTACT", help="whose card it will be")

        parser = self._add(
            add_parser,
            "charge",
            "take an amount from a saved card at once",
            dispatch.charge,
            "jetpay charge --contact contact_123 --card cc_456 --amount 100.50 "
            "--to-account bank_789 --statement 'Two nights'",
        )
        parser.add_argument("--contact", dest="contact_id", required=True, metavar="ID", help="the payer")
        parser.add_argument("--card", dest="credit_card_id", required=True, metavar="ID", help="a card saved on it")
        self._add_amount(parser)
        _add_account(parser, "to")
        _add_statement(parser)

        accounts = _group(add_parser, "bank-accounts", "save bank accounts of contacts")
        parser = self._add(
            accounts,
            "create",
            "save the bank account of a contact; the merchant's own is made in Jetpay's dashboard",
            dispatch.bank_accounts_create,
            "jetpay bank-accounts create --contact contact_123 --details account.json",
        )
        parser.add_argument("--contact", dest="contact_id", required=True, metavar="ID", help="whose it is")
        parser.add_argument(
            "--details",
            required=True,
            metavar="FILE|-",
            help="JSON with the fields of BankAccountDetails: in a file, since `ps` shows arguments; - is stdin",
        )
        self._add_links(add_parser)

        parser = self._add(
            add_parser,
            "request",
            "send a request that has no command",
            dispatch.request,
            "jetpay request GET /transaction/debit_123/status",
        )
        parser.add_argument("method", metavar="METHOD", help="GET, POST, PUT, PATCH or DELETE")
        parser.add_argument("path", metavar="PATH", help="below the API's URL, percent-encoded")
        parser.add_argument("--data", dest="document", metavar="FILE|-", help="the body: a file of JSON; - is stdin")
        parser.add_argument(
            "--idempotent", action="store_true", help="sent twice it does the same, so repeat it if it gets no answer"
        )

    def _add_links(self, add_parser: AddParser) -> None:
        debits = _group(add_parser, "debits", "ask for payments by a link")
        parser = self._add(
            debits,
            "create",
            "make a link by which a contact, or somebody new, pays",
            dispatch.debits_create,
            "jetpay debits create --amount 100.50 --to-account bank_789 --statement Rent --contact contact_123",
        )
        self._add_link(parser, "to", required_contact=False)
        parser.add_argument("--email", help="of a payer who is no contact yet")
        parser.add_argument("--name", help="of the same")

        credits_ = _group(add_parser, "credits", "pay out to contacts")
        parser = self._add(
            credits_,
            "create",
            "make a link by which a contact says where money is to be sent",
            dispatch.credits_create,
            "jetpay credits create --amount 5 --from-account bank_789 --statement Refund --contact contact_123",
        )
        self._add_link(parser, "from", required_contact=True)
        parser = self._add(
            credits_,
            "send",
            "send money to a saved bank account: it leaves without a further step",
            dispatch.credits_send,
            "jetpay credits send --amount 5 --from-account bank_789 --to-account bank_790 "
            "--statement Refund --contact contact_123 --yes",
        )
        self._add_link(parser, "from", required_contact=True)
        parser.add_argument(
            "--to-account", dest="to_bank_account_id", required=True, metavar="ID", help="the payee's bank account"
        )

    def add_webhooks_to(self, add_parser: AddParser) -> None:
        """Add the commands of the group ``webhooks``."""
        parser = self._add(
            add_parser,
            "register",
            "have events delivered to a URL",
            dispatch.webhooks_register,
            "jetpay webhooks register https://shop.example.com/webhooks/jetpay",
        )
        _add_settings(parser)
        self._add_replay(parser, required=False)
        parser = self._add(
            add_parser,
            "ensure",
            "see to it that a URL has a webhook with these settings: for deploy scripts",
            dispatch.webhooks_ensure,
            "jetpay webhooks ensure https://shop.example.com/webhooks/jetpay --max-batch-size 50",
        )
        _add_settings(parser)
        self._add(add_parser, "list", "list the webhooks", dispatch.webhooks_list, "jetpay webhooks list --json")
        parser = self._add(
            add_parser, "show", "show one webhook", dispatch.webhooks_show, "jetpay webhooks show IDENTIFIER"
        )
        _add_identifier(parser)
        parser = self._add(
            add_parser,
            "change",
            "change settings of a webhook",
            dispatch.webhooks_change,
            "jetpay webhooks change IDENTIFIER --max-wait-seconds 120",
        )
        _add_identifier(parser)
        parser.add_argument("--callback-url", metavar="URL", help="another address")
        _add_key(parser)
        parser.add_argument("--no-api-key", action="store_true", help="send no secret along any more")
        _add_limits(parser, None, None)
        parser = self._add(
            add_parser,
            "replay",
            "have a webhook deliver earlier events again",
            dispatch.webhooks_replay,
            "jetpay webhooks replay IDENTIFIER --from 45678",
        )
        _add_identifier(parser)
        self._add_replay(parser, required=True)
        parser = self._add(
            add_parser, "remove", "remove a webhook", dispatch.webhooks_remove, "jetpay webhooks remove IDENTIFIER"
        )
        _add_identifier(parser)

    def _add(
        self, add_parser: AddParser, name: str, summary: str, run: Callable[..., int], example: str
    ) -> argparse.ArgumentParser:
        epilog = f"example:\n  {example}\n\n{EXIT_STATUSES}"
        parser = self._add_command(add_parser, name, summary, run=run, epilog=epilog)
        self._add_common(parser)
        return parser

    def _add_amount(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--amount", type=self._amount, required=True, help="in dollars, with at most two decimals: 100.50"
        )

    def _add_link(self, parser: argparse.ArgumentParser, direction: str, *, required_contact: bool) -> None:
        self._add_amount(parser)
        _add_account(parser, direction)
        _add_statement(parser)
        parser.add_argument("--contact", dest="contact_id", required=required_contact, metavar="ID", help="a contact")
        parser.add_argument("--note", metavar="TEXT", help="shown in Jetpay's app")
        parser.add_argument(
            "--link-amounts",
            choices=("major", "minor"),
            help="send the amount in dollars (major) or in cents (minor): which one the API takes is open (major)",
        )
        parser.add_argument("--yes", action="store_true", help="do not ask for confirmation of the amount")

    def _add_replay(self, parser: argparse.ArgumentParser, *, required: bool) -> None:
        parser.add_argument(
            "--from" if required else "--replay-from",
            dest="replay_from",
            required=required,
            type=self._read_replay,
            metavar="ID|TIME",
            help="an event's id (inclusive), or a time such as 2026-01-22T10:15:30Z",
        )

    def _read_replay(self, text: str) -> int | float:
        return int(text) if text.isdecimal() else self._timestamp(text)


def _group(add_parser: AddParser, name: str, summary: str) -> AddParser:
    group = add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    return group.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser


def _add_account(parser: argparse.ArgumentParser, direction: str) -> None:
    parser.add_argument(
        f"--{direction}-account",
        dest=f"{direction}_bank_account_id",
        required=True,
        metavar="ID",
        help="the merchant's bank account",
    )


def _add_statement(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--statement", required=True, metavar="TEXT", help="what the bank statement shows, up to 30 characters"
    )


def _add_identifier(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("identifier", metavar="IDENTIFIER", help="as `jetpay webhooks list` shows it")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("callback_url", metavar="URL", help="a public HTTPS address")
    _add_key(parser)
    _add_limits(parser, 10, 60)


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--api-key-file", metavar="FILE|-", help="holds a secret for Jetpay to send along: `ps` shows arguments"
    )


def _add_limits(parser: argparse.ArgumentParser, size: int | None, wait: int | None) -> None:
    parser.add_argument(
        "--max-batch-size", type=int, default=size, metavar="N", help="events of a delivery, 1 to 100 (10)"
    )
    parser.add_argument(
        "--max-wait-seconds",
        type=int,
        default=wait,
        metavar="N",
        help="how long the oldest undelivered event waits for others, 60 to 3600 (60)",
    )
