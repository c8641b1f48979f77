"""Processes that share a ledger in memory, and are killed, cut off and started anew in virtual time.

A process that is killed stops where it stands: what it waits for never comes, its requests are no longer answered, and
nothing of it writes to the ledger any more. Its tasks stay there until the schedule is over.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs

from jetpay_async._core.clock import Clock
from jetpay_async._core.executor import CallExecutor, Options
from jetpay_async._core.single_flight import SingleFlight
from jetpay_async.ledger import _repository
from jetpay_async.ledger._context import ClientContext
from jetpay_async.ledger._sql import schema
from jetpay_async.ledger._sqlite import DIALECT, SqliteConnection
from jetpay_async.ledger.durable_captures import DurableCaptures
from tests.simulation.service import Network, Service

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from jetpay_async import RetryPolicy
    from jetpay_async.ledger._backend import UnitOfWork

_T = TypeVar("_T")

ORIGIN = "https://api.example"

EPOCH_SECONDS = 1.8e9
"""What the wall clock says when virtual time begins."""


@attrs.define(eq=False)
class World:
    """One ledger, one service, and the processes."""

    service: Service
    chance: random.Random
    policy: RetryPolicy
    leases: bool
    """Whether an owner counts as dead when its lease has lapsed, as on PostgreSQL, or when it has ended."""
    processes: list[SimulatedProcess] = attrs.Factory(list)
    copies: list[sqlite3.Connection] = attrs.Factory(list)
    clock_offset: float = 0.0
    """Seconds by which the wall clock of the machine was set forward."""
    database: sqlite3.Connection = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.database = self._new_database()
        for statement in schema(DIALECT):
            self.database.execute(statement)

    def _new_database(self) -> sqlite3.Connection:
        self.copies.append(sqlite3.connect(":memory:", isolation_level=None))
        return self.copies[-1]

    def close(self) -> None:
        """Close the ledger and all its copies, when no process runs any more."""
        for copy in self.copies:
            copy.close()

    def start(self, timeout: float, *, restored: bool = False) -> Process:
        """Start a process."""
        process = Process(self, f"process {len(self.processes) + 1}", timeout, restored=restored)
        self.processes.append(process)
        self.service.note(f"{process.name} starts{', the ledger restored' if restored else ''}")
        return process

    def backup(self) -> sqlite3.Connection:
        """Copy the ledger."""
        copy = self._new_database()
        self.database.backup(copy)
        return copy

    def holds(self, batches: Iterable[str]) -> bool:
        """Tell whether all these were submitted: those that a copy lacks are the caller's to submit with the flag."""
        return {key for (key,) in self.database.execute("SELECT key FROM jetpay_batch")} >= set(batches)

    def restore(self, copy: sqlite3.Connection) -> None:
        """Put a copy in the ledger's place; nobody uses it."""
        assert not any(process.alive for process in self.processes)
        self.database = copy


class SimulatedProcess:
    """One process with a client."""

    def __init__(self, world: World, name: str, timeout: float, network: Network) -> None:
        loop = asyncio.get_running_loop()
        self.world = world
        self.name = name
        self.alive = True
        self.cut_off_until = 0.0
        self.network = network
        self.clock = Clock(
            monotonic=loop.time,
            time=lambda: EPOCH_SECONDS + world.clock_offset + loop.time(),
            sleep=asyncio.sleep,
            random=world.chance.random,
        )
        self.executor = CallExecutor(self.network, self.clock, None)
        self.context = ClientContext(
            SingleFlight(self.executor), self.executor, Options(timeout, world.policy), self.clock, ORIGIN
        )

    def kill(self) -> None:
        """End it where it stands."""
        if self.alive:
            self.world.service.note(f"{self.name} is killed")
            self.alive = False
            self.network.kill()

    def cut_off(self, seconds: float) -> None:
        """Keep it from the ledger for some seconds."""
        self.world.service.note(f"{self.name} can't reach the ledger for {seconds:g} s")
        self.cut_off_until = self.clock.monotonic() + seconds

    async def reach_ledger(self, latency: float) -> None:
        """Return when the ledger can be reached; never, if the process was killed."""
        await asyncio.sleep(latency)
        while self.alive and self.clock.monotonic() < self.cut_off_until:
            await asyncio.sleep(self.cut_off_until - self.clock.monotonic())
        if not self.alive:
            await self.world.service.loop.never()


