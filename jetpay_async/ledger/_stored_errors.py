"""Rejections as the ledger stores them: by the class of the error, its message, and what it reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from jetpay_async import errors
from jetpay_async.errors import APIError, Context, JetpayError, TransactionFailedError

if TYPE_CHECKING:
    from jetpay_async.models import TransactionState

REASON_LIMIT = 500
"""Characters of a message that are stored."""


def storable(text: str) -> str:
    """Return text of the API as a database can hold it: without NUL, and without halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def stored_rejection(
    name: str | None, reason: str | None, state: TransactionState | None, **context: Unpack[Context]
) -> JetpayError:
    """Make the error again that was stored.

    Args:
        name: Of its class; a newer release may have stored one that this release does not know.
        reason: Its message.
        state: Of the transaction.
        context: What it reported of its circumstances.
    """
    kind = getattr(errors, name or "", APIError)
    error_class: type[JetpayError] = kind if isinstance(kind, type) and issubclass(kind, JetpayError) else APIError
    error = error_class(reason or "rejected", **context)
    if isinstance(error, TransactionFailedError):
        error.state = state
    return error
