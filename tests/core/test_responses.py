"""From a usable response to the result of an operation."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from jetpay_async import (
    Capture,
    Preauthorization,
    TransactionFailedError,
    TransactionState,
    TransactionStatus,
)
from jetpay_async._core import operations
from jetpay_async._core.operations import ResponseContext
from jetpay_async._core.responses import Unanswered
from tests.core.bodies import (
    CANCEL,
    CANCELLED,
    CAPTURE,
    CAPTURED,
    FAILED,
    GOOD,
    PREAUTHORIZE,
    PREAUTHORIZED,
    STATUS,
    AnyCall,
    every_call,
    read,
    without,
)

# --- the result -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_preauthorization_is_read(status: int) -> None:
    """The guide's reply becomes a value, the amount with its two decimals."""
    value = read(PREAUTHORIZE, status, PREAUTHORIZED)

    assert value == Preauthorization(
        debit_id="debit_123",
        amount=Decimal("100.50"),
        statement="Test statement",
        to_bank_account_id="bank_789",
        contact_id="contact_123",
        from_credit_card_id="cc_456",
        state=TransactionState.PREAUTHORIZED,
        raw={},
    )
    assert str(value.amount) == "100.50"
    assert value.raw == {**PREAUTHORIZED, "amount": Decimal("100.5")}
    assert (value.attempts, value.elapsed) == (2, 1.5)


@pytest.mark.parametrize("status", [200, 201, 299])
def test_a_capture_is_read(status: int) -> None:
    """The guide's reply becomes a value that says that the capture's own reply reported it."""
    value = read(CAPTURE, status, CAPTURED)

    assert value == Capture(debit_id="debit_123", state=TransactionState.PAID, confirmed_by_status=False, raw={})
    assert value.raw == CAPTURED
    assert (value.attempts, value.elapsed) == (2, 1.5)


def test_a_status_is_read() -> None:
    """The guide's reply becomes a value with the reason of the failure."""
    value = read(STATUS, 200, FAILED)

    assert value == TransactionStatus(
        transaction_id="debit_123",
        state=TransactionState.FAILED,
        fail_reason="account_frozen",
        fail_direction="pull",
        raw={},
    )
    assert value.raw == FAILED
    assert (value.attempts, value.elapsed) == (2, 1.5)


@pytest.mark.parametrize(
    "document",
    [{"state": "paid"}, {"state": "paid", "fail_reason": None, "fail_direction": None}],
    ids=["left out", "null"],
)
def test_a_status_needs_no_reason(document: dict[str, Any]) -> None:
    """A transaction that has not failed has no reason, left out or null."""
    value = read(STATUS, 200, document)

    assert value == TransactionStatus(transaction_id="debit_123", state=TransactionState.PAID, raw={})
    assert value.fail_reason is value.fail_direction is None


def test_a_cancellation_is_read() -> None:
    """The API's "ok" is all there is to say."""
    assert read(CANCEL, 200, CANCELLED) is None


@every_call
def test_unknown_fields_are_kept(call: AnyCall) -> None:
    """Fields that this release does not know change nothing, and are kept in the raw reply."""
    document = {**GOOD[call.operation.name], "new": {"deep": [1, None]}, "détail": "é"}

    value = read(call, 200, document)

    if value is not None:
        assert value.raw["new"] == {"deep": [1, None]}
        assert value.raw["détail"] == "é"


@pytest.mark.parametrize(
    ("call", "document"),
    [
        (PREAUTHORIZE, {**PREAUTHORIZED, "transaction_state": "pondering"}),
        (CAPTURE, {**CAPTURED, "state": "pondering"}),
    ],
    ids=["preauthorize", "capture"],
)
def test_an_unknown_state_of_a_write_is_no_answer(call: AnyCall, document: dict[str, Any]) -> None:
    """A 2xx with a state that this release does not know says neither done nor not done; it names state and debit."""
    with pytest.raises(Unanswered, match="the response says that the transaction is pondering") as caught:
        read(call, 200, document, X_Request_ID="req_1")

    assert caught.value.state == "pondering"
    assert caught.value.debit_id == "debit_123"
    assert (caught.value.status, caught.value.request_id) == (200, "req_1")


