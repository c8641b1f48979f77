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
    from jetpay_async import Capture, OutcomeUnknownError
    from jetpay_async._core.execution import CallObserver, Execution
    from jetpay_async._core.send_guard import SendGuard

START = 1000.0
POLICY = RetryPolicy(max_attempts=3, base_delay=1.0, max_delay=2.0, resolve_after=5.0, resolve_after_timeout=60.0)


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
        assert not body
        route = {"POST": "capture", "GET": "status", "DELETE": "cancel"}[method]
        assert DEBIT_ID in path
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
