"""Reading files of debit ids: every form, every way to be wrong, and no memory for a million lines."""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jetpay_async import ConfigurationError
from jetpay_async._cli.io import list_reader as module
from jetpay_async._cli.io.debit_reader import Debits, read_debits

UUID = "41fc05d5-3148-4ee2-bfdf-9ad5ab7172c6"


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
        pytest.param(("d.txt", "a\nb\n"), id="one per line"),
        pytest.param(("d", "a\nb"), id="no newline at the end"),
        pytest.param(("d.txt", "a\r\nb\r\n"), id="CRLF"),
        pytest.param(("d.txt", "a\rb\r"), id="CR"),
        pytest.param(("d.txt", "\ufeffa\nb\n"), id="byte order mark"),
        pytest.param(("d.txt", "# tonight\n\n  a  \n\t\n# more\nb\n\n"), id="comments and blank lines"),
        pytest.param(("d.csv", "a\nb\n"), id="CSV of one column"),
        pytest.param(("d.csv", '"a"\r\n"b"\r\n'), id="quoted CSV of one column"),
        pytest.param(("d.csv", "debit_id\na\nb\n"), id="CSV of one column with a header"),
        pytest.param(("d.csv", "# exported\n\ndebit_id,amount\na,1\nb,2\n"), id="CSV below a comment"),
        pytest.param(("d.csv", "amount,debit_id\n1,a\n2,b\n"), id="commas"),
        pytest.param(("d.csv", "amount;debit_id;note\n1,50;a;x\n2,00;b;y\n"), id="semicolons"),
        pytest.param(("d.csv", '"Amount, CAD";debit_id\n1,50;a\n2,00;b\n'), id="a comma in the header"),
        pytest.param(("d.csv", "sep=;\ndebit_id;amount\na;1,50\nb;2,00\n"), id="Excel's sep"),
        pytest.param(("d", "sep=;\ndebit_id;amount\na;1,50\nb;2,00\n"), id="Excel's sep by the first line"),
        pytest.param(("d.csv", "debit_id,amount\ra,1\rb,2\r"), id="CSV for Macintosh"),
        pytest.param(("d.tsv", "amount\tdebit_id\n1\ta\n2\tb\n"), id="tabs"),
        pytest.param(("d", "amount\tdebit_id\n1\ta\n2\tb\n"), id="CSV by its first line"),
        pytest.param(("d", "debit_id\na\nb\n"), id="a header by itself"),
        pytest.param(("d.CSV", "Debit_ID , amount\n a , 1\nb,2\n\n , \n"), id="case and spaces"),
        pytest.param(("d.csv", "Debit ID,amount\na,1\nb,2\n"), id="a header of two words"),
        pytest.param(("d.csv", "DebitId,amount\na,1\nb,2\n"), id="a header in one word"),
        pytest.param(("d.csv", '\ufeff"Amount, CAD","debit_id"\n"1,50",a\n2,"b"\n'), id="quoted header"),
        pytest.param(("d.csv", 'debit_id,note\na,"two\nlines"\nb,\n'), id="a cell of two lines"),
        pytest.param(("d.csv", b"debit_id,name\na,Ren\xe9\nb,Zo\xeb\n"), id="another column in Latin-1"),
        pytest.param(("d.csv", "debit_id,amount\na,1\nb,2\n".encode("utf-16")), id="UTF-16"),
        pytest.param(("d.txt", "a\nb\n".encode("utf-16-be").join([b"\xfe\xff", b""])), id="UTF-16, big-endian"),
        pytest.param(("d.csv.gz", gzip.compress(b"debit_id,amount\na,1\nb,2\n")), id="gzip"),
        pytest.param(("d.jsonl", '{"debit_id": "a", "amount": 1.5}\n\n{"debit_id": "b"}\n'), id="JSON objects"),
        pytest.param(("d.jsonl", '{"debitId": "a"}\n{"debit_id": "b"}\n'), id="JSON keys in another spelling"),
        pytest.param(("d.ndjson", '"a"\r\n"b"'), id="JSON strings"),
        pytest.param(("d.json", '\ufeff"a"\n{"debit_id": "b"}\n'), id="both"),
        pytest.param(("d", '{"debit_id": "a"}\n"b"\n'), id="JSON by its first line"),
        pytest.param(("d.txt", '"a"\n"b"\n'), id="JSON strings by the first line"),
        pytest.param(("d.json", '["a", {"debit_id": "b"}]\n'), id="a JSON array"),
        pytest.param(("d.json", '[\n  {"debit_id": "a"},\n  {"debit_id": "b"}\n]\n'), id="an indented JSON array"),
    ],
    indirect=True,
)
def test_every_form_is_read(file: Path) -> None:
    """The form follows from the name and the first line, and the ids come out in their order."""
    assert read(file) == ["a", "b"]


