"""SQLite: durable commits, one file under one name, tables of a known version, errors in words."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jetpay_async import ConfigurationError
from jetpay_async._core import sqlite
from jetpay_async._core.migrations import Migrations, NewerSchemaError
from jetpay_async._core.sqlite import IN_MEMORY, FileIdentity, FileIdentityError, SqliteSchema, Step, check_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a new database with a log."""
    with closing(sqlite.connect(path, busy_timeout=1.0)) as connection:
        assert sqlite.make_durable(connection, within=1.0)
        connection.execute("CREATE TABLE things (number INTEGER)")
        yield connection


# --- opening ----------------------------------------------------------------------------------------------------------


def test_what_is_made_is_private(path: Path, connection: sqlite3.Connection) -> None:
    """A new database, its log and its shared memory can be read by their owner alone."""
    files = [path, path.with_name("some.db-wal"), path.with_name("some.db-shm")]

    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3


def test_the_mode_of_a_database_that_exists_is_kept(path: Path) -> None:
    """Whoever opened a database to a group wanted that."""
    path.touch()
    path.chmod(0o660)

    sqlite.connect(path, busy_timeout=1.0).close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_what_can_not_be_made_private_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database whose mode can't be set is not used, and not left open."""
    opened: list[sqlite3.Connection] = []
    open_database = sqlite3.connect

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(open_database(*arguments, **options))
        return opened[-1]

    def refuse(_: Path, mode: int) -> None:
        raise PermissionError(mode)

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(Path, "chmod", refuse)

    with pytest.raises(PermissionError):
        sqlite.connect(path, busy_timeout=1.0)

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_commits_wait_for_the_disk(connection: sqlite3.Connection) -> None:
    """The log is written ahead, and synchronous is FULL."""
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_database_in_memory_has_no_log() -> None:
    """In memory there is no file to look at, and no log."""
    with closing(sqlite.connect(IN_MEMORY, busy_timeout=0.0)) as connection:
        assert not sqlite.make_durable(connection, within=0.0)


class Busy:
    """A connection whose change to a log meets others a few times."""

    def __init__(self, times: int, code: int = sqlite3.SQLITE_BUSY) -> None:
        self.times = times
        self.code = code
        self.asked = 0

    def execute(self, statement: str) -> Busy:
        if "journal_mode" in statement:
            self.asked += 1
            if self.asked <= self.times:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = self.code
                raise error
        return self

    def fetchone(self) -> tuple[str]:
        return ("wal",)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeping moves on."""
    slept: list[float] = []
    monkeypatch.setattr("jetpay_async._core.sqlite.time.sleep", slept.append)
    monkeypatch.setattr("jetpay_async._core.sqlite.time.monotonic", lambda: sum(slept))
    return slept


def test_the_change_to_a_log_is_tried_again(no_waiting: list[float]) -> None:
    """Processes that open a new database at the same moment all get it: SQLite itself doesn't wait here."""
    busy = Busy(3)

    assert sqlite.make_durable(busy, within=1.0)  # type: ignore[arg-type] # a fake

    assert busy.asked == 4
    assert len(no_waiting) == 3


def test_the_change_to_a_log_is_given_up_in_time(no_waiting: list[float]) -> None:
    """A database that stays locked is an error, after as long as one is ready to wait."""
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite.make_durable(Busy(1000), within=0.1)  # type: ignore[arg-type] # a fake

    assert sum(no_waiting) == pytest.approx(0.1, abs=0.01)


def test_another_trouble_is_not_waited_for(no_waiting: list[float]) -> None:
    """Only what other connections are the reason of can pass by itself."""
    with pytest.raises(sqlite3.OperationalError):
        sqlite.make_durable(Busy(1, sqlite3.SQLITE_IOERR), within=1.0)  # type: ignore[arg-type] # a fake

    assert no_waiting == []


# --- which file -------------------------------------------------------------------------------------------------------


def test_a_hard_link_is_refused(path: Path, connection: sqlite3.Connection, tmp_path: Path) -> None:
    """A database with two names has two logs: neither name is used, until one is gone."""
    other = tmp_path / "other.db"
    os.link(path, other)

    for name in (path, other):
        with pytest.raises(FileIdentityError, match=r"has 2 names \(hard links\)"):
            sqlite.connect(name, busy_timeout=1.0)
    other.unlink()
    sqlite.connect(path, busy_timeout=1.0).close()


def test_a_directory_has_names_of_its_own(tmp_path: Path) -> None:
    """What is no file is refused by SQLite, in its words."""
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        sqlite.connect(tmp_path, busy_timeout=1.0)


def test_a_symbolic_link_is_followed(path: Path, connection: sqlite3.Connection, tmp_path: Path) -> None:
    """SQLite puts the log beside the file that the link leads to, so there is one."""
    link = tmp_path / "link.db"
    link.symlink_to(path)

    with closing(sqlite.connect(link, busy_timeout=1.0)) as other:
        other.execute("INSERT INTO things VALUES (1)")

    assert connection.execute("SELECT * FROM things").fetchall() == [(1,)]
    assert FileIdentity.of(link) == FileIdentity.of(path)


