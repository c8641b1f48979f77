"""The keys that deliveries are signed with, and the JWK Set that publishes them."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

import attrs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from jetpay_async._core import json
from jetpay_async.webhooks._signing import encode_segment

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["KeyRing", "SigningKey"]

_BITS = 2048


@attrs.frozen(slots=False)
class SigningKey:
    """A private RSA key, and its public half as a JWK."""

    private_key: rsa.RSAPrivateKey = attrs.field(repr=False)

    @cached_property
    def jwk(self) -> dict[str, str]:
        """The public half."""
        numbers = self.private_key.public_key().public_numbers()
        members = {"e": _encode_number(numbers.e), "kty": "RSA", "n": _encode_number(numbers.n)}
        # RFC 7638: this very JSON, with its members in this order.
        thumbprint = hashlib.sha256(json.dump(members)).digest()
        return {**members, "kid": encode_segment(thumbprint), "use": "sig", "alg": "RS256"}

    @property
    def kid(self) -> str:
        """The key's id: its thumbprint, so that two sandboxes never use one id for two keys."""
        return self.jwk["kid"]


class KeyRing:
    """The current key and the older ones that are still published."""

    def __init__(self) -> None:
        self._keys: list[SigningKey] = []

    @property
    def current(self) -> SigningKey:
        """The key to sign with. The first is made when it is first needed: that takes a tenth of a second."""
        if not self._keys:
            self._keys.append(_generate())
        return self._keys[-1]

    @property
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The JWK Set, the current key first."""
        newest = self.current
        return {"keys": [key.jwk for key in (newest, *reversed(self._keys[:-1]))]}

    def dump_ids(self) -> list[str]:
        """Return the ids of the keys, the current one last; none if none was needed so far."""
        return [key.kid for key in self._keys]

    def dump(self) -> list[str]:
        """Write the keys as PEM, the current one last; nothing if none was needed so far."""
        return [
            key.private_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode()
            for key in self._keys
        ]

    def load(self, keys: Iterable[str]) -> None:
        """Take the keys that `dump` wrote.

        Raises:
            ValueError: One of them is no private RSA key.
        """
        loaded = [serialization.load_pem_private_key(key.encode(), None) for key in keys]
        if not all(isinstance(key, rsa.RSAPrivateKey) for key in loaded):
            raise ValueError("a key is not an RSA key")
        self._keys = [SigningKey(key) for key in loaded if isinstance(key, rsa.RSAPrivateKey)]

    def rotate(self, *, keep_old: bool) -> None:
        """Sign with a new key from now on, and go on publishing the older ones or not."""
        old = [*self._keys[:-1], self.current] if keep_old else []
        self._keys = [*old, _generate()]


def _generate() -> SigningKey:
    return SigningKey(rsa.generate_private_key(public_exponent=65537, key_size=_BITS))


def _encode_number(number: int) -> str:
    return encode_segment(number.to_bytes((number.bit_length() + 7) // 8, "big"))
