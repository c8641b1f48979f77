"""Deliver events: batched, signed, retried, one delivery after the other per webhook."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import attrs

from jetpay_async._core import json
from jetpay_async.sandbox._faults import DeliveryFault, DeliveryFaultKind, Faults
from jetpay_async.sandbox._webhooks import WebhookState
from jetpay_async.webhooks._signing import sign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetpay_async._core.clock import Clock
    from jetpay_async.sandbox._keys import KeyRing
    from jetpay_async.sandbox._state import Event, EventLog
    from jetpay_async.sandbox._webhooks import Webhook, Webhooks

__all__ = ["CALLBACK_API_KEY_HEADER", "Deliveries", "DeliveryAttempt", "DeliveryPolicy"]

CALLBACK_API_KEY_HEADER = "X-Callback-Api-Key"
"""Carries the ``callback_api_key``. The sandbox's own name: the vendor publishes none."""

_BETWEEN_DELIVERIES = frozenset({DeliveryFaultKind.REORDER})
_WITHIN_A_DELIVERY = frozenset(DeliveryFaultKind) - _BETWEEN_DELIVERIES


@attrs.frozen(kw_only=True)
class DeliveryPolicy:
    """How webhooks are delivered.

    Attributes:
        speedup: Divides every wait between deliveries: with 1000, a ``max_wait_seconds`` of 60 takes 60 ms, and
            retries follow within milliseconds.
        timeout: Seconds that the receiver has to answer [docs: 15]; ``speedup`` leaves them alone.
        max_attempts: Attempts at one delivery, after which the webhook is ``failed`` [the vendor tells no number].
        base_delay: Seconds before the second attempt; they double with each further one [inferred].
        max_delay: The most that they grow to.
        public_callbacks: Whether callback URLs may lead elsewhere than to this machine.
    """

    speedup: float = 1.0
    timeout: float = 15.0
    max_attempts: int = 10
    base_delay: float = 5.0
    max_delay: float = 600.0
    public_callbacks: bool = False

    def backoff(self, attempt: int) -> float:
        """Return the seconds to wait after so many attempts."""
        return min(self.max_delay, self.base_delay * 2.0 ** (attempt - 1)) / self.speedup


@attrs.frozen(kw_only=True)
class DeliveryAttempt:
    """One request to a receiver.

    Attributes:
        webhook: The webhook's ``identifier``.
        url: Where it went.
        event_ids: What it carried.
        attempt: 1 for the first try at these events.
        status: The receiver's answer, or None if there was none.
        error: Why there was none: the name of the exception; empty otherwise.
    """

    webhook: str
    url: str
    event_ids: tuple[int, ...]
    attempt: int
    status: int | None
    error: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the receiver said 2xx."""
        return self.status is not None and 200 <= self.status < 300


class Deliveries:
    """The deliveries of all webhooks: each has a courier, which delivers one batch after the other.

    Args:
        webhooks: Where to.
        events: What is delivered.
        keys: What it is signed with.
        clock: Of the tokens and the waits.
        policy: Timers and retries.
        faults: What goes wrong on purpose.
    """

    def __init__(
        self,
        *,
        webhooks: Webhooks,
        events: EventLog,
        keys: KeyRing,
        clock: Clock,
        policy: DeliveryPolicy,
        faults: Faults[DeliveryFault],
    ) -> None:
        self.events = events
        self.keys = keys
        self.clock = clock
        self.policy = policy
        self.faults = faults
        self.attempts: list[DeliveryAttempt] = []
        self.drains = 0
        self.progress = asyncio.Event()
        self._webhooks = webhooks
        self._session: aiohttp.ClientSession | None = None
        self._couriers: dict[str, _WebhookSender] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Deliver from now on."""
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=self.policy.timeout)
        )
        self._webhooks.on_change = self._restart
        self.events.on_append = self._wake
        for webhook in self._webhooks:
            self._restart(webhook)

    async def stop(self) -> None:
        """Stop delivering; what is on its way is dropped, and delivered anew after the next start."""
        for courier in self._couriers.values():
            courier.task.cancel()
        self._couriers.clear()
        if self._tasks:
            await asyncio.wait(self._tasks)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - the sandbox's own argument
        """Deliver without waiting for batches to fill, until every webhook has everything or is given up."""
        if self._session is None:
            raise RuntimeError("the sandbox does not run: nothing is delivered")
        self.drains += 1
        self._wake()
        try:
            async with asyncio.timeout(timeout):
                while any(courier.busy for courier in self._couriers.values()):
                    self.progress.clear()
                    await self.progress.wait()
        finally:
            self.drains -= 1

    def _wake(self) -> None:
        for courier in self._couriers.values():
            courier.wake.set()

    def _restart(self, webhook: Webhook) -> None:
        former = self._couriers.pop(webhook.identifier, None)
        if former is not None:
            former.task.cancel()
        registered = self._webhooks.get(webhook.identifier) is webhook
        if registered and webhook.state is not WebhookState.FAILED and self._session is not None:
            courier = _WebhookSender(self, webhook, self._session)
            self._couriers[webhook.identifier] = courier
            self._tasks.add(courier.task)
            courier.task.add_done_callback(self._tasks.discard)
        self.progress.set()


