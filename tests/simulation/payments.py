"""Reservations and charges by reference: a service that makes them, and the processes that ask for them.

The bounds are those of `tests.simulation.service`: a request that is given up is carried out, if at all, before
`RetryPolicy.resolve_after_timeout` has passed since. The service does not protect itself: each request makes one more.
Events are delivered at least once: late, doubled and out of order, each with the time at which it happened.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import attrs

from jetpay_async._core import operations
from jetpay_async._core.responses import Unanswered
from jetpay_async.ledger import Ledger, PaymentStateError
from jetpay_async.ledger._orphans import release_orphans
from jetpay_async.ledger.durable_payments import DurableCharges, DurablePreauthorizations
from jetpay_async.models import TransactionState
from jetpay_async.webhooks import TransactionEvent
from tests.simulation.service import ENDINGS, Debit, Network, Service, Work, _json
from tests.simulation.world import EPOCH_SECONDS, ORIGIN, MemoryConnection, SimulatedProcess

if TYPE_CHECKING:
    from jetpay_async._core.http import RawResponse
    from jetpay_async._core.send_guard import SendGuard
    from jetpay_async.ledger import Candidate, LedgerPayment
    from jetpay_async.ledger._backend import Backend, UnitOfWork
    from jetpay_async.models import TransactionStatus
    from tests.simulation.world import World

_T = TypeVar("_T")

OURS = 1
"""Our webhook's id."""

OLD_SECONDS = 150.0
"""After which a debit that nothing knows is released: more than any request takes."""

LATEST_EVENT_SECONDS = 200.0


@attrs.define(eq=False)
class MadeTransaction(Debit):
    """One that the service has made."""

    transaction_id: str = ""
    reference: str = ""
    made_at: float = 0.0
    cancelled: bool = False

    @property
    def state(self) -> str:
        return self.history[-1][1]


@attrs.define(eq=False)
class PaymentService(Service):
    """What has been made, for which reference, and the events about it."""

    made: dict[str, MadeTransaction] = attrs.Factory(dict)
    """By the transaction's id."""
    working: Counter[str] = attrs.Factory(Counter)
    """Requests that will be carried out, by reference."""
    events: list[TransactionEvent] = attrs.Factory(list)
    """All that happened, in their order."""
    violations: list[str] = attrs.Factory(list)
    """What must never happen, and did."""

    def of(self, reference: str) -> list[MadeTransaction]:
        return [each for each in self.made.values() if each.reference == reference]

    def make_later(self, reference: str, state: str, after: float) -> tuple[Work, str]:
        """Make a transaction in some seconds, and say which it will be."""
        transaction_id = f"t{len(self.made) + self.working.total() + 1}"
        while transaction_id in self.made:
            transaction_id += "x"
        made = MadeTransaction(transaction_id=transaction_id, reference=reference)

        def make() -> None:
            self.working[reference] -= 1
            made.made_at = self.loop.time()
            made.history = [(made.made_at, state)]
            self.made[transaction_id] = made
            self.note(f"MADE {transaction_id} for {reference}")
            if len(self.of(reference)) > 1:
                self.violations.append(f"{reference} was made {len(self.of(reference))} times")
            self.tell(made)
            if state == "paid" and self.happens(0.4):
                self.loop.call_later(self.chance.uniform(1.0, 60.0), self.go_on, made)

        self.working[reference] += 1
        due = self.loop.time() + after
        return Work(made, self.loop.call_at(due, make), due, make), transaction_id

    def go_on(self, made: MadeTransaction) -> None:
        """Let a charge be completed, or fail after all."""
        made.history.append((self.loop.time(), "failed" if self.happens(0.3) else "completed"))
        self.tell(made)

    def tell(self, made: MadeTransaction) -> None:
        """Report what happened, some time."""
        self.events.append(
            TransactionEvent(
                id=len(self.events) + 1,
                created_at=datetime.fromtimestamp(EPOCH_SECONDS + self.loop.time(), UTC),
                type="transactions.debits.updated",
                data={},
                webhook_id=OURS,
                transaction_id=made.transaction_id,
                state=TransactionState(made.state),
            )
        )


