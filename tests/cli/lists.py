"""Lists of debits, and the commands that the tests of the command line repeat."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetpay_async._cli.progress import rich_bar
from jetpay_async.ledger import Progress

if TYPE_CHECKING:
    import pytest

    from jetpay_async.sandbox import Sandbox
    from tests.cli.conftest import CommandResult


def listed(debit_ids: list[str], name: str = "debits.txt") -> str:
    """A file with these debits."""
    Path(name).write_text("".join(f"{debit_id}\n" for debit_id in debit_ids))
    return name


def capture(source: str, *options: str, name: str = "n1") -> tuple[str, ...]:
    return ("capture", source, "--ledger=c.db", f"--batch={name}", *options)


def ledger(command: str, *options: str) -> tuple[str, ...]:
    return ("captures", command, "--ledger=c.db", *options)


def files() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def captured(sandbox: Sandbox) -> list[int]:
    """How often each debit's money was taken, according to the sandbox's records."""
    return [debit.captures for debit in sandbox.debits]


def events(run: CommandResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.out.splitlines()]


def pretend_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stderr pass for a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(rich_bar.Bar, "interval_seconds", 0.02)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "100"), ("LINES", "30")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def progress_of(finished: int, total: int = 1000) -> Progress:
    """The progress of a batch of which so many are captured."""
    return Progress(total=total, pending=total - finished, sending=0, captured=finished, rejected=0, unknown=0)
