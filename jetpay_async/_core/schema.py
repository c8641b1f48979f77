"""From a reply's JSON to typed values: the one converter.

Strict on purpose: an id is a string, an amount is a JSON number, and nothing is coerced. Unknown fields are left to
``raw``. The quick hooks say only *that* a document is wrong; where it is wrong is worked out after a failure.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs
from cattrs import Converter, transform_error

from jetpay_async.models import JSONValue, TransactionState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_T = TypeVar("_T")


@attrs.define
class PreauthorizeReply:
    """The reply to a preauthorize [guide]."""

    debit_id: str
    amount: Decimal
    statement: str
    to_bank_account_id: str
    contact_id: str
    from_credit_card_id: str
    transaction_state: TransactionState


@attrs.define
class CaptureReply:
    """The reply to a capture [guide]."""

    identifier: str
    state: TransactionState


@attrs.define
class StatusReply:
    """The reply to a status read [docs]."""

    state: TransactionState
    fail_reason: str | None = None
    fail_direction: str | None = None


@attrs.define
class CancelReply:
    """The reply to a cancellation [docs]."""

    ok: bool


def _string(value: object, _: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"expected a string, not {_json_type(value)}")


def _optional_string(value: object, _: object) -> str | None:
    return None if value is None else _string(value, _)


def _amount(value: object, _: object) -> Decimal:
    if isinstance(value, Decimal | int) and not isinstance(value, bool):
        return Decimal(value)
    raise TypeError(f"expected a number, not {_json_type(value)}")


_STATES: dict[str, TransactionState] = {state.value: state for state in TransactionState}


def _state(value: object, _: object) -> TransactionState:
    if isinstance(value, str) and value:
        return _STATES.get(value) or TransactionState(value)
    raise TypeError(f"expected a state, not {'an empty string' if value == '' else _json_type(value)}")


def _truth(value: object, _: object) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError(f"expected true or false, not {_json_type(value)}")


def _json_type(value: object) -> str:
    names: dict[type, str] = {
        type(None): "null",
        bool: "a boolean",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "a number")


def _explain(error: BaseException, _: object) -> str:
    """Say what a hook said; cattrs's own texts tell the Python type that was expected, which is no word of JSON."""
    return "required field missing" if isinstance(error, KeyError) else str(error)


def _converter(*, detailed: bool) -> Converter:
    converter = Converter(detailed_validation=detailed)
    converter.register_structure_hook(str, _string)
    converter.register_structure_hook(str | None, _optional_string)
    converter.register_structure_hook(Decimal, _amount)
    converter.register_structure_hook(TransactionState, _state)
    converter.register_structure_hook(bool, _truth)
    return converter


_quick = _converter(detailed=False)
_detailed = _converter(detailed=True)


class ResponseDecoder(Generic[_T]):
    """A reply's shape: reads a document into its class, or says where it differs."""

    def __init__(self, cls: type[_T]) -> None:
        self._cls = cls
        self._read: Callable[[Mapping[str, JSONValue], type[_T]], _T] = _quick.get_structure_hook(cls)

    def read(self, document: Mapping[str, JSONValue]) -> _T:
        """Structure the document.

        Raises:
            ValueError: The document has another shape; the message has a JSON path for each difference.
        """
        try:
            return self._read(document, self._cls)
        except Exception:  # noqa: BLE001 - whatever a hook raises, the document is at fault
            raise ValueError(self._differences(document)) from None

    def _differences(self, document: Mapping[str, JSONValue]) -> str:
        try:
            _detailed.structure(document, self._cls)
        except Exception as error:  # noqa: BLE001 - the same
            return "; ".join(transform_error(error, "$", _explain))
        raise AssertionError("the detailed converter took what the quick one refused")  # pragma: no cover - same hooks
