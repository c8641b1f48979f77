"""Webhooks: registered once per URL, listed, changed, replayed, removed. Pure; see `operations`.

A registration that got no answer is resolved by the list: one webhook exists for a URL, so the list shows whether it
was carried out. The other calls have the same effect when they are sent twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from jetpay_async._core import contract, json
from jetpay_async._core.account_operations import read_identifier
from jetpay_async._core.arguments import UNCHANGED, Unchanged, read_id
from jetpay_async._core.operations import ApiOperation, Body, Call, Listing, ReplaySafety, ResponseContext
from jetpay_async._core.validation import is_number
from jetpay_async._text import printable
from jetpay_async.errors import ConflictError, InvalidArgumentError
from jetpay_async.models import Webhook

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue


_URL = re.compile(r"https?://[\x21-\x7e]+", re.IGNORECASE)
_URL_LIMIT = 2000
_DEFAULT_PORTS = {"http": 80, "https": 443}


def register_webhook(
    callback_url: str,
    *,
    callback_api_key: str | None,
    max_batch_size: int,
    max_wait_seconds: int,
    replay_from: int | datetime | None,
) -> Call[Webhook]:
    """Register a webhook [docs]."""
    url = read_callback_url(callback_url)
    settings: dict[str, JSONValue] = {"callback_url": url}
    if callback_api_key is not None:
        settings["callback_api_key"] = _read_key(callback_api_key)
    settings |= _limits(max_batch_size, max_wait_seconds)
    if replay_from is not None:
        settings |= _replay(replay_from)
    return _writing(REGISTER_WEBHOOK, contract.REGISTER_WEBHOOK.path, settings, {})


def list_webhooks() -> Call[tuple[Webhook, ...]]:
    """List the webhooks [docs]."""
    return Call(LIST_WEBHOOKS, contract.LIST_WEBHOOKS.path, {})


def read_webhook(identifier: str) -> Call[Webhook]:
    """Read one webhook [docs]."""
    webhook, segment = read_id(identifier, "identifier")
    return Call(READ_WEBHOOK, contract.READ_WEBHOOK.fill(identifier=segment), {"identifier": webhook})


def change_webhook(
    identifier: str,
    *,
    callback_url: str | None = None,
    callback_api_key: str | Unchanged | None = UNCHANGED,
    max_batch_size: int | None = None,
    max_wait_seconds: int | None = None,
) -> Call[Webhook]:
    """Change what is given of a webhook [docs]."""
    webhook, segment = read_id(identifier, "identifier")
    settings: dict[str, JSONValue] = {}
    if callback_url is not None:
        settings["callback_url"] = read_callback_url(callback_url)
    if not isinstance(callback_api_key, Unchanged):
        settings["callback_api_key"] = None if callback_api_key is None else _read_key(callback_api_key)
    settings |= _limits(max_batch_size, max_wait_seconds)
    if not settings:
        raise InvalidArgumentError("change_webhook: nothing is changed; name a setting", field="callback_url")
    return _writing(CHANGE_WEBHOOK, contract.CHANGE_WEBHOOK.fill(identifier=segment), settings, {"identifier": webhook})


def replay_webhook(identifier: str, *, replay_from: int | datetime) -> Call[Webhook]:
    """Have a webhook deliver again from an event or a moment on [inferred: that PATCH takes it]."""
    webhook, segment = read_id(identifier, "identifier")
    path = contract.CHANGE_WEBHOOK.fill(identifier=segment)
    return _writing(REPLAY_WEBHOOK, path, _replay(replay_from), {"identifier": webhook})


def remove_webhook(identifier: str) -> Call[None]:
    """Remove a webhook [docs]."""
    webhook, segment = read_id(identifier, "identifier")
    return Call(REMOVE_WEBHOOK, contract.REMOVE_WEBHOOK.fill(identifier=segment), {"identifier": webhook})


def _writing(
    operation: ApiOperation[Webhook], path: str, settings: dict[str, JSONValue], arguments: dict[str, str]
) -> Call[Webhook]:
    key = settings.get("callback_api_key")
    shown = {name: str(value) for name, value in settings.items() if name != "callback_api_key"}
    return Call(
        operation=operation,
        path=path,
        arguments={**arguments, **shown},
        body=json.dump(settings),
        secrets=(key,) if isinstance(key, str) else (),
    )


# --- arguments


def read_callback_url(url: str) -> str:
    """Check a URL to deliver to."""
    field = "callback_url"
    if not isinstance(url, str):
        raise InvalidArgumentError(f"{field}: is a str, not {type(url).__name__}", field=field)
    if len(url) > _URL_LIMIT or not _URL.fullmatch(url) or not _parts(url):
        # It may hold a secret in its query, so it is not shown.
        raise InvalidArgumentError(
            f"{field}: must be a URL such as https://shop.example.com/webhooks/jetpay, in plain ASCII, of at most "
            f"{_URL_LIMIT} characters",
            field=field,
        )
    return url


def _parts(url: str) -> tuple[str, str, int | None, str, str] | None:
    """Take a URL apart so that two spellings of one are equal; None if it has no host, or a port that is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port, parts.path or "/", parts.query) if parts.hostname else None


