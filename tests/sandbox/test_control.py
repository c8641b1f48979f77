"""Control over HTTP: every operation, and what its OpenAPI document says of it."""

from __future__ import annotations

from typing import Any

import aiohttp
import attrs
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from jetpay_async.models import TransactionState
from jetpay_async.sandbox import ROUTES, Sandbox, TokenScope

from .calling import Caller, Receiver, Reply, until

API = "/_sandbox/api"
NO_CARD_NUMBER = "Expected `str` matching regex '^[0-9](?:[ -]?[0-9]){11,18}$'"


@attrs.frozen
class Controller:
    """Calls the control API without a token, and checks each reply against the OpenAPI document."""

    caller: Caller
    document: dict[str, Any]

    @property
    def sandbox(self) -> Sandbox:
        return self.caller.sandbox

    async def call(self, method: str, path: str, body: object = None, *, template: str | None = None) -> Reply:
        reply = await self.caller.call(method, API + path, body, headers={"Authorization": ""})
        described = self.document["paths"].get(API + (template or path.partition("?")[0]), {}).get(method.lower())
        if described is not None:
            responses = described["responses"]
            content = responses.get(str(reply.status), responses["default"])["content"]["application/json"]
            schema = {**content["schema"], "components": self.document["components"]}
            Draft202012Validator(schema).validate(reply.document)
        return reply

    async def get(self, path: str, *, template: str | None = None) -> Any:
        reply = await self.call("GET", path, template=template)
        assert reply.status == 200
        return reply.document


@pytest_asyncio.fixture
async def control(caller: Caller) -> Controller:
    return Controller(caller, (await caller.call("GET", f"{API}/openapi.json")).document)


@pytest.mark.asyncio
async def test_the_document_is_valid(control: Controller) -> None:
    """The OpenAPI document is one, and names every operation once."""
    validate(control.document)
    names = [each["operationId"] for path in control.document["paths"].values() for each in path.values()]

    assert len(set(names)) == len(names) == 29


@pytest.mark.asyncio
async def test_faults(control: Controller) -> None:
    """A fault is added, listed with what is left of it, injected, counted and removed."""
    added = await control.call("POST", "/faults", {"kind": "rate_limit", "route": "capture", "count": 2})
    assert (added.status, added.document["number"], added.document["left"]) == (201, 0, 2)
    await control.call("POST", "/faults", {"kind": "reset_after", "route": "cancel"})

    reply = await control.caller.capture(await control.caller.reserve())
    listed = await control.get("/faults")

    assert reply.status == 429
    assert listed["injected"] == {"rate_limit": 1}
    assert [(each["number"], each["left"], each["fault"]["kind"]) for each in listed["faults"]] == [
        (0, 1, "rate_limit"),
        (1, 1, "reset_after"),
    ]
    assert (await control.call("DELETE", "/faults/0", template="/faults/{number}")).document == {"ok": True}
    for number in ("0", "x"):
        missing = await control.call("DELETE", f"/faults/{number}", template="/faults/{number}")
        assert (missing.status, missing.document) == (
            404,
            {"detail": f"there is no active fault with the number {number}"},
        )
    await control.call("DELETE", "/faults")
    assert (await control.get("/faults"))["faults"] == []


@pytest.mark.asyncio
async def test_delivery_faults(control: Controller) -> None:
    """Faults of deliveries are apart from those of requests."""
    await control.call("POST", "/delivery_faults", {"kind": "late", "seconds": 100})

    assert (await control.get("/delivery_faults"))["faults"][0]["fault"]["seconds"] == 100
    assert (await control.get("/faults"))["faults"] == []
    assert control.sandbox.delivery_faults.active[0].fault.seconds == 100


@pytest.mark.asyncio
async def test_seed(control: Controller) -> None:
    """Faults draw from the seed that was set."""
    assert (await control.call("PUT", "/faults/seed", {"seed": "7/requests"})).document == {"ok": True}

    assert (await control.get("/faults"))["seed"] == Sandbox(seed=7).faults.seed