@pytest.fixture
def mounted(path: Path, connection: sqlite3.Connection, tmp_path: Path) -> Iterator[Path]:
    """The database mounted by itself at another place, as ``docker -v some.db:/app/some.db`` does."""
    place = tmp_path / "app" / "some.db"
    place.parent.mkdir()
    place.touch()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a file, on Linux")
    done = subprocess.run(["mount", "--bind", path, place], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"no mounts here: {done.stderr.decode()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_file_mounted_by_itself_is_refused(mounted: Path) -> None:
    """A database without the log beside it is refused, also when both places are in one file system."""
    assert mounted.stat().st_dev == mounted.parent.stat().st_dev

    with pytest.raises(FileIdentityError, match="mounted by itself, without the log beside it: mount its directory"):
        sqlite.connect(mounted, busy_timeout=1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts are told apart by /proc")
def test_a_mount_is_told_by_its_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on another mount than its directory is a mount point; the system's word is read from /proc."""
    path.touch()
    assert not sqlite.is_mount_point(path)
    numbers = {path: "mnt_id:\t7", path.parent: "mnt_id:\t8"}
    monkeypatch.setattr(sqlite, "_mount_id", numbers.get)

    assert sqlite.is_mount_point(path)


@pytest.mark.parametrize("said", [None, "pos:\t0\n"], ids=["no proc", "an old kernel"])
def test_where_mounts_are_not_told_files_are_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    """Where nothing says what is mounted, a database is used all the same."""
    path.touch()

    def read_text(file: Path, encoding: str) -> str:
        if said is None:
            raise FileNotFoundError(file)
        return said

    monkeypatch.setattr(Path, "read_text", read_text)

    assert not sqlite.is_mount_point(path)


def test_another_system_has_no_such_mounts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are mounted by themselves on Linux only."""
    monkeypatch.setattr(sys, "platform", "darwin")

    assert not sqlite.is_mount_point(path)


def test_a_file_that_stays_is_the_same(path: Path, connection: sqlite3.Connection) -> None:
    """Commits, other connections and checkpoints change neither the database's inode nor the log's."""
    identity = FileIdentity.of(path)

    connection.execute("INSERT INTO things VALUES (1)")
    sqlite.connect(path, busy_timeout=1.0).close()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("VACUUM")

    identity.check()


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"], ids=["database", "log", "shared memory"])
def test_a_file_that_is_removed_is_noticed(path: Path, connection: sqlite3.Connection, suffix: str) -> None:
    """What a connection commits after its file was removed is lost: that is an error."""
    identity = FileIdentity.of(path)
    path.with_name(path.name + suffix).unlink()

    with pytest.raises(FileIdentityError, match=rf"some\.db{suffix} was moved or removed .*No such file"):
        identity.check()


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"], ids=["database", "log", "shared memory"])
def test_a_file_that_is_replaced_is_noticed(path: Path, connection: sqlite3.Connection, suffix: str) -> None:
    """A restored copy under the same name is another file."""
    identity = FileIdentity.of(path)
    file = path.with_name(path.name + suffix)
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.replace(file)

    with pytest.raises(FileIdentityError, match=rf"some\.db{suffix} was replaced by another file"):
        identity.check()


def test_looking_up_a_file_keeps_its_locks(path: Path, connection: sqlite3.Connection) -> None:
    """The database is never opened beside SQLite: closing that descriptor would drop SQLite's locks."""
    identity = FileIdentity.of(path)
    connection.execute("BEGIN IMMEDIATE")

    identity.check()
    sqlite.refuse_second_name(path)

    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    said = subprocess.run([sys.executable, "-c", script, path], check=False, capture_output=True, text=True)
    assert "database is locked" in said.stderr
    connection.execute("ROLLBACK")


# --- which tables -----------------------------------------------------------------------------------------------------

V1 = ("CREATE TABLE shop (version INTEGER, name TEXT)", "INSERT INTO shop VALUES (1, 'old')")
V2 = ("ALTER TABLE shop ADD COLUMN city TEXT", "UPDATE shop SET version = 2")
V3 = ("UPDATE shop SET city = 'Cape Town', version = 3",)
SCHEMA = SqliteSchema(
    "shop",
    ("CREATE TABLE shop (version INTEGER, name TEXT, city TEXT)", "INSERT INTO shop VALUES (3, 'new', '')"),
    Migrations(3, {2: V2, 3: V3}),
)


def install(connection: sqlite3.Connection) -> list[int]:
    """Install the schema; return the versions of the steps that were announced."""
    announced: list[int] = []

    def announce(steps: object) -> None:
        assert isinstance(steps, tuple)
        announced.extend(version for version, _ in steps)

    connection.execute("BEGIN IMMEDIATE")
    SCHEMA.install(connection, before_migrating=announce)
    connection.execute("COMMIT")
    return announced


def test_a_new_database_gets_the_current_tables(connection: sqlite3.Connection) -> None:
    """Where there are no tables, the current ones are made at once; other tables don't matter."""
    assert SCHEMA.pending(connection) is None

    assert install(connection) == []

    assert connection.execute("SELECT * FROM shop").fetchall() == [(3, "new", "")]
    assert SCHEMA.pending(connection) == ()
    assert install(connection) == []


def test_older_tables_are_brought_up_to_date_step_by_step(connection: sqlite3.Connection) -> None:
    """Each step from the version that is there runs once, in order; data is kept."""
    for statement in V1:
        connection.execute(statement)

    assert install(connection) == [2, 3]

    assert connection.execute("SELECT * FROM shop").fetchall() == [(3, "old", "Cape Town")]
    assert install(connection) == []


def test_only_the_steps_that_are_missing_run(connection: sqlite3.Connection) -> None:
    """A database of the version before gets one step."""
    for statement in (*V1, *V2):
        connection.execute(statement)

    SCHEMA.install(connection)

    assert connection.execute("SELECT * FROM shop").fetchall() == [(3, "old", "Cape Town")]


def test_a_migration_may_be_put_off(connection: sqlite3.Connection) -> None:
    """An error of whoever is asked before leaves everything as it is."""
    for statement in V1:
        connection.execute(statement)

    def refuse(steps: object) -> None:
        raise LookupError("not now")

    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(LookupError):
        SCHEMA.install(connection, before_migrating=refuse)
    connection.execute("ROLLBACK")

    assert SCHEMA.version(connection) == 1


def test_newer_tables_are_refused(connection: sqlite3.Connection) -> None:
    """Tables of a newer release are left alone, and both versions are named."""
    for statement in (*V1, "UPDATE shop SET version = 9"):
        connection.execute(statement)

    with pytest.raises(NewerSchemaError, match=r"schema version 9, .* knows 3") as caught:
        SCHEMA.install(connection)

    assert (caught.value.found, caught.value.known) == (9, 3)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        (sqlite3.SQLITE_BUSY, "locked", "another process holds it"),
        (sqlite3.SQLITE_BUSY | (2 << 8), "locked", "another process holds it"),
        (sqlite3.SQLITE_LOCKED, "locked", "another process holds it"),
        (sqlite3.SQLITE_FULL, "full", "disk is full"),
        (sqlite3.SQLITE_READONLY, "readonly", "permissions"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "unavailable", "put it back"),
        (sqlite3.SQLITE_CORRUPT, "damaged", "restore a copy"),
        (sqlite3.SQLITE_NOTADB, "damaged", "check the path"),
        (sqlite3.SQLITE_CANTOPEN, "unavailable", "check that the directory exists"),
        (sqlite3.SQLITE_IOERR, "unavailable", "disk does not work"),
    ],
)
def test_an_error_of_sqlite_is_explained(code: int, reason: str, said: str) -> None:
    """Each kind of trouble has a reason and a next step, whatever the extended code."""
    error = sqlite3.OperationalError("trouble")
    error.sqlite_errorcode = code

    explanation = sqlite.explain(error)

    assert explanation is not None
    assert explanation.reason == reason
    assert said in explanation.advice


