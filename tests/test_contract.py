"""The contract is compared with OpenAPI documents that FastAPI generates: those that agree, and those that don't."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest

from jetpay_async._core import contract
from jetpay_async.sandbox import Sandbox
from tests.compare_contract import Document, compare, main

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install --group frameworks")

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from tests import fastapi_service as service


class State(Enum):
    PAID = "paid"
    CLEARING = "clearing"


class Status(BaseModel):
    state: State


class LooseStatus(BaseModel):
    state: str | None = None


class OtherCapture(BaseModel):
    debit: str


class Page(BaseModel):
    items: list[service.Webhook]
    total: int


class TwoLists(BaseModel):
    active: list[service.Webhook]
    removed: list[service.Webhook]


class BareWebhook(BaseModel):
    id: int


class DebitInCents(BaseModel):
    amount: Annotated[int, Field(gt=0, description="Amount in cents")]
    statement: service.Statement
    note: str | None = None
    to_bank_account: str
    contact_id: str | None = None
    contact_email: str | None = None
    contact_name: str | None = None


class ContactOfACompany(service.Contact):
    company: str
    phone: str | None = None


class NamelessContact(BaseModel):
    email: str
    tags: list[str] = []
    language: str = "en"


class OtherLimits(BaseModel):
    amount: service.Amount
    to_bank_account_id: str
    statement: Annotated[str, Field(max_length=22)]


class NoLimits(service.WebhookChanges):
    max_batch_size: int | None = None
    max_wait_seconds: Annotated[int, Field(ge=30, le=3600)] | None = None


class Problem(BaseModel):
    title: str


def differences(app: FastAPI) -> list[str]:
    return list(compare(Document(json.loads(json.dumps(app.openapi())))))


def changed(
    method: str,
    path: str,
    *,
    body: Any = None,
    reply: Any = None,
    at: str | None = None,
    token: bool = True,
    **more: Any,
) -> Callable[[], FastAPI]:
    """Make the service with one call of another form, when it is asked for: all would slow down each collection."""
    return partial(_change, method, path, body=body, reply=reply, at=at, token=token, **more)


def _change(
    method: str,
    path: str,
    *,
    body: Any,
    reply: Any,
    at: str | None,
    token: bool,
    **more: Any,
) -> FastAPI:
    app = service.make_service()
    app.router.routes[:] = [
        route
        for route in app.router.routes
        if (getattr(route, "path", None), getattr(route, "methods", None)) != (path, {method})
    ]

    def takes_nothing() -> None: ...

    def takes(given: Any) -> Any:
        return given

    # FastAPI reads what a call takes from its annotations.
    takes.__annotations__ = {"given": body}
    endpoint = takes_nothing if body is None else takes
    app.add_api_route(
        at or path,
        endpoint,
        methods=[method],
        response_model=reply,
        dependencies=[Depends(HTTPBearer())] if token else [],
        **more,
    )
    return app


def test_the_service_as_it_is_believed_to_be() -> None:
    """A service that is made after the contract has no difference."""
    assert differences(service.make_service()) == []


@pytest.mark.asyncio
async def test_the_sandbox(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sandbox's own document has none either; the command says so, and ends with 0."""
    import aiohttp

    async with (
        Sandbox() as sandbox,
        aiohttp.ClientSession() as session,
        session.get(f"{sandbox.url}/openapi.json") as got,
    ):
        document = tmp_path / "openapi.json"
        document.write_bytes(await got.read())

    assert main([str(document)]) == 0
    assert capsys.readouterr().out == "no difference: the contract is what the document says\n"


