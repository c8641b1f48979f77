"""Verify a token and the body that it was signed for, or reject them: pure, and total over any bytes.

The order matters. Sizes bound the work; the header only selects the key; nothing else of the token is read before its
signature is verified, and the body is not hashed before the claims are checked::

    sizes -> header -> key -> signature -> claims -> time window -> body

**Why this is not done by PyJWT, joserfc or Authlib.** The cryptography is a library's: the signature is verified by
`cryptography` (RSA PKCS#1 v1.5 with SHA-256), and nothing here computes with a key. What is our own is reading the
token, for three reasons:

- *One reading.* The general libraries accept tokens that have several: a JSON member given twice, base64url with
  padding or stray bits. Where two readers may disagree, an attacker chooses. This
  reader accepts a subset of what they accept; the tests compare it with PyJWT and joserfc (`tests/webhooks/
  test_peers.py`): whatever is accepted here is accepted by both, under strict options.
- *No choice for the sender.* A general library selects the algorithm and the kind of key by what the token says, which
  has been the source of most JWT vulnerabilities (``alg: none``, HMAC with the public key, ``jku``, ``jwk``, ``crit``).
  Here there is RS256, a key of the key set, and no other code path to reach.
- *Bounded work and nothing kept.* The endpoint is public. A forged token is rejected before its body is hashed, at the
  cost of one pass over at most 4 KiB, and no error carries the token, the claims or the body to a log.
"""

from __future__ import annotations

import hmac
import time
from hashlib import sha256
from math import floor
from typing import TYPE_CHECKING, NamedTuple, Self, get_type_hints

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from jetpay_async._core.secret import Secret
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks._jose import decode_base64url, encode_base64url, read_object
from jetpay_async.webhooks.claims import Claims, EpochSeconds, NonEmptyText
from jetpay_async.webhooks.errors import (
    InvalidTokenError,
    MalformedDeliveryError,
    PayloadMismatchError,
    Reason,
    StaleDeliveryError,
    WebhookError,
)
from jetpay_async.webhooks.keyset import Key, KeySet

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

__all__ = [
    "DEFAULT_LEEWAY_SECONDS",
    "MAX_BODY_BYTES",
    "MAX_TOKEN_CHARACTERS",
    "Window",
    "check_leeway",
    "claims_or_error",
    "signer",
    "token_claims_or_error",
    "verify",
]

DEFAULT_LEEWAY_SECONDS = 10.0
"""Seconds by which the clocks of Jetpay and of this host may differ."""
MAX_LEEWAY_SECONDS = 300.0
"""A larger leeway would turn a token of 90 seconds into one that can be replayed for much longer."""
MAX_BODY_BYTES = 1024 * 1024
"""A delivery of 100 events has about 20 kB."""
MAX_TOKEN_CHARACTERS = 4096
"""A token has about 550 characters with a key of 2048 bits, 1,600 with one of 8192."""

