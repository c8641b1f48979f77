"""The pytest plugin, used as its users do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from jetpay_async import JetpayClient, testing
from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from jetpay_async.testing import DeliveryBuilder, ManualClock, SignedDelivery, SigningKeys
from jetpay_async.webhooks import (
    InvalidTokenError,
    MalformedDeliveryError,
    PayloadMismatchError,
    StaleDeliveryError,
    TransactionFailed,
    TransactionPaid,
    UnknownEvent,
    WebhookError,
    decode,
    verify,
)


@pytest.mark.asyncio
async def test_the_client_pays_at_the_sandbox(jetpay_sandbox: Sandbox, jetpay_client: JetpayClient) -> None:
    """The two fixtures fit together, faults included."""
    payer = jetpay_sandbox.add_payer()
    jetpay_sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_BEFORE, route="capture"))

    reserved = await jetpay_client.preauthorize(
        contact_id=payer.contact_id,
        credit_card_id=payer.credit_card_id,
        amount="1.00",
        to_bank_account_id=jetpay_sandbox.merchant_account_id,
        statement="Test",
    )
    captured = await jetpay_client.capture(reserved.debit_id)

    assert captured.attempts == 2
    assert jetpay_sandbox.debit(reserved.debit_id).captures == 1
    await jetpay_sandbox.drain_deliveries()  # in a loop that is not its own
    with pytest.raises(KeyError):
        jetpay_sandbox.debit("unknown")


def test_a_delivery_is_right_unless_broken(signed_delivery: DeliveryBuilder, jetpay_keys: SigningKeys) -> None:
    """Without arguments it is a paid event that verifies."""
    delivery = signed_delivery()

    claims = verify(delivery.body, delivery.authorization, keys=jetpay_keys.key_set)
    (event,) = decode(delivery.body).events

    assert claims.iss == "jetpay"
    assert isinstance(event, TransactionPaid)
    assert event.id == 1
    assert delivery.headers["Authorization"] == delivery.authorization
    assert delivery.authorization not in repr(delivery)


def test_events_are_numbered_and_can_be_written(signed_delivery: DeliveryBuilder) -> None:
    """Ids count up over deliveries; each member of an event can be said."""
    signed_delivery()
    failed = signed_delivery.event("failed", transaction_id="t-1", data={"failReason": "account_frozen"})
    other = signed_delivery.event(
        type="kyc.approved", id=7, created_at="2026-01-22T10:15:30.123456Z", data={"state": None}
    )
    delivery = signed_delivery(failed, other, signed_delivery.event(), webhook_id=9)

    decoded = decode(delivery.body)

    assert decoded.webhook_id == 9
    assert [event.id for event in decoded.events] == [2, 7, 8]
    assert isinstance(decoded.events[0], TransactionFailed)
    assert decoded.events[0].fail_reason == "account_frozen"
    assert isinstance(decoded.events[1], UnknownEvent)
    assert decoded.events[1].created_at.isoformat() == "2026-01-22T10:15:30.123456+00:00"
    assert "state" not in decoded.events[1].data


BROKEN: dict[str, tuple[Callable[[DeliveryBuilder], SignedDelivery], type[WebhookError]]] = {
    "stale": (lambda build: build(now=time.time() - 3600), StaleDeliveryError),
    "claim": (lambda build: build(claims={"iss": "somebody"}), InvalidTokenError),
    "no claim": (lambda build: build(claims={"payload_hash": None}), InvalidTokenError),
    "header": (lambda build: build(header={"alg": "none"}), InvalidTokenError),
    "hash": (lambda build: build(claims={"payload_hash": "A" * 43}), PayloadMismatchError),
    "authorization": (lambda build: build(authorization="Basic dXNlcg=="), InvalidTokenError),
    "key": (
        lambda build: build(private_key=rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        InvalidTokenError,
    ),
}


@pytest.mark.parametrize(("build", "error"), BROKEN.values(), ids=BROKEN)
def test_a_broken_delivery_is_refused(
    build: Callable[[DeliveryBuilder], SignedDelivery],
    error: type[WebhookError],
    signed_delivery: DeliveryBuilder,
    jetpay_keys: SigningKeys,
) -> None:
    """Each way to break it is one argument."""
    delivery = build(signed_delivery)

    with pytest.raises(error):
        verify(delivery.body, delivery.authorization, keys=jetpay_keys.key_set)


def test_a_body_of_one_s_own(signed_delivery: DeliveryBuilder, jetpay_keys: SigningKeys) -> None:
    """Any bytes can be signed, also such that are no delivery."""
    delivery = signed_delivery(body=b"not json")

    verify(delivery.body, delivery.authorization, keys=jetpay_keys.key_set)
    with pytest.raises(MalformedDeliveryError):
        decode(delivery.body)


@pytest.mark.asyncio
async def test_the_clock_moves_when_told(jetpay_clock: ManualClock) -> None:
    """Time stands still, and sleeping takes none of ours."""
    clock = jetpay_clock.clock
    before = (clock.monotonic(), clock.time())

    await clock.sleep(60.0)
    jetpay_clock.advance(1.0)

    assert (clock.monotonic() - before[0], clock.time() - before[1]) == (61.0, 61.0)
    assert jetpay_clock.slept == [60.0]
    assert clock.random() == 0.5


def test_a_test_in_another_loop_fails_at_once(tmp_path: Path) -> None:
    """A client in a loop that does not run would let the test wait for half a minute."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (tmp_path / "test_user.py").write_text(
        "import pytest\n"
        "@pytest.mark.asyncio(loop_scope='session')\n"
        "async def test_it(jetpay_sandbox, jetpay_client): ...\n"
    )

    assert "set asyncio_default_fixture_loop_scope = 'session'" in run_pytest(tmp_path)


