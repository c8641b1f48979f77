"""Verify and decode in one step, with pinned keys or fetched ones."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable
from typing import TypeAlias, cast

from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.secret import Secret
from jetpay_async._text import printable
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks._jwt import (
    DEFAULT_LEEWAY_SECONDS,
    MAX_BODY_BYTES,
    Window,
    claims_or_error,
    token_claims_or_error,
)
from jetpay_async.webhooks._request import DeliveryRequest, Headers, authorization_of, pairs_of, values_of
from jetpay_async.webhooks.claims import Claims
from jetpay_async.webhooks.errors import ForeignDeliveryError, InvalidTokenError, Reason, WebhookError, bare
from jetpay_async.webhooks.events import Delivery, delivery_or_error
from jetpay_async.webhooks.keyset import KeySet
from jetpay_async.webhooks.remote_keyset import RemoteKeySet

__all__ = ["Headers", "WebhookVerifier", "authorization_of"]

_Outcome: TypeAlias = Claims | WebhookError | InvalidArgumentError


class WebhookVerifier:
    """Turn the raw body and the headers of a delivery into verified, typed events.

    ::

        verifier = WebhookVerifier(RemoteKeySet(PRODUCTION_URL), webhook_ids={123})  # once per process
        delivery = await verifier.verify(await request.body(), headers=request.headers)

    **Set ``webhook_ids``, or ``callback_api_key``.** Jetpay's tokens name no recipient [docs], so any customer of
    Jetpay can let its own, authentic deliveries be sent to your URL. Without one of the two, they reach your handlers.

    Args:
        keys: Pinned keys, which need no network, or fetched ones. The code that made a `RemoteKeySet` closes it.
        leeway: Seconds, 0 to 300, by which the clocks may differ, in both directions.
        webhook_ids: The numbers (``id``) of your webhooks, as returned when they were registered; None accepts any.
        max_body_bytes: A larger body is rejected unread.
        max_token_age: Seconds after its signing for which a token is accepted, besides the leeway; None leaves that to
            the token, which expires after about 90 s [docs].
        clock: Where time comes from.
        callback_api_key: The ``callback_api_key`` that the webhook was registered with: a delivery without it is
            rejected. It is compared in constant time.
        callback_api_key_header: The header that carries the key. Jetpay doesn't publish its name: read it from a
            delivery of your own webhook.

    Raises:
        InvalidArgumentError: A number of seconds is out of range, or ``webhook_ids`` is empty or holds what is no whole
            number.
        ConfigurationError: Of ``callback_api_key`` and its header, one is missing or empty.
    """

    def __init__(
        self,
        keys: KeySet | RemoteKeySet,
        *,
        leeway: float = DEFAULT_LEEWAY_SECONDS,
        webhook_ids: Collection[int] | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_token_age: float | None = None,
        clock: Clock = SYSTEM_CLOCK,
        callback_api_key: str | None = None,
        callback_api_key_header: str | None = None,
    ) -> None:
        self._callback_api_key = None if callback_api_key is None else Secret(callback_api_key.encode())
        is_empty = "" in {callback_api_key, callback_api_key_header}
        del callback_api_key  # error reporters collect local variables, those of a constructor that fails too
        self._window = Window(leeway, max_token_age).checked()
        if (self._callback_api_key is None) is not (callback_api_key_header is None):
            raise ConfigurationError("callback_api_key and callback_api_key_header: pass both, or neither")
        if is_empty:
            raise ConfigurationError("callback_api_key and callback_api_key_header: must not be empty")
        self._keys = keys
        self._webhook_ids = None if webhook_ids is None else _checked_ids(webhook_ids)
        self._max_body_bytes = max_body_bytes
        self._clock = clock
        self._callback_api_key_header = callback_api_key_header or ""

    def __repr__(self) -> str:
        return f"WebhookVerifier({getattr(self, '_keys', None)!r}, webhook_ids={getattr(self, '_webhook_ids', None)!r})"

    @property
    def accepts_any_webhook(self) -> bool:
        """Whether deliveries to any customer of Jetpay are accepted: no ``webhook_ids``, no ``callback_api_key``."""
        return self._webhook_ids is None and self._callback_api_key is None

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
        request = DeliveryRequest(body, authorization, headers)
        del body, authorization, headers  # error reporters collect local variables
        if self._callback_api_key is not None and request.headers is None:
            raise ConfigurationError("callback_api_key is set, so verify() and receive() need headers=request.headers")
        outcome = self._delivery(request, await self._claims(request, with_body=True))
        if isinstance(outcome, Delivery):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # an error that its own frame holds waits for the garbage collector

    async def check_headers(self, headers: Headers) -> None:
        """Verify all of a delivery but its body, so that nobody reads the body of one that is rejected anyway.

        Args:
            headers: All headers of the request, as the framework has them.

        Raises:
            WebhookError: It is rejected, whatever its body.
        """
        request = DeliveryRequest(None, None, headers)
        del headers  # as above
        claims = await self._claims(request, with_body=False)
        rejection = self._callback_key_rejection(request) if isinstance(claims, Claims) else claims
        if rejection is None:
            return
        try:
            raise rejection
        finally:
            del claims, rejection  # as in `verify`

    def _delivery(self, request: DeliveryRequest, claims: _Outcome) -> Delivery | WebhookError | InvalidArgumentError:
        if not isinstance(claims, Claims):
            return claims
        delivery = delivery_or_error(request.body, claims)
        if not isinstance(delivery, Delivery):
            return delivery
        return self._webhook_rejection(delivery) or self._callback_key_rejection(request) or delivery

    def _webhook_rejection(self, delivery: Delivery) -> ForeignDeliveryError | None:
        if self._webhook_ids is None or delivery.webhook_id in self._webhook_ids:
            return None
        return ForeignDeliveryError(Reason.WRONG_WEBHOOK, {"webhook_id": delivery.webhook_id})

    def _callback_key_rejection(self, request: DeliveryRequest) -> ForeignDeliveryError | None:
        if self._callback_api_key is None:
            return None
        sent = values_of(pairs_of(request.headers or ()), self._callback_api_key_header)
        if len(sent) == 1 and _is_key(sent.pop(), self._callback_api_key.reveal()):
            return None
        return ForeignDeliveryError(Reason.WRONG_CALLBACK_KEY, {"header": self._callback_api_key_header})

    async def _claims(self, request: DeliveryRequest, *, with_body: bool) -> _Outcome:
        if isinstance(self._keys, KeySet):
            return self._verified(request, self._keys, with_body=with_body)
        try:
            keys = await self._keys.current()
            outcome = self._verified(request, keys, with_body=with_body)
            if isinstance(outcome, WebhookError) and outcome.reason is Reason.UNKNOWN_KEY:
                newer = await self._keys.newer_than(keys)
                if newer is not None:
                    return self._verified(request, newer, with_body=with_body)
        except WebhookError as error:
            return bare(error)
        return outcome

    def _verified(self, request: DeliveryRequest, keys: KeySet, *, with_body: bool) -> _Outcome:
        now = self._clock.time()
        try:
            token = request.token()
        except InvalidTokenError as error:
            return bare(error)
        if not with_body:
            return token_claims_or_error(token, keys, now, self._window)
        return claims_or_error(request.body, token, keys, now, window=self._window, max_body_bytes=self._max_body_bytes)


def _checked_ids(webhook_ids: Collection[int]) -> frozenset[int]:
    """Return the ids of the user's webhooks, or raise: each delivery would be rejected for a mistake in them."""
    given: object = webhook_ids
    ids = frozenset(cast("Iterable[object]", given) if isinstance(given, Iterable) else ())
    if not ids or any(isinstance(each, bool) or not isinstance(each, int) for each in ids):
        raise InvalidArgumentError(
            f"webhook_ids: pass the numbers of your webhooks, such as {{123}}, not {printable(repr(webhook_ids), 64)}",
            field="webhook_ids",
        )
    return cast("frozenset[int]", ids)


def _is_key(sent: str, key: bytes) -> bool:
    # Frameworks decode headers by either encoding.
    found = [hmac.compare_digest(sent.encode(encoding, errors="replace"), key) for encoding in ("utf-8", "latin-1")]
    return any(found)
