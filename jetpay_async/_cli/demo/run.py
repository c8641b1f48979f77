"""``jetpay demo``: charge some hundred cards against a sandbox that loses replies, and check its records.

`take_first_payment` goes from nothing to one payment first, as the tutorial does. Then `charge_cards`
charges the others and returns a `RunRecord`, `audit` compares what was recorded, and a screen shows both.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from aiohttp import web

from jetpay_async._cli.demo.audit import OrderOutcome, audit, classify
from jetpay_async._cli.demo.batch import capture_batch
from jetpay_async._cli.demo.opening import take_first_payment
from jetpay_async._cli.demo.records import DemoStep, Order, OrderResult, Plan, RunRecord, StepProgress
from jetpay_async._cli.demo.screens import choose_screen
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._core.retry import RetryPolicy
from jetpay_async.client import JetpayClient
from jetpay_async.errors import JetpayError
from jetpay_async.models import Capture, Preauthorization, TransactionState
from jetpay_async.sandbox import (
    APPROVED,
    CARDS,
    DeliveryFault,
    DeliveryFaultKind,
    DeliveryPolicy,
    Fault,
    FaultKind,
    Sandbox,
)
from jetpay_async.webhooks import Event, EventRouter, MemoryInbox, RemoteKeySet, WebhookReceiver, WebhookVerifier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from jetpay_async._cli.demo.records import OnProgress

__all__ = ["POLICY", "charge_cards", "demo"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_Reserved: TypeAlias = tuple[Order, Preauthorization | JetpayError]

POLICY = RetryPolicy(base_delay=0.1, max_delay=0.5, resolve_after=0.3, resolve_after_timeout=0.3)
"""For a sandbox in the same process, which never processes a request after it has lost the reply.