def test_an_unknown_state_of_a_status_is_carried_through() -> None:
    """A state that this release does not know is a value, not an error, where the state is what was asked for."""
    value = read(STATUS, 200, {"state": "pondering"})

    assert not value.state.known
    assert value.state == "pondering"


@pytest.mark.parametrize("status", [200, 202])
@pytest.mark.parametrize("state", ["requested", "initiated", "processing"])
def test_what_is_in_progress_is_accepted(state: str, status: int) -> None:
    """A 2xx in a state of progress is a result that is not final, of a capture and of a preauthorization."""
    captured = read(CAPTURE, status, {**CAPTURED, "state": state})
    reserved = read(PREAUTHORIZE, status, {**PREAUTHORIZED, "transaction_state": state})

    assert (captured.state, captured.final, captured.confirmed_by_status) == (state, False, False)
    assert (reserved.state, reserved.final) == (state, False)


@pytest.mark.parametrize("state", ["paid", "completed"])
def test_only_what_is_done_is_final(state: str) -> None:
    """Paid and completed mean that the money was taken."""
    assert read(CAPTURE, 200, {**CAPTURED, "state": state}).final
    assert read(PREAUTHORIZE, 200, {**PREAUTHORIZED, "transaction_state": state}).final


UUID = "41FC05D5-3148-4ee2-bfdf-9ad5ab7172c6"
OTHER_SPELLINGS: list[tuple[str, dict[str, Any]]] = [
    ("no statement", {"statement": None}),
    ("a statement of another kind", {"statement": 7}),
    ("another bank account", {"to_bank_account_id": "bank_0"}),
    ("a bank account of another kind", {"to_bank_account_id": []}),
    ("a contact in another case", {"contact_id": UUID.lower()}),
    ("a contact without hyphens", {"contact_id": UUID.replace("-", "")}),
    ("a card in another case", {"from_credit_card_id": "CC_456"}),
    ("no contact", {"contact_id": None}),
    ("no card", {"from_credit_card_id": None}),
    ("no amount", {"amount": None}),
    ("an amount as a string", {"amount": "100.5"}),
]


@pytest.mark.parametrize("changes", [row[1] for row in OTHER_SPELLINGS], ids=[row[0] for row in OTHER_SPELLINGS])
@pytest.mark.parametrize("missing", [False, True], ids=["written", "left out"])
def test_what_is_not_needed_may_differ(changes: dict[str, Any], *, missing: bool) -> None:
    """A preauthorization needs its debit and its state; of the rest, only a real difference counts."""
    call = operations.preauthorize(
        contact_id=UUID,
        credit_card_id="cc_456",
        amount="100.50",
        to_bank_account_id="bank_789",
        statement="Test statement",
    )
    document = {**PREAUTHORIZED, "contact_id": UUID, **changes}
    if missing:
        document = without(document, next(iter(changes)))

    value = read(call, 200, document)

    assert (value.debit_id, value.state, value.amount) == ("debit_123", "preauthorized", Decimal("100.50"))
    assert (value.contact_id, value.from_credit_card_id) == (UUID, "cc_456")
    assert value.statement == "Test statement"
    assert isinstance(value.to_bank_account_id, str)


def test_a_byte_order_mark_is_no_part_of_the_json() -> None:
    """Some servers write one; the document behind it is the same."""
    body = b"\xef\xbb\xbf" + json.dumps(CAPTURED).encode()

    assert read(CAPTURE, 200, body).state == "paid"


def test_a_capture_is_of_the_debit_however_its_id_is_spelled() -> None:
    """A UUID in another case is the same debit."""
    value = read(operations.capture(UUID), 200, {"identifier": UUID.lower(), "state": "paid"})

    assert value.debit_id == UUID


@pytest.mark.parametrize("reason", [None, [], {"code": 7}, 7], ids=str)
def test_a_status_needs_its_state_alone(reason: object) -> None:
    """A reason that is no text costs the reason, not the state; the raw reply has it."""
    value = read(STATUS, 200, {"state": "failed", "fail_reason": reason, "fail_direction": reason})

    assert (value.state, value.fail_reason, value.fail_direction) == ("failed", None, None)
    assert value.raw["fail_reason"] == reason


