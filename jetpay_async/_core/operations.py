"""What to send: arguments in, a `Call` out. Pure.

Each `ApiOperation` declares once what sending it twice would mean; nothing else in the package decides that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Generic, TypeVar
from urllib.parse import quote

import attrs

from jetpay_async._core import json
from jetpay_async._core.http import find_request_id
from jetpay_async._core.schema import CancelReply, CaptureReply, PreauthorizeReply, ResponseDecoder, StatusReply
from jetpay_async.errors import Context, InvalidArgumentError, TransactionFailedError
from jetpay_async.models import Capture, JSONValue, Preauthorization, TransactionState, TransactionStatus
from jetpay_async.money import Amount, to_amount

_T = TypeVar("_T")

STATEMENT_LIMIT = 30
"""Characters of ``statement`` [docs]."""


class ReplaySafety(Enum):
    """What to do when a request began to leave and no usable answer came."""

    IDEMPOTENT = "idempotent"
    """Nothing moves: send it again."""
    RESOLVE = "resolve"
    """Read the transaction's status, then decide."""
    NEVER = "never"
    """There is nothing to read it from: never again."""


@attrs.define
class ResponseContext:
    """What is known of a call besides what its reply says."""

    attempts: int
    elapsed: float
    status: int = 200
    """Of the reply that decided."""
    headers: Mapping[str, str] = {}
    """Of the same reply."""

    def context(self, call: Call[_T], *, debit_id: str | None = None) -> Context:
        """What an error tells of its circumstances."""
        return Context(
            operation=call.operation.name,
            debit_id=debit_id or call.debit_id,
            status=self.status,
            request_id=find_request_id(self.headers),
            attempts=self.attempts,
            elapsed=self.elapsed,
        )


@attrs.frozen
class StatusMapping(Generic[_T]):
    """What the states of a transaction say about an operation on it."""

    done: frozenset[TransactionState]
    """It has happened."""
    undone: frozenset[TransactionState]
    """It has not happened, and can."""
    over: frozenset[TransactionState]
    """It has not happened, and can't any more."""
    result: Callable[[Call[_T], TransactionStatus, ResponseContext], _T]
    """The result, from a status that says ``done``."""


@attrs.frozen
class ApiOperation(Generic[_T]):
    """One operation of the API, whatever its arguments."""

    name: str
    method: str
    resend: ReplaySafety
    read: Callable[[Call[_T], dict[str, JSONValue], ResponseContext], _T]
    """From the JSON of a 2xx to the result. Raises `ValueError` if that is not what it says, `TransactionFailedError`
    if it says that the transaction is over."""
    goal: StatusMapping[_T] | None = None
    """For `ReplaySafety.RESOLVE`."""


@attrs.define
class Call(Generic[_T]):
    """One request, ready to be sent."""

    operation: ApiOperation[_T]
    path: str
    """Percent-encoded, from the root of the API."""
    arguments: Mapping[str, str]
    """What was asked, for the errors."""
    debit_id: str | None = None
    body: bytes = b""


def preauthorize(
    *, contact_id: str, credit_card_id: str, amount: Amount, to_bank_account_id: str, statement: str
) -> Call[Preauthorization]:
    """Reserve an amount on a saved card [guide]."""
    contact, contact_segment = _read_id(contact_id, "contact_id")
    card, card_segment = _read_id(credit_card_id, "credit_card_id")
    exact = to_amount(amount)
    account, _ = _read_id(to_bank_account_id, "to_bank_account_id")
    text = _read_statement(statement)
    body: dict[str, JSONValue] = {"amount": exact, "to_bank_account_id": account, "statement": text}
    return Call(
        operation=PREAUTHORIZE,
        path=f"/contact/{contact_segment}/creditcards/{card_segment}/preauthorize",
        arguments={
            "contact_id": contact,
            "credit_card_id": card,
            "amount": str(exact),
            "to_bank_account_id": account,
            "statement": text,
        },
        body=json.dump(body),
    )


def read_debit_id(debit_id: str) -> str:
    """Check what is to be captured later.

    Raises:
        InvalidArgumentError: It can't be a debit's id.
    """
    return _read_id(debit_id, "debit_id")[0]


