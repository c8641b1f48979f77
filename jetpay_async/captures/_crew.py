"""The crew that captures what a ledger says: claims intents, sends, settles what is in doubt, writes down.

::

    claimer ──▶ queue ──▶ workers ──▶ entries ──▶ recorder
                             │                       ▲
                             ▼                       │
             keeper ──▶ doubts ──▶ settlers ─────────┘

One of each but the workers and the settlers. Data goes through once, from left to right; what is proven not captured
goes back to the ledger as pending, and comes again as any other.

Nothing is sent but within a fixed time after its intent was committed (a share of the client's timeout until it starts,
the whole of it from then on), so that a later run knows from the intent when the request can no longer be on its way.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs

from jetpay_async import _calls
from jetpay_async._brake import Brake, Lane
from jetpay_async._clock import Clock
from jetpay_async._flights import Flights
from jetpay_async._log import logger
from jetpay_async._runner import Options, Runner
from jetpay_async.captures import _book, _entries
from jetpay_async.captures._book import Claimed, Doubt, Entry, Scope
from jetpay_async.captures.errors import LedgerError
from jetpay_async.captures.records import DebitState
from jetpay_async.errors import (
    AuthenticationError,
    ConfigurationError,
    JetpayError,
    NotSentError,
    OutcomeUnknownError,
    ServiceError,
)
from jetpay_async.outcomes import Captured, NotSent, Refused, Unknown, undone

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from jetpay_async.batch import Pace
    from jetpay_async.captures._desk import Desk
    from jetpay_async.captures._lease import Lease
    from jetpay_async.outcomes import CaptureOutcome

# Seconds between two looks at what others have left, and at which doubts can be settled by now.
_LOOK = 0.5

# Seconds in which outcomes gather for one commit.
_GATHER = 0.01

# The share of the timeout that may pass between an intent and its request.
_SEND_WITHIN = 0.1

# Seconds of slots of the rate that are reserved at a time.
_SLOTS_AHEAD = 0.5

_SETTLERS = 16

# A debit whose requests are all lost, and proven so, is given up after this many of them.
_MOST_ATTEMPTS = 15

# Times that a status is looked for in vain before the outcome is written down as unknown.
_MOST_ROUNDS = 3


@attrs.frozen
class Means:
    """What of the client captures are made with."""

    flights: Flights
    runner: Runner
    options: Options
    clock: Clock


@attrs.frozen
class _Task:
    """A debit to be sent."""

    claimed: Claimed
    intended_at: float
    """Monotonic, from before its intent was committed."""


@attrs.frozen(order=True)
class _Case:
    """A debit in doubt."""

    due: float
    """When its request can no longer be on its way; monotonic."""
    doubt: Doubt = attrs.field(order=False)
    rounds: int = attrs.field(default=0, order=False)


class Crew:
    """Captures what is pending in its scopes, until it is stopped.

    Args:
        desk: The ledger's.
        lease: The owner.
        means: The client's.
        pace: Captures in flight, at most; and a second, of all owners together.
        trust_pending: Whether what the ledger says was not sent, was not.
    """

    def __init__(self, desk: Desk, lease: Lease, means: Means, pace: Pace, *, trust_pending: bool) -> None:
        self._desk = desk
        self._lease = lease
        self._means = means
        self._clock = means.clock
        self._rate = pace.rate
        self._trust_pending = trust_pending
        self._brake = Brake(pace.concurrency, rate=None, clock=means.clock)
        self._concurrency = pace.concurrency
        self._claim_size = max(1, pace.concurrency // 2)
        timeout = means.options.timeout
        self._send_within = timeout * _SEND_WITHIN
        self._settle = self._send_within + timeout + means.options.retry.settle_after
        self._scopes: list[Scope] = []
        self._queue: asyncio.Queue[_Task | None] = asyncio.Queue()
        self._ripe: asyncio.Queue[_Case] = asyncio.Queue()
        self._cases: list[_Case] = []
        self._entries: list[Entry] = []
        self._hungry = asyncio.Event()
        self._written = asyncio.Event()
        self._readers: deque[asyncio.Future[None]] = deque()
        self._stopping = False
        self._closing = False
        self._drained: asyncio.Task[None] | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._others: list[asyncio.Task[None]] = []
        self._recorder: asyncio.Task[None] | None = None
        self._claimer: asyncio.Task[None] | None = None
        self.error: Exception | None = None
        """Why it stopped, if it was not told to."""

    # --- from outside

    @property
    def done(self) -> bool:
        """Whether it has stopped, and everything is written down."""
        return self._drained is not None and self._drained.done()

    def open(self) -> None:
        """Look after the lease from now on."""
        self._others.append(asyncio.get_running_loop().create_task(self._guard(self._keep())))

    def watch(self, scope: Scope) -> None:
        """Capture what is in a scope from now on."""
        if scope not in self._scopes:
            self._scopes.append(scope)
        self._hungry.set()
        if self._claimer is None and not self._stopping:
            self._start()

    def forget(self, scope: Scope) -> None:
        """Claim nothing more from a scope."""
        with suppress(ValueError):  # another who waited for the same scope was first
            self._scopes.remove(scope)

    def stop(self, error: Exception | None = None) -> None:
        """Claim nothing more, send nothing more, and let those in flight finish.

        Args:
            error: Why, if it is not by request.
        """
        if self._stopping:
            return
        if error is not None:
            logger.warning("capturing stops: %s", error)
        self._stopping = True
        self.error = error
        self._brake.shut(NotSentError("capturing was stopped before this debit was sent"))
        self._give_back_queue()
        for _ in self._workers:
            self._queue.put_nowait(None)
        self._hungry.set()
        self._drained = asyncio.get_running_loop().create_task(self._drain())

    async def close(self) -> None:
        """Stop, and wait for those in flight.

        If the wait is cancelled, those in flight are cut off: their debits stay in doubt, and the next run settles
        them.
        """
        self.stop()
        if self._drained is None:  # pragma: no cover - stop() makes it
            raise AssertionError
        try:
            await asyncio.shield(self._drained)
        except asyncio.CancelledError:
            for worker in self._workers:
                worker.cancel()
            await self._drained
            raise

    async def news(self, within: float) -> None:
        """Wait until something was written down, or this many seconds."""
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        try:
            async with asyncio.timeout(within):
                await reader
        except TimeoutError:
            pass
        finally:
            if reader in self._readers:
                self._readers.remove(reader)

    def _start(self) -> None:
        create = asyncio.get_running_loop().create_task
        self._claimer = create(self._guard(self._claim()))
        self._recorder = create(self._record())
        self._workers = [create(self._guard(self._work())) for _ in range(self._concurrency)]
        settlers = min(_SETTLERS, self._concurrency)
        self._others.extend(create(self._guard(self._resolve())) for _ in range(settlers))

    # --- claiming

    async def _claim(self) -> None:
        while not self._stopping:
            self._hungry.clear()
            if self._queue.qsize() > self._claim_size // 2 or not await self._claim_some():
                await self._hungry.wait()

    async def _claim_some(self) -> bool:
        limit = max(1, min(self._claim_size, int(self._brake.window)))
        if self._rate is not None:
            limit = max(1, min(limit, int(self._rate * _SLOTS_AHEAD)))
        for scope in tuple(self._scopes):
            began = self._clock.monotonic()
            claimed = await self._desk.run(
                partial(
                    _book.claim,
                    scope=scope,
                    owner=self._lease.owner,
                    limit=limit,
                    settle=self._settle,
                    rate=self._rate,
                ),
                last=True,
            )
            for each in claimed:
                self._queue.put_nowait(_Task(each, began))
            if self._stopping:
                self._give_back_queue()
            if claimed:
                return True
        return False

    # --- sending

    async def _work(self) -> None:
        lane = Lane(self._brake)
        while (refusal := await lane.enter()) is None:
            outcome: CaptureOutcome | None = None
            try:
                if (task := await self._queue.get()) is None:
                    return
                if self._queue.qsize() <= self._claim_size // 2:
                    self._hungry.set()
                outcome = await self._send(lane, task)
            finally:
                lane.leave(outcome)
        self.stop(refusal)

    async def _send(self, lane: Lane, task: _Task) -> CaptureOutcome | None:
        claimed = task.claimed
        start = task.intended_at + claimed.delay
        if (wait := start - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait)
        if self._stopping or self._clock.monotonic() - start > self._send_within:
            self._give_back(claimed)
            return None
        means = self._means
        debit_id = claimed.debit_id
        pursuit = means.runner.pursue(
            _calls.capture(debit_id), means.options, on_trouble=lane.on_trouble, fence=self._lease.fence
        )
        # Paused between the check above and here, it would begin late: its write goes by the intent, too.
        pursuit.deadline = min(pursuit.deadline, start + self._send_within + means.options.timeout)
        if claimed.repeated or not self._trust_pending:
            pursuit.doubt(-math.inf)
        outcome: CaptureOutcome
        try:
            outcome = Captured(debit_id=debit_id, capture=await means.flights.capture(debit_id, pursuit))
        except JetpayError as error:
            trusted = means.options.retry.resend_rate_limited
            outcome = undone(error, debit_id=debit_id, request=None, trust_rate_limited=trusted)
        self._judge(task, outcome)
        return outcome

    def _judge(self, task: _Task, outcome: CaptureOutcome) -> None:
        """Decide what the ledger is told of an outcome."""
        claimed = task.claimed
        earlier = claimed.attempts - 1
        if isinstance(outcome, Captured):
            self._write(_entries.write(claimed.id, outcome, earlier=earlier))
            return
        said_of_all = _said_of_all(outcome.error)
        if said_of_all is not None:
            self.stop(said_of_all)
        if self._is_doubtful(outcome, said_of_all):
            due = task.intended_at + claimed.delay + self._settle
            doubt = Doubt(claimed.id, claimed.debit_id, earlier + outcome.attempts, 0.0)
            heapq.heappush(self._cases, _Case(due, doubt))
        elif said_of_all is not None:
            self._give_back(claimed, outcome.attempts)
        elif isinstance(outcome, Refused):
            self._write(_entries.write(claimed.id, outcome, earlier=earlier))
        elif isinstance(outcome.error, ServiceError) and earlier + outcome.attempts >= _MOST_ATTEMPTS:
            refused = Refused(debit_id=outcome.debit_id, request=None, error=outcome.error)
            self._write(_entries.write(claimed.id, refused, earlier=earlier))
        else:
            # What never began to leave is no request that may have been made.
            self._give_back(claimed, 0 if isinstance(outcome.error, NotSentError) else outcome.attempts)

    def _is_doubtful(
        self, outcome: Refused[None] | NotSent[None] | Unknown[None], said_of_all: JetpayError | None
    ) -> bool:
        """Say whether the debit may have been captured, as far as we know."""
        # Where its status came first, and could not be read, nothing was sent.
        return isinstance(outcome, Unknown) and (said_of_all is None or outcome.attempts > 0)

    # --- settling

    async def _keep(self) -> None:
        """Look after the lease, after what others have left, and after the doubts that can be settled by now."""
        while True:
            await self._lease.keep()
            if await self._desk.run(partial(_book.sees_others, owner=self._lease.owner), writes=False):
                await self._adopt()
            now = self._clock.monotonic()
            while self._cases and self._cases[0].due <= now:
                self._ripe.put_nowait(heapq.heappop(self._cases))
            self._hungry.set()
            await self._clock.sleep(min(_LOOK, self._lease.renewed_every))

    async def _adopt(self) -> None:
        doubts = await self._desk.run(partial(_book.adopt, scopes=tuple(self._scopes), owner=self._lease.owner))
        now = self._clock.monotonic()
        for doubt in doubts:
            heapq.heappush(self._cases, _Case(now + doubt.wait, doubt))
        if doubts:
            logger.info("%d debits are in doubt, left by a run that ended: settling them", len(doubts))

    async def _resolve(self) -> None:
        while True:
            await self._settle_case(await self._ripe.get())

    async def _settle_case(self, case: _Case) -> None:
        means = self._means
        doubt = case.doubt
        pursuit = means.runner.pursue(_calls.capture(doubt.debit_id), means.options)
        # What is due can no longer be on its way.
        pursuit.doubt(-math.inf)
        try:
            capture = await means.flights.settle(doubt.debit_id, pursuit)
        except JetpayError as error:
            self._judge_doubt(case, error)
            return
        if capture is None:
            self._write(Entry(doubt.id, DebitState.PENDING, doubt.attempts))
        else:
            captured = Captured(debit_id=doubt.debit_id, capture=capture)
            self._write(_entries.write(doubt.id, captured, earlier=doubt.attempts))

    def _judge_doubt(self, case: _Case, error: JetpayError) -> None:
        doubt = case.doubt
        outcome = undone(error, debit_id=doubt.debit_id, request=None, trust_rate_limited=False)
        if (said_of_all := _said_of_all(error)) is not None:
            self.stop(said_of_all)
        elif isinstance(outcome, Refused):
            self._write(_entries.write(doubt.id, outcome, earlier=doubt.attempts))
        elif isinstance(error, OutcomeUnknownError) and (error.state is not None or case.rounds + 1 >= _MOST_ROUNDS):
            unknown = Unknown(debit_id=doubt.debit_id, request=None, error=error)
            self._write(_entries.write(doubt.id, unknown, earlier=doubt.attempts))
        else:
            due = self._clock.monotonic() + self._means.options.retry.settle_after
            heapq.heappush(self._cases, _Case(due, doubt, case.rounds + 1))

    # --- writing down

    def _write(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._written.set()

    def _give_back(self, claimed: Claimed, attempts: int = 0) -> None:
        """Put a debit back that is proven not captured; what came first for it still does."""
        self._write(
            Entry(
                claimed.id,
                DebitState.PENDING,
                claimed.attempts - 1 + attempts,
                look_first=claimed.repeated,
            )
        )

    def _give_back_queue(self) -> None:
        tasks: list[_Task | None] = []
        while not self._queue.empty():
            tasks.append(self._queue.get_nowait())
        for task in tasks:
            if task is None:
                self._queue.put_nowait(None)
            else:
                self._give_back(task.claimed)

    async def _record(self) -> None:
        while True:
            await self._written.wait()
            if not self._closing:
                await asyncio.sleep(_GATHER)
            self._written.clear()
            entries, self._entries = self._entries, []
            try:
                if entries:
                    await self._desk.run(partial(_book.record, entries=entries, owner=self._lease.owner))
            except Exception as error:  # noqa: BLE001 - whatever it is, the outcomes are told
                for entry in entries:
                    logger.error("%s could not be written down: %s, attempts %d", entry.id, entry.state, entry.attempts)
                self.stop(error)
            if any(entry.state is DebitState.PENDING for entry in entries):
                self._hungry.set()
            self._tell_readers()
            if self._closing and not self._entries:
                return

    def _tell_readers(self) -> None:
        while self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)

    # --- ending

    async def _guard(self, part: Coroutine[None, None, None]) -> None:
        try:
            await part
        except LedgerError as error:
            self.stop(error)
        except Exception as error:  # noqa: BLE001 - a fault in one part stops all of them, in order
            logger.exception("capturing stops for a fault")
            self.stop(error)

    async def _drain(self) -> None:
        if self._claimer is not None:
            await self._claimer
        await asyncio.gather(*self._workers, return_exceptions=True)
        for other in self._others:
            other.cancel()
        await asyncio.gather(*self._others, return_exceptions=True)
        if self._recorder is not None:
            self._closing = True
            self._written.set()
            await self._recorder
        self._tell_readers()


def _said_of_all(error: JetpayError) -> JetpayError | None:
    """Return what is no word on a debit, since the same would be said of all: the token is refused, for example."""
    for said in (error, error.__cause__):
        if isinstance(said, AuthenticationError | ConfigurationError):
            return said
    return None
