"""Why a delivery was refused, in words: with the figures, the likely cause and what to do."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jetpay_async.webhooks._body_diagnosis import Cause
from jetpay_async.webhooks._jwt import DEFAULT_LEEWAY, signer, verify
from jetpay_async.webhooks.errors import Reason, WebhookError
from jetpay_async.webhooks.events import decode

if TYPE_CHECKING:
    from jetpay_async.webhooks.keyset import KeySet

__all__ = ["TEXTS", "explain", "explanation_of"]

_FOREIGN = "Jetpay sends no such token: somebody else did, or a proxy replaced it."
_CLOCK = "If this happens often, compare this host's clock with the true time."

# Filled in with the facts of the error.
TEXTS = {
    Reason.BODY_TOO_LARGE: (
        "The body has {size} bytes, and this receiver takes {limit}. Raise max_body_bytes, or rows the webhook "
        "with a smaller max_batch_size."
    ),
    Reason.TOKEN_TOO_LARGE: (
        "The Authorization value has {size} characters, where a token of Jetpay's has some 600. " + _FOREIGN
    ),
    Reason.MALFORMED_BODY: "The body is not a delivery: {problem}.",
    Reason.CONFLICTING_EVENTS: (
        "Two different events of the delivery have the id {event_id}, and nobody can tell which of them is true."
    ),
    Reason.MISSING_TOKEN: (
        "The request has no Authorization header. Somebody else sent it, or a proxy removes that header: let it "
        "through."
    ),
    Reason.SEVERAL_TOKENS: "The request has more than one Authorization header. Let no proxy add one.",
    Reason.WRONG_SCHEME: (
        "The Authorization header is not of the form 'Bearer <token>'. Pass its whole value, and let no proxy put its"
        " own credentials there."
    ),
    Reason.MALFORMED_TOKEN: (
        "The token's {segment} can't be read: {problem}. It was cut or changed on its way, or it isn't Jetpay's."
    ),
    Reason.WRONG_ALGORITHM: "The token isn't signed with RS256, the only algorithm that Jetpay uses. " + _FOREIGN,
    Reason.FORBIDDEN_HEADER: (
        "The token's header has a field ({field}) by which a sender might choose the key or change the rules. "
        + _FOREIGN
    ),
    Reason.UNKNOWN_KEY: (
        "The token names the key {kid!r}, and the key set doesn't hold it{since}. Either the set is of another "
        "environment (demo and production have keys of their own), or pinned keys are out of date, or somebody forged"
        " the token."
    ),
    Reason.UNUSABLE_KEY: "The token names the key {kid!r} of the key set, which can't be used: {problem}.",
    Reason.BAD_SIGNATURE: (
        "The key {kid!r} did not make this signature. The token was changed or forged, or the key set is of another "
        "environment (demo and production have keys of their own)."
    ),
    Reason.MISSING_CLAIM: "The signature is good, but the token lacks {claim}: it isn't a webhook's token.",
    Reason.INVALID_CLAIM: "The signature is good, but {claim} of the token isn't what a webhook's token has there.",
    Reason.WRONG_WEBHOOK: (
        "The delivery is authentic, and meant for webhook {webhook_id}, which isn't among yours. Either webhook_ids "
        "is out of date, or somebody sends the deliveries of another account on to you."
    ),
    Reason.EXPIRED: (
        "The token expired {late_by:.1f} s ago; it was signed {age:.1f} s ago, and the clocks may differ by "
        "{leeway:g} s. It waited too long (a queue, a cold start), or was sent again by somebody else, or this host's"
        " clock is fast. " + _CLOCK
    ),
    Reason.NOT_YET_VALID: (
        "By this host's clock the token is signed {early_by:.1f} s in the future, and the clocks may differ by "
        "{leeway:g} s: this host's clock is slow by about as much. " + _CLOCK
    ),
    Reason.PAYLOAD_MISMATCH: (
        "The token is good, but for another body than these {size} bytes. {words} Pass the raw bytes of the request, "
        "before anything parses, decodes or decompresses them."
    ),
    Reason.KEY_SET_TOO_LARGE: "The key set has {size} bytes, and none needs more than {limit}. Check the URL.",
    Reason.MALFORMED_KEY_SET: "That isn't a JWK Set that can be used: {problem}. Check the URL.",
    Reason.NO_USABLE_KEY: (
        "The key set holds no RSA key for signatures, of 2048 bits or more; {unusable} other keys in it can't be "
        "used. Check the URL."
    ),
    Reason.KEYS_UNREACHABLE: "The keys could not be fetched from {url}: {problem}. Jetpay sends the delivery again.",
    Reason.KEYS_OUTDATED: (
        "The keys are {age:.0f} s old, too old to be trusted, and could not be fetched again from {url}: {problem}."
    ),
    Reason.KEYS_CLOSED: "The key set is closed: the application is shutting down, or closes it too early.",
}


def explanation_of(error: WebhookError) -> str:
    """Say why, with the facts of the error; see `WebhookError.explain`."""
    facts = dict(error.facts)
    fetched_at = facts.get("fetched_at")
    facts["since"] = f", as it was fetched at {_utc(fetched_at)}" if isinstance(fetched_at, float) else ""
    cause = facts.get("cause")
    facts["words"] = cause.words if isinstance(cause, Cause) else ""
    try:
        return TEXTS[error.reason].format_map(facts)
    except KeyError:  # made by hand, without facts
        return f"{error.message}."


def explain(
    body: bytes,
    authorization: str | bytes | None,
    *,
    keys: KeySet,
    now: float | None = None,
    leeway: float = DEFAULT_LEEWAY,
) -> str:
    """Judge a delivery and say why, at more length than an error can: here the body and the token are at hand.

    For a person with a recorded request; `jetpay webhooks explain` prints it. A stale token is judged once more as of
    the moment of its signing, and after a bad signature the other keys of the set are tried.

    Args:
        body: The bytes as received.
        authorization: The value of the ``Authorization`` header, or None.
        keys: The keys to judge by.
        now: The moment to judge at, in seconds since the epoch; the present if None.
        leeway: Seconds, 0 to 300, by which the clocks may differ.

    Returns:
        Some sentences, without the body, the token or a key in them.

    Raises:
        InvalidArgumentError: The body isn't `bytes`, or the leeway is out of range.
    """
    moment = time.time() if now is None else now
    sentences, refusal = _judge(body, authorization, keys, moment, leeway)
    if refusal is None:
        return sentences
    if refusal.reason is Reason.BAD_SIGNATURE:
        key = signer(authorization, keys)
        if key is not None:
            return f"{sentences} The key {key.kid!r} of the set did: whoever publishes the keys mixed up their ids."
    if refusal.reason in {Reason.EXPIRED, Reason.NOT_YET_VALID}:
        signed_at = moment - float(refusal.facts["age"])
        return f"{sentences} As of its signing: {_judge(body, authorization, keys, signed_at, leeway)[0]}"
    return sentences


def _judge(
    body: bytes, authorization: str | bytes | None, keys: KeySet, moment: float, leeway: float
) -> tuple[str, WebhookError | None]:
    try:
        claims = verify(body, authorization, keys=keys, now=moment, leeway=leeway)
        delivery = decode(body)
    except WebhookError as refusal:
        return refusal.explain(), refusal
    count = len(delivery.events)
    signed_at = _utc(claims.iat)
    return f"The delivery is authentic: webhook {delivery.webhook_id}, signed at {signed_at}, events: {count}.", None


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
