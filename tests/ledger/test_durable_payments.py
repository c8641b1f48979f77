"""Preauthorizations, charges and credits by reference: each is made once, and what is unknown is never sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

import attrs
import pytest

from jetpay_async import (
    AuthenticationError,
    Charge,
    ConfigurationError,
    Credit,
    InvalidArgumentError,
    InvalidRequestError,
    JetpayClient,
    NotSentError,
    OutcomeUnknownError,
    Preauthorization,
    RetryPolicy,
    TransactionFailedError,
)
from jetpay_async.ledger import (
    DurablePreauthorizations,
    Ledger,
    LedgerError,
    LedgerMismatchError,
    PaymentState,
    ReferenceMismatchError,
    UnknownReferenceError,
    _payments,
)
from jetpay_async.ledger._backend import Backend
from jetpay_async.ledger._group_commit import GroupCommitExecutor
from tests.ledger.payment_events import event
from tests.ledger.payment_service import CREDIT, FAST, HANG, LOSE, LOSE_AFTERWARDS, REQUEST, WAIT, serving

pytestmark = pytest.mark.asyncio

Pay = Callable[..., Awaitable[Preauthorization | Charge | Credit]]


async def state_of(ledger: str, reference: str = "b1") -> PaymentState:
    async with Ledger(ledger, create=False) as opened:
        return (await opened.payment(reference)).state


async def test_payments_are_read_by_pages(ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which they were asked for first, however many there are."""
    monkeypatch.setattr(_payments, "PAGE", 2)
    references = [f"b{number}" for number in range(4)]
    async with serving() as (_, client), client.durable_preauthorizations(ledger) as reservations:
        for reference in references:
            await reservations.preauthorize(reference=reference, **REQUEST)
    async with Ledger(ledger, create=False) as opened:
        assert [payment.reference async for payment in opened.payments()] == references


async def test_a_reference_is_reserved_once(ledger: str) -> None:
    """The same reference with the same arguments is the same reservation, in this block and in a later one."""
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger) as reservations:
            first = await reservations.preauthorize(reference="b1", **REQUEST)
            again = await reservations.preauthorize(reference="b1", **{**REQUEST, "amount": Decimal("100.5")})
        async with client.durable_preauthorizations(ledger) as reservations:
            later = await reservations.preauthorize(reference="b1", **REQUEST)

    assert first == again == later
    assert (first.debit_id, first.state, first.amount) == ("debit_0", "preauthorized", Decimal("100.50"))
    assert (first.raw != {}, later.raw) == (True, {})
    assert service.requests["booking 1"] == 1


@pytest.mark.parametrize("operation", ["preauthorize", "charge", "send_credit"])
async def test_each_operation_is_stored_and_returned(ledger: str, operation: str) -> None:
    """A preauthorization, a charge and a credit are returned from the ledger as they were answered."""
    results = []
    async with serving() as (service, client):
        for _ in range(2):
            if operation == "preauthorize":
                async with client.durable_preauthorizations(ledger) as one:
                    results.append(await one.preauthorize(reference="b1", **REQUEST))
            elif operation == "charge":
                async with client.durable_charges(ledger) as two:
                    results.append(await two.charge(reference="b1", **REQUEST))  # type: ignore[arg-type]
            else:
                async with client.durable_credits(ledger) as three:
                    results.append(await three.send_credit(reference="b1", **CREDIT))  # type: ignore[arg-type]

    assert results[0] == results[1]
    assert service.made.total() == 1
    async with Ledger(ledger) as opened:
        payment = await opened.payment("b1")
        assert [each async for each in opened.payments()] == [payment]
        assert [each async for each in opened.payments("succeeded")] == [payment]
        assert [each async for each in opened.payments(PaymentState.UNKNOWN)] == []
    assert (payment.operation, payment.state, payment.resolved_by) == (operation, "succeeded", "answer")
    assert isinstance(payment.intent_at, datetime)
    assert payment.attempts == 1


async def test_other_arguments_are_an_error_that_names_them(ledger: str) -> None:
    """A reference stands for one payment: what differs is named, and nothing is sent."""
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger) as reservations:
            await reservations.preauthorize(reference="b1", **REQUEST)
            with pytest.raises(
                ReferenceMismatchError, match=r"amount \(the ledger has '100.50', and '99.00' was given"
            ):
                await reservations.preauthorize(reference="b1", **{**REQUEST, "amount": 99})
        async with client.durable_charges(ledger) as charges:
            with pytest.raises(ReferenceMismatchError, match=r"differ: operation \(the ledger has 'preauthorize'"):
                await charges.charge(reference="b1", **REQUEST)

    assert service.requests.total() == 1


