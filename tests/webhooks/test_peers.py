"""Whatever is accepted here, two independent JWT libraries accept too, with strict options."""

from __future__ import annotations

import json
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

import jwt
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from joserfc import jwk as jose_jwk
from joserfc import jwt as jose_jwt
from joserfc.jws import JWSRegistry
from jwt import api_jwt

from jetpay_async._core import json as api_json
from jetpay_async.webhooks import WebhookError, verify
from tests.webhooks.signing import BODY, HEADER, KEYS, KID, NOW, OTHER, PRIVATE, claims_for, jwk, token

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

LEEWAY = 10
# joserfc rejects a header of more than 512 bytes unread.
MAX_JOSERFC_HEADER = 300
REQUIRED = ["jti", "iat", "exp", "iss", "sub", "payload_hash"]
JWK = jwk(PRIVATE.public_key())
PYJWT_KEY = jwt.PyJWK(JWK)
JOSERFC_KEYS = jose_jwk.KeySet.import_key_set(json.loads(json.dumps({"keys": [JWK]})))


class Then(datetime):
    """The moment at which all libraries judge."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # what PyJWT calls
        return datetime.fromtimestamp(NOW, tz or UTC)


@pytest.fixture(autouse=True)
def pyjwt_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyJWT takes the time from nowhere else."""
    monkeypatch.setattr(api_jwt, "datetime", Then)


def accepted_by_pyjwt(authorization: str) -> bool:
    try:
        jwt.decode(
            authorization.partition(" ")[2],
            PYJWT_KEY,
            algorithms=["RS256"],
            issuer="jetpay",
            subject="webhook",
            leeway=LEEWAY,
            options={"require": REQUIRED, "strict_aud": True, "enforce_minimum_key_length": True},
        )
    except jwt.InvalidTokenError:
        return False
    return True


def accepted_by_joserfc(authorization: str) -> bool:
    registry = jose_jwt.JWTClaimsRegistry(
        now=int(NOW),
        leeway=LEEWAY,
        iss={"essential": True, "value": "jetpay"},
        sub={"essential": True, "value": "webhook"},
        jti={"essential": True},
        iat={"essential": True},
        exp={"essential": True},
        payload_hash={"essential": True},
    )
    lenient = JWSRegistry(algorithms=["RS256"], strict_check_header=False)
    try:
        decoded = jose_jwt.decode(authorization.partition(" ")[2], JOSERFC_KEYS, registry=lenient)
        registry.validate(decoded.claims)
    except Exception:  # noqa: BLE001 - it has errors of several families, and lets some of others through
        return False
    return True


def accepted_here(authorization: str) -> bool:
    try:
        verify(BODY, authorization, keys=KEYS, now=NOW, leeway=LEEWAY)
    except WebhookError:
        return False
    return True


def check(authorization: str) -> bool:
    """Judge a token everywhere; return whether it is accepted here."""
    if not accepted_here(authorization):
        return False
    assert accepted_by_pyjwt(authorization)
    assert accepted_by_joserfc(authorization)
    return True


_SCALARS = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        int(NOW),
        int(NOW) + 9,
        int(NOW) + 10,
        int(NOW) + 11,
        int(NOW) - 10,
        int(NOW) - 9,
        2**60,
        10**400,
        -1,
        "",
        "x",
        "RS256",
        "JWT",
        KID,
        "jetpay",
        "webhook",
    ]
)
_VALUES = _SCALARS | st.lists(_SCALARS, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), _SCALARS, max_size=2)
_HEADERS = st.dictionaries(
    st.sampled_from(
        ["alg", "kid", "typ", "cty", "crit", "jku", "jwk", "x5u", "x5t", "x5t#S256", "b64", "zip", "other"]
    ),
    _VALUES,
    max_size=2,
)
_CLAIMS = st.dictionaries(st.sampled_from([*REQUIRED, "nbf", "aud", "other"]), _VALUES, max_size=3)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_HEADERS, _CLAIMS)
@example({}, {})
@example({"typ": "JWT"}, {"other": {"a": [1, {"b": 2}]}})
@example({}, {"nbf": int(NOW) + 10})
@example({}, {"iat": int(NOW) + 10, "exp": int(NOW) - 9})
def test_signed_tokens(header: dict[str, JSONValue], claims: dict[str, JSONValue]) -> None:
    """Whatever a signed token's header and claims hold, accepted here means accepted by PyJWT and joserfc."""
    assume(len(api_json.dump(header)) < MAX_JOSERFC_HEADER)
    check(token({**HEADER, **header}, {**claims_for(), **claims}))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_tokens(data: st.DataObject) -> None:
    """A token that was changed in any character is accepted here only if the others accept it."""
    text = data.draw(st.sampled_from([token(), token({**HEADER, "typ": "JWT"}), token(key=OTHER)]))
    position = data.draw(st.integers(0, len(text) - 1))
    replacement = data.draw(st.sampled_from(["", "A", "_", "-", "+", "/", "=", ".", " ", "\n", "é", "AA"]))

    mutated = text[:position] + replacement + text[position + 1 :]

    if check(mutated) and mutated != text:
        assert mutated.lower().startswith("bearer ")
        assert mutated.partition(" ")[2] == text.partition(" ")[2]


@pytest.mark.parametrize(
    ("authorization", "accepted"),
    [
        (token(), True),
        (token({**HEADER, "typ": "JWT"}), True),
        (token(claims=claims_for(other={"a": [1]})), True),
        (token(claims=claims_for(nbf=int(NOW) + 10)), True),
        (token(claims=claims_for(iat=int(NOW) + 10)), True),
        (token(claims=claims_for(exp=int(NOW) - 9)), True),
        (token(claims=claims_for(exp=int(NOW) - 10)), False),
        (token(claims=claims_for(iat=int(NOW) + 11)), False),
        (token(claims=api_json.dump(claims_for()).replace(b"1800000000", b"1800000000.75")), True),
        (token(claims=api_json.dump(claims_for(exp=int(NOW) - 10)).replace(b"99990", b"99990.5")), False),
        (token(key=OTHER), False),
        (token({**HEADER, "cty": "JWT"}), True),
        (token({**HEADER, "other": 1}), True),
        (token({**HEADER, "crit": ["other"], "other": 1}), False),
    ],
)
def test_both_ways(authorization: str, *, accepted: bool) -> None:
    """The comparison means something: good tokens are accepted by all three."""
    assert check(authorization) is accepted


@pytest.mark.parametrize(
    "authorization",
    [
        token(b'{"alg":"RS256","kid":"2026-01","kid":"2026-01"}'),
        token(claims=api_json.dump(claims_for())[:-1] + b',"iss":"jetpay"}'),
        token() + "==",
    ],
    ids=["repeated header", "repeated claim", "padding"],
)
def test_stricter_than_either(authorization: str) -> None:
    """What general libraries let pass is rejected here: repeated members, padding."""
    assert accepted_by_pyjwt(authorization) or accepted_by_joserfc(authorization)
    assert not accepted_here(authorization)


def test_the_other_judge_is_strict() -> None:
    """The options given to the other libraries do what they are there for."""
    assert not accepted_by_pyjwt(token(claims=claims_for(sub="x")))
    assert not accepted_by_joserfc(token(claims=claims_for(sub="x")))
    assert not accepted_by_joserfc(token({**HEADER, "crit": ["other"], "other": 1}))
    assert not accepted_by_joserfc(token({**HEADER, "cty": 1}))
    assert not accepted_by_pyjwt(token(claims=claims_for(aud="x")))
