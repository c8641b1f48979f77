"""What the library logs while a command runs: lines on stderr, as text or as JSON.

Records go the way of the command's own messages, so that a stderr that can't be written ends nothing, and a progress
bar is not torn.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jetpay_async._cli.io import console
from jetpay_async._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["logging_to_stderr"]

_BY_VERBOSITY = ("error", "info", "debug")
"""Without an option, what the library warns of is what the command reports by itself."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextmanager
def logging_to_stderr(*, verbosity: int, level: str | None, as_json: bool) -> Generator[None]:
    """Write what is logged to stderr for as long as the context lasts.

    Args:
        verbosity: How often ``-v`` was given.
        level: Of ``--log-level``, which counts more.
        as_json: Whether each record, and each message of the command, is an object on a line of its own.
    """
    name = level or _BY_VERBOSITY[min(verbosity, len(_BY_VERBOSITY) - 1)]
    number = logging.getLevelNamesMapping()[name.upper()]
    root, handler = logging.getLogger(), _Handler(as_json=as_json)
    levels = logger.logger.level, root.level
    try:
        logger.setLevel(number)
        root.setLevel(max(number, logging.WARNING))  # what other libraries debug is of no use here
        root.addHandler(handler)
        console.write_messages_as_json(as_json)
        yield
    finally:
        root.removeHandler(handler)
        logger.setLevel(levels[0])
        root.setLevel(levels[1])


class _Handler(logging.Handler):
    """Writes to the stderr of the moment; writing never raises."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text, trace = record.getMessage(), self._trace(record)
            if self._as_json:
                console.write_record(
                    {
                        "time": record.created,
                        "level": record.levelname.lower(),
                        "logger": record.name,
                        "message": text,
                        **{name: value for name, value in vars(record).items() if name not in _STANDARD},
                        **({"traceback": trace} if trace else {}),
                    }
                )
            else:
                console.write_message(f"{record.levelname.lower()}: {text}" + (f"\n{trace}" if trace else ""))
        except Exception:  # noqa: BLE001 - a record that can't be written must not end what is logged
            self.handleError(record)

    def _trace(self, record: logging.LogRecord) -> str:
        # asyncio says False where there is none.
        return self._formatter.formatException(record.exc_info) if record.exc_info else ""
