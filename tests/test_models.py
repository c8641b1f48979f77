"""Values: what they compare, show and survive."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, cast

import attrs
import cattrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetpay_async import (
    BankAccount,
    Capture,
    CardForm,
    Charge,
    Contact,
    Credit,
    FieldError,
    JSONValue,
    Payer,
    PaymentLink,
    Preauthorization,
    RawAnswer,
    TransactionState,
    TransactionStatus,
    Webhook,
    models,
)

KNOWN = ["requested", "initiated", "preauthorized", "processing", "paid", "completed", "failed", "cancelled"]

# Names of members and of attributes among them: a state is looked up by what it is, never by a name.
UNKNOWN = ["clearing", "Paid", "PAID", " paid", "name", "known", "__class__", "_value_", "café", "a b", "1", ""]

every_state = pytest.mark.parametrize("text", [*KNOWN, *UNKNOWN])


@pytest.mark.parametrize("text", KNOWN)
def test_a_named_state_is_its_member(text: str) -> None:
    """The states that the vendor names are members, the same object each time."""
    state = TransactionState(text)

    assert state is getattr(TransactionState, text.upper())
    assert state.known
    assert repr(state) == f"<TransactionState.{text.upper()}>"


@pytest.mark.parametrize("text", UNKNOWN)
def test_any_other_state_is_a_value_too(text: str) -> None:
    """A state that this release does not know is carried through, and says that it is not known."""
    state = TransactionState(text)

    assert type(state) is TransactionState
    assert not state.known
    assert repr(state) == f"TransactionState({text!r})"
    assert state.value == state.name == text


def test_reading_unknown_states_adds_no_member() -> None:
    """The enumeration lists the named states only, whatever was read before."""
    TransactionState("clearing")

    assert [state.value for state in TransactionState] == KNOWN
    assert len(TransactionState) == len(KNOWN)
    assert "CLEARING" not in TransactionState.__members__


@every_state
def test_a_state_compares_and_hashes_like_its_string(text: str) -> None:
    """A state finds its string in a set and a dict, and the other way round."""
    state = TransactionState(text)

    assert state == text
    assert text == state
    assert hash(state) == hash(text)
    assert {text, state} == {text}
    assert {state: 1}.keys() == {text}
    assert state == TransactionState(text)


def test_different_states_are_not_equal() -> None:
    """No two of the states are equal or share a hash bucket by accident of spelling."""
    assert len({TransactionState(text) for text in [*KNOWN, *UNKNOWN]}) == len(KNOWN) + len(UNKNOWN)


@every_state
def test_a_state_prints_as_its_string(text: str) -> None:
    """Logs, URLs and formats show the state, not the class."""
    state = TransactionState(text)

    assert str(state) == f"{state}" == "%s" % state == text  # noqa: UP031 - old formats are a way to print
    assert type(str(state)) is str
    assert f"{state:>20}" == text.rjust(20)
    assert json.dumps({"state": state}) == json.dumps({"state": text})


COPIES: list[tuple[str, Callable[[Any], Any]]] = [
    *((f"pickle {protocol}", lambda value, p=protocol: pickle.loads(pickle.dumps(value, p))) for protocol in range(6)),
    ("copy", copy.copy),
    ("deepcopy", copy.deepcopy),
]
every_copy = pytest.mark.parametrize("duplicate", [row[1] for row in COPIES], ids=[row[0] for row in COPIES])


@every_state
@every_copy
def test_a_state_survives_copying(text: str, duplicate: Callable[[TransactionState], TransactionState]) -> None:
    """A copied or unpickled state is the same state, of the same class, known or not."""
    state = TransactionState(text)

    again = duplicate(state)

    assert type(again) is TransactionState
    assert again == state
    assert (again.value, again.name, again.known) == (state.value, state.name, state.known)


@given(st.text())
def test_any_text_is_a_state_and_comes_back(text: str) -> None:
    """Whatever the service calls a state, it can be read, written as JSON, pickled and read again."""
    state = TransactionState(text)

    assert TransactionState(json.loads(json.dumps(state))) == state
    assert TransactionState(state) == pickle.loads(pickle.dumps(state)) == text
    assert state.known == (text in KNOWN)


@pytest.mark.parametrize("value", [None, 1, True, b"paid", ["paid"], 1.5], ids=repr)
def test_what_is_no_text_is_no_state(value: Any) -> None:
    """Only a string is a state."""
    with pytest.raises(ValueError, match="is not a valid TransactionState"):
        TransactionState(value)


def test_states_match() -> None:
    """A match statement tells states apart, the unknown ones too."""

    def answer(state: TransactionState) -> str:
        match state:
            case TransactionState.PAID | TransactionState.COMPLETED:
                return "done"
            case other if not other.known:
                return "unknown"
            case _:
                return "wait"

    states = ["paid", "completed", "clearing", "PAID", "failed"]
    assert [answer(TransactionState(text)) for text in states] == ["done", "done", "unknown", "unknown", "wait"]


RAW: Mapping[str, JSONValue] = {"secret": "raw-must-not-show", "more": [Decimal("1.5"), None, {"deep": True}]}
VALUES = [
    Preauthorization(
        debit_id="debit_123",
        amount=Decimal("100.50"),
        statement="Test statement",
        to_bank_account_id="bank_789",
        contact_id="contact_123",
        from_credit_card_id="cc_456",
        state=TransactionState.PREAUTHORIZED,
        raw=RAW,
    ),
    Capture(debit_id="debit_123", state=TransactionState("clearing"), raw=RAW),
    TransactionStatus(
        transaction_id="debit_123",
        state=TransactionState.FAILED,
        fail_reason="account_frozen",
        fail_direction="pull",
        raw=RAW,
    ),
    Charge(
        debit_id="debit_123",
        amount=Decimal("100.50"),
        statement="Test statement",
        to_bank_account_id="bank_789",
        contact_id="contact_123",
        from_credit_card_id="cc_456",
        state=TransactionState.PAID,
        raw=RAW,
    ),
    Contact(contact_id="contact_123", email="a@example.com", name="A", tags=("vip",), raw=RAW),
    CardForm(contact_id="contact_123", credit_card_id="cc_456", url="https://hidden.example.com", raw=RAW),
    BankAccount(bank_account_id="bank_789", contact_id="contact_123", title="Savings", raw=RAW),
    PaymentLink(
        transaction_id="debit_123",
        link="https://hidden.example.com",
        amount=Decimal("100.50"),
        statement="Test statement",
        raw=RAW,
    ),
    Credit(
        transaction_id="credit_123",
        amount=Decimal("100.50"),
        statement="Refund",
        from_bank_account_id="bank_789",
        to_bank_account_id="bank_790",
        contact_id="contact_123",
        raw=RAW,
    ),
    Webhook(
        identifier="webhook_123",
        id=123,
        callback_url="https://shop.example.com/webhooks",
        callback_api_key="https://hidden.example.com",
        raw=RAW,
    ),
]
Value = (
    Preauthorization
    | Capture
    | TransactionStatus
    | Charge
    | Contact
    | CardForm
    | BankAccount
    | PaymentLink
    | Credit
    | Webhook
)
HIDDEN = {"raw", "url", "link", "callback_api_key"}
every_value = pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)


@every_value
def test_a_value_is_frozen(value: Value) -> None:
    """No attribute of a result can be set, and none can be added."""
    for name in [*(field.name for field in attrs.fields(type(value))), "new"]:
        with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
            setattr(value, name, None)


@every_value
def test_a_value_is_made_by_keyword(value: Value) -> None:
    """Ids that are all strings can't be mixed up by position."""
    with pytest.raises(TypeError, match="positional"):
        cast("Any", type(value))("debit_123")


