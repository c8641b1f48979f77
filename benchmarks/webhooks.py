"""What does it cost to verify and decode a delivery, and to reject a forged one?"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import time
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import cattrs
import jwt
import orjson
import standardwebhooks
import stripe
from cattrs.gen import make_dict_structure_fn, override
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwk as jose_jwk
from joserfc import jwt as jose_jwt

from benchmarks.measuring import CLIENT_CORE, Comparison, Spread, compare_calls, on_core
from benchmarks.reports import Plan, Report
from benchmarks.serving import Server
from jetpay_async.webhooks import (
    DebitFailed,
    DebitPaid,
    Delivery,
    Event,
    KeySet,
    TransactionEvent,
    UnknownEvent,
    WebhookError,
    WebhookVerifier,
    decode,
    sign,
    verify,
)

with warnings.catch_warnings():
    # It recommends joserfc in its place, which is measured too.
    import authlib.deprecate

    warnings.simplefilter("ignore", authlib.deprecate.AuthlibDeprecationWarning)
    from authlib.jose import JsonWebKey as AuthlibKeys
    from authlib.jose import JsonWebToken as AuthlibToken

QUESTION = "What does a webhook delivery cost?"
COUNTS = (1, 10, 100)
KID = "2026-01"
PRIVATE = rsa.generate_private_key(65537, 2048)
PUBLIC = PRIVATE.public_key()
MODULUS = urlsafe_b64encode(PUBLIC.public_numbers().n.to_bytes(256)).rstrip(b"=").decode()
JWKS = {"keys": [{"kty": "RSA", "kid": KID, "use": "sig", "alg": "RS256", "e": "AQAB", "n": MODULUS}]}
KEYS = KeySet.from_jwks(orjson.dumps(JWKS))
SECRET = b"a secret of thirty-two bytes, ok"
REQUIRED = ["jti", "iat", "exp", "iss", "sub", "payload_hash"]

DATA = (
    ("transactions.debits.updated", {"state": "paid"}),
    ("transactions.debits.updated", {"state": "failed", "failReason": "account_frozen", "failDirection": "pull"}),
    ("transactions.credits.created", {"state": "requested"}),
    ("kyc.status.updated", {"status": "approved", "level": 2, "score": 0.75}),
)


def body_of(count: int) -> bytes:
    return orjson.dumps(
        {
            "webhookId": 123,
            "events": [
                {
                    "id": 45678 + index,
                    "createdAt": f"2026-01-22T10:15:30.{index:06}Z",
                    "type": DATA[index % 4][0],
                    "data": {**DATA[index % 4][1], "transactionId": f"41fc05d5-3148-4ee2-bfdf-{index:012}"},
                }
                for index in range(count)
            ],
        }
    )


def plain_converter() -> cattrs.Converter:
    """Return cattrs as it comes, with a line for each thing that it can't know."""
    converter = cattrs.Converter()
    converter.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))
    created_at = override(rename="createdAt")
    reason, direction = override(rename="failReason"), override(rename="failDirection")
    structure_failed = make_dict_structure_fn(
        DebitFailed, converter, created_at=created_at, fail_reason=reason, fail_direction=direction
    )
    hooks: dict[str, Callable[[dict[str, Any], type], Event]] = {
        "paid": make_dict_structure_fn(DebitPaid, converter, created_at=created_at),
        "failed": structure_failed,
        "changed": make_dict_structure_fn(TransactionEvent, converter, created_at=created_at),
        "unknown": make_dict_structure_fn(UnknownEvent, converter, created_at=created_at),
    }

    def structure_event(event: dict[str, Any], kind: type) -> Event:
        if not event["type"].startswith("transactions."):
            return hooks["unknown"](event, kind)
        data = event["data"]
        hook = hooks.get(data["state"], hooks["changed"])
        return hook({**data, **event, "transaction_id": data["transactionId"]}, kind)

    converter.register_structure_hook(Event, structure_event)
    converter.register_structure_hook(
        Delivery, make_dict_structure_fn(Delivery, converter, webhook_id=override(rename="webhookId"))
    )
    return converter


