"""Faults of time and of states: work that is done late, states that lag, go back or come from a cache."""

from __future__ import annotations

import aiohttp
import attrs
import pytest

from jetpay_async import Clock
from jetpay_async.sandbox import Fault, FaultKind, Sandbox

from .calling import Caller, HeldClock, until


@attrs.define
class SetClock:
    """A wall clock that the test sets."""

    now: float = 1_000_000.0

    @property
    def clock(self) -> Clock:
        return Clock(time=lambda: self.now)


@pytest.mark.asyncio
async def test_late_processing_of_a_lost_request() -> None:
    """The connection ends without an answer at once, and the money is taken later."""
    held = HeldClock()
    async with Sandbox(clock=held.clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        sandbox.faults.add(Fault(kind=FaultKind.PROCESS_LATE, route="capture", seconds=6))

        with pytest.raises(aiohttp.ServerDisconnectedError):
            await caller.capture(debit_id)
        meanwhile = (await caller.status(debit_id)).document["state"]
        held.released.set()
        await until(lambda: sandbox.debit(debit_id).captures == 1)

        assert meanwhile == "preauthorized"
        assert held.slept == [6]


@pytest.mark.asyncio
async def test_retransmission() -> None:
    """The connection is reset, and the request is worked on later."""
    held = HeldClock()
    async with Sandbox(clock=held.clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        sandbox.faults.add(Fault(kind=FaultKind.RETRANSMIT, route="capture", seconds=5))

        with pytest.raises(aiohttp.ClientOSError, match="reset"):
            await caller.capture(debit_id)
        before = sandbox.debit(debit_id).captures
        held.released.set()
        await until(lambda: sandbox.debit(debit_id).captures == 1)

        assert (before, held.slept) == (0, [5])


@pytest.mark.asyncio
@pytest.mark.parametrize(("body", "content"), [("html", b"<h1>504"), ("json", b'{"detail":"Gateway Timeout"}')])
async def test_late_processing_after_an_error(body: str, content: bytes) -> None:
    """An error is answered at once, and the money is taken later."""
    held = HeldClock()
    async with Sandbox(clock=held.clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        sandbox.faults.add(Fault.from_text(f"process_late route=capture seconds=6 status=504 body={body}"))

        answer = await caller.capture(debit_id)
        before = sandbox.debit(debit_id).captures
        held.released.set()
        await until(lambda: sandbox.debit(debit_id).captures == 1)

        assert (answer.status, before) == (504, 0)
        assert content in answer.body


@pytest.mark.asyncio
async def test_late_processing_of_two_captures_is_rejected_as_ever(caller: Caller) -> None:
    """A capture that is processed late counts like any other: of two, the second is a 409 for the service."""
    debit_id = await caller.reserve()
    caller.sandbox.faults.add(Fault(kind=FaultKind.PROCESS_LATE, route="capture", seconds=0, status=502))

    late = await caller.capture(debit_id)
    await until(lambda: caller.sandbox.debit(debit_id).captures == 1)
    second = await caller.capture(debit_id)

    assert (late.status, second.status) == (502, 409)
    assert caller.sandbox.captured_twice == ()


@pytest.mark.asyncio
async def test_late_work_ends_with_the_sandbox() -> None:
    """What is to be processed late is not processed once the sandbox has stopped."""
    held = HeldClock()
    async with Sandbox(clock=held.clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        sandbox.faults.add(Fault(kind=FaultKind.PROCESS_LATE, route="capture", status=502))
        await caller.capture(debit_id)
        await until(lambda: held.slept == [1.0])
    held.released.set()

    assert sandbox.debit(debit_id).captures == 0


@pytest.mark.asyncio
async def test_a_status_that_lags() -> None:
    """A stale status is the one of so many seconds ago, as long as the fault is switched on."""
    clock = SetClock()
    async with Sandbox(clock=clock.clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        sandbox.faults.add(Fault(kind=FaultKind.STALE_STATUS, seconds=3))
        debit_id = await caller.reserve()
        seen: list[tuple[int, object]] = []
        for second in range(7):
            if second == 3:
                await caller.capture(debit_id)
            answer = await caller.status(debit_id)
            seen.append((answer.status, answer.document.get("state")))
            clock.now += 1
        sandbox.faults.clear()

        assert seen == [(404, None)] * 3 + [(200, "preauthorized")] * 3 + [(200, "paid")]
        assert (await caller.status(debit_id)).document == {"state": "paid"}


@pytest.mark.asyncio
async def test_a_status_that_lags_has_its_reasons() -> None:
    """A stale status of a failed debit has the reason and the direction; one of an unknown id is a 404."""
    clock = SetClock()
    async with Sandbox(clock=clock.clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        sandbox.set_state(debit_id, "failed", fail_reason="account_frozen", fail_direction="pull")
        clock.now += 10
        sandbox.faults.add(Fault(kind=FaultKind.STALE_STATUS, seconds=3))

        answer = await caller.status(debit_id)

        assert answer.document == {"state": "failed", "fail_reason": "account_frozen", "fail_direction": "pull"}
        assert (await caller.status("unknown")).status == 404


@pytest.mark.asyncio
async def test_a_cached_reply() -> None:
    """Statuses come from a cache once read, with their age, each id by itself, although a fresh one is requested."""
    clock = SetClock()
    async with Sandbox(clock=clock.clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        first, second = await caller.reserve(), await caller.reserve()
        sandbox.faults.add(Fault(kind=FaultKind.CACHED_REPLY))
        await caller.status(first)
        for debit_id in (first, second):
            await caller.capture(debit_id)
        clock.now += 7

        cached = await caller.call("GET", f"/transaction/{first}/status", headers={"Cache-Control": "no-cache"})
        fresh = await caller.status(second)

        assert (cached.document, cached.headers["Age"]) == ({"state": "preauthorized"}, "7")
        assert (fresh.document, fresh.headers["Age"]) == ({"state": "paid"}, "0")


@pytest.mark.asyncio
async def test_a_state_that_goes_back(caller: Caller) -> None:
    """A status reports another state than the transaction has, and the next one the right state again."""
    debit_id = await caller.reserve()
    await caller.capture(debit_id)
    caller.sandbox.faults.add(Fault(kind=FaultKind.REPORT_STATE_AFTER, route="status", state="preauthorized"))

    states = [(await caller.status(debit_id)).document for _ in range(2)]

    assert states == [{"state": "preauthorized"}, {"state": "paid"}]


@pytest.mark.asyncio
@pytest.mark.parametrize("point", ["before", "after"])
async def test_a_capture_that_reports_another_state(caller: Caller, point: str) -> None:
    """A capture reports a state of choice, and the money was taken after, not before."""
    debit_id = await caller.reserve()
    caller.sandbox.faults.add(Fault(kind=FaultKind(f"report_state_{point}"), route="capture", state="initiated"))

    answer = await caller.capture(debit_id)

    assert (answer.status, answer.document) == (200, {"identifier": debit_id, "state": "initiated"})
    assert caller.sandbox.debit(debit_id).captures == (1 if point == "after" else 0)


@pytest.mark.asyncio
async def test_a_status_without_a_transaction(caller: Caller) -> None:
    """Reported before the work, a state needs no transaction; after it, a rejection stays as it is."""
    faults = caller.sandbox.faults
    faults.add(Fault(kind=FaultKind.REPORT_STATE_BEFORE), Fault(kind=FaultKind.REPORT_STATE_AFTER))

    answers = [await caller.status("unknown") for _ in range(2)]

    assert [(each.status, each.document) for each in answers] == [
        (200, {"state": "processing"}),
        (404, {"detail": "Transaction not found"}),
    ]


@pytest.mark.asyncio
async def test_a_preauthorization_that_reports_another_state(caller: Caller) -> None:
    """A preauthorization reports a state of choice in its own field, and the debit is preauthorized."""
    caller.sandbox.faults.add(Fault(kind=FaultKind.REPORT_STATE_AFTER, state="requested"))

    answer = await caller.preauthorize()

    assert answer.document["transaction_state"] == "requested"
    assert caller.sandbox.debit(answer.document["debit_id"]).state == "preauthorized"


@pytest.mark.asyncio
async def test_faults_of_states_apply_to_their_calls_alone(caller: Caller) -> None:
    """A fault that only some calls can have is not used up by the others."""
    caller.sandbox.faults.add(
        Fault(kind=FaultKind.REPORT_STATE_BEFORE, count=1),
        Fault(kind=FaultKind.STALE_STATUS),
        Fault(kind=FaultKind.CACHED_REPLY),
    )

    await caller.reserve()
    await caller.call("GET", "/webhooks/")

    assert caller.sandbox.faults.injected == {}
