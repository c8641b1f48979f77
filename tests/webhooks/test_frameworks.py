"""The documentation's recipe for each web framework, behind that framework's server."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import logging
import threading
from typing import TYPE_CHECKING

import attrs
import pytest

from jetpay_async.webhooks.sqlite_inbox import MemoryInbox
from tests.webhooks import serving
from tests.webhooks.receivers import TOKEN, Shop, delivery_of, receiver_for
from tests.webhooks.receiving import body_of, document
from tests.webhooks.serving import PATH, Pages, Server, authorization, key_server, post

if TYPE_CHECKING:
    from collections.abc import Iterator
    from logging.handlers import QueueListener
    from pathlib import Path


# Odd spaces, a number that a float would shorten, an escaped letter, a key that sorting would move, a trailing newline:
# parsing this and writing it again changes it.
AWKWARD = b"""{ "webhookId" :123,"events": [ {"type":"transactions.debits.created","id": 1 ,
  "createdAt": "2026-01-22T10:15:30.123456Z", "data": {"transactionId":"caf\\u00e9", "state": "paid", "fee": 1.10} } ] }
"""
HUNDRED = body_of(document(event_id) for event_id in range(2, 102))
TOO_LARGE = body_of([document(102)]) + b" " * (1024 * 1024)


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    with Pages(tmp_path, monkeypatch) as pages:
        yield pages


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Take off what the frameworks put on the root logger, some of it with a thread, when they start."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        listener: QueueListener | None = getattr(handler, "listener", None)
        if listener is not None:
            listener.stop()
            atexit.unregister(listener.stop)
        root.removeHandler(handler)
    root.setLevel(level)


@attrs.frozen
class Recipe:
    block: str
    serve: Server
    needs: str


RECIPES = {
    "aiohttp": Recipe("app_aiohttp", serving.aiohttp_web, needs="aiohttp"),
    "fastapi": Recipe("app", serving.asgi, needs="fastapi"),
    "starlette": Recipe("app_starlette", serving.asgi, needs="starlette"),
    "litestar": Recipe("app_litestar", serving.asgi, needs="litestar"),
    "quart": Recipe("app_quart", serving.asgi, needs="quart"),
    "django": Recipe("app_django", serving.asgi, needs="django"),
    "sanic": Recipe("app_sanic", serving.sanic, needs="sanic"),
    "asgi": Recipe("app_asgi", serving.asgi, needs="uvicorn"),
}


@pytest.mark.asyncio
@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("recipe", [pytest.param(recipe, id=name) for name, recipe in RECIPES.items()])
async def test_a_recipe_receives_the_bytes_as_they_were_sent(
    recipe: Recipe, pages: Pages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any authentic body is handled once, to the last byte; one too large or not authentic is rejected as such."""
    if importlib.util.find_spec(recipe.needs) is None:
        pytest.skip(f"{recipe.needs} is not installed: pip install --group frameworks")
    async with key_server() as keys:
        monkeypatch.setenv("JETPAY_BASE_URL", keys)
        monkeypatch.setenv("JETPAY_WEBHOOK_IDS", "123")
        async with recipe.serve(pages.load(recipe.block).app) as url:
            statuses = {
                "awkward": await post(url + PATH, AWKWARD, authorization(AWKWARD)),
                "a hundred": await post(url + PATH, HUNDRED, authorization(HUNDRED)),
                "again": await post(url + PATH, HUNDRED, authorization(HUNDRED)),
                "too large": await post(url + PATH, TOO_LARGE, authorization(TOO_LARGE)),
                "other bytes": await post(url + PATH, AWKWARD.strip(), authorization(AWKWARD)),
                "no token": await post(url + PATH, AWKWARD, None),
            }

    assert statuses == {
        "awkward": 200,
        "a hundred": 200,
        "again": 200,
        "too large": 413,
        "other bytes": 401,
        "no token": 401,
    }
    # Sanic says good morning on the same output.
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("paid", "failed"))]
    assert printed == ["paid: café", *(f"paid: t-{n}" for n in range(2, 102))]


def test_a_thread_passes_deliveries_to_the_receivers_loop() -> None:
    """A synchronous view, in a thread of its server's, waits for the answer of the loop that has the receiver."""
    shop = Shop()
    receiver = receiver_for(shop, MemoryInbox())
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        answer = asyncio.run_coroutine_threadsafe(receiver.receive(delivery_of(1), TOKEN), loop).result(15)
        asyncio.run_coroutine_threadsafe(receiver.aclose(), loop).result(15)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    assert (answer.status, shop.done) == (200, [1])
