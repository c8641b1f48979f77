"""The examples in the help of each command: they are commands of this program, and they work."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, cast

import attrs
import pytest

from jetpay_async._cli.parser import build_parser
from tests.cli.conftest import reserve_many
from tests.guide import DETAILS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jetpay_async.sandbox import Sandbox
    from tests.cli.conftest import CommandResult

    Jetpay = Callable[..., CommandResult]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A command, and all below it."""
    yield parser
    for action in parser._actions:
        choices: object = action.choices
        if isinstance(choices, dict):
            for nested in cast("dict[str, argparse.ArgumentParser]", choices).values():
                yield from parsers(nested)


def examples_of(parser: argparse.ArgumentParser) -> list[str]:
    shown = re.search(r"^examples?:\n((?:  .+\n)+)", parser.format_help(), re.MULTILINE)
    return [] if shown is None else [line.strip() for line in shown[1].splitlines()]


PARSER = build_parser()
EXAMPLES = {parser.prog: examples_of(parser) for parser in parsers(PARSER)}


@pytest.mark.parametrize("command", EXAMPLES)
def test_each_help_has_an_example_of_its_command(command: str) -> None:
    """Whoever asks for help sees what to type, and the program takes it."""
    examples = EXAMPLES[command]

    assert examples
    for example in examples:
        typed = example.partition("jetpay ")[2].split(">")[0].split(")")[0]
        assert f"jetpay {typed} ".startswith(f"{command} ")
        assert callable(vars(PARSER.parse_args(shlex.split(typed)))["command"])


# Each needs what those before it have left.
WORKING = [
    *EXAMPLES["jetpay preauthorize"],
    *EXAMPLES["jetpay capture"],
    *EXAMPLES["jetpay status"],
    *EXAMPLES["jetpay captures status"],
    *EXAMPLES["jetpay captures list"],
    *EXAMPLES["jetpay captures export"],
    *EXAMPLES["jetpay captures retry-rejected"],
    *EXAMPLES["jetpay captures resolve"],
    *EXAMPLES["jetpay captures verify"],
    *EXAMPLES["jetpay captures backup"],
    *EXAMPLES["jetpay captures prune"],
    *EXAMPLES["jetpay unresolved list"],
    *EXAMPLES["jetpay contacts create"],
    *EXAMPLES["jetpay cards form"],
    *EXAMPLES["jetpay charge"],
    *EXAMPLES["jetpay bank-accounts create"],
    *EXAMPLES["jetpay debits"],
    *EXAMPLES["jetpay credits"],
    *EXAMPLES["jetpay request"],
    *EXAMPLES["jetpay webhooks list"],
]


def test_the_examples_work(jetpay: Jetpay, sandbox: Sandbox, empty_directory: Path) -> None:
    """One after the other, with the ids and files that they name, each ends well."""
    payer = sandbox.add_payer()
    first, *others = reserve_many(sandbox, 3)
    Path("debits.csv").write_text("\n".join(("debit_id", *others)))
    columns = "reference,contact,card,amount,to_account,statement"
    booking = f"booking 1,{payer.contact_id},{payer.credit_card_id},9.50,{sandbox.merchant_account_id},Stay"
    Path("bookings.csv").write_text(f"{columns}\n{booking}\n")
    Path("account.json").write_text(json.dumps(attrs.asdict(DETAILS)))
    real = {
        "contact_123": payer.contact_id,
        "cc_456": payer.credit_card_id,
        "bank_789": sandbox.merchant_account_id,
        "debit_123": first,
    }

    def run(example: str) -> CommandResult:
        words = shlex.split(re.sub("|".join(real), lambda match: real[match[0]], example))
        return jetpay(*words[1:])

    ended = {example: run(example) for example in WORKING}

    assert {example: each.status for example, each in ended.items()} == dict.fromkeys(WORKING, 0), ended
    assert [debit.captures for debit in sandbox.debits if debit.identifier in {first, *others}] == [1, 1, 1]


def test_the_example_of_a_cancellation_works(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """It takes a debit that was not captured."""
    (debit_id,) = reserve_many(sandbox, 1)
    (example,) = EXAMPLES["jetpay cancel"]

    assert jetpay(*shlex.split(example.replace("debit_123", debit_id))[1:]).status == 0
