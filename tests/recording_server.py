"""A server for batches: it knows each debit, counts what it processes, and processes a request as often as it comes."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

import attrs

from jetpay_async import JetpayClient, PreauthorizationRequest, RetryPolicy
from tests.loopback import Act, Exchange, Loopback, Request
from tests.network import FAST, TOKEN


class Always(list[Act]):
    """A script that never ends."""

    def __bool__(self) -> bool:
        return True

    def pop(self, _index: object = -1) -> Act:
        return self[0]


def opened() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@attrs.define
class RecordingServer(Loopback):
    """The server. A debit without scripted responses is captured."""

    responses: dict[str, list[Act]] = attrs.Factory(dict)
    """To the captures of a debit, one for each request."""
    held: dict[str, asyncio.Event] = attrs.Factory(dict)
    """Captures of these debits wait for their event before anything happens."""
    open: asyncio.Event = attrs.Factory(opened)
    """All captures wait for it."""
    carried_out: Counter[str] = attrs.Factory(Counter)
    """How often each debit was captured, or each contact's card charged."""
    in_flight: int = 0
    most_in_flight: int = 0
    states: defaultdict[str, str] = attrs.Factory(lambda: defaultdict(lambda: "preauthorized"))

    def __attrs_post_init__(self) -> None:
        self.scripts["capture"] = self.scripts.get("capture") or Always([self._respond])
        self.scripts["preauthorize"] = self.scripts.get("preauthorize") or Always([self._respond])

    @property
    def twice(self) -> list[str]:
        """What was carried out more than once."""
        return [name for name, times in self.carried_out.items() if times > 1]

    async def _respond(self, exchange: Exchange) -> None:
        name = exchange.request.target.split("/")[2]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.open.wait()
            if name in self.held:
                await self.held[name].wait()
            responses = self.responses.get(name)
            await (responses.pop(0)(exchange) if responses else exchange.behave())
        finally:
            self.in_flight -= 1

    def work(self, request: Request) -> None:
        """Count it, and remember the state."""
        super().work(request)
        if request.method == "POST":
            name = request.target.split("/")[2]
            self.carried_out[name] += 1
            self.states[name] = "paid"

    def answer(self, request: Request) -> dict[str, object]:
        """The guide's answer, about this very debit."""
        name = request.target.split("/")[2]
        if request.route == "status":
            return {"state": self.states[name]}
        answer = super().answer(request)
        if "debit_id" not in answer:
            return answer
        return {**answer, "debit_id": f"debit_of_{name}"}


def connect(server: Loopback, *, timeout: float = 2.0, retry: RetryPolicy = FAST) -> JetpayClient:
    return JetpayClient(TOKEN, base_url=server.url, timeout=timeout, retry=retry)


def debits(count: int) -> list[str]:
    return [f"debit_{number}" for number in range(count)]


def request(number: int) -> PreauthorizationRequest:
    return PreauthorizationRequest(
        contact_id=f"contact_{number}",
        credit_card_id="cc_456",
        amount="100.50",
        to_bank_account_id="bank_789",
        statement="Test statement",
        reference=f"order {number}",
    )


async def until(condition: object) -> None:
    """Wait until a function of no arguments says yes."""
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.001)
