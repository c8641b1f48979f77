"""``jetpay capture FILE --ledger ...``, in this process, against a sandbox that counts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jetpay_async._cli.commands import capture_file as command
from jetpay_async._cli.progress import display, model
from jetpay_async.ledger import Progress
from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.cli.conftest import CommandResult, reserve_many
from tests.cli.lists import capture, captured, events, files, ledger, listed

Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("short_waits", "empty_directory")


def test_a_file_is_captured(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """Every debit is captured once, and a line reports it."""
    source = listed(reserve_many(sandbox, 40))

    run = jetpay(*capture(source, "--concurrency=8", "--rate=1000"))

    assert run == CommandResult(
        0,
        "n1: 40 of 40 captured, 0 rejected, 0 unknown\n",
        "jetpay: n1: 40 of 40: 40 captured, 0 rejected, 0 unknown\n",
    )
    assert captured(sandbox) == [1] * 40


def test_the_same_command_again_sends_nothing(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A batch that is complete stays so: its list, repetitions or not, in whatever form, captures nothing again."""
    debit_ids = reserve_many(sandbox, 5)
    jetpay(*capture(listed(debit_ids)))
    Path("again.jsonl").write_text("".join(f'{{"debit_id": "{each}"}}\n' for each in [*debit_ids, debit_ids[0]]))
    requests = sandbox.requests()

    run = jetpay(*capture("again.jsonl"))

    assert (run.status, run.out) == (0, "n1: 5 of 5 captured, 0 rejected, 0 unknown (1 given more than once)\n")
    assert (sandbox.requests(), captured(sandbox)) == (requests, [1] * 5)


def test_rejected_debits_are_reported_and_retried(jetpay: Jetpay, sandbox: Sandbox, short_timeouts: None) -> None:
    """A rejected debit has status 1 and the command that shows why; a retry captures it."""
    debit_ids = reserve_many(sandbox, 3)
    fault = Fault(kind=FaultKind.ERROR_BEFORE, route="capture", identifier=debit_ids[1], status=402)
    sandbox.faults.add(fault)

    run = jetpay(*capture(listed(debit_ids)))

    assert (run.status, run.out.splitlines()) == (
        1,
        [
            "n1: 2 of 3 captured, 1 rejected, 0 unknown",
            "Which, and why: jetpay captures list --ledger c.db --batch n1",
        ],
    )
    assert re.fullmatch(
        rf"{debit_ids[1]}  rejected  the API answered 402.*\n",
        jetpay(*ledger("list", "--batch=n1")).out,
    )
    sandbox.faults.clear()
    retry = jetpay(*ledger("retry-rejected", "--batch=n1", "--yes"))
    assert retry.out.endswith("\n  jetpay capture FILE --ledger c.db --batch n1\n")
    assert jetpay(*capture("debits.txt")).status == 0
    assert captured(sandbox) == [1] * 3


def test_unknown_is_graver_than_rejected(jetpay: Jetpay, sandbox: Sandbox, short_timeouts: None) -> None:
    """An unknown outcome has status 4, and the same command checks the debit again."""
    debit_ids = reserve_many(sandbox, 3)
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="capture", identifier=debit_ids[0], status=402))
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture", identifier=debit_ids[1]))
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="status", count=9999, status=503))

    run = jetpay(*capture(listed(debit_ids)))

    assert (run.status, run.out.splitlines()[0]) == (4, "n1: 1 of 3 captured, 1 rejected, 1 unknown")
    assert "the same command checks their status again" in run.out
    sandbox.faults.clear()
    assert jetpay(*capture("debits.txt")).out.splitlines()[0] == "n1: 2 of 3 captured, 1 rejected, 0 unknown"
    assert sorted(captured(sandbox)) == [0, 1, 1]


