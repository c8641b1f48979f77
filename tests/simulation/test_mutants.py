"""The model finds each fault that it was made for, when what prevents the fault is taken out.

A model that finds nothing may be one that can't. What only real sockets show is not here: whether a request began to
leave, and that what is given up is reset.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import attrs
import pytest

from jetpay_async._core import responses
from jetpay_async._core.execution import Execution
from jetpay_async._core.executor import CallExecutor
from jetpay_async._core.http import ResolveBound
from jetpay_async._core.resolve import StatusResolver
from jetpay_async.errors import APIError
from jetpay_async.ledger import _intents, _payments
from jetpay_async.ledger._sqlite import SqliteConnection
from jetpay_async.ledger.payment_records import PaymentState
from tests.simulation import test_client, test_ledger, test_payments

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

MOST_SCHEDULES = 600

Patch = pytest.MonkeyPatch

# Hundreds of schedules take a while on a busy machine.
pytestmark = [pytest.mark.endurance, pytest.mark.timeout(600)]


def believe_the_first_status(patch: Patch) -> None:
    """A debit in doubt has no time before which its status proves nothing."""
    mark_in_doubt = Execution.mark_in_doubt
    patch.setattr(Execution, "mark_in_doubt", lambda self, certain_from: mark_in_doubt(self, -math.inf))  # noqa: ARG005 - the time is what is taken out


def wait_as_if_the_other_side_had_ended_it(patch: Patch) -> None:
    """The shorter bound is applied to whatever happened."""
    certain_from = CallExecutor.certain_from
    patch.setattr(
        CallExecutor,
        "certain_from",
        lambda self, execution, bound=None: certain_from(self, execution, ResolveBound.DIRECT),  # noqa: ARG005
    )


def forget_what_was_seen(patch: Patch) -> None:
    """A state beyond ``preauthorized`` is forgotten when the status goes back."""

    def note_state(self: Execution[object], state: object) -> None:
        self.state = state  # type: ignore[assignment] # stands in for the real one

    patch.setattr(Execution, "note_state", note_state)


def trust_caches(patch: Patch) -> None:
    """A status that never left this process, or lay in a cache, counts as read now."""
    read = StatusResolver._read

    async def read_now(self: StatusResolver, execution: Execution[object]) -> object:
        asked_at = self._clock.monotonic()
        reading = await read(self, execution)
        return attrs.evolve(reading, true_at=asked_at) if attrs.has(type(reading)) else reading

    patch.setattr(StatusResolver, "_read", read_now)


def take_any_4xx_for_a_rejection(patch: Patch) -> None:
    """408, 425 and 499 as the API's JSON are believed to be its last word."""
    for status in (408, 425, 499):
        patch.setitem(responses._REJECTIONS, status, (APIError, "nothing was done"))


def record_without_a_fence(patch: Patch) -> None:
    """Whoever has an outcome records it, also of a debit that another one has taken over."""
    statements = SqliteConnection.statements
    for name in ("record", "record_paid"):
        statement = getattr(statements, name)
        loose = re.sub(r"AND jetpay_debit.owner = :owner AND jetpay_debit.intent = (o\.|:)intent", "", statement)
        assert loose != statement
        patch.setattr(statements, name, loose)


def forget_what_other_batches_captured(patch: Patch) -> None:
    """A debit of two batches is sent for each of them."""
    claim = _intents._take_known
    del claim
    patch.setattr(_intents, "_take_known", lambda connection, unsure: ())  # noqa: ARG005
    statements = SqliteConnection.statements
    patch.setattr(statements, "claimed", statements.claimed.replace("d.look_first, (", "d.look_first, 0 AND (", 1))


def _change_payment_statement(patch: Patch, name: str, old: str, new: str) -> None:
    statements = SqliteConnection.statements.payments
    statement = getattr(statements, name)
    assert old in statement
    patch.setattr(statements, name, statement.replace(old, new))


def ask_again_for_what_a_dead_process_sent(patch: Patch) -> None:
    """A payment whose owner died is open again, as if nothing had been sent."""
    _change_payment_statement(patch, "expire", "'unknown'", "'pending'")


def ask_again_for_what_is_unknown(patch: Patch) -> None:
    """An unknown payment counts as rejected: who wants to repeat it may."""
    claimable = _payments._claimable
    patch.setattr(
        _payments,
        "_claimable",
        lambda *, retry_rejected: (*claimable(retry_rejected=retry_rejected), PaymentState.UNKNOWN),
    )


def discard_while_a_request_may_be_on_its_way(patch: Patch) -> None:
    """A person may discard a payment that is still being made."""
    _change_payment_statement(patch, "discard", "AND certain_at - ", "AND 0 * ")


def forget_what_may_be_the_missing_debit(patch: Patch) -> None:
    """A debit that nothing in the ledger knows is not kept, though a payment is unknown that may have made it."""
    _change_payment_statement(patch, "awaits", "p.state IN ('sending', 'unknown', 'discarded')", "p.state = 'sending'")


# With the schedule from which on the fault is looked for: some are rare.
MUTANTS: list[tuple[Callable[[Patch], None], ModuleType, int]] = [
    (believe_the_first_status, test_client, 0),
    (believe_the_first_status, test_ledger, 0),
    (wait_as_if_the_other_side_had_ended_it, test_client, 0),
    (forget_what_was_seen, test_ledger, 640),
    (trust_caches, test_client, 0),
    (take_any_4xx_for_a_rejection, test_client, 0),
    (record_without_a_fence, test_ledger, 135),
    (forget_what_other_batches_captured, test_ledger, 0),
    (ask_again_for_what_a_dead_process_sent, test_payments, 0),
    (ask_again_for_what_is_unknown, test_payments, 0),
    (discard_while_a_request_may_be_on_its_way, test_payments, 0),
    (forget_what_may_be_the_missing_debit, test_payments, 0),
]


def _id(value: object) -> str:
    return getattr(value, "__name__", "").rpartition(".")[2]


@pytest.mark.parametrize(("mutate", "model", "first"), MUTANTS, ids=_id)
def test_the_model_finds_what_is_taken_out(
    mutate: Callable[[Patch], None], model: ModuleType, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a rule, money is taken twice or something is said that is not so, within some hundred schedules."""
    mutate(monkeypatch)

    with pytest.raises(AssertionError, match=r"was processed \d+ times|was made \d+ times|was said|is known to nobody"):
        for seed in range(first, first + MOST_SCHEDULES):
            model.drive(seed)
