"""A ledger in a file is one file under one name: before a run, and as long as it lasts."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jetpay_async import JetpayClient
from jetpay_async.ledger import CapturesStoppedError, Ledger, LedgerError
from tests.ledger.service import WAIT, Service, debits, serving

KEY = "night"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captures.db"


@pytest.mark.asyncio
async def test_a_ledger_with_two_names_is_refused(path: Path, tmp_path: Path) -> None:
    """By neither of two hard links anything is sent; with one name left, the ledger is used."""
    async with Ledger(path) as ledger:
        await ledger.submit(KEY, debits(2))
    link = tmp_path / "link.db"
    os.link(path, link)

    async with serving() as (service, client):
        for name in (path, link):
            with pytest.raises(LedgerError, match=r"^the ledger .*has 2 names \(hard links\)"):
                async with client.durable_captures(name):
                    pass
        path.unlink()
        async with client.durable_captures(link) as captures:
            assert (await (await captures.batch(KEY)).wait()).captured == 2

    assert set(service.captures.values()) == {1}


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def replace(path: Path) -> None:
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def remove_log(path: Path) -> None:
    path.with_name("captures.db-wal").unlink()


async def run_until(client: JetpayClient, service: Service, path: Path, disturb: Callable[[Path], None]) -> str:
    """Begin a batch, disturb its ledger while the first requests are in flight; return why the run stopped."""
    service.always = WAIT
    with pytest.raises((CapturesStoppedError, LedgerError)) as caught:
        async with client.durable_captures(path, concurrency=4) as captures:
            batch = await captures.submit(KEY, debits(200))
            await service.arrived.wait()
            disturb(path)
            service.go.set()
            async with asyncio.timeout(10):
                await batch.wait()
    return str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("disturb", "said"),
    [
        (remove, r"captures\.db was moved or removed"),
        (move, r"captures\.db was moved or removed"),
        (replace, r"captures\.db was replaced by another file"),
        (remove_log, r"captures\.db-wal was moved or removed"),
    ],
    ids=["removed", "moved", "replaced", "log removed"],
)
async def test_a_run_stops_when_its_ledger_is_gone(path: Path, disturb: Callable[[Path], None], said: str) -> None:
    """What is committed after that is lost: so nothing more is sent than was in flight, and no success is reported."""
    async with serving() as (service, client):
        message = await run_until(client, service, path, disturb)

    assert re.search(said, message)
    assert service.captures.total() < 50


@pytest.mark.asyncio
async def test_a_moved_ledger_that_is_put_back_goes_on(path: Path) -> None:
    """Moved back to its place, the ledger knows what was intended: nothing is captured twice."""
    async with serving(timeout=2.0) as (service, client):
        await run_until(client, service, path, move)
        path.with_name("moved.db").rename(path)
        service.always = None
        async with client.durable_captures(path) as captures:
            report = await (await captures.submit(KEY, debits(200))).wait()

    assert report.captured == 200
    assert set(service.captures.values()) == {1}
