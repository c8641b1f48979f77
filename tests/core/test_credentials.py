"""The token is what authorizes a request, whatever else a session or the machine has to offer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from jetpay_async import ConfigurationError, JetpayClient
from jetpay_async._core import transport
from tests import loopback
from tests.loopback import DEBIT_ID, Loopback
from tests.network import TOKEN, preauthorize

OPERATIONS: dict[str, Callable[[JetpayClient], Awaitable[object]]] = {
    "preauthorize": preauthorize,
    "capture": lambda client: client.capture(DEBIT_ID),
    "status": lambda client: client.transaction_status(DEBIT_ID),
    "cancel": lambda client: client.cancel_transaction(DEBIT_ID),
}

# aiohttp deprecates BasicAuth, and proxy_auth= with it, since 3.14; users have them still.
pytestmark = [pytest.mark.asyncio, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


async def test_a_session_with_auth_is_refused_when_the_client_is_made() -> None:
    """Its password would take the token's place, and each call would fail without saying why."""
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("somebody", "hunter2")) as session:
        with pytest.raises(ConfigurationError, match=r"session: was made with auth=.*proxy_auth= may stay") as caught:
            JetpayClient(TOKEN, session=session)

    assert "hunter2" not in str(caught.value)


SESSIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "Authorization among its headers": lambda: {"headers": {"AUTHORIZATION": "Basic hunter2"}},
    "proxy_auth": lambda: {"proxy_auth": aiohttp.BasicAuth("somebody", "hunter2")},
}


@pytest.mark.parametrize("options", SESSIONS.values(), ids=SESSIONS)
async def test_the_token_wins_over_what_a_session_has_by_default(options: Callable[[], dict[str, Any]]) -> None:
    """A default header of the session is replaced for the client's requests, and a proxy's password goes elsewhere."""
    async with Loopback().listen() as server, aiohttp.ClientSession(**options()) as session:
        client = JetpayClient(TOKEN, base_url=server.url, session=session)
        for operation in OPERATIONS.values():
            await operation(client)

    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("way", ["own session", "own session, unknown aiohttp", "given session"])
@pytest.mark.parametrize("source", ["a token", "a function"])
async def test_the_token_wins_over_netrc(
    way: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `trust_env`, aiohttp takes passwords from ~/.netrc, whose default entry is for any host."""
    (tmp_path / "netrc").write_text("default login somebody password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transport, "REQUESTS_CAN_BE_GUARDED", way != "own session, unknown aiohttp")

    async def rotating() -> str:
        return TOKEN

    async with Loopback().listen() as server, aiohttp.ClientSession(trust_env=True) as session:
        async with JetpayClient(
            TOKEN if source == "a token" else rotating,
            base_url=server.url,
            session=session if way == "given session" else None,
            trust_env=True,
        ) as client:
            for operation in OPERATIONS.values():
                await operation(client)

    assert [request.headers["authorization"] for request in server.requests] == [f"Bearer {TOKEN}"] * len(OPERATIONS)


async def test_no_running_loop_is_named() -> None:
    """Under trio, or without an event loop, the first use says what is missing."""
    asked = JetpayClient(TOKEN).capture(DEBIT_ID)
    running = asyncio.get_running_loop()
    asyncio.events._set_running_loop(None)
    try:
        with pytest.raises(ConfigurationError, match="no asyncio event loop is running") as caught:
            asked.send(None)
    finally:
        asyncio.events._set_running_loop(running)

    assert "trio" in str(caught.value)


async def test_the_own_session_has_no_token_among_its_headers() -> None:
    """What is in a session's defaults lies in aiohttp's local variables with each request."""
    async with Loopback(scripts={"status": [loopback.behave]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url) as client:
            await client.transaction_status(DEBIT_ID)

            session = client._transport._session
            assert session is not None
            assert TOKEN not in str(session.headers)
            assert TOKEN not in str(vars(session))
