"""What the exit statuses mean."""

from __future__ import annotations

from enum import IntEnum

from jetpay_async.errors import JetpayError, Outcome

__all__ = ["EXIT_STATUSES", "ExitStatus", "exit_status"]

EXIT_STATUSES = """\
exit status:
  0    done
  1    rejected: the API said no, or what was checked is not right
  2    a wrong argument or configuration; nothing was sent
  3    nothing was done, and doing it again is safe: not sent, no answer to a
       question, or too many requests
  4    the outcome is UNKNOWN: money may have moved; look before you repeat it
  130  interrupted, and no outcome is unknown because of it
Of several debits, the highest of their statuses.
"""
"""As ``jetpay --help`` tells it."""


class ExitStatus(IntEnum):
    """Ordered by gravity: of several outcomes the highest counts."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    REPEATABLE = 3
    UNKNOWN = 4
    INTERRUPTED = 130


def exit_status(error: JetpayError) -> ExitStatus:
    """Tell the status for an error."""
    if error.outcome is Outcome.UNKNOWN:
        return ExitStatus.UNKNOWN
    if error.retryable:
        return ExitStatus.REPEATABLE
    return ExitStatus.REFUSED if error.outcome is Outcome.REJECTED else ExitStatus.USAGE