class Process(SimulatedProcess):
    """One process that captures from a ledger."""

    def __init__(self, world: World, name: str, timeout: float, *, restored: bool) -> None:
        super().__init__(world, name, timeout, Network(world.service, name))
        self.captures = DurableCaptures(
            "never-opened.db",
            self.context,
            concurrency=world.chance.choice((1, 2, 4)),
            rate=world.chance.choice((None, None, 3.0)),
            lease_seconds=4.0,
            restored=restored,
            account=None,
            accept_rejections=True,
        )
        self.captures._ledger = MemoryLedger(self)  # type: ignore[assignment] # stands in for the real one


class MemoryLedger:
    """Stands for `jetpay_async.ledger.Ledger`: units of work are carried out at once, in the event loop."""

    def __init__(self, process: SimulatedProcess) -> None:
        self._process = process
        self._connection = MemoryConnection(process)
        self.commits = self
        self.leases = process.world.leases

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    async def run(self, operation: UnitOfWork[_T], *, writes: bool = True, last: bool = False) -> _T:
        """Carry out a unit of work, and let the process be killed before it, or after it and before it hears."""
        del last
        chance = self._process.world.chance
        await self._process.reach_ledger(chance.choice((0.0, 0.0, 0.01, 0.1)))
        connection = self._connection
        connection.begin(writes=writes)
        try:
            value = operation(connection)
        except BaseException:
            connection.rollback()
            raise
        connection.commit()
        await self._process.reach_ledger(chance.choice((0.0, 0.0, 0.01, 0.1)))
        return value

    async def find(self, key: str) -> int:
        number, _, _ = await self.run(partial(_repository.find_batch, key=key), writes=False)
        return number

    async def submit(self, key: str, debit_ids: Sequence[str]) -> None:
        numbered = list(enumerate(debit_ids))
        await self.run(
            partial(
                _repository.submit,
                key=key,
                debit_ids=numbered,
                given=len(numbered),
                chunks=1,
                fingerprint=str(debit_ids),
            )
        )


class MemoryConnection(SqliteConnection):
    """A connection to the ledger of a `World`, which knows who is alive."""

    _tokens = itertools.count()

    def __init__(self, process: SimulatedProcess) -> None:
        self._process = process
        self._token = f"token {next(self._tokens)}"
        super().__init__(process.world.database, Path("never-opened.db"), process.clock)

    def register(self, lease: float) -> int:
        given = {"host": "h", "pid": 1, "lease": lease if self._process.world.leases else None}
        rows = self.query(self.statements.register, {"token": self._process.name, **given})
        number: int = rows[0][0]
        return number

    def renew(self, owner: int, lease: float) -> bool:
        if self._process.world.leases:
            return self.change(self.statements.renew, {"owner": owner, "lease": lease}) == 1
        return super().renew(owner, lease)

    def expire_owners(self, owner: int) -> None:
        if self._process.world.leases:
            self.change(self.statements.remove_lapsed, {"owner": owner})
        else:
            super().expire_owners(owner)

    def _remove_if_dead(self, owner: int, token: str) -> None:
        if not any(process.alive and process.name == token for process in self._process.world.processes):
            self.change(self.statements.remove_owner, {"owner": owner})


def rows(database: sqlite3.Connection) -> list[tuple[object, ...]]:
    """What a ledger holds of each debit."""
    return database.execute("SELECT debit_id, state, attempts, intent, owner, certain_at FROM jetpay_debit").fetchall()
