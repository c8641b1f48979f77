"""How does the cost of a ledger grow, with the debits of a batch and with the processes that share one?

A question of many minutes at full size: its parts are printed as they are done, and one that fails leaves the others.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import tempfile
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs

from benchmarks import postgres, subjects
from benchmarks.batch import LOOP
from benchmarks.contenders import TIMEOUT_SECONDS, TOKEN
from benchmarks.durable import IN_FLIGHT, LATENCY, LEASE_SECONDS, working
from benchmarks.measuring import Turn
from benchmarks.reports import Curve, Plan, Report, Table
from benchmarks.serving import Server, serving_late
from benchmarks.subjects import ENOUGH, MiscountError, Site, Subject, Work
from jetpay_async import JetpayClient
from jetpay_async.ledger import Ledger
from tests.postgres_server import NoServerError

QUESTION = "How does the cost of a ledger grow?"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
PROCESSES = (1, 2, 3, 4)
SHARED_ITEMS = 20_000
SQLITE, POSTGRES = "jetpay_async durable batch, SQLite", "durable batch, PostgreSQL"

QUANTITIES: Mapping[str, tuple[str, Callable[[Turn], float]]] = {
    "CPU": ("microseconds of the clients' CPU for each debit", lambda turn: turn.cost),
    "speed": ("captures per second", lambda turn: turn.per_second),
    "memory": ("peak RSS over the warmed process, MB", lambda turn: turn.growth / 1e6),
}

Points = dict[int, Turn]
"""By the number of debits or of processes."""


@attrs.frozen(kw_only=True)
class Backend:
    """Where ledgers are kept, and what was measured there; as much of it as went well."""

    name: str
    places: tuple[str, str]
    """Of the batches of growing size, and of those that processes share."""
    late: Server
    by_size: Points = attrs.Factory(Points)
    by_processes: Points = attrs.Factory(Points)
    faults: list[str] = attrs.Factory(list[str])

    @property
    def site(self) -> Site:
        """Where its variants work."""
        return Site(url=self.late.url(), in_flight=IN_FLIGHT, loop=LOOP)

    def confirm(self, debits: int, take: Callable[[], Turn]) -> Turn:
        """Take a turn, and have the server confirm that it was asked for each debit once."""
        before = self.late.requests()
        turn = take()
        if (counted := self.late.requests() - before) != debits:
            raise MiscountError(f"{counted} requests arrived for {debits} debits")
        return turn


def measure(plan: Plan, _: Server) -> Report:
    """Measure both backends, one part after the other."""
    sizes = sorted({max(IN_FLIGHT, round(min(size, plan.most) * plan.scale)) for size in SIZES})
    shared = max(IN_FLIGHT, round(min(SHARED_ITEMS, plan.most) * plan.scale))
    notes = [
        f"{LATENCY.delay * 1e3:.0f} ms latency, {IN_FLIGHT} in flight in each process, {LOOP}; submitting is left out.",
        "CPU is that of the clients alone. Several processes share the machine's cores with the servers.",
        "Their time ends when the first of them learns that the batch is complete.",
    ]
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        late = stack.enter_context(serving_late(LATENCY))
        files = str(Path(directory) / "sizes.db"), str(Path(directory) / "processes.db")
        backends = [Backend(name=SQLITE, places=files, late=late)]
        try:
            url = stack.enter_context(postgres.stock_database())
        except NoServerError as error:
            notes.append(f"PostgreSQL was not measured: {error}.")
        else:
            notes.append(postgres.describe(url))
            backends.append(Backend(name=POSTGRES, places=(url, url), late=late))
        for backend in backends:
            measure_backend(backend, sizes, shared)
    notes.extend(fault for backend in backends for fault in backend.faults)
    by_size = {backend.name: backend.by_size for backend in backends}
    by_processes = {backend.name: backend.by_processes for backend in backends}
    return Report(
        question=QUESTION,
        tables=[
            _table("One durable batch after the other in one process, outcomes streamed", "debits", by_size),
            _table(f"One durable batch of {shared:,}, captured by several processes", "processes", by_processes),
        ],
        curves=[
            *(_curve(quantity, "debits", by_size) for quantity in ("CPU", "speed", "memory")),
            *(_curve(quantity, "processes", by_processes) for quantity in ("CPU", "speed")),
        ],
        notes=notes,
    )


def measure_backend(backend: Backend, sizes: Sequence[int], shared: int) -> None:
    """Measure one backend; what fails is reported with the rest."""
    parts: dict[str, Callable[[], None]] = {"sizes": partial(grow, backend, sizes)}
    parts |= {f"{count} processes": partial(share, backend, count, shared) for count in PROCESSES}
    for part, step in parts.items():
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other parts are worth having
            traceback.print_exc()
            backend.faults.append(f"{backend.name}, {part}: failed with {type(error).__name__}.")


def grow(backend: Backend, sizes: Iterable[int]) -> None:
    """Capture batches of growing size in one fresh process."""
    contender = partial(working, ledger_name=backend.places[0])
    with Subject(contender) as subject, subjects.opened({backend.name: subject}, backend.site):
        backend.confirm(ENOUGH, partial(subject.warm, ENOUGH))
        for size in sizes:
            backend.by_size[size] = backend.confirm(size, partial(subject.turn, size))
            _say(f"{backend.name}, {size:,} debits", backend.by_size[size])


def share(backend: Backend, count: int, debits: int) -> None:
    """Capture one batch by several processes at the same time."""
    place, prefix = backend.places[1], secrets.token_hex(4)
    contender = partial(sharing, ledger_name=place, prefix=prefix)
    with ExitStack() as stack:
        running = {str(number): stack.enter_context(Subject(contender, pinned=False)) for number in range(count)}
        stack.enter_context(subjects.opened(running, backend.site))

        def together(batch: int, size: int) -> Turn:
            asyncio.run(_submit(place, f"{prefix} {batch}", size))
            for subject in running.values():
                subject.begin_turn(size)
            turns = [subject.await_turn() for subject in running.values()]
            return Turn(operations=size, cpu=sum(each.cpu for each in turns), wall=min(each.wall for each in turns))

        # The first opens the connections, and what is imported late.
        backend.confirm(ENOUGH * count, partial(together, 0, ENOUGH * count))
        backend.by_processes[count] = backend.confirm(debits, partial(together, 1, debits))
    _say(f"{backend.name}, {count} processes", backend.by_processes[count])


@asynccontextmanager
async def sharing(site: Site, ledger_name: str, prefix: str) -> AsyncIterator[Work]:
    """One of several processes that capture the same batches, until no debit is left without an outcome."""
    turns = itertools.count()
    async with (
        JetpayClient(TOKEN, base_url=site.url, max_connections=site.in_flight, timeout=TIMEOUT_SECONDS) as client,
        client.durable_captures(ledger_name, concurrency=site.in_flight, lease_seconds=LEASE_SECONDS) as captures,
    ):

        async def run(count: int) -> None:
            submitted = await captures.batch(f"{prefix} {next(turns)}")
            report = await submitted.wait()
            if report.captured != count:
                raise AssertionError(f"{report.captured} of {count} were captured")

        yield Work(run=run)


async def _submit(place: str, key: str, debits: int) -> None:
    async with Ledger(place) as ledger:
        await ledger.submit(key, (f"debit_{key.replace(' ', '_')}_{number:07}" for number in range(debits)))


def _say(what: str, turn: Turn) -> None:
    print(f"{what}: {turn.cost:.0f} us of CPU, {turn.per_second:,.0f} a second", flush=True)


def _table(title: str, x: str, found: Mapping[str, Points]) -> Table:
    grew = any(turn.growth for points in found.values() for turn in points.values())
    return Table(
        title=title,
        columns=("", x, "CPU us", "per second", *(["RSS growth MB"] if grew else [])),
        rows=[
            (
                *(name, f"{at:,}", f"{turn.cost:.1f}", f"{turn.per_second:,.0f}"),
                *([f"{turn.growth / 1e6:.1f}"] if grew else []),
            )
            for name, points in found.items()
            for at, turn in points.items()
        ],
    )


def _curve(quantity: str, x: str, found: Mapping[str, Points]) -> Curve:
    y, read = QUANTITIES[quantity]
    return Curve(
        title=f"Durable batch, {quantity} by {x}",
        x=x,
        y=y,
        lines={name: [(at, read(turn)) for at, turn in points.items()] for name, points in found.items() if points},
        base=2 if x == "processes" else 10,
    )
