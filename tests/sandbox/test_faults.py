"""Faults: which request they match, and what is then seen on the wire."""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import attrs
import pytest
import trustme

from jetpay_async.sandbox import ROUTES, Fault, FaultKind, Faults, Sandbox

from .calling import Caller, HeldClock, until

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .calling import Reply

_POINTS = ("before", "after")


@attrs.frozen
class Seen:
    """What a connection brought before it ended."""

    data: bytes
    reset: bool

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


async def _capture_raw(sandbox: Sandbox, debit_id: str, tls: ssl.SSLContext | None = None) -> Seen:
    """Capture without an HTTP library, and read until the connection ends."""
    port = int(sandbox.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    request = (
        f"POST /debit/{debit_id}/capture HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {sandbox.api_token}\r\n"
    )
    writer.write(f"{request}Connection: close\r\n\r\n".encode())
    data, reset = b"", False
    try:
        async with asyncio.timeout(5):
            while chunk := await reader.read(1024):
                data += chunk
    except ConnectionResetError:
        reset = True
    writer.close()
    return Seen(data, reset)


async def _cancel(call: Coroutine[object, object, Reply], sandbox: Sandbox, *, timeout: float = 0) -> bool:
    """Cancel the call some time after a fault was injected into it; return whether there was a reply."""
    task = asyncio.create_task(call)
    await until(lambda: bool(sandbox.faults.injected))
    await asyncio.wait([task], timeout=timeout)
    answered = task.done()
    task.cancel()
    await asyncio.wait([task])
    return answered


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a server's and a client's TLS context that trust each other."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)  # pyright: ignore[reportUnknownMemberType]
    return server, ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


@pytest.mark.asyncio
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("point", _POINTS)
@pytest.mark.parametrize("effect", ["lose_reply", "reset", "cut_head", "cut_body"])
async def test_broken_replies(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], effect: str, point: str, *, tls: bool
) -> None:
    """A broken reply ends the connection where its name says, and the work was done after, not before."""
    server, client = contexts if tls else (None, None)
    connector = aiohttp.TCPConnector(ssl=client or True)
    async with Sandbox(ssl_context=server) as sandbox, aiohttp.ClientSession(connector=connector) as session:
        debit_id = await Caller(sandbox, session).reserve()
        sandbox.faults.add(Fault(kind=FaultKind(f"{effect}_{point}"), route="capture"))

        seen = await _capture_raw(sandbox, debit_id, client)

        assert seen.reset is (effect == "reset")
        assert sandbox.debit(debit_id).captures == (1 if point == "after" else 0)
    if effect in {"lose_reply", "reset"}:
        assert seen.data == b""
    elif effect == "cut_head":
        assert seen.data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\n\r\n" not in seen.data
    else:
        whole = (
            json.dumps({"identifier": debit_id, "state": "paid"}, separators=(",", ":")) if point == "after" else "{}"
        )
        assert f"Content-Length: {len(whole)}".encode() in seen.head
        assert seen.body == whole[: len(whole) // 2].encode()


REPLACED: dict[str, tuple[Fault, int, bytes | None, dict[str, str | None]]] = {
    "rate limit": (Fault(kind=FaultKind.RATE_LIMIT), 429, b'{"detail":"Too Many Requests"}', {"Retry-After": None}),
    "rate limit in seconds": (Fault(kind=FaultKind.RATE_LIMIT, retry_after=7), 429, None, {"Retry-After": "7"}),
    "rate limit until": (
        Fault(
            kind=FaultKind.RATE_LIMIT, retry_after=datetime(2026, 1, 2, 4, 4, 5, tzinfo=timezone(timedelta(hours=1)))
        ),
        429,
        None,
        {"Retry-After": "Fri, 02 Jan 2026 03:04:05 GMT"},
    ),
    "error": (Fault(kind=FaultKind.ERROR_BEFORE), 500, b'{"detail":"Internal Server Error"}', {}),
    "error after": (Fault(kind=FaultKind.ERROR_AFTER, status=503), 503, b'{"detail":"Service Unavailable"}', {}),
    "timeout": (Fault(kind=FaultKind.ERROR_AFTER, status=408), 408, b'{"detail":"Request Timeout"}', {}),
    "conflict": (Fault(kind=FaultKind.ERROR_BEFORE, status=409), 409, b'{"detail":"Conflict"}', {}),
    "too early": (Fault(kind=FaultKind.ERROR_BEFORE, status=425), 425, b'{"detail":"Too Early"}', {}),
    "client closed": (Fault(kind=FaultKind.ERROR_AFTER, status=499), 499, b'{"detail":"Unknown"}', {}),
    "error with a page": (
        Fault(kind=FaultKind.ERROR_AFTER, status=520, body="html"),
        520,
        b"<h1>520 Unknown</h1>",
        {"Content-Type": "text/html; charset=utf-8"},
    ),
    "error without a body": (Fault(kind=FaultKind.ERROR_BEFORE, body="empty"), 500, b"", {"Content-Length": "0"}),
    "proxy page": (
        Fault(kind=FaultKind.PROXY_PAGE_BEFORE),
        502,
        b"<h1>502 Bad Gateway</h1>",
        {"Content-Type": "text/html; charset=utf-8"},
    ),
    "proxy page 200": (Fault(kind=FaultKind.PROXY_PAGE_AFTER, status=200), 200, b"<h1>200 OK</h1>", {}),
    "proxy page 403": (Fault(kind=FaultKind.PROXY_PAGE_BEFORE, status=403), 403, b"<h1>403 Forbidden</h1>", {}),
    "redirect to itself": (Fault(kind=FaultKind.REDIRECT_BEFORE), 307, b"", {"Location": "/debit/{debit_id}/capture"}),
    "redirect away": (
        Fault(kind=FaultKind.REDIRECT_AFTER, status=302, location="http://elsewhere.test/"),
        302,
        b"",
        {"Location": "http://elsewhere.test/"},
    ),
    "wrong shape": (Fault(kind=FaultKind.WRONG_SHAPE_BEFORE), 200, b'{"unexpected":true}', {}),
    "wrong shape of choice": (
        Fault(kind=FaultKind.WRONG_SHAPE_AFTER, document=[1, "two"]),
        200,
        b'[1,"two"]',
        {"Content-Type": "application/json"},
    ),
}


@pytest.mark.asyncio
@pytest.mark.parametrize(("fault", "status", "body", "headers"), REPLACED.values(), ids=REPLACED)
async def test_replaced_replies(
    caller: Caller, fault: Fault, status: int, body: bytes | None, headers: dict[str, str | None]
) -> None:
    """Another reply comes instead of the right one, with a request id, and the work was done after, not before."""
    debit_id = await caller.reserve()
    caller.sandbox.faults.add(attrs.evolve(fault, route="capture"))

    answer = await caller.capture(debit_id)

    assert answer.status == status
    assert body is None or (body in answer.body if body else answer.body == b"")
    assert answer.headers["x-request-id"]
    for name, value in headers.items():
        assert answer.headers.get(name) == (value and value.format(debit_id=debit_id))
    assert caller.sandbox.debit(debit_id).captures == (1 if fault.kind.after_work else 0)


def test_every_kind_is_seen_on_the_wire() -> None:
    """The two tables above, the two tests below and those of the states leave no kind out."""
    broken = {f"{effect}_{point}" for effect in ("lose_reply", "reset", "cut_head", "cut_body") for point in _POINTS}
    waiting = {f"{effect}_{point}" for effect in ("slow", "stall") for point in _POINTS}
    replaced = {
        f"{effect}_{point}" for effect in ("error", "proxy_page", "redirect", "wrong_shape") for point in _POINTS
    }

    states = {"process_late", "report_state_before", "report_state_after", "stale_status", "cached_reply"}

    assert {kind.value for kind in FaultKind} == broken | waiting | replaced | states | {"rate_limit", "retransmit"}


@pytest.mark.asyncio
async def test_slow_before_does_the_work_late() -> None:
    """A slow capture takes the money late, although its client has long gone."""
    held = HeldClock()
    async with Sandbox(clock=held.clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        sandbox.faults.add(Fault(kind=FaultKind.SLOW_BEFORE, route="capture", seconds=7))

        await _cancel(caller.capture(debit_id), sandbox)
        while_on_its_way = (await caller.status(debit_id)).document["state"]
        held.released.set()
        await until(lambda: sandbox.debit(debit_id).captures == 1)

        assert while_on_its_way == "preauthorized"
        assert held.slept == [7]


@pytest.mark.asyncio
async def test_slow_after_answers_late() -> None:
    """A slow reply is the right one, and the work was done at once."""
    held = HeldClock()
    async with Sandbox(clock=held.clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        sandbox.faults.add(Fault(kind=FaultKind.SLOW_AFTER, route="capture", seconds=7))

        capturing = asyncio.create_task(caller.capture(debit_id))
        await until(lambda: sandbox.debit(debit_id).captures == 1)
        while_on_its_way = capturing.done()
        held.released.set()

        assert not while_on_its_way
        assert (await capturing).document["state"] == "paid"
        assert held.slept == [7]


@pytest.mark.asyncio
@pytest.mark.parametrize("point", _POINTS)
async def test_stalled_requests_get_no_answer(caller: Caller, point: str) -> None:
    """A stalled request is not answered; its work was done after, not before."""
    debit_id = await caller.reserve()
    caller.sandbox.faults.add(Fault(kind=FaultKind(f"stall_{point}"), route="capture"))

    answered = await _cancel(caller.capture(debit_id), caller.sandbox, timeout=0.03)

    assert not answered
    assert caller.sandbox.debit(debit_id).captures == (1 if point == "after" else 0)
    assert caller.sandbox.requests("capture", debit_id) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [FaultKind.LOSE_REPLY_AFTER, FaultKind.RESET_AFTER, FaultKind.CUT_BODY_AFTER])
async def test_a_client_that_has_left_before_its_reply_is_lost(
    kind: FaultKind, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken reply to a client that has gone is no error, and the work is done."""
    held = HeldClock()
    async with Sandbox(clock=held.clock, latency=1) as sandbox, aiohttp.ClientSession() as session:
        preauthorizing = asyncio.create_task(Caller(sandbox, session).preauthorize())
        sandbox.faults.add(Fault(kind=kind))
        await until(lambda: held.slept == [1])
        preauthorizing.cancel()
        await asyncio.wait([preauthorizing])
        await asyncio.sleep(0.01)
        held.released.set()

        await until(lambda: len(sandbox.debits) == 1)

    assert sandbox.faults.injected == {kind: 1}
    assert caplog.records == []


@pytest.mark.asyncio
async def test_once_unless_given_a_count(caller: Caller) -> None:
    """A fault is injected once, one with a count that many times, one of count None always."""
    debit_id = await caller.reserve()
    faults = caller.sandbox.faults

    async def statuses(times: int) -> list[int]:
        return [(await caller.status(debit_id)).status for _ in range(times)]

    faults.add(Fault(kind=FaultKind.RATE_LIMIT))
    assert await statuses(3) == [429, 200, 200]
    faults.add(Fault(kind=FaultKind.RATE_LIMIT, count=2))
    assert await statuses(3) == [429, 429, 200]
    faults.add(Fault(kind=FaultKind.RATE_LIMIT, count=None))
    assert await statuses(3) == [429, 429, 429]
    faults.clear()
    assert await statuses(1) == [200]
    assert faults.injected == {"rate_limit": 6}


@pytest.mark.asyncio
async def test_route_and_identifier(caller: Caller) -> None:
    """A fault applies only to its route and only to the id that it names, at any place in the path."""
    payer, other = caller.sandbox.add_payer(), caller.sandbox.add_payer()
    first, second = await caller.reserve(), await caller.reserve()
    caller.sandbox.faults.add(
        Fault(kind=FaultKind.RATE_LIMIT, route="capture", identifier=second),
        Fault(kind=FaultKind.ERROR_BEFORE, identifier=payer.credit_card_id),
    )

    answers = [
        await caller.status(second),
        await caller.capture(first),
        await caller.capture(second),
        await caller.preauthorize(other),
        await caller.preauthorize(payer),
    ]

    assert [answer.status for answer in answers] == [200, 200, 429, 200, 500]


@pytest.mark.asyncio
async def test_one_fault_at_a_time(caller: Caller) -> None:
    """The fault that was added first is injected first; the next one waits for the next request."""
    debit_id = await caller.reserve()
    caller.sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE), Fault(kind=FaultKind.RATE_LIMIT))

    assert [(await caller.status(debit_id)).status for _ in range(3)] == [500, 429, 200]


def _injected(faults: Faults[Fault], requests: list[str]) -> list[str | None]:
    injected = [faults.match(partial(Fault.fits, route=route, identifiers=())) for route in requests]
    return [fault.kind if fault else None for fault in injected]


def _two_faults(seed: str) -> Faults[Fault]:
    faults = Faults[Fault](seed)
    faults.add(
        Fault(kind=FaultKind.LOSE_REPLY_BEFORE, route="capture", probability=0.3),
        Fault(kind=FaultKind.RATE_LIMIT, route="status", probability=0.3),
    )
    return faults


def test_a_seed_makes_a_run_again() -> None:
    """The same seed and requests inject the same, another seed does not, and about as much as was asked for."""
    run = _injected(_two_faults("7"), ["capture"] * 1000)

    assert run == _injected(_two_faults("7"), ["capture"] * 1000)
    assert run != _injected(_two_faults("8"), ["capture"] * 1000)
    assert 250 < 1000 - run.count(None) < 350


def test_other_routes_do_not_disturb() -> None:
    """The faults of a route do not depend on the requests to other routes in between."""
    mixed = ["capture", "status", "status"] * 300

    injected = _injected(_two_faults("7"), mixed)

    assert injected[::3] == _injected(_two_faults("7"), ["capture"] * 300)


def test_each_fault_has_its_own_chance() -> None:
    """Two faults of one probability do not match in step."""
    injected = _injected(_two_faults("7"), ["capture", "status"] * 300)

    assert [each is None for each in injected[::2]] != [each is None for each in injected[1::2]]


@pytest.mark.asyncio
async def test_a_seed_makes_a_sandbox_again() -> None:
    """Two sandboxes of one seed give the same ids and inject the same faults for the same requests."""

    async def run(seed: int) -> tuple[list[int], list[str]]:
        async with Sandbox(seed=seed) as sandbox, aiohttp.ClientSession() as session:
            caller = Caller(sandbox, session)
            sandbox.faults.add(Fault(kind=FaultKind.ERROR_AFTER, probability=0.5))
            answers = [await caller.preauthorize() for _ in range(20)]
            return [answer.status for answer in answers], [debit.identifier for debit in sandbox.debits]

    assert await run(1) == await run(1)
    assert await run(1) != await run(2)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rate_limit", Fault(kind=FaultKind.RATE_LIMIT)),
        (
            "lose_reply_after route=capture probability=0.05",
            Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture", probability=0.05),
        ),
        (
            "error_before status=503 body=html count=3 identifier=a",
            Fault(kind=FaultKind.ERROR_BEFORE, status=503, body="html", count=3, identifier="a"),
        ),
        ("slow_before seconds=2.5", Fault(kind=FaultKind.SLOW_BEFORE, seconds=2.5)),
        ("rate_limit retry_after=3", Fault(kind=FaultKind.RATE_LIMIT, retry_after=3)),
        ("redirect_before location=/a?b=c", Fault(kind=FaultKind.REDIRECT_BEFORE, location="/a?b=c")),
        ("report_state_after state=paid", Fault(kind=FaultKind.REPORT_STATE_AFTER, state="paid")),
    ],
)
def test_a_fault_in_writing(text: str, fault: Fault) -> None:
    """A fault can be written on a command line."""
    assert Fault.from_text(text) == fault


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "'' is not a valid FaultKind"),
        ("explode", "'explode' is not a valid FaultKind"),
        ("rate_limit route=captures", "'route' must be in"),
        ("rate_limit color=red", "color is not one of route"),
        ("rate_limit count=many", "invalid literal"),
        ("rate_limit count", "invalid literal"),
        ("rate_limit count=0", "'count' must be >= 1"),
        ("rate_limit probability=1.5", "probability: must be a number from 0 to 1"),
        ("error_after body=xml", "'body' must be in"),
    ],
)
def test_a_fault_misspelt(text: str, error: str) -> None:
    """A misspelt fault is a ValueError that says what is wrong, rather than a fault that is never injected."""
    with pytest.raises(ValueError, match=error):
        Fault.from_text(text)


@pytest.mark.asyncio
async def test_a_route_misspelt(caller: Caller) -> None:
    """Counting the requests of a route that does not exist is a ValueError, rather than 0."""
    assert {caller.sandbox.requests(route) for route in ROUTES} == {0}
    with pytest.raises(ValueError, match="no route is called 'captures'; there are preauthorize, "):
        caller.sandbox.requests("captures")


def test_remove() -> None:
    """A fault is removed by the number that adding it returned; another number is a KeyError."""
    faults = Sandbox().faults
    first, second = faults.add(Fault(kind=FaultKind.RATE_LIMIT), Fault(kind=FaultKind.RESET_AFTER, count=2))

    faults.remove(first)

    assert [(each.number, each.fault.kind, each.left) for each in faults.active] == [(second, "reset_after", 2)]
    with pytest.raises(KeyError):
        faults.remove(first)


def test_reseed() -> None:
    """After another seed a fault draws as it does in a sandbox that has that seed from the start."""
    fault = Fault(kind=FaultKind.RATE_LIMIT, probability=0.5)
    faults, others = Sandbox(seed=1).faults, Sandbox(seed=2).faults
    for each in (faults, others):
        each.add(fault)
    faults.match(lambda _: True)
    faults.reseed(others.seed)
    drawn = [[each.match(lambda _: True) is None for _ in range(64)] for each in (faults, others)]

    assert drawn[0] == drawn[1]
    assert faults.active == others.active
