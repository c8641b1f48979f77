"""The claims of a verified token."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import attrs
import msgspec

__all__ = ["Claims"]

EpochSeconds = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]
"""Seconds since the epoch, up to the last second that a `datetime` can hold."""
NonEmptyText = Annotated[str, msgspec.Meta(min_length=1)]


@attrs.frozen(kw_only=True)
class Claims:
    """What a verified token says [docs]."""

    jti: NonEmptyText
    """The token's own id, usually a UUID. If Jetpay sends the same events again, the token has another one."""
    iat: EpochSeconds
    """When it was signed, in seconds since the epoch."""
    exp: EpochSeconds
    """When it expires, about 90 seconds later."""
    iss: Literal["jetpay"]
    sub: Literal["webhook"]
    payload_hash: NonEmptyText
    """SHA-256 of the body in base64url, as it was sent."""

    @property
    def issued_at(self) -> datetime:
        """`iat`, aware, in UTC."""
        return datetime.fromtimestamp(self.iat, UTC)

    @property
    def expires_at(self) -> datetime:
        """`exp`, aware, in UTC."""
        return datetime.fromtimestamp(self.exp, UTC)
