"""Error reporters find neither the body nor the token of a delivery, nor the callback's key, in the frames of ours."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp.test_utils import make_mocked_request

from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks import (
    EventRouter,
    KeySet,
    LeaseLostError,
    MemoryInbox,
    RemoteKeySet,
    SqliteInbox,
    TransactionPaid,
    WebhookError,
    WebhookReceiver,
    WebhookVerifier,
    authorization_of,
    decode,
    explain,
    sign,
    verify,
)
from jetpay_async.webhooks.aiohttp import handler
from jetpay_async.webhooks.asgi import WebhookApp
from tests.reporters import chain, collected
from tests.webhooks.receiving import body_of, document, until
from tests.webhooks.signing import HEADER, KEYS, KID, NOW, OTHER, PRIVATE, base64url, claims_for, token

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECRET = "hush-hush"
BODY = body_of([{**document(7), "data": {"state": "paid", "transactionId": "t-7", "holder": SECRET}}])
CALLBACK_KEY = "the-callbacks-key"


def check(found: str, *tokens: str) -> None:
    """Assert that nothing secret is among what was collected."""
    assert SECRET not in found
    assert CALLBACK_KEY not in found
    for value in tokens:
        assert not any(segment in found for segment in value.split(".") if len(segment) > 20)


REJECTED = {
    "expired": sign(BODY, PRIVATE, kid=KID, now=NOW - 1000),
    "not yet valid": sign(BODY, PRIVATE, kid=KID, now=NOW + 1000),
    "another body": sign(b"another", PRIVATE, kid=KID, now=NOW),
    "bad signature": sign(BODY, OTHER, kid=KID, now=NOW),
    "unknown key": sign(BODY, PRIVATE, kid="another", now=NOW),
    "bad claim": sign(BODY, PRIVATE, kid=KID, now=NOW, claims={"iss": SECRET}),
    "missing claim": sign(BODY, PRIVATE, kid=KID, now=NOW, claims={"iss": None}),
    "algorithm": sign(BODY, PRIVATE, kid=KID, now=NOW, header={"alg": SECRET}),
    "critical": sign(BODY, PRIVATE, kid=KID, now=NOW, header={"crit": [SECRET]}),
    "malformed": "Bearer " + base64url(b'{"hush-hush"') * 10,
    "malformed claims": token(HEADER, b'{"hush-hush'),
    "scheme": f"Basic {SECRET}",
    "too large": "Bearer " + SECRET * 1000,
    "malformed body": token(HEADER, claims_for(SECRET.encode())),
}


@pytest.mark.parametrize("authorization", REJECTED.values(), ids=REJECTED)
@pytest.mark.parametrize("how", ["verify", "pinned", "fetched", "headers only", "explain"])
@pytest.mark.asyncio
async def test_rejections(authorization: str, how: str) -> None:
    """Whatever a delivery is rejected for, no frame holds its body or its token."""
    body = SECRET.encode() if authorization == REJECTED["malformed body"] else BODY

    async def fetch(_: str) -> bytes:
        raise OSError("refused")

    headers = [("authorization", authorization)]
    clock = _clock()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "pinned": lambda: WebhookVerifier(KEYS, clock=clock).verify(body, headers=headers),
        "fetched": lambda: WebhookVerifier(RemoteKeySet("https://baselinepayments.com", fetch), clock=clock).verify(
            body, authorization
        ),
        "headers only": lambda: WebhookVerifier(KEYS, clock=clock).check_headers(headers),
    }
    try:
        if how == "verify":
            verify(body, authorization, keys=KEYS, now=NOW)
            decode(body)
        elif how == "explain":
            explain(body.decode(), authorization, keys=KEYS)  # type: ignore[arg-type] # on purpose
        else:
            await calls[how]()
    except (WebhookError, InvalidArgumentError) as error:
        check(collected(chain(error)), authorization)
    else:  # what is wrong with the body can't be seen in the headers
        assert how == "headers only"
        assert authorization in {REJECTED["another body"], REJECTED["malformed body"]}


@pytest.mark.parametrize("body", [BODY.decode(), [BODY], None], ids=["text", "a list", "nothing"])
@pytest.mark.asyncio
async def test_a_body_that_is_not_bytes(body: bytes) -> None:
    """The caller's mistake is told without what was passed."""
    authorization = sign(BODY, PRIVATE, kid=KID, now=NOW)
    receiver = WebhookReceiver(WebhookVerifier(KEYS), EventRouter(), inbox=MemoryInbox())
    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: WebhookVerifier(KEYS).verify(body, authorization),
        lambda: receiver.receive(body, headers={"Authorization": authorization}),
    )
    with pytest.raises(InvalidArgumentError) as caught:
        verify(body, authorization, keys=KEYS, now=NOW)
    check(collected(chain(caught.value)), authorization)
    for call in calls:
        with pytest.raises(InvalidArgumentError, match="raw bytes") as raised:
            await call()
        check(collected(chain(raised.value)), authorization)


