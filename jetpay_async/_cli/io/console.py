"""Where a command writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from decimal import Decimal

import msgspec

from jetpay_async._core import json as api_json

__all__ = ["close_stdout", "say", "tell", "to_json", "warn"]


def say(text: str) -> None:
    """Write lines to stdout, at once; what its encoding can't hold is written as an escape."""
    encoding = sys.stdout.encoding
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """Write a message to stderr."""
    sys.stderr.write(f"jetpay: {text}\n")
    sys.stderr.flush()


def tell(result: str) -> None:
    """Write what became of money to stdout; to stderr if nobody reads that, or the disk is full."""
    try:
        say(result)
    except OSError as error:
        close_stdout()
        warn(f"stdout can't be written ({error.strerror}); the result is\n{result}")


def close_stdout() -> None:
    """Send whatever is still to be written to nowhere, so that the interpreter does not fail over it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def to_json(document: object) -> str:
    """Write a document of builtins, attrs values, enums and times as one line of JSON.

    Decimals are exact numbers, and everything is ASCII, which survives any stdout.
    """
    text = api_json.dump(msgspec.to_builtins(document, builtin_types=(Decimal,))).decode()
    return text if text.isascii() else re.sub(r"[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)
