"""The service's own OpenAPI document: valid, complete, and true of what the sandbox answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from jetpay_async.sandbox import Sandbox

from .calling import Caller

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest_asyncio.fixture
async def document(caller: Caller) -> dict[str, Any]:
    return dict((await caller.call("GET", "/openapi.json", headers={"Authorization": ""})).document)


def operations(document: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method.upper(), path, each) for path, of in document["paths"].items() for method, each in of.items()]


def body_of(operation: Mapping[str, Any]) -> dict[str, Any] | None:
    if "requestBody" not in operation:
        return None
    return dict(operation["requestBody"]["content"]["application/json"]["schema"])


def filled(caller: Caller, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A request with every field that the schema has."""
    known = {
        "contact_id": "contact_123",
        "to_bank_account": "bank_789",
        "from_bank_account": "bank_789",
        "to_bank_account_id": "bank_789",
        "callback_url": "http://127.0.0.1:9/other",
    }
    values = {"number": 1.5, "string": "text", "array": ["text"], "integer": 100}
    made: dict[str, Any] = {}
    for name, field in schema["properties"].items():
        kind = field["type"] if isinstance(field["type"], str) else field["type"][0]
        made[name] = "2026-01-01T00:00:00Z" if field.get("format") == "date-time" else known.get(name, values[kind])
    return made


async def ids(caller: Caller, path: str) -> str:
    """The path with ids of what exists."""
    if path.startswith("/webhooks/{"):
        path = path.replace(
            "{identifier}", caller.sandbox.add_webhook(f"http://127.0.0.1:9/{caller.sandbox.requests()}")
        )
    debit_id = await caller.reserve()
    for name, value in {
        "contact_id": "contact_123",
        "credit_card_id": "cc_456",
        "debit_id": debit_id,
        "identifier": debit_id,
    }.items():
        path = path.replace(f"{{{name}}}", value)
    return path


@pytest.mark.asyncio
async def test_it_is_valid_and_complete(caller: Caller, document: dict[str, Any]) -> None:
    """The document is one, has every call of the API, and names the vendor's operation ids."""
    validate(document)
    served = {
        (route.method, route.path)
        for route in caller.sandbox._api.routes()
        if route.name not in {"card_form", "payment"}
    }

    assert {(method, path) for method, path, _ in operations(document)} == served
    assert {each["operationId"] for _, _, each in operations(document)} >= {
        "create_contact",
        "preauthorize_contact_credit_card",
        "charge_contact_credit_card",
        "generate_credit_card_tokenization_url",
        "create_bank_account",
        "capture_debit",
        "create_credit",
        "get_transaction_status",
    }
    assert document["servers"] == [{"url": caller.sandbox.url}]


@pytest.mark.asyncio
async def test_every_reply_conforms(caller: Caller, document: dict[str, Any]) -> None:
    """A request with every documented field is accepted, and its reply has what the document says."""
    for method, path, operation in operations(document):
        schema = body_of(operation)
        body = None if schema is None else filled(caller, schema)
        if path.startswith("/webhooks/") and body is not None:
            body["callback_url"] += f"/{caller.sandbox.requests()}"

        reply = await caller.call(method, await ids(caller, path), body)

        assert str(reply.status) in operation["responses"], (method, path, reply.body)
        described = operation["responses"][str(reply.status)]["content"]["application/json"]["schema"]
        Draft202012Validator(described).validate(reply.document)


@pytest.mark.asyncio
async def test_every_rejection_conforms(caller: Caller, document: dict[str, Any]) -> None:
    """A required field that is missing, an unknown id and a wrong token are answered as the document says."""
    error = Draft202012Validator(document["components"]["schemas"]["Error"])
    seen: set[int] = set()
    for method, path, operation in operations(document):
        schema = body_of(operation)
        for name in schema["required"] if schema else ():
            body = {key: value for key, value in filled(caller, schema or {}).items() if key != name}
            reply = await caller.call(method, await ids(caller, path), body)
            error.validate(reply.document)
            assert (reply.status, reply.document["detail"][0]["loc"]) == (422, ["body", name])
        for headers in ({"Authorization": "Bearer wrong"}, {}):
            reply = await caller.call(method, path, {}, headers=headers)
            if reply.status >= 400:
                error.validate(reply.document)
                seen.add(reply.status)

    assert seen == {401, 404, 422}


@pytest.mark.asyncio
async def test_one_of_two_ways_to_name_a_contact(document: dict[str, Any]) -> None:
    """A debit names a contact by its id, or by e-mail address and name."""
    schema = body_of(document["paths"]["/debit"]["put"])

    assert schema is not None
    assert schema["anyOf"] == [{"required": ["contact_email", "contact_name"]}, {"required": ["contact_id"]}]


@pytest.mark.asyncio
async def test_the_page(caller: Caller, document: dict[str, Any]) -> None:
    """The page lists every call with its fields' limits, loads nothing, and runs no script."""
    reply = await caller.call("GET", "/docs")
    page = reply.body.decode()

    assert reply.headers["Content-Type"].startswith("text/html")
    for method, path, _ in operations(document):
        assert f"<code>{method} {path}</code>" in page
    assert "<code>statement</code>: string, maxLength 30</li>" in page
    assert "<code>amount</code>: number, minimum 0.01, Major units, with at most two decimals</li>" in page
    assert "<code>note</code>: string or null, may be left out</li>" in page
    assert "<script" not in page
    assert "src=" not in page


@pytest.mark.asyncio
async def test_describing_changes_nothing(caller: Caller) -> None:
    """The document is made of an account of its own: nothing is counted or created in the sandbox."""
    before = json.dumps(_state(caller.sandbox), default=str)
    await caller.call("GET", "/openapi.json")
    await caller.call("GET", "/docs")

    assert json.dumps(_state(caller.sandbox), default=str) == before


def _state(sandbox: Sandbox) -> dict[str, Any]:
    return {name: value for name, value in sandbox.snapshot().items() if name != "keys"}
