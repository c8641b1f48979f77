"""The ASGI adapter, spoken to without a server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import attrs
import pytest

from jetpay_async.webhooks.asgi import WebhookApp
from jetpay_async.webhooks.receiver import DeliveryResponse, WebhookReceiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


@attrs.define
class Receiver:
    """Answers 204 and notes what it was given, and whether it was open then."""

    received: list[tuple[bytes, str | bytes | None]] = attrs.field(factory=list)
    life: list[str] = attrs.field(factory=list)

    async def receive(self, body: bytes, authorization: object, *, headers: object) -> DeliveryResponse:
        self.received.append((body, authorization))
        return DeliveryResponse(status=204, reason="handled")

    async def __aenter__(self) -> Self:
        self.life.append("opened")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.life.append("closed")


def part(body: bytes, *, more: bool = False) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": more}


async def speak(
    receiver: Receiver, scope: Mapping[str, object], *messages: Mapping[str, object], limit: int = 100
) -> list[dict[str, object]]:
    sent: list[dict[str, object]] = []
    incoming = iter(messages)

    async def receive() -> Mapping[str, object]:
        return next(incoming)

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    app = WebhookApp(receiver, max_body_bytes=limit)  # type: ignore[arg-type]
    await app(scope, receive, send)
    return sent


async def request(
    receiver: Receiver,
    *messages: Mapping[str, object],
    method: str = "POST",
    headers: tuple[tuple[bytes, bytes], ...] = ((b"authorization", b"Bearer x"),),
) -> tuple[object, dict[bytes, bytes]] | None:
    """Return the status and the headers of the answer, or None if there was none."""
    sent = await speak(receiver, {"type": "http", "method": method, "headers": headers}, *messages)
    if not sent:
        return None
    start, body = sent
    assert (start["type"], body) == ("http.response.start", {"type": "http.response.body"})
    return start["status"], dict(start["headers"])  # type: ignore[call-overload]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([part(b"{} ")], id="whole"),
        pytest.param([part(b"{", more=True), part(b"", more=True), part(b"} ")], id="parts"),
        pytest.param([part(b"{} ", more=True), {"type": "http.request"}], id="bare-last-message"),
    ],
)
async def test_the_body_is_put_together(messages: list[dict[str, object]]) -> None:
    """However the server cuts the body, the receiver gets its bytes and the header as they came."""
    receiver = Receiver()

    assert await request(receiver, *messages) == (204, {b"content-length": b"0"})
    assert receiver.received == [(b"{} ", b"Bearer x")]


@pytest.mark.asyncio
async def test_a_body_at_the_limit_is_taken() -> None:
    """The limit itself is no excess."""
    receiver = Receiver()

    assert await request(receiver, part(b" " * 100)) == (204, {b"content-length": b"0"})


@pytest.mark.asyncio
async def test_a_larger_body_is_not_read_on() -> None:
    """A body above the limit is rejected at the part that exceeds it; nothing more is asked for."""
    receiver = Receiver()

    assert await request(receiver, part(b" " * 60, more=True), part(b" " * 41, more=True)) == (
        413,
        {b"content-length": b"0"},
    )
    assert receiver.received == []


@pytest.mark.asyncio
async def test_a_sender_that_has_gone_gets_no_answer() -> None:
    """A body that breaks off is nobody's delivery."""
    receiver = Receiver()

    assert await request(receiver, part(b"{", more=True), {"type": "http.disconnect"}) is None
    assert receiver.received == []


@pytest.mark.asyncio
async def test_several_tokens_are_rejected_unread() -> None:
    """Which of two different tokens counts must not depend on who reads them."""
    receiver = Receiver()
    headers = ((b"authorization", b"Bearer x"), (b"Authorization", b"Bearer y"))

    assert await request(receiver, headers=headers) == (401, {b"content-length": b"0"})


@pytest.mark.asyncio
async def test_no_token_is_the_receivers_to_judge() -> None:
    """Without the header the receiver is told so."""
    receiver = Receiver()
    await request(receiver, part(b"{}"), headers=((b"host", b"shop"),))

    assert receiver.received == [(b"{}", None)]


@pytest.mark.asyncio
async def test_only_posts_are_deliveries() -> None:
    """Any other method is rejected, with the one that is allowed."""
    assert await request(Receiver(), method="GET") == (405, {b"content-length": b"0", b"allow": b"POST"})


@pytest.mark.asyncio
async def test_the_receiver_lives_as_long_as_the_server() -> None:
    """On its own the application opens the receiver when the server starts, and closes it when it stops."""
    receiver = Receiver()

    sent = await speak(receiver, {"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})

    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert receiver.life == ["opened", "closed"]


@pytest.mark.asyncio
async def test_more_may_live_as_long_as_the_server() -> None:
    """A lifespan of the user's own, which also opens what the receiver needs, takes the place of the receiver."""
    receiver, instead = Receiver(), Receiver()
    incoming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Mapping[str, object]:
        return next(incoming)

    async def send(message: dict[str, object]) -> None: ...

    app = WebhookApp(receiver, lifespan=lambda: instead)  # type: ignore[arg-type]
    await app({"type": "lifespan"}, receive, send)

    assert (receiver.life, instead.life) == ([], ["opened", "closed"])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        pytest.param("startup", [("lifespan.startup.failed", "RuntimeError: the database is down")], id="startup"),
        pytest.param(
            "shutdown",
            [("lifespan.startup.complete", None), ("lifespan.shutdown.failed", "RuntimeError: the database is down")],
            id="shutdown",
        ),
    ],
)
async def test_a_failing_lifespan_is_reported(
    failing: str, expected: list[tuple[str, str | None]], caplog: pytest.LogCaptureFixture
) -> None:
    """A server is told why the application can't start or stop; an exception would look like no lifespan at all."""
    sent: list[Mapping[str, object]] = []
    incoming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        if failing == "startup":
            raise RuntimeError("the database is down")
        yield
        raise RuntimeError("the database is down")

    async def receive() -> Mapping[str, object]:
        return next(incoming)

    async def send(message: Mapping[str, object]) -> None:
        sent.append(message)

    await WebhookApp(Receiver(), lifespan=lifespan)({"type": "lifespan"}, receive, send)  # type: ignore[arg-type]

    assert [(message["type"], message.get("message")) for message in sent] == expected
    assert f"the {failing} of the webhook application failed" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.asyncio
async def test_a_cancelled_lifespan_is_cancelled() -> None:
    """A server that gives up waiting cancels the application, which is no failure of the lifespan."""
    waiting = asyncio.Event()

    async def receive() -> Mapping[str, object]:
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Mapping[str, object]) -> None:
        raise AssertionError(message)

    serving = asyncio.create_task(WebhookApp(Receiver())({"type": "lifespan"}, receive, send))  # type: ignore[arg-type]
    await waiting.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


@pytest.mark.asyncio
async def test_other_protocols_are_rejected() -> None:
    """Webhooks don't come by web socket."""
    with pytest.raises(ValueError, match="not websocket"):
        await speak(Receiver(), {"type": "websocket"})


def test_the_stand_in_stands_in() -> None:
    """What these tests speak to has the methods that the adapter calls on the real one."""
    assert {"receive", "__aenter__", "__aexit__"} <= set(vars(WebhookReceiver)) & set(vars(Receiver))
