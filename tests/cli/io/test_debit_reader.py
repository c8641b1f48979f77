"""Reading files of debit ids: every form, every way to be wrong, and no memory for a million lines."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from jetpay_async import ConfigurationError
from jetpay_async._cli.io import debit_reader as module
from jetpay_async._cli.io.debit_reader import Debits, read_debits


def read(path: Path | str) -> list[str]:
    with read_debits(str(path)) as debits:
        return list(debits)


@pytest.fixture
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file with the name and the content that a test's parameters give."""
    name, content = request.param
    path = tmp_path / str(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(("d.txt", "a\nb\n"), id="one a line"),
        pytest.param(("d", "a\nb"), id="no newline at the end"),
        pytest.param(("d.txt", "a\r\nb\r\n"), id="CRLF"),
        pytest.param(("d.txt", "\ufeffa\nb\n"), id="byte order mark"),
        pytest.param(("d.txt", "# tonight\n\n  a  \n\t\n# more\nb\n\n"), id="comments and blank lines"),
        pytest.param(("d.csv", "a\nb\n"), id="CSV of one column"),
        pytest.param(("d.csv", '"a"\r\n"b"\r\n'), id="quoted CSV of one column"),
        pytest.param(("d.csv", "debit_id\na\nb\n"), id="CSV of one column with a header"),
        pytest.param(("d.csv", "# exported\n\ndebit_id,amount\na,1\nb,2\n"), id="CSV below a comment"),
        pytest.param(("d.csv", "amount,debit_id\n1,a\n2,b\n"), id="commas"),
        pytest.param(("d.csv", "amount;debit_id;note\n1,50;a;x\n2,00;b;y\n"), id="semicolons"),
        pytest.param(("d.tsv", "amount\tdebit_id\n1\ta\n2\tb\n"), id="tabs"),
        pytest.param(("d", "amount\tdebit_id\n1\ta\n2\tb\n"), id="CSV by its first line"),
        pytest.param(("d", "debit_id\na\nb\n"), id="a header by itself"),
        pytest.param(("d.CSV", "Debit_ID , amount\n a , 1\nb,2\n\n , \n"), id="case and spaces"),
        pytest.param(("d.csv", '\ufeff"Amount, CAD","debit_id"\n"1,50",a\n2,"b"\n'), id="quoted header"),
        pytest.param(("d.csv", 'debit_id,note\na,"two\nlines"\nb,\n'), id="a cell of two lines"),
        pytest.param(("d.csv", b"debit_id,name\na,Ren\xe9\nb,Zo\xeb\n"), id="another column in Latin-1"),
        pytest.param(("d.jsonl", '{"debit_id": "a", "amount": 1.5}\n\n{"debit_id": "b"}\n'), id="JSON objects"),
        pytest.param(("d.ndjson", '"a"\r\n"b"'), id="JSON strings"),
        pytest.param(("d.json", '\ufeff"a"\n{"debit_id": "b"}\n'), id="both"),
        pytest.param(("d", '{"debit_id": "a"}\n"b"\n'), id="JSON by its first line"),
        pytest.param(("d.txt", '"a"\n"b"\n'), id="JSON strings by the first line"),
    ],
    indirect=True,
)
def test_every_form_is_read(file: Path) -> None:
    """The form follows from the name and the first line, and the ids come out in their order."""
    assert read(file) == ["a", "b"]


def test_json_names_any_id(tmp_path: Path) -> None:
    """An id with spaces, commas or quotes can only be meant where JSON says so."""
    path = tmp_path / "d.jsonl"
    path.write_text('"a b"\n{"debit_id": "c,\\"d\\""}\n')

    assert read(path) == ["a b", 'c,"d"']


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        pytest.param(("d.txt", "a\nb/c\n"), "line 2: 'b/c' is not an id: no slash", id="slash"),
        pytest.param(("d.txt", "a\n\n# x\n" + "b" * 256), "line 4: 'bbb", id="too long"),
        pytest.param(("d.txt", "a\nb c\n"), "line 2: 'b c' is not one debit id", id="two on a line"),
        pytest.param(("d.txt", "a\nb,1\n"), "line 2: 'b,1' is not one debit id", id="a column appears"),
        pytest.param(("d.txt", b"a\nb\xe9\n"), "line 2: 'b\\udce9' is not an id", id="not UTF-8"),
        pytest.param(("d.txt", b"\xff\xfea\x00\n\x00"), "line 1: is UTF-16; save the file as UTF-8", id="UTF-16"),
        pytest.param(("d.txt", "a\rb\r"), "line 1: 'a\\rb' is not one debit id", id="old line ends"),
        pytest.param(("d.txt", b"\x00" * (3 << 20)), "line 1: '\\x00", id="no text"),
        pytest.param(("d.csv", "id\na\n"), "line 1: 'id' looks like a header; call the column debit_id", id="header"),
        pytest.param(("d.csv", "a,1\n"), "line 1: has several columns, and no header names debit_id", id="no header"),
        pytest.param(("d.csv", "debit_id,x\na,1\n,2\n"), "line 3: has no debit_id", id="empty cell"),
        pytest.param(("d.csv", "x,debit_id\n1,a\n2\n"), "line 3: has no debit_id", id="short row"),
        pytest.param(("d.csv", 'debit_id\na\n"b\nc\n'), "line 3: unexpected end of data", id="open quote"),
        pytest.param(("d.csv", 'debit_id\n"a"b\n'), "line 2: ',' expected after '\"'", id="stray quote"),
        pytest.param(("d.csv", "a\rb\n"), "line 1: new-line character seen in unquoted field", id="CSV line ends"),
        pytest.param(("d.csv", "debit_id,x\na,1\n# end,\n"), "line 3: '# end' is not one debit id", id="comment"),
        pytest.param(("d.jsonl", '"a"\n{"debit_id": \n'), "line 2: not JSON: ", id="no JSON"),
        pytest.param(("d.jsonl", '{"id": "a"}\n'), "line 1: has no debit_id that is a string", id="no key"),
        pytest.param(("d.jsonl", '{"debit_id": 7}\n'), "line 1: has no debit_id that is a string", id="number"),
        pytest.param(("d.json", '["a", "b"]\n'), "line 1: is neither a JSON string nor an object", id="list"),
        pytest.param(("d.jsonl", '""\n'), "line 1: is empty", id="empty string"),
    ],
    indirect=["file"],
)
def test_a_bad_line_is_named(file: Path, complaint: str) -> None:
    """What can't be a debit id is told with its line's number and the reason."""
    with pytest.raises(ConfigurationError) as caught:
        read(file)

    first, second = str(caught.value).splitlines()
    assert first == f"{file}: a line is not right; nothing was sent"
    assert second.startswith(f"  {complaint}")