def test_json(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json stdout has the progress and the report, an object a line, and stderr nothing."""
    monkeypatch.setattr(display.JsonLines, "interval_seconds", 0.01)
    debit_ids = reserve_many(sandbox, 20)

    run = jetpay(*capture(listed([*debit_ids, debit_ids[0]]), "--json", "--concurrency=2"))

    *steps, last, report = events(run)
    assert (run.status, run.err) == (0, "")
    assert report.pop("submitted_at") < report.pop("finished_at")
    assert report == {
        "event": "report",
        "key": "n1",
        "total": 20,
        "captured": 20,
        "accepted": 0,
        "rejected": 0,
        "unknown": 0,
        "duplicates": 1,
    }
    assert (last["event"], last["captured"], last["pending"]) == ("progress", 20, 0)
    assert len(steps) > 1
    assert {"batch", "total", "sending", "per_second", "seconds_left"} <= steps[0].keys()


def test_plain_lines_now_and_then(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is no terminal it gets a line every few seconds: how much is done, the rate and what is left."""
    monkeypatch.setattr(display.TextLines, "interval_seconds", 0.01)

    run = jetpay(*capture(listed(reserve_many(sandbox, 40)), "--concurrency=2"))

    lines = run.err.splitlines()
    form = r"jetpay: n1: \d+ of 40: \d+ captured, 0 rejected, 0 unknown, \d+ in flight, \d+/s, (\?|\d s) left"
    assert len(lines) > 2
    assert all(re.fullmatch(form, line) for line in lines[:-1])


@pytest.mark.asyncio
async def test_the_end_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples between the last outcome and the report are not shown: the last line is that of the end."""

    class Complete:
        async def progress(self) -> Progress:
            return Progress(total=1, pending=0, sending=0, captured=1, rejected=0, unknown=0)

        async def wait(self) -> str:
            await asyncio.sleep(0.05)
            return "the report"

    shown: list[model.ProgressSample] = []

    report = await command._wait(Complete(), shown.append, 0.001)  # type: ignore[arg-type] # a batch in short

    assert (str(report), len(shown)) == ("the report", 1)


def test_a_bad_line_stops_everything(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A bad line at the end of the file keeps the first one from being sent, and no ledger is made."""
    source = listed([*reserve_many(sandbox, 1), "a/b"])

    run = jetpay(*capture(source))

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith("jetpay: debits.txt: a line is not valid; nothing was sent\n  line 2: 'a/b' is not an id")
    assert (sandbox.requests("capture"), files()) == (0, ["debits.txt"])


def test_another_list_under_the_same_name(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A batch that exists with other debits is left alone, with status 2."""
    debit_ids = reserve_many(sandbox, 2)
    jetpay(*capture(listed(debit_ids[:1])))

    run = jetpay(*capture(listed(debit_ids)))

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith("jetpay: batch 'n1' exists with other debits")
    assert captured(sandbox) == [1, 0]


def test_no_token(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token nothing is stored either."""
    source = listed(reserve_many(sandbox, 1))
    monkeypatch.delenv("JETPAY_API_TOKEN")

    run = jetpay(*capture(source))

    assert (run.status, files()) == (2, ["debits.txt"])
    assert run.err.startswith("jetpay: JETPAY_API_TOKEN is not set")


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        pytest.param("no/c.db", "n1", "the ledger .*no/c.db: unable to open", id="no directory"),
        pytest.param("debits.txt", "n1", "the ledger .*debits.txt: file is not a database", id="no ledger"),
        pytest.param("mysql://u:sesame@h/c", "n1", "argument --ledger: is the path of a file, or", id="other URL"),
        pytest.param("c.db", "", "argument --batch: ", id="no name"),
    ],
)
def test_a_ledger_that_can_not_be_used(jetpay: Jetpay, sandbox: Sandbox, path: str, name: str, message: str) -> None:
    """A ledger or a name that won't do is one line and status 2, and nothing is sent."""
    source = listed(["debit_1"])

    run = jetpay("capture", source, f"--ledger={path}", f"--batch={name}")

    assert (run.status, run.out) == (2, "")
    assert re.fullmatch(rf"jetpay: {message}.*\n", run.err)
    assert "sesame" not in run.err
    assert sandbox.requests() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("debits.txt", "argument debits.txt: is a file; to capture the debits in it, add", id="file"),
        pytest.param("debit_1 -", "argument -: debit ids from stdin need --ledger and --batch", id="stdin"),
        pytest.param("debit_1 --batch n1", "argument --batch: needs --ledger", id="batch"),
        pytest.param("debit_1 --column x", "argument --column: needs --ledger", id="column"),
        pytest.param("debit_1 --concurrency 2", "argument --concurrency: needs --ledger", id="concurrency"),
        pytest.param("debit_1 --rate 2", "argument --rate: needs --ledger", id="rate"),
        pytest.param("debit_1 --dry-run", "argument --dry-run: needs --ledger", id="dry run"),
        pytest.param("debit_1 --out o", "argument --out: needs --ledger", id="out"),
        pytest.param("debits.txt --ledger c.db", "argument --batch: required with --ledger", id="no batch"),
        pytest.param("a b --ledger c.db --batch n", "argument FILE: with --ledger, give one file", id="several"),
        pytest.param("nil --ledger c.db --batch n", "can't read nil: No such file", id="no file"),
        pytest.param("debits.txt --ledger c.db --batch n --json --out -", "argument --out: --json writes", id="stdout"),
    ],
)
def test_the_two_forms_are_not_mixed(jetpay: Jetpay, sandbox: Sandbox, arguments: str, message: str) -> None:
    """Arguments of both forms are refused with what to write instead, and nothing is sent."""
    listed(["debit_1"])

    run = jetpay("capture", *arguments.split())

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith(f"jetpay: {message}")
    assert (sandbox.requests(), files()) == (0, ["debits.txt"])
