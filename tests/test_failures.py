"""Every point at which an exchange can fail: what the server received, and what the caller got.

Each row is run over a plain connection, on the caller's own session, over TLS, through a CONNECT proxy and on uvloop.
"""

from __future__ import annotations

import attrs
import pytest

from jetpay_async import (
    APIError,
    AuthenticationError,
    Capture,
    ConflictError,
    InvalidRequestError,
    JetpayError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
)
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Act, Loopback, replies, work_then
from tests.network import Network, every_network, outcome, preauthorize


@attrs.frozen
class Row:
    """One failure point."""

    name: str
    act: Act
    preauthorize: type[JetpayError]
    """What a preauthorize gets."""
    capture: type[JetpayError] | None = None
    """What a capture gets; None if it is resolved."""
    sends: int = 1
    """How many preauthorizes the server receives."""
    worked: bool = False
    """Whether the server had done the work when it failed."""


def unknown(name: str, act: Act) -> list[Row]:
    """A failure that leaves the outcome unknown, before and after the work."""
    return [
        Row(f"{name}, not done", act, OutcomeUnknownError),
        Row(f"{name}, done", work_then(act), OutcomeUnknownError, worked=True),
    ]


ROWS = [
    *unknown("hang up", loopback.hang_up),
    *unknown("reset", loopback.reset),
    *unknown("cut in the head", loopback.cut_head),
    *unknown("cut in the body", loopback.cut_body),
    *unknown("not HTTP", loopback.garbage),
    *unknown("endless body", loopback.endless),
    *unknown("200 with HTML", replies(200, HTML)),
    *unknown("200 with another object", replies(200, {"hello": "world"})),
    *unknown("200 with a list", replies(200, [])),
    *unknown("200 with null", replies(200, None)),
    *unknown("204", replies(204, b"")),
    *(
        row
        for status in (301, 302, 303, 307, 308)
        for row in unknown(f"{status}", replies(status, b"", Location="/debit/other/capture"))
    ),
    *(row for status in (500, 502, 503, 504, 520) for row in unknown(f"{status} with HTML", replies(status, HTML))),
    *(row for status in (500, 503) for row in unknown(f"{status} with JSON", replies(status, {"detail": "no"}))),
    *(
        row
        for status in (400, 401, 403, 404, 409, 422, 429)
        for row in unknown(f"{status} with HTML", replies(status, HTML))
    ),
    Row("400", replies(400, FASTAPI[400]), InvalidRequestError, InvalidRequestError),
    Row("401", replies(401, FASTAPI[401]), AuthenticationError, AuthenticationError),
    Row("402", replies(402, {"detail": "declined"}), APIError, APIError),
    Row("403", replies(403, FASTAPI[403]), PermissionDeniedError, PermissionDeniedError),
    Row("404", replies(404, FASTAPI[404]), NotFoundError, NotFoundError),
    Row("409", replies(409, FASTAPI[409]), ConflictError, ConflictError),
    Row("422", replies(422, FASTAPI[422]), InvalidRequestError, InvalidRequestError),
]


@every_network
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_failed_preauthorize_is_never_sent_twice(row: Row, network: Network) -> None:
    """Once it began to leave, a preauthorize is sent once, and what is not the API's no is unknown."""

    async def main() -> None:
        async with network.serve(Loopback(scripts={"preauthorize": [row.act]})) as server:
            async with network.connect(server) as client:
                error = await outcome(preauthorize(client))

                assert type(error) is row.preauthorize
                assert isinstance(error, JetpayError)
                assert error.attempts == 1
                assert server.count("preauthorize") == 1
                assert server.count("elsewhere") == 0
                if isinstance(error, OutcomeUnknownError):
                    assert error.arguments["amount"] == "100.50"
                    assert error.started_at is not None

    network.run(main)


@every_network
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_failed_capture_takes_the_money_once(row: Row, network: Network) -> None:
    """Whatever fails, a capture ends captured exactly once, or with the API's no."""

    async def main() -> None:
        async with network.serve(Loopback(scripts={"capture": [row.act]})) as server:
            async with network.connect(server) as client:
                got = await outcome(client.capture(DEBIT_ID))

                if row.capture is not None:
                    assert type(got) is row.capture
                    assert server.captures == 0
                    assert server.count("capture") == 1
                else:
                    assert isinstance(got, Capture)
                    assert got.state == "paid"
                    assert got.confirmed_by_status is row.worked
                    assert got.attempts == server.count("capture") == (1 if row.worked else 2)
                    assert server.captures == 1

    network.run(main)
