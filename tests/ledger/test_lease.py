"""The registration of an owner: when it is renewed, until when requests may leave, and what ends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from jetpay_async._core.clock import Clock
from jetpay_async.ledger import LedgerError, _owner_lock
from jetpay_async.ledger._backend import CommitExecutor
from jetpay_async.ledger._lease import OwnerLease
from jetpay_async.ledger._owner_lock import OwnerLock, is_released

OWNER = 7
LEASE_SECONDS = 10.0


@attrs.define(slots=False)
class FakeLedger:
    """A ledger that carries units of work out at once, and counts what its owners do."""

    alive: bool = True
    """What a renewal returns."""
    done: list[str] = attrs.Factory(list)
    monotonic: float = 100.0
    wall: float = 1_800_000_000.0

    async def run(self, operation: Any, *, writes: bool = True, last: bool = False) -> Any:
        return operation(self)

    def register(self, lease: float) -> int:
        self.done.append(f"register {lease:g}")
        return OWNER

    def renew(self, owner: int, lease: float) -> bool:
        self.done.append(f"renew {owner} {lease:g}")
        return self.alive

    def leave(self, owner: int) -> None:
        self.done.append(f"leave {owner}")

    def let_pass(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds

    async def register_owner(self, *, lapses: bool) -> OwnerLease:
        clock = Clock(monotonic=lambda: self.monotonic, time=lambda: self.wall)
        lease = OwnerLease(cast("CommitExecutor", self), LEASE_SECONDS, clock, lapses=lapses)
        await lease.take()
        assert lease.owner == OWNER
        self.done.clear()
        return lease


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


@pytest.mark.asyncio
async def test_a_lease_is_renewed_four_times_before_it_runs_out(ledger: FakeLedger) -> None:
    """A quarter of the lease is the time between two renewals; before it has passed there is nothing to do."""
    lease = await ledger.register_owner(lapses=True)

    for _ in range(8):
        ledger.let_pass(LEASE_SECONDS / 8)
        await lease.keep()

    assert ledger.done == ["renew 7 10"] * 4


@pytest.mark.asyncio
async def test_an_owner_that_can_not_lapse_is_asked_for_each_time(ledger: FakeLedger) -> None:
    """Where a lock shows that an owner is alive, it is checked with each look that the ledger still names it."""
    lease = await ledger.register_owner(lapses=False)

    await lease.keep()
    await lease.keep()

    assert ledger.done == ["renew 7 10"] * 2
    assert lease.pre_send_check is None


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("lapses", "said"),
    [
        (True, "did not renew its lease of 10 s in time: it was paused, or cut off from the ledger; others may go on"),
        (False, "another run took this one for ended, since its lock file was removed; others may go on"),
    ],
    ids=["lease", "lock"],
)
async def test_an_owner_that_was_removed_sends_nothing_more(ledger: FakeLedger, lapses: bool, said: str) -> None:
    """Once the ledger does not name an owner any more its run stops, with the reason and the next step."""
    lease = await ledger.register_owner(lapses=lapses)
    ledger.alive = False
    ledger.let_pass(LEASE_SECONDS)

    with pytest.raises(LedgerError, match=rf"{said} .*run the same again"):
        await lease.keep()


@pytest.mark.asyncio
@pytest.mark.parametrize(("seconds", "stopped"), [(7.9, False), (8.0, True), (60.0, True)])
async def test_requests_leave_in_four_fifths_of_a_lease(ledger: FakeLedger, seconds: float, stopped: bool) -> None:
    """A request is stopped well before another owner may take over its debit; a renewal lets requests leave again."""
    lease = await ledger.register_owner(lapses=True)
    assert lease.pre_send_check is not None
    ledger.let_pass(seconds)

    assert (lease.pre_send_check() is not None) is stopped
    await lease.keep()
    assert lease.pre_send_check() is None


@pytest.mark.asyncio
@pytest.mark.parametrize("clock", ["monotonic", "wall"])
async def test_the_faster_of_two_clocks_counts(ledger: FakeLedger, clock: str) -> None:
    """A clock that stood still, as one may while a machine is suspended, does not make a lease longer."""
    lease = await ledger.register_owner(lapses=True)
    setattr(ledger, clock, getattr(ledger, clock) + LEASE_SECONDS)

    assert lease.refusal() == "the lease on the debit had run out before anything left"


@pytest.mark.asyncio
async def test_the_time_of_a_renewal_counts_from_before_it(ledger: FakeLedger) -> None:
    """However long the ledger takes to renew, the lease began when it was asked."""
    lease = await ledger.register_owner(lapses=True)
    renew = ledger.renew

    def slowly(owner: int, lease: float) -> bool:
        ledger.let_pass(LEASE_SECONDS)
        return renew(owner, lease)

    ledger.renew = slowly  # type: ignore[method-assign] # that is the point
    ledger.let_pass(LEASE_SECONDS / 2)
    await lease.keep()

    assert lease.refusal() is not None


@pytest.mark.asyncio
async def test_leaving_removes_the_owner(ledger: FakeLedger) -> None:
    """An owner that ends takes itself out of the ledger."""
    lease = await ledger.register_owner(lapses=True)

    await lease.leave()

    assert ledger.done == ["leave 7"]


# --- the lock of an owner in a file -----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captures.db-owner-1"


@pytest.fixture
def lock(path: Path) -> Iterator[OwnerLock]:
    """A lock that this process holds."""
    lock = OwnerLock(path)
    yield lock
    lock.release()


def test_a_lock_is_held_until_it_is_released(path: Path, lock: OwnerLock) -> None:
    """While it is held others see it; after that neither lock nor file is there. Releasing it twice does nothing."""
    assert not is_released(path)

    lock.release()

    assert not path.exists()
    assert is_released(path)
    lock.release()


def test_a_lock_file_that_nobody_holds_is_released(path: Path, lock: OwnerLock) -> None:
    """What a killed process leaves behind is a file without a lock."""
    lock.forget()

    assert path.exists()
    assert is_released(path)


def test_a_lock_file_that_is_there_is_left_alone(path: Path, lock: OwnerLock) -> None:
    """Only a file that was removed or replaced is made again."""
    before = path.stat().st_ino

    lock.restore()

    assert path.stat().st_ino == before
    assert not is_released(path)


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "removed"])
def test_a_lock_file_that_is_gone_is_made_again(path: Path, lock: OwnerLock, replaced: bool) -> None:
    """A file under the same name is no lock of this owner until it is locked."""
    path.unlink()
    if replaced:
        path.touch()
    assert is_released(path)

    lock.restore()

    assert not is_released(path)


def open_files() -> int:
    """How many descriptors this process has open, where the system tells."""
    descriptors = Path("/proc/self/fd")
    return sum(1 for _ in descriptors.iterdir()) if descriptors.exists() else 0


def test_a_lock_that_another_holds_is_not_restored(path: Path, lock: OwnerLock) -> None:
    """A file of this name that another process has locked is an error, and leaves no descriptor open."""
    path.unlink()
    other = OwnerLock(path)
    before = open_files()

    with pytest.raises(BlockingIOError):
        lock.restore()

    assert open_files() == before
    other.release()


def test_a_forked_child_lets_go_of_its_parents_locks(
    path: Path, lock: OwnerLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child forgets them: closing the ledger there removes no file of the parent's, and restores none."""
    _owner_lock._forget_all()
    _owner_lock._forget_all()

    lock.restore()
    lock.release()

    assert path.exists()
    path.unlink()
