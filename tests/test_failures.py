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
    TransactionFailedError,
)
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Act, Exchange, Loopback, replies, work_then
from tests.network import FAST, Network, every_network, outcome, preauthorize


@attrs.frozen
class Row:
    """One failure point."""

    name: str
    act: Act
    preauthorize: type[JetpayError]
    """What a preauthorize gets."""
    capture: type[JetpayError] | None = None
    """What a capture gets; None if its status resolves it."""
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
    *(
        row
        for status in (500, 501, 502, 503, 504, 520)
        for row in unknown(f"{status} with JSON", replies(status, {"detail": "no"}))
    ),
    *(
        row
        for status in (406, 408, 418, 424, 425, 499)
        for row in unknown(f"{status} with JSON", replies(status, {"detail": "no"}))
    ),
    *(
        row
        for status in (400, 401, 403, 404, 409, 422, 429)
        for row in unknown(f"{status} with HTML", replies(status, HTML))
    ),
    Row("400", replies(400, FASTAPI[400]), InvalidRequestError, InvalidRequestError),
    Row("401", replies(401, FASTAPI[401]), AuthenticationError, AuthenticationError),
    *(Row(f"{status}", replies(status, {"detail": "no"}), APIError, APIError) for status in (402, 405, 410, 413, 415)),
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


# --- a 200 in another state -------------------------------------------------------------------------------------------

IN_PROGRESS = ["requested", "initiated", "processing"]
UNKNOWN_STATES = ["declined", "error", "expired", "pending_review"]


@every_network
@pytest.mark.parametrize("state", IN_PROGRESS)
def test_what_is_in_progress_is_accepted(state: str, network: Network) -> None:
    """A 200 in a state of progress is returned at once as what it is, not final, and nothing else is sent."""

    async def main() -> None:
        server = Loopback()
        server.scripts = {"preauthorize": [in_state(server, state)], "capture": [in_state(server, state)]}
        async with network.serve(server), network.connect(server) as client:
            reserved = await preauthorize(client)
            captured = await client.capture(DEBIT_ID)

        assert (reserved.state, reserved.final) == (state, False)
        assert (captured.state, captured.final, captured.confirmed_by_status) == (state, False, False)
        assert len(server.requests) == 2

    network.run(main)


@every_network
@pytest.mark.parametrize("state", UNKNOWN_STATES)
@pytest.mark.parametrize("later", ["failed", "paid", "pondering", "preauthorized"])
def test_what_a_200_leaves_open_the_status_decides(later: str, state: str, network: Network) -> None:
    """A 200 in a state that nobody knows is resolved by the status, unknown if that doesn't help, and never resent."""
    expected: dict[str, type[object]] = {"failed": TransactionFailedError, "paid": Capture}

    async def main() -> None:
        server = Loopback(state=later)
        server.scripts["capture"] = [in_state(server, state)]
        async with network.serve(server), network.connect(server, timeout=0.5) as client:
            got = await outcome(client.capture(DEBIT_ID))

        assert type(got) is expected.get(later, OutcomeUnknownError)
        assert server.count("capture") == 1
        assert server.count("status") >= 1

    network.run(main)


def in_state(server: Loopback, state: str) -> Act:
    """Answer as the guide says, but in this state."""

    async def act(exchange: Exchange) -> None:
        document = server.answer(exchange.request)
        name = "state" if "state" in document else "transaction_state"
        await exchange.reply(200, {**document, name: state})

    return act


# --- how long nothing is sent again -----------------------------------------------------------------------------------

SHORT = attrs.evolve(FAST, resolve_after_timeout=60.0)

# What happened, and whether the short time holds for it on a direct connection.
ENDS: list[tuple[str, Act, bool]] = [
    ("hang up", loopback.hang_up, True),
    ("reset", loopback.reset, True),
    ("500 in the API's JSON", replies(500, {"detail": "no"}), True),
    ("503 in the API's JSON", replies(503, {"detail": "no"}), True),
    ("503 with HTML", replies(503, HTML), False),
    ("502 in JSON", replies(502, {"detail": "no"}), False),
    ("504 with HTML", replies(504, HTML), False),
    ("408 in JSON", replies(408, {"detail": "no"}), False),
    ("silence", loopback.silence, False),
    ("200 with HTML", replies(200, HTML), False),
    ("a redirect", replies(302, b"", Location="/debit/other/capture"), False),
]


@every_network
@pytest.mark.parametrize(("act", "short"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
def test_the_short_time_holds_only_where_the_other_side_ended_it(act: Act, network: Network, *, short: bool) -> None:
    """Through a proxy, or where it is not known that the request is over, nothing is sent again for the long time."""

    async def main() -> None:
        async with network.serve(Loopback(scripts={"capture": [act]})) as server:
            async with network.connect(server, timeout=1.0, retry=SHORT) as client:
                got = await outcome(client.capture(DEBIT_ID))

        if short and not network.proxy:
            assert isinstance(got, Capture)
            assert got.attempts == server.count("capture") == 2
        else:
            assert type(got) is OutcomeUnknownError
            assert server.count("capture") == 1

    network.run(main)
