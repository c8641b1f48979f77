"""Durable captures without threads, sockets or waiting: virtual time, a scripted API, and a ledger in a real file.

Everything but the network, the ledger's thread and the clock is the package's own code.
"""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import attrs
from multidict import CIMultiDict

from jetpay_async import RetryPolicy
from jetpay_async._core.clock import Clock
from jetpay_async._core.execution import Options
from jetpay_async._core.executor import CallExecutor
from jetpay_async._core.http import RawResponse, ResolveBound
from jetpay_async._core.responses import Unanswered
from jetpay_async._core.send_guard import SendGuard
from jetpay_async._core.single_flight import SingleFlight
from jetpay_async.ledger import DurableCaptures, LedgerError
from jetpay_async.ledger._backend import Backend, Connection, UnitOfWork
from jetpay_async.ledger._context import ClientContext
from tests.simulation.loop import VirtualTimeLoop, run

_T = TypeVar("_T")

EPOCH = 1_800_000_000.0

ORIGIN = "https://api.example"

POLICY = RetryPolicy(max_attempts=3, base_delay=0.5, max_delay=2.0, resolve_after=5.0, resolve_after_timeout=60.0)
TIMEOUT = 30.0
BOUND = TIMEOUT * 1.1 + 60.0
"""Seconds from an intent until no request for it can still be on its way."""