def capture(debit_id: str) -> Call[Capture]:
    """Take the full amount of a preauthorized debit [guide]."""
    debit, segment = _read_id(debit_id, "debit_id")
    return Call(CAPTURE, f"/debit/{segment}/capture", {"debit_id": debit}, debit)


def transaction_status(identifier: str) -> Call[TransactionStatus]:
    """Read where a transaction stands [docs]."""
    transaction, segment = _read_id(identifier, "identifier")
    return Call(STATUS, f"/transaction/{segment}/status", {"identifier": transaction}, transaction)


def cancel_transaction(identifier: str) -> Call[None]:
    """Cancel a transaction while no funds have been pulled [docs]."""
    transaction, segment = _read_id(identifier, "identifier")
    return Call(CANCEL, f"/transaction/{segment}", {"identifier": transaction}, transaction)


_is_plain_id = re.compile(r"[A-Za-z0-9_-]{1,255}").fullmatch
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f/\\%\ud800-\udfff]|^\s|\s$|^\.{1,2}$")
_ID_LIMIT = 255


def _read_id(value: str, field: str) -> tuple[str, str]:
    """Check an id; return it, and percent-encoded as one segment of a path."""
    if type(value) is str and _is_plain_id(value):
        return value, value
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{field}: an id is a str, not {type(value).__name__}", field=field)
    if not value:
        raise InvalidArgumentError(f"{field}: is empty; pass the id that the API gave", field=field)
    plain = _plain(value)
    # Servers decode %2F before they route, so an encoded slash would still reach another resource; and so would "%2F"
    # itself, encoded, where a proxy decodes first. An id with a percent sign is most likely one encoded already.
    if len(plain) > _ID_LIMIT or _FORBIDDEN.search(plain):
        raise InvalidArgumentError(
            f"{field}: {plain[:60]!r} is not an id: no slash, percent sign, dot segment, control character or "
            f"surrounding space, and at most {_ID_LIMIT} characters; pass it exactly as the API gave it, not encoded",
            field=field,
        )
    return plain, quote(plain, safe="")


def _plain(value: str) -> str:
    """Take the characters that a `str` holds: its subclasses, enumerations among them, may print as others."""
    return str.__str__(value)


def _read_statement(value: str) -> str:
    field = "statement"
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{field}: is a str, not {type(value).__name__}", field=field)
    statement = _plain(value)
    if not statement.strip():
        raise InvalidArgumentError(f"{field}: is empty; it is what the payer's bank statement shows", field=field)
    if len(statement) > STATEMENT_LIMIT:
        raise InvalidArgumentError(
            f"{field}: has {len(statement)} characters; the API takes at most {STATEMENT_LIMIT}, so shorten it",
            field=field,
        )
    if not statement.isprintable():
        raise InvalidArgumentError(f"{field}: has unprintable characters; remove them: {statement!a}", field=field)
    return statement


_preauthorize_shape = ResponseDecoder(PreauthorizeReply)
_capture_shape = ResponseDecoder(CaptureReply)
_status_shape = ResponseDecoder(StatusReply)
_cancel_shape = ResponseDecoder(CancelReply)

_PAID = frozenset({TransactionState.PAID, TransactionState.COMPLETED})
_LOST = frozenset({TransactionState.FAILED, TransactionState.CANCELLED})
_RESERVED = frozenset({TransactionState.PREAUTHORIZED})


