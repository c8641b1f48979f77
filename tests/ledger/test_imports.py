"""What the base install lacks: the drivers and the queue, which only those need who use them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from jetpay_async import ConfigurationError
from jetpay_async.ledger import Ledger

BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"psycopg", "psycopg_pool", "procrastinate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(script: str, *arguments: str) -> str:
    """Run a script where neither psycopg nor procrastinate is installed; return what it says."""
    command = [sys.executable, "-c", BLOCKED + script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_a_ledger_in_a_file_needs_neither(tmp_path: Path) -> None:
    """With the base install alone everything imports, and a batch can be submitted to a file."""
    script = """
import asyncio
import jetpay_async, jetpay_async.ledger
from jetpay_async.ledger import *
async def main():
    async with Ledger(sys.argv[1]) as ledger:
        print((await ledger.submit("night", ["debit_1"])).total)
asyncio.run(main())
"""
    assert run(script, str(tmp_path / "captures.db")) == "1"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            "jetpay_async.ledger.Ledger('postgresql://h/d')",
            "a ledger in PostgreSQL needs psycopg: pip install 'jetpay-async[postgres]'",
        ),
        (
            "import jetpay_async.procrastinate",
            "jetpay_async.procrastinate needs procrastinate: pip install 'jetpay-async[distributed]'",
        ),
    ],
    ids=["PostgreSQL", "several machines"],
)
def test_what_is_missing_is_named(call: str, said: str) -> None:
    """Who needs more than the base install is told what to install."""
    script = f"""
import jetpay_async.ledger
try:
    {call}
except (jetpay_async.ConfigurationError, ImportError) as error:
    print(error)
"""
    assert run(script) == said


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger in PostgreSQL is a configuration error without psycopg, in a process that has used it before, too."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "jetpay_async.ledger._postgres", raising=False)

    with pytest.raises(ConfigurationError, match=r"pip install 'jetpay-async\[postgres\]'"):
        Ledger("postgresql://h/d")


def test_a_missing_queue_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is an import error without procrastinate, in a process that has used it before, too."""
    monkeypatch.setitem(sys.modules, "procrastinate.exceptions", None)
    monkeypatch.delitem(sys.modules, "jetpay_async.procrastinate", raising=False)

    with pytest.raises(ImportError, match=r"pip install 'jetpay-async\[distributed\]'"):
        importlib.import_module("jetpay_async.procrastinate")
