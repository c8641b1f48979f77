"""Receive webhooks with any ASGI framework: Starlette, FastAPI, Litestar, Quart, Django, BlackSheep, Falcon, ...

::

    app = Starlette(routes=[Route("/webhooks/jetpay", WebhookApp(receiver), methods=["POST"])])
    app = WebhookApp(receiver)  # or on its own

Note that Starlette's ``mount()`` answers ``/webhooks/jetpay`` with a redirect to ``/webhooks/jetpay/``, which a sender
of webhooks need not follow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias, cast

from jetpay_async._core.validation import check_seconds
from jetpay_async.webhooks._failures import log_failure, must_propagate
from jetpay_async.webhooks._jwt import MAX_BODY_BYTES
from jetpay_async.webhooks._request import DeliveryRequest
from jetpay_async.webhooks.receiver import WebhookReceiver

__all__ = ["WebhookApp"]

_Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, object]]]
_Send: TypeAlias = Callable[[dict[str, object]], Awaitable[None]]


class WebhookApp:
    """An ASGI application that passes every POST to the receiver and answers with the status that it returns.

    Args:
        receiver: Receives the deliveries.
        lifespan: Makes the context manager to enter when the server starts and to leave when it stops: by default the
            receiver. Pass a function that also opens the key set and the inbox. Within another application, which
            handles the lifespan itself, it is not called: enter them there. If it fails, the server reports it
            (``lifespan.startup.failed``) with the reason, and ends.
        max_body_bytes: A larger body is answered with a 413 without reading it to its end.
        body_timeout: Seconds in which the whole body must arrive; after that the answer is a 408. A delivery that its
            headers condemn is answered without reading its body.

    Raises:
        InvalidArgumentError: ``body_timeout`` is not a number of seconds above 0.
    """

    def __init__(
        self,
        receiver: WebhookReceiver,
        *,
        lifespan: Callable[[], AbstractAsyncContextManager[object]] | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        body_timeout: float = 10.0,
    ) -> None:
        self._receiver = receiver
        self._lifespan = lifespan or (lambda: receiver)
        self._max_body_bytes = max_body_bytes
        self._body_timeout = check_seconds("body_timeout", body_timeout)

    async def __call__(self, scope: Mapping[str, object], receive: _Receive, send: _Send) -> None:
        """Serve one ASGI connection.

        Raises:
            ValueError: The scope is neither HTTP nor the lifespan.
        """
        if scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
        elif scope["type"] != "http":
            raise ValueError(f"webhooks come by HTTP, not {scope['type']}")
        elif scope["method"] != "POST":
            await _answer(405, send)
        else:
            headers = cast("Iterable[tuple[bytes, bytes]]", scope["headers"])
            request = DeliveryRequest(None, None, headers)
            del scope, headers  # error reporters collect local variables, and the token is among the headers
            status = await self._receive(request, receive)
            if status is not None:
                await _answer(status, send)

    async def _serve_lifespan(self, receive: _Receive, send: _Send) -> None:
        step = "startup"
        try:
            await receive()
            async with self._lifespan():
                step = "shutdown"
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except BaseException as error:
            if must_propagate(error):
                raise
            # An exception that gets out would mean that this application has no lifespan: servers go on without one.
            log_failure(error, "the %s of the webhook application failed", step)
            await send({"type": f"lifespan.{step}.failed", "message": f"{type(error).__name__}: {error}"})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def _receive(self, request: DeliveryRequest, receive: _Receive) -> int | None:
        """Return the status to answer with, or None if the client has disconnected."""
        response = await self._receiver.check_headers(request.headers or ())
        if response is not None:
            return response.status
        body = _Body()
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._body_timeout):
                while body.add(await receive()) and body.size <= self._max_body_bytes:
                    pass
        except TimeoutError:
            return self._receiver.reject_unread(408, "body_timeout", duration=time.monotonic() - started).status
        if body.disconnected:
            return None
        if body.size > self._max_body_bytes:
            return self._receiver.reject_unread(413, "body_too_large", duration=time.monotonic() - started).status
        return (await self._receiver.receive(body.whole(), headers=request.headers)).status


class _Body:
    """The body of a request as it arrives, hidden from error reporters."""

    __slots__ = ("_parts", "disconnected", "size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0
        self.disconnected = False

    def add(self, message: Mapping[str, object]) -> bool:
        """Add what a message brings; return whether there is more."""
        if message["type"] == "http.disconnect":
            self.disconnected = True
            return False
        part = cast("bytes", message.get("body", b""))
        self._parts.append(part)
        self.size += len(part)
        return cast("bool", message.get("more_body", False))

    def whole(self) -> bytes:
        return b"".join(self._parts)


async def _answer(status: int, send: _Send) -> None:
    headers = [(b"content-length", b"0")]
    if status == 405:
        headers.append((b"allow", b"POST"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body"})
