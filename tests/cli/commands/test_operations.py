"""Single operations: what they print, and what they exit with."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from jetpay_async.sandbox import Fault, FaultKind, Sandbox, TokenScope
from tests.cli.conftest import CommandResult

if TYPE_CHECKING:
    from jetpay_async.sandbox import SandboxPayer

Jetpay = Callable[..., CommandResult]


def asking(
    sandbox: Sandbox, payer: SandboxPayer | None = None, changes: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    payer = payer or sandbox.add_payer()
    options = {
        "contact": payer.contact_id,
        "card": payer.credit_card_id,
        "amount": "100.50",
        "to-account": sandbox.merchant_account_id,
        "statement": "Two nights",
        **changes,
    }
    return ["preauthorize", *(f"--{name}={value}" for name, value in options.items())]


def reserve(jetpay: Jetpay, sandbox: Sandbox, card_number: str = "4111111111111111") -> str:
    run = jetpay(*asking(sandbox, sandbox.add_payer(card_number=card_number)), "--json")
    return str(json.loads(run.out)["debit_id"])


def test_preauthorize_prints_the_debit(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """What was reserved is printed with the command that takes it."""
    run = jetpay(*asking(sandbox))

    (debit,) = sandbox.debits
    assert run == CommandResult(
        0,
        f"{debit.identifier}  preauthorized  100.50\nTo capture it: jetpay capture {debit.identifier}\n",
        "",
    )
    assert (str(debit.amount), debit.statement) == ("100.50", "Two nights")


def test_preauthorize_as_json(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """--json prints one object, whose amount is an exact number with its cents."""
    payer = sandbox.add_payer()

    run = jetpay(*asking(sandbox, payer), "--json")

    document = json.loads(run.out, parse_float=str)
    assert '"amount":100.50,' in run.out
    assert document.pop("elapsed") >= "0"
    assert document == {
        "outcome": "done",
        "operation": "preauthorize",
        "debit_id": sandbox.debits[0].identifier,
        "amount": "100.50",
        "statement": "Two nights",
        "to_bank_account_id": sandbox.merchant_account_id,
        "contact_id": payer.contact_id,
        "from_credit_card_id": payer.credit_card_id,
        "state": "preauthorized",
        "attempts": 1,
        "final": True,
    }
    assert (run.status, run.err) == (0, "")


def test_json_survives_any_stdout(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """JSON is written in ASCII and reads back as what it was."""
    run = jetpay(*asking(sandbox, changes={"statement": "Caf\u00e9 \U0001f6cf"}), "--json")

    assert run.out.isascii()
    assert json.loads(run.out)["statement"] == "Caf\u00e9 \U0001f6cf"


def test_words_survive_any_stdout(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stdout's encoding can't hold is escaped, rather than lost with the whole result."""
    debit_id = reserve(jetpay, sandbox)
    sandbox.set_state(debit_id, "r\u00e9gl\u00e9")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))

    run = jetpay("status", debit_id)

    assert (run.status, run.err) == (0, "")
    assert written.getvalue() == f"{debit_id}  r\\xe9gl\\xe9\n".encode()


