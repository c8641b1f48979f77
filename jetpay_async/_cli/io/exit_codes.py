"""What the exit statuses mean."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jetpay_async.errors import JetpayError

__all__ = ["EXIT_STATUSES", "ExitStatus", "exit_status", "gravest"]

EXIT_STATUSES = """\
exit status:
  0    done
  1    rejected by the API, or what was checked is not valid
  2    an invalid argument or configuration; nothing was sent
  3    nothing was done, and repeating it is safe: not sent, no answer to a
       question, or too many requests
  4    the outcome is UNKNOWN: it may have been processed; check before repeating
  5    accepted by the API, but not final yet: check its status later
  70   an internal error
  74   done, but stdout or the outcome file could not be written
  130  interrupted, and no outcome is unknown because of it
Of several debits, the gravest status: 4, 3, 2, 1, 5, 0.
"""
"""As ``jetpay --help`` shows it."""


class ExitStatus(IntEnum):
    """What a command exits with. 70 and 74 are those of BSD's ``sysexits.h``."""

    DONE = 0
    REJECTED = 1
    USAGE = 2
    RETRYABLE = 3
    UNKNOWN = 4
    ACCEPTED = 5
    INTERNAL_ERROR = 70
    OUTPUT_FAILED = 74
    INTERRUPTED = 130


_BY_GRAVITY = (
    ExitStatus.DONE,
    ExitStatus.OUTPUT_FAILED,
    ExitStatus.ACCEPTED,
    ExitStatus.REJECTED,
    ExitStatus.USAGE,
    ExitStatus.RETRYABLE,
    ExitStatus.UNKNOWN,
)


def gravest(statuses: Iterable[ExitStatus]) -> ExitStatus:
    """Return the status of several operations: that of the one which most needs attention."""
    return max(statuses, key=_BY_GRAVITY.index)


def exit_status(error: JetpayError) -> ExitStatus:
    """Return the status for an error."""
    from jetpay_async.errors import Outcome  # noqa: PLC0415 - `jetpay --help` does not need it

    if error.outcome is Outcome.UNKNOWN:
        return ExitStatus.UNKNOWN
    if error.retryable:
        return ExitStatus.RETRYABLE
    return ExitStatus.REJECTED if error.outcome is Outcome.REJECTED else ExitStatus.USAGE
