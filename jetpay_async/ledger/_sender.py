"""Sends captures: workers that take claimed debits, within the limits of the batch's admission control."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async._batch.admission import Slot
from jetpay_async._core import operations
from jetpay_async.errors import JetpayError, NotSentError, ServiceError
from jetpay_async.ledger import _rows
from jetpay_async.ledger._context import run_wide_error
from jetpay_async.ledger._intents import OutcomeRecord, UnresolvedDebit
from jetpay_async.ledger._resolver import MAX_ATTEMPTS, Origin
from jetpay_async.ledger.records import DebitState
from jetpay_async.outcomes import Accepted, Captured, NotSent, Rejected, Unknown, captured, undone

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async._batch.admission import AdmissionControl
    from jetpay_async._core.execution import Execution
    from jetpay_async.ledger._account_check import AccountCheck
    from jetpay_async.ledger._claimer import ClaimedDebit, Claimer
    from jetpay_async.ledger._context import ClientContext
    from jetpay_async.ledger._intents import Claim
    from jetpay_async.ledger._lease import OwnerLease
    from jetpay_async.ledger._recorder import Recorder
    from jetpay_async.ledger._resolver import Resolver
    from jetpay_async.models import Capture
    from jetpay_async.outcomes import CaptureOutcome


_WITH_CAPTURE = (Captured, Accepted)


class Sender:
    """Carries claimed debits to the API, and decides what is recorded of each.

    Nothing is sent but within a fixed time after its intent was committed (a share of the client's timeout until it
    begins, the whole of it from then on). So a later run knows from the intent when no request for it can still be on
    its way.

    Args:
        context: The client's.
        lease: The owner.
        admission: How many may be in flight.
        claimer: Where debits come from, and go back to.
        resolver: Takes what may have been captured.
        recorder: Takes the outcomes.
        account_check: Whether the account is the right one.
        stop: Called with an error that concerns the whole run.
    """

    def __init__(
        self,
        context: ClientContext,
        lease: OwnerLease,
        admission: AdmissionControl,
        *,
        claimer: Claimer,
        resolver: Resolver,
        recorder: Recorder,
        account_check: AccountCheck[Claim],
        stop: Callable[[Exception], None],
    ) -> None:
        self._context = context
        self._lease = lease
        self._admission = admission
        self._claimer = claimer
        self._resolver = resolver
        self._recorder = recorder
        self._account_check = account_check
        self._stop_run = stop
        self._send_within = context.send_within
        self._busy = 0
        self._stopping = False

    @property
    def idle(self) -> bool:
        """Whether no worker has a debit."""
        return not self._busy

    def stop(self) -> None:
        """Send nothing more; what is in flight finishes."""
        self._stopping = True
        self._admission.disable(NotSentError("capturing was stopped before this debit was sent"))
        self._give_back_held()

    def record_held(self) -> None:
        """Record the rejections that were held back: there will be no other answer to compare them with."""
        for claim, outcome in self._account_check.release():
            self._recorder.add(_rows.write(claim, outcome, earlier=claim.attempts - 1))

    async def work(self) -> None:
        """Send one debit after the other, until it is stopped."""
        slot = Slot(self._admission)
        ready = self._claimer.ready
        # As a rule it may start at once: no need for another coroutine.
        while (refusal := None if slot.enter_at_once() else await slot.enter()) is None:
            outcome: CaptureOutcome | None = None
            try:
                # As a rule there is one.
                if (claimed := await ready.get() if ready.empty() else ready.get_nowait()) is None:
                    return
                self._busy += 1
                try:
                    self._claimer.on_taken()
                    outcome = await self._send(slot, claimed)
                finally:
                    self._busy -= 1
            finally:
                slot.leave(outcome)
        self._stop_run(refusal)

    async def _send(self, slot: Slot, claimed: ClaimedDebit) -> CaptureOutcome | None:
        context = self._context
        if self._stopping or context.clock.monotonic() - claimed.start > self._send_within:
            self._claimer.give_back(claimed.claim)
            return None
        debit_id = claimed.claim.debit_id
        execution = context.executor.begin(
            operations.capture(debit_id),
            context.options,
            on_failure=slot.on_failure,
            pre_send_check=self._lease.pre_send_check,
        )
        # Paused between the check above and here, it would begin late: its write goes by the intent, too.
        execution.deadline = min(execution.deadline, claimed.start + self._send_within + context.options.timeout)
        outcome: CaptureOutcome
        try:
            outcome = captured(debit_id, await context.single_flight.capture(execution))
        except JetpayError as error:
            trusted = context.options.retry.resend_rate_limited
            outcome = undone(error, debit_id=debit_id, request=None, trust_rate_limited=trusted)
        self._record(claimed, execution, outcome)
        return outcome

    def _record(self, claimed: ClaimedDebit, execution: Execution[Capture], outcome: CaptureOutcome) -> None:
        """Decide what the ledger records of an outcome."""
        claim = claimed.claim
        if self._account_check.holds_back(claim, outcome):
            if (wrong := self._account_check.error) is not None:
                self._stop_run(wrong)
            if self._stopping:
                self._give_back_held()
            return
        if self._account_check.releases:
            self.record_held()
        if isinstance(outcome, _WITH_CAPTURE):
            self._recorder.add(_rows.write(claim, outcome, earlier=claim.attempts - 1))
        else:
            self._record_undone(claimed, execution, outcome)

    def _record_undone(
        self,
        claimed: ClaimedDebit,
        execution: Execution[Capture],
        outcome: Rejected[None] | NotSent[None] | Unknown[None],
    ) -> None:
        claim = claimed.claim
        earlier = claim.attempts - 1
        run_wide = run_wide_error(outcome.error)
        if run_wide is not None:
            self._stop_run(run_wide)
        if isinstance(outcome, Unknown) and (run_wide is None or outcome.attempts > 0):
            self._leave_in_doubt(claimed, execution, earlier + outcome.attempts)
        elif run_wide is not None:
            self._claimer.give_back(claim, outcome.attempts)
        elif isinstance(outcome, Rejected):
            self._recorder.add(_rows.write(claim, outcome, earlier=earlier))
        elif isinstance(outcome.error, ServiceError) and earlier + outcome.attempts >= MAX_ATTEMPTS:
            rejected = Rejected(debit_id=outcome.debit_id, request=None, error=outcome.error)
            self._recorder.add(_rows.write(claim, rejected, earlier=earlier))
        else:
            # What never began to leave is no request that may have been made.
            self._claimer.give_back(claim, 0 if isinstance(outcome.error, NotSentError) else outcome.attempts)

    def _leave_in_doubt(self, claimed: ClaimedDebit, execution: Execution[Capture], attempts: int) -> None:
        """Have it resolved, as soon as no request for it can still be on its way, by this run or a later one."""
        claim = claimed.claim
        # By what happened to the request, if the client knows; otherwise the longest time, as the intent has it.
        intended = claimed.start + self._context.certain_after
        certain_from = execution.certain_from if execution.in_doubt else intended
        seen = _rows.text(execution.seen_state)
        record = OutcomeRecord(
            claim.id, claim.debit_id, claim.intent, DebitState.SENDING, attempts, resolve_first=True, seen_state=seen
        )
        self._recorder.add(record, certain_from=certain_from)
        debit = UnresolvedDebit(claim.id, claim.debit_id, claim.intent, attempts, 0.0, seen)
        self._resolver.add(debit, certain_from, Origin.OWN_REQUEST)

    def _give_back_held(self) -> None:
        for claim, outcome in self._account_check.release():
            self._claimer.give_back(claim, outcome.attempts)
