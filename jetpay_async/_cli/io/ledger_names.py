"""How the command line shows a ledger: in commands to paste, and in the messages of its errors."""

from __future__ import annotations

import re
import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.ledger import LedgerError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["FILE", "command_line", "name_options", "without_password"]

FILE = "FILE"
"""In a command: for the user to fill in."""

_OPTIONS = {"key: ": "argument --batch: ", "ledger: ": "argument --ledger: ", "path: ": "argument FILE: "}


@contextmanager
def name_options() -> Generator[None]:
    """Let a ledger's errors name the options that the user typed.

    Raises:
        ConfigurationError: Instead of those.
    """
    try:
        yield
    except (LedgerError, ConfigurationError, InvalidArgumentError) as error:
        message = error.message
        for argument, option in _OPTIONS.items():
            if message.startswith(argument):
                message = option + message.removeprefix(argument)
        raise ConfigurationError(message) from None


def command_line(name: str, ledger: str, batch: str, *options: str) -> str:
    """Write a command that can be pasted into a shell, but for passwords and what the user fills in."""
    arguments = ["jetpay", *name.split(), "--ledger", without_password(ledger), "--batch", batch, *options]
    return " ".join(argument if argument == FILE else shlex.quote(argument) for argument in arguments)


def without_password(ledger: str) -> str:
    """Write the ledger without the passwords of a ``postgresql://`` URL."""
    return _PASSWORDS.sub(lambda match: f"{match[1] or match[2]}***", ledger)


_PASSWORDS = re.compile(r"(://[^:@/?#]*:)[^/?#]*(?=@)|([?&](?:ssl)?password=)[^&#]*", re.IGNORECASE)