@every_value
def test_values_are_equal_when_the_api_said_the_same(value: Value) -> None:
    """The raw reply, the attempts and the time it took make no difference; anything else does."""
    same = attrs.evolve(value, raw={}, attempts=7, elapsed=1.5)

    assert same == value
    assert hash(same) == hash(value)
    for field in attrs.fields(type(value)):
        if field.name not in {"raw", "attempts", "elapsed"}:
            change: dict[str, Any] = {field.name: "another"}
            assert attrs.evolve(value, **change) != value


@every_value
def test_the_raw_reply_is_not_shown(value: Value) -> None:
    """The representation has every attribute but the raw reply, and what whoever reads it could use."""
    shown = repr(value)

    assert "raw" not in shown
    assert "hidden" not in shown
    for field in attrs.fields(type(value)):
        assert field.name in HIDDEN or f"{field.name}={getattr(value, field.name)!r}" in shown


@every_value
@every_copy
def test_a_value_survives_copying(value: Value, duplicate: Callable[[Value], Value]) -> None:
    """A copied or unpickled value has every attribute, the raw reply included."""
    again = duplicate(value)

    assert type(again) is type(value)
    assert attrs.asdict(again, recurse=False) == attrs.asdict(value, recurse=False)


@pytest.mark.parametrize("cls", [Preauthorization, Capture, TransactionStatus, FieldError])
def test_annotations_resolve_at_run_time(cls: type) -> None:
    """Tools that read annotations (cattrs, dependency injection, documentation) can resolve each of them."""
    hints = typing.get_type_hints(cls)

    assert set(hints) == {field.name for field in attrs.fields(cls)}
    assert hints.get("state", TransactionState) is TransactionState