def same_url(one: str, other: str) -> bool:
    """Say whether two URLs differ in nothing but their spelling."""
    return one == other or _parts(one) == _parts(other)


def _read_key(key: str) -> str:
    field = "callback_api_key"
    if not isinstance(key, str) or not key.strip() or not key.isascii() or not key.isprintable():
        raise InvalidArgumentError(f"{field}: is a str of printable ASCII, and not empty", field=field)
    return key


def _limits(max_batch_size: int | None, max_wait_seconds: int | None) -> dict[str, JSONValue]:
    limits = (
        ("max_batch_size", max_batch_size, 1, contract.MAX_BATCH_SIZE),
        ("max_wait_seconds", max_wait_seconds, contract.MIN_WAIT_SECONDS, contract.MAX_WAIT_SECONDS),
    )
    for name, value, least, most in limits:
        if value is not None and not (isinstance(value, int) and is_number(value, least=least, most=most)):
            raise InvalidArgumentError(f"{name}={value!r} must be an int from {least} to {most}", field=name)
    return {name: value for name, value, _, _ in limits if value is not None}


def _replay(replay_from: int | datetime) -> dict[str, JSONValue]:
    field = "replay_from"
    if isinstance(replay_from, datetime):
        if replay_from.tzinfo is None:
            raise InvalidArgumentError(f"{field}: has no time zone; say which, for example UTC", field=field)
        return {"replay_from_timestamp": replay_from.isoformat()}
    if isinstance(replay_from, int) and is_number(replay_from, least=1):
        return {"replay_from_event_id": replay_from}
    raise InvalidArgumentError(f"{field}={replay_from!r} must be an event's id, or an aware datetime", field=field)


# --- replies


def _read_document(document: JSONValue, context: ResponseContext) -> Webhook:
    if not isinstance(document, Mapping):
        raise ValueError("a webhook is not a JSON object")  # noqa: TRY004 - the response's fault
    number = document.get("id")
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError("a webhook has no id")  # noqa: TRY004 - the response's fault
    fields = dict(document)
    key, state, last = (fields.get(name) for name in ("callback_api_key", "state", "last_sent_event_id"))
    return Webhook(
        identifier=read_identifier(fields),
        id=number,
        callback_url=read_identifier(fields, "callback_url"),
        callback_api_key=key if isinstance(key, str) and key else None,
        state=state if isinstance(state, str) else "",
        last_sent_event_id=last if isinstance(last, int) else None,
        max_batch_size=_integer(fields, "max_batch_size"),
        max_wait_seconds=_integer(fields, "max_wait_seconds"),
        raw=document,
        attempts=context.attempts,
        elapsed=context.elapsed,
    )


def _integer(document: Mapping[str, JSONValue], name: str) -> int | None:
    value = document.get(name)
    return value if isinstance(value, int) else None


