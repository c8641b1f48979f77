"""``jetpay captures verify``, ``backup``, ``prune`` and ``resolve``."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from jetpay_async.ledger._sql import SCHEMA_VERSION
from jetpay_async.sandbox import Fault, FaultKind
from tests.cli.conftest import reserve_many

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jetpay_async.sandbox import Sandbox
    from tests.cli.conftest import CommandResult

    Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("empty_directory", "short_waits")

NIGHT = ("--ledger", "c.db", "--batch", "night")
ALL = ("--ledger", "c.db")


def change(statement: str) -> None:
    """Change what the ledger holds."""
    with closing(sqlite3.connect("c.db", isolation_level=None)) as connection:
        connection.execute(statement)


@pytest.fixture
def night(jetpay: Jetpay, sandbox: Sandbox, empty_directory: Path) -> list[str]:
    """Three captured debits of a batch."""
    debits = reserve_many(sandbox, 3)
    (empty_directory / "debits.txt").write_text("\n".join(debits))
    assert jetpay("capture", "debits.txt", *NIGHT).status == 0
    return debits


def make_unknown() -> None:
    """Let the first debit be unknown."""
    change("UPDATE jetpay_debit SET state = 'unknown', transaction_state = NULL WHERE id % 4294967296 = 0")
    change("UPDATE jetpay_batch SET captured = 2, unknown = 1")


# --- verify


def test_a_good_ledger_is_shown(jetpay: Jetpay, night: list[str]) -> None:
    """What it belongs to, what it holds, and that nothing is wrong."""
    run = jetpay("captures", "verify", *ALL)

    assert (run.status, run.err) == (0, "")
    assert run.out.splitlines() == [
        f"schema:      version {SCHEMA_VERSION}",
        "belongs to:  loopback",
        "batches:     1",
        "debits:      3: 3 captured, 0 rejected, 0 unknown, 0 pending, 0 in flight or in doubt",
        "unresolved:  0",
        "runs:        0 registered",
        "no problem was found",
    ]


def test_references_are_counted(jetpay: Jetpay, night: list[str]) -> None:
    """Durable payments have lines of their own, and their unresolved ones a number for a monitor."""
    for number, state in enumerate(("succeeded", "unknown", "unknown")):
        change(
            "INSERT INTO jetpay_payment (reference, operation, kind, arguments, state, intent, attempts, intent_at, "
            f"certain_at, transaction_id) VALUES ('{number}', 'charge', 'debit', '', '{state}', 1, 1, 1, 1, {number})"
        )

    run = jetpay("captures", "verify", *ALL)
    found = json.loads(jetpay("captures", "verify", *ALL, "--json").out)

    assert run.status == 0
    assert "references:  3: 1 succeeded, 2 unknown\n             2 unresolved, 0 debits that nothing knows\n" in run.out
    assert (found["unresolved_payments"], found["payments"]["succeeded"], found["orphans"]) == (2, 1, 0)


def test_a_problem_has_its_status(jetpay: Jetpay, night: list[str]) -> None:
    """1, and the problem is named."""
    change("UPDATE jetpay_batch SET captured = 2")

    run = jetpay("captures", "verify", *ALL)

    assert run.status == 1
    assert run.out.splitlines()[-1] == "PROBLEM:     batch 'night': its counts are not those of its debits"


def test_what_was_found_as_json(jetpay: Jetpay, night: list[str]) -> None:
    """For a monitor."""
    make_unknown()
    change("UPDATE jetpay_ledger SET account = 'north'")

    found = json.loads(jetpay("captures", "verify", *ALL, "--json").out)

    assert (found["ok"], found["problems"], found["unresolved"], found["account"]) == (True, [], 1, "north")
    assert found["debits"]["captured"] == 2


def test_the_account_and_pruned_debits_are_shown(jetpay: Jetpay, night: list[str]) -> None:
    """A ledger with a label says so; what was pruned is counted."""
    change("UPDATE jetpay_ledger SET account = 'north'")
    jetpay("captures", "prune", *ALL, "--before", "0d", "--yes")

    run = jetpay("captures", "verify", *ALL)

    assert "belongs to:  loopback, account north\n" in run.out
    assert "(3 of them of pruned batches)" in run.out


@pytest.mark.parametrize("command", ["verify", "resolve", "prune --before 1d --yes", "backup copy.db"])
def test_there_must_be_a_ledger(jetpay: Jetpay, command: str) -> None:
    """None is made; the status is 2."""
    run = jetpay("captures", *command.split(), "--ledger", "none.db")

    assert (run.status, run.out) == (2, "")
    assert "jetpay: there is no ledger at " in run.err


# --- backup


def test_a_copy_is_made(jetpay: Jetpay, night: list[str], empty_directory: Path) -> None:
    """With what to mind when it is used."""
    run = jetpay("captures", "backup", *ALL, "copy.db")

    assert run.status == 0
    assert run.out == f"{(empty_directory / 'copy.db').stat().st_size:,} bytes written to copy.db\n"
    assert "must add --restored" in run.err
    assert jetpay("captures", "status", "--ledger", "copy.db").out == jetpay("captures", "status", *ALL).out


def test_a_copy_as_json(jetpay: Jetpay, night: list[str], empty_directory: Path) -> None:
    """The file and its size."""
    run = jetpay("captures", "backup", *ALL, "copy.db", "--json")

    assert json.loads(run.out) == {"file": "copy.db", "bytes": (empty_directory / "copy.db").stat().st_size}
    assert run.err == ""


def test_a_copy_overwrites_nothing(jetpay: Jetpay, night: list[str]) -> None:
    """The ledger itself least of all."""
    run = jetpay("captures", "backup", *ALL, "c.db")

    assert (run.status, run.out) == (2, "")
    assert "jetpay: argument FILE: can't make c.db: File exists\n" in run.err


# --- prune


def test_finished_batches_are_removed(jetpay: Jetpay, night: list[str]) -> None:
    """The ids of captured debits stay, which the report says."""
    run = jetpay("captures", "prune", *ALL, "--before", "0d", "--yes")

    assert (run.status, run.err) == (0, "")
    assert run.out == "1 batches removed, with 0 rejected debits; the ids of 3 captured debits stay\n"
    assert jetpay("captures", "status", *ALL).out == "no batch yet\n"


def test_a_pruned_batch_is_not_captured_again(jetpay: Jetpay, night: list[str], sandbox: Sandbox) -> None:
    """The same list under the same name is a new batch, of which everything is known."""
    jetpay("captures", "prune", *ALL, "--before", "0d", "--yes")

    assert jetpay("capture", "debits.txt", *NIGHT).status == 0
    assert [sandbox.debit(debit_id).captures for debit_id in night] == [1, 1, 1]
    assert sandbox.requests("capture") == 3


def test_what_is_unresolved_stays(jetpay: Jetpay, night: list[str]) -> None:
    """And is counted."""
    make_unknown()

    run = jetpay("captures", "prune", *ALL, "--before", "0d", "--yes")

    assert run.out.startswith("0 batches removed")
    assert run.err == "jetpay: 1 batches as old were left alone: some of their debits are not resolved\n"
    assert json.loads(jetpay("captures", "prune", *ALL, "--before", "0d", "--yes", "--json").out) == {
        "batches": 0,
        "captured_kept": 0,
        "rejected_removed": 0,
        "unresolved_batches": 1,
    }


@pytest.mark.parametrize("before", ["1d", "2020-01-01", "2020-01-01T10:00:00Z"])
def test_what_is_younger_stays(jetpay: Jetpay, night: list[str], before: str) -> None:
    """An age in days, a date or a time says what is old."""
    assert jetpay("captures", "prune", *ALL, "--before", before, "--yes").out.startswith("0 batches removed")


@pytest.mark.parametrize("before", ["soon", "d", "-1d", "1.5d"])
def test_an_odd_time(jetpay: Jetpay, before: str) -> None:
    """A typing error must not remove anything."""
    run = jetpay("captures", "prune", *ALL, f"--before={before}", "--yes")

    assert run.status == 2
    assert f"argument --before: {before!r} is not a time" in run.err


def test_an_age_beyond_all_time(jetpay: Jetpay) -> None:
    """No clock can show it."""
    assert jetpay("captures", "prune", *ALL, f"--before={'9' * 20}d", "--yes").status == 2


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 130), ("", 130)])
def test_a_person_is_asked(
    jetpay: Jetpay, night: list[str], monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    """Without --yes nothing happens unless somebody agrees."""
    stdin = io.StringIO(answer)
    stdin.isatty = lambda: True  # type: ignore[method-assign] # a terminal
    monkeypatch.setattr(sys, "stdin", stdin)

    run = jetpay("captures", "prune", *ALL, "--before", "0d")

    assert run.status == status
    assert "Remove the batches of c.db that were finished before " in run.err
    assert ("night" in jetpay("captures", "status", *ALL).out) == (status == 130)


def test_where_nobody_can_be_asked(jetpay: Jetpay, night: list[str]) -> None:
    """Under cron --yes is required."""
    run = jetpay("captures", "prune", *ALL, "--before", "0d")

    assert run.status == 2
    assert "argument --yes: required" in run.err


# --- resolve


def test_an_unknown_debit_is_resolved(jetpay: Jetpay, night: list[str], sandbox: Sandbox) -> None:
    """Its status is read, and nothing is sent."""
    make_unknown()

    run = jetpay("captures", "resolve", *ALL)

    assert (run.status, run.out, run.err) == (0, "night: 3 captured, 0 rejected, 0 unknown\n", "")
    assert sandbox.requests("capture") == 3


def test_nothing_to_resolve(jetpay: Jetpay, night: list[str], sandbox: Sandbox) -> None:
    """No request is made, and no token is needed."""
    assert jetpay("captures", "resolve", *NIGHT).err == "jetpay: no debit is accepted or unknown\n"
    assert jetpay("captures", "resolve", *NIGHT, "--json").out == ""
    assert sandbox.requests("status") == 0


def test_what_can_not_be_read_stays_unknown(jetpay: Jetpay, night: list[str], sandbox: Sandbox) -> None:
    """Status 4, and how to go on."""
    make_unknown()
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="status", count=99, status=503))

    run = jetpay("captures", "resolve", *NIGHT)

    assert (run.status, run.out) == (4, "night: 2 captured, 0 rejected, 1 unknown\n")
    assert "night: the status of 1 debits could not be read; -v shows why" in run.err
    assert "jetpay capture FILE --ledger c.db --batch night" in run.err


def test_what_is_accepted_has_its_status(jetpay: Jetpay, night: list[str], sandbox: Sandbox) -> None:
    """5, as for a batch."""
    change("UPDATE jetpay_debit SET state = 'accepted', transaction_state = 'processing'")
    change("UPDATE jetpay_batch SET captured = 0, accepted = 3")
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="status", count=99, status=503))

    run = jetpay("captures", "resolve", *NIGHT, "--json")

    found = json.loads(run.out)
    assert run.status == 5
    assert (found["batch"], found["accepted"], found["unread"]) == ("night", 3, 3)


def test_a_rejected_token(jetpay: Jetpay, night: list[str], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 3 and why: the same command can be repeated."""
    make_unknown()
    monkeypatch.setenv("JETPAY_API_TOKEN", "wrong")

    run = jetpay("captures", "resolve", *ALL)

    assert (run.status, run.out) == (3, "")
    assert "jetpay: stopped: " in run.err
    assert "401" in run.err


def test_a_batch_that_is_not_there(jetpay: Jetpay, night: list[str]) -> None:
    """It is named."""
    run = jetpay("captures", "resolve", "--ledger", "c.db", "--batch", "other")

    assert run.status == 2
    assert "'other'" in run.err
