"""The public keys that deliveries are signed with, parsed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self, cast

import attrs
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from jetpay_async.models import JSONValue
from jetpay_async.webhooks._jose import decode_base64url, read_object
from jetpay_async.webhooks.errors import InvalidTokenError, KeysUnavailableError, Reason, bare, shown

__all__ = ["MAX_JWKS_BYTES", "Key", "KeySet", "read_key_set"]

MAX_JWKS_BYTES = 256 * 1024
"""Enough for several hundred keys; usually two or three are published."""

_MIN_BITS = 2048  # RFC 7518, section 3.3
_MAX_BITS = 8192  # this and the next bound the time that a verification takes
_MAX_EXPONENT = 2**32
# Bounds the memory; there is usually one header per key.
_MAX_HEADERS = 64
# How many characters of a key id, which any sender may have chosen, an error keeps.
_MAX_SHOWN = 64


@attrs.frozen(kw_only=True)
class Key:
    """One public key that is suitable for verifying RS256."""

    kid: str
    public: RSAPublicKey = attrs.field(repr=False)


@attrs.frozen(kw_only=True, eq=False)
class KeySet:
    """The usable keys of a JWK Set, by key id. Make one with `KeySet.from_jwks`.

    It holds RSA keys of 2048 to 8192 bits that are meant for signatures. Other keys are never used, whatever a token
    says: symmetric ones, encryption keys, other algorithms, keys without an id, and private keys, which somebody
    published by mistake.
    """

    _keys: Mapping[str, Key] = attrs.field(alias="keys", repr=lambda keys: repr(tuple(keys)))
    _unusable: Mapping[str, str] = attrs.field(alias="unusable", repr=False)
    fetched_at: float | None = None
    """When a `RemoteKeySet` fetched it, in seconds since the epoch; None for pinned keys."""
    _headers: dict[bytes, Key] = attrs.field(factory=dict[bytes, Key], init=False, repr=False)

    @classmethod
    def from_jwks(cls, document: bytes | str | Mapping[str, JSONValue], *, fetched_at: float | None = None) -> Self:
        """Parse a JWK Set (RFC 7517), as served under ``/.well-known/jwks.json`` [docs].

        Args:
            document: The JSON, or what it was parsed into. At most `MAX_JWKS_BYTES`.
            fetched_at: When it was fetched, in seconds since the epoch, for explanations.

        Returns:
            The set of its usable keys; at least one.

        Raises:
            KeysUnavailableError: It is too large, isn't a JWK Set, gives two different keys the same id, or holds no
                usable key.
        """
        try:
            keys, unusable = _read(document)
            if not keys:
                raise KeysUnavailableError(Reason.NO_USABLE_KEY, {"unusable": len(unusable)})  # noqa: TRY301 - stripped
            return cls(keys=keys, unusable=unusable, fetched_at=fetched_at)
        except KeysUnavailableError as error:
            rejection = bare(error)
        del document  # a traceback with local variables must not show it
        raise rejection

    @property
    def kids(self) -> tuple[str, ...]:
        """The ids of the usable keys, in the order of the document."""
        return tuple(self._keys)

    @property
    def names_no_key(self) -> bool:
        """Whether the document has no key with an id, not even an unusable one."""
        return not self._keys and not self._unusable

    def __contains__(self, kid: object) -> bool:
        return kid in self._keys

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, kid: str) -> Key | None:
        """Return the key of that id, if there is one and it is usable."""
        return self._keys.get(kid)

    def rejection(self, kid: str) -> InvalidTokenError:
        """Return the error that says why there is no key of that id: it is unknown, or not usable."""
        if kid in self._unusable:
            return InvalidTokenError(Reason.UNUSABLE_KEY, {"kid": kid[:_MAX_SHOWN], "problem": self._unusable[kid]})
        if self.fetched_at is None:
            return InvalidTokenError(Reason.UNKNOWN_KEY, {"kid": kid[:_MAX_SHOWN]})
        return InvalidTokenError(Reason.UNKNOWN_KEY, {"kid": kid[:_MAX_SHOWN], "fetched_at": self.fetched_at})

    def known_header(self, segment: bytes) -> Key | None:
        """Return the key that a token's header segment names, if a verified token had the same header before."""
        return self._headers.get(segment)

    def remember_header(self, segment: bytes, key: Key) -> None:
        """Keep a header segment whose signature has been verified, so that it need not be read the next time."""
        if len(self._headers) < _MAX_HEADERS:
            self._headers[segment] = key


