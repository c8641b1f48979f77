"""``jetpay demo``: charge some hundred cards against a sandbox that loses replies, and check the books.

`play` does it and returns a `Record`, `audit` judges that, and a screen shows both.
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

from jetpay_async._cli.demo.audit import Verdict, audit, verdict_on
from jetpay_async._cli.demo.batch import play_batch
from jetpay_async._cli.demo.records import DemoStep, Order, Plan, Record, Stage, Story
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

    from jetpay_async._cli.demo.screens import StageCallback

__all__ = ["POLICY", "demo", "play"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_Reserved: TypeAlias = tuple[Order, Preauthorization | JetpayError]

POLICY = RetryPolicy(base_delay=0.1, max_delay=0.5, resolve_after=0.3)
"""Fit for a sandbox in the same process, which never works on a request whose reply it has lost.

Over a real network a request may be on its way for seconds: keep the default there.
"""

_TIMEOUT = 20.0
_LATENCY = 0.1
_SLOW_BANK = 0.25
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
# Batches wait 0.2 s and are sent again after 17 ms; Jetpay's minutes would be a dull demo.
_DELIVERIES = DeliveryPolicy(speedup=300.0)
_BATCH = 20


def demo(*, count: int, concurrency: int, seed: int, faults: bool, as_json: bool) -> int:
    """Run the demo and show what it found."""
    plan = Plan(count=count, concurrency=concurrency, seed=seed, faults=faults)
    screen = choose_screen(as_json=as_json)
    screen.introduce(plan, POLICY)
    with screen.watching() as watch:
        record = asyncio.run(play(plan, watch))
    report = audit(record)
    screen.show(report)
    return ExitStatus.REFUSED if report.problems else ExitStatus.DONE


async def play(plan: Plan, watch: StageCallback) -> Record:
    """Preauthorize every card, capture what was reserved, receive the webhooks; then capture a batch from a ledger.

    Args:
        plan: How many, and how.
        watch: Told of each step.

    Returns:
        What the client, the webhook endpoint and the sandbox remember.
    """
    sandbox = Sandbox(
        seed=plan.seed,
        latency=_LATENCY,
        slow_bank_seconds=_SLOW_BANK,
        delivery=_DELIVERIES,
        # Whoever captures twice shall pay twice here: nobody but the client prevents it.
        rejects_second_capture=False,
    )
    if plan.faults:
        sandbox.faults.add(*_FAULTS)
        sandbox.delivery_faults.add(*_DELIVERY_FAULTS)
    orders = _orders(plan, sandbox)
    async with (
        sandbox,
        RemoteKeySet(sandbox.url, cooldown=0.1) as keys,
        _Endpoint(keys, lambda: len(sandbox.events), watch) as endpoint,
        JetpayClient(
            sandbox.api_token,
            base_url=sandbox.url,
            timeout=_TIMEOUT,
            max_connections=plan.concurrency,
            retry=POLICY,
        ) as client,
    ):
        sandbox.add_webhook(endpoint.url, max_batch_size=_BATCH)
        began = time.monotonic()
        reserved = await _preauthorize(client, orders, sandbox.merchant_account_id, plan, watch)
        stories = await _capture(client, reserved, plan, watch)
        seconds = time.monotonic() - began
        with suppress(TimeoutError):  # the audit finds what is missing
            await _decisions(sandbox, stories)
            await sandbox.drain_deliveries()
        return Record(
            batch=await play_batch(plan, POLICY, watch),
            plan=plan,
            stories=tuple(stories),
            seconds=seconds,
            debits=sandbox.debits,
            events_made=len(sandbox.events),
            events=tuple(endpoint.events),
            deliveries=endpoint.deliveries,
            deliveries_refused=endpoint.rejected,
            events_repeated=endpoint.repeated,
            faults=dict(Counter(sandbox.faults.injected) + Counter(sandbox.delivery_faults.injected)),
        )


def _orders(plan: Plan, sandbox: Sandbox) -> list[Order]:
    """Make up a card for each order: most of them good, the others evenly of all kinds that the sandbox knows."""
    random = Random(plan.seed)  # noqa: S311 - reproducible on purpose
    special = [number for number in CARDS if number != APPROVED]
    orders: list[Order] = []
    for number in range(1, plan.count + 1):
        card_number = APPROVED if random.random() < _SHARE_OF_GOOD_CARDS else random.choice(special)
        amount = Decimal(random.randrange(5_00, 500_00)) / 100
        payer = sandbox.add_payer(card_number=card_number)
        orders.append(Order(number=number, card_number=card_number, payer=payer, amount=amount))
    return orders


async def _decisions(sandbox: Sandbox, stories: Sequence[Story]) -> None:
    """Wait until the slow banks have decided on everything that they accepted.

    Raises:
        TimeoutError: They take too long.
    """
    async with asyncio.timeout(_TIMEOUT):
        for story in stories:
            later = CARDS[story.order.card_number].later
            if story.debit_id is not None and later is not None:
                while sandbox.debit(story.debit_id).state not in {TransactionState.PREAUTHORIZED, later}:  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(_SLOW_BANK / 10)


async def _preauthorize(
    client: JetpayClient, orders: Sequence[Order], account: str, plan: Plan, watch: StageCallback
) -> list[_Reserved]:
    tally = _Tally(DemoStep.PREAUTHORIZE, len(orders), watch)

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
            tally.add(verdict_on(error))
            return order, error
        tally.add()
        return order, reserved

    return await _each(orders, preauthorize, plan.concurrency)


async def _capture(
    client: JetpayClient, reserved: Sequence[_Reserved], plan: Plan, watch: StageCallback
) -> list[Story]:
    tally = _Tally(DemoStep.CAPTURE, sum(isinstance(answer, Preauthorization) for _, answer in reserved), watch)

    async def capture(reservation: _Reserved) -> Story:
        order, answer = reservation
        if not isinstance(answer, Preauthorization):
            return Story(order=order, debit_id=None, outcome=answer)
        outcome: Capture | JetpayError
        try:
            outcome = await client.capture(answer.debit_id)
        except JetpayError as error:
            outcome = error
        verdict = verdict_on(outcome)
        confirmed_by_status = isinstance(outcome, Capture) and outcome.confirmed_by_status
        tally.add("confirmed_by_status" if confirmed_by_status else None if verdict is Verdict.CAPTURED else verdict)
        return Story(order=order, debit_id=answer.debit_id, outcome=outcome)

    return await _each(reserved, capture, plan.concurrency)


class _Tally:
    """Counts what is done, and tells the watch."""

    def __init__(self, step: DemoStep, total: int, watch: StageCallback) -> None:
        self._step = step
        self._total = total
        self._watch = watch
        self._done = 0
        self._notes: Counter[str] = Counter()

    def add(self, note: str | None = None) -> None:
        self._done += 1
        if note is not None:
            self._notes[note] += 1
        self._watch(Stage(step=self._step, done=self._done, total=self._total, notes=self._notes))


async def _each(items: Iterable[_In], do: Callable[[_In], Awaitable[_Out]], workers: int) -> list[_Out]:
    """Do something with each item, so many at a time; the results are in the order of the items."""
    results: dict[int, _Out] = {}
    line = iter(enumerate(items))

    async def work() -> None:
        for position, item in line:
            results[position] = await do(item)

    async with asyncio.TaskGroup() as crew:
        for _ in range(workers):
            crew.create_task(work())
    return [results[position] for position in sorted(results)]


class _Endpoint:
    """A webhook endpoint as an application has it, on a real socket, which remembers what it is told."""

    def __init__(self, keys: RemoteKeySet, expected: Callable[[], int], watch: StageCallback) -> None:
        router = EventRouter()
        router.on(Event)(self._remember)
        self._receiver = WebhookReceiver(WebhookVerifier(keys), router, inbox=MemoryInbox())
        self._expected = expected
        self._watch = watch
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
        answer = await self._receiver.receive(await request.read(), request.headers.get("Authorization"))
        self.deliveries += 1
        self.rejected += answer.status != 200
        self.repeated += answer.skipped
        self._watch(Stage(step=DemoStep.WEBHOOKS, done=len(self.events), total=self._expected()))
        return web.Response(status=answer.status)

    async def _remember(self, event: Event) -> None:
        self.events.append(event)
