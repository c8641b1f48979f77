"""The states of a debit in the ledger and every change between them, as data.

The statements of `jetpay_async.ledger._sql` carry these changes out. A test tries each event in each state on both
backends: what is listed here happens, and anything else changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from jetpay_async.ledger.records import DebitState

if TYPE_CHECKING:
    from collections.abc import Mapping


class DebitEvent(StrEnum):
    """What can happen to a debit."""

    CLAIM = "claim"
    """An owner intends to send it, or to read its status first. Committed before anything leaves."""
    RECORD_IN_DOUBT = "record in doubt"
    """Its request was not answered: note from when on its status can prove that nothing was done."""
    TAKE_OVER = "take over"
    """Its owner is dead: another one resolves it."""
    RELEASE = "release"
    """Nothing was sent, or it is proven that nothing was done: it may be claimed again."""
    RECORD_CAPTURED = "record captured"
    RECORD_ACCEPTED = "record accepted"
    RECORD_REJECTED = "record rejected"
    RECORD_UNKNOWN = "record unknown"
    """Its status could not show what became of it."""
    FOLLOW_UP_CAPTURED = "follow up captured"
    """The status of an accepted debit says that the money was taken."""
    FOLLOW_UP_ACCEPTED = "follow up accepted"
    """The status of an accepted debit says that it is still being processed."""
    FOLLOW_UP_REJECTED = "follow up rejected"
    """The status of an accepted debit says that it failed or was cancelled."""
    RESOLVE_CAPTURED = "resolve captured"
    """The status of an unknown debit says that the money was taken."""
    RESOLVE_ACCEPTED = "resolve accepted"
    """The status of an unknown debit says that it is being processed."""
    RESOLVE_REJECTED = "resolve rejected"
    """The status of an unknown debit says that it failed or was cancelled."""
    RESOLVE_UNKNOWN = "resolve unknown"
    """The status of an unknown debit says something that decides nothing, but that ends resending."""
    RESUBMIT = "resubmit"
    """Its batch is submitted again."""
    RETRY_REJECTED = "retry rejected"
    """The rejected debits of its batch are to be tried again."""


_S = DebitState
_E = DebitEvent

TRANSITIONS: Mapping[tuple[DebitState, DebitEvent], DebitState] = MappingProxyType(
    {
        (_S.PENDING, _E.CLAIM): _S.SENDING,
        # Its owner, by the intent that the outcome belongs to.
        (_S.SENDING, _E.RECORD_IN_DOUBT): _S.SENDING,
        (_S.SENDING, _E.RELEASE): _S.PENDING,
        (_S.SENDING, _E.RECORD_CAPTURED): _S.CAPTURED,
        (_S.SENDING, _E.RECORD_ACCEPTED): _S.ACCEPTED,
        (_S.SENDING, _E.RECORD_REJECTED): _S.REJECTED,
        (_S.SENDING, _E.RECORD_UNKNOWN): _S.UNKNOWN,
        # Another owner, once that one is dead.
        (_S.SENDING, _E.TAKE_OVER): _S.SENDING,
        # Whoever reads its status.
        (_S.ACCEPTED, _E.FOLLOW_UP_CAPTURED): _S.CAPTURED,
        (_S.ACCEPTED, _E.FOLLOW_UP_ACCEPTED): _S.ACCEPTED,
        (_S.ACCEPTED, _E.FOLLOW_UP_REJECTED): _S.REJECTED,
        # The same. A status that says "preauthorized" changes nothing: the next run of the batch judges it.
        (_S.UNKNOWN, _E.RESOLVE_CAPTURED): _S.CAPTURED,
        (_S.UNKNOWN, _E.RESOLVE_ACCEPTED): _S.ACCEPTED,
        (_S.UNKNOWN, _E.RESOLVE_REJECTED): _S.REJECTED,
        (_S.UNKNOWN, _E.RESOLVE_UNKNOWN): _S.UNKNOWN,
        # Their status is read before anything is sent.
        (_S.UNKNOWN, _E.RESUBMIT): _S.PENDING,
        (_S.REJECTED, _E.RETRY_REJECTED): _S.PENDING,
    }
)
"""The state that follows a state and an event. What is not in it can't happen."""