@pytest.mark.parametrize("act", [LOSE, LOSE_AFTERWARDS])
async def test_what_is_unknown_is_not_sent_again(ledger: str, act: str) -> None:
    """A request without an answer is unknown, whether or not it was carried out: asked for again, nothing is sent."""
    async with serving() as (service, client):
        service.script["booking 1"] = [act]
        async with client.durable_preauthorizations(ledger) as reservations:
            with pytest.raises(OutcomeUnknownError):
                await reservations.preauthorize(reference="b1", **REQUEST)
            with pytest.raises(OutcomeUnknownError, match="'b1' was sent but no usable") as caught:
                await reservations.preauthorize(reference="b1", retry_rejected=True, **REQUEST)

    assert caught.value.arguments["reference"] == "b1"
    assert caught.value.arguments["amount"] == "100.50"
    assert "jetpay unresolved show b1" in caught.value.next_step
    assert service.requests["booking 1"] == 1
    assert await state_of(ledger) is PaymentState.UNKNOWN


async def test_a_rejection_is_stored_and_retried_only_on_demand(ledger: str) -> None:
    """A rejected reference raises the same rejection again; ``retry_rejected`` sends it once more."""
    async with serving() as (service, client):
        service.script["booking 1"] = [(422, {"detail": "card declined"})]
        async with client.durable_preauthorizations(ledger) as reservations:
            errors = []
            for _ in range(2):
                with pytest.raises(InvalidRequestError, match="card declined") as caught:
                    await reservations.preauthorize(reference="b1", **REQUEST)
                errors.append(caught.value)
            assert service.requests["booking 1"] == 1
            assert await state_of(ledger) is PaymentState.REJECTED

            reserved = await reservations.preauthorize(reference="b1", retry_rejected=True, **REQUEST)

    assert (errors[0].status, errors[1].status) == (422, 422)
    assert reserved.debit_id == "debit_0"
    assert service.requests["booking 1"] == 2


async def test_what_was_not_sent_is_sent_by_the_next_call(ledger: str) -> None:
    """A call of which nothing left leaves its reference free; so does a rejected token."""
    async with JetpayClient("t", base_url="http://127.0.0.1:9", timeout=2.0, retry=FAST) as dead:
        async with dead.durable_preauthorizations(ledger) as reservations:
            with pytest.raises(NotSentError):
                await reservations.preauthorize(reference="b1", **REQUEST)
    assert await state_of(ledger) is PaymentState.PENDING

    async with serving() as (service, client):
        service.script["booking 1"] = [(401, {"detail": "expired"})]
        async with client.durable_preauthorizations(ledger) as reservations:
            with pytest.raises(AuthenticationError):
                await reservations.preauthorize(reference="b1", **REQUEST)
            await reservations.preauthorize(reference="b1", **REQUEST)

    assert service.made["booking 1"] == 1


async def test_an_accepted_one_is_returned_as_it_is(ledger: str) -> None:
    """What the API has accepted and not finished is not final, and is not sent again."""
    async with serving() as (service, client):
        service.state = "processing"
        async with client.durable_preauthorizations(ledger) as reservations:
            results = [await reservations.preauthorize(reference="b1", **REQUEST) for _ in range(2)]

    assert [(each.final, each.state) for each in results] == [(False, "processing")] * 2
    assert await state_of(ledger) is PaymentState.ACCEPTED
    assert service.requests["booking 1"] == 1


async def test_a_failed_transaction_is_a_rejection(ledger: str) -> None:
    """A response that says that the transaction failed is stored with its state, and its debit."""
    async with serving() as (service, client):
        service.state = "failed"
        async with client.durable_preauthorizations(ledger) as reservations:
            for _ in range(2):
                with pytest.raises(TransactionFailedError) as caught:
                    await reservations.preauthorize(reference="b1", **REQUEST)
                assert (caught.value.state, caught.value.debit_id) == ("failed", "debit_0")


