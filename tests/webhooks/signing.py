"""What the tests of verifying share: keys, and tokens of any making."""

from __future__ import annotations

import hashlib
import pickle
import traceback
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from jetpay_async._core import json
from jetpay_async.webhooks.keyset import KeySet

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue
    from jetpay_async.webhooks import WebhookError

NOW = 1_800_000_000.0
KID = "2026-01"
BODY = b'{"webhookId":123,"events":[]}'

PRIVATE = generate_private_key(65537, 2048)
OTHER = generate_private_key(65537, 2048)


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8))


def jwk(public: RSAPublicKey, kid: str = KID, /, **changes: JSONValue) -> dict[str, JSONValue]:
    """A key as a key set has it; a change to None removes the member."""
    numbers = public.public_numbers()
    members: dict[str, JSONValue] = {
        "kty": "RSA",
        "kid": kid,
        "use": "sig",
        "alg": "RS256",
        "n": number(numbers.n),
        "e": number(numbers.e),
    }
    return {name: value for name, value in {**members, **changes}.items() if value is not None}


def jwks(*keys: JSONValue) -> bytes:
    return json.dump({"keys": list(keys)})


KEYS = KeySet.from_jwks(jwks(jwk(PRIVATE.public_key())))

HEADER: dict[str, JSONValue] = {"alg": "RS256", "kid": KID}


def claims_for(body: bytes = BODY, /, **changes: JSONValue) -> dict[str, JSONValue]:
    """The claims of a good token for a body; a change to None removes the claim."""
    claims: dict[str, JSONValue] = {
        "jti": "5f2b8a4e-7d8c-4f64-9a38-3c1d7d5a9d10",
        "iat": int(NOW),
        "exp": int(NOW) + 90,
        "iss": "jetpay",
        "sub": "webhook",
        "payload_hash": base64url(hashlib.sha256(body).digest()),
    }
    return {name: value for name, value in {**claims, **changes}.items() if value is not None}


def token(
    header: JSONValue | bytes = HEADER, claims: JSONValue | bytes | None = None, *, key: RSAPrivateKey = PRIVATE
) -> str:
    """An Authorization value with a good signature over whatever header and claims there are."""
    if claims is None:
        claims = claims_for()
    segments = [base64url(part if isinstance(part, bytes) else json.dump(part)) for part in (header, claims)]
    signed = ".".join(segments)
    return f"Bearer {signed}.{base64url(key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def shown_by(error: WebhookError) -> str:
    """Everything that an error can show of a delivery: its texts, its pickle, and our frames with their variables."""
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames.stack[:] = [frame for frame in frames.stack if "jetpay_async" in Path(frame.filename).parts]
    assert frames.stack
    assert error.__context__ is None
    assert error.__cause__ is None
    texts = [str(error), repr(error), repr(vars(error)), error.explain(), repr(pickle.dumps(error)), *frames.format()]
    return "\n".join(texts)
