"""The documentation's queues behind the receiver, each run as far as it goes without a broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, patch

import pytest

from jetpay_async.webhooks.inbox import EventInbox
from jetpay_async.webhooks.receiver import WebhookReceiver
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox
from tests.webhooks.receivers import TOKEN, Trusting, delivery_of
from tests.webhooks.serving import Pages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    with Pages(tmp_path, monkeypatch) as pages:
        yield pages


def receiver_for(page: ModuleType, inbox: EventInbox | None = None) -> WebhookReceiver:
    return WebhookReceiver(Trusting(), page.router, inbox=inbox or MemoryInbox())  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_procrastinate_queues_in_the_transaction_of_the_mark(
    pages: Pages, postgres_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job is there if and only if its event is marked, however often it is delivered; a worker then runs it."""
    tasks = pytest.importorskip("procrastinate.tasks", reason="pip install 'jetpay-async[distributed]'")
    if "connection" not in tasks.ConfigureTaskOptions.__annotations__:
        pytest.skip("this release of procrastinate does not queue on the user's connection")
    monkeypatch.setenv("DATABASE_URL", postgres_database)
    page = await asyncio.to_thread(pages.load, "queue_procrastinate")
    async with page.app.open_async(), page.inbox:
        await page.app.schema_manager.apply_schema_async()
        await page.inbox.create_tables()
        receiver = receiver_for(page, page.inbox)
        with patch.object(page.inbox, "mark_handled", side_effect=ZeroDivisionError):
            assert (await receiver.receive(delivery_of(1), TOKEN)).reason == "handler_failed"
        assert await jobs(page) == []

        answers = [await receiver.receive(delivery_of(1, 2), TOKEN) for _ in range(2)]

        assert [(answer.handled, answer.skipped) for answer in answers] == [(2, 0), (0, 2)]
        assert await jobs(page) == [("t-1", "jetpay-1"), ("t-2", "jetpay-2")]
        await page.app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)
    assert sorted(capsys.readouterr().out.splitlines()) == ["shipped: t-1 (1)", "shipped: t-2 (2)"]


async def jobs(page: Any) -> list[tuple[str, str]]:
    found = await page.app.job_manager.list_jobs_async()
    return sorted((job.lock, job.queueing_lock) for job in found)


@pytest.mark.asyncio
async def test_celery_gets_the_id_of_the_event(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The task's message carries the event's id, and the task takes what the message has."""
    pytest.importorskip("celery", reason="celery is not installed: pip install --group frameworks")
    monkeypatch.setenv("BROKER_URL", "memory://")
    page = await asyncio.to_thread(pages.load, "queue_celery")
    try:
        assert (await receiver_for(page).receive(delivery_of(1), TOKEN)).handled == 1
        with page.celery.connection() as connection, connection.SimpleQueue("celery") as queued:
            message = queued.get_nowait()
            message.ack()
    finally:
        page.celery.close()

    assert message.headers["id"] == "jetpay-1"
    page.ship(*message.payload[0])
    assert capsys.readouterr().out == "shipped: t-1 (1)\n"


@pytest.mark.asyncio
async def test_taskiq_gets_the_id_of_the_event(pages: Pages, capsys: pytest.CaptureFixture[str]) -> None:
    """The job runs under the event's id."""
    pytest.importorskip("taskiq", reason="taskiq is not installed: pip install --group frameworks")
    page = await asyncio.to_thread(pages.load, "queue_taskiq")
    assert (await receiver_for(page).receive(delivery_of(1), TOKEN)).handled == 1
    await page.broker.wait_all()

    assert await page.broker.result_backend.is_result_ready("jetpay-1")
    await page.broker.shutdown()
    assert capsys.readouterr().out == "shipped: t-1 (1)\n"


@pytest.mark.asyncio
async def test_arq_queues_an_event_once(pages: Pages, capsys: pytest.CaptureFixture[str]) -> None:
    """An event that is handled twice, as after a crash before the mark, is one job, which a worker runs."""
    pytest.importorskip("arq", reason="arq is not installed: pip install --group frameworks")
    fakeredis = pytest.importorskip("fakeredis", reason="fakeredis is not installed: pip install --group frameworks")
    page: Any = await asyncio.to_thread(pages.load, "queue_arq")
    from arq import ArqRedis, Worker

    server = fakeredis.FakeAsyncRedis()
    page.redis = ArqRedis(server.connection_pool)
    for _ in range(2):
        assert (await receiver_for(page).receive(delivery_of(1), TOKEN)).handled == 1

    assert [job.job_id for job in await page.redis.queued_jobs()] == ["jetpay-1"]
    worker = Worker(page.WorkerSettings.functions, redis_pool=page.redis, burst=True, handle_signals=False)
    with patch("arq.worker.log_redis_info", AsyncMock()):  # the fake has no INFO
        await worker.main()
    await server.aclose()
    assert capsys.readouterr().out == "shipped: t-1 (1)\n"
