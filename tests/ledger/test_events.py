"""Events resolve what is open in a ledger, only forwards, and offer the debits that nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import attrs
import pytest
import pytest_asyncio

from jetpay_async import ConfigurationError, InvalidArgumentError, OutcomeUnknownError, TransactionFailedError
from jetpay_async.ledger import (
    EventEffect,
    Ledger,
    PaymentDiscardedError,
    PaymentState,
    PaymentStateError,
    _payments,
    _reports,
)
from jetpay_async.models import TransactionState
from jetpay_async.webhooks import EventRouter, TransactionEvent
from tests.ledger import service as capture_service
from tests.ledger.payment_events import OURS, event
from tests.ledger.payment_service import LOSE, LOSE_AFTERWARDS, REQUEST, WAIT, serving
from tests.ledger.test_durable_payments import claim_by

pytestmark = pytest.mark.asyncio

E = EventEffect


@pytest_asyncio.fixture
async def opened(ledger: str) -> AsyncIterator[Ledger]:
    async with Ledger(ledger, webhook_ids={OURS}) as opened:
        yield opened


async def change(opened: Ledger, statement: str, **values: Any) -> int:
    return await opened.commits.run(lambda connection: connection.change(statement, values))


async def lost(opened: Ledger, ledger: str, *, act: str = LOSE_AFTERWARDS) -> None:
    """Leave the reservation ``b1`` unknown; the service has made ``debit_0`` unless it lost the request."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        service.script["booking 1"] = [act]
        with pytest.raises(OutcomeUnknownError):
            await reservations.preauthorize(reference="b1", **REQUEST)


async def again(ledger: str, **options: Any) -> Any:
    """Ask for ``b1`` again; fail if anything is sent."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        try:
            return await reservations.preauthorize(reference="b1", **REQUEST, **options)
        finally:
            assert service.requests.total() == 0


async def test_only_events_of_our_webhooks_count(opened: Ledger, ledger: str) -> None:
    """Another account's event, or one of an unknown webhook, changes nothing; without ``webhook_ids`` none is taken."""
    await lost(opened, ledger)

    assert await opened.apply(event("preauthorized", webhook_id=99)) is E.FOREIGN
    assert await opened.apply(event("preauthorized", webhook_id=None)) is E.FOREIGN
    assert await opened.candidates("b1") == []
    async with Ledger(ledger) as other:
        with pytest.raises(ConfigurationError, match="webhook_ids"):
            await other.apply(event("preauthorized"))


async def test_a_router_takes_it_as_a_handler(opened: Ledger, ledger: str) -> None:
    """``router.on(TransactionEvent)(ledger.apply)`` is all that is needed."""
    await lost(opened, ledger)
    router = EventRouter()
    router.on(TransactionEvent)(opened.apply)

    assert await router.dispatch(event("preauthorized"))

    assert [each.transaction_id for each in await opened.candidates("b1")] == ["debit_0"]


async def test_a_debit_that_nothing_knows_is_offered_and_adopted(opened: Ledger, ledger: str) -> None:
    """The debit of a lost reservation is a candidate; adopted, it is what the reference returns."""
    await lost(opened, ledger)

    states = ("requested", "preauthorized", "requested", "preauthorized")
    effects = [await opened.apply(event(state)) for state in states]
    (candidate,) = await opened.candidates("b1")
    adopted = await opened.adopt("b1", candidate.transaction_id)

    assert effects == [E.OFFERED, E.OFFERED, E.NOTHING, E.NOTHING]
    assert (candidate.state, candidate.releasing) == ("preauthorized", False)
    assert (adopted.state, adopted.resolved_by, adopted.transaction_id) == ("succeeded", "adopted", "debit_0")
    assert await opened.candidates("b1") == []
    assert (await again(ledger)).debit_id == "debit_0"