@pytest.mark.parametrize(
    ("file", "column"),
    [
        pytest.param(("d.csv", "old,new\nx,a\ny,b\n"), "new", id="CSV"),
        pytest.param(("d.csv", "debit_id,Neue ID\nx,a\ny,b\n"), "neue id", id="not the usual one"),
        pytest.param(("d", "id\na\nb\n"), "id", id="a single column"),
        pytest.param(("d.jsonl", '{"id": "a"}\n{"id": "b"}\n'), "id", id="JSON"),
    ],
    indirect=["file"],
)
def test_the_column_can_be_named(file: Path, column: str) -> None:
    """--column names the column, or the JSON key, of the ids."""
    with read_debits(str(file), column=column) as debits:
        assert list(debits) == ["a", "b"]


@pytest.mark.parametrize(
    ("file", "form"),
    [
        pytest.param(("d.txt", "a\n"), "one id per line", id="plain"),
        pytest.param(("d.csv", "a\n"), "CSV, column 1 of 1", id="no header"),
        pytest.param(
            ("d.csv", "x;Debit ID\n1;a\n"), "CSV, column 2 of 2, semicolon-separated, headed 'Debit ID'", id="CSV"
        ),
        pytest.param(("d.jsonl", '"a"\n'), "JSON lines, debit_id", id="JSON lines"),
        pytest.param(("d.json", '["a"]\n'), "a JSON array, debit_id", id="JSON array"),
    ],
    indirect=["file"],
)
def test_the_form_is_named(file: Path, form: str) -> None:
    """A dry run shows where the ids were found."""
    with read_debits(str(file)) as debits:
        assert (debits.form, debits.ends) == (form, ("a", "a"))


