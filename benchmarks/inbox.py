"""What does it cost to handle each event once, beside what a user would write by hand for that?

By hand, it is the verification, and then for each event an INSERT that does nothing if the event is known, the handler
if it is new, and a commit. All sides verify with our verifier, whose cost has a question of its own, and run the same
handler. All events are new. What a commit waits for the disk is no CPU; what the kernel does for it, is.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg.sql import SQL, Identifier

from benchmarks.measuring import CLIENT_CORE, Comparison, Spread, Turn, alternate, cpu, on_core
from benchmarks.reports import Curve, Plan, Report, Table
from benchmarks.serving import Server
from benchmarks.webhooks import KEYS, KID, PRIVATE
from jetpay_async.webhooks import (
    DebitPaid,
    DeliveryResponse,
    EventRouter,
    MemoryInbox,
    PostgresInbox,
    SqliteInbox,
    WebhookReceiver,
    WebhookVerifier,
    sign,
)
from jetpay_async.webhooks.inbox import EventInbox
from tests.postgres_server import NoServerError, postgres_server

QUESTION = "What does it cost to handle each event once?"
WEBHOOK_ID = 1
MARK_WITHIN_SECONDS = 0.05
GOAL_COUNTS = (1, 10, 100)
DELIVERIES = {1: 30, 3: 12, 10: 5, 30: 2, 100: 1}
"""By events per delivery, how many of them a variant receives in a round: by hand each event waits for the disk."""
QUICK_ROUNDS = 3

SQLITE, POSTGRES = "SQLite by hand", "PostgreSQL by hand"
OURS_SQLITE, OURS_POSTGRES = "SqliteInbox", "PostgresInbox"
GROUPED = "{}, mark_within"

Delivered = tuple[bytes, str]
Receive = Callable[[bytes, str], Awaitable[object]]


def measure(plan: Plan, _: Server) -> Report:
    """Compare at 1 to 100 events a delivery."""
    notes: list[str] = []
    with ExitStack() as stack:
        url: str | None = None
        try:
            url = stack.enter_context(postgres_server(fsync=True))
        except NoServerError as error:
            notes.append(f"PostgreSQL was not measured: {error}.")
        # After the server was started, which may run wherever there is room.
        stack.enter_context(on_core(CLIENT_CORE))
        comparisons, served = asyncio.run(_compare_all(plan, url))
    figures: dict[str, Spread] = {}
    for count in GOAL_COUNTS:
        for (ours, by_hand), compared in comparisons[count].items():
            figures[goal_name(ours, count)] = compared.ratio(ours, by_hand)
    tables: list[Table] = []
    if served:
        tables.append(
            Table(
                title="CPU of PostgreSQL's own process for each delivery, microseconds",
                columns=("events per delivery", *served),
                rows=[
                    (str(count), *(f"{each[count] * 1e6:,.0f}" for each in served.values())) for count in comparisons
                ],
            )
        )
    return Report(
        question=QUESTION,
        figures=figures,
        comparisons=[compared for each in comparisons.values() for compared in each.values()],
        tables=tables,
        curves=[_curve(comparisons)] if len(comparisons) > len(GOAL_COUNTS) else [],
        notes=[
            "By hand: our verifier, then INSERT, handler and COMMIT for each event. A figure is of a delivery.",
            *notes,
        ],
    )


def goal_name(ours: str, count: int) -> str:
    """Name the goal: ours against what is written by hand for the same database."""
    return f"receiver with {ours} / by hand, a commit an event; events: {count}"


def _curve(comparisons: Mapping[int, Mapping[tuple[str, str], Comparison]]) -> Curve:
    lines: dict[str, list[tuple[float, float]]] = {}
    for count, each in comparisons.items():
        for compared in each.values():
            for name in compared.turns:
                cost = compared.spread(name, "cost").median / count
                label = name if " by hand" in name else f"jetpay_async, {name}"
                lines.setdefault(label, []).append((count, cost))
    return Curve(
        title="Cost of an event by events per delivery",
        x="events per delivery",
        y="microseconds of CPU for one event",
        lines=lines,
    )


async def _compare_all(
    plan: Plan, url: str | None
) -> tuple[dict[int, dict[tuple[str, str], Comparison]], dict[str, dict[int, float]]]:
    """Compare at each number of events; return what the servers' processes used, too."""
    comparisons: dict[int, dict[tuple[str, str], Comparison]] = {}
    served: dict[str, dict[int, float]] = {}
    rounds = min(plan.rounds, QUICK_ROUNDS) if plan.quick else plan.rounds
    async with _sqlite_variants() as in_file, _postgres_variants(url) as in_server:
        for count, deliveries in DELIVERIES.items():
            if plan.quick and count not in GOAL_COUNTS:
                continue
            needed = max(1, round(deliveries * min(1.0, plan.scale * 1e3)))
            comparisons[count] = {}
            for kind, by_hand, variants in (
                (OURS_SQLITE, SQLITE, in_file),
                (OURS_POSTGRES, POSTGRES, {name: each.receive for name, each in in_server.items()}),
            ):
                if variants:
                    title = f"Deliveries of {count} events, {kind}"
                    comparisons[count][kind, by_hand] = await _compare(
                        title, variants, by_hand, rounds=rounds, count=count, deliveries=needed
                    )
            for name, variant in in_server.items():
                before = variant.server_cpu()
                for delivered in (signed := _deliveries(count, needed)):
                    await variant.receive(*delivered)
                if before is not None:
                    used = (variant.server_cpu() or before) - before
                    served.setdefault(name, {})[count] = used / len(signed)
    return comparisons, served


