"""Headers in the forms of every framework: right, or a clear error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks import EventRouter, InvalidTokenError, KeySet, SqliteInbox, WebhookReceiver, WebhookVerifier
from jetpay_async.webhooks._request import DeliveryRequest, authorization_of
from tests.webhooks.receiving import body_of, document
from tests.webhooks.serving import JWKS, authorization

if TYPE_CHECKING:
    from pathlib import Path

    from jetpay_async.webhooks.sqlite_inbox import MemoryInbox

BODY = body_of([document(1)])

FOUND = {
    "a list": {"Authorization": ["Bearer a"]},
    "bytes": [(b"authorization", b"Bearer a")],
    "bytearray": [(bytearray(b"Authorization"), bytearray(b"Bearer a"))],
    "twice the same": [(b"authorization", b"Bearer a"), ("Authorization", "Bearer a")],
    "none beside it": {"X": None, "authorization": "Bearer a"},
}


@pytest.mark.parametrize("headers", FOUND.values(), ids=FOUND)
def test_the_token_is_found(headers: object) -> None:
    """Whatever a framework has headers in, the value is the same."""
    assert authorization_of(headers) == "Bearer a"  # type: ignore[arg-type] # forms that no framework's types name


@pytest.mark.parametrize("value", [["Bearer a"], ("Bearer a", b"Bearer a"), bytearray(b"Bearer a")], ids=str)
def test_the_value_by_itself_may_be_a_list(value: object) -> None:
    """Lambda's ``multiValueHeaders["Authorization"]`` can be passed as it is."""
    assert DeliveryRequest(b"", value, None).token() == "Bearer a"


def test_a_value_without_content_is_none() -> None:
    """An empty list, or a header without a value, is no token."""
    assert DeliveryRequest(b"", [], None).token() is None
    assert authorization_of({"Authorization": None}) is None  # type: ignore[dict-item] # some frameworks do


def test_values_that_differ() -> None:
    """Which of two different tokens counts must not depend on who reads them."""
    with pytest.raises(InvalidTokenError) as caught:
        DeliveryRequest(b"", ["Bearer a", "Bearer b"], None).token()
    assert caught.value.reason == "several_tokens"


@pytest.mark.parametrize("headers", [5, {"Authorization": 5}, [("Authorization",)], {5: "Bearer a"}], ids=str)
@pytest.mark.asyncio
async def test_what_is_no_header_is_named(headers: object, inbox: MemoryInbox) -> None:
    """A wrong argument is an error of this package's that says what to pass, and shows nothing of it."""
    receiver = WebhookReceiver(WebhookVerifier(KeySet.from_jwks(JWKS), webhook_ids={123}), EventRouter(), inbox=inbox)
    for receiving in (receiver.receive(BODY, headers=headers), receiver.check_headers(headers)):  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="names with texts"):
            await receiving


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.parametrize("acknowledge", ["after_handling", "after_storing"])
@pytest.mark.asyncio
async def test_a_forked_child_leaves_the_parents_tasks_alone(
    path: Path, acknowledge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aclose() in a forked child returns: tasks of the parent's loop never end there. The child can enter it again."""
    from jetpay_async._core import fork

    verifier = WebhookVerifier(KeySet.from_jwks(JWKS), webhook_ids={123})
    async with SqliteInbox(path) as inbox:
        receiver = WebhookReceiver(verifier, EventRouter(), inbox=inbox, acknowledge=acknowledge)  # type: ignore[arg-type]
        await receiver.__aenter__()
        assert receiver._stored_worker is not None
        task = receiver._stored_worker._task
        with monkeypatch.context() as in_child:
            in_child.setattr(fork, "_generation", fork._generation + 1)
            await receiver.aclose()

            assert task is not None
            assert not task.cancelling()
        task.cancel()
        async with receiver:
            assert (await receiver.receive(BODY, authorization(BODY))).status == 200


@pytest.mark.asyncio
async def test_a_forked_child_of_a_receiver_that_stores_nothing(
    inbox: MemoryInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no task for stored events, and is closed all the same."""
    from jetpay_async._core import fork

    receiver = WebhookReceiver(WebhookVerifier(KeySet.from_jwks(JWKS), webhook_ids={123}), EventRouter(), inbox=inbox)
    await receiver.__aenter__()
    monkeypatch.setattr(fork, "_generation", fork._generation + 1)

    await receiver.aclose()

    assert (await receiver.receive(BODY, authorization(BODY))).reason == "closed"