PAYMENT = "/contact/{contact_id}/creditcards/{credit_card_id}/preauthorize"
CASES: dict[str, tuple[Callable[[], FastAPI], list[str]]] = {
    "another path": (
        changed(
            "PUT",
            "/contact/bank_account",
            at="/contact/bank-account",
            body=service.BankAccount,
            reply=service.BankAccountReply,
        ),
        [
            (
                "create_bank_account [inferred]: PUT /contact/bank_account is not in the document; "
                "PUT /contact/bank-account is"
            ),
            "PUT /contact/bank-account (takes_contact_bank_account_put): the contract has no such call",
        ],
    ),
    "no such call": (
        changed("DELETE", "/transaction/{identifier}", at="/void"),
        [
            "cancel_transaction [docs]: DELETE /transaction/{identifier} is not in the document",
            "DELETE /void (takes_nothing_void_delete): the contract has no such call",
        ],
    ),
    "cents": (
        changed("PUT", "/debit", body=DebitInCents, reply=service.PaymentLink),
        [
            "create_debit [docs]: `amount` is of type integer, and a number with decimals is sent",
            "create_debit [docs]: `amount` is described as 'Amount in cents', and dollars are sent: a factor of 100",
        ],
    ),
    "more fields": (
        changed("PUT", "/contact", body=ContactOfACompany, reply=service.ContactReply),
        [
            "create_contact [docs]: requires `company`, which is not always sent",
            "create_contact [docs]: takes `phone`, too",
        ],
    ),
    "fewer fields": (
        changed("PUT", "/contact", body=NamelessContact, reply=service.ContactReply),
        ["create_contact [docs]: does not take `name`, which is sent; it takes `email`, `tags`, `language`"],
    ),
    "no body": (
        changed("POST", "/webhooks/", reply=service.Webhook),
        [
            (
                "register_webhook [docs]: takes no JSON, and `callback_url`, `callback_api_key`, `max_batch_size`, "
                "`max_wait_seconds`, `replay_from_event_id`, `replay_from_timestamp` is sent"
            )
        ],
    ),
    "a body": (
        changed("POST", "/debit/{debit_id}/capture", body=OtherCapture, reply=service.CaptureReply),
        ["capture [guide]: requires a body with `debit`, and none is sent"],
    ),
    "other limits": (
        changed("POST", PAYMENT, body=OtherLimits, reply=service.CardPaymentReply),
        ["preauthorize [guide]: `statement` has maxLength 22, and the contract has 30"],
    ),
    "no limits": (
        changed("PATCH", "/webhooks/{identifier}", body=NoLimits, reply=service.Webhook),
        [
            "change_webhook [docs]: `max_batch_size` has minimum unstated, and the contract has 1",
            "change_webhook [docs]: `max_batch_size` has maximum unstated, and the contract has 100",
            "change_webhook [docs]: `max_wait_seconds` has minimum 30, and the contract has 60",
        ],
    ),
    "another reply": (
        changed("POST", "/debit/{debit_id}/capture", reply=OtherCapture),
        ["capture [guide]: answers no `identifier`, `state`, which is read; it answers `debit`"],
    ),
    "a text": (
        changed("DELETE", "/transaction/{identifier}", reply=str),
        ["cancel_transaction [docs]: answers no JSON object, and `ok` is read"],
    ),
    "a reply that may lack something": (
        changed("GET", "/transaction/{identifier}/status", reply=LooseStatus),
        ["transaction_status [docs]: may leave out `state`, which is read"],
    ),
    "another state": (
        changed("GET", "/transaction/{identifier}/status", reply=Status),
        ["transaction_status [docs]: has the states `clearing`, which TransactionState does not name"],
    ),
    "a page of a list": (changed("GET", "/webhooks/", reply=Page), []),
    "two lists": (
        changed("GET", "/webhooks/", reply=TwoLists),
        ["list_webhooks [docs]: answers neither an array nor an object with exactly one array"],
    ),
    "a list of something else": (
        changed("GET", "/webhooks/", reply=list[BareWebhook]),
        ["list_webhooks [docs]: lists webhooks without `identifier`, `callback_url`, which is read"],
    ),
    "no token": (
        changed("DELETE", "/webhooks/{identifier}", token=False),
        ["remove_webhook [docs]: asks for no bearer token"],
    ),
    "another shape of errors": (
        changed("PUT", "/credit", body=service.Credit, reply=service.PaymentLink, responses={422: {"model": Problem}}),
        ["create_credit [docs]: a 422 has no `detail`, but `title`"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_difference_is_one_line(case: str) -> None:
    """A service that differs in one thing is said to differ in that, and in nothing else."""
    make, expected = CASES[case]

    assert differences(make()) == expected


def test_a_host_that_nobody_knows() -> None:
    """Servers are compared with the two hosts of the vendor."""
    document = service.make_service().openapi()
    document["servers"] = [{"url": contract.PRODUCTION_URL}, {"url": "/"}, {"url": "https://api.example.com/v1"}]

    assert list(compare(Document(document))) == [
        "servers: https://api.example.com/v1 is neither contract.PRODUCTION_URL nor contract.DEMO_URL"
    ]


def test_schemas_that_are_put_together() -> None:
    """A schema in several parts has the fields of all."""
    document = Document({"openapi": "3.1.0", "paths": {}})
    part = {"properties": {"a": {"type": "string"}}, "required": ["a"]}
    fields = document.fields({"allOf": [part], "properties": {"b": {"type": "string"}}})

    assert (sorted(fields.schemas), fields.required) == (["a", "b"], {"a"})


@pytest.mark.parametrize("content", ["{", "[]", '{"paths": {}}'])
def test_what_is_no_such_document(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another file, no file and no argument end with 2."""
    (tmp_path / "file").write_text(content)

    assert main([str(tmp_path / "file")]) == main([str(tmp_path / "none")]) == main([]) == 2
    assert "usage: nox -s contract -- openapi.json" in capsys.readouterr().out


def test_differences_end_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each difference is printed."""
    make, expected = CASES["cents"]
    (tmp_path / "openapi.json").write_text(json.dumps(make().openapi()))

    assert main([str(tmp_path / "openapi.json")]) == 1
    assert capsys.readouterr().out.splitlines() == expected
