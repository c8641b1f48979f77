"""What does it cost to verify and decode a delivery?

Run it with ``python benchmarks/webhooks.py``; it needs PyJWT, joserfc and orjson. Every round times every variant, in
slices of an order of its own, as CPU time of this process. What counts is the ratio of two variants *within* a round,
and of those the median over the rounds; the spread is the smallest and the largest.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import hmac
import json
import math
import platform
import random
import statistics
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import cattrs
import cryptography
import joserfc
import jwt
import orjson
from cattrs.gen import make_dict_structure_fn, override
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwk as jose_jwk
from joserfc import jwt as jose_jwt

from jetpay_async.webhooks import (
    Delivery,
    Event,
    KeySet,
    TransactionEvent,
    TransactionFailed,
    TransactionPaid,
    UnknownEvent,
    WebhookError,
    WebhookVerifier,
    decode,
    sign,
    verify,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KID = "2026-01"
PRIVATE = rsa.generate_private_key(65537, 2048)
PUBLIC = PRIVATE.public_key()
MODULUS = urlsafe_b64encode(PUBLIC.public_numbers().n.to_bytes(256)).rstrip(b"=").decode()
JWKS = {"keys": [{"kty": "RSA", "kid": KID, "use": "sig", "alg": "RS256", "e": "AQAB", "n": MODULUS}]}
KEYS = KeySet.from_jwks(orjson.dumps(JWKS))
# So many turns a variant has in each round: whatever slows the machine down meets all of them alike.
SLICES = 10
HEADING = f"  {'ratio':<44} median   spread           goal     reached"
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
        TransactionFailed, converter, created_at=created_at, fail_reason=reason, fail_direction=direction
    )
    hooks: dict[str, Callable[[dict[str, Any], type], Event]] = {
        "paid": make_dict_structure_fn(TransactionPaid, converter, created_at=created_at),
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
JOSERFC_KEY = jose_jwk.KeySet.import_key_set(JWKS)  # type: ignore[arg-type] # plain JSON
JOSERFC_CLAIMS = jose_jwt.JWTClaimsRegistry(
    leeway=10,
    **{name: {"essential": True} for name in REQUIRED},  # type: ignore[arg-type] # by name
)


def check_hash(body: bytes, payload_hash: str) -> None:
    digest = urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=")
    if not hmac.compare_digest(digest, payload_hash.rstrip("=").encode()):
        raise ValueError("another body")


def pyjwt_verify(body: bytes, authorization: str) -> None:
    token = authorization.removeprefix("Bearer ")
    key = PYJWT_KEYS.get_signing_key_from_jwt(token)
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


def joserfc_verify(body: bytes, authorization: str) -> None:
    token = jose_jwt.decode(authorization.removeprefix("Bearer "), JOSERFC_KEY, algorithms=["RS256"])
    JOSERFC_CLAIMS.validate(token.claims)
    check_hash(body, token.claims["payload_hash"])


def peers(body: bytes, authorization: str) -> dict[str, Callable[[], object]]:
    def pyjwt_decoded() -> None:
        pyjwt_verify(body, authorization)
        PLAIN.structure(json.loads(body, parse_float=Decimal), Delivery)

    def joserfc_decoded() -> None:
        joserfc_verify(body, authorization)
        PLAIN.structure(json.loads(body, parse_float=Decimal), Delivery)

    return {
        "PyJWT": lambda: pyjwt_verify(body, authorization),
        "PyJWT + json + cattrs": pyjwt_decoded,
        "joserfc": lambda: joserfc_verify(body, authorization),
        "joserfc + json + cattrs": joserfc_decoded,
    }


def floors(body: bytes, authorization: str) -> dict[str, Callable[[], object]]:
    signed, _, _ = authorization.removeprefix("Bearer ").encode().rpartition(b".")
    signature = PRIVATE.sign(signed, PKCS1v15(), SHA256())
    scheme, algorithm = PKCS1v15(), SHA256()

    def floor() -> None:
        PUBLIC.verify(signature, signed, scheme, algorithm)
        hashlib.sha256(body).digest()
        orjson.loads(body)

    return {
        "bare RSA": lambda: PUBLIC.verify(signature, signed, scheme, algorithm),
        "RSA + SHA-256 + orjson": floor,
    }


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
        "verify": lambda: verify(body, authorization, keys=KEYS),
        "verify + decode": decoded,
        "WebhookVerifier.verify": awaited,
    }


def refusals(body: bytes) -> dict[str, Callable[[], object]]:
    return {
        "refused: forged kid": refusal(body, sign(body, PRIVATE, kid="forged")),
        "refused: wrong alg": refusal(body, sign(body, PRIVATE, kid=KID, header={"alg": "HS256"})),
        "refused: oversize": refusal(body, "Bearer " + "A" * 10_000),
    }


def refusal(body: bytes, authorization: str) -> Callable[[], None]:
    def refuse() -> None:
        try:
            verify(body, authorization, keys=KEYS)
        except WebhookError:
            return
        raise AssertionError("a forged delivery was taken")

    return refuse


def calls_of(variant: Callable[[], object], seconds: float) -> int:
    begin, calls = time.process_time(), 0
    while time.process_time() - begin < seconds:
        variant()
        calls += 1
    return calls


def measured(variants: dict[str, Callable[[], object]], rounds: int, seconds: float) -> list[dict[str, float]]:
    """Return, for each round, the CPU time of one call of each variant, in seconds."""
    calls = {name: calls_of(variant, seconds / SLICES) for name, variant in variants.items()}
    results: list[dict[str, float]] = []
    for _ in range(rounds):
        gc.collect()
        spent = dict.fromkeys(variants, 0.0)
        for _ in range(SLICES):
            for name in random.sample(list(variants), len(variants)):
                variant = variants[name]
                begin = time.process_time()
                for _ in range(calls[name]):
                    variant()
                spent[name] += time.process_time() - begin
        results.append({name: spent[name] / (calls[name] * SLICES) for name in variants})
    return results


def report(title: str, ratios: list[float], *, at_most: float = math.inf, at_least: float = 0.0) -> None:
    median = statistics.median(ratios)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    goal = f">= {at_least:.2f}" if at_least else f"<= {at_most:.2f}"
    print(f"  {title:<44} {median:6.2f}   {spread:<16} {goal:<8} {'yes' if at_least <= median <= at_most else 'NO'}")


def import_times(rounds: int) -> list[float]:
    """Compare the import and the first use with the import of PyJWT and cattrs, each in fresh processes."""
    ours = (
        "import jetpay_async.webhooks as w;"
        f"k = w.KeySet.from_jwks({orjson.dumps(JWKS)!r});"
        f"b = {body_of(1)!r};"
        f"w.verify(b, {sign(body_of(1), PRIVATE, kid=KID)!r}, keys=k);"
        "w.decode(b)"
    )
    theirs = "import jwt, cattrs"

    def run(code: str) -> float:
        timer = "import time; t = time.process_time();" + code + "; print(time.process_time() - t)"
        return float(subprocess.run([sys.executable, "-c", timer], check=True, capture_output=True).stdout)

    run(ours)
    run(theirs)
    return [run(ours) / run(theirs) for _ in range(rounds)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--seconds", type=float, default=0.1, help="CPU time for each variant in each round")
    options = arguments.parse_args()
    versions = {"cryptography": cryptography, "PyJWT": jwt, "joserfc": joserfc, "orjson": orjson}
    print(f"Python {platform.python_version()}", *(f"{name} {m.__version__}" for name, m in versions.items()), sep=", ")
    goals = {1: (1.45, 3.8), 10: (1.80, 4.2), 100: (2.0, 5.0)}
    for count, (most, least) in goals.items():
        body = body_of(count)
        authorization = sign(body, PRIVATE, kid=KID)
        if PLAIN.structure(json.loads(body, parse_float=Decimal), Delivery) != decode(body):
            raise AssertionError("the stacks don't do the same work")
        variants = floors(body, authorization) | ours(body, authorization) | peers(body, authorization)
        if count == 1:
            variants |= refusals(body)
        results = measured(variants, options.rounds, options.seconds)

        def ratios(over: str, under: str, results: list[dict[str, float]] = results) -> list[float]:
            return [result[over] / result[under] for result in results]

        print(f"\n{count} events, {len(body)} bytes; medians of {options.rounds} rounds")
        for name in variants:
            print(f"  {name:<26} {statistics.median(result[name] for result in results) * 1e6:8.1f} us")
        print(HEADING)
        if count == 1:
            report("verify / bare RSA", ratios("verify", "bare RSA"), at_most=1.40)
            for name in refusals(body):
                report(f"{name} / bare RSA", ratios(name, "bare RSA"), at_most=0.15)
        report(
            "verify + decode / RSA + SHA-256 + orjson",
            ratios("verify + decode", "RSA + SHA-256 + orjson"),
            at_most=most,
        )
        report(
            "PyJWT + json + cattrs / verify + decode",
            ratios("PyJWT + json + cattrs", "verify + decode"),
            at_least=least,
        )
    print("\nimport and first use")
    print(HEADING)
    report("ours / import jwt, cattrs", import_times(options.rounds), at_most=1.1)


if __name__ == "__main__":
    main()
