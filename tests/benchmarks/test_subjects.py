"""Variants in processes of their own, and who counts what they do."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from benchmarks import serving, subjects
from benchmarks.measuring import CLIENT_CORE, on_core
from benchmarks.serving import ReplyDelay, Server
from benchmarks.subjects import MiscountError, Site, Subject, Work, repeated


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving.serving_late(ReplyDelay()) as server:
        yield server


@pytest.fixture
def site(server: Server) -> Site:
    return Site(url=server.url(), in_flight=4, loop="uvloop")


@asynccontextmanager
async def honest(site: Site) -> AsyncIterator[Work]:
    async with aiohttp.ClientSession() as session:

        async def capture(debit_id: str) -> None:
            async with session.post(f"{site.url}/debit/{debit_id}/capture") as response:
                await response.read()

        yield repeated(capture, site.in_flight)


@asynccontextmanager
async def idle(_: Site) -> AsyncIterator[Work]:
    async def run(_: int) -> None:
        pass

    yield Work(run=run)


@asynccontextmanager
async def broken(_: Site) -> AsyncIterator[Work]:
    async def run(_: int) -> None:
        raise LookupError("no such debit")

    yield Work(run=run)


@asynccontextmanager
async def lucky(_: Site) -> AsyncIterator[Work]:
    async def run(_: int) -> None:
        assert os.environ["MALLOC_TRIM_THRESHOLD_"], "gives memory back as luck will have it"

    yield Work(run=run)


@asynccontextmanager
async def elsewhere(site: Site) -> AsyncIterator[Work]:
    async def run(_: int) -> None:
        with on_core(CLIENT_CORE):
            expected: Any = os.sched_getaffinity(0)
        assert os.sched_getaffinity(0) == expected, "not on the client's core"
        assert type(asyncio.get_running_loop()).__module__.startswith(site.loop), "another loop"

    yield Work(run=run)


def compare(site: Site, server: Server, **contenders: subjects.Contender) -> subjects.Comparison:
    with subjects.started(contenders) as running:
        return subjects.compare("", running, site, server, baseline=next(iter(contenders)), rounds=3, operations=10)


def test_each_variant_takes_a_turn_in_each_round(site: Site, server: Server) -> None:
    """A turn is of as many operations as was said, each confirmed by the server."""
    before = server.requests()

    comparison = compare(site, server, one=honest, other=honest)

    assert {name: [turn.operations for turn in turns] for name, turns in comparison.turns.items()} == {
        "one": [10, 10, 10],
        "other": [10, 10, 10],
    }
    assert server.requests() - before == 2 * (4 + subjects.ENOUGH + 3 * 10)


def test_a_round_is_made_of_several_turns(site: Site, server: Server) -> None:
    """Variants take turns inside a round too."""
    before = server.requests()

    with subjects.started({"one": honest, "other": honest}) as running:
        comparison = subjects.compare("", running, site, server, baseline="one", rounds=2, operations=10, slices=3)

    assert {name: [turn.operations for turn in turns] for name, turns in comparison.turns.items()} == {
        "one": [30, 30],
        "other": [30, 30],
    }
    assert server.requests() - before == 2 * (4 + subjects.ENOUGH + 2 * 30)


def test_no_round_is_begun_that_would_not_end_in_time(site: Site, server: Server) -> None:
    """Where the time is up, the first few are made all the same."""
    with subjects.started({"one": honest}) as running:
        rounds = {
            left: len(
                subjects.compare(
                    "",
                    running,
                    site,
                    server,
                    baseline="one",
                    rounds=5,
                    operations=10,
                    ends_at=time.monotonic() + left,
                ).turns["one"]
            )
            for left in (-1.0, 3600.0)
        }

    assert rounds == {-1.0: subjects.LEAST_ROUNDS, 3600.0: 5}


def test_idle_connections_are_opened_before_a_turn(site: Site, server: Server) -> None:
    """Who was idle for long makes as many requests as may be in flight, which are not measured."""
    before = server.requests()

    with subjects.started({"one": honest}) as running:
        comparison = subjects.compare("", running, site, server, baseline="one", rounds=3, operations=10, idle=0.0)

    assert [turn.operations for turn in comparison.turns["one"]] == [10, 10, 10]
    assert server.requests() - before == 4 + subjects.ENOUGH + 3 * (4 + 10)


def test_what_costs_nothing_is_not_believed(site: Site, server: Server) -> None:
    """A variant whose requests the server did not see gives no figure."""
    with pytest.raises(MiscountError, match="0 requests arrived for 4 operations"):
        compare(site, server, idle=idle)


def test_a_variant_that_fails_says_why(site: Site, server: Server) -> None:
    """A failure in another process is reported with its traceback."""
    with pytest.raises(RuntimeError, match="LookupError: no such debit"):
        compare(site, server, broken=broken)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no process can choose its core here")
@pytest.mark.parametrize("loop", subjects.LOOPS)
def test_a_variant_runs_where_and_how_it_was_said(server: Server, loop: str) -> None:
    """A variant has the client's core, and the loop that is named."""
    with Subject(elsewhere) as subject, subjects.opened({"": subject}, Site(url=server.url(), in_flight=1, loop=loop)):
        assert subject.turn(1).operations == 1


def test_no_variant_is_lucky_with_its_memory(server: Server) -> None:
    """Every variant keeps the memory that it has, and nothing but variants is started that way."""
    site = Site(url=server.url(), in_flight=1, loop="asyncio")
    with Subject(lucky) as subject, subjects.opened({"": subject}, site):
        assert subject.turn(1).operations == 1

    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ


@pytest.mark.asyncio
async def test_workers_do_as_much_as_asked_and_no_more_at_a_time() -> None:
    """As many operations as asked for, on debits of their own, with a fixed number in flight."""
    debits: list[str] = []
    flying: list[int] = [0]

    async def operation(debit_id: str) -> None:
        debits.append(debit_id)
        flying[0] += 1
        flying.append(flying[0])
        await asyncio.sleep(0)
        flying[0] -= 1

    work = repeated(operation, in_flight=3)
    await work.run(10)
    await work.run(5)

    assert len(debits) == len(set(debits)) == 15
    assert max(flying) == 3
