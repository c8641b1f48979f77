"""Receive webhooks with any ASGI framework: Starlette, FastAPI, Litestar, Quart, Django, BlackSheep, Falcon, ...

::

    app = Starlette(routes=[Route("/webhooks/jetpay", WebhookApp(receiver), methods=["POST"])])
    app = WebhookApp(receiver)  # or on its own

Mind that Starlette's ``mount()`` answers ``/webhooks/jetpay`` with a redirect to ``/webhooks/jetpay/``, which a sender
of webhooks need not follow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias, cast

from jetpay_async.webhooks._jwt import MAX_BODY_BYTES
from jetpay_async.webhooks.errors import WebhookError
from jetpay_async.webhooks.verifier import authorization_of

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from jetpay_async.webhooks.receiver import WebhookReceiver

__all__ = ["WebhookApp"]

_Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, object]]]
_Send: TypeAlias = Callable[[dict[str, object]], Awaitable[None]]


class WebhookApp:
    """An ASGI application that answers every POST with what the receiver says.

    Args:
        receiver: What takes the deliveries.
        lifespan: What to enter when the server starts, and to leave when it stops: the receiver, unless told otherwise.
            Give a function that also opens the key set and the inbox. Inside of another application, which keeps the
            lifespan to itself, it is not called: enter them there.
        max_body_bytes: A larger body is answered with a 413 without reading it to its end.
    """

    def __init__(
        self,
        receiver: WebhookReceiver,
        *,
        lifespan: Callable[[], AbstractAsyncContextManager[object]] | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._receiver = receiver
        self._lifespan = lifespan or (lambda: receiver)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Mapping[str, object], receive: _Receive, send: _Send) -> None:
        """Speak ASGI.

        Raises:
            ValueError: It is asked for something else than HTTP or the lifespan.
        """
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] != "http":
            raise ValueError(f"webhooks come by HTTP, not {scope['type']}")
        elif scope["method"] != "POST":
            await _answer(405, send)
        else:
            status = await self._receive(scope, receive)
            if status is not None:
                await _answer(status, send)

    async def _live(self, receive: _Receive, send: _Send) -> None:
        await receive()
        async with self._lifespan():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _receive(self, scope: Mapping[str, object], receive: _Receive) -> int | None:
        """Return the status to answer with, or None if nobody waits for an answer any more."""
        try:
            authorization = authorization_of(cast("Iterable[tuple[bytes, bytes]]", scope["headers"]))
        except WebhookError as error:
            return error.status_hint
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += cast("bytes", message.get("body", b""))
            if len(body) > self._max_body_bytes:
                return 413
            more = cast("bool", message.get("more_body", False))
        answer = await self._receiver.receive(bytes(body), authorization)
        return answer.status


async def _answer(status: int, send: _Send) -> None:
    headers = [(b"content-length", b"0")]
    if status == 405:
        headers.append((b"allow", b"POST"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body"})
