"""Compares what this project believes of the API with the OpenAPI document that the service publishes.

``nox -s contract -- openapi.json`` prints each difference, and ends with 1 if there is one. The facts are those of
`jetpay_async._core.contract`: whoever gets hold of the document corrects them there.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from jetpay_async import TransactionState
from jetpay_async._core import contract
from jetpay_async._core.contract import Endpoint
from jetpay_async._core.endpoints import is_loopback

_METHODS = ("get", "put", "post", "delete", "patch")
_PARAMETER = re.compile(r"\{[^{}]*\}")
_CENTS = re.compile(r"\b(?:cents?|minor unit)", re.IGNORECASE)
_ALIKE = 0.8
_OF_TRANSACTIONS = ("preauthorize", "charge", "capture", "transaction_status")
_STATES = ("state", "transaction_state")
_OF_LINKS = ("create_debit", "create_credit")
_LIMITS: Mapping[str, Mapping[str, int]] = {
    "statement": {"maxLength": contract.STATEMENT_LIMIT},
    "max_batch_size": {"minimum": 1, "maximum": contract.MAX_BATCH_SIZE},
    "max_wait_seconds": {"minimum": contract.MIN_WAIT_SECONDS, "maximum": contract.MAX_WAIT_SECONDS},
}


@attrs.frozen
class Fields:
    """The fields of a JSON object."""

    schemas: Mapping[str, Mapping[str, Any]]
    required: frozenset[str]


class Document:
    """An OpenAPI document, with its references followed.

    Raises:
        ValueError: It is none.
    """

    def __init__(self, document: object) -> None:
        if not isinstance(document, dict) or not isinstance(document.get("paths"), dict) or "openapi" not in document:
            raise ValueError("that is no OpenAPI document: it has no `openapi`, or no `paths`")
        self._document: dict[str, Any] = document
        self.operations: dict[tuple[str, str], dict[str, Any]] = {
            (method.upper(), path): self.resolve(methods[method])
            for path, methods in document["paths"].items()
            for method in _METHODS
            if method in methods
        }

    def resolve(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Follow a reference within the document."""
        while "$ref" in node:
            target: Any = self._document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part.replace("~1", "/").replace("~0", "~")]
            node = target
        return dict(node)

    @property
    def servers(self) -> list[str]:
        return [server["url"] for server in self._document.get("servers", ())]

    def has_bearer(self, operation: Mapping[str, Any]) -> bool:
        """Say whether a call asks for a bearer token."""
        schemes = self._document.get("components", {}).get("securitySchemes", {})
        asked = operation.get("security", self._document.get("security", ()))
        named = [self.resolve(schemes[name]) for requirement in asked for name in requirement if name in schemes]
        return any(str(scheme.get("scheme")).lower() == "bearer" or scheme.get("type") == "oauth2" for scheme in named)

    def variants(self, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
        """List what a schema may be, null apart."""
        schema = self.resolve(schema)
        parts = [self.variants(part) for part in schema.get("allOf", ())]
        if parts:
            merged = {
                **schema,
                "properties": dict(schema.get("properties", {})),
                "required": list(schema.get("required", ())),
            }
            del merged["allOf"]
            for part in parts:
                merged["properties"] |= part[0].get("properties", {})
                merged["required"] += part[0].get("required", ())
                merged = {**part[0], **merged}
            return [merged]
        choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
        own = {name: value for name, value in schema.items() if name not in {"anyOf", "oneOf"}}
        found = [{**own, **variant} for choice in choices for variant in self.variants(choice)] if choices else [schema]
        return [variant for variant in found if variant.get("type") != "null"]

    def fields(self, schema: Mapping[str, Any]) -> Fields:
        """Return the fields of an object; of several alternatives, what any has and what all need."""
        objects = [variant for variant in self.variants(schema) if "properties" in variant]
        schemas = {name: each for variant in objects for name, each in variant["properties"].items()}
        required = [frozenset(variant.get("required", ())) for variant in objects]
        return Fields(schemas, frozenset.intersection(*required) if required else frozenset())

    def body(self, holder: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return the JSON schema of a request's or a response's body; None if it has none."""
        if holder is None:
            return None
        content = self.resolve(holder).get("content", {})
        kind = next((kind for kind in content if kind.partition(";")[0] in {"application/json", "*/*"}), None)
        return None if kind is None else self.resolve(content[kind].get("schema", {}))

    def reply(self, operation: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the schema of what a call answers when it succeeds."""
        done = [response for status, response in operation.get("responses", {}).items() if str(status).startswith("2")]
        return next((body for body in map(self.body, done) if body is not None), None)


def compare(document: Document) -> Iterator[str]:
    """Say each difference between the document and the contract in one line."""
    yield from _servers(document)
    found: set[tuple[str, str]] = set()
    for name, endpoint in {**contract.ENDPOINTS, "key_set": contract.KEY_SET}.items():
        place = _find(document, endpoint)
        if place is None:
            absent = f"{endpoint.method} {endpoint.path} is not in the document"
            yield f"{_label(name, endpoint)}: {absent}{_similar(document, endpoint)}"
            continue
        found.add(place)
        for difference in _differences(document, name, endpoint, document.operations[place]):
            yield f"{_label(name, endpoint)}: {difference}"
    for place, operation in document.operations.items():
        if place not in found:
            named = f" ({operation['operationId']})" if "operationId" in operation else ""
            yield f"{' '.join(place)}{named}: the contract has no such call"


def _label(name: str, endpoint: Endpoint) -> str:
    return f"{name} [{endpoint.standing.value}]"


def _servers(document: Document) -> Iterator[str]:
    known = {urlsplit(url).hostname for url in (contract.PRODUCTION_URL, contract.DEMO_URL)}
    for url in document.servers:
        host = urlsplit(url).hostname
        if host is not None and host not in known and not is_loopback(host):
            yield f"servers: {url} is neither contract.PRODUCTION_URL nor contract.DEMO_URL"


def _shape(path: str) -> str:
    return _PARAMETER.sub("{}", path)


def _find(document: Document, endpoint: Endpoint) -> tuple[str, str] | None:
    """Find a call by its method and its path, whatever its parameters are called."""
    places = (place for place in document.operations if place[0] == endpoint.method)
    return next((place for place in places if _shape(place[1]) == _shape(endpoint.path)), None)


def _similar(document: Document, endpoint: Endpoint) -> str:
    """Name the call that may be meant."""
    known = {(each.method, _shape(each.path)) for each in contract.ENDPOINTS.values()}
    others = {
        _shape(path).replace("-", "_"): (method, path)
        for method, path in document.operations
        if (method, _shape(path)) not in known
    }
    close = difflib.get_close_matches(_shape(endpoint.path).replace("-", "_"), others, n=1, cutoff=_ALIKE)
    return f"; {' '.join(others[close[0]])} is" if close else ""


def _differences(document: Document, name: str, endpoint: Endpoint, operation: Mapping[str, Any]) -> Iterator[str]:
    if endpoint is not contract.KEY_SET and not document.has_bearer(operation):
        yield "asks for no bearer token"
    yield from _of_request(document, name, endpoint, operation)
    if endpoint is contract.LIST_WEBHOOKS:
        yield from _of_list(document, document.reply(operation))
    elif endpoint.reply:
        yield from _of_reply(document, name, endpoint, document.reply(operation))
    rejection = document.body(operation.get("responses", {}).get("422"))
    if rejection is not None and contract.ERROR_DETAIL not in document.fields(rejection).schemas:
        yield f"a 422 has no `{contract.ERROR_DETAIL}`, but {_listed(document.fields(rejection).schemas)}"


def _of_request(document: Document, name: str, endpoint: Endpoint, operation: Mapping[str, Any]) -> Iterator[str]:
    sent = (*endpoint.required, *endpoint.optional)
    body = document.body(operation.get("requestBody"))
    if body is None or not sent:
        if sent:
            yield f"takes no JSON, and {_listed(sent)} is sent"
        elif body is not None and document.resolve(operation["requestBody"]).get("required"):
            yield f"requires a body with {_listed(document.fields(body).schemas)}, and none is sent"
        return
    fields = document.fields(body)
    if missing := [each for each in sent if each not in fields.schemas]:
        yield f"does not take {_listed(missing)}, which is sent; it takes {_listed(fields.schemas)}"
    if wanted := sorted(fields.required - set(endpoint.required)):
        yield f"requires {_listed(wanted)}, which is not always sent"
    if unknown := sorted(fields.schemas.keys() - set(sent) - fields.required):
        yield f"takes {_listed(unknown)}, too"
    for field in sent:
        if field in fields.schemas:
            yield from _of_field(document, name, field, fields.schemas[field])


def _of_field(document: Document, name: str, field: str, schema: Mapping[str, Any]) -> Iterator[str]:
    variants = document.variants(schema)
    for limit, value in _LIMITS.get(field, {}).items():
        stated = next((variant[limit] for variant in variants if limit in variant), None)
        if stated != value:
            said = "unstated" if stated is None else f"{stated:g}"
            yield f"`{field}` has {limit} {said}, and the contract has {value}"
    if field == "amount":
        kinds = sorted({str(variant.get("type")) for variant in variants})
        if "number" not in kinds:
            yield f"`amount` is of type {' or '.join(kinds)}, and a number with decimals is sent"
        told = " ".join(dict.fromkeys(str(each.get("description", "")) for each in (schema, *variants)))
        unit = contract.LINK_AMOUNTS if name in _OF_LINKS else "major"
        if unit == "major" and _CENTS.search(told):
            yield f"`amount` is described as {told.strip()!r}, and dollars are sent: a factor of 100"


def _of_reply(document: Document, name: str, endpoint: Endpoint, reply: Mapping[str, Any] | None) -> Iterator[str]:
    fields = document.fields(reply or {})
    if not fields.schemas:
        yield f"answers no JSON object, and {_listed(endpoint.reply)} is read"
        return
    if missing := [each for each in endpoint.reply if each not in fields.schemas]:
        yield f"answers no {_listed(missing)}, which is read; it answers {_listed(fields.schemas)}"
    if loose := [each for each in endpoint.reply if each in fields.schemas and each not in fields.required]:
        yield f"may leave out {_listed(loose)}, which is read"
    if name in _OF_TRANSACTIONS:
        states = {
            state
            for field in _STATES
            for variant in document.variants(fields.schemas.get(field, {}))
            for state in variant.get("enum", ())
        }
        if unknown := sorted(states - set(TransactionState)):
            yield f"has the states {_listed(unknown)}, which TransactionState does not name"


def _of_list(document: Document, reply: Mapping[str, Any] | None) -> Iterator[str]:
    variants = document.variants(reply or {})
    arrays = [variant for variant in variants if variant.get("type") == "array"]
    if not arrays:
        inner = [each for field in document.fields(reply or {}).schemas.values() for each in document.variants(field)]
        arrays = [variant for variant in inner if variant.get("type") == "array"]
        if len(arrays) != 1:
            yield "answers neither an array nor an object with exactly one array"
            return
    item = document.fields(arrays[0].get("items", {}))
    if missing := [each for each in contract.READ_WEBHOOK.reply if each not in item.schemas]:
        yield f"lists webhooks without {_listed(missing)}, which is read"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def main(arguments: list[str]) -> int:
    """Print each difference; return 0 if there is none, 1 if there is one, 2 if the file is no such document."""
    if len(arguments) != 1:
        sys.stdout.write("usage: nox -s contract -- openapi.json\n")
        return 2
    try:
        document = Document(json.loads(Path(arguments[0]).read_bytes()))
    except (OSError, ValueError) as error:
        sys.stdout.write(f"{arguments[0]}: {error}\n")
        return 2
    lines = list(compare(document))
    sys.stdout.write("\n".join(lines or ["no difference: the contract is what the document says"]) + "\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
