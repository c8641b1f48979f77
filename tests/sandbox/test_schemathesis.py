"""What schemathesis thinks of against the sandbox's OpenAPI documents: no 5xx, and every reply as documented."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from jetpay_async import JetpayClient
from jetpay_async.sandbox import Sandbox

PROGRAM = Path(sys.executable).with_name("schemathesis")

if os.environ.get("JETPAY_TEST_SCHEMATHESIS") != "required" and not PROGRAM.exists():
    pytest.skip("schemathesis is not installed: `nox -s openapi` has it", allow_module_level=True)

# Ids of what exists, so that requests get further than to a 404.
CONFIGURATION = """
[parameters]
contact_id = "contact_123"
credit_card_id = "cc_456"
debit_id = "{debit_id}"

[[operations]]
include-path = ["/transaction/{{identifier}}", "/transaction/{{identifier}}/status"]
parameters = {{ identifier = "{debit_id}" }}

[[operations]]
include-path = "/webhooks/{{identifier}}"
parameters = {{ identifier = "{webhook_id}" }}
"""
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]
# Deterministic: the same requests in every run, so that a failure here is one of the change at hand.
RUN = [
    "run",
    "--generation-deterministic",
    "--max-examples=4",
    "--no-shrink",
    "--phases=coverage,fuzzing",
    f"--checks={','.join(CHECKS)}",
    "--warnings=off",
    "--no-color",
]


async def _judge(sandbox: Sandbox, document: str, folder: Path, *options: str) -> tuple[int, int, str]:
    """Return the exit status, the number of requests, and the output."""
    async with JetpayClient(sandbox.api_token, base_url=sandbox.url) as client:
        reserved = await client.preauthorize(
            contact_id="contact_123",
            credit_card_id="cc_456",
            amount="100.50",
            to_bank_account_id=sandbox.merchant_account_id,
            statement="Stay",
        )
    webhook_id = sandbox.add_webhook("http://127.0.0.1:9/hook")
    configuration = folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION.format(debit_id=reserved.debit_id, webhook_id=webhook_id))
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        f"--config-file={configuration}",
        *RUN,
        *options,
        f"--header=Authorization: Bearer {sandbox.api_token}",
        f"{sandbox.url}{document}",
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    count = re.search(r"(\d+) generated", output)
    assert process.returncode is not None
    return process.returncode, int(count[1]) if count else 0, output


@pytest.mark.asyncio
async def test_the_api(tmp_path: Path) -> None:
    """No request to the API that it stands for is answered 5xx or otherwise than its document says."""
    async with Sandbox(seed=1) as sandbox:
        status, requests, output = await _judge(sandbox, "/openapi.json", tmp_path)

    assert (status, requests > 300) == (0, True), output


@pytest.mark.asyncio
async def test_the_control_api(tmp_path: Path) -> None:
    """No request to the control API is answered 5xx or otherwise than its document says; draining waits, so is left."""
    async with Sandbox(seed=1) as sandbox:
        status, requests, output = await _judge(
            sandbox, "/_sandbox/api/openapi.json", tmp_path, "--exclude-path-regex=drain"
        )

    assert (status, requests > 300) == (0, True), output


@pytest.mark.asyncio
async def test_the_check_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the sandbox's own code is found."""
    async with Sandbox(seed=1) as sandbox:
        monkeypatch.setattr(sandbox._account, "capture", lambda _: 1 / 0)
        status, _, output = await _judge(
            sandbox, "/openapi.json", tmp_path, "--include-path-regex=capture", "--max-failures=1"
        )

    assert status == 1
    assert "POST /debit/{debit_id}/capture" in output
    assert "500" in output
