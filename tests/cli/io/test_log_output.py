"""What the library logs reaches stderr as the options of a command say."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from jetpay_async._cli.io import console
from jetpay_async._cli.io.log_output import logging_to_stderr
from jetpay_async._cli.progress.display import TextLines, choose_display
from jetpay_async._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jetpay_async.sandbox import Sandbox
    from tests.cli.conftest import CommandResult


@pytest.fixture(autouse=True)
def _new_process() -> Iterator[None]:
    """Forget the streams that failed, and the form of messages, in other tests."""
    console.open_streams()
    yield
    console.open_streams()


def log_each_level() -> None:
    for level in ("debug", "info", "warning", "error"):
        getattr(logger, level)("a %s", level)


@pytest.mark.parametrize(
    ("verbosity", "level", "expected"),
    [
        pytest.param(0, None, ["error"], id="nothing"),
        pytest.param(1, None, ["info", "warning", "error"], id="-v"),
        pytest.param(2, None, ["debug", "info", "warning", "error"], id="-vv"),
        pytest.param(9, None, ["debug", "info", "warning", "error"], id="many"),
        pytest.param(0, "warning", ["warning", "error"], id="level"),
        pytest.param(2, "error", ["error"], id="both"),
    ],
)
def test_the_level_is_chosen(
    capsys: pytest.CaptureFixture[str], verbosity: int, level: str | None, expected: list[str]
) -> None:
    """-v and --log-level say what is written; the level counts more."""
    with logging_to_stderr(verbosity=verbosity, level=level, as_json=False):
        log_each_level()

    assert capsys.readouterr().err == "".join(f"jetpay: {name}: a {name}\n" for name in expected)


def test_afterwards_logging_is_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that calls `main` keeps its own logging."""
    root = logging.getLogger()
    before = (root.level, logger.logger.level, list(root.handlers))

    with logging_to_stderr(verbosity=2, level=None, as_json=False):
        pass

    assert (root.level, logger.logger.level, list(root.handlers)) == before


def test_other_libraries_are_heard_if_they_warn(capsys: pytest.CaptureFixture[str]) -> None:
    """Their warnings are written with ours; what they debug is not."""
    with logging_to_stderr(verbosity=2, level=None, as_json=False):
        logging.getLogger("asyncio").debug("a selector")
        logging.getLogger("asyncio").warning("a slow step")

    assert capsys.readouterr().err == "jetpay: warning: a slow step\n"


def test_a_traceback_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """In both forms."""
    with logging_to_stderr(verbosity=0, level=None, as_json=False):
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logger.exception("a fault")

    written = capsys.readouterr().err
    assert written.startswith("jetpay: error: a fault\nTraceback (most recent call last):\n")
    assert written.endswith("ZeroDivisionError: division by zero\n")


def test_no_traceback_is_written_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Also if it is said by False, as asyncio does."""
    with logging_to_stderr(verbosity=0, level=None, as_json=False):
        logging.getLogger("asyncio").error("a task was destroyed", exc_info=False)

    assert capsys.readouterr().err == "jetpay: error: a task was destroyed\n"


def test_each_record_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    """With its time, its level, the fields that it carries, and its traceback."""
    with logging_to_stderr(verbosity=0, level=None, as_json=True):
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logger.exception("a \x1b fault", extra={"debit_id": "debit_1", "status": None, "odd": Ellipsis})

    line = capsys.readouterr().err
    record = json.loads(line)
    assert "\x1b" not in line
    assert datetime.fromisoformat(record.pop("time")).tzinfo is not None
    assert record.pop("traceback").endswith("ZeroDivisionError: division by zero")
    assert record == {
        "level": "error",
        "logger": "jetpay_async",
        "message": "a \x1b fault",
        "debit_id": "debit_1",
        "status": None,
        "odd": "Ellipsis",
    }


def test_a_record_that_can_not_be_formatted_ends_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python reports it, and the command goes on."""
    monkeypatch.setattr(logging, "raiseExceptions", True)

    # pytest's own handler would raise the error.
    with (
        patch.object(logging.getLogger(), "handlers", []),
        logging_to_stderr(verbosity=0, level=None, as_json=True),
    ):
        logger.error("%d", "not a number")

    assert "--- Logging error ---" in capsys.readouterr().err


def test_messages_are_objects_too(
    jetpay: Callable[..., CommandResult], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --log-format json, whoever reads stderr finds nothing else there."""
    run = jetpay("capture", "a/b", "--log-format", "json", "-v")

    (line,) = run.err.splitlines()
    record = json.loads(line)
    assert run.status == 2
    assert (record["level"], record["logger"]) == ("warning", "jetpay")
    assert "argument DEBIT_ID: 'a/b' is not an id" in record["message"]


def test_what_is_retried_is_logged(jetpay: Callable[..., CommandResult], sandbox: Sandbox) -> None:
    """With -v the attempts show."""
    run = jetpay("capture", "debit_unknown", "-v")

    assert run.status == 1
    assert "jetpay: info: capture debit_unknown: attempt 1 was rejected" in run.err


def test_there_is_no_bar_among_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal too, the progress is one object per line."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    console.write_messages_as_json(True)

    assert isinstance(choose_display(as_json=False), TextLines)
