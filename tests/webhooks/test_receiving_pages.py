"""What the documentation says about receiving, done as it says."""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from jetpay_async.webhooks.sqlite_inbox import SqliteInbox
from tests.webhooks.receiving import body_of, document, until
from tests.webhooks.serving import Pages, asgi, authorization, blocks, key_server, listen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Run by test_frameworks.py, test_own_transaction.py, test_queues.py, and in tests/ledger by test_engine_recipes.py and
# test_user_transactions.py.
ELSEWHERE = {"app_aiohttp", "app_starlette", "app_litestar", "app_quart", "app_django", "app_sanic", "app_asgi"} | {
    "shop_sqlite",
    "shop_postgres",
    "shop_ledger",
    "shop_states",
    "queue_procrastinate",
    "queue_celery",
    "queue_taskiq",
    "queue_arq",
    "night",
    "night_celery",
    "night_dbos",
    "night_temporal",
}
# Run by tests/test_client_pages.py.
CLIENT = {"payments", "sync_payments", "sync_django", "sync_flask", "sync_celery"} | {
    f"client_{name}" for name in ("aiohttp", "fastapi", "starlette", "litestar", "quart", "sanic", "django")
}
# Run by tests/test_deployment_pages.py.
DEPLOYMENT = {"machine", "machine_webhooks", "proxy_environment", "proxy_session", "proxy_keys"}


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    with Pages(tmp_path, monkeypatch) as pages:
        yield pages


def test_every_block_is_run() -> None:
    """No block of the documentation that has a name goes unexecuted."""
    assert set(blocks()) == ELSEWHERE | CLIENT | DEPLOYMENT | {"shop", "app", "pay", "shop_early"}


@pytest.mark.asyncio
async def test_three_minutes(pages: Pages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From a FastAPI app to a verified, typed, handled paid event of the sandbox's: the three files, as printed."""
    for needed in ("fastapi", "uvicorn"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install --group frameworks")
    with listen() as unused:
        port = unused.getsockname()[1]
    with listen() as unused:
        shop_port = unused.getsockname()[1]
    pages.change("pay", "port=8001", f"port={port}")
    pages.change("pay", "127.0.0.1:8000", f"127.0.0.1:{shop_port}")
    monkeypatch.setenv("JETPAY_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("JETPAY_WEBHOOK_IDS", "1")
    sandbox_is_up, enter = threading.Event(), threading.Event()
    prompts: list[str] = []

    def press_enter(prompt: str) -> str:
        prompts.append(prompt)
        sandbox_is_up.set()
        assert enter.wait(5)
        return ""

    monkeypatch.setattr("builtins.input", press_enter)
    paying = asyncio.create_task(asyncio.to_thread(pages.load, "pay"))
    await asyncio.to_thread(sandbox_is_up.wait, 5)
    async with asgi(pages.load("app").app, port=shop_port):
        enter.set()
        await paying

    assert prompts == ["The sandbox is up. Start the app, then press Enter. "]
    paid, captured = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"paid: \S+", paid)
    assert captured == f"captured {paid.removeprefix('paid: ')}, and the shop knows: True"


def test_the_app_can_be_started_twice(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test of an application starts it, in an event loop of its own: the second one receives like the first."""
    pytest.importorskip("fastapi", reason="fastapi is not installed: pip install --group frameworks")
    body = body_of([document(1)])
    with serving_keys() as url:
        monkeypatch.setenv("JETPAY_BASE_URL", url)
        monkeypatch.setenv("JETPAY_WEBHOOK_IDS", "123")
        app = pages.load("app").app

        for _ in range(2):
            statuses = asyncio.run(started(app, body))
            assert statuses == {"lifespan": "lifespan.shutdown.complete", "delivery": 200}


@contextmanager
def serving_keys() -> Iterator[str]:
    """Publish the keys from a thread, for loops that come and go."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = key_server()
    try:
        yield asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(5)
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(5)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def started(app: Any, body: bytes) -> dict[str, object]:
    """Start an ASGI application, deliver once, and stop it."""
    result: dict[str, object] = {}
    stop = asyncio.Event()
    up = asyncio.Event()
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive_lifespan() -> dict[str, object]:
        kind = next(messages)
        if kind == "lifespan.shutdown":
            await stop.wait()
        return {"type": kind}

    async def send_lifespan(message: dict[str, object]) -> None:
        result["lifespan"] = message["type"]
        up.set()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            result["delivery"] = message["status"]

    living = asyncio.create_task(app({"type": "lifespan"}, receive_lifespan, send_lifespan))
    await up.wait()
    headers = [(b"authorization", authorization(body).encode())]
    path = "/webhooks/jetpay"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "headers": headers,
    }
    await app({**scope, "query_string": b"", "http_version": "1.1", "headers": headers}, receive, send)
    stop.set()
    await living
    return result


@pytest.mark.asyncio
async def test_an_early_answer(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With acknowledge="after_storing" the same handlers run after the answer."""
    body = body_of([document(1)])
    async with key_server() as url:
        monkeypatch.setenv("JETPAY_BASE_URL", url)
        monkeypatch.setenv("JETPAY_WEBHOOK_IDS", "123")
        early = pages.load("shop_early")
        async with early.keys, early.inbox, early.receiver:
            answer = await early.receiver.receive(body, authorization(body))
            printed: list[str] = []
            await until(lambda: printed.append(capsys.readouterr().out) or "paid: t-1\n" in printed)  # type: ignore[func-returns-value]

    assert isinstance(early.inbox, SqliteInbox)
    assert (answer.status, answer.reason, answer.stored) == (200, "stored", 1)
