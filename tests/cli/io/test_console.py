"""Writing to stdout and stderr: it never raises, and what is lost shows in the exit status."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest

from jetpay_async._cli.io import console
from jetpay_async._cli.io.exit_codes import ExitStatus


class Failing(io.StringIO):
    """A stream that can't be written."""

    encoding = "utf-8"

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, _: str) -> int:
        raise OSError(self._number, os.strerror(self._number))


@pytest.fixture(autouse=True)
def _new_process(capsys: pytest.CaptureFixture[str]) -> None:
    """Forget what failed before, as a new process does."""
    console.open_streams()


@pytest.mark.parametrize(
    ("number", "status", "after"),
    [
        pytest.param(errno.ENOSPC, ExitStatus.DONE, ExitStatus.OUTPUT_FAILED, id="full disk"),
        pytest.param(errno.EIO, ExitStatus.ACCEPTED, ExitStatus.OUTPUT_FAILED, id="dead terminal"),
        pytest.param(errno.ENOSPC, ExitStatus.REJECTED, ExitStatus.REJECTED, id="rejected as well"),
        pytest.param(errno.ENOSPC, ExitStatus.UNKNOWN, ExitStatus.UNKNOWN, id="unknown as well"),
        pytest.param(errno.EPIPE, ExitStatus.DONE, ExitStatus.DONE, id="head"),
    ],
)
def test_a_lost_stdout_shows_in_the_exit_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    status: ExitStatus,
    after: ExitStatus,
) -> None:
    """Done, but stdout was lost, has a status of its own; a reader that closes its pipe early is no failure."""
    monkeypatch.setattr(sys, "stdout", Failing(number))

    written = [console.write_output("one"), console.write_output("two")]

    assert written == [False, False]
    assert console.final_status(status) is after
    message = f"jetpay: stdout can't be written: {os.strerror(number)}\n"
    assert capsys.readouterr().err == ("" if number == errno.EPIPE else message)


def test_a_lost_result_is_written_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The outcome of an operation goes to stderr if stdout can't be written, also if it is a closed pipe."""
    monkeypatch.setattr(sys, "stdout", Failing(errno.EPIPE))

    console.write_result("debit_1  paid")

    assert capsys.readouterr().err == "jetpay: the result is\ndebit_1  paid\n"


def test_what_a_lost_stream_still_holds_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter would fail over it at its end."""
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)

        assert not console.write_output("one")

        full.flush()  # succeeds: it leads nowhere now


def test_a_lost_stderr_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that can't be written raises nothing, and does not show in the exit status."""
    monkeypatch.setattr(sys, "stderr", Failing(errno.ENOSPC))

    console.write_message("one")
    console.write_message("two")

    assert console.final_status(ExitStatus.DONE) is ExitStatus.DONE


def test_streams_that_the_shell_has_closed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Closed streams lead nowhere, and their descriptors are taken: the ledger's file must not get them."""
    opened: list[str] = []
    closed = {0, 1, 2}

    def fstat(descriptor: int) -> None:
        if descriptor in closed:
            raise OSError(errno.EBADF, "closed")

    def take(path: str, _: int) -> int:
        opened.append(path)
        return 99

    with monkeypatch.context() as patch:
        for name in ("stdin", "stdout"):
            patch.setattr(sys, name, None)
        patch.setattr(os, "fstat", fstat)
        patch.setattr(os, "open", take)
        patch.setattr(os, "fdopen", lambda *_: io.TextIOWrapper(io.BytesIO()))

        console.open_streams()

        assert opened.count(os.devnull) == 5
        assert not console.write_output("one")
        assert console.final_status(ExitStatus.DONE) is ExitStatus.OUTPUT_FAILED
    assert capsys.readouterr().err == "jetpay: stdout can't be written: it is closed\n"


FOREIGN = "a\x1b[31m\x07\r\u202eb\u200b\u00e9"
SAFE = "a\\x1b[31m\\x07\\r\\u202eb\\u200b\u00e9"


def test_foreign_text_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither stdout nor stderr gets a control character or a bidirectional mark; line ends stay."""
    console.write_output(f"{FOREIGN}\n{FOREIGN}")
    console.write_message(FOREIGN)

    assert capsys.readouterr() == (f"{SAFE}\n{SAFE}\n", f"jetpay: {SAFE}\n")


@pytest.mark.parametrize(("terminal", "written"), [(True, SAFE), (False, FOREIGN)])
def test_data_is_escaped_for_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool, written: str
) -> None:
    """What another program reads is not changed."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)

    console.write_lines(f"{FOREIGN}\n")

    assert capsys.readouterr().out == f"{written}\n"


def test_a_library_that_writes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guarded stream behaves like its stream, but writing to it never raises."""
    failing = Failing(errno.EIO)
    monkeypatch.setattr(sys, "stderr", failing)
    stream = console.GuardedStream("stderr")
    monkeypatch.setattr(sys, "stderr", None)

    assert (stream.encoding, stream.isatty()) == ("utf-8", False)
    assert stream.write("one") == 3
    stream.flush()
    with pytest.raises(io.UnsupportedOperation):
        stream.fileno()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_question(capsys: pytest.CaptureFixture[str], *, as_json: bool) -> None:
    """A question is shown without a line end, or as an object where messages are objects."""
    console.write_messages_as_json(as_json)

    assert console.write_question("sure?\x07 ")

    err = capsys.readouterr().err
    assert err == "sure?\\x07 " if not as_json else json.loads(err)["message"] == "sure?\x07 "


def test_a_question_that_nobody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr can't be written, nobody can answer."""
    monkeypatch.setattr(sys, "stderr", Failing(errno.ENOSPC))

    assert not console.write_question("sure? ")


def test_what_is_no_unicode_is_escaped_in_json() -> None:
    """The name of a file need not be UTF-8: a document that has it is written all the same."""
    document = {"file\udcff": ["\udcfe", {"\u00e9": "\udcfd"}, 1, None]}

    assert json.loads(console.to_json(document)) == {"file\\udcff": ["\\udcfe", {"\u00e9": "\\udcfd"}, 1, None]}
