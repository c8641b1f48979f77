"""The shop's own table. The ledger's and the inbox's tables lie beside it, in the same database."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

from sqlalchemy import Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class BookingState(StrEnum):
    """Where a booking stands."""

    REQUESTED = "requested"
    """The row is committed; the reservation is being asked for, or the process that asked has died."""
    UNKNOWN = "unknown"
    """Nobody knows whether the amount is reserved: the staff decides, or an event."""
    DECLINED = "declined"
    RESERVED = "reserved"
    RETURNED = "returned"
    """The thing is back, and the capture is asked for; ``paid`` comes as an event."""
    PAID = "paid"
    FAILED = "failed"


class Base(DeclarativeBase):
    """Every table of the shop."""


class Booking(Base):
    """One rental, by the reference that its reservation has in the ledger, too."""

    __tablename__ = "booking"

    id: Mapped[str] = mapped_column(primary_key=True)
    contact_id: Mapped[str]
    credit_card_id: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    state: Mapped[str] = mapped_column(default=BookingState.REQUESTED.value)
    debit_id: Mapped[str | None] = mapped_column(unique=True, default=None)
    payments: Mapped[int] = mapped_column(default=0)
    """How often its webhook handler ran for ``paid``, and committed. It must never be 2."""
