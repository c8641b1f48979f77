"""A wall clock that is set while debits are in doubt, on a ledger in a file: what is left to wait stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import attrs
import pytest

from jetpay_async._core.clock import Clock
from jetpay_async.ledger import DebitState, PaymentState, PaymentStateError, _intents, _payments, _reports, _repository
from jetpay_async.ledger._intents import OutcomeRecord
from jetpay_async.ledger._payments import PaymentIntent
from jetpay_async.ledger._repository import Scope
from jetpay_async.ledger._sqlite import SqliteBackend, SqliteConnection
from tests.ledger.scenario import BOUND, SILENT, Act, Scenario, debits, make_clock, now, simulate

HOUR = 3600.0
STEPS = [-2 * HOUR, -30.0, 30.0, 2 * HOUR]
every_step = pytest.mark.parametrize("step", STEPS)

WAIT = 30.0
"""Seconds until a request can no longer be on its way."""


# --- by one connection ------------------------------------------------------------------------------------------------


@attrs.define
class Machine:
    """A machine whose clocks a test sets."""

    path: Path
    closing: ExitStack
    monotonic: float = 1_000.0
    wall: float = 1.8e9

    def connect(self) -> SqliteConnection:
        clock = Clock(monotonic=lambda: self.monotonic, time=lambda: self.wall)
        return self.closing.enter_context(closing(SqliteBackend(self.path, clock).connect(create=True)))

    def let_pass(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with ExitStack() as stack:
        yield Machine(tmp_path / "captures.db", stack)


def start(connection: SqliteConnection, limit: int) -> int:
    """Register, and claim some debits of a batch of five."""
    connection.begin(writes=True)
    _repository.submit(connection, "night", enumerate(debits(5)), given=5, chunks=1, fingerprint="f")
    owner = connection.register(0.0)
    _intents.claim(connection, Scope(1), owner=owner, limit=limit, resolve=WAIT, rate=None)
    connection.commit()
    return owner


def kill(connection: SqliteConnection) -> None:
    """As a kill does: the lock goes, the ledger still names the owner."""
    connection.close()


def waits(connection: SqliteConnection) -> list[float]:
    """Take over what dead owners left, and return how long each debit has to be waited for."""
    owner = start(connection, 0)
    connection.begin(writes=True)
    unresolved = _intents.take_over(connection, [Scope(1)], owner=owner)
    connection.commit()
    return [debit.wait for debit in unresolved]


@every_step
def test_what_a_dead_run_left_is_waited_for_anew(machine: Machine, step: float) -> None:
    """However far the clock was set, and in whichever direction, while nobody ran."""
    dead = machine.connect()
    start(dead, 2)
    kill(dead)

    machine.wall += step

    assert waits(machine.connect()) == pytest.approx([WAIT] * 2)


@every_step
def test_a_run_notices_that_the_clock_was_set_while_it_runs(machine: Machine, step: float) -> None:
    """A connection that was there before the clock was set waits as long as one that is opened later."""
    dead, alive = machine.connect(), machine.connect()
    start(dead, 2)
    kill(dead)

    machine.wall += step

    assert waits(alive) == pytest.approx([WAIT] * 2)
    kill(alive)
    machine.wall -= 2 * step
    assert waits(machine.connect()) == pytest.approx([WAIT] * 2)


@every_step
def test_a_clock_that_was_set_and_put_right_again(machine: Machine, step: float) -> None:
    """A connection that was idle meanwhile does not take the times of the other clock for those of its own."""
    idle = machine.connect()
    start(idle, 0)
    machine.wall += step
    dead = machine.connect()
    start(dead, 2)
    kill(dead)
    machine.wall -= step
    machine.let_pass(2.0)

    submit = partial(_repository.submit, key="other", given=1, chunks=1, fingerprint="g")
    idle.begin(writes=True)
    submit(idle, debit_ids=enumerate(["debit_z"]))
    idle.commit()

    assert waits(machine.connect()) == pytest.approx([WAIT] * 2)


@every_step
def test_a_payment_is_discarded_no_earlier(machine: Machine, step: float) -> None:
    """What may still be on its way can't be discarded because of a clock that was set."""
    connection = machine.connect()
    connection.begin(writes=True)
    owner = connection.register(0.0)
    intent = PaymentIntent("b1", "preauthorize", "debit", {})
    _payments.claim(connection, intent, owner=owner + 1, certain_after=WAIT, retry_rejected=False)
    _payments.expire(connection, owner)
    connection.commit()

    machine.wall += step
    machine.let_pass(WAIT - 1.0)
    connection.begin(writes=True)
    with pytest.raises(PaymentStateError, match="may still be on its way"):
        _reports.discard(connection, "b1")
    connection.commit()
    machine.let_pass(WAIT)
    connection.begin(writes=True)
    assert _reports.discard(connection, "b1").state is PaymentState.DISCARDED
    connection.commit()


def test_time_that_passed_by_both_clocks_counts(machine: Machine) -> None:
    """What was waited until the ledger was changed last is not waited again, and nothing where no clock was set."""
    dead, alive = machine.connect(), machine.connect()
    start(dead, 2)
    kill(dead)

    machine.let_pass(20.0)
    assert waits(alive) == pytest.approx([WAIT - 20.0] * 2)
    machine.wall += HOUR
    machine.let_pass(5.0)
    kill(alive)
    heir = machine.connect()
    assert waits(heir) == pytest.approx([WAIT - 20.0] * 2)
    machine.let_pass(WAIT)
    kill(heir)

    assert waits(machine.connect()) == [0.0, 0.0]


