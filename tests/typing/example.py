"""The public surface as a user types it. Only type-checked, by mypy --strict and pyright; never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from typing import assert_never, assert_type

import aiohttp

import jetpay_async
from jetpay_async import (
    DEMO_URL,
    PRODUCTION_URL,
    UNCHANGED,
    Accepted,
    AcceptedCharge,
    AcceptedPreauthorization,
    Amount,
    APIError,
    Attempt,
    AttemptResult,
    AuthenticationError,
    BankAccount,
    BankAccountDetails,
    Capture,
    Captured,
    CaptureOutcome,
    CardForm,
    Charge,
    Charged,
    ChargeOutcome,
    ChargeRequest,
    Clock,
    ConfigurationError,
    ConflictError,
    Contact,
    Credit,
    CreditOutcome,
    CreditRequest,
    CreditSent,
    FieldError,
    InvalidArgumentError,
    InvalidRequestError,
    JetpayClient,
    JetpayError,
    JSONValue,
    NotFoundError,
    NotSent,
    NotSentError,
    Operation,
    OperationOutcome,
    Outcome,
    OutcomeUnknownError,
    Payer,
    PaymentLink,
    PermissionDeniedError,
    Preauthorization,
    PreauthorizationOutcome,
    PreauthorizationRequest,
    Preauthorized,
    RateLimitedError,
    RawAnswer,
    Rejected,
    RetryPolicy,
    ServiceError,
    TransactionFailedError,
    TransactionState,
    TransactionStatus,
    Unchanged,
    Unknown,
    Webhook,
)
from jetpay_async.money import to_amount
from jetpay_async.opentelemetry import OpenTelemetry

URLS: list[str] = [PRODUCTION_URL, DEMO_URL]
VERSION: str = jetpay_async.__version__


# --- making a client --------------------------------------------------------------------------------------------------


async def rotating_token() -> str:
    return "token"


class Vault:
    async def read(self) -> str:
        return "token"


def write_down(error: OutcomeUnknownError) -> None:
    assert_type(error.operation, str | None)


def watch(operation: Operation) -> None:
    assert_type(operation.outcome, OperationOutcome)
    assert_type(operation.error, BaseException | None)
    assert_type(operation.attempts, tuple[Attempt, ...])
    for attempt in operation.attempts:
        assert_type(attempt.result, AttemptResult)
        assert_type(attempt.status, int | None)


def watch_with_opentelemetry() -> Callable[[Operation], None]:
    return OpenTelemetry(tracer_provider=None, meter_provider=None)


async def every_way_to_make_a_client(session: aiohttp.ClientSession, vault: Vault) -> None:
    assert_type(JetpayClient("token"), JetpayClient)
    assert_type(JetpayClient(rotating_token), JetpayClient)
    assert_type(JetpayClient(vault.read), JetpayClient)
    assert_type(JetpayClient.from_env(), JetpayClient)
    assert_type(JetpayClient.from_env(timeout=5, session=session, retry=RetryPolicy(max_attempts=2)), JetpayClient)
    client = JetpayClient(
        "token",
        base_url=DEMO_URL,
        session=session,
        timeout=10,
        max_connections=50,
        retry=RetryPolicy(
            max_attempts=3,
            base_delay=0.1,
            max_delay=2,
            resolve_after=3.5,
            resolve_after_timeout=3.5,
            resend_rate_limited=False,
            resend_harmless=True,
        ),
        user_agent_suffix="rentals/2.1",
        trust_env=True,
        trusted_origins=["https://gateway.example.com"],
        on_unknown=write_down,
        on_operation=watch,
        link_amounts="minor",
        clock=Clock(monotonic=lambda: 0.0, time=lambda: 0.0, sleep=asyncio.sleep, random=lambda: 0.5),
    )
    assert_type(client.closed, bool)
    assert_type(client.with_options(timeout=1.5), JetpayClient)
    assert_type(client.with_options(retry=RetryPolicy()), JetpayClient)
    assert_type(await client.aclose(), None)


class RentalsClient(JetpayClient):
    """A subclass keeps its class."""


async def a_subclass_keeps_its_class() -> None:
    assert_type(RentalsClient.from_env(), RentalsClient)
    async with RentalsClient("token") as client:
        assert_type(client, RentalsClient)


# --- the operations ---------------------------------------------------------------------------------------------------


async def every_operation() -> None:
    async with JetpayClient("token", base_url=PRODUCTION_URL) as client:
        assert_type(client, JetpayClient)
        amounts: list[Amount] = [Decimal("100.50"), "100.50", 100, 100.5]
        reserved = await client.preauthorize(
            contact_id="contact_123",
            credit_card_id="cc_456",
            amount=amounts[0],
            to_bank_account_id="bank_789",
            statement="Test statement",
        )
        assert_type(reserved, Preauthorization)
        assert_type(await client.capture(reserved.debit_id), Capture)
        assert_type(await client.transaction_status(reserved.debit_id), TransactionStatus)
        assert_type(await client.cancel_transaction(reserved.debit_id), None)


async def every_operation_of_the_guide(client: JetpayClient, details: BankAccountDetails) -> None:
    contact = await client.create_contact(email="a@example.com", name="A Payer", tags=["vip"])
    assert_type(contact, Contact)
    assert_type(contact.tags, tuple[str, ...])
    form = await client.card_form(contact.contact_id)
    assert_type(form, CardForm)
    assert_type((form.url, form.credit_card_id), tuple[str, str])
    account = await client.create_bank_account(details, contact_id=contact.contact_id)
    assert_type(account, BankAccount)
    charged = await client.charge(
        contact_id=contact.contact_id,
        credit_card_id=form.credit_card_id,
        amount=12,
        to_bank_account_id="bank_789",
        statement="Cabin 12",
    )
    assert_type(charged, Charge)
    assert_type(charged.final, bool)
    link = await client.create_debit(
        amount="12.50",
        to_bank_account_id="bank_789",
        statement="Rent",
        note="May",
        payer=Payer(email="a@example.com", name="A"),
    )
    assert_type(link, PaymentLink)
    assert_type(
        await client.create_credit(
            amount=5, from_bank_account_id="bank_789", contact_id=contact.contact_id, statement="Refund"
        ),
        PaymentLink,
    )
    credit = await client.send_credit(
        amount=5,
        from_bank_account_id="bank_789",
        to_bank_account_id=account.bank_account_id,
        contact_id=contact.contact_id,
        statement="Refund",
    )
    assert_type(credit, Credit)


async def every_operation_of_webhooks(client: JetpayClient, moment: datetime) -> None:
    url = "https://shop.example.com/webhooks"
    registered = await client.register_webhook(url, callback_api_key="key", max_batch_size=50, replay_from=7)
    assert_type(registered, Webhook)
    assert_type(await client.list_webhooks(), tuple[Webhook, ...])
    assert_type(await client.webhook(registered.identifier), Webhook)
    assert_type(await client.change_webhook(registered.identifier, callback_api_key=None), Webhook)
    unchanged: Unchanged = UNCHANGED
    assert_type(
        await client.change_webhook(registered.identifier, callback_api_key=unchanged, max_batch_size=5), Webhook
    )
    assert_type(await client.replay_webhook(registered.identifier, replay_from=moment), Webhook)
    assert_type(await client.remove_webhook(registered.identifier), None)
    assert_type(await client.ensure_webhook(url, max_wait_seconds=120), Webhook)


async def what_has_no_method(client: JetpayClient) -> None:
    answer = await client.request("PUT", "/new", json={"amount": Decimal("1.50"), "tags": ["a"]})
    assert_type(answer, RawAnswer)
    assert_type(answer.json, JSONValue)
    await client.request("POST", "/new/search", replay_safety="idempotent")


def note_charge(outcome: ChargeOutcome) -> None:
    match outcome:
        case Charged(charge=charge) | AcceptedCharge(charge=charge):
            assert_type(charge, Charge)
        case Rejected() | NotSent() | Unknown():
            assert_type(outcome.request, ChargeRequest)
        case _:
            assert_never(outcome)


async def every_way_to_charge_many(client: JetpayClient) -> None:
    requests = [
        ChargeRequest(
            contact_id="contact_123",
            credit_card_id="cc_456",
            amount="100.50",
            to_bank_account_id="bank_789",
            statement="Test statement",
        )
    ]
    async for outcome in client.charge_many(requests, concurrency=8, rate=20, on_outcome=note_charge):
        assert_type(outcome, ChargeOutcome)


def note_credit(outcome: CreditOutcome) -> None:
    match outcome:
        case CreditSent(credit=credit):
            assert_type(credit, Credit)
            assert_type(outcome.transaction_id, str)
        case Rejected() | NotSent() | Unknown():
            assert_type(outcome.request, CreditRequest)
        case _:
            assert_never(outcome)


async def every_way_to_send_many_credits(client: JetpayClient) -> None:
    requests = [
        CreditRequest(
            amount="100.50",
            from_bank_account_id="bank_789",
            to_bank_account_id="bank_456",
            contact_id="contact_123",
            statement="Test statement",
        )
    ]
    async for outcome in client.send_credit_many(requests, concurrency=8, rate=20, on_outcome=note_credit):
        assert_type(outcome, CreditOutcome)


async def many_at_once(client: JetpayClient, debit_ids: list[str]) -> list[Capture]:
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.capture(debit_id)) for debit_id in debit_ids]
    return [task.result() for task in tasks]


async def each(operation: Callable[[str], Awaitable[Capture]], debit_ids: list[str]) -> list[Capture]:
    return [await operation(debit_id) for debit_id in debit_ids]


async def an_operation_can_be_passed_on(client: JetpayClient) -> None:
    assert_type(await each(client.capture, ["debit_123"]), list[Capture])


# --- batches ----------------------------------------------------------------------------------------------------------


async def from_a_queue(queue: asyncio.Queue[str]) -> AsyncIterator[str]:
    while True:
        yield await queue.get()


def note(outcome: CaptureOutcome) -> None:
    assert_type(outcome.debit_id, str)
    assert_type(outcome.attempts, int)


def note_reservation(outcome: PreauthorizationOutcome) -> None:
    assert_type(outcome.request, PreauthorizationRequest)


async def every_way_to_capture_many(client: JetpayClient, queue: asyncio.Queue[str]) -> None:
    outcomes = client.capture_many(["debit_1", "debit_2"])
    assert_type(outcomes, AsyncGenerator[CaptureOutcome, None])
    async for outcome in outcomes:
        assert_type(outcome, CaptureOutcome)
    client.capture_many(debit_id for debit_id in ("debit_1", "debit_2"))
    client.capture_many(["debit_1"], concurrency=200, rate=300, ordered=True, on_outcome=note)
    async with aclosing(client.capture_many(from_a_queue(queue), rate=0.5)) as endless:
        async for outcome in endless:
            assert_type(outcome, CaptureOutcome)
            break


async def every_way_to_preauthorize_many(client: JetpayClient) -> None:
    requests = [
        PreauthorizationRequest(
            contact_id="contact_123",
            credit_card_id="cc_456",
            amount="100.50",
            to_bank_account_id="bank_789",
            statement="Test statement",
            reference="order 5",
        )
    ]
    async for outcome in client.preauthorize_many(requests, concurrency=8, rate=20, on_outcome=note_reservation):
        assert_type(outcome, PreauthorizationOutcome)


def outcomes_of_captures_match(outcome: CaptureOutcome) -> str:
    match outcome:
        case Captured(debit_id=debit_id, capture=capture) | Accepted(debit_id=debit_id, capture=capture):
            assert_type(capture, Capture)
            assert_type(capture.final, bool)
            assert_type(outcome.confirmed_by_status, bool)
            return debit_id
        case Rejected(debit_id=debit_id, error=error) | NotSent(debit_id=debit_id, error=error):
            assert_type(error, JetpayError)
            assert_type(outcome.request, None)
            return f"{debit_id}: {error}"
        case Unknown(debit_id=debit_id):
            return f"look after {debit_id}"
        case _:
            assert_never(outcome)


def outcomes_of_preauthorizations_match(outcome: PreauthorizationOutcome) -> str:
    match outcome:
        case Preauthorized(debit_id=debit_id, preauthorization=reserved):
            assert_type(reserved, Preauthorization)
            assert_type(reserved.final, bool)
            return debit_id
        case AcceptedPreauthorization(debit_id=debit_id, preauthorization=reserved):
            assert_type(reserved, Preauthorization)
            return debit_id
        case Rejected() | NotSent() | Unknown():
            assert_type(outcome.request.amount, Amount)
            return f"{outcome.request.reference}: {outcome.error}"
        case _:
            assert_never(outcome)


# --- results ----------------------------------------------------------------------------------------------------------


def every_result(reserved: Preauthorization, captured: Capture, status: TransactionStatus) -> None:
    assert_type(reserved.debit_id, str)
    assert_type(reserved.amount, Decimal)
    assert_type(reserved.statement, str)
    assert_type(reserved.to_bank_account_id, str)
    assert_type(reserved.contact_id, str)
    assert_type(reserved.from_credit_card_id, str)
    assert_type(reserved.state, TransactionState)
    assert_type(captured.debit_id, str)
    assert_type(captured.state, TransactionState)
    assert_type(captured.confirmed_by_status, bool)
    assert_type(status.transaction_id, str)
    assert_type(status.state, TransactionState)
    assert_type(status.fail_reason, str | None)
    assert_type(status.fail_direction, str | None)
    for result in (reserved, captured, status):
        assert_type(result.raw, Mapping[str, JSONValue])
        assert_type(result.attempts, int)
        assert_type(result.elapsed, float)
    assert_type({reserved: captured}[reserved], Capture)
    assert_type(to_amount("100.50"), Decimal)
    assert_type(to_amount(100, field="deposit"), Decimal)


def raw_fields_are_json(captured: Capture) -> str:
    match captured.raw.get("merchant"):
        case str() as name:
            return name
        case {"name": str() as name}:
            return name
        case Decimal() | int() as number:
            return f"{number}"
        case _:
            return "nobody"


def states_match(status: TransactionStatus) -> str:
    match status.state:
        case TransactionState.PAID | TransactionState.COMPLETED:
            return "done"
        case TransactionState.FAILED | TransactionState.CANCELLED:
            return status.fail_reason or "over"
        case state if not state.known:
            return f"new to this release: {state}"
        case state:
            return state.value


def results_match(result: Preauthorization | Capture | TransactionStatus) -> str:
    match result:
        case Preauthorization(debit_id=debit_id, amount=amount):
            return f"{debit_id} {amount:.2f}"
        case Capture(debit_id=debit_id, confirmed_by_status=True):
            return f"{debit_id}, learnt from its status"
        case Capture(debit_id=debit_id):
            return debit_id
        case TransactionStatus(fail_reason=str() as reason):
            return reason
        case TransactionStatus(state=state):
            return state


def states_are_strings(state: TransactionState) -> str:
    words: dict[str, int] = {state: 1, TransactionState("clearing"): 2}
    assert_type(state == TransactionState("clearing"), bool)
    assert_type(list(TransactionState), list[TransactionState])
    return "".join(words) + state


# --- errors -----------------------------------------------------------------------------------------------------------


async def every_answer_of_the_api(client: JetpayClient) -> None:
    try:
        await client.capture("debit_123")
    except TransactionFailedError as error:
        assert_type(error.state, TransactionState | None)
        assert_type(error.fail_reason, str | None)
        assert_type(error.fail_direction, str | None)
    except RateLimitedError as error:
        assert_type(error.retry_after, float | None)
        await asyncio.sleep(error.retry_after or 1)
    except InvalidRequestError as error:
        assert_type(error.fields, tuple[FieldError, ...])
        for field in error.fields:
            assert_type((field.path, field.message, field.type), tuple[str, str, str])
    except (AuthenticationError, PermissionDeniedError, NotFoundError, ConflictError) as error:
        assert_type(error.detail, str)
    except APIError as error:
        assert_type(error.detail, str)


async def every_other_error(client: JetpayClient) -> None:
    try:
        await client.capture("debit_123")
    except OutcomeUnknownError as error:
        assert_type(error.arguments, dict[str, str])
        assert_type(error.started_at, datetime | None)
        assert_type(error.state, TransactionState | None)
        assert_type(error.reason, str)
        assert_type(error.next_step, str)
        assert_type(error.moves_money, bool)
    except (NotSentError, ServiceError) as error:
        assert_type(error.retryable, bool)
    except InvalidArgumentError as error:
        assert_type(error.field, str)
        as_value_error: ValueError = error
        raise as_value_error from None
    except ConfigurationError as error:
        assert_type(error.message, str)
    except JetpayError as error:
        assert_type(error.outcome, Outcome)
        assert_type(error.operation, str | None)
        assert_type(error.debit_id, str | None)
        assert_type(error.status, int | None)
        assert_type(error.request_id, str | None)
        assert_type(error.attempts, int)
        assert_type(error.elapsed, float)


def outcomes_match(error: JetpayError) -> str:
    match error.outcome:
        case Outcome.UNKNOWN:
            return "look before you do anything"
        case Outcome.NOT_SENT | Outcome.NO_ANSWER:
            return "call again" if error.retryable else "correct the call"
        case Outcome.REJECTED:
            return f"refused: {error.message}"


async def groups_of_errors(client: JetpayClient, debit_ids: list[str]) -> None:
    try:
        await many_at_once(client, debit_ids)
    except* OutcomeUnknownError as group:
        assert_type(group, ExceptionGroup[OutcomeUnknownError])
    except* (APIError, NotSentError) as group:
        assert_type(group, ExceptionGroup[APIError | NotSentError])


def errors_can_be_made_for_tests() -> list[JetpayError]:
    return [
        NotSentError("nothing left", operation="capture", debit_id="debit_123", attempts=3, elapsed=1.5),
        ConflictError("no", status=409, detail="already captured", fields=[FieldError(path="body", message="no")]),
        RateLimitedError("slow down", status=429, retry_after=3),
        TransactionFailedError("over", state=TransactionState.FAILED, fail_reason="account_frozen"),
        OutcomeUnknownError("lost", arguments={"debit_id": "debit_123"}, reason="reset", next_step="look"),
        InvalidArgumentError("no amount", field="amount"),
    ]
