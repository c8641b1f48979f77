"""``jetpay webhooks``: inspect recorded deliveries."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from jetpay_async._cli.io.console import to_json, write_message, write_output
from jetpay_async._cli.io.exit_codes import ExitStatus, exit_status
from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks import KeySet, KeysUnavailableError, RemoteKeySet, WebhookError, decode, verify
from jetpay_async.webhooks import explain as explain_delivery

__all__ = ["explain"]


def explain(*, body: str, authorization: str, jwks: str, now: float | None, as_json: bool) -> int:
    """Explain why a delivery verifies or does not; neither the token nor the body is shown.

    Raises:
        ConfigurationError: A file can't be read, or a URL is not valid.
    """
    delivery = _read("--body", body)
    token = _read("--authorization", authorization[1:]).strip() if authorization.startswith("@") else authorization
    try:
        keys = asyncio.run(_fetch(jwks)) if "://" in jwks else KeySet.from_jwks(_read("--jwks", jwks))
    except KeysUnavailableError as error:
        write_message(error.explain())
        return exit_status(error)
    timestamp = time.time() if now is None else now
    status, reason = ExitStatus.DONE, None
    try:
        verify(delivery, token, keys=keys, now=timestamp)
        decode(delivery)
    except WebhookError as error:
        status, reason = exit_status(error), error.reason
    explanation = explain_delivery(delivery, token, keys=keys, now=timestamp)
    if as_json:
        write_output(to_json({"authentic": reason is None, "reason": reason, "explanation": explanation}))
    else:
        write_output(explanation)
    return status


async def _fetch(url: str) -> KeySet:
    keys = RemoteKeySet(url)
    try:
        return await keys.current()
    finally:
        await keys.aclose()


def _read(option: str, path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"argument {option}: {path}: {error.strerror}") from None
