"""Responses that the tests read, and how they are read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from multidict import CIMultiDict

from jetpay_async._core import operations, responses
from jetpay_async._core.http import RawResponse
from jetpay_async._core.operations import Call

AnyCall = Call[Any]

PREAUTHORIZE = operations.preauthorize(
    contact_id="contact_123",
    credit_card_id="cc_456",
    amount="100.50",
    to_bank_account_id="bank_789",
    statement="Test statement",
)
CAPTURE = operations.capture("debit_123")
STATUS = operations.transaction_status("debit_123")
CANCEL = operations.cancel_transaction("debit_123")
CALLS: list[AnyCall] = [PREAUTHORIZE, CAPTURE, STATUS, CANCEL]
every_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.operation.name)

# The replies of the guide.
PREAUTHORIZED: dict[str, Any] = {
    "debit_id": "debit_123",
    "amount": 100.5,
    "statement": "Test statement",
    "to_bank_account_id": "bank_789",
    "contact_id": "contact_123",
    "from_credit_card_id": "cc_456",
    "transaction_state": "preauthorized",
}
CAPTURED: dict[str, Any] = {"identifier": "debit_123", "state": "paid"}
FAILED: dict[str, Any] = {"state": "failed", "fail_reason": "account_frozen", "fail_direction": "pull"}
CANCELLED: dict[str, Any] = {"ok": True}
GOOD = {
    "preauthorize": PREAUTHORIZED,
    "capture": CAPTURED,
    "transaction_status": FAILED,
    "cancel_transaction": CANCELLED,
}

SURE_REJECTIONS = {400, 401, 402, 403, 404, 405, 409, 410, 413, 415, 422, 429}

NOW = 784111777.0


def read(call: AnyCall, status: int, body: object, **headers: str) -> Any:
    """Read a reply; a body of bytes is taken as it is, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return responses.read(call, RawResponse(status, fields, content), attempts=2, elapsed=1.5, now=NOW)


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}