def simulate(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in virtual time."""
    return run(main, VirtualTimeLoop())


def now() -> float:
    """Seconds of virtual time."""
    return asyncio.get_running_loop().time()


async def never() -> None:
    """Wait for what never comes."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    await loop.never()


def make_clock(ahead: float = 0.0) -> Clock:
    """A clock of virtual time, whose wall clock is so many seconds ahead."""
    return Clock(monotonic=now, time=lambda: EPOCH + ahead + now(), sleep=asyncio.sleep, random=lambda: 0.5)


class DirectCommitExecutor:
    """Carries operations out in the event loop, each in a transaction of its own."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._connection: Connection | None = None
        self._dead = False

    async def open(self, *, create: bool) -> None:
        self._connection = self._backend.connect(create=create)
        raw = self._connection._connection  # type: ignore[attr-defined] # no power cut is simulated
        assert isinstance(raw, sqlite3.Connection)
        raw.execute("PRAGMA synchronous=OFF")

    async def run(self, operation: UnitOfWork[_T], *, writes: bool = True, last: bool = False) -> _T:
        if self._connection is None:
            raise LedgerError("the ledger is closed; open it again")
        await asyncio.sleep(0.001)
        connection = self._connection
        if self._dead:
            await never()
        if connection is None:
            raise LedgerError("the ledger is closed; open it again")
        connection.begin(writes=writes)
        try:
            result = operation(connection)
        except LedgerError:
            connection.commit()
            raise
        except BaseException:
            connection.rollback()
            raise
        connection.commit()
        await asyncio.sleep(0.001)
        return result

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not self._dead:
            connection.close()

    def kill(self) -> None:
        """Stop as a killed process does: nothing is carried out any more, and the kernel releases the lock."""
        self._dead = True
        assert self._connection is not None
        self._connection._lock.forget()  # type: ignore[attr-defined]
        self._connection._connection.close()  # type: ignore[attr-defined] # no transaction is open between operations


@attrs.frozen
class Act:
    """What the API does with one capture request."""

    seconds: float = 0.1
    """Until it answers, or the connection is lost."""
    works_after: float | None = 0.1
    """Until the money is taken, whoever still waits; None if it never is."""
    reply: tuple[int, object] | None = None
    """The answer; None for the usual one."""
    lost: ResolveBound | None = None
    """Whether the connection is lost instead, and what that proves."""


PAID = Act()
SILENT = Act(seconds=math.inf, works_after=None)
SILENT_BUT_WORKS = Act(seconds=math.inf)
CUT = Act(works_after=None, lost=ResolveBound.DIRECT)
CUT_AFTERWARDS = Act(lost=ResolveBound.DIRECT)


def answers(status: int, document: object = None, *, works: bool = False) -> Act:
    """Answer so."""
    return Act(reply=(status, {"detail": "no"} if document is None else document), works_after=0.1 if works else None)


def accepts(debit_id: str, state: str = "processing") -> Act:
    """Accept the capture, and take the money later, or never."""
    return Act(reply=(200, {"identifier": debit_id, "state": state}), works_after=None)


@attrs.define(eq=False)
class SimulatedApi:
    """Counts what it carries out, and protects nobody from a second request."""

    script: defaultdict[str, list[Act]] = attrs.Factory(lambda: defaultdict(list))
    """What is done with the next capture requests of a debit."""
    always: Act = PAID
    """What is done with all others."""
    states: dict[str, str | list[str] | tuple[int, object]] = attrs.Factory(dict)
    """What the status of a debit says instead of the truth; of a list, one after the other, the last one for ever."""
    lag: float = 0.0
    """Seconds by which statuses are late."""
    captures: Counter[str] = attrs.Factory(Counter)
    """How often the money of a debit was taken."""
    captured_at: dict[str, float] = attrs.Factory(dict)
    requests: Counter[str] = attrs.Factory(Counter)
    sent: list[tuple[float, str]] = attrs.Factory(list)
    """When a capture of which debit was sent."""
    status_reads: list[tuple[float, str]] = attrs.Factory(list)
    in_flight: int = 0
    token_changes: bool = False

    @property
    def captured_twice(self) -> list[str]:
        return [debit_id for debit_id, times in self.captures.items() if times > 1]

    def sent_at(self, debit_id: str) -> list[float]:
        """When the captures of a debit were sent."""
        return [at for at, sent in self.sent if sent == debit_id]

    async def exchange(
        self, method: str, path: str, body: bytes, guard: SendGuard | None, *, within: float
    ) -> RawResponse:
        debit_id = path.split("/")[2]
        left_at = now()
        if method == "GET":
            self.status_reads.append((left_at, debit_id))
            status, document = self._status(debit_id)
            await asyncio.sleep(0.05)
        else:
            assert guard is not None
            try:
                guard.begin(None)
            except Exception:  # noqa: BLE001 - as for aiohttp, whatever it is
                raise Unanswered(guard.refusal or "", started=False) from None
            status, document = await self._capture(debit_id, within * 2 / 3)
            guard.complete()
        return RawResponse(status, CIMultiDict(), json.dumps(document).encode(), left_at=left_at, direct=True)

    def _status(self, debit_id: str) -> tuple[int, object]:
        said = self.states.get(debit_id)
        if said is None:
            captured_at = self.captured_at.get(debit_id, math.inf)
            return 200, {"state": "paid" if now() >= captured_at + self.lag else "preauthorized"}
        if isinstance(said, list):
            said = said.pop(0) if len(said) > 1 else said[0]
        return (200, {"state": said}) if isinstance(said, str) else said

    async def _capture(self, debit_id: str, within: float) -> tuple[int, object]:
        self.requests[debit_id] += 1
        self.sent.append((now(), debit_id))
        script = self.script[debit_id]
        act = script.pop(0) if script else self.always
        if act.works_after is not None:
            asyncio.get_running_loop().call_later(act.works_after, self._take_money, debit_id)
        self.in_flight += 1
        try:
            await asyncio.sleep(min(act.seconds, within))
        finally:
            self.in_flight -= 1
        if act.seconds > within:
            raise Unanswered("no whole response", started=True)
        if act.lost is not None:
            raise Unanswered("connection lost", started=True, bound=act.lost)
        return (200, {"identifier": debit_id, "state": "paid"}) if act.reply is None else act.reply

    def _take_money(self, debit_id: str) -> None:
        self.captures[debit_id] += 1
        self.captured_at.setdefault(debit_id, now())


@attrs.define(eq=False)
class Process:
    """One process that captures from a ledger; it can be killed."""

    api: SimulatedApi
    path: str
    options: dict[str, Any]
    executor: DirectCommitExecutor | None = None
    killed: bool = False

    def make_captures(self) -> DurableCaptures:
        options = dict(self.options)
        clock = options.pop("clock", None) or make_clock()
        timeout, policy = options.pop("timeout", TIMEOUT), options.pop("policy", POLICY)
        executor = CallExecutor(self, clock)
        context = ClientContext(
            SingleFlight(executor),
            executor,
            Options(timeout, policy),
            clock,
            options.pop("origin", ORIGIN),
            self._make_executor,
        )
        defaults: dict[str, Any] = {
            "concurrency": 8,
            "rate": None,
            "lease_seconds": 15.0,
            "restored": False,
            "account": None,
            "accept_rejections": False,
        }
        return DurableCaptures(self.path, context, **{**defaults, **options})

    def _make_executor(self, backend: Backend) -> DirectCommitExecutor:
        executor = DirectCommitExecutor(backend)
        if self.executor is None:
            self.executor = executor
        return executor

    token_changes = False

    async def exchange(
        self, method: str, path: str, body: bytes, guard: SendGuard | None, *, within: float
    ) -> RawResponse:
        if self.killed:
            await never()
        response = await self.api.exchange(method, path, body, guard, within=within)
        if self.killed:
            await never()
        return response

    def kill(self) -> None:
        """Let it do nothing more. What it has sent is on its way all the same."""
        self.killed = True
        assert self.executor is not None
        self.executor.kill()


@attrs.define
class Scenario:
    """An API and a ledger, for as many processes as a test needs."""

    path: str
    api: SimulatedApi = attrs.Factory(SimulatedApi)

    def process(self, **options: Any) -> Process:
        """Make a process with these options of `DurableCaptures`."""
        return Process(self.api, self.path, options)

    @asynccontextmanager
    async def captures(self, **options: Any) -> AsyncIterator[DurableCaptures]:
        """Open captures, and close them afterwards."""
        async with self.process(**options).make_captures() as captures:
            yield captures

    async def run_to_be_killed(
        self, key: str, debit_ids: list[str], when: Callable[[Self], bool], **options: Any
    ) -> None:
        """Start a process on a batch, and kill it at this moment."""
        process = self.process(**options)
        captures = process.make_captures()
        await captures.__aenter__()
        await captures.submit(key, debit_ids)
        while not when(self):
            await asyncio.sleep(0.01)
        process.kill()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Read from the ledger's file."""
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


def debits(count: int) -> list[str]:
    """Some ids."""
    return [f"debit_{number}" for number in range(count)]
