"""Which handler an event goes to.

Exactly one handler handles an event, so that "handled once" has a meaning: the event is done when that handler is. The
most specific one is chosen, in whatever order they were registered:

1. a class that says what happened: `DebitPaid`, `CreditPaid`, `DebitFailed`, `CardTokenized`; then the more general
   `TransactionPaid`, `TransactionCompleted`, `TransactionFailed`;
2. a type name in full, ``"transactions.debits.created"``;
3. a pattern, ``"transactions.*"``: of two, the one that is more literal, segment by segment from the left;
4. a general class: `TransactionEvent`, `CardTokenizationEvent`, `UnknownEvent`;
5. `Event`, for all others.
"""

from __future__ import annotations

import asyncio
import inspect
from bisect import insort
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias, TypeVar, cast, overload
from weakref import WeakValueDictionary

import attrs

from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks.events import Event, TransactionEvent

__all__ = ["EventRouter", "Handler"]

Handler: TypeAlias = Callable[[Event], Awaitable[object]]
"""An async function of one event. What it returns is ignored."""

E = TypeVar("E", bound=Event)
H = TypeVar("H", bound=Handler)
F = TypeVar("F", bound=Callable[..., Awaitable[object]])
R = TypeVar("R")

# For how many kinds of events the handler is remembered, as asking each pattern takes long. Their names are Jetpay's.
_MAX_FOUND = 1_000
# Classes at least this far below Event say what happened, not merely to what it happened.
_SPECIFIC_DEPTH = 2


@attrs.frozen(kw_only=True)
class _Route:
    rank: tuple[int, ...]
    key: type[Event] | str
    handler: Handler
    latest: bool

    def matches(self, event: Event, segments: list[str]) -> bool:
        if not isinstance(self.key, str):
            return isinstance(event, self.key)
        pattern = self.key.split(".")
        if pattern[-1] == "*" and len(segments) > len(pattern):
            segments = segments[: len(pattern)]
        return len(segments) == len(pattern) and all(map(fnmatchcase, segments, pattern))


