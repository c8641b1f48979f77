"""Fixtures for your tests, found by pytest itself once jetpay-async is installed. Nothing is patched.

===================  ==============================================================================================
Fixture              What it gives
===================  ==============================================================================================
``jetpay_sandbox``   a running `jetpay_async.sandbox.Sandbox`, in a thread of its own
``jetpay_client``    a `jetpay_async.JetpayClient` of that sandbox, with short resolve times
``jetpay_keys``      a `SigningKeys`: a private key, and the `KeySet` that its signatures verify with
``signed_delivery``  a `DeliveryBuilder`: signed webhook deliveries, right or broken in any way
``jetpay_clock``     a `ManualClock`, for code that takes a `jetpay_async.Clock`
===================  ==============================================================================================

And `check_inbox`, a contract test for an inbox of your own.

The sandbox has an event loop of its own, so it answers whatever the test's loop does: synchronous tests, Starlette's
``TestClient`` and tests in any loop can use it. Its methods can be called from any thread, and its asynchronous ones
awaited in any loop (``asyncio.run(jetpay_sandbox.drain_deliveries())`` in a synchronous test).

The client is asynchronous and needs pytest-asyncio (1.0 or later). It runs in the event loop of the option
``asyncio_default_fixture_loop_scope``, by default that of each test; a test in another loop fails at once.

::

    @pytest.mark.asyncio
    async def test_a_lost_reply(jetpay_sandbox, jetpay_client):
        jetpay_sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture"))
        ...

    def test_a_stale_delivery(signed_delivery, jetpay_keys):
        delivery = signed_delivery(signed_delivery.event("failed"), now=time.time() - 3600)
        with pytest.raises(StaleDeliveryError):
            verify(delivery.body, delivery.authorization, keys=jetpay_keys.key_set)
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager  # noqa: TC003 - annotations are read at run time, too
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import pytest

# Both packages import their parts on first use, so that pytest runs without these fixtures do not pay for them.
import jetpay_async
from jetpay_async import webhooks
from jetpay_async._core import json

if TYPE_CHECKING:
    from types import ModuleType

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from jetpay_async import Clock, JetpayClient, JSONValue
    from jetpay_async.sandbox import Sandbox
    from jetpay_async.webhooks import EventInbox, KeySet
else:
    # pytest imports this module in every run, so what its annotations name is not imported. What reads annotations at
    # run time gets Any.
    Clock = EventInbox = JetpayClient = JSONValue = KeySet = RSAPrivateKey = Sandbox = Any

try:
    import pytest_asyncio
except ModuleNotFoundError:  # pragma: no cover - then only the synchronous fixtures are there
    pytest_asyncio: ModuleType | None = None  # type: ignore[no-redef] # the absent module

__all__ = ["DeliveryBuilder", "ManualClock", "SignedDelivery", "SigningKeys", "check_inbox"]

RESOLVE_AFTER_SECONDS = 0.2
"""When ``jetpay_client`` takes a status read as proof that a capture was not carried out: the sandbox is on this host,
and answers much sooner."""


@attrs.frozen(kw_only=True)
class SigningKeys:
    """A key pair, as Jetpay has one: the private half signs, the key set verifies."""

    private_key: RSAPrivateKey = attrs.field(repr=False)
    """For `jetpay_async.webhooks.sign`."""
    kid: str
    """The key's id."""
    jwks: Mapping[str, JSONValue] = attrs.field(repr=False)
    """What ``/.well-known/jwks.json`` would publish."""
    key_set: KeySet = attrs.field(repr=False)
    """For `jetpay_async.webhooks.verify` and `WebhookVerifier`."""


@attrs.frozen(kw_only=True)
class SignedDelivery:
    """A webhook delivery, ready to be posted to your endpoint."""

    body: bytes
    """The raw body."""
    authorization: str = attrs.field(repr=False)
    """The value of the ``Authorization`` header."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers that it comes with."""
        return {"Content-Type": "application/json", "Authorization": self.authorization}


class DeliveryBuilder:
    """Makes signed deliveries; every part can be replaced, or broken.

    Event ids count up from 1 over all deliveries of one builder, as those of Jetpay do.
    """

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys
        self._next_id = 1

    def __call__(
        self,
        *events: Mapping[str, JSONValue],
        webhook_id: int = 1,
        body: bytes | None = None,
        now: float | None = None,
        claims: Mapping[str, JSONValue] | None = None,
        header: Mapping[str, JSONValue] | None = None,
        private_key: RSAPrivateKey | None = None,
        authorization: str | None = None,
    ) -> SignedDelivery:
        """Build a delivery.

        Args:
            events: As made by `event`, or your own. A single paid one if there is none.
            webhook_id: The delivery's ``webhookId``.
            body: Send these bytes instead of the events.
            now: When it is signed, in seconds since the epoch; the present if None.
            claims: Claims of the token to add or replace; None as a value removes one.
            header: The same for the token's header.
            private_key: Sign with this key instead.
            authorization: Send this value instead of a signed token.
        """
        if body is None:
            body = json.dump({"webhookId": webhook_id, "events": events or [self.event()]})
        if authorization is None:
            key = private_key or self._keys.private_key
            authorization = webhooks.sign(body, key, kid=self._keys.kid, now=now, claims=claims, header=header)
        return SignedDelivery(body=body, authorization=authorization)

    def event(
        self,
        state: str = "paid",
        *,
        transaction_id: str | None = None,
        type: str = "transactions.debits.created",  # noqa: A002 - the event's own name for it
        id: int | None = None,  # noqa: A002 - the same
        created_at: str | None = None,
        data: Mapping[str, JSONValue] | None = None,
    ) -> dict[str, JSONValue]:
        """Build an event.

        Args:
            state: ``data.state``.
            transaction_id: ``data.transactionId``; a new UUID if None.
            type: The event's type.
            id: The next number if None.
            created_at: ISO 8601; the present if None.
            data: More members of ``data``, or others instead; None as a value removes one.
        """
        if id is None:
            id = self._next_id  # noqa: A001 - the same
        self._next_id = max(self._next_id, id + 1)
        standard: dict[str, JSONValue] = {"state": state, "transactionId": transaction_id or str(uuid.uuid4())}
        return {
            "id": id,
            "createdAt": created_at or datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "type": type,
            "data": {name: value for name, value in {**standard, **(data or {})}.items() if value is not None},
        }


