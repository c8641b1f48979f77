"""The service and its network, scripted by chance, and never worse than the bounds that the documentation states.

The bounds:

- A capture whose request is lost is processed, if at all, before its bound has passed: `RetryPolicy.resolve_after` from
  when the other side lost a direct connection or answered 500 or 503 itself, `RetryPolicy.resolve_after_timeout` from
  any other end of the request on this side.
- From then on a status that is read is the truth. Before, it may be as old as `LAG_SECONDS`, come from a cache (without
  having left, or with an ``Age``), or not come at all.
- A status that went beyond ``preauthorized`` may go back to it, at any time, for a process that has seen it go.

The service does not protect itself: a second capture of a debit takes the money a second time. Only a transaction that
has failed is over.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs
from multidict import CIMultiDict

from jetpay_async._core.http import RawResponse, ResolveBound
from jetpay_async._core.responses import Unanswered

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from jetpay_async import RetryPolicy
    from jetpay_async._core.send_guard import SendGuard
    from tests.simulation.loop import VirtualTimeLoop

LAG_SECONDS = 2.0
"""How old a status may be at most."""

Ending: TypeAlias = Literal["reset", "silence", "500", "502", "503 page", "408", "425", "499", "cut"]
"""How a request ends that gets no usable answer."""

ENDINGS: tuple[Ending, ...] = ("reset", "silence", "500", "502", "503 page", "408", "425", "499", "cut")

_DIRECT: frozenset[Ending] = frozenset({"reset", "500"})
_STATUS_OF: dict[Ending, int] = {"500": 500, "502": 502, "503 page": 503, "408": 408, "425": 425, "499": 499}
_PAGES: frozenset[Ending] = frozenset({"502", "503 page"})


@attrs.define
class Likelihoods:
    """How likely each thing is, in each request."""

    not_sent: float = 0.05
    lost: float = 0.45
    """The answer does not come."""
    worked_on: float = 0.6
    """A request whose answer does not come is processed all the same."""
    rejected: float = 0.08
    conflict: float = 0.5
    """A second request for a debit that is being worked on is answered 409."""
    rate_limited: float = 0.05
    accepted: float = 0.25
    """A capture is answered ``processing``, and done later."""
    status_lost: float = 0.1
    status_missing: float = 0.05
    status_cached: float = 0.15
    status_backwards: float = 0.6


@attrs.define
class Debit:
    """What is so about one debit."""

    history: list[tuple[float, str]] = attrs.Factory(lambda: [(0.0, "preauthorized")])
    processed: int = 0
    working: int = 0
    """Requests that are being worked on."""
    declined: bool = False
    """It is declined whenever it is to be captured."""

    def state_at(self, time: float) -> str:
        """What a status as old as that says."""
        return next((state for since, state in reversed(self.history) if since <= time), "preauthorized")


@attrs.define(eq=False)
class Work:
    """One request that the service will process."""

    debit: Debit
    timer: asyncio.TimerHandle
    due: float
    process: Callable[[], None]


@attrs.define
class Service:
    """Debits, and what becomes of requests for them."""

    loop: VirtualTimeLoop
    chance: random.Random
    policy: RetryPolicy
    likely: Likelihoods = attrs.Factory(Likelihoods)
    debits: dict[str, Debit] = attrs.Factory(dict)
    requests: Counter[str] = attrs.Factory(Counter)
    log: list[str] = attrs.Factory(list)

    def debit(self, debit_id: str) -> Debit:
        return self.debits.setdefault(debit_id, Debit())

    def note(self, text: str) -> None:
        self.log.append(f"{self.loop.time():9.3f} {text}")

    def happens(self, likelihood: float) -> bool:
        return self.chance.random() < likelihood

    def begin_work(self, debit_id: str, after: float, *, accepted: bool) -> Work:
        """Process a capture in some seconds."""
        debit = self.debit(debit_id)

        def process() -> None:
            debit.processed += 1
            debit.working -= 1
            self.note(f"PROCESSED {debit_id} ({debit.processed})")
            now = self.loop.time()
            if not accepted:
                debit.history.append((now, "paid"))
                return
            debit.history.append((now, "processing"))
            later = self.chance.uniform(0.1, 30.0)
            ends = "failed" if self.happens(0.3) else "paid"
            self.loop.call_later(later, lambda: debit.history.append((self.loop.time(), ends)))

        debit.working += 1
        due = self.loop.time() + after
        return Work(debit, self.loop.call_at(due, process), due, process)

    def bound_work(self, work: Work | None, bound: ResolveBound) -> None:
        """Let what is given up now be processed before the bound has passed, and be seen by then."""
        if work is None:
            return
        policy = self.policy
        seconds = policy.resolve_after if bound is ResolveBound.DIRECT else policy.resolve_after_timeout
        latest = self.loop.time() + max(0.0, seconds - LAG_SECONDS - 0.001)
        if work.due > latest:
            work.timer.cancel()
            work.due = latest
            work.timer = self.loop.call_at(latest, work.process)


@attrs.define(eq=False)
class Network:
    """What a client sends requests by: a transport without sockets.

    One for each process; a process that was killed sends nothing more and hears nothing more.
    """

    service: Service
    name: str = "process"
    dead: bool = False
    seen: set[str] = attrs.Factory(set)
    """Debits whose status this process has seen beyond ``preauthorized``."""
    works: dict[Work, None] = attrs.Factory(dict)

    def kill(self) -> None:
        """End the process: its connections are reset."""
        self.dead = True
        for work in self.works:
            self.service.bound_work(work, ResolveBound.TIMEOUT)

    async def exchange(
        self, method: str, path: str, body: bytes, guard: SendGuard | None, *, within: float
    ) -> RawResponse:
        """Send one request; see `jetpay_async._core.transport.Transport.exchange`."""
        del body
        await self._alive()
        if within <= 0:
            raise Unanswered("the deadline had passed before anything was sent", started=False)
        parts = path.strip("/").split("/")
        if method == "GET":
            return await self._read_status(parts[1], within)
        assert guard is not None
        return await self._capture(parts[1], guard, within)

    async def _alive(self) -> None:
        if self.dead:
            await self.service.loop.never()

    async def _pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._alive()

    async def _read_status(self, debit_id: str, within: float) -> RawResponse:
        service, likely, chance = self.service, self.service.likely, self.service.chance
        debit = service.debit(debit_id)
        asked_at = service.loop.time()
        cached = service.happens(likely.status_cached)
        kept_away = cached and service.happens(0.5)
        drawn = chance.random()
        delay = chance.uniform(0.01, 0.3)
        if drawn < likely.status_lost:
            if service.happens(0.5):
                await self._pass(min(within, delay))
                raise Unanswered("connection lost", started=True)
            await self._pass(within)
            raise Unanswered("no answer in time", started=True)
        await self._pass(min(delay, within))
        if drawn < likely.status_lost + likely.status_missing:
            return _json(404, {"detail": "not found"}, left_at=asked_at)
        age = 0.0
        state = debit.state_at(asked_at - chance.uniform(0.0, LAG_SECONDS))
        if cached:
            age = chance.uniform(0.0, 300.0)
            state = debit.state_at(asked_at - age - LAG_SECONDS)
        elif debit_id in self.seen and service.happens(likely.status_backwards):
            state = "preauthorized"
        if state != "preauthorized":
            self.seen.add(debit_id)
        service.note(f"{self.name}: status of {debit_id}: {state}{' (cached)' if cached else ''}")
        return _json(200, {"state": state}, left_at=None if kept_away else asked_at, age=age)

    async def _capture(self, debit_id: str, guard: SendGuard, within: float) -> RawResponse:
        service, likely, chance = self.service, self.service.likely, self.service.chance
        debit = service.debit(debit_id)
        await self._pass(min(within, chance.uniform(0.0, 0.05)))
        if service.happens(likely.not_sent):
            raise Unanswered("connection refused", started=False)
        try:
            guard.begin(None)
        except Exception:  # noqa: BLE001 - aiohttp makes anything of what the guard raises, too
            guard.seal()
            raise Unanswered(guard.refusal, started=False) from None
        service.requests[debit_id] += 1
        service.note(f"{self.name}: CAPTURE {debit_id}")
        allowed = min(within, guard.response_timeout)
        drawn = chance.random()
        latency = chance.choice((0.02, 0.3, 3.0, 12.0))
        if debit.state_at(service.loop.time()) == "failed":
            return await self._answer(guard, 409, {"detail": "the transaction has failed"}, 0.05, allowed, None)
        if debit.working and service.happens(likely.conflict):
            return await self._answer(guard, 409, {"detail": "a capture is in progress"}, 0.05, allowed, None)
        if debit.declined or (drawn < likely.rejected and not debit.processed and not debit.working):
            debit.declined = True
            return await self._answer(guard, 402, {"detail": "declined"}, latency, allowed, None)
        if drawn < likely.rejected + likely.rate_limited:
            return await self._answer(guard, 429, {"detail": "slow down"}, 0.05, allowed, None)
        if drawn < likely.rejected + likely.rate_limited + likely.lost:
            work = None
            if service.happens(likely.worked_on):
                accepted = service.happens(likely.accepted)
                work = service.begin_work(debit_id, chance.uniform(0.0, 100.0), accepted=accepted)
                self.works[work] = None
            return await self._lose(guard, work, chance.choice(ENDINGS), latency, allowed)
        accepted = service.happens(likely.accepted)
        work = service.begin_work(debit_id, latency * 0.9, accepted=accepted)
        self.works[work] = None
        document = {"identifier": debit_id, "state": "processing" if accepted else "paid"}
        return await self._answer(guard, 200, document, latency, allowed, work)

    async def _answer(  # noqa: PLR0917 - one call says it all
        self, guard: SendGuard, status: int, document: object, latency: float, allowed: float, work: Work | None
    ) -> RawResponse:
        try:
            await self._pass(min(latency, allowed))
        except asyncio.CancelledError:
            self.service.bound_work(work, ResolveBound.TIMEOUT)
            raise
        if latency >= allowed:
            guard.seal()
            self.service.bound_work(work, ResolveBound.TIMEOUT)
            raise Unanswered("no whole response in time", started=True)
        guard.complete()
        self.works.pop(work, None)  # type: ignore[arg-type]
        return _json(status, document)

    async def _lose(
        self, guard: SendGuard, work: Work | None, ending: Ending, latency: float, allowed: float
    ) -> RawResponse:
        bound = ResolveBound.DIRECT if ending in _DIRECT else ResolveBound.TIMEOUT
        if ending == "silence" or latency >= allowed:
            latency, bound = allowed, ResolveBound.TIMEOUT
        try:
            await self._pass(latency)
        except asyncio.CancelledError:
            self.service.bound_work(work, ResolveBound.TIMEOUT)
            raise
        self.service.note(f"{self.name}: the answer is lost: {ending}")
        self.service.bound_work(work, bound)
        if ending in _STATUS_OF and latency < allowed:
            guard.complete()
            body = b"<html>" if ending in _PAGES else json.dumps({"detail": ending}).encode()
            return RawResponse(_STATUS_OF[ending], CIMultiDict(), body, left_at=0.0, direct=True)
        guard.seal()
        raise Unanswered(ending, started=True, bound=bound)


def _json(status: int, document: object, *, left_at: float | None = 0.0, age: float = 0.0) -> RawResponse:
    body = json.dumps(document).encode()
    return RawResponse(status, CIMultiDict(), body, left_at=left_at, age=age, direct=True)
