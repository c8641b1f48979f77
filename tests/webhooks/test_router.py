"""Which handler takes an event."""

from __future__ import annotations

import random
from functools import partial
from typing import cast

import pytest

from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks import router as router_module
from jetpay_async.webhooks.events import (
    CreditPaid,
    DebitPaid,
    Event,
    TransactionEvent,
    TransactionFailed,
    TransactionPaid,
    UnknownEvent,
)
from jetpay_async.webhooks.router import EventRouter
from tests.webhooks.receiving import event

PAID = event(1)
PAID_OUT = event(6, type="transactions.credits.created")
REQUESTED = event(2, state="requested")
CREDIT = event(3, state="requested", type="transactions.credits.created")
SHORT = event(4, state="requested", type="transactions")
CARD = event(5, type="cards.tokenized")


def router_for(*keys: type[Event] | str) -> EventRouter:
    """Register a handler for each key, which is its name."""
    router = EventRouter()
    for key in keys:

        async def take(event: Event) -> None: ...

        take.__name__ = key if isinstance(key, str) else key.__name__
        router.on(key)(take)
    return router


def name_of(router: EventRouter, event: Event) -> str | None:
    handler = router.handler_for(event)
    return None if handler is None else getattr(handler, "__name__", "?")


@pytest.mark.parametrize(
    ("taken", "key", "others"),
    [
        pytest.param(PAID, DebitPaid, [TransactionPaid, "transactions.debits.created"], id="a-payment-of-a-customer"),
        pytest.param(PAID_OUT, CreditPaid, [DebitPaid, TransactionPaid, TransactionEvent], id="a-payout"),
        pytest.param(
            PAID, TransactionPaid, ["transactions.debits.created", TransactionEvent], id="what-happened-first"
        ),
        pytest.param(REQUESTED, "transactions.debits.created", ["transactions.debits.*", "*"], id="full-name-next"),
        pytest.param(
            REQUESTED, "transactions.debits.*", ["transactions.*", TransactionEvent], id="pattern-before-class"
        ),
        pytest.param(REQUESTED, "transactions.debits.*", ["transactions.*.created"], id="literal-from-the-left"),
        pytest.param(REQUESTED, "transactions.d*.created", ["transactions.*.created"], id="half-literal-before-wild"),
        pytest.param(REQUESTED, "transactions.*.created", ["transactions.*"], id="longer-pattern-first"),
        pytest.param(REQUESTED, TransactionEvent, [Event], id="nearer-class-first"),
        pytest.param(CARD, "cards.*", [UnknownEvent, Event], id="unknown-kind-by-pattern"),
        pytest.param(CARD, UnknownEvent, [Event, "transactions.*", TransactionEvent], id="unknown-kind-by-class"),
        pytest.param(CARD, Event, [TransactionPaid, TransactionFailed, TransactionEvent], id="event-takes-the-rest"),
    ],
)
def test_the_most_specific_handler_wins(taken: Event, key: type[Event] | str, others: list[type[Event] | str]) -> None:
    """One handler takes an event, the most specific one, in whatever order they were registered."""
    keys = [key, *others]
    for seed in range(5):
        random.Random(seed).shuffle(keys)

        assert name_of(router_for(*keys), taken) == (key if isinstance(key, str) else key.__name__)


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("transactions.debits.created", {PAID.id, REQUESTED.id}),
        ("transactions.*", {PAID.id, REQUESTED.id, CREDIT.id}),
        ("transactions.*.created", {PAID.id, REQUESTED.id, CREDIT.id}),
        ("transactions.?redits.created", {CREDIT.id}),
        ("transactions.[cd]*.created", {PAID.id, REQUESTED.id, CREDIT.id}),
        ("*.tokenized", {CARD.id}),
        ("*.*", {PAID.id, REQUESTED.id, CREDIT.id, CARD.id}),
        ("transactions", {SHORT.id}),
        ("trans*", {SHORT.id}),
        ("TRANSACTIONS.*", set[int]()),
        ("*", {PAID.id, REQUESTED.id, CREDIT.id, SHORT.id, CARD.id}),
    ],
)
def test_patterns_match_segment_by_segment(pattern: str, matching: set[int]) -> None:
    """A wildcard stays within its segment, but for a last ``*``, which stands for one or more."""
    router = router_for(pattern)

    assert {one.id for one in (PAID, REQUESTED, CREDIT, SHORT, CARD) if router.handler_for(one)} == matching