class ManualClock:
    """A clock that stands still until it is moved; sleeping moves it.

    Attributes:
        clock: What to pass as ``clock=``.
        slept: The seconds of each sleep so far.
    """

    def __init__(self, *, time: float = 1_800_000_000.0) -> None:
        self._time = time
        self._monotonic = 0.0
        self.slept: list[float] = []
        self.clock: Clock = jetpay_async.Clock(
            monotonic=lambda: self._monotonic, time=lambda: self._time, sleep=self._sleep, random=lambda: 0.5
        )

    def advance(self, seconds: float) -> None:
        """Move it forward."""
        self._time += seconds
        self._monotonic += seconds

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)


async def check_inbox(
    open_inbox: Callable[[], AbstractAsyncContextManager[EventInbox]], *, lease_seconds: float = 0.5
) -> None:
    """Check that an inbox of your own keeps what `jetpay_async.webhooks.inbox.EventInbox` promises.

    It plays workers that receive the same events at the same time, a worker that dies, a handler that fails, gaps, and
    the events of another account.

    Args:
        open_inbox: Opens one more inbox over the same storage, as another process would. The storage is empty at first;
            the check leaves events in it.
        lease_seconds: How long leases are in this check. It waits for one to run out.

    Raises:
        AssertionError: The inbox breaks a promise, which the message names.
    """
    from jetpay_async.webhooks._inbox_contract import check  # noqa: PLC0415 - only for runs that use it

    await check(open_inbox, lease_seconds)


@pytest.fixture
def jetpay_clock() -> ManualClock:
    """A `ManualClock`."""
    return ManualClock()


@pytest.fixture(scope="session")
def jetpay_keys() -> SigningKeys:
    """A `SigningKeys`, made once for the whole run."""
    from jetpay_async.sandbox._keys import KeyRing  # noqa: PLC0415 - only for runs that use it

    ring = KeyRing()
    return SigningKeys(
        private_key=ring.current.private_key,
        kid=ring.current.kid,
        jwks=ring.jwks,
        key_set=webhooks.KeySet.from_jwks(ring.jwks),
    )


@pytest.fixture
def signed_delivery(jetpay_keys: SigningKeys) -> DeliveryBuilder:
    """A `DeliveryBuilder` that signs with ``jetpay_keys``."""
    return DeliveryBuilder(jetpay_keys)


@pytest.fixture
def jetpay_sandbox() -> Iterator[Sandbox]:
    """A running `Sandbox`, in a thread and an event loop of its own."""
    from jetpay_async.sandbox._threaded import sandbox_in_thread  # noqa: PLC0415 - only for runs that use it

    with sandbox_in_thread() as sandbox:
        yield sandbox


def _check_loop_scope(request: pytest.FixtureRequest) -> None:
    """Fail a test whose event loop is not that of the client: it would wait for a loop that does not run."""
    config, marker = request.config, request.node.get_closest_marker("asyncio")
    here = config.getini("asyncio_default_fixture_loop_scope") or "function"
    there = (marker and marker.kwargs.get("loop_scope")) or config.getini("asyncio_default_test_loop_scope")
    if there != here:
        pytest.fail(
            f"jetpay_client runs in the event loop of loop_scope={here!r}, and this test in that of "
            f"loop_scope={there!r}: set asyncio_default_fixture_loop_scope = {there!r} in pytest's configuration",
            pytrace=False,
        )


if pytest_asyncio is not None:  # pragma: no branch - the package's own tests have it

    @pytest_asyncio.fixture
    async def jetpay_client(request: pytest.FixtureRequest, jetpay_sandbox: Sandbox) -> AsyncIterator[JetpayClient]:
        """A `JetpayClient` of the sandbox, with every scope."""
        _check_loop_scope(request)
        retry = jetpay_async.RetryPolicy(
            base_delay=0.02, resolve_after=RESOLVE_AFTER_SECONDS, resolve_after_timeout=RESOLVE_AFTER_SECONDS
        )
        async with jetpay_async.JetpayClient(
            jetpay_sandbox.api_token, base_url=jetpay_sandbox.url, retry=retry
        ) as client:
            yield client
