"""What to send: arguments in, a `Call` out; and what a response's JSON says of it. Pure.

Each `ApiOperation` declares once what sending it twice would mean, and what each state of its transaction says about
it; nothing else in the package decides that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, Generic, TypedDict, TypeVar

import attrs

from jetpay_async._core import contract, json
from jetpay_async._core.arguments import key_of, read_id, read_statement
from jetpay_async._core.http import find_request_id
from jetpay_async._core.schema import CancelReply, CaptureReply, PreauthorizeReply, ResponseDecoder, StatusReply
from jetpay_async._text import canonical_id, printable
from jetpay_async.errors import Context, TransactionFailedError
from jetpay_async.models import (
    CAPTURED_STATES,
    IN_PROGRESS_STATES,
    RESERVED_STATES,
    Capture,
    Charge,
    JSONValue,
    Preauthorization,
    TransactionState,
    TransactionStatus,
)
from jetpay_async.money import Amount, to_amount

_T = TypeVar("_T")


class ReplaySafety(Enum):
    """What to do when a request began to leave and no usable answer came."""

    IDEMPOTENT = "idempotent"
    """Nothing moves: send it again."""
    RESOLVE = "resolve"
    """Read the transaction's status, or the list that it would be in, then decide."""
    NEVER = "never"
    """Nothing shows what became of it: never send it again."""


class Body(Enum):
    """What the body of a 2xx may be."""

    OBJECT = "object"
    """A JSON object."""
    JSON = "json"
    """Any JSON."""
    OPTIONAL = "optional"
    """Any JSON, or nothing."""


@attrs.define(eq=False)
class ResponseContext:
    """What is known of a call besides what its response says."""

    attempts: int
    elapsed: float
    status: int = 200
    """Of the response that decided."""
    headers: Mapping[str, str] = {}
    """Of the same response."""

    def error_context(self, call: Call[_T], *, debit_id: str | None = None) -> Context:
        """Return what an error reports of its circumstances."""
        return Context(
            operation=call.operation.name,
            debit_id=debit_id or call.debit_id,
            status=self.status,
            request_id=find_request_id(self.headers),
            attempts=self.attempts,
            elapsed=self.elapsed,
        )


@attrs.frozen(kw_only=True, eq=False)
class StatusMapping(Generic[_T]):
    """What the states of a transaction say about an operation on it. Any other state says nothing."""

    done: frozenset[TransactionState]
    """It was carried out."""
    in_progress: frozenset[TransactionState] = frozenset()
    """The API has accepted it, and has not finished it."""
    undone: frozenset[TransactionState]
    """It was not carried out, and can be."""
    over: frozenset[TransactionState]
    """It was not carried out, and can't be any more."""
    result: Callable[[Call[_T], TransactionStatus, ResponseContext], _T]
    """The result, from a status that says that it is done or in progress."""


@attrs.frozen(eq=False)
class Listing(Generic[_T]):
    """How a list shows what became of a write whose transaction or status there is none of."""

    call: Call[Any]
    """Reads the list."""
    find: Callable[[Call[_T], Any, ResponseContext], _T | None]
    """From the list to the result; None if it is not in it. Raises `APIError` if the list shows that it never will be
    carried out."""


@attrs.frozen(eq=False)
class ApiOperation(Generic[_T]):
    """One operation of the API, whatever its arguments."""

    name: str
    method: str
    replay_safety: ReplaySafety
    read: Callable[[Call[_T], Any, ResponseContext], _T]
    """From the JSON of a 2xx to the result. Raises `ValueError` if that is not what it says, `UndecidedStateError` if
    it says a state that decides nothing, `TransactionFailedError` if it says that the transaction is over."""
    states: StatusMapping[_T] | None = None
    """None where no transaction's status says what became of it."""
    listing: Callable[[Call[_T]], Listing[_T]] | None = None
    """None where no list shows what became of it."""
    moves_money: bool = True
    """Whether money may move because of it."""
    harmless: bool = False
    """Whether `RetryPolicy.resend_harmless` may have it sent again: it makes a duplicate, and no money moves."""
    missing_is_done: bool = False
    """Whether a 404 after a request without an answer means that that request was carried out."""
    body: Body = Body.OBJECT
    transaction_field: str | None = None
    """Where a response names its transaction, in case that the rest of it is unusable."""


