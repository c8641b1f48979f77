"""The package's logger. It never gets a token, a header or a body.

It has no handler of its own, not even a `logging.NullHandler`: in a program that configures no logging, Python's last
resort then writes warnings and errors to stderr, so that an unknown outcome or a failing handler does not go unnoticed.

Records carry what they are about in fields of their own, for those that apply: ``operation``, ``debit_id``, ``batch``,
``reason``, ``status``, ``request_id``.

A program's own filter or handler may raise. That must not take the place of an outcome, nor end what records it: so
logging never raises here, and what went wrong is written to stderr, as `logging.Handler.handleError` does.
"""

import contextlib
import logging
import sys
import traceback
from typing import Any


class Logger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose methods never raise an `Exception`."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a message; see `logging.Logger.log`."""
        try:
            if self.isEnabledFor(level):
                # The caller's line, not this one.
                self.logger.log(level, msg, *args, **kwargs, stacklevel=2)
        except Exception:  # noqa: BLE001 - whatever a filter or a handler raises
            if logging.raiseExceptions and sys.stderr is not None:
                _print_traceback()


def _print_traceback() -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr is closed, or its disk is full
        traceback.print_exc()


logger = Logger(logging.getLogger("jetpay_async"), {})

is_enabled_for = logger.logger.isEnabledFor
"""The same as ``logger.isEnabledFor``, by one call instead of two."""
