"""The two pages that people see: the hosted card form, and the page behind a payment link."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from jetpay_async.sandbox import _responses
from jetpay_async.sandbox._cards import read_card_number

if TYPE_CHECKING:
    from jetpay_async.sandbox._responses import SandboxResponse
    from jetpay_async.sandbox._state import Transaction

__all__ = ["card_form", "card_number", "done", "payment"]


def card_form(error: str = "") -> SandboxResponse:
    """Return the form for a card number; with an error, as a 422."""
    field = '<input name="card_number" autocomplete="cc-number" inputmode="numeric" required>'
    form = f'<form method="post"><label>Card number {field}</label> <button>Save</button></form>'
    return _page(422 if error else 200, "Save a card", f"<p>{escape(error)}</p>{form}")


def card_number(body: bytes) -> str | None:
    """Read the submitted form; None if there is no card number in it."""
    fields = parse_qs(body.decode(errors="replace"))
    try:
        return read_card_number(fields.get("card_number", [""])[0].strip())
    except ValueError:
        return None


def payment(transaction: Transaction) -> SandboxResponse:
    """Return the page of a payment link."""
    about = f"<p>{escape(transaction.statement)}: {transaction.amount} ({transaction.state})</p>"
    verb = "Pay" if transaction.kind == "debit" else "Accept"
    return _page(200, "Payment", f'{about}<form method="post"><button>{verb}</button></form>')


def done(message: str) -> SandboxResponse:
    """Return the page that confirms it."""
    return _page(200, "Done", f"<p>{escape(message)}</p>")


def _page(status: int, title: str, content: str) -> SandboxResponse:
    return _responses.html(
        status,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<h1>{escape(title)}</h1>{content}</html>\n",
    )
