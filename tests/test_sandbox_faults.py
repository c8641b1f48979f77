"""Money safety against every documented fault of the sandbox, which takes the money again if it is asked again."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from jetpay_async import (
    Capture,
    JetpayClient,
    JetpayError,
    NotSentError,
    OutcomeUnknownError,
    RetryPolicy,
    ServiceError,
    TransactionState,
)
from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.sandboxed import reserve

# How late "late" is, and how long the client waits before it believes that nothing was done: longer.
LATE_SECONDS = 0.01
QUICK = RetryPolicy(max_attempts=3, base_delay=0.005, max_delay=0.01, resolve_after=0.08, resolve_after_timeout=0.08)
SUCCESSFUL = {TransactionState.PAID, TransactionState.COMPLETED}

SETTINGS: dict[FaultKind, dict[str, object]] = {
    FaultKind.SLOW_BEFORE: {"seconds": LATE_SECONDS},
    FaultKind.SLOW_AFTER: {"seconds": LATE_SECONDS},
    FaultKind.PROCESS_LATE: {"seconds": LATE_SECONDS},
    FaultKind.RETRANSMIT: {"seconds": LATE_SECONDS},
    FaultKind.STALE_STATUS: {"seconds": LATE_SECONDS, "count": 2},
    FaultKind.CACHED_REPLY: {"count": 2},
    FaultKind.REPORT_STATE_BEFORE: {"state": "clearing"},
    FaultKind.REPORT_STATE_AFTER: {"state": "clearing"},
    FaultKind.WRONG_SHAPE_BEFORE: {"document": {"hello": "world"}},
    FaultKind.WRONG_SHAPE_AFTER: {"document": {"hello": "world"}},
    FaultKind.REDIRECT_BEFORE: {"location": "/debit/other/capture"},
    FaultKind.REDIRECT_AFTER: {"location": "/debit/other/capture"},
}
STATUSES = (408, 409, 425, 499, 500, 502, 503, 504)


def faults(route: str) -> list[Fault]:
    """Every kind that a route can have; errors with each status, and late work after each kind of reply."""
    every = [Fault(kind=kind, route=route, **SETTINGS.get(kind, {})) for kind in FaultKind]  # type: ignore[arg-type]  # by their names
    made = [fault for fault in every if fault.fits(route, ())]
    for kind in (FaultKind.ERROR_BEFORE, FaultKind.ERROR_AFTER):
        made += [Fault(kind=kind, route=route, status=status) for status in STATUSES]
    late = Fault(kind=FaultKind.PROCESS_LATE, route=route, seconds=LATE_SECONDS)
    return [
        *made,
        *(attrs.evolve(late, status=status, body=body) for status in (503, 504) for body in ("json", "html")),
    ]


def named(fault: Fault) -> str:
    status = "" if fault.status is None else f"-{fault.status}"
    return f"{fault.route}-{fault.kind}{status}{'-html' if fault.body == 'html' else ''}"


@pytest.mark.parametrize("fault", faults("capture"), ids=named)
@pytest.mark.asyncio
async def test_a_capture_takes_the_money_once(fault: Fault) -> None:
    """Whatever happens to a capture, the money is taken at most once, and what the client says is what happened."""
    async with (
        Sandbox(refuses_second_capture=False) as sandbox,
        JetpayClient(sandbox.api_token, base_url=sandbox.url, timeout=1.0, retry=QUICK) as client,
    ):
        debit_id = await reserve(sandbox, client)
        sandbox.faults.add(fault)

        outcome = await _attempt(client, debit_id)

        captures = sandbox.debit(debit_id).captures
        assert sandbox.captured_twice == ()
        if isinstance(outcome, Capture):
            assert (outcome.state in SUCCESSFUL, captures) == (True, 1)
        elif isinstance(outcome, (NotSentError, ServiceError)):
            assert captures == 0
        else:
            assert isinstance(outcome, OutcomeUnknownError) or captures == 0
        again = await _attempt(client, debit_id)  # a caller that tries again is no danger either

        assert sandbox.captured_twice == ()
        assert isinstance(again, JetpayError) or sandbox.debit(debit_id).captures == 1


async def _attempt(client: JetpayClient, debit_id: str) -> Capture | JetpayError:
    try:
        return await client.capture(debit_id)
    except JetpayError as error:
        return error


@pytest.mark.parametrize("fault", faults("status"), ids=named)
@pytest.mark.asyncio
async def test_a_status_that_fails_or_lies_takes_nothing_twice(fault: Fault) -> None:
    """After a lost reply, nothing that happens to the status has the debit captured again."""
    async with (
        Sandbox(refuses_second_capture=False) as sandbox,
        JetpayClient(sandbox.api_token, base_url=sandbox.url, timeout=1.0, retry=QUICK) as client,
    ):
        debit_id = await reserve(sandbox, client)
        await client.transaction_status(debit_id)  # what a cache may answer with
        sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture"))
        sandbox.faults.add(fault)

        outcome = await _attempt(client, debit_id)

        assert sandbox.captured_twice == ()
        assert sandbox.requests("capture", debit_id) == 1
        assert isinstance(outcome, (Capture, OutcomeUnknownError))
        if isinstance(outcome, Capture):
            assert outcome.confirmed_by_status


# A 409 as the API's JSON is a sure no to a preauthorization: a service that answers so has done nothing.
@pytest.mark.parametrize("fault", [each for each in faults("preauthorize") if each.status != 409], ids=named)
@pytest.mark.asyncio
async def test_a_preauthorization_is_processed_once(fault: Fault) -> None:
    """A card is reserved at most once; an error other than an unknown outcome means that it was not."""
    async with (
        Sandbox() as sandbox,
        JetpayClient(sandbox.api_token, base_url=sandbox.url, timeout=1.0, retry=QUICK) as client,
    ):
        sandbox.faults.add(fault)
        before = sandbox.requests("preauthorize")
        try:
            debit_id = await reserve(sandbox, client)
        except OutcomeUnknownError:
            assert sandbox.requests("preauthorize") - before == 1
        except JetpayError:
            assert sandbox.debits == ()
        else:
            assert [debit.identifier for debit in sandbox.debits] == [debit_id]


@pytest.mark.parametrize("kind", [FaultKind.PROCESS_LATE, FaultKind.RETRANSMIT])
@pytest.mark.asyncio
async def test_a_client_that_believes_the_status_too_early_is_found(kind: FaultKind) -> None:
    """These tests would notice a second capture: a policy whose times are shorter than the delay makes one."""
    hasty = attrs.evolve(QUICK, resolve_after=0.0, resolve_after_timeout=0.0)
    async with (
        Sandbox(refuses_second_capture=False) as sandbox,
        JetpayClient(sandbox.api_token, base_url=sandbox.url, timeout=5.0, retry=hasty) as client,
    ):
        debit_id = await reserve(sandbox, client)
        sandbox.faults.add(Fault(kind=kind, route="capture", seconds=0.5))
        await client.capture(debit_id)
        while sandbox.debit(debit_id).captures < 2:
            await asyncio.sleep(0.01)

        assert sandbox.captured_twice == (debit_id,)