def _read_preauthorize(
    call: Call[Preauthorization], document: dict[str, JSONValue], facts: ResponseContext
) -> Preauthorization:
    reply = _preauthorize_shape.read(document)
    asked = call.arguments
    amount = Decimal(asked["amount"])
    if not reply.debit_id:
        raise ValueError("the reply names no debit")
    # A reply that belongs to another request would tie this customer's booking to somebody else's money.
    if (reply.contact_id, reply.from_credit_card_id) != (asked["contact_id"], asked["credit_card_id"]):
        raise ValueError("the reply is about another contact or card")
    if reply.amount != amount:
        raise ValueError(f"the reply is about another amount, {reply.amount}")
    if reply.transaction_state in _LOST:
        raise transaction_failed_error(
            call,
            TransactionStatus(transaction_id=reply.debit_id, state=reply.transaction_state, raw=document),
            facts,
            debit_id=reply.debit_id,
        )
    return Preauthorization(
        debit_id=reply.debit_id,
        amount=amount,
        statement=reply.statement,
        to_bank_account_id=reply.to_bank_account_id,
        contact_id=reply.contact_id,
        from_credit_card_id=reply.from_credit_card_id,
        state=reply.transaction_state,
        raw=document,
        attempts=facts.attempts,
        elapsed=facts.elapsed,
    )


def _read_capture(call: Call[Capture], document: dict[str, JSONValue], facts: ResponseContext) -> Capture:
    reply = _capture_shape.read(document)
    if reply.identifier != call.debit_id:
        raise ValueError("the reply is about another debit")
    if reply.state in _RESERVED:
        raise ValueError("the reply says that the debit is still preauthorized")
    if reply.state in _LOST:
        status = TransactionStatus(transaction_id=reply.identifier, state=reply.state, raw=document)
        raise transaction_failed_error(call, status, facts)
    return Capture(
        debit_id=reply.identifier,
        state=reply.state,
        raw=document,
        attempts=facts.attempts,
        elapsed=facts.elapsed,
    )


def _confirmed_capture(call: Call[Capture], status: TransactionStatus, facts: ResponseContext) -> Capture:
    return Capture(
        debit_id=call.arguments["debit_id"],
        state=status.state,
        confirmed_by_status=True,
        raw=status.raw,
        attempts=facts.attempts,
        elapsed=facts.elapsed,
    )


def _read_status(
    call: Call[TransactionStatus], document: dict[str, JSONValue], facts: ResponseContext
) -> TransactionStatus:
    reply = _status_shape.read(document)
    return TransactionStatus(
        transaction_id=call.arguments["identifier"],
        state=reply.state,
        fail_reason=reply.fail_reason,
        fail_direction=reply.fail_direction,
        raw=document,
        attempts=facts.attempts,
        elapsed=facts.elapsed,
    )


def _read_cancel(_: Call[None], document: dict[str, JSONValue], __: ResponseContext) -> None:
    if not _cancel_shape.read(document).ok:
        raise ValueError("the reply says neither that it was cancelled nor why not")


def _confirmed_cancel(_: Call[None], __: TransactionStatus, ___: ResponseContext) -> None:
    return None


def transaction_failed_error(
    call: Call[_T], status: TransactionStatus, facts: ResponseContext, *, debit_id: str | None = None
) -> TransactionFailedError:
    """Make the error for a transaction that is in a final state other than the one asked for."""
    reason = f" ({status.fail_reason})" if status.fail_reason else ""
    return TransactionFailedError(
        f"the transaction is {status.state}{reason}, and final",
        detail=status.fail_reason or "",
        state=status.state,
        fail_reason=status.fail_reason,
        fail_direction=status.fail_direction,
        **facts.context(call, debit_id=debit_id),
    )


PREAUTHORIZE = ApiOperation("preauthorize", "POST", ReplaySafety.NEVER, _read_preauthorize)
CAPTURE = ApiOperation(
    "capture",
    "POST",
    ReplaySafety.RESOLVE,
    _read_capture,
    StatusMapping(done=_PAID, undone=_RESERVED, over=_LOST, result=_confirmed_capture),
)
STATUS = ApiOperation("transaction_status", "GET", ReplaySafety.IDEMPOTENT, _read_status)
# That a cancelled transaction reads "cancelled", and that a reservation is released this way, is inferred.
CANCEL = ApiOperation(
    "cancel_transaction",
    "DELETE",
    ReplaySafety.RESOLVE,
    _read_cancel,
    StatusMapping(
        done=frozenset({TransactionState.CANCELLED}),
        undone=_RESERVED | {TransactionState.REQUESTED, TransactionState.INITIATED},
        over=_PAID | {TransactionState.FAILED},
        result=_confirmed_cancel,
    ),
)
