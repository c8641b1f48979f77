"""Whether this process is a forked child of the one that opened something.

Sockets, threads, locks and SQLite connections do not survive a fork: the child shares them with its parent, and using
or closing them there breaks the parent's. The operating system does not say that a fork happened, and asking for the
process id at each call costs a system call; so the forks are counted, in the child, as they happen.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ForkGuard:
    """Says whether the process was forked since this was made.

    Make one when the resource is opened, not when the object that will open it is made: a client that is made at
    import time and first used in each worker is fine.
    """

    __slots__ = ("_generation",)

    def __init__(self) -> None:
        self._generation = _generation

    @property
    def forked(self) -> bool:
        """Whether this process is a child, at any distance, of the one that made the guard."""
        return self._generation != _generation


def after_fork_in_child(release: Callable[[], None]) -> None:
    """Have a function called in each forked child, for the life of the process: for what a child must let go of.

    Args:
        release: Must not fail and must not take locks: other threads of the parent may have held them. Functions run in
            the order in which they were given.
    """
    if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has none, and does not fork
        os.register_at_fork(after_in_child=release)


def keep_for_parent(resource: object) -> None:
    """Keep the parent's resource from the child's garbage collector, which would close it for both."""
    _kept.append(resource)


_generation = 0
"""How many forks lie between the process that imported this module and the one that runs it."""

_kept: list[object] = []


def _count_fork() -> None:
    global _generation  # noqa: PLW0603 - one process, one number
    _generation += 1


after_fork_in_child(_count_fork)