class UndecidedStateError(ValueError):
    """A 2xx names its transaction, in a state that says neither that the operation is done nor that it isn't.

    Args:
        state: That state.
        debit_id: The transaction.
    """

    def __init__(self, state: TransactionState, debit_id: str) -> None:
        super().__init__(f"the response says that the transaction is {printable(state)}")
        self.state = state
        self.debit_id = debit_id


@attrs.define(eq=False)
class Call(Generic[_T]):
    """One request, ready to be sent."""

    operation: ApiOperation[_T]
    path: str
    """Percent-encoded, from the root of the API."""
    arguments: Mapping[str, str]
    """What was asked, for the errors."""
    debit_id: str | None = None
    body: bytes = attrs.field(default=b"", repr=False)
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)
    """What no error may show, even if the API repeats it."""
    key: str = ""
    """Of a capture: its debit, spelled in one way, under which `SingleFlight` and a batch know it."""


def preauthorize(
    *, contact_id: str, credit_card_id: str, amount: Amount, to_bank_account_id: str, statement: str
) -> Call[Preauthorization]:
    """Reserve an amount on a saved card [guide]."""
    return _card_payment(
        PREAUTHORIZE,
        contract.PREAUTHORIZE,
        contact_id=contact_id,
        credit_card_id=credit_card_id,
        amount=amount,
        to_bank_account_id=to_bank_account_id,
        statement=statement,
    )


def charge(
    *, contact_id: str, credit_card_id: str, amount: Amount, to_bank_account_id: str, statement: str
) -> Call[Charge]:
    """Take an amount from a saved card at once [docs]."""
    return _card_payment(
        CHARGE,
        contract.CHARGE,
        contact_id=contact_id,
        credit_card_id=credit_card_id,
        amount=amount,
        to_bank_account_id=to_bank_account_id,
        statement=statement,
    )


