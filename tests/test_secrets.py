"""The token shows nowhere: not in text, not in logs, not in what error trackers take from tracebacks."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import sys
import traceback
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from jetpay_async import ConfigurationError, JetpayClient, JetpayError, NotSentError, RetryPolicy
from jetpay_async._core.endpoints import check_token
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Act, Loopback, replies
from tests.network import FAST, TOKEN, preauthorize
from tests.reporters import chain, collected


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
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    parts = ["".join(shown.format())]
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
    async with Loopback(scripts={"preauthorize": [act] * 2}).listen() as server, aiohttp.ClientSession() as session:
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


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("source", ["own session", "given session", "rotating"])
@pytest.mark.asyncio
async def test_error_reporters_do_not_find_the_token(act: Act, source: str) -> None:
    """Not among the local variables of an error's frames, nor where a hook reports from, with mappings walked."""
    reported: list[str] = []

    def report(_: object) -> None:
        reported.append(collected(frame for frame, _ in traceback.walk_stack(sys._getframe(1))))

    async with Loopback(scripts={"preauthorize": [act] * 2}).listen() as server, aiohttp.ClientSession() as session:
        async with JetpayClient(
            rotating if source == "rotating" else TOKEN,
            base_url=server.url,
            session=session if source == "given session" else None,
            retry=FAST,
            on_unknown=report,
            on_operation=report,
        ) as client:
            found = collected(chain(await trouble(client)))

    assert "preauthorize" in found
    assert TOKEN not in found
    assert reported
    assert TOKEN not in "\n".join(reported)


class HardStop(BaseException):
    """As KeyboardInterrupt and SystemExit, which end a test run."""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(HardStop, HardStop), (asyncio.CancelledError, NotSentError)],
    ids=["HardStop", "CancelledError"],
)
@pytest.mark.asyncio
async def test_what_interrupts_a_call_does_not_show_the_token(
    raised: type[BaseException], expected: type[BaseException]
) -> None:
    """What a trace hook raises passes through aiohttp's frames, which hold the headers; these are let go."""

    async def stop(session: object, context: object, params: object) -> None:
        raise raised

    hooks = aiohttp.TraceConfig()
    hooks.on_request_headers_sent.append(stop)
    async with Loopback().listen() as server, aiohttp.ClientSession(trace_configs=[hooks]) as session:
        client = JetpayClient(TOKEN, base_url=server.url, session=session, retry=RetryPolicy(max_attempts=1))
        with pytest.raises(expected) as caught:
            await preauthorize(client)

        assert server.requests == []
    found = collected(chain(caught.value))
    assert "preauthorize" in found
    assert TOKEN not in found


def test_a_refused_token_is_in_no_frame_of_ours() -> None:
    """The frames that checked a bad token do not hold it when the error is raised."""
    with pytest.raises(ConfigurationError, match="api_token") as caught:
        check_token("two words", "https://example.com")

    assert "two words" not in collected(chain(caught.value))


CONSTRUCTORS: dict[str, dict[str, object]] = {
    "a bad URL": {"base_url": "https://evil.example"},
    "a bad timeout": {"timeout": 0},
    "a bad policy": {"retry": 1},
    "a bad session": {"session": object()},
    "a bad number of connections": {"max_connections": 0},
    "a bad suffix": {"user_agent_suffix": "\n"},
}


@pytest.mark.parametrize("options", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
@pytest.mark.parametrize("kind", ["given", "from_env"])
def test_error_reporters_do_not_find_the_token_of_a_constructor_that_fails(
    options: dict[str, object], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No frame of a failing constructor holds the token, and the half-built client has a repr."""
    monkeypatch.setenv("JETPAY_API_TOKEN", TOKEN)
    with pytest.raises(ConfigurationError) as caught:
        if kind == "given":
            JetpayClient(TOKEN, **options)  # type: ignore[arg-type] # by name
        elif "base_url" in options:
            monkeypatch.setenv("JETPAY_BASE_URL", str(options["base_url"]))
            JetpayClient.from_env()
        else:
            JetpayClient.from_env(**options)  # type: ignore[arg-type] # by name

    found = collected(chain(caught.value))
    assert "<JetpayClient incomplete>" in found
    assert TOKEN not in found


@pytest.mark.asyncio
async def test_error_reporters_do_not_find_a_token_that_is_no_token() -> None:
    """A token that was copied badly is in no frame either, whether it was given or a function returned it."""
    bad = f"{TOKEN} {TOKEN}"

    async def rotating_badly() -> str:
        return bad

    for source in (bad, rotating_badly):
        with pytest.raises(ConfigurationError, match="api_token") as caught:
            async with JetpayClient(source, base_url="http://127.0.0.1:1") as client:
                await preauthorize(client)
        assert TOKEN not in collected(chain(caught.value))


@pytest.mark.parametrize("source", ["own session", "given session", "rotating"])
@pytest.mark.asyncio
async def test_error_reporters_do_not_find_the_token_after_a_timeout_of_the_caller(source: str) -> None:
    """What a caller's timeout interrupts leaves no frame that holds the headers, mappings walked."""
    async with Loopback(scripts={"preauthorize": [loopback.silence]}).listen() as server:
        async with aiohttp.ClientSession() as session:
            client = JetpayClient(
                rotating if source == "rotating" else TOKEN,
                base_url=server.url,
                session=session if source == "given session" else None,
            )
            with pytest.raises(TimeoutError) as caught:
                async with client, asyncio.timeout(0.05):
                    await preauthorize(client)

    found = collected(chain(caught.value))
    assert "preauthorize" in found
    assert TOKEN not in found


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
