"""What the server answers: for each peer its vendor's reply, as short as its parser allows.

The vendors' real replies are longer, so that the peers would cost more in real life than they do here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from string import Template

import attrs


@attrs.frozen
class Route:
    """A path, as a regular expression with named groups, and the reply, in which ``$name`` stands for a group."""

    path: str
    body: str
    status: int = 200
    content_type: str = "application/json"


AMOUNT = "100.50"
STATEMENT = "Cabin 7"

ROUTES = (
    Route("/debit/(?P<id>[^/]+)/capture", '{"identifier": "$id", "state": "paid"}'),
    Route(
        "/contact/(?P<contact>[^/]+)/creditcards/(?P<card>[^/]+)/preauthorize",
        f'{{"debit_id": "debit_123", "amount": {AMOUNT}, "statement": "{STATEMENT}", "to_bank_account_id": "bank_789",'
        ' "contact_id": "$contact", "from_credit_card_id": "$card", "transaction_state": "preauthorized"}',
    ),
    Route("/transaction/(?P<id>[^/]+)/status", '{"state": "paid"}'),
    Route(
        "/v1/payment_intents/(?P<id>[^/]+)/capture",
        '{"id": "$id", "object": "payment_intent", "status": "succeeded"}',
    ),
    Route("/v2/payments/(?P<id>[^/]+)/complete", '{"payment": {"id": "$id", "status": "COMPLETED"}}'),
    Route(
        "/v2/payments/(?P<id>[^/]+)/captures",
        '{"resource": "capture", "id": "cpt_1", "mode": "live", "amount": null, "status": "succeeded",'
        ' "paymentId": "$id", "createdAt": "2026-01-22T10:15:30+00:00",'
        ' "_links": {"self": {"href": "/", "type": "a"}, "payment": {"href": "/", "type": "a"},'
        ' "documentation": {"href": "/", "type": "a"}}}',
        status=201,
        content_type="application/hal+json",
    ),
    Route(
        "/v1/batches/(?P<id>[^/]+)/cancel",
        '{"id": "$id", "object": "batch", "status": "cancelled", "completion_window": "24h", "created_at": 1,'
        ' "endpoint": "/", "input_file_id": "file_1"}',
    ),
)

COUNT_PATH = "/requests"
"""Answers how many requests came, not counting those to this path; or nginx's ``stub_status``, which counts them."""


def nginx_locations() -> Iterator[str]:
    """Write the routes for nginx."""
    for route in ROUTES:
        reply = f"default_type {route.content_type}; return {route.status} '{route.body}';"
        yield f"location ~ ^{route.path}$ {{ {reply} }}"


_COMPILED = [(re.compile(route.path), Template(route.body), route) for route in ROUTES]


def answer(path: str) -> bytes:
    """Answer as nginx does.

    Raises:
        LookupError: There is no such route.
    """
    for pattern, template, route in _COMPILED:
        if (match := pattern.fullmatch(path)) is not None:
            return response(route.status, route.content_type, template.substitute(match.groupdict()))
    raise LookupError(path)


def response(status: int, content_type: str, text: str) -> bytes:
    """Write a response."""
    body = text.encode()
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
