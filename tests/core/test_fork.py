"""Whether this process was forked since something was opened."""

from __future__ import annotations

import gc
import os
import warnings
import weakref

import pytest

from jetpay_async._core import fork
from jetpay_async._core.fork import ForkGuard, after_fork_in_child, keep_for_parent

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


@pytest.fixture
def generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the forks of a test from zero, and forget them after it."""
    monkeypatch.setattr(fork, "_generation", 0)


def test_a_guard_that_is_made_after_a_fork_is_not_forked(generation: None) -> None:
    """A guard speaks of the forks since it was made, at any distance, and of no others."""
    first = ForkGuard()
    assert not first.forked
    fork._count_fork()
    second = ForkGuard()
    assert (first.forked, second.forked) == (True, False)
    fork._count_fork()

    assert (first.forked, second.forked) == (True, True)


def _exit_status_of_child(run: object) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest may have threads
        child = os.fork()
    if child == 0:  # pragma: no cover - in a forked child
        os._exit(0 if callable(run) and run() else 1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@needs_fork
def test_a_fork_is_seen_in_the_child_alone() -> None:
    """The child of a real fork knows that it is one; the parent does not change."""
    guard = ForkGuard()

    assert _exit_status_of_child(lambda: guard.forked and not ForkGuard().forked) == 0
    assert not guard.forked


@needs_fork
def test_what_a_child_must_let_go_of_is_released_there() -> None:
    """A registered function runs in each child, and never in the parent."""
    released: list[int] = []
    after_fork_in_child(lambda: released.append(os.getpid()))

    assert _exit_status_of_child(lambda: released == [os.getpid()]) == 0
    assert released == []


def test_a_resource_of_the_parent_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for the parent is not finalized in the child."""
    monkeypatch.setattr(fork, "_kept", [])

    class Resource:
        pass

    resource = Resource()
    seen = weakref.ref(resource)
    keep_for_parent(resource)
    del resource
    gc.collect()

    assert seen() is not None
