"""The heart: what is verified, in which order, and what each rejection is called."""

from __future__ import annotations

import hashlib
import pickle
import time
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from jetpay_async._core import json
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks import (
    InvalidTokenError,
    KeySet,
    MalformedDeliveryError,
    PayloadMismatchError,
    Reason,
    StaleDeliveryError,
    WebhookError,
    sign,
    verify,
)
from tests.webhooks.signing import (
    BODY,
    HEADER,
    KEYS,
    KID,
    NOW,
    OTHER,
    PRIVATE,
    base64url,
    claims_for,
    jwk,
    jwks,
    shown_by,
    token,
)

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

PADDED = urlsafe_b64encode(hashlib.sha256(BODY).digest()).decode()


def rejected(
    authorization: str | bytes | None,
    *,
    body: bytes = BODY,
    keys: KeySet = KEYS,
    now: float = NOW,
    leeway: float = 10.0,
) -> WebhookError:
    with pytest.raises(WebhookError) as caught:
        verify(body, authorization, keys=keys, now=now, leeway=leeway)
    return caught.value


def test_a_good_delivery() -> None:
    """What `sign` signs is verified, and the claims are the token's."""
    claims = verify(BODY, sign(BODY, PRIVATE, kid=KID, now=NOW, claims={"jti": "j"}), keys=KEYS, now=NOW)

    assert claims.jti == "j"
    assert (claims.iat, claims.exp, claims.iss, claims.sub) == (NOW, NOW + 90, "jetpay", "webhook")
    assert claims.payload_hash == PADDED.rstrip("=")
    assert claims.issued_at == datetime.fromtimestamp(NOW, UTC)
    assert (claims.expires_at - claims.issued_at).total_seconds() == 90


def test_the_present_is_the_default() -> None:
    """Without ``now`` the token is judged by this host's clock."""
    assert verify(BODY, sign(BODY, PRIVATE, kid=KID), keys=KEYS).iat <= time.time()
    with pytest.raises(StaleDeliveryError):
        verify(BODY, sign(BODY, PRIVATE, kid=KID, now=time.time() - 3600), keys=KEYS)


