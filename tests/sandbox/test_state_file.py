"""The file that keeps a sandbox's state."""

from __future__ import annotations

import asyncio
import json
import stat
from typing import TYPE_CHECKING

import aiohttp
import pytest

from jetpay_async.sandbox import Sandbox, _state_file, serve

from .calling import Caller, until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.asyncio
async def test_it_is_written_at_the_start_after_changes_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has the state from the start on, follows each change, and is readable by its owner alone."""
    monkeypatch.setattr(_state_file, "_SAVE_INTERVAL_SECONDS", 0.0)
    file, sandbox = tmp_path / "state.json", Sandbox()

    def kept() -> int:
        return len(json.loads(file.read_text())["account"]["transactions"])

    async with sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        async with _state_file.kept(sandbox, file):
            assert kept() == 0
            await caller.reserve()
            await until(lambda: kept() == 1)
            monkeypatch.setattr(_state_file, "_SAVE_INTERVAL_SECONDS", 600.0)
            await caller.reserve()
        assert kept() == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.asyncio
async def test_serve_keeps_it_until_it_is_asked_to_stop(tmp_path: Path) -> None:
    """`serve` says which file it keeps, and returns when its event is set."""
    file, stop = tmp_path / "state.json", asyncio.Event()
    announced: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.create_task(serve(Sandbox(), announce=announced.put_nowait, state_file=file, stop=stop))

    assert f"; {file} keeps its state." in await announced.get()
    stop.set()
    await serving
    assert file.exists()


@pytest.mark.asyncio
async def test_a_failure_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the new file can't be put in place, the old one stays, and no other file is left."""
    file = tmp_path / "state"
    file.mkdir()
    sandbox = Sandbox()

    with pytest.raises(OSError, match="state"):
        async with _state_file.kept(sandbox, file):
            raise AssertionError

    assert list(tmp_path.iterdir()) == [file]
