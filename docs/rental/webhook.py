"""The webhook: the booking's row, the ledger and the inbox's mark change in one transaction, or not at all."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from jetpay_async.webhooks import DebitFailed, DebitPaid, EventRouter, PostgresInbox, TransactionEvent
from rental.models import Booking, BookingState
from rental.payments import Shop


def make_router(shop: Callable[[], Shop], inbox: PostgresInbox) -> EventRouter:
    """Return the handlers of events; they write to the shop that is open."""
    router = EventRouter()

    @router.on(TransactionEvent)
    async def note(event: TransactionEvent) -> None:
        async with shop().sessions.begin() as session:  # commits at its end, or rolls back if anything raises
            await shop().ledger.apply(event, connection=session)
            found = select(Booking).where(Booking.debit_id == event.transaction_id).with_for_update()
            booking = await session.scalar(found)
            if booking is not None and isinstance(event, DebitPaid):
                booking.payments += 1
                if booking.state != BookingState.FAILED:  # failed is the end: an event that comes late changes nothing
                    booking.state = BookingState.PAID
            elif booking is not None and isinstance(event, DebitFailed):
                booking.state = BookingState.FAILED
            await inbox.mark_handled(session, event)

    return router
