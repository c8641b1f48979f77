"""The program itself: help, version, bad usage, interruptions, a closed stdout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jetpay_async import (
    APIError,
    ConfigurationError,
    InvalidArgumentError,
    JetpayError,
    NotSentError,
    OutcomeUnknownError,
    RateLimitedError,
    ServiceError,
    TransactionFailedError,
    __version__,
    _cli,
)
from jetpay_async._cli.io.exit_codes import exit_status
from jetpay_async.sandbox import Sandbox
from jetpay_async.webhooks import KeysUnavailableError, Reason, StaleDeliveryError
from tests.cli.conftest import CommandResult

Jetpay = Callable[..., CommandResult]

MODULE = (sys.executable, "-m", "jetpay_async._cli")
SCRIPT = (str(Path(sys.executable).with_name("jetpay")),)
INSTALLED = pytest.mark.skipif(not Path(*SCRIPT).exists(), reason="the package is on the path, and not installed")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(APIError("no"), 1, id="rejected"),
        pytest.param(TransactionFailedError("failed"), 1, id="failed"),
        pytest.param(StaleDeliveryError(Reason.EXPIRED), 1, id="stale delivery"),
        pytest.param(ConfigurationError("no token"), 2, id="configuration"),
        pytest.param(InvalidArgumentError("bad id"), 2, id="argument"),
        pytest.param(NotSentError("rejected"), 3, id="not sent"),
        pytest.param(ServiceError("silence"), 3, id="no answer"),
        pytest.param(RateLimitedError("slow down"), 3, id="rate limited"),
        pytest.param(KeysUnavailableError(Reason.KEYS_UNREACHABLE), 3, id="no keys"),
        pytest.param(OutcomeUnknownError("unknown"), 4, id="unknown"),
    ],
)
def test_each_error_has_its_exit_status(error: JetpayError, status: int) -> None:
    """The exit status follows from the outcome that the error reports."""
    assert exit_status(error) == status


@pytest.mark.parametrize(
    "program", [pytest.param(MODULE, id="module"), pytest.param(SCRIPT, id="script", marks=INSTALLED)]
)
def test_version(program: tuple[str, ...]) -> None:
    """The script and the module print the version."""
    ran = subprocess.run([*program, "--version"], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"jetpay-async {__version__}\n", "")


@pytest.mark.parametrize("arguments", [pytest.param([], id="nothing"), pytest.param(["--help"], id="help")])
def test_help_lists_commands_environment_and_statuses(jetpay: Jetpay, arguments: list[str]) -> None:
    """Without arguments, and with --help, the commands, the environment and the exit statuses are listed."""
    run = jetpay(*arguments)

    assert (run.status, run.err) == (0, "")
    for name in (
        "demo",
        "sandbox",
        "preauthorize",
        "capture",
        "status",
        "cancel",
        "captures",
        "webhooks",
        "JETPAY_API_TOKEN",
    ):
        assert name in run.out
    for status in (0, 1, 2, 3, 4, 130):
        assert f"\n  {status:<4} " in run.out


@pytest.mark.parametrize(
    "command",
    [
        *("demo", "sandbox", "preauthorize", "capture", "status", "cancel", "webhooks explain"),
        *("webhooks dead-letters list", "webhooks dead-letters replay", "webhooks dead-letters discard"),
        *("captures status", "captures list", "captures export", "captures retry-rejected", "captures resolve"),
        *("captures verify", "captures backup", "captures prune", "completion", "unresolved list", "unresolved show"),
        *("unresolved adopt", "unresolved release", "unresolved discard"),
    ],
)
def test_each_command_has_help(jetpay: Jetpay, command: str) -> None:
    """Each command has a help of its own."""
    run = jetpay(*command.split(), "--help")

    assert run.status == 0
    assert run.out.startswith(f"usage: jetpay {command}")


def test_help_is_quick() -> None:
    """For the help, nothing is imported that takes its time."""
    code = """
import sys
from jetpay_async._cli import main
try:
    main(["capture", "--help"])
except SystemExit:
    print(sorted({"aiohttp", "asyncio", "cryptography", "msgspec", "rich"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["refund"], "argument COMMAND: invalid choice: 'refund'", id="command"),
        pytest.param(["webhooks"], "the following arguments are required: COMMAND", id="nested command"),
        pytest.param(["capture"], "the following arguments are required: DEBIT_ID", id="no debit"),
        pytest.param(["demo", "--count", "0"], "argument --count: '0' is not a number", id="count"),
        pytest.param(["demo", "--count", "many"], "argument --count: 'many' is not a number", id="no number"),
        pytest.param(["demo", "--concurrency", "0"], "argument --concurrency: '0' is not a number", id="concurrency"),
        pytest.param(["sandbox", "--host="], "argument --host: is empty; 0.0.0.0 listens on every address", id="host"),
        pytest.param(["sandbox", "--port=0", f"--host={'h' * 99}"], "is not the name of a host", id="host too long"),
        pytest.param(
            ["captures", "prune", "--ledger=c.db", f"--before={'9' * 400}d"],
            "is not a time such as 2026-01-22T10:15:30Z",
            id="age",
        ),
        pytest.param(["sandbox", "--port", "65536"], "argument --port: '65536' is not", id="port"),
        pytest.param(["sandbox", "--latency", "nan"], "argument --latency: 'nan' is not", id="latency"),
        pytest.param(["sandbox", "--speedup", "0"], "argument --speedup: '0' is not a number", id="speedup"),
    ],
)
def test_bad_usage(jetpay: Jetpay, arguments: list[str], message: str) -> None:
    """Bad usage is explained on stderr, with status 2."""
    run = jetpay(*arguments)

    assert (run.status, run.out) == (2, "")
    assert message in run.err


def test_the_arguments_of_the_process_are_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script calls main() without arguments, and those of the process count."""
    from jetpay_async._cli import main

    monkeypatch.setattr(sys, "argv", ["jetpay", "--version"])

    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out == f"jetpay-async {__version__}\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    """``jetpay demo | head -0`` runs to its end, without a traceback; status 0."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        ran = subprocess.run(
            [*MODULE, "demo", "--count=1"], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )

    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_result_is_not_lost_with_stdout(sandbox: Sandbox) -> None:
    """The outcome of an operation is written to stderr if stdout is full, and the exit status shows it."""
    payer = sandbox.add_payer()
    asking = [
        "preauthorize",
        f"--contact={payer.contact_id}",
        f"--card={payer.credit_card_id}",
        "--amount=5",
        f"--to-account={sandbox.merchant_account_id}",
        "--statement=Stay",
    ]

    with Path("/dev/full").open("wb") as stdout:
        ran = subprocess.run([*MODULE, *asking], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)

    (debit,) = sandbox.debits
    assert ran.returncode == 74
    assert ran.stderr.startswith("jetpay: stdout can't be written: No space left on device\njetpay: the result is\n")
    assert debit.identifier in ran.stderr


def test_the_package_can_be_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m jetpay_async._cli`` ends with the command's exit status."""
    monkeypatch.setattr(sys, "argv", ["jetpay", "status", "a/b", "--timeout=0"])

    main = Path(_cli.__file__).with_name("__main__.py")

    with pytest.raises(SystemExit, match="2"):
        exec(compile(main.read_text(encoding="utf-8"), main, "exec"), {"__name__": "__main__"})
    assert "argument --timeout: '0' is not a number of at least 0.001" in capsys.readouterr().err