def test_a_restart_of_the_machine_counts_as_a_clock_that_was_set(machine: Machine) -> None:
    """The monotonic clock begins anew, and nothing shows whether the wall clock went on as before."""
    dead = machine.connect()
    start(dead, 2)
    kill(dead)

    machine.let_pass(300.0)
    machine.monotonic = 10.0

    assert waits(machine.connect()) == pytest.approx([WAIT] * 2)


def test_clocks_that_drift_apart_a_little_are_no_clock_that_was_set(machine: Machine) -> None:
    """A tenth of a second in all, from when the clock was noted: neither more waits nor fewer come of it."""
    dead = machine.connect()
    start(dead, 2)
    kill(dead)

    machine.let_pass(20.0)
    machine.wall += 0.09

    assert waits(machine.connect()) == pytest.approx([WAIT - 20.09] * 2)


@every_step
def test_a_debit_that_was_given_back_in_doubt_keeps_its_wait(machine: Machine, step: float) -> None:
    """No owner holds it any more, and a run that was never killed wrote it."""
    connection = machine.connect()
    owner = start(connection, 0)
    connection.begin(writes=True)
    (claim,) = _intents.claim(connection, Scope(1), owner=owner, limit=1, resolve=WAIT, rate=None).send
    given_back = OutcomeRecord(
        claim.id, claim.debit_id, claim.intent, DebitState.PENDING, 1, resolve_first=True, certain_in=WAIT
    )
    _intents.record(connection, [given_back], owner=owner)
    connection.commit()

    machine.wall += step

    connection.begin(writes=True)
    (again,) = _intents.claim(connection, Scope(1), owner=owner, limit=1, resolve=WAIT, rate=None).resolve
    connection.commit()
    assert again.wait == pytest.approx(WAIT)


def test_what_a_transaction_noted_is_undone_with_it(machine: Machine) -> None:
    """A transaction that fails has moved nothing; the next one does."""
    dead, alive = machine.connect(), machine.connect()
    start(dead, 2)
    kill(dead)
    machine.wall += HOUR

    alive.begin(writes=True)
    alive.rollback()

    assert waits(alive) == pytest.approx([WAIT] * 2)


def test_the_clock_is_noted_once_a_second_where_something_changes(machine: Machine) -> None:
    """It costs no commit of its own, and what a run left shows until when it lived."""
    connection = machine.connect()
    owner = start(connection, 0)
    noted_at = machine.wall
    seen = []
    for limit in (1, 0, 1):
        machine.let_pass(0.6)
        connection.begin(writes=True)
        _intents.claim(connection, Scope(1), owner=owner, limit=limit, resolve=WAIT, rate=None)
        connection.commit()
        seen.append(connection.query(connection.statements.version_and_clock, {})[0][2] - noted_at)

    assert seen == pytest.approx([0.0, 0.0, 1.8])


# --- by whole runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(str(tmp_path / "captures.db"))


@every_step
def test_a_dead_run_is_waited_for_whatever_the_clock_says(scenario: Scenario, step: float) -> None:
    """A request that takes effect late is not sent again before, and nothing waits for hours."""
    scenario.api.always = Act(seconds=1e9, works_after=BOUND - 20.0)

    async def main() -> None:
        await scenario.run_to_be_killed("a", debits(2), lambda each: each.api.in_flight == 2)
        scenario.api.always = Act()
        async with scenario.captures(clock=make_clock(ahead=step)) as captures:
            assert (await (await captures.submit("a", debits(2))).wait()).captured == 2
        assert now() < 2 * BOUND

    simulate(main())
    assert scenario.api.captures == Counter(debits(2))


@every_step
def test_several_runs_take_over_one_after_the_other(scenario: Scenario, step: float) -> None:
    """What a dead run left in two batches is waited for by each, though the first heir has removed its owner."""
    scenario.api.always = Act(seconds=1e9, works_after=BOUND - 20.0)

    async def main() -> None:
        killed = scenario.process()
        captures = killed.make_captures()
        await captures.__aenter__()
        await captures.submit("a", ["debit_a"])
        await captures.submit("c", ["debit_c"])
        while scenario.api.in_flight < 2:
            await asyncio.sleep(0.01)
        killed.kill()
        scenario.api.always = Act()
        async with scenario.captures() as captures:
            await captures.submit("a", ["debit_a"])
            await asyncio.sleep(2.0)
        async with scenario.captures(clock=make_clock(ahead=step)) as captures:
            assert (await (await captures.submit("c", ["debit_c"])).wait()).captured == 1

    simulate(main())
    assert scenario.api.captures["debit_c"] == 1


@every_step
def test_what_a_restored_ledger_may_have_sent_is_waited_for(scenario: Scenario, step: float) -> None:
    """The marks that `restored=True` leaves hold for the next run, on another clock too."""
    ids = debits(3)

    async def main() -> None:
        async with scenario.captures() as captures:
            await captures.submit("a", [])
        opened_at = now()
        async with scenario.captures(restored=True) as captures:
            await captures.submit("b", ids)
            await asyncio.sleep(10.0)
        async with scenario.captures(clock=make_clock(ahead=step)) as captures:
            await (await captures.submit("b", ids)).wait()

        assert min(at for at, _ in scenario.api.sent) - opened_at >= BOUND

    simulate(main())
    assert scenario.api.captures == Counter(ids)


def test_a_silent_run_is_waited_for_once(scenario: Scenario) -> None:
    """Nothing is waited for a second time where the clock stays as it is."""
    scenario.api.always = SILENT

    async def main() -> None:
        await scenario.run_to_be_killed("a", debits(2), lambda each: each.api.in_flight == 2)
        scenario.api.always = Act()
        await asyncio.sleep(2 * BOUND)
        began = now()
        async with scenario.captures() as captures:
            assert (await (await captures.submit("a", debits(2))).wait()).captured == 2
        assert now() - began < 10.0

    simulate(main())
