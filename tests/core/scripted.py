"""A transport without sockets and a clock without waiting: every schedule of the executor, in no time.

Each route has a script, a list of acts; when it is played, the route behaves as the guide says. An act decides whether
the request leaves, and what comes back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from multidict import CIMultiDict

from jetpay_async import RetryPolicy
from jetpay_async._core import operations
from jetpay_async._core.clock import Clock
from jetpay_async._core.execution import Options
from jetpay_async._core.executor import CallExecutor
from jetpay_async._core.http import RawResponse, ResolveBound
from jetpay_async._core.responses import Unanswered
from tests.loopback import DEBIT_ID

if TYPE_CHECKING:
    from jetpay_async import Capture, OutcomeUnknownError, Preauthorization
    from jetpay_async._core.execution import CallObserver, Execution
    from jetpay_async._core.operations import Call
    from jetpay_async._core.send_guard import SendGuard

START = 1000.0
PREAUTHORIZED = {
    "debit_id": DEBIT_ID,
    "amount": 100.50,
    "statement": "Test statement",
    "to_bank_account_id": "bank_789",
    "contact_id": "contact_123",
    "from_credit_card_id": "cc_456",
    "transaction_state": "preauthorized",
}
POLICY = RetryPolicy(max_attempts=3, base_delay=1.0, max_delay=2.0, resolve_after=5.0, resolve_after_timeout=60.0)
CAREFUL = attrs.evolve(POLICY, resend_rate_limited=False)


@attrs.define
class Sent:
    """One request, and when it left."""

    route: str
    at: float
    within: float


@attrs.define
class ScriptedService:
    """Stands for the network and the service behind it."""

    state: str = "preauthorized"
    now: float = START
    scripts: dict[str, list[Act]] = attrs.Factory(dict)
    sent: list[Sent] = attrs.Factory(list)
    captures: int = 0
    token_changes: bool = False
    unreachable: bool = False
    """Whether nothing leaves."""
    slept: list[float] = attrs.Factory(list)

    @property
    def clock(self) -> Clock:
        """Its time passes while somebody sleeps."""
        return Clock(monotonic=lambda: self.now, time=lambda: self.now, sleep=self._sleep, random=lambda: 0.5)

    def count(self, route: str) -> int:
        """How many requests for this operation left."""
        return sum(sent.route == route for sent in self.sent)

    async def exchange(
        self, method: str, path: str, body: bytes, guard: SendGuard | None, *, within: float
    ) -> RawResponse:
        """Let the request leave, and play the next act of its script."""
        route = {"POST": "preauthorize" if body else "capture", "GET": "status", "DELETE": "cancel"}[method]
        assert body or DEBIT_ID in path
        if self.unreachable:
            raise Unanswered("no connection", started=False)
        if guard is not None:
            guard.begin(None)
        self.sent.append(Sent(route, self.now, within))
        script = self.scripts.get(route)
        act = script.pop(0) if script else behave
        response = act(self, self.sent[-1])
        if guard is not None:
            guard.complete()
        return response

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


Act = Callable[[ScriptedService, Sent], RawResponse]


def response(status: int, document: object, *, left_at: float | None = START, age: float = 0.0) -> RawResponse:
    """Make a response."""
    return RawResponse(status, CIMultiDict(), json.dumps(document).encode(), left_at=left_at, age=age, direct=True)


def answer(status: int, document: object) -> Act:
    """Answer so, on a request that left."""
    return lambda _, sent: response(status, document, left_at=sent.at)


def says(state: str, *, age: float = 0.0) -> Act:
    """Answer a status read."""
    return lambda _, sent: response(200, {"state": state}, left_at=sent.at, age=age)


def from_memory(state: str) -> Act:
    """Answer a status read that never leaves."""
    return lambda _, __: response(200, {"state": state}, left_at=None)


def behave(service: ScriptedService, sent: Sent) -> RawResponse:
    """Do what the guide says."""
    if sent.route == "status":
        return says(service.state)(service, sent)
    if sent.route == "cancel":
        service.state = "cancelled"
        return response(200, {"ok": True})
    if sent.route == "preauthorize":
        return response(200, PREAUTHORIZED)
    service.captures += 1
    service.state = "paid"
    return response(200, {"identifier": DEBIT_ID, "state": "paid"})


def lost(bound: ResolveBound = ResolveBound.TIMEOUT, *, seconds: float = 0.0, works: bool = False) -> Act:
    """Lose the response after so many seconds."""

    def act(service: ScriptedService, sent: Sent) -> RawResponse:
        if works:
            behave(service, sent)
        service.now += seconds
        raise Unanswered("connection lost", started=True, bound=bound)

    return act


def executor(
    service: ScriptedService, unknown: list[OutcomeUnknownError] | None = None, observer: CallObserver | None = None
) -> CallExecutor:
    """Make an executor on this service."""
    return CallExecutor(service, service.clock, None if unknown is None else unknown.append, observer)


def begin(
    executor: CallExecutor, *, timeout: float = 100.0, retry: RetryPolicy = POLICY, wait_until_final: bool = False
) -> Execution[Capture]:
    """Begin a capture."""
    return executor.begin(operations.capture(DEBIT_ID), Options(timeout, retry), wait_until_final=wait_until_final)


def preauthorization() -> Call[Preauthorization]:
    """Make the call of the guide's preauthorization."""
    return operations.preauthorize(
        contact_id="contact_123",
        credit_card_id="cc_456",
        amount="100.50",
        to_bank_account_id="bank_789",
        statement="Test statement",
    )
