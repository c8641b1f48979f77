"""The vendor's examples, with nothing changed but the host, the token and the ids.

Preauthorize and capture are its guide's own pages. The scripts `examples.sh`, `examples.py` and `examples.mjs` make
every call of the guide, one after the other, as its pages do in curl, Python and Node.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jetpay_async.sandbox import Sandbox, SandboxPayer

if TYPE_CHECKING:
    from collections.abc import Sequence

NODE = """
const [base, token, contact, card, account] = process.argv.slice(1);
const headers = { "Authorization": `Bearer ${token}`, "Content-Type": "application/json" };
const reserved = await fetch(`${base}/contact/${contact}/creditcards/${card}/preauthorize`, {
  method: "POST", headers,
  body: JSON.stringify({ amount: 100.50, to_bank_account_id: account, statement: "Test statement" }),
});
const { debit_id } = await reserved.json();
const captured = await fetch(`${base}/debit/${debit_id}/capture`, { method: "POST", headers });
console.log(JSON.stringify(await captured.json()));
"""


def _preauthorization(sandbox: Sandbox) -> str:
    request = {"amount": 100.50, "to_bank_account_id": sandbox.merchant_account_id, "statement": "Test statement"}
    return json.dumps(request)


async def _run(*command: str) -> bytes:
    program = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await program.communicate()
    assert program.returncode == 0
    return output


def _assert_captured(sandbox: Sandbox, reply: bytes) -> None:
    (debit,) = sandbox.debits
    assert json.loads(reply) == {"identifier": debit.identifier, "state": "paid"}
    assert (str(debit.amount), debit.statement, debit.captures) == ("100.50", "Test statement", 1)


@pytest.fixture
def payer(sandbox: Sandbox) -> SandboxPayer:
    return sandbox.add_payer()


def _curl(sandbox: Sandbox, path: str, *more: str) -> Sequence[str]:
    token = f"Authorization: Bearer {sandbox.api_token}"
    return ("curl", "--silent", "--noproxy", "*", "-X", "POST", f"{sandbox.url}{path}", "-H", token, *more)


@pytest.mark.asyncio
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl(sandbox: Sandbox, payer: SandboxPayer) -> None:
    """The curl example works: a POST with JSON, then a POST without a body or a length."""
    path = f"/contact/{payer.contact_id}/creditcards/{payer.credit_card_id}/preauthorize"
    content = ("-H", "Content-Type: application/json", "-d", _preauthorization(sandbox))

    reserved = json.loads(await _run(*_curl(sandbox, path, *content)))
    captured = await _run(*_curl(sandbox, f"/debit/{reserved['debit_id']}/capture"))

    _assert_captured(sandbox, captured)


@pytest.mark.asyncio
async def test_python(sandbox: Sandbox, payer: SandboxPayer) -> None:
    """The Python example works with the standard library, which sends no Accept header and closes each time."""

    def post(path: str, data: bytes) -> bytes:
        headers = {"Authorization": f"Bearer {sandbox.api_token}", "Content-Type": "application/json"}
        request = urllib.request.Request(sandbox.url + path, data=data, headers=headers, method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5) as response:
            body: bytes = response.read()
            return body

    path = f"/contact/{payer.contact_id}/creditcards/{payer.credit_card_id}/preauthorize"

    reserved = json.loads(await asyncio.to_thread(post, path, _preauthorization(sandbox).encode()))
    captured = await asyncio.to_thread(post, f"/debit/{reserved['debit_id']}/capture", b"")

    _assert_captured(sandbox, captured)


@pytest.mark.asyncio
@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
async def test_node(sandbox: Sandbox, payer: SandboxPayer) -> None:
    """The Node example works with the built-in fetch."""
    arguments = (sandbox.url, sandbox.api_token, payer.contact_id, payer.credit_card_id, sandbox.merchant_account_id)

    captured = await _run("node", "--input-type=module", "-e", NODE, *arguments)

    _assert_captured(sandbox, captured)


FOLDER = Path(__file__).parent
LANGUAGES = [
    pytest.param(
        ("bash", FOLDER / "examples.sh"),
        id="curl",
        marks=pytest.mark.skipif(
            shutil.which("curl") is None or shutil.which("bash") is None, reason="curl or bash is not installed"
        ),
    ),
    pytest.param(
        (sys.executable, FOLDER / "examples.py"),
        id="Python",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("requests") is None, reason="requests is not installed: pip install --group test"
        ),
    ),
    pytest.param(
        ("node", FOLDER / "examples.mjs"),
        id="Node",
        marks=pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed"),
    ),
]
PRINTED = [
    *("capture paid", "status paid", "charge paid", "cancel true"),
    *("webhook 1", "webhook http://127.0.0.1:9/webhooks/jetpay", "webhook 50", "webhook 60", "keys 1"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize("command", LANGUAGES)
async def test_every_call(sandbox: Sandbox, command: tuple[str, Path]) -> None:
    """Every call of the guide works in each of its languages, and does what it says."""
    given = {"URL": sandbox.url, "TOKEN": sandbox.api_token, "MERCHANT": sandbox.merchant_account_id, "NO_PROXY": "*"}
    program = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **given, "no_proxy": "*"}
    )
    output, _ = await program.communicate()

    assert (program.returncode, output.decode().splitlines()) == (0, PRINTED)
    debits = sorted((debit.kind, debit.amount, debit.statement, debit.captures) for debit in sandbox.debits)
    assert [(kind, str(amount), statement) for kind, amount, statement, _ in debits] == [
        ("debit", "5.00", "Test statement"),
        ("debit", "12.50", "Test statement"),
        ("debit", "80.00", "Rent"),
        ("debit", "100.50", "Test statement"),
        ("debit", "10000.00", "Rent"),
    ]
    assert list(sandbox._webhooks) == []
    names = {route.name for route in sandbox._api.routes()}
    assert {name for name in names if not sandbox.requests(name)} == set()
