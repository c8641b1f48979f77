"""Run a command: parse its arguments, call it, and turn what it raises into a message and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

from jetpay_async._cli.io import console
from jetpay_async._cli.io.exit_codes import ExitStatus, exit_status
from jetpay_async._cli.parser import build_parser

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["run"]


def run(argv: Sequence[str] | None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; those of the process if None.

    Returns:
        The exit status.

    Raises:
        SystemExit: For ``--help``, ``--version``, and invalid arguments.
        KeyboardInterrupt: The command was interrupted.
    """
    try:
        console.open_streams()
        return console.final_status(_run(sys.argv[1:] if argv is None else argv))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - reported with its traceback
        return _report(error)


def _run(arguments: Sequence[str]) -> ExitStatus:
    options = _parse(arguments or ["--help"])
    command: Callable[..., int] = options.pop("command")
    verbosity, level = options.pop("verbosity"), options.pop("log_level")
    as_json = options.pop("log_format") == "json"

    # `jetpay --help` has ended before this.
    from jetpay_async._cli.io.log_output import logging_to_stderr  # noqa: PLC0415 - see above
    from jetpay_async._cli.io.signals import interrupt_on_termination  # noqa: PLC0415 - see above

    with logging_to_stderr(verbosity=verbosity, level=level, as_json=as_json), interrupt_on_termination():
        return _call(command, options)


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    try:
        return vars(build_parser().parse_args(arguments))
    except SystemExit as stop:
        if stop.code:
            raise
        raise SystemExit(int(console.final_status(ExitStatus.DONE))) from None


def _call(command: Callable[..., int], options: dict[str, Any]) -> ExitStatus:
    try:
        os.getcwd()  # noqa: PTH109 - asked only to see whether it fails
    except FileNotFoundError:
        console.write_message("the working directory has been deleted; change to another directory", level="error")
        return ExitStatus.USAGE
    return ExitStatus(command(**options))


def _report(error: BaseException) -> ExitStatus:
    from jetpay_async.errors import JetpayError  # noqa: PLC0415 - `jetpay --help` does not need it

    if isinstance(error, JetpayError):
        console.write_message(str(error), level="error")
        return exit_status(error)
    trace = "".join(traceback.format_exception(error)).rstrip()
    console.write_message(
        f"internal error, please report it:\n{trace}\n"
        "Outcomes that a ledger holds are safe; a single operation may have been processed: check its status.",
        level="error",
    )
    return ExitStatus.INTERNAL_ERROR
