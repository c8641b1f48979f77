"""``jetpay capture FILE --ledger ...``, in this process, against a sandbox that counts."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jetpay_async import OutcomeUnknownError
from jetpay_async._cli.commands import capture_file as batch
from jetpay_async._cli.io import exporter as outcomes
from jetpay_async._cli.io.debit_reader import Debits
from jetpay_async._cli.progress import display as progress
from jetpay_async._cli.progress import rich_bar as bar
from jetpay_async.ledger import Batch, CapturesStoppedError, LedgerError, Progress, Report
from jetpay_async.sandbox import Fault, FaultKind, Sandbox

from .conftest import Run, reserve_many

Jetpay = Callable[..., Run]

pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(debit_ids: list[str], name: str = "debits.txt") -> str:
    """A file with these debits."""
    Path(name).write_text("".join(f"{debit_id}\n" for debit_id in debit_ids))
    return name


def capture(source: str, *options: str, name: str = "n1") -> tuple[str, ...]:
    return ("capture", source, "--ledger=c.db", f"--batch={name}", *options)


def ledger(command: str, *options: str) -> tuple[str, ...]:
    return ("captures", command, "--ledger=c.db", *options)


def files() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def captured(sandbox: Sandbox) -> list[int]:
    """How often each debit's money was taken, by the sandbox's books."""
    return [debit.captures for debit in sandbox.debits]


def events(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.out.splitlines()]


# --- the way through --------------------------------------------------------------------------------------------------


def test_a_file_is_captured(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """Every debit is captured once, and a line says so."""
    source = listed(reserve_many(sandbox, 40))

    run = jetpay(*capture(source, "--concurrency=8", "--rate=1000"))

    assert run == Run(
        0,
        "n1: 40 of 40 captured, 0 rejected, 0 unknown\n",
        "jetpay: n1: 40 of 40: 40 captured, 0 rejected, 0 unknown\n",
    )
    assert captured(sandbox) == [1] * 40


def test_the_same_command_again_sends_nothing(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A batch that is complete stays so: its list, repetitions or not, in whatever form, takes no money again."""
    debit_ids = reserve_many(sandbox, 5)
    jetpay(*capture(listed(debit_ids)))
    Path("again.jsonl").write_text("".join(f'{{"debit_id": "{each}"}}\n' for each in [*debit_ids, debit_ids[0]]))
    requests = sandbox.requests()

    run = jetpay(*capture("again.jsonl"))

    assert (run.status, run.out) == (0, "n1: 5 of 5 captured, 0 rejected, 0 unknown (1 given more than once)\n")
    assert (sandbox.requests(), captured(sandbox)) == (requests, [1] * 5)


