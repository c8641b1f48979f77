"""What is recorded and shown of paths and URLs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jetpay_async.sandbox._redaction import redacted_path, redacted_url

from .calling import Caller, Receiver, until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jetpay_async import JSONValue


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/transaction/jetpay_sandbox_0123456789/status", "/transaction/jetpay_sandbox_0123…/status"),
        ("/transaction/Bearer jetpay_sandbox_0123456789", "/transaction/Bearer jetpay_sandbox_0123…"),
        ("/debit/4111111111111111/capture", "/debit/4111…/capture"),
        ("/debit/4111 1111-1111 1111", "/debit/4111…"),
        ("/debit/12345678901/capture", "/debit/12345678901/capture"),
        ("/debit/259f4329-e6f4-490b-9a16-410696459123", "/debit/259f4329-e6f4-490b-9a16-410696459123"),
    ],
)
def test_paths(path: str, shown: str) -> None:
    """Of tokens and card numbers the beginning is shown; identifiers are shown whole."""
    assert redacted_path(path) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:secret@127.0.0.1:80/hook?key=secret#secret", "http://127.0.0.1/hook?…"),
        ("http://[::1]:9/hook", "http://[::1]:9/hook"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    """A callback's user, password, query and fragment are not shown; that there is a query is."""
    assert redacted_url(url) == shown


@pytest.mark.asyncio
async def test_the_log(caller: Caller, receiver: Receiver) -> None:
    """No token, no card number and no secret of a callback is in what is logged."""
    logged: list[Mapping[str, JSONValue]] = []
    caller.sandbox.log_to(logged.append)
    caller.sandbox.add_webhook(f"{receiver.url}?key=secret")

    await caller.call("GET", f"/transaction/{caller.sandbox.api_token}/status")
    await caller.capture("4111111111111111")
    await caller.reserve()
    await until(lambda: [entry for entry in logged if entry["event"] == "delivery"] != [])

    text = str(logged)
    assert "secret" not in text
    assert "4111111111111111" not in text
    assert caller.sandbox.api_token not in text
    assert receiver.received[0].headers["Content-Type"] == "application/json"