@pytest.mark.asyncio
async def test_payers_and_debits(control: Controller) -> None:
    """A payer is added, a debit is listed, filtered, shown and put into a state, and the counters count."""
    payer = await control.call("POST", "/payers", {"card_number": "4000000000000002", "contact_id": "declined"})
    assert (payer.status, payer.document["contact_id"]) == (201, "declined")
    assert len(await control.get("/payers")) == 2
    debit_id, paid = await control.caller.reserve(), await control.caller.reserve()
    await control.caller.capture(paid)

    shown = await control.get(f"/debits/{debit_id}", template="/debits/{debit_id}")
    changed = await control.call(
        "PUT",
        f"/debits/{debit_id}/state",
        {"state": "failed", "fail_reason": "account_frozen", "fail_direction": "pull"},
        template="/debits/{debit_id}/state",
    )

    assert (shown["state"], shown["amount"], shown["captures"]) == ("preauthorized", 100.5, 0)
    assert (changed.document["state"], changed.document["fail_reason"]) == ("failed", "account_frozen")
    assert (await control.caller.status(debit_id)).document["state"] == "failed"
    assert [each["debit_id"] for each in await control.get("/debits")] == [paid, debit_id]
    assert [each["debit_id"] for each in await control.get("/debits?state=paid&limit=1")] == [paid]
    state = await control.get("/state")
    assert (state["debits"], state["captures"], state["captured_twice"]) == (2, 1, [])
    assert (state["requests"], state["events"], state["url"]) == (4, 4, control.sandbox.url)
    missing = await control.call("GET", "/debits/none", template="/debits/{debit_id}")
    assert (missing.status, missing.document["detail"]) == (404, "there is no debit with the id none")


@pytest.mark.asyncio
async def test_requests(control: Controller) -> None:
    """The newest requests are listed with route, status, fault and duration; those to /_sandbox/ are not among them."""
    debit_id = await control.caller.reserve()
    await control.call("POST", "/faults", {"kind": "error_after", "route": "capture", "status": 503})
    await control.caller.capture(debit_id)
    await control.caller.call("GET", "/nowhere")
    await control.call("GET", "/nowhere")

    listed = await control.get("/requests?limit=2")

    assert [(each["path"], each["route"], each["status"], each["fault"]) for each in listed] == [
        ("/nowhere", None, 404, None),
        (f"/debit/{debit_id}/capture", "capture", 503, "error_after"),
    ]
    assert all(each["seconds"] >= 0 for each in listed)
    assert [each["route"] for each in await control.get("/requests?route=preauthorize")] == ["preauthorize"]


@pytest.mark.asyncio
async def test_events_and_deliveries(control: Controller, receiver: Receiver) -> None:
    """Deliveries are paused, drained and repeated, and events are listed from an id on."""
    control.sandbox.add_webhook(receiver.url)
    assert (await control.call("PUT", "/deliveries/paused", {"paused": True})).document == {"ok": True}
    await control.caller.reserve()
    late = await control.call("POST", "/deliveries/drain", {"timeout": 0.05})
    assert late.status == 504
    assert (await control.get("/state"))["deliveries_paused"]
    assert receiver.received == []

    await control.call("PUT", "/deliveries/paused", {"paused": False})
    await control.call("POST", "/deliveries/drain")
    await control.caller.reserve()
    await control.call("POST", "/deliveries/drain", {"timeout": 10})
    await control.call("POST", "/deliveries/redeliver")
    await control.call("POST", "/deliveries/drain")
    await control.call("POST", "/deliveries/redeliver", {"from_event_id": 1})
    await control.call("POST", "/deliveries/drain")

    assert receiver.event_ids == [[1], [2], [2], [1, 2]]
    assert [each["id"] for each in await control.get("/events?since=2&limit=5")] == [2]
    attempts = await control.get("/deliveries")
    assert (attempts[0]["event_ids"], attempts[0]["accepted"]) == ([1, 2], True)
    (webhook,) = (await control.get("/state"))["webhooks"]
    assert (webhook["last_sent_event_id"], webhook["pending"]) == (2, 0)


@pytest.mark.asyncio
async def test_drain_waits_for_seconds(control: Controller) -> None:
    """A wait that is no number of seconds is named."""
    wrong = await control.call("POST", "/deliveries/drain", {"timeout": "long"})

    assert (wrong.status, wrong.document["detail"]) == (422, "timeout: Expected `float`, got `str`")


