"""An example for each command, as its help shows it. Only the standard library is imported."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["add_examples"]

_CARD = "--contact contact_123 --card cc_456"
_BATCH = "--ledger captures.db --batch 2026-11-22"

_EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "": ("jetpay demo", "jetpay capture debit_123"),
    "demo": ("jetpay demo --count 100",),
    "sandbox": ("jetpay sandbox --fault 'lose_reply_after route=capture probability=0.05'",),
    "preauthorize": (
        f"jetpay preauthorize {_CARD} --amount 100.50 --to-account bank_789 --statement 'Two nights'",
        f"jetpay preauthorize bookings.csv {_BATCH} --dry-run",
        f"jetpay preauthorize bookings.csv {_BATCH} --out outcomes.csv",
    ),
    "capture": (
        "jetpay capture debit_123",
        f"jetpay capture debits.csv {_BATCH} --dry-run",
        f"jetpay capture debits.csv {_BATCH} --out outcomes.csv",
    ),
    "status": ("jetpay status debit_123",),
    "cancel": ("jetpay cancel debit_123",),
    "captures": ("jetpay captures status --ledger captures.db",),
    "captures status": ("jetpay captures status --ledger captures.db",),
    "captures list": (f"jetpay captures list {_BATCH}", f"jetpay captures list {_BATCH} --state accepted"),
    "captures export": (f"jetpay captures export {_BATCH} --out outcomes.csv",),
    "captures retry-rejected": (f"jetpay captures retry-rejected {_BATCH} --yes",),
    "captures resolve": ("jetpay captures resolve --ledger captures.db",),
    "captures verify": ("jetpay captures verify --ledger captures.db",),
    "captures backup": ("jetpay captures backup --ledger captures.db captures-2026-11-22.db",),
    "captures prune": ("jetpay captures prune --ledger captures.db --before 90d --yes",),
    "unresolved": ("jetpay unresolved list --ledger captures.db",),
    "unresolved list": ("jetpay unresolved list --ledger captures.db",),
    "unresolved show": ("jetpay unresolved show --ledger captures.db booking-1",),
    "unresolved adopt": ("jetpay unresolved adopt --ledger captures.db booking-1 debit_123",),
    "unresolved release": ("jetpay unresolved release --ledger captures.db debit_123",),
    "unresolved discard": ("jetpay unresolved discard --ledger captures.db booking-1",),
    "webhooks": ("jetpay webhooks register https://shop.example.com/webhooks/jetpay",),
    "webhooks explain": (
        "jetpay webhooks explain --body delivery.json --authorization @authorization.txt --jwks keys.json",
    ),
    "webhooks init": ("jetpay webhooks init --inbox postgresql://shop@db.example.com/shop",),
    "webhooks dead-letters": ("jetpay webhooks dead-letters list --inbox inbox.db",),
    "webhooks dead-letters list": ("jetpay webhooks dead-letters list --inbox inbox.db",),
    "webhooks dead-letters replay": ("jetpay webhooks dead-letters replay --inbox inbox.db 45678",),
    "webhooks dead-letters discard": ("jetpay webhooks dead-letters discard --inbox inbox.db 45678",),
    "contacts": ("jetpay contacts create --email ann@example.com --name 'Ann Payer'",),
    "cards": ("jetpay cards form contact_123",),
    "bank-accounts": ("jetpay bank-accounts create --contact contact_123 --details account.json",),
    "debits": (
        "jetpay debits create --amount 100.50 --to-account bank_789 --statement Rent --contact contact_123 --yes",
    ),
    "credits": (
        "jetpay credits create --amount 5 --from-account bank_789 --statement Refund --contact contact_123 --yes",
    ),
}
"""By command; those that are not here have one among what they explain."""


def add_examples(parser: argparse.ArgumentParser) -> None:
    """Let the help of a command, and of all commands below it, show an example before the exit statuses."""
    examples = _EXAMPLES.get(parser.prog.partition(" ")[2])
    if examples is not None:
        heading = "example:" if len(examples) == 1 else "examples:"
        parser.epilog = "\n".join((heading, *(f"  {example}" for example in examples), "", parser.epilog or ""))
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    # argparse offers no other way; those who generate completions all take it.
    for action in parser._actions:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - see above
        choices: object = action.choices
        if isinstance(choices, dict):
            for nested in cast("dict[str, argparse.ArgumentParser]", choices).values():
                add_examples(nested)