class PaymentNetwork(Network):
    """What a client reserves, charges and cancels by."""

    @property
    def payments(self) -> PaymentService:
        assert isinstance(self.service, PaymentService)
        return self.service

    async def exchange(
        self, method: str, path: str, body: bytes, guard: SendGuard | None, *, within: float
    ) -> RawResponse:
        """Send one request; see `jetpay_async._core.transport.Transport.exchange`."""
        await self._alive()
        if within <= 0:
            raise Unanswered("the deadline had passed before anything was sent", started=False)
        parts = path.strip("/").split("/")
        if method == "GET":
            return await self._read(parts[1], within)
        assert guard is not None
        await self._pass(min(within, self.service.chance.uniform(0.0, 0.05)))
        if self.service.happens(self.service.likely.not_sent):
            raise Unanswered("connection refused", started=False)
        try:
            guard.begin(None)
        except Exception:  # noqa: BLE001 - as in `Network`
            guard.seal()
            raise Unanswered(guard.refusal, started=False) from None
        allowed = min(within, guard.response_timeout)
        if method == "DELETE":
            return await self._cancel(parts[1], guard, allowed)
        return await self._pay(parts, json.loads(body), guard, allowed)

    async def _read(self, transaction_id: str, within: float) -> RawResponse:
        asked_at = self.service.loop.time()
        await self._pass(min(within, 0.1))
        if self.service.happens(self.service.likely.status_lost):
            raise Unanswered("connection lost", started=True)
        made = self.payments.made.get(transaction_id)
        if made is None:
            return _json(404, {"detail": "not found"}, left_at=asked_at)
        return _json(200, {"state": made.state}, left_at=asked_at)

    async def _cancel(self, transaction_id: str, guard: SendGuard, allowed: float) -> RawResponse:
        made = self.payments.made[transaction_id]
        if made.state != "preauthorized":
            return await self._answer(guard, 409, {"detail": f"it is {made.state}"}, 0.05, allowed, None)
        self.service.note(f"{self.name}: CANCELLED {transaction_id}")
        made.cancelled = True
        made.history.append((self.service.loop.time(), "cancelled"))
        self.payments.tell(made)
        if self.service.happens(0.3):
            return await self._lose(guard, None, "cut", 0.05, allowed)
        return await self._answer(guard, 200, {"ok": True}, 0.05, allowed, None)

    async def _pay(self, parts: list[str], asked: dict[str, object], guard: SendGuard, allowed: float) -> RawResponse:
        service, likely, chance = self.payments, self.service.likely, self.service.chance
        reference, operation = str(asked["statement"]), parts[-1]
        state = "paid" if operation == "charge" else "preauthorized"
        service.requests[reference] += 1
        service.note(f"{self.name}: {operation.upper()} {reference}")
        drawn = chance.random()
        latency = chance.choice((0.02, 0.3, 3.0, 12.0))
        if drawn < likely.rejected:
            return await self._answer(guard, 402, {"detail": "declined"}, latency, allowed, None)
        if drawn < likely.rejected + likely.rate_limited:
            return await self._answer(guard, 429, {"detail": "slow down"}, 0.05, allowed, None)
        if drawn < likely.rejected + likely.rate_limited + likely.lost:
            work = None
            if service.happens(likely.worked_on):
                work, _ = service.make_later(reference, state, chance.uniform(0.0, 100.0))
                self.works[work] = None
            return await self._lose(guard, work, chance.choice(ENDINGS), latency, allowed)
        work, transaction_id = service.make_later(reference, state, latency * 0.9)
        self.works[work] = None
        document = {**asked, "debit_id": transaction_id, "transaction_state": state, "contact_id": parts[1]}
        document["from_credit_card_id"] = parts[3]
        return await self._answer(guard, 200, document, latency, allowed, work)


class ClockedConnection(MemoryConnection):
    """A connection that notices that the wall clock was set."""

    def __init__(self, process: SimulatedProcess) -> None:
        super().__init__(process)
        self._identity = _NoFile()  # type: ignore[assignment] # from then on it reads the clock


class _NoFile:
    def check(self) -> None:
        """Find it unchanged."""