@pytest.mark.parametrize("digits", ["100.5", "100.50", "100.500", "1.005e2", "1.005E+2", "10050e-2"])
def test_an_amount_is_compared_by_its_value(digits: str) -> None:
    """However the API writes the amount, it is the one that was asked for, and is reported to the cent."""
    body = json.dumps(PREAUTHORIZED).replace("100.5", digits).encode()

    assert str(read(PREAUTHORIZE, 200, body).amount) == "100.50"


def test_a_whole_amount_may_come_as_an_integer() -> None:
    """A JSON number without a point is an amount too."""
    call = operations.preauthorize(
        contact_id="contact_123", credit_card_id="cc_456", amount=100, to_bank_account_id="b", statement="s"
    )

    assert str(read(call, 200, {**PREAUTHORIZED, "amount": 100}).amount) == "100.00"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
@pytest.mark.parametrize(
    ("call", "document", "name"),
    [(PREAUTHORIZE, PREAUTHORIZED, "transaction_state"), (CAPTURE, CAPTURED, "state")],
    ids=["preauthorize", "capture"],
)
def test_a_transaction_that_is_over_is_an_error(call: AnyCall, document: dict[str, Any], name: str, state: str) -> None:
    """A 200 that says "failed" is no success."""
    with pytest.raises(TransactionFailedError, match=f"^the transaction is {state}, and final") as caught:
        read(call, 200, {**document, name: state}, X_Request_ID="req_1")

    error = caught.value
    assert error.state == state
    assert error.debit_id == "debit_123"
    assert (error.operation, error.status, error.request_id) == (call.operation.name, 200, "req_1")
    assert (error.attempts, error.elapsed) == (2, 1.5)


def test_the_reason_of_a_failure_is_told() -> None:
    """An error made from a status has its reason, in the message as well."""
    status = read(STATUS, 200, FAILED)

    error = operations.transaction_failed_error(CAPTURE, status, ResponseContext(1, 0.5))

    assert error.message == "the transaction is failed (account_frozen), and final"
    assert (error.state, error.fail_reason, error.fail_direction) == ("failed", "account_frozen", "pull")
    assert error.detail == "account_frozen"
    assert error.debit_id == "debit_123"


def test_a_status_can_confirm_a_capture() -> None:
    """A capture that a status confirms says so, and has the status's raw reply."""
    assert CAPTURE.operation.states is not None
    status = read(STATUS, 200, {"state": "completed", "more": 1})

    capture = CAPTURE.operation.states.result(CAPTURE, status, ResponseContext(3, 2.5))

    assert capture == Capture(debit_id="debit_123", state=TransactionState.COMPLETED, confirmed_by_status=True, raw={})
    assert capture.raw == {"state": "completed", "more": 1}
    assert (capture.attempts, capture.elapsed) == (3, 2.5)


def test_a_status_can_confirm_a_cancellation() -> None:
    """A cancellation has no result, confirmed by a status or not."""
    assert CANCEL.operation.states is not None

    assert (
        CANCEL.operation.states.result(CANCEL, read(STATUS, 200, {"state": "cancelled"}), ResponseContext(1, 0.5))
        is None
    )


def test_a_status_can_confirm_a_preauthorization() -> None:
    """One whose response left the state open has what was asked for, and the status's state."""
    assert PREAUTHORIZE.operation.states is not None
    status = read(STATUS, 200, {"state": "preauthorized", "more": 1})

    reserved = PREAUTHORIZE.operation.states.result(PREAUTHORIZE, status, ResponseContext(1, 2.5))

    assert reserved == Preauthorization(
        debit_id="debit_123",
        amount=Decimal("100.50"),
        statement="Test statement",
        to_bank_account_id="bank_789",
        contact_id="contact_123",
        from_credit_card_id="cc_456",
        state=TransactionState.PREAUTHORIZED,
        raw={},
    )
    assert reserved.raw == {"state": "preauthorized", "more": 1}
    assert (reserved.attempts, reserved.elapsed) == (1, 2.5)