class _WebhookSender:
    def __init__(self, office: Deliveries, webhook: Webhook, session: aiohttp.ClientSession) -> None:
        self._office = office
        self._webhook = webhook
        self._session = session
        self.wake = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    @property
    def busy(self) -> bool:
        """Whether there is anything left that this one will still try to deliver."""
        return self._webhook.state is not WebhookState.FAILED and self._backlog(self._webhook.next_event_id) > 0

    async def _run(self) -> None:
        webhook = self._webhook
        while True:
            webhook.state = WebhookState.ACTIVE
            while not self._backlog(webhook.next_event_id):
                await self._woken()
            webhook.state = WebhookState.SCHEDULED
            batches = [await self._fill(webhook.next_event_id)]
            end = batches[0][-1].id + 1
            if self._strike(_BETWEEN_DELIVERIES) and (following := await self._fill(end)):
                batches.insert(0, following)
                end = following[-1].id + 1
            for batch in batches:
                if not await self._deliver(batch):
                    webhook.state = WebhookState.FAILED
                    self._office.progress.set()
                    return
            webhook.next_event_id = end
            self._office.progress.set()

    def _backlog(self, first: int) -> int:
        # A replay may ask for an event that is still to come.
        return max(0, self._office.events.last_id - first + 1)

    async def _woken(self) -> None:
        self.wake.clear()
        await self.wake.wait()

    async def _fill(self, first: int) -> Sequence[Event]:
        """Wait until the batch is full, its time has come, or a drain asks for what there is."""
        office, webhook = self._office, self._webhook
        seconds = webhook.max_wait_seconds / office.policy.speedup
        timer = asyncio.ensure_future(office.clock.sleep(seconds))
        timer.add_done_callback(lambda _: self.wake.set())
        try:
            while not (office.drains or timer.done() or self._backlog(first) >= webhook.max_batch_size):
                await self._woken()
        finally:
            timer.cancel()
        return office.events.since(first, webhook.max_batch_size)

    async def _deliver(self, batch: Sequence[Event]) -> bool:
        office, webhook = self._office, self._webhook
        for attempt in range(1, office.policy.max_attempts + 1):
            if attempt > 1:
                webhook.state = WebhookState.BACKING_OFF
                await office.clock.sleep(office.policy.backoff(attempt - 1))
            webhook.state = WebhookState.DISPATCHING
            if await self._attempt(batch, attempt):
                webhook.last_sent_event_id = max(batch[-1].id, webhook.last_sent_event_id or 0)
                return True
        return False

    async def _attempt(self, batch: Sequence[Event], attempt: int) -> bool:
        office = self._office
        fault = self._strike(_WITHIN_A_DELIVERY)
        kind = fault and fault.kind
        seconds = fault.seconds if fault else 0.0
        body = json.dump({"webhookId": self._webhook.id, "events": [event.document() for event in batch]})
        authorization = self._sign(body, skew=seconds if kind is DeliveryFaultKind.CLOCK_SKEW else 0.0)
        if fault and kind is DeliveryFaultKind.ROTATE_KEY:
            office.keys.rotate(keep_old=fault.keep_old)
        if kind is DeliveryFaultKind.LATE:
            await office.clock.sleep(seconds)
        event_ids = tuple(event.id for event in batch)
        accepted = await self._post(body, authorization, event_ids, attempt)
        if accepted and kind is DeliveryFaultKind.DUPLICATE:
            await self._post(body, self._sign(body, skew=0.0), event_ids, attempt)
        return accepted

    def _strike(self, kinds: frozenset[DeliveryFaultKind]) -> DeliveryFault | None:
        return self._office.faults.match(lambda fault: fault.fits(self._webhook.identifier, kinds))

    def _sign(self, body: bytes, *, skew: float) -> str:
        key = self._office.keys.current
        return sign(body, key.private_key, kid=key.kid, now=self._office.clock.time() + skew)

    async def _post(self, body: bytes, authorization: str, event_ids: tuple[int, ...], attempt: int) -> bool:
        webhook = self._webhook
        headers = {"Content-Type": "application/json", "Authorization": authorization}
        if webhook.callback_api_key is not None:
            headers[CALLBACK_API_KEY_HEADER] = webhook.callback_api_key
        status, error = None, ""
        try:
            async with self._session.post(
                webhook.callback_url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError) as unanswered:
            error = type(unanswered).__name__
        made = DeliveryAttempt(
            webhook=webhook.identifier,
            url=webhook.callback_url,
            event_ids=event_ids,
            attempt=attempt,
            status=status,
            error=error,
        )
        self._office.attempts.append(made)
        return made.accepted
