"""Errors in FastAPI's shape."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from jetpay_async import ConfigurationError, JetpayClient
from jetpay_async.sandbox import Sandbox, TokenScope

if TYPE_CHECKING:
    from .calling import Caller, Reply


def _errors(answer: Reply) -> list[tuple[str, str]]:
    assert answer.status == 422, answer
    return [(".".join(map(str, each["loc"])), each["type"]) for each in answer.document["detail"]]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("authorization", "detail"),
    [
        ("", "Not authenticated"),
        ("Bearer", "Not authenticated"),
        ("Bearer ", "Not authenticated"),
        ("Basic dXNlcjpwYXNz", "Not authenticated"),
        ("Bearer wrong", "Invalid authentication credentials"),
    ],
)
async def test_without_a_token(caller: Caller, authorization: str, detail: str) -> None:
    """A missing, misspelt or wrong token is a 401 with a challenge, on every call but the public ones."""
    answer = await caller.call("POST", "/debit/1/capture", headers={"Authorization": authorization})

    assert (answer.status, answer.document) == (401, {"detail": detail})
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.asyncio
async def test_scheme_in_any_case(caller: Caller) -> None:
    """The scheme's name is not case-sensitive."""
    answer = await caller.call("GET", "/webhooks/", headers={"Authorization": f"bearer {caller.sandbox.api_token}"})

    assert answer.status == 200


@pytest.mark.asyncio
async def test_revoked_token(caller: Caller) -> None:
    """A revoked token is as good as none, and revoking it again is harmless."""
    token = caller.sandbox.issue_token(*TokenScope)
    assert (await caller.call("GET", "/webhooks/", token=token)).status == 200

    caller.sandbox.revoke_token(token)
    caller.sandbox.revoke_token(token)

    assert (await caller.call("GET", "/webhooks/", token=token)).status == 401


CALLS = [
    ("POST", "/contact/1/creditcards/2/preauthorize", TokenScope.CARD_PAYMENTS),
    ("POST", "/contact/1/creditcards/2/charge", TokenScope.CARD_PAYMENTS),
    ("POST", "/debit/1/capture", TokenScope.CAPTURES),
    ("GET", "/transaction/1/status", TokenScope.TRANSACTIONS),
    ("DELETE", "/transaction/1", TokenScope.CANCELLATIONS),
    ("PUT", "/contact", TokenScope.CONTACTS),
    ("POST", "/contact/1/creditcards/url", TokenScope.CONTACTS),
    ("PUT", "/contact/bank_account", TokenScope.BANK_ACCOUNTS),
    ("PUT", "/debit", TokenScope.PAYMENTS),
    ("PUT", "/credit", TokenScope.PAYMENTS),
    ("GET", "/webhooks/", TokenScope.WEBHOOKS),
    ("POST", "/webhooks/", TokenScope.WEBHOOKS),
    ("GET", "/webhooks/1", TokenScope.WEBHOOKS),
    ("PATCH", "/webhooks/1", TokenScope.WEBHOOKS),
    ("DELETE", "/webhooks/1", TokenScope.WEBHOOKS),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("method", "path", "scope"), CALLS, ids=[f"{method} {path}" for method, path, _ in CALLS])
async def test_each_call_asks_for_its_scope(caller: Caller, method: str, path: str, scope: TokenScope) -> None:
    """A token is rejected where its one missing scope is required, and accepted where that is its only one."""
    without = caller.sandbox.issue_token(*(each for each in TokenScope if each is not scope))
    alone = caller.sandbox.issue_token(scope)

    rejected = await caller.call(method, path, token=without)
    admitted = await caller.call(method, path, token=alone)

    assert (rejected.status, rejected.document) == (403, {"detail": "Not enough permissions"})
    assert admitted.status in {200, 404, 422}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ({"amount": ...}, [("body.amount", "missing")]),
        ({"amount": None}, [("body.amount", "float_type")]),
        ({"amount": "100.50"}, [("body.amount", "float_type")]),
        ({"amount": True}, [("body.amount", "float_type")]),
        ({"amount": [1]}, [("body.amount", "float_type")]),
        ({"amount": 0}, [("body.amount", "greater_than")]),
        ({"amount": -0.01}, [("body.amount", "greater_than")]),
        ({"amount": 0.001}, [("body.amount", "decimal_max_places")]),
        ({"amount": 100.505}, [("body.amount", "decimal_max_places")]),
        ({"amount": 1e40}, [("body.amount", "decimal_whole_digits")]),
        ({"statement": ...}, [("body.statement", "missing")]),
        ({"statement": 7}, [("body.statement", "string_type")]),
        ({"statement": ""}, [("body.statement", "string_too_short")]),
        ({"statement": "x" * 31}, [("body.statement", "string_too_long")]),
        ({"to_bank_account_id": ...}, [("body.to_bank_account_id", "missing")]),
        (
            {"amount": "", "to_bank_account_id": 1, "statement": ...},
            [
                ("body.amount", "float_type"),
                ("body.to_bank_account_id", "string_type"),
                ("body.statement", "missing"),
            ],
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", ["preauthorize", "charge"])
async def test_bad_fields(caller: Caller, call: str, changes: dict[str, object], errors: list[tuple[str, str]]) -> None:
    """Every bad field is reported by its place and type, all in one 422, and no debit is made."""
    payer = caller.sandbox.add_payer()

    answer = await caller.call(
        "POST", f"/contact/{payer.contact_id}/creditcards/{payer.credit_card_id}/{call}", caller.request(**changes)
    )

    assert _errors(answer) == errors
    assert all(each["msg"] for each in answer.document["detail"])
    assert caller.sandbox.debits == ()


@pytest.mark.asyncio
@pytest.mark.parametrize("amount", [0.01, 1, 100.5, 1e3, 9999999999999.99])
async def test_good_amounts(caller: Caller, amount: float) -> None:
    """Every JSON number with at most two decimals is an amount, whichever way it is written."""
    answer = await caller.preauthorize(amount=amount, statement="x" * 30)

    assert answer.status == 200
    assert answer.document["amount"] == amount


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("data", "content_type", "error"),
    [
        (b"", "application/json", ("body", "missing")),
        (b"{", "application/json", ("body.1", "json_invalid")),
        (b'{"amount": NaN}', "application/json", ("body.0", "json_invalid")),
        (b"[1]", "application/json", ("body", "model_attributes_type")),
        (b"null", "application/json", ("body", "model_attributes_type")),
        (b'{"amount": 1}', "text/plain", ("body", "model_attributes_type")),
        (b"amount=1", "application/x-www-form-urlencoded", ("body", "model_attributes_type")),
    ],
)
async def test_bad_bodies(caller: Caller, data: bytes, content_type: str, error: tuple[str, str]) -> None:
    """What is no JSON object is one error about the body."""
    payer = caller.sandbox.add_payer()

    answer = await caller.call(
        "POST",
        f"/contact/{payer.contact_id}/creditcards/{payer.credit_card_id}/preauthorize",
        data=data,
        headers={"Content-Type": content_type},
    )

    assert _errors(answer) == [error]