@pytest.mark.parametrize(
    "authorization",
    [
        token(),
        token().replace("Bearer", "bearer"),
        token().replace("Bearer", "BEARER"),
        token().encode(),
        token({**HEADER, "typ": "JWT"}),
        token({"typ": "anything", "kid": KID, "alg": "RS256"}),
        token({**HEADER, "cty": "json"}),
        token({**HEADER, "typ": "JWT", "x5t": "dGh1bWI", "x5t#S256": "dGh1bWI"}),
        token({**HEADER, "unheard of": {"nested": [1]}}),
        token(b' {"kid" : "2026-01",\n"alg":"RS256"} '),
        token(b'{"k\\u0069d":"2026-01","alg":"RS256"}'),
        token(claims=claims_for(payload_hash=PADDED)),
        token(claims=claims_for(unknown={"nested": [{"a": 1}, {"a": 2}]}, jti="a:b:c")),
        token(claims=claims_for(nbf=int(NOW))),
        token(claims=claims_for(nbf=int(NOW) + 10)),
        token(claims=claims_for(nbf=0)),
        token(claims=b" " + json.dump(claims_for())),
        token(claims=json.dump(claims_for()).replace(b"1800000000", b"1800000000.25")),
        token(claims=json.dump(claims_for()).replace(b"1800000000", b"18e8")),
    ],
)
def test_accepted(authorization: str | bytes) -> None:
    """Whatever is Jetpay's is accepted: any case of the scheme, padding of the hash, further claims, fractions."""
    assert verify(BODY, authorization, keys=KEYS, now=NOW + 1).jti


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, Reason.MISSING_TOKEN),
        ("", Reason.MISSING_TOKEN),
        (b"", Reason.MISSING_TOKEN),
        ("Basic YTpi", Reason.WRONG_SCHEME),
        (token().removeprefix("Bearer "), Reason.WRONG_SCHEME),
        (token().replace("Bearer ", "Bearer"), Reason.WRONG_SCHEME),
        (token().replace("Bearer ", "Bearer\t"), Reason.WRONG_SCHEME),
        (" " + token(), Reason.WRONG_SCHEME),
        ("Bearer", Reason.MALFORMED_TOKEN),
        ("Bearer ", Reason.MALFORMED_TOKEN),
        ("Bearer x", Reason.MALFORMED_TOKEN),
        ("Bearer ..", Reason.MALFORMED_TOKEN),
        ("Bearer é.é.é", Reason.MALFORMED_TOKEN),
        ("Bearer \ud800", Reason.MALFORMED_TOKEN),
        (b"Bearer \xff.\xff.\xff", Reason.MALFORMED_TOKEN),
        (token().replace("Bearer ", "Bearer  "), Reason.MALFORMED_TOKEN),
        (token() + " ", Reason.MALFORMED_TOKEN),
        (token() + "\n", Reason.MALFORMED_TOKEN),
        (token() + "=", Reason.MALFORMED_TOKEN),
        (token() + "==", Reason.MALFORMED_TOKEN),
        (token() + ".", Reason.BAD_SIGNATURE),
        (token() + f", {token()}", Reason.BAD_SIGNATURE),
        (token(b"[]"), Reason.MALFORMED_TOKEN),
        (token(b"{"), Reason.MALFORMED_TOKEN),
        (token(b"\xff"), Reason.MALFORMED_TOKEN),
        (token(b'{"alg":' + b"[" * 2000), Reason.MALFORMED_TOKEN),
        (token(b'{"alg":"RS256","kid":"2026-01","new":' + b"[" * 2000), Reason.MALFORMED_TOKEN),
        (token({"alg": "RS256"}), Reason.MALFORMED_TOKEN),
        (token({"alg": "RS256", "kid": ""}), Reason.MALFORMED_TOKEN),
        (token({"alg": "RS256", "kid": 1}), Reason.MALFORMED_TOKEN),
        (token({"alg": "RS256", "kid": None}), Reason.MALFORMED_TOKEN),
        (token({**HEADER, "typ": 1}), Reason.MALFORMED_TOKEN),
        (token({**HEADER, "typ": None}), Reason.MALFORMED_TOKEN),
        (token(b'{"alg":"RS256","kid":"2026-01","kid":"2026-01"}'), Reason.MALFORMED_TOKEN),
        (token(b'{"alg":"none","alg":"RS256","kid":"2026-01"}'), Reason.MALFORMED_TOKEN),
        (token(b'{"alg":"RS256","kid":"x","typ":"JWT","k\\u0069d":"2026-01"}'), Reason.MALFORMED_TOKEN),
        (token({"kid": KID}), Reason.WRONG_ALGORITHM),
        (token({**HEADER, "alg": "none"}), Reason.WRONG_ALGORITHM),
        (token({**HEADER, "alg": "None"}), Reason.WRONG_ALGORITHM),
        (token({**HEADER, "alg": "HS256"}), Reason.WRONG_ALGORITHM),
        (token({**HEADER, "alg": "RS512"}), Reason.WRONG_ALGORITHM),
        (token({**HEADER, "alg": "PS256"}), Reason.WRONG_ALGORITHM),
        (token({**HEADER, "alg": "rs256"}), Reason.WRONG_ALGORITHM),
        (token({**HEADER, "alg": "ES256"}), Reason.WRONG_ALGORITHM),
        (token({**HEADER, "alg": ["RS256"]}), Reason.WRONG_ALGORITHM),
        (token({**HEADER, "crit": ["exp"]}), Reason.FORBIDDEN_HEADER),
        (token({**HEADER, "crit": []}), Reason.FORBIDDEN_HEADER),
        (token({**HEADER, "jku": "https://evil.example/jwks.json"}), Reason.FORBIDDEN_HEADER),
        (token({**HEADER, "jwk": jwk(PRIVATE.public_key())}), Reason.FORBIDDEN_HEADER),
        (token({**HEADER, "x5u": "https://evil.example/"}), Reason.FORBIDDEN_HEADER),
        (token({**HEADER, "x5c": []}), Reason.FORBIDDEN_HEADER),
        (token({**HEADER, "b64": False}), Reason.FORBIDDEN_HEADER),
        (token({**HEADER, "zip": "DEF"}), Reason.FORBIDDEN_HEADER),
        (token({**HEADER, "enc": "A128GCM"}), Reason.FORBIDDEN_HEADER),
        (token({**HEADER, "typ": "JWT", "unheard of": {"crit": 1}, "crit": ["exp"]}), Reason.FORBIDDEN_HEADER),
        (token({**HEADER, "cty": 1}), Reason.MALFORMED_TOKEN),
        (token({**HEADER, "x5t": None}), Reason.MALFORMED_TOKEN),
        (token(b'{"alg":"RS256","kid":"2026-01","new":1,"new":2}'), Reason.MALFORMED_TOKEN),
        (token({**HEADER, "kid": "another"}), Reason.UNKNOWN_KEY),
        (token({**HEADER, "kid": "2026-01 "}), Reason.UNKNOWN_KEY),
        (token(key=OTHER), Reason.BAD_SIGNATURE),
        (token().rpartition(".")[0] + ".", Reason.BAD_SIGNATURE),
        (token().rpartition(".")[0] + ".AAAA", Reason.BAD_SIGNATURE),
        (token().rpartition(".")[0] + "." + "A" * 2048, Reason.BAD_SIGNATURE),
        (token().rpartition(".")[0], Reason.BAD_SIGNATURE),
        (token().rpartition(".")[0] + "." + base64url(b"x" * 255), Reason.BAD_SIGNATURE),
        (token().rpartition(".")[0] + "." + base64url(b"\x00" + b"x" * 256), Reason.BAD_SIGNATURE),
        (token().rpartition(".")[0] + "." + base64url(b"\xff" * 256), Reason.BAD_SIGNATURE),
        (token().rpartition(".")[0] + ".+/==", Reason.MALFORMED_TOKEN),
        (token(claims=b"[]"), Reason.MALFORMED_TOKEN),
        (token(claims=b""), Reason.MALFORMED_TOKEN),
        (token(claims=b"\xff"), Reason.MALFORMED_TOKEN),
        (token(claims=b'{"x":' + b"[" * 2500), Reason.MALFORMED_TOKEN),
        (token(claims=json.dump(claims_for())[:-1] + b',"x":' + b"[" * 1500 + b"]" * 800), Reason.MALFORMED_TOKEN),
        (token(claims=json.dump(claims_for())[:-1] + b',"iss":"jetpay"}'), Reason.MALFORMED_TOKEN),
        (token(claims=json.dump(claims_for())[:-1] + b',"a":{"b":1,"b":2}}'), Reason.MALFORMED_TOKEN),
        *((token(claims=claims_for(**{name: None})), Reason.MISSING_CLAIM) for name in claims_for()),
        *((token(claims=claims_for(**{name: [1]})), Reason.INVALID_CLAIM) for name in claims_for()),
        *((token(claims=claims_for(**{name: ""})), Reason.INVALID_CLAIM) for name in claims_for()),
        *((token(claims=claims_for(**{name: True})), Reason.INVALID_CLAIM) for name in claims_for()),
        (token(claims=json.dump(claims_for()).replace(b"1800000000", b"null")), Reason.INVALID_CLAIM),
        (token(claims=claims_for(iss="https://jetpay")), Reason.INVALID_CLAIM),
        (token(claims=claims_for(sub="Webhook")), Reason.INVALID_CLAIM),
        (token(claims=claims_for(iat=str(int(NOW)))), Reason.INVALID_CLAIM),
        (token(claims=claims_for(iat=-1)), Reason.INVALID_CLAIM),
        (token(claims=claims_for(exp=253_402_300_800)), Reason.INVALID_CLAIM),
        (token(claims=claims_for(exp=10**400)), Reason.INVALID_CLAIM),
        (token(claims=json.dump(claims_for()).replace(b"1800000090", b"1e400")), Reason.INVALID_CLAIM),
        (token(claims=json.dump(claims_for()).replace(b"1800000090", b"1e-999999")), Reason.EXPIRED),
        (token(claims=claims_for(aud="somebody")), Reason.INVALID_CLAIM),
        (token(claims=claims_for(aud=[])), Reason.INVALID_CLAIM),
        (token(claims=claims_for(nbf="0")), Reason.INVALID_CLAIM),
        (token(claims=json.dump(claims_for())[:-1] + b',"nbf":null}'), Reason.INVALID_CLAIM),
        (token(claims=claims_for(payload_hash="x")), Reason.INVALID_CLAIM),
        (token(claims=claims_for(payload_hash=PADDED + "=")), Reason.INVALID_CLAIM),
        (token(claims=claims_for(payload_hash=PADDED[:-2])), Reason.INVALID_CLAIM),
        (token(claims=claims_for(payload_hash=PADDED[:20])), Reason.INVALID_CLAIM),
        (token(claims=claims_for(payload_hash="é" * 43)), Reason.INVALID_CLAIM),
        (token(claims=claims_for(payload_hash=hashlib.sha256(BODY).hexdigest())), Reason.INVALID_CLAIM),
        (token(claims=claims_for(payload_hash="A" * 43)), Reason.PAYLOAD_MISMATCH),
        (token(claims=claims_for(b"another body")), Reason.PAYLOAD_MISMATCH),
        (token(claims=claims_for(nbf=int(NOW) + 11)), Reason.NOT_YET_VALID),
    ],
)
def test_rejected(authorization: str | bytes | None, reason: Reason) -> None:
    """Whatever isn't Jetpay's, or isn't in order, is rejected, and the reason names the first thing that is wrong."""
    error = rejected(authorization)

    assert error.reason is reason
    assert error.status_hint == 401
    assert error.explain()


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (rejected(None), InvalidTokenError),
        (rejected(token(claims=claims_for(b"another body"))), PayloadMismatchError),
        (rejected(token(), now=NOW + 1000), StaleDeliveryError),
        (rejected("Bearer " + "A" * 5000), MalformedDeliveryError),
    ],
    ids=lambda value: getattr(value, "reason", None),
)
def test_the_class_tells_the_kind(reason: WebhookError, kind: type[WebhookError]) -> None:
    """A class each for: not authentic, authentic for another body, out of time, too large."""
    assert type(reason) is kind


