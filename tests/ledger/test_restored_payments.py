"""A ledger that was restored from a copy has forgotten references: nothing that may have been sent is sent again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jetpay_async import JetpayClient, OutcomeUnknownError, Unknown
from jetpay_async.ledger import Ledger, PaymentState
from jetpay_async.ledger._payment_pipeline import PaymentPipeline
from tests.ledger.payment_batch import charge, outcomes, requests, states
from tests.ledger.payment_events import OURS, event
from tests.ledger.payment_service import CREDIT, LOSE, REQUEST, WAIT, serving
from tests.ledger.test_events import change

pytestmark = pytest.mark.asyncio


async def ask(client: JetpayClient, ledger: str, reference: str, *, restored: bool, **options: bool) -> str:
    """Reserve by a reference; return the debit, or the kind of the error."""
    async with client.durable_preauthorizations(ledger, restored=restored) as reservations:
        try:
            return (await reservations.preauthorize(reference=reference, **REQUEST, **options)).debit_id
        except OutcomeUnknownError as error:
            return error.message


async def state(ledger: str, reference: str) -> PaymentState:
    async with Ledger(ledger) as opened:
        return (await opened.payment(reference)).state


async def test_what_the_copy_has_forgotten_is_unknown_and_offered(tmp_path: Path) -> None:
    """A reference since the copy is unknown and not sent; its debit is a candidate once its events are replayed."""
    ledger, copy = str(tmp_path / "payments.db"), str(tmp_path / "copy.db")
    async with serving() as (service, client):
        known = await ask(client, ledger, "b1", restored=False)
        async with Ledger(ledger) as opened:
            await opened.backup(copy)
        forgotten = await ask(client, ledger, "b2", restored=False)
        sent = service.requests.total()

        assert await ask(client, copy, "b1", restored=True) == known
        assert "the restored ledger does not know" in await ask(client, copy, "b2", restored=True)
        async with Ledger(copy, webhook_ids={OURS}) as opened:
            await opened.apply(event("preauthorized", forgotten))
            assert [each.transaction_id for each in await opened.candidates("b2")] == [forgotten]
            await opened.adopt("b2", forgotten)
        assert await ask(client, copy, "b2", restored=False) == forgotten
        assert service.requests.total() == sent


async def test_the_window_of_what_was_forgotten_begins_with_the_copy(ledger: str) -> None:
    """Events from before the latest payment of the copy are no candidates; without a payment all are."""
    async with serving() as (_, client):
        await ask(client, ledger, "b1", restored=True)
        async with Ledger(ledger, webhook_ids={OURS}) as opened:
            payment = await opened.payment("b1")
            assert payment.intent_at is not None
            assert payment.intent_at.timestamp() == 0
            assert payment.finished_at is not None
            await change(opened, "UPDATE jetpay_payment SET intent_at = 1000")
        await ask(client, ledger, "b2", restored=True)
        async with Ledger(ledger) as opened:
            payment = await opened.payment("b2")
            assert payment.intent_at is not None
            assert payment.intent_at.timestamp() == 1000


async def test_a_rejection_stands_unless_it_may_have_been_retried(ledger: str) -> None:
    """Asked for with ``retry_rejected``, as the application does, a rejected one may have succeeded since the copy."""
    async with serving() as (service, client):
        service.script["booking 1"] = [(402, {"detail": "declined"})]
        with pytest.raises(Exception, match="declined"):
            await ask(client, ledger, "b1", restored=False)
        sent = service.requests.total()

        with pytest.raises(Exception, match="declined"):
            await ask(client, ledger, "b1", restored=True)
        await ask(client, ledger, "b1", restored=True, retry_rejected=True)

        assert service.requests.total() == sent
    assert await state(ledger, "b1") is PaymentState.UNKNOWN


async def test_what_was_found_not_to_be_done_is_sent_without_the_flag(ledger: str) -> None:
    """Discarded after the restoration, a reference is sent on demand; the flag stays harmless for it."""
    async with serving() as (service, client):
        await ask(client, ledger, "b1", restored=True)
        async with Ledger(ledger) as opened:
            await change(opened, "UPDATE jetpay_payment SET certain_at = 1")
            await opened.discard("b1")

        assert service.requests.total() == 0
        assert await ask(client, ledger, "b1", restored=False, retry_rejected=True) == "debit_0"


async def test_charges_and_credits_do_not_send_either(ledger: str) -> None:
    """All three operations take the flag."""
    async with serving() as (service, client):
        async with client.durable_charges(ledger, restored=True) as charges:
            with pytest.raises(OutcomeUnknownError):
                await charges.charge(reference="c1", **REQUEST)
        async with client.durable_credits(ledger, restored=True) as credits_:
            with pytest.raises(OutcomeUnknownError):
                await credits_.send_credit(reference="c2", **CREDIT)

        assert service.requests.total() == 0


async def test_verify_counts_the_references(ledger: str) -> None:
    """Durable payments are counted by state, with what is unresolved and what nothing in the ledger knows."""
    async with serving() as (service, client):
        await ask(client, ledger, "b1", restored=False)
        service.script["booking 1"] = [LOSE]
        await ask(client, ledger, "b2", restored=False)
    async with Ledger(ledger, webhook_ids={OURS}) as opened:
        await opened.apply(event("preauthorized", "debit_9"))
        check = await opened.verify()

    payments = check.payments
    assert (payments.total, payments.succeeded, payments.unknown, payments.unresolved) == (2, 1, 1, 1)
    assert (check.problems, check.orphans) == ((), 1)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE jetpay_payment SET state = 'odd'", "2 payments are in a state that this release does not know"),
        (
            "UPDATE jetpay_payment SET state = 'sending', owner = NULL WHERE reference = 'b1'",
            "1 payments are being sent by nobody, or unresolved since no known time",
        ),
        (
            "UPDATE jetpay_payment SET state = 'unknown', certain_at = NULL WHERE reference = 'b1'",
            "1 payments are being sent by nobody, or unresolved since no known time",
        ),
        ("UPDATE jetpay_payment SET transaction_id = NULL", "2 payments have succeeded without a transaction"),
        ("UPDATE jetpay_payment SET transaction_id = 'd'", "1 transactions belong to several payments"),
    ],
)
async def test_a_problem_with_payments_is_found(tmp_path: Path, statement: str, problem: str) -> None:
    """What the rows of payments can't say is a problem."""
    ledger = str(tmp_path / "payments.db")
    async with serving() as (_, client):
        for reference in ("b1", "b2"):
            await ask(client, ledger, reference, restored=False)
    async with Ledger(ledger) as opened:
        assert (await opened.verify()).problems == ()
        await change(opened, statement)
        assert (await opened.verify()).problems == (problem,)


