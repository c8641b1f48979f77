"""What the tests of webhooks do with a delivery: verify it without the package, and make events."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from .calling import Caller, Received

if TYPE_CHECKING:
    from collections.abc import Mapping


def decode_segment(segment: str) -> bytes:
    return urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def decode_number(segment: str) -> int:
    return int.from_bytes(decode_segment(segment), "big")


def claims_of(delivery: Received, jwks: Mapping[str, list[dict[str, str]]]) -> dict[str, Any]:
    """Verify a delivery with nothing but `cryptography`, and return its claims."""
    scheme, token = delivery.headers["Authorization"].split(" ")
    assert scheme == "Bearer"
    header, payload, signature = token.split(".")
    kid = json.loads(decode_segment(header))["kid"]
    (key,) = [key for key in jwks["keys"] if key["kid"] == kid]
    public = rsa.RSAPublicNumbers(e=decode_number(key["e"]), n=decode_number(key["n"])).public_key()
    public.verify(decode_segment(signature), f"{header}.{payload}".encode(), padding.PKCS1v15(), hashes.SHA256())
    claims: dict[str, Any] = json.loads(decode_segment(payload))
    assert decode_segment(claims["payload_hash"]) == hashlib.sha256(delivery.body).digest()
    return claims


async def read_webhook(caller: Caller, identifier: str) -> Any:
    answer = await caller.call("GET", f"/webhooks/{identifier}")
    assert answer.status == 200
    return answer.document


async def make_events(caller: Caller, total: int) -> None:
    """Make so many events."""
    debit_id = await caller.reserve()
    for number in range(total - 1):
        caller.sandbox.set_state(debit_id, f"state-{number}")
