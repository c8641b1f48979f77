"""Sign deliveries as Jetpay does. For tests and for the sandbox."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from jetpay_async._core import json
from jetpay_async.models import JSONValue
from jetpay_async.webhooks._jose import encode_base64url

LIFETIME_SECONDS = 90
"""Seconds between ``iat`` and ``exp`` [docs: about 90]."""


def sign(
    body: bytes,
    private_key: RSAPrivateKey,
    *,
    kid: str,
    now: float | None = None,
    claims: Mapping[str, JSONValue] | None = None,
    header: Mapping[str, JSONValue] | None = None,
) -> str:
    """Sign a delivery as Jetpay does [docs, "Webhooks": RS256, body hash in the claims].

    Args:
        body: The delivery's bytes, exactly as they will be sent.
        private_key: An RSA key; its public half must be in the receiver's key set under ``kid``.
        kid: The key's id.
        now: The time of signing, in seconds since the epoch; the present if None.
        claims: Claims to add or to replace, to break a token on purpose. None as a value removes the claim.
        header: The same for the token's header.

    Returns:
        The value of the ``Authorization`` header: ``"Bearer <jwt>"``.
    """
    issued = int(time.time() if now is None else now)
    token_header = _merged({"alg": "RS256", "typ": "JWT", "kid": kid}, header)
    token_claims = _merged(
        {
            "jti": str(uuid.uuid4()),
            "iat": issued,
            "exp": issued + LIFETIME_SECONDS,
            "iss": "jetpay",
            "sub": "webhook",
            "payload_hash": encode_segment(hashlib.sha256(body).digest()),
        },
        claims,
    )
    signed = f"{encode_segment(json.dump(token_header))}.{encode_segment(json.dump(token_claims))}"
    signature = private_key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"Bearer {signed}.{encode_segment(signature)}"


def encode_segment(data: bytes) -> str:
    """Write base64url without padding, as in a JWT."""
    return encode_base64url(data).decode()


def _merged(standard: dict[str, JSONValue], changes: Mapping[str, JSONValue] | None) -> dict[str, JSONValue]:
    return {name: value for name, value in {**standard, **(changes or {})}.items() if value is not None}
