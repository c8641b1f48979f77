"""Total: any bytes in the body, the header and the key set end in a value or a WebhookError."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetpay_async.webhooks import KeySet, WebhookError, authorization_of, decode, explain, verify
from tests.webhooks.signing import BODY, KEYS, NOW, PRIVATE, base64url, claims_for, jwk, jwks, token

_SEGMENTS = (
    st.binary(max_size=60).map(base64url)
    | st.text("AQgwz_-=+/.\n é", max_size=20)
    | st.sampled_from(token().removeprefix("Bearer ").split("."))
)
_TOKENS = st.lists(_SEGMENTS, max_size=5).map(lambda segments: "Bearer " + ".".join(segments))
_AUTHORIZATIONS = st.none() | st.text(max_size=40) | st.binary(max_size=40) | _TOKENS


@given(st.binary(max_size=100), _AUTHORIZATIONS)
def test_any_token(body: bytes, authorization: str | bytes | None) -> None:
    """Whatever comes without a good signature is rejected, and can be explained."""
    with pytest.raises(WebhookError) as caught:
        verify(body, authorization, keys=KEYS, now=NOW)

    assert caught.value.status_hint in {401, 413}
    assert explain(body, authorization, keys=KEYS, now=NOW).startswith(caught.value.explain())


@given(st.binary(max_size=60), st.binary(max_size=120), st.binary(max_size=60))
def test_any_signed_bytes(header: bytes, claims: bytes, body: bytes) -> None:
    """Not even bytes that Jetpay signed raise anything but a WebhookError."""
    for authorization in (token(header), token(claims=claims)):
        with pytest.raises(WebhookError) as caught:
            verify(body, authorization, keys=KEYS, now=NOW)
        assert caught.value.status_hint == 401


@given(st.binary(max_size=200))
def test_any_body(body: bytes) -> None:
    """Any signed body is verified; decoding it gives a delivery or a rejection."""
    assert verify(body, token(claims=claims_for(body)), keys=KEYS, now=NOW).jti
    try:
        decode(body)
    except WebhookError as error:
        assert error.status_hint == 400


@given(st.binary(max_size=200), st.integers(0, 500))
def test_any_key_set(noise: bytes, position: int) -> None:
    """Any bytes, also those of a key set with others put into it, are a key set or a WebhookError."""
    good = jwks(jwk(PRIVATE.public_key()))
    for document in (noise, good[:position] + noise + good[position:]):
        try:
            keys = KeySet.from_jwks(document)
        except WebhookError as error:
            assert error.status_hint == 503
        else:
            assert len(keys) >= 1


@given(st.lists(st.tuples(st.binary(max_size=15), st.binary(max_size=10))))
def test_any_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """Any header pairs have one Authorization value, none, or are rejected."""
    try:
        found = authorization_of([*headers, (b"aUthorization", BODY)])
    except WebhookError as error:
        assert error.status_hint == 401
    else:
        assert found == BODY.decode()
