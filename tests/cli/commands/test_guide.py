"""The commands for the rest of the guide: what they print, what they ask, and what they exit with."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from jetpay_async import Charge, Contact, Credit, JetpayClient, TransactionState
from jetpay_async._cli import main
from jetpay_async._cli.commands import captures
from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.cli.conftest import CommandResult
from tests.guide import ACCOUNT_NUMBER, API_KEY, DETAILS

Jetpay = Callable[..., CommandResult]
URL = "http://127.0.0.1:9/hook"


@pytest.fixture
def details(tmp_path: Path) -> str:
    """A file with the details of a bank account."""
    path = tmp_path / "account.json"
    path.write_text(json.dumps(attrs.asdict(DETAILS)))
    return str(path)


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    """A file with a callback key."""
    path = tmp_path / "key"
    path.write_text(f"{API_KEY}\n")
    return str(path)


def as_json(result: CommandResult) -> Any:
    return json.loads(result.out)


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have a person type this."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(captures.sys, "stdin", Terminal(text))


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Put this on stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_from_a_contact_to_a_charge(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """What one command prints, the next one takes."""
    created = jetpay("contacts", "create", "--email=a@example.com", "--name=A", "--tag=vip")
    contact_id = created.out.split()[0]
    form = jetpay("cards", "form", contact_id)
    card_id, url = form.out.split()
    payer = sandbox.add_payer()
    charged = jetpay(
        *("charge", "--contact", payer.contact_id, "--card", payer.credit_card_id, "--amount=12.50"),
        *("--to-account", sandbox.merchant_account_id, "--statement=Two nights"),
    )

    (debit,) = sandbox.debits
    assert (created.status, form.status, charged.status) == (0, 0, 0)
    assert created.out == f"{contact_id}\nTo have a card typed: jetpay cards form {contact_id}\n"
    assert url.startswith(sandbox.url)
    assert card_id
    assert charged.out == f"{debit.identifier}  paid  12.50\n"


def test_a_charge_that_is_only_accepted(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """Status 5, and the command that shows how it ends."""
    payer = sandbox.add_payer(card_number="4000000000000051")
    options = [
        *("charge", "--contact", payer.contact_id, "--card", payer.credit_card_id, "--amount=12.50"),
        *("--to-account", sandbox.merchant_account_id, "--statement=Two nights"),
    ]

    words, fields = jetpay(*options), jetpay(*options, "--json")

    assert (words.status, fields.status) == (5, 5)
    assert "To see how it ends: jetpay status" in words.out
    assert as_json(fields)["final"] is False


def test_a_lost_charge_is_unknown(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """Status 4, with what was asked, and no advice to repeat it."""
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="charge"))
    payer = sandbox.add_payer()

    run = jetpay(
        *("charge", "--contact", payer.contact_id, "--card", payer.credit_card_id, "--amount=12.50"),
        *("--to-account", sandbox.merchant_account_id, "--statement=Two nights"),
    )

    assert run.status == 4
    assert "charge: the outcome is UNKNOWN" in run.err
    assert "12.50" in run.err


# --- bank accounts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_bank_account_is_read_from_a_file(
    jetpay: Jetpay, sandbox: Sandbox, details: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is in no argument, and in nothing that is printed."""
    give(monkeypatch, Path(details).read_bytes())

    run = jetpay(
        *("bank-accounts", "create", "--contact", sandbox.add_contact(), "--json"),
        *("--details", details if source == "file" else "-"),
    )

    assert run.status == 0
    assert as_json(run)["bank_account_id"]
    assert ACCOUNT_NUMBER not in run.out + run.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "argument --details: can't be read"),
        ("[]", "argument --details: is not a JSON object"),
        (f'{{"account_number": {ACCOUNT_NUMBER}', "argument --details: is not a JSON object"),
        ("{}", "argument --details: lacks account_number"),
        (json.dumps({**attrs.asdict(DETAILS), "pin": "1"}), "argument --details: has an unknown field pin"),
        (json.dumps({**attrs.asdict(DETAILS), "transit_number": "1"}), "transit_number: must be 5 digits"),
    ],
)
def test_bad_details_are_not_sent(
    jetpay: Jetpay, sandbox: Sandbox, tmp_path: Path, content: str | None, message: str
) -> None:
    """Status 2, before anything is sent, without a word of the content."""
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)

    run = jetpay("bank-accounts", "create", "--contact", sandbox.add_contact(), "--details", str(path))

    assert run.status == 2
    assert message in run.err
    assert ACCOUNT_NUMBER not in run.err
    assert sandbox.requests() == 0


def test_a_saved_bank_account_prints_its_id(jetpay: Jetpay, sandbox: Sandbox, details: str) -> None:
    """The id, for `credits send`."""
    run = jetpay("bank-accounts", "create", "--contact", sandbox.add_contact(), "--details", details)

    assert (run.status, len(run.out.split())) == (0, 1)


# --- links and credits ------------------------------------------------------------------------------------------------