@every_value
def test_a_value_round_trips_through_cattrs(value: Value) -> None:
    """Results can be stored as plain data and read back with cattrs, given hooks for decimals and the raw reply."""
    converter = cattrs.Converter(unstruct_strat=cattrs.UnstructureStrategy.AS_DICT)
    converter.register_unstructure_hook(Decimal, str)
    converter.register_structure_hook(Decimal, lambda text, _: Decimal(text))
    converter.register_structure_hook_func(
        lambda kind: getattr(kind, "__origin__", None) is Mapping, lambda raw, _: raw
    )

    plain = converter.unstructure(value)
    again = converter.structure(plain, type(value))

    assert again == value
    assert again.raw["secret"] == "raw-must-not-show"


def test_every_value_is_tested() -> None:
    """The tables of this file name every value of the module."""
    classes = {getattr(models, name) for name in models.__all__ if attrs.has(getattr(models, name))}

    assert classes == {type(value) for value in VALUES} | {Payer, RawAnswer}


def test_a_raw_answer_shows_its_status_alone() -> None:
    """What a request that nobody knows was answered may be anything, so it is not printed; it compares and hashes."""
    answer = RawAnswer(status=200, json={"secret": ["hidden"]}, headers={"x": "hidden"})

    assert repr(answer) == "RawAnswer(status=200, attempts=1, elapsed=0.0)"
    assert answer == RawAnswer(status=200, json={"secret": ["hidden"]}, attempts=3)
    assert hash(answer) == hash(RawAnswer(status=200, json=None))
    assert answer != RawAnswer(status=200, json=None)
    assert Payer(email="a@example.com", name="A") == Payer(email="a@example.com", name="A")


AFRESH = """
import pickle, sys
from jetpay_async import models

assert "jetpay_async.models._further" not in sys.modules, "made by importing the module"
assert set(models.__all__) <= set(dir(models))
assert "jetpay_async.models._further" not in sys.modules, "made by listing the module"
value = pickle.loads(bytes.fromhex(sys.argv[1]))
assert type(value) is models.Contact and repr(type(value)) == "<class 'jetpay_async.models.Contact'>"
print(value.raw["secret"])
"""


def test_a_class_that_is_made_late_is_found_by_a_pickle() -> None:
    """In a process that has not used it, as a worker that gets it from a queue; and under its public name."""
    contact = Contact(contact_id="contact_1", email="a@example.com", name="A", raw={"secret": "kept"})

    read = [sys.executable, "-c", AFRESH, pickle.dumps(contact).hex()]
    done = subprocess.run(read, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("kept\n", "")


def test_each_name_is_listed() -> None:
    """Those of classes that are made late, too, for completion in a shell."""
    assert set(models.__all__) <= set(dir(models))


def test_a_name_that_the_module_does_not_have_is_an_attribute_error() -> None:
    """As of any other module."""
    with pytest.raises(AttributeError, match=r"module 'jetpay_async\.models' has no attribute 'Contract'"):
        _ = models.Contract  # type: ignore[attr-defined] # type checkers find that, too
