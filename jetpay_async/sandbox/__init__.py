"""The Jetpay API in miniature."""

from jetpay_async.sandbox._api import Scope
from jetpay_async.sandbox._cards import APPROVED, CARDS, CardBehaviour
from jetpay_async.sandbox._faults import Fault, FaultKind, Faults
from jetpay_async.sandbox._server import Payer, Sandbox
from jetpay_async.sandbox._state import Event, Transaction

__all__ = [
    "APPROVED",
    "CARDS",
    "CardBehaviour",
    "Event",
    "Fault",
    "FaultKind",
    "Faults",
    "Payer",
    "Sandbox",
    "Scope",
    "Transaction",
]
