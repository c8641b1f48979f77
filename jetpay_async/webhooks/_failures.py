"""Exceptions of the user's code: which are its failures, and where they are logged."""

from __future__ import annotations

import asyncio
import logging

from jetpay_async._core.log import logger


def must_propagate(error: BaseException) -> bool:
    """Whether an exception ends the process or this task, rather than being the failure of the code that raised it.

    A `CancelledError` alone does not say that this task is cancelled: awaiting another task that was cancelled raises
    one too.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)


def log_failure(error: BaseException, message: str, *args: object) -> None:
    """Log an error with its traceback; where no logging is configured, write it to stderr as Python does by default.

    The package's `logging.NullHandler` would keep it silent there, and a failing handler must not go unnoticed.
    """
    logger.error(message, *args, exc_info=error)
    if logging.lastResort is not None and logger.isEnabledFor(logging.ERROR) and not _logging_is_configured():
        exc_info = (type(error), error, error.__traceback__)
        logging.lastResort.handle(logger.makeRecord(logger.name, logging.ERROR, "", 0, message, args, exc_info))


def _logging_is_configured() -> bool:
    place: logging.Logger | None = logger
    while place is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in place.handlers):
            return True
        place = place.parent if place.propagate else None
    return False