async def test_a_state_that_decides_nothing_is_unknown_with_its_debit(ledger: str) -> None:
    """A response that names its debit in an odd state is stored as unknown, with that debit."""
    async with serving(timeout=0.3) as (service, client):
        service.state = "odd"
        async with client.durable_preauthorizations(ledger) as reservations:
            with pytest.raises(OutcomeUnknownError):
                await reservations.preauthorize(reference="b1", **REQUEST)
    async with Ledger(ledger) as opened:
        payment = await opened.payment("b1")

    assert (payment.state, payment.transaction_id, payment.transaction_state) == ("unknown", "debit_0", "odd")


async def test_rate_limited_without_trust_is_unknown(ledger: str) -> None:
    """Where a 429 may have been processed, it is unknown."""
    policy = RetryPolicy(max_attempts=1, resend_rate_limited=False, resolve_after=0.02, resolve_after_timeout=0.02)
    async with serving(retry=policy) as (service, client):
        service.script["booking 1"] = [(429, {"detail": "slow down"})]
        async with client.durable_preauthorizations(ledger) as reservations:
            with pytest.raises(Exception, match="slow down"):
                await reservations.preauthorize(reference="b1", **REQUEST)
    assert await state_of(ledger) is PaymentState.UNKNOWN


async def test_tasks_with_one_reference_share_one_request(ledger: str) -> None:
    """However many tasks ask for one reference at a time, one request leaves, and all get its answer."""
    async with serving() as (service, client):
        service.script["booking 1"] = [WAIT]
        async with client.durable_preauthorizations(ledger) as reservations, asyncio.TaskGroup() as group:
            tasks = [group.create_task(reservations.preauthorize(reference="b1", **REQUEST)) for _ in range(5)]
            await service.arrived.wait()
            service.go.set()

    assert {task.result().debit_id for task in tasks} == {"debit_0"}
    assert service.requests["booking 1"] == 1


async def test_a_cancelled_caller_leaves_its_request_to_the_end(ledger: str) -> None:
    """The outcome of a call whose caller is cancelled is recorded: leaving the block waits for it."""
    async with serving() as (service, client):
        service.script["booking 1"] = [WAIT]
        async with client.durable_preauthorizations(ledger) as reservations:
            call = asyncio.create_task(reservations.preauthorize(reference="b1", **REQUEST))
            await service.arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            service.go.set()
        async with client.durable_preauthorizations(ledger) as reservations:
            assert (await reservations.preauthorize(reference="b1", **REQUEST)).debit_id == "debit_0"

    assert service.requests["booking 1"] == 1


