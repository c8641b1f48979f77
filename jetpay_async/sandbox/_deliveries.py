"""Deliver events: batched, signed, retried, one delivery at a time per webhook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import attrs

from jetpay_async._core import json
from jetpay_async._core.backoff import exponential_backoff
from jetpay_async.sandbox._faults import DeliveryFault, DeliveryFaultKind, Faults
from jetpay_async.sandbox._limits import check_names, within
from jetpay_async.sandbox._webhooks import WebhookState
from jetpay_async.webhooks._signing import sign

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async.sandbox._keys import KeyRing
    from jetpay_async.sandbox._state import EventLog, SandboxEvent
    from jetpay_async.sandbox._webhooks import WebhookRegistration, Webhooks

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
        max_attempts: Attempts at one delivery, after which the webhook is ``failed`` [the vendor gives no number].
        base_delay: Seconds before the second attempt; they double with each further one [inferred].
        max_delay: The most that they grow to.
        public_callbacks: Whether callback URLs may lead anywhere.
        callback_hosts: Where they may lead besides this machine: names of hosts, addresses, networks such as
            ``172.16.0.0/12`` (for addresses in URLs; names are not resolved).

    Raises:
        ValueError: A number is out of range, or ``callback_hosts`` is a single text.
    """

    speedup: float = attrs.field(default=1.0, validator=within(1e-6, 1e12))
    timeout: float = attrs.field(default=15.0, validator=within(1e-6))
    max_attempts: int = attrs.field(default=10, validator=within(1, 10**9))
    base_delay: float = attrs.field(default=5.0, validator=within(0))
    max_delay: float = attrs.field(default=600.0, validator=within(0))
    public_callbacks: bool = False
    callback_hosts: Sequence[str] = attrs.field(
        default=(), validator=lambda _, attribute, value: check_names(attribute.name, value)
    )

    def backoff(self, attempt: int) -> float:
        """Return the seconds to wait after so many attempts."""
        return exponential_backoff(attempt, base=self.base_delay, longest=self.max_delay) / self.speedup


