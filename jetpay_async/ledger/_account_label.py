"""The label of an account that a ledger keeps."""

from __future__ import annotations

from jetpay_async.errors import InvalidArgumentError

_ACCOUNT_LIMIT = 255


def check_account(account: str | None) -> str | None:
    """Return a label that a ledger can keep, or None.

    Raises:
        InvalidArgumentError: It can't be one.
    """
    if account is None or (isinstance(account, str) and 0 < len(account) <= _ACCOUNT_LIMIT and account.isprintable()):
        return account
    raise InvalidArgumentError(
        f"account: a label is a printable str of 1 to {_ACCOUNT_LIMIT} characters, never the token", field="account"
    )
