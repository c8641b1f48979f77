"""``jetpay captures``: a ledger is inspected and repaired without a token, and without the network."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from jetpay_async._cli import main
from jetpay_async._cli.commands import captures as command
from jetpay_async.ledger import Ledger
from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.cli.conftest import CommandResult, reserve_many, running, shorten_timeouts

Jetpay = Callable[..., CommandResult]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(name: str, debit_ids: list[str]) -> None:
    """Store a batch, and capture nothing."""

    async def store() -> None:
        async with Ledger("c.db", create=True) as ledger:
            await ledger.submit(name, debit_ids)

    asyncio.run(store())


@attrs.frozen
class CapturedBatch:
    """A batch n1 of three debits: the first was captured, the second rejected, the third is unknown."""

    sandbox: Sandbox
    debit_ids: list[str]
    ledger: Path


@pytest.fixture(scope="module")
def captured_batch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CapturedBatch]:
    sandbox = Sandbox(refuses_second_capture=False)
    directory = tmp_path_factory.mktemp("night")
    made = directory / "c.db"
    source = directory / "debits.txt"
    with running(sandbox):
        debit_ids = reserve_many(sandbox, 3)
        source.write_text("\n".join(debit_ids))
        sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="capture", identifier=debit_ids[1], status=402))
        sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture", identifier=debit_ids[2]))
        sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="status", count=9999, status=503))
        with pytest.MonkeyPatch.context() as monkeypatch:
            shorten_timeouts(monkeypatch)
            monkeypatch.setenv("JETPAY_API_TOKEN", sandbox.api_token)
            monkeypatch.setenv("JETPAY_BASE_URL", sandbox.url)
            assert main(["capture", str(source), f"--ledger={made}", "--batch=n1"]) == 4
        sandbox.faults.clear()
        yield CapturedBatch(sandbox, debit_ids, made)


@pytest.fixture
def three(captured_batch: CapturedBatch, here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The debits of that batch, whose ledger is in the working directory. There is no token."""
    monkeypatch.delenv("JETPAY_API_TOKEN", raising=False)
    shutil.copy(captured_batch.ledger, "c.db")
    return captured_batch.debit_ids


def test_status_of_all_batches(jetpay: Jetpay, three: list[str]) -> None:
    """Each batch is a line of a table with its counts."""
    submit("the second one", ["a", "b"])

    run = jetpay("captures", "status", "--ledger=c.db")

    header, first, second = run.out.splitlines()
    assert header.split() == [
        *("BATCH", "SUBMITTED", "(UTC)", "TOTAL", "CAPTURED", "ACCEPTED", "REJECTED", "UNKNOWN", "SENDING", "PENDING")
    ]
    assert re.fullmatch(r"n1 +20\d\d-..-.. ..:..:.. +3 +1 +0 +1 +1 +0 +0  complete", first)
    assert re.fullmatch(r"the second one  20\d\d-..-.. ..:..:.. +2 +0 +0 +0 +0 +0 +2  0% done", second)
    assert first.index(" 1 ") == header.index("CAPTURED") + len("CAPTURED") - 2
    assert (run.status, run.err) == (0, "")


def test_status_of_one_batch_as_json(jetpay: Jetpay, three: list[str]) -> None:
    """One batch alone is written as JSON, with its times."""
    submit("n2", ["a"])

    (document,) = map(
        json.loads, jetpay("captures", "status", "--ledger=c.db", "--batch=n2", "--json").out.splitlines()
    )

    assert document.pop("submitted_at").endswith("Z")
    assert document == {
        "batch": "n2",
        "finished_at": None,
        "total": 1,
        "pending": 1,
        "sending": 0,
        "captured": 0,
        "accepted": 0,
        "waiting": None,
        "rejected": 0,
        "unknown": 0,
        "complete": False,
    }


def test_a_ledger_without_batches(jetpay: Jetpay) -> None:
    """An empty ledger is reported as empty."""

    async def make() -> None:
        async with Ledger("c.db", create=True):
            pass

    asyncio.run(make())

    assert jetpay("captures", "status", "--ledger=c.db") == CommandResult(0, "no batch yet\n", "")


