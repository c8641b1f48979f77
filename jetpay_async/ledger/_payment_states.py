"""The states of a durable payment in the ledger and every change between them, as data.

A payment is a preauthorization, a charge or a credit: what can't be looked up at the API by the caller's reference, so
that it is never sent again once a request for it may have left. The statements of `jetpay_async.ledger._payment_sql`
carry these changes out. A test tries each event in each state on both backends: what is listed here happens, and
anything else changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from jetpay_async.ledger.payment_records import PaymentState

if TYPE_CHECKING:
    from collections.abc import Mapping


class PaymentEvent(StrEnum):
    """What can happen to a payment that the ledger holds."""

    CLAIM = "claim"
    """It is asked for again, and nothing was sent for it: an owner intends to send it."""
    RETRY = "retry"
    """It is asked for again, although the API rejected it or a person discarded it, and the caller says so."""
    ASK_RESTORED = "ask restored"
    """It is asked for, and would be sent, in a ledger that may have forgotten that it was."""
    OPEN_RESTORED = "open restored"
    """A ledger is opened, or a batch submitted to it, that may have forgotten what was sent."""
    RELEASE = "release"
    """Nothing was sent: it may be claimed again."""
    RECORD_SUCCEEDED = "record succeeded"
    RECORD_ACCEPTED = "record accepted"
    RECORD_REJECTED = "record rejected"
    RECORD_UNKNOWN = "record unknown"
    """A request began to leave, and no usable answer came."""
    EXPIRE = "expire"
    """Its owner is dead, and nobody knows what it sent."""
    REPORT_DONE = "report done"
    """An event says that the transaction that its response named is done."""
    REPORT_IN_PROGRESS = "report in progress"
    REPORT_OVER = "report over"
    """An event says that the transaction that its response named is failed or cancelled."""
    ADOPT = "adopt"
    """Somebody says which transaction is its own."""
    DISCARD = "discard"
    """Somebody says that no transaction is its own."""


_S = PaymentState
_E = PaymentEvent

TRANSITIONS: Mapping[tuple[PaymentState, PaymentEvent], PaymentState] = MappingProxyType(
    {
        (_S.PENDING, _E.CLAIM): _S.SENDING,
        (_S.REJECTED, _E.RETRY): _S.SENDING,
        (_S.DISCARDED, _E.RETRY): _S.SENDING,
        (_S.PENDING, _E.ASK_RESTORED): _S.UNKNOWN,
        (_S.PENDING, _E.OPEN_RESTORED): _S.UNKNOWN,
        (_S.REJECTED, _E.ASK_RESTORED): _S.UNKNOWN,
        (_S.DISCARDED, _E.ASK_RESTORED): _S.UNKNOWN,
        # By the intent that the answer belongs to. One that was taken for dead may still get its answer.
        (_S.SENDING, _E.RELEASE): _S.PENDING,
        (_S.SENDING, _E.RECORD_SUCCEEDED): _S.SUCCEEDED,
        (_S.SENDING, _E.RECORD_ACCEPTED): _S.ACCEPTED,
        (_S.SENDING, _E.RECORD_REJECTED): _S.REJECTED,
        (_S.SENDING, _E.RECORD_UNKNOWN): _S.UNKNOWN,
        (_S.UNKNOWN, _E.RELEASE): _S.PENDING,
        (_S.UNKNOWN, _E.RECORD_SUCCEEDED): _S.SUCCEEDED,
        (_S.UNKNOWN, _E.RECORD_ACCEPTED): _S.ACCEPTED,
        (_S.UNKNOWN, _E.RECORD_REJECTED): _S.REJECTED,
        (_S.UNKNOWN, _E.RECORD_UNKNOWN): _S.UNKNOWN,
        # Whoever finds it.
        (_S.SENDING, _E.EXPIRE): _S.UNKNOWN,
        # An event, only forwards. What has succeeded keeps its state: it is never sent again, whatever comes later.
        (_S.ACCEPTED, _E.REPORT_DONE): _S.SUCCEEDED,
        (_S.ACCEPTED, _E.REPORT_IN_PROGRESS): _S.ACCEPTED,
        (_S.ACCEPTED, _E.REPORT_OVER): _S.REJECTED,
        (_S.UNKNOWN, _E.REPORT_DONE): _S.SUCCEEDED,
        (_S.UNKNOWN, _E.REPORT_IN_PROGRESS): _S.ACCEPTED,
        (_S.UNKNOWN, _E.REPORT_OVER): _S.REJECTED,
        (_S.SUCCEEDED, _E.REPORT_DONE): _S.SUCCEEDED,
        (_S.SUCCEEDED, _E.REPORT_OVER): _S.SUCCEEDED,
        # A person, or the application.
        (_S.UNKNOWN, _E.ADOPT): _S.SUCCEEDED,
        (_S.UNKNOWN, _E.DISCARD): _S.DISCARDED,
    }
)
"""The state that follows a state and an event. What is not in it can't happen."""
