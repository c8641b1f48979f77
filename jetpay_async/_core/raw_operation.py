"""One request to the API that this release has no method for. Pure; see `operations`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING, Literal, cast, get_args
from urllib.parse import unquote

from jetpay_async._core import contract, json
from jetpay_async._core.operations import ApiOperation, Body, Call, ReplaySafety, ResponseContext
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.models import RawAnswer

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

RequestReplaySafety = Literal["never", "idempotent"]
"""What `JetpayClient.request` may be told about sending a request twice."""

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# No encoded slash, backslash or dot segment, by which a request could reach another resource; see `arguments`.
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%(?!2[eEfF]|5[cC]|00)[0-9A-Fa-f]{2}|/(?!/))*(?:\?[!-\"$-~]*)?")
_DOT_SEGMENT = re.compile(r"/\.{1,2}(?:/|\?|$)")
_REPEATABLE = {"card_form", "transaction_status", "list_webhooks", "webhook", "change_webhook", "remove_webhook"}
_NEVER_TWICE = {
    name: (endpoint.method, re.compile(re.sub(r"\{[a-z_]+\}", "[^/]+", endpoint.path.rstrip("/"))))
    for name, endpoint in contract.ENDPOINTS.items()
    if name not in _REPEATABLE
}


def request(method: str, path: str, *, document: JSONValue, replay_safety: RequestReplaySafety) -> Call[RawAnswer]:
    """Send any request."""
    if method not in _METHODS:
        raise InvalidArgumentError(f"method: is one of {', '.join(_METHODS)}, in capitals", field="method")
    if not isinstance(path, str) or not _PATH.fullmatch(path) or path.startswith("//") or _DOT_SEGMENT.search(path):
        raise InvalidArgumentError(
            "path: begins with one slash, is percent-encoded, has no dot segment, encoded slash, fragment or host, and "
            "may end in a query: '/transaction/debit_123/status'",
            field="path",
        )
    if replay_safety not in get_args(RequestReplaySafety):
        raise InvalidArgumentError("replay_safety: is 'never' or 'idempotent'", field="replay_safety")
    if method == "GET" and document is not None:
        raise InvalidArgumentError("json: a GET has no body; pass it as a query in path", field="json")
    # As the service reads it: an escaped letter is that letter.
    resource = unquote(path.partition("?")[0]).rstrip("/")
    known = next(
        (name for name, (its, pattern) in _NEVER_TWICE.items() if its == method and pattern.fullmatch(resource)), None
    )
    if known is not None and replay_safety == "idempotent":
        raise InvalidArgumentError(
            f"replay_safety: sent again, it may be carried out again; use {known}(), which knows when that is safe",
            field="replay_safety",
        )
    safety = ReplaySafety.IDEMPOTENT if method == "GET" else ReplaySafety(replay_safety)
    return Call(
        operation=ApiOperation("request", method, safety, _read, body=Body.OPTIONAL),
        path=path,
        arguments={"method": method, "path": path},
        body=b"" if document is None else _dump(document),
    )


def _dump(document: JSONValue) -> bytes:
    try:
        _check(document)
        return json.dump(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"json: is not JSON: {error}", field="json") from None


def _check(value: object) -> None:
    """Refuse what would leave as something else: not a number as null, bytes as their Base64, a set as a list.

    Raises:
        TypeError: It has no counterpart in JSON.
        ValueError: It is a number that JSON doesn't have.
    """
    if isinstance(value, Mapping):
        for name, each in cast("Mapping[object, object]", value).items():
            if not isinstance(name, str):
                raise TypeError(f"a field's name is a str, not {type(name).__name__}")
            _check(each)
    elif isinstance(value, list | tuple):
        for each in cast("Iterable[object]", value):
            _check(each)
    elif isinstance(value, float | Decimal):
        if not isfinite(value):
            raise ValueError(f"{value} is no number of JSON")
    elif not isinstance(value, str | int | None):
        raise TypeError(f"it has a {type(value).__name__}")


def _read(_: Call[RawAnswer], document: JSONValue, context: ResponseContext) -> RawAnswer:
    return RawAnswer(
        status=context.status,
        json=document,
        headers={name.lower(): value for name, value in context.headers.items()},
        attempts=context.attempts,
        elapsed=context.elapsed,
    )
