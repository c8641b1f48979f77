"""The sandbox as it is used: a server on a real socket, and the ways to look into it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING

import attrs
from aiohttp import web
from yarl import URL

from jetpay_async._clock import SYSTEM_CLOCK, Clock
from jetpay_async.models import TransactionState
from jetpay_async.sandbox import _replies
from jetpay_async.sandbox._api import Api, Received, Route, Scope
from jetpay_async.sandbox._cards import APPROVED
from jetpay_async.sandbox._deliveries import Deliveries, DeliveryAttempt, DeliveryPolicy
from jetpay_async.sandbox._faults import ROUTES, DeliveryFault, Fault, Faults, spoil
from jetpay_async.sandbox._keys import KeyRing
from jetpay_async.sandbox._replies import Broken, Reply
from jetpay_async.sandbox._state import Account, Event, Transaction
from jetpay_async.sandbox._webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ssl import SSLContext
    from types import TracebackType
    from typing import Self

    from aiohttp.typedefs import Handler

__all__ = ["Payer", "Sandbox"]

# Closing with this option set sends RST instead of FIN.
_NO_LINGER = struct.pack("ii", 1, 0)
_NOTHING_DONE = _replies.json(200, {})
_DELIVERY = DeliveryPolicy()


@attrs.frozen(kw_only=True)
class Payer:
    """A contact with a tokenized card: what a preauthorization needs."""

    contact_id: str
    credit_card_id: str


class Sandbox:
    """The Jetpay API in miniature, over a real socket, in the caller's event loop.

    What it holds can be looked at and changed from the same process, before, while and after it runs; `stop` forgets
    nothing, and a later `start` takes the same port again.

    Args:
        host: The address to listen on.
        port: The port, 0 for a free one.
        seed: What identifiers and the faults' chance come from: the same seed and the same requests in the same order
            give the same run.
        latency: Seconds that pass before each request is worked on.
        ssl_context: To serve https.
        clock: Where time comes from: of events, of the deliveries' tokens, and of every wait.
        refuses_second_capture: Whether the service guards a captured debit with a 409. False makes it take the money
            again, which shows whether it is the client that never captures twice.
        slow_bank_seconds: When the state follows that `CardBehaviour.later` tells of.
        delivery: How webhooks are delivered; ``DeliveryPolicy(speedup=1000)`` for tests.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        latency: float = 0.0,
        ssl_context: SSLContext | None = None,
        clock: Clock = SYSTEM_CLOCK,
        refuses_second_capture: bool = True,
        slow_bank_seconds: float = 1.0,
        delivery: DeliveryPolicy = _DELIVERY,
    ) -> None:
        self._host = host
        self._port = port
        self._latency = latency
        self._ssl_context = ssl_context
        self._clock = clock
        self._slow_bank_seconds = slow_bank_seconds
        self._url = ""
        self._runner: web.AppRunner | None = None
        self._waits: set[asyncio.Future[None]] = set()
        self._banks: set[asyncio.Task[None]] = set()
        self._request_count = 0
        self._requests: Counter[tuple[str, str | None]] = Counter()
        self._account = Account(
            seed=seed, now=clock.time, defer=self._defer, refuses_second_capture=refuses_second_capture
        )
        self._keys = KeyRing()
        self._webhooks = Webhooks(self._account.new_id)
        self._api = Api(
            self._account,
            webhooks=self._webhooks,
            keys=self._keys,
            own_url=lambda: self.url,
            public_callbacks=delivery.public_callbacks,
        )
        self.faults = Faults[Fault](f"{seed}/requests")
        """The faults of requests that are switched on."""
        self.delivery_faults = Faults[DeliveryFault](f"{seed}/deliveries")
        """The faults of webhook deliveries that are switched on."""
        self._deliveries = Deliveries(
            webhooks=self._webhooks,
            events=self._account.events,
            keys=self._keys,
            clock=clock,
            policy=delivery,
            faults=self.delivery_faults,
        )
        self.api_token = self.issue_token(*Scope)
        """A token with every scope."""
        self.merchant_account_id = self.add_bank_account(title="Merchant account")
        """A bank account of the merchant, for the money to go to."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen.

        Raises:
            RuntimeError: It runs already.
            OSError: The port is taken.
        """
        if self._runner is not None:
            raise RuntimeError("the sandbox runs already")
        runner = web.AppRunner(self._application(), access_log=None, handler_cancellation=False, shutdown_timeout=0.2)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port, ssl_context=self._ssl_context, backlog=1024)
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        host, self._port = runner.addresses[0][:2]
        self._url = str(URL.build(scheme="https" if self._ssl_context else "http", host=host, port=self._port))
        self._deliveries.start()

    async def stop(self) -> None:
        """Stop listening, drop what is slow or stalled, close every connection. Harmless if it does not run.

        A slow bank that has not answered by then never will.
        """
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in runner.sites:
            await site.stop()
        for wait in self._waits:
            wait.cancel()
        if self._banks:
            await asyncio.wait(self._banks)
        await self._deliveries.stop()
        await runner.cleanup()

    @property
    def url(self) -> str:
        """The base URL, for example ``http://127.0.0.1:40123``."""
        if not self._url:
            raise RuntimeError("the sandbox has no address before its start")
        return self._url

    def issue_token(self, *scopes: Scope) -> str:
        """Make a token that may do this much; with no scope at all, nothing."""
        return self._api.issue_token(scopes)

    def revoke_token(self, token: str) -> None:
        """Make a token worthless."""
        self._api.revoke_token(token)

    def add_contact(self, *, email: str = "payer@example.com", name: str = "A Payer") -> str:
        """Create a contact and return its id."""
        return self._account.add_contact(email=email, name=name, tags=(), language="en").identifier

    def add_credit_card(self, contact_id: str, *, card_number: str = APPROVED) -> str:
        """Tokenize a card and return its id; `CARDS` tells what the number does."""
        return self._account.add_credit_card(contact_id, card_number).identifier

    def add_bank_account(self, contact_id: str | None = None, *, title: str = "Bank account") -> str:
        """Create a bank account, a contact's or (without one) the merchant's, and return its id."""
        return self._account.add_bank_account(contact_id, {"title": title}).identifier

    def add_payer(self, *, card_number: str = APPROVED) -> Payer:
        """Create a contact with a tokenized card; `CARDS` tells what the number does."""
        contact_id = self.add_contact()
        return Payer(contact_id=contact_id, credit_card_id=self.add_credit_card(contact_id, card_number=card_number))

    def debit(self, debit_id: str) -> Transaction:
        """Look at a debit.

        Raises:
            KeyError: There is none.
        """
        transaction = self._account.transactions[debit_id]
        if transaction.kind != "debit":
            raise KeyError(debit_id)
        return transaction

    @property
    def debits(self) -> tuple[Transaction, ...]:
        """Every debit, in the order of creation."""
        return tuple(each for each in self._account.transactions.values() if each.kind == "debit")

    @property
    def credits(self) -> tuple[Transaction, ...]:
        """Every credit, in the order of creation."""
        return tuple(each for each in self._account.transactions.values() if each.kind == "credit")

    @property
    def captured_twice(self) -> tuple[str, ...]:
        """The ids of the debits whose money was taken more than once. Must be empty, always."""
        return tuple(self._account.captured_twice)

    @property
    def events(self) -> Sequence[Event]:
        """Every event, in the order of their ids."""
        return tuple(self._account.events.since(1))

    def set_state(
        self,
        identifier: str,
        state: TransactionState | str,
        *,
        fail_reason: str | None = None,
        fail_direction: str | None = None,
    ) -> Transaction:
        """Put a transaction into a state, as banks do on their own, and make the event. Any string is a state."""
        return self._account.move(
            identifier, TransactionState(state), fail_reason=fail_reason, fail_direction=fail_direction
        )

    def add_webhook(
        self,
        callback_url: str,
        *,
        callback_api_key: str | None = None,
        max_batch_size: int = 10,
        max_wait_seconds: int = 60,
    ) -> str:
        """Register a webhook, as ``POST /webhooks/`` does, for events from now on; return its ``identifier``."""
        webhook = self._webhooks.add(callback_url, next_event_id=self._account.events.last_id + 1)
        webhook.callback_api_key = callback_api_key
        webhook.max_batch_size = max_batch_size
        webhook.max_wait_seconds = max_wait_seconds
        self._webhooks.restart(webhook)
        return webhook.identifier

    @property
    def deliveries(self) -> tuple[DeliveryAttempt, ...]:
        """Every attempt at a delivery that has ended, in that order."""
        return tuple(self._deliveries.attempts)

    async def drain_deliveries(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - no scope to cancel, a limit
        """Deliver what there is without waiting for batches to fill, until all is accepted or given up.

        Retries keep their backoff, which `DeliveryPolicy.speedup` shortens.

        Args:
            timeout: Seconds to allow for it.

        Raises:
            TimeoutError: There is still something left.
            RuntimeError: The sandbox does not run.
        """
        await self._deliveries.drain(timeout)

    @property
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The JWK Set that ``GET /.well-known/jwks.json`` answers with."""
        return self._keys.jwks

    def rotate_key(self, *, keep_old: bool = True) -> None:
        """Sign deliveries with a new key from now on.

        Args:
            keep_old: Whether the JWK Set still holds the older keys.
        """
        self._keys.rotate(keep_old=keep_old)

    def requests(self, route: str | None = None, identifier: str | None = None) -> int:
        """Tell how many requests have arrived whole.

        Args:
            route: Its name, for example ``"capture"``; None for all requests, also those to no route.
            identifier: Only those with this id in their path.

        Raises:
            ValueError: There is no such route.
        """
        if route is not None and route not in ROUTES:
            raise ValueError(f"no route is called {route!r}; there are {', '.join(ROUTES)}")
        return self._request_count if route is None else self._requests[route, identifier]

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._answer_strays])
        for route in self._api.routes():
            application.router.add_route(route.method, route.path, self._handler(route))
        return application

    def _handler(self, route: Route) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            return await self._serve(route, request)

        return serve

    async def _serve(self, route: Route, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read() if request.body_exists else b""
        except ConnectionError:
            return _end(request, Broken())
        identifiers = tuple(request.match_info.values())
        request_id = self._count((route.name, None), *((route.name, identifier) for identifier in identifiers))
        if self._latency:
            await self._wait(self._latency)
        fault = self.faults.strike(lambda fault: fault.fits(route.name, identifiers))
        before, after = (None, fault) if fault and fault.kind.after_work else (fault, None)

        if before is not None:
            spoilt = await self._spoil(before, _NOTHING_DONE, request)
            if spoilt is not _NOTHING_DONE:
                return _send(request, spoilt, request_id)
        authorization = request.headers.get("Authorization", "")
        reply = self._api.answer(route, authorization, Received(identifiers, body, request.content_type))
        return _send(request, await self._spoil(after, reply, request) if after else reply, request_id)

    async def _spoil(self, fault: Fault, reply: Reply, request: web.Request) -> Reply | Broken:
        match fault.kind.effect:
            case "slow":
                await self._wait(fault.seconds)
            case "stall":
                await self._wait(None)
            case _:
                return spoil(fault, reply, request.path_qs)
        return reply

    async def _wait(self, seconds: float | None) -> None:
        """Wait so long, or for ever; `stop` ends it by cancellation, and nothing more is done for that request."""
        wait: asyncio.Future[None]
        if seconds is None:
            wait = asyncio.get_running_loop().create_future()
        else:
            wait = asyncio.ensure_future(self._clock.sleep(seconds))
        self._waits.add(wait)
        try:
            await wait
        finally:
            self._waits.discard(wait)

    @web.middleware
    async def _answer_strays(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Say in FastAPI's words what aiohttp says in its own: no such path, method not allowed, body too large."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            allow = error.headers.get("Allow")
            reply = _replies.json(error.status, {"detail": error.reason}, {"Allow": allow} if allow else None)
            return _send(request, reply, self._count())

    def _count(self, *keys: tuple[str, str | None]) -> str:
        """Count a request in and make its id."""
        self._request_count += 1
        for key in keys:
            self._requests[key] += 1
        return f"req_{self._request_count:08}"

    def _defer(self, follow: Callable[[], object]) -> None:
        async def bank() -> None:
            await self._wait(self._slow_bank_seconds)
            follow()

        task = asyncio.create_task(bank())
        self._banks.add(task)
        task.add_done_callback(self._banks.discard)


def _send(request: web.Request, reply: Reply | Broken, request_id: str) -> web.StreamResponse:
    if isinstance(reply, Broken):
        return _end(request, reply)
    return web.Response(status=reply.status, body=reply.body, headers={**reply.headers, "x-request-id": request_id})


def _end(request: web.Request, broken: Broken) -> web.StreamResponse:
    """End the connection. The response is for aiohttp, which finds that it can't be sent any more."""
    transport = request.transport
    if transport is not None:
        if broken.sent:
            transport.write(broken.sent)
        if broken.reset:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            transport.abort()
        else:
            transport.close()
    return web.Response()
