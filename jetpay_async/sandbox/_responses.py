"""What is sent: a whole reply, or what is left of one. Pure: the bytes of a broken reply are made here too."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

import attrs

from jetpay_async._core import json as api_json

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

__all__ = ["Broken", "SandboxResponse", "empty", "head", "html", "json", "page", "phrase"]

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@attrs.frozen
class SandboxResponse:
    """A whole reply."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@attrs.frozen
class Broken:
    """What is sent before the connection ends: nothing, or a part of a reply.

    Attributes:
        sent: The bytes.
        reset: Whether the connection is reset (RST) rather than closed.
    """

    sent: bytes = b""
    reset: bool = False


def json(status: int, document: JSONValue, headers: Mapping[str, str] | None = None) -> SandboxResponse:
    """Make a JSON reply."""
    return SandboxResponse(status, api_json.dump(document), {"Content-Type": "application/json", **(headers or {})})


def html(status: int, text: str) -> SandboxResponse:
    """Make an HTML reply."""
    return SandboxResponse(status, text.encode(), {"Content-Type": "text/html; charset=utf-8"})


def page(status: int) -> SandboxResponse:
    """Make the page of a proxy or gateway in front of the service."""
    title = f"{status} {phrase(status)}"
    return html(status, f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n")


def empty(status: int, headers: Mapping[str, str] | None = None) -> SandboxResponse:
    """Make a reply without a body."""
    return SandboxResponse(status, b"", headers or {})


def head(reply: SandboxResponse) -> bytes:
    """Write the status line and the headers, as HTTP/1.1 has them."""
    lines = [f"HTTP/1.1 {reply.status} {phrase(reply.status)}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    lines.append(f"Content-Length: {len(reply.body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def phrase(status: int) -> str:
    """Return the reason phrase of a status."""
    # Proxies answer with numbers that no registry knows, 520 for one.
    return _PHRASES.get(status, "Unknown")