class MemoryExecutor:
    """Carries units of work out at once, in the event loop."""

    def __init__(self, process: SimulatedProcess) -> None:
        self._process = process
        self._connection = ClockedConnection(process)

    async def open(self, *, create: bool) -> None:
        """Do nothing: it is open."""

    async def close(self) -> None:
        """Do nothing."""

    async def run(self, operation: UnitOfWork[_T], *, writes: bool = True, last: bool = False) -> _T:
        """Carry a unit of work out, and let the process be killed before it, or after it and before it hears."""
        del last
        chance = self._process.world.chance
        await self._process.reach_ledger(chance.choice((0.0, 0.0, 0.01, 0.1)))
        self._connection.begin(writes=writes)
        try:
            value = operation(self._connection)
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()
        await self._process.reach_ledger(chance.choice((0.0, 0.0, 0.01, 0.1)))
        return value


class PaymentProcess(SimulatedProcess):
    """One process that reserves and charges, or receives events, or decides what is open."""

    def __init__(self, world: World, name: str, timeout: float, *, restored: bool = False) -> None:
        service = world.service
        assert isinstance(service, PaymentService)
        super().__init__(world, name, timeout, PaymentNetwork(service, name))
        self.service = service
        self.context = attrs.evolve(self.context, commit_executor=self.make_executor)
        world.processes.append(self)
        service.note(f"{name} starts{', the ledger restored' if restored else ''}")
        options = {"lease_seconds": 4.0, "account": None, "restored": restored}
        self.reservations = DurablePreauthorizations("never-opened.db", self.context, **options)  # type: ignore[arg-type]
        self.charges = DurableCharges("never-opened.db", self.context, **options)  # type: ignore[arg-type]
        self.ledger = Ledger(
            "never-opened.db", webhook_ids={OURS}, clock=self.clock, commit_executor=self.make_executor
        )
        for each in (self.reservations._ledger, self.charges._ledger, self.ledger):
            each._backend.leases = world.leases  # type: ignore[misc] # as the backend that is stood for

    def make_executor(self, backend: Backend) -> MemoryExecutor:
        del backend
        return MemoryExecutor(self)

    # --- what persons and the application do, with what they see at Jetpay

    async def decide(self, *, confuse: bool) -> None:
        """Adopt and discard what is unknown, as somebody does who can look references up at Jetpay."""
        async for payment in self.ledger.payments("unknown"):
            with suppress(PaymentStateError):
                await self._decide(payment)
        if confuse:
            await self._confuse()

    async def _decide(self, payment: LedgerPayment) -> None:
        made = self.service.of(payment.reference)
        for candidate in await self.ledger.candidates(payment.reference):
            if any(each.transaction_id == candidate.transaction_id for each in made):
                await self.ledger.adopt(payment.reference, candidate.transaction_id)
                self.service.note(f"{candidate.transaction_id} is adopted by {payment.reference}")
                return
        if not self.service.of(payment.reference):
            await self.ledger.discard(payment.reference)
            self.service.note(f"{payment.reference} is discarded")

    async def _confuse(self) -> None:
        """Take the transaction of one reference for that of another, as somebody does who reads wrong."""
        known = [each async for each in self.ledger.payments() if each.transaction_id is not None]
        async for payment in self.ledger.payments("unknown"):
            for other in known:
                with suppress(PaymentStateError):
                    await self.ledger.adopt(payment.reference, other.transaction_id or "", state="preauthorized")

    async def release(self, bookings: dict[str, str]) -> None:
        """Cancel what no booking holds."""

        def keep(candidate: Candidate) -> bool:
            return candidate.transaction_id in bookings.values()

        await release_orphans(
            self.ledger.commits,
            origin=ORIGIN,
            older_than=OLD_SECONDS,
            keep=keep,
            read_status=self._read_status,
            cancel=self._cancel,
        )

    async def _read_status(self, transaction_id: str) -> TransactionStatus:
        call = operations.transaction_status(transaction_id)
        return await self.executor.execute(self.executor.begin(call, self.context.options))

    async def _cancel(self, transaction_id: str) -> None:
        call = operations.cancel_transaction(transaction_id)
        await self.executor.execute(self.executor.begin(call, self.context.options))
