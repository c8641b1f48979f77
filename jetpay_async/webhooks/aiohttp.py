"""Receive webhooks with aiohttp.web.

::

    app = web.Application()
    add_receiver(app, "/webhooks/jetpay", receiver)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from aiohttp import web

from jetpay_async._core.validation import check_seconds
from jetpay_async.webhooks.receiver import DeliveryResponse, WebhookReceiver

__all__ = ["add_receiver", "handler"]


def add_receiver(app: web.Application, path: str, receiver: WebhookReceiver, *, body_timeout: float = 10.0) -> None:
    """Receive deliveries at a path, for as long as the application runs.

    A body above the application's ``client_max_size`` (1 MiB unless told otherwise) is answered with a 413, and
    reported by the receiver, as one that takes too long (408) or can't be read to its end (400) is.

    Args:
        app: The application, before it is started.
        path: The path of the ``callback_url`` that was registered at Jetpay.
        receiver: Entered when the application starts, and closed when it stops. Open what it needs, its key set and
            inbox, in a ``cleanup_ctx`` before this call, so that they are closed after it.
        body_timeout: Seconds in which the whole body must arrive; after that the answer is a 408.

    Raises:
        InvalidArgumentError: ``body_timeout`` is not a number of seconds above 0.
    """

    async def lifespan(_: web.Application) -> AsyncGenerator[None]:
        async with receiver:
            yield

    app.cleanup_ctx.append(lifespan)
    app.router.add_post(path, handler(receiver, body_timeout=body_timeout))


def handler(
    receiver: WebhookReceiver, *, body_timeout: float = 10.0
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Make the handler of a route, for an application that opens and closes the receiver itself.

    Args:
        receiver: Receives the deliveries.
        body_timeout: As for `add_receiver`.

    Raises:
        InvalidArgumentError: ``body_timeout`` is not a number of seconds above 0.
    """
    check_seconds("body_timeout", body_timeout)

    async def receive(request: web.Request) -> web.Response:
        response = await receiver.check_headers(request.headers)
        if response is None:
            response = await receive_body(request)
        return web.Response(status=response.status)

    async def receive_body(request: web.Request) -> DeliveryResponse:
        started = time.monotonic()
        try:
            async with asyncio.timeout(body_timeout):
                await request.read()
        except TimeoutError:
            return receiver.reject_unread(408, "body_timeout", duration=time.monotonic() - started)
        except (web.RequestPayloadError, ConnectionError):
            # Cut off, or not compressed as its Content-Encoding says.
            return receiver.reject_unread(400, "body_unreadable", duration=time.monotonic() - started)
        except web.HTTPRequestEntityTooLarge:
            return receiver.reject_unread(413, "body_too_large", duration=time.monotonic() - started)
        # aiohttp keeps what it has read.
        return await receiver.receive(await request.read(), headers=request.headers)

    return receive
