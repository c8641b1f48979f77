"""Why a delivery was rejected: the right cause, with the figures."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from jetpay_async import webhooks
from jetpay_async.webhooks import (
    InvalidTokenError,
    KeySet,
    PayloadMismatchError,
    Reason,
    StaleDeliveryError,
    WebhookError,
    explain,
    sign,
    verify,
)
from jetpay_async.webhooks._body_diagnosis import Cause, cause_of
from jetpay_async.webhooks._jwt import signer
from jetpay_async.webhooks._messages import CAUSES, EXPLANATIONS
from tests.webhooks.signing import HEADER, KEYS, KID, NOW, OTHER, PRIVATE, claims_for, jwk, jwks, token

if TYPE_CHECKING:
    from collections.abc import Callable

# What re-serialising changes: spaces, escapes, the form of a number, the line end.
DOCUMENT = {
    "webhookId": 123,
    "events": [
        {
            "id": 1,
            "createdAt": "2026-01-22T10:15:30.123456Z",
            "type": "users.updated",
            "data": {"name": "Zoë 🎉", "amount": 1.5},
        }
    ],
}
COMPACT = json.dumps(DOCUMENT, separators=(",", ":"), ensure_ascii=False).encode()
SPACED = json.dumps(DOCUMENT).encode()
LINES = json.dumps(DOCUMENT, indent=1).encode()


def zipped(body: bytes, level: int = 9, system: int = 3) -> bytes:
    packed = bytearray(gzip.compress(body, level, mtime=0))
    packed[9] = system
    return bytes(packed)


@pytest.mark.parametrize(
    ("signed", "received", "cause"),
    [
        (COMPACT, b"", Cause.EMPTY),
        (COMPACT, SPACED, Cause.REWRITTEN),
        (SPACED, COMPACT, Cause.REWRITTEN),
        (SPACED, json.dumps(DOCUMENT, ensure_ascii=False, indent=2).encode(), Cause.REWRITTEN),
        (json.dumps(DOCUMENT, ensure_ascii=False).encode(), COMPACT, Cause.REWRITTEN),
        (json.dumps(DOCUMENT, separators=(",", ":")).encode(), COMPACT, Cause.REWRITTEN),
        (COMPACT, json.dumps(COMPACT.decode()).encode(), Cause.REWRITTEN),
        (COMPACT, COMPACT + b"\n", Cause.TRIMMED),
        (COMPACT + b"\n", COMPACT, Cause.TRIMMED),
        (COMPACT + b"\r\n", COMPACT, Cause.TRIMMED),
        (LINES, LINES.replace(b"\n", b"\r\n"), Cause.LINE_ENDS),
        (LINES.replace(b"\n", b"\r\n"), LINES, Cause.LINE_ENDS),
        (COMPACT.decode("latin-1").encode(), COMPACT, Cause.RECODED),
        (COMPACT, COMPACT.decode("latin-1").encode(), Cause.RECODED),
        (COMPACT, COMPACT.decode().encode("utf-16"), Cause.RECODED),
        (zipped(COMPACT), COMPACT, Cause.DECOMPRESSED),
        (zipped(COMPACT, 6), COMPACT, Cause.DECOMPRESSED),
        (zipped(COMPACT, 1, 255), COMPACT, Cause.DECOMPRESSED),
        (zlib.compress(COMPACT), COMPACT, Cause.DECOMPRESSED),
        (COMPACT, gzip.compress(COMPACT), Cause.COMPRESSED),
        (COMPACT, zlib.compress(COMPACT), Cause.COMPRESSED),
        (COMPACT, b64encode(COMPACT), Cause.BASE64),
        (COMPACT, COMPACT.replace(b"1.5", b"9.5"), Cause.OTHER),
        (COMPACT, b"\x00\xff", Cause.OTHER),
        (COMPACT, b"[" * 20_000, Cause.OTHER),
        (COMPACT, b'"\\ud800"', Cause.OTHER),
        (COMPACT, b"1" * 5000, Cause.OTHER),
        (b"x" * 32_767, b"x" * 32_767 + b"\n", Cause.TRIMMED),
        (b"x" * 32_768, b"x" * 32_768 + b"\n", Cause.OTHER),
    ],
)
def test_what_happened_to_the_body(signed: bytes, received: bytes, cause: Cause) -> None:
    """The usual things that frameworks and proxies do to a body are recognised, and said."""
    with pytest.raises(PayloadMismatchError) as caught:
        verify(received, sign(signed, PRIVATE, kid=KID, now=NOW), keys=KEYS, now=NOW)

    assert caught.value.facts == {"size": len(received), "cause": cause}
    assert CAUSES[cause] in caught.value.explain()
    assert f"these {len(received)} bytes" in caught.value.explain()


def test_no_bomb() -> None:
    """A compressed body is not inflated beyond a bound."""
    bomb = gzip.compress(b" " * 20_000_000)

    assert len(bomb) < 32 * 1024
    assert cause_of(bomb, hashlib.sha256(b" " * 20_000_000).digest()) is Cause.OTHER


def test_every_reason_is_explained() -> None:
    """Each reason and each cause has a text, there is no other text, and an error without facts shows its message."""
    assert set(EXPLANATIONS) == set(Reason)
    assert set(CAUSES) == set(Cause)
    for reason in Reason:
        assert WebhookError(reason).explain()
    assert WebhookError(Reason.EXPIRED).explain() == "the token has expired."


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (
            lambda: verify(b"", token(), keys=KEYS, now=NOW + 120, leeway=7),
            ["expired 30.0 s ago", "120.0 s ago", "7 s"],
        ),
        (lambda: verify(b"", token(), keys=KEYS, now=NOW - 97), ["97.0 s in the future", "clock is slow", "by 10 s"]),
        (lambda: verify(b"", token(key=OTHER), keys=KEYS, now=NOW), ["'2026-01' did not make", "another environment"]),
        (
            lambda: verify(b"", token({**HEADER, "kid": "k\n2"}), keys=KEYS, now=NOW),
            [r"'k\n2'", "the key set. "],
        ),
        (lambda: verify(b"", token({**HEADER, "jku": "x"}), keys=KEYS, now=NOW), ["(jku)"]),
        (lambda: verify(b"", token({**HEADER, "zip": "x"}), keys=KEYS, now=NOW), ["(zip)"]),
        (lambda: verify(b"", token(claims=claims_for(exp=None, iat=None)), keys=KEYS, now=NOW), ["lacks iat, exp"]),
        (
            lambda: verify(b"", token(claims=claims_for(iss="x", jti="")), keys=KEYS, now=NOW),
            ["but jti, iss does not"],
        ),
        (lambda: verify(b"", "Bearer " + "x" * 5000, keys=KEYS), ["5007 characters"]),
        (lambda: verify(b"xx", token(), keys=KEYS, max_body_bytes=1), ["2 bytes", "at most 1"]),
        (lambda: KeySet.from_jwks(jwks(jwk(PRIVATE.public_key(), use="enc"))), ["1 other keys"]),
    ],
)
def test_figures(judge: Callable[[], object], words: list[str]) -> None:
    """An explanation gives the figures that a person needs."""
    with pytest.raises(WebhookError) as caught:
        judge()

    explanation = caught.value.explain()
    assert all(word in explanation for word in words), explanation


def test_a_good_delivery_explained() -> None:
    """A delivery that is in order is said to be."""
    assert explain(COMPACT, sign(COMPACT, PRIVATE, kid=KID, now=NOW), keys=KEYS, now=NOW) == (
        "The delivery is authentic: webhook 123, signed at 2027-01-15 08:00:00 UTC, events: 1."
    )
    assert "authentic" in explain(COMPACT, sign(COMPACT, PRIVATE, kid=KID), keys=KEYS)


def test_a_stale_delivery_explained() -> None:
    """A recorded delivery is judged once more as of its signing: what else was wrong with it shows."""
    authorization = sign(COMPACT, PRIVATE, kid=KID, now=NOW)

    later = explain(SPACED, authorization, keys=KEYS, now=NOW + 86_400)
    earlier = explain(COMPACT, authorization, keys=KEYS, now=NOW - 60)

    assert later.startswith("The token expired 86310.0 s ago")
    assert "As of its signing: The token is valid, but was signed for another body" in later
    assert "As of its signing: The delivery is authentic" in earlier


@pytest.mark.parametrize("claims", [{"exp": 1}, {"nbf": int(NOW) + 1000}], ids=str)
def test_a_token_that_never_holds(claims: dict[str, int]) -> None:
    """A token that expires before it is issued, or begins later, is explained too, and not for ever."""
    text = explain(b"", token(claims=claims_for(**claims)), keys=KEYS, now=NOW)

    assert text.count("As of its signing") == 1


def test_mixed_up_keys_explained() -> None:
    """A signature by another key of the set is recognised."""
    keys = KeySet.from_jwks(jwks(jwk(PRIVATE.public_key()), jwk(OTHER.public_key(), "other")))

    assert "The key 'other' of the set did" in explain(b"", token(key=OTHER), keys=keys, now=NOW)
    assert "of the set did" not in explain(b"", token()[:-4] + "AAAA", keys=keys, now=NOW)


def test_the_signer() -> None:
    """The key that signed a token is found among those of a set; what is no token has none."""
    assert signer(token(), KEYS) in list(KEYS)
    assert signer(token(key=OTHER), KEYS) is None
    assert signer(None, KEYS) is None


@pytest.mark.parametrize("authorization", [None, "", "x", "Bearer x", token()[:-1]])
def test_any_rejection_explained(authorization: str | None) -> None:
    """The longer explanation begins with the error's own."""
    with pytest.raises(InvalidTokenError) as caught:
        verify(COMPACT, authorization, keys=KEYS, now=NOW)

    assert explain(COMPACT, authorization, keys=KEYS, now=NOW) == caught.value.explain()


def test_errors_by_hand() -> None:
    """Users can make errors for their own tests; they compare by what they carry."""
    error = StaleDeliveryError(Reason.EXPIRED, {"late_by": 1.0, "age": 91.0, "leeway": 0.0})

    assert error.reason == "expired"
    assert repr(error).startswith("StaleDeliveryError(<Reason.EXPIRED: 'expired'>, {'late_by': 1.0")
    assert (error.operation, error.debit_id, error.status, error.attempts) == (None, None, None, 0)
    assert not error.retryable
    assert webhooks.KeysUnavailableError(Reason.KEYS_CLOSED).retryable