@pytest.mark.parametrize("body", [BODY + b" ", BODY[:-1], b"", b"\x00" * 10])
def test_another_body(body: bytes) -> None:
    """A token vouches for one body, to the byte."""
    assert rejected(token(), body=body).reason is Reason.PAYLOAD_MISMATCH


@pytest.mark.parametrize(
    ("offset", "leeway", "reason"),
    [
        (-10.001, 10.0, Reason.NOT_YET_VALID),
        (-10.0, 10.0, None),
        (-0.001, 0.0, Reason.NOT_YET_VALID),
        (0.0, 0.0, None),
        (89.999, 0.0, None),
        (90.0, 0.0, Reason.EXPIRED),
        (99.999, 10.0, None),
        (100.0, 10.0, Reason.EXPIRED),
        (389.0, 300.0, None),
        (391.0, 300.0, Reason.EXPIRED),
        (float("nan"), 10.0, Reason.NOT_YET_VALID),
        (float("inf"), 10.0, Reason.EXPIRED),
        (float("-inf"), 10.0, Reason.NOT_YET_VALID),
    ],
)
def test_the_window(offset: float, leeway: float, reason: Reason | None) -> None:
    """A token holds from iat to exp, widened by the leeway on both sides; a clock that is no number fails."""
    if reason is None:
        assert verify(BODY, token(), keys=KEYS, now=NOW + offset, leeway=leeway).iat == NOW
    else:
        assert rejected(token(), now=NOW + offset, leeway=leeway).reason is reason


