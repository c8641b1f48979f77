"""The documentation's recipes for other engines: a chunk at a time, cut off and run again, each debit once."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.ledger.service import Service, debits

pytestmark = pytest.mark.endurance

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"

KEY = "2026-11-22"


def recipe(name: str) -> str:
    """A block of the page, by its first line."""
    (text,) = re.findall(rf"```python\n(# {name}\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(text)


@pytest.mark.parametrize("name", ["night", "night_dbos", "night_temporal", "night_celery"])
def test_recipes_are_python(name: str) -> None:
    """Every recipe of the page compiles."""
    compile(recipe(name), f"{name}.py", "exec")


@pytest.mark.asyncio
async def test_dbos_killed_and_started_again(tmp_path: Path) -> None:
    """With DBOS, a batch whose process is killed in the middle goes on when it is started again: nothing twice."""
    pytest.importorskip("dbos", reason="DBOS is not installed: pip install --group frameworks")
    quick = "from_env(timeout=1.0, retry=RetryPolicy(resolve_after=0.2, resolve_after_timeout=0.2))"
    text = recipe("night_dbos").replace("from_env()", quick).replace("JetpayClient\n", "JetpayClient, RetryPolicy\n")
    (tmp_path / "night_dbos.py").write_text(text)
    async with Service().listen() as service:
        environment = {
            **os.environ,
            "JETPAY_API_TOKEN": "token-that-must-not-show",
            "JETPAY_BASE_URL": service.url,
            "LEDGER": str(tmp_path / "captures.db"),
            "DBOS_SYSTEM_DATABASE_URL": f"sqlite:///{tmp_path / 'dbos.db'}",
        }

        async def start() -> asyncio.subprocess.Process:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "night_dbos.py",
                KEY,
                cwd=tmp_path,
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            assert process.stdin is not None
            process.stdin.write("\n".join(debits(700)).encode())
            process.stdin.write_eof()
            return process

        first = await start()
        async with asyncio.timeout(60):
            while service.captures.total() < 300:
                await asyncio.sleep(0.01)
        first.kill()
        await first.communicate()
        cut_off_at = service.captures.total()
        second = await start()
        async with asyncio.timeout(60):
            said, _ = await second.communicate()

    assert cut_off_at < 700
    assert said.split()[-2:] == [b"captured", b"700"]
    assert second.returncode == 0
    assert service.captures == Counter(debits(700))