async def test_a_debit_of_another_time_or_kind_is_not_offered(opened: Ledger, ledger: str) -> None:
    """Only what was made in the time of an unresolved payment, and is of its kind, may be its own."""
    assert await opened.apply(event("preauthorized")) is E.NOTHING  # nothing is unresolved
    await lost(opened, ledger)

    assert await opened.apply(event("preauthorized", "debit_1", ago=3600)) is E.NOTHING
    assert await opened.apply(event("preauthorized", "debit_2", ago=-7200)) is E.NOTHING
    assert await opened.apply(event("processing", "credit_0", kind="credits")) is E.NOTHING
    assert await opened.apply(event("failed", "debit_3")) is E.OFFERED
    assert await opened.candidates("b1") == []  # what failed reserves nothing


async def test_an_event_before_the_answer_is_forgotten_with_it(opened: Ledger, ledger: str) -> None:
    """An event may come before the answer is recorded: then the debit is known, and in the later of the states."""
    await opened.commits.run(partial(claim_by, owner=await opened.commits.run(lambda c: c.register(60.0))))
    await opened.apply(event("preauthorized", "debit_7"))
    await opened.apply(event("paid", "debit_7"))
    entry = _payments.PaymentRecord(
        1, 1, PaymentState.SUCCEEDED, 1, transaction_id="debit_7", transaction_state="preauthorized"
    )

    await opened.commits.run(partial(_reports.record, entry=entry, kind="debit"))

    payment = await opened.payment("b1")
    assert (payment.transaction_id, payment.transaction_state) == ("debit_7", "paid")
    assert await opened.commits.run(lambda c: c.query("SELECT * FROM jetpay_transaction", {}), writes=False) == []


async def test_an_answer_after_a_decision_is_offered(opened: Ledger, ledger: str) -> None:
    """The debit of an answer that comes after its payment was adopted or discarded is not lost: it is an orphan."""
    await lost(opened, ledger)
    await opened.adopt("b1", "debit_9", state="preauthorized")
    entry = _payments.PaymentRecord(1, 1, PaymentState.SUCCEEDED, 1, transaction_id="debit_0", transaction_state="paid")

    for _ in range(2):
        await opened.commits.run(partial(_reports.record, entry=entry, kind="debit"))

    found = await opened.commits.run(partial(_reports.orphans, older_than=0.0))
    assert [each.transaction_id for each in found] == ["debit_0"]
    same = attrs.evolve(entry, transaction_id="debit_9")
    await opened.commits.run(partial(_reports.record, entry=same, kind="debit"))
    assert len(await opened.commits.run(partial(_reports.orphans, older_than=0.0))) == 1


