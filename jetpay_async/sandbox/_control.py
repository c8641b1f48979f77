"""Control over HTTP, under ``/_sandbox/api/``: for tests in other languages, and for the page.

Every route is an entry of one table, from which its OpenAPI document is made, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from aiohttp import web

from jetpay_async._core import json
from jetpay_async.models import TransactionState
from jetpay_async.sandbox import _documents, _responses
from jetpay_async.sandbox._faults import ROUTES
from jetpay_async.sandbox._guard import guard
from jetpay_async.sandbox._limits import MOST_SECONDS_AHEAD, check_number
from jetpay_async.sandbox._openapi import ANY, DescribedOperation, Fields, describe

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue
    from jetpay_async.sandbox._faults import Faults
    from jetpay_async.sandbox._parts import Parts
    from jetpay_async.sandbox._responses import SandboxResponse
    from jetpay_async.sandbox._state import SandboxEvent, Transaction
    from jetpay_async.sandbox._webhooks import WebhookRegistration

__all__ = ["CONTROL_API", "Control", "Controlled"]

CONTROL_API = "/_sandbox/api"

_LIMIT = 100

_STATE_FIELDS: Fields = {
    "url": str,
    "public_url": str,
    "merchant_account_id": str,
    "debits": int,
    "captures": int,
    "captured_twice": list[str],
    "requests": int,
    "events": int,
    "deliveries": int,
    "deliveries_paused": bool,
    "webhooks": list[dict[str, Any]],
    "clock": str,
}
_ACTIVE_FIELDS: Fields = {"number": int, "left": int | None, "fault": dict[str, Any]}
_FAULTS_FIELDS: Fields = {"seed": str, "injected": dict[str, int], "faults": list[dict[str, Any]]}
_PAYER_IDS: Fields = {"contact_id": str, "credit_card_id": str}
_DEBIT_FIELDS: Fields = {
    "debit_id": str,
    "amount": float,
    "statement": str,
    "state": str,
    "contact_id": str,
    "credit_card_id": str | None,
    "captures": int,
    "fail_reason": str | None,
    "fail_direction": str | None,
}
_NEW_STATE: Fields = {"state": str, "fail_reason": str | None, "fail_direction": str | None}
_CLOCK_FIELDS: Fields = {"time": str, "ahead_seconds": float}
_DONE: Fields = {"ok": bool}


class ControlledPayer(Protocol):
    """A payer of a sandbox."""

    @property
    def contact_id(self) -> str:
        """The contact's id."""
        ...

    @property
    def credit_card_id(self) -> str:
        """The card's id."""
        ...