@pytest.mark.parametrize("window", [{"leeway": -1}, {"max_token_age": 0}], ids=str)
def test_a_window_that_is_out_of_range(window: dict[str, float]) -> None:
    """The caller's mistake in a number of seconds is reported without the delivery."""
    with pytest.raises(InvalidArgumentError) as caught:
        verify(BODY, REJECTED["expired"], keys=KEYS, now=NOW, **window)

    check(collected(chain(caught.value)), REJECTED["expired"])


@pytest.mark.asyncio
async def test_a_route_without_headers() -> None:
    """A route that passes no headers is told so without what it passed."""
    verifier = WebhookVerifier(KEYS, callback_api_key=CALLBACK_KEY, callback_api_key_header="X-Api-Key")
    with pytest.raises(ConfigurationError) as caught:
        await verifier.verify(BODY, REJECTED["expired"])

    check(collected(chain(caught.value)), REJECTED["expired"])


@pytest.mark.parametrize(
    "options",
    [{"leeway": -1}, {"max_token_age": -1}, {"callback_api_key_header": None}, {"callback_api_key_header": ""}],
    ids=str,
)
def test_constructors(options: dict[str, object]) -> None:
    """No frame of a failing constructor holds the callback's key, and what is half made has a repr."""
    settings = {"callback_api_key": CALLBACK_KEY, "callback_api_key_header": "X-Api-Key", **options}
    with pytest.raises((ConfigurationError, InvalidArgumentError)) as caught:
        WebhookVerifier(KEYS, **settings)  # type: ignore[arg-type] # by name

    found = collected(chain(caught.value))
    check(found)
    assert "WebhookVerifier(None" in found


def test_two_tokens() -> None:
    """Of two tokens, none is in a frame."""
    with pytest.raises(WebhookError) as caught:
        authorization_of([("authorization", SECRET), ("authorization", f"{SECRET}!")])

    check(collected(chain(caught.value)))


Route = Callable[[WebhookReceiver, bytes, str], Awaitable[object]]


def _by_value(receiver: WebhookReceiver, body: bytes, authorization: str) -> Awaitable[object]:
    return receiver.receive(body, authorization)


def _by_headers(receiver: WebhookReceiver, body: bytes, authorization: str) -> Awaitable[object]:
    return receiver.receive(bytearray(body), headers={"Authorization": [authorization]})


async def _by_asgi(receiver: WebhookReceiver, body: bytes, authorization: str) -> object:
    async def receive() -> Mapping[str, object]:
        return {"type": "http.request", "body": body}

    async def send(_: object) -> None: ...

    scope = {"type": "http", "method": "POST", "headers": [(b"authorization", authorization.encode())]}
    return await WebhookApp(receiver)(scope, receive, send)


async def _by_aiohttp(receiver: WebhookReceiver, body: bytes, authorization: str) -> object:
    request = make_mocked_request("POST", "/", headers={"Authorization": authorization}, payload=_Payload(body))
    return await handler(receiver)(request)