@pytest.mark.parametrize(
    ("offset", "reason"), [(39.999, None), (40.0, Reason.TOO_OLD), (99.0, Reason.TOO_OLD), (100.0, Reason.EXPIRED)]
)
def test_a_shorter_window(offset: float, reason: Reason | None) -> None:
    """With max_token_age a token is accepted for that time after its signing, and never beyond its own end."""
    authorization = token()

    if reason is None:
        assert verify(BODY, authorization, keys=KEYS, now=NOW + offset, max_token_age=30).iat == NOW
        return
    with pytest.raises(StaleDeliveryError) as caught:
        verify(BODY, authorization, keys=KEYS, now=NOW + offset, max_token_age=30)
    assert caught.value.reason is reason
    assert caught.value.explain()


@pytest.mark.parametrize("age", [0, -1, float("nan"), float("inf"), True])
def test_an_age_that_is_no_number_of_seconds(age: float) -> None:
    """A max_token_age that would accept nothing, or means nothing, is the caller's mistake, and said so."""
    with pytest.raises(InvalidArgumentError, match="max_token_age"):
        verify(BODY, token(), keys=KEYS, now=NOW, max_token_age=age)


def test_fractions_narrow_the_window() -> None:
    """A fraction of exp doesn't lengthen a token's life."""
    authorization = token(claims=claims_for(exp=Decimal("1800000090.75")))

    assert rejected(authorization, now=NOW + 90.5, leeway=0).reason is Reason.EXPIRED


