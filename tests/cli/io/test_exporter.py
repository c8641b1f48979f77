"""Files of outcomes: what they must not overwrite, how they are made, and what a spreadsheet must not run."""

from __future__ import annotations

import asyncio
import csv
import secrets
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jetpay_async import ConfigurationError
from jetpay_async._cli.io import console
from jetpay_async._cli.io.exporter import OutputFileError, choose_destination
from jetpay_async.ledger import DebitState, LedgerItem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.fixture(autouse=True)
def _new_process() -> None:
    """Forget the streams that failed in another test."""
    console.open_streams()


def item(**changes: str) -> LedgerItem:
    """A rejected debit."""
    values = {"batch": "n1", "debit_id": "d1", "reason": "no", **changes}
    return LedgerItem(
        state=DebitState.REJECTED,
        attempts=1,
        intent_at=None,
        finished_at=None,
        transaction_state=None,
        confirmed_by_status=False,
        error="APIError",
        status=402,
        request_id=None,
        **values,
    )


def write(out: str, *items: LedgerItem, raw: bool = False) -> int:
    """Write these items."""

    async def each() -> AsyncIterator[LedgerItem]:
        for one in items:
            yield one

    return asyncio.run(choose_destination(out, ledger="c.db", raw=raw).write(each()))


@pytest.mark.parametrize(
    "out",
    ["c.db", "./c.db", "c.db-wal", "c.db-shm", "c.db-journal", "c.db-owner-7", "link.db", "hard-link.db"],
)
def test_the_ledger_is_not_overwritten(out: str) -> None:
    """--out can't be the ledger, a file beside it or a link to it."""
    Path("c.db").touch()
    Path("link.db").symlink_to("c.db")
    Path("hard-link.db").hardlink_to("c.db")

    with pytest.raises(ConfigurationError, match=r"^argument --out: belongs to the ledger; choose another file$"):
        choose_destination(out, ledger="c.db")


def test_a_ledger_that_is_still_to_be_made_is_not_overwritten() -> None:
    """The name alone is enough."""
    with pytest.raises(ConfigurationError, match="belongs to the ledger"):
        choose_destination("c.db", ledger="./c.db")


@pytest.mark.parametrize("out", ["d.csv", "hard-link.csv"])
def test_the_list_is_not_overwritten(out: str) -> None:
    """--out can't be the list of debits, or a link to it."""
    Path("d.csv").touch()
    Path("hard-link.csv").hardlink_to("d.csv")

    with pytest.raises(ConfigurationError, match=r"^argument --out: is the list of debits; choose another file$"):
        choose_destination(out, ledger="c.db", source="d.csv")


def test_the_list_on_stdin_is_not_overwritten() -> None:
    """A list that the shell has opened is known by its inode."""
    Path("d.csv").write_text("debit_1\n")
    command = [sys.executable, "-m", "jetpay_async._cli", "capture", "-", "--ledger=c.db", "--batch=n", "--out=d.csv"]

    with Path("d.csv").open() as stdin:
        ran = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stderr) == (2, "jetpay: argument --out: is the list of debits; choose another file\n")
    assert Path("d.csv").read_text() == "debit_1\n"


@pytest.mark.parametrize(
    ("out", "message"),
    [
        pytest.param("x" * 256, "can't be written: File name too long", id="too long"),
        pytest.param("loop", "can't be written: Too many levels of symbolic links", id="links in a circle"),
        pytest.param("d.csv/o.csv", "can't be written: Not a directory", id="below a file"),
        pytest.param("none/o.csv", "there is no directory", id="no directory"),
        pytest.param(".", ". is not a file; - writes to stdout", id="directory"),
        pytest.param("/dev/full", "/dev/full is not a file; - writes to stdout", id="device"),
    ],
)
def test_a_destination_that_can_not_be_written_is_known_before_any_work(out: str, message: str) -> None:
    """A night's run does not end with outcomes that can't be written."""
    Path("d.csv").touch()
    Path("loop").symlink_to("loop")
    Path("loop.db").symlink_to("loop.db")

    with pytest.raises(ConfigurationError, match=r"^argument --out: ") as caught:
        choose_destination(out, ledger="loop.db", source="d.csv")

    assert message in caught.value.message