@attrs.frozen(kw_only=True)
class DeliveryAttempt:
    """One request to a receiver.

    Attributes:
        webhook: The webhook's ``identifier``.
        url: Where it went.
        event_ids: What it carried.
        attempt: 1 for the first try at these events.
        status: Of the receiver's response, None if there was none.
        error: The name of the exception if there was no response; empty otherwise.
        time: Seconds since the epoch when it was signed.
        kid: The key that it was signed with.
        fault: The kind of the fault that was injected, if any.
    """

    webhook: str
    url: str
    event_ids: tuple[int, ...]
    attempt: int
    status: int | None
    error: str = ""
    time: float = 0.0
    kid: str = ""
    fault: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the status was 2xx."""
        return self.status is not None and 200 <= self.status < 300


class Deliveries:
    """The deliveries of all webhooks: each has a sender, which delivers one batch after the other.

    Args:
        webhooks: The registrations.
        events: The events to deliver.
        keys: The keys to sign with.
        clock: For the tokens and the timers.
        policy: Delays and retries.
        faults: The faults to inject.
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
        self.on_attempt: Callable[[DeliveryAttempt], None] = _no_listener
        """Called with each attempt that has ended."""
        self.on_change: Callable[[], None] = _nothing
        """Called at each event and each change."""
        self.paused = False
        self.drains = 0
        self.progress = asyncio.Event()
        self._webhooks = webhooks
        self._session: aiohttp.ClientSession | None = None
        self._senders: dict[str, _WebhookSender] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Deliver from now on."""
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=self.policy.timeout)
        )
        self._webhooks.on_change = self._restart
        self.events.on_append = self.wake
        for webhook in self._webhooks:
            self._restart(webhook)

    async def stop(self) -> None:
        """Stop delivering. Deliveries in flight are cancelled, and made again after the next start."""
        for sender in self._senders.values():
            sender.task.cancel()
        self._senders.clear()
        if self._tasks:
            await asyncio.wait(self._tasks)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - the sandbox's own argument
        """Deliver without waiting for batches to fill, until every webhook has every event or has failed."""
        if self._session is None:
            raise RuntimeError("the sandbox does not run: nothing is delivered")
        self.drains += 1
        self.wake()
        try:
            async with asyncio.timeout(timeout):
                while any(sender.busy for sender in self._senders.values()):
                    self.progress.clear()
                    await self.progress.wait()
        finally:
            self.drains -= 1

    def pause(self, paused: bool) -> None:  # noqa: FBT001 - the only argument says what it is
        """Begin no further batch, or go on."""
        self.paused = paused
        self.wake()

    def wake(self) -> None:
        """Let every sender see what there is to do."""
        for sender in self._senders.values():
            sender.wake.set()
        self.on_change()

    def _restart(self, webhook: WebhookRegistration) -> None:
        former = self._senders.pop(webhook.identifier, None)
        if former is not None:
            former.task.cancel()
        registered = self._webhooks.get(webhook.identifier) is webhook
        if registered and webhook.state is not WebhookState.FAILED and self._session is not None:
            sender = _WebhookSender(self, webhook, self._session)
            self._senders[webhook.identifier] = sender
            self._tasks.add(sender.task)
            sender.task.add_done_callback(self._tasks.discard)
        self.progress.set()


@attrs.frozen
class _Signature:
    authorization: str
    kid: str
    time: float


class _WebhookSender:
    def __init__(self, deliveries: Deliveries, webhook: WebhookRegistration, session: aiohttp.ClientSession) -> None:
        self._deliveries = deliveries
        self._webhook = webhook
        self._session = session
        self.wake = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    @property
    def busy(self) -> bool:
        """Whether events are left that it will still try to deliver."""
        return self._webhook.state is not WebhookState.FAILED and self._pending(self._webhook.next_event_id) > 0

    async def _run(self) -> None:
        webhook = self._webhook
        while True:
            webhook.state = WebhookState.ACTIVE
            while not self._pending(webhook.next_event_id):
                await self._wait_for_wake()
            webhook.state = WebhookState.SCHEDULED
            batches = [await self._fill(webhook.next_event_id)]
            end = batches[0][-1].id + 1
            if self._match_fault(_BETWEEN_DELIVERIES) and (following := await self._fill(end)):
                batches.insert(0, following)
                end = following[-1].id + 1
            while self._deliveries.paused:
                await self._wait_for_wake()
            for batch in batches:
                if not await self._deliver(batch):
                    webhook.state = WebhookState.FAILED
                    self._deliveries.progress.set()
                    return
            webhook.next_event_id = end
            self._deliveries.progress.set()

    def _pending(self, first: int) -> int:
        # A replay may ask for an event that is still to come.
        return max(0, self._deliveries.events.last_id - first + 1)

    async def _wait_for_wake(self) -> None:
        self.wake.clear()
        await self.wake.wait()

    async def _fill(self, first: int) -> Sequence[SandboxEvent]:
        """Wait until the batch is full, its time is over, or `drain` asks for the events that there are."""
        deliveries, webhook = self._deliveries, self._webhook
        seconds = webhook.max_wait_seconds / deliveries.policy.speedup
        timer = asyncio.ensure_future(deliveries.clock.sleep(seconds))
        timer.add_done_callback(lambda _: self.wake.set())
        try:
            while not (deliveries.drains or timer.done() or self._pending(first) >= webhook.max_batch_size):
                await self._wait_for_wake()
        finally:
            timer.cancel()
        return deliveries.events.since(first, webhook.max_batch_size)

    async def _deliver(self, batch: Sequence[SandboxEvent]) -> bool:
        deliveries, webhook = self._deliveries, self._webhook
        for attempt in range(1, deliveries.policy.max_attempts + 1):
            if attempt > 1:
                webhook.state = WebhookState.BACKING_OFF
                await deliveries.clock.sleep(deliveries.policy.backoff(attempt - 1))
            webhook.state = WebhookState.DISPATCHING
            if await self._attempt(batch, attempt):
                webhook.last_sent_event_id = max(batch[-1].id, webhook.last_sent_event_id or 0)
                return True
        return False

    async def _attempt(self, batch: Sequence[SandboxEvent], attempt: int) -> bool:
        deliveries = self._deliveries
        fault = self._match_fault(_WITHIN_A_DELIVERY)
        kind = fault.kind if fault else None
        seconds = fault.seconds if fault else 0.0
        body = json.dump({"webhookId": self._webhook.id, "events": [event.document() for event in batch]})
        signature = self._sign(body, skew=seconds if kind is DeliveryFaultKind.CLOCK_SKEW else 0.0)
        if fault and kind is DeliveryFaultKind.ROTATE_KEY:
            deliveries.keys.rotate(keep_old=fault.keep_old)
        if kind is DeliveryFaultKind.LATE:
            await deliveries.clock.sleep(seconds)
        event_ids = tuple(event.id for event in batch)
        send = partial(self._post, body, event_ids=event_ids, attempt=attempt, fault=kind)
        accepted = await send(signature)
        if accepted and kind is DeliveryFaultKind.DUPLICATE:
            await send(self._sign(body, skew=0.0))
        return accepted

    def _match_fault(self, kinds: frozenset[DeliveryFaultKind]) -> DeliveryFault | None:
        return self._deliveries.faults.match(lambda fault: fault.fits(self._webhook.identifier, kinds))

    def _sign(self, body: bytes, *, skew: float) -> _Signature:
        key, now = self._deliveries.keys.current, self._deliveries.clock.time()
        return _Signature(sign(body, key.private_key, kid=key.kid, now=now + skew), key.kid, now)

    async def _post(
        self,
        body: bytes,
        signature: _Signature,
        *,
        event_ids: tuple[int, ...],
        attempt: int,
        fault: DeliveryFaultKind | None,
    ) -> bool:
        webhook = self._webhook
        headers = {"Content-Type": "application/json", "Authorization": signature.authorization}
        if webhook.callback_api_key is not None:
            headers[CALLBACK_API_KEY_HEADER] = webhook.callback_api_key
        status, error = None, ""
        try:
            async with self._session.post(
                webhook.callback_url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            error = type(failure).__name__
        made = DeliveryAttempt(
            webhook=webhook.identifier,
            url=webhook.callback_url,
            event_ids=event_ids,
            attempt=attempt,
            status=status,
            error=error,
            time=signature.time,
            kid=signature.kid,
            fault=fault,
        )
        self._deliveries.attempts.append(made)
        self._deliveries.on_attempt(made)
        self._deliveries.on_change()
        return made.accepted


def _nothing() -> None:
    """Do nothing: no one listens yet."""


def _no_listener(attempt: DeliveryAttempt) -> None:
    """Do nothing: no one listens yet."""
