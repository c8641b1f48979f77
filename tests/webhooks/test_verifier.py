"""Verifying and decoding in one step, and finding the token among the headers of any framework."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks import (
    ForeignDeliveryError,
    InvalidTokenError,
    MalformedDeliveryError,
    Reason,
    RemoteKeySet,
    StaleDeliveryError,
    TransactionPaid,
    WebhookError,
    WebhookVerifier,
    authorization_of,
    sign,
)
from tests.webhooks.receiving import FakeClock, body_of, document
from tests.webhooks.signing import KEYS, KID, OTHER, PRIVATE, jwk, jwks, shown_by

BODY = body_of([document(7)])


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.mark.asyncio
@pytest.mark.parametrize("remote", [False, True], ids=["pinned", "fetched"])
async def test_a_delivery(clock: FakeClock, *, remote: bool) -> None:
    """With pinned keys as with fetched ones, a delivery is verified, decoded and has its claims."""

    async def fetch(_: str) -> bytes:
        return jwks(jwk(PRIVATE.public_key()))

    keys = RemoteKeySet("https://api.baselinepayments.com", fetch, clock=clock.clock) if remote else KEYS
    verifier = WebhookVerifier(keys, clock=clock.clock)

    delivery = await verifier.verify(BODY, sign(BODY, PRIVATE, kid=KID, now=clock.now))

    (event,) = delivery.events
    assert isinstance(event, TransactionPaid)
    assert (delivery.webhook_id, event.id, event.transaction_id) == (123, 7, "t-7")
    assert delivery.claims is not None
    assert delivery.claims.iat == clock.now


@pytest.mark.asyncio
async def test_time_comes_from_the_clock(clock: FakeClock) -> None:
    """The verifier's clock and leeway decide what is stale."""
    authorization = sign(BODY, PRIVATE, kid=KID, now=clock.now)
    clock.tick(95)

    assert (await WebhookVerifier(KEYS, clock=clock.clock).verify(BODY, authorization)).webhook_id == 123
    with pytest.raises(StaleDeliveryError):
        await WebhookVerifier(KEYS, leeway=5, clock=clock.clock).verify(BODY, authorization)


@pytest.mark.asyncio
async def test_the_age_of_a_token(clock: FakeClock) -> None:
    """The verifier's max_token_age narrows what the token itself allows, and is checked when the verifier is made."""
    verifier = WebhookVerifier(KEYS, max_token_age=30, leeway=0, clock=clock.clock)
    authorization = sign(BODY, PRIVATE, kid=KID, now=clock.now)

    clock.tick(29)
    await verifier.verify(BODY, authorization)
    clock.tick(1)
    with pytest.raises(StaleDeliveryError) as caught:
        await verifier.verify(BODY, authorization)
    assert caught.value.reason is Reason.TOO_OLD
    with pytest.raises(InvalidArgumentError, match="max_token_age"):
        WebhookVerifier(KEYS, max_token_age=0)


@pytest.mark.parametrize("leeway", [-1, 301, float("nan")])
def test_a_leeway_is_checked_at_once(leeway: float) -> None:
    """A leeway that would let anything pass is rejected when the verifier is made, not at the first delivery."""
    with pytest.raises(InvalidArgumentError, match="leeway"):
        WebhookVerifier(KEYS, leeway=leeway)


@pytest.mark.asyncio
async def test_whose_webhook_it_is(clock: FakeClock) -> None:
    """An authentic delivery for a webhook that isn't mine is rejected, if I say which are mine."""
    authorization = sign(BODY, PRIVATE, kid=KID, now=clock.now)

    mine = WebhookVerifier(KEYS, webhook_ids={5, 123}, clock=clock.clock)
    assert (await mine.verify(BODY, authorization)).webhook_id == 123

    with pytest.raises(ForeignDeliveryError) as caught:
        await WebhookVerifier(KEYS, webhook_ids={5}, clock=clock.clock).verify(BODY, authorization)
    assert (caught.value.reason, caught.value.status_hint) == (Reason.WRONG_WEBHOOK, 403)
    assert "webhook 123" in caught.value.explain()


@pytest.mark.parametrize("ids", [frozenset[int](), 123, "123", {"123"}, {123.0}, {True}, [123, None]], ids=repr)
def test_ids_that_no_delivery_can_have_are_rejected_at_once(ids: Any) -> None:
    """A mistake in the numbers of my webhooks shows where it is made, and not in each delivery."""
    with pytest.raises(InvalidArgumentError, match="webhook_ids: pass the numbers"):
        WebhookVerifier(KEYS, webhook_ids=ids)


@pytest.mark.asyncio
async def test_ids_are_read_once(clock: FakeClock) -> None:
    """What can be iterated once serves all deliveries, and what is changed later changes nothing."""
    ids: Any = iter([123])
    verifier = WebhookVerifier(KEYS, webhook_ids=ids, clock=clock.clock)

    for _ in range(2):
        assert (await verifier.verify(BODY, sign(BODY, PRIVATE, kid=KID, now=clock.now))).webhook_id == 123