@pytest.mark.asyncio
async def test_bytes_that_are_no_text(caller: Caller) -> None:
    """A body in no encoding of JSON is a 400, as FastAPI's."""
    answer = await caller.call("PUT", "/contact", data=b'{"a": "\xff"}', headers={"Content-Type": "application/json"})

    assert (answer.status, answer.document) == (400, {"detail": "There was an error parsing the body"})


@pytest.mark.asyncio
async def test_too_large_a_body(caller: Caller) -> None:
    """A body of more than a megabyte is a 413 in the same shape."""
    answer = await caller.call("PUT", "/contact", data=BytesIO(b"x" * 1_100_000))

    assert (answer.status, list(answer.document)) == (413, ["detail"])
    assert answer.document["detail"].endswith(" Too Large")


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/", "/debit//capture", "/debit/1/2/capture", "/webhooks", "/nothing?debit=1"])
async def test_no_such_path(caller: Caller, path: str) -> None:
    """An unknown path is FastAPI's 404, and counted."""
    answer = await caller.call("POST", path)

    assert (answer.status, answer.document) == (404, {"detail": "Not Found"})
    assert caller.sandbox.requests() == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/debit/1/capture", {"POST"}),
        ("PATCH", "/debit", {"PUT"}),
        ("PUT", "/webhooks/1", {"GET", "PATCH", "DELETE"}),
    ],
)
async def test_method_not_allowed(caller: Caller, method: str, path: str, allow: set[str]) -> None:
    """A known path with another method is FastAPI's 405, which says what is allowed."""
    answer = await caller.call(method, path)

    assert (answer.status, answer.document) == (405, {"detail": "Method Not Allowed"})
    assert set(answer.headers["Allow"].split(",")) == allow


@pytest.mark.asyncio
async def test_every_reply_has_its_own_request_id(caller: Caller) -> None:
    """Good replies, rejections and replies to unknown paths carry an x-request-id, no two the same."""
    debit_id = await caller.reserve()
    answers = [
        await caller.capture(debit_id),
        await caller.capture(debit_id),
        await caller.call("GET", "/nothing"),
        await caller.call("GET", "/debit"),
        await caller.call("GET", "/.well-known/jwks.json"),
        await caller.call("POST", "/debit/1/capture", token="wrong"),
    ]

    assert [answer.status for answer in answers] == [200, 409, 404, 405, 200, 401]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 6


@pytest.mark.asyncio
async def test_errors_have_fastapis_shape(caller: Caller) -> None:
    """A 422 is a list of objects with type, loc, msg, input and, where the message was made with something, ctx."""
    answer = await caller.preauthorize(statement="x" * 31)

    assert json.loads(answer.body) == {
        "detail": [
            {
                "loc": ["body", "statement"],
                "msg": "String should have at most 30 characters",
                "type": "string_too_long",
                "input": "x" * 31,
                "ctx": {"max_length": 30},
            }
        ]
    }


@pytest.mark.asyncio
async def test_a_sandbox_s_token_does_not_go_to_jetpay() -> None:
    """The client knows a sandbox's token by its beginning, and does not send it anywhere else."""
    async with Sandbox() as sandbox:
        with pytest.raises(ConfigurationError, match="sandbox's token"):
            JetpayClient(sandbox.api_token)
