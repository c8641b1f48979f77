"""Checks of ids and texts before they are sent. Pure.

No id reaches another resource than its own, and no invisible character makes two of them look the same.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final
from urllib.parse import quote

from jetpay_async._core import contract
from jetpay_async._text import is_seen, printable
from jetpay_async.errors import InvalidArgumentError

_TEXT_LIMIT = 1000

_is_plain_id = re.compile(r"[A-Za-z0-9_-]{1,255}").fullmatch
# No line break gets into a header or a log of the service, and half a surrogate pair is no character.
_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\%]|^\s|\s$|^\.{1,2}$")
_ID_LIMIT = 255


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""Stands for what `JetpayClient.change_webhook` leaves as it is."""

_UUID_LENGTHS = (36, 32)
_is_uuid = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE).fullmatch


def key_of(debit_id: str) -> str:
    """Spell an id in one way: the API takes a UUID in both cases, with and without hyphens, for the same debit."""
    if len(debit_id) in _UUID_LENGTHS and _is_uuid(debit_id):
        return debit_id.lower().replace("-", "")
    return debit_id


def read_id(value: str, field: str) -> tuple[str, str]:
    """Check an id; return it, and percent-encoded as one segment of a path."""
    if type(value) is str and _is_plain_id(value):
        return value, value
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{field}: an id is a str, not {type(value).__name__}", field=field)
    if not value:
        raise InvalidArgumentError(f"{field}: is empty; pass the id that the API gave", field=field)
    plain = _plain(value)
    # Servers decode %2F before they route, so an encoded slash would still reach another resource; and so would "%2F"
    # itself, encoded, where a proxy decodes first. An id with a percent sign is most likely one encoded already.
    if len(plain) > _ID_LIMIT or _FORBIDDEN.search(plain):
        raise InvalidArgumentError(
            f"{field}: {plain[:60]!r} is not an id: no slash, percent sign, dot segment, control character or "
            f"surrounding space, and at most {_ID_LIMIT} characters; pass it exactly as the API gave it, not encoded",
            field=field,
        )
    # A zero-width space, a soft hyphen or a mark of direction, as texts that were copied bring along, makes another id
    # that looks the same.
    for character in plain:
        if not is_seen(character):
            raise InvalidArgumentError(
                f"{field}: {printable(repr(plain[:60]))} contains an invisible or undecodable character, "
                f"U+{ord(character):04X}; "
                "remove it",
                field=field,
            )
    return plain, quote(plain, safe="")


def _plain(value: str) -> str:
    """Take the characters that a `str` holds: its subclasses, enumerations among them, may print as others."""
    return str.__str__(value)


def read_statement(value: str) -> str:
    field = "statement"
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{field}: is a str, not {type(value).__name__}", field=field)
    statement = _plain(value)
    if not statement.strip():
        raise InvalidArgumentError(f"{field}: is empty; it is what the payer's bank statement shows", field=field)
    if len(statement) > contract.STATEMENT_LIMIT:
        raise InvalidArgumentError(
            f"{field}: has {len(statement)} characters; the API takes at most {contract.STATEMENT_LIMIT}, so shorten "
            "it",
            field=field,
        )
    if not statement.isprintable():
        raise InvalidArgumentError(f"{field}: has unprintable characters; remove them: {statement!a}", field=field)
    return statement


def read_text(value: str, field: str, *, lines: bool = False) -> str:
    """Check a text that has to be there: a name, an address.

    Args:
        value: The text.
        field: The argument's name.
        lines: Whether it may have line breaks and tabs.
    """
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{field}: is a str, not {type(value).__name__}", field=field)
    text = _plain(value)
    if not text.strip():
        raise InvalidArgumentError(f"{field}: is empty", field=field)
    if len(text) > _TEXT_LIMIT:
        raise InvalidArgumentError(
            f"{field}: has {len(text)} characters; at most {_TEXT_LIMIT} are sent, so shorten it", field=field
        )
    found = _UNSENDABLE.search(re.sub(r"[\t\r\n]", "", text) if lines else text)
    if found:
        raise InvalidArgumentError(
            f"{field}: has a control or undecodable character, U+{ord(found[0]):04X}; remove it", field=field
        )
    return text