def test_json_names_any_id(tmp_path: Path) -> None:
    """An id with spaces, commas or quotes can only be given as JSON."""
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
        pytest.param(("d.txt", b"a\nb\xe9\n"), "line 2: 'b\\udce9' contains an invisible or undec", id="not UTF-8"),
        pytest.param(("d.txt", "a\n'b\n"), 'line 2: "\'b" is not one debit id', id="an apostrophe of a spreadsheet"),
        pytest.param(("d.txt", "a\n=b\n"), "line 2: '=b' is not one debit id", id="a formula"),
        pytest.param(("d.csv", "id\na\n"), "line 1: 'id' looks like a header; add --column id, or leave", id="header"),
        pytest.param(("d.csv", "a,1\n"), "line 1: has several columns, and no header names debit_id", id="no header"),
        pytest.param(("d.csv", "debit_id,x\na,1\n,2\n"), "line 3: has no debit_id", id="empty cell"),
        pytest.param(
            ("d.csv", "x,debit_id\n1,a\n2\n"), "line 3: has 1 cells where the first line has 2", id="short row"
        ),
        pytest.param(
            ("d.csv", "customer,replaces,debit_id\nAcme, Inc,a,b\n"),
            "line 2: has 4 cells where the first line has 3; a cell with a comma needs quotes",
            id="an unquoted comma",
        ),
        pytest.param(
            ("d.csv", "debit_id,amount\na,1,\n"),
            "line 2: has 3 cells where the first line has 2",
            id="a trailing comma",
        ),
        pytest.param(("d.csv", "a\nb,c\n"), "line 2: has 2 cells where the first line has 1", id="a second column"),
        pytest.param(
            ("d.csv", "debit_id,x,Debit ID\na,1,b\n"),
            "line 1: has 2 columns that are called debit_id; remove or rename all but one",
            id="two columns",
        ),
        pytest.param(
            ("d.csv", "debit_id\na\nDebit ID\nb\n"), "line 3: 'Debit ID' repeats the header", id="header again"
        ),
        pytest.param(("d.txt", "a\ndebit_id\n"), "line 2: 'debit_id' repeats the header", id="a late header"),
        pytest.param(("d.csv", "debit_id,x\na,1\nTotal,1\n"), "line 3: 'Total' is a total, not a debit id", id="total"),
        pytest.param(("d.txt", "a\nSUM:\n"), "line 2: 'SUM:' is a total, not a debit id", id="sum"),
        *(
            pytest.param(("d.txt", f"a\n{text}\n"), f"line 2: '{text}' stands for an empty cell", id=text)
            for text in (
                "NULL",
                "None",
                "nan",
                "N/A",
                "nil",
                "(blank)",
                "<NA>",
                "NaT",
                "tbd",
                "undefined",
                "-",
                "--",
                "\u2014",
                "...",
            )
        ),
        pytest.param(
            ("d.txt", "a\n1.23457E+15\n"), "line 2: '1.23457E+15' is a number that a spreadsheet rounded", id="rounded"
        ),
        pytest.param(("d.csv", "debit_id;x\n1,23E+15;2\n"), "line 2: '1,23E+15' is a number that", id="rounded, comma"),
        pytest.param(("d.txt", "a\n123.0\n"), "line 2: '123.0' is an id that was converted to a number", id="float"),
        pytest.param(
            ("d.txt", "1234567890123450\n1234567890123450\n"),
            "line 2: '1234567890123450' is given twice and ends in zeros after its fifteenth digit",
            id="two ids that were rounded to one",
        ),
        pytest.param(
            ("d.txt", "41fc05d5-aa\nb\n41FC05D5-AA\n"),
            "line 3: '41FC05D5-AA' is given in another spelling too (upper and lower case, hyphens or",
            id="one id in two spellings",
        ),
        pytest.param(
            ("d.txt", f"{UUID}\n{UUID.replace('-', '')}\n"),
            f"line 2: '{UUID.replace('-', '')}' is given in another spelling too",
            id="a UUID without hyphens",
        ),
        pytest.param(
            ("d.txt", "\u00e9\ne\u0301\n"), "line 2: 'e\u0301' is given in another spelling too", id="two accents"
        ),
        *(
            pytest.param(("d.txt", f"a\n{text}\n"), f"line 2: '{text}' is an error of a spreadsheet", id=text)
            for text in ("#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "####")
        ),
        pytest.param(("d.txt", "#N/A\na\n"), "line 1: '#N/A' is an error of a spreadsheet", id="an error first"),
        pytest.param(("d.csv", "debit_id,x\n#N/A,1\n"), "line 2: '#N/A' is an error of a spreadsheet", id="an error"),
        *(
            pytest.param(("d.txt", f"a\n{text}\n"), f"line 2: '{text}' is an amount, not a debit id", id=text)
            for text in ("100.50", "-5.00", "7.")
        ),
        pytest.param(("d.csv", "debit_id;x\n12,50;1\n"), "line 2: '12,50' is an amount, not a debit id", id="12,50"),
        *(
            pytest.param(("d.txt", f"a\n{text}\n"), f"line 2: '{text}' is a date, not a debit id", id=text)
            for text in ("2026-11-22", "22.11.2026")
        ),
        *(
            pytest.param(("d.csv", f"{text}\na\n"), f"line 1: '{text}' looks like a header; name the column", id=text)
            for text in ("reference", "contact_id", "Debit IDs", "Amount:")
        ),
        pytest.param(("d.csv", "debit_id,x\nGrand Total,1\n"), "line 2: 'Grand Total' is a total", id="grand total"),
        pytest.param(("d.txt", "a\nb|1\n"), "line 2: 'b|1' is not one debit id", id="a bar"),
        pytest.param(("d.csv", "sep=|\n"), "line 1: 'sep=|' is not one debit id", id="a bar that is declared"),
        *(
            pytest.param(
                ("d.txt", f"a\n{mark}b\n"),
                f"line 2: {mark + 'b'!r} contains an invisible or undecodable character; remove it",
                id=f"U+{ord(mark):04X}",
            )
            for mark in "\ufeff\u200b\u00ad\u202a\u00a0\u2066"
        ),
        *(
            pytest.param(
                ("d.txt", f"a\n{mark}b\n"),
                f"line 2: '\\u{ord(mark):04x}b' contains an invisible or undecodable character; remove it",
                id=f"U+{ord(mark):04X}",
            )
            for mark in "\u3164\u2800\ufe0f\u034f"
        ),
        pytest.param(
            ("d.jsonl", '"a"\n"b\\u200b"\n'), "line 2: 'b\\u200b' contains an invisible or undec", id="in JSON"
        ),
        pytest.param(("d.csv", 'debit_id\na\n"b\nc\n'), "line 3: unexpected end of data", id="open quote"),
        pytest.param(("d.csv", 'debit_id\n"a"b\n'), "line 2: ',' expected after '\"'", id="stray quote"),
        pytest.param(("d.csv", '"a;b\n'), "line 1: unexpected end of data", id="a header with an open quote"),
        pytest.param(("d.csv", "debit_id,x\na,1\n# end,\n"), "line 3: '# end' is not one debit id", id="comment"),
        pytest.param(("d.jsonl", '"a"\n{"debit_id": \n'), "line 2: not JSON: ", id="no JSON"),
        pytest.param(("d.jsonl", '"a"\n' + "[" * 100_000 + "\n"), "line 2: not JSON: ", id="nested JSON"),
        pytest.param(("d.jsonl", '{"id": "a"}\n'), "line 1: has no debit_id that is a string", id="no key"),
        pytest.param(("d.jsonl", '{"debit_id": 7}\n'), "line 1: has no debit_id that is a string", id="number"),
        pytest.param(
            ("d.jsonl", '{"debit_id": "a", "debit_id": "b"}\n'),
            "line 1: has 2 keys that mean debit_id; keep one",
            id="a key twice",
        ),
        pytest.param(("d.jsonl", '"a"\n["b"]\n'), "line 2: is neither a JSON string nor an object", id="a late list"),
        pytest.param(("d.json", '["a", "b"\n'), "line 1: begins a JSON array that can't be read: ", id="open array"),
        pytest.param(("d.json", '["a", 7]\n'), "item 2: is neither a JSON string nor an object", id="a number in it"),
        pytest.param(("d.jsonl", '""\n'), "line 1: is empty", id="empty string"),
    ],
    indirect=["file"],
)
def test_a_bad_line_is_named(file: Path, complaint: str) -> None:
    """What can't be a debit id is reported with its line's number and the reason."""
    with pytest.raises(ConfigurationError) as caught:
        read(file)

    first, second = str(caught.value).splitlines()
    unit = "an item" if complaint.startswith("item") else "a line"
    assert first == f"{file}: {unit} is not valid; nothing was sent"
    assert second.startswith(f"  {complaint}")


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        pytest.param(
            ("d.csv", b"PK\x03\x04rest"), "is a workbook or another zip archive, not a list; save it", id="xlsx"
        ),
        pytest.param(("d.csv", b"\xd0\xcf\x11\xe0rest"), "is an Excel workbook, not a list; save it", id="xls"),
        pytest.param(
            ("d.txt", b"SQLite format 3\x00"), "is an SQLite database, not a list; is it the ledger?", id="ledger"
        ),
        pytest.param(
            ("d.txt", b"\x00" * (3 << 20)), "is not text, or is UTF-16 without a byte order mark", id="no text"
        ),
        pytest.param(
            ("d.txt", "a\nb\n".encode("utf-16-le")), "is not text, or is UTF-16 without", id="UTF-16, no mark"
        ),
        pytest.param(("d.txt", b"\xff\xfea\x00\n\x00b"), "is not valid UTF-16: truncated data", id="damaged UTF-16"),
        pytest.param(("d.gz", gzip.compress(b"a\nb\n" * 99)[:-9]), "is damaged: ", id="cut gzip"),
        pytest.param(("d.gz", gzip.compress(b"a\nb\n")[:-8] + b"12345678"), "is damaged: CRC check", id="damaged gzip"),
        pytest.param(("d.gz", gzip.compress(b"PK\x03\x04rest")), "is a workbook or another zip", id="gzipped xlsx"),
        pytest.param(("d.gz", gzip.compress(gzip.compress(b"a\n"))), "is compressed twice; unpack it", id="gzip twice"),
        pytest.param(("d.csv", b"PK\x05\x06" + bytes(18)), "is an empty workbook or zip archive", id="empty zip"),
        pytest.param(("d.csv", b"7z\xbc\xaf\x27\x1c"), "is a 7-Zip archive; unpack it", id="7z"),
        pytest.param(("d.csv", b"Rar!\x1a\x07\x00"), "is a RAR archive; unpack it", id="rar"),
        pytest.param(("d.txt", b"{\\rtf1 a}"), "is a document in Rich Text, not a list", id="rtf"),
        *(
            pytest.param(("d.xls", text), "is HTML or XML, not a list, whatever its name; save it as", id=text)
            for text in ("<!DOCTYPE html>", "<?xml version='1.0'?>", "<HTML><body>", "<table><tr><td>")
        ),
    ],
    indirect=["file"],
)
def test_another_kind_of_file_is_named(file: Path, complaint: str) -> None:
    """What is no list at all is reported with what it is and what to do."""
    with pytest.raises(ConfigurationError) as caught:
        read(file)

    assert str(caught.value).startswith(f"{file} {complaint}")