def read_key_set(document: bytes, *, fetched_at: float) -> KeySet:
    """Parse a JWK Set that was fetched: one without a usable key is a `KeySet` too, since it revokes the others."""
    keys, unusable = _read(document)
    return KeySet(keys=keys, unusable=unusable, fetched_at=fetched_at)


def _read(document: bytes | str | Mapping[str, JSONValue]) -> tuple[dict[str, Key], dict[str, str]]:
    keys: dict[str, Key] = {}
    unusable: dict[str, str] = {}
    for jwk in map(_object, _members(document)):
        kid = jwk.get("kid")
        if not isinstance(kid, str):
            continue
        try:
            public = _public_key(jwk)
        except ValueError as error:
            unusable[kid] = str(error)
            continue
        if kid in keys and keys[kid].public != public:
            raise KeysUnavailableError(
                Reason.MALFORMED_KEY_SET, {"problem": f"two different keys have the id {shown(kid)!r}"}
            )
        keys[kid] = Key(kid=kid, public=public)
    return keys, unusable


def _members(document: object) -> list[object]:
    if isinstance(document, str):
        document = document.encode(errors="surrogatepass")
    if isinstance(document, bytes):
        if len(document) > MAX_JWKS_BYTES:
            raise KeysUnavailableError(Reason.KEY_SET_TOO_LARGE, {"size": len(document), "limit": MAX_JWKS_BYTES})
        try:
            document = read_object(document)
        except ValueError as error:
            raise KeysUnavailableError(Reason.MALFORMED_KEY_SET, {"problem": str(error)}) from None
    members = _object(document).get("keys")
    if not isinstance(members, list):
        raise KeysUnavailableError(Reason.MALFORMED_KEY_SET, {"problem": "it has no list of keys"})
    return cast("list[object]", members)


def _object(value: object) -> Mapping[str, JSONValue]:
    return cast("Mapping[str, JSONValue]", value) if isinstance(value, Mapping) else {}


def _public_key(jwk: Mapping[str, JSONValue]) -> RSAPublicKey:
    """Build a key, or raise a `ValueError` that says why it can't be used, without showing any of it."""
    if jwk.get("kty") != "RSA":
        raise ValueError("it isn't an RSA key")
    if jwk.get("use", "sig") != "sig":
        raise ValueError("it isn't meant for signatures")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("it isn't meant for verifying")
    if jwk.get("alg", "RS256") != "RS256":
        raise ValueError("it is meant for another algorithm")
    if "d" in jwk:
        raise ValueError("it is a private key that was published, so its signatures prove nothing")
    modulus, exponent = _number(jwk.get("n")), _number(jwk.get("e"))
    if not _MIN_BITS <= modulus.bit_length() <= _MAX_BITS:
        raise ValueError(f"it has {modulus.bit_length()} bits, not {_MIN_BITS} to {_MAX_BITS}")
    if not (modulus % 2 and exponent % 2 and 3 <= exponent < _MAX_EXPONENT):
        raise ValueError("its modulus or exponent is not that of an RSA key")
    return RSAPublicNumbers(exponent, modulus).public_key()


def _number(text: JSONValue) -> int:
    if not isinstance(text, str):
        raise ValueError("it lacks a number")  # noqa: TRY004 - the document's fault
    return int.from_bytes(decode_base64url(text.encode(errors="surrogatepass")))
