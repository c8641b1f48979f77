"""A Jetpay in the test's own process that makes payments as it is told, and does not protect itself."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import attrs

from jetpay_async import JetpayClient, RetryPolicy

FAST = RetryPolicy(max_attempts=3, base_delay=0.005, max_delay=0.01, resolve_after=0.02, resolve_after_timeout=0.02)

Reply = tuple[int, object]
MAKE = "make"
"""Make the payment, and say so."""
LOSE = "lose"
"""Hang up, and do nothing."""
LOSE_AFTERWARDS = "lose afterwards"
"""Make the payment, and hang up."""
WAIT = "wait"
"""Make the payment when `PaymentService.go` is set."""
HANG = "hang"
"""Make the payment, and never say so."""

REQUEST: dict[str, Any] = {
    "contact_id": "contact_1",
    "credit_card_id": "card_1",
    "amount": "100.50",
    "to_bank_account_id": "account_1",
    "statement": "booking 1",
}

CREDIT: dict[str, Any] = {
    "amount": "20",
    "from_bank_account_id": "account_1",
    "to_bank_account_id": "account_2",
    "contact_id": "contact_1",
    "statement": "refund 1",
}


@attrs.define
class PaymentService:
    """What it does with each payment, by statement, and what it did."""

    made: Counter[str] = attrs.Factory(Counter)
    requests: Counter[str] = attrs.Factory(Counter)
    """By statement; under ``"status"`` and ``"cancel"`` for those."""
    script: defaultdict[str, list[str | Reply]] = attrs.Factory(lambda: defaultdict(list))
    """What is done with the next requests of a statement, `MAKE` when it is played."""
    states: dict[str, str] = attrs.Factory(dict)
    """Of each transaction, by its id."""
    state: str | None = None
    """What new card payments are in, instead of the usual state."""
    go: asyncio.Event = attrs.Factory(asyncio.Event)
    answer_after_wait: Reply | None = None
    """What is answered after a `WAIT`, instead of making the payment."""
    arrived: asyncio.Event = attrs.Factory(asyncio.Event)
    on_cancel: list[Reply | None] = attrs.Factory(list)
    """What is answered to the next cancellations; None for the usual."""
    url: str = ""

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Self]:
        """Serve on loopback."""
        connections: set[asyncio.StreamWriter] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(writer)
            try:
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    method, target, _ = head.split(" ", 2)
                    length = next(
                        (int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0
                    )
                    body = await reader.readexactly(length)
                    reply = await self.answer(method, target, body)
                    if reply is None:
                        break
                    document = json.dumps(reply[1]).encode()
                    writer.write(
                        b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                        % (reply[0], len(document), document)
                    )
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()
                connections.discard(writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.go.set()
            for writer in connections:
                writer.transport.abort()
            await asyncio.sleep(0)

    async def answer(self, method: str, target: str, body: bytes) -> Reply | None:
        parts = target.strip("/").split("/")
        if method == "GET":
            self.requests["status"] += 1
            state = self.states.get(parts[1])
            return (404, {"detail": "no such transaction"}) if state is None else (200, {"state": state})
        if method == "DELETE":
            self.requests["cancel"] += 1
            if self.on_cancel and (said := self.on_cancel.pop(0)) is not None:
                return said
            self.states[parts[1]] = "cancelled"
            return 200, {"ok": True}
        return await self.pay(method, parts, json.loads(body))

    async def pay(self, method: str, parts: list[str], asked: dict[str, Any]) -> Reply | None:
        statement = asked["statement"]
        self.requests[statement] += 1
        self.arrived.set()
        act = self.script[statement].pop(0) if self.script[statement] else MAKE
        if act == WAIT:
            await self.go.wait()
            if self.answer_after_wait is not None:
                return self.answer_after_wait
        if isinstance(act, tuple):
            return act
        if act == LOSE:
            return None
        self.made[statement] += 1
        if method == "PUT":
            identifier = f"credit_{len(self.states)}"
            self.states[identifier] = "processing"
            reply = (201, {"identifier": identifier, "link": "https://pay.example/x"})
        else:
            identifier = f"debit_{len(self.states)}"
            state = self.state or ("paid" if parts[-1] == "charge" else "preauthorized")
            self.states[identifier] = state
            reply = (
                200,
                {
                    **asked,
                    "debit_id": identifier,
                    "contact_id": parts[1],
                    "from_credit_card_id": parts[3],
                    "transaction_state": state,
                },
            )
        if act == HANG:
            await self.go.wait()
        return None if act in {LOSE_AFTERWARDS, HANG} else reply


@asynccontextmanager
async def serving(
    *, timeout: float = 20.0, retry: RetryPolicy = FAST
) -> AsyncIterator[tuple[PaymentService, JetpayClient]]:
    """A service and a client to it."""
    async with (
        PaymentService().listen() as service,
        JetpayClient("token-that-must-not-show", base_url=service.url, timeout=timeout, retry=retry) as client,
    ):
        yield service, client