class ReadyKeys(jwt.PyJWKClient):
    def fetch_data(self) -> Any:
        return JWKS


PLAIN = plain_converter()
PYJWT_KEYS = ReadyKeys("https://extapi.example/.well-known/jwks.json")
AUTHLIB = AuthlibToken(["RS256"])
AUTHLIB_KEY = AuthlibKeys.import_key_set(JWKS)
AUTHLIB_CLAIMS = {
    **{name: {"essential": True} for name in REQUIRED},
    "iss": {"essential": True, "value": "jetpay"},
    "sub": {"essential": True, "value": "webhook"},
}
JOSERFC_KEY = jose_jwk.KeySet.import_key_set(JWKS)  # type: ignore[arg-type] # plain JSON
JOSERFC_CLAIMS = jose_jwt.JWTClaimsRegistry(leeway=10, **AUTHLIB_CLAIMS)  # type: ignore[arg-type] # by name


def check_hash(body: bytes, payload_hash: str) -> None:
    digest = urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=")
    if not hmac.compare_digest(digest, payload_hash.rstrip("=").encode()):
        raise ValueError("another body")


def pyjwt_verify(body: bytes, authorization: str, key: object = None) -> None:
    token = authorization.removeprefix("Bearer ")
    key = key or PYJWT_KEYS.get_signing_key_from_jwt(token)
    claims = jwt.decode(
        token,
        key,
        algorithms=["RS256"],
        issuer="jetpay",
        subject="webhook",
        leeway=10,
        options={"require": REQUIRED},
    )
    check_hash(body, claims["payload_hash"])


def authlib_verify(body: bytes, authorization: str) -> None:
    claims = AUTHLIB.decode(authorization.removeprefix("Bearer "), AUTHLIB_KEY, claims_options=AUTHLIB_CLAIMS)
    claims.validate(leeway=10)
    check_hash(body, claims["payload_hash"])


def joserfc_verify(body: bytes, authorization: str) -> None:
    token = jose_jwt.decode(authorization.removeprefix("Bearer "), JOSERFC_KEY, algorithms=["RS256"])
    JOSERFC_CLAIMS.validate(token.claims)
    check_hash(body, token.claims["payload_hash"])


def peers(body: bytes, authorization: str) -> dict[str, Callable[[], object]]:
    """Other libraries at the same delivery; and the schemes of other vendors, which rest on a shared secret."""

    def structured() -> object:
        return PLAIN.structure(json.loads(body, parse_float=Decimal), Delivery)

    def pyjwt_decoded() -> None:
        pyjwt_verify(body, authorization)
        structured()

    def joserfc_decoded() -> None:
        joserfc_verify(body, authorization)
        structured()

    if structured() != decode(body):
        raise AssertionError("the stacks don't do the same work")
    now = int(time.time())
    text, secret = body.decode(), SECRET.decode()
    stripe_header = f"t={now},v1={hmac.new(SECRET, f'{now}.{text}'.encode(), hashlib.sha256).hexdigest()}"
    standard = standardwebhooks.Webhook(base64.b64encode(SECRET).decode())
    standard_headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": standard.sign("msg_1", datetime.fromtimestamp(now, UTC), text),
    }
    return {
        "PyJWT, ready key": lambda: pyjwt_verify(body, authorization, PUBLIC),
        "PyJWT, PyJWKClient": lambda: pyjwt_verify(body, authorization),
        "joserfc": lambda: joserfc_verify(body, authorization),
        "authlib": lambda: authlib_verify(body, authorization),
        PYJWT_STACK: pyjwt_decoded,
        "joserfc, json, cattrs": joserfc_decoded,
        "HMAC: stripe.Webhook.construct_event": lambda: stripe.Webhook.construct_event(
            body, stripe_header, secret, tolerance=10**9
        ),
        "HMAC: standardwebhooks": lambda: standard.verify(body, standard_headers),
    }


