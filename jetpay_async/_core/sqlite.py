"""SQLite, as the ledger and the inbox use it: durable commits, one file under one name, tables of a known version.

A commit is on the disk when it returns: a write-ahead log with ``synchronous=FULL``. NORMAL may lose the last commits
on a power cut.

SQLite finds the log, and its locks in shared memory, by the name of the database. So a database that has two names (a
hard link, or a file that is mounted by itself into a container) has two logs, and each side misses what the other one
commits; and one that is moved or removed while it is open takes commits that nobody will read. `FileIdentity` is there
to notice both. It never opens the database: when a process closes any descriptor of a file, POSIX drops all locks that
the process holds on it, and SQLite's are among them. ``O_PATH`` descriptors are exempt.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import attrs

from jetpay_async._core.migrations import Migrations
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

_T = TypeVar("_T")

IN_MEMORY = ":memory:"

_RETRY_SECONDS = 0.005
"""Between two tries of what SQLite itself does not wait for."""

_PRIVATE = 0o600
"""The mode of a database that is made here; SQLite gives it to the log and the shared memory too."""


# --- opening ----------------------------------------------------------------------------------------------------------


def check_path(name: str, path: str | os.PathLike[str]) -> str:
    """Return the path of a file that a user gave, or refuse what can't be one.

    Raises:
        ConfigurationError: It is no string, is empty, or has a character that no file name can have.
    """
    plain = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(plain, str) or not plain:
        raise ConfigurationError(f"{name}: is the path of a file")
    try:
        usable = b"\0" not in os.fsencode(plain)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise ConfigurationError(f"{name}: {plain!r} has a character that no file name can have")
    return plain


def connect(path: str | os.PathLike[str], *, busy_timeout: float, check_same_thread: bool = True) -> sqlite3.Connection:
    """Open a database, or make it, readable by its owner alone. It touches nothing of one that exists.

    Args:
        path: The file, or `IN_MEMORY`.
        busy_timeout: Seconds to wait for the locks of other connections.
        check_same_thread: Whether the connection may be used in this thread alone.

    Raises:
        sqlite3.Error: It can't be opened.
        OSError: The same.
        FileIdentityError: The file has another name, under which others may use it.
    """
    file = None if path == IN_MEMORY else Path(path)
    made = file is not None and not file.exists()
    if file is not None and not made:
        refuse_second_name(file)
    connection = sqlite3.connect(path, isolation_level=None, timeout=busy_timeout, check_same_thread=check_same_thread)
    if file is not None and made:
        try:
            # Before anything is in it.
            file.chmod(_PRIVATE)
        except OSError:
            connection.close()
            raise
    return connection


def make_durable(connection: sqlite3.Connection, *, within: float) -> bool:
    """Have each commit wait for the disk, and write to a log ahead of the database.

    Args:
        connection: The connection, outside of a transaction.
        within: Seconds to wait for other connections.

    Returns:
        Whether there is a log: in memory, and on some network file systems, there can be none.

    Raises:
        sqlite3.Error: The database can't be written.
    """
    mode = _patiently(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchone()[0], within)
    connection.execute("PRAGMA synchronous=FULL")
    return bool(mode == "wal")


def _patiently(step: Callable[[], _T], within: float) -> _T:
    # SQLite's own waiting doesn't cover the change to a log, which all try that open a new database at the same moment.
    deadline = time.monotonic() + within
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_SECONDS)


# --- which file -------------------------------------------------------------------------------------------------------


class FileIdentityError(Exception):
    """The database can't be used, since others may know it under another name, or this process under a wrong one."""


def refuse_second_name(path: Path) -> None:
    """Refuse a database that has another name.

    Args:
        path: The file, which exists; what is no file can't be opened anyway.

    Raises:
        FileIdentityError: It has hard links, or is a mount point.
        OSError: The file, or its directory, can't be looked up.
    """
    real = path.resolve()
    status = real.stat()
    if not stat.S_ISREG(status.st_mode):
        return
    if status.st_nlink != 1:
        raise FileIdentityError(
            f"{path} has {status.st_nlink} names (hard links), and each of them would have a log of its own: "
            "remove the others, or copy the file"
        )
    if is_mount_point(real):
        raise FileIdentityError(
            f"{path} is mounted by itself, without the log beside it: mount its directory instead of the file"
        )


def is_mount_point(path: Path) -> bool:
    """Say whether a file is mounted by itself; False where the system has no such mounts, or does not show them."""
    # Not by st_dev, as os.path.ismount() does: a bind mount within a file system has the one of its directory, and
    # in an overlay a file may differ from its directory though it is no mount.
    return _mount_id(path) != _mount_id(path.parent)


def _mount_id(path: Path) -> str | None:
    if sys.platform != "linux":
        return None
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):  # no /proc
            for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="utf-8").splitlines():
                if line.startswith("mnt_id:"):
                    return line
    finally:
        os.close(descriptor)
    return None


