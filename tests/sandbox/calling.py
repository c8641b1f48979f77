"""A few lines around aiohttp, so that a test reads as request and reply; no retries, no redirects, nothing clever."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import attrs
from aiohttp import web

from jetpay_async import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from io import BytesIO

    import aiohttp

    from jetpay_async.sandbox import Sandbox, SandboxPayer


@attrs.frozen
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@attrs.frozen
class Caller:
    sandbox: Sandbox
    session: aiohttp.ClientSession

    async def call(
        self,
        method: str,
        path: str,
        document: object = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | BytesIO | None = None,
    ) -> Reply:
        sent = {"Authorization": f"Bearer {token or self.sandbox.api_token}", **(headers or {})}
        if document is not None:
            data = json.dumps(document).encode()
            sent.setdefault("Content-Type", "application/json")
        url = path if path.startswith("http") else self.sandbox.url + path
        async with self.session.request(method, url, data=data, headers=sent, allow_redirects=False) as response:
            return Reply(response.status, response.headers, await response.read())

    def request(self, **changes: object) -> dict[str, object]:
        """Make the body of a preauthorization."""
        body = {"amount": 100.50, "to_bank_account_id": self.sandbox.merchant_account_id, "statement": "Deposit"}
        return {name: value for name, value in {**body, **changes}.items() if value is not ...}

    async def preauthorize(self, payer: SandboxPayer | None = None, **changes: object) -> Reply:
        payer = payer or self.sandbox.add_payer()
        path = f"/contact/{payer.contact_id}/creditcards/{payer.credit_card_id}/preauthorize"
        return await self.call("POST", path, self.request(**changes))

    async def charge(self, payer: SandboxPayer) -> Reply:
        path = f"/contact/{payer.contact_id}/creditcards/{payer.credit_card_id}/charge"
        return await self.call("POST", path, self.request())

    async def reserve(self, *, card_number: str = "4111111111111111") -> str:
        """Preauthorize and return the debit's id."""
        answer = await self.preauthorize(self.sandbox.add_payer(card_number=card_number))
        debit_id: str = answer.document["debit_id"]
        return debit_id

    async def capture(self, debit_id: str) -> Reply:
        return await self.call("POST", f"/debit/{debit_id}/capture")

    async def status(self, identifier: str) -> Reply:
        return await self.call("GET", f"/transaction/{identifier}/status")

    async def cancel(self, identifier: str) -> Reply:
        return await self.call("DELETE", f"/transaction/{identifier}")


@attrs.define
class HeldClock:
    """A clock whose sleeps last until the test lets them end."""

    slept: list[float] = attrs.field(factory=list[float])
    released: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.released.wait()

    @property
    def clock(self) -> Clock:
        return Clock(sleep=self.sleep)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what is bound to happen."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@attrs.frozen
class Received:
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def event_ids(self) -> list[int]:
        return [event["id"] for event in self.document["events"]]


@attrs.define
class Receiver:
    """A webhook receiver; `answers` are the statuses of its next replies, 204 once they are used up.

    A silent one takes what comes and does not answer until it is silent no more.
    """

    url: str = ""
    received: list[Received] = attrs.field(factory=list[Received])
    answers: list[int] = attrs.field(factory=list[int])
    silent: bool = False

    @property
    def event_ids(self) -> list[list[int]]:
        return [each.event_ids for each in self.received]

    async def receive(self, request: web.Request) -> web.Response:
        self.received.append(Received(request.headers.copy(), await request.read()))
        while self.silent:
            await asyncio.sleep(0.001)
        status = self.answers.pop(0) if self.answers else 204
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else None)
