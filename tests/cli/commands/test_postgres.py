"""The command line on a ledger in PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.cli.conftest import CommandResult, reserve_many

Jetpay = Callable[..., CommandResult]


def test_a_ledger_in_postgres(
    jetpay: Jetpay, sandbox: Sandbox, short_waits: None, postgres_ledger: str, tmp_path: Path
) -> None:
    """A URL is as good as a path, and its password is nowhere to be seen."""
    # The server here trusts everybody; a password is not wrong.
    url = f"{postgres_ledger}{'&' if '?' in postgres_ledger else '?'}password=sesame"
    source = tmp_path / "debits.txt"
    debit_ids = reserve_many(sandbox, 20)
    source.write_text("\n".join(debit_ids))
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="capture", identifier=debit_ids[3], status=402))
    early = jetpay("capture", str(source), "--ledger", url, "--batch=n1", "--dry-run")
    absent = jetpay("captures", "status", "--ledger", url)

    run = jetpay("capture", str(source), "--ledger", url, "--batch=n1", f"--out={tmp_path / 'o.csv'}")

    status = jetpay("captures", "status", "--ledger", url)
    listed = jetpay("captures", "list", "--ledger", url)
    dry = jetpay("capture", str(source), "--ledger", url, "--batch=n1", "--dry-run")
    assert (early.status, "n1 in postgresql://" in early.out, "new; 20 debits" in early.out) == (0, True, True)
    assert (absent.status, absent.err.startswith("jetpay: there is no ledger in")) == (2, True)
    assert (run.status, run.out.splitlines()[0]) == (1, "n1: 19 of 20 captured, 1 rejected, 0 unknown")
    assert "password=***" in run.out
    assert re.search(r"^n1 .* 20 +19 +0 +1 +0 +0 +0  complete$", status.out, re.MULTILINE)
    assert listed.out.startswith(f"n1  {debit_ids[3]}  rejected")
    assert "exists with these debits, 19 captured and 1 rejected" in dry.out
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 21
    assert sum(debit.captures for debit in sandbox.debits) == 19
    for each in (early, absent, run, status, listed, dry):
        assert "sesame" not in each.out + each.err


def test_a_server_that_is_not_there(jetpay: Jetpay) -> None:
    """A server that can't be reached is reported in one line, without the password, with status 2."""
    pytest.importorskip("psycopg")

    run = jetpay("captures", "status", "--ledger=postgresql://me:sesame@127.0.0.1:1/d")

    assert (run.status, run.out, run.err.count("\n")) == (2, "", 1)
    assert run.err.startswith("jetpay: the ledger d at 127.0.0.1:1: ")
    assert "sesame" not in run.err


def test_a_url_that_is_none(jetpay: Jetpay) -> None:
    """A URL that can't be read is rejected by the option's name, and nothing of it is shown."""
    pytest.importorskip("psycopg")

    run = jetpay("captures", "status", "--ledger=postgresql://me:sesame@h/%zz")

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith("jetpay: argument --ledger: this postgresql:// URL can't be read; ")
    assert "sesame" not in run.err
