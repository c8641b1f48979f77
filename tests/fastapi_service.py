"""The service as FastAPI would make it: models and routes written by hand, from the vendor's pages.

It judges what this project can't judge by itself: how FastAPI words what it refuses, and what an OpenAPI document of
such a service looks like. It stores nothing, and answers each call with an example.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from pydantic import AfterValidator, BaseModel, Field, HttpUrl, model_validator
from pydantic_core import PydanticKnownError

from jetpay_async.sandbox._webhooks import NOT_ALLOWED

Text = Annotated[str, Field(min_length=1)]
Statement = Annotated[str, Field(min_length=1, max_length=30)]


def _cents(value: float) -> float:
    if value >= 1e26:
        raise PydanticKnownError("decimal_whole_digits", {"whole_digits": 26})
    if round(value, 2) != value:
        raise PydanticKnownError("decimal_max_places", {"decimal_places": 2})
    return value


Amount = Annotated[float, Field(strict=True, gt=0), AfterValidator(_cents)]


class CardPayment(BaseModel):
    amount: Amount
    to_bank_account_id: Text
    statement: Statement


class CardPaymentReply(BaseModel):
    debit_id: str
    amount: float
    statement: str
    to_bank_account_id: str
    contact_id: str
    from_credit_card_id: str
    transaction_state: str


class CaptureReply(BaseModel):
    identifier: str
    state: str


class StatusReply(BaseModel):
    state: str
    fail_reason: str | None = None
    fail_direction: Literal["pull", "push"] | None = None


class CancelReply(BaseModel):
    ok: bool


class Contact(BaseModel):
    email: Text
    name: Text
    tags: list[Text] = []
    language: Text | None = None


class ContactReply(Contact):
    identifier: str


class CardForm(BaseModel):
    url: str
    credit_card_id: str


class BankAccount(BaseModel):
    contact_id: Text
    institution: Text
    title: Text
    holder_name: Text
    account_type: Text
    transit_number: Text
    institution_number: Text
    account_number: Text
    holder_address: Text
    holder_address_postal_code: Text
    holder_address_city: Text
    holder_address_country: Text
    holder_email: Text


class BankAccountReply(BankAccount):
    identifier: str


class Debit(BaseModel):
    amount: Amount
    statement: Statement
    note: Text | None = None
    to_bank_account: Text
    contact_id: Text | None = None
    contact_email: Text | None = None
    contact_name: Text | None = None

    @model_validator(mode="after")
    def _names_a_contact(self) -> Debit:
        if self.contact_id is None and (self.contact_email is None or self.contact_name is None):
            raise ValueError("give contact_email and contact_name, or contact_id")
        return self


class Credit(BaseModel):
    amount: Amount
    statement: Statement
    note: Text | None = None
    from_bank_account: Text
    to_bank_account: Text | None = None
    contact_id: Text


class PaymentLink(BaseModel):
    identifier: str
    link: str


def _on_this_machine(url: HttpUrl) -> HttpUrl:
    if url.host not in {"127.0.0.1", "localhost"}:
        raise ValueError(NOT_ALLOWED.format(host=url.host))
    if url.path == "/taken":
        raise ValueError("A webhook for this URL exists already")
    return url


CallbackUrl = Annotated[HttpUrl, AfterValidator(_on_this_machine)]


class WebhookChanges(BaseModel):
    callback_url: CallbackUrl | None = None
    callback_api_key: Text | None = None
    max_batch_size: Annotated[int, Field(ge=1, le=100)] | None = None
    max_wait_seconds: Annotated[int, Field(ge=60, le=3600)] | None = None
    replay_from_event_id: Annotated[int, Field(ge=1)] | None = None
    replay_from_timestamp: datetime | None = None


class NewWebhook(WebhookChanges):
    callback_url: CallbackUrl


class Webhook(BaseModel):
    id: int
    identifier: str
    callback_url: str
    callback_api_key: str | None
    state: str
    last_sent_event_id: int | None
    max_batch_size: int
    max_wait_seconds: int


class KeySet(BaseModel):
    keys: list[dict[str, str]]


def preauthorize_contact_credit_card(contact_id: str, credit_card_id: str, body: CardPayment) -> CardPaymentReply:
    return _card_payment(contact_id, credit_card_id, body, "preauthorized")


def charge_contact_credit_card(contact_id: str, credit_card_id: str, body: CardPayment) -> CardPaymentReply:
    return _card_payment(contact_id, credit_card_id, body, "paid")


def capture_debit(debit_id: str) -> CaptureReply:
    return CaptureReply(identifier=debit_id, state="paid")


def get_transaction_status(identifier: str) -> StatusReply:
    return StatusReply(state="paid")


def cancel_transaction(identifier: str) -> CancelReply:
    return CancelReply(ok=True)


def create_contact(body: Contact) -> ContactReply:
    return ContactReply(identifier="contact_123", **body.model_dump())


def generate_credit_card_tokenization_url(contact_id: str) -> CardForm:
    return CardForm(url="https://pay.example.com/form", credit_card_id="cc_456")


def create_bank_account(body: BankAccount) -> BankAccountReply:
    return BankAccountReply(identifier="bank_789", **body.model_dump())


def create_debit(body: Debit) -> PaymentLink:
    return PaymentLink(identifier="debit_123", link="https://pay.example.com/payment/pay/debit_123")


def create_credit(body: Credit) -> PaymentLink:
    return PaymentLink(identifier="credit_123", link="https://pay.example.com/payment/pay/credit_123")


def create_webhook(body: NewWebhook) -> Webhook:
    return _webhook()


def get_webhooks() -> list[Webhook]:
    return [_webhook()]


def get_webhook(identifier: str) -> Webhook:
    return _webhook()


def update_webhook(identifier: str, body: WebhookChanges) -> Webhook:
    return _webhook()


def delete_webhook(identifier: str) -> CancelReply:
    return CancelReply(ok=True)


def get_key_set() -> KeySet:
    return KeySet(keys=[])


def make_service() -> FastAPI:
    """Make the application."""
    app = FastAPI(title="Jetpay API", version="v0")
    token = [Depends(HTTPBearer())]

    def add(method: str, path: str, endpoint: Callable[..., Any], status: int = 200) -> None:
        app.add_api_route(path, endpoint, methods=[method], status_code=status, dependencies=token)

    card = "/contact/{contact_id}/creditcards/{credit_card_id}"
    add("POST", f"{card}/preauthorize", preauthorize_contact_credit_card)
    add("POST", f"{card}/charge", charge_contact_credit_card)
    add("POST", "/debit/{debit_id}/capture", capture_debit)
    add("GET", "/transaction/{identifier}/status", get_transaction_status)
    add("DELETE", "/transaction/{identifier}", cancel_transaction)
    add("PUT", "/contact", create_contact)
    add("POST", "/contact/{contact_id}/creditcards/url", generate_credit_card_tokenization_url)
    add("PUT", "/contact/bank_account", create_bank_account, 201)
    add("PUT", "/debit", create_debit, 201)
    add("PUT", "/credit", create_credit, 201)
    add("POST", "/webhooks/", create_webhook)
    add("GET", "/webhooks/", get_webhooks)
    add("GET", "/webhooks/{identifier}", get_webhook)
    add("PATCH", "/webhooks/{identifier}", update_webhook)
    add("DELETE", "/webhooks/{identifier}", delete_webhook)
    app.add_api_route("/.well-known/jwks.json", get_key_set, methods=["GET"])
    return app


def _card_payment(contact_id: str, credit_card_id: str, body: CardPayment, state: str) -> CardPaymentReply:
    return CardPaymentReply(
        debit_id="debit_123",
        contact_id=contact_id,
        from_credit_card_id=credit_card_id,
        transaction_state=state,
        **body.model_dump(),
    )


def _webhook() -> Webhook:
    return Webhook(
        id=123,
        identifier="webhook_123",
        callback_url="https://shop.example.com/webhooks",
        callback_api_key=None,
        state="active",
        last_sent_event_id=None,
        max_batch_size=10,
        max_wait_seconds=60,
    )


async def ask(app: FastAPI, method: str, path: str, body: bytes, headers: Sequence[tuple[str, str]]) -> tuple[int, Any]:
    """Send one request through ASGI, and return the status and the JSON of the answer."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
    }
    await app(scope, receive, send)  # type: ignore[arg-type] # the messages are what ASGI says
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))
