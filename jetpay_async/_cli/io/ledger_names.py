"""A ledger in the words of the command line: how it is called, and what is wrong with it."""

from __future__ import annotations

import re
import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.ledger import LedgerError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["FILE", "command", "in_our_words", "shown"]

FILE = "FILE"
"""In a command: to be filled in."""

_OPTIONS = {"key: ": "argument --batch: ", "ledger: ": "argument --ledger: "}


@contextmanager
def in_our_words() -> Generator[None]:
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


def command(name: str, ledger: str, batch: str, *options: str) -> str:
    """Write a command that can be pasted into a shell, but for what is hidden or to be filled in."""
    words = ["jetpay", *name.split(), "--ledger", shown(ledger), "--batch", batch, *options]
    return " ".join(word if word == FILE else shlex.quote(word) for word in words)


def shown(ledger: str) -> str:
    """Write the ledger without the passwords of a ``postgresql://`` URL."""
    return _PASSWORDS.sub(lambda match: f"{match[1] or match[2]}***", ledger)


_PASSWORDS = re.compile(r"(://[^:@/?#]*:)[^/?#]*(?=@)|([?&](?:ssl)?password=)[^&#]*", re.IGNORECASE)