@pytest.mark.asyncio
async def test_clock(caller: Caller) -> None:
    """Putting the clock forward lets a slow bank report now, and dates what follows."""
    async with Sandbox(slow_bank_seconds=3600) as sandbox:
        control = Controller(Caller(sandbox, caller.session), (await _document(sandbox, caller.session)))
        debit_id = await control.caller.reserve(card_number="4000000000000051")
        await control.caller.capture(debit_id)
        before = await control.get("/clock")

        after = await control.call("POST", "/clock/advance", {"seconds": 3600.0})

        await until(lambda: sandbox.debit(debit_id).state == "paid")
        assert (before["ahead_seconds"], after.document["ahead_seconds"]) == (0, 3600)
        assert (sandbox.events[-1].created_at - sandbox.events[0].created_at).total_seconds() >= 3600
        for seconds in (-1, 1e12):
            wrong = await control.call("POST", "/clock/advance", {"seconds": seconds})
            assert (wrong.status, wrong.document["detail"]) == (422, "seconds: must be a number from 0 to 31622400")
        statuses = [(await control.call("POST", "/clock/advance", {"seconds": 31622400})).status for _ in range(101)]
        assert (statuses.count(200), statuses[-1]) == (99, 422)  # an hour has passed before
        assert (await control.get("/clock"))["time"] > "2100"


async def _document(sandbox: Sandbox, session: aiohttp.ClientSession) -> dict[str, Any]:
    reply = await Caller(sandbox, session).call("GET", f"{API}/openapi.json")
    return dict(reply.document)


@pytest.mark.asyncio
async def test_keys(control: Controller) -> None:
    """A rotation publishes a new key, with the old one or alone."""
    (old,) = (await control.get("/keys"))["keys"]
    both = (await control.call("POST", "/keys/rotate")).document["keys"]
    alone = (await control.call("POST", "/keys/rotate", {"keep_old": False})).document["keys"]

    assert (len(both), both[1]) == (2, old)
    assert len(alone) == 1
    assert old not in alone


@pytest.mark.asyncio
async def test_snapshot_restore_reset(control: Controller) -> None:
    """A snapshot is put back, and a reset goes to the start; no part of an invalid one is taken."""
    debit_id = await control.caller.reserve()
    snapshot = await control.get("/snapshot")
    await control.caller.capture(debit_id)

    restored = await control.call("POST", "/restore", snapshot)
    assert (restored.status, control.sandbox.debit(debit_id).state) == (200, "preauthorized")
    wrong = await control.call("POST", "/restore", {"format": "other"})
    assert (wrong.status, wrong.document["detail"][:36]) == (422, "this is not a snapshot of a sandbox:")
    await control.call("POST", "/reset")
    assert control.sandbox.debits == ()


@pytest.mark.parametrize(
    ("method", "path", "body", "detail"),
    [
        ("POST", "/faults", {"kind": "none"}, "kind: Invalid enum value 'none'"),
        ("POST", "/faults", {}, "kind: is missing"),
        ("POST", "/faults", None, "kind: is missing"),
        ("POST", "/faults", {"kind": "rate_limit", "count": 0}, "'count' must be >= 1: 0"),
        ("POST", "/faults", [], "not a JSON object but list"),
        ("POST", "/payers", {"card_number": 4}, "card_number: Expected `str`, got `int`"),
        ("PUT", "/deliveries/paused", {"paused": 1}, "paused: Expected `bool`, got `int`"),
        ("GET", "/debits?limit=0", None, "limit: Expected `int` >= 1"),
        ("GET", "/debits?limit=x", None, "limit: Expected `int`, got `str`"),
        ("GET", "/debits?sort=up", None, "sort: is not one of state, limit"),
        ("GET", "/debits?limit=1&limit=2", None, "limit: is given twice"),
        ("GET", "/keys?all=1", None, "all: is not one of none"),
        ("GET", "/events?since=0", None, "since: Expected `int` >= 1"),
        (
            "GET",
            "/debits?state=nope",
            None,
            f"state: is not one of {', '.join(sorted({*TransactionState}))}",
        ),
        ("GET", "/requests?route=captures", None, f"route: is not one of {', '.join(ROUTES)}"),
        ("POST", "/faults", {"kind": "stale_status", "seconds": 1e11}, "seconds: must be a number from 0 to 31622400"),
        (
            "POST",
            "/faults",
            {"kind": "rate_limit", "retry_after": "0001-01-01T00:00:00+14:00"},
            "retry_after: a date must have an offset, and be in the years 1 to 9999 of UTC",
        ),
        (
            "POST",
            "/delivery_faults",
            {"kind": "clock_skew", "seconds": 1e300},
            "seconds: must be a number from -31622400 to 31622400",
        ),
        ("POST", "/payers", {"card_number": "400000000000002x"}, f"card_number: {NO_CARD_NUMBER}"),
    ],
)
@pytest.mark.asyncio
async def test_what_makes_no_sense_is_named(
    control: Controller, method: str, path: str, body: object, detail: str
) -> None:
    """A request that is not valid is answered 422 with the field's name."""
    reply = await control.call(method, path, body)

    assert (reply.status, reply.document) == (422, {"detail": detail})


