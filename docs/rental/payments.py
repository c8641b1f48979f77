"""What the shop does with money. A web route, a job and a test call the same functions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from jetpay_async import (
    PRODUCTION_URL,
    APIError,
    AuthenticationError,
    JetpayClient,
    OutcomeUnknownError,
    RateLimitedError,
    Rejected,
    RetryPolicy,
)
from jetpay_async.ledger import (
    Candidate,
    DurableCaptures,
    DurablePreauthorizations,
    Ledger,
    LedgerPayment,
    OrphanReport,
    PaymentDiscardedError,
    PaymentState,
)
from jetpay_async.webhooks import PostgresInbox
from rental.models import Base, Booking, BookingState

OPEN = (BookingState.REQUESTED, BookingState.UNKNOWN)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What differs between production and a test."""

    database_url: str
    api_token: str = field(repr=False)
    merchant_account_id: str
    webhook_ids: frozenset[int]
    base_url: str = PRODUCTION_URL
    timeout: float = 20.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    lease_seconds: float = 15.0

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read them from the environment."""
        return cls(
            database_url=env["DATABASE_URL"],
            api_token=env["JETPAY_API_TOKEN"],
            merchant_account_id=env["JETPAY_BANK_ACCOUNT_ID"],
            webhook_ids=frozenset(int(number) for number in env["JETPAY_WEBHOOK_IDS"].split(",")),
            base_url=env.get("JETPAY_BASE_URL", PRODUCTION_URL),
        )


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Everything that is open while a process of the shop runs."""

    settings: Settings
    sessions: async_sessionmaker[AsyncSession]
    client: JetpayClient
    reservations: DurablePreauthorizations
    captures: DurableCaptures
    ledger: Ledger

    async def booking(self, booking_id: str) -> Booking | None:
        """Return a booking as it is now."""
        async with self.sessions() as session:
            return await session.get(Booking, booking_id)

    async def reserve(self, booking_id: str) -> None:
        """Reserve the amount, once, however often and in however many processes this is called.

        Raises:
            NotSentError: Nothing was sent; the same call again is safe.
            AuthenticationError: The token was rejected. Correct it; the same call again is safe.
            RateLimitedError: Too many requests; the same call again is safe.
        """
        booking = await self.booking(booking_id)
        if booking is None:
            raise LookupError(booking_id)
        state, debit_id = BookingState.RESERVED, None
        try:
            reserved = await self.reservations.preauthorize(
                reference=booking.id,
                contact_id=booking.contact_id,
                credit_card_id=booking.credit_card_id,
                amount=booking.amount,
                to_bank_account_id=self.settings.merchant_account_id,
                statement="Rental",
            )
            debit_id = reserved.debit_id
        except OutcomeUnknownError:
            state = BookingState.UNKNOWN
        except (AuthenticationError, RateLimitedError):
            raise  # it concerns the shop, not the customer: the booking stays open
        except (APIError, PaymentDiscardedError):
            state = BookingState.DECLINED  # a sure no, of Jetpay or of the staff
        # Only a booking that is open: an answer that comes late changes nothing that is further on.
        change = update(Booking).where(Booking.id == booking_id, Booking.state.in_(OPEN))
        async with self.sessions.begin() as session:
            await session.execute(change.values(state=state.value, debit_id=debit_id))

    async def make_booking(self, booking: Booking) -> None:
        """Commit the booking, then reserve its amount."""
        values = {
            "id": booking.id,
            "contact_id": booking.contact_id,
            "credit_card_id": booking.credit_card_id,
            "amount": booking.amount,
        }
        async with self.sessions.begin() as session:
            await session.execute(insert(Booking).values(values).on_conflict_do_nothing())
        await self.reserve(booking.id)

    async def take_back(self, booking_id: str) -> None:
        """Capture what was reserved, now that the thing is back. Ask again after a crash: it is captured once."""
        change = (
            update(Booking)
            .where(Booking.id == booking_id, Booking.state.in_((BookingState.RESERVED, BookingState.RETURNED)))
            .values(state=BookingState.RETURNED.value)
            .returning(Booking.debit_id)
        )
        async with self.sessions.begin() as session:
            debit_id = await session.scalar(change)
        if debit_id is None:
            return  # not reserved, or paid already
        batch = await self.captures.submit(f"return of {booking_id}", [debit_id])
        async for outcome in batch.outcomes():
            if isinstance(outcome, Rejected):
                failed = update(Booking).where(Booking.id == booking_id, Booking.state == BookingState.RETURNED)
                async with self.sessions.begin() as session:
                    await session.execute(failed.values(state=BookingState.FAILED.value))
            # Captured, Accepted, Unknown: the booking stays returned until the event says paid or failed.

    async def open_bookings(self) -> list[tuple[LedgerPayment, list[Candidate]]]:
        """Return the reservations that nobody knows the outcome of, with the debits that they may have made."""
        async with self.sessions() as session:
            ids = (await session.scalars(select(Booking.id).where(Booking.state.in_(OPEN)).order_by(Booking.id))).all()
        known = {payment.reference async for payment in self.ledger.payments()}
        shown = []
        for booking_id in known.intersection(ids):
            candidates = await self.ledger.candidates(booking_id)  # what a dead process was sending is unknown now
            payment = await self.ledger.payment(booking_id)
            if payment.state is PaymentState.UNKNOWN:
                shown.append((payment, candidates))
        return shown

    async def adopt(self, booking_id: str, debit_id: str) -> None:
        """Record the staff's decision that this debit is the booking's, and go on with it."""
        await self.ledger.adopt(booking_id, debit_id)
        await self.reserve(booking_id)  # the ledger knows: it sends nothing

    async def discard(self, booking_id: str) -> None:
        """Record the staff's decision that nothing was reserved: none of the candidates was this booking's."""
        await self.ledger.discard(booking_id)
        async with self.sessions.begin() as session:
            change = update(Booking).where(Booking.id == booking_id, Booking.state.in_(OPEN))
            await session.execute(change.values(state=BookingState.DECLINED.value))

    async def release_orphans(self, *, older_than: float) -> list[OrphanReport]:
        """Cancel reservations that no booking holds, and that no open booking may still turn out to have made."""
        undecided = {each.transaction_id for _, candidates in await self.open_bookings() for each in candidates}

        async def keep(candidate: Candidate) -> bool:
            held = select(Booking.id).where(Booking.debit_id == candidate.transaction_id)
            async with self.sessions() as session:
                return candidate.transaction_id in undecided or await session.scalar(held) is not None

        return await self.client.release_orphans(self.settings.database_url, older_than=older_than, keep=keep)

    async def finish_returns(self) -> None:
        """Go on with the returns whose process has died. Run it at the start, and every few minutes."""
        returned = select(Booking.id).where(Booking.state == BookingState.RETURNED)
        async with self.sessions() as session:
            ids = (await session.scalars(returned)).all()
        async with asyncio.TaskGroup() as group:
            for booking_id in ids:
                group.create_task(self.take_back(booking_id))


