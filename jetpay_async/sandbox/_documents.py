"""Faults, payers, webhooks, requests and deliveries as JSON or TOML has them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import attrs
import msgspec

from jetpay_async.sandbox._cards import CARD_NUMBER
from jetpay_async.sandbox._faults import ROUTES, DeliveryFault, DeliveryFaultKind, Fault, FaultKind
from jetpay_async.sandbox._limits import MOST_SECONDS

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue
    from jetpay_async.sandbox._deliveries import DeliveryAttempt
    from jetpay_async.sandbox._journal import RequestRecord

__all__ = [
    "COUNT",
    "DELIVERY_FAULT_FIELDS",
    "FAULT_FIELDS",
    "PAYER_FIELDS",
    "ROUTE",
    "SECONDS",
    "WEBHOOK_FIELDS",
    "attempt",
    "delivery_fault",
    "document_of",
    "fault",
    "moment",
    "read_fields",
    "read_query",
    "request",
    "rounded",
]

_T = TypeVar("_T")

COUNT = Annotated[int, msgspec.Meta(ge=1)]
"""A number of things."""


def _documented(kind: Any, **schema: Any) -> Any:
    """Return a type with limits for the OpenAPI document; who is made of the value checks them, and says so."""
    return Annotated[kind, msgspec.Meta(extra_json_schema=schema)]


ROUTE = _documented(str, enum=[*ROUTES])
"""One of `ROUTES`."""

SECONDS = _documented(float, minimum=0, maximum=MOST_SECONDS)
"""A duration."""

_PROBABILITY = _documented(float, minimum=0, maximum=1)
_FAULT_COUNT = _documented(int, minimum=1) | None

FAULT_FIELDS: Mapping[str, Any] = {
    "kind": FaultKind,
    "route": ROUTE | None,
    "identifier": str | None,
    "probability": _PROBABILITY,
    "count": _FAULT_COUNT,
    "seconds": SECONDS,
    "status": _documented(int, minimum=200, maximum=599) | None,
    "body": Literal["json", "html", "empty"],
    "retry_after": int | datetime | None,
    "location": _documented(str, pattern="^[\x21-\x7e]*$") | None,
    "document": Any,
    "state": str,
}
"""The fields of a `Fault`, and their types."""

DELIVERY_FAULT_FIELDS: Mapping[str, Any] = {
    "kind": DeliveryFaultKind,
    "webhook": str | None,
    "probability": _PROBABILITY,
    "count": _FAULT_COUNT,
    "seconds": _documented(float, minimum=-MOST_SECONDS, maximum=MOST_SECONDS),
    "keep_old": bool,
}
"""The fields of a `DeliveryFault`, and their types."""

PAYER_FIELDS: Mapping[str, Any] = {
    "card_number": Annotated[str, msgspec.Meta(pattern=CARD_NUMBER)],
    "contact_id": str,
    "credit_card_id": str,
    "email": str,
    "name": str,
}
"""What a payer may be made of."""

WEBHOOK_FIELDS: Mapping[str, Any] = {
    "callback_url": str,
    "callback_api_key": str | None,
    "max_batch_size": int,
    "max_wait_seconds": int,
}
"""What a webhook may be made of."""


def read_fields(document: object, fields: Mapping[str, Any], *, required: Sequence[str] = ()) -> dict[str, Any]:
    """Read an object's fields, each of its type.

    Raises:
        ValueError: It is no object, or a field is unknown, missing or of another type; the message names it.
    """
    try:
        given = msgspec.convert(document, dict[str, Any])
    except msgspec.ValidationError:
        raise ValueError("must be an object") from None
    read: dict[str, Any] = {}
    for name, value in given.items():
        if name not in fields:
            raise ValueError(f"{name}: is not one of {', '.join(fields)}")
        try:
            read[name] = msgspec.convert(value, fields[name])
        except msgspec.ValidationError as error:
            raise ValueError(f"{name}: {error}") from None
    for name in required:
        if name not in read:
            raise ValueError(f"{name}: is missing")
    return read


def read_query(query: Mapping[str, str], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read the parameters of a query, each of its type.

    Raises:
        ValueError: One is unknown, given twice or of another type; the message names it.
    """
    read: dict[str, Any] = {}
    for name, value in query.items():
        if name not in fields:
            raise ValueError(f"{name}: is not one of {', '.join(fields) or 'none'}")
        if name in read:
            raise ValueError(f"{name}: is given twice")
        try:
            read[name] = msgspec.convert(value, fields[name], strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(f"{name}: {error}") from None
    return read


def fault(document: object) -> Fault:
    """Read a fault of requests.

    Raises:
        ValueError: It is none; the message names the field.
    """
    return _made(Fault, read_fields(document, FAULT_FIELDS, required=["kind"]))


def delivery_fault(document: object) -> DeliveryFault:
    """Read a fault of deliveries.

    Raises:
        ValueError: It is none; the message names the field.
    """
    return _made(DeliveryFault, read_fields(document, DELIVERY_FAULT_FIELDS, required=["kind"]))


def _made(kind: Callable[..., _T], fields: Mapping[str, Any]) -> _T:
    try:
        return kind(**fields)
    except ValueError as error:
        raise ValueError(error.args[0]) from None  # the others are attrs' own


def document_of(value: Fault | DeliveryFault) -> dict[str, JSONValue]:
    """Write a fault, so that `fault` or `delivery_fault` reads the same again."""
    fields: dict[str, Any] = attrs.asdict(value, recurse=False)
    if isinstance(fields.get("retry_after"), datetime):
        fields["retry_after"] = fields["retry_after"].isoformat()
    return {
        name: item.value if isinstance(item, FaultKind | DeliveryFaultKind) else item for name, item in fields.items()
    }


def request(record: RequestRecord) -> dict[str, JSONValue]:
    """Write a request."""
    return {
        "event": "request",
        "time": moment(record.time),
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path,
        "route": record.route,
        "status": record.status,
        "fault": record.fault,
        "seconds": rounded(record.seconds),
    }


def attempt(made: DeliveryAttempt) -> dict[str, JSONValue]:
    """Write an attempt at a delivery."""
    return {
        "event": "delivery",
        "time": moment(made.time),
        "webhook": made.webhook,
        "url": made.url,
        "event_ids": list(made.event_ids),
        "attempt": made.attempt,
        "status": made.status,
        "error": made.error,
        "accepted": made.accepted,
        "kid": made.kid,
        "fault": made.fault,
    }


def moment(seconds: float) -> str:
    """Write seconds since the epoch in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rounded(seconds: float | None) -> Decimal | None:
    """Return seconds as JSON has them here, to a tenth of a millisecond."""
    return None if seconds is None else Decimal(f"{seconds:.4f}")