def test_refused_ones_are_told_and_retried(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A rejected debit leaves status 1 and the command that tells why; put back, the next run captures it."""
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


def test_unknown_beats_refused(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """If what became of a debit is unknown, status 4 says so, and the same command again looks at it once more."""
    debit_ids = reserve_many(sandbox, 3)
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="capture", identifier=debit_ids[0], status=402))
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture", identifier=debit_ids[1]))
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="status", count=99, status=503))

    run = jetpay(*capture(listed(debit_ids)))

    assert (run.status, run.out.splitlines()[0]) == (4, "n1: 1 of 3 captured, 1 rejected, 1 unknown")
    assert "the same command again looks at them once more" in run.out
    sandbox.faults.clear()
    assert jetpay(*capture("debits.txt")).out.splitlines()[0] == "n1: 2 of 3 captured, 1 rejected, 0 unknown"
    assert sorted(captured(sandbox)) == [0, 1, 1]


def test_json(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json stdout has the progress and the report, an object a line, and stderr nothing."""
    monkeypatch.setattr(progress._JsonLines, "interval", 0.01)
    debit_ids = reserve_many(sandbox, 20)

    run = jetpay(*capture(listed([*debit_ids, debit_ids[0]]), "--json", "--concurrency=2"))

    *steps, last, report = events(run)
    assert (run.status, run.err) == (0, "")
    assert report.pop("submitted_at") < report.pop("finished_at")  # type: ignore[operator] - both are text
    assert report == {
        "event": "report",
        "key": "n1",
        "total": 20,
        "captured": 20,
        "rejected": 0,
        "unknown": 0,
        "duplicates": 1,
    }
    assert (last["event"], last["captured"], last["pending"]) == ("progress", 20, 0)
    assert len(steps) > 1
    assert {"batch", "total", "sending", "per_second", "seconds_left"} <= steps[0].keys()


def test_plain_lines_now_and_then(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is no terminal it gets a line every few seconds: how much is done, the rate and what is left."""
    monkeypatch.setattr(progress._Lines, "interval", 0.01)

    run = jetpay(*capture(listed(reserve_many(sandbox, 40)), "--concurrency=2"))

    lines = run.err.splitlines()
    form = r"jetpay: n1: \d+ of 40: \d+ captured, 0 rejected, 0 unknown, \d+ in flight, \d+/s, (\?|\d s) left"
    assert len(lines) > 2
    assert all(re.fullmatch(form, line) for line in lines[:-1])


@pytest.mark.asyncio
async def test_the_end_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks between the last outcome and the report show nothing: the last line is the one of the end."""

    class Complete:
        async def progress(self) -> Progress:
            return Progress(total=1, pending=0, sending=0, captured=1, rejected=0, unknown=0)

        async def wait(self) -> str:
            await asyncio.sleep(0.05)
            return "the report"

    shown: list[progress.ProgressSample] = []

    report = await batch._wait(Complete(), shown.append, 0.001)  # type: ignore[arg-type] # a batch in short

    assert (report, len(shown)) == ("the report", 1)


# --- on a terminal ----------------------------------------------------------------------------------------------------


def pretend_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(bar.Bar, "interval", 0.02)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "100"), ("LINES", "30")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_a_bar_on_a_terminal(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal stderr has a bar with the rate and what is left, in red what a person has to look at."""
    debit_ids = reserve_many(sandbox, 40)
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="capture", identifier=debit_ids[0], status=402))
    # Long enough for a bar to be drawn on the way.
    sandbox.faults.add(Fault(kind=FaultKind.SLOW_AFTER, route="capture", count=len(debit_ids), seconds=0.02))
    pretend_terminal(monkeypatch)

    run = jetpay(*capture(listed(debit_ids), "--concurrency=2"))

    text = CONTROL.sub("", run.err)
    assert (run.status, run.out.splitlines()[0]) == (1, "n1: 39 of 40 captured, 1 rejected, 0 unknown")
    assert re.search(r"in flight  \d+/s  (\?|\d s) left", text)
    assert re.search(r"100% 40/40 *\n39 captured  1 rejected  0 unknown", text)
    assert "\x1b[33m1 rejected" in run.err
    assert run.err.rindex("\x1b[?25h") > run.err.rindex("\x1b[?25l")


def test_no_bar_is_left_of_what_does_not_begin(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the batch is rejected the bar goes away, and the reason stands alone."""
    jetpay(*capture(listed(reserve_many(sandbox, 1))))
    pretend_terminal(monkeypatch)

    run = jetpay(*capture(listed(["debit_1"])))

    before, message = run.err.split("jetpay: ")
    assert message.startswith("batch 'n1' exists with other debits")
    assert before.endswith("\x1b[1A\x1b[2K")  # up a line, and erase it


@pytest.mark.parametrize("lacking", ["rich", "TERM"])
def test_a_lesser_terminal_gets_lines(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """Without rich, and on a dumb terminal, there are plain lines."""
    source = listed(reserve_many(sandbox, 2))
    pretend_terminal(monkeypatch)
    if lacking == "rich":
        monkeypatch.setitem(sys.modules, "rich", None)
    else:
        monkeypatch.setenv("TERM", "dumb")

    run = jetpay(*capture(source))

    assert (run.status, run.err) == (0, "jetpay: n1: 2 of 2: 2 captured, 0 rejected, 0 unknown\n")


# --- outcomes ---------------------------------------------------------------------------------------------------------


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
    told = json.loads(line)
    assert (told["debit_id"], told["state"], told["confirmed_by_status"], told["reason"]) == (
        debit_id,
        "captured",
        False,
        None,
    )


def test_outcomes_on_stdout(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """--out - leaves stdout to the outcomes: the report goes to stderr."""
    run = jetpay(*capture(listed(reserve_many(sandbox, 2)), "--out=-"))

    assert [row["state"] for row in csv.DictReader(run.out.splitlines())] == ["captured", "captured"]
    assert run.err.endswith("\nn1: 2 of 2 captured, 0 rejected, 0 unknown\n")


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
    monkeypatch.setattr(outcomes.os, "access", lambda *_: False)

    run = jetpay(*capture(source, f"--out={out}"))

    assert (run.status, run.out) == (2, "")
    assert re.fullmatch(rf"jetpay: argument --out: {message}.*\n", run.err)
    assert sandbox.requests("capture") == 0


def test_a_disk_that_fills_up_loses_no_outcome(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If --out can't be written in the end, the old file is whole, and status 3 and a command say how to get it."""
    Path("o.csv").write_text("old")
    source = listed(reserve_many(sandbox, 1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outcomes.os, "fsync", full)

    run = jetpay(*capture(source, "--out=o.csv"))

    assert (run.status, run.out) == (3, "n1: 1 of 1 captured, 0 rejected, 0 unknown\n")
    assert run.err.endswith(
        "o.csv: No space left on device; "
        "to write it again: jetpay captures export --ledger c.db --batch n1 --out FILE\n"
    )
    assert Path("o.csv").read_text() == "old"
    assert files() == ["c.db", "debits.txt", "o.csv"]


# --- what does not begin ----------------------------------------------------------------------------------------------


def test_a_bad_line_stops_everything(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A bad line at the end of the file keeps the first one from being sent, and no ledger is made."""
    source = listed([*reserve_many(sandbox, 1), "a/b"])

    run = jetpay(*capture(source))

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith("jetpay: debits.txt: a line is not right; nothing was sent\n  line 2: 'a/b' is not an id")
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
        pytest.param("debit_1 --concurrency 2", "argument --concurrency: needs --ledger", id="concurrency"),
        pytest.param("debit_1 --rate 2", "argument --rate: needs --ledger", id="rate"),
        pytest.param("debit_1 --dry-run", "argument --dry-run: needs --ledger", id="dry run"),
        pytest.param("debit_1 --out o", "argument --out: needs --ledger", id="out"),
        pytest.param("debits.txt --ledger c.db", "argument --batch: is needed with --ledger", id="no batch"),
        pytest.param("a b --ledger c.db --batch n", "argument FILE: with --ledger it is one file", id="several"),
        pytest.param("nil --ledger c.db --batch n", "can't read nil: No such file", id="no file"),
        pytest.param("debits.txt --ledger c.db --batch n --json --out -", "argument --out: --json writes", id="stdout"),
    ],
)
def test_the_two_forms_are_not_mixed(jetpay: Jetpay, sandbox: Sandbox, arguments: str, message: str) -> None:
    """Arguments of both forms are rejected with what to say instead, and nothing is sent."""
    listed(["debit_1"])

    run = jetpay("capture", *arguments.split())

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith(f"jetpay: {message}")
    assert (sandbox.requests(), files()) == (0, ["debits.txt"])


# --- dry runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JETPAY_API_TOKEN", raising=False)
    monkeypatch.delenv("JETPAY_BASE_URL", raising=False)


def test_a_dry_run_of_a_new_batch(jetpay: Jetpay, no_network: None) -> None:
    """A dry run checks the file and says what would be done; it needs no token and makes no ledger."""
    run = jetpay(*capture(listed(["a", "b", "a"]), "--dry-run"))

    assert run == Run(
        0,
        "debits.txt: 2 debits (1 given more than once)\nbatch n1 in c.db: new; 2 debits would be captured\n",
        "",
    )
    assert files() == ["debits.txt"]


def test_a_dry_run_of_a_batch_that_has_begun(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A dry run tells what is stored of the batch, and sends nothing; another list would be rejected, with status 2."""
    debit_ids = reserve_many(sandbox, 2)
    jetpay(*capture(listed(debit_ids)))
    requests = sandbox.requests()

    known = jetpay(*capture("debits.txt", "--dry-run"))
    other = jetpay(*capture(listed([*debit_ids, "x"]), "--dry-run"))
    new = jetpay(*capture("debits.txt", "--dry-run", "--json", name="n2"))

    assert known.out.splitlines()[1] == (
        "batch n1 in c.db: is there with these debits, 2 captured and 0 rejected; 0 would be captured, and 0 unknown "
        "looked at again"
    )
    assert (other.status, other.out.splitlines()[1].split(";")[0]) == (
        2,
        "batch n1 in c.db: is there with other debits: 2 of these 3, and 0 others",
    )
    assert events(new) == [{"event": "dry_run", "ok": True, "batch": "n2", "total": 3, "duplicates": 0, "stored": None}]
    assert events(jetpay(*capture("debits.txt", "--dry-run", "--json")))[0]["stored"] == {
        "total": 2,
        "pending": 0,
        "sending": 0,
        "captured": 2,
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

    assert run.out.startswith("stdin: 1 debits\n")


# --- what ends it early -----------------------------------------------------------------------------------------------


def test_ctrl_c_stops_cleanly(
    jetpay: Jetpay, sandbox: Sandbox, interrupt_when: Callable[[Callable[[], bool]], None]
) -> None:
    """After Ctrl-C nothing more is sent and nothing is in doubt; the same command again captures the rest."""
    source = listed(reserve_many(sandbox, 200))
    interrupt_when(lambda: sandbox.requests("capture") >= 20)

    run = jetpay(*capture(source, "--concurrency=4", "--rate=100"))

    done = sum(captured(sandbox))
    stopping, stopped, go_on = run.err.splitlines()
    assert (run.status, run.out) == (130, "")
    assert stopping.startswith("jetpay: stopping: nothing more is sent")
    assert stopped == f"jetpay: interrupted; {done} of 200 are done"
    assert go_on == (
        "Run the same command again to go on; `jetpay captures status --ledger c.db --batch n1` tells where it stands."
    )
    assert 20 <= done < 200
    assert jetpay(*capture(source)).status == 0
    assert captured(sandbox) == [1] * 200


def test_ctrl_c_as_json(jetpay: Jetpay, sandbox: Sandbox, interrupt_when: Callable[[Callable[[], bool]], None]) -> None:
    """With --json the last object says where it stopped, and why."""
    source = listed(reserve_many(sandbox, 100))
    interrupt_when(lambda: sandbox.requests("capture") >= 5)

    run = jetpay(*capture(source, "--json", "--rate=100"))

    last = events(run)[-1]
    assert (run.status, last["event"], last["reason"], last["total"]) == (130, "stopped", "interrupted", 100)


@pytest.mark.parametrize("place", [0, 2500], ids=["first", "last"])
def test_ctrl_c_while_the_batch_is_stored(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Ctrl-C before the batch is stored leaves none; a moment later it leaves one of which nothing was sent."""
    source = listed([f"debit_{number}" for number in range(2501)])
    genuine = Debits.__iter__

    def interrupting(self: Debits) -> Iterator[str]:
        for number, debit_id in enumerate(genuine(self)):
            if number == place:
                os.kill(os.getpid(), signal.SIGINT)
            yield debit_id

    monkeypatch.setattr(Debits, "__iter__", interrupting)

    run = jetpay(*capture(source))

    stored = jetpay(*ledger("status", "--json")).out
    assert (run.status, run.out, sandbox.requests("capture")) == (130, "", 0)
    if place:
        assert run.err.splitlines()[1] == "jetpay: interrupted; 0 of 2,501 are done"
        assert json.loads(stored)["pending"] == 2501
    else:
        assert run.err.splitlines()[1] == "jetpay: interrupted before the batch was stored: nothing was sent"
        assert stored == ""


def test_a_dead_api(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers the run ends before its end, with status 3 and the reason; it can be gone on with."""
    source = listed(reserve_many(sandbox, 50))
    genuine = sandbox.url
    monkeypatch.setenv("JETPAY_BASE_URL", "http://127.0.0.1:1")

    run = jetpay(*capture(source, "--concurrency=4"))

    assert (run.status, run.out) == (3, "")
    assert "jetpay: stopped: nothing was sent; calling again is safe (ClientConnectorError: " in run.err
    assert "; 0 of 50 are done\nRun the same command again" in run.err
    monkeypatch.setenv("JETPAY_BASE_URL", genuine)
    assert jetpay(*capture(source)).status == 0
    assert captured(sandbox) == [1] * 50


def test_a_wrong_token(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is rejected ends the run, is not shown, and no debit is called rejected because of it."""
    source = listed(reserve_many(sandbox, 50))
    monkeypatch.setenv("JETPAY_API_TOKEN", "open-sesame")

    run = jetpay(*capture(source))

    assert run.status == 3
    assert "stopped: the API answered 401" in run.err
    assert "sesame" not in run.err + run.out
    assert json.loads(jetpay(*ledger("status", "--json")).out)["pending"] == 50


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        pytest.param(LedgerError("the disk is gone", debit_id="d"), "the disk is gone", id="ledger"),
        pytest.param(OutcomeUnknownError("lost", reason="no answer"), "no answer", id="unknown"),
        pytest.param(RuntimeError("oh"), "RuntimeError: oh", id="a fault of our own"),
        pytest.param(None, "the end", id="no cause"),
    ],
)
def test_the_reason_of_an_early_end(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, cause: Exception | None, reason: str
) -> None:
    """Why a run ended is told, in words and as JSON, also where the ledger can't even tell how far it is."""

    async def fail(self: Batch) -> Report:
        raise CapturesStoppedError("the end", key=self.key, progress=None) from cause

    monkeypatch.setattr(Batch, "wait", fail)

    run = jetpay(*capture(listed(reserve_many(sandbox, 1))))
    as_json = jetpay(*capture("debits.txt", "--json"))

    assert (run.status, run.err.splitlines()[0]) == (3, f"jetpay: stopped: {reason}")
    assert events(as_json)[-1] == {"event": "stopped", "batch": "n1", "reason": reason}


def test_what_is_in_doubt_is_told(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends with debits in doubt says how many."""

    async def fail(self: Batch) -> Report:
        stands = Progress(total=9, pending=3, sending=2, captured=4, rejected=0, unknown=0)
        raise CapturesStoppedError("the end", key=self.key, progress=stands)

    monkeypatch.setattr(Batch, "wait", fail)

    run = jetpay(*capture(listed(reserve_many(sandbox, 1))))

    assert run.err.splitlines()[0] == "jetpay: stopped: the end; 4 of 9 are done, 2 in flight or in doubt"


def test_doubts_of_an_earlier_run_are_announced(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for the doubts that a killed run left is told what for."""

    async def doubtful(*_: object) -> Progress:
        return Progress(total=1, pending=0, sending=1, captured=0, rejected=0, unknown=0)

    monkeypatch.setattr(batch, "_find_stored", doubtful)

    run = jetpay(*capture(listed(reserve_many(sandbox, 1))))

    assert run.err.startswith("jetpay: 1 debits are in doubt since an earlier run ended, or in flight in another one: ")
    assert run.status == 0


# --- the sample ---------------------------------------------------------------------------------------------------------


def stands(finished: int) -> Progress:
    return Progress(total=1000, pending=1000 - finished, sending=0, captured=finished, rejected=0, unknown=0)


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    """What was done in the hours before does not count for the rate, and for what is left."""
    times = iter([0.0, 0.0, 10.0, 40.0, 50.0])
    pacer = progress.ProgressSampler(lambda: next(times))

    paces = [pacer.measure(stands(finished)) for finished in (0, 0, 500, 530, 600)]

    assert [round(sample.per_second, 2) for sample in paces] == [0.0, 0.0, 50.0, 1.0, 7.0]
    assert [sample.seconds_left for sample in paces] == [None, None, 10.0, 470.0, pytest.approx(400 / 7)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        pytest.param(0.4, "0 s", id="seconds"),
        pytest.param(61, "1 min 01 s", id="minutes"),
        pytest.param(3 * 3600 + 62, "3 h 01 min", id="hours"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    """A time is written as people read it."""
    assert progress.duration(seconds) == words
