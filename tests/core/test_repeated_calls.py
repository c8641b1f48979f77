"""What is sent again by itself: after a 429, and reads that are not answered."""

from __future__ import annotations

from email.utils import formatdate

import attrs
import pytest

from jetpay_async import (
    RateLimitedError,
    RetryPolicy,
    ServiceError,
)
from jetpay_async._core.clock import Clock
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Act, Loopback, replies
from tests.network import FAST, connect, preauthorize

WAITS = {
    "seconds": (replies(429, FASTAPI[429], Retry_After="7"), 7.0),
    "a date": (replies(429, FASTAPI[429], Retry_After=formatdate(1_000_007, usegmt=True)), 7.0),
    "nothing": (replies(429, FASTAPI[429]), 0.005),
    "nonsense": (replies(429, FASTAPI[429], Retry_After="soon"), 0.005),
}


@pytest.mark.parametrize(("act", "wait"), WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("operation", ["preauthorize", "capture"])
@pytest.mark.asyncio
async def test_a_rate_limited_write_waits_as_told_and_goes_again(act: Act, wait: float, operation: str) -> None:
    """429 counts as not processed: it is sent again after `Retry-After`, or after the backoff."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    clock = Clock(sleep=sleep, time=lambda: 1_000_000.0, random=lambda: 0.999999)
    async with Loopback(scripts={operation: [act]}).listen() as server:
        async with connect(server, timeout=20.0, clock=clock) as client:
            result = await (preauthorize(client) if operation == "preauthorize" else client.capture(DEBIT_ID))

    assert result.attempts == 2
    assert slept == [pytest.approx(wait, rel=0.01)]
    assert server.captures + server.preauthorizations == 1


@pytest.mark.parametrize(
    ("act", "retry"),
    [
        (replies(429, FASTAPI[429], Retry_After="7"), attrs.evolve(FAST, resend_rate_limited=False)),
        (replies(429, FASTAPI[429], Retry_After="3600"), FAST),
    ],
    ids=["switched off", "longer than the deadline"],
)
@pytest.mark.asyncio
async def test_a_rate_limit_that_can_not_be_waited_for_is_raised(act: Act, retry: RetryPolicy) -> None:
    """The caller learns how long to wait where the client does not."""
    async with Loopback(scripts={"preauthorize": [act]}).listen() as server, connect(server, retry=retry) as client:
        with pytest.raises(RateLimitedError) as caught:
            await preauthorize(client)

    assert caught.value.retry_after in {7.0, 3600.0}
    assert server.count("preauthorize") == 1


@pytest.mark.parametrize("act", [loopback.hang_up, replies(503, HTML), replies(200, HTML), loopback.cut_body])
@pytest.mark.asyncio
async def test_a_read_is_repeated_until_it_is_answered(act: Act) -> None:
    """Reading moves no money: whatever fails, it is read again."""
    async with Loopback(scripts={"status": [act, act]}).listen() as server, connect(server) as client:
        read = await client.transaction_status(DEBIT_ID)

    assert read.state == "preauthorized"
    assert server.count("status") == 3  # aiohttp repeats a GET of its own on a dropped connection


@pytest.mark.asyncio
async def test_a_read_that_stays_unanswered_is_a_service_error() -> None:
    """A read has no unknown outcome: it says that the service gave no usable answer."""
    async with Loopback(scripts={"status": [replies(503, HTML, X_Request_ID="req-1")] * 9}).listen() as server:
        async with connect(server) as client:
            with pytest.raises(ServiceError, match="HTTP 503") as caught:
                await client.transaction_status(DEBIT_ID)

    assert caught.value.attempts == FAST.max_attempts
    assert caught.value.request_id == "req-1"
    assert caught.value.status == 503
    assert caught.value.retryable
