"""``jetpay capture FILE --ledger ... --dry-run``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jetpay_async.sandbox import Sandbox
from tests.cli.conftest import CommandResult, reserve_many
from tests.cli.lists import capture, events, files, listed

Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("short_waits", "empty_directory")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JETPAY_API_TOKEN", raising=False)
    monkeypatch.delenv("JETPAY_BASE_URL", raising=False)


def test_a_dry_run_of_a_new_batch(jetpay: Jetpay, no_network: None) -> None:
    """A dry run checks the file and reports what would be done; it needs no token and makes no ledger."""
    run = jetpay(*capture(listed(["a", "b", "a"]), "--dry-run"))

    assert run == CommandResult(
        0,
        "debits.txt: 2 debits (1 given more than once), read from one id per line\nfirst: a\nlast:  b\n"
        "batch n1 in c.db: new; 2 debits would be captured\n",
        "",
    )
    assert files() == ["debits.txt"]


def test_a_dry_run_of_a_batch_that_has_begun(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A dry run reports what is stored of the batch, and sends nothing; another list has status 2."""
    debit_ids = reserve_many(sandbox, 2)
    jetpay(*capture(listed(debit_ids)))
    requests = sandbox.requests()

    known = jetpay(*capture("debits.txt", "--dry-run"))
    other = jetpay(*capture(listed([*debit_ids, "x"]), "--dry-run"))
    new = jetpay(*capture("debits.txt", "--dry-run", "--json", name="n2"))

    assert known.out.splitlines()[3] == (
        "batch n1 in c.db: exists with these debits, 2 captured and 0 rejected; 0 would be captured, and the status "
        "of 0 unknown ones checked again"
    )
    assert (other.status, other.out.splitlines()[3].split(";")[0]) == (
        2,
        "batch n1 in c.db: exists with other debits: 2 of these 3, and 0 others",
    )
    assert events(new) == [
        {
            "event": "dry_run",
            "ok": True,
            "batch": "n2",
            "total": 3,
            "duplicates": 0,
            "read_from": "one id per line",
            "first": debit_ids[0],
            "last": "x",
            "stored": None,
        }
    ]
    assert events(jetpay(*capture("debits.txt", "--dry-run", "--json")))[0]["stored"] == {
        "total": 2,
        "pending": 0,
        "sending": 0,
        "captured": 2,
        "accepted": 0,
        "waiting": None,
        "rejected": 0,
        "unknown": 0,
        "of_these": 2,
    }
    assert (known.status, new.status, sandbox.requests()) == (0, 0, requests)


def test_a_dry_run_of_a_pipe(jetpay: Jetpay, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is piped is called stdin."""
    with Path(listed(["a"])).open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)

        run = jetpay(*capture("-", "--dry-run"))

    assert run.out.startswith("stdin: 1 debits, read from one id per line\n")
