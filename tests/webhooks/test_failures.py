"""Which exceptions of the user's code are its failures, and where they are logged."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from jetpay_async._core.log import logger
from jetpay_async.webhooks._failures import log_failure, must_propagate

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def nothing_configured() -> Iterator[None]:
    """Logging as in a program that never mentions it; pytest adds its own handlers when a test begins."""
    with patch.object(logging.getLogger(), "handlers", []), patch.object(logger.logger, "handlers", []):
        yield


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(), False),
        (BaseExceptionGroup("several", [GeneratorExit()]), False),
        (KeyboardInterrupt(), True),
        (SystemExit(), True),
        (GeneratorExit(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_the_process_propagates(error: BaseException, *, expected: bool) -> None:
    """Everything is a failure of the code that raised it, except what ends the process or the coroutine."""
    assert must_propagate(error) is expected


@pytest.mark.asyncio
async def test_only_a_requested_cancellation_propagates() -> None:
    """A CancelledError propagates if this task was cancelled, and is a failure if it came from elsewhere."""
    found: list[bool] = []

    async def catch() -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError as error:
            found.append(must_propagate(error))

    task = asyncio.create_task(catch())
    await asyncio.sleep(0)
    task.cancel()
    await task

    assert found == [True]
    assert not must_propagate(asyncio.CancelledError())


def test_a_failure_is_seen_without_any_logging(capsys: pytest.CaptureFixture[str]) -> None:
    """Where no logging is configured a failure is written to stderr, once, with its traceback."""
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    with nothing_configured():
        log_failure(caught.value, "event %d failed", 7)

    written = capsys.readouterr().err
    assert written.startswith("event 7 failed\nTraceback")
    assert written.count("ZeroDivisionError: ") == 1


def test_and_can_be_switched_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has switched the logger off sees nothing."""
    monkeypatch.setattr(logger.logger, "disabled", True)

    with nothing_configured():
        log_failure(ValueError(), "event %d failed", 7)

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("place", ["package", "root"])
def test_configured_logging_is_enough(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a handler is configured the failure goes there, and nowhere else."""
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    target = logger.logger if place == "package" else logging.getLogger()
    with (
        nothing_configured(),
        patch.object(target, "handlers", [Handler()]),
    ):
        log_failure(ValueError(), "event %d failed", 7)

    assert [record.getMessage() for record in records] == ["event 7 failed"]
    assert capsys.readouterr().err == ""
