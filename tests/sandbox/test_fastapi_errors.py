"""What the sandbox refuses is what FastAPI refuses, in the same words: FastAPI itself is the judge."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .calling import Caller

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install --group frameworks")

from tests.fastapi_service import ask, make_service

SERVICE = make_service()

CARD = {"amount": 100.5, "to_bank_account_id": "bank_789", "statement": "Stay"}
CONTACT = {"email": "a@example.com", "name": "A", "tags": ["vip"], "language": "en"}
BANK_ACCOUNT = {
    "contact_id": "contact_123",
    "institution": "A Bank",
    "title": "Savings",
    "holder_name": "A Payer",
    "account_type": "chequing",
    "transit_number": "00001",
    "institution_number": "001",
    "account_number": "1234567",
    "holder_address": "1 Road",
    "holder_address_postal_code": "A1A1A1",
    "holder_address_city": "Town",
    "holder_address_country": "CA",
    "holder_email": "payer@example.com",
}
DEBIT = {"amount": 80, "statement": "Rent", "to_bank_account": "bank_789", "contact_id": "contact_123"}
CREDIT = {"amount": 80, "statement": "Rent", "from_bank_account": "bank_789", "contact_id": "contact_123"}
WEBHOOK = {
    "callback_api_key": "key",
    "max_batch_size": 10,
    "max_wait_seconds": 60,
    "replay_from_event_id": 1,
    "replay_from_timestamp": "2026-01-22T10:15:30Z",
    "callback_url": "http://127.0.0.1:9/hook",
}
CALLS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "preauthorize": ("POST", "/contact/contact_123/creditcards/cc_456/preauthorize", CARD),
    "charge": ("POST", "/contact/contact_123/creditcards/cc_456/charge", CARD),
    "create_contact": ("PUT", "/contact", CONTACT),
    "create_bank_account": ("PUT", "/contact/bank_account", BANK_ACCOUNT),
    "create_debit": ("PUT", "/debit", DEBIT),
    "create_credit": ("PUT", "/credit", CREDIT),
    "register_webhook": ("POST", "/webhooks/", WEBHOOK),
    "change_webhook": ("PATCH", "/webhooks/{identifier}", WEBHOOK),
}
every_call = pytest.mark.parametrize("call", CALLS)

VALUES: list[object] = [
    *(None, True, False, [], {}, {"a": 1}, "", "x" * 31, "x" * 2100, "abc"),
    *("9" * 4301,),
    *(0, -1, 1, 59, 101, 3601, 5, 2**70, 2.0**63, 0.5, 1.005, 10.0, 1e30, -2.5, 253402300800, -1e12),
    *([1], [""], ["a", None, ["b"]], [[]]),
    # integers
    *("50", " 50 ", "+50", "5_0", "50.0", "50.5", "5e1", "0x32", "5__0", "--5", "50.", "-50", "\u0665", "_5"),
    # moments
    *("2026", "2026-01", "2026-01-22", "2026-01-22T", "2026-01-22T10", "2026-01-22T10:15", "2026-01-22 10:15:30Z"),
    *("2026-01-22T10:15:30.123456789Z", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-01-22T25:00:00Z"),
    *("2026-01-22T10:15:30+0100", "2026-01-22T10:15:30-01:00", "2026-01-22T10:15:30+25:00", "2026-01-22T10:15:30+01"),
    *("2026-01-22T10:15:30+01:99", "20260122T101530", "2026/01/22", "not a date at all", "2026-1-22T10:15:30"),
    *("2026-01-xxT10:15:30", "0000-02-29T00:00:00Z", "0000-01-01", "2026-01-22_10:15:30", "-1", "253402300800"),
    *("+5", ".5", "9" * 18, "-" + "9" * 14),
    *("2026-01-22T10:15:30Zx", "2026-01-22é10:15", "0000-01-01x"),
    # addresses
    *("//host/x", "/x", "ftp://host/x", "mailto:a@example.com", "http://", "https:", "http:///", "http://?x"),
    *("http://a:99999/", "http://a:x/", "http://[::1", "http://a b/", "http://10.0.0.1/hook", "1http://x", "http//x"),
    *("https://shop.example.com/hook", "http://localhost:9/taken", "https://me:key@127.0.0.1:9/hook?a=b#c"),
]


async def both(caller: Caller, call: str, body: bytes, content_type: str = "application/json") -> tuple[Any, Any]:
    """Send the same body to FastAPI and to the sandbox; return the errors of each, None where it is accepted."""
    method, path, _ = CALLS[call]
    if not any(webhook.callback_url.endswith("/taken") for webhook in caller.sandbox._webhooks):
        caller.sandbox.add_webhook("http://localhost:9/taken")
    identifier = caller.sandbox.add_webhook(f"http://localhost:9/{caller.sandbox.requests()}")
    headers = {"Content-Type": content_type, "Authorization": f"Bearer {caller.sandbox.api_token}"}
    status, judged = await ask(SERVICE, method, path, body, list(headers.items()))
    reply = await caller.call(method, path.replace("{identifier}", identifier), data=body, headers=headers)
    if path.startswith("/webhooks/"):
        for webhook in list(caller.sandbox._webhooks):  # the next body may register the same URL
            if not webhook.callback_url.endswith("/taken"):
                caller.sandbox._webhooks.remove(webhook)
    rejections = {400, 422}
    return (judged if status in rejections else None), (reply.document if reply.status in rejections else None)


@pytest.mark.asyncio
@every_call
async def test_each_field_with_each_value(caller: Caller, call: str) -> None:
    """Every value, in all fields at once, is refused by both in the same words, or accepted by both."""
    differences: list[object] = []
    for value in VALUES:
        judged, answered = await both(caller, call, json.dumps(dict.fromkeys(CALLS[call][2], value)).encode())
        if judged != answered:
            differences.append((value, judged, answered))

    assert differences == []


@pytest.mark.asyncio
@every_call
async def test_fields_that_are_missing_or_bad_together(caller: Caller, call: str) -> None:
    """Several errors come in one answer and in one order; what a model checks as a whole comes only without them."""
    good = CALLS[call][2]
    bodies: list[Mapping[str, object]] = [{}, dict.fromkeys(good), dict.fromkeys(good, 7.5), {"unknown": 1}]
    bodies += [{key: value for key, value in good.items() if key != name} for name in good]
    bodies += [dict(list(good.items())[:half]) for half in (len(good) // 2,)]
    bodies += [
        {**good, "contact_id": None, "contact_email": "a@example.com", "contact_name": name} for name in ("", None)
    ]
    for body in bodies:
        judged, answered = await both(caller, call, json.dumps(body).encode())

        assert answered == judged, body


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b'{"amount": 1,}', "application/json"),
        (b'{"amount" 1}', "application/json"),
        (b'{"amount": 01}', "application/json"),
        ('{"name": "é", "amount": x}'.encode(), "application/json"),
        (b'{"a": "\x01"}', "application/json"),
        (b'{"a": "\\x"}', "application/json"),
        (b"{} {}", "application/json"),
        (b"{'a': 1}", "application/json"),
        (b"nonsense", "application/problem+json"),
        (b"\xff\xfe", "application/json"),
        (b'{"a": "\xff"}', "application/json"),
        (b"[1, 2.5]", "application/json"),
        (b"null", "application/json"),
        (b'"text"', "Application/JSON"),
        (b"{}", "application/problem+json"),
        (b'{"amount": 1}', "text/plain"),
        (b"amount=1", "application/x-www-form-urlencoded"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("call", ["preauthorize", "create_contact"])
async def test_bodies_that_are_no_object(caller: Caller, call: str, body: bytes, content_type: str) -> None:
    """What is no JSON, or no object, is one error: where it is, and why."""
    judged, answered = await both(caller, call, body, content_type)

    assert answered == judged
    assert judged is not None


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body",
    [json.dumps({**CARD, "amount": math.nan}).encode(), b'{"statement": "\\ud800"}', b"\xef\xbb\xbf{}"],
    ids=repr,
)
async def test_what_fastapi_could_not_repeat(caller: Caller, body: bytes) -> None:
    """What Python takes for JSON and no standard does is refused as well: FastAPI would fail at repeating it."""
    reply = await caller.call("PUT", "/contact", data=body, headers={"Content-Type": "application/json"})

    (error,) = reply.document["detail"]
    assert reply.status == 422
    assert (error["type"], error["loc"], error["ctx"]) == ("json_invalid", ["body", 0], {"error": "Out of range"})


@pytest.mark.asyncio
async def test_an_array_that_is_nested_too_deeply(caller: Caller) -> None:
    """A body that no parser gets to the end of is a 400, as FastAPI's."""
    headers = {"Content-Type": "application/json"}
    reply = await caller.call("PUT", "/contact", data=b"[" * 100_000, headers=headers)

    assert (reply.status, reply.document) == (400, {"detail": "There was an error parsing the body"})
