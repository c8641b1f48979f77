"""The token shows nowhere: not in text, not in logs, not in what error trackers take from tracebacks."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import traceback
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from jetpay_async import ConfigurationError, JetpayClient, JetpayError
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Act, Loopback, replies
from tests.network import FAST, TOKEN, preauthorize


async def rotating() -> str:
    return TOKEN


async def trouble(client: JetpayClient) -> BaseException:
    """The error of a call that fails."""
    try:
        await preauthorize(client)
    except (JetpayError, TimeoutError) as error:
        return error
    raise AssertionError("it did not fail")


def everything(error: BaseException) -> str:
    """What an error tracker may take: text, attributes, the whole chain, and the locals of its frames."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    parts = ["".join(told.format())]
    # This file holds the token, and is no part of what a user's traceback shows.
    parts = [line for part in parts for line in part.splitlines() if "TOKEN" not in line]
    seen: BaseException | None = error
    while seen is not None:
        parts += [repr(seen), str(seen), repr(vars(seen)), repr(seen.args), *getattr(seen, "__notes__", ())]
        seen = seen.__cause__ or seen.__context__
    return "\n".join(parts)


ACTS = {
    "hang up": loopback.hang_up,
    "garbage": loopback.garbage,
    "cut": loopback.cut_head,
    "503": replies(503, HTML),
    "401": replies(401, FASTAPI[401]),
    "echoed": replies(400, {"detail": f"no such token: {TOKEN}"}),
    "echoed in a field": replies(422, {"detail": [{"loc": ["header"], "msg": f"Bearer {TOKEN}", "type": TOKEN}]}),
    "echoed in a header": replies(503, HTML, X_Request_ID=f"{TOKEN}-1"),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("source", ["own session", "given session", "rotating"])
@pytest.mark.asyncio
async def test_errors_do_not_show_the_token(act: Act, source: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not in their text, attributes, causes, pickles or the locals of their frames, nor in the log at DEBUG."""
    caplog.set_level(logging.DEBUG)
    async with Loopback(scripts={"preauthorize": [act]}).listen() as server, aiohttp.ClientSession() as session:
        async with JetpayClient(
            rotating if source == "rotating" else TOKEN,
            base_url=server.url,
            session=session if source == "given session" else None,
            retry=FAST,
        ) as client:
            error = await trouble(client)

            assert TOKEN not in everything(error)
            assert TOKEN.encode() not in pickle.dumps(error)
            assert TOKEN not in str(copy.copy(error))
    assert TOKEN not in caplog.text


@pytest.mark.asyncio
async def test_a_timeout_of_the_caller_does_not_show_the_token() -> None:
    """A cancelled call leaves no frame of aiohttp behind, whose locals hold the headers."""
    async with Loopback(scripts={"preauthorize": [loopback.silence]}).listen() as server:
        async with aiohttp.ClientSession() as session:
            client = JetpayClient(TOKEN, base_url=server.url, session=session)
            try:
                async with asyncio.timeout(0.05):
                    await preauthorize(client)
            except TimeoutError as error:
                shown = everything(error)

    assert "preauthorize" in shown
    assert TOKEN not in shown


CALLS: dict[str, Callable[[JetpayClient], Awaitable[object]]] = {
    "preauthorize": preauthorize,
    "capture": lambda client: client.capture(DEBIT_ID),
    "status": lambda client: client.transaction_status(DEBIT_ID),
    "cancel": lambda client: client.cancel_transaction(DEBIT_ID),
}


@pytest.mark.asyncio
async def test_results_and_the_client_do_not_show_the_token(caplog: pytest.LogCaptureFixture) -> None:
    """Not in reprs, not in attributes, not in the log of calls that succeed."""
    caplog.set_level(logging.DEBUG, logger="jetpay_async")
    async with Loopback().listen() as server, JetpayClient(TOKEN, base_url=server.url) as client:
        shown = [repr(await call(client)) for call in CALLS.values()]
        shown += [repr(client), repr(client._transport), repr(vars(client._transport)), repr(vars(client._executor))]

    assert TOKEN not in "\n".join(shown)
    assert "preauthorize" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "tab\t", "é", "\x00"])
def test_a_refused_token_is_not_shown(token: str) -> None:
    """A token that was copied badly is still a token."""
    with pytest.raises(ConfigurationError, match="api_token") as caught:
        JetpayClient(token)

    assert token == "" or token not in str(caught.value)


def test_the_logger_is_silent_by_default() -> None:
    """A library says nothing unless asked: the logger has a NullHandler."""
    from jetpay_async._core.log import logger

    assert logger.name == "jetpay_async"
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
