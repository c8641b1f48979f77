"""How a ledger is called where people can read it."""

from __future__ import annotations

import re
import shlex

__all__ = ["command", "shown"]


def command(name: str, ledger: str, batch: str, *options: str) -> str:
    """Write a command that can be pasted into a shell, but for the password of a URL."""
    words = ["jetpay", *name.split(), "--ledger", shown(ledger), "--batch", batch, *options]
    return " ".join(word if word == "FILE" else shlex.quote(word) for word in words)


def shown(ledger: str) -> str:
    """Write the ledger without the password that a ``postgresql://`` URL may hold."""
    return _PASSWORD.sub(r"\1***", _USER_PASSWORD.sub(r"\1***@", ledger)) if "://" in ledger else ledger


_USER_PASSWORD = re.compile(r"(://[^/?#]*?:)[^/?#]*@")
_PASSWORD = re.compile(r"([?&](?:ssl)?password=)[^&#]*", re.IGNORECASE)
