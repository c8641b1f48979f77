"""The example with containers: its receiver in Node, run without a container, and the options of its sandbox."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio

from jetpay_async._cli.parser import build_parser
from jetpay_async.sandbox import DeliveryFault, DeliveryFaultKind, DeliveryPolicy, Sandbox

from .calling import Caller

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

EXAMPLE = Path(__file__).parents[2] / "docs" / "compose"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")


def test_its_options_are_accepted() -> None:
    """The Dockerfile's and the compose file's options are those of the command, and reach what they name."""
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", (EXAMPLE / "Dockerfile").read_text(), re.MULTILINE)[0])
    compose = (EXAMPLE / "compose.yaml").read_text()
    given = re.findall(r"^      - (-.*)$", compose, re.MULTILINE)
    options = vars(build_parser().parse_args([*entry[1:], *given]))

    assert entry[0] == "jetpay"
    assert (options["host"], options["token"]) == ("0.0.0.0", "jetpay_sandbox_compose")
    sandbox = Sandbox(
        public_url=options["public_url"],
        api_token=options["token"],
        delivery=DeliveryPolicy(callback_hosts=options["callback_hosts"]),
    )
    assert all(sandbox.add_webhook(url) for url in options["webhooks"])
    assert f"KEYS_URL: {options['public_url']}/.well-known/jwks.json" in compose


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    policy = DeliveryPolicy(speedup=1000, max_attempts=20)
    async with Sandbox(delivery=policy) as running:
        yield running


@pytest_asyncio.fixture
async def receiver(sandbox: Sandbox) -> AsyncIterator[Process]:
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "KEYS_URL": f"{sandbox.url}/.well-known/jwks.json",
        "HOST": "127.0.0.1",
        "PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        "node", str(EXAMPLE / "receiver.mjs"), stdout=-1, stderr=-1, env=environment
    )
    yield process
    if process.returncode is None:
        process.terminate()
    await process.communicate()


async def read_line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()


@needs_node
@pytest.mark.asyncio
async def test_the_receiver_in_node(sandbox: Sandbox, receiver: Process) -> None:
    """It prints each event once, also when it is delivered twice, and after a key was rotated."""
    port = (await read_line(receiver)).removeprefix("listening on ")
    sandbox.add_webhook(f"http://127.0.0.1:{port}/webhooks/jetpay")
    sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.DUPLICATE))

    async with aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        await sandbox.drain_deliveries(30)
        sandbox.rotate_key(keep_old=False)
        await caller.capture(debit_id)
        await sandbox.drain_deliveries(30)

    printed = [json.loads(await read_line(receiver)) for _ in range(2)]
    assert [(each["id"], each["state"]) for each in printed] == [(1, "preauthorized"), (2, "paid")]
    assert [each.accepted for each in sandbox.deliveries] == [True, True, True]


@needs_node
@pytest.mark.asyncio
async def test_what_it_does_not_accept(sandbox: Sandbox, receiver: Process) -> None:
    """An expired token, a key that is not published, a changed body and no token at all are answered 401."""
    port = (await read_line(receiver)).removeprefix("listening on ")
    url = f"http://127.0.0.1:{port}/webhooks/jetpay"
    sandbox.add_webhook(url)
    sandbox.delivery_faults.add(
        DeliveryFault(kind=DeliveryFaultKind.CLOCK_SKEW, seconds=-600),
        DeliveryFault(kind=DeliveryFaultKind.ROTATE_KEY, keep_old=False),
    )

    async with aiohttp.ClientSession() as session:
        await Caller(sandbox, session).reserve()
        await sandbox.drain_deliveries(30)
        unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
        for token in ("", "Bearer x", f"Bearer {unsigned}.{unsigned}.x"):
            async with session.post(url, data=b"{}", headers={"Authorization": token}) as response:
                assert response.status == 401

    assert [each.status for each in sandbox.deliveries] == [401, 401, 204]
