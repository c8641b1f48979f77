"""The demo's opening is the README's first example, and that of the page from the guide."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path

import pytest

from jetpay_async import TransactionState
from jetpay_async._cli.demo import opening

ROOT = Path(__file__).parents[3]
STEPS = ["ensure_webhook", "create_contact", "card_form", "create_bank_account", "preauthorize", "capture"]


def test_from_nothing_to_a_payment() -> None:
    """The money is taken, and the event of the webhook is handled once."""
    first = asyncio.run(opening.take_first_payment())

    assert first.complete
    assert (first.state, str(first.amount), first.paid) == (TransactionState.PAID, "100.50", (first.debit_id,))
    made = {first.contact_id, first.credit_card_id, first.bank_account_id, first.debit_id}
    assert (len(made), "" in made, first.webhook_id) == (4, False, 1)


def calls_of(source: str) -> list[str]:
    """The methods of the client that a program awaits, in the order of its lines."""
    calls = [
        (node.lineno, node.func.attr)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "client"
    ]
    return [name for _, name in sorted(calls)]


def python_of(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param((ROOT / "jetpay_async/_cli/demo/opening.py").read_text(), id="the demo"),
        pytest.param(python_of("README.md")[0], id="the README"),
        pytest.param("\n".join(python_of("docs/from-the-guide.md")), id="the page from the guide"),
    ],
)
def test_all_of_them_begin_in_the_same_way(source: str) -> None:
    """Each makes the same calls, in the same order, and handles the event that says paid."""
    assert calls_of(source)[: len(STEPS)] == STEPS
    assert "DebitPaid" in source
