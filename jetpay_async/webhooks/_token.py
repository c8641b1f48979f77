"""Verify a token and the body it vouches for, or refuse: pure, and total over any bytes."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs

__all__ = ["Claims"]


@attrs.frozen(kw_only=True)
class Claims:
    """What a verified token says [docs]."""

    kid: str
    """The id of the key that signed it."""
    jti: str
    """The token's own id, a UUID as a rule. Another sending of the same events has another."""
    iat: int
    """When it was signed, in seconds since the epoch."""
    exp: int
    """When it expires, about 90 seconds later."""
    iss: str
    """``jetpay``, always."""
    sub: str
    """``webhook``, always."""
    payload_hash: str
    """SHA-256 of the body, base64url, with or without padding, as it was sent."""

    @property
    def issued_at(self) -> datetime:
        """`iat`, aware, in UTC."""
        return datetime.fromtimestamp(self.iat, UTC)

    @property
    def expires_at(self) -> datetime:
        """`exp`, aware, in UTC."""
        return datetime.fromtimestamp(self.exp, UTC)
