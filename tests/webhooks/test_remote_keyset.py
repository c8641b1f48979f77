"""Fetched keys: one fetch for all, none too many, and none that takes good keys away."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import attrs
import pytest

from jetpay_async.webhooks import (
    InvalidTokenError,
    KeysUnavailableError,
    Reason,
    RemoteKeySet,
    WebhookVerifier,
    sign,
)
from jetpay_async.webhooks.keyset import MAX_JWKS_BYTES
from tests.webhooks.receiving import FakeClock, until
from tests.webhooks.signing import BODY, KID, OTHER, PRIVATE, jwk, jwks

if TYPE_CHECKING:
    pass

URL = "https://api.baselinepayments.com"
OLD = jwks(jwk(PRIVATE.public_key()))
NEW = jwks(jwk(PRIVATE.public_key()), jwk(OTHER.public_key(), "rotated"))


@attrs.define
class Endpoint:
    """What a fetch reaches: it answers the same until told otherwise, and can be held up."""

    answer: bytes | Exception = OLD
    fetches: int = 0
    cancelled: int = 0
    open: asyncio.Event | None = None

    async def fetch(self, url: str) -> bytes:
        assert url == "https://api.baselinepayments.com/.well-known/jwks.json"
        self.fetches += 1
        try:
            if self.open is not None:
                await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def hold(self) -> asyncio.Event:
        self.open = asyncio.Event()
        return self.open


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys(endpoint: Endpoint, clock: FakeClock) -> RemoteKeySet:
    return RemoteKeySet(URL, endpoint.fetch, clock=clock.clock)


@pytest.mark.asyncio
async def test_one_fetch_for_all_who_wait(keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock) -> None:
    """A hundred deliveries at once lead to one fetch, and the next ones to none."""
    found = await asyncio.gather(*(keys.current() for _ in range(100)))
    again = await keys.current()

    assert endpoint.fetches == 1
    assert {id(key_set) for key_set in found} == {id(again)}
    assert again.kids == (KID,)
    assert again.fetched_at == clock.now


@pytest.mark.asyncio
async def test_renewed_in_the_background(keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock) -> None:
    """At three quarters of their age the keys are renewed, and nobody waits for it."""
    before = await keys.current()
    clock.tick(449)
    assert await keys.current() is before
    assert endpoint.fetches == 1

    endpoint.answer = NEW
    gate = endpoint.hold()
    clock.tick(1)
    for _ in range(10):
        assert await keys.current() is before
        await asyncio.sleep(0)
    assert endpoint.fetches == 2

    gate.set()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert (await keys.current()).kids == (KID, "rotated")
    assert endpoint.fetches == 2


@pytest.mark.asyncio
async def test_too_old(keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock) -> None:
    """Keys beyond their age are renewed before they are used."""
    await keys.current()
    endpoint.answer = NEW
    clock.tick(600)

    assert (await keys.current()).kids == (KID, "rotated")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer",
    [b"<html>", b"", b" " * (MAX_JWKS_BYTES + 1), OSError("refused"), ValueError(), None],
    ids=lambda answer: repr(answer)[:30],
)
async def test_a_failure_takes_nothing_away(
    keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock, answer: bytes | Exception
) -> None:
    """While renewing fails, or brings what is no key set, the old keys serve; beyond the bound they don't."""
    before = await keys.current()
    endpoint.answer = answer

    clock.tick(600)
    assert await keys.current() is before
    clock.tick(3599)
    assert await keys.current() is before
    clock.tick(1)
    with pytest.raises(KeysUnavailableError) as caught:
        await keys.current()
    assert (caught.value.reason, caught.value.facts["age"]) == (Reason.KEYS_OUTDATED, 4200)
    assert caught.value.explain().startswith("The keys are 4200 s old")

    endpoint.answer = NEW
    clock.tick(5)
    assert (await keys.current()).kids == (KID, "rotated")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("published", "reason"),
    [
        (jwks(jwk(OTHER.public_key(), "rotated")), Reason.UNKNOWN_KEY),
        (jwks(jwk(PRIVATE.public_key(), use="enc"), jwk(OTHER.public_key(), "rotated")), Reason.UNUSABLE_KEY),
        (jwks(jwk(PRIVATE.public_key(), use="enc")), Reason.UNUSABLE_KEY),
        (jwks(jwk(OTHER.public_key(), "rotated", use="enc")), Reason.UNKNOWN_KEY),
    ],
    ids=["lacks it", "disowns it", "disowns all", "has no usable one"],
)
async def test_a_revoked_key(
    keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock, published: bytes, reason: Reason
) -> None:
    """A key that the published set lacks, or no longer offers for signatures, is revoked by the fetch that says so."""
    verifier = WebhookVerifier(keys, clock=clock.clock)
    await verifier.verify(BODY, sign(BODY, PRIVATE, kid=KID, now=clock.now))
    endpoint.answer = published
    clock.tick(600)

    with pytest.raises(InvalidTokenError) as caught:
        await verifier.verify(BODY, sign(BODY, PRIVATE, kid=KID, now=clock.now))

    assert caught.value.reason is reason
    assert endpoint.fetches == 2


