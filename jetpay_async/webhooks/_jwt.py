"""Verify a token and the body it vouches for, or refuse: pure, and total over any bytes.

The order is the point. Sizes bound the work; the header only chooses the key; nothing else of the token is read before
its signature holds, and the body's hash is not worth computing before the claims do::

    sizes -> header -> key -> signature -> claims -> window of time -> body
"""

from __future__ import annotations

import hmac
import time
from datetime import UTC, datetime
from hashlib import sha256
from math import floor
from typing import TYPE_CHECKING, Annotated, Literal, get_type_hints

import attrs
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks._jose import decode_base64url, encode_base64url, read_object, refuse_repetitions
from jetpay_async.webhooks.errors import (
    InvalidTokenError,
    MalformedDeliveryError,
    PayloadMismatchError,
    Reason,
    StaleDeliveryError,
    WebhookError,
    bare,
)

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue
    from jetpay_async.webhooks.keyset import Key, KeySet

__all__ = ["DEFAULT_LEEWAY", "MAX_BODY_BYTES", "MAX_TOKEN_CHARACTERS", "Claims", "check_leeway", "signer", "verify"]

DEFAULT_LEEWAY = 10.0
"""Seconds by which clocks may differ."""
MAX_LEEWAY = 300.0
"""More would turn a token of 90 seconds into one that is good for replays all day."""
MAX_BODY_BYTES = 1024 * 1024
"""A delivery of 100 events is about 20 kB."""
MAX_TOKEN_CHARACTERS = 4096
"""A token is about 550 characters with a key of 2048 bits, 1,600 with one of 8192."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]
"""Seconds since the epoch, up to the last that a `datetime` holds."""
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_DANGEROUS_FIELDS = frozenset({"crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "enc"})
_DIGEST_BYTES = 32
_PADDING = PKCS1v15()
_HASH = SHA256()


@attrs.frozen(kw_only=True)
class Claims:
    """What a verified token says [docs]."""

    jti: _Text
    """The token's own id, a UUID as a rule. Another sending of the same events has another."""
    iat: Seconds
    """When it was signed, in seconds since the epoch."""
    exp: Seconds
    """When it expires, about 90 seconds later."""
    iss: Literal["jetpay"]
    sub: Literal["webhook"]
    payload_hash: _Text
    """SHA-256 of the body in base64url, as it was sent."""

    @property
    def issued_at(self) -> datetime:
        """`iat`, aware, in UTC."""
        return datetime.fromtimestamp(self.iat, UTC)

    @property
    def expires_at(self) -> datetime:
        """`exp`, aware, in UTC."""
        return datetime.fromtimestamp(self.exp, UTC)


