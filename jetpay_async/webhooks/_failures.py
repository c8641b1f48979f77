"""Exceptions of the user's code: which are its failures, and where they are logged."""

from __future__ import annotations

import asyncio

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
    """Log an error with its traceback."""
    logger.error(message, *args, exc_info=error)
