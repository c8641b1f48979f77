"""The service's own ``/openapi.json`` and ``/docs``, made of what the sandbox really serves.

Nothing is written down twice. The fields of a request are those that its handler reads: it is given a form that records
them. The fields of a reply are those of real replies, of a second account that exists for this alone. The two pages for
people (card form, payment) are left out: the API that the sandbox stands for has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any, cast

import attrs
from aiohttp import web

from jetpay_async._core import json
from jetpay_async.models import TransactionState
from jetpay_async.sandbox._access import CallbackHosts
from jetpay_async.sandbox._api import Api, ReceivedRequest, TokenScope
from jetpay_async.sandbox._cards import APPROVED
from jetpay_async.sandbox._openapi import PARAMETER
from jetpay_async.sandbox._state import Account
from jetpay_async.sandbox._validation import Form
from jetpay_async.sandbox._webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jetpay_async.models import JSONValue
    from jetpay_async.sandbox._api import Route
    from jetpay_async.sandbox._keys import KeyRing

__all__ = ["ServiceDocs", "describe_service", "docs_page"]

_PAGES = frozenset({"card_form", "payment"})

# Those that the vendor publishes [docs]; the others are FastAPI's form of them [inferred].
_OPERATION_IDS = {
    "preauthorize": "preauthorize_contact_credit_card",
    "charge": "charge_contact_credit_card",
    "capture": "capture_debit",
    "status": "get_transaction_status",
    "cancel": "cancel_transaction",
    "contact": "create_contact",
    "card_url": "generate_credit_card_tokenization_url",
    "bank_account": "create_bank_account",
    "debit": "create_debit",
    "credit": "create_credit",
    "jwks": "get_key_set",
}
_VERBS = {"GET": "get", "POST": "create", "PATCH": "update", "DELETE": "delete"}

# What a real request has in a field; any other text is a text.
_SAMPLES: Mapping[str, JSONValue] = {
    "to_bank_account_id": "bank",
    "to_bank_account": "bank",
    "from_bank_account": "bank",
    "contact_id": "contact",
    "callback_url": "http://127.0.0.1/other",
}
_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "detail": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                            "msg": {"type": "string"},
                            "type": {"type": "string"},
                        },
                        "required": ["loc", "msg", "type"],
                    },
                },
            ]
        }
    },
    "required": ["detail"],
}


class ServiceDocs:
    """The two addresses under which the service describes itself.

    Args:
        keys: The keys that it publishes.
        url: Returns where it is served.
    """

    def __init__(self, keys: KeyRing, url: Callable[[], str]) -> None:
        self._keys = keys
        self._url = url

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes to an application's."""
        router.add_get("/openapi.json", self._show_document)
        router.add_get("/docs", self._show_page)

    async def _show_document(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=json.dump(self._document()), content_type="application/json")

    async def _show_page(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text=docs_page(self._document()), content_type="text/html")

    def _document(self) -> dict[str, JSONValue]:
        return describe_service(self._keys, self._url())


def describe_service(keys: KeyRing, url: str) -> dict[str, JSONValue]:
    """Return the OpenAPI document of the service.

    Args:
        keys: The keys that it publishes.
        url: Where it is served.
    """
    paths: dict[str, Any] = {}
    for route in _Example(keys).api.routes():
        if route.name not in _PAGES:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, keys)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Jetpay API, as its sandbox serves it", "version": "v0"},
        "servers": [{"url": url}],
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def docs_page(document: Mapping[str, Any]) -> str:
    """Return the document as a page for people, without scripts."""
    parts: list[str] = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>")
            if "requestBody" in operation:
                parts.append("<h3>Request</h3>" + _fields(operation["requestBody"]["content"]["application/json"]))
            status, reply = next(iter(operation["responses"].items()))
            parts.append(f"<h3>Reply, {status}</h3>" + _fields(reply["content"]["application/json"]))
    title = escape(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'</head><body><h1>{title}</h1><p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(parts)}</body></html>\n"
    )


def _fields(content: Mapping[str, Any]) -> str:
    schema = content["schema"]
    schema = schema.get("items", schema)
    required = schema.get("required", ())
    rows = "".join(
        f"<li><code>{escape(name)}</code>: {escape(_type(each))}{'' if name in required else ', may be left out'}</li>"
        for name, each in schema["properties"].items()
    )
    return f"<ul>{rows}</ul>"