def test_a_name_as_long_as_can_be() -> None:
    """The temporary file beside it has a shorter one."""
    write("o" * 255, item())

    assert [path.name for path in Path().iterdir()] == ["o" * 255]


@pytest.mark.parametrize("ledger", ["c.db", "postgresql://h/d"])
def test_other_names_are_free(ledger: str) -> None:
    """A name that only begins like the ledger's is a file of its own."""
    choose_destination("c.db.csv", ledger=ledger, source="d.csv")
    choose_destination("c.db-outcomes", ledger=ledger)


@pytest.mark.parametrize(("before", "after"), [(None, 0o600), (0o644, 0o644), (0o640, 0o640)])
def test_who_may_read_the_outcomes(before: int | None, after: int) -> None:
    """A new file is its owner's alone; an old one keeps its mode."""
    if before is not None:
        Path("o.csv").touch()
        Path("o.csv").chmod(before)

    write("o.csv", item())

    assert stat.S_IMODE(Path("o.csv").stat().st_mode) == after


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_prepared_temporary_file_is_not_written(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What another user has put in the place of the temporary file is neither followed nor written."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "0")
    Path("victim").write_text("as it was")
    prepared = Path(".jetpay-0.tmp")
    if kind == "link":
        prepared.symlink_to("victim")
    else:
        prepared.hardlink_to("victim")

    with pytest.raises(OutputFileError, match=r"o\.csv: File exists"):
        write("o.csv", item())

    assert Path("victim").read_text() == "as it was"


@pytest.mark.parametrize("begin", ["=1+2", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "\uff1d1"])
def test_cells_that_a_spreadsheet_would_run(begin: str) -> None:
    """A text that a spreadsheet takes for a formula gets an apostrophe; with --raw it stays as it is."""
    write("o.csv", item(reason=begin))
    write("raw.csv", item(reason=begin), raw=True)

    assert [read_reason("o.csv"), read_reason("raw.csv")] == [f"'{begin}", begin]


def test_other_cells_stay_as_they_are() -> None:
    """Numbers, times and texts with such a character inside are not changed."""
    write("o.csv", item(reason="a=b"))

    assert read_reason("o.csv") == "a=b"


def read_reason(name: str) -> str:
    with Path(name).open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    return row["reason"]


def test_json_lines_keep_every_character() -> None:
    """No spreadsheet runs JSON."""
    write("o.jsonl", item(reason="=1"))

    assert '"reason":"=1"' in Path("o.jsonl").read_text()


def test_a_cell_holds_nothing_that_a_terminal_obeys() -> None:
    """A file is shown by `cat` too; with --raw a cell stays as it is."""
    write("o.csv", item(reason="a\x1b[31m\u202eb"))
    write("raw.csv", item(reason="a\x1b[31m\u202eb"), raw=True)

    assert [read_reason("o.csv"), read_reason("raw.csv")] == [r"a\x1b[31m\u202eb", "a\x1b[31m\u202eb"]


@pytest.mark.parametrize(("out", "count"), [("o.csv", 2), ("o.jsonl", 2), ("-", 2)])
def test_the_number_of_items_is_returned(out: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A header is no item."""
    assert write(out, item(), item(debit_id="d2")) == count


def test_a_reader_that_leaves_ends_the_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is written to a stdout that can't be written."""

    class Closed:
        encoding = "utf-8"

        def write(self, _: str) -> None:
            raise BrokenPipeError(32, "Broken pipe")

        def fileno(self) -> int:
            raise OSError

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdout", Closed())

    assert write("-", item(), item()) == 0