@pytest.mark.parametrize(
    ("file", "column", "complaint"),
    [
        pytest.param(("d.csv", "a,b\n1,2\n"), "c", "line 1: has no column 'c'; it has 'a', 'b'", id="CSV"),
        pytest.param(("d.csv", "c,C\n1,2\n"), "c", "line 1: has 2 columns that are called c", id="twice"),
        pytest.param(("d.jsonl", '{"a": "1"}\n'), "c", "line 1: has no c that is a string", id="JSON"),
    ],
    indirect=["file"],
)
def test_a_column_that_is_not_there(file: Path, column: str, complaint: str) -> None:
    """A column that is named has to exist, once."""
    with (
        pytest.raises(ConfigurationError, match=re.escape(f"\n  {complaint}")),
        read_debits(str(file), column=column),
    ):
        pass


def test_a_large_array_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JSON array that is too large is refused with the command that splits it."""
    monkeypatch.setattr(module, "_MAX_ARRAY", 8)
    path = tmp_path / "d.json"
    path.write_text('[\n"aaaaaaaa",\n"b"]')

    with pytest.raises(ConfigurationError, match=r"line 1: begins a JSON array that is too large; .*jq -c"):
        read(path)


def test_ids_that_differ_are_no_spellings(tmp_path: Path) -> None:
    """Upper case alone is no fault, and a long number that is given once neither."""
    path = tmp_path / "d.txt"
    path.write_text("AbC\nAbD\n1234567890123450\n")

    assert read(path) == ["AbC", "AbD", "1234567890123450"]


def test_ten_bad_lines_are_shown(tmp_path: Path) -> None:
    """Of many bad lines ten are shown, and their number."""
    path = tmp_path / "d.txt"
    path.write_text("a\nb/\n" * 1_212)

    with pytest.raises(ConfigurationError) as caught:
        read(path)

    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 1,212 lines are not valid; nothing was sent"
    assert [line.split(":")[0] for line in lines[1:11]] == [f"  line {number}" for number in range(2, 22, 2)]
    assert lines[11:] == ["  and 1,202 more"]


@pytest.mark.parametrize(
    "content", [pytest.param("", id="empty"), pytest.param("# none\n\n", id="comments"), pytest.param("debit_id\n")]
)
def test_a_file_without_debits(tmp_path: Path, content: str) -> None:
    """A list without a debit is most likely a mistake, and refused."""
    path = tmp_path / "d.txt"
    path.write_text(content)

    with pytest.raises(ConfigurationError, match=r"d\.txt holds no debit ids; nothing was sent$"):
        read(path)


def test_what_can_not_be_read(tmp_path: Path) -> None:
    """A file that does not exist, or is a directory, is reported in one line."""
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
    """- reads stdin; on a terminal a message asks for input."""
    stdin = io.TextIOWrapper(io.BytesIO(b"a\nb\n"))
    monkeypatch.setattr(stdin, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stdin)

    assert read("-") == ["a", "b"]
    assert ("Ctrl-D" in capsys.readouterr().err) == terminal


def test_bad_lines_of_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad line that was piped is named as stdin's."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a/\n")))

    with pytest.raises(ConfigurationError, match=r"^stdin: a line is not valid"):
        read("-")


def test_no_room_for_the_list() -> None:
    """A full temporary directory is reported with what to do."""
    with Debits() as debits:
        debits._store.execute("PRAGMA max_page_count=3")

        with pytest.raises(ConfigurationError, match=r"does not fit into the temporary directory .*; set TMPDIR"):
            debits.add((number, f"debit_{number}", None) for number in range(10_000))


def test_the_last_line_of_a_long_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is read in pieces is one line, and those after it keep their numbers."""
    monkeypatch.setattr(module, "_MAX_LINE", 12)
    path = tmp_path / "d.csv"
    path.write_text("debit_id,x\na,12345678901234567890\nb/,1\n")

    with pytest.raises(ConfigurationError, match="line 3: 'b/' is not an id"):
        read(path)


@pytest.mark.endurance
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it holds the peak of one process alone")
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
