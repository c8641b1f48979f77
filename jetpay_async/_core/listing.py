"""Find out by a list what became of a write without an answer.

What is in the list was carried out. That it is absent is proof only by the rules of `resolve`: the read went out to the
API, and began once the request could no longer be on its way or be worked on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from jetpay_async._core.operations import ResponseContext
from jetpay_async._core.resolve import MIN_READ_INTERVAL_SECONDS
from jetpay_async._core.responses import Unanswered
from jetpay_async.errors import APIError, ConfigurationError, JetpayError, RateLimitedError

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async._core.execution import Execution
    from jetpay_async._core.http import RawResponse
    from jetpay_async._core.operations import Call, Listing

_T = TypeVar("_T")

AskList = Callable[["Call[Any]", "Execution[Any]"], Awaitable[tuple["RawResponse", Any]]]
"""Sends one read of a list on behalf of an execution."""


@attrs.frozen(eq=False)
class ListFinding(Generic[_T]):
    """How the reads of a list ended."""

    found: _T | None = None
    absent: bool = False
    """Whether it is proven that the write was not carried out."""
    obstacle: JetpayError | None = None
    """Why reading on is useless, if that ended the reads."""


async def find_in_list(execution: Execution[_T], listing: Listing[_T], ask: AskList, clock: Clock) -> ListFinding[_T]:
    """Read the list until it proves something, or until the deadline.

    Raises:
        APIError: The list shows that the write never will be carried out.
    """
    reads = 0
    while True:
        reads += 1
        try:
            response, listed = await ask(listing.call, execution)
        except (Unanswered, RateLimitedError):
            pass
        except (APIError, ConfigurationError) as obstacle:
            return ListFinding(obstacle=obstacle)
        else:
            context = ResponseContext(execution.attempts, clock.monotonic() - execution.began)
            found = listing.find(execution.call, listed, context)
            if found is not None:
                return ListFinding(found)
            if response.left_at is not None and response.left_at - response.age >= execution.certain_from:
                return ListFinding(absent=True)
        now = clock.monotonic()
        wait = max(execution.options.retry.delay(reads, clock.random()), MIN_READ_INTERVAL_SECONDS)
        if now < execution.certain_from:
            wait = min(wait, execution.certain_from - now)
        if now + wait >= execution.deadline:
            return ListFinding()
        await clock.sleep(wait)