def keyed(clock: FakeClock) -> WebhookVerifier:
    return WebhookVerifier(KEYS, callback_api_key="s3cret-é", callback_api_key_header="X-Api-Key", clock=clock.clock)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("sent", "accepted"),
    [
        pytest.param([("x-api-key", "s3cret-é")], True, id="right"),
        pytest.param([(b"X-API-KEY", "s3cret-é".encode())], True, id="bytes"),
        pytest.param([("x-api-key", "s3cret-é"), ("x-api-key", "s3cret-é")], True, id="twice the same"),
        pytest.param([], False, id="none"),
        pytest.param([("x-api-key", "")], False, id="empty"),
        pytest.param([("x-api-key", "s3cret-è")], False, id="wrong"),
        pytest.param([("x-api-key", "s3cret-é"), ("x-api-key", "other")], False, id="two"),
        pytest.param([("other", "s3cret-é")], False, id="another header"),
        pytest.param([("x-api-key", "\ud800")], False, id="no text"),
    ],
)
async def test_the_callbacks_key(clock: FakeClock, sent: list[tuple[str, str]], *, accepted: bool) -> None:
    """An authentic delivery without the key that the webhook was registered with is somebody else's."""
    headers = [("Authorization", sign(BODY, PRIVATE, kid=KID, now=clock.now)), *sent]

    if accepted:
        await keyed(clock).check_headers(headers)
        assert (await keyed(clock).verify(BODY, headers=headers)).webhook_id == 123
        return
    with pytest.raises(ForeignDeliveryError):
        await keyed(clock).check_headers(headers)
    with pytest.raises(ForeignDeliveryError) as caught:
        await keyed(clock).verify(BODY, headers=headers)
    assert (caught.value.reason, caught.value.status_hint) == (Reason.WRONG_CALLBACK_KEY, 403)
    assert "X-Api-Key" in caught.value.explain()
    assert "s3cret" not in shown_by(caught.value)
    assert "s3cret" not in repr(keyed(clock))


@pytest.mark.asyncio
async def test_a_key_is_asked_for_after_the_token(clock: FakeClock) -> None:
    """Who has no token of Jetpay's does not learn whether the key was right."""
    with pytest.raises(InvalidTokenError):
        await keyed(clock).verify(BODY, headers={"X-Api-Key": "s3cret-é"})


@pytest.mark.asyncio
async def test_a_key_needs_the_headers(clock: FakeClock) -> None:
    """A route that passes no headers is told so, instead of rejecting every delivery."""
    with pytest.raises(ConfigurationError, match=r"headers=request\.headers"):
        await keyed(clock).verify(BODY, sign(BODY, PRIVATE, kid=KID, now=clock.now))


@pytest.mark.parametrize(
    "settings",
    [
        {"callback_api_key": "k"},
        {"callback_api_key_header": "X-Api-Key"},
        {"callback_api_key": "", "callback_api_key_header": "X-Api-Key"},
        {"callback_api_key": "k", "callback_api_key_header": ""},
    ],
    ids=str,
)
def test_a_key_has_a_header(settings: dict[str, str]) -> None:
    """The vendor doesn't publish the header's name, so it is never guessed; an empty key protects nothing."""
    with pytest.raises(ConfigurationError, match="callback_api_key_header"):
        WebhookVerifier(KEYS, **settings)  # type: ignore[arg-type] # by name


def test_who_accepts_any_webhook() -> None:
    """Without ids and without a key, the deliveries of any customer of Jetpay are accepted."""
    assert WebhookVerifier(KEYS).accepts_any_webhook
    assert not WebhookVerifier(KEYS, webhook_ids={1}).accepts_any_webhook
    assert not keyed(FakeClock()).accepts_any_webhook


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_headers_and_bytes_of_any_kind(clock: FakeClock, kind: type[bytes]) -> None:
    """The token is found among the headers, and the body may be any object that holds bytes."""
    headers = {"authorization": [sign(BODY, PRIVATE, kid=KID, now=clock.now)]}

    delivery = await WebhookVerifier(KEYS, clock=clock.clock).verify(kind(BODY), headers=headers)

    assert [event.webhook_id for event in delivery.events] == [123]


@pytest.mark.asyncio
async def test_two_tokens_among_the_headers(clock: FakeClock) -> None:
    """Two different Authorization headers are a rejection like any other."""
    headers = {"Authorization": ["Bearer hush", "Bearer hush-hush"]}

    with pytest.raises(InvalidTokenError) as caught:
        await WebhookVerifier(KEYS, clock=clock.clock).verify(BODY, headers=headers)
    assert caught.value.reason is Reason.SEVERAL_TOKENS
    assert "hush" not in shown_by(caught.value)


