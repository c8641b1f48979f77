"""OpenAPI documents, made of tables of operations. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import msgspec

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

__all__ = ["ANY", "DescribedOperation", "Fields", "describe"]

Fields: TypeAlias = Mapping[str, Any]
"""The fields of an object, and their types."""

ANY: Fields = {}
"""An object of any fields."""

PARAMETER = re.compile(r"{(\w+)}")
_OK: Fields = {"ok": bool}


@attrs.frozen(kw_only=True)
class DescribedOperation:
    """One operation: what it takes and what it answers.

    Attributes:
        method: The HTTP method.
        path: With parameters in braces.
        summary: One line.
        query: The parameters of its query, and their types.
        body: The fields of its body; None without a body.
        required: The fields that must be there.
        reply: The fields of its reply.
        items: Those of each item, if the reply is an array.
        status: Of the reply.
    """

    method: str
    path: str
    summary: str
    query: Fields = attrs.field(factory=dict[str, Any])
    body: Fields | None = None
    required: Sequence[str] = ()
    reply: Fields = _OK
    items: Fields | None = None
    status: int = 200


def describe(*, title: str, summary: str, operations: Sequence[DescribedOperation]) -> dict[str, JSONValue]:
    """Return the OpenAPI document of some operations."""
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "summary": summary, "version": "0"},
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
            }
        },
    }


def _operation(operation: DescribedOperation) -> dict[str, Any]:
    name = re.sub(r"\W+", "_", operation.path.removeprefix("/_sandbox/api/")).strip("_")
    reply = _object(operation.reply, operation.reply)
    if operation.items is not None:
        reply = {"type": "array", "items": _object(operation.items, operation.items)}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method.lower()}_{name}",
        "parameters": [
            *(_parameter(each, "path", str) for each in PARAMETER.findall(operation.path)),
            *(_parameter(each, "query", kind) for each, kind in operation.query.items()),
        ],
        "responses": {
            str(operation.status): {"description": "Done", "content": {"application/json": {"schema": reply}}},
            "default": {
                "description": "Not done",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": bool(operation.required) or operation.body is ANY,
            "content": {"application/json": {"schema": _object(operation.body, operation.required)}},
        }
    return described


def _parameter(name: str, place: str, kind: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": _schema(kind)}


def _object(fields: Fields, required: Iterable[str]) -> dict[str, Any]:
    """Return the schema of an object."""
    if fields is ANY:
        return {"type": "object"}
    properties = {name: _schema(kind) for name, kind in fields.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": list(required)}


def _schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a type."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template="{name}")
    if "$ref" in schema:  # an enumeration
        named = components[schema["$ref"]]
        return {name: named[name] for name in ("type", "enum") if name in named}
    return schema