@pytest.mark.asyncio
async def test_unhandled_events_are_counted_by_type() -> None:
    """Events that nobody takes are counted, so that one learns which types there are; the count given is a copy."""
    router = router_for(TransactionPaid)

    dispatched = [await router.dispatch(one) for one in (PAID, CREDIT, CREDIT, CARD)]

    assert dispatched == [True, False, False, False]
    assert router.unhandled == {"transactions.credits.created": 2, "cards.tokenized": 1}
    cast("dict[str, int]", router.unhandled).clear()
    assert len(router.unhandled) == 2


@pytest.mark.asyncio
async def test_what_a_handler_raises_gets_out() -> None:
    """Dispatching does not judge: the receiver decides what a failure means."""
    router = EventRouter()

    @router.on(TransactionPaid)
    async def fail(event: TransactionPaid) -> None:
        raise ZeroDivisionError(event.transaction_id)

    with pytest.raises(ZeroDivisionError, match="t-1"):
        await router.dispatch(PAID)


@pytest.mark.asyncio
async def test_handlers_stay_plain_functions() -> None:
    """The decorator gives the function back as it is; partial functions and objects with an async call will do, too."""
    router = EventRouter()
    calls: list[tuple[str, int]] = []

    class Taker:
        async def __call__(self, event: Event) -> None:
            calls.append(("object", event.id))

    async def take(name: str, event: Event) -> None:
        calls.append((name, event.id))

    @router.on(TransactionPaid)
    async def paid(event: TransactionPaid) -> str:
        return event.transaction_id

    router.on("cards.*")(Taker())
    router.on(TransactionEvent)(partial(take, "partial"))

    assert await paid(cast("TransactionPaid", PAID)) == "t-1"
    assert await router.dispatch(CARD)
    assert await router.dispatch(CREDIT)
    assert calls == [("object", CARD.id), ("partial", CREDIT.id)]


def test_a_payout_never_reaches_the_handler_of_a_payment() -> None:
    """A credit that is paid is money sent; a handler of paid debits doesn't get it, whatever else is registered."""
    router = router_for(DebitPaid)

    assert router.handler_for(PAID) is not None
    assert router.handler_for(PAID_OUT) is None


@pytest.mark.parametrize("key", [TransactionPaid, "transactions.*"])
def test_a_second_handler_for_a_key_is_rejected(key: type[Event] | str) -> None:
    """Two handlers for the same key are a mistake that is reported at once, since only one would run."""
    router = router_for(key)

    async def no_second(event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="only one would run"):
        router.on(key)(no_second)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("", id="empty"),
        pytest.param("transactions..created", id="empty-segment"),
        pytest.param("transactions.", id="trailing-dot"),
        pytest.param(int, id="another-class"),
        pytest.param(7, id="number"),
        pytest.param(PAID, id="an-event"),
    ],
)
def test_what_is_no_key_is_rejected(key: object) -> None:
    """A key that could never match is rejected when it is given, not when the first event passes by."""
    with pytest.raises(InvalidArgumentError) as rejected:
        EventRouter().on(cast("str", key))
    assert rejected.value.field == "key"


def test_a_handler_that_is_not_async_is_rejected() -> None:
    """A plain function would run and then fail, after its effect; so it is rejected at once."""

    def take(event: Event) -> None: ...

    with pytest.raises(InvalidArgumentError, match="not an async function"):
        EventRouter().on(Event)(take)  # type: ignore[arg-type]


def test_concurrency_is_at_least_one() -> None:
    """A router that could never run a handler is rejected."""
    with pytest.raises(InvalidArgumentError) as rejected:
        EventRouter(concurrency=0)
    assert rejected.value.field == "concurrency"


def test_a_handler_that_is_registered_later_counts() -> None:
    """What was found for an event before is not kept once there is another handler."""
    router = router_for(TransactionEvent)
    before = name_of(router, PAID), name_of(router, CARD)

    async def later(event: Event) -> None: ...

    router.on(DebitPaid)(later)
    router.on("cards.*")(later)

    assert before == ("TransactionEvent", None)
    assert (name_of(router, PAID), name_of(router, CARD), name_of(router, REQUESTED)) == (
        "later",
        "later",
        "TransactionEvent",
    )


def test_what_was_found_is_kept_for_so_many_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types that never come again take no memory for good."""
    monkeypatch.setattr(router_module, "_MAX_FOUND", 2)
    router = router_for("*")
    for number in range(5):
        assert name_of(router, event(1, type=f"cards.{number}")) == "*"
        assert len(router._found) <= 2
