"""A ledger that can't be written stops a run before anything is sent, with an error that says what to do."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jetpay_async.ledger import Ledger
from tests.ledger import runner
from tests.ledger.assertions import captured_once
from tests.ledger.processes import CountingApi, counting_api, pipeline
from tests.ledger.scale import TIMES

DEBITS = 400


async def run(api: CountingApi, directory: Path, ledger: Path, **options: Any) -> dict[str, Any]:
    """Run the batch once; return how it ended."""
    async with pipeline(api, directory, debits=DEBITS, ledger=str(ledger), **{**TIMES, **options}) as (each,):
        await each.start()
        return await each.end()


async def submitted(ledger: Path) -> None:
    """Leave a batch in the ledger of which nothing has been sent."""
    async with Ledger(ledger) as opened:
        await opened.submit(runner.KEY, runner.debit_ids(DEBITS))


async def abandoned(directory: Path, ledger: Path) -> None:
    """Leave the same, with all that a process leaves behind that is killed before it sends anything."""
    async with (
        counting_api() as api,
        pipeline(api, directory, debits=DEBITS, ledger=str(ledger), pause_at=1, **TIMES) as (each,),
    ):
        await each.start()
        await each.says("paused")


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that any user may read."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk here: {mounted.stderr.decode()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.endurance
@pytest.mark.asyncio
async def test_a_full_disk(tmp_path: Path, tiny_disk: Path) -> None:
    """On a disk that fills up while the batch runs, nothing is sent whose intent isn't on it; with room, it goes on."""
    ledger = tiny_disk / "captures.db"
    async with counting_api() as api:
        filler = tiny_disk / "filler"
        await abandoned(tmp_path, ledger)
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1024))
        end = await run(api, tmp_path, ledger)
        totals = await api.totals()
        filler.unlink()
        last = await run(api, tmp_path, ledger)

        await captured_once(api, str(ledger), DEBITS)
    assert end["said"] in {"failed", "stopped"}
    assert "disk is full" in end["message"] + end["cause"]
    assert totals["requests"] == 0
    assert last["said"] == "done"


@pytest.mark.endurance
@pytest.mark.asyncio
async def test_a_limit_on_files(tmp_path: Path) -> None:
    """Where the file can't grow any more, nothing is sent."""
    ledger = tmp_path / "captures.db"
    await abandoned(tmp_path, ledger)
    async with counting_api() as api:
        end = await run(api, tmp_path, ledger, largest_file=1024)
        totals = await api.totals()
    assert end["said"] in {"failed", "stopped"}
    assert "run the same again" in end["message"]
    assert totals["requests"] == 0


@pytest.mark.asyncio
async def test_a_file_that_may_not_be_written(open_to_all: Path, tmp_path: Path) -> None:
    """A file in a directory that the process may not write is not used."""
    ledger = open_to_all / "captures.db"
    await abandoned(tmp_path, ledger)
    async with counting_api() as api:
        if os.geteuid() == 0:
            end = await run(api, tmp_path, ledger, user=65534)
        else:
            open_to_all.chmod(0o555)
            ledger.chmod(0o444)
            end = await run(api, tmp_path, ledger)
            open_to_all.chmod(0o755)
        totals = await api.totals()
    assert end["said"] == "failed"
    assert "unable to open" in end["message"]
    assert "can be written" in end["message"]
    assert totals["requests"] == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("place", ["start", "middle"])
async def test_a_damaged_file(tmp_path: Path, place: str) -> None:
    """A file that is damaged says so."""
    ledger = tmp_path / "captures.db"
    await submitted(ledger)
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = ledger.stat().st_size
    with ledger.open("r+b") as file:
        if place == "middle":
            file.seek(4096)
        file.write(b"\xa5" * (100 if place == "start" else size - 4096))
    async with counting_api() as api:
        end = await run(api, tmp_path, ledger)
        totals = await api.totals()
    assert end["said"] == "failed"
    assert "damaged: " in end["message"]  # unlike the path
    assert totals["requests"] == 0


@pytest.mark.asyncio
async def test_a_file_that_another_process_holds(tmp_path: Path) -> None:
    """While another process holds the file nothing is sent; a run that waited too long says who is to end what."""
    ledger = tmp_path / "captures.db"
    await submitted(ledger)
    async with counting_api() as api:
        with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            end = await run(api, tmp_path, ledger, busy_timeout=0.3)
            totals = await api.totals()
            async with pipeline(api, tmp_path, debits=DEBITS, ledger=str(ledger), **TIMES) as (waiting,):
                await waiting.start()
                await asyncio.sleep(1.0)
                held = await api.totals()
                connection.execute("ROLLBACK")
                last = await waiting.end()

        await captured_once(api, str(ledger), DEBITS)
    assert end["said"] == "failed"
    assert "another process holds it" in end["message"]
    assert totals["requests"] == held["requests"] == 0
    assert last["said"] == "done"


@pytest.mark.asyncio
async def test_a_file_that_is_held_in_the_middle(tmp_path: Path) -> None:
    """A file that another process holds for a while, in the middle of a run, delays the rest and doubles nothing."""
    ledger = tmp_path / "captures.db"
    async with (
        counting_api() as api,
        pipeline(api, tmp_path, debits=DEBITS, ledger=str(ledger), **TIMES) as (each,),
    ):
        await each.start()
        await each.says("submitted")
        await api.wait(captured=DEBITS // 4)
        with closing(sqlite3.connect(ledger, isolation_level=None, timeout=10)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(TIMES["timeout"] / 2)
            connection.execute("ROLLBACK")
        last = await each.end()

        await captured_once(api, str(ledger), DEBITS)
    assert last["said"] == "done"


@pytest.mark.asyncio
async def test_another_applications_database(tmp_path: Path) -> None:
    """A database that is somebody else's is left alone."""
    ledger = tmp_path / "captures.db"
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("CREATE TABLE queued (id INTEGER)")
    async with counting_api() as api:
        end = await run(api, tmp_path, ledger)
        totals = await api.totals()
    with closing(sqlite3.connect(ledger)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    assert end["said"] == "failed"
    assert "file of its own" in end["message"]
    assert totals["requests"] == 0
    assert tables == ["queued"]


@pytest.mark.asyncio
async def test_a_newer_schema(tmp_path: Path) -> None:
    """A ledger of a later release is not touched."""
    ledger = tmp_path / "captures.db"
    await submitted(ledger)
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("UPDATE jetpay_ledger SET version = version + 1")
    async with counting_api() as api:
        end = await run(api, tmp_path, ledger)
        totals = await api.totals()
    assert end["said"] == "failed"
    assert "upgrade jetpay_async" in end["message"]
    assert totals["requests"] == 0
