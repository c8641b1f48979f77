"""From a response's JSON to typed values: the one converter.

Strict where something is needed: an id is a string, a state is one, and nothing is coerced. What is not needed is taken
as it is, or left to ``raw``. The quick hooks say only *that* a document is wrong; where it is wrong is worked out after
a failure.

cattrs is imported by the first decoder that is used: to import it takes longer than everything else of the client but
aiohttp, and a capture that the API calls paid is read without it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from jetpay_async.models import JSONValue, TransactionState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cattrs import Converter

_T = TypeVar("_T")


@attrs.define(eq=False)
class PreauthorizeReply:
    """The response to a preauthorize [guide]: what is needed of it, and what is compared or kept if it is there."""

    debit_id: str
    transaction_state: TransactionState
    amount: Any = None
    statement: Any = None
    to_bank_account_id: Any = None
    contact_id: Any = None
    from_credit_card_id: Any = None


@attrs.define(eq=False)
class CaptureReply:
    """The response to a capture [guide]."""

    identifier: str
    state: TransactionState


@attrs.define(eq=False)
class StatusReply:
    """The response to a status read [docs]: what is needed of it, and what is kept if it is a string."""

    state: TransactionState
    fail_reason: Any = None
    fail_direction: Any = None


@attrs.define(eq=False)
class CancelReply:
    """The response to a cancellation [docs]."""

    ok: bool


def _string(value: object, _: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"expected a string, not {_json_type(value)}")


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
    """Say what a hook said; cattrs's own texts name the Python type that was expected, which is no term of JSON."""
    return "required field missing" if isinstance(error, KeyError) else str(error)


@lru_cache
def _converter(*, detailed: bool) -> Converter:
    from cattrs import Converter  # noqa: PLC0415 - see above

    converter = Converter(detailed_validation=detailed)
    converter.register_structure_hook(str, _string)
    converter.register_structure_hook(TransactionState, _state)
    converter.register_structure_hook(bool, _truth)
    return converter


class ResponseDecoder(Generic[_T]):
    """A response's shape: reads a document into its class, or says where it differs."""

    def __init__(self, cls: type[_T]) -> None:
        self._cls = cls
        self._structure: Callable[[Mapping[str, JSONValue], type[_T]], _T] | None = None

    def prepare(self) -> None:
        """Import and make all that reading takes.

        Call it before a request that is never sent again: what fails here has moved no money.
        """
        if self._structure is None:
            self._structure = _converter(detailed=False).get_structure_hook(self._cls)

    def read(self, document: Mapping[str, JSONValue]) -> _T:
        """Structure the document.

        Raises:
            ValueError: The document has another shape; the message has a JSON path for each difference. Or nothing
                could read it: a request whose response is unread is in doubt, and no other error says so.
        """
        try:
            self.prepare()
        except Exception as error:
            raise ValueError(f"the response can't be read: {type(error).__name__}: {error}") from error
        assert self._structure is not None  # noqa: S101 - it was just made
        try:
            return self._structure(document, self._cls)
        except Exception:  # noqa: BLE001 - whatever a hook raises, the document is at fault
            raise ValueError(self._differences(document)) from None

    def _differences(self, document: Mapping[str, JSONValue]) -> str:
        from cattrs import transform_error  # noqa: PLC0415 - see above

        try:
            _converter(detailed=True).structure(document, self._cls)
        except Exception as error:  # noqa: BLE001 - the same
            return "; ".join(transform_error(error, "$", _explain))
        raise AssertionError("the detailed converter took what the quick one refused")  # pragma: no cover - same hooks
