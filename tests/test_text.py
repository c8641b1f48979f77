"""Text from the API, from files and from people is escaped before it reaches an error text, a log or a terminal."""

from __future__ import annotations

import pytest

from jetpay_async import JetpayError, OutcomeUnknownError, TransactionFailedError, TransactionState
from jetpay_async._core import operations
from jetpay_async._core.operations import ResponseContext
from jetpay_async._text import TEXT_LIMIT, printable
from jetpay_async.models import TransactionStatus

# Escape sequences, a bell, line ends, marks of direction, what has no width, a lone surrogate.
FOREIGN = "a\x1b[31m\x07\r\n\u202eb\u200b\xad\ufeff\u2028\xa0\ud800 \u00e9"
SAFE = r"a\x1b[31m\x07\r\n\u202eb\u200b\xad\ufeff\u2028\xa0\ud800 " + "\u00e9"


def test_what_does_not_print_is_escaped() -> None:
    """Letters of any language stay, and a line is one line."""
    assert printable(FOREIGN) == SAFE
    assert printable("caf\u00e9 \u4e16\u754c") == "caf\u00e9 \u4e16\u754c"


@pytest.mark.parametrize("mark", "\u034f\u115f\u17b4\u180b\u2800\u3164\ufe0f\uffa0\U000e0100")
def test_what_is_not_seen_is_escaped(mark: str) -> None:
    """Python takes these for characters that print: they have no width, or look like a space."""
    assert printable(f"a{mark}b") == f"a{mark.encode('unicode_escape').decode()}b"


def test_some_characters_can_be_kept() -> None:
    """A message of our own has several lines."""
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize(("limit", "length"), [(TEXT_LIMIT, TEXT_LIMIT), (7, 7), (None, 5000)])
def test_what_is_too_long_is_cut(limit: int | None, length: int) -> None:
    """A service that answers with a megabyte fills no log."""
    assert len(printable("x" * 5000, limit)) == length


def test_an_open_state_is_shown_by_its_value() -> None:
    """What a subclass of `str` prints as is not what it holds."""
    assert printable(TransactionState("odd\x1b")) == r"odd\x1b"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(JetpayError(f"it said: {FOREIGN}"), id="message"),
        pytest.param(JetpayError("no", debit_id=FOREIGN), id="debit_id"),
        pytest.param(JetpayError("no", request_id=FOREIGN), id="request_id"),
        pytest.param(OutcomeUnknownError("no", reason=FOREIGN), id="reason"),
        pytest.param(OutcomeUnknownError("no", state=TransactionState(FOREIGN)), id="state"),
        pytest.param(OutcomeUnknownError("no", arguments={"debit_id": FOREIGN}), id="argument"),
        pytest.param(OutcomeUnknownError("no", next_step=FOREIGN), id="next step"),
        pytest.param(
            operations.transaction_failed_error(
                operations.capture("debit_1"),
                TransactionStatus(
                    transaction_id="debit_1",
                    state=TransactionState.FAILED,
                    fail_reason=FOREIGN,
                    fail_direction=FOREIGN,
                    raw={},
                ),
                ResponseContext(1, 0.1),
            ),
            id="fail_reason",
        ),
    ],
)
def test_an_error_text_obeys_nobody(error: JetpayError) -> None:
    """Whatever an error quotes, its text holds nothing that a terminal obeys, and no forged line of a log."""
    text = str(error).replace("\n", "") if "it said" in error.message else str(error)

    assert text.isprintable()


def test_the_attributes_of_an_error_stay_as_the_api_wrote_them() -> None:
    """A program that compares a state or a reason gets it unchanged."""
    error = TransactionFailedError("no", state=TransactionState("odd\x1b"), fail_reason="why\x07")

    assert error.state == "odd\x1b"
    assert error.fail_reason == "why\x07"