# What would change how the token is to be read (`crit` names extensions that must be understood), or bring a key along.
_FORBIDDEN_FIELDS = frozenset({"crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "enc"})
_TEXT_FIELDS = frozenset({"typ", "cty", "x5t", "x5t#S256"})
_DIGEST_BYTES = 32
_PADDING = PKCS1v15()
_HASH = SHA256()


def verify(
    body: bytes | bytearray | memoryview,
    authorization: str | bytes | None,
    *,
    keys: KeySet,
    now: float | None = None,
    leeway: float = DEFAULT_LEEWAY_SECONDS,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_token_age: float | None = None,
) -> Claims:
    """Verify that Jetpay signed this body recently; raise, or return what the token says [docs, "Webhooks"].

    Args:
        body: The bytes as received: before any parsing, and before any decompression.
        authorization: The value of the ``Authorization`` header, ``Bearer <jwt>``; None if there is none.
        keys: The keys to trust.
        now: Seconds since the epoch; the present if None.
        leeway: Seconds, 0 to 300, by which the clocks may differ, in both directions.
        max_body_bytes: A larger body is rejected unread.
        max_token_age: Seconds after its signing (``iat``) and the leeway for which a token is accepted, however much
            later it expires; None leaves that to the token, which expires after about 90 s [docs].

    Returns:
        The verified claims.

    Raises:
        MalformedDeliveryError: Body or token are too large.
        InvalidTokenError: The token doesn't prove that Jetpay signed it.
        StaleDeliveryError: It has expired, is older than ``max_token_age``, or is issued in the future.
        PayloadMismatchError: It is valid, but was signed for another body.
        InvalidArgumentError: The body isn't bytes, or a number of seconds is out of range.
    """
    window = DEFAULT_WINDOW
    if leeway is not DEFAULT_LEEWAY_SECONDS or max_token_age is not None:
        secret = Secret((body, authorization))
        del body, authorization  # a traceback with local variables must not show them
        window = Window(leeway, max_token_age).checked()
        body, authorization = secret.reveal()
    outcome = claims_or_error(body, authorization, keys, now, window=window, max_body_bytes=max_body_bytes)
    if isinstance(outcome, Claims):
        return outcome
    try:
        raise outcome
    finally:
        # As above; and an error that its own frame holds waits for the garbage collector, with all that it leads to.
        del body, authorization, outcome


def claims_or_error(
    body: bytes | bytearray | memoryview,
    authorization: str | bytes | None,
    keys: KeySet,
    now: float | None,
    *,
    window: Window,
    max_body_bytes: int,
) -> Claims | WebhookError | InvalidArgumentError:
    """Verify as `verify` does, within a window that was checked; return the error, which the caller raises.

    Anybody can send what is rejected: an error that is returned has no traceback, which would cost as much as all the
    rest, and leads to no frame that holds the token.
    """
    if not isinstance(body, bytes):
        if not isinstance(body, bytearray | memoryview):
            return InvalidArgumentError(
                f"body: pass the raw bytes as received, not {type(body).__name__}; parsing or decoding changes them",
                field="body",
            )
        body = bytes(body)
    if len(body) > max_body_bytes:
        return _too_large(Reason.BODY_TOO_LARGE, len(body), max_body_bytes)
    claims = token_claims_or_error(authorization, keys, now, window)
    if isinstance(claims, WebhookError):
        return claims
    return _body_rejection(body, claims) or claims


def token_claims_or_error(
    authorization: str | bytes | None, keys: KeySet, now: float | None, window: Window
) -> Claims | WebhookError:
    """Verify all of a delivery but its body. What is verified is **not** a delivery yet."""
    token = _bearer(authorization)
    if not isinstance(token, bytes):
        return token
    header, _, _ = token.partition(b".")
    known = keys.known_header(header)
    key = known or _named_key(header, keys)
    if isinstance(key, InvalidTokenError):
        return key
    signed, _, signature = token.rpartition(b".")
    rejection = _signature_rejection(key, signed, signature)
    if rejection is not None:
        return rejection
    if known is None:
        keys.remember_header(header, key)
    found = _read_claims(signed[len(header) + 1 :])
    if not isinstance(found, tuple):
        return found
    claims, opens = found
    return _window_rejection(claims, opens, time.time() if now is None else now, window) or claims


class Window(NamedTuple):
    """In which time a token is accepted; all in seconds."""

    leeway: float = DEFAULT_LEEWAY_SECONDS
    max_age: float | None = None

    def checked(self) -> Self:
        """Return this, or raise an `InvalidArgumentError`."""
        if self.leeway != DEFAULT_LEEWAY_SECONDS:
            check_leeway(self.leeway)
        if self.max_age is not None:
            check_seconds("max_token_age", self.max_age)
        return self


DEFAULT_WINDOW = Window()


def check_leeway(leeway: float) -> None:
    """Reject a leeway that would accept expired tokens.

    Raises:
        InvalidArgumentError: It isn't a number from 0 to 300.
    """
    check_seconds("leeway", leeway, zero=True, most=MAX_LEEWAY_SECONDS)


def _too_large(reason: Reason, size: int, limit: int) -> MalformedDeliveryError:
    return MalformedDeliveryError(reason, {"size": size, "limit": limit})


def _bearer(authorization: str | bytes | None) -> bytes | WebhookError:
    if not authorization:
        return InvalidTokenError(Reason.MISSING_TOKEN)
    if len(authorization) > MAX_TOKEN_CHARACTERS:
        return _too_large(Reason.TOKEN_TOO_LARGE, len(authorization), MAX_TOKEN_CHARACTERS)
    # A character beyond ASCII becomes a question mark, which no token holds either.
    value = authorization.encode("ascii", "replace") if isinstance(authorization, str) else authorization
    scheme, _, token = value.partition(b" ")
    if scheme != b"Bearer" and scheme.lower() != b"bearer":
        return InvalidTokenError(Reason.WRONG_SCHEME)
    return token


class _Header(msgspec.Struct):
    """What is read of a token's header: ``alg`` and ``kid`` [docs], and the ``typ`` that most libraries add.

    Other fields are ignored, as RFC 7515 asks, so that a new one of Jetpay's does not stop every delivery, except those
    that select a key or change the rules.
    """

    alg: str
    kid: NonEmptyText
    typ: str | msgspec.UnsetType = msgspec.UNSET


_header_decoder = msgspec.json.Decoder(_Header)


def _named_key(segment: bytes, keys: KeySet) -> Key | InvalidTokenError:
    """Read the header of a token that is not verified yet; all that it may do is to name a key."""
    try:
        data = decode_base64url(segment)
        header = _header_decoder.decode(data)
        if header.alg != "RS256":
            return InvalidTokenError(Reason.WRONG_ALGORITHM)
        # As many members as were read: none is repeated, and none was ignored.
        if data.count(b":") != (2 if header.typ is msgspec.UNSET else 3):
            rejection = _rejection_of_others(read_object(data))
            if rejection is not None:
                return rejection
        return keys.find(header.kid) or keys.rejection(header.kid)
    except (ValueError, RecursionError):
        return _header_rejection(segment)


def _rejection_of_others(header: dict[str, JSONValue]) -> InvalidTokenError | None:
    forbidden = sorted(header.keys() & _FORBIDDEN_FIELDS)
    if forbidden:
        return InvalidTokenError(Reason.FORBIDDEN_HEADER, {"field": forbidden[0]})
    if any(not isinstance(header[name], str) for name in header.keys() & _TEXT_FIELDS):
        return _malformed_header("a field that is a text by RFC 7515 isn't one")
    return None


def _malformed_header(problem: str) -> InvalidTokenError:
    return InvalidTokenError(Reason.MALFORMED_TOKEN, {"segment": "header", "problem": problem})


def _header_rejection(segment: bytes) -> InvalidTokenError:
    try:
        header = read_object(decode_base64url(segment))
    except ValueError as error:
        return _malformed_header(str(error))
    if header.get("alg") != "RS256":
        return InvalidTokenError(Reason.WRONG_ALGORITHM)
    return _rejection_of_others(header) or _malformed_header("kid isn't a text")


def _signature_rejection(key: Key, signed: bytes, segment: bytes) -> InvalidTokenError | None:
    try:
        signature = decode_base64url(segment)
    except ValueError as error:
        return InvalidTokenError(Reason.MALFORMED_TOKEN, {"segment": "signature", "problem": str(error)})
    try:
        key.public.verify(signature, signed, _PADDING, _HASH)
    except InvalidSignature:
        return InvalidTokenError(Reason.BAD_SIGNATURE, {"kid": key.kid})
    return None


def signer(authorization: str | bytes | None, keys: KeySet) -> Key | None:
    """Find the key of the set that signed a token, whichever key the token names; None if none did."""
    token = _bearer(authorization)
    if isinstance(token, WebhookError):
        return None
    signed, _, signature = token.rpartition(b".")
    return next((key for key in keys if _signature_rejection(key, signed, signature) is None), None)


_claims_decoder = msgspec.json.Decoder(Claims)
_CLAIM_TYPES = get_type_hints(Claims, include_extras=True)


def _read_claims(segment: bytes) -> tuple[Claims, float] | InvalidTokenError:
    """Return the claims, and the moment from which they are valid."""
    try:
        data = decode_base64url(segment)
        claims = _claims_decoder.decode(data)
        # No more members than there are claims: none is repeated, and none was ignored.
        if data.count(b":") == len(_CLAIM_TYPES):
            return claims, claims.iat
        others = read_object(data)
    except (ValueError, RecursionError):
        return _claims_rejection(segment)
    # RFC 7519, section 4.1.3: a reader that isn't named in `aud` must reject; Jetpay defines no names for it [docs].
    if "aud" in others:
        return _invalid_claim("aud")
    try:
        return claims, max(claims.iat, msgspec.convert(others.get("nbf", 0), EpochSeconds))
    except ValueError:
        return _invalid_claim("nbf")


def _claims_rejection(segment: bytes) -> InvalidTokenError:
    try:
        claims = read_object(decode_base64url(segment))
    except ValueError as error:
        return InvalidTokenError(Reason.MALFORMED_TOKEN, {"segment": "claims", "problem": str(error)})
    missing = [name for name in _CLAIM_TYPES if name not in claims]
    if missing:
        return InvalidTokenError(Reason.MISSING_CLAIM, {"claim": ", ".join(missing)})
    return _invalid_claim(", ".join(name for name, kind in _CLAIM_TYPES.items() if not _fits(claims[name], kind)))


def _fits(value: JSONValue, kind: type) -> bool:
    try:
        msgspec.convert(value, kind)
    except ValueError:
        return False
    return True


def _invalid_claim(name: str) -> InvalidTokenError:
    return InvalidTokenError(Reason.INVALID_CLAIM, {"claim": name})


def _window_rejection(claims: Claims, opens: float, now: float, window: Window) -> StaleDeliveryError | None:
    leeway, max_age = window
    # Written so that a `now` that is not a number is rejected.
    if not opens <= now + leeway:
        return StaleDeliveryError(
            Reason.NOT_YET_VALID, {"early_by": opens - now, "age": now - claims.iat, "leeway": leeway}
        )
    # Rounded down, as PyJWT does: two readers must not differ over a fraction of a second.
    if not now - leeway < floor(claims.exp):
        return StaleDeliveryError(
            Reason.EXPIRED, {"late_by": now - claims.exp, "age": now - claims.iat, "leeway": leeway}
        )
    if max_age is not None and now - leeway >= claims.iat + max_age:
        return StaleDeliveryError(Reason.TOO_OLD, {"age": now - claims.iat, "limit": max_age, "leeway": leeway})
    return None


def _body_rejection(body: bytes, claims: Claims) -> WebhookError | None:
    digest = sha256(body).digest()
    # Whether base64url is padded here is not documented: both are accepted [docs].
    signed = claims.payload_hash.removesuffix("=").encode("ascii", "replace")
    if hmac.compare_digest(encode_base64url(digest), signed):
        return None
    try:
        digest = decode_base64url(signed)
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_BYTES:
        return _invalid_claim("payload_hash")
    from jetpay_async.webhooks._body_diagnosis import cause_of  # noqa: PLC0415 - rarely needed

    return PayloadMismatchError(Reason.PAYLOAD_MISMATCH, {"size": len(body), "cause": cause_of(body, digest)})