def floors(body: bytes, authorization: str) -> dict[str, Callable[[], object]]:
    """The least that it can cost."""
    signed, _, segment = authorization.removeprefix("Bearer ").encode().rpartition(b".")
    signature = base64.urlsafe_b64decode(segment + b"==")
    scheme, algorithm = PKCS1v15(), SHA256()

    def floor() -> None:
        PUBLIC.verify(signature, signed, scheme, algorithm)
        hashlib.sha256(body).digest()
        orjson.loads(body)

    return {BARE: lambda: PUBLIC.verify(signature, signed, scheme, algorithm), FLOOR: floor}


def ours(body: bytes, authorization: str) -> dict[str, Callable[[], object]]:
    verifier = WebhookVerifier(KEYS)

    def decoded() -> None:
        verify(body, authorization, keys=KEYS)
        decode(body)

    def awaited() -> None:
        # A coroutine that has nothing to wait for ends at its first step, so no loop is timed along.
        with contextlib.suppress(StopIteration):
            verifier.verify(body, authorization).send(None)

    return {
        VERIFY: lambda: verify(body, authorization, keys=KEYS),
        DECODED: decoded,
        "WebhookVerifier.verify": awaited,
    }


def rejections(body: bytes) -> dict[str, Callable[[], object]]:
    return {
        "rejecting a forged kid": rejection(body, sign(body, PRIVATE, kid="forged")),
        "rejecting another alg": rejection(body, sign(body, PRIVATE, kid=KID, header={"alg": "HS256"})),
        "rejecting an oversize token": rejection(body, "Bearer " + "A" * 10_000),
    }


def rejection(body: bytes, authorization: str) -> Callable[[], None]:
    def reject() -> None:
        try:
            verify(body, authorization, keys=KEYS)
        except WebhookError:
            return
        raise AssertionError("a forged delivery was taken")

    return reject


BARE, FLOOR, VERIFY, DECODED, PYJWT_STACK = (
    "bare RSA",
    "RSA, SHA-256, orjson",
    "verify",
    "verify and decode",
    "PyJWT, PyJWKClient, json, cattrs",
)


def measure(plan: Plan, _: Server) -> Report:
    """Compare at 1, 10 and 100 events."""
    with on_core(CLIENT_CORE):
        comparisons = {count: compare(count, plan) for count in COUNTS}
    figures: dict[str, Spread] = {}
    for count, each in comparisons.items():
        figures[f"verify and decode / {FLOOR}; events: {count}"] = each.ratio(DECODED, FLOOR)
        figures[f"PyJWT, json, cattrs / verify and decode; events: {count}"] = each.ratio(PYJWT_STACK, DECODED)
    single = comparisons[COUNTS[0]]
    figures[f"{VERIFY} / {BARE}"] = single.ratio(VERIFY, BARE)
    for name in single.turns:
        if name.startswith("rejecting"):
            figures[f"{name} / {BARE}"] = single.ratio(name, BARE)
    return Report(
        question=QUESTION,
        figures=figures,
        comparisons=list(comparisons.values()),
        notes=["A shared secret (HMAC) is cheaper to check than a public key; Jetpay signs with RSA."],
    )


def compare(count: int, plan: Plan) -> Comparison:
    """Compare all at a delivery of so many events."""
    body = body_of(count)
    authorization = sign(body, PRIVATE, kid=KID)
    variants: Mapping[str, Callable[[], object]] = {
        **floors(body, authorization),
        **ours(body, authorization),
        **peers(body, authorization),
        **(rejections(body) if count == 1 else {}),
    }
    return compare_calls(
        f"A delivery of {count} events, {len(body):,} bytes",
        variants,
        baseline=FLOOR,
        rounds=plan.rounds,
        seconds=plan.seconds / 4,
    )
