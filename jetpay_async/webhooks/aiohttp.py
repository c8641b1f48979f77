"""Receive webhooks with aiohttp.web.

::

    app = web.Application()
    add_receiver(app, "/webhooks/jetpay", receiver)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from aiohttp import web

from jetpay_async.webhooks.receiver import WebhookReceiver

__all__ = ["add_receiver", "handler"]


def add_receiver(app: web.Application, path: str, receiver: WebhookReceiver) -> None:
    """Receive deliveries at a path, for as long as the application runs.

    aiohttp itself answers a body above the application's ``client_max_size`` (1 MiB unless told otherwise) with a 413.

    Args:
        app: The application, before it is started.
        path: The path of the ``callback_url`` that was registered at Jetpay.
        receiver: Entered when the application starts, and closed when it stops. Open what it needs, its key set and
            inbox, in a ``cleanup_ctx`` before this call, so that they are closed after it.
    """

    async def lifespan(_: web.Application) -> AsyncGenerator[None]:
        async with receiver:
            yield

    app.cleanup_ctx.append(lifespan)
    app.router.add_post(path, handler(receiver))


def handler(receiver: WebhookReceiver) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Make the handler of a route, for an application that opens and closes the receiver itself."""

    async def receive(request: web.Request) -> web.Response:
        response = await receiver.check_headers(request.headers)
        if response is None:
            response = await receiver.receive(await request.read(), headers=request.headers)
        return web.Response(status=response.status)

    return receive
