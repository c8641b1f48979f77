"""Verify and decode in one step, with pinned keys or fetched ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import cast

import attrs

from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async.webhooks._jwt import DEFAULT_LEEWAY_SECONDS, MAX_BODY_BYTES, check_leeway, verify
from jetpay_async.webhooks.claims import Claims
from jetpay_async.webhooks.errors import InvalidTokenError, Reason, WebhookError, bare
from jetpay_async.webhooks.events import Delivery, decode
from jetpay_async.webhooks.keyset import KeySet
from jetpay_async.webhooks.remote_keyset import RemoteKeySet

__all__ = ["WebhookVerifier", "authorization_of"]


@attrs.frozen(eq=False)
class WebhookVerifier:
    """Turn the raw body and the ``Authorization`` value of a delivery into verified, typed events.

    ::

        verifier = WebhookVerifier(RemoteKeySet(PRODUCTION_URL))  # once per process
        delivery = await verifier.verify(await request.body(), request.headers.get("authorization"))
    """

    keys: KeySet | RemoteKeySet
    """Pinned keys, which need no network, or fetched ones. The code that made a `RemoteKeySet` closes it."""
    leeway: float = attrs.field(
        default=DEFAULT_LEEWAY_SECONDS, kw_only=True, validator=lambda _self, _field, leeway: check_leeway(leeway)
    )
    """Seconds, 0 to 300, by which the clocks may differ, in both directions."""
    webhook_ids: Collection[int] | None = attrs.field(default=None, kw_only=True)
    """The numbers of your webhooks, as returned when they were registered; None accepts any.

    Jetpay's tokens name no recipient [docs]. So another customer of Jetpay could let its own, authentic deliveries be
    sent to you; with this, they are rejected.
    """
    max_body_bytes: int = attrs.field(default=MAX_BODY_BYTES, kw_only=True)
    """A larger body is rejected unread."""
    clock: Clock = attrs.field(default=SYSTEM_CLOCK, kw_only=True)
    """Where time comes from."""

    async def verify(self, body: bytes, authorization: str | bytes | None) -> Delivery:
        """Verify a delivery and decode it; raise, or return what is verified.

        Args:
            body: The bytes as received: before any parsing, and before any decompression.
            authorization: The value of the ``Authorization`` header, ``Bearer <jwt>``; None if there is none.

        Returns:
            The delivery, with ``claims``.

        Raises:
            WebhookError: It is rejected. Answer with ``status_hint`` and log ``reason``; ``explain()`` says why.
            InvalidArgumentError: The body isn't `bytes`.
        """
        try:
            claims = await self._claims(body, authorization)
            delivery = decode(body)
            if self.webhook_ids is not None and delivery.webhook_id not in self.webhook_ids:
                raise InvalidTokenError(Reason.WRONG_WEBHOOK, {"webhook_id": delivery.webhook_id})
        except WebhookError as error:
            rejection = bare(error)
        else:
            return Delivery(webhook_id=delivery.webhook_id, events=delivery.events, claims=claims)
        del body, authorization  # a traceback with local variables must not show them
        raise rejection

    async def _claims(self, body: bytes, authorization: str | bytes | None) -> Claims:
        if isinstance(self.keys, KeySet):
            return self._verify(body, authorization, self.keys)
        keys = await self.keys.current()
        try:
            return self._verify(body, authorization, keys)
        except InvalidTokenError as error:
            if error.reason is not Reason.UNKNOWN_KEY:
                raise
            newer = await self.keys.newer_than(keys)
            if newer is None:
                raise
        return self._verify(body, authorization, newer)

    def _verify(self, body: bytes, authorization: str | bytes | None, keys: KeySet) -> Claims:
        return verify(
            body,
            authorization,
            keys=keys,
            now=self.clock.time(),
            leeway=self.leeway,
            max_body_bytes=self.max_body_bytes,
        )


def authorization_of(headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]) -> str | bytes | None:
    """Find the ``Authorization`` value in the headers of any framework, whatever the case of the names.

    Args:
        headers: A mapping (a plain dict, multidict, Django's, Starlette's) or the list of pairs of ASGI.

    Returns:
        The value, for `WebhookVerifier.verify`; None if there is none.

    Raises:
        InvalidTokenError: There are several that differ (`Reason.SEVERAL_TOKENS`).
    """
    pairs = cast("Mapping[str, str]", headers).items() if isinstance(headers, Mapping) else headers
    values = {value for name, value in pairs if name.lower() in {"authorization", b"authorization"}}
    if len(values) > 1:
        del headers, pairs, values  # a traceback with local variables must not show them
        raise InvalidTokenError(Reason.SEVERAL_TOKENS)
    return values.pop() if values else None