@pytest.mark.parametrize("leeway", [-1, -0.001, 300.001, float("inf"), float("nan")])
def test_a_leeway_that_would_let_anything_pass(leeway: float) -> None:
    """A leeway beyond 0 to 300 seconds is the caller's mistake, and said so."""
    with pytest.raises(InvalidArgumentError, match="leeway"):
        verify(BODY, token(), keys=KEYS, now=NOW, leeway=leeway)


@pytest.mark.parametrize("body", ["{}", {}, None], ids=lambda body: type(body).__name__)
def test_a_body_that_is_not_bytes(body: bytes) -> None:
    """A parsed or decoded body is the caller's mistake, and said so without showing it."""
    with pytest.raises(InvalidArgumentError, match=r"raw bytes .*, not \w+;"):
        verify(body, token(), keys=KEYS, now=NOW)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_of_any_kind(kind: type[bytearray | memoryview]) -> None:
    """The bytes are what counts, not the object that holds them."""
    assert verify(kind(BODY), token(), keys=KEYS, now=NOW).iss == "jetpay"


def test_sizes() -> None:
    """A body or a token beyond its limit is rejected with 413 before anything is read."""
    body = b"x" * 100
    authorization = sign(body, PRIVATE, kid=KID, now=NOW)

    assert verify(body, authorization, keys=KEYS, now=NOW, max_body_bytes=100).iat == NOW
    with pytest.raises(MalformedDeliveryError) as caught:
        verify(body, authorization, keys=KEYS, now=NOW, max_body_bytes=99)
    assert (caught.value.reason, caught.value.status_hint) == (Reason.BODY_TOO_LARGE, 413)
    assert caught.value.facts == {"size": 100, "limit": 99}

    assert rejected(b"x" * 4096).reason is Reason.WRONG_SCHEME
    assert rejected("x" * 4097).reason is Reason.TOKEN_TOO_LARGE
    assert rejected(None, body=b"x" * (1024 * 1024 + 1)).reason is Reason.BODY_TOO_LARGE


@pytest.mark.parametrize(
    ("authorization", "body", "reason"),
    [
        (token({**HEADER, "alg": "HS256", "kid": "another", "jku": "x"}, key=OTHER), b"", Reason.WRONG_ALGORITHM),
        (token({**HEADER, "kid": "another"}, b"[]", key=OTHER), b"", Reason.UNKNOWN_KEY),
        (token(claims=b"[]", key=OTHER), b"", Reason.BAD_SIGNATURE),
        (token(claims=claims_for(iss="x", exp=0)), b"", Reason.INVALID_CLAIM),
        (token(claims=claims_for(exp=0, payload_hash="x")), b"", Reason.EXPIRED),
        (token(), b"", Reason.PAYLOAD_MISMATCH),
    ],
    ids=lambda value: value if isinstance(value, Reason) else "",
)
def test_the_order(authorization: str, body: bytes, reason: Reason) -> None:
    """The header comes before the key, the signature before the claims, the claims before the time, the body last."""
    assert rejected(authorization, body=body).reason is reason


