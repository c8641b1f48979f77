"""Verify and decode in one step, with pinned keys or fetched ones."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias, cast

import attrs

from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks._jwt import DEFAULT_LEEWAY_SECONDS, MAX_BODY_BYTES, check_leeway, verify
from jetpay_async.webhooks.claims import Claims
from jetpay_async.webhooks.errors import ForeignDeliveryError, InvalidTokenError, Reason, WebhookError, bare
from jetpay_async.webhooks.events import Delivery, decode
from jetpay_async.webhooks.keyset import KeySet
from jetpay_async.webhooks.remote_keyset import RemoteKeySet

__all__ = ["Headers", "WebhookVerifier", "authorization_of"]

Headers: TypeAlias = Mapping[str, str] | Mapping[str, Sequence[str]] | Iterable[tuple[str | bytes, str | bytes]]
"""The headers of a request, in the form of any framework."""


@attrs.frozen(eq=False)
class WebhookVerifier:
    """Turn the raw body and the headers of a delivery into verified, typed events.

    ::

        verifier = WebhookVerifier(RemoteKeySet(PRODUCTION_URL), webhook_ids={123})  # once per process
        delivery = await verifier.verify(await request.body(), headers=request.headers)

    **Set ``webhook_ids``, or ``callback_api_key``.** Jetpay's tokens name no recipient [docs], so any customer of
    Jetpay can let its own, authentic deliveries be sent to your URL. Without one of the two, they reach your handlers.
    """

    keys: KeySet | RemoteKeySet
    """Pinned keys, which need no network, or fetched ones. The code that made a `RemoteKeySet` closes it."""
    leeway: float = attrs.field(
        default=DEFAULT_LEEWAY_SECONDS, kw_only=True, validator=lambda _self, _field, leeway: check_leeway(leeway)
    )
    """Seconds, 0 to 300, by which the clocks may differ, in both directions."""
    webhook_ids: Collection[int] | None = attrs.field(default=None, kw_only=True)
    """The numbers (``id``) of your webhooks, as returned when they were registered; None accepts any."""
    max_body_bytes: int = attrs.field(default=MAX_BODY_BYTES, kw_only=True)
    """A larger body is rejected unread."""
    max_token_age: float | None = attrs.field(
        default=None,
        kw_only=True,
        validator=lambda _self, _field, age: None if age is None else check_seconds("max_token_age", age),
    )
    """Seconds after its signing for which a token is accepted, besides the leeway; None leaves that to the token, which
    expires after about 90 s [docs]."""
    clock: Clock = attrs.field(default=SYSTEM_CLOCK, kw_only=True)
    """Where time comes from."""

    callback_api_key: str | None = attrs.field(default=None, kw_only=True, repr=False)
    """The ``callback_api_key`` that the webhook was registered with: a delivery without it is rejected. It is compared
    in constant time."""
    callback_api_key_header: str | None = attrs.field(default=None, kw_only=True)
    """The header that carries the key. Jetpay doesn't publish its name: read it from a delivery of your own webhook."""

    def __attrs_post_init__(self) -> None:
        if (self.callback_api_key is None) is not (self.callback_api_key_header is None):
            raise ConfigurationError("callback_api_key and callback_api_key_header: pass both, or neither")
        if self.callback_api_key == "" or self.callback_api_key_header == "":
            raise ConfigurationError("callback_api_key and callback_api_key_header: must not be empty")

    @property
    def accepts_any_webhook(self) -> bool:
        """Whether deliveries to any customer of Jetpay are accepted: no ``webhook_ids``, no ``callback_api_key``."""
        return self.webhook_ids is None and self.callback_api_key is None

    async def verify(
        self,
        body: bytes | bytearray | memoryview,
        authorization: str | bytes | None = None,
        *,
        headers: Headers | None = None,
    ) -> Delivery:
        """Verify a delivery and decode it; raise, or return what is verified.

        Args:
            body: The bytes as received: before any parsing, and before any decompression.
            authorization: The value of the ``Authorization`` header, ``Bearer <jwt>``; None if there is none, or to
                take it from ``headers``.
            headers: All headers of the request, as the framework has them; needed for ``callback_api_key``.

        Returns:
            The delivery, with ``claims``.

        Raises:
            WebhookError: It is rejected. Answer with ``status_hint`` and log ``reason``; ``explain()`` says why.
            InvalidArgumentError: The body isn't bytes.
            ConfigurationError: There is a ``callback_api_key``, and ``headers`` were not passed.
        """
        if headers is None and self.callback_api_key is not None:
            del body, authorization  # a traceback with local variables must not show them
            raise ConfigurationError("callback_api_key is set, so verify() and receive() need headers=request.headers")
        pairs = None if headers is None else _pairs(headers)
        try:
            if authorization is None and pairs is not None:
                authorization = authorization_of(pairs)
            claims = await self._claims(body, authorization)
            delivery = decode(body)
            self._check_recipient(delivery, pairs or [])
        except WebhookError as error:
            rejection = bare(error)
        else:
            return Delivery(webhook_id=delivery.webhook_id, events=delivery.events, claims=claims)
        del body, authorization, headers, pairs  # as above
        raise rejection

    def _check_recipient(self, delivery: Delivery, pairs: Sequence[tuple[str, str | bytes]]) -> None:
        if self.webhook_ids is not None and delivery.webhook_id not in self.webhook_ids:
            raise ForeignDeliveryError(Reason.WRONG_WEBHOOK, {"webhook_id": delivery.webhook_id})
        if self.callback_api_key is None or self.callback_api_key_header is None:
            return
        sent = _values(pairs, self.callback_api_key_header)
        expected = self.callback_api_key.encode()
        if len(sent) != 1 or not hmac.compare_digest(_as_bytes(sent.pop()), expected):
            raise ForeignDeliveryError(Reason.WRONG_CALLBACK_KEY, {"header": self.callback_api_key_header})

    async def _claims(self, body: bytes | bytearray | memoryview, authorization: str | bytes | None) -> Claims:
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

    def _verify(self, body: bytes | bytearray | memoryview, authorization: str | bytes | None, keys: KeySet) -> Claims:
        return verify(
            body,
            authorization,
            keys=keys,
            now=self.clock.time(),
            leeway=self.leeway,
            max_body_bytes=self.max_body_bytes,
            max_token_age=self.max_token_age,
        )