async def test_pruning_forgets_no_reference(ledger: str) -> None:
    """However old a payment is, its reference stays, and is not sent again; what is unknown stays unknown."""
    async with serving() as (service, client):
        debit_id = await ask(client, ledger, "b1", restored=False)
        service.script["booking 1"] = [LOSE]
        await ask(client, ledger, "b2", restored=False)
        async with Ledger(ledger) as opened:
            await change(opened, "UPDATE jetpay_payment SET intent_at = 1, finished_at = 2")
            await opened.prune((await opened.payment("b1")).finished_at.replace(year=2100))  # type: ignore[union-attr] # it is set
        sent = service.requests.total()

        assert await ask(client, ledger, "b1", restored=False) == debit_id
        await ask(client, ledger, "b2", restored=False)
        assert service.requests.total() == sent
    assert await state(ledger, "b2") is PaymentState.UNKNOWN


# --- batches ----------------------------------------------------------------------------------------------------------


async def test_a_batch_that_the_copy_holds_in_part_is_not_sent_again(tmp_path: Path) -> None:
    """What was pending in the copy may have been sent since: it is unknown, whatever was asked for while restored."""
    ledger, copy = str(tmp_path / "payments.db"), str(tmp_path / "copy.db")
    async with serving() as (service, client):
        service.script.update({f"b{number}": [WAIT] for number in range(3, 9)})
        async with client.durable_preauthorizations(ledger, concurrency=2) as reservations:
            batch = await reservations.submit("night", requests(9))
            async with asyncio.timeout(20):
                while service.requests.total() < 5:
                    await asyncio.sleep(0.005)
            async with Ledger(ledger, create=False) as opened:
                await opened.backup(copy)
            service.go.set()
            assert (await batch.wait()).counts.succeeded == 9

        assert "does not know" in await ask(client, copy, "since", restored=True)
        async with client.durable_preauthorizations(copy) as reservations:
            counts = (await (await reservations.submit("night", requests(9))).wait()).counts
            resumed = await (await reservations.batch("night")).wait()

    assert (counts.succeeded, counts.unknown, counts.total) == (3, 6, 9)
    assert resumed.counts == counts
    assert set(service.made.values()) == {1}


@pytest.mark.parametrize("end", ["leave", "kill"])
async def test_a_batch_that_the_copy_does_not_hold_is_unknown_when_it_is_submitted(
    ledger: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """It is unknown as soon as it is durable: a process that ends without waiting for it leaves nothing to be sent."""
    count = 1_200
    async with serving() as (service, client):
        if end == "kill":
            monkeypatch.setattr(PaymentPipeline, "watch", lambda *_: None)
        async with client.durable_preauthorizations(ledger, restored=True) as reservations:
            await reservations.submit("night", requests(count))
        monkeypatch.undo()
        async with client.durable_preauthorizations(ledger) as reservations:
            batch = await reservations.submit("night", requests(count))
            found = await outcomes(batch)
            counts = (await batch.wait()).counts

    assert counts.unknown == len(found) == count
    assert list(found) == [f"b{number}" for number in range(count)]
    assert service.requests.total() == 0
    assert await states(ledger) == {"unknown": count}


async def test_opening_a_restored_ledger_leaves_nothing_pending(ledger: str) -> None:
    """Of whatever batch and operation it is; each has its outcome's place, after those that there are."""
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger, concurrency=1) as reservations:
            batch = await reservations.submit("night", requests(5))
            first = await anext(batch.outcomes())
            reservations.stop()
        async with client.durable_charges(ledger, concurrency=1) as charges:
            await charges.submit("fees", [charge(number) for number in range(5, 9)])
            charges.stop()
        sent = service.requests.total()

        async with client.durable_credits(ledger, restored=True):
            pass

        assert sent < 9
        assert await states(ledger) == {"succeeded": sent, "unknown": 9 - sent}
        async with client.durable_preauthorizations(ledger) as reservations:
            found = await outcomes(await reservations.batch("night"))
        async with client.durable_charges(ledger) as charges:
            fees = await outcomes(await charges.batch("fees"))
        assert service.requests.total() == sent

    assert (len(found), len(fees)) == (5, 4)
    assert next(iter(found)) == first.request.reference
    assert isinstance(found["b4"], Unknown)
    assert isinstance(fees["b8"], Unknown)