@pytest.mark.parametrize("turns", range(4))
async def test_a_caller_that_is_cancelled_early_leaves_nothing_stuck(ledger: str, turns: int) -> None:
    """Cancelled before its intent is committed, or just after, a call leaves its reference usable."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        call = asyncio.create_task(reservations.preauthorize(reference="b1", **REQUEST))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert (await reservations.preauthorize(reference="b1", **REQUEST)).debit_id == "debit_0"

    assert service.requests["booking 1"] == 1


async def test_what_is_cut_off_is_unknown(ledger: str) -> None:
    """If leaving the block is cancelled, what is in flight is cut off, and is unknown to the next run."""
    async with serving() as (service, client):
        service.script["booking 1"] = [WAIT]
        reservations = client.durable_preauthorizations(ledger)
        await reservations.__aenter__()
        call = asyncio.create_task(reservations.preauthorize(reference="b1", **REQUEST))
        await service.arrived.wait()
        leaving = asyncio.create_task(reservations.__aexit__(None, None, None))
        while not service.requests or len(asyncio.all_tasks()) < 4:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with pytest.raises(asyncio.CancelledError):
            await call

        async with client.durable_preauthorizations(ledger) as others:
            with pytest.raises(OutcomeUnknownError):
                await others.preauthorize(reference="b1", **REQUEST)

    assert service.requests["booking 1"] == 1


async def test_what_another_process_is_sending_is_waited_for(ledger: str) -> None:
    """A reference that another owner, which is alive, is sending is waited for, and then is unknown to this caller."""
    async with serving(timeout=0.5) as (service, client):
        async with client.durable_preauthorizations(ledger) as mine, Ledger(ledger) as other:
            owner = await other.commits.run(lambda connection: connection.register(60.0))
            await other.commits.run(partial(claim_by, owner=owner))
            with pytest.raises(OutcomeUnknownError, match="being sent by another process"):
                await mine.preauthorize(reference="b1", **REQUEST)
            assert await state_of(ledger) is PaymentState.SENDING

            waiting = asyncio.create_task(mine.preauthorize(reference="b1", **REQUEST))
            entry = _payments.PaymentRecord(
                1, 1, PaymentState.SUCCEEDED, 1, transaction_id="debit_7", transaction_state="preauthorized"
            )
            assert await other.commits.run(partial(_payments.record, entry=entry))

            assert (await waiting).debit_id == "debit_7"
            await other.commits.run(lambda connection: connection.leave(owner))

    assert service.requests["booking 1"] == 0


def claim_by(connection: Any, owner: int) -> None:
    """Intend to send the usual request under ``b1``."""
    intent = _payments.PaymentIntent("b1", "preauthorize", "debit", REQUEST)
    _payments.claim(connection, intent, owner=owner, certain_after=60.0, retry_rejected=False)


async def test_what_a_dead_process_was_sending_is_unknown(ledger: str) -> None:
    """Killed between the commit of the intent and that of the answer, a payment is unknown; nothing is sent."""
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger) as reservations, Ledger(ledger) as other:
            await other.commits.run(partial(claim_by, owner=999))  # that no owner has

            with pytest.raises(OutcomeUnknownError, match="the process that sent it ended"):
                await reservations.preauthorize(reference="b1", **REQUEST)

    assert service.requests["booking 1"] == 0
    assert await state_of(ledger) is PaymentState.UNKNOWN


async def test_an_answer_that_comes_after_the_owner_was_taken_for_dead_counts(ledger: str) -> None:
    """An owner that was only paused records what its own request was answered, though it is unknown by then."""
    async with serving() as (service, client):
        service.script["booking 1"] = [WAIT]
        async with client.durable_preauthorizations(ledger) as reservations, Ledger(ledger) as other:
            call = asyncio.create_task(reservations.preauthorize(reference="b1", **REQUEST))
            await service.arrived.wait()
            await other.commits.run(
                lambda connection: connection.change("UPDATE jetpay_payment SET state = 'unknown'", {})
            )
            service.go.set()
            await call

            assert (await other.payment("b1")).state is PaymentState.SUCCEEDED


async def test_nothing_is_sent_without_the_ledger(ledger: str) -> None:
    """An answer that can't be recorded is an error that names its debit, and nothing more is sent."""
    async with serving() as (service, client):
        service.script["booking 1"] = [WAIT]
        async with client.durable_preauthorizations(ledger) as reservations:
            call = asyncio.create_task(reservations.preauthorize(reference="b1", **REQUEST))
            await service.arrived.wait()
            async with Ledger(ledger) as other:
                await other.commits.run(
                    lambda connection: connection.change("UPDATE jetpay_ledger SET version = version + 1", {})
                )
            service.go.set()
            with pytest.raises(
                LedgerError, match=r"could not be recorded \(preauthorize: succeeded, debit_0\)"
            ) as caught:
                await call
            with pytest.raises(LedgerError):
                await reservations.preauthorize(reference="b2", **REQUEST)

    assert caught.value.debit_id == "debit_0"
    assert service.made.total() == 1


async def test_a_lost_lease_stops_sending(ledger: str) -> None:
    """An owner that the ledger does not name any more sends nothing."""
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger, lease_seconds=0.2) as reservations, Ledger(ledger) as other:
            await other.commits.run(lambda connection: connection.change("DELETE FROM jetpay_owner", {}))
            async with asyncio.timeout(10):
                while reservations._open()._error is None:
                    await asyncio.sleep(0.01)

            with pytest.raises(LedgerError, match="nothing more is sent"):
                await reservations.preauthorize(reference="b1", **REQUEST)

    assert service.requests.total() == 0


@pytest.mark.parametrize("reference", ["", "x" * 256, "a\nb", " b1", 5])
async def test_a_reference_that_can_not_be_one_is_refused(ledger: str, reference: str) -> None:
    """A reference is a short printable text; anything else is refused before anything is recorded."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        with pytest.raises(InvalidArgumentError, match="reference:"):
            await reservations.preauthorize(reference=reference, **REQUEST)
    assert service.requests.total() == 0


async def test_bad_arguments_are_not_recorded(ledger: str) -> None:
    """What can't be sent leaves no trace, so that the corrected call goes through."""
    async with serving() as (_, client), client.durable_preauthorizations(ledger) as reservations:
        with pytest.raises(InvalidArgumentError):
            await reservations.preauthorize(reference="b1", **{**REQUEST, "amount": "1.005"})

        await reservations.preauthorize(reference="b1", **REQUEST)


