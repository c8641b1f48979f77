"""The lock on a file of its own that says that an owner of a ledger in SQLite is alive.

The kernel releases it when the process ends, however it ends. The file has a random name, which the ledger holds. All
of this is called in transactions that write, so that no two processes do it at the same time.
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import TYPE_CHECKING

from jetpay_async._core.fork import after_fork_in_child
from jetpay_async._core.sqlite import inode

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from pathlib import Path

_PRIVATE = 0o600
"""Another user can't hold an owner's lock in its stead."""


class OwnerLock:
    """A lock that this process holds.

    Raises:
        OSError: The file can't be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = str(path)
        self._descriptor: int | None = None
        self._open()
        _held.add(self)

    def restore(self) -> None:
        """Make the file again, and lock it, if somebody removed it.

        Raises:
            OSError: It can't be made, or another process holds its lock.
        """
        held = self._descriptor
        if held is None:
            return
        try:
            if inode(self._name) == self._inode:
                return
        except FileNotFoundError:
            pass
        self._open()
        os.close(held)

    def _open(self) -> None:
        self._descriptor = _open_locked(self._path)
        status = os.fstat(self._descriptor)
        # The file that is held keeps its number, so that `restore` need not ask for it at each commit.
        self._inode = (status.st_dev, status.st_ino)

    def release(self) -> None:
        """Remove the file and release its lock; in a forked child, which has let go of it, do nothing."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            self.forget()

    def forget(self) -> None:
        """Close the descriptor: a forked child that kept it would keep the lock when its parent dies."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def is_released(path: Path) -> bool:
    """Say whether nobody holds the lock on a file: its owner has ended, or somebody removed the file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _open_locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, _PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_held: weakref.WeakSet[OwnerLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in tuple(_held):
        lock.forget()


after_fork_in_child(_forget_all)