def test_the_public_key_as_an_hmac_secret() -> None:
    """A token signed with HMAC and the public key as the secret is rejected before any key is looked at."""
    import hmac

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    secret = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{base64url(json.dump({**HEADER, 'alg': 'HS256'}))}.{base64url(json.dump(claims_for()))}"
    authorization = f"Bearer {signed}.{base64url(hmac.digest(secret, signed.encode(), 'sha256'))}"

    assert rejected(authorization).reason is Reason.WRONG_ALGORITHM
    assert rejected(authorization.rpartition(".")[0] + ".").reason is Reason.WRONG_ALGORITHM


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_key_sizes(bits: int) -> None:
    """Keys of the usual sizes verify."""
    private = generate_private_key(65537, bits)
    keys = KeySet.from_jwks(jwks(jwk(private.public_key())))

    assert verify(BODY, token(key=private), keys=keys, now=NOW).iat == NOW


def test_a_header_is_remembered_only_once_it_was_signed() -> None:
    """A forger can't fill the memory of headers, and a remembered header still needs a good signature."""
    keys = KeySet.from_jwks(jwks(jwk(PRIVATE.public_key())))
    header = token().removeprefix("Bearer ").partition(".")[0].encode()

    rejected(token(key=OTHER), keys=keys)
    assert keys.known_header(header) is None

    verify(BODY, token(), keys=keys, now=NOW)
    assert keys.known_header(header) is keys.find(KID)
    assert rejected(token(key=OTHER), keys=keys).reason is Reason.BAD_SIGNATURE


def test_the_memory_of_headers_is_bounded() -> None:
    """However many headers Jetpay signs, a bounded number is kept, and all verify."""
    keys = KeySet.from_jwks(jwks(jwk(PRIVATE.public_key())))
    headers: list[JSONValue] = [{**HEADER, "typ": f"JWT{index}"} for index in range(80)]

    for header in headers:
        verify(BODY, token(header), keys=keys, now=NOW)

    known = [keys.known_header(base64url(json.dump(header)).encode()) for header in headers]
    assert len(known) - known.count(None) == 64


SECRET_BODY = b'{"webhookId":123,"events":[],"secret":"hush-hush"}'


@pytest.mark.parametrize(
    "authorization",
    [
        sign(SECRET_BODY, PRIVATE, kid=KID, now=NOW - 1000),
        sign(b"another", PRIVATE, kid=KID, now=NOW),
        sign(SECRET_BODY, OTHER, kid=KID, now=NOW),
        sign(SECRET_BODY, PRIVATE, kid=KID, now=NOW, claims={"iss": "hush-hush"}),
        sign(SECRET_BODY, PRIVATE, kid=KID, now=NOW, claims={"iss": None}),
        sign(SECRET_BODY, PRIVATE, kid=KID, now=NOW, header={"alg": "hush-hush"}),
        sign(SECRET_BODY, PRIVATE, kid=KID, now=NOW, header={"hush-hush": "x", "crit": ["hush-hush"]}),
        sign(SECRET_BODY, PRIVATE, kid=KID, now=NOW, header={"typ": 1}),
        sign(SECRET_BODY, PRIVATE, kid="k" * 60 + "hush-hush", now=NOW),
        sign(SECRET_BODY, PRIVATE, kid=KID, now=NOW) + "=",
        sign(SECRET_BODY, PRIVATE, kid=KID, now=NOW)[:-300] + "*",
        "Bearer " + base64url(b'{"hush-hush"'),
        "hush-hush",
        "Bearer " + "hush-hush" * 1000,
    ],
)
def test_an_error_holds_nothing_of_the_delivery(authorization: str) -> None:
    """Neither the token, nor the body, nor claims are in an error: in no text, pickle, cause or frame of ours."""
    error = rejected(authorization, body=SECRET_BODY)
    text = shown_by(error)

    assert "hush-hush" not in text
    assert not any(segment in text for segment in authorization.split(".") if len(segment) > 20)


def test_errors_survive_pickling() -> None:
    """A pickled error comes back with its reason, its facts and its explanation."""
    error = rejected(token(), now=NOW + 200)

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is StaleDeliveryError
    assert (copy.reason, copy.facts, copy.explain()) == (error.reason, error.facts, error.explain())
    assert str(copy) == str(error) == "the token has expired"