async def test_a_ledger_of_another_account_is_refused(ledger: str) -> None:
    """Payments belong to one API and one account, as captures do."""
    async with serving() as (_, client):
        async with client.durable_preauthorizations(ledger, account="shop"):
            pass
        with pytest.raises(LedgerMismatchError, match="shop"):
            async with client.durable_charges(ledger, account="other"):
                pass
        with pytest.raises(InvalidArgumentError, match="account"):
            client.durable_credits(ledger, account="")


async def test_it_is_used_within_its_block(ledger: str) -> None:
    """Outside of its block, or opened twice, it says so."""
    async with serving() as (_, client):
        reservations: DurablePreauthorizations = client.durable_preauthorizations(ledger)
        with pytest.raises(ConfigurationError, match="async with"):
            await reservations.preauthorize(reference="b1", **REQUEST)
        async with reservations:
            with pytest.raises(ConfigurationError, match="open already"):
                await reservations.__aenter__()


async def test_an_unknown_reference_is_an_error(ledger: str) -> None:
    """The ledger says which reference it does not have, and which states there are."""
    async with Ledger(ledger) as opened:
        with pytest.raises(UnknownReferenceError, match="b9"):
            await opened.payment("b9")
        with pytest.raises(InvalidArgumentError, match="succeeded"):
            async for _ in opened.payments("paid"):
                pass


async def test_the_end_of_a_run_that_can_not_be_recorded_is_logged(
    ledger: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Leaving the block does not fail because the ledger can't be written."""
    async with serving() as (_, client), client.durable_preauthorizations(ledger), Ledger(ledger) as other:
        await other.commits.run(
            lambda connection: connection.change("UPDATE jetpay_ledger SET version = version + 1", {})
        )
    assert "the end of this run could not be recorded" in caplog.text


class DyingExecutor(GroupCommitExecutor):
    """Lets its process hang at one point, as if it were killed there."""

    point = ""
    reached: asyncio.Event
    latest: DyingExecutor

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        type(self).latest = self

    async def run(self, operation: Any, *, writes: bool = True, last: bool = False) -> Any:
        name = getattr(operation, "func", operation).__name__
        if (name, self.point) == ("record", "between the answer and its commit"):
            await self.hang()
        result = await super().run(operation, writes=writes, last=last)
        if (name, self.point) == ("claim", "between the commit and the request"):
            await self.hang()
        return result

    async def hang(self) -> None:
        self.reached.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("point", "made", "expected"),
    [
        ("between the commit and the request", 0, 0),
        ("between the request and the answer", 1, 1),
        ("between the answer and its commit", 1, 1),
    ],
)
async def test_a_crash_at_each_point_is_unknown_and_never_sent_again(
    ledger: str, monkeypatch: pytest.MonkeyPatch, point: str, made: int, expected: int
) -> None:
    """Wherever a process dies after its intent, the reference is unknown to the next one, and its debit is offered."""
    monkeypatch.setattr(DyingExecutor, "point", point)
    monkeypatch.setattr(DyingExecutor, "reached", asyncio.Event(), raising=False)
    async with serving() as (service, client):
        if point == "between the request and the answer":
            service.script["booking 1"] = [HANG]
            DyingExecutor.reached = service.arrived
        context = attrs.evolve(client._ledger_context(), commit_executor=DyingExecutor)
        dying = DurablePreauthorizations(ledger, context, lease_seconds=0.5, account=None)
        await dying.__aenter__()
        call = asyncio.create_task(dying.preauthorize(reference="b1", **REQUEST))
        await DyingExecutor.reached.wait()
        # What a kill does: nothing goes on, and the connection closes without a word.
        run = dying._open()
        dead = [call, *run._under_way.values(), run._keeping]
        for task in dead:
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)
        for task in dead:  # nor does it withdraw an intent
            assert task is not None
            task.cancel()
        await asyncio.wait([task for task in dead if task is not None])
        await DyingExecutor.latest.close()

        async with client.durable_preauthorizations(ledger) as others, Ledger(ledger, webhook_ids={1}) as opened:
            with pytest.raises(OutcomeUnknownError):
                await others.preauthorize(reference="b1", **REQUEST)
            for debit_id in service.states:
                await opened.apply(event("preauthorized", debit_id, webhook_id=1))
            offered = await opened.candidates("b1")

    assert service.requests["booking 1"] == service.made["booking 1"] == made
    assert len(offered) == expected
