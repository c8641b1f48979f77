"""``jetpay webhooks listen``: print a sandbox's deliveries as they come, and forward them to a receiver.

It registers a webhook of its own, and removes it when it ends. Only a sandbox reaches this machine: Jetpay delivers to
public addresses.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from jetpay_async._cli.io.connection import ConnectionOptions
from jetpay_async._cli.io.console import to_json, write_message, write_result
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._cli.io.signals import stop_on_signals
from jetpay_async._core.endpoints import PRODUCTION_URL, is_loopback
from jetpay_async._core.webhook_operations import read_callback_url
from jetpay_async._text import printable
from jetpay_async.errors import ConfigurationError, JetpayError
from jetpay_async.webhooks import TransactionEvent, WebhookError, decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jetpay_async.models import Webhook

__all__ = ["listen"]

_HOST = "127.0.0.1"
_PATH = "/jetpay-webhooks-listen"
_FORWARD_TIMEOUT_SECONDS = 15.0  # what Jetpay waits [docs]
# What of a delivery is the connection's, not the delivery's.
_NOT_FORWARDED = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


def listen(*, forward_to: str | None, count: int | None, max_batch_size: int, as_json: bool) -> int:
    """Print and forward deliveries until Ctrl-C, SIGTERM, or so many of them.

    Raises:
        ConfigurationError: The API of the environment is no sandbox on this machine.
        InvalidArgumentError: The URL is none.
        JetpayError: The webhook could not be registered.
    """
    host = urlsplit(os.environ.get("JETPAY_BASE_URL") or PRODUCTION_URL).hostname or ""
    if not is_loopback(host):
        raise ConfigurationError(
            f"only a sandbox on this machine can deliver to it, and JETPAY_BASE_URL leads to {printable(host)}: "
            "start one with `jetpay sandbox`, and set the variables that it prints"
        )
    url = None if forward_to is None else read_callback_url(forward_to)
    return asyncio.run(_listen(_Listener(url, count, as_json=as_json), max_batch_size))


async def _listen(listener: _Listener, max_batch_size: int) -> ExitStatus:
    application = web.Application()
    application.router.add_post(_PATH, listener.receive)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, _HOST, 0).start()
        callback_url = f"http://{_HOST}:{runner.addresses[0][1]}{_PATH}"
        async with ConnectionOptions().open_client() as client, aiohttp.ClientSession() as session:
            listener.session = session
            with stop_on_signals(listener.done.set, final_message="the webhook is left registered"):
                webhook = await client.register_webhook(callback_url, max_batch_size=max_batch_size)
                listener.announce(webhook)
                await listener.done.wait()
            try:
                await client.remove_webhook(webhook.identifier)
            except JetpayError as error:  # the sandbox may have ended first
                write_message(f"the webhook is left registered: {error}")
    finally:
        await runner.cleanup()
    return ExitStatus.DONE


class _Listener:
    """Receives deliveries.

    Args:
        forward_to: Where they go on to; None to answer them here.
        count: After how many it is done; None for never.
        as_json: Whether each is written as JSON.
    """

    def __init__(self, forward_to: str | None, count: int | None, *, as_json: bool) -> None:
        self._forward_to = forward_to
        self._left = math.inf if count is None else count
        self._as_json = as_json
        self.done = asyncio.Event()
        self.session: aiohttp.ClientSession

    def announce(self, webhook: Webhook) -> None:
        """Say what a receiver has to know."""
        to = "" if self._forward_to is None else f", forwarding to {printable(self._forward_to)}"
        write_message(f"listening{to}; the receiver needs WebhookVerifier(..., webhook_ids={{{webhook.id}}})")

    async def receive(self, request: web.Request) -> web.Response:
        """Forward one delivery, report it, and answer as the receiver did."""
        body = await request.read()
        began = time.monotonic()
        status, answer, failure = 204, b"", ""
        if self._forward_to is not None:
            status, answer, failure = await self._forward(body, request.headers)
        self._report(body, status, failure, time.monotonic() - began)
        self._left -= 1
        if self._left <= 0:
            self.done.set()
        return web.Response(status=status, body=answer)

    async def _forward(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, str]:
        forwarded = {name: value for name, value in headers.items() if name.lower() not in _NOT_FORWARDED}
        timeout = aiohttp.ClientTimeout(total=_FORWARD_TIMEOUT_SECONDS)
        try:
            async with self.session.post(
                self._forward_to or "", data=body, headers=forwarded, allow_redirects=False, timeout=timeout
            ) as response:
                return response.status, await response.read(), ""
        except (aiohttp.ClientError, TimeoutError) as error:
            return 502, b"", printable(str(error) or "no response within 15 s")

    def _report(self, body: bytes, status: int, failure: str, seconds: float) -> None:
        try:
            events = [_fields_of(event) for event in decode(body).events]
        except WebhookError as error:
            write_message(f"that is no delivery: {error}", level="warning")
            return
        if self._as_json:
            answer = {"status": status, "error": failure or None, "seconds": round(seconds, 3)}
            write_result(to_json({"events": events, **answer}))
            return
        for event in events:
            shown = "  ".join(
                printable(str(event[name])) for name in ("type", "state", "transaction_id") if event[name]
            )
            write_result(f"event {event['id']}  {shown}  {failure or status}  {seconds:.3f} s")


def _fields_of(event: Any) -> dict[str, Any]:
    known = isinstance(event, TransactionEvent)
    return {
        "id": event.id,
        "type": event.type,
        "state": event.state if known else None,
        "transaction_id": event.transaction_id if known else None,
    }
