"""Explain at length why a delivery is rejected: with the figures, the likely cause and what to do."""

from __future__ import annotations

import time

from jetpay_async.webhooks._jwt import DEFAULT_LEEWAY_SECONDS, signer, verify
from jetpay_async.webhooks._messages import as_utc
from jetpay_async.webhooks._request import DeliveryRequest
from jetpay_async.webhooks.errors import Reason, WebhookError
from jetpay_async.webhooks.events import decode
from jetpay_async.webhooks.keyset import KeySet

__all__ = ["explain"]


def explain(
    body: bytes,
    authorization: str | bytes | None,
    *,
    keys: KeySet,
    now: float | None = None,
    leeway: float = DEFAULT_LEEWAY_SECONDS,
) -> str:
    """Verify a recorded delivery and explain the result at more length than an error can.

    ``jetpay webhooks explain`` prints it. A token that is out of its time window is verified once more as of the moment
    of its signing, and after a bad signature the other keys of the set are tried.

    Args:
        body: The bytes as received.
        authorization: The value of the ``Authorization`` header, or None.
        keys: The keys to verify with.
        now: The time to verify at, in seconds since the epoch; the present if None.
        leeway: Seconds, 0 to 300, by which the clocks may differ.

    Returns:
        Some sentences, without the body, the token or a key in them.

    Raises:
        InvalidArgumentError: The body isn't `bytes`, or the leeway is out of range.
    """
    request = DeliveryRequest(body, authorization, None)
    del body, authorization  # error reporters collect local variables
    moment = time.time() if now is None else now
    sentences, rejection = _verified(request, keys, moment, leeway)
    if rejection is None:
        return sentences
    if rejection.reason is Reason.BAD_SIGNATURE:
        key = signer(request.authorization, keys)
        if key is not None:
            return f"{sentences} The key {key.kid!r} of the set did: the ids of the published keys are mixed up."
    if rejection.reason in {Reason.EXPIRED, Reason.NOT_YET_VALID}:
        signed_at = moment - float(rejection.facts["age"])
        return f"{sentences} As of its signing: {_verified(request, keys, signed_at, leeway)[0]}"
    return sentences


def _verified(request: DeliveryRequest, keys: KeySet, moment: float, leeway: float) -> tuple[str, WebhookError | None]:
    try:
        claims = verify(request.body, request.authorization, keys=keys, now=moment, leeway=leeway)
        delivery = decode(request.body)
    except WebhookError as rejection:
        return rejection.explain(), rejection
    count = len(delivery.events)
    signed_at = as_utc(claims.iat)
    return f"The delivery is authentic: webhook {delivery.webhook_id}, signed at {signed_at}, events: {count}.", None