def _card_payment(
    operation: ApiOperation[_T],
    endpoint: contract.Endpoint,
    *,
    contact_id: str,
    credit_card_id: str,
    amount: Amount,
    to_bank_account_id: str,
    statement: str,
) -> Call[_T]:
    _preauthorize_decoder.prepare()
    contact, contact_segment = read_id(contact_id, "contact_id")
    card, card_segment = read_id(credit_card_id, "credit_card_id")
    exact = to_amount(amount)
    account, _ = read_id(to_bank_account_id, "to_bank_account_id")
    text = read_statement(statement)
    body: dict[str, JSONValue] = {"amount": exact, "to_bank_account_id": account, "statement": text}
    return Call(
        operation=operation,
        path=endpoint.fill(contact_id=contact_segment, credit_card_id=card_segment),
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
    return read_id(debit_id, "debit_id")[0]


_BEFORE_ID, _, _AFTER_ID = contract.CAPTURE.path.partition("{debit_id}")


def capture(debit_id: str) -> Call[Capture]:
    """Take the full amount of a preauthorized debit [guide]."""
    debit, segment = read_id(debit_id, "debit_id")
    return Call(CAPTURE, f"{_BEFORE_ID}{segment}{_AFTER_ID}", {"debit_id": debit}, debit, key=key_of(debit))


def transaction_status(identifier: str) -> Call[TransactionStatus]:
    """Read where a transaction stands [docs]."""
    transaction, segment = read_id(identifier, "identifier")
    return Call(STATUS, contract.STATUS.fill(identifier=segment), {"identifier": transaction}, transaction)


def cancel_transaction(identifier: str) -> Call[None]:
    """Cancel a transaction while no funds have been pulled [docs]."""
    transaction, segment = read_id(identifier, "identifier")
    return Call(CANCEL, contract.CANCEL.fill(identifier=segment), {"identifier": transaction}, transaction)


_preauthorize_decoder = ResponseDecoder(PreauthorizeReply)
_capture_decoder = ResponseDecoder(CaptureReply)
_status_decoder = ResponseDecoder(StatusReply)
_cancel_decoder = ResponseDecoder(CancelReply)

_ENDED_STATES = frozenset({TransactionState.FAILED, TransactionState.CANCELLED})
_PREAUTHORIZED = frozenset({TransactionState.PREAUTHORIZED})
_PAID = TransactionState.PAID.value


class _CardPayment(TypedDict):
    """What a preauthorization and a charge have in common."""

    debit_id: str
    amount: Decimal
    statement: str
    to_bank_account_id: str
    contact_id: str
    from_credit_card_id: str
    state: TransactionState
    raw: Mapping[str, JSONValue]
    attempts: int
    elapsed: float


def _read_card_payment(
    call: Call[_T], document: dict[str, JSONValue], context: ResponseContext, done: frozenset[TransactionState]
) -> _CardPayment:
    """Need what identifies the debit, and its state; of the rest, compare what there is with what was asked."""
    reply = _preauthorize_decoder.read(document)
    asked = call.arguments
    debit_id, state = reply.debit_id, reply.transaction_state
    if not debit_id:
        raise ValueError("the response names no debit")
    # A response that belongs to another request would tie this customer's booking to somebody else's money.
    if not agrees(reply.contact_id, asked["contact_id"]):
        raise ValueError("the response is about another contact")
    if not agrees(reply.from_credit_card_id, asked["credit_card_id"]):
        raise ValueError("the response is about another card")
    if not _is_amount(reply.amount, Decimal(asked["amount"])):
        raise ValueError(f"the response is about another amount, {printable(str(reply.amount), 40)}")
    if state in _ENDED_STATES:
        status = TransactionStatus(transaction_id=debit_id, state=state, raw=document)
        raise transaction_failed_error(call, status, context, debit_id=debit_id)
    if state not in done | IN_PROGRESS_STATES:
        raise UndecidedStateError(state, debit_id)
    statement, bank_account_id = reply.statement, reply.to_bank_account_id
    return _CardPayment(
        debit_id=debit_id,
        amount=Decimal(asked["amount"]),
        statement=statement if isinstance(statement, str) else asked["statement"],
        to_bank_account_id=bank_account_id if isinstance(bank_account_id, str) else asked["to_bank_account_id"],
        contact_id=asked["contact_id"],
        from_credit_card_id=asked["credit_card_id"],
        state=state,
        raw=document,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


def _confirmed_card_payment(call: Call[_T], status: TransactionStatus, context: ResponseContext) -> _CardPayment:
    asked = call.arguments
    return _CardPayment(
        debit_id=status.transaction_id,
        amount=Decimal(asked["amount"]),
        statement=asked["statement"],
        to_bank_account_id=asked["to_bank_account_id"],
        contact_id=asked["contact_id"],
        from_credit_card_id=asked["credit_card_id"],
        state=status.state,
        raw=status.raw,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


def _read_preauthorize(
    call: Call[Preauthorization], document: dict[str, JSONValue], context: ResponseContext
) -> Preauthorization:
    return Preauthorization(**_read_card_payment(call, document, context, RESERVED_STATES))


def _confirmed_preauthorization(
    call: Call[Preauthorization], status: TransactionStatus, context: ResponseContext
) -> Preauthorization:
    return Preauthorization(**_confirmed_card_payment(call, status, context))


def _read_charge(call: Call[Charge], document: dict[str, JSONValue], context: ResponseContext) -> Charge:
    return Charge(**_read_card_payment(call, document, context, CAPTURED_STATES))


def _confirmed_charge(call: Call[Charge], status: TransactionStatus, context: ResponseContext) -> Charge:
    return Charge(**_confirmed_card_payment(call, status, context))


def agrees(value: JSONValue, asked: str) -> bool:
    """Say whether an id in a response, if there is one, is the one that was asked for."""
    if value is None or value == asked:
        return True
    return isinstance(value, str) and canonical_id(value) == canonical_id(asked)


def _is_amount(value: JSONValue, asked: Decimal) -> bool:
    """Say whether an amount in a response, if there is one, is the one that was asked for, however it is written."""
    if value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        return False
    try:
        return Decimal(value) == asked
    except InvalidOperation:
        return False


def _read_capture(call: Call[Capture], document: dict[str, JSONValue], context: ResponseContext) -> Capture:
    debit_id = call.arguments["debit_id"]
    if document.get("state") == _PAID and document.get("identifier") == debit_id:
        # As nearly all are: so by the shortest way.
        state = TransactionState.PAID
    else:
        state = _read_capture_state(document, debit_id)
        if state in _ENDED_STATES:
            status = TransactionStatus(transaction_id=debit_id, state=state, raw=document)
            raise transaction_failed_error(call, status, context)
    return Capture(
        debit_id=debit_id,
        state=state,
        raw=document,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


def _read_capture_state(document: dict[str, JSONValue], debit_id: str) -> TransactionState:
    """Read the state of the debit, where it decides something; raise `ValueError` otherwise."""
    reply = _capture_decoder.read(document)
    if reply.identifier != debit_id and not agrees(reply.identifier, debit_id):
        raise ValueError("the response is about another debit")
    state = reply.state
    if state in _PREAUTHORIZED:
        raise ValueError("the response says that the debit is still preauthorized")
    if state not in CAPTURED_STATES | IN_PROGRESS_STATES | _ENDED_STATES:
        raise UndecidedStateError(state, debit_id)
    return state


def _confirmed_capture(call: Call[Capture], status: TransactionStatus, context: ResponseContext) -> Capture:
    return Capture(
        debit_id=call.arguments["debit_id"],
        state=status.state,
        confirmed_by_status=True,
        raw=status.raw,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


def _read_status(
    call: Call[TransactionStatus], document: dict[str, JSONValue], context: ResponseContext
) -> TransactionStatus:
    reply = _status_decoder.read(document)
    return TransactionStatus(
        transaction_id=call.arguments["identifier"],
        state=reply.state,
        fail_reason=reply.fail_reason if isinstance(reply.fail_reason, str) else None,
        fail_direction=reply.fail_direction if isinstance(reply.fail_direction, str) else None,
        raw=document,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


def _read_cancel(_: Call[None], document: dict[str, JSONValue], __: ResponseContext) -> None:
    if not _cancel_decoder.read(document).ok:
        raise ValueError("the response says neither that it was cancelled nor why not")


def _confirmed_cancel(_: Call[None], __: TransactionStatus, ___: ResponseContext) -> None:
    return None


def transaction_failed_error(
    call: Call[_T], status: TransactionStatus, context: ResponseContext, *, debit_id: str | None = None
) -> TransactionFailedError:
    """Make the error for a transaction that is in a final state other than the one asked for."""
    reason = printable(status.fail_reason or "")
    return TransactionFailedError(
        f"the transaction is {printable(status.state)}{f' ({reason})' if reason else ''}, and final",
        detail=reason,
        state=status.state,
        fail_reason=status.fail_reason,
        fail_direction=status.fail_direction,
        **context.error_context(call, debit_id=debit_id),
    )


PREAUTHORIZE = ApiOperation(
    "preauthorize",
    contract.PREAUTHORIZE.method,
    ReplaySafety.NEVER,
    _read_preauthorize,
    # Read only where the response named the debit, and left its state open: nothing is ever sent again.
    StatusMapping(
        done=RESERVED_STATES,
        in_progress=IN_PROGRESS_STATES,
        undone=frozenset(),
        over=_ENDED_STATES,
        result=_confirmed_preauthorization,
    ),
    transaction_field="debit_id",
)
CHARGE = ApiOperation(
    "charge",
    contract.CHARGE.method,
    ReplaySafety.NEVER,
    _read_charge,
    # The same. That it is preauthorized shows that the money was not taken, or not yet: that decides nothing.
    StatusMapping(
        done=CAPTURED_STATES,
        in_progress=IN_PROGRESS_STATES,
        undone=frozenset(),
        over=_ENDED_STATES,
        result=_confirmed_charge,
    ),
    transaction_field="debit_id",
)
CAPTURE = ApiOperation(
    "capture",
    contract.CAPTURE.method,
    ReplaySafety.RESOLVE,
    _read_capture,
    StatusMapping(
        done=CAPTURED_STATES,
        in_progress=IN_PROGRESS_STATES,
        undone=_PREAUTHORIZED,
        over=_ENDED_STATES,
        result=_confirmed_capture,
    ),
)
STATUS = ApiOperation("transaction_status", contract.STATUS.method, ReplaySafety.IDEMPOTENT, _read_status)
# That a cancelled transaction reads "cancelled", and that a reservation is released this way, is inferred.
CANCEL = ApiOperation(
    "cancel_transaction",
    contract.CANCEL.method,
    ReplaySafety.RESOLVE,
    _read_cancel,
    StatusMapping(
        done=frozenset({TransactionState.CANCELLED}),
        undone=_PREAUTHORIZED | {TransactionState.REQUESTED, TransactionState.INITIATED},
        over=CAPTURED_STATES | {TransactionState.FAILED},
        result=_confirmed_cancel,
    ),
)