async def _compare(
    title: str, variants: Mapping[str, Receive], baseline: str, *, rounds: int, count: int, deliveries: int
) -> Comparison:
    turns: dict[str, list[Turn]] = {name: [] for name in variants}
    for receive in variants.values():
        for delivered in _deliveries(count, 1):
            await receive(*delivered)
    for number in range(rounds):
        signed = _deliveries(count, deliveries)
        for name in alternate(list(variants), 1, first=number):
            receive = variants[name]
            began, at = cpu(), time.perf_counter()
            for body, authorization in signed:
                await receive(body, authorization)
            turns[name].append(Turn(operations=deliveries, cpu=cpu() - began, wall=time.perf_counter() - at))
    return Comparison(title=title, turns=turns, baseline=baseline)


_ids = itertools.count(1)


def _deliveries(count: int, number: int) -> Sequence[Delivered]:
    """Sign deliveries of new events."""
    signed: list[Delivered] = []
    for _ in range(number):
        events = [
            {
                "id": event_id,
                "createdAt": "2026-01-22T10:15:30Z",
                "type": "transactions.debits.created",
                "data": {"state": "paid", "transactionId": f"41fc05d5-3148-4ee2-bfdf-{event_id:012}"},
            }
            for event_id in itertools.islice(_ids, count)
        ]
        body = json.dumps({"webhookId": WEBHOOK_ID, "events": events}).encode()
        signed.append((body, sign(body, PRIVATE, kid=KID)))
    return signed


class Variant:
    """One way to receive deliveries over PostgreSQL.

    Args:
        receive: Receives one.
        backend: Returns the id of the server's process that serves it; None if it is not on this machine.
    """

    def __init__(self, receive: Receive, backend: int | None) -> None:
        self.receive = receive
        self._backend = backend

    def server_cpu(self) -> float | None:
        """Seconds of CPU that the server's process has used; None where that can't be read."""
        with contextlib.suppress(OSError, ValueError):
            return int(Path(f"/proc/{self._backend}/schedstat").read_text().split()[0]) / 1e9
        return None


def _through(inbox: EventInbox, within: float | None = None) -> Receive:
    router = EventRouter()
    router.on(DebitPaid)(_handle)
    verifier = WebhookVerifier(KEYS, webhook_ids={WEBHOOK_ID})
    receiver = WebhookReceiver(verifier, router, inbox=inbox)
    if within is not None:
        receiver = WebhookReceiver(verifier, router, inbox=inbox, mark_within=within)

    async def receive(body: bytes, authorization: str) -> None:
        response: DeliveryResponse = await receiver.receive(body, authorization)
        if response.status != 200 or response.skipped or response.left:
            raise AssertionError(response)

    return receive


async def _handle(_: DebitPaid) -> None:
    """Take no time."""


@asynccontextmanager
async def _sqlite_variants() -> AsyncGenerator[Mapping[str, Receive]]:
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        connection = stack.enter_context(closing(sqlite3.connect(place / "by_hand.db", isolation_level=None)))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE handled (event_id INTEGER PRIMARY KEY)")
        yield {
            SQLITE: _by_hand_in_sqlite(connection),
            OURS_SQLITE: _through(await stack.enter_async_context(SqliteInbox(place / "each.db"))),
            GROUPED.format(OURS_SQLITE): _through(
                await stack.enter_async_context(SqliteInbox(place / "grouped.db")), MARK_WITHIN_SECONDS
            ),
            "MemoryInbox": _through(MemoryInbox()),
        }


def _by_hand_in_sqlite(connection: sqlite3.Connection) -> Receive:
    verifier = WebhookVerifier(KEYS, webhook_ids={WEBHOOK_ID})

    async def receive(body: bytes, authorization: str) -> None:
        delivery = await verifier.verify(body, authorization)
        for event in delivery.events:
            connection.execute("BEGIN IMMEDIATE")
            inserted = connection.execute("INSERT INTO handled VALUES (?) ON CONFLICT DO NOTHING", (event.id,))
            if inserted.rowcount and isinstance(event, DebitPaid):
                await _handle(event)
            connection.execute("COMMIT")

    return receive


@asynccontextmanager
async def _postgres_variants(url: str | None) -> AsyncGenerator[Mapping[str, Variant]]:
    if url is None:
        yield {}
        return
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(_new_database(url))
        connection = await stack.enter_async_context(await psycopg.AsyncConnection.connect(database))
        await connection.execute("CREATE TABLE handled (event_id bigint PRIMARY KEY)")
        await connection.commit()
        found = {POSTGRES: Variant(_by_hand_in_postgres(connection), connection.info.backend_pid)}
        for name, within in ((OURS_POSTGRES, None), (GROUPED.format(OURS_POSTGRES), MARK_WITHIN_SECONDS)):
            inbox = await stack.enter_async_context(PostgresInbox(database, source=name))
            await inbox.create_tables()
            connected = inbox._connection  # noqa: SLF001 - whose process is to be measured
            found[name] = Variant(_through(inbox, within), connected.info.backend_pid if connected else None)
        yield found


@asynccontextmanager
async def _new_database(url: str) -> AsyncGenerator[str]:
    name = f"jetpay_benchmark_{uuid.uuid4().hex}"
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        await connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def _by_hand_in_postgres(connection: psycopg.AsyncConnection) -> Receive:
    verifier = WebhookVerifier(KEYS, webhook_ids={WEBHOOK_ID})

    async def receive(body: bytes, authorization: str) -> None:
        delivery = await verifier.verify(body, authorization)
        for event in delivery.events:
            inserted = await connection.execute(
                "INSERT INTO handled (event_id) VALUES (%s) ON CONFLICT DO NOTHING", (event.id,)
            )
            if inserted.rowcount and isinstance(event, DebitPaid):
                await _handle(event)
            await connection.commit()

    return receive