async def find_empty(keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock) -> None:
    """Let a first fetch bring a set without keys, after one with keys."""
    await keys.current()
    endpoint.answer = jwks()
    clock.tick(600)
    for _ in range(3):
        with pytest.raises(KeysUnavailableError) as caught:
            await keys.current()
        assert (caught.value.reason, caught.value.status_hint) == (Reason.NO_USABLE_KEY, 503)
    assert endpoint.fetches == 2


@pytest.mark.asyncio
async def test_an_empty_set_that_is_confirmed(keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock) -> None:
    """A set without keys revokes them all once a second fetch brings one too; until then deliveries get a 503."""
    verifier = WebhookVerifier(keys, clock=clock.clock)
    await find_empty(keys, endpoint, clock)

    for seconds in (5, 600):
        clock.tick(seconds)
        with pytest.raises(InvalidTokenError) as caught:
            await verifier.verify(BODY, sign(BODY, PRIVATE, kid=KID, now=clock.now))
        assert caught.value.reason is Reason.UNKNOWN_KEY
    assert endpoint.fetches == 4

    endpoint.answer = OLD
    clock.tick(600)
    assert (await keys.current()).kids == (KID,)


@pytest.mark.asyncio
async def test_an_empty_set_that_is_not_confirmed(keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock) -> None:
    """A publisher that had nothing for a moment revokes nothing; a failing fetch in between confirms nothing."""
    await find_empty(keys, endpoint, clock)

    endpoint.answer = OSError("refused")
    clock.tick(5)
    with pytest.raises(KeysUnavailableError) as caught:
        await keys.current()
    assert caught.value.reason is Reason.NO_USABLE_KEY

    endpoint.answer = OLD
    clock.tick(5)
    assert (await keys.current()).kids == (KID,)

    endpoint.answer = jwks()
    clock.tick(600)
    with pytest.raises(KeysUnavailableError):
        await keys.current()