def link_options(sandbox: Sandbox, command: str, *options: str) -> list[str]:
    group, name = command.split()
    direction = "to" if group == "debits" else "from"
    contact = [] if any(option.startswith("--email") for option in options) else ["--contact", sandbox.add_contact()]
    return [
        *(group, name, f"--{direction}-account", sandbox.merchant_account_id, "--statement=Rent", "--amount=1100.50"),
        *contact,
        *options,
    ]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("debits create", []),
        ("debits create", ["--email=a@example.com", "--name=A"]),
        ("credits create", ["--note=May"]),
        ("credits send", ["--to-account"]),
    ],
    ids=["debit", "debit of somebody new", "credit", "sent credit"],
)
def test_an_amount_is_confirmed_in_words(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, command: str, options: list[str]
) -> None:
    """A person sees dollars and cents, and how they are sent; what is not confirmed is not sent."""
    if options == ["--to-account"]:
        options = ["--to-account", sandbox.add_bank_account(sandbox.add_contact())]
    arguments = link_options(sandbox, command, *options)
    answer(monkeypatch, "n\n")
    declined = jetpay(*arguments)
    before = sandbox.requests()
    answer(monkeypatch, "y\n")
    minor = jetpay(*arguments, "--link-amounts=minor")
    major = jetpay(*arguments, "--yes", "--json")

    assert (declined.status, minor.status, major.status) == (130, 0, 0)
    assert before == 0
    assert "1,100 dollars and 50 cents (sent as the number 1100.50;" in declined.err
    assert "nothing was sent" in declined.err
    assert "sent as the number 110050;" in minor.err
    amounts = [str(each.amount) for each in (*sandbox.debits, *sandbox.credits)]
    assert amounts == ["110050.00", "1100.50"]
    assert minor.out.split()[0] in {each.identifier for each in (*sandbox.debits, *sandbox.credits)}
    assert as_json(major)["transaction_id"]


@pytest.mark.parametrize(
    "options",
    [[], ["--email=a@example.com"], ["--name=A"], ["--contact=c", "--email=a@example.com", "--name=A"]],
    ids=["nobody", "no name", "no address", "two"],
)
def test_a_debit_has_one_payer(jetpay: Jetpay, sandbox: Sandbox, options: list[str]) -> None:
    """The error names the options, and nothing is asked or sent."""
    account = sandbox.merchant_account_id

    run = jetpay("debits", "create", "--to-account", account, "--statement=Rent", "--amount=5", "--yes", *options)

    assert (run.status, sandbox.requests()) == (2, 0)
    assert "who pays is named by --contact, or by --email and --name" in run.err


@pytest.mark.parametrize("command", ["debits create", "credits create", "credits send"])
def test_nobody_to_ask_needs_yes(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """In a script, an amount is confirmed by --yes, and the error says which amount in words."""
    give(monkeypatch, b"")
    options = ["--to-account=x"] if command == "credits send" else []

    run = jetpay(*link_options(sandbox, command, *options))

    assert run.status == 2
    assert "argument --yes: required where nobody can be asked" in run.err
    assert "dollars and" in run.err
    assert "sent as the number" in run.err
    assert sandbox.requests() == 0


# --- webhooks ---------------------------------------------------------------------------------------------------------


def test_a_webhook_by_commands(jetpay: Jetpay, sandbox: Sandbox, key_file: str) -> None:
    """Registered, listed, shown, changed, replayed, removed; its key is never printed."""
    registered = jetpay("webhooks", "register", URL, "--api-key-file", key_file, "--replay-from=1", "--json")
    identifier = as_json(registered)["identifier"]
    listed = jetpay("webhooks", "list")
    listed_json = jetpay("webhooks", "list", "--json")
    shown = jetpay("webhooks", "show", identifier)
    changed = jetpay("webhooks", "change", identifier, "--max-wait-seconds=120", "--json")
    cleared = jetpay("webhooks", "change", identifier, "--no-api-key", "--json")
    replayed = jetpay("webhooks", "replay", identifier, "--from=2026-01-22T10:15:30Z")
    again = jetpay("webhooks", "replay", identifier, "--from=1")
    removed = jetpay("webhooks", "remove", identifier)

    runs = [registered, listed, listed_json, shown, changed, cleared, replayed, again, removed]
    assert [run.status for run in runs] == [0] * len(runs)
    assert as_json(registered)["callback_api_key"] == "***"
    assert listed.out == shown.out == f"{identifier}  id 1  active  {URL}\n"
    assert [each["identifier"] for each in as_json(listed_json)["items"]] == [identifier]
    assert as_json(changed)["max_wait_seconds"] == 120
    assert as_json(cleared)["callback_api_key"] is None
    assert removed.out == f"{identifier}  removed\n"
    assert jetpay("webhooks", "list").out == "there are no webhooks\n"
    assert API_KEY not in "".join(run.out + run.err for run in runs)


def test_a_webhook_is_ensured(jetpay: Jetpay, sandbox: Sandbox, key_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deploy script may repeat it; the key may come from stdin."""
    first = jetpay("webhooks", "ensure", URL, "--api-key-file", key_file, "--json")
    give(monkeypatch, API_KEY.encode())
    second = jetpay("webhooks", "ensure", URL, "--api-key-file=-", "--max-batch-size=50", "--json")
    lost = jetpay("webhooks", "ensure", URL, "--api-key-file=/does/not/exist")

    assert as_json(first)["identifier"] == as_json(second)["identifier"]
    assert as_json(second)["max_batch_size"] == 50
    assert (lost.status, lost.err) == (2, "jetpay: argument --api-key-file: can't be read\n")


def test_a_registration_that_was_found_says_so(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost reply is resolved by the list."""
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="webhooks", count=1))

    run = jetpay("webhooks", "register", URL)

    assert run.status == 0
    assert run.out.endswith(f"{URL}  (found in the list)\n")