def test_ten_bad_lines_are_shown(tmp_path: Path) -> None:
    """Of many bad lines ten are told, and how many there are; the good ones between them are no concern."""
    path = tmp_path / "d.txt"
    path.write_text("a\nb/\n" * 1_212)

    with pytest.raises(ConfigurationError) as caught:
        read(path)

    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 1,212 lines are not right; nothing was sent"
    assert [line.split(":")[0] for line in lines[1:11]] == [f"  line {number}" for number in range(2, 22, 2)]
    assert lines[11:] == ["  and 1,202 more"]


@pytest.mark.parametrize(
    "content", [pytest.param("", id="empty"), pytest.param("# none\n\n", id="comments"), pytest.param("debit_id\n")]
)
def test_a_file_without_debits(tmp_path: Path, content: str) -> None:
    """A list without a debit is most likely a mistake, and rejected."""
    path = tmp_path / "d.txt"
    path.write_text(content)

    with pytest.raises(ConfigurationError, match=r"d\.txt holds no debit ids; nothing was sent$"):
        read(path)


def test_what_can_not_be_read(tmp_path: Path) -> None:
    """A file that is not there, or is none, is told in one line."""
    with pytest.raises(ConfigurationError, match=r"^can't read .*nowhere: No such file or directory$"):
        read(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"^can't read .*: Is a directory$"):
        read(tmp_path)


def test_a_repeated_debit_is_one(tmp_path: Path) -> None:
    """An id that is given again is counted, kept once, and stays at its first place."""
    path = tmp_path / "d.txt"
    path.write_text("b\na\nb\nb\n")

    with read_debits(str(path)) as debits:
        assert (debits.given, debits.total, debits.duplicates, list(debits)) == (4, 2, 2, ["b", "a"])
        assert ("a" in debits, "c" in debits) == (True, False)


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool) -> None:
    """- reads stdin; on a terminal it says that it waits for input."""
    stdin = io.TextIOWrapper(io.BytesIO(b"a\nb\n"))
    monkeypatch.setattr(stdin, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stdin)

    assert read("-") == ["a", "b"]
    assert ("Ctrl-D" in capsys.readouterr().err) == terminal


def test_bad_lines_of_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad line that was piped is named as stdin's."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a/\n")))

    with pytest.raises(ConfigurationError, match=r"^stdin: a line is not right"):
        read("-")


def test_no_room_for_the_list() -> None:
    """A full temporary directory is told with what to do."""
    with Debits() as debits:
        debits._store.execute("PRAGMA max_page_count=3")

        with pytest.raises(ConfigurationError, match=r"does not fit into the temporary directory .*; set TMPDIR"):
            debits.add(f"debit_{number}" for number in range(10_000))


def test_the_last_line_of_a_long_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is read in pieces is one line, and those after it keep their numbers."""
    monkeypatch.setattr(module, "_LONGEST", 8)
    path = tmp_path / "d.csv"
    path.write_text("debit_id,x\na,12345678901234567890\nb/,1\n")

    with pytest.raises(ConfigurationError, match="line 3: 'b/' is not an id"):
        read(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process alone is told there")
def test_memory_stays_flat(tmp_path: Path) -> None:
    """A hundred times more lines take no more memory: what is read goes to the disk."""
    code = f"""
import re
from pathlib import Path
from jetpay_async._cli.io.debit_reader import read_debits
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
def read(name):
    with read_debits(name) as debits:
        return sum(1 for _ in debits)
read({str(tmp_path / "few")!r})
before = peak()
print(read({str(tmp_path / "many")!r}), peak() - before)
"""
    for name, count in (("few", 2_000), ("many", 200_000)):
        (tmp_path / name).write_text("".join(f"debit_{number * 7919 % 1_000_003}\n" for number in range(count)))

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    count, grown = map(int, ran.stdout.split())
    assert count == 200_000
    assert grown < 4_000  # KiB; the ids alone would take three times as much