async def test_an_answer_never_gives_one_debit_to_two_references(
    opened: Ledger, ledger: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A debit that another reference has adopted stays there when an answer names it: what was asked is unknown."""
    await lost(opened, ledger, act=LOSE)
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        service.script["booking 2"] = [WAIT]
        asked: dict[str, Any] = {**REQUEST, "statement": "booking 2"}
        call = asyncio.ensure_future(reservations.preauthorize(reference="b2", **asked))
        await service.arrived.wait()
        await opened.adopt("b1", "debit_0", state="preauthorized")
        service.go.set()

        with pytest.raises(OutcomeUnknownError, match="'b2' was sent") as caught:
            await call

    assert "its response named debit_0, which is the transaction of 'b1'" in caught.value.reason
    assert "b2: its response named debit_0, which b1 has" in caplog.text
    payment = await opened.payment("b2")
    assert (payment.state, payment.transaction_id) == (PaymentState.UNKNOWN, None)
    assert (await opened.verify()).problems == ()


async def test_a_failed_transaction_may_be_named_by_another_reference(opened: Ledger, ledger: str) -> None:
    """An answer that says that its debit failed is a rejection, whoever has adopted that debit: nothing is reserved."""
    await lost(opened, ledger, act=LOSE)
    await opened.adopt("b1", "debit_0", state="preauthorized")
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        service.state = "failed"
        with pytest.raises(TransactionFailedError):
            await reservations.preauthorize(reference="b2", **REQUEST)

    assert (await opened.payment("b2")).state is PaymentState.REJECTED


async def reserved(ledger: str, state: str | None = None) -> None:
    async with serving(timeout=0.3) as (service, client), client.durable_preauthorizations(ledger) as reservations:
        service.state = state
        try:
            await reservations.preauthorize(reference="b1", **REQUEST)
        except OutcomeUnknownError:
            assert state == "odd"


@pytest.mark.parametrize(
    ("first", "said", "expected"),
    [
        (None, ["paid", "preauthorized", "paid"], [E.RECORDED, E.NOTHING, E.NOTHING]),
        (None, ["paid", "completed", "failed", "completed"], [E.RECORDED, E.RECORDED, E.REVERSED, E.NOTHING]),
        (None, ["cancelled", "requested"], [E.REVERSED, E.NOTHING]),
        ("processing", ["processing", "preauthorized", "processing"], [E.NOTHING, E.RESOLVED, E.NOTHING]),
        ("processing", ["failed", "preauthorized"], [E.RESOLVED, E.NOTHING]),
        ("odd", ["odd", "preauthorized"], [E.NOTHING, E.RESOLVED]),
        ("odd", ["processing", "requested"], [E.RESOLVED, E.NOTHING]),
        ("odd", ["cancelled"], [E.RESOLVED]),
    ],
)
async def test_a_payment_becomes_what_its_events_say(
    opened: Ledger, ledger: str, first: str | None, said: list[str], expected: list[EventEffect]
) -> None:
    """Events bring a payment whose debit is known forwards, and never back, whatever their order."""
    await reserved(ledger, first)

    assert [await opened.apply(event(state)) for state in said] == expected


async def test_a_reservation_that_failed_later_is_an_error(
    opened: Ledger, ledger: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A reversal is logged, recorded, and raised to whoever asks again, who sends nothing."""
    await reserved(ledger)

    assert await opened.apply(event("failed")) is E.REVERSED

    assert "debit_0 is failed, after it had succeeded" in caplog.text
    with pytest.raises(TransactionFailedError):
        await again(ledger, retry_rejected=True)


async def test_what_can_not_be_adopted(opened: Ledger, ledger: str) -> None:
    """A debit of another payment, one that is over, or one that nobody has seen is refused; so is a known payment."""
    await lost(opened, ledger)
    await opened.apply(event("failed", "debit_3"))
    for debit_id, state, why in [
        ("debit_8", None, "no event has reported it"),
        ("debit_3", "preauthorized", "is failed"),
        ("debit_8", "cancelled", "is cancelled"),
        ("debit_8", "odd", "is odd"),
    ]:
        with pytest.raises(PaymentStateError, match=why):
            await opened.adopt("b1", debit_id, state=state)
    await change(
        opened,
        """INSERT INTO jetpay_payment (reference, operation, kind, arguments, state, intent, attempts, transaction_id)
        VALUES ('b2', 'preauthorize', 'debit', '{}', 'succeeded', 1, 1, 'debit_5')""",
    )
    with pytest.raises(PaymentStateError, match="is the transaction of 'b2'"):
        await opened.adopt("b1", "debit_5", state="preauthorized")
    with pytest.raises(PaymentStateError, match="'b2' is succeeded"):
        await opened.adopt("b2", "debit_6", state="preauthorized")
    assert await opened.candidates("b2") == []
    await change(opened, "UPDATE jetpay_payment SET transaction_id = 'debit_0' WHERE reference = 'b1'")
    with pytest.raises(PaymentStateError, match="its response named 'debit_0'"):
        await opened.adopt("b1", "debit_6", state="preauthorized")
    assert (await opened.adopt("b1", "debit_0", state="processing")).state is PaymentState.ACCEPTED


async def test_discarding_waits_until_the_request_is_over(opened: Ledger, ledger: str) -> None:
    """An unknown payment is discarded only when its request can't be on its way; then it is sent only on demand."""
    await lost(opened, ledger, act=LOSE)
    with pytest.raises(PaymentStateError, match="may still be on its way"):
        await opened.discard("b1")
    await change(opened, "UPDATE jetpay_payment SET certain_at = 1")

    assert (await opened.discard("b1")).state is PaymentState.DISCARDED

    await change(opened, "UPDATE jetpay_payment SET certain_at = intent_at + 60")
    assert await opened.apply(event("preauthorized", "debit_0")) is E.OFFERED  # it was made after all
    assert [each.transaction_id for each in await opened.orphans()] == ["debit_0"]
    with pytest.raises(PaymentDiscardedError):
        await again(ledger)
    with pytest.raises(PaymentStateError, match="is discarded"):
        await opened.discard("b1")
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        await reservations.preauthorize(reference="b1", retry_rejected=True, **REQUEST)
        assert service.made.total() == 1


# --- captures ---------------------------------------------------------------------------------------------------------


async def captured(opened: Ledger, ledger: str, state: str, *, look_first: int = 0) -> None:
    """Have the batch ``night`` of one debit, in a state."""
    await opened.submit("night", ["debit_0"])
    finished = state in {"captured", "accepted", "rejected", "unknown"}
    await change(
        opened,
        """UPDATE jetpay_debit SET state = :state, look_first = :look_first, seq = :seq, transaction_state = :said,
        intent_at = 1, certain_at = 2, owner = 5, intent = 1""",
        state=state,
        look_first=look_first,
        seq=(1 << 32) + 1 if finished else None,
        said={"captured": "paid", "accepted": "processing"}.get(state),
    )
    if finished:
        await change(opened, f"UPDATE jetpay_batch SET {state} = 1, last_seq = 1")


@pytest.mark.parametrize(
    "case",
    [
        ("unknown", 0, "paid", E.RESOLVED, "captured"),
        ("unknown", 0, "failed", E.RESOLVED, "rejected"),
        ("unknown", 0, "preauthorized", E.NOTHING, "unknown"),
        ("unknown", 0, "requested", E.NOTHING, "unknown"),
        ("accepted", 0, "completed", E.RESOLVED, "captured"),
        ("accepted", 0, "cancelled", E.RESOLVED, "rejected"),
        ("accepted", 0, "initiated", E.NOTHING, "accepted"),
        ("sending", 1, "paid", E.RESOLVED, "captured"),
        ("sending", 1, "failed", E.RESOLVED, "rejected"),
        ("sending", 0, "paid", E.RECORDED, "sending"),
        ("pending", 0, "paid", E.RECORDED, "pending"),
        ("captured", 0, "paid", E.NOTHING, "captured"),
        ("captured", 0, "failed", E.REVERSED, "captured"),
        ("rejected", 0, "paid", E.NOTHING, "rejected"),
    ],
)
async def test_a_capture_becomes_what_its_event_says(
    opened: Ledger, ledger: str, case: tuple[str, int, str, EventEffect, str]
) -> None:
    """An event resolves a capture that is unknown, accepted or in doubt, once; the counts of its batch stay right."""
    state, look_first, said, effect, reached = case
    await captured(opened, ledger, state, look_first=look_first)

    assert await opened.apply(event(said)) is effect
    assert await opened.apply(event(said)) is E.NOTHING

    (item,) = [each async for each in opened.items("night")]
    assert item.state == reached
    assert (item.later_state is not None) is (effect is E.REVERSED)
    assert (await opened.verify()).problems == ()
    progress = await opened.progress("night")
    assert progress.complete is (reached not in {"pending", "sending"})


async def test_an_event_of_a_credit_is_no_news_of_a_debit(opened: Ledger, ledger: str) -> None:
    """A payout that is paid never looks like a capture."""
    await captured(opened, ledger, "unknown")

    assert await opened.apply(event("paid", kind="credits")) is E.NOTHING


async def test_a_debit_that_an_event_said_is_paid_is_not_sent(opened: Ledger, ledger: str) -> None:
    """A pending debit that was captured elsewhere, as an event says, is resolved by its status first."""
    await captured(opened, ledger, "pending")
    await opened.apply(event("paid"))
    async with capture_service.serving() as (service, client):
        service.captures["debit_0"] = 1
        async with client.durable_captures(ledger) as captures:
            report = await (await captures.batch("night")).wait()

    assert report.captured == 1
    assert service.requests["debit_0"] == 0


# --- orphans ----------------------------------------------------------------------------------------------------------


async def orphan(opened: Ledger, ledger: str) -> None:
    await lost(opened, ledger)
    await opened.apply(event("preauthorized", ago=60))


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_orphan_is_released_unless_a_booking_holds_it(opened: Ledger, ledger: str, asynchronous: bool) -> None:
    """What ``keep`` holds stays; of the rest the status is read before and after it is cancelled."""
    await orphan(opened, ledger)
    holds = True

    async def keep(_: object) -> bool:
        return holds

    async with serving() as (service, client):
        service.states["debit_0"] = "preauthorized"

        async def release(older_than: float = 30.0) -> list[str]:
            reports = await client.release_orphans(
                ledger, older_than=older_than, keep=keep if asynchronous else lambda _: holds
            )
            return [each.result for each in reports]

        assert await release(older_than=3600.0) == []
        assert await release() == ["kept"]
        holds = False
        assert await release() == ["released"]
        assert (service.requests["status"], service.requests["cancel"]) == (2, 1)
        assert await release() == []

    assert await opened.candidates("b1") == []
    assert (await opened.payment("b1")).state is PaymentState.UNKNOWN


@pytest.mark.parametrize("state", ["paid", "processing", None])
async def test_what_is_not_reserved_is_not_cancelled(opened: Ledger, ledger: str, state: str | None) -> None:
    """Only what its status says is preauthorized is cancelled; the rest is reported, and can still be adopted."""
    await orphan(opened, ledger)
    async with serving() as (service, client):
        if state is not None:
            service.states["debit_0"] = state
        (report,) = await client.release_orphans(ledger, older_than=1, keep=lambda _: False)

        assert report.result == "not_released"
        assert service.requests["cancel"] == 0
    assert [each.releasing for each in await opened.candidates("b1")] == [False]


async def test_one_that_was_cancelled_elsewhere_is_released(opened: Ledger, ledger: str) -> None:
    """An orphan that is over already is forgotten."""
    await orphan(opened, ledger)
    async with serving() as (service, client):
        service.states["debit_0"] = "cancelled"
        (report,) = await client.release_orphans(ledger, older_than=1, keep=lambda _: False)

    assert (report.result, report.state) == ("released", "cancelled")


async def test_what_may_have_been_cancelled_can_not_be_adopted(opened: Ledger, ledger: str) -> None:
    """A cancellation without an answer leaves the orphan marked, and the next run finishes it."""
    await orphan(opened, ledger)
    async with serving() as (service, client):
        service.states["debit_0"] = "preauthorized"
        service.on_cancel = [(409, {"detail": "busy"})]
        (report,) = await client.release_orphans(ledger, older_than=1, keep=lambda _: False)
        assert report.result == "not_released"
        with pytest.raises(PaymentStateError, match="is being released"):
            await opened.adopt("b1", "debit_0")

        (report,) = await client.release_orphans(ledger, older_than=1, keep=lambda _: False)
        assert report.result == "released"


async def test_what_may_have_been_cancelled_stays_marked_until_its_status_is_read(opened: Ledger, ledger: str) -> None:
    """A later run that can't read the status takes nothing back; one that reads that it was paid does."""
    await orphan(opened, ledger)
    async with serving() as (service, client):
        service.states["debit_0"] = "preauthorized"
        service.on_cancel = [(409, {"detail": "busy"})]
        await client.release_orphans(ledger, older_than=1, keep=lambda _: False)
        del service.states["debit_0"]

        (report,) = await client.release_orphans(ledger, older_than=1, keep=lambda _: False)
        assert report.result == "not_released"
        with pytest.raises(PaymentStateError, match="is being released"):
            await opened.adopt("b1", "debit_0")

        service.states["debit_0"] = "paid"
        await client.release_orphans(ledger, older_than=1, keep=lambda _: False)
        assert (await opened.adopt("b1", "debit_0")).state is PaymentState.SUCCEEDED


async def test_what_is_reported_after_a_discard_is_offered(opened: Ledger, ledger: str) -> None:
    """A reservation that was made after all, whose first event comes late, is an orphan, not lost."""
    await lost(opened, ledger)
    await change(opened, "UPDATE jetpay_payment SET certain_at = 0, intent_at = intent_at - 60")
    await opened.discard("b1")
    await change(opened, "UPDATE jetpay_payment SET certain_at = intent_at + 60")

    assert await opened.apply(event("preauthorized", ago=60)) is E.OFFERED


async def test_what_does_not_become_cancelled_stays_marked(opened: Ledger, ledger: str) -> None:
    """A cancellation that the status does not confirm is reported, and is not adopted meanwhile."""
    await orphan(opened, ledger)
    async with serving() as (service, client):
        service.states["debit_0"] = "preauthorized"
        service.on_cancel = [(200, {"ok": True})]
        (report,) = await client.release_orphans(ledger, older_than=1, keep=lambda _: False)

    assert (report.result, report.error) == ("not_released", "its status says preauthorized")
    assert [each.releasing for each in await opened.candidates("b1")] == [True]


async def test_what_was_adopted_meanwhile_is_kept(opened: Ledger, ledger: str) -> None:
    """A debit that is adopted while the application is asked about it is not cancelled."""
    await orphan(opened, ledger)

    async def keep(_: object) -> bool:
        await opened.adopt("b1", "debit_0")
        return False

    async with serving() as (service, client):
        (report,) = await client.release_orphans(ledger, older_than=1, keep=keep)

        assert service.requests.total() == 0
    assert report.result == "kept"


async def test_what_a_living_process_may_wait_for_is_no_orphan(opened: Ledger, ledger: str) -> None:
    """While a process that is alive waits for an answer, the debits of its time are left alone."""
    await opened.commits.run(partial(claim_by, owner=await opened.commits.run(lambda c: c.register(60.0))))
    await opened.apply(event("preauthorized", ago=60))
    async with serving() as (_, client):
        assert await client.release_orphans(ledger, older_than=1, keep=lambda _: False) == []


async def test_an_answer_that_comes_while_its_debit_is_released(opened: Ledger, ledger: str) -> None:
    """A paused process whose reservation is being released learns that it is cancelled."""
    await orphan(opened, ledger)
    await opened.commits.run(partial(_reports.begin_release, transaction_id="debit_0"))
    entry = _payments.PaymentRecord(
        1, 1, PaymentState.SUCCEEDED, 1, transaction_id="debit_0", transaction_state="preauthorized"
    )
    await opened.commits.run(partial(_reports.record, entry=entry, kind="debit"))

    await opened.commits.run(partial(_reports.end_release, transaction_id="debit_0", state=TransactionState.CANCELLED))

    assert (await opened.payment("b1")).transaction_state == "cancelled"
    with pytest.raises(TransactionFailedError):
        await again(ledger)


async def test_release_takes_a_number_of_seconds(ledger: str) -> None:
    """``older_than`` is a number above 0."""
    async with serving() as (_, client):
        with pytest.raises(InvalidArgumentError, match="older_than"):
            await client.release_orphans(ledger, older_than=-1, keep=lambda _: False)