def _type(schema: Mapping[str, Any]) -> str:
    kind = schema["type"]
    limits = [f"{name} {schema[name]}" for name in ("maxLength", "minimum", "maximum", "format") if name in schema]
    about = [schema["description"]] if "description" in schema else []
    return ", ".join([kind if isinstance(kind, str) else " or ".join(kind), *limits, *about])


class _RecordedError(Exception):
    """The form has been read."""


class _RecordingForm(Form):
    """A form that records what is read of it, instead of reading a body.

    Args:
        has_all: Whether every field is said to be there.
    """

    def __init__(self, *, has_all: bool) -> None:
        super().__init__(b"{}", "application/json")
        self._has_all = has_all
        self.schemas: dict[str, dict[str, Any]] = {}
        self.required: list[str] = []
        self.groups: tuple[tuple[str, ...], ...] = ()

    def __contains__(self, name: str) -> bool:
        return self._has_all

    def check(self) -> None:
        raise _RecordedError

    def amount(self, name: str) -> Decimal:
        about = "Major units, with at most two decimals"
        self._record(name, {"type": "number", "minimum": 0.01, "description": about}, required=True)
        return Decimal(1)

    def text(self, name: str, *, longest: int | None = None) -> str:
        limit = {} if longest is None else {"maxLength": longest}
        self._record(name, {"type": "string", "minLength": 1, **limit}, required=True)
        return ""

    def either(self, *groups: tuple[str, ...]) -> None:
        self.groups = groups

    def url(self, name: str) -> str:
        about = "Of this machine, or of a host that --allow-callbacks names"
        limits = {"format": "uri", "minLength": 1, "maxLength": 2083}
        self._record(name, {"type": "string", **limits, "description": about}, required=True)
        return ""

    def optional_text(self, name: str) -> str | None:
        self._record(name, {"type": ["string", "null"], "minLength": 1})
        return None

    def optional_integer(self, name: str, *, least: int, most: int | None = None) -> int | None:
        limit = {} if most is None else {"maximum": most}
        self._record(name, {"type": ["integer", "null"], "minimum": least, **limit})
        return None

    def optional_moment(self, name: str) -> datetime | None:
        self._record(name, {"type": ["string", "null"], "format": "date-time"})
        return None

    def texts(self, name: str) -> list[str]:
        self._record(name, {"type": "array", "items": {"type": "string", "minLength": 1}})
        return []

    def _record(self, name: str, schema: dict[str, Any], *, required: bool = False) -> None:
        self.schemas.setdefault(name, schema)
        if required:
            self.required.append(name)


@attrs.frozen
class _RecordedRequest(ReceivedRequest):
    recording: _RecordingForm = attrs.field(kw_only=True)

    def form(self) -> Form:
        return self.recording


class _Example:
    """An account with one of everything, to be called for examples."""

    def __init__(self, keys: KeyRing) -> None:
        self.account = Account(seed=0, now=lambda: 0.0, defer=lambda _: None, refuses_second_capture=True)
        self.webhooks = Webhooks(self.account.new_id, callback_hosts=CallbackHosts(()))
        self.api = Api(self.account, webhooks=self.webhooks, keys=keys, own_url=lambda: "http://127.0.0.1")
        self.token = self.api.issue_token(TokenScope)
        self.account.add_contact(email="a@b.test", name="A", tags=["tag"], language="en", identifier="contact")
        self.account.add_credit_card("contact", APPROVED, identifier="card")
        self.account.add_bank_account(None, {}, identifier="bank")
        self.debit = self.account.preauthorize(
            "contact", "card", amount=Decimal(1), to_bank_account_id="bank", statement="Deposit"
        )
        self.webhook = self.webhooks.add("http://127.0.0.1/hook", next_event_id=1)

    def identifiers(self, route: Route) -> list[str]:
        """Return ids for a route's path."""
        identifier = self.webhook.identifier if route.name == "webhooks" else self.debit.identifier
        known = {"contact_id": "contact", "credit_card_id": "card", "debit_id": self.debit.identifier}
        return [known.get(name, identifier) for name in PARAMETER.findall(route.path)]

    def vary(self) -> None:
        """Fill what may be missing or null in replies."""
        self.account.override(
            self.debit.identifier,
            TransactionState.PREAUTHORIZED,
            fail_reason="account_frozen",
            fail_direction="pull",
        )
        self.webhook.last_sent_event_id = 1
        self.webhook.callback_api_key = "key"