@pytest.mark.asyncio
async def test_unreachable(
    keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Without keys a delivery is asked to come again; the endpoint has a pause; the log tells why."""
    endpoint.answer = OSError("connection\nrefused")

    for _ in range(20):
        with pytest.raises(KeysUnavailableError) as caught:
            await keys.current()
        assert (caught.value.reason, caught.value.status_hint) == (Reason.KEYS_UNREACHABLE, 503)
        assert caught.value.facts["problem"] == r"OSError connection\nrefused"
        assert keys.url in caught.value.explain()
    assert endpoint.fetches == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert r"OSError connection\nrefused" in caplog.text

    endpoint.answer = OLD
    clock.tick(5)
    assert (await keys.current()).kids == (KID,)


@pytest.mark.asyncio
async def test_a_hundred_forged_keys(keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock) -> None:
    """Tokens that name unknown keys, at once or one after the other, cost one fetch per cooldown."""
    verifier = WebhookVerifier(keys, clock=clock.clock)
    good = sign(BODY, PRIVATE, kid=KID, now=clock.now)
    await verifier.verify(BODY, good)
    assert endpoint.fetches == 1

    async def forge(number: int) -> None:
        with pytest.raises(InvalidTokenError) as caught:
            await verifier.verify(BODY, sign(BODY, OTHER, kid=f"forged-{number}", now=clock.now))
        assert caught.value.reason is Reason.UNKNOWN_KEY

    for number in range(10):
        await forge(number)
    assert endpoint.fetches == 1

    clock.tick(30)
    await asyncio.gather(*(forge(number) for number in range(100)))
    for number in range(10):
        await forge(number)
    assert endpoint.fetches == 2
    assert (await verifier.verify(BODY, good)).claims is not None


@pytest.mark.asyncio
async def test_a_rotated_key(keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock) -> None:
    """The first delivery signed with a new key fetches it; the others of that moment wait with it."""
    verifier = WebhookVerifier(keys, clock=clock.clock)
    await keys.current()
    endpoint.answer = NEW
    clock.tick(31)

    deliveries = await asyncio.gather(
        *(verifier.verify(BODY, sign(BODY, OTHER, kid="rotated", now=clock.now)) for _ in range(20))
    )

    assert len(deliveries) == 20
    assert endpoint.fetches == 2


@pytest.mark.asyncio
async def test_an_unknown_key_while_nobody_can_tell(keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock) -> None:
    """If newer keys can't be fetched, an unknown key is not the delivery's fault: 503. Known keys still work."""
    verifier = WebhookVerifier(keys, clock=clock.clock)
    await keys.current()
    endpoint.answer = OSError("refused")
    clock.tick(31)

    for _ in range(10):
        with pytest.raises(KeysUnavailableError) as caught:
            await verifier.verify(BODY, sign(BODY, OTHER, kid="rotated", now=clock.now))
        assert caught.value.reason is Reason.KEYS_UNREACHABLE
        assert caught.value.__context__ is None
    assert endpoint.fetches == 2
    assert (await verifier.verify(BODY, sign(BODY, PRIVATE, kid=KID, now=clock.now))).webhook_id == 123

    endpoint.answer = OLD
    clock.tick(5)
    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            await verifier.verify(BODY, sign(BODY, OTHER, kid="rotated", now=clock.now))
    assert endpoint.fetches == 3


@pytest.mark.asyncio
async def test_somebody_else_was_faster(keys: RemoteKeySet, endpoint: Endpoint, clock: FakeClock) -> None:
    """Who still holds the keys of before is given the present ones without a fetch."""
    before = await keys.current()
    clock.tick(600)
    present = await keys.current()
    clock.tick(31)

    assert await keys.newer_than(before) is present
    assert endpoint.fetches == 2


@pytest.mark.asyncio
async def test_cancelling_one_waiter(keys: RemoteKeySet, endpoint: Endpoint) -> None:
    """A delivery that is given up doesn't take the fetch away from the others."""
    gate = endpoint.hold()
    waiters = [asyncio.create_task(keys.current()) for _ in range(3)]
    await until(lambda: endpoint.fetches == 1)

    waiters[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiters[0]
    gate.set()

    assert (await waiters[1]).kids == (await waiters[2]).kids == (KID,)
    assert (endpoint.fetches, endpoint.cancelled) == (1, 0)


@pytest.mark.asyncio
async def test_a_fetch_that_hangs(endpoint: Endpoint) -> None:
    """A fetch has its time; then it is cancelled and the delivery is asked to come again."""
    endpoint.hold()
    keys = RemoteKeySet(URL, endpoint.fetch, timeout=0.01)

    with pytest.raises(KeysUnavailableError) as caught:
        await keys.current()

    assert caught.value.facts["problem"] == "TimeoutError"
    assert endpoint.cancelled == 1


@pytest.mark.asyncio
async def test_a_fetch_that_cancels_itself(clock: FakeClock) -> None:
    """A fetch that ends in CancelledError doesn't cancel who waits for it."""

    async def fetch(_: str) -> bytes:
        raise asyncio.CancelledError

    with pytest.raises(KeysUnavailableError) as caught:
        await RemoteKeySet(URL, fetch, clock=clock.clock).current()

    assert caught.value.facts["problem"] == "the fetch was cancelled"


@pytest.mark.asyncio
async def test_warm_up_and_closing(endpoint: Endpoint, clock: FakeClock) -> None:
    """``async with`` fetches before the first delivery, and afterwards no delivery is taken."""
    async with RemoteKeySet(URL, endpoint.fetch, clock=clock.clock) as keys:
        assert endpoint.fetches == 1
        known = await keys.current()
        assert endpoint.fetches == 1

    for call in (keys.current(), keys.newer_than(known)):
        with pytest.raises(KeysUnavailableError) as caught:
            await call
        assert (caught.value.reason, caught.value.status_hint) == (Reason.KEYS_CLOSED, 503)
    await keys.aclose()
    assert endpoint.fetches == 1


@pytest.mark.asyncio
async def test_starting_while_jetpay_is_down(endpoint: Endpoint, clock: FakeClock) -> None:
    """An application starts without keys, and gets them when they are to be had."""
    endpoint.answer = OSError("refused")

    async with RemoteKeySet(URL, endpoint.fetch, clock=clock.clock) as keys:
        endpoint.answer = OLD
        clock.tick(5)
        assert (await keys.current()).kids == (KID,)


@pytest.mark.asyncio
async def test_closing_during_a_fetch(keys: RemoteKeySet, endpoint: Endpoint) -> None:
    """Closing cancels the fetch that is under way and releases who waits for it."""
    endpoint.hold()
    waiter = asyncio.create_task(keys.current())
    await until(lambda: endpoint.fetches == 1)

    async with asyncio.timeout(1):
        await keys.aclose()

    with pytest.raises(KeysUnavailableError) as caught:
        await waiter
    assert caught.value.reason is Reason.KEYS_CLOSED
    assert endpoint.cancelled == 1
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_closing_is_bounded(clock: FakeClock) -> None:
    """A fetch that ignores its cancellation holds closing up for no longer than a fetch may take."""
    stubborn = asyncio.Event()
    begun = asyncio.Event()

    async def fetch(_: str) -> bytes:
        begun.set()
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue
        return OLD

    keys = RemoteKeySet(URL, fetch, timeout=0.02, clock=clock.clock)
    waiter = asyncio.create_task(keys.current())
    await begun.wait()

    async with asyncio.timeout(1):
        await keys.aclose()
    stubborn.set()

    with pytest.raises(KeysUnavailableError):
        await waiter


def test_another_event_loop(endpoint: Endpoint, clock: FakeClock) -> None:
    """A fetch that was left behind in another event loop is not waited for."""
    keys = RemoteKeySet(URL, endpoint.fetch, clock=clock.clock)
    first = asyncio.new_event_loop()
    gate = endpoint.hold()
    left_behind = first.create_task(keys.current())
    first.run_until_complete(asyncio.sleep(0))
    first.run_until_complete(asyncio.sleep(0))
    assert endpoint.fetches == 1

    endpoint.open = None
    assert asyncio.run(keys.current()).kids == (KID,)
    assert endpoint.fetches == 2

    gate.set()
    assert first.run_until_complete(left_behind).kids == (KID,)
    first.close()


@pytest.mark.asyncio
async def test_no_stale_keys(endpoint: Endpoint, clock: FakeClock) -> None:
    """With max_stale=0 keys beyond their age are not used at all."""
    keys = RemoteKeySet(URL, endpoint.fetch, max_stale=0, clock=clock.clock)
    await keys.current()
    endpoint.answer = OSError("refused")
    clock.tick(600)

    with pytest.raises(KeysUnavailableError) as caught:
        await keys.current()
    assert caught.value.reason is Reason.KEYS_OUTDATED
