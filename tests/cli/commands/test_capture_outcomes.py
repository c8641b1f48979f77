"""``jetpay capture FILE --ledger ... --out ...``: the outcomes of a batch in a file or on stdout."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.cli.conftest import CommandResult, reserve_many
from tests.cli.lists import capture, files, listed

Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("short_waits", "empty_directory")


def test_outcomes_as_csv(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """--out gets a row for every debit of the batch in the list's order, and replaces what was there."""
    debit_ids = reserve_many(sandbox, 3)
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="capture", identifier=debit_ids[1], status=422))
    Path("o.csv").write_text("old")

    run = jetpay(*capture(listed(debit_ids), "--out=o.csv"))

    with Path("o.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert run.status == 1
    assert [(row["debit_id"], row["state"], row["confirmed_by_status"]) for row in rows] == [
        (debit_ids[0], "captured", "false"),
        (debit_ids[1], "rejected", "false"),
        (debit_ids[2], "captured", "false"),
    ]
    assert (rows[1]["error"], rows[1]["status"]) == ("InvalidRequestError", "422")
    assert rows[1]["reason"].startswith("the API answered 422")
    assert (rows[0]["transaction_state"], rows[0]["attempts"], rows[0]["reason"]) == ("paid", "1", "")
    assert re.fullmatch(r"20..-..-..T..:..:..\.\d{3}Z", rows[0]["finished_at"])
    assert files() == ["c.db", "debits.txt", "o.csv"]


def test_outcomes_as_json_lines(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A name that ends in .jsonl gets JSON lines."""
    (debit_id,) = reserve_many(sandbox, 1)

    jetpay(*capture(listed([debit_id]), "--out=o.jsonl"))

    (line,) = Path("o.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["debit_id"], row["state"], row["confirmed_by_status"], row["reason"]) == (
        debit_id,
        "captured",
        False,
        None,
    )


def rows_of(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_other_columns_of_a_list_are_kept(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """An outcome stands beside what the list says of the debit; a column called as one of ours gets another name."""
    first, second = reserve_many(sandbox, 2)
    Path("debits.csv").write_text(
        f'booking;debit_id;state;;booking\nB-1;{first};open;x;one\nB-2;{second};=1+1;y;"two\nlines"\nB-9;{first};;;\n'
    )

    run = jetpay(*capture("debits.csv", "--out=o.csv"))

    columns = ("debit_id", "state", "booking", "list_state", "column_4", "booking_5")
    assert run.status == 0
    assert [tuple(row[name] for name in columns) for row in rows_of("o.csv")] == [
        (first, "captured", "B-1", "open", "x", "one"),
        (second, "captured", "B-2", "'=1+1", "y", "two\nlines"),
    ]


def test_the_other_keys_of_a_list_are_kept(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """Amounts stay exact; what only JSON can hold is JSON in a cell."""
    first, second, third = reserve_many(sandbox, 3)
    Path("debits.jsonl").write_text(
        f'{{"amount": 100.50, "Debit ID": "{first}", "tags": ["a", {{"b": 1.10}}]}}\n'
        f'{{"debit_id": "{second}", "note": "odd \\ud800", "paid": true}}\n"{third}"\n'
    )

    jetpay(*capture("debits.jsonl", "--out=o.csv"))
    jetpay(*capture("debits.jsonl", "--out=o.jsonl"))

    columns = ("debit_id", "amount", "tags", "note", "paid")
    assert [tuple(row[name] for name in columns) for row in rows_of("o.csv")] == [
        (first, "100.50", '["a",{"b":1.10}]', "", ""),
        (second, "", "", "odd \\ud800", "true"),
        (third, "", "", "", ""),
    ]
    lines = Path("o.jsonl").read_text().splitlines()
    assert '"listed":{"amount":100.50,"tags":["a",{"b":1.10}]}' in lines[0]
    assert json.loads(lines[1])["listed"] == {"note": "odd \\ud800", "paid": True}
    assert json.loads(lines[2])["listed"] == {}


def test_a_column_in_another_encoding_is_kept(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """What is not UTF-8 is written as an escape, rather than not at all."""
    (debit_id,) = reserve_many(sandbox, 1)
    Path("debits.csv").write_bytes(b"debit_id,na\xefme\n" + debit_id.encode() + b",Ren\xe9\n")

    run = jetpay(*capture("debits.csv", "--out=o.csv"))

    (row,) = rows_of("o.csv")
    assert run.status == 0
    assert row["na\\udcefme"] == "Ren\\udce9"


def test_too_many_keys(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A file with thousands of columns helps nobody: it is refused before anything is sent."""
    Path("debits.jsonl").write_text("".join(f'{{"debit_id": "d{n}", "k{n}": 1}}\n' for n in range(1001)))

    run = jetpay(*capture("debits.jsonl", "--out=o.csv"))

    assert run.status == 2
    assert "more than 1,000 columns or keys" in run.err
    assert jetpay(*capture("debits.jsonl", "--dry-run", "--out=o.csv")).status == 0


def test_outcomes_on_stdout(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """--out - leaves stdout to the outcomes: the report goes to stderr."""
    run = jetpay(*capture(listed(reserve_many(sandbox, 2)), "--out=-"))

    assert [row["state"] for row in csv.DictReader(run.out.splitlines())] == ["captured", "captured"]
    assert run.err.endswith("\njetpay: n1: 2 of 2 captured, 0 rejected, 0 unknown\n")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        pytest.param("/dev/null", "/dev/null is not a file; - writes to stdout", id="device"),
        pytest.param(".", ". is not a file; - writes to stdout", id="directory"),
        pytest.param("no/where.csv", "there is no directory ", id="no directory"),
        pytest.param("locked.csv", "the directory .* can't be written to", id="no permission"),
    ],
)
def test_outcomes_that_could_not_be_written(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, out: str, message: str
) -> None:
    """That --out can't be written is found out before anything is sent."""
    source = listed(reserve_many(sandbox, 1))
    monkeypatch.setattr(os, "access", lambda *_: False)

    run = jetpay(*capture(source, f"--out={out}"))

    assert (run.status, run.out) == (2, "")
    assert re.fullmatch(rf"jetpay: argument --out: {message}.*\n", run.err)
    assert sandbox.requests("capture") == 0


def test_a_disk_that_fills_up_loses_no_outcome(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If --out can't be written, the old file stays; status 74 and a command to write it again are shown."""
    Path("o.csv").write_text("old")
    source = listed(reserve_many(sandbox, 1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    run = jetpay(*capture(source, "--out=o.csv"))

    assert (run.status, run.out) == (74, "n1: 1 of 1 captured, 0 rejected, 0 unknown\n")
    assert run.err.endswith(
        "o.csv: No space left on device; "
        "to write it again: jetpay captures export --ledger c.db --batch n1 --out FILE\n"
    )
    assert Path("o.csv").read_text() == "old"
    assert files() == ["c.db", "debits.txt", "o.csv"]
