"""What came back: (call, status, headers, bytes) in, a value or an error out. Pure and total.

=================================  ==================================================================================
the response                       what it means
=================================  ==================================================================================
2xx, the right JSON                the result
400, 401, 402, 403, 404, 405,      the API said no: an `APIError`. For a capture, 409 may be about an earlier request
409, 410, 413, 415, 422, 429,      of ours: see `executor`
a JSON object
anything else                      `Unanswered`: nobody who knows has spoken. A page of a proxy, a redirect, a 5xx,
                                   another 4xx (408, 425 and 499 are said of requests that go on), JSON of another
                                   shape, a state that decides nothing. For a write that is an unknown outcome, never
                                   a failure.
=================================  ==================================================================================

That the API's errors are JSON objects (FastAPI's ``{"detail": ...}``) is inferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from jetpay_async._core import contract, json
from jetpay_async._core.http import ResolveBound, find_request_id, read_retry_after
from jetpay_async._core.operations import Body, Call, ResponseContext, UndecidedStateError
from jetpay_async._text import printable
from jetpay_async.errors import (
    APIError,
    AuthenticationError,
    ConflictError,
    FieldError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
)

if TYPE_CHECKING:
    from jetpay_async._core.http import RawResponse
    from jetpay_async.models import JSONValue, TransactionState

_T = TypeVar("_T")


class Unanswered(Exception):  # noqa: N818 - an outcome, which the caller turns into an error of the public tree
    """No usable answer came.

    Attributes:
        started: Whether the request had begun to leave.
        reason: What happened, in words without secrets.
        status: The HTTP status, if there was one.
        request_id: The service's id, if a header carried one.
        retry_after: Seconds, if a header asked to wait.
        debit_id: The debit that an otherwise unusable response named.
        state: The state of that debit, where that is all that is wrong with the response: it decides nothing.
        bound: Which time must pass before the status can prove that the request did nothing.
    """

    def __init__(
        self,
        reason: str,
        *,
        started: bool,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        debit_id: str | None = None,
        state: TransactionState | None = None,
        bound: ResolveBound = ResolveBound.TIMEOUT,
    ) -> None:
        super().__init__(reason)
        self.reason: str = printable(" ".join(reason.split()))
        self.started = started
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.debit_id = debit_id
        self.state = state
        self.bound = bound


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read(call: Call[_T], response: RawResponse, *, attempts: int, elapsed: float, now: float) -> _T:
    """Turn a response into the operation's result.

    Args:
        call: What was asked.
        response: What came back.
        attempts: How many requests were made, this one included.
        elapsed: Seconds since the call began.
        now: Seconds since the epoch, to read a ``Retry-After`` date with.

    Raises:
        APIError: The API said no.
        Unanswered: It is no usable answer.
    """
    operation = call.operation
    context = ResponseContext(attempts, elapsed, response.status, response.headers)
    done = 200 <= response.status < 300
    content = response.body.removeprefix(_BYTE_ORDER_MARK)
    try:
        if done and operation.body is not Body.OBJECT:
            document: Any = None if operation.body is Body.OPTIONAL and not content.strip() else json.parse(content)
        else:
            document = json.parse_object(content)
    except ValueError as error:
        raise _unanswered(response, now, str(error)) from None
    if done:
        try:
            return operation.read(call, document, context)
        except UndecidedStateError as undecided:
            raise _unanswered(
                response, now, str(undecided), debit_id=undecided.debit_id, state=undecided.state
            ) from None
        except ValueError as error:
            raise _unanswered(response, now, str(error), debit_id=_named(call, document)) from None
    if response.status in _REJECTIONS:
        raise _rejection(call, document, context, now)
    detail, _ = _read_detail(document, call.secrets)
    failed = response.status in _FAILURES and contract.ERROR_DETAIL in document
    raise _unanswered(
        response,
        now,
        f"which does not say what became of the request{f': {detail}' if detail else ''}",
        bound=ResolveBound.DIRECT if failed and response.direct else ResolveBound.TIMEOUT,
    )


def _named(call: Call[_T], document: Any) -> str | None:
    """Find the transaction that an unusable response names."""
    field = call.operation.transaction_field
    if field is None:
        return None
    # What names its transaction is a JSON object, or it would not have been read so far.
    transaction_id: object = document.get(field)
    return transaction_id if isinstance(transaction_id, str) and transaction_id else None


def _unanswered(
    response: RawResponse,
    now: float,
    reason: str,
    *,
    debit_id: str | None = None,
    state: TransactionState | None = None,
    bound: ResolveBound = ResolveBound.TIMEOUT,
) -> Unanswered:
    return Unanswered(
        f"HTTP {response.status}, {reason}",
        started=True,
        status=response.status,
        request_id=find_request_id(response.headers),
        retry_after=read_retry_after(response.headers.get("Retry-After"), now),
        debit_id=debit_id,
        state=state,
        bound=bound,
    )


# The API's own word that it has failed, and is done with the request; other 5xx are said by gateways, of requests that
# may go on.
_FAILURES = frozenset({500, 503})

_NOTHING_DONE = (APIError, "nothing was done")
_REJECTIONS: dict[int, tuple[type[APIError], str]] = {
    400: (InvalidRequestError, "correct the request"),
    401: (AuthenticationError, "check the API token: it may be wrong, expired or revoked"),
    402: _NOTHING_DONE,
    403: (PermissionDeniedError, "check the token's scopes, and that Jetpay has enabled this call for the account"),
    404: (NotFoundError, "check the ids, and that the token belongs to the account that made them"),
    405: _NOTHING_DONE,
    409: (ConflictError, "read the transaction's status: its state does not allow this"),
    410: _NOTHING_DONE,
    413: _NOTHING_DONE,
    415: _NOTHING_DONE,
    422: (InvalidRequestError, "correct the fields named"),
    429: (RateLimitedError, "slow down"),
}


def _rejection(call: Call[_T], document: dict[str, JSONValue], context: ResponseContext, now: float) -> APIError:
    detail, fields = _read_detail(document, call.secrets)
    error_class, hint = _REJECTIONS[context.status]
    message = f"the API answered {context.status}: {detail or 'no reason given'}; {hint}"
    error_context = context.error_context(call)
    if issubclass(error_class, RateLimitedError):
        retry_after = read_retry_after(context.headers.get("Retry-After"), now)
        return error_class(message, detail=detail, retry_after=retry_after, **error_context)
    return error_class(message, detail=detail, fields=fields, **error_context)


_FIELDS_LIMIT = 100


def _read_detail(document: Mapping[str, JSONValue], secrets: Sequence[str]) -> tuple[str, tuple[FieldError, ...]]:
    """Read FastAPI's two forms of ``detail``, and keep what else there may be as text; all of it printable.

    Some services repeat what they reject: secrets are replaced.
    """
    detail = next((document[name] for name in contract.ERROR_TEXTS if name in document), None)
    if isinstance(detail, str):
        return printable(_hide(detail, secrets)), ()
    if isinstance(detail, Sequence):
        fields = tuple(_read_field(item, secrets) for item in detail[:_FIELDS_LIMIT] if isinstance(item, Mapping))
        if fields:
            return printable("; ".join(f"{field.path}: {field.message}" for field in fields)), fields
    if detail is None:
        return "", ()
    try:
        return printable(_hide(json.dump(detail).decode(), secrets)), ()
    except RecursionError:
        return "", ()


def _read_field(item: Mapping[str, JSONValue], secrets: Sequence[str]) -> FieldError:
    location = item.get("loc")
    parts = location if isinstance(location, Sequence) and not isinstance(location, str) else [location]
    return FieldError(
        path=printable(_hide(".".join(_text(part) for part in parts if part is not None), secrets)),
        message=_hide(_text(item.get("msg")), secrets),
        type=_hide(_text(item.get("type")), secrets),
    )


def _hide(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _text(value: JSONValue) -> str:
    """Read one word; an array or an object is none."""
    return "" if value is None or isinstance(value, Mapping | list) else printable(str(value))