def _read_webhook(_: Call[Webhook], document: JSONValue, context: ResponseContext) -> Webhook:
    return _read_document(document, context)


def _read_list(_: Call[tuple[Webhook, ...]], document: JSONValue, context: ResponseContext) -> tuple[Webhook, ...]:
    """Read an array, or an object with exactly one array in it [inferred]."""
    if isinstance(document, Mapping):
        arrays = [value for value in document.values() if isinstance(value, list)]
        document = arrays[0] if len(arrays) == 1 else None
    if not isinstance(document, Sequence) or isinstance(document, str):
        raise ValueError("the response is neither a list nor an object with one list in it")  # noqa: TRY004 - the same
    return tuple(_read_document(each, context) for each in document)


def _read_removal(_: Call[None], __: JSONValue, ___: ResponseContext) -> None:
    """Any 2xx says that it was removed: what it carries is not published."""


# --- what the list shows


def find_webhook(webhooks: Sequence[Webhook], callback_url: str) -> Webhook | None:
    """Find the webhook of a URL."""
    return next((webhook for webhook in webhooks if same_url(webhook.callback_url, callback_url)), None)


def differences(webhook: Webhook, settings: Mapping[str, JSONValue]) -> list[str]:
    """Name the settings that a webhook does not have as they were asked for; what a reply leaves out is not one."""
    return [
        name
        for name in ("callback_api_key", "max_batch_size", "max_wait_seconds")
        if name in webhook.raw and getattr(webhook, name) != settings.get(name)
    ]


def change_to(webhook: Webhook, register: Call[Webhook]) -> Call[Webhook] | None:
    """Make the call that gives a webhook the settings of a registration; None if it has them."""
    asked = json.parse_object(register.body)
    different = differences(webhook, asked)
    if not different:
        return None
    settings = {name: asked.get(name) for name in different}
    path = contract.CHANGE_WEBHOOK.fill(identifier=read_id(webhook.identifier, "identifier")[1])
    return _writing(CHANGE_WEBHOOK, path, settings, {"identifier": webhook.identifier})


def _find_registration(call: Call[Webhook], webhooks: tuple[Webhook, ...], context: ResponseContext) -> Webhook | None:
    webhook = find_webhook(webhooks, call.arguments["callback_url"])
    if webhook is None:
        return None
    if different := differences(webhook, json.parse_object(call.body)):
        raise ConflictError(
            f"a webhook of this URL exists with another {' and '.join(different)}: its identifier is "
            f"{printable(webhook.identifier)}; use change_webhook() or ensure_webhook()",
            **context.error_context(call),
        )
    return attrs.evolve(webhook, confirmed_by_list=True, attempts=context.attempts, elapsed=context.elapsed)


REGISTER_WEBHOOK = ApiOperation(
    "register_webhook",
    contract.REGISTER_WEBHOOK.method,
    ReplaySafety.RESOLVE,
    _read_webhook,
    listing=lambda _: Listing(list_webhooks(), _find_registration),
    moves_money=False,
)
LIST_WEBHOOKS = ApiOperation(
    "list_webhooks", contract.LIST_WEBHOOKS.method, ReplaySafety.IDEMPOTENT, _read_list, body=Body.JSON
)
READ_WEBHOOK = ApiOperation("webhook", contract.READ_WEBHOOK.method, ReplaySafety.IDEMPOTENT, _read_webhook)
CHANGE_WEBHOOK = ApiOperation(
    "change_webhook", contract.CHANGE_WEBHOOK.method, ReplaySafety.IDEMPOTENT, _read_webhook, moves_money=False
)
REPLAY_WEBHOOK = ApiOperation(
    "replay_webhook", contract.CHANGE_WEBHOOK.method, ReplaySafety.IDEMPOTENT, _read_webhook, moves_money=False
)
REMOVE_WEBHOOK = ApiOperation(
    "remove_webhook",
    contract.REMOVE_WEBHOOK.method,
    ReplaySafety.IDEMPOTENT,
    _read_removal,
    moves_money=False,
    missing_is_done=True,
    body=Body.OPTIONAL,
)