class _Payload:
    """The body of a request, as far as aiohttp asks for it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def set_read_chunk_size(self, _: int) -> None: ...

    async def readany(self) -> bytes:
        body, self._body = self._body, b""
        return body


ROUTES: dict[str, Route] = {
    "by value": _by_value,
    "by headers": _by_headers,
    "ASGI": _by_asgi,
    "aiohttp": _by_aiohttp,
}


@pytest.mark.parametrize("waits_for", ["a handler", "the keys"])
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@pytest.mark.asyncio
async def test_a_timeout_of_the_caller(route: Route, waits_for: str) -> None:
    """A delivery that the caller gives up, while a handler or the fetch of the keys hangs, leaves no frame with it."""
    hanging = asyncio.Event()
    router = EventRouter()

    @router.on(TransactionPaid)
    async def hang(_: TransactionPaid) -> None:
        hanging.set()
        await asyncio.Event().wait()

    async def fetch(_: str) -> bytes:
        hanging.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with RemoteKeySet("https://baselinepayments.com", fetch, timeout=0.01) as remote:
        keys: KeySet | RemoteKeySet = remote if waits_for == "the keys" else KEYS
        receiver = WebhookReceiver(WebhookVerifier(keys, webhook_ids={123}), router, inbox=MemoryInbox())
        authorization = sign(BODY, PRIVATE, kid=KID)
        hanging.clear()
        remote._timeout = 60.0
        remote._tried_at = -1e9
        with pytest.raises(TimeoutError) as caught:
            async with receiver, asyncio.timeout(None) as limit:
                asyncio.get_running_loop().create_task(_expire(limit, hanging))
                await route(receiver, BODY, authorization)

    found = collected(chain(caught.value))
    assert "WebhookReceiver" in found
    check(found, authorization)


async def _expire(limit: asyncio.Timeout, begun: asyncio.Event) -> None:
    await begun.wait()
    limit.reschedule(0)


class StackReporter(logging.Handler):
    """Collects the frames above each log call, as reporters do where they are asked to attach the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        frames = [frame for frame, _ in traceback.walk_stack(sys._getframe(1))]
        # The frames above are those of the test run, which know everything.
        ours = [frame for frame in frames if "jetpay_async" in Path(frame.f_code.co_filename).parts]
        self.found.append(collected(ours))
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(collected(chain(record.exc_info[1])))


@pytest.fixture
def reporter() -> Iterator[StackReporter]:
    handler = StackReporter()
    logging.getLogger("jetpay_async").addHandler(handler)
    yield handler
    logging.getLogger("jetpay_async").removeHandler(handler)


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@pytest.mark.asyncio
async def test_what_is_logged(route: Route, reporter: StackReporter) -> None:
    """Neither the stack nor the traceback of what the receiver logs holds the body or the token."""
    router = EventRouter()

    @router.on(TransactionPaid)
    async def fail(_: TransactionPaid) -> None:
        raise next(failures)

    failures = iter([ZeroDivisionError(), LeaseLostError("as if")])
    receiver = WebhookReceiver(WebhookVerifier(KEYS), router, inbox=MemoryInbox())
    good = sign(BODY, PRIVATE, kid=KID)
    for authorization in (REJECTED["bad signature"], good, good):
        await route(receiver, BODY, authorization)

    assert len(reporter.messages) > 3
    check("\n".join(reporter.found), good, REJECTED["bad signature"])


@pytest.mark.asyncio
async def test_an_inbox_that_fails(tmp_path: Path, reporter: StackReporter) -> None:
    """What is to be stored, and can't be, is in no frame of the inbox's error."""
    path = tmp_path / "inbox.db"
    path.write_bytes(b"not a database" * 1000)
    async with SqliteInbox(path) as inbox:
        receiver = WebhookReceiver(WebhookVerifier(KEYS), EventRouter(), inbox=inbox, acknowledge="after_storing")
        async with receiver:
            response = await receiver.receive(BODY, sign(BODY, PRIVATE, kid=KID))
            await until(lambda: bool(reporter.messages))

    assert response.status == 503
    check("\n".join(reporter.found))


def _clock() -> object:
    from tests.webhooks.receiving import FakeClock

    return FakeClock(NOW).clock