def test_an_error_of_the_file_system_is_explained() -> None:
    """A full disk is a full disk, whoever meets it; another error is of opening."""
    full, closed = sqlite.explain(OSError(errno.ENOSPC, "full")), sqlite.explain(PermissionError("no"))

    assert full is not None
    assert full.reason == "full"
    assert closed is not None
    assert closed.reason == "unavailable"


def test_a_rare_error_is_not_explained() -> None:
    """An error without a code, or with an unknown one, speaks for itself."""
    assert sqlite.explain(sqlite3.ProgrammingError("odd")) is None


def test_steps_are_numbered() -> None:
    """The steps after a version come with the version that they lead to."""
    steps: list[Step] = list(SCHEMA.migrations.after(1))

    assert steps == [(2, V2), (3, V3)]


class BytesPath(os.PathLike[bytes]):
    """A path as an operating system call returns it."""

    def __fspath__(self) -> bytes:
        return b"captures.db"


@pytest.mark.parametrize("path", ["captures\0.db", "\ud800.db"], ids=["NUL", "surrogate"])
def test_what_no_file_can_be_called_is_refused(path: str) -> None:
    """Before a thread opens it, with an error that names the argument."""
    with pytest.raises(ConfigurationError, match=r"^path: '.*' has a character that no file name can have$"):
        check_path("path", path)


@pytest.mark.parametrize("path", ["", b"captures.db", None, 5, BytesPath()], ids=lambda path: type(path).__name__)
def test_what_is_no_path_is_refused(path: Any) -> None:
    """A path is a string, or has one."""
    with pytest.raises(ConfigurationError, match=r"^path: is the path of a file$"):
        check_path("path", path)


def test_a_path_is_returned_as_a_string(tmp_path: Path) -> None:
    """Whatever characters its file system allows."""
    assert check_path("path", tmp_path / "été #1%20.db") == str(tmp_path / "été #1%20.db")