def verify(
    body: bytes,
    authorization: str | bytes | None,
    *,
    keys: KeySet,
    now: float | None = None,
    leeway: float = DEFAULT_LEEWAY,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Claims:
    """Verify that Jetpay signed this body, just now; raise, or return what the token says [docs, "Webhooks"].

    Args:
        body: The bytes as received: before any parsing, and before any decompression.
        authorization: The value of the ``Authorization`` header, ``Bearer <jwt>``; None if there is none.
        keys: The keys to trust.
        now: Seconds since the epoch; the present if None.
        leeway: Seconds, 0 to 300, by which the clocks may differ, in both directions.
        max_body_bytes: A larger body is refused unread.

    Returns:
        The verified claims.

    Raises:
        MalformedDeliveryError: Body or token are too large.
        InvalidTokenError: The token doesn't prove that Jetpay signed it.
        StaleDeliveryError: It has expired, or is issued in the future.
        PayloadMismatchError: It is good, but for another body.
        InvalidArgumentError: The body isn't `bytes`, or the leeway is out of range: a mistake of the caller.
    """
    if leeway != DEFAULT_LEEWAY:
        check_leeway(leeway)
    if not isinstance(body, bytes):
        given = type(body).__name__
        del body, authorization  # a traceback that shows locals is not to show them
        raise InvalidArgumentError(
            f"body: pass the raw bytes as received, not {given}; parsing or decoding changes them", field="body"
        )
    if len(body) > max_body_bytes:
        outcome: Claims | WebhookError = _too_large(Reason.BODY_TOO_LARGE, len(body), max_body_bytes)
    else:
        try:
            outcome = _verify(body, authorization, keys, now, leeway)
        except WebhookError as error:
            outcome = bare(error)
    if isinstance(outcome, Claims):
        return outcome
    del body, authorization  # the same
    raise outcome


def check_leeway(leeway: float) -> None:
    """Refuse a leeway that would let expired tokens through.

    Raises:
        InvalidArgumentError: It isn't a number from 0 to 300.
    """
    if not 0 <= leeway <= MAX_LEEWAY:
        raise InvalidArgumentError(f"leeway: {leeway!r} is not a number of seconds from 0 to 300", field="leeway")


def _verify(
    body: bytes, authorization: str | bytes | None, keys: KeySet, now: float | None, leeway: float
) -> Claims | WebhookError:
    # What is refused before the signature is returned, not raised: anybody can send it, and raising it twice would cost
    # as much as reading it does.
    token = _bearer(authorization)
    if isinstance(token, WebhookError):
        return token
    header, _, _ = token.partition(b".")
    known = keys.known_header(header)
    key = known or _named_key(header, keys)
    if isinstance(key, WebhookError):
        return key
    signed, _, signature = token.rpartition(b".")
    _check_signature(key, signed, signature)
    if known is None:
        keys.remember_header(header, key)
    claims, opens = _read_claims(signed[len(header) + 1 :])
    _check_window(claims, opens, time.time() if now is None else now, leeway)
    _check_body(body, claims)
    return claims


def _too_large(reason: Reason, size: int, limit: int) -> MalformedDeliveryError:
    return MalformedDeliveryError(reason, {"size": size, "limit": limit})


def _bearer(authorization: str | bytes | None) -> bytes | WebhookError:
    if not authorization:
        return InvalidTokenError(Reason.MISSING_TOKEN)
    if len(authorization) > MAX_TOKEN_CHARACTERS:
        return _too_large(Reason.TOKEN_TOO_LARGE, len(authorization), MAX_TOKEN_CHARACTERS)
    # A character beyond ASCII becomes a question mark, and that is in no token either.
    value = authorization.encode("ascii", "replace") if isinstance(authorization, str) else authorization
    scheme, _, token = value.partition(b" ")
    if scheme != b"Bearer" and scheme.lower() != b"bearer":
        return InvalidTokenError(Reason.WRONG_SCHEME)
    return token


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """All that a token's header may hold: ``alg`` and ``kid`` [docs], and the ``typ`` that most libraries add.

    RFC 7515 lets a reader ignore other fields. Here they are refused: some choose a key or change the rules, and none
    is Jetpay's.
    """

    alg: str
    kid: _Text
    typ: str | msgspec.UnsetType = msgspec.UNSET


_header_decoder = msgspec.json.Decoder(_Header)


def _named_key(segment: bytes, keys: KeySet) -> Key | InvalidTokenError:
    """Read the header of a token that nobody has vouched for yet; all that it may do is to name a key."""
    try:
        data = decode_base64url(segment)
        header = _header_decoder.decode(data)
        if header.alg != "RS256":
            return InvalidTokenError(Reason.WRONG_ALGORITHM)
        key = keys.find(header.kid)
        if key is None:
            return keys.refusal(header.kid)
        if data.count(b":") != (2 if header.typ is msgspec.UNSET else 3):
            refuse_repetitions(data)
    except ValueError:
        return _header_refusal(segment)
    return key


def _header_refusal(segment: bytes) -> InvalidTokenError:
    try:
        header = read_object(decode_base64url(segment))
    except ValueError as error:
        return InvalidTokenError(Reason.MALFORMED_TOKEN, {"segment": "header", "problem": str(error)})
    if header.get("alg") != "RS256":
        return InvalidTokenError(Reason.WRONG_ALGORITHM)
    foreign = header.keys() - {"alg", "kid", "typ"}
    if foreign:
        known = sorted(foreign & _DANGEROUS_FIELDS)
        return InvalidTokenError(Reason.FORBIDDEN_HEADER, {"field": known[0] if known else "unknown"})
    return InvalidTokenError(Reason.MALFORMED_TOKEN, {"segment": "header", "problem": "kid or typ isn't a text"})


def _check_signature(key: Key, signed: bytes, segment: bytes) -> None:
    try:
        signature = decode_base64url(segment)
    except ValueError as error:
        raise InvalidTokenError(Reason.MALFORMED_TOKEN, {"segment": "signature", "problem": str(error)}) from None
    try:
        key.public.verify(signature, signed, _PADDING, _HASH)
    except InvalidSignature:
        raise InvalidTokenError(Reason.BAD_SIGNATURE, {"kid": key.kid}) from None


def signer(authorization: str | bytes | None, keys: KeySet) -> Key | None:
    """Find the key of the set that did sign a token, whichever key the token names; None if none did."""
    token = _bearer(authorization)
    if isinstance(token, WebhookError):
        return None
    signed, _, signature = token.rpartition(b".")
    for key in keys:
        try:
            _check_signature(key, signed, signature)
        except InvalidTokenError:
            continue
        return key
    return None


_claims_decoder = msgspec.json.Decoder(Claims)
_CLAIM_TYPES = get_type_hints(Claims, include_extras=True)


def _read_claims(segment: bytes) -> tuple[Claims, float]:
    """Return the claims, and the moment from which they hold."""
    try:
        data = decode_base64url(segment)
        claims = _claims_decoder.decode(data)
        # No more members than there are claims: none is repeated, and none was left unread.
        if data.count(b":") == len(_CLAIM_TYPES):
            return claims, claims.iat
        others = read_object(data)
    except (ValueError, RecursionError):
        raise _claims_refusal(segment) from None
    # RFC 7519, section 4.1.3: who isn't named in `aud` must refuse, and Jetpay tells nobody by what name [docs].
    if "aud" in others:
        raise _invalid_claim("aud")
    return claims, max(claims.iat, _not_before(others.get("nbf", 0)))


def _not_before(nbf: JSONValue) -> float:
    try:
        return msgspec.convert(nbf, Seconds)
    except ValueError:
        raise _invalid_claim("nbf") from None


def _claims_refusal(segment: bytes) -> InvalidTokenError:
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


def _check_window(claims: Claims, opens: float, now: float, leeway: float) -> None:
    # Written so that a `now` that is not a number passes neither.
    if not opens <= now + leeway:
        raise StaleDeliveryError(
            Reason.NOT_YET_VALID, {"early_by": opens - now, "age": now - claims.iat, "leeway": leeway}
        )
    # Rounded down, as PyJWT does: a fraction of a second is not to tell two readers apart.
    if not now - leeway < floor(claims.exp):
        raise StaleDeliveryError(
            Reason.EXPIRED, {"late_by": now - claims.exp, "age": now - claims.iat, "leeway": leeway}
        )


def _check_body(body: bytes, claims: Claims) -> None:
    digest = sha256(body).digest()
    # Whether base64url is padded here is not documented: both are taken [docs].
    signed = claims.payload_hash.removesuffix("=").encode("ascii", "replace")
    if not hmac.compare_digest(encode_base64url(digest), signed):
        raise _body_refusal(body, signed)


def _body_refusal(body: bytes, signed: bytes) -> WebhookError:
    try:
        digest = decode_base64url(signed)
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_BYTES:
        return _invalid_claim("payload_hash")
    from jetpay_async.webhooks._body_diagnosis import cause_of  # noqa: PLC0415 - only read when needed

    return PayloadMismatchError(Reason.PAYLOAD_MISMATCH, {"size": len(body), "cause": cause_of(body, digest)})