def _operation(route: Route, keys: KeyRing) -> dict[str, Any]:
    name = _OPERATION_IDS.get(route.name)
    if name is None:
        plural = "s" if route.method == "GET" and "{" not in route.path else ""
        name = f"{_VERBS[route.method]}_webhook{plural}"
    body = _body(route, keys)
    status, reply = _reply(route, keys, body)
    operation: dict[str, Any] = {
        "summary": name.replace("_", " ").capitalize(),
        "operationId": name,
        "parameters": [
            {"name": each, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for each in PARAMETER.findall(route.path)
        ],
        "responses": {
            str(status): {"description": "Done", "content": {"application/json": {"schema": reply}}},
            "4XX": {
                "description": "Rejected",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if route.scope is not None:
        operation["security"] = [{"token": []}]
        operation["description"] = f"Requires a token with the scope {route.scope.value}."
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _body(route: Route, keys: KeyRing) -> dict[str, Any] | None:
    """Return the schema of a route's request; None if it reads no form."""
    forms = [_RecordingForm(has_all=has_all) for has_all in (False, True)]
    for form in forms:
        example = _Example(keys)
        try:
            _route_of(example.api, route).respond(
                _RecordedRequest(example.identifiers(route), b"", "application/json", recording=form)
            )
        except _RecordedError:
            continue
        return None
    without, with_all = forms
    required = [name for name in without.required if name in with_all.required]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {**with_all.schemas, **without.schemas},
        "required": required,
    }
    if without.groups:
        schema["anyOf"] = [{"required": list(group)} for group in without.groups]
    return schema


def _route_of(api: Api, route: Route) -> Route:
    """Return the same route of another account."""
    return next(each for each in api.routes() if (each.method, each.path) == (route.method, route.path))


def _reply(route: Route, keys: KeyRing, body: Mapping[str, Any] | None) -> tuple[int, dict[str, Any]]:
    """Return the status and the schema of a route's replies, from two of them."""
    schemas: list[dict[str, Any]] = []
    status = 0
    for varied in (False, True):
        example = _Example(keys)
        if varied:
            example.vary()
        given = b"" if body is None else json.dump(_sample(body, everything=varied))
        received = ReceivedRequest(example.identifiers(route), given, "application/json")
        reply = _route_of(example.api, route).respond(received)
        status = reply.status
        schemas.append(_inferred(json.parse(reply.body)))
    return status, _merged(*schemas)


def _sample(body: Mapping[str, Any], *, everything: bool) -> dict[str, JSONValue]:
    """Return a request that is accepted: with every field, or with the required ones."""
    alternatives: list[str] = body["anyOf"][0]["required"] if "anyOf" in body else []
    names = body["properties"] if everything else [*body["required"], *alternatives]
    return {name: _SAMPLES.get(name) or _value(body["properties"][name]) for name in names}


def _value(schema: Mapping[str, Any]) -> JSONValue:
    if schema.get("format") == "date-time":
        return "2026-01-01T00:00:00Z"
    if schema["type"] == "array":
        return ["text"]
    return schema.get("minimum", 1) if schema["type"] == "number" or "integer" in schema["type"] else "text"


_TYPES: Sequence[tuple[type, str]] = (
    (bool, "boolean"),  # before int, which it is, too
    (str, "string"),
    (int, "integer"),
    (Decimal, "number"),
    (type(None), "null"),
)


def _inferred(value: object) -> dict[str, Any]:
    """Return the schema of a value."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        properties = {name: _inferred(each) for name, each in fields.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    if isinstance(value, list):
        items = cast("list[object]", value)
        return {"type": "array", **({"items": _inferred(items[0])} if items else {})}
    return {"type": next(name for kind, name in _TYPES if isinstance(value, kind))}


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what has either."""
    if one == other:
        return one
    if one["type"] == "object":
        properties = {**other["properties"], **one["properties"]}
        for name in one["properties"].keys() & other["properties"].keys():
            properties[name] = _merged(one["properties"][name], other["properties"][name])
        required = [name for name in one["required"] if name in other["required"]]
        return {"type": "object", "properties": properties, "required": required}
    if one["type"] == "array":
        items = [each["items"] for each in (one, other) if "items" in each]
        return {"type": "array", "items": _merged(items[0], items[-1])}
    return {"type": sorted({one["type"], other["type"]})}
