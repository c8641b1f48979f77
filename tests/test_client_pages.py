"""The pages about the client in each framework, and in sync code: every block runs, behind that framework's server."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
import pytest_asyncio

from jetpay_async import JetpayClient
from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.webhooks import serving
from tests.webhooks.serving import Pages, Server, blocks


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    root = logging.getLogger()
    handlers = root.handlers[:]
    with Pages(tmp_path, monkeypatch) as pages:
        yield pages
    for handler in set(root.handlers) - set(handlers):  # what a framework has put there
        root.removeHandler(handler)


@pytest.fixture(autouse=True)
def _new_django_settings() -> Iterator[None]:
    """Each of Django's apps configures what a process has once."""
    if importlib.util.find_spec("django") is None:
        yield
        return
    from django.conf import empty, settings

    before = settings.__dict__.get("_wrapped", empty)
    settings._wrapped = empty
    yield
    settings._wrapped = before


@pytest_asyncio.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        monkeypatch.setenv("JETPAY_API_TOKEN", sandbox.api_token)
        monkeypatch.setenv("JETPAY_BASE_URL", sandbox.url)
        yield sandbox


async def reserve(sandbox: Sandbox) -> str:
    """Preauthorize an amount, as another application does, and return the debit's id."""
    payer = sandbox.add_payer()
    path = f"/contact/{payer.contact_id}/creditcards/{payer.credit_card_id}/preauthorize"
    body = {"amount": 5, "to_bank_account_id": sandbox.merchant_account_id, "statement": "Stay"}
    headers = {"Authorization": f"Bearer {sandbox.api_token}"}
    async with aiohttp.request("POST", sandbox.url + path, json=body, headers=headers) as response:
        debit_id: str = (await response.json())["debit_id"]
        return debit_id


@attrs.frozen
class Recipe:
    block: str
    serve: Server
    needs: str


RECIPES = {
    "aiohttp": Recipe("client_aiohttp", serving.aiohttp_web, needs="aiohttp"),
    "fastapi": Recipe("client_fastapi", serving.asgi, needs="fastapi"),
    "starlette": Recipe("client_starlette", serving.asgi, needs="starlette"),
    "litestar": Recipe("client_litestar", serving.asgi, needs="litestar"),
    "quart": Recipe("client_quart", serving.asgi, needs="quart"),
    "django": Recipe("client_django", serving.asgi, needs="django"),
    "sanic": Recipe("client_sanic", serving.sanic, needs="sanic"),
}


