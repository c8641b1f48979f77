"""What came back: (call, status, headers, bytes) in, a value or an error out. Pure and total.

======================  =========================================================================================
the reply               what it means
======================  =========================================================================================
2xx, the right JSON     the result
4xx, a JSON object      the API said no: an `APIError`
anything else           `Unanswered`: nobody who knows has spoken. A page of a proxy, a redirect, a 5xx, JSON of
                        another shape. For a write that is an unknown outcome, never a failure.
======================  =========================================================================================

That the API's errors are JSON objects (FastAPI's ``{"detail": ...}``) is inferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from jetpay_async._core import json
from jetpay_async._core.http import ResolveBound, find_request_id, read_retry_after
from jetpay_async._core.operations import Call, ResponseContext
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
    from jetpay_async.models import JSONValue

_T = TypeVar("_T")


class Unanswered(Exception):  # noqa: N818 - an outcome, which the caller turns into an error of the public tree
    """No usable answer came.

    Attributes:
        started: Whether the request had begun to leave.
        reason: What happened, in words without secrets.
        status: The HTTP status, if there was one.
        request_id: The service's id, if a header carried one.
        retry_after: Seconds, if a header asked to wait.
        debit_id: The debit that an otherwise unusable reply named.
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
        bound: ResolveBound = ResolveBound.TIMEOUT,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.started = started
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.debit_id = debit_id
        self.bound = bound


def read(call: Call[_T], reply: RawResponse, *, attempts: int, elapsed: float, now: float) -> _T:
    """Turn a reply into the operation's result.

    Args:
        call: What was asked.
        reply: What came back.
        attempts: How many requests were made, this one included.
        elapsed: Seconds since the call began.
        now: Seconds since the epoch, to read a ``Retry-After`` date with.

    Raises:
        APIError: The API said no.
        Unanswered: It is no usable answer.
    """
    try:
        document = json.parse_object(reply.body)
    except ValueError as error:
        raise _unanswered(reply, now, str(error)) from None
    facts = ResponseContext(attempts, elapsed, reply.status, reply.headers)
    if 200 <= reply.status < 300:
        try:
            return call.operation.read(call, document, facts)
        except ValueError as error:
            debit_id = document.get("debit_id")
            named = debit_id if isinstance(debit_id, str) and debit_id else None
            raise _unanswered(reply, now, str(error), debit_id=named) from None
    if 400 <= reply.status < 500:
        raise _refusal(call, document, facts, now)
    raise _unanswered(reply, now, "not an answer to the request")


def _unanswered(reply: RawResponse, now: float, reason: str, *, debit_id: str | None = None) -> Unanswered:
    return Unanswered(
        f"HTTP {reply.status}, {reason}",
        started=True,
        status=reply.status,
        request_id=find_request_id(reply.headers),
        retry_after=read_retry_after(reply.headers.get("Retry-After"), now),
        debit_id=debit_id,
    )


_CLASSES: dict[int, tuple[type[APIError], str]] = {
    400: (InvalidRequestError, "correct the request"),
    401: (AuthenticationError, "check the API token: it may be wrong, expired or revoked"),
    403: (PermissionDeniedError, "check the token's scopes, and that Jetpay has enabled this call for the account"),
    404: (NotFoundError, "check the ids, and that the token belongs to the account that made them"),
    409: (ConflictError, "read the transaction's status: its state does not allow this"),
    422: (InvalidRequestError, "correct the fields named"),
}


def _refusal(call: Call[_T], document: dict[str, JSONValue], facts: ResponseContext, now: float) -> APIError:
    detail, fields = _read_detail(document)
    status = facts.status
    said = f"the API answered {status}: {detail or 'no reason given'}"
    context = facts.context(call)
    if status == 429:
        retry_after = read_retry_after(facts.headers.get("Retry-After"), now)
        return RateLimitedError(f"{said}; slow down", detail=detail, retry_after=retry_after, **context)
    error_class, hint = _CLASSES.get(status, (APIError, "nothing was done"))
    return error_class(f"{said}; {hint}", detail=detail, fields=fields, **context)


_DETAIL_LIMIT = 500
_FIELDS_LIMIT = 100


def _read_detail(document: Mapping[str, JSONValue]) -> tuple[str, tuple[FieldError, ...]]:
    """Read FastAPI's two forms of ``detail``, and keep what else there may be as text."""
    detail = document.get("detail", document.get("message", document.get("error")))
    if isinstance(detail, str):
        return detail[:_DETAIL_LIMIT], ()
    if isinstance(detail, Sequence):
        fields = tuple(_read_field(item) for item in detail[:_FIELDS_LIMIT] if isinstance(item, Mapping))
        if fields:
            text = "; ".join(f"{field.path}: {field.message}" for field in fields)
            return text[:_DETAIL_LIMIT], fields
    if detail is None:
        return "", ()
    try:
        return json.dump(detail).decode()[:_DETAIL_LIMIT], ()
    except RecursionError:
        return "", ()


def _read_field(item: Mapping[str, JSONValue]) -> FieldError:
    location = item.get("loc")
    parts = location if isinstance(location, Sequence) and not isinstance(location, str) else [location]
    return FieldError(
        path=".".join(_text(part) for part in parts if part is not None),
        message=_text(item.get("msg")),
        type=_text(item.get("type")),
    )


def _text(value: JSONValue) -> str:
    """Read one word; an array or an object is none."""
    return "" if value is None or isinstance(value, Mapping | list) else str(value)[:_DETAIL_LIMIT]