class Controlled(Protocol):
    """What is controlled: a sandbox."""

    merchant_account_id: str

    @property
    def url(self) -> str:
        """Where it listens."""
        ...

    @property
    def public_url(self) -> str:
        """The URL in links."""
        ...

    @property
    def debits(self) -> tuple[Transaction, ...]:
        """Every debit."""
        ...

    def debit(self, debit_id: str) -> Transaction:
        """Return a debit."""
        ...

    def add_payer(
        self,
        *,
        card_number: str = ...,
        contact_id: str | None = ...,
        credit_card_id: str | None = ...,
        email: str = ...,
        name: str = ...,
    ) -> ControlledPayer:
        """Create a contact with a card."""
        ...

    def set_state(
        self,
        identifier: str,
        state: TransactionState | str,
        *,
        fail_reason: str | None = None,
        fail_direction: str | None = None,
    ) -> Transaction:
        """Put a transaction into a state."""
        ...

    async def drain_deliveries(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - the sandbox's
        """Deliver every event."""
        ...

    def reset(self) -> None:
        """Go back to the start."""
        ...

    def snapshot(self) -> dict[str, JSONValue]:
        """Return the whole state."""
        ...

    def restore(self, snapshot: Mapping[str, JSONValue]) -> None:
        """Put back a state."""
        ...


@attrs.frozen
class _Received:
    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Mapping[str, Any]


_Respond = Callable[[_Received], "JSONValue | Awaitable[JSONValue]"]


class Control:
    """The control API of one sandbox.

    Args:
        sandbox: What is controlled.
        parts: Its parts.
    """

    def __init__(self, sandbox: Controlled, parts: Parts) -> None:
        self._sandbox = sandbox
        self._parts = parts
        self._routes = self._table()
        self._document = describe(
            title="Control of the Jetpay sandbox",
            summary="Faults, states, payers, deliveries, clock, keys, reset and snapshots of a running sandbox.",
            operations=[operation for operation, _ in self._routes],
        )

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes to an application's."""
        router.add_get(f"{CONTROL_API}/openapi.json", self._handler(None, lambda _: self._document))
        for operation, respond in self._routes:
            router.add_route(operation.method, operation.path, self._handler(operation, respond))

    def _handler(
        self, operation: DescribedOperation | None, respond: _Respond
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            reply = guard(request, self._parts.api.tokens) or await self._answer(operation, respond, request)
            return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

        return handle

    async def _answer(
        self, operation: DescribedOperation | None, respond: _Respond, request: web.Request
    ) -> SandboxResponse:
        try:
            received = await _receive(operation, request)
            document = respond(received)
            if inspect.isawaitable(document):
                document = await document
        except KeyError as error:
            return _responses.json(404, {"detail": f"there is no {error.args[0]}"})
        except web.HTTPUnsupportedMediaType as error:
            return _responses.json(415, {"detail": error.text})
        except (ValueError, RuntimeError) as error:
            return _responses.json(422, {"detail": str(error.args[0])})
        except TimeoutError:
            return _responses.json(504, {"detail": "events are left: a receiver did not accept them in time"})
        return _responses.json(operation.status if operation else 200, document)

    def _table(self) -> Sequence[tuple[DescribedOperation, _Respond]]:
        return (
            (_get("/state", "The counters, and what is set", reply=_STATE_FIELDS), self._state),
            *self._fault_routes("/faults", self._parts.faults, _documents.FAULT_FIELDS, _documents.fault),
            *self._fault_routes(
                "/delivery_faults",
                self._parts.delivery_faults,
                _documents.DELIVERY_FAULT_FIELDS,
                _documents.delivery_fault,
            ),
            (_get("/payers", "The contacts with their cards", items=_PAYER_IDS), self._payers),
            (
                _post(
                    "/payers", "Add a contact with a card", body=_documents.PAYER_FIELDS, reply=_PAYER_IDS, status=201
                ),
                self._add_payer,
            ),
            (
                _get(
                    "/debits", "The newest debits", query={"state": str, "limit": _documents.COUNT}, items=_DEBIT_FIELDS
                ),
                self._debits,
            ),
            (_get("/debits/{debit_id}", "A debit", reply=_DEBIT_FIELDS), self._debit),
            (
                DescribedOperation(
                    method="PUT",
                    path=f"{CONTROL_API}/debits/{{debit_id}}/state",
                    summary="Put a debit into a state, as banks do, and make the event",
                    body=_NEW_STATE,
                    required=["state"],
                    reply=_DEBIT_FIELDS,
                ),
                self._set_state,
            ),
            (
                _get(
                    "/requests",
                    "The newest requests",
                    query={"route": _documents.ROUTE, "limit": _documents.COUNT},
                    items=ANY,
                ),
                self._requests,
            ),
            (
                _get(
                    "/events",
                    "The events from an id on",
                    query={"since": _documents.COUNT, "limit": _documents.COUNT},
                    items=ANY,
                ),
                self._events,
            ),
            (
                _get("/deliveries", "The newest attempts at deliveries", query={"limit": _documents.COUNT}, items=ANY),
                self._deliveries,
            ),
            (
                _post(
                    "/deliveries/redeliver",
                    "Deliver again from an event on, the last delivered one if left out, to every webhook",
                    body={"from_event_id": int},
                ),
                self._redeliver,
            ),
            (
                _post("/deliveries/drain", "Deliver every event without waiting for batches", body={"timeout": float}),
                self._drain,
            ),
            (
                DescribedOperation(
                    method="PUT",
                    path=f"{CONTROL_API}/deliveries/paused",
                    summary="Begin no further delivery, or go on",
                    body={"paused": bool},
                    required=["paused"],
                    reply=_DONE,
                ),
                self._pause,
            ),
            (_get("/clock", "The sandbox's time", reply=_CLOCK_FIELDS), self._clock),
            (
                _post(
                    "/clock/advance",
                    "Put the clock forward: what waits by it comes so much earlier",
                    body={"seconds": _documents.SECONDS},
                    required=["seconds"],
                    reply=_CLOCK_FIELDS,
                ),
                self._advance,
            ),
            (_get("/keys", "The published keys of deliveries", reply={"keys": list[dict[str, str]]}), self._keys),
            (
                _post(
                    "/keys/rotate",
                    "Sign with a new key from now on",
                    body={"keep_old": bool},
                    reply={"keys": list[dict[str, str]]},
                ),
                self._rotate,
            ),
            (_post("/reset", "Go back to the start; tokens and keys stay"), self._reset),
            (
                _get("/snapshot", "The whole state, with the tokens and private keys", reply=ANY),
                lambda _: self._sandbox.snapshot(),
            ),
            (_post("/restore", "Put back a state that /snapshot returned", body=ANY), self._restore),
        )

    def _fault_routes(
        self, path: str, faults: Faults[Any], fields: Fields, read: Callable[[object], Any]
    ) -> Sequence[tuple[DescribedOperation, _Respond]]:
        what = "requests" if path == "/faults" else "deliveries"

        def add(received: _Received) -> JSONValue:
            (number,) = faults.add(read(received.body))
            self._parts.journal.touch()
            return next(_active(each) for each in faults.active if each.number == number)

        def remove(received: _Received) -> JSONValue:
            number = received.path["number"]
            try:
                faults.remove(int(number))
            except (ValueError, KeyError):
                raise KeyError(f"active fault with the number {number}") from None
            self._parts.journal.touch()
            return {"ok": True}

        def clear(_: _Received) -> JSONValue:
            faults.clear()
            self._parts.journal.touch()
            return {"ok": True}

        def reseed(received: _Received) -> JSONValue:
            faults.reseed(received.body["seed"])
            return {"ok": True}

        def list_all(_: _Received) -> JSONValue:
            return {
                "seed": faults.seed,
                "injected": dict(faults.injected),
                "faults": [_active(each) for each in faults.active],
            }

        one = f"{CONTROL_API}{path}/{{number}}"
        return (
            (_get(path, f"The faults of {what}, and how often each kind was injected", reply=_FAULTS_FIELDS), list_all),
            (
                _post(path, f"Add a fault of {what}", body=fields, required=["kind"], reply=_ACTIVE_FIELDS, status=201),
                add,
            ),
            (
                DescribedOperation(
                    method="DELETE", path=f"{CONTROL_API}{path}", summary=f"Remove all faults of {what}"
                ),
                clear,
            ),
            (DescribedOperation(method="DELETE", path=one, summary=f"Remove a fault of {what}"), remove),
            (
                DescribedOperation(
                    method="PUT",
                    path=f"{CONTROL_API}{path}/seed",
                    summary=f"Draw the random numbers of the faults of {what} from another seed",
                    body={"seed": str},
                    required=["seed"],
                ),
                reseed,
            ),
        )

    def _state(self, _: _Received) -> JSONValue:
        parts, sandbox = self._parts, self._sandbox
        return {
            "url": sandbox.url,
            "public_url": sandbox.public_url,
            "merchant_account_id": sandbox.merchant_account_id,
            "debits": len(sandbox.debits),
            "captures": sum(debit.captures for debit in sandbox.debits),
            "captured_twice": list(parts.account.captured_twice),
            "requests": parts.journal.total,
            "events": parts.account.events.last_id,
            "deliveries": len(parts.deliveries.attempts),
            "deliveries_paused": parts.deliveries.paused,
            "webhooks": [self._webhook(webhook) for webhook in parts.webhooks],
            "clock": _documents.moment(parts.clock.clock.time()),
        }

    def _webhook(self, webhook: WebhookRegistration) -> dict[str, JSONValue]:
        return {
            "identifier": webhook.identifier,
            "callback_url": webhook.callback_url,
            "state": webhook.state.value,
            "last_sent_event_id": webhook.last_sent_event_id,
            "pending": max(0, self._parts.account.events.last_id - webhook.next_event_id + 1),
        }

    def _payers(self, _: _Received) -> JSONValue:
        cards = self._parts.account.credit_cards.values()
        return [{"contact_id": card.contact_id, "credit_card_id": card.identifier} for card in cards]

    def _add_payer(self, received: _Received) -> JSONValue:
        payer = self._sandbox.add_payer(**received.body)
        self._parts.journal.touch()
        return {"contact_id": payer.contact_id, "credit_card_id": payer.credit_card_id}

    def _debits(self, received: _Received) -> JSONValue:
        state, limit = received.query.get("state"), received.query.get("limit", _LIMIT)
        known = {*TransactionState, *(debit.state for debit in self._sandbox.debits)}
        if state is not None and state not in known:
            raise ValueError(f"state: is not one of {', '.join(sorted(known))}")
        debits = [debit for debit in self._sandbox.debits if state in {None, debit.state.value}]
        return [_debit(debit) for debit in reversed(debits[-limit:])]

    def _debit(self, received: _Received) -> JSONValue:
        return _debit(self._find(received.path["debit_id"]))

    def _find(self, debit_id: str) -> Transaction:
        try:
            return self._sandbox.debit(debit_id)
        except KeyError:
            raise KeyError(f"debit with the id {debit_id}") from None

    def _set_state(self, received: _Received) -> JSONValue:
        debit = self._find(received.path["debit_id"])
        return _debit(self._sandbox.set_state(debit.identifier, **received.body))

    def _requests(self, received: _Received) -> JSONValue:
        route, limit = received.query.get("route"), received.query.get("limit", _LIMIT)
        if route is not None and route not in ROUTES:
            raise ValueError(f"route: is not one of {', '.join(ROUTES)}")
        records = [record for record in self._parts.journal.requests if route in {None, record.route}]
        return [_documents.request(record) for record in reversed(records[-limit:])]

    def _events(self, received: _Received) -> JSONValue:
        since, limit = received.query.get("since", 1), received.query.get("limit", _LIMIT)
        return [_event(event) for event in self._parts.account.events.since(since, limit)]

    def _deliveries(self, received: _Received) -> JSONValue:
        attempts = self._parts.deliveries.attempts[-received.query.get("limit", _LIMIT) :]
        return [_documents.attempt(attempt) for attempt in reversed(attempts)]

    def _redeliver(self, received: _Received) -> JSONValue:
        self._parts.webhooks.redeliver(received.body.get("from_event_id"))
        return {"ok": True}

    async def _drain(self, received: _Received) -> JSONValue:
        await self._sandbox.drain_deliveries(received.body.get("timeout", 10.0))
        return {"ok": True}

    def _pause(self, received: _Received) -> JSONValue:
        self._parts.deliveries.pause(received.body["paused"])
        return {"ok": True}

    def _clock(self, _: _Received) -> JSONValue:
        clock = self._parts.clock
        return {"time": _documents.moment(clock.clock.time()), "ahead_seconds": _documents.rounded(clock.ahead)}

    def _advance(self, received: _Received) -> JSONValue:
        seconds = received.body["seconds"]
        check_number("seconds", seconds)
        check_number(
            "seconds: with what it was put forward before", self._parts.clock.ahead + seconds, most=MOST_SECONDS_AHEAD
        )
        self._parts.clock.advance(seconds)
        self._parts.journal.touch()
        return self._clock(received)

    def _keys(self, _: _Received) -> JSONValue:
        return self._parts.keys.jwks

    def _rotate(self, received: _Received) -> JSONValue:
        self._parts.keys.rotate(keep_old=received.body.get("keep_old", True))
        self._parts.journal.touch()
        return self._parts.keys.jwks

    def _reset(self, _: _Received) -> JSONValue:
        self._sandbox.reset()
        return {"ok": True}

    def _restore(self, received: _Received) -> JSONValue:
        self._sandbox.restore(received.body)
        return {"ok": True}


# A snapshot of some hundred thousand debits.
_MOST_BYTES = 512 * 1024 * 1024


def _get(path: str, summary: str, **more: Any) -> DescribedOperation:
    return DescribedOperation(method="GET", path=f"{CONTROL_API}{path}", summary=summary, **more)


def _post(path: str, summary: str, **more: Any) -> DescribedOperation:
    return DescribedOperation(method="POST", path=f"{CONTROL_API}{path}", summary=summary, **more)


async def _receive(operation: DescribedOperation | None, request: web.Request) -> _Received:
    """Read a request's path, query and body.

    Raises:
        ValueError: One of them is not valid.
        HTTPUnsupportedMediaType: The body is not said to be JSON.
    """
    given = await (_read_large(request) if operation is not None and operation.body is ANY else request.read())
    if given and request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="the body must be JSON, and Content-Type say application/json")
    query = _documents.read_query(request.query, operation.query if operation else {})
    body: Mapping[str, Any] = {}
    if operation is not None and operation.body is not None:
        document = json.parse_object(given or b"{}")
        body = (
            document
            if operation.body is ANY
            else _documents.read_fields(document, operation.body, required=operation.required)
        )
    return _Received(request.match_info, query, body)


async def _read_large(request: web.Request) -> bytes:
    """Read the body of a snapshot, for which aiohttp's limit of a megabyte is too low."""
    parts: list[bytes] = []
    left = _MOST_BYTES
    async for part in request.content.iter_any():
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise web.HTTPRequestEntityTooLarge(max_size=_MOST_BYTES, actual_size=_MOST_BYTES - left)
    return b"".join(parts)


def _active(each: Any) -> dict[str, JSONValue]:
    return {"number": each.number, "left": each.left, "fault": _documents.document_of(each.fault)}


def _debit(debit: Transaction) -> dict[str, JSONValue]:
    return {
        "debit_id": debit.identifier,
        "amount": debit.amount,
        "statement": debit.statement,
        "state": debit.state.value,
        "contact_id": debit.contact_id,
        "credit_card_id": debit.from_credit_card_id,
        "captures": debit.captures,
        "fail_reason": debit.fail_reason,
        "fail_direction": debit.fail_direction,
    }


def _event(event: SandboxEvent) -> JSONValue:
    return event.document()