def require(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install --group frameworks")


async def post(url: str) -> tuple[int, Any]:
    async with aiohttp.request("POST", url) as response:
        return response.status, await response.json()


@pytest.mark.asyncio
@pytest.mark.parametrize("recipe", [pytest.param(recipe, id=name) for name, recipe in RECIPES.items()])
async def test_a_client_in_each_framework(recipe: Recipe, pages: Pages, sandbox: Sandbox) -> None:
    """One client, over one connection, serves what comes, and closes at the end; a no is 409."""
    require(recipe.needs)
    debit_ids = [await reserve(sandbox) for _ in range(3)]
    before = len(sandbox.debits)
    async with recipe.serve(pages.load(recipe.block).app) as url:
        captured = [await post(f"{url}/bookings/{debit_id}/capture") for debit_id in debit_ids]
        missing = await post(f"{url}/bookings/nothing/capture")

    assert captured == [(200, {"state": "paid"})] * 3
    assert missing == (409, {"outcome": "rejected"})
    assert [debit.captures for debit in sandbox.debits] == [1] * before


def test_what_is_answered_for_each_error(pages: Pages, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody knows: 202; safe to repeat: 503; a no: 409. What is unknown is recorded."""
    from jetpay_async import NotFoundError, NotSentError, OutcomeUnknownError

    payments = pages.load("payments")
    unknown = OutcomeUnknownError(
        "lost", operation="capture", arguments={}, started_at=None, reason="reset", debit_id="debit_123"
    )
    payments.record(unknown)

    assert payments.status_of(unknown) == 202
    assert payments.status_of(NotSentError("no connection")) == 503
    assert payments.status_of(NotFoundError("no such debit", status=404)) == 409
    assert capsys.readouterr().out == "unknown: capture debit_123 reset\n"


# --- sync code --------------------------------------------------------------------------------------------------------


def call_wsgi(app: Callable[..., Any], path: str) -> tuple[int, Any]:
    """Call a WSGI application as its server does, in a thread without an event loop."""
    started: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": "0",
    }

    def start(status: str, *_: object) -> None:
        started.append(status)

    chunks = app(environ, start)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    return int(started[0].split()[0]), json.loads(body)


@pytest.mark.asyncio
@pytest.mark.parametrize("framework", ["django", "flask"])
async def test_a_sync_view(
    framework: str,
    pages: Pages,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each request has a client of its own, that closes; a no is 409, and what nobody knows is 202 and recorded."""
    require(framework)
    debit_id, lost = await reserve(sandbox), await reserve(sandbox)
    app = await asyncio.to_thread(lambda: pages.load(f"sync_{framework}").app)

    captured = await asyncio.to_thread(call_wsgi, app, f"/bookings/{debit_id}/capture")
    missing = await asyncio.to_thread(call_wsgi, app, "/bookings/nothing/capture")
    sandbox.faults.add(Fault(kind=FaultKind.PROXY_PAGE_AFTER, route="status", count=100, status=502))
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture"))
    monkeypatch.setattr(JetpayClient, "from_env", functools.partial(_hasty, JetpayClient.from_env))
    unknown = await asyncio.to_thread(call_wsgi, app, f"/bookings/{lost}/capture")

    assert captured == (200, {"state": "paid"})
    assert missing == (409, {"outcome": "rejected"})
    assert unknown == (202, {"outcome": "unknown"})
    assert f"unknown: capture {lost}" in capsys.readouterr().out
    assert [debit.captures for debit in sandbox.debits] == [1, 1]


def _hasty(make: Callable[..., JetpayClient], *, timeout: float, **options: Any) -> JetpayClient:
    return make(timeout=timeout / 50, **options)


@pytest.mark.asyncio
async def test_celery_tasks(pages: Pages, sandbox: Sandbox, tmp_path: Path) -> None:
    """A charge is made once, a declined one is not repeated, and a batch that runs twice captures once."""
    require("celery")
    tasks = await asyncio.to_thread(pages.load, "sync_celery")
    good, bad = sandbox.add_payer(), sandbox.add_payer(card_number="4000000000000002")
    debit_ids = [await reserve(sandbox) for _ in range(3)]

    def charge(payer: Any) -> Any:
        request = {"amount": "12.50", "to_bank_account_id": sandbox.merchant_account_id, "statement": "Breakfast"}
        return tasks.charge.apply(kwargs={**attrs.asdict(payer), **request})

    charged, declined = await asyncio.to_thread(charge, good), await asyncio.to_thread(charge, bad)
    batch = (str(tmp_path / "captures.db"), "2026-11-28", debit_ids)
    counts = [(await asyncio.to_thread(tasks.capture.apply, args=batch)).get() for _ in range(2)]

    assert sandbox.debit(charged.get()).captures == 1
    assert type(declined.result).__name__ == "APIError"
    assert sandbox.requests("charge") == 2
    assert counts == [3, 3]
    assert {debit.captures for debit in sandbox.debits} == {1}


def test_every_block_of_these_pages_is_run() -> None:
    """Each Python block has a name, by which a test runs it."""
    root = Path(__file__).parents[1]
    pages = [(root / "docs" / name).read_text() for name in ("frameworks.md", "sync-code.md")]
    run = {recipe.block for recipe in RECIPES.values()}
    run |= {"payments", "sync_payments", "sync_django", "sync_flask", "sync_celery"}

    assert sum(page.count("```python\n") for page in pages) == len(run)
    assert run <= blocks().keys()
