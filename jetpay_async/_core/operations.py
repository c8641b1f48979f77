"""What to send: arguments in, a `Call` out; and what a response's JSON says of it. Pure.

Each `ApiOperation` declares once what sending it twice would mean, and what each state of its transaction says about
it; nothing else in the package decides that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Generic, TypeVar
from urllib.parse import quote

import attrs

from jetpay_async._core import json
from jetpay_async._core.http import find_request_id
from jetpay_async._core.schema import CancelReply, CaptureReply, PreauthorizeReply, ResponseDecoder, StatusReply
from jetpay_async._text import printable
from jetpay_async.errors import Context, InvalidArgumentError, TransactionFailedError
from jetpay_async.models import (
    CAPTURED_STATES,
    IN_PROGRESS_STATES,
    RESERVED_STATES,
    Capture,
    JSONValue,
    Preauthorization,
    TransactionState,
    TransactionStatus,
)
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
    """Its transaction is not known: never send it again."""


@attrs.define
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


@attrs.frozen(kw_only=True)
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


@attrs.frozen
class ApiOperation(Generic[_T]):
    """One operation of the API, whatever its arguments."""

    name: str
    method: str
    replay_safety: ReplaySafety
    read: Callable[[Call[_T], dict[str, JSONValue], ResponseContext], _T]
    """From the JSON of a 2xx to the result. Raises `ValueError` if that is not what it says, `UndecidedStateError` if
    it says a state that decides nothing, `TransactionFailedError` if it says that the transaction is over."""
    states: StatusMapping[_T] | None = None
    """None for a read."""


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
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\%]|^\s|\s$|^\.{1,2}$")
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
    # A zero-width space, a soft hyphen or a mark of direction, as texts that were copied bring along, makes another id
    # that looks the same.
    for character in plain:
        if not character.isprintable():
            raise InvalidArgumentError(
                f"{field}: {plain[:60]!r} contains an invisible or undecodable character, U+{ord(character):04X}; "
                "remove it",
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


_preauthorize_decoder = ResponseDecoder(PreauthorizeReply)
_capture_decoder = ResponseDecoder(CaptureReply)
_status_decoder = ResponseDecoder(StatusReply)
_cancel_decoder = ResponseDecoder(CancelReply)

_ENDED_STATES = frozenset({TransactionState.FAILED, TransactionState.CANCELLED})
_PREAUTHORIZED = frozenset({TransactionState.PREAUTHORIZED})


def _read_preauthorize(
    call: Call[Preauthorization], document: dict[str, JSONValue], context: ResponseContext
) -> Preauthorization:
    """Need what identifies the debit, and its state; of the rest, compare what there is with what was asked."""
    reply = _preauthorize_decoder.read(document)
    asked = call.arguments
    debit_id, state = reply.debit_id, reply.transaction_state
    if not debit_id:
        raise ValueError("the response names no debit")
    # A response that belongs to another request would tie this customer's booking to somebody else's money.
    if not _agrees(reply.contact_id, asked["contact_id"]):
        raise ValueError("the response is about another contact")
    if not _agrees(reply.from_credit_card_id, asked["credit_card_id"]):
        raise ValueError("the response is about another card")
    if not _is_amount(reply.amount, Decimal(asked["amount"])):
        raise ValueError(f"the response is about another amount, {printable(str(reply.amount), 40)}")
    if state in _ENDED_STATES:
        status = TransactionStatus(transaction_id=debit_id, state=state, raw=document)
        raise transaction_failed_error(call, status, context, debit_id=debit_id)
    if state not in RESERVED_STATES | IN_PROGRESS_STATES:
        raise UndecidedStateError(state, debit_id)
    statement, bank_account_id = reply.statement, reply.to_bank_account_id
    return Preauthorization(
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


_is_uuid = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}").fullmatch


def _canonical(identifier: str) -> str:
    """Spell an id in one way: UUIDs are written in both cases, with and without hyphens."""
    text = identifier.casefold()
    return text.replace("-", "") if _is_uuid(text) else text


def _agrees(value: JSONValue, asked: str) -> bool:
    """Say whether an id in a response, if there is one, is the one that was asked for."""
    if value is None or value == asked:
        return True
    return isinstance(value, str) and _canonical(value) == _canonical(asked)


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


def _confirmed_preauthorization(
    call: Call[Preauthorization], status: TransactionStatus, context: ResponseContext
) -> Preauthorization:
    asked = call.arguments
    return Preauthorization(
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


def _read_capture(call: Call[Capture], document: dict[str, JSONValue], context: ResponseContext) -> Capture:
    reply = _capture_decoder.read(document)
    debit_id = call.arguments["debit_id"]
    state = reply.state
    if reply.identifier != debit_id and not _agrees(reply.identifier, debit_id):
        raise ValueError("the response is about another debit")
    if state not in CAPTURED_STATES and state not in IN_PROGRESS_STATES:
        if state in _PREAUTHORIZED:
            raise ValueError("the response says that the debit is still preauthorized")
        if state in _ENDED_STATES:
            status = TransactionStatus(transaction_id=debit_id, state=state, raw=document)
            raise transaction_failed_error(call, status, context)
        raise UndecidedStateError(state, debit_id)
    return Capture(
        debit_id=debit_id,
        state=state,
        raw=document,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


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
    "POST",
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
)
CAPTURE = ApiOperation(
    "capture",
    "POST",
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
STATUS = ApiOperation("transaction_status", "GET", ReplaySafety.IDEMPOTENT, _read_status)
# That a cancelled transaction reads "cancelled", and that a reservation is released this way, is inferred.
CANCEL = ApiOperation(
    "cancel_transaction",
    "DELETE",
    ReplaySafety.RESOLVE,
    _read_cancel,
    StatusMapping(
        done=frozenset({TransactionState.CANCELLED}),
        undone=_PREAUTHORIZED | {TransactionState.REQUESTED, TransactionState.INITIATED},
        over=CAPTURED_STATES | {TransactionState.FAILED},
        result=_confirmed_cancel,
    ),
)
