"""What the tests of receiving share: events as a delivery brings them, and a clock that stands until it is moved."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

from jetpay_async._core import json
from jetpay_async._core.clock import Clock
from jetpay_async.webhooks.events import Event, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jetpay_async.models import JSONValue

CREATED_AT = "2026-01-22T10:15:30.123456Z"


def document(
    event_id: int,
    *,
    state: str | None = "paid",
    transaction: str | None = None,
    type: str = "transactions.debits.created",  # noqa: A002 - the wire's name
    created_at: str = CREATED_AT,
) -> dict[str, JSONValue]:
    data: dict[str, JSONValue] = {} if state is None else {"state": state}
    data["transactionId"] = transaction or f"t-{event_id}"
    return {"id": event_id, "createdAt": created_at, "type": type, "data": data}


def body_of(documents: Iterable[JSONValue], *, webhook_id: int = 123) -> bytes:
    return json.dump({"webhookId": webhook_id, "events": list(documents)})


def event(event_id: int, **fields: str | None) -> Event:
    return decode(body_of([document(event_id, **fields)])).events[0]  # type: ignore[arg-type]


def events(*event_ids: int) -> tuple[Event, ...]:
    return tuple(event(event_id) for event_id in event_ids)


@attrs.define
class FakeClock:
    """A clock that only moves when it is told to; sleeping on it lets the others run and takes no time."""

    now: float = 1_800_000_000.0

    def tick(self, seconds: float) -> None:
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, time=lambda: self.now, sleep=self._sleep, random=lambda: 0.5)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task is about to do; a test that would wait for ever fails."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