def test_a_bad_setting_names_its_option(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """An invalid argument is named as it was typed."""
    run = jetpay("webhooks", "register", "shop.example.com")
    size = jetpay("webhooks", "register", URL, "--max-batch-size=101")

    assert (run.status, size.status) == (2, 2)
    assert run.err.startswith("jetpay: argument URL: must be a URL")
    assert size.err.startswith("jetpay: argument --max-batch-size: ")


# --- any request ------------------------------------------------------------------------------------------------------


def test_any_request(jetpay: Jetpay, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body comes from a file or stdin; the answer is printed as JSON."""
    path = tmp_path / "contact.json"
    path.write_text('{"email": "a@example.com", "name": "A"}')
    made = jetpay("request", "PUT", "/contact", "--data", str(path))
    give(monkeypatch, path.read_bytes())
    piped = jetpay("request", "PUT", "/contact", "--data=-", "--json")
    listed = jetpay("request", "GET", "/webhooks/", "--idempotent")

    assert (made.status, piped.status, listed.status) == (0, 0, 0)
    assert as_json(made)["name"] == "A"
    assert (as_json(piped)["status"], as_json(piped)["json"]["email"]) == (200, "a@example.com")
    assert listed.out == "[]\n"


def test_a_request_that_cannot_be_made(jetpay: Jetpay, sandbox: Sandbox, tmp_path: Path) -> None:
    """A body that is no JSON, a file that is not there, and a path that is none are declined."""
    path = tmp_path / "bad.json"
    path.write_text("{")

    runs = [
        jetpay("request", "PUT", "/contact", "--data", str(path)),
        jetpay("request", "PUT", "/contact", "--data", str(tmp_path / "missing")),
        jetpay("request", "PUT", "contact"),
        jetpay("request", "PUT", "/debit", "--idempotent"),
    ]

    assert [run.status for run in runs] == [2] * 4
    assert [run.err.split(":")[1] for run in runs] == [
        " argument --data",
        " argument --data",
        " argument PATH",
        " argument --idempotent",
    ]
    assert sandbox.requests() == 0


def test_an_empty_answer_prints_an_empty_line(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A 2xx without a body is no error."""
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_AFTER, route="contact", status=204, body="empty"))

    run = jetpay("request", "PUT", "/contact")

    assert (run.status, run.out) == (0, "\n")


ODD = "x; touch y"


@pytest.mark.parametrize(
    ("method", "made", "command"),
    [
        pytest.param(
            "create_contact",
            Contact(contact_id=ODD, email="a@example.com", name="A", raw={}),
            ("contacts", "create", "--email=a@example.com", "--name=A"),
            id="contact",
        ),
        pytest.param(
            "charge",
            Charge(
                debit_id=ODD,
                amount=Decimal(5),
                statement="s",
                to_bank_account_id="b",
                contact_id="c",
                from_credit_card_id="k",
                state=TransactionState.PROCESSING,
                raw={},
            ),
            ("charge", "--contact=c", "--card=k", "--amount=5", "--to-account=b", "--statement=s"),
            id="charge",
        ),
        pytest.param(
            "send_credit",
            Credit(
                transaction_id=ODD,
                amount=Decimal(5),
                statement="s",
                from_bank_account_id="a",
                to_bank_account_id="b",
                contact_id="c",
                raw={},
            ),
            (
                "credits",
                "send",
                "--from-account=a",
                "--to-account=b",
                "--amount=5",
                "--statement=s",
                "--contact=c",
                "--yes",
            ),
            id="credit",
        ),
    ],
)
def test_a_command_to_paste_runs_nothing_else(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, *, method: str, made: object, command: list[str]
) -> None:
    """An id that the API gave is quoted for the shell."""

    async def make(*_: object, **__: object) -> object:
        return made

    monkeypatch.setattr(JetpayClient, method, make)

    assert jetpay(*command).out.endswith(f" '{ODD}'\n")


EVERY_COMMAND = [
    *("contacts create", "cards form", "charge", "bank-accounts create", "debits create", "credits create"),
    *("credits send", "request", "webhooks register", "webhooks ensure", "webhooks list", "webhooks show"),
    *("webhooks change", "webhooks replay", "webhooks remove"),
]


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_each_help_text_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An example that begins with the command, and the exit statuses."""
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])

    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"example:\n  jetpay {command}" in shown
    assert "exit status:" in shown
