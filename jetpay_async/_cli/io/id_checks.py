"""Why a cell or a line of a list is not a debit id: what spreadsheets, exports and people put in the place of one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jetpay_async._core import operations
from jetpay_async._text import is_seen, printable
from jetpay_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "COLUMN",
    "cell_objection",
    "id_objection",
    "is_comment",
    "is_rounded",
    "is_usual_uuid",
    "normalized_header",
    "quoted",
    "text_objection",
]

COLUMN = "debit_id"
"""Of a CSV, and of a JSON object."""

_MAX_SHOWN = 60
_SEPARATORS = re.compile(r"[\s,;\"#'|<>$]|^=")
_PLACEHOLDERS = frozenset(
    {
        *("null", "none", "nan", "nil", "na", "n/a", "n.a.", "undefined", "unknown", "true", "false", "\\n"),
        *("(blank)", "(empty)", "(none)", "(null)", "<na>", "<null>", "nat", "tbd", "tba", "todo"),
    }
)
_TOTALS = frozenset({"total", "totals", "sum", "subtotal", "grandtotal", "count"})
_HEADERS = frozenset(
    {
        *("debitids", "transactionids", "ids", "reference", "references", "contactid", "creditcardid", "cardid"),
        *("amount", "currency", "date", "state", "status", "statement", "paymentid", "payment", "captureid", "email"),
    }
)
_DASHES = re.compile(r"[-_.\u2010-\u2015\u2212]+")
_SCIENTIFIC = re.compile(r"[+-]?\d+(?:[.,]\d+[Ee][+-]?\d+|[Ee][+-]\d+)")
_FLOAT = re.compile(r"\d+\.0+")
_AMOUNT = re.compile(r"[+-]?\d+[.,]\d*")
_DATE = re.compile(r"\d{4}[-.]\d{1,2}[-.]\d{1,2}|\d{1,2}[-.]\d{1,2}[-.]\d{4}")
_CELL_ERROR = re.compile(
    r"#(?:N/A|NULL!|REF!|VALUE!|NAME\?|NUM!|DIV/0!|SPILL!|CALC!|FIELD!|BUSY!|GETTING_DATA|#+)", re.ASCII
)
_ROUNDED = re.compile(r"\d{15}0+")


def quoted(text: str) -> str:
    """Write a text for a message: short, and with an escape for every character that can't be seen."""
    return printable(repr(text[:_MAX_SHOWN]), None)


def normalized_header(cell: str) -> str:
    """Write a header's cell without what people vary: ``Debit ID``, ``debit-id`` and ``DebitId`` are ``debitid``."""
    return re.sub(r"[\s_\-]", "", cell).casefold()


def cell_objection(text: str) -> str | None:
    """Say why the text of a cell or a line can't be a debit id, or return None."""
    if is_usual_uuid(text):
        return None
    return _first_objection(text, _OBJECTIONS)


def text_objection(text: str) -> str | None:
    """Say why the text of a cell is no value at all, or return None. Unlike an id, it may be anything else."""
    return _first_objection(text, _TEXT_OBJECTIONS)


def _first_objection(text: str, objections: Sequence[tuple[Callable[[str], object], str]]) -> str | None:
    return next((f"{quoted(text)} {reason}" for applies, reason in objections if applies(text)), None)


def id_objection(debit_id: str) -> str | None:
    """Say why the API can't have given this id, or return None."""
    try:
        operations.read_debit_id(debit_id)
    except InvalidArgumentError as error:
        return error.message.removeprefix(f"{error.field}: ")
    return None


is_usual_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
"""Match an id as the API writes it: nothing is wrong with one."""


def is_comment(line: str) -> bool:
    """Say whether a line is a comment: what a spreadsheet writes in the place of a value is none."""
    return line.startswith("#") and _CELL_ERROR.fullmatch(line) is None


def _is_invisible(text: str) -> bool:
    return not text.isascii() and not is_seen(text)


def _is_total(text: str) -> bool:
    return normalized_header(text).rstrip(":") in _TOTALS


_INVISIBLE = "contains an invisible or undecodable character; remove it"
_OBJECTIONS: tuple[tuple[Callable[[str], object], str], ...] = (
    (_is_invisible, _INVISIBLE),
    (lambda text: normalized_header(text) == normalized_header(COLUMN), "repeats the header; remove the line"),
    (lambda text: normalized_header(text).rstrip(":") in _HEADERS, "looks like a header; name the column by --column"),
    (_is_total, "is a total, not a debit id; remove the line"),
    (_CELL_ERROR.fullmatch, "is an error of a spreadsheet; find the id that belongs there"),
    (lambda text: text.casefold() in _PLACEHOLDERS, "stands for an empty cell; remove the line"),
    (_DASHES.fullmatch, "stands for an empty cell; remove the line"),
    (
        _SCIENTIFIC.fullmatch,
        "is a number that a spreadsheet rounded; format the column as text and export it again",
    ),
    (_FLOAT.fullmatch, "is an id that was converted to a number; export the column as text"),
    (_AMOUNT.fullmatch, "is an amount, not a debit id; name the column of the ids by --column"),
    (_DATE.fullmatch, "is a date, not a debit id; name the column of the ids by --column"),
    (_SEPARATORS.search, "is not one debit id"),
)
# From totals to numbers: what is no header, and does not depend on what the column holds.
_TEXT_OBJECTIONS = (_OBJECTIONS[0], *_OBJECTIONS[3:9])


def is_rounded(debit_id: str) -> bool:
    """Return whether an id looks like a number of which a spreadsheet has kept fifteen digits."""
    return _ROUNDED.fullmatch(debit_id) is not None
