"""The texts that explain a rejected delivery, by the codes of `Reason` and `Cause`.

A leaf: errors import it, and it imports nothing of this package.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_JETPAY = "Jetpay sends no such token: it comes from somebody else, or a proxy replaced it."
_CHECK_CLOCK = "If this happens often, compare this host's clock with the true time."

EXPLANATIONS = {
    "body_too_large": (
        "The body has {size} bytes; this receiver accepts at most {limit}. Raise max_body_bytes, or register the "
        "webhook with a smaller max_batch_size."
    ),
    "token_too_large": (
        "The Authorization value has {size} characters; a token of Jetpay has about 600. " + _NOT_JETPAY
    ),
    "malformed_body": "The body is not a delivery: {problem}.",
    "conflicting_events": (
        "Two different events of the delivery have the id {event_id}; there is no way to tell which one is right."
    ),
    "missing_token": (
        "The request has no Authorization header. Either Jetpay did not send it, or a proxy removes that header: let "
        "it through."
    ),
    "several_tokens": "The request has more than one Authorization header. Make sure that no proxy adds one.",
    "wrong_scheme": (
        "The Authorization header is not of the form 'Bearer <token>'. Pass its whole value, and make sure that no "
        "proxy replaces it with its own credentials."
    ),
    "malformed_token": (
        "The token's {segment} can't be read: {problem}. It was cut or changed on its way, or it isn't Jetpay's."
    ),
    "wrong_algorithm": "The token isn't signed with RS256, the only algorithm that Jetpay uses. " + _NOT_JETPAY,
    "forbidden_header": (
        "The token's header has a field ({field}) by which a sender might choose the key or change the rules. "
        + _NOT_JETPAY
    ),
    "unknown_key": (
        "The token names the key {kid!r}, which isn't in the key set{since}. Either the key set is of another "
        "environment (demo and production have keys of their own), or pinned keys are out of date, or the token is "
        "forged."
    ),
    "unusable_key": "The token names the key {kid!r} of the key set, which can't be used: {problem}.",
    "bad_signature": (
        "The key {kid!r} did not make this signature. The token was changed or forged, or the key set is of another "
        "environment (demo and production have keys of their own)."
    ),
    "missing_claim": "The signature is valid, but the token lacks {claim}: it isn't a webhook's token.",
    "invalid_claim": "The signature is valid, but {claim} does not have the value that a webhook's token has.",
    "wrong_webhook": (
        "The delivery is authentic, but belongs to webhook {webhook_id}, which isn't in webhook_ids. Either "
        "webhook_ids is out of date, or another customer of Jetpay sends its deliveries to your URL."
    ),
    "wrong_callback_key": (
        "The delivery is authentic, but its header {header} does not hold your callback_api_key. Either the key was "
        "changed at Jetpay, or the header has another name, or another customer of Jetpay sends its deliveries to your "
        "URL."
    ),
    "expired": (
        "The token expired {late_by:.1f} s ago; it was signed {age:.1f} s ago, and the clocks may differ by "
        "{leeway:g} s. It waited too long (a queue, a cold start), or somebody else sent it again, or this host's "
        "clock is fast. " + _CHECK_CLOCK
    ),
    "too_old": (
        "The token was signed {age:.1f} s ago; this receiver accepts at most {limit:g} s (max_token_age), and the "
        "clocks may differ by {leeway:g} s. It waited too long, or somebody else sent it again, or this host's clock "
        "is fast. " + _CHECK_CLOCK
    ),
    "not_yet_valid": (
        "By this host's clock the token was signed {early_by:.1f} s in the future, and the clocks may differ by "
        "{leeway:g} s: this host's clock is slow by about that much. " + _CHECK_CLOCK
    ),
    "payload_mismatch": (
        "The token is valid, but was signed for another body than these {size} bytes. {cause_in_words} Pass the raw "
        "bytes of the request, before anything parses, decodes or decompresses them."
    ),
    "key_set_too_large": "The key set has {size} bytes; the limit is {limit}. Check the URL.",
    "malformed_key_set": "The document is not a usable JWK Set: {problem}. Check the URL.",
    "no_usable_key": (
        "The key set holds no RSA key for signatures of 2048 bits or more; {unusable} other keys in it can't be used. "
        "Check the URL."
    ),
    "keys_unreachable": "The keys could not be fetched from {url}: {problem}. Jetpay sends the delivery again.",
    "keys_outdated": (
        "The keys are {age:.0f} s old, too old to be trusted, and could not be fetched again from {url}: {problem}."
    ),
    "keys_closed": "The key set is closed: the application is shutting down, or closes it too early.",
}
"""One text for each code of `Reason`, to be filled in with the facts of the error."""

CAUSES = {
    "empty": "The body is empty: it was read before, or it is a stream that nothing has read yet.",
    "rewritten": "The hash matches this JSON in another notation: your framework parsed it and wrote it again.",
    "trimmed": "The hash matches except for white space at the end: something removed or added some.",
    "line_ends": "The hash matches with other line ends: something on the way treats the body as text.",
    "recoded": "The hash matches in another character set: the body was decoded, and encoded differently.",
    "decompressed": "The hash matches the compressed body: a proxy or your framework decompressed it.",
    "compressed": "The hash matches the decompressed body: something on the way compressed it.",
    "base64": (
        "The body is base64 of the one that was signed, as AWS Lambda passes it with isBase64Encoded: decode it."
    ),
    "other": "The bytes are not those that were signed, and none of the usual changes explains the difference.",
}
"""One text for each code of `Cause`."""


def explanation(reason: str, message: str, facts: Mapping[str, object]) -> str:
    """Write the explanation of a reason with the facts of an error, or its message if the facts are not all there."""
    fetched_at = facts.get("fetched_at")
    since = f", as it was fetched at {as_utc(fetched_at)}" if isinstance(fetched_at, float) else ""
    cause_in_words = CAUSES.get(str(facts.get("cause")), "")
    try:
        return EXPLANATIONS[reason].format_map({**facts, "since": since, "cause_in_words": cause_in_words})
    except KeyError:
        return f"{message}."


def as_utc(seconds: float) -> str:
    """Write a moment, given in seconds since the epoch, for people."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
