"""The tree of rejections, and the codes that logs and metrics rely on."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Awaitable, Callable

import pytest

from jetpay_async import errors
from jetpay_async.webhooks import (
    ForeignDeliveryError,
    InvalidTokenError,
    KeysUnavailableError,
    MalformedDeliveryError,
    PayloadMismatchError,
    Reason,
    StaleDeliveryError,
    WebhookError,
    WebhookVerifier,
    decode,
    sign,
    verify,
)
from tests.webhooks.signing import BODY, KEYS, KID, NOW, PRIVATE, token

KINDS = [
    MalformedDeliveryError,
    InvalidTokenError,
    ForeignDeliveryError,
    StaleDeliveryError,
    PayloadMismatchError,
    KeysUnavailableError,
]


def test_the_tree() -> None:
    """Every rejection is a WebhookError, and that a JetpayError."""
    assert issubclass(WebhookError, errors.JetpayError)
    assert all(kind.__bases__ == (WebhookError,) for kind in KINDS)


def test_codes_and_statuses() -> None:
    """Codes are stable: a dashboard counts them. 503 and 413 are kept for what another attempt may cure."""
    by_status = {
        status: {reason.value for reason in Reason if reason.status_hint == status}
        for status in (400, 401, 403, 413, 503)
    }

    assert by_status == {
        400: {"malformed_body", "conflicting_events"},
        401: {
            "missing_token",
            "several_tokens",
            "wrong_scheme",
            "malformed_token",
            "wrong_algorithm",
            "forbidden_header",
            "unknown_key",
            "unusable_key",
            "bad_signature",
            "missing_claim",
            "invalid_claim",
            "expired",
            "too_old",
            "not_yet_valid",
            "payload_mismatch",
        },
        403: {"wrong_webhook", "wrong_callback_key"},
        413: {"body_too_large", "token_too_large"},
        503: {
            "key_set_too_large",
            "malformed_key_set",
            "no_usable_key",
            "keys_unreachable",
            "keys_outdated",
            "keys_closed",
        },
    }
    assert sum(map(len, by_status.values())) == len(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_an_error_of_each_reason(reason: Reason) -> None:
    """An error says its reason in words, compares its code with a text, and survives pickling and copying."""
    error = WebhookError(reason, {"size": 1})

    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(same), same.reason, same.facts) == (WebhookError, reason, {"size": 1})
        assert same.status_hint == reason.status_hint
    assert str(error) == error.message == reason.message
    assert error.reason == reason.value
    assert f"{error.reason}" == reason.value


def test_notes_survive() -> None:
    """A note that a caller added is still there after pickling."""
    error = InvalidTokenError(Reason.UNKNOWN_KEY, {"kid": "x"})
    error.add_note("seen at the edge")

    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen at the edge"]


async def _called(function: Callable[[], object]) -> None:
    function()


FORGED = token({"alg": "RS256", "kid": "forged"})
REJECTIONS: dict[str, Callable[[], Awaitable[object]]] = {
    "verify": lambda: _called(lambda: verify(BODY, FORGED, keys=KEYS, now=NOW)),
    "decode": lambda: _called(lambda: decode(b"no delivery")),
    "the token": lambda: WebhookVerifier(KEYS).verify(BODY, FORGED),
    "the body": lambda: WebhookVerifier(KEYS).verify(b"no delivery", sign(b"no delivery", PRIVATE, kid=KID)),
    "the headers": lambda: WebhookVerifier(KEYS).check_headers({"Authorization": FORGED}),
}


@pytest.mark.parametrize("reject", REJECTIONS.values(), ids=REJECTIONS)
@pytest.mark.asyncio
async def test_a_rejection_is_freed_at_once(reject: Callable[[], Awaitable[object]]) -> None:
    """Anybody can cause one: neither the error nor the frames that it came through wait for the garbage collector."""
    gc.disable()
    try:
        try:
            await reject()
        except WebhookError as error:
            rejection = weakref.ref(error)
        assert rejection() is None
    finally:
        gc.enable()


def test_imports() -> None:
    """With pinned keys, verifying and decoding import neither aiohttp nor asyncio; every public name can be had."""
    script = """
import sys
import jetpay_async.webhooks as webhooks
assert not {"cryptography", "cattrs", "msgspec"} & set(sys.modules), "importing the package is free"
webhooks.verify, webhooks.decode, webhooks.KeySet, webhooks.sign, webhooks.WebhookError, webhooks.explain
assert not {"aiohttp", "asyncio", "ssl"} & set(sys.modules), sorted(sys.modules)
webhooks.WebhookVerifier, webhooks.RemoteKeySet
assert "aiohttp" not in sys.modules
for name in webhooks.__all__:
    assert getattr(webhooks, name) is vars(webhooks)[name], name
assert set(webhooks.__all__) <= set(dir(webhooks))
try:
    webhooks.nothing
except AttributeError as error:
    assert "no attribute 'nothing'" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True)