LOOP_OF_THE_SESSION = """
import asyncio
import pytest

seen = []

async def check(sandbox, client):
    assert sandbox.add_payer()
    assert sandbox.debits == ()
    assert await client.list_webhooks() == ()
    await sandbox.drain_deliveries()
    seen.append((asyncio.get_running_loop(), sandbox))

async def test_without_a_mark(jetpay_sandbox, jetpay_client):
    await check(jetpay_sandbox, jetpay_client)

@pytest.mark.asyncio(loop_scope="session")
async def test_with_a_mark(jetpay_sandbox, jetpay_client):
    await check(jetpay_sandbox, jetpay_client)

async def test_the_loop_is_one_and_each_sandbox_another():
    (loop, sandbox), (other_loop, other_sandbox) = seen
    assert loop is other_loop is asyncio.get_running_loop()
    assert sandbox is not other_sandbox
"""


def test_the_fixtures_serve_the_loop_of_the_session(tmp_path: Path) -> None:
    """In mode auto with loop_scope session for all, and by a mark of one test, each test has a sandbox and a client."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\n"
        "asyncio_mode = auto\n"
        "asyncio_default_fixture_loop_scope = session\n"
        "asyncio_default_test_loop_scope = session\n"
    )
    (tmp_path / "test_user.py").write_text(LOOP_OF_THE_SESSION)

    assert "3 passed" in run_pytest(tmp_path)


SYNCHRONOUS = """
import asyncio
from fastapi import FastAPI
from fastapi.testclient import TestClient
from jetpay_async import JetpayClient

def test_by_a_synchronous_client(jetpay_sandbox):
    app = FastAPI()

    @app.post("/book")
    async def book() -> str:
        async with JetpayClient(jetpay_sandbox.api_token, base_url=jetpay_sandbox.url) as client:
            payer = jetpay_sandbox.add_payer()
            reserved = await client.preauthorize(
                contact_id=payer.contact_id, credit_card_id=payer.credit_card_id, amount="1.00",
                to_bank_account_id=jetpay_sandbox.merchant_account_id, statement="Test",
            )
            return reserved.debit_id

    with TestClient(app) as client:
        debit_id = client.post("/book").json()
    assert [debit.identifier for debit in jetpay_sandbox.debits] == [debit_id]
    assert jetpay_sandbox.debit(debit_id).state == "preauthorized"
    asyncio.run(jetpay_sandbox.drain_deliveries())
"""
ANY_LOOP = """
import pytest
import pytest_asyncio
from jetpay_async import JetpayClient

@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def loop_of_the_session():
    yield

@pytest_asyncio.fixture
async def open_client(jetpay_sandbox):
    async with JetpayClient(jetpay_sandbox.api_token, base_url=jetpay_sandbox.url) as client:
        yield client

@pytest.mark.asyncio(loop_scope="session")
async def test_in_the_loop_of_the_session(jetpay_sandbox, loop_of_the_session):
    async with JetpayClient(jetpay_sandbox.api_token, base_url=jetpay_sandbox.url) as client:
        assert await client.list_webhooks() == ()
    await jetpay_sandbox.drain_deliveries()

@pytest.mark.asyncio
async def test_in_a_loop_of_its_own(jetpay_sandbox, open_client):
    assert await open_client.list_webhooks() == ()
"""


def test_the_sandbox_serves_tests_in_any_loop(tmp_path: Path) -> None:
    """It answers synchronous tests and tests in any loop, since its own loop is in a thread."""
    (tmp_path / "test_any_loop.py").write_text(ANY_LOOP)

    assert "2 passed" in run_pytest(tmp_path)


def test_the_sandbox_serves_a_synchronous_client(tmp_path: Path) -> None:
    """An application under Starlette's TestClient reaches it, and the test reads what became of it."""
    for needed in ("fastapi", "httpx"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install --group frameworks")
    (tmp_path / "test_synchronous.py").write_text(SYNCHRONOUS)

    assert "1 passed" in run_pytest(tmp_path)


def test_pytest_finds_the_plugin_and_pays_little_for_it(tmp_path: Path) -> None:
    """It is registered, and a run that does not use it imports neither aiohttp nor cryptography."""
    (tmp_path / "test_user.py").write_text(
        "import sys\n"
        "def test_light():\n"
        "    assert 'jetpay_async.testing' in sys.modules\n"
        "    assert not {'aiohttp', 'cryptography', 'cattrs'} & set(sys.modules)\n"
        "def test_found(signed_delivery):\n"
        "    assert signed_delivery().body\n"
    )

    assert "2 passed" in run_pytest(tmp_path)


def run_pytest(folder: Path) -> str:
    """Run the tests of a folder as a user does, and return what pytest says."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout


def test_a_test_in_another_loop_than_its_fixtures_fails_at_once() -> None:
    """It would wait for a loop that does not run; what to set is named."""
    marker = SimpleNamespace(kwargs={"loop_scope": "session"})
    request = SimpleNamespace(
        config=SimpleNamespace(getini=lambda _: "function"),
        node=SimpleNamespace(get_closest_marker=lambda _: marker),
    )

    with pytest.raises(pytest.fail.Exception, match="asyncio_default_fixture_loop_scope = 'session'"):
        testing._check_loop_scope(request)  # type: ignore[arg-type] # all that is asked of it