def authorization_of(headers: Headers) -> str | bytes | None:
    """Find the ``Authorization`` value in the headers of any framework, whatever the case of the names.

    Args:
        headers: A mapping (a plain dict, multidict, Django's, Starlette's; Lambda's with lists as values) or the list
            of pairs of ASGI.

    Returns:
        The value, for `WebhookVerifier.verify`; None if there is none.

    Raises:
        InvalidTokenError: There are several that differ (`Reason.SEVERAL_TOKENS`).
    """
    values = _values(_pairs(headers), "authorization")
    if len(values) > 1:
        del headers, values  # a traceback with local variables must not show them
        raise InvalidTokenError(Reason.SEVERAL_TOKENS)
    return values.pop() if values else None


def _pairs(headers: Headers) -> list[tuple[str, str | bytes]]:
    """Return each header, by its name in lower case; a value that is a list counts as several."""
    items = cast("Mapping[str, str]", headers).items() if isinstance(headers, Mapping) else headers
    found: list[tuple[str, str | bytes]] = []
    for name, value in items:
        lower = (name.decode("latin-1") if isinstance(name, bytes) else name).lower()
        found.extend((lower, one) for one in ([value] if isinstance(value, str | bytes) else value))
    return found


def _values(pairs: Sequence[tuple[str, str | bytes]], name: str) -> set[str | bytes]:
    return {value for found, value in pairs if found == name.lower()}


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode(errors="replace") if isinstance(value, str) else value