@pytest.mark.asyncio
async def test_the_body_is_read_last(clock: FakeClock) -> None:
    """What isn't a delivery is told so only to who signed it."""
    verifier = WebhookVerifier(KEYS, max_body_bytes=1000, clock=clock.clock)

    with pytest.raises(InvalidTokenError):
        await verifier.verify(b"[]", None)
    with pytest.raises(MalformedDeliveryError) as caught:
        await verifier.verify(b"[]", sign(b"[]", PRIVATE, kid=KID, now=clock.now))
    assert caught.value.reason is Reason.MALFORMED_BODY
    with pytest.raises(MalformedDeliveryError) as caught:
        await verifier.verify(b" " * 1001, None)
    assert caught.value.reason is Reason.BODY_TOO_LARGE


@pytest.mark.asyncio
@pytest.mark.parametrize("remote", [False, True], ids=["pinned", "fetched"])
async def test_an_error_holds_nothing_of_the_delivery(clock: FakeClock, *, remote: bool) -> None:
    """Neither the token nor the body are in an error: in no text, pickle, cause or frame of ours."""

    async def fetch(_: str) -> bytes:
        return jwks(jwk(PRIVATE.public_key()))

    keys = RemoteKeySet("https://api.baselinepayments.com", fetch, clock=clock.clock) if remote else KEYS
    verifier = WebhookVerifier(keys, clock=clock.clock)
    body = b'{"hush-hush"'
    tokens = [
        sign(body, PRIVATE, kid=KID, now=clock.now),
        sign(body, PRIVATE, kid=KID, now=0),
        sign(body, PRIVATE, kid="unknown", now=clock.now),
    ]

    for authorization in tokens:
        with pytest.raises(WebhookError) as caught:
            await verifier.verify(body, authorization)
        text = shown_by(caught.value)

        assert "hush-hush" not in text
        assert not any(segment in text for segment in authorization.split("."))


@pytest.mark.asyncio
async def test_only_an_unknown_key_leads_to_a_fetch(clock: FakeClock) -> None:
    """A token that is bad in another way is rejected without asking for newer keys."""
    fetches = 0

    async def fetch(_: str) -> bytes:
        nonlocal fetches
        fetches += 1
        return jwks(jwk(PRIVATE.public_key()))

    verifier = WebhookVerifier(
        RemoteKeySet("https://api.baselinepayments.com", fetch, clock=clock.clock), clock=clock.clock
    )
    for authorization in (None, sign(BODY, OTHER, kid=KID, now=clock.now), sign(BODY, PRIVATE, kid=KID, now=0)):
        with pytest.raises(WebhookError):
            await verifier.verify(BODY, authorization)
        clock.tick(40)

    assert fetches == 1


def test_no_loop_is_needed_to_make_one() -> None:
    """A verifier can be made before the event loop runs, and used in any."""
    verifier = WebhookVerifier(KEYS)

    for _ in range(2):
        assert asyncio.run(verifier.verify(BODY, sign(BODY, PRIVATE, kid=KID))).webhook_id == 123


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Authorization": "Bearer x"}, "Bearer x"),
        ({"AUTHORIZATION": "Bearer x", "Host": "h"}, "Bearer x"),
        (CIMultiDict({"authorization": "Bearer x"}), "Bearer x"),
        (CIMultiDictProxy(CIMultiDict({"Authorization": "Bearer x"})), "Bearer x"),
        ([(b"host", b"h"), (b"authorization", b"Bearer x")], "Bearer x"),
        ([("Authorization", "Bearer x")], "Bearer x"),
        ([(b"authorization", b"Bearer x"), (b"authorization", b"Bearer x")], "Bearer x"),
        (iter([(b"Authorization", b"")]), ""),
        ({"authorization": ["Bearer x"]}, "Bearer x"),
        ({"authorization": []}, None),
        ({}, None),
        ([], None),
        ({"Proxy-Authorization": "Bearer x"}, None),
    ],
    ids=[
        "dict",
        "upper case",
        "multidict",
        "proxy",
        "ASGI",
        "pairs",
        "twice the same",
        "empty",
        "list",
        "empty list",
        "{}",
        "[]",
        "another",
    ],
)
def test_finding_the_token(
    headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]], expected: str | bytes | None
) -> None:
    """The Authorization value is found whatever the mapping and the case of the names."""
    assert authorization_of(headers) == expected


def test_several_tokens() -> None:
    """Two different Authorization values are rejected, without showing them: readers might choose different ones."""
    headers = [(b"authorization", b"Bearer hush"), (b"Authorization", b"Bearer hush-hush")]

    with pytest.raises(InvalidTokenError) as caught:
        authorization_of(headers)

    assert (caught.value.reason, caught.value.status_hint) == (Reason.SEVERAL_TOKENS, 401)
    assert "hush" not in shown_by(caught.value)