class EventRouter:
    """A registry of handlers, by class or by type of event.

    ::

        router = EventRouter()


        @router.on(DebitPaid)
        async def ship(event: DebitPaid) -> None: ...


        @router.on("cards.*")
        async def note(event: Event) -> None: ...

    Events without a handler are acknowledged, and counted in `unhandled`.

    Args:
        concurrency: How many handlers of one delivery may run at a time. With 1, the default, events are handled
            strictly in the order of their ids. With more, events of *one* transaction keep that order (and events
            without a transaction keep it among themselves), while different transactions are handled concurrently. A
            handler of a stored event that takes more than 5 s is not waited for but by its own transaction, unless the
            receiver has ``on_error="stop"``.

    Raises:
        InvalidArgumentError: ``concurrency`` is less than 1.
    """

    def __init__(self, *, concurrency: int = 1) -> None:
        if concurrency < 1:
            raise InvalidArgumentError(f"concurrency: must be at least 1, not {concurrency}", field="concurrency")
        self.concurrency = concurrency
        self._routes: list[_Route] = []
        self._found: dict[tuple[type[Event], str], _Route | None] = {}
        self._has_latest = False
        self._unhandled: Counter[str] = Counter()
        self._in_order: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @overload
    def on(
        self, key: type[E], *, latest: bool = ...
    ) -> Callable[[Callable[[E], Awaitable[R]]], Callable[[E], Awaitable[R]]]: ...
    @overload
    def on(self, key: str, *, latest: bool = ...) -> Callable[[H], H]: ...
    def on(self, key: type[Event] | str, *, latest: bool = False) -> Callable[[F], F]:
        """Register the decorated async function; the function itself is not changed.

        Args:
            key: A class of event, which stands for its subclasses too; or a type of event, in full or as a pattern. In
                a pattern each segment between dots is matched by itself with the wildcards ``*``, ``?`` and ``[...]``;
                a last segment ``*`` stands for one or more segments.
            latest: Call the handler only for events that are newer than the last one of their transaction that was
                marked, by whichever handler or by none. Between deliveries Jetpay promises no order: ``requested`` may
                come after ``paid``, and an older event is then marked without calling the handler. Needs an inbox that
                remembers the last event of a transaction: ours do, from the first event after such a handler was
                registered. `WebhookReceiver` then marks each event by itself, whatever ``mark_within`` says.

        Returns:
            The decorator.

        Raises:
            InvalidArgumentError: ``key`` is no class of event and no pattern, the decorated function is not async, or
                ``latest`` is set for a class of events that have no transaction.
            ConfigurationError: There is a handler for the same key already.
        """
        rank = _rank(key)
        if latest and isinstance(key, type) and not (issubclass(key, TransactionEvent) or key is Event):
            raise InvalidArgumentError(f"latest: the events of {key.__name__} have no transaction", field="latest")

        def register(handler: F) -> F:
            if not (inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)):
                raise InvalidArgumentError(f"{handler!r} is not an async function", field="handler")
            if any(route.key == key for route in self._routes):
                raise ConfigurationError(f"there is a handler for {key!r} already, and only one would run")
            insort(
                self._routes, _Route(rank=rank, key=key, handler=handler, latest=latest), key=lambda route: route.rank
            )
            self._found.clear()
            self._has_latest = self._has_latest or latest
            return handler

        return register

    def handler_for(self, event: Event) -> Handler | None:
        """Return the handler of this event; None if there is none."""
        route = self._route_for(event)
        return None if route is None else route.handler

    @property
    def has_latest(self) -> bool:
        """Whether a handler was registered with ``latest=True``, so that the inbox has to remember states."""
        return self._has_latest

    def latest_only(self, event: Event) -> bool:
        """Return whether this event's handler is only called for the latest event of its transaction."""
        route = self._route_for(event)
        return route is not None and route.latest and isinstance(event, TransactionEvent)

    def in_order(self, transaction_id: str) -> asyncio.Lock:
        """Return the lock that lets this process handle one event of the transaction at a time."""
        return self._in_order.setdefault(transaction_id, asyncio.Lock())

    def _route_for(self, event: Event) -> _Route | None:
        kind = (event.__class__, event.type)
        if kind in self._found:
            return self._found[kind]
        segments = event.type.split(".")
        if len(self._found) >= _MAX_FOUND:
            self._found.clear()
        route = self._found[kind] = next((route for route in self._routes if route.matches(event, segments)), None)
        return route

    async def dispatch(self, event: Event) -> bool:
        """Run the event's handler.

        Args:
            event: An event, which the caller has verified.

        Returns:
            Whether there was one. If not, the event is counted in `unhandled`.
        """
        handler = self.handler_for(event)
        if handler is None:
            self._unhandled[event.type] += 1
            return False
        await handler(event)
        return True

    @property
    def unhandled(self) -> Mapping[str, int]:
        """How many events of each type had no handler since the start: which types exist, and which are missed."""
        return self._unhandled.copy()


def _rank(key: type[Event] | str) -> tuple[int, ...]:
    if isinstance(key, str):
        segments = key.split(".")
        if not all(segments):
            raise InvalidArgumentError(f"{key!r} is not a type of event: a segment is empty", field="key")
        wildness = [2 if segment == "*" else int(any(sign in segment for sign in "*?[")) for segment in segments]
        # The closing 3 puts "a.*" behind "a.*.b".
        return (3, *wildness, 3) if any(wildness) else (2,)
    # In spite of the annotation: the decorator is also used in code that no type checker reads.
    if not (isinstance(cast("object", key), type) and issubclass(key, Event)):
        raise InvalidArgumentError(f"{key!r} is neither a class of event nor a pattern", field="key")
    depth = key.__mro__.index(Event)
    return (1, -depth) if depth >= _SPECIFIC_DEPTH else (4, -depth)
