"""What is imported only when it is used, and what happens where that fails."""

from __future__ import annotations

import json
import sys

import pytest

from jetpay_async._core import operations, schema
from jetpay_async._core.lazy import LazyModule
from jetpay_async._core.responses import Unanswered
from tests.core.bodies import CAPTURE, CAPTURED, STATUS, read

REQUEST = {
    "contact_id": "contact_123",
    "credit_card_id": "cc_456",
    "amount": "100.50",
    "to_bank_account_id": "bank_789",
    "statement": "Test statement",
}


@pytest.fixture
def no_cattrs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has decoded nothing yet, and can't import what decodes."""
    schema._converter.cache_clear()
    for name in ("_preauthorize_decoder", "_capture_decoder", "_status_decoder"):
        monkeypatch.setattr(operations, name, schema.ResponseDecoder(getattr(operations, name)._cls))
    monkeypatch.setitem(sys.modules, "cattrs", None)


def test_a_module_is_imported_when_one_of_its_names_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the stand-in imports nothing, and a name is found once."""
    monkeypatch.delitem(sys.modules, "this", raising=False)
    monkeypatch.setattr("builtins.print", lambda *_: None)

    zen = LazyModule("this")
    before = "this" in sys.modules
    found = zen.s

    assert not before
    assert zen.s is found is sys.modules["this"].s
    assert "s" in vars(zen)


def test_a_name_that_a_module_does_not_have_is_an_attribute_error() -> None:
    """As of the module itself."""
    with pytest.raises(AttributeError, match="module 'json' has no attribute 'missing'"):
        _ = LazyModule("json").missing


@pytest.mark.usefixtures("no_cattrs")
@pytest.mark.parametrize("build", [operations.preauthorize, operations.charge])
def test_what_is_never_sent_again_needs_its_decoder_before_it_is_sent(build: object) -> None:
    """Where cattrs can't be imported, no money moves: the request isn't even made."""
    with pytest.raises(ImportError, match="cattrs"):
        build(**REQUEST)  # type: ignore[operator] # one of two functions


@pytest.mark.usefixtures("no_cattrs")
def test_a_capture_that_is_paid_needs_no_decoder() -> None:
    """So the import of cattrs is not part of most processes that capture."""
    assert read(CAPTURE, 200, CAPTURED).final


@pytest.mark.usefixtures("no_cattrs")
@pytest.mark.parametrize(
    ("call", "document"),
    [(CAPTURE, {**CAPTURED, "state": "processing"}), (STATUS, {"state": "paid"})],
    ids=["capture", "status"],
)
def test_a_response_that_nothing_can_read_is_no_answer(call: operations.Call[object], document: object) -> None:
    """The import fails after the request was sent: the outcome is in doubt, and no other error hides that."""
    with pytest.raises(Unanswered, match=r"HTTP 200, the response can't be read: ModuleNotFoundError: .*cattrs"):
        read(call, 200, json.loads(json.dumps(document)))
