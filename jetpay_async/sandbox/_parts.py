"""The parts of one sandbox, for what watches and controls it from outside the API."""

from __future__ import annotations

import attrs

from jetpay_async.sandbox._api import Api
from jetpay_async.sandbox._deliveries import Deliveries
from jetpay_async.sandbox._faults import DeliveryFault, Fault, Faults
from jetpay_async.sandbox._journal import Journal
from jetpay_async.sandbox._keys import KeyRing
from jetpay_async.sandbox._movable_clock import MovableClock
from jetpay_async.sandbox._state import Account
from jetpay_async.sandbox._timers import Timers
from jetpay_async.sandbox._webhooks import Webhooks

__all__ = ["Parts"]


@attrs.frozen(kw_only=True)
class Parts:
    """The parts of one sandbox."""

    account: Account
    api: Api
    clock: MovableClock
    deliveries: Deliveries
    delivery_faults: Faults[DeliveryFault]
    faults: Faults[Fault]
    journal: Journal
    keys: KeyRing
    timers: Timers
    webhooks: Webhooks
