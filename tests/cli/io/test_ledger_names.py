"""How a ledger is named: what is refused with the right spelling, and what a message shows of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jetpay_async._cli.io.ledger_names import command_line, without_password

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import CommandResult

pytestmark = pytest.mark.usefixtures("empty_directory")

DATABASE = "is not a path; write a database as a URL: postgresql://USER@HOST/DATABASE"
SCHEME = "is not a path; write the path of the file alone, without a scheme"


@pytest.mark.parametrize(
    ("ledger", "message"),
    [
        pytest.param("host=h password=sesame dbname=d", DATABASE, id="keywords"),
        pytest.param("  DBNAME = d password=sesame", DATABASE, id="keywords with spaces"),
        pytest.param("postgresql:h/sesame", DATABASE, id="no slashes"),
        pytest.param("postgresql+psycopg://me:sesame@h/d", DATABASE, id="SQLAlchemy"),
        pytest.param("jdbc:postgresql://h/d?password=sesame", DATABASE, id="JDBC"),
        pytest.param("me:sesame@h/d", DATABASE, id="a password without a scheme"),
        pytest.param("me:sesame@h", DATABASE, id="a password and a host"),
        pytest.param("db.example.com:5432/d", DATABASE, id="a host with a port"),
        pytest.param("db.example.com:5432", DATABASE, id="nothing but a host with a port"),
        pytest.param("postgresql//h/d", DATABASE, id="no colon"),
        pytest.param("sqlite:captures.db", SCHEME, id="sqlite:"),
        pytest.param("sqlite:///captures.db", SCHEME, id="sqlite:///"),
        pytest.param("file:captures.db?mode=rw", SCHEME, id="file:"),
        pytest.param(":memory:", "is the path of a file; one in memory would lose every outcome", id="memory"),
        pytest.param("mysql://me:sesame@h/d", "is the path of a file, or a postgresql:// URL; no other", id="MySQL"),
    ],
)
def test_what_is_no_ledger_is_refused(jetpay: Callable[..., CommandResult], ledger: str, message: str) -> None:
    """What is meant for a database becomes no file of that name, and its password is not shown."""
    Path("debits.txt").write_text("debit_1\n")

    run = jetpay("capture", "debits.txt", "--ledger", ledger, "--batch=n1", "--dry-run")

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith(f"jetpay: argument --ledger: {message}")
    assert "sesame" not in run.err
    assert [path.name for path in Path().iterdir()] == ["debits.txt"]


@pytest.mark.parametrize("ledger", ["hosts=2.db", "filed:x.db", "a=b.db", "postgres.db", "22:30.db", "a@b.db"])
def test_odd_paths_are_paths(jetpay: Callable[..., CommandResult], ledger: str) -> None:
    """A file may have an equals sign or a colon in its name."""
    Path("debits.txt").write_text("debit_1\n")

    run = jetpay("capture", "debits.txt", "--ledger", ledger, "--batch=n1", "--dry-run")

    assert run.status == 0


@pytest.mark.parametrize(
    ("ledger", "shown"),
    [
        pytest.param("c.db", "c.db", id="path"),
        pytest.param("a:b@c.db", "a:b@c.db", id="odd path"),
        pytest.param("postgresql://me@h/d", "postgresql://me@h/d", id="no password"),
        pytest.param("postgresql://me:sesame@h:5432/d", "postgresql://me:***@h:5432/d", id="password"),
        pytest.param("postgresql://:ses:ame@@h/d", "postgresql://:***@h/d", id="odd password"),
        pytest.param("postgresql://me@h/d?password=sesame&a=b", "postgresql://me@h/d?password=***&a=b", id="parameter"),
        pytest.param("postgresql:///d?a=b&sslpassword=sesame", "postgresql:///d?a=b&sslpassword=***", id="key"),
    ],
)
def test_passwords_are_not_shown(ledger: str, shown: str) -> None:
    """What a command line shows of a URL holds no password."""
    assert without_password(ledger) == shown


def test_a_command_can_be_pasted() -> None:
    """A batch with a space in its name is quoted; what is to be filled in is not."""
    assert command_line("capture FILE", "c d.db", "n 1") == "jetpay capture FILE --ledger 'c d.db' --batch 'n 1'"