def test_list_those_that_need_a_person(jetpay: Jetpay, three: list[str]) -> None:
    """What was rejected or is unknown is listed with the reason, and of all batches with the batch."""
    run = jetpay("captures", "list", "--ledger=c.db", "--batch=n1")
    everywhere = jetpay("captures", "list", "--ledger=c.db")

    rejected, unknown = run.out.splitlines()
    assert rejected.startswith(f"{three[1]}  rejected  the API answered 402")
    assert unknown.startswith(f"{three[2]}  unknown  ")
    assert everywhere.out.splitlines() == [f"n1  {rejected}", f"n1  {unknown}"]


def test_list_by_state(jetpay: Jetpay, three: list[str]) -> None:
    """--state chooses others, as often as it is given; --json shows all that is known."""
    states = ("--state=captured", "--state=unknown")

    items = list(map(json.loads, jetpay("captures", "list", "--ledger=c.db", "--json", *states).out.splitlines()))

    assert [(item["debit_id"], item["state"]) for item in items] == [(three[0], "captured"), (three[2], "unknown")]
    assert (items[0]["transaction_state"], items[1]["error"]) == ("paid", "OutcomeUnknownError")
    lines = jetpay("captures", "list", "--ledger=c.db", "--state=captured", "--batch=n1").out
    assert lines == f"{three[0]}  captured  paid\n"


def test_nothing_to_list(jetpay: Jetpay) -> None:
    """An empty list is reported on stderr; as JSON it is empty."""
    submit("n1", ["a"])

    assert jetpay("captures", "list", "--ledger=c.db") == CommandResult(
        0, "", "jetpay: no debit is rejected or unknown\n"
    )
    assert jetpay("captures", "list", "--ledger=c.db", "--json") == CommandResult(0, "", "")


def test_export(jetpay: Jetpay, three: list[str]) -> None:
    """Everything is written as CSV to stdout, or to a file in the form of its name."""
    run = jetpay("captures", "export", "--ledger=c.db", "--batch=n1")
    to_file = jetpay("captures", "export", "--ledger=c.db", "--state=rejected", "--out=o.jsonl")
    as_json = jetpay("captures", "export", "--ledger=c.db", "--json")

    rows = list(csv.DictReader(run.out.splitlines()))
    assert [(row["batch"], row["debit_id"], row["state"]) for row in rows] == [
        ("n1", three[0], "captured"),
        ("n1", three[1], "rejected"),
        ("n1", three[2], "unknown"),
    ]
    assert to_file == CommandResult(0, "", "jetpay: 1 debits written to o.jsonl\n")
    assert json.loads(Path("o.jsonl").read_text())["debit_id"] == three[1]
    assert [json.loads(line)["state"] for line in as_json.out.splitlines()] == ["captured", "rejected", "unknown"]