def sqlalchemy_url(url: str) -> str:
    """Name the driver, which SQLAlchemy wants to know and jetpay-async chooses itself."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


async def create_tables(database_url: str) -> None:
    """Make the three sets of tables, once, at deployment. A migration tool would."""
    engine = create_async_engine(sqlalchemy_url(database_url))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()
    async with PostgresInbox(database_url) as inbox:
        await inbox.create_tables()
    async with Ledger(database_url):
        pass


@asynccontextmanager
async def open_shop(settings: Settings) -> AsyncIterator[Shop]:
    """Open everything, once for each process, in the event loop that uses it."""
    url = settings.database_url
    engine = create_async_engine(sqlalchemy_url(url))
    client = JetpayClient(
        settings.api_token, base_url=settings.base_url, timeout=settings.timeout, retry=settings.retry
    )
    try:
        async with (
            client,
            client.durable_preauthorizations(url, lease_seconds=settings.lease_seconds) as reservations,
            client.durable_captures(url, lease_seconds=settings.lease_seconds) as captures,
            Ledger(url, webhook_ids=settings.webhook_ids) as ledger,
        ):
            yield Shop(
                settings=settings,
                sessions=async_sessionmaker(engine),
                client=client,
                reservations=reservations,
                captures=captures,
                ledger=ledger,
            )
    finally:
        await engine.dispose()