Over a real network a request may arrive seconds later: keep the default there.
"""

_TIMEOUT_SECONDS = 20.0
_LATENCY_SECONDS = 0.1
_SLOW_BANK_SECONDS = 0.25
_SHARE_OF_GOOD_CARDS = 0.85

_FAULTS = (
    Fault(kind=FaultKind.LOSE_REPLY_BEFORE, route="preauthorize", probability=0.01),
    Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="preauthorize", probability=0.015),
    Fault(kind=FaultKind.LOSE_REPLY_BEFORE, route="capture", probability=0.03),
    Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture", probability=0.03),
    Fault(kind=FaultKind.RESET_AFTER, route="capture", probability=0.01),
    Fault(kind=FaultKind.CUT_BODY_AFTER, route="capture", probability=0.02),
    Fault(kind=FaultKind.ERROR_BEFORE, route="capture", probability=0.02, status=503),
    Fault(kind=FaultKind.ERROR_AFTER, route="capture", probability=0.02, status=502, body="html"),
    Fault(kind=FaultKind.RATE_LIMIT, route="capture", probability=0.02, retry_after=1),
    Fault(kind=FaultKind.SLOW_AFTER, route="capture", probability=0.05, seconds=0.5),
    Fault(kind=FaultKind.LOSE_REPLY_BEFORE, route="status", probability=0.05),
)
_DELIVERY_FAULTS = (
    DeliveryFault(kind=DeliveryFaultKind.ROTATE_KEY),
    DeliveryFault(kind=DeliveryFaultKind.DUPLICATE, probability=0.1),
    DeliveryFault(kind=DeliveryFaultKind.REORDER, probability=0.1),
)
# Batches wait 0.2 s and are sent again after 17 ms; nobody would wait for the minutes of the real service.
_DELIVERIES = DeliveryPolicy(speedup=300.0)
_BATCH = 20
_WEBHOOK_ID = 1  # the sandbox numbers its webhooks


def demo(*, count: int, concurrency: int, seed: int, faults: bool, as_json: bool) -> int:
    """Run the demo and show what it found."""
    plan = Plan(count=count, concurrency=concurrency, seed=seed, faults=faults)
    screen = choose_screen(as_json=as_json)
    first = asyncio.run(take_first_payment())
    screen.open(first)
    screen.introduce(plan, POLICY)
    with screen.showing() as on_progress:
        record = asyncio.run(charge_cards(plan, on_progress))
    report = audit(record)
    screen.show(report)
    return ExitStatus.DONE if first.complete and not report.problems else ExitStatus.REJECTED


async def charge_cards(plan: Plan, on_progress: OnProgress) -> RunRecord:
    """Preauthorize every card, capture what was reserved, receive the webhooks; then capture a batch from a ledger.

    Args:
        plan: How many, and how.
        on_progress: Called after each item of a step.

    Returns:
        What the client, the webhook endpoint and the sandbox recorded.
    """
    sandbox = Sandbox(
        seed=plan.seed,
        latency=_LATENCY_SECONDS,
        slow_bank_seconds=_SLOW_BANK_SECONDS,
        delivery=_DELIVERIES,
        # A second capture is paid a second time here: only the client can prevent it.
        refuses_second_capture=False,
    )
    if plan.faults:
        sandbox.faults.add(*_FAULTS)
        sandbox.delivery_faults.add(*_DELIVERY_FAULTS)
    orders = _orders(plan, sandbox)
    async with (
        sandbox,
        RemoteKeySet(sandbox.url, cooldown=0.1) as keys,
        _Endpoint(keys, lambda: len(sandbox.events), on_progress) as endpoint,
        JetpayClient(
            sandbox.api_token,
            base_url=sandbox.url,
            timeout=_TIMEOUT_SECONDS,
            max_connections=plan.concurrency,
            retry=POLICY,
        ) as client,
    ):
        sandbox.add_webhook(endpoint.url, max_batch_size=_BATCH)
        began = time.monotonic()
        reserved = await _preauthorize(client, orders, sandbox.merchant_account_id, plan, on_progress)
        results = await _capture(client, reserved, plan, on_progress)
        seconds = time.monotonic() - began
        with suppress(TimeoutError):  # the audit finds what is missing
            await _decisions(sandbox, results)
            await sandbox.drain_deliveries()
        return RunRecord(
            batch=await capture_batch(plan, POLICY, on_progress),
            plan=plan,
            results=tuple(results),
            seconds=seconds,
            debits=sandbox.debits,
            events_created=len(sandbox.events),
            events=tuple(endpoint.events),
            deliveries=endpoint.deliveries,
            deliveries_rejected=endpoint.rejected,
            events_repeated=endpoint.repeated,
            faults=dict(Counter(sandbox.faults.injected) + Counter(sandbox.delivery_faults.injected)),
        )


def _orders(plan: Plan, sandbox: Sandbox) -> list[Order]:
    """Invent a card for each order: most of them good, the others of all kinds that the sandbox knows."""
    random = Random(plan.seed)  # noqa: S311 - reproducible on purpose
    special = [number for number in CARDS if number != APPROVED]
    orders: list[Order] = []
    for number in range(1, plan.count + 1):
        card_number = APPROVED if random.random() < _SHARE_OF_GOOD_CARDS else random.choice(special)
        amount = Decimal(random.randrange(5_00, 500_00)) / 100
        payer = sandbox.add_payer(card_number=card_number)
        orders.append(Order(number=number, card_number=card_number, payer=payer, amount=amount))
    return orders


async def _decisions(sandbox: Sandbox, results: Sequence[OrderResult]) -> None:
    """Wait until the slow banks have decided on everything that they accepted.

    Raises:
        TimeoutError: They take too long.
    """
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        for result in results:
            later = CARDS[result.order.card_number].later
            if result.debit_id is not None and later is not None:
                while sandbox.debit(result.debit_id).state not in {TransactionState.PREAUTHORIZED, later}:  # noqa: ASYNC110 - no event reports it
                    await asyncio.sleep(_SLOW_BANK_SECONDS / 10)


async def _preauthorize(
    client: JetpayClient, orders: Sequence[Order], account: str, plan: Plan, on_progress: OnProgress
) -> list[_Reserved]:
    counter = _StepCounter(DemoStep.PREAUTHORIZE, len(orders), on_progress)

    async def preauthorize(order: Order) -> _Reserved:
        try:
            reserved = await client.preauthorize(
                contact_id=order.payer.contact_id,
                credit_card_id=order.payer.credit_card_id,
                amount=order.amount,
                to_bank_account_id=account,
                statement=f"Demo order {order.number}",
            )
        except JetpayError as error:
            counter.add(classify(error))
            return order, error
        counter.add()
        return order, reserved

    return await _each(orders, preauthorize, plan.concurrency)


async def _capture(
    client: JetpayClient, reserved: Sequence[_Reserved], plan: Plan, on_progress: OnProgress
) -> list[OrderResult]:
    preauthorized = sum(isinstance(result, Preauthorization) for _, result in reserved)
    counter = _StepCounter(DemoStep.CAPTURE, preauthorized, on_progress)

    async def capture(reservation: _Reserved) -> OrderResult:
        order, reserved = reservation
        if not isinstance(reserved, Preauthorization):
            return OrderResult(order=order, debit_id=None, result=reserved)
        result: Capture | JetpayError
        try:
            result = await client.capture(reserved.debit_id)
        except JetpayError as error:
            result = error
        counter.add(_note(result))
        return OrderResult(order=order, debit_id=reserved.debit_id, result=result)

    return await _each(reserved, capture, plan.concurrency)


def _note(result: Capture | JetpayError) -> str | None:
    """Name what is special about the result of a capture."""
    if isinstance(result, Capture) and result.confirmed_by_status:
        return "resolved"
    outcome = classify(result)
    return None if outcome is OrderOutcome.CAPTURED else outcome


class _StepCounter:
    """Counts the items that are done, and reports each."""

    def __init__(self, step: DemoStep, total: int, on_progress: OnProgress) -> None:
        self._step = step
        self._total = total
        self._on_progress = on_progress
        self._done = 0
        self._notes: Counter[str] = Counter()

    def add(self, note: str | None = None) -> None:
        self._done += 1
        if note is not None:
            self._notes[note] += 1
        self._on_progress(StepProgress(step=self._step, done=self._done, total=self._total, notes=self._notes))


async def _each(items: Iterable[_In], do: Callable[[_In], Awaitable[_Out]], workers: int) -> list[_Out]:
    """Do something with each item, so many at a time; the results are in the order of the items."""
    results: dict[int, _Out] = {}
    queue = iter(enumerate(items))

    async def work() -> None:
        for position, item in queue:
            results[position] = await do(item)

    async with asyncio.TaskGroup() as workers_group:
        for _ in range(workers):
            workers_group.create_task(work())
    return [results[position] for position in sorted(results)]


class _Endpoint:
    """A webhook endpoint as an application has it, on a real socket, which records its events."""

    def __init__(self, keys: RemoteKeySet, expected: Callable[[], int], on_progress: OnProgress) -> None:
        router = EventRouter()
        router.on(Event)(self._record)
        self._receiver = WebhookReceiver(WebhookVerifier(keys, webhook_ids={_WEBHOOK_ID}), router, inbox=MemoryInbox())
        self._expected = expected
        self._on_progress = on_progress
        application = web.Application()
        application.router.add_post("/webhooks", self._receive)
        self._runner = web.AppRunner(application, access_log=None)
        self.url = ""
        self.events: list[Event] = []
        self.deliveries = 0
        self.rejected = 0
        self.repeated = 0

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/webhooks"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._receiver.aclose()
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        response = await self._receiver.receive(await request.read(), request.headers.get("Authorization"))
        self.deliveries += 1
        self.rejected += response.status != 200
        self.repeated += response.skipped
        self._on_progress(StepProgress(step=DemoStep.WEBHOOKS, done=len(self.events), total=self._expected()))
        return web.Response(status=response.status)

    async def _record(self, event: Event) -> None:
        self.events.append(event)
