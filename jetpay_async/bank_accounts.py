"""The details of a bank account, checked before anything is sent."""

from __future__ import annotations

import re

import attrs

from jetpay_async.errors import InvalidArgumentError

__all__ = ["BankAccountDetails"]

# What each number must look like, and how to say so. The length of an account number is not published.
_NUMBERS = {
    "transit_number": (re.compile(r"[0-9]{5}"), "5 digits, leading zeros included"),
    "institution_number": (re.compile(r"[0-9]{3}"), "3 digits, leading zeros included"),
    "account_number": (re.compile(r"[0-9]{4,17}"), "4 to 17 digits, leading zeros included"),
    "holder_address_country": (re.compile(r"[A-Z]{2}"), "2 capital letters, such as CA"),
    "holder_address_postal_code": (re.compile(r"[0-9A-Za-z-]{1,16}"), "letters and digits without a space: A1A1A1"),
}


# What errors and logs show, and so must not hold the account number.
_SHOWN = ("institution", "title", "holder_name")


def last_digits(account_number: str) -> str:
    """Return what may be shown of an account number."""
    return f"***{account_number[-3:]}"


@attrs.frozen(kw_only=True)
class BankAccountDetails:
    """What `JetpayClient.create_bank_account` sends [docs]. Its numbers are strings: leading zeros count.

    Its ``repr`` shows the last three digits of the account number, and nothing of the holder but the name. Collect
    these details on your server: the vendor asks never to send them from a browser.

    Raises:
        InvalidArgumentError: A field can't be right; ``field`` names it.
    """

    institution: str
    """The bank's name; without the account number."""
    title: str
    """Yours, to tell accounts apart; without the account number, since errors show it."""
    holder_name: str
    """Whose account it is; without the account number."""
    transit_number: str
    """5 digits."""
    institution_number: str
    """3 digits."""
    account_number: str = attrs.field(repr=last_digits)
    """Digits."""
    holder_address: str = attrs.field(repr=False)
    """Street and number."""
    holder_address_postal_code: str = attrs.field(repr=False)
    """Without a space."""
    holder_address_city: str = attrs.field(repr=False)
    """The city."""
    holder_address_country: str = attrs.field(repr=False)
    """2 letters, such as ``CA``."""
    holder_email: str = attrs.field(repr=False)
    """Where the holder is reached."""
    account_type: str = "chequing"
    """The only type that the vendor's pages name [docs]; which others there are is open."""

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(type(self)):
            value: object = getattr(self, field.name)
            # Nothing of a value is shown: any of them may have been put into the wrong field.
            if not isinstance(value, str):
                raise InvalidArgumentError(f"{field.name}: is a str, not {type(value).__name__}", field=field.name)
            if not value.strip() or not value.isprintable():
                raise InvalidArgumentError(f"{field.name}: is empty, or does not print", field=field.name)
            pattern, wanted = _NUMBERS.get(field.name, (None, ""))
            if pattern is not None and not pattern.fullmatch(value):
                raise InvalidArgumentError(f"{field.name}: must be {wanted}", field=field.name)
        number = self.account_number
        for name in _SHOWN:
            # However it is grouped, and without its leading zeros.
            digits = re.sub(r"[\s.-]", "", getattr(self, name))
            if number in digits or (number.lstrip("0") or number) in digits:
                raise InvalidArgumentError(
                    f"{name}: has the account number in it, and is shown in errors and logs; leave the number out",
                    field=name,
                )
