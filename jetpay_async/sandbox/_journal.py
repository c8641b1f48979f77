"""What happened, for those who watch: the newest requests, and a signal at every change."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from jetpay_async.sandbox._redaction import redacted_path

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock

__all__ = ["Journal", "RequestRecord"]

# The page shows fewer, and a test that wants more has the counters.
_KEPT = 1000


@attrs.define(kw_only=True, eq=False)
class RequestRecord:
    """One request.

    Attributes:
        request_id: As in the reply's ``x-request-id``; it counts.
        time: Seconds since the epoch at its arrival.
        method: The HTTP method.
        path: Without the query; tokens and card numbers in it are cut off.
        route: One of `ROUTES`; None for a path that the API does not have.
        fault: The kind of the fault that was injected, if any.
        status: Of the reply; None before it, and where the fault left none.
        seconds: How long it took; None as long as it lasts.
    """

    request_id: str
    time: float
    method: str
    path: str
    route: str | None
    fault: str | None = None
    status: int | None = None
    seconds: float | None = None


class Journal:
    """The newest requests, and who is notified of every change.

    Args:
        clock: For times and durations.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.total = 0
        """How many requests have arrived whole."""
        self.by_route: Counter[tuple[str, str | None]] = Counter()
        """The same by route and id; with None for the id, by route."""
        self.requests: deque[RequestRecord] = deque(maxlen=_KEPT)
        self.on_request: Callable[[RequestRecord], None] = _no_listener
        """Called with each request that has ended."""
        self.version = 0
        """Grows at every change."""
        self._changed = asyncio.Event()

    def begin(
        self, method: str, path: str, route: str | None, identifiers: Sequence[str] = ()
    ) -> tuple[RequestRecord, float]:
        """Count and record the arrival of a request; return what `end` wants."""
        self.total += 1
        if route is not None:
            self.by_route[route, None] += 1
            for identifier in identifiers:
                self.by_route[route, identifier] += 1
        record = RequestRecord(
            request_id=f"req_{self.total:08}",
            time=self._clock.time(),
            method=method,
            path=redacted_path(path),
            route=route,
        )
        self.requests.append(record)
        self.touch()
        return record, self._clock.monotonic()

    def end(self, record: RequestRecord, began: float, status: int | None) -> None:
        """Record the end of a request."""
        record.status = status
        record.seconds = self._clock.monotonic() - began
        self.on_request(record)
        self.touch()

    def restore(self, total: int, by_route: Mapping[tuple[str, str | None], int]) -> None:
        """Go on counting from other counts, and forget the requests."""
        self.total, self.by_route = total, Counter(by_route)
        self.requests.clear()

    def touch(self) -> None:
        """Notify those who wait for a change."""
        self.version += 1
        self._changed.set()

    async def wait(self, version: int) -> int:
        """Return the version, once there is a newer one than this."""
        while self.version == version:
            self._changed.clear()
            await self._changed.wait()
        return self.version


def _no_listener(record: RequestRecord) -> None:
    """Do nothing: no one listens yet."""
