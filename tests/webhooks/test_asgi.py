"""The ASGI adapter, spoken to without a server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import attrs
import pytest

from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks.asgi import WebhookApp
from jetpay_async.webhooks.receiver import DeliveryResponse, WebhookReceiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


@attrs.define
class Receiver:
    """Answers 204 and notes what it was given, and whether it was open then."""

    received: list[tuple[bytes, object]] = attrs.field(factory=list)
    life: list[str] = attrs.field(factory=list)
    rejection: DeliveryResponse | None = None
    unread: list[str] = attrs.field(factory=list)

    async def check_headers(self, headers: object) -> DeliveryResponse | None:
        return self.rejection

    def reject_unread(self, status: int, reason: str, *, duration: float) -> DeliveryResponse:
        self.unread.append(reason)
        return DeliveryResponse(status=status, reason=reason)

    async def receive(self, body: bytes, *, headers: object) -> DeliveryResponse:
        self.received.append((body, headers))
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
    assert receiver.received == [(b"{} ", ((b"authorization", b"Bearer x"),))]


@pytest.mark.asyncio
async def test_a_body_at_the_limit_is_taken() -> None:
    """The limit itself is no excess."""
    receiver = Receiver()

    assert await request(receiver, part(b" " * 100)) == (204, {b"content-length": b"0"})
    assert await request(receiver, part(b" " * 101)) == (413, {b"content-length": b"0"})
    assert len(receiver.received) == 1


@pytest.mark.asyncio
async def test_a_larger_body_is_not_read_on() -> None:
    """A body above the limit is rejected at the part that exceeds it; nothing more is asked for."""
    receiver = Receiver()

    assert await request(receiver, part(b" " * 60, more=True), part(b" " * 41, more=True)) == (
        413,
        {b"content-length": b"0"},
    )
    assert (receiver.received, receiver.unread) == ([], ["body_too_large"])


@pytest.mark.asyncio
async def test_a_sender_that_has_gone_gets_no_answer() -> None:
    """A body that breaks off is nobody's delivery."""
    receiver = Receiver()

    assert await request(receiver, part(b"{", more=True), {"type": "http.disconnect"}) is None
    assert receiver.received == []


@pytest.mark.asyncio
async def test_what_its_headers_condemn_is_rejected_unread() -> None:
    """A delivery that the receiver rejects by its headers is answered without asking for its body."""
    receiver = Receiver(rejection=DeliveryResponse(status=401, reason="missing_token"))

    assert await request(receiver) == (401, {b"content-length": b"0"})
    assert receiver.received == []


@pytest.mark.asyncio
async def test_a_body_that_trickles_in_is_given_up() -> None:
    """A sender that never ends its body is answered 408 after the body's timeout, and holds nothing up any longer."""
    receiver = Receiver()
    sent: list[Mapping[str, object]] = []
    messages = iter([part(b"{", more=True)])

    async def receive() -> Mapping[str, object]:
        message = next(messages, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None
        return message

    async def send(message: Mapping[str, object]) -> None:
        sent.append(message)

    app = WebhookApp(receiver, body_timeout=0.01)  # type: ignore[arg-type] # stands in for a receiver
    await app({"type": "http", "method": "POST", "headers": ()}, receive, send)

    assert sent[0]["status"] == 408
    assert (receiver.received, receiver.unread) == ([], ["body_timeout"])


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_body_timeout_is_a_number_of_seconds(seconds: float) -> None:
    """A timeout that would let every body pass, or none, is rejected."""
    with pytest.raises(InvalidArgumentError, match="body_timeout"):
        WebhookApp(Receiver(), body_timeout=seconds)  # type: ignore[arg-type] # the same


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
    assert {"receive", "check_headers", "__aenter__", "__aexit__"} <= set(vars(WebhookReceiver)) & set(vars(Receiver))