def test_capture_takes_each_debit_once(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """Several debits are captured in their order, and one that is named twice is captured once."""
    first, second = reserve(jetpay, sandbox), reserve(jetpay, sandbox)

    run = jetpay("capture", first, second, first)

    assert run == CommandResult(0, f"{first}  paid\n{second}  paid\n", "")
    assert sandbox.requests("capture", first) == 1


def test_capture_shows_when_the_status_confirmed_it(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A capture whose reply was lost is confirmed by the status, and reported so."""
    debit_id = reserve(jetpay, sandbox)
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture"))

    run = jetpay("capture", debit_id)

    assert run == CommandResult(0, f"{debit_id}  paid  (confirmed by its status)\n", "")
    assert sandbox.requests("capture") == 1


def test_several_outcomes_exit_with_the_gravest(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A rejected debit does not keep the others from being captured; the highest status counts."""
    good = reserve(jetpay, sandbox)

    run = jetpay("capture", "nowhere", "a/b", good, "--json")

    outcomes = [json.loads(line) for line in run.out.splitlines()]
    assert [(each["outcome"], each["debit_id"]) for each in outcomes] == [
        ("rejected", "nowhere"),
        ("not_sent", None),
        ("done", good),
    ]
    assert run.status == 2
    assert sandbox.debit(good).captures == 1


@pytest.mark.parametrize(
    ("card_number", "shown"),
    [
        pytest.param("4111111111111111", "paid", id="paid"),
        pytest.param("4000000000000036", "failed  (account_frozen, pull)", id="failed"),
    ],
)
def test_status_shows_the_state(jetpay: Jetpay, sandbox: Sandbox, card_number: str, shown: str) -> None:
    """The status is one line, with the reasons of a failure."""
    debit_id = reserve(jetpay, sandbox, card_number)
    jetpay("capture", debit_id)

    assert jetpay("status", debit_id) == CommandResult(0, f"{debit_id}  {shown}\n", "")


def test_cancel_releases(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A reservation is cancelled, and the outcome reported as text or as JSON."""
    first, second = reserve(jetpay, sandbox), reserve(jetpay, sandbox)

    assert jetpay("cancel", first) == CommandResult(0, f"{first}  cancelled\n", "")
    assert json.loads(jetpay("cancel", second, "--json").out) == {
        "outcome": "done",
        "operation": "cancel_transaction",
        "debit_id": second,
    }
    assert {debit.state for debit in sandbox.debits} == {"cancelled"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        pytest.param(["status", "nowhere"], 1, "the API answered 404: Transaction not found", id="not found"),
        pytest.param(["capture", "nowhere"], 1, "the API answered 404: Debit not found", id="no such debit"),
        pytest.param(["cancel", "a/b"], 2, "argument ID: 'a/b' is not an id", id="bad id"),
        pytest.param(["capture", "a/b"], 2, "argument DEBIT_ID: 'a/b' is not an id", id="bad debit id"),
    ],
)
def test_refusals(jetpay: Jetpay, sandbox: Sandbox, arguments: list[str], status: int, message: str) -> None:
    """A refusal is one message on stderr and nothing on stdout."""
    run = jetpay(*arguments)

    assert (run.status, run.out) == (status, "")
    assert run.err.startswith(f"jetpay: {message}")
    assert run.err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"contact": ""}, "argument --contact: is empty", id="contact"),
        pytest.param({"card": "a b/"}, "argument --card: 'a b/' is not an id", id="card"),
        pytest.param({"to-account": ""}, "argument --to-account: is empty", id="account"),
        pytest.param({"statement": "x" * 31}, "argument --statement: has 31 characters", id="statement"),
        pytest.param({"amount": "100.501"}, "argument --amount: '100.501' is not an amount", id="fraction of a cent"),
        pytest.param({"amount": "-5"}, "argument --amount: '-5' is not an amount", id="negative amount"),
        pytest.param({"amount": "1e3"}, "argument --amount: '1e3' is not an amount", id="exponent"),
    ],
)
def test_bad_arguments_send_nothing(jetpay: Jetpay, sandbox: Sandbox, changes: dict[str, str], message: str) -> None:
    """An argument that makes no sense is named by its option, with status 2, and nothing is sent."""
    run = jetpay(*asking(sandbox, changes=changes))

    assert (run.status, run.out) == (2, "")
    assert message in run.err
    assert sandbox.requests() == 0


def test_a_declined_card_is_refused(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A declined card exits with 1 and, with --json, is reported on stdout as well."""
    payer = sandbox.add_payer(card_number="4000000000000002")

    run = jetpay(*asking(sandbox, payer), "--json")

    document = json.loads(run.out)
    assert run.status == 1
    assert (document["outcome"], document["error"], document["status"], document["detail"]) == (
        "rejected",
        "APIError",
        402,
        "Card declined",
    )
    assert "Card declined" in run.err


def test_rate_limited_is_safe_to_repeat(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """What the API had no time for exits with 3."""
    sandbox.faults.add(Fault(kind=FaultKind.RATE_LIMIT, route="capture", count=9))

    assert jetpay("capture", reserve(jetpay, sandbox)).status == 3


def test_nothing_sent_is_safe_to_repeat(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, nothing is sent: status 3."""
    monkeypatch.setenv("JETPAY_BASE_URL", "http://127.0.0.1:1")

    run = jetpay("capture", "debit_1")

    assert run.status == 3
    assert run.err.startswith("jetpay: nothing was sent; calling again is safe")


def test_no_token_is_a_configuration_error(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing token is named, with status 2."""
    monkeypatch.delenv("JETPAY_API_TOKEN", raising=False)

    run = jetpay("status", "debit_1")

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith("jetpay: JETPAY_API_TOKEN is not set")


def test_an_unknown_preauthorization_prints_everything(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A lost reply to a preauthorization exits with 4 and shows what a person needs to find it; no secret."""
    payer = sandbox.add_payer()
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="preauthorize"))

    run = jetpay(*asking(sandbox, payer))

    assert (run.status, run.out) == (4, "")
    for needed in (
        "the outcome is UNKNOWN",
        payer.contact_id,
        payer.credit_card_id,
        "100.50",
        sandbox.merchant_account_id,
        "Two nights",
        "sent at",
        "attempts            1,",
        "cause               ServerDisconnectedError",
        "next step           Look for it",
    ):
        assert needed in run.err
    assert sandbox.api_token not in run.err


def test_an_unknown_preauthorization_names_the_debit_of_a_bad_reply(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """If the unusable reply named a debit, the next step is to look at that one."""
    document = {"debit_id": "debit_7"}
    sandbox.faults.add(Fault(kind=FaultKind.WRONG_SHAPE_AFTER, route="preauthorize", document=document))

    run = jetpay(*asking(sandbox))

    assert run.status == 4
    assert "next step           run `jetpay status debit_7`: the response named this debit" in run.err


def test_an_unknown_capture_names_the_next_command(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture that can't be resolved exits with 4, is reported as JSON, and names the next command."""
    debit_id, other = reserve(jetpay, sandbox), reserve(jetpay, sandbox)
    # The status can't be read with this token.
    monkeypatch.setenv("JETPAY_API_TOKEN", sandbox.issue_token(TokenScope.CAPTURES))
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_BEFORE, route="capture", identifier=debit_id))

    run = jetpay("capture", debit_id, other, "--json")

    unknown, done = map(json.loads, run.out.splitlines())
    assert run.status == 4
    assert (unknown["outcome"], unknown["debit_id"], unknown["arguments"]) == (
        "unknown",
        debit_id,
        {"debit_id": debit_id},
    )
    assert unknown["started_at"].endswith("Z")
    assert (done["outcome"], done["debit_id"]) == ("done", other)
    assert f"run `jetpay status {debit_id}` until it is final" in run.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_capture_is_unknown(
    jetpay: Jetpay, sandbox: Sandbox, interrupt_when: Callable[..., None], number: signal.Signals
) -> None:
    """A signal after a capture was sent reports that its outcome is unknown, and what was not begun."""
    debit_id = reserve(jetpay, sandbox)
    sandbox.faults.add(Fault(kind=FaultKind.STALL_BEFORE, route="capture"))
    interrupt_when(lambda: sandbox.requests("capture") == 1, number)

    run = jetpay("capture", debit_id, "debit_2")

    assert run.status == 4
    assert f"debit_id            {debit_id}" in run.err
    assert "cause               the call was cancelled" in run.err
    assert run.err.endswith("jetpay: interrupted; not done: capture debit_2\n")


def test_an_interrupted_question_is_only_interrupted(
    jetpay: Jetpay, sandbox: Sandbox, interrupt_when: Callable[[Callable[[], bool]], None]
) -> None:
    """Ctrl-C where nothing is at stake exits with 130."""
    sandbox.faults.add(Fault(kind=FaultKind.STALL_BEFORE, route="status"))
    interrupt_when(lambda: sandbox.requests("status") == 1)

    run = jetpay("status", "debit_1")

    assert run == CommandResult(130, "", "jetpay: interrupted; not done: transaction_status debit_1\n")


def test_an_interruption_after_the_last_outcome_leaves_nothing(
    jetpay: Jetpay, sandbox: Sandbox, interrupt_when: Callable[[Callable[[], bool]], None]
) -> None:
    """Ctrl-C in the only, unknown request has nothing left to name."""
    sandbox.faults.add(Fault(kind=FaultKind.STALL_BEFORE, route="preauthorize"))
    interrupt_when(lambda: sandbox.requests("preauthorize") == 1)

    run = jetpay(*asking(sandbox))

    assert run.status == 4
    assert run.err.endswith("jetpay: interrupted\n")