def _beyond(schema: dict[str, Any]) -> list[object]:
    """Values that a schema excludes."""
    kinds: list[dict[str, Any]] = schema.get("anyOf", [schema])
    found: list[object] = [f"{kind['enum'][0]}x" for kind in kinds if "enum" in kind]
    found += [kind["minimum"] - 1 for kind in kinds if "minimum" in kind]
    found += [kind["maximum"] + 1 for kind in kinds if "maximum" in kind]
    return found + ["\n" for kind in kinds if "pattern" in kind]


@pytest.mark.asyncio
async def test_documented_limits(control: Controller) -> None:
    """What the OpenAPI document excludes is refused by the name of its field."""
    count = 0
    for path, methods in control.document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            least = dict.fromkeys(body.get("required", ()), "late" if "delivery" in path else "slow_after")
            sent = [
                ({**least, name: each}, "", name)
                for name, of in body.get("properties", {}).items()
                for each in _beyond(of)
            ]
            for parameter in operation["parameters"]:
                sent += [
                    (None, f"?{parameter['name']}={each}", parameter["name"]) for each in _beyond(parameter["schema"])
                ]
            for document, query, name in sent:
                reply = await control.call(method.upper(), path.removeprefix(API) + query, document)
                assert reply.status == 422, (path, query, document)
                assert name in reply.document["detail"].partition(" ")[0]
                count += 1

    assert count > 25


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "OWN"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Host": "evil.test"}, 403),
    ],
)
@pytest.mark.asyncio
async def test_pages_of_other_origins(control: Controller, headers: dict[str, str], status: int) -> None:
    """What another origin's page can send changes nothing; a body is JSON and says so."""
    sent = {name: value.replace("OWN", control.sandbox.url) for name, value in headers.items()}
    body = {"Content-Type": "application/json", **sent}

    reply = await control.caller.call("PUT", f"{API}/deliveries/paused", data=b'{"paused":true}', headers=body)

    assert reply.status == status
    assert (await control.get("/state"))["deliveries_paused"] is (status == 200)


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://sandbox.test", "sandbox.test", 200),
        ("http://sandbox.test", "SANDBOX.test:80", 200),
        ("https://sandbox.test", "sandbox.test", 200),
        ("http://[::1]:8087", "[::1]:8087", 200),
        ("http://sandbox.test", "sandbox.test:8087", 403),
        ("http://sandbox.test:8087", "sandbox.test", 403),
        ("https://sandbox.test", "sandbox.test:80", 403),
        ("http://[::2]:8087", "[::1]:8087", 403),
        ("file:///sandbox.test", "sandbox.test", 403),
    ],
)
@pytest.mark.asyncio
async def test_the_page_of_its_own(origin: str, host: str, status: int) -> None:
    """A page has the sandbox's origin on the usual port, by an IPv6 address, and behind a proxy that ends TLS."""
    async with Sandbox(allowed_hosts=["sandbox.test"]) as sandbox, aiohttp.ClientSession() as session:
        reply = await Caller(sandbox, session).call("POST", f"{API}/reset", headers={"Origin": origin, "Host": host})

    assert reply.status == status


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        ("Bearer wrong", 401),
        ("Bearer SCOPED", 401),
        ("Basic ???", 401),
        ("Basic /w==", 401),
        ("Bearer TOKEN", 200),
        ("Basic BASIC", 200),
    ],
)
@pytest.mark.asyncio
async def test_another_machine_needs_the_token(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, authorization: str, status: int
) -> None:
    """From another address it takes a token with every scope, as Bearer or as the password of Basic."""
    from base64 import b64encode

    from jetpay_async.sandbox import _guard

    monkeypatch.setattr(_guard, "is_loopback_peer", lambda _: False)
    token = caller.sandbox.api_token
    values = {
        "TOKEN": token,
        "SCOPED": caller.sandbox.issue_token(TokenScope.WEBHOOKS),
        "BASIC": b64encode(f"anyone:{token}".encode()).decode(),
    }
    for name, value in values.items():
        authorization = authorization.replace(name, value)

    reply = await caller.call("GET", f"{API}/state", headers={"Authorization": authorization})

    assert reply.status == status
    if status == 401:
        assert reply.headers["WWW-Authenticate"] == 'Basic realm="sandbox", charset="UTF-8"'
