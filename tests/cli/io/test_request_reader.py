"""Lists of preauthorizations: read from each form, and refused by line where a column may have shifted or is odd."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from jetpay_async import ConfigurationError, PreauthorizationRequest
from jetpay_async._cli.io import request_reader
from jetpay_async._cli.io.request_reader import Requests, read_requests

HEADER = "reference,contact,card,amount,to_account,statement"
ROW = "b1,contact_1,card_1,100.50,bank_1,Two nights"

FIRST = PreauthorizationRequest(
    reference="b1",
    contact_id="contact_1",
    credit_card_id="card_1",
    amount="100.50",
    to_bank_account_id="bank_1",
    statement="Two nights",
)

ITEM = {
    "reference": "b1",
    "contact": "contact_1",
    "card": "card_1",
    "amount": "100.50",
    "to_account": "bank_1",
    "statement": "Two nights",
}


def written(tmp_path: Path, content: str, name: str = "bookings.csv") -> str:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        pytest.param("b.csv", f"{HEADER}\n{ROW}\n", "CSV, column 1 of 6, comma-separated", id="CSV"),
        pytest.param(
            "b.csv", f"\n{HEADER};x\n{ROW};y\n".replace(",", ";"), "column 1 of 7, semicolon", id="semicolons"
        ),
        pytest.param(
            "b.txt",
            "Statement\tTo Bank Account ID\tAmount\tCredit-card-ID\tContact ID\tReference\n"
            "Two nights\tbank_1\t100.5\tcard_1\tcontact_1\tb1\n",
            "column 6 of 6, tab-separated",
            id="other spellings",
        ),
        pytest.param("b.jsonl", json.dumps(ITEM), "JSON lines, reference", id="JSON lines"),
        pytest.param("b.jsonl", json.dumps({**ITEM, "amount": 100.5}), "JSON lines, reference", id="a number"),
        pytest.param("b.json", json.dumps([ITEM]), "a JSON array, reference", id="array"),
    ],
)
def test_every_form_is_read(tmp_path: Path, name: str, content: str, form: str) -> None:
    """CSV with any usual delimiter, in any order and spelling of the columns, JSON lines and JSON arrays."""
    with read_requests(written(tmp_path, content, name)) as requests:
        assert list(requests) == list(requests.distinct()) == [FIRST]
        assert form in requests.form
        assert (requests.given, requests.total, requests.amount, requests.ends) == (
            1,
            1,
            Decimal("100.50"),
            ("b1",) * 2,
        )


def test_further_columns_are_kept(tmp_path: Path) -> None:
    """What else the list has on a reference can be written beside its outcome."""
    with read_requests(written(tmp_path, f"{HEADER},guest\n{ROW},Ann\n")) as requests:
        assert requests.columns == ("guest",)
        assert requests.cells("b1") == {"guest": "Ann"}
        assert requests.cells("b2") == {}


def test_a_repeated_request_is_one(tmp_path: Path) -> None:
    """The same reference with the same values, however the amount is written, is one payment."""
    with read_requests(written(tmp_path, f"{HEADER}\n{ROW}\n{ROW.replace('100.50', '100.5')}\n")) as requests:
        assert (requests.given, requests.total, len(list(requests.distinct()))) == (2, 1, 1)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        pytest.param(["b1,contact_1,card_1,1,000,bank_1,Stay"], "has 7 cells where the first line has 6", id="shifted"),
        pytest.param(["b1,contact_1,card_1,100.50"], "has 4 cells where the first line has 6", id="short"),
        pytest.param([HEADER], "'reference' repeats the header", id="header again"),
        pytest.param(["Total,x,y,100.50,z,Stay"], "'Total' is a total", id="total"),
        pytest.param([",c,d,100.50,b,Stay"], "has no reference", id="no reference"),
        pytest.param(["b1,c,d,,b,Stay"], "has no amount", id="no amount"),
        pytest.param(["b1,NULL,d,1,b,Stay"], "contact: 'NULL' stands for an empty cell", id="placeholder"),
        pytest.param(
            ["b1,1.23457E+15,d,1,b,Stay"], "contact: '1.23457E\\+15' is a number that a spreadsheet", id="rounded"
        ),
        pytest.param(["4711.0,c,d,1,b,Stay"], "'4711.0' is an id that was converted to a number", id="float"),
        pytest.param(["b\u200b1,c,d,1,b,Stay"], "invisible", id="invisible"),
        pytest.param(["b1,c\u00a0x,d,1,b,Stay"], "contact: .* invisible", id="invisible contact"),
        pytest.param(["b1,c,d,1.005,b,Stay"], "amount", id="three decimals"),
        pytest.param(["b1,c,d,-5,b,Stay"], "amount", id="negative"),
        pytest.param([f"b1,c,d,1,b,{'x' * 31}"], "statement", id="long statement"),
        pytest.param([f"{'x' * 256},c,d,1,b,Stay"], "reference: is a printable str", id="long reference"),
        pytest.param([ROW, ROW.replace("100.50", "90")], "'b1' is given before with other values", id="other amount"),
        pytest.param(
            ["1234567890123450,c,d,1,b,Stay"] * 2, "ends in zeros after its fifteenth digit", id="rounded twice"
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, rows: list[str], complaint: str) -> None:
    """What may be wrong is refused by its line, before anything is sent."""
    source = written(tmp_path, "\n".join([HEADER, *rows]))
    with pytest.raises(ConfigurationError, match=rf"nothing was sent\n  line {len(rows) + 1}: .*{complaint}"):
        with read_requests(source):
            pass


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("b.csv", f"{HEADER},Amount\n{ROW},7\n", "line 1: has 2 columns for amount; there must be one"),
        ("b.csv", f"{HEADER},contact_id\n{ROW},7\n", "line 1: has 2 columns for contact; there must be one"),
        ("b.csv", "reference,contact\nb1,c\n", "line 1: has no column for card; there must be one"),
        ("b.csv", f"{ROW}\n", "line 1: has no column 'reference'"),
        ("b.txt", "b1\nb2\n", "line 1: has no column 'reference'"),
        ("b.json", json.dumps([{**ITEM, "amount": True}]), "item 1: amount: is not a text"),
        ("b.json", json.dumps([{**ITEM, "card": 5}]), "item 1: card: is not a text"),
        ("b.json", json.dumps(["b1"]), "item 1: is no JSON object with a reference"),
        ("b.json", json.dumps([{"reference": "b1"}]), "item 1: has no key for contact"),
        ("b.json", json.dumps([{**ITEM, "Amount": "7"}]), "item 1: has 2 keys for amount"),
        ("b.csv", "", "holds no preauthorizations"),
        ("b.csv", f"{HEADER}\n", "holds no preauthorizations"),
    ],
)
def test_a_list_without_its_columns(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    """Each column must be there once; a JSON value is a text, or an exact amount."""
    with pytest.raises(ConfigurationError, match=complaint):
        with read_requests(written(tmp_path, content, name)):
            pass


def test_ten_bad_lines_are_shown(tmp_path: Path) -> None:
    """And how many there are."""
    rows = [f"b{number},c,d,0.001,b,Stay" for number in range(12)]
    with pytest.raises(ConfigurationError, match=r"12 lines are not valid(.|\n)*  and 2 more"):
        with read_requests(written(tmp_path, "\n".join([HEADER, *rows]))):
            pass


def test_no_room_for_the_list() -> None:
    """A full temporary directory is an error that says what to do."""
    with Requests() as requests:
        requests._store.execute("PRAGMA max_page_count=2")
        with pytest.raises(ConfigurationError, match="set TMPDIR"):
            requests.add((f"b{number}", number, {"x": "y" * 100}, {}) for number in range(1000))


def test_the_columns_are_those_of_the_api() -> None:
    """Each argument of a preauthorization has its column."""
    assert {*request_reader.COLUMNS, "reference"} == {field.name for field in PreauthorizationRequest.__attrs_attrs__}
