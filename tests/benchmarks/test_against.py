"""The same loops are counted in two trees."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.peers import require_peers

require_peers()

from benchmarks import against, counted, serving  # noqa: E402
from benchmarks.serving import Server  # noqa: E402


@pytest.fixture
def server() -> Iterator[Server]:
    with serving.serving() as server:
        yield server


@pytest.mark.asyncio
@pytest.mark.parametrize("loop", against.LOOPS)
async def test_what_is_counted_captures(server: Server, loop: str) -> None:
    """Each loop makes as many requests as its instructions are divided by."""
    before = server.requests()

    assert await counted.carry_out(loop, 9, server.url()) == 9

    assert server.requests() - before == 9


def test_the_trees_are_counted_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ratio is that of what an item costs here to what it costs there, without what every run does once."""
    turns: list[tuple[str, str]] = []

    def count(_: str, tree: Path, loop: str, items: int, url: str) -> int:
        assert url == "http://there"
        turns.append((tree.name, loop))
        return 5_000_000 + (1_000 if tree == against.HERE else 2_000) * items

    monkeypatch.setattr(against, "count", count)

    table = against.compare("valgrind", Path("/other"), ["batch", "ledger"], "http://there")

    assert table.rows == [("batch", "2,000", "1,000", "0.500"), ("ledger", "2,000", "1,000", "0.500")]
    assert [turn for turn in turns if turn[1] == "ledger"] == 3 * [
        *2 * [("other", "ledger")],
        *2 * [(against.HERE.name, "ledger")],
    ]


@pytest.mark.parametrize(
    ("found", "tree", "message"),
    [(None, against.HERE, "valgrind is not installed"), ("valgrind", Path("/nowhere"), "has no jetpay_async in it")],
    ids=["no valgrind", "no such tree"],
)
def test_what_is_missing_is_said(found: str | None, tree: Path, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is counted where that can't be done."""
    monkeypatch.setattr(shutil, "which", lambda _: found)

    with pytest.raises(SystemExit, match=message):
        against.main([str(tree)])
