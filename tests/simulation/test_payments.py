"""Reservations and charges by reference, of processes that are killed and cut off, with events and persons between."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from jetpay_async import JetpayError, NotSentError, OutcomeUnknownError, RetryPolicy, TransactionFailedError
from jetpay_async.errors import APIError
from jetpay_async.ledger import LedgerError, PaymentDiscardedError
from tests.simulation.loop import VirtualTimeLoop, run
from tests.simulation.payments import LATEST_EVENT_SECONDS, PaymentProcess, PaymentService
from tests.simulation.service import Likelihoods
from tests.simulation.world import World

if TYPE_CHECKING:
    from jetpay_async.webhooks import TransactionEvent

# Hundreds of schedules take a while on a busy machine.
pytestmark = [pytest.mark.endurance, pytest.mark.timeout(600)]

SCHEDULES = 60
POLICY = RetryPolicy(base_delay=0.2, max_delay=2.0, resolve_after=3.0, resolve_after_timeout=15.0)
WRONG_SECONDS = 200.0
"""By which the clock is wrong at most: an event is recognized by its time, within `CLOCK_TOLERANCE_SECONDS`."""
REFERENCES = ("b1", "b2", "b3", "c1")
END_SECONDS = 300.0
"""By then all that the service works on is done, all events are delivered, and what nothing knows is old."""


@attrs.define(eq=False)
class Play:
    """One schedule, and what the application was told."""

    world: World
    service: PaymentService
    chance: random.Random
    bookings: dict[str, str] = attrs.Factory(dict)
    """The debit of each reference, as the application knows it."""
    delivered: int = 0
    """How many of the events are on their way."""

    def violated(self, what: str) -> None:
        self.service.note(f"VIOLATED: {what}")
        self.service.violations.append(what)

    async def ask(self, process: PaymentProcess, reference: str, *, retry: bool, cancel_after: float | None) -> None:
        """Reserve or charge by a reference, and check that what is said of it is true."""
        request: dict[str, Any] = {
            "contact_id": "contact",
            "credit_card_id": "card",
            "amount": "10.00",
            "to_bank_account_id": "bank",
            "statement": reference,
        }
        pay = process.charges.charge if reference.startswith("c") else process.reservations.preauthorize
        said: object
        try:
            async with asyncio.timeout(cancel_after):
                said = await pay(reference=reference, retry_rejected=retry, **request)
        except (JetpayError, TimeoutError) as error:
            said = error
        if not process.alive:
            return
        self.service.note(f"{process.name}: {reference}: {said!r}"[:220])
        self._check(reference, said)

    def _check(self, reference: str, said: object) -> None:
        made = self.service.of(reference)
        if isinstance(said, OutcomeUnknownError | LedgerError | TimeoutError):
            return
        if isinstance(said, TransactionFailedError):
            if not any(each.state in {"failed", "cancelled"} for each in made):
                self.violated(f"{reference} was said to have failed, and had not")
        elif isinstance(said, NotSentError | APIError | PaymentDiscardedError):
            if made or self.service.working[reference]:
                self.violated(f"{reference} was said not to be done ({said!r}), and was")
        else:
            debit_id = getattr(said, "debit_id", "")
            if debit_id not in {each.transaction_id for each in made}:
                self.violated(f"{reference} was said to be {debit_id}, and is not")
            self.bookings[reference] = debit_id

    async def work(self, process: PaymentProcess) -> None:
        """Ask for references until the process ends."""
        chance = self.chance
        with suppress(LedgerError):
            async with process.reservations, process.charges, asyncio.TaskGroup() as group:
                for _ in range(chance.randint(1, 6)):
                    group.create_task(
                        self.ask(
                            process,
                            chance.choice(REFERENCES),
                            retry=chance.random() < 0.5,
                            cancel_after=chance.choice((None, None, 0.0, 0.05, 1.0)),
                        )
                    )
                    await asyncio.sleep(chance.choice((0.0, 0.05, 1.0, 10.0)))

    async def deliver(self, process: PaymentProcess) -> None:
        """Deliver events for ever, late, doubled and out of order."""
        async with process.ledger, asyncio.TaskGroup() as group:
            while True:
                while self.delivered < len(self.service.events):
                    event = self.service.events[self.delivered]
                    self.delivered += 1
                    for _ in range(self.chance.choice((1, 1, 2))):
                        group.create_task(self._deliver(process, event))
                await asyncio.sleep(1.0)

    async def _deliver(self, process: PaymentProcess, event: TransactionEvent) -> None:
        await asyncio.sleep(self.chance.choice((0.0, 0.1, 5.0, self.chance.uniform(0.0, LATEST_EVENT_SECONDS))))
        effect = await process.ledger.apply(event)
        self.service.note(f"event {event.id}: {event.transaction_id} {event.state}: {effect}")

    async def decide(self, process: PaymentProcess) -> None:
        """Decide what is unknown, and release what no booking holds, now and then."""
        async with process.ledger:
            while True:
                await asyncio.sleep(self.chance.choice((3.0, 30.0, 60.0)))
                await process.decide(confuse=self.chance.random() < 0.3)
                if self.chance.random() < 0.5:
                    await process.release(self.bookings)


async def play(it: Play) -> None:
    """Have processes ask for references, kill them, and let a last one ask for each once more."""
    world, chance = it.world, it.chance
    receiver = PaymentProcess(world, "receiver", 20.0)
    office = PaymentProcess(world, "office", 20.0)
    background = [asyncio.ensure_future(it.deliver(receiver)), asyncio.ensure_future(it.decide(office))]
    for number in range(chance.randint(1, 4)):
        process = PaymentProcess(world, f"process {number}", chance.choice((3.0, 6.0, 20.0)))
        work = asyncio.ensure_future(it.work(process))
        await asyncio.sleep(chance.choice((0.0, 0.05, 0.3, 1.0, 5.0, 20.0)))
        what = chance.random()
        if what < 0.4:
            process.kill()
        elif what < 0.6:
            process.cut_off(chance.choice((6.0, 22.0, 35.0)))
        elif what < 0.7 and not world.leases:
            world.clock_offset = chance.choice((-WRONG_SECONDS, WRONG_SECONDS))
            it.service.note(f"the clock is set to {world.clock_offset:+g} s")
        elif what < 0.8:
            work.cancel()
            await asyncio.wait([work])
            process.alive = False
    await asyncio.sleep(END_SECONDS)
    await end(it, PaymentProcess(world, "last process", 20.0), background)


async def end(it: Play, last: PaymentProcess, background: list[asyncio.Task[None]]) -> None:
    """Ask for each reference, decide all that is open, and ask for all that is known."""
    async with last.reservations, last.charges:
        for reference in REFERENCES:
            await it.ask(last, reference, retry=True, cancel_after=None)
    await asyncio.sleep(END_SECONDS)
    for each in background:
        assert not each.done(), each
        each.cancel()
    async with last.ledger:
        await last.decide(confuse=True)
        for _ in range(3):
            await last.release(it.bookings)
        known = [each.reference async for each in last.ledger.payments() if each.state != "pending"]
    async with last.reservations, last.charges:
        for reference in known:
            await it.ask(last, reference, retry=False, cancel_after=None)


def check(it: Play) -> None:
    """Refuse what was made twice, is known to nobody, or was released though a booking holds it."""
    assert not it.service.violations, it.service.violations
    query = it.world.database.execute
    known = [each for (each,) in query("SELECT transaction_id FROM jetpay_payment WHERE transaction_id IS NOT NULL")]
    offered = [each for (each,) in query("SELECT transaction_id FROM jetpay_transaction")]
    assert len(known) == len(set(known)), f"a transaction is that of several references: {known}"
    for transaction_id, made in it.service.made.items():
        is_known = transaction_id in known or transaction_id in offered or made.cancelled
        assert is_known, f"{transaction_id} is known to nobody"
    for reference, transaction_id in it.bookings.items():
        assert not it.service.made[transaction_id].cancelled, f"{transaction_id} was released, and {reference} holds it"


def drive(seed: int) -> None:
    """Play one schedule; what went wrong tells what led to it."""
    chance = random.Random(seed)
    loop = VirtualTimeLoop()
    service = PaymentService(loop, chance, POLICY, Likelihoods(rejected=0.2))
    world = World(service, chance, POLICY, leases=chance.random() < 0.5)
    it = Play(world, service, chance)
    try:
        run(play(it), loop)
        check(it)
    except BaseException as error:
        payments = world.database.execute("SELECT * FROM jetpay_payment").fetchall()
        error.add_note(f"schedule {seed}:\n" + "\n".join([*service.log, *map(str, payments)]))
        raise
    finally:
        world.close()


def test_no_schedule_makes_a_reference_twice_or_loses_one() -> None:
    """Whoever is killed, cut off or cancelled: made once at most, known or offered, and what is said of it is true."""
    for seed in range(SCHEDULES):
        drive(seed)