def test_an_export_is_a_list_of_debits(
    jetpay: Jetpay, three: list[str], captured_batch: CapturedBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch whose file is gone goes on from its own export."""
    export = jetpay("captures", "export", "--ledger=c.db", "--batch=n1").out
    shorten_timeouts(monkeypatch)
    monkeypatch.setenv("JETPAY_API_TOKEN", captured_batch.sandbox.api_token)
    monkeypatch.setenv("JETPAY_BASE_URL", captured_batch.sandbox.url)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(export.encode())))

    run = jetpay("capture", "-", "--ledger=c.db", "--batch=n1")

    assert run.out.startswith("n1: 2 of 3 captured, 1 rejected, 0 unknown\n")
    assert sorted(debit.captures for debit in captured_batch.sandbox.debits) == [0, 1, 1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(
            "y\n",
            "1 debits are pending again. To capture them, repeat the command that captured the batch:\n",
            id="yes",
        ),
        pytest.param("\n", "", id="no"),
        pytest.param("", "", id="end of input"),
    ],
)
def test_retrying_asks_first(
    jetpay: Jetpay, three: list[str], monkeypatch: pytest.MonkeyPatch, answer: str, message: str
) -> None:
    """On a terminal it is asked for; anything but yes changes nothing."""
    stdin = io.StringIO(answer)
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)

    run = jetpay("captures", "retry-rejected", "--ledger=c.db", "--batch=n1")

    assert (run.status, run.out.startswith(message), bool(run.out)) == (0 if message else 130, True, bool(message))
    assert run.err.startswith("Try 1 rejected debits of n1 again? [y/N] ")
    assert ("nothing was changed" in run.err) == (not message)
    left = jetpay("captures", "list", "--ledger=c.db", "--state=rejected").out
    assert bool(left) == (not message)


def test_retrying_where_nobody_can_be_asked(jetpay: Jetpay, three: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal --yes is needed; with --json only the number is written."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    run = jetpay("captures", "retry-rejected", "--ledger=c.db", "--batch=n1")

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith("jetpay: argument --yes: required where nobody can be asked")
    again = ("captures", "retry-rejected", "--ledger=c.db", "--batch=n1", "--yes")
    assert json.loads(jetpay(*again, "--json").out) == {"batch": "n1", "pending_again": 1}
    assert jetpay(*again) == CommandResult(0, "no debit is rejected; nothing was changed\n", "")


def test_a_question_that_nobody_can_see(jetpay: Jetpay, three: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who is there, but does not see the question, has not agreed to anything."""
    stdin = io.StringIO("y\n")
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        run = jetpay("captures", "retry-rejected", "--ledger=c.db", "--batch=n1")

    assert (run.status, run.out) == (2, "")
    assert jetpay("captures", "list", "--ledger=c.db", "--state=rejected").out


@pytest.mark.parametrize("name", ["status", "list", "export", "retry-rejected"])
def test_an_absent_ledger_is_an_error(jetpay: Jetpay, name: str) -> None:
    """A path that does not exist is reported, and no file is made there."""
    run = jetpay("captures", name, "--ledger=nowhere.db", "--batch=n1")

    assert (run.status, run.out) == (2, "")
    assert re.fullmatch(r"jetpay: there is no ledger at .*nowhere\.db; check the path\n", run.err)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", ["status", "list", "export", "retry-rejected"])
def test_an_unknown_batch_is_an_error(jetpay: Jetpay, name: str) -> None:
    """A batch that the ledger does not have is reported."""
    submit("n1", ["a"])

    run = jetpay("captures", name, "--ledger=c.db", "--batch=n2")

    assert (run.status, run.err) == (2, "jetpay: the ledger has no batch 'n2'; check the key, or submit it\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["captures"], "the following arguments are required: COMMAND", id="command"),
        pytest.param(["captures", "status"], "the following arguments are required: --ledger", id="ledger"),
        pytest.param(["captures", "retry-rejected", "--ledger=c"], "required: --batch", id="batch"),
        pytest.param(["captures", "list", "--ledger=c", "--state=lost"], "invalid choice: 'lost'", id="state"),
        pytest.param(["capture", "a", "--rate", "0"], "argument --rate: '0' is not a number", id="rate"),
    ],
)
def test_bad_usage(jetpay: Jetpay, arguments: list[str], message: str) -> None:
    """Bad usage is explained on stderr, with status 2."""
    run = jetpay(*arguments)

    assert (run.status, run.out) == (2, "")
    assert message in run.err


def test_a_full_stdout(three: list[str]) -> None:
    """An export that stdout has no room for is reported in one line."""
    with Path("/dev/full").open("wb") as stdout:
        ran = subprocess.run(
            [sys.executable, "-m", "jetpay_async._cli", "captures", "export", "--ledger=c.db"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (ran.returncode, ran.stderr) == (74, "jetpay: stdout can't be written: No space left on device\n")


def test_a_reader_that_goes_away(three: list[str]) -> None:
    """``jetpay captures export | head -0`` ends without a traceback."""
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        ran = subprocess.run(
            [sys.executable, "-m", "jetpay_async._cli", "captures", "export", "--ledger=c.db"],
            stdout=reader.stdin,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_export_that_can_not_be_written(jetpay: Jetpay, three: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on a full disk has the exit status of lost output."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    run = jetpay("captures", "export", "--ledger=c.db", "--out=o.csv")

    assert (run.status, run.out) == (74, "")
    assert run.err.endswith("o.csv: No space left on device\n")


def test_a_list_that_nobody_reads_ends_early(jetpay: Jetpay, three: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the ledger is not read for a reader that has left."""
    written: list[str] = []

    def leave(line: str) -> bool:
        written.append(line)
        return False

    monkeypatch.setattr(command, "write_output", leave)

    assert jetpay("captures", "list", "--ledger=c.db").status == 0
    assert len(written) == 1
