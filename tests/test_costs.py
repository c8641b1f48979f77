"""What the hot paths do, counted in calls of functions: a busy machine does not change that, as it does times.

The calls are counted that functions of the package make and get, not those inside of other packages. Each bound is
about a tenth above what CPython 3.11 has; later ones have no more. Who raises a bound says why; what time it all takes,
`benchmarks` measures.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import jetpay_async
from jetpay_async import JetpayClient
from jetpay_async._core import json
from jetpay_async.ledger import Ledger
from jetpay_async.models import JSONValue
from jetpay_async.telemetry import Operation
from jetpay_async.webhooks import (
    DebitPaid,
    EventRouter,
    KeySet,
    SqliteInbox,
    WebhookError,
    WebhookReceiver,
    WebhookVerifier,
    decode,
    sign,
    verify,
)
from tests.network import TOKEN
from tests.recording_server import RecordingServer

TIMES = 5
PACKAGE = str(Path(jetpay_async.__file__).parent)
KEY = rsa.generate_private_key(65537, 2048)
MODULUS = urlsafe_b64encode(KEY.public_key().public_numbers().n.to_bytes(256)).rstrip(b"=").decode()
JWK: dict[str, JSONValue] = {"kty": "RSA", "kid": "a", "use": "sig", "alg": "RS256", "e": "AQAB", "n": MODULUS}
KEYS = KeySet.from_jwks(json.dump({"keys": [JWK]}))

_ids = itertools.count(1)


class CallCounter:
    """Counts calls of and by functions of the package, in this thread."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event in ("call", "c_call"):
            name = frame.f_code.co_filename
            # What attrs generates for a class is of the package, too.
            self.calls += name.startswith(PACKAGE) or (name.startswith("<attrs") and "jetpay_async" in name)


async def count(work: Callable[[], Awaitable[object]]) -> int:
    """Count the calls of what is awaited, at the least of several times: the first ones warm everything up."""
    counts: list[int] = []
    for _ in range(TIMES):
        counter = CallCounter()
        sys.setprofile(counter)
        try:
            await work()
        finally:
            sys.setprofile(None)
        counts.append(counter.calls)
    return min(counts)


def body_of(number: int) -> bytes:
    """A delivery of new events."""
    events: list[JSONValue] = [
        {
            "id": event_id,
            "createdAt": "2026-01-22T10:15:30Z",
            "type": "transactions.debits.updated",
            "data": {"state": "paid", "transactionId": f"debit-{event_id}"},
        }
        for event_id in itertools.islice(_ids, number)
    ]
    return json.dump({"webhookId": 1, "events": events})


@pytest.mark.asyncio
@pytest.mark.parametrize(("number", "most"), [(1, 80), (100, 840)])
async def test_verifying_and_decoding(number: int, most: int) -> None:
    """The events are read by few calls for each, in C."""
    body = body_of(number)
    token = sign(body, KEY, kid="a")

    async def read() -> None:
        verify(body, token, keys=KEYS)
        decode(body)

    assert await count(read) <= most


@pytest.mark.asyncio
async def test_rejecting_a_forged_delivery() -> None:
    """A signature by an unknown key is rejected before anything dear is done: anybody can send those."""
    body = body_of(1)
    token = sign(body, KEY, kid="b")

    async def reject() -> None:
        with contextlib.suppress(WebhookError):
            verify(body, token, keys=KEYS)

    assert await count(reject) <= 32


@pytest.mark.asyncio
@pytest.mark.parametrize(("number", "most"), [(1, 310), (100, 6_300)])
async def test_handling_each_event_once(tmp_path: Path, number: int, most: int) -> None:
    """What an inbox in a file adds, without what its own thread does."""
    router = EventRouter()
    handled = 0

    @router.on(DebitPaid)
    async def handle(_: DebitPaid) -> None:
        nonlocal handled
        handled += 1

    inbox = SqliteInbox(tmp_path / "inbox.db")
    receiver = WebhookReceiver(WebhookVerifier(KEYS), router, inbox=inbox)

    async def receive() -> None:
        body = body_of(number)
        await receiver.receive(body, sign(body, KEY, kid="a"))

    try:
        calls = await count(receive)
    finally:
        await inbox.aclose()

    assert handled == TIMES * number
    assert calls <= most


def note(_: Operation) -> None:
    """Take no time."""


@pytest.mark.asyncio
@pytest.mark.parametrize(("hook", "most"), [(None, 87), (note, 97)], ids=["no hook", "a hook"])
async def test_a_capture(hook: Callable[[Operation], None] | None, most: int) -> None:
    """One request and its typed answer; a client without a hook does nothing for it."""
    numbers = itertools.count()
    async with (
        RecordingServer().listen() as server,
        JetpayClient(TOKEN, base_url=server.url, on_operation=hook) as client,
    ):

        async def capture() -> None:
            await client.capture(f"debit_{next(numbers)}")

        calls = await count(capture)

    assert server.carried_out.total() == TIMES
    assert calls <= most


@pytest.mark.asyncio
@pytest.mark.parametrize(("durable", "most"), [(False, 5_950), (True, 7_800)], ids=["streamed", "in a ledger"])
async def test_a_batch_of_50(tmp_path: Path, *, durable: bool, most: int) -> None:
    """An item costs little more than its capture, in a ledger too, without what its own thread does."""
    numbers, keys = itertools.count(), itertools.count()
    path = tmp_path / "captures.db"
    async with (
        RecordingServer().listen() as server,
        JetpayClient(TOKEN, base_url=server.url) as client,
        Ledger(path),
        client.durable_captures(path, concurrency=8) as captures,
    ):

        async def run() -> None:
            debits = [f"debit_{number}" for number in itertools.islice(numbers, 50)]
            if durable:
                report = await (await captures.submit(f"batch {next(keys)}", debits)).wait()
                assert report.captured == 50
            else:
                assert len([outcome async for outcome in client.capture_many(debits, concurrency=8)]) == 50

        calls = await count(run)

    assert server.carried_out.total() == TIMES * 50
    assert calls <= most
