"""What a batch does with each of its items: capture a debit, preauthorize, charge or send an amount."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from jetpay_async._batch.capture_history import CaptureHistory
from jetpay_async._core import link_operations, operations
from jetpay_async._core.arguments import key_of
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.models import Capture, Charge, Credit, Preauthorization
from jetpay_async.outcomes import (
    BatchOutcome,
    CaptureOutcome,
    ChargeOutcome,
    ChargeRequest,
    CreditOutcome,
    CreditRequest,
    CreditSent,
    PreauthorizationOutcome,
    PreauthorizationRequest,
    Unknown,
    captured,
    charged,
    preauthorized,
    undone,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from jetpay_async._core.contract import LinkAmounts
    from jetpay_async._core.execution import Execution, Options
    from jetpay_async._core.executor import CallExecutor
    from jetpay_async._core.operations import Call
    from jetpay_async._core.single_flight import SingleFlight
    from jetpay_async.errors import JetpayError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Outcome = TypeVar("_Outcome", bound=BatchOutcome)


class BatchOperation(ABC, Generic[_Item, _Result, _Outcome]):
    """What a `WorkerPool` does with each of its items."""

    name: ClassVar[str]

    @abstractmethod
    def prepare(self, item: _Item) -> Call[_Result]:
        """Make the call of an item.

        Raises:
            InvalidArgumentError: The item can't be sent.
        """

    @abstractmethod
    def execute(self, execution: Execution[_Result]) -> Coroutine[Any, Any, _Result]:
        """Execute the call of an item."""

    @abstractmethod
    def conclude(self, item: _Item, call: Call[_Result], result: _Result) -> _Outcome:
        """Make the outcome of an item from the result of its call."""

    @abstractmethod
    def failed(self, item: _Item, error: JetpayError) -> _Outcome:
        """Make the outcome of an item from the error that it ended with."""

    def known_outcome(self, item: _Item, call: Call[_Result]) -> _Outcome | None:  # noqa: ARG002 - for subclasses
        """Return the outcome of an item that needs no request, since an earlier item had the same call."""
        return None

    def may_be_done(self, call: Call[_Result]) -> bool:  # noqa: ARG002 - for subclasses
        """Return False if no earlier item had the same call."""
        return False


class CaptureOperation(BatchOperation[str, Capture, CaptureOutcome]):
    """Capture debits, each once, however many times it is given.

    Args:
        single_flight: The client's.
        executor: The client's.
        options: For each capture.
    """

    name = "capture"

    def __init__(self, single_flight: SingleFlight, executor: CallExecutor, options: Options) -> None:
        self._single_flight = single_flight
        self._history = CaptureHistory(options.retry.resolve_after_timeout, executor.now)
        self._trust_rate_limited = options.retry.resend_rate_limited

    def prepare(self, item: str) -> Call[Capture]:
        return operations.capture(item)

    def execute(self, execution: Execution[Capture]) -> Coroutine[Any, Any, Capture]:
        key = execution.call.key
        # Of one that was added lately, and has no capture, the client's `SingleFlight` knows the time.
        if self._history.older.may_contain(key):
            execution.mark_in_doubt(self._history.certain_from(key, execution.began))
        return self._single_flight.capture(execution)

    def conclude(self, item: str, call: Call[Capture], result: Capture) -> CaptureOutcome:
        self._history.add(call.key, result)
        return captured(item, result)

    def failed(self, item: str, error: JetpayError) -> CaptureOutcome:
        outcome = undone(error, debit_id=item, request=None, trust_rate_limited=self._trust_rate_limited)
        if isinstance(outcome, Unknown):
            self._history.add(key_of(error.debit_id or item), None)
        return outcome

    def known_outcome(self, item: str, call: Call[Capture]) -> CaptureOutcome | None:
        history, key = self._history, call.key
        if key not in history.latest and key not in history.earlier:
            return None
        capture = history.find(key)
        return None if capture is None else self.conclude(item, call, capture)

    def may_be_done(self, call: Call[Capture]) -> bool:
        return self._history.may_contain(call.key) or self._single_flight.is_in_flight(call.key)


class WriteOperation(BatchOperation[_Item, _Result, _Outcome]):
    """Send each item as many times as it is given.

    Args:
        executor: The client's.
        options: For each item.
    """

    request_type: ClassVar[type]

    def __init__(self, executor: CallExecutor, options: Options) -> None:
        self._executor = executor
        self._trust_rate_limited = options.retry.resend_rate_limited

    def prepare(self, item: _Item) -> Call[_Result]:
        if not isinstance(item, self.request_type):
            kind = self.request_type.__name__
            raise InvalidArgumentError(f"requests: an item is a {kind}, not {type(item).__name__}", field="requests")
        return self.make_call(item)

    @abstractmethod
    def make_call(self, item: _Item) -> Call[_Result]:
        """Make the call of an item of the right type.

        Raises:
            InvalidArgumentError: It can't be sent.
        """

    def execute(self, execution: Execution[_Result]) -> Coroutine[Any, Any, _Result]:
        return self._executor.execute(execution)

    def conclude(self, item: _Item, call: Call[_Result], result: _Result) -> _Outcome:  # noqa: ARG002 - for captures
        return self.succeeded(item, result)

    @abstractmethod
    def succeeded(self, item: _Item, result: _Result) -> _Outcome:
        """Make the outcome of an item from its result."""


class PreauthorizeOperation(WriteOperation[PreauthorizationRequest, Preauthorization, PreauthorizationOutcome]):
    """Reserve amounts."""

    name = "preauthorize"
    request_type = PreauthorizationRequest

    def make_call(self, item: PreauthorizationRequest) -> Call[Preauthorization]:
        return operations.preauthorize(
            contact_id=item.contact_id,
            credit_card_id=item.credit_card_id,
            amount=item.amount,
            to_bank_account_id=item.to_bank_account_id,
            statement=item.statement,
        )

    def succeeded(self, item: PreauthorizationRequest, result: Preauthorization) -> PreauthorizationOutcome:
        return preauthorized(item, result)

    def failed(self, item: PreauthorizationRequest, error: JetpayError) -> PreauthorizationOutcome:
        return undone(error, debit_id=error.debit_id or "", request=item, trust_rate_limited=self._trust_rate_limited)


class ChargeOperation(WriteOperation[ChargeRequest, Charge, ChargeOutcome]):
    """Take amounts at once."""

    name = "charge"
    request_type = ChargeRequest

    def make_call(self, item: ChargeRequest) -> Call[Charge]:
        return operations.charge(
            contact_id=item.contact_id,
            credit_card_id=item.credit_card_id,
            amount=item.amount,
            to_bank_account_id=item.to_bank_account_id,
            statement=item.statement,
        )

    def succeeded(self, item: ChargeRequest, result: Charge) -> ChargeOutcome:
        return charged(item, result)

    def failed(self, item: ChargeRequest, error: JetpayError) -> ChargeOutcome:
        return undone(error, debit_id=error.debit_id or "", request=item, trust_rate_limited=self._trust_rate_limited)


class SendCreditOperation(WriteOperation[CreditRequest, Credit, CreditOutcome]):
    """Send amounts to saved bank accounts.

    Args:
        executor: The client's.
        options: For each item.
        unit: In which the API takes the amounts: the client's ``link_amounts``.
    """

    name = "send_credit"
    request_type = CreditRequest

    def __init__(self, executor: CallExecutor, options: Options, unit: LinkAmounts) -> None:
        super().__init__(executor, options)
        self._unit: LinkAmounts = unit

    def make_call(self, item: CreditRequest) -> Call[Credit]:
        return link_operations.send_credit(
            amount=item.amount,
            from_bank_account_id=item.from_bank_account_id,
            to_bank_account_id=item.to_bank_account_id,
            contact_id=item.contact_id,
            statement=item.statement,
            note=item.note,
            unit=self._unit,
        )

    def succeeded(self, item: CreditRequest, result: Credit) -> CreditOutcome:
        return CreditSent(request=item, credit=result)

    def failed(self, item: CreditRequest, error: JetpayError) -> CreditOutcome:
        return undone(error, debit_id=error.debit_id or "", request=item, trust_rate_limited=self._trust_rate_limited)