@attrs.frozen
class FileIdentity:
    """The files that a connection writes to: the database, its log, and their shared memory."""

    inodes: Mapping[str, tuple[int, int]]
    """By path."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look up the files of a connection that has a log, and has read or written in this database.

        Raises:
            OSError: They are not there.
        """
        real = path.resolve()
        # The locks of SQLite are in the shared memory: whoever opens the database after that was removed has others.
        files = (real, *(real.with_name(f"{real.name}{ending}") for ending in ("-wal", "-shm")))
        return cls({str(file): inode(str(file)) for file in files})

    def check(self) -> None:
        """Check that the files are still where they were.

        Raises:
            FileIdentityError: One was moved, removed or replaced.
        """
        for path, known in self.inodes.items():
            try:
                found = inode(path)
            except OSError as error:
                raise FileIdentityError(
                    f"{path} was moved or removed while it was open ({error.strerror}): put it back, and run the same "
                    "again"
                ) from error
            if found != known:
                raise FileIdentityError(
                    f"{path} was replaced by another file while it was open: put the old one back, and run the same "
                    "again"
                )


def inode(path: str) -> tuple[int, int]:
    """Return what tells a file from any other, as long as it is open somewhere."""
    # Asked for at each commit, of three files: a `Path` takes twice the time.
    status = os.stat(path)  # noqa: PTH116 - as it says
    return status.st_dev, status.st_ino


# --- which tables -----------------------------------------------------------------------------------------------------

Step: TypeAlias = tuple[int, Sequence[str]]
"""A version, and the statements that lead to it."""


@attrs.frozen
class SqliteSchema:
    """The tables of a database, made or brought up to date."""

    table: str
    """The table whose column ``version`` says which version the tables have."""
    create: Sequence[str]
    """The statements that make the current version, in a database that has none."""
    migrations: Migrations
    """Each step sets ``version`` too."""

    def version(self, connection: sqlite3.Connection) -> int | None:
        """Return the version of the tables; None if there are none.

        Raises:
            sqlite3.Error: The database can't be read.
        """
        found = connection.execute(
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (self.table,)
        ).fetchone()
        if found is None:
            return None
        version: int | None = connection.execute(f"SELECT max(version) FROM {self.table}").fetchone()[0]  # noqa: S608 - ours
        return version

    def pending(self, connection: sqlite3.Connection) -> Sequence[Step] | None:
        """Return the steps that the tables still need; None if there are no tables.

        Raises:
            NewerSchemaError: A newer release wrote them.
            sqlite3.Error: The database can't be read.
        """
        version = self.version(connection)
        return None if version is None else tuple(self.migrations.after(version))

    def install(
        self, connection: sqlite3.Connection, *, before_migrating: Callable[[Sequence[Step]], None] | None = None
    ) -> None:
        """Make the tables, or bring them up to date, within the transaction that is open and keeps others out.

        Args:
            connection: The connection, after ``BEGIN IMMEDIATE``.
            before_migrating: Called with the steps if there are any; may raise, if it is not the time.

        Raises:
            NewerSchemaError: A newer release wrote them.
            sqlite3.Error: The database can't be written.
        """
        pending = self.pending(connection)
        if pending is None:
            for statement in self.create:
                connection.execute(statement)
            return
        if pending and before_migrating is not None:
            before_migrating(pending)
        for _, statements in pending:
            for statement in statements:
                connection.execute(statement)


# --- errors -----------------------------------------------------------------------------------------------------------

Reason: TypeAlias = Literal["locked", "readonly", "full", "damaged", "unavailable"]


@attrs.frozen
class Explanation:
    """What an error means."""

    reason: Reason
    advice: str
    """What to do, as a part of a sentence."""


_LOCKED = Explanation("locked", "another process holds it: end that process's transaction")

_EXPLANATIONS = {
    sqlite3.SQLITE_READONLY_DBMOVED: Explanation(
        "unavailable", "it was moved or removed while it was open: put it back"
    ),
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_FULL: Explanation("full", "the disk is full: make room"),
    sqlite3.SQLITE_READONLY: Explanation(
        "readonly", "it can't be written: check the permissions of the file and of its directory"
    ),
    sqlite3.SQLITE_CORRUPT: Explanation("damaged", "it is damaged: keep the file, and restore a copy"),
    sqlite3.SQLITE_NOTADB: Explanation("damaged", "it is no SQLite database, or damaged: check the path"),
    sqlite3.SQLITE_CANTOPEN: Explanation(
        "unavailable", "it can't be opened: check that the directory exists and can be written"
    ),
    sqlite3.SQLITE_IOERR: Explanation("unavailable", "the disk does not work as it should: check it"),
}

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def explain(error: sqlite3.Error | OSError) -> Explanation | None:
    """Say what an error of SQLite, or of the file system, means and what to do; None if it is a rare one."""
    if isinstance(error, OSError):
        return _EXPLANATIONS[sqlite3.SQLITE_FULL if error.errno in _NO_SPACE else sqlite3.SQLITE_CANTOPEN]
    return _EXPLANATIONS.get(_code(error)) or _EXPLANATIONS.get(_primary_code(error))


def _code(error: sqlite3.Error) -> int:
    # Errors of the module itself have none.
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR))


def _primary_code(error: sqlite3.Error) -> int:
    # The low byte is the primary code; the rest separates its kinds.
    return _code(error) & 0xFF
