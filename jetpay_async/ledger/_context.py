"""What the parts of the pipeline share: the client's means, and the times that follow from its options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from jetpay_async._core.clock import Clock
from jetpay_async._core.execution import Options
from jetpay_async._core.executor import CallExecutor
from jetpay_async._core.single_flight import SingleFlight
from jetpay_async.errors import AuthenticationError, ConfigurationError
from jetpay_async.ledger._backend import MakeCommitExecutor
from jetpay_async.ledger._group_commit import GroupCommitExecutor

if TYPE_CHECKING:
    from jetpay_async.errors import JetpayError

# The share of the timeout that may pass between an intent and its request.
SEND_SHARE = 0.1


@attrs.frozen
class ClientContext:
    """What captures are made with."""

    single_flight: SingleFlight
    executor: CallExecutor
    options: Options
    clock: Clock
    origin: str
    """Of the API, as `jetpay_async._core.endpoints.origin` gives it."""
    commit_executor: MakeCommitExecutor = GroupCommitExecutor
    """What carries operations on the ledger out."""

    @property
    def send_within(self) -> float:
        """Seconds from an intent, or from its slot in the rate, until its request must have begun."""
        return self.options.timeout * SEND_SHARE

    @property
    def certain_after(self) -> float:
        """Seconds from an intent until no request for it can still be on its way, whatever happens to this process."""
        return self.send_within + self.options.timeout + self.options.retry.resolve_after_timeout


@attrs.frozen
class Moment:
    """One moment on two clocks."""

    on_ledger: float
    monotonic: float


def run_wide_error(error: JetpayError) -> JetpayError | None:
    """Return the error if it concerns the whole run (rejected token, bad configuration) rather than this debit."""
    for found in (error, error.__cause__):
        if isinstance(found, AuthenticationError | ConfigurationError):
            return found
    return None
